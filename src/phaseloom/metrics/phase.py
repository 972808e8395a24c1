"""Phase images."""

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike

from phaseloom.errors import BadInput
from phaseloom.metrics.image import psnr, ssim

__all__ = ["Agreement", "PhaseError", "align", "find_shift", "measure_agreement", "phase_error"]
__all__ += ["find_lit", "remove_plane_wave", "remove_ramp", "shift_image", "sum_phase"]

# Pixels mirrored around an image before it is shifted by a phase ramp, so that edges do not wrap.
MIRRORED_PIXELS = 16


MIN_ILLUMINATION = 0.3
"""Share of the median illumination from which a pixel of an object is lit."""


def find_lit(illumination: np.ndarray, /) -> np.ndarray:
    """Pixels of an object that a scan lit well: not its rim, where the phase is arbitrary.

    Example:
        >>> find_lit(np.array([0.0, 0.2, 1.0, 1.1])).tolist()
        [False, False, True, True]
    """
    return illumination > MIN_ILLUMINATION * np.median(illumination[illumination > 0])


@dataclass(frozen=True)
class PhaseError:
    """Distance between a reconstructed phase and the true one, both free of constant and ramp.

    Attributes:
        nrmse: ``|reconstruction - truth| / |truth|``.
        nrmse_scaled: the same after the reconstruction is multiplied by ``scale``.
        pearson: correlation coefficient.
        shift: (y, x) pixels by which the reconstruction was moved.
        scale: factor that brings the reconstruction closest to the truth; 1 if quantitative.
    """

    nrmse: float
    nrmse_scaled: float
    pearson: float
    shift: tuple[float, float]
    scale: float


def phase_error(
    reconstruction: ArrayLike, truth: ArrayLike, /, *, max_shift: int = 6, margin: int = 8
) -> PhaseError:
    """Compare two phase images (y, x) of the same scene after removing shift, constant and ramp.

    The shift is found to 0.01 pixel (`find_shift`); ``margin`` pixels at each edge are left out.
    Both images are unwrapped phases in radian (`sum_phase`).

    Args:
        reconstruction: ``(y, x)``.
        truth: ``(y, x)``, the same shape.
        max_shift: largest shift looked for, pixels.
        margin: pixels at each edge that are not compared.

    Raises:
        BadInput: shapes differ, or the margin leaves nothing.

    Example:
        >>> y, x = np.mgrid[:48, :40] / 8.0
        >>> truth = np.sin(y * y / 6) * np.cos(x)
        >>> phase_error(truth + 3 + 0.2 * x, truth).nrmse < 1e-10
        True
    """
    found, wanted = _check_shapes(reconstruction, truth)
    if min(wanted.shape) - 2 * margin < 2:
        raise BadInput("phase_error.margin", margin, f"leaves nothing of {wanted.shape[0]}x{wanted.shape[1]}")
    found = remove_ramp(found)
    shift = find_shift(found, remove_ramp(wanted), max_shift=max_shift)
    inner = tuple(slice(margin, size - margin) for size in wanted.shape)
    found = remove_ramp(shift_image(found, shift)[inner])
    wanted = remove_ramp(wanted[inner])
    norm = np.linalg.norm(wanted)
    overlap = np.vdot(found, wanted)
    power = np.vdot(found, found)
    scale = overlap / max(power, 1e-30)
    return PhaseError(
        nrmse=float(np.linalg.norm(found - wanted) / norm),
        nrmse_scaled=float(np.linalg.norm(scale * found - wanted) / norm),
        pearson=float(overlap / (np.sqrt(power) * norm + 1e-30)),
        shift=shift,
        scale=float(scale),
    )


