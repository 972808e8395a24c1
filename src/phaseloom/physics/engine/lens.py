"""The beam of a lens in the planes of the kernels: an aperture whose phase is a sum of few aberrations.

Its spectrum is known without a transform, and only inside the aperture.

The cache of numba looks at the file of a kernel alone: kernels that use these have a version of their own.
"""

import math
from typing import no_type_check

from phaseloom.physics.engine.lanes import pick, put
from phaseloom.physics.fused_kernels import compile_kernel

__all__ = ["fill_pupil", "slope_of_pupil"]


@compile_kernel
@no_type_check
def fill_pupil(beam, pupil, plane):
    """Write the spectrum of a mode into its plane, which is zero outside the aperture.

    Args:
        beam: real parts of the spectrum, and imaginary ones ``plane`` numbers later.
        pupil: places inside the aperture in the order of a plane ``(place,)``; amplitudes there; phases of
            one unit of each coefficient ``(name, place)``; coefficients at the start, natural sizes of their
            changes, zero where they are fixed; their changes ``(name,)``; the root of the power ``(1,)``.
        plane: numbers of a plane.
    """
    places, amplitude, bases, start, unit, bend, root = pupil
    for p in range(len(places)):
        chi = 0.0
        for j in range(len(bend)):
            chi += (start[j] + unit[j] * bend[j]) * bases[j, p]
        size = root[0] * amplitude[p]
        put(beam, places[p], amplitude.dtype.type(size * math.cos(chi)))
        put(beam, plane + places[p], amplitude.dtype.type(-size * math.sin(chi)))


@compile_kernel
@no_type_check
def slope_of_pupil(beam, slope, pupil, of_bend, plane):
    """Gradient of the changes of coefficients, from that of the spectrum; returns that of the root."""
    places, _, bases, _, unit, _, root = pupil
    of_bend[:] = 0.0
    of_root = 0.0
    for p in range(len(places)):
        at = places[p]
        re, im = pick(beam, at), pick(beam, plane + at)
        gr, gi = pick(slope, at), pick(slope, plane + at)
        of_root += gr * re - gi * im
        pull = gr * im + gi * re
        for j in range(len(of_bend)):
            of_bend[j] += unit[j] * bases[j, p] * pull
    return of_root / root[0]
