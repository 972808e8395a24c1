"""Curves by bands of frequency, and reconstructions of halves made comparable: laws, then known answers."""

import numpy as np
import pytest

from phaseloom.errors import BadInput
from phaseloom.metrics import mixed_states as states
from phaseloom.metrics import resolution, spectral
from phaseloom.metrics import standardise_pair as halves

SHAPES = [(24, 19), (17, 32)]


def draw(*shape, seed=0):
    random = np.random.default_rng(seed)
    return random.normal(size=shape) + 1j * random.normal(size=shape)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("pixel", [(1.0, 1.0), (0.3, 2.0)])
def test_bands_up_to_the_corner_hold_every_frequency_once(shape, pixel):
    parts = spectral.divide_bands(shape, count=7, pixel=pixel, limit="corner")
    assert parts.counts.sum() == np.prod(shape)
    values = draw(*shape)
    np.testing.assert_allclose(parts.total(values).sum(), values.sum())


def test_bands_up_to_the_side_end_with_the_highest_frequency_of_an_axis():
    parts = spectral.divide_bands((9, 6), count=4, pixel=(2.0, 1.0))
    assert parts.edges[-1] == max(4 / 18, 2 / 6)
    assert parts.number[0, 2] == 3
    assert parts.number[0, 3] == 4


@pytest.mark.parametrize("shape", SHAPES)
def test_band_correlation_is_bounded_and_turns_with_the_phase(shape):
    a, b = draw(*shape), draw(*shape, seed=1)
    parts = spectral.divide_bands(shape, count=6)
    value = spectral.band_correlation(a, b, parts)
    assert (np.abs(value) <= 1).all()
    np.testing.assert_allclose(spectral.band_correlation(1j * a, 3 * b, parts), 1j * value)
    np.testing.assert_allclose(spectral.band_correlation(b, a, parts), value.conj())


def test_bands_of_one_fourier_pixel_are_nearly_rings():
    """Rings begin half a pixel earlier; white noise on a common scene has the same curve in both."""
    scene = draw(128, 128)
    a, b = (scene + draw(128, 128, seed=s) for s in (1, 2))
    ring = resolution.ring_correlation(a, b, window="none").value[4:-1]
    band = spectral.band_correlation(a, b, spectral.divide_bands((128, 128), count=63)).real[4:]
    assert abs(ring.mean() - band.mean()) < 0.01
    assert abs(ring.mean() - 0.5) < 0.03


@pytest.mark.parametrize("shape", SHAPES)
def test_band_fidelity_knows_density_matrices_only(shape):
    parts = spectral.divide_bands(shape, count=4)
    modes, other = draw(3, *shape), draw(2, *shape, seed=1)
    unitary = np.linalg.qr(draw(3, 3, seed=2))[0]
    mixed = np.tensordot(unitary, modes, 1)
    np.testing.assert_allclose(spectral.band_fidelity(mixed, 2 * modes, parts), 1, rtol=1e-9)
    one = spectral.band_fidelity(modes, other, parts)
    np.testing.assert_allclose(spectral.band_fidelity(mixed, other, parts), one, rtol=1e-9)
    assert (one < 0.95).all()
    coherent = spectral.band_fidelity(modes[:1], other[:1], parts)
    np.testing.assert_allclose(coherent, abs(spectral.band_correlation(modes[0], other[0], parts)), rtol=1e-9)


def test_one_band_of_everything_is_the_fidelity_of_the_states():
    a, b = draw(2, 8, 9), draw(3, 8, 9, seed=1)
    parts = spectral.divide_bands((8, 9), count=1, limit="corner")
    np.testing.assert_allclose(spectral.band_fidelity(a, b, parts) ** 2, states.fidelity(a, b))


def test_dark_bands_are_no_number():
    parts = spectral.divide_bands((8, 8), count=3)
    dark = np.ones((8, 8))
    assert np.isnan(spectral.band_correlation(dark, dark, parts)[1:]).all()
    assert np.isnan(spectral.band_fidelity(dark[None], dark[None], parts)[1:]).all()


def test_the_half_bit_threshold_is_that_of_rings():
    curve = resolution.ring_correlation(draw(40, 40), draw(40, 40, seed=1))
    ours = spectral.snr_threshold(curve.counts, 2**0.5 - 1)
    np.testing.assert_allclose(ours, curve.threshold_half_bit, atol=1e-4)
    assert np.isnan(spectral.snr_threshold([0], 1.0)).all()


def scan(count=40, seed=0):
    return np.random.default_rng(seed).uniform(0, 1, (count, 2)) * [40.0, 60.0]


def test_a_scan_spectrum_does_not_depend_on_units_and_counts_what_is_trusted():
    total, places = np.abs(draw(9, 12)), scan()
    mask = np.abs(draw(9, 12, seed=1)) > 0.7
    one = spectral.scan_spectrum(total, places, pixel=(2.0, 1.0), mask=mask, count=4)
    two = spectral.scan_spectrum(total, 1e-10 * places, pixel=(2e-10, 1e-10), mask=mask, count=4)
    np.testing.assert_allclose(one.value, two.value, rtol=1e-9)
    np.testing.assert_allclose(one.edges, 1e-10 * two.edges)
    assert not one.pattern[~mask].any()


