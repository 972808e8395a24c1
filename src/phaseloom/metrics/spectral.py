"""Numbers by bands of spatial frequency: correlation of images or of mixed states, signal of a whole scan.

Bands have one width, from zero frequency on, and may be as many as one likes; `resolution` and `ensembles`
use rings of one Fourier pixel instead. Fourier planes have zero frequency in the corner.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from phaseloom.errors import BadInput
from phaseloom.metrics.mixed_states import fidelity
from phaseloom.metrics.scan_area import measure_hull

__all__ = ["Bands", "ScanSpectrum", "band_correlation", "band_fidelity", "divide_bands", "scan_spectrum"]
__all__ += ["snr_threshold"]


@dataclass(frozen=True, eq=False)
class Bands:
    """Bands of spatial frequency.

    Attributes:
        edges: ``(band + 1)``, 1 / (unit of the pixel), from zero.
        number: ``(y, x)`` band of each Fourier pixel; beyond the last edge the number of bands.
    """

    edges: np.ndarray
    number: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """Fourier pixels in each band, ``(band,)``."""
        return self.total(np.ones(self.number.shape))

    def total(self, values: np.ndarray) -> np.ndarray:
        """Sum of a Fourier plane ``(y, x)``, real or complex, over each band."""
        if np.iscomplexobj(values):
            return self.total(np.real(values)) + 1j * self.total(np.imag(values))
        size = len(self.edges) - 1
        return np.bincount(self.number.ravel(), np.ravel(values), minlength=size + 1)[:size]


@dataclass(frozen=True, eq=False)
class ScanSpectrum:
    """Counts that a scan puts into an area of the object as large as one window.

    Attributes:
        pattern: ``(y, x)``, zero frequency in the corner; masked pixels are zero.
        edges: of the bands, 1 / (unit of the pixel), ``(band + 1)``.
        value: mean of the pattern over the trusted pixels of each band, ``(band,)``; NaN without any.
    """

    pattern: np.ndarray
    edges: np.ndarray
    value: np.ndarray


def divide_bands(
    shape: tuple[int, int], /, *, count: int, pixel: tuple[float, float] = (1.0, 1.0), limit: str = "side"
) -> Bands:
    """Divide a Fourier plane into bands of equal width.

    Args:
        shape: of the image, (y, x).
        count: how many bands.
        pixel: of the image, (y, x).
        limit: ``"side"``: up to the highest positive frequency on an axis, the larger of both;
            ``"corner"``: all of the plane. The last edge belongs to the last band.

    Raises:
        BadInput: no bands, or an unknown limit.

    Example:
        >>> divide_bands((8, 8), count=3).counts.astype(int).tolist()
        [1, 8, 20]
    """
    if count < 1:
        raise BadInput("bands.count", count, "must be at least 1")
    if limit not in ("side", "corner"):
        raise BadInput("bands.limit", limit, "is unknown: write side or corner")
    y, x = (np.fft.fftfreq(size, step) for size, step in zip(shape, pixel, strict=True))
    radius = np.sqrt(y[:, None] ** 2 + x**2)
    edges = np.linspace(0, max(y.max(), x.max()) if limit == "side" else radius.max(), count + 1)
    number = np.searchsorted(edges, radius, side="right") - 1
    return Bands(edges, np.where(radius == edges[-1], count - 1, number))


def band_correlation(a: ArrayLike, b: ArrayLike, /, parts: Bands) -> np.ndarray:
    """Complex Fourier correlation ``sum A B* / sqrt(sum |A|^2 sum |B|^2)`` of two images, ``(band,)``.

    The real part is that of a Fourier ring correlation; for complex images the modulus does not depend on
    a constant phase between them. NaN in bands without light.

    Args:
        a: ``(y, x)``, real or complex.
        b: the same shape.
        parts: `divide_bands` of that shape.

    Raises:
        BadInput: shapes differ.

    Example:
        >>> image = np.random.default_rng(0).normal(size=(16, 17))
        >>> values = band_correlation(1j * image, image, divide_bands((16, 17), count=4))
        >>> bool(np.allclose(values, 1j))
        True
    """
    one = np.asarray(a)
    two = np.asarray(b)
    if not one.shape == two.shape == parts.number.shape:
        raise BadInput("band_correlation", (one.shape, two.shape), f"must both be {parts.number.shape}")
    first = np.fft.fft2(one)
    second = np.fft.fft2(two)
    power = parts.total(np.abs(first) ** 2) * parts.total(np.abs(second) ** 2)
    overlap = parts.total(first * second.conj()).astype(complex)
    return np.divide(overlap, np.sqrt(power), out=np.full(len(power), np.nan + 0j), where=power > 0)


def band_fidelity(a: ArrayLike, b: ArrayLike, /, parts: Bands) -> np.ndarray:
    """Root of the fidelity of two mixed states in each band: what `band_correlation` is to coherent waves.

    1 where both hold the same density matrix up to a factor, however their modes are mixed. For single
    waves the modulus of `band_correlation`. NaN in bands without light.

    Args:
        a: modes ``(mode, y, x)``, complex.
        b: modes in the same window; any number of them.
        parts: `divide_bands` of the window.

    Raises:
        BadInput: windows differ.

    Example:
        >>> modes = np.random.default_rng(0).normal(size=(2, 9, 8))
        >>> band_fidelity(modes, 3 * modes[::-1], divide_bands((9, 8), count=2)).round(6).tolist()
        [1.0, 1.0]
    """
    first, second = (np.fft.fft2(np.asarray(modes)) for modes in (a, b))
    if not first.shape[-2:] == second.shape[-2:] == parts.number.shape:
        raise BadInput("band_fidelity", (first.shape, second.shape), f"must end with {parts.number.shape}")
    found = np.full(len(parts.edges) - 1, np.nan)
    for band in range(len(found)):
        inside = parts.number == band
        one = first[..., inside][:, None]
        two = second[..., inside][:, None]
        if one.any() and two.any():
            found[band] = np.sqrt(fidelity(one, two))
    return found


def snr_threshold(counts: ArrayLike, snr: float, /) -> np.ndarray:
    """Correlation of two halves at which their sum has a signal-to-noise ratio of powers, at one sigma.

    With ``s = snr / 2`` of each half and ``n`` Fourier pixels ``(s + (2 sqrt(s) + 1) / sqrt(n)) / (1 + s +
    2 sqrt(s / n))`` (van Heel & Schatz 2005, doi 10.1016/j.jsb.2005.05.009). ``snr = sqrt(2) - 1`` is the
    half-bit curve, 1 the one-bit curve. NaN for bands without a pixel.

    Example:
        >>> snr_threshold([1e12, 100.0], 1.0).round(3).tolist()
        [0.333, 0.452]
    """
    number = np.asarray(counts, float)
    root = np.sqrt(np.where(number > 0, number, np.nan))
    half = snr / 2
    return (half + (2 * np.sqrt(half) + 1) / root) / (1 + half + 2 * np.sqrt(half) / root)


def scan_spectrum(
    total: ArrayLike,
    positions: ArrayLike,
    /,
    *,
    pixel: tuple[float, float] = (1.0, 1.0),
    mask: ArrayLike | None = None,
    count: int = 50,
) -> ScanSpectrum:
    """Counts by frequency that a scan puts into an area of the object as large as one window.

    All patterns together have lit the area of the scan, taken as the convex hull of its positions; their
    sum is scaled to the area of a window. The width of the probe is left out, so the scan must be wide
    against it.

    Args:
        total: ``(y, x)`` sum of all patterns, zero frequency in the corner.
        positions: ``(shot, 2)`` in the unit of the pixel.
        pixel: of the exit wave, (y, x): the window is ``shape * pixel``.
        mask: ``(y, x)``, true where the detector is to be trusted; default: everywhere.
        count: how many `divide_bands`.

    Raises:
        BadInput: positions on a line, which enclose no area, or shapes that do not fit.

    Example:
        >>> square = np.array([[0.0, 0.0], [0.0, 4.0], [8.0, 0.0], [8.0, 4.0]])
        >>> found = scan_spectrum(np.ones((8, 8)), square, count=2)
        >>> found.value.tolist()
        [2.0, 2.0]
    """
    pattern = np.asarray(total, float)
    places = np.asarray(positions, float)
    trusted = np.ones(pattern.shape, bool) if mask is None else np.asarray(mask, bool)
    if pattern.ndim != 2 or trusted.shape != pattern.shape or places.ndim != 2 or places.shape[1] != 2:
        shapes = (pattern.shape, trusted.shape, places.shape)
        raise BadInput("scan_spectrum", shapes, "must be a pattern (y, x), its mask and positions (shot, 2)")
    window = pattern.size * pixel[0] * pixel[1]
    pattern = np.where(trusted, pattern, 0) * (window / _require_area(places))
    parts = divide_bands((pattern.shape[0], pattern.shape[1]), count=count, pixel=pixel)
    pixels = parts.total(trusted.astype(float))
    value = np.divide(parts.total(pattern), pixels, out=np.full(count, np.nan), where=pixels > 0)
    return ScanSpectrum(pattern, parts.edges, value)


def _require_area(places: np.ndarray) -> float:
    """Area of the convex hull of points."""
    area, _ = measure_hull(places)
    if not area > 0:
        raise BadInput(
            "scan_spectrum.positions", None, "lie on a line and enclose no area: use a mean pattern"
        )
    return area
