"""When a search gives a trial up: the pruners of Optuna, with its names of their arguments.

A function takes the epochs of a trial. Steps are epochs, from 1. Only objectives that are known after every
epoch can be pruned by. Optuna counts steps from 0, hence ``n_warmup_steps + 1`` below.
"""

from typing import Any, Literal

from phaseloom.errors import BadInput
from phaseloom.renames import renamed_knobs
from phaseloom.search.samplers import without_warnings

__all__ = ["halving", "hyperband", "median", "none", "patient", "percentile", "threshold"]


def none(epochs: int = 0, /) -> Any:
    """Every trial runs to its end."""
    from optuna.pruners import NopPruner

    return NopPruner()


@renamed_knobs(startup="n_startup_trials", warmup="n_warmup_steps", every="interval_steps")
def median(
    epochs: int = 0,
    /,
    *,
    n_startup_trials: int = 5,
    n_warmup_steps: int | None = None,
    interval_steps: int = 1,
) -> Any:
    """Give up what is worse than half of the trials were after as many epochs.

    Args:
        epochs: of a trial.
        n_startup_trials: trials that are not pruned.
        n_warmup_steps: first epochs of each trial, which are not pruned; default: a quarter.
        interval_steps: epochs from one look to the next.
    """
    from optuna.pruners import MedianPruner

    warmup = epochs // 4 if n_warmup_steps is None else n_warmup_steps
    return MedianPruner(n_startup_trials, warmup + 1, interval_steps)


@renamed_knobs(
    percent="percentile", startup="n_startup_trials", warmup="n_warmup_steps", every="interval_steps"
)
def percentile(
    epochs: int = 0,
    /,
    *,
    percentile: float = 25.0,
    n_startup_trials: int = 5,
    n_warmup_steps: int | None = None,
    interval_steps: int = 1,
) -> Any:
    """Go on with the best per cent of what trials were after as many epochs; see `median`.

    Args:
        epochs: of a trial.
        percentile: per cent that may go on.
        n_startup_trials: trials that are not pruned.
        n_warmup_steps: first epochs of each trial, which are not pruned; default: a quarter.
        interval_steps: epochs from one look to the next.
    """
    from optuna.pruners import PercentilePruner

    warmup = epochs // 4 if n_warmup_steps is None else n_warmup_steps
    return PercentilePruner(percentile, n_startup_trials, warmup + 1, interval_steps)


@renamed_knobs(least="min_resource", factor="reduction_factor")
def hyperband(epochs: int, /, *, min_resource: int = 2, reduction_factor: int = 3) -> Any:
    """Races of different lengths: some begin with many trials that are soon given up, some with few.

    Args:
        epochs: of a trial.
        min_resource: epochs that every trial gets.
        reduction_factor: one in so many goes on from round to round.

    Source: L. Li et al., Hyperband, J. Mach. Learn. Res. 18, 185 (2018).
    """
    from optuna.pruners import HyperbandPruner

    return HyperbandPruner(min(min_resource, epochs), epochs, reduction_factor)


@renamed_knobs(least="min_resource", factor="reduction_factor")
def halving(epochs: int = 0, /, *, min_resource: int = 2, reduction_factor: int = 3) -> Any:
    """Successive halving: a single one of these races, as trials come in.

    Args:
        epochs: of a trial.
        min_resource: epochs that every trial gets.
        reduction_factor: one in so many goes on from round to round.

    Source: L. Li et al., A system for massively parallel hyperparameter tuning, MLSys 2020.
    """
    from optuna.pruners import SuccessiveHalvingPruner

    return SuccessiveHalvingPruner(min_resource, reduction_factor)


@renamed_knobs(least="min_delta", inside="wrapped_pruner")
def patient(
    epochs: int = 0,
    /,
    *,
    patience: int = 3,
    min_delta: float = 0.0,
    wrapped_pruner: Literal["none", "median"] = "median",
) -> Any:
    """Give up only what has not become better for some epochs.

    Args:
        epochs: of a trial.
        patience: epochs without a better value that are waited for.
        min_delta: by how much it has to be better.
        wrapped_pruner: what else has to be so: worse than half of the trials (`median`), or nothing.
    """
    from optuna.pruners import PatientPruner

    wrapped = median(epochs) if wrapped_pruner == "median" else None
    return without_warnings(PatientPruner, wrapped, patience, min_delta)


@renamed_knobs(warmup="n_warmup_steps")
def threshold(
    epochs: int = 0, /, *, lower: float | None = None, upper: float | None = None, n_warmup_steps: int = 0
) -> Any:
    """Give up what leaves a band.

    Args:
        epochs: of a trial.
        lower: end of the band.
        upper: end of the band.
        n_warmup_steps: first epochs of each trial, which are not pruned.

    Raises:
        BadInput: no end at all.
    """
    from optuna.pruners import ThresholdPruner

    if lower is None and upper is None:
        raise BadInput("pruner: threshold", None, "needs an upper end, or a lower one")
    return ThresholdPruner(lower=lower, upper=upper, n_warmup_steps=n_warmup_steps + 1)
