"""The fit of a CDTools model: optimisers that are kept between calls, and losses in CDTools' units."""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from phaseloom.compat.cdtools.data import CDataset
from phaseloom.compat.cdtools.validate import number, whole
from phaseloom.errors import BadInput, nearest
from phaseloom.fitting import optimizers, schedule
from phaseloom.fitting.loop import Progress, fit, put_back
from phaseloom.fitting.outcome import Stop
from phaseloom.fitting.updates import Batches, Objective

__all__ = ["Course", "Fit", "Named", "Task", "chosen", "whole"]

log = logging.getLogger(__name__)

Named = dict[str, list[nn.Parameter]]
"""Parameters by the name of the part; the first of each speaks for the others."""


@dataclass(frozen=True)
class Course:
    """What an epoch is made of.

    Attributes:
        index: the patterns that are used.
        size: patterns of a batch.
        pieces: patterns that are modelled at once; ``None``: as many as suits the model.
        plateau: divide rates by five when the loss has stood still.
        penalty: added to the sum of a divergence over each batch.
    """

    index: np.ndarray
    size: int
    pieces: int | None = None
    plateau: bool = False
    penalty: Callable[[], Tensor] | None = None


@dataclass(frozen=True)
class Task:
    """What is minimised.

    Attributes:
        objective: a term ``noise`` of each piece of a batch, and others.
        batches: those of each epoch.
        told: the loss that users see, from the mean of the first term over an epoch.
    """

    objective: Objective
    batches: Batches
    told: Callable[[float], float]


class Fit(ABC):
    """What lasts between calls of ``*_optimize``: optimisers with their moments, losses, the data.

    Attributes:
        core: the module whose parameters move.
        losses: that of each epoch.
        lines: one sentence for each epoch.
        data: the dataset that was fitted last, or that the model was made of.
        done: whether the last call has made all its epochs.
        idle: whether epochs are passed over, because an earlier job did them.
        progress: model, present optimiser and history; ``None`` before the first epoch.
    """

    def __init__(self, core: Any, data: CDataset | None = None):
        self.core, self.data = core, data
        self.losses: list[float] = []
        self.lines: list[str] = []
        self.done = self.idle = False
        self.progress: Progress | None = None
        self._kept: dict[tuple[str, ...], torch.optim.Optimizer] = {}
        self._waiting: dict[tuple[str, ...], dict[str, Any]] = {}

    @abstractmethod
    def parts(self) -> Named:
        """What can be refined, by name."""

    @abstractmethod
    def task(self, dataset: CDataset, course: Course, /) -> Task:
        """What is minimised over a dataset."""

    def run(
        self,
        name: str,
        make: Callable[[optimizers.Groups], torch.optim.Optimizer],
        iterations: int,
        dataset: CDataset,
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
            dataset: the data.
            course: what an epoch is made of.
            rates: of each part.
            extra: settings of the optimiser that may differ from call to call.
        """
        self.data, self.done = dataset, iterations < 1
        task = self.task(dataset, course)
        optimizer = self._optimizer(name, make, rates, extra)
        if self.progress is None:
            self.progress = Progress(self.core, optimizer)
        self.progress.optimizer = optimizer
        size = min(course.size, len(course.index))
        note = f"{name}, {len(course.index)} patterns in batches of {size}"
        for before in range(iterations):
            if not self.idle:
                since = self.progress.epoch - before
                loss = self._epoch(task, since=since, plateau=course.plateau)
                if loss is None:
                    self.done = True
                    _ended(name, self.progress.stop)
                    return
                self._note(task.told(loss), note)
            self.done = before + 1 == iterations
            yield self.losses[-1] if self.losses else math.nan

    def _epoch(self, task: Task, *, since: int, plateau: bool) -> float | None:
        """One epoch; its loss, or ``None`` when it came to nothing."""
        progress = self.progress
        assert progress is not None

        def shape(share: float, number: int, history: Sequence[Mapping[str, Any]], /) -> float:
            return schedule.plateau(share, number, history[since:], factor=0.2) if plateau else 1.0

        for epoch in fit(task.objective, task.batches, progress, epochs=progress.epoch + 1, shape=shape):
            return epoch.terms["noise"]
        return None

    def _note(self, loss: float, note: str) -> None:
        """Add an epoch to what was done."""
        assert self.progress is not None
        last = self.progress.history[-1]
        free = {part for part, group in self.parts().items() if group[0].requires_grad}
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

    def _optimizer(
        self,
        name: str,
        make: Callable[[optimizers.Groups], torch.optim.Optimizer],
        rates: Mapping[str, float],
        extra: Mapping[str, Any],
    ) -> torch.optim.Optimizer:
        """The one of before with new rates; parameters without a gradient stay where they are."""
        named = {part: group for part, group in self.parts().items() if part in rates}
        for group in named.values():
            for parameter in group[1:]:
                parameter.requires_grad_(group[0].requires_grad)
        free = [part for part, group in named.items() if group[0].requires_grad]
        if not free:
            raise BadInput(f"{name}_optimize", None, "has nothing to do: requires_grad is False everywhere")
        # L-BFGS steps along remembered directions, in which a part that was frozen since would still move
        key = (name, *free) if name == "LBFGS" else (name,)
        some = {part: group for part, group in named.items() if name != "LBFGS" or part in free}
        old = self._kept.get(key)
        if old is None or _members(old) != {id(p) for group in some.values() for p in group}:
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

    def rates(self, lr: float, factors: Mapping[str, float] | None) -> dict[str, float]:
        """The rate of each part.

        Args:
            lr: in common.
            factors: on it, by name.
        """
        if not isinstance(factors, Mapping | None):
            raise BadInput("optimize: lr_factors", factors, "must be a dict of parts and factors")
        known, given = self.parts(), dict(factors or {})
        for name in given:
            if name not in known:
                raise BadInput("lr_factors", name, f"is no part of the model: {nearest(name, known)}")
        factors = {name: number(f"optimize: lr_factors: {name}", given[name], 0) for name in given}
        lr = number("optimize: lr", lr, 0)
        return {name: lr * factors.get(name, 1.0) for name in known}

    @abstractmethod
    def slope(self, dataset: CDataset, lr: float | None, /) -> float:
        """The rate of gradient descent; ``None``: the usual one."""


def chosen(subset: Any, count: int, place: str = "optimize: subset") -> np.ndarray:
    """Numbers of patterns: all, one, or those of a list or a boolean mask."""
    wanted = slice(None) if subset is None else np.asarray(subset)
    try:
        if isinstance(wanted, np.ndarray) and wanted.dtype != bool and (wanted < 0).any():
            raise IndexError
        index = np.arange(count)[wanted]
    except (IndexError, TypeError):
        raise BadInput(place, subset, f"must be numbers of patterns from 0 to {count - 1}") from None
    index = np.atleast_1d(index)
    if not len(index):
        raise BadInput(place, subset, "leaves no pattern")
    return index


def _ended(name: str, stop: Stop) -> None:
    """Say why an epoch came to nothing, after which the model is what it was before."""
    if not stop.interrupted:
        fix = f"came to nothing ({stop}): the model is as it was before that epoch; take a smaller lr"
        raise BadInput(f"{name}_optimize", None, fix)
    log.warning("%s_optimize ended early: %s", name, stop)


def _members(optimizer: torch.optim.Optimizer) -> set[int]:
    """Which parameters it moves."""
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


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
