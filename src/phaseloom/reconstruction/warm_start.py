"""A start from a predicted object: whether it is better than none, and what it is worth."""

import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phaseloom.direct.recipe import DirectResult
from phaseloom.fitting.updates import HoldOut, measure_holdout
from phaseloom.metrics.pattern_misfit import PatternMisfit
from phaseloom.reconstruction.first_image import estimate_object_power, place_on_canvas
from phaseloom.reconstruction.level import Level
from phaseloom.reconstruction.recipe import DEFAULT_NEWTON_RATES, RateChange, Reconstruct

__all__ = ["describe_direct_start", "describe_losses", "judge", "keep_better_start", "slower_rates"]
__all__ += ["describe_object_prior", "use_direct_image"]

log = logging.getLogger(__name__)

MAX_PATTERNS_OF_JUDGE = 256
"""Patterns that decide between the prediction, its conjugate and no object."""

MIN_GAIN_ON_CONJUGATE = 0.25
"""What a direct image gains on its conjugate, as a share of what it gains on no object, to be taken: 0.5 and
more was found of right ones, 0.1 of patterns in disorder."""

MIN_SHARE_EXPLAINED = 0.75
"""Share explained (`phaseloom.metrics.pattern_misfit.PatternMisfit`), below which a start that is taken is
worth a word."""


def judge(
    level: Level, recipe: Reconstruct, holdout: np.ndarray, /, *, given: Collection[str]
) -> Reconstruct:
    """Keep the predicted object only if it is better than none, and return the recipe with what was found.

    Args:
        level: of the data, before its first epoch; its object is the prediction.
        recipe: of the run.
        holdout: indices of the patterns that are held out.
        given: parts whose rates the user chose, which are not changed.
    """
    losses = keep_better_start(level, list(torch.as_tensor(holdout).split(32)) if len(holdout) else [])
    slower = slower_rates(recipe, level, losses["empty"], given) if level.progress.best else ()
    found = recipe.found | {"start": losses}
    return recipe.model_copy(update={"found": found, "changes": (*slower, *recipe.changes)})


@torch.no_grad()
def keep_better_start(
    level: Level, holdout: Sequence[Tensor], /, *, explain: bool = True
) -> dict[str, float]:
    """Keep a predicted object if it explains the patterns better than none, and than its conjugate.

    The conjugate is what a detector that is turned by 180 degrees against the scan would make of it.
    Otherwise the object is set to one everywhere.

    What is kept counts as the result of epoch 0: a run whose hold-out loss never falls below that of the
    prediction ends with the prediction.

    Args:
        level: before its first epoch.
        holdout: batches of patterns that are held out.
        explain: warn where what is kept explains little.

    Returns:
        The loss with the prediction, with its conjugate, and without an object.
    """
    model = level.model
    count = len(model.scan.start)
    index = torch.linspace(0, count - 1, min(count, MAX_PATTERNS_OF_JUDGE)).round().long()
    index = index.to(model.scan.start.device)
    prediction = model.object.transmission().clone()
    predicted = _mean_loss(level, index)
    model.object.set_transmission(prediction.conj())
    conjugate = _mean_loss(level, index)
    model.object.set_transmission(torch.ones_like(prediction))
    empty = _mean_loss(level, index)
    if predicted < min(empty, conjugate):
        model.object.set_transmission(prediction)
        if explain:
            _warn_of_little_explained(level.measure_misfit(index))
        held = HoldOut(holdout, judged=level.likelihood.data_terms)
        loss = measure_holdout(level.likelihood, held, level.progress.optimizer, 0)
        if loss is not None:
            level.progress.best = (0, loss, deepcopy(model.state_dict()))
    return {"predicted": predicted, "conjugate": conjugate, "empty": empty}


def use_direct_image(
    level: Level, recipe: Reconstruct, holdout: np.ndarray, /, make_image: Callable[[], DirectResult | None]
) -> Reconstruct:
    """Take the power of the direct image of electrons as the prior of the object, and the image as its start.

    A start only of a calibrated scan, and only if it explains the patterns better than no object.

    Args:
        level: of the data, before its first epoch; its object is one everywhere.
        recipe: settled, of the run.
        holdout: indices of the patterns that are held out.
        make_image: of the scan, `phaseloom.reconstruction.first_image.make_first_image`; called where needed.

    Returns:
        the recipe with what was found.
    """
    calibrated = bool(recipe.found.get("calibrate"))
    wanted = recipe.object_prior == "direct" or (recipe.object_prior == "auto" and calibrated)
    if recipe.object.name != "pixels" or not (wanted or calibrated):
        return recipe
    image = make_image()
    if image is None:
        log.warning(
            "object_prior: left out, and no direct image made: it needs far-field electrons on a whole raster"
            " of 4 x 4 places at least, without missing patterns, and a bright disk"
        )
        return recipe
    power = estimate_object_power(image) if wanted else None
    found = {} if power is None else {"power": power.to_table()}
    level.power = power
    if calibrated:
        found["direct"] = _try_as_start(image, level, holdout)
    return recipe.model_copy(update={"found": recipe.found | found})


