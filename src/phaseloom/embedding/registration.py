"""Align the patterns of a scan and make them equally bright: clusters shall not follow descan or beam."""

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from phaseloom.data.counts import compute_counts
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput

__all__ = ["Registration", "measure_registration", "register"]

ITERATIONS = 3
MAX_TEMPLATE_PATTERNS = 2000
TEMPLATE_BLUR = 0.7  # pixels
PEAK_LEVEL = 0.25  # of the maximum: what of the mean pattern is its central disk
PEAK_MARGIN = 2  # pixels about it
MIN_TEMPLATE = 0.02  # of its maximum, below which slopes are not divided by it
MAX_STEP = 3.0  # pixels of an iteration
MAX_WOBBLE = 1.0  # pixels off the plane that are followed: a jump of the beam is a bad frame, not a shift
PATTERNS_AT_ONCE = 256
FIT_ITERATIONS = 5


@dataclass(frozen=True, eq=False)
class Registration:
    """Where patterns lie on the detector, and how bright they are.

    Attributes:
        measured: ``(n, 2)`` pixels (row, column) off the mean pattern, of each pattern by itself.
        shifts: ``(n, 2)`` that are undone: a plane over the scan, and what of the rest is more than noise,
            one pixel at most.
        factors: ``(n,)`` that patterns are multiplied by.
    """

    measured: np.ndarray
    shifts: np.ndarray
    factors: np.ndarray

    def apply(self, scan: Scan4D, /) -> Scan4D:
        """The scan with its patterns aligned; read lazily if it was."""

        def align(number: int) -> np.ndarray:
            pattern = np.where(scan.mask, np.asarray(scan.counts[np.array([number])], np.float32), 0)
            return np.float32(self.factors[number]) * _move(pattern, self.shifts[[number]])[0]

        return replace(scan, counts=compute_counts(scan.counts, align, np.dtype(np.float32)))

    def undo(self, patterns: np.ndarray, index: np.ndarray, /) -> np.ndarray:
        """Aligned patterns ``(m, y, x)`` as they are on the detector, of the numbers of ``index``."""
        return _move(patterns, -self.shifts[index]) / self.factors[index, None, None]


def register(scan: Scan4D, /, *, brightness: bool = True) -> Scan4D:
    """Align patterns by their central disk and make them equally bright; a step of ``prepare``.

    For embeddings and clusters, which otherwise follow descan and the current of the beam. The result does
    not have Poisson statistics: reconstruct from the patterns as they were measured.

    Args:
        scan: a far-field scan whose mean pattern has one brightest spot or disk.
        brightness: also scale each pattern to the median number of counts.

    Raises:
        BadInput: a near field, or no counts.

    Example:
        >>> from phaseloom.data.scan import Geometry
        >>> y, x = np.indices((24, 24))
        >>> shifts = np.tile([-1, -0.5, 0, 0.5, 1], 5)[:, None, None]
        >>> spots = 900 * np.exp(-((y - 12 - shifts) ** 2 + (x - 12) ** 2) / 9)
        >>> places = np.array([[i % 5, i // 5] for i in range(25)], float)
        >>> geometry = Geometry(wavelength=0.02, shape=(24, 24), angle=(1e-3, 1e-3), beam="electron")
        >>> scan = Scan4D(counts=spots, positions=places, geometry=geometry)
        >>> [float(one.counts.std(0).max().round()) for one in (scan, register(scan))]
        [170.0, 19.0]
    """
    return measure_registration(scan, brightness=brightness).apply(scan)


def measure_registration(scan: Scan4D, /, *, brightness: bool = True) -> Registration:
    """Shift of each pattern from the mean pattern, by the likeliest position of its central disk.

    Arguments and errors as of `register`.
    """
    if scan.geometry.near:
        raise BadInput("register", None, "needs far-field patterns with a bright disk: leave it out")
    few = np.unique(np.linspace(0, len(scan) - 1, min(len(scan), MAX_TEMPLATE_PATTERNS)).astype(int))
    window = _find_peak(_read(scan, few).mean(0))
    sample = _read(scan, few)[:, *window]
    shifts = np.zeros((len(few), 2))
    template = None
    for _ in range(ITERATIONS):
        template = _Template.of(_move(sample, shifts).mean(0))
        shifts = shifts + template.measure(_move(sample, shifts))[0]
    assert template is not None
    measured = np.empty((len(scan), 2))
    variance = np.empty(len(scan))
    totals = np.empty(len(scan))
    for start in range(0, len(scan), PATTERNS_AT_ONCE):
        part = slice(start, start + PATTERNS_AT_ONCE)
        whole = _read(scan, np.arange(len(scan))[part])
        totals[part] = whole.sum((1, 2), dtype=np.float64)
        cut = whole[:, *window]
        found = np.zeros((len(cut), 2))
        for _ in range(ITERATIONS):
            step, variance[part] = template.measure(_move(cut, found))
            found = found + step
        measured[part] = found
    shifts = _follow(measured, variance, scan.positions)
    return Registration(measured, shifts, _equalise(totals) if brightness else np.ones(len(scan)))


