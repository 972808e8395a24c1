"""One grid of a reconstruction: model, objective and optimiser, built from a recipe for a scan."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.fitting import optimizers
from phaseloom.fitting.loop import Epoch, Progress, fit
from phaseloom.fitting.newton import GaussNewton
from phaseloom.fitting.schedule import Every
from phaseloom.fitting.updates import Batches
from phaseloom.ptycho import multigrid as levels
from phaseloom.ptycho.apply_projections import imposed, setting
from phaseloom.ptycho.curvature import OFTEN, Curvature, crossings
from phaseloom.ptycho.likelihood import Likelihood
from phaseloom.ptycho.model import Ptychography
from phaseloom.reconstruction.recipe import Change, Reconstruct
from phaseloom.runs.scan_recipe import parted
from phaseloom.spec import Call

__all__ = ["Stage", "ends", "grids", "sized"]

COARSE = 0.6
"""Share of the epochs that is done on coarser grids, where there are any."""

IMAGES = ("object", "amplitude", "phase", "probe")
"""Parts that carry the noise of a batch with them when steps are long."""

CALM = 1 / 2
"""Share of the rates that a standstill leaves."""

HOVER = 1.1
"""Loss in units of the noise above which a standstill means that steps are too long."""


@dataclass
class Stage:
    """What a fit needs, on one grid.

    Attributes:
        scan: its patterns.
        model, likelihood, progress: see `phaseloom.ptycho.model` and `phaseloom.fitting.loop`.
        before, after: what happens before and after each epoch.
    """

    scan: Scan4D
    model: Ptychography
    likelihood: Likelihood
    progress: Progress
    before: list[Callable[[Progress], None]]
    after: list[Every]

    @classmethod
    def of(cls, recipe: Reconstruct, scan: Scan4D, model: Ptychography) -> "Stage":
        """The parts of a fit around a model."""
        likelihood = Likelihood(model, parted(scan), recipe.noise_of(scan).partial(), recipe.terms())
        if not likelihood.judging:
            raise BadInput(
                "noise", "none", "leaves nothing that compares with the data: add a penalty that does"
            )
        progress = Progress(model, _optimizer(recipe.optimizer, _moving(recipe, model)))
        where = setting(model, scan)
        after = [
            Every(imposed(call.partial(), model, where, call.name), **dict(call.when))
            for call in recipe.projections
        ]
        before = _prepared(model, likelihood, progress.optimizer, braked=not after)
        return cls(scan, model, likelihood, progress, before, after)

    def coarser(self, recipe: Reconstruct) -> "Stage | None":
        """The same on pixels twice as wide, or ``None`` where that would lose light."""
        scan = levels.coarser(self.scan, self.model)
        if scan is None:
            return None
        model = recipe.model(scan, levels.halved(self.model.object.canvas)).to(self.model.scan.start.device)
        levels.carry(self.model, model)
        return Stage.of(recipe, scan, model)

    def fit(
        self,
        patterns: Batches,
        held: Sequence[Any],
        /,
        *,
        first: Callable[[Progress], None] = lambda progress: None,
        **knobs: Any,
    ) -> Iterator[Epoch]:
        """Run a fit (`phaseloom.fitting.loop.fit`) of batches, judged by batches held out.

        ``first`` is done before every epoch, ahead of what this stage has to do.
        """
        return fit(
            self.likelihood,
            patterns,
            self.progress,
            before=[first, *self.before],
            after=self.after,
            holdout=held,
            judged=self.likelihood.judging,
            own=(
                "positions",
                "heights",
                "weights",
                "descan",
                "opr_weights",
                *["tilts"] * (len(self.model.propagator.tilt) > 1),
            ),
            **knobs,
        )

    def change(self, changes: Sequence[Change], number: int) -> None:
        """Give parts the rates that were decided for an epoch or one before it; the last decision holds.

        A rate of 0 ends a part's epochs: momentum would carry it on.
        """
        for one in changes:
            for group in self.groups(one.part) if one.epoch <= number else ():
                frozen = {"stop": one.epoch - 1}
                moving = {"base": one.rate, "stop": one.stop, "start": min(group["start"], one.epoch)}
                group.update(moving if one.rate else frozen)

    def groups(self, part: str) -> list[dict[str, Any]]:
        """What the optimiser knows of a part; that of ``object`` may be amplitude and phase."""
        groups = self.progress.optimizer.param_groups
        found = [group for group in groups if group["name"] == part]
        both = ("amplitude", "phase") if part == "object" and not found else ()
        return found or [group for group in groups if group["name"] in both]

    def follow(self, other: "Stage") -> None:
        """Go on from what another stage has found."""
        levels.carry(other.model, self.model)
        done = other.progress
        self.progress.epoch, self.progress.history = done.epoch, done.history
        self.progress.since = done.epoch


def grids(full: Stage, recipe: Reconstruct) -> list[Stage]:
    """Stages from the coarsest grid to that of the data.

    By default one coarser grid is tried first, unless penalties or projections might mean pixels or the
    object was predicted; and no more grids than have an epoch each.
    """
    plain = recipe.optimizer.name == "gauss_newton" and not recipe.penalties and not recipe.projections
    plain = plain and recipe.object.name != "predicted"  # which knows the fine detail already
    count, stages = int(plain) if recipe.levels is None else recipe.levels, [full]
    while len(stages) <= count and _all_begin(recipe.epochs, len(stages) + 1):
        coarser = stages[0].coarser(recipe)
        if coarser is None:
            break
        stages.insert(0, coarser)
    return stages


def ends(epochs: int, grids: int, /) -> list[int]:
    """The last epoch on each of so many grids.

    Example:
        >>> ends(20, 2)
        [12, 20]
    """
    return [*(round(COARSE * epochs * n / (grids - 1)) for n in range(1, grids)), epochs]


def _all_begin(epochs: int, grids: int) -> bool:
    """Whether each of so many grids has an epoch."""
    last = [0, *ends(epochs, grids)]
    return all(before < end for before, end in pairwise(last))


def sized(recipe: Reconstruct, model: Ptychography) -> Call:
    """The call for batches with their size: such that a batch lights most of the field once.

    Then a Newton step sees each pixel about once, and an epoch has as many steps as patterns overlap.
    """
    call = recipe.batch
    if call.values.get("size") is not None or recipe.optimizer.name != "gauss_newton":
        return call
    many = len(model.scan.start)
    size = int(np.clip(round(0.6 * crossings(model)), 8, max(8, many // 12)))
    return Call(call.room, call.name, {**call.values, "size": min(size, 512)}, call.when)


def _moving(recipe: Reconstruct, model: Ptychography) -> list[dict[str, Any]]:
    """Parameter groups; what has no rate is frozen, and costs no gradient."""
    parts = model.parts()
    rates = recipe.moving(parts)
    model.requires_grad_(False)
    groups = optimizers.groups({name: parts[name] for name in rates}, rates)
    for group in groups:
        for parameter in group["params"]:
            parameter.requires_grad_(True)
    return groups


def _optimizer(call: Call, moving: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimiser of a call, its own complaints as sentences."""
    try:
        return call(moving)
    except BadInput:
        raise
    except ValueError as problem:
        raise BadInput(f"optimizer: {call.name}", dict(call.values), f"cannot be used: {problem}") from None


