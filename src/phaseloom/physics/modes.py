"""Incoherent modes: a set of waves that matters only up to unitary mixing."""

import torch
from jaxtyping import Complex, Float
from torch import Tensor

__all__ = ["orthogonalise", "powers"]


def orthogonalise(modes: Complex[Tensor, "mode y x"], /) -> Complex[Tensor, "mode y x"]:
    """Orthogonal modes with the same incoherent sum everywhere, strongest first.

    A unitary mixing of the modes (left singular vectors): the density matrix, and with it every
    pattern behind any object, stays the same (Thibault & Menzel 2013, doi 10.1038/nature11806).

    Example:
        >>> m = torch.randn(3, 8, 8, dtype=torch.complex64)
        >>> (orthogonalise(m).abs().square().sum(0) - m.abs().square().sum(0)).abs().max().item() < 1e-4
        True
    """
    flat = modes.flatten(1)
    left, _, _ = torch.linalg.svd(flat, full_matrices=False)
    return (left.mH @ flat).reshape(modes.shape)


def powers(modes: Complex[Tensor, "mode y x"], /) -> Float[Tensor, " mode"]:
    """Share of each mode in the total power; they add to one."""
    power = modes.abs().square().sum((-2, -1))
    return power / power.sum()