def remove_ramp(phase: ArrayLike, /, weight: ArrayLike | None = None, *, robust: bool = False) -> np.ndarray:
    """Subtract the plane ``a + b y + c x`` that fits best, by weighted least squares.

    Args:
        phase: ``(y, x)`` unwrapped phase, radian.
        weight: ``(y, x)`` non-negative, for instance the covered area; default 1 everywhere.
        robust: follow the commonest plane: a lopsided specimen on a flat ground does not tilt it.

    Raises:
        BadInput: the weight has another shape, or is zero everywhere.

    Example:
        >>> y, x = np.mgrid[:5, :7]
        >>> bool(np.allclose(remove_ramp(1 + 2.0 * y - x), 0))
        True
    """
    values = np.asarray(phase, float)
    weights = np.ones(values.shape) if weight is None else np.asarray(weight, float)
    if weights.shape != values.shape:
        raise BadInput(
            "remove_ramp.weight", weights.shape, f"must have the shape of the phase, {values.shape}"
        )
    if not weights.any():
        raise BadInput("remove_ramp.weight", None, "is zero everywhere: nothing to fit")
    y, x = np.indices(values.shape, dtype=float)
    plane = np.stack([np.ones(values.size), y.ravel(), x.ravel()], 1)
    used = weights.ravel() > 0
    root = np.sqrt(weights.ravel()[used])
    fit = _fit_plane(plane[used], values.ravel()[used], root, rounds=30 if robust else 1)
    return values - (plane @ fit).reshape(values.shape)


def _fit_plane(axes: np.ndarray, values: np.ndarray, root: np.ndarray, *, rounds: int) -> np.ndarray:
    """Least squares in one round; more rounds trust ever fewer pixels, those near the commonest plane.

    Weights ``1 / (1 + (r / s)^2)`` with a width ``s`` that shrinks from round to round (graduated
    non-convexity, Blake & Zisserman 1987).
    """
    fit = np.linalg.lstsq(axes * root[:, None], values * root, rcond=None)[0]
    width = np.abs(values - axes @ fit).max() + 1e-12
    for _ in range(rounds - 1):
        trust = root / np.sqrt(1 + ((values - axes @ fit) / width) ** 2)
        fit = np.linalg.lstsq(axes * trust[:, None], values * trust, rcond=None)[0]
        width = max(0.8 * width, 0.02)
    return fit


def find_shift(
    image: ArrayLike, reference: ArrayLike, /, *, max_shift: int | None = None, rounds: int = 1
) -> tuple[float, float]:
    """Shift (y, x) in pixels that lays an image on a reference: the peak of their cross-correlation.

    Means are removed and a Hann window damps the edges; the peak is refined to 0.01 pixel by a
    small discrete Fourier transform around it (Guizar-Sicairos et al. 2008, doi 10.1364/OL.33.000156).
    The window stays while the image moves, which draws the shift of smooth images towards zero;
    further rounds move the image and look for the rest. Complex images are compared up to a
    constant phase.

    Args:
        image: ``(y, x)``, real or complex.
        reference: ``(y, x)``, the same shape.
        max_shift: largest shift looked for in a round along each axis, pixels; ``None``: half the image.
        rounds: how often to look.

    Raises:
        BadInput: shapes differ.

    Example:
        >>> y, x = np.mgrid[:32, :41]
        >>> blob = np.exp(-((y - 15) ** 2 + (x - 20) ** 2) / 9)
        >>> find_shift(np.roll(blob, (1, -2), (0, 1)), blob, rounds=3)
        (-1.0, 2.0)
    """
    moving, fixed = _check_shapes(image, reference)
    window = np.outer(*(np.hanning(size) for size in fixed.shape))
    target = np.fft.fft2((fixed - fixed.mean()) * window)
    shift = (0.0, 0.0)
    for _ in range(rounds):
        moved = shift_image(moving, shift) if any(shift) else moving
        spectrum = target * np.fft.fft2((moved - moved.mean()) * window).conj()
        step = _find_peak(spectrum, max_shift, signed=not np.iscomplexobj(moving))
        shift = (round(shift[0] + step[0], 4), round(shift[1] + step[1], 4))
    return shift


