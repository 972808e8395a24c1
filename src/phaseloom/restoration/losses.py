"""How far a restored image is from the one that was wanted.

A loss is a function ``(restored, /, *, weight, ...) -> scalar``, a mean over the images of a batch; a
training file lists those that are wanted, `phaseloom.restoration.weighting` makes one number of them. Images
are taken in parts of their range, so that losses have no unit, and in single precision, also under autocast.
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
from phaseloom.embedding.losses import alone
from phaseloom.errors import BadInput
from phaseloom.learning.layers import full
from phaseloom.restoration.networks import vgg

__all__ = [
    "Compared",
    "charbonnier",
    "gradient",
    "perceptual",
    "perceptual_random",
    "poisson",
    "similarity",
]

log = logging.getLogger(__name__)

SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the scales of the structural similarity, the finest first (Wang et al. 2003)."""

SIGMA, K1, K2 = 1.5, 0.01, 0.03
"""Standard deviation of the window, pixels, and what keeps quotients of the dark and the flat in bounds."""

FAINT = 1e-3
"""Similarity of a scale below which it counts as this, and its gradient grows no further."""


@dataclass(frozen=True)
class Compared:
    """A batch after the network, of one of its outputs.

    Attributes:
        image: ``(b, c, y, x)`` that the network drew, of any channels and unit.
        target: the same shape: what it should have drawn.
        branch: ``low``, on the pixels that came in, or ``high``, on finer ones.
        data_range: largest possible difference of two pixels, in the unit of the images.
        counts: ``(b, c, y, x)`` measured, for `poisson`.
        expected: what makes expected counts of ``image``, for `poisson`; a positive function (an exponential,
            softplus), as there is no way back from rates that are cut at zero.

    Raises:
        BadInput: shapes that differ, or a range that is none.
    """

    image: Float[Tensor, "b c y x"]
    target: Tensor
    branch: Literal["low", "high"] = "low"
    data_range: float = 1.0
    counts: Tensor | None = None
    expected: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self):
        place, wanted = f"losses: {self.branch}", tuple(self.image.shape)
        for name, values in (("target", self.target), ("counts", self.counts)):
            if values is not None and tuple(values.shape) != wanted:
                fix = f"must have the shape of the image, {wanted}"
                raise BadInput(f"{place}: {name}", tuple(values.shape), fix)
        if not 0 < self.data_range < float("inf"):
            fix = "must be above zero: give the largest possible difference of two pixels"
            raise BadInput(f"{place}: data_range", self.data_range, fix)

    def terms(self, losses: Mapping[str, Callable[["Compared"], Tensor | None]], /) -> dict[str, Tensor]:
        """Losses by name, those left out that are off.

        Args:
            losses: functions of this module with their knobs set, by name.

        Example:
            >>> flat = torch.zeros(1, 1, 16, 16)
            >>> found = Compared(flat, flat + 3).terms({"charbonnier": charbonnier, "gradient": gradient})
            >>> {name: round(value.item(), 4) for name, value in found.items()}
            {'charbonnier': 3.0, 'gradient': 0.0}
        """
        found = {name: loss(self) for name, loss in losses.items()}
        return {name: value for name, value in found.items() if value is not None}

    def pair(self) -> tuple[Tensor, Tensor]:
        """Image and target in parts of the range."""
        return full(self.image) / self.data_range, full(self.target) / self.data_range


def charbonnier(restored: Compared, /, *, weight: float = 1.0, eps: float = 1e-3) -> Tensor:
    """Mean of ``sqrt(d^2 + eps^2)`` over pixels: the absolute error ``d``, rounded off near zero.

    Two equal images cost ``eps``.

    Args:
        restored: see `Compared`.
        weight: of the loss.
        eps: error below which the loss is a parabola, in parts of the range.

    Source: Charbonnier et al. 1994, doi 10.1109/ICIP.1994.413553.

    Example:
        >>> flat = torch.zeros(1, 3, 8, 8)
        >>> round(charbonnier(Compared(flat, flat + 0.1)).item(), 6)
        0.100005
    """
    if not eps > 0:
        raise BadInput("losses: charbonnier.eps", eps, "must be above zero: at zero no gradient exists")
    with alone(restored.image):
        image, target = restored.pair()
        return weight * ((image - target).square() + eps**2).sqrt().mean()


