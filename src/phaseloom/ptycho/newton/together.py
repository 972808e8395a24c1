"""What one call does with many batches: which experiments it serves, and the numbers that batches differ by.

`phaseloom.ptycho.newton.compiled` is that call on a processor, `phaseloom.ptycho.newton.on_gpu` on a GPU.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from phaseloom.fitting.newton import GaussNewton
from phaseloom.fitting.rates import is_moving
from phaseloom.fitting.updates import BatchOutcome, list_pieces
from phaseloom.physics.cache import is_constant
from phaseloom.ptycho.likelihood import Likelihood
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.newton.steps import CoupledStep, NoStep, UniformStep
from phaseloom.ptycho.noise import find_compiled_form

__all__ = ["BatchRun", "MovingPart", "StepsTogether"]

STILL = math.nan
"""Rate of a part that does not move."""

PART_COLUMNS = {"object": 1, "probe": 2, "positions": 3, "affine": 4, "turn": 5, "stretch": 6}
PART_COLUMNS |= {"bend": 7, "root": 8}
"""Where the kernels leave the sum of a part's gradient."""

RATE_COLUMNS = {"affine": 5, "turn": 7, "stretch": 8, "bend": 9, "root": 10}
"""Where they read the rates of numbers that hang together."""


Prepared = TypeVar("Prepared")


class MovingPart(NamedTuple):
    """A parameter with its rule, its rate and the name of its group."""

    parameter: nn.Parameter
    rule: Any
    rate: float
    name: str


@dataclass(frozen=True)
class BatchRun:
    """Batches that are done in one call.

    Attributes:
        parts: what moves, by what it is to the kernels.
        pieces: of each batch.
        index: patterns of all batches, one after the other.
        sizes: patterns of each batch.
    """

    parts: Mapping[str, MovingPart]
    pieces: Sequence[Sequence[Tensor]]
    index: Tensor
    sizes: np.ndarray


class StepsTogether(ABC, Generic[Prepared]):
    """Does what `phaseloom.fitting.updates.step_on_each` does with batches, of one model and optimiser.

    ``None``, and nothing done, where the kernels do not know the experiment or a part that moves.
    """

    def __init__(self, model: Ptychography, likelihood: Likelihood, optimizer: GaussNewton):
        self.model = model
        self.likelihood = likelihood
        self.optimizer = optimizer

    @torch.no_grad()
    def __call__(
        self, objective: Any, batches: Sequence[Any], number: int, only: Sequence[str] | None = None
    ) -> list[BatchOutcome] | None:
        """Step after each of some batches; ``None``, and nothing done, where that is not possible.

        Args:
            objective: of the fit.
            batches: index tensors, or tuples of them.
            number: of the epoch.
            only: names of the groups that move; default: all that do in this epoch.
        """
        if objective is not self.likelihood or not batches:
            return None
        prepared = self._prepare()
        parts = None if prepared is None else self._find_parts(number, only)
        if prepared is None or parts is None:
            return None
        pieces = [list_pieces(batch) for batch in batches]
        index = torch.cat([piece for several in pieces for piece in several])
        sizes = np.array([sum(map(len, several)) for several in pieces])
        if len(index) > len(self.model.scan.start) or bool((torch.bincount(index) > 1).any()):
            return None
        self.optimizer.zero_grad()
        try:
            found = self._run(prepared, BatchRun(parts, pieces, index, sizes))
        finally:  # also where Ctrl-C came between two calls
            self._mark_changed(parts)
        if found is None:
            return None
        for group in self.optimizer.param_groups:
            group["size"] = int(sizes[-1])
        columns = [0, *(PART_COLUMNS[part] for part in parts)]
        names = [part.name for part in parts.values()]
        return [BatchOutcome([(("noise",), 1.0)], names, row) for row in found[:, columns]]

    @abstractmethod
    def _prepare(self) -> Prepared | None:
        """What the kernels need to know of the experiment; ``None`` where they do not know it."""

    @abstractmethod
    def _list_known_parts(self) -> dict[nn.Parameter, tuple[str, type[Any]]]:
        """What the kernels can move: its name, and the rule that it needs."""

    @abstractmethod
    def _run(self, prepared: Prepared, run: BatchRun) -> Tensor | None:
        """Numbers of each batch: its loss, and sums of gradients of the parts; ``None``: nothing was done."""

    def _mark_changed(self, parts: Mapping[str, MovingPart]) -> None:
        """Let caches know what kernels have written."""
        for part in parts.values():
            increment_version(part.parameter)

    def _has_plain_objective(self) -> bool:
        """Whether the loss is that of a noise model that kernels know, with nothing beside it."""
        likelihood = self.likelihood
        return (
            not likelihood.needs_patterns
            and not likelihood.penalties
            and is_constant(self.model.propagator.stretch, self.model.propagator.tilt)
            and find_compiled_form(likelihood.divergence) is not None
        )

    def _find_parts(self, number: int, only: Sequence[str] | None) -> dict[str, MovingPart] | None:
        """What moves, by what it is to the kernels; ``None`` if they do not know something that does."""
        known = self._list_known_parts()
        found: dict[str, MovingPart] = {}
        for group in self.optimizer.param_groups:
            if not is_moving(group, number) or (only is not None and group["name"] not in only):
                continue
            for parameter in group["params"]:
                rule = self.optimizer.rules.get(parameter)
                if not parameter.requires_grad or (isinstance(rule, NoStep) and parameter in known):
                    continue
                name, kind = known.get(parameter, ("", NoStep))
                if rule is None or not name or not isinstance(rule, kind) or not _is_known_rule(rule):
                    return None
                velocity = self.optimizer.get_velocity(parameter) if rule.momentum else parameter
                if not (parameter.is_contiguous() and velocity.is_contiguous()):
                    return None  # kernels would write to copies
                found[name] = MovingPart(
                    parameter, rule, self.optimizer.limit_rate(group, rule), group["name"]
                )
        return found

    def _make_knobs(self, parts: Mapping[str, MovingPart], sizes: np.ndarray) -> np.ndarray:
        """Numbers that batches differ by; see `phaseloom.physics.engine.steps.step_batches`."""
        knobs = np.full((len(sizes), 11), STILL)
        knobs[:, 6] = self.optimizer.momentum_in_use
        for size in set(sizes.tolist()):
            row = knobs[sizes == size]  # a copy
            if "object" in parts:
                rule, rate = parts["object"].rule, parts["object"].rate
                rate = rule.limit_rate(size, rate)
                row[:, 0] = 1 / rate if rate else math.inf
                row[:, 1] = rule.pull * rate
            if "probe" in parts:
                rule, rate = parts["probe"].rule, parts["probe"].rate
                row[:, 2] = rate / rule.scale / rule.slope
            if "positions" in parts:
                rule, rate = parts["positions"].rule, parts["positions"].rate
                row[:, 3] = rule.share_rate(size) * rate
                row[:, 4] = 0.0 if rule.prior is None else rule.prior.strength / size
            for name, column in RATE_COLUMNS.items():
                if name in parts:
                    row[:, column] = parts[name].rate
            knobs[sizes == size] = row
        return knobs


def _is_known_rule(rule: Any) -> bool:
    """Whether kernels have a rule in the form that it has."""
    if isinstance(rule, CoupledStep):
        return not (rule.rows or rule.patterns)
    return not isinstance(rule, UniformStep) or (not rule.each and isinstance(rule.slope, float))
