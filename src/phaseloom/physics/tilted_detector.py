"""Waves on a surface that is not perpendicular to the beam, and detectors that are not small.

A wave that falls on the sample is ``exp(i k z)``, times what a model knows; one that leaves it is
``exp(i k o.r)`` times the same, with ``o`` towards the middle of the detector. For the frame see
`phaseloom.physics.tilted_sample`, for derivations `docs/geometry.md`.
"""

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Complex, Float, Int, Shaped
from torch import Tensor

from phaseloom.errors import BadInput
from phaseloom.physics.propagate import flight_phase_and_decay
from phaseloom.physics.tilted_sample import Numbers, grid_steps, outgoing_direction

__all__ = ["PIXEL_OVERSAMPLING", "ewald", "interpolation", "remap_pixels", "tilted_kernel"]

PIXEL_OVERSAMPLING = 2
"""How much finer the grid is on which waves are interpolated."""

KERNEL_SHAPE = math.pi * math.sqrt(8.2)
"""Of the kernel that interpolates, for four pixels of a grid twice as fine."""


def tilted_kernel(
    shape: tuple[int, int], grid: Float[np.ndarray, "3 2"], wavelength: float, distance: Tensor, /
) -> Complex[Tensor, "*batch y x"]:
    """Kernel of a flight along the beam, for waves that are known on an oblique grid.

    A wave ``exp(i K.r)`` of the beam, ``|K| = k``, moved along ``z`` by a distance, becomes itself times
    ``exp(i z (Kz - k))``; the grid tells the part of ``K`` that lies in its plane, relative to the beam's
    own. This is `phaseloom.physics.propagate.tilted_plane_kernel` along the beam, for many distances at once;
    on a grid across the beam it is `phaseloom.physics.propagate.angular_spectrum`.

    Args:
        shape: window (y, x).
        grid: steps of its rows and columns, angstrom; see `grid_steps`.
        wavelength: angstrom.
        distance: angstrom, any shape ``*batch``; the dtype of the kernel follows it.

    Example:
        >>> flat = grid_steps([[0, -1], [-1, 0], [0, 0]], (1.0, 1.0), (0, 0, 1))
        >>> tilted_kernel((8, 8), flat, 0.02, torch.tensor([10.0, 20.0])).shape
        torch.Size([2, 8, 8])
    """
    known = _flight_table(tuple(shape), tuple(np.asarray(grid, np.float64).ravel().tolist()), wavelength)
    turn, loss = (table.to(distance.device, distance.dtype) for table in known)
    z = distance[..., None, None]
    return torch.polar(torch.exp(-z.abs() * loss), z * turn)


