"""Windows of an object: cut out and put back, an adjoint pair that autograd knows as such.

Gradients may stay where they belong. A leaf that has a list named ``touched`` gets its gradient added in
place to its dense ``grad``, and the boxes ``(y0, y1, x0, x1)`` that may have changed are appended to that
list; autograd gets ``None``. Work for a batch then does not grow with the canvas. A leaf without
such a list gets an ordinary dense gradient.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

__all__ = ["Box", "bounding_boxes", "clear_boxes", "flat_index", "gather", "gradient_target"]
__all__ += ["group_windows", "merge_boxes", "scatter"]

Box = tuple[int, int, int, int]
"""First row, row after the last, first column, column after the last."""

TILE_SIZE = 16
"""Pixels of the tiles in which overlapping boxes are put together."""


class _Gather(torch.autograd.Function):
    """Cut windows; its derivative puts them back."""

    @staticmethod
    def forward(field: Tensor, corner: Tensor, shape: tuple[int, int]) -> Tensor:
        """Copy window by window: on a CPU quicker than an index of every pixel."""
        height, width = shape
        if corner.device.type != "cpu":
            return _gather_by_index(field, corner, shape)
        places = corner.tolist()
        return torch.stack([field[..., y : y + height, x : x + width] for y, x in places])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, tuple[int, int]], output: Tensor) -> None:
        """Apart from ``forward``, as `torch.func` wants it."""
        field, corner, _ = inputs
        ctx.save_for_backward(corner)
        ctx.shape = (field.shape[-2], field.shape[-1])
        ctx.leaf = field if hasattr(field, "touched") else None

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None]:
        """The adjoint."""
        corner = ctx.saved_tensors[0]
        window = (grads[0].shape[-2], grads[0].shape[-1])
        if ctx.leaf is None:
            return scatter(grads[0], corner, ctx.shape), None, None
        into, _ = gradient_target(ctx.leaf, lambda: bounding_boxes(corner, window, ctx.shape))
        _add_windows(into, grads[0].detach(), corner)
        return None, None, None


class _Scatter(torch.autograd.Function):
    """Add windows into a field; its derivative cuts them out."""

    @staticmethod
    def forward(windows: Tensor, corner: Tensor, shape: tuple[int, int]) -> Tensor:
        """Add window by window, in order, so that the sum is the same every time."""
        field = windows.new_zeros(*windows.shape[1:-2], *shape)
        _add_windows(field, windows, corner)
        return field

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, tuple[int, int]], output: Tensor) -> None:
        """Apart from ``forward``, as `torch.func` wants it."""
        windows, corner, _ = inputs
        ctx.save_for_backward(corner)
        ctx.window = (windows.shape[-2], windows.shape[-1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """The adjoint."""
        return gather(grads[0], ctx.saved_tensors[0], ctx.window), None, None


def gather(
    field: Shaped[Tensor, "*slice y x"], corner: Int[Tensor, "b 2"], shape: tuple[int, int], /
) -> Shaped[Tensor, "b *slice v u"]:
    """Windows of a ``shape`` with top-left pixels ``corner`` (y, x); all must lie inside the field.

    Example:
        >>> field = torch.arange(16.0).reshape(1, 4, 4)
        >>> gather(field, torch.tensor([[1, 2]]), (2, 2))[0, 0].tolist()
        [[6.0, 7.0], [10.0, 11.0]]
    """
    return (_Gather.apply if torch.is_grad_enabled() else _Gather.forward)(field, corner, shape)


def scatter(
    windows: Shaped[Tensor, "b *slice v u"], corner: Int[Tensor, "b 2"], shape: tuple[int, int], /
) -> Shaped[Tensor, "*slice y x"]:
    """Adjoint of `gather`: a field of ``shape`` into which the windows are added."""
    return (_Scatter.apply if torch.is_grad_enabled() else _Scatter.forward)(windows, corner, shape)


def gradient_target(leaf: Tensor, boxes: Callable[[], Sequence[Box]], /) -> tuple[Tensor, bool]:
    """Where to add the gradient of a leaf, and whether that is its own ``grad``.

    A leaf with a list ``touched`` has the boxes appended to it; any other gets zeros that the caller
    returns to autograd.
    """
    touched = getattr(leaf, "touched", None)
    if touched is None:
        return torch.zeros_like(leaf, memory_format=torch.contiguous_format), False
    if leaf.grad is None:
        leaf.grad = torch.zeros_like(leaf)
    touched.extend(boxes())
    return leaf.grad, True


def bounding_boxes(
    corner: Int[Tensor, "b 2"], window: tuple[int, int], shape: tuple[int, int], /
) -> list[Box]:
    """Boxes that hold all windows of a field: its whole, where reading corners would make a device wait.

    Unless it is so large that this is quicker.
    """
    if corner.device.type != "cpu" and shape[0] * shape[1] <= 64 * len(corner) * window[0] * window[1]:
        return [(0, shape[0], 0, shape[1])]
    return group_windows(corner.cpu().numpy(), window)[0]


def group_windows(places: np.ndarray, window: tuple[int, int], /) -> tuple[list[Box], list[int]]:
    """Boxes that hold all windows with little room between them, and the box of each window.

    One box serves unless it is larger than the windows together. Otherwise windows in the same cell of
    a coarse grid share a box, if that pays; a lone window is its own.

    Example:
        >>> group_windows(np.array([[0, 0], [1, 2], [50, 50]]), (8, 8))
        ([(0, 9, 0, 10), (50, 58, 50, 58)], [0, 0, 1])
    """
    height, width = window
    whole = _bounding_box(places, window)
    if _area(whole) <= len(places) * height * width:
        return [whole], [0] * len(places)
    cells: dict[tuple[int, int], list[int]] = {}
    for number, (y, x) in enumerate(places.tolist()):
        cells.setdefault((y // (2 * height), x // (2 * width)), []).append(number)
    boxes: list[Box] = []
    member = [0] * len(places)
    for numbers in cells.values():
        box = _bounding_box(places[numbers], window)
        together = _area(box) <= len(numbers) * height * width
        for number in numbers:
            if not together or number == numbers[0]:
                boxes.append(box if together else _bounding_box(places[[number]], window))
            member[number] = len(boxes) - 1
    return boxes, member


def merge_boxes(boxes: Iterable[Box], shape: tuple[int, int], /) -> list[Box]:
    """Few rectangles without overlap that cover the union of boxes, clipped to a field of ``shape``.

    Boxes that meet are replaced by the rectangle around them until none meet, so a lone box stays as it
    is. Where that would waste too much, the union is covered in tiles, whose edges reach beyond it by less
    than a tile.

    Example:
        >>> merge_boxes([(0, 8, 0, 8), (0, 8, 4, 12), (30, 38, 2, 10)], (40, 12))
        [(0, 8, 0, 12), (30, 38, 2, 10)]
    """
    rows, columns = shape
    clipped = {(max(a, 0), min(b, rows), max(c, 0), min(d, columns)) for a, b, c, d in boxes}
    kept = sorted(box for box in clipped if box[0] < box[1] and box[2] < box[3])
    if len(kept) < 2:
        return kept
    many = np.array(kept)
    few = _merge_touching(many)
    if len(few) == len(many):
        return kept
    tiles = np.zeros((-(-rows // TILE_SIZE), -(-columns // TILE_SIZE)), bool)
    for top, bottom, left, right in kept:
        tiles[top // TILE_SIZE : -(-bottom // TILE_SIZE), left // TILE_SIZE : -(-right // TILE_SIZE)] = True
    areas = (few[:, 1] - few[:, 0]) * (few[:, 3] - few[:, 2])
    if areas.sum() <= 1.5 * TILE_SIZE**2 * tiles.sum():
        return [(top, bottom, left, right) for top, bottom, left, right in few.tolist()]
    return _cover_tiles(tiles, shape)


def clear_boxes(field: Tensor, boxes: Iterable[Box], /) -> None:
    """Set the pixels of boxes to zero, in place and in all slices."""
    with torch.no_grad():
        for top, bottom, left, right in boxes:
            field[..., top:bottom, left:right].zero_()


def _add_windows(field: Tensor, windows: Tensor, corner: Tensor) -> None:
    height, width = windows.shape[-2:]
    if corner.device.type != "cpu":
        places = flat_index(corner, (height, width), field.shape[-1])
        stacked = windows.resolve_conj().movedim(0, -3).flatten(-3)
        field.view(*field.shape[:-2], -1).index_add_(-1, places, stacked)
        return
    for window, (y, x) in zip(windows, corner.tolist(), strict=True):
        field[..., y : y + height, x : x + width] += window


def _gather_by_index(field: Tensor, corner: Tensor, window: tuple[int, int]) -> Tensor:
    cut = field.flatten(-2).index_select(-1, flat_index(corner, window, field.shape[-1]))
    return cut.view(*field.shape[:-2], len(corner), *window).movedim(-3, 0).contiguous()


def flat_index(corner: Int[Tensor, "b 2"], window: tuple[int, int], width: int, /) -> Int[Tensor, " all"]:
    """Numbers of the pixels of all windows in a field whose rows have a ``width``.

    Example:
        >>> flat_index(torch.tensor([[1, 2]]), (2, 2), 10).tolist()
        [12, 13, 22, 23]
    """
    y, x = (torch.arange(n, device=corner.device) for n in window)
    rows = corner[:, :1] + y
    columns = corner[:, 1:] + x
    return (rows[:, :, None] * width + columns[:, None, :]).flatten()


def _bounding_box(places: np.ndarray, window: tuple[int, int]) -> Box:
    (top, left) = places.min(0).tolist()
    (bottom, right) = places.max(0).tolist()
    return top, bottom + window[0], left, right + window[1]


def _area(box: Box) -> int:
    return (box[1] - box[0]) * (box[3] - box[2])


def _merge_touching(boxes: np.ndarray) -> np.ndarray:
    """Rectangles around the boxes that meet, again and again until none meet."""
    while True:
        top, bottom, left, right = boxes.T
        above = top[:, None] < bottom
        before = left[:, None] < right
        meet = above & above.T & before & before.T
        label = np.arange(len(boxes))
        last = None
        while last is None or (label != last).any():
            last = label
            label = np.where(meet, label, len(boxes)).min(1)
        first, which = np.unique(label, return_inverse=True)
        if len(first) == len(boxes):
            return boxes
        around = np.empty((len(first), 4), boxes.dtype)
        around[:, ::2] = np.iinfo(boxes.dtype).max
        around[:, 1::2] = -1
        np.minimum.at(around[:, ::2], which, boxes[:, ::2])
        np.maximum.at(around[:, 1::2], which, boxes[:, 1::2])
        boxes = around


def _cover_tiles(tiles: np.ndarray, shape: tuple[int, int]) -> list[Box]:
    """Marked tiles as rectangles: runs along a row, and down as far as the same run goes on."""
    found: list[Box] = []
    open_: dict[tuple[int, int], int] = {}
    for row in range(len(tiles) + 1):
        edges = np.flatnonzero(np.diff(tiles[row], prepend=False, append=False)) if row < len(tiles) else []
        here = {(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)}
        for run in [run for run in open_ if run not in here]:
            box = (open_.pop(run) * TILE_SIZE, row * TILE_SIZE, run[0] * TILE_SIZE, run[1] * TILE_SIZE)
            found.append((box[0], min(box[1], shape[0]), box[2], min(box[3], shape[1])))
        for run in sorted(here):
            open_.setdefault(run, row)
    return found
