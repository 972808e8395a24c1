"""The experiment and its adjoint for a batch of patterns in one compiled call, wave by wave.

A wave lies in a plane: real and imaginary parts, each a few columns wider than the window where rows an
even number of cache lines apart would meet in few places of the cache. In real space its rows are those of
the window; in reciprocal space, where it is transposed and out of order, its rows are columns of the
pattern (`phaseloom.physics.engine.transforms`). Ramps, kernels of flights and patterns are brought into
that order instead of the waves. Between two transforms a strip of a wave goes through all that is done to
it while it lies in the first cache, so a slice costs two walks over its waves.

Waves are divided by the side of their window, and the adjoint is that of `phaseloom.physics.adjoint`: with
the conjugate of the gradient every step is transposed and nothing is conjugated.
"""

import math
from typing import no_type_check

import numpy as np

from phaseloom.physics.engine.lanes import (
    add_pair,
    add_up,
    address,
    advance,
    fill,
    fill_like,
    get_lane,
    lane_count,
    load,
    load_imag,
    load_real,
    logarithm,
    maximum,
    peak,
    pick,
    put,
    root,
    set_lane,
    store,
    store_pair,
)
from phaseloom.physics.engine.transforms import (
    locate_axis,
    transform,
    transform_back,
    transpose_strip,
)
from phaseloom.physics.fused_kernels import compile_kernel

__all__ = ["AMPLITUDE", "COMPLEX", "NOTHING", "POISSON", "REAL", "begin_batch", "end_batch", "fill_ramp"]
__all__ += ["clear_slopes", "locate_planes", "model_batch", "model_pattern", "spread_wave"]

KERNELS_VERSION = 6
"""The cache of numba looks at this file alone: raise the number when another file of this package changes."""

AMPLITUDE, POISSON = 0, 1
NOTHING, COMPLEX, REAL = 0, 1, 2
"""What is wanted of the derivative of the transmission: none, all, or minus its imaginary part times it."""

MAX_LOG_RATIO = 60.0
"""As in `phaseloom.ptycho.noise`."""


@compile_kernel
@no_type_check
def _transform_modes(modes, n_modes, work, beam, layout, down, right):
    """Spectra of the modes over ``pixels^1.5``."""
    height, width, lanes, step, back = layout
    factor = fill_like(beam, (height * width) ** -1.5)
    re, im = work, advance(work, height * step)
    for k in range(n_modes):
        to_re = advance(beam, 2 * k * width * back)
        to_im = advance(to_re, width * back)
        for x in range(0, width, lanes):
            for y in range(height):
                pixel = 2 * ((k * height + y) * width + x)
                store(re, y * step + x, load_real(modes, pixel))
                store(im, y * step + x, load_imag(modes, pixel))
            transform(re, im, x, step, down)
            transpose_strip(re, im, x, step, to_re, to_im, x * back, back, height, lanes)
        for y in range(0, height, lanes):
            transform(to_re, to_im, y, back, right)
            for x in range(width):
                at = x * back + y
                store(to_re, at, factor * load(to_re, at))
                store(to_im, at, factor * load(to_im, at))


@compile_kernel
@no_type_check
def _gather_modes(slope, n_modes, work, modes, layout, down, right):
    """Gradient of the modes from that of their spectra."""
    height, width, lanes, step, back = layout
    factor = fill_like(slope, (height * width) ** -1.5)
    opposite = fill_like(slope, -((height * width) ** -1.5))
    re, im = work, advance(work, height * step)
    for k in range(n_modes):
        _return_to_space(advance(slope, 2 * k * width * back), work, layout, right)
        for x in range(0, width, lanes):
            transform_back(re, im, x, step, down)
            for y in range(height):
                at = y * step + x
                pixel = 2 * ((k * height + y) * width + x)
                store_pair(modes, pixel, factor * load(re, at), opposite * load(im, at))


