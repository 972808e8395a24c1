"""Measures of colour images: values by hand, what leaves them alone, what raises them."""

import math

import numpy as np
import pytest
from skimage import color, metrics

from phaseloom.errors import BadInput
from phaseloom.metrics import colour, image

RNG = np.random.default_rng(7)
SCENE = np.clip(
    0.5
    + 0.12
    * np.stack([np.add.outer(np.sin(np.arange(43) / n), np.cos(np.arange(57) / n)) for n in (3, 4, 5)]),
    0,
    1,
)
FLAT = np.full((3, 21, 30), 0.4)


def contrast(factor: float) -> np.ndarray:
    return 0.5 + factor * (SCENE - 0.5)


def test_lab_agrees_with_scikit_image():
    noise = RNG.random((3, 9, 14))
    np.testing.assert_allclose(
        colour.convert_to_cielab(noise), color.rgb2lab(noise, channel_axis=0), atol=0.02
    )


def test_light_and_display_values_are_inverse():
    values = np.linspace(0, 1, 301)
    np.testing.assert_allclose(colour.encode_srgb(colour.decode_srgb(values)), values, atol=1e-6)
    assert colour.decode_srgb(np.float32([0.5])).dtype == np.float32


def test_a_grey_and_even_image_scores_nothing():
    assert colour.uiqm(FLAT) == 0
    assert colour.uciqe(FLAT) == pytest.approx(0, abs=1e-4)


def test_grey_has_no_colourfulness_but_sharpness_and_contrast():
    grey = np.broadcast_to(SCENE[:1], SCENE.shape)
    assert colour.underwater_colourfulness(grey) == 0
    assert colour.underwater_sharpness(grey) > 0.1
    assert colour.underwater_contrast(grey) > 0.1


def test_colourfulness_by_hand():
    """Half red of 1 and half black: both opponents are trimmed to means of 127.5 and 63.75."""
    half = np.zeros((3, 10, 20))
    half[0, :, 10:] = 1
    expected = -0.0268 * math.hypot(127.5, 63.75) + 0.1586 * math.sqrt(127.5**2 + 63.75**2)
    assert colour.underwater_colourfulness(half) == pytest.approx(expected)


def test_outliers_of_a_tenth_do_not_move_the_trimmed_mean():
    cast = np.zeros((3, 10, 10))
    cast[2] = 0.5
    spotted = cast.copy()
    spotted[0, 0] = 1.0  # a tenth of the pixels
    plain, moved = (colour.underwater_colourfulness(one) for one in (cast, spotted))
    spread = math.sqrt(0.1 * (255**2 + 127.5**2))
    assert moved - plain == pytest.approx(0.1586 * spread, rel=1e-9)


def test_sharpness_by_hand():
    """On a ramp the Sobel gradient is even but at the edges, so windows tell highest over lowest value."""
    ramp = np.linspace(0.1, 0.9, 30)
    edges = np.where(np.isin(np.arange(30), (0, 29)), 0.5, 1.0)  # half, as the image is repeated beyond
    windows = (edges * ramp).reshape(3, 10)
    expected = np.mean(2 * np.log(windows.max(1) / windows.min(1)))
    assert colour.underwater_sharpness(np.broadcast_to(ramp, (3, 30, 30))) == pytest.approx(expected)


def test_contrast_by_hand():
    r = 0.25
    checks = 0.4 * (1 + r * (-1.0) ** np.add.outer(np.arange(20), np.arange(31)))
    assert colour.underwater_contrast(np.stack([checks] * 3)) == pytest.approx(-r * math.log(r))


def test_a_factor_changes_neither_sharpness_nor_contrast():
    for measure in (colour.underwater_sharpness, colour.underwater_contrast):
        assert measure(0.5 * SCENE) == pytest.approx(measure(SCENE), rel=1e-9)


def test_what_is_left_over_after_whole_windows_does_not_count():
    wide = np.concatenate([SCENE[:, :40, :50], RNG.random((3, 40, 7))], 2)
    assert colour.underwater_contrast(wide) == colour.underwater_contrast(SCENE[:, :40, :50])


def test_turning_an_image_changes_nothing():
    square = SCENE[:, :40, :40]
    for measure in (colour.uiqm, colour.uciqe):
        assert measure(np.rot90(square, 1, (1, 2))) == pytest.approx(measure(square), rel=1e-9)


def test_more_contrast_scores_more():
    factors = (0.1, 0.3, 0.6, 1.0)
    for measure in (colour.uiqm, colour.uciqe, colour.underwater_contrast):
        values = [measure(contrast(factor)) for factor in factors]
        assert values == sorted(values)
        assert values[-1] > 1.2 * values[0]


def test_a_cast_lowers_colourfulness():
    tints = [SCENE * np.array([1 - cast, 1, 1])[:, None, None] for cast in (0.0, 0.4, 0.8)]
    values = [colour.underwater_colourfulness(tint) for tint in tints]
    assert values == sorted(values, reverse=True)


def test_uciqe_by_hand():
    """White and black halves: no chroma but that of rounding, and all of the lightness."""
    halves = np.zeros((3, 4, 10))
    halves[:, :, 5:] = 1
    assert colour.uciqe(halves) == pytest.approx(0.2745, abs=1e-4)
    blue = np.zeros((3, 2, 2))
    blue[2] = 1
    lightness, a, b = 32.297, 79.188, -107.860  # CIELAB of sRGB blue, D65
    chroma = math.hypot(a, b)
    assert colour.uciqe(blue) == pytest.approx(0.2576 * chroma / math.hypot(chroma, lightness), abs=1e-4)


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((20, 20)), np.zeros((20, 20, 3)), 255 * SCENE, SCENE - 1, np.where(SCENE > 0.6, np.nan, SCENE)],
)
def test_what_is_no_colour_image_of_zero_to_one_is_refused(wrong):
    for measure in (colour.uiqm, colour.uciqe):
        with pytest.raises(BadInput, match=r"metrics\.colour"):
            measure(wrong)


def test_less_than_a_window_is_refused():
    with pytest.raises(BadInput, match="10 x 10"):
        colour.uiqm(SCENE[:, :9])


def test_ssim_and_psnr_of_colours_agree_with_scikit_image():
    noisy = np.clip(SCENE + 0.1 * RNG.standard_normal(SCENE.shape), 0, 1)
    knobs = {"channel_axis": 0, "data_range": 1.0, "gaussian_weights": True, "sigma": 1.5}
    expected = metrics.structural_similarity(noisy, SCENE, use_sample_covariance=False, **knobs)
    assert image.ssim(noisy, SCENE, peak=1.0) == pytest.approx(expected, rel=1e-9)
    expected = metrics.peak_signal_noise_ratio(SCENE, noisy, data_range=1.0)
    assert image.psnr(noisy, SCENE, peak=1.0) == pytest.approx(expected, rel=1e-12)


def test_an_image_is_clipped_where_it_is_asked_for():
    bright = np.ones((3, 12, 13))
    over = bright + 0.5
    assert image.psnr(over, bright, peak=1.0) == pytest.approx(-10 * math.log10(0.25))
    assert image.psnr(over, bright, peak=1.0, within=(0, 1)) == math.inf
    assert image.ssim(over, bright, peak=1.0, within=(0, 1)) == pytest.approx(1)
