"""Jobs of this machine: commands of ``phaseloom``, one at a time on each device, each a process of its own.

A job that has begun is a process that does not depend on the page: a page that ends leaves it running.
"""

import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from phaseloom.errors import BadInput

__all__ = ["JobQueue", "QueuedJob", "slurm_script"]

MAX_WAITING = 100
LINES_KEPT = 200


@dataclass
class QueuedJob:
    """A command that waits, runs or has ended.

    Attributes:
        number: of the job.
        words: of the command, behind ``phaseloom``.
        folder: that it writes, where the page can follow it.
        device: on which it runs alone.
        log: file of what it prints.
        state: ``waiting``, ``running``, ``done``, ``failed`` or ``cancelled``.
        code: of its end.
    """

    number: int
    words: tuple[str, ...]
    folder: Path
    device: str
    log: Path
    state: str = "waiting"
    code: int | None = None
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def read_log(self) -> str:
        """The last lines that it printed."""
        try:
            with open(self.log, "rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(file.tell() - 20_000, 0))
                text = file.read().decode(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.replace("\r", "\n").splitlines()[-LINES_KEPT:])


class JobQueue:
    """Runs jobs one after the other on each device.

    Attributes:
        jobs: all, in their order.
    """

    def __init__(self, folder: Path, command: Sequence[str] = (sys.executable, "-m", "phaseloom")):
        self.folder = folder
        self.jobs: list[QueuedJob] = []
        self._command = tuple(command)
        self._lock = threading.Lock()

    def add(self, words: Sequence[str], folder: Path, /, *, device: str = "cpu") -> QueuedJob:
        """Put a command at the end of the queue of a device.

        Raises:
            BadInput: too many are waiting.
        """
        with self._lock:
            if sum(job.state == "waiting" for job in self.jobs) >= MAX_WAITING:
                raise BadInput("queue", MAX_WAITING, "jobs are waiting already: cancel some")
            number = len(self.jobs) + 1
            log = folder.with_name(f".{folder.name}.log")
            job = QueuedJob(number, tuple(words), folder, device, log)
            self.jobs.append(job)
        self.advance()
        return job

    def advance(self) -> None:
        """Note which jobs have ended, and begin those whose device is free."""
        with self._lock:
            for job in self.jobs:
                if job.process is not None and job.state == "running":
                    self._note_end(job)
            busy = {job.device for job in self.jobs if job.state == "running"}
            for job in self.jobs:
                if job.state == "waiting" and job.device not in busy:
                    self._begin(job)
                    busy.add(job.device)

    def cancel(self, number: int, /) -> None:
        """Take a waiting job out, or interrupt one that runs, which keeps what it has."""
        import signal

        # a page that a shell began in the background hears no interrupts, nor do its jobs
        is_deaf = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        with self._lock:
            job = self.find(number)
            if job.state == "waiting":
                job.state = "cancelled"
            elif job.process is not None and job.state == "running":
                job.process.send_signal(signal.SIGTERM if is_deaf else signal.SIGINT)
        self.advance()

    def find(self, number: int, /) -> QueuedJob:
        """The job of a number.

        Raises:
            BadInput: there is none.
        """
        for job in self.jobs:
            if job.number == number:
                return job
        raise BadInput("queue", number, "is not the number of a job")

    def list_waiting(self) -> list[str]:
        """The command lines of the jobs that have not begun, as a shell reads them."""
        return [f"phaseloom {shlex.join(job.words)}" for job in self.jobs if job.state == "waiting"]

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits or runs."""
        return not any(job.state in ("waiting", "running") for job in self.jobs)

    def _note_end(self, job: QueuedJob) -> None:
        assert job.process is not None
        code = job.process.poll()
        if code is not None:
            job.code = code
            job.state = "done" if code == 0 else "failed"

    def _begin(self, job: QueuedJob) -> None:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with open(job.log, "wb") as output:
            job.process = subprocess.Popen(
                [*self._command, *job.words],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # an interrupt of the page is none of the job
            )
        job.state = "running"


def slurm_script(words: Sequence[str], folder: Path, /, *, name: str, gpu: bool) -> str:
    """A script for ``sbatch`` that runs a command of ``phaseloom`` in a folder.

    Example:
        >>> print(slurm_script(["look", "a b.h5"], Path("/data"), name="look", gpu=False).splitlines()[-1])
        phaseloom look 'a b.h5'
    """
    lines = ["#!/bin/bash", f"#SBATCH --job-name={shlex.quote(name)}", "#SBATCH --time=04:00:00"]
    lines += ["#SBATCH --gres=gpu:1"] if gpu else ["#SBATCH --cpus-per-task=4"]
    return "\n".join([*lines, f"cd {shlex.quote(str(folder))}", f"phaseloom {shlex.join(words)}"]) + "\n"
