"""Filters whose strength is measured: what two halves of the counts agree on is kept, the rest is noise.

Two reconstructions from half of the counts each (`phaseloom.reconstruction.half_data_frc`) show the same
specimen with independent noise. Their agreement gives each filter its strength, without a truth and without
training images:

- ``wiener``: each spatial frequency keeps ``2 C / (1 + C)`` of its amplitude, with the correlation ``C`` of
  the halves around it. A small neighbourhood (``spread``) tells the lattice of a crystal from noise and has
  the smallest errors, but what defects of the crystal scatter is spread over all frequencies and is taken
  for noise: **vacancies are partly filled**. The default is wide.
- ``wiener_rings``: the same with ``C`` of the whole ring, as in the source.
- ``gaussian``, ``total_variation``, ``nonlocal_means``: the strength at which one half, filtered, is nearest
  to the other one as it is (Noise2Noise: the noise of the other one adds a constant), over the square root of
  two, because the noise of all counts is smaller by that factor.

A filter takes away; none of these adds contrast that the reconstruction lacks. What both halves share by
mistake, such as a wrong defocus, is kept.

Source:
    P. B. Rosenthal & R. Henderson, J. Mol. Biol. 333 (2003) 721, doi 10.1016/j.jmb.2003.07.013 (weight of a
    frequency); J. Lehtinen et al., ICML 2018, arXiv:1803.04189.
"""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from phaseloom.errors import BadInput
from phaseloom.metrics.phase import remove_ramp
from phaseloom.restoration.baselines import Denoiser
from phaseloom.restoration.pairs.folders import Pair

__all__ = ["HALF_DATA_FILTERS", "MIN_SIDE", "FilterName", "check_filter", "filter_by_halves"]

Floats = NDArray[np.floating]

FilterByHalves = Callable[[Floats, Floats, Floats, float], Floats]

FilterName = Literal["wiener", "wiener_rings", "gaussian", "total_variation", "nonlocal_means"]
"""Filters by name."""

STRENGTH_OF_ALL_COUNTS = 0.5**0.5
"""Strength for all counts over the one for half: as of the noise. On tuning scans the best was 0.73."""

SPREAD = 6.0
"""Default of `spread`. On tuning scans of 1000 electrons per square angstrom, vacancies had 76, 80, 91 and
94 % of their depth at 1.5, 3, 6 and 8, and the squared error was 0.48, 0.50, 0.52 and 0.53 (0.71
unfiltered)."""

SPREADS = (0.5, 20.0)
"""Smallest and largest `spread`."""

RING_SPREAD = 1.0
"""Standard deviation of the average over neighbouring rings, of which the innermost hold few frequencies."""

TILE = 96
"""Pixels along an edge of a tile of `wiener`: larger images are filtered in tiles, because a spectrum of a
large crystal shows the lattice and not its defects, which would be filtered away."""

RIM = 16
"""Pixels by which a tile is mirrored beyond its edges, which are not periodic."""

MIN_SIDE = 16
"""Pixels along an edge that a spectrum needs."""


def filter_by_halves(
    image: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    /,
    *,
    method: FilterName | str = "wiener",
    spread: float = SPREAD,
) -> NDArray[np.float64]:
    """Filter an image by what two images of half of its counts agree on; its plane is kept.

    Args:
        image: ``(y, x)`` of all counts, such as a phase in radian.
        first: the same of one half of the counts, on the same pixels.
        second: of the other half.
        method: name of the filter, see the module.
        spread: of ``wiener``: standard deviation of the neighbourhood over which the agreement of the halves
            is averaged, pixels of the spectrum.

    Raises:
        BadInput: images of different shapes or less than 16 pixels wide, values that are not finite, halves
            that are equal, an unknown filter, or a spread out of range.
        MissingExtra: scikit-image is not installed, and the filter needs it.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> truth = np.sin(np.arange(64))[:, None] * np.ones(64)
        >>> first, second = truth + rng.normal(0, 1, (2, 64, 64))
        >>> image = (first + second) / 2
        >>> filtered = filter_by_halves(image, first, second)
        >>> bool(np.std(filtered - truth) < 0.4 * np.std(image - truth))
        True
    """
    check_filter(method, spread)
    images = [
        _check_image(name, part) for name, part in (("image", image), ("first", first), ("second", second))
    ]
    if len({one.shape for one in images}) > 1:
        shapes = ", ".join(f"{one.shape[0]} x {one.shape[1]}" for one in images)
        raise BadInput("filter", shapes, "are different sizes: image and halves must have the same pixels")
    level, one, two = (remove_ramp(part) for part in images)
    if not np.abs(one - two).max() > 1e-9 * max(np.abs(one).max(), 1e-300):
        fix = "are equal: they must come from different counts, such as prepare: [{thin: {which: 0}}] and 1"
        raise BadInput("filter", "halves", fix)
    return HALF_DATA_FILTERS[method](level, one, two, spread) + (images[0] - level)


