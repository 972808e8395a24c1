"""The fit of a CDTools model: optimisers that are kept between calls, and losses in CDTools' units."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput, nearest
from phaseloom.fitting import optimizers, schedule
from phaseloom.fitting.learn import Batches, Objective
from phaseloom.fitting.loop import Progress, fit, put_back
from phaseloom.ptycho import batches, noise
from phaseloom.ptycho.likelihood import Likelihood
from phaseloom.ptycho.model import Ptychography

__all__ = ["DIVERGENCES", "Course", "Fit", "chosen", "parts", "whole"]

log = logging.getLogger(__name__)

DIVERGENCES: dict[str, noise.Divergence] = {
    "amplitude mse": noise.amplitude,
    "intensity mse": noise.gaussian,
    "poisson nll": noise.poisson,
}
"""Ours by CDTools' names."""


def parts(core: Ptychography, /) -> dict[str, list[nn.Parameter]]:
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
class Course:
    """What an epoch is made of.

    Attributes:
        index: the patterns that are used.
        size: patterns of a batch.
        pieces: patterns that are modelled at once; ``None``: what fits the caches.
        plateau: divide rates by five when the loss has stood still.
        penalty: added to the sum of a divergence over each batch.
    """

    index: np.ndarray
    size: int
    pieces: int | None = None
    plateau: bool = False
    penalty: Callable[[], Tensor] | None = None


@dataclass(frozen=True)
class Penalised:
    """A likelihood and a term that CDTools adds once to the sum over a batch."""

    likelihood: Likelihood
    penalty: Callable[[], Tensor]
    size: int

    def __call__(self, index: Tensor) -> dict[str, Tensor]:
        """Terms by name, as means over the patterns of a batch."""
        share = 1 / (self.size * self.likelihood.floor)
        return {**self.likelihood(index), "regularizer": share * self.penalty()}

    def expect(self, pieces: Sequence[Tensor]) -> None:
        """See `Likelihood.expect`."""
        self.likelihood.expect(pieces)


