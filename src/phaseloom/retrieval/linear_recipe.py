"""The linear estimate, solved from simulated scans: of the default probe, or of the probe at hand."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from phaseloom.retrieval.networks.linear import CLEAN, LinearRecovery
from phaseloom.retrieval.training_samples import NOISELESS, Scene, drawn

__all__ = ["NOISY", "solved"]

NOISY = 20
"""Scans that each dose with counting noise is fitted to; noise varies more than they do."""


def solved(net: LinearRecovery, scenes: Sequence[Scene], /, *, seed: int = 0) -> dict[str, Any]:
    """Fit a linear network to scans in place, each of its doses; what that took.

    Args:
        net: see `phaseloom.retrieval.networks.linear.linear`.
        scenes: simulated scans.
        seed: of the counts.

    Returns:
        The CPU seconds of the fit, and the scans of each dose.
    """
    began = time.process_time()
    net.components.calibrate(torch.cat([_some(scene) for scene in scenes[::3]]))
    used = {}
    for number, dose in enumerate(net.doses.tolist()):
        few = scenes if dose >= CLEAN else scenes[:NOISY]
        net.solve(number, _pairs(few, 1e4 * 10 ** (3 * dose), seed + number))
        used[f"{1e4 * 10 ** (3 * dose):.3g}"] = len(few)
    return {"cpu_seconds": time.process_time() - began, "scans": used}


def _pairs(scenes: Sequence[Scene], dose: float, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    for scene in scenes:
        dose = NOISELESS if dose > 0.99 * NOISELESS else dose
        yield drawn(scene.roots.float().square(), dose, generator)[None], scene.phase[None]


def _some(scene: Scene) -> Tensor:
    """One pattern in six of a scan, to take statistics from."""
    return scene.roots[::2, ::3].float().square().flatten(0, 1)
