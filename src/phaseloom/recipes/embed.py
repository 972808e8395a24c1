"""The patterns of a scan as latents of an autoencoder, with the places that they belong to."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.files import whole
from phaseloom.nets import pretrained
from phaseloom.nets.autoencoder import PatternAutoencoder
from phaseloom.nets.embedding_losses import deviances
from phaseloom.recipes.autoencode import Drawing, few_of
from phaseloom.recipes.scanned import Scanned
from phaseloom.result import Provenance

__all__ = ["Embedding", "embed", "embedded", "writable"]

AT_ONCE = 64
"""Patterns that are read and embedded together."""


@dataclass(frozen=True, eq=False)
class Embedding:
    """Latents of a scan.

    Attributes:
        latents: ``(n, k)``, in the order of the scan's patterns.
        misfit: ``(n,)`` Poisson deviance in a pixel between a pattern and what is drawn of it; 1 where only
            shot noise is left. Bad frames stand out.
        positions: ``(n, 2)`` of the beam (row, column), angstrom.
        grid: rows and columns of the scan, if its patterns are in that order.
        provenance: see `phaseloom.result.Provenance`.
    """

    latents: np.ndarray
    misfit: np.ndarray
    positions: np.ndarray
    grid: tuple[int, ...] | None
    provenance: Provenance

    def write(self, path: Path, /) -> Path:
        """Leave all of it in an HDF5 file, or the arrays in an ``.npz``.

        Raises:
            BadInput: a name with another ending.
        """
        writable(path)
        arrays = {"latents": self.latents, "misfit": self.misfit, "positions": self.positions}
        if self.grid is not None:
            arrays["grid"] = np.array(self.grid)
        if path.suffix == ".npz":
            with whole(path) as short:
                np.savez(short, **arrays)  # pyright: ignore[reportArgumentType]
            return path
        import h5py

        with whole(path) as short, h5py.File(short, "w") as file:
            for name, values in arrays.items():
                file.create_dataset(name, data=values)
            file["positions"].attrs["units"] = "angstrom"
            file["provenance"] = json.dumps(asdict(self.provenance))
            file.attrs["phaseloom_embedding"] = 1
        return path


def writable(path: Path, /) -> Path:
    """A path that an embedding can be written to.

    Raises:
        BadInput: a name with another ending.
    """
    if path.suffix not in (".h5", ".hdf5", ".npz"):
        raise BadInput("--out", path.name, "is no .h5 or .npz: give it one of these endings")
    return path


def embed(recipe: Scanned, model: Path | str, /) -> Embedding:
    """Embed the data of a recipe.

    Args:
        recipe: of the scan, prepared as for the training.
        model: file or folder of an autoencoder.

    Raises:
        BadInput: a network that is no autoencoder, or patterns of another size than it learned from.
    """
    net, card = pretrained.load(model), pretrained.card(model)
    if not isinstance(net, PatternAutoencoder):
        fix = f"holds a {type(net).__name__}, which embeds nothing: take one of phaseloom train autoencoder"
        raise BadInput("model", str(model), fix)
    scan = recipe.scan()
    made = Provenance.now(seed=0, data=scan.digest(), file=recipe.file.name)
    return Embedding(*embedded(net, card, scan), scan.positions, scan.grid, made)


@torch.no_grad()
def embedded(
    net: PatternAutoencoder, card: Mapping[str, Any], scan: Scan4D, /
) -> tuple[np.ndarray, np.ndarray]:
    """Latents ``(n, k)`` and misfits ``(n,)``, in memory that does not grow with the scan.

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
    lesson = Drawing(net.eval(), scan, {}, few_of(np.arange(len(scan))))
    lesson.highest = float(card.get("highest", lesson.highest))
    latents, misfits = [], []
    for start in range(0, len(scan), AT_ONCE):
        counts = lesson.counts(np.arange(start, min(start + AT_ONCE, len(scan))))
        found = net.embed(lesson.taken(counts))
        drawn = lesson.expected(net.decode(found, (counts.shape[-2], counts.shape[-1])))
        terms = deviances(drawn, counts) * lesson.good.to(counts.device)
        latents.append(found.float().cpu().numpy())
        misfits.append((terms.sum((1, 2, 3)) / lesson.good.sum()).cpu().numpy())
    return np.concatenate(latents), np.concatenate(misfits)
