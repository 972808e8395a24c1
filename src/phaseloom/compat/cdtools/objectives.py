"""What CDTools' models minimise: counts of the built-in ones, the own loss of those that users write."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from phaseloom.compat.cdtools.datasets.base import CDataset
from phaseloom.compat.cdtools.fit import EpochPlan, Fit, FitTask, NamedParts
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.ptycho import batches, noise
from phaseloom.ptycho.likelihood import Likelihood
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.scans import Positions

__all__ = ["DIVERGENCES", "ScanFit", "ShotFit", "UserFit", "named_parts"]

DIVERGENCES: dict[str, noise.Divergence] = {
    "amplitude mse": noise.amplitude,
    "intensity mse": noise.gaussian,
    "poisson nll": noise.poisson,
}
"""Ours by CDTools' names."""

DEFAULT_SGD_RATE = 5.0
"""Of built-in models, relative to shot noise over the whole signal; about 20 diverges."""

CDTOOLS_SGD_RATE = 2e-7
CDTOOLS_WIDTH = 10
"""Patterns modelled at once in CDTools; of means over patterns, the loss depends on it."""

MAX_PATTERNS_FOR_SIGNAL = 64
MAX_PATTERNS_FOR_PIXELS = 400
"""Patterns of which the usual rate and the number of pixels with counts are estimated."""


def named_parts(core: Ptychography, /) -> NamedParts:
    """What can be refined, by CDTools' names; the first parameter of each speaks for the others.

    An object of amplitude and phase is two of them, and ``obj`` the phase.
    """
    found = core.parts()
    objects = next(found[name] for name in ("object", "phase") if found.get(name))  # ours has either of them
    named = {
        "probe": found["probe"],
        "obj": [*objects, *found.get("amplitude", [])],
        "background": found["background"],
        "translation_offsets": found["positions"],
        "weights": found.get("opr_weights", found["weights"]),
        "probe_fourier_shifts": found["descan"],
        "heights": found.get("heights", []),
        "height_scale": found.get("height_scale", []),
    }
    return {name: parameters for name, parameters in named.items() if parameters}


@dataclass(frozen=True)
class PenalisedLikelihood:
    """A likelihood and a term that CDTools adds once to the sum over a batch."""

    likelihood: Likelihood
    penalty: Callable[[], Tensor]
    size: int

    def __call__(self, index: Tensor) -> dict[str, Tensor]:
        """Terms by name, as means over the patterns of a batch."""
        share = 1 / (self.size * self.likelihood.floor)
        return {**self.likelihood(index), "regularizer": share * self.penalty()}

    def prefetch(self, pieces: Sequence[Tensor]) -> None:
        """See `Likelihood.prefetch`."""
        self.likelihood.prefetch(pieces)


class ScanFit(Fit):
    """The fit of an experiment of ours.

    Losses are means in CDTools' units: squared differences per trusted pixel, or for Poisson counts the
    deviance per pixel that has any (1 at the shot-noise limit).
    """

    core: Ptychography

    def __init__(self, core: Ptychography, loss: str, data: CDataset | None):
        super().__init__(core, data)
        self.loss = loss
        self._last: tuple[Scan4D, Likelihood, float] | None = None
        free = {id(p) for group in self.parts().values() for p in group}
        for parameter in core.parameters():
            if id(parameter) not in free:
                parameter.requires_grad_(False)

    def parts(self) -> NamedParts:
        """What can be refined, by CDTools' names."""
        return named_parts(self.core)

    def task(self, dataset: CDataset, plan: EpochPlan, /) -> FitTask:
        """The likelihood of the counts, over random batches."""
        likelihood, unit = self._likelihood(dataset.scan)
        size = min(plan.size, len(plan.index))
        cut = batches.split_batches(
            batches.random(plan.index, size=size), plan.width or likelihood.best_piece_size
        )
        penalty = plan.penalty
        objective = likelihood if penalty is None else PenalisedLikelihood(likelihood, penalty, size)
        return FitTask(objective, cut, lambda loss: loss * unit)

    def _likelihood(self, scan: Scan4D) -> tuple[Likelihood, float]:
        """The objective, and what its loss is to be multiplied by."""
        if self._last is None or self._last[0] is not scan:
            count = len(self.core.scan.start)
            shape = tuple(self.core.detector.mask.shape)
            if (len(scan), scan.geometry.shape) != (count, shape):
                fix = f"but the model was made for {count} of {shape}: make it from this dataset"
                raise BadInput("optimize: dataset", f"{len(scan)} patterns of {scan.geometry.shape}", fix)
            likelihood = Likelihood(self.core, scan, DIVERGENCES[self.loss])
            self._last = (scan, likelihood, likelihood.floor / self._count_pixels(scan))
        return self._last[1:]

    def sgd_rate(self, dataset: CDataset, lr: float | None, /) -> float:
        """The rate relative to shot noise over the whole signal, free of the dose."""
        likelihood, _ = self._likelihood(dataset.scan)
        some = torch.as_tensor(_spread(len(dataset), MAX_PATTERNS_FOR_SIGNAL))
        counts = likelihood.measured[some]
        mask = self.core.detector.mask.cpu()
        signal = (likelihood.divergence(torch.zeros_like(counts), counts) * mask).sum() / len(some)
        return (DEFAULT_SGD_RATE if lr is None else lr) * likelihood.floor / max(float(signal), 1e-30)

    def _count_pixels(self, scan: Scan4D) -> float:
        """What the loss of a pattern is divided by."""
        mask = self.core.detector.display(self.core.detector.mask).cpu().numpy()
        if self.loss != "poisson nll":
            return float(mask.sum())
        some = _spread(len(scan), MAX_PATTERNS_FOR_PIXELS)
        pieces = [some[start : start + 64] for start in range(0, len(some), 64)]
        lit = sum(float(((scan.counts[piece] >= 1) & mask).sum()) for piece in pieces)
        return max(lit, 1.0) / len(some) / 2

    def state(self) -> dict[str, Any]:
        """See `Fit.state`; with the unit of the offsets."""
        return {**super().state(), "step": self.core.scan.step}

    def load(self, state: Mapping[str, Any], /) -> None:
        """See `Fit.load`.

        Raises:
            ValueError: offsets of another unit.
        """
        if state.get("step", 1.0) != self.core.scan.step:
            raise ValueError(f"translation_scale of {state.get('step', 1.0)}, not {self.core.scan.step}")
        super().load(state)


