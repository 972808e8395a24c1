"""The raster of a scan, as networks and calibrations need it: rows and columns, a pattern at each place."""

import math
from dataclasses import dataclass, replace

import numpy as np

from phaseloom.data.counts import Counts
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput

__all__ = ["MAX_DEVIATION", "MIN_NOTED_DEVIATION", "Raster", "complete_raster", "fill_empty_places"]
__all__ += ["find_completed", "find_raster"]

MAX_DEVIATION = 0.25  # steps that a position may be off its raster
MIN_NOTED_DEVIATION = 0.05  # the same, beyond which there is a note
MAX_EMPTY_SHARE = 0.05  # share of places that may be without a pattern
# How well directions to neighbours agree, up to quarter turns, where positions lie on a turned lattice.
MIN_DIRECTION_AGREEMENT = 0.9


@dataclass(frozen=True, eq=False)
class Raster:
    """Patterns on a lattice along rows and columns.

    Attributes:
        index: ``(rows, columns)`` numbers of the patterns, places ascending along both axes; -1 where
            there is none (see `fill_empty_places`).
        step: between neighbours (y, x), angstrom.
        first: place (y, x) of ``index[0, 0]`` on the lattice, angstrom, in the frame of the scan.
        astray: largest distance of a position from the lattice, steps.
        rotation: of its rows and columns against the axes of the scan's frame, radian from rows towards
            columns; ``first`` is on the lattice that is turned back.
    """

    index: np.ndarray
    step: tuple[float, float]
    first: tuple[float, float]
    astray: float
    rotation: float = 0.0

    def turn(self, places: np.ndarray, /) -> np.ndarray:
        """Places ``(n, 2)`` on the lattice that is turned back, in the frame of the scan."""
        cosine, sine = math.cos(self.rotation), math.sin(self.rotation)
        return places @ np.array([[cosine, sine], [-sine, cosine]])

    def part(self, every: tuple[int, int], at: tuple[int, int], /) -> np.ndarray:
        """Numbers of every so many-th pattern along (y, x), from one on."""
        return self.index[at[0] :: every[0], at[1] :: every[1]]


def find_raster(scan: Scan4D, /) -> Raster:
    """The lattice that the positions of a scan lie on, in any order and turned by any angle.

    Raises:
        BadInput: a line of probes, or positions that are not on a lattice, or on one with many empty places.

    Example:
        >>> from phaseloom.data.scan import Geometry
        >>> geometry = Geometry(wavelength=0.04, shape=(4, 4), angle=(1e-3, 1e-3), beam="electron")
        >>> places = np.array([[0, 3], [0, 0], [2, 0], [2, 3], [4, 3], [4, 0]])
        >>> scan = Scan4D(counts=np.ones((6, 4, 4)), positions=places, geometry=geometry)
        >>> find_raster(scan).index.tolist(), find_raster(scan).step
        ([[1, 0], [2, 3], [5, 4]], (2.0, 3.0))
    """
    _require_rows_and_columns(scan)
    best = _fit_full_lattice(scan.positions, scan.grid) or _fit_sparse_lattice(scan.positions)
    best = best or _fit_turned_lattice(scan.positions)
    if best is None:
        fix = "are not on a raster along rows and columns, which a network needs: regrid the scan"
        raise BadInput("scan.positions", None, fix)
    missing = int((best.index < 0).sum())
    places = best.index.size
    if missing > MAX_EMPTY_SHARE * places:
        fix = "are empty: a network needs a pattern at each, so cut the scan to a part that is full"
        raise BadInput("scan", f"{missing} of {places} places of the raster", fix)
    return best


def fill_empty_places(scan: Scan4D, lattice: Raster, /) -> tuple[Scan4D, Raster, list[str]]:
    """Fill each empty place with the mean of its neighbours' patterns; scan, raster and a note."""
    empty = np.argwhere(lattice.index < 0)
    if len(empty) == 0:
        return scan, lattice, []
    where = lattice.turn(np.asarray(lattice.first) + empty * np.asarray(lattice.step))
    whole, index = _add_means(scan, lattice.index, where)
    verb = "is empty and is" if len(empty) == 1 else "are empty and are"
    note = f"{len(empty)} of {index.size} places of the raster {verb} filled with the mean of the neighbours"
    return whole, replace(lattice, index=index), [note]


