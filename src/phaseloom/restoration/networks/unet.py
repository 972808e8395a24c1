"""The shape that image restorers share: down through levels, up again past gates, out in one or two sizes.

Images are floats of any channels, pixels and unit; none is clamped. Those whose pixels do not divide by the
network's unit are mirrored beyond their last row and column, and what comes out is cut to size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from phaseloom.errors import BadInput
from phaseloom.learning.layers import counted
from phaseloom.learning.weight_files import Recipe

__all__ = ["Heads", "Plan", "Restored", "Restorer", "UShape", "grow", "mirrored", "shrink"]


class Restored(NamedTuple):
    """Images that a network has restored.

    Attributes:
        low: ``(b, c, y, x)``, on the pixels that came in.
        high: ``(b, c, 2y, 2x)``: each pixel parted into two by two, its middle where theirs is; ``None`` of a
            network without that output. It shows what was learned, not what was measured.
    """

    low: Tensor
    high: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Sizes of a network, the finest level first.

    Attributes:
        channels_in: of the images that come in.
        channels_out: of those that go out.
        widths: channels of each level, multiples of four, the first at least.
        blocks: of each level, on the way down and up.
        heads: of the attention of each level.
        refine: blocks after the last level.

    Raises:
        BadInput: sizes that are none, or do not go together.
    """

    channels_in: int
    channels_out: int
    widths: Sequence[int]
    blocks: Sequence[int]
    heads: Sequence[int]
    refine: int

    def __post_init__(self):
        for knob in ("channels_in", "channels_out"):
            counted(knob, getattr(self, knob))
        if not isinstance(self.refine, int) or self.refine < 0:
            raise BadInput("nets: refine", self.refine, "must be a whole number, zero for no such blocks")
        for knob, multiple in (("widths", 4), ("blocks", 1), ("heads", 1)):
            for value in getattr(self, knob):
                counted(knob, value, multiple=multiple)
        if len(self.widths) < 2 or not len(self.widths) == len(self.blocks) == len(self.heads):
            told = f"{len(self.widths)} widths, {len(self.blocks)} blocks, {len(self.heads)} heads"
            raise BadInput(
                "nets: widths", told, "must be as many of each, one for each of two levels or more"
            )

    @property
    def unit(self) -> int:
        """Multiple of pixels that the levels ask for."""
        return 2 ** (len(self.widths) - 1)


class Restorer(nn.Module):
    """Images in, `Restored` images out, whatever their pixels.

    Attributes:
        plan: sizes.
        recipe: the call that built it.
    """

    recipe: Recipe

    def __init__(self, plan: Plan):
        super().__init__()
        self.plan = plan

    def draw(self, images: Float[Tensor, "b c y x"]) -> Restored:
        """What comes out for images whose pixels divide by the unit."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Restored:
        """Restore images ``(b, channels_in, y, x)`` of one pixel or more.

        Raises:
            BadInput: other channels, no pixels, or another type than the network's.
        """
        self._check(images)
        rows, columns = images.shape[-2:]
        low, high = self.draw(mirrored(images, self.plan.unit))
        low = low[..., :rows, :columns]
        return Restored(low, None if high is None else high[..., : 2 * rows, : 2 * columns])

    def _check(self, images: Tensor) -> None:
        channels = self.plan.channels_in
        if images.ndim != 4 or images.shape[1] != channels or not images.numel():
            fix = f"is no shape (b, {channels}, y, x) of one image or more, as this network takes them"
            raise BadInput("images", tuple(images.shape), fix)
        wanted = next(self.parameters()).dtype
        mixed = images.device.type != "meta" and torch.is_autocast_enabled(images.device.type)
        if images.dtype != wanted and not (mixed and images.is_floating_point()):
            raise BadInput("images", str(images.dtype), f"is not the network's type: give {wanted}")


class UShape(nn.Module):
    """Images to maps of twice the first width, each level seeing half the pixels of the one before.

    Convolutions have no biases. What the levels on the way down have found passes a gate, is stacked on what
    comes up, and brought to one width by a 1 x 1 convolution, but on the finest level.

    Args:
        plan: sizes.
        block: width and heads to a block.
        grow: widths of a level and of the finer one to what goes up between them.
        gate: width to what passes maps across.
    """

    def __init__(
        self,
        plan: Plan,
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
        steps, finest = list(pairwise(plan.widths)), plan.widths[0]
        self.enter = nn.Conv2d(plan.channels_in, finest, 3, padding=1, bias=False)
        self.encoders = nn.ModuleList(stage(*level) for level in levels)
        self.down = nn.ModuleList(shrink(fine, coarse) for fine, coarse in steps)
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
        kept = [state]
        for down, encoder in zip(self.down, list(self.encoders)[1:], strict=True):
            kept.append(state := encoder(down(state)))
        kept.pop()
        for up, gate, join, decoder in zip(self.up, self.gates, self.join, self.decoders, strict=True):
            state = decoder(join(torch.cat([up(state), gate(kept.pop())], 1)))
        return self.refine(state)


class Heads(nn.Module):
    """Maps to images on the same pixels, and on twice as many along each axis; both end in one convolution.

    Args:
        width: half the channels of the maps.
        channels: of the images.
        high: whether there is the second output.
    """

    def __init__(self, width: int, channels: int, *, high: bool):
        super().__init__()
        self.low = nn.Conv2d(2 * width, width // 2, 3, padding=1, bias=False)
        finer = nn.Conv2d(width, width // 2, 3, padding=1, bias=False)
        self.high = nn.Sequential(grow(2 * width, width), finer) if high else None
        self.last = nn.Conv2d(width // 2, channels, 3, padding=1, bias=False)

    def forward(self, maps: Float[Tensor, "b c y x"]) -> Restored:
        """Draw."""
        low = self.last(self.low(maps))
        return Restored(low, None if self.high is None else self.last(self.high(maps)))


def shrink(before: int, after: int, /) -> nn.Sequential:
    """A convolution, then each two by two pixels become four channels of one."""
    return nn.Sequential(nn.Conv2d(before, after // 4, 3, padding=1, bias=False), nn.PixelUnshuffle(2))


def grow(before: int, after: int, /) -> nn.Sequential:
    """A convolution, then four channels of a pixel become two by two pixels."""
    return nn.Sequential(nn.Conv2d(before, 4 * after, 3, padding=1, bias=False), nn.PixelShuffle(2))


def mirrored(images: Float[Tensor, "b c y x"], unit: int, /) -> Float[Tensor, "b c v u"]:
    """Images mirrored at their last row and column until their pixels divide by a unit.

    The last row is not repeated. Where it takes more rows than there are, the first is a mirror too.

    Example:
        >>> mirrored(torch.arange(3.0).view(1, 1, 1, 3), 8)[0, 0, 0].tolist()
        [0.0, 1.0, 2.0, 1.0, 0.0, 1.0, 2.0, 1.0]
    """
    if not any(count % unit for count in images.shape[-2:]):
        return images
    rows, columns = (_folded(count, unit, images.device) for count in images.shape[-2:])
    return images.index_select(-2, rows).index_select(-1, columns)


def _folded(count: int, unit: int, device: torch.device) -> Int[Tensor, "n"]:
    """Where each pixel of a mirrored axis comes from."""
    place = torch.arange(-(-count // unit) * unit, device=device)
    period = max(1, 2 * (count - 1))
    return count - 1 - (place % period - (count - 1)).abs() if count > 1 else 0 * place
