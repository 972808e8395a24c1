"""Block-wise split of a scan into training, validation and test patterns: neighbours are correlated.

Patterns of neighbouring probes overlap on the specimen. Held out one by one at random, they are known from
their neighbours in the training set, and scores are too good.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput

__all__ = ["BlockSplit", "make_batches", "split_blocks"]

log = logging.getLogger(__name__)

MIN_BLOCKS = 9  # blocks below which a warning comes
RUNS_PER_BATCH = 4  # places of a scan that a batch is read from, each a run of neighbours


@dataclass(frozen=True)
class BlockSplit:
    """Numbers of patterns, ascending.

    Attributes:
        train: for training.
        validation: for early stopping.
        test: for the final scores.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split_blocks(
    scan: Scan4D, /, *, edge: int = 8, validation: float = 0.1, test: float = 0.2, seed: int = 0
) -> BlockSplit:
    """Split a scan by blocks of ``edge`` times ``edge`` probes.

    Args:
        scan: with positions in any order; of a grid, or on none.
        edge: probes along an edge of a block.
        validation: share of the blocks that decide when to stop, one block at least if above zero.
        test: the same of those that are looked at in the end.
        seed: which blocks these are.

    Raises:
        BadInput: shares that are none, or a scan of too few blocks.

    Example:
        >>> from phaseloom.data.scan import Geometry
        >>> geometry = Geometry(wavelength=0.04, shape=(4, 4), angle=(1e-3, 1e-3), beam="electron")
        >>> places = np.stack(np.meshgrid(np.arange(16.0), np.arange(24.0), indexing="ij"), -1).reshape(-1, 2)
        >>> scan = Scan4D(counts=np.ones((384, 4, 4)), positions=places, geometry=geometry)
        >>> parts = split_blocks(scan)
        >>> [len(part) for part in (parts.train, parts.validation, parts.test)]
        [256, 64, 64]
    """
    if edge < 1:
        raise BadInput("blocks: edge", edge, "must be 1 probe at least")
    for name, share in {"validation": validation, "test": test}.items():
        if not 0 <= share < 1:
            raise BadInput(f"blocks: {name}", share, "must be a share of the blocks from 0 to below 1")
    numbers = _number_blocks(scan.positions, edge)
    count = int(numbers.max()) + 1
    few = [max(1, round(share * count)) if share else 0 for share in (validation, test)]
    if sum(few) >= count:
        fix = f"of {edge} x {edge} probes leave none to learn from: take smaller ones, or smaller shares"
        raise BadInput("blocks", f"{count} blocks", fix)
    if count < MIN_BLOCKS:
        warning = "blocks: %d of %d x %d probes are few: what is held out may be like nothing else; "
        log.warning(warning + "take smaller ones (block)", count, edge, edge)
    order = np.random.default_rng(seed).permutation(count)
    sides = np.split(order, np.cumsum(few))
    judging, last, learning = (np.flatnonzero(np.isin(numbers, side)) for side in sides)
    return BlockSplit(learning, judging, last)


def make_batches(
    numbers: Sequence[int] | np.ndarray, size: int, /, *, seed: Sequence[int]
) -> list[np.ndarray]:
    """Batches of an epoch, each of a few runs of neighbours from all over the scan, which are fast to read.

    Args:
        numbers: of the patterns, ascending.
        size: patterns of a batch; the last one may be smaller.
        seed: numbers that tell this epoch from all others.

    Example:
        >>> [batch.tolist() for batch in make_batches(range(16), 8, seed=(0, 1))]
        [[1, 2, 5, 6, 9, 10, 13, 15], [0, 3, 4, 7, 8, 11, 12, 14]]
    """
    numbers = np.asarray(numbers)
    rng = np.random.default_rng(list(seed))
    length = max(1, size // RUNS_PER_BATCH)
    first = int(rng.integers(length))  # else a pattern would have the same company in every epoch
    pieces = np.split(numbers, np.arange(first, len(numbers), length)[(first == 0) :])
    order = np.concatenate([pieces[at] for at in rng.permutation(len(pieces))])
    return [np.sort(order[start : start + size]) for start in range(0, len(order), size)]


def _number_blocks(positions: np.ndarray, edge: int) -> np.ndarray:
    """The block of each position, counted from zero without a gap."""
    low = positions.min(0)
    high = positions.max(0)
    spread = high - low
    pitch = _estimate_pitch(spread, len(positions))
    wide = [max(1, math.ceil((extent + pitch / 2) / (edge * pitch) - 0.25)) for extent in spread]
    cells = [
        np.minimum((place * count / (extent + 1e-9 * pitch + pitch)).astype(int), count - 1)
        for place, count, extent in zip((positions - low + pitch / 2).T, wide, spread, strict=True)
    ]
    return np.unique(cells[0] * wide[1] + cells[1], return_inverse=True)[1]


def _estimate_pitch(spread: np.ndarray, count: int) -> float:
    """Distance of neighbours, of so many points spread evenly over a rectangle or along a line."""
    long = float(max(spread))
    short = float(min(spread))
    if long == 0 or count < 2:
        return 1.0
    if short < long / count:
        return long / (count - 1)
    # (long / pitch + 1) (short / pitch + 1) = count
    half = (long + short) / (2 * (count - 1))
    return half + math.sqrt(half**2 + long * short / (count - 1))