class Fit:
    """What lasts between calls of ``*_optimize``: optimisers with their moments, losses, the data.

    Attributes:
        losses: mean of each epoch in CDTools' units: squared differences per trusted pixel, or for Poisson
            counts the deviance per pixel that has any (1 at the shot-noise limit).
        lines: one sentence for each epoch.
        scan: the data that was fitted last, or that the model was made of.
        done: whether the last call has made all its epochs.
        idle: whether epochs are passed over, because an earlier job did them.
        progress: model, present optimiser and history; ``None`` before the first epoch.
    """

    def __init__(self, core: Ptychography, loss: str, scan: Scan4D | None, *, faster: float = 1.0):
        self.core, self.loss, self.scan, self.faster = core, loss, scan, faster
        self.losses: list[float] = []
        self.lines: list[str] = []
        self.done = self.idle = False
        self.progress: Progress | None = None
        self._kept: dict[tuple[str, ...], torch.optim.Optimizer] = {}
        self._waiting: dict[tuple[str, ...], dict[str, Any]] = {}
        self._judge: tuple[Scan4D, Likelihood, float] | None = None
        named = parts(core)
        free = {id(p) for group in named.values() for p in group}
        for parameter in core.parameters():
            if id(parameter) not in free:
                parameter.requires_grad_(False)

    def run(
        self,
        name: str,
        make: Callable[[optimizers.Groups], torch.optim.Optimizer],
        iterations: int,
        scan: Scan4D,
        course: Course,
        /,
        *,
        rates: Mapping[str, float],
        extra: Mapping[str, Any],
    ) -> Iterator[float]:
        """Optimise; the mean loss after each epoch, of the patterns alone.

        Args:
            name: of the optimiser, which is made when it is first asked for and then continued.
            make: makes one.
            iterations: epochs of this call.
            scan: the data.
            course: what an epoch is made of.
            rates: of each part.
            extra: settings of the optimiser that may differ from call to call.
        """
        self.scan, self.done = scan, iterations < 1
        size = min(course.size, len(course.index))
        likelihood, unit = self._likelihood(scan)
        optimizer = self._optimizer(name, make, rates, extra)
        if self.progress is None:
            self.progress = Progress(self.core, optimizer)
        self.progress.optimizer = optimizer
        cut = batches.in_pieces(batches.random(course.index, size=size), course.pieces or likelihood.at_once)
        penalty = course.penalty
        objective = likelihood if penalty is None else Penalised(likelihood, penalty, size)
        note = f"{name}, {len(course.index)} patterns in batches of {size}"
        for before in range(iterations):
            if not self.idle:
                since = self.progress.epoch - before
                loss = self._epoch(objective, cut, since=since, plateau=course.plateau)
                if loss is None:
                    self.done = True
                    log.warning("%s_optimize ended early: %s", name, self.progress.stopped)
                    return
                self._note(loss * unit, note)
            self.done = before + 1 == iterations
            yield self.losses[-1] if self.losses else math.nan

    def _epoch(self, objective: Objective, cut: Batches, *, since: int, plateau: bool) -> float | None:
        """One epoch; its loss, or ``None`` when it came to nothing."""
        progress = self.progress
        assert progress is not None

        def shape(share: float, number: int, history: Sequence[Mapping[str, Any]], /) -> float:
            return schedule.plateau(share, number, history[since:], factor=0.2) if plateau else 1.0

        for epoch in fit(objective, cut, progress, epochs=progress.epoch + 1, shape=shape):
            return epoch.terms["noise"]
        return None

    def _note(self, loss: float, note: str) -> None:
        """Add an epoch to what was done."""
        assert self.progress is not None
        last = self.progress.history[-1]
        free = {part for part, group in parts(self.core).items() if group[0].requires_grad}
        pace = ", ".join(f"{k} {rate:.3g}" for k, rate in last["rates"].items() if {*k.split("+")} & free)
        self.losses.append(loss)
        line = f"Epoch {len(self.losses)}: loss {loss:.6g}, {last['seconds']:.2f} s, {note}, rates: {pace}"
        self.lines.append(line)

    def state(self) -> dict[str, Any]:
        """All that a later fit follows from, besides the model: optimisers, epochs, what is drawn next."""
        progress = self.progress
        optimizers = {key: optimizer.state_dict() for key, optimizer in self._kept.items()}
        return {
            "optimizers": {**self._waiting, **optimizers},
            "epoch": progress.epoch if progress else 0,
            "history": progress.history if progress else [],
            "losses": list(self.losses),
            "lines": list(self.lines),
        }

    def load(self, state: Mapping[str, Any], /) -> None:
        """Go on from a state; optimisers that are not yet made wait for theirs."""
        self._waiting = dict(state["optimizers"])
        for key, optimizer in self._kept.items():
            if key in self._waiting:
                put_back(optimizer, self._waiting.pop(key))
            else:
                optimizer.state.clear()
        if self.progress is None:
            self.progress = Progress(self.core, torch.optim.SGD(self.core.parameters(), lr=0.0))
        self.progress.epoch, self.progress.history = state["epoch"], [dict(one) for one in state["history"]]
        self.losses[:], self.lines[:] = state["losses"], state["lines"]

    def _likelihood(self, scan: Scan4D) -> tuple[Likelihood, float]:
        """The objective, and what its loss is to be multiplied by."""
        if self._judge is None or self._judge[0] is not scan:
            want = (len(self.core.scan.start), self.core.detector.mask.shape)
            if (len(scan), scan.geometry.shape) != (want[0], tuple(want[1])):
                fix = f"but the model was made for {want[0]} of {tuple(want[1])}: make it from this dataset"
                raise BadInput("optimize: dataset", f"{len(scan)} patterns of {scan.geometry.shape}", fix)
            likelihood = Likelihood(self.core, scan, DIVERGENCES[self.loss])
            self._judge = (scan, likelihood, likelihood.floor / self._pixels(scan))
        return self._judge[1:]

    def contrast(self, scan: Scan4D, /) -> float:
        """Shot noise relative to the whole signal: what makes steps of gradient descent free of the dose."""
        likelihood, _ = self._likelihood(scan)
        some = torch.as_tensor(np.unique(np.linspace(0, len(scan) - 1, min(len(scan), 64)).astype(int)))
        counts, mask = likelihood.measured[some], self.core.detector.mask.cpu()
        signal = (likelihood.divergence(torch.zeros_like(counts), counts) * mask).sum() / len(some)
        return likelihood.floor / max(float(signal), 1e-30)

    def _pixels(self, scan: Scan4D) -> float:
        """What the loss of a pattern is divided by."""
        mask = self.core.detector.display(self.core.detector.mask).cpu().numpy()
        if self.loss != "poisson nll":
            return float(mask.sum())
        some = np.unique(np.linspace(0, len(scan) - 1, min(len(scan), 400)).astype(int))
        lit = sum(float(((scan.counts[some[i : i + 64]] >= 1) & mask).sum()) for i in range(0, len(some), 64))
        return max(lit, 1.0) / len(some) / 2

    def _optimizer(
        self,
        name: str,
        make: Callable[[optimizers.Groups], torch.optim.Optimizer],
        rates: Mapping[str, float],
        extra: Mapping[str, Any],
    ) -> torch.optim.Optimizer:
        """The one of before with new rates; parameters without a gradient stay where they are."""
        named = {part: group for part, group in parts(self.core).items() if part in rates}
        for group in named.values():
            for parameter in group[1:]:
                parameter.requires_grad_(group[0].requires_grad)
        free = [part for part, group in named.items() if group[0].requires_grad]
        if not free:
            raise BadInput(f"{name}_optimize", None, "has nothing to do: requires_grad is False everywhere")
        # L-BFGS steps along remembered directions, in which a part that was frozen since would still move
        key = (name, *free) if name == "LBFGS" else (name,)
        if key not in self._kept:
            some = {part: group for part, group in named.items() if name != "LBFGS" or part in free}
            self._kept[key] = make([_group(part, group) for part, group in some.items()])
            if key in self._waiting:
                put_back(self._kept[key], self._waiting.pop(key))
        optimizer = self._kept[key]
        for group in optimizer.param_groups:
            group["base"] = group["lr"] = rates[group["name"].split("+")[0]]
            group.update(extra)
        for parameter, state in optimizer.state.items():
            moved = {k: v.to(parameter.device) for k, v in state.items() if isinstance(v, Tensor) and v.ndim}
            state.update(moved)
        return optimizer

    def optimizer(self, name: str) -> torch.optim.Optimizer | None:
        """The one of a name that was made last."""
        return next((one for key, one in reversed(self._kept.items()) if key[0] == name), None)

    def rates(
        self, lr: float, factors: Mapping[str, float] | None, *, power: float = 1.0
    ) -> dict[str, float]:
        """The rate of each part; offsets of ``translation_scale`` are faster by it, to some power."""
        known, given = parts(self.core), dict(factors or {})
        for name, factor in {"lr": lr, **given}.items():
            if name != "lr" and name not in known:
                raise BadInput("lr_factors", name, f"is no part of the model: {nearest(name, known)}")
            if not 0 <= factor < float("inf"):
                raise BadInput(f"optimize: {name}", factor, "must be a finite number from zero up")
        found = {name: lr * given.get(name, 1.0) for name in known}
        found["translation_offsets"] *= self.faster**power
        return found


def chosen(subset: Any, count: int, place: str = "optimize: subset") -> np.ndarray:
    """Numbers of patterns: all, one, or those of a list or a boolean mask."""
    try:
        index = np.arange(count)[slice(None) if subset is None else np.asarray(subset)]
    except IndexError:
        raise BadInput(place, subset, f"must be numbers of patterns from 0 to {count - 1}") from None
    index = np.atleast_1d(index)
    if not len(index):
        raise BadInput(place, subset, "leaves no pattern")
    return index


def whole(name: str, value: Any) -> int:
    """A whole number above zero."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise BadInput(f"optimize: {name}", value, "must be a whole number from 1 up")
    return int(value)


def _group(name: str, parameters: Sequence[nn.Parameter]) -> dict[str, Any]:
    return {
        "params": list(parameters),
        "lr": 1.0,
        "name": name,
        "base": 1.0,
        "start": 1,
        "stop": None,
        "shape": None,
    }
