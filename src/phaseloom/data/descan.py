"""Where the disk lies in each pattern: descan, as a smooth function of the scan's coordinates."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, Float, Int

from phaseloom.data.counts import split_indices
from phaseloom.data.scan import Scan4D

__all__ = ["fit_descan", "measure_deflections"]

WINDOW_IN_RADII = 1.4
"""Radius of the window in which the centre of mass is taken, in radii of the disk."""

MIN_DESCAN_SIGNIFICANCE = 3.0
"""Standard errors by which a descan has to exceed what the object and counting make of it."""

CORRELATION_LENGTH = 3.0
"""Places of the scan over which the object moves patterns alike."""

LINES_OF_NEIGHBOURHOOD = 2.0
"""Standard deviation, in lines, of the mean that a line is compared with."""

MAX_SHARE_OF_OBJECT = 0.5
"""Share of the variance of lines that the object may make; else no shift of a line is believed."""

MIN_LINES = 8
"""Lines, and patterns in each, from which shifts of single lines are looked for."""


def measure_deflections(
    scan: Scan4D,
    /,
    *,
    centre: tuple[float, float],
    radius: float,
    mask: Bool[np.ndarray, "y x"] | None = None,
    mean: Float[np.ndarray, "y x"] | None = None,
) -> Float[np.ndarray, "pattern 2"]:
    """Centres of mass in a window around the disk, detector pixels (row, column) off ``centre``, in one pass.

    Untrusted pixels hold what they hold in the mean pattern smoothed over them, in proportion to the counts
    of the pattern, so that they do not pull.

    Args:
        scan: a far-field scan.
        centre: of the disk, pixel (row, column).
        radius: of the disk, detector pixels.
        mask: True where a pixel can be trusted; default: that of the scan.
        mean: the mean pattern, if it is at hand.

    Returns:
        ``(pattern, 2)``; NaN of patterns without counts.
    """
    from scipy.ndimage import median_filter

    good = scan.mask if mask is None else scan.mask & mask
    mean = scan.mean_pattern() if mean is None else mean
    axes = np.indices(mean.shape).astype(np.float64) - np.asarray(centre)[:, None, None]
    window = np.hypot(*axes) < WINDOW_IN_RADII * radius
    table = np.stack([window * 1.0, *(axes * window)], -1)
    filled = np.where(good, mean, median_filter(np.where(good, mean, 0.0), 5))
    missing = (filled * ~good).ravel() @ table.reshape(-1, 3) / max(filled[window & good].sum(), 1e-30)
    used = (table * good[..., None]).reshape(-1, 3).astype(np.float32)
    sums = np.zeros((len(scan), 3))
    for index in split_indices(scan.counts):
        stack = np.asarray(scan.counts[index], np.float32)
        sums[index] = stack.reshape(len(index), -1) @ used
    sums = sums + sums[:, :1] * missing
    return np.where(sums[:, :1] > 0, sums[:, 1:], math.nan) / np.maximum(sums[:, :1], 1e-9)


def fit_descan(
    deflections: Float[np.ndarray, "pattern 2"],
    positions: Float[np.ndarray, "pattern 2"],
    places: Int[np.ndarray, "pattern 2"] | None = None,
    /,
) -> Float[np.ndarray, "pattern 2"] | None:
    """The plane through the centres of mass and, of a raster, a shift of each line.

    A mean slope of the object's phase, and a parabola of it, cannot be told from descan. A line is shifted by
    what its mean differs from its neighbours', as far as that exceeds what the object makes of it: the
    variance within lines, and between the columns of the raster, tell how much that is.

    Args:
        deflections: centres of mass of all patterns, detector pixels; NaN of patterns that tell nothing.
        positions: stated positions, angstrom.
        places: line of the raster and place in it of each pattern, if they are on one; some may be missing.

    Returns:
        ``(pattern, 2)`` detector pixels, or ``None``: not significant.
    """
    good = np.isfinite(deflections).all(1)
    if not good.any():
        return None
    arm = positions - positions[good].mean(0)
    arm = arm / max(float(np.abs(arm).max()), 1e-300)
    whole = np.column_stack([np.ones(len(arm)), arm])
    arm, design, deflections = arm[good], whole[good], deflections[good]
    weight = np.ones(len(deflections))
    plane = np.zeros((3, 2))
    for _ in range(5):  # robust: strong scatterers pull less
        plane = np.linalg.lstsq(design * weight[:, None], deflections * weight[:, None], rcond=None)[0]
        left = np.linalg.norm(deflections - design @ plane, axis=1)
        weight = 1 / np.maximum(1, left / (2 * max(float(np.median(left)), 1e-12)))
    left = deflections - design @ plane
    # neighbours are not independent: the object moves whole regions
    independent = max(4.0, len(deflections) / CORRELATION_LENGTH**2)
    error = np.sqrt(left.var(0) / independent / np.maximum(arm.var(0)[:, None], 1e-12))
    significant = bool((np.abs(plane[1:]) > MIN_DESCAN_SIGNIFICANCE * error).any())
    found = whole @ plane if significant else np.zeros_like(positions)
    if places is not None and min(shape := places.max(0) + 1) >= MIN_LINES:
        raster = np.full((*shape, 2), math.nan)
        raster[tuple(places[good].T)] = left
        found = found + _fit_line_shifts(raster)[places[:, 0]]
    return found if found.any() else None


def _fit_line_shifts(left: Float[np.ndarray, "slow fast 2"]) -> Float[np.ndarray, "slow 2"]:
    """Shift of each line against its neighbours, the most likely where the object makes a share of it.

    Places that are missing are NaN; lines without any are as those around them.
    """
    count, length, _ = left.shape
    by_line, by_column = (_take_off_neighbours(_average_lines(one)) for one in (left, left.swapaxes(0, 1)))
    full = np.isfinite(left[..., 0]).any(1)
    within = np.nanvar(left[full], axis=1).mean(0) * CORRELATION_LENGTH / length
    between = by_column.var(0) * count / length
    share = np.maximum(within, between) / np.maximum(by_line.var(0), 1e-300)
    return by_line * np.where(share < MAX_SHARE_OF_OBJECT, 1 - share, 0.0)


def _average_lines(left: Float[np.ndarray, "line place 2"]) -> Float[np.ndarray, "line 2"]:
    """Means of lines over the places that they have; between lines of those without any."""
    good = np.isfinite(left[..., 0])
    there = np.flatnonzero(good.any(1))
    means = np.nanmean(left[there], axis=1)
    every = np.arange(len(left))
    return np.stack([np.interp(every, there, means[:, axis]) for axis in (0, 1)], 1)


def _take_off_neighbours(values: Float[np.ndarray, "line 2"]) -> Float[np.ndarray, "line 2"]:
    """What is left of a series without its slow changes, which the object makes too."""
    from scipy.ndimage import gaussian_filter1d

    return values - gaussian_filter1d(values, LINES_OF_NEIGHBOURHOOD, axis=0)
