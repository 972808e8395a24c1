"""Rooms of a search: what can be searched, how it is drawn, when a trial is given up, what is shown."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from phaseloom.errors import BadInput
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.retrieval.recipe import Train
from phaseloom.runs.parameter_paths import set_parameters
from phaseloom.search import objectives, pruners, samplers
from phaseloom.search.figures import KnobAxis, Landscape, report
from phaseloom.search.recipe import Plan, Search
from phaseloom.search.space import Distribution, Space
from phaseloom.search.trials import read
from phaseloom.spec import call, names, to_yaml

optuna = pytest.importorskip("optuna")

BASE = {
    "file": "scan.h5",
    "probe": {"focused": {"semiangle": "20 mrad"}},
    "object": "pixels",
    "start": "none",
    "optimizer": "adam",
    "penalties": [{"sparse": {"weight": 0.1}}, {"sparse": {"weight": 0.2}}],
}


def space(over: dict[str, Any], base: dict[str, Any] | None = None) -> Space:
    recipe = Reconstruct.of({**BASE, **(base or {})})
    return Space.of(recipe, Search.of({"over": over}).over)


REFUSED = {
    "a section that is none": ({"probbe.focused.defocus": [0]}, "did you mean 'probe'"),
    "a choice that is none": ({"probe.focussed.defocus": [0]}, "did you mean 'focused'"),
    "a knob that is none": ({"probe.focused.defokus": ["9 nm"]}, "did you mean 'defocus'"),
    "a part that is none": ({"rates.objekt": [0.1]}, "did you mean 'object'"),
    "a choice that the file has not": (
        {"probe.from_patterns.modes": [1, 2]},
        "has focused: write from_patterns there",
    ),
    "what is deeper than a value": ({"epochs.most": [1]}, "leads nowhere"),
    "one of two of a name": ({"penalties.sparse.weight": [0, 1]}, "is there 2 times: give its number"),
    "one that is not in the list": (
        {"penalties.tv.weight": [0, 1]},
        "tv is not there: it has sparse, sparse",
    ),
    "a bare number for a length": ({"probe.focused.defocus": {"low": 5, "high": 9}}, "is not a length"),
    "ends of two kinds": ({"probe.focused.defocus": {"low": "5 A", "high": "9 mrad"}}, "is not a length"),
    "a choice without its unit": ({"probe.focused.defocus": [5, "9 nm"]}, "cannot be 5: .* is not a length"),
    "an end that the file refuses": ({"holdout": {"low": 0.1, "high": 0.95}}, "cannot be 0.95: holdout"),
    "ends the wrong way round": ({"holdout": {"low": 0.5, "high": 0.1}}, "low above high"),
    "a logarithm of zero": ({"holdout": {"low": 0, "high": 0.1, "log": True}}, "needs a low above zero"),
    "half an epoch": ({"epochs": {"low": 1.5, "high": 3}}, "is a whole number"),
    "a range of words": ({"shape": {"low": 1, "high": 3}}, "is not a number"),
    "a step that is too long": ({"epochs": {"low": 1, "high": 3, "step": 4}}, "does not fit"),
    "one end": ({"epochs": {"low": 1}}, "needs .choices, ...., or .low: ..., high: ..."),
    "no choice": ({"epochs": []}, "holds no choice"),
    "a choice twice": ({"epochs": [1, 1]}, "stands twice"),
    "nothing": ({}, "names no knob"),
    "a condition on what is not searched": (
        {"epochs": {"choices": [1, 2], "when": {"holdout": 0.1}}},
        "is not searched itself",
    ),
    "a condition on what is no choice": (
        {"epochs": {"choices": [1, 2], "when": {"shape": "flat"}}, "shape": ["cosine", "constant"]},
        "flat is not a choice of shape: cosine, constant",
    ),
    "conditions in a circle": (
        {
            "epochs": {"choices": [1], "when": {"patience": 2}},
            "patience": {"choices": [2], "when": {"epochs": 1}},
        },
        "goes round in a circle",
    ),
    "a misspelt word": (
        {"epochs": {"lo": 1, "high": 3}},
        "^over.epochs: there is no .lo.; did you mean .low.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_searched_is_refused_before_any_trial(case):
    over, said = REFUSED[case]
    with pytest.raises(BadInput, match=said):
        space(over)


def test_a_choice_that_the_file_lacks_is_named_with_what_it_needs():
    with pytest.raises(BadInput, match="has auto: write focused with semiangle there"):
        space({"probe.focused.modes": [1, 2]}, {"probe": "auto"})


def plan(over: dict[str, Any], base: dict[str, Any] | None = None, **knobs: Any) -> Plan:
    recipe = Reconstruct.of({**BASE, **(base or {})})
    return Plan(None, Search.of({"over": over, **knobs}), recipe)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("case", "said"),
    [
        (({"noise": ["poisson", "amplitude"]},), "changes what hold-out loss means"),
        (({"probe.focused.defocus": ["1 nm"]}, {"start": "sweep"}), "write start: none"),
        (({"seed": [1, 2]},), "nothing to be searched"),
    ],
)
def test_a_search_that_would_mean_nothing_is_refused(case, said):
    with pytest.raises(BadInput, match=said):
        plan(*case)


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"objective": "frc", "pruner": "median"}, "is known at the end only; write pruner: none"),
        ({"warm": True, "objective": "frc"}, "begin alike"),
        ({"warm": True}, "has learned from all patterns"),
        ({"epochs": 5}, "is searched: leave one of the two out"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(knobs, said):
    with pytest.raises(BadInput, match=said):
        plan({"epochs": [10, 20]}, **knobs)


def test_the_objective_is_what_was_held_out_where_something_is():
    assert plan({"epochs": [1, 2]}).search.objective.name == "holdout"
    assert plan({"epochs": [1, 2]}, {"holdout": 0}).search.objective.name == "loss"


def test_a_number_is_written_as_the_very_same_with_its_unit():
    one = space({"probe.focused.defocus": {"low": "-5 A", "high": "1 um"}})
    recipe = one.apply(Reconstruct.of(BASE), {"probe.focused.defocus": 1234.5678901234567})
    assert recipe.probe.values["defocus"] == 1234.5678901234567
    assert one.format_params({"probe.focused.defocus": 1234.5678901234567}) == {
        "probe.focused.defocus": "123.5 nm"
    }


def test_a_knob_of_a_choice_is_there_only_with_that_choice():
    over = {"optimizer": ["adam", "gauss_newton"], "optimizer.adam.momentum": {"low": 0.5, "high": 0.9}}
    one = space(over)
    drawn = [
        one.suggest(optuna.trial.FixedTrial({"optimizer": name, "optimizer.adam.momentum": 0.6}))
        for name in over["optimizer"]
    ]
    assert drawn == [{"optimizer": "adam", "optimizer.adam.momentum": 0.6}, {"optimizer": "gauss_newton"}]
    assert one.apply(Reconstruct.of(BASE), drawn[1]).optimizer.name == "gauss_newton"


def test_a_grid_obeys_conditions():
    thick = {"low": "2 A", "high": "4 A", "step": "1 A", "when": {"object.pixels.slices": [2, 3]}}
    one = space({"object.pixels.thickness": thick, "object.pixels.slices": [1, 2, 3]})
    points = list(one.list_combinations())
    assert len(points) == 1 + 2 * 3
    assert {"object.pixels.slices": "1"} in points
    assert {"object.pixels.slices": "3", "object.pixels.thickness": 4.0} in points
    with pytest.raises(BadInput, match="needs a step"):
        list(space({"holdout": {"low": 0.1, "high": 0.2}}).list_combinations())


def test_numbers_that_yaml_takes_for_text_are_numbers():
    one = space({"rates.object": {"low": "1e-3", "high": "1e-1", "log": True}})
    assert one.knobs[0].ends == (1e-3, 1e-1)


def test_a_search_file_reads_back_as_it_was_written():
    over = {
        "optimizer": ["adam", {"lbfgs": {}}],
        "epochs": {"low": 2, "high": 8, "step": 2, "when": {"optimizer": "adam"}},
    }
    one = Search.of({"over": over, "sampler": {"tpe": {"startup": 3}}})
    assert Search.of(yaml.safe_load(to_yaml(one.to_full_tree()))).to_full_tree() == one.to_full_tree()


KINDS = {"file: a.h5": "Reconstruct", "{file: a.h5, block: 4}": "Autoencode", "data: [pairs]": "Restore"}
KINDS |= {
    "model: small": "Train",
    "{file: a.h5, model: pca}": "Autoencode",
    "{data: [a], model: narrow}": "Restore",
}


@pytest.mark.parametrize("text", KINDS)
def test_what_a_file_is_of_is_found_from_its_keys(tmp_path, text):
    (tmp_path / "run.yaml").write_text(text)
    assert type(read(tmp_path / "run.yaml")[1]).__name__ == KINDS[text]


def test_a_file_of_no_protocol_is_refused(tmp_path):
    (tmp_path / "run.yaml").write_text("{file: a.h5, epoch: 3}")
    with pytest.raises(BadInput, match="did you mean 'epochs'"):
        read(tmp_path / "run.yaml")
    (tmp_path / "run.yaml").write_text("{stage: stitching}")
    assert isinstance(read(tmp_path / "run.yaml")[1], Train)


def bowl(trial: Any) -> float:
    kind = trial.suggest_categorical("kind", ["a", "b"])
    return (trial.suggest_float("x", -1, 1) - 0.3) ** 2 + trial.suggest_int("n", 1, 5) * 0.01 + (kind == "a")


def drawn(name: str, seed: int, count: int = 16, knobs: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    sampler = call("phaseloom.search.samplers", {name: knobs or {}}, "sampler")
    study = optuna.create_study()
    for number in range(count):
        study.sampler = sampler(1000 * seed + number, seed)
        study.optimize(bowl, n_trials=1)
    return [trial.params for trial in study.trials]


@pytest.fixture(autouse=True)
def _silent():
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    yield
    optuna.logging.set_verbosity(before)


@pytest.mark.parametrize("name", [name for name in names("phaseloom.search.samplers") if name != "gp"])
def test_a_sampler_draws_by_its_seed_alone(name):
    assert drawn(name, 1) == drawn(name, 1)
    assert drawn(name, 1) != drawn(name, 2)
    assert len({one["x"] for one in drawn(name, 1)}) == 16


def test_a_gaussian_process_finds_the_bottom():
    found = drawn("gp", 1, 12, {"n_startup_trials": 5})
    assert min(abs(one["x"] - 0.3) for one in found) < 0.05


def test_a_width_of_cmaes_is_taken_without_a_warning():
    call("phaseloom.search.samplers", {"cmaes": {"sigma0": 0.2}}, "sampler")(0, 0)


def test_points_that_fill_a_space_are_one_sequence():
    x = np.sort([one["x"] for one in drawn("qmc", 3, 17)[1:]])
    assert np.histogram(x, 8, (-1, 1))[0].tolist() == [2] * 8


def given_up(pruner: Any, good: int = 8, epochs: int = 9) -> int | None:
    """The epoch after which a bad trial is given up that follows good ones."""
    study = optuna.create_study(pruner=pruner, sampler=optuna.samplers.RandomSampler(0))
    ended: list[int] = []

    def one(trial: Any) -> float:
        for epoch in range(1, epochs + 1):
            trial.report(1.0 / epoch if trial.number < good else 5.0 + epoch, epoch)
            if trial.should_prune():
                ended.append(epoch)
                raise optuna.TrialPruned
        return 1.0 / epochs

    study.optimize(one, n_trials=good + 1)
    return ended[-1] if ended else None


KNOWN = {"median": 3, "percentile": 3, "hyperband": None, "halving": 2, "patient": 5, "none": None}


@pytest.mark.parametrize("name", KNOWN)
def test_a_pruner_gives_up_what_is_bad(name):
    epoch = given_up(call("phaseloom.search.pruners", name, "pruner")(9))
    assert epoch == KNOWN[name] or (name == "hyperband" and epoch is not None)


def test_a_threshold_gives_up_what_leaves_its_band():
    assert given_up(pruners.threshold(9, upper=6.5)) == 2
    with pytest.raises(BadInput, match="needs an upper end"):
        pruners.threshold(9)


OLD = [
    ("samplers", "tpe", {"startup": 3, "joint": False}, {"n_startup_trials": 3, "multivariate": False}),
    ("samplers", "gp", {"exact": False}, {"deterministic_objective": False}),
    ("samplers", "cmaes", {"width": 0.2, "population": 5}, {"sigma0": 0.2, "popsize": 5}),
    ("samplers", "qmc", {"kind": "halton"}, {"qmc_type": "halton"}),
    ("samplers", "nsga", {"population": 6, "swapping": 0.2}, {"population_size": 6, "swapping_prob": 0.2}),
    ("pruners", "median", {"startup": 2, "every": 2}, {"n_startup_trials": 2, "interval_steps": 2}),
    ("pruners", "percentile", {"percent": 10, "warmup": 1}, {"percentile": 10, "n_warmup_steps": 1}),
    ("pruners", "hyperband", {"least": 1, "factor": 2}, {"min_resource": 1, "reduction_factor": 2}),
    ("pruners", "halving", {"least": 1, "factor": 2}, {"min_resource": 1, "reduction_factor": 2}),
    ("pruners", "patient", {"least": 0.1, "inside": "none"}, {"min_delta": 0.1, "wrapped_pruner": "none"}),
    ("pruners", "threshold", {"upper": 2, "warmup": 1}, {"upper": 2, "n_warmup_steps": 1}),
]


@pytest.mark.parametrize(("room", "name", "old", "new"), OLD)
def test_arguments_of_an_earlier_version_mean_the_same(room, name, old, new):
    room = f"phaseloom.search.{room}"
    assert call(room, {name: old}, name) == call(room, {name: new}, name)


def test_a_searched_knob_may_have_a_name_of_an_earlier_version():
    run = Reconstruct.of({"file": "a.h5", "optimizer": "adam"})
    space = Space.of(run, {"optimizer.adam.memory": Distribution(low=0.5, high=0.9)})
    assert space.apply(run, {"optimizer.adam.memory": 0.6}).optimizer.values == {"betas": (0.9, 0.6)}
    assert space.apply(run, {"optimizer.adam.memory": 0.6}) == set_parameters(
        run, {"optimizer.adam.betas.1": 0.6}
    )


def test_every_sampler_and_pruner_of_the_rooms_is_tested():
    assert {*samplers.__all__} == {"cmaes", "gp", "grid", "nsga", "qmc", "random", "tpe"}
    assert {*pruners.__all__} == {*KNOWN, "threshold"}
    assert {*names("phaseloom.search.objectives")} == {*objectives.__all__} - {"Objective"}


def test_a_report_of_failures_and_of_choices_is_drawn():
    values = np.array([1.0, math.nan, 2.0, math.nan])
    axes = {
        "a": KnobAxis(np.array([1e-3, 1e-2, 0.1, math.nan]), log=True),
        "b": KnobAxis(np.array([0.0, 1, 1, 0]), labels=("one", "a label that is far too long")),
    }
    states = ("done", "failed", "done", "given up")
    picture = ("trial 0", np.arange(12.0).reshape(3, 4), 0.5)
    land = Landscape("title", "loss", np.arange(4), values, states, axes, {"b": 0.7, "a": 0.3}, (picture,))
    titles = [one.get_title() for one in report(land).axes]
    assert {"Course of the search", "What matters", "a", "b", "trial 0"} <= {*titles}


def test_conditions_of_a_searched_knob_are_obeyed_from_low_to_high():
    knob = Distribution(choices=(1, 2), when={"optimizer": "adam"})
    recipe = Reconstruct.of(BASE)
    one = Space.of(recipe, {"epochs": knob, "optimizer": Distribution(choices=("adam", "gauss_newton"))})
    assert [knob.path for knob in one.knobs] == ["optimizer", "epochs"]
    assert not one.knobs[1].is_active({"optimizer": "gauss_newton"})


def test_the_files_that_the_page_shows_are_understood():
    text = (Path(__file__).parents[2] / "docs" / "hyperparameters.md").read_text()
    run, over = (text.split(f"# {name}.yaml\n")[1].split("```")[0] for name in ("run", "search"))
    one = plan(yaml.safe_load(over)["over"], yaml.safe_load(run))
    assert len(one.space.knobs) == 4
    assert Search.of(yaml.safe_load(over)).workers == 2
