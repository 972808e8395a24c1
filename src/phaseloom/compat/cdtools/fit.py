"""The fit of CDTools' models: optimisers that persist between calls, and losses in CDTools' units."""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from phaseloom.compat.cdtools.arguments import check_arguments, check_number
from phaseloom.compat.cdtools.datasets.base import CDataset, check_dataset
from phaseloom.errors import BadInput, nearest
from phaseloom.fitting import optimizers, schedule
from phaseloom.fitting.loop import Progress, fit, load_optimizer_state
from phaseloom.fitting.outcome import Stop
from phaseloom.fitting.updates import Batches, Objective

__all__ = ["EpochPlan", "Fit", "FitTask", "NamedParts", "choose_patterns"]

log = logging.getLogger(__name__)

NamedParts = dict[str, list[nn.Parameter]]
"""Parameters by the name of the part; the first of each speaks for the others."""

LBFGS_INNER_STEPS = 20
"""Steps of an epoch of L-BFGS, as in CDTools."""


@dataclass(frozen=True)
class EpochPlan:
    """What an epoch is made of.

    Attributes:
        index: the patterns that are used.
        size: patterns of a batch.
        width: patterns that are modelled at once; ``None``: as many as suits the model.
        plateau: divide rates by five when the loss has stood still.
        penalty: added to the sum of a divergence over each batch.
    """

    index: np.ndarray
    size: int
    width: int | None = None
    plateau: bool = False
    penalty: Callable[[], Tensor] | None = None


class FitTask(NamedTuple):
    """What is minimised.

    Attributes:
        objective: a term ``noise`` of each piece of a batch, and others.
        batches: those of each epoch.
        scale_loss: from the mean of the first term over an epoch to the loss that users see.
    """

    objective: Objective
    batches: Batches
    scale_loss: Callable[[float], float]


