"""What a scan and its geometry are made of, as arrays, or a sentence on what is wrong with them."""

import math
from typing import Any

import numpy as np

from phaseloom.errors import BadInput

__all__ = ["array", "directions", "pair", "patterns", "positive", "real", "wave"]


def pair(place: str, value: Any, /) -> tuple[Any, Any]:
    """Two numbers above zero (y, x); a single one stands for both."""
    both = (value, value) if np.ndim(value) == 0 else tuple(value)
    if len(both) != 2 or not all(_number(one) and math.isfinite(one) and one > 0 for one in both):
        raise BadInput(place, value, "must be a positive number, or two of them (y, x)")
    return both


def directions(basis: Any, /) -> None:
    """Refuse a detector basis whose two columns span no plane."""
    table = real("geometry.basis", basis)
    if table.shape != (3, 2):
        raise BadInput("geometry.basis", table.shape, "must have the shape (3, 2)")
    rows, columns = table.T
    lengths = float(np.linalg.norm(rows) * np.linalg.norm(columns))
    if np.linalg.norm(np.cross(rows, columns)) <= 1e-6 * lengths:
        fix = "has parallel or zero columns: give the directions of detector rows and columns"
        raise BadInput("geometry.basis", table.tolist(), fix)


def patterns(counts: Any, /) -> Any:
    """Counts that are read when asked for as they are; lists and tensors as an array."""
    if not (hasattr(counts, "shape") and isinstance(getattr(counts, "dtype", None), np.dtype)):
        counts = array("scan.counts", counts)
    if len(counts.shape) != 3:
        raise BadInput("scan.counts", counts.shape, "must have the axes (pattern, y, x)")
    if not all(counts.shape):
        raise BadInput("scan.counts", counts.shape, "holds no pattern: give at least one")
    if counts.dtype.kind not in "biuf":
        fix = "are no counts: give real numbers, of a complex wave its abs() squared"
        raise BadInput("scan.counts", f"values of {counts.dtype}", fix)
    return counts


def array(place: str, value: Any, /) -> np.ndarray:
    """A numpy array of an array, a list or a tensor."""
    if isinstance(value, np.ndarray):
        return value
    if hasattr(value, "detach"):  # a tensor of PyTorch, on whatever device
        value = value.detach().cpu()
    try:
        out = np.asarray(value)
    except (ValueError, TypeError) as problem:
        raise BadInput(place, None, "is no array: its rows differ in length, or are no numbers") from problem
    if out.dtype.kind not in "biufc":
        raise BadInput(place, value, "is no array of numbers")
    return out


def real(place: str, value: Any, /) -> np.ndarray:
    """An array of real and finite numbers."""
    out = array(place, value)
    if out.dtype.kind not in "biuf":
        raise BadInput(place, f"values of {out.dtype}", "must be real numbers")
    return _all(out, np.isfinite(out), place, "is not finite: remove such patterns, or repair the value")


def positive(place: str, value: Any, /) -> np.ndarray:
    """An array of real, finite numbers above zero."""
    out = real(place, value)
    return _all(out, out > 0, place, "must be above zero: remove shots without light")


def wave(value: Any, shapes: set[tuple[int, ...]], /) -> np.ndarray:
    """A probe as finite complex ``(mode, y, x)`` of one of some shapes."""
    out = array("scan.probe", value)
    if out.ndim not in (2, 3) or tuple(out.shape[-2:]) not in shapes or not out.size:
        wanted = " or ".join(f"(mode, {y}, {x})" for y, x in sorted(shapes))
        raise BadInput("scan.probe", out.shape, f"must have the shape {wanted}")
    _all(out, np.isfinite(out), "scan.probe", "is not finite: repair the value, or leave the probe out")
    return (out if out.dtype.kind == "c" else out + 0j).reshape(-1, *out.shape[-2:])


def _all(values: np.ndarray, good: np.ndarray, place: str, fix: str) -> np.ndarray:
    if not good.all():
        first = tuple(int(one) for one in np.argwhere(~good)[0])
        raise BadInput(f"{place}[{', '.join(map(str, first))}]", str(values[first]), fix)
    return values


def _number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, (bool, np.complexfloating))