def _prepared(
    model: Ptychography, likelihood: Likelihood, optimizer: torch.optim.Optimizer, *, braked: bool
) -> list[Callable[[Progress], None]]:
    """What has to be done before every epoch: an optimiser of Newton's kind is told of curvatures.

    Its steps are halved when the loss says that they are too long; projections, which may raise it too,
    leave that to the user.
    """
    if not isinstance(optimizer, GaussNewton):
        return []
    curvature = Curvature(model, likelihood, pull=optimizer.pull)
    if model.plain():
        for parameter in model.object.parameters():
            parameter.touched = []  # pyright: ignore[reportAttributeAccessIssue]

    def prepare(progress: Progress) -> None:
        events = progress.history[progress.since :]
        if braked and _rose(events) and optimizer.brake():
            progress.restore_best()
        elif braked and _hovers(events):
            optimizer.brake(IMAGES, least=CALM)
        optimizer.follow(curvature(progress.history), curvature.momentum)

    return [prepare]


def _hovers(events: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the loss hardly fell though it is above the noise: steps overshoot, or carry noise along.

    An epoch of few updates has little time to fall in.
    """
    if len(events) < 2:
        return False
    least = 0.98 ** min(1.0, events[-1]["updates"] / OFTEN)
    return events[-1]["loss"] > max(least * events[-2]["loss"], HOVER)


def _rose(events: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the last epoch made things worse than noise explains, so that steps must have been too long."""
    if len(events) < 2:
        return False
    held = [event["holdout"] for event in events if event["holdout"] is not None]
    unseen = len(held) > 1 and held[-1] > max(1.1 * min(held[:-1]), 1.3)
    return unseen or events[-1]["loss"] > 1.05 * events[-2]["loss"]
