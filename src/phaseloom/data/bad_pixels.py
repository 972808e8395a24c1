"""Hot and dead pixels of a detector, found from the counts."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from phaseloom.data.scan import Scan4D

__all__ = ["BadPixels", "Clipping", "ClippingSearch", "find_bad_pixels", "find_clipping"]

HOT_RATIO = {"electron": 3.0, "photon": 20.0}
"""How many times its neighbours' median a hot pixel has at least. Speckle of photons is sharper: in the
far-field sample of the package a good pixel has more than three times the median, the beam more than ten."""

NEIGHBOUR_RATIO = {"electron": 2.0, "photon": 4.0}
"""How many times the brightest good neighbour a hot pixel has at least."""

DEAD_RATIO = 0.2
"""Share that a dead pixel has at most of its neighbours' median, and of what they lead to expect there."""

DIM_RATIO = 0.5
MAX_BY_CHANCE = 0.02
"""Dead pixels that fine speckle may make: its minima between both ratios are about evenly distributed, and
go on below; so many of them as dark as a dead pixel may be expected."""

MAX_DEAD_WIDTH = 2
"""Rows or columns of a dead line that its neighbours tell; a wider one is found where nothing is counted."""

MAX_GAP_SHARE = 0.25
"""Share of a detector that whole rows or columns without a count cover in one piece, at most."""

MAX_DARKNESS_OF_LINES = 0.1
"""Intensity, in units of what both sides lead to expect, that whole rows or columns may have by nature."""

MAX_DARKNESS_OF_AREAS = 1e-3
"""The same of an area: the middle of a beam with a central stop has that little of the ring around it."""

MIN_COUNTS_OF_GAP = 14.0
"""Counts that a gap would have as dark as that, at least: none is counted once in a million times."""

MIN_RATIO_AT_GAP = 0.85
"""Counts next to a gap, in units of those three pixels further out, on one of its sides at least: the ends of
two disks with nothing between them have half as many, a beam has more on the side away from its middle."""

PIXELS_BESIDE_GAP = 3
MIN_COUNTS_BESIDE_GAP = 3.0
"""Counts over all patterns that both sides of a pixel of a dark area have, at least."""

DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))
"""Lines through a pixel, along which its counts are expected to go on smoothly."""

MIN_COUNTS_OF_GROUP = 30.0
"""Counts that a pixel's neighbours have in a group of patterns, in each of which a dead pixel is dark."""

MAX_PATTERNS_FOR_DEAD = 200
"""Patterns that are read again where a pixel may be dead."""

MIN_HOT_EXCESS = 0.2
"""Counts of a hot pixel beyond its neighbours, in units of the mean pixel: fainter ones may be speckle."""

MIN_SIGNIFICANCE = 6.0
"""Standard deviations of counting by which a bad pixel differs from its neighbours."""

MAX_PATTERNS_FOR_MEAN = 2000
"""Patterns that the mean is taken of where none is given."""

MAX_PATTERNS_FOR_CLIPPING = 500
"""Patterns that are searched for clipped values."""

MIN_CLIPPED_COUNTS = 20.0
"""Counts below which a common largest value is what few counts look like."""

MIN_CLIPPED_VALUES = 10
"""Values at the level of clipping, at least: fewer may be the end of a steep distribution by chance."""

MIN_CLIPPED_RATIO = 2.0
"""How many times more often than any of the values next below it a level of clipping occurs, at least. Of
counts, the largest value is the rarest: 1.0 or less. No scan of 25 simulated ones reached 2."""

VALUES_BELOW_CLIPPING = 3
"""Values next below the largest that it is compared with."""

MAX_MISSING_NEIGHBOURS = 1
"""Of the eight neighbours of a pixel that are masked, at most, to judge it by the others: next to a gap
between chips three are, at its corner two."""

MAX_BEAM_OFFSET = 2
"""Pixels off the middle of a pattern within which a single bright pixel may be the unscattered beam."""


