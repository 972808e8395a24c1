"""The linear map between two sets of positions."""

import math

import numpy as np
from jaxtyping import Float, Real

__all__ = ["find_turn_and_scale", "fit_linear_map"]


def fit_linear_map(
    before: Real[np.ndarray, "n 2"], after: Real[np.ndarray, "n 2"], /
) -> Float[np.ndarray, "2 2"]:
    """What becomes of a distance ``d`` between positions, ``d @ map``, by least squares about both means.

    Example:
        >>> corners = np.array([[0.0, 0.0], [0.0, 2.0], [3.0, 0.0], [3.0, 2.0]])
        >>> (fit_linear_map(corners, 1.5 * corners + 7).round(6) + 0.0).tolist()
        [[1.5, 0.0], [0.0, 1.5]]
    """
    return np.linalg.lstsq(before - before.mean(0), after - after.mean(0), rcond=None)[0]


def find_turn_and_scale(linear: Float[np.ndarray, "2 2"], /) -> tuple[float, float]:
    """Angle (radian, from the row axis towards the column axis) and factor of a linear map.

    The factor is that of lengths on average: the square root of that of areas.

    Example:
        >>> turn, scale = find_turn_and_scale(np.array([[0.0, 2.0], [-2.0, 0.0]]))
        >>> round(turn / math.pi, 6), scale
        (0.5, 2.0)
    """
    turn = math.atan2(linear[0, 1] - linear[1, 0], linear[0, 0] + linear[1, 1])
    return turn, math.sqrt(abs(np.linalg.det(linear)))
