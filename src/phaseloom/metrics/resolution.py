"""Resolution from two independent reconstructions of one scene: Fourier ring correlation.

M. van Heel, M. Schatz, J. Struct. Biol. 151 (2005) 250, doi 10.1016/j.jsb.2005.05.009.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from phaseloom.errors import BadInput
from phaseloom.metrics.phase import find_shift, remove_plane_wave, shift_image

__all__ = ["USUAL_MARGIN", "RingCorrelation", "align", "cut_edges", "register", "ring_correlation"]

USUAL_MARGIN = 8
"""Pixels cut from each edge of images that are correlated."""

ONE_SEVENTH = 1 / 7
MIN_STRONG_CORRELATION = 0.5
"""Signal as strong as noise. Chance reaches five standard errors, 5 / sqrt(components), in no ring."""


@dataclass(frozen=True, eq=False)
class RingCorrelation:
    """Correlation of two images ring by ring in Fourier space; arrays ``(ring,)``, zero frequency first.

    Attributes:
        frequency: centre of each ring, 1 / (unit of the pixel).
        value: correlation, -1 to 1.
        threshold_half_bit: correlation at which a ring holds half a bit per Fourier component.
        threshold_one_seventh: the constant 1/7, for half data sets (doi 10.1016/j.jmb.2003.07.013).
        counts: independent Fourier components in each ring; of a real image only half are.
    """

    frequency: np.ndarray
    value: np.ndarray
    threshold_half_bit: np.ndarray
    threshold_one_seventh: np.ndarray
    counts: np.ndarray

    def resolution(self, threshold: str | float = "half-bit") -> float:
        """Full period at which the curve falls below a threshold, in the unit of the pixel.

        This is the first crossing, but that rings without signal, as between the reflections of a crystal,
        are passed over: where a finer ring has as much signal as noise (0.5) and five standard errors,
        or a row of finer rings is above the threshold that is longer by two than the gap before it.
        The crossing is interpolated between rings. A curve that never falls gives the period of its
        last ring (the true resolution is finer than the pixel shows); one that starts below, infinity.

        Args:
            threshold: ``"half-bit"``, ``"one-seventh"`` or ``"1/7"``, or a number.

        Raises:
            BadInput: not the name of a threshold nor a number.

        Example:
            >>> curve = ring_correlation(np.eye(16), np.eye(16), pixel=(0.5, 0.5))
            >>> curve.resolution()
            1.0
        """
        margin = (self.value - self._threshold(threshold))[1:]
        frequency = self.frequency[1:]
        if margin[0] < 0:
            return float("inf")
        first = self._find_end(margin)
        if first == len(margin):
            return float(1 / frequency[-1])
        part = margin[first - 1] / (margin[first - 1] - margin[first])
        return float(1 / (frequency[first - 1] + part * (frequency[first] - frequency[first - 1])))

    def _find_end(self, margin: np.ndarray) -> int:
        """The first ring below the threshold that no gap in the signal explains, or their number."""
        is_strong = self.value[1:] > np.maximum(MIN_STRONG_CORRELATION, 5 / np.sqrt(self.counts[1:]))
        changes = np.flatnonzero(np.diff(margin < 0)) + 1  # first rings below, above, below ...
        ends = [*changes, len(margin), len(margin)]
        for at in range(0, len(ends) - 2, 2):
            below, above, end = ends[at : at + 3]
            is_row = end - above >= above - below + 2
            if not is_row and not (is_strong[above:] & (margin[above:] >= 0)).any():
                return int(below)
        return len(margin)

    def _threshold(self, name: str | float) -> np.ndarray | float:
        known = {"half-bit": self.threshold_half_bit, "one-seventh": self.threshold_one_seventh}
        known["1/7"] = self.threshold_one_seventh
        if not isinstance(name, str):
            return name
        if (said := name.strip().lower().replace(" ", "-").replace("_", "-")) not in known:
            fix = f"is unknown: write {', '.join(known)} or a number"
            raise BadInput("resolution.threshold", name, fix)
        return known[said]


def ring_correlation(
    a: ArrayLike, b: ArrayLike, /, *, pixel: tuple[float, float] = (1.0, 1.0), window: str = "hann"
) -> RingCorrelation:
    """Fourier ring correlation ``Re sum(A B*) / sqrt(sum|A|^2 sum|B|^2)`` of two registered images.

    Rings are one Fourier pixel wide (the coarser axis of a rectangular image) and end at the Nyquist
    frequency of the coarser pixel. The half-bit threshold counts Fourier components without the loss
    of independence that a window brings, as is customary.

    Args:
        a: ``(y, x)``, real or complex; see `register` for two reconstructions.
        b: ``(y, x)``, the same scene from other data.
        pixel: (y, x), for instance in angstrom.
        window: ``"hann"`` damps the edges, which are not periodic; ``"none"`` for periodic images.

    Raises:
        BadInput: not two images of one shape, or too small for a ring.

    Example:
        >>> noise = np.random.default_rng(0).normal(size=(2, 32, 40))
        >>> curve = ring_correlation(noise[0], noise[1], window="none")
        >>> bool(abs(curve.value[4:]).max() < 0.4)
        True
    """
    one = np.asarray(a)
    two = np.asarray(b)
    if one.ndim != 2 or one.shape != two.shape or min(one.shape) < 4:
        raise BadInput("ring_correlation", (one.shape, two.shape), "must be two images (y, x) of one shape")
    taper = np.outer(*(_make_window(size, window) for size in one.shape))
    first = np.fft.fft2(one * taper)
    second = np.fft.fft2(two * taper)
    ring, width, rings = _number_rings(one.shape, pixel)

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(ring.ravel(), values.ravel(), minlength=rings + 1)[:rings]

    power = total(np.abs(first) ** 2) * total(np.abs(second) ** 2)
    value = total((first * second.conj()).real) / np.sqrt(np.maximum(power, np.finfo(float).tiny))
    real = not (np.iscomplexobj(one) or np.iscomplexobj(two))
    counts = np.maximum(total(np.ones(ring.shape)) / (2 if real else 1), 1)
    return RingCorrelation(
        frequency=np.arange(rings) * width,
        value=value,
        threshold_half_bit=_compute_half_bit(counts),
        threshold_one_seventh=np.full(rings, ONE_SEVENTH),
        counts=counts,
    )


def register(
    a: ArrayLike, b: ArrayLike, /, *, margin: int = USUAL_MARGIN, max_shift: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Lay one reconstruction on another and cut both to what they share, ready for `ring_correlation`.

    Images of different sizes are first cut to the same size around their centres. For complex images
    the constant phase and the ramp between them, which no data can fix, are removed too.

    Args:
        a: ``(y, x)``, real or complex; this one is moved.
        b: ``(y, x)``.
        margin: pixels cut from each edge beside those the shift brings in.
        max_shift: largest shift looked for, pixels; ``None``: half the image.

    Raises:
        BadInput: nothing is left.

    Example:
        >>> y, x = np.mgrid[:40, :44]
        >>> blob = np.exp(-((y - 20) ** 2 + (x - 20) ** 2) / 9)
        >>> one, two = register(np.roll(blob, 2, 1), blob)
        >>> one.shape, bool(np.allclose(one, two, atol=1e-6))
        ((24, 24), True)
    """
    one, two, shift = align(a, b, max_shift=max_shift)
    return cut_edges(one, shift, margin), cut_edges(two, shift, margin)


