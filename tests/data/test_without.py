"""Patterns are left out by number, by a list, or as an embedding names them."""

from dataclasses import replace

import numpy as np
import pytest

from phaseloom.data import prepare
from phaseloom.data.counts import MappedCounts
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput

GEOMETRY = Geometry(wavelength=0.02, shape=(3, 4), angle=(1e-3, 1e-3), beam="electron")


@pytest.fixture
def scan() -> Scan4D:
    places = np.indices((4, 5)).reshape(2, -1).T * [2.0, 3.0]
    counts = np.arange(1.0, 21)[:, None, None] * np.ones((3, 4))
    return Scan4D(counts=counts, positions=places, geometry=GEOMETRY, grid=(4, 5), weights=np.arange(1.0, 21))


def embedding(path, scan: Scan4D, unusual: list[int]) -> None:
    np.savez(path, unusual=np.array(unusual), positions=scan.positions)


def test_what_is_named_is_left_out_with_all_that_belongs_to_it(scan):
    left = prepare.without(scan, numbers=(3, 0, 3))
    kept = np.delete(np.arange(20), [0, 3])
    np.testing.assert_array_equal(left.counts[:, 0, 0], kept + 1)
    np.testing.assert_array_equal(left.positions, scan.positions[kept])
    np.testing.assert_array_equal(left.weights, scan.weights[kept])
    assert left.grid is None


def test_lists_embeddings_and_numbers_say_the_same(scan, tmp_path):
    expected = prepare.without(scan, numbers=(7, 19)).positions
    (tmp_path / "bad.txt").write_text("# lost frames\n7\n19\n")
    np.save(tmp_path / "bad.npy", np.array([19, 7]))
    embedding(tmp_path / "bad.npz", scan, [7, 19])
    for name in ("bad.txt", "bad.npy", "bad.npz"):
        np.testing.assert_array_equal(prepare.without(scan, path=tmp_path / name).positions, expected)
    both = prepare.without(scan, path=tmp_path / "bad.txt", numbers=(0,))
    np.testing.assert_array_equal(both.positions, expected[1:])


def test_blank_patterns_do_not_shift_the_numbers_of_an_embedding(scan, tmp_path):
    lit = scan.select(np.delete(np.arange(20), [2, 5]))  # as a recipe leaves out blank ones at its end
    embedding(tmp_path / "bad.npz", lit, [1, 9])
    left = prepare.without(scan, path=tmp_path / "bad.npz")
    np.testing.assert_array_equal(left.counts[:, 0, 0], np.delete(np.arange(20), [1, 11]) + 1)


def test_patterns_read_lazily_stay_lazy(scan):
    lazy = replace(scan, counts=MappedCounts(scan.counts, lambda a: a, scan.counts.shape, scan.counts.dtype))
    left = prepare.without(lazy, numbers=(4,))
    assert not isinstance(left.counts, np.ndarray)
    index = np.arange(19)
    np.testing.assert_array_equal(left.counts[index], prepare.without(scan, numbers=(4,)).counts)


def test_bad_input_is_a_sentence(scan, tmp_path):
    (tmp_path / "half.txt").write_text("1.5\n")
    np.savez(tmp_path / "other.npz", object=np.ones(3))
    embedding(tmp_path / "moved.npz", replace(scan, positions=scan.positions + 1), [3])
    repeated = replace(scan.select(np.arange(19)), positions=np.zeros((19, 2)))
    embedding(tmp_path / "repeated.npz", repeated, [3])
    cases = {
        "needs numbers of patterns, or the path": {},
        "20 is not a pattern of this scan: count from 0 to 19": {"numbers": (20,)},
        "-1 is not a pattern": {"numbers": (-1,)},
        "leaves no pattern": {"numbers": tuple(range(20))},
        "must hold whole numbers": {"path": tmp_path / "half.txt"},
        "names no patterns that stand out": {"path": tmp_path / "other.npz"},
        "is of a scan with other positions": {"path": tmp_path / "moved.npz"},
        "is of 19 patterns but there are 20": {"path": tmp_path / "repeated.npz"},
        "does not exist": {"path": tmp_path / "nowhere.h5"},
    }
    for sentence, knobs in cases.items():
        with pytest.raises(BadInput, match=sentence):
            prepare.without(replace(scan, positions=scan.positions), **knobs)
