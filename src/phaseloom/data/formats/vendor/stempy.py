"""Counted electrons of the 4D Camera, as stempy writes them: HDF5 with lists of the pixels that were hit.

``electron_events/frames`` are lists of flat pixels, one for each frame (attributes ``Nx``, ``Ny``: columns
and rows), of one or two axes (scan position, frame); ``electron_events/scan_positions`` is the place of each
in the raster (attributes ``Nx``, ``Ny``: fast and slow). Several frames may have one place: their counts are
added.
"""

import logging
import math
import os
from pathlib import Path
from typing import Any, Unpack

import h5py
import numpy as np

from phaseloom.data.counts import SparseSource
from phaseloom.data.formats.files import has_hdf5_name_or_content, open_hdf5, require_file
from phaseloom.data.formats.header import About, Header
from phaseloom.data.formats.setup import Setup, accept_setup, build_scan
from phaseloom.data.remarks import warn
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput

__all__ = ["ABOUT", "knows", "read"]

ABOUT = About(
    files=".h5 of counted electrons",
    reading="lists of hits in memory, dense when read",
    states="raster",
    compared="stempy 3.6 (by hand): equal",
)

log = logging.getLogger(__name__)

FRAMES_AT_ONCE = 4096
MAX_EDGE = 2048
"""Pixels or places along an edge, in rows or columns; the 4D Camera has 576 pixels and scans 1024 places."""


def knows(path: Path, /) -> bool:
    """Whether an HDF5 file holds lists of electron events."""
    if not has_hdf5_name_or_content(path):
        return False
    with open_hdf5(path) as file:
        return isinstance(file.get("electron_events/frames"), h5py.Dataset)


@accept_setup()
def read(path: str | os.PathLike[str], /, **setup: Unpack[Setup]) -> Scan4D:
    """Counts of the 4D Camera as stempy stores them; they stay lists of hits, dense when they are read.

    The raster of the file may have columns of the flyback: ``selection: ":, :-1"`` leaves out the last one.

    Args:
        path: the file.
        **setup: see `Setup`.

    Raises:
        BadInput: what is missing or does not fit.

    Example:
        >>> import h5py
        >>> with h5py.File("a.h5", "w") as file:
        ...     frames = file.create_dataset("electron_events/frames", (4,), h5py.vlen_dtype(np.uint32))
        ...     frames.attrs.update(Nx=2, Ny=3)
        ...     for number in range(4):
        ...         frames[number] = [number, number + 1]
        ...     places = file.create_dataset("electron_events/scan_positions", data=np.arange(4))
        ...     places.attrs.update(Nx=2, Ny=2)
        >>> read("a.h5", energy=3e5, angle=1e-3, step=1.0).counts[3].tolist()
        [[0, 0, 0], [1, 1, 0]]
    """
    path = require_file(path)
    with open_hdf5(path) as file:
        frames: Any = file.get("electron_events/frames")
        places: Any = file.get("electron_events/scan_positions")
        if not isinstance(frames, h5py.Dataset) or h5py.check_vlen_dtype(frames.dtype) is None:
            raise BadInput(path.name, None, "has no lists electron_events/frames: choose another format")
        if frames.ndim not in (1, 2) or math.prod(frames.shape) > path.stat().st_size:
            fix = "frames are more than the file can hold: copy it again"
            raise BadInput(f"{path.name}: electron_events/frames", list(frames.shape), fix)
        columns, rows = _size(path, frames, "frame_dimensions")
        pixels = (rows, columns)  # stempy calls rows of a frame Nx, and columns of the scan
        grid = setup.pop("grid", None) or _size(path, places, "scan_dimensions")
        where = _read_places(path, places, frames)
        grid = _cut(path, grid, where)
        indptr, indices = _gather(path, frames, where, grid[0] * grid[1])
        size = pixels[0] * pixels[1]
        if len(indices) and int(indices.max()) >= size:
            fix = f"is outside of {pixels[1]}x{pixels[0]} pixels: the file is damaged, copy it again"
            raise BadInput(f"{path.name}: electron_events/frames: hit", int(indices.max()), fix)
        most = int(np.diff(indptr).max(initial=0))
        metadata = {"instrument": "4D Camera (stempy)", "original header": _describe(file)}
    source = SparseSource(indptr, indices, None, grid, pixels, np.dtype("u1" if most < 255 else "u2"))
    return build_scan(path, source, setup, header=Header(metadata=metadata))


