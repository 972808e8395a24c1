"""Images for a browser: the part that is looked at, in no more pixels than a screen shows, a byte each."""

import math
from dataclasses import dataclass

import numpy as np

from phaseloom.plot.style import average_blocks, limits

__all__ = ["MAX_SIDE", "SentImage", "find_limits", "prepare_image"]

MAX_SIDE = 512
"""Pixels a side that are sent: 262 kB of bytes, before the browser asks for a part in full."""

MAX_SIDE_FOR_LIMITS = 1024
"""Pixels a side that are enough for percentiles."""

LEVELS = 254
"""Greys of a sent image; 255 is for pixels that hold no value."""


@dataclass(frozen=True, eq=False)
class SentImage:
    """An image as it is sent.

    Attributes:
        levels: ``(y, x)`` bytes, first row on top: 0 to `LEVELS` between ``low`` and ``high``, 255: no value.
        low, high: values of the first and the last level.
        corner: place (y, x) of the outer corner of its first pixel.
        pixel: its size (y, x).
    """

    levels: np.ndarray
    low: float
    high: float
    corner: tuple[float, float]
    pixel: tuple[float, float]

    @property
    def extent(self) -> tuple[float, float]:
        """Height and width."""
        return self.levels.shape[0] * self.pixel[0], self.levels.shape[1] * self.pixel[1]


def prepare_image(
    values: np.ndarray,
    /,
    *,
    pixel: tuple[float, float] = (1.0, 1.0),
    corner: tuple[float, float] = (0.0, 0.0),
    window: tuple[float, float, float, float] | None = None,
    span: tuple[float, float] | None = None,
    most: int = MAX_SIDE,
) -> SentImage:
    """Cut an image to a window, average it to a number of pixels, and turn it into bytes.

    Args:
        values: real ``(y, x)``; NaN has no colour.
        pixel: size (y, x).
        corner: place (y, x) of the outer corner of the first pixel.
        window: (top, left, bottom, right) in the unit of the pixel; default: all.
        span: values of the darkest and the brightest colour; default: all but half a percent at each end,
            and half of their distance beyond, which leaves room for contrast.
        most: pixels a side.

    Example:
        >>> sent = prepare_image(np.arange(16.0).reshape(4, 4), most=2, span=(0, 15))
        >>> sent.levels.tolist(), sent.pixel
        ([[42, 76], [178, 212]], (2.0, 2.0))
    """
    rows, columns = (slice(0, size) for size in values.shape)
    if window is not None:
        rows = _cut_axis(window[0], window[2], corner[0], pixel[0], values.shape[0])
        columns = _cut_axis(window[1], window[3], corner[1], pixel[1], values.shape[1])
    part = values[rows, columns]
    fold = max(1, math.ceil(max(part.shape) / most))
    few = average_blocks(_pad_to_blocks(part, fold), fold)
    low, high = span if span is not None else _widen(find_limits(values))
    scaled = (few - low) * (LEVELS / max(high - low, 1e-30))
    known = np.isfinite(scaled)
    levels = np.where(known, np.clip(np.where(known, scaled, 0), 0, LEVELS).round(), 255).astype(np.uint8)
    first = (corner[0] + rows.start * pixel[0], corner[1] + columns.start * pixel[1])
    return SentImage(levels, float(low), float(high), first, (fold * pixel[0], fold * pixel[1]))


def _cut_axis(first: float, last: float, corner: float, pixel: float, count: int) -> slice:
    """The pixels of an axis that a window touches, at least one."""
    start = min(max(math.floor((first - corner) / pixel), 0), count - 1)
    stop = min(max(math.ceil((last - corner) / pixel), start + 1), count)
    return slice(start, stop)


def _pad_to_blocks(part: np.ndarray, fold: int) -> np.ndarray:
    """Whole blocks: edges are repeated, so that no row of an image is lost."""
    more = [(0, -size % fold) for size in part.shape]
    return np.pad(part, more, mode="edge") if any(one for _, one in more) else part


def find_limits(values: np.ndarray, /) -> tuple[float, float]:
    """Values of the darkest and the brightest colour of an image, from some of its pixels.

    Example:
        >>> find_limits(np.arange(9.0).reshape(3, 3))[0] < 1
        True
    """
    fold = max(1, max(values.shape) // MAX_SIDE_FOR_LIMITS)
    low, high = limits(values[::fold, ::fold])
    return float(low), float(high)


def _widen(span: tuple[float, float]) -> tuple[float, float]:
    room = 0.5 * (span[1] - span[0])
    return span[0] - room, span[1] + room
