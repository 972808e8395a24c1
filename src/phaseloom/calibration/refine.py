"""Fits of defocus, rotation and step that a calibration begins again until they explain no more."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from phaseloom.calibration.state import Known, Trial, short
from phaseloom.data.scan import Scan4D
from phaseloom.units import LENGTH

__all__ = ["FINE", "fitted", "held"]

UNLIKE = 2.0
"""Loss above which the patterns are not explained by a lens, and a free probe is tried."""

UNSURE = 1e-3
"""Share of the loss by which fits explain the patterns alike: no model is surer than that."""

ROUNDS = 4
"""How often a fit is begun anew from either side, at most."""

MOVING = {"rotation": 0.3, "scale": 0.3}
"""Shares of a Newton step of what moves all positions."""

FINE = {
    "rotation": lambda value: f"{math.degrees(value):.3f} deg",
    "step": lambda value: f"{value:.4f}",
    "defocus": lambda value: LENGTH.show(float(f"{value:.4g}")),
}
"""What `geometry` finds, and how it is shown."""


def fitted(few: Scan4D, known: Known, epochs: int) -> tuple[Trial, dict[str, float], dict[str, float], bool]:
    """The fit of a geometry; how far those of halves are from it, how sure it is, whether its probe is free.

    Args:
        few: patterns, as they were read.
        known: where it begins.
        epochs: of a run.
    """
    late = {**MOVING, "positions": {"rate": 1.0, "start": epochs // 2 + 1}}
    whole = short(few, known, epochs=epochs, rates=late)
    free = whole.loss > UNLIKE
    if free:
        loose = short(few, whole.known, epochs=epochs, rates=late, free=True)
        free = loose.loss < 0.7 * whole.loss
        whole = loose if free else whole
    unit = few.geometry.wavelength / (known.semiangle or 1.0) ** 2
    aside = replace(known, rotation=0.01, step=0.01, defocus=0.1 * unit)
    whole, blurs = _settled(whole, aside, lambda at: short(few, at, epochs=epochs, rates=late, free=free))
    halves = [short(part, whole.known, epochs=epochs, rates=late, free=free).known for part in _halves(few)]
    apart = {
        name: max(abs(getattr(half, name) - getattr(whole.known, name)) for half in halves) for name in FINE
    }
    return whole, apart, blurs, free


def held(scan: Scan4D, known: Known, name: str, /) -> float:
    """Loss of a short fit that holds one value."""
    rates = {one: rate for one, rate in MOVING.items() if one != {"step": "scale"}.get(name, name)}
    refine = ("C12",) if name == "defocus" else ("C10", "C12")
    return short(scan, known, epochs=6, rates=rates, refine=refine).loss


def _settled(trial: Trial, aside: Known, fit: Callable[[Known], Trial]) -> tuple[Trial, dict[str, float]]:
    """The fit, begun anew from beside where it ended until that explains no more; how sure each value is.

    A value is as sure as where such fits end that explain the patterns as well: to a part in a thousand, or
    to what the last epoch still gained.
    """
    for _ in range(ROUNDS):
        sides = [fit(_moved(trial.known, aside, sign)) for sign in (-1, 1)]
        best = min((trial, *sides), key=lambda one: one.loss)
        unsure = max(UNSURE, best.gain)
        alike = [one for one in (trial, *sides) if one.loss < (1 + unsure) * best.loss]
        apart = {
            name: max(abs(getattr(one.known, name) - getattr(best.known, name)) for one in alike)
            for name in FINE
        }
        before, trial = trial, best
        if best.loss > (1 - unsure / 4) * before.loss:
            break
    return trial, apart


def _moved(known: Known, aside: Known, sign: int) -> Known:
    return replace(known, **{name: getattr(known, name) + sign * getattr(aside, name) for name in FINE})


def _halves(scan: Scan4D) -> list[Scan4D]:
    """Patterns of the black and of the white fields of a chess board; without a raster, every second."""
    number = np.arange(len(scan))
    colour = number if scan.grid is None else number // scan.grid[1] + number % scan.grid[1]
    return [scan.select(np.flatnonzero(colour % 2 == one)) for one in (0, 1)]
