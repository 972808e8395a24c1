"""A search changes what it says; its trials know nothing of one another; none is done twice."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phaseloom.data.formats import native
from phaseloom.errors import BadInput
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.restoration.pairs import underwater
from phaseloom.result import Result
from phaseloom.runs.parameter_paths import get_parameter
from phaseloom.search import report as found
from phaseloom.search import runner as searching
from phaseloom.search.recipe import Plan, Search
from phaseloom.search.runner import Searching, join_search
from phaseloom.search.trials import ReconstructionTrial, read
from phaseloom.simulation import simulate
from phaseloom.spec import load_yaml, to_yaml

pytest.importorskip("optuna")

DEFOCUS = {"probe.focused.defocus": ["40 A", "60 A", "80 A"]}


def begun(tree: dict[str, Any], over: dict[str, Any], folder: Path, **knobs: Any) -> Plan:
    base = Reconstruct.of({**tree, "epochs": knobs.get("epochs", 1)})
    return Plan.begin(base, Search.of({"over": over, **knobs}), folder)


def searched(
    tree: dict[str, Any], over: dict[str, Any], folder: Path, **knobs: Any
) -> list[found.TrialRecord]:
    return list(Searching(begun(tree, over, folder, **knobs)))


def values(trials: list[found.TrialRecord]) -> list[float | None]:
    return [one.value for one in trials]


SPARSE = {"penalties": [{"sparse": {"weight": 0.1}}]}
POSITIVE = {"object": {"pixels": {"kind": "amplitude and phase"}}, "projections": ["positive"]}
TWICE = {"pixels": {"slices": 2, "thickness": "4 A"}}

KNOBS: dict[str, tuple[dict[str, Any], str, list[Any]]] = {
    "a length": ({}, "probe.focused.defocus", ["30 A", "9 nm"]),
    "an angle": ({}, "probe.focused.semiangle", ["30 mrad", "40 mrad"]),
    "a pixel": (
        {"prepare": [{"calibrate": {"pixel": "0.2 A"}}]},
        "prepare.calibrate.pixel",
        ["0.2 A", "0.23 A"],
    ),
    "a whole number": ({}, "probe.focused.modes", [1, 2]),
    "slices": ({"object": TWICE}, "object.pixels.thickness", ["4 A", "20 A"]),
    "a value of its own": ({}, "epochs", [1, 2]),
    "a rate": ({}, "rates.object", [0.05, 0.3]),
    "a choice of calls": ({}, "optimizer", ["gauss_newton", {"adam": {"momentum": 0.8}}]),
    "in a list, by its name": (SPARSE, "penalties.sparse.weight", [0.1, 300]),
    "in a list, by its number": (SPARSE, "penalties.0.sparse.weight", [0.1, 300]),
    "when a call acts": (POSITIVE, "projections.positive.start", [1, 9]),
    "in a list of numbers": (
        {"object": TWICE, "propagator": {"exact": {"tilt": ["1 mrad", "0 mrad"]}}},
        "propagator.exact.tilt.0",
        ["0 mrad", "30 mrad"],
    ),
    "a whole list": ({}, "penalties", [[], [{"sparse": {"weight": 300}}]]),
}
"""Each kind of knob: what the run file needs besides, its path, and two values."""


@pytest.mark.parametrize("kind", KNOBS)
def test_a_search_over_a_knob_changes_what_is_run(tree, tmp_path, kind):
    more, path, choices = KNOBS[kind]
    trials = searched({**tree, **more}, {path: choices}, tmp_path / "s", sampler="grid", objective="loss")
    assert [one.state for one in trials] == ["done", "done"], [one.reason for one in trials]
    results = [Result.load(tmp_path / "s" / "trials" / f"{n:04d}" / "result.h5") for n in (0, 1)]
    first, second = ([event["loss"] for event in one.history] + [one.object.tobytes()] for one in results)
    assert first != second
    ran = [
        get_parameter(load_yaml(tmp_path / "s" / "trials" / f"{n:04d}" / "run.yaml"), path) for n in (0, 1)
    ]
    assert ran[0] != ran[1]


def test_a_trial_is_the_run_of_its_own_file_bit_for_bit(tree, tmp_path):
    over = {
        **DEFOCUS,
        "optimizer": ["gauss_newton", "adam"],
        "rates.object": {"low": 0.01, "high": 0.3, "log": True},
    }
    plan = begun(tree, over, tmp_path / "s", trials=3, epochs=2)
    trials = list(Searching(plan))
    for number in (2, 1):
        alone = Job.begin(plan.make_recipe(trials[number].params, "trials"))
        history = [epoch.loss for epoch in alone]
        result = Result.load(plan.folder / "trials" / f"{number:04d}" / "result.h5")
        assert history == [event["loss"] for event in result.history]
        assert np.array_equal(alone.result().object, result.object)


@pytest.mark.medium
def test_the_best_file_runs_to_the_same_value(tree, tmp_path, phaseloom, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(to_yaml({**tree, "epochs": 2}))
    (tmp_path / "over.yaml").write_text("over: {probe.focused.defocus: {low: 40 A, high: 9 nm}}\nseed: 3")
    ended = phaseloom("search", "run.yaml", "over.yaml", "--trials", 3, "--out", "s")
    assert ended.code == 0, ended.err
    assert "run it with: phaseloom reconstruct " in ended.out
    assert {"best.yaml", "trials.csv", "report.png"} <= {path.name for path in (tmp_path / "s").iterdir()}
    with open(tmp_path / "s" / "trials.csv") as file:
        best = min(float(row["hold-out loss"]) for row in csv.DictReader(file))
    assert phaseloom("reconstruct", "s/best.yaml", "--out", "again", "-q").code == 0
    assert Result.load(tmp_path / "again" / "result.h5").metrics["hold-out"] == best
    more = phaseloom("search", "--resume", "s", "--trials", 4, "-q")
    assert (more.code, "best: trial" in more.out) == (0, True), more.err


def test_two_who_work_on_one_study_do_no_trial_twice(tree, tmp_path):
    plan = begun(tree, DEFOCUS, tmp_path / "s", sampler="grid")
    first, second = iter(Searching(plan)), join_search(plan.folder)
    assert [next(first).number, next(second).number] == [0, 1]
    done = [*first]
    assert [one.number for one in done] == [1, 2], "who began tells of all that end"
    assert list(second) == []
    assert len({one.labels["probe.focused.defocus"] for one in found.list_trials(plan, "trials")}) == 3


def test_who_joins_draws_other_values_than_who_began(tree, tmp_path):
    over = {"probe.focused.defocus": {"low": "40 A", "high": "80 A"}}
    plan = begun(tree, over, tmp_path / "s", trials=2, sampler="random")
    drawn = [
        next(one).params["probe.focused.defocus"]
        for one in (join_search(plan.folder), join_search(plan.folder))
    ]
    assert drawn[0] != drawn[1]


def test_after_its_time_a_search_begins_no_trial(tree, tmp_path):
    plan = begun(tree, DEFOCUS, tmp_path / "s", sampler="grid", seconds=1e-6)
    assert list(Searching(plan)) == []
    assert len(list(Searching(Plan.at(plan.folder, seconds=100.0)))) == 3


def test_values_that_were_tried_are_not_run_again(tree, tmp_path):
    trials = searched(tree, {"rates.object": [0.1, 0.2]}, tmp_path / "s", trials=5, sampler="random", seed=1)
    runs = list((tmp_path / "s" / "trials").glob("*/run.yaml"))
    assert len({one.value for one in trials}) == len(runs) == 2
    assert sum(one.reason.startswith("the same as") for one in trials) == 3


def test_a_search_that_goes_on_draws_as_one_that_never_stopped(tree, tmp_path):
    over = {"rates.object": {"low": 0.01, "high": 0.3, "log": True}}
    whole = searched(tree, over, tmp_path / "a", trials=3, sampler={"tpe": {"n_startup_trials": 1}})
    some = searched(tree, over, tmp_path / "b", trials=2, sampler={"tpe": {"n_startup_trials": 1}})
    more = list(Searching(Plan.at(tmp_path / "b", trials=3)))
    assert [one.params for one in [*some, *more]] == [one.params for one in whole]
    assert values([*some, *more]) == values(whole)


def test_what_cannot_be_run_fails_with_its_sentence_and_the_search_goes_on(tree, tmp_path):
    over = {"object.pixels.slices": [1, 2]}
    trials = searched({**tree, "object": "pixels"}, over, tmp_path / "s", sampler="grid")
    bad = next(one for one in trials if one.labels["object.pixels.slices"] == "2")
    assert (bad.state, "thickness" in bad.reason) == ("failed", True)
    assert found.find_best_trial(Plan.at(tmp_path / "s")).labels == {"object.pixels.slices": "1"}


def test_where_all_fail_the_first_reason_is_told(tree, tmp_path):
    plan = begun(
        {**tree, "object": "pixels"}, {"object.pixels.slices": [2, 3]}, tmp_path / "s", sampler="grid"
    )
    search = Searching(plan)
    assert {one.state for one in search} == {"failed"}
    with pytest.raises(BadInput, match=r"all 2 trials came to nothing, the first because: .*thickness"):
        search.write_report()


def test_numbers_that_cease_to_be_finite_fail_the_trial(tree, tmp_path):
    over = {"rates.object": [0.02, 1e30]}
    trials = searched({**tree, "optimizer": "adam"}, over, tmp_path / "s", sampler="grid", objective="loss")
    bad = next(one for one in trials if one.params["rates.object"] == "1.0e+30")
    assert bad.state == "failed"
    assert "finite" in bad.reason or "became" in bad.reason


def test_a_trial_that_is_given_up_leaves_no_value(tree, tmp_path):
    pruner = {"threshold": {"upper": 1e-6}}
    plan = begun(tree, DEFOCUS, tmp_path / "s", trials=1, pruner=pruner, epochs=3)
    (one,) = Searching(plan)
    assert (one.state, one.value, one.epochs) == ("given up", None, 1)
    assert one.reason == "given up after epoch 1"


def test_no_trial_is_given_up_after_its_last_epoch(tree, tmp_path):
    pruner = {"threshold": {"upper": 1e-6}}
    (one,) = Searching(begun(tree, DEFOCUS, tmp_path / "s", trials=1, pruner=pruner, epochs=1))
    assert one.state == "done"
    assert one.value is not None


def test_the_best_small_trials_are_run_again_as_the_file_says(tree, tmp_path):
    plan = begun({**tree, "holdout": 0.1}, DEFOCUS, tmp_path / "s", sampler="grid", share=0.8, finals=1)
    trials = list(Searching(plan))
    assert [one.part for one in trials] == ["trials"] * 3 + ["finals"]
    patterns = [
        len(Result.load(plan.folder / part / "0000" / "result.h5").positions) for part in ("trials", "finals")
    ]
    assert patterns == [20, 25]
    assert trials[-1].params == found.rank_trials(trials[:3])[0].params
    assert found.find_best_trial(plan).part == "finals"


def test_a_warm_start_is_asked_for_and_then_begins_where_the_best_ended(tree, tmp_path):
    over = {"probe.focused.defocus": ["60 A", "61 A"]}
    cold = searched(tree, over, tmp_path / "a", sampler="grid", objective="loss")
    plan = begun(tree, over, tmp_path / "b", sampler="grid", objective="loss", warm=True)
    trials = list(Searching(plan))
    assert trials[0].value == cold[0].value
    assert trials[1].value < cold[1].value
    second = load_yaml(plan.folder / "trials" / "0001" / "run.yaml")["object"]
    assert second["from_file"]["path"].endswith("result.h5")


class Deaf(ReconstructionTrial):
    """A run that has a defocus of its own, whatever it is asked for."""

    def begin(self, recipe: Any, folder: Path | None, /) -> Job:
        return super().begin(recipe.with_settings({"probe.focused.defocus": "60 A"}), folder)


def test_a_knob_that_something_else_decides_on_fails_the_trial(tree, tmp_path):
    plan = begun(tree, DEFOCUS, tmp_path / "s", sampler="grid")
    plan.kind = Deaf
    trials = {one.labels["probe.focused.defocus"]: one for one in Searching(plan)}
    assert {shown: one.state for shown, one in trials.items()} == {
        "40 A": "failed",
        "60 A": "done",
        "80 A": "failed",
    }
    assert "8 nm was asked for, but the run has 6 nm: something in the run file" in trials["80 A"].reason


@pytest.mark.parametrize(
    ("objective", "low", "high"),
    [
        ("contrast", -1, 0),
        ({"metric": {"name": "Poisson deviance"}}, 0, 1e3),
        ({"metric": {"name": "loss", "largest": True}}, -1e3, 0),
    ],
)
def test_objectives_that_are_known_at_the_end(tree, tmp_path, objective, low, high):
    (one,) = searched(tree, DEFOCUS, tmp_path / "s", trials=1, objective=objective)
    assert one.value is not None, one.reason
    assert low < one.value < high


def test_the_resolution_of_halves_can_be_made_small(tree, tmp_path):
    positions = simulate.raster((6, 6), 0.9, jitter=0.05, seed=1)
    positions += 3.0 - positions.min(0)
    truth = simulate.atoms((60, 60), 0.2, peak=0.5, seed=2)
    optics = {"energy": 80e3, "semiangle": 0.04, "defocus": 60.0, "window": 24, "dose": 1e5}
    scan, _ = simulate.electron_scan(truth, 0.2, positions, **optics)
    native.write(scan, tmp_path / "scan.h5")
    wide = {**tree, "file": str(tmp_path / "scan.h5")}
    (one,) = searched(wide, DEFOCUS, tmp_path / "s", trials=1, objective="frc")
    assert one.value is not None, one.reason
    assert 0.4 <= one.value < 10


def test_only_the_best_keep_their_results(tree, tmp_path):
    searched(tree, DEFOCUS, tmp_path / "s", sampler="grid", keep=1)
    best = found.find_best_trial(Plan.at(tmp_path / "s"))
    assert [path.parent.name for path in (tmp_path / "s").glob("trials/*/result.h5")] == [
        f"{best.number:04d}"
    ]
    assert len(list((tmp_path / "s").glob("trials/*/events.jsonl"))) == 3
    assert not list((tmp_path / "s").glob("trials/*/snapshot.h5"))


def test_half_a_line_at_the_end_of_a_journal_is_dropped(tree, tmp_path):
    searched(tree, DEFOCUS, tmp_path / "s", trials=1)
    with open(tmp_path / "s" / "study.journal", "ab") as journal:
        journal.write(b'{"op_code":4,"work')
    plan = Plan.at(tmp_path / "s", trials=2)
    assert [one.number for one in Searching(plan)] == [1]
    assert len(found.list_trials(Plan.at(tmp_path / "s"), "trials")) == 2


def test_an_interrupted_trial_is_done_when_the_search_goes_on(tree, tmp_path, monkeypatch):
    plan = begun(tree, DEFOCUS, tmp_path / "s", sampler="grid", trials=1)
    run = searching._run_epochs

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(searching, "_run_epochs", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(Searching(plan))
    monkeypatch.setattr(searching, "_run_epochs", run)
    (again,) = Searching(Plan.at(tmp_path / "s"))
    assert again.state == "done"
    first = found.list_trials(plan, "trials")[0]
    assert (first.reason, first.params) == ("interrupted", again.params)


def test_a_folder_that_holds_a_search_is_gone_on_with_and_not_begun_again(tree, tmp_path, phaseloom):
    begun(tree, DEFOCUS, tmp_path / "s")
    with pytest.raises(BadInput, match="holds a run or a search"):
        begun(tree, DEFOCUS, tmp_path / "s")
    ended = phaseloom("search", tmp_path / "s", "--join", "--trials", 3)
    assert (ended.code, "is for a new search" in ended.err) == (2, True)
    ended = phaseloom("search", tmp_path, "--resume")
    assert (ended.code, "holds no search.yaml" in ended.err) == (2, True)
    ended = phaseloom("search", tmp_path / "s" / "search.yaml", tmp_path / "s" / "base.yaml")
    assert (ended.code, "give the run file first" in ended.err) == (2, True)


def test_a_search_that_was_moved_with_its_data_goes_on(tree, tmp_path):
    here = tmp_path / "here"
    here.mkdir()
    shutil.copy(tree["file"], here / "scan.h5")
    searched({**tree, "file": str(here / "scan.h5")}, DEFOCUS, here / "s", trials=1)
    here.rename(tmp_path / "there")
    plan = Plan.at(tmp_path / "there" / "s", trials=2)
    assert plan.base.file == tmp_path / "there" / "scan.h5"
    assert [(one.number, one.state) for one in Searching(plan)] == [(1, "done")]


def test_a_search_that_was_moved_without_its_data_goes_on(tree, tmp_path):
    searched(tree, DEFOCUS, tmp_path / "s", trials=1)
    (tmp_path / "s").rename(tmp_path / "t")
    assert [one.state for one in Searching(Plan.at(tmp_path / "t", trials=2))] == ["done"]


WORKER = """
import sys, time, torch
torch.set_num_threads(1)
from phaseloom.search import runner as searching
run = searching._run_epochs
def slow(plan, one, trial):
    run(plan, one, trial)
    print("under way", trial.number, flush=True)
    if sys.argv[2] == "hang":
        time.sleep(60)
