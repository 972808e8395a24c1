"""Other pixels for the same pattern, pixels around it, or a finer or larger grid for the model."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from phaseloom.data.counts import map_counts
from phaseloom.data.prepare._shared import (
    cut_middle,
    float_dtype,
    require_detector,
    require_number,
    require_shape,
    resample_probe,
    tilt_probe,
)
from phaseloom.data.prepare._shared import make_example as _example  # noqa: F401 - for the examples
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput

__all__ = ["enlarge", "pad", "resample"]

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
        raise BadInput("resample.aligned", aligned, "is not known: write zero frequency or pixel edges")
    old = scan.geometry.shape
    new = _resolve_shape(scan, factor, to)
    rows, columns = (_interpolation_weights(n, m, aligned) for n, m in zip(old, new, strict=True))
    move = partial(_interpolate, rows=rows, columns=columns)
    gain = (new[0] / old[0]) * (new[1] / old[1])
    angle = tuple(a * n / m for a, n, m in zip(scan.geometry.angle, old, new, strict=True))
    return replace(
        scan,
        counts=map_counts(scan.counts, move, lazy=True if lazy else None),
        geometry=replace(scan.geometry, shape=new, angle=angle),
        mask=abs(rows) @ ~scan.mask @ abs(columns).T < 1e-9,
        background=None if scan.background is None else move(scan.background),
        flat=None if scan.flat is None else move(scan.flat) * gain,
        probe=None if scan.probe is None else _resample_probe(scan, new, aligned),
        descan=None if scan.descan is None else scan.descan * np.divide(new, old),
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
    shape = require_shape(scan, to, "enlarge.to")
    if any(new < old for new, old in zip(shape, scan.geometry.shape, strict=True)):
        raise BadInput("enlarge.to", shape, f"is smaller than the detector {scan.geometry.shape}")
    if match not in ("crop", "resample"):
        raise BadInput("enlarge.match", match, "is not known: write crop or resample")
    finer = match == "resample"
    shift = scan.descan
    if finer and shift is not None:
        shift = shift * np.divide(shape, scan.geometry.shape)
    return replace(scan, modelled=_enlarge_geometry(scan.geometry, shape, finer=finer), descan=shift)


def _enlarge_geometry(geometry: Geometry, shape: tuple[int, int], *, finer: bool) -> Geometry:
    if not finer:
        return geometry.crop(shape)
    angle = tuple(a * n / m for a, n, m in zip(geometry.angle, geometry.shape, shape, strict=True))
    return replace(geometry, shape=shape, angle=angle)


def _resolve_shape(
    scan: Scan4D, factor: float | tuple[float, float] | None, to: tuple[int, int] | None
) -> tuple[int, int]:
    if (factor is None) == (to is None):
        raise BadInput("resample", None, "needs one of factor and to")
    if to is not None:
        wanted = require_shape(scan, to, "resample.to")
    else:
        factors = np.broadcast_to(np.asarray(factor, float), 2)
        for number in factors:
            require_number(float(number), "resample.factor", above=0)
        rows, columns = (round(n * float(f)) for n, f in zip(scan.geometry.shape, factors, strict=True))
        wanted = (rows, columns)
        require_detector(scan, wanted, "resample.factor")
    if min(wanted) < 2:
        raise BadInput("resample", wanted, "leaves less than two pixels")
    return wanted


def _interpolation_weights(old: int, new: int, aligned: Aligned) -> np.ndarray:
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


def _interpolate(stack: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    kind = float_dtype(stack.dtype)
    return np.matmul(rows.astype(kind), stack.astype(kind, copy=False)) @ columns.T.astype(kind)


def _resample_probe(scan: Scan4D, new: tuple[int, int], aligned: Aligned) -> np.ndarray:
    probe = np.asarray(scan.probe)
    old = scan.geometry.shape
    if scan.geometry.near:
        return resample_probe(probe, new)
    power = (abs(probe) ** 2).sum()
    if aligned == "pixel edges":
        y, x = (((n // 2 + 0.5) * m / n - 0.5 - m // 2) * n / m for n, m in zip(old, new, strict=True))
        probe = tilt_probe(probe, (y, x))
    room = cut_middle(probe, new)
    left = (abs(room) ** 2).sum()
    return (room * np.sqrt(power / left if left > 0 else 1.0)).astype(probe.dtype)


Fill = Literal["none", "constant", "edge", "ramp", "exponential", "power"]


def pad(
    scan: Scan4D,
    /,
    *,
    to: tuple[int, int],
    fill: Fill = "none",
    value: float = 0.0,
    threshold: float = 70.0,
    lazy: bool = False,
) -> Scan4D:
    """Surround the detector with more pixels up to ``to`` = (y, x).

    In the far field the object pixel shrinks; a probe that came with the data is interpolated. New
    pixels were not measured: unless they are filled they are masked, so the fit may put there what it
    likes. Filled ones are compared as data, the same for every pattern, which steers the fit towards
    few counts at high angles.

    Args:
        scan: the scan.
        to: pixels (y, x).
        fill: ``none``; ``constant``: ``value``; ``edge``: the mean pattern's outermost pixels go on;
            ``ramp``: from those straight to ``value`` at the new edge; ``exponential`` and ``power``:
            amplitudes that fall as ``a exp(-b r)`` or ``a r^-b``, fitted to the mean pattern.
        value: counts.
        threshold: the fit uses pixels whose mean amplitude is below this percentile, so that disks and
            spots are left out.
        lazy: pad patterns when they are read, even if they are in memory.

    Raises:
        BadInput: ``to`` is smaller than the detector, or nothing to fit.

    Example:
        >>> padded = pad(_example(), to=(12, 12))
        >>> padded.counts.shape, int(padded.mask.sum())
        ((3, 12, 12), 64)
        >>> filled = pad(_example(), to=(12, 12), fill="ramp", lazy=True)
        >>> int(filled.mask.sum()), filled.counts[np.array([0])][0, 0, 0]
        (144, np.float64(0.0))
    """
    shape = require_shape(scan, to, "pad.to")
    if any(new < old for new, old in zip(shape, scan.geometry.shape, strict=True)):
        raise BadInput("pad.to", shape, f"is smaller than the detector {scan.geometry.shape}: use crop")
    frame = None if fill == "none" else _build_frame(scan, shape, fill, value, threshold)
    put = partial(cut_middle, shape=shape) if frame is None else _PutInFrame(frame, scan.geometry.shape)
    probe = scan.probe
    if probe is not None:
        probe = cut_middle(probe, shape) if scan.geometry.near else resample_probe(probe, shape)
    return replace(
        scan,
        counts=map_counts(scan.counts, put, lazy=True if lazy else None),
        geometry=scan.geometry.crop(shape),
        mask=cut_middle(scan.mask, shape) | (frame is not None and _outside_mask(scan, shape)),
        background=None if scan.background is None else cut_middle(scan.background, shape),
        flat=None
        if scan.flat is None
        else np.where(_outside_mask(scan, shape), 1.0, cut_middle(scan.flat, shape)),
        probe=probe,
    )


@dataclass(frozen=True)
class _PutInFrame:
    """Patterns put in the middle of a frame."""

    frame: np.ndarray
    inner: tuple[int, int]

    def __call__(self, stack: np.ndarray) -> np.ndarray:
        frame = self.frame
        whole = stack.dtype.kind != "f" and not np.array_equal(frame, np.rint(frame))
        out = np.empty((len(stack), *frame.shape), float_dtype(stack.dtype) if whole else stack.dtype)
        out[:] = frame
        rows, columns = _middle_slices(self.inner, frame.shape)
        out[:, rows, columns] = stack
        return out


def _middle_slices(inner: tuple[int, ...], outer: tuple[int, ...]) -> tuple[slice, slice]:
    rows, columns = (
        slice(new // 2 - old // 2, new // 2 - old // 2 + old) for old, new in zip(inner, outer, strict=True)
    )
    return rows, columns


def _outside_mask(scan: Scan4D, shape: tuple[int, int]) -> np.ndarray:
    out = np.ones(shape, bool)
    out[_middle_slices(scan.geometry.shape, shape)] = False
    return out


def _build_frame(
    scan: Scan4D, shape: tuple[int, int], fill: Fill, value: float, threshold: float
) -> np.ndarray:
    """What surrounds every pattern, ``(y, x)`` counts."""
    require_number(value, "pad.value", least=0)
    if fill == "constant":
        return np.full(shape, float(value))
    mean = np.clip(scan.mean_pattern(), 0, None)
    if fill in ("edge", "ramp"):
        return _extend_edges(_fill_bad_pixels(mean, scan.mask), shape, fill, value)
    if fill not in ("exponential", "power"):
        raise BadInput("pad.fill", fill, "is not known: write none, constant, edge, ramp, exponential, power")
    if not 0 < threshold <= 100:
        raise BadInput("pad.threshold", threshold, "must be a percentile above 0 and at most 100")
    return _fit_decay(np.sqrt(mean), scan.mask, shape, fill, threshold)


def _fill_bad_pixels(image: np.ndarray, good: np.ndarray) -> np.ndarray:
    """An image whose bad pixels have the value of the nearest good one."""
    from scipy.ndimage import distance_transform_edt

    nearest: Any = distance_transform_edt(~good, return_distances=False, return_indices=True)
    return image[tuple(nearest)]


def _extend_edges(mean: np.ndarray, shape: tuple[int, int], fill: Fill, value: float) -> np.ndarray:
    places = _middle_slices(mean.shape, shape)
    width = [(place.start, new - place.stop) for place, new in zip(places, shape, strict=True)]
    amplitude = np.sqrt(mean)
    if fill == "edge":
        return np.pad(amplitude, width, mode="edge") ** 2
    return np.pad(amplitude, width, mode="linear_ramp", end_values=np.sqrt(value)) ** 2


def _fit_decay(
    amplitude: np.ndarray, good: np.ndarray, shape: tuple[int, int], fill: Fill, threshold: float
) -> np.ndarray:
    """A fall with the distance from zero frequency, fitted to the dim pixels by least squares."""
    from scipy.optimize import curve_fit

    dim = good & (amplitude <= np.percentile(amplitude[good], threshold))
    away = _distance_from_middle(amplitude.shape)
    far = away[dim & (away > 0)]
    seen = amplitude[dim & (away > 0)]
    if len(far) < 3 or not amplitude[good].any():
        raise BadInput("pad.threshold", threshold, "leaves nothing to fit a fall to: raise it, or fill edge")
    if not seen.any():
        return np.zeros(shape)  # no count at high angles: none is what lies beyond
    middle_ = float(np.median(far))
    laws = {
        "power": lambda r, a, b: a * (r / middle_) ** -b,
        "exponential": lambda r, a, b: a * np.exp(-b * (r / middle_ - 1)),
    }
    start = (max(float(np.median(seen)), 1e-9), 1.0)
    limits = ((0.0, 0.0), (np.inf, 20.0))
    (height, fall), _ = curve_fit(laws[fill], far, seen, p0=start, bounds=limits)
    return laws[fill](np.maximum(_distance_from_middle(shape), 1e-3 * middle_), height, fall) ** 2


def _distance_from_middle(shape: tuple[int, ...]) -> np.ndarray:
    y, x = (np.arange(n) - n // 2 for n in shape)
    return np.hypot(y[:, None], x[None, :])