@dataclass(frozen=True, eq=False)
class BadPixels:
    """Pixels of a detector that do not count electrons or photons.

    Attributes:
        hot: ``(n, 2)`` (row, column) of pixels that count far more than all their neighbours.
        dead: ``(n, 2)`` of pixels that count far less, those of `gaps` among them.
        gaps: ``(y, x)`` True in whole rows, columns and connected areas that count nothing: the gap between
            two modules, a beam stop.
    """

    hot: np.ndarray
    dead: np.ndarray
    gaps: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """Of the detector."""
        return self.gaps.shape[0], self.gaps.shape[1]

    @property
    def mask(self) -> Bool[np.ndarray, "y x"]:
        """True where a pixel is neither."""
        good = np.ones(self.shape, bool)
        for row, column in (*self.hot, *self.dead):
            good[row, column] = False
        return good

    def lines(self) -> list[str]:
        """A sentence for each kind that was found."""
        alone = self.dead[~self.gaps[tuple(self.dead.T)]]
        return [
            f"{len(found)} {name} pixel{'s' * (len(found) > 1)} at (row, column) "
            + ", ".join(f"({row}, {column})" for row, column in found[:10].tolist())
            + (", ..." if len(found) > 10 else "")
            for name, found in (("hot", self.hot), ("dead", alone))
            if len(found)
        ] + self.describe_gaps()

    def describe_gaps(self) -> list[str]:
        """Rows and columns of the gaps, in one sentence, if there are any."""
        from scipy.ndimage import find_objects, label

        labelled: Any = label(self.gaps, np.ones((3, 3)))
        areas = [
            f"{_name_range('row', rows)}, {_name_range('column', columns)}"
            for rows, columns in find_objects(labelled[0])
        ]
        if not areas:
            return []
        named = "; ".join(areas[:5]) + ("; ..." if len(areas) > 5 else "")
        return [f"{int(self.gaps.sum())} pixels without a count within {named}"]


def _name_range(name: str, part: slice) -> str:
    first, last = part.start, part.stop - 1
    return f"{name} {first}" if first == last else f"{name}s {first} to {last}"


def find_bad_pixels(
    scan: Scan4D, /, *, mean: Float[np.ndarray, "y x"] | None = None, patterns: int | None = None
) -> BadPixels:
    """Compare each pixel of the mean pattern with the median of the 5 x 5 around it and with its neighbours.

    A pixel is hot if it has more than 3 times that median and more than twice any good neighbour (of photons
    in the far field 20 and 4 times), by more than counting explains. A bright spot that is one pixel wide in
    every pattern cannot be told from a hot pixel, unless it is the brightest pixel, lies in the middle of a
    far field and its surroundings fall off: the beam itself.

    A pixel is dead if it has less than a fifth of that median and of what the pixels on either side lead to
    expect there, along each line through it and in each group of patterns, in ratio to the flat field. Dark
    speckle falls off to its zeros and moves with the object; where it is so fine that its minima come near,
    a dead pixel has to be darker than they. Dead lines are up to two pixels wide.

    Wider ones are found where all patterns are zero: whole rows or columns that would have counts if they
    were a tenth as bright as both of their sides, and, of photons, areas that would if they were a thousandth
    as bright as what is on either side along three of four directions. Corners of a detector, the field
    outside a bright disk and patterns of few counts have no such surroundings; the field between several
    bright disks of photons (of a grating) may have: state ``mask: none`` then.

    Args:
        scan: pixels that it masks already, or whose mean is not finite, are left out.
        mean: its mean pattern, if it is at hand; default: that of 2000 patterns.
        patterns: how many the mean was taken of, which gives its noise; default: all.

    Example:
        >>> from phaseloom.data.scan import Geometry
        >>> geometry = Geometry(wavelength=0.02, shape=(9, 9), angle=(1e-3, 1e-3), beam="electron")
        >>> counts = np.full((50, 9, 9), 4.0); counts[:, 2, 3] = 90; counts[:, 6, 6] = 0
        >>> find_bad_pixels(Scan4D(counts=counts, positions=np.zeros((50, 2)), geometry=geometry)).lines()
        ['1 hot pixel at (row, column) (2, 3)', '1 dead pixel at (row, column) (6, 6)']
    """
    from scipy.ndimage import median_filter, uniform_filter

    kind = "electron" if scan.geometry.near else scan.geometry.beam
    patterns = len(scan) if patterns is None else patterns
    if mean is None:
        patterns = min(MAX_PATTERNS_FOR_MEAN, len(scan))
        mean = scan.mean_pattern(most=patterns)
    good = scan.mask & np.isfinite(mean)
    if not good.any():
        return BadPixels(np.empty((0, 2), int), np.empty((0, 2), int), np.zeros(mean.shape, bool))
    gaps = _find_gaps(np.where(good, mean, 0.0) * patterns, good, areas=scan.geometry.beam == "photon")
    good &= ~gaps
    filled = np.where(good, mean, 0.0)
    local = _correct_medians(median_filter(filled, 5, mode="nearest"), filled, good)
    noise = MIN_SIGNIFICANCE * np.sqrt((local + 1 / patterns) / patterns)
    faint = MIN_HOT_EXCESS * local.mean()
    high = good & (filled > HOT_RATIO[kind] * local + noise + faint)
    ordinary = np.where(high, 0.0, filled)
    # beside a gap the neighbour that would tell may be missing: it may be as bright as any
    beside_gap = uniform_filter((~good).astype(float), 3, mode="nearest") * 9 > MAX_MISSING_NEIGHBOURS + 0.5
    neighbours = np.where(beside_gap, ordinary.max(), _max_of_neighbours(ordinary))
    hot = high & (filled > NEIGHBOUR_RATIO[kind] * neighbours)
    if not scan.geometry.near:
        hot &= ~_find_unscattered_beam(filled)
    dead = _find_dead_pixels(scan, filled, good, patterns)
    return BadPixels(np.argwhere(hot), np.concatenate([dead, np.argwhere(gaps)]), gaps)


