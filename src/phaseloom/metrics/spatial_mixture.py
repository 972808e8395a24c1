"""Clusters of the patterns of a scan: a Gaussian mixture whose neighbours in the scan tend to be alike.

The labels have a Potts prior, ``p(labels) ~ exp(coupling x alike pairs of neighbours)``. Labels and mixture
are found by expectation and maximisation with a mean field, and the coupling is the one of largest
pseudo-likelihood, so that the data choose it: it is near zero where neighbours have nothing in common, and
a small region stays if its patterns differ from those around by more than their noise.

Source: Celeux, Forbes & Peyrard 2003, doi 10.1016/S0031-3203(02)00027-4; of known labels Zhu, Ghahramani &
Lafferty 2003, "Semi-supervised learning using Gaussian fields and harmonic functions", ICML.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.linalg import solve_triangular
from scipy.sparse.linalg import cg
from scipy.spatial import KDTree
from scipy.special import expit, logsumexp, softmax

from phaseloom.errors import BadInput
from phaseloom.metrics.clusters import (
    DEFAULT_SEEDS,
    Clusters,
    SpatialFit,
    check_labels,
    check_rows,
    compare_labellings,
    label_by_centres,
    label_by_mixture,
    rank_labels,
)

__all__ = ["SpatialCounts", "compare_spatial_counts", "fit_spatial_mixture", "link_neighbours"]

METHOD = "Potts field"
MAX_ITERATIONS = 80
MIN_GAIN = 0.01  # of the log-likelihood, below which an iteration is the last one
FREE_ITERATIONS = 2  # without a prior, before labels of a start mean anything
MEAN_FIELD_PASSES = 2
MAX_COUPLING = 3.0  # neighbours that are alike beyond any evidence
NEAREST_IN_PITCHES = 1.6  # distance up to which places are neighbours: diagonals of a square grid are
PRIOR_ROWS = 8.0  # rows of the pooled covariance that each cluster is given
ENOUGH_GAIN = 0.85  # found on 15 films of benchmarks/varied_films.py, and judged on others
OUTLIER_SHARE = 0.01  # of rows that belong to no cluster, and how wide these lie
OUTLIER_VARIANCE = 9.0
START_CERTAINTY = 0.9
NEAREST_ROWS = 10  # rows near in numbers that known labels spread to


@dataclass(frozen=True, eq=False)
class _Fit:
    """A mixture with its labels.

    Attributes:
        shares: ``(n, k)`` probabilities of the labels.
        score: log-likelihood, in the mean-field approximation.
        coupling: of neighbours.
    """

    shares: np.ndarray
    score: float
    coupling: float


def fit_spatial_mixture(
    rows: ArrayLike,
    count: int,
    positions: ArrayLike,
    /,
    *,
    seeds: Sequence[int] = DEFAULT_SEEDS,
    truth: ArrayLike | None = None,
    known: ArrayLike | None = None,
) -> Clusters:
    """Clusters by a Gaussian mixture with a Potts prior over the scan.

    Args:
        rows: ``(n, d)`` numbers.
        count: clusters.
        positions: ``(n, 2)``; where they are all the same, rows are neighbours in time.
        seeds: of the starts, two at least; the likeliest of all is the result.
        truth: ``(n,)`` true labels, to agree with.
        known: ``(n,)`` labels of some rows, whole numbers from 0, and -1 where none is known. These rows
            keep them, and cluster 0 is that of label 0, and so on; clusters beyond are of what has no label.

    Raises:
        BadInput: as of `phaseloom.metrics.clusters.fit_kmeans`; positions of another number of rows, or known
            labels that are none, or more than clusters.
        MissingExtra: without scikit-learn.

    Example:
        >>> places = np.stack(np.meshgrid(np.arange(12.0), np.arange(12.0)), -1).reshape(-1, 2)
        >>> kinds = (places[:, 0] > 5).astype(int)
        >>> rows = np.random.default_rng(0).normal(2.0 * kinds[:, None], 1, (144, 2))
        >>> from phaseloom.metrics.clusters import fit_kmeans
        >>> found = fit_spatial_mixture(rows, 2, places, truth=kinds)
        >>> found.agreement.mean > 0.9 > fit_kmeans(rows, 2, truth=kinds).agreement.mean
        True
    """
    values = check_rows(rows, count, seeds)
    links = link_neighbours(positions, len(values))
    given = None if known is None else _check_known(known, len(values), count)
    found = [_fit_seed(values, count, links, seed, given) for seed in seeds]
    best = max(found, key=lambda one: one.score)
    labels = best.shares.argmax(1)
    labels = labels if given is not None else rank_labels(labels, count)
    true = None if truth is None else check_labels(truth, len(values))
    knobs = _count_parameters(count, values.shape[1])
    spatial = SpatialFit(
        best.shares.max(1), best.coupling, float(knobs * np.log(len(values)) - 2 * best.score)
    )
    sizes = np.bincount(labels, minlength=count)
    compared = compare_labellings([one.shares.argmax(1) for one in found], true)
    return Clusters(METHOD, labels, sizes, *compared, spatial)


@dataclass(frozen=True, eq=False)
class SpatialCounts:
    """Numbers of clusters side by side.

    Attributes:
        counts: ``(m,)`` of clusters, ascending.
        bic: ``(m,)`` criterion of each, see `phaseloom.metrics.clusters.SpatialFit`.
    """

    counts: np.ndarray
    bic: np.ndarray

    @property
    def suggested_count(self) -> int:
        """The smallest number that has 85 % of the gain of the best one over the smallest.

        Beyond it clusters part what is one kind: a wedge, or a bend, is no normal distribution, so that
        with many electrons the criterion itself falls on and on.
        """
        gain = self.bic[0] - self.bic
        return int(self.counts[np.flatnonzero(gain >= ENOUGH_GAIN * gain.max())[0]])


def compare_spatial_counts(
    rows: ArrayLike,
    positions: ArrayLike,
    counts: Iterable[int] = range(2, 9),
    /,
    *,
    seeds: Sequence[int] = DEFAULT_SEEDS,
    known: ArrayLike | None = None,
) -> SpatialCounts:
    """Try numbers of clusters; arguments and errors as of `fit_spatial_mixture`.

    Args:
        rows: ``(n, d)`` numbers.
        positions: ``(n, 2)``.
        counts: of clusters; those above a tenth of the rows are left out, but for the smallest.
        seeds: of the starts; two are enough for a criterion.
        known: ``(n,)`` labels of some rows; numbers of clusters begin with that of these.

    Example:
        >>> places = np.stack(np.meshgrid(np.arange(12.0), np.arange(12.0)), -1).reshape(-1, 2)
        >>> rows = np.random.default_rng(0).normal(4.0 * (places[:, :1] // 4), 1, (144, 2))
        >>> compare_spatial_counts(rows, places, range(2, 6)).suggested_count
        3
    """
    size = len(np.asarray(rows))
    least = 2 if known is None else max(2, int(np.nanmax(np.asarray(known, np.float64))) + 1)
    wanted = [one for one in sorted({least, *counts}) if one == least or least < one <= size // 10]
    few = tuple(seeds)[:2]
    found = [fit_spatial_mixture(rows, one, positions, seeds=few, known=known).spatial for one in wanted]
    return SpatialCounts(np.array(wanted), np.array([one.bic for one in found if one is not None]))


def link_neighbours(positions: ArrayLike, count: int, /) -> sparse.csr_array:
    """Weights ``(n, n)`` of pairs of neighbours: one for the nearest, less for those further away.

    Args:
        positions: ``(n, 2)``; where they are all the same, rows are neighbours in time.
        count: of rows.

    Raises:
        BadInput: not as many positions as rows.

    Example:
        >>> link_neighbours([[0.0, 0.0], [0.0, 2.0], [2.0, 2.0]], 3).toarray().round(1).tolist()
        [[0.0, 1.0, 0.7], [1.0, 0.0, 1.0], [0.7, 1.0, 0.0]]
    """
    places = np.asarray(positions, np.float64)
    if places.shape != (count, 2) or not np.isfinite(places).all():
        raise BadInput("positions", f"shape {places.shape}", f"must be {count} pairs of finite numbers")
    if not np.ptp(places, axis=0).any():
        places = np.stack([np.arange(float(count)), np.zeros(count)], 1)
    tree = KDTree(places)
    pitch = max(float(np.median(tree.query(places, 2)[0][:, 1])), 1e-12)
    pairs = tree.query_pairs(NEAREST_IN_PITCHES * pitch, output_type="ndarray")
    distance = np.linalg.norm(places[pairs[:, 0]] - places[pairs[:, 1]], axis=1)
    weight = np.minimum(pitch / np.maximum(distance, 1e-12 * pitch), 1.0)
    half = sparse.coo_array((weight, (pairs[:, 0], pairs[:, 1])), shape=(count, count)).tocsr()
    return (half + half.T).tocsr()


def _fit_seed(
    values: np.ndarray, count: int, links: sparse.csr_array, seed: int, known: np.ndarray | None
) -> _Fit:
    """The likeliest fit of some starts: mixtures, centres, and centres of rows averaged with neighbours."""
    if known is not None:
        return _fit_from(values, count, links, _start_from_known(values, count, links, seed, known), known)
    around = np.asarray(links.sum(1)).ravel()[:, None] + 1
    smooth = (links @ values + values) / around
    starts = [
        label_by_mixture(values, count, seed),
        label_by_centres(values, count, seed),
        label_by_centres(smooth / np.maximum(smooth.std(0), 1e-12), count, seed),
    ]
    return max((_fit_from(values, count, links, one) for one in starts), key=lambda one: one.score)


def _start_from_known(
    values: np.ndarray, count: int, links: sparse.csr_array, seed: int, known: np.ndarray
) -> np.ndarray:
    """Known labels spread to rows near in the scan or in numbers; the furthest begin clusters without one.

    The labels are the harmonic ones (Zhu et al. 2003): each row has the weighted mean of those around it.
    """
    scaled = _scale_by_neighbours(values, links)
    kinds = np.unique(known[known >= 0])
    labels = kinds[_spread_labels(scaled, links, known, kinds).argmax(1)]
    rest = np.setdiff1d(np.arange(count), kinds)
    if len(rest):
        centres = np.stack([scaled[labels == kind].mean(0) for kind in kinds])
        distance = ((scaled[:, None] - centres) ** 2).sum(-1).min(1)
        far = (distance > np.quantile(distance, 1 - len(rest) / count)) & (known < 0)
        if len(np.unique(scaled[far], axis=0)) >= len(rest):
            own = label_by_centres(scaled[far], len(rest), seed) if len(rest) > 1 else 0
            labels[far] = rest[own]
    return labels


def _scale_by_neighbours(values: np.ndarray, links: sparse.csr_array) -> np.ndarray:
    """Rows in units of the differences between neighbours in the scan."""
    pairs = sparse.triu(links).tocoo()
    steps = values[pairs.row] - values[pairs.col]
    spread = _regularise(np.cov(steps, rowvar=False) / 2, values)
    return solve_triangular(np.linalg.cholesky(spread), values.T, lower=True).T


def _spread_labels(
    scaled: np.ndarray, links: sparse.csr_array, known: np.ndarray, kinds: np.ndarray
) -> np.ndarray:
    """Probabilities ``(n, kinds)`` of harmonic labels on the graph of neighbours in scan and numbers."""
    around = np.asarray(KDTree(scaled).query(scaled, min(NEAREST_ROWS, len(scaled) - 1) + 1)[1])[:, 1:]
    rows = np.repeat(np.arange(len(scaled)), around.shape[1])
    near = sparse.coo_array((np.ones(around.size), (rows, around.ravel())), shape=links.shape)
    graph = (links + near + near.T).tocoo()
    squares = ((scaled[graph.row] - scaled[graph.col]) ** 2).sum(1)
    weight = graph.data * np.exp(-squares / (2 * scaled.shape[1])) + 1e-6
    graph = sparse.coo_array((weight, (graph.row, graph.col)), shape=links.shape).tocsr()
    free = np.flatnonzero(known < 0)
    fixed = np.flatnonzero(known >= 0)
    given = (known[fixed, None] == kinds).astype(float)
    laplacian = (sparse.diags_array(np.asarray(graph.sum(1)).ravel()) - graph).tocsr()
    pull = graph[free][:, fixed] @ given
    inner = laplacian[free][:, free] + 1e-9 * sparse.eye_array(len(free))
    scale = sparse.diags_array(1 / inner.diagonal())
    found = np.stack([cg(inner, one, M=scale, rtol=1e-6, maxiter=2000)[0] for one in pull.T], 1)
    shares = np.empty((len(scaled), len(kinds)))
    shares[fixed] = given
    shares[free] = np.maximum(found, 0) + 1e-9
    return shares / shares.sum(1, keepdims=True)


def _fit_from(
    values: np.ndarray,
    count: int,
    links: sparse.csr_array,
    start: np.ndarray,
    known: np.ndarray | None = None,
) -> _Fit:
    """Expectation and maximisation from labels of a start, which known rows keep."""
    shares = START_CERTAINTY * np.eye(count)[start] + (1 - START_CERTAINTY) / count
    is_known = np.zeros(len(values), bool) if known is None else known >= 0
    fixed = np.eye(count)[start]
    outside = _compute_log_density(
        values, values.mean(0), OUTLIER_VARIANCE * _regularise(np.cov(values, rowvar=False), values)
    ) + np.log(OUTLIER_SHARE)
    inside = np.ones(len(values))
    coupling, levels, score, last = 0.0, np.zeros(count), -np.inf, -np.inf
    for iteration in range(MAX_ITERATIONS):
        density = _fit_normals(values, shares * inside[:, None])
        if iteration >= FREE_ITERATIONS:
            coupling, levels = _fit_coupling(shares, links, coupling, levels)
        for _ in range(MEAN_FIELD_PASSES):
            shares = softmax(density + levels + coupling * (links @ shares), axis=1)
            shares = np.where(is_known[:, None], fixed, shares)
        inside = (shares * expit(density - outside[:, None])).sum(1)
        field = levels + coupling * (links @ shares)
        free = np.asarray(logsumexp(density + field, axis=1))
        either = np.where(is_known, ((density + field) * fixed).sum(1), free)
        score = float(np.logaddexp(either - logsumexp(field, axis=1), outside).sum())
        if iteration > 2 * FREE_ITERATIONS and abs(score - last) < MIN_GAIN:
            break
        last = score
    return _Fit(shares, score, coupling)


def _fit_normals(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Log-densities ``(n, k)`` of weighted normal distributions, covariances drawn to the pooled one."""
    sizes = weights.sum(0) + 1e-9
    means = weights.T @ values / sizes[:, None]
    scatters = []
    for weight, mean in zip(weights.T, means, strict=True):
        offset = values - mean
        scatters.append((offset * weight[:, None]).T @ offset)
    pooled = np.sum(scatters, axis=0) / sizes.sum()
    columns = [
        _compute_log_density(
            values, mean, _regularise((one + PRIOR_ROWS * pooled) / (size + PRIOR_ROWS), values)
        )
        for one, mean, size in zip(scatters, means, sizes, strict=True)
    ]
    return np.stack(columns, 1)


def _regularise(covariance: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.atleast_2d(covariance) + 1e-6 * float(values.var(0).mean()) * np.eye(values.shape[1])


def _compute_log_density(values: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    root = np.linalg.cholesky(covariance)
    squares = (solve_triangular(root, (values - mean).T, lower=True) ** 2).sum(0)
    return -0.5 * (squares + len(root) * np.log(2 * np.pi)) - np.log(np.diag(root)).sum()


def _fit_coupling(
    shares: np.ndarray, links: sparse.csr_array, coupling: float, levels: np.ndarray
) -> tuple[float, np.ndarray]:
    """Coupling of neighbours and levels of clusters, a step each towards the largest pseudo-likelihood."""
    alike = links @ shares
    for _ in range(3):
        expected = softmax(levels + coupling * alike, axis=1)
        slope = float(((shares - expected) * alike).sum())
        bend = float(((expected * alike**2).sum(1) - (expected * alike).sum(1) ** 2).sum())
        coupling = float(np.clip(coupling + slope / (bend + 1e-6), 0.0, MAX_COUPLING))
    expected = softmax(levels + coupling * alike, axis=1)
    levels = levels + np.log(shares.sum(0) + 1) - np.log(expected.sum(0) + 1)
    return coupling, levels - levels.mean()


def _count_parameters(count: int, numbers: int) -> float:
    """Means, covariances, levels and the coupling."""
    return count * (numbers + numbers * (numbers + 1) / 2) + count


def _check_known(known: ArrayLike, rows: int, count: int) -> np.ndarray:
    labels = np.ravel(known)
    if len(labels) != rows:
        raise BadInput(
            "known labels", f"{len(labels)} labels", f"but there are {rows} patterns: give one for each"
        )
    whole = np.nan_to_num(np.asarray(labels, np.float64), nan=-1)
    if (whole != np.rint(whole)).any() or (whole < -1).any():
        raise BadInput("known labels", None, "must be whole numbers from 0, and -1 where none is known")
    if whole.max() < 0:
        raise BadInput("known labels", None, "name no pattern: write 0, 1, ... for some, -1 for the others")
    if whole.max() >= count:
        raise BadInput("clusters", count, f"are fewer than the labels up to {int(whole.max())}: ask for more")
    kinds = np.unique(whole[whole >= 0])
    if kinds[-1] >= len(kinds):
        shown = ", ".join(f"{kind:.0f}" for kind in kinds[:6])
        fix = f"leave out numbers: write 0 to {len(kinds) - 1}, one for each kind"
        raise BadInput("known labels", shown, fix)
    return whole.astype(np.int64)
