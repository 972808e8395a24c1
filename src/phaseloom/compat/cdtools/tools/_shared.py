"""What the rooms share: names that are missing, tensors and arrays, axes of a grid."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phaseloom.errors import BadInput, nearest
from phaseloom.plot.gui import to_numpy

__all__ = ["alike", "middle", "missing", "steps_of", "tensor", "to_numpy", "window_of"]


def missing(
    room: str, known: Sequence[str], elsewhere: Mapping[str, str] | None = None
) -> Callable[[str], Any]:
    """The ``__getattr__`` of a room: names that are not available, and the nearest of those that are.

    Example:
        >>> missing("analysis", ["calc_frc"])("calc_fcr")
        Traceback (most recent call last):
        AttributeError: CDTools.tools.analysis.calc_fcr: did you mean 'calc_frc'?
    """

    def absent(name: str) -> Any:
        if elsewhere and name in elsewhere:
            raise BadInput(f"CDTools.tools.{room}.{name}", None, f"is not available: {elsewhere[name]}")
        raise AttributeError(f"CDTools.tools.{room}.{name}: {nearest(name, known)}")

    return absent


def tensor(values: Any) -> Tensor:
    """A tensor of anything; its gradient and device stay."""
    return values if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))


def alike(values: Any, *given: Any) -> Any:
    """Values as an array if one of those given is one, else as a tensor, on the device of the first.

    Example:
        >>> type(alike(np.ones(2), torch.ones(2))).__name__, type(alike(torch.ones(2), np.ones(2))).__name__
        ('Tensor', 'ndarray')
    """
    if any(isinstance(one, np.ndarray) for one in given):
        return to_numpy(values)
    device = next((one.device for one in given if isinstance(one, Tensor)), None)
    return torch.as_tensor(values, device=device)


def middle(shape: Sequence[int]) -> tuple[slice, slice]:
    """The middle quarter of an image on each axis, in eighths: where CDTools trusts an object.

    Example:
        >>> middle((80, 40))
        (slice(30, 50, None), slice(15, 25, None))
    """
    rows, columns = (slice(3 * (size // 8), 5 * (size // 8)) for size in shape[:2])
    return rows, columns


def steps_of(basis: Any) -> tuple[float, float]:
    """Length of the step between rows and between columns of a basis ``(xyz, 2)``: of its first two columns.

    Raises:
        BadInput: an array without two columns.
    """
    steps = to_numpy(basis)
    if steps.ndim != 2 or steps.shape[1] < 2:
        raise BadInput("basis", steps.shape, "must be (3, 2): the steps of rows and columns, metres")
    y, x = (float(length) for length in np.linalg.norm(steps[:, :2], axis=0))
    return y, x


def window_of(values: Any) -> tuple[int, int]:
    """Shape (y, x) of the last two axes, or of what already is a shape."""
    shape = values.shape if hasattr(values, "shape") and len(values.shape) > 1 else values
    y, x = (int(size) for size in tuple(shape)[-2:])
    return y, x