def _find_gaps(
    total: Float[np.ndarray, "y x"], good: Bool[np.ndarray, "y x"], *, areas: bool
) -> Bool[np.ndarray, "y x"]:
    """True in rows, columns and, if asked for, areas without a count between pixels that have many."""
    empty = good & (total == 0)
    gaps = _find_empty_columns(total, good, empty) | _find_empty_columns(total.T, good.T, empty.T).T
    if not areas or not (empty & ~gaps).any():
        return gaps
    return gaps | _find_empty_areas(total, good & ~gaps, empty & ~gaps)


def _find_empty_columns(
    total: Float[np.ndarray, "y x"], good: Bool[np.ndarray, "y x"], empty: Bool[np.ndarray, "y x"]
) -> Bool[np.ndarray, "y x"]:
    """True in columns without a count whose neighbours on both sides have some in the same rows."""
    from scipy.ndimage import uniform_filter1d

    found = np.zeros(total.shape, bool)
    dark = np.concatenate([[False], (empty | ~good).all(0), [False]])
    ends = np.flatnonzero(dark[1:] != dark[:-1]).reshape(-1, 2)
    smooth = uniform_filter1d(total, 5, axis=0, mode="nearest")
    for start, stop in ends.tolist():
        if start <= PIXELS_BESIDE_GAP or stop >= total.shape[1] - PIXELS_BESIDE_GAP:
            continue
        here = empty[:, start:stop]
        expected = (np.minimum(smooth[:, start - 1], smooth[:, stop])[:, None] * here).sum()
        outside = [
            total[:, start - 1 - PIXELS_BESIDE_GAP].sum(),
            total[:, stop + PIXELS_BESIDE_GAP].sum(),
        ]
        beside = [total[:, start - 1].sum(), total[:, stop].sum()]
        goes_on = any(near >= MIN_RATIO_AT_GAP * far > 0 for near, far in zip(beside, outside, strict=True))
        is_narrow = stop - start <= MAX_GAP_SHARE * total.shape[1]
        if is_narrow and goes_on and MAX_DARKNESS_OF_LINES * expected > MIN_COUNTS_OF_GAP:
            found[:, start:stop] = here
    return found


def _find_empty_areas(
    total: Float[np.ndarray, "y x"], good: Bool[np.ndarray, "y x"], empty: Bool[np.ndarray, "y x"]
) -> Bool[np.ndarray, "y x"]:
    """True in connected areas without a count that have light around them."""
    from scipy.ndimage import binary_dilation, label
    from scipy.ndimage import sum as sum_labels

    known = good & ~empty
    expected = np.sort([_expect_between(total, known, step) for step in DIRECTIONS], axis=0)
    around, beside = expected[1], expected[-1]  # along three directions of four, and along any
    core = empty & (around >= MIN_COUNTS_BESIDE_GAP)
    labelled: Any = label(core, np.ones((3, 3)))
    labels, count = labelled
    counts = np.atleast_1d(sum_labels(around, labels, np.arange(1, count + 1)))
    sure = np.flatnonzero(MAX_DARKNESS_OF_AREAS * counts > MIN_COUNTS_OF_GAP) + 1
    area = np.isin(labels, sure)
    edge = empty & (beside >= MIN_COUNTS_BESIDE_GAP)
    return binary_dilation(area, np.ones((3, 3)), iterations=PIXELS_BESIDE_GAP, mask=area | edge)


