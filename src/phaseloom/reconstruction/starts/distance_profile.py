"""The effective distance of a near-field scan by its profile: losses of fits at each of several distances.

Part of the scan is fitted with an object of one material at distances on either side of the one that is
known, illumination and positions anew at each. Where strong phases or structured light make holograms
more than a linear contrast, the loss has a sharp minimum at the right distance; else fits differ by their
own noise. The loss has what the power of the phase, as a prior, adds to that of the counts.

The ratio of absorption to phase (``beta / delta``) is found in the same way, by fits with several ratios:
with a wrong one slow details come out too strong or too weak for the others. As one more number of a fit it
goes astray, for it makes up for slow details that are not found yet.
"""

import logging
import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float

from phaseloom.calibration.hologram_start import (
    IMAGE_RATIOS,
    change_ratio,
    is_one_material_due,
    make_hologram_image,
    set_distance,
    start_from_holograms,
)
from phaseloom.calibration.near_field import ERRORS_OF_RANGE, Range, bound_distance
from phaseloom.calibration.one_material import fit_one_material
from phaseloom.calibration.orientations import select_nearest
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.fitting.distributed import team
from phaseloom.metrics.parabola import find_vertex
from phaseloom.ptycho import multigrid
from phaseloom.reconstruction.level import Level, fit_level, set_batch_size
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.reconstruction.starts.start_race import measure_each
from phaseloom.runs.progress_lines import name_step, report_progress
from phaseloom.spec import Call
from phaseloom.units import LENGTH

__all__ = ["DistanceProfile", "combine_ranges", "find_distance", "profile_distance"]

log = logging.getLogger(__name__)

STEP = 0.13
"""Of the logarithm of the distance."""

MAX_STEPS = 6
"""On either side, to which the range grows while its end is best."""

PATTERNS = 30
EPOCHS = 8
ROUNDS = (60, 160)
"""Of a fit: patterns in the middle of the scan, epochs that find the positions, then steps of L-BFGS, the
later ones with the power of the image that the first ones found as their prior."""

RATIOS = (0.0, 0.01, 0.03, 0.1)
FIRST_RATIO = 0.01
LEAST_FITS = 5
"""``beta / delta`` that are tried, from the first one to where both neighbours are worse; fits with three of
them, and at the two distances beside the middle one."""

MIN_CHANGE_FOR_RATIO = 0.04
"""Of the logarithm of the distance, from which on the ratio is looked for again."""

FIT_ERROR = 0.002
"""Share of the loss by which fits at neighbouring distances differ by what is left to do and by what is not
modelled: of a scan whose losses bend by 0.0075 the minimum was 10 % off."""

MIN_BEND = 0.0025
"""Second difference of the losses over the lowest, from which their minimum is looked at."""

MIN_SLOPE = 0.004
"""Share by which losses differ from which on the range grows where its end is best."""

SYSTEMATIC_ERROR = 0.03
"""Standard error of the logarithm of the distance by what is not modelled: source, point spread, ratio."""


@dataclass(frozen=True, eq=False)
class DistanceProfile:
    """Losses of fits by the effective distance.

    Attributes:
        flights: effective distances, angstrom, ascending, at equal ratios.
        losses: ``(flight, pattern)``, in units of shot noise.
        ratio: ``beta / delta`` of the material.
        margin: share by which its neighbours end higher; ``None``: it was stated.
        is_smoothed: fits beside the lowest loss still change what their prior adds by more than the loss of
            the counts, so that losses do not tell the distance.
    """

    flights: Float[np.ndarray, " flight"]
    losses: Float[np.ndarray, "flight pattern"]
    ratio: float | None = None
    margin: float | None = None
    is_smoothed: bool = False

    @property
    def lowest(self) -> int:
        """Place of the lowest loss."""
        return int(self.losses.mean(1).argmin())

    @property
    def is_clear(self) -> bool:
        """Whether the losses have a minimum within, deeper than fits differ by chance."""
        at = self.lowest
        if self.is_smoothed or not 0 < at < len(self.flights) - 1:
            return False
        means = self.losses.mean(1)
        return bool(means[at - 1] - 2 * means[at] + means[at + 1] > MIN_BEND * means[at])

    def find_minimum(self) -> Range:
        """The distance of the lowest loss by a parabola, and its range, angstrom.

        The range is two standard errors wide on each side: of the patterns, each left out in turn (pixels of
        a pattern have errors in common), of `FIT_ERROR`, and of `SYSTEMATIC_ERROR`.
        """
        near = self.losses[self.lowest - 1 : self.lowest + 2]
        count = near.shape[1]
        step = math.log(self.flights[1] / self.flights[0])
        without = (near.sum(1, keepdims=True) - near) / (count - 1)
        each = _find_vertex(without)
        spread = math.sqrt((count - 1) / count * float(((each - each.mean()) ** 2).sum()))
        means = near.mean(1)
        bend = (means[0] - 2 * means[1] + means[2]) / means[1]
        left = FIT_ERROR / (math.sqrt(2) * max(float(bend), MIN_BEND))
        error = ERRORS_OF_RANGE * math.hypot(step * spread, step * left, SYSTEMATIC_ERROR)
        vertex = float(_find_vertex(means[:, None])[0])
        return bound_distance(float(self.flights[self.lowest]) * math.exp(step * vertex), error)

    def line(self, found: Range | None = None, /) -> str:
        """What was found, in a sentence.

        Args:
            found: what was taken in the end; default: the minimum.
        """
        if not self.is_clear:
            low, high = (LENGTH.show(float(f"{one:.3g}")) for one in self.flights[[0, -1]])
            return f"fits at effective distances from {low} to {high} do not tell them apart"
        best, low, high = (LENGTH.show(float(f"{one:.4g}")) for one in found or self.find_minimum())
        return f"effective distance by fits of one material, which is taken: {best} ({low} to {high})"


