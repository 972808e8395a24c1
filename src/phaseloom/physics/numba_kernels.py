"""Loops over waves for a CPU, compiled by numba; `phaseloom.physics.fused_kernels` says what each means.

Complex products are written out: numba's own stop the loop from being vectorised. Rows are cut out first
for the same reason. No type checker may come between a function and the compiler.
"""

import math
from typing import no_type_check

import numba

__all__ = ["entrance", "exposed", "lit", "moved", "returned", "rooted", "through", "to_phase", "to_wave"]

RELAXED = {"contract", "reassoc", "nsz"}
"""What may be rearranged; that a number may be no number is kept in mind."""


def _compiled(function):
    try:
        return numba.njit(cache=True, fastmath=RELAXED, error_model="numpy", nogil=True)(function)
    except RuntimeError:  # nowhere to keep what was compiled
        return numba.njit(fastmath=RELAXED, error_model="numpy", nogil=True)(function)


@_compiled
@no_type_check
def moved(spectrum, rows, columns, out):
    """``out = spectrum * rows * columns`` for each pattern."""
    for i in range(out.shape[0]):
        right = columns[i]
        for k in range(out.shape[1]):
            for y in range(out.shape[2]):
                r, s, t = rows[i, y], spectrum[k, y], out[i, k, y]
                for x in range(out.shape[3]):
                    a = r.real * right[x].real - r.imag * right[x].imag
                    b = r.real * right[x].imag + r.imag * right[x].real
                    t[x] = complex(s[x].real * a - s[x].imag * b, s[x].real * b + s[x].imag * a)


@_compiled
@no_type_check
def entrance(wave, spectrum, rows, columns, total, down, right):  # noqa: PLR0917
    """``wave *= rows * columns``, its sum over patterns, and the profiles of ``Im(wave * spectrum)``.

    One short loop after the other: with fewer arrays in each, they are vectorised.
    """
    n = wave.shape[3]
    slope, zero = right[0].copy(), right.dtype.type(0)
    for i in range(wave.shape[0]):
        across, ramp = right[i], columns[i]
        for k in range(wave.shape[1]):
            for y in range(wave.shape[2]):
                r, w, s, t = rows[i, y], wave[i, k, y], spectrum[k, y], total[k, y]
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


@_compiled
@no_type_check
def through(wave, glass, start, row, out):
    """``out = wave * window of glass``."""
    n = wave.shape[3]
    for i in range(wave.shape[0]):
        for k in range(wave.shape[1]):
            for y in range(wave.shape[2]):
                at = start[i] + y * row[i]
                w, g, o = wave[i, k, y], glass[at : at + n], out[i, k, y]
                for x in range(n):
                    o[x] = complex(
                        w[x].real * g[x].real - w[x].imag * g[x].imag,
                        w[x].real * g[x].imag + w[x].imag * g[x].real,
                    )


@_compiled
@no_type_check
def to_phase(wave, incident, glass, start, row, slope, first, next_):  # noqa: PLR0917
    """``wave *= window of glass``; ``slope -= Im(sum_modes wave * incident)`` where the window lies."""
    n = wave.shape[3]
    for i in range(wave.shape[0]):
        for y in range(wave.shape[2]):
            at, to = start[i] + y * row[i], first[i] + y * next_[i]
            g, s = glass[at : at + n], slope[to : to + n]
            for k in range(wave.shape[1]):
                w, p = wave[i, k, y], incident[i, k, y]
                for x in range(n):
                    a = w[x].real * g[x].real - w[x].imag * g[x].imag
                    b = w[x].real * g[x].imag + w[x].imag * g[x].real
                    w[x] = complex(a, b)
                    s[x] -= a * p[x].imag + b * p[x].real


@_compiled
@no_type_check
def to_wave(wave, incident, glass, start, row, slope, first, next_, sign):  # noqa: PLR0917
    """``slope += sum_modes wave * incident``, imaginary part times ``sign``; ``wave *= window of glass``."""
    n = wave.shape[3]
    for i in range(wave.shape[0]):
        for y in range(wave.shape[2]):
            at, to = start[i] + y * row[i], first[i] + y * next_[i]
            g, s = glass[at : at + n], slope[to : to + n]
            for k in range(wave.shape[1]):
                w, p = wave[i, k, y], incident[i, k, y]
                for x in range(n):
                    a, b = w[x].real, w[x].imag
                    s[x] += complex(a * p[x].real - b * p[x].imag, sign * (a * p[x].imag + b * p[x].real))
                    w[x] = complex(a * g[x].real - b * g[x].imag, a * g[x].imag + b * g[x].real)


@_compiled
@no_type_check
def lit(wave, light, start, row, factor):
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


@_compiled
@no_type_check
def exposed(wave, out):
    """``out = sum_modes |wave|^2``."""
    n = wave.shape[3]
    for i in range(wave.shape[0]):
        for y in range(wave.shape[2]):
            w, o = wave[i, 0, y], out[i, y]
            for x in range(n):
                o[x] = w[x].real * w[x].real + w[x].imag * w[x].imag
            for k in range(1, wave.shape[1]):
                w = wave[i, k, y]
                for x in range(n):
                    o[x] += w[x].real * w[x].real + w[x].imag * w[x].imag


@_compiled
@no_type_check
def rooted(wave, counts, weight, flat, background, mask, floor, slope):  # noqa: C901, PLR0917
    """Sum of ``(sqrt(model + floor) - sqrt(counts + floor))^2``, and its slope for the waves' adjoint.

    ``model`` is ``weight * flat * sum_modes |wave|^2 + background``; all but ``weight`` may be ``None``.
    """
    n, zero, total = wave.shape[3], slope.dtype.type(0), 0.0
    for i in range(wave.shape[0]):
        for y in range(wave.shape[2]):
            w, o, c = wave[i, 0, y], slope[i, y], counts[i, y]
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


@_compiled
@no_type_check
def returned(wave, slope, factor, out):
    """``out = conj(wave) * slope * factor``."""
    n = wave.shape[3]
    for i in range(wave.shape[0]):
        for k in range(wave.shape[1]):
            for y in range(wave.shape[2]):
                w, s, o = wave[i, k, y], slope[i, y], out[i, k, y]
                for x in range(n):
                    by = s[x] * factor
                    o[x] = complex(w[x].real * by, -(w[x].imag * by))
