"""Crops of pairs of images, drawn anew in every epoch, and batches of them for a network.

Whatever is drawn follows from the seed, the epoch and the number of the draw alone, so that a training that
goes on where it was stopped sees the same crops to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from phaseloom.errors import BadInput
from phaseloom.restoration.pairs.folders import Image, Pair, channels

__all__ = ["Batch", "Crops", "batches", "crop", "doubled", "resized", "stacked"]

UNIT = 8
"""Sizes of crops are multiples of so many pixels, as restorers of four levels want them."""

ORDER, SCALE, PLACE = 1, 2, 3
"""What is drawn: which pair comes when, how batches are scaled, and which crop of a pair is taken."""


@dataclass(frozen=True)
class Crops:
    """What is drawn for every crop.

    Attributes:
        size: pixels along an edge of a crop of the input, a multiple of 8.
        scales: factors by which crops are enlarged after they were cut, one for each batch; sizes are rounded
            to multiples of 8.
        turned: flips and quarter turns too; right where channels are no components of a vector.

    Raises:
        BadInput: a size that is no multiple of 8, or no scale above zero.

    Example:
        >>> [Crops(size=256).scaled(scale) for scale in (0.8, 1.0, 1.2)]
        [208, 256, 304]
    """

    size: int = 256
    scales: tuple[float, ...] = (0.8, 1.0, 1.2)
    turned: bool = True

    def __post_init__(self) -> None:
        if self.size < UNIT or self.size % UNIT:
            raise BadInput("crops: size", self.size, f"must be a multiple of {UNIT} pixels")
        if not self.scales or not all(0 < scale < np.inf and self.scaled(scale) for scale in self.scales):
            fix = f"must be factors above zero that leave {UNIT} pixels: write for example [0.8, 1.0, 1.2]"
            raise BadInput("crops: scales", list(self.scales), fix)

    def scaled(self, scale: float, /) -> int:
        """Pixels along an edge of a crop that is enlarged so."""
        return UNIT * round(self.size * scale / UNIT)


@dataclass(frozen=True, eq=False)
class Batch:
    """Pairs for a network.

    Attributes:
        input: ``(b, channel, y, x)`` float32.
        target: the same shape.
        fine: ``(b, channel, 2 y, 2 x)``: the fine target where a pair has one, else the target interpolated
            (`doubled`), which holds no detail that the target lacks.
    """

    input: Tensor
    target: Tensor
    fine: Tensor

    def to(self, device: torch.device | str, /) -> Batch:
        """The same on a device."""
        return Batch(self.input.to(device), self.target.to(device), self.fine.to(device))


def crop(pair: Pair, crops: Crops, /, *, seed: int = 0, epoch: int = 0, number: int = 0) -> Pair:
    """A square of a pair at random, from input, target and fine target at the same place, turned alike.

    Args:
        pair: to cut from.
        crops: of which its size and turns are used.
        seed: of the training.
        epoch: of the draw.
        number: of the draw in its epoch.

    Raises:
        BadInput: a pair that is smaller than the crop.

    Example:
        >>> ramp = np.arange(120.0).reshape(1, 10, 12)
        >>> cut = crop(Pair("ramp", ramp, ramp), Crops(size=8), number=3)
        >>> cut.input.shape, bool((cut.input == cut.target).all())
        ((1, 8, 8), True)
    """
    rooms = [size - crops.size + 1 for size in pair.size]
    if min(rooms) < 1:
        fix = f"is smaller than crops of {crops.size}: take smaller ones"
        raise BadInput(f"pair {pair.name}", f"{pair.size[0]} x {pair.size[1]} pixels", fix)
    rng = _generator(PLACE, seed, epoch, number)
    y, x = (int(rng.integers(room)) for room in rooms)
    turn = int(rng.integers(8)) if crops.turned else 0

    def cut(image: Image, factor: int) -> Image:
        rows, columns = (slice(factor * at, factor * (at + crops.size)) for at in (y, x))
        part = np.rot90(image[:, rows, columns], turn % 4, (-2, -1))
        return np.ascontiguousarray(part[..., ::-1] if turn >= 4 else part)

    fine = None if pair.fine is None else cut(pair.fine, 2)
    return Pair(pair.name, cut(pair.input, 1), cut(pair.target, 1), fine)


def batches(
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
    """One epoch of crops, in an order of its own; the last batch may be smaller.

    Args:
        pairs: to cut from; files are read anew each time.
        crops: what is drawn.
        size: crops in a batch.
        each: crops of each pair in an epoch.
        seed: of the training.
        epoch: which of its epochs.
        first: the batch to begin with, as if those before it had been seen.

    Raises:
        BadInput: nothing to draw from, a size below one, pairs smaller than a crop or of different channels.
    """
    for knob, value in {"size": size, "each": each, "pairs": len(pairs)}.items():
        if value < 1:
            raise BadInput(f"batches: {knob}", value, "must be 1 at least")
    order = _generator(ORDER, seed, epoch, 1).permutation(len(pairs) * each)
    for number in range(first, -(-len(order) // size)):
        draws = order[number * size : (number + 1) * size]
        cuts = [
            crop(pairs[int(draw) % len(pairs)], crops, seed=seed, epoch=epoch, number=int(draw))
            for draw in draws
        ]
        scale = float(_generator(SCALE, seed, epoch, number).choice(crops.scales))
        yield resized(stacked(cuts), crops.scaled(scale))


def stacked(pairs: Sequence[Pair], /) -> Batch:
    """Pairs of one size as tensors.

    Raises:
        BadInput: no pair, or sizes or channels that differ.

    Example:
        >>> stacked([Pair("flat", np.zeros((1, 4, 6)), np.ones((1, 4, 6)))]).fine.shape
        torch.Size([1, 1, 8, 12])
    """
    if not pairs:
        raise BadInput("batch", None, "holds no pair")
    one = pairs[0]
    for other in pairs:
        if other.input.shape != one.input.shape:
            fix = f"and {one.name} {_said(one)}: they cannot share a batch, save all alike or crop them"
            raise BadInput(f"batch: {other.name}", f"has {_said(other)}", fix)
    target = _tensor([pair.target for pair in pairs])
    known = [None if pair.fine is None else _tensor([pair.fine]) for pair in pairs]
    fine = [doubled(target[n : n + 1]) if part is None else part for n, part in enumerate(known)]
    return Batch(_tensor([pair.input for pair in pairs]), target, torch.cat(fine))


def doubled(images: Tensor, /) -> Tensor:
    """Images ``(b, channel, y, x)`` on pixels half as wide by bilinear interpolation, edges repeated.

    Example:
        >>> doubled(torch.tensor([[[[0.0, 4.0]]]]))[0, 0].tolist()
        [[0.0, 1.0, 3.0, 4.0], [0.0, 1.0, 3.0, 4.0]]
    """
    return functional.interpolate(images, scale_factor=2, mode="bilinear", align_corners=False)


def resized(batch: Batch, size: int, /) -> Batch:
    """Squares interpolated to other sizes; what is made smaller is averaged as well.

    Args:
        batch: of squares.
        size: pixels along an edge of the input.

    Example:
        >>> ramp = Pair("ramp", np.zeros((1, 8, 8)), np.zeros((1, 8, 8)))
        >>> resized(stacked([ramp]), 16).fine.shape
        torch.Size([1, 1, 32, 32])
    """
    if size == batch.input.shape[-1]:
        return batch
    knobs = {"mode": "bilinear", "align_corners": False, "antialias": True}
    parts = ((batch.input, size), (batch.target, size), (batch.fine, 2 * size))
    return Batch(*(functional.interpolate(part, size=(edge, edge), **knobs) for part, edge in parts))


def _generator(what: int, seed: int, epoch: int, number: int) -> np.random.Generator:
    for knob, value in {"seed": seed, "epoch": epoch, "number": number}.items():
        if not isinstance(value, int | np.integer) or value < 0:
            raise BadInput(f"crops: {knob}", value, "must be a whole number, 0 or more")
    return np.random.default_rng((what, seed, epoch, number))


def _tensor(images: Sequence[Image]) -> Tensor:
    return torch.from_numpy(np.stack(images).astype(np.float32))


def _said(pair: Pair) -> str:
    return f"{channels(len(pair.input))} of {pair.size[0]} x {pair.size[1]} pixels"