class ShotFit(ScanFit):
    """A fit of any dataset whose patterns have the model's pixels: each was taken at the same place."""

    def task(self, dataset: CDataset, plan: EpochPlan, /) -> FitTask:
        """See `ScanFit.task`; the model takes as many positions as there are patterns."""
        self._resize(len(dataset))
        return super().task(dataset, plan)

    def sgd_rate(self, dataset: CDataset, lr: float | None, /) -> float:
        """See `ScanFit.sgd_rate`."""
        self._resize(len(dataset))
        return super().sgd_rate(dataset, lr)

    def _resize(self, count: int) -> None:
        core = self.core
        if count != len(core.scan.start):
            core.scan = Positions(core.scan.start[:1].repeat(count, 1), core.object.canvas)
            core.detector.weights = nn.Parameter(core.detector.weights[:1].repeat(count))
            for parameter in (*core.scan.parameters(), core.detector.weights):
                parameter.requires_grad_(False)


@dataclass(frozen=True)
class Piece:
    """Patterns of a batch that are modelled together: its ``rows`` of the numbers ``batch``."""

    batch: Tensor
    rows: slice

    def __len__(self) -> int:
        """Number of patterns."""
        return len(self.batch[self.rows])


@dataclass
class UserLoss:
    """``model.loss(measured, modelled)`` of a piece, for a loop that takes means over patterns.

    The gradient of a batch is that of the sum over its pieces, as in CDTools, and the mean over an epoch is
    the sum over all of them.

    Attributes:
        model: with ``forward`` and ``loss``; its ``mask`` is given to the loss, if it has one.
        dataset: what ``dataset[index]`` gives for single patterns is put together.
        plan: what an epoch is made of.
    """

    model: Any
    dataset: CDataset
    plan: EpochPlan
    _last: tuple[Tensor, Sequence[Any], Tensor] | None = field(default=None, init=False)

    def __call__(self, piece: Piece) -> dict[str, Tensor]:
        """Terms by name."""
        inputs, patterns = self._load(piece.batch)
        mask = {"mask": self.model.mask} if hasattr(self.model, "mask") else {}
        modelled = self.model(*(one[piece.rows] for one in inputs))
        loss = self.model.loss(patterns[piece.rows], modelled, **mask)
        # The loop weighs a piece by its patterns; the value stands for the epoch, the gradient for the batch.
        for_epoch = len(self.plan.index) / len(piece)
        for_batch = len(piece.batch) / len(piece)
        terms = {"noise": for_batch * loss + (for_epoch - for_batch) * loss.detach()}
        if self.plan.penalty is not None:
            terms["regularizer"] = self.plan.penalty()
        return terms

    def batches(self, epoch: int) -> list[tuple[Piece, ...]]:
        """All patterns in an order that depends on the epoch alone, the last batch what is left."""
        order = np.random.default_rng([0, epoch]).permutation(self.plan.index)
        width = self.plan.width or CDTOOLS_WIDTH
        return [
            tuple(Piece(batch, slice(at, at + width)) for at in range(0, len(batch), width))
            for batch in torch.as_tensor(order).split(self.plan.size)
        ]

    def normalise(self, loss: float) -> float:
        """The loss of an epoch as the model's ``loss_normalizer`` has it."""
        normalizer = getattr(self.model, "loss_normalizer", None)
        return loss if normalizer is None else float(normalizer.normalize_loss(torch.tensor(loss)))

    def _load(self, batch: Tensor) -> tuple[Sequence[Any], Tensor]:
        """Inputs and patterns of a batch, read once; the normaliser counts them."""
        if self._last is None or self._last[0] is not batch:
            inputs, patterns = default_collate([self.dataset[i] for i in batch.tolist()])
            normalizer = getattr(self.model, "loss_normalizer", None)
            if normalizer is not None:
                normalizer.accumulate(patterns, mask=getattr(self.model, "mask", None))
            self._last = (batch, inputs, patterns)
        return self._last[1:]


class UserFit(Fit):
    """The fit of a model that a user wrote: every parameter is a part by its name."""

    def parts(self) -> NamedParts:
        """All parameters of the module."""
        return {name: [parameter] for name, parameter in self.core.named_parameters()}

    def task(self, dataset: CDataset, plan: EpochPlan, /) -> FitTask:
        """The loss that the model's class defines."""
        loss = UserLoss(self.core, dataset, plan)
        return FitTask(loss, loss.batches, loss.normalise)

    def sgd_rate(self, dataset: CDataset, lr: float | None, /) -> float:
        """The rate as it is given; by default that of CDTools."""
        return CDTOOLS_SGD_RATE if lr is None else lr


def _spread(count: int, most: int) -> np.ndarray:
    """At most so many numbers, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))
