"""The one door for everything that is written: whole files, on the disk before their name is given to them.

A reader sees the old file or the new one, whatever happens: a full disk, a kill, a loss of power. What fails
is said in one sentence (`phaseloom.errors.WriteFailed`) that names the file. HDF5 is made in memory, for it
ends the process where a disk is full (h5py issue 914), or written through a file that never fails towards it.
"""

import contextlib
import errno
import functools
import io
import itertools
import os
import re
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from phaseloom.errors import BadInput, WriteFailed

if TYPE_CHECKING:
    import h5py

__all__ = [
    "append_text",
    "find_process_space",
    "fresh",
    "get_cache_folder",
    "is_process_alive",
    "make_folder",
    "name_failures",
    "open_plain",
    "remove_stale_files",
    "whole",
    "whole_buffer",
    "whole_hdf5",
    "write_bytes",
    "write_text",
]

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EROFS)
"""Numbers of errors that are of what is written, also where no file is named: readers do not meet most."""

NOT_SUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM)
"""Numbers of errors of folders that cannot be synchronised, on network and other unusual file systems."""

TEMPORARY = re.compile(r"\..*\.(?P<host>[^.]*)-(?P<pid>\d+)-\d+\.tmp(\..*)?")
"""Temporary names: host and process that write, and the number of the file."""

MAX_STEM = 60
"""Characters of a file's name that its temporary name repeats: file systems take 255 bytes."""

LOCK_NAME = ".phaseloom.lock"
"""The lock of a folder, see `phaseloom.runs.lock`."""

NOT_PLAIN = "is a link, a folder or a pipe, where a file of the program is wanted: remove it"

HDF5_BLOCK = 1 << 20
"""Bytes by which a file in memory grows."""

_numbers = itertools.count()
_swept: set[str] = set()


@contextlib.contextmanager
def whole(path: str | os.PathLike[str], /) -> Iterator[Path]:
    """A temporary name that becomes ``path`` when all went well, for libraries that write by themselves.

    Raises:
        WriteFailed: the disk is full, or it or the folder cannot be written to; names ``path``.

    Example:
        >>> with whole("note.txt") as short:
        ...     _ = short.write_text("done")
        >>> Path("note.txt").read_text()
        'done'
    """
    path = Path(path)
    short = path.with_name(_temporary_name(path))
    try:
        _sweep_once(make_folder(path.parent))
        yield short
        with open(short, "rb") as file:
            os.fsync(file.fileno())
        os.replace(short, path)
        _synchronise_folder(path.parent)
    except OSError as problem:
        if (failed := _find_failure(problem, path, short)) is None:
            raise
        raise failed from problem
    finally:
        with contextlib.suppress(OSError):
            short.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_buffer(path: str | os.PathLike[str], /) -> Iterator[io.BytesIO]:
    """A file in memory that is written to ``path`` when all went well; errors as of `whole`.

    Example:
        >>> with whole_buffer("ones.npy") as buffer:
        ...     np.save(buffer, np.ones(3))
        >>> np.load("ones.npy")
        array([1., 1., 1.])
    """
    buffer = io.BytesIO()
    yield buffer
    write_bytes(path, buffer.getbuffer())


@contextlib.contextmanager
def whole_hdf5(path: str | os.PathLike[str], /, *, stream: bool = False) -> Iterator["h5py.File"]:
    """A new HDF5 file that is written to ``path`` when all went well; errors as of `whole`.

    Args:
        path: of the file.
        stream: write as it grows, for files larger than memory; the file must be readable again only by
            its end.

    Example:
        >>> with whole_hdf5("one.h5") as file:
        ...     file["ones"] = np.ones(3)
        >>> sorted(path.name for path in Path().iterdir())
        ['one.h5']
    """
    make = _stream_hdf5 if stream else _buffer_hdf5
    with make(Path(path)) as file:
        yield file


