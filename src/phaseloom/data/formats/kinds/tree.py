"""What an HDF5 file, a Zarr store or a JSON document says of itself, read by paths."""

import fnmatch
import json
import logging
import math
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import h5py
import numpy as np

from phaseloom.data.formats.files import (
    MAX_NUMBERS,
    decode_text,
    require_linked,
    require_own_storage,
    require_plain_targets,
)
from phaseloom.data.formats.quantities.unit_names import QUANTITIES, scale_of
from phaseloom.data.remarks import warn
from phaseloom.errors import BadInput

__all__ = ["Reference", "Tree"]

log = logging.getLogger(__name__)

MAX_TEXT_BYTES = 4_000_000
MAX_CHILDREN = 200_000
MAX_HEADER_CHARACTERS = 100_000
MAX_HEADER_LINES = 2_000
MAX_SPREAD = 1e-2
"""Relative range of a quantity that is stored once for each pattern and counts as one number."""

NOT_DATA = (KeyError, TypeError, ValueError, OSError, RuntimeError, AttributeError, RecursionError)
"""What h5py and zarr raise for members and attributes that are damaged or of strange types."""

_REFERENCE = re.compile(
    r"(?P<path>[^@:\[]*)(?:@(?P<attr>[^:\[]+))?(?::(?P<keys>[^\[]+))?(?:\[(?P<unit>.*)\])?"
)
_NUMBER = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(.*?)\s*")


class Found(NamedTuple):
    """A stored value, its unit, and whether the file states the unit."""

    value: Any
    unit: str
    stated: bool


@dataclass(frozen=True)
class Reference:
    """Where a value is: ``path@attribute:json.keys [unit]``, each part but the path optional.

    A ``*`` of the path stands for any name, ``$`` for the group of the patterns. ``unit`` is what a value
    without an own one is in; ``=name`` is the member beside it (or attribute, or key) that holds the unit.

    Example:
        >>> Reference.parse("data@properties:metadata.instrument.high_tension [V]").keys
        ('metadata', 'instrument', 'high_tension')
    """

    path: str
    attr: str | None = None
    keys: tuple[str, ...] = ()
    unit: str = ""

    @classmethod
    def parse(cls, text: str) -> "Reference":
        """A reference from its text."""
        found = _REFERENCE.fullmatch(text)
        assert found is not None, text
        parts = {name: (value or "").strip() for name, value in found.groupdict().items()}
        keys = tuple(parts["keys"].split(".")) if parts["keys"] else ()
        return cls(parts["path"], parts["attr"] or None, keys, parts["unit"])


