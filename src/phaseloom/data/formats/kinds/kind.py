"""A kind of file: where it keeps what, as a value; and how that becomes a `Header`."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from phaseloom.data.formats.files import decode_text
from phaseloom.data.formats.header import Header
from phaseloom.data.formats.kinds.axes import AxisValues, describe_axes, order_axes, read_axes
from phaseloom.data.formats.kinds.tree import NOT_DATA, Tree, is_array
from phaseloom.data.formats.quantities.unit_names import (
    ANGLES,
    INVERSE_LENGTHS,
    QUANTITIES,
    normalise,
    scale_of,
)
from phaseloom.data.remarks import warn
from phaseloom.data.scan import wavelength_of
from phaseloom.errors import BadInput

__all__ = ["Kind", "Layout", "build_header", "find_kind", "list_stacks"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How the files of a program or an instrument are laid out; a new one is one such value.

    Values are texts as `phaseloom.data.formats.kinds.tree.Reference` reads them, the likeliest first.

    Attributes:
        name: for ``kind: name`` and for messages.
        title: program, instrument or facility.
        marks: what a file of this kind has, all of it; alternatives are separated by ``|``, and
            ``path~text`` asks for a value that holds the text (a regular expression).
        data: paths of the patterns.
        stack: ``one`` array; ``joined``: all that match, one after the other; ``frames``: one for each
            pattern.
        order: the order in which the stored axes are taken.
        amplitudes: whether the file holds square roots of counts.
        beam: what is diffracted.
        axes: how axes are described (`read_axes`).
        axis_values: references of these.
        values: references by quantity: energy, wavelength, distance, detector_pixel (y), column_pixel (x),
            pixel, step, angle, rotation, focus, sampling (angle or frequency of a detector pixel), slow,
            fast.
        positions: of one table, or of rows and columns.
        columns: of a table, (row, column).
        moves: whether positions are of the beam on the object or of the sample, whose negative counts.
        bad: masks that are not zero where a pixel is bad.
        good: masks that are not zero where a pixel is good.
        depth: bits of a pixel; the largest number of so many marks gaps.
        weights: relative intensity of each pattern.
        near: a mark of files that hold near fields.
        texts: references by name, for the metadata.
        hints: see `Header`.
        more: further fields of the header, of files that keep them in ways of their own.
        states: for the table of formats.
        compared: for the table of formats.
        matlab: whether such files are named ``.mat``.
    """

    name: str
    title: str
    marks: tuple[str, ...]
    data: tuple[str, ...]
    stack: Literal["one", "joined", "frames"] = "one"
    order: tuple[int, ...] | None = None
    amplitudes: bool = False
    beam: Literal["electron", "photon"] | None = None
    axes: Literal["", "dims", "groups", "json"] = ""
    axis_values: tuple[str, ...] = ()
    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    positions: tuple[str, ...] = ()
    columns: tuple[int, int] = (0, 1)
    moves: Literal["beam", "sample"] = "beam"
    bad: tuple[str, ...] = ()
    good: tuple[str, ...] = ()
    depth: tuple[str, ...] = ()
    weights: str = ""
    near: str = ""
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    hints: Mapping[str, str] = field(default_factory=dict)
    more: Callable[[Tree, "Layout"], Mapping[str, Any]] | None = None
    states: str = ""
    compared: str = "none"
    matlab: bool = False


@dataclass(frozen=True)
class Layout:
    """The array of a file.

    Attributes:
        key: its path, or that of the first part.
        shape: of the whole stack, axes as stored.
        energy: what the user says, eV.
    """

    key: str
    shape: tuple[int, ...]
    energy: float | None = None


def has_mark(tree: Tree, mark: str) -> bool:
    """Whether a tree has what a mark asks for.

    Example:
        >>> has_mark(Tree({"dp": {}}, "a.h5"), "patterns | dp")
        True
    """
    return any(_has_one(tree, one.strip()) for one in mark.split("|"))


def _has_one(tree: Tree, mark: str) -> bool:
    import re

    reference, _, wanted = mark.partition("~")
    broken: list[str] = []
    if not wanted and "@" not in reference and ":" not in reference:
        return bool(tree.find(reference, broken) or broken)
    value = tree.raw(reference, broken).value
    if value is None:
        return False
    try:
        return not wanted or re.search(wanted, decode_text(value)) is not None
    except NOT_DATA:
        return False


