"""What a weak object explains of the changes in a bright field, and its slopes, by one frequency at a time.

The formulas are those of `phaseloom.direct.transfer` and `phaseloom.direct.explained`; a frequency stays in
the first cache, where PyTorch walks over all of them some sixty times. Double precision.
"""

import math
from functools import partial
from typing import no_type_check

import numpy as np

from phaseloom.physics.fused_kernels import FAST_MATH, compile_kernel

__all__ = ["explain_changes"]

_compile = partial(compile_kernel, fastmath=FAST_MATH)

TURN = 2 / math.pi
QUARTER_HIGH = 1.5707963267341256
QUARTER_MIDDLE = 6.077100506303966e-11
QUARTER_LOW = 2.0222662487959506e-21
"""A quarter of a turn in three parts, of which the first two have few digits (Cody & Waite 1980)."""


@_compile
@no_type_check
def _turn(angle, cosine, sine):
    """Cosine and sine of angles, by polynomials that a compiler can vectorise."""
    for n in range(len(angle)):
        x = angle[n]
        count = math.floor(x * TURN + 0.5)
        x = ((x - count * QUARTER_HIGH) - count * QUARTER_MIDDLE) - count * QUARTER_LOW
        z = x * x
        s = 1.58969099521155010221e-10
        s = s * z - 2.50507602534068634195e-08
        s = s * z + 2.75573137070700676789e-06
        s = s * z - 1.98412698298579493134e-04
        s = s * z + 8.33333333332248946124e-03
        s = s * z - 1.66666666666666324348e-01
        s = x + x * z * s
        c = -1.13596475577881948265e-11
        c = c * z + 2.08757232129817482790e-09
        c = c * z - 2.75573143513906633035e-07
        c = c * z + 2.48015872894767294178e-05
        c = c * z - 1.38888888888741095749e-03
        c = c * z + 4.16666666666666019037e-02
        c = 1.0 - 0.5 * z + z * z * c
        quarter = count - 4.0 * math.floor(0.25 * count)
        odd = (quarter == 1.0) | (quarter == 3.0)
        first = s if odd else c
        second = c if odd else s
        cosine[n] = -first if (quarter == 1.0) | (quarter == 2.0) else first
        sine[n] = -second if quarter >= 2.0 else second


@_compile
@no_type_check
def _limit_band(k, q, square_k, sign, lens, size, inside, radius):
    """The aperture at ``k + sign q`` on each pixel, where its rim is, and the distance from the middle."""
    limit = lens[0]
    edge = lens[1]
    square_q = q[0] * q[0] + q[1] * q[1]
    ahead = 2.0 * sign * q[0]
    across = 2.0 * sign * q[1]
    rows = k[0]
    columns = k[1]
    for n in range(len(size)):
        square = square_k[n] + square_q + ahead * rows[n] + across * columns[n]
        away = math.sqrt(max(square, 1e-30))
        radius[n] = away
        if edge > 0.0:
            share = (limit - away) / edge + 0.5
            size[n] = min(max(share, 0.0), 1.0)
            inside[n] = 1.0 if (share > 0.0) & (share < 1.0) else 0.0
        else:
            size[n] = 1.0 if away <= limit else 0.0
            inside[n] = 0.0


@_compile
@no_type_check
def _blur_band(k, q, sign, lens, left, error):
    """What spread of focus and source leave of a band, and its excitation error."""
    spread = lens[2]
    source = lens[3]
    half = 0.5 * lens[4]
    square_q = q[0] * q[0] + q[1] * q[1]
    shrink = -2.0 * math.pi**2 * source * source * square_q
    factor = -2.0 * math.pi**2 * spread * spread
    for n in range(len(left)):
        away = half * (2.0 * (q[0] * k[0, n] + q[1] * k[1, n]) + sign * square_q)
        error[n] = away
        left[n] = math.exp(factor * away * away + shrink)


