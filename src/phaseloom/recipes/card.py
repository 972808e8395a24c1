"""What a trained network says of itself."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from torch import nn

import phaseloom
from phaseloom.data.experiment import told
from phaseloom.data.views import NOISELESS, Scene
from phaseloom.nets.endtoend import reading
from phaseloom.nets.predict import NUMBERS, TOLERANCE
from phaseloom.recipes.scores import scores
from phaseloom.recipes.train import Train
from phaseloom.spec import to_yaml

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
        "version": phaseloom.__version__,
    }
