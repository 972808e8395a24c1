"""Objects that come from files: what their slices need."""

import numpy as np
import pytest

from phaseloom.errors import BadInput
from phaseloom.ptycho import objects
from phaseloom.ptycho.scans import Canvas

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
