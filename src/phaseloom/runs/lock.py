"""One writer for each folder of outputs: a lock that names host and process, taken before any work.

The lock is a small file in the folder, ``.phaseloom.lock``, or beside a single file that is written,
``.NAME.phaseloom.lock``. It is gone when the work is done. Where a process died without a word, the next one
of the same machine sees that and takes over; of another machine nobody can know, and a person decides.
A process may lock what it has locked already: it is the same writer.
"""

import contextlib
import json
import os
import socket
import sys
import weakref
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import psutil

from phaseloom.errors import BadInput, WriteFailed
from phaseloom.files import LOCK_NAME, find_process_space, make_folder, open_plain, remove_stale_files

__all__ = ["Holder", "OutputLock", "make_run_folder", "release_all", "release_on_failure", "take_turns"]

MAX_SECONDS_BETWEEN_STARTS = 10.0
"""Differences in what is told of the start of one process: the system's clock is corrected now and then."""

TURN_NAME = ".phaseloom.turn"
"""What processes that share a folder wait for."""

MAX_NAME = 100
"""Characters of a file's name that its lock repeats: file systems take 255 bytes."""

LOCK_START = b'{"host": '
"""How every lock begins."""

MAX_LOCK_BYTES = 4096
"""Bytes of a lock that are read."""


