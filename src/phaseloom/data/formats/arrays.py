"""What array files have in common: counts without marks of broken pixels."""

import errno
import logging
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from phaseloom.data.counts import Counts, SelectedCounts, map_counts, split_indices
from phaseloom.data.formats.files import READ_ERRORS
from phaseloom.data.remarks import warn
from phaseloom.errors import BadInput
from phaseloom.free_memory import require_memory

__all__ = ["Negative", "clean_counts", "load_npy", "load_npz"]

log = logging.getLogger(__name__)

Negative = Literal["clip", "keep"]

MAX_PATTERNS_TO_JUDGE = 500
"""Patterns of a large lazy stack that decide which pixels are masked: reading all of it takes minutes."""

MAX_LOST_SHARE = 0.05
"""Share of the patterns up to which a pixel that is not finite in them is not masked."""

MAX_BYTES_TO_JUDGE = 1 << 31
"""Bytes of a lazy stack of floats up to which all patterns are looked at for values that are not finite."""


def clean_counts(counts: Counts, place: str, /, *, negative: Negative = "clip") -> tuple[Counts, np.ndarray]:
    """Counts without NaN and negative values, and a mask ``(y, x)`` of pixels that can be trusted.

    A pixel is masked when it is NaN or infinite in more than a twentieth of the patterns, or holds a
    detector's mark for "no value" (negative, or the largest integer of its type) in all of them. Fewer values
    that are not finite are replaced by the mean of their pixel, as bright as their pattern is, with a
    warning: a mask for all patterns would take half of the pixels for a thousandth of the values. Lazy stacks
    of integers, and of more than 2 GB, are judged by 500 patterns. A pattern without any number is read as 0.
    An array in memory is repaired in place. ``negative="keep"`` leaves negative values for
    `phaseloom.data.prepare.nonnegative`.
    """
    if counts.dtype.kind == "b":
        return map_counts(counts, lambda stack: stack.astype(np.uint8)), np.ones(counts.shape[1:], bool)
    survey = _PixelSurvey.of(counts)
    broken = survey.broken
    marked = survey.marked & (negative == "clip" or counts.dtype.kind == "u")
    if broken.all():
        raise BadInput(place, None, "holds no number in any pixel of any pattern: is it the right data set?")
    if marked.all():
        fix = "hold its mark for no value, or are saturated, in every pattern: is it the right data set?"
        raise BadInput(place, f"all pixels of {counts.dtype}", fix)
    _warn_of_pixels(survey, marked, place, negative)
    if counts.dtype.kind == "f" or (counts.dtype.kind == "i" and negative == "clip"):
        counts = _repair_counts(
            counts, _Repair(place, negative, broken, survey.mean, survey.count_scattered() > 0), survey
        )
    return counts, ~(broken | marked)


def _warn_of_pixels(survey: "_PixelSurvey", marked: np.ndarray, place: str, negative: Negative) -> None:
    if survey.broken.any():
        warn(log, "%s: %d pixels are not finite and were masked", place, survey.broken.sum())
    scattered = survey.count_scattered()
    if scattered == 1:
        warn(log, "%s: a value that is not finite was replaced by the mean of its pixel", place)
    elif scattered:
        text = "%s: %d values that are not finite were replaced by the mean of their pixel"
        warn(log, text, place, scattered)
    if survey.negative and negative == "clip":
        warn(log, "%s: negative counts were set to zero", place)
    if marked.any():
        warn(log, "%s: %d pixels hold no value in any pattern and were masked", place, marked.sum())


@dataclass
class _PixelSurvey:
    """Which pixels are broken or marked in a sample of the patterns, and their sums."""

    lost: np.ndarray
    marked: np.ndarray
    total: np.ndarray
    frames: int = 0
    negative: bool = False
    infinite: bool = False
    is_float: bool = False

    @classmethod
    def of(cls, counts: Counts) -> "_PixelSurvey":
        n = counts.shape[0]
        kind = counts.dtype.kind
        size = math.prod(counts.shape) * counts.dtype.itemsize
        whole = isinstance(counts, np.ndarray) or (kind == "f" and size <= MAX_BYTES_TO_JUDGE)
        sample_size = n if whole else min(n, MAX_PATTERNS_TO_JUDGE)
        index = np.unique(np.linspace(0, n - 1, sample_size).astype(int))
        shape = counts.shape[1:]
        survey = cls(np.zeros(shape, int), np.ones(shape, bool), np.zeros(shape), is_float=kind == "f")
        for some in split_indices(SelectedCounts(counts, index)):
            survey.add(counts[index[some]])
        survey.marked &= kind in "iu"
        return survey

    @property
    def broken(self) -> np.ndarray:
        """Pixels that are not finite too often; all where no pattern has a number."""
        return (self.lost > MAX_LOST_SHARE * self.frames) | (self.is_float and not self.frames)

    @property
    def mean(self) -> np.ndarray:
        """Mean of what is finite, and 0 where a pixel is broken."""
        return np.where(self.broken, 0, self.total / np.maximum(self.frames - self.lost, 1)).clip(0)

    def count_scattered(self) -> int:
        """Values that are not finite where no pixel is broken."""
        return int(self.lost[~self.broken].sum())

    def add(self, stack: np.ndarray) -> None:
        """Look at some more patterns."""
        if stack.dtype.kind == "f":
            good = np.isfinite(stack)
            some = good.any((1, 2))  # a frame without any number is a lost frame, not lost pixels
            self.lost += (~good[some]).sum(0)
            self.total += np.where(good[some], stack[some], 0).sum(0, dtype=float)
            self.frames += int(some.sum())
            self.infinite = self.infinite or not good.all()
        below = stack < 0
        self.negative = self.negative or bool(below.any())
        if stack.dtype.kind in "iu":
            self.marked &= (below | (stack == np.iinfo(stack.dtype).max)).all(0)


