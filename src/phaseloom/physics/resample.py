"""Values between pixels."""

import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor

__all__ = ["TAPS", "sampled"]

TAPS = 8
"""Pixels to either side from which one between them is interpolated."""


def sampled(
    windows: Complex[Tensor, "b *some v u"], shape: tuple[int, int], step: Float[Tensor, " b"], /
) -> Complex[Tensor, "b *some y x"]:
    """Values at steps of so many pixels, as many to either side of the middles of windows.

    A sinc under a Hann window, whose weights add to one: what varies with less than 0.4 cycles per pixel is
    kept. Nothing is averaged, so that longer steps alias what is finer than they. Differentiable in the step.

    Args:
        windows: one for each step.
        shape: of the outcome, its middle on the middle ``[n // 2]`` of the windows; nothing where it lies
            outside of them.
        step: pixels.

    Example:
        >>> ramp = torch.arange(40.0).expand(1, 40, 40) + 0j
        >>> sampled(ramp, (1, 5), torch.tensor([1.5])).real.round(decimals=2)
        tensor([[[17.0000, 18.5000, 20.0000, 21.5000, 23.0000]]])
    """
    given = (windows.shape[-2], windows.shape[-1])
    rows, columns = (_weights(n, m, step) for n, m in zip(shape, given, strict=True))
    parts = torch.view_as_real(windows.reshape(len(windows), -1, *given))
    values = torch.einsum("bvy,bsyxc->bsvxc", rows, parts)
    out = torch.view_as_complex(torch.einsum("bux,bsvxc->bsvuc", columns, values).contiguous())
    return out.reshape(*windows.shape[:-2], *shape)


def _weights(many: int, given: int, step: Float[Tensor, " b"]) -> Float[Tensor, "b many given"]:
    """Of each pixel given in each that is wanted."""
    wanted = step[:, None] * (torch.arange(many, device=step.device) - many // 2)
    away = wanted[:, :, None] - (torch.arange(given, device=step.device) - given // 2)
    hann = torch.cos(away * (math.pi / (2 * TAPS))).square()
    weight = torch.where(away.abs() < TAPS, torch.sinc(away) * hann, 0)
    return weight / weight.sum(-1, keepdim=True).clamp(min=0.5)