def ewald(
    shape: tuple[int, int],
    angle: tuple[float, float],
    basis: Numbers,
    normal: Numbers,
    /,
    *,
    lens: bool = False,
) -> tuple[Float[np.ndarray, "y x 2"], Float[np.ndarray, "y x"]]:
    """Where each pixel of a flat detector lies on the grid of the Fourier transform, and its share of light.

    A pixel in the direction ``p`` sees the frequency ``(p - o) / wavelength`` on the surface; only near
    the middle, and on surfaces across ``o``, is that proportional to its place on the detector. A lens
    with the detector in its back focal plane obeys the sine condition instead.

    Args:
        shape: pixels (y, x).
        angle: radian per pixel (y, x) in the middle.
        basis: unit vectors of rows and columns.
        normal: of the surface.
        lens: whether the pattern is formed by a lens.

    Returns:
        Places (y, x) in pixels from zero frequency, and the intensity that a pixel gets of a spherical
        wave from the sample, relative to that in the middle: ``cos^3`` of the angle to ``o``, one behind a
        lens, zero below the horizon of the surface.

    Raises:
        BadInput: pixels at more than 90 degrees behind a lens, or a surface seen from its edge.

    Example:
        >>> places, share = ewald((4, 4), (1e-3, 1e-3), [[0, -1], [-1, 0], [0, 0]], (0, 0, 1))
        >>> places[2, 2].tolist(), places[0, 3].round(4).tolist(), share.round(4).min()
        ([0.0, 0.0], [-2.0, 1.0], np.float64(1.0))
    """
    table, front = np.asarray(basis, np.float64), outgoing_direction(basis)
    offsets = [(np.arange(n) - n // 2) * a for n, a in zip(shape, angle, strict=True)]
    across = np.stack(np.meshgrid(*offsets, indexing="ij"), -1) @ table.T
    square = (across**2).sum(-1)
    if lens and square.max() >= 1:
        raise BadInput("geometry.angle", angle, "puts pixels beyond 90 degrees, where no lens sends light")
    # o.p - 1 without cancellation, so that small angles keep their digits
    cosine = np.sqrt(1 - square) if lens else 1 / np.sqrt(1 + square)
    dip = -square / (1 + cosine) if lens else -square * cosine**2 / (1 + cosine)
    move = across * (1.0 if lens else cosine[..., None]) + dip[..., None] * front
    places = move @ grid_steps(basis, (1.0, 1.0), normal) / np.asarray(angle)
    seen = (move + front) @ np.asarray(normal, np.float64) * float(front @ np.asarray(normal)) > 0
    return places, np.where(seen, 1.0 if lens else cosine**3, 0.0)


def interpolation(
    places: Float[np.ndarray, "v u 2"], share: Float[np.ndarray, "v u"], shape: tuple[int, int], /
) -> tuple[Int[Tensor, "16 v u"], Float[Tensor, "16 v u"], Float[Tensor, "y x"]]:
    """What it takes to read the Fourier transform of a window between its frequencies.

    The window, its middle at ``[N // 2]``, is multiplied by a taper and transformed to a grid `OVERSAMPLING`
    times as fine, which is summed with the weights of a Kaiser-Bessel kernel four pixels wide; the taper is
    its inverse (Jackson et al., doi:10.1109/42.97598; width: Beatty et al.,
    doi:10.1109/TMI.2005.848376). The error is 0.1 % or so of a wave that fills the window.

    Args:
        places: (y, x) in pixels of the transform from zero frequency.
        share: of each place.
        shape: of the window.

    Returns:
        Numbers of pixels of the finer grid, zero frequency in the corner; their weights; the taper. The
        latter two in float64, for transforms that are unitary on either grid.

    Example:
        >>> from phaseloom.physics.fourier import fit_window, shift_to_corner, to_reciprocal
        >>> window = torch.zeros(1, 8, 8, dtype=torch.complex128)
        >>> window[0, 4, 5] = 1  # a pixel right of the middle
        >>> pixels, weights, taper = interpolation(np.array([[[0.0, 2.5]]]), np.ones((1, 1)), (8, 8))
        >>> fine = to_reciprocal(shift_to_corner(fit_window(window * taper, (16, 16))))
        >>> read = remap_pixels(fine, pixels, weights)
        >>> bool(abs(8 * read - np.exp(-2j * np.pi * 2.5 / 8)) < 1e-3)
        True
    """
    fine = [PIXEL_OVERSAMPLING * n for n in shape]
    low = np.floor(PIXEL_OVERSAMPLING * places)
    rows, columns = (_kernel_weights(part) for part in np.moveaxis(PIXEL_OVERSAMPLING * places - low, -1, 0))
    y, x = (low[..., axis].astype(np.int64) for axis in (0, 1))
    taps = [(i, j) for i in range(4) for j in range(4)]
    pixels = np.stack([(y + i - 1) % fine[0] * fine[1] + (x + j - 1) % fine[1] for i, j in taps])
    weights = np.stack([PIXEL_OVERSAMPLING * share * rows[i] * columns[j] for i, j in taps])
    taper = np.outer(
        *(1 / _kernel_transform((np.arange(n) - n // 2) / (PIXEL_OVERSAMPLING * n)) for n in shape)
    )
    return torch.as_tensor(pixels.astype(np.int32)), torch.as_tensor(weights), torch.as_tensor(taper)


def remap_pixels(
    known: Shaped[Tensor, "b v u"], pixels: Int[Tensor, "tap y x"], weights: Float[Tensor, "tap y x"], /
) -> Shaped[Tensor, "b y x"]:
    """Weighted sums of pixels of each pattern or wave; see `interpolation`."""
    rows = known.flatten(1).T
    flat = torch.view_as_real(rows.resolve_conj().contiguous()).flatten(1) if rows.is_complex() else rows
    places = torch.arange(pixels[0].numel(), dtype=pixels.dtype, device=pixels.device)
    ways = pixels.flatten(1).T.flatten(), places.repeat_interleave(len(pixels))
    sums = _WeightedSums.apply(flat, *ways, weights.flatten(1).T.flatten(), len(places))
    out = torch.view_as_complex(sums.view(len(sums), -1, 2)) if rows.is_complex() else sums
    return out.T.reshape(-1, *pixels.shape[1:])


class _WeightedSums(torch.autograd.Function):
    """Weighted sums of rows, each into one of ``many``; its adjoint turns the ways round."""

    @staticmethod
    def forward(known: Tensor, start: Tensor, end: Tensor, weight: Tensor, many: int) -> Tensor:
        order = end.argsort(stable=True)
        first = torch.searchsorted(end[order], torch.arange(many, dtype=end.dtype, device=end.device))
        where = start[order], known.contiguous(), first.to(start.dtype)
        return torch.nn.functional.embedding_bag(*where, mode="sum", per_sample_weights=weight[order])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        known, *ways, ctx.many = inputs
        ctx.given = len(known)
        ctx.save_for_backward(*ways)
        ctx.save_for_forward(*ways)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        start, end, weight = ctx.saved_tensors
        return _WeightedSums.apply(grads[0], end, start, weight, ctx.given), None, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _WeightedSums.apply(tangents[0], *ctx.saved_tensors, ctx.many)


@lru_cache(maxsize=16)
def _flight_table(
    shape: tuple[int, int], grid: tuple[float, ...], wavelength: float
) -> tuple[Tensor, Tensor]:
    """``Kz - k`` of each frequency of a grid, and its decay, per angstrom."""
    beam = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    table = torch.tensor(grid, dtype=torch.float64).view(3, 2)
    return flight_phase_and_decay(shape, table, wavelength, beam, beam)


def _kernel_weights(part: np.ndarray) -> list[np.ndarray]:
    """Weights of the pixels at -1, 0, 1 and 2 for a place between 0 and 1."""
    away = (part - i for i in (-1, 0, 1, 2))
    return [
        np.i0(KERNEL_SHAPE * np.sqrt(np.clip(1 - (a / 2) ** 2, 0, None))) / np.i0(KERNEL_SHAPE) for a in away
    ]


def _kernel_transform(place: np.ndarray) -> np.ndarray:
    """Fourier transform of the kernel, places in cycles per pixel."""
    root = np.sqrt(KERNEL_SHAPE**2 - (4 * math.pi * place) ** 2)
    return 4 * np.sinh(root) / root / np.i0(KERNEL_SHAPE)
