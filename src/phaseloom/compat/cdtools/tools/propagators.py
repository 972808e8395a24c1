"""CDTools' ``tools.propagators``: unitary far fields centred in their windows, near fields by a kernel.

Windows are (y, x); lengths are in one unit; further arguments are those of `torch.Tensor.to`.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from phaseloom.compat.cdtools.tools._shared import missing, tensor, to_numpy, window_of
from phaseloom.physics.fourier import shift_to_centre, shift_to_corner, to_real, to_reciprocal
from phaseloom.physics.propagate import fly, tilted_plane_kernel

__all__ = [
    "far_field",
    "generate_angular_spectrum_propagator",
    "generate_generalized_angular_spectrum_propagator",
    "generate_high_NA_k_intensity_map",
    "high_NA_far_field",
    "inverse_far_field",
    "inverse_near_field",
    "near_field",
]

__getattr__ = missing("propagators", __all__)


def far_field(wavefront: Tensor) -> Tensor:
    """Wave ``(..., y, x)`` on a distant detector, zero frequency at ``[N // 2, N // 2]``; unitary."""
    return shift_to_centre(to_reciprocal(shift_to_corner(wavefront)))


def inverse_far_field(wavefront: Tensor) -> Tensor:
    """The wave whose `far_field` this is."""
    return shift_to_centre(to_real(shift_to_corner(wavefront)))


def near_field(wavefront: Tensor, angular_spectrum_propagator: Tensor) -> Tensor:
    """A wave ``(..., y, x)`` after free propagation with a kernel."""
    return fly(wavefront, angular_spectrum_propagator)


def inverse_near_field(wavefront: Tensor, angular_spectrum_propagator: Tensor) -> Tensor:
    """A wave propagated back: `near_field` with the conjugate kernel, so what decayed stays decayed."""
    return fly(wavefront, angular_spectrum_propagator.conj())


def generate_angular_spectrum_propagator(
    shape: Any,
    spacing: Any,
    wavelength: Any,
    z: Any,
    *args: Any,
    bandlimit: float | None = None,
    **kwargs: Any,
) -> Tensor:
    """Kernel of free propagation over ``z``, the carrier dropped, zero frequency in the corner.

    A negative ``z`` propagates back, and evanescent waves decay all the same; ``bandlimit`` cuts frequencies
    beyond this part of the highest on each axis, within an ellipse. Computed in float64 (the formula of
    `phaseloom.physics.propagate.angular_spectrum`), complex64 by default. Gradients flow to ``spacing`` (y,
    x), ``wavelength`` and ``z``.
    """
    window = window_of(shape)
    y_step, x_step = (tensor(step).double().reshape(()) for step in spacing)
    distance = tensor(z).double().reshape(())
    wave = tensor(wavelength).double().reshape(())
    cycles = [torch.fft.fftfreq(n, dtype=torch.float64, device=distance.device) for n in window]
    sine = wave**2 * ((cycles[0] / y_step)[:, None] ** 2 + (cycles[1] / x_step) ** 2)
    k = 2 * math.pi / wave
    # The root has no gradient at zero, so it is taken only of what is above it.
    inside = sine < 1
    cosine = torch.where(inside, torch.where(inside, 1 - sine, 1.0).sqrt(), 0.0)
    phase = -distance * k * torch.where(inside, sine / (cosine + 1), 1.0)
    decay = torch.where(inside, 0.0, torch.where(inside, 1.0, sine - 1).sqrt())
    kernel = torch.polar(torch.exp(-distance.abs() * k * decay), phase)
    if bandlimit is not None:
        limits = [freqs / freqs.max() for freqs in cycles]
        kernel = kernel * (torch.hypot(limits[0][:, None], limits[1]) < bandlimit)
    wide = any(kind in (torch.complex128, torch.float64) for kind in (*args, *kwargs.values()))
    return (kernel if wide else kernel.to(torch.complex64)).to(*args, **kwargs)


def generate_generalized_angular_spectrum_propagator(
    shape: Any,
    basis: Any,
    wavelength: Any,
    offset_vector: Any,
    *args: Any,
    propagation_vector: Any = None,
    propagate_along_offset: bool = False,
    **kwargs: Any,
) -> Tensor:
    """Kernel between parallel planes of any tilt: `phaseloom.physics.tilted_propagation.oblique`.

    ``basis`` ``(xyz, 2)`` is that of the planes, its precision that of the kernel; ``offset_vector`` (x, y,
    z) leads from grid to grid. The carrier runs along ``propagation_vector`` (default: the normal on the side
    of the offset) or, with ``propagate_along_offset``, along the offset. An offset in the plane is allowed,
    too, where CDTools loses the direction of propagation.
    """
    grid = tensor(basis)
    offset = tensor(offset_vector).to(grid)
    along = offset if propagate_along_offset else propagation_vector
    direction = None if along is None else tensor(along).to(grid)
    return tilted_plane_kernel(window_of(shape), grid, float(wavelength), offset, direction).to(
        *args, **kwargs
    )


def generate_high_NA_k_intensity_map(
    sample_basis: Any,
    det_basis: Any,
    det_shape: Any,
    distance: Any,
    wavelength: Any,
    *args: Any,
    lens: bool = False,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Where each pixel of a detector lies in the far field, and its share of light, for `high_NA_far_field`.

    The middle of the detector lies against the cross product of its steps, as in CDTools. Built-in models use
    `phaseloom.physics.tilted_planes`, whose interpolation is exact.

    Returns:
        Places ``(y, x, 2)`` as (column, row) from -1 to 1 across the window, and shares ``(y, x)`` of the
        light of a spherical wave; one behind a ``lens``, whose pixels obey the sine condition.
    """
    steps = to_numpy(det_basis).astype(float)
    normal = -np.cross(steps[:, 0], steps[:, 1])
    normal = normal / np.linalg.norm(normal)
    away = float(to_numpy(distance).ravel()[0]) if np.ndim(to_numpy(distance)) else float(distance)
    offsets = [np.arange(n) - (n - 1) / 2 for n in window_of(det_shape)]
    across = np.stack(np.meshgrid(*offsets, indexing="ij"), -1) @ steps.T
    along = np.sqrt(away**2 - np.sum(across**2, -1)) if lens else np.full(across.shape[:-1], away)
    place = across + along[..., None] * normal
    length = np.linalg.norm(place, axis=-1)
    direction = place / length[..., None]
    share = np.ones(length.shape) if lens else (direction @ normal) * (length.min() / length) ** 2
    places = 2 * (direction - normal) @ to_numpy(sample_basis).astype(float)[:, ::-1] / float(wavelength)
    found = (torch.as_tensor(part, dtype=torch.float32).to(*args, **kwargs) for part in (places, share))
    k_map, intensity_map = found
    return k_map, intensity_map


def high_NA_far_field(wavefront: Tensor, k_map: Tensor, intensity_map: Tensor | None = None) -> Tensor:
    """`far_field` of waves ``(..., y, x)`` at the places of a map, linear between pixels, zero beyond."""
    waves = far_field(wavefront)
    stack = waves.reshape(1, -1, *waves.shape[-2:])
    real, imaginary = (
        grid_sample(part, k_map[None].to(part), mode="bilinear", padding_mode="zeros", align_corners=False)
        for part in (stack.real, stack.imag)
    )
    found = torch.complex(real, imaginary).reshape(*waves.shape[:-2], *k_map.shape[:2])
    return found if intensity_map is None else found * intensity_map
