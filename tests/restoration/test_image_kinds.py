"""What of an image's values is arbitrary is taken off, and put back, on any pixels."""

import json

import numpy as np
import pytest

from phaseloom.errors import BadInput
from phaseloom.restoration.baselines import upsample_bilinear
from phaseloom.restoration.pairs import image_kinds as tasks
from phaseloom.restoration.pairs.folders import ImagePairs, Pair

ALL = [tasks.photograph(), tasks.phase(), tasks.virtual_detector()]


def images(count: int = 2) -> np.ndarray:
    return np.random.default_rng(0).normal(3, 2, (count, 13, 10))


@pytest.mark.parametrize("task", ALL, ids=lambda task: task.name)
def test_what_is_taken_off_is_put_back(task):
    image = images() if task.value_range is None else images() / 20
    level = task.fit_normalisation(image)
    np.testing.assert_allclose(level.invert(level.apply(image)), image, atol=1e-5)


@pytest.mark.parametrize("task", ALL[1:], ids=lambda task: task.name)
def test_brightness_and_contrast_are_gone(task):
    taken = [task.fit_normalisation(image).apply(image) for image in (images(), 40 - 3e-3 * images())]
    np.testing.assert_allclose(taken[0], -taken[1], atol=1e-4)


def test_a_plane_is_the_same_on_finer_pixels():
    y, x = np.mgrid[:12, :20]
    plane = (2 - 0.3 * y + 0.1 * x)[None].astype(np.float32)
    fine = tasks.phase().fit_normalisation(plane).apply(upsample_bilinear(plane))[0]
    assert abs(fine[1:-1, 1:-1]).max() < 1e-4


def test_a_pair_of_phases_loses_the_plane_of_each():
    y, x = np.mgrid[:16, :16]
    clean = np.exp(-((y - 8) ** 2 + (x - 6) ** 2) / 4.0)[None]
    pair = Pair("p", clean + 1 + 0.1 * x, clean - 4 + 0.3 * y, np.repeat(np.repeat(clean, 2, 1), 2, 2))
    seen = tasks.phase().normalise_pair(pair)
    assert abs(seen.input - seen.target).max() < 0.02
    assert seen.fine is not None


def test_the_scale_of_a_pair_is_that_of_its_input():
    pair = Pair("p", images(1), 0.1 * images(1))
    seen = tasks.virtual_detector().normalise_pair(pair)
    assert np.ptp(seen.input) == pytest.approx(10 * np.ptp(seen.target), rel=1e-5)


def test_a_flat_image_and_one_that_is_not_finite():
    for task in ALL:
        flat = np.full((1, 5, 7), 0.7)
        assert np.isfinite(task.fit_normalisation(flat).apply(flat)).all()
        with pytest.raises(BadInput, match="1 of 35 values are not finite"):
            task.fit_normalisation(np.where(np.arange(35).reshape(1, 5, 7) == 3, np.nan, flat))


@pytest.fixture
def folder(tmp_path):
    for side in ("input", "gt"):
        (tmp_path / "train" / side).mkdir(parents=True)
        for name in "abc":
            np.save(tmp_path / "train" / side / f"{name}.npy", np.zeros((1, 8, 8), np.float32))
    return tmp_path


def test_a_data_set_says_which_pairs_show_the_same(folder):
    told = {"pairs": {f"train/{name}.npy": {"scene": scene} for name, scene in [("a", "sea"), ("b", "sea")]}}
    (folder / "meta.json").write_text(json.dumps(told))
    scenes = ImagePairs.of(folder).scenes
    assert scenes is not None
    assert scenes[0] == scenes[1] != scenes[2]
    assert ImagePairs.of(folder)[1:].scenes == scenes[1:]


@pytest.mark.parametrize("values", [81.0, -3.0, 255.0])
def test_what_is_no_photograph_is_said(values):
    image = np.full((3, 4, 4), values)
    with pytest.raises(BadInput, match="must lie within 0 to 1"):
        tasks.photograph().fit_normalisation(image)
    with pytest.raises(BadInput, match="must lie within 0 to 1"):
        tasks.photograph().normalise_pair(Pair("p", np.zeros((3, 4, 4)), image))


def test_a_list_of_scenes_that_says_nothing_is_refused(folder):
    (folder / "meta.json").write_text('{"pairs": {"train/a.npy": "sea"}}')
    with pytest.raises(BadInput, match=r"meta\.json: does not say"):
        ImagePairs.of(folder)


def test_a_list_of_scenes_that_names_what_is_not_there_is_refused(folder):
    (folder / "meta.json").write_text('{"pairs": {"train/a": {"scene": "sea"}}}')
    with pytest.raises(BadInput, match="train/a is not an input file"):
        ImagePairs.of(folder)
