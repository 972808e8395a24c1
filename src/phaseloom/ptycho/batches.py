"""Which patterns are compared together, and where their counts come from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput

__all__ = ["random"]


class Measured:
    """Counts of a scan as float batches in the detector's order; lazy ones are read when asked for."""

    def __init__(self, scan: Scan4D, arrange: Callable[[Tensor], Tensor]):
        self.counts, self.arrange = scan.counts, arrange
        self.ready = None
        if isinstance(scan.counts, np.ndarray):
            self.ready = np.ascontiguousarray(_arranged(scan.counts, arrange))

    def __len__(self) -> int:
        """Number of patterns."""
        return self.counts.shape[0]

    def __getitem__(self, index: Int[Tensor, " b"]) -> Float[Tensor, "b y x"]:
        """The patterns of an index."""
        place = index.cpu().numpy()
        if self.ready is not None:
            return torch.from_numpy(self.ready[place].astype(np.float32))
        return self.arrange(torch.from_numpy(np.asarray(self.counts[place]).astype(np.float32)))


@dataclass(frozen=True)
class Shuffled:
    """Batches in an order that depends on seed and epoch alone, so that a resumed run repeats it."""

    index: np.ndarray
    size: int
    seed: int

    def __call__(self, epoch: int) -> list[Tensor]:
        """The batches of an epoch; sizes differ by one at most."""
        order = np.random.default_rng((self.seed, epoch)).permutation(self.index)
        pieces = max(1, round(len(order) / self.size))
        return [torch.as_tensor(piece) for piece in np.array_split(order, pieces)]


def random(index: Sequence[int] | np.ndarray, seed: int = 0, /, *, size: int | None = None) -> Shuffled:
    """Patterns in random batches, new ones every epoch.

    Args:
        index: the patterns to use.
        seed: of the order.
        size: patterns per batch; default: such that an epoch has at least a dozen, between 4 and 64.

    Example:
        >>> [len(b) for b in random(np.arange(10), size=5)(1)]
        [5, 5]
    """
    if size is not None and size < 1:
        raise BadInput("batch: random.size", size, "must be at least 1")
    return Shuffled(np.asarray(index), size or int(np.clip(len(index) // 12, 4, 64)), seed)


def _arranged(counts: np.ndarray, arrange: Callable[[Tensor], Tensor]) -> np.ndarray:
    """Reorder pixels without changing the dtype (torch knows few unsigned integers)."""
    order = arrange(torch.arange(counts.shape[1] * counts.shape[2]).reshape(1, *counts.shape[1:]))[0]
    if torch.equal(order.flatten(), torch.arange(order.numel())):
        return counts
    return counts.reshape(len(counts), -1)[:, order.flatten().numpy()].reshape(counts.shape)
