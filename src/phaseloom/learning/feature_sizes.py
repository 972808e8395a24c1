"""Sizes of patterns: which are taken, and which stand between a pattern and its latents."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from phaseloom.errors import BadInput, nearest

__all__ = ["BASE", "LEVELS", "Size", "checked", "chosen", "climb", "counted", "fixed", "ladder", "quarters"]
__all__ += ["resized", "sized"]

Size = tuple[int, int]
"""Pixels along y and x."""

BASE = 4
"""Pixels along an edge of the map that stands next to the latents, on either side."""

LEVELS = 3
"""Blocks of an encoder or decoder."""

SMALLEST, LARGEST = 16, 1024
"""Pixels along an edge of the patterns that are taken."""

Choice = TypeVar("Choice")


def resized(images: Float[Tensor, "b c y x"], size: Size, /) -> Float[Tensor, "b c v u"]:
    """Images of another size, by bilinear interpolation between centres of pixels."""
    if images.shape[-2:] == size:
        return images
    return functional.interpolate(images, size, mode="bilinear", align_corners=False)


def quarters(pixels: int, /) -> tuple[int, ...]:
    """Pixels after each block that divides them by four, the first design's way.

    Example:
        >>> quarters(64), quarters(256)
        ((16, 4, 1), (64, 16, 4))
    """
    return tuple(max(1, pixels // BASE**level) for level in range(1, LEVELS + 1))


def ladder(pixels: int, /) -> tuple[int, ...]:
    """Pixels after each block that divides them by one ratio, such that four are left.

    Example:
        >>> ladder(64), ladder(256)
        ((25, 10, 4), (64, 16, 4))
    """
    return tuple(round(pixels * (BASE / pixels) ** (level / LEVELS)) for level in range(1, LEVELS + 1))


def fixed(pixels: int, /) -> tuple[int, ...]:
    """Pixels after each block that multiplies four by four, whatever is wanted in the end.

    Example:
        >>> fixed(64)
        (16, 64, 256)
    """
    return tuple(BASE ** (level + 1) for level in range(1, LEVELS + 1))


def chosen(knob: str, name: str, choices: Mapping[str, Choice], /) -> Choice:
    """What a name stands for.

    Raises:
        BadInput: another name.
    """
    if name not in choices:
        raise BadInput(f"nets: {knob}", name, f"is no choice: {nearest(name, choices)}")
    return choices[name]


def climb(pixels: int, /) -> tuple[int, ...]:
    """The `ladder` from its lower end: four pixels grow by one ratio to what is wanted.

    Example:
        >>> climb(64), climb(256)
        ((10, 25, 64), (16, 64, 256))
    """
    return (*ladder(pixels)[-2::-1], pixels)


def checked(x: Tensor, net: nn.Module, /) -> Tensor:
    """Patterns that a network can take.

    Raises:
        BadInput: another shape, type or size.
    """
    if x.ndim != 4 or x.shape[1] != 1 or not len(x):
        raise BadInput(
            "patterns", tuple(x.shape), "is no shape (b, 1, y, x): stack patterns with one channel"
        )
    sized(x.shape[-2:])
    wanted = next(net.parameters()).dtype
    mixed = x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)
    if x.dtype != wanted and not (mixed and x.dtype in (torch.float32, torch.bfloat16, torch.float16)):
        raise BadInput("patterns", str(x.dtype), f"is not the network's type: give {wanted}")
    return x


def sized(size: Sequence[int], /) -> Size:
    """Pixels along y and x of a pattern that can be taken.

    Raises:
        BadInput: other than two whole numbers, or beyond the limits.
    """
    given = tuple(size) if isinstance(size, Sequence) else (size,)
    good = [n for n in given if isinstance(n, int) and SMALLEST <= n <= LARGEST]
    if len(good) != 2 or len(given) != 2:
        fix = f"are not {SMALLEST} to {LARGEST} pixels along y and x: crop, bin or pad the patterns"
        raise BadInput("patterns: size", given, fix)
    return good[0], good[1]


def counted(knob: str, value: int, /, *, multiple: int = 1) -> int:
    """A number of things, at least one, that come in groups.

    Raises:
        BadInput: none, part of one, or part of a group.
    """
    if not isinstance(value, int) or value < 1 or value % multiple:
        raise BadInput(f"nets: {knob}", value, f"must be a whole number above zero, a multiple of {multiple}")
    return value
