"""From the axes a file has to patterns ``(n, y, x)``: selection, order and shape, all without reading."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from phaseloom.data.counts import ArrangedCounts, Counts, Source
from phaseloom.errors import BadInput

__all__ = ["Arrangement", "Axes", "ReversedAxes", "Selection", "arrange"]

Axes = tuple[int, ...]
Selection = str | list[list[int | None] | None]

NUMERIC_KINDS = "iufb"
MAX_AXES_OF_SCAN = 4


@dataclass(frozen=True)
class Arrangement:
    """What a user says of the axes of a stored array; applied in this order.

    Attributes:
        selection: a slice for each stored axis, ``"0:64, :, 8:-8, ::2"``, or a list of ``null`` and
            ``[start, stop, step]``.
        permute: the order in which the axes are taken, as in `numpy.transpose`.
        reshape: the shape after that, as in `numpy.reshape`; one length may be -1.
    """

    selection: Selection | None = None
    permute: Axes | None = None
    reshape: Axes | None = None


@dataclass(frozen=True)
class ReversedAxes:
    """A stored array whose axes are counted from the last to the first, as MATLAB counts them."""

    source: Source

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths in MATLAB's order."""
        return self.source.shape[::-1]

    @property
    def dtype(self) -> np.dtype:
        """The source's dtype."""
        return self.source.dtype

    def __getitem__(self, block: Any, /) -> np.ndarray:
        """Read a block."""
        return self.source[block[::-1]].T


def arrange(
    source: Any, place: str, how: Arrangement | None = None, /
) -> tuple[Counts, tuple[int, int] | None]:
    """Patterns of a stored array, and their raster (slow, fast) if four axes are left.

    Of more than four axes those of length one are left out, so that the selection of one place of a time
    series is a scan.

    An array in memory is not copied: it is viewed where that is possible, else its patterns are put in
    order whenever they are asked for.

    Raises:
        BadInput: no real numbers, axes that do not fit, or nothing left.

    Example:
        >>> stored = np.ones((8, 9, 2, 3), np.uint8)
        >>> counts, raster = arrange(stored, "a.mat", Arrangement(permute=(2, 3, 0, 1)))
        >>> counts.shape, raster
        ((6, 8, 9), (2, 3))
    """
    has_knobs = how is not None
    how = how or Arrangement()
    shape = tuple(int(n) for n in source.shape)
    if source.dtype.kind not in NUMERIC_KINDS:
        raise BadInput(place, f"{source.dtype} data", "cannot be counts: store real numbers")
    cut = _parse_selection(how.selection, shape, place)
    axes = _resolve_permute(how.permute, len(shape), place)
    taken = [len(range(*cut[axis].indices(shape[axis]))) for axis in axes]
    final = _resolve_reshape(how.reshape, taken, place)
    if len(final) > MAX_AXES_OF_SCAN and how.reshape is None:
        final = _drop_single_places(final)
    if len(final) > MAX_AXES_OF_SCAN:
        others = axes[: len(final) - MAX_AXES_OF_SCAN]
        choice = ", ".join("0:1" if axis in others else ":" for axis in range(len(shape)))
        fix = f"has {len(final)} axes, more than (slow, fast, y, x): choose one place of each further axis"
        if not has_knobs:
            raise BadInput(place, f"shape {tuple(final)}", f"{fix} and write that to a file of its own")
        raise BadInput(place, f"shape {tuple(final)}", f"{fix}, as selection: '{choice}' takes the first")
    if len(final) not in (3, 4):
        fix = "must have the axes (pattern, y, x) or (slow, fast, y, x)"
        how_to = "see selection, permute and reshape" if has_knobs else "write it so to a file of its own"
        raise BadInput(place, f"shape {tuple(final)}", f"{fix}: {how_to}")
    if 0 in final:
        raise BadInput(place, f"shape {tuple(final)}", "holds no pattern: measure again or copy again")
    stack = (math.prod(final[:-2]), final[-2], final[-1])
    counts = ArrangedCounts(source, cut, axes, _count_pattern_axes(taken, final, place), stack)
    return _view_in_memory(counts), (final[0], final[1]) if len(final) == 4 else None


