"""A start from a predicted object: whether it is better than none, and what it is worth."""

import logging
import math
from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor

from phaseloom.fitting.updates import held_out
from phaseloom.metrics.pattern_misfit import PatternMisfit, measure_pattern_misfit
from phaseloom.reconstruction.recipe import SHARES, Change, Reconstruct
from phaseloom.reconstruction.resolution_level import Stage

__all__ = ["begun", "slowed"]

log = logging.getLogger(__name__)

ASKED = 256
"""Patterns that decide."""

LITTLE = 0.75
"""Share explained (`phaseloom.metrics.pattern_misfit.PatternMisfit`), below which a start that is taken is
worth a word."""


@torch.no_grad()
def begun(stage: Stage, kept_out: Sequence[Tensor], /) -> dict[str, float]:
    """Keep a predicted object if it explains the patterns better than none does, and than its conjugate.

    The conjugate is what a detector that is turned by 180 degrees against the scan would make of it.
    Otherwise no object is taken.

    What is kept counts as the result of epoch 0: a run whose hold-out loss never falls below that of the
    prediction ends with the prediction.

    Args:
        stage: before its first epoch.
        kept_out: batches of patterns that are held out.

    Returns:
        The loss with the prediction, with its conjugate, and without an object.
    """
    model = stage.model
    count = len(model.scan.start)
    index = torch.linspace(0, count - 1, min(count, ASKED)).round().long().to(model.scan.start.device)
    there, kept = _loss(stage, index), model.object.transmission().clone()
    model.object.put(kept.conj())
    turned = _loss(stage, index)
    model.object.put(torch.ones_like(kept))
    empty = _loss(stage, index)
    if there < min(empty, turned):
        model.object.put(kept)
        _doubted(_explained(stage, index))
        loss = held_out(
            stage.likelihood, (kept_out, (), stage.likelihood.judging), stage.progress.optimizer, 0
        )
        if loss is not None:
            stage.progress.best = (0, loss, deepcopy(model.state_dict()))
    return {"predicted": there, "conjugate": turned, "empty": empty}


def slowed(recipe: Reconstruct, stage: Stage, empty: float, /) -> tuple[Change, ...]:
    """Rates for a start from a prediction where counts say little: longer steps would carry noise into it.

    The loss without an object, in units of the noise, tells how much there is to learn. Of parts whose rate
    the user gave, and of other optimisers, nothing is changed.

    Args:
        recipe: of the run.
        stage: before its first epoch.
        empty: loss without an object.
    """
    if recipe.optimizer.name != "gauss_newton":
        return ()
    signal = math.sqrt(max(empty, 1.0))
    rates = {
        "object": min(0.05 * signal, SHARES["object"]),
        "probe": min(0.1 * (signal - 1), SHARES["probe"]),
    }
    return tuple(
        Change(epoch=1, part=part, rate=rate, stop=None)
        for part, rate in rates.items()
        if part not in recipe.rates and stage.groups(part)
    )


def _explained(stage: Stage, index: Tensor) -> PatternMisfit:
    """How much of what differs between patterns the object explains."""
    detector = stage.model.detector
    pieces = [
        (stage.model(part), stage.likelihood.measured.take(part, part.device)[1]) for part in index.split(32)
    ]
    expected, measured = (torch.cat(some).cpu() for some in zip(*pieces, strict=True))
    mask = detector.mask.cpu().numpy().astype(bool)
    return measure_pattern_misfit(expected, measured, detector.background().cpu(), mask)


def _doubted(found: PatternMisfit) -> None:
    """Say so where a prediction that is better than nothing explains little."""
    if found.explained is None or found.error is None or found.explained + 3 * found.error >= LITTLE:
        return
    part = f"only {100 * found.explained:.0f} %" if found.explained > 0 else "nothing"
    log.warning(
        "object: predicted: explains %s of what differs from pattern to pattern: is the detector mirrored"
        " or turned, or the probe another? Do not trust the result before that is clear",
        part,
    )


def _loss(stage: Stage, index: Tensor) -> float:
    total = 0.0
    for part in index.split(32):
        terms = stage.likelihood(part)
        total += len(part) / len(index) * sum(terms[name].item() for name in stage.likelihood.judging)
    return total
