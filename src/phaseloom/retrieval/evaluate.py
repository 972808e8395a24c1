"""How well a network reads scans of materials that it has never seen, at several doses."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import nn

from phaseloom.fitting import device
from phaseloom.metrics.agreement import Agreement, agreement
from phaseloom.retrieval.training_samples import NOISELESS, Scene, drawn
from phaseloom.simulation.experiment import told

__all__ = ["DOSES", "RIM", "image", "scores"]

DOSES = (NOISELESS, 1e5, 1e4, 3e3)
"""Electrons per pattern at which networks are judged; the first stands for no counting noise."""

RIM = 8
"""Pixels at the edges of an image that no probe surrounds, left out of every score."""


@torch.no_grad()
def image(net: nn.Module, scene: Scene, dose: float = NOISELESS, /, *, seed: int = 0) -> np.ndarray:
    """What a network makes of a whole scan at a dose, ``(y, x)`` radian."""
    net.eval()
    where = device.of(net)
    patterns = drawn(scene.roots.float().square(), dose, torch.Generator().manual_seed(seed))
    optics = torch.from_numpy(told(scene.experiment, dose))
    return net(patterns[None].to(where), optics[None].to(where))[0].float().cpu().numpy()


def scores(
    net: nn.Module, scenes: Sequence[Scene], /, *, doses: Sequence[float] = DOSES, seed: int = 0
) -> dict[str, Any]:
    """Mean agreement with the truth over scans, by dose.

    Args:
        net: patterns ``(b, rows, columns, y, x)`` and optics ``(b, 8)`` to images.
        scenes: simulated scans.
        doses: electrons per pattern.
        seed: of the counts.
    """
    out = {}
    for dose in doses:
        found: list[Agreement] = []
        for number, scene in enumerate(scenes):
            seen = image(net, scene, dose, seed=seed + number)
            found.append(agreement(seen, scene.phase.numpy(), rim=RIM))
        out["noiseless" if dose >= NOISELESS else f"{dose:g}"] = asdict(Agreement.mean(found))
    return out
