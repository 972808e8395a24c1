"""How a search chooses what to try next: the samplers of Optuna, by their knobs.

A function takes the seed of the trial and that of the search. With a seed of its own for each trial, no two
processes draw the same, and a search that is resumed goes on where it was.

Source: T. Akiba et al., Optuna, KDD 2019, doi:10.1145/3292500.3330701.
"""

import warnings
from collections.abc import Callable
from typing import Any, Literal

__all__ = ["cmaes", "gp", "grid", "nsga", "qmc", "random", "tpe"]


def tpe(seed: int, /, *, startup: int = 10, candidates: int = 24, joint: bool = True) -> Any:
    """Parzen estimators of what was good and of what was not: for any knobs, conditions too.

    Args:
        seed: of the trial.
        startup: trials that are drawn at random first.
        candidates: drawn for each trial, of which the most promising one is taken.
        joint: look at knobs together, not each by itself.

    Source: J. Bergstra et al., Algorithms for hyper-parameter optimization, NIPS 2011.
    """
    from optuna.samplers import TPESampler

    return quiet(
        lambda: TPESampler(
            seed=seed,
            n_startup_trials=startup,
            n_ei_candidates=candidates,
            multivariate=joint,
            group=joint,
            constant_liar=True,
        )
    )


def gp(seed: int, /, *, startup: int = 10, exact: bool = True) -> Any:
    """A Gaussian process of the value: the fewest trials, for up to some twenty knobs without conditions.

    Args:
        seed: of the trial.
        startup: trials that are drawn at random first.
        exact: the value has no noise of its own.
    """
    from optuna.samplers import GPSampler

    return quiet(
        lambda: GPSampler(
            seed=seed,
            n_startup_trials=startup,
            deterministic_objective=exact,
            **_alone(seed),
        )
    )


def cmaes(seed: int, /, *, width: float | None = None, population: int | None = None) -> Any:
    """Evolution of a normal distribution: for many numbers, hundreds of trials; choices are drawn at random.

    Args:
        seed: of the trial.
        width: of the distribution at first, in parts of each range; default: a sixth.
        population: trials of a generation.

    Raises:
        MissingExtra: the package cmaes is not installed.

    Source: N. Hansen, The CMA evolution strategy: a tutorial, arXiv:1604.00772.
    """
    from optuna.samplers import CmaEsSampler

    from phaseloom.errors import MissingExtra

    try:
        import cmaes as _  # noqa: F401
    except ModuleNotFoundError as problem:
        raise MissingExtra("sampler: cmaes", "cmaes", "search") from problem
    return quiet(
        lambda: CmaEsSampler(
            seed=seed,
            sigma0=width,
            popsize=population,
            **_alone(seed),
        )
    )


def qmc(
    seed: int, shared: int, /, *, kind: Literal["sobol", "halton"] = "sobol", scramble: bool = True
) -> Any:
    """Points that fill the space evenly: to see the whole of a landscape; conditions are drawn at random.

    Args:
        seed: of the trial.
        shared: of the search: all trials are points of one sequence.
        kind: of the sequence.
        scramble: shift it at random, by the seed of the search.
    """
    from optuna.samplers import QMCSampler

    return quiet(
        lambda: QMCSampler(
            qmc_type=kind,
            scramble=scramble,
            seed=shared,
            **_alone(seed),
        )
    )


def grid(seed: int, /) -> Any:
    """Every combination of values once, in an order that is drawn: all ranges need a step."""
    return random(seed)


def random(seed: int, /) -> Any:
    """Each trial by itself: what others are to be compared with."""
    from optuna.samplers import RandomSampler

    return RandomSampler(seed)


def nsga(seed: int, /, *, population: int = 20, crossover: float = 0.9, swapping: float = 0.5) -> Any:
    """A genetic algorithm (NSGA-II): for choices, conditions and hundreds of trials.

    Args:
        seed: of the trial.
        population: trials of a generation.
        crossover: probability that two parents are crossed.
        swapping: probability with which a knob comes from the second of them.

    Source: K. Deb et al., IEEE Trans. Evol. Comput. 6, 182 (2002), doi:10.1109/4235.996017.
    """
    from optuna.samplers import NSGAIISampler

    return NSGAIISampler(
        seed=seed, population_size=population, crossover_prob=crossover, swapping_prob=swapping
    )


def _alone(seed: int) -> dict[str, Any]:
    """How knobs are drawn that a sampler cannot treat together with the others: at random, without a word."""
    return {"independent_sampler": random(seed), "warn_independent_sampling": False}


def quiet(make: Callable[[], Any]) -> Any:
    """Without the warnings that something is experimental, or goes with the next version of Optuna."""
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.simplefilter("ignore", FutureWarning)
        return make()
