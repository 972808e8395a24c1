"""Patterns that may be larger than memory: read when asked for, in the file's own dtype."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from phaseloom.data.growing.unfinished import open_shared_hdf5
from phaseloom.errors import BadInput

__all__ = [
    "ArrangedCounts",
    "ComputedCounts",
    "Counts",
    "FileNumbers",
    "HDF5Source",
    "JoinedCounts",
    "MappedCounts",
    "PartialCounts",
    "SelectedCounts",
    "Source",
    "SparseSource",
    "compute_counts",
    "compute_mean",
    "describe_bright_patterns",
    "find_bright_patterns",
    "find_saturated_patterns",
    "get_present",
    "has_one_value",
    "list_numbers",
    "list_own_patterns",
    "load_counts",
    "map_counts",
    "require_plausible_counts",
    "split_indices",
]

MAX_BYTES_IN_MEMORY = 1_000_000_000
"""Above this a part of a stack stays in its file."""

BYTES_PER_PIECE = 32_000_000
"""Bytes that are read or transformed at once."""

MIN_BYTES_READ = 4096
"""Of a piece of a mapped file that lies together: shorter ones are left to the map."""

MAX_COUNT = 1e15
MIN_COUNT = 1e-12
"""Values of the brightest pixel that single precision, and squares of it, can work with."""

MIN_SATURATED = 255
"""Smallest value that all pixels together may have only if a detector was saturated."""


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


class Source(Protocol):
    """A stored array of any number of axes that reads a block of itself: one slice for each axis."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of every axis as stored."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """What it is made of."""
        ...

    def __getitem__(self, block: Any, /) -> Any:
        """The block of a tuple of slices with positive steps."""
        ...


@dataclass(frozen=True)
class HDF5Source:
    """A data set of an HDF5 file as a `Source`: the file is open only while it is read."""

    path: Path
    dataset: str
    shape: tuple[int, ...]
    dtype: np.dtype

    @classmethod
    def of(cls, path: Path, dataset: str) -> "HDF5Source":
        """Look at a data set without reading it."""
        with open_shared_hdf5(path) as file:
            data: Any = file[dataset]
            return cls(Path(path), dataset, tuple(data.shape), data.dtype)

    def __getitem__(self, block: Any, /) -> np.ndarray:
        """Read a block."""
        return next(self.blocks([block]))

    def blocks(self, wanted: Iterable[Any], /) -> Iterator[np.ndarray]:
        """Read one block after the other; the file is opened once."""
        with open_shared_hdf5(self.path) as file:
            data: Any = file[self.dataset]
            if data.chunks is not None:
                with suppress(ImportError):
                    __import__("hdf5plugin")  # registers its filters in this process
            for block in wanted:
                yield self._read_block(data, block)

    def _read_block(self, data: Any, block: Any) -> np.ndarray:
        try:
            return data[block]
        except (OSError, RuntimeError) as problem:
            place = f"{self.path.name}: {self.dataset}"
            raise BadInput(place, None, "has a part that is damaged: copy the file again") from problem


@dataclass(frozen=True)
class FileNumbers:
    """Numbers of one type in a file, of which a slice is read when asked for."""

    path: Path
    dtype: np.dtype
    length: int

    def __len__(self) -> int:
        """How many there are."""
        return self.length

    def __getitem__(self, part: slice, /) -> np.ndarray:
        """Read a slice of step one."""
        start, stop, _ = part.indices(self.length)
        count = max(0, stop - start)
        return np.fromfile(self.path, self.dtype, count, offset=start * self.dtype.itemsize)


