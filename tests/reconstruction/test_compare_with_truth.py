"""A result beside the truth: the field, pixels and origins of both are laid on each other."""

from types import SimpleNamespace

import numpy as np
import pytest

from phaseloom.errors import BadInput
from phaseloom.reconstruction.compare import compare_with_truth

PIXEL = (0.2, 0.25)


def wave(y, x):
    """A smooth phase at places in angstrom."""
    return 0.4 * np.sin(2.1 * y + 0.3) * np.cos(1.7 * x) + 0.2 * np.sin(y * x / 9)


def sample(pixel, shape, origin=(0.0, 0.0)):
    y, x = (start + step * np.arange(size) for start, step, size in zip(origin, pixel, shape, strict=True))
    return wave(y[:, None], x[None, :])


def make_result(origin=(1.4, -0.75)):
    """What a comparison reads of a result: 60 x 56 pixels of which the beam crossed 44 x 40."""
    phase = sample(PIXEL, (60, 56), origin) + 0.7 + 0.01 * np.arange(56)
    named = {"phase": phase, "pixel": PIXEL, "origin": origin}
    return SimpleNamespace(**named, window=(slice(7, 51), slice(9, 49)))


@pytest.mark.parametrize(
    ("pixel", "origin"),
    [(None, (0.0, 0.0)), (None, (1.2, -1.0)), ((0.1, 0.1), (0.53, 0.0)), (PIXEL, (-2.0, 0.5))],
)
def test_the_truth_is_laid_on_the_result(pixel, origin):
    step = PIXEL if pixel is None else pixel
    truth = sample(step, (200, 220), origin)
    found = compare_with_truth(make_result(), truth, pixel=pixel, origin=origin)
    assert found.found.shape == found.truth.shape == (44, 40)
    assert found.error.nrmse < 2e-3
    assert np.hypot(*found.error.shift) < 0.02
    np.testing.assert_allclose(found.truth[3, 4], wave(1.4 + 0.2 * 10, -0.75 + 0.25 * 13), atol=1e-4)


def test_slices_and_transmissions_are_summed():
    truth = sample(PIXEL, (120, 120))
    whole = compare_with_truth(make_result(), truth).truth
    slices = np.stack([0.3 * truth, 0.7 * truth])
    for other in (slices, np.exp(1j * slices), np.exp(1j * truth)):
        np.testing.assert_allclose(compare_with_truth(make_result(), other).truth, whole, atol=1e-9)


def test_a_wrong_origin_is_seen_as_a_shift_of_pixels():
    truth = sample(PIXEL, (120, 120))
    found = compare_with_truth(make_result(), truth, origin=(0.4, 0.0))
    assert found.error.shift == pytest.approx((2, 0), abs=0.2)


@pytest.mark.parametrize(
    ("truth", "words"),
    [
        (sample(PIXEL, (50, 120)), "lie beyond the truth"),
        (np.zeros(30), "not a finite phase"),
        (np.full((120, 120), np.nan), "not a finite phase"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(truth, words):
    with pytest.raises(BadInput, match=words):
        compare_with_truth(make_result(), truth)
