"""Newton steps with momentum, batch after batch, in one compiled call: model, compare, go back, and move.

The steps are those of `phaseloom.ptycho.newton.steps` under `phaseloom.fitting.newton.GaussNewton`; pixels
of the object move inside the rectangle of their batch alone, as they do there.

The cache of numba looks at the file of a kernel alone: raise `STEPS_VERSION` when another one changes.
"""

import math
from typing import no_type_check

import numpy as np

from phaseloom.physics.engine.kernels import (
    COMPLEX,
    NOTHING,
    REAL,
    begin_batch,
    clear_slopes,
    end_batch,
    fill_ramp,
    locate_planes,
    model_pattern,
)
from phaseloom.physics.engine.lanes import (
    add_up,
    address,
    advance,
    fill,
    fill_like,
    load,
    load_imag,
    load_real,
    maximum,
    pick,
    put,
    root,
    store_pair,
)
from phaseloom.physics.engine.lens import fill_pupil, slope_of_pupil
from phaseloom.physics.engine.transforms import locate_axis
from phaseloom.physics.fused_kernels import compile_kernel

__all__ = ["place_batch", "step_batches"]

STEPS_VERSION = 4


@compile_kernel
@no_type_check
def _move_lanes(value, gradient, velocity, wide, lone, rate, pull, again, at):
    """Move complex pixels from ``at`` on; their gradients become zero. Returns the sum of these."""
    gr, gi = load_real(gradient, 2 * at), load_imag(gradient, 2 * at)
    vr, vi = load_real(velocity, 2 * at), load_imag(velocity, 2 * at)
    wr, wi = load_real(value, 2 * at), load_imag(value, 2 * at)
    zero = fill_like(value, 0.0)
    inverse = fill_like(value, 1.0) / maximum(load(wide, at) * fill(rate), fill(lone))
    sr, si = gr * inverse, gi * inverse
    if pull != 0.0:
        modulus = maximum(root(wr * wr + wi * wi), fill_like(value, 1e-30))
        sr = sr + fill(pull) * (wr - wr / modulus)
        si = si + fill(pull) * (wi - wi / modulus)
    vr, vi = fill(again) * vr - sr, fill(again) * vi - si
    store_pair(velocity, 2 * at, vr, vi)
    store_pair(value, 2 * at, wr - sr + fill(again) * vr, wi - si + fill(again) * vi)
    store_pair(gradient, 2 * at, zero, zero)
    return gr + gi


@compile_kernel
@no_type_check
def _move_pixels(arrays, knobs, box, shape, lanes, scratch):
    """Move the pixels of a rectangle in all slices; returns the sum of their gradients.

    The last pixels of a row, fewer than a vector, are moved in a place of their own.
    """
    value, gradient, velocity, wide, lone = arrays
    rate, share, pull, again = knobs
    slices, height, width = shape
    side, more, speed = scratch, advance(scratch, 2 * lanes), advance(scratch, 4 * lanes)
    bend = advance(scratch, 6 * lanes)
    total = fill_like(value, 0.0)
    for s in range(slices):
        alone = pick(lone, s) * share
        for y in range(box[0], box[1]):
            first = (s * height + y) * width + box[2]
            last = first + box[3] - box[2]
            at = first
            while at + lanes <= last:
                total = total + _move_lanes(value, gradient, velocity, wide, alone, rate, pull, again, at)
                at += lanes
            rest = last - at
            if rest:
                for j in range(2 * rest):
                    put(side, j, pick(value, 2 * at + j))
                    put(more, j, pick(gradient, 2 * at + j))
                    put(speed, j, pick(velocity, 2 * at + j))
                for j in range(rest):
                    put(bend, j, pick(wide, at + j))
                total = total + _move_lanes(side, more, speed, bend, alone, rate, pull, again, 0)
                for j in range(2 * rest):
                    put(value, 2 * at + j, pick(side, j))
                    put(velocity, 2 * at + j, pick(speed, j))
                    put(gradient, 2 * at + j, pick(more, j))
    return add_up(total)


@compile_kernel
@no_type_check
def _move_phases(arrays, glass, knobs, box, shape):
    """Move the phases of a rectangle in all slices, and make their transmission anew.

    Returns the sum of their gradients, which become zero.
    """
    value, gradient, velocity, wide, lone = arrays
    rate, share, again = knobs
    slices, height, width = shape
    total = value.dtype.type(0)
    for s in range(slices):
        alone = lone[s] * share
        for y in range(box[0], box[1]):
            first = (s * height + y) * width + box[2]
            last = first + box[3] - box[2]
            for at in range(first, last):
                slope = gradient[at]
                total += slope
                step = slope / max(wide[at] * rate, alone)
                velocity[at] = again * velocity[at] - step
                value[at] = value[at] - step + again * velocity[at]
                gradient[at] = 0
            for at in range(first, last):
                glass[2 * at] = np.cos(value[at])
                glass[2 * at + 1] = np.sin(value[at])
    return total


