"""The U-Net that image restorers share: down through levels, up again past gates, one or two output sizes.

Images are floats of any channels, pixels and unit; none is clamped. Those whose pixels do not divide by the
network's unit are mirrored beyond their last row and column, and the output is cropped to their size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from phaseloom.errors import BadInput
from phaseloom.learning.layers import check_count
from phaseloom.learning.weight_files import BuilderCall

__all__ = ["OutputHeads", "Restorer", "RestorerOutput", "UNetPlan", "UNetTrunk", "downsample"]
__all__ += ["mirror_pad", "upsample"]


class RestorerOutput(NamedTuple):
    """Images that a network has restored.

    Attributes:
        low: ``(b, c, y, x)``, on the pixels of the input.
        high: ``(b, c, 2y, 2x)``: each pixel divided into two by two, around the same centre; ``None`` for a
            network without that output. It shows what was learned, not what was measured.
    """

    low: Tensor
    high: Tensor | None


@dataclass(frozen=True, kw_only=True)
class UNetPlan:
    """Sizes of a network, the finest level first; the defaults are the published ones.

    Attributes:
        channels_in: of the input images.
        channels_out: of the output images.
        widths: channels of each level, multiples of four, the first at least.
        blocks: of each level, on the way down and up.
        heads: of the attention of each level.
        refine: blocks after the last level.

    Raises:
        BadInput: sizes that are not counts, or lists of different lengths.
    """

    channels_in: int
    channels_out: int
    widths: Sequence[int] = (16, 32, 64, 128)
    blocks: Sequence[int] = (2, 3, 3, 4)
    heads: Sequence[int] = (1, 2, 4, 8)
    refine: int = 4

    def __post_init__(self):
        check_count("channels_in", self.channels_in)
        check_count("channels_out", self.channels_out)
        if not isinstance(self.refine, int) or self.refine < 0:
            raise BadInput("model: refine", self.refine, "must be a whole number, zero for no such blocks")
        for knob, multiple in (("widths", 4), ("blocks", 1), ("heads", 1)):
            for value in getattr(self, knob):
                check_count(knob, value, multiple=multiple)
        if len(self.widths) < 2 or not len(self.widths) == len(self.blocks) == len(self.heads):
            given = f"{len(self.widths)} widths, {len(self.blocks)} blocks, {len(self.heads)} heads"
            fix = "must be as many of each, one for each of two levels or more"
            raise BadInput("model: widths", given, fix)

    @property
    def unit(self) -> int:
        """Number that the pixels along each axis must be a multiple of."""
        return 2 ** (len(self.widths) - 1)


class Restorer(nn.Module):
    """Base class of restorers: images of any size in, `RestorerOutput` out.

    Attributes:
        plan: sizes.
        recipe: the call that built it.
    """

    recipe: BuilderCall

    def __init__(self, plan: UNetPlan):
        super().__init__()
        self.plan = plan

    def draw(self, images: Float[Tensor, "b c y x"]) -> RestorerOutput:
        """Restore images whose pixels divide by the unit."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> RestorerOutput:
        """Restore images ``(b, channels_in, y, x)`` of one pixel or more."""
        self._check(images)
        rows, columns = images.shape[-2:]
        low, high = self.draw(mirror_pad(images, self.plan.unit))
        low = low[..., :rows, :columns]
        return RestorerOutput(low, None if high is None else high[..., : 2 * rows, : 2 * columns])

    def _check(self, images: Tensor) -> None:
        channels = self.plan.channels_in
        if images.ndim != 4 or images.shape[1] != channels or not images.numel():
            fix = f"is not a shape (b, {channels}, y, x) of one image or more, as this network takes them"
            raise BadInput("images", tuple(images.shape), fix)
        wanted = next(self.parameters()).dtype
        autocast = images.device.type != "meta" and torch.is_autocast_enabled(images.device.type)
        if images.dtype != wanted and not (autocast and images.is_floating_point()):
            raise BadInput("images", str(images.dtype), f"is not the network's type: give {wanted}")


