"""What a model shows as it stands: object, probe and where it saw light, for pictures while a run goes on."""

from typing import Any

import numpy as np
import torch

from phaseloom.physics.modes import orthogonalise
from phaseloom.ptycho.curvature import light
from phaseloom.ptycho.model import Ptychography

__all__ = ["images"]


@torch.no_grad()
def images(model: Ptychography, /) -> dict[str, Any]:
    """Object ``(slice, y, x)``, probe ``(mode, y, x)``, coverage ``(y, x)`` and pixel (y, x) in angstrom.

    As in a result: the transmission of vacuum is one, an object of several states is their mean.
    """
    coverage = light(model, [(modes[None], members) for modes, members in model.incident()])[0].cpu().numpy()
    scale = model.modulus(coverage)
    modes = orthogonalise(model.probe.modes())
    probe = modes if model.heights is None else model.heights.level(modes)
    states, share = model.object.transmission().cpu().numpy(), model.object.occupancy.cpu().numpy()
    return {
        "object": np.einsum("s,szyx->zyx", share, states) / scale[:, None, None],
        "probe": probe.cpu().numpy() * np.prod(scale),
        "coverage": coverage,
        "pixel": model.scan.canvas.pixel,
    }
