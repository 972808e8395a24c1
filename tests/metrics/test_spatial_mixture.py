"""Clusters with neighbours: the raster is used where it says something, and small regions stay."""

import numpy as np
import pytest

from phaseloom.errors import BadInput
from phaseloom.metrics.clusters import adjusted_rand, fit_mixture
from phaseloom.metrics.spatial_mixture import (
    compare_spatial_counts,
    fit_spatial_mixture,
    link_neighbours,
)

GRID = (20, 22)
PLACES = np.indices(GRID).reshape(2, -1).T * np.array([3.0, 2.5])
HALVES = (np.indices(GRID)[1].ravel() > 11).astype(int)


def draw_rows(labels: np.ndarray, distance: float, seed: int = 0) -> np.ndarray:
    """Rows of three numbers about a corner for each label, noise of one."""
    return np.random.default_rng(seed).normal(distance * np.eye(4, 3)[labels], 1.0)


def test_neighbours_tell_what_single_rows_do_not():
    rows = draw_rows(HALVES, 1.6)
    found = fit_spatial_mixture(rows, 2, PLACES, seeds=(0, 1))
    assert adjusted_rand(HALVES, found.labels) > 0.95
    assert fit_mixture(rows, 2, truth=HALVES).agreement.mean < 0.8
    assert found.spatial.coupling > 0.7


def test_rows_without_order_in_the_scan_are_not_smoothed():
    labels = np.random.default_rng(1).permutation(HALVES)
    found = fit_spatial_mixture(draw_rows(labels, 5), 2, PLACES, seeds=(0, 1))
    assert found.spatial.coupling < 0.2
    assert adjusted_rand(labels, found.labels) > 0.98


@pytest.mark.parametrize("size", [1, 2])
def test_a_small_region_that_differs_stays(size):
    labels = HALVES.copy().reshape(GRID)
    labels[4 : 4 + size, 4 : 4 + size] = 1
    labels = labels.ravel()
    found = fit_spatial_mixture(draw_rows(labels, 7), 2, PLACES, seeds=(0, 1))
    assert (found.labels == found.labels[labels == 1][-1])[labels == 1].all()


def test_the_order_of_the_patterns_does_not_count():
    rows = draw_rows(HALVES, 3)
    order = np.random.default_rng(2).permutation(len(rows))
    one, other = (fit_spatial_mixture(rows[i], 2, PLACES[i], seeds=(0, 1)) for i in (slice(None), order))
    assert adjusted_rand(one.labels[order], other.labels) > 0.99


def test_the_number_of_kinds_is_suggested():
    labels = HALVES + 2 * (np.indices(GRID)[0].ravel() > 9) * HALVES  # 0, 1 and 3
    found = compare_spatial_counts(draw_rows(labels, 6), PLACES, range(2, 6))
    assert found.suggested_count == 3
    np.testing.assert_array_equal(found.counts, [2, 3, 4, 5])


def test_known_labels_are_kept_and_tell_kinds_apart():
    """Each kind is long in one direction, and an unsupervised mixture parts them along it."""
    rng = np.random.default_rng(3)
    slope = np.indices(GRID)[0].ravel() // 5  # four terraces, which differ more than the kinds
    rows = np.stack([6.0 * slope, 2.5 * HALVES + 0.0 * slope], 1) + rng.normal(size=(len(HALVES), 2)) * 0.5
    known = np.full(len(HALVES), -1)
    for terrace in range(4):
        for kind in (0, 1):
            known[np.flatnonzero((slope == terrace) & (kind == HALVES))[3]] = kind
    found = fit_spatial_mixture(rows, 2, PLACES, seeds=(0, 1), known=known)
    np.testing.assert_array_equal(found.labels[known >= 0], known[known >= 0])
    assert (found.labels == HALVES).mean() > 0.98  # names too, not only the partition
    assert adjusted_rand(HALVES, fit_mixture(rows, 2, seeds=(0, 1)).labels) < 0.5


def test_what_has_no_known_label_is_a_cluster_of_its_own():
    labels = HALVES + 2 * (np.indices(GRID)[0].ravel() > 12) * HALVES
    known = np.full(len(labels), -1)
    known[:3], known[12:15] = 0, 1
    found = fit_spatial_mixture(draw_rows(labels, 8), 3, PLACES, seeds=(0, 1), known=known)
    np.testing.assert_array_equal(found.labels[labels == 0], 0)
    np.testing.assert_array_equal(found.labels[labels == 1], 1)
    np.testing.assert_array_equal(found.labels[labels == 3], 2)


def test_patterns_at_one_place_are_neighbours_in_time():
    links = link_neighbours(np.zeros((4, 2)), 4).toarray()
    np.testing.assert_array_equal(links, np.eye(4, k=1) + np.eye(4, k=-1))


@pytest.mark.parametrize(
    ("known", "sentence"),
    [
        (np.zeros(3), "known labels: 3 labels but there are 440"),
        (np.where(np.arange(440) < 9, 1, -1), "known labels: 1 leave out numbers: write 0 to 0"),
        (np.full(440, 0.5), "must be whole numbers from 0"),
        (np.full(440, -1), "name no pattern"),
        (np.full(440, 4), "clusters: 2 are fewer than the labels up to 4"),
    ],
)
def test_bad_labels_are_refused_in_a_sentence(known, sentence):
    with pytest.raises(BadInput, match=sentence):
        fit_spatial_mixture(draw_rows(HALVES, 3), 2, PLACES, known=known)


def test_positions_of_other_patterns_are_refused():
    with pytest.raises(BadInput, match="positions: shape"):
        fit_spatial_mixture(draw_rows(HALVES, 3), 2, PLACES[:7])
