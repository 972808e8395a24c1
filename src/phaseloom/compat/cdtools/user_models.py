"""The fit of models that users write: the loss of their own class, summed over batches as CDTools does."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from phaseloom.compat.cdtools.data import CDataset
from phaseloom.compat.cdtools.fit import Course, Fit, Named, Task

__all__ = ["OwnFit", "OwnLoss"]

WIDTH = 10
"""Patterns that are modelled at once in CDTools; of means over patterns, the loss depends on it."""


@dataclass(frozen=True)
class Piece:
    """Patterns of a batch that are modelled together.

    Attributes:
        batch: numbers of all patterns of the batch.
        rows: which of them.
    """

    batch: Tensor
    rows: slice

    def __len__(self) -> int:
        """Number of patterns."""
        return len(self.batch[self.rows])


@dataclass
class OwnLoss:
    """``model.loss(measured, modelled)`` of a piece, for a loop that takes means over patterns.

    The gradient of a batch is that of the sum over its pieces, as in CDTools, and the mean over an epoch is
    the sum over all of them.

    Attributes:
        model: with ``forward`` and ``loss``; its ``mask`` is given to the loss, if it has one.
        dataset: what ``dataset[index]`` gives for single patterns is put together.
        course: what an epoch is made of.
    """

    model: Any
    dataset: CDataset
    course: Course
    _last: tuple[Tensor, Sequence[Any], Tensor] | None = field(default=None, init=False)

    def __call__(self, piece: Piece) -> dict[str, Tensor]:
        """Terms by name."""
        inputs, patterns = self._loaded(piece.batch)
        expected = self.model(*(one[piece.rows] for one in inputs))
        loss = self.model.loss(patterns[piece.rows], expected, **self._mask())
        told, felt = len(self.course.index) / len(piece), len(piece.batch) / len(piece)
        terms = {"noise": felt * loss + (told - felt) * loss.detach()}
        if self.course.penalty is not None:
            terms["regularizer"] = self.course.penalty()
        return terms

    def batches(self, epoch: int) -> list[tuple[Piece, ...]]:
        """All patterns in an order that depends on the epoch alone, the last batch what is left."""
        order = np.random.default_rng([0, epoch]).permutation(self.course.index)
        width = self.course.pieces or WIDTH
        return [
            tuple(Piece(batch, slice(at, at + width)) for at in range(0, len(batch), width))
            for batch in torch.as_tensor(order).split(self.course.size)
        ]

    def told(self, loss: float) -> float:
        """The loss of an epoch as the model's ``loss_normalizer`` has it."""
        normalizer = getattr(self.model, "loss_normalizer", None)
        return loss if normalizer is None else float(normalizer.normalize_loss(torch.tensor(loss)))

    def _loaded(self, batch: Tensor) -> tuple[Sequence[Any], Tensor]:
        """Inputs and patterns of a batch, read once; the normaliser is told of them."""
        if self._last is None or self._last[0] is not batch:
            inputs, patterns = default_collate([self.dataset[i] for i in batch.tolist()])
            normalizer = getattr(self.model, "loss_normalizer", None)
            if normalizer is not None:
                normalizer.accumulate(patterns, mask=getattr(self.model, "mask", None))
            self._last = (batch, inputs, patterns)
        return self._last[1:]

    def _mask(self) -> dict[str, Any]:
        return {"mask": self.model.mask} if hasattr(self.model, "mask") else {}


class OwnFit(Fit):
    """The fit of a model that a user wrote: every parameter is a part by its name."""

    def parts(self) -> Named:
        """All parameters of the module."""
        return {name: [parameter] for name, parameter in self.core.named_parameters()}

    def task(self, dataset: CDataset, course: Course, /) -> Task:
        """The loss that the model's class defines."""
        loss = OwnLoss(self.core, dataset, course)
        return Task(loss, loss.batches, loss.told)

    def slope(self, dataset: CDataset, lr: float | None, /) -> float:
        """The rate as it is given; by default that of CDTools."""
        return 2e-7 if lr is None else lr
