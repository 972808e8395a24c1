"""How far a predicted phase is from the true one, or from the patterns that it was read from.

A loss is a function ``(seen, /, *, weight, ...) -> scalar``, a mean over the views of a batch; a training
file lists those that are added. None of them feels the constant of a phase, which cannot be measured.
Weights come from what is true or measured, never from the prediction, which could make them vanish.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from phaseloom.errors import BadInput
from phaseloom.physics import patches
from phaseloom.simulation.experiment import (
    PIXELS_PER_STEP,
    Experiment,
    collect_on_detector,
    compute_far_intensity,
)

__all__ = ["PredictedBatch", "contrast", "edges", "physics", "rings"]

RIM_PIXELS = 3  # pixels at the rim of an image that no probe reaches well


@dataclass(frozen=True)
class PredictedBatch:
    """A batch after the network.

    Attributes:
        image: ``(n, y, x)`` predicted phase, radian.
        phase: ``(n, y, x)`` true phase, radian.
        patterns: ``(n, rows, columns, v, u)`` fractions of the beam that the network was given.
        experiments: one for each view.
    """

    image: Tensor
    phase: Tensor
    patterns: Tensor
    experiments: Sequence[Experiment]


def contrast(batch: PredictedBatch, /, *, weight: float = 1.0, floor: float = 0.05) -> Tensor:
    """Mean square error over the variance of the truth, so that light specimens count as heavy ones do.

    Args:
        batch: see `PredictedBatch`.
        weight: of the loss.
        floor: standard deviation of the truth, radian, below which errors are not blown up further.

    Example:
        >>> flat = torch.zeros(1, 16, 16)
        >>> true = torch.rand(1, 16, 16) * 100
        >>> round(contrast(PredictedBatch(flat, true, flat, [])).item(), 3)
        1.0
    """
    error = _subtract_mean(_cut_rim(batch.image) - _cut_rim(batch.phase))
    truth = _subtract_mean(_cut_rim(batch.phase))
    return weight * (_compute_power(error) / (_compute_power(truth) + floor**2)).mean()


def edges(batch: PredictedBatch, /, *, weight: float = 0.1, floor: float = 0.02) -> Tensor:
    """Mean absolute error of the gradient, over that of the truth's gradient.

    Args:
        batch: see `PredictedBatch`.
        weight: of the loss.
        floor: mean gradient of the truth, radian per pixel, below which errors are not blown up further.
    """
    error = batch.image - batch.phase
    truth = batch.phase
    off, there = (_compute_gradient(_cut_rim(part)) for part in (error, truth))
    return weight * (off / (there + floor)).mean()


def rings(batch: PredictedBatch, /, *, weight: float = 0.1, count: int = 16) -> Tensor:
    """Error of the Fourier transform over the power of the truth, ring by ring: fine detail counts too.

    Args:
        batch: see `PredictedBatch`.
        weight: of the loss.
        count: rings up to two thirds of the Nyquist frequency, where the truth ends.
    """
    error, truth = (_subtract_mean(_cut_rim(part)) for part in (batch.image - batch.phase, batch.phase))
    off, there = (_sum_rings(part, count) for part in (error, truth))
    return weight * (off / (there + 0.01 * there.mean(-1, keepdim=True) + 1e-12)).clamp(max=10).mean()


def physics(batch: PredictedBatch, /, *, weight: float = 0.1, probes: int = 4) -> Tensor:
    """Difference of the patterns that the image would give, by our own forward model, from those given.

    Amplitudes are compared, relative to how the patterns differ from one without a specimen. Only probes
    whose window lies in the image take part.

    Args:
        batch: see `PredictedBatch`; an image of one slice.
        weight: of the loss.
        probes: rows and columns of probes that are compared, from the middle of the view.

    Raises:
        BadInput: views too small for a window.
    """
    total = [
        _compare_patterns(*one, probes)
        for one in zip(batch.image, batch.patterns, batch.experiments, strict=True)
    ]
    return weight * torch.stack(total).mean()


def _compare_patterns(image: Tensor, patterns: Tensor, experiment: Experiment, probes: int) -> Tensor:
    rows, columns = (
        _select_probes(n, size, experiment.window, probes)
        for n, size in zip(patterns.shape, image.shape, strict=False)
    )
    corner = (
        torch.cartesian_prod(PIXELS_PER_STEP * (rows + 1), PIXELS_PER_STEP * (columns + 1))
        - experiment.window // 2
    )
    given = patterns[rows][:, columns].flatten(0, 1)
    beam = experiment.probe().to(image.device)
    wave = torch.polar(torch.ones_like(image), image)
    windows = patches.gather(wave, corner, (experiment.window, experiment.window))
    light, empty = (
        collect_on_detector(compute_far_intensity(w, experiment), experiment)
        for w in (beam * windows[:, None], beam[None])
    )
    amplitudes = [(part + 1e-9).sqrt() for part in (light, given, empty)]
    off = _compute_power(amplitudes[0] - amplitudes[1])
    there = _compute_power(amplitudes[1] - amplitudes[2])
    return off.mean() / (there.mean() + 1e-9)


def _select_probes(count: int, size: int, window: int, most: int) -> Tensor:
    """Numbers of the middle probes whose windows lie in the image."""
    inside = [n for n in range(count) if 0 <= PIXELS_PER_STEP * (n + 1) - window // 2 <= size - window]
    if not inside:
        fix = f"have images of {size} pixels, and a probe's window has {window}: take larger views"
        raise BadInput("losses: physics", f"{count} probes", fix)
    first = max(0, (len(inside) - most) // 2)
    return torch.tensor(inside[first : first + most])


def _cut_rim(image: Tensor) -> Tensor:
    return image[..., RIM_PIXELS:-RIM_PIXELS, RIM_PIXELS:-RIM_PIXELS]


def _subtract_mean(image: Tensor) -> Tensor:
    return image - image.mean((-2, -1), keepdim=True)


def _compute_power(image: Tensor) -> Tensor:
    return image.square().mean((-2, -1))


def _compute_gradient(image: Tensor) -> Tensor:
    return image.diff(dim=-2).abs().mean((-2, -1)) + image.diff(dim=-1).abs().mean((-2, -1))


def _sum_rings(image: Tensor, count: int) -> Tensor:
    """Power in rings ``(n, ring)``."""
    height, width = image.shape[-2:]
    power = torch.fft.rfft2(image.float(), norm="ortho").abs().square().flatten(-2)
    y = torch.fft.fftfreq(height)[:, None]
    x = torch.fft.rfftfreq(width)[None]
    ring = (torch.hypot(y, x) * (3 * count)).long().flatten().to(image.device)
    inside = ring < count
    sums = power.new_zeros(*power.shape[:-1], count)
    return sums.index_add(-1, ring[inside], power[..., inside])
