"""The report of a search: a table of its trials, how much each knob matters, the best one ready to run."""

import csv
import io
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from phaseloom import plot
from phaseloom.errors import BadInput
from phaseloom.files import write_text
from phaseloom.runs.parameter_paths import set_parameters
from phaseloom.search import figures
from phaseloom.search.recipe import Plan, load_engine
from phaseloom.search.space import Knob

__all__ = ["TrialRecord", "find_best_trial", "find_doubts", "list_trials", "write_report"]

MIN_TRIALS_FOR_IMPORTANCE = 10
"""Trials with a value, below which nothing is said of how much a knob matters."""

IMAGES_PER_ROW = 4
"""Images side by side."""

STATE_NAMES = {"COMPLETE": "done", "PRUNED": "given up", "FAIL": "failed"}


@dataclass(frozen=True)
class TrialRecord:
    """A trial that has come to its end.

    Attributes:
        part: ``trials`` or ``finals``.
        number: within the part.
        state: ``done``, ``given up`` or ``failed``.
        value: of the objective, lower is better; ``None`` of trials that were not done.
        params: values of its knobs, in the units that computations have.
        labels: the same as text, with units.
        reason: why it failed, or whose value it has.
        seconds: wall time.
        epochs: that were judged.
        wrong_objective: it failed because no run of this search has such an objective.
    """

    part: str
    number: int
    state: str
    value: float | None
    params: dict[str, Any]
    labels: dict[str, str]
    reason: str
    seconds: float
    epochs: int
    wrong_objective: bool = False

    def __str__(self) -> str:
        """One line of a log."""
        value = f"{self.value:.6g}" if self.value is not None else self.state
        knobs = ", ".join(f"{path} {label}" for path, label in self.labels.items())
        name = "trial" if self.part == "trials" else "final"
        return f"{name} {self.number}: {value}  {knobs}" + (f" ({self.reason})" if self.reason else "")


def list_trials(plan: Plan, part: str, /) -> list[TrialRecord]:
    """The trials of a part that have ended, in the order of their numbers."""
    return [_make_record(plan, part, one) for one in load_engine().list_past_trials(plan.open_study(part))]


def _make_record(plan: Plan, part: str, one: Any) -> TrialRecord:
    state = STATE_NAMES[one.state.name]
    params = dict(one.params)
    return TrialRecord(
        part,
        one.number,
        state,
        one.value if state == "done" else None,
        params,
        plan.space.format_params(params),
        one.user_attrs.get("reason", "the process that worked on it died" if state == "failed" else ""),
        seconds=one.duration.total_seconds() if one.duration else 0.0,
        epochs=max(one.intermediate_values, default=0),
        wrong_objective=one.user_attrs.get("wrong objective", False),
    )


def find_doubts(plan: Plan, /) -> list[str]:
    """Sentences on what speaks against the trials."""
    done = rank_trials(list_trials(plan, "trials"))
    different = {str(sorted(one.params.items())) for one in done}
    if len(different) > 1 and len({one.value for one in done}) == 1:
        fix = "the knobs change nothing here (does the run end too early, or does something else decide?)"
        return [f"all {len(done)} trials came to the same value, to the last digit: {fix}"]
    return []


def find_best_trial(plan: Plan, /) -> TrialRecord | None:
    """The best final, or where there is none the best trial; ``None`` before one is done."""
    return _find_best({part: list_trials(plan, part) for part in list_parts(plan)})


def _find_best(ended: dict[str, list[TrialRecord]]) -> TrialRecord | None:
    """The best of the last part that has one, of those in the order in which they are worked on."""
    return next((done[0] for part in reversed(ended) if (done := rank_trials(ended[part]))), None)


def rank_trials(trials: Sequence[TrialRecord], /) -> list[TrialRecord]:
    """Those with a value, the best first; of equals the first."""
    done = [one for one in trials if one.value is not None]
    return sorted(done, key=lambda one: (one.value, one.number))


def write_report(plan: Plan, /) -> list[Path]:
    """Write ``best.yaml``, ``trials.csv`` and ``report.png``; the files.

    Raises:
        BadInput: no trial came to a value.
    """
    ended = {part: list_trials(plan, part) for part in list_parts(plan)}
    all_ = [one for some in ended.values() for one in some]
    top = _find_best(ended)
    paths = [_write_table(plan, all_)]
    if top is None:
        why = next((one.reason for one in all_ if one.reason), "")
        what = f"all {len(all_)} trials" if all_ else "no trial"
        fix = f"came to nothing, the first because: {why}" if all_ else "has come to its end yet"
        raise BadInput("search", what, fix)
    study = plan.open_study(top.part)
    warm = study.trials[top.number].user_attrs.get("warm", {})
    recipe = set_parameters(plan.make_recipe(top.params, "finals"), warm)
    write_text(plan.folder / "best.yaml", recipe.to_text())
    figure = figures.report(_make_landscape(plan, ended))
    plot.save(figure, plan.folder / "report.png")
    return [plan.folder / "best.yaml", *paths, plan.folder / "report.png"]


