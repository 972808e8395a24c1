"""A scan and the geometry it was taken in: frozen values that every other room reads.

Axes are ``(pattern, y, x)``; patterns have zero frequency at pixel ``[N // 2, N // 2]``.
Positions are those of the **beam on the object** in angstrom, ``(n, 2)`` as (row, column) of the
object array, whose rows and columns run along those of the detector. Lengths are in angstrom, angles
in radian, energies in electronvolt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from phaseloom import plugins
from phaseloom.data.counts import Counts, SelectedCounts, compute_mean
from phaseloom.errors import BadInput
from phaseloom.metrics.scan_area import measure_area_per_position
from phaseloom.renames import renamed_attribute
from phaseloom.units import (
    ELECTRON_REST_ENERGY,
    ENERGY,
    LENGTH,
    PLANCK_TIMES_C,
    Dimension,
    electron_wavelength,
    photon_wavelength,
)

__all__ = ["LAB_BASIS", "MAX_RELATIVE_DIFFERENCE", "Geometry", "Scan4D", "wavelength_of"]

LAB_BASIS = ((0.0, -1.0), (-1.0, 0.0), (0.0, 0.0))
"""Directions of detector rows and columns (columns of this 3x2 table) in the CXI laboratory frame."""

ACROSS = (0.0, 0.0, 1.0)
"""Normal of a sample that is perpendicular to the beam."""


MAX_RELATIVE_DIFFERENCE = 1e-3
"""Of wavelengths, and of angles of a pixel, of several scans that are one experiment."""

MAX_PATTERNS_FOR_TEXT = 16
"""Patterns that are read for the mean counts in the text of a scan."""


def wavelength_of(energy: float, beam: Literal["photon", "electron"] = "photon") -> float:
    """Wavelength in angstrom of photons, or of electrons by their kinetic energy (eV, relativistic).

    Raises:
        BadInput: an energy between 1 eV and 100 MeV is expected.

    Example:
        >>> round(wavelength_of(300e3, "electron"), 7)
        0.0196875
    """
    if not (isinstance(energy, (int, float, np.number)) and 1 <= energy <= 1e8):
        kind = "an electron" if beam == "electron" else f"a {beam}"
        raise BadInput("energy", energy, f"is not the energy of {kind} in eV: write for example '80 keV'")
    return photon_wavelength(float(energy)) if beam == "photon" else electron_wavelength(float(energy))


def _downstream(normal: Sequence[float]) -> tuple[float, float, float]:
    """A unit vector along a normal, of its two directions the one that the beam goes."""
    vector = np.asarray(normal, np.float64)
    length = float(np.linalg.norm(vector)) if vector.shape == (3,) else math.nan
    if not (math.isfinite(length) and length > 0 and abs(vector[2]) > 1e-3 * length):
        fix = "must be three numbers (x, y, z), of a surface that does not lie along the beam (z)"
        raise BadInput("geometry.normal", normal, fix)
    x, y, z = (vector * math.copysign(1 / length, vector[2])).tolist()
    return ACROSS if math.hypot(x, y) < 1e-6 else (x + 0.0, y + 0.0, z)


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """How a pattern was taken; what a pixel means follows from it and is never written down.

    Attributes:
        wavelength: angstrom.
        shape: detector pixels (y, x).
        angle: radian per detector pixel (y, x), as seen from the object; a single number is both.
        distance: object to detector, angstrom; ``None`` where only angles are known (electrons).
        focus: near field: focus to object, angstrom (``inf`` for a parallel beam); ``None``: far field.
        beam: ``"photon"`` or ``"electron"``.
        basis: 3x2, unit vectors of the detector's rows and columns in the laboratory (CXI) frame.
        normal: of the sample's surface in that frame, made a unit vector that points downstream; pixels and
            positions are then as the detector sees them (docs/geometry.md).

    Example:
        >>> round(Geometry(wavelength=1.4, shape=(128, 128), angle=(4e-5, 4e-5)).pixel[0], 4)
        273.4375
    """

    wavelength: float
    shape: tuple[int, int]
    angle: tuple[float, float]
    distance: float | None = None
    focus: float | None = None
    beam: Literal["photon", "electron"] = "photon"
    basis: tuple[tuple[float, float], ...] = LAB_BASIS
    normal: tuple[float, float, float] = ACROSS

    def __post_init__(self) -> None:
        object.__setattr__(self, "normal", _downstream(self.normal))
        for name in ("angle", "shape"):
            object.__setattr__(self, name, _require_pair(f"geometry.{name}", getattr(self, name)))
        _require_directions(self.basis)
        if not (math.isfinite(self.wavelength) and self.wavelength > 0):
            raise BadInput("geometry.wavelength", self.wavelength, "must be a positive number")
        if self.focus is not None and (self.distance is None or self.distance <= 0 or self.focus == 0):
            raise BadInput("geometry.distance", self.distance, "a near-field scan needs object to detector")
        if self.near and self.has_tilted_sample:
            fix = "tilts the sample, not supported in the near field: leave it out, or read a far field"
            raise BadInput("geometry.normal", self.normal, fix)

    @property
    def has_tilted_sample(self) -> bool:
        """Whether the sample's surface is not perpendicular to the beam."""
        return self.normal != ACROSS

    @property
    def steps(self) -> np.ndarray:
        """Steps ``(3, 2)`` of the object's rows and columns on the sample's surface, angstrom."""
        from phaseloom.physics import tilted_planes as surface  # brings torch, which takes two seconds

        return surface.grid_steps(self.basis, self.pixel, self.normal)

    @property
    def near(self) -> bool:
        """Whether the detector sees the near field (a hologram) rather than the far field."""
        return self.focus is not None

    @property
    def magnification(self) -> float:
        """Geometric magnification of a cone beam: (focus + distance) / focus."""
        if self.focus is None or math.isinf(self.focus):
            return 1.0
        return (self.focus + (self.distance or 0.0)) / self.focus

    @property
    def flight(self) -> float:
        """Effective propagation distance of the near field, angstrom (Fresnel scaling theorem)."""
        return (self.distance or 0.0) / self.magnification

    @property
    def pixel(self) -> tuple[float, float]:
        """Object pixel (y, x), angstrom."""
        if self.near:
            height, width = (a * (self.distance or 0.0) / abs(self.magnification) for a in self.angle)
        else:
            height, width = (self.wavelength / (n * a) for n, a in zip(self.shape, self.angle, strict=True))
        return height, width

    @property
    def detector_pixel(self) -> tuple[float, float] | None:
        """Detector pixel (y, x), angstrom; ``None`` where the distance is not known."""
        return (
            None if self.distance is None else (self.angle[0] * self.distance, self.angle[1] * self.distance)
        )

    @property
    def energy(self) -> float:
        """Energy of a photon, or kinetic energy of an electron, eV."""
        pc = PLANCK_TIMES_C / self.wavelength
        if self.beam == "photon":
            return pc
        return math.hypot(pc, ELECTRON_REST_ENERGY) - ELECTRON_REST_ENERGY

    def crop(self, shape: tuple[int, int], /) -> Geometry:
        """The same detector with fewer (or, padded, more) pixels."""
        return replace(self, shape=(int(shape[0]), int(shape[1])))

    def bin(self, factor: int, /) -> Geometry:
        """A detector whose pixels are ``factor`` times as large and as many times fewer."""
        shape = (self.shape[0] // factor, self.shape[1] // factor)
        return replace(self, shape=shape, angle=(self.angle[0] * factor, self.angle[1] * factor))

    def transpose(self) -> Geometry:
        """Rows and columns of the detector exchanged."""
        return replace(self, shape=self.shape[::-1], angle=self.angle[::-1])

    cropped = renamed_attribute("cropped", "crop")
    binned = renamed_attribute("binned", "bin")
    transposed = renamed_attribute("transposed", "transpose")
    tilted = renamed_attribute("tilted", "has_tilted_sample")


@dataclass(frozen=True, kw_only=True, eq=False)
class Scan4D:
    """Measured patterns with everything needed to model them; transforms return a new one.

    Attributes:
        counts: ``(n, y, x)``, a numpy array or anything lazy (`phaseloom.data.counts`), centred.
        positions: ``(n, 2)`` beam positions on the object, angstrom, (row, column).
        geometry: see `Geometry`.
        mask: ``(y, x)``, True where a pixel can be trusted; default everywhere.
        background: ``(y, x)`` expected counts without beam, or ``None``.
        flat: ``(y, x)`` detector efficiency (1 = nominal), or ``None``.
        weights: ``(n,)`` relative intensity of each shot, or ``None``.
        heights: ``(n,)`` position of the beam along its axis, angstrom, or ``None``.
        probe: ``(mode, y, x)`` complex guess that came with the data, or ``None``.
        grid: (slow, fast) when the positions are a raster, else ``None``.
        raster_places: ``(n, 2)`` line of the raster and place in it of each pattern, where some patterns of a
            raster were left out, else ``None``.
        oriented: whether the source says how detector axes lie against scan axes.
        descan: ``(n, 2)`` known shift of each far-field pattern (y, x), modelled pixels, or ``None``.
        modelled: the grid on which patterns are modelled, when it is larger than the detector
            (`phaseloom.data.prepare.enlarge`): more pixels of the same angle, or finer ones.
        scan_numbers: ``(n,)`` which of several scans that were joined each pattern is of, from 0
            (`phaseloom.data.prepare.join`), or ``None``: one scan.
        scan_offsets: ``(scan, 2)`` what was added to the positions of each of them, angstrom.
        scan_wavelengths: ``(scan,)`` angstrom, where they differ; ``geometry`` has the shortest of them.
        metadata: title, instrument, dates: text by name.

    Raises:
        BadInput: shapes that do not fit together, or values that cannot be: see the sentence.

    Example:
        >>> geometry = Geometry(wavelength=0.0197, shape=(4, 4), angle=(1e-3, 1e-3), beam="electron")
        >>> Scan4D(counts=np.ones((2, 4, 4)), positions=np.zeros((2, 2)), geometry=geometry).mask.all()
        np.True_
    """

    counts: Counts
    positions: np.ndarray
    geometry: Geometry
    mask: np.ndarray = None  # pyright: ignore[reportAssignmentType]
    background: np.ndarray | None = None
    flat: np.ndarray | None = None
    weights: np.ndarray | None = None
    heights: np.ndarray | None = None
    probe: np.ndarray | None = None
    grid: tuple[int, int] | None = None
    raster_places: np.ndarray | None = None
    oriented: bool = True
    descan: np.ndarray | None = None
    modelled: Geometry | None = None
    scan_numbers: np.ndarray | None = None
    scan_offsets: np.ndarray | None = None
    scan_wavelengths: np.ndarray | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "counts", _require_patterns(self.counts))
        if self.mask is None:
            set_(self, "mask", np.ones(self.counts.shape[1:], bool))
        kinds = dict.fromkeys(("mask", "background", "flat"), _to_array)
        kinds |= {"positions": _require_real, "heights": _require_real, "descan": _require_real}
        for name, kind in (kinds | {"weights": _require_positive}).items():
            if (value := getattr(self, name)) is not None:
                set_(self, name, kind(f"scan.{name}", value))
        set_(self, "positions", np.asarray(self.positions, np.float64))
        if self.grid is not None:  # which says where all of them are
            set_(self, "raster_places", None)
        self._check()
        if self.probe is not None:
            shapes = {self.geometry.shape, self.window.shape}
            set_(self, "probe", _require_wave(self.probe, shapes))

    def _check(self) -> None:
        n, *window = self.counts.shape
        pattern = tuple(window)
        wanted = {"positions": (n, 2), "mask": pattern, "background": pattern, "flat": pattern}
        wanted |= {"weights": (n,), "heights": (n,), "descan": (n, 2), "scan_numbers": (n,)}
        wanted |= {"raster_places": (n, 2)}
        for name, shape in wanted.items():
            value = getattr(self, name)
            if value is not None and value.shape != shape:
                fix = f"{value.shape} does not fit {n} patterns of {window[0]}x{window[1]}: make it {shape}"
                raise BadInput(f"scan.{name}", None, fix)
        if pattern != self.geometry.shape:
            raise BadInput("scan.geometry.shape", self.geometry.shape, f"but the patterns are {pattern}")
        if self.modelled is not None and not self._matches(self.modelled):
            fix = f"does not fit a detector of {pattern}: let enlarge be the last step of prepare"
            raise BadInput("scan.modelled", self.modelled.shape, fix)
        if not self.mask.any():
            raise BadInput("scan.mask", None, "marks every pixel as bad: is it inverted?")

    def _matches(self, other: Geometry) -> bool:
        """Whether a grid has this detector's angle per pixel, or its range of angles, and no fewer pixels."""
        own = self.geometry
        wider = np.allclose(other.angle, own.angle)
        finer = np.allclose(np.multiply(other.angle, other.shape), np.multiply(own.angle, own.shape))
        return (wider or finer) and all(a >= b for a, b in zip(other.shape, own.shape, strict=True))

    def __len__(self) -> int:
        """Number of patterns."""
        return self.counts.shape[0]

    @property
    def window(self) -> Geometry:
        """The geometry in which patterns are modelled: that of the detector unless enlarged.

        Scans of several wavelengths have the pixels of the shortest and the field of the longest one.
        """
        if self.scan_wavelengths is None or self.modelled is not None:
            return self.geometry if self.modelled is None else self.modelled
        one = self.geometry
        wider = float(self.scan_wavelengths.max()) / one.wavelength - 1
        shape = [n + 2 * math.ceil(wider * n / 2) for n in one.shape]
        angle = [a * n / m for a, n, m in zip(one.angle, one.shape, shape, strict=True)]
        return replace(one, shape=(shape[0], shape[1]), angle=(angle[0], angle[1]))

    def select(self, index: np.ndarray, /) -> Scan4D:
        """The patterns of a boolean or integer index array, with all that belongs to them.

        Raises:
            BadInput: an index that leaves no pattern, or is outside of the scan.
        """
        try:
            index = np.atleast_1d(np.arange(len(self))[index])
        except IndexError as problem:
            fix = f"fits no scan of {len(self)} patterns: {problem}"
            raise BadInput("scan.select", index, fix) from None
        if len(index) == 0:
            raise BadInput("scan.select", None, "leaves no pattern")
        steady = bool((np.diff(index) == 1).all())
        if isinstance(self.counts, np.ndarray):
            counts = self.counts[index[0] : index[-1] + 1] if steady else self.counts[index]
        else:
            counts = SelectedCounts(self.counts, index)
        parts = {
            name: None if (value := getattr(self, name)) is None else value[index]
            for name in ("weights", "heights", "descan", "scan_numbers")
        }
        grid = self.grid if len(index) == len(self) and steady else None
        places = self.find_raster_places()
        parts["raster_places"] = None if places is None else places[index]
        return replace(self, counts=counts, positions=self.positions[index], grid=grid, **parts)

    def find_raster_places(self) -> np.ndarray | None:
        """Line of the raster and place in it of each pattern ``(n, 2)``; ``None``: no raster is known.

        Example:
            >>> geometry = Geometry(wavelength=0.0197, shape=(4, 4), angle=(1e-3, 1e-3), beam="electron")
            >>> places = np.indices((2, 3)).reshape(2, -1).T
            >>> scan = Scan4D(counts=np.ones((6, 4, 4)), positions=places, geometry=geometry, grid=(2, 3))
            >>> scan.select(np.array([1, 5])).find_raster_places().tolist()
            [[0, 1], [1, 2]]
        """
        if self.grid is None:
            return self.raster_places
        return np.indices(self.grid).reshape(2, -1).T if math.prod(self.grid) == len(self) else None

    def __repr__(self) -> str:
        """Patterns, beam and sampling in a line; no pattern is read."""
        return f"Scan4D({'; '.join(self._list_facts())})"

    def __str__(self) -> str:
        """The same, with the mean counts of 16 evenly spread patterns.

        Example:
            >>> geometry = Geometry(wavelength=0.0197, shape=(8, 8), angle=(1e-3, 1e-3), beam="electron")
            >>> places = np.indices((2, 3)).reshape(2, -1).T * 0.4
            >>> print(Scan4D(counts=np.ones((6, 8, 8)), positions=places, geometry=geometry, grid=(2, 3)))
            Scan4D: 2 x 3 patterns of 8 x 8 pixels, float64
              electrons of 300 keV, far field
              object pixel 2.46 A x 2.46 A
              step 40 pm x 40 pm
              64 counts per pattern
        """
        mean = float((self.mean_pattern(most=MAX_PATTERNS_FOR_TEXT) * self.mask).sum())
        first, *more = self._list_facts()
        return "\n  ".join([f"Scan4D: {first}", *more, f"{mean:.4g} counts per pattern"])

    def _list_facts(self) -> list[str]:
        geometry = self.geometry
        number = str(len(self)) if self.grid is None else f"{self.grid[0]} x {self.grid[1]}"
        field_of_beam = "near field" if geometry.near else "far field"
        facts = [
            f"{number} patterns of {geometry.shape[0]} x {geometry.shape[1]} pixels, {self.counts.dtype}",
            f"{geometry.beam}s of {_show(ENERGY, geometry.energy)}, {field_of_beam}",
            f"object pixel {_show(LENGTH, *geometry.pixel)}",
        ]
        if self.grid is None:
            return [*facts, f"positions over {_show(LENGTH, *self.extent)}"]
        fast = self.grid[1]
        neighbours = [self.positions[at] for at in (fast, 1) if at < len(self)]
        steps = [float(np.hypot(*(one - self.positions[0]))) for one in neighbours]
        return [*facts, f"step {_show(LENGTH, *steps)}"] if steps else facts

    def _repr_html_(self) -> str:
        describe: Any = plugins.target("phaseloom.data.scan", "describe")
        return describe(self)

    def mean_pattern(self, *, most: int = 2000) -> np.ndarray:
        """Mean of at most ``most`` evenly spread patterns, float64, read in chunks."""
        return compute_mean(self.counts, most=most)

    @property
    def extent(self) -> tuple[float, float]:
        """Scanned field (y, x), angstrom, without the width of the probe."""
        height, width = np.ptp(self.positions, axis=0).tolist()
        return height, width

    @property
    def area_per_pattern(self) -> float | None:
        """Area of the object for each pattern, square angstrom; counts over it are the dose, per area.

        Of far fields that of a position (`phaseloom.metrics.scan_area.measure_area_per_position`), ``None``
        where they do not move. In the near field every pattern has the whole window, so it is the field that
        all windows cover over their number.

        Example:
            >>> geometry = Geometry(wavelength=0.0197, shape=(8, 8), angle=(1e-3, 1e-3), beam="electron")
            >>> places = np.indices((2, 3)).reshape(2, -1).T * 0.5
            >>> scan = Scan4D(counts=np.ones((6, 8, 8)), positions=places, geometry=geometry, grid=(2, 3))
            >>> scan.area_per_pattern
            0.25
        """
        if not self.geometry.near:
            return measure_area_per_position(self.positions, grid=self.grid)
        sizes = zip(self.extent, self.geometry.shape, self.geometry.pixel, strict=True)
        height, width = (length + count * pixel for length, count, pixel in sizes)
        return height * width / len(self)

    def digest(self) -> str:
        """A hash of counts, positions and mask, to recognise the data of a result."""
        import hashlib

        known = hashlib.blake2b(digest_size=16)
        for start in range(0, len(self), 256):
            stop = min(start + 256, len(self))
            known.update(np.ascontiguousarray(self.counts[np.arange(start, stop)]).tobytes())
        known.update(self.positions.tobytes() + self.mask.tobytes())
        if self.heights is not None:
            known.update(np.asarray(self.heights, np.float64).tobytes())
        return known.hexdigest()


