"""A start from an object that is predicted, stored or imaged directly: whether it is better than none."""

import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phaseloom.direct.recipe import DirectResult
from phaseloom.fitting.updates import HoldOut, measure_holdout
from phaseloom.metrics.pattern_misfit import PatternMisfit
from phaseloom.ptycho.objects import make_start, remove_slow_variations
from phaseloom.ptycho.projections.object_prior import ObjectPower
from phaseloom.reconstruction.level import Level
from phaseloom.reconstruction.recipe import DEFAULT_NEWTON_RATES, RateChange, Reconstruct
from phaseloom.reconstruction.starts.first_image import estimate_object_power, place_on_canvas
from phaseloom.reconstruction.starts.start_race import (
    AS_GIVEN,
    FLAT,
    SMOOTH,
    WIDTHS_OF_SLOW_VARIATION,
    choose,
    describe_choice,
    describe_race,
    measure_beam_width,
    race,
)
from phaseloom.spec import Call

__all__ = ["describe_direct_start", "describe_first_object", "judge", "keep_better_start", "slower_rates"]
__all__ += ["choose_state", "count_start", "describe_object_prior", "settle_start", "use_direct_image"]

log = logging.getLogger(__name__)

MAX_PATTERNS_OF_JUDGE = 256
"""Patterns that decide between the prediction, its conjugate and no object."""

MIN_GAIN_ON_CONJUGATE = 0.25
"""What a direct image gains on its conjugate, as a share of what it gains on no object, to be taken: 0.5 and
more was found of right ones, 0.1 of patterns in disorder."""

WORDS = {"predicted": "prediction", "from_file": "object of the file"}
"""Objects of a recipe that something is known of before the first epoch, and what they are called."""

MIN_SHARE_OF_POWER = 1e-3
"""Share of the strongest ring of a predicted phase below which rings are not the object's."""

MIN_PIXELS_OF_POWER = 16
"""Of a side of the scan, to measure a power by frequency."""

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
    losses = keep_better_start(level, holdout)
    slower = slower_rates(recipe, level, losses["empty"], given) if level.progress.best else ()
    found = recipe.found | {"start": losses}
    return recipe.model_copy(update={"found": found, "changes": (*slower, *recipe.changes)})


def settle_start(
    level: Level, recipe: Reconstruct, holdout: np.ndarray, /, *, given: Collection[str]
) -> Reconstruct:
    """Begin with the object of the recipe or with a flat one; with a prediction without slow variations.

    The recipe that is returned has the object that was taken, so that a run that repeats it, or goes on
    with it, begins with the same bits.

    Args:
        level: of the data, before its first epoch; its object is that of the recipe.
        recipe: settled, of the run.
        holdout: indices of the patterns that are held out; where none are, patterns that were fitted judge.
        given: parts whose rates the user chose.
    """
    if recipe.object.name not in WORDS:
        return recipe
    if not recipe.compare_starts:
        is_predicted = recipe.object.name == "predicted"
        return judge(level, recipe, holdout, given=given) if is_predicted else recipe
    whole = level.model.object.transmission().detach().clone()
    objects = _list_objects(level, recipe)
    states = {name: _make_state(level, wave) for name, (wave, _) in objects.items()}
    start = choose_state(level, recipe, holdout, states)
    taken = start["taken"]
    found = {"start": {"of": WORDS[recipe.object.name], **start}}
    recipe = recipe.model_copy(update={"object": objects[taken][1], "found": recipe.found | found})
    if taken == FLAT or recipe.object.name != "predicted":
        return recipe
    _warn_of_little_explained(level.measure_misfit(_spread_indices(level)))
    count_start(level, holdout)
    return _use_power(level, recipe, whole) if recipe.object_prior != "none" else recipe