def align(
    a: ArrayLike, b: ArrayLike, /, *, max_shift: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lay one reconstruction on another, see `register`: both, and the shift (y, x) of the first, pixels."""
    one = np.asarray(a)
    two = np.asarray(b)
    shape = np.minimum(one.shape, two.shape)
    one = _cut_centre(one, shape)
    two = _cut_centre(two, shape)
    complex_ = np.iscomplexobj(one) and np.iscomplexobj(two)
    if complex_:
        one = remove_plane_wave(one)
        two = remove_plane_wave(two)
    shift = find_shift(one, two, max_shift=max_shift, rounds=3)
    one = shift_image(one, shift)
    if complex_:
        one = remove_plane_wave(one * two.conj()) * two / np.maximum(np.abs(two) ** 2, 1e-30)
    return one, two, np.asarray(shift)


def cut_edges(image: np.ndarray, shift: np.ndarray, margin: int, /) -> np.ndarray:
    """What two images that were aligned share: without what a shift brought in, and a margin.

    Raises:
        BadInput: nothing is left.
    """
    edges = [margin + int(np.ceil(abs(step))) for step in shift]
    if any(size - 2 * edge < 4 for size, edge in zip(image.shape, edges, strict=True)):
        size = f"{image.shape[0]}x{image.shape[1]}"
        raise BadInput("register.margin", margin, f"leaves nothing of {size} after the shift")
    return image[tuple(slice(edge, size - edge) for size, edge in zip(image.shape, edges, strict=True))]


def _compute_half_bit(counts: np.ndarray) -> np.ndarray:
    """Signal-to-noise 0.4142 of the sum of both halves; van Heel & Schatz, equation 17."""
    root = np.sqrt(counts)
    return (0.2071 + 1.9102 / root) / (1.2071 + 0.9102 / root)


def _make_window(size: int, name: str) -> np.ndarray:
    """Periodic Hann window, or ones."""
    if name not in ("hann", "none"):
        raise BadInput("ring_correlation.window", name, "is unknown: write hann or none")
    return np.ones(size) if name == "none" else 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(size) + 0.5) / size)


def _number_rings(shape: tuple[int, ...], pixel: tuple[float, float]) -> tuple[np.ndarray, float, int]:
    """Number of the ring at each Fourier pixel, width of a ring and how many are complete."""
    y, x = (np.fft.fftfreq(size, step) for size, step in zip(shape, pixel, strict=True))
    width = max(1 / (size * step) for size, step in zip(shape, pixel, strict=True))
    rings = int(np.floor(0.5 / max(pixel) / width + 1e-6)) + 1
    ring = np.rint(np.hypot(y[:, None], x) / width).astype(int)
    return np.minimum(ring, rings), width, rings


def _cut_centre(image: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """The middle of an image."""
    start = [(size - want) // 2 for size, want in zip(image.shape, shape, strict=True)]
    return image[tuple(slice(s, s + want) for s, want in zip(start, shape, strict=True))]
