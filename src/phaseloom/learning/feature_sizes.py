"""Sizes of patterns: which are taken, and which stand between a pattern and its latents."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from phaseloom.errors import BadInput, nearest

__all__ = ["BASE_PIXELS", "LEVEL_COUNT", "Size", "check_count", "check_patterns", "choose_option"]
__all__ += ["check_size", "divide_by_four", "divide_evenly", "multiply_by_four", "multiply_evenly"]
__all__ += ["resize_images"]

Size = tuple[int, int]
"""Pixels along y and x."""

BASE_PIXELS = 4  # pixels along an edge of the map that stands next to the latents, on either side
LEVEL_COUNT = 3  # blocks of an encoder or decoder

MIN_PATTERN_PIXELS, MAX_PATTERN_PIXELS = 16, 1024
"""Pixels along an edge of the patterns that are taken."""

Option = TypeVar("Option")


def resize_images(images: Float[Tensor, "b c y x"], size: Size, /) -> Float[Tensor, "b c v u"]:
    """Images of another size, by bilinear interpolation between centres of pixels."""
    if images.shape[-2:] == size:
        return images
    return functional.interpolate(images, size, mode="bilinear", align_corners=False)


def divide_by_four(pixels: int, /) -> tuple[int, ...]:
    """Pixels after each block that divides them by four, the first design's way.

    Example:
        >>> divide_by_four(64), divide_by_four(256)
        ((16, 4, 1), (64, 16, 4))
    """
    return tuple(max(1, pixels // BASE_PIXELS**level) for level in range(1, LEVEL_COUNT + 1))


def divide_evenly(pixels: int, /) -> tuple[int, ...]:
    """Pixels after each block that divides them by one ratio, such that four are left.

    Example:
        >>> divide_evenly(64), divide_evenly(256)
        ((25, 10, 4), (64, 16, 4))
    """
    return tuple(
        round(pixels * (BASE_PIXELS / pixels) ** (level / LEVEL_COUNT)) for level in range(1, LEVEL_COUNT + 1)
    )


def multiply_by_four(pixels: int, /) -> tuple[int, ...]:
    """Pixels after each block that multiplies four by four, whatever is wanted in the end.

    Example:
        >>> multiply_by_four(64)
        (16, 64, 256)
    """
    return tuple(BASE_PIXELS ** (level + 1) for level in range(1, LEVEL_COUNT + 1))


def choose_option(knob: str, name: str, choices: Mapping[str, Option], /) -> Option:
    """What a name stands for.

    Raises:
        BadInput: another name.
    """
    if name not in choices:
        raise BadInput(f"nets: {knob}", name, f"is no choice: {nearest(name, choices)}")
    return choices[name]


def multiply_evenly(pixels: int, /) -> tuple[int, ...]:
    """The `divide_evenly` from its lower end: four pixels grow by one ratio to what is wanted.

    Example:
        >>> multiply_evenly(64), multiply_evenly(256)
        ((10, 25, 64), (16, 64, 256))
    """
    return (*divide_evenly(pixels)[-2::-1], pixels)


def check_patterns(x: Tensor, net: nn.Module, /) -> Tensor:
    """Patterns that a network can take.

    Raises:
        BadInput: another shape, type or size.
    """
    if x.ndim != 4 or x.shape[1] != 1 or not len(x):
        raise BadInput(
            "patterns", tuple(x.shape), "is no shape (b, 1, y, x): stack patterns with one channel"
        )
    check_size(x.shape[-2:])
    wanted = next(net.parameters()).dtype
    mixed = x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)
    if x.dtype != wanted and not (mixed and x.dtype in (torch.float32, torch.bfloat16, torch.float16)):
        raise BadInput("patterns", str(x.dtype), f"is not the network's type: give {wanted}")
    return x


def check_size(size: Sequence[int], /) -> Size:
    """Pixels along y and x of a pattern that can be taken.

    Raises:
        BadInput: other than two whole numbers, or beyond the limits.
    """
    given = tuple(size) if isinstance(size, Sequence) else (size,)
    good = [n for n in given if isinstance(n, int) and MIN_PATTERN_PIXELS <= n <= MAX_PATTERN_PIXELS]
    if len(good) != 2 or len(given) != 2:
        limits = f"{MIN_PATTERN_PIXELS} to {MAX_PATTERN_PIXELS}"
        fix = f"are not {limits} pixels along y and x: crop, bin or pad the patterns"
        raise BadInput("patterns: size", given, fix)
    return good[0], good[1]


def check_count(knob: str, value: int, /, *, multiple: int = 1) -> int:
    """A number of things, at least one, that come in groups.

    Raises:
        BadInput: none, part of one, or part of a group.
    """
    if not isinstance(value, int) or value < 1 or value % multiple:
        raise BadInput(f"nets: {knob}", value, f"must be a whole number above zero, a multiple of {multiple}")
    return value


# old names, until callers are renamed
chosen = choose_option
counted = check_count
