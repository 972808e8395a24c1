"""The lock of a study's journal, which names its process: that of a dead one need not be waited for."""

import contextlib
import os
import threading
import time
from functools import cache
from pathlib import Path

from optuna.storages.journal import JournalFileOpenLock

from phaseloom.files import name_failures
from phaseloom.runs.lock import Holder

__all__ = ["NamedFileLock"]

SECONDS_BETWEEN_TRIES = 0.002


class NamedFileLock(JournalFileOpenLock):
    """As Optuna's lock by a file that only one process can make, with the name of the process in it.

    The file gets its name by a hard link when its content is there, which is one step also on NFS. Where
    there are no hard links it is Optuna's own, and that of a dead process is waited for.
    """

    def acquire(self) -> bool:
        """Wait for the lock, and take it.

        Raises:
            WriteFailed: of a disk that is full, or fails.
        """
        own = Path(f"{self._lock_file}.{os.getpid()}-{threading.get_ident()}")
        try:
            with name_failures(self._lock_file):
                own.write_bytes(_name_process(os.getpid()))
                with contextlib.suppress(OSError):  # no hard links here
                    return self._link(own)
                return super().acquire()
        finally:
            with contextlib.suppress(OSError):
                own.unlink()

    def release(self) -> None:
        """Let go of the lock: by one removal, which succeeds for one process alone.

        Raises:
            WriteFailed: of a disk that fails.
            RuntimeError: it was taken away, as this process was silent for too long.
        """
        with name_failures(self._lock_file):
            try:
                os.unlink(self._lock_file)
            except FileNotFoundError as problem:
                raise RuntimeError("the lock was taken away") from problem

    def _link(self, own: Path) -> bool:
        began = time.monotonic()
        seen = None
        while True:
            with contextlib.suppress(FileExistsError):
                os.link(own, self._lock_file)
                return True
            now = self._age()
            if now != seen:
                seen = now
                began = time.monotonic()
            is_old = self.grace_period is not None and time.monotonic() - began > self.grace_period
            holder = Holder.read(Path(self._lock_file))
            if is_old or (holder is not None and holder.is_dead):
                self._take_away(own)
            time.sleep(SECONDS_BETWEEN_TRIES)

    def _age(self) -> float | None:
        with contextlib.suppress(OSError):
            return os.stat(self._lock_file).st_mtime
        return None

    def _take_away(self, own: Path) -> None:
        """Remove the lock of a dead process; that of a living one, which was quicker, is put back."""
        away = own.with_name(f"{own.name}.away")
        with contextlib.suppress(OSError):
            os.rename(self._lock_file, away)
            holder = Holder.read(away)
            if holder is not None and not holder.is_dead and self._is_young(away):
                with contextlib.suppress(FileExistsError):
                    os.link(away, self._lock_file)
            away.unlink(missing_ok=True)

    def _is_young(self, file: Path) -> bool:
        grace = self.grace_period
        return grace is None or time.time() - file.stat().st_mtime < grace


@cache
def _name_process(pid: int) -> bytes:
    """The content of a lock of this process."""
    assert pid == os.getpid()
    return Holder.here().to_text().encode()
