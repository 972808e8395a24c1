"""Attention between channels by the phases of their spectra, and the transformer block around it.

"Phase" is here that of the Fourier transform of a feature map, not that of a specimen. ``P(x)`` keeps it and
sets every amplitude to one, ``P(x) = F^-1(F(x) / |F(x)|)`` for each channel. Two channels so compared score

    A_ij = mean over frequencies of cos(phase_i - phase_j),

which depends on neither gain nor offset nor position. Every frequency has the same weight, also one that
holds noise alone: for images sampled finer than their resolution, mostly noise is compared. ``soft`` keeps
the square root of the amplitudes, ``plain`` all of them.

Source: M. R. Khan et al., Phaseformer, WACV 2025, arXiv:2412.01456; S. W. Zamir et al., Restormer, CVPR 2022,
doi:10.1109/CVPR52688.2022.00564 (attention between channels, gated feed-forward).
"""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.nn import functional

from phaseloom.errors import BadInput
from phaseloom.learning.layers import choose_option, to_full_precision

__all__ = ["ChannelAttention", "ChannelNorm", "GatedFeedForward", "TransformerBlock", "spectral_rows"]
__all__ += ["whiten_spectrum"]

ATTENTION_EXPONENTS: Mapping[str, float] = {"phase": 1.0, "soft": 0.5, "plain": 0.0}
"""Power of its amplitude that each frequency is divided by before channels are compared."""

WHITEN_BEFORE_CONVOLUTION: Mapping[str, bool] = {"after": False, "before": True}
"""Whether amplitudes are removed before the convolutions that make queries and keys, or after them."""

AMPLITUDE_FLOOR = 1e-6
"""Amplitude (unitary transform, features of order one) far below which a frequency counts as empty."""

FEED_FORWARD_EXPANSION = 2.66
"""Channels within a feed-forward for each one outside (Restormer)."""


def whiten_spectrum(maps: Float[Tensor, "*b y x"], /, *, exponent: float = 1.0) -> Float[Tensor, "*b y x"]:
    """Each map with the amplitudes of its spectrum X equalised: ``F^-1(X / |X|^exponent)``.

    With exponent one this is P: its norm is one, and neither a positive gain nor an offset that leaves the
    sign of the mean changes it. ``|X|`` is smoothed to ``sqrt(|X|^2 + floor^2)``, so that gradients are
    finite for empty maps. Computed in single precision, or double, also under autocast.

    Args:
        maps: real.
        exponent: one for P, one half to soften it, zero to keep the amplitudes.

    Example:
        >>> maps = torch.rand(3, 5, 7)
        >>> torch.allclose(whiten_spectrum(maps).norm(dim=(-2, -1)), torch.ones(3))
        True
        >>> torch.allclose(whiten_spectrum(4 * maps + 1), whiten_spectrum(maps), atol=1e-5)
        True
    """
    with torch.autocast(maps.device.type, enabled=False):
        spectrum = _whiten_spectrum(to_full_precision(maps), exponent)
        white = torch.fft.irfft2(spectrum, s=maps.shape[-2:], norm="backward")
    return white.to(maps.dtype)


def spectral_rows(maps: Float[Tensor, "*b y x"], /, *, exponent: float = 1.0) -> Float[Tensor, "*b n"]:
    """Whitened maps as rows of unit length with the same products, without the inverse transform.

    By Parseval's theorem the inverse transform changes no product of two maps. The spectra of real maps are
    symmetric, so half of each is kept, with weights.

    Args:
        maps: real.
        exponent: as of `whiten_spectrum`.

    Example:
        >>> maps = torch.rand(3, 5, 8)
        >>> rows, white = spectral_rows(maps), whiten_spectrum(maps).flatten(1)
        >>> torch.allclose(rows @ rows.mT, white @ white.mT, atol=1e-5)
        True
    """
    spectrum = _whiten_spectrum(to_full_precision(maps), exponent)
    weights = torch.full(spectrum.shape[-1:], math.sqrt(2), dtype=spectrum.real.dtype, device=maps.device)
    weights[0] = 1
    if maps.shape[-1] % 2 == 0:
        weights[-1] = 1
    return functional.normalize(torch.view_as_real(spectrum * weights).flatten(-3), dim=-1)


def _whiten_spectrum(maps: Float[Tensor, "*b y x"], exponent: float) -> Complex[Tensor, "*b y f"]:
    spectrum = torch.fft.rfft2(maps, norm="ortho")
    power = spectrum.real.square() + spectrum.imag.square() + AMPLITUDE_FLOOR**2
    return spectrum * power.pow(-exponent / 2)


