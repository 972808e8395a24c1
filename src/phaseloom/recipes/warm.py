"""A start from a predicted object: whether it is better than none, and what it is worth."""

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor

from phaseloom.fitting.learn import held_out
from phaseloom.recipes.stage import Stage

__all__ = ["begun"]

ASKED = 256
"""Patterns that decide."""


@torch.no_grad()
def begun(stage: Stage, held: Sequence[Tensor], /) -> dict[str, float]:
    """Keep a predicted object if it explains the patterns better than none does, and than its conjugate.

    The conjugate is what a detector that is turned by 180 degrees against the scan would make of it.
    Otherwise no object is taken.

    What is kept counts as the result of epoch 0: a run whose hold-out loss never falls below that of the
    prediction ends with the prediction.

    Args:
        stage: before its first epoch.
        held: batches of patterns that are held out.

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
        loss = held_out(stage.likelihood, (held, (), stage.likelihood.judging), stage.progress.optimizer, 0)
        if loss is not None:
            stage.progress.best = (0, loss, deepcopy(model.state_dict()))
    return {"predicted": there, "conjugate": turned, "empty": empty}


def _loss(stage: Stage, index: Tensor) -> float:
    total = 0.0
    for part in index.split(32):
        terms = stage.likelihood(part)
        total += len(part) / len(index) * sum(terms[name].item() for name in stage.likelihood.judging)
    return total
