"""Which of several first objects a run begins with: a short trial of each, judged by patterns held out.

The loss of a first object says little: one whose fine detail is right explains the patterns better than no
object does, and may be wrong in slow variations all the same. Each candidate is therefore fitted for a few
epochs to the same block of the scan. The simpler one is preferred: a richer one has to explain patterns that
none was fitted to better than counting noise can.
"""

import math
from collections import deque
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from phaseloom.fitting.distributed import team
from phaseloom.ptycho.model import Ptychography
from phaseloom.reconstruction.level import Level, fit_patterns, limit_batch_size
from phaseloom.reconstruction.recipe import Reconstruct

__all__ = ["AS_GIVEN", "FLAT", "SMOOTH", "RaceResult", "choose", "describe_choice", "describe_race"]
__all__ += ["measure_beam_width", "measure_each", "race"]

FLAT = "flat"
"""Name of the candidate without an object."""

AS_GIVEN = "as given"
"""Name of the start that a recipe gives."""

SMOOTH = "without slow variations"
"""Name of a prediction without its slow variations."""

TRIAL_EPOCHS = 0.25
"""Epochs of a trial, as a share of those of the run."""

MIN_TRIAL_EPOCHS = 3
MAX_TRIAL_EPOCHS = 10

COST = 0.2
"""Share of the work of a run that all trials together cost, at most."""

MAX_PATTERNS_OF_TRIAL = 1024

MIN_PATTERNS_OF_TRIAL = 64

SHARE_HELD_OUT = 0.15
"""Of the patterns of a trial."""

MIN_ERRORS_OF_GAIN = 2.0
"""Standard errors of the mean gain of a pattern from which on a richer start is better."""

MIN_TRAINING_GAIN = 0.05
"""Share of the loss by which a richer start has to be better, where the patterns that judge were fitted."""

MIN_PATTERNS = 9
"""Of a scan, below which starts are not compared."""

WIDTHS_OF_SLOW_VARIATION = 2.0
"""Beam widths over which a variation is slow: within one it is a ramp, which shifts a pattern a little."""


@dataclass(frozen=True)
class RaceResult:
    """Losses after the trials.

    Attributes:
        losses: of each pattern that judges, by candidate, the simplest first; infinite where a trial failed.
        epochs: of a trial.
        patterns: that each was fitted to.
        is_held_out: whether those that judge were held out.
    """

    losses: dict[str, Float[np.ndarray, " pattern"]]
    epochs: int
    patterns: int
    is_held_out: bool

    def gain(self, richer: str, simpler: str) -> tuple[float, float]:
        """Mean by which the loss with one candidate is below that with another, and its standard error."""
        has_ended = [bool(np.isfinite(self.losses[name]).all()) for name in (richer, simpler)]
        if not all(has_ended):
            return (math.inf if has_ended[0] else -math.inf), 0.0
        difference = self.losses[simpler] - self.losses[richer]
        return float(difference.mean()), float(difference.std(ddof=1) / len(difference) ** 0.5)


def race(
    level: Level,
    recipe: Reconstruct,
    candidates: Mapping[str, Mapping[str, Tensor]],
    /,
    *,
    is_held_out: bool,
) -> RaceResult | None:
    """Fit each candidate for a few epochs to a block of the scan; ``None`` of a scan with too few patterns.

    Args:
        level: of the data, before its first epoch; it is not changed.
        recipe: of the run.
        candidates: parameters of the model by name, the simplest first.
        is_held_out: whether patterns that judge are held out, as others see what they see.
    """
    if len(level.scan) < MIN_PATTERNS:
        return None
    epochs = min(max(round(TRIAL_EPOCHS * recipe.epochs), MIN_TRIAL_EPOCHS), MAX_TRIAL_EPOCHS)
    most = COST * recipe.epochs * len(level.scan) / (epochs * len(candidates))
    count = round(min(max(most, MIN_PATTERNS_OF_TRIAL), MAX_PATTERNS_OF_TRIAL))
    block = find_block(level.scan.positions, count)
    held = np.random.default_rng((recipe.seed, 11)).permutation(len(block)) < SHARE_HELD_OUT * len(block)
    judges = block[held] if is_held_out else block
    training = block[~held] if is_held_out else block
    changes = {"holdout": 0.0, "patience": None, "changes": (), "epochs": epochs}
    batch = limit_batch_size(recipe.batch, len(training))
    short = recipe.model_copy(update={**changes, "batch": batch})
    losses = {name: run_trial(level, short, state, training, judges) for name, state in candidates.items()}
    return RaceResult(losses, epochs, len(training), is_held_out)