class Fit(ABC):
    """What persists between calls of ``*_optimize``: optimisers with their moments, losses, the data.

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
        self.core = core
        self.data = data
        self.losses: list[float] = []
        self.lines: list[str] = []
        self.done = False
        self.idle = False
        self.progress: Progress | None = None
        self._optimizers: dict[tuple[str, ...], torch.optim.Optimizer] = {}
        self._loaded_states: dict[tuple[str, ...], dict[str, Any]] = {}

    @abstractmethod
    def parts(self) -> NamedParts:
        """What can be refined, by name."""

    @abstractmethod
    def task(self, dataset: CDataset, plan: EpochPlan, /) -> FitTask:
        """What is minimised over a dataset."""

    @abstractmethod
    def sgd_rate(self, dataset: CDataset, lr: float | None, /) -> float:
        """The rate of gradient descent; ``None``: the usual one."""

    def start(
        self, name: str, given: dict[str, Any], penalty: Callable[[Any], Any] | None
    ) -> Iterator[float]:
        """Check the arguments of a ``*_optimize`` and return the generator of losses.

        ``penalty`` is the model's regulariser, called with its factors.
        """
        check_arguments("optimize", given)
        dataset = check_dataset("optimize", given["dataset"])
        index = choose_patterns(given["subset"], len(dataset))
        factors = given["regularization_factor"]
        if factors is not None and penalty is None:
            fix = f"is given, but {type(self.core).__name__} has no regularizer: leave it out"
            raise BadInput("optimize: regularization_factor", factors, fix)
        settings = READ_SETTINGS[name](given)
        plan = EpochPlan(
            index,
            given.get("batch_size") or len(index),
            given["calculation_width"],
            plateau=bool(given.get("schedule")),
            penalty=None if factors is None or penalty is None else lambda: penalty(factors),
        )
        rate = given["lr"]
        if name == "SGD":
            rate = self.sgd_rate(dataset, None if rate is None else check_number("optimize: lr", rate, 0))
        rates = self.rates(rate, given.get("lr_factors"))
        return self._run_epochs(name, given["iterations"], dataset, plan, rates, settings)

    def _run_epochs(  # noqa: PLR0917
        self,
        name: str,
        iterations: int,
        dataset: CDataset,
        plan: EpochPlan,
        rates: Mapping[str, float],
        settings: Mapping[str, Any],
    ) -> Iterator[float]:
        """The mean loss after each epoch, of the patterns alone."""
        self.data = dataset
        self.done = iterations < 1
        task = self.task(dataset, plan)
        optimizer = self._optimizer(name, rates, settings)
        if self.progress is None:
            self.progress = Progress(self.core, optimizer)
        self.progress.optimizer = optimizer
        note = f"{name}, {len(plan.index)} patterns in batches of {min(plan.size, len(plan.index))}"
        for number in range(iterations):
            if not self.idle:
                loss = self._run_epoch(task, since=self.progress.epoch - number, plateau=plan.plateau)
                if loss is None:
                    self.done = True
                    _report_stop(name, self.progress.stop)
                    return
                self._record(task.scale_loss(loss), note)
            self.done = number + 1 == iterations
            yield self.losses[-1] if self.losses else math.nan

    def _run_epoch(self, task: FitTask, *, since: int, plateau: bool) -> float | None:
        """One epoch; its loss, or ``None`` when it did not finish."""
        progress = self.progress
        assert progress is not None

        def shape(share: float, number: int, history: Sequence[Mapping[str, Any]], /) -> float:
            return schedule.plateau(share, number, history[since:], factor=0.2) if plateau else 1.0

        for epoch in fit(task.objective, task.batches, progress, epochs=progress.epoch + 1, shape=shape):
            return epoch.terms["noise"]
        return None

    def _record(self, loss: float, note: str) -> None:
        """Add an epoch to the history."""
        assert self.progress is not None
        last = self.progress.history[-1]
        free = {part for part, group in self.parts().items() if group[0].requires_grad}
        rates = ", ".join(f"{k} {rate:.3g}" for k, rate in last["rates"].items() if {*k.split("+")} & free)
        self.losses.append(loss)
        line = f"Epoch {len(self.losses)}: loss {loss:.6g}, {last['seconds']:.2f} s, {note}, rates: {rates}"
        self.lines.append(line)

    def state(self) -> dict[str, Any]:
        """All that a later fit follows from, besides the model: optimisers, epochs, what is drawn next."""
        progress = self.progress
        states = {key: optimizer.state_dict() for key, optimizer in self._optimizers.items()}
        return {
            "optimizers": {**self._loaded_states, **states},
            "epoch": progress.epoch if progress else 0,
            "history": progress.history if progress else [],
            "losses": list(self.losses),
            "lines": list(self.lines),
        }

    def load(self, state: Mapping[str, Any], /) -> None:
        """Continue from a state; optimisers that are not yet made wait for theirs."""
        self._loaded_states = dict(state["optimizers"])
        for key, optimizer in self._optimizers.items():
            if key in self._loaded_states:
                load_optimizer_state(optimizer, self._loaded_states.pop(key))
            else:
                optimizer.state.clear()
        if self.progress is None:
            self.progress = Progress(self.core, torch.optim.SGD(self.core.parameters(), lr=0.0))
        self.progress.epoch = state["epoch"]
        self.progress.history = [dict(one) for one in state["history"]]
        self.losses[:] = state["losses"]
        self.lines[:] = state["lines"]

    def _optimizer(
        self, name: str, rates: Mapping[str, float], settings: Mapping[str, Any]
    ) -> torch.optim.Optimizer:
        """That of before with new rates and settings; parameters without a gradient stay where they are."""
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
        old = self._optimizers.get(key)
        if old is None or _members(old) != {id(p) for group in some.values() for p in group}:
            self._optimizers[key] = MAKERS[name]([_new_group(part, group) for part, group in some.items()])
            if key in self._loaded_states:
                load_optimizer_state(self._optimizers[key], self._loaded_states.pop(key))
        optimizer = self._optimizers[key]
        for group in optimizer.param_groups:
            group["base"] = group["lr"] = rates[group["name"].split("+")[0]]
            group.update(settings)
        for parameter, state in optimizer.state.items():
            moved = {k: v.to(parameter.device) for k, v in state.items() if isinstance(v, Tensor) and v.ndim}
            state.update(moved)
        return optimizer

    def optimizer(self, name: str) -> torch.optim.Optimizer | None:
        """The one of a name that was made last."""
        return next((one for key, one in reversed(self._optimizers.items()) if key[0] == name), None)

    def rates(self, lr: float, factors: Mapping[str, float] | None) -> dict[str, float]:
        """The rate of each part: ``lr`` times its factor."""
        if not isinstance(factors, Mapping | None):
            raise BadInput("optimize: lr_factors", factors, "must be a dict of parts and factors")
        known = self.parts()
        for name in factors or {}:
            if name not in known:
                raise BadInput("lr_factors", name, f"is not a part of the model: {nearest(name, known)}")
        given = {k: check_number(f"optimize: lr_factors: {k}", v, 0) for k, v in (factors or {}).items()}
        lr = check_number("optimize: lr", lr, 0)
        return {name: lr * given.get(name, 1.0) for name in known}


def choose_patterns(subset: Any, count: int, place: str = "optimize: subset") -> np.ndarray:
    """Numbers of patterns: all, one, or those of a list or a boolean mask."""
    wanted = slice(None) if subset is None else np.asarray(subset)
    try:
        if isinstance(wanted, np.ndarray) and wanted.dtype != bool and (wanted < 0).any():
            raise IndexError
        index = np.atleast_1d(np.arange(count)[wanted])
    except (IndexError, TypeError):
        raise BadInput(place, subset, f"must be numbers of patterns from 0 to {count - 1}") from None
    if not len(index):
        raise BadInput(place, subset, "leaves no pattern")
    return index


def _report_stop(name: str, stop: Stop) -> None:
    """Say why an epoch did not finish, after which the model is what it was before."""
    if not stop.is_interrupted:
        fix = f"failed ({stop}): the model is as it was before that epoch; take a smaller lr"
        raise BadInput(f"{name}_optimize", None, fix)
    log.warning("%s_optimize ended early: %s", name, stop)


def _members(optimizer: torch.optim.Optimizer) -> set[int]:
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


def _new_group(name: str, parameters: Sequence[nn.Parameter]) -> dict[str, Any]:
    common = {"lr": 1.0, "base": 1.0, "start": 1, "stop": None, "shape": None}
    return {"params": list(parameters), "name": name, **common}


def _read_adam_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    betas = given["betas"]
    if not isinstance(betas, Sequence) or len(betas) != 2:
        raise BadInput("optimize: betas", betas, "must be two numbers")
    first, second = (check_number("optimize: betas", beta, 0, 1 - 1e-9) for beta in betas)
    return {"betas": (first, second), "amsgrad": given["amsgrad"]}


def _read_sgd_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    numbers = {name: float(given[name]) for name in ("momentum", "dampening", "weight_decay")}
    return numbers | {"nesterov": given["nesterov"]}


def _read_lbfgs_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    search = given["line_search_fn"]
    if search not in (None, "strong_wolfe"):
        raise BadInput("optimize: line_search_fn", search, "must be 'strong_wolfe' or None")
    return {"history_size": given["history_size"], "line_search_fn": search}


READ_SETTINGS = {"Adam": _read_adam_settings, "SGD": _read_sgd_settings, "LBFGS": _read_lbfgs_settings}
"""From arguments of a call to settings of an optimiser, which may differ from call to call."""

MAKERS: dict[str, Callable[[optimizers.Groups], torch.optim.Optimizer]] = {
    "Adam": optimizers.adam,
    "SGD": partial(optimizers.sgd, momentum=0.0, nesterov=False),
    "LBFGS": partial(optimizers.lbfgs, max_iter=LBFGS_INNER_STEPS),
}
