"""Direct methods that need no system of equations: one weight for each pixel and frequency, then a sum.

``object(Q) = sum over k of weight(k, Q) G(k, Q)`` with the changes ``G`` of `phaseloom.direct.transfer`. The
last axis of weights is the phase, then the loss of amplitude where a method gives one.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from phaseloom.direct.bright_field import Spectrum
from phaseloom.direct.transfer import (
    LinearOptics,
    compute_aperture,
    compute_chi,
    compute_columns,
    orientation_matrix,
)

__all__ = [
    "colour_pixels",
    "index_pixels",
    "integrate_deflections",
    "split_checkerboard",
    "weight_by_deconvolution",
    "weight_by_parallax",
    "weight_by_sideband",
    "weight_by_transfer",
]

MIN_TRANSFER = 1e-3
"""Transfer below which a pixel does not count in a single-sideband image."""

Weights = Complex[Tensor, "frequency pixel column"]


def weight_by_transfer(optics: LinearOptics, spectrum: Spectrum, frequency: Tensor, /) -> Weights:
    """The conjugate transfer (matched filter).

    Args:
        optics: the model.
        spectrum: for its pixels.
        frequency: ``(frequency, 2)`` of the object.
    """
    columns = compute_columns(optics, spectrum.place, frequency, edge=spectrum.edge, amplitude=False)
    return columns[..., :1].conj() * spectrum.counts[:, None]


def weight_by_sideband(optics: LinearOptics, spectrum: Spectrum, frequency: Tensor, /) -> Weights:
    """The conjugate phase factor of the transfer, so that each pixel counts alike (single sideband).

    Args:
        optics: the model.
        spectrum: for its pixels.
        frequency: ``(frequency, 2)`` of the object.
    """
    weights = weight_by_transfer(optics, spectrum, frequency)
    size = weights.abs() / spectrum.counts[:, None]
    return weights * torch.where(size > MIN_TRANSFER, size.clamp_min(1e-6).reciprocal(), 0.0)


def weight_by_parallax(
    optics: LinearOptics, spectrum: Spectrum, frequency: Tensor, /, *, flip: bool = True
) -> Weights:
    """Shift the scan image of each pixel by ``grad chi / 2 pi``, and flip the signs of the contrast transfer.

    To lowest order ``G = 2 sin chi(Q) exp(i grad chi(k) . Q) phase(Q)``, so that all images agree after the
    shift. Only the even part of ``chi`` changes a sign.

    Args:
        optics: the model.
        spectrum: for its pixels.
        frequency: ``(frequency, 2)`` of the object.
        flip: multiply by the sign of ``sin chi(Q)``.

    Source: Spoth, Nguyen, Muller & Kourkoutis, Microsc. Microanal. 23 S1 (2017) 804; Varnavides et al. 2023,
    arXiv 2309.05250.
    """
    place = optics.orient_pixels(spectrum.place).detach().requires_grad_()
    with torch.enable_grad():
        chi = compute_chi(optics, place)
        slope = torch.autograd.grad(chi.sum(), place)[0] if chi.requires_grad else torch.zeros_like(place)
    q = optics.turn_frequencies(frequency)
    share = spectrum.counts / (2 * spectrum.counts.sum())
    weights = torch.polar(share.expand(len(q), -1), -q @ slope.T)
    if flip:
        even = (compute_chi(optics, q) + compute_chi(optics, -q)) / 2
        weights = weights * torch.where(torch.sin(even) < 0, -1.0, 1.0).to(share.dtype)[:, None]
    return weights[..., None]


def weight_by_deconvolution(
    optics: LinearOptics, spectrum: Spectrum, frequency: Tensor, /, *, ridge: float
) -> Weights:
    """Wigner distribution deconvolution (WDD): no weak object is assumed.

    At each frequency the detector holds the overlap ``psi(k) psi*(k + Q)`` convolved with the object's
    Wigner distribution ``T(k) T*(k - Q)``. A Wiener filter on a detector padded to twice its size divides by
    the overlap; of the quotient only ``k = 0`` is needed, a weighted sum over pixels. Columns are those of
    ``T = 1 + i phase - amplitude``.

    Args:
        optics: the model.
        spectrum: of pixels on a regular grid.
        frequency: ``(frequency, 2)`` of the object.
        ridge: share of the largest value that is added before the division.

    Source: Rodenburg & Bates 1992, doi 10.1098/rsta.1992.0050.
    """
    zero = torch.zeros_like(frequency[:1])
    mean = (_divide_overlap(optics, spectrum, zero, ridge) * spectrum.counts).sum().real
    below = _divide_overlap(optics, spectrum, -frequency, ridge).conj()
    above = _divide_overlap(optics, spectrum, frequency, ridge)
    both = torch.stack([(below - above) / 2j, -(below + above) / 2], -1)
    return both * (spectrum.counts / mean)[:, None]


def _divide_overlap(optics: LinearOptics, spectrum: Spectrum, frequency: Tensor, ridge: float) -> Tensor:
    """Weights ``(frequency, pixel)`` whose sum over a detector pattern is the quotient at ``k = 0``."""
    index, first, step = index_pixels(spectrum.place)
    # the rim of the disk is not among the pixels, but light goes there: a cell more on each side
    rows, columns = (int(n) + 3 for n in index.amax(0))
    cells = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)) - 1
    k = optics.orient_pixels(first + cells.to(step.dtype) * step)
    q = optics.turn_frequencies(frequency)
    pupil, moved = (
        torch.polar(compute_aperture(optics, one, spectrum.edge), -compute_chi(optics, one))
        for one in (k, k[None] + q[:, None])
    )
    overlap = pupil[None] * moved.conj()
    padded = torch.fft.fft2(overlap.reshape(-1, rows, columns), s=(2 * rows, 2 * columns))
    power = padded.abs().square()
    highest = power.amax((-2, -1), keepdim=True).clamp_min(1e-30)
    weights = torch.fft.fft2(padded.conj() / (power + ridge * highest)) / (4 * rows * columns)
    return weights[:, index[:, 0] + 1, index[:, 1] + 1]


def integrate_deflections(
    optics: LinearOptics, spectrum: Spectrum, /, *, high_pass: float
) -> Complex[Tensor, "frequency 1"]:
    """The phase whose gradient is nearest to the centres of mass (iCoM, iDPC), radian, blurred by the probe.

    ``phase(Q) = -i Q . m(Q) / (|Q|^2 + 1 / high_pass^2)``, ``m`` in cycles per angstrom.

    Args:
        optics: for orientation, rotation and step; aberrations are not used.
        spectrum: with the centres of mass; where it has none, those of its pixels are taken.
        high_pass: period at which half of the phase is left, angstrom.

    Source: Lazic, Bosch & Lazar 2016, doi 10.1016/j.ultramic.2015.10.011.
    """
    if spectrum.deflection is not None:
        mass = spectrum.deflection.mean(0)
    else:
        lever = spectrum.place * (spectrum.counts / spectrum.counts.sum())[:, None]
        mass = spectrum.values @ lever.to(spectrum.values.dtype)
    lay = torch.as_tensor(orientation_matrix(optics.orientation), dtype=mass.dtype)
    q = optics.turn_frequencies(spectrum.frequency)
    square = q.square().sum(-1)
    along = (q * (mass @ lay * optics.angle)).sum(-1)
    return (-1j * along / (square + high_pass**-2).clamp_min(1e-30))[:, None]


def index_pixels(place: Float[Tensor, "pixel 2"], /) -> tuple[Int[Tensor, "pixel 2"], Tensor, Tensor]:
    """Rows and columns of pixels on a regular grid, the place of number 0 of each, and the step.

    Example:
        >>> index, first, step = index_pixels(torch.tensor([[0.1, 0.5], [0.3, 0.7], [0.1, 1.1]]))
        >>> index.tolist()
        [[0, 0], [1, 1], [0, 3]]
    """
    first = place.amin(0)
    extent = place.amax(0) - first
    steps = []
    for axis in range(2):
        gaps = place[:, axis].sort().values.diff()
        gaps = gaps[gaps > 1e-4 * extent[axis]]
        steps.append(gaps.min() if len(gaps) else torch.ones_like(first[axis]))
    step = torch.stack(steps)
    return ((place - first) / step).round().long(), first, step


def colour_pixels(place: Float[Tensor, "pixel 2"], /) -> Int[Tensor, " pixel"]:
    """Colour of pixels on a checkerboard, 0 or 1.

    Args:
        place: on a regular grid.
    """
    index, _, _ = index_pixels(place)
    return index.sum(-1) % 2


def split_checkerboard(spectrum: Spectrum, /) -> tuple[Spectrum, Spectrum]:
    """The pixels of the two colours of a checkerboard: each electron is counted in one half only.

    Args:
        spectrum: of pixels on a regular grid.
    """
    colour = colour_pixels(spectrum.place)
    halves = [spectrum.select_pixels(torch.nonzero(colour == one)[:, 0]) for one in (0, 1)]
    if spectrum.deflection is not None:
        halves = [
            replace(half, deflection=spectrum.deflection[one : one + 1]) for one, half in enumerate(halves)
        ]
    return halves[0], halves[1]
