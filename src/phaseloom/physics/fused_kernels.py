"""Passes over waves between two Fourier transforms: compiled by numba on a CPU, else done by torch.

Both ways give the same numbers to rounding. On a 64 x 64 wave of single precision, whose transform takes
11 microseconds, the compiled passes take 1 to 3; torch needs two to five times that, for it writes what it
only passes on, copies windows side by side, and sums complex numbers one by one.

Kernels, at the end of the file, write complex products out: numba's own stop a loop from being vectorised.
Rows are cut out first for the same reason. No type checker may come between a kernel and the compiler.
"""

import math
import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, NamedTuple, no_type_check

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

__all__ = ["WindowLayout", "amplitude_misfit", "backpropagate_intensity", "backpropagate_shift"]
__all__ += ["get_compiled_kernels", "shift_spectra", "sum_intensity"]

Windows = Sequence[Tensor]


class WindowLayout(NamedTuple):
    """Where windows lie in memory: their first pixel, pixels to the next row, pixels to the next slice."""

    start: np.ndarray
    row: np.ndarray
    layer: np.ndarray


FAST_MATH = {"contract", "reassoc", "nsz"}
"""What the compiler may rearrange; NaN and infinities keep their meaning."""


def get_compiled_kernels(*tensors: Tensor) -> SimpleNamespace | None:
    """The compiled kernels by name, if numba is there and they can take these tensors."""
    if all(one.device.type == "cpu" and one.is_contiguous() and not one.is_conj() for one in tensors):
        return _compile_kernels()
    return None


@lru_cache(maxsize=1)
def _compile_kernels() -> SimpleNamespace | None:
    """``None`` where `has_numba` says no."""
    if not has_numba():
        return None
    return SimpleNamespace(
        **{kernel.__name__[1:]: compile_kernel(kernel, fastmath=FAST_MATH) for kernel in KERNELS}
    )


def has_numba() -> bool:
    """Whether numba is there (the extra ``fast``) and compiles: not if ``PHASELOOM_NUMBA`` is 0.

    With ``NUMBA_DISABLE_JIT`` its kernels would be interpreted, far more slowly than PyTorch does the same.
    """
    if os.environ.get("PHASELOOM_NUMBA") == "0":
        return False
    try:
        import numba
    except ImportError:
        return False
    return not getattr(numba.config, "DISABLE_JIT", False)


