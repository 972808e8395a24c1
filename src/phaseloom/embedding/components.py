"""Principal components and non-negative factors of the patterns of a scan, to compare with latents."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from phaseloom.data.scan import Scan4D
from phaseloom.embedding.embeddings import PATTERNS_AT_ONCE
from phaseloom.embedding.networks.autoencoder import pca
from phaseloom.embedding.objective import AutoencoderObjective
from phaseloom.errors import MissingExtra

__all__ = ["ComponentAnalysis", "compute_nonnegative_factors", "compute_principal_components"]
__all__ += ["draw_numbers", "iterate_pieces"]

# Patterns, and numbers in them, that components are fitted to.
MAX_FITTED_PATTERNS = 2000
MAX_FITTED_NUMBERS = 20_000_000


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


@torch.no_grad()
def compute_principal_components(scan: Scan4D, count: int, /) -> ComponentAnalysis:
    """Principal components of stabilised patterns, the one of largest variance first.

    Args:
        scan: the data.
        count: components; fewer where there are too few patterns or pixels.
    """
    few = _select_for_fit(scan, 0)
    net = pca(latent_dim=max(1, min(count, len(few) - 1, scan.mask.size)))
    lesson = AutoencoderObjective(net, scan, {}, few)
    lesson.begin()
    scores = [
        net.embed(lesson.scale_counts(lesson.counts(index))).numpy() for index in iterate_pieces(len(scan))
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
            [net.transform(_read_roots(scan, index)) for index in iterate_pieces(len(scan))]
        )
    strength = np.linalg.norm(net.components_, axis=1)
    order = np.argsort(-strength * scores.mean(0), kind="stable")
    images = np.full((len(order), *scan.mask.shape), np.nan)
    images[:, scan.mask] = (net.components_ / np.where(strength > 0, strength, 1)[:, None])[order]
    return ComponentAnalysis("non-negative factors", (scores * strength)[:, order], images)


def iterate_pieces(count: int, /) -> Iterator[np.ndarray]:
    """Numbers of the patterns of a scan, some at a time."""
    return (
        np.arange(start, min(start + PATTERNS_AT_ONCE, count)) for start in range(0, count, PATTERNS_AT_ONCE)
    )


def _select_for_fit(scan: Scan4D, seed: int) -> np.ndarray:
    """Numbers of the patterns that components are fitted to, ascending."""
    return draw_numbers(
        len(scan), max(2, min(MAX_FITTED_PATTERNS, MAX_FITTED_NUMBERS // scan.mask.size)), seed
    )


def draw_numbers(count: int, most: int, seed: int, /) -> np.ndarray:
    """Numbers of some of many patterns, ascending."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def _read_roots(scan: Scan4D, index: np.ndarray) -> np.ndarray:
    """Roots of counts in trusted pixels ``(b, pixel)``."""
    return np.sqrt(np.asarray(scan.counts[index], np.float32)[:, scan.mask].clip(0))
