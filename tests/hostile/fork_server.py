"""A process that has imported everything, and forks for each case: `cli.main()` in 0.03 s, by itself.

The child has a folder, a time, a memory and (where a C compiler is) faults of its own, so nothing that a case
does reaches the next one. `ForkServer` is the client, which tests use; the file run by itself is the server.

Example:
    >>> with ForkServer() as server:  # doctest: +SKIP
    ...     outcome = server.run(["look", "missing.h5"], folder)
    >>> outcome.code, outcome.sentence  # doctest: +SKIP
    (2, 'phaseloom: missing.h5: does not exist: ...')
"""

import contextlib
import ctypes
import functools
import gc
import importlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Self

__all__ = ["FAULT_KINDS", "Case", "Fault", "ForkServer", "Outcome", "build_faults"]

FAULT_KINDS = {"write": 1, "fsync": 2, "rename": 4, "mkdir": 8, "create": 16}
"""Calls of the C library that can be made to fail, as `faults.c` numbers them; ftruncate is a ``write``."""

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Fault:
    """What happens to the n-th call that writes below a folder.

    Attributes:
        n: counted from 1; 0: nothing fails, calls are counted.
        kinds: of `FAULT_KINDS`, which are counted together.
        error: an ``errno``; ``None``: the process is killed instead.
        lasting: later calls fail too, as on a disk that stays full.
        folder: below which calls are counted; default: that of the case.
    """

    n: int = 0
    kinds: tuple[str, ...] = ("write",)
    error: int | None = None
    lasting: bool = False
    folder: str | None = None


@dataclass(frozen=True)
class Outcome:
    """How a case ended.

    Attributes:
        code: exit status; below zero: the signal that ended it.
        out, err: what it printed.
        seconds: wall time.
        memory: bytes at its peak beyond those of the server.
        timed_out: it was killed after its time.
        calls: that were counted for a `Fault`.
    """

    code: int
    out: str
    err: str
    seconds: float
    memory: int
    timed_out: bool
    calls: int

    @property
    def has_traceback(self) -> bool:
        """Whether a user saw a traceback."""
        return "Traceback (most recent call last)" in self.out + self.err

    @property
    def sentence(self) -> str:
        """The last line of what it complained about."""
        return self.err.strip().rpartition("\n")[2]


class Case:
    """A command under way; `wait` for its outcome, or send it a signal by its ``pid``."""

    def __init__(self, server: "ForkServer", pid: int):
        self.server = server
        self.pid = pid

    def wait(self) -> Outcome:
        """Its outcome, when it has ended or its time is over."""
        return Outcome(**self.server.ask({"wait": self.pid}))

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal, to the command and to what it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)


