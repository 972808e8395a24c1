"""Objects that come from files: what their slices need."""

import h5py
import numpy as np
import pytest

from phaseloom.errors import BadInput
from phaseloom.ptycho import objects
from phaseloom.ptycho.scans import Canvas
from phaseloom.retrieval.prediction import Prediction

CANVAS = Canvas((40, 40), (16, 16), (0.2, 0.2), (0.0, 0.0))


@pytest.fixture
def three_slices(tmp_path):
    np.save(tmp_path / "object.npy", np.exp(1j * np.full((3, 40, 40), 0.1)).astype(np.complex64))
    return tmp_path / "object.npy"


def test_slices_of_a_bare_array_need_a_distance(three_slices):
    with pytest.raises(BadInput, match=r"from_file\.thickness: is missing"):
        objects.from_file(CANVAS, path=three_slices)


def test_slices_of_a_bare_array_lie_at_the_distance_that_is_given(three_slices):
    assert tuple(objects.from_file(CANVAS, path=three_slices, thickness=5.0).gaps) == (5.0, 5.0)
    assert tuple(objects.from_file(CANVAS, path=three_slices, thickness=[5.0, 7.0]).gaps) == (5.0, 7.0)


@pytest.mark.parametrize("rotation", [0.0, 0.4])
def test_a_prediction_lies_where_the_network_put_it(rotation, tmp_path):
    """Against the splines of `Prediction.sample`, away from the rim."""
    rows, columns = np.mgrid[:40, :44]
    phase = 0.1 * np.sin(rows / 5.0) * np.cos(columns / 4.0)
    made = {"pixel": (0.5, 0.6), "origin": (-3.0, 7.0), "rotation": rotation}
    prediction = Prediction(phase, **made, notes=(), told=(), semiangle=0.02, aberrations={}, model="one")
    path = tmp_path / "prediction.h5"
    with h5py.File(path, "w") as file:
        file.attrs["phaseloom_prediction"] = 1
        file["phase"] = phase
        for name, value in made.items():
            file[name] = value
    middle = np.array([20.0, 22.0]) * made["pixel"]
    cosine, sine = np.cos(rotation), np.sin(rotation)
    middle = middle @ np.array([[cosine, sine], [-sine, cosine]]) + made["origin"]
    room = Canvas((24, 20), (8, 8), (0.4, 0.3), tuple((middle - np.array([24, 20]) * (0.2, 0.15)).tolist()))
    thing = objects.from_file(room, path=path, kind="phase")
    grid = np.stack(np.mgrid[:24, :20], -1) * room.pixel + room.origin
    wanted = prediction.sample(grid)
    found = thing.transmission().detach().angle()[0, 0].numpy()
    assert np.abs(wanted).max() > 0.05
    np.testing.assert_allclose(found, wanted, atol=2e-4)
