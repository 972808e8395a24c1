"""Clusters of rows of numbers, and their stability from seed to seed.

Every seed fits its own random draw of rows, four fifths of them and 20,000 at most, and assigns all rows to
clusters. Those that depend on few rows, or on the start of the fit, are not reproduced, which lowers the
agreement between seeds. Rows are sorted first, so that clusters do not depend on their order.

Latents differ in variance, and distances are dominated by the largest. `standardise_columns` divides each by
its standard deviation; it does not rotate them to uncorrelated directions first (PCA whitening): where two
latents are nearly equal, that amplifies their difference, which is noise, to the same weight.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from phaseloom.errors import BadInput, MissingExtra

__all__ = ["Clusters", "MeanOverSeeds", "SpatialFit", "adjusted_rand", "check_labels"]
__all__ += ["check_rows", "compare_labellings", "fit_kmeans", "fit_mixture"]
__all__ += ["label_by_centres", "label_by_mixture", "rank_labels", "standardise_columns"]

MAX_FITTED_ROWS = 20000  # rows that a seed is fitted to
FITTED_SHARE = 0.8  # the same as a share of all rows
KMEANS_STARTS = 4  # beginnings of k-means for a seed, of which the best counts
# Those of a mixture: clusters of k-means, best for round ones, and single rows far apart, for long ones.
MIXTURE_STARTS = {"kmeans": 1, "k-means++": 2}
DEFAULT_SEEDS = (0, 1, 2, 3, 4)

# All rows, those to fit, number of clusters and seed, to labels of all rows and a score, larger is better.
Fit = Callable[[np.ndarray, np.ndarray, int, int], tuple[np.ndarray, float]]


@dataclass(frozen=True)
class MeanOverSeeds:
    """A number that several seeds gave.

    Attributes:
        mean: of them.
        spread: their standard deviation.
    """

    mean: float
    spread: float

    @classmethod
    def of(cls, values: Iterable[float], /) -> "MeanOverSeeds":
        """Of some numbers."""
        found = np.fromiter(values, float)
        return cls(float(found.mean()), float(found.std()))

    def __str__(self) -> str:
        """In print."""
        return f"{self.mean:.3f} ± {self.spread:.3f}"


@dataclass(frozen=True, eq=False)
class Clusters:
    """Rows put into clusters.

    Attributes:
        method: its name.
        labels: ``(n,)`` of the seed with the least inertia or the largest likelihood; 0 is the largest
            cluster.
        sizes: ``(k,)`` rows of each cluster.
        stability: adjusted Rand index between all pairs of seeds: 1 where they all found the same.
        agreement: the same index between each seed and the true labels, if these were given.
        spatial: what a prior over the scan adds, of clusters that have one.
    """

    method: str
    labels: np.ndarray
    sizes: np.ndarray
    stability: MeanOverSeeds
    agreement: MeanOverSeeds | None
    spatial: "SpatialFit | None" = None

    def __str__(self) -> str:
        """As a line of a report."""
        prior = "" if self.spatial is None else f", coupling of neighbours {self.spatial.coupling:.2f}"
        true = "" if self.agreement is None else f", agreement with labels {self.agreement}"
        return f"{self.method}, {len(self.sizes)} clusters: stability {self.stability}{prior}{true}"


@dataclass(frozen=True, eq=False)
class SpatialFit:
    """A mixture with a prior over the scan, see `phaseloom.metrics.spatial_mixture`.

    Attributes:
        probability: ``(n,)`` of each row's label.
        coupling: of neighbours, in nats for each that is alike, as chosen by the data.
        bic: Bayesian information criterion of the whole fit; the least is the best number of clusters.
    """

    probability: np.ndarray
    coupling: float
    bic: float


def standardise_columns(rows: ArrayLike, /) -> np.ndarray:
    """Each column less its mean and over its standard deviation; a column of one number becomes zero.

    Example:
        >>> standardise_columns([[1.0, 5.0], [3.0, 5.0]]).tolist()
        [[-1.0, 0.0], [1.0, 0.0]]
    """
    values = np.asarray(rows, np.float64)
    spread = values.std(0)
    alive = spread > 1e-12 * np.abs(values).max(0, initial=0)
    return np.where(alive, values - values.mean(0), 0) / np.where(alive, spread, 1)


def adjusted_rand(one: ArrayLike, other: ArrayLike, /) -> float:
    """Agreement of two labellings of the same rows: 1 if equal but for names, about 0 by chance.

    Source: Hubert & Arabie 1985, doi 10.1007/BF01908075.

    Raises:
        MissingExtra: without scikit-learn.

    Example:
        >>> adjusted_rand([0, 0, 1, 2], ["b", "b", "a", "c"])
        1.0
    """
    first, second = (np.unique(np.ravel(part), return_inverse=True)[1] for part in (one, other))
    return float(_import_sklearn("metrics").adjusted_rand_score(first, second))


def fit_kmeans(
    rows: ArrayLike, count: int, /, *, seeds: Sequence[int] = DEFAULT_SEEDS, truth: ArrayLike | None = None
) -> Clusters:
    """Clusters about centres, the sum of squared distances from them as small as can be found.

    Args:
        rows: ``(n, d)`` numbers.
        count: clusters.
        seeds: two at least.
        truth: ``(n,)`` true labels, numbers or words, to agree with.

    Raises:
        BadInput: rows that are not a table of finite numbers, fewer different ones than clusters, fewer than
            two clusters or seeds, or labels for another number of rows.
        MissingExtra: without scikit-learn.

    Example:
        >>> rows = np.repeat([[0.0, 0.0], [9.0, 1.0]], 20, axis=0)
        >>> found = fit_kmeans(rows, 2)
        >>> found.sizes.tolist(), str(found.stability)
        ([20, 20], '1.000 ± 0.000')
    """
    return _fit_clusters("k-means", _fit_centres, rows, count, seeds=seeds, truth=truth)


def fit_mixture(
    rows: ArrayLike, count: int, /, *, seeds: Sequence[int] = DEFAULT_SEEDS, truth: ArrayLike | None = None
) -> Clusters:
    """Clusters as a sum of normal distributions, each row in the likeliest: they may be long, or small.

    Each has a covariance of its own; of variances alone where there are fewer than two rows to learn from
    for each of its numbers.

    Arguments and errors as of `fit_kmeans`.
    """
    return _fit_clusters("Gaussian mixture", _fit_normals, rows, count, seeds=seeds, truth=truth)


def _fit_clusters(
    method: str, fit: Fit, rows: ArrayLike, count: int, *, seeds: Sequence[int], truth: ArrayLike | None
) -> Clusters:
    values, order = _sort_rows(check_rows(rows, count, seeds))
    known = None if truth is None else check_labels(truth, len(values))[order]
    found = [_fit_draw(fit, values, count, seed) for seed in seeds]
    labellings = [labels for labels, _ in found]
    labels = rank_labels(found[int(np.argmax([score for _, score in found]))][0], count)
    again = np.empty_like(labels)
    again[order] = labels
    sizes = np.bincount(labels, minlength=count)
    return Clusters(method, again, sizes, *compare_labellings(labellings, known))


def label_by_centres(values: np.ndarray, count: int, seed: int, /) -> np.ndarray:
    """Labels of rows by k-means of the draw of a seed; arguments as of `fit_kmeans`."""
    return _fit_draw(_fit_centres, values, count, seed)[0]


def label_by_mixture(values: np.ndarray, count: int, seed: int, /) -> np.ndarray:
    """Labels of rows by a Gaussian mixture of the draw of a seed; arguments as of `fit_kmeans`."""
    return _fit_draw(_fit_normals, values, count, seed)[0]


def _fit_draw(fit: Fit, values: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, float]:
    """Labels of all rows, and a score, of a fit to some of them."""
    least = int(np.ceil(FITTED_SHARE * len(values)))
    few = _draw_rows(len(values), min(MAX_FITTED_ROWS, least), seed)
    return fit(values, values[few], count, seed)


def compare_labellings(
    labellings: Sequence[np.ndarray], truth: np.ndarray | None, /
) -> tuple[MeanOverSeeds, MeanOverSeeds | None]:
    """Stability of the labellings of several seeds, and agreement with true labels, if there are any."""
    stability = MeanOverSeeds.of(adjusted_rand(one, other) for one, other in combinations(labellings, 2))
    true = None if truth is None else MeanOverSeeds.of(adjusted_rand(truth, one) for one in labellings)
    return stability, true


def _fit_centres(values: np.ndarray, few: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, float]:
    net = _import_sklearn("cluster").KMeans(count, n_init=KMEANS_STARTS, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a draw may hold fewer different rows than clusters
        net.fit(few)
    return net.predict(values), float(net.score(values))


def _fit_normals(values: np.ndarray, few: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, float]:
    fitted = _fit_best_mixture(few, count, _choose_covariance(few, count), seed)
    parts = np.array_split(
        values, max(1, len(values) // MAX_FITTED_ROWS)
    )  # of each row its share in each cluster
    score = sum(float(fitted.score(part)) * len(part) for part in parts)
    return np.concatenate([fitted.predict(part) for part in parts]), score


def _fit_best_mixture(few: np.ndarray, count: int, kind: str, seed: int) -> Any:
    """The likeliest of mixtures that begin at k-means, and at rows far from each other."""
    make = _import_sklearn("mixture").GaussianMixture
    least = 1e-6 * float(few.var(0).mean())
    known = {"covariance_type": kind, "reg_covar": least, "random_state": seed}
    starts = [make(count, init_params=start, n_init=n, **known) for start, n in MIXTURE_STARTS.items()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not converged: then seeds do not agree, which is said
        return max((one.fit(few) for one in starts), key=lambda one: one.lower_bound_)


def _choose_covariance(few: np.ndarray, count: int) -> str:
    numbers = count * few.shape[1] * (few.shape[1] + 1) / 2
    return "full" if len(few) >= 2 * numbers else "diag"


def _draw_rows(count: int, most: int, seed: int) -> np.ndarray:
    """Numbers of some of many rows, ascending."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def _sort_rows(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows in an order that does not depend on the one in which they came, and their numbers."""
    order = np.lexsort(values.T[::-1])
    return values[order], order