@dataclass(frozen=True)
class Tree:
    """A file's groups, arrays and attributes.

    Attributes:
        root: an open ``h5py.File``, a Zarr group, or a mapping of arrays with ``attrs``.
        name: of the file, for messages.
        here: path of the group that ``$`` stands for.
    """

    root: Any
    name: str
    here: str = ""

    def at(self, data: str) -> "Tree":
        """The same tree, where ``$`` is the group of an array."""
        return Tree(self.root, self.name, posixpath.dirname(data.strip("/")))

    def member(self, path: str) -> Any:
        """A group or array; nothing where there is none.

        Raises:
            BadInput: a link to something that is not there, or an array whose numbers are in another file.
        """
        if not path:
            return self.root
        if isinstance(self.root, h5py.Group):
            require_plain_targets(self.root, path, self.name)
        try:
            found = self.root.get(path)
        except NOT_DATA:
            found = None
        if found is None and isinstance(self.root, h5py.Group):
            require_linked(self.root, path, self.name)
        if isinstance(found, h5py.Dataset):
            require_own_storage(found, f"{self.name}: {path}")
        return found

    def find(self, pattern: str, broken: list[str] | None = None) -> list[str]:
        """Paths of members that fit a pattern, in the order of the numbers in their names.

        Args:
            pattern: a path; ``*`` stands for any name (or a part of it), ``$`` for the group of the patterns.
            broken: takes the paths of links to what is not there; without it they are an error.

        Raises:
            BadInput: see `member`.

        Example:
            >>> Tree({"b10": {}, "b9": {}}, "a.h5").find("b*")
            ['b9', 'b10']
        """
        pattern = pattern.strip().strip("/").replace("$", self.here).strip("/")
        found = [""]
        for part in posixpath.normpath(pattern).split("/") if pattern else []:
            if "*" not in part:
                found = [posixpath.join(above, part) for above in found]
                continue
            found = [
                posixpath.join(above, name)
                for above in found
                for name in sorted(self._names(above), key=_natural_key)
                if fnmatch.fnmatchcase(name, part)
            ]
        return [path for path in found if self._is_there(path, broken)]

    def in_order(self, paths: list[str]) -> list[str]:
        """Paths in the order of the numbers in their names."""
        return sorted(paths, key=_natural_key)

    def _is_there(self, path: str, broken: list[str] | None) -> bool:
        try:
            return self.member(path) is not None
        except BadInput:
            if broken is None:
                raise
            broken.append(path)
            return False

    def _names(self, path: str) -> Iterable[str]:
        member = self.member(path)
        if member is None or is_array(member):
            return []
        try:
            return [str(name) for name, _ in zip(member, range(MAX_CHILDREN), strict=False)]
        except NOT_DATA:
            return []

    def raw(self, text: str, broken: list[str] | None = None) -> Found:
        """The value that a reference leads to first, and its unit; the value is None where there is none.

        Args:
            text: see `Reference`.
            broken: see `find`.
        """
        reference = Reference.parse(text)
        own = "" if reference.unit.startswith("=") else reference.unit
        for path in self.find(reference.path, broken):
            value = self._value(path, reference)
            if value is not None:
                stated = self._unit(path, reference)
                return Found(value, stated or own, bool(stated))
        return Found(None, own, False)

    def _value(self, path: str, reference: Reference) -> Any:
        member = self.member(path)
        try:
            if reference.attr is not None:
                value = dict(member.attrs)[reference.attr]
            elif is_array(member) and member.size * member.dtype.itemsize <= MAX_TEXT_BYTES:
                value = member[()]
            else:
                return None
            return _follow(_document(value), reference.keys) if reference.keys else value
        except NOT_DATA:
            return None

    def _unit(self, path: str, reference: Reference) -> str:
        """The unit that a file states: in an attribute ``units``, or where the reference says."""
        name = reference.unit.removeprefix("=")
        beside = name != reference.unit
        try:
            if reference.keys:
                keys = (*reference.keys[:-1], name)
                value = self._value(path, Reference(path, reference.attr, keys)) if beside else ""
                return decode_text(value).strip()
            attrs = dict(self.member(path).attrs)
            if reference.attr is not None:
                return decode_text(attrs[name]).strip() if beside else ""
            if beside:
                found = self.raw(posixpath.join(posixpath.dirname(path), name))
                return "" if found.value is None else decode_text(found.value).strip()
            return decode_text(attrs.get("units", attrs.get("unit", ""))).strip()
        except NOT_DATA:
            return ""

    def text(self, *references: str) -> str | None:
        """The first value that is not empty, as text on one line, with its unit."""
        for reference in references:
            value, unit, _ = self.raw(reference)
            if value is None or isinstance(value, (dict, list)):
                continue
            try:
                shown = " ".join(decode_text(value).split())[:500]
            except NOT_DATA:
                continue
            if shown and shown.lower() != "none":
                return f"{shown} {unit}".strip() if _NUMBER.fullmatch(shown) else shown
        return None

    def number(self, quantity: str, *references: str) -> float | None:
        """A plausible value of a quantity in inner units, from the first reference that has one.

        A value that is not plausible, or in a unit that the quantity does not have, is warned of and not
        used. Without any unit, one of those that are often left out may make it plausible.

        Args:
            quantity: key of `QUANTITIES`.
            *references: where to look.
        """
        for reference in references:
            value, unit, stated = self.raw(reference)
            number, own = _number(value)
            if number is None:
                continue
            place = f"{self.name}: {reference.partition('[')[0].strip()}"
            found = _convert(quantity, number, own or unit, bool(own) or stated, place)
            if found is not None:
                return found
        return None

    def table(self, pattern: str) -> tuple[np.ndarray, str] | None:
        """Numbers of the arrays that fit a reference, one after the other, and their unit.

        Raises:
            BadInput: larger than any table of a scan.
        """
        reference = Reference.parse(pattern)
        found = [path for path in self.find(reference.path) if is_array(self.member(path))]
        parts = []
        for path in found:
            member = self.member(path)
            if member.size > MAX_NUMBERS:
                fix = f"is not plausible: positions and masks have less than {MAX_NUMBERS} numbers"
                raise BadInput(f"{self.name}: {path}", f"shape {member.shape}", fix)
            if member.dtype.kind in "iufb" and member.size:
                parts.append(np.asarray(member[()]))
        if not parts or len({part.shape[1:] for part in parts}) > 1:
            return None
        unit = self._unit(found[0], reference) or reference.unit
        return np.concatenate(parts) if len(parts) > 1 else parts[0], unit

    def describe(self) -> str:
        """Attributes and small values of the whole file as lines ``path: value``, cut to a sane size."""
        lines = []
        for path, value in self._leaves("", 0):
            lines.append(f"{path}: {value}")
            if len(lines) >= MAX_HEADER_LINES:
                lines.append("...")
                break
        return "\n".join(lines)[:MAX_HEADER_CHARACTERS]

    def _leaves(self, path: str, depth: int) -> Iterator[tuple[str, str]]:
        try:
            member = self.member(path)
            attrs = dict(getattr(member, "attrs", {}))
        except (BadInput, *NOT_DATA):
            return
        for name, value in attrs.items():
            yield f"{path}@{name}", _short(value)
        if is_array(member):
            if 0 < member.size <= 16 or (member.size and member.dtype.kind in "SO" and member.size < 100):
                try:
                    yield path, _short(member[()])
                except NOT_DATA:
                    return
            return
        if depth < 12:
            for name in sorted(self._names(path), key=_natural_key)[:500]:
                yield from self._leaves(posixpath.join(path, name), depth + 1)


