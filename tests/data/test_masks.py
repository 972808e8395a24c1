"""Masks of a user's own: ones that are bad pixels by their name, or by the counts, are read so and said."""

import logging

import h5py
import numpy as np
import pytest

from phaseloom.data import formats, prepare
from phaseloom.data.formats.quantities.masks import interpret_mask

SHAPE = (12, 16)
KNOBS = {"energy": "9.1 keV", "beam": "photon", "angle": "1 mrad", "grid": [2, 3], "step": "1 um"}


def make_bad() -> np.ndarray:
    """A gap of the detector: three columns."""
    bad = np.zeros(SHAPE, bool)
    bad[:, 5:8] = True
    return bad


def make_counts(*, hot: int = 0) -> np.ndarray:
    """Six patterns that the gap crosses; hot pixels in it on request."""
    counts = np.random.default_rng(0).poisson(20, (6, *SHAPE))
    counts[:, make_bad()] = 0
    counts[:, :hot, 6] = 100_000
    return counts.astype(np.uint32)


def read(folder, name: str, mask: np.ndarray, caplog, *, hot: int = 0, **knobs):
    """The good pixels that are read, and what was said."""
    with h5py.File(folder / "own.h5", "w") as file:
        file["measurement/eiger/frames"] = make_counts(hot=hot)
        file[name] = mask
    with caplog.at_level(logging.WARNING):
        scan = formats.read(folder / "own.h5", knobs={**KNOBS, "mask": name, **knobs})
    return scan.mask, caplog.text


NAMES_OF_BAD = ["badpix", "bad_pixels", "bad pixel mask", "BadPixelMask", "dead", "hot_pixels"]


@pytest.mark.parametrize("name", NAMES_OF_BAD)
def test_ones_of_a_mask_of_bad_pixels_are_bad_and_that_is_said(tmp_path, caplog, name):
    good, said = read(tmp_path, f"measurement/eiger/{name}", make_bad().astype(np.uint8), caplog)
    np.testing.assert_array_equal(good, ~make_bad())
    assert "ones are read as bad pixels" in said
    assert "mask_ones: good" in said
    assert said.count("\n") == 1


def test_a_small_mask_without_the_counts_is_read_as_one_of_bad_pixels(tmp_path, caplog):
    good, said = read(tmp_path, "mask", make_bad().astype(np.uint8), caplog)
    np.testing.assert_array_equal(good, ~make_bad())
    assert "mask_ones: good" in said


def test_hot_pixels_do_not_make_a_mask_of_bad_pixels_one_of_good_ones(tmp_path, caplog):
    good, _ = read(tmp_path, "mask", make_bad().astype(np.uint8), caplog, hot=1)
    np.testing.assert_array_equal(good, ~make_bad())


def test_a_small_mask_that_holds_the_counts_is_one_of_good_pixels_and_that_is_said(tmp_path, caplog):
    lit = np.zeros(SHAPE, bool)
    lit[4:8, 6:11] = True
    mean = np.where(lit, 50.0, 0.1)
    with caplog.at_level(logging.WARNING):
        good = interpret_mask(lit, "mask", "mask", SHAPE, mean=lambda: mean)
    np.testing.assert_array_equal(good, lit)
    assert "mask_ones: bad" in caplog.text


@pytest.mark.parametrize("name", ["mask", "good", "not_bad", "valid", "hotel"])
def test_a_mask_of_good_pixels_is_read_without_a_word(tmp_path, caplog, name):
    good, said = read(tmp_path, name, (~make_bad()).astype(np.uint8), caplog)
    np.testing.assert_array_equal(good, ~make_bad())
    assert said == ""


def test_a_name_that_says_bad_is_not_believed_against_most_of_the_counts(tmp_path, caplog):
    good, said = read(tmp_path, "badpix", (~make_bad()).astype(np.uint8), caplog)
    np.testing.assert_array_equal(good, ~make_bad())
    assert "mask_ones: bad" in said


@pytest.mark.parametrize(("ones", "sign"), [("good", 1), ("bad", 0)])
@pytest.mark.parametrize("name", ["mask", "badpix"])
def test_what_is_stated_is_followed_in_silence(tmp_path, caplog, name, ones, sign):
    good, said = read(tmp_path, name, make_bad().astype(np.uint8), caplog, mask_ones=ones)
    np.testing.assert_array_equal(good, make_bad() == bool(sign))
    assert said == ""


def test_a_file_of_prepare_is_read_in_the_same_way(tmp_path, caplog):
    np.save(tmp_path / "badpix.npy", make_bad())
    _, _ = read(tmp_path, "mask", np.ones(SHAPE, np.uint8), caplog)
    scan = formats.read(tmp_path / "own.h5", knobs=KNOBS)
    path = tmp_path / "badpix.npy"
    np.testing.assert_array_equal(prepare.mask(scan, path=path).mask, ~make_bad())
    np.testing.assert_array_equal(prepare.mask(scan, path=path, mask_ones="good").mask, make_bad())
