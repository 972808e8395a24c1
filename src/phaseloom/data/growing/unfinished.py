"""Reading a file whose scan is not finished: fewer patterns than positions are no mistake then."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from phaseloom.data.remarks import mute_remarks

__all__ = ["Unfinished", "get_unfinished", "open_shared_hdf5", "read_unfinished"]


@dataclass
class Unfinished:
    """What a reader finds announced in a file that is being written.

    Attributes:
        positions: ``(n, 2)`` of all patterns that will come, angstrom; ``None``: the file does not say.
        grid: (slow, fast) of the whole raster, if it is one.
    """

    positions: np.ndarray | None = None
    grid: tuple[int, int] | None = None

    def cut(
        self, count: int, positions: np.ndarray, grid: tuple[int, int] | None, /
    ) -> tuple[np.ndarray, tuple[int, int] | None]:
        """Keep what is announced; returned are the positions that have a pattern, and their raster.

        Args:
            count: of the patterns that are there.
            positions: of the whole scan, or of as many patterns as have one by now.
            grid: of the whole scan.
        """
        self.positions = positions
        self.grid = grid
        whole = grid is not None and grid[0] * grid[1] == min(count, len(positions))
        return positions[:count], grid if whole else None


_current: ContextVar[Unfinished | None] = ContextVar("unfinished", default=None)


def get_unfinished() -> Unfinished | None:
    """Where to note what is announced; ``None``: the file has to be whole."""
    return _current.get()


@contextmanager
def read_unfinished() -> Iterator[Unfinished]:
    """Have readers accept fewer patterns than were announced inside of the block, and give no remarks.

    Example:
        >>> with read_unfinished() as found:
        ...     get_unfinished() is found
        True
    """
    found = Unfinished()
    token = _current.set(found)
    try:
        with mute_remarks():
            yield found
    finally:
        _current.reset(token)


def open_shared_hdf5(path: Path, /) -> Any:
    """An HDF5 file for reading, as a single writer with many readers (SWMR) writes it where one does.

    Of a scan that is not finished the lock of a writer without SWMR is passed over: what cannot be read then
    is read a moment later.

    Raises:
        OSError: the file cannot be opened.
    """
    import h5py

    try:
        return h5py.File(path)
    except OSError:
        unlocked = {"locking": False} if get_unfinished() is not None else {}
        try:
            return h5py.File(path, "r", swmr=True, **unlocked)
        except (OSError, ValueError):
            if not unlocked:
                raise
            return h5py.File(path, "r", **unlocked)
