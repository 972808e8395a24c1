"""Hot and dead pixels of a detector, found from the counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from phaseloom.data.scan import Scan4D

__all__ = ["BadPixels", "find_bad_pixels"]

HOT_RATIO = 3.0
"""How many times its neighbours' median a hot pixel has at least."""

DEAD_RATIO = 0.2
"""Share of its neighbours' median that a dead pixel has at most."""

MIN_HOT_EXCESS = 0.2
"""Counts of a hot pixel beyond its neighbours, in units of the mean pixel: fainter ones may be speckle."""

MIN_SIGNIFICANCE = 6.0
"""Standard deviations of counting by which a bad pixel differs from its neighbours."""


@dataclass(frozen=True, eq=False)
class BadPixels:
    """Pixels of a detector that do not count electrons or photons.

    Attributes:
        hot: ``(n, 2)`` (row, column) of pixels that count far more than all their neighbours.
        dead: ``(n, 2)`` of pixels that count far less.
        shape: of the detector.
    """

    hot: np.ndarray
    dead: np.ndarray
    shape: tuple[int, int]

    @property
    def mask(self) -> Bool[np.ndarray, "y x"]:
        """True where a pixel is neither."""
        good = np.ones(self.shape, bool)
        for row, column in (*self.hot, *self.dead):
            good[row, column] = False
        return good

    def lines(self) -> list[str]:
        """A sentence for each kind that was found."""
        kinds = (("hot", self.hot), ("dead", self.dead))
        return [
            f"{len(found)} {name} pixel{'s' * (len(found) > 1)} at (row, column) "
            + ", ".join(f"({row}, {column})" for row, column in found[:10].tolist())
            + (", ..." if len(found) > 10 else "")
            for name, found in kinds
            if len(found)
        ]


def find_bad_pixels(scan: Scan4D, /, *, mean: Float[np.ndarray, "y x"] | None = None) -> BadPixels:
    """Compare each pixel of the mean pattern with the median of the 5 x 5 around it and with its neighbours.

    A pixel is hot if it has more than 3 times that median and more than twice any good neighbour, dead if it
    has less than a fifth of the median where that is bright; both by more than counting explains. A bright
    spot that is one pixel wide in every pattern cannot be told from a hot pixel.

    Args:
        scan: pixels that it masks already are left out.
        mean: its mean pattern, if it is at hand.

    Example:
        >>> from phaseloom.data.scan import Geometry
        >>> geometry = Geometry(wavelength=0.02, shape=(9, 9), angle=(1e-3, 1e-3), beam="electron")
        >>> counts = np.full((50, 9, 9), 4.0); counts[:, 2, 3] = 90; counts[:, 6, 6] = 0
        >>> find_bad_pixels(Scan4D(counts=counts, positions=np.zeros((50, 2)), geometry=geometry)).lines()
        ['1 hot pixel at (row, column) (2, 3)', '1 dead pixel at (row, column) (6, 6)']
    """
    from scipy.ndimage import median_filter

    if mean is None:
        mean = scan.mean_pattern()
    good = scan.mask
    filled = np.where(good, mean, 0.0)
    local = median_filter(filled, 5, mode="nearest")
    noise = MIN_SIGNIFICANCE * np.sqrt((local + 1 / len(scan)) / len(scan))
    faint = MIN_HOT_EXCESS * local.mean()
    high = good & (filled > HOT_RATIO * local + noise + faint)
    neighbours = _max_of_neighbours(np.where(high, 0.0, filled))
    hot = high & (filled > 2 * neighbours)
    dead = good & (filled < DEAD_RATIO * local) & (local - filled > noise)
    return BadPixels(np.argwhere(hot), np.argwhere(dead), (mean.shape[0], mean.shape[1]))


def _max_of_neighbours(image: Float[np.ndarray, "y x"]) -> Float[np.ndarray, "y x"]:
    from scipy.ndimage import maximum_filter

    footprint = np.ones((3, 3), bool)
    footprint[1, 1] = False
    return maximum_filter(image, footprint=footprint, mode="nearest")
