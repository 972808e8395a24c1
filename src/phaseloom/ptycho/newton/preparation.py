"""What Gauss-Newton steps of a model need before every epoch: curvatures, compiled steps, and a brake."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from phaseloom.fitting.loop import Progress
from phaseloom.fitting.newton import GaussNewton
from phaseloom.ptycho.curvature import Curvature
from phaseloom.ptycho.likelihood import Likelihood
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.newton.compiled import CompiledSteps
from phaseloom.ptycho.newton.steps import UPDATES_TO_FOLLOW_POSITIONS

__all__ = ["prepare_newton_steps"]

IMAGE_PARTS = ("object", "amplitude", "phase", "probe")
"""Parts that carry the noise of a batch with them when steps are long."""

MIN_RATE_AFTER_STANDSTILL = 1 / 2
"""Share of the rates that is left after a standstill of the loss."""

MIN_LOSS_OF_STANDSTILL = 1.1
"""Loss in units of the noise above which a standstill means that steps are too long."""


def prepare_newton_steps(
    model: Ptychography,
    likelihood: Likelihood,
    optimizer: torch.optim.Optimizer,
    *,
    braked: bool,
    eased: bool = True,
) -> list[Callable[[Progress], None]]:
    """What is done before every epoch: an optimiser of Newton's kind gets the curvatures.

    Args:
        model: of the experiment.
        likelihood: of its patterns.
        optimizer: that moves the model; any other than Gauss-Newton needs nothing.
        braked: halve its steps when the loss shows that they are too long; not where projections, which may
            raise the loss too, are imposed.
        eased: make them half as long at most where the loss stands still above the noise.

    Returns:
        Functions for ``before`` of `phaseloom.fitting.loop.fit`.
    """
    if not isinstance(optimizer, GaussNewton):
        return []
    curvature = Curvature(model, likelihood, pull=optimizer.pull, position_prior=optimizer.position_prior)
    if model.scan.start.device.type == "cpu":
        optimizer.step_together = CompiledSteps(model, likelihood, optimizer)
    else:
        from phaseloom.ptycho.newton.on_gpu import GpuSteps  # reads the source of its kernels

        optimizer.step_together = GpuSteps(model, likelihood, optimizer)
    if model.supports_fast_path():
        for parameter in model.object.parameters():
            parameter.touched = []  # pyright: ignore[reportAttributeAccessIssue]

    def prepare(progress: Progress) -> None:
        events = progress.comparable_epochs
        if braked and _has_risen(events) and optimizer.halve_steps():
            progress.restore_best()
        elif braked and eased and _stands_still(events):
            optimizer.halve_steps(IMAGE_PARTS, least=MIN_RATE_AFTER_STANDSTILL)
        optimizer.set_rules(curvature(progress.history), curvature.momentum)

    return [prepare]


def _stands_still(events: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the loss hardly fell though it is above the noise: steps overshoot, or carry noise along.

    An epoch of few updates has little time to fall in.
    """
    if len(events) < 2:
        return False
    least = 0.98 ** min(1.0, events[-1]["updates"] / UPDATES_TO_FOLLOW_POSITIONS)
    return events[-1]["loss"] > max(least * events[-2]["loss"], MIN_LOSS_OF_STANDSTILL)


def _has_risen(events: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the last epoch made things worse than noise explains, so that steps must have been too long."""
    if len(events) < 2:
        return False
    held = [event["holdout"] for event in events if event["holdout"] is not None]
    unseen = len(held) > 1 and held[-1] > max(1.1 * min(held[:-1]), 1.3)
    return unseen or events[-1]["loss"] > 1.05 * events[-2]["loss"]
