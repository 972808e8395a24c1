"""Images with calibrated axes: what files of other programs are written from.

Axes are ``(..., mode, slice, y, x)``; lengths along them are in angstrom and angles in radian, with the
coordinate of the first pixel. A phase is that of the transmission ``exp(+i phase)``: matter is positive for
electrons and negative for hard X-rays.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput, nearest

__all__ = [
    "Axis",
    "Signal",
    "Signals",
    "choose_patterns",
    "find_raster_order",
    "image_axes",
    "iterate_blocks",
    "scan_steps",
    "signals_of_scan",
]

MAX_DISTANCE_FROM_RASTER = 0.2
"""Steps; motors of X-ray scans err by some percent of a step."""

MAX_BYTES_OF_BLOCK = 64_000_000
"""Bytes of patterns that are held in memory while they are copied."""

UNITS = {("A", "nm"): 0.1, ("A", "m"): 1e-10, ("rad", "mrad"): 1e3}
"""Factors from the inner units to those of files."""


@dataclass(frozen=True)
class Axis:
    """One axis with equal steps.

    Attributes:
        name: ``y``, ``x``, ``slice``, ``mode``, ...
        step: between neighbours.
        start: coordinate of the first.
        unit: ``A``, ``rad``, or nothing for numbers that are counted.

    Example:
        >>> Axis("y", step=2.0, start=-10.0, unit="A").to("nm")
        Axis(name='y', step=0.2, start=-1.0, unit='nm')
    """

    name: str
    step: float = 1.0
    start: float = 0.0
    unit: str = ""

    def to(self, *units: str) -> "Axis":
        """The axis in the first of some units that it can be given in; unchanged if there is none."""
        for unit in units:
            if factor := UNITS.get((self.unit, unit)):
                return Axis(self.name, self.step * factor, self.start * factor, unit)
        return self

    def coordinates(self, size: int, /) -> np.ndarray:
        """Coordinates of so many pixels."""
        return self.start + self.step * np.arange(size)


@dataclass(frozen=True, eq=False)
class Signal:
    """An array with its axes.

    Attributes:
        name: such as ``phase``; of letters, digits and underscores.
        values: an array, or patterns ``(n, y, x)`` that are read when asked for.
        axes: one for each axis of ``shape``.
        unit: of the values: ``rad``, ``counts``, or nothing.
        title: for people.
        grid: (slow, fast) where patterns ``(n, y, x)`` are to be seen as ``(slow, fast, y, x)``.
    """

    name: str
    values: Any
    axes: tuple[Axis, ...]
    unit: str = ""
    title: str = ""
    grid: tuple[int, int] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array as its axes describe it."""
        shape = tuple(int(n) for n in self.values.shape)
        return shape if self.grid is None else (*self.grid, *shape[1:])

    @property
    def is_complex(self) -> bool:
        """Whether the values are waves."""
        return self.values.dtype.kind == "c"


@dataclass(frozen=True, eq=False)
class Signals:
    """All images of one measurement or reconstruction, the one to be seen first at the beginning.

    Attributes:
        title: for people.
        signals: see `Signal`.
        kind: what they are of: ``result``, ``scan``, ``direct``, ``prediction`` or ``virtual``.
        beam: ``electron`` or ``photon``; ``None``: not known.
        wavelength: angstrom.
        energy: of a photon, or kinetic energy of an electron, eV.
        distance: object to detector, angstrom.
        angle: radian per detector pixel (y, x).
        metadata: of the scan, text by name, as its file has it.
        process: what made the images: text by name (``program``, ``version``, ``recipe``, ``verdict``, ...).
    """

    title: str
    signals: tuple[Signal, ...]
    kind: str = ""
    beam: str | None = None
    wavelength: float | None = None
    energy: float | None = None
    distance: float | None = None
    angle: tuple[float, float] | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    process: Mapping[str, str] = field(default_factory=dict)

    def find(self, name: str, place: str, /) -> Signal:
        """The signal of a name.

        Raises:
            BadInput: there is none; ``place`` begins the sentence.
        """
        for signal in self.signals:
            if signal.name == name:
                return signal
        known = [signal.name for signal in self.signals]
        raise BadInput(f"{place}: of", name, f"is not there: {nearest(name, known)}")


