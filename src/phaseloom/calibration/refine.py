"""Fits of defocus, rotation and step that a calibration begins again until they explain no more."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from phaseloom.calibration.state import CalibrationState, ShortRun, run_short
from phaseloom.data.scan import Scan4D
from phaseloom.units import LENGTH

__all__ = ["FORMATTERS", "fit_geometry", "loss_at_fixed_value"]

MIN_LOSS_FOR_FREE_PROBE = 2.0
"""Loss above which the patterns are not explained by a lens, and a free probe is tried."""

RELATIVE_LOSS_OF_EQUAL_FITS = 1e-3
"""Share of the loss by which fits explain the patterns alike: no model is surer than that."""

MAX_RESTARTS = 4
"""How often a fit is begun anew from either side, at most."""

GEOMETRY_RATES = {"rotation": 0.3, "scale": 0.3}
"""Shares of a Newton step of what moves all positions."""

FORMATTERS = {
    "rotation": lambda value: f"{math.degrees(value):.3f} deg",
    "step": lambda value: f"{value:.4f}",
    "defocus": lambda value: LENGTH.show(float(f"{value:.4g}")),
}
"""What `geometry` finds, and how it is shown."""


def fit_geometry(
    few: Scan4D, state: CalibrationState, epochs: int
) -> tuple[ShortRun, dict[str, float], dict[str, float], bool]:
    """The fit of a geometry; how far those of halves are from it, how sure it is, whether its probe is free.

    Args:
        few: patterns, as they were read.
        state: where it begins.
        epochs: of a run.
    """
    late = {**GEOMETRY_RATES, "positions": {"rate": 1.0, "start": epochs // 2 + 1}}
    whole = run_short(few, state, epochs=epochs, rates=late)
    free = whole.loss > MIN_LOSS_FOR_FREE_PROBE
    if free:
        loose = run_short(few, whole.state, epochs=epochs, rates=late, free=True)
        free = loose.loss < 0.7 * whole.loss
        whole = loose if free else whole
    unit = few.geometry.wavelength / (state.semiangle or 1.0) ** 2
    aside = replace(state, rotation=0.01, step=0.01, defocus=0.1 * unit)
    whole, blurs = _restart_until_stable(
        whole, aside, lambda at: run_short(few, at, epochs=epochs, rates=late, free=free)
    )
    halves = [
        run_short(part, whole.state, epochs=epochs, rates=late, free=free).state
        for part in _split_in_halves(few)
    ]
    apart = {
        name: max(abs(getattr(half, name) - getattr(whole.state, name)) for half in halves)
        for name in FORMATTERS
    }
    return whole, apart, blurs, free


def loss_at_fixed_value(scan: Scan4D, state: CalibrationState, name: str, /) -> float:
    """Loss of a short fit that holds one value."""
    rates = {one: rate for one, rate in GEOMETRY_RATES.items() if one != {"step": "scale"}.get(name, name)}
    refine = ("C12",) if name == "defocus" else ("C10", "C12")
    return run_short(scan, state, epochs=6, rates=rates, refine=refine).loss


def _restart_until_stable(
    short_run: ShortRun, aside: CalibrationState, fit: Callable[[CalibrationState], ShortRun]
) -> tuple[ShortRun, dict[str, float]]:
    """The fit, begun anew from beside where it ended until that explains no more; how sure each value is.

    A value is as sure as where such fits end that explain the patterns as well: to a part in a thousand, or
    to what the last epoch still gained.
    """
    apart: dict[str, float] = {}
    for _ in range(MAX_RESTARTS):
        sides = [fit(_shift_state(short_run.state, aside, sign)) for sign in (-1, 1)]
        best = min((short_run, *sides), key=lambda one: one.loss)
        unsure = max(RELATIVE_LOSS_OF_EQUAL_FITS, best.gain)
        alike = [one for one in (short_run, *sides) if one.loss < (1 + unsure) * best.loss]
        apart = {
            name: max(abs(getattr(one.state, name) - getattr(best.state, name)) for one in alike)
            for name in FORMATTERS
        }
        before = short_run
        short_run = best
        if best.loss > (1 - unsure / 4) * before.loss:
            break
    return short_run, apart


def _shift_state(state: CalibrationState, aside: CalibrationState, sign: int) -> CalibrationState:
    return replace(state, **{name: getattr(state, name) + sign * getattr(aside, name) for name in FORMATTERS})


def _split_in_halves(scan: Scan4D) -> list[Scan4D]:
    """Patterns of the black and of the white fields of a chess board; without a raster, every second."""
    number = np.arange(len(scan))
    colour = number if scan.grid is None else number // scan.grid[1] + number % scan.grid[1]
    return [scan.select(np.flatnonzero(colour % 2 == one)) for one in (0, 1)]
