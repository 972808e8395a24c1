"""Embed the patterns of a scan with a trained autoencoder; find unusual patterns; denoise patterns."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from scipy.spatial import KDTree

from phaseloom.data.counts import load_counts
from phaseloom.data.formats.arrays import load_npz
from phaseloom.data.formats.files import open_hdf5, require_file
from phaseloom.data.own_files.members import Member, read_members
from phaseloom.data.own_files.tables import EMBEDDING
from phaseloom.data.scan import Scan4D
from phaseloom.embedding.losses import compute_misfits
from phaseloom.embedding.networks.autoencoder import PatternAutoencoder
from phaseloom.embedding.objective import AutoencoderObjective, PatternPresentation, select_few
from phaseloom.embedding.registration import measure_registration
from phaseloom.errors import BadInput
from phaseloom.files import whole_buffer, whole_hdf5
from phaseloom.learning import weight_files as pretrained
from phaseloom.plot.cards import encode_png, write_card
from phaseloom.result import Provenance
from phaseloom.runs.scan_recipe import ScanRecipe, find_lit_patterns

__all__ = ["OUTLIER_THRESHOLD", "PATTERNS_AT_ONCE", "ScanEmbedding", "denoise", "embed", "embed_patterns"]
__all__ += ["load_autoencoder", "make_objective", "measure_outliers", "read_lit_scan", "require_writable"]

# Robust spreads that a pattern is apart from its neighbours before it counts as unusual.
OUTLIER_THRESHOLD = 8.0
NEIGHBOUR_COUNT = 24  # neighbours that a pattern is compared with
SIMILAR_NEIGHBOURS = 5  # how many of them must be similar
PATTERNS_PER_QUERY = 65536  # patterns whose neighbours are looked for together
MIN_RELATIVE_SPREAD = 0.01  # share of the median that a robust spread is taken for at least
MIN_SHIFT_SPREAD = 0.05  # pixels that a robust spread of displacements is taken for at least
ARRAYS = ("latents", "misfit", "totals", "positions")


@dataclass(frozen=True, eq=False)
class ScanEmbedding:
    """Latents of a scan.

    Attributes:
        latents: ``(n, k)``, in the order of the scan's patterns.
        misfit: ``(n,)`` Poisson deviance between a pattern and what is drawn of it, over what shot noise
            alone would leave: 1 is as good as can be.
        totals: ``(n,)`` counts of each pattern in the pixels that are trusted.
        positions: ``(n, 2)`` of the beam (row, column), angstrom.
        grid: rows and columns of the scan, if its patterns are in that order.
        provenance: see `phaseloom.result.Provenance`.
        numbers: ``(n,)`` number of each pattern in the prepared scan, blank patterns counted; ``None``: none
            was left out. ``prepare: [{without: {numbers: ...}}]`` counts like this.
        displaced: ``(n, 2)`` pixels of each pattern from the mean pattern
            (`phaseloom.embedding.registration`), or ``None``: not measured.
    """

    latents: np.ndarray
    misfit: np.ndarray
    totals: np.ndarray
    positions: np.ndarray
    grid: tuple[int, int] | None
    provenance: Provenance
    numbers: np.ndarray | None = None
    displaced: np.ndarray | None = None

    def __len__(self) -> int:
        """Number of patterns."""
        return len(self.latents)

    def _repr_html_(self) -> str:
        facts = {"patterns": len(self), "latents": self.latents.shape[1]}
        facts |= {"misfit": f"median {np.median(self.misfit):.4g} (1 = shot noise)"}
        maps = {
            f"latent {number}": self.latents[:, number] for number in range(min(3, self.latents.shape[1]))
        }
        maps["misfit"] = self.misfit
        whole = self.grid is not None and math.prod(self.grid) == len(self)
        pictures = {name: encode_png(one.reshape(self.grid)) for name, one in maps.items()} if whole else {}
        return write_card("ScanEmbedding", facts, pictures)

    def unusual(self, *, threshold: float = OUTLIER_THRESHOLD) -> np.ndarray:
        """Numbers of the patterns that stand out, ascending: bad frames.

        A pattern stands out if its misfit is above, or its counts or its displacement are other than, those
        of all but four of its 24 nearest neighbours by more than a threshold. Areas of another kind do
        not: there neighbours are alike. Rows of bad frames do, but not whole areas of them; see the maps.

        Args:
            threshold: in robust spreads, see `measure_outliers`; one is 1 % of the median at least.

        Raises:
            BadInput: a threshold that is not positive.
        """
        if not threshold > 0:
            raise BadInput("unusual: threshold", threshold, "must be a number above zero, such as 8")
        misfit, counts = (measure_outliers(values, self.positions) for values in (self.misfit, self.totals))
        apart = (misfit > threshold) | (np.abs(counts) > threshold)
        if self.displaced is not None:
            for shift in self.displaced.T:
                apart |= np.abs(measure_outliers(shift, self.positions, floor=MIN_SHIFT_SPREAD)) > threshold
        return np.flatnonzero(apart)

    def number(self, index: int, /) -> int:
        """Number of a pattern in the prepared scan, blank patterns counted, from its place in the arrays."""
        return int(index if self.numbers is None else self.numbers[index])

    def together(self, numbers: np.ndarray, /) -> int:
        """How many of some patterns lie beside another of them: more a region of the specimen than frames."""
        if len(numbers) < 2:
            return 0
        pitch = float(np.median(KDTree(self.positions).query(self.positions, 2)[0][:, 1]))
        near = KDTree(self.positions[numbers]).query(self.positions[numbers], 2)[0][:, 1]
        return int((near <= 1.5 * pitch).sum())

    def write(self, path: Path, /) -> Path:
        """Leave all of it, and the numbers of unusual patterns, in an HDF5 file or an ``.npz``.

        Raises:
            BadInput: a name with another ending.
        """
        require_writable(path)
        arrays: dict[str, Any] = {name: getattr(self, name) for name in ARRAYS}
        arrays["unusual"] = self.unusual()
        arrays["provenance"] = json.dumps(asdict(self.provenance))
        if self.grid is not None:
            arrays["grid"] = np.array(self.grid)
        if self.numbers is not None:
            arrays["numbers"] = self.numbers
        if self.displaced is not None:
            arrays["displaced"] = self.displaced
        if path.suffix == ".npz":
            with whole_buffer(path) as buffer:
                np.savez(buffer, **arrays)
            return path
        with whole_hdf5(path) as file:
            for name, values in arrays.items():
                file.create_dataset(name, data=values)
            file["positions"].attrs["units"] = "angstrom"
            file.attrs["phaseloom_embedding"] = 1
        return path

    @classmethod
    def load(cls, path: Path | str, /) -> Self:
        """What `write` has left.

        Raises:
            BadInput: a file of something else, a damaged one, or arrays that do not fit together.
        """
        path = require_file(path)
        if path.suffix not in EMBEDDING_ENDINGS:
            raise _no_embedding(path)
        arrays = _read_npz(path) if path.suffix == ".npz" else _read_hdf5(path)
        grid = None if arrays["grid"] is None else (int(arrays["grid"][0]), int(arrays["grid"][1]))
        latents, misfit, totals, positions = (arrays[name] for name in ARRAYS)
        rest = (arrays["provenance"], arrays["numbers"], arrays["displaced"])
        found = cls(latents, misfit, totals, positions, grid, *rest)
        return found._require_consistent(path.name)

    def _require_consistent(self, name: str) -> Self:
        count = len(self.latents)
        shapes = [self.misfit.shape, self.totals.shape, self.positions.shape]
        grid = self.grid is None or (len(self.grid) == 2 and np.prod(self.grid) == count)
        if self.latents.ndim != 2 or shapes != [(count,), (count,), (count, 2)] or not (count and grid):
            raise BadInput(name, None, "holds arrays that do not fit together: embed the scan again")
        return self


def require_writable(path: Path, /) -> Path:
    """A path that an embedding can be written to.

    Raises:
        BadInput: a name with another ending.
    """
    if path.suffix not in EMBEDDING_ENDINGS:
        raise BadInput("--out", path.name, "does not end in .h5 or .npz: use one of these")
    return path


def measure_outliers(values: np.ndarray, positions: np.ndarray, /, *, floor: float = 0.0) -> np.ndarray:
    """How far each value is from those of its neighbours, in robust spreads; above them positive.

    Of the 24 nearest neighbours the fifth most similar counts: edges and corners of an area have at least so
    many neighbours of their own kind. The spread is the median distance of values from the median of their
    neighbours, times 1.48, or that of these neighbours among themselves if it is larger, as along an edge.
    Values that are not finite are infinitely far; with fewer than 26 patterns all distances are zero.

    Args:
        values: ``(n,)``.
        positions: ``(n, 2)``; where they are all the same, patterns are neighbours in time.
        floor: the spread is this at least.

    Example:
        >>> places = np.stack(np.meshgrid(np.arange(6.0), np.arange(5.0)), -1).reshape(-1, 2)
        >>> values = 100 + np.cos(7.0 * np.arange(30))
        >>> values[7] = 160
        >>> np.flatnonzero(measure_outliers(values, places) > 8).tolist()
        [7]
    """
    values = np.asarray(values, np.float64)
    invalid = ~np.isfinite(values)
    if len(values) <= NEIGHBOUR_COUNT + 1 or invalid.all():
        return np.where(invalid, np.inf, 0.0)
    middle = float(np.median(values[~invalid]))
    values = np.where(invalid, middle, values)
    medians, around, distances = (
        np.concatenate(part) for part in zip(*_compare_neighbours(values, positions), strict=True)
    )
    noise = max(
        1.4826 * float(np.median(np.abs(values - medians))), MIN_RELATIVE_SPREAD * abs(middle), floor, 1e-300
    )
    spread = np.maximum(noise, 1.4826 * around)
    return np.where(invalid, np.inf, np.sign(values - medians) * distances / spread)


def _compare_neighbours(
    values: np.ndarray, positions: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Median of the neighbours of each value, their median distance from it, and how near the fifth is."""
    count = len(values)
    places = positions if np.ptp(positions, axis=0).any() else np.arange(float(count))[:, None]
    tree = KDTree(places)
    for start in range(0, count, PATTERNS_PER_QUERY):
        own = values[start : start + PATTERNS_PER_QUERY]
        found = np.asarray(tree.query(places[start : start + PATTERNS_PER_QUERY], k=NEIGHBOUR_COUNT + 1)[1])
        itself = found == np.arange(start, start + len(own))[:, None]
        itself[~itself.any(1), -1] = True  # more than 24 others at the same place
        near = values[found[~itself].reshape(len(own), NEIGHBOUR_COUNT)]
        medians = np.median(near, axis=1)
        away = np.partition(np.abs(near - own[:, None]), SIMILAR_NEIGHBOURS - 1, axis=1)[
            :, SIMILAR_NEIGHBOURS - 1
        ]
        yield medians, np.median(np.abs(near - medians[:, None]), axis=1), away


