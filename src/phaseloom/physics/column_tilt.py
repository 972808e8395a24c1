"""How the columns of a thick object lean: the shear in which its slices agree best.

Slices are the third axis from the end, the first one where the beam enters. Gaps are the distances
between neighbouring slices, angstrom.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from phaseloom.physics.filters import apply_window
from phaseloom.physics.fourier import frequencies
from phaseloom.physics.slices import depths_of_slices, shear_slices

__all__ = ["estimate_lean"]

MAX_TAPER_ROUNDS = 4
"""Rounds of tapering in `estimate_lean`: under one taper displaced slices look less displaced."""


def estimate_lean(
    phase: Float[Tensor, "*state slice y x"],
    gaps: Sequence[float],
    pixel: tuple[float, float],
    /,
    *,
    most: float = 10e-3,
    band: tuple[float, float] = (1.0, 4.0),
) -> Float[Tensor, "2"]:
    """How the columns of an object lean: the direction in which its slices add up to the strongest picture.

    The power of the sum of all slices, sheared upright, is that of each and the agreement of every pair.
    Its maximum is looked for on a grid, then by Newton's method; slow changes of phase, which slices
    share out among them as it happens, are left out. Exact for columns; an object whose slices have
    nothing in common has no lean, and what is found then means nothing.

    Args:
        phase: radian.
        gaps: between its slices, angstrom.
        pixel: angstrom (y, x).
        most: largest lean looked for along either axis, radian.
        band: the phase is compared after a blur by the first, less a blur by the second (std, pixels).

    Returns:
        (y, x), radian; zero for a single slice, or without any structure.

    Example:
        >>> from phaseloom.physics.slices import shear_slices
        >>> place = [torch.arange(n) - n / 2 for n in (25, 26)]
        >>> spot = torch.exp(-0.2 * (place[0][:, None] ** 2 + place[1] ** 2))[None]
        >>> gaps = (50.0, 50.0)
        >>> column = shear_slices(spot.expand(3, -1, -1), gaps, (0.5, 0.5), torch.tensor([3e-3, -2e-3]))
        >>> [round(1e3 * value, 1) for value in estimate_lean(column, gaps, (0.5, 0.5)).tolist()]
        [3.0, -2.0]
    """
    if phase.shape[-3] < 2:
        return phase.new_zeros(2)
    fine = _band_pass(phase.double(), band)
    taper = _taper_window(fine)
    slope = _ShearSearch.of(fine * taper, gaps, pixel).search_grid(math.tan(most))
    for _ in range(MAX_TAPER_ROUNDS):
        upright = shear_slices(fine, gaps, pixel, -slope.atan())
        slope = slope + _ShearSearch.of(upright * taper, gaps, pixel).climb(math.tan(most) / 4)
    return slope.atan().to(phase.dtype)


@dataclass(frozen=True)
class _ShearSearch:
    """Slices as frequencies, for the power of their sum along slopes ``(dy/dz, dx/dz)``.

    Attributes:
        waves: Fourier transforms ``(..., slice, y, x)``, of unit power together.
        depth: of each slice, ``(slice, 1, 1)``.
        axes: ``2 pi f`` along y ``(y, 1)`` and x ``(1, x)``.
    """

    waves: Tensor
    depth: Tensor
    axes: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, field: Tensor, gaps: Sequence[float], pixel: tuple[float, float]) -> "_ShearSearch":
        y, x = frequencies((field.shape[-2], field.shape[-1]), pixel, like=field)
        waves = torch.fft.fft2(field)
        power = waves.abs().square().sum().clamp(min=1e-300)
        return cls(
            waves / power.sqrt(),
            depths_of_slices(gaps, field)[:, None, None],
            (2 * math.pi * y, 2 * math.pi * x),
        )

    def shear_back(self, slope: Tensor) -> Tensor:
        """The slices sheared back."""
        angles = [self.depth * axis * step for axis, step in zip(self.axes, slope, strict=True)]
        rows, columns = (torch.polar(torch.ones_like(angle), angle) for angle in angles)
        return self.waves * rows * columns

    def search_grid(self, most: float) -> Tensor:
        """The best of 9 by 9 slopes, the least of those that are equal."""
        axis = torch.linspace(-most, most, 9, dtype=torch.float64, device=self.waves.device)
        grid = sorted(torch.cartesian_prod(axis, axis), key=lambda slope: float(slope.norm()))
        return max(grid, key=lambda slope: float(self.shear_back(slope).sum(-3).abs().square().sum()))

    def climb(self, most: float) -> Tensor:
        """The top nearest to upright, by Newton's method with steps of at most ``most``."""
        slope = torch.zeros(2, dtype=torch.float64, device=self.waves.device)
        for _ in range(5):
            first, second = self.derivatives(slope)
            curve, ways = torch.linalg.eigh(second)
            step = ways @ (ways.T @ first / curve.abs().clamp(min=1e-12))
            slope = slope + step * torch.clamp(most / step.norm().clamp(min=1e-300), max=1.0)
        return slope

    def derivatives(self, slope: Tensor) -> tuple[Tensor, Tensor]:
        """First and second derivatives of the power by the slope."""
        waves = self.shear_back(slope)
        sum_, once, twice = ((waves * self.depth**order).sum(-3) for order in range(3))
        tug = -2 * (sum_.conj() * once).imag
        pull = 2 * (once.abs().square() - (sum_.conj() * twice).real)
        first = torch.stack([(axis * tug).sum() for axis in self.axes])
        second = torch.stack([(a * b * pull).sum() for a in self.axes for b in self.axes])
        return first, second.reshape(2, 2)


def _band_pass(phase: Tensor, band: tuple[float, float]) -> Tensor:
    """Phase between two blurs, the few strongest values (wraps, dark borders) brought to the others."""
    y, x = frequencies((phase.shape[-2], phase.shape[-1]), like=phase)
    narrow, wide = (torch.exp(-2 * (math.pi * std) ** 2 * (y**2 + x**2)) for std in band)
    fine = apply_window(phase, narrow - wide)
    most = fine.abs().flatten().kthvalue(math.ceil(0.995 * fine.numel())).values
    return fine.clamp(-most, most)


def _taper_window(field: Tensor, share: float = 0.02) -> Tensor:
    """A window, falling over its outer quarters, on the rectangle with all power but a share at each end."""
    power = field.square().sum(tuple(range(field.ndim - 2)))
    sides = []
    for profile in (power.sum(1), power.sum(0)):
        held = profile.cumsum(0) / profile.sum().clamp(min=1e-300)
        first, last = int((held < share).sum()), int((held < 1 - share).sum())
        place = torch.arange(len(profile), dtype=profile.dtype, device=profile.device)
        hann = torch.sin(math.pi * ((place - first + 1) / (last - first + 2)).clamp(0, 1)).square()
        sides.append((2 * hann).clamp(max=1))
    return sides[0][:, None] * sides[1]
