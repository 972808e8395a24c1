"""Analyse the latents of a scan: maps, clusters, mean patterns, components, traversals."""

import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from phaseloom.data.scan import Scan4D
from phaseloom.embedding.embeddings import PATTERNS_AT_ONCE, ScanEmbedding
from phaseloom.embedding.networks.autoencoder import PatternAutoencoder, pca
from phaseloom.embedding.objective import AutoencoderObjective
from phaseloom.errors import BadInput, MissingExtra
from phaseloom.files import whole_hdf5
from phaseloom.metrics.clusters import Clusters, fit_kmeans, fit_mixture
from phaseloom.metrics.spatial_mixture import SpatialCounts, compare_spatial_counts, fit_spatial_mixture
from phaseloom.virtual.radial import RadialProfile, compute_radial_profile

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ComponentAnalysis", "LatentReport", "MeanPatterns", "PatternSamples", "find_clusters"]
__all__ += ["compute_mean_patterns", "generate_patterns", "plot_report", "require_same_network"]
__all__ += ["compute_nonnegative_factors", "compute_principal_components", "compute_umap"]
__all__ += ["generate_traversals", "make_traversal", "require_same_scan", "select_samples"]
__all__ += ["select_strongest", "write_report"]

TRAVERSAL_STEPS = 7  # patterns of a traversal
MAX_TRAVERSALS = 12
SAMPLES_OF_A_KIND = 3  # worst patterns that are shown, and as many typical ones
MAX_UMAP_PATTERNS = 20000  # patterns that are laid out by UMAP at most
# Patterns, and numbers in them, that components are fitted to.
MAX_FITTED_PATTERNS = 2000
MAX_FITTED_NUMBERS = 20_000_000


@dataclass(frozen=True, eq=False)
class MeanPatterns:
    """Mean patterns, counts; NaN in pixels that are not trusted, and in clusters without a pattern.

    Attributes:
        sizes: ``(k,)`` patterns of each cluster.
        patterns: ``(k, y, x)`` their means.
        mean: ``(y, x)`` of all.
        profile: of the means, the last one of all; none of a near field.
    """

    sizes: np.ndarray
    patterns: np.ndarray
    mean: np.ndarray
    profile: RadialProfile | None


@dataclass(frozen=True, eq=False)
class PatternSamples:
    """Patterns and their reconstructions, counts; NaN in pixels that are not trusted.

    Attributes:
        names: of the patterns.
        measured: ``(m, y, x)``.
        drawn: ``(m, y, x)``.
    """

    names: tuple[str, ...]
    measured: np.ndarray
    drawn: np.ndarray


@dataclass(frozen=True, eq=False)
class ComponentAnalysis:
    """Patterns as sums of a few images.

    Attributes:
        name: of the method.
        scores: ``(n, k)`` how much of each is in a pattern.
        images: ``(k, y, x)`` in the roots of counts; NaN in pixels that are not trusted.
    """

    name: str
    scores: np.ndarray
    images: np.ndarray


@dataclass(frozen=True, eq=False)
class LatentReport:
    """Results of an analysis; those that need the scan or the network are there if these were given.

    Attributes:
        embedding: the latents.
        kinds: clusters by each method.
        means: of their patterns, one for each method.
        components: of the same patterns, as many as there are latents.
        samples: the worst and typical patterns.
        traversals: ``(latents, steps, y, x)`` counts, one latent varied in each row.
        varied: which latents these are.
        places: of some patterns in a plane where neighbours in latents are neighbours.
        placed: numbers of these patterns.
    """

    embedding: ScanEmbedding
    kinds: tuple[Clusters, ...]
    means: tuple[MeanPatterns, ...] = ()
    components: tuple[ComponentAnalysis, ...] = ()
    samples: PatternSamples | None = None
    traversals: np.ndarray | None = None
    varied: tuple[int, ...] = ()
    places: np.ndarray | None = None
    placed: np.ndarray | None = None


@torch.no_grad()
def compute_principal_components(scan: Scan4D, count: int, /) -> ComponentAnalysis:
    """Principal components of stabilised patterns, the one of largest variance first.

    Args:
        scan: the data.
        count: components; fewer where there are too few patterns or pixels.
    """
    few = _select_for_fit(scan, 0)
    net = pca(latent_dim=max(1, min(count, len(few) - 1, scan.mask.size)))
    objective = AutoencoderObjective(net, scan, {}, few)
    objective.begin()
    scores = [
        net.embed(objective.scale_counts(objective.counts(index))).numpy()
        for index in _split_indices(len(scan))
    ]
    images = np.where(scan.mask, net.skip.basis.detach().numpy(), np.nan)
    return ComponentAnalysis("principal components", np.concatenate(scores), images)


