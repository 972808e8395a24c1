"""What a scan is like and what will go wrong with it, before an hour is spent on a reconstruction.

A scan has `PROPERTIES`; `RULES` tell which values of them are a problem and what to do about it.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import Literal

import numpy as np

from phaseloom.data.bad_pixels import BadPixels, ClippingSearch, find_bad_pixels
from phaseloom.data.counts import (
    MAX_LISTED_BRIGHT,
    describe_bright_patterns,
    find_bright_patterns,
    find_saturated_patterns,
    get_present,
    has_one_value,
    list_numbers,
    split_indices,
)
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.metrics.pattern_middle import find_middle
from phaseloom.units import ENERGY, LENGTH

__all__ = [
    "Finding",
    "d4sigma",
    "describe_raster",
    "describe_scans",
    "find_lines",
    "inspect",
    "require_counts",
    "require_order_of_axes",
]

Level = Literal["good", "note", "warn", "bad"]

MIN_RADIUS_OF_CORNERS = 1.5
"""Mean distance of light from the middle over that from the corners, patterns taken as periodic, from which
on the zero frequency lies in the corner: 1 for even light, 1.8 for a disk of 0.8 of half the detector."""

MAX_PATTERNS_READ = 500
"""Enough for means within a few percent, and read within seconds."""

MAX_VALUES_READ = MAX_PATTERNS_READ * 128 * 128
"""Of larger patterns fewer are read, so that a scan of any size is told within a second."""

MIN_PATTERNS_READ = 32

MAX_VALUES_AT_ONCE = 500_000
"""Of patterns that are worked on together: 4 MB in double precision."""

MIN_MASKED_PART_TO_WARN = 0.5
"""Of a detector; gaps and dead pixels are a few percent."""

MIN_MASKED_LIGHT_TO_WARN = 0.8
"""Of the counts: a mask that is meant covers the dark part of the detector, or a few of the bright pixels."""

MIN_DARK_RADIUS = 1.4
"""From where on pixels lie beyond the bright part of a pattern, in its radii."""

MIN_DARK_RINGS = 4
MIN_PIXELS_OF_RING = 8

MAX_GAP = 4
"""Missing pixels in a row, plus one, up to which they are interpolated."""

MIN_ERRORS_OF_BACKGROUND = 3.0
MIN_BACKGROUND = 0.01
"""Standard errors and share of the counts from which a background is told (`benchmarks.dark_level`)."""

MIN_BACKGROUND_TO_WARN = 0.02

MAX_PART_WITHOUT_WARNING = 0.7
MAX_PART_OF_WINDOW = 0.9
"""Diameter of the beam over the window. From patterns simulated with three times the window, and with the
true probe, the phase of a thin object had an error of 0.13 at 0.3 of the window, 0.15 at 0.5, 0.18 at 0.7,
0.22 at 0.9, 0.26 at 1.0 and 0.34 at 1.15."""

MIN_STEP = 0.05
"""Object pixels between neighbouring places, below which their unit is doubted."""

MIN_CHANGE_OF_EXCHANGED, MAX_SPREAD_OF_EXCHANGED = 1.0, 0.2
"""Relative spread of counts of patterns, and of pixels of their mean, where a file has the detector first."""

MIN_PATTERNS_TO_ORDER, MAX_PATTERNS_TO_ORDER = 64, 200
"""Patterns from which the order of the axes is told, and by which it is."""

MAX_SPREAD_OF_PERFECT = 1e-3
"""Steps by which positions of a perfect raster lie off it at most."""

MAX_PLACES_OF_RASTER = 1.2
"""Places of a raster over the positions that lie on it, at most."""

NEIGHBOURS_ASKED = 8
"""Of a place, among which the nearest other one is looked for first."""


@dataclass(frozen=True)
class Finding:
    """One property of a scan, how good it is, and what to do about it.

    Attributes:
        name: of the property.
        value: in words.
        level: how good it is.
        advice: what to do about it; empty where nothing is wrong.
        pixels: (row, column) of the detector's pixels that are hot or dead, where it is about those.
    """

    name: str
    value: str
    level: Level
    advice: str
    pixels: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class ConstantLevel:
    """Counts that all pixels of a mean pattern have alike.

    Attributes:
        least: what scattering cannot explain; negative where it explains more than is there.
        error: standard error of it.
        most: counts of the darkest ring.
        share: of the least in the counts of the pattern.
    """

    least: float
    error: float
    most: float
    share: float

    @property
    def is_clear(self) -> bool:
        """Whether it is more than noise, and enough to matter."""
        return self.least >= MIN_ERRORS_OF_BACKGROUND * self.error and self.share > MIN_BACKGROUND


def inspect(scan: Scan4D, /) -> list[Finding]:
    """Findings on counts, sampling, overlap, dose, detector and positions; reads at most 500 patterns, and
    fewer of more than 128 x 128 pixels. Hot and dead pixels that it finds are left out of all others.

    The diameter of the beam is four times the standard deviation of its intensity (D4 sigma, the
    diameter of an evenly lit disk), if a probe came with the data, and that of the mean pattern in the
    near field. Otherwise it is estimated from the speckles: the inverse transform of what a pattern has
    beyond the mean pattern is an autocorrelation of the exit wave, which reaches as far as the beam is wide.
    Its reach is where the radial mean of its square falls below a thousandth, or into shot noise; a beam
    with faint tails, a smooth object or few counts make it too small (by a quarter on a real scan), many
    counts of the tails of a focused beam too large. It shows nothing beyond half of the window.

    A far field's background is what all pixels beyond the bright part of the mean pattern count alike.

    Example:
        >>> from phaseloom.data.scan import Geometry
        >>> geometry = Geometry(wavelength=0.0197, shape=(8, 8), angle=(1e-3, 1e-3), beam="electron")
        >>> scan = Scan4D(counts=np.ones((2, 8, 8)), positions=np.eye(2), geometry=geometry)
        >>> inspect(scan)[0].value
        '2 patterns of 8 x 8 pixels, float64'
    """
    if not isinstance(scan, Scan4D):
        fix = "is not a scan: give one of phaseloom.read, or Scan4D(counts=..., positions=..., geometry=...)"
        raise BadInput("inspect", type(scan).__name__, fix)
    survey = _ScanSurvey(scan)
    findings = []
    for name, describe in PROPERTIES.items():
        value = describe(survey)
        if value is None:
            continue
        broken = (rule for rule in RULES if rule.name == name and rule.applies(survey))
        pixels = survey.pixels_of(name)
        if rule := next(broken, None):
            findings.append(Finding(name, value, rule.level, rule.advice.format(survey=survey), pixels))
        else:
            findings.append(Finding(name, value, "good", "", pixels))
    return findings


def describe_raster(scan: Scan4D, /) -> str:
    """Whether positions form a raster, and how perfect it is, as all that shows a scan says it.

    Example:
        >>> from phaseloom.data.scan import Geometry
        >>> geometry = Geometry(wavelength=0.0197, shape=(8, 8), angle=(1e-3, 1e-3), beam="electron")
        >>> places = np.indices((3, 4)).reshape(2, -1).T * 0.5
        >>> scan = Scan4D(counts=np.ones((12, 8, 8)), positions=places, geometry=geometry)
        >>> describe_raster(scan), describe_raster(replace(scan, grid=(3, 4)))
        ('perfect, 3 x 4, by its positions', 'perfect, 3 x 4')
    """
    lines = find_lines(scan.positions, scan.grid)
    if lines is not None:
        shown = f"perfect, {lines[0]} x {lines[1]}"
        return shown if scan.grid == lines else f"{shown}, by its positions"
    if scan.grid is not None and min(scan.grid) == 1:
        return f"a line of {len(scan)} positions"
    if scan.grid is not None:
        return f"{scan.grid[0]} x {scan.grid[1]}, positions off a perfect one"
    return f"none: {len(scan)} free positions"


def describe_scans(scan: Scan4D, /) -> dict[str, str]:
    """Patterns, field and counts of each of several scans that were joined, by its name; empty of one scan.

    Findings of `inspect` are of all of them: means of scans that differ are those of none.

    Example:
        >>> from phaseloom.data.scan import Geometry
        >>> geometry = Geometry(wavelength=1.0, shape=(8, 8), angle=(1e-3, 1e-3), beam="photon")
        >>> places, numbers = np.indices((2, 3)).reshape(2, -1).T * 10.0, np.array([0, 0, 0, 1, 1, 1])
        >>> known = {"positions": places, "geometry": geometry, "scan_numbers": numbers}
        >>> describe_scans(Scan4D(counts=np.full((6, 8, 8), 2.0), **known))["scan 1"]
        '3 patterns of 8 x 8 pixels, field y 0, x 2 nm, 128 counts each'
    """
    if scan.scan_numbers is None:
        return {}
    offsets = np.zeros((scan.scan_numbers.max() + 1, 2)) if scan.scan_offsets is None else scan.scan_offsets
    found = {}
    for number in np.unique(scan.scan_numbers):
        own = np.flatnonzero(scan.scan_numbers == number)
        some = np.unique(own[np.linspace(0, len(own) - 1, min(len(own), MAX_PATTERNS_READ)).astype(int)])
        counts = np.mean(
            [
                np.asarray(scan.counts[part])[:, scan.mask].sum(1).mean()
                for part in np.array_split(some, len(some))
            ]
        )
        height, width = (LENGTH.show(float(f"{far:.3g}")) for far in np.ptp(scan.positions[own], axis=0))
        rows, columns = scan.geometry.shape
        moved = ", ".join(LENGTH.show(float(f"{far:.3g}")) for far in offsets[number])
        offset = f", moved by {moved}" if offsets[number].any() else ""
        found[f"scan {number}"] = (
            f"{len(own)} patterns of {rows} x {columns} pixels, field y {height}, x {width}, "
            f"{counts:.3g} counts each{offset}{_name_energy(scan, number)}"
        )
    return found


def _name_energy(scan: Scan4D, number: int) -> str:
    """The energy of one of several scans, where they differ."""
    if scan.scan_wavelengths is None:
        return ""
    one = replace(scan.geometry, wavelength=float(scan.scan_wavelengths[number]))
    return f", {ENERGY.show(float(f'{one.energy:.5g}'), digits=5)}"


def find_lines(positions: np.ndarray, grid: tuple[int, int] | None, /) -> tuple[int, int] | None:
    """Lines of a perfect raster (slow, fast), turned or not; ``None`` where the positions do not form one.

    Without a grid it has to lie along the axes; a sixth of its places may then be left out.

    Args:
        positions: ``(n, 2)``.
        grid: numbers of patterns along the axes of the scan, where it states them.
    """
    if grid is not None and min(grid) > 1:
        places = positions.reshape(*grid, 2)
        slow, fast = (np.diff(places, axis=axis) for axis in (0, 1))
        step = min(float(np.linalg.norm(moves.mean((0, 1)))) for moves in (slow, fast))
        spread = max(float(np.abs(moves - moves.mean((0, 1))).max()) for moves in (slow, fast))
        return grid if spread < MAX_SPREAD_OF_PERFECT * step else None
    lines = [_count_lines(axis) for axis in positions.T]
    few = lines[0] * lines[1] <= MAX_PLACES_OF_RASTER * len(positions) and min(lines) > 1
    return (lines[0], lines[1]) if few else None


def _count_lines(places: np.ndarray) -> int:
    """Different coordinates, those apart that differ by more than rounding."""
    gaps = np.diff(np.sort(places))
    return 1 + int((gaps > MAX_SPREAD_OF_PERFECT * max(float(gaps.max(initial=0.0)), 1e-300)).sum())


def require_counts(scan: Scan4D, /, *, lowest: float | None = None) -> None:
    """Refuse patterns in memory with values that would spoil a run; those in files are checked by readers.

    Masked pixels are checked as well: a sum over a mask does not get rid of values that are not numbers.

    Args:
        scan: as it will be modelled.
        lowest: value that a noise model can take; default: any.

    Raises:
        BadInput: a value that is not finite, or is lower; names the first pattern and pixel.
    """
    rows, place = get_present(scan.counts)
    if type(rows) is not np.ndarray or rows.dtype.kind not in "if":
        return
    for index in split_indices(rows):
        stack = rows[index[0] : index[-1] + 1]
        bad = ~np.isfinite(stack)
        if lowest is not None:
            bad |= stack < lowest
        if bad.any():
            row, y, x = (int(number) for number in np.argwhere(bad)[0])
            number = index[0] + row if place is None else int(np.flatnonzero(place == index[0] + row)[0])
            value = float(stack[row, y, x])
            fix = "is not a count: put 0 there and mask the pixel (prepare: mask)"
            if np.isfinite(value):
                fix = "is negative, which no count is: add prepare: nonnegative, or take noise: gaussian"
            raise BadInput(f"scan.counts: pattern {number}, pixel [{y}, {x}]", value, fix)


def require_order_of_axes(scan: Scan4D, name: str, /) -> None:
    """Refuse a raster of far fields whose file has the detector before the scan; reads at most 200 patterns.

    A run of one ends with an image: probe and intensities explain the changes of the counts.

    Args:
        scan: with blank patterns in their places.
        name: of its file, for the message.

    Raises:
        BadInput: counts told by the place in the scan, and not by that on the detector.
    """
    if scan.grid is None or scan.geometry.near or len(scan) < MIN_PATTERNS_TO_ORDER:
        return
    index = np.unique(np.linspace(0, len(scan) - 1, MAX_PATTERNS_TO_ORDER).astype(int))
    stack = np.nan_to_num(np.asarray(scan.counts[index])[:, scan.mask].astype(np.float64))
    totals = stack.sum(1)
    flat = has_one_value(stack, stack.max(1, initial=0.0), totals)
    stack = np.delete(stack, find_saturated_patterns(totals, flat), axis=0)
    if _are_axes_exchanged(stack.sum(1), stack.mean(0)):
        fix = (
            "counts change much from pattern to pattern, and their mean is flat: the first two axes seem to "
            f"be those of the detector. {_advise_order_of_axes(scan)} (phaseloom describe read), or give "
            "positions in place of step and grid if they are not"
        )
        raise BadInput(name, None, fix)


def _advise_order_of_axes(scan: Scan4D) -> str:
    """What to write where the axes of the scan and of the detector are exchanged; a permute may do that."""
    found = re.search(r"^permute: \[(\d), (\d), (\d), (\d)\]", scan.metadata.get("setup", ""), re.MULTILINE)
    axes = [int(axis) for axis in found.groups()] if found else [0, 1, 2, 3]
    turned = axes[2:] + axes[:2]
    if turned == [0, 1, 2, 3]:
        return f"Remove permute: {axes}, which puts them there"
    return f"Read it with permute: {turned}"


def _are_axes_exchanged(totals: np.ndarray, mean: np.ndarray) -> bool:
    """Whether counts of patterns change, and pixels of the mean pattern do not.

    In four numpy scans the mean pattern varies by 2.0 of its mean, counts of patterns by 0.02.
    """
    if not mean.sum() > 0:
        return False
    changes = totals.std() / totals.mean()
    return bool(changes > MIN_CHANGE_OF_EXCHANGED and mean.std() < MAX_SPREAD_OF_EXCHANGED * mean.mean())


class _ScanSurvey:
    """A scan and what the rules need to know of it, computed when first asked for."""

    def __init__(self, scan: Scan4D):
        self.scan = scan
        self.geometry = scan.geometry
        n = len(scan)
        size = math.prod(scan.geometry.shape)
        most = min(n, MAX_PATTERNS_READ, max(MIN_PATTERNS_READ, MAX_VALUES_READ // size))
        index = np.unique(np.linspace(0, n - 1, most).round().astype(int))
        self.index = index
        self.read = len(index)
        self.mean = np.zeros(scan.geometry.shape)
        height, width = scan.geometry.shape
        power = np.zeros((height, width // 2 + 1))
        self.totals = np.zeros(0)
        self.highest = 0.0
        self.scaled = False
        self.quantum = 0
        self.negative = 0
        self.not_finite = 0
        self._reaches_edge = False
        self.finite = np.ones(scan.geometry.shape, bool)
        self.light = np.zeros(scan.geometry.shape)
        self.saturated = self._add_to_mean(index)
        self.index = index = np.setdiff1d(index, self.saturated)
        self.mean /= len(index)
        # all else is of the pixels that count electrons or photons
        self.good = scan.mask & self.bad_pixels.mask
        self.mean *= self.good
        search = ClippingSearch(scan.geometry.shape)
        fill = _GapFilling(self.good)
        for some in self._read_pieces(index):
            stack = self._clean(some) * self.good
            self._add(stack.astype(np.float64))
            search.add(stack)
            change = fill(stack - self.mean)
            waves = np.fft.rfft2(change.astype(np.float32), norm="ortho")
            power += (np.abs(waves) ** 2).sum(0)
        self.clipping = search.finish()
        self.speckle = np.fft.fftshift(_complete_power(power, width) / self.read)

    def _add_to_mean(self, index: np.ndarray) -> np.ndarray:
        """Sum the patterns that are not saturated; numbers of those that are."""
        totals, flat, bright = [], [], {}
        for some in self._read_pieces(index):
            stack = self._clean(some.astype(np.float64), count=True)
            pixels = stack[:, self.scan.mask]
            sums = pixels.sum(1)
            equal = has_one_value(pixels, pixels.max(1, initial=0.0), sums)
            for row in np.flatnonzero(equal):
                bright[sum(map(len, totals)) + int(row)] = stack[row]
            self.mean += stack[~equal].sum(0)
            totals.append(sums)
            flat.append(equal)
        saturated = find_saturated_patterns(np.concatenate(totals), np.concatenate(flat))
        for number in bright.keys() - set(saturated.tolist()):
            self.mean += bright[number]
        return index[saturated]

    def _read_pieces(self, index: np.ndarray) -> Iterator[np.ndarray]:
        """Patterns as stored, fewer at a time than are read: arithmetic takes several times their memory."""
        step = max(1, MAX_VALUES_AT_ONCE // math.prod(self.geometry.shape))
        for some in split_indices(self.scan.counts, index):
            stack = self.scan.counts[some]
            yield from (stack[start : start + step] for start in range(0, len(stack), step))

    def _clean(self, stack: np.ndarray, *, count: bool = False) -> np.ndarray:
        """Patterns without masked pixels and values that are not finite, which are counted first."""
        finite = np.isfinite(stack)
        if count:
            self.not_finite += int((~finite).sum())
            self.finite &= finite.all(0)
            self.negative += int((stack < 0).sum())
            if self.masked_part >= MIN_MASKED_PART_TO_WARN:
                self._add_light(np.where(finite, stack, 0))
        return (stack if finite.all() else np.where(finite, stack, 0)) * self.scan.mask

    def _add_light(self, stack: np.ndarray) -> None:
        """Counts of all pixels, masked or not, without marks for no value."""
        dtype = self.scan.counts.dtype
        marked = stack == np.iinfo(dtype).max if dtype.kind in "iu" else np.zeros(stack.shape, bool)
        self.light += np.where(marked, 0, np.maximum(stack, 0)).sum(0)

    def _add(self, stack: np.ndarray) -> None:
        self.scaled = self.scaled or bool((np.abs(stack[:4] - np.round(stack[:4])) > 1e-3).any())
        if self.quantum != 1 and not self.scaled and np.abs(stack[:4]).max(initial=0) < 2**53:
            self.quantum = int(np.gcd.reduce(np.append(np.round(stack[:4]).astype(np.int64), self.quantum)))
        self.totals = np.append(self.totals, stack.sum((1, 2)))
        self.highest = max(self.highest, float(stack.max()))

    @property
    def blank(self) -> int:
        """How many patterns have no counts, unless none has."""
        return int((self.totals == 0).sum()) if self.highest > 0 else 0

    @property
    def searched(self) -> str:
        """In how many patterns something was looked for, where it was not in all."""
        many = len(self.scan)
        return "" if self.read == many else f" in {self.read} of {many} patterns"

    @cached_property
    def bright(self) -> np.ndarray:
        """Numbers of the few patterns read that are far brighter than the others, saturated ones apart."""
        return self.index[find_bright_patterns(self.totals)]

    @property
    def listed_bright(self) -> list[int]:
        """The first of them, as a setting lists them."""
        return self.bright[:MAX_LISTED_BRIGHT].tolist()

    @property
    def has_usual_energy(self) -> bool:
        low, high = (1e4, 2e6) if self.geometry.beam == "electron" else (10, 2e5)
        return low <= self.geometry.energy <= high

    @cached_property
    def diameter(self) -> float | None:
        """Of the beam on the object, angstrom; ``None`` where the speckles drown in noise."""
        pixel = np.asarray(self.geometry.pixel)
        if self.scan.probe is not None:
            return d4sigma((abs(self.scan.probe) ** 2).sum(0), pixel)
        if self.geometry.near:
            return d4sigma(self.mean, pixel)
        return self._estimate_diameter_from_speckles(pixel)

    @property
    def is_diameter_open(self) -> bool:
        """Whether speckles reach the edge of the window: the beam may fill half of it, or all."""
        return self.diameter is not None and self._reaches_edge

    def _estimate_diameter_from_speckles(self, pixel: np.ndarray) -> float | None:
        noise = float(self.mean.mean())
        shape = self.speckle.shape
        y, x = ((np.arange(n) - n // 2) * p for n, p in zip(shape, pixel, strict=True))
        ring = (np.hypot(y[:, None], x[None, :]) / pixel.max()).round().astype(int).ravel()
        members = np.maximum(np.bincount(ring), 1)
        profile = (np.bincount(ring, self.speckle.ravel()) / members - noise)[1 : min(shape) // 2]
        spread = noise / np.sqrt(self.read * members[1 : min(shape) // 2] / 2)
        if profile.size == 0 or not profile.max() > 0.1 * noise:
            return None
        above = profile > np.maximum(1e-3 * profile.max(), 3 * spread)
        self._reaches_edge = bool(above.all())
        return float(pixel.max() * (above.size + 2 if above.all() else above.argmin())) or None

    @cached_property
    def step(self) -> float:
        """Median distance to the nearest other position, angstrom (0 for a single one)."""
        positions = self.scan.positions
        sample = np.linspace(0, len(positions) - 1, min(len(positions), MAX_PATTERNS_READ)).astype(int)
        nearest = None if self.scan.grid is None else _find_nearest_on_raster(positions, self.scan.grid)
        if nearest is not None:
            return float(np.median(nearest[sample]))
        from scipy.spatial import KDTree  # a tenth of a second

        away, _ = KDTree(positions).query(positions[sample], min(NEIGHBOURS_ASKED, len(positions)))
        nearest = []
        for point, some in zip(positions[sample], np.atleast_2d(away.T).T, strict=True):
            distant = some[some > 1e-6]
            if not distant.size:  # many shots at one place
                distant = np.hypot(*(positions - point).T)
                distant = distant[distant > 1e-6]
            nearest.append(distant.min() if distant.size else 0.0)
        return float(np.median(nearest))

    @property
    def overlap(self) -> float:
        """Linear overlap of neighbouring beams; 1 where the size of the beam is not known."""
        return max(0.0, 1 - self.step / self.diameter) if self.diameter else 1.0

    @property
    def changes(self) -> float:
        """Relative standard deviation of the counts of a pattern."""
        return float(self.totals.std() / self.totals.mean())

    @cached_property
    def are_axes_exchanged(self) -> bool:
        """Whether counts are told by the place in the scan, and not by that on the detector."""
        return self.scan.grid is not None and _are_axes_exchanged(self.totals, self.mean[self.good])

    @property
    def advice_on_axes(self) -> str:
        """What to write where they are exchanged."""
        return _advise_order_of_axes(self.scan)

    @cached_property
    def bad_pixels(self) -> BadPixels:
        """Hot and dead pixels, by the rule of every run."""
        finite = replace(self.scan, mask=self.scan.mask & self.finite)
        return find_bad_pixels(finite, mean=self.mean, patterns=self.read)

    def pixels_of(self, name: str) -> tuple[tuple[int, int], ...]:
        """The pixels that a property names, if it names any."""
        named = {"hot pixels": self.bad_pixels.hot, "dead pixels": self.bad_pixels.dead}
        return tuple((int(row), int(column)) for row, column in named.get(name, ()))

    @cached_property
    def off_centre(self) -> list[float] | None:
        """Pixels (y, x) from ``[N // 2, N // 2]``, where models expect it, to the mean pattern's middle."""
        if self.geometry.near or not self.mean.sum() > 0:
            return None
        middle = find_middle(self.light_above_median, self.good)
        if middle is None:  # a flat pattern
            return [-float(n // 2) for n in self.mean.shape]
        return [at - n // 2 for at, n in zip(middle, self.mean.shape, strict=True)]

    @cached_property
    def light_above_median(self) -> np.ndarray:
        """The mean pattern without what most pixels hold."""
        return np.clip(self.mean - np.median(self.mean[self.good]), 0, None) * self.good

    @cached_property
    def has_zero_in_corner(self) -> bool:
        """Whether the zero frequency of far fields lies in the corner, as a discrete transform leaves it."""
        if self.geometry.near or not self.mean.any():
            return False
        light = self.light_above_median
        away = np.hypot(
            *(index - n // 2 for index, n in zip(np.indices(light.shape), light.shape, strict=True))
        )
        inside, around = (float((one * away).sum()) for one in (light, np.fft.fftshift(light)))
        return inside > MIN_RADIUS_OF_CORNERS * around

    @cached_property
    def edge_ratio(self) -> float | None:
        """Mean intensity at the edge of the detector over that of all of it."""
        good = self.good
        edge = np.ones_like(good)
        edge[1:-1, 1:-1] = False
        if self.geometry.near or not (edge & good).any() or not self.mean.any():
            return None
        return float(self.mean[edge & good].mean() / self.mean[good].mean())

    @cached_property
    def widest_diameter(self) -> float | None:
        """Of a stored probe where it is widest in a scan along the beam, angstrom.

        That is at one end of the scan, for the square of the diameter is a parabola of the height.
        """
        scan = self.scan
        if scan.probe is None or scan.heights is None:
            return None
        import torch

        from phaseloom.physics.propagate import angular_spectrum, fly

        geometry = self.geometry
        heights = scan.heights - scan.heights.mean()
        ways = -torch.as_tensor([heights.min(), heights.max()])
        kernels = angular_spectrum(geometry.shape, geometry.pixel, geometry.wavelength, ways)[:, None]
        planes = fly(torch.as_tensor(scan.probe).to(kernels)[None], kernels).abs().square().sum(1).numpy()
        return max(d4sigma(plane, geometry.pixel) for plane in planes)

    @property
    def window_part(self) -> float | None:
        """Diameter of the beam over the width of its window."""
        if self.geometry.near or not self.diameter:
            return None
        window = min(n * p for n, p in zip(self.geometry.shape, self.geometry.pixel, strict=True))
        return (self.widest_diameter or self.diameter) / window

    @property
    def longest_flight(self) -> float:
        """Longest propagation in the near field that the window samples, angstrom."""
        geometry = self.geometry
        widths = (n * p * p for n, p in zip(geometry.shape, geometry.pixel, strict=True))
        return min(widths) / geometry.wavelength

    @cached_property
    def repeated_positions(self) -> int:
        """How many positions were there before."""
        heights = np.zeros(len(self.scan)) if self.scan.heights is None else self.scan.heights
        places = np.column_stack([self.scan.positions, heights])
        return len(self.scan) - len(np.unique(places.round(4), axis=0))

    @property
    def stands_still(self) -> bool:
        return self.repeated_positions == len(self.scan) - 1 and self.repeated_positions > 0

    @cached_property
    def raster(self) -> tuple[int, int] | None:
        """Lines along each axis; none if the positions are not on a perfect raster."""
        return find_lines(self.scan.positions, self.scan.grid)

    @property
    def extent(self) -> float:
        """Longer side of the scanned field, object pixels."""
        return max(self.scan.extent) / min(self.geometry.pixel)

    @property
    def in_cone_beam(self) -> bool:
        return self.geometry.near and bool(np.isfinite(self.geometry.focus or 0))

    @property
    def masked_part(self) -> float:
        return 1 - float(self.scan.mask.mean())

    @property
    def masks_light(self) -> bool:
        """Whether most of the detector is masked, and most of the light there, single hot pixels apart."""
        if self.masked_part < MIN_MASKED_PART_TO_WARN:
            return False
        from scipy.ndimage import median_filter

        light = median_filter(self.light, 3)
        return float(light[~self.scan.mask].sum()) > MIN_MASKED_LIGHT_TO_WARN * float(light.sum())

    @cached_property
    def constant_level(self) -> ConstantLevel | None:
        """Counts beyond the known background that all pixels of a far field have alike."""
        if self.geometry.near or self.highest <= 0 or self.are_axes_exchanged or self.has_zero_in_corner:
            return None
        known = 0.0 if self.scan.background is None else self.scan.background
        return find_constant_level((self.mean - known) * self.good, self.good, patterns=self.read)

    @property
    def unknown_background(self) -> float:
        """Share of the counts that a background which the scan does not state has at least; 0: none clear."""
        level = self.constant_level
        return level.share if level is not None and level.is_clear else 0.0

    @property
    def background_part(self) -> float:
        """Of the counts of a mean pattern."""
        if self.scan.background is None:
            return 0.0
        total = float(self.scan.background[self.scan.mask].sum())
        return total / max(float(self.totals.mean()), 1e-30)


class _GapFilling:
    """Interpolates single pixels and lines that are missing, where both neighbours along an axis are good.

    A line of zeros would be a sharp feature of the patterns that no beam makes.

    Args:
        good: ``(y, x)`` True where a pixel can be trusted.
    """

    def __init__(self, good: np.ndarray):
        padded = np.pad(good, MAX_GAP)
        self.parts: list[tuple[np.ndarray, np.ndarray, np.ndarray, float]] = []
        left = ~good
        for axis, before, after in (
            (axis, before, gap + 1 - before)
            for gap in range(1, MAX_GAP)
            for axis in (0, 1)
            for before in range(1, gap + 1)
        ):
            ends = [
                np.roll(padded, shift, axis)[MAX_GAP:-MAX_GAP, MAX_GAP:-MAX_GAP] for shift in (before, -after)
            ]
            here = np.argwhere(left & ends[0] & ends[1])
            left[tuple(here.T)] = False
            step = np.eye(2, dtype=int)[axis]
            self.parts.append((here, here - before * step, here + after * step, after / (before + after)))

    def __call__(self, stack: np.ndarray) -> np.ndarray:
        """The stack ``(b, y, x)`` with them filled in place."""
        for here, before, after, weight in self.parts:
            first, second = (stack[:, *place.T] for place in (before, after))
            stack[:, *here.T] = weight * first + (1 - weight) * second
        return stack


def _find_nearest_on_raster(positions: np.ndarray, grid: tuple[int, int]) -> np.ndarray | None:
    """Distance from each position to the nearest of the four beside it; ``None``: others may be nearer.

    So it is where lines are shifted, or steps differ by more than a tenth of the shorter one.
    """
    places = positions.reshape(*grid, 2)
    nearest = np.full(grid, np.inf)
    steps, spread = [], 0.0
    for axis, length in enumerate(grid):
        moves = np.diff(places, axis=axis)
        if not moves.size:
            return None
        steps.append(np.median(moves, axis=(0, 1)))
        gaps = np.linalg.norm(moves, axis=-1)
        spread = max(spread, float(np.linalg.norm(moves - steps[axis], axis=-1).max()))
        for part in (slice(0, length - 1), slice(1, length)):
            side = (part, slice(None)) if axis == 0 else (slice(None), part)
            nearest[side] = np.minimum(nearest[side], gaps)
    shorter = min(step @ step for step in steps)
    is_reduced = 2 * abs(steps[0] @ steps[1]) <= shorter
    return nearest.ravel() if is_reduced and spread < 0.1 * math.sqrt(shorter) else None


def _complete_power(half: np.ndarray, width: int) -> np.ndarray:
    """The power of all frequencies of a real image from that of the half that `numpy.fft.rfft2` gives."""
    height = len(half)
    other = half[-np.arange(height) % height][:, width - np.arange(half.shape[1], width)]
    return np.concatenate([half, other], 1)


def find_constant_level(mean: np.ndarray, good: np.ndarray, /, *, patterns: int) -> ConstantLevel | None:
    """What a far field holds in all pixels alike, seen beyond the bright part of its mean pattern.

    Scattering falls there with the square of the angle or faster, so ``mean(r) = level + a / r^2`` over rings
    gives the least that a constant can be. Scattering hides a part of it, and all on small detectors. Very
    thick and heavy specimens look like one: 50 nm of gold like 11 % of the counts, of 12 others that were
    simulated none. ``None``: too few pixels lie beyond 1.4 radii of the bright part.

    Args:
        mean: ``(y, x)`` mean pattern.
        good: True where a pixel can be trusted.
        patterns: that the mean was taken of.

    Example:
        >>> y, x = np.indices((48, 48)) - 24
        >>> mean = 100.0 * (np.hypot(y, x) < 8) + 60 / np.maximum(np.hypot(y, x), 8) ** 3 + 0.5
        >>> found = find_constant_level(mean, np.ones((48, 48), bool), patterns=500)
        >>> bool(0.45 < found.least < 0.5 < found.most < 0.51)
        True
    """
    if not good.any():
        return None
    beyond_dark = mean - np.percentile(mean[good], 2)
    bright = good & (beyond_dark > 0.5 * beyond_dark[good].max())
    radius = math.sqrt(bright.sum() / math.pi)
    if radius == 0:
        return None
    centre = np.argwhere(bright).mean(0)
    away = np.hypot(*(axis - middle for axis, middle in zip(np.indices(mean.shape), centre, strict=True)))
    outside = good & (away > MIN_DARK_RADIUS * radius)
    ring = away[outside].astype(int)
    members = np.bincount(ring)
    kept = members >= MIN_PIXELS_OF_RING
    if kept.sum() < MIN_DARK_RINGS:
        return None
    members = members[kept]
    middle, level, square = (
        np.bincount(ring, values[outside])[kept] / members for values in (away, mean, mean**2)
    )
    lit = np.maximum(level, 0)  # below 0 where a known background is too bright
    counting = (lit + 1 / patterns) / patterns
    error = np.sqrt(np.maximum(square - level**2, counting) / members)
    terms = np.stack([np.ones_like(middle), (radius / middle) ** 2], 1) / error[:, None]
    inverse = np.linalg.pinv(terms.T @ terms)
    best = inverse @ terms.T @ (level / error)
    misfit = float(np.square(terms @ best - level / error).sum()) / (len(level) - 2)
    uncertainty = math.sqrt(float(inverse[0, 0]) * max(1.0, misfit))
    least = float(min(best[0], level.min()))
    share = least * float(good.sum()) / max(float(mean[good].sum()), 1e-30)
    return ConstantLevel(least, uncertainty, float(level.min()), share)


def d4sigma(image: np.ndarray, pixel: Sequence[float] | np.ndarray, /) -> float:
    """Four times the standard deviation of an intensity ``(y, x)``, mean of both axes, in the pixel's unit.

    Example:
        >>> y, x = np.mgrid[-20:21, -20:21]
        >>> round(d4sigma(np.hypot(y, x) < 10, (2.0, 2.0)) / 2)
        20
    """
    image = np.clip(image, 0, None)
    y, x = ((np.arange(n) - n // 2) * p for n, p in zip(image.shape, pixel, strict=True))
    total = image.sum() or 1.0
    spread = 0.0
    for axis, grid in ((1, y), (0, x)):
        profile = image.sum(axis) / total
        middle = (profile * grid).sum()
        spread += (profile * (grid - middle) ** 2).sum()
    return float(4 * np.sqrt(spread / 2))


def _show_lengths(*lengths: float) -> str:
    return " x ".join(LENGTH.show(length) for length in lengths)


def _describe_counts(survey: _ScanSurvey) -> str:
    n, y, x = survey.scan.counts.shape
    text = f"{n} patterns of {y} x {x} pixels, {survey.scan.counts.dtype}"
    multiples = survey.highest > 0 and not survey.scaled and survey.quantum > 1
    return f"{text}, all multiples of {survey.quantum}" if multiples else text


def _describe_field(survey: _ScanSurvey) -> str:
    geometry = survey.geometry
    window = (n * p for n, p in zip(geometry.shape, geometry.pixel, strict=True))
    return f"{_show_lengths(*survey.scan.extent)} scanned, window {_show_lengths(*window)}"


def _describe_overlap(survey: _ScanSurvey) -> str | None:
    diameter = survey.diameter
    if survey.step == 0:
        return None
    if not diameter:
        return f"step {LENGTH.show(survey.step)}"
    height, width = (length + diameter for length in survey.scan.extent)
    times = len(survey.scan) * np.pi * diameter**2 / 4 / (height * width)
    beam = LENGTH.show(float(f"{diameter:.3g}")) + (" or more" if survey.is_diameter_open else "")
    return f"{survey.overlap:.0%} linear, {times:.3g} patterns on each place (beam {beam})"


def _describe_dose(survey: _ScanSurvey) -> str:
    mean = float(survey.totals.mean())
    text = f"{mean:.4g} counts per pattern"
    if area := survey.scan.area_per_pattern:
        per_area = mean / area
        electrons = survey.geometry.beam == "electron"
        text += f", {per_area:.3g} per A^2" if electrons else f", {per_area * 1e8:.3g} per um^2"
    return f"{text}, changing by {survey.changes:.0%}" if mean >= 100 and survey.changes > 0.3 else text


def _describe_centre(survey: _ScanSurvey) -> str | None:
    if survey.off_centre is None:
        return None
    y, x = survey.off_centre
    return f"middle of the mean pattern off by {y:+.1f}, {x:+.1f} pixels"


def _describe_window(survey: _ScanSurvey) -> str | None:
    if survey.window_part is None:
        return None
    if survey.is_diameter_open:
        return "speckles reach its edge: the beam may fill half of it, or all"
    return f"beam fills {survey.window_part:.0%} of the window" + (
        " at its widest" if survey.widest_diameter else ""
    )


def _describe_flight(survey: _ScanSurvey) -> str | None:
    geometry = survey.geometry
    if not geometry.near:
        return None
    text = f"{LENGTH.show(geometry.flight)} of at most {LENGTH.show(survey.longest_flight)}"
    return f"{text}, magnification {geometry.magnification:.4g}"


def _describe_raster(survey: _ScanSurvey) -> str | None:
    return None if len(survey.scan) < 9 or survey.step == 0 else describe_raster(survey.scan)


def _describe_extent(survey: _ScanSurvey) -> str | None:
    if len(survey.scan) < 2 or survey.scan.heights is not None:
        return None
    digits = 4 if 1 <= survey.extent <= 1e5 else 3
    return f"{survey.extent:.{digits}g} object pixels"


def _describe_heights(survey: _ScanSurvey) -> str | None:
    heights = survey.scan.heights
    return None if heights is None else f"vary by {LENGTH.show(float(np.ptp(heights)))} along the beam"


def _describe_remarks(survey: _ScanSurvey) -> str | None:
    return "; ".join(survey.scan.metadata.get("remarks", "").splitlines()) or None


def _describe_background(survey: _ScanSurvey) -> str:
    stated = (
        "none stated" if survey.scan.background is None else f"{survey.background_part:.1%} of the counts"
    )
    level = survey.constant_level
    if level is None:
        return stated
    more = "" if survey.scan.background is None else " more"
    if share := survey.unknown_background:
        return f"{stated}; at least {level.least:.2g}{more} in each pixel, {share:.1%} of the counts"
    most = max(level.most, 0.0) * float(survey.good.sum()) / max(float(survey.totals.mean()), 1e-30)
    return f"{stated}; at most {most:.1%}{more} of the counts" if most >= 0.001 else f"{stated}, none seen"


def _describe_bright(survey: _ScanSurvey) -> str | None:
    if not len(survey.bright):
        return None
    return describe_bright_patterns(survey.totals, survey.index)


PROPERTIES: dict[str, Callable[[_ScanSurvey], str | None]] = {
    "file": _describe_remarks,
    "counts": _describe_counts,
    "blank": lambda s: f"{s.blank}{s.searched or f' of {s.read} patterns'}" if s.blank else None,
    "saturated patterns": lambda s: (
        f"{list_numbers(s.saturated)}: one value in all pixels" if len(s.saturated) else None
    ),
    "bright": _describe_bright,
    "values": lambda s: (
        f"{s.not_finite} not finite, {s.negative} negative" if s.not_finite or s.negative else None
    ),
    "beam": lambda s: (
        f"{s.geometry.beam} {ENERGY.show(s.geometry.energy)}, wavelength {LENGTH.show(s.geometry.wavelength)}"
    ),
    "object pixel": lambda s: _show_lengths(*s.geometry.pixel),
    "field of view": _describe_field,
    "overlap": _describe_overlap,
    "dose": _describe_dose,
    "dead pixels": lambda s: "; ".join(
        [f"{len(s.bad_pixels.dead)}{s.searched}", *s.bad_pixels.describe_gaps()]
    ),
    "hot pixels": lambda s: f"{len(s.bad_pixels.hot)}{s.searched}",
    "saturated pixels": lambda s: s.clipping.line() if s.clipping else f"none{s.searched}",
    "centre": _describe_centre,
    "detector": lambda s: (
        None if s.edge_ratio is None else f"edge has {s.edge_ratio:.2g} of the mean intensity"
    ),
    "window": _describe_window,
    "propagation": _describe_flight,
    "positions": lambda s: (
        "a single one"
        if len(s.scan) == 1
        else "all the same"
        if s.stands_still
        else f"{s.repeated_positions} repeated"
    ),
    "raster": _describe_raster,
    "extent": _describe_extent,
    "heights": _describe_heights,
    "orientation": lambda s: "known" if s.scan.oriented else "unknown",
    "masked": lambda s: f"{s.masked_part:.1%}" + (", with most of the counts" if s.masks_light else ""),
    "background": _describe_background,
}
"""Properties of a scan in the order in which they are shown; ``None`` where a scan has no such property."""


class FindingAdvice(StrEnum):
    """What to do about a problem; formatted with the survey."""

    REMARKS = "The file was read all the same: check that the patterns used are those meant."
    NO_COUNTS = "Every good pixel is zero: check the data set and the mask."
    BLANK = "Patterns without counts (a closed shutter, lost frames) are left out of reconstructions."
    SATURATED_PATTERNS = (
        "Patterns with the same value in all pixels and far more counts than the others are left out of "
        "reconstructions."
    )
    BRIGHT = (
        "Patterns that are damaged spoil what is found by all: leave them out "
        "(prepare: [{{without: {{numbers: {survey.listed_bright}}}}}])."
    )
    EXCHANGED_AXES = (
        "Counts change much from pattern to pattern, and the mean pattern is flat: are the first two axes "
        "those of the detector? {survey.advice_on_axes}."
    )
    NOT_WHOLE_NUMBERS = (
        "The values are not whole numbers, so not counts: scale them, or do not trust a loss of 1."
    )
    LARGE_QUANTUM = (
        "A quantum counts as {survey.quantum}: divide by it "
        "(prepare: [{{normalise: {{by: divide, value: {survey.quantum}}}}}])."
    )
    NOT_FINITE = "Values are not finite: put 0 there and mask those pixels (prepare: mask)."
    NEGATIVE = "Counts are not negative: set those to zero (prepare: nonnegative), or mask their pixels."
    UNUSUAL_ENERGY = "The energy is unusual for {survey.geometry.beam}s: check its unit."
    TINY_PIXEL = "The object pixel is below half the wavelength: check distance, pixel size and energy."
    UNKNOWN_BEAM = "The beam's size cannot be told from noisy patterns: compare the step with it yourself."
    NO_OVERLAP = "Neighbouring beams do not touch: check the unit of the positions, then the step."
    TINY_STEP = "The step is a small part of an object pixel: check the unit of the positions."
    LITTLE_OVERLAP = (
        "Neighbouring beams overlap little: check the unit of the step; else scan with smaller steps, or "
        "with a wider beam (more defocus)."
    )
    FEW_COUNTS = "There are few counts: use a Poisson noise model, and few probe modes."
    CHANGING_COUNTS = "The counts change much from pattern to pattern: let the fit learn a weight for each."
    DEAD_PIXELS = (
        "Pixels count far less than their neighbours. Runs mask gaps and beam stops, and single pixels, too; "
        "these in far fields of photons only where none of them may be the beam itself (else prepare: "
        "{{mask: {{outliers: true}}}})."
    )
    HOT_PIXELS = (
        "Single pixels outshine all their neighbours. Runs mask them; in far fields of photons only where "
        "none of the bad pixels may be the beam itself (else prepare: {{mask: {{outliers: true}}}})."
    )
    SATURATED_PIXELS = (
        "Many values stop at the same number: model it (detector: {{counting: {{saturation: "
        "{survey.clipping.level:g}}}}}), or mask the pixels (prepare: {{mask: {{saturated: "
        "{survey.clipping.level:g}}}}})."
    )
    OFF_CENTRE = "The patterns are not centred, which tilts the phase: centre them (prepare: center)."
    ZERO_IN_CORNER = (
        "The light is around the corners: the zero frequency lies there, as after a Fourier transform. "
        "Save the patterns with it in the middle (numpy.fft.fftshift over their two axes)."
    )
    FULL_DETECTOR = (
        "The pattern fills the detector, so fine details are lost or aliased: move it nearer, or pad."
    )
    WIDE_BEAM = "The beam nearly fills its window and wraps round: bin less, or defocus less."
    BEAM_TO_CHECK = (
        "Patterns do not tell the rest: the width of the beam, about 2 x defocus x semi-angle, must stay "
        "below 0.7 of the window."
    )
    LONG_FLIGHT = "The propagation is too long for this window: pad it, or check focus and distance."
    ONE_PATTERN = (
        "One pattern overlaps with no other: object and probe cannot be told apart, and fit even its noise. "
        "Scan more positions."
    )
    ONE_POSITION = "Every pattern has the same position: check the positions."
    REPEATED_POSITIONS = (
        "Some positions occur more than once: fine for repeated shots, else a sign of a stuck stage."
    )
    PERFECT_RASTER = "A perfect raster leaves a grid in the picture: learn the positions, or scan a spiral."
    WRONG_EXTENT = (
        "The scanned field does not fit the object pixel: check the units of positions, distance and energy."
    )
    HEIGHTS_NOT_MODELLED = "In a cone beam heights are kept but not modelled: select patterns of one height."
    HEIGHTS_MODELLED = (
        "They are modelled where they differ by a tenth of the depth of focus (axial: false does not)."
    )
    UNKNOWN_ORIENTATION = (
        "The file does not say how the detector lies against the scan: the automatic start tries the ways."
    )
    INVERTED_MASK = "The mask seems to be inverted: it must not be 0 where a pixel is good (1 good, 0 bad)."
    LARGE_MASK = "Much of the detector is masked: check that the mask is meant so."
    UNKNOWN_BACKGROUND = (
        "All pixels beyond the bright part count alike, which scattering does not: let the run learn it "
        "(rates: {{background: 0.02}})."
    )
    LARGE_BACKGROUND = "The background holds most of the counts: check that it is of one pattern."


@dataclass(frozen=True)
class FindingRule:
    """A problem with a property; of several that apply to one property, the first counts."""

    name: str
    level: Level
    advice: FindingAdvice
    applies: Callable[[_ScanSurvey], bool]


RULES = (
    FindingRule("file", "warn", FindingAdvice.REMARKS, lambda s: True),
    FindingRule("counts", "bad", FindingAdvice.NO_COUNTS, lambda s: s.highest <= 0),
    FindingRule("counts", "bad", FindingAdvice.EXCHANGED_AXES, lambda s: s.are_axes_exchanged),
    FindingRule("counts", "warn", FindingAdvice.NOT_WHOLE_NUMBERS, lambda s: s.scaled),
    FindingRule("counts", "warn", FindingAdvice.LARGE_QUANTUM, lambda s: s.quantum > 1),
    FindingRule("blank", "note", FindingAdvice.BLANK, lambda s: True),
    FindingRule("saturated patterns", "note", FindingAdvice.SATURATED_PATTERNS, lambda s: True),
    FindingRule("bright", "warn", FindingAdvice.BRIGHT, lambda s: True),
    FindingRule("values", "bad", FindingAdvice.NOT_FINITE, lambda s: s.not_finite > 0),
    FindingRule("values", "warn", FindingAdvice.NEGATIVE, lambda s: s.negative > 0),
    FindingRule("beam", "warn", FindingAdvice.UNUSUAL_ENERGY, lambda s: not s.has_usual_energy),
    FindingRule(
        "object pixel",
        "bad",
        FindingAdvice.TINY_PIXEL,
        lambda s: min(s.geometry.pixel) < s.geometry.wavelength / 2,
    ),
    FindingRule(
        "overlap", "warn", FindingAdvice.TINY_STEP, lambda s: 0 < s.step < MIN_STEP * min(s.geometry.pixel)
    ),
    FindingRule("overlap", "note", FindingAdvice.UNKNOWN_BEAM, lambda s: not s.diameter),
    FindingRule("overlap", "bad", FindingAdvice.NO_OVERLAP, lambda s: s.overlap == 0),
    FindingRule("overlap", "bad", FindingAdvice.LITTLE_OVERLAP, lambda s: s.overlap < 0.3),
    FindingRule("overlap", "warn", FindingAdvice.LITTLE_OVERLAP, lambda s: s.overlap < 0.6),
    FindingRule("dose", "warn", FindingAdvice.FEW_COUNTS, lambda s: s.totals.mean() < 100),
    FindingRule("dose", "note", FindingAdvice.CHANGING_COUNTS, lambda s: s.changes > 0.3),
    FindingRule("dead pixels", "warn", FindingAdvice.DEAD_PIXELS, lambda s: len(s.bad_pixels.dead) > 0),
    FindingRule("hot pixels", "warn", FindingAdvice.HOT_PIXELS, lambda s: len(s.bad_pixels.hot) > 0),
    FindingRule("saturated pixels", "warn", FindingAdvice.SATURATED_PIXELS, lambda s: s.clipping is not None),
    FindingRule(
        "centre",
        "warn",
        FindingAdvice.OFF_CENTRE,
        lambda s: max(map(abs, s.off_centre or [0])) >= max(1.5, 0.03 * min(s.geometry.shape)),
    ),
    FindingRule("detector", "bad", FindingAdvice.ZERO_IN_CORNER, lambda s: s.has_zero_in_corner),
    FindingRule(
        "detector",
        "warn",
        FindingAdvice.FULL_DETECTOR,
        lambda s: not s.are_axes_exchanged and not (s.edge_ratio or 0.0) < 0.3,
    ),
    FindingRule("window", "note", FindingAdvice.BEAM_TO_CHECK, lambda s: s.is_diameter_open),
    FindingRule(
        "window", "bad", FindingAdvice.WIDE_BEAM, lambda s: not (s.window_part or 0.0) < MAX_PART_OF_WINDOW
    ),
    FindingRule(
        "window",
        "warn",
        FindingAdvice.WIDE_BEAM,
        lambda s: (s.window_part or 0.0) > MAX_PART_WITHOUT_WARNING,
    ),
    FindingRule(
        "propagation",
        "warn",
        FindingAdvice.LONG_FLIGHT,
        lambda s: not abs(s.geometry.flight) <= s.longest_flight,
    ),
    FindingRule(
        "positions", "bad", FindingAdvice.ONE_PATTERN, lambda s: len(s.scan) == 1 and not s.geometry.near
    ),
    FindingRule("positions", "bad", FindingAdvice.ONE_POSITION, lambda s: s.stands_still),
    FindingRule("positions", "note", FindingAdvice.REPEATED_POSITIONS, lambda s: s.repeated_positions > 0),
    FindingRule("raster", "note", FindingAdvice.PERFECT_RASTER, lambda s: s.raster is not None),
    FindingRule("extent", "bad", FindingAdvice.WRONG_EXTENT, lambda s: not 1 <= s.extent <= 1e5),
    FindingRule("heights", "warn", FindingAdvice.HEIGHTS_NOT_MODELLED, lambda s: s.in_cone_beam),
    FindingRule("heights", "note", FindingAdvice.HEIGHTS_MODELLED, lambda s: True),
    FindingRule("orientation", "note", FindingAdvice.UNKNOWN_ORIENTATION, lambda s: not s.scan.oriented),
    FindingRule("masked", "bad", FindingAdvice.INVERTED_MASK, lambda s: s.masks_light),
    FindingRule(
        "masked", "warn", FindingAdvice.LARGE_MASK, lambda s: s.masked_part >= MIN_MASKED_PART_TO_WARN
    ),
    FindingRule("masked", "note", FindingAdvice.LARGE_MASK, lambda s: s.masked_part >= 0.1),
    FindingRule("background", "warn", FindingAdvice.LARGE_BACKGROUND, lambda s: not s.background_part < 0.5),
    FindingRule(
        "background",
        "warn",
        FindingAdvice.UNKNOWN_BACKGROUND,
        lambda s: s.unknown_background >= MIN_BACKGROUND_TO_WARN,
    ),
    FindingRule("background", "note", FindingAdvice.UNKNOWN_BACKGROUND, lambda s: s.unknown_background > 0),
)