def _show(dimension: Dimension, *values: float) -> str:
    """Values with their unit and three digits."""
    return " x ".join(dimension.show(float(f"{value:.3g}")) for value in values)


def _require_pair(place: str, value: Any, /) -> tuple[Any, Any]:
    """Two numbers above zero (y, x); a single one stands for both."""
    both = (value, value) if np.ndim(value) == 0 else tuple(value)
    if len(both) != 2 or not all(_is_number(one) and math.isfinite(one) and one > 0 for one in both):
        raise BadInput(place, value, "must be a positive number, or two of them (y, x)")
    return both


def _require_directions(basis: Any, /) -> None:
    """Refuse a detector basis whose two columns span no plane."""
    table = _require_real("geometry.basis", basis)
    if table.shape != (3, 2):
        raise BadInput("geometry.basis", table.shape, "must have the shape (3, 2)")
    rows, columns = table.T
    lengths = float(np.linalg.norm(rows) * np.linalg.norm(columns))
    if np.linalg.norm(np.cross(rows, columns)) <= 1e-6 * lengths:
        fix = "has parallel or zero columns: give the directions of detector rows and columns"
        raise BadInput("geometry.basis", table.tolist(), fix)


def _require_patterns(counts: Any, /) -> Any:
    """Counts that are read when asked for as they are; lists and tensors as an array."""
    if not (hasattr(counts, "shape") and isinstance(getattr(counts, "dtype", None), np.dtype)):
        counts = _to_array("scan.counts", counts)
    if len(counts.shape) != 3:
        raise BadInput("scan.counts", counts.shape, "must have the axes (pattern, y, x)")
    if not all(counts.shape):
        raise BadInput("scan.counts", counts.shape, "holds no pattern: give at least one")
    if counts.dtype.kind not in "biuf":
        fix = "are no counts: give real numbers, of a complex wave its abs() squared"
        raise BadInput("scan.counts", f"values of {counts.dtype}", fix)
    return counts


