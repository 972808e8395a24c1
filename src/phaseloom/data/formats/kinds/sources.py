"""Stored arrays in pieces: several data sets as one stack, a data set for each pattern, amplitudes."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from phaseloom.data.counts import HDF5Source, Source
from phaseloom.data.formats.files import READ_ERRORS
from phaseloom.data.growing.unfinished import open_shared_hdf5
from phaseloom.errors import BadInput

__all__ = ["FrameSource", "JoinedSource", "SquaredSource"]


@dataclass(frozen=True)
class JoinedSource:
    """Data sets ``(n, y, x)`` of a file and of those that it links to, one after the other: a `Source`."""

    parts: tuple[HDF5Source, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole stack."""
        return (sum(part.shape[0] for part in self.parts), *self.parts[0].shape[1:])

    @property
    def dtype(self) -> np.dtype:
        """The largest of the parts."""
        return np.result_type(*(part.dtype for part in self.parts))

    def __getitem__(self, block: Any, /) -> np.ndarray:
        """Read a block."""
        first, *rest = block
        wanted = np.arange(self.shape[0])[first]
        read = [part for part in self._read(wanted, tuple(rest)) if part.size]
        return np.concatenate(read).astype(self.dtype, copy=False)

    def _read(self, wanted: np.ndarray, rest: tuple[Any, ...]) -> Iterator[np.ndarray]:
        stops = list(accumulate(part.shape[0] for part in self.parts))
        for part, stop in zip(self.parts, stops, strict=True):
            start = stop - part.shape[0]
            some = wanted[(wanted >= start) & (wanted < stop)] - start
            if len(some):
                step = int(some[1] - some[0]) if len(some) > 1 else 1
                yield part[(slice(int(some[0]), int(some[-1]) + 1, step), *rest)]


@dataclass(frozen=True)
class FrameSource:
    """A data set ``(y, x)`` for each pattern, whose paths have its number: a `Source` of a stack.

    Attributes:
        path: of the file.
        template: path of a data set, with ``{}`` for the number.
        shape: ``(n, y, x)``.
        dtype: of the first pattern.
    """

    path: Path
    template: str
    shape: tuple[int, ...]
    dtype: np.dtype

    def __getitem__(self, block: Any, /) -> np.ndarray:
        """Read a block."""
        first, rows, columns = block
        numbers = np.arange(self.shape[0])[first]
        out = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        with open_shared_hdf5(self.path) as file:
            for place, number in enumerate(numbers):
                name = self.template.format(number)
                try:
                    data: Any = file[name]
                    fits = isinstance(data, h5py.Dataset) and data.shape == self.shape[1:]
                    if not fits or data.dtype.kind not in "iufb":
                        raise ValueError(f"{name} is not like the first pattern")
                    out[place] = data[()]
                except READ_ERRORS as error:
                    fix = f"is not a pattern of {self.shape[2]}x{self.shape[1]} numbers: copy the file again"
                    raise BadInput(f"{self.path.name}: {name}", None, fix) from error
        return out[:, rows, columns]


@dataclass(frozen=True)
class SquaredSource:
    """Amplitudes as counts: a `Source` of the squares.

    Example:
        >>> SquaredSource(np.full((1, 1, 2), 3.0))[:, :, :].tolist()
        [[[9.0, 9.0]]]
    """

    source: Source | np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the source."""
        return self.source.shape

    @property
    def dtype(self) -> np.dtype:
        """That of the amplitudes; of integers 32-bit floats."""
        return self.source.dtype if self.source.dtype.kind == "f" else np.dtype(np.float32)

    def __getitem__(self, block: Any, /) -> np.ndarray:
        """Read a block."""
        return np.square(np.asarray(self.source[block], self.dtype))
