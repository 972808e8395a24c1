"""What a PtyRAD file searches is searched with the same values, in our words and units."""

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from phaseloom import cli
from phaseloom.compat.ptyrad import translate_project, translate_search
from phaseloom.errors import BadInput
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.runs.parameter_paths import get_parameter
from phaseloom.search.recipe import Search
from phaseloom.search.space import Space
from tests.ptyrad import LEAST


def ranged(low: float, high: float, suggest: str = "float", **more: Any) -> dict[str, Any]:
    return {"state": True, "suggest": suggest, "kwargs": {"low": low, "high": high, **more}}


def among(*choices: Any) -> dict[str, Any]:
    return {"state": True, "suggest": "cat", "kwargs": {"choices": list(choices)}}


def project(tune: dict[str, Any], more: dict[str, Any] | None = None, **init: Any) -> dict[str, Any]:
    tuned = {"if_hypertune": True, "tune_params": tune, **(more or {})}
    return {"init_params": LEAST | init, "hypertune_params": tuned}


def over(tune: dict[str, Any], **init: Any) -> dict[str, Any]:
    """The knobs of ours, sure to be those of a run file."""
    run, search, notes = translate_search(project(tune, **init), Path("."))
    assert not [note for note in notes if "not searched" in note]
    Space.of(Reconstruct.of(run), Search.of(search).over)
    return search["over"]


@pytest.mark.parametrize(
    ("name", "given", "ours"),
    [
        ("C10", ranged(-200, 50), {"probe.focused.defocus": {"low": "-50 A", "high": "200 A"}}),
        (
            "C12",
            ranged(1, 21, step=5),
            {"probe.focused.aberrations.C12": {"low": "1 A", "high": "21 A", "step": "5 A"}},
        ),
        ("conv_angle", ranged(20, 30), {"probe.focused.semiangle": {"low": "20 mrad", "high": "30 mrad"}}),
        ("plr", ranged(1e-5, 1e-3, log=True), {"rates.probe": {"low": 1e-5, "high": 1e-3, "log": True}}),
        ("oplr", ranged(1e-4, 1e-3), {"rates.phase": {"low": 1e-4, "high": 1e-3}}),
        ("slr", among(0.1, 0.2), {"rates.positions": [0.1, 0.2]}),
        ("dz", ranged(2, 10), {"object.pixels.thickness": {"low": "2 A", "high": "10 A"}}),
        ("Nlayer", ranged(2, 8, "int", step=2), {"object.pixels.slices": {"low": 2, "high": 8, "step": 2}}),
    ],
)
def test_a_setting_is_searched_where_it_stands_here(name, given, ours):
    known = {"meas_calibration": {"mode": "dx", "value": 0.15}}
    assert over({name: given}, **known) == ours


def test_modes_are_searched_with_their_shares_of_the_light():
    found = over({"pmode_max": ranged(1, 3, "int"), "C10": ranged(-90, -20)})
    assert [one["focused"]["modes"] for one in found["probe"]] == [1, 2, 3]
    assert found["probe.focused.defocus"] == {"low": "20 A", "high": "90 A"}


@pytest.mark.parametrize(
    "name", ["scale", "asymmetry", "rotation", "shear", "tilt_y", "tilt_x", "z_shift", "dx"]
)
def test_ends_of_a_range_are_those_of_the_file_with_them(name):
    low, high = (0.14, 0.16) if name == "dx" else (0.95, 1.1) if name == "scale" else (-3, 5)
    run, search, _ = translate_search(project({name: ranged(low, high)}), Path("."))
    ((path, _),) = search["over"].items()
    space = Space.of(Reconstruct.of(run), Search.of(search).over)
    ends = space.knobs[0].ends
    assert ends is not None
    share = (
        0.25 if name != "dx" else 1 - (1 / 0.145 - 1 / 0.14) / (1 / 0.16 - 1 / 0.14)
    )  # an angle is drawn there
    recipe = space.apply(Reconstruct.of(run), {path: ends[0] + share * (ends[1] - ends[0])})
    theirs = (
        {"probe_z_shift": low + 0.75 * (high - low)} if name == "z_shift" else {}
    )  # as a defocus it counts down
    quarter = low + 0.25 * (high - low)
    if name in ("scale", "asymmetry", "rotation", "shear"):
        theirs["pos_scan_affine"] = [1.0, 0.0, 0.0, 0.0]
        theirs["pos_scan_affine"][("scale", "asymmetry", "rotation", "shear").index(name)] = quarter
    if name.startswith("tilt"):
        theirs["tilt_params"] = {
            "tilt_type": "all",
            "init_tilts": [[quarter, 0.0] if name == "tilt_y" else [0.0, quarter]],
        }
    if name == "dx":
        theirs["meas_calibration"] = {"mode": "dx", "value": quarter}
    plain = Reconstruct.of(translate_project({"init_params": LEAST | theirs}, Path("."))[0])
    found, wanted = (get_parameter(one.to_full_tree(), path) for one in (recipe, plain))
    assert str(found).split()[1:] == str(wanted).split()[1:]
    assert float(str(found).split()[0]) == pytest.approx(float(str(wanted).split()[0]), rel=1e-9)