class ForkServer:
    """The client: starts the server on first use, and asks it to fork.

    Args:
        seconds: that a case may take.
        memory: bytes that a case may ask for beyond those of the server, before it gets a `MemoryError`.
        imports: modules beyond those of the package that cases need.
    """

    def __init__(
        self,
        *,
        seconds: float = 60.0,
        memory: int = 3 * 2**30,
        imports: Sequence[str] = (),
        faults: bool = True,
    ):
        self.seconds = seconds
        self.memory = memory
        self.imports = list(imports)
        self.faults = build_faults() if faults else None
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, argv: Sequence[object], folder: Path, /, **how: Any) -> Outcome:
        """One case from start to end; arguments as of `start`."""
        return self.start(argv, folder, **how).wait()

    def start(
        self,
        argv: Sequence[object],
        folder: Path,
        /,
        *,
        seconds: float | None = None,
        memory: int | None = None,
        environment: Mapping[str, str] | None = None,
        before: str = "",
        program: str = "",
        fault: Fault | None = None,
        whole_exit: bool = False,
    ) -> Case:
        """Start ``phaseloom`` with arguments in a folder, in a child of the server.

        Args:
            argv: of the command, without its name.
            folder: the working folder; it is made.
            seconds: that it may take, of wall time and of processor time.
            memory: bytes that it may ask for.
            environment: variables that are other.
            before: Python text that is run first, in the child.
            program: Python text that is run in place of the command.
            fault: what happens to its calls that write.
            whole_exit: end as Python does, destructors and all (0.1 s more), not at once.
        """
        if fault is not None and self.faults is None:
            raise RuntimeError("faults need a C compiler (cc)")
        folder.mkdir(parents=True, exist_ok=True)
        asked = {
            "argv": [str(one) for one in argv],
            "folder": str(folder),
            "seconds": self.seconds if seconds is None else seconds,
            "memory": self.memory if memory is None else memory,
            "environment": dict(environment or {}),
            "before": before,
            "program": program,
            "fault": None if fault is None else vars(fault),
            "whole_exit": whole_exit,
        }
        return Case(self, self.ask({"start": asked})["pid"])

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request to the server, which is started where it is not there; its answer."""
        if self.process is None:
            self.process = self._start_server()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the fork server ended with {self.process.wait()}")
        return json.loads(answer)

    def close(self) -> None:
        """End the server."""
        if self.process is not None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            self.process.wait(timeout=30)
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None

    def _start_server(self) -> "subprocess.Popen[str]":
        paths = [str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "OMP_NUM_THREADS": "1",
            "MPLBACKEND": "Agg",
        }
        if self.faults is not None:
            environment["LD_PRELOAD"] = str(self.faults)
        arguments = [sys.executable, __file__, str(self.faults or ""), *self.imports]
        pipe = subprocess.PIPE
        return subprocess.Popen(arguments, stdin=pipe, stdout=pipe, text=True, env=environment, cwd="/")


@functools.cache
def build_faults() -> Path | None:
    """The library that makes calls fail, compiled; ``None`` without a compiler or on another system."""
    import tempfile

    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        return None
    library = Path(tempfile.mkdtemp(prefix="phaseloom-faults-")) / "faults.so"
    source = str(Path(__file__).with_name("faults.c"))
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), source, "-ldl"], check=True)
    return library


def _import_everything(others: Sequence[str]) -> None:
    """Import the package, what it imports when used, and draw one figure, which finds the fonts."""
    import pkgutil

    import phaseloom

    lazy = (
        "optuna",
        "cmaes",
        "tifffile",
        "h5py",
        "scipy.ndimage",
        "scipy.signal",
        "safetensors.torch",
        "tqdm",
    )
    names = [one.name for one in pkgutil.walk_packages(phaseloom.__path__, "phaseloom.")]
    for name in [one for one in names if not one.endswith("__main__")] + [*lazy, *others]:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    import io

    from matplotlib import pyplot

    figure = pyplot.figure()
    figure.gca().set_title("fonts")
    figure.savefig(io.BytesIO(), format="png")
    pyplot.close(figure)


def _build_commands() -> None:
    """Do once what every command does: Typer builds all verbs anew, recipes look for plug-ins (0.1 s)."""
    import typer.main

    from phaseloom.cli import app
    from phaseloom.reconstruction.recipe import Reconstruct

    Reconstruct.of({"file": "none.h5"})

    typer.main.get_command = functools.cache(typer.main.get_command)
    typer.main.get_command(app)


class _Server:
    """The server's side: children by their process numbers."""

    def __init__(self, library: str):
        self.library = ctypes.CDLL(library) if library else None
        if self.library is not None:
            self.library.faults_count.restype = ctypes.c_long
        self.children: dict[int, dict[str, Any]] = {}

    def serve(self) -> None:
        """Answer requests until the client has gone; a child leaves by `SystemExit` or at once."""
        answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # whoever prints here must not spoil an answer
        for line in sys.stdin:
            request = json.loads(line)
            answer = self._start(request["start"]) if "start" in request else self._wait(request["wait"])
            answers.write(json.dumps(answer) + "\n")
            answers.flush()

    def _start(self, asked: dict[str, Any]) -> dict[str, int]:
        names = ("out", "err", "calls")
        files = {name: os.memfd_create(name) for name in names}
        pid = os.fork()
        if pid == 0:
            _Child(self.library, asked, files).run()
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(pid, pid)
        end = time.monotonic() + asked["seconds"]
        # pages of files, such as libraries, are no child's before it touches them
        began = {"began": time.monotonic(), "end": end, "resident": _read_status("RssAnon")}
        self.children[pid] = {"files": files, **began}
        return {"pid": pid}

    def _wait(self, pid: int) -> dict[str, Any]:
        child = self.children.pop(pid)
        status, usage, timed_out = _wait_until(pid, child["end"])
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # what it has started ends with it
        out, err, calls = (_read_all(child["files"][name]) for name in ("out", "err", "calls"))
        return {
            "code": os.waitstatus_to_exitcode(status),
            "out": out,
            "err": err,
            "seconds": time.monotonic() - child["began"],
            "memory": max(0, usage.ru_maxrss * 1024 - child["resident"]),
            "timed_out": timed_out,
            "calls": int(calls or 0),
        }