def _to_array(place: str, value: Any, /) -> np.ndarray:
    """A numpy array of an array, a list or a tensor."""
    if isinstance(value, np.ndarray):
        return value
    if hasattr(value, "detach"):  # a tensor of PyTorch, on whatever device
        value = value.detach().cpu()
    try:
        out = np.asarray(value)
    except (ValueError, TypeError) as problem:
        raise BadInput(
            place, None, "is not an array: its rows differ in length, or are not numbers"
        ) from problem
    if out.dtype.kind not in "biufc":
        raise BadInput(place, value, "is not an array of numbers")
    return out


def _require_real(place: str, value: Any, /) -> np.ndarray:
    """An array of real and finite numbers."""
    out = _to_array(place, value)
    if out.dtype.kind not in "biuf":
        raise BadInput(place, f"values of {out.dtype}", "must be real numbers")
    return _require_all(
        out, np.isfinite(out), place, "is not finite: remove such patterns, or repair the value"
    )


def _require_positive(place: str, value: Any, /) -> np.ndarray:
    """An array of real, finite numbers above zero."""
    out = _require_real(place, value)
    return _require_all(out, out > 0, place, "must be above zero: remove shots without light")


def _require_wave(value: Any, shapes: set[tuple[int, ...]], /) -> np.ndarray:
    """A probe as finite complex ``(mode, y, x)`` of one of some shapes."""
    out = _to_array("scan.probe", value)
    if out.ndim not in (2, 3) or tuple(out.shape[-2:]) not in shapes or not out.size:
        wanted = " or ".join(f"(mode, {y}, {x})" for y, x in sorted(shapes))
        raise BadInput("scan.probe", out.shape, f"must have the shape {wanted}")
    _require_all(
        out, np.isfinite(out), "scan.probe", "is not finite: repair the value, or leave the probe out"
    )
    return (out if out.dtype.kind == "c" else out + 0j).reshape(-1, *out.shape[-2:])


def _require_all(values: np.ndarray, good: np.ndarray, place: str, fix: str) -> np.ndarray:
    if not good.all():
        first = tuple(int(one) for one in np.argwhere(~good)[0])
        raise BadInput(f"{place}[{', '.join(map(str, first))}]", str(values[first]), fix)
    return values


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, (bool, np.complexfloating))
