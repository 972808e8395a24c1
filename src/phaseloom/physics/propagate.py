"""Free flight of a wave: between slices, to a near detector, to a far one.

All kernels live in the Fourier domain with zero frequency in the corner and drop the carrier
``exp(i k z)``. The angular spectrum is written as ``exp(i z (kz - k))`` with
``kz - k = -q^2 / (sqrt(k^2 - q^2) + k)``, which does not cancel at small angles, so distances can be
differentiated in float32 (Goodman, Introduction to Fourier Optics, section 3.10).
"""

import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from phaseloom.physics.fourier import frequencies, to_real, to_reciprocal

__all__ = ["angular_spectrum", "far_field", "fly", "fresnel", "fresnel_scaling", "tilt_ramp"]


def fresnel(
    shape: tuple[int, int], pixel: tuple[float, float], wavelength: float, distance: Tensor, /
) -> Complex[Tensor, "*batch y x"]:
    """Paraxial kernel ``exp(-i pi wavelength z f^2)``.

    Args:
        shape: window (y, x).
        pixel: angstrom (y, x).
        wavelength: angstrom.
        distance: angstrom, any shape ``*batch``; the dtype of the kernel follows it.

    Example:
        >>> h = fresnel((8, 8), (1.0, 1.0), 0.02, torch.tensor(10.0))
        >>> h.shape, h.abs().min().item()
        (torch.Size([8, 8]), 1.0)
    """
    y, x = frequencies(shape, pixel, like=distance)
    angle = -math.pi * wavelength * distance[..., None, None] * (y**2 + x**2)
    return torch.polar(torch.ones_like(angle), angle)


def angular_spectrum(
    shape: tuple[int, int], pixel: tuple[float, float], wavelength: float, distance: Tensor, /
) -> Complex[Tensor, "*batch y x"]:
    """Exact scalar kernel ``exp(i z (kz - k))``; evanescent waves decay in either direction."""
    y, x = frequencies(shape, pixel, like=distance)
    sine = wavelength**2 * (y**2 + x**2)
    k = 2 * math.pi / wavelength
    inside = torch.sqrt(torch.clamp(1 - sine, min=0))
    z = distance[..., None, None]
    phase = -z * k * torch.where(sine < 1, sine / (inside + 1), torch.ones_like(sine))
    decay = torch.exp(-z.abs() * k * torch.sqrt(torch.clamp(sine - 1, min=0)))
    return torch.polar(decay, phase)


def tilt_ramp(
    shape: tuple[int, int], pixel: tuple[float, float], distance: Tensor, tilt: Float[Tensor, "*batch 2"], /
) -> Complex[Tensor, "*batch y x"]:
    """Factor that makes a kernel fly along a tilted axis: ``exp(2 pi i z f . tan(tilt))``.

    Columns of the object lean by ``tilt = (y, x)`` radian: after ``distance`` the next slice lies
    ``z tan(tilt)`` further along the axis, so in its frame the wave moves by the negative amount.
    """
    y, x = frequencies(shape, pixel, like=tilt)
    step = 2 * math.pi * distance[..., None] * torch.tan(tilt)
    rows, columns = step[..., :1, None] * y, step[..., 1:, None] * x
    return torch.polar(torch.ones_like(rows), rows) * torch.polar(torch.ones_like(columns), columns)


def fly(
    wave: Complex[Tensor, "*#batch y x"], kernel: Complex[Tensor, "*#batch y x"], /
) -> Complex[Tensor, "*#batch y x"]:
    """Propagate a wave with a kernel; with unit-modulus kernels no power is lost.

    Example:
        >>> spot = torch.zeros(1, 8, 8, dtype=torch.complex64)
        >>> spot[0, 4, 4] = 1
        >>> there = fly(spot, fresnel((8, 8), (1.0, 1.0), 0.5, torch.tensor(3.0))[None])
        >>> round(there.abs().square().sum().item(), 5)
        1.0
    """
    return to_real(to_reciprocal(wave) * kernel)


def far_field(wave: Complex[Tensor, "*batch y x"], /) -> Complex[Tensor, "*batch y x"]:
    """Wave on a distant detector, zero frequency in the corner."""
    return to_reciprocal(wave)


def fresnel_scaling(focus: float, distance: float, /) -> tuple[float, float]:
    """Magnification and effective distance of a cone beam seen as a parallel one.

    A point source ``focus`` before the object and a detector ``distance`` behind it give the pattern
    of a parallel beam at ``distance / M``, magnified by ``M = (focus + distance) / focus``
    (Paganin, Coherent X-Ray Optics, appendix B).

    Example:
        >>> fresnel_scaling(1.0, 3.0)
        (4.0, 0.75)
    """
    if math.isinf(focus):
        return 1.0, distance
    magnification = (focus + distance) / focus
    return magnification, distance / magnification
