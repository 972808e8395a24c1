"""Modules and functions by their names of an earlier version."""

import importlib
import subprocess
import sys

import pytest

IMPORTS = {
    "import phaseloom.metrics.states as found": "mixed_states",
    "from phaseloom.metrics.states import orthogonalise as found": "mixed_states",
    "from phaseloom.metrics import halves as found": "standardise_pair",
    "import phaseloom as pl; found = pl.metrics.repeats; found = pl.metrics.repeats": "ensembles",
    "from phaseloom.plot import virtual_images as found": "virtual.plot_virtual_images",
}


@pytest.mark.parametrize("line", IMPORTS)
def test_an_old_name_is_imported_with_one_warning(line: str) -> None:
    program = f"{line}\nprint(found.__name__)"
    done = subprocess.run(
        [sys.executable, "-W", "always::DeprecationWarning:__main__", "-c", program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, done.stderr
    assert done.stderr.count("DeprecationWarning: pl.") == 1, done.stderr
    assert f"{IMPORTS[line]}" in done.stderr


def test_an_old_module_is_the_module_of_today() -> None:
    sys.modules.pop("phaseloom.metrics.states", None)
    with pytest.warns(DeprecationWarning, match="pl.metrics.states is now pl.metrics.mixed_states"):
        old = importlib.import_module("phaseloom.metrics.states")
    from phaseloom.metrics import mixed_states

    assert old is mixed_states
    assert old.__spec__ is not None
    assert old.__spec__.name == "phaseloom.metrics.mixed_states"
