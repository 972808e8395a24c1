"""What any reconstruction file says, in our axes and units."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from phaseloom.errors import BadInput

__all__ = ["Imported", "angstrom_per_unit", "match_grid", "repeat_thickness"]

MIN_PIXEL_IN_ANGSTROM = 1e-5
"""Angstrom; a pixel below this is one in metres: it would be smaller than any nucleus."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Imported:
    """A reconstruction as another program (or ours) left it; what its file lacks is ``None``.

    Attributes:
        source: name of the file and kind of program.
        object: complex ``(mode, slice, y, x)`` transmission.
        probe: complex ``(mode, y, x)``, in the middle of its window, **in the units of its program**: ours
            is in square roots of counts, PtyRAD's belongs to patterns whose mean has its peak at 1. Scale
            it to the power of your patterns before use.
        positions: ``(n, 2)`` beam centres (row, column), angstrom, in the frame of `origin`.
        origin: position (y, x) of the centre of object pixel ``[0, 0]``, angstrom.
        pixel: object pixel (y, x), angstrom.
        rotation: of the object's rows and columns about `origin` against the axes of the frame, radian from
            rows towards columns.
        tilts: ``(1, 2)`` or ``(n, 2)`` tilt of the object (y, x), radian.
        thickness: distance between neighbouring slices, angstrom, one less than there are slices.
        occupancies: share of each object mode.
        heights: ``(n,)`` of the beam along its axis, angstrom.
        opr_weights: complex ``(n, mode, basis)``: each pattern's own modes in terms of those of the probe.
        weights: ``(n,)`` relative intensity of each shot.
        descan: ``(n, 2)`` shift of each pattern, pixels.
        background: ``(y, x)`` counts without beam, centred.
        wavelength: angstrom.
        grid: raster as (slow, fast).
    """

    source: str
    object: np.ndarray | None = None
    probe: np.ndarray | None = None
    positions: np.ndarray | None = None
    origin: tuple[float, float] | None = None
    pixel: tuple[float, float] | None = None
    rotation: float = 0.0
    tilts: np.ndarray | None = None
    thickness: tuple[float, ...] | None = None
    occupancies: np.ndarray | None = None
    heights: np.ndarray | None = None
    opr_weights: np.ndarray | None = None
    weights: np.ndarray | None = None
    descan: np.ndarray | None = None
    background: np.ndarray | None = None
    wavelength: float | None = None
    grid: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        axes = {"object": "(mode, slice, y, x)", "probe": "(mode, y, x)"}
        for name, words in axes.items():
            value = getattr(self, name)
            if value is not None and value.ndim != words.count(",") + 1:
                fix = f"does not have axes {words}"
                raise BadInput(f"{self.source}: {name}", f"shape {value.shape}", fix)
        n = 0 if self.positions is None else len(self.positions)
        for name, rows in (("positions", {n}), ("tilts", {1, n})):
            value = getattr(self, name)
            if value is not None and (value.shape[1:] != (2,) or len(value) not in rows):
                fix = f"does not fit {n} positions"
                raise BadInput(f"{self.source}: {name}", f"shape {value.shape}", fix)
        for name in ("object", "probe", "positions", "tilts"):
            value = getattr(self, name)
            if value is not None and not np.isfinite(value).all():
                raise BadInput(f"{self.source}: {name}", None, "holds values that are not finite")
        if self.object is not None:
            self._require_length(self.object.shape[0], self.occupancies, "occupancies", "object modes")
            self._require_length(self.object.shape[1] - 1, self.thickness, "thickness", "gaps between slices")

    def _require_length(self, wanted: int, values: Any, name: str, what: str) -> None:
        if values is not None and len(values) != wanted:
            fix = f"but there are {wanted} {what}"
            raise BadInput(f"{self.source}: {name}", f"{len(values)} values", fix)


def angstrom_per_unit(pixel: float, /) -> float:
    """Angstrom per unit of length of a file with such a pixel: programs for electrons keep angstrom, those
    for X-rays metres.

    Example:
        >>> angstrom_per_unit(0.2), angstrom_per_unit(8e-9)
        (1.0, 10000000000.0)
    """
    return 1.0 if pixel >= MIN_PIXEL_IN_ANGSTROM else 1e10


def repeat_thickness(thickness: float | None, object: np.ndarray | None, /) -> tuple[float, ...] | None:
    """The same thickness for every gap between slices of an object."""
    if object is None or (thickness is None and object.shape[1] > 1):
        return None
    return (float(thickness or 0.0),) * (object.shape[1] - 1)


def match_grid(
    slow: float | None, fast: float | None, positions: np.ndarray | None
) -> tuple[int, int] | None:
    """The raster (slow, fast) of a file, if it has as many points as there are positions."""
    if positions is None or slow is None or fast is None or int(slow) * int(fast) != len(positions):
        return None
    return int(slow), int(fast)
