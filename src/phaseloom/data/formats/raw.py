"""Bare numbers on disk (EMPAD and home-made detectors), mapped into memory."""

import math
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np

from phaseloom.data.formats._arranged import Arrangement, Axes, Selection
from phaseloom.data.formats._arrays import Beam, Negative, Setup, Tables, Unit, scan_of
from phaseloom.data.formats._files import checked
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.units import Angle, Energy, Length

__all__ = ["read"]


def read(  # noqa: PLR0913
    path: str | os.PathLike[str],
    /,
    *,
    energy: Energy,
    beam: Beam = "electron",
    angle: Angle | None = None,
    pixel: Length | None = None,
    distance: Length | None = None,
    detector_pixel: Length | None = None,
    focus: Length | None = None,
    step: Length | tuple[Length, Length] | None = None,
    grid: tuple[int, int] | None = None,
    rotation: Angle = 0.0,
    positions: str | None = None,
    positions_unit: Unit = "A",
    mask: str | None = None,
    selection: Selection | None = None,
    permute: Axes | None = None,
    reshape: Axes | None = None,
    negative: Negative = "clip",
    shape: tuple[int, ...],
    dtype: str = "float32",
    offset: int = 0,
    gap: int = 0,
    order: Literal["C", "F"] = "C",
) -> Scan4D:
    """Counts of a known shape and type, after ``offset`` bytes and with ``gap`` bytes after each pattern.

    An EMPAD file of 130 rows, the last two of which are no detector, is ``shape=(slow, fast, 128, 128),
    gap=1024``.

    Args:
        path: the file.
        energy: of a photon, or kinetic energy of an electron, eV.
        beam: what is diffracted.
        angle: radian per detector pixel. Say the sampling once: ``angle``, or ``pixel``, or ``distance``
            with ``detector_pixel``.
        pixel: of the object, angstrom (far field).
        distance: object to detector, angstrom.
        detector_pixel: edge of a detector pixel, angstrom.
        focus: focus to object, angstrom: the scan is a near-field one.
        step: of the raster (slow, fast), angstrom, when there are no positions.
        grid: raster as (slow, fast) numbers of patterns; a 4-D array has its own.
        rotation: of the positions, radian, from the row axis towards the column axis.
        positions: an ``.npy``, ``.csv`` or ``.txt`` file beside the data with columns (row, column).
        positions_unit: of those positions; ``px`` are object pixels.
        mask: an ``.npy``, ``.csv`` or ``.txt`` file beside the data, not zero where a pixel is good.
        selection: a slice for each stored axis, ``"0:64, :, 8:-8"``, or a list of ``null`` and
            ``[start, stop, step]``; nothing else is read.
        permute: the order of the axes after that, as in `numpy.transpose`.
        reshape: the shape after that, with one -1 at most.
        negative: ``clip`` negative values to zero, or ``keep`` them for a later step.
        shape: ``(pattern, y, x)`` or ``(slow, fast, y, x)``.
        dtype: as numpy writes it, with byte order if it matters: ``">u2"``.
        offset: bytes before the first pattern.
        gap: bytes after each pattern.
        order: ``C`` when the last axis varies fastest, ``F`` when the first one does.

    Raises:
        BadInput: what is missing, or a file whose size does not fit.

    Example:
        >>> np.ones((6, 8, 8), np.float32).tofile("scan.raw")
        >>> len(read("scan.raw", energy=80e3, angle=1e-3, step=0.4, grid=(2, 3), shape=(6, 8, 8)))
        6
    """
    path = checked(path)
    setup = Setup(energy, beam, angle, pixel, distance, detector_pixel, focus, step, grid, rotation)
    how = Arrangement(selection, permute, reshape)
    tables = Tables(positions, positions_unit, mask)
    data = _mapped(path, shape, _dtype(path, dtype), (offset, gap), order)
    return scan_of(path, data, setup, tables, how=how, negative=negative)


def _dtype(path: Path, name: str) -> np.dtype:
    try:
        dtype = np.dtype(name)
    except (TypeError, ValueError, SyntaxError) as error:
        raise BadInput(f"{path.name}: dtype", name, "is not a type: write for example uint16") from error
    if dtype.kind not in "iufb":
        raise BadInput(f"{path.name}: dtype", name, "cannot be counts: write for example uint16")
    return dtype


def _mapped(path: Path, shape: tuple[int, ...], dtype: np.dtype, skip: tuple[int, int], order: Any) -> Any:
    offset, gap = skip
    if not isinstance(shape, (tuple, list)) or len(shape) not in (3, 4) or min(shape) < 1:
        fix = "must be [pattern, y, x] or [slow, fast, y, x]"
        raise BadInput(f"{path.name}: shape", shape, fix)
    if offset < 0 or gap < 0 or (gap and order == "F"):
        fix = "must not be negative, and a gap needs order C"
        raise BadInput(f"{path.name}: offset, gap", (offset, gap), fix)
    frames = math.prod(shape[:-2])
    need = offset + frames * (math.prod(shape[-2:]) * dtype.itemsize + gap)
    size = path.stat().st_size
    if size not in (need, need - gap) or size < offset:
        fix = f"bytes long, but shape, dtype, offset and gap make {need}: correct one of them"
        raise BadInput(path.name, f"is {size}", fix)
    if not gap:
        return np.memmap(path, dtype, "r", offset, tuple(shape), order)
    return _with_gaps(path, tuple(shape), dtype, skip)


def _with_gaps(path: Path, shape: tuple[int, ...], dtype: np.dtype, skip: tuple[int, int]) -> np.memmap:
    """Patterns as strides over the file's bytes, so that the last gap may be missing."""
    whole = np.memmap(path, np.uint8, "r", skip[0])
    row = shape[-1] * dtype.itemsize
    frame = shape[-2] * row + skip[1]
    strides = (frame * shape[1], frame)[-(len(shape) - 2) :]
    return np.ndarray.__new__(np.memmap, shape, dtype, whole, 0, (*strides, row, dtype.itemsize))
