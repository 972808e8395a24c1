"""A scan of a file of a known kind: its patterns as one lazy stack, and what it states."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from phaseloom.data.counts import HDF5Source
from phaseloom.data.formats.files import describe_link, require_filters, require_one_stack
from phaseloom.data.formats.header import Header, MissingValues
from phaseloom.data.formats.kinds.kind import Kind, Layout, build_header, has_mark, list_stacks
from phaseloom.data.formats.kinds.sources import FrameSource, JoinedSource, SquaredSource
from phaseloom.data.formats.kinds.tree import Tree
from phaseloom.data.formats.quantities.near_field import FOCUS_HELP
from phaseloom.data.formats.setup import Setup, build_scan
from phaseloom.data.growing.unfinished import get_unfinished
from phaseloom.data.remarks import warn
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput

__all__ = ["read_kind"]

log = logging.getLogger(__name__)


def read_kind(
    path: Path,
    tree: Tree,
    kind: Kind,
    setup: Setup,
    /,
    *,
    dataset: str | None = None,
    read_member: Callable[[str], np.ndarray] | None = None,
) -> Scan4D:
    """A scan of the patterns of a kind of file and of what the file states; the setup wins over it.

    An interrupted scan, with linked files that are not there or with fewer patterns than its raster, is cut
    to what there is, with a warning.

    Args:
        path: the file.
        tree: the same, open.
        kind: see `Kind`.
        setup: of the user.
        dataset: path of the patterns, where there are several.
        read_member: reads an array of the file by its path.

    Raises:
        MissingValues: what neither file nor user states.
        BadInput: no patterns, or what does not fit.
    """
    key, source = _open_patterns(path, tree, kind, dataset)
    asked = dict(setup)
    header, order = build_header(kind, tree, Layout(key, tuple(source.shape), setup.get("energy")))
    arranged = [name for name in ("selection", "permute", "reshape") if setup.get(name) is not None]
    if not {"permute", "reshape"} & set(arranged) and order is not None and len(order) == len(source.shape):
        setup["permute"] = order
    if kind.near and setup.get("focus") is None and has_mark(tree, kind.near):
        missing = {"focus": f"near fields, by a mark in the file: {FOCUS_HELP}"}
        raise MissingValues(path, missing, header.to_setup(), frozenset(header.to_setup()))
    gaps = _find_gaps(tree, kind, source)
    if gaps is not None:
        header = replace(header, mask=~gaps if header.mask is None else header.mask & ~gaps)
    planned: dict[str, Any] = {name: asked.get(name) for name in ("selection", "permute")}
    if not arranged and len(source.shape) == 3:
        grid = asked.get("grid") or header.grid
        header = _cut_to_frames(path.name, setup, header, source.shape[(order or (0, 1, 2))[0]])
        if setup.get("grid") or header.grid:
            planned["grid"] = grid
    header = replace(header, metadata={"kind of file": kind.title, **header.metadata})
    if kind.amplitudes:
        source = SquaredSource(source)
    return build_scan(path, source, setup, key=key, read_member=read_member, header=header, planned=planned)


def _open_patterns(path: Path, tree: Tree, kind: Kind, dataset: str | None) -> tuple[str, Any]:
    """The path of the (first) array of patterns, and all of them as one source."""
    broken: list[str] = []
    if dataset is not None:
        return dataset, _open_array(path, tree, dataset)
    stacks = list_stacks(kind, tree, broken)
    if kind.stack == "joined" and broken:
        stacks = _until_gap(tree, kind, stacks, broken)
    if not stacks:
        fix = (
            f"has no patterns where {kind.title} keeps them, in {' or '.join(kind.data)}: name their dataset"
        )
        raise BadInput(tree.name, None, f"{fix}, or write kind: none")
    if kind.stack == "frames":
        return stacks[0], _open_frames(path, tree, require_one_stack(stacks, tree.name, "dataset"))
    if kind.stack == "joined":
        return stacks[0], _join(path, tree, stacks)
    key = require_one_stack(stacks, tree.name, "dataset")
    return key, _open_array(path, tree, key)


def _open_array(path: Path, tree: Tree, key: str) -> Any:
    member = tree.member(key)
    if not isinstance(member, h5py.Dataset):
        if member is None or not hasattr(member, "dtype"):
            raise BadInput(f"{tree.name}: {key}", None, "is not an array of the file: name another dataset")
        return member
    require_filters(member, tree.name)
    return HDF5Source.of(path, key)


def _join(path: Path, tree: Tree, stacks: list[str]) -> Any:
    parts = [_open_array(path, tree, key) for key in stacks]
    for key, part in zip(stacks, parts, strict=True):
        if part.shape[1:] != parts[0].shape[1:]:
            fix = f"but the patterns before are {parts[0].shape[1:]}: name one dataset"
            raise BadInput(f"{tree.name}: {key}", f"has patterns of {part.shape[1:]}", fix)
    parts = [part for part in parts if part.shape[0]]
    if not parts:
        raise BadInput(f"{tree.name}: {stacks[0]}", None, "holds no pattern: copy the file again")
    return parts[0] if len(parts) == 1 else JoinedSource(tuple(parts))


def _until_gap(tree: Tree, kind: Kind, stacks: list[str], broken: list[str]) -> list[str]:
    """The arrays before the first that is not there, as numbers of later patterns are not known."""
    first = broken[0]
    ordered = tree.in_order([*stacks, *broken])
    before = ordered[: ordered.index(first)]
    target = describe_link(tree.root, first)
    if not before:
        fix = f"links to {target}, which is not there or damaged: copy it beside this file"
        raise BadInput(f"{tree.name}: {first}", None, fix)
    text = "%s: %s links to %s, which is not there or damaged: %d of %d parts are used (interrupted scan?)"
    warn(log, text, tree.name, first, target, len(before), len(ordered))
    return before


def _open_frames(path: Path, tree: Tree, key: str) -> FrameSource:
    """All patterns of a group that has one member for each, named by its number."""
    group, _, name = key.rsplit("/", 2)
    frames = tree.member(group)
    numbers = sorted(int(one) for one in frames if one.isdigit())
    count = next((at for at, one in enumerate(numbers) if at != one), len(numbers))
    if count < len(numbers):
        warn(log, "%s: pattern %d is missing: only those before it are used", tree.name, count)
    first = tree.member(key)
    return FrameSource(path, f"{group}/{{}}/{name}", (count, *first.shape), first.dtype)


def _find_gaps(tree: Tree, kind: Kind, source: Any) -> np.ndarray | None:
    """Pixels that hold the largest number of the detector's bits in three patterns of the scan.

    Where the bits fill the type of the data, `phaseloom.data.formats.arrays.clean_counts` finds them.
    """
    bits = tree.number("count", *kind.depth) if kind.depth else None
    if bits is None or source.dtype.kind not in "iu" or not 2 <= bits < 8 * source.dtype.itemsize:
        return None
    last = source.shape[0] - 1
    frames = [
        np.asarray(source[(slice(n, n + 1), *(slice(None),) * (len(source.shape) - 1))])
        for n in {0, last // 2, last}
    ]
    marked = np.logical_and.reduce([frame == (1 << int(bits)) - 1 for frame in frames])
    gaps = marked.reshape(-1, *marked.shape[-2:]).all(0)
    if gaps.any():
        warn(log, "%s: %d pixels hold no value (2^%d - 1) and were masked", tree.name, gaps.sum(), bits)
    return gaps if gaps.any() else None


def _cut_to_frames(name: str, setup: Setup, header: Header, count: int) -> Header:
    """Whole rows of a raster, or positions, that have patterns; fewer than planned are warned of."""
    header = _cut_weights(header, count)
    if header.grid is not None and setup.get("grid") is None and np.prod(header.grid) < count:
        warn(log, "%s: states a raster of %dx%d, but holds %d patterns", name, *header.grid, count)
        header = replace(header, grid=None)
    if setup.get("positions") is not None or get_unfinished() is not None:
        return header
    if header.positions is not None and setup.get("step") is None:
        if len(header.positions) > count:
            text = "%s: holds %d patterns of %d positions: the first ones are used (interrupted scan?)"
            warn(log, text, name, count, len(header.positions))
        return replace(header, positions=header.positions[:count])
    grid = setup.get("grid") or header.grid
    if grid is None or min(grid) < 1 or count >= grid[0] * grid[1]:
        return header
    return replace(header, grid=_cut_rows(name, setup, (grid[0], grid[1]), count))


def _cut_weights(header: Header, count: int) -> Header:
    if header.weights is None or len(header.weights) == count:
        return header
    return replace(header, weights=header.weights[:count] if len(header.weights) > count else None)


def _cut_rows(name: str, setup: Setup, grid: tuple[int, int], count: int) -> tuple[int, int]:
    """The raster of the whole rows that there are, to which the selection of the setup is cut."""
    rows = count // grid[1]
    if rows == 0:
        fix = f"needs rows of {grid[1]} patterns, but the file holds {count}: give another grid"
        raise BadInput(f"{name}: grid", f"{grid[0]}x{grid[1]}", fix)
    text = "%s: holds %d patterns, less than the raster %dx%d: %d whole rows are used (interrupted scan?)"
    warn(log, text, name, count, *grid, rows)
    first = (setup.get("permute") or (0, 1, 2))[0]
    setup["selection"] = ", ".join(f"0:{rows * grid[1]}" if axis == first else ":" for axis in range(3))
    if setup.get("grid") is not None:
        setup["grid"] = (rows, grid[1])
    return rows, grid[1]