@pytest.mark.parametrize(
    ("name", "given", "stays"),
    [
        ("scale", ranged(0.95, 1.05), 1.0),
        ("rotation", ranged(-5, 5), "0 deg"),
        ("shear", ranged(2, 5), "0 deg"),
        ("asymmetry", ranged(-5, 5), 0.0),
        ("tilt_x", ranged(-5, 5), "0 mrad"),
        ("C12", ranged(5, 9), "0 A"),
    ],
)
def test_the_run_file_beside_a_search_is_the_run_of_the_file(name, given, stays):
    tree = project({name: given})
    run, search, notes = translate_search(tree, Path("."))
    ((path, _),) = search["over"].items()
    assert get_parameter(run, path) == stays
    assert not notes
    plain = Reconstruct.of(translate_project(tree, Path("."))[0]).to_full_tree()
    assert get_parameter(plain, path) in (None, 0, stays)


def test_slices_that_are_searched_have_what_lies_between_them():
    run, _, _ = translate_search(project({"Nlayer": ranged(1, 3, "int")}, obj_Nlayer=1), Path("."))
    assert run["object"]["pixels"] == {"slices": 1, "thickness": "2 A", "kind": "amplitude and phase"}
    assert Reconstruct.of(run)


def test_what_cannot_be_searched_is_named_and_the_rest_is():
    tune = {
        "optimizer": among("Adam", "SGD"),
        "conv_angle": ranged(20, 25),
        "batch_size": ranged(16, 64, "int", step=16),
    }
    run, search, notes = translate_search(project(tune), Path("."))
    assert (
        "hypertune_params.tune_params.conv_angle is not searched: here: it changes read.raw.angle"
        in " ".join(notes)
    )
    assert [*search["over"]] == ["optimizer", "batch.random.size"] or "optimizer" in search["over"]
    assert [next(iter(one)) for one in search["over"]["optimizer"]] == ["adam", "sgd"]
    Space.of(Reconstruct.of(run), Search.of(search).over)
    with pytest.raises(BadInput, match="leaves nothing to be searched here: tunes nothing"):
        translate_search(project({}), Path("."))


def test_the_engine_is_carried_over():
    more: dict[str, Any] = {
        "n_trials": 50,
        "timeout": 600.0,
        "error_metric": "loss",
        "study_name": "mine",
        "storage_path": "sqlite:///a.sqlite3",
        "sampler_params": {"name": "TPESampler", "configs": {"n_startup_trials": 7, "gamma": 3}},
        "pruner_params": {"name": "HyperbandPruner", "configs": {"min_resource": 5, "reduction_factor": 2}},
    }
    _, search, notes = translate_search(project({"C10": ranged(-9, -3)}, more), Path("."))
    assert (search["trials"], search["seconds"], search["objective"]) == (50, 600.0, "loss")
    assert (search["study"], search["storage"]) == ("mine", "sqlite:///a.sqlite3")
    assert search["sampler"] == {"tpe": {"n_startup_trials": 7}}
    assert search["pruner"] == {"hyperband": {"min_resource": 5, "reduction_factor": 2}}
    assert any("gamma of tpe are left out" in note for note in notes)
    contrast = {"error_metric": "contrast"}
    _, search, notes = translate_search(project({"C10": ranged(-9, -3)}, contrast), Path("."))
    assert search["pruner"] == {"none": {}}
    assert any("contrast is known at the end only" in note for note in notes)


def test_convert_writes_both_files(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(project({"rotation": ranged(-3, 3)})))
    monkeypatch.setattr(sys, "argv", ["phaseloom", "convert", "params.yaml"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    assert "phaseloom search run.yaml run-search.yaml" in capsys.readouterr().out
    run = Reconstruct.from_path("run.yaml")
    assert Space.of(run, Search.from_path("run-search.yaml").over).knobs[0].path.endswith("rotation")
    with pytest.raises(SystemExit):
        cli.main()
    assert "exists already: name another file" in capsys.readouterr().err
