"""Optimisers that step by the data themselves, without a gradient of the loss.

The classical algorithms of ptychography are such: they change waves until these agree with the counts, and
take object and probe from the waves (`phaseloom.ptycho.optimizers.engines`).
"""

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["Engine"]


class Engine(torch.optim.Optimizer):
    """An optimiser that gets whole batches, and whose groups have rates as those of any other.

    The loop calls `update` with each batch of an epoch, then `finish_epoch`. What an engine remembers from
    epoch to epoch it keeps in ``state``, as tensors, so that checkpoints hold it.

    Attributes:
        batch_size: patterns of a batch where the user names no number; ``None``: as the batches have it.
    """

    batch_size: int | None = None

    def __init__(self, moving: Any):
        super().__init__(moving, {})

    @abstractmethod
    def update(self, batch: Any, moving: Collection[str], /) -> Mapping[str, Tensor]:
        """Step by a batch.

        Args:
            batch: indices of its patterns; what a user asked for in pieces is put together.
            moving: names of the groups that may move in this epoch.

        Returns:
            The terms of the loss by name, means over the patterns, as they were before the step.
        """

    def finish_epoch(self, moving: Collection[str], /) -> None:
        """Do what remains when all batches of an epoch have been seen; nothing unless overridden."""

    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Refused: there is no gradient.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(f"{type(self).__name__} steps by batches: call update")

    def rate_of(self, name: str, /) -> float:
        """Rate of a group in this epoch; 0 if there is none of the name."""
        return next((float(group["lr"]) for group in self.param_groups if group["name"] == name), 0.0)
