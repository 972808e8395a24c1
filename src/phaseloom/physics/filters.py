"""Filters of images and stacks: blurs in space, windows in frequency, cosines, sinc interpolation.

Pure functions of real or complex tensors of any leading axes. Frequencies are in cycles per pixel with
zero in the corner, so that a filter means the same on a square, an oblong and an odd grid.
"""

import functools
import math
from typing import Literal

import torch
from jaxtyping import Complex, Float, Inexact
from torch import Tensor

from phaseloom.physics.fourier import frequencies

__all__ = ["SINC_TAPS", "apply_window", "blur", "cosine_transform", "gaussian_kernel"]
__all__ += ["interpolate_windows", "inverse_cosine_transform", "keep_strongest", "sigmoid_window"]
__all__ += ["super_gaussian", "wedge_window"]

Edge = Literal["reflect", "replicate"]


def gaussian_kernel(taps: int, std: float, /) -> Float[Tensor, " tap"]:
    """``exp(-x^2 / 2 std^2)`` at whole pixels about the middle one, adding to one; float64.

    Example:
        >>> [round(tap, 3) for tap in gaussian_kernel(3, 0.5).tolist()]
        [0.107, 0.787, 0.107]
    """
    x = torch.arange(taps, dtype=torch.float64) - taps // 2
    kernel = torch.exp(-0.5 * (x / std).square())
    return kernel / kernel.sum()


