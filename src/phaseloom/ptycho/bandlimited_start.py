"""A start for a band-limited object from its patterns alone."""

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from phaseloom.errors import BadInput
from phaseloom.physics.patches import gather
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.objects import BandlimitedObject, resample_field

__all__ = ["spectral_start"]

PATTERNS_AT_ONCE = 32
"""Patterns that are modelled together."""


def spectral_start(
    model: Ptychography,
    counts: Float[Tensor, "n y x"],
    index: Int[Tensor, " n"],
    /,
    *,
    steps: int = 50,
    seed: int = 0,
) -> Complex[Tensor, "state 1 v u"]:
    """Leading eigenvectors of ``A* diag(y) A``, one for each state, scaled to the counts.

    ``A`` takes the coarse pixels of the object to the waves on the detector; ``y`` are the measured counts
    less the background. The more pixels of the pattern there are for each of the object, the more alike are
    these and the object; flat is a better start for an object that hardly scatters.

    Args:
        model: with an object of one slice (`phaseloom.ptycho.objects`) and the probe that is known.
        counts: patterns, in the detector's own order (`phaseloom.ptycho.detectors.CountingDetector.arrange`).
        index: their numbers.
        steps: of the power iteration.
        seed: of the waves that it starts with.

    Raises:
        BadInput: an object of another kind, or of several slices.

    Source:
        Candes, Li & Soltanolkotabi 2015, doi 10.1109/TIT.2015.2399924.
    """
    part = model.object
    if not isinstance(part, BandlimitedObject) or part.gaps:
        raise BadInput("spectral", type(part).__name__, "needs a band-limited object of one slice")
    detector = model.detector
    weight = (counts - detector.background().detach()).clamp(min=0) * detector.mask
    share = part.occupancy
    drawn = torch.Generator().manual_seed(seed)
    shape = (len(share), 1, *part.grid)
    wave = torch.randn(shape, dtype=torch.complex64, generator=drawn).to(part.coarse())
    power = wave.real.new_ones(len(share))
    for _ in range(steps):
        wave = _apply_operator(model, wave, weight, index)
        power = wave.abs().square().sum((1, 2, 3)).sqrt()
        if not bool((power > 0).all()):
            raise BadInput("spectral", None, "finds no counts above the background")
        wave = torch.linalg.qr(wave.flatten(1).T)[0].T.reshape(shape)
    wave = wave * (power / (share * power.sum())).sqrt()[:, None, None, None]
    with torch.no_grad():
        seen = sum(_expected_pattern(model, wave, part).sum() for part in index.split(PATTERNS_AT_ONCE))
    return wave * (weight.sum() / seen).sqrt()


@torch.enable_grad()
def _apply_operator(model: Ptychography, wave: Tensor, weight: Tensor, index: Tensor) -> Tensor:
    """``A* diag(weight) A`` of each state, as the gradient of half of ``sum weight |A wave|^2``."""
    wave = wave.detach().requires_grad_(True)
    flat = torch.ones_like(model.object.occupancy)
    total = torch.zeros_like(wave)
    for part, heavy in zip(index.split(PATTERNS_AT_ONCE), weight.split(PATTERNS_AT_ONCE), strict=True):
        half = 0.5 * (heavy * _expected_pattern(model, wave, part, flat)).sum()
        total += torch.autograd.grad(half, wave)[0]
    return total


def _expected_pattern(
    model: Ptychography, wave: Tensor, index: Tensor, share: Tensor | None = None
) -> Tensor:
    """Expected counts above the background of an object of coarse pixels."""
    place, rest = model.scan(index)
    slices = gather(resample_field(wave, model.object.canvas.shape), place, model.object.window)
    far = model.detector_wave(slices, place, rest, index)
    detector = model.detector
    pattern = detector.collect(far, model.object.occupancy if share is None else share)
    return detector.weights[index, None, None].detach() * pattern * detector.flat