def is_array(member: Any, /) -> bool:
    """Whether a member is an array with a shape, not a group."""
    return getattr(member, "shape", None) is not None and hasattr(member, "dtype")


def is_pixel(unit: str, /) -> bool:
    """Whether a unit says that an axis is not calibrated.

    Example:
        >>> is_pixel("Pixels"), is_pixel("nm")
        (True, False)
    """
    return unit.strip().strip("[]()").lower() in ("", "px", "pixel", "pixels", "n/a", "none", "1", "index")


def _convert(key: str, number: float, unit: str, stated: bool, place: str) -> float | None:
    """A number in inner units, or a warning."""
    quantity = QUANTITIES[key]
    number = abs(number) if quantity.least > 0 else number  # some files count distances against the beam
    scale = scale_of(unit, quantity)
    if scale is None and stated:
        if not is_pixel(unit):
            warn(log, "%s: %r is not a unit of %s; the value is not used", place, unit, key)
        return None
    if stated and scale is not None:
        factors = (scale,)
    else:
        factors = (scale or 1.0, *quantity.left_out) if scale or quantity.left_out else ()
    for factor in factors:
        value = number * factor
        if quantity.holds(value) and (stated or quantity.is_usual(value)):
            if factor != (scale or 1.0):
                warn(log, "%s: %g without a unit is taken as %g eV", place, number, value)
            return value
    if number:  # zero stands for "not set"
        warn(log, "%s: %g %s is not a plausible %s and is not used", place, number, unit, key)
    return None


def _number(value: Any) -> tuple[float | None, str]:
    """One finite number of whatever is stored, and the unit that a text has behind it."""
    if value is None or isinstance(value, dict):
        return None, ""
    try:
        values = np.asarray(value)
        if values.dtype.kind in "SOU":
            found = _NUMBER.fullmatch(decode_text(value))
            number, unit = (float(found[1]), found[2]) if found else (math.nan, "")
            return (number, unit) if math.isfinite(number) else (None, "")
        if values.dtype.kind not in "iufb":
            return None, ""
        flat = values.ravel().astype(float)
    except NOT_DATA:
        return None, ""
    flat = flat[np.isfinite(flat)]
    if not flat.size or np.ptp(flat) > MAX_SPREAD * abs(flat).max():
        return None, ""
    return float(flat[0]) if np.ptp(flat) == 0 else float(flat.mean()), ""


def _document(value: Any) -> Any:
    """A JSON document that is stored as text, or as bytes in the first column of a table (Velox)."""
    if isinstance(value, (Mapping, list)):
        return value
    array = np.asarray(value)
    if array.dtype == np.uint8:
        text = array.reshape(array.shape[0], -1)[:, 0].tobytes().split(b"\0")[0].decode("utf-8", "replace")
    else:
        text = decode_text(value)
    return json.loads(text)


def _follow(document: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        if isinstance(document, list) and key.isdigit():
            document = document[int(key)] if int(key) < len(document) else None
        else:
            document = document.get(key) if isinstance(document, Mapping) else None
    return document


def _natural_key(name: str) -> tuple[Any, ...]:
    """Names in the order of their numbers: 9 before 10."""
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name))


def _short(value: Any) -> str:
    try:
        array = np.asarray(value)
        text = decode_text(value) if array.size == 1 else str(np.ravel(array)[:16].tolist())
    except NOT_DATA:
        text = "?"
    return " ".join(text.split())[:20_000]
