"""Two steps of a fit with an adjoint of their own: modes to the far field, and waves to a misfit.

`far_waves` is `phaseloom.physics.fourier.shift`, `phaseloom.physics.patches.gather`,
`phaseloom.physics.propagate.multislice` and `phaseloom.physics.propagate.far_field` in one, equal to them
to rounding, at a fraction of what autograd makes of their composition:

* with ``g`` the complex conjugate of the gradient, every adjoint is a transpose; Fourier matrices are
  symmetric and all else is diagonal, so the way back is the way forth and nothing is conjugated;
* transforms are not scaled one by one: kernels carry the factor of theirs, the probe all the others;
* a transmission ``a exp(i p)`` is computed once for all windows of a batch, and its gradient with respect
  to the phase, ``-Im sum_modes g psi``, is real.

`misfit` is ``sum(divergence(weight * sum_modes |wave|^2 * flat + background, counts) * mask)``. The slope
of the divergence is found together with its value, while the expected counts are at hand, so the way back
is one product with the waves.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.fft import fft2, ifft2

from phaseloom.physics.fourier import frequencies
from phaseloom.physics.fused_kernels import (
    amplitude_misfit,
    backpropagate_intensity,
    backpropagate_shift,
    shift_spectra,
    sum_intensity,
)
from phaseloom.physics.windowed_transmission import TransmissionWindows

__all__ = ["AmplitudeDivergence", "DivergenceWithSlope", "differentiate_divergence", "far_waves", "misfit"]


class _FarWaves(torch.autograd.Function):
    """The work of `far_waves`; waves are kept divided by the side of their window."""

    @staticmethod
    def forward(  # noqa: PLR0917
        ctx: Any,
        modes: Tensor,
        rest: Tensor,
        mosaic: TransmissionWindows,
        gaps: int,
        light: Tensor | None,
        *tensors: Tensor,
    ) -> Tensor:
        """Kernels and leaves come last; waves that fall on each slice are kept for the way back."""
        pixels = modes.shape[-2] * modes.shape[-1]
        spectrum = fft2(modes) * pixels**-1.5
        rows, columns = _shift_ramps(rest, (modes.shape[-2], modes.shape[-1]))
        kernels = _scale_kernels(tensors[:gaps], pixels)
        leaves = tensors[gaps:]
        wave = ifft2(shift_spectra(spectrum, rows, columns), norm="forward")
        incident = []
        room = torch.empty_like(wave)
        for slice_ in range(mosaic.slices):
            incident.append(wave)
            if light is not None:
                mosaic.illuminate(light, slice_, wave, float(pixels))
            wave = fft2(mosaic.transmit(wave, slice_, room))
            if slice_ < mosaic.slices - 1:
                wave = ifft2(wave.mul_(kernels[slice_]), norm="forward")
        ctx.mosaic = mosaic
        ctx.gaps = gaps
        ctx.save_for_backward(spectrum, rows, columns, *kernels, *incident, *leaves)
        return wave

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - once_differentiable has no types
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor | None, ...]:
        """The transposed steps in the opposite order."""
        spectrum, rows, columns, *saved = ctx.saved_tensors
        mosaic = ctx.mosaic
        kernels = saved[: ctx.gaps]
        incident = saved[ctx.gaps : ctx.gaps + mosaic.slices]
        of_modes, of_rest, _, _, _, *others = ctx.needs_input_grad
        of_kernels = others[: ctx.gaps]
        of_leaves = others[ctx.gaps :]
        sink = mosaic.make_sink(of_leaves)
        bends = [None] * ctx.gaps
        wave = fft2(grads[0].conj().resolve_conj())
        for slice_ in reversed(range(mosaic.slices)):
            wave = mosaic.backpropagate(wave, incident[slice_], slice_, sink)
            if slice_:
                wave = ifft2(wave, norm="forward")
                gap = slice_ - 1
                if of_kernels[gap]:
                    there = fft2(mosaic.transmit(incident[gap], gap, torch.empty_like(wave)))
                    bends[gap] = _kernel_gradient(wave, there, kernels[gap])
                wave = fft2(wave.mul_(kernels[gap]))
        modes = rest = None
        if of_modes or of_rest:
            total, down, right = backpropagate_shift(ifft2(wave, norm="forward"), spectrum, rows, columns)
            modes = (fft2(total) * total[0].numel() ** -1.5).conj() if of_modes else None
            rest = _shift_gradient(down, right) if of_rest else None
        return modes, rest, None, None, None, *bends, *mosaic.gradients(sink, of_leaves)


def far_waves(
    modes: Complex[Tensor, "mode y x"],
    rest: Float[Tensor, "b 2"],
    mosaic: TransmissionWindows,
    kernels: Sequence[Tensor] = (),
    /,
    *,
    light: Float[Tensor, "slice v u"] | None = None,
) -> Complex[Tensor, "b mode y x"]:
    """Waves on a distant detector (zero frequency in the corner) of modes behind windows of an object.

    Differentiable once, in the modes, in ``rest``, in the kernels and in the leaves of the mosaic.

    Args:
        modes: in real space, in the middle of their window.
        rest: by which the modes are moved first, pixels (y, x).
        mosaic: the object's transmission around the windows.
        kernels: flight through each gap, ``(y, x)`` or of a shape that goes with ``(b, mode, y, x)``.
        light: to which ``sum_modes |wave|^2`` of the waves that fall on each slice is added, in place and
            where they fall.
    """
    return _FarWaves.apply(modes, rest, mosaic, len(kernels), light, *kernels, *mosaic.leaves)


def _scale_kernels(kernels: Sequence[Tensor], pixels: int) -> list[Tensor]:
    """Kernels that carry the factor of the inverse transform; equal ones are computed once."""
    scaled = {id(kernel): kernel.detach() / pixels for kernel in kernels}
    return [scaled[id(kernel)] for kernel in kernels]


def _kernel_gradient(wave: Tensor, there: Tensor, kernel: Tensor) -> Tensor:
    """Gradient of a flight: what comes back times what went there, summed as the kernel is shared."""
    pixels = wave.shape[-2] * wave.shape[-1]
    return (wave * there).sum_to_size(kernel.shape).conj() / pixels


def _shift_gradient(down: Tensor, right: Tensor) -> Tensor:
    """Gradient of the shift: ``2 pi sum f Im(g_f P_f)``."""
    y, x = _window_frequencies((down.shape[-1], right.shape[-1]), down.device, down.dtype)
    return 2 * torch.pi * torch.stack([down @ y, right @ x], 1)


def _shift_ramps(rest: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Factors that move the modes, as `phaseloom.physics.fourier.ramp` has them."""
    y, x = _window_frequencies(shape, rest.device, rest.dtype)
    angles = (-2 * torch.pi * rest[:, :1, None] * y[:, None], -2 * torch.pi * rest[:, 1:, None] * x)
    rows, columns = (torch.polar(torch.ones_like(angle), angle) for angle in angles)
    return rows, columns


@lru_cache(maxsize=16)
@torch.inference_mode(mode=False)
def _window_frequencies(
    shape: tuple[int, int], device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Frequencies of the rows and columns of a window, sent to their device once."""
    y, x = frequencies(shape, like=torch.empty(0, dtype=dtype, device=device))
    return y[:, 0], x[0]


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
            slope = _slope_of_waves(slope, weight, flat)
            light = None
        ctx.save_for_backward(wave, slope, weight, flat, light)
        return total

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - once_differentiable has no types
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor | None, ...]:
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