class UNetTrunk(nn.Module):
    """Images to maps of twice the first width, each level with half the pixels of the one before.

    Convolutions have no biases. The maps of the way down pass a gate, are concatenated with those that come
    up, and reduced to one width by a 1 x 1 convolution, except on the finest level.

    Args:
        plan: sizes.
        block: builds a block from width and heads.
        grow: builds the upsampling from the widths of a level and of the finer one.
        gate: builds the gate of a skip connection from its width.
    """

    def __init__(
        self,
        plan: UNetPlan,
        /,
        *,
        block: Callable[[int, int], nn.Module],
        grow: Callable[[int, int], nn.Module],
        gate: Callable[[int], nn.Module],
    ):
        super().__init__()

        def stage(width: int, count: int, heads: int) -> nn.Sequential:
            return nn.Sequential(*(block(width, heads) for _ in range(count)))

        levels = list(zip(plan.widths, plan.blocks, plan.heads, strict=True))
        steps = list(pairwise(plan.widths))
        finest = plan.widths[0]
        # the order of construction is the order in which the seed draws weights
        self.enter = nn.Conv2d(plan.channels_in, finest, 3, padding=1, bias=False)
        self.encoders = nn.ModuleList(stage(*level) for level in levels)
        self.down = nn.ModuleList(downsample(fine, coarse) for fine, coarse in steps)
        self.up = nn.ModuleList(grow(coarse, fine) for fine, coarse in steps[::-1])
        self.gates = nn.ModuleList(gate(fine) for fine, _ in steps[::-1])
        narrow = (nn.Conv2d(2 * fine, fine, 1, bias=False) for fine in plan.widths[-2:0:-1])
        self.join = nn.ModuleList([*narrow, nn.Identity()])
        self.decoders = nn.ModuleList(stage(*level) for level in levels[-2:0:-1])
        self.decoders.append(stage(2 * finest, plan.blocks[0], plan.heads[0]))
        self.refine = stage(2 * finest, plan.refine, plan.heads[0])

    def forward(self, images: Float[Tensor, "b c y x"]) -> Float[Tensor, "b d y x"]:
        """Down and up."""
        state = self.encoders[0](self.enter(images))
        skips = [state]
        for down, encoder in zip(self.down, list(self.encoders)[1:], strict=True):
            skips.append(state := encoder(down(state)))
        skips.pop()
        for up, gate, join, decoder in zip(self.up, self.gates, self.join, self.decoders, strict=True):
            state = decoder(join(torch.cat([up(state), gate(skips.pop())], 1)))
        return self.refine(state)


class OutputHeads(nn.Module):
    """Maps to images on the same pixels and on pixels half as wide, by one shared last convolution."""

    def __init__(self, width: int, channels: int, *, high: bool):
        super().__init__()
        self.low = nn.Conv2d(2 * width, width // 2, 3, padding=1, bias=False)
        finer = nn.Conv2d(width, width // 2, 3, padding=1, bias=False)
        self.high = nn.Sequential(upsample(2 * width, width), finer) if high else None
        self.last = nn.Conv2d(width // 2, channels, 3, padding=1, bias=False)

    def forward(self, maps: Float[Tensor, "b c y x"]) -> RestorerOutput:
        """Convert maps to images."""
        low = self.last(self.low(maps))
        return RestorerOutput(low, None if self.high is None else self.last(self.high(maps)))


def downsample(channels_in: int, channels_out: int, /) -> nn.Sequential:
    """A convolution, then each two by two pixels become four channels of one."""
    convolution = nn.Conv2d(channels_in, channels_out // 4, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.PixelUnshuffle(2))


def upsample(channels_in: int, channels_out: int, /) -> nn.Sequential:
    """A convolution, then four channels of a pixel become two by two pixels."""
    convolution = nn.Conv2d(channels_in, 4 * channels_out, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.PixelShuffle(2))


def mirror_pad(images: Float[Tensor, "b c y x"], unit: int, /) -> Float[Tensor, "b c v u"]:
    """Mirror images at their last row and column until their pixels divide by a unit.

    The last row is not repeated. If the padding is wider than the image, the first row is a mirror too.

    Example:
        >>> mirror_pad(torch.arange(3.0).view(1, 1, 1, 3), 8)[0, 0, 0].tolist()
        [0.0, 1.0, 2.0, 1.0, 0.0, 1.0, 2.0, 1.0]
    """
    if not any(count % unit for count in images.shape[-2:]):
        return images
    rows, columns = (_mirror_index(count, unit, images.device) for count in images.shape[-2:])
    return images.index_select(-2, rows).index_select(-1, columns)


def _mirror_index(count: int, unit: int, device: torch.device) -> Int[Tensor, "n"]:
    """Source index of each pixel of a mirrored axis."""
    index = torch.arange(-(-count // unit) * unit, device=device)
    period = max(1, 2 * (count - 1))
    return count - 1 - (index % period - (count - 1)).abs() if count > 1 else 0 * index