@dataclass(frozen=True, eq=False)
class SparseSource:
    """Patterns as lists of the pixels that were hit (compressed sparse rows): a `Source` of dense blocks.

    Attributes:
        indptr: ``(n + 1,)``: hits of pattern ``i`` are those from ``indptr[i]`` to ``indptr[i + 1]``.
        indices: flat pixel of each hit, in memory or in a file.
        values: counts of each hit; ``None``: one.
        lead: ``(n,)``, or ``(slow, fast)``.
        pixels: ``(y, x)`` of a pattern.
        dtype: of the dense patterns.

    Example:
        >>> hits = np.array([1, 1, 5])
        >>> source = SparseSource(np.array([0, 2, 3]), hits, None, (2,), (2, 3), np.dtype("u1"))
        >>> source[0:2, :, 1:].tolist()
        [[[2, 0], [0, 0]], [[0, 0], [0, 1]]]
    """

    indptr: np.ndarray
    indices: np.ndarray | FileNumbers
    values: np.ndarray | FileNumbers | None
    lead: tuple[int, ...]
    pixels: tuple[int, int]
    dtype: np.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the scan, then of a pattern."""
        return (*self.lead, *self.pixels)

    def __getitem__(self, block: Any, /) -> np.ndarray:
        """The dense block of a tuple of slices."""
        numbers = np.arange(int(np.prod(self.lead))).reshape(self.lead)[block[: len(self.lead)]]
        rows, columns = block[len(self.lead) :]
        size = self.pixels[0] * self.pixels[1]
        out = np.empty((numbers.size, *self.pixels), self.dtype)
        for place, number in enumerate(numbers.ravel()):
            part = slice(int(self.indptr[number]), int(self.indptr[number + 1]))
            hit = np.asarray(self.indices[part]).astype(np.int64)
            if hit.size and not 0 <= hit.min() <= hit.max() < size:
                fix = f"has a hit outside of {self.pixels[1]}x{self.pixels[0]} pixels: copy the file again"
                raise BadInput(f"pattern {number}", None, fix)
            weights = None if self.values is None else np.asarray(self.values[part], np.float64)
            out[place] = np.bincount(hit, weights, size).reshape(self.pixels)
        patterns = out[:, rows, columns]
        return patterns.reshape(*numbers.shape, *patterns.shape[1:])


def _read_array(counts: Counts, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    """All patterns, where numpy asks for an array: ``__array__`` of what reads on demand."""
    if copy is False:
        raise ValueError("these patterns are not in memory: numpy.asarray(counts) reads them")
    return load_counts(counts).astype(dtype or counts.dtype, copy=False)


@dataclass(frozen=True)
class ArrangedCounts:
    """Patterns cut out of a stored array, read when asked for.

    Attributes:
        source: the stored array.
        cut: a slice with a positive step for each stored axis.
        axes: the order in which the cut's axes are taken.
        lead: how many of them, in that order, count patterns; the others make up one pattern.
        shape: number of patterns, rows, columns.

    Example:
        >>> stored = np.arange(24).reshape(2, 3, 4)
        >>> whole = (slice(None),) * 3
        >>> ArrangedCounts(stored, whole, (2, 0, 1), 1, (4, 2, 3))[np.array([1])].tolist()
        [[[1, 5, 9], [13, 17, 21]]]
    """

    source: Source
    cut: tuple[slice, ...]
    axes: tuple[int, ...]
    lead: int
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, source: Source) -> "ArrangedCounts":
        """All of an array whose last two axes are a pattern."""
        *raster, rows, columns = source.shape
        whole = (slice(None),) * len(source.shape)
        shape = (int(np.prod(raster)), rows, columns)
        return cls(source, whole, tuple(range(len(whole))), len(raster), shape)

    @property
    def dtype(self) -> np.dtype:
        """The source's dtype."""
        return self.source.dtype

    __array__ = _read_array

    def __getitem__(self, index: np.ndarray, /) -> np.ndarray:
        """Read the patterns of an integer index array (any order, repeats allowed)."""
        index = np.arange(self.shape[0])[index]
        flat = np.atleast_1d(index)
        ranges = [range(*s.indices(n)) for s, n in zip(self.cut, self.source.shape, strict=True)]
        raster = tuple(len(ranges[axis]) for axis in self.axes[: self.lead]) or (1,)
        runs = _find_runs(flat, raster[-1], self._max_patterns_per_block())
        wanted = [
            self._block(np.unravel_index(flat[start], raster), stop - start, ranges) for start, stop in runs
        ]
        if isinstance(self.source, HDF5Source):
            blocks = self.source.blocks(wanted)
        elif isinstance(self.source, np.memmap):
            blocks = _read_mapped(self.source, wanted)
        else:
            blocks = (self.source[block] for block in wanted)
        if len(runs) == 1 and np.ndim(index) and not isinstance(self.source, np.ndarray):
            one = next(iter(blocks)).transpose(self.axes)
            return np.ascontiguousarray(one.reshape(len(flat), *self.shape[1:]))
        out = np.empty((len(flat), *self.shape[1:]), self.dtype)
        for (start, stop), read in zip(runs, blocks, strict=True):
            out[start:stop] = read.transpose(self.axes).reshape(stop - start, *self.shape[1:])
        return out if np.ndim(index) else out[0]

    def _block(self, place: Sequence[Any], count: int, ranges: list[range]) -> tuple[slice, ...]:
        """Where so many patterns from a place of the raster on are stored."""
        block = [slice(r.start, r.stop, r.step) for r in ranges]
        for axis, at in zip(self.axes, place, strict=False):
            some = ranges[axis][int(at) : int(at) + (count if axis == self.axes[self.lead - 1] else 1)]
            block[axis] = slice(some.start, some[-1] + 1, some.step)
        return tuple(block)

    def _max_patterns_per_block(self) -> int:
        return max(1, BYTES_PER_PIECE // (int(np.prod(self.shape[1:])) * self.dtype.itemsize))


@dataclass(frozen=True)
class MappedCounts:
    """Patterns that go through a function when they are read."""

    source: Counts
    function: Callable[[np.ndarray], np.ndarray]
    shape: tuple[int, int, int]
    dtype: np.dtype

    __array__ = _read_array

    def __getitem__(self, index: np.ndarray, /) -> np.ndarray:
        """Read and transform; the function sees a stack ``(m, y, x)``."""
        index = np.arange(self.shape[0])[index]
        out = self.function(self.source[np.atleast_1d(index)])
        return out if np.ndim(index) else out[0]


@dataclass(frozen=True)
class ComputedCounts:
    """Patterns that are computed when they are read, each from its number."""

    compute: Callable[[int], np.ndarray]
    shape: tuple[int, ...]
    dtype: np.dtype

    __array__ = _read_array

    def __getitem__(self, index: np.ndarray, /) -> np.ndarray:
        """Compute one pattern after the other."""
        index = np.arange(self.shape[0])[index]
        flat = np.atleast_1d(index)
        out = np.empty((len(flat), *self.shape[1:]), self.dtype)
        for place, number in enumerate(flat):
            out[place] = self.compute(int(number))
        return out if np.ndim(index) else out[0]


@dataclass(frozen=True)
class SelectedCounts:
    """Some of the patterns of a lazy stack."""

    source: Counts
    index: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of chosen patterns, rows, columns."""
        _, rows, columns = self.source.shape
        return len(self.index), rows, columns

    @property
    def dtype(self) -> np.dtype:
        """The source's dtype."""
        return self.source.dtype

    __array__ = _read_array

    def __getitem__(self, index: np.ndarray, /) -> np.ndarray:
        """Read through the choice."""
        return self.source[self.index[index]]


@dataclass(frozen=True, eq=False)
class JoinedCounts:
    """The patterns of several stacks one after the other; their type is the widest of them.

    Example:
        >>> both = JoinedCounts((np.zeros((2, 4, 4), "u2"), np.ones((1, 4, 4), "f4")))
        >>> both.shape, both.dtype.name, both[np.array([2, 0])].sum((1, 2)).tolist()
        ((3, 4, 4), 'float32', [16.0, 0.0])
    """

    stacks: tuple[Counts, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of patterns, rows, columns."""
        _, rows, columns = self.stacks[0].shape
        return sum(stack.shape[0] for stack in self.stacks), rows, columns

    @property
    def dtype(self) -> np.dtype:
        """One that holds the patterns of all."""
        return np.result_type(*(stack.dtype for stack in self.stacks))

    __array__ = _read_array

    def __getitem__(self, index: np.ndarray, /) -> np.ndarray:
        """Read each pattern from its stack."""
        index = np.arange(self.shape[0])[index]
        flat = np.atleast_1d(index)
        out = np.empty((len(flat), *self.shape[1:]), self.dtype)
        first = 0
        for stack in self.stacks:
            here = (flat >= first) & (flat < first + stack.shape[0])
            if here.any():
                out[here] = stack[flat[here] - first]
            first += stack.shape[0]
        return out if np.ndim(index) else out[0]


@dataclass(frozen=True, eq=False)
class PartialCounts:
    """A stack of which some patterns are here and the others are not: they keep their numbers.

    Attributes:
        rows: the patterns that are here, in memory or in their file.
        place: ``(n,)`` where each pattern of the stack lies in ``rows``, -1 for those that do not.
        own: numbers of those that nobody else is in charge of.
    """

    rows: Counts
    place: np.ndarray
    own: np.ndarray

    @classmethod
    def of(cls, counts: Counts, own: np.ndarray, others: np.ndarray, /) -> "PartialCounts":
        """Some patterns of a stack, read into memory unless they take more than `MAX_BYTES_IN_MEMORY` bytes.

        Example:
            >>> part = PartialCounts.of(np.arange(12.0).reshape(3, 2, 2), np.array([2]), np.array([0]))
            >>> part[np.array([2])].ravel().tolist(), part.shape
            ([8.0, 9.0, 10.0, 11.0], (3, 2, 2))
        """
        numbers = np.union1d(own, others)
        place = np.full(counts.shape[0], -1)
        place[numbers] = np.arange(len(numbers))
        rows = SelectedCounts(counts, numbers)
        small = rows.dtype.itemsize * int(np.prod(rows.shape)) <= MAX_BYTES_IN_MEMORY
        return cls(load_counts(rows) if small else rows, place, own)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the whole stack."""
        _, rows, columns = self.rows.shape
        return len(self.place), rows, columns

    @property
    def dtype(self) -> np.dtype:
        """That of the patterns."""
        return self.rows.dtype

    __array__ = _read_array

    def __getitem__(self, index: np.ndarray, /) -> np.ndarray:
        """Patterns that are here.

        Raises:
            LookupError: others; it would be a mistake of the program to ask.
        """
        where = self.place[index]
        if (where < 0).any():
            missing = np.atleast_1d(np.arange(len(self.place))[index])[np.atleast_1d(where < 0)]
            raise LookupError(f"pattern {missing[0]} is kept by another process")
        return self.rows[where]


def map_counts(
    counts: Counts, function: Callable[[np.ndarray], np.ndarray], /, *, lazy: bool | None = None
) -> Counts:
    """Apply a function of a stack of patterns: now for an array, at reading for anything lazy.

    An array is transformed piece by piece, so that nothing but the result is added to memory; with
    ``lazy`` it is left as it is, and its patterns are transformed whenever they are read.
    """
    now = isinstance(counts, np.ndarray) if lazy is None else not lazy and isinstance(counts, np.ndarray)
    sample = function(np.zeros((1, *counts.shape[1:]), counts.dtype))
    later = MappedCounts(counts, function, (counts.shape[0], *sample.shape[1:]), sample.dtype)
    return load_counts(later) if now else later


def compute_counts(like: Counts, compute: Callable[[int], np.ndarray], dtype: np.dtype, /) -> Counts:
    """Patterns from their numbers: now where the ones that they stand for are an array, else at reading."""
    computed = ComputedCounts(compute, like.shape, dtype)
    return load_counts(computed) if isinstance(like, np.ndarray) else computed


def compute_mean(counts: Counts, /, *, most: int) -> np.ndarray:
    """Mean ``(y, x)`` of at most ``most`` evenly spread patterns, float64, read in chunks.

    Example:
        >>> compute_mean(np.arange(5.0).reshape(5, 1, 1), most=3)
        array([[2.]])
    """
    count = counts.shape[0]
    index = np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int))
    total = np.zeros(counts.shape[1:])
    for start in range(0, len(index), 64):
        total += counts[index[start : start + 64]].sum(axis=0, dtype=np.float64)
    return total / len(index)