def _try_as_start(image: DirectResult, level: Level, holdout: np.ndarray) -> dict[str, Any]:
    """Begin with a direct image if that explains the patterns better; losses, and whether it was taken."""
    level.model.object.set_transmission(place_on_canvas(image, level.model.object))
    held = list(torch.as_tensor(holdout).split(32)) if len(holdout) else []
    losses = keep_better_start(level, held, explain=False)
    gain = losses["empty"] - losses["predicted"]
    # any object explains mean patterns better than none; only the right one is better than its conjugate
    taken = gain > 0 and losses["conjugate"] - losses["predicted"] > MIN_GAIN_ON_CONJUGATE * gain
    if not taken:
        level.model.object.set_transmission(torch.ones_like(level.model.object.transmission()))
        level.progress.best = None
    return {"taken": taken, **losses}


def describe_direct_start(*, taken: bool, predicted: float, conjugate: float, empty: float) -> str:
    """A sentence on whether a direct image was taken as the start, from the losses of `keep_better_start`."""
    verb = "taken as the start" if taken else "not taken as the start"
    return (
        f"direct image {verb}: loss {predicted:.4g}, {empty:.4g} without, {conjugate:.4g} with its conjugate"
    )


def describe_object_prior(power: Mapping[str, Sequence[float]], /) -> str:
    """A sentence on the power that holds the noise of an object down.

    Args:
        power: see `phaseloom.ptycho.projections.object_prior.ObjectPower`.
    """
    last = 1 / power["frequency"][-1]
    return (
        f"object prior: noise is held down by the power of the direct image, seen to {last:.3g} angstrom;"
        " the phase of few electrons comes out weaker than it is (object_prior: none switches it off)"
    )


def describe_losses(*, predicted: float, conjugate: float, empty: float) -> str:
    """A sentence on whether a predicted object was taken, from the losses of `keep_better_start`."""
    losses = f"(loss {predicted:.4g}, without {empty:.4g})"
    if conjugate < min(predicted, empty):
        fix = "its conjugate explains the patterns better: is the detector turned by 180 degrees?"
        return f"WARN start: predicted object left out, {fix} {losses}"
    if predicted < empty:
        return f"start: predicted object taken as the start {losses}"
    return f"WARN start: predicted object left out: it explains the patterns no better than none {losses}"


def slower_rates(
    recipe: Reconstruct, level: Level, empty: float, given: Collection[str], /
) -> tuple[RateChange, ...]:
    """Rates for a start from a prediction at few counts: longer steps would carry noise into it.

    The loss without an object, in units of the noise, says how much there is to learn. Rates that the user
    gave, and those of other optimisers, are not changed.

    Args:
        recipe: of the run.
        level: before its first epoch.
        empty: loss without an object.
        given: parts whose rates the user chose.
    """
    if recipe.optimizer.name != "gauss_newton":
        return ()
    signal = math.sqrt(max(empty, 1.0))
    rates = {
        "object": min(0.05 * signal, DEFAULT_NEWTON_RATES["object"]),
        "probe": min(0.1 * (signal - 1), DEFAULT_NEWTON_RATES["probe"]),
    }
    return tuple(
        RateChange(epoch=1, part=part, rate=rate, stop=None)
        for part, rate in rates.items()
        if part not in given and level.groups(part)
    )


def _warn_of_little_explained(found: PatternMisfit) -> None:
    """Say so where a prediction that is better than nothing explains little."""
    if (
        found.explained is None
        or found.error is None
        or found.explained + 3 * found.error >= MIN_SHARE_EXPLAINED
    ):
        return
    part = f"only {100 * found.explained:.0f} %" if found.explained > 0 else "nothing"
    log.warning(
        "object: predicted: explains %s of what differs from pattern to pattern: is the detector mirrored"
        " or turned, or the probe another? Do not trust the result before that is clear",
        part,
    )


def _mean_loss(level: Level, index: Tensor) -> float:
    total = 0.0
    for part in index.split(32):
        terms = level.likelihood(part)
        total += len(part) / len(index) * sum(terms[name].item() for name in level.likelihood.data_terms)
    return total
