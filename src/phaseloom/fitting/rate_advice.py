"""What the course of the loss says about the rates of a fit, in plain words."""

import numpy as np

from phaseloom.fitting.history import (
    History,
    describe_rise,
    describe_swing,
    format_rates,
    highest_rates,
    sum_common_terms,
    used_line_search,
)
from phaseloom.fitting.outcome import Advice, RateAdvice, Stop, StopReason, stop_of_sentence

__all__ = ["advise_rates"]


def advise_rates(
    history: History, /, *, stopped: Stop | str = "", floor: float = 0.0, newton: float = np.inf
) -> list[Advice]:
    """Sentences that name what went wrong in a fit and what to do; none when all is well.

    Rates are too high when the loss stands above its start or its best and stays there, swings, or
    is no longer finite; too low when it has hardly moved. A rise that begins where a part begins to move is
    that part's. Whether more epochs would help is for `judge_fit` to say. Nothing is said of L-BFGS, which
    chooses its own steps, and of losses that are not positive, which have no ratios.

    Args:
        history: of a fit (`phaseloom.fitting.loop.Progress.history`).
        stopped: why it ended (`phaseloom.fitting.loop.Progress.stop`), or the sentence of a file.
        floor: loss at which nothing is left to be had (1 for a likelihood); near it nothing is said.
        newton: rate of a whole Newton step (1) where rates are shares of it: none above is advised, and none
            from a tenth of it up is called low; default: rates are lengths.

    Example:
        >>> rates = {"object": 0.02}
        >>> slow = [{"number": n, "loss": 5 - 0.001 * n, "rates": rates} for n in range(1, 21)]
        >>> advise_rates(slow, floor=1.0)[0].split(": ")
        ['the loss has fallen by only 0.4 % in 20 epochs', 'raise the rates (object 0.02 -> 0.06)']
    """
    stop = stopped if isinstance(stopped, Stop) else stop_of_sentence(stopped)
    if stop.is_breakdown:
        return _advise_after_breakdown(history, stop, newton)
    losses = sum_common_terms(history)
    if len(losses) < 4 or not losses.min() > 0 or losses[-1] < 1.2 * floor:
        return []
    if used_line_search(history):
        return []
    sentences = {
        RateAdvice.LOSS_RISES: describe_rise(history, losses, newton),
        RateAdvice.LOSS_SWINGS: describe_swing(history, losses, newton),
        RateAdvice.LOSS_STANDS: _describe_stall(history, losses, newton, floor),
    }
    return [Advice(code, sentence) for code, sentence in sentences.items() if sentence][:1]


def _advise_after_breakdown(history: History, stop: Stop, newton: float) -> list[Advice]:
    """The remedy for a loss that is not finite, unless it was so from the start."""
    if stop.reason is StopReason.NOT_FINITE_AT_START:
        return []
    what = (
        f"lower the rates ({format_rates(highest_rates(history), 1 / 3, newton)})"
        if history
        else "lower all rates"
    )
    return [Advice(RateAdvice.BROKE_DOWN, f"the loss broke down: {what}")]


def _describe_stall(history: History, losses: np.ndarray, newton: float, floor: float) -> str:
    """Hardly lower than at the start, by rates that may be why."""
    fall = 1 - losses[-1] / losses[0]
    low = {name: rate for name, rate in highest_rates(history).items() if rate < newton / 10}
    if len(losses) < 8 or losses[-1] < 2 * floor or not 0 <= fall < 0.1 or not low:
        return ""
    words = f"the loss has fallen by only {100 * fall:.1f} % in {len(losses)} epochs"
    return f"{words}: raise the rates ({format_rates(low, 3, newton)})"
