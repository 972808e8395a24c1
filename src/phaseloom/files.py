"""Files that are never half written."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["whole"]


@contextlib.contextmanager
def whole(path: Path | str, /) -> Iterator[Path]:
    """A temporary name that becomes ``path`` when all went well: readers see the old file or the new.

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
    finally:
        short.unlink(missing_ok=True)
