"""Turns and mirrors that take a detector onto itself, zero frequency staying where it is."""

import math

from jaxtyping import Shaped
from torch import Tensor

from phaseloom.data.scan import Geometry

__all__ = ["list_orientations", "orient_patterns"]


def list_orientations(geometry: Geometry, /) -> tuple[int, ...]:
    """Ways to turn patterns: all eight of a square detector, four of one whose axes differ.

    A way is a sum of 1, rows in reverse, 2, columns in reverse, and 4, both exchanged, done last.

    Example:
        >>> square = Geometry(wavelength=0.02, shape=(8, 8), angle=(1e-3, 1e-3), beam="electron")
        >>> list_orientations(square), list_orientations(square.crop((6, 8)))
        ((0, 1, 2, 3, 4, 5, 6, 7), (0, 1, 2, 3))
    """
    rows, columns = geometry.shape
    tall, wide = geometry.angle
    return tuple(range(8 if rows == columns and math.isclose(tall, wide) else 4))


def orient_patterns(patterns: Shaped[Tensor, "*batch y x"], way: int, /) -> Shaped[Tensor, "*batch v u"]:
    """Patterns with zero frequency at ``[N // 2, N // 2]``, before and after.

    Of an even number of pixels the first row (or column) has no partner and stays; it is the darkest.

    Args:
        patterns: images, or a mask.
        way: see `list_orientations`.

    Example:
        >>> import torch
        >>> orient_patterns(torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]]), 2).tolist()
        [[1, 4, 3, 2], [5, 8, 7, 6]]
    """
    for bit, axis in ((1, -2), (2, -1)):
        if way & bit:
            patterns = patterns.flip(axis)
            patterns = patterns.roll(1, axis) if patterns.shape[axis] % 2 == 0 else patterns
    return patterns.transpose(-2, -1) if way & 4 else patterns
