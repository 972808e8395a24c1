"""Names from the literature mean what scikit-image means by them."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from phaseloom.metrics import image, phase

measure = pytest.importorskip("skimage.metrics")
registration = pytest.importorskip("skimage.registration")


@pytest.fixture
def pair():
    noise = np.random.default_rng(7).normal(size=(2, 57, 70))
    truth = gaussian_filter(noise[0], 2)
    return truth + 0.1 * gaussian_filter(noise[1], 0.7), truth


def test_psnr_is_that_of_scikit_image(pair):
    theirs = measure.peak_signal_noise_ratio(pair[1], pair[0], data_range=0.8)
    assert image.psnr(*pair, peak=0.8) == pytest.approx(theirs, rel=1e-12)


def test_ssim_is_that_of_scikit_image(pair):
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    theirs = measure.structural_similarity(*pair, data_range=0.9, **options)
    assert image.ssim(*pair, peak=0.9) == pytest.approx(theirs, rel=1e-9)


def test_ssim_of_a_stack_is_the_mean_over_its_images(pair):
    one, two = pair
    both = image.ssim(np.stack([one, two]), np.stack([two, two]), peak=1)
    assert both == pytest.approx((image.ssim(one, two, peak=1) + 1) / 2)


def test_shifts_are_those_of_scikit_image(pair):
    window = np.outer(np.hanning(57), np.hanning(70))
    moved = phase.shift_image(pair[1], (1.7, -2.3))
    parts = [(part - part.mean()) * window for part in (pair[1], moved)]
    theirs, *_ = registration.phase_cross_correlation(*parts, upsample_factor=100, normalization=None)
    np.testing.assert_allclose(phase.find_shift(moved, pair[1]), theirs, atol=0.011)