def gradient(restored: Compared, /, *, weight: float = 1.0) -> Tensor:
    """Mean absolute error of the Laplacian, by its five point stencil, of each channel; the rim is left out.

    A second derivative, whatever its name: it asks for edges, and as much for the noise of the target.

    Args:
        restored: see `Compared`.
        weight: of the loss.

    Raises:
        BadInput: images without a pixel that has all its neighbours.

    Example:
        >>> dot = torch.zeros(1, 1, 5, 5)
        >>> dot[..., 2, 2] = 1
        >>> round(gradient(Compared(torch.zeros(1, 1, 5, 5), dot)).item(), 4)  # (4 + 4 x 1) / 9
        0.8889
    """
    if min(restored.image.shape[-2:]) < 3:
        size = tuple(restored.image.shape[-2:])
        raise BadInput("losses: gradient", size, "pixels are too few: give three or more along each edge")
    with alone(restored.image):
        image, target = restored.pair()
        return weight * _laplacian(image - target).abs().mean()


def similarity(restored: Compared, /, *, weight: float = 1.0, window: int = 11) -> Tensor:
    """One less the multi-scale structural similarity: zero for equal images, about one for unlike ones.

    Five scales ask for 161 pixels along the shorter edge with a window of 11. Smaller images are compared on
    as many scales as hold a window, whose exponents are raised to the same sum: four from 81 pixels, three
    from 41, two from 21, one from 11; below, on one scale with the largest odd window that fits. A message
    says so once for each size. Losses of different sizes are then different numbers.

    A scale that is less alike than 1e-3 (an image of reversed contrast) counts as 1e-3 but keeps its
    gradient, which is lost where such scales are set to zero. Each scale has half the pixels of the one
    before, the last row of an odd number by itself; other programs pad it with zeros and differ a little.

    Args:
        restored: see `Compared`; it feels the mean of images, so take it off phases before.
        weight: of the loss.
        window: odd number of pixels along an edge of the Gaussian window.

    Raises:
        BadInput: a window without a middle.

    Source: Wang, Simoncelli & Bovik 2003, doi 10.1109/ACSSC.2003.1292216.

    Example:
        >>> image = torch.rand(1, 1, 48, 50)
        >>> similarity(Compared(image, image)).item()
        0.0
    """
    if window < 3 or window % 2 == 0:
        raise BadInput("losses: similarity.window", window, "has no middle: give an odd number from 3 up")
    sides = tuple(restored.image.shape[-2:])
    scales, window = _fitting(min(sides), window)
    with alone(restored.image):
        image, target = restored.pair()
        return weight * (1 - _alike(image, target, scales, window).mean())


def perceptual(restored: Compared, /, *, weight: float = 1.0, file: Path | None = None) -> Tensor | None:
    """Mean absolute error of what VGG19's last convolution finds in the images, in parts of their range.

    Images of one channel are repeated to three. ImageNet's mean is not taken off, as in the first design.
    Made for photographs: of little use for phases.

    Args:
        restored: see `Compared`.
        weight: of the loss.
        file: torchvision's ``vgg19-dcbb9e9d.pth`` or its tensors as safetensors; without one the loss is off.

    Returns:
        ``None`` where it is off, which is said once.

    Raises:
        BadInput: a file that is none, images of other than one or three channels or below 16 pixels.

    Source: Johnson, Alahi & Fei-Fei 2016, arXiv 1603.08155.
    """
    if file is None:
        _say("losses: perceptual is off: give it a file with the weights of VGG19, as torchvision has them")
        return None
    return weight * _unlike(restored, _trained(str(file), restored.image.device))


def perceptual_random(restored: Compared, /, *, weight: float = 1.0, seed: int = 0) -> Tensor:
    """As `perceptual`, with random weights that need no file: weak, see
    `phaseloom.restoration.networks.vgg.random`.

    Args:
        restored: see `Compared`.
        weight: of the loss.
        seed: of the weights.

    Raises:
        BadInput: images of other than one or three channels or below 16 pixels.

    Example:
        >>> image = torch.rand(1, 1, 16, 20)
        >>> perceptual_random(Compared(image, image)).item()
        0.0
    """
    return weight * _unlike(restored, _drawn(seed, restored.image.device))


