"""The effective distance of a near-field scan, and the absorption of its material, by fits of its middle.

Some patterns are fitted with an object of one material at distances on either side of the one that is
known, illumination and positions anew at each. Where strong phases or structured light make holograms
more than a linear contrast, the loss has a sharp minimum at the right distance; else fits differ by their
own noise.

The minimum moves with the ratio of absorption to phase (``beta / delta``), by a tenth and more where that is
wrong. So each ratio has its own profile, and is tried by epochs with a free object at its own distance. As
one more number of a fit the ratio goes astray, for it makes up for slow details that are not found yet.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float

from phaseloom.calibration.hologram_start import (
    is_one_material_due,
    make_hologram_image,
    set_distance,
    start_from_holograms,
)
from phaseloom.calibration.near_field import ERROR_OF_STATED, ERRORS_OF_RANGE, Range, bound_distance
from phaseloom.calibration.one_material import fit_one_material
from phaseloom.calibration.orientations import select_nearest
from phaseloom.data.scan import Scan4D
from phaseloom.fitting.distributed import team
from phaseloom.metrics.parabola import find_vertex
from phaseloom.ptycho import multigrid
from phaseloom.reconstruction.level import Level, fit_level, set_batch_size
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.reconstruction.starts.start_race import measure_each
from phaseloom.runs.progress_lines import name_step, report_progress
from phaseloom.spec import Call
from phaseloom.units import LENGTH

__all__ = [
    "DistanceProfile",
    "FoundDistance",
    "choose_distance",
    "choose_ratio",
    "combine_ranges",
    "find_distance",
]

STEP = 0.13
"""Of the logarithm of the distance."""

MAX_STEPS = 6
"""On either side, to which the range grows while its end is best."""

PATTERNS = 30
EPOCHS = 8
ITERATIONS = 60
"""Of a fit: patterns in the middle of the scan, epochs that find the positions, then steps of L-BFGS."""

RATIOS = (0.01, 0.03, 0.1)
"""``beta / delta`` that are tried. Images without absorption are right with the lowest one."""

LEAST_FITS = len(RATIOS) + 2
"""Of a search in which one ratio alone comes near the lowest loss."""

MAX_EXCESS = 1.3
"""Times the lowest loss at the first distance, above which a ratio is not tried any further."""

EPOCHS_OF_TRIAL = 10
"""With a free object. After 8 of 12 one scan had not settled, and the wrong ratio had the lower loss."""

MIN_GAIN_OF_RATIO = 0.003
"""Share by which the loss of a trial has to be lower to take more absorption: an illumination that is not
right yet is made up for by absorption."""

FIT_ERROR = 0.005
"""Share of the loss by which fits at neighbouring distances differ by what is left to do and by what is not
modelled: of a scan whose losses bend by 0.0075 the minimum was 10 % off."""

MIN_BEND = 0.003
"""Second difference of the losses over the lowest, from which their minimum is looked at."""

MIN_SLOPE = 0.004
"""Share by which losses differ from which on the range grows where its end is best."""

SYSTEMATIC_ERROR = 0.04
"""Standard error of the logarithm of the distance by what is not modelled: source, point spread, ratio. Of
twelve scans of development minima were off by 4 % (root mean square), a thirteenth by 19 %."""


@dataclass(frozen=True, eq=False)
class DistanceProfile:
    """Losses of fits by the effective distance.

    Attributes:
        flights: effective distances, angstrom, ascending, at equal ratios.
        losses: ``(flight, pattern)``, in units of shot noise.
        ratio: ``beta / delta`` of the material.
    """

    flights: Float[np.ndarray, " flight"]
    losses: Float[np.ndarray, "flight pattern"]
    ratio: float = RATIOS[0]

    @property
    def lowest(self) -> int:
        """Place of the lowest loss."""
        return int(self.losses.mean(1).argmin())

    @property
    def is_clear(self) -> bool:
        """Whether the losses have a minimum within, deeper than fits differ by chance."""
        at = self.lowest
        if not 0 < at < len(self.flights) - 1:
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


@dataclass(frozen=True, eq=False)
class FoundDistance:
    """What fits of part of a near-field scan say of it.

    Attributes:
        flight: effective distance, angstrom.
        limits: where its range begins and ends, angstrom; ``None``: nothing is known.
        profile: losses of the fits it comes from, with their `beta / delta`.
    """

    flight: float
    limits: tuple[float, float] | None
    profile: DistanceProfile

    @classmethod
    def of(cls, profile: DistanceProfile, flight: float, shown: Range | None, /) -> "FoundDistance":
        """The minimum of a profile, together with what rings show; what was known where there is none.

        Args:
            profile: losses by distance.
            flight: distance that was known, angstrom.
            shown: distance and its range by rings; ``None``: they show none.
        """
        if not profile.is_clear:
            return cls(flight, None if shown is None else shown[1:], profile)
        if shown is None:
            shown = bound_distance(flight, ERRORS_OF_RANGE * ERROR_OF_STATED)
        best = combine_ranges(profile.find_minimum(), shown)
        return cls(best[0], best[1:], profile)

    def line(self) -> str:
        """What was found, in a sentence."""
        if not self.profile.is_clear or self.limits is None:
            low, high = (LENGTH.show(float(f"{one:.3g}")) for one in self.profile.flights[[0, -1]])
            return f"fits at effective distances from {low} to {high} do not tell them apart"
        best, low, high = (LENGTH.show(float(f"{one:.4g}")) for one in (self.flight, *self.limits))
        return f"effective distance with fits of one material: {best} ({low} to {high})"


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
    known = {step: measure(flight * math.exp(STEP * step)) for step in (-1, 0, 1)}
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
    return DistanceProfile(
        flight * np.exp(STEP * np.array(steps, float)), np.stack([known[step] for step in steps])
    )


def choose_distance(recipe: Reconstruct, scan: Scan4D, shown: Range | None, /) -> FoundDistance | None:
    """Fit the middle of a near-field scan at several distances; ``None`` where such a fit does not serve.

    Args:
        recipe: of the run, with the automatic start.
        scan: prepared, on the window that is modelled.
        shown: distance and its range by rings; ``None``: they show none.
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
        ratios = (0.0,) if model.object.kind == "phase" else RATIOS
        return _choose(_Trials(settled, few), scan.geometry.flight, ratios, shown)
    finally:
        torch.random.set_rng_state(state)