@contextlib.contextmanager
def _buffer_hdf5(path: Path) -> Iterator["h5py.File"]:
    import h5py

    name = _temporary_name(path)  # HDF5 tells files in memory apart by their names
    with h5py.File(name, "w", driver="core", backing_store=False, block_size=HDF5_BLOCK) as file:
        yield file
        file.flush()
        image = file.id.get_file_image()
    write_bytes(path, image)


@contextlib.contextmanager
def _stream_hdf5(path: Path) -> Iterator["h5py.File"]:
    import h5py

    with whole(path) as short, _UnfailingFile(short) as stream:
        try:
            with h5py.File(stream, "w") as file:
                yield file
        finally:
            stream.check()


class _UnfailingFile(io.RawIOBase):
    """A file that takes whatever is written and remembers the first error, for HDF5 does not survive one."""

    def __init__(self, path: Path):
        self.file = open(path, "w+b", buffering=0)  # noqa: SIM115 - closed by `close`
        self.problem: OSError | None = None

    def check(self) -> None:
        """Raise the first error."""
        if self.problem is not None:
            raise self.problem

    def write(self, data: Any, /) -> int:
        """Write all of it, or nothing from the first error on."""
        left = memoryview(data).cast("B")
        size = len(left)
        while left and self.problem is None:
            try:
                left = left[self.file.write(left) :]
            except OSError as problem:
                self.problem = problem
        return size

    def truncate(self, size: int | None = None, /) -> int:
        """Set the length, unless there was an error."""
        if self.problem is None:
            try:
                return self.file.truncate(size)
            except OSError as problem:
                self.problem = problem
        return size or 0

    def readinto(self, buffer: Any, /) -> int:
        """Read what was written."""
        return self.file.readinto(buffer) or 0

    def seek(self, place: int, origin: int = 0, /) -> int:
        """Go to a place."""
        return self.file.seek(place, origin)

    def tell(self) -> int:
        """The place."""
        return self.file.tell()

    def readable(self) -> bool:
        """It is."""
        return True

    def writable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def close(self) -> None:
        """Close the file below."""
        self.file.close()
        super().close()


def write_bytes(path: str | os.PathLike[str], data: Any, /) -> None:
    """Write a file whole; errors as of `whole`."""
    with whole(path) as short, open(short, "wb", buffering=0) as file:
        left = memoryview(data).cast("B")
        while left:
            left = left[file.write(left) :]


def write_text(path: str | os.PathLike[str], text: str, /) -> None:
    """Write a text file whole, in UTF-8; errors as of `whole`."""
    write_bytes(path, text.encode())


def append_text(path: str | os.PathLike[str], text: str, /) -> None:
    """Add text to the end of a file at once, and have it on the disk; errors as of `whole`.

    What a kill or a full disk leaves is whole lines, and at most one that is cut.
    """
    with name_failures(path), open_plain(path, "ab") as file:
        left = memoryview(text.encode())
        while left:
            left = left[file.write(left) :]
        os.fsync(file.fileno())


@contextlib.contextmanager
def name_failures(path: str | os.PathLike[str], /) -> Iterator[None]:
    """Errors of the system within are of writing one file, or folder.

    Raises:
        WriteFailed: such an error; names ``path``.
    """
    try:
        yield
    except OSError as problem:
        raise WriteFailed(path, problem) from problem


def open_plain(path: str | os.PathLike[str], mode: str, /) -> IO[Any]:
    """A file of ours, open without a buffer; no link is followed, and nothing is waited for.

    A folder may come from somebody else: a link in it would lead out of it, and a pipe would wait for ever.

    Args:
        path: of the file.
        mode: of `open`, for bytes.

    Raises:
        BadInput: a link, or no plain file.
        OSError: as `open` does.
    """

    def open_without_link(name: str, flags: int) -> int:
        flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        return os.open(name, flags, 0o666)

    try:
        file = open(path, mode, buffering=0, opener=open_without_link)  # noqa: SIM115 - the caller's
    except OSError as problem:
        if problem.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise BadInput(str(path), None, NOT_PLAIN) from problem
        raise
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise BadInput(str(path), None, NOT_PLAIN)
    return file


