"""What people get wrong in parameters: each ends in exit code 2 and one line that names place and way out."""

import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest

from phaseloom import cli
from phaseloom.errors import BadInput
from phaseloom.spec import Call

Fail = Callable[..., str]


@pytest.fixture
def room(files, finished, tmp_path, monkeypatch) -> Path:
    """A folder with a scan, a finished run and files that are not what they should be."""
    shutil.copy(files.native, tmp_path / "scan.h5")
    shutil.copytree(finished.directory, tmp_path / "run")
    np.save(tmp_path / "real.npy", np.ones((4, 4)))
    np.save(tmp_path / "pickle.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "plain.npy", np.ones((3, 8, 8)))
    (tmp_path / "damaged.h5").write_bytes(b"no")
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fails(room, monkeypatch, capsys) -> Fail:
    """Run a command line that must fail; gives the one line that it says."""

    def call(*argv: str) -> str:
        monkeypatch.setattr(sys, "argv", ["phaseloom", *argv])
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr().err
        assert end.value.code == 2, said
        assert said.endswith("\n"), said
        assert said.count("\n") == 1, said
        assert said.startswith("phaseloom: ")
        for jargon in ("Traceback", "pydantic", "<class", "Input should", "validation error", "NoneType"):
            assert jargon not in said
        return said.removeprefix("phaseloom: ").rstrip()

    return call


HEAD = "file: scan.h5\nholdout: 0.1\n"

PARAMETERS = {
    "prob: auto": "parameter file: there is no 'prob'; did you mean 'probe'?",
    "1: 2": "parameter file: there is no '1'; choose one of file",
    "probe: focussed": "probe: there is no 'focussed'; did you mean 'focused'?",
    "probe: focused": "probe: focused.semiangle: is missing: write semiangle: a number and one of rad",
    "probe:": "probe: is empty: write one of a",
    "prepare: {rotate: 20 deg}": "needs the name of its setting: write {rotate: {angle: 20 deg}}",
    "prepare: [{crop: 64}]": "prepare[0]: crop: 64 needs the name of its setting: write {crop: {to: 64}}",
    "prepare: [{descan: 1}]": "prepare[0]: descan: 1 is not a setting: descan takes none, write descan",
    "object: {pixels: 3}": "pixels: 3 needs the names of settings: write {pixels: {setting: value}}",
    "probe: 3": "probe: 3 must be a name, or {name: {setting: value}}",
    "probe: [auto]": "must be a name, or {name: {setting: value}}",
    "probe: {auto: {}, stored: {}}": "must be a name, or {name: {setting: value}}",
    "probe: {focused: {semiangel: 25 mrad}}": "probe: focused: there is no 'semiangel'; did you mean 'semi",
    "probe: {focused: {semiangle: 25}}": "probe: focused.semiangle: 25 is not an angle: write a number and",
    "probe: {focused: {semiangle: 25 nm}}": "probe: focused.semiangle: 25 nm is not an angle",
    "probe: {focused: {semiangle: twenty}}": "probe: focused.semiangle: twenty is not an angle",
    "probe: {focused: {semiangle: 3 rad}}": "probe: focused.semiangle: 3.0 must lie between 0 and 1.57 rad",
    "probe: {focused: {semiangle: 0}}": "probe: focused.semiangle: 0.0 must lie between 0 and 1.57 rad",
    "probe: {focused: {semiangle: -25 mrad}}": "probe: focused.semiangle: -0.025 must lie between",
    "probe: {focused: {semiangle: 500 mrad}}": "0.5 rad is larger than the detector's half width of 0.1",
    "probe: {focused: {semiangle: 40 mrad, modes: 0}}": "modes: 0 must be at least 1",
    "probe: {auto: {modes: two}}": "probe: auto.modes: two must be a whole number",
    "probe: {focused: {semiangle: 1 mrad, soft: maybe}}": "focused.soft: maybe must be true or false",
    "probe: stored": "probe: stored: the data file holds no probe: use from_patterns or focused",
    "probe: {from_file: {path: none.npy}}": "probe: from_file.path: none.npy does not exist",
    "probe: {from_file: {path: real.npy}}": "real.npy with float64(4, 4) is not a complex array",
    "probe: {from_file: {path: pickle.npy}}": "pickle.npy is not a plain numpy array",
    "probe: {from_file: {path: damaged.h5}}": "damaged.h5: is not a known reconstruction",
    "rates: 0.1": "rates: 0.1 must hold 'name: value' lines",
    "rates: {object: -0.1}": "rates.object: -0.1 must be a finite number from zero up",
    "rates: {object: .nan}": "rates.object: nan must be a finite number from zero up",
    "rates: {objekt: 0.1}": "rates: objekt is not a part of the model: did you mean 'object'?",
    "rates: {object: fast}": "rates.object: fast must be a number",
    "rates: {object: {rate: 0.1, begin: 2}}": "rates.object.begin: 2 is not a setting here: remove it",
    "rates: {object: {rate: 0.1, start: 0}}": "rates.object.start: 0 must be at least 1",
    "rates: {object: {start: 2}}": "rates.object.rate: is missing",
    "rates: {object: {rate: 0.1, start: 5, stop: 2}}": "rates.object: stop: 2 lies before start: 5",
    "rates: {object: 0, probe: 0, positions: 0, affine: 0, weights: 0}": "give one of them a rate above zero",
    "epochs: 0": "epochs: 0 must be at least 1",
    "epochs: -3": "epochs: -3 must be at least 1",
    "epochs: many": "epochs: many must be a whole number",
    "epochs: 2.5": "epochs: 2.5 must be a whole number",
    "epochs: true": "epochs: True must be a whole number",
    "epochs:": "epochs: must be a whole number",
    "patience: 0": "patience: 0 must be at least 1",
    "seed: one": "seed: one must be a whole number",
    "seed: -1": "seed: -1 must be at least 0",
    "device: gpu": "device: gpu is not a choice: write 'auto', 'cpu' or 'cuda'",
    "title: [a, b]": "title: ['a', 'b'] must be text",
    "noise: gausian": "noise: there is no 'gausian'; did you mean 'gaussian'?",
    "noise: {poisson: {floor: low}}": "noise: poisson.floor: low must be a number",
    "propagator: exakt": "propagator: there is no 'exakt'; did you mean 'exact'?",
    "shape: bent": "shape: there is no 'bent'; choose one of con",
    "object: {pixels: {slices: 2}}": "object: pixels.thickness: 0.0 must be above zero when there are",
    "object: {pixels: {slices: 0}}": "object: pixels.slices: 0 must be at least 1",
    "object: {pixels: {thickness: 12}}": "object: pixels.thickness: 12 is not a length: write a number and",
    "object: {pixels: {kind: phases}}": "object: pixels.kind: phases is not a choice: write 'complex'",
    "batch: {random: {size: 0}}": "batch: random.size: 0 must be at least 1",
    "batch: {random: {size: all}}": "batch: random.size: all must be a whole number",
    "projections: [{orthogonal: {}, start: 0}]": "projections[0].start: 0 must be a whole number of epochs",
    "projections: [{orthogonal: {}, end: 7}]": "must be a name, or {name: {setting: value}}",
    "projections: [orthogonall]": "projections[0]: there is no 'orthogonall'; did you mean 'orthogonal'?",
    "projections: [positive]": "projections: positive acts on amplitude or phase alone: write object",
    "optimizer: adan": "optimizer: there is no 'adan'; did you mean 'adam'?",
    "start: {sweep: {steps: 0}}": "needs 1 step and 4 patterns at least",
    "start: {sweep: {rungs: []}}": "start: sweep.rungs: [] must be one or more numbers of epochs",
    "start: {sweep: {span: 3}}": "start: sweep.span: 3 is not a length",
    "prepare: crop": "prepare[0]: crop.to: is missing: write to: [a whole number, a whole number]",
    "prepare: [{crop: {to: 20}}]": "prepare[0]: crop.to: 20 must be a list",
    "prepare: [{crop: {to: [20]}}]": "prepare[0]: crop.to: [20] has too few values",
    "prepare: [{crop: {to: [20, 20, 20]}}]": "prepare[0]: crop.to: [20, 20, 20] has too many values",
    "prepare: [{crop: {to: [200, 200]}}]": "crop.to: (200, 200) is larger than the detector (24, 24)",
    "prepare: [{flip: {axis: z}}]": "prepare[0]: flip.axis: z is not a choice: write 'y' or 'x'",
    "read: {dm9: {}}": "read: there is no 'dm9'; choose one of blockfile",
    "read: {npy: {energy: 80}}": "read: npy.energy: 80 is not an energy: write a number and one of",
    "found: 3": "found: 3 must hold 'name: value' lines",
    "noise: amplitude\n\tseed: 1": "run.yaml: is not YAML (line 4): check quotes, colons and indentation",
    "epochs: [1": "run.yaml: is not YAML",
    "seed: {a: b: c}": "run.yaml: is not YAML (line 3)",
    "title: !!python/name:os.system x": "run.yaml: line 3: !!python/name:os.system is a tag",
}

WHOLE = {
    "": "run.yaml: must hold 'name: value' lines",
    "- 1\n- 2": "run.yaml: [1, 2] must hold 'name: value' lines",
    "hello": "run.yaml: hello must hold 'name: value' lines",
    "epochs: 3": "file: is missing",
    "file:": "file: must be the name of a file",
    "file: 3": "file: 3 must be the name of a file",
    "file: [a, b]": "file: ['a', 'b'] must be the name of a file",
    "file: missing.h5": "file: missing.h5 does not exist: give the path of the data",
    "file: folder": "file: folder is a folder",
    "file: damaged.h5": "damaged.h5: is not an HDF5 file in spite of its name",
    "file: plain.npy": "plain.npy: does not state energy, angle, grid and step: write them in",
    "file: scan.h5\nholdout: 1.5": "holdout: 1.5 must be below 0.9",
    "file: scan.h5\nholdout: none": "holdout: none must be a number",
}


@pytest.mark.parametrize(("text", "said"), [(HEAD + a, b) for a, b in PARAMETERS.items()] + [*WHOLE.items()])
def test_a_parameter_file_that_cannot_be_meant(fails, room, text, said):
    searched = "start: {sweep" in text or not text.startswith("file")
    (room / "run.yaml").write_text(text + ("" if searched else "\nstart: none"))
    assert said in fails("reconstruct", "-q", "run.yaml", "--out", "out")
    assert not (room / "out" / "snapshot.h5").exists()


def test_a_file_that_is_not_text(fails, room):
    (room / "run.yaml").write_bytes(b"\xff\xfe\x00")
    assert fails("check", "run.yaml").startswith("run.yaml: is not text in UTF-8")


def test_a_sidecar_with_a_bare_number(fails, room):
    (room / "plain.npy.yaml").write_text("{energy: 80, angle: 1 mrad, step: 0.4 A}")
    assert "plain.npy.yaml: energy: 80 is not an energy" in fails("check", "plain.npy")


def test_an_archive_without_the_array_that_was_named(fails, room):
    np.savez(room / "a.npz", b=np.ones((3, 8, 8)))
    (room / "run.yaml").write_text(
        "file: a.npz\nread: {npz: {key: c, energy: 80 keV, angle: 1 mrad, step: 1 A}}"
    )
    assert "c" in fails("check", "run.yaml")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("epochs", "--set: epochs is not PATH=VALUE, e.g. --set epochs=30"),
        ("=3", "--set: =3 is not PATH=VALUE"),
        ("epochz=3", "there is no 'epochz'; did you mean 'epochs'?"),
        ("epochs={", "--set epochs: { is not a value that YAML can read"),
        ("seed=a: b: c", "--set seed: a: b: c is not a value that YAML can read"),
        ("epochs.most=3", "epochs: {'most': 3} must be a whole number"),
        ("a.b.c.d=1", "there is no 'a'; choose one of file"),
        ("probe.focused.foo=1", "probe: focused: there is no 'foo'; choose one of semiangle"),
        ("probe.focussed.modes=1", "probe: there is no 'focussed'; did you mean 'focused'?"),
        (
            "probe.focused=3",
            "probe: focused: 3 needs the name of its setting: write {focused: {semiangle: 3}}",
        ),
        ("probe..modes=1", "probe: there is no ''; choose one of a"),
        ("probe.focused.semiangle.x=1", "is not an angle"),
        ("rates.objekt=1", "rates: objekt is not a part of the model: did you mean 'object'?"),
        ("rates.object.speed=1", "rates.object"),
        ("prepare.crop.to=[400, 8]", "crop.to: (400, 8) is larger"),
        ("file=gone.h5", "file: gone.h5 does not exist"),
    ],
)
def test_a_setting_that_cannot_be_meant(fails, setting, said):
    assert said in fails("check", "scan.h5", "--set", "start=none", "--set", setting)


