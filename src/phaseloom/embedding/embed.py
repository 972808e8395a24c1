"""The patterns of a scan as latents of an autoencoder, with the places that they belong to."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from phaseloom.data.scan import Scan4D
from phaseloom.embedding.embeddings import Embedding, writable
from phaseloom.embedding.losses import deviances, noise_deviance
from phaseloom.embedding.networks.autoencoder import PatternAutoencoder
from phaseloom.embedding.objective import Drawing, Manner, few_of
from phaseloom.errors import BadInput
from phaseloom.learning import weight_files as pretrained
from phaseloom.result import Provenance
from phaseloom.runs.scan_recipe import ScanRecipe

__all__ = ["AT_ONCE", "Embedding", "autoencoder", "embed", "embedded", "lesson_of", "writable"]

AT_ONCE = 64
"""Patterns that are read and embedded together."""


def embed(recipe: ScanRecipe, model: Path | str, /) -> Embedding:
    """Embed the data of a recipe.

    Args:
        recipe: of the scan, prepared as for the training.
        model: file or folder of an autoencoder.

    Raises:
        BadInput: a network that is no autoencoder, or patterns of another size than it learned from.
    """
    net, card = autoencoder(model)
    scan = recipe.scan()
    made = Provenance.now(seed=0, data=scan.digest(), file=recipe.file.name)
    return Embedding(*embedded(net, card, scan), scan.positions, scan.grid, made)


def autoencoder(model: Path | str, /) -> tuple[PatternAutoencoder, dict[str, Any]]:
    """A network that embeds, and the card of its file.

    Raises:
        BadInput: no file of ours, or a network that is no autoencoder.
    """
    net, card = pretrained.load(model), pretrained.card(model)
    if not isinstance(net, PatternAutoencoder):
        fix = f"holds a {type(net).__name__}, which embeds nothing: take one of phaseloom train autoencoder"
        raise BadInput("model", str(model), fix)
    return net.eval(), card


def lesson_of(net: PatternAutoencoder, card: Mapping[str, Any], scan: Scan4D, /) -> Drawing:
    """A scan as an autoencoder is shown it that has learned already.

    Args:
        net: an autoencoder.
        card: of its file; without ``highest``, counts are put over their own largest.
        scan: the data.

    Raises:
        BadInput: patterns of another size than the network learned from.
    """
    shape = tuple(card.get("shape") or scan.counts.shape[1:])
    if shape != tuple(scan.counts.shape[1:]):
        sizes = " x ".join(map(str, scan.counts.shape[1:]))
        fix = f"is not what it learned from, {' x '.join(map(str, shape))}: prepare the scan alike"
        raise BadInput("patterns", sizes, fix)
    manner = Manner(halves=bool(card.get("halves")))
    lesson = Drawing(net.eval(), scan, {}, few_of(np.arange(len(scan)), scan), manner=manner)
    lesson.highest = float(card.get("highest", lesson.highest))
    return lesson


@torch.no_grad()
def embedded(
    net: PatternAutoencoder, card: Mapping[str, Any], scan: Scan4D, /
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Latents ``(n, k)``, misfits ``(n,)`` and counts ``(n,)``, in memory for a few patterns at a time.

    Arguments and errors as of `lesson_of`.
    """
    lesson, count = lesson_of(net, card, scan), len(scan)
    latents = np.empty((count, lesson.drawn(np.arange(1))[0].shape[1]), np.float32)
    misfits, totals = np.empty(count, np.float32), np.empty(count)  # pieces would pin memory
    for start in range(0, count, AT_ONCE):
        index = np.arange(start, min(start + AT_ONCE, count))
        sides = lesson.sides(index)
        counts, good = torch.stack(sides).sum(0), lesson.good.to(sides[0].device)
        found, drawn = lesson.asked(sides)
        terms = deviances(drawn, counts) * good
        latents[index] = found.cpu()
        noise = (noise_deviance(drawn) * good).sum((1, 2, 3))
        misfits[index] = (terms.sum((1, 2, 3)) / noise.clamp_min(1e-12)).cpu()
        totals[index] = (counts * good).sum((1, 2, 3), dtype=torch.float64).cpu()
    return latents, misfits, totals
