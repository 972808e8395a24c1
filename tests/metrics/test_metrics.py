"""Metrics obey their laws: what cannot be measured does not count, and what differs does."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from phaseloom.errors import BadInput
from phaseloom.metrics import image, phase, resolution

ROWS, COLUMNS = np.mgrid[:61, :74]


def scene(seed=0, shape=(61, 74), width=2.0):
    values = gaussian_filter(np.random.default_rng(seed).normal(size=shape), width, mode="wrap")
    return values / np.ptp(values)


def bumps(y, x):
    return np.cos(0.31 * y + 0.12 * x) + 0.7 * np.sin(0.23 * x - 0.4 * y) + 0.5 * np.cos(0.5 * x)


def test_shift_constant_and_ramp_are_no_error():
    moved = bumps(ROWS - 1.5, COLUMNS + 2.25) + 3 + 0.02 * ROWS - 0.01 * COLUMNS
    error = phase.phase_error(moved, bumps(ROWS, COLUMNS))
    assert error.nrmse < 0.05
    assert error.pearson > 0.999
    np.testing.assert_allclose(error.shift, (-1.5, 2.25), atol=0.1)


def test_a_doubled_phase_is_a_whole_error_but_a_perfect_shape():
    truth = bumps(ROWS, COLUMNS)
    error = phase.phase_error(2 * truth, truth)
    assert error.nrmse == pytest.approx(1, abs=1e-9)
    assert (error.scale, error.nrmse_scaled) == pytest.approx((0.5, 0), abs=1e-9)


def test_the_phase_error_keeps_its_numbers():
    truth = bumps(ROWS, COLUMNS)
    error = phase.phase_error(1.1 * bumps(ROWS - 0.5, COLUMNS) + 0.2 * bumps(COLUMNS, ROWS), truth)
    frozen = (0.2256812704, 0.9835172550)
    assert (error.nrmse, error.pearson) == pytest.approx(frozen, rel=1e-6)


def test_tensors_are_welcome():
    truth = bumps(ROWS, COLUMNS)
    error = phase.phase_error(torch.from_numpy(truth), truth)
    assert error.nrmse < 1e-12
    assert image.psnr(torch.zeros(3, 3), torch.ones(3, 3), peak=1) == 0


def test_a_ramp_is_fitted_only_where_the_weight_is():
    plane = 1 + 0.3 * ROWS - 0.2 * COLUMNS
    spoilt = np.where(ROWS < 20, 50.0, plane)
    spoilt[0, 0] = np.nan
    flat = phase.remove_ramp(spoilt, ROWS >= 20)
    np.testing.assert_allclose(flat[20:], 0, atol=1e-9)


@pytest.mark.parametrize("weight", [np.zeros((61, 74)), np.ones((3, 3))])
def test_an_impossible_weight_is_refused(weight):
    with pytest.raises(BadInput, match="weight"):
        phase.remove_ramp(np.zeros((61, 74)), weight)


def test_an_image_comes_back_onto_its_reference():
    reference = bumps(ROWS, COLUMNS)
    aligned = phase.align(bumps(ROWS + 2.4, COLUMNS - 1.3), reference)
    inner = (slice(8, -8), slice(8, -8))
    assert abs(aligned - reference)[inner].max() < 0.03 * np.ptp(reference)


def test_a_shift_and_its_opposite_cancel_within():
    values = scene() + 1j * scene(1)
    back = phase.shift_image(phase.shift_image(values, (1.25, -3.5)), (-1.25, 3.5))
    np.testing.assert_allclose(back[12:-12, 12:-12], values[12:-12, 12:-12], atol=0.01)


def test_a_wrapping_ramp_is_levelled_in_each_slice():
    specimen = np.stack([0.3 * scene(), 0.3 * scene(1)])
    ramps = np.stack([0.8 * ROWS - 0.5 * COLUMNS, 2 + 0.3 * COLUMNS])
    flat = phase.sum_phase(phase.remove_plane_wave(np.exp(1j * (specimen + ramps))))
    assert phase.phase_error(flat, specimen.sum(0)).nrmse < 1e-6


def test_slices_add_up_beyond_one_turn():
    thick = np.stack([np.full((3, 5), 2.5), np.linspace(-1, 1, 15).reshape(3, 5), np.full((3, 5), 2.5)])
    np.testing.assert_allclose(phase.sum_phase(np.exp(1j * thick)), thick.sum(0), atol=1e-12)


def test_shapes_that_differ_are_refused():
    with pytest.raises(BadInput, match="one shape"):
        phase.phase_error(np.zeros((40, 40)), np.zeros((40, 41)))
    with pytest.raises(BadInput, match="margin"):
        phase.phase_error(scene(), scene(), margin=40)


def naive_rings(a, b, pixel):
    """Ring by ring, pixel by pixel."""
    (rows, columns), (py, px) = a.shape, pixel
    first, second = np.fft.fft2(a), np.fft.fft2(b)
    width = max(1 / (rows * py), 1 / (columns * px))
    sums = {}
    for i, fy in enumerate(np.fft.fftfreq(rows, py)):
        for j, fx in enumerate(np.fft.fftfreq(columns, px)):
            ring = sums.setdefault(round(float(np.hypot(fy, fx) / width)), [0, 0.0, 0.0, 0])
            ring[0] += first[i, j] * np.conj(second[i, j])
            ring[1] += abs(first[i, j]) ** 2
            ring[2] += abs(second[i, j]) ** 2
            ring[3] += 1
    return {k: (v[0].real / np.sqrt(v[1] * v[2]), v[3]) for k, v in sums.items()}


@pytest.mark.parametrize("kind", [float, complex])
def test_rings_agree_with_a_sum_written_out(kind):
    one, two = scene(0, (21, 34), 1.0).astype(kind), scene(0, (21, 34), 1.0) + 0.3 * scene(1, (21, 34), 0.3)
    one = one * np.exp(0.3j) if kind is complex else one
    curve = resolution.ring_correlation(one, two, pixel=(1.5, 0.7), window="none")
    expected = naive_rings(one, two, (1.5, 0.7))
    share = 1 if kind is complex else 2
    for ring, (value, count) in zip(range(len(curve.value)), sorted(expected.items()), strict=False):
        assert curve.value[ring] == pytest.approx(count[0], abs=1e-9), value
        assert curve.counts[ring] == max(count[1] / share, 1)


def test_an_image_agrees_with_itself_to_the_last_ring():
    curve = resolution.ring_correlation(scene(), 3 * scene(), pixel=(0.5, 0.25))
    np.testing.assert_allclose(curve.value[1:], 1, atol=1e-9)
    assert curve.frequency[-1] <= 1.0
    assert curve.resolution() == pytest.approx(1 / curve.frequency[-1])


def test_noise_agrees_with_nothing():
    noise = np.random.default_rng(2).normal(size=(2, 90, 77))
    curve = resolution.ring_correlation(noise[0], noise[1])
    assert abs(curve.value[8:].mean()) < 0.05
    assert resolution.ring_correlation(noise[0], -noise[0]).resolution() == np.inf


def test_the_half_bit_threshold_has_its_published_limits():
    curve = resolution.ring_correlation(scene(), scene())
    assert curve.threshold_half_bit[0] == pytest.approx(1, abs=1e-4)
    assert 0.2071 / 1.2071 < curve.threshold_half_bit[-1] < 0.45
    np.testing.assert_allclose(curve.threshold_one_seventh, 1 / 7)


def test_resolution_is_where_the_signal_ends():
    noise = np.random.default_rng(3).normal(size=(2, 128, 120))
    band = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.fftfreq(120)) < 0.25
    signal = np.fft.ifft2(np.fft.fft2(np.random.default_rng(4).normal(size=(128, 120))) * band).real
    curve = resolution.ring_correlation(*(30 * signal + 0.3 * noise), pixel=(2.0, 2.0))
    assert curve.resolution("1/7") == curve.resolution("One seventh") == curve.resolution("one-seventh")
    for threshold in ("half-bit", "one-seventh", 0.5):
        assert curve.resolution(threshold) == pytest.approx(2 / 0.25, rel=0.08)
    with pytest.raises(BadInput, match="half-bit"):
        curve.resolution("two bits")


def test_registration_undoes_what_no_data_can_fix():
    wave = np.exp(2j * scene(5, (101, 110), 1.5))
    y, x = np.mgrid[:101, :110]
    gauge = 0.8 * np.exp(1j * (1.2 + 0.2 * y - 0.13 * x))
    one, two = resolution.register(phase.shift_image(wave, (2.4, -3.7)) * gauge, wave[1:, 2:])
    curve = resolution.ring_correlation(one, two)
    assert one.shape == two.shape
    assert curve.value[: len(curve.value) // 3].min() > 0.98


def test_a_margin_that_leaves_nothing_is_refused():
    with pytest.raises(BadInput, match="margin"):
        resolution.register(scene(), scene(), margin=30)


def test_rings_need_two_images_of_one_shape():
    with pytest.raises(BadInput, match="one shape"):
        resolution.ring_correlation(np.zeros((8, 8)), np.zeros((8, 9)))
    with pytest.raises(BadInput, match="window"):
        resolution.ring_correlation(np.eye(8), np.eye(8), window="hamming")


def test_psnr_is_infinite_for_equal_images_and_falls_with_noise():
    assert image.psnr(scene(), scene()) == np.inf
    assert image.psnr(scene() + 0.1, scene()) == pytest.approx(20)
    with pytest.raises(BadInput, match="peak"):
        image.psnr(np.ones((4, 4)), np.ones((4, 4)))


def test_ssim_wants_room_for_its_window():
    with pytest.raises(BadInput, match="11x11"):
        image.ssim(np.eye(10), np.eye(10))
    with pytest.raises(BadInput, match="shape"):
        image.ssim(np.eye(20), np.eye(21))


def lattice_halves(seed: int = 0, noise: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """A crystal of wide atoms, twice with other noise: nothing but noise between its reflections."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:96, :96]
    image = np.zeros((96, 96))
    for row in range(-8, 24):
        for column in range(-8, 24):
            image += np.exp(-((y - 8.3 * row - 1.1 * column) ** 2 + (x + 1.1 * row - 8.3 * column) ** 2) / 8)
    ramp = np.exp(-(((y - 48) ** 2 + (x - 48) ** 2) / 2000))  # a slow part, as of thickness
    both = [image + ramp + noise * rng.normal(size=image.shape) for _ in range(2)]
    return both[0], both[1]


def test_rings_between_the_reflections_of_a_crystal_do_not_end_its_resolution():
    curve = resolution.ring_correlation(*lattice_halves())
    margin = curve.value - curve.threshold_half_bit
    first = np.flatnonzero(margin[1:] < 0)[0] + 1
    assert 1 / curve.frequency[first] > 9  # coarser than the lattice, of 8.4 pixels ...
    assert curve.value[np.abs(curve.frequency - 1 / 8.37).argmin()] > 0.8  # ... which both halves show
    assert 3 < curve.resolution() < 8.5


def test_a_few_rings_above_the_threshold_by_chance_are_no_resolution():
    threshold = np.full(20, 0.3)
    value = np.array([1.0] * 8 + [0.0] * 12)
    value[[10, 15, 16]] = 0.4
    of = {"threshold_half_bit": threshold, "threshold_one_seventh": threshold, "counts": np.ones(20)}
    curve = resolution.RingCorrelation(frequency=np.arange(20.0), value=value, **of)
    assert curve.resolution() == pytest.approx(1 / 7.7)
