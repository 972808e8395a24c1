"""Share of the changes in a bright field that the best weak object explains, and its slope in the optics.

The object is solved for, so a small change of the model changes what it explains as if the object stood
still (variable projection, Golub & Pereyra 1973, doi 10.1137/0710036): the slope needs what is left
unexplained and nothing of the solution's own.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from phaseloom.direct.bright_field import Spectrum
from phaseloom.direct.solve import build_normal_equations
from phaseloom.direct.transfer import LinearOptics, compute_bands

__all__ = ["compute_explained_share", "fit_device", "measure_explained_share"]

fit_device: ContextVar[str] = ContextVar("fit_device", default="auto")
"""Where optics are fitted, ``auto``, ``cpu`` or ``cuda``: some hundred evaluations that suit a GPU."""

RIDGE = 1e-3
"""Share of the diagonal that is added to it."""


def compute_explained_share(spectrum: Spectrum, optics: LinearOptics, /, *, amplitude: bool = False) -> float:
    """Share of the changes in the bright field that a weak object explains.

    Args:
        spectrum: of the bright field.
        optics: with which the best object is solved for.
        amplitude: whether the object has an amplitude, besides a phase.
    """
    with torch.no_grad():
        equations = build_normal_equations(optics, spectrum, amplitude=amplitude)
        return float(equations.explained(ridge=RIDGE).sum() / equations.energy.sum())


def measure_explained_share(
    spectrum: Spectrum, optics: LinearOptics, /, *, amplitude: bool = False
) -> Float[Tensor, ""]:
    """The same of a thin object, differentiable in the numbers of the optics.

    Args:
        spectrum: of the bright field, few enough for all columns at once.
        optics: with one plane.
        amplitude: whether the object has an amplitude.

    Example:
        >>> k, q = torch.rand(9, 2).double() - 0.5, torch.rand(4, 2).double()
        >>> changes = torch.randn(4, 9).to(torch.complex128)
        >>> data = Spectrum(changes, q, k, torch.ones(9).double(), 0.1)
        >>> defocus = torch.tensor(-90.0, dtype=torch.float64, requires_grad=True)
        >>> optics = LinearOptics(0.02, 0.02, {"C10": defocus})
        >>> share = measure_explained_share(data, optics)
        >>> abs(share.item() - compute_explained_share(data, optics)) < 1e-9
        True
        >>> share.backward()
        >>> bool(defocus.grad != 0)
        True
    """
    if len(optics.depths) > 1:
        raise ValueError("optics.depths: one plane")
    bands = compute_bands(optics, spectrum.place, spectrum.frequency, edge=spectrum.edge)
    root = spectrum.counts.sqrt()
    changes = torch.view_as_real(spectrum.values * root).movedim(-1, 1).contiguous()
    sizes = bands.before * root, bands.after * root
    power: Tensor = _ExplainedPower.apply(*sizes, bands.first[0], bands.second[0], changes, amplitude)
    return power / changes.square().sum()


class _ExplainedPower(torch.autograd.Function):
    """Sum over frequencies of ``right^H (matrix + ridge diagonal)^-1 right``.

    Columns are combinations of two waves. So only the products of waves and data are summed over pixels, in
    real numbers; the rest is done with matrices of two by two.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        before, after, first, second, changes, amplitude = inputs
        cosines, sines = [first.cos(), second.cos()], [first.sin(), second.sin()]
        waves = torch.stack(
            [before * cosines[0], before * sines[0], after * cosines[1], after * sines[1]], 1
        )  # (frequency, real and imaginary part of either, pixel)
        mix = _mix_waves(amplitude).to(waves.device, waves.dtype.to_complex())
        matrix = mix.conj() @ _join_parts(waves @ waves.mT) @ mix.T
        right = _join_parts(waves @ changes.mT)[..., 0] @ mix.mH
        diagonal = matrix.diagonal(dim1=-2, dim2=-1).real
        floor = 1e-12 * float(diagonal.max())
        ridge = torch.diag_embed(RIDGE * diagonal.clamp_min(floor)).to(matrix.dtype)
        found = torch.linalg.solve(matrix + ridge, right[..., None])[..., 0]
        held = RIDGE * found.abs().square() * (diagonal > floor)
        held = (mix.mH * held[:, None]) @ mix
        ctx.save_for_backward(before, after, *cosines, *sines, waves, changes, found @ mix, held)
        return (right.conj() * found).sum().real

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        before, after, *turns, waves, changes, share, held = ctx.saved_tensors
        left = torch.baddbmm(changes, _split_parts(share[:, None]), waves, alpha=-1)
        to_waves = torch.bmm(_split_parts(2 * slopes[0] * share.conj()[..., None]), left)
        to_waves = torch.baddbmm(to_waves, _split_parts(2 * slopes[0] * held), waves, alpha=-1)
        sizes, phases = [], []
        for number, size in enumerate((before, after)):
            cosine, sine = turns[number], turns[number + 2]
            real, imaginary = to_waves[:, 2 * number], to_waves[:, 2 * number + 1]
            sizes.append(cosine * real + sine * imaginary)
            phases.append(size * (cosine * imaginary - sine * real))
        return (*sizes, *phases, None, None)


def _mix_waves(amplitude: bool) -> Complex[Tensor, "column wave"]:
    """What the phase and the amplitude of the object do with ``t1`` and ``t2``."""
    columns = [[1j, -1j], [-1.0, -1.0]]
    return torch.tensor(columns[: 2 if amplitude else 1])


def _join_parts(products: Float[Tensor, "frequency parts others"]) -> Complex[Tensor, "frequency one other"]:
    """``sum conj(a) b`` from the products of all real and imaginary parts."""
    rr, ri = products[:, ::2, ::2], products[:, ::2, 1::2]
    ir, ii = products[:, 1::2, ::2], products[:, 1::2, 1::2]
    return torch.complex(rr + ii, ri - ir)


def _split_parts(matrix: Complex[Tensor, "frequency one other"]) -> Float[Tensor, "frequency parts others"]:
    """The matrix that does to real and imaginary parts in turn what a complex one does."""
    real, imaginary = matrix.real, matrix.imag
    rows = [torch.stack(row, -1) for row in ([real, -imaginary], [imaginary, real])]
    return torch.stack(rows, 2).flatten(3).flatten(1, 2)
