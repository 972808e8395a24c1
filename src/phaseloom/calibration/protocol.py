"""The ladder that a user needs first: how the detector lies, optics, step and slices, found by short runs."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from phaseloom.calibration import estimators as rungs
from phaseloom.calibration.state import Finding, Known, Rung
from phaseloom.data import prepare
from phaseloom.data.calibrate import fitted_disk
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.fitting.distributed import team
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.spec import Call

__all__ = ["LADDER", "Calibration", "calibrate", "calibrated"]

log = logging.getLogger(__name__)

LADDER: tuple[Rung, ...] = (
    rungs.aperture,
    rungs.orientation,
    rungs.sign,
    rungs.geometry,
    rungs.pixel,
    rungs.depth,
)
"""From what is cheap and far-sighted to what is precise; each goes on from what the ones before it found."""

FREE = ("auto", "from_patterns", "focused", "aberrated")
"""First guesses of a probe whose curvature a calibration may choose."""


@dataclass(frozen=True)
class Calibration:
    """What a ladder found.

    Attributes:
        recipe: of a run with all of it written in, and nothing left to find.
        known: the same as numbers.
        findings: a line each.
        tried: candidates of each rung, by its name.
    """

    recipe: Reconstruct
    known: Known
    findings: tuple[Finding, ...]
    tried: dict[str, list[dict[str, Any]]]

    def lines(self) -> list[str]:
        """The findings in words."""
        return [finding.line() for finding in self.findings]

    def found(self) -> dict[str, str]:
        """The findings as a run file keeps them."""
        return {one.name: one.line().removeprefix(one.name).strip() for one in self.findings}


def calibrate(recipe: Reconstruct, scan: Scan4D, /, *, ladder: Sequence[Rung] = LADDER) -> Calibration:
    """Find what a reconstruction has to know of a scan, by direct methods and short runs.

    Args:
        recipe: of the reconstruction: what it states of the probe is where the ladder begins.
        scan: as the recipe reads and prepares it.
        ladder: rungs, in order; one of your own takes the place of another.

    Raises:
        BadInput: a near field, a probe that brings its own curvature, or no semi-angle to be found.
    """
    if scan.geometry.near:
        raise BadInput("preset", "calibrate", "needs far-field patterns with a bright disk: leave it out")
    if recipe.probe.name not in FREE:
        fix = f"brings a curvature of its own: write one of {', '.join(FREE[1:])} to calibrate"
        raise BadInput("probe", recipe.probe.name, fix)
    if not np.ptp(scan.positions, axis=0).any():
        raise BadInput(
            "positions", "all the same", "tell nothing of how the scan lies: give those of the beam"
        )
    recipe, scan, found = _centred(recipe, scan)
    stated = recipe.probe.values
    known = Known(recipe, semiangle=stated.get("semiangle"), defocus=float(stated.get("defocus") or 0.0))
    findings, tried = list(found), {}
    for rung in ladder:
        step = team().told(rung(scan, known))
        known, findings = step.known, [*findings, *step.findings]
        tried[getattr(rung, "__name__", type(rung).__name__)] = step.tried
    made = known.recipe(scan)
    done = Calibration(made, known, tuple(findings), tried)
    return replace(done, recipe=made.model_copy(update={"found": {**made.found, "calibrate": done.found()}}))


def calibrated(recipe: Reconstruct, scan: Scan4D, /) -> tuple[Reconstruct, Scan4D]:
    """The recipe and the scan of a run with ``preset: calibrate``, as its ladder found them."""
    done = calibrate(recipe, scan)
    for line in done.lines():
        log.info("calibrate: %s", line)
    for step in done.recipe.prepare[len(recipe.prepare) :]:
        scan = step(scan)
    return done.recipe, scan


def _centred(recipe: Reconstruct, scan: Scan4D) -> tuple[Reconstruct, Scan4D, tuple[Finding, ...]]:
    """The scan with its bright disk in the middle, and what was done if it lay off.

    Patterns that were flipped by hand lie off by a pixel, and what the rungs find of them is wrong.
    """
    off = _off(scan)
    if not any(off):
        return recipe, scan, ()
    step = Call(prepare.__name__, "center")
    moved = step(scan)
    left = _off(moved)
    if any(left):
        note = "nothing below can be believed: centre the patterns"
        return recipe, scan, (Finding("centre", _pixels(off), _pixels(off), 1.0, False, note=note),)
    told = Finding("centre", _pixels(left), _pixels(off), math.inf, True, note="by prepare: center")
    return recipe.model_copy(update={"prepare": (*recipe.prepare, step)}), moved, (told,)


def _off(scan: Scan4D) -> tuple[float, float]:
    """Pixels by which the bright disk lies off the middle, where there clearly is one."""
    try:
        disk = fitted_disk(scan.mean_pattern(most=500), mask=scan.mask)
    except BadInput:
        return 0.0, 0.0
    return disk.off(scan.geometry.shape) if disk.clear else (0.0, 0.0)


def _pixels(off: tuple[float, float]) -> str:
    return f"{off[0]:+.2f}, {off[1]:+.2f} pixels off"
