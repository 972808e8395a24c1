"""Embed the patterns of a scan by components, which are fitted to that scan in seconds: no training."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache

import numpy as np
import torch

from phaseloom.data.counts import split_indices
from phaseloom.data.scan import Scan4D
from phaseloom.embedding.embeddings import ScanEmbedding, read_lit_scan
from phaseloom.embedding.latents import compute_nonnegative_factors
from phaseloom.embedding.losses import compute_misfits
from phaseloom.embedding.networks.autoencoder import pca
from phaseloom.embedding.objective import AutoencoderObjective, select_few
from phaseloom.embedding.registration import Registration, measure_registration
from phaseloom.errors import BadInput
from phaseloom.result import Provenance
from phaseloom.runs.scan_recipe import ScanRecipe

__all__ = ["ComponentMethod", "compute_component_embedding", "embed_by_components"]

MIN_RATE = 1e-3  # counts of a pixel that are expected at least: one electron is no proof of a fault


class ComponentMethod(StrEnum):
    """How patterns are written as sums of a few images."""

    PCA = "pca"
    NMF = "nmf"


def embed_by_components(
    recipe: ScanRecipe, /, *, method: ComponentMethod | str = "nmf", latents: int = 8, aligned: bool = True
) -> ScanEmbedding:
    """Embed the data of a recipe by principal components or non-negative factors of its own patterns.

    Args:
        recipe: of the scan.
        method: ``pca``: principal components of stabilised counts; ``nmf``: factors of the roots of counts.
        latents: components.
        aligned: align patterns and make them equally bright first
            (`phaseloom.embedding.registration.register`). Misfits are those of the patterns as measured.

    Raises:
        BadInput: another method, fewer than one component, or a scan that cannot be aligned.
        MissingExtra: ``nmf`` without scikit-learn.
    """
    scan, numbers = read_lit_scan(recipe)
    found = compute_component_embedding(scan, method, latents=latents, aligned=aligned, name=recipe.file.name)
    return replace(found, numbers=numbers)


def compute_component_embedding(
    scan: Scan4D,
    method: ComponentMethod | str = "nmf",
    /,
    *,
    latents: int = 8,
    aligned: bool = True,
    name: str = "",
) -> ScanEmbedding:
    """Embed a scan in memory; arguments and errors as of `embed_by_components`.

    Args:
        scan: without blank patterns.
        method: ``pca`` or ``nmf``.
        latents: components.
        aligned: align patterns and make them equally bright first.
        name: of the file that the scan is of.
    """
    if method not in tuple(ComponentMethod):
        raise BadInput("--method", str(method), f"is not known: write {' or '.join(ComponentMethod)}")
    if latents < 1:
        raise BadInput("--latents", latents, "must be 1 component at least")
    if latents > (most := min(len(scan), int(scan.mask.sum()))):
        fix = f"are more than {len(scan)} patterns of {int(scan.mask.sum())} pixels determine: at most {most}"
        raise BadInput("--latents", latents, f"{fix}, and 4 to 32 are usual")
    registration = measure_registration(scan) if aligned else None
    shown = scan if registration is None else registration.apply(scan)
    found = _fit(shown, method, latents)
    if (count := found.scores.shape[1]) < latents:  # they are fitted to a part of a large scan
        raise BadInput(
            "--latents", latents, f"are more than the {count} that can be fitted: 4 to 32 are usual"
        )
    misfit, totals = _compare(scan, registration, found)
    made = Provenance.now(seed=0, data=scan.digest(), file=name)
    displaced = None if registration is None else registration.measured
    scores = found.scores.astype(np.float32)
    return ScanEmbedding(scores, misfit, totals, scan.positions, scan.grid, made, displaced=displaced)


@dataclass(frozen=True, eq=False)
class _Components:
    """Scores of all patterns, and what decodes them.

    Attributes:
        scores: ``(n, k)``.
        decode: expected counts ``(m, y, x)`` of some of the scan's patterns.
    """

    scores: np.ndarray
    decode: Callable[[np.ndarray], np.ndarray]


def _fit(scan: Scan4D, method: ComponentMethod | str, count: int) -> _Components:
    if method == ComponentMethod.NMF:
        found = compute_nonnegative_factors(scan, count)
        images = np.nan_to_num(found.images)
        return _Components(
            found.scores, lambda index: _invert_roots(np.tensordot(found.scores[index], images, 1))
        )
    few = select_few(np.arange(len(scan)), scan)
    objective = AutoencoderObjective(pca(latent_dim=count), scan, {}, few)
    objective.begin()
    scores = np.concatenate([objective.reconstruct(index)[0].numpy() for index in split_indices(scan.counts)])

    def decode(index: np.ndarray) -> np.ndarray:
        patterns = objective.net.decode(torch.from_numpy(scores[index]), scan.mask.shape)
        return objective.invert_scale(patterns)[:, 0].detach().numpy()

    return _Components(scores, decode)


def _invert_roots(roots: np.ndarray) -> np.ndarray:
    """Rates whose counts have these mean roots: more than the squares, as roots of few counts scatter."""
    rates, means = _tabulate_mean_roots()
    return np.where(roots < means[-1], np.interp(roots, means, rates), roots**2 + 0.25).astype(np.float32)


@lru_cache(maxsize=1)
def _tabulate_mean_roots() -> tuple[np.ndarray, np.ndarray]:
    """Rates up to 100, and the mean roots of their counts."""
    from scipy.stats import poisson

    rates = np.concatenate([[0.0], np.logspace(-6, 2, 400)])
    counts = np.arange(250.0)
    return rates, (poisson.pmf(counts, rates[:, None]) * np.sqrt(counts)).sum(1)


def _compare(
    scan: Scan4D, registration: Registration | None, found: _Components
) -> tuple[np.ndarray, np.ndarray]:
    """Misfits and counts of patterns as measured, see `phaseloom.embedding.embeddings.ScanEmbedding`."""
    misfits, totals = np.empty(len(scan), np.float32), np.empty(len(scan))
    good = torch.from_numpy(scan.mask)
    for index in split_indices(scan.counts):
        counts = np.where(scan.mask, np.asarray(scan.counts[index], np.float32), 0)
        decoded = found.decode(index)
        expected = decoded if registration is None else registration.undo(decoded, index)
        rate = torch.from_numpy(np.maximum(expected, MIN_RATE).astype(np.float32))
        misfits[index] = compute_misfits(rate, torch.from_numpy(counts), good)
        totals[index] = counts.sum((1, 2), dtype=np.float64)
    return misfits, totals
