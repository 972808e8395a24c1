"""An atom looks the same wherever it stands."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from phaseloom.errors import BadInput
from phaseloom.physics.atoms import (
    VOLT_AREA,
    assign_slices,
    displace_atoms,
    project_potential,
    scattering_factor,
)
from phaseloom.physics.fourier import shift

SHAPE, PIXEL = (27, 32), (0.4, 0.35)


def one(place, number=38, dtype=torch.float64, **knobs):
    return project_potential(
        torch.tensor([place], dtype=dtype), torch.tensor([number]), SHAPE, PIXEL, **knobs
    )


@given(y=some.floats(0, 10.8), x=some.floats(0, 11.2), table=some.sampled_from(["lobato", "kirkland"]))
def test_an_atom_at_any_place_is_the_same_atom_moved(y, x, table):
    here = one((0.0, 0.0), table=table)
    there = one((y, x), table=table)
    amount = torch.tensor([[y / PIXEL[0], x / PIXEL[1]]], dtype=torch.float64)
    moved = shift(here[None].to(torch.complex128), amount)[0].real
    assert ((there - moved).norm() / here.norm()).item() < 1e-12
    single = one((y, x), table=table, dtype=torch.float32)
    rounded = torch.tensor([y, x], dtype=torch.float32).double()
    exact = one(tuple(rounded.tolist()), table=table)
    assert ((single - exact).norm() / here.norm()).item() < 1e-6
    np.testing.assert_allclose(there.square().sum(), here.square().sum(), rtol=1e-9)


def test_the_mean_inner_potential_is_the_forward_scattering_factor():
    volts = one((3.0, 4.0)).mean().item() * SHAPE[0] * SHAPE[1] * PIXEL[0] * PIXEL[1]
    assert volts == pytest.approx(VOLT_AREA * float(scattering_factor(38, np.zeros(1))[0]), rel=1e-12)


def test_an_atom_on_a_face_is_counted_once_and_on_both_sides():
    edge, inside = one((0.0, 0.0)), one((4.0, 5.6))
    rolled = torch.roll(edge, (10, 16), (0, 1))
    torch.testing.assert_close(rolled, inside, atol=1e-9, rtol=0)
    torch.testing.assert_close(one((27 * 0.4, 32 * 0.35)), edge, atol=1e-9, rtol=0)


def test_places_are_rows_and_columns_in_that_order():
    assert one((4.0, 1.75)).argmax().item() == 10 * SHAPE[1] + 5


def test_the_average_over_thermal_motion_is_the_debye_waller_factor():
    generator = torch.Generator().manual_seed(0)
    places = displace_atoms(torch.full((40000, 2), 5.0, dtype=torch.float64), 0.15, generator=generator)
    mean = project_potential(places, torch.full((40000,), 38), SHAPE, PIXEL) / 40000
    smeared, still = one((5.0, 5.0), vibration=0.15), one((5.0, 5.0))
    assert ((mean - smeared).norm() / smeared.norm()).item() < 0.01
    assert ((still - smeared).norm() / smeared.norm()).item() > 0.1


def test_slices_add_up_to_the_whole():
    places = torch.rand(30, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 10
    numbers = torch.tensor([6, 38, 79]).repeat(10)
    which = assign_slices(places[:, 0], 10.0, 4)
    parts = [project_potential(places[which == n, 1:], numbers[which == n], SHAPE, PIXEL) for n in range(4)]
    torch.testing.assert_close(sum(parts), project_potential(places[:, 1:], numbers, SHAPE, PIXEL))


def test_atoms_at_high_frequencies_are_bare_nuclei():
    """Rutherford: ``f = Z / (2 pi^2 a0 k^2)`` where the electrons no longer screen."""
    k = np.array([30.0])
    for number in (6, 38, 79):
        want = number / (2 * np.pi**2 * 0.529177 * k**2)
        np.testing.assert_allclose(scattering_factor(number, k), want, rtol=0.02)


def test_what_cannot_be_is_refused():
    with pytest.raises(BadInput, match="104 is not an element"):
        scattering_factor(104, np.zeros(1))
    with pytest.raises(BadInput, match="needs a thickness"):
        assign_slices(torch.zeros(1), 0.0, 1)
