"""From waves on a detector to one number against counts, and back, in one step.

`misfit` is ``sum(divergence(weight * sum_modes |wave|^2 * flat + background, counts) * mask)``. The slope
of the divergence is found together with its value, while the expected counts are at hand, so the way back
is one product with the waves.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from phaseloom.physics.fused_kernels import amplitude_misfit, backpropagate_intensity, sum_intensity

__all__ = ["AmplitudeDivergence", "DivergenceWithSlope", "differentiate_divergence", "misfit"]

DivergenceWithSlope = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]
"""Expected counts, measured ones and the mask in; the divergence summed over trusted pixels and its
slope with respect to each expected count out."""


class _MisfitFunction(torch.autograd.Function):
    """The work of `misfit`."""

    @staticmethod
    def forward(  # noqa: PLR0917
        ctx: Any,
        wave: Tensor,
        weight: Tensor,
        background: Tensor | None,
        flat: Tensor | None,
        counts: Tensor,
        mask: Tensor | None,
        judge: DivergenceWithSlope,
    ) -> Tensor:
        """Keep the slope for the backward pass, scaled for the waves when only they want a gradient."""
        ctx.waves_only = not any(ctx.needs_input_grad[1:3])
        if isinstance(judge, AmplitudeDivergence) and ctx.waves_only:
            found = amplitude_misfit(wave, counts, weight, (flat, background, mask), judge.floor)
            if found is not None:
                ctx.save_for_backward(wave, found[1], weight, flat, None)
                return found[0]
        light = sum_intensity(wave)
        model = light * weight[:, None, None] if flat is None else light * weight[:, None, None] * flat
        total, slope = judge(model if background is None else model + background, counts, mask)
        if ctx.waves_only:
            slope, light = _slope_of_waves(slope, weight, flat), None
        ctx.save_for_backward(wave, slope, weight, flat, light)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of waves, weights and background."""
        wave, slope, weight, flat, light = ctx.saved_tensors
        of_wave, of_weight, of_background = ctx.needs_input_grad[:3]
        if ctx.waves_only:
            return backpropagate_intensity(wave, slope, grads[0]), None, None, None, None, None, None
        waves = (
            backpropagate_intensity(wave, _slope_of_waves(slope, weight, flat), grads[0]) if of_wave else None
        )
        background = slope.sum(0) * grads[0] if of_background else None
        light = light if flat is None else light * flat
        weights = (slope * light).sum((1, 2)) * grads[0] if of_weight else None
        return waves, weights, background, None, None, None, None


@dataclass(frozen=True)
class AmplitudeDivergence:
    """A judge: ``(sqrt(model + floor) - sqrt(counts + floor))^2``."""

    floor: float = 1e-2

    def __call__(self, model: Tensor, counts: Tensor, mask: Tensor | None, /) -> tuple[Tensor, Tensor]:
        """Sum over trusted pixels, and slope."""
        root = (model + self.floor).sqrt_()
        gap = root - (counts + self.floor).sqrt_()
        gap = gap if mask is None else gap.mul_(mask)
        return gap.square().sum(), gap / root


def misfit(
    wave: Complex[Tensor, "b mode y x"],
    counts: Float[Tensor, "b y x"],
    weight: Float[Tensor, " b"],
    judge: DivergenceWithSlope,
    /,
    *,
    background: Float[Tensor, "y x"] | None = None,
    flat: Float[Tensor, "y x"] | None = None,
    mask: Bool[Tensor, "y x"] | None = None,
) -> Float[Tensor, ""]:
    """Divergence between waves and counts, summed over trusted pixels; see the top of this file.

    Differentiable once, in the waves, the weights and the background.
    """
    return _MisfitFunction.apply(wave, weight, background, flat, counts, mask, judge)


def differentiate_divergence(divergence: Callable[[Tensor, Tensor], Tensor], /) -> DivergenceWithSlope:
    """A judge that leaves the slope of a divergence per pixel to autograd.

    Example:
        >>> judge = differentiate_divergence(lambda model, counts: (model - counts).square())
        >>> judge(torch.tensor([3.0]), torch.tensor([1.0]), None)
        (tensor(4.), tensor([4.]))
    """

    def judge(model: Tensor, counts: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            model = model.detach().requires_grad_()
            each = divergence(model, counts)
            total = (each if mask is None else each * mask).sum()
            (slope,) = torch.autograd.grad(total, model)
        return total.detach(), slope

    return judge


def _slope_of_waves(slope: Tensor, weight: Tensor, flat: Tensor | None) -> Tensor:
    """Slope with respect to the intensity of the waves, doubled, for the intensity is their square."""
    slope = slope * (2 * weight[:, None, None])
    return slope if flat is None else slope * flat