def list_parts(plan: Plan, /) -> tuple[str, ...]:
    """The parts of a search: finals are there where trials are smaller than the run."""
    return ("trials", "finals") if plan.size else ("trials",)


def _write_table(plan: Plan, trials: Sequence[TrialRecord]) -> Path:
    """All trials, a line each."""
    knobs = plan.space.knobs
    text = io.StringIO(newline="")
    table = csv.writer(text)
    names = [plan.objective.name, *(knob.path for knob in knobs)]
    table.writerow(["part", "number", "state", *names, "seconds", "epochs", "reason"])
    for one in trials:
        values = [_format_exactly(knob, one.params) for knob in knobs]
        number = "" if one.value is None else repr(one.value)
        row = [one.part, one.number, one.state, number, *values, f"{one.seconds:.1f}", one.epochs]
        table.writerow([*row, one.reason])
    write_text(plan.folder / "trials.csv", text.getvalue())
    return plan.folder / "trials.csv"


def _format_exactly(knob: Knob, params: Mapping[str, Any]) -> Any:
    """The value of a knob as a file has it, a choice by its label; nothing where the knob was not there."""
    value = params.get(knob.path, "")
    return knob.to_file_value(value) if knob.path in params and knob.choices is None else value


def _make_landscape(plan: Plan, ended: dict[str, list[TrialRecord]]) -> figures.Landscape:
    """All that is drawn of a search, of which these trials have ended."""
    trials = ended["trials"]
    top = _find_best(ended)
    axes = {knob.path: _make_axis(knob, trials) for knob in plan.space.knobs}
    shown = [
        (f"{one.part[:-1]} {one.number}: {one.value:.4g}", *picture)
        for part in reversed(ended)
        for one in rank_trials(ended[part])
        if (picture := _load_picture(plan, one)) is not None
    ]
    return figures.Landscape(
        title=plan.search.title or plan.search.study,
        objective=plan.objective.name,
        numbers=np.array([one.number for one in trials]),
        values=np.array([math.nan if one.value is None else one.value for one in trials]),
        states=tuple(one.state for one in trials),
        axes=axes,
        importance=compute_importance(plan),
        pictures=tuple(shown[:IMAGES_PER_ROW]),
        best=next((place for place, one in enumerate(trials) if top and one.params == top.params), None),
    )


def _make_axis(knob: Knob, trials: Sequence[TrialRecord]) -> figures.KnobAxis:
    """Values of a knob over all trials; choices by their numbers."""
    labels = None if knob.choices is None else tuple(knob.choices)
    places = {label: number for number, label in enumerate(labels or ())}
    found = [one.params.get(knob.path) for one in trials]
    values = [math.nan if one is None else places.get(one, one) if labels else one for one in found]
    return figures.KnobAxis(np.array(values, float), knob.log, labels, knob.dimension)


def _load_picture(plan: Plan, one: TrialRecord) -> tuple[np.ndarray, float] | None:
    file = plan.folder / one.part / f"{one.number:04d}" / "picture.npz"
    if not file.is_file():
        return None
    with np.load(file) as stored:
        return stored["image"], float(stored["pixel"])


def compute_importance(plan: Plan, /) -> dict[str, float]:
    """Which share of the value's variance over the searched ranges each knob explains; empty of few trials.

    A forest is fitted to the trials that are done, so it knows no more than they do: of 16 trials shares
    wander by 0.2, of 60 by 0.15. Knobs that are there with some values of others only are left out.

    Source: F. Hutter et al., An efficient approach for assessing hyperparameter importance, ICML 2014.
    """
    import optuna

    study = plan.open_study("trials")
    if len(rank_trials(list_trials(plan, "trials"))) < MIN_TRIALS_FOR_IMPORTANCE:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        judge = optuna.importance.FanovaImportanceEvaluator(seed=plan.search.seed)
        try:
            shares = optuna.importance.get_param_importances(study, evaluator=judge)
        except (ValueError, RuntimeError):  # all values are the same
            return {}
    return {path: float(share) for path, share in shares.items()}
