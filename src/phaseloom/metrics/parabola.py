"""The vertex of a parabola through three values at equal steps."""

from typing import Any

import numpy as np

__all__ = ["find_vertex"]


def find_vertex(below: Any, at: Any, above: Any, /) -> Any:
    """Where a parabola through three values is lowest, in steps from the middle one; negate those of a peak.

    Of values that do not bend upwards, it is infinitely far on the side of the lower end (zero, if both ends
    are equal): callers bound it.

    Args:
        below: a number, or an array, a step below.
        at: the same in the middle.
        above: the same a step above.

    Example:
        >>> float(find_vertex(4.0, 1.0, 0.0)), float(find_vertex(3.0, 2.0, 1.0))
        (1.0, inf)
    """
    bend = np.asarray(below - 2 * at + above, float)
    fall = np.asarray(below - above, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        beyond = np.where(fall == 0, 0.0, np.copysign(np.inf, fall))
        return np.where(bend > 0, fall / (2 * bend), beyond)[()]
