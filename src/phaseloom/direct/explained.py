"""Share of the changes in a bright field that the best weak object explains, and its slope in the optics.

The object is solved for, so a small change of the model changes what it explains as if the object stood
still (variable projection, Golub & Pereyra 1973, doi 10.1137/0710036): the slope needs what is left
unexplained and nothing of the solution's own.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from phaseloom.direct.bright_field import Spectrum
from phaseloom.direct.solve import build_normal_equations
from phaseloom.direct.transfer import LinearOptics, compute_bands
from phaseloom.physics.engine.misfit import list_compile_errors
from phaseloom.physics.fused_kernels import has_numba
from phaseloom.physics.optics import split_aberration_change

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
    root = spectrum.counts.sqrt()
    changes = torch.view_as_real(spectrum.values * root).movedim(-1, 1).contiguous()
    found = _measure_by_kernel(spectrum, optics, root, changes, amplitude)
    if found is not None:
        return found / changes.square().sum()
    bands = compute_bands(optics, spectrum.place, spectrum.frequency, edge=spectrum.edge)
    sizes = bands.before * root, bands.after * root
    power: Tensor = _ExplainedPower.apply(*sizes, bands.first[0], bands.second[0], changes, amplitude)
    return power / changes.square().sum()


def _measure_by_kernel(
    spectrum: Spectrum, optics: LinearOptics, root: Tensor, changes: Tensor, amplitude: bool
) -> Tensor | None:
    """The power that an object explains, by a compiled kernel; ``None`` where there is none for it."""
    k = optics.orient_pixels(spectrum.place)
    is_known = k.dtype == torch.float64 and k.device.type == "cpu" and not k.requires_grad
    if not is_known or not has_numba():
        return None
    q = optics.turn_frequencies(spectrum.frequency)
    there = {**optics.aberrations, "C10": optics.aberrations.get("C10", 0.0) + optics.depths[0]}
    before, powers = split_aberration_change(k, -q, optics.wavelength, there)
    after, _ = split_aberration_change(k, q, optics.wavelength, there)
    lens = [optics.semiangle / optics.wavelength, optics.focal_spread, optics.source_size]
    numbers = torch.stack([torch.as_tensor(one, dtype=torch.float64) for one in lens])
    fixed = {"k": k.T, "powers": powers.T, "root": root, "changes": changes}
    arrays = {name: np.ascontiguousarray(one.detach().numpy()) for name, one in fixed.items()}
    knobs = spectrum.edge, optics.wavelength, amplitude
    try:
        return _CompiledPower.apply(torch.stack([-before, after]), q, numbers, arrays, knobs)
    except list_compile_errors():
        return None


class _CompiledPower(torch.autograd.Function):
    """`_ExplainedPower` with all that comes before it, of `phaseloom.physics.engine.side_bands`."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        from phaseloom.physics.engine.side_bands import explain_changes

        turns, q, numbers, arrays, (edge, wavelength, amplitude) = inputs
        slopes = [torch.empty_like(one, memory_format=torch.contiguous_format) for one in (turns, q, numbers)]
        limit, focal_spread, source_size = numbers.tolist()
        lens = np.array([limit, edge, focal_spread, source_size, wavelength])
        given = arrays["k"], lens, arrays["root"], arrays["changes"], RIDGE, amplitude
        turn, frequency = (one.detach().contiguous().numpy() for one in (turns, q))
        power = explain_changes(turn, arrays["powers"], frequency, *given, *(one.numpy() for one in slopes))
        ctx.save_for_backward(*slopes)
        return turns.new_tensor(power)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        return *(slopes[0] * one for one in ctx.saved_tensors), None, None


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
