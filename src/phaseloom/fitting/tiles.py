"""The pixels of a large parameter shared among processes: each keeps a tile, with a halo around it.

The canvas is cut into *cores*, one for each process. A pattern belongs to the process in whose core the beam
was, and a process *holds* its core and all windows of its patterns. After a batch the gradients in the halos
are added to those of the cores that they belong to, each process moves its core, and halos are copied from
the cores of the neighbours. The sum is that of all patterns, so there are no seams, and steps are those of
one process.

Source:
    Wang et al. 2022, "Image gradient decomposition for parallel and memory-efficient ptychographic
    reconstruction", arXiv 2205.06327.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from phaseloom.errors import BadInput
from phaseloom.physics.patches import Box, merge_boxes

__all__ = ["Tile", "Tiling", "as_real", "find_tile", "put_in_tiles"]

HALO_MARGIN = 8
"""Pixels that a process holds around the windows of its patterns, for positions that move."""

MIN_HALO_MARGIN = 2
"""Pixels of it below which halos grow between two epochs; slopes of the object need one."""

Inside = tuple[slice, slice]


@dataclass(frozen=True, eq=False)
class Tiling:
    """Which process holds which pixels of a canvas, and which models which patterns.

    Boxes are ``(y0, y1, x0, x1)`` in pixels of the canvas.

    Attributes:
        shape: pixels of the canvas (y, x).
        window: pixels of the windows (y, x).
        cores: of each process; together they are the canvas, without overlap.
        held: of each process: its core and its halo.
        owners: ``(n,)`` the process of each pattern.
        rank: of this process.

    Example:
        >>> corner = np.array([[0, 0], [0, 20], [0, 40], [0, 60]])
        >>> tiling = Tiling.of(corner, (16, 16), (16, 100), count=2, rank=0)
        >>> tiling.owners.tolist(), tiling.cores[0], tiling.held[0]
        ([0, 0, 1, 1], (0, 16, 0, 38), (0, 16, 0, 44))
    """

    shape: tuple[int, int]
    window: tuple[int, int]
    cores: tuple[Box, ...]
    held: tuple[Box, ...]
    owners: Int[np.ndarray, " n"]
    rank: int

    @classmethod
    def of(
        cls,
        corner: Int[np.ndarray, "n 2"],
        window: tuple[int, int],
        shape: tuple[int, int],
        /,
        *,
        count: int,
        rank: int,
    ) -> "Tiling":
        """Cut a canvas so that all processes have as many patterns, across its longer side again and again.

        Args:
            corner: first pixel (y, x) of the window of each pattern.
            window: pixels (y, x).
            shape: of the canvas (y, x).
            count: number of processes.
            rank: of this one.

        Raises:
            BadInput: fewer patterns than processes, or a canvas that is too small to be cut.
        """
        if len(corner) < count:
            fix = f"are too few for the tiles of {count} processes: start fewer, or write tiles: false"
            raise BadInput("tiles", f"{len(corner)} patterns", fix)
        middle = corner + np.array(window) / 2
        parts = _cut((0, shape[0], 0, shape[1]), np.arange(len(corner)), middle, count)
        owners = np.zeros(len(corner), int)
        for owner, (_, members) in enumerate(parts):
            owners[members] = owner
        cores = tuple(core for core, _ in parts)
        return cls(shape, window, cores, cores, owners, rank)._holding(corner)

    @cached_property
    def box(self) -> Box:
        """What this process holds."""
        return self.held[self.rank]

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns that this process holds."""
        top, bottom, left, right = self.box
        return bottom - top, right - left

    @cached_property
    def core(self) -> Inside:
        """Rows and columns of the core of this process in what it holds."""
        return _inside(self.cores[self.rank], self.box)

    def bounds(self) -> tuple[Int[np.ndarray, "n 2"], Int[np.ndarray, "n 2"]]:
        """First and last corner that each pattern's window may have in what its process holds."""
        held = np.array(self.held)[self.owners]
        return held[:, ::2], held[:, 1::2] - np.array(self.window)

    def grown(self, corner: Int[np.ndarray, "n 2"], /) -> "Tiling | None":
        """The same cores with wider halos, if windows have moved close to the edge of what is held."""
        low, high = self.bounds()
        room = np.array(self.shape) - np.array(self.window)
        short = (corner - low < MIN_HALO_MARGIN) & (low > 0)
        short |= (high - corner < MIN_HALO_MARGIN) & (high < room)
        return self._holding(corner) if short.any() else None

    def clip(self, boxes: Iterable[Box], /) -> list[Box]:
        """The parts of boxes that this process holds, in its own pixels."""
        parts = [one for box in boxes if (one := _common(box, self.box)) is not None]
        return [_shift(one, self.box) for one in parts]

    def gather(self, part: Shaped[Tensor, "*any v u"], /) -> Shaped[Tensor, "*any y x"] | None:
        """The whole field in the memory of the main process; ``None`` in others."""
        whole: list[Tensor] = []

        def place(box: Box, core: Tensor) -> None:
            if not whole:
                whole.append(core.new_empty(*core.shape[:-2], *self.shape))
            whole[0][(..., *_as_slices(box))] = core

        self.collect(part, place)
        return whole[0] if whole else None

    @torch.no_grad()
    def collect(self, part: Shaped[Tensor, "*any v u"], place: Callable[[Box, Tensor], None], /) -> None:
        """Bring the cores of all processes one after the other to the main process.

        Args:
            part: of this process.
            place: is called there with the box of each core and its pixels, in the memory of the computer.
        """
        own = part[(..., *self.core)].contiguous()
        if self.rank:
            torch.distributed.send(as_real(own), 0)
            return
        for rank, box in enumerate(self.cores):
            core = own
            if rank:
                core = own.new_empty(*own.shape[:-2], box[1] - box[0], box[3] - box[2])
                torch.distributed.recv(as_real(core), rank)
            place(box, core.cpu())

    @torch.no_grad()
    def scatter(self, whole: Shaped[Tensor, "*any y x"] | None, into: Shaped[Tensor, "*any v u"], /) -> None:
        """Give each process what it holds of a field that the main process has.

        Args:
            whole: ``None`` in others.
            into: is overwritten.
        """
        if self.rank:
            part = torch.empty_like(into, memory_format=torch.contiguous_format)
            torch.distributed.recv(as_real(part), 0)
            into.copy_(part)
            return
        assert whole is not None
        for rank, box in enumerate(self.held):
            part = whole[(..., *_as_slices(box))].to(into).contiguous()
            if rank:
                torch.distributed.send(as_real(part), rank)
            else:
                into.copy_(part)

    @torch.no_grad()
    def add_halos(self, field: Tensor, boxes: Sequence[Box] | None = None, /) -> None:
        """Add what all processes have in the pixels of this one's core, in place; halos stay as they are.

        Args:
            field: ``(..., y, x)`` of this process.
            boxes: without overlap, outside of which all processes have zeros; ``None``: nowhere.
        """
        to = {rank: self._overlap(self.rank, rank, boxes) for rank in self._others}
        come = {rank: self._overlap(rank, self.rank, boxes) for rank in self._others}
        for rank, parts in self._exchange(field, to, come).items():
            for where, part in zip(come[rank], parts, strict=True):
                field[(..., *where)] += part

    @torch.no_grad()
    def copy_halos(self, field: Tensor, boxes: Sequence[Box] | None = None, /) -> None:
        """Copy the halo of this process from the cores of the others, in place.

        Args:
            field: ``(..., y, x)`` of this process.
            boxes: without overlap, outside of which nothing has changed; ``None``: nowhere.
        """
        to = {rank: self._overlap(rank, self.rank, boxes) for rank in self._others}
        come = {rank: self._overlap(self.rank, rank, boxes) for rank in self._others}
        for rank, parts in self._exchange(field, to, come).items():
            for where, part in zip(come[rank], parts, strict=True):
                field[(..., *where)] = part

    def moved(self, field: Tensor, old: "Tiling", /) -> Tensor:
        """A field that is held as an old tiling of the same cores says, held as this one does."""
        new = field.new_zeros(*field.shape[:-2], *self.size)
        new[(..., *self.core)] = field[(..., *old.core)]
        self.copy_halos(new)
        return new

    @property
    def _others(self) -> list[int]:
        return [rank for rank in range(len(self.cores)) if rank != self.rank]

    def _overlap(self, halo: int, core: int, boxes: Sequence[Box] | None) -> list[Inside]:
        """Where the halo of one process lies on the core of another, in pixels of this one."""
        common = _common(self.held[halo], self.cores[core])
        if common is None:
            return []
        found = [common] if boxes is None else [_common(common, box) for box in boxes]
        return [_inside(one, self.box) for one in found if one is not None]

    def _exchange(
        self, field: Tensor, to: dict[int, list[Inside]], come: dict[int, list[Inside]]
    ) -> dict[int, list[Tensor]]:
        """Parts of a field sent to other processes, and theirs, each pair in one message."""
        requests = []
        found: dict[int, Tensor] = {}
        lead = int(np.prod(field.shape[:-2]))
        for rank in self._others:
            if to[rank]:
                sent = torch.cat([field[(..., *where)].reshape(-1) for where in to[rank]])
                requests.append(torch.distributed.P2POp(torch.distributed.isend, as_real(sent), rank))
            if come[rank]:
                count = lead * sum(_area(where) for where in come[rank])
                found[rank] = field.new_empty(count)
                requests.append(torch.distributed.P2POp(torch.distributed.irecv, as_real(found[rank]), rank))
        if requests:
            for request in torch.distributed.batch_isend_irecv(requests):
                request.wait()
        out: dict[int, list[Tensor]] = {}
        for rank, flat in found.items():
            parts = flat.split([lead * _area(where) for where in come[rank]])
            shapes = [field[(..., *where)].shape for where in come[rank]]
            out[rank] = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
        return out

    def _holding(self, corner: Int[np.ndarray, "n 2"]) -> "Tiling":
        """The same cores, with halos that hold all windows and a margin."""
        held: list[Box] = []
        for rank, (top, bottom, left, right) in enumerate(self.cores):
            own = corner[self.owners == rank]
            low = np.maximum(own.min(0) - HALO_MARGIN, 0)
            high = np.minimum(own.max(0) + np.array(self.window) + HALO_MARGIN, self.shape)
            rows = (min(top, int(low[0])), max(bottom, int(high[0])))
            held.append((*rows, min(left, int(low[1])), max(right, int(high[1]))))
        return replace(self, held=tuple(held))


