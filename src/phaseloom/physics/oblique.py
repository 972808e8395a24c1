"""Waves on a surface that is not perpendicular to the beam, and detectors that are not small.

A wave that falls on the sample is ``exp(i k z)``, times what a model knows; one that leaves it is
``exp(i k o.r)`` times the same, with ``o`` towards the middle of the detector. For the frame see
`phaseloom.physics.surface`, for derivations `docs/geometry.md`.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Complex, Float, Int, Shaped
from torch import Tensor

from phaseloom.errors import BadInput
from phaseloom.physics.surface import Numbers, outgoing, steps

__all__ = ["ewald", "interpolation", "remapped", "spectrum"]


def spectrum(
    shape: tuple[int, int], grid: Float[np.ndarray, "3 2"], wavelength: float, distance: Tensor, /
) -> Complex[Tensor, "*batch y x"]:
    """Kernel of a flight along the beam, for waves that are known on an oblique grid.

    A wave ``exp(i K.r)`` of the beam, ``|K| = k``, moved along ``z`` by a distance, becomes itself times
    ``exp(i z (Kz - k))``; the grid tells the part of ``K`` that lies in its plane, relative to the beam's
    own. On a grid across the beam this is `phaseloom.physics.propagate.angular_spectrum`.

    Args:
        shape: window (y, x).
        grid: steps of its rows and columns, angstrom; see `steps`.
        wavelength: angstrom.
        distance: angstrom, any shape ``*batch``; the dtype of the kernel follows it.

    Example:
    >>> flat = steps([[0, -1], [-1, 0], [0, 0]], (1.0, 1.0), (0, 0, 1))
        >>> spectrum((8, 8), flat, 0.02, torch.tensor([10.0, 20.0])).shape
        torch.Size([2, 8, 8])
    """
    known = _slopes(tuple(shape), tuple(np.asarray(grid, np.float64).ravel().tolist()), wavelength)
    turn, loss = (torch.as_tensor(table).to(distance.device, distance.dtype) for table in known)
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
    table, front = np.asarray(basis, np.float64), outgoing(basis)
    offsets = [(np.arange(n) - n // 2) * a for n, a in zip(shape, angle, strict=True)]
    across = np.stack(np.meshgrid(*offsets, indexing="ij"), -1) @ table.T
    square = (across**2).sum(-1)
    if lens and square.max() >= 1:
        raise BadInput("geometry.angle", angle, "puts pixels beyond 90 degrees, where no lens sends light")
    # o.p - 1 without cancellation, so that small angles keep their digits
    cosine = np.sqrt(1 - square) if lens else 1 / np.sqrt(1 + square)
    dip = -square / (1 + cosine) if lens else -square * cosine**2 / (1 + cosine)
    move = across * (1.0 if lens else cosine[..., None]) + dip[..., None] * front
    places = move @ steps(basis, (1.0, 1.0), normal) / np.asarray(angle)
    seen = (move + front) @ np.asarray(normal, np.float64) * float(front @ np.asarray(normal)) > 0
    return places, np.where(seen, 1.0 if lens else cosine**3, 0.0)


def interpolation(
    places: Float[np.ndarray, "y x 2"], share: Float[np.ndarray, "y x"], shape: tuple[int, int], /
) -> tuple[Int[Tensor, "16 y x"], Float[Tensor, "16 y x"]]:
    """What `remapped` needs to read patterns or waves at places, times shares.

    The interpolation is cubic (Keys, doi:10.1109/TASSP.1981.1163711), exact for parabolas, and takes what is
    read to be periodic.

    Args:
        places: (y, x) in pixels from zero frequency.
        share: of each place.
        shape: pixels of what is read, zero frequency in the corner.

    Returns:
        Numbers of pixels, and their weights in float64.

    Example:
        >>> places = np.array([[[0.0, 0.0], [0.0, 1.5]]])
        >>> pixels, weights = interpolation(places, np.ones((1, 2)), (4, 4))
        >>> remapped(torch.arange(4.0, dtype=torch.float64).repeat(1, 4, 1), pixels, weights).tolist()
        [[[0.0, 1.5]]]
    """
    low = np.floor(places)
    rows, columns = (_cubic(part) for part in np.moveaxis(places - low, -1, 0))
    y, x = (low[..., axis].astype(np.int64) for axis in (0, 1))
    taps = [(i, j) for i in range(4) for j in range(4)]
    pixels = np.stack([(y + i - 1) % shape[0] * shape[1] + (x + j - 1) % shape[1] for i, j in taps])
    weights = np.stack([share * rows[i] * columns[j] for i, j in taps])
    return torch.as_tensor(pixels.astype(np.int32)), torch.as_tensor(weights)


def remapped(
    known: Shaped[Tensor, "b v u"], pixels: Int[Tensor, "tap y x"], weights: Float[Tensor, "tap y x"], /
) -> Shaped[Tensor, "b y x"]:
    """Weighted sums of pixels of each pattern or wave; see `interpolation`."""
    flat, total = known.flatten(1), known.new_zeros(len(known), pixels[0].numel())
    for number, weight in zip(pixels.flatten(1), weights.flatten(1), strict=True):
        total = total + flat.index_select(1, number) * weight
    return total.reshape(-1, *pixels.shape[1:])


@lru_cache(maxsize=16)
def _slopes(
    shape: tuple[int, int], grid: tuple[float, ...], wavelength: float
) -> tuple[np.ndarray, np.ndarray]:
    """``Kz - k`` of each frequency of a grid, and its decay, per angstrom."""
    k, table = 2 * math.pi / wavelength, np.array(grid).reshape(3, 2)
    normal = np.cross(table[:, 1], table[:, 0])
    normal *= math.copysign(1 / float(np.linalg.norm(normal)), normal[2])
    lift = k * normal[2]
    axes = np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing="ij")
    inside = 2 * math.pi * np.stack(axes, -1) @ np.linalg.pinv(table)
    # K = k z + inside + rise * normal has the length k; the rise is written without cancellation
    along, square = inside[..., 2], (inside**2).sum(-1)
    left = lift**2 - square - 2 * k * along
    both = np.sqrt(np.clip(left, 0, None)) + lift
    turn = np.where(left > 0, -(along * (square + 2 * k * along) / both + normal[2] * square) / both, 0.0)
    turn = np.where(left > 0, turn, along - lift * normal[2])
    return turn, normal[2] * np.sqrt(np.clip(-left, 0, None))


def _cubic(part: np.ndarray) -> list[np.ndarray]:
    """Weights of the pixels at -1, 0, 1 and 2 for a place between 0 and 1."""
    t = part
    return [
        -0.5 * t + t**2 - 0.5 * t**3,
        1 - 2.5 * t**2 + 1.5 * t**3,
        0.5 * t + 2 * t**2 - 1.5 * t**3,
        -0.5 * t**2 + 0.5 * t**3,
    ]
