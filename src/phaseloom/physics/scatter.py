"""Passing through matter: thin slices with free flight between them."""

from collections.abc import Sequence

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from phaseloom.physics.patches import scatter
from phaseloom.physics.propagate import fly

__all__ = ["illuminate", "multislice", "transmit"]

Flights = Sequence[Tensor] | Tensor | None


def transmit(
    wave: Complex[Tensor, "b *#state mode y x"], slice_: Complex[Tensor, "#b *state y x"], /
) -> Complex[Tensor, "b *state mode y x"]:
    """Multiply every mode by one thin slice, in each state of the object."""
    return wave * slice_.unsqueeze(-3)


def multislice(
    wave: Complex[Tensor, "b *#state mode y x"],
    slices: Complex[Tensor, "b *state slice y x"],
    kernel: Flights,
    /,
) -> Complex[Tensor, "b *state mode y x"]:
    """Exit wave after all slices: transmit, fly, transmit ...; no flight after the last one.

    Args:
        wave: incident modes of each position.
        slices: transmission windows of each position; an object in several states has an axis for them.
        kernel: flight between slices: one for all gaps ``(y, x)``, one per gap ``(gap, y, x)``, or a
            sequence of one tensor per gap that broadcasts against the wave; ``None`` for a single slice.

    Source:
        Cowley & Moodie 1957, doi 10.1107/S0365110X57002194.

    Example:
        >>> import torch
        >>> wave, slices = torch.ones(1, 2, 4, 4) + 0j, torch.ones(1, 3, 4, 4) + 0j
        >>> multislice(wave, slices, torch.ones(4, 4) + 0j).shape
        torch.Size([1, 2, 4, 4])
    """
    first, *rest = slices.unbind(-3)
    wave = transmit(wave, first)
    for gap, slice_ in enumerate(rest):
        wave = transmit(fly(wave, _kernel_of_gap(kernel, gap)), slice_)
    return wave


@torch.no_grad()
def illuminate(
    light: Float[Tensor, "slice v u"],
    corner: Int[Tensor, "b 2"],
    wave: Complex[Tensor, "b *#state mode y x"],
    slices: Complex[Tensor, "b *state slice y x"],
    kernel: Flights,
    /,
    *,
    share: Float[Tensor, " state"] | None = None,
) -> None:
    """Add to ``light`` what falls on each slice: ``sum |wave|^2`` over patterns and modes, in place.

    Args:
        light: over the whole object.
        corner: top-left pixels of the windows in it.
        wave: see `multislice`.
        slices: see `multislice`.
        kernel: see `multislice`.
        share: of each state of the object.
    """
    first, *rest = slices.unbind(-3)
    for number, slice_ in enumerate((first, *rest)):
        if number:
            wave = fly(wave, _kernel_of_gap(kernel, number - 1))
        power = wave.abs().square().sum(-3)
        if power.ndim == 4:
            same = power.new_full((power.shape[1],), 1 / power.shape[1])
            power = ((same if share is None else share)[:, None, None] * power).sum(1)
        light[number] += scatter(power, corner, (light.shape[-2], light.shape[-1]))
        wave = transmit(wave, slice_)


def _kernel_of_gap(kernel: Flights, gap: int) -> Tensor:
    """Of kernels for all gaps, or one for each."""
    assert kernel is not None
    return kernel if isinstance(kernel, Tensor) and kernel.ndim == 2 else kernel[gap]
