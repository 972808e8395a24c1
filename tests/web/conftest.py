"""A page that is served from a process of its own, and a browser where the machine has one."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

SECONDS_TO_START = 120


def hear_interrupts() -> None:
    """End by an interrupt, which a shell hides from what it begins in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass(frozen=True)
class Served:
    """A page: its folder, its address with the token, its process, what it printed."""

    root: Path
    address: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def port(self) -> int:
        return int(self.address.split(":")[2].split("/")[0])

    @property
    def token(self) -> str:
        return self.address.partition("token=")[2]


@pytest.fixture(scope="session")
def serve() -> Iterator[Callable[[Path], Served]]:
    """Serve the page of a folder by the command line."""
    pytest.importorskip("panel", reason="needs the extra 'web'")
    with ExitStack() as stack:

        def begin(root: Path) -> Served:
            log = root.parent / f"{root.name}.page.log"
            environment = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
            with open(log, "wb") as output:
                process = subprocess.Popen(
                    [sys.executable, "-m", "phaseloom", "web", str(root), "--no-browser"],
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    preexec_fn=hear_interrupts,  # noqa: PLW1509  shells may ignore them
                )
            stack.callback(process.wait, 20)
            stack.callback(process.terminate)
            until = time.monotonic() + SECONDS_TO_START
            while time.monotonic() < until and process.poll() is None:
                line = next((one for one in log.read_text().splitlines() if one.startswith("page: ")), "")
                if line and log.read_text().count("\n") >= 2:
                    return Served(root, line.removeprefix("page: "), process, log)
                time.sleep(0.1)
            raise AssertionError(log.read_text())

        yield begin