@compile_kernel
@no_type_check
def _move_numbers(value, gradient, velocity, scale, share, again):
    """Numbers that bend alike, ``scale`` to one of what the gradient is of; returns its sum."""
    total = gradient.dtype.type(0)
    for j in range(len(value)):
        slope = scale * gradient[j]
        total += slope
        step = slope * share
        velocity[j] = again * velocity[j] - step
        value[j] = value[j] - step + again * velocity[j]
    return total


@compile_kernel
@no_type_check
def place_batch(batch, positions, corners, rests):
    """Corners of the windows of a batch and remaining shifts; see `phaseloom.ptycho.scans.Positions`."""
    offsets, arm, fixed, turn, affine, reach, unit, half, room = positions
    for i in range(len(batch)):
        n = batch[i]
        for a in range(2):
            place = fixed[n, a] + unit * offsets[n, a]
            for b in range(2):
                place += (turn[a, b] + affine[a, b] / reach) * arm[n, b]
            corner = min(max(int(np.rint(place)) - half[a], 0), room[a])
            corners[i, a] = corner
            rests[i, a] = place - (corner + half[a])


@compile_kernel
@no_type_check
def _bound_windows(corners, count, window, box):
    """The rectangle that holds all windows; whether it is no larger than they are together."""
    for a in range(2):
        box[2 * a] = corners[0, a]
        box[2 * a + 1] = corners[0, a]
        for i in range(count):
            box[2 * a] = min(box[2 * a], corners[i, a])
            box[2 * a + 1] = max(box[2 * a + 1], corners[i, a])
        box[2 * a + 1] += window[a]
    return (box[1] - box[0]) * (box[3] - box[2]) <= count * window[0] * window[1]


@compile_kernel
@no_type_check
def _move_positions(batch, slopes, offsets, rule, unit, most):
    """Each pattern's own shift; returns the sum of gradients."""
    inverse, centre, strength, share = rule
    total = 0.0
    for i in range(len(batch)):
        n = batch[i]
        y, x = unit * slopes[i, 0], unit * slopes[i, 1]
        total += y + x
        if strength != 0.0 and (y != 0.0 or x != 0.0):
            y += (offsets[n, 0] - centre[n, 0]) * strength
            x += (offsets[n, 1] - centre[n, 1]) * strength
        for a in range(2):
            move = share * (inverse[n, a, 0] * y + inverse[n, a, 1] * x)
            offsets[n, a] -= min(max(move, -most), most)
    return total


@compile_kernel
@no_type_check
def _slope_of_map(batch, slopes, arm, gradient, reach):
    """Gradient of the affine map of all positions, ``(4,)``."""
    gradient[:] = 0.0
    for i in range(len(batch)):
        for a in range(2):
            for b in range(2):
                gradient[2 * a + b] += slopes[i, a] * arm[batch[i], b] / reach


@compile_kernel
@no_type_check
def _turn_map(turned, turn, stretch, reach, aspect):
    """Rotation and scale as a map; see `phaseloom.ptycho.scans`."""
    angle = turn[0] / reach
    factor = 1.0 + stretch[0] / reach
    c, s = factor * math.cos(angle), factor * math.sin(angle)
    turned[0, 0] = c
    turned[0, 1] = -s * aspect
    turned[1, 0] = s / aspect
    turned[1, 1] = c


@compile_kernel
@no_type_check
def _slope_of_turn(of_map, turn, stretch, reach, aspect):
    """Slopes along rotation and scale, from that along the affine map."""
    angle = turn[0] / reach
    factor = 1.0 + stretch[0] / reach
    c, s = math.cos(angle), math.sin(angle)
    same = of_map[0] + of_map[3]
    across = of_map[2] / aspect - of_map[1] * aspect
    return factor * (c * across - s * same), c * same + s * across


@compile_kernel
@no_type_check
def _move_few(value, gradient, velocity, inverse, rate, again, most):
    """Numbers that hang together; returns the sum of their gradients."""
    total = 0.0
    for k in range(len(value)):
        total += gradient[k]
        move = 0.0
        for j in range(len(value)):
            move += inverse[k, j] * gradient[j]
        move = min(max(rate * move, -most), most)
        velocity[k] = again * velocity[k] - move
        value[k] += again * velocity[k] - move
    return total