def _find_vertex(losses: Float[np.ndarray, "3 n"]) -> Float[np.ndarray, " n"]:
    """Where a parabola through three losses is lowest, steps from the middle one."""
    return np.clip(find_vertex(*losses), -1, 1)


def combine_ranges(fitted: Range, shown: Range) -> Range:
    """Both estimates of a distance weighted by their errors; the fitted one where their ranges are apart.

    Args:
        fitted: distance and its range, by fits.
        shown: the same by rings, which are wrong by many of their errors where phases are strong.

    Example:
        >>> [round(one, 2) for one in combine_ranges((1.1, 1.0, 1.21), (0.99, 0.9, 1.089))]
        [1.04, 0.98, 1.12]
        >>> combine_ranges((1.1, 1.0, 1.21), (0.7, 0.6, 0.8))
        (1.1, 1.0, 1.21)
    """
    if shown[1] > fitted[2] or fitted[1] > shown[2]:
        return fitted
    logs = np.log([fitted[0], shown[0]])
    errors = np.array([math.log(one[2] / one[1]) / 2 for one in (fitted, shown)])
    best = math.exp(float((logs / errors**2).sum() / (errors**-2).sum()))
    return bound_distance(best, float((errors**-2).sum() ** -0.5))


def find_distance(
    measure: Callable[[float], Float[np.ndarray, " pattern"]], flight: float
) -> DistanceProfile:
    """Measure losses around a distance; the range grows while its end is clearly best.

    Args:
        measure: losses of patterns at an effective distance.
        flight: where to begin, angstrom.

    Example:
        >>> noise = 0.01 * np.random.default_rng(0).normal(size=40)
        >>> found = find_distance(lambda z: 1 + noise + 3 * np.log(z / 1.4e7) ** 2, 1e7)
        >>> found.is_clear, round(found.find_minimum()[0] / 1e7, 3)
        (True, 1.4)
    """
    known = {step: measure(flight * math.exp(STEP * step)) for step in (0, -1, 1)}
    while True:
        steps = sorted(known)
        means = {step: float(known[step].mean()) for step in steps}
        best = min(steps, key=lambda step: means[step])
        inward = best + (1 if best == steps[0] else -1)
        is_informative = max(means.values()) > (1 + MIN_SLOPE) * means[best]
        grows = best in (steps[0], steps[-1]) and is_informative
        if not grows or abs(best) >= MAX_STEPS:
            break
        further = 2 * best - inward
        known[further] = measure(flight * math.exp(STEP * further))
    flights = np.array([flight * math.exp(STEP * step) for step in steps])
    return DistanceProfile(flights, np.stack([known[step] for step in steps]))


def profile_distance(recipe: Reconstruct, scan: Scan4D, /) -> DistanceProfile | None:
    """Fit the middle of a near-field scan at several distances; ``None`` where such a fit does not serve.

    Args:
        recipe: of the run, with the automatic start.
        scan: prepared, on the window that is modelled.
    """
    few = select_nearest(multigrid.model_detector_pixels(scan), PATTERNS)
    few = replace(few, counts=np.asarray(few.counts[np.arange(len(few))]))
    changes = {"start": Call("phaseloom.reconstruction.start", "none"), "holdout": 0.0, "patience": None}
    short = recipe.model_copy(update={**changes, "changes": (), "epochs": EPOCHS, "found": {}})
    settled, _ = short.settle(few)
    state = torch.random.get_rng_state()
    try:
        model = settled.build_model(few)
        if team().world_size > 1 or not is_one_material_due(model):
            return None
        return _profile(
            _Trials(settled, few), scan.geometry.flight, 0.0 if model.object.kind == "phase" else None
        )
    finally:
        torch.random.set_rng_state(state)


