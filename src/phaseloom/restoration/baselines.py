"""Baselines that a trained restorer must beat: methods without a network, most of them a line of arithmetic.

For colour: gray world, stretched channels, and the best single colour matrix. For twice as many pixels:
bilinear interpolation. For the noise of any channel: a Gaussian, total variation and non-local means, each
with one strength that is fitted to pairs as a network is. All take and give numpy arrays ``(channel, y, x)``;
except for `stretch`, results may exceed the range of the input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from phaseloom.errors import BadInput, MissingExtra, nearest
from phaseloom.restoration.pairs.crops import double_pixels
from phaseloom.restoration.pairs.folders import Pair, format_channels

__all__ = ["ColourMatrix", "Denoiser", "fit_denoisers", "gaussian", "gray_world", "nonlocal_means", "stretch"]
__all__ += ["total_variation", "upsample_bilinear"]

Floats = NDArray[np.floating]

GRID_STRENGTHS = 9
"""Strengths of the first search, from weak to strong."""


def gray_world(image: Floats, /) -> Floats:
    """Scale channels to the same mean, that of the image; a channel without light stays as it is.

    Source:
        Buchsbaum 1980, doi 10.1016/0016-0032(80)90058-7.

    Example:
        >>> gray_world(np.array([[[0.2, 0.4]], [[0.4, 0.8]]])).mean((1, 2)).round(6).tolist()
        [0.45, 0.45]
    """
    image = _check_image(image)
    means = image.mean((1, 2), keepdims=True)
    gain = np.divide(means.mean(), means, out=np.ones_like(means), where=means > 0)
    return image * gain


def stretch(image: Floats, /, *, share: float = 0.01) -> Floats:
    """Stretch each channel from its percentiles to 0 and 1, clipped; a constant channel stays as it is.

    Args:
        image: to restore.
        share: of the pixels that are clipped at each end.

    Raises:
        BadInput: a share of a half or more.

    Example:
        >>> stretch(np.array([[[0.2, 0.3, 0.4]]]), share=0.0).round(6).tolist()
        [[[0.0, 0.5, 1.0]]]
    """
    if not 0 <= share < 0.5:
        raise BadInput("stretch: share", share, "must be less than a half, such as 0.01")
    image = _check_image(image)
    low, high = np.quantile(image, (share, 1 - share), axis=(1, 2), keepdims=True).astype(image.dtype)
    span = high - low
    scaled = np.divide(image - low, span, out=image.copy(), where=span > 0)
    return np.where(span > 0, np.clip(scaled, 0, 1), image)


def upsample_bilinear(image: Floats, /) -> Floats:
    """The image on pixels half as wide by bilinear interpolation.

    Example:
        >>> upsample_bilinear(np.array([[[0.0, 4.0]]])).tolist()
        [[[0.0, 1.0, 3.0, 4.0], [0.0, 1.0, 3.0, 4.0]]]
    """
    return double_pixels(torch.from_numpy(np.ascontiguousarray(_check_image(image)))[None])[0].numpy()


@dataclass(frozen=True)
class ColourMatrix:
    """One linear function of the channels, with a constant, for every pixel of every image.

    Attributes:
        rows: one for each output channel: a factor for each input channel, then the constant.

    Example:
        >>> swap = ColourMatrix(rows=((0.0, 1.0, 0.0), (1.0, 0.0, 0.5)))
        >>> swap(np.array([[[1.0]], [[2.0]]])).ravel().tolist()
        [2.0, 1.5]
    """

    rows: tuple[tuple[float, ...], ...]

    @classmethod
    def fit(cls, pairs: Iterable[Pair], /) -> ColourMatrix:
        """The matrix of least squared error over all pixels of pairs, which are read one after another.

        If pairs do not determine it, for a channel that is always dark or always like another, it is the
        solution of smallest norm.

        Raises:
            BadInput: no pair, or pairs of different channels.
        """
        normal = np.zeros(())
        right = np.zeros(())
        first = None
        for pair in pairs:
            first = first or pair
            if len(pair.input) != len(first.input):
                fix = f"but {first.name} has {len(first.input)}: fit each kind by itself"
                raise BadInput(f"colour matrix: {pair.name}", format_channels(len(pair.input)), fix)
            given = _with_constant(pair.input)
            wanted = pair.target.reshape(len(pair.target), -1)
            normal = normal + given @ given.T
            right = right + given @ wanted.T.astype(np.float64)
        if first is None:
            raise BadInput("colour matrix", None, "has no pair to be fitted to: give one at least")
        return cls(tuple(map(tuple, np.linalg.lstsq(normal, right, rcond=1e-12)[0].T.tolist())))

    def __call__(self, image: Floats, /) -> Floats:
        """The image ``(channel, y, x)`` with its channels mixed.

        Raises:
            BadInput: an image of other channels.
        """
        image = _check_image(image)
        matrix = np.array(self.rows)
        if matrix.shape[1] != len(image) + 1:
            fix = f"but the matrix was fitted to {matrix.shape[1] - 1}"
            raise BadInput("colour matrix", format_channels(len(image)), fix)
        return (matrix @ _with_constant(image)).reshape(-1, *image.shape[1:]).astype(image.dtype)


def gaussian(image: Floats, /, *, strength: float) -> Floats:
    """The image blurred by a Gaussian.

    Args:
        image: to restore.
        strength: its standard deviation, pixels.

    Example:
        >>> gaussian(np.ones((1, 2, 3)), strength=1.0).round(6).tolist()
        [[[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]]
    """
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(_check_image(image), (0, _check_strength(strength), strength))


def total_variation(image: Floats, /, *, strength: float) -> Floats:
    """Total variation denoising, each channel by itself.

    Args:
        image: to restore.
        strength: weight of the variation, in the unit of the image; about the noise of a pixel.

    Source:
        Chambolle 2004, doi 10.1023/B:JMIV.0000011325.36760.1e.

    Raises:
        MissingExtra: scikit-image is not installed.
    """
    denoise = _import_restoration().denoise_tv_chambolle
    weight = _check_strength(strength)
    return np.stack([denoise(channel, weight=weight) for channel in _check_image(image)])


def nonlocal_means(image: Floats, /, *, strength: float) -> Floats:
    """Mean of the pixels within 6 of each whose patches of 5 x 5 are similar, each channel by itself.

    Args:
        image: to restore.
        strength: standard deviation of the noise, in the unit of the image; pixels whose patches differ by
            0.8 of it have the weight 1/e.

    Source:
        Buades, Coll & Morel 2005, doi 10.1109/CVPR.2005.38.

    Raises:
        MissingExtra: scikit-image is not installed.
    """
    denoise = _import_restoration().denoise_nl_means
    sigma = _check_strength(strength)
    knobs = {"h": 0.8 * sigma, "sigma": sigma, "patch_size": 5, "patch_distance": 6, "fast_mode": True}
    return np.stack([denoise(channel, **knobs) for channel in _check_image(image)])


METHODS: dict[str, Callable[..., Floats]] = {
    "gaussian": gaussian,
    "total_variation": total_variation,
    "nonlocal_means": nonlocal_means,
}

STRENGTH_RANGES = {"gaussian": (0.2, 5.0), "total_variation": (0.05, 10.0), "nonlocal_means": (0.1, 4.0)}
"""Range of the search: of the Gaussian in pixels, of the others in units of the pairs' error."""


@dataclass(frozen=True)
class Denoiser:
    """A denoiser with its strength.

    Attributes:
        method: ``gaussian``, ``total_variation`` or ``nonlocal_means``.
        strength: see there.

    Raises:
        BadInput: an unknown method, or a strength that is not above zero.

    Example:
        >>> Denoiser("gaussian", 2.0)(np.ones((1, 5, 7))).shape
        (1, 5, 7)
    """

    method: str
    strength: float

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise BadInput("denoiser", self.method, f"is not a method: {nearest(self.method, METHODS)}")
        _check_strength(self.strength)

    @classmethod
    def fit(cls, method: str, pairs: Sequence[Pair], /) -> Denoiser:
        """The strength of least mean squared error over pairs, to about a tenth.

        Args:
            method: whose strength is fitted.
            pairs: a few are enough; each of some twenty strengths is applied to all of them.

        Raises:
            BadInput: no pair, pairs without any error, or an unknown method.
            MissingExtra: scikit-image is not installed, and the method needs it.
        """
        if not pairs:
            raise BadInput(f"denoiser {method}", None, "has no pair to be fitted to: give one at least")
        images = [(pair.input, pair.target) for pair in pairs]
        noise = _rms([before - after for before, after in images])
        if not noise > 0:
            raise BadInput(f"denoiser {method}", None, "has nothing to learn: inputs are equal to targets")

        def error(log_strength: float) -> float:
            denoise = cls(method, math.exp(log_strength))
            return _rms([denoise(before) - after for before, after in images])

        low, high = STRENGTH_RANGES.get(method, (1.0, 1.0))
        unit = 1.0 if method == "gaussian" else noise
        return cls(method, math.exp(_minimise(error, math.log(low * unit), math.log(high * unit))))

    def __call__(self, image: Floats, /) -> Floats:
        """The image ``(channel, y, x)`` with less noise, and less detail."""
        return METHODS[self.method](image, strength=self.strength)


def fit_denoisers(pairs: Sequence[Pair], /) -> tuple[Denoiser, ...]:
    """All methods, each at its best strength on given pairs, see `Denoiser.fit`.

    Raises:
        BadInput: no pair, or pairs without any error.
        MissingExtra: scikit-image is not installed.
    """
    return tuple(Denoiser.fit(method, pairs) for method in METHODS)


def _minimise(error: Callable[[float], float], low: float, high: float) -> float:
    """Minimum of a function: on a grid, then between neighbours of the best."""
    from scipy.optimize import minimize_scalar

    grid = np.linspace(low, high, GRID_STRENGTHS)
    errors = [error(place) for place in grid]
    best = int(np.argmin(errors))
    bounds = (grid[max(best - 1, 0)], grid[min(best + 1, GRID_STRENGTHS - 1)])
    found: Any = minimize_scalar(
        error, bounds=bounds, method="bounded", options={"xatol": 0.1, "maxiter": 10}
    )
    return found.x if found.fun < errors[best] else grid[best]


def _rms(differences: Sequence[Floats]) -> float:
    """Root of the mean squared error, each pair with the same weight."""
    return math.sqrt(float(np.mean([np.mean(np.square(one, dtype=np.float64)) for one in differences])))


def _with_constant(image: Floats) -> NDArray[np.float64]:
    """Channels as rows, in double precision, and a row of ones."""
    rows = image.reshape(len(image), -1).astype(np.float64)
    return np.concatenate([rows, np.ones_like(rows[:1])])


def _check_image(image: Floats) -> Floats:
    values = np.asarray(image)
    if values.ndim != 3 or not values.size:
        raise BadInput("references", values.shape, "must be an image with the axes (channel, y, x)")
    return values if values.dtype.kind == "f" else values.astype(np.float64)


def _check_strength(strength: float) -> float:
    if not 0 < strength < math.inf:
        raise BadInput("denoiser: strength", strength, "must be a number above zero")
    return float(strength)


def _import_restoration() -> Any:
    try:
        from skimage import restoration
    except ImportError as problem:
        raise MissingExtra("denoisers", "scikit-image", "restore") from problem
    return restoration
