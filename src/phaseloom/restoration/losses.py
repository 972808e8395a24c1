"""Losses of restored images.

A loss is a function ``(restored, /, *, weight, ...) -> scalar``, a mean over the images of a batch; a
training file lists those to use, `phaseloom.restoration.weighting` combines them. Images are divided by their
range, so that losses have no unit, and computed in single precision, also under autocast.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from phaseloom.embedding import losses as embedding_losses
from phaseloom.embedding.losses import disable_autocast
from phaseloom.errors import BadInput
from phaseloom.learning.layers import to_full_precision
from phaseloom.restoration.networks.vgg import VGG19, load_vgg, random_vgg

__all__ = ["RestoredBatch", "charbonnier", "gradient", "perceptual", "perceptual_random", "poisson"]
__all__ += ["similarity"]

log = logging.getLogger(__name__)

# constants of the structural similarity (Wang et al. 2003, 2004)
SCALE_EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # the finest scale first
WINDOW_SIGMA = 1.5  # standard deviation of the window, pixels
BRIGHTNESS_CONSTANT = 0.01**2  # bounds quotients of dark windows
CONTRAST_CONSTANT = 0.03**2  # bounds quotients of flat windows

SIMILARITY_FLOOR = 1e-3
"""Similarity of a scale below which it counts as this, and its gradient grows no further."""


@dataclass(frozen=True)
class RestoredBatch:
    """One output of the network for a batch, and its target.

    Attributes:
        image: ``(b, c, y, x)`` output of the network, of any channels and unit.
        target: the same shape.
        branch: ``low``, on the pixels of the input, or ``high``, on finer ones.
        data_range: largest possible difference of two pixels, in the unit of the images.
        counts: ``(b, c, y, x)`` measured, for `poisson`.
        expected: converts ``image`` to expected counts, for `poisson`; a positive function (an exponential,
            softplus), as rates clipped at zero have no gradient.

    Raises:
        BadInput: shapes that differ, or a range that is not above zero.
    """

    image: Float[Tensor, "b c y x"]
    target: Tensor
    branch: Literal["low", "high"] = "low"
    data_range: float = 1.0
    counts: Tensor | None = None
    expected: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self):
        place = f"losses: {self.branch}"
        wanted = tuple(self.image.shape)
        for name, values in (("target", self.target), ("counts", self.counts)):
            if values is not None and tuple(values.shape) != wanted:
                fix = f"must have the shape of the image, {wanted}"
                raise BadInput(f"{place}: {name}", tuple(values.shape), fix)
        if not 0 < self.data_range < float("inf"):
            fix = "must be above zero: give the largest possible difference of two pixels"
            raise BadInput(f"{place}: data_range", self.data_range, fix)

    def terms(self, losses: Mapping[str, Callable[["RestoredBatch"], Tensor | None]], /) -> dict[str, Tensor]:
        """Losses by name, without those that are off.

        Args:
            losses: functions of this module with their knobs set, by name.

        Example:
            >>> flat = torch.zeros(1, 1, 16, 16)
            >>> losses = {"charbonnier": charbonnier, "gradient": gradient}
            >>> found = RestoredBatch(flat, flat + 3).terms(losses)
            >>> {name: round(value.item(), 4) for name, value in found.items()}
            {'charbonnier': 3.0, 'gradient': 0.0}
        """
        found = {name: loss(self) for name, loss in losses.items()}
        return {name: value for name, value in found.items() if value is not None}

    def pair(self) -> tuple[Tensor, Tensor]:
        """Image and target divided by the range."""
        return to_full_precision(self.image) / self.data_range, to_full_precision(
            self.target
        ) / self.data_range


def charbonnier(restored: RestoredBatch, /, *, weight: float = 1.0, eps: float = 1e-3) -> Tensor:
    """Mean of ``sqrt(d^2 + eps^2)`` over pixels: the absolute error ``d``, smoothed near zero.

    Two equal images cost ``eps``.

    Args:
        restored: output and target.
        weight: of the loss.
        eps: error below which the loss is a parabola, in parts of the range.

    Source: Charbonnier et al. 1994, doi 10.1109/ICIP.1994.413553.

    Example:
        >>> flat = torch.zeros(1, 3, 8, 8)
        >>> round(charbonnier(RestoredBatch(flat, flat + 0.1)).item(), 6)
        0.100005
    """
    if not eps > 0:
        raise BadInput("losses: charbonnier.eps", eps, "must be above zero: at zero no gradient exists")
    with disable_autocast(restored.image):
        image, target = restored.pair()
        return weight * ((image - target).square() + eps**2).sqrt().mean()


def gradient(restored: RestoredBatch, /, *, weight: float = 1.0) -> Tensor:
    """Mean absolute error of the Laplacian, by its five point stencil, of each channel, without the border.

    A second derivative, whatever its name: it favours edges, and just as much the noise of the target.

    Args:
        restored: output and target.
        weight: of the loss.

    Raises:
        BadInput: images with fewer than three pixels along an edge.

    Example:
        >>> dot = torch.zeros(1, 1, 5, 5)
        >>> dot[..., 2, 2] = 1
        >>> round(gradient(RestoredBatch(torch.zeros(1, 1, 5, 5), dot)).item(), 4)  # (4 + 4 x 1) / 9
        0.8889
    """
    if min(restored.image.shape[-2:]) < 3:
        size = tuple(restored.image.shape[-2:])
        raise BadInput("losses: gradient", size, "pixels are too few: give three or more along each edge")
    with disable_autocast(restored.image):
        image, target = restored.pair()
        off = image - target
        around = off[..., :-2, 1:-1] + off[..., 2:, 1:-1] + off[..., 1:-1, :-2] + off[..., 1:-1, 2:]
        return weight * (around - 4 * off[..., 1:-1, 1:-1]).abs().mean()


def similarity(restored: RestoredBatch, /, *, weight: float = 1.0, window: int = 11) -> Tensor:
    """One less the multi-scale structural similarity: zero for equal images, about one for unlike ones.

    Five scales need 161 pixels along the shorter edge with a window of 11. Smaller images are compared on as
    many scales as hold a window, whose exponents are scaled to the same sum: four from 81 pixels, three from
    41, two from 21, one from 11; below, on one scale with the largest odd window that fits. This is logged
    once for each size. Losses of different sizes are then different numbers.

    A scale of similarity below 1e-3 (an image of reversed contrast) counts as 1e-3 but keeps its gradient,
    which would be lost by clipping. Each scale has half the pixels of the one before, the last row of an odd
    number by itself; other programs pad it with zeros and differ a little.

    Args:
        restored: output and target; the mean of images matters, so subtract it from phases before.
        weight: of the loss.
        window: odd number of pixels along an edge of the Gaussian window.

    Raises:
        BadInput: a window that is even or below 3.

    Source: Wang, Simoncelli & Bovik 2003, doi 10.1109/ACSSC.2003.1292216.

    Example:
        >>> image = torch.rand(1, 1, 48, 50)
        >>> similarity(RestoredBatch(image, image)).item()
        0.0
    """
    if window < 3 or window % 2 == 0:
        raise BadInput("losses: similarity.window", window, "has no middle: give an odd number from 3 up")
    scales, window = _choose_scales(min(restored.image.shape[-2:]), window)
    with disable_autocast(restored.image):
        image, target = restored.pair()
        return weight * (1 - _multiscale_ssim(image, target, scales, window).mean())


def perceptual(restored: RestoredBatch, /, *, weight: float = 1.0, file: Path | None = None) -> Tensor | None:
    """Mean absolute difference of VGG19's last convolution between the images, in parts of their range.

    Images of one channel are repeated to three. ImageNet's mean is not subtracted, as in the first design.
    Made for photographs: of little use for phases.

    Args:
        restored: output and target.
        weight: of the loss.
        file: torchvision's ``vgg19-dcbb9e9d.pth`` or its tensors as safetensors; without one the loss is off.

    Returns:
        ``None`` if it is off, which is logged once.

    Raises:
        BadInput: a file of something else, images of other than one or three channels or below 16 pixels.

    Source: Johnson, Alahi & Fei-Fei 2016, arXiv 1603.08155.
    """
    if file is None:
        fix = "give it a file with the weights of VGG19, as torchvision has them"
        _warn_once(f"losses: perceptual is off: {fix}")
        return None
    return weight * _compare_features(restored, _load_vgg(str(file), restored.image.device))


def perceptual_random(restored: RestoredBatch, /, *, weight: float = 1.0, seed: int = 0) -> Tensor:
    """As `perceptual`, with random weights that need no file: weak, see `random_vgg`.

    Args:
        restored: output and target.
        weight: of the loss.
        seed: of the weights.

    Raises:
        BadInput: images of other than one or three channels or below 16 pixels.

    Example:
        >>> image = torch.rand(1, 1, 16, 20)
        >>> perceptual_random(RestoredBatch(image, image)).item()
        0.0
    """
    return weight * _compare_features(restored, _load_vgg(seed, restored.image.device))


def poisson(restored: RestoredBatch, /, *, weight: float = 1.0) -> Tensor | None:
    """Poisson deviance of measured counts in a pixel; about one if nothing but shot noise is left.

    Args:
        restored: output, with ``counts`` and ``expected``.
        weight: of the loss.

    Returns:
        ``None`` for the ``high`` branch, on whose pixels nothing was counted.

    Raises:
        BadInput: images without counts.

    Example:
        >>> counts = torch.full((1, 1, 4, 4), 7.0)
        >>> batch = RestoredBatch(counts.log(), counts, counts=counts, expected=torch.exp)
        >>> round(poisson(batch).item(), 4)
        0.0
    """
    if restored.branch == "high":
        return None
    if restored.counts is None or restored.expected is None:
        raise BadInput("losses: poisson", None, "needs measured counts, which these images do not come with")
    with disable_autocast(restored.image):
        rate = restored.expected(to_full_precision(restored.image))
        return weight * embedding_losses.poisson_deviance(rate, restored.counts)


@lru_cache
def _warn_once(text: str) -> None:
    log.warning(text)


def _choose_scales(side: int, window: int) -> tuple[int, int]:
    """Number of scales and window for images with so many pixels along their shorter edge."""
    count = len(SCALE_EXPONENTS)
    if side < window:
        window = side - 1 + side % 2
        _warn_once(f"losses: similarity: images of {side} pixels take one scale and a window of {window}")
        return 1, window
    scales = next((n for n in range(count, 1, -1) if -(-side // 2 ** (n - 1)) >= window), 1)
    if scales < count:
        _warn_once(f"losses: similarity: images of {side} pixels take {scales} of {count} scales")
    return scales, window


def _multiscale_ssim(image: Tensor, target: Tensor, scales: int, window: int) -> Float[Tensor, "b c"]:
    """Structural similarity of each image and channel: contrast at every scale, brightness at the last."""
    offset = target.mean((-2, -1), keepdim=True)
    image = image - offset
    target = target - offset
    out = torch.ones_like(offset[..., 0, 0])
    for number in range(scales):
        contrast, both = _compare_windows(image, target, offset, window)
        value = both if number == scales - 1 else contrast
        exponent = SCALE_EXPONENTS[number] * sum(SCALE_EXPONENTS) / sum(SCALE_EXPONENTS[:scales])
        # the floor acts on the value only, the gradient passes
        out = out * (value + (value.clamp_min(SIMILARITY_FLOOR) - value).detach()) ** exponent
        image, target = (functional.avg_pool2d(one, 2, ceil_mode=True) for one in (image, target))
    return out


def _compare_windows(image: Tensor, target: Tensor, offset: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Contrast and structure, and these times brightness, each a mean over windows ``(b, c)``.

    Variances are computed without the offset, which single precision needs; means have it added back.
    """
    maps = torch.stack([image, target, image * image, target * target, image * target])
    mean, wanted, one, two, cross = _blur(maps.flatten(0, 2), window).unflatten(0, maps.shape[:3])
    spread = one - mean * mean + two - wanted * wanted
    contrast = (2 * (cross - mean * wanted) + CONTRAST_CONSTANT) / (spread + CONTRAST_CONSTANT)
    mean = mean + offset
    wanted = wanted + offset
    bright = (2 * mean * wanted + BRIGHTNESS_CONSTANT) / (mean * mean + wanted * wanted + BRIGHTNESS_CONSTANT)
    return contrast.mean((-2, -1)), (bright * contrast).mean((-2, -1))


