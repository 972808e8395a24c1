"""Agreement of phases against formulas written out, and what it must not forgive."""

import numpy as np
import pytest

from phaseloom.errors import BadInput
from phaseloom.metrics.phase import Agreement, measure_agreement


def pair(seed: int = 0, shape: tuple[int, int] = (24, 19)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=shape).cumsum(0)
    return truth + 0.3 * rng.normal(size=shape), truth


@pytest.mark.parametrize("rim", [0, 3])
def test_numbers_are_those_of_the_formulas(rim):
    image, truth = pair()
    found = measure_agreement(image, truth, rim=rim)
    a, b = (part[rim : part.shape[0] - rim, rim : part.shape[1] - rim] for part in (image, truth))
    error = (a - a.mean()) - (b - b.mean())
    assert found.nmse == pytest.approx(np.mean(error**2) / b.var())
    assert found.correlation == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1])
    assert found.psnr == pytest.approx(10 * np.log10(np.ptp(b) ** 2 / np.mean(error**2)))


def test_similarity_is_that_of_another_code():
    metrics = pytest.importorskip("skimage.metrics")
    image, truth = pair()
    image, truth = image - image.mean(), truth - truth.mean()
    wanted = metrics.structural_similarity(
        image, truth, data_range=np.ptp(truth), gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert measure_agreement(image, truth).ssim == pytest.approx(wanted, abs=1e-6)


def test_only_the_constant_is_forgiven():
    _, truth = pair()
    assert measure_agreement(truth - 7.0, truth).nmse < 1e-20
    assert measure_agreement(truth - 7.0, truth).correlation == pytest.approx(1.0)
    assert measure_agreement(0.5 * truth, truth).nmse == pytest.approx(0.25)
    assert measure_agreement(-truth, truth).correlation == pytest.approx(-1.0)
    ramp = np.linspace(0, 5, truth.shape[1])
    assert measure_agreement(truth + ramp, truth).nmse > 0.1
    assert measure_agreement(np.roll(truth, 1, 1), truth).nmse > 0.1


def test_a_rim_is_not_looked_at_nor_does_it_make_the_constant():
    image, truth = pair()
    spoiled = image.copy()
    spoiled[:2] = spoiled[-2:] = 50.0
    spoiled[:, :2] = spoiled[:, -2:] = -80.0
    assert measure_agreement(spoiled, truth, rim=2) == measure_agreement(image, truth, rim=2)
    assert measure_agreement(spoiled, truth, rim=1) != measure_agreement(image, truth, rim=1)


def test_a_flat_image_agrees_with_nothing():
    _, truth = pair()
    found = measure_agreement(np.full_like(truth, 4.0), truth)
    assert (found.nmse, found.correlation) == (pytest.approx(1.0), 0.0)


@pytest.mark.parametrize("shape", [(24, 18), (24, 19, 1), (19, 24)])
def test_another_shape_is_refused(shape):
    with pytest.raises(BadInput, match="image of the shape of the truth"):
        measure_agreement(np.zeros(shape), pair()[1])


def test_a_truth_that_is_the_same_everywhere_is_refused():
    with pytest.raises(BadInput, match="same everywhere"):
        measure_agreement(pair()[0], np.ones((24, 19)))


def test_a_rim_that_leaves_too_little_is_refused_in_a_sentence():
    with pytest.raises(BadInput):
        measure_agreement(*pair(), rim=9)
    with pytest.raises(BadInput):
        measure_agreement(*pair(), rim=12)


def test_in_a_mean_every_image_counts_the_same():
    found = [measure_agreement(*pair(seed, shape)) for seed, shape in ((0, (20, 20)), (1, (40, 30)))]
    mean = Agreement.mean(found)
    assert mean.nmse == pytest.approx((found[0].nmse + found[1].nmse) / 2)
    assert mean.ssim == pytest.approx((found[0].ssim + found[1].ssim) / 2)
    assert f"CC {mean.correlation:.4f}" in str(mean)