def _list_objects(level: Level, recipe: Reconstruct) -> dict[str, tuple[Tensor, Call]]:
    """Transmissions that a run may begin with and the calls that make them, the simplest first."""
    thing = level.model.object
    wave = thing.transmission().detach().clone()
    modes, slices, height, width = wave.shape
    flat = make_start("uniform", (modes, slices, height, width), modes).to(wave)
    knobs: dict[str, Any] = {"kind": thing.kind}
    if thing.gaps:
        knobs |= {"slices": slices, "thickness": [*thing.gaps]}
    if modes > 1:
        knobs |= {"modes": modes, "occupancies": thing.occupancy.tolist()}
    found = {FLAT: (flat, Call(recipe.object.room, "pixels", knobs))}
    call = recipe.object
    if call.name == "predicted" and call.values.get("longest_period") is None:
        period = float(f"{WIDTHS_OF_SLOW_VARIATION * measure_beam_width(level.model):.3g}")
        smooth = remove_slow_variations(wave, thing.canvas.pixel, period)
        without = replace(call, values={**call.values, "longest_period": period})
        return {**found, SMOOTH: (smooth, without)}
    return {**found, AS_GIVEN: (wave, call)}


@torch.no_grad()
def _make_state(level: Level, wave: Tensor) -> dict[str, Tensor]:
    """The parameters of a model with another object."""
    thing = level.model.object
    before = thing.transmission().detach().clone()
    thing.set_transmission(wave)
    state = deepcopy(level.model.state_dict())
    thing.set_transmission(before)
    return state


def _use_power(level: Level, recipe: Reconstruct, wave: Tensor) -> Reconstruct:
    """Take the power of a predicted phase, its slow variations included, as the prior of the object."""
    power = _measure_power(level, wave)
    if power is None:
        return recipe
    level.power = power
    return recipe.model_copy(update={"found": recipe.found | {"power": power.to_table()}})


def _measure_power(level: Level, wave: Tensor) -> ObjectPower | None:
    """Power of the phase of a transmission where it was scanned; ``None`` of scans too small to tell."""
    room = level.model.object.canvas
    ends = [(level.scan.positions.min(0), np.floor), (level.scan.positions.max(0), np.ceil)]
    low, high = (whole((place - room.origin) / room.pixel).astype(int) for place, whole in ends)
    scanned = wave.prod(1)[0].cpu()[low[0] : high[0] + 1, low[1] : high[1] + 1]
    if min(scanned.shape) < MIN_PIXELS_OF_POWER:
        return None
    phase = torch.angle(scanned * scanned.mean().conj()).double().numpy()
    taper = np.outer(*(np.hanning(n) for n in phase.shape))
    power = ObjectPower.of_phase(phase, taper, room.pixel)
    seen = np.array(power.density) > MIN_SHARE_OF_POWER * max(power.density)
    count = int(np.flatnonzero(seen)[-1]) + 1
    return ObjectPower(power.frequency[:count], power.density[:count])


@torch.no_grad()
def count_start(level: Level, holdout: np.ndarray, /) -> None:
    """Have what a run begins with count as the result of epoch 0.

    A run whose hold-out loss never falls below that of the start ends with the start.
    """
    held = HoldOut(_split_holdout(holdout), judged=level.likelihood.data_terms)
    loss = measure_holdout(level.likelihood, held, level.progress.optimizer, 0)
    if loss is not None:
        level.progress.best = (0, loss, deepcopy(level.model.state_dict()))


def _split_holdout(holdout: np.ndarray) -> list[Tensor]:
    """Batches of the patterns held out."""
    return list(torch.as_tensor(holdout).split(32)) if len(holdout) else []


@torch.no_grad()
def keep_better_start(level: Level, holdout: np.ndarray, /, *, explain: bool = True) -> dict[str, float]:
    """Keep a predicted object if it explains the patterns better than none, and than its conjugate.

    The conjugate is what a detector that is turned by 180 degrees against the scan would make of it.
    Otherwise the object is set to one everywhere.

    What is kept counts as the result of epoch 0: a run whose hold-out loss never falls below that of the
    prediction ends with the prediction.

    Args:
        level: before its first epoch.
        holdout: indices of patterns that are held out.
        explain: warn where what is kept explains little.

    Returns:
        The loss with the prediction, with its conjugate, and without an object.
    """
    model = level.model
    index = _spread_indices(level)
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
        count_start(level, holdout)
    return {"predicted": predicted, "conjugate": conjugate, "empty": empty}