@dataclass(frozen=True, eq=False)
class _Template:
    """A mean disk, and what its slopes tell of shifts.

    Attributes:
        slopes: ``(2, y, x)`` of the logarithm of its counts, less their mean.
        covariance: ``(2, 2)`` of a shift that one count tells.
    """

    slopes: np.ndarray
    covariance: np.ndarray

    @classmethod
    def of(cls, mean: np.ndarray, /) -> "_Template":
        smooth = ndimage.gaussian_filter(mean, TEMPLATE_BLUR)
        weight = smooth / smooth.sum()
        slopes = -np.array(np.gradient(smooth)) / np.maximum(smooth, MIN_TEMPLATE * smooth.max())
        slopes = slopes - (slopes * weight).sum((1, 2), keepdims=True)
        information = np.einsum("iyx,jyx,yx->ij", slopes, slopes, weight)
        return cls(slopes, np.linalg.inv(information + 1e-9 * np.eye(2)))

    def measure(self, patterns: np.ndarray, /) -> tuple[np.ndarray, np.ndarray]:
        """A step of scoring towards the likeliest shifts ``(n, 2)``, and the variances of these."""
        counts = np.maximum(patterns.sum((1, 2)), 1.0)
        score = np.einsum("nyx,iyx->ni", patterns, self.slopes) / counts[:, None]
        steps = np.clip(score @ self.covariance, -MAX_STEP, MAX_STEP)
        return steps, np.trace(self.covariance) / counts


def _find_peak(mean: np.ndarray) -> tuple[slice, slice]:
    """Window about the brightest spot of the mean pattern."""
    smooth = ndimage.gaussian_filter(mean, TEMPLATE_BLUR)
    if not smooth.max() > 0:
        raise BadInput("register", None, "finds no counts in the good pixels: check mask and data")
    spots = np.zeros(smooth.shape, np.int32)
    ndimage.label(smooth > PEAK_LEVEL * smooth.max(), output=spots)
    spot = spots == spots[np.unravel_index(smooth.argmax(), smooth.shape)]
    rows, columns = np.nonzero(spot)
    return _widen(rows), _widen(columns)


def _widen(numbers: np.ndarray) -> slice:
    return slice(max(0, int(numbers.min()) - PEAK_MARGIN), int(numbers.max()) + 1 + PEAK_MARGIN)


def _follow(measured: np.ndarray, variance: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """A plane over the scan, robust against jumps, and the part of the rest that is not noise."""
    spread = np.ptp(positions, axis=0)
    places = (positions - positions.mean(0)) / np.where(spread > 0, spread, 1.0)
    terms = np.concatenate([np.ones((len(places), 1)), places], axis=1)
    weight = np.ones(len(places))
    plane = np.zeros_like(measured)
    distance = np.zeros(len(measured))
    for _ in range(FIT_ITERATIONS):
        found = np.linalg.lstsq(terms * weight[:, None], measured * weight[:, None], rcond=None)[0]
        plane = terms @ found
        distance = np.linalg.norm(measured - plane, axis=1)
        weight = 1 / np.sqrt(1 + (distance / max(float(np.median(distance)), 1e-9)) ** 2)
    # of a round normal distribution the median distance is 1.18 standard deviations
    total = 2 * float(np.median(distance)) ** 2 / 1.386
    real = np.clip(1 - variance / max(total, 1e-12), 0, 1)
    return plane + real[:, None] * np.clip(measured - plane, -MAX_WOBBLE, MAX_WOBBLE)


def _move(patterns: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    return np.stack(
        [ndimage.shift(one, -by, order=1, mode="nearest") for one, by in zip(patterns, shifts, strict=True)]
    )


def _read(scan: Scan4D, index: np.ndarray) -> np.ndarray:
    return np.where(scan.mask, np.asarray(scan.counts[index], np.float32), 0).clip(0)


def _equalise(totals: np.ndarray) -> np.ndarray:
    """Factors that bring counts to their median; one for blank patterns."""
    lit = totals > 0
    return np.where(lit, np.median(totals[lit]) / np.where(lit, totals, 1.0), 1.0)
