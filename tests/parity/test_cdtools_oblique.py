"""Tilted samples against CDTools, where it is right."""

import math

import numpy as np
import pytest
import torch

from phaseloom.data.scan import LAB_BASIS
from phaseloom.physics import tilted_planes as oblique
from phaseloom.physics import tilted_planes as surface

cdtools = pytest.importorskip("cdtools")
tools = cdtools.tools

WAVE, SHAPE, ANGLE = 2.0, (15, 13), (2e-2, 3e-2)
NORMAL = np.array([0.3, -0.4, 0.8]) / math.sqrt(0.89)


def grid() -> np.ndarray:
    pixel = tuple(WAVE / (n * a) for n, a in zip(SHAPE, ANGLE, strict=True))
    return surface.grid_steps(LAB_BASIS, pixel, NORMAL)


def test_the_grid_is_theirs():
    detector = torch.as_tensor(np.asarray(LAB_BASIS) * ANGLE)
    across = tools.initializers.exit_wave_geometry(detector.float(), SHAPE, WAVE, 1.0).double().numpy()
    assert np.allclose(
        across, surface.grid_steps(LAB_BASIS, (1.0, 1.0), (0, 0, 1)) * abs(across).max(0), rtol=1e-5
    )
    assert np.allclose(grid()[:2], across[:2], rtol=1e-5, atol=1e-6)


def test_beams_land_where_theirs_do():
    beam = np.random.default_rng(0).normal(0, 100, (7, 3))
    there, flown = tools.interactions.project_translations_to_sample(
        torch.as_tensor(grid()), torch.as_tensor(beam)
    )
    positions, heights = surface.project_beam(beam, LAB_BASIS, NORMAL)
    pixel = WAVE / np.array(SHAPE) / ANGLE
    assert np.allclose(there.numpy(), positions / pixel)
    assert np.allclose(flown.numpy()[:, 0], -heights)


def test_beams_land_where_those_of_their_flat_model_do():
    beam = np.random.default_rng(0).normal(0, 100, (7, 3))
    pixel = WAVE / np.array(SHAPE) / ANGLE
    across = torch.as_tensor(np.asarray(LAB_BASIS) * pixel)
    there = tools.interactions.translations_to_pixel(
        across, torch.as_tensor(beam), surface_normal=torch.as_tensor(NORMAL)
    )
    assert np.allclose(there.numpy(), surface.project_beam(beam, LAB_BASIS, NORMAL)[0] / pixel)


@pytest.mark.parametrize("distance", [4e3, -4e3])
def test_their_sign_of_the_flight_is_right(distance):
    """They doubt it in a comment; `test_waves_on_a_surface_fly_as_waves_in_space_do` tells for ours."""
    unit = torch.tensor([0, 0, WAVE / (2 * math.pi)], dtype=torch.float64)
    theirs = tools.propagators.generate_generalized_angular_spectrum_propagator(
        SHAPE, torch.as_tensor(grid()), WAVE, unit, propagate_along_offset=True, dtype=torch.complex128
    )
    kernel = torch.exp(1j * distance * 2 * math.pi / WAVE * theirs.angle())
    ours = oblique.tilted_kernel(SHAPE, grid(), WAVE, torch.tensor(distance, dtype=torch.float64))
    assert (kernel - ours).abs().max() < 1e-8


@pytest.mark.parametrize("lens", [False, True])
def test_pixels_see_the_frequencies_of_theirs(lens):
    """Odd sizes: of even ones, theirs lie half a pixel off the zero of their Fourier transform."""
    places, share = tools.propagators.generate_high_NA_k_intensity_map(
        grid(), np.asarray(LAB_BASIS) * ANGLE, SHAPE, 1.0, WAVE, dtype=torch.float64, lens=lens
    )
    ours, light = oblique.ewald(SHAPE, ANGLE, LAB_BASIS, NORMAL, lens=lens)
    assert np.allclose(places.numpy()[..., ::-1] * np.array(SHAPE) / 2, ours, atol=2e-5)
    assert np.allclose(share.numpy(), light, atol=1e-6)