@_compile
@no_type_check
def _slope_of_band(k, q, sign, lens, root, bare, of_size, inside, radius, error, has_blur, of_q, of_lens):
    """Add what a band's size, of which ``of_size`` is the slope, does to those of frequency and lens.

    ``bare`` is the size without the aperture where that is on its rim, and the whole size elsewhere.
    """
    half_edge = 0.5 / lens[1] if lens[1] > 0.0 else 0.0
    spread = lens[2]
    source = lens[3]
    wavelength = lens[4]
    steep = -4.0 * math.pi**2 * spread * spread
    rim, along, across, total = 0.0, 0.0, 0.0, 0.0
    moved, moved_rows, moved_columns, of_spread, of_source = 0.0, 0.0, 0.0, 0.0, 0.0
    rows = k[0]
    columns = k[1]
    for n in range(len(root)):
        blur = bare[0, n]
        pull = of_size[n] * root[n] * blur * inside[n] * half_edge
        rim += pull
        pull = -pull / radius[n]
        total += pull
        along += pull * rows[n]
        across += pull * columns[n]
    if has_blur:
        for n in range(len(root)):
            pull = of_size[n] * bare[1, n]
            of_source += pull
            of_spread += pull * error[n] * error[n]
            pull = pull * steep * error[n]
            moved += pull
            moved_rows += pull * rows[n]
            moved_columns += pull * columns[n]
    of_lens[0] += 2.0 * rim
    square_q = q[0] * q[0] + q[1] * q[1]
    of_lens[1] += -4.0 * math.pi**2 * spread * of_spread
    of_lens[2] += -4.0 * math.pi**2 * source * square_q * of_source
    shrink = -4.0 * math.pi**2 * source * source * of_source
    of_q[0] += 2.0 * (total * q[0] + sign * along) + wavelength * (moved_rows + sign * moved * q[0])
    of_q[1] += 2.0 * (total * q[1] + sign * across) + wavelength * (moved_columns + sign * moved * q[1])
    of_q[0] += shrink * q[0]
    of_q[1] += shrink * q[1]