@compile_kernel
@no_type_check
def _light_window(mode, rows, columns, strip, there, layout, right):
    """Spectrum of a mode where the beam stands, and the first half of its way to real space."""
    height, width, lanes, step, back = layout
    plane = width * back
    im = advance(strip, width * lanes)
    to_im = advance(there, height * step)
    for y in range(0, height, lanes):
        rr, ri = load(rows[0], y), load(rows[1], y)
        for x in range(width):
            cr, ci = fill(pick(columns[0], x)), fill(pick(columns[1], x))
            tr, ti = rr * cr - ri * ci, rr * ci + ri * cr
            mr, mi = load(mode, x * back + y), load(mode, plane + x * back + y)
            store(strip, x * lanes, mr * tr - mi * ti)
            store(im, x * lanes, mr * ti + mi * tr)
        transform_back(im, strip, 0, lanes, right)
        transpose_strip(strip, im, 0, lanes, there, to_im, y * step, step, width, lanes)


@compile_kernel
@no_type_check
def _return_to_space(wave, there, layout, right):
    """First half of the transpose of a transform, to a plane in real space."""
    height, width, lanes, step, back = layout
    re, im = wave, advance(wave, width * back)
    to_re, to_im = there, advance(there, height * step)
    for y in range(0, height, lanes):
        transform_back(re, im, y, back, right)
        transpose_strip(re, im, y, back, to_re, to_im, y * step, step, width, lanes)


@compile_kernel
@no_type_check
def _pass_slice(here, window, row, strip, wave, layout, down):
    """Second half of the inverse transform, transmission, and first half of the next transform."""
    height, width, lanes, step, back = layout
    re, im = here, advance(here, height * step)
    strip_im = advance(strip, height * lanes)
    to_re, to_im = wave, advance(wave, width * back)
    for x in range(0, width, lanes):
        transform_back(im, re, x, step, down)
        for y in range(height):
            at = y * step + x
            wr, wi = load(re, at), load(im, at)
            tr, ti = load_real(window, y * row + 2 * x), load_imag(window, y * row + 2 * x)
            store(strip, y * lanes, wr * tr - wi * ti)
            store(strip_im, y * lanes, wr * ti + wi * tr)
        transform(strip, strip_im, 0, lanes, down)
        transpose_strip(strip, strip_im, 0, lanes, to_re, to_im, x * back, back, height, lanes)


@compile_kernel
@no_type_check
def _fly(wave, flight, there, layout, right, forth):
    """Second half of a transform, free flight, and first half of an inverse transform; or their transpose."""
    height, width, lanes, step, back = layout
    re, im = wave, advance(wave, width * back)
    to_re, to_im = there, advance(there, height * step)
    first, second = (re, im) if forth else (im, re)
    for y in range(0, height, lanes):
        transform(first, second, y, back, right)
        _multiply_strip(re, im, flight, y, width, back)
        transform_back(second, first, y, back, right)
        transpose_strip(re, im, y, back, to_re, to_im, y * step, step, width, lanes)


@compile_kernel
@no_type_check
def _multiply_strip(re, im, flight, y, width, back):
    """A strip of a wave times that of a kernel."""
    for x in range(width):
        at = x * back + y
        wr, wi = load(re, at), load(im, at)
        fr, fi = load(flight[0], at), load(flight[1], at)
        store(re, at, wr * fr - wi * fi)
        store(im, at, wr * fi + wi * fr)


@compile_kernel
@no_type_check
def _leave_slice(work, here, window, row, sink, kind, wave, layout, down):
    """Transpose of `_pass_slice`; the derivative of the transmission is added to the sink."""
    height, width, lanes, step, back = layout
    re, im = work, advance(work, height * step)
    in_re, in_im = here, advance(here, height * step)
    to_re, to_im = wave, advance(wave, width * back)
    field, first, next_, sign = sink
    signs = fill(sign)
    for x in range(0, width, lanes):
        transform_back(re, im, x, step, down)
        for y in range(height):
            at = y * step + x
            gr, gi = load(re, at), load(im, at)
            tr, ti = load_real(window, y * row + 2 * x), load_imag(window, y * row + 2 * x)
            hr, hi = gr * tr - gi * ti, gr * ti + gi * tr
            store(re, at, hr)
            store(im, at, hi)
            if kind:
                pr, pi = load(in_re, at), load(in_im, at)
                to = first + y * next_ + x
                if kind == COMPLEX:
                    add_pair(field, 2 * to, gr * pr - gi * pi, signs * (gr * pi + gi * pr))
                else:
                    store(field, to, load(field, to) - (hr * pi + hi * pr))
        transform(im, re, x, step, down)
        transpose_strip(re, im, x, step, to_re, to_im, x * back, back, height, lanes)