def test_a_setting_inside_a_list_is_refused_rather_than_losing_the_others(fails, room):
    (room / "run.yaml").write_text("file: scan.h5\nprepare: [transpose]")
    assert "prepare is a list: set it whole" in fails("check", "run.yaml", "-s", "prepare.crop.to=[8, 8]")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["reconstruct", "scan.h5", "--out", "run"], "--out: run exists already: name a new folder"),
        (["reconstruct", "scan.h5", "--out", "damaged.h5"], "--out: damaged.h5 exists already"),
        (["reconstruct", "-s", "start=none", "scan.h5", "--out", "damaged.h5/x"], "damaged.h5/x"),
        (["reconstruct", "folder", "--resume"], "folder: holds no run.yaml, as nothing was done there yet"),
        (["reconstruct", "gone", "--resume"], "gone: holds no run.yaml"),
        (["reconstruct", "scan.h5", "--resume"], "scan.h5: holds no run.yaml"),
        (
            ["compare", "scan.h5", "run/result.h5"],
            "scan.h5: is not a Phaseloom result but a scan of Phaseloom",
        ),
        (["compare", "run/result.h5", "damaged.h5"], "damaged.h5: is not a Phaseloom result"),
        (["compare", "gone.h5", "run/result.h5"], "gone.h5: does not exist: give the result.h5 of a run"),
        (["compare", "run/result.h5", "run/result.h5", "--picture", "a.foo"], "has no ending of a picture"),
        (["describe", "prob"], "describe: prob is not a section: did you mean 'probe'?"),
        (
            ["describe", "probe", "focussed"],
            "describe probe: focussed is not a choice: did you mean 'focused'?",
        ),
        (["describe", "epochs", "many"], "describe epochs: many is not a choice"),
        (["look", "gone.h5"], "gone.h5: does not exist: check the path"),
        (["look", "folder"], "look: folder holds no data"),
        (["look", "damaged.h5"], "damaged.h5: is not an HDF5 file"),
        (["look", "scan.h5", "--picture", "a.foo"], "--picture: a.foo has no ending of a picture"),
        (["demo", "--out", "damaged.h5"], "--out: damaged.h5 is a file: name a folder"),
        (["reconstrukt", "scan.h5"], "No such command 'reconstrukt'"),
        (["reconstruct"], "Missing argument"),
        (["check", "scan.h5", "--fast"], "No such option: --fast"),
    ],
    ids=" ".join,
)
def test_a_command_line_that_cannot_be_meant(fails, argv: Sequence[str], said: str):
    assert said in fails(*argv)


