"""Hot and dead pixels of a detector, found from the counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from phaseloom.data.scan import Scan4D

__all__ = ["BadPixels", "Clipping", "ClippingSearch", "find_bad_pixels", "find_clipping"]

HOT_RATIO = {"electron": 3.0, "photon": 20.0}
"""How many times its neighbours' median a hot pixel has at least. Speckle of photons is sharper: in the
far-field sample of the package a good pixel has more than three times the median, the beam more than ten."""

NEIGHBOUR_RATIO = {"electron": 2.0, "photon": 4.0}
"""How many times the brightest good neighbour a hot pixel has at least."""

DEAD_RATIO = 0.2
"""Share of its neighbours' median that a dead pixel has at most."""

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
        dead: ``(n, 2)`` of pixels that count far less.
        shape: of the detector.
    """

    hot: np.ndarray
    dead: np.ndarray
    shape: tuple[int, int]

    @property
    def mask(self) -> Bool[np.ndarray, "y x"]:
        """True where a pixel is neither."""
        good = np.ones(self.shape, bool)
        for row, column in (*self.hot, *self.dead):
            good[row, column] = False
        return good

    def lines(self) -> list[str]:
        """A sentence for each kind that was found."""
        kinds = (("hot", self.hot), ("dead", self.dead))
        return [
            f"{len(found)} {name} pixel{'s' * (len(found) > 1)} at (row, column) "
            + ", ".join(f"({row}, {column})" for row, column in found[:10].tolist())
            + (", ..." if len(found) > 10 else "")
            for name, found in kinds
            if len(found)
        ]


def find_bad_pixels(
    scan: Scan4D, /, *, mean: Float[np.ndarray, "y x"] | None = None, patterns: int | None = None
) -> BadPixels:
    """Compare each pixel of the mean pattern with the median of the 5 x 5 around it and with its neighbours.

    A pixel is hot if it has more than 3 times that median and more than twice any good neighbour (of photons
    in the far field 20 and 4 times), dead if it has less than a fifth of the median where that is bright;
    both by more than counting explains. A bright spot that is one pixel wide in every pattern cannot be
    told from a hot pixel, unless it is the brightest pixel, lies in the middle of a far field and its
    surroundings fall off: the beam itself.

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
        return BadPixels(np.empty((0, 2), int), np.empty((0, 2), int), (mean.shape[0], mean.shape[1]))
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
    dead = good & (filled < DEAD_RATIO * local) & (local - filled > noise)
    return BadPixels(np.argwhere(hot), np.argwhere(dead), (mean.shape[0], mean.shape[1]))


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


def _max_of_neighbours(image: Float[np.ndarray, "y x"]) -> Float[np.ndarray, "y x"]:
    from scipy.ndimage import maximum_filter

    footprint = np.ones((3, 3), bool)
    footprint[1, 1] = False
    return maximum_filter(image, footprint=footprint, mode="nearest")
