"""Evaluate a network at several doses on scans of materials that it was not trained on; fill in its card."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import nn

from phaseloom.fitting import device
from phaseloom.learning.evaluation import make_card
from phaseloom.metrics.phase import Agreement, measure_agreement
from phaseloom.retrieval.networks.end_to_end import make_scan_network
from phaseloom.retrieval.objectives import StitchingObjective
from phaseloom.retrieval.prediction import DEFAULT_TOLERANCE, OPTICS_NAMES
from phaseloom.retrieval.recipe import Train
from phaseloom.retrieval.training_samples import NOISELESS_DOSE, TrainingScan, draw_counts
from phaseloom.simulation.experiment import encode_conditions

__all__ = ["EVALUATION_DOSES", "RIM_PIXELS", "evaluate_network", "evaluate_stitching", "make_network_card"]
__all__ += ["predict_image"]

# Electrons per pattern at which networks are judged; the first stands for no counting noise.
EVALUATION_DOSES = (NOISELESS_DOSE, 1e5, 1e4, 3e3)
RIM_PIXELS = 8  # pixels at the edges of an image that no probe surrounds, left out of every score


@torch.no_grad()
def predict_image(
    net: nn.Module, scene: TrainingScan, dose: float = NOISELESS_DOSE, /, *, seed: int = 0
) -> np.ndarray:
    """The image of a whole scan that a network predicts at a dose, ``(y, x)`` radian."""
    net.eval()
    where = device.device_of(net)
    patterns = draw_counts(scene.roots.float().square(), dose, torch.Generator().manual_seed(seed))
    optics = torch.from_numpy(encode_conditions(scene.experiment, dose))
    return net(patterns[None].to(where), optics[None].to(where))[0].float().cpu().numpy()


def evaluate_network(
    net: nn.Module,
    scenes: Sequence[TrainingScan],
    /,
    *,
    doses: Sequence[float] = EVALUATION_DOSES,
    seed: int = 0,
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
            image = predict_image(net, scene, dose, seed=seed + number)
            found.append(measure_agreement(image, scene.phase.numpy(), rim=RIM_PIXELS))
        out["noiseless" if dose >= NOISELESS_DOSE else f"{dose:g}"] = asdict(Agreement.mean(found))
    return out


@torch.no_grad()
def evaluate_stitching(net: nn.Module, scenes: Sequence[TrainingScan], /, *, seed: int = 0) -> dict[str, Any]:
    """Mean agreement of stitched images with the truth over scans: from true patches, and from spoiled ones.

    Args:
        net: of the second stage.
        scenes: simulated scans.
        seed: of the errors of the patches (`phaseloom.retrieval.objectives.PatchDegradation`).
    """
    net.eval()
    stage = StitchingObjective(net, scenes, {})
    found: dict[str, list[Agreement]] = {"true": [], "spoiled": []}
    for number, scene in enumerate(scenes):
        phase = scene.phase[None].to(device.device_of(net))
        for name, seeds in (("true", None), ("spoiled", [seed + number])):
            image = stage.stitch(phase, scene.experiment.scan, seeds)[0].float().cpu().numpy()
            found[name].append(measure_agreement(image, scene.phase.numpy(), rim=RIM_PIXELS))
    return {name: asdict(Agreement.mean(each)) for name, each in found.items()}


def make_network_card(
    recipe: Train,
    net: nn.Module,
    unseen: Sequence[TrainingScan],
    trained: Sequence[TrainingScan],
    /,
    *,
    epochs: int = 0,
) -> dict[str, Any]:
    """The card of a network: the experiment and the deviations that it was trained for, and its scores.

    Args:
        recipe: of its training.
        net: patterns and optics to images, or the second stage.
        unseen: scans of held-out materials, to evaluate it on.
        trained: scans that it was trained on.
        epochs: of the training.
    """
    first = unseen[0].experiment
    numbers = np.stack([encode_conditions(scene.experiment, NOISELESS_DOSE) for scene in (*unseen, *trained)])
    spread = np.abs(numbers - encode_conditions(first, NOISELESS_DOSE)).max(0)
    rows = zip(OPTICS_NAMES, DEFAULT_TOLERANCE, spread, strict=True)
    tolerance = {name: usual + float(more) for name, usual, more in rows if name != "dose"}
    if recipe.stage == "stitching":
        scores = evaluate_stitching(net, unseen)
    else:
        scores = evaluate_network(make_scan_network(net), unseen)
    facts = {"experiment": asdict(first), "tolerance": tolerance, "doses": [recipe.doses[0], None]}
    return make_card(recipe, scores, epochs=epochs, **facts)
