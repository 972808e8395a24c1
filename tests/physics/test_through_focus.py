"""A beam along its axis obeys the laws of Gaussian beams, and of second moments where it is none."""

import math

import pytest
import torch

from phaseloom.physics.modes import measure_caustic

WAVELENGTH, PIXEL, SHAPE = 0.08, (0.9, 1.1), (95, 80)


def place(shape=SHAPE, pixel=PIXEL):
    y, x = ((torch.arange(n, dtype=torch.float64) - n // 2) * d for n, d in zip(shape, pixel, strict=True))
    return y[:, None], x[None, :]


def gaussian(waist, focus=(0.0, 0.0), centre=(0.0, 0.0)):
    """Beam of 1/e^2 radius ``waist`` (y, x), focused ``focus`` downstream: exact in paraxial optics."""
    wave = torch.ones(1, dtype=torch.complex128)
    for r, w, z, c in zip(place(), waist, focus, centre, strict=True):
        q = complex(-z, -math.pi * w**2 / WAVELENGTH)
        wave = wave * torch.exp(1j * math.pi / WAVELENGTH * (r - c) ** 2 / q)
    return wave[None]


def radius(waist, distance):
    return waist * torch.sqrt(1 + (distance * WAVELENGTH / (math.pi * waist**2)) ** 2)


DISTANCES = torch.linspace(-2800, 3200, 9, dtype=torch.float64)


def test_a_gaussian_beam_spreads_as_it_should():
    beam = measure_caustic(gaussian((6.0, 6.0)), PIXEL, WAVELENGTH, DISTANCES)
    expected = radius(6.0, DISTANCES)
    assert beam.width.shape == (9, 2)
    torch.testing.assert_close(2 * beam.width[:, 0], expected, rtol=2e-3, atol=0)
    torch.testing.assert_close(2 * beam.width[:, 1], expected, rtol=2e-3, atol=0)
    assert beam.waist == pytest.approx(0, abs=1)
    assert beam.centre.abs().max() < 1e-6


def test_a_beam_that_converges_has_its_waist_downstream():
    beam = measure_caustic(gaussian((6.0, 6.0), (1110.0, 1110.0)), PIXEL, WAVELENGTH, DISTANCES)
    assert beam.waist == pytest.approx(1110, abs=2)
    torch.testing.assert_close(2 * beam.width[:, 0], radius(6.0, DISTANCES - 1110), rtol=3e-3, atol=0)


def test_an_astigmatic_beam_has_two_line_foci():
    beam = measure_caustic(gaussian((6.0, 7.0), (900.0, -530.0)), PIXEL, WAVELENGTH, DISTANCES)
    assert beam.line_foci == pytest.approx((900, -530), abs=3)
    assert -530 < beam.waist < 900


def test_incoherent_modes_add_their_squared_widths():
    narrow, wide = gaussian((6.0, 6.0)), gaussian((8.0, 8.0))
    modes = torch.cat([w / w.abs().square().sum().sqrt() for w in (narrow, wide)])
    both, one, two = (measure_caustic(m, PIXEL, WAVELENGTH, DISTANCES) for m in (modes, modes[:1], modes[1:]))
    torch.testing.assert_close(both.width**2, (one.width**2 + two.width**2) / 2)
    torch.testing.assert_close(both.cut_y, one.cut_y + two.cut_y)


def test_mixing_modes_changes_nothing():
    modes = torch.cat([gaussian((6.0, 6.0)), gaussian((7.0, 5.0), (50.0, 0.0), (3.0, -2.0))])
    turn = torch.linalg.qr(
        torch.randn(2, 2, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    )[0]
    one = measure_caustic(modes, PIXEL, WAVELENGTH, DISTANCES)
    two = measure_caustic(torch.tensordot(turn, modes, 1), PIXEL, WAVELENGTH, DISTANCES)
    torch.testing.assert_close(one.width, two.width)
    torch.testing.assert_close(one.cut_x, two.cut_x)


def test_a_tilted_beam_moves_and_its_cuts_follow():
    slope = 0.003
    tilted = gaussian((6.0, 6.0)) * torch.exp(2j * math.pi * slope / WAVELENGTH * place()[0])
    beam = measure_caustic(tilted, PIXEL, WAVELENGTH, DISTANCES)
    torch.testing.assert_close(beam.centre[:, 0], slope * DISTANCES, rtol=1e-2, atol=0.02)
    peak = (beam.cut_y.argmax(1) - SHAPE[0] // 2) * PIXEL[0]
    assert (peak - beam.centre[:, 0]).abs().max() <= PIXEL[0]
    torch.testing.assert_close(beam.cut_x.amax(1), beam.cut_y.amax(1))


def test_cuts_hold_the_intensity_at_the_given_plane():
    wave = gaussian((6.0, 6.0))
    beam = measure_caustic(wave, PIXEL, WAVELENGTH, torch.zeros(1, dtype=torch.float64))
    intensity = wave.abs().square()[0]
    torch.testing.assert_close(beam.cut_y[0], intensity[:, SHAPE[1] // 2])
    torch.testing.assert_close(beam.cut_x[0], intensity[SHAPE[0] // 2])


def test_a_beam_narrowest_at_an_end_has_its_waist_there():
    beam = measure_caustic(gaussian((6.0, 6.0)), PIXEL, WAVELENGTH, torch.tensor([100.0, 250.0, 500.0]))
    assert beam.waist == 100


def test_distances_need_not_be_even():
    uneven = torch.tensor([-2600.0, -900.0, 30.0, 1420.0, 2800.0], dtype=torch.float64)
    beam = measure_caustic(gaussian((6.0, 6.0), (120.0, 120.0)), PIXEL, WAVELENGTH, uneven)
    assert beam.waist == pytest.approx(120, abs=2)


def test_single_precision_is_enough():
    modes = gaussian((6.0, 6.0), (1110.0, 1110.0))
    beam = measure_caustic(modes.to(torch.complex64), PIXEL, WAVELENGTH, DISTANCES.float())
    assert beam.width.dtype == torch.float32
    assert beam.waist == pytest.approx(1110, abs=2)
