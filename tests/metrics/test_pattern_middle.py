"""The middle of a mean pattern where masked pixels hide a part of it."""

import numpy as np
import pytest

from phaseloom.data import prepare
from phaseloom.data.diagnostics import inspect
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.metrics.pattern_middle import find_middle

SHAPE = (64, 72)


def make_ring(middle: tuple[float, float]) -> np.ndarray:
    """A hollow cone, as zone plates throw it on a detector."""
    y, x = np.indices(SHAPE)
    away = np.hypot(y - middle[0], x - middle[1])
    return 200 / (1 + np.exp(away - 16)) / (1 + np.exp(8 - away))


def make_gaps() -> np.ndarray:
    good = np.ones(SHAPE, bool)
    good[44:48] = False
    good[:, 22:24] = False
    return good


MIDDLES = [(32.0, 36.0), (31.3, 36.8), (34.6, 33.1)]


@pytest.mark.parametrize("middle", MIDDLES)
def test_a_gap_across_the_beam_does_not_move_its_middle(middle):
    light = make_ring(middle)
    good = make_gaps()
    found = find_middle(light * good, good)
    assert found is not None
    np.testing.assert_allclose(np.array(found), middle, atol=0.05)
    plain = (np.indices(SHAPE) * light * good).sum((1, 2)) / (light * good).sum()
    assert np.abs(plain - middle).max() > 1  # as it was told


@pytest.mark.parametrize("middle", MIDDLES)
def test_without_masked_pixels_it_is_the_centre_of_mass(middle):
    light = make_ring(middle) * (1 + 0.3 * np.sin(np.indices(SHAPE)[0] / 5))
    mass = (np.indices(SHAPE) * light).sum((1, 2)) / light.sum()
    found = find_middle(light, np.ones(SHAPE, bool))
    assert found is not None
    np.testing.assert_allclose(np.array(found), mass)


def test_no_light_has_no_middle():
    assert find_middle(np.zeros(SHAPE), make_gaps()) is None
    hidden = np.where(make_gaps(), 0.0, 1.0)
    assert find_middle(hidden, make_gaps()) is None


def make_scan(middle: tuple[float, float]) -> Scan4D:
    counts = np.random.default_rng(0).poisson(make_ring(middle) + 0.05, (60, *SHAPE)) * make_gaps()
    geometry = Geometry(wavelength=1.4, shape=SHAPE, angle=(2e-5, 2e-5), beam="photon")
    positions = np.random.default_rng(1).uniform(0, 2e4, (60, 2))
    return Scan4D(counts=counts, positions=positions, geometry=geometry, mask=make_gaps())


def test_look_and_prepare_find_it():
    scan = make_scan((32.0, 36.0))
    told = next(one for one in inspect(scan) if one.name == "centre").value
    off = [float(one.strip("+ ")) for one in told.split(" by ")[1].removesuffix(" pixels").split(",")]
    assert np.abs(off).max() < 0.3
    np.testing.assert_array_equal(prepare.center(scan).counts[np.arange(60)], scan.counts)
    moved = prepare.center(make_scan((35.0, 36.0)))
    assert not moved.mask[41:45].any()