def _profile(trials: "_Trials", flight: float, stated: float | None) -> DistanceProfile:
    """Ratio, then distance, and the ratio again where the distance has moved."""
    ratio = trials.find_ratio(flight, FIRST_RATIO) if stated is None else stated
    found = find_distance(lambda one: trials.measure(one, ratio), flight)
    near = found.flights[max(found.lowest - 1, 0) : found.lowest + 2]
    found = replace(found, is_smoothed=any((one, ratio) in trials.smoothed for one in near.tolist()))
    if stated is not None:
        return replace(found, ratio=stated)
    moved = found.find_minimum()[0] if found.is_clear else flight
    at = moved if abs(math.log(moved / flight)) > MIN_CHANGE_FOR_RATIO else flight
    best = trials.find_ratio(at, ratio)
    return replace(found, ratio=best, margin=trials.measure_margin(at, best))


class _Trials:
    """Fits of a part of a scan at several distances and with several ratios."""

    def __init__(self, recipe: Reconstruct, scan: Scan4D):
        self.recipe = recipe
        self.scan = scan
        self.starts: dict[float, tuple[Level, Geometry] | None] = {}
        self.images = IMAGE_RATIOS
        self.known: dict[tuple[float, float], Float[np.ndarray, " pattern"]] = {}
        self.smoothed: set[tuple[float, float]] = set()

    def find_ratio(self, flight: float, first: float) -> float:
        """The ratio of the lowest loss at a distance, from one on while a neighbour is better."""
        best = first
        while True:
            other = min(self._neighbours(best), key=partial(self._mean, flight))
            if not self._mean(flight, other) < self._mean(flight, best):
                return best
            best = other

    def measure_margin(self, flight: float, ratio: float) -> float:
        """Share by which the neighbours of a ratio end higher."""
        best = self._mean(flight, ratio)
        others = [self._mean(flight, one) for one in self._neighbours(ratio)]
        return min(others) / best - 1 if math.isfinite(best) else 0.0

    @staticmethod
    def _neighbours(ratio: float) -> list[float]:
        place = RATIOS.index(ratio)
        return [RATIOS[one] for one in (place - 1, place + 1) if 0 <= one < len(RATIOS)]

    def _mean(self, flight: float, ratio: float) -> float:
        return float(self.measure(flight, ratio).mean())

    def measure(self, flight: float, ratio: float) -> Float[np.ndarray, " pattern"]:
        """Losses of the patterns after a fit, with what the prior adds; infinite where it fails."""
        if (flight, ratio) in self.known:
            return self.known[flight, ratio]
        far = LENGTH.show(float(f"{flight:.3g}"))
        fit = f"fit {len(self.known) + 1} of {LEAST_FITS} or more"
        with name_step(f"near field: {fit}, effective distance {far}, beta / delta {ratio:.2g}"):
            self.known[flight, ratio] = self._measure(flight, ratio)
        return self.known[flight, ratio]

    def _measure(self, flight: float, ratio: float) -> Float[np.ndarray, " pattern"]:
        if flight not in self.starts:
            self.starts = {flight: self._begin(flight)}  # one is kept: it is asked for in turn
        start = self.starts[flight]
        patterns = np.arange(len(self.scan))
        if start is None:
            return np.full(len(patterns), np.inf)
        level, window = start
        trial = level.with_model(deepcopy(level.model))
        fitted = fit_one_material(trial.model, trial.likelihood, window, ratio=ratio, rounds=ROUNDS)
        if fitted.is_smoothed:
            self.smoothed.add((flight, ratio))
        return measure_each(trial, patterns) + fitted.penalties[-1]

    def _begin(self, flight: float) -> tuple[Level, Geometry] | None:
        """A model at a distance after the epochs that find positions; ``None`` without a direct image.

        The first time from each direct image; later from that which explained more.
        """
        recipe, there = set_distance(self.recipe, self.scan, flight)
        if (image := make_hologram_image(there)) is None:
            return None
        tried: dict[float, tuple[float, Level]] = {}
        for ratio in self.images:
            torch.manual_seed(self.recipe.seed)
            level = Level.of(recipe, there, recipe.build_model(there))
            own = recipe.model_copy(update={"batch": set_batch_size(recipe, level)})
            start_from_holograms(level.model, there, change_ratio(image, there, ratio))
            tried[ratio] = (self._find_positions(level, own), level)
        best = min(tried, key=lambda one: tried[one][0])
        self.images = (best,)
        return tried[best][1], there.window

    def _find_positions(self, level: Level, recipe: Reconstruct) -> float:
        """The loss after the first epochs."""
        patterns = np.arange(len(level.scan))
        loss = math.inf
        for epoch in fit_level(level, recipe, (patterns, patterns[:0]), EPOCHS):
            loss = float(epoch.loss)
            report_progress(f"epoch {epoch.number} of {EPOCHS}, loss {loss:.3f}")
        return loss