@dataclass
class _Repair:
    """Make counts of what a file has; scattered values that the survey did not meet are named once."""

    place: str
    negative: Negative
    broken: np.ndarray
    mean: np.ndarray
    has_warned: bool

    def __call__(self, stack: np.ndarray) -> np.ndarray:
        if stack.dtype.kind == "f" and not (good := np.isfinite(stack)).all():
            stack = np.where(good, stack, 0)
            some = good.any((-2, -1)) & ~(good | self.broken).all((-2, -1))
            if some.any():
                stack[some] = self._fill(stack[some], good[some])
        if self.negative != "clip":
            return stack
        return np.maximum(stack.astype(stack.dtype.newbyteorder("="), copy=False), 0)

    def _fill(self, stack: np.ndarray, good: np.ndarray) -> np.ndarray:
        """Patterns with the mean of each pixel, times their own brightness, where a value is not finite."""
        if not self.has_warned:
            self.has_warned = True
            warn(log, "%s: values that are not finite were replaced by the mean of their pixel", self.place)
        known = good & ~self.broken
        expected = np.where(known, self.mean, 0).sum((-2, -1), dtype=float)
        bright = np.where(known, stack, 0).sum((-2, -1), dtype=float) / np.maximum(expected, 1e-30)
        filled = bright.clip(0)[..., None, None] * self.mean
        if (stack[known] == np.rint(stack[known])).all():
            filled = np.rint(filled)  # counts stay counts: likelihoods and error bars ask for whole numbers
        filled = filled.astype(stack.dtype)
        return np.where(good | self.broken, stack, filled)


def _repair_counts(counts: Counts, repair: _Repair, survey: _PixelSurvey) -> Counts:
    if not isinstance(counts, np.ndarray):
        return map_counts(counts, repair)
    if not (survey.negative or survey.infinite):
        return counts
    if not counts.flags.writeable:
        return map_counts(counts, repair, lazy=True)
    for index in split_indices(counts):
        place = slice(index[0], index[-1] + 1)
        counts[place] = repair(counts[place])
    return counts


def load_npy(path: Path, /, *, lazy: bool = False) -> np.ndarray:
    """The array of an ``.npy`` file; pickled objects are never loaded."""
    try:
        data = np.load(path, mmap_mode="r" if lazy else None, allow_pickle=False)
    except MemoryError:
        require_memory(path.stat().st_size, path.name)
        raise
    except READ_ERRORS as error:
        fix = "is not a whole .npy file of numbers: save it again with numpy.save, without objects"
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:  # mapped under a limit of addresses
            require_memory(path.stat().st_size, path.name)
        raise BadInput(path.name, None, fix) from error
    if not isinstance(data, np.ndarray):
        data.close()
        raise BadInput(path.name, None, "is an archive of arrays: rename it to .npz")
    return data


def load_npz(path: Path, names: Sequence[str] | None = None, /) -> dict[str, np.ndarray]:
    """Arrays of an ``.npz`` archive by their names; pickled objects are never loaded.

    What an array declares is held against what the archive has of it before memory is taken.

    Args:
        path: the file.
        names: of arrays; those that are not in the archive are left out. ``None``: all.

    Raises:
        BadInput: not such an archive, damaged, or with more than fits into the memory that is free.

    Example:
        >>> np.savez("a.npz", a=np.ones(3), b=np.ones(4))
        >>> load_npz(Path("a.npz"), ["b", "c"])
        {'b': array([1., 1., 1., 1.])}
    """
    try:
        with zipfile.ZipFile(path) as archive:
            known = [one.removesuffix(".npy") for one in archive.namelist() if one.endswith(".npy")]
            wanted = [name for name in (known if names is None else names) if name in known]
            for name in wanted:
                _require_npz_member(archive, name, path.name)
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in wanted}
    except BadInput:
        raise
    except READ_ERRORS as error:
        fix = "is not a whole .npz archive of numbers: save it again with numpy.savez, without objects"
        raise BadInput(path.name, None, fix) from error


def _require_npz_member(archive: zipfile.ZipFile, name: str, file: str) -> None:
    """Refuse an array whose header declares other than the archive has, or more than memory can hold."""
    about = archive.getinfo(f"{name}.npy")
    with archive.open(about) as stream:
        version = np.lib.format.read_magic(stream)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(stream)
        size = math.prod(shape) * dtype.itemsize
        if not dtype.hasobject and size != about.file_size - stream.tell():
            fix = f"declares {size} bytes and has {about.file_size - stream.tell()}: save it again"
            raise BadInput(f"{file}: {name}", None, fix)
    require_memory(size, f"{file}: {name}")