def image_axes(pixel: tuple[float, float], start: tuple[float, float] = (0.0, 0.0), /) -> tuple[Axis, Axis]:
    """Axes ``y`` and ``x`` of an image.

    Args:
        pixel: (y, x), angstrom.
        start: coordinate (y, x) of the centre of the first pixel, angstrom.
    """
    y, x = (Axis(name, float(p), float(s), "A") for name, p, s in zip("yx", pixel, start, strict=True))
    return y, x


def signals_of_scan(scan: Scan4D, /) -> Signals:
    """The patterns of a scan ``(slow, fast, y, x)``, or ``(pattern, y, x)`` of positions off a raster.

    Detector axes are angles from the middle pixel ``[N // 2, N // 2]``.

    Example:
        >>> from phaseloom.data.scan import Geometry
        >>> geometry = Geometry(wavelength=0.0197, shape=(4, 6), angle=(1e-3, 1e-3), beam="electron")
        >>> places = np.indices((2, 3)).reshape(2, -1).T * [0.5, 0.4]
        >>> scan = Scan4D(counts=np.ones((6, 4, 6)), positions=places, geometry=geometry, grid=(2, 3))
        >>> [(axis.name, axis.step) for axis in signals_of_scan(scan).signals[0].axes[:2]]
        [('scan_y', 0.5), ('scan_x', 0.4)]
    """
    geometry = scan.geometry
    detector = tuple(
        Axis(name, angle, -(size // 2) * angle, "rad")
        for name, angle, size in zip(("angle_y", "angle_x"), geometry.angle, geometry.shape, strict=True)
    )
    axes: tuple[Axis, ...] = (Axis("pattern"),)
    if scan.grid is not None:
        steps = scan_steps(scan.positions, scan.grid)
        axes = tuple(Axis(f"scan_{name}", step, 0.0, "A") for name, step in zip("yx", steps, strict=True))
    return Signals(
        title=scan.metadata.get("title") or f"{len(scan)} patterns",
        signals=(Signal("patterns", scan.counts, (*axes, *detector), "counts", "patterns", scan.grid),),
        kind="scan",
        beam=geometry.beam,
        wavelength=geometry.wavelength,
        energy=geometry.energy,
        distance=geometry.distance,
        angle=geometry.angle,
        metadata=dict(scan.metadata),
    )


def find_raster_order(positions: np.ndarray, /) -> np.ndarray | None:
    """Numbers of the patterns on the raster of their positions ``(slow, fast)``; ``None``: they are on none.

    Rows are scanned one after the other, all in one direction or every second one backwards; the raster may
    be turned or sheared. A position may lie `MAX_DISTANCE_FROM_RASTER` steps off it.

    Args:
        positions: ``(n, 2)`` in the order of the scan.

    Example:
        >>> find_raster_order(np.array([[0.0, 0.0], [0.0, 1.0], [2.0, 1.0], [2.0, 0.0]])).tolist()
        [[0, 1], [3, 2]]
    """
    steps = np.diff(positions, axis=0)
    if len(steps) < 3:
        return None
    along = np.median(steps, axis=0)
    along = steps[0] if np.hypot(*(along - steps[0])) > 0.5 * np.hypot(*steps[0]) else along
    turns = np.flatnonzero(np.hypot(*(steps - along).T) > 0.5 * np.hypot(*along))
    fast = int(turns[0]) + 1 if len(turns) else len(positions)
    if fast < 2 or len(positions) % fast or len(positions) == fast:
        return None
    order = np.arange(len(positions)).reshape(-1, fast)
    snake = order.copy()
    snake[1::2] = snake[1::2, ::-1]
    return next((one for one in (order, snake) if _is_raster(positions[one])), None)


def _is_raster(table: np.ndarray) -> bool:
    """Whether positions ``(slow, fast, 2)`` are those of a parallelogram, within a share of a step."""
    slow, fast = np.indices(table.shape[:2]).reshape(2, -1)
    design = np.column_stack([np.ones(len(slow)), slow, fast])
    fit, *_ = np.linalg.lstsq(design, table.reshape(-1, 2), rcond=None)
    lengths = np.hypot(*fit[1:].T)
    away = np.hypot(*(design @ fit - table.reshape(-1, 2)).T).max()
    area = abs(np.linalg.det(fit[1:]))
    return bool(away <= MAX_DISTANCE_FROM_RASTER * lengths.min() and area > 0.5 * lengths.prod())


def scan_steps(positions: np.ndarray, grid: tuple[int, int], /) -> tuple[float, float]:
    """Length of a step along the slow and the fast axis of a raster, angstrom; 1 where there is none.

    Example:
        >>> scan_steps(np.array([[0.0, 0.0], [0.0, 3.0], [2.0, 0.0], [2.0, 3.0]]), (2, 2))
        (2.0, 3.0)
    """
    raster = positions.reshape(*grid, 2)
    lengths = [np.hypot(*np.diff(raster, axis=axis).reshape(-1, 2).T) for axis in (0, 1)]
    slow, fast = (float(np.median(one)) if one.size else 0.0 for one in lengths)
    return slow or fast or 1.0, fast or slow or 1.0


def choose_patterns(scan: Scan4D, most: int, /) -> tuple[np.ndarray, tuple[int, int] | None]:
    """Numbers of at most so many patterns, and the raster that they are: every k-th place along both axes.

    Of positions off a raster they are evenly spread over the list.

    Example:
        >>> from phaseloom.data.scan import Geometry
        >>> geometry = Geometry(wavelength=0.0197, shape=(4, 6), angle=(1e-3, 1e-3), beam="electron")
        >>> places = np.indices((4, 4)).reshape(2, -1).T
        >>> scan = Scan4D(counts=np.ones((16, 4, 6)), positions=places, geometry=geometry, grid=(4, 4))
        >>> choose_patterns(scan, 5)
        (array([ 0,  2,  8, 10]), (2, 2))
    """
    if scan.grid is None:
        return np.unique(np.linspace(0, len(scan) - 1, min(most, len(scan))).round().astype(int)), None
    slow, fast = scan.grid
    every = max(1, math.ceil(math.sqrt(slow * fast / most)))
    rows, columns = np.arange(0, slow, every), np.arange(0, fast, every)
    return (rows[:, None] * fast + columns).ravel(), (len(rows), len(columns))


def iterate_blocks(signal: Signal, /) -> Iterator[tuple[tuple[slice, ...], np.ndarray]]:
    """A signal in pieces that fit in memory: where each lies along the first axes, and its values.

    Example:
        >>> pieces = list(iterate_blocks(Signal("a", np.zeros((2, 3)), (Axis("y"), Axis("x")))))
        >>> [values.shape for _, values in pieces]
        [(2, 3)]
    """
    if isinstance(signal.values, np.ndarray):
        yield (slice(None),) * len(signal.shape), signal.values.reshape(signal.shape)
        return
    n, *pattern = signal.values.shape
    size = max(1, MAX_BYTES_OF_BLOCK // max(1, math.prod(pattern) * signal.values.dtype.itemsize))
    fast = n if signal.grid is None else signal.grid[1]
    for row in range(0, n, fast):
        for start in range(row, row + fast, size):
            stop = min(start + size, row + fast)
            values = np.asarray(signal.values[np.arange(start, stop)])
            if signal.grid is None:
                yield (slice(start, stop),), values
            else:
                yield (slice(row // fast, row // fast + 1), slice(start - row, stop - row)), values[None]