def choose_state(
    level: Level,
    recipe: Reconstruct,
    holdout: np.ndarray,
    states: Mapping[str, Mapping[str, Tensor]],
    /,
) -> dict[str, Any]:
    """Give a model the parameters that a run should begin with, and say why.

    Args:
        level: of the data, before its first epoch.
        recipe: of the run.
        holdout: indices of the patterns that are held out; where none are, patterns that were fitted judge.
        states: parameters by name, first those that others have to be clearly better than; where they cannot
            be compared, those of no flat object are taken.
    """
    comparison = race(level, recipe, states, is_held_out=bool(len(holdout)))
    given = next(name for name in states if name != FLAT)
    taken = given if comparison is None else choose(comparison)
    level.model.load_state_dict(states[taken])
    return describe_race(comparison, taken)


def use_direct_image(
    level: Level, recipe: Reconstruct, holdout: np.ndarray, /, make_image: Callable[[], DirectResult | None]
) -> Reconstruct:
    """Take the power of the direct image of electrons as the prior of the object, and the image as its start.

    A start only of a calibrated scan, and only if it explains the patterns better than no object.

    Args:
        level: of the data, before its first epoch; its object is one everywhere.
        recipe: settled, of the run.
        holdout: indices of the patterns that are held out.
        make_image: of the scan, `phaseloom.reconstruction.starts.first_image.make_first_image`; called where
            needed.

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
    if wanted and power is None:
        log.warning("object_prior: left out: the direct image shows no power of the object above the noise")
    found = {} if power is None else {"power": power.to_table()}
    level.power = power
    if calibrated and not recipe.tiles:
        found["direct"] = _try_as_start(image, level, recipe, holdout)
    return recipe.model_copy(update={"found": recipe.found | found})


def _try_as_start(
    image: DirectResult, level: Level, recipe: Reconstruct, holdout: np.ndarray
) -> dict[str, Any]:
    """Begin with a direct image if that explains the patterns better; losses, and whether it was taken."""
    vacuum = torch.ones_like(level.model.object.transmission())
    flat = _make_state(level, vacuum)
    level.model.object.set_transmission(place_on_canvas(image, level.model.object))
    losses: dict[str, Any] = keep_better_start(level, holdout, explain=False)
    gain = losses["empty"] - losses["predicted"]
    # any object explains mean patterns better than none; only the right one is better than its conjugate
    taken = gain > 0 and losses["conjugate"] - losses["predicted"] > MIN_GAIN_ON_CONJUGATE * gain
    if taken and recipe.compare_starts:
        # a calibrated run leaves its direct image out only where a flat object is clearly better
        states = {AS_GIVEN: deepcopy(level.model.state_dict()), FLAT: flat}
        losses["trial"] = choose_state(level, recipe, holdout, states)
        taken = losses["trial"]["taken"] != FLAT
    if not taken:
        level.model.object.set_transmission(vacuum)
        level.progress.best = None
    return {"taken": taken, **losses}


def describe_direct_start(
    *,
    taken: bool,
    predicted: float,
    conjugate: float,
    empty: float,
    trial: Mapping[str, Any] | None = None,
) -> str:
    """A sentence on whether a direct image was taken as the start, from the losses of `keep_better_start`."""
    if trial is not None:
        return describe_choice("direct image", trial)
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
        f"object prior: noise is held down by the power of the first image, seen to {last:.3g} angstrom;"
        " the phase of few counts comes out weaker than it is (object_prior: none switches it off)"
    )


def describe_first_object(found: Mapping[str, Any], /) -> str:
    """A sentence on whether the object of a recipe was taken, from what the run recorded as ``start``."""
    return describe_choice(found["of"], found) if "taken" in found else describe_losses(**found)


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


def _spread_indices(level: Level) -> Tensor:
    """Patterns all over the scan, `MAX_PATTERNS_OF_JUDGE` at most."""
    start = level.model.scan.start
    count = len(start)
    index = torch.linspace(0, count - 1, min(count, MAX_PATTERNS_OF_JUDGE)).round().long()
    return index.to(start.device)


def _mean_loss(level: Level, index: Tensor) -> float:
    total = 0.0
    for part in index.split(32):
        terms = level.likelihood(part)
        total += len(part) / len(index) * sum(terms[name].item() for name in level.likelihood.data_terms)
    return total
