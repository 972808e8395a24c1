"""What the course of the loss says about the rates, in plain words."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["advice"]

History = Sequence[Mapping[str, Any]]


def advice(history: History, /, *, stopped: str = "", floor: float = 0.0) -> list[str]:
    """Sentences that name what went wrong in a fit and what to do; none when all is well.

    Rates are too high when the loss stands above its start or its best and stays there, swings, or
    is no longer finite; too low when it has hardly moved, or falls at the end as fast as before. A rise
    that begins where a part begins to move is that part's. Nothing is said of
    L-BFGS, which chooses its own steps, and of losses that are not positive, which have no ratios.

    Args:
        history: of a fit (`phaseloom.fitting.loop.Progress.history`).
        stopped: why it ended, in the words of the fit.
        floor: loss at which nothing is left to be had (1 for a likelihood); near it nothing is said.

    Example:
        >>> rates = {"object": 0.02}
        >>> slow = [{"number": n, "loss": 5 - 0.001 * n, "rates": rates} for n in range(1, 21)]
        >>> advice(slow, floor=1.0)[0].split(": ")
        ['the loss has fallen by only 0.4 % in 20 epochs', 'raise the rates (object 0.02 -> 0.06)']
    """
    if "finite" in stopped or "became" in stopped:
        return _after_a_breakdown(history, stopped)
    losses = _losses(history)
    if len(losses) < 4 or not losses.min() > 0 or losses[-1] < 1.2 * floor:
        return []
    if any(event.get("passes", 1.0) > 1 for event in history):
        return []
    said = [rule(history, losses, floor) for rule in (_violent, _swinging, _timid, _unfinished)]
    return [sentence for sentence in said if sentence][:1]


def _after_a_breakdown(history: History, stopped: str) -> list[str]:
    """The remedy for a loss that is not finite, unless it was so from the start."""
    if "before the first step" in stopped:
        return []
    what = f"lower the rates ({_times(_highest(history), 1 / 3)})" if history else "lower all rates"
    return [f"the loss broke down: {what}"]


def _violent(history: History, losses: np.ndarray, floor: float) -> str:
    """Above the first loss, or well above the lowest, for three epochs and more."""
    lowest = int(losses.argmin())
    since = min(losses[-3:]) / losses[lowest]
    if len(losses) - 1 - lowest < 3 or since < 1.3:
        return ""
    if min(losses[-3:]) > losses[0]:
        start = f"the loss stands at {losses[-1] / losses[0]:.2g} times that of the first epoch"
    else:
        start = f"the loss has risen by {100 * (since - 1):.0f} % since epoch {history[lowest]['number']}"
    late = _began(history, lowest)
    if late:
        return f"{start}, when {' and '.join(late)} began to move: lower the rate ({_times(late, 1 / 3)})"
    return f"{start}: lower the rates ({_times(_highest(history), 1 / 3)})"


def _swinging(history: History, losses: np.ndarray, floor: float) -> str:
    """Up and down by a tenth and more at nearly every epoch."""
    last = losses[-9:]
    steps = np.diff(last)
    turns = (steps[1:] * steps[:-1] < 0).sum()
    size = np.abs(steps).mean() / last.mean()
    if len(last) < 7 or turns < len(steps) - 2 or size < 0.1:
        return ""
    words = f"the loss swings by {100 * size:.0f} % from epoch to epoch"
    return f"{words}: lower the rates ({_times(_highest(history), 1 / 2)}), or take larger batches"


def _timid(history: History, losses: np.ndarray, floor: float) -> str:
    """Hardly lower than at the start."""
    fall = 1 - losses[-1] / losses[0]
    if len(losses) < 8 or losses[-1] < 2 * floor or not 0 <= fall < 0.1:
        return ""
    words = f"the loss has fallen by only {100 * fall:.1f} % in {len(losses)} epochs"
    return f"{words}: raise the rates ({_times(_highest(history), 3)})"


def _unfinished(history: History, losses: np.ndarray, floor: float) -> str:
    """Falling in the last quarter as it did in the one before."""
    quarter = len(losses) // 4
    if quarter < 2 or losses[-1] < 1.5 * floor:
        return ""
    left = np.maximum(losses - 0.9 * floor, 1e-9 * losses)
    before, middle, end = np.log(left[[-1 - 2 * quarter, -1 - quarter, -1]])
    each = 1 - (losses[-1] / losses[-1 - quarter]) ** (1 / quarter)
    if each < 2e-3 or middle - end < 0.6 * (before - middle):
        return ""
    words = f"the loss still falls by {100 * each:.1f} % per epoch"
    return f"{words}: give it more epochs, or raise the rates ({_times(_highest(history), 2)})"


def _losses(history: History) -> np.ndarray:
    """Losses of the epochs, of those terms only that were there in all of them."""
    named = [set(event.get("terms") or ()) for event in history]
    common = sorted(set.intersection(*named)) if named else []
    whole = [event["loss"] for event in history]
    parts = [sum(event["terms"][name] for name in common) for event in history] if common else whole
    return np.array(parts, float)


def _highest(history: History) -> dict[str, float]:
    """The highest rate that each part had, which is the one that was asked for."""
    out: dict[str, float] = {}
    for event in history:
        for name, rate in event["rates"].items():
            out[name] = max(out.get(name, 0.0), rate)
    return out


def _began(history: History, lowest: int) -> dict[str, float]:
    """Parts that began to move right after an epoch, though not all did."""
    first, then = history[lowest]["rates"], history[lowest + 1]["rates"]
    late = {name: rate for name, rate in _highest(history).items() if name in then and name not in first}
    return late if first else {}


def _times(rates: Mapping[str, float], factor: float) -> str:
    return ", ".join(f"{name} {rate:.2g} -> {rate * factor:.1g}" for name, rate in rates.items())
