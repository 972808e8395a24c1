"""Random crops of pairs of images, new in every epoch, and batches of them for a network.

All random numbers follow from the seed, the epoch and the number of the draw alone, so that a resumed
training sees the same crops to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from phaseloom.errors import BadInput
from phaseloom.restoration.pairs.folders import Image, Pair, format_channels

__all__ = ["Batch", "Crops", "crop_pair", "double_pixels", "iterate_batches", "resize_batch"]
__all__ += ["stack_pairs"]

CROP_MULTIPLE = 8
"""Sizes of crops are multiples of so many pixels, as restorers of four levels need them."""

# first number of the seed of each kind of draw
ORDER_STREAM = 1
SCALE_STREAM = 2
PLACE_STREAM = 3


@dataclass(frozen=True)
class Crops:
    """How crops are drawn.

    Attributes:
        size: pixels along an edge of a crop of the input, a multiple of 8.
        scales: factors by which crops are enlarged after they were cut, one for each batch; sizes are rounded
            to multiples of 8.
        turned: flips and quarter turns too; not for channels that are components of a vector.

    Raises:
        BadInput: a size that is not a multiple of 8, or no scale above zero.

    Example:
        >>> [Crops(size=256).scale_size(scale) for scale in (0.8, 1.0, 1.2)]
        [208, 256, 304]
    """

    size: int = 256
    scales: tuple[float, ...] = (0.8, 1.0, 1.2)
    turned: bool = True

    def __post_init__(self) -> None:
        if self.size < CROP_MULTIPLE or self.size % CROP_MULTIPLE:
            raise BadInput("crops: size", self.size, f"must be a multiple of {CROP_MULTIPLE} pixels")
        if not self.scales or not all(0 < scale < np.inf and self.scale_size(scale) for scale in self.scales):
            fix = f"must be factors above zero that leave {CROP_MULTIPLE} pixels: write [0.8, 1.0, 1.2]"
            raise BadInput("crops: scales", list(self.scales), fix)

    def scale_size(self, scale: float, /) -> int:
        """Pixels along an edge of a crop that is enlarged by a factor."""
        return CROP_MULTIPLE * round(self.size * scale / CROP_MULTIPLE)


@dataclass(frozen=True, eq=False)
class Batch:
    """Pairs as tensors for a network.

    Attributes:
        input: ``(b, channel, y, x)`` float32.
        target: the same shape.
        fine: ``(b, channel, 2 y, 2 x)``: the fine target of pairs that have one, else the target interpolated
            (`double_pixels`), which holds no further detail.
    """

    input: Tensor
    target: Tensor
    fine: Tensor

    def to(self, device: torch.device | str, /) -> Batch:
        """The same on a device."""
        return Batch(self.input.to(device), self.target.to(device), self.fine.to(device))


def crop_pair(pair: Pair, crops: Crops, /, *, seed: int = 0, epoch: int = 0, number: int = 0) -> Pair:
    """Cut a random square, from input, target and fine target at the same place, turned alike.

    Raises:
        BadInput: a pair that is smaller than the crop.

    Example:
        >>> ramp = np.arange(120.0).reshape(1, 10, 12)
        >>> cut = crop_pair(Pair("ramp", ramp, ramp), Crops(size=8), number=3)
        >>> cut.input.shape, bool((cut.input == cut.target).all())
        ((1, 8, 8), True)
    """
    places = [size - crops.size + 1 for size in pair.size]
    if min(places) < 1:
        fix = f"is smaller than crops of {crops.size}: choose smaller crops"
        raise BadInput(f"pair {pair.name}", f"{pair.size[0]} x {pair.size[1]} pixels", fix)
    rng = _generator(PLACE_STREAM, seed, epoch, number)
    y, x = (int(rng.integers(count)) for count in places)
    turn = int(rng.integers(8)) if crops.turned else 0

    def cut(image: Image, factor: int) -> Image:
        rows, columns = (slice(factor * start, factor * (start + crops.size)) for start in (y, x))
        part = np.rot90(image[:, rows, columns], turn % 4, (-2, -1))
        return np.ascontiguousarray(part[..., ::-1] if turn >= 4 else part)

    fine = None if pair.fine is None else cut(pair.fine, 2)
    return Pair(pair.name, cut(pair.input, 1), cut(pair.target, 1), fine)


def iterate_batches(
    pairs: Sequence[Pair],
    crops: Crops,
    /,
    *,
    size: int = 8,
    each: int = 1,
    seed: int = 0,
    epoch: int = 0,
    first: int = 0,
) -> Iterator[Batch]:
    """One epoch of crops in random order; the last batch may be smaller.

    Args:
        pairs: to cut from; files are read anew each time.
        crops: how crops are drawn.
        size: crops in a batch.
        each: crops of each pair in an epoch.
        seed: of the training.
        epoch: number of the epoch.
        first: number of the batch to begin with, as if those before it had been used.

    Raises:
        BadInput: no pairs, a size below one, pairs smaller than a crop or with different channels.
    """
    for knob, value in {"size": size, "each": each, "pairs": len(pairs)}.items():
        if value < 1:
            raise BadInput(f"batches: {knob}", value, "must be 1 at least")
    order = _generator(ORDER_STREAM, seed, epoch, 1).permutation(len(pairs) * each)
    for number in range(first, -(-len(order) // size)):
        draws = [int(draw) for draw in order[number * size : (number + 1) * size]]
        cuts = [
            crop_pair(pairs[draw % len(pairs)], crops, seed=seed, epoch=epoch, number=draw) for draw in draws
        ]
        scale = float(_generator(SCALE_STREAM, seed, epoch, number).choice(crops.scales))
        yield resize_batch(stack_pairs(cuts), crops.scale_size(scale))


def stack_pairs(pairs: Sequence[Pair], /) -> Batch:
    """Pairs of one size as tensors.

    Raises:
        BadInput: no pair, or sizes or channels that differ.

    Example:
        >>> stack_pairs([Pair("flat", np.zeros((1, 4, 6)), np.ones((1, 4, 6)))]).fine.shape
        torch.Size([1, 1, 8, 12])
    """
    if not pairs:
        raise BadInput("batch", None, "holds no pair")
    first = pairs[0]
    for other in pairs:
        if other.input.shape != first.input.shape:
            fix = (
                f"and {first.name} {_describe(first)}: they cannot share a batch, save all alike or crop them"
            )
            raise BadInput(f"batch: {other.name}", f"has {_describe(other)}", fix)
    target = _to_tensor([pair.target for pair in pairs])
    fine = [
        double_pixels(target[n : n + 1]) if pair.fine is None else _to_tensor([pair.fine])
        for n, pair in enumerate(pairs)
    ]
    return Batch(_to_tensor([pair.input for pair in pairs]), target, torch.cat(fine))


def double_pixels(images: Tensor, /) -> Tensor:
    """Interpolate images ``(b, channel, y, x)`` bilinearly to pixels half as wide, edges repeated.

    Example:
        >>> double_pixels(torch.tensor([[[[0.0, 4.0]]]]))[0, 0].tolist()
        [[0.0, 1.0, 3.0, 4.0], [0.0, 1.0, 3.0, 4.0]]
    """
    return functional.interpolate(images, scale_factor=2, mode="bilinear", align_corners=False)


def resize_batch(batch: Batch, size: int, /) -> Batch:
    """Interpolate squares to another size, averaging where they become smaller.

    Example:
        >>> ramp = Pair("ramp", np.zeros((1, 8, 8)), np.zeros((1, 8, 8)))
        >>> resize_batch(stack_pairs([ramp]), 16).fine.shape
        torch.Size([1, 1, 32, 32])
    """
    if size == batch.input.shape[-1]:
        return batch

    def resize(images: Tensor, edge: int) -> Tensor:
        return functional.interpolate(
            images, size=(edge, edge), mode="bilinear", align_corners=False, antialias=True
        )

    return Batch(resize(batch.input, size), resize(batch.target, size), resize(batch.fine, 2 * size))


def _generator(stream: int, seed: int, epoch: int, number: int) -> np.random.Generator:
    for knob, value in {"seed": seed, "epoch": epoch, "number": number}.items():
        if not isinstance(value, int | np.integer) or value < 0:
            raise BadInput(f"crops: {knob}", value, "must be a whole number, 0 or more")
    return np.random.default_rng((stream, seed, epoch, number))


def _to_tensor(images: Sequence[Image]) -> Tensor:
    return torch.from_numpy(np.stack(images).astype(np.float32))


def _describe(pair: Pair) -> str:
    return f"{format_channels(len(pair.input))} of {pair.size[0]} x {pair.size[1]} pixels"
