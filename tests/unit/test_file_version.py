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