def test_a_damaged_snapshot_is_refused(fails, room):
    (room / "run" / "snapshot.h5").write_bytes(b"\x89HDF")
    assert "is not a snapshot of ours, or is damaged" in fails("reconstruct", "run", "--resume")


def test_a_snapshot_of_another_model_is_refused(fails, room):
    path = room / "run" / "run.yaml"
    path.write_text(path.read_text().replace("modes: 1", "modes: 2"))
    said = fails("reconstruct", "run", "--resume")
    assert "run.yaml: object.pixels.modes: 2 was 1 when the run began: write that again" in said


def test_a_damaged_run_file_is_refused(fails, room):
    (room / "run" / "run.yaml").write_text("file: [")
    assert "run/run.yaml: is not YAML (line 1)" in fails("reconstruct", "run", "--resume")


def test_a_result_whose_members_are_gone_is_refused(fails, room):
    with h5py.File(room / "run" / "result.h5", "a") as file:
        del file["history"]
    said = fails("compare", "run/result.h5", "run/result.h5")
    assert said.startswith("run/result.h5: /history: is missing: the file is not whole")


def test_an_optimizer_that_torch_refuses_is_a_sentence(fails):
    setting = "optimizer={adam: {momentum: 2}}"
    said = fails("check", "scan.h5", "-s", "start=none", "-s", setting)
    assert said.startswith("optimizer: adam")


def test_a_call_of_a_name_that_is_not_in_its_room_is_refused():
    with pytest.raises(BadInput, match="there is no 'nothing'"):
        Call("phaseloom.ptycho.probes", "nothing")(None)
