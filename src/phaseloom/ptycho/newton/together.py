"""What one call does with many batches: which experiments it serves, and the numbers that batches differ by.

`phaseloom.ptycho.newton.compiled` is that call on a processor, `phaseloom.ptycho.newton.on_gpu` on a GPU.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from phaseloom.fitting.distributed import team
from phaseloom.fitting.newton import GaussNewton
from phaseloom.fitting.rates import is_moving
from phaseloom.fitting.updates import BatchOutcome, list_pieces
from phaseloom.physics.cache import is_constant
from phaseloom.ptycho.illumination import Probe
from phaseloom.ptycho.likelihood import Likelihood
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.newton.steps import CoupledStep, NoStep, PixelStep, PositionStep, UniformStep
from phaseloom.ptycho.noise import find_compiled_form
from phaseloom.ptycho.objects import PixelObject
from phaseloom.ptycho.scans import Positions

__all__ = ["BatchRun", "MovingPart", "StepsTogether"]

STILL = math.nan
"""Rate of a part that does not move."""

PART_COLUMNS = {"object": 1, "probe": 2, "positions": 3, "affine": 4}
"""Where the kernels leave the sum of a part's gradient."""


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


class StepsTogether(ABC):
    """Does what `phaseloom.fitting.updates.step_on_each` does with batches, of one model and optimiser.

    It serves a far field, complex pixels of one state, a probe of pixels, positions and an affine map of
    them, amplitude or Poisson noise and no penalty: ``None`` where something else moves too.
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
        if objective is not self.likelihood or not batches or not self._is_plain():
            return None
        parts = self._find_parts(number, only)
        if parts is None:
            return None
        pieces = [list_pieces(batch) for batch in batches]
        index = torch.cat([piece for several in pieces for piece in several])
        sizes = np.array([sum(map(len, several)) for several in pieces])
        if len(index) > len(self.model.scan.start) or bool((torch.bincount(index) > 1).any()):
            return None
        run = BatchRun(parts, pieces, index, sizes)
        self.optimizer.zero_grad()
        found = self._run(run)
        if found is None:
            return None
        for part in parts.values():
            increment_version(part.parameter)
        for group in self.optimizer.param_groups:
            group["size"] = int(sizes[-1])
        columns = [0, *(PART_COLUMNS[part] for part in parts)]
        names = [part.name for part in parts.values()]
        return [BatchOutcome([(("noise",), 1.0)], names, row) for row in found[:, columns]]

    @abstractmethod
    def _run(self, run: BatchRun) -> Tensor | None:
        """Numbers of each batch ``(batch, 5)``: its loss, and sums of gradients of the parts.

        ``None``, and nothing done, where there are no kernels for it.
        """

    def _is_plain(self) -> bool:
        """Whether kernels know this experiment."""
        model = self.model
        likelihood = self.likelihood
        return (
            team().world_size == 1
            and model.scan.canvas.tiling is None
            and not likelihood.needs_patterns
            and not likelihood.penalties
            and model.illumination_sum is None
            and model.supports_fast_path()
            and model.detector.counts_plainly()
            and is_constant(model.propagator.stretch, model.propagator.tilt)
            and len(model.propagator.tilt) == 1
            and type(model.object) is PixelObject
            and type(model.scan) is Positions
            and type(model.probe) is Probe
            and model.probe.is_plain()
            and model.object.kind == "complex"
            and hasattr(model.object.wave, "touched")
            and model.object.wave.is_contiguous()
            and model.object.wave.real.dtype == model.probe.relative.real.dtype == model.scan.start.dtype
            and find_compiled_form(likelihood.divergence) is not None
        )

    def _find_parts(self, number: int, only: Sequence[str] | None) -> dict[str, MovingPart] | None:
        """What moves, by what it is to the kernels; ``None`` if they do not know something that does."""
        model = self.model
        known = {
            model.object.wave: ("object", PixelStep),
            model.probe.relative: ("probe", UniformStep),
            model.scan.offsets: ("positions", PositionStep),
            model.scan.affine: ("affine", CoupledStep),
        }
        found: dict[str, MovingPart] = {}
        for group in self.optimizer.param_groups:
            if not is_moving(group, number) or (only is not None and group["name"] not in only):
                continue
            for parameter in group["params"]:
                rule = self.optimizer.rules.get(parameter)
                if not parameter.requires_grad or (isinstance(rule, NoStep) and parameter in known):
                    continue
                name, kind = known.get(parameter, ("", NoStep))
                if rule is None or not name or not isinstance(rule, kind):
                    return None
                if isinstance(rule, UniformStep) and (rule.each or not isinstance(rule.slope, float)):
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
        knobs = np.full((len(sizes), 7), STILL)
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
            if "affine" in parts:
                row[:, 5] = parts["affine"].rate
            knobs[sizes == size] = row
        return knobs