def shift_image(image: ArrayLike, shift: tuple[float, float], /) -> np.ndarray:
    """Move an image (y, x) by a sub-pixel shift, by a phase ramp in Fourier space; edges are mirrored.

    Example:
        >>> shift_image(np.eye(4), (0.0, 1.0)).round(6)[0].tolist()
        [0.0, 1.0, 0.0, 0.0]
    """
    values = np.asarray(image)
    wide = np.pad(values, MIRRORED_PIXELS, mode="reflect")
    y, x = (np.fft.fftfreq(size) for size in wide.shape)
    ramp = np.exp(-2j * np.pi * (y[:, None] * shift[0] + x * shift[1]))
    moved = np.fft.ifft2(np.fft.fft2(wide) * ramp)[
        MIRRORED_PIXELS:-MIRRORED_PIXELS, MIRRORED_PIXELS:-MIRRORED_PIXELS
    ]
    return moved if np.iscomplexobj(values) else moved.real


def align(image: ArrayLike, reference: ArrayLike, /, *, max_shift: int | None = None) -> np.ndarray:
    """Lay an image (y, x) on a reference of the same shape: `shift_image` by what `find_shift` finds.

    Raises:
        BadInput: shapes differ.

    Example:
        >>> y, x = np.mgrid[:32, :41]
        >>> blob = np.exp(-((y - 15) ** 2 + (x - 20) ** 2) / 9)
        >>> bool(np.allclose(align(np.roll(blob, 3, 0), blob), blob, atol=0.01))
        True
    """
    return shift_image(image, find_shift(image, reference, max_shift=max_shift, rounds=3))


def remove_plane_wave(object: ArrayLike, /, weight: ArrayLike | None = None) -> np.ndarray:
    """Divide each slice by the plane wave it holds most of: constant phase and ramp, even if they wrap.

    The plane wave is the peak of the Fourier transform, to 0.01 of its pixel; so most of the image
    must be near one phase (a specimen on vacuum, a thin slice).

    Args:
        object: ``(y, x)`` or ``(slice, y, x)``, complex.
        weight: ``(y, x)`` non-negative, for instance the covered area; default 1 everywhere.

    Example:
        >>> y, x = np.mgrid[:16, :20]
        >>> flat = remove_plane_wave(np.exp(1j * (2 + 0.9 * y - 1.3 * x)))
        >>> bool(abs(np.angle(flat)).max() < 0.1)
        True
    """
    values = np.asarray(object)
    weights = np.ones(values.shape[-2:]) if weight is None else np.asarray(weight, float)
    flat = np.empty(values.shape, np.result_type(values, np.complex64))
    for index in np.ndindex(values.shape[:-2]):
        plane = _find_plane_wave(values[index] * weights)
        flat[index] = values[index] * plane.conj()
    return flat


def sum_phase(object: ArrayLike, /) -> np.ndarray:
    """Phase (y, x) of a whole object: the sum over slices of the phase of each, radian.

    Each slice is unwrapped only as far as a cut opposite to its own mean phase allows: a slice whose
    phases span more than 2 pi jumps. More slices, or `remove_plane_wave` before, push that limit.

    Args:
        object: ``(slice, y, x)`` or ``(y, x)``, complex transmission.

    Example:
        >>> bool(np.allclose(sum_phase(np.full((3, 2, 2), np.exp(2j))), 6))
        True
    """
    values = np.asarray(object)
    values = values.reshape(-1, *values.shape[-2:])
    mean = np.angle(values.sum((1, 2), keepdims=True, dtype=np.complex128))
    return (np.angle(values * np.exp(-1j * mean)) + mean).sum(0)


