"""From waves to counts."""

import torch
from jaxtyping import Complex, Float
from torch import Tensor

__all__ = ["draw", "intensity"]


def intensity(wave: Complex[Tensor, "b mode y x"], /) -> Float[Tensor, "b y x"]:
    """Incoherent sum over modes of the squared modulus.

    Example:
        >>> intensity(torch.full((1, 3, 2, 2), 2j))[0, 0, 0].item()
        12.0
    """
    return (wave.real.square() + wave.imag.square()).sum(1)


def draw(
    expected: Float[Tensor, "*batch y x"], /, *, generator: torch.Generator
) -> Float[Tensor, "*batch y x"]:
    """Poisson counts of an expected intensity, reproducible through the generator."""
    return torch.poisson(expected, generator=generator)
