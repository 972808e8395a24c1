"""Members of HDF5 files by a table: what each is, its axes, and how much of it is read at most.

A file may declare what it likes: a table says what we accept. `read_members` looks at link, kind, axes and
size before it takes memory, and tells a damaged member from one that is too large.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import h5py
import numpy as np
from pydantic import TypeAdapter, ValidationError

from phaseloom.data.formats.files import (
    READ_ERRORS,
    decode_text,
    describe_hdf5_error,
    require_linked,
    require_own_storage,
)
from phaseloom.documents import parse_json
from phaseloom.errors import BadInput
from phaseloom.findings import describe_error
from phaseloom.free_memory import require_memory

__all__ = ["MAX_BYTES", "Member", "describe_form", "read_group", "read_member", "read_members"]

MAX_BYTES = 64_000_000
"""Bytes of a member that may be declared though little of it is stored."""

MAX_RATIO = 1100
"""Times that a member may be larger than what is stored of it: deflate reaches 1030."""

MAX_CHILDREN = 10_000
"""Members of a group that are looked at."""

_ACCEPTED = {"real": "iufb", "complex": "iufbc", "integer": "iu", "bool": "iub"}
_WORDS = {"real": "real numbers", "complex": "numbers", "integer": "whole numbers", "bool": "true or false"}


@dataclass(frozen=True)
class Member:
    """What is accepted of a member of a file.

    Attributes:
        name: its path in the group; ``@name`` is an attribute of the group.
        kind: of its values; ``json`` is a text.
        axes: names of the axes, as in ``"slice y x"``. An axis has the same length wherever its name stands
            in a table; a number is a length; ``_`` is an axis of any length. Empty: a single value; ``None``:
            any axes.
        finite: whether all values must be finite.
        positive: whether all values must be above zero.
        optional: whether it may be missing.
        form: the type of a ``json`` value.
        largest: bytes of memory that it may take at most.
    """

    name: str
    kind: Literal["real", "complex", "integer", "bool", "text", "json"] = "real"
    axes: str | None = ""
    finite: bool = True
    positive: bool = False
    optional: bool = False
    form: Any = Any
    largest: float = math.inf


def read_members(group: Any, table: Sequence[Member], file: str, /) -> dict[str, Any]:
    """Values of members by their names; ``None`` for optional ones that are missing.

    Args:
        group: of an open file, a data set whose attributes are wanted, or arrays by their names.
        table: what is accepted.
        file: name of the file, for messages.

    Returns:
        Arrays, plain numbers where there are no axes, texts, and the values of JSON texts.

    Raises:
        BadInput: a member that is missing, damaged, of another kind or shape, not finite, or too large.

    Example:
        >>> with h5py.File("a.h5", "w") as file:
        ...     file["positions"], file["weights"], file.attrs["title"] = [[0.0, 1.0]], [1.0], "a"
        >>> table = [Member("positions", axes="n 2"), Member("weights", axes="n"), Member("@title", "text")]
        >>> with h5py.File("a.h5") as file:
        ...     read_members(file, table, "a.h5")["title"]
        'a'
    """
    lengths: dict[str, tuple[int, str]] = {}
    found = {}
    for member in table:
        value = read_member(group, member, file)
        if isinstance(value, np.ndarray):
            _require_lengths(value.shape, member, f"{file}: {_shown(group, member)}", lengths)
        found[member.name.removeprefix("@")] = value
    return found


def read_member(group: Any, member: Member, file: str, /) -> Any:
    """The value of one member; see `read_members`."""
    place = f"{file}: {_shown(group, member)}"
    with _name_damage(place):
        stored = _find(group, member, file)
        if stored is None:
            if member.optional:
                return None
            raise BadInput(place, None, "is missing: the file is not whole, write it again")
        read = _read_text if member.kind in ("text", "json") else _read_numbers
        value = read(stored, member, place)
    return _read_form(value, member, place) if member.kind == "json" else value


def read_group(group: h5py.Group, name: str, kind: Member, file: str, /) -> dict[str, Any]:
    """All members of a group by their names, each accepted as ``kind`` says; empty without the group.

    Example:
        >>> with h5py.File("b.h5", "w") as file:
        ...     file["images/a"] = [[1.0]]
        ...     read_group(file, "images", Member("", axes="y x"), "b.h5")["a"].shape
        (1, 1)
    """
    with _name_damage(f"{file}: /{name}"):
        require_linked(group, name, file)
        inner = group.get(name)
        if inner is None:
            return {}
        if not isinstance(inner, h5py.Group):
            raise BadInput(f"{file}: /{name}", None, "is not a group: write the file again")
        names = list(inner)
        if len(names) > MAX_CHILDREN:
            fix = f"has {len(names)} members; at most {MAX_CHILDREN} are read"
            raise BadInput(f"{file}: /{name}", None, fix)
    table = [Member(one, kind.kind, kind.axes, kind.finite, largest=kind.largest) for one in names]
    return read_members(inner, table, file)


@contextmanager
def _name_damage(place: str) -> Any:
    try:
        yield
    except BadInput:
        raise
    except MemoryError:
        raise BadInput(place, None, "needs more memory than is free: close other programs") from None
    except READ_ERRORS as problem:
        said = describe_hdf5_error(problem)
        raise BadInput(place, None, f"is damaged ({said}): write or copy the file again") from problem


def _shown(group: Any, member: Member) -> str:
    """Path of a member; attributes of the root as ``@name``."""
    above = (getattr(group, "name", "") or "").rstrip("/")
    if member.name.startswith("@"):
        return f"{above}{member.name}"
    return f"{above}/{member.name}"


def _find(group: Any, member: Member, file: str) -> Any:
    """The data set, array or attribute; ``None``: missing."""
    if isinstance(group, Mapping) and not isinstance(group, h5py.Group):
        return group.get(member.name)
    if member.name.startswith("@"):
        name = member.name[1:]
        return _Attribute(group.attrs, name) if name in group.attrs else None
    require_linked(group, member.name, file)
    if member.name not in group:
        return None
    stored = group[member.name]
    if not isinstance(stored, h5py.Dataset):
        fix = "is not a data set: write the file again"
        raise BadInput(f"{file}: {_shown(group, member)}", None, fix)
    require_own_storage(stored, f"{file}: {_shown(group, member)}")
    return stored


class _Attribute:
    """An attribute with the manners of a data set."""

    def __init__(self, attributes: Any, name: str):
        self._attributes, self._name = attributes, name
        about = attributes.get_id(name)
        is_empty = about.get_space().get_simple_extent_type() == h5py.h5s.NULL
        self.shape, self.dtype = None if is_empty else about.shape, about.dtype

    def __getitem__(self, index: tuple[()]) -> Any:
        return self._attributes[self._name]


def _read_numbers(stored: Any, member: Member, place: str) -> Any:
    accepted = _ACCEPTED[member.kind]
    if stored.shape is None or stored.dtype.kind not in accepted:
        shown = "nothing" if stored.shape is None else f"values of {stored.dtype}"
        raise BadInput(place, shown, f"must be {_WORDS[member.kind]}: write the file again")
    _require_size(stored, member, place)
    _require_axes(stored.shape, member, place)
    values = np.asarray(stored[()])
    if member.finite and values.dtype.kind in "fc" and not np.isfinite(values).all():
        raise BadInput(place, None, "holds values that are not finite: the file is damaged, write it again")
    if member.positive and not (values > 0).all():
        raise BadInput(place, None, "must be above zero: the file is damaged, write it again")
    return values.ravel()[0].item() if member.axes == "" else values


def _require_axes(shape: tuple[int, ...], member: Member, place: str) -> None:
    if member.axes is None:
        return
    axes = member.axes.split()
    is_single = not axes and math.prod(shape) == 1
    if len(shape) != len(axes) and not is_single:
        wanted = f"must have the axes ({', '.join(axes)})" if axes else "must be one number"
        raise BadInput(place, f"shape {tuple(shape)}", wanted)


def _require_size(stored: Any, member: Member, place: str) -> None:
    """Refuse a member that declares far more than it stores, or more than it can be."""
    size = math.prod(stored.shape) * stored.dtype.itemsize
    most = float(MAX_BYTES)
    if isinstance(stored, h5py.Dataset):
        most = max(most, MAX_RATIO * stored.id.get_storage_size())
    elif isinstance(stored, np.ndarray):
        most = math.inf
    most = min(most, member.largest)
    if size > most:
        shown = f"shape {tuple(stored.shape)} of {stored.dtype}"
        raise BadInput(place, shown, f"is {size / 1e6:.3g} MB, at most {most / 1e6:.3g} MB are plausible")
    require_memory(size, place)


def _read_text(stored: Any, member: Member, place: str) -> str:
    is_text = stored.dtype.kind in "SU" or h5py.check_string_dtype(stored.dtype) is not None
    if stored.shape is None or math.prod(stored.shape) != 1 or not is_text:
        raise BadInput(place, None, "must be one text: write the file again")
    _require_size(stored, member, place)
    return decode_text(stored[()])


def _read_form(text: str, member: Member, place: str) -> Any:
    """The value of a JSON text, of the type that it must have."""
    try:
        return TypeAdapter(member.form).validate_python(parse_json(text, place))
    except ValidationError as problem:
        raise describe_form(problem, place) from None


def describe_form(problem: ValidationError, place: str, /) -> BadInput:
    """The first finding on a value that was stored as JSON, as a sentence."""
    first = problem.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, BadInput):
        return BadInput(f"{place}: {cause.place}", cause.value, cause.fix)
    steps = ".".join(str(step) for step in first["loc"])
    where = f"{place}: {steps}" if steps else place
    shown = None if first["type"] == "missing" else first["input"]
    return BadInput(where, shown, describe_error(first))


def _require_lengths(
    shape: tuple[int, ...], member: Member, place: str, lengths: dict[str, tuple[int, str]]
) -> None:
    """Compare the lengths of axes with those that their names have had in members before."""
    for axis, length in zip((member.axes or "").split(), shape, strict=member.axes is not None):
        if axis == "_":
            if length == 0:
                raise BadInput(place, f"shape {shape}", "is empty: write the file again")
            continue
        known, where = (int(axis), "") if axis.isdigit() else lengths.setdefault(axis, (length, member.name))
        if length != known or not length:
            why = f"as {where} has" if where and where != member.name else "above zero"
            fix = f"does not fit: axis {axis} must have the length {known} {why}" if known else "is empty"
            raise BadInput(place, f"shape {shape}", fix)
