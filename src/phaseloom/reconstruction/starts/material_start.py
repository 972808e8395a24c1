"""The start of a near-field run: an object of one material.

Fits of one material do not tell their ratio of absorption to phase: a wrong illumination, a finite source and
pixels that are too coarse are made up for by more of it, in patterns held out as well. From a wrong ratio a
free object ends at a higher loss of the patterns that it learns from, as slow details of its phase and its
absorption hardly move in some tens of epochs.
"""

import logging
import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from phaseloom.calibration.hologram_start import (
    change_ratio,
    is_one_material_due,
    make_hologram_image,
    make_hologram_images,
    start_from_holograms,
)
from phaseloom.calibration.one_material import fit_one_material
from phaseloom.direct.holograms import USUAL_RATIO, HologramImage
from phaseloom.ptycho import multigrid
from phaseloom.ptycho.model import Ptychography
from phaseloom.reconstruction.level import Level, build_levels, fit_level
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.runs.progress_lines import name_step, report_progress

__all__ = ["HologramStart", "begin_with_holograms", "choose_start"]

log = logging.getLogger(__name__)

Patterns = tuple[np.ndarray, np.ndarray]
"""Indices to learn from, and indices held out."""

RATIOS = (0.01, 0.03, 0.1)
"""``beta / delta`` that runs begin with."""

EPOCHS_BEFORE_MATERIAL = 16
"""Before an object of one material is fitted: they find the positions."""

MOST_ITERATIONS = 160
"""Of L-BFGS for an object of one material, where the loss still falls."""

EPOCHS_OF_TRIAL = 10
"""With a free object. After 8 of 12 one scan had not settled, and the wrong ratio had the lower loss."""

MIN_GAIN_OF_LESS = 0.0003
MIN_GAIN_OF_MORE = 0.015
"""Shares by which the loss has to be lower to take less, or more, absorption than the middle one, with which
most images are right. A source of finite size, structure finer than the pixels and a distance that is too
short are made up for by more absorption: without any, it gained up to 0.009, with 0.1 from 0.0003 to 0.043.
Less gained 0.0002 to 0.0009 where there was none, and nothing where there was 0.1."""


@dataclass(frozen=True, eq=False)
class HologramStart:
    """What a run begins with.

    Attributes:
        image: the direct image, with the ratio of the object.
        ratio: ``beta / delta`` of an object of one material; ``None``: none was fitted.
        loss: of the patterns learned from after some epochs with a free object; ``None``: not tried.
        margin: lowest loss from another ratio over that, less one; ``None``: no other was tried.
    """

    image: HologramImage
    ratio: float | None = None
    loss: float | None = None
    margin: float | None = None


def begin_with_holograms(
    level: Level, recipe: Reconstruct, patterns: Patterns, /, *, ratios: Sequence[float | None]
) -> HologramStart | None:
    """Give a model its start from holograms; ``None``, and no change, where there is no direct image.

    On pixels finer than the detector's the start is found on those of the detector.

    Args:
        level: of the finest grid.
        recipe: of the run.
        patterns: indices to learn from, and indices held out, which stay unseen but for their positions.
        ratios: ``beta / delta`` to choose from, ascending; ``(None,)``: it is fitted.
    """
    levels = build_levels(level, recipe) if multigrid.count_finer_grids(level.scan) else [level]
    coarsest = levels[0]
    if not is_one_material_due(level.model):
        image = make_hologram_image(level.scan, ratios[0] if len(ratios) == 1 and ratios[0] else USUAL_RATIO)
        if image is None:
            return None
        start_from_holograms(level.model, level.scan, image)
        return HologramStart(image)
    images = make_hologram_images(coarsest.scan)
    if not images:
        return None
    image, *others = images
    first = _begin_with_an_image(coarsest, recipe, patterns, [image] if None in ratios else others)
    found: list[tuple[HologramStart, Ptychography]] = []
    for number, ratio in enumerate(ratios, 1):
        trial = first.with_model(deepcopy(first.model))
        which = "" if ratio is None else f", beta / delta {ratio:.2g}"
        with name_step(f"near field: start {number} of {len(ratios)}{which}"):
            start = _fit_start(trial, recipe, patterns, image, ratio, is_tried=len(ratios) > 1)
        found.append((start, trial.model))
    start = choose_start([one for one, _ in found])
    model = next(model for one, model in found if one.ratio == start.ratio)
    coarsest.model.load_state_dict(model.state_dict())
    for coarser, finer in pairwise(levels):
        multigrid.transfer_parameters(coarser.model, finer.model)
    return start


def choose_start(starts: Sequence[HologramStart], /) -> HologramStart:
    """The start of the middle ratio, or another one where its loss is clearly lower.

    Args:
        starts: by ascending ratios.
    """
    best = starts[len(starts) // 2]
    for start in starts:
        gain = MIN_GAIN_OF_MORE if (start.ratio or 0) > (best.ratio or 0) else MIN_GAIN_OF_LESS
        if best.loss is not None and start.loss is not None and start.loss < (1 - gain) * best.loss:
            best = start
    others = [start.loss for start in starts if start is not best and start.loss is not None]
    return replace(best, margin=min(others) / best.loss - 1) if others and best.loss else best


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


def _fit_start(
    level: Level,
    recipe: Reconstruct,
    patterns: Patterns,
    image: HologramImage,
    ratio: float | None,
    *,
    is_tried: bool,
) -> HologramStart:
    """Fit an object of one material; with the loss that a free object then reaches."""
    # with more, a ratio that is fitted, heights beside it, and slow details without absorption go astray
    most = MOST_ITERATIONS if ratio else None
    knobs = {"patterns": patterns[0], "ratio": ratio, "most": most}
    with name_step("object of one material"):
        fitted = fit_one_material(level.model, level.likelihood, level.scan.window, **knobs)
    image = change_ratio(image, level.scan, fitted.ratio)
    if not is_tried:
        return HologramStart(image, fitted.ratio)
    trial = level.with_model(deepcopy(level.model))
    # without a prior of the object: the one with more power leaves more noise to fit
    with name_step("trial with a free object"):
        loss = _run_epochs(trial, recipe, patterns, EPOCHS_OF_TRIAL)
    log.info("near field: beta / delta %.2g: loss %.4g", fitted.ratio, loss)
    return HologramStart(image, fitted.ratio, loss)


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