def _expect_between(
    total: Float[np.ndarray, "y x"], known: Bool[np.ndarray, "y x"], step: tuple[int, int]
) -> Float[np.ndarray, "y x"]:
    """The lesser of the counts of the known pixels next to each place, ahead and behind; zero without one."""
    sides = [_carry(total, known, (sign * step[0], sign * step[1])) for sign in (1, -1)]
    return np.minimum(*sides)


def _carry(
    total: Float[np.ndarray, "y x"], known: Bool[np.ndarray, "y x"], step: tuple[int, int]
) -> Float[np.ndarray, "y x"]:
    """The counts of the nearest known pixel in a direction, zero where the detector ends before."""
    height, width = total.shape
    carried = np.where(known, total, 0.0)
    done = known.copy()
    for at in range(1, int(MAX_GAP_SHARE * 2 * max(height, width)) + 1):
        if done.all():
            break
        y, x = at * step[0], at * step[1]
        to = (slice(max(-y, 0), height - max(y, 0)), slice(max(-x, 0), width - max(x, 0)))
        of = (slice(max(y, 0), height - max(-y, 0)), slice(max(x, 0), width - max(-x, 0)))
        new = ~done[to] & known[of]
        carried[to] = np.where(new, total[of], carried[to])
        done[to] |= new
    return carried


def _find_dead_pixels(
    scan: Scan4D, mean: Float[np.ndarray, "y x"], good: Bool[np.ndarray, "y x"], patterns: int
) -> np.ndarray:
    """``(n, 2)`` of pixels that are dark against a smooth course of their neighbours, in all patterns."""
    from scipy.ndimage import median_filter

    flat = np.ones(mean.shape) if scan.flat is None else np.where(scan.flat > 0, scan.flat, 1.0)
    even = mean / flat
    local = _correct_medians(median_filter(even, 5, mode="nearest"), even, good)
    noise = MIN_SIGNIFICANCE * np.sqrt((local + 1 / patterns) / patterns)
    dark = good & (even < DEAD_RATIO * local) & (local - even > noise)
    if not dark.any():
        return np.empty((0, 2), int)
    dim = good & (even < DIM_RATIO * local) & (even <= _min_of_neighbours(even, good))
    usable = good & ~dark
    places = np.argwhere(dim)
    level = np.array([min(local[tuple(place)], _expect(even, usable, place)) for place in places])
    own = even[dim]
    between = int(((own >= DEAD_RATIO * level) & (own < DIM_RATIO * level)).sum())
    by_chance = between / (DIM_RATIO - DEAD_RATIO) * (own + 1 / patterns)
    is_dead = dark[dim] & (own < DEAD_RATIO * level) & (by_chance < MAX_BY_CHANCE * level)
    dead = places[is_dead]
    return dead[_are_always_dark(scan, dead, local, flat)] if len(dead) else dead


def _expect(even: Float[np.ndarray, "y x"], usable: Bool[np.ndarray, "y x"], place: np.ndarray) -> float:
    """What the neighbours of a pixel lead to expect there, the least along the lines through it.

    A cubic through two pixels on each side vanishes in the middle of a zero of a wave, whose intensity grows
    as the squared distance; beside a pixel that does not count it does not.
    """
    two_sided, one_sided = list[float](), list[float]()
    for step in DIRECTIONS:
        ahead = _look_along(usable, place, step)
        behind = [-at for at in _look_along(usable, place, (-step[0], -step[1]))]
        read = partial(_read_at_zero, even, place, step)
        if min(len(ahead), len(behind)) > 1:
            two_sided.append(read([*ahead[:2], *behind[:2]]))
        else:  # at an edge, or beside masked pixels
            one_sided += [read(nodes[:3]) for nodes in (ahead, behind) if len(nodes) > 2]
    return min(two_sided or one_sided, default=0.0)