EMBEDDING_ENDINGS = (".h5", ".hdf5", ".npz")
_PROVENANCE = Member("provenance", "json", form=Provenance)


def _no_embedding(path: Path) -> BadInput:
    fix = f"holds no embedding: of a scan make one first, phaseloom embed {path.name} --out embeddings.h5"
    return BadInput(path.name, None, fix)


def _read_npz(path: Path) -> dict[str, Any]:
    table = (*EMBEDDING, _PROVENANCE)
    arrays = load_npz(path, [member.name for member in table])
    if not set(ARRAYS) <= set(arrays):
        raise _no_embedding(path)
    return read_members(arrays, table, path.name)


def _read_hdf5(path: Path) -> dict[str, Any]:
    with open_hdf5(path) as file:
        if "phaseloom_embedding" not in file.attrs:
            raise _no_embedding(path)
        return read_members(file, (*EMBEDDING, _PROVENANCE), path.name)


PATTERNS_AT_ONCE = 64  # patterns that are read and embedded together


def embed(recipe: ScanRecipe, model: Path | str, /) -> ScanEmbedding:
    """Embed the data of a recipe.

    Args:
        recipe: of the scan, prepared as for the training.
        model: file or folder of an autoencoder.

    Raises:
        BadInput: a network that is not an autoencoder, or patterns of another size than it learned from.
    """
    net, card = load_autoencoder(model)
    scan, numbers = read_lit_scan(recipe)
    made = Provenance.now(seed=0, data=scan.digest(), file=recipe.file.name)
    displaced = None if scan.geometry.near else measure_registration(scan).measured
    facts = (scan.positions, scan.grid, made, numbers, displaced)
    return ScanEmbedding(*embed_patterns(net, card, scan), *facts)


