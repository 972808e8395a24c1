"""Samples and detectors that are not perpendicular to the beam, and detectors that are not small.

The beam travels along ``+z``. The sample is a plane with the unit normal ``n``; the detector has unit
vectors of rows and columns, the columns of a table ``basis`` ``(3, 2)``, and is seen from the sample in
the direction ``o = columns x rows``, so that ``o = z`` for rows along ``-y`` and columns along ``-x``.
A wave that falls on the sample is ``exp(i k z)``, times what a model knows; one that leaves it is
``exp(i k o.r)`` times the same. Lengths are in angstrom. `docs/geometry.md` has the derivations.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Complex, Float, Int, Shaped
from torch import Tensor

from phaseloom.errors import BadInput
from phaseloom.physics.propagate import flight_phase_and_decay

__all__ = [
    "PIXEL_OVERSAMPLING",
    "Numbers",
    "ewald",
    "grid_steps",
    "interpolation",
    "mirror_normal",
    "outgoing_direction",
    "project_beam",
    "remap_pixels",
    "restore_beam",
    "tilted_kernel",
]

BEAM_DIRECTION = np.array([0.0, 0.0, 1.0])
"""Direction in which the beam travels."""

MIN_GRAZING_SINE = 1e-3
"""Sine of the angle between a direction and the surface below which nothing is projected."""

Numbers = Sequence[Any] | np.ndarray
"""A vector, or a table in rows."""


def outgoing_direction(basis: Numbers, /) -> Float[np.ndarray, "3"]:
    """Direction from the sample to the middle of a detector.

    Example:
        >>> outgoing_direction([[0, -1], [-1, 0], [0, 0]]).tolist()
        [0.0, 0.0, 1.0]
    """
    rows, columns = np.asarray(basis, np.float64).T
    across = np.cross(columns, rows)
    return across / np.linalg.norm(across) + 0.0


def mirror_normal(basis: Numbers, /) -> Float[np.ndarray, "3"]:
    """Normal of the surface that reflects the beam into the middle of a detector, downstream.

    Raises:
        BadInput: the detector is in the beam.

    Example:
        >>> mirror_normal([[0, 0], [-1, 0], [0, 1]]).round(4).tolist()
        [-0.7071, 0.0, 0.7071]
    """
    normal = BEAM_DIRECTION - outgoing_direction(basis)
    if np.linalg.norm(normal) < MIN_GRAZING_SINE:
        raise BadInput("geometry.basis", None, "puts the detector in the beam: nothing is reflected there")
    return normal / np.linalg.norm(normal)


def grid_steps(basis: Numbers, pixel: tuple[float, float], normal: Numbers, /) -> Float[np.ndarray, "3 2"]:
    """Steps of rows and columns of the object's grid on the surface, angstrom.

    The grid conjugate to the detector lies across the outgoing direction, its pixels ``wavelength /
    (number x angle)`` wide; seen from the detector, the one on the surface looks the same.

    Raises:
        BadInput: the detector sees the surface from its edge.

    Example:
        >>> grid_steps([[0, -1], [-1, 0], [0, 0]], (2.0, 1.0), (0, 0.6, 0.8)).round(3).T.tolist()
        [[0.0, -2.0, 1.5], [-1.0, 0.0, 0.0]]
    """
    across = np.linalg.pinv(np.asarray(basis, np.float64)).T * np.asarray(pixel)
    return (
        _project_along(
            across.T, outgoing_direction(basis), np.asarray(normal, np.float64), "geometry.basis"
        ).T
        + 0.0
    )


def project_beam(
    beam: Float[np.ndarray, "n 3"], basis: Numbers, normal: Numbers, /
) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, " n"]]:
    """Where beams meet the surface, and how far before that their optics stand.

    Args:
        beam: motion of the beam against the sample (x, y, z), angstrom.
        basis: unit vectors of the detector's rows and columns.
        normal: of the surface.

    Returns:
        Positions (row, column) as the detector sees them, one pixel per step of the grid of `grid_steps`, and
        heights: the beam's wave on the surface is that of its middle flown by ``-height``. For a sample
        across the beam these are the projections on ``basis`` and ``z``.

    Raises:
        BadInput: the beam runs along the surface.

    Example:
        >>> there = project_beam(np.array([[0.0, -3.0, 1.0]]), [[0, -1], [-1, 0], [0, 0]], (0, 0.6, 0.8))
        >>> [one.round(3).tolist() for one in there]
        [[[3.0, 0.0]], [-1.25]]
    """
    table = np.asarray(basis, np.float64)
    if tuple(normal) == (0, 0, 1):
        return beam @ table, beam[:, 2]
    there = _project_along(beam, BEAM_DIRECTION, np.asarray(normal, np.float64), "geometry.normal")
    return there @ table, (beam - there)[:, 2]


def restore_beam(
    positions: Float[np.ndarray, "n 2"],
    heights: Float[np.ndarray, " n"],
    basis: Numbers,
    normal: Numbers,
    /,
) -> Float[np.ndarray, "n 3"]:
    """Inverse of `project_beam`: motion of the beam against the sample (x, y, z).

    Example:
        >>> frame = [[0, -1], [-1, 0], [0, 0]], (0, 0.6, 0.8)
        >>> restore_beam(np.array([[3.0, 0.0]]), np.array([-1.25]), *frame).round(3).tolist()
        [[0.0, -3.0, 1.0]]
    """
    rows = np.asarray(basis, np.float64).T
    if tuple(normal) == (0, 0, 1):
        return np.linalg.solve(np.vstack([rows, BEAM_DIRECTION]), np.column_stack([positions, heights]).T).T
    there = np.column_stack([positions, np.zeros(len(positions))])
    return np.linalg.solve(np.vstack([rows, normal]), there.T).T + heights[:, None] * BEAM_DIRECTION + 0.0


def _project_along(points: np.ndarray, direction: np.ndarray, normal: np.ndarray, place: str) -> np.ndarray:
    """Points moved along a direction onto the plane through the origin."""
    sine = float(normal @ direction)
    if abs(sine) < MIN_GRAZING_SINE:
        fix = f"runs along the surface with the normal {normal.round(4).tolist()}: nothing can be projected"
        raise BadInput(place, direction.round(4).tolist(), fix)
    return points - np.outer(points @ normal / sine, direction)


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
    table = np.asarray(basis, np.float64)
    front = outgoing_direction(basis)
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
