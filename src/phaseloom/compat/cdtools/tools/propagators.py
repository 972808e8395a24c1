"""CDTools' ``tools.propagators``: unitary far fields centred in their windows, near fields by a kernel."""

from typing import Any

import torch
from torch import Tensor

from phaseloom.compat.cdtools.tools._shared import missing, tensor, window_of
from phaseloom.physics.fourier import centred, cornered, to_real, to_reciprocal
from phaseloom.physics.propagate import angular_spectrum, fly, oblique

__all__ = [
    "far_field",
    "generate_angular_spectrum_propagator",
    "generate_generalized_angular_spectrum_propagator",
    "inverse_far_field",
    "inverse_near_field",
    "near_field",
]

__getattr__ = missing(
    "propagators",
    __all__,
    {
        "high_NA_far_field": "use far_field and phaseloom.physics.tilted_detector.remapped",
        "generate_high_NA_k_intensity_map": "use phaseloom.physics.tilted_detector.ewald and interpolation",
    },
)


def far_field(wavefront: Tensor) -> Tensor:
    """Wave ``(..., y, x)`` on a distant detector, zero frequency at ``[N // 2, N // 2]``; unitary."""
    return centred(to_reciprocal(cornered(wavefront)))


def inverse_far_field(wavefront: Tensor) -> Tensor:
    """The wave whose `far_field` this is."""
    return centred(to_real(cornered(wavefront)))


def near_field(wavefront: Tensor, angular_spectrum_propagator: Tensor) -> Tensor:
    """A wave ``(..., y, x)`` after a free flight with a kernel."""
    return fly(wavefront, angular_spectrum_propagator)


def inverse_near_field(wavefront: Tensor, angular_spectrum_propagator: Tensor) -> Tensor:
    """A wave flown back: `near_field` with the conjugate kernel, so what decayed stays decayed."""
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
    """Kernel of a flight over ``z``, the carrier dropped, zero frequency in the corner; for `near_field`.

    Computed in float64, then brought by ``.to(*args, **kwargs)`` to what is asked for, complex64 by default.
    Gradients flow to ``z``.

    Args:
        shape: window (y, x).
        spacing: pixel (y, x).
        wavelength: in the same unit.
        z: distance; negative flies back, and evanescent waves decay all the same.
        *args: of `torch.Tensor.to`.
        bandlimit: cut frequencies beyond this part of the highest on each axis, within an ellipse.
        **kwargs: of `torch.Tensor.to`.
    """
    y, x = (float(step) for step in spacing)
    window, distance = window_of(shape), tensor(z).double()
    kernel = angular_spectrum(window, (y, x), float(wavelength), distance.reshape(()))
    if bandlimit is not None:
        rows, columns = (torch.fft.fftfreq(n, dtype=torch.float64, device=kernel.device) for n in window)
        kernel = kernel * (torch.hypot(rows[:, None] / rows.max(), columns / columns.max()) < bandlimit)
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
    """Kernel between parallel planes of any tilt whose grids are shifted:
    `phaseloom.physics.propagate`.

    An offset in the plane is allowed, too, where CDTools loses the direction of flight.

    Args:
        shape: window (y, x).
        basis: of the planes, ``(xyz, 2)``; its precision is that of the kernel.
        wavelength: in the same unit.
        offset_vector: from grid to grid, (x, y, z).
        *args: of `torch.Tensor.to`.
        propagation_vector: direction of the carrier; default: the normal on the side of the offset.
        propagate_along_offset: the carrier runs along the offset.
        **kwargs: of `torch.Tensor.to`.
    """
    grid = tensor(basis)
    offset = tensor(offset_vector).to(grid)
    along = offset if propagate_along_offset else propagation_vector
    direction = None if along is None else tensor(along).to(grid)
    return oblique(window_of(shape), grid, float(wavelength), offset, direction).to(*args, **kwargs)