def check_filter(method: str, spread: float, /) -> None:
    """Refuse an unknown filter, and a spread out of range.

    Raises:
        BadInput: see above.
    """
    if method not in HALF_DATA_FILTERS:
        known = ", ".join(HALF_DATA_FILTERS)
        raise BadInput("filter: method", method, f"is not a filter: choose one of {known}")
    low, high = SPREADS
    if not low <= spread <= high:
        fix = f"must be between {low:g} and {high:g} pixels of the spectrum"
        raise BadInput("filter: spread", spread, fix)


def _filter_tiles(image: Floats, first: Floats, second: Floats, spread: float) -> Floats:
    """`wiener` in overlapping tiles, blended by a squared sine."""
    from scipy.ndimage import gaussian_filter

    def average(power: Floats) -> Floats:
        return gaussian_filter(power, spread, mode="wrap")

    total = np.zeros(image.shape)
    weights = np.zeros(image.shape)
    for rows in _cover(image.shape[0]):
        for columns in _cover(image.shape[1]):
            parts = [part[rows, columns] for part in (image, first, second)]
            window = np.outer(*(np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 + 1e-3 for n in parts[0].shape))
            total[rows, columns] += window * _filter_frequencies(parts[0], parts[1], parts[2], average)
            weights[rows, columns] += window
    return total / weights


def _cover(count: int) -> list[slice]:
    """Tiles along an axis, of equal size, that overlap by half."""
    if count <= 3 * TILE // 2:
        return [slice(0, count)]
    starts = np.linspace(0, count - TILE, -(-2 * (count - TILE) // TILE) + 1).round().astype(int)
    return [slice(int(start), int(start) + TILE) for start in starts]


def _filter_rings(image: Floats, first: Floats, second: Floats, _: float) -> Floats:
    """Weight rings of frequencies by the agreement of halves in them."""
    return _filter_frequencies(image, first, second, _average_rings)


def _filter_frequencies(
    image: Floats, first: Floats, second: Floats, average: Callable[[Floats], Floats]
) -> Floats:
    """Weight each frequency by the agreement of halves, as averages of their powers around it say."""
    rim = min(RIM, min(image.shape) - 1)
    whole, one, two = (np.fft.fft2(np.pad(part, rim, mode="reflect")) for part in (image, first, second))
    shared = average((one * two.conj()).real)
    noise = average(np.abs(one - two) ** 2 / 2)
    correlation = np.clip(shared / np.maximum(shared + noise, np.finfo(float).tiny), 0, 1)
    inner = tuple(slice(rim, rim + n) for n in image.shape)
    weight = 2 * correlation / (1 + correlation)  # share of signal in the power of all counts
    return np.fft.ifft2(whole * weight).real[inner]


def _average_rings(power: Floats) -> Floats:
    """Means over rings of equal frequency, a pixel of the spectrum wide, and some of their neighbours."""
    from scipy.ndimage import gaussian_filter1d

    radius = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n) for n in power.shape), indexing="ij"))
    ring = np.round(radius * min(power.shape)).astype(int).ravel()
    sums = gaussian_filter1d(np.bincount(ring, power.ravel()), RING_SPREAD)
    return (sums / gaussian_filter1d(np.bincount(ring).astype(float), RING_SPREAD))[ring].reshape(power.shape)


def _filter_by_strength(method: str) -> FilterByHalves:
    def denoise(image: Floats, first: Floats, second: Floats, _: float) -> Floats:
        pairs = [Pair("first", first[None], second[None]), Pair("second", second[None], first[None])]
        strength = STRENGTH_OF_ALL_COUNTS * Denoiser.fit(method, pairs).strength
        return Denoiser(method, strength)(image[None])[0]

    return denoise


def _check_image(name: str, image: Any) -> NDArray[np.float64]:
    values = np.asarray(image, float)
    if values.ndim != 2 or min(values.shape) < MIN_SIDE:
        fix = f"is not an image (y, x) of {MIN_SIDE} pixels at least along each axis"
        raise BadInput(f"filter: {name}", f"shape {values.shape}", fix)
    if bad := values.size - int(np.isfinite(values).sum()):
        raise BadInput(
            f"filter: {name}", f"{bad} of {values.size} values", "are not finite: repair the image"
        )
    return values


HALF_DATA_FILTERS: dict[str, FilterByHalves] = {
    "wiener": _filter_tiles,
    "wiener_rings": _filter_rings,
    "gaussian": _filter_by_strength("gaussian"),
    "total_variation": _filter_by_strength("total_variation"),
    "nonlocal_means": _filter_by_strength("nonlocal_means"),
}
"""Filters by name, from an image and both halves without their planes, and the spread of `wiener`."""
