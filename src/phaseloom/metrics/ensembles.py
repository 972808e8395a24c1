"""Repeated reconstructions of one scene: bring them to one gauge, average them, measure what is reproducible.

Patterns of ptychography do not change when object and probe are moved together, when a constant factor
or a phase ramp goes from one to the other, or when either gets a constant phase. Objects are complex,
``(y, x)`` or ``(slice, y, x)``; probes ``(y, x)`` or ``(mode, y, x)``; shifts in pixels, (y, x).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from phaseloom.errors import BadInput
from phaseloom.metrics.mixed_states import match_modes
from phaseloom.metrics.phase import _find_peak, _find_plane_wave, find_shift, remove_plane_wave, shift_image
from phaseloom.metrics.resolution import _make_window, _number_rings, ring_correlation

__all__ = ["CrossCorrelation", "RadialCurve", "Synthesis", "deconvolved_correlation", "prtf", "ssnr"]
__all__ += ["standardise", "synthesise"]


@dataclass(frozen=True, eq=False)
class Synthesis:
    """What repeated reconstructions agree on.

    Attributes:
        object: mean of the objects that agree.
        probe: mean of their probes ``(mode, y, x)``, modes mixed unitarily onto each other.
        objects: every object in the common gauge ``(repeat, ...)``, for `prtf` or an error map.
        correlation: of each object with the reference, 0 to 1, ``(repeat)``; plane wave and mean, which
            objects of any scene share, do not count.
        agreed: how many entered the means.
    """

    object: np.ndarray
    probe: np.ndarray
    objects: np.ndarray
    correlation: np.ndarray
    agreed: int


@dataclass(frozen=True, eq=False)
class RadialCurve:
    """A quantity ring by ring in Fourier space; arrays ``(ring,)``, zero frequency first.

    Attributes:
        frequency: centre of each ring, 1 / (unit of the pixel).
        value: the quantity.
    """

    frequency: np.ndarray
    value: np.ndarray


@dataclass(frozen=True, eq=False)
class CrossCorrelation:
    """Cross-correlation of two images free of their own spectra.

    Attributes:
        kernel: complex ``(y, x)``, zero shift at ``[N // 2, N // 2]``; its width says how exactly the
            images can be aligned.
        shift: (y, x) pixels by which the image must move onto the reference, to 0.01 pixel.
        height: modulus at that shift: 1 for the same image moved, about ``1 / sqrt(pixels)`` for noise.
    """

    kernel: np.ndarray
    shift: tuple[float, float]
    height: float


def standardise(
    object: ArrayLike, probe: ArrayLike, /, *, weight: ArrayLike | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """One choice for all that ptychography cannot know; patterns stay the same.

    - Shift: the probe's intensity has its centre of mass at ``[N // 2, N // 2]``, the object moves along.
    - Ramp: the mean slope of the probe's phase is zero (its far field is centred); the first slice of the
      object takes the ramp.
    - Scale: the weighted mean square of each slice is one, so the probe's power is that of the patterns.
    - Phase: the sum of the first mode and the weighted sum of each slice are real and positive.

    Both centres are means on a circle, ``arg sum P(r + 1) P*(r)`` per axis in real and in Fourier space:
    known ramps are undone exactly and wrap without harm. The probe moves in a periodic window; edges the
    shift brings into the object are mirrored. Unitary mixing of modes is left to
    `mixed_states.orthogonalise`, ramps between slices to `phase.remove_plane_wave`.

    Args:
        object: ``(y, x)`` or ``(slice, y, x)``, complex transmission.
        probe: ``(y, x)`` or ``(mode, y, x)``, complex, the strongest mode first.
        weight: ``(y, x)`` of the object, non-negative, for instance the covered area; default 1.

    Returns:
        Object and probe, shaped as they came.

    Raises:
        BadInput: a probe or an object without power, or a weight that does not fit.

    Example:
        >>> y, x = np.mgrid[:20, :21]
        >>> probe = np.exp(-((y - 9) ** 2 + (x - 11) ** 2) / 9 + 0.4j * y)
        >>> object, centred = standardise(np.exp(-0.4j * np.mgrid[:40, :42][0]), 3 * probe)
        >>> bool(np.allclose(object, 1)), divmod(int(np.argmax(abs(centred))), 21)
        (True, (10, 10))
    """
    values = np.asarray(object).astype(complex)
    wave = np.asarray(probe).astype(complex)
    if values.ndim not in (2, 3) or wave.ndim not in (2, 3) or not (values.any() and wave.any()):
        raise BadInput("standardise", (values.shape, wave.shape), "must be an object and a probe with power")
    slices = values.reshape(-1, *values.shape[-2:])
    modes = wave.reshape(-1, *wave.shape[-2:])
    slices, modes = _move_ramp_to_object(*_centre_probe(*_move_ramp_to_object(slices, modes)))
    weights = _check_weights(weight, slices.shape[-2:])
    scale = np.sqrt(np.sum(weights * np.abs(slices) ** 2, (1, 2)) / weights.sum())
    turn = np.exp(-1j * np.angle(np.sum(weights * slices, (1, 2))))
    slices = slices * (turn / scale)[:, None, None]
    modes = modes * np.prod(scale) * np.exp(-1j * np.angle(modes[0].sum()))
    return slices.reshape(values.shape), modes.reshape(wave.shape)


def synthesise(
    reconstructions: Sequence[tuple[ArrayLike, ArrayLike]],
    /,
    *,
    weight: ArrayLike | None = None,
    threshold: float = 0.7,
) -> Synthesis:
    """Mean of repeated reconstructions in a common gauge, of those that agree.

    Each is standardised (`standardise`); the one most like the others is the reference. The others are
    laid on it to 0.01 pixel, object with probe; what is left of ramp and constant phases is removed, and
    the modes of the probes are mixed onto its own (`mixed_states.match_modes`). Those whose object
    correlates with the reference at least by ``threshold`` are averaged; the default, 0.7, shares half of its
    variance.

    Args:
        reconstructions: pairs of object and probe, all of one shape.
        weight: ``(y, x)`` of the object, where objects are compared, for instance the covered area.
        threshold: least correlation of those that are averaged.

    Raises:
        BadInput: none, or shapes differ.

    Example:
        >>> y, x = np.mgrid[:40, :42]
        >>> object = np.exp(1j * np.cos(x) * np.sin(y / 2))
        >>> probe = np.exp(-((y - 20) ** 2 + (x - 20) ** 2) / 9)
        >>> mean = synthesise([(object, probe), (2j * object, probe / 2), (np.cos(x * y), probe)])
        >>> mean.agreed, mean.probe.shape
        (2, (1, 40, 42))
    """
    pairs = [standardise(object, probe, weight=weight) for object, probe in reconstructions]
    if len({(object.shape, probe.shape) for object, probe in pairs}) != 1:
        raise BadInput("synthesise", len(pairs), "reconstructions must be at least one, all of one shape")
    weights = _check_weights(weight, pairs[0][0].shape[-2:])
    whole = [_multiply_slices(object, weights) for object, _ in pairs]
    likeness = [sum(_correlate_objects(one, two, weights) for two in whole) for one in whole]
    object, probe = pairs[int(np.argmax(likeness))]
    registered = [_register_pair(*pair, object, probe, weights) for pair in pairs]
    objects = np.stack([pair[0] for pair in registered])
    probes = np.stack([pair[1] for pair in registered])
    target = _multiply_slices(object, weights)
    correlation = np.array(
        [_correlate_objects(_multiply_slices(one, weights), target, weights) for one in objects]
    )
    used = correlation >= min(threshold, correlation.max())
    return Synthesis(objects[used].mean(0), probes[used].mean(0), objects, correlation, int(used.sum()))


def prtf(
    waves: ArrayLike, /, magnitudes: ArrayLike | None = None, *, pixel: tuple[float, float] = (1.0, 1.0)
) -> RadialCurve:
    """Phase retrieval transfer function: how much of each spatial frequency survives averaging.

    Ring by ring ``sum |mean_k F_k| / sum M``, with the Fourier transforms ``F_k`` of repeated waves and
    measured magnitudes ``M``: 1 where all repeats retrieve the same phase (and the measured magnitude),
    about ``1 / sqrt(repeats)`` for random ones; by custom resolved down to 0.5 or 1/e (Chapman et al.
    2006, doi 10.1364/JOSAA.23.001179; Shapiro et al. 2005, doi 10.1073/pnas.0503305102). As a ratio of
    sums it weights each pixel by its magnitude: where nothing was measured, nothing is divided.

    A single wave against ``magnitudes`` compares a model with the measurement, with no word on phases.

    Args:
        waves: ``(repeat, ..., y, x)``, exit waves or objects in one gauge (`Synthesis.objects`).
        magnitudes: ``(..., y, x)``, roots of measured patterns, zero frequency in the corner and in the
            norm of a unitary transform; default: the mean magnitude of the repeats.
        pixel: (y, x) of the waves, for instance in angstrom.

    Raises:
        BadInput: not a stack, or the magnitudes have another shape.

    Example:
        >>> waves = np.random.default_rng(0).normal(size=(1, 16, 16))
        >>> bool(np.allclose(prtf(np.repeat(waves, 3, 0)).value, 1))
        True
    """
    repeats = np.asarray(waves)
    if repeats.ndim < 3:
        raise BadInput("prtf.waves", repeats.shape, "must be a stack (repeat, ..., y, x)")
    spectra = np.fft.fft2(repeats, norm="ortho")
    wanted = np.abs(spectra).mean(0) if magnitudes is None else np.asarray(magnitudes, float)
    if wanted.shape != repeats.shape[1:]:
        raise BadInput("prtf.magnitudes", wanted.shape, f"must have the shape {repeats.shape[1:]}")
    ring, width, rings = _number_rings(repeats.shape[-2:], pixel)
    coherent, total = (
        np.bincount(ring.ravel(), values.reshape(-1, ring.size).sum(0), minlength=rings + 1)[:rings]
        for values in (np.abs(spectra.mean(0)), wanted)
    )
    value = np.divide(coherent, total, out=np.zeros(rings), where=total > 0)
    return RadialCurve(np.arange(rings) * width, value)


def ssnr(
    a: ArrayLike, b: ArrayLike, /, *, pixel: tuple[float, float] = (1.0, 1.0), window: str = "hann"
) -> RadialCurve:
    """Spectral signal-to-noise ratio of all data, from reconstructions of two halves of it.

    Signal power over noise power per ring, ``2 FRC / (1 - FRC)`` with the ring correlation of the
    halves: a half has ``FRC / (1 - FRC)``, and averaging both halves the noise power (Unser et al. 1987,
    doi 10.1016/0304-3991(87)90225-7; van Heel & Schatz 2005, doi 10.1016/j.jsb.2005.05.009). 1 where
    signal and noise are equal in the full data; infinite where the halves are the same, 0 where they
    do not correlate or correlate negatively.

    Args:
        a: ``(y, x)``, real or complex; see `resolution.register` for two reconstructions.
        b: ``(y, x)``, the same scene from the other half.
        pixel: (y, x), for instance in angstrom.
        window: as in `resolution.ring_correlation`.

    Raises:
        BadInput: not two images of one shape, or too small for a ring.

    Example:
        >>> scene, *noise = np.random.default_rng(0).normal(size=(3, 64, 64))
        >>> curve = ssnr(scene + noise[0], scene + noise[1], window="none")
        >>> bool(abs(curve.value[8:].mean() - 2) < 0.3)
        True
    """
    curve = ring_correlation(a, b, pixel=pixel, window=window)
    share = np.clip(curve.value, 0, 1)
    with np.errstate(divide="ignore"):
        return RadialCurve(curve.frequency, 2 * share / (1 - share))


def deconvolved_correlation(
    image: ArrayLike, reference: ArrayLike, /, *, noise: float = 0.0, window: str = "hann"
) -> CrossCorrelation:
    """Cross-correlation deconvolved by the images' own spectra; the more similar, the sharper its peak.

    Inverse Fourier transform of ``R A* / (|R A*| + noise <|R A*|>)``, scaled to 1 for equal images. Without
    noise all frequencies count the same (phase-only correlation: Kuglin & Hines 1975); noise damps those
    that hold little, as a Wiener filter does. Complex images are compared up to a constant phase. As in
    `phase.find_shift` the window stays, which draws the shift of smooth images towards zero.

    Args:
        image: ``(y, x)``, real or complex.
        reference: ``(y, x)``, the same shape.
        noise: in units of the mean of ``|R A*|``; 0.01 to 1 for images that fill only part of the
            Fourier plane.
        window: ``"hann"`` damps the edges, which are not periodic; ``"none"`` for periodic images.

    Raises:
        BadInput: not two images of one shape, or one of them is constant.

    Example:
        >>> image = np.random.default_rng(0).normal(size=(31, 33))
        >>> found = deconvolved_correlation(np.roll(image, (2, -1), (0, 1)), image, window="none")
        >>> found.shift, round(found.height, 6)
        ((-2.0, 1.0), 1.0)
    """
    moving = np.asarray(image)
    fixed = np.asarray(reference)
    if moving.ndim != 2 or moving.shape != fixed.shape:
        raise BadInput("deconvolved_correlation", (moving.shape, fixed.shape), "must be images of one shape")
    taper = np.outer(*(_make_window(size, window) for size in fixed.shape))
    first, second = (np.fft.fft2((each - each.mean()) * taper) for each in (moving, fixed))
    product = second * first.conj()
    size = np.abs(product)
    if not size.any():
        raise BadInput("deconvolved_correlation", None, "needs images that are not constant")
    floor = max(noise * size.mean(), 1e-12 * size.max())
    spectrum = product / (size + floor) / np.mean(size / (size + floor))
    shift = _find_peak(spectrum, None, signed=False)
    y, x = (np.fft.fftfreq(n) * step for n, step in zip(fixed.shape, shift, strict=True))
    height = abs(np.mean(spectrum * np.exp(2j * np.pi * np.add.outer(y, x))))
    return CrossCorrelation(np.fft.fftshift(np.fft.ifft2(spectrum)), shift, float(height))


def _move_ramp_to_object(slices: np.ndarray, modes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The probe's mean ramp handed to the object: before a shift for its edges, after it to be exact."""
    y, x = _find_phase_slope(modes)
    return _trade_ramp(slices, modes, (-y, -x))


def _trade_ramp(
    slices: np.ndarray, modes: np.ndarray, slope: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """A ramp taken from the first slice and given to the probe."""
    first = slices[:1] * _make_ramp(slices.shape[-2:], slope).conj()
    return np.concatenate([first, slices[1:]]), modes * _make_ramp(modes.shape[-2:], slope)


def _centre_probe(slices: np.ndarray, modes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Object and probe moved together, the probe's centre of mass to the middle."""
    middle = [size // 2 for size in modes.shape[-2:]]
    shift = (0.0, 0.0)
    shifted_modes = modes
    for _ in range(4):
        slope = _find_phase_slope(np.fft.fft2(shifted_modes), cyclic=True)
        place = [-s * n / (2 * np.pi) for s, n in zip(slope, modes.shape[-2:], strict=True)]
        away = [(m - p + n / 2) % n - n / 2 for m, p, n in zip(middle, place, modes.shape[-2:], strict=True)]
        shift = (shift[0] + away[0], shift[1] + away[1])
        shifted_modes = _shift_periodic(modes, shift)
    return _move_together(slices, modes, shift)


def _move_together(
    slices: np.ndarray, modes: np.ndarray, shift: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Both moved together: the probe, dark at its edges, in a circle; the object's edges are mirrored.

    The plane wave in each slice stays (its shift is a constant phase), for mirrored it would be a kink.
    """
    if np.hypot(*shift) < 1e-9:
        return slices, modes
    planes = [_find_plane_wave(image) for image in slices]
    shifted_slices = [
        shift_image(image * wave.conj(), shift) * wave for image, wave in zip(slices, planes, strict=True)
    ]
    return np.stack(shifted_slices), _shift_periodic(modes, shift)


def _shift_periodic(modes: np.ndarray, shift: tuple[float, float]) -> np.ndarray:
    """Waves moved in a periodic window: the same far-field intensities to the last digit."""
    y, x = (-2 * np.pi * step * np.fft.fftfreq(n) for n, step in zip(modes.shape[-2:], shift, strict=True))
    return np.fft.ifft2(np.fft.fft2(modes) * np.exp(1j * np.add.outer(y, x)))


def _find_phase_slope(waves: np.ndarray, *, cyclic: bool = False) -> tuple[float, float]:
    """Mean phase step (y, x) of a stack of waves from pixel to pixel, radian, weighted by intensity."""
    pairs = [(np.roll(waves, -1, axis), waves) for axis in (1, 2)]
    if not cyclic:
        pairs = [(waves[:, 1:], waves[:, :-1]), (waves[:, :, 1:], waves[:, :, :-1])]
    y, x = (float(np.angle(np.vdot(before, after))) for after, before in pairs)
    return y, x


def _make_ramp(shape: tuple[int, ...], slope: tuple[float, float]) -> np.ndarray:
    """Plane wave with a phase step (y, x) per pixel, zero at the first pixel."""
    return np.exp(1j * np.add.outer(np.arange(shape[0]) * slope[0], np.arange(shape[1]) * slope[1]))


def _check_weights(weight: ArrayLike | None, shape: tuple[int, ...]) -> np.ndarray:
    """Weight (y, x) of the object, 1 everywhere by default."""
    weights = np.ones(shape) if weight is None else np.asarray(weight, float)
    if weights.shape != shape or not weights.any() or weights.min() < 0:
        raise BadInput("repeats.weight", weights.shape, f"must be {shape}, non-negative, somewhere positive")
    return weights


def _correlate_objects(one: np.ndarray, two: np.ndarray, weights: np.ndarray) -> float:
    """Modulus of the weighted correlation coefficient of two whole objects."""
    first, second = (v - np.average(v, weights=weights) for v in (one, two))
    power = np.sum(weights * np.abs(first) ** 2) * np.sum(weights * np.abs(second) ** 2)
    return float(abs(np.sum(weights * first * second.conj())) / np.sqrt(max(power, 1e-300)))


def _multiply_slices(object: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """All slices in one, free of the plane wave that would hide what objects have in common."""
    return remove_plane_wave(object.reshape(-1, *object.shape[-2:]).prod(0), weights)


def _register_pair(
    object: np.ndarray, probe: np.ndarray, fixed: np.ndarray, light: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One reconstruction moved, turned and mixed onto another."""
    shift = find_shift(_multiply_slices(object, weights), _multiply_slices(fixed, weights), rounds=3)
    slices, modes = (stack.reshape(-1, *stack.shape[-2:]) for stack in (object, probe))
    slices, modes = _move_together(slices, modes, shift)
    target = fixed.reshape(slices.shape)
    between = weights * slices.prod(0) * target.prod(0).conj()
    slices, modes = _trade_ramp(slices, modes, _find_phase_slope(between[None]))
    overlap = np.sum(weights * slices.conj() * target, (1, 2))
    slices = slices * np.exp(1j * np.angle(overlap))[:, None, None]
    return slices.reshape(object.shape), match_modes(modes, light)
