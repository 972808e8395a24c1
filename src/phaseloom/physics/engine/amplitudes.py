"""Expected amplitudes of patterns, wave by wave: the experiment of `kernels` without its likelihood.

The cache of numba looks at the file of a kernel alone: raise `AMPLITUDES_VERSION` when another one changes.
"""

from typing import no_type_check

import numpy as np

from phaseloom.physics.engine.kernels import begin_batch, clear_slopes, fill_ramp, locate_planes, spread_wave
from phaseloom.physics.engine.lanes import address, advance, fill, fill_like, load, maximum, root, store
from phaseloom.physics.engine.lens import fill_pupil
from phaseloom.physics.engine.transforms import locate_axis, transform
from phaseloom.physics.fused_kernels import compile_kernel

__all__ = ["expect_amplitudes"]

AMPLITUDES_VERSION = 1


@compile_kernel
@no_type_check
def _detect(far, n_modes, weight, fields, seen, layout, y):
    """Roots of the counts that are expected in a strip of a pattern."""
    _, width, lanes, _, back = layout
    flat, dark, mask = fields
    plane = width * back
    factor = fill(weight)
    zero = fill_like(far, 0.0)
    flat_at, dark_at, mask_at = address(flat), address(dark), address(mask)
    for x in range(width):
        at = x * back + y
        light = zero
        for k in range(n_modes):
            wr, wi = load(far, 2 * k * plane + at), load(far, (2 * k + 1) * plane + at)
            light = light + wr * wr + wi * wi
        if len(flat):
            light = light * load(flat_at, at)
        light = factor * light
        if len(dark):
            light = light + load(dark_at, at)
        amplitude = root(maximum(light, zero))
        if len(mask):
            amplitude = amplitude * load(mask_at, at)
        store(seen, y * width + x * lanes, amplitude)


@compile_kernel
@no_type_check
def expect_amplitudes(
    axes,
    layout,
    places,
    workspace,
    ramps,
    glass,
    shape,
    flights,
    detector,
    modes,
    pupil,
    windows,
    out,
):
    """Fill ``out (pattern, pixel)`` with amplitudes, pixels strip by strip of a plane.

    Args:
        axes: see `phaseloom.physics.engine.kernels.model_batch`.
        layout: see there.
        places: see there.
        workspace: see there.
        ramps: see there.
        glass: transmission of the object, as real numbers.
        shape: of it, ``(slice, y, x)``.
        flights: see there.
        detector: weights of the patterns; flat field, background and mask.
        modes: ``(mode, y, x)``, as real numbers; of a lens only their shape counts.
        pupil: see `phaseloom.physics.engine.lens.fill_pupil`; without any place: modes are of pixels.
        windows: corners and remaining shifts of the patterns, ``(pattern, 2)`` each.
        out: room for the amplitudes.
    """
    height, width, lanes, _, back = layout
    down = locate_axis(*axes[0])
    right = locate_axis(*axes[1])
    weights, fields = detector
    corners, rests = windows
    n_slices, tall, broad = shape
    n_modes = modes.shape[0]
    plane = width * back
    planes = locate_planes(workspace, n_slices, n_modes, layout)
    far = planes[1]
    layers = np.zeros(n_slices, np.int64)
    at_ramps = address(ramps[0]), address(ramps[1]), address(ramps[2]), address(ramps[3])
    if len(pupil[0]):
        clear_slopes(planes[2], n_modes, layout)
        fill_pupil(planes[2], pupil, plane)
    else:
        begin_batch(planes, address(modes), n_modes, layout, down, right)
    for i in range(len(corners)):
        fill_ramp(rests[i, 0], places[0], height, ramps[0], ramps[1])
        fill_ramp(rests[i, 1], places[1], width, ramps[2], ramps[3])
        for s in range(n_slices):
            layers[s] = (s * tall + corners[i, 0]) * broad + corners[i, 1]
        for k in range(n_modes):
            spread_wave(
                planes,
                k,
                (n_slices, n_modes),
                at_ramps,
                address(glass),
                (address(layers), 1),
                broad,
                (address(flights[0]), address(flights[1])),
                layout,
                down,
                right,
            )
        seen = advance(address(out), i * height * width)
        for y in range(0, height, lanes):
            for k in range(n_modes):
                re = advance(far, 2 * k * plane)
                transform(re, advance(re, plane), y, back, right)
            _detect(far, n_modes, weights[i], fields, seen, layout, y)
