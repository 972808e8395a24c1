"""The restorer that preceded the Phaseformer, with one output, exactly as published, for comparison.

Of its 2,530,193 parameters 272,924 are never used: in each block the path of the frequency queries, whose
scores were computed and discarded, and besides the levels a gate, upsamplings and a second output. They are
here as `Unused`, so that counts are as published, and are not computed. They get no gradient: training in
several processes needs ``find_unused_parameters``.

Other peculiarities are kept too: gates on the skips that are always 1/2; frequency branches that use only the
real part of a spectrum, so only the even part of an image; upsampling by tiling a spectrum, which is the same
as zeros between pixels, a source of checkerboards.

Source: M. R. Khan et al., Spectroformer, WACV 2024, pp. 1454-1463.
"""

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from phaseloom.learning.gating import PhaseGate
from phaseloom.learning.layers import to_full_precision
from phaseloom.learning.weight_files import record_builder
from phaseloom.restoration.networks.phase_attention import (
    ChannelAttention,
    TransformerBlock,
    mix_channels,
    separable_conv,
)
from phaseloom.restoration.networks.unet import (
    OutputHeads,
    Restorer,
    RestorerOutput,
    UNetPlan,
    UNetTrunk,
    upsample,
)

__all__ = ["LegacyUNet", "agssf1"]


class Unused(nn.ModuleList):
    """Layers that count as parameters and are never called."""


class FrequencyAttention(nn.Module):
    """Plain attention, then a second pass over its result with the same weights.

    Frequency queries were meant to weight the second pass; their layers are unused.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.first = ChannelAttention(width, heads)
        self.again = separable_conv(width, 2 * width)
        self.leave = nn.Conv2d(width, width, 1, bias=False)
        self.queries = Unused(nn.Conv2d(width, width, 1, bias=False) for _ in range(2))

    def forward(self, maps: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        """Mix channels twice."""
        weights = self.first.weights(maps)
        once = self.first.leave(mix_channels(weights, self.first.value(maps)))
        _, values = self.again(once).chunk(2, 1)
        return self.leave(mix_channels(weights, values))


class SpectralGate(nn.Module):
    """Maps from a pixel's neighbours and from the real part of the spectrum, joined, times 1/2."""

    def __init__(self, width: int):
        super().__init__()
        depthwise = nn.Conv2d(2 * width, width, 3, padding=1, groups=width)
        slopes = [nn.LeakyReLU(0.2) for _ in range(2)]
        self.near = nn.Sequential(nn.Conv2d(width, 2 * width, 1), slopes[0], depthwise, slopes[1])
        self.waves = nn.Sequential(nn.Conv2d(width, 2 * width, 1), nn.GELU(), nn.Conv2d(2 * width, width, 1))
        self.beside = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(2))
        self.join = nn.Conv2d(2 * width, width, 1)
        self.gate = PhaseGate(width)

    def forward(self, maps: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        """Gate a skip connection."""
        near, far = (beside(maps) for beside in self.beside)
        return self.gate(self.join(torch.cat([self.near(maps) + near, self._spectral(maps) + far], 1)))

    def _spectral(self, maps: Tensor) -> Tensor:
        """In single precision at least: the sum of a large map overflows half precision."""
        with torch.autocast(maps.device.type, enabled=False):
            real = torch.fft.fft2(to_full_precision(maps)).real
            out = to_full_precision(self.waves(real.to(self.join.weight.dtype)))
            return torch.fft.ifft2(out).real.to(maps.dtype)


class FourierUpsample(nn.Module):
    """Amplitudes and phases of a spectrum, each transformed, then the spectrum repeated two by two.

    A spectrum so repeated is that of the image with a zero row and column after each of its own; the zeros
    are inserted directly.

    Example:
        >>> grown = FourierUpsample(4, 2)(torch.rand(1, 4, 3, 5))
        >>> grown.shape, torch.equal(grown[..., 1::2, :], grown[..., 1:2, 1:2].expand(1, 2, 3, 10))
        (torch.Size([1, 2, 6, 10]), True)
    """

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.amplitude = _two_convolutions(channels_in)
        self.phase = _two_convolutions(channels_in)
        self.leave = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, maps: Float[Tensor, "b c y x"]) -> Float[Tensor, "b d v u"]:
        """Twice as many pixels along each axis."""
        with torch.autocast(maps.device.type, enabled=False):
            small = self._transform(torch.fft.fft2(to_full_precision(maps))).to(maps.dtype)
        rows, columns = small.shape[-2:]
        wide = small.new_zeros(*small.shape[:2], 2 * rows, 2 * columns)
        wide[..., ::2, ::2] = small
        return self.leave(wide)

    def _transform(self, waves: Complex[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        dtype = self.leave.weight.dtype
        amplitude = to_full_precision(self.amplitude(waves.abs().to(dtype)))
        phase = to_full_precision(self.phase(waves.angle().to(dtype)))
        return torch.fft.ifft2(torch.complex(amplitude * phase.cos(), amplitude * phase.sin())).abs()


class MixedUpsample(nn.Module):
    """`FourierUpsample` beside a convolution with a pixel shuffle, joined."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.waves = FourierUpsample(channels_in, channels_out)
        self.pixels = upsample(channels_in, channels_out)
        self.join = nn.Conv2d(2 * channels_out, channels_out, 1, bias=False)

    def forward(self, maps: Float[Tensor, "b c y x"]) -> Float[Tensor, "b d v u"]:
        """Twice as many pixels along each axis."""
        return self.join(torch.cat([self.waves(maps), self.pixels(maps)], 1))


class LegacyUNet(Restorer):
    """The network; its output `high` is ``None``."""

    def __init__(self, plan: UNetPlan):
        super().__init__(plan)

        def block(width: int, heads: int) -> nn.Module:
            return TransformerBlock(width, FrequencyAttention(width, heads))

        self.trunk = UNetTrunk(plan, block=block, grow=MixedUpsample, gate=SpectralGate)
        self.heads = OutputHeads(plan.widths[0], plan.channels_out, high=True)
        rest = [nn.Conv2d(3, 6, 3, bias=False), nn.Conv2d(3, 1, 1, bias=False)]
        self.unused = Unused([SpectralGate(plan.widths[2]), upsample(16, 8), FourierUpsample(3, 1), *rest])

    def draw(self, images: Float[Tensor, "b c y x"]) -> RestorerOutput:
        """Restore images whose pixels divide by the unit."""
        return RestorerOutput(self.heads.last(self.heads.low(self.trunk(images))), None)


def _two_convolutions(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, width, 1), nn.LeakyReLU(0.1), nn.Conv2d(width, width, 1))


@record_builder("agssf1")
def agssf1(*, channels_in: int = 3, channels_out: int = 3, seed: int = 0) -> LegacyUNet:
    """The legacy model in its published sizes: 2,530,193 parameters, of which 272,924 are unused.

    Args:
        channels_in: of the images.
        channels_out: of the restored images.
        seed: of the initial weights.

    Example:
        >>> sum(value.numel() for value in agssf1().parameters())
        2530193
    """
    return LegacyUNet(UNetPlan(channels_in=channels_in, channels_out=channels_out))
