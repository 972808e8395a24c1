"""The middle of a mean pattern, from the pixels that count."""

import numpy as np
from jaxtyping import Bool, Float

__all__ = ["find_middle"]

MAX_STEPS = 50
TOLERANCE = 1e-3
"""Pixels by which the middle moves in the last step."""


def find_middle(
    light: Float[np.ndarray, "y x"], good: Bool[np.ndarray, "y x"], /
) -> tuple[float, float] | None:
    """Centre of mass ``(y, x)`` of the pixels whose mirror images are not masked either; none without light.

    A gap of a detector takes the light of one side only, and a centre of mass follows the other: by 1.8
    pixels where four rows cross a ring of 32 pixels. Of each pixel that is masked, the one on the other side
    of the middle is left out too, until the middle stays where it is. Patterns that are symmetric about their
    middle then have the right one; without masked pixels it is the centre of mass.

    Args:
        light: mean pattern without its background, not negative.
        good: pixels that count.

    Example:
        >>> y, x = np.indices((33, 33))
        >>> disk = 1.0 * (np.hypot(y - 16, x - 16) < 9)
        >>> gap = (y > 20) & (y < 24)
        >>> [round(at, 2) for at in find_middle(disk, ~gap)]
        [16.0, 16.0]
    """
    rows, columns = np.nonzero(good & (light > 0))
    weights = light[rows, columns]
    if not weights.sum() > 0:
        return None
    places = np.stack([rows, columns])
    middle = places @ weights / weights.sum()
    for _ in range(0 if good.all() else MAX_STEPS):
        kept = weights * _has_mirror_image(places, middle, good)
        if not kept.sum() > 0:
            break
        before = middle
        middle = (before + places @ kept / kept.sum()) / 2  # whole pixels come and go: no steps to and fro
        if np.abs(middle - before).max() < TOLERANCE:
            break
    return float(middle[0]), float(middle[1])


def _has_mirror_image(places: np.ndarray, middle: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Whether what lies opposite of each place is not masked: how far, where it lies between pixels."""
    there = 2 * middle[:, None] - places
    low = np.floor(there).astype(int)
    part = there - low
    share = np.zeros(places.shape[1])
    padded = np.pad(good, 1, constant_values=True)  # beyond the detector nothing is masked
    for row in (0, 1):
        for column in (0, 1):
            y, x = (
                np.clip(low[axis] + step + 1, 0, padded.shape[axis] - 1)
                for axis, step in enumerate((row, column))
            )
            weight = np.abs(1 - row - part[0]) * np.abs(1 - column - part[1])
            share += weight * padded[y, x]
    return share