def rank_labels(labels: np.ndarray, count: int, /) -> np.ndarray:
    """Labels named by the size of the clusters; of equal ones, that whose first row comes first."""
    first = np.full(count, len(labels))
    np.minimum.at(first, labels, np.arange(len(labels)))
    order = np.lexsort([first, -np.bincount(labels, minlength=count)])
    names = np.empty(count, np.int64)
    names[order] = np.arange(count)
    return names[labels]


def check_rows(rows: ArrayLike, count: int, seeds: Sequence[int], /) -> np.ndarray:
    """Rows as numbers; errors as of `fit_kmeans`."""
    values = np.asarray(rows, np.float64)
    if values.ndim != 2 or 0 in values.shape or not np.isfinite(values).all():
        raise BadInput("clusters: rows", f"shape {values.shape}", "must be a table of finite numbers")
    for name, given in {"clusters": count, "seeds": len(set(seeds))}.items():
        if given < 2:
            raise BadInput(f"clusters: {name}", given, "must be 2 at least")
    different = len(np.unique(values, axis=0)) if len(values) < MAX_FITTED_ROWS else len(values)
    if different < count:
        raise BadInput("clusters", count, f"are more than the {different} different patterns: take fewer")
    return values


def check_labels(truth: ArrayLike, count: int, /) -> np.ndarray:
    """True labels as numbers from 0; errors as of `fit_kmeans`."""
    labels = np.ravel(truth)
    if len(labels) != count:
        raise BadInput(
            "labels", f"{len(labels)} labels", f"but there are {count} patterns: give one for each"
        )
    return np.unique(labels, return_inverse=True)[1]


def _import_sklearn(room: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"sklearn.{room}")
    except ImportError as problem:
        raise MissingExtra("clusters", "scikit-learn", "analyse") from problem
