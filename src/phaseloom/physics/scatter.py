"""Passing through matter: thin slices with free flight between them."""

from jaxtyping import Complex
from torch import Tensor

from phaseloom.physics.propagate import fly

__all__ = ["multislice", "transmit"]


def transmit(
    wave: Complex[Tensor, "b mode y x"], slice_: Complex[Tensor, "b y x"], /
) -> Complex[Tensor, "b mode y x"]:
    """Multiply every mode by one thin slice."""
    return wave * slice_[:, None]


def multislice(
    wave: Complex[Tensor, "b mode y x"],
    slices: Complex[Tensor, "b slice y x"],
    kernel: Complex[Tensor, "y x"] | Complex[Tensor, "gap y x"] | None,
    /,
) -> Complex[Tensor, "b mode y x"]:
    """Exit wave after all slices: transmit, fly, transmit ...; no flight after the last one.

    Args:
        wave: incident modes of each position.
        slices: transmission windows of each position.
        kernel: flight between slices, one for all gaps or one per gap; ``None`` for a single slice.

    Source:
        Cowley & Moodie 1957, doi 10.1107/S0365110X57002194.

    Example:
        >>> import torch
        >>> wave, slices = torch.ones(1, 2, 4, 4) + 0j, torch.ones(1, 3, 4, 4) + 0j
        >>> multislice(wave, slices, torch.ones(4, 4) + 0j).shape
        torch.Size([1, 2, 4, 4])
    """
    first, *rest = slices.unbind(1)
    wave = transmit(wave, first)
    for gap, slice_ in enumerate(rest):
        assert kernel is not None
        wave = transmit(fly(wave, kernel if kernel.ndim == 2 else kernel[gap]), slice_)
    return wave
