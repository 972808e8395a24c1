"""Patterns that may be larger than memory: read when asked for, in the file's own dtype."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

__all__ = ["Chosen", "Counts", "InFile", "Mapped", "mapped"]

Pattern = np.ndarray


@runtime_checkable
class Counts(Protocol):
    """A stack of patterns ``(n, y, x)``: a numpy array is one, and so is anything that reads on demand."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of patterns, rows, columns."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """What a pattern is made of."""
        ...

    def __getitem__(self, index: np.ndarray, /) -> np.ndarray:
        """The patterns of an integer index array, in its order."""
        ...


@dataclass(frozen=True)
class InFile:
    """A data set of an HDF5 file, read pattern by pattern; leading raster axes are flattened."""

    path: Path
    dataset: str
    shape: tuple[int, int, int]
    dtype: np.dtype
    raster: tuple[int, ...]

    @classmethod
    def of(cls, path: Path, dataset: str) -> "InFile":
        """Look at a data set of three or more axes without reading it."""
        import h5py

        with h5py.File(path) as file:
            data = file[dataset]
            *raster, rows, columns = data.shape  # type: ignore[union-attr]
            count = int(np.prod(raster))
            return cls(Path(path), dataset, (count, rows, columns), data.dtype, tuple(raster))  # type: ignore

    def __getitem__(self, index: np.ndarray, /) -> np.ndarray:
        """Read the patterns of an integer index array (any order, repeats allowed)."""
        import h5py

        index = np.arange(self.shape[0])[index]
        flat = np.atleast_1d(index)
        out = np.empty((len(flat), *self.shape[1:]), self.dtype)
        with h5py.File(self.path) as file:
            data = file[self.dataset]
            for start, stop in _runs(flat, self.raster[-1]):
                place = np.unravel_index(flat[start], self.raster)
                last = place[-1] + (stop - start)
                data.read_direct(out, (*place[:-1], slice(place[-1], last)), slice(start, stop))  # type: ignore
        return out if np.ndim(index) else out[0]


@dataclass(frozen=True)
class Mapped:
    """Patterns that go through a function when they are read."""

    source: Counts
    function: Callable[[np.ndarray], np.ndarray]
    shape: tuple[int, int, int]
    dtype: np.dtype

    def __getitem__(self, index: np.ndarray, /) -> np.ndarray:
        """Read and transform; the function sees a stack ``(m, y, x)``."""
        index = np.arange(self.shape[0])[index]
        out = self.function(self.source[np.atleast_1d(index)])
        return out if np.ndim(index) else out[0]


@dataclass(frozen=True)
class Chosen:
    """Some of the patterns of a lazy stack."""

    source: Counts
    index: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of chosen patterns, rows, columns."""
        return (len(self.index), *self.source.shape[1:])  # type: ignore[return-value]

    @property
    def dtype(self) -> np.dtype:
        """The source's dtype."""
        return self.source.dtype

    def __getitem__(self, index: np.ndarray, /) -> np.ndarray:
        """Read through the choice."""
        return self.source[self.index[index]]


def mapped(counts: Counts, function: Callable[[np.ndarray], np.ndarray], /) -> Counts:
    """Apply a function of a stack of patterns: now for an array, at reading for anything lazy."""
    if isinstance(counts, np.ndarray):
        return function(counts)
    sample = function(np.zeros((1, *counts.shape[1:]), counts.dtype))
    return Mapped(counts, function, (counts.shape[0], *sample.shape[1:]), sample.dtype)  # type: ignore[arg-type]


def _runs(flat: np.ndarray, row: int) -> list[tuple[int, int]]:
    """Stretches of consecutive patterns that stay within one raster row."""
    breaks = np.flatnonzero((np.diff(flat) != 1) | (flat[1:] % row == 0)) + 1
    edges = [0, *breaks.tolist(), len(flat)]
    return list(pairwise(edges)) if len(flat) else []