@dataclass(frozen=True)
class Holder:
    """Who writes into a folder.

    Attributes:
        host: name of the machine.
        pid: number of the process.
        began: when the process began, in seconds of the epoch: a number is given anew after a while.
        since: when the lock was taken.
        command: what the process was started with.
        space: see `phaseloom.files.find_process_space`; empty: not known.
    """

    host: str
    pid: int
    began: float
    since: str = ""
    command: str = ""
    space: str = ""

    @classmethod
    def here(cls) -> "Holder":
        """The process that asks."""
        command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:200]
        now = f"{datetime.now():%Y-%m-%d %H:%M:%S}"
        began = psutil.Process().create_time()
        return cls(socket.gethostname(), os.getpid(), began, now, command, find_process_space())

    @classmethod
    def read(cls, file: Path, /) -> "Holder | None":
        """Who is written in a file; ``None`` where nobody is, or nothing that can be read."""
        try:
            with open(file, "rb") as stream:
                return cls.parse(stream.read(MAX_LOCK_BYTES))
        except OSError:
            return None

    @classmethod
    def parse(cls, text: bytes, /) -> "Holder | None":
        """Who is named by the content of such a file."""
        try:
            holder = cls(**json.loads(text))
        except (ValueError, TypeError, RecursionError):
            return None
        is_whole = isinstance(holder.pid, int) and isinstance(holder.began, int | float)
        return holder if is_whole and 0 < holder.pid < 2**31 else None

    def to_text(self) -> str:
        """What `read` finds in a file."""
        return json.dumps(asdict(self))

    @property
    def is_this_process(self) -> bool:
        """Whether it is the process that asks."""
        return self.is_seen_here and self.pid == os.getpid() and self._has_begun_then()

    @property
    def is_dead(self) -> bool:
        """Whether its process has ended for sure, which only its own machine, or container, can tell."""
        return self.is_seen_here and not self._has_begun_then()

    @property
    def is_seen_here(self) -> bool:
        """Whether processes have the same numbers where it runs."""
        is_same_space = self.space in ("", find_process_space())
        return self.host == socket.gethostname() and is_same_space

    def _has_begun_then(self) -> bool:
        try:
            process = psutil.Process(self.pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            return abs(process.create_time() - self.began) < MAX_SECONDS_BETWEEN_STARTS
        except psutil.NoSuchProcess:
            return False

    def __str__(self) -> str:
        command = f" ({self.command})" if self.command else ""
        return f"process {self.pid} on {self.host}{command} since {self.since}"


class OutputLock:
    """The right to write into a folder, or to write one file: taken when made, until `release` or its end.

    Args:
        path: a folder, which is made, or with ``is_file`` a file, whose folder is made.
        is_file: what ``path`` is of.

    Raises:
        BadInput: another process holds it; the sentence names it.
        WriteFailed: folder or lock cannot be written.

    Example:
        >>> with OutputLock("run"):
        ...     sorted(path.name for path in Path("run").iterdir())
        ['.phaseloom.lock']
        >>> Path("run").exists()
        False
    """

    def __init__(self, path: Path | str, /, *, is_file: bool = False):
        self.path = Path(path)
        name = f".{self.path.name[:MAX_NAME]}{LOCK_NAME}" if is_file else LOCK_NAME
        self.file = Path(os.path.abspath(self.path.parent if is_file else self.path)) / name
        self._let_go: weakref.finalize[..., Any] | None = None
        self.acquire()

    def acquire(self) -> Self:
        """Take it, unless this object has it."""
        if self._let_go is None or not self._let_go.alive:
            _take(self.file)
            self._let_go = weakref.finalize(self, _let_go, self.file, os.getpid())
        return self

    def release(self) -> None:
        """Let go; a folder that was made for the lock and stayed empty is removed."""
        if self._let_go is not None:
            self._let_go()

    def __enter__(self) -> Self:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


@dataclass
class _Held:
    """A lock of this process: how many objects have it, and the folders that were made for it."""

    count: int = 0
    made: list[Path] = field(default_factory=list)


_held: dict[Path, _Held] = {}


def release_all() -> None:
    """Let go of all locks of this process: its command has ended."""
    for file in list(_held):
        _held[file].count = 1
        _let_go(file, os.getpid())


def _take(file: Path) -> None:
    """Take a lock, once more if this process has it."""
    if file not in _held:
        made = [one for one in (file.parent, *file.parent.parents) if not one.exists()]
        try:
            make_folder(file.parent)
            _write_holder(file)
        except BaseException:
            _remove_empty(made)
            raise
        _held[file] = _Held(made=made)
        remove_stale_files(file.parent)
    _held[file].count += 1


def _let_go(file: Path, pid: int) -> None:
    """Let go once; a child that was forked leaves the lock of its parent alone."""
    held = _held.get(file)
    if held is None or pid != os.getpid():
        return
    held.count -= 1
    if held.count:
        return
    del _held[file]
    with contextlib.suppress(OSError, BadInput), _alone(file, make=False) as stream:
        if (holder := _read_holder(stream)) is None or holder.is_this_process:
            file.unlink(missing_ok=True)
    _remove_empty(held.made)


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:  # from the inside out
        with contextlib.suppress(OSError):
            folder.rmdir()


def _write_holder(file: Path) -> None:
    """Write this process into a lock that is free, or whose process is dead."""
    text = Holder.here().to_text().encode()
    try:
        with _alone(file) as stream:
            holder = _require_holder(stream, file)
            if holder is not None and not holder.is_dead and not holder.is_this_process:
                raise BadInput(_describe(file), None, _describe_holder(holder, file))
            try:
                stream.truncate(0)
                stream.write(text)
            except OSError:
                file.unlink(missing_ok=True)
                raise
    except BadInput:
        raise
    except OSError as problem:
        raise WriteFailed(_describe(file), problem) from problem


def _describe(file: Path) -> str:
    name = file.name.removesuffix(LOCK_NAME).removeprefix(".")
    return str(file.parent / name if name else file.parent)


def _describe_holder(holder: Holder, file: Path) -> str:
    fix = "name another one, or wait for its end"
    if not holder.is_seen_here:
        fix += f"; if it has ended, remove {file}"
    return f"is being written by {holder}: {fix}"


@contextlib.contextmanager
def _alone(file: Path, *, make: bool = True) -> Iterator[Any]:
    """A lock file, open while no other process looks at it: looking and writing are one step."""
    while True:
        try:
            stream = open_plain(file, "a+b" if make else "r+b")
        except OSError as problem:
            raise WriteFailed(_describe(file), problem) from problem
        try:
            _wait_for_turn(stream)
            if _is_same_file(stream, file):  # not removed in the meantime
                yield stream
                return
        finally:
            stream.close()


def _wait_for_turn(stream: Any) -> None:
    """Wait until no other process looks, where the file system can do so."""
    try:
        import fcntl
    except ImportError:  # Windows: two that begin in the same millisecond are not told apart
        return
    with contextlib.suppress(OSError):
        fcntl.flock(stream, fcntl.LOCK_EX)


def _is_same_file(stream: Any, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(stream.fileno()), os.stat(file))
    except FileNotFoundError:
        return False


def _require_holder(stream: Any, file: Path) -> Holder | None:
    """Who is written in a lock; ``None`` where nobody is, or what a crash has cut.

    Raises:
        BadInput: something else is written there, which a lock of this program never held.
    """
    stream.seek(0)
    text = stream.read(MAX_LOCK_BYTES)
    holder = Holder.parse(text)
    is_cut = text.startswith(LOCK_START[: len(text)]) and not text.endswith(b"}")
    if holder is None and text and not is_cut:
        raise BadInput(str(file), None, "names no process: remove it if nobody writes there")
    return holder


def _read_holder(stream: Any) -> Holder | None:
    """Who is written in a lock; ``None`` where nobody is, or nothing that can be read."""
    stream.seek(0)
    return Holder.parse(stream.read(MAX_LOCK_BYTES))


@contextlib.contextmanager
def take_turns(folder: Path, /) -> Iterator[None]:
    """Do something in a folder that several processes share, one after the other."""
    with _alone(folder / TURN_NAME):
        try:
            yield
        finally:
            (folder / TURN_NAME).unlink(missing_ok=True)


@contextlib.contextmanager
def release_on_failure(lock: OutputLock | None, /) -> Iterator[None]:
    """Let go of a lock where what is done within fails."""
    try:
        yield
    except BaseException:
        if lock is not None:
            lock.release()
        raise


def make_run_folder(stem: str, /, *, parent: Path = Path("runs")) -> OutputLock:
    """The lock of a new folder that nobody else has, however many ask at the same moment.

    Args:
        stem: its name, with ``-2``, ``-3``, ... behind where that is taken.
        parent: where it is made.
    """
    make_folder(parent)
    number = 1
    while True:
        folder = parent / (stem if number == 1 else f"{stem}-{number}")
        try:
            os.mkdir(folder)
        except FileExistsError:
            number += 1
            continue
        except OSError as problem:
            raise WriteFailed(folder, problem) from problem
        lock = OutputLock(folder)
        _held[lock.file].made.append(lock.file.parent)
        return lock