class ChannelAttention(nn.Module):
    """Every channel becomes a mean of the channels of its head, weighted by similarity.

    Queries and keys are 1 x 1 and channel-wise 3 x 3 convolutions of the maps, as values are. Whole maps are
    compared, so the cost grows with the pixels, not with their square, and each output pixel depends on the
    whole image.

    Args:
        width: channels.
        heads: that share them.
        attention: ``phase``, ``soft`` or ``plain``: amplitudes equalised with exponent 1, 1/2 or 0.
        phase_position: of the maps ``before`` the convolutions of queries and keys (the drawing of the
            paper), or of queries and keys ``after`` them (its program).

    Attributes:
        temperature: ``(heads, 1, 1)``, factor of the scores before the softmax.

    Raises:
        BadInput: heads that do not divide the channels, unknown names, or plain attention ``before``.

    Example:
        >>> ChannelAttention(8, 2, attention="phase")(torch.rand(1, 8, 5, 7)).shape
        torch.Size([1, 8, 5, 7])
    """

    def __init__(self, width: int, heads: int, *, attention: str = "plain", phase_position: str = "after"):
        super().__init__()
        if width % heads:
            raise BadInput("model: heads", heads, f"do not share a width of {width} evenly: choose a divisor")
        self.heads = heads
        self.exponent = choose_option("attention", attention, ATTENTION_EXPONENTS)
        self.before = choose_option("phase_position", phase_position, WHITEN_BEFORE_CONVOLUTION)
        if self.before and not self.exponent:
            fix = "has no place in plain attention: choose 'after', or attention 'phase' or 'soft'"
            raise BadInput("model: phase_position", phase_position, fix)
        self.compare = separable_conv(width, 2 * width)
        self.value = separable_conv(width, width)
        self.leave = nn.Conv2d(width, width, 1, bias=False)
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))

    def scores(self, maps: Float[Tensor, "b c y x"]) -> Float[Tensor, "b h i j"]:
        """Products of unit rows: queries i with keys j, between -1 and 1, at least in single precision."""
        source = whiten_spectrum(maps, exponent=self.exponent) if self.before else maps
        pair = self.compare(source).unflatten(1, (2, self.heads, -1))
        with torch.autocast(maps.device.type, enabled=False):
            query, key = (self._unit_rows(to_full_precision(part)) for part in pair.unbind(1))
            return query @ key.mT

    def weights(self, maps: Float[Tensor, "b c y x"]) -> Float[Tensor, "b h i j"]:
        """Weights of the mean for each channel: the softmax of scores times temperature."""
        return (self.scores(maps) * self.temperature).softmax(-1)

    def forward(self, maps: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        """Mix channels."""
        return self.leave(mix_channels(self.weights(maps), self.value(maps)))

    def _unit_rows(self, maps: Float[Tensor, "b h c y x"]) -> Float[Tensor, "b h c n"]:
        if self.before or not self.exponent:
            return functional.normalize(maps.flatten(-2), dim=-1)
        return spectral_rows(maps, exponent=self.exponent)


def mix_channels(
    weights: Float[Tensor, "b h i j"], maps: Float[Tensor, "b c y x"], /
) -> Float[Tensor, "b c y x"]:
    """Weighted means of maps, head by head."""
    heads = maps.unflatten(1, (weights.shape[1], -1))
    return (weights.to(maps.dtype) @ heads.flatten(-2)).view_as(heads).flatten(1, 2)


def separable_conv(channels_in: int, channels_out: int, /) -> nn.Sequential:
    """A 1 x 1 and a channel-wise 3 x 3 convolution without biases."""
    depthwise = nn.Conv2d(channels_out, channels_out, 3, padding=1, groups=channels_out, bias=False)
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, bias=False), depthwise)


class GatedFeedForward(nn.Module):
    """Two sets of maps from the same input, one of them the other's gate: ``GELU(u) * w``."""

    def __init__(self, width: int):
        super().__init__()
        inner = int(FEED_FORWARD_EXPANSION * width)
        self.enter = separable_conv(width, 2 * inner)
        self.leave = nn.Conv2d(inner, width, 1, bias=False)

    def forward(self, maps: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        """Transform each pixel with its neighbours."""
        gate, value = self.enter(maps).chunk(2, 1)
        return self.leave(functional.gelu(gate) * value)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each pixel, with a learned gain and offset.

    Example:
        >>> ChannelNorm(6)(3 * torch.randn(1, 6, 4, 5) + 1).mean(1).abs().max() < 1e-5
        tensor(True)
    """

    def forward(self, input: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        """Normalise."""
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


class TransformerBlock(nn.Module):
    """An attention and a feed-forward, each after a norm and added to its input.

    Example:
        >>> block = TransformerBlock(16, ChannelAttention(16, 1))
        >>> sum(value.numel() for value in block.parameters())
        4293
    """

    def __init__(self, width: int, attend: nn.Module):
        super().__init__()
        self.before = ChannelNorm(width)
        self.attend = attend
        self.between = ChannelNorm(width)
        self.feed = GatedFeedForward(width)

    def forward(self, maps: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        """Attend, then feed forward."""
        maps = maps + self.attend(self.before(maps))
        return maps + self.feed(self.between(maps))
