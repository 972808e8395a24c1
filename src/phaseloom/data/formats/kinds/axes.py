"""Calibrated axes of a stored array: which are of the scan, and what a step along each is."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from phaseloom.data.formats.files import decode_text
from phaseloom.data.formats.kinds.tree import NOT_DATA, Tree, is_array
from phaseloom.data.formats.quantities.unit_names import ANGLES, INVERSE_LENGTHS, LENGTHS, normalise
from phaseloom.data.remarks import warn
from phaseloom.data.scan import wavelength_of

__all__ = ["AxisValues", "StoredAxis", "describe_axes", "order_axes", "read_axes"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredAxis:
    """An axis of a stored array.

    Attributes:
        size: its length.
        scale: from one place to the next one, in ``units``; nothing: not known.
        units: as the file spells them.
        navigate: whether the file says that it is of the scan.
    """

    size: int
    scale: float | None
    units: str
    navigate: bool

    def _in(self, table: dict[str, float]) -> float | None:
        factor = table.get(normalise(self.units))
        return None if factor is None or not self.scale else abs(self.scale) * factor

    @property
    def step(self) -> float | None:
        """Angstrom from one place to the next one, of an axis in units of length."""
        return self._in(LENGTHS)

    @property
    def frequency(self) -> float | None:
        """Cycles per angstrom and pixel, of an axis in units such as 1/nm."""
        return self._in(INVERSE_LENGTHS)

    @property
    def angle(self) -> float | None:
        """Radian per pixel, of an axis in units of angle."""
        return self._in(ANGLES)

    @property
    def is_detector(self) -> bool:
        """Whether the unit is of a diffraction pattern."""
        return self.frequency is not None or self.angle is not None


@dataclass(frozen=True)
class AxisValues:
    """What axes state in inner units: fields of a `phaseloom.data.formats.header.Header`."""

    step: tuple[float, float] | None = None
    angle: tuple[float, float] | None = None
    pixel: float | None = None


def order_axes(axes: Sequence[StoredAxis]) -> tuple[int, ...] | None:
    """The axes of the scan before those of the detector; nothing where they lie so.

    Example:
        >>> scan = StoredAxis(3, 0.1, "nm", True)
        >>> order_axes([StoredAxis(8, 0.2, "1/nm", False), StoredAxis(8, 0.2, "1/nm", False), scan, scan])
        (2, 3, 0, 1)
    """
    numbers = range(len(axes))
    detector = [number for number in numbers if axes[number].is_detector]
    if len(detector) != 2:
        detector = [number for number in numbers if not axes[number].navigate]
    order = (*(number for number in numbers if number not in detector), *detector)
    return None if len(detector) != 2 or order == tuple(numbers) else order


def describe_axes(axes: Sequence[StoredAxis], energy: float | None) -> AxisValues:
    """What axes in the order (..., slow, fast, y, x) state.

    Frequencies become angles by the wavelength of electrons; without energy a square detector still states
    the pixel of the object.

    Example:
        >>> scan, detector = StoredAxis(3, 0.1, "nm", True), StoredAxis(8, 0.5, "mrad", False)
        >>> describe_axes([scan, scan, detector, detector], None)
        AxisValues(step=(1.0, 1.0), angle=(0.0005, 0.0005), pixel=None)
    """
    if len(axes) < 3:
        return AxisValues()
    *scan, y, x = axes
    slow, fast = (scan[-2].step, scan[-1].step) if len(scan) >= 2 else (None, None)
    step = (slow, fast) if slow and fast else None
    angles = [axis.angle for axis in (y, x)]
    if energy is not None:
        wavelength = wavelength_of(energy, "electron")
        angles = [
            axis.frequency * wavelength if angle is None and axis.frequency else angle
            for axis, angle in zip((y, x), angles, strict=True)
        ]
    height, width = angles
    if height and width:
        return AxisValues(step, (height, width))
    fields = [1 / (axis.size * axis.frequency) if axis.frequency else 0.0 for axis in (y, x)]
    square = min(fields) > 0 and max(fields) < 1.0001 * min(fields)
    return AxisValues(step, pixel=fields[0] if square else None)


def read_axes(tree: Tree, way: str, shape: Sequence[int], references: Sequence[str]) -> list[StoredAxis]:
    """The axes of an array: from ``dim1, dim2, ...`` beside it, from groups, or from a JSON list.

    Args:
        tree: where ``$`` is the group of the array.
        way: ``dims`` (vectors of coordinates with ``units``), ``groups`` (attributes ``scale`` and ``units``)
            or ``json`` (a list of tables with these keys).
        shape: of the array.
        references: of what belongs to each axis; those of ``json`` lead to the list.
    """
    plain = [StoredAxis(int(n), None, "", number < len(shape) - 2) for number, n in enumerate(shape)]
    found: list[StoredAxis | None] = []
    if way == "json":
        lists = (tree.raw(reference).value for reference in references)
        tables = next((one for one in lists if isinstance(one, list)), [])
        found = [_from_table(table, axis) for table, axis in zip(tables, plain, strict=False)]
    elif way:
        members = [tree.member(path) for path in tree.find(references[0])]
        read = _from_vector if way == "dims" else _from_group
        found = [read(member, axis) for member, axis in zip(members, plain, strict=False)]
    if len(found) != len(plain):
        return plain
    return [axis or default for axis, default in zip(found, plain, strict=True)]


def _from_table(table: Any, axis: StoredAxis) -> StoredAxis | None:
    if not isinstance(table, dict):
        return None
    return _checked(table.get("scale"), table.get("units"), axis, axis.navigate)


def _from_group(member: Any, axis: StoredAxis) -> StoredAxis | None:
    try:
        attrs = dict(member.attrs)
    except NOT_DATA:
        return None
    navigate = attrs.get("navigate", axis.navigate)
    return _checked(attrs.get("scale"), attrs.get("units"), axis, np.asarray(navigate).ravel()[:1].any())


def _from_vector(member: Any, axis: StoredAxis) -> StoredAxis | None:
    """Coordinates of every place, or of the first two."""
    try:
        if not is_array(member) or member.dtype.kind not in "iuf" or not 2 <= member.size <= 1_000_000:
            return None
        values = np.asarray(member[()], np.float64).ravel()
        units = dict(member.attrs).get("units", "")
        return _checked((values[-1] - values[0]) / (len(values) - 1), units, axis, axis.navigate)
    except NOT_DATA:
        return None


def _checked(scale: Any, units: Any, axis: StoredAxis, navigate: Any) -> StoredAxis:
    first = np.ravel(np.asarray(scale))[:1] if isinstance(scale, (int, float, np.generic, np.ndarray)) else []
    number = float(first[0]) if len(first) and np.asarray(first).dtype.kind in "iuf" else np.nan
    good = np.isfinite(number) and 1e-12 < abs(number) < 1e12
    try:
        text = decode_text(units).strip()
    except NOT_DATA:
        text = ""
    if good and number < 0:
        text_ = "an axis of %d values runs backwards (%.4g %s): it is read as if it ran forwards, mirrored"
        warn(log, text_, axis.size, number, text)
    return StoredAxis(axis.size, abs(number) if good else None, text, bool(navigate))