def _read_at_zero(
    even: Float[np.ndarray, "y x"], place: np.ndarray, step: tuple[int, int], nodes: list[int]
) -> float:
    """The polynomial through the pixels that lie so many steps off a place, there."""
    total = 0.0
    for node in nodes:
        weight = math.prod(other / (other - node) for other in nodes if other != node)
        total += weight * float(even[place[0] + node * step[0], place[1] + node * step[1]])
    return total


def _look_along(usable: Bool[np.ndarray, "y x"], place: np.ndarray, step: tuple[int, int]) -> list[int]:
    """Distances, in steps, of the usable pixels nearest in a direction; none beyond a wide dark place."""
    found = []
    for at in range(1, MAX_DEAD_WIDTH + 3):
        y, x = place[0] + at * step[0], place[1] + at * step[1]
        if not (0 <= y < usable.shape[0] and 0 <= x < usable.shape[1]):
            break
        if usable[y, x]:
            found.append(at)
    return found if found and found[0] <= MAX_DEAD_WIDTH else []


def _are_always_dark(
    scan: Scan4D,
    places: Int[np.ndarray, "n 2"],
    local: Float[np.ndarray, "y x"],
    flat: Float[np.ndarray, "y x"],
) -> Bool[np.ndarray, " n"]:
    """Whether pixels are dark against their neighbours in every group of patterns that counted enough."""
    index = np.unique(
        np.linspace(0, len(scan) - 1, min(MAX_PATTERNS_FOR_DEAD, len(scan))).round().astype(int)
    )
    own, around = (np.empty((len(index), len(places))) for _ in range(2))
    bad = np.zeros(scan.geometry.shape, bool)
    bad[tuple(places.T)] = True
    trusted = np.pad(scan.mask & ~bad, 1)
    windows = [(slice(y, y + 3), slice(x, x + 3)) for y, x in places]
    for start in range(0, len(index), 64):
        stack = np.asarray(scan.counts[index[start : start + 64]], np.float64) / flat
        padded = np.pad(stack, ((0, 0), (1, 1), (1, 1)))
        own[start : start + 64] = stack[:, places[:, 0], places[:, 1]]
        for n, window in enumerate(windows):
            beside = trusted[window]
            around[start : start + 64, n] = padded[:, *window][:, beside].mean(1) if beside.any() else 0.0
    level = max(float(np.median(local[tuple(places.T)])), 1e-300)
    size = max(1, math.ceil(MIN_COUNTS_OF_GROUP / level))
    first = np.arange(0, max(len(index) - size, 0) + 1, size)
    number = np.diff(np.append(first, len(index)))[:, None]
    seen, expected = (np.add.reduceat(one, first) for one in (own, around))
    bright = expected > 0.5 * np.median(expected, 0)
    limit = DEAD_RATIO * expected + MIN_SIGNIFICANCE * np.sqrt(DEAD_RATIO * expected + 1 / number)
    return np.asarray(((seen < limit) | ~bright).all(0))


@dataclass(frozen=True, eq=False)
class Clipping:
    """A level that a detector does not count beyond.

    Attributes:
        level: the largest value, in the scan's units.
        values: how many of the values read have it.
        share: ``(y, x)`` of the patterns in which a pixel has it.
    """

    level: float
    values: int
    share: np.ndarray

    def line(self) -> str:
        """What was found as the end of a sentence."""
        pixels = int((self.share > 0).sum())
        return f"{self.values} values of {self.level:g} in {pixels} pixel{'s' * (pixels > 1)}"


def find_clipping(scan: Scan4D, /) -> Clipping | None:
    """The level at which values are cut off: the largest value is far more frequent than those next below.

    A largest value of less than 20, or one that is seldom reached, is not taken for clipping.

    Args:
        scan: 500 patterns of it are read; pixels that it masks are left out.

    Example:
        >>> from phaseloom.data.scan import Geometry
        >>> geometry = Geometry(wavelength=0.02, shape=(9, 9), angle=(1e-3, 1e-3), beam="electron")
        >>> counts = np.random.default_rng(0).poisson(np.full((50, 9, 9), 100.0) * np.eye(9))
        >>> scan = Scan4D(counts=counts, positions=np.zeros((50, 2)), geometry=geometry)
        >>> find_clipping(scan) is None
        True
        >>> clipped = Scan4D(counts=counts.clip(max=90), positions=scan.positions, geometry=geometry)
        >>> find_clipping(clipped).level
        90.0
    """
    most = min(len(scan), MAX_PATTERNS_FOR_CLIPPING)
    index = np.unique(np.linspace(0, len(scan) - 1, most).round().astype(int))
    search = ClippingSearch(scan.geometry.shape)
    for start in range(0, len(index), 64):
        stack = np.asarray(scan.counts[index[start : start + 64]])
        search.add(np.where(scan.mask & np.isfinite(stack), stack, 0))
    return search.finish()


