"""When a search gives a trial up: the pruners of Optuna, by their knobs. Steps are epochs, from 1.

A function takes the epochs of a trial. Only objectives that are known after every epoch can be pruned by.
"""

from typing import Any, Literal

from phaseloom.search.samplers import quiet

__all__ = ["halving", "hyperband", "median", "none", "patient", "percentile", "threshold"]


def none(epochs: int = 0, /) -> Any:
    """Every trial runs to its end."""
    from optuna.pruners import NopPruner

    return NopPruner()


def median(epochs: int = 0, /, *, startup: int = 5, warmup: int | None = None, every: int = 1) -> Any:
    """Give up what is worse than half of the trials were after as many epochs.

    Args:
        epochs: of a trial.
        startup: trials that are left in peace first.
        warmup: epochs of each trial that are left in peace; default: a quarter.
        every: epochs from one look to the next.
    """
    from optuna.pruners import MedianPruner

    peace = epochs // 4 if warmup is None else warmup
    return MedianPruner(n_startup_trials=startup, n_warmup_steps=peace + 1, interval_steps=every)


def percentile(
    epochs: int = 0, /, *, percent: float = 25.0, startup: int = 5, warmup: int | None = None, every: int = 1
) -> Any:
    """Go on with the best per cent of what trials were after as many epochs; see `median`.

    Args:
        epochs: of a trial.
        percent: that may go on.
        startup: trials that are left in peace first.
        warmup: epochs of each trial that are left in peace; default: a quarter.
        every: epochs from one look to the next.
    """
    from optuna.pruners import PercentilePruner

    peace = epochs // 4 if warmup is None else warmup
    counted = {"n_startup_trials": startup, "n_warmup_steps": peace + 1, "interval_steps": every}
    return PercentilePruner(percent, **counted)


def hyperband(epochs: int, /, *, least: int = 2, factor: int = 3) -> Any:
    """Races of different lengths: some begin with many trials that are soon given up, some with few.

    Args:
        epochs: of a trial.
        least: epochs that every trial gets.
        factor: one in so many goes on from round to round.

    Source: L. Li et al., Hyperband, J. Mach. Learn. Res. 18, 185 (2018).
    """
    from optuna.pruners import HyperbandPruner

    return HyperbandPruner(min_resource=min(least, epochs), max_resource=epochs, reduction_factor=factor)


def halving(epochs: int = 0, /, *, least: int = 2, factor: int = 3) -> Any:
    """A single one of these races, as trials come in.

    Args:
        epochs: of a trial.
        least: epochs that every trial gets.
        factor: one in so many goes on from round to round.

    Source: L. Li et al., A system for massively parallel hyperparameter tuning, MLSys 2020.
    """
    from optuna.pruners import SuccessiveHalvingPruner

    return SuccessiveHalvingPruner(min_resource=least, reduction_factor=factor)


def patient(
    epochs: int = 0, /, *, patience: int = 3, least: float = 0.0, inside: Literal["none", "median"] = "median"
) -> Any:
    """Give up only what has not become better for some epochs.

    Args:
        epochs: of a trial.
        patience: epochs without a better value that are waited for.
        least: by how much it has to be better.
        inside: what else has to be so: worse than half of the trials (`median`), or nothing.
    """
    from optuna.pruners import PatientPruner

    return quiet(lambda: PatientPruner(median(epochs) if inside == "median" else None, patience, least))


def threshold(
    epochs: int = 0, /, *, lower: float | None = None, upper: float | None = None, warmup: int = 0
) -> Any:
    """Give up what leaves a band.

    Args:
        epochs: of a trial.
        lower: end of the band.
        upper: end of the band.
        warmup: epochs of each trial that are left in peace.

    Raises:
        BadInput: no end at all.
    """
    from optuna.pruners import ThresholdPruner

    from phaseloom.errors import BadInput

    if lower is None and upper is None:
        raise BadInput("pruner: threshold", None, "needs an upper end, or a lower one")
    return ThresholdPruner(lower=lower, upper=upper, n_warmup_steps=warmup + 1)