class _Child:
    """A case in its own process, which never returns to the server's loop."""

    def __init__(self, library: Any, asked: dict[str, Any], files: dict[str, int]):
        self.library = library
        self.asked = asked
        self.files = files

    def run(self) -> NoReturn:
        """Be the command."""
        os.setpgid(0, 0)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (self.files["out"], 1), (self.files["err"], 2)):
            os.dup2(source, target)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        sys.stdout, sys.stderr = (_open_text(file) for file in (1, 2))
        code = 1
        try:
            self._set_limits()
            code = self._run_command()
        except BaseException:
            traceback.print_exc()
        self._leave(code)

    def _set_limits(self) -> None:
        asked = self.asked
        os.chdir(asked["folder"])
        os.environ.update(asked["environment"])
        sys.argv = ["phaseloom", *asked["argv"]]
        seconds = int(asked["seconds"]) + 2
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        data = _read_status("VmData") + asked["memory"]
        resource.setrlimit(resource.RLIMIT_DATA, (data, data))
        fault = asked["fault"]
        if fault is not None:
            kinds = sum(FAULT_KINDS[name] for name in fault["kinds"])
            folder = os.fsencode(fault["folder"] or asked["folder"])
            self.library.faults_arm(folder, kinds, fault["n"], fault["error"] or 0, int(fault["lasting"]))

    def _run_command(self) -> int:
        """The exit code, as Python makes it of what was raised."""
        try:
            scope: dict[str, Any] = {"__name__": "__main__"}
            exec(self.asked["before"], scope)
            if self.asked["program"]:
                exec(self.asked["program"], scope)
                return 0
            from phaseloom.cli import main

            main()
        except SystemExit as end:
            if end.code is None or isinstance(end.code, int):
                return end.code or 0
            sys.stderr.write(f"{end.code}\n")
            return 1
        return 0

    def _leave(self, code: int) -> NoReturn:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        if self.asked["fault"] is not None:
            os.write(self.files["calls"], str(self.library.faults_count()).encode())
        if self.asked["whole_exit"]:
            sys.exit(code)
        os._exit(code)


def _open_text(file: int) -> Any:
    """A stream of text of an open file, as Python's own."""
    return open(file, "w", closefd=False, encoding="utf-8", errors="backslashreplace")


def _read_status(name: str) -> int:
    """Bytes of this process: ``VmData`` of data segments, ``VmRSS`` in memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


def _wait_until(pid: int, end: float) -> tuple[int, Any, bool]:
    """Status and usage of a child; it is killed when its time is over."""
    pause = 0.001
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            return status, usage, False
        if time.monotonic() > end:
            os.killpg(pid, signal.SIGKILL)
            _, status, usage = os.wait4(pid, 0)
            return status, usage, True
        time.sleep(pause)
        pause = min(0.02, 1.3 * pause)


def _read_all(file: int) -> str:
    size = os.fstat(file).st_size
    text = os.pread(file, size, 0).decode("utf-8", errors="backslashreplace")
    os.close(file)
    return text


def _serve() -> None:
    _import_everything(sys.argv[2:])
    _build_commands()
    gc.collect()
    gc.freeze()  # or every collection of a child would copy all pages
    _Server(sys.argv[1]).serve()


if __name__ == "__main__":
    _serve()