@compile_kernel
@no_type_check
def _leave_beam(wave, mode, rows, columns, slope, turn, layout, right):
    """Transpose of `_light_window`: adds to the gradient of a spectrum, and returns that of the shift."""
    height, width, lanes, _, back = layout
    plane = width * back
    re, im = wave, advance(wave, plane)
    along_y = fill_like(wave, 0.0)
    along_x = fill_like(wave, 0.0)
    for y in range(0, height, lanes):
        transform(im, re, y, back, right)
        rr, ri = load(rows[0], y), load(rows[1], y)
        sum_y = fill_like(wave, 0.0)
        for x in range(width):
            at = x * back + y
            cr, ci = fill(pick(columns[0], x)), fill(pick(columns[1], x))
            tr, ti = rr * cr - ri * ci, rr * ci + ri * cr
            wr, wi = load(re, at), load(im, at)
            gr, gi = wr * tr - wi * ti, wr * ti + wi * tr
            store(slope, at, load(slope, at) + gr)
            store(slope, plane + at, load(slope, plane + at) + gi)
            pull = gr * load(mode, plane + at) + gi * load(mode, at)
            sum_y = sum_y + pull
            along_x = along_x + pull * fill(pick(turn[1], x))
        along_y = along_y + sum_y * load(turn[0], y)
    return add_up(along_y), add_up(along_x)


@compile_kernel
@no_type_check
def _compare(far, seen, n_modes, weight, fields, of_dark, noise, layout, wanted, y):
    """Misfit of a strip of a pattern and its slope along the weight.

    Far waves become conjugates of their gradients. The slope along expected counts is added to the gradient
    of the background at once.
    """
    _, width, lanes, _, back = layout
    kind, floor, limit, share = noise
    flat, dark, mask = fields
    plane = width * back
    floors = fill_like(far, floor)
    least = fill_like(far, 1e-30)
    one = fill_like(far, 1.0)
    factor = fill(weight)
    twice = fill_like(far, 2.0 * share)
    flat_at, dark_at, mask_at = address(flat), address(dark), address(mask)
    dark_slope = address(of_dark)
    left = fill_like(far, 0.0)
    pulled = fill_like(far, 0.0)
    for x in range(width):
        at = x * back + y
        light = fill_like(far, 0.0)
        for k in range(n_modes):
            wr, wi = load(far, 2 * k * plane + at), load(far, (2 * k + 1) * plane + at)
            light = light + wr * wr + wi * wi
        by = factor
        if len(flat):
            by = factor * load(flat_at, at)
            light_seen = light * load(flat_at, at)
        else:
            light_seen = light
        model = by * light
        if len(dark):
            model = model + load(dark_at, at)
        count = load(seen, y * width + x * lanes) + floors
        if kind == POISSON:
            rate = maximum(model + floors, least)
            ratio = count / rate
            log_ratio = logarithm(maximum(ratio, least))
            each = log_ratio * count + rate - count
            slope = one - ratio
            if limit < math.inf and peak(each) > 0.5 * limit * limit:
                each, slope = _limit_lanes(count, rate, log_ratio, each, slope, limit)
        else:
            amplitude = root(model + floors)
            gap = amplitude - root(count)
            each = gap * gap
            slope = gap / amplitude
        if len(mask):
            each = each * load(mask_at, at)
            slope = slope * load(mask_at, at)
        left = left + each
        if wanted[2]:
            pulled = pulled + slope * light_seen
            if len(of_dark):
                store(dark_slope, at, load(dark_slope, at) + slope)
        pull = slope * (by * twice)
        for k in range(n_modes):
            re, im = 2 * k * plane + at, (2 * k + 1) * plane + at
            store(far, re, pull * load(far, re))
            store(far, im, fill_like(far, 0.0) - pull * load(far, im))
    return add_up(left), add_up(pulled)


