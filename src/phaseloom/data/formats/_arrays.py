"""What array files have in common: patterns made clean, and a geometry said by knobs."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from phaseloom.data.counts import Chosen, Counts, mapped, pieces
from phaseloom.data.formats._arranged import Arrangement, arranged
from phaseloom.data.formats._files import BROKEN, checked
from phaseloom.data.scan import Geometry, Scan4D, wavelength_of
from phaseloom.errors import BadInput

__all__ = [
    "Beam",
    "Negative",
    "Setup",
    "Tables",
    "Unit",
    "clean",
    "load_array",
    "scan_of",
    "table",
    "turned",
]

log = logging.getLogger(__name__)

Beam = Literal["electron", "photon"]
Negative = Literal["clip", "keep"]
Unit = Literal["A", "nm", "um", "mm", "m", "px"]

_UNITS = {"A": 1.0, "nm": 10.0, "um": 1e4, "mm": 1e7, "m": 1e10}


@dataclass(frozen=True)
class Setup:
    """The experiment as the user tells it (angstrom, radian, eV); `Geometry` follows from it.

    Its fields are in the order of the readers' knobs. The sampling is said once: ``angle`` of a detector
    pixel, or the object's ``pixel`` (far field), or ``distance`` and ``detector_pixel``.
    """

    energy: float | None = None
    beam: Beam = "electron"
    angle: float | None = None
    pixel: float | None = None
    distance: float | None = None
    detector_pixel: float | None = None
    focus: float | None = None
    step: float | tuple[float, float] | None = None
    grid: tuple[int, int] | None = None
    rotation: float = 0.0
    wavelength: float | None = None

    def geometry(self, shape: tuple[int, int], name: str) -> Geometry:
        """The geometry of a detector of this many pixels."""
        wavelength = self.wavelength or self._wavelength(name)
        angle = self._angle(shape, wavelength, name)
        return Geometry(
            wavelength=wavelength,
            shape=shape,
            angle=angle,
            distance=self.distance,
            focus=self.focus,
            beam=self.beam,
        )

    def _wavelength(self, name: str) -> float:
        if self.energy is None:
            raise BadInput(f"{name}: energy", None, "is not in the file: write for example energy: 80 keV")
        return wavelength_of(self.energy, self.beam)

    def _angle(self, shape: tuple[int, int], wavelength: float, name: str) -> tuple[float, float]:
        by_distance = self.distance is not None and self.detector_pixel is not None
        if (self.angle is not None) + (self.pixel is not None) + by_distance != 1:
            fix = "is not clear: give either angle, or pixel, or distance and detector_pixel"
            raise BadInput(f"{name}: sampling", None, fix)
        for key in ("angle", "pixel", "distance", "detector_pixel"):
            value = getattr(self, key)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise BadInput(f"{name}: {key}", value, "must be a positive number")
        if self.pixel is not None:
            if self.focus is not None:
                raise BadInput(f"{name}: pixel", None, "cannot define a near field: give detector_pixel")
            return (wavelength / (shape[0] * self.pixel), wavelength / (shape[1] * self.pixel))
        angle = self.angle if self.angle is not None else self.detector_pixel / self.distance  # type: ignore
        return (angle, angle)

    def raster(self, count: int, grid: tuple[int, int] | None, name: str) -> np.ndarray:
        """Positions (angstrom) of a raster, slow axis along rows, turned by `rotation`."""
        if grid is None:
            raise BadInput(f"{name}: grid", None, "is needed without positions: write grid: [slow, fast]")
        if grid[0] * grid[1] != count:
            fix = f"does not hold {count} patterns: make slow times fast {count}"
            raise BadInput(f"{name}: grid", f"{grid[0]}x{grid[1]}", fix)
        if self.step is None:
            raise BadInput(
                f"{name}: step", None, "is needed without positions: write for example step: 0.4 A"
            )
        step = np.broadcast_to(np.asarray(self.step, float), 2)
        if not (np.isfinite(step).all() and (step > 0).all()):
            raise BadInput(f"{name}: step", self.step, "must be positive")
        return turned(np.indices(grid).reshape(2, -1).T * step, self.rotation)


def turned(positions: np.ndarray, angle: float) -> np.ndarray:
    """Positions (row, column) turned by an angle that takes the row axis towards the column axis.

    Example:
        >>> turned(np.array([[1.0, 0.0]]), np.pi / 2).round(6).tolist()
        [[0.0, 1.0]]
    """
    c, s = math.cos(angle), math.sin(angle)
    return positions @ np.array([[c, s], [-s, c]])


def clean(counts: Counts, place: str, /, *, negative: Negative = "clip") -> tuple[Counts, np.ndarray]:
    """Counts without NaN and negative values, and a mask ``(y, x)`` of pixels that can be trusted.

    A pixel is masked when it is NaN or infinite in any pattern, or holds a detector's mark for
    "no value" (negative, or the largest integer of its type) in all of them. Lazy stacks are judged
    by 500 patterns; an array in memory is mended where it is. ``negative="keep"`` leaves negative
    values for `phaseloom.data.prepare.nonnegative`.
    """
    if counts.dtype.kind == "b":
        return mapped(counts, lambda stack: stack.astype(np.uint8)), np.ones(counts.shape[1:], bool)
    seen = _Seen.of(counts)
    broken, marked = seen.broken, seen.marked & (negative == "clip" or counts.dtype.kind == "u")
    if broken.any():
        log.warning("%s: %d pixels are not finite and were masked", place, broken.sum())
    if seen.negative and negative == "clip":
        log.warning("%s: negative counts were set to zero", place)
    if marked.any():
        log.warning("%s: %d pixels hold no value in any pattern and were masked", place, marked.sum())
    if counts.dtype.kind == "f" or (counts.dtype.kind == "i" and negative == "clip"):
        counts = _mended(counts, partial(_mend, negative=negative), seen)
    return counts, ~(broken | marked)


@dataclass
class _Seen:
    """What a look through the patterns found."""

    broken: np.ndarray
    marked: np.ndarray
    negative: bool = False
    infinite: bool = False
    numbers: bool = False

    @classmethod
    def of(cls, counts: Counts) -> "_Seen":
        n, lazy, kind = counts.shape[0], not isinstance(counts, np.ndarray), counts.dtype.kind
        index = np.unique(np.linspace(0, n - 1, min(n, 500) if lazy else n).astype(int))
        seen = cls(np.zeros(counts.shape[1:], bool), np.ones(counts.shape[1:], bool))
        for some in pieces(Chosen(counts, index)):
            seen.add(counts[index[some]])
        seen.broken |= kind == "f" and not seen.numbers
        seen.marked &= kind in "iu"
        return seen

    def add(self, stack: np.ndarray) -> None:
        """Look at some more patterns."""
        if stack.dtype.kind == "f":
            good = np.isfinite(stack)
            some = good.any((1, 2))  # a frame without any number is a lost frame, not lost pixels
            self.broken |= ~good[some].all(0)
            self.numbers = self.numbers or bool(some.any())
            self.infinite = self.infinite or not good.all()
        below = stack < 0
        self.negative = self.negative or bool(below.any())
        if stack.dtype.kind in "iu":
            self.marked &= (below | (stack == np.iinfo(stack.dtype).max)).all(0)


def _mended(counts: Counts, mend: Callable[[np.ndarray], np.ndarray], seen: _Seen) -> Counts:
    if not isinstance(counts, np.ndarray):
        return mapped(counts, mend)
    if not (seen.negative or seen.infinite):
        return counts
    if not counts.flags.writeable:
        return mapped(counts, mend, lazy=True)
    for index in pieces(counts):
        place = slice(index[0], index[-1] + 1)
        counts[place] = mend(counts[place])
    return counts


def _mend(stack: np.ndarray, negative: Negative) -> np.ndarray:
    stack = np.nan_to_num(stack, nan=0.0, posinf=0.0, neginf=0.0) if stack.dtype.kind == "f" else stack
    return np.maximum(stack, 0, dtype=stack.dtype) if negative == "clip" else stack


def load_array(path: Path, /, *, lazy: bool = False) -> np.ndarray:
    """The array of an ``.npy`` file; pickled objects are never loaded."""
    try:
        data = np.load(path, mmap_mode="r" if lazy else None, allow_pickle=False)
    except BROKEN as error:
        fix = "is not a whole .npy file of numbers: save it again with numpy.save, without objects"
        raise BadInput(path.name, None, fix) from error
    if not isinstance(data, np.ndarray):
        data.close()
        raise BadInput(path.name, None, "is an archive of arrays: rename it to .npz")
    return data


def table(path: Path, /) -> np.ndarray:
    """Numbers from an ``.npy``, ``.csv`` or ``.txt`` file."""
    path = checked(path)
    if path.suffix == ".npy":
        return load_array(path)
    try:
        text = path.read_text()
        lines = [line for line in text.replace(",", " ").splitlines() if line.split("#")[0].strip()]
        return np.array([[float(word) for word in line.split("#")[0].split()] for line in lines])
    except BROKEN as error:
        raise BadInput(
            path.name, None, "is not a table of numbers: write two columns, row and column, no header"
        ) from error


def placed(values: np.ndarray, unit: Unit, geometry: Geometry, count: int, place: str) -> np.ndarray:
    """Positions ``(n, 2)`` in angstrom from a table in some unit."""
    if values.dtype.kind not in "iuf" or values.ndim < 2 or values.shape[-1] != 2:
        raise BadInput(place, f"shape {values.shape}", "must be numbers in two columns, row and column")
    values = values.reshape(-1, 2).astype(np.float64)
    if len(values) != count:
        raise BadInput(place, f"{len(values)} rows", f"but there are {count} patterns: give one row for each")
    if not np.isfinite(values).all():
        raise BadInput(place, None, "holds positions that are not finite: remove those patterns")
    if unit == "px":
        return values * np.asarray(geometry.pixel)
    if unit not in _UNITS:
        raise BadInput(
            f"{place}: positions_unit", unit, f"is not known: choose one of {', '.join(_UNITS)}, px"
        )
    return values * _UNITS[unit]


@dataclass(frozen=True)
class Tables:
    """Positions and mask that a user names: members of the data file, or files of numbers beside it.

    ``member`` reads a member of the data file by its name; without it only files are known.
    """

    positions: str | None = None
    unit: Unit = "A"
    mask: str | None = None
    member: Callable[[str], np.ndarray] | None = None

    def read(self, path: Path, name: str | None) -> np.ndarray | None:
        """The table of this name."""
        if name is None:
            return None
        if self.member is None or Path(name).suffix in (".npy", ".csv", ".txt"):
            return table(beside(path, name))
        return np.asarray(self.member(name))


def scan_of(
    path: Path,
    source: Any,
    setup: Setup,
    tables: Tables,
    /,
    *,
    how: Arrangement,
    negative: Negative = "clip",
    key: str = "",
) -> Scan4D:
    """A scan from the stored array ``key`` of a file, and what the user says of the experiment."""
    place = f"{path.name}: {key}" if key else path.name
    counts, raster = arranged(source, place, how)
    counts, trusted = clean(counts, place, negative=negative)
    geometry = setup.geometry(counts.shape[1:], path.name)  # type: ignore[arg-type]
    grid = setup.grid or raster
    where = tables.read(path, tables.positions)
    if where is None:
        positions = setup.raster(counts.shape[0], grid, path.name)
    else:
        place = f"{path.name}: positions: {tables.positions}"
        positions = placed(where, tables.unit, geometry, counts.shape[0], place)
        positions = turned(positions, setup.rotation)
        grid = grid if grid and grid[0] * grid[1] == len(positions) else None
    mask = tables.read(path, tables.mask)
    if mask is not None:
        trusted &= _fitting(mask, f"{path.name}: mask: {tables.mask}", geometry.shape)
    if not trusted.any():
        raise BadInput(f"{path.name}: mask", None, "marks every pixel as bad: is it inverted?")
    return Scan4D(
        counts=counts, positions=positions, geometry=geometry, mask=trusted, grid=grid, oriented=False
    )


def _fitting(mask: np.ndarray, place: str, shape: tuple[int, int]) -> np.ndarray:
    if mask.shape != shape or mask.dtype.kind not in "biuf":
        raise BadInput(
            place, f"shape {mask.shape}", f"does not fit the patterns: make it {shape}, True = good"
        )
    return mask.astype(bool)


def beside(path: Path, name: str) -> Path:
    """A file named in a knob: absolute, or in the folder of the data, or in the working folder."""
    near = path.parent / name
    return near if near.exists() else Path(name)
