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

MAX_RESTARTS = 4
"""How often a fit is begun anew, at most."""

MAX_SHARE_LEFT = 0.8
"""Share of a move that the next fit repeats, at most: extrapolation goes up to five times as far."""

ENOUGH = {"rotation": math.radians(0.02), "step": 5e-4, "defocus": 0.5}
"""Moves (radian, a share, angstrom) below which a geometry stands still."""

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
        state: where it begins; its step is held if short fits have not shown it.
        epochs: of a run.
    """
    moving = GEOMETRY_RATES if state.step_by_profile is not None else {"rotation": GEOMETRY_RATES["rotation"]}
    late = {**moving, "positions": {"rate": 1.0, "start": epochs // 2 + 1}}
    whole = run_short(few, state, epochs=epochs, rates=late)
    free = whole.loss > MIN_LOSS_FOR_FREE_PROBE
    if free:
        loose = run_short(few, whole.state, epochs=epochs, rates=late, free=True)
        free = loose.loss < 0.7 * whole.loss
        whole = loose if free else whole
    whole, blurs = _extrapolate_until_stable(
        whole, state, lambda at: run_short(few, at, epochs=epochs, rates=late, free=free)
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


def _extrapolate_until_stable(
    short_run: ShortRun, start: CalibrationState, fit: Callable[[CalibrationState], ShortRun]
) -> tuple[ShortRun, dict[str, float]]:
    """The fit, begun anew until its values stand still; by how much the last one still moved each value.

    The object of a fit adapts to the geometry that it began with and holds it back: each fit goes the same
    share of the way that is left (Aitken's extrapolation finds the end of it).
    """
    before = start
    apart: dict[str, float] = {}
    for _ in range(MAX_RESTARTS):
        again = fit(short_run.state)
        ends = {}
        for name in FORMATTERS:
            first = getattr(short_run.state, name) - getattr(before, name)
            second = getattr(again.state, name) - getattr(short_run.state, name)
            share = min(max(second / first, 0.0), MAX_SHARE_LEFT) if first else 0.0
            ends[name] = getattr(again.state, name) + second * share / (1 - share)
            apart[name] = abs(second) / (1 - share)
        before = short_run.state
        if all(apart[name] < ENOUGH[name] for name in FORMATTERS):
            return again, apart
        short_run = replace(again, state=replace(again.state, **ends))
    return short_run, apart


def _split_in_halves(scan: Scan4D) -> list[Scan4D]:
    """Patterns of the black and of the white fields of a chess board; without a raster, every second."""
    number = np.arange(len(scan))
    colour = number if scan.grid is None else number // scan.grid[1] + number % scan.grid[1]
    return [scan.select(np.flatnonzero(colour % 2 == one)) for one in (0, 1)]
