"""Fourier transforms in place along the first axis of a plane, a strip of columns at a time.

A plane is two flat arrays, of real and of imaginary parts, whose rows lie ``step`` numbers apart.
`transform` leaves frequencies in the order in which decimation makes them (`TransformAxis.order`), and
`transform_back` takes them in that order: either is the transpose of the other, so nothing is ever sorted.
Both have the sign of the forward transform and no factor; exchange real and imaginary parts for the other
sign.

A length ``n = r m`` is divided as Cooley and Tukey (1965) do: numbers ``m`` apart are combined by a
transform of ``r`` points, the ``k``-th result of place ``p`` is turned by ``exp(-2 pi i k p / n)``, and the
blocks of ``m`` results are transforms of their own. Factors 5 and 3 come first, then as few of 8 and 4 as
will do: each is a walk over the strip.
"""

import math
from functools import lru_cache
from typing import NamedTuple, no_type_check

import numpy as np

from phaseloom.physics.engine.lanes import (
    LANE_BYTES,
    address,
    fill,
    fill_like,
    load,
    pick,
    store,
    transpose_tile,
)
from phaseloom.physics.fused_kernels import compile_kernel

__all__ = [
    "TransformAxis",
    "locate_axis",
    "make_axis",
    "transform",
    "transform_back",
    "transpose_strip",
]


class TransformAxis(NamedTuple):
    """What a transform of one length takes.

    Attributes:
        stages: of each, one after the other: factor, length of its blocks, and where its turns begin.
        cosine, sine: of the turns ``exp(-2 pi i k p / m)``, by place and result.
        order: frequency ``0 ... n - 1`` of each row behind `transform`.
    """

    stages: np.ndarray
    cosine: np.ndarray
    sine: np.ndarray
    order: np.ndarray


