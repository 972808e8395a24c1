"""Bare numbers on disk (EMPAD and home-made detectors), mapped into memory."""

import logging
import math
import os
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np

from phaseloom.data.formats.files import require_file
from phaseloom.data.formats.header import About
from phaseloom.data.formats.quantities.stored_type import suggest_dtype
from phaseloom.data.formats.setup import Setup, accept_setup, build_scan
from phaseloom.data.growing.unfinished import get_unfinished
from phaseloom.data.remarks import warn
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput

__all__ = ["ABOUT", "read"]

ABOUT = About(
    files=".raw .bin .dat",
    reading="batch by batch",
    states="nothing, not even shape and type",
    compared="numpy",
)

log = logging.getLogger(__name__)


@accept_setup()
def read(
    path: str | os.PathLike[str],
    /,
    *,
    shape: tuple[int, ...],
    dtype: str = "float32",
    offset: int = 0,
    gap: int = 0,
    order: Literal["C", "F"] = "C",
    **setup: Unpack[Setup],
) -> Scan4D:
    """Counts of a known shape and type, after ``offset`` bytes and with ``gap`` bytes after each pattern.

    An EMPAD file of 130 rows, the last two of which hold no pixels, is ``shape=(slow, fast, 128, 128),
    gap=1024``. A warning names another type of the same size, as in the other byte order, if only that one
    makes plausible counts.

    Args:
        path: the file.
        **setup: see `Setup`.
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
    path = require_file(path)
    data = _map_file(path, shape, _parse_dtype(path, dtype), (offset, gap), order)
    if data.ndim == 3 and len(shape) == 4:  # of a raster that is not finished
        setup["grid"] = setup.get("grid") or (shape[0], shape[1])
    better = suggest_dtype(data)
    if better is not None:
        text = "%s: values are not plausible counts as %s, but are as %s: check dtype, write dtype: '%s'"
        warn(log, text, path.name, data.dtype.str, better.str, better.str)
    return build_scan(path, data, setup)


def _parse_dtype(path: Path, name: str) -> np.dtype:
    try:
        dtype = np.dtype(name)
    except (TypeError, ValueError, SyntaxError) as error:
        raise BadInput(f"{path.name}: dtype", name, "is not a type: write for example uint16") from error
    if dtype.kind not in "iufb":
        raise BadInput(f"{path.name}: dtype", name, "cannot be counts: write for example uint16")
    return dtype


def _map_file(path: Path, shape: tuple[int, ...], dtype: np.dtype, skip: tuple[int, int], order: Any) -> Any:
    offset, gap = skip
    if not isinstance(shape, (tuple, list)) or len(shape) not in (3, 4) or min(shape) < 1:
        fix = "must be [pattern, y, x] or [slow, fast, y, x]"
        raise BadInput(f"{path.name}: shape", shape, fix)
    if offset < 0 or gap < 0 or (gap and order == "F"):
        fix = "must not be negative, and a gap needs order C"
        raise BadInput(f"{path.name}: offset, gap", (offset, gap), fix)
    frames = math.prod(shape[:-2])
    stride = math.prod(shape[-2:]) * dtype.itemsize + gap
    need = offset + frames * stride
    size = path.stat().st_size
    if get_unfinished() is not None and order == "C" and offset + stride <= size + gap < need:
        frames = (size + gap - offset) // stride
        return _map_frames(path, (frames, *shape[-2:]), dtype, skip)
    if size not in (need, need - gap) or size < offset:
        fix = f"bytes long, but shape, dtype, offset and gap make {need}: correct one of them"
        raise BadInput(path.name, f"is {size}", fix)
    if order == "F":
        return np.memmap(path, dtype, "r", offset, tuple(shape), order)
    return _map_frames(path, tuple(shape), dtype, skip)


def _map_frames(path: Path, shape: tuple[int, ...], dtype: np.dtype, skip: tuple[int, int]) -> np.memmap:
    """Patterns one after the other, with or without bytes between them."""
    offset, gap = skip
    return (
        _map_file_with_gaps(path, shape, dtype, skip) if gap else np.memmap(path, dtype, "r", offset, shape)
    )


def _map_file_with_gaps(
    path: Path, shape: tuple[int, ...], dtype: np.dtype, skip: tuple[int, int]
) -> np.memmap:
    """Patterns as strides over the file's bytes, so that the last gap may be missing."""
    whole = np.memmap(path, np.uint8, "r", skip[0])
    row = shape[-1] * dtype.itemsize
    frame = shape[-2] * row + skip[1]
    strides = (frame * shape[1], frame)[-(len(shape) - 2) :]
    return np.ndarray.__new__(np.memmap, shape, dtype, whole, 0, (*strides, row, dtype.itemsize))
