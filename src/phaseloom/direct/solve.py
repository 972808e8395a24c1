"""Solve the linear model for the object: a pass over columns and data, then a small system per frequency.

All methods weight the same sum over bright-field pixels. Only `least_squares` and `wiener` give radian; the
others have a transfer of their own, which depends on the aberrations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from phaseloom.direct.bright_field import Spectrum, border_weights
from phaseloom.direct.transfer import LinearOptics, compute_columns

__all__ = ["DirectImage", "DirectMethod", "NormalEquations", "build_normal_equations", "reconstruct_image"]

RIDGE_SHARE = 1e-5
"""Share of the diagonal that is added to it: float32 rounds below 1e-6; it tells slices of a few angstrom."""

MIN_TRANSFER = 1e-3
"""Transfer below which a pixel does not count in a single-sideband image."""

MAX_ELEMENTS_AT_ONCE = 4_000_000
"""Columns that are computed at once: frequencies times pixels."""

MIN_RING_FREQUENCIES = 64
"""Frequencies that a ring of the prior holds at least."""

MAX_RINGS_MERGED = 8
"""Neighbouring rings that are taken together until their power is seen."""

PRIOR_ITERATIONS = 30

MIN_PRIOR_SIGNIFICANCE = 4.0
"""Standard errors by which the power of a ring has to exceed its noise, to be shown."""


class DirectMethod(StrEnum):
    """How bright-field pixels are weighted."""

    WIENER = "wiener"
    LEAST_SQUARES = "least_squares"
    OPTIMUM_BRIGHT_FIELD = "obf"
    MATCHED_FILTER = "matched_filter"
    SINGLE_SIDEBAND = "ssb"

    @property
    def is_in_radian(self) -> bool:
        """Whether the image is a phase in radian."""
        return self in (DirectMethod.WIENER, DirectMethod.LEAST_SQUARES)


@dataclass(frozen=True, eq=False)
class NormalEquations:
    """The sums of a linear model over pixels, in units of the noise: ``matrix @ object = right``.

    Attributes:
        matrix: ``(frequency, column, column)``; its inverse is the covariance of the object by counting.
        right: ``(frequency, column)``.
        sideband: ``(frequency,)`` the sum in which each pixel counts alike for the phase.
        energy: ``(frequency,)`` what is to be explained.
        pixels: of the bright field.
    """

    matrix: Complex[Tensor, "frequency column column"]
    right: Complex[Tensor, "frequency column"]
    sideband: Complex[Tensor, " frequency"]
    energy: Float[Tensor, " frequency"]
    pixels: int

    def solve(self, *, ridge: float = RIDGE_SHARE) -> Complex[Tensor, "frequency column"]:
        """The object by least squares; 0 where no pixel sees it."""
        scale, matrix = self._scale(ridge)
        return torch.linalg.solve(matrix, (self.right / scale)[..., None])[..., 0] / scale

    def variance(self, *, ridge: float = RIDGE_SHARE) -> Float[Tensor, "frequency column"]:
        """Variance of each component by counting."""
        scale, matrix = self._scale(ridge)
        diagonal = torch.linalg.inv(matrix).diagonal(dim1=-2, dim2=-1).real
        return (diagonal / scale.square()).clamp_min(1e-30)

    def explained(self, *, ridge: float = RIDGE_SHARE) -> Float[Tensor, " frequency"]:
        """What the object explains of `energy`; counting alone makes 1 for each column."""
        return (self.right.conj() * self.solve(ridge=ridge)).sum(-1).real

    def _scale(self, ridge: float) -> tuple[Tensor, Tensor]:
        """Roots of the diagonal, and the matrix scaled to ones there, with the ridge."""
        diagonal = self.matrix.diagonal(dim1=-2, dim2=-1).real
        scale = diagonal.clamp_min(1e-12 * float(diagonal.detach().max())).sqrt()
        scaled = self.matrix / (scale[..., :, None] * scale[..., None, :])
        return scale, scaled + ridge * torch.eye(scale.shape[-1], dtype=scaled.dtype)


def build_normal_equations(
    optics: LinearOptics, spectrum: Spectrum, /, *, amplitude: bool = True
) -> NormalEquations:
    """Sum columns and data over the bright-field pixels; differentiable in the numbers of ``optics``.

    Args:
        optics: the model.
        spectrum: the data.
        amplitude: whether the object has an amplitude of its own.

    Example:
        >>> optics = LinearOptics.of(wavelength=0.02, semiangle=0.02, aberrations={"defocus": 200.0})
        >>> place = torch.tensor([[0.1, 0.2], [-0.3, 0.1], [0.4, -0.4]])
        >>> frequency = torch.tensor([[0.2, 0.1]])
        >>> values = compute_columns(optics, place, frequency)[..., 0] * 0.5
        >>> data = Spectrum(values, frequency, place, torch.ones(3), 0.0)
        >>> found = build_normal_equations(optics, data, amplitude=False)
        >>> round(float(found.solve().abs()), 3)
        0.5
    """
    parts = []
    for values, frequency in _split(spectrum):
        columns = compute_columns(optics, spectrum.place, frequency, edge=spectrum.edge, amplitude=amplitude)
        weighted = (columns.conj() * spectrum.counts[:, None]).mT
        phase = columns[..., 0]
        size = phase.abs()
        signs = phase.conj() * torch.where(size > MIN_TRANSFER, spectrum.counts / size.clamp_min(1e-6), 0.0)
        single = (signs * values).sum(-1)
        parts.append(
            (
                weighted @ columns,
                (weighted @ values[..., None])[..., 0],
                single,
                (values.abs().square() * spectrum.counts).sum(-1),
            )
        )
    matrix, right, sideband, energy = (torch.cat(one) for one in zip(*parts, strict=True))
    return NormalEquations(matrix, right, sideband, energy, len(spectrum.place))


def _split(spectrum: Spectrum) -> Iterator[tuple[Tensor, Tensor]]:
    """Values and frequencies in pieces that fit the memory."""
    count = max(1, MAX_ELEMENTS_AT_ONCE // max(1, len(spectrum.place)))
    return zip(spectrum.values.split(count), spectrum.frequency.split(count), strict=True)


@dataclass(frozen=True, eq=False)
class DirectImage:
    """A direct image of a raster scan.

    Attributes:
        phase: ``(slow, fast)`` at the places of the scan; radian if ``method.is_in_radian``.
        amplitude: loss of amplitude ``-log |object|`` at the same places, or ``None``.
        method: how it was made.
        explained: share of what changes, beyond counting noise, that the linear model explains; NaN where
            nothing is seen to change but by counting.
    """

    phase: Float[Tensor, "slow fast"]
    amplitude: Float[Tensor, "slow fast"] | None
    method: DirectMethod
    explained: float


def reconstruct_image(
    optics: LinearOptics,
    spectrum: Spectrum,
    /,
    *,
    method: DirectMethod | str = DirectMethod.WIENER,
    border: float = 0.0,
) -> DirectImage:
    """The object of a raster scan by one of the direct methods.

    Args:
        optics: the model.
        spectrum: of a raster, with the same ``border``.
        method: see `DirectMethod`.
        border: share of the scan that was faded out on each side.

    Raises:
        ValueError: a scan that is no raster, or an unknown method.
    """
    if spectrum.shape is None or spectrum.grid is None:
        raise ValueError("an image needs the spectrum of a raster: spectrum.shape")
    method = DirectMethod(method)
    highest = 2 * float(optics.semiangle) / optics.wavelength
    length = optics.turn_frequencies(spectrum.frequency).norm(dim=-1)
    inside = (length > 0) & (length < highest)
    equations = build_normal_equations(optics, spectrum.select(torch.nonzero(inside)[:, 0]))
    values = torch.zeros(len(inside), 2, dtype=spectrum.values.dtype)
    values[inside] = weight_object(equations, method, length[inside])
    fade = torch.outer(*(border_weights(n, border) for n in spectrum.grid)).to(length.dtype)
    images = torch.fft.irfft2(values.T.reshape(2, *spectrum.shape), s=spectrum.grid)
    images = images * fade.square().sum().sqrt() / fade.clamp_min(0.25)
    noise = 2.0 * len(equations.energy)
    signal = (equations.energy - equations.pixels).sum()
    numbers = equations.pixels * len(equations.energy)
    seen = float(signal) > 5 * math.sqrt(numbers)  # else nothing but counting is seen to change
    explained = float((equations.explained().sum() - noise) / signal) if seen else math.nan
    amplitude = images[1] if method.is_in_radian else None
    return DirectImage(images[0], amplitude, method, explained)


def weight_object(
    equations: NormalEquations, method: DirectMethod, length: Float[Tensor, " frequency"], /
) -> Complex[Tensor, "frequency column"]:
    """The object's spectrum by a method; components that it does not give are 0.

    Args:
        equations: sums over pixels.
        method: how they are weighted.
        length: of the frequencies, for the prior.
    """
    if method == DirectMethod.LEAST_SQUARES:
        return equations.solve()
    if method == DirectMethod.WIENER:
        return apply_wiener_filter(equations, length)
    if method == DirectMethod.OPTIMUM_BRIGHT_FIELD:
        return equations.solve() / equations.variance().sqrt() / math.sqrt(equations.pixels)
    phase = equations.sideband if method == DirectMethod.SINGLE_SIDEBAND else equations.right[:, 0]
    return torch.stack([phase, torch.zeros_like(phase)], -1)


def apply_wiener_filter(
    equations: NormalEquations, length: Float[Tensor, " frequency"], /
) -> Complex[Tensor, "frequency column"]:
    """The most likely object if its power is that of rings of frequencies, estimated from the data.

    Args:
        equations: sums over pixels.
        length: of the frequencies.
    """
    found = equations.solve()
    variance = equations.variance()
    noise = estimate_noise(equations)
    power = estimate_power(found, noise * variance, length)
    inverse = torch.where(power > 0, noise / power.clamp_min(1e-30), torch.inf)
    shown = torch.isfinite(inverse)
    matrix = equations.matrix + torch.diag_embed(torch.where(shown, inverse, 0.0)).to(equations.matrix.dtype)
    # a component without power is left out: its row and column become those of the identity
    both = shown[..., :, None] & shown[..., None, :]
    identity = torch.diag_embed((~shown).to(matrix.real.dtype)).to(matrix.dtype)
    matrix = torch.where(both, matrix, torch.zeros((), dtype=matrix.dtype)) + identity
    right = torch.where(shown, equations.right, torch.zeros((), dtype=matrix.dtype))
    return torch.linalg.solve(matrix, right[..., None])[..., 0]


def estimate_noise(equations: NormalEquations, /) -> float:
    """What is left per pixel and frequency, in units of counting noise: the median over frequencies.

    Args:
        equations: sums over pixels.
    """
    left = (equations.energy - equations.explained()).clamp_min(0)
    free = max(1, equations.pixels - equations.matrix.shape[-1])
    return max(float(left.median()) / free, 1e-12)


def estimate_power(
    found: Complex[Tensor, "frequency column"],
    variance: Float[Tensor, "frequency column"],
    length: Float[Tensor, " frequency"],
    /,
) -> Float[Tensor, "frequency column"]:
    """Power of the object at each frequency: the most likely of its ring, 0 where noise explains all of it.

    Args:
        found: the object by least squares.
        variance: of its components by noise.
        length: of the frequencies.
    """
    order = torch.argsort(length)
    size = max(8, min(MIN_RING_FREQUENCIES, len(order) // 8))
    power = torch.zeros_like(variance)
    for column in range(variance.shape[-1]):
        first = 0
        for last in [*range(size, len(order) - size, size), len(order)]:
            index = order[first:last]
            level, error = _fit_power(found[index, column].abs().square(), variance[index, column])
            if level > MIN_PRIOR_SIGNIFICANCE * error:
                power[index, column] = level
                first = last
            elif last - first >= MAX_RINGS_MERGED * size:  # a ring that stays dark is left out
                first = last
    return power


def _fit_power(squares: Tensor, noise: Tensor) -> tuple[float, float]:
    """The most likely power of some components, and its standard error if there were none."""
    level = torch.zeros_like(noise[0])
    for _ in range(PRIOR_ITERATIONS):
        weight = (level + noise).square().reciprocal()
        level = ((squares - noise) * weight).sum() / weight.sum()
        level = level.clamp_min(0)
    return float(level), float(noise.square().reciprocal().sum().rsqrt())