class ClippingSearch:
    """What `find_clipping` collects of one stack of patterns after the other.

    Args:
        shape: of the detector.
    """

    def __init__(self, shape: tuple[int, int]):
        self.level = 0.0
        self.times = np.zeros(shape, int)
        self.read = 0
        self.frequency: Counter[float] = Counter()

    def add(self, stack: Float[np.ndarray, "b y x"]) -> None:
        """Count the large values of a stack, in which masked pixels are zero."""
        highest = float(stack.max(initial=0))
        if highest > self.level:
            self.level = highest
            self.times[:] = 0
        self.read += len(stack)
        self.times += (stack == self.level).sum(0)
        values, numbers = np.unique(stack[stack > self.level / 2], return_counts=True)
        self.frequency.update(dict(zip(values.tolist(), numbers.tolist(), strict=True)))

    def finish(self) -> Clipping | None:
        """The level of clipping, if there is one."""
        highest = sorted(self.frequency, reverse=True)[: 1 + VALUES_BELOW_CLIPPING]
        at_level, *below = [self.frequency[value] for value in highest] or [0]
        least = max(MIN_CLIPPED_VALUES, MIN_CLIPPED_RATIO * max(below, default=at_level))
        if self.level < MIN_CLIPPED_COUNTS or at_level < least:
            return None
        return Clipping(self.level, at_level, self.times / self.read)


def _correct_medians(
    local: Float[np.ndarray, "y x"], filled: Float[np.ndarray, "y x"], good: Bool[np.ndarray, "y x"]
) -> Float[np.ndarray, "y x"]:
    """Medians of the 5 x 5 around each pixel, of good pixels alone."""
    from scipy.ndimage import binary_dilation

    local = local.copy()
    known = np.pad(np.where(good, filled, np.nan), 2, mode="edge")
    for row, column in np.argwhere(binary_dilation(~good, np.ones((5, 5), bool)) & good):
        local[row, column] = np.nanmedian(known[row : row + 5, column : column + 5])
    return local


def _find_unscattered_beam(mean: Float[np.ndarray, "y x"]) -> Bool[np.ndarray, "y x"]:
    """True around the brightest pixel if it is the beam itself: in the middle, with a tail around it."""
    beam = np.zeros(mean.shape, bool)
    y, x = (int(place) for place in np.unravel_index(mean.argmax(), mean.shape))
    central = max(abs(y - mean.shape[0] // 2), abs(x - mean.shape[1] // 2)) <= MAX_BEAM_OFFSET
    rows, columns = (slice(max(at - MAX_BEAM_OFFSET, 0), at + MAX_BEAM_OFFSET + 1) for at in (y, x))
    beam[rows, columns] = central and not _is_on_plateau(mean, y, x)
    return beam


def _is_on_plateau(image: Float[np.ndarray, "y x"], y: int, x: int) -> bool:
    """Whether the surroundings of a pixel are as bright two pixels away as next to it: a disk, no tail."""
    part = np.pad(image, 2, constant_values=np.nan)[y : y + 5, x : x + 5]
    near = np.zeros((5, 5), bool)
    near[1:4, 1:4] = True
    far = ~near
    near[2, 2] = False
    if not np.isfinite(part[far]).any():  # a detector of three pixels has nothing beyond
        return False
    return bool(np.nanmedian(part[far]) > 0.5 * np.nanmedian(part[near]))


def _min_of_neighbours(
    image: Float[np.ndarray, "y x"], good: Bool[np.ndarray, "y x"]
) -> Float[np.ndarray, "y x"]:
    """The lowest of the good pixels around each one."""
    return -_max_of_neighbours(np.where(good, -image, -math.inf))


def _max_of_neighbours(image: Float[np.ndarray, "y x"]) -> Float[np.ndarray, "y x"]:
    from scipy.ndimage import maximum_filter

    footprint = np.ones((3, 3), bool)
    footprint[1, 1] = False
    return maximum_filter(image, footprint=footprint, mode="nearest")
