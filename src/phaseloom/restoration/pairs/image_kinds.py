"""What images are restored as: what of their values is arbitrary, and which values there can be.

A `Task` brings an image to the level that a network is shown, values of about 0 to 1 or -1/2 to 1/2, and
what comes out back to the unit of the image. A phase is known up to a constant and a ramp, and its strength
depends on the specimen: its plane and its scale are taken off before a network sees it, and put back
afterwards. Images of detectors have a brightness and a contrast each. Photographs are what they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phaseloom.errors import BadInput
from phaseloom.metrics.phase import remove_ramp
from phaseloom.restoration.pairs.folders import Image, Pair

__all__ = ["Level", "Task", "phase", "photograph", "virtual_detector"]

Floats = NDArray[np.floating]

SLACK = 1.0
"""How far values may lie beyond what there can be: noise and sharpening reach there, other units further."""

OUTER = (2.0, 98.0)
"""Percentiles between which the scale of an image is taken."""


@dataclass(frozen=True, eq=False)
class Level:
    """Where the values of an image lie: a plane and a scale for each channel.

    Attributes:
        planes: ``(channel, 3)``: in the middle of the image, and from there to its edge along y and x.
        scales: ``(channel,)``.
    """

    planes: NDArray[np.float64]
    scales: NDArray[np.float64]

    def taken(self, image: Floats, /) -> Image:
        """An image of the same field on any pixels, as a network is shown it."""
        return ((image - self._plane(image.shape[-2:])) / self.scales[:, None, None]).astype(np.float32)

    def given(self, image: Floats, /) -> Image:
        """The inverse of `taken`, on the same pixels or on finer ones."""
        return (image * self.scales[:, None, None] + self._plane(image.shape[-2:])).astype(np.float32)

    def _plane(self, shape: tuple[int, ...]) -> NDArray[np.float64]:
        y, x = (_across(count) for count in shape)
        middle, down, along = (part[:, None, None] for part in self.planes.T)
        return middle + down * y[:, None] + along * x


@dataclass(frozen=True)
class Task:
    """What images are restored as.

    Attributes:
        name: of the function that made it.
        find: from an image ``(channel, y, x)`` in double precision to its level.
        own: whether the planes of input and target have nothing to do with one another.
        within: lowest and highest value that there can be, or ``None``.
    """

    name: str
    find: Callable[[NDArray[np.float64]], Level]
    own: bool = False
    within: tuple[float, float] | None = None

    def level(self, image: Floats, /) -> Level:
        """Where the values of an image ``(channel, y, x)`` lie.

        Raises:
            BadInput: values that are not finite, or that there cannot be.
        """
        image = np.asarray(image, np.float64)
        if bad := image.size - int(np.isfinite(image).sum()):
            raise BadInput(self.name, f"{bad} of {image.size} values", "are not finite: repair the image")
        self._refuse_others(image)
        return self.find(image)

    def levelled(self, pair: Pair, /) -> Pair:
        """A pair as a network is taught it, on the scale of its input.

        The plane of a phase is its own: what constant and ramp a target has, nobody can tell from its input.
        """
        low, other = self.level(pair.input), self.level(pair.target)
        wanted = Level(other.planes, low.scales) if self.own else low
        fine = None if pair.fine is None else wanted.taken(pair.fine)
        return Pair(pair.name, low.taken(pair.input), wanted.taken(pair.target), fine)

    def _refuse_others(self, image: Floats) -> None:
        low, high = float(image.min()), float(image.max())
        if self.within is None or (low > self.within[0] - SLACK and high < self.within[1] + SLACK):
            return
        bounds = f"{self.within[0]:g} to {self.within[1]:g}"
        fix = f"must lie within {bounds}: divide by the largest grey value, or choose another task"
        raise BadInput(self.name, f"values of {low:.4g} to {high:.4g}", fix)


def photograph() -> Task:
    """Colours or grey values of 0 to 1, as they are; what comes out is clipped to that.

    Example:
        >>> photograph().level(np.full((3, 4, 5), 0.2)).taken(np.full((3, 4, 5), 0.2)).max().round(3)
        np.float32(0.2)
    """
    return Task("photograph", _bare, within=(0.0, 1.0))


def phase() -> Task:
    """Phases in radian, unwrapped: each channel without its plane, all of them on one scale.

    The plane is the commonest one, so a lopsided specimen on a flat ground does not tilt it; the scale is
    the distance between the percentiles 2 and 98. Channels may be slices, or phase and attenuation.

    Example:
        >>> y, x = np.mgrid[:8, :8]
        >>> ramp = (1 + 0.1 * y - 0.2 * x)[None]
        >>> bool(abs(phase().level(ramp).taken(ramp)).max() < 1e-4)
        True
    """
    return Task("phase", _ramped, own=True)


def virtual_detector() -> Task:
    """Images of detectors, bright field or dark: each without its median, on a scale of its own.

    Example:
        >>> image = np.linspace(5, 6, 101).reshape(1, 1, 101)
        >>> seen = virtual_detector().level(image).taken(image)
        >>> seen.min().round(2), seen.max().round(2)
        (np.float32(-0.52), np.float32(0.52))
    """
    return Task("virtual_detector", _contrasts)


def _bare(image: NDArray[np.float64]) -> Level:
    """No plane, no scale."""
    return Level(np.zeros((len(image), 3)), np.ones(len(image)))


def _ramped(image: NDArray[np.float64]) -> Level:
    """A plane for each channel, one scale for all."""
    planes = np.stack([_ramp(one) for one in image])
    flat = Level(planes, np.ones(len(image))).taken(image)
    return Level(planes, np.full(len(image), _span(flat, image)))


def _contrasts(image: NDArray[np.float64]) -> Level:
    """A middle and a scale for each channel."""
    middles = np.median(image, (1, 2))
    planes = np.stack([middles, 0 * middles, 0 * middles], 1)
    return Level(planes, np.array([_span(one, one) for one in image]))


def _ramp(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """The plane of an image, whatever its strength: in its middle, and from there to its edges."""
    flat = remove_ramp(image)
    unit = _span(flat, image)
    plane = image - unit * remove_ramp(flat / unit, robust=True)
    rows, columns = image.shape
    down = (plane[-1, 0] - plane[0, 0]) / 2 * rows / max(rows - 1, 1)
    along = (plane[0, -1] - plane[0, 0]) / 2 * columns / max(columns - 1, 1)
    return np.array([plane.mean(), down, along])


def _across(count: int) -> NDArray[np.float64]:
    """Middles of pixels, from -1 at one edge of an image to 1 at the other."""
    return (2 * np.arange(count) + 1) / count - 1


def _span(values: Floats, image: Floats) -> float:
    """Distance between the outer percentiles; 1 of what is rounding of the image that it was made from."""
    low, high = np.percentile(values, OUTER)
    return float(high - low) if high - low > 1e-6 * np.abs(image).max() else 1.0