def poisson(restored: Compared, /, *, weight: float = 1.0) -> Tensor | None:
    """Poisson deviance of measured counts in a pixel; about one where nothing but shot noise is left.

    Args:
        restored: see `Compared`; with ``counts`` and ``expected``.
        weight: of the loss.

    Returns:
        ``None`` of the ``high`` branch, on whose pixels nothing was counted.

    Raises:
        BadInput: images without counts.

    Example:
        >>> counts = torch.full((1, 1, 4, 4), 7.0)
        >>> batch = Compared(counts.log(), counts, counts=counts, expected=torch.exp)
        >>> round(poisson(batch).item(), 4)
        0.0
    """
    if restored.branch == "high":
        return None
    if restored.counts is None or restored.expected is None:
        raise BadInput("losses: poisson", None, "needs measured counts, which these images do not come with")
    with alone(restored.image):
        rate = restored.expected(full(restored.image))
        return weight * embedding_losses.poisson_deviance(rate, restored.counts)


def _laplacian(image: Tensor) -> Tensor:
    along = image[..., :-2, 1:-1] + image[..., 2:, 1:-1] + image[..., 1:-1, :-2] + image[..., 1:-1, 2:]
    return along - 4 * image[..., 1:-1, 1:-1]


@lru_cache
def _say(text: str) -> None:
    """Once."""
    log.warning(text)


def _fitting(side: int, window: int) -> tuple[int, int]:
    """Scales and window that images with so many pixels along their shorter edge can be compared with."""
    if side < window:
        least = side - 1 + side % 2
        _say(f"losses: similarity: images of {side} pixels take one scale and a window of {least}")
        return 1, least
    scales = next((count for count in range(len(SCALES), 1, -1) if -(-side // 2 ** (count - 1)) >= window), 1)
    if scales < len(SCALES):
        _say(f"losses: similarity: images of {side} pixels take {scales} of {len(SCALES)} scales")
    return scales, window


def _alike(image: Tensor, target: Tensor, scales: int, window: int) -> Float[Tensor, "b c"]:
    """Structural similarity of each image and channel: contrast at every scale, brightness at the last."""
    offset = target.mean((-2, -1), keepdim=True)
    image, target, out = image - offset, target - offset, torch.ones_like(offset[..., 0, 0])
    for number in range(scales):
        contrast, both = _structure(image, target, offset, window)
        kept = both if number == scales - 1 else contrast
        exponent = SCALES[number] * sum(SCALES) / sum(SCALES[:scales])
        out = out * (kept + (kept.clamp_min(FAINT) - kept).detach()) ** exponent
        image, target = (functional.avg_pool2d(one, 2, ceil_mode=True) for one in (image, target))
    return out


def _structure(image: Tensor, target: Tensor, offset: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Contrast and structure, and these times brightness, each a mean over windows ``(b, c)``.

    Variances come from images less an offset, which single precision asks for; means have it back.
    """
    maps = torch.stack([image, target, image * image, target * target, image * target])
    mean, wanted, one, two, cross = _blurred(maps.flatten(0, 2), window).unflatten(0, maps.shape[:3])
    spread = one - mean * mean + two - wanted * wanted
    contrast = (2 * (cross - mean * wanted) + K2**2) / (spread + K2**2)
    mean, wanted = mean + offset, wanted + offset
    bright = (2 * mean * wanted + K1**2) / (mean * mean + wanted * wanted + K1**2)
    return contrast.mean((-2, -1)), (bright * contrast).mean((-2, -1))


def _blurred(maps: Float[Tensor, "n y x"], window: int) -> Float[Tensor, "n v u"]:
    """Means under a Gaussian window, wherever it lies whole within a map.

    Maps go as channels that do not mix: on a processor twenty times as fast as one by one.
    """
    places = torch.arange(window, device=maps.device, dtype=maps.dtype) - window // 2
    line = torch.exp(-0.5 * (places / SIGMA).square())
    line = (line / line.sum()).expand(len(maps), 1, window)
    down = functional.conv2d(maps[None], line[..., None], groups=len(maps))
    return functional.conv2d(down, line[:, :, None], groups=len(maps))[0]


@lru_cache(maxsize=2)
def _trained(path: str, device: torch.device) -> vgg.VGG19:
    return vgg.stored(path).to(device)


@lru_cache(maxsize=2)
def _drawn(seed: int, device: torch.device) -> vgg.VGG19:
    return vgg.random(seed=seed).to(device)


def _unlike(restored: Compared, net: vgg.VGG19) -> Tensor:
    """Mean absolute difference of features."""
    channels = restored.image.shape[1]
    if channels not in (1, 3):
        raise BadInput("losses: perceptual", f"{channels} channels", "are not one or three: leave it out")
    with alone(restored.image):
        image, target = (one.float().expand(-1, 3, -1, -1) for one in restored.pair())
        with torch.no_grad():
            wanted = net(target)
        return (net(image) - wanted).abs().mean()
