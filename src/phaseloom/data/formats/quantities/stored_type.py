"""Whether bare numbers were written with the type that they are read with: byte order, integers, floats."""

from typing import Any

import numpy as np

__all__ = ["suggest_dtype"]

MAX_PATTERNS_COMPARED = 16
MAX_VALUES_COMPARED = 1 << 20

PLAUSIBLE_FLOATS = (1e-9, 1e9)
"""Counts and scaled counts; of floats in the wrong byte order one in four falls between."""

MAX_PLAUSIBLE_INTEGER = 1 << 24
"""Integers of four or eight bytes; a count of 1 in the wrong byte order is this."""

MIN_RATIO_OF_MEDIANS = 64
"""Of integers of two bytes: counts below 256 in the wrong byte order are 256 times as large."""

MIN_RATIO_OF_ROUGHNESS = 2.0
"""Of integers of two bytes above 256, whose noise the wrong byte order puts into the high byte."""


def suggest_dtype(data: Any, /) -> np.dtype | None:
    """The type that makes plausible counts of a stored array where its own does not, else ``None``.

    Only types of the same size are tried, on at most 16 patterns: the other byte order, and floats for
    integers and the reverse.

    Args:
        data: an array ``(..., y, x)`` whose last axis holds whole numbers of bytes, as mapped by `raw`.

    Example:
        >>> counts = np.random.default_rng(0).poisson(3, (4, 8, 8)).astype("<u2")
        >>> suggest_dtype(counts.view(">u2")) == np.dtype("<u2")
        True
        >>> suggest_dtype(counts) is None
        True
    """
    if data.dtype.kind not in "iuf" or data.dtype.itemsize == 1:
        return None
    sample = _take_sample(data)
    if data.dtype.itemsize == 2:
        return _suggest_order_of_two_bytes(sample)
    if _share_of_plausible(sample) > 0.5:
        return None
    found = [one for one in _list_candidates(data.dtype) if _share_of_plausible(sample.view(one)) > 0.9]
    whole = [one for one in found if one.kind == "f" and _has_whole_numbers_only(sample.view(one))]
    return next(iter(whole + found), None)  # the bytes of 1.0 and 2.0 make small integers in the other order


def _take_sample(data: Any) -> np.ndarray:
    """Evenly chosen patterns ``(n, y, x)``, in memory, without those beyond a million values."""
    lead = data.shape[:-2]
    size = max(int(np.prod(data.shape[-2:])), 1)
    most = max(1, min(MAX_PATTERNS_COMPARED, MAX_VALUES_COMPARED // size))
    total = int(np.prod(lead))
    numbers = np.unique(np.linspace(0, total - 1, min(most, total)).astype(int))
    sample = np.empty((len(numbers), *data.shape[-2:]), data.dtype)  # numpy.stack would change the byte order
    for place, number in enumerate(numbers):
        sample[place] = data[np.unravel_index(number, lead)]
    return sample


def _list_candidates(dtype: np.dtype) -> list[np.dtype]:
    """Types of the same size: first the other byte order, then the other kind of number."""
    kinds = ["f", "u" if dtype.kind == "u" else "i"]
    kinds.sort(key=lambda kind: kind != dtype.kind)
    swapped = dtype.newbyteorder("S").str[0]
    orders = [swapped, dtype.str[0]]
    every = [np.dtype(f"{order}{kind}{dtype.itemsize}") for kind in kinds for order in orders]
    return [one for one in every if one != dtype]


def _share_of_plausible(values: np.ndarray) -> float:
    """Share of the values that are not zero which may be counts; 1 where all are zero."""
    some = values[values != 0]
    if not some.size:
        return 1.0
    with np.errstate(all="ignore"):
        size = np.abs(some.astype(np.float64))
    if values.dtype.kind == "f":
        low, high = PLAUSIBLE_FLOATS
        return float(((size >= low) & (size <= high)).mean())
    return float((size < MAX_PLAUSIBLE_INTEGER).mean())


def _has_whole_numbers_only(values: np.ndarray) -> bool:
    with np.errstate(all="ignore"):
        return bool((values == np.round(values)).all())


def _suggest_order_of_two_bytes(sample: np.ndarray) -> np.dtype | None:
    """The other byte order, where it makes far smaller numbers or far smoother patterns."""
    if sample.dtype.kind == "f" or not sample.any():
        return None
    other = sample.view(sample.dtype.newbyteorder("S"))
    smaller = _median_size(sample) >= MIN_RATIO_OF_MEDIANS * _median_size(other)
    smoother = _roughness(sample) >= MIN_RATIO_OF_ROUGHNESS * _roughness(other) > 0
    return other.dtype if smaller or smoother else None


def _median_size(values: np.ndarray) -> float:
    """Median of the absolute values that are not zero."""
    return float(np.median(np.abs(values[values != 0].astype(np.float64))))


def _roughness(values: np.ndarray) -> float:
    """Mean difference of neighbouring pixels over the mean deviation from the mean; 0 where all are equal."""
    numbers = values.astype(np.float64)
    deviation = float(np.abs(numbers - numbers.mean()).mean())
    return (
        float(np.abs(np.diff(numbers, axis=-1)).mean()) / deviation
        if deviation and numbers.shape[-1] > 1
        else 0.0
    )
