"""Turns of a detector: what they do to a direction, and that nothing is lost."""

import pytest
import torch

from phaseloom.data.orientations import list_orientations, orient_patterns
from phaseloom.data.scan import Geometry


@pytest.mark.parametrize("shape", [(7, 7), (8, 8), (7, 10)])
def test_a_turn_takes_every_direction_to_its_place(shape):
    y, x = torch.meshgrid(*(torch.arange(n) - n // 2 for n in shape), indexing="ij")
    geometry = Geometry(wavelength=0.02, shape=shape, angle=(1e-3, 1e-3), beam="electron")
    for way in list_orientations(geometry):
        v, u = orient_patterns(y, way), orient_patterns(x, way)
        rows, columns = (v, u) if not way & 4 else (u, v)
        v, u = torch.meshgrid(*(torch.arange(n) - n // 2 for n in v.shape), indexing="ij")
        expected = (v, u) if not way & 4 else (u, v)
        expected = [-part if way & bit else part for part, bit in zip(expected, (1, 2), strict=True)]
        found = (rows, columns) if not way & 4 else (columns, rows)
        for got, want, n in zip(found, expected, shape, strict=True):
            there = want.abs() < n / 2  # the first row of an even number has no partner
            assert (got == want)[there & (want != -(n // 2)) & (want != n / 2)].all()


def test_zero_frequency_stays_and_a_turn_only_moves_pixels():
    patterns = torch.rand(3, 8, 9)
    for way in range(8):
        out = orient_patterns(patterns, way)
        centre = (out.shape[-2] // 2, out.shape[-1] // 2)
        torch.testing.assert_close(out[:, *centre], patterns[:, 4, 4])
        assert sorted(out.flatten().tolist()) == sorted(patterns.flatten().tolist())


def test_pixels_of_two_sizes_are_not_exchanged():
    geometry = Geometry(wavelength=0.02, shape=(8, 8), angle=(1e-3, 2e-3), beam="electron")
    assert list_orientations(geometry) == (0, 1, 2, 3)
