"""Optuna's CMA-ES without pickles: the state of the optimiser is computed from the trials of the study.

Optuna keeps its optimiser as a pickle among the attributes of trials, and a pickle runs code of its author:
whoever can write to the folder or the data base of a search could run programs as everybody who resumes it.
Here a study holds numbers: the generation of each trial, and of which trials the optimiser was told.
"""

from collections.abc import Sequence
from typing import Any

import cmaes
import optuna
from optuna._transform import _SearchSpaceTransform
from optuna.distributions import BaseDistribution
from optuna.samplers import CmaEsSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

__all__ = ["RebuiltCmaEsSampler"]

GENERATION, TOLD = "cma:generation", "cma:told"
"""Attributes of a trial: the generation that it was drawn in, and the trials that this one comes from."""


class RebuiltCmaEsSampler(CmaEsSampler):
    """As `optuna.samplers.CmaEsSampler`; the state is rebuilt for each trial, some milliseconds of work."""

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Values of the knobs that are numbers, from the distribution that the trials so far lead to."""
        done = self._get_trials(study)
        if not search_space or len(done) < self._n_startup_trials:
            return {}
        space = _SearchSpaceTransform(search_space, transform_step=True, transform_0_1=True)
        optimizer: Any = self._init_optimizer(space, study.direction)
        known = [one for one in done if set(search_space) <= set(one.params)]
        _repeat_generations(optimizer, known, space, study.direction)
        ready = [one for one in known if one.system_attrs.get(GENERATION) == optimizer.generation]
        if len(ready) >= optimizer.population_size:
            told = ready[: optimizer.population_size]
            _tell(optimizer, told, space, study.direction)
            _set_attribute(study, trial, TOLD, [one.number for one in told])
        optimizer._rng.seed(self._cma_rng.rng.randint(1, 2**16) + trial.number)
        _set_attribute(study, trial, GENERATION, optimizer.generation)
        return space.untransform(optimizer.ask())


def _repeat_generations(
    optimizer: cmaes.CMA,
    done: Sequence[FrozenTrial],
    space: _SearchSpaceTransform,
    direction: StudyDirection,
) -> None:
    """Tell an optimiser what it was told before, generation by generation."""
    trials = {one.number: one for one in done}
    told = {one.system_attrs[GENERATION]: one.system_attrs[TOLD] for one in done if TOLD in one.system_attrs}
    while (numbers := told.get(optimizer.generation + 1)) is not None:
        found = [trials[number] for number in numbers if number in trials]
        if len(found) != optimizer.population_size:
            return
        _tell(optimizer, found, space, direction)


def _tell(
    optimizer: cmaes.CMA,
    trials: Sequence[FrozenTrial],
    space: _SearchSpaceTransform,
    direction: StudyDirection,
) -> None:
    sign = 1 if direction == StudyDirection.MINIMIZE else -1
    optimizer.tell([(space.transform(one.params), sign * float(one.value or 0.0)) for one in trials])


def _set_attribute(study: optuna.Study, trial: FrozenTrial, name: str, value: Any) -> None:
    study._storage.set_trial_system_attr(trial._trial_id, name, value)
