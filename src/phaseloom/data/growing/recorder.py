"""The patterns of a growing scan on disk, as they come, in a file that can be read at any moment."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from phaseloom.data.formats import native
from phaseloom.data.scan import Scan4D
from phaseloom.errors import WriteFailed

__all__ = ["FrameRecorder"]


class FrameRecorder:
    """A file of `phaseloom.data.formats.native` that gets longer (HDF5, single writer, many readers).

    What was appended is on disk, and survives the end of this process, however it ends.

    Args:
        path: of the new file.
        like: geometry, mask, and type and shape of the patterns.

    Raises:
        WriteFailed: it cannot be made.
    """

    def __init__(self, path: Path, like: Scan4D, /):
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file: Any = h5py.File(path, "w-", libver="latest")
        except OSError as problem:
            raise WriteFailed(path, problem, 17 if path.exists() else None) from problem
        native.describe(self.file, replace(like.select(np.zeros(1, int)), grid=None))
        self.columns = [name for name in ("positions", "weights", "heights") if name in self.file]
        for name in self.columns:
            width = self.file[name].shape[1:]
            del self.file[name]
            rows = max(1, 65536 // (8 * int(np.prod(width, initial=1))))
            self.file.create_dataset(name, (0, *width), float, maxshape=(None, *width), chunks=(rows, *width))
        shape = like.geometry.shape
        self.file.create_dataset(
            "counts",
            (0, *shape),
            like.counts.dtype,
            maxshape=(None, *shape),
            chunks=(1, *shape),
            compression="gzip",
            compression_opts=1,
            shuffle=True,
        )
        self.file.swmr_mode = True

    def append(self, frames: np.ndarray, positions: np.ndarray, extras: Mapping[str, np.ndarray], /) -> None:
        """Add patterns with their numbers.

        Raises:
            WriteFailed: the disk is full, or the file cannot be written any more.
        """
        given = {"counts": frames, "positions": positions, **extras}
        start = len(self.file["counts"])
        try:
            for name in ("counts", *self.columns):
                data = self.file[name]
                data.resize(start + len(frames), axis=0)
                data[start:] = given[name]
            self.file.flush()
        except OSError as problem:
            raise WriteFailed(self.path, problem) from problem

    def close(self, scan: Scan4D, /, *, is_sorted: bool) -> None:
        """Complete the file with what is known at the end.

        Args:
            scan: all patterns, sorted.
            is_sorted: they came in this order; else the file is written anew.
        """
        self.file["mask"][...] = scan.mask
        self.file.close()
        if not is_sorted:
            native.write(scan, self.path)
            return
        with h5py.File(self.path, "r+", libver="latest") as file:
            if scan.grid is not None:
                file.attrs["grid"] = scan.grid