def find_kind(tree: Tree, kinds: tuple[Kind, ...]) -> Kind | None:
    """The first kind whose marks a file has all of; of equals the table has the more specific first."""
    return next((kind for kind in kinds if all(has_mark(tree, mark) for mark in kind.marks)), None)


def list_stacks(kind: Kind, tree: Tree, broken: list[str]) -> list[str]:
    """Paths of the arrays that can be the patterns of a kind, of the first of its places that has any.

    Links to what is not there are added to ``broken``. Arrays of more than four axes count where there are no
    others: of a series of scans a selection makes one.
    """
    for axes in ((2,),) if kind.stack == "frames" else ((3, 4), (5, 6)):
        for pattern in kind.data:
            members = ((path, tree.member(path)) for path in tree.find(pattern, broken))
            found = [path for path, one in members if _is_stack(one, axes)]
            if found or broken:
                return found
    return []


def _is_stack(member: Any, axes: tuple[int, ...]) -> bool:
    """Whether a member is an array of numbers with so many axes."""
    return is_array(member) and len(member.shape) in axes and member.dtype.kind in "iufb"


def build_header(kind: Kind, tree: Tree, layout: Layout) -> tuple[Header, tuple[int, ...] | None]:
    """What a file of a kind states, and the order in which its axes are taken.

    Values that are damaged or not plausible are warned of and left out, so that they are asked for.

    Raises:
        BadInput: a link to something that is not there, or a table larger than any.
    """
    tree = tree.at(layout.key)
    values: dict[str, Any] = {
        key: tree.number(key, *kind.values.get(key, ()))
        for key in ("wavelength", "distance", "pixel", "step", "angle", "rotation", "focus")
    }
    energy_key = "electron_energy" if kind.beam == "electron" else "energy"
    values["energy"] = tree.number(energy_key, *kind.values.get("energy", ()))
    sizes = (
        tree.number("detector_pixel", *kind.values.get("detector_pixel", ())),
        tree.number("detector_pixel", *kind.values.get("column_pixel", ())),
    )
    axes = read_axes(tree, kind.axes, layout.shape, kind.axis_values)
    order = kind.order or order_axes(axes)
    energy = layout.energy or values["energy"]
    stated = describe_axes(_in_order(axes, order), energy)
    if kind.beam == "electron":
        values |= _sample_electrons(values, stated, _read_sampling(tree, kind, energy))
    else:
        values |= _sample_photons(values, sizes)
    rows, columns = _in_order(layout.shape, order)[-2:]
    parts: dict[str, Any] = {
        **values,
        "beam": kind.beam,
        "step": values["step"] or stated.step,
        "grid": _read_grid(kind, tree, layout.shape),
        "positions": _read_positions(kind, tree),
        "mask": _read_mask(kind, tree, (rows, columns)),
        "weights": _read_weights(kind, tree),
        "hints": kind.hints,
    }
    more = dict(kind.more(tree, layout)) if kind.more else {}
    metadata = _read_texts(kind, tree) | more.pop("metadata", {})
    return Header(**{**parts, **more, "metadata": metadata}), order


def _in_order(items: Any, order: tuple[int, ...] | None) -> list[Any]:
    return list(items) if order is None or len(order) != len(items) else [items[axis] for axis in order]


def _sample_electrons(values: Mapping[str, Any], stated: AxisValues, own: float | None) -> dict[str, Any]:
    """What a detector pixel is: the angle, else the pixel of the object.

    Camera lengths are nominal; with the size of a detector pixel they would make wrong angles.
    """
    angle = values["angle"] or stated.angle or own
    return {"angle": angle, "pixel": None if angle else values["pixel"] or stated.pixel, "distance": None}


def _sample_photons(values: Mapping[str, Any], sizes: tuple[float | None, float | None]) -> dict[str, Any]:
    """What a detector pixel is: its size, or of pixels that are not square the two angles."""
    high, wide = sizes[0] or sizes[1], sizes[1] or sizes[0]
    if values["angle"] or values["pixel"]:
        return {}
    if high and wide and values["distance"] and high != wide:
        return {"angle": (high / values["distance"], wide / values["distance"])}
    return {"detector_pixel": high if high == wide else None}


