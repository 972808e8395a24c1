"""Other pixels for the same pattern, or a finer and larger grid for the model than the detector has."""

from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np

from phaseloom.data.counts import map_counts
from phaseloom.data.prepare._shared import example as _example  # noqa: F401 - for the examples
from phaseloom.data.prepare._shared import finite, floating, middle, resampled, size, tilted
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput

__all__ = ["enlarge", "resample"]

Aligned = Literal["zero frequency", "pixel edges"]


def resample(
    scan: Scan4D,
    /,
    *,
    factor: float | tuple[float, float] | None = None,
    to: tuple[int, int] | None = None,
    aligned: Aligned = "zero frequency",
    lazy: bool = False,
) -> Scan4D:
    """Interpolate the patterns bilinearly to ``factor`` times as many pixels; counts are conserved.

    In the far field the object pixel stays and the window grows with the factor, so a probe that came
    with the data gets more room, or less. Fewer pixels collect the counts of those around them (the
    interpolation's triangle is as wide as a new pixel); `bin` does so without interpolation.

    Args:
        scan: the scan.
        factor: new pixels per old one, or one factor for each of (y, x).
        to: pixels (y, x), instead of a factor.
        aligned: what both grids have in common: ``zero frequency``, which stays at ``[N // 2, N // 2]``,
            or the ``pixel edges`` of the detector, which move zero frequency by a part of a pixel; a
            probe that came with the data is tilted by it.
        lazy: interpolate patterns when they are read, even if they are in memory.

    Raises:
        BadInput: no size, two sizes, or one below two pixels.

    Example:
        >>> finer = resample(_example(), factor=2)
        >>> finer.counts.shape, finer.counts[0].sum()
        ((3, 16, 16), np.float64(64.0))
    """
    if aligned not in ("zero frequency", "pixel edges"):
        raise BadInput("resample.aligned", aligned, "is no choice: write zero frequency or pixel edges")
    old = scan.geometry.shape
    new = _wanted(scan, factor, to)
    rows, columns = (_weights(n, m, aligned) for n, m in zip(old, new, strict=True))
    move = partial(_interpolated, rows=rows, columns=columns)
    gain = (new[0] / old[0]) * (new[1] / old[1])
    angle = tuple(a * n / m for a, n, m in zip(scan.geometry.angle, old, new, strict=True))
    return replace(
        scan,
        counts=map_counts(scan.counts, move, lazy=True if lazy else None),
        geometry=replace(scan.geometry, shape=new, angle=angle),
        mask=abs(rows) @ ~scan.mask @ abs(columns).T < 1e-9,
        background=None if scan.background is None else move(scan.background),
        flat=None if scan.flat is None else move(scan.flat) * gain,
        probe=None if scan.probe is None else _probe(scan, new, aligned),
    )


def enlarge(scan: Scan4D, /, *, to: tuple[int, int], match: Literal["crop", "resample"] = "crop") -> Scan4D:
    """Model the patterns on a larger grid than the detector has; counts stay as they are.

    With ``crop`` the model reaches higher angles, of which the detector sees the middle; with
    ``resample`` its pixels are finer, so the beam has more room, and the detector's collect them. This
    must be the last step, for it says nothing about the patterns.

    Raises:
        BadInput: a grid smaller than the detector.

    Example:
        >>> enlarge(_example(), to=(16, 16)).window.pixel
        (1.25, 1.25)
    """
    shape = size(scan, to, "enlarge.to")
    if any(new < old for new, old in zip(shape, scan.geometry.shape, strict=True)):
        raise BadInput("enlarge.to", shape, f"is smaller than the detector {scan.geometry.shape}")
    if match not in ("crop", "resample"):
        raise BadInput("enlarge.match", match, "is no choice: write crop or resample")
    return replace(scan, modelled=_larger(scan.geometry, shape, finer=match == "resample"))


def _larger(geometry: Geometry, shape: tuple[int, int], *, finer: bool) -> Geometry:
    if not finer:
        return geometry.cropped(shape)
    angle = tuple(a * n / m for a, n, m in zip(geometry.angle, geometry.shape, shape, strict=True))
    return replace(geometry, shape=shape, angle=angle)


def _wanted(
    scan: Scan4D, factor: float | tuple[float, float] | None, to: tuple[int, int] | None
) -> tuple[int, int]:
    if (factor is None) == (to is None):
        raise BadInput("resample", None, "needs one of factor and to")
    if to is not None:
        wanted = size(scan, to, "resample.to")
    else:
        factors = np.broadcast_to(np.asarray(factor, float), 2)
        for number in factors:
            finite(float(number), "resample.factor", above=0)
        rows, columns = (round(n * float(f)) for n, f in zip(scan.geometry.shape, factors, strict=True))
        wanted = (rows, columns)
    if min(wanted) < 2:
        raise BadInput("resample", wanted, "leaves less than two pixels")
    return wanted


def _weights(old: int, new: int, aligned: Aligned) -> np.ndarray:
    """``(new, old)`` weights of an axis: triangles one (larger) pixel wide on either side."""
    factor = new / old
    place = np.arange(new)
    if aligned == "zero frequency":
        where = old // 2 + (place - new // 2) / factor
    else:
        where = (place + 0.5) / factor - 0.5
    width = max(1.0, 1 / factor)
    where = np.clip(where, 0, old - 1) if factor >= 1 else where
    weights = np.maximum(1 - abs(np.arange(old)[None] - where[:, None]) / width, 0)
    return weights / weights.sum(1, keepdims=True) / factor


def _interpolated(stack: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    kind = floating(stack.dtype)
    return np.matmul(rows.astype(kind), stack.astype(kind, copy=False)) @ columns.T.astype(kind)


def _probe(scan: Scan4D, new: tuple[int, int], aligned: Aligned) -> np.ndarray:
    probe, old = np.asarray(scan.probe), scan.geometry.shape
    if scan.geometry.near:
        return resampled(probe, new)
    power = (abs(probe) ** 2).sum()
    if aligned == "pixel edges":
        moved = tuple((n // 2 + 0.5) * m / n - 0.5 - m // 2 for n, m in zip(old, new, strict=True))
        moved = tuple(s * n / m for s, n, m in zip(moved, old, new, strict=True))
        probe = tilted(probe, moved)  # type: ignore[arg-type]
    room = middle(probe, new)
    left = (abs(room) ** 2).sum()
    return (room * np.sqrt(power / left if left > 0 else 1.0)).astype(probe.dtype)
