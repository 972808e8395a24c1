"""The standard error of a recovered phase: what the network expects, and what the patterns say against it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from phaseloom.metrics.pattern_misfit import DARK_PIXEL_SHARE
from phaseloom.retrieval.networks.unrolled import ThinScans

__all__ = ["PatternResiduals", "calibrate_error"]

# Set on 153 foreign scans (benchmarks/foreign_scans.py, set `calibrate`, seeds 12000 to 12059 of any probe
# and 12100 to 12132), 79 with right settings and 74 with wrong ones: decision 063.
SHARE_OF_EXPECTED = 0.39
SHARE_OF_UNEXPLAINED = 0.8
PHASE_OF_DIFFERENCES = 2.6
"""Square radian to one of what differs from pattern to pattern, fractions of the beam."""
PATTERNS_AT_ONCE = 256
MIN_DIFFERENCES = 1e-4  # fraction of the beam below which patterns are too alike to tell
MAX_LOCAL_SHARE = 1.5  # of what differs on average, that is unexplained at a place


@dataclass(frozen=True, eq=False)
class PatternResiduals:
    """What a phase leaves unexplained of each pattern beyond counting noise, fractions of the beam.

    The mean of all patterns is subtracted, measured and modelled, and the intensity of each is fitted, so
    that neither the rim of the disk nor a drift of the beam counts.

    Attributes:
        unexplained: ``(pattern,)`` squared residuals of the amplitudes.
        differences: ``(pattern,)`` the same without an object.
    """

    unexplained: Tensor
    differences: Tensor

    @classmethod
    def of(cls, scans: ThinScans, phase: Tensor) -> "PatternResiduals":
        """Of one scan and its phase ``(1, y, x)``."""
        mask, measured = scans.mask[0], scans.patterns
        mean = measured.mean(0) * mask
        weight = mask / (4 * (mean + DARK_PIXEL_SHARE * mean.sum() / mask.sum()).clamp(min=1e-30))
        rest = torch.empty_like(measured)
        differences = measured.new_empty(len(measured))
        for part, model in scans.diffract(phase):
            some = measured[part] * mask
            light = model * mask
            scale = some.sum((1, 2)) / light.sum((1, 2)).clamp(min=1e-30)
            rest[part] = some - scale[:, None, None] * light
            differences[part] = (weight * (some - mean).square()).sum((1, 2))
        usual = rest.mean(0)
        parts = [(weight * (some - usual).square()).sum((1, 2)) for some in rest.split(PATTERNS_AT_ONCE)]
        noise = (weight * mean).sum() / scans.dose[0] * (1 - 1 / len(measured))
        return cls(torch.cat(parts) - noise, differences - noise)


def calibrate_error(scans: ThinScans, phase: Tensor, expected: Tensor) -> Tensor:
    """The standard error of a phase ``(1, y, x)``, radian, a constant apart.

    To a share of the error that the network expects comes a part that grows with the share of the patterns
    that the phase leaves unexplained, over the whole scan and around each place, and with the strength of
    the phase and of the differences between patterns: a phase that explains nothing may be all wrong.

    Args:
        scans: one scan.
        phase: as recovered.
        expected: standard error that the network expects, radian.
    """
    found = PatternResiduals.of(scans, phase)
    differences = found.differences.mean().clamp(min=MIN_DIFFERENCES)
    share = (found.unexplained.mean() / differences).clamp(0, 1)
    local = (scans.average(found.unexplained) / differences).clamp(0, MAX_LOCAL_SHARE)
    light = scans.illuminate()
    mean = (light * phase).sum() / light.sum()
    strength = (light * (phase - mean).square()).sum() / light.sum() + PHASE_OF_DIFFERENCES * differences
    wrong = SHARE_OF_UNEXPLAINED * share * local * strength
    return ((SHARE_OF_EXPECTED * expected).square() + wrong).sqrt()