def _read_sampling(tree: Tree, kind: Kind, energy: float | None) -> float | None:
    """Radian per detector pixel, of a value in units of angle or of frequency."""
    for reference in kind.values.get("sampling", ()):
        number, unit = tree.number("sampling", reference), normalise(tree.raw(reference).unit)
        if not number:
            continue
        angle = number if unit in ANGLES else None
        if unit in INVERSE_LENGTHS and energy is not None:
            angle = number * wavelength_of(energy, "electron")
        if angle is not None and QUANTITIES["angle"].holds(angle):
            return angle
    return None


def _read_grid(kind: Kind, tree: Tree, shape: tuple[int, ...]) -> tuple[int, int] | None:
    """The raster (slow, fast) that a file states for a stack of three axes."""
    slow, fast = (tree.number("count", *kind.values.get(key, ())) for key in ("slow", "fast"))
    if slow is None or fast is None or len(shape) == 4:
        return None
    return int(slow), int(fast)


def _read_positions(kind: Kind, tree: Tree) -> np.ndarray | None:
    """Of the beam on the object, ``(n, 2)`` (row, column), angstrom."""
    found = [tree.table(reference) for reference in kind.positions]
    tables = [table for table in found if table is not None]
    if not tables or len(tables) < len(kind.positions):
        return None
    table = _take_columns([values for values, _ in tables], kind, tree.name)
    unit = tables[0][1]
    scale = scale_of(unit, QUANTITIES["positions"])
    if table is None or scale is None:
        text = "%s: positions of shape %s in %r are not used: give them with positions"
        warn(log, text, tree.name, tables[0][0].shape, unit)
        return None
    table = table.astype(np.float64) * (scale if kind.moves == "beam" else -scale)
    finite = table[np.isfinite(table).all(1)]
    span = float(np.ptp(finite, axis=0).max()) if len(finite) else 0.0
    if not QUANTITIES["positions"].holds(span):
        warn(log, "%s: positions that span %.3g m are not used", tree.name, span * 1e-10)
        return None
    return table


def _take_columns(tables: list[np.ndarray], kind: Kind, name: str) -> np.ndarray | None:
    """Rows and columns, of two arrays or of two columns (or rows) of one."""
    if len(tables) == 2:
        rows, columns = (np.ravel(values) for values in tables)
        if len(rows) != len(columns):
            fix = "have different lengths: copy the file again, or give positions"
            raise BadInput(f"{name}: {' and '.join(kind.positions)}", None, fix)
        return np.column_stack([rows, columns])
    table = tables[0].reshape(-1, tables[0].shape[-1]) if tables[0].ndim > 2 else tables[0]
    if table.ndim == 2 and table.shape[0] in (2, 3) and table.shape[1] > 3:
        table = table.T
    return table[:, kind.columns] if table.ndim == 2 and table.shape[1] > max(kind.columns) else None


def _read_mask(kind: Kind, tree: Tree, shape: tuple[int, int]) -> np.ndarray | None:
    """True where a pixel is good."""
    good = None
    for references, is_bad in ((kind.bad, True), (kind.good, False)):
        for reference in references:
            table = tree.table(reference)
            if table is None:
                continue
            values = table[0] != 0
            if values.ndim > 2 and values.shape[-2:] == shape:
                values = values.reshape(-1, *shape)
                values = values.all(0) if not is_bad else values.any(0)
            if values.shape != shape:
                warn(
                    log,
                    "%s: the mask %s has shape %s, not %s, and is not used",
                    tree.name,
                    reference,
                    values.shape,
                    shape,
                )
                continue
            values = ~values if is_bad else values
            good = values if good is None else good & values
            break
    return good


def _read_weights(kind: Kind, tree: Tree) -> np.ndarray | None:
    table = tree.table(kind.weights) if kind.weights else None
    if table is None:
        return None
    values = table[0].ravel().astype(np.float64)
    if not (np.isfinite(values).all() and (values > 0).all()):
        warn(log, "%s: %s holds values that are not positive and is not used", tree.name, kind.weights)
        return None
    return values / values.mean()


def _read_texts(kind: Kind, tree: Tree) -> dict[str, str]:
    found = {name: tree.text(*references) for name, references in kind.texts.items()}
    return {name: text for name, text in found.items() if text} | {"original header": tree.describe()}
