"""Flight between parallel planes on oblique grids keeps power, adds up, and moves beams where they point."""

import math

import pytest
import torch

from phaseloom.errors import BadInput
from phaseloom.physics.propagate import angular_spectrum, fly, tilted_plane_kernel

GRID = torch.tensor([[0.1, -2.0], [-3.0, 0.4], [0.3, 1.0]], dtype=torch.float64)
UPRIGHT = torch.tensor([[0.0, -2.0], [-3.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
SHAPES = [(8, 6), (7, 9)]


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


CARRIERS = [None, vector(0.1, -0.2, 1.0)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("wavelength", [0.5, 5.0])
@pytest.mark.parametrize("z", [40.0, -40.0])
def test_an_upright_grid_flies_as_ever(shape, wavelength, z):
    """At the longer wavelength some waves are evanescent. Without a carrier the normal follows the offset."""
    along = vector(0, 0, 1)
    kernel = tilted_plane_kernel(shape, UPRIGHT, wavelength, vector(0, 0, z), along)
    torch.testing.assert_close(kernel, angular_spectrum(shape, (3.0, 2.0), wavelength, vector(z)[0]))
    back = tilted_plane_kernel(shape, UPRIGHT, wavelength, vector(0, 0, z))
    torch.testing.assert_close(back, angular_spectrum(shape, (3.0, 2.0), wavelength, vector(abs(z))[0]))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("along", CARRIERS)
def test_flights_add_and_keep_power(shape, along):
    one, two = vector(1.0, -2.0, 30.0), vector(0.5, 3.0, 20.0)
    kernels = [tilted_plane_kernel(shape, GRID, 0.5, offset, along) for offset in (one, two, one + two)]
    torch.testing.assert_close(kernels[0] * kernels[1], kernels[2])
    torch.testing.assert_close(kernels[0].abs(), torch.ones(shape, dtype=torch.float64))


@pytest.mark.parametrize("along", CARRIERS)
def test_an_offset_of_whole_steps_in_the_plane_moves_the_window(along):
    """The second grid begins two rows and one column further, so the wave lies as much before there."""
    wave = torch.randn(8, 6, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    kernel = tilted_plane_kernel((8, 6), GRID, 0.5, GRID @ vector(2.0, 1.0), along)
    torch.testing.assert_close(fly(wave, kernel), wave.roll((-2, -1), (0, 1)))


def test_every_wave_advances_by_its_own_wave_vector():
    """Against plane waves in space: K.d less the carrier's, with K from its length alone."""
    k, along, offset = 2 * math.pi / 0.5, vector(0.1, -0.2, 1.0), vector(1.0, -2.0, 30.0)
    carrier = k * along / along.norm()
    normal = torch.linalg.cross(GRID[:, 0], GRID[:, 1])
    normal = normal / normal.norm() * torch.sign(normal @ along)
    kernel = tilted_plane_kernel((5, 6), GRID, 0.5, offset, along)
    for row, column in ((0, 0), (1, 2), (3, 4)):
        cycles = vector(torch.fft.fftfreq(5)[row].item(), torch.fft.fftfreq(6)[column].item())
        inside = torch.linalg.pinv(GRID).mT @ (2 * math.pi * cycles) + carrier - normal * (normal @ carrier)
        whole = inside + normal * (k**2 - inside @ inside).sqrt()
        wanted = torch.exp(1j * ((whole - carrier) @ offset))
        assert abs(kernel[row, column] - wanted) < 1e-6


def test_evanescent_waves_decay_in_either_direction():
    for sign in (1, -1):
        kernel = tilted_plane_kernel((8, 6), GRID, 6.0, sign * vector(0, 0, 20.0), vector(0, 0, 1))
        assert kernel.abs().max() <= 1
        assert kernel.abs().min() < 1e-3


def test_distances_and_grids_can_be_learned():
    """Past the horizon, too."""
    for wavelength in (0.5, 6.0):
        given = [vector(0.5, 1.0, 3.0), vector(0.1, -0.1, 1.0)]
        given = [one.requires_grad_() for one in (GRID.clone(), *given)]
        assert torch.autograd.gradcheck(
            lambda grid, offset, along, w=wavelength: tilted_plane_kernel((4, 3), grid, w, offset, along),
            given,
        )


def test_small_angles_keep_their_digits_in_single_precision():
    shape, offset, tall = (16, 16), vector(0.0, 0.0, 1e4), 50 * UPRIGHT
    exact = tilted_plane_kernel(shape, tall, 0.02, offset)
    single = tilted_plane_kernel(shape, tall.float(), 0.02, offset.float())
    assert (single - exact).abs().max() < 1e-4


def test_what_never_arrives_is_refused():
    with pytest.raises(BadInput, match="parallel rows and columns"):
        tilted_plane_kernel((4, 4), GRID[:, :1].expand(3, 2), 0.5, vector(0, 0, 1))
    with pytest.raises(BadInput, match="runs in the plane"):
        tilted_plane_kernel((4, 4), UPRIGHT, 0.5, vector(0, 0, 1), vector(1, 0, 0))
