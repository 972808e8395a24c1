"""Passes over waves between two Fourier transforms: compiled on a CPU where numba is there, else by torch.

Both ways give the same numbers to rounding. On a 64 x 64 wave of single precision, whose transform takes
11 microseconds, the compiled passes take 1 to 3; torch needs two to five times that, for it writes what it
only passes on, copies windows side by side, and sums complex numbers one by one.
"""

import os
from collections.abc import Sequence
from functools import lru_cache
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

__all__ = ["Layout", "compiled", "entered", "moved", "power", "returned", "rooted"]

Windows = Sequence[Tensor]


class Layout(NamedTuple):
    """Where windows lie in memory: their first pixel, pixels to the next row, pixels to the next slice."""

    start: np.ndarray
    row: np.ndarray
    layer: np.ndarray


@lru_cache(maxsize=1)
def _loops() -> ModuleType | None:
    """The compiled passes; ``None`` without numba (the extra ``fast``), or if ``PHASELOOM_NUMBA`` is 0."""
    if os.environ.get("PHASELOOM_NUMBA") == "0":
        return None
    try:
        from phaseloom.physics import numba_kernels as loops
    except ImportError:
        return None
    return loops


def compiled(*tensors: Tensor) -> ModuleType | None:
    """The compiled passes if they can take these tensors."""
    if all(one.device.type == "cpu" and one.is_contiguous() and not one.is_conj() for one in tensors):
        return _loops()
    return None


def moved(
    spectrum: Complex[Tensor, "mode y x"],
    rows: Complex[Tensor, "b y 1"],
    columns: Complex[Tensor, "b 1 x"],
    /,
) -> Complex[Tensor, "b mode y x"]:
    """Spectra of the modes times the ramps of each pattern."""
    if loops := compiled(spectrum, rows, columns):
        out = spectrum.new_empty(len(rows), *spectrum.shape)
        loops.moved(spectrum.numpy(), rows.numpy()[..., 0], columns.numpy()[:, 0], out.numpy())
        return out
    return spectrum * (rows * columns)[:, None]


def entered(
    wave: Complex[Tensor, "b mode y x"],
    spectrum: Complex[Tensor, "mode y x"],
    rows: Complex[Tensor, "b y 1"],
    columns: Complex[Tensor, "b 1 x"],
    /,
) -> tuple[Complex[Tensor, "mode y x"], Float[Tensor, "b y"], Float[Tensor, "b x"]]:
    """Transpose of `moved`, in place and summed over patterns; and the slope of the ramps.

    The slope is ``sum_modes Im(wave * spectrum)``, summed along either axis.
    """
    if loops := compiled(wave, spectrum, rows, columns):
        total = torch.zeros_like(spectrum)
        down, right = (spectrum.real.new_zeros(len(wave), n) for n in wave.shape[-2:])
        ramps = rows.numpy()[..., 0], columns.numpy()[:, 0]
        loops.entrance(wave.numpy(), spectrum.numpy(), *ramps, total.numpy(), down.numpy(), right.numpy())
        return total, down, right
    wave.mul_((rows * columns)[:, None])
    slope = torch.view_as_real(added(wave * spectrum))[..., 1]
    return wave.sum(0), slope.sum(-1), slope.sum(-2)


def power(wave: Complex[Tensor, "b mode y x"], /) -> Float[Tensor, "b y x"]:
    """Incoherent sum over modes of the squared modulus."""
    if loops := compiled(wave):
        out = torch.empty(len(wave), *wave.shape[2:], dtype=wave.real.dtype)
        loops.exposed(wave.detach().numpy(), out.numpy())
        return out
    if wave.shape[1] == 1:
        return (wave.real.square() + wave.imag.square())[:, 0]
    parts = torch.view_as_real(wave).square().sum(1)  # never over the trailing axis: that is ten times slower
    return parts[..., 0] + parts[..., 1]


def returned(
    wave: Complex[Tensor, "b mode y x"],
    slope: Float[Tensor, "b y x"],
    factor: Float[Tensor, ""],
    /,
) -> Complex[Tensor, "b mode y x"]:
    """``slope * factor * wave``, held as the conjugate of its conjugate, which is what its adjoint wants."""
    if loops := compiled(wave, slope):
        out = torch.empty_like(wave)
        loops.returned(wave.numpy(), slope.numpy(), factor.numpy()[()], out.numpy())
        return out.conj()
    return wave.conj().resolve_conj().mul_((slope * factor)[:, None]).conj()


def added(wave: Complex[Tensor, "b mode y x"], /) -> Complex[Tensor, "b y x"]:
    """Sum over modes."""
    return wave[:, 0] if wave.shape[1] == 1 else wave.sum(1)


def rooted(
    wave: Complex[Tensor, "b mode y x"],
    counts: Float[Tensor, "b y x"],
    weight: Float[Tensor, " b"],
    fields: Sequence[Tensor | None],
    floor: float,
    /,
) -> tuple[Float[Tensor, ""], Float[Tensor, "b y x"]] | None:
    """Misfit of amplitudes and its slope for `returned`, in one compiled pass; ``None`` where there is none.

    ``fields`` are the flat field, the background and the mask.
    """
    given = [field for field in fields if field is not None]
    loops = compiled(wave, counts, weight, *given)
    if loops is None or not wave.real.dtype == counts.dtype == weight.dtype:
        return None
    slope = torch.empty_like(counts)
    optional = [None if field is None else field.detach().numpy() for field in fields]
    values = (one.detach().numpy() for one in (wave, counts, weight))
    total = loops.rooted(*values, *optional, slope.numpy().dtype.type(floor), slope.numpy())
    return counts.new_tensor(total), slope
