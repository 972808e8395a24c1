"""The simulated film: its vacuum, its noise and what its domains look like."""

import numpy as np
import pytest

from phaseloom.embedding.film import polar_film
from phaseloom.errors import BadInput


@pytest.fixture(scope="module")
def film():
    return polar_film(grid=(20, 12), step=12.0, pixels=64, seed=3)


def test_vacuum_is_the_probe_and_holds_all_electrons(film):
    clear = film.expected[film.labels == 0]
    total = clear.sum((1, 2))
    assert total.max() == pytest.approx(3e4, rel=1e-3)
    y, x = np.indices((64, 64)) - 32
    away = np.hypot(y, x) * film.scan.geometry.angle[0]
    assert clear[total.argmax()][away > 4.2e-3].sum() < 0.01 * 3e4


def test_counts_are_poisson_about_what_is_expected(film):
    off = film.scan.counts - film.expected
    assert (off**2).mean() / film.expected.mean() == pytest.approx(1, abs=0.02)
    assert off.mean() == pytest.approx(0, abs=0.02)


def test_friedel_pairs_of_opposite_polarisations_differ_with_opposite_signs():
    film = polar_film(grid=(20, 12), step=12.0, mistilt=0.0, seed=3)
    pairs = film.expected[:, 1:, 1:] - film.expected[:, :0:-1, :0:-1]
    up, right, down, left = (pairs[film.labels == label].mean(0) for label in (1, 2, 3, 4))
    for one, other in ((up, down), (right, left)):
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] < -0.9
    assert abs(np.corrcoef(up.ravel(), right.ravel())[0, 1]) < 0.5


def test_the_same_seed_gives_the_same_film_and_another_one_does_not():
    one, same, other = (polar_film(grid=(3, 3), pixels=32, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.scan.counts, same.scan.counts)
    assert (one.scan.counts != other.scan.counts).any()


def test_larger_pixels_hold_the_counts_of_smaller_ones():
    fine, coarse = (polar_film(grid=(3, 3), pixels=pixels).expected for pixels in (64, 32))
    inner = fine[:, 1:63, 1:63].sum((1, 2))
    assert (coarse.sum((1, 2)) <= fine.sum((1, 2)) + 1e-3).all()
    assert (coarse.sum((1, 2)) >= inner - 1e-3).all()
    with pytest.raises(BadInput, match="48 is not 32 or 64"):
        polar_film(pixels=48)