def _choose(
    trials: "_Trials", flight: float, ratios: Sequence[float], shown: Range | None
) -> FoundDistance | None:
    """The distance of each ratio, and the ratio whose trial has the lower loss."""
    first = {ratio: float(trials.measure(flight, ratio).mean()) for ratio in ratios}
    tried = [ratio for ratio in ratios if first[ratio] <= MAX_EXCESS * min(first.values())]
    found = []
    for ratio in tried:
        profile = find_distance(lambda one, ratio=ratio: trials.measure(one, ratio), flight)
        found.append(FoundDistance.of(replace(profile, ratio=ratio), flight, shown))
    if len(found) == 1:
        return found[0]
    losses = {one.profile.ratio: trials.try_free_object(one.flight, one.profile.ratio) for one in found}
    return choose_among(found, losses)


def choose_among(found: Sequence[FoundDistance], losses: Mapping[float, float], /) -> FoundDistance:
    """The distance of the ratio that is chosen; its range takes in those of ratios that are not told from it.

    Args:
        found: distances, each with the ratio of its profile.
        losses: after a trial with a free object, by ratio.

    Example:
        >>> known = {ratio: DistanceProfile(np.ones(1), np.ones((1, 1)), ratio) for ratio in (0.01, 0.1)}
        >>> found = [FoundDistance(1.0, (0.9, 1.1), known[0.01]), FoundDistance(1.2, (1.1, 1.3), known[0.1])]
        >>> [choose_among(found, {0.01: 1.0, 0.1: loss}).limits for loss in (0.999, 0.9, 1.1)]
        [(0.9, 1.3), (1.1, 1.3), (0.9, 1.1)]
    """
    ratio = choose_ratio(losses)
    taken = next(one for one in found if one.profile.ratio == ratio)
    most = losses[ratio] / (1 - MIN_GAIN_OF_RATIO)
    limits = [one.limits for one in found if losses[one.profile.ratio] <= most and one.limits is not None]
    if taken.limits is None or not limits:
        return taken
    return replace(taken, limits=(min(low for low, _ in limits), max(high for _, high in limits)))


def choose_ratio(losses: Mapping[float, float], /) -> float:
    """The lowest ratio, or a higher one whose trial has a clearly lower loss.

    Args:
        losses: after a trial with a free object, by ratio.

    Example:
        >>> choose_ratio({0.01: 1.0, 0.03: 0.99, 0.1: 0.989})
        0.03
    """
    ratios = sorted(losses)
    best = ratios[0]
    for ratio in ratios[1:]:
        if losses[ratio] < (1 - MIN_GAIN_OF_RATIO) * losses[best]:
            best = ratio
    return best


class _Trials:
    """Fits of a part of a scan at several distances and with several ratios."""

    def __init__(self, recipe: Reconstruct, scan: Scan4D):
        self.recipe = recipe
        self.scan = scan
        self.patterns = np.arange(len(scan))
        self.known: dict[tuple[float, float], Float[np.ndarray, " pattern"]] = {}
        self.count = 0

    def measure(self, flight: float, ratio: float) -> Float[np.ndarray, " pattern"]:
        """Losses of the patterns after a fit; infinite where that fails."""
        if (flight, ratio) not in self.known:
            level = self._fit(flight, ratio)
            failed = np.full(len(self.patterns), np.inf)
            self.known[flight, ratio] = failed if level is None else measure_each(level, self.patterns)
        return self.known[flight, ratio]

    def try_free_object(self, flight: float, ratio: float) -> float:
        """Loss after epochs with a free object, without a prior: one with more power leaves more to fit."""
        level = self._fit(flight, ratio)
        if level is None:
            return math.inf
        with name_step(f"near field: trial with a free object, beta / delta {ratio:.2g}"):
            self._run_epochs(level, EPOCHS_OF_TRIAL)
        return float(measure_each(level, self.patterns).mean())

    def _fit(self, flight: float, ratio: float) -> Level | None:
        """An object of one material at a distance, from its own direct image; ``None`` without one."""
        self.count += 1
        far = LENGTH.show(float(f"{flight:.3g}"))
        fit = f"fit {self.count} of {LEAST_FITS} or more"
        with name_step(f"near field: {fit}, effective distance {far}, beta / delta {ratio:.2g}"):
            torch.manual_seed(self.recipe.seed)
            recipe, there = set_distance(self.recipe, self.scan, flight)
            level = Level.of(recipe, there, recipe.build_model(there))
            if (image := make_hologram_image(there, ratio)) is None:
                return None
            start_from_holograms(level.model, there, image)
            self._run_epochs(level, EPOCHS)
            fit_one_material(level.model, level.likelihood, there.window, ratio=ratio, iterations=ITERATIONS)
            return level

    def _run_epochs(self, level: Level, count: int) -> None:
        recipe = self.recipe.model_copy(update={"epochs": count})
        recipe = recipe.model_copy(update={"batch": set_batch_size(recipe, level)})
        for epoch in fit_level(level, recipe, (self.patterns, self.patterns[:0]), count):
            report_progress(f"epoch {epoch.number} of {count}, loss {epoch.loss:.3f}")
