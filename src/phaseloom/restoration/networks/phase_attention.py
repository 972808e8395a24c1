"""Attention between channels by the phases of their spectra, and the transformer block around it.

"Phase" is here that of the Fourier transform of a feature map, not that of a specimen. ``P(x)`` keeps it and
sets every amplitude to one, ``P(x) = F^-1(F(x) / |F(x)|)`` for each channel. Two channels so compared score

    A_ij = mean over frequencies of cos(phase_i - phase_j),

which knows neither gain nor offset nor place. Every frequency weighs the same, one that holds noise alone
too: of images sampled finer than their resolution, mostly noise is compared. ``soft`` keeps the square root
of the amplitudes, ``plain`` all of them.

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
from phaseloom.learning.layers import chosen, full

__all__ = ["ChannelAttention", "ChannelNorm", "GatedFeedForward", "TransformerBlock", "spectral", "whitened"]

EXPONENTS: Mapping[str, float] = {"phase": 1.0, "soft": 0.5, "plain": 0.0}
"""Power of its amplitude that each frequency is divided by before channels are compared."""

POSITIONS: Mapping[str, bool] = {"after": False, "before": True}
"""Whether amplitudes go before the convolutions that make queries and keys, or after them."""

FAINT = 1e-6
"""Amplitude (of a unitary transform, features of order one) far below which a frequency counts as empty."""

EXPANSION = 2.66
"""Channels within a feed-forward for each one outside."""


def whitened(maps: Float[Tensor, "*b y x"], /, *, exponent: float = 1.0) -> Float[Tensor, "*b y x"]:
    """Each map with the amplitudes of its spectrum X evened out: ``F^-1(X / |X|^exponent)``.

    With exponent one this is P: its norm is one, and neither a gain above zero nor an offset that leaves the
    sign of the mean changes it. ``|X|`` is smoothed to ``sqrt(|X|^2 + FAINT^2)``, so that gradients are
    finite where nothing is. It is computed in single precision, or double, whatever autocast says.

    Args:
        maps: real.
        exponent: one for P, one half to soften it, zero for none of it.

    Example:
        >>> maps = torch.rand(3, 5, 7)
        >>> torch.allclose(whitened(maps).norm(dim=(-2, -1)), torch.ones(3))
        True
        >>> torch.allclose(whitened(4 * maps + 1), whitened(maps), atol=1e-5)
        True
    """
    with torch.autocast(maps.device.type, enabled=False):
        white = torch.fft.irfft2(_white(full(maps), exponent), s=maps.shape[-2:], norm="backward")
    return white.to(maps.dtype)


def spectral(maps: Float[Tensor, "*b y x"], /, *, exponent: float = 1.0) -> Float[Tensor, "*b n"]:
    """`whitened` maps as rows of unit length whose products are theirs, without the way back.

    By Parseval's law the inverse transform changes no product of two maps; of the real maps' symmetric
    spectra half is kept, with weights.

    Args:
        maps: real.
        exponent: as of `whitened`.

    Example:
        >>> maps = torch.rand(3, 5, 8)
        >>> rows, white = spectral(maps), whitened(maps).flatten(1)
        >>> torch.allclose(rows @ rows.mT, white @ white.mT, atol=1e-5)
        True
    """
    white, columns = _white(full(maps), exponent), maps.shape[-1]
    twice = torch.full(white.shape[-1:], math.sqrt(2), dtype=white.real.dtype, device=maps.device)
    twice[0] = 1
    if columns % 2 == 0:
        twice[-1] = 1
    return functional.normalize(torch.view_as_real(white * twice).flatten(-3), dim=-1)


def _white(maps: Float[Tensor, "*b y x"], exponent: float) -> Complex[Tensor, "*b y f"]:
    waves = torch.fft.rfft2(maps, norm="ortho")
    power = waves.real.square() + waves.imag.square() + FAINT**2
    return waves * power.pow(-exponent / 2)


class ChannelAttention(nn.Module):
    """Every channel becomes a mean of those of its head, weighted by how alike they are.

    Queries and keys are 1 x 1 and channel-wise 3 x 3 convolutions of the maps, as values are. What is
    compared are whole maps, so that the cost grows with the pixels, not with their square, and so that what
    one pixel becomes depends on all of the image.

    Args:
        width: channels.
        heads: that share them.
        attention: ``phase``, ``soft`` or ``plain``: amplitudes evened out with exponent 1, 1/2 or 0.
        phase_position: of the maps ``before`` the convolutions of queries and keys (the drawing of the
            paper), or of queries and keys ``after`` them (its program).

    Attributes:
        temperature: ``(heads, 1, 1)``, what scores are multiplied with before the softmax.

    Raises:
        BadInput: heads that do not share the channels, other names, or plain attention ``before``.

    Example:
        >>> ChannelAttention(8, 2, attention="phase")(torch.rand(1, 8, 5, 7)).shape
        torch.Size([1, 8, 5, 7])
    """

    def __init__(self, width: int, heads: int, *, attention: str = "plain", phase_position: str = "after"):
        super().__init__()
        if width % heads:
            raise BadInput("nets: heads", heads, f"do not share a width of {width} evenly: choose a divisor")
        self.heads, self.exponent = heads, chosen("attention", attention, EXPONENTS)
        self.before = chosen("phase_position", phase_position, POSITIONS)
        if self.before and not self.exponent:
            fix = "has no place in plain attention: choose 'after', or attention 'phase' or 'soft'"
            raise BadInput("nets: phase_position", phase_position, fix)
        self.compare, self.value = separable(width, 2 * width), separable(width, width)
        self.leave = nn.Conv2d(width, width, 1, bias=False)
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))

    def scores(self, maps: Float[Tensor, "b c y x"]) -> Float[Tensor, "b h i j"]:
        """Products of unit rows: queries i with keys j, between -1 and 1, at least in single precision."""
        source = whitened(maps, exponent=self.exponent) if self.before else maps
        pair = self.compare(source).unflatten(1, (2, self.heads, -1))
        with torch.autocast(maps.device.type, enabled=False):
            query, key = (self._rows(full(part)) for part in pair.unbind(1))
            return query @ key.mT

    def weights(self, maps: Float[Tensor, "b c y x"]) -> Float[Tensor, "b h i j"]:
        """What each channel takes of the others: the softmax of scores times temperature."""
        return (self.scores(maps) * self.temperature).softmax(-1)

    def forward(self, maps: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        """Mix channels."""
        return self.leave(mixed(self.weights(maps), self.value(maps)))

    def _rows(self, maps: Float[Tensor, "b h c y x"]) -> Float[Tensor, "b h c n"]:
        if self.before or not self.exponent:
            return functional.normalize(maps.flatten(-2), dim=-1)
        return spectral(maps, exponent=self.exponent)


def mixed(weights: Float[Tensor, "b h i j"], maps: Float[Tensor, "b c y x"], /) -> Float[Tensor, "b c y x"]:
    """Maps weighted with one another, head by head."""
    heads = maps.unflatten(1, (weights.shape[1], -1))
    return (weights.to(maps.dtype) @ heads.flatten(-2)).view_as(heads).flatten(1, 2)


def separable(before: int, after: int, /) -> nn.Sequential:
    """A 1 x 1 and a channel-wise 3 x 3 convolution without biases."""
    each = nn.Conv2d(after, after, 3, padding=1, groups=after, bias=False)
    return nn.Sequential(nn.Conv2d(before, after, 1, bias=False), each)


class GatedFeedForward(nn.Module):
    """Two sets of maps from the same ones, one of them the other's gate: ``GELU(u) * w``.

    Args:
        width: channels; within, there are 2.66 times as many, twice.
    """

    def __init__(self, width: int):
        super().__init__()
        inner = int(EXPANSION * width)
        self.enter, self.leave = separable(width, 2 * inner), nn.Conv2d(inner, width, 1, bias=False)

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
    """An attention and a feed-forward, each after a norm and added to what came in.

    Args:
        width: channels.
        attend: maps in, maps of the same shape out.

    Example:
        >>> block = TransformerBlock(16, ChannelAttention(16, 1))
        >>> sum(value.numel() for value in block.parameters())
        4293
    """

    def __init__(self, width: int, attend: nn.Module):
        super().__init__()
        self.before, self.attend = ChannelNorm(width), attend
        self.between, self.feed = ChannelNorm(width), GatedFeedForward(width)

    def forward(self, maps: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        """Attend, then feed forward."""
        maps = maps + self.attend(self.before(maps))
        return maps + self.feed(self.between(maps))