def compute_nonnegative_factors(scan: Scan4D, count: int, /, *, seed: int = 0) -> ComponentAnalysis:
    """Non-negative factors of the roots of counts, the one with the most counts first.

    They are fitted to 2000 patterns at most, from all over the scan; images have norm one. Pixels that are
    not trusted are left out.

    Args:
        scan: the data.
        count: factors; fewer where there are too few patterns or pixels.
        seed: of the draw.

    Raises:
        MissingExtra: without scikit-learn.

    Source: Lee & Seung 1999, doi 10.1038/44565.
    """
    try:
        from sklearn.decomposition import NMF
    except ImportError as problem:
        raise MissingExtra("components", "scikit-learn", "analyse") from problem
    few = _select_for_fit(scan, seed)
    wanted: Any = max(1, min(count, len(few), int(scan.mask.sum())))
    net = NMF(wanted, init="nndsvda", random_state=seed, tol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not converged: near enough for a map
        net.fit(_read_roots(scan, few))
        scores = np.concatenate(
            [net.transform(_read_roots(scan, index)) for index in _split_indices(len(scan))]
        )
    strength = np.linalg.norm(net.components_, axis=1)
    order = np.argsort(-strength * scores.mean(0), kind="stable")
    images = np.full((len(order), *scan.mask.shape), np.nan)
    images[:, scan.mask] = (net.components_ / np.where(strength > 0, strength, 1)[:, None])[order]
    return ComponentAnalysis("non-negative factors", (scores * strength)[:, order], images)


def _split_indices(count: int, /) -> Iterator[np.ndarray]:
    """Numbers of the patterns of a scan, some at a time."""
    return (
        np.arange(start, min(start + PATTERNS_AT_ONCE, count)) for start in range(0, count, PATTERNS_AT_ONCE)
    )


def _select_for_fit(scan: Scan4D, seed: int) -> np.ndarray:
    """Numbers of the patterns that components are fitted to, ascending."""
    return _draw_numbers(
        len(scan), max(2, min(MAX_FITTED_PATTERNS, MAX_FITTED_NUMBERS // scan.mask.size)), seed
    )


def _draw_numbers(count: int, most: int, seed: int, /) -> np.ndarray:
    """Numbers of some of many patterns, ascending."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def _read_roots(scan: Scan4D, index: np.ndarray) -> np.ndarray:
    """Roots of counts in trusted pixels ``(b, pixel)``."""
    return np.sqrt(np.asarray(scan.counts[index], np.float32)[:, scan.mask].clip(0))


def find_clusters(
    rows: np.ndarray,
    count: int | None,
    positions: np.ndarray,
    /,
    *,
    known: np.ndarray | None = None,
    seeds: int = 5,
    truth: np.ndarray | None = None,
) -> tuple[tuple[Clusters, ...], SpatialCounts | None]:
    """Clusters by a Gaussian mixture with neighbours, by one without, and by k-means.

    Beside them stand the numbers of clusters that were tried if none is given.

    Args:
        rows: latents, whitened or not.
        count: clusters; none: as suggested, see `phaseloom.metrics.spatial_mixture.SpatialCounts`.
        positions: ``(n, 2)`` of the patterns.
        known: labels of some patterns, see `phaseloom.metrics.spatial_mixture.fit_spatial_mixture`; the two
            other methods do not use them.
        seeds: how many.
        truth: true labels.

    Raises:
        BadInput: see `phaseloom.metrics.spatial_mixture.fit_spatial_mixture`.
    """
    numbers = tuple(range(seeds))
    counts = compare_spatial_counts(rows, positions, seeds=numbers, known=known) if count is None else None
    found = counts.suggested_count if counts else count
    assert found is not None
    first = fit_spatial_mixture(rows, found, positions, seeds=numbers, truth=truth, known=known)
    single = (method(rows, found, seeds=numbers, truth=truth) for method in (fit_mixture, fit_kmeans))
    return (first, *single), counts


def require_same_network(objective: AutoencoderObjective, embedding: ScanEmbedding, /) -> None:
    """Refuse latents that another network has made.

    Raises:
        BadInput: some patterns have other latents by this one.
    """
    few = np.unique(np.linspace(0, len(embedding) - 1, 5).astype(int))
    known = embedding.latents[few]
    found = objective.reconstruct(few)[0].cpu().numpy()
    spread = max(float(embedding.latents.std()), 1e-6)
    if known.shape != found.shape or np.abs(known - found).max() > 0.05 * spread:
        fix = "did not make these embeddings: give the network that did, or embed the scan again"
        raise BadInput("--model", type(objective.net).__name__, fix)


def require_same_scan(embedding: ScanEmbedding, scan: Scan4D, /) -> None:
    """Refuse a scan that an embedding is not of.

    Raises:
        BadInput: other counts, positions or mask than those that were embedded.
    """
    if len(scan) != len(embedding) or scan.digest() != embedding.provenance.data:
        fix = f"is not the scan of these embeddings, {embedding.provenance.file}: give it, prepared alike"
        raise BadInput("--scan", f"{len(scan)} patterns", fix)


def compute_mean_patterns(scan: Scan4D, labels: np.ndarray, /) -> MeanPatterns:
    """Mean patterns of clusters and of all, in one pass over the scan.

    Args:
        scan: the data.
        labels: ``(n,)`` from zero.
    """
    sizes = np.bincount(labels)
    sums = np.zeros((len(sizes), *scan.mask.shape))
    for index in _split_indices(len(scan)):
        patterns = np.asarray(scan.counts[index])
        for label in np.unique(labels[index]):
            sums[label] += patterns[labels[index] == label].sum(0, dtype=np.float64)
    hidden = np.where(scan.mask, 1.0, np.nan)
    with np.errstate(invalid="ignore"):
        patterns = sums / sizes[:, None, None] * hidden
        mean = sums.sum(0) / len(scan) * hidden
    if scan.geometry.near:
        return MeanPatterns(sizes, patterns, mean, None)
    stack = np.nan_to_num(np.concatenate([patterns, mean[None]]))
    return MeanPatterns(sizes, patterns, mean, compute_radial_profile(stack, scan.geometry, mask=scan.mask))


def select_samples(
    objective: AutoencoderObjective, misfit: np.ndarray, /, few: int = SAMPLES_OF_A_KIND
) -> PatternSamples:
    """The patterns of largest and of median misfit, with their reconstructions.

    Args:
        objective: with the network and the scan.
        misfit: ``(n,)`` of an embedding.
        few: of each.
    """
    order = np.argsort(-misfit, kind="stable")
    worst = order[:few]
    middle = len(order) // 2
    typical = [number for number in order[max(0, middle - few // 2) :][:few] if number not in worst]
    index = np.array([*worst, *typical])
    names = [f"worst: {number}" for number in worst] + [f"typical: {number}" for number in typical]
    hidden = np.where(objective.scan.mask, 1.0, np.nan)
    decoded = objective.reconstruct(index)[1][:, 0].cpu().numpy()
    return PatternSamples(tuple(names), np.asarray(objective.scan.counts[index]) * hidden, decoded * hidden)


def select_strongest(latents: np.ndarray, most: int, /) -> tuple[int, ...]:
    """Numbers of the latents of largest variance, ascending."""
    return tuple(sorted(int(k) for k in np.argsort(-latents.var(0), kind="stable")[:most]))


def make_traversal(latents: np.ndarray, which: int, /, *, steps: int = TRAVERSAL_STEPS) -> np.ndarray:
    """Latents ``(steps, k)``: one from its 1st to its 99th percentile, the others at their medians.

    Args:
        latents: ``(n, k)`` of a scan.
        which: varies.
        steps: two at least.

    Raises:
        BadInput: a latent that is not there, or fewer than two steps.

    Example:
        >>> make_traversal(np.array([[0.0, 5.0], [50.0, 7.0], [100.0, 6.0]]), 0, steps=3).round().tolist()
        [[1.0, 6.0], [50.0, 6.0], [99.0, 6.0]]
    """
    if not 0 <= which < latents.shape[1] or steps < 2:
        fix = f"of {latents.shape[1]} cannot be varied in {steps} steps: count from 0, take 2 steps or more"
        raise BadInput("traversal", f"latent {which}", fix)
    rows = np.repeat(np.median(latents, axis=0)[None], steps, axis=0)
    first, last = np.percentile(latents[:, which], [1, 99])
    rows[:, which] = np.linspace(first, last, steps)
    return rows


@torch.no_grad()
def generate_patterns(net: PatternAutoencoder, card: Mapping[str, Any], latents: np.ndarray, /) -> np.ndarray:
    """Decode latents to patterns ``(m, y, x)``, expected counts.

    Args:
        net: an autoencoder.
        card: of its file.
        latents: ``(m, k)``.

    Raises:
        BadInput: another number of latents than those of the network.
    """
    net.eval()
    size = card.get("shape") or net.out_shape
    given = torch.from_numpy(np.asarray(latents, np.float32))
    try:
        decoded = [net.decode(part, size)[:, 0] for part in given.split(PATTERNS_AT_ONCE)]
    except (BadInput, RuntimeError) as problem:
        fix = "are not as many as those of this network: take the one that they are of"
        raise BadInput("latents", f"{given.shape[-1]} numbers", fix) from problem
    again = torch.cat(decoded)
    parts = 2 if card.get("halves") else 1
    expected = again * float(card.get("highest", 1.0)) if net.scale is None else net.scale.inverse(again)
    return (parts * expected).numpy()


def generate_traversals(
    net: PatternAutoencoder, card: Mapping[str, Any], latents: np.ndarray, /
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Patterns ``(latent, step, y, x)`` of the traversals of the strongest latents, and which these are."""
    varied = select_strongest(latents, MAX_TRAVERSALS)
    return np.stack(
        [generate_patterns(net, card, make_traversal(latents, which)) for which in varied]
    ), varied


def compute_umap(rows: np.ndarray, /, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Places ``(m, 2)`` in a plane that keeps neighbours together, and whose they are: 20,000 at most.

    Distances between groups, and their sizes, mean nothing in it.

    Raises:
        MissingExtra: without umap-learn.

    Source: McInnes et al. 2018, doi 10.21105/joss.00861.
    """
    try:
        from umap import UMAP  # pyright: ignore[reportMissingImports]
    except ImportError as problem:
        raise MissingExtra("--umap", "umap-learn", "umap") from problem
    numbers = _draw_numbers(len(rows), MAX_UMAP_PATTERNS, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one thread, as a seed asks for
        return np.asarray(UMAP(random_state=seed).fit_transform(rows[numbers])), numbers


def plot_report(report: LatentReport, /) -> dict[str, "Figure"]:
    """Figures by name: what is there of maps, clusters, mean patterns, samples, traversals, a plane."""
    from phaseloom.embedding import figures as plot

    found = {}
    where = (report.embedding.positions, report.embedding.grid)
    numbers = {"latents": report.embedding.latents} | {c.name: c.scores for c in report.components}
    found["latents"] = plot.plot_maps(numbers, *where)
    found["clusters"] = plot.plot_clusters({str(kind): kind.labels for kind in report.kinds}, *where)
    for kind, mean in zip(report.kinds, report.means, strict=False):
        name = f"means_{kind.method.split()[-1]}"
        found[name] = plot.plot_mean_patterns(
            mean.patterns, mean.mean, mean.sizes, mean.profile, title=str(kind)
        )
    if report.components:
        found["components"] = plot.plot_components({one.name: one.images for one in report.components})
    if report.samples is not None:
        found["samples"] = plot.plot_samples(
            report.samples.measured, report.samples.drawn, report.samples.names
        )
    if report.traversals is not None:
        found["traversals"] = plot.plot_traversals(report.traversals, report.varied)
    if report.places is not None:
        found["umap"] = plot.plot_plane(
            report.places, report.kinds[0].labels[report.placed], str(report.kinds[0])
        )
    return found


def write_report(report: LatentReport, folder: Path, /) -> Iterator[Path]:
    """Leave figures and ``clusters.h5`` in a folder, one after the other.

    The file holds, for each method, ``labels``, ``sizes`` and mean ``patterns``, with the stability as
    attributes, and of the one with neighbours the ``probability`` of each label; scores and images of the
    components; positions, grid and provenance.
    """
    from phaseloom.plot.style import save

    path = folder / "clusters.h5"
    with whole_hdf5(path) as file:
        _write_tables(file, report)
    yield path
    for name, figure in plot_report(report).items():
        save(figure, folder / f"{name}.png")
        yield folder / f"{name}.png"


def _write_tables(file: Any, report: LatentReport) -> None:
    file.attrs["phaseloom_clusters"] = 1
    for kind in report.kinds:
        group = file.create_group(kind.method.split()[-1])
        group["labels"] = kind.labels
        group["sizes"] = kind.sizes
        if kind.spatial is not None:
            group["probability"] = kind.spatial.probability
            group.attrs["coupling"] = kind.spatial.coupling
        for name, value in {"stability": kind.stability, "agreement": kind.agreement}.items():
            if value is not None:
                group.attrs[name] = (value.mean, value.spread)
    for kind, mean in zip(report.kinds, report.means, strict=False):
        file[kind.method.split()[-1]]["patterns"] = mean.patterns
        file.require_dataset("mean", mean.mean.shape, float)[...] = mean.mean
    for one in report.components:
        file[f"components/{one.name}/scores"] = one.scores
        file[f"components/{one.name}/images"] = one.images
    file["positions"] = report.embedding.positions
    file["positions"].attrs["units"] = "angstrom"
    if report.embedding.grid is not None:
        file["grid"] = np.array(report.embedding.grid)
    file["provenance"] = json.dumps(asdict(report.embedding.provenance))
