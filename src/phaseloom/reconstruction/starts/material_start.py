"""The start of a near-field run: an object of one material, with the ratio of absorption to phase that was
found with the distance (`phaseloom.reconstruction.starts.distance_profile`).

A free object hardly moves slow details of its phase and its absorption in some tens of epochs.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from phaseloom.calibration.hologram_start import (
    is_one_material_due,
    make_hologram_image,
    start_from_holograms,
)
from phaseloom.calibration.one_material import fit_one_material
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
    is_fitted = is_one_material_due(level.model)
    levels = build_levels(level, recipe) if is_fitted and multigrid.count_finer_grids(level.scan) else [level]
    coarsest = levels[0]
    first = ratio if is_fitted else ratio or None
    image = make_hologram_image(coarsest.scan, USUAL_RATIO if first is None else first)
    if image is None:
        return None
    start_from_holograms(coarsest.model, coarsest.scan, image)
    if not is_fitted:
        return HologramStart(image)
    with name_step("near field: positions"):
        _run_epochs(coarsest, recipe, patterns, EPOCHS_BEFORE_MATERIAL)
    knobs = {"patterns": patterns[0], "ratio": ratio}
    with name_step("near field: object of one material"):
        fitted = fit_one_material(coarsest.model, coarsest.likelihood, coarsest.scan.window, **knobs)
    for coarser, finer in pairwise(levels):
        multigrid.transfer_parameters(coarser.model, finer.model)
    return HologramStart(make_hologram_image(coarsest.scan, fitted.ratio) or image, fitted.ratio)


def _run_epochs(level: Level, recipe: Reconstruct, patterns: Patterns, epochs: int) -> None:
    """Epochs with a free object on some patterns."""
    more = epochs + 1  # the last ones of a run would learn from those held out
    short = recipe.model_copy(update={"epochs": more, "patience": None, "changes": ()})
    own = Level.of(short, level.scan, level.model)
    own.power = level.power
    for epoch in fit_level(own, short, patterns, epochs):
        report_progress(f"epoch {epoch.number} of {epochs}, loss {epoch.loss:.3f}")
