"""Linear maps of positions and vertices of parabolas: one function each, for all who ask."""

import math

import numpy as np
import pytest

from phaseloom.metrics.linear_map import find_turn_and_scale, fit_linear_map
from phaseloom.metrics.parabola import find_vertex


@pytest.mark.parametrize("seed", range(3))
def test_a_linear_map_is_found_whatever_the_origin(seed):
    rng = np.random.default_rng(seed)
    before = rng.normal(size=(20, 2)) + 30
    linear = rng.normal(size=(2, 2))
    np.testing.assert_allclose(fit_linear_map(before, before @ linear - 5.0), linear, atol=1e-10)


def test_noise_is_averaged_as_least_squares_do():
    rng = np.random.default_rng(4)
    before, noise = rng.normal(size=(2, 500, 2))
    found = fit_linear_map(before, 1.1 * before + 0.1 * noise)
    rest = before @ found - 1.1 * before - 0.1 * noise
    np.testing.assert_allclose((before - before.mean(0)).T @ (rest - rest.mean(0)), 0, atol=1e-9)


@pytest.mark.parametrize("turn", [0.3, -1.2])
@pytest.mark.parametrize("scale", [0.7, 1.4])
def test_turn_and_scale_of_a_similarity(turn, scale):
    c, s = math.cos(turn), math.sin(turn)
    found = find_turn_and_scale(scale * np.array([[c, s], [-s, c]]))
    assert found == pytest.approx((turn, scale))


@pytest.mark.parametrize("place", [-0.4, 0.0, 0.3, 2.5])
def test_the_vertex_of_a_parabola(place):
    values = [3 * (x - place) ** 2 + 7 for x in (-1, 0, 1)]
    assert find_vertex(*values) == pytest.approx(place)
    assert find_vertex(*(-np.array(values))) == math.copysign(math.inf, -place if place else 1) or place == 0


def test_vertices_of_arrays_and_of_lines():
    below, at, above = np.array([[4.0, 3.0, 1.0, 1.0], [1.0, 2.0, 2.0, 2.0], [0.0, 1.0, 3.0, 1.0]])
    np.testing.assert_array_equal(find_vertex(below, at, above), [1.0, math.inf, -math.inf, 0.0])