def _drop_single_places(lengths: list[int]) -> list[int]:
    """Lengths without those of one in front of the pattern, as many as there are too many."""
    lead = lengths[:-2]
    while len(lead) + 2 > MAX_AXES_OF_SCAN and 1 in lead:
        lead.remove(1)
    return lead + lengths[-2:]


def _parse_selection(selection: Selection | None, shape: Sequence[int], place: str) -> tuple[slice, ...]:
    place = f"{place}: selection"
    if isinstance(selection, str):
        parts = [_parse_slice(part, place) for part in selection.split(",")]
    else:
        parts = [_build_slice(part, place) for part in selection or []]
    if len(parts) > len(shape):
        fix = f"has {len(parts)} slices, but the array has {len(shape)} axes"
        raise BadInput(place, None, f"{fix}: one for each of {tuple(shape)}")
    parts += [slice(None)] * (len(shape) - len(parts))
    for part, n in zip(parts, shape, strict=True):
        if part.step is not None and part.step < 1:
            raise BadInput(place, part.step, "is not a step: write 1 or more (prepare has flip)")
        if n and not range(*part.indices(n)):
            raise BadInput(place, f"{part.start}:{part.stop}", f"leaves nothing of an axis of {n}")
    return tuple(slice(*part.indices(n)) for part, n in zip(parts, shape, strict=True))


def _parse_slice(part: str, place: str) -> slice:
    words = [word.strip() for word in part.split(":")]
    try:
        numbers = [int(word) if word else None for word in words]
    except ValueError:
        numbers = []
    if not 2 <= len(numbers) <= 3:
        fix = "is not a slice: write start:stop or start:stop:step for each axis, as in '0:64, :, 8:-8'"
        raise BadInput(place, part.strip() or "''", fix)
    return slice(*numbers)


def _build_slice(part: list[int | None] | None, place: str) -> slice:
    if part is None:
        return slice(None)
    if not isinstance(part, (list, tuple)) or not 2 <= len(part) <= 3:
        raise BadInput(place, part, "is not a slice: write null, [start, stop] or [start, stop, step]")
    return slice(*part)


def _resolve_permute(permute: Axes | None, count: int, place: str) -> tuple[int, ...]:
    if permute is None:
        return tuple(range(count))
    axes = tuple(axis + count if -count <= axis < 0 else axis for axis in permute)
    if sorted(axes) != list(range(count)):
        fix = f"is not an order of {count} axes: name each of 0 to {count - 1} once"
        raise BadInput(f"{place}: permute", list(permute), fix)
    return axes


def _resolve_reshape(reshape: Axes | None, taken: list[int], place: str) -> list[int]:
    if reshape is None:
        return taken
    total = math.prod(taken)
    known = math.prod(n for n in reshape if n != -1)
    free = [n for n in reshape if n == -1]
    fits = total % known == 0 if free and known > 0 else known == total
    if len(free) > 1 or any(n < -1 or n == 0 for n in reshape) or not fits:
        fix = f"does not hold the {total} values of {tuple(taken)}: make the product fit, with one -1 at most"
        raise BadInput(f"{place}: reshape", list(reshape), fix)
    return [total // known if n == -1 else int(n) for n in reshape]


def _count_pattern_axes(taken: list[int], final: list[int], place: str) -> int:
    """How many of the taken axes count patterns: the rest together must be one pattern."""
    pattern = math.prod(final[-2:])
    for lead in range(len(taken), -1, -1):
        if math.prod(taken[lead:]) == pattern:
            return lead
    fix = f"cuts through the axes {tuple(taken)}: patterns must be made of whole axes"
    raise BadInput(f"{place}: reshape", list(final), fix)


def _view_in_memory(counts: ArrangedCounts) -> Counts:
    """The same as a view, where the array lies in memory in this order."""
    if type(counts.source) is not np.ndarray:
        return counts
    view = counts.source[counts.cut].transpose(counts.axes)
    return view.reshape(counts.shape) if view.flags.c_contiguous else counts
