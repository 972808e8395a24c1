"""Latents of the patterns of a scan as a value: what a network says of each, and which are odd."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from scipy.spatial import KDTree

from phaseloom.data.formats.files import BROKEN, checked
from phaseloom.errors import BadInput
from phaseloom.files import whole
from phaseloom.result import Provenance

__all__ = ["THRESHOLD", "Embedding", "apart", "writable"]

THRESHOLD = 8.0
"""Robust spreads that a pattern is apart from its neighbours before it counts as unusual."""

NEIGHBOURS, ALIKE = 24, 5
"""Neighbours that a pattern is seen with, and how many of them must be like it."""

PIECE = 65536
"""Patterns whose neighbours are looked for together."""

LEAST = 0.01
"""Share of the median that a robust spread is taken for at least."""

ARRAYS = ("latents", "misfit", "totals", "positions")


@dataclass(frozen=True, eq=False)
class Embedding:
    """Latents of a scan.

    Attributes:
        latents: ``(n, k)``, in the order of the scan's patterns.
        misfit: ``(n,)`` Poisson deviance between a pattern and what is drawn of it, over what shot noise
            alone would leave: 1 is as good as can be.
        totals: ``(n,)`` counts of each pattern in the pixels that are trusted.
        positions: ``(n, 2)`` of the beam (row, column), angstrom.
        grid: rows and columns of the scan, if its patterns are in that order.
        provenance: see `phaseloom.result.Provenance`.
    """

    latents: np.ndarray
    misfit: np.ndarray
    totals: np.ndarray
    positions: np.ndarray
    grid: tuple[int, int] | None
    provenance: Provenance

    def __len__(self) -> int:
        """Number of patterns."""
        return len(self.latents)

    def unusual(self, *, threshold: float = THRESHOLD) -> np.ndarray:
        """Numbers of the patterns that stand out, ascending: bad frames.

        A pattern stands out if its misfit is above, or its counts are above or below, those of all but four
        of its 24 nearest neighbours by more than a threshold. Areas of another kind do not: there neighbours
        are alike. Rows of bad frames do, but not whole areas of them; see the maps.

        Args:
            threshold: in robust spreads, see `apart`; one is 1 % of the median at least.

        Raises:
            BadInput: a threshold that is not positive.
        """
        if not threshold > 0:
            raise BadInput("unusual: threshold", threshold, "must be a number above zero, such as 8")
        misfit, counts = (apart(values, self.positions) for values in (self.misfit, self.totals))
        return np.flatnonzero((misfit > threshold) | (np.abs(counts) > threshold))

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
        writable(path)
        arrays: dict[str, Any] = {name: getattr(self, name) for name in ARRAYS}
        arrays["unusual"] = self.unusual()
        arrays["provenance"] = json.dumps(asdict(self.provenance))
        if self.grid is not None:
            arrays["grid"] = np.array(self.grid)
        if path.suffix == ".npz":
            with whole(path) as short:
                np.savez(short, **arrays)
            return path
        import h5py

        with whole(path) as short, h5py.File(short, "w") as file:
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
        path = checked(path)
        try:
            held = _npz(path) if path.suffix == ".npz" else _hdf5(path)
            grid = None if "grid" not in held else tuple(int(length) for length in held["grid"])
            said = Provenance(**json.loads(str(held["provenance"])))
            found = cls(*(held[name] for name in ARRAYS), grid, said)  # type: ignore[arg-type]
        except BROKEN as problem:
            fix = "holds no embedding: give a file of phaseloom embed"
            raise BadInput(path.name, None, fix) from problem
        return found._checked(path.name)

    def _checked(self, name: str) -> Self:
        count = len(self.latents)
        shapes = [self.misfit.shape, self.totals.shape, self.positions.shape]
        grid = self.grid is None or (len(self.grid) == 2 and np.prod(self.grid) == count)
        if self.latents.ndim != 2 or shapes != [(count,), (count,), (count, 2)] or not (count and grid):
            raise BadInput(name, None, "holds arrays that do not fit together: embed the scan again")
        return self


def writable(path: Path, /) -> Path:
    """A path that an embedding can be written to.

    Raises:
        BadInput: a name with another ending.
    """
    if path.suffix not in (".h5", ".hdf5", ".npz"):
        raise BadInput("--out", path.name, "is no .h5 or .npz: give it one of these endings")
    return path


def apart(values: np.ndarray, positions: np.ndarray, /) -> np.ndarray:
    """How far each value is from those of its neighbours, in robust spreads; above them positive.

    Of the 24 nearest, the fifth most alike counts, for edges and corners of an area have so many of their
    own kind. The spread is the median distance of values from the median of their neighbours, times 1.48, or
    that of these neighbours among themselves if it is larger, as along an edge. Values that are not finite
    are infinitely far; of fewer than 26 patterns nothing is said.

    Args:
        values: ``(n,)``.
        positions: ``(n, 2)``; where they are all the same, patterns are neighbours in time.

    Example:
        >>> places = np.stack(np.meshgrid(np.arange(6.0), np.arange(5.0)), -1).reshape(-1, 2)
        >>> values = 100 + np.cos(7.0 * np.arange(30))
        >>> values[7] = 160
        >>> np.flatnonzero(apart(values, places) > 8).tolist()
        [7]
    """
    values = np.asarray(values, np.float64)
    lost = ~np.isfinite(values)
    if len(values) <= NEIGHBOURS + 1 or lost.all():
        return np.where(lost, np.inf, 0.0)
    middle = float(np.median(values[~lost]))
    values = np.where(lost, middle, values)
    usual, around, alike = (np.concatenate(part) for part in zip(*_seen(values, positions), strict=True))
    noise = max(1.4826 * float(np.median(np.abs(values - usual))), LEAST * abs(middle), 1e-300)
    spread = np.maximum(noise, 1.4826 * around)
    return np.where(lost, np.inf, np.sign(values - usual) * alike / spread)


def _seen(values: np.ndarray, positions: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Median of the neighbours of each value, their median distance from it, and how near the fifth is."""
    count = len(values)
    places = positions if np.ptp(positions, axis=0).any() else np.arange(float(count))[:, None]
    tree = KDTree(places)
    for start in range(0, count, PIECE):
        own = values[start : start + PIECE]
        found = np.asarray(tree.query(places[start : start + PIECE], k=NEIGHBOURS + 1)[1])
        itself = found == np.arange(start, start + len(own))[:, None]
        itself[~itself.any(1), -1] = True  # more than 24 others at the same place
        near = values[found[~itself].reshape(len(own), NEIGHBOURS)]
        usual = np.median(near, axis=1)
        away = np.partition(np.abs(near - own[:, None]), ALIKE - 1, axis=1)[:, ALIKE - 1]
        yield usual, np.median(np.abs(near - usual[:, None]), axis=1), away


def _npz(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def _hdf5(path: Path) -> dict[str, Any]:
    import h5py

    with h5py.File(path) as file:
        if "phaseloom_embedding" not in file.attrs:
            raise KeyError(path.name)
        held: dict[str, Any] = {name: file[name][()] for name in file}  # type: ignore[index]
        return held | {"provenance": held["provenance"].decode()}