def read_lit_scan(recipe: ScanRecipe, /) -> tuple[Scan4D, np.ndarray | None]:
    """The data of a recipe without blank patterns, and the numbers of the others, if any was left out."""
    whole = recipe.scan_with_blanks()
    lit = find_lit_patterns(whole, recipe.file.name)
    return (whole, None) if lit.all() else (whole.select(lit), np.flatnonzero(lit))


def load_autoencoder(model: Path | str, /) -> tuple[PatternAutoencoder, dict[str, Any]]:
    """A network that embeds, and the card of its file.

    Raises:
        BadInput: not a file of phaseloom, or a network that is not an autoencoder.
    """
    net = pretrained.load_network(model)
    card = pretrained.load_card(model)
    if not isinstance(net, PatternAutoencoder):
        fix = f"holds a {type(net).__name__}, which embeds nothing: take one of phaseloom train autoencoder"
        raise BadInput("model", str(model), fix)
    return net.eval(), card


def make_objective(net: PatternAutoencoder, card: Mapping[str, Any], scan: Scan4D, /) -> AutoencoderObjective:
    """The objective of a trained autoencoder for a scan.

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
    manner = PatternPresentation(halves=bool(card.get("halves")))
    objective = AutoencoderObjective(
        net.eval(), scan, {}, select_few(np.arange(len(scan)), scan), manner=manner
    )
    objective.highest = float(card.get("highest", objective.highest))
    return objective


@torch.no_grad()
def embed_patterns(
    net: PatternAutoencoder, card: Mapping[str, Any], scan: Scan4D, /
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Latents ``(n, k)``, misfits ``(n,)`` and counts ``(n,)``; few patterns are in memory at a time.

    Arguments and errors as of `make_objective`.
    """
    objective = make_objective(net, card, scan)
    count = len(scan)
    latents = np.empty((count, objective.reconstruct(np.arange(1))[0].shape[1]), np.float32)
    misfits = np.empty(count, np.float32)  # filled in place: pieces would pin memory
    totals = np.empty(count)
    for start in range(0, count, PATTERNS_AT_ONCE):
        index = np.arange(start, min(start + PATTERNS_AT_ONCE, count))
        sides = objective.read_sides(index)
        counts = torch.stack(sides).sum(0)
        good = objective.good.to(sides[0].device)
        found, decoded = objective.reconstruct_sides(sides)
        latents[index] = found.cpu()
        misfits[index] = compute_misfits(decoded, counts, good).cpu()
        totals[index] = (counts * good).sum((1, 2, 3), dtype=torch.float64).cpu()
    return latents, misfits, totals


