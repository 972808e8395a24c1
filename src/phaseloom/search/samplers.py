"""How a search chooses what to try next: the samplers of Optuna, with Optuna's names of their arguments.

A function takes the seed of the trial and that of the search. With a seed of its own for each trial, no two
processes draw the same, and a search that is resumed goes on where it was. Optuna is imported when a sampler
is made, for it is an optional dependency.

Source: T. Akiba et al., Optuna, KDD 2019, doi:10.1145/3292500.3330701.
"""

import warnings
from collections.abc import Callable
from typing import Any, Literal

from phaseloom.errors import MissingExtra
from phaseloom.renames import renamed_knobs

__all__ = ["cmaes", "gp", "grid", "nsga", "qmc", "random", "tpe"]


@renamed_knobs(startup="n_startup_trials", candidates="n_ei_candidates", joint="multivariate")
def tpe(
    seed: int, /, *, n_startup_trials: int = 10, n_ei_candidates: int = 24, multivariate: bool = True
) -> Any:
    """Tree-structured Parzen estimator: for any knobs, conditions too.

    Args:
        seed: of the trial.
        n_startup_trials: trials that are drawn at random first.
        n_ei_candidates: drawn for each trial, of which the most promising one is taken.
        multivariate: look at knobs together (in groups that occur together), not each by itself.

    Source: J. Bergstra et al., Algorithms for hyper-parameter optimization, NIPS 2011.
    """
    from optuna.samplers import TPESampler

    return without_warnings(
        TPESampler,
        seed=seed,
        n_startup_trials=n_startup_trials,
        n_ei_candidates=n_ei_candidates,
        multivariate=multivariate,
        group=multivariate,
        constant_liar=True,
    )


@renamed_knobs(startup="n_startup_trials", exact="deterministic_objective")
def gp(seed: int, /, *, n_startup_trials: int = 10, deterministic_objective: bool = True) -> Any:
    """A Gaussian process of the value: the fewest trials, for up to some twenty knobs without conditions.

    Args:
        seed: of the trial.
        n_startup_trials: trials that are drawn at random first.
        deterministic_objective: the value has no noise of its own.
    """
    from optuna.samplers import GPSampler

    return without_warnings(
        GPSampler,
        seed=seed,
        n_startup_trials=n_startup_trials,
        deterministic_objective=deterministic_objective,
        **_independent(seed),
    )


@renamed_knobs(width="sigma0", population="popsize")
def cmaes(seed: int, /, *, sigma0: float | None = None, popsize: int | None = None) -> Any:
    """Evolution of a normal distribution: for many numbers, hundreds of trials; choices are drawn at random.

    Args:
        seed: of the trial.
        sigma0: width of the distribution at first, in parts of each range; default: a sixth.
        popsize: trials of a generation.

    Raises:
        MissingExtra: the package cmaes is not installed.

    Source: N. Hansen, The CMA evolution strategy: a tutorial, arXiv:1604.00772.
    """
    try:
        import cmaes as _  # noqa: F401
    except ModuleNotFoundError as problem:
        raise MissingExtra("sampler: cmaes", "cmaes", "search") from problem
    from phaseloom.search.cmaes_sampler import RebuiltCmaEsSampler

    given = {"seed": seed, "sigma0": sigma0, "popsize": popsize}
    return without_warnings(RebuiltCmaEsSampler, **given, **_independent(seed))


@renamed_knobs(kind="qmc_type")
def qmc(
    seed: int, shared: int, /, *, qmc_type: Literal["sobol", "halton"] = "sobol", scramble: bool = True
) -> Any:
    """Points that fill the space evenly: to see the whole of a landscape; conditions are drawn at random.

    Args:
        seed: of the trial.
        shared: of the search: all trials are points of one sequence.
        qmc_type: the sequence.
        scramble: shift it at random, by the seed of the search.
    """
    from optuna.samplers import QMCSampler

    return without_warnings(
        QMCSampler, qmc_type=qmc_type, scramble=scramble, seed=shared, **_independent(seed)
    )


def grid(seed: int, /) -> Any:
    """Every combination of values once, in an order that is drawn: all ranges need a step."""
    return random(seed)


def random(seed: int, /) -> Any:
    """Each trial by itself: what others are to be compared with."""
    from optuna.samplers import RandomSampler

    return RandomSampler(seed)


@renamed_knobs(population="population_size", crossover="crossover_prob", swapping="swapping_prob")
def nsga(
    seed: int, /, *, population_size: int = 20, crossover_prob: float = 0.9, swapping_prob: float = 0.5
) -> Any:
    """A genetic algorithm (NSGA-II): for choices, conditions and hundreds of trials.

    Args:
        seed: of the trial.
        population_size: trials of a generation.
        crossover_prob: probability that two parents are crossed.
        swapping_prob: probability with which a knob comes from the second of them.

    Source: K. Deb et al., IEEE Trans. Evol. Comput. 6, 182 (2002), doi:10.1109/4235.996017.
    """
    from optuna.samplers import NSGAIISampler

    return NSGAIISampler(
        seed=seed,
        population_size=population_size,
        crossover_prob=crossover_prob,
        swapping_prob=swapping_prob,
    )


def _independent(seed: int) -> dict[str, Any]:
    """Draw knobs that a sampler cannot treat together with the others at random, without a warning."""
    return {"independent_sampler": random(seed), "warn_independent_sampling": False}


def without_warnings(make: Callable[..., Any], /, *values: Any, **arguments: Any) -> Any:
    """Make something of Optuna's that is experimental, or that goes with its next version, in silence."""
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.simplefilter("ignore", FutureWarning)
        return make(*values, **arguments)
