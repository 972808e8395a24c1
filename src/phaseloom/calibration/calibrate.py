"""Estimate what the file of a scan does not say: orientation, rotation, optics, step and slices."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from phaseloom.calibration import estimators as own
from phaseloom.calibration.state import CalibrationState, Estimate, Estimator, RunReconstruction
from phaseloom.data import prepare
from phaseloom.data.bad_pixels import find_bad_pixels
from phaseloom.data.calibrate import fit_disk, mean_for_disk
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.fitting.distributed import team
from phaseloom.spec import Call

__all__ = ["DEFAULT_ESTIMATORS", "Calibration", "is_calibration_due", "mask_bad_pixels", "run_estimators"]

DEFAULT_ESTIMATORS: tuple[Estimator, ...] = (
    own.estimate_semiangle,
    own.estimate_orientation,
    own.check_by_sweep,
    own.estimate_modes,
    own.resolve_twin,
    own.estimate_step,
    own.refine_geometry,
    own.estimate_slices,
)
"""From cheap and coarse to precise; each starts from the results of those before it."""

MAX_REST_AFTER_CENTRING = 0.75
"""Pixels that a disk may lie off after a shift by whole pixels, which leaves up to a half."""

MIN_SHIFT_OF_LINES = 0.005
"""Detector pixels rms by which lines of a raster are said to be shifted."""

MIN_PLACES_OF_RASTER = 8
"""Rows and columns of a raster from which a run calibrates by itself; fewer tell too little."""

MAX_WIDTH_OF_NARROW_BEAM = 4
"""Pixels from the middle of a far field of photons, within which a bright pixel may be the beam."""

MIN_WIDTH_OF_SCAN = 1e-3
"""Width of a scan over its length, below which it is a line."""

PROBES_TO_CALIBRATE = ("auto", "from_patterns", "focused", "aberrated")
"""First guesses of a probe whose curvature a calibration may choose."""

STEPS_THAT_MOVE_PIXELS = frozenset({"bin", "center", "crop", "flip", "pad", "resample", "transpose"})
"""Steps of `prepare` after which a pixel has another row and column than in the file."""


@dataclass(frozen=True)
class Calibration:
    """The result of a calibration.

    Attributes:
        recipe: of a run with all of it written in, and nothing left to find.
        state: the same as numbers.
        estimates: one for each quantity.
        tried: candidates of each estimator, by its name.
    """

    recipe: Any
    state: CalibrationState
    estimates: tuple[Estimate, ...]
    tried: dict[str, list[dict[str, Any]]]

    def lines(self) -> list[str]:
        """The estimates as lines of text."""
        return [estimate.line() for estimate in self.estimates]

    def summary(self) -> dict[str, str]:
        """The estimates as a run file keeps them."""
        return {one.name: one.line().removeprefix(one.name).strip() for one in self.estimates}


def run_estimators(
    recipe: Any,
    scan: Scan4D,
    /,
    *,
    run: RunReconstruction,
    estimators: Sequence[Estimator] = DEFAULT_ESTIMATORS,
) -> Calibration:
    """Estimate one quantity after the other, by direct methods and short reconstructions.

    `phaseloom.reconstruction.protocol.calibrate` calls it with the reconstruction of this package.

    Args:
        recipe: of the reconstruction; what it states of the probe is the starting point.
        scan: as the recipe reads and prepares it.
        run: reconstructs a scan by a recipe.
        estimators: in order; one of your own takes the place of another.

    Raises:
        BadInput: a near field, a probe that brings its own curvature, or no semi-angle to be found.
    """
    _check_calibratable(recipe, scan)
    recipe, scan, masked = mask_bad_pixels(recipe, scan)
    recipe, scan, centring = _centre_patterns(recipe, scan)
    recipe, scan, moved = _follow_descan(recipe, scan)
    recipe, scan, drifting = _follow_beam_drift(recipe, scan)
    stated = recipe.probe.values
    defocus = float(stated.get("defocus") or 0.0)
    state = CalibrationState(recipe, semiangle=stated.get("semiangle"), defocus=defocus, run=run)
    estimates = [*masked, *centring, *moved, *drifting]
    tried = {}
    for estimator in estimators:
        # its short runs are too small to be shared, and amplify the rounding of sums over processes
        found = team().compute_on_main(partial(estimator, scan, state))
        state = found.state
        estimates += found.estimates
        tried[getattr(estimator, "__name__", type(estimator).__name__)] = found.tried
    complete = state.recipe(scan)
    done = Calibration(complete, state, tuple(estimates), tried)
    undecided = [one.name for one in estimates if one.is_guess or not one.decided]
    kept = {**complete.found, "calibrate": done.summary(), "undecided": undecided}
    if state.suggested_step is not None:
        kept["suggested_step"] = float(f"{state.suggested_step / state.step:.4g}")
    if state.doubted_step is not None:
        kept["doubted_step"] = float(f"{state.doubted_step:.4g}")
    return replace(done, recipe=complete.model_copy(update={"found": kept}))


def is_calibration_due(recipe: Any, scan: Scan4D, /) -> bool:
    """Whether a run should begin with a calibration: asked for, or nothing tells how the scan lies.

    Args:
        recipe: of the reconstruction; ``preset: auto`` lets the scan decide.
        scan: as the recipe reads and prepares it.
    """
    if recipe.preset != "auto":
        return recipe.preset == "calibrate"
    left_open = recipe.start.name == "sweep" and not recipe.start.values and recipe.object.name == "pixels"
    oriented = scan.oriented or recipe.states_orientation
    if not left_open or oriented or scan.geometry.beam != "electron" or scan.probe is not None:
        return False
    if scan.grid is None or min(scan.grid) < MIN_PLACES_OF_RASTER:
        return False
    try:
        _check_calibratable(recipe, scan)
        mean = scan.mean_pattern()
        return fit_disk(mean, mask=scan.mask & find_bad_pixels(scan, mean=mean).mask).clear
    except BadInput:
        return False


def _check_calibratable(recipe: Any, scan: Scan4D) -> None:
    if scan.geometry.near:
        raise BadInput("preset", "calibrate", "needs far-field patterns with a bright disk: leave it out")
    if recipe.probe.name not in PROBES_TO_CALIBRATE:
        choices = ", ".join(PROBES_TO_CALIBRATE[1:])
        fix = f"brings a curvature of its own: write one of {choices} to calibrate"
        raise BadInput("probe", recipe.probe.name, fix)
    spread = np.linalg.svd(scan.positions - scan.positions.mean(0), compute_uv=False)
    if not spread[0]:
        fix = "tell nothing of how the scan lies: give those of the beam"
        raise BadInput("positions", "all the same", fix)
    if spread[-1] < MIN_WIDTH_OF_SCAN * spread[0]:
        fix = "tell too little of how the scan lies: calibrate a scan that covers an area"
        raise BadInput("positions", "on one line", fix)


def mask_bad_pixels(recipe: Any, scan: Scan4D, /) -> tuple[Any, Scan4D, tuple[Estimate, ...]]:
    """The scan without hot and dead pixels, and which they are.

    A far field of photons may well be one pixel wide: where one of these pixels is within a few of the
    middle, only gaps between modules and beam stops are masked.

    Args:
        recipe: of the reconstruction; ``mask: none``, or a step of its own, leaves the scan as it is.
        scan: as the recipe reads and prepares it.
    """
    own = any(step.name == "mask" and {"outliers", "gaps"} & {*step.values} for step in recipe.prepare)
    if recipe.mask == "none" or own:
        return recipe, scan, ()
    bad = find_bad_pixels(scan)
    good, lines, which = bad.mask, bad.lines(), "outliers"
    is_wide = scan.geometry.beam == "electron" or scan.geometry.near
    if not (is_wide or _are_far_from_middle(scan.mask & ~bad.mask & ~bad.gaps)):
        good, lines, which = ~bad.gaps, bad.describe_gaps(), "gaps"
    if not lines or not (scan.mask & good).any():
        return recipe, scan, ()
    step = Call(prepare.__name__, "mask", {which: True})
    moved = any(step.name in STEPS_THAT_MOVE_PIXELS for step in recipe.prepare)
    note = "by prepare: mask" + (", rows and columns after the other steps of prepare" if moved else "")
    found = Estimate("bad pixels", "; ".join(lines), "none", math.inf, True, note=note)
    return _append_step(recipe, step), replace(scan, mask=scan.mask & good), (found,)


def _are_far_from_middle(pixels: np.ndarray) -> bool:
    """Whether none of these pixels could be the beam itself."""
    away = np.argwhere(pixels) - np.array(pixels.shape) // 2
    return bool((np.abs(away).max(1) > MAX_WIDTH_OF_NARROW_BEAM).all())


def _append_step(recipe: Any, step: Call) -> Any:
    """The recipe with one more step of `prepare`."""
    return recipe.model_copy(update={"prepare": (*recipe.prepare, step)})


def _follow_descan(recipe: Any, scan: Scan4D) -> tuple[Any, Scan4D, tuple[Estimate, ...]]:
    """The scan with the shift of each pattern, where the disk moves over the detector during the scan."""
    if scan.descan is not None:
        return recipe, scan, ()
    step = Call(prepare.__name__, "descan")
    try:
        moved = step(scan)
    except BadInput:  # no disk: the next estimator says so
        return recipe, scan, ()
    if moved.descan is None:
        return recipe, scan, ()
    rows, columns = np.ptp(moved.descan, axis=0).tolist()
    value = f"{rows:.2f} pixels along rows, {columns:.2f} along columns"
    plane = np.column_stack([np.ones(len(scan)), scan.positions])
    lines = moved.descan - plane @ np.linalg.lstsq(plane, moved.descan, rcond=None)[0]
    size = float(np.sqrt((lines**2).sum(1).mean()))
    shift = f"{size:.2f} pixels rms" if size > MIN_SHIFT_OF_LINES else "none"
    note = f"by prepare: descan; of it single lines by {shift}"
    found = Estimate("descan", value, "none", math.inf, True, note=note)
    return _append_step(recipe, step), moved, (found,)


def _follow_beam_drift(recipe: Any, scan: Scan4D) -> tuple[Any, Scan4D, tuple[Estimate, ...]]:
    """The scan with the intensity of each shot, where the beam gets brighter or darker during the scan."""
    if scan.weights is not None:
        return recipe, scan, ()
    step = Call(prepare.__name__, "weights", {"drift": True})
    steady = step(scan)
    if steady.weights is None:
        return recipe, scan, ()
    value = f"{steady.weights.min():.3f} to {steady.weights.max():.3f} of the mean"
    found = Estimate("intensity", value, "steady", math.inf, True, note="by prepare: weights")
    return _append_step(recipe, step), steady, (found,)


def _centre_patterns(recipe: Any, scan: Scan4D) -> tuple[Any, Scan4D, tuple[Estimate, ...]]:
    """The scan with its bright disk in the middle, and what was done if it lay off.

    Patterns that were flipped by hand lie off by a pixel, and the estimates from them are wrong.
    """
    off = _disk_offset(scan)
    if not any(off):
        return recipe, scan, ()
    step = Call(prepare.__name__, "center", {"by": "disk"})
    moved = step(scan)
    remaining = _disk_offset(moved)
    before = _format_offset(off)
    if max(map(abs, remaining)) > MAX_REST_AFTER_CENTRING:
        note = "the estimates below are not reliable: centre the patterns"
        return recipe, scan, (Estimate("centre", before, before, 1.0, False, note=note),)
    after = _format_offset(remaining)
    centred = Estimate("centre", after, before, math.inf, True, note="by prepare: center")
    return _append_step(recipe, step), moved, (centred,)


def _disk_offset(scan: Scan4D) -> tuple[float, float]:
    """Pixels by which the bright disk lies off the middle, where there clearly is one."""
    try:
        disk = fit_disk(mean_for_disk(scan.counts), mask=scan.mask)
    except BadInput:
        return 0.0, 0.0
    return disk.off(scan.geometry.shape) if disk.clear else (0.0, 0.0)


def _format_offset(off: tuple[float, float]) -> str:
    return f"{off[0]:+.2f}, {off[1]:+.2f} pixels off"
