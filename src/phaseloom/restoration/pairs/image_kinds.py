"""Kinds of images: which part of their values is arbitrary, and which values are possible.

An `ImageKind` normalises an image for a network, to values of about 0 to 1 or -1/2 to 1/2, and brings the
output back to the unit of the image. A phase is known up to a constant and a ramp, and its strength depends
on the specimen: its plane and its scale are removed for the network, and restored afterwards. Images of
detectors have a brightness and a contrast each. Photographs are used as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phaseloom.errors import BadInput
from phaseloom.metrics.phase import remove_ramp
from phaseloom.restoration.pairs.folders import Image, Pair

__all__ = ["ImageKind", "Normalisation", "phase", "photograph", "virtual_detector"]

Floats = NDArray[np.floating]

RANGE_TOLERANCE = 1.0
"""Distance of values from the possible range: noise and sharpening stay within it, other units do not."""

SCALE_PERCENTILES = (2.0, 98.0)
"""Percentiles whose distance is the scale of an image."""

ROWS_PER_STRIP = 256
"""Rows of an image that are normalised at a time."""

ROUNDING_SHARE = 1e-6
"""Scale, in parts of the largest value of the original image, up to which a remainder is rounding error."""


@dataclass(frozen=True, eq=False)
class Normalisation:
    """A plane and a scale for each channel of an image.

    Attributes:
        planes: ``(channel, 3)``: value in the middle of the image, and changes from there to its edges along
            y and x.
        scales: ``(channel,)``.
    """

    planes: NDArray[np.float64]
    scales: NDArray[np.float64]

    def apply(self, image: Floats, /) -> Image:
        """Normalise an image of the same field on any pixels, for a network."""
        out = np.empty(image.shape, np.float32)
        for rows, plane in self._strips(image.shape[-2:]):
            out[:, rows] = (image[:, rows] - plane) / self.scales[:, None, None]
        return out

    def invert(self, image: Floats, /) -> Image:
        """The inverse of `apply`, on the same pixels or on finer ones."""
        out = np.empty(image.shape, np.float32)
        for rows, plane in self._strips(image.shape[-2:]):
            out[:, rows] = image[:, rows] * self.scales[:, None, None] + plane
        return out

    def _strips(self, shape: tuple[int, ...]) -> Iterator[tuple[slice, NDArray[np.float64]]]:
        """Rows and their planes, some at a time: a large image is not held in double precision."""
        # centres of pixels, from -1 at one edge of the image to 1 at the other
        y, x = ((2 * np.arange(count) + 1) / count - 1 for count in shape)
        middle, down, along = (part[:, None, None] for part in self.planes.T)
        for start in range(0, len(y), ROWS_PER_STRIP):
            rows = slice(start, start + ROWS_PER_STRIP)
            yield rows, middle + down * y[rows, None] + along * x


@dataclass(frozen=True)
class ImageKind:
    """How images of one kind are normalised.

    Attributes:
        name: of the function that made it.
        fit: from an image ``(channel, y, x)`` in double precision to its normalisation.
        separate_planes: whether the planes of input and target are independent.
        value_range: lowest and highest possible value, or ``None``.
    """

    name: str
    fit: Callable[[NDArray[np.float64]], Normalisation]
    separate_planes: bool = False
    value_range: tuple[float, float] | None = None

    def is_colour(self, channels: int, /) -> bool:
        """Whether images of so many channels are photographs in red, green and blue."""
        return self.value_range == (0.0, 1.0) and channels == 3

    def fit_normalisation(self, image: Floats, /) -> Normalisation:
        """Normalisation of an image ``(channel, y, x)``.

        Raises:
            BadInput: values that are not finite, or not possible.
        """
        image = np.asarray(image, np.float64)
        if bad := image.size - int(np.isfinite(image).sum()):
            raise BadInput(self.name, f"{bad} of {image.size} values", "are not finite: repair the image")
        low = float(image.min())
        high = float(image.max())
        bottom, top = self.value_range or (-np.inf, np.inf)
        if low <= bottom - RANGE_TOLERANCE or high >= top + RANGE_TOLERANCE:
            bounds = f"{bottom:g} to {top:g}"
            fix = f"must lie within {bounds}: divide by the largest grey value, or choose another task"
            raise BadInput(self.name, f"values of {low:.4g} to {high:.4g}", fix)
        return self.fit(image)

    def normalise_pair(self, pair: Pair, /) -> Pair:
        """A pair normalised for training, on the scale of its input.

        Input and target of a phase have planes of their own: the constant and ramp of the target cannot be
        known from the input.
        """
        before = self.fit_normalisation(pair.input)
        after = self.fit_normalisation(pair.target)
        wanted = Normalisation(after.planes, before.scales) if self.separate_planes else before
        fine = None if pair.fine is None else wanted.apply(pair.fine)
        return Pair(pair.name, before.apply(pair.input), wanted.apply(pair.target), fine)


def photograph() -> ImageKind:
    """Colours or grey values of 0 to 1, not normalised; the output is clipped to that range.

    Example:
        >>> image = np.full((3, 4, 5), 0.2)
        >>> photograph().fit_normalisation(image).apply(image).max().round(3)
        np.float32(0.2)
    """

    def fit(image: NDArray[np.float64]) -> Normalisation:
        return Normalisation(np.zeros((len(image), 3)), np.ones(len(image)))

    return ImageKind("photograph", fit, value_range=(0.0, 1.0))


def phase() -> ImageKind:
    """Phases in radian, unwrapped: each channel without its plane, all of them on one scale.

    The plane is the commonest one, so a lopsided specimen on a flat ground does not tilt it; the scale is
    the distance between the percentiles 2 and 98. Channels may be slices, or phase and attenuation.

    Example:
        >>> y, x = np.mgrid[:8, :8]
        >>> ramp = (1 + 0.1 * y - 0.2 * x)[None]
        >>> bool(abs(phase().fit_normalisation(ramp).apply(ramp)).max() < 1e-4)
        True
    """

    def fit(image: NDArray[np.float64]) -> Normalisation:
        planes = np.stack([_fit_plane(channel) for channel in image])
        flat = Normalisation(planes, np.ones(len(image))).apply(image)
        return Normalisation(planes, np.full(len(image), _scale_of(flat, image)))

    return ImageKind("phase", fit, separate_planes=True)


def virtual_detector() -> ImageKind:
    """Images of detectors, bright field or dark: each without its median, on a scale of its own.

    Example:
        >>> image = np.linspace(5, 6, 101).reshape(1, 1, 101)
        >>> normal = virtual_detector().fit_normalisation(image).apply(image)
        >>> normal.min().round(2), normal.max().round(2)
        (np.float32(-0.52), np.float32(0.52))
    """

    def fit(image: NDArray[np.float64]) -> Normalisation:
        medians = np.median(image, (1, 2))
        planes = np.stack([medians, 0 * medians, 0 * medians], 1)
        return Normalisation(planes, np.array([_scale_of(channel, channel) for channel in image]))

    return ImageKind("virtual_detector", fit)


def _fit_plane(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """The plane of an image of any strength: value in its middle, and changes from there to its edges."""
    flat = remove_ramp(image)
    unit = _scale_of(flat, image)
    plane = image - unit * remove_ramp(flat / unit, robust=True)
    rows, columns = image.shape
    down = (plane[-1, 0] - plane[0, 0]) / 2 * rows / max(rows - 1, 1)
    along = (plane[0, -1] - plane[0, 0]) / 2 * columns / max(columns - 1, 1)
    return np.array([plane.mean(), down, along])


def _scale_of(values: Floats, original: Floats) -> float:
    """Distance between the outer percentiles; 1 if that is rounding error of the original image."""
    low, high = np.percentile(values, SCALE_PERCENTILES)
    return float(high - low) if high - low > ROUNDING_SHARE * np.abs(original).max() else 1.0
