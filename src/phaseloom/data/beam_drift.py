"""Slow changes of the beam's intensity during a scan, from the counts of whole patterns."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from phaseloom.data.counts import split_indices
from phaseloom.data.scan import Scan4D

__all__ = ["measure_beam_drift", "smooth_intensity"]

INTENSITY_SMOOTHING = 1 / 8
"""Standard deviation, in sides of the scan, of the filter that tells a drift of the beam from the object."""

MIN_DRIFT_OVER_CHANCE = 3.0
"""Slow changes over those that what is left of the counts has in any other order, to be believed."""

ORDERS_BY_CHANCE = 8
"""Orders of the patterns that are drawn to know that."""


def measure_beam_drift(scan: Scan4D, /) -> Float[np.ndarray, " pattern"] | None:
    """The slow part of the counts of whole patterns, mean 1; ``None`` where chance explains it.

    What an object scatters beyond the detector looks alike if it changes slowly over the scan.

    Args:
        scan: its patterns are read once.

    Example:
        >>> from phaseloom.data.scan import Geometry
        >>> geometry = Geometry(wavelength=0.02, shape=(8, 8), angle=(1e-3, 1e-3), beam="electron")
        >>> counts = np.random.default_rng(0).poisson(np.linspace(100, 110, 144)[:, None, None], (144, 8, 8))
        >>> scan = Scan4D(counts=counts, positions=np.zeros((144, 2)), geometry=geometry, grid=(12, 12))
        >>> drift = measure_beam_drift(scan)
        >>> bool(1.06 < drift[-1] / drift[0] < 1.1)
        True
    """
    index = split_indices(scan.counts)
    total = np.concatenate([np.asarray(scan.counts[one])[:, scan.mask].sum(1, float) for one in index])
    if not total.all():
        return None
    slow = smooth_intensity(total, scan.grid)
    rng = np.random.default_rng(0)
    rest = total / slow  # of a steady beam
    chance = [smooth_intensity(rng.permutation(rest), scan.grid).std() for _ in range(ORDERS_BY_CHANCE)]
    return slow if slow.std() > MIN_DRIFT_OVER_CHANCE * max(chance) else None


def smooth_intensity(
    total: Float[np.ndarray, " pattern"], grid: tuple[int, int] | None, /
) -> Float[np.ndarray, " pattern"]:
    """The slow part of the intensity of patterns, in units of its mean.

    Args:
        total: counts of each pattern.
        grid: (slow, fast) of a raster; otherwise patterns are filtered in their order.

    Example:
        >>> smooth_intensity(np.full(16, 3.0), (4, 4)).round(6).tolist() == [1.0] * 16
        True
    """
    from scipy.ndimage import gaussian_filter

    values = total.reshape(grid) if grid is not None else total
    sigma = [INTENSITY_SMOOTHING * n for n in values.shape]
    slow = np.asarray(gaussian_filter(values, sigma, mode="nearest"), np.float64).ravel()
    return slow / slow.mean()