@compile_kernel
@no_type_check
def _limit_lanes(count, rate, log_ratio, each, slope, limit):
    """Deviances that go on as differences of amplitudes beyond the limit, number by number."""
    for lane in range(lane_count(count)):
        n = get_lane(count, lane)
        edge = min(0.5 * limit * limit / n + math.sqrt(limit * limit / n), MAX_LOG_RATIO)
        if get_lane(log_ratio, lane) > edge:
            amplitude = math.exp(0.5 * (edge + get_lane(log_ratio, lane)))
            value = get_lane(rate, lane) * (1 - 2 * amplitude) + n * (1 + edge)
            each = set_lane(each, lane, value)
            slope = set_lane(slope, lane, 1 - amplitude)
    return each, slope


@compile_kernel
@no_type_check
def _meet_detector(far, work, seen, n_modes, weight, fields, of_dark, noise, layout, wanted, right):
    """Second half of the last transform, likelihood, and first half of the way back, strip by strip.

    Of a single mode what comes back goes on to real space; of several it stays where it is (`_turn_back`).
    """
    height, width, lanes, step, back = layout
    plane = width * back
    goes_back = wanted[0] or wanted[1]
    total = 0.0
    of_weight = 0.0
    for y in range(0, height, lanes):
        for k in range(n_modes):
            re = advance(far, 2 * k * plane)
            transform(re, advance(re, plane), y, back, right)
        found = _compare(far, seen, n_modes, weight, fields, of_dark, noise, layout, wanted, y)
        total += found[0]
        of_weight += found[1]
        for k in range(n_modes if goes_back else 0):
            re = advance(far, 2 * k * plane)
            im = advance(re, plane)
            transform_back(re, im, y, back, right)
            if n_modes == 1:
                to_im = advance(work, height * step)
                transpose_strip(re, im, y, back, work, to_im, y * step, step, width, lanes)
    return total, of_weight


@compile_kernel
@no_type_check
def _turn_back(wave, work, layout):
    """What comes back from the detector on its way to real space."""
    height, width, lanes, step, back = layout
    im = advance(wave, width * back)
    to_im = advance(work, height * step)
    for y in range(0, height, lanes):
        transpose_strip(wave, im, y, back, work, to_im, y * step, step, width, lanes)


@compile_kernel
@no_type_check
def fill_ramp(shift, place, n, re, im):
    """``exp(-i shift k)`` for the signed frequencies ``k`` of an axis, each at its place.

    Powers are made of those before them in double precision; errors grow with the logarithm of ``n``.
    """
    turn = 2 * math.pi * shift / n
    half = n // 2
    scratch = np.empty((half + 1, 2))
    scratch[0, 0], scratch[0, 1] = 1.0, 0.0
    scratch[1, 0], scratch[1, 1] = math.cos(turn), -math.sin(turn)
    for k in range(2, half + 1):
        a = k // 2
        b = k - a
        ar, ai, br, bi = scratch[a, 0], scratch[a, 1], scratch[b, 0], scratch[b, 1]
        scratch[k, 0] = ar * br - ai * bi
        scratch[k, 1] = ar * bi + ai * br
    for k in range(half + 1):
        if 2 * k < n:
            at = place[k]
            re[at] = scratch[k, 0]
            im[at] = scratch[k, 1]
        if k > 0:
            at = place[n - k]
            re[at] = scratch[k, 0]
            im[at] = -scratch[k, 1]


@compile_kernel
@no_type_check
def locate_planes(workspace, n_slices, n_modes, layout):
    """Where things lie in a workspace: see `model_batch`."""
    height, width, _, step, back = layout
    space = height * step
    plane = width * back
    incident = address(workspace)
    far = advance(incident, 2 * n_slices * n_modes * space)
    beam = advance(far, 2 * n_modes * plane)
    slope = advance(beam, 2 * n_modes * plane)
    work = advance(slope, 2 * n_modes * plane)
    strip = advance(work, 2 * space)
    seen = advance(strip, 2 * max(height, width) * layout[2])
    return incident, far, beam, slope, work, strip, seen