def denoise(scan: Scan4D, /, *, model: Path) -> Scan4D:
    """Replace each pattern by what an autoencoder decodes from its latents; a step of ``prepare``.

    For virtual detectors, centres of mass, clusters and figures. The result does not have Poisson statistics:
    its noise is small and correlated between similar patterns. Reconstruct from the measured counts instead
    (docs/autoencoder.md). Untrusted pixels stay as they are.

    Args:
        scan: prepared as for the training.
        model: file or folder of an autoencoder; a path is looked for beside the parameter file too.

    Raises:
        BadInput: a network that is not an autoencoder, or patterns of another size than it learned from.
    """
    net, card = load_autoencoder(model)
    decoded = _DecodedCounts(make_objective(net, card, scan))
    return replace(scan, counts=load_counts(decoded) if isinstance(scan.counts, np.ndarray) else decoded)


@dataclass(frozen=True, eq=False)
class _DecodedCounts:
    """Counts that are decoded when they are read."""

    objective: AutoencoderObjective

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.objective.scan.counts.shape

    def __getitem__(self, index: np.ndarray, /) -> np.ndarray:
        index = np.arange(self.shape[0])[index]
        flat = np.atleast_1d(index)
        parts = [
            self._decode(flat[start : start + PATTERNS_AT_ONCE])
            for start in range(0, len(flat), PATTERNS_AT_ONCE)
        ]
        out = np.concatenate(parts) if parts else np.empty((0, *self.shape[1:]), self.dtype)
        return out if np.ndim(index) else out[0]

    def _decode(self, index: np.ndarray) -> np.ndarray:
        scan = self.objective.scan
        decoded = self.objective.reconstruct(index)[1][:, 0].cpu().numpy()
        return np.where(scan.mask, decoded, np.asarray(scan.counts[index], self.dtype))
