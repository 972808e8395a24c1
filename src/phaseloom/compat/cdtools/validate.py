"""What CDTools' users may get wrong in a call, said in one sentence."""

import inspect
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from phaseloom.compat.cdtools.data import CDataset
from phaseloom.errors import BadInput, nearest

__all__ = ["asked", "data_of", "number", "path_of", "whole", "writing"]

TINY = 1e-29
"""What is less stands for zero, which is no value of its own."""

Call = TypeVar("Call", bound=Callable[..., Any])


def asked(call: Call) -> Call:
    """A function that names the argument when it is called with others than it has.

    Example:
        >>> @asked
        ... def focus(cls, *, n_modes=1):
        ...     return n_modes
        >>> focus(None, n_mode=2)
        Traceback (most recent call last):
        phaseloom.errors.BadInput: focus: n_mode is no argument: did you mean 'n_modes'?
    """
    signature, place = inspect.signature(call), call.__qualname__.removesuffix(".__init__")
    placed = [
        one for one in signature.parameters.values() if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    known = [one.name for one in placed if one.name not in ("self", "cls")]

    @wraps(call)
    def checked(*args: Any, **kwargs: Any) -> Any:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            for name in kwargs:
                if name not in known:
                    raise BadInput(place, name, f"is no argument: {nearest(name, known)}") from None
            fix = f"{error}: the arguments are {', '.join(known)}"
            raise BadInput(place, None, fix) from None
        return call(*args, **kwargs)

    return checked  # type: ignore[return-value]


def number(place: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    """A finite number from ``low`` up to and including ``high``.

    Example:
        >>> number("Adam_optimize: lr", "fast", 0)
        Traceback (most recent call last):
        phaseloom.errors.BadInput: Adam_optimize: lr: fast must be a finite number from 0 up
    """
    plain = value.item() if isinstance(value, Tensor | np.ndarray) and value.ndim == 0 else value
    fine = isinstance(plain, int | float | np.integer | np.floating) and not isinstance(plain, bool)
    if not (fine and math.isfinite(plain) and low <= plain <= high):
        ends = f" from {low:g} up" if high == math.inf else f" from {low:g} to {high:g}"
        ends = "" if low == -math.inf else " above zero" if 0 < low < TINY else ends
        raise BadInput(place, value, f"must be a finite number{ends}")
    return float(plain)


def whole(name: str, value: Any, low: float = 1, place: str = "optimize") -> int:
    """A whole number from ``low`` up."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < low:
        ends = "" if low == -math.inf else f" from {low} up"
        raise BadInput(f"{place}: {name}", value, f"must be a whole number{ends}")
    return int(value)


def data_of(place: str, dataset: Any) -> CDataset:
    """The dataset of a call."""
    if not isinstance(dataset, CDataset):
        fix = "is no dataset: give one of CDTools.datasets of phaseloom.compat, in its place"
        raise BadInput(f"{place}: dataset", dataset, fix)
    return dataset


def path_of(place: str, name: Any) -> Path:
    """The path of a file."""
    if not isinstance(name, str | os.PathLike):
        raise BadInput(place, type(name).__name__, "is no name of a file: give that first")
    path = Path(name)
    if path.is_dir():
        raise BadInput(place, str(path), "is a folder: name a file in it")
    return path


@contextmanager
def writing(place: str, path: Any) -> Iterator[None]:
    """Say where nothing could be written.

    Raises:
        BadInput: the system, or the figure's library, refuses.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(place, str(path), f"cannot be written: {error}") from error