searching._run_epochs = slow
for one in searching.join_search(sys.argv[1]):
    print("done", one.number, flush=True)
"""


def worker(folder: Path, how: str) -> subprocess.Popen[str]:
    line = [sys.executable, "-c", WORKER, str(folder), how]
    return subprocess.Popen(
        line, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a signal that cannot be caught")
def test_the_trial_of_one_who_was_killed_is_done_again_under_its_number(tree, tmp_path):
    plan = begun(tree, DEFOCUS, tmp_path / "s", sampler="grid", silence=2)
    next(iter(Searching(plan)))
    with worker(plan.folder, "hang") as process:
        assert process.stdout.readline().split() == ["under", "way", "1"]
        process.send_signal(signal.SIGKILL)
    time.sleep(0.1)
    list(Searching(Plan.at(plan.folder)))
    trials = found.list_trials(plan, "trials")
    assert [one.state for one in trials] == ["done", "done", "done"]
    assert len({one.labels["probe.focused.defocus"] for one in trials if one.value is not None}) == 3


@pytest.mark.slow
def test_a_search_that_is_refused_leaves_nothing_and_a_study_of_others_is_known(tree, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    url = {"storage": "sqlite:///study.db", "study": "one", "objective": "loss"}
    first = begun(tree, {"epochs": [1, 2]}, tmp_path / "a", **url)
    assert first.search.storage == f"sqlite:///{tmp_path / 'study.db'}"
    with pytest.raises(BadInput, match="is a study that is there already"):
        begun(tree, DEFOCUS, tmp_path / "b", **url)
    assert not (tmp_path / "b" / "search.yaml").exists()
    other = begun(tree, DEFOCUS, tmp_path / "c", **{**url, "study": "two"})
    text = (other.folder / "search.yaml").read_text()
    (other.folder / "search.yaml").write_text(text.replace("study: two", "study: one"))
    with pytest.raises(BadInput, match="storage: one holds no search of this run file"):
        Plan.at(other.folder)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert not Plan.at(first.folder).size
    assert not [*(tmp_path / "elsewhere").iterdir()]


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_search_that_cannot_come_to_anything_ends(tree, tmp_path, workers):
    asked = {"metric": {"name": "amplitude eror"}}
    over = {"probe.focused.defocus": {"low": "40 A", "high": "90 A"}}
    wrong = begun(tree, over, tmp_path / "a", objective=asked, pruner="none", trials=9, workers=workers)
    ended = list[found.TrialRecord]()
    with pytest.raises(BadInput, match="did you mean 'amplitude error'"):
        ended += Searching(wrong)
    assert len(found.list_trials(wrong, "trials")) <= workers
    if workers == 1:
        lost = begun({**tree, "rates": {"thickness": 0.1}}, over, tmp_path / "b", trials=9)
        with pytest.raises(BadInput, match=r"search: 3 trials failed, because: rates\.thickness"):
            list(Searching(lost))


def test_knobs_that_change_nothing_are_doubted(tree, tmp_path):
    plan = begun(tree, {"patience": [3, 40]}, tmp_path / "s", sampler="grid", objective="loss")
    list(Searching(plan))
    assert "all 2 trials came to the same value" in found.find_doubts(plan)[0]
    with pytest.raises(BadInput, match="epochs: 9 is more than the 1 of the run file"):
        Plan.begin(plan.base, plan.search.model_copy(update={"epochs": 9}), tmp_path / "t")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mssql+nodriver://u@there/x", "there/x"),
        ("mysql+mysqldb://u@there/x", "there/x needs the module MySQLdb: install the driver"),
        ("nothing", "nothing cannot be opened"),
    ],
)
def test_a_data_base_that_cannot_be_opened_is_said(tree, tmp_path, url, said):
    with pytest.raises(BadInput, match=f"storage: {said}"):
        begun(tree, {"epochs": [1, 2]}, tmp_path / "s", storage=url)


@pytest.mark.medium
@pytest.mark.parametrize("storage", [None, "sqlite"])
def test_several_processes_share_a_study(tree, tmp_path, storage):
    url = storage and f"sqlite:///{tmp_path / 'study.db'}"
    over = {"rates.object": {"low": 0.05, "high": 0.3, "step": 0.05}}
    plan = begun(tree, over, tmp_path / "s", sampler="grid", workers=2, storage=url)
    seen = [one.number for one in Searching(plan)]
    trials = found.list_trials(plan, "trials")
    assert sorted(seen) == [one.number for one in trials] == [*range(6)]
    assert {one.state for one in trials} == {"done"}
    assert len({one.params["rates.object"] for one in trials}) == 6
    assert (plan.folder / "study.journal").exists() == (url is None)


TRAIN = {
    "microscope": {"fixed": {"scan": [14, 14]}},
    "model": {"tiny": {"components": 16, "width": 8, "depth": 1}},
    "scans": 2,
    "unseen": 1,
    "views": 4,
    "epochs": 1,
    "device": "cpu",
}


@pytest.mark.slow
def test_training_files_are_searched_by_the_same_command(files, tmp_path, phaseloom, monkeypatch):
    monkeypatch.chdir(tmp_path)
    encode = {"file": str(files.native), "block": 2, "epochs": 1, "batch": 8}
    encode["model"] = {"recommended": {"latent_dim": 2}}
    underwater.save_pairs(tmp_path / "pairs", size=32, train=8, test=2)
    mend = {
        "data": ["pairs"],
        "crops": 32,
        "epochs": 1,
        "batch": 4,
        "validation": 0.3,
        "losses": ["charbonnier"],
    }
    psnr = {"metric": {"name": "scores.low.network.psnr", "largest": True}}
    cases = {
        "train restorer": (mend, {"rate": [1e-4, 1e-2]}, psnr),
        "train patches": (TRAIN, {"rate": {"low": 1e-4, "high": 1e-2, "log": True}}, "holdout"),
        "train autoencoder": (encode, {"model.recommended.latent_dim": [2, 3]}, "loss"),
    }
    for number, (verb, (run, over, objective)) in enumerate(cases.items()):
        Path("run.yaml").write_text(to_yaml(run))
        sampler = "qmc" if verb == "train patches" else "grid"
        how = {"over": over, "trials": 2, "sampler": sampler, "objective": objective}
        Path("over.yaml").write_text(to_yaml(how))
        ended = phaseloom("search", "run.yaml", "over.yaml", "--out", f"s{number}")
        assert ended.code == 0, ended.err
        assert f"run it with: phaseloom {verb} " in ended.out
        assert read(Path(f"s{number}/best.yaml"))[1].epochs == 1
        trials = found.list_trials(Plan.at(f"s{number}"), "trials")
        assert len({one.value for one in trials if one.state == "done"}) == 2, [one.reason for one in trials]
