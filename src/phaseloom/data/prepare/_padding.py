"""Pixels that were not measured, around those that were: left out, or filled with what is likely there."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np

from phaseloom.data.counts import map_counts
from phaseloom.data.prepare._shared import example as _example  # noqa: F401 - for the examples
from phaseloom.data.prepare._shared import finite, floating, middle, resampled, size
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput

__all__ = ["pad"]

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
    shape = size(scan, to, "pad.to")
    if any(new < old for new, old in zip(shape, scan.geometry.shape, strict=True)):
        raise BadInput("pad.to", shape, f"is smaller than the detector {scan.geometry.shape}: use crop")
    frame = None if fill == "none" else _frame(scan, shape, fill, value, threshold)
    put = partial(middle, shape=shape) if frame is None else _Put(frame, scan.geometry.shape)
    probe = scan.probe
    if probe is not None:
        probe = middle(probe, shape) if scan.geometry.near else resampled(probe, shape)
    return replace(
        scan,
        counts=map_counts(scan.counts, put, lazy=True if lazy else None),
        geometry=scan.geometry.cropped(shape),
        mask=middle(scan.mask, shape) | (frame is not None and _outside(scan, shape)),
        background=None if scan.background is None else middle(scan.background, shape),
        flat=None if scan.flat is None else np.where(_outside(scan, shape), 1.0, middle(scan.flat, shape)),
        probe=probe,
    )


@dataclass(frozen=True)
class _Put:
    """Patterns put in the middle of a frame."""

    frame: np.ndarray
    inner: tuple[int, int]

    def __call__(self, stack: np.ndarray) -> np.ndarray:
        frame = self.frame
        whole = stack.dtype.kind != "f" and not np.array_equal(frame, np.rint(frame))
        out = np.empty((len(stack), *frame.shape), floating(stack.dtype) if whole else stack.dtype)
        out[:] = frame
        rows, columns = _place(self.inner, frame.shape)
        out[:, rows, columns] = stack
        return out


def _place(inner: tuple[int, ...], outer: tuple[int, ...]) -> tuple[slice, slice]:
    rows, columns = (
        slice(new // 2 - old // 2, new // 2 - old // 2 + old) for old, new in zip(inner, outer, strict=True)
    )
    return rows, columns


def _outside(scan: Scan4D, shape: tuple[int, int]) -> np.ndarray:
    out = np.ones(shape, bool)
    out[_place(scan.geometry.shape, shape)] = False
    return out


def _frame(scan: Scan4D, shape: tuple[int, int], fill: Fill, value: float, threshold: float) -> np.ndarray:
    """What surrounds every pattern, ``(y, x)`` counts."""
    finite(value, "pad.value", least=0)
    if fill == "constant":
        return np.full(shape, float(value))
    mean = np.clip(scan.mean_pattern(), 0, None)
    if fill in ("edge", "ramp"):
        return _continued(_mended(mean, scan.mask), shape, fill, value)
    if fill not in ("exponential", "power"):
        raise BadInput("pad.fill", fill, "is no choice: write none, constant, edge, ramp, exponential, power")
    if not 0 < threshold <= 100:
        raise BadInput("pad.threshold", threshold, "must be a percentile above 0 and at most 100")
    return _falling(np.sqrt(mean), scan.mask, shape, fill, threshold)


def _mended(image: np.ndarray, good: np.ndarray) -> np.ndarray:
    """An image whose bad pixels have the value of the nearest good one."""
    from scipy.ndimage import distance_transform_edt

    nearest = distance_transform_edt(~good, return_distances=False, return_indices=True)
    return image[tuple(nearest)]  # type: ignore[arg-type]


def _continued(mean: np.ndarray, shape: tuple[int, int], fill: Fill, value: float) -> np.ndarray:
    places = _place(mean.shape, shape)
    width = [(place.start, new - place.stop) for place, new in zip(places, shape, strict=True)]
    amplitude = np.sqrt(mean)
    if fill == "edge":
        return np.pad(amplitude, width, mode="edge") ** 2
    return np.pad(amplitude, width, mode="linear_ramp", end_values=np.sqrt(value)) ** 2


def _falling(
    amplitude: np.ndarray, good: np.ndarray, shape: tuple[int, int], fill: Fill, threshold: float
) -> np.ndarray:
    """A fall with the distance from zero frequency, fitted to the dim pixels by least squares."""
    from scipy.optimize import curve_fit

    dim = good & (amplitude <= np.percentile(amplitude[good], threshold))
    away = _radius(amplitude.shape)
    far, seen = away[dim & (away > 0)], amplitude[dim & (away > 0)]
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
    return laws[fill](np.maximum(_radius(shape), 1e-3 * middle_), height, fall) ** 2


def _radius(shape: tuple[int, ...]) -> np.ndarray:
    y, x = (np.arange(n) - n // 2 for n in shape)
    return np.hypot(y[:, None], x[None, :])