def _size(path: Path, data: Any, old: str) -> tuple[int, int]:
    """Rows and columns that a data set states of frames or of the scan."""
    attrs: Any = {} if data is None else data.attrs
    try:
        across, down = attrs[old] if old in attrs else (attrs["Nx"], attrs["Ny"])
        size = (int(down), int(across))
    except (KeyError, ValueError, TypeError) as error:
        fix = "states no size (attributes Nx and Ny): write the file again with stempy"
        raise BadInput(f"{path.name}: electron_events", None, fix) from error
    if not all(1 <= n <= MAX_EDGE for n in size):
        raise BadInput(f"{path.name}: electron_events", size, "is not a size: copy the file again")
    return size


def _read_places(path: Path, places: Any, frames: Any) -> np.ndarray:
    """The place in the raster of each list, flat; one place may have several lists, one after the other."""
    count = math.prod(frames.shape)
    if places is None or places.shape is None:
        where = np.arange(frames.shape[0])
    elif len(places.shape) != 1 or places.dtype.kind not in "iu" or not places.size or count % places.size:
        fix = f"does not fit {count} frames: copy the file again"
        raise BadInput(f"{path.name}: scan_positions", list(places.shape), fix)
    else:
        where = places[()].astype(np.int64)
    return np.repeat(where, count // max(len(where), 1))


def _cut(path: Path, grid: tuple[int, int], where: np.ndarray) -> tuple[int, int]:
    """The rows of the raster that were scanned."""
    slow, fast = grid
    rows = min(slow, (int(where.max(initial=-1)) + fast) // fast)
    if rows < 1 or rows * fast > 16 * len(where) + 4096:
        fix = f"is not the raster of {len(where)} frames: give another grid, or copy the file again"
        raise BadInput(f"{path.name}: grid", f"{slow}x{fast}", fix)
    if rows < slow:
        text = "%s: holds frames of %d of %d rows of the raster (interrupted scan?): these are used"
        warn(log, text, path.name, rows, slow)
    return rows, fast


def _gather(path: Path, frames: Any, where: np.ndarray, places: int) -> tuple[np.ndarray, np.ndarray]:
    """Hits in the order of the raster: where each place begins, and flat pixels."""
    if len(where) and not 0 <= where.min() <= where.max() < places:
        fix = f"is outside of the raster of {places} places: give another grid, or copy the file again"
        raise BadInput(f"{path.name}: scan_positions", int(where.max()), fix)
    lists: list[np.ndarray] = []
    per_row = frames.shape[1] if frames.ndim == 2 else 1
    for start in range(0, frames.shape[0], max(1, FRAMES_AT_ONCE // per_row)):
        lists += list(frames[start : start + max(1, FRAMES_AT_ONCE // per_row)].ravel())
    sizes = np.array([len(one) for one in lists], np.int64)
    order = np.argsort(where, kind="stable")
    indptr = np.concatenate([[0], np.cumsum(np.bincount(where, sizes, places).astype(np.int64))])
    joined = [np.asarray(lists[at]) for at in order if sizes[at]]
    indices = np.concatenate(joined).astype(np.uint32) if joined else np.zeros(0, np.uint32)
    return indptr, indices


def _describe(file: h5py.File) -> str:
    """Attributes and scalars of the file, one a line."""
    lines = []

    def visit(name: str, item: Any) -> None:
        lines.extend(f"{name}.{key} = {value}" for key, value in item.attrs.items())
        if isinstance(item, h5py.Dataset) and item.shape == ():
            lines.append(f"{name} = {item[()]}")

    file.visititems(visit)
    return "\n".join([*(f"{key} = {value}" for key, value in file.attrs.items()), *lines])[:65536]
