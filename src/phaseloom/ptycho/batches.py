"""Which patterns are compared together.

A batch is an index tensor, or a tuple of them: pieces that are modelled one after the other and whose
gradients are added before the step, so that memory holds one piece and the step sees them all. Grouping
follows the positions of the scan as they were read, and depends on seed and epoch alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from phaseloom.errors import BadInput

__all__ = ["compact", "random", "sparse"]

Batch = Tensor | tuple[Tensor, ...]
Groups = list[np.ndarray]
Group = Callable[[np.ndarray, int, int, int], Groups]
"""Positions, number of groups, seed and epoch in; the members of each group out."""


@dataclass(frozen=True)
class GroupedBatches:
    """The batches of any epoch; sizes differ by one at most.

    Attributes:
        index: the patterns to use.
        positions: theirs, ``(n, 2)``.
        size: patterns that are modelled at once.
        accumulate: pieces of that size in a batch.
        seed: of everything that is drawn.
        group: how patterns are put together.
    """

    index: np.ndarray
    positions: np.ndarray
    size: int
    accumulate: int
    seed: int
    group: Group

    def __call__(self, epoch: int) -> list[Batch]:
        """The batches of an epoch, in an order of its own."""
        count = max(1, round(len(self.index) / (self.size * self.accumulate)))
        groups = self.group(self.positions, count, self.seed, epoch)
        return [_split_evenly(torch.as_tensor(self.index[members]), self.accumulate) for members in groups]


def largest_piece(batches: Sequence[Tensor | tuple[Tensor, ...]], /) -> int:
    """Patterns that are modelled at once, at most.

    Example:
        >>> largest_piece([torch.arange(3), (torch.arange(5), torch.arange(4))])
        5
    """
    return max(len(piece) for batch in batches for piece in _as_pieces(batch))


def split_batches(batches: Callable[[int], Sequence[Batch]], size: int, /) -> Callable[[int], list[Batch]]:
    """The same batches, the larger ones in pieces of at most ``size`` patterns.

    Example:
        >>> cut = split_batches(lambda epoch: [torch.arange(3), torch.arange(5)], 4)
        >>> [[len(piece) for piece in batch] if isinstance(batch, tuple) else len(batch) for batch in cut(1)]
        [3, [3, 2]]
    """

    def of(epoch: int) -> list[Batch]:
        return [_split_batch(batch, size) for batch in batches(epoch)]

    return of


def _split_batch(batch: Batch, size: int) -> Batch:
    if isinstance(batch, tuple):
        return tuple(part for piece in batch for part in _as_pieces(_split_batch(piece, size)))
    return batch if len(batch) <= size else batch.tensor_split(-(-len(batch) // size))


def _as_pieces(batch: Batch) -> tuple[Tensor, ...]:
    return batch if isinstance(batch, tuple) else (batch,)


def random(
    index: Sequence[int] | np.ndarray,
    seed: int = 0,
    positions: np.ndarray | None = None,
    /,
    *,
    size: int | None = None,
    accumulate: int = 1,
) -> GroupedBatches:
    """Patterns in random batches, new ones every epoch.

    Args:
        index: the patterns to use.
        seed: of the order.
        positions: not looked at.
        size: patterns per batch; default: with Newton steps as many as light the whole field once, at least
            16 (8 for several slices, near fields, and runs of few updates); else such that an epoch has at
            least a dozen batches, between 4 and 64.
        accumulate: batches of ``size`` whose gradients are added before a step: the same step as one
            batch of ``accumulate`` times the size, in the memory of ``size``.

    Example:
        >>> [len(b) for b in random(np.arange(10), size=5)(1)]
        [5, 5]
        >>> [[len(piece) for piece in b] for b in random(np.arange(12), size=2, accumulate=3)(1)]
        [[2, 2, 2], [2, 2, 2]]
    """
    sizes = _check_sizes("random", len(index), size, accumulate)
    return GroupedBatches(np.asarray(index), np.zeros((len(index), 2)), *sizes, seed, _shuffle_groups)


def sparse(
    index: Sequence[int] | np.ndarray,
    seed: int = 0,
    positions: np.ndarray | None = None,
    /,
    *,
    size: int | None = None,
    accumulate: int = 1,
    ordering: Literal["auto", "farthest", "hilbert"] = "auto",
) -> GroupedBatches:
    """Each batch spread over the scan, its members far apart, so that their windows overlap little.

    ``farthest``: each pattern in turn joins the batch whose nearest member is farthest away. The nearest
    neighbours within a batch are then about 0.7 of the spacing of an even lattice apart (0.2 in random
    batches). Its time grows with the square of the scan: 0.2 s for 4096 patterns. Up to 1024 patterns the
    groups are drawn anew every epoch; beyond, once, and only their order changes.

    ``hilbert``: patterns in their order along a Hilbert curve, every k-th of them a batch: about 0.4 of
    the even lattice, 0.1 s for 65 536 patterns. The curve lies at another angle in every epoch.

    Args:
        index: the patterns to use.
        seed: of the order.
        positions: of the whole scan, ``(n, 2)``.
        size: patterns per batch; default as in `random`.
        accumulate: see `random`.
        ordering: ``auto`` is ``farthest`` up to 4096 patterns and ``hilbert`` beyond.

    Raises:
        BadInput: no positions.

    Example:
        >>> pairs = np.array([[0, 0], [0, 1], [50, 0], [50, 1]])
        >>> batches = sparse(np.arange(4), 0, pairs, size=2)(1)
        >>> all(abs(pairs[a] - pairs[b]).max() == 50 for a, b in batches)
        True
    """
    if ordering == "auto":
        ordering = "farthest" if len(index) <= 4096 else "hilbert"
    group = _farthest_groups if ordering == "farthest" else _hilbert_groups
    sizes = _check_sizes("sparse", len(index), size, accumulate)
    return GroupedBatches(
        np.asarray(index), _select_positions("sparse", index, positions), *sizes, seed, group
    )


def compact(
    index: Sequence[int] | np.ndarray,
    seed: int = 0,
    positions: np.ndarray | None = None,
    /,
    *,
    size: int | None = None,
    accumulate: int = 1,
) -> GroupedBatches:
    """Neighbours together: the scan is halved across its longer side, again and again.

    The cuts lie at another angle in every epoch, so that clusters change; 65 536 patterns take 0.1 s.

    Args:
        index: the patterns to use.
        seed: of the order.
        positions: of the whole scan, ``(n, 2)``.
        size: patterns per batch; default as in `random`.
        accumulate: see `random`.

    Raises:
        BadInput: no positions.

    Example:
        >>> line = np.stack([np.arange(6.0), np.zeros(6)], 1)
        >>> sorted(sorted(batch.tolist()) for batch in compact(np.arange(6), 0, line, size=2)(1))
        [[0, 1], [2, 3], [4, 5]]
    """
    sizes = _check_sizes("compact", len(index), size, accumulate)
    return GroupedBatches(
        np.asarray(index), _select_positions("compact", index, positions), *sizes, seed, _bisect_groups
    )


def _check_sizes(name: str, count: int, size: int | None, accumulate: int) -> tuple[int, int]:
    """Patterns in a piece and pieces in a batch, checked."""
    if size is not None and size < 1:
        raise BadInput(f"batch: {name}.size", size, "must be at least 1")
    if accumulate < 1:
        raise BadInput(f"batch: {name}.accumulate", accumulate, "must be at least 1")
    return size or int(np.clip(count // (12 * accumulate), 4, 64)), accumulate


def _select_positions(
    name: str, index: Sequence[int] | np.ndarray, positions: np.ndarray | None
) -> np.ndarray:
    if positions is None:
        raise BadInput(f"batch: {name}", None, "needs positions: give those of the scan, or write random")
    return np.asarray(positions, float)[np.asarray(index)]


def _split_evenly(index: Tensor, count: int) -> Batch:
    """A batch as it is, or cut into so many pieces of like size, none of them empty."""
    return index if count == 1 else index.tensor_split(min(count, len(index)))


def _shuffle_groups(positions: np.ndarray, count: int, seed: int, epoch: int) -> Groups:
    draw = np.random.default_rng((seed, epoch))
    return np.array_split(draw.permutation(len(positions)), count)


def _hilbert_groups(positions: np.ndarray, count: int, seed: int, epoch: int) -> Groups:
    """Every ``count``-th pattern along a Hilbert curve laid at a random angle."""
    draw = np.random.default_rng((seed, epoch))
    order = np.argsort(_hilbert_distance(_rotate_randomly(positions, draw)), kind="stable")
    return [np.sort(order[first::count]) for first in draw.permutation(count)]


def _bisect_groups(positions: np.ndarray, count: int, seed: int, epoch: int) -> Groups:
    """Halves of halves of the scan, cut at a random angle."""
    draw = np.random.default_rng((seed, epoch))
    groups = _halve_members(_rotate_randomly(positions, draw), np.arange(len(positions)), count)
    return [np.sort(groups[place]) for place in draw.permutation(count)]


def _farthest_groups(positions: np.ndarray, count: int, seed: int, epoch: int) -> Groups:
    draw = np.random.default_rng((seed, epoch))
    groups = _spread_apart(positions.tobytes(), count, seed, epoch if len(positions) <= 1024 else 0)
    return [np.sort(groups[place]) for place in draw.permutation(count)]


@lru_cache(maxsize=2)
def _spread_apart(buffer: bytes, count: int, seed: int, drawn: int) -> Groups:
    """Each pattern in turn joins the group whose nearest member is farthest, unless it is full."""
    positions = np.frombuffer(buffer).reshape(-1, 2)
    draw = np.random.default_rng((seed, drawn))
    room = np.array([len(part) for part in np.array_split(np.arange(len(positions)), count)])
    members = np.full((count, room[0]), -1)
    places = np.full((2, count, room[0]), np.inf)
    filled = np.zeros(count, int)
    for pattern in draw.permutation(len(positions)):
        away = np.square(places - positions[pattern][:, None, None]).sum(0).min(1)
        group = int(np.where(filled < room, away, -1).argmax())
        members[group, filled[group]] = pattern
        places[:, group, filled[group]] = positions[pattern]
        filled[group] += 1
    return [row[:size] for row, size in zip(members, filled, strict=True)]


def _halve_members(positions: np.ndarray, members: np.ndarray, count: int) -> Groups:
    """``count`` clusters of like size: cut across the longer side in proportion, then each part again."""
    if count == 1:
        return [members]
    first = (count + 1) // 2
    fewer, larger = divmod(len(members), count)
    cut = first * fewer + min(first, larger)
    side = int(np.ptp(positions[members], axis=0).argmax())
    order = members[np.argpartition(positions[members, side], max(cut - 1, 0))]
    return _halve_members(positions, order[:cut], first) + _halve_members(
        positions, order[cut:], count - first
    )


def _rotate_randomly(positions: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    angle = draw.uniform(0, 2 * np.pi)
    return positions @ np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _hilbert_distance(positions: np.ndarray, bits: int = 16) -> np.ndarray:
    """Distance along a Hilbert curve of the square around the positions, in units of its finest step.

    From the coarsest quadrant to the finest: which of the four the curve visits, then the quadrant's own
    coordinates in the curve's frame there (mirrored in the last, transposed in the first and the last).
    """
    low = positions.min(0)
    span = max(float(np.ptp(positions, axis=0).max()), 1e-30)
    x, y = ((positions - low) / span * (2**bits - 1)).astype(np.int64).T
    along = np.zeros(len(positions), np.int64)
    for level in reversed(range(bits)):
        side = 1 << level
        right = x >= side
        up = y >= side
        along += side * side * ((3 * right) ^ up)
        x = x % side
        y = y % side
        last = right & ~up
        x = np.where(last, side - 1 - x, x)
        y = np.where(last, side - 1 - y, y)
        exchanged = np.where(up, y, x)
        x = np.where(up, x, y)
        y = exchanged
    return along