def _check_shapes(image: ArrayLike, reference: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both as floating arrays (y, x)."""
    one = np.asarray(image)
    two = np.asarray(reference)
    if one.shape != two.shape or one.ndim != 2:
        raise BadInput("metrics", one.shape, f"and {two.shape} must be two images (y, x) of one shape")
    dtype = np.result_type(one, two, np.float64)
    return one.astype(dtype), two.astype(dtype)


def _find_plane_wave(field: np.ndarray) -> np.ndarray:
    """The plane wave of unit amplitude that a complex field holds most of."""
    rows, columns = field.shape
    y, x = _find_peak(np.fft.ifftshift(field), None, signed=False)
    cycles = np.add.outer(np.arange(rows) * (y / rows), np.arange(columns) * (x / columns))
    wave = np.exp(-2j * np.pi * cycles)
    return wave * np.exp(1j * np.angle(np.vdot(wave, field)))


def _find_peak(spectrum: np.ndarray, most: int | None, *, signed: bool) -> tuple[float, float]:
    """Where the inverse Fourier transform is largest, in pixels, to 0.01 pixel."""
    size = np.real if signed else np.abs
    grid = [np.fft.fftfreq(n) * n for n in spectrum.shape]
    height = size(np.fft.ifft2(spectrum))
    if most is not None:
        height = np.where(np.logical_and.outer(*(np.abs(g) <= most for g in grid)), height, -np.inf)
    best = np.unravel_index(np.argmax(height), height.shape)
    place = [float(g[i]) for g, i in zip(grid, best, strict=True)]
    for reach in (1.0, 0.1):
        fine = [centre + np.linspace(-reach, reach, 21) for centre in place]
        rows, columns = (_make_harmonics(f, n) for f, n in zip(fine, spectrum.shape, strict=True))
        height = size(rows @ spectrum @ columns.T)
        best = np.unravel_index(np.argmax(height), height.shape)
        place = [round(float(f[i]), 4) for f, i in zip(fine, best, strict=True)]
    return place[0], place[1]


def _make_harmonics(place: np.ndarray, size: int) -> np.ndarray:
    """Rows of an inverse Fourier transform at any place, ``(place, frequency)``."""
    return np.exp(2j * np.pi * np.outer(place, np.fft.fftfreq(size)))


@dataclass(frozen=True)
class Agreement:
    """What `measure_agreement` finds.

    Attributes:
        nmse: squared error over the variance of the truth, 0 at best, 1 for a flat image.
        correlation: of both, Pearson's.
        psnr: decibel, the peak being the truth's range.
        ssim: structural similarity, the same peak.
    """

    nmse: float
    correlation: float
    psnr: float
    ssim: float

    def __str__(self) -> str:
        """One line."""
        return (
            f"CC {self.correlation:.4f}  NMSE {self.nmse:.4f}  PSNR {self.psnr:.1f} dB  SSIM {self.ssim:.3f}"
        )

    @classmethod
    def mean(cls, found: "list[Agreement]", /) -> "Agreement":
        """Of several images, each counting the same."""
        table = [asdict(one) for one in found]
        return cls(**{name: float(np.mean([row[name] for row in table])) for name in table[0]})


def measure_agreement(image: ArrayLike, truth: ArrayLike, /, *, rim: int = 0) -> Agreement:
    """Compare a phase image with the truth.

    Nothing is fitted but the constant: scale, ramp and place count as errors.

    Args:
        image: ``(y, x)`` radian.
        truth: ``(y, x)`` radian, not constant.
        rim: pixels at each edge that are left out.

    Raises:
        BadInput: other shapes, a truth that is the same everywhere, or a rim that leaves nothing.

    Example:
        >>> true = np.sin(np.arange(20.0))[:, None] * np.ones(20)
        >>> measure_agreement(true + 3, true).nmse < 1e-12, measure_agreement(np.zeros((20, 20)), true).nmse
        (True, 1.0)
    """
    values, wanted = (np.asarray(part, np.float64) for part in (image, truth))
    if values.shape != wanted.shape or values.ndim != 2:
        raise BadInput(
            "agreement", values.shape, f"must be an image of the shape of the truth, {wanted.shape}"
        )
    if not 0 <= 2 * rim < min(values.shape):
        raise BadInput("agreement: rim", rim, f"leaves nothing of {values.shape} pixels: take a narrower one")
    inner = tuple(slice(rim, size - rim) for size in values.shape)
    values, wanted = (part[inner] - part[inner].mean() for part in (values, wanted))
    power = float((wanted**2).sum())
    norm = float(np.linalg.norm(values))
    if not power > 0:
        raise BadInput(
            "agreement", None, "has a truth that is the same everywhere: nothing can agree with it"
        )
    correlation = float((values * wanted).sum() / (norm * power**0.5)) if norm > 0 else 0.0
    error = float(((values - wanted) ** 2).sum()) / power
    return Agreement(error, correlation, psnr(values, wanted), ssim(values, wanted))