def _blur(maps: Float[Tensor, "n y x"], window: int) -> Float[Tensor, "n v u"]:
    """Means under a Gaussian window, wherever it lies within a map.

    Maps are channels of a depthwise convolution: on a CPU twenty times as fast as one by one.
    """
    places = torch.arange(window, device=maps.device, dtype=maps.dtype) - window // 2
    line = torch.exp(-0.5 * (places / WINDOW_SIGMA).square())
    line = (line / line.sum()).expand(len(maps), 1, window)
    down = functional.conv2d(maps[None], line[..., None], groups=len(maps))
    return functional.conv2d(down, line[:, :, None], groups=len(maps))[0]


@lru_cache(maxsize=4)
def _load_vgg(source: str | int, device: torch.device) -> VGG19:
    """The network of a file, or with random weights of a seed."""
    net = load_vgg(source) if isinstance(source, str) else random_vgg(seed=source)
    return net.to(device)


def _compare_features(restored: RestoredBatch, net: VGG19) -> Tensor:
    """Mean absolute difference of features."""
    channels = restored.image.shape[1]
    if channels not in (1, 3):
        raise BadInput("losses: perceptual", f"{channels} channels", "are not one or three: leave it out")
    with disable_autocast(restored.image):
        image, target = (one.float().expand(-1, 3, -1, -1) for one in restored.pair())
        with torch.no_grad():
            wanted = net(target)
        return (net(image) - wanted).abs().mean()
