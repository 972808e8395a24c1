"""What needs no network: corrections of colour, one matrix, and fit_denoisers at their best strength."""

import sys

import numpy as np
import pytest

from phaseloom.errors import BadInput, MissingExtra
from phaseloom.restoration.baselines import (
    ColourMatrix,
    Denoiser,
    fit_denoisers,
    gray_world,
    nonlocal_means,
    stretch,
    total_variation,
    upsample_bilinear,
)
from phaseloom.restoration.pairs.folders import Pair

RNG = np.random.default_rng(11)
MATRIX = np.array([[0.8, 0.1, 0.0, 0.05], [0.2, 0.9, -0.1, 0.0], [0.0, 0.3, 1.2, -0.02]])
IMAGE = RNG.random((3, 13, 18))


def mixed(image: np.ndarray) -> np.ndarray:
    return np.tensordot(MATRIX[:, :3], image, 1) + MATRIX[:, 3:, None]


def noisy(count: int = 2, noise: float = 0.3, scale: float = 1.0) -> list[Pair]:
    """Steps with noise, one channel, in any unit."""
    rng, pairs = np.random.default_rng(4), []
    for number in range(count):
        steps = np.kron(rng.integers(0, 3, (4, 5)), np.ones((8, 7)))[None] - 1.0
        given = steps + noise * rng.standard_normal(steps.shape)
        pairs.append(Pair(str(number), scale * given, scale * steps))
    return pairs


def error(restore, pairs: list[Pair]) -> float:
    return float(np.sqrt(np.mean([np.mean((restore(pair.input) - pair.target) ** 2) for pair in pairs])))


def test_the_fit_recovers_a_known_matrix_from_several_pairs():
    pairs = [Pair(str(n), image, mixed(image)) for n, image in enumerate(RNG.random((3, 3, 7, 9)))]
    found = ColourMatrix.fit(pairs)
    np.testing.assert_allclose(found.rows, MATRIX, atol=1e-9)
    np.testing.assert_allclose(found(IMAGE), mixed(IMAGE), atol=1e-9)
    assert found == ColourMatrix.fit(iter(pairs))
    assert found(IMAGE.astype(np.float32)).dtype == np.float32


def test_no_other_matrix_fits_noisy_pairs_better():
    pairs = [Pair("n", IMAGE, mixed(IMAGE) + 0.1 * RNG.standard_normal(IMAGE.shape))]
    found = ColourMatrix.fit(pairs)
    best = error(found, pairs)
    for row, column in ((0, 1), (2, 3)):
        rows = np.array(found.rows)
        rows[row, column] += 1e-2
        assert error(ColourMatrix(tuple(map(tuple, rows))), pairs) > best


def test_a_channel_that_is_always_dark_does_not_spoil_the_fit():
    dark = IMAGE * np.array([0, 1, 1])[:, None, None]
    found = ColourMatrix.fit([Pair("dark", dark, 2 * dark)])
    np.testing.assert_allclose(found.rows[1], (0, 2, 0, 0), atol=1e-9)
    assert abs(np.array(found.rows)[:, 0]).max() < 1e-9


def test_a_matrix_works_with_any_number_of_channels():
    pair = Pair("phase", IMAGE[:1], 3 * IMAGE[:1] - 1)
    np.testing.assert_allclose(ColourMatrix.fit([pair]).rows, ((3, -1),), atol=1e-9)


def test_gray_world_undoes_a_cast_of_a_grey_scene():
    grey = np.broadcast_to(IMAGE[:1], IMAGE.shape)
    cast = grey * np.array([0.3, 0.8, 1.0])[:, None, None]
    np.testing.assert_allclose(gray_world(cast), 0.7 * grey, rtol=1e-12)
    dark = IMAGE * np.array([0, 1, 1])[:, None, None]
    np.testing.assert_array_equal(gray_world(dark)[0], 0)


def test_stretching_undoes_gain_and_offset_of_every_channel():
    gain, offset = np.array([0.2, 0.5, 0.9])[:, None, None], np.array([0.1, 0.3, 0.0])[:, None, None]
    np.testing.assert_allclose(stretch(gain * IMAGE + offset), stretch(IMAGE), atol=1e-9)
    assert (stretch(IMAGE).min(), stretch(IMAGE).max()) == (0, 1)
    flat = np.full((1, 4, 5), 0.3)
    np.testing.assert_array_equal(stretch(flat), flat)


def test_upsampling_keeps_a_ramp_a_ramp():
    ramp = np.broadcast_to(np.arange(7.0)[:, None], (2, 7, 4))
    fine = upsample_bilinear(ramp)
    assert fine.shape == (2, 14, 8)
    np.testing.assert_allclose(np.diff(fine[0, 1:-1, 3]), 0.5)


def test_every_denoiser_at_its_best_beats_the_input_and_its_own_neighbours():
    pairs = noisy()
    before = error(lambda image: image, pairs)
    for denoiser in fit_denoisers(pairs):
        best = error(denoiser, pairs)
        assert best < 0.75 * before, denoiser
        for factor in (0.7, 1.4):
            other = Denoiser(denoiser.method, factor * denoiser.strength)
            assert error(other, pairs) > best * 0.99, denoiser


def test_more_noise_wants_more_strength():
    for method in ("gaussian", "total_variation", "nonlocal_means"):
        weak, strong = (Denoiser.fit(method, noisy(1, noise)).strength for noise in (0.1, 0.5))
        assert strong > 1.3 * weak, method


def test_strengths_follow_the_unit_of_the_images():
    for method in ("total_variation", "nonlocal_means"):
        one, other = (Denoiser.fit(method, noisy(1, scale=scale)).strength for scale in (1.0, 50.0))
        assert other == pytest.approx(50 * one, rel=0.15), method


def test_channels_are_denoised_by_themselves():
    two = np.concatenate([noisy(1)[0].input, np.zeros((1, 32, 35))])
    for method in ("gaussian", "total_variation", "nonlocal_means"):
        found = Denoiser(method, 0.5)(two)
        np.testing.assert_allclose(found[:1], Denoiser(method, 0.5)(two[:1]), atol=1e-12)
        np.testing.assert_allclose(found[1], 0, atol=1e-12)


def test_wishes_that_cannot_be_met_are_a_sentence():
    same = Pair("same", IMAGE, IMAGE)
    cases = {
        "has no pair": lambda: ColourMatrix.fit([]),
        "one: 1 channel but same has 3": lambda: ColourMatrix.fit([same, Pair("one", IMAGE[:1], IMAGE[:1])]),
        "1 channel but the matrix was fitted to 3": lambda: ColourMatrix.fit([same])(IMAGE[:1]),
        "gaussian: has no pair": lambda: fit_denoisers([]),
        "equal to targets": lambda: fit_denoisers([same]),
        "median is not a method": lambda: Denoiser.fit("median", noisy(1)),
        "above zero": lambda: Denoiser("gaussian", 0.0),
        "less than a half": lambda: stretch(IMAGE, share=0.5),
        "must be an image": lambda: gray_world(IMAGE[0]),
    }
    for sentence, attempt in cases.items():
        with pytest.raises(BadInput, match=sentence):
            attempt()


def test_without_scikit_image_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    for denoise in (total_variation, nonlocal_means):
        with pytest.raises(MissingExtra, match=r"phaseloom\[restore\]"):
            denoise(IMAGE, strength=0.1)
