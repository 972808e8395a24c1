"""The area that a scan has for each of its positions, from which doses per area follow."""

import math

import numpy as np
from jaxtyping import Float

__all__ = ["measure_area_per_position", "measure_hull"]

MIN_RATIO_OF_SIDES = 1e-9
"""Spread across a line of positions, over that along it, below which they enclose no area."""


def measure_area_per_position(
    positions: Float[np.ndarray, "n 2"], /, *, grid: tuple[int, int] | None = None
) -> float | None:
    """Area for each position of a scan, in squared units of the positions; ``None`` where they do not move.

    Of a raster it is the area of its cell, the product of the steps where these are perpendicular, however
    the raster is turned. Other positions have the area of their convex hull, widened by half the mean
    distance of neighbours on all sides, over their number. That is the same where they form a raster. Counts
    of a pattern over this area are the dose that an object gets that is scanned over more than the width of
    the beam.

    Args:
        positions: ``(n, 2)``.
        grid: (slow, fast) where they are a raster.

    Example:
        >>> places = np.indices((4, 5)).reshape(2, -1).T * np.array([0.4, 0.5])
        >>> area = measure_area_per_position(places, grid=(4, 5))
        >>> bool(np.isclose(area, 0.2)), bool(np.isclose(measure_area_per_position(places), 0.2, rtol=0.02))
        (True, True)
    """
    if grid is not None and min(grid) > 1 and grid[0] * grid[1] == len(positions):
        places = positions.reshape(*grid, 2)
        slow, fast = (np.diff(places, axis=axis).reshape(-1, 2).mean(0) for axis in (0, 1))
        area = abs(float(slow[0] * fast[1] - slow[1] * fast[0]))
        if area > 0:
            return area
    if len(positions) < 2:
        return None
    hull, perimeter = measure_hull(positions)
    # n a = hull + perimeter / 2 * sqrt(a) + a, the last term of the corners
    half = perimeter / 2
    others = len(positions) - 1
    side = (half + math.sqrt(half**2 + 4 * others * hull)) / (2 * others)
    return side**2 or None


def measure_hull(places: Float[np.ndarray, "n 2"], /) -> tuple[float, float]:
    """Area and perimeter of the convex hull of points; of points on a line zero, and twice their extent.

    Example:
        >>> np.round(measure_hull(np.array([[0.0, 0.0], [0.0, 3.0], [0.0, 1.0]])), 6).tolist()
        [0.0, 6.0]
    """
    centred = places - places.mean(0)
    _, spread, turn = np.linalg.svd(centred, full_matrices=False)
    if len(places) < 3 or spread[-1] <= MIN_RATIO_OF_SIDES * spread[0]:
        return 0.0, 2 * float(np.ptp(centred @ turn[0]))
    from scipy.spatial import ConvexHull  # a tenth of a second

    hull = ConvexHull(places / spread[0])  # of two dimensions, whose area is called its volume
    return float(hull.volume) * float(spread[0]) ** 2, float(hull.area) * float(spread[0])