def blur(
    field: Inexact[Tensor, "*shape"],
    /,
    axes: tuple[int, ...],
    *,
    std: float,
    taps: int,
    edge: Edge = "reflect",
) -> Inexact[Tensor, "*shape"]:
    """Gaussian blur along some axes with a kernel of ``taps`` values.

    Args:
        field: any shape; precision and gradient are kept.
        axes: blurred one after the other.
        std: of the Gaussian, pixels.
        taps: length of the kernel, odd.
        edge: beyond an edge the field goes on mirrored about its last pixel (``reflect``) or keeps the
            value of that pixel (``replicate``). Both leave a constant as it is; neither keeps the sum
            of what lies closer to an edge than half a kernel.

    Example:
        >>> spot = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0])
        >>> [round(v, 3) for v in blur(spot, (0,), std=0.5, taps=3).tolist()]
        [0.0, 0.107, 0.787, 0.107, 0.0]
    """
    kernel = gaussian_kernel(taps, std).tolist()
    for axis in axes:
        size = field.shape[axis]
        longer = field.index_select(axis, _extended_index(size, taps // 2, edge).to(field.device))
        parts = (weight * longer.narrow(axis, start, size) for start, weight in enumerate(kernel))
        field = functools.reduce(torch.add, parts)
    return field


def sigmoid_window(
    shape: tuple[int, int], /, *, radius: float, width: float, like: Tensor
) -> Float[Tensor, "y x"]:
    """Round low-pass window ``1 / (1 + exp(10 (f - radius / 2) / width))``.

    Args:
        shape: (y, x).
        radius: where it is one half, as a share of the highest frequency of an axis (1/2 per pixel).
        width: what it takes to fall from one to zero, as a share of the full band (1 per pixel).
        like: a tensor that gives precision and device.

    Example:
        >>> sigmoid_window((8, 8), radius=0.5, width=0.1, like=torch.zeros(1))[0, 2].item()
        0.5
    """
    y, x = frequencies(shape, like=like)
    return torch.sigmoid(-10 / width * (torch.hypot(*torch.broadcast_tensors(y, x)) - radius / 2))


def super_gaussian(
    shape: tuple[int, int], /, *, radius: float, order: int, like: Tensor
) -> Float[Tensor, "y x"]:
    """``exp(-(r / radius)^(2 order) / 2)``; ``r`` is 0 amid the window, 1 at the middles of its edges."""
    y, x = (
        torch.linspace(-1, 1, size, dtype=torch.float64) if size > 1 else torch.zeros(1) for size in shape
    )
    reach = torch.hypot(*torch.meshgrid(y, x, indexing="ij")) / radius
    return torch.exp(-0.5 * reach ** (2 * order)).to(like.device, like.real.dtype)


def wedge_window(
    shape: tuple[int, int, int], /, *, beta: float, alpha: float, floor: float, like: Tensor
) -> Float[Tensor, "slice y x"]:
    """Damps what varies along the beam but hardly across it, where a transmitted beam carries nothing.

    ``(1 - 2/pi atan(beta^2 kz^2 / (kx^2 + ky^2 + floor))) exp(-alpha (kx^2 + ky^2))``, all frequencies in
    cycles per pixel and per slice. Without the last factor (``alpha = 0``) it is the wedge in its
    usual form.
    """
    y, x = frequencies(shape[1:], like=like)
    z = torch.fft.fftfreq(shape[0], dtype=torch.float64)[:, None, None].to(y)
    across = y.square() + x.square()
    wedge = 1 - 2 / math.pi * torch.atan((beta * z).square() / (across + floor))
    return wedge * torch.exp(-alpha * across)


def apply_window(
    field: Inexact[Tensor, "*shape"], window: Float[Tensor, "*window"], /
) -> Inexact[Tensor, "*shape"]:
    """Multiply a field's frequencies by an even real window, over as many last axes as the window has."""
    axes = tuple(range(-window.ndim, 0))
    out = torch.fft.ifftn(torch.fft.fftn(field, dim=axes) * window, dim=axes)
    return out if field.is_complex() else out.real


def cosine_transform(
    field: Float[Tensor, "*shape"], /, axes: tuple[int, ...] = (-2, -1)
) -> Float[Tensor, "*shape"]:
    """Orthonormal cosine transform (DCT-II) along some axes: keeps the sum of squares.

    Source:
        Makhoul 1980, doi 10.1109/TASSP.1980.1163351: one Fourier transform of the reordered field.

    Example:
        >>> cosine_transform(torch.ones(4, 4))[0, 0].item()
        4.0
    """
    for axis in axes:
        field = _cosine_axis(field.movedim(axis, -1)).movedim(-1, axis)
    return field


def inverse_cosine_transform(
    coefficients: Float[Tensor, "*shape"], /, axes: tuple[int, ...] = (-2, -1)
) -> Float[Tensor, "*shape"]:
    """Inverse, and adjoint, of `cosine_transform`."""
    for axis in axes:
        coefficients = _inverse_cosine_axis(coefficients.movedim(axis, -1)).movedim(-1, axis)
    return coefficients


def keep_strongest(field: Float[Tensor, "*shape"], keep: float, /) -> Float[Tensor, "*shape"]:
    """The share ``keep`` of all values with the largest modulus; the others become zero.

    Example:
        >>> keep_strongest(torch.tensor([3.0, -5.0, 1.0, 0.5]), 0.5).tolist()
        [3.0, -5.0, 0.0, 0.0]
    """
    modulus = field.abs()
    wanted = max(1, round(keep * field.numel()))
    least = modulus.flatten().kthvalue(field.numel() - wanted + 1).values
    return torch.where(modulus >= least, field, torch.zeros_like(field))


def _extended_index(size: int, reach: int, edge: Edge) -> Tensor:
    """Indices that lengthen an axis by ``reach`` on either side, whatever its size."""
    place = torch.arange(-reach, size + reach)
    if edge == "replicate" or size == 1:
        return place.clamp(0, size - 1)
    round_trip = 2 * (size - 1)
    place = place.remainder(round_trip)
    return torch.minimum(place, round_trip - place)


def _cosine_twiddle(field: Tensor) -> tuple[Tensor, Tensor]:
    """``exp(-i pi k / 2 n)`` along the last axis, and the scale that makes the transform orthonormal."""
    size = field.shape[-1]
    angle = -math.pi / (2 * size) * torch.arange(size, dtype=torch.float64)
    scale = torch.full_like(angle, math.sqrt(2 / size))
    scale[0] = math.sqrt(1 / size)
    turn = torch.polar(torch.ones_like(angle), angle)
    return turn.to(field.device, field.dtype.to_complex()), scale.to(field)


def _cosine_axis(field: Tensor) -> Tensor:
    """Along the last axis: even places forward, odd ones backward, one Fourier transform."""
    turn, scale = _cosine_twiddle(field)
    mixed = torch.cat([field[..., ::2], field[..., 1::2].flip(-1)], dim=-1)
    return (torch.fft.fft(mixed) * turn).real * scale


def _inverse_cosine_axis(coefficients: Tensor) -> Tensor:
    """Along the last axis; the zero after the reversed part stands for coefficient ``n``."""
    turn, scale = _cosine_twiddle(coefficients)
    real = coefficients / scale
    reversed_ = torch.cat([torch.zeros_like(real[..., :1]), real[..., 1:].flip(-1)], dim=-1)
    mixed = torch.fft.ifft(torch.complex(real, -reversed_) * turn.conj()).real
    half = (mixed.shape[-1] + 1) // 2
    out = torch.empty_like(mixed)
    out[..., ::2] = mixed[..., :half]
    out[..., 1::2] = mixed[..., half:].flip(-1)
    return out


SINC_TAPS = 8
"""Pixels to either side from which one between them is interpolated."""


def interpolate_windows(
    windows: Complex[Tensor, "b *some v u"], shape: tuple[int, int], step: Float[Tensor, " b"], /
) -> Complex[Tensor, "b *some y x"]:
    """Values at steps of so many pixels, as many to either side of the middles of windows.

    A sinc under a Hann window, whose weights add to one: what varies with less than 0.4 cycles per pixel is
    kept. Nothing is averaged, so that longer steps alias what is finer than they. Differentiable in the step.

    Args:
        windows: one for each step.
        shape: of the outcome, its middle on the middle ``[n // 2]`` of the windows; nothing where it lies
            outside of them.
        step: pixels.

    Example:
        >>> ramp = torch.arange(40.0).expand(1, 40, 40) + 0j
        >>> interpolate_windows(ramp, (1, 5), torch.tensor([1.5])).real.round(decimals=2)
        tensor([[[17.0000, 18.5000, 20.0000, 21.5000, 23.0000]]])
    """
    given = (windows.shape[-2], windows.shape[-1])
    rows, columns = (_weights(n, m, step) for n, m in zip(shape, given, strict=True))
    parts = torch.view_as_real(windows.reshape(len(windows), -1, *given))
    values = torch.einsum("bvy,bsyxc->bsvxc", rows, parts)
    out = torch.view_as_complex(torch.einsum("bux,bsvxc->bsvuc", columns, values).contiguous())
    return out.reshape(*windows.shape[:-2], *shape)


def _weights(many: int, given: int, step: Float[Tensor, " b"]) -> Float[Tensor, "b many given"]:
    """Of each pixel given in each that is wanted."""
    wanted = step[:, None] * (torch.arange(many, device=step.device) - many // 2)
    away = wanted[:, :, None] - (torch.arange(given, device=step.device) - given // 2)
    hann = torch.cos(away * (math.pi / (2 * SINC_TAPS))).square()
    weight = torch.where(away.abs() < SINC_TAPS, torch.sinc(away) * hann, 0)
    return weight / weight.sum(-1, keepdim=True).clamp(min=0.5)