def make_folder(path: str | os.PathLike[str], /) -> Path:
    """Make a folder and those above it, where they are not there.

    Raises:
        WriteFailed: it cannot be made.
    """
    path = Path(path)
    if path.is_dir():
        return path
    with name_failures(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def get_cache_folder(name: str, /) -> Path:
    """A folder of what can be made again, below ``~/.cache`` or ``XDG_CACHE_HOME``; it may be missing."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "phaseloom", name)


def fresh(folder: str | os.PathLike[str], place: str, /) -> Path:
    """A folder in which nothing is yet.

    Args:
        folder: there or not.
        place: what asks for it, for the message.

    Raises:
        BadInput: it holds something, or is a file.
    """
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and _is_empty(folder)):
        raise BadInput(place, str(folder), "is not empty: name a new folder")
    return folder


def _is_empty(folder: Path) -> bool:
    """Whether a folder holds nothing but the lock of who is about to write."""
    return all(one.name == LOCK_NAME or TEMPORARY.fullmatch(one.name) for one in folder.iterdir())


def remove_stale_files(folder: str | os.PathLike[str], /) -> list[Path]:
    """Remove temporary files of ours whose process has died on this machine; the files."""
    removed = []
    with contextlib.suppress(OSError):
        for path in Path(folder).glob(".*.tmp*"):
            match = TEMPORARY.fullmatch(path.name)
            if match is None or match["host"] != _host() or is_process_alive(int(match["pid"])):
                continue
            with contextlib.suppress(OSError):
                path.unlink()
                removed.append(path)
    return removed


def _sweep_once(folder: Path) -> None:
    """Remove what dead processes left in a folder, when this process first writes there."""
    name = os.path.abspath(folder)
    if name not in _swept:
        _swept.add(name)
        remove_stale_files(name)


def is_process_alive(pid: int, /) -> bool:
    """Whether a process of this machine is there."""
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # also where it ends while it is asked for
        return False


@functools.cache
def find_process_space() -> str:
    """Which processes are seen from here: those of a container are others than those of its machine.

    Returns:
        a number as text; empty on systems that do not tell.
    """
    try:
        return str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:  # not Linux
        return ""


def _host() -> str:
    """The name of this machine, and of the container, as temporary names have it."""
    return re.sub(r"[^A-Za-z0-9_]", "_", socket.gethostname())[:40] + "_" + find_process_space()


def _temporary_name(path: Path) -> str:
    return f".{path.stem[:MAX_STEM]}.{_host()}-{os.getpid()}-{next(_numbers)}.tmp{path.suffix}"


def _find_failure(problem: OSError, path: Path, short: Path) -> WriteFailed | None:
    """The error of writing a file; ``None``: the error is of something else that was done at the time."""
    if isinstance(problem, WriteFailed):
        return None
    found = re.search(r"errno = (\d+)", str(problem))  # HDF5 has it in its text only
    number = problem.errno or (int(found[1]) if found else None)
    named = [str(name) for name in (problem.filename, problem.filename2) if name is not None]
    is_ours = any(Path(name) in (path, short, path.parent) for name in named)
    is_ours = is_ours or (not named and (number in DISK_ERRORS or short.name in str(problem)))
    return WriteFailed(path, problem, number) if is_ours else None


def _synchronise_folder(folder: Path) -> None:
    """Have a new name on the disk too, where the system can do so."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    try:
        place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # a folder that may be written to but not read
        return
    try:
        os.fsync(place)
    except OSError as problem:
        if problem.errno not in NOT_SUPPORTED:
            problem.filename = os.fspath(folder)
            raise
    finally:
        os.close(place)
