"""The restorer that came before the Phaseformer, one output, kept as it was published to compare with.

It has 2,530,193 parameters, and 272,924 of them never meet an image: of each block the path that makes
frequency queries, whose scores were computed and then not used, and besides the levels a gate, upsamplings
and a second output. They are here as `Unused`, so that counts are as published, and are not computed.
They get no gradient: training in several processes must be told so (``find_unused_parameters``).

Its other peculiarities are kept too: gates on the skips that are always 1/2; frequency branches that see the
real part of a spectrum, so only what of an image is even; upsampling by tiling a spectrum, which
is the same as zeros between pixels, a source of checkerboards.

Source: M. R. Khan et al., Spectroformer, WACV 2024, pp. 1454-1463.
"""

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from phaseloom.learning.gating import PhaseGate
from phaseloom.learning.layers import full
from phaseloom.learning.weight_files import recorded
from phaseloom.restoration.networks.phase_attention import (
    ChannelAttention,
    TransformerBlock,
    mixed,
    separable,
)
from phaseloom.restoration.networks.unet import Heads, Plan, Restored, Restorer, UShape, grow

__all__ = ["LegacyUNet", "agssf1"]


class Unused(nn.ModuleList):
    """Layers that count and are never called."""


class FrequencyAttention(nn.Module):
    """Plain attention, then a second pass over its outcome with the same weights.

    It was meant to weigh that pass by frequency queries; their layers are unused.

    Args:
        width: channels.
        heads: that share them.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.first = ChannelAttention(width, heads)
        self.again, self.leave = separable(width, 2 * width), nn.Conv2d(width, width, 1, bias=False)
        self.queries = Unused(nn.Conv2d(width, width, 1, bias=False) for _ in range(2))

    def forward(self, maps: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        """Mix channels twice."""
        weights = self.first.weights(maps)
        once = self.first.leave(mixed(weights, self.first.value(maps)))
        _, values = self.again(once).chunk(2, 1)
        return self.leave(mixed(weights, values))


class SpectralGate(nn.Module):
    """Maps from a pixel's neighbours and from the real part of the spectrum, joined, times 1/2.

    Args:
        width: channels.
    """

    def __init__(self, width: int):
        super().__init__()
        each = nn.Conv2d(2 * width, width, 3, padding=1, groups=width)
        slopes = [nn.LeakyReLU(0.2) for _ in range(2)]
        self.near = nn.Sequential(nn.Conv2d(width, 2 * width, 1), slopes[0], each, slopes[1])
        self.waves = nn.Sequential(nn.Conv2d(width, 2 * width, 1), nn.GELU(), nn.Conv2d(2 * width, width, 1))
        self.beside = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(2))
        self.join, self.gate = nn.Conv2d(2 * width, width, 1), PhaseGate(width)

    def forward(self, maps: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        """Pass maps across."""
        near, far = (beside(maps) for beside in self.beside)
        return self.gate(self.join(torch.cat([self.near(maps) + near, self._spectral(maps) + far], 1)))

    def _spectral(self, maps: Tensor) -> Tensor:
        """In single precision at least: the sum of a large map is no number of half precision."""
        with torch.autocast(maps.device.type, enabled=False):
            real = torch.fft.fft2(full(maps)).real
            out = full(self.waves(real.to(self.join.weight.dtype)))
            return torch.fft.ifft2(out).real.to(maps.dtype)


class FourierGrow(nn.Module):
    """Amplitudes and phases of a spectrum, each changed, then the spectrum repeated two by two.

    Repeated so, it is that of the image with a zero row and column after each of its own; they are put in.

    Args:
        before: channels.
        after: channels.

    Example:
        >>> grown = FourierGrow(4, 2)(torch.rand(1, 4, 3, 5))
        >>> grown.shape, torch.equal(grown[..., 1::2, :], grown[..., 1:2, 1:2].expand(1, 2, 3, 10))
        (torch.Size([1, 2, 6, 10]), True)
    """

    def __init__(self, before: int, after: int):
        super().__init__()
        self.amplitude, self.phase = (_twice(before) for _ in range(2))
        self.leave = nn.Conv2d(before, after, 1)

    def forward(self, maps: Float[Tensor, "b c y x"]) -> Float[Tensor, "b d v u"]:
        """Twice as many pixels along each axis."""
        with torch.autocast(maps.device.type, enabled=False):
            small = self._changed(torch.fft.fft2(full(maps))).to(maps.dtype)
        rows, columns = small.shape[-2:]
        wide = small.new_zeros(*small.shape[:2], 2 * rows, 2 * columns)
        wide[..., ::2, ::2] = small
        return self.leave(wide)

    def _changed(self, waves: Complex[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        kind = self.leave.weight.dtype
        amplitude = full(self.amplitude(waves.abs().to(kind)))
        phase = full(self.phase(waves.angle().to(kind)))
        return torch.fft.ifft2(torch.complex(amplitude * phase.cos(), amplitude * phase.sin())).abs()


class MixedGrow(nn.Module):
    """`FourierGrow` beside a convolution and a shuffle of pixels, joined.

    Args:
        before: channels.
        after: channels.
    """

    def __init__(self, before: int, after: int):
        super().__init__()
        self.waves, self.pixels = FourierGrow(before, after), grow(before, after)
        self.join = nn.Conv2d(2 * after, after, 1, bias=False)

    def forward(self, maps: Float[Tensor, "b c y x"]) -> Float[Tensor, "b d v u"]:
        """Twice as many pixels along each axis."""
        return self.join(torch.cat([self.waves(maps), self.pixels(maps)], 1))


class LegacyUNet(Restorer):
    """The network; `high` of what it restores is ``None``.

    Args:
        plan: sizes.
    """

    def __init__(self, plan: Plan):
        super().__init__(plan)

        def block(width: int, heads: int) -> nn.Module:
            return TransformerBlock(width, FrequencyAttention(width, heads))

        self.trunk = UShape(plan, block=block, grow=MixedGrow, gate=SpectralGate)
        self.heads = Heads(plan.widths[0], plan.channels_out, high=True)
        rest = [nn.Conv2d(3, 6, 3, bias=False), nn.Conv2d(3, 1, 1, bias=False)]
        self.unused = Unused([SpectralGate(plan.widths[2]), grow(16, 8), FourierGrow(3, 1), *rest])

    def draw(self, images: Float[Tensor, "b c y x"]) -> Restored:
        """What comes out for images whose pixels divide by the unit; of the second output nothing."""
        return Restored(self.heads.last(self.heads.low(self.trunk(images))), None)


def _twice(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, width, 1), nn.LeakyReLU(0.1), nn.Conv2d(width, width, 1))


@recorded("agssf1")
def agssf1(*, channels_in: int = 3, channels_out: int = 3, seed: int = 0) -> LegacyUNet:
    """The legacy model in its published sizes: 2,530,193 parameters, of which 272,924 do nothing.

    Args:
        channels_in: of the images.
        channels_out: of the restored images.
        seed: of the first weights.

    Example:
        >>> sum(value.numel() for value in agssf1().parameters())
        2530193
    """
    plan = Plan(
        channels_in=channels_in,
        channels_out=channels_out,
        widths=(16, 32, 64, 128),
        blocks=(2, 3, 3, 4),
        heads=(1, 2, 4, 8),
        refine=4,
    )
    return LegacyUNet(plan)
