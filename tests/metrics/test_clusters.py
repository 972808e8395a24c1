"""Clusters of rows: well apart they are found again by every seed, and nothing depends on names or order."""

import sys

import numpy as np
import pytest

from phaseloom.errors import BadInput, MissingExtra
from phaseloom.metrics.clusters import (
    adjusted_rand,
    fit_kmeans,
    fit_mixture,
    standardise_columns,
)

METHODS = pytest.mark.parametrize("method", [fit_kmeans, fit_mixture])


def blobs(sizes=(50, 40, 31), width=0.5, seed=0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of three numbers about a corner each, and which corner."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    rows = 10 * np.eye(len(sizes), 3)[labels] + width * rng.normal(size=(len(labels), 3))
    return rows[order], labels[order]


def blob(count: int = 300) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, 2))


@METHODS
def test_blobs_well_apart_are_found_by_every_seed(method):
    rows, labels = blobs()
    found = method(rows, 3, truth=labels)
    assert (found.stability.mean, found.stability.spread) == (1, 0)
    assert (found.agreement.mean, found.agreement.spread) == (1, 0)
    np.testing.assert_array_equal(found.sizes, [50, 40, 31])
    np.testing.assert_array_equal(found.labels, labels)  # the largest comes first


@METHODS
def test_parts_of_one_round_blob_do_not_come_again(method):
    for count in (2, 3):
        assert method(blob(), count).stability.mean < 0.8


@METHODS
@pytest.mark.parametrize("rows", [blobs()[0], blob()], ids=["apart", "round"])
def test_another_order_of_the_patterns_changes_the_order_of_the_labels_alone(method, rows):
    order = np.random.default_rng(2).permutation(len(rows))
    one, other = method(rows, 3), method(rows[order], 3)
    np.testing.assert_array_equal(one.labels[order], other.labels)
    assert one.stability == other.stability


def test_names_of_clusters_do_not_count():
    labels = np.random.default_rng(3).integers(0, 4, 90)
    renamed = np.array(["d", "a", "c", "b"])[labels]
    assert adjusted_rand(labels, renamed) == adjusted_rand(renamed, labels) == 1
    chance = np.random.default_rng(4).integers(0, 4, 90)
    assert abs(adjusted_rand(labels, chance)) < 0.1


def test_the_same_seeds_find_the_same_and_agreement_is_a_mean_over_seeds():
    rows, labels = blob(), np.arange(300) % 2
    one, other = (fit_mixture(rows, 2, seeds=(5, 9), truth=labels) for _ in range(2))
    np.testing.assert_array_equal(one.labels, other.labels)
    assert one.stability.spread == 0  # there is one pair
    assert one.agreement == other.agreement
    assert abs(one.agreement.mean) < 0.1


def test_a_mixture_finds_what_is_long_and_centres_do_not():
    rng = np.random.default_rng(5)
    rows = np.concatenate([rng.normal(size=(150, 2)) * [4, 0.3] + [0, 2 * at] for at in range(2)])
    labels = np.repeat([0, 1], 150)
    assert fit_mixture(rows, 2, truth=labels).agreement.mean > 0.95
    assert fit_kmeans(rows, 2, truth=labels).agreement.mean < 0.2


def test_whitening_makes_a_weak_latent_count():
    rows, labels = blobs()
    rows = np.stack([100 * np.random.default_rng(6).normal(size=len(rows)), labels.astype(float)], 1)
    assert fit_kmeans(rows, 3, truth=labels).agreement.mean < 0.2
    white = standardise_columns(rows)
    np.testing.assert_allclose(white.std(0), 1)
    np.testing.assert_allclose(standardise_columns(rows * [3, 0.01] - 7), white, atol=1e-12)
    assert np.isfinite(standardise_columns(np.ones((4, 2)))).all()


def test_of_many_rows_few_are_learned_from_and_all_get_a_label(monkeypatch):
    monkeypatch.setattr("phaseloom.metrics.clusters.MAX_FITTED_ROWS", 20)
    rows, labels = blobs()
    for method in (fit_kmeans, fit_mixture):
        assert method(rows, 3, truth=labels).agreement.mean == 1


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: fit_kmeans(np.ones((5, 2)), 2), "2 are more than the 1 different patterns"),
        (lambda: fit_kmeans(blob(), 1), "clusters: 1 must be 2 at least"),
        (lambda: fit_mixture(blob(), 2, seeds=(4, 4)), "seeds: 1 must be 2 at least"),
        (lambda: fit_kmeans(blob() / 0.0, 2), "table of finite numbers"),
        (lambda: fit_kmeans(blob(), 2, truth=np.zeros(7)), "7 labels but there are 300 patterns"),
    ],
)
def test_bad_input_is_a_sentence(call, sentence):
    with pytest.raises(BadInput, match=sentence), np.errstate(all="ignore"):
        call()


def test_without_scikit_learn_a_sentence_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(MissingExtra, match=r"needs scikit-learn: pip install 'phaseloom\[analyse\]'"):
        fit_kmeans(blob(), 2)
