"""Parameter files carry the version of their format."""

import pytest
import yaml

from phaseloom.errors import BadInput
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.spec import FILE_VERSION
from phaseloom.virtual.recipe import Virtual


def test_a_written_file_says_its_version_and_reads_back():
    recipe = Reconstruct.of({"file": "scan.cxi", "epochs": 3})
    for defaults in (True, False):
        tree = yaml.safe_load(recipe.to_text(defaults=defaults))
        assert tree["version"] == FILE_VERSION
        assert Reconstruct.of(tree).to_full_tree() == recipe.to_full_tree()


def test_a_file_without_a_version_is_read():
    assert Reconstruct.of({"epochs": 3}) == Reconstruct.of({"version": FILE_VERSION, "epochs": 3})


@pytest.mark.parametrize("version", [FILE_VERSION + 1, 0, "2", True, None])
def test_a_file_of_another_version_is_refused(version):
    with pytest.raises(BadInput, match="version"):
        Reconstruct.of({"version": version, "epochs": 3})


def test_a_recipe_that_skips_other_sections_still_checks_the_version(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(f"version: {FILE_VERSION + 1}\nfile: scan.cxi\nobject: pixels\n")
    with pytest.raises(BadInput, match="install a newer one"):
        Virtual.from_path(file)


def test_an_old_knob_is_read_and_its_name_of_today_is_written(caplog):
    recipe = Reconstruct.of({"optimizer": {"adam": {"floor": 1e-9}}})
    assert "optimizer: adam.floor is now eps" in caplog.text
    assert yaml.safe_load(recipe.to_text(defaults=False))["optimizer"] == {"adam": {"eps": 1e-9}}


@pytest.mark.parametrize("defaults", [True, False])
def test_an_old_knob_in_the_shape_of_a_rate_is_written_with_its_name_of_today(caplog, defaults: bool):
    rate = {"rate": 0.02, "shape": {"exponential": {"factor": 0.9}}}
    recipe = Reconstruct.of({"rates": {"probe": rate, "object": {"rate": 0.1, "shape": "late"}}})
    assert "rates: shape: exponential.factor is now gamma" in caplog.text
    written = yaml.safe_load(recipe.to_text(defaults=defaults))["rates"]
    assert written["probe"]["shape"] == {"exponential": {"gamma": 0.9}}
    assert written["object"]["shape"] == "late"
    curve = recipe.rates["probe"].as_rate().shape
    assert curve(0.0, 3) == pytest.approx(0.9**2)


def test_a_shape_of_a_rate_that_does_not_exist_is_refused_when_the_file_is_read():
    with pytest.raises(BadInput, match=r"rates.*there is no 'exponental'; did you mean 'exponential'"):
        Reconstruct.of({"rates": {"probe": {"rate": 0.02, "shape": "exponental"}}})


OLD_FILE = "file: scan.cxi\noptimizer:\n  adam: {floor: 1.0e-9}\nepochs: 3\n"


def test_convert_writes_an_older_file_of_ours_with_its_version_and_the_names_of_today(
    phaseloom, tmp_path, caplog
):
    (tmp_path / "scan.cxi").touch()
    (tmp_path / "old.yaml").write_text(OLD_FILE)
    said = phaseloom("convert", tmp_path / "old.yaml", "--out", tmp_path / "new.yaml")
    assert not said.code, said.err
    assert "optimizer: adam.floor is now eps" in caplog.text
    assert f"run it with: phaseloom reconstruct {tmp_path / 'new.yaml'}" in said.out
    written = yaml.safe_load((tmp_path / "new.yaml").read_text())
    assert written.items() >= {"version": FILE_VERSION, "file": "scan.cxi", "epochs": 3}.items()
    assert written["optimizer"] == {"adam": {"eps": 1e-9}}
    assert Reconstruct.from_path(tmp_path / "new.yaml") == Reconstruct.from_path(tmp_path / "old.yaml")


def test_convert_into_another_folder_keeps_the_data_that_a_file_names(phaseloom, tmp_path):
    (tmp_path / "scan.cxi").touch()
    (tmp_path / "old.yaml").write_text(OLD_FILE)
    (tmp_path / "other").mkdir()
    said = phaseloom("convert", tmp_path / "old.yaml", "--out", tmp_path / "other" / "new.yaml")
    assert not said.code, said.err
    written = yaml.safe_load((tmp_path / "other" / "new.yaml").read_text())
    assert written["file"] == str((tmp_path / "scan.cxi").resolve())


def test_convert_finds_what_a_file_is_of(phaseloom, tmp_path):
    (tmp_path / "old.yaml").write_text("stage: stitching\nepochs: 3\n")
    said = phaseloom("convert", tmp_path / "old.yaml", "--out", tmp_path / "new.yaml")
    assert not said.code, said.err
    assert f"run it with: phaseloom train stitching {tmp_path / 'new.yaml'}" in said.out
    again = phaseloom("convert", tmp_path / "new.yaml", "--out", tmp_path / "new.yaml")
    assert "exists already: name another file" in again.err


def test_convert_writes_a_search_file_with_the_names_of_today(phaseloom, tmp_path):
    from phaseloom.search.recipe import Search

    old = tmp_path / "old.yaml"
    old.write_text(
        "over:\n  epochs: [2, 4]\n  probe.focused.defocus: {low: 50 A, high: 200 A, when: {epochs: 2}}\n"
        "sampler: {tpe: {startup: 2}}\npruner: {median: {warmup: 3}}\ntrials: 5\n"
    )
    said = phaseloom("convert", old, "--out", tmp_path / "new.yaml")
    assert not said.code, said.err
    assert f"search with: phaseloom search RUN.yaml {tmp_path / 'new.yaml'}" in said.out
    written = yaml.safe_load((tmp_path / "new.yaml").read_text())
    assert written["sampler"] == {"tpe": {"n_startup_trials": 2}}
    assert written["pruner"] == {"median": {"n_warmup_steps": 3}}
    assert written["version"] == FILE_VERSION
    assert Search.from_path(tmp_path / "new.yaml") == Search.from_path(old)


@pytest.mark.parametrize(
    ("text", "verb"), [("file: scan.cxi\nblock: 8\n", "autoencoder"), ("data: .\n", "restorer")]
)
def test_convert_writes_the_files_of_other_trainings(phaseloom, tmp_path, text, verb):
    (tmp_path / "old.yaml").write_text(text + "optimizer: {adamw: {decay: 0.1}}\n")
    said = phaseloom("convert", tmp_path / "old.yaml", "--out", tmp_path / "new.yaml")
    assert not said.code, said.err
    assert f"phaseloom train {verb}" in said.out
    assert "weight_decay: 0.1" in (tmp_path / "new.yaml").read_text()


def test_convert_refuses_a_file_of_no_protocol(phaseloom, tmp_path):
    (tmp_path / "other.yaml").write_text("shopping: [milk]\n")
    said = phaseloom("convert", tmp_path / "other.yaml", "--out", tmp_path / "new.yaml")
    assert said.code == 2
    assert "there is no 'shopping'" in said.err


def test_a_search_reads_a_file_with_a_version(tmp_path):
    from phaseloom.search.trials import read

    (tmp_path / "run.yaml").write_text(f"version: {FILE_VERSION}\n{OLD_FILE}")
    assert read(tmp_path / "run.yaml")[1].epochs == 3