def _add_means(scan: Scan4D, index: np.ndarray, where: np.ndarray) -> tuple[Scan4D, np.ndarray]:
    """A scan with the mean of its neighbours at each empty place of a raster, and its numbers on it.

    Args:
        scan: without them.
        index: numbers of its patterns on the raster, -1 at empty places.
        where: positions of the empty places, in their order.
    """
    empty = np.argwhere(index < 0)
    near = tuple(_find_neighbours(index, place) for place in empty)
    full = index.copy()
    full[tuple(empty.T)] = len(scan) + np.arange(len(empty))

    def longer(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else np.concatenate([values, [values[few].mean(0) for few in near]])

    whole = replace(
        scan,
        counts=_CompletedCounts(scan.counts, near),
        positions=np.concatenate([scan.positions, where]),
        grid=None,
        raster_places=None,
        scan_numbers=None,
        **{name: longer(getattr(scan, name)) for name in ("weights", "heights", "descan")},
    )
    return whole, full


def complete_raster(scan: Scan4D, /) -> Scan4D:
    """A scan that blank patterns were left out of, with the mean of the neighbours in their places.

    Others come back as they are: those with a raster, those with too many empty places, and positions that
    are no raster.
    """
    found = _complete(scan)
    return scan if found is None else found[0]


def find_completed(scan: Scan4D, /) -> np.ndarray | None:
    """Numbers that the patterns of a scan have in `complete_raster` of it; ``None``: their own."""
    found = _complete(scan)
    if found is None:
        return None
    _, index = found
    numbers = np.empty(len(scan), int)
    there = index.ravel() < len(scan)  # others were added
    numbers[index.ravel()[there]] = np.flatnonzero(there)
    return numbers


def _complete(scan: Scan4D) -> tuple[Scan4D, np.ndarray] | None:
    """A scan on a whole raster, and which pattern each place has, those that were added counted last.

    ``None``: there is nothing to add, no raster, or too much is missing.
    """
    if scan.grid is not None:
        return None
    if (places := _find_known_places(scan)) is not None:
        index = np.full(places.max(0) + 1, -1)
        index[tuple(places.T)] = np.arange(len(scan))
        affine = np.linalg.lstsq(_prepend_one(places), scan.positions, rcond=None)[0]
        whole, index = _add_means(scan, index, _prepend_one(np.argwhere(index < 0)) @ affine)
    else:
        try:
            lattice = find_raster(scan)
        except BadInput:
            return None
        if (lattice.index >= 0).all():
            return None
        whole, lattice, _ = fill_empty_places(scan, lattice)
        index = lattice.index
    return replace(whole.select(index.ravel()), grid=index.shape), index


def _find_known_places(scan: Scan4D) -> np.ndarray | None:
    """Line and place of each pattern in the part of its raster that the scan covers, few of them missing.

    ``None``: they are not known, or too many are missing.
    """
    if scan.raster_places is None:
        return None
    places = scan.raster_places - scan.raster_places.min(0)
    shape = places.max(0) + 1
    missing = math.prod(shape.tolist()) - len(np.unique(places, axis=0))
    few = 0 < missing <= MAX_EMPTY_SHARE * math.prod(shape.tolist())
    return places if few and min(shape) > 1 else None


def _prepend_one(places: np.ndarray) -> np.ndarray:
    return np.column_stack([np.ones(len(places)), places])


@dataclass(frozen=True)
class _CompletedCounts:
    """Counts with means of some of them added at the end.

    Attributes:
        counts: that were measured.
        near: for each added pattern, numbers of those that it is the mean of.
    """

    counts: Counts
    near: tuple[np.ndarray, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of patterns, rows, columns."""
        return (self.counts.shape[0] + len(self.near), *self.counts.shape[1:])

    @property
    def dtype(self) -> np.dtype:
        """Of a mean."""
        return np.dtype(np.float32)

    def __getitem__(self, index: np.ndarray, /) -> np.ndarray:
        """The patterns of an integer index array, in its order."""
        index = np.asarray(index)
        count = self.counts.shape[0]
        out = np.empty((len(index), *self.shape[1:]), np.float32)
        old = index < count
        if old.any():
            out[old] = self.counts[index[old]]
        for place in np.flatnonzero(~old):
            out[place] = self.counts[self.near[index[place] - count]].mean(0, dtype=np.float64)
        return out


def _find_neighbours(index: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Numbers of the nearest patterns around an empty place, in growing squares."""
    for reach in range(1, max(index.shape)):
        low = np.maximum(place - reach, 0)
        box = index[low[0] : place[0] + reach + 1, low[1] : place[1] + reach + 1]
        if (box >= 0).any():
            return np.sort(box[box >= 0])
    return np.sort(index[index >= 0])


def _require_rows_and_columns(scan: Scan4D) -> None:
    """Refuse what has no rows and columns."""
    line = scan.grid is not None and min(scan.grid) < 2
    line = line or min(scan.extent) < 0.5 * _measure_spacing(scan.positions)
    if len(scan) < 4 or line:
        what = "1 probe" if len(scan) == 1 else f"{len(scan)} probes" + (" in a line" if line else "")
        raise BadInput("scan", what, "cannot be predicted: a network needs 2 x 2 probes at least")


def _measure_spacing(positions: np.ndarray) -> float:
    """Median distance to the nearest neighbour."""
    return float(np.median(np.linalg.norm(_find_nearest(positions), axis=1))) if len(positions) > 1 else 0.0


def _find_nearest(positions: np.ndarray) -> np.ndarray:
    """Vector from each position to its nearest neighbour."""
    from scipy.spatial import KDTree

    _, found = KDTree(positions).query(positions, k=2)
    return positions[np.asarray(found)[:, 1]] - positions


def _fit_full_lattice(positions: np.ndarray, grid: tuple[int, int] | None) -> Raster | None:
    """A lattice without empty places."""
    count = len(positions)
    shapes = {(n, count // n) for n in range(2, count // 2 + 1) if count % n == 0}
    if grid is not None and min(grid) > 1:
        shapes = {(grid[0], grid[1]), (grid[1], grid[0])}
    fits = [_fit_lattice(positions, shape) for shape in sorted(shapes)]
    best = min(fits, key=lambda one: one.astray, default=None)
    return best if best is not None and best.astray <= MAX_DEVIATION else None


def _fit_lattice(positions: np.ndarray, shape: tuple[int, int]) -> Raster:
    """Positions sorted onto a lattice of a shape, and how well they fit."""
    lines = np.argsort(positions[:, 0], kind="stable").reshape(shape)
    order = np.argsort(positions[lines, 1], axis=1, kind="stable")
    index = np.take_along_axis(lines, order, 1)
    step = []
    first = []
    deviation = 0.0
    for axis in (0, 1):
        places = positions[index, axis]
        number = np.arange(shape[axis]) - (shape[axis] - 1) / 2
        along = places.mean(1 - axis)
        slope = float(number @ along / (number @ number))
        line = along.mean() + slope * number
        off = np.abs(places - (line[:, None] if axis == 0 else line)).max()
        deviation = max(deviation, float(off / slope) if slope > 0 else math.inf)
        step.append(slope)
        first.append(float(line[0]))
    return Raster(index, (step[0], step[1]), (first[0], first[1]), deviation)


def _fit_sparse_lattice(positions: np.ndarray) -> Raster | None:
    """A lattice with empty places, if positions lie on one and take at least half of it."""
    spacing = _measure_spacing(positions)
    if not spacing > 0:
        return None
    axes = [_find_lines(places, spacing) for places in positions.T]
    numbers = np.stack([number for number, _, _ in axes], 1)
    deviation = max(
        float(np.abs(places - first - step * number).max() / step)
        for places, (number, step, first) in zip(positions.T, axes, strict=True)
    )
    shape = numbers.max(0) + 1
    if deviation > MAX_DEVIATION or len(positions) < 0.5 * math.prod(shape.tolist()):
        return None
    index = np.full(shape, -1)
    index[tuple(numbers.T)] = np.arange(len(positions))
    if int((index >= 0).sum()) < len(positions):
        return None
    (_, step_y, first_y), (_, step_x, first_x) = axes
    return Raster(index, (step_y, step_x), (first_y, first_x), deviation)


def _find_lines(places: np.ndarray, spacing: float) -> tuple[np.ndarray, float, float]:
    """Number of the line that each place is on, distance between lines, and place of the first."""
    order = np.argsort(places, kind="stable")
    line = np.empty(len(places), int)
    line[order] = np.concatenate([[0], np.cumsum(np.diff(places[order]) > 0.4 * spacing)])
    if line.max() == 0:
        return line, spacing, float(places.mean())
    middles = np.bincount(line, places) / np.bincount(line)
    number = np.round((middles - middles[0]) / np.median(np.diff(middles))).astype(int)[line]
    step, first = np.polyfit(number, places, 1)
    return number, float(step), float(first)


def _fit_turned_lattice(positions: np.ndarray) -> Raster | None:
    """A lattice whose rows and columns are turned by up to 45 degrees."""
    vectors = _find_nearest(positions)
    agreed = np.exp(4j * np.arctan2(vectors[:, 1], vectors[:, 0])).mean()
    if abs(agreed) < MIN_DIRECTION_AGREEMENT:
        return None
    turn = float(np.angle(agreed)) / 4
    cosine, sine = math.cos(turn), math.sin(turn)
    straight = positions @ np.array([[cosine, -sine], [sine, cosine]])
    found = _fit_full_lattice(straight, None) or _fit_sparse_lattice(straight)
    return None if found is None else replace(found, rotation=turn)