def run_trial(
    level: Level,
    recipe: Reconstruct,
    state: Mapping[str, Tensor],
    training: Int[np.ndarray, " n"],
    judges: Int[np.ndarray, " m"],
) -> Float[np.ndarray, " m"]:
    """Loss of each pattern that judges after a short fit from some parameters; infinite where that fails."""
    model = deepcopy(level.model)
    model.load_state_dict(state)
    trial = Level.of(recipe.with_usual_noise(), level.scan, model)
    trial.likelihood.measured = level.likelihood.measured  # the same counts, kept once
    pace: dict[str, Any] = {
        "epochs": recipe.epochs,
        "horizon": recipe.epochs,
        "shape": recipe.shape.partial(),
    }
    deque(fit_patterns(trial, recipe, (training, judges[:0]), tuple, **pace), maxlen=0)
    if trial.progress.epoch < recipe.epochs:
        return np.full(len(judges), np.inf)
    return measure_each(trial, judges)


@torch.no_grad()
def measure_each(level: Level, index: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """What compares with counts in the loss of each of some patterns."""
    values = []
    for one in torch.as_tensor(index).split(1):
        part, share = team().share(one)
        terms = level.likelihood(part)
        values.append(share * torch.stack([terms[name] for name in level.likelihood.data_terms]).sum())
    return team().all_reduce(torch.stack(values)).cpu().double().numpy()


def choose(result: RaceResult, /) -> str:
    """The simplest candidate that no richer one is clearly better than."""
    names = list(result.losses)
    best = names[0]
    for name in names[1:]:
        gain, error = result.gain(name, best)
        least = 0.0 if result.is_held_out else MIN_TRAINING_GAIN * float(result.losses[best].mean())
        if gain > max(MIN_ERRORS_OF_GAIN * error, least):
            best = name
    return best


def describe_race(result: RaceResult | None, taken: str, /) -> dict[str, Any]:
    """What was taken and why, as a parameter file keeps it."""
    if result is None:
        return {"taken": taken}
    ended = {name: values.mean() for name, values in result.losses.items() if np.isfinite(values).all()}
    losses = {name: float(f"{loss:.5g}") for name, loss in ended.items()}
    found = {"taken": taken, "losses": losses, "epochs": result.epochs, "patterns": result.patterns}
    found |= {"held_out": len(result.losses[taken]) if result.is_held_out else 0}
    if {taken, FLAT} <= losses.keys() and taken != FLAT:
        gain, error = result.gain(taken, FLAT)
        found["errors"] = float(f"{gain / max(error, 1e-30):.3g}")
    return found


def describe_choice(what: str, found: Mapping[str, Any], /) -> str:
    """A sentence on which start was taken.

    Args:
        what: the start that was given, ``prediction``, say.
        found: see `describe_race`.

    Example:
        >>> losses = {"flat": 77.4, "as given": 7.63}
        >>> found = {"taken": "as given", "losses": losses, "epochs": 5, "patterns": 109, "held_out": 20}
        >>> describe_choice("object of the file", {**found, "errors": 12.0})  # doctest: +NORMALIZE_WHITESPACE
        'start: object of the file taken as given: loss of 20 patterns held out after 5 epochs 7.63,
        flat 77.4 (12 standard errors below flat)'
    """
    taken = found["taken"]
    if "losses" not in found:
        return f"start: {what} taken {taken}; too few patterns to compare it with a flat object"
    by = f"of {found['held_out']} patterns held out" if found["held_out"] else "of patterns that were fitted"
    others = [f"{name} {loss:.4g}" for name, loss in found["losses"].items() if name != taken]
    first = f"{what} left out, a flat object taken" if taken == FLAT else f"{what} taken {taken}"
    errors = found.get("errors")
    side = "below" if errors is None or errors >= 0 else "above"
    sure = "" if errors is None else f" ({abs(errors):.3g} standard errors {side} flat)"
    loss = f"{found['losses'].get(taken, math.inf):.4g}"
    return f"start: {first}: loss {by} after {found['epochs']} epochs {loss}, {', '.join(others)}{sure}"


def find_block(positions: Float[np.ndarray, "n 2"], count: int, /) -> Int[np.ndarray, " m"]:
    """Indices of so many neighbouring patterns around the middle of a scan."""
    middle = np.median(positions, 0)
    away = np.abs(positions - middle).max(1).round(6)
    return np.sort(np.argsort(away, kind="stable")[:count])


@torch.no_grad()
def measure_beam_width(model: Ptychography, /) -> float:
    """Diameter of a disk with the second moment of the beam at the object, angstrom."""
    power = model.probe.modes().abs().square().sum(0).double().cpu().numpy()
    variance = 0.0
    for axis, pixel in enumerate(model.object.canvas.pixel):
        line = power.sum(1 - axis)
        at = pixel * np.arange(len(line))
        middle = (at * line).sum() / line.sum()
        variance += float(((at - middle) ** 2 * line).sum() / line.sum())
    return 2 * (2 * variance) ** 0.5