@compile_kernel
@no_type_check
def step_batches(
    axes,
    layout,
    places,
    workspace,
    ramps,
    frequencies,
    flights,
    detector,
    noise,
    wave,
    probe,
    lens,
    positions,
    rules,
    most,
    knobs,
    index,
    first,
    data,
    found,
    span,
    boxes,
):
    """Do one batch after the other, up to one whose windows do not share a rectangle; returns its place.

    Args:
        axes: see `model_batch`.
        layout: see `model_batch`.
        places: see `model_batch`.
        workspace: see `model_batch`.
        ramps: see `model_batch`.
        frequencies: see `model_batch`.
        flights: see `model_batch`.
        detector: weights of all patterns; flat field, background and mask as of `model_batch`.
        noise: kind, floor and limit, and what shot noise leaves of a pattern.
        wave: numbers of the object, gradient of them (zero) and velocity, all as real numbers; curvatures of
            pixels and of single patterns; its shape ``(slice, y, x)``; its transmission, which is the numbers
            themselves, or made of phases; whether they are phases.
        probe: numbers of the modes, gradient and velocity, as real numbers; their unit; room for the modes
            ``(mode, y, x)``, as real numbers. Of a lens there are none.
        lens: see `phaseloom.physics.engine.lens.fill_pupil`; then velocities and inverse curvatures of its
            coefficients and of its root. Without any place: modes are of pixels.
        positions: own shifts of all patterns; lever arms; positions without any map; map; the affine part of
            it; its reach; unit of shifts; half a window; the last corner.
        rules: of positions: inverse curvatures, and centre of their prior; of the affine map: velocity and
            inverse curvature.
        most: longest steps of positions and of the map.
        knobs: of each batch, ``(batch, 11)``: one over the rate of pixels, their pull to one; share of the
            probe; share of positions, strength of their prior; rate of the map; momentum; rates of rotation,
            scale, coefficients and root of a lens. Parts whose first knob is not a number stand still.
        index: patterns of all batches, one after the other.
        first: where each batch begins in it, and the last one ends.
        data: counts strip by strip of a plane, and in them the row of each of ``index``.
        found: of each batch, ``(batch, 9)``, zero: the loss; sums of gradients of the object, the probe, the
            positions, the map, the rotation, the scale, coefficients and root of a lens.
        span: first batch, and the one to stop before.
        boxes: rectangles of the first batch ``(box, 4)``; without any: that of its windows.
    """
    height, width, lanes, _, _ = layout
    down = locate_axis(*axes[0])
    right = locate_axis(*axes[1])
    counts, rows = data
    weights, fields = detector
    value, gradient, velocity, wide, lone, shape, glass, phases = wave
    numbers, slopes_of_modes, speed, scale, modes = probe
    n_slices, tall, broad = shape
    n_modes = modes.shape[0]
    planes = locate_planes(workspace, n_slices, n_modes, layout)
    at_ramps = address(ramps[0]), address(ramps[1]), address(ramps[2]), address(ramps[3])
    turn = address(frequencies[0]), address(frequencies[1])
    flat_modes = modes.reshape(-1)
    box = np.zeros(4, np.int64)
    scratch = np.zeros(8 * lanes, value.dtype)
    none = np.zeros(0, value.dtype)
    kind = value.dtype.type
    window = np.array([height, width])
    layers = np.zeros(n_slices, np.int64)
    placed = positions[:9]
    turn_of_map, stretch, aspect = positions[9:]
    of_map = np.zeros(4)
    of_turn = np.zeros(1)
    of_scale = np.zeros(1)
    pupil, of_pupil = lens[:7], lens[7:]
    of_bend = np.zeros(len(pupil[5]))
    of_root = np.zeros(1)
    has_lens = len(pupil[0]) > 0
    most_number = most[1]
    if has_lens:
        clear_slopes(planes[2], n_modes, layout)
    for b in range(*span):
        batch = index[first[b] : first[b + 1]]
        size = len(batch)
        corners = np.empty((size, 2), np.int64)
        rests = np.empty((size, 2))
        place_batch(batch, placed, corners, rests)
        together = _bound_windows(corners, size, window, box)
        if not together and not len(boxes):
            return b
        moves_object = not math.isnan(knobs[b, 0])
        moves_probe = not math.isnan(knobs[b, 2])
        moves_positions = not math.isnan(knobs[b, 3])
        moves_map = not math.isnan(knobs[b, 5])
        moves_turn = not math.isnan(knobs[b, 7])
        moves_scale = not math.isnan(knobs[b, 8])
        moves_bend = not math.isnan(knobs[b, 9])
        moves_root = not math.isnan(knobs[b, 10])
        moves_beam = moves_probe or moves_bend or moves_root
        of_beam = moves_beam or moves_positions or moves_map or moves_turn or moves_scale
        wanted = (REAL if phases else COMPLEX) if moves_object else NOTHING, of_beam, False
        share = 1.0 / (size * noise[3])
        if has_lens:
            fill_pupil(planes[2], pupil, width * layout[4])
            clear_slopes(planes[3], n_modes, layout)
        else:
            for j in range(len(numbers)):
                flat_modes[j] = scale * numbers[j]
            begin_batch(planes, address(modes), n_modes, layout, down, right)
        total = 0.0
        for i in range(size):
            fill_ramp(rests[i, 0], places[0], height, ramps[0], ramps[1])
            fill_ramp(rests[i, 1], places[1], width, ramps[2], ramps[3])
            for s in range(n_slices):
                layers[s] = (s * tall + corners[i, 0]) * broad + corners[i, 1]
            misfit, _, along_y, along_x = model_pattern(
                planes,
                (n_slices, n_modes),
                at_ramps,
                turn,
                address(glass),
                (address(layers), 1),
                broad,
                (address(flights[0]), address(flights[1])),
                advance(address(counts), rows[first[b] + i] * height * width),
                weights[batch[i]],
                fields,
                (noise[0], noise[1], noise[2], share),
                (address(gradient), value.dtype.type(-1), broad),
                (address(layers), 1),
                none,
                wanted,
                layout,
                down,
                right,
            )
            total += misfit
            rests[i, 0] = along_y
            rests[i, 1] = along_x
        found[b, 0] = total * share
        again = kind(knobs[b, 6])
        if moves_object:
            some = len(boxes) if len(boxes) else 1
            for r in range(some):
                area = boxes[r] if len(boxes) else box
                if phases:
                    numbers_of = value, gradient, velocity, wide, lone
                    pace = kind(knobs[b, 0]), kind(1.0 / size), again
                    found[b, 1] += _move_phases(numbers_of, glass, pace, area, shape)
                else:
                    arrays = (
                        address(value),
                        address(gradient),
                        address(velocity),
                        address(wide),
                        address(lone),
                    )
                    rate = kind(knobs[b, 0]), kind(1.0 / size), kind(knobs[b, 1]), again
                    found[b, 1] += _move_pixels(arrays, rate, area, shape, lanes, address(scratch))
        if moves_probe:
            end_batch(planes, address(slopes_of_modes), n_modes, layout, down, right)
            share_of_probe = kind(knobs[b, 2])
            found[b, 2] = _move_numbers(numbers, slopes_of_modes, speed, scale, share_of_probe, again)
        if moves_positions:
            rule = rules[0], rules[1], knobs[b, 4], knobs[b, 3]
            found[b, 3] = _move_positions(batch, rests, positions[0], rule, positions[6], most[0])
        pace = knobs[b, 6], most_number
        if moves_map or moves_turn or moves_scale:
            _slope_of_map(batch, rests, positions[1], of_map, positions[5])
            of_turn[0], of_scale[0] = _slope_of_turn(of_map, turn_of_map, stretch, positions[5], aspect)
        if moves_map:
            flat = positions[4].reshape(-1)
            found[b, 4] = _move_few(flat, of_map, rules[2], rules[3], knobs[b, 5], *pace)
        if moves_turn:
            found[b, 5] = _move_few(turn_of_map, of_turn, rules[4], rules[5], knobs[b, 7], *pace)
        if moves_scale:
            found[b, 6] = _move_few(stretch, of_scale, rules[6], rules[7], knobs[b, 8], *pace)
        if moves_turn or moves_scale:
            _turn_map(positions[3], turn_of_map, stretch, positions[5], aspect)
        if moves_bend or moves_root:
            of_root[0] = slope_of_pupil(planes[2], planes[3], pupil, of_bend, width * layout[4])
        if moves_bend:
            found[b, 7] = _move_few(pupil[5], of_bend, of_pupil[0], of_pupil[1], knobs[b, 9], *pace)
        if moves_root:
            found[b, 8] = _move_few(pupil[6], of_root, of_pupil[2], of_pupil[3], knobs[b, 10], *pace)
    return span[1]
