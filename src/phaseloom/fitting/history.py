"""What the losses and rates of a history are, and what is wrong with their course."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

History = Sequence[Mapping[str, Any]]


def sum_common_terms(history: History) -> np.ndarray:
    """Losses of the epochs, of those terms only that were there in all of them."""
    named = [set(event.get("terms") or ()) for event in history]
    common = sorted(set.intersection(*named)) if named else []
    whole = [event["loss"] for event in history]
    parts = [sum(event["terms"][name] for name in common) for event in history] if common else whole
    return np.array(parts, float)


def highest_rates(history: History) -> dict[str, float]:
    """The highest rate that each part that moved had, which is the one that was asked for."""
    out: dict[str, float] = {}
    for event in history:
        for name, rate in moving_rates(event).items():
            out[name] = max(out.get(name, 0.0), rate)
    return out


def moving_rates(event: Mapping[str, Any]) -> dict[str, float]:
    """Rates of the parts that moved: a shape may hold one still for a while."""
    return {name: rate for name, rate in event["rates"].items() if rate > 0}


def used_line_search(history: History) -> bool:
    """Whether steps were chosen by searching along lines (L-BFGS)."""
    return any(event.get("passes", 1.0) > 1 for event in history)


def newly_moving_rates(history: History, lowest: int) -> dict[str, float]:
    """Parts that began to move right after an epoch, though not all did."""
    first, then = moving_rates(history[lowest]), moving_rates(history[lowest + 1])
    late = {name: rate for name, rate in highest_rates(history).items() if name in then and name not in first}
    return late if first else {}


def format_rates(rates: Mapping[str, float], factor: float, most: float) -> str:
    """Rates by name, before and after a factor."""
    return ", ".join(f"{name} {rate:.2g} -> {min(rate * factor, most):.1g}" for name, rate in rates.items())


def describe_rise(history: History, losses: np.ndarray, newton: float, most: float = 1.3) -> str:
    """Above the first loss, or well above the lowest, for three epochs and more."""
    lowest = int(losses.argmin())
    since = np.median(losses[-3:]) / losses[lowest]
    if len(losses) - 1 - lowest < 3 or since < most:
        return ""
    if min(losses[-3:]) > losses[0]:
        start = f"the loss stands at {losses[-1] / losses[0]:.2g} times that of the first epoch"
    else:
        start = f"the loss has risen by {100 * (since - 1):.0f} % since epoch {history[lowest]['number']}"
    late = newly_moving_rates(history, lowest)
    if late:
        less = format_rates(late, 1 / 3, newton)
        return f"{start}, when {' and '.join(late)} began to move: lower the rate ({less})"
    return f"{start}: lower the rates ({format_rates(highest_rates(history), 1 / 3, newton)})"


def describe_swing(history: History, losses: np.ndarray, newton: float) -> str:
    """Up and down by a tenth and more at nearly every epoch."""
    last = losses[-9:]
    steps = np.diff(last)
    turns = (steps[1:] * steps[:-1] < 0).sum()
    size = np.abs(steps).mean() / last.mean()
    if len(last) < 7 or turns < len(steps) - 2 or size < 0.1:
        return ""
    words = f"the loss swings by {100 * size:.0f} % from epoch to epoch"
    return f"{words}: lower the rates ({format_rates(highest_rates(history), 1 / 2, newton)}), or take larger batches"