def compile_kernel(kernel: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Compile with numba on the first call, and keep what was compiled on disk if there is a place for it."""
    import numba

    options = {"error_model": "numpy", "nogil": True, **options}
    try:
        return numba.njit(cache=True, **options)(kernel)
    except RuntimeError:  # no folder where the cache could be written
        return numba.njit(**options)(kernel)


def shift_spectra(
    spectrum: Complex[Tensor, "mode y x"],
    rows: Complex[Tensor, "b y 1"],
    columns: Complex[Tensor, "b 1 x"],
    /,
) -> Complex[Tensor, "b mode y x"]:
    """Spectra of the modes times the ramps of each pattern."""
    if loops := get_compiled_kernels(spectrum, rows, columns):
        out = spectrum.new_empty(len(rows), *spectrum.shape)
        loops.apply_ramps(spectrum.numpy(), rows.numpy()[..., 0], columns.numpy()[:, 0], out.numpy())
        return out
    return spectrum * (rows * columns)[:, None]


def backpropagate_shift(
    wave: Complex[Tensor, "b mode y x"],
    spectrum: Complex[Tensor, "mode y x"],
    rows: Complex[Tensor, "b y 1"],
    columns: Complex[Tensor, "b 1 x"],
    /,
) -> tuple[Complex[Tensor, "mode y x"], Float[Tensor, "b y"], Float[Tensor, "b x"]]:
    """Transpose of `shift_spectra`, in place and summed over patterns; and the slope of the ramps.

    The slope is ``sum_modes Im(wave * spectrum)``, summed along either axis.
    """
    if loops := get_compiled_kernels(wave, spectrum, rows, columns):
        total = torch.zeros_like(spectrum)
        down, right = (spectrum.real.new_zeros(len(wave), n) for n in wave.shape[-2:])
        ramps = rows.numpy()[..., 0], columns.numpy()[:, 0]
        loops.backpropagate_ramps(
            wave.numpy(), spectrum.numpy(), *ramps, total.numpy(), down.numpy(), right.numpy()
        )
        return total, down, right
    wave.mul_((rows * columns)[:, None])
    slope = torch.view_as_real(sum_modes(wave * spectrum))[..., 1]
    return wave.sum(0), slope.sum(-1), slope.sum(-2)


def sum_intensity(wave: Complex[Tensor, "b mode y x"], /) -> Float[Tensor, "b y x"]:
    """Incoherent sum over modes of the squared modulus."""
    if loops := get_compiled_kernels(wave):
        out = torch.empty(len(wave), *wave.shape[2:], dtype=wave.real.dtype)
        loops.sum_intensity(wave.detach().numpy(), out.numpy())
        return out
    if wave.shape[1] == 1:
        return (wave.real.square() + wave.imag.square())[:, 0]
    parts = torch.view_as_real(wave).square().sum(1)  # never over the trailing axis: that is ten times slower
    return parts[..., 0] + parts[..., 1]


def backpropagate_intensity(
    wave: Complex[Tensor, "b mode y x"],
    slope: Float[Tensor, "b y x"],
    factor: Float[Tensor, ""],
    /,
) -> Complex[Tensor, "b mode y x"]:
    """``slope * factor * wave``, held as the conjugate of its conjugate, which is what its adjoint wants."""
    if loops := get_compiled_kernels(wave, slope):
        out = torch.empty_like(wave)
        loops.scale_conjugate(wave.numpy(), slope.numpy(), factor.numpy()[()], out.numpy())
        return out.conj()
    return wave.conj().resolve_conj().mul_((slope * factor)[:, None]).conj()


def sum_modes(wave: Complex[Tensor, "b mode y x"], /) -> Complex[Tensor, "b y x"]:
    """Sum over modes."""
    return wave[:, 0] if wave.shape[1] == 1 else wave.sum(1)


def amplitude_misfit(
    wave: Complex[Tensor, "b mode y x"],
    counts: Float[Tensor, "b y x"],
    weight: Float[Tensor, " b"],
    fields: Sequence[Tensor | None],
    floor: float,
    /,
) -> tuple[Float[Tensor, ""], Float[Tensor, "b y x"]] | None:
    """Misfit of amplitudes and its slope in one compiled pass; ``None`` where it cannot be compiled.

    ``fields`` are the flat field, the background and the mask.
    """
    given = [field for field in fields if field is not None]
    loops = get_compiled_kernels(wave, counts, weight, *given)
    if loops is None or not wave.real.dtype == counts.dtype == weight.dtype:
        return None
    slope = torch.empty_like(counts)
    optional = [None if field is None else field.detach().numpy() for field in fields]
    values = (one.detach().numpy() for one in (wave, counts, weight))
    total = loops.amplitude_misfit(*values, *optional, slope.numpy().dtype.type(floor), slope.numpy())
    return counts.new_tensor(total), slope


@no_type_check
def _apply_ramps(spectrum, rows, columns, out):
    """``out = spectrum * rows * columns`` for each pattern."""
    for i in range(out.shape[0]):
        right = columns[i]
        for k in range(out.shape[1]):
            for y in range(out.shape[2]):
                r = rows[i, y]
                s = spectrum[k, y]
                t = out[i, k, y]
                for x in range(out.shape[3]):
                    a = r.real * right[x].real - r.imag * right[x].imag
                    b = r.real * right[x].imag + r.imag * right[x].real
                    t[x] = complex(s[x].real * a - s[x].imag * b, s[x].real * b + s[x].imag * a)


@no_type_check
def _backpropagate_ramps(wave, spectrum, rows, columns, total, down, right):  # noqa: PLR0917
    """``wave *= rows * columns``, its sum over patterns, and the profiles of ``Im(wave * spectrum)``.

    One short loop after the other: with fewer arrays in each, they are vectorised.
    """
    n = wave.shape[3]
    slope = right[0].copy()
    zero = right.dtype.type(0)
    for i in range(wave.shape[0]):
        across = right[i]
        ramp = columns[i]
        for k in range(wave.shape[1]):
            for y in range(wave.shape[2]):
                r = rows[i, y]
                w = wave[i, k, y]
                s = spectrum[k, y]
                t = total[k, y]
                for x in range(n):
                    a = r.real * ramp[x].real - r.imag * ramp[x].imag
                    b = r.real * ramp[x].imag + r.imag * ramp[x].real
                    w[x] = complex(w[x].real * a - w[x].imag * b, w[x].real * b + w[x].imag * a)
                for x in range(n):
                    t[x] += w[x]
                for x in range(n):
                    slope[x] = w[x].real * s[x].imag + w[x].imag * s[x].real
                along = zero
                for x in range(n):
                    across[x] += slope[x]
                    along += slope[x]
                down[i, y] += along


@no_type_check
def _multiply_windows(wave, glass, start, row, out):
    """``out = wave * window of glass``."""
    n = wave.shape[3]
    for i in range(wave.shape[0]):
        for k in range(wave.shape[1]):
            for y in range(wave.shape[2]):
                at = start[i] + y * row[i]
                w = wave[i, k, y]
                g = glass[at : at + n]
                o = out[i, k, y]
                for x in range(n):
                    o[x] = complex(
                        w[x].real * g[x].real - w[x].imag * g[x].imag,
                        w[x].real * g[x].imag + w[x].imag * g[x].real,
                    )


@no_type_check
def _backpropagate_to_phase(wave, incident, glass, start, row, slope, first, next_):  # noqa: PLR0917
    """``wave *= window of glass``; ``slope -= Im(sum_modes wave * incident)`` where the window lies."""
    n = wave.shape[3]
    for i in range(wave.shape[0]):
        for y in range(wave.shape[2]):
            at = start[i] + y * row[i]
            to = first[i] + y * next_[i]
            g = glass[at : at + n]
            s = slope[to : to + n]
            for k in range(wave.shape[1]):
                w = wave[i, k, y]
                p = incident[i, k, y]
                for x in range(n):
                    a = w[x].real * g[x].real - w[x].imag * g[x].imag
                    b = w[x].real * g[x].imag + w[x].imag * g[x].real
                    w[x] = complex(a, b)
                    s[x] -= a * p[x].imag + b * p[x].real


@no_type_check
def _backpropagate_to_wave(wave, incident, glass, start, row, slope, first, next_, sign):  # noqa: PLR0917
    """``slope += sum_modes wave * incident``, imaginary part times ``sign``; ``wave *= window of glass``."""
    n = wave.shape[3]
    for i in range(wave.shape[0]):
        for y in range(wave.shape[2]):
            at = start[i] + y * row[i]
            to = first[i] + y * next_[i]
            g = glass[at : at + n]
            s = slope[to : to + n]
            for k in range(wave.shape[1]):
                w = wave[i, k, y]
                p = incident[i, k, y]
                for x in range(n):
                    a = w[x].real
                    b = w[x].imag
                    s[x] += complex(a * p[x].real - b * p[x].imag, sign * (a * p[x].imag + b * p[x].real))
                    w[x] = complex(a * g[x].real - b * g[x].imag, a * g[x].imag + b * g[x].real)


@no_type_check
def _add_illumination(wave, light, start, row, factor):
    """``light += factor * sum_modes |wave|^2`` where the window lies."""
    n = wave.shape[3]
    for i in range(wave.shape[0]):
        for y in range(wave.shape[2]):
            at = start[i] + y * row[i]
            s = light[at : at + n]
            for k in range(wave.shape[1]):
                w = wave[i, k, y]
                for x in range(n):
                    s[x] += factor * (w[x].real * w[x].real + w[x].imag * w[x].imag)


@no_type_check
def _sum_intensity(wave, out):
    """``out = sum_modes |wave|^2``."""
    n = wave.shape[3]
    for i in range(wave.shape[0]):
        for y in range(wave.shape[2]):
            w = wave[i, 0, y]
            o = out[i, y]
            for x in range(n):
                o[x] = w[x].real * w[x].real + w[x].imag * w[x].imag
            for k in range(1, wave.shape[1]):
                w = wave[i, k, y]
                for x in range(n):
                    o[x] += w[x].real * w[x].real + w[x].imag * w[x].imag


@no_type_check
def _amplitude_misfit(wave, counts, weight, flat, background, mask, floor, slope):  # noqa: C901, PLR0917
    """Sum of ``(sqrt(model + floor) - sqrt(counts + floor))^2``, and its slope for the waves' adjoint.

    ``model`` is ``weight * flat * sum_modes |wave|^2 + background``; all but ``weight`` may be ``None``.
    """
    n = wave.shape[3]
    zero = slope.dtype.type(0)
    total = 0.0
    for i in range(wave.shape[0]):
        for y in range(wave.shape[2]):
            w = wave[i, 0, y]
            o = slope[i, y]
            c = counts[i, y]
            for x in range(n):
                o[x] = w[x].real * w[x].real + w[x].imag * w[x].imag
            for k in range(1, wave.shape[1]):
                w = wave[i, k, y]
                for x in range(n):
                    o[x] += w[x].real * w[x].real + w[x].imag * w[x].imag
            part = zero
            for x in range(n):
                by = weight[i]
                if flat is not None:
                    by *= flat[y, x]
                seen = by * o[x] + floor
                if background is not None:
                    seen += background[y, x]
                root = math.sqrt(seen)
                gap = root - math.sqrt(c[x] + floor)
                if mask is not None:
                    gap *= mask[y, x]
                part += gap * gap
                o[x] = (by + by) * gap / root
            total += part
    return total


@no_type_check
def _scale_conjugate(wave, slope, factor, out):
    """``out = conj(wave) * slope * factor``."""
    n = wave.shape[3]
    for i in range(wave.shape[0]):
        for k in range(wave.shape[1]):
            for y in range(wave.shape[2]):
                w = wave[i, k, y]
                s = slope[i, y]
                o = out[i, k, y]
                for x in range(n):
                    by = s[x] * factor
                    o[x] = complex(w[x].real * by, -(w[x].imag * by))


KERNELS = (
    _apply_ramps,
    _backpropagate_ramps,
    _multiply_windows,
    _backpropagate_to_phase,
    _backpropagate_to_wave,
    _add_illumination,
    _sum_intensity,
    _amplitude_misfit,
    _scale_conjugate,
)
