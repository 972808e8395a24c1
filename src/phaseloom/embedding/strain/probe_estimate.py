"""Estimate the disk of a scan's Bragg reflections from its brightest spots."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import optimize

from phaseloom.embedding.strain.disk_likelihood import DiskState, DiskWindows, expand_disks
from phaseloom.embedding.strain.disk_probe import DiskProbe, correlate_disk, find_peaks

__all__ = ["estimate_probe"]

RADII = tuple(1.5 * 1.12**step for step in range(22))  # pixels that are tried: 1.5 to 16
MIN_SPOT_SIGNIFICANCE = 6.0  # standard deviations of shot noise, of spots that the disk is fitted to
SPOTS_OF_PATTERN = 4
MIN_SHARE_OF_CONTRAST = 0.4  # of the largest, for the disk of a smaller radius
MAX_SPOTS = 40
SHARES_OF_RADIUS = (0.8, 0.9, 1.0, 1.1)  # with which the fit is tried first
WIDTHS = (0.4, 0.65, 1.05)  # pixels of the edge, likewise
ITERATIONS = 6
MAX_SHIFT_OF_PROBE = 1.0  # pixels of an iteration


def estimate_probe(
    patterns: np.ndarray, mask: np.ndarray, /, radius: float | None = None
) -> DiskProbe | None:
    """The disk that explains the brightest spots of some patterns, by maximum likelihood.

    Args:
        patterns: ``(m, y, x)`` counts.
        mask: ``(y, x)``, True where a pixel can be trusted.
        radius: pixels, kept; default: fitted.

    Returns:
        ``None`` where no spot stands out from noise.
    """
    radii = [one for one in (RADII if radius is None else (radius,)) if 4 * one < min(mask.shape)]
    start = _choose_radius(patterns, mask, radii)
    if start is None:
        return None
    cut = _cut_spots(patterns, mask, start)
    if cut is None:
        return None

    def build(values: np.ndarray) -> DiskProbe:
        return DiskProbe(float(np.exp(values[0])) if radius is None else radius, float(np.exp(values[1])))

    def loss(values: np.ndarray) -> float:
        return _measure_deviance(*cut, build(values))

    # a wide sharp disk and a narrow soft one both fit fairly: the search begins in the better valley
    shares = SHARES_OF_RADIUS if radius is None else (1.0,)
    first = min((np.log([share * start.radius, width]) for share in shares for width in WIDTHS), key=loss)
    simplex = first + np.array([[0.0, 0.0], [0.08, 0.0], [0.0, 0.3]])
    found = optimize.minimize(
        loss, first, method="Nelder-Mead", options={"initial_simplex": simplex, "maxfev": 36, "xatol": 2e-3}
    )
    best = build(found.x)
    return replace(best, width=float(np.clip(best.width, 0.3, 4)))


def _choose_radius(patterns: np.ndarray, mask: np.ndarray, radii: Sequence[float]) -> DiskProbe | None:
    """The smallest disk whose spots stand out better than those of somewhat larger and smaller ones.

    Counts in a disk over its radius rise up to that of a spot, and fall beyond it until others are reached.
    """
    contrast, significance = [], []
    for radius in radii:
        probe = DiskProbe(radius)
        maps = correlate_disk(patterns, probe, mask).max((1, 2))
        # significance is an excess over its root: its square counts electrons
        contrast.append(float(np.mean(maps**2 / patterns.sum((1, 2)).clip(1))) / radius)
        significance.append(float(np.percentile(maps, 75)))
    least = MIN_SHARE_OF_CONTRAST * max(contrast, default=0.0)
    for number, value in enumerate(contrast):
        around = contrast[max(0, number - 2) : number + 3]
        if value >= max(around) and value >= least and significance[number] >= MIN_SPOT_SIGNIFICANCE:
            return DiskProbe(radii[number])
    return None


def _cut_spots(
    patterns: np.ndarray, mask: np.ndarray, probe: DiskProbe
) -> tuple[DiskWindows, np.ndarray] | None:
    """Windows of the brightest spots, from the middle, and the centres ``(m, 2)`` of the spots in them."""
    half = int(np.ceil(1.25 * probe.radius + 3))
    found = []
    for number, significance in enumerate(correlate_disk(patterns, probe, mask)):
        places, heights = find_peaks(significance, MIN_SPOT_SIGNIFICANCE, probe.radius)
        for place, height in zip(places[:SPOTS_OF_PATTERN], heights, strict=False):
            low = np.rint(place).astype(int) - half
            if (low >= 0).all() and (low + 2 * half < mask.shape).all():
                found.append((float(height), number, low, place - low - half))
    if not found:
        return None
    found = sorted(found, key=lambda one: -one[0])[:MAX_SPOTS]
    side = slice(0, 2 * half + 1)
    counts = [patterns[number, low[0] :, low[1] :][side, side] for _, number, low, _ in found]
    good = [mask[low[0] :, low[1] :][side, side] for _, _, low, _ in found]
    y, x = np.broadcast_arrays(*np.indices(counts[0].shape)[:, None] - half, np.empty((len(found), 1, 1)))[:2]
    windows = DiskWindows(np.stack(counts).astype(float), np.stack(good), y, x)
    return windows, np.stack([place for *_, place in found])


def _measure_deviance(windows: DiskWindows, centres: np.ndarray, probe: DiskProbe) -> float:
    """Poisson deviance of spots whose places, heights, slopes and backgrounds are fitted."""

    def about(places: np.ndarray) -> DiskWindows:
        y, x = windows.y - places[:, :1, None], windows.x - places[:, 1:, None]
        return DiskWindows(windows.counts, windows.good, y, x)

    state = DiskState.begin(about(centres), probe)
    for _ in range(ITERATIONS):
        step = expand_disks(about(centres), probe, state)
        moved = np.linalg.solve(step.information + 1e-6 * np.eye(2), step.score[..., None])[..., 0]
        moved = np.clip(moved, -MAX_SHIFT_OF_PROBE, MAX_SHIFT_OF_PROBE)
        centres = centres + moved
        state = step.update(moved)
    return float(expand_disks(about(centres), probe, state).deviance.sum())