@compile_kernel
@no_type_check
def clear_slopes(slope, n_modes, layout):
    """Make the spectra of modes, or gradients of them, zero."""
    _, width, lanes, _, back = layout
    for at in range(0, 2 * n_modes * width * back, lanes):
        store(slope, at, fill_like(slope, 0.0))


@compile_kernel
@no_type_check
def begin_batch(planes, modes, n_modes, layout, down, right):
    """Spectra of the modes, and no gradient of them yet."""
    _, _, beam, slope, work, _, _ = planes
    _transform_modes(modes, n_modes, work, beam, layout, down, right)
    clear_slopes(slope, n_modes, layout)


@compile_kernel
@no_type_check
def end_batch(planes, modes, n_modes, layout, down, right):
    """Gradient of the modes."""
    _gather_modes(planes[3], n_modes, planes[4], modes, layout, down, right)


@compile_kernel
@no_type_check
def spread_wave(planes, k, numbers, ramps, transmission, starts, row, flights, layout, down, right):
    """A mode through all slices, and the first half of its last transform; see `model_pattern`."""
    height, width, _, step, back = layout
    n_slices, n_modes = numbers
    incident, far, beam, _, _, strip, _ = planes
    space = height * step
    plane = width * back
    wave = advance(far, 2 * k * plane)
    mode = advance(beam, 2 * k * plane)
    rows = ramps[0], ramps[1]
    columns = ramps[2], ramps[3]
    _light_window(mode, rows, columns, strip, advance(incident, 2 * k * space), layout, right)
    for s in range(n_slices):
        here = advance(incident, 2 * (s * n_modes + k) * space)
        window = advance(transmission, 2 * pick(starts[0], s * starts[1]))
        _pass_slice(here, window, 2 * row, strip, wave, layout, down)
        if s < n_slices - 1:
            flight = advance(flights[0], s * plane), advance(flights[1], s * plane)
            _fly(wave, flight, advance(here, 2 * n_modes * space), layout, right, True)


@compile_kernel
@no_type_check
def model_pattern(
    planes,
    numbers,
    ramps,
    turn,
    transmission,
    starts,
    row,
    flights,
    seen,
    weight,
    fields,
    noise,
    sink,
    sinks,
    of_dark,
    wanted,
    layout,
    down,
    right,
):
    """One pattern of `model_batch`: its misfit, and the slopes of its weight and along its shift.

    Args:
        planes: see `locate_planes`.
        numbers: of slices and modes.
        ramps: real and imaginary parts along rows and columns.
        turn: ``2 pi`` times cycles per pixel of rows and columns.
        transmission: of the object.
        starts: first pixel of the window in each slice, and places from one to the next.
        row: pixels to the next row.
        flights: real and imaginary parts.
        seen: counts, pixels strip by strip of a plane.
        weight: of the pattern.
        fields: flat field, background and mask.
        noise: kind, floor and limit, and the share of the misfit that gradients are of.
        sink: field and sign of imaginary parts; pixels to the next row.
        sinks: as ``starts``.
        of_dark: gradient of the background; see `model_batch`.
        wanted: see `model_batch`.
        layout: see `model_batch`.
        down: transform along rows; see `locate_axis`.
        right: transform along columns.
    """
    height, width, _, step, back = layout
    n_slices, n_modes = numbers
    incident, far, beam, slope, work, _, _ = planes
    space = height * step
    plane = width * back
    of_object, of_beam, _ = wanted
    rows = ramps[0], ramps[1]
    columns = ramps[2], ramps[3]
    for k in range(n_modes):
        spread_wave(planes, k, numbers, ramps, transmission, starts, row, flights, layout, down, right)
    misfit, of_weight = _meet_detector(
        far, work, seen, n_modes, weight, fields, of_dark, noise, layout, wanted, right
    )
    along_y = 0.0
    along_x = 0.0
    if of_object or of_beam:
        for k in range(n_modes):
            wave = advance(far, 2 * k * plane)
            if n_modes > 1:
                _turn_back(wave, work, layout)
            for s in range(n_slices - 1, -1, -1):
                here = advance(incident, 2 * (s * n_modes + k) * space)
                window = advance(transmission, 2 * pick(starts[0], s * starts[1]))
                into = sink[0], pick(sinks[0], s * sinks[1]), sink[2], sink[1]
                _leave_slice(work, here, window, 2 * row, into, of_object, wave, layout, down)
                if s:
                    flight = advance(flights[0], (s - 1) * plane), advance(flights[1], (s - 1) * plane)
                    _fly(wave, flight, work, layout, right, False)
            if of_beam:
                mode = advance(beam, 2 * k * plane)
                tilt = _leave_beam(
                    wave, mode, rows, columns, advance(slope, 2 * k * plane), turn, layout, right
                )
                along_y += tilt[0]
                along_x += tilt[1]
    return misfit, of_weight, along_y, along_x


