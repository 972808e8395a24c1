"""What is called with the wrong things says so in a sentence."""

import pickle

import numpy as np
import pytest

import phaseloom as pl
from phaseloom.data.scan import wavelength_of
from phaseloom.errors import BadInput, BadPlugin, MissingExtra, WriteFailed

GEOMETRY = pl.Geometry(wavelength=0.0417, shape=(8, 8), angle=(2e-3, 2e-3), beam="electron")
SCAN = pl.Scan4D(counts=np.ones((4, 8, 8)), positions=np.eye(4)[:, :2], geometry=GEOMETRY)
RECIPE = pl.Reconstruct.of({"file": "scan.h5"})

CALLS = {
    "calibrate: recipe: dict is not a recipe": lambda: pl.calibrate({"epochs": 2}, SCAN),
    "calibrate: scan: ndarray is not a scan": lambda: pl.calibrate(RECIPE, np.ones(3)),
    "calibrate: scan: is missing": lambda: pl.calibrate(RECIPE, None),
    "read: int is not a path": lambda: pl.read(3),
    "inspect: ndarray is not a scan": lambda: pl.inspect(np.ones((4, 8, 8))),
    "nofile.h5: does not exist": lambda: pl.load("nofile.h5"),
}


@pytest.mark.parametrize("sentence", CALLS)
def test_wrong_arguments_are_named(sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        CALLS[sentence]()


def test_the_command_line_prints_its_version(phaseloom) -> None:
    said = phaseloom("--version")
    assert (said.code, said.out.strip()) == (0, f"phaseloom {pl.__version__}")


def test_an_electron_has_its_article() -> None:
    with pytest.raises(BadInput, match="is not the energy of an electron"):
        wavelength_of(-80e3, "electron")


@pytest.mark.parametrize(
    "problem",
    [
        BadInput("probe", 25, "is not an angle"),
        BadInput("probe", None, "is missing"),
        BadPlugin("mine", lambda: 0, "fails"),
        MissingExtra("zarr", "zarr", "formats"),
        WriteFailed("a.h5", OSError(27, "File too large")),
    ],
)
def test_a_sentence_reaches_another_process(problem):
    """Values of any kind do: a function is no thing to be sent."""
    there = pickle.loads(pickle.dumps(problem))
    assert (type(there), str(there), there.code) == (type(problem), str(problem), problem.code)
