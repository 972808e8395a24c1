"""The start of a near-field run: an object of one material.

Slow details of phase and absorption hardly move in some tens of epochs, so that a run keeps the ratio that it
begins with: `phaseloom.reconstruction.starts.distance_profile` finds it.
"""

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from phaseloom.calibration.hologram_start import (
    change_ratio,
    is_one_material_due,
    make_hologram_image,
    make_hologram_images,
    start_from_holograms,
)
from phaseloom.calibration.one_material import OneMaterial, fit_one_material
from phaseloom.direct.holograms import USUAL_RATIO, HologramImage
from phaseloom.ptycho import multigrid
from phaseloom.reconstruction.level import Level, build_levels, fit_level
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.runs.progress_lines import name_step, report_progress

__all__ = ["HologramStart", "begin_with_holograms"]

Patterns = tuple[np.ndarray, np.ndarray]
"""Indices to learn from, and indices held out."""

EPOCHS_BEFORE_MATERIAL = 16
"""Before an object of one material is fitted: they find the positions."""

ITERATIONS = 60
MORE_ITERATIONS = 160
"""Of L-BFGS for an object of one material. More are made, with the power of the image found as their prior,
where the first ones go on to explain the counts; where they only smooth slow details, which the direct image
has, more take these away (cells of 800 counts went from 0.93 to 0.83, others of 2500 from 0.90 to 0.96)."""

MAX_LOSS_WITHOUT_ABSORPTION = 1.5
"""Up to which more are made without absorption, where nothing holds slow details of strong phases: of a star
of 1.5 radian the loss fell from 2.4 to 2.1, and its image from 0.92 to 0.65."""

ITERATIONS_WITH_HEIGHTS = 40
"""With a ratio that is fitted, as with heights, which goes astray with more."""


@dataclass(frozen=True, eq=False)
class HologramStart:
    """What a run begins with.

    Attributes:
        image: the direct image, with the ratio of the object.
        ratio: ``beta / delta`` of an object of one material; ``None``: none was fitted.
    """

    image: HologramImage
    ratio: float | None = None


def begin_with_holograms(
    level: Level, recipe: Reconstruct, patterns: Patterns, /, *, ratio: float | None
) -> HologramStart | None:
    """Give a model its start from holograms; ``None``, and no change, where there is no direct image.

    On pixels finer than the detector's the start is found on those of the detector.

    Args:
        level: of the finest grid.
        recipe: of the run.
        patterns: indices to learn from, and indices held out, which stay unseen but for their positions.
        ratio: ``beta / delta``; ``None``: it is fitted.
    """
    levels = build_levels(level, recipe) if multigrid.count_finer_grids(level.scan) else [level]
    coarsest = levels[0]
    if not is_one_material_due(level.model):
        image = make_hologram_image(level.scan, ratio or USUAL_RATIO)
        if image is None:
            return None
        start_from_holograms(level.model, level.scan, image)
        return HologramStart(image)
    images = make_hologram_images(coarsest.scan)
    if not images:
        return None
    image, *others = images
    begun = _begin_with_an_image(coarsest, recipe, patterns, [image] if ratio is None else others)
    with name_step("near field: object of one material"):
        fitted = _fit_object(begun, patterns[0], ratio)
    coarsest.model.load_state_dict(begun.model.state_dict())
    for coarser, finer in pairwise(levels):
        multigrid.transfer_parameters(coarser.model, finer.model)
    return HologramStart(change_ratio(image, coarsest.scan, fitted.ratio), fitted.ratio)


def _fit_object(level: Level, training: np.ndarray, ratio: float | None) -> OneMaterial:
    """Fit an object of one material, longer where that explains more of the counts."""

    def fit(iterations: int) -> OneMaterial:
        knobs = {"patterns": training, "ratio": ratio, "rounds": (iterations,)}
        return fit_one_material(level.model, level.likelihood, level.scan.window, **knobs)

    if ratio is None:
        return fit(ITERATIONS_WITH_HEIGHTS)
    fitted = fit(ITERATIONS)
    is_held = ratio > 0 or min(fitted.losses) < MAX_LOSS_WITHOUT_ABSORPTION
    return fit(MORE_ITERATIONS) if is_held and not fitted.is_smoothed else fitted


def _begin_with_an_image(
    level: Level, recipe: Reconstruct, patterns: Patterns, images: Sequence[HologramImage]
) -> Level:
    """A copy of a level, begun with the direct image from which its first epochs end lower."""
    tried: list[tuple[float, Level]] = []
    for number, image in enumerate(images, 1):
        trial = level.with_model(deepcopy(level.model))
        start_from_holograms(trial.model, level.scan, image)
        with name_step(f"near field: positions, direct image {number} of {len(images)}"):
            tried.append((_run_epochs(trial, recipe, patterns, EPOCHS_BEFORE_MATERIAL), trial))
    return min(tried, key=lambda one: one[0])[1]


def _run_epochs(level: Level, recipe: Reconstruct, patterns: Patterns, epochs: int) -> float:
    """Epochs with a free object on some patterns; the last loss."""
    more = epochs + 1  # the last ones of a run would learn from those held out
    short = recipe.model_copy(update={"epochs": more, "patience": None, "changes": ()})
    own = Level.of(short, level.scan, level.model)
    own.power = level.power
    loss = math.nan
    for epoch in fit_level(own, short, patterns, epochs):
        loss = float(epoch.loss)
        report_progress(f"epoch {epoch.number} of {epochs}, loss {loss:.3f}")
    return loss