def load_counts(counts: Counts, /) -> np.ndarray:
    """All patterns as an array, read piece by piece.

    Example:
        >>> load_counts(SelectedCounts(np.ones((3, 2, 2)), np.array([0, 2]))).shape
        (2, 2, 2)
    """
    out = np.empty(counts.shape, counts.dtype)
    for index in split_indices(counts):
        out[index[0] : index[-1] + 1] = counts[index]
    return out


def get_present(counts: Counts, /) -> tuple[Counts, np.ndarray | None]:
    """The patterns that are here, and where each one of the stack lies among them; ``None``: in order."""
    return (counts.rows, counts.place) if isinstance(counts, PartialCounts) else (counts, None)


def list_own_patterns(counts: Counts, /) -> np.ndarray:
    """Numbers of the patterns that nobody else is in charge of: all, but of a `PartialCounts`."""
    if isinstance(counts, PartialCounts):
        return counts.own
    return (
        list_own_patterns(counts.source) if isinstance(counts, MappedCounts) else np.arange(counts.shape[0])
    )


def split_indices(counts: Counts, index: np.ndarray | None = None, /) -> Iterator[np.ndarray]:
    """Numbers of the patterns of a stack, or some of them, a few at a time that fit in memory.

    Args:
        counts: the stack.
        index: numbers of the patterns; default: all.
    """
    bytes_ = int(np.prod(counts.shape[1:])) * max(counts.dtype.itemsize, 8)  # sums are of float64
    step = max(1, min(64, BYTES_PER_PIECE // bytes_))
    index = np.arange(counts.shape[0]) if index is None else index
    for start in range(0, len(index), step):
        yield index[start : start + step]


def _read_mapped(source: np.memmap, wanted: Iterable[Any], /) -> Iterator[np.ndarray]:
    """Blocks of a mapped file, read from it one after the other where they lie in large pieces.

    Pages of a map are fetched with many that nobody asked for (7.6 s instead of 0.02 for 500 patterns of a
    sparse file), count as memory of the process, and kill it where the file has become shorter.
    """
    root: Any = source
    while isinstance(root.base, np.ndarray):
        root = root.base
    if not isinstance(root, np.memmap) or root.filename is None:
        yield from (source[block] for block in wanted)
        return
    start = root.offset - root.ctypes.data
    with open(root.filename, "rb", buffering=0) as file:
        for block in wanted:
            view = source[block]
            lead = next(k for k in range(view.ndim + 1) if view[(0,) * k].flags.c_contiguous)
            if view[(0,) * lead].nbytes < MIN_BYTES_READ:
                yield view
                continue
            out = np.empty(view.shape, view.dtype)
            for place in np.ndindex(view.shape[:lead]):
                file.seek(start + view[place].ctypes.data)
                _fill(out[place], file)
            yield out


def _fill(out: np.ndarray, file: Any) -> None:
    """Read an array that is contiguous."""
    room = out.reshape(-1).view(np.uint8).data
    while room:
        count = file.readinto(room)
        if not count:
            raise BadInput(
                Path(file.name).name, None, "has become shorter since it was opened: copy it again"
            )
        room = room[count:]


def _find_runs(flat: np.ndarray, row: int, most: int) -> list[tuple[int, int]]:
    """Stretches of consecutive patterns that stay within one raster row, and within memory."""
    breaks = np.flatnonzero((np.diff(flat) != 1) | (flat[1:] % row == 0)) + 1
    edges = [0, *breaks.tolist(), len(flat)]
    if not len(flat):
        return []
    return [(at, min(at + most, stop)) for start, stop in pairwise(edges) for at in range(start, stop, most)]


def require_plausible_counts(lowest: float, highest: float, name: str, /) -> None:
    """Refuse patterns that are no numbers, far outside of single precision, or all saturated.

    Single values that are not finite are named, with their places, by the noise model.

    Args:
        lowest: of all trusted pixels.
        highest: of them.
        name: of the file, for the sentence.

    Raises:
        BadInput: they are.
    """
    if math.isnan(highest):
        fix = "holds no number where pixels are trusted: check the data set and the mask"
        raise BadInput(name, None, fix)
    if math.inf > highest > MAX_COUNT or 0 < highest < MIN_COUNT:
        fix = "cannot be computed with in single precision: give counts (prepare: normalise by: divide)"
        raise BadInput(name, f"counts of at most {highest:.3g}", fix)
    if lowest == highest >= MIN_SATURATED and math.log2(highest + 1).is_integer():
        fix = "the detector was saturated, or this is not the set of patterns"
        raise BadInput(name, None, f"holds {highest:.0f} in every pixel of every pattern: {fix}")


MIN_BRIGHTNESS_OF_DAMAGED = 4.0
"""Counts of a pattern over the median of all, from which it is named as one that may be damaged."""

MAX_SHARE_OF_DAMAGED = 0.01
"""Share of such patterns, up to which they are: with more of them the specimen or the beam is like that."""


def find_bright_patterns(totals: np.ndarray, /) -> np.ndarray:
    """Numbers of the few patterns that are far brighter than the others: damaged frames, cosmic rays.

    Args:
        totals: counts of each pattern.

    Example:
        >>> find_bright_patterns(np.r_[np.full(99, 1e4), 1e5])
        array([99])
        >>> find_bright_patterns(np.r_[np.full(90, 1e4), np.full(10, 1e5)])
        array([], dtype=int64)
    """
    found = np.flatnonzero(totals > MIN_BRIGHTNESS_OF_DAMAGED * max(float(np.median(totals)), 0.0))
    is_few = len(found) <= max(1, MAX_SHARE_OF_DAMAGED * len(totals)) < len(totals)
    return found if is_few and np.median(totals) > 0 else found[:0]


def describe_bright_patterns(totals: np.ndarray, index: np.ndarray, /) -> str:
    """Which patterns are far brighter than the others, and by how much.

    Args:
        totals: counts of each pattern.
        index: their numbers in the scan.

    Example:
        >>> describe_bright_patterns(np.r_[np.full(299, 100.0), 1020.0, 800.0], np.arange(301))
        'patterns 299, 300 hold up to 10.2 times the counts of the others'
        >>> describe_bright_patterns(np.r_[np.full(99, 100.0), 960.0], np.arange(100) + 1)
        'pattern 100 holds 9.6 times the counts of the others'
    """
    found = find_bright_patterns(totals)
    brightness = float(totals[found].max() / np.median(totals))
    named = ", ".join(str(one) for one in index[found[:8]]) + (", ..." if len(found) > 8 else "")
    plural = len(found) > 1
    holds = f"{'s' if plural else ''} {named} hold{' up to' if plural else 's'} {brightness:.3g} times"
    return f"pattern{holds} the counts of the others"


MAX_LISTED_BRIGHT = 20
"""Patterns whose numbers are listed in what to write to leave them out."""

MAX_LISTED_NUMBERS = 8
"""Patterns that a message names by their numbers."""


def list_numbers(numbers: np.ndarray, /) -> str:
    """The first numbers of some patterns, as a message names them.

    Example:
        >>> list_numbers(np.arange(3, 20))
        '3, 4, 5, 6, 7, 8, 9, 10 and 9 more'
    """
    shown = ", ".join(map(str, numbers[:MAX_LISTED_NUMBERS]))
    return shown + (f" and {more} more" if (more := len(numbers) - MAX_LISTED_NUMBERS) > 0 else "")


MAX_SHARE_OF_SATURATED = 0.05
"""Share of patterns that are left out as saturated at most: with more of them something else is wrong."""

MIN_SHARE_AT_ONE_VALUE = 0.95
"""Of the trusted pixels of a saturated pattern; the rest are dead pixels that no mask knows yet."""

MIN_PIXELS_AT_ONE_VALUE = 64
"""Trusted pixels from which one value in all of them is not chance."""


def has_one_value(pixels: np.ndarray, highest: np.ndarray, totals: np.ndarray, /) -> np.ndarray:
    """Which patterns hold one value above zero in all trusted pixels, a few dead ones apart.

    Args:
        pixels: ``(n, pixel)`` trusted pixels of each pattern.
        highest: ``(n,)`` highest of them.
        totals: ``(n,)`` their sums.

    Example:
        >>> stack = np.stack([np.full(100, 7), np.arange(100), np.zeros(100)])
        >>> has_one_value(stack, stack.max(1), stack.sum(1)).tolist()
        [True, False, False]
    """
    count = pixels.shape[1]
    if count < MIN_PIXELS_AT_ONE_VALUE:
        return np.zeros(len(pixels), bool)
    with np.errstate(invalid="ignore"):
        found = (highest > 0) & (totals >= MIN_SHARE_AT_ONE_VALUE * count * highest.astype(np.float64))
    for number in np.flatnonzero(found):  # few, if any: the sums tell all others
        found[number] = np.mean(pixels[number] == highest[number]) >= MIN_SHARE_AT_ONE_VALUE
    return found


def find_saturated_patterns(totals: np.ndarray, flat: np.ndarray, /) -> np.ndarray:
    """Numbers of the few patterns that hold one value in all pixels, and far more counts than the others.

    Brightness alone does not tell them: a particle in an empty field, or a beam that opens for a part of the
    scan, is as bright. Neither do equal pixels: holograms of an empty place are flat.

    Args:
        totals: counts of each pattern.
        flat: `has_one_value` of each.

    Example:
        >>> totals = np.r_[np.full(99, 1e4), 1e7]
        >>> find_saturated_patterns(totals, totals > 1e6), find_saturated_patterns(totals, totals < 0)
        (array([99]), array([], dtype=int64))
    """
    lit = totals[totals > 0]
    if not len(lit):
        return np.zeros(0, np.int64)
    found = np.flatnonzero(flat & (totals > MIN_BRIGHTNESS_OF_DAMAGED * float(np.median(lit))))
    return found if len(found) <= max(1, MAX_SHARE_OF_SATURATED * len(totals)) < len(totals) else found[:0]