def test_a_denser_scan_of_an_area_puts_more_into_a_window():
    total, places = np.ones((8, 8)), scan()
    one = spectral.scan_spectrum(total, places, count=1).value
    np.testing.assert_allclose(spectral.scan_spectrum(2 * total, places, count=1).value, 2 * one)
    np.testing.assert_allclose(spectral.scan_spectrum(total, 2 * places, count=1).value, one / 4)


def test_positions_on_a_line_enclose_no_area():
    with pytest.raises(BadInput, match="lie on a line"):
        spectral.scan_spectrum(np.ones((4, 4)), np.outer(np.arange(9.0), [1, 2]))


def test_what_cannot_be_compared_is_refused():
    parts = spectral.divide_bands((8, 8), count=3)
    for call in (
        lambda: spectral.divide_bands((8, 8), count=0),
        lambda: spectral.divide_bands((8, 8), count=3, limit="edge"),
        lambda: spectral.band_correlation(np.ones((8, 8)), np.ones((8, 9)), parts),
        lambda: spectral.band_fidelity(np.ones((1, 8, 8)), np.ones((1, 9, 8)), parts),
        lambda: spectral.scan_spectrum(np.ones((4, 4)), scan(), mask=np.ones((4, 5))),
        lambda: halves.find_phase_slope(np.zeros((4, 4))),
        lambda: halves.fit_growth(np.ones(4)),
        lambda: halves.standardise_set([]),
        lambda: halves.standardise_set([(np.ones((4, 4)), np.ones(2)), (np.ones((4, 5)), np.ones(2))]),
    ):
        with pytest.raises(BadInput):
            call()


# --- halves


def scene(shape=(60, 53)):
    random = np.random.default_rng(3)
    return (1 + 0.2 * random.uniform(-1, 1, shape)) * np.exp(0.5j * random.uniform(-1, 1, shape))


@pytest.mark.parametrize("slope", [(0.01, -0.02), (1.4, -2.9)])
def test_slopes_add(slope):
    y, x = np.mgrid[:60, :53]
    before = halves.find_phase_slope(scene())
    after = halves.find_phase_slope(scene() * np.exp(1j * (slope[0] * y + slope[1] * x)))
    np.testing.assert_allclose(np.subtract(after, before), slope, atol=1e-5)


@pytest.mark.parametrize("rate", [(0.02, -0.01), (-0.05, 0.0)])
def test_growth_is_found_where_nothing_else_changes(rate):
    y, x = np.mgrid[:60, :53]
    found = halves.fit_growth(5 * np.exp(rate[0] * y + rate[1] * x) * np.exp(1j * y))
    np.testing.assert_allclose(found, rate, atol=1e-8)
    noisy = halves.fit_growth(scene() * np.exp(rate[0] * y + rate[1] * x))
    np.testing.assert_allclose(noisy, rate, atol=2e-3)


@pytest.mark.parametrize("modes", [(), (2,)])
def test_trading_changes_no_pattern(modes):
    rate, slope, place = (0.02, -0.01), (0.5, 0.3), (7, 4)
    field, light = scene((40, 33)), draw(*modes, 9, 12)
    even, bent = halves.trade_trends(field, light, slope=slope, rate=rate)
    cut = np.s_[place[0] : place[0] + 9, place[1] : place[1] + 12]
    before, after = (abs(np.fft.fft2(o[cut] * p)) ** 2 for o, p in ((field, light), (even, bent)))
    np.testing.assert_allclose(after * np.exp(2 * np.dot(rate, place)), before, rtol=1e-9)


def test_trading_keeps_the_precision():
    real, single = halves.trade_trends(
        np.ones((3, 3), np.float32), np.ones((3, 3), np.complex64), rate=(0.1, 0.0)
    )
    assert (real.dtype, single.dtype) == (np.float32, np.complex64)
    assert halves.trade_trends(real, single, slope=(0.1, 0.0))[0].dtype == np.complex64


def test_a_set_comes_into_one_gauge():
    y, x = np.mgrid[:60, :53]
    object, probe = scene(), draw(2, 9, 8)
    spoilt = np.exp(0.7j + 0.3j * y - 0.2j * x + 0.004 * y) * np.roll(object, (2, -1), (0, 1))
    found = halves.standardise_set([(spoilt, probe), (object, probe)], window=np.s_[6:54, 5:49], grown=True)
    inner = np.s_[8:-8, 8:-8]
    one, two = (o[inner] for o in found.objects)
    assert np.abs(one / one.mean() - two / two.mean()).max() < 0.1
    np.testing.assert_allclose(found.shifts, [(-2, 1), (0, 0)], atol=0.03)
    assert found.growths[0][0] - found.growths[1][0] == pytest.approx(0.004, abs=1e-3)
    sums = [o[6:54, 5:49].sum() for o in found.objects]
    assert np.abs(np.angle(sums)).max() < 0.01


def test_a_set_can_be_left_as_it_is():
    pairs = [(scene(), draw(5, 5)), (1j * scene(), draw(5, 5))]
    found = halves.standardise_set(pairs, reference=0, ramp=False, phase=False)
    np.testing.assert_array_equal(found.objects[0], pairs[0][0])
    np.testing.assert_array_equal(found.probes[1], pairs[1][1])
