"""What a trained network says of itself."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from torch import nn

from phaseloom.retrieval.evaluate import scores
from phaseloom.retrieval.networks.end_to_end import reading
from phaseloom.retrieval.prediction import NUMBERS, TOLERANCE
from phaseloom.retrieval.recipe import Train
from phaseloom.retrieval.training_samples import NOISELESS, Scene
from phaseloom.simulation.experiment import told
from phaseloom.spec import to_yaml
from phaseloom.version import __version__

__all__ = ["card"]


def card(
    recipe: Train, net: nn.Module, unseen: Sequence[Scene], seen: Sequence[Scene], /, *, epochs: int = 0
) -> dict[str, Any]:
    """What a network says of itself when it is opened again.

    Args:
        recipe: that it was trained by.
        net: patterns and optics to images, or the second stage.
        unseen: scans that judge it.
        seen: scans that it learned from.
        epochs: of the training.
    """
    first = unseen[0].experiment
    numbers = np.stack([told(scene.experiment, NOISELESS) for scene in (*unseen, *seen)])
    spread = np.abs(numbers - told(first, NOISELESS)).max(0)
    near = {name: most + float(more) for name, most, more in zip(NUMBERS, TOLERANCE, spread, strict=True)}
    near.pop("dose")
    return {
        "experiment": asdict(first),
        "tolerance": near,
        "doses": [recipe.doses[0], None],
        "recipe": to_yaml(recipe.resolved()),
        "scores": {} if recipe.stage == "stitching" else scores(reading(net), unseen),
        "epochs": epochs,
        "version": __version__,
    }