@_compile
@no_type_check
def explain_changes(turns, powers, q, k, lens, root, changes, ridge, amplitude, of_turns, of_q, of_lens):
    """Power that the best weak object explains; its slopes in phases, frequencies and lens.

    Args:
        turns: ``(2, frequency, power)`` phases of the bands before and after are sums of ``powers``.
        powers: ``(power, pixel)``.
        q: ``(frequency, 2)`` in the frame of the detector, cycles per angstrom.
        k: ``(2, pixel)``.
        lens: radius of the aperture and width of its rim, cycles per angstrom, spread of focus and of the
            source, angstrom, and the wavelength.
        root: ``(pixel,)`` of the counts.
        changes: ``(frequency, 2, pixel)`` real and imaginary part, times ``root``.
        ridge: share of the diagonal that is added to it.
        amplitude: whether the object has one.
        of_turns: slopes, as ``turns``; written, as the next two.
        of_q: as ``q``.
        of_lens: of aperture, spread of focus and of the source.
    """
    count = len(root)
    cells = np.empty((22, count))
    sizes, bares = cells[0:2], cells[2:6]
    cosines, sines = cells[6:8], cells[8:10]
    insides, radii, errors = cells[10:12], cells[12:14], cells[14:16]
    angle, square_k = cells[16], cells[17]
    of_size, of_phase = cells[18:20], cells[20:22]
    has_blur = (lens[2] != 0.0) | (lens[3] != 0.0)
    light = 0.0
    for n in range(count):
        light += root[n] * root[n]
        square_k[n] = k[0, n] * k[0, n] + k[1, n] * k[1, n]
    floor = 1e-12 * light
    of_lens[:] = 0.0
    explained = 0.0
    for f in range(len(q)):
        for side in range(2):
            sign = -1.0 if side == 0 else 1.0
            angle[:] = 0.0
            for p in range(len(powers)):
                weight = turns[side, f, p]
                row = powers[p]
                for n in range(count):
                    angle[n] += weight * row[n]
            _turn(angle, cosines[side], sines[side])
            _limit_band(k, q[f], square_k, sign, lens, sizes[side], insides[side], radii[side])
            blur, whole, size = bares[2 * side], bares[2 * side + 1], sizes[side]
            if has_blur:
                _blur_band(k, q[f], sign, lens, blur, errors[side])
            else:
                blur[:] = 1.0
            for n in range(count):
                whole[n] = root[n] * size[n] * blur[n]
        first, second = bares[1], bares[3]
        c1, s1, c2, s2 = cosines[0], sines[0], cosines[1], sines[1]
        real, imaginary = changes[f, 0], changes[f, 1]
        p11, p22, p12r, p12i = 0.0, 0.0, 0.0, 0.0
        r1r, r1i, r2r, r2i = 0.0, 0.0, 0.0, 0.0
        for n in range(count):
            ar, ai = first[n] * c1[n], first[n] * s1[n]
            br, bi = second[n] * c2[n], second[n] * s2[n]
            p11 += first[n] * first[n]
            p22 += second[n] * second[n]
            p12r += ar * br + ai * bi
            p12i += ar * bi - ai * br
            r1r += ar * real[n] + ai * imaginary[n]
            r1i += ar * imaginary[n] - ai * real[n]
            r2r += br * real[n] + bi * imaginary[n]
            r2i += br * imaginary[n] - bi * real[n]
        # columns i (t1 - t2) and -(t1 + t2)
        m0, m1 = p11 + p22 - 2.0 * p12r, p11 + p22 + 2.0 * p12r
        right0, right1 = complex(r1i - r2i, r2r - r1r), complex(-r1r - r2r, -r1i - r2i)
        d0, d1 = m0 + ridge * max(m0, floor), m1 + ridge * max(m1, floor)
        if amplitude:
            between = complex(-2.0 * p12i, p11 - p22)
            scale = d0 * d1 - (between.real * between.real + between.imag * between.imag)
            x0 = (d1 * right0 - between * right1) / scale
            x1 = (d0 * right1 - between.conjugate() * right0) / scale
            explained += (right1.conjugate() * x1).real
        else:
            x0 = right0 / d0
            x1 = 0.0j
        explained += (right0.conjugate() * x0).real
        h0 = ridge * (x0.real * x0.real + x0.imag * x0.imag) if m0 > floor else 0.0
        h1 = ridge * (x1.real * x1.real + x1.imag * x1.imag) if m1 > floor else 0.0
        u = complex(-x0.imag, x0.real) - x1
        v = complex(x0.imag, -x0.real) - x1
        ur, ui, vr, vi = u.real, u.imag, v.real, v.imag
        own, cross = h0 + h1, h1 - h0
        slope1, slope2, phase1, phase2 = of_size[0], of_size[1], of_phase[0], of_phase[1]
        for n in range(count):
            ar, ai = first[n] * c1[n], first[n] * s1[n]
            br, bi = second[n] * c2[n], second[n] * s2[n]
            er = real[n] - (ur * ar - ui * ai + vr * br - vi * bi)
            ei = imaginary[n] - (ur * ai + ui * ar + vr * bi + vi * br)
            gr = 2.0 * (ur * er + ui * ei - own * ar - cross * br)
            gi = 2.0 * (ur * ei - ui * er - own * ai - cross * bi)
            slope1[n] = c1[n] * gr + s1[n] * gi
            phase1[n] = first[n] * (c1[n] * gi - s1[n] * gr)
            gr = 2.0 * (vr * er + vi * ei - cross * ar - own * br)
            gi = 2.0 * (vr * ei - vi * er - cross * ai - own * bi)
            slope2[n] = c2[n] * gr + s2[n] * gi
            phase2[n] = second[n] * (c2[n] * gi - s2[n] * gr)
        of_q[f, 0] = 0.0
        of_q[f, 1] = 0.0
        for side in range(2):
            sign = -1.0 if side == 0 else 1.0
            phase = of_phase[side]
            for p in range(len(powers)):
                row = powers[p]
                total = 0.0
                for n in range(count):
                    total += phase[n] * row[n]
                of_turns[side, f, p] = total
            _slope_of_band(
                k, q[f], sign, lens, root, bares[2 * side : 2 * side + 2], of_size[side], insides[side],
                radii[side], errors[side], has_blur, of_q[f], of_lens,
            )  # fmt: skip
    return explained