class Tile:
    """Of a parameter ``(..., y, x)`` whose pixels are shared among processes: what this one holds of it.

    It is an attribute ``process_tile`` of the parameter, see `find_tile`.

    Attributes:
        tiling: which pixels.
        changed: rectangles of the canvas without overlap, outside of which a batch leaves all pixels as they
            are; ``None``: it may change all.
    """

    def __init__(self, tiling: Tiling):
        self.tiling = tiling
        self.changed: list[Box] | None = None

    def mark_changed(self, boxes: Iterable[Box], /) -> list[Box]:
        """Remember where a batch touches the canvas; the rectangles of it that are held, in own pixels."""
        self.changed = merge_boxes(boxes, self.tiling.shape)
        return self.tiling.clip(self.changed)


def find_tile(parameter: Tensor, /) -> Tile | None:
    """The tile of a parameter that is shared among processes; ``None`` of any other."""
    return getattr(parameter, "process_tile", None)


def put_in_tiles(parameters: Iterable[Tensor], tiling: Tiling, /) -> None:
    """Have parameters, of which this process has what it holds, be known as shared among processes."""
    for parameter in parameters:
        parameter.process_tile = Tile(tiling)  # pyright: ignore[reportAttributeAccessIssue]


def _cut(box: Box, members: np.ndarray, middle: np.ndarray, count: int) -> list[tuple[Box, np.ndarray]]:
    """Halve patterns across their longer side, in proportion to processes, until each has a box."""
    if count == 1:
        return [(box, members)]
    axis = int(np.ptp(middle[members], axis=0).argmax())
    low, high = box[2 * axis], box[2 * axis + 1]
    if high - low < 2:
        fix = "is too small for so many tiles: start fewer processes, or write tiles: false"
        raise BadInput("tiles", f"a canvas of {box[1] - box[0]} x {box[3] - box[2]} pixels", fix)
    first = (count + 1) // 2
    share = min(max(len(members) * first // count, first), len(members) - (count - first))
    order = members[np.argsort(middle[members, axis], kind="stable")]
    border = middle[order[share - 1 : share + 1], axis].mean()
    cut = int(np.clip(round(border), low + 1, high - 1))
    one, two = list(box), list(box)
    one[2 * axis + 1] = two[2 * axis] = cut
    return [
        *_cut(cast("Box", tuple(one)), order[:share], middle, first),
        *_cut(cast("Box", tuple(two)), order[share:], middle, count - first),
    ]


def _common(one: Box, two: Box) -> Box | None:
    """What two boxes have in common."""
    top, bottom = max(one[0], two[0]), min(one[1], two[1])
    left, right = max(one[2], two[2]), min(one[3], two[3])
    return (top, bottom, left, right) if top < bottom and left < right else None


def _shift(box: Box, frame: Box) -> Box:
    return box[0] - frame[0], box[1] - frame[0], box[2] - frame[2], box[3] - frame[2]


def _as_slices(box: Box) -> Inside:
    return slice(box[0], box[1]), slice(box[2], box[3])


def _inside(box: Box, frame: Box) -> Inside:
    """A box as rows and columns of another one that holds it."""
    return _as_slices(_shift(box, frame))


def _area(where: Inside) -> int:
    return (where[0].stop - where[0].start) * (where[1].stop - where[1].start)


def as_real(tensor: Tensor, /) -> Tensor:
    """A view of a tensor, by real numbers where it is complex: not all that sends tensors takes these."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
