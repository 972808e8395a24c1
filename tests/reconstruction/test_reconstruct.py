"""From a file to a result, and back: repeated, resumed and interrupted runs agree to the last bit."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import yaml

from phaseloom.data import prepare
from phaseloom.data.formats import native
from phaseloom.errors import BadInput
from phaseloom.fitting.outcome import StopReason, Verdict
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.result import Result, is_result
from phaseloom.spec import Call, call, knobs, names, to_yaml

ARRAYS = ("object", "probe", "positions", "positions_start", "coverage", "weights")


def run(recipe: Reconstruct, directory: Path | None = None) -> Job:
    job = Job.begin(recipe, directory)
    for _ in job:
        pass
    return job


def timeless(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in event.items() if name != "seconds"} for event in history]


def assert_same(a: Job, b: Job) -> None:
    """Equal in every bit, but for the wall time."""
    one, two = a.result(), b.result()
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name), err_msg=name)
    assert timeless(one.history) == timeless(two.history)
    for (name, x), (_, y) in zip(a.model.state_dict().items(), b.model.state_dict().items(), strict=True):
        assert torch.equal(x, y), name


def test_the_loss_falls(finished):
    losses = [event["loss"] for event in finished.progress.history]
    assert losses[-1] < 0.6 * losses[0]
    assert finished.progress.stopped.startswith("all 4 epochs done")


def test_a_saved_result_is_read_back_whole(finished):
    made, read = finished.result(), Result.load(finished.directory / "result.h5")
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(read, name), getattr(made, name), err_msg=name)
    for name in ("history", "recipe", "geometry", "pixel", "origin", "thickness", "stopped", "title"):
        assert getattr(read, name) == getattr(made, name), name
    assert dict(read.metrics) == dict(made.metrics)
    assert replace(read.provenance, finished="") == replace(made.provenance, finished="")
    assert sorted(read.examples) == sorted(made.examples)
    np.testing.assert_array_equal(read.phase, made.phase)


def test_a_result_repeats_its_run(finished):
    again = Reconstruct.from_path(finished.directory / "result.h5")
    assert_same(finished, run(again))


@pytest.mark.medium
def test_a_parameter_file_with_a_start_that_was_found_repeats_the_run(files, tree, tmp_path):
    loose = {**tree, "probe": {"focused": {"semiangle": "40 mrad", "modes": 1}}, "start": "sweep"}
    first = run(Reconstruct.of(loose), tmp_path / "a")
    assert first.start is not None
    again = run(Reconstruct.from_path(tmp_path / "a" / "run.yaml"))
    assert again.recipe.probe.values["defocus"] == first.start.defocus
    assert_same(first, again)


def test_the_same_data_in_two_formats_give_the_same_image(files, tree):
    one, two = (run(Reconstruct.of(tree | {"file": str(f), "epochs": 2})) for f in (files.native, files.cxi))
    np.testing.assert_allclose(one.result().object, two.result().object, atol=2e-3)


def test_the_usual_noise_is_that_of_the_beam(files, tree):
    assert Job.begin(Reconstruct.of(tree)).recipe.noise.name == "poisson"
    near = Reconstruct.of({"file": str(files.near), "start": "none"})
    assert Job.begin(near).recipe.noise.name == "amplitude"
    assert Job.begin(near.with_settings({"noise": "poisson"})).recipe.noise.name == "poisson"


def test_a_near_field_scan_runs(files):
    job = run(Reconstruct.of({"file": str(files.near), "epochs": 2, "rates": {"background": 0.02}}))
    result = job.result()
    assert result.geometry.near
    assert result.background is not None
    assert np.isfinite(result.object).all()


@pytest.mark.parametrize("optimizer", ["gauss_newton", "adam", "sgd", {"lbfgs": {"max_iter": 2}}], ids=str)
@pytest.mark.parametrize("stop", [1, 3])
def test_resume_equals_a_straight_run(tree, tmp_path, optimizer, stop):
    late = {"object": 0.01, "probe": {"rate": 0.01, "start": 2}}
    made = Reconstruct.of(
        tree
        | {"optimizer": optimizer, "epochs": 5, "projections": [{"orthogonal": {}, "every": 2}]}
        | {"rates": {"object": 0.01} if isinstance(optimizer, dict) else late}
    )
    straight = run(made, tmp_path / "straight")
    broken = Job.begin(made, tmp_path / "broken")
    for epoch in broken:
        if epoch.number == stop:
            break
    resumed = Job.resume(tmp_path / "broken")
    assert resumed.progress.epoch == stop
    for _ in resumed:
        pass
    assert_same(straight, resumed)
    told = [json.loads(line) for line in (tmp_path / "broken/events.jsonl").read_text().splitlines()]
    assert timeless(told) == timeless(straight.progress.history)


def test_a_finished_run_resumes_to_itself(tree, tmp_path):
    first = run(Reconstruct.of(tree), tmp_path / "a")
    again = Job.resume(tmp_path / "a")
    assert [epoch for epoch in again] == []
    assert_same(first, again)


def test_a_finished_run_still_says_why_it_ended_when_resumed(tree, tmp_path):
    first = run(Reconstruct.of(tree), tmp_path / "a")
    again = Job.resume(tmp_path / "a")
    for _ in again:
        pass
    assert again.result().stopped == first.result().stopped


def test_a_run_folder_holds_what_viewers_need(finished):
    found = {path.name for path in finished.directory.iterdir()}
    assert found == {"run.yaml", "events.jsonl", "snapshot.h5", "result.h5"}
    events = [json.loads(line) for line in (finished.directory / "events.jsonl").read_text().splitlines()]
    assert [event["number"] for event in events] == [1, 2, 3, 4]
    assert events == finished.progress.history


def test_a_run_folder_holds_the_codes(tree, tmp_path):
    job = Job.begin(Reconstruct.of(tree), tmp_path / "run")
    for _ in job:
        pass
    lines = (tmp_path / "run" / "events.jsonl").read_text().splitlines()
    *before, last = [json.loads(line) for line in lines]
    assert all("stop_reason" not in event for event in before)
    assert StopReason(last["stop_reason"]) is StopReason.ALL_EPOCHS
    assert last["stopped"] == job.progress.stopped
    result = Result.load(tmp_path / "run" / "result.h5")
    assert StopReason(result.stop_reason) is StopReason.ALL_EPOCHS
    assert Verdict(last["verdict"]) is Verdict(result.verdict_code) is Verdict.STILL_FALLING
    with h5py.File(tmp_path / "run" / "result.h5", "r+") as file:
        for name in ("stop_reason", "verdict_code"):
            del file.attrs[name]
    old = Result.load(tmp_path / "run" / "result.h5")
    assert (old.stop_reason, old.verdict_code) == ("", "")
    assert old.stopped == result.stopped


def test_half_a_line_of_events_is_repaired(tree, tmp_path):
    job = Job.begin(Reconstruct.of(tree), tmp_path / "a")
    next(iter(job))
    with (tmp_path / "a/events.jsonl").open("a") as file:
        file.write('{"number": 2, "lo')
    for _ in Job.resume(tmp_path / "a"):
        pass
    lines = (tmp_path / "a/events.jsonl").read_text().splitlines()
    assert [json.loads(line)["number"] for line in lines] == [1, 2, 3, 4]


def test_changed_data_are_refused(files, tree, tmp_path):
    native.write(files.scan, tmp_path / "scan.h5")
    next(iter(Job.begin(Reconstruct.of(tree | {"file": str(tmp_path / "scan.h5")}), tmp_path / "a")))
    with h5py.File(tmp_path / "scan.h5", "a") as file:
        file["positions"][3, 1] += 0.1
    with pytest.raises(BadInput, match="has changed since the run began"):
        Job.resume(tmp_path / "a")


class Broken:
    """An objective that works for some calls and then does something else."""

    def __init__(self, good: Any, calls: int, then: Any):
        self.good, self.left, self.then = good, calls, then

    def __getattr__(self, name: str) -> Any:
        return getattr(self.good, name)

    def __call__(self, batch: Any) -> Any:
        self.left -= 1
        return self.good(batch) if self.left >= 0 else self.then(self.good(batch))


def interrupt(terms: Any) -> Any:
    raise KeyboardInterrupt


def spoil(terms: Any) -> Any:
    return {name: value * float("nan") for name, value in terms.items()}


@pytest.mark.parametrize(
    ("then", "said"), [(interrupt, "interrupted in epoch 3"), (spoil, "became nan in epoch 3")]
)
def test_a_run_cut_short_leaves_the_last_good_epoch(tree, tmp_path, then, said):
    tree = tree | {"holdout": 0, "shape": "constant", "rates": {"affine": 0}}
    tree |= {"optimizer": {"gauss_newton": {"early_floor": 0}}}  # it ends after half of the epochs
    two = run(Reconstruct.of(tree | {"epochs": 2}))
    job = Job.begin(Reconstruct.of(tree), tmp_path / "a")
    batches = len(job.recipe.batch(job.training, job.recipe.seed)(1))
    good = job.level.likelihood
    job.level.likelihood = Broken(good, 2 * batches + 1, then)
    assert [epoch.number for epoch in job] == [1, 2]
    assert said in job.progress.stopped
    job.level.likelihood = good
    np.testing.assert_array_equal(job.result().object, two.result().object)
    job.result().save(tmp_path / "a/result.h5")
    assert Result.load(tmp_path / "a/result.h5").stopped == job.progress.stopped


def test_a_loss_that_is_not_a_number_is_named(tree):
    job = Job.begin(Reconstruct.of(tree))
    terms = list(job.level.likelihood(torch.arange(2)))
    job.level.likelihood = Broken(job.level.likelihood, 0, spoil)
    assert list(job) == []
    assert f"the term '{terms[0]}' became nan" in job.progress.stopped


def test_a_run_stopped_before_its_first_epoch_has_a_result(tree):
    job = Job.begin(Reconstruct.of(tree))
    job.progress.stopped = "interrupted after epoch 0"
    result = job.result()
    assert result.history == []
    assert np.isfinite(result.object).all()


def test_the_hold_out_is_disjoint_and_repeats(tree):
    def held(**change: Any) -> tuple[np.ndarray, np.ndarray]:
        job = Job.begin(Reconstruct.of(tree | {"holdout": 0.2} | change))
        return job.training, job.holdout

    learned, kept = held()
    assert len(kept) == 5
    assert sorted([*learned, *kept]) == list(range(25))
    np.testing.assert_array_equal(held()[1], kept)
    assert held(seed=1)[1].tolist() != kept.tolist()
    assert len(held(holdout=0)[1]) == 0


def rooms() -> list[Any]:
    """Every choice of every section that needs no more than a name."""
    given = {
        ("probe", "focused"): {"semiangle": "40 mrad"},
        ("probe", "stored"): None,
        ("probe", "from_file"): None,
        ("prepare", "crop"): {"to": [20, 20]},
        ("prepare", "pad"): {"to": [32, 32]},
        ("prepare", "bin"): {"factor": 2},
        ("prepare", "flip"): {"axis": "y"},
        ("prepare", "rotate"): {"angle": "3 deg"},
        ("prepare", "scale"): {"factor": 1.1},
        ("prepare", "half"): {"which": 0},
        ("prepare", "thin"): {"which": 0},
        ("start", "sweep"): {"steps": 3, "patterns": 9, "rungs": [1, 1]},
        ("prepare", "calibrate"): {"semiangle": "40 mrad", "radius": 9.0},
        ("prepare", "detector_blur"): {"std": 0.5},
        ("prepare", "enlarge"): {"to": [32, 28]},
        ("prepare", "expect"): {"pattern": [24, 24]},
        ("prepare", "jitter"): {"std": 0.2},
        ("prepare", "join"): None,  # wants another scan, as `of_each_scan` does: test_joined_scans.py
        ("probe", "of_each_scan"): None,
        ("prepare", "poisson"): {"dose": 1e4},
        ("prepare", "near_field"): None,  # of holograms only
        ("prepare", "positions"): None,
        ("prepare", "weights"): None,
        ("prepare", "region"): None,
        ("prepare", "resample"): {"factor": [0.5, 0.5]},
        ("prepare", "source_size"): None,
        ("prepare", "without"): {"numbers": [1]},
        ("prepare", "denoise"): None,
        ("prepare", "tilt_sample"): {"normal": [0.0, 0.2, 1.0]},
        ("object", "from_file"): None,
        ("object", "bandlimited"): {"pixel": "0.4 A"},
        ("probe", "aberrated"): {"semiangle": "40 mrad"},
        ("probe", "zone_plate"): {"diameter": "100 um", "outermost_zone": "1 A"},
        ("noise", "none"): None,
        ("shape", "cosine_annealing"): {"T_max": 2},
        ("shape", "linear_decay"): {"hold": 1, "decay": 1},
        ("shape", "warm_restarts"): {"T_0": 2},
        ("shape", "multi_step"): {"milestones": [1, 2]},
        ("shape", "step"): {"step_size": 1},
        ("object", "predicted"): None,  # wants a scan that its network was trained for: test_weights.py
    }
    out = []
    for section, info in Reconstruct.model_fields.items():
        room = (info.json_schema_extra or {}).get("room")
        for name in names(room) if room and section != "read" else []:
            values = given.get((section, name), {})
            if values is not None:
                out.append(pytest.param(section, {name: values}, id=f"{section}-{name}"))
    return out


@pytest.mark.parametrize(
    "probe",
    [
        {"pupil": {"semiangle": "40 mrad"}},
        {"relaxed": {"basis": 2}},
        {"limited": {"radius": "2 A"}},
        {"aberrated": {"semiangle": "40 mrad"}},
        {"from_patterns": {}},
    ],
    ids=lambda node: next(iter(node)),
)
def test_the_start_finds_the_defocus_of_every_probe_that_has_one(tree, probe):
    sweep = {"sweep": {"steps": 3, "patterns": 9, "rungs": [1, 1]}}
    job = Job.begin(Reconstruct.of({**tree, "probe": probe, "start": sweep, "epochs": 1}))
    assert job.recipe.probe.values["defocus"] != 0
    assert len(list(job)) == 1


@pytest.mark.parametrize(("section", "node"), rooms())
def test_every_choice_runs(tree, section, node):
    many = section in ("prepare", "projections", "penalties", "outputs")
    more = {"object": {"pixels": {"kind": "amplitude and phase"}}} if section == "projections" else {}
    job = run(Reconstruct.of(tree | more | {section: [node] if many else node, "epochs": 1}))
    assert np.isfinite(job.result().object).all()
    assert len(job.progress.history) == 1


@pytest.mark.parametrize("kind", ["complex", "amplitude and phase", "phase"])
@pytest.mark.parametrize("noise", ["amplitude", "gaussian", "poisson"])
@pytest.mark.parametrize("slices", [1, 2])
def test_every_object_meets_every_noise(tree, kind, noise, slices):
    pixels = {"kind": kind, "slices": slices, "thickness": "8 A"}
    job = run(Reconstruct.of(tree | {"object": {"pixels": pixels}, "noise": noise, "epochs": 1}))
    assert job.result().object.shape[0] == slices
    assert np.isfinite(job.result().object).all()
    if kind == "phase":
        np.testing.assert_allclose(np.abs(job.result().object), 1, rtol=1e-5)


def test_a_part_moves_only_between_its_epochs(tree):
    rates = yaml.safe_load("{object: 0.02, probe: {rate: 0.02, start: 2, stop: 3}, positions: 0}")
    job = Job.begin(Reconstruct.of(tree | {"rates": rates}))
    moved, last = [], job.model.probe.relative.detach().clone()
    for _ in job:
        now = job.model.probe.relative.detach().clone()
        moved.append(not torch.equal(now, last))
        last = now
    assert moved == [False, True, True, False]
    assert not job.model.scan.offsets.detach().any()
    assert ["probe" in event["rates"] for event in job.progress.history] == moved


def test_putting_a_knob_keeps_its_neighbours(tree):
    made = Reconstruct.of(tree).with_settings({"probe.focused.defocus": "9 nm", "epochs": 3})
    assert made.probe.values["defocus"] == 90.0
    assert made.probe.values["semiangle"] == 0.04
    assert made.epochs == 3


def test_putting_a_knob_of_another_choice_replaces_the_choice(tree):
    made = Reconstruct.of(tree).with_settings({"probe.from_patterns.modes": 3})
    assert (made.probe.name, dict(made.probe.values)) == ("from_patterns", {"modes": 3})


def test_putting_a_plain_name_replaces_the_choice(tree):
    assert Reconstruct.of(tree).with_settings({"probe": "auto"}).probe == Call(
        "phaseloom.ptycho.probes", "auto"
    )


def test_putting_into_a_default_or_a_plain_name_makes_a_node(tree):
    made = Reconstruct.of(tree | {"noise": "poisson"})
    assert made.with_settings({"noise.poisson.floor": 0.1}).noise.values == {"floor": 0.1}
    assert made.with_settings({"object.pixels.kind": "phase"}).object.values == {"kind": "phase"}
    assert made.with_settings({"rates.positions": 0}).rates == {"positions": 0}
    assert made.with_settings({"rates.probe.rate": 0.1, "rates.probe.start": 3}).rates["probe"].start == 3


def test_putting_a_whole_call_replaces_the_choice(tree):
    made = Reconstruct.of(tree | {"probe": "auto"}).with_settings({"probe.focused": {"semiangle": "20 mrad"}})
    assert (made.probe.name, dict(made.probe.values)) == ("focused", {"semiangle": 0.02})


@pytest.mark.parametrize("word", [True, False])
def test_a_rate_that_is_a_truth_value_is_refused(tree, word):
    """``yes`` of YAML was a rate of one."""
    with pytest.raises(BadInput, match=r"rates\.object: (True|False) is not a rate: write a number"):
        Reconstruct.of(tree | {"rates": {"object": word}})


def test_putting_an_end_keeps_the_rate_and_the_beginning(tree):
    made = Reconstruct.of(tree | {"rates": {"probe": {"rate": 0.1, "start": 2}}}).with_settings(
        {"rates.probe.stop": 5}
    )
    probe = made.rates["probe"]
    assert (probe.rate, probe.start, probe.stop) == (0.1, 2, 5)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"prob.focused.modes": 2}, "did you mean 'probe'"),
        ({"probe.focussed.modes": 2}, "did you mean 'focused'"),
        ({"probe.focused.mode": 2}, "did you mean 'modes'"),
        ({"epochs.most": 3}, "epochs"),
    ],
)
def test_putting_an_unknown_name_is_refused(tree, settings, said):
    with pytest.raises(BadInput, match=said):
        Reconstruct.of(tree).with_settings(settings)


def test_a_key_of_a_format_is_told_its_place(tree):
    with pytest.raises(BadInput, match=r"there is no 'focus'; it belongs .*: write read\.FORMAT\.focus"):
        Reconstruct.of(tree | {"focus": "25 mm"})


def test_putting_leaves_the_first_recipe_as_it_was(tree):
    first = Reconstruct.of(tree)
    before = first.to_full_tree()
    first.with_settings({"probe.focused.modes": 4, "rates.object": 0.5})
    assert first.to_full_tree() == before


NODES = [
    ("read", {"cxi": {"focus": "3.65 mm", "entry": 2}}),
    ("read", {"native": {"lazy": False}}),
    ("read", {"npy": {"energy": "80 keV", "angle": "1.2345678 mrad", "step": ["0.4 A", "0.3 nm"]}}),
    ("read", {"npz": {"energy": "60 keV", "step": "0.4 A", "grid": [3, 4]}}),
    ("read", {"raw": {"energy": "8.8 keV", "beam": "photon", "shape": [4, 128, 128], "distance": "2 m"}}),
    ("read", {"hdf5": {"energy": "300 keV", "rotation": "-12.3 deg", "dataset": "a/b"}}),
    ("probe", {"auto": {}}),
    ("probe", {"stored": {"defocus": "-3.3 nm"}}),
    ("probe", {"from_patterns": {"defocus": "0.1234567890123 um", "modes": 3}}),
    ("probe", {"from_file": {"path": "a folder/probe.npy", "modes": 1}}),
    (
        "probe",
        {
            "focused": {
                "semiangle": "24.9 mrad",
                "astigmatism": "1.7 nm",
                "astigmatism_angle": "33.3 deg",
                "spherical": "1.2 mm",
                "soft": True,
            }
        },
    ),
]


@pytest.mark.parametrize(
    ("section", "node"), NODES, ids=lambda x: next(iter(x)) if isinstance(x, dict) else x
)
def test_the_resolved_text_reads_back_as_the_same_numbers(section, node):
    made = Reconstruct.of({"file": "scan.h5", section: node})
    again = Reconstruct.of(yaml.safe_load(to_yaml(made.to_full_tree())))
    one, two = getattr(made, section), getattr(again, section)
    defaults = {name: knob.default for name, knob in knobs(one.room, one.name).items()}
    assert {**(defaults if section == "probe" else {}), **one.values} == dict(two.values)
    assert again.to_full_tree() == made.to_full_tree()


def test_a_run_file_leaves_to_the_side_car_what_was_not_given(tmp_path, monkeypatch):
    """Defaults that were written out took the place of what the side-car says."""
    monkeypatch.chdir(tmp_path)
    np.save("s.npy", np.full((4, 4, 8, 8), -1.0, np.float32) + np.arange(8))
    beside = "{energy: 80 keV, angle: 1 mrad, step: 0.4 A, negative: keep}"
    Path("s.npy.phaseloom.yaml").write_text(beside)
    made = Reconstruct.of({"file": "s.npy", "read": {"npy": {"step": "0.5 A"}}})
    first = made.scan()
    again = Reconstruct.of(yaml.safe_load(to_yaml(made.to_full_tree()))).scan()
    assert [np.asarray(one.counts[np.arange(16)]).min() for one in (first, again)] == [-1, -1]
    assert again.geometry == first.geometry
    np.testing.assert_array_equal(again.positions, first.positions)


def floats(digits: int) -> list[float]:
    rng = np.random.default_rng(0)
    return [float(f"{v:.{digits}g}") for v in 10 ** rng.uniform(-6, 8, 200) * rng.choice([-1, 1], 200)]


@pytest.mark.parametrize("digits", [3, 7, 15, 17])
def test_any_float_with_a_unit_reads_back_exactly(digits):
    for value in floats(digits):
        made = Call("phaseloom.ptycho.probes", "from_patterns", {"defocus": value})
        again = call(made.room, yaml.safe_load(to_yaml(made.to_full_tree())), "probe")
        assert again.values["defocus"] == value


def test_everything_else_of_a_recipe_reads_back_too(tree):
    made = Reconstruct.of(
        tree
        | {"prepare": [{"crop": {"to": [20, 20]}}, "transpose", {"rotate": {"angle": "1.1 deg"}}]}
        | {
            "rates": {"object": 0.1, "probe": {"rate": 0.3, "stop": 9}},
            "title": "Größe 5 Å",
            "patience": None,
        }
        | {"projections": [{"orthogonal": {}, "start": 2, "every": 3}, {"bounded": {"most": 1.1}}]}
    )
    again = Reconstruct.of(yaml.safe_load(to_yaml(made.to_full_tree())))
    assert again.to_full_tree() == made.to_full_tree()
    assert again.projections[0].when == {"start": 2, "every": 3}
    assert again.patience is None
    assert again.rates == made.rates


def sought(scan: Any, tree: Any, folder: Path, **sweep: Any) -> Job:
    native.write(scan, folder / "scan.h5")
    probe = {"focused": {"semiangle": "40 mrad", "modes": 1}}
    change = {"file": str(folder / "scan.h5"), "probe": probe, "start": {"sweep": sweep}}
    return Job.begin(Reconstruct.of(tree | change))


@pytest.mark.medium
def test_the_start_finds_the_defocus_and_says_as_given(files, tree, tmp_path):
    job = sought(files.scan, tree, tmp_path, orientations=True)
    assert job.start.orientation == "as given"
    assert abs(job.start.defocus - 60) < 20
    assert job.start.margin > 1
    assert job.recipe.probe.values["defocus"] == job.start.defocus
    assert job.recipe.start.name == "none"
    assert job.recipe.prepare == ()


@pytest.mark.parametrize("span", ["100 A", "92 A"])
def test_the_start_looks_between_its_steps(files, tree, tmp_path, span):
    job = sought(files.scan, tree, tmp_path, span=span, steps=9, rungs=(4, 12))
    assert abs(job.start.defocus - 60) < 5
    assert min(abs(one["defocus"] - 60) for one in job.start.tried if one["epochs"] == 4) > 8


@pytest.mark.medium
@pytest.mark.parametrize(
    ("turn", "found", "done"),
    [
        (prepare.transpose, "transposed", "transpose"),
        (lambda scan: prepare.flip(scan, axis="y"), "flipped", "flip"),
    ],
    ids=["transposed", "flipped"],
)
def test_the_start_finds_a_detector_that_lies_otherwise(files, tree, tmp_path, turn, found, done):
    job = sought(replace(turn(files.scan), oriented=False), tree, tmp_path)
    assert job.start.orientation == found
    assert abs(job.start.defocus - 60) < 20
    np.testing.assert_array_equal(job.scan.counts[np.arange(25)], files.scan.counts)
    assert [step.name for step in job.recipe.prepare] == [done]


def test_the_start_never_turns_a_detector_that_the_file_describes(files, tree, tmp_path):
    job = sought(prepare.transpose(files.scan), tree, tmp_path, steps=3, rungs=(1, 1))
    assert {candidate["orientation"] for candidate in job.start.tried} == {"as given"}


def test_a_start_with_nothing_to_try_is_none(files, tree):
    made = Reconstruct.of(tree | {"file": str(files.near), "probe": "auto", "start": "sweep"})
    assert Job.begin(made).start is None


def test_a_result_is_written_for_other_programs(finished, tmp_path):
    result = finished.result()
    result.save(tmp_path / "a.cxi")
    with h5py.File(tmp_path / "a.cxi") as file:
        np.testing.assert_array_equal(file["entry_1/image_1/data"][()], result.object)
        np.testing.assert_array_equal(file["entry_1/image_2/data"][()], result.probe)
        size = file["entry_1/image_1/image_size"][()]
        np.testing.assert_allclose(size, np.array(result.object.shape[1:]) * result.pixel[0] * 1e-10)
        assert file["entry_1/sample_1/geometry_1/translation"].shape == (25, 3)
    assert not is_result(tmp_path / "a.cxi")


def test_a_result_is_written_for_imagej(finished, tmp_path):
    tifffile = pytest.importorskip("tifffile")
    result = finished.result()
    result.save(tmp_path / "a.tif")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        np.testing.assert_allclose(file.asarray(), result.phase[result.window], rtol=1e-6)
        above, below = file.pages[0].tags["XResolution"].value
        assert below / above == pytest.approx(result.pixel[1] / 10, rel=1e-5)


@pytest.mark.parametrize("name", ["a.png", "a", "a.H5x"])
def test_an_unknown_ending_is_refused(finished, tmp_path, name):
    with pytest.raises(BadInput, match=r"has no known ending: use one of \.h5"):
        finished.result().save(tmp_path / name)


def test_something_else_is_no_result(files, tmp_path):
    (tmp_path / "a.h5").write_bytes(b"no")
    reasons = {tmp_path / "a.h5": "is not a Phaseloom result", files.native: "is not a Phaseloom result"}
    for path, reason in (reasons | {tmp_path / "missing.h5": "does not exist"}).items():
        with pytest.raises(BadInput, match=reason):
            Result.load(path)
        assert not is_result(path)