@compile_kernel
@no_type_check
def model_batch(
    axes,
    layout,
    places,
    workspace,
    ramps,
    modes,
    rest,
    frequencies,
    transmission,
    windows,
    flights,
    data,
    noise,
    sink,
    gradients,
    wanted,
):
    """Misfit of a batch, and its gradients where they are wanted.

    Args:
        axes: a `TransformAxis` without its order, for rows and for columns.
        layout: height and width of windows, lanes, numbers from row to row of a plane in real and in
            reciprocal space.
        places: row of each frequency ``0 ... n - 1``, along rows and columns.
        workspace: incident waves ``(slice, mode)``, far waves, modes, gradients of modes, one wave in real
            space, a strip, counts of a pattern.
        ramps: room for real and imaginary parts along rows and columns.
        modes: ``(mode, y, x)``; real and imaginary parts of complex numbers are in turn, here and below.
        rest: ``(pattern, 2)`` shifts of the modes, pixels.
        frequencies: of rows and of columns, ``2 pi`` times cycles per pixel.
        transmission: of the object.
        windows: in it, the first pixel ``(slice, pattern)`` and pixels to the next row ``(pattern,)``.
        flights: real and imaginary parts of kernels ``(gap, plane)`` over the number of pixels.
        data: counts ``(pattern, pixel)``, the pixel at each place of the strips of a plane, weights;
            flat field, background and mask in the order of a plane, without any numbers where they are one,
            zero and one.
        noise: kind, floor and limit.
        sink: field, windows in it and sign of the imaginary part of the derivative of the transmission.
        gradients: of modes, shifts, weights and background (in the order of a plane).
        wanted: of the transmission; of modes or shifts; of weights or background.
    """
    height, width, _, _, _ = layout
    down = locate_axis(*axes[0])
    right = locate_axis(*axes[1])
    counts, place, weight, flat, dark, mask = data
    n_slices, n_patterns = windows[0].shape
    n_modes = modes.shape[0]
    planes = locate_planes(workspace, n_slices, n_modes, layout)
    seen = planes[6]
    begin_batch(planes, address(modes), n_modes, layout, down, right)
    at_ramps = address(ramps[0]), address(ramps[1]), address(ramps[2]), address(ramps[3])
    turn = address(frequencies[0]), address(frequencies[1])
    total = 0.0
    for i in range(n_patterns):
        fill_ramp(rest[i, 0], places[0], height, ramps[0], ramps[1])
        fill_ramp(rest[i, 1], places[1], width, ramps[2], ramps[3])
        for at in range(height * width):
            put(seen, at, counts[i, place[at]])
        misfit, of_weight, along_y, along_x = model_pattern(
            planes,
            (n_slices, n_modes),
            at_ramps,
            turn,
            address(transmission),
            (advance(address(windows[0]), i), n_patterns),
            windows[1][i],
            (address(flights[0]), address(flights[1])),
            seen,
            weight[i],
            (flat, dark, mask),
            (noise[0], noise[1], noise[2], 1.0),
            (address(sink[0]), sink[3], sink[2][i]),
            (advance(address(sink[1]), i), n_patterns),
            gradients[3],
            wanted,
            layout,
            down,
            right,
        )
        total += misfit
        gradients[2][i] = of_weight
        gradients[1][i, 0] = along_y
        gradients[1][i, 1] = along_x
    if wanted[1]:
        end_batch(planes, address(gradients[0]), n_modes, layout, down, right)
    return total
