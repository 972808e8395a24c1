"""Light on the object: the beam where each slice stands, and what all patterns add up to on each pixel."""

from typing import NamedTuple

import torch
from jaxtyping import Complex, Float, Int
from scipy.fft import next_fast_len
from torch import Tensor

from phaseloom.physics.propagate import fly
from phaseloom.ptycho.model import Ptychography

__all__ = ["Beams", "ScannedArea", "count_crossings", "incident_waves", "participation_area"]
__all__ += ["sum_illumination"]

Beams = list[tuple[Complex[Tensor, "slice mode y x"], Int[Tensor, " _"]]]


class ScannedArea(NamedTuple):
    """The part of the canvas that a scan reaches; work on it does not grow with the canvas.

    Attributes:
        inside: its rows and columns.
        height, width: their numbers.
        room: no smaller, and quick to transform.
        corner: of the windows in it, ``(n, 2)``.
    """

    inside: tuple[slice, slice]
    height: int
    width: int
    room: tuple[int, int]
    corner: Int[Tensor, "n 2"]

    @classmethod
    def of(cls, model: Ptychography) -> "ScannedArea":
        """That of all patterns."""
        corner, _ = model.scan(torch.arange(len(model.scan.start), device=model.scan.start.device))
        first = corner.amin(0)
        top, left = first.tolist()
        shape = (corner.amax(0) - first).tolist()
        height, width = (n + w for n, w in zip(shape, model.scan.canvas.window, strict=True))
        lengths = next_fast_len(height), next_fast_len(width, real=True)
        room = (int(lengths[0]), int(lengths[1]))  # pyright: ignore[reportArgumentType]
        inside = (slice(top, top + height), slice(left, left + width))
        return cls(inside, height, width, room, corner - first)


@torch.no_grad()
def incident_waves(model: Ptychography, /) -> Beams:
    """The modes in free flight where each slice stands, and the patterns that see them so."""
    out: Beams = []
    for modes, members in model.incident_modes():
        waves = [modes]
        for kernel in model.propagator.gap_kernels(members[:1]):
            waves.append(fly(waves[-1], kernel.reshape(kernel.shape[-2:]).to(modes.dtype)))
        out.append((torch.stack(waves), members))
    return out


@torch.no_grad()
def sum_illumination(model: Ptychography, waves: Beams, /) -> Float[Tensor, "slice v u"]:
    """What all patterns together throw on each pixel of the object: sum of ``|wave|^2``.

    The beam is correlated with where it went.
    """
    reach, first = ScannedArea.of(model), waves[0][0]
    at = reach.corner[:, 0] * reach.room[1] + reach.corner[:, 1]
    out = first.real.new_zeros(len(first), *model.scan.canvas.shape)
    for wave, members in waves:
        hits = first.real.new_zeros(reach.room[0] * reach.room[1])
        hits.index_add_(0, at[members], hits.new_ones(len(members)))
        beam = torch.fft.rfft2(wave.abs().square().sum(1), s=reach.room)
        lit = torch.fft.irfft2(beam.mul_(torch.fft.rfft2(hits.view(reach.room))), s=reach.room)
        out[(..., *reach.inside)] += lit[:, : reach.height, : reach.width].clamp_(min=0)
    return out


@torch.no_grad()
def count_crossings(model: Ptychography, /) -> float:
    """Patterns that it takes to light the whole scanned field once: its area over the beam's."""
    waves = [(wave[:1], members) for wave, members in incident_waves(model)]
    areas = [participation_area(wave.abs().square().sum(1)) for wave, _ in waves]
    return participation_area(sum_illumination(model, waves)) / (sum(areas) / len(areas))


def participation_area(intensity: Tensor, /) -> float:
    """``(sum I)^2 / sum I^2``, pixels."""
    return float(intensity.sum() ** 2 / intensity.square().sum())
