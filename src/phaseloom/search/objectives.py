"""What a search minimises. Each is a number of a trial; some are known after every epoch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from phaseloom.errors import BadInput
from phaseloom.fitting.loop import Epoch
from phaseloom.search.trials import Trial

__all__ = ["Objective", "contrast", "frc", "holdout", "loss", "metric"]


@dataclass(frozen=True)
class Objective:
    """A number of a trial; lower is better.

    Attributes:
        name: in a sentence.
        final: of a trial at its end.
        each: after an epoch; ``None``: known at the end only, so that nothing can be pruned by it.
        unlike: sections of the file that decide what the number means, so that it cannot judge them.
    """

    name: str
    final: Callable[[Trial], float]
    each: Callable[[Trial, Epoch], float | None] | None = None
    unlike: tuple[str, ...] = ()


OBJECTIVE_SETTINGS = (
    "noise",
    "losses",
    "weighting",
    "task",
    "holdout",
    "validation",
    "block",
    "test",
    "halves",
)


def loss() -> Objective:
    """Misfit between the training patterns and the model, without penalties.

    It falls with every freedom that a model gets, whether there is something to find with it or not. Of
    trainings it is the sum of all losses.
    """
    return Objective("loss", lambda trial: trial.loss(), lambda trial, _: trial.loss(), OBJECTIVE_SETTINGS)


def holdout() -> Objective:
    """The same of what was held out: freedom that only fits noise makes it rise.

    Of trainings it is what they judge by.

    Raises:
        BadInput: nothing is held out; at the end of a trial.
    """
    return Objective("hold-out loss", _require_holdout, lambda _, epoch: epoch.holdout, OBJECTIVE_SETTINGS)


def contrast() -> Objective:
    """Minus the standard deviation of the phase, summed over slices, in parts of its range.

    Constant and plane wave are removed, pixels that no probe has lit left out; the range is that of all
    but the lowest and the highest half per cent. A sharp picture has contrast, but so has noise.

    Raises:
        BadInput: a training, which has no phase; at the end of a trial.
    """
    return Objective("minus contrast", _measure_contrast)


def frc(*, threshold: Literal["half-bit", "one-seventh"] = "half-bit") -> Objective:
    """Resolution, angstrom: where two reconstructions from half of the counts each cease to agree.

    Each trial takes two more runs (`phaseloom.reconstruction.half_data_frc`). What both halves have in
    common is taken for true: a wrong model, an artefact of the raster. A trial whose halves never agree gets
    the width of its field.

    Args:
        threshold: of the ring correlation.

    Raises:
        BadInput: a training, counts that are not whole, or too small a field; at the end of a trial.
    """

    def final(trial: Trial) -> float:
        from phaseloom.reconstruction.half_data_frc import halves

        curve = halves(trial.require_job("frc")).correlation
        found = float(curve.resolution(threshold))
        return found if np.isfinite(found) else float(1 / curve.frequency[1])

    return Objective(f"resolution of halves, {threshold} (A)", final)


def metric(*, name: str, largest: bool = False) -> Objective:
    """A number that a run leaves behind: a metric of a result, or a score of a network's card by its path.

    ``amplitude error``, ``Poisson deviance``, ``move rms (A)`` of reconstructions, whatever their noise
    model; ``scores.noiseless.nmse``, ``scores.network.explained``, ``scores.low.network.psnr`` of networks. A
    network is judged by its test part then: its score there does not test it any more.

    Args:
        name: of the number.
        largest: make it large, not small: it is shown with its sign turned.

    Raises:
        BadInput: no such number; at the end of a trial.
    """
    sign = -1.0 if largest else 1.0

    def final(trial: Trial) -> float:
        return sign * _find_number(trial.collect_numbers(), name)

    return Objective(f"minus {name}" if largest else name, final)


def _require_holdout(trial: Trial) -> float:
    value = trial.holdout_loss()
    if value is None:
        why = "holdout: 0, or under 20 patterns: a small scan, or a small share of one"
        fix = f"is not known: nothing is held out ({why}); take loss"
        raise BadInput("objective", "holdout", fix)
    return value


def _measure_contrast(trial: Trial) -> float:
    from phaseloom.plot.object import ObjectField
    from phaseloom.plot.style import limits

    phase = ObjectField.of(trial.require_job("contrast").result()).phase()
    low, high = limits(phase)
    return -float(np.nanstd(phase) / (high - low))


def _find_number(tree: Mapping[str, Any], path: str) -> float:
    """A number of a tree by its path; names may have dots."""
    there = dict(_list_leaves(tree))
    if path not in there:
        from phaseloom.errors import nearest

        raise BadInput("objective: metric.name", path, f"is not a number of this run: {nearest(path, there)}")
    return there[path]


def _list_leaves(tree: Mapping[str, Any], above: str = "") -> list[tuple[str, float]]:
    out: list[tuple[str, float]] = []
    for name, value in tree.items():
        path = f"{above}{name}"
        if isinstance(value, Mapping):
            out += _list_leaves(value, f"{path}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            out.append((path, float(value)))
    return out
