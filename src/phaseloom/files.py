"""Files that are never half written."""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from phaseloom.errors import BadInput

__all__ = ["fresh", "whole"]


@contextlib.contextmanager
def whole(path: Path | str, /) -> Iterator[Path]:
    """A temporary name that becomes ``path`` when all went well: readers see the old file or the new.

    Raises:
        OSError: the folder or the disk does not take it; names ``path``.

    Example:
        >>> with whole("note.txt") as short:
        ...     _ = short.write_text("done")
        >>> Path("note.txt").read_text()
        'done'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    short = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield short
        with open(short, "rb") as file:
            os.fsync(file.fileno())
        os.replace(short, path)
    except OSError as problem:
        if short.name not in str(problem):
            raise
        # HDF5 has the number of the error in its text only
        found = re.search(r"errno = (\d+)", str(problem))
        number = int(found[1]) if found else problem.errno or errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from problem
    finally:
        short.unlink(missing_ok=True)


def fresh(folder: Path | str, place: str, /) -> Path:
    """A folder in which nothing is yet.

    Args:
        folder: there or not.
        place: what asks for it, for the message.

    Raises:
        BadInput: it holds something, or is a file.
    """
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise BadInput(place, str(folder), "is not empty: name a new folder")
    return folder