@lru_cache(maxsize=32)
def make_axis(count: int, dtype: np.dtype, /) -> TransformAxis | None:
    """The transform of a length; ``None`` where strips do not fit, or of a prime factor above five."""
    factors = _factorise(count)
    if factors is None or count % (LANE_BYTES // dtype.itemsize) or count < 16:
        return None
    stages = []
    turns = [np.ones(1, complex)]
    order = np.zeros(count, np.int64)
    place = np.arange(count)
    length = count
    done = 1
    for factor in factors:
        stages.append((factor, length, sum(map(len, turns))))
        part = length // factor
        turns.append(np.exp(-2j * np.pi / length * np.outer(np.arange(part), np.arange(1, factor))).ravel())
        order += place // part * done
        place = place % part
        length = part
        done *= factor
    every = np.asarray(np.concatenate(turns), np.complex128)
    return TransformAxis(np.array(stages).ravel(), every.real.astype(dtype), every.imag.astype(dtype), order)


def _factorise(count: int) -> list[int] | None:
    """Factors in the order of the stages; ``None`` with another prime factor."""
    found = []
    for factor in (5, 3):
        while count % factor == 0:
            found.append(factor)
            count //= factor
    power = count.bit_length() - 1
    if count != 1 << power:
        return None
    fours = -power % 3 if power > 1 else 0
    return found + [8] * ((power - 2 * fours) // 3) + [4] * fours + [2] * (power == 1)


@compile_kernel
@no_type_check
def _take(re, im, at):
    """A vector of complex numbers."""
    return load(re, at), load(im, at)


@compile_kernel
@no_type_check
def _put(re, im, at, real, imag):
    """Write a vector of complex numbers."""
    store(re, at, real)
    store(im, at, imag)


@compile_kernel
@no_type_check
def _turn(real, imag, turn):
    """Complex numbers times one complex number in all lanes."""
    c, s = turn
    return real * c - imag * s, real * s + imag * c


@compile_kernel
@no_type_check
def _spread(cosine, sine, t):
    """One of the turns in all lanes."""
    return fill(pick(cosine, t)), fill(pick(sine, t))


@compile_kernel
@no_type_check
def _combine_2(re, im, at, step, n, m, cosine, sine, turn, first):
    """A stage of factor 2; results are turned where ``first``, else what goes in."""
    q = m // 2
    for p in range(q):
        t = turn + p
        b_turn = _spread(cosine, sine, t)
        for block in range(0, n, m):
            a = at + (block + p) * step
            b = a + q * step
            ar, ai = _take(re, im, a)
            br, bi = _take(re, im, b)
            if not first:
                br, bi = _turn(br, bi, b_turn)
            _put(re, im, a, ar + br, ai + bi)
            br, bi = ar - br, ai - bi
            if first:
                br, bi = _turn(br, bi, b_turn)
            _put(re, im, b, br, bi)


@compile_kernel
@no_type_check
def _combine_3(re, im, at, step, n, m, cosine, sine, turn, first):
    """A stage of factor 3."""
    half = fill_like(cosine, 0.5)
    height = fill_like(cosine, math.sqrt(0.75))
    q = m // 3
    for p in range(q):
        t = turn + 2 * p
        b_turn = _spread(cosine, sine, t)
        c_turn = _spread(cosine, sine, t + 1)
        for block in range(0, n, m):
            a = at + (block + p) * step
            b = a + q * step
            c = b + q * step
            ar, ai = _take(re, im, a)
            br, bi = _take(re, im, b)
            cr, ci = _take(re, im, c)
            if not first:
                br, bi = _turn(br, bi, b_turn)
                cr, ci = _turn(cr, ci, c_turn)
            er, ei = br + cr, bi + ci
            fr, fi = height * (bi - ci), height * (cr - br)
            _put(re, im, a, ar + er, ai + ei)
            er, ei = ar - half * er, ai - half * ei
            br, bi = er + fr, ei + fi
            cr, ci = er - fr, ei - fi
            if first:
                br, bi = _turn(br, bi, b_turn)
                cr, ci = _turn(cr, ci, c_turn)
            _put(re, im, b, br, bi)
            _put(re, im, c, cr, ci)


@compile_kernel
@no_type_check
def _combine_4(re, im, at, step, n, m, cosine, sine, turn, first):
    """A stage of factor 4; a block of 4 has nothing to turn."""
    q = m // 4
    for p in range(q):
        t = turn + 3 * p
        b_turn = _spread(cosine, sine, t)
        c_turn = _spread(cosine, sine, t + 1)
        d_turn = _spread(cosine, sine, t + 2)
        for block in range(0, n, m):
            a = at + (block + p) * step
            b = a + q * step
            c = b + q * step
            d = c + q * step
            ar, ai = _take(re, im, a)
            br, bi = _take(re, im, b)
            cr, ci = _take(re, im, c)
            dr, di = _take(re, im, d)
            if not first:
                br, bi = _turn(br, bi, b_turn)
                cr, ci = _turn(cr, ci, c_turn)
                dr, di = _turn(dr, di, d_turn)
            er, ei = ar + cr, ai + ci
            fr, fi = ar - cr, ai - ci
            gr, gi = br + dr, bi + di
            hr, hi = bi - di, dr - br
            _put(re, im, a, er + gr, ei + gi)
            br, bi = fr + hr, fi + hi
            cr, ci = er - gr, ei - gi
            dr, di = fr - hr, fi - hi
            if first:
                br, bi = _turn(br, bi, b_turn)
                cr, ci = _turn(cr, ci, c_turn)
                dr, di = _turn(dr, di, d_turn)
            _put(re, im, b, br, bi)
            _put(re, im, c, cr, ci)
            _put(re, im, d, dr, di)


@compile_kernel
@no_type_check
def _combine_5(re, im, at, step, n, m, cosine, sine, turn, first):
    """A stage of factor 5."""
    c1 = fill_like(cosine, math.cos(2 * math.pi / 5))
    s1 = fill_like(cosine, math.sin(2 * math.pi / 5))
    c2 = fill_like(cosine, math.cos(4 * math.pi / 5))
    s2 = fill_like(cosine, math.sin(4 * math.pi / 5))
    q = m // 5
    for p in range(q):
        t = turn + 4 * p
        b_turn = _spread(cosine, sine, t)
        c_turn = _spread(cosine, sine, t + 1)
        d_turn = _spread(cosine, sine, t + 2)
        e_turn = _spread(cosine, sine, t + 3)
        for block in range(0, n, m):
            a = at + (block + p) * step
            b = a + q * step
            c = b + q * step
            d = c + q * step
            e = d + q * step
            ar, ai = _take(re, im, a)
            br, bi = _take(re, im, b)
            cr, ci = _take(re, im, c)
            dr, di = _take(re, im, d)
            er, ei = _take(re, im, e)
            if not first:
                br, bi = _turn(br, bi, b_turn)
                cr, ci = _turn(cr, ci, c_turn)
                dr, di = _turn(dr, di, d_turn)
                er, ei = _turn(er, ei, e_turn)
            fr, fi = br + er, bi + ei
            gr, gi = cr + dr, ci + di
            hr, hi = bi - ei, er - br
            kr, ki = ci - di, dr - cr
            _put(re, im, a, ar + fr + gr, ai + fi + gi)
            ur, ui = ar + c1 * fr + c2 * gr, ai + c1 * fi + c2 * gi
            vr, vi = s1 * hr + s2 * kr, s1 * hi + s2 * ki
            br, bi = ur + vr, ui + vi
            er, ei = ur - vr, ui - vi
            ur, ui = ar + c2 * fr + c1 * gr, ai + c2 * fi + c1 * gi
            vr, vi = s2 * hr - s1 * kr, s2 * hi - s1 * ki
            cr, ci = ur + vr, ui + vi
            dr, di = ur - vr, ui - vi
            if first:
                br, bi = _turn(br, bi, b_turn)
                cr, ci = _turn(cr, ci, c_turn)
                dr, di = _turn(dr, di, d_turn)
                er, ei = _turn(er, ei, e_turn)
            _put(re, im, b, br, bi)
            _put(re, im, c, cr, ci)
            _put(re, im, d, dr, di)
            _put(re, im, e, er, ei)


@compile_kernel
@no_type_check
def _combine_8(re, im, at, step, n, m, cosine, sine, turn, first):
    """A stage of factor 8: two transforms of four points; a block of 8 has nothing to turn."""
    diagonal = fill_like(cosine, math.sqrt(0.5))
    q = m // 8
    row = q * step
    for p in range(q):
        t = turn + 7 * p
        for block in range(0, n, m):
            a = at + (block + p) * step
            ar, ai = _take(re, im, a)
            br, bi = _take(re, im, a + row)
            cr, ci = _take(re, im, a + 2 * row)
            dr, di = _take(re, im, a + 3 * row)
            er, ei = _take(re, im, a + 4 * row)
            fr, fi = _take(re, im, a + 5 * row)
            gr, gi = _take(re, im, a + 6 * row)
            hr, hi = _take(re, im, a + 7 * row)
            if not first and q > 1:
                br, bi = _turn(br, bi, _spread(cosine, sine, t))
                cr, ci = _turn(cr, ci, _spread(cosine, sine, t + 1))
                dr, di = _turn(dr, di, _spread(cosine, sine, t + 2))
                er, ei = _turn(er, ei, _spread(cosine, sine, t + 3))
                fr, fi = _turn(fr, fi, _spread(cosine, sine, t + 4))
                gr, gi = _turn(gr, gi, _spread(cosine, sine, t + 5))
                hr, hi = _turn(hr, hi, _spread(cosine, sine, t + 6))
            # sums and differences of numbers half a block apart
            ar, ai, er, ei = ar + er, ai + ei, ar - er, ai - ei
            br, bi, fr, fi = br + fr, bi + fi, br - fr, bi - fi
            cr, ci, gr, gi = cr + gr, ci + gi, cr - gr, ci - gi
            dr, di, hr, hi = dr + hr, di + hi, dr - hr, di - hi
            # even results: a transform of four points of the sums
            ar, ai, cr, ci = ar + cr, ai + ci, ar - cr, ai - ci
            br, bi, dr, di = br + dr, bi + di, bi - di, dr - br
            _put(re, im, a, ar + br, ai + bi)
            br, bi, ar, ai = ar - br, ai - bi, cr + dr, ci + di
            cr, ci = cr - dr, ci - di
            if first and q > 1:
                br, bi = _turn(br, bi, _spread(cosine, sine, t + 3))
                ar, ai = _turn(ar, ai, _spread(cosine, sine, t + 1))
                cr, ci = _turn(cr, ci, _spread(cosine, sine, t + 5))
            _put(re, im, a + 4 * row, br, bi)
            _put(re, im, a + 2 * row, ar, ai)
            _put(re, im, a + 6 * row, cr, ci)
            # odd results: the same of the differences, turned by eighths
            fr, fi = diagonal * (fr + fi), diagonal * (fi - fr)
            gr, gi = gi, fill_like(cosine, 0.0) - gr
            hr, hi = diagonal * (hi - hr), fill_like(cosine, 0.0) - diagonal * (hr + hi)
            er, ei, gr, gi = er + gr, ei + gi, er - gr, ei - gi
            fr, fi, hr, hi = fr + hr, fi + hi, fi - hi, hr - fr
            ar, ai, br, bi = er + fr, ei + fi, er - fr, ei - fi
            cr, ci, dr, di = gr + hr, gi + hi, gr - hr, gi - hi
            if first and q > 1:
                ar, ai = _turn(ar, ai, _spread(cosine, sine, t))
                br, bi = _turn(br, bi, _spread(cosine, sine, t + 4))
                cr, ci = _turn(cr, ci, _spread(cosine, sine, t + 2))
                dr, di = _turn(dr, di, _spread(cosine, sine, t + 6))
            _put(re, im, a + row, ar, ai)
            _put(re, im, a + 5 * row, br, bi)
            _put(re, im, a + 3 * row, cr, ci)
            _put(re, im, a + 7 * row, dr, di)


@compile_kernel
@no_type_check
def _combine_last_4(re, im, at, step, n):
    """A stage of factor 4 with blocks of 4, where nothing is turned."""
    for block in range(0, n, 4):
        a = at + block * step
        b = a + step
        c = b + step
        d = c + step
        ar, ai = _take(re, im, a)
        br, bi = _take(re, im, b)
        cr, ci = _take(re, im, c)
        dr, di = _take(re, im, d)
        er, ei = ar + cr, ai + ci
        fr, fi = ar - cr, ai - ci
        gr, gi = br + dr, bi + di
        hr, hi = bi - di, dr - br
        _put(re, im, a, er + gr, ei + gi)
        _put(re, im, b, fr + hr, fi + hi)
        _put(re, im, c, er - gr, ei - gi)
        _put(re, im, d, fr - hr, fi - hi)


@compile_kernel
@no_type_check
def _combine(re, im, at, step, stages, cosine, sine, stage, first):
    """One stage of any factor; its results are turned where ``first``, else what goes in."""
    n = pick(stages, 1)
    factor = pick(stages, 3 * stage)
    m = pick(stages, 3 * stage + 1)
    turn = pick(stages, 3 * stage + 2)
    if m == 4 and factor == 4:
        _combine_last_4(re, im, at, step, n)
    elif factor == 8:
        _combine_8(re, im, at, step, n, m, cosine, sine, turn, first)
    elif factor == 4:
        _combine_4(re, im, at, step, n, m, cosine, sine, turn, first)
    elif factor == 2:
        _combine_2(re, im, at, step, n, m, cosine, sine, turn, first)
    elif factor == 3:
        _combine_3(re, im, at, step, n, m, cosine, sine, turn, first)
    else:
        _combine_5(re, im, at, step, n, m, cosine, sine, turn, first)


@compile_kernel
@no_type_check
def locate_axis(stages, cosine, sine):
    """A `TransformAxis` as `transform` wants it."""
    return address(stages), len(stages) // 3, address(cosine), address(sine)


@compile_kernel
@no_type_check
def transform(re, im, at, step, axis):
    """Transform the columns ``at`` to ``at + lanes`` of a plane in place, frequencies out of order."""
    stages, count, cosine, sine = axis
    for stage in range(count):
        _combine(re, im, at, step, stages, cosine, sine, stage, True)


@compile_kernel
@no_type_check
def transform_back(re, im, at, step, axis):
    """The transpose of `transform`: rows in its order in, natural order out, and the same sign."""
    stages, count, cosine, sine = axis
    for stage in range(count - 1, -1, -1):
        _combine(re, im, at, step, stages, cosine, sine, stage, False)


@compile_kernel
@no_type_check
def transpose_strip(re, im, at, step, to_re, to_im, to, stride, n, lanes):
    """Write a strip of ``n`` rows as ``lanes`` rows of another plane."""
    for row in range(0, n, lanes):
        transpose_tile(re, at + row * step, step, to_re, to + row, stride)
        transpose_tile(im, at + row * step, step, to_im, to + row, stride)
