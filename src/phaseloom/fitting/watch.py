"""What the course of the loss says about a fit, in plain words: a verdict, and advice about the rates."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["advice", "verdict"]

History = Sequence[Mapping[str, Any]]

NEAR = 1.05
"""Times the floor from which on nothing is left to be had."""

FAR = 2.0
"""Times the floor, learned or held out, that tell of a model that is not that of the experiment."""

DEEP = 8.0
"""By what the loss has fallen in all when its start was good, wherever it ends."""

PATIENT = 3.0
"""Times the epochs done that a fall may still need to reach the floor."""

WHOLE, FULL = 0.99, 0.7
"""Shares of the highest rates from which on the fall of the loss is judged, the second where few epochs had
the first: lower rates quieten steps and so lower any loss, converged or not."""


UNSEEN = 1.25
"""Hold-out loss, in units of the noise, from which on a gap is more than chance."""

APART = 1.15
"""Hold-out loss over the loss of what is learned that tells of a fit that describes no more than its data."""

NOWHERE = 100.0
"""Times the noise that no good start is left with."""


def verdict(
    history: History,
    /,
    *,
    stopped: str = "",
    floor: float = 1.0,
    since: int = 0,
    newton: float = np.inf,
) -> str:
    """How far a fit may be trusted, in one sentence whose first words are its class.

    ``converged``, ``still falling``, ``doubtful``, ``overfitting``, ``wrong start`` and ``steps too long``
    are told apart by losses, hold-out losses and rates; ``interrupted``, ``broke down`` and ``nothing was
    learned`` by the words in which the fit ended.

    Args:
        history: of a fit (`phaseloom.fitting.loop.Progress.history`).
        stopped: why it ended, in the words of the fit.
        floor: loss at which nothing but noise is left (1 for a likelihood); 0: not known.
        since: epochs of the history that were done on a coarser grid, so that later losses start anew.
        newton: see `advice`.

    Example:
        >>> rates = {"object": 0.02}
        >>> good = [{"number": n, "loss": 1.03 + 5 * 0.5**n, "rates": rates} for n in range(1, 31)]
        >>> verdict(good)
        'converged: what is left is 1.03 times shot noise'
        >>> verdict(good[:4]).split(":")[0]
        'still falling'
    """
    if _broken(stopped):
        cure = "" if "before the first step" in stopped else ": lower the rates"
        return f"broke down: {stopped}{cure}"
    if not history:
        return "nothing was learned: no epoch was done"
    run = Run.of(history, stopped, floor, since, newton)
    if not (np.isfinite(run.loss).all() and run.loss.min() > 0):
        return "not judged: the loss is not positive, so that it has no ratios"
    if stopped.startswith("interrupted"):
        way = f"the loss still fell by {_percent(run.falls)} per epoch" if run.falls else "it had levelled"
        return f"{stopped.partition(';')[0]}: {way}, at {run.left()}"
    rules = (_too_long, _lost, _semiconvergent, _doubtful, _falling, _converged)
    return next(sentence for rule in rules if (sentence := rule(run, stopped)))


def advice(
    history: History, /, *, stopped: str = "", floor: float = 0.0, newton: float = np.inf
) -> list[str]:
    """Sentences that name what went wrong in a fit and what to do; none when all is well.

    Rates are too high when the loss stands above its start or its best and stays there, swings, or
    is no longer finite; too low when it has hardly moved. A rise that begins where a part begins to move is
    that part's. Whether more epochs would help is for `verdict` to say. Nothing is said of L-BFGS, which
    chooses its own steps, and of losses that are not positive, which have no ratios.

    Args:
        history: of a fit (`phaseloom.fitting.loop.Progress.history`).
        stopped: why it ended, in the words of the fit.
        floor: loss at which nothing is left to be had (1 for a likelihood); near it nothing is said.
        newton: rate of a whole Newton step (1) where rates are shares of it: none above is advised, and none
            from a tenth of it up is called low; default: rates are lengths.

    Example:
        >>> rates = {"object": 0.02}
        >>> slow = [{"number": n, "loss": 5 - 0.001 * n, "rates": rates} for n in range(1, 21)]
        >>> advice(slow, floor=1.0)[0].split(": ")
        ['the loss has fallen by only 0.4 % in 20 epochs', 'raise the rates (object 0.02 -> 0.06)']
    """
    if _broken(stopped):
        return _after_a_breakdown(history, stopped, newton)
    losses = _losses(history)
    if len(losses) < 4 or not losses.min() > 0 or losses[-1] < 1.2 * floor:
        return []
    if _chooses(history):
        return []
    said = [rule(history, losses, newton) for rule in (_violent, _swinging)]
    return [sentence for sentence in (*said, _timid(history, losses, newton, floor)) if sentence][:1]


@dataclass(frozen=True)
class Run:
    """The epochs of a history that a verdict is about: those on the last grid.

    Attributes:
        history: all of them.
        events: those on the last grid.
        loss: of each event, of those terms only that were there in all.
        noise: of each event, what compares with counts.
        shown: place of the event whose parameters are the result.
        held: of each event, NaN where nothing was held out.
        pace: lowest rate of each event as a share of the highest that its part had; of parts that had begun.
        floor, newton: see `verdict`.
    """

    history: History
    events: History
    loss: np.ndarray
    noise: np.ndarray
    held: np.ndarray
    pace: np.ndarray
    shown: int
    floor: float
    newton: float

    @classmethod
    def of(cls, history: History, stopped: str, floor: float, since: int, newton: float) -> "Run":
        """The numbers of a history; a grid that has seen two epochs at most is judged with the one before."""
        events = history[since:] if len(history) - since > 2 else history
        noise = [(event.get("terms") or {}).get("noise", event["loss"]) for event in events]
        held = [np.nan if event.get("holdout") is None else event["holdout"] for event in events]
        noise, held, pace = (np.array(values, float) for values in (noise, held, _paces(events)))
        told = re.search(r"\d+", _whose(stopped))
        named = (n for n, event in enumerate(events) if told and event["number"] == int(told[0]))
        shown = next(named, len(events) - 1)
        return cls(history, events, _losses(events), noise, held, pace, shown, floor, newton)

    @property
    def level(self) -> float:
        """What the result leaves in units of the noise; zero where that is not known."""
        return float(self.noise[self.shown] / self.floor) if self.floor > 0 else 0.0

    def left(self, place: int | None = None) -> str:
        """What an event left, in words; that of the result, unless another is meant."""
        left = self.noise[self.shown if place is None else place]
        return f"{left / self.floor:.3g} times shot noise" if self.floor > 0 else f"a loss of {left:.3g}"

    @property
    def known(self) -> int | None:
        """Place of the event of the result, or the last before it, that has a hold-out loss."""
        known = np.flatnonzero(np.isfinite(self.held[: self.shown + 1]))
        return int(known[-1]) if len(known) else None

    @property
    def unseen(self) -> float:
        """The hold-out loss of the result, in units of the noise; zero where there is none."""
        return 0.0 if self.known is None or self.floor <= 0 else float(self.held[self.known] / self.floor)

    @property
    def gap(self) -> float:
        """Hold-out loss over the loss of the same epoch; zero where there is none."""
        return 0.0 if self.known is None else float(self.held[self.known] / self.noise[self.known])

    @property
    def falls(self) -> float:
        """Fall of the loss per epoch at full rates that is still going on; zero where it has levelled.

        It has where as many epochs again would bring less than a tenth; where the hold-out loss does not
        fall with it; and where, since the rates began to fall, it has fallen by less than half of what
        the pace before would have made it.
        """
        if _near(self):
            return 0.0
        whole, full = (np.flatnonzero(self.pace > share) for share in (WHOLE, FULL))
        full = whole if len(whole) > 3 else full
        last = full[-max(len(full) // 4, 4) :] if len(full) > 1 else np.arange(len(self.loss))[-4:]
        if len(last) < 2:
            return 0.0
        time = np.cumsum(self.pace)
        each, error = _trend(time[last], self.loss[last])
        if each < max(2 * error, 0.1 / len(self.history)):
            return 0.0
        if np.isfinite(self.held[last]).all() and len(last) > 4:
            unseen, doubt = _trend(time[last], self.held[last])
            if max(unseen, doubt) < each / 4:
                return 0.0
        rest = float(time[-1] - time[last[-1]])
        brought = np.log(self.loss[last[-1]] / self.loss[-1])
        return 0.0 if brought < 0.5 * each * rest else each


def _too_long(run: Run, stopped: str) -> str:
    """Risen by a tenth above the lowest and staying there, or swinging."""
    if _near(run) or len(run.loss) < 4 or _chooses(run.events):
        return ""
    said = _violent(run.events, run.loss, run.newton, 1.1) or _swinging(run.events, run.loss, run.newton)
    return f"steps too long: {said}" if said else ""


def _lost(run: Run, stopped: str) -> str:
    """Several times the noise, not much less than at first, and not on the way to it: a false valley."""
    whole, worst = _losses(run.history), max(run.level, run.unseen)
    if worst < FAR or len(whole) < 8:
        return ""
    stuck = whole[0] < DEEP * whole[-1] and np.log(worst) > PATIENT * len(whole) * run.falls
    if not (stuck or worst > NOWHERE or (run.gap > APART and run.unseen > FAR)):
        return ""
    return (
        f"wrong start: the loss stays at {run.left()}: check defocus, orientation of the detector, pixel "
        "size and step of the scan (start: sweep tries the first two, rates: {affine: 0.1} mends a step or "
        "rotation that is a little off), and that counts are single quanta"
    )


def _semiconvergent(run: Run, stopped: str) -> str:
    """The hold-out loss rises, by more than it scatters, while the loss falls."""
    seen = np.flatnonzero(np.isfinite(run.held))
    if len(seen) < 5:
        return ""
    held, loss = run.held[seen], run.loss[seen]
    best = int(held.argmin())
    after = held[best + 1 :]
    if len(after) < 3 or loss[-1] > 0.99 * loss[best]:
        return ""
    base = float(np.median(held[max(best - 1, 0) : best + 2]))
    recent = after[-5:]
    scatter = np.sqrt(1 / len(recent) + 1 / 3) * float(np.median(np.abs(np.diff(after))))
    if float(np.median(recent)) - base < max(0.01 * base, 2 * scatter):
        return ""
    since = run.events[seen[best]]["number"]
    words = f"the hold-out loss rises since epoch {since} while the loss falls to {run.left(-1)}"
    return f"overfitting: {words}: {_whose(stopped) or 'take fewer epochs, or set patience'}"


def _doubtful(run: Run, stopped: str) -> str:
    """Patterns held out are explained much worse than those learned from, and not only by the noise."""
    if len(run.history) < 8 or run.unseen < UNSEEN or run.gap < APART:
        return ""
    return (
        f"doubtful: what is left is {run.left()}, but {run.unseen:.3g} in patterns held out: a wrong start "
        "(defocus, orientation of the detector, step), a model that lacks something, or too little data"
    )


def _falling(run: Run, stopped: str) -> str:
    """Still falling, at rates that were not on their way down."""
    done = len(run.history)
    if done < 3 and not _near(run):
        few = "one epoch tells" if done == 1 else f"{done} epochs tell"
        return f"still falling: {few} too little, at {run.left()}: give it more"
    if stopped.startswith("converged") or not run.falls:
        return ""
    when = " before the rates fell" if run.pace[-1] <= FULL else ""
    words = f"by {_percent(run.falls)} per epoch{when}, at {run.left()}"
    return f"still falling: {words}: give it more epochs ({2 * done} instead of {done})"


def _converged(run: Run, stopped: str) -> str:
    """What is left, and what that means when it is much."""
    level, unseen, doubt = run.level, run.unseen, ""
    until = " until learned from" if unseen and run.known != run.shown else ""
    also = f" ({unseen:.3g} in patterns held out{until})" if unseen else ""
    if level > 1.5:
        doubt = "; the model lacks something: probe modes, slices, a background, or quanta that are counted"
    elif level > NEAR and run.pace[-1] > FULL and not _chooses(run.events):
        doubt = "; long steps may be part of it: let the rates fall (shape: cosine)"
    elif 0 < level < 0.5:
        doubt = "; far below the noise, so that counts are not single quanta (prepare: normalise)"
    elif 0 < level < 0.9 and not unseen:
        doubt = "; noise is described too, and no pattern was held out that could tell of overfitting"
    return f"converged: what is left is {run.left()}{also}{doubt}"


def _whose(stopped: str) -> str:
    """The words of a fit that say which epoch it went back to; empty when it did not."""
    at = stopped.find("the result is that of epoch")
    return stopped[at:] if at >= 0 else ""


def _near(run: Run) -> bool:
    return run.floor > 0 and 0 < run.noise[-1] / run.floor < NEAR


def _chooses(history: History) -> bool:
    """Whether steps were chosen by searching along lines (L-BFGS)."""
    return any(event.get("passes", 1.0) > 1 for event in history)


def _trend(time: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Relative fall per unit of time by least squares, and its standard error."""
    x, y = time - time.mean(), np.log(values)
    slope = float(x @ y / (x @ x))
    rest = y - y.mean() - slope * x
    return -slope, float(np.sqrt(rest @ rest / max(len(x) - 2, 1) / (x @ x)))


def _percent(fall: float) -> str:
    """A fall of a logarithm as a share of the value."""
    return f"{100 * -np.expm1(-fall):.2g} %"


def _broken(stopped: str) -> bool:
    return "finite" in stopped or "became" in stopped


def _after_a_breakdown(history: History, stopped: str, newton: float) -> list[str]:
    """The remedy for a loss that is not finite, unless it was so from the start."""
    if "before the first step" in stopped:
        return []
    what = f"lower the rates ({_times(_highest(history), 1 / 3, newton)})" if history else "lower all rates"
    return [f"the loss broke down: {what}"]


def _violent(history: History, losses: np.ndarray, newton: float, most: float = 1.3) -> str:
    """Above the first loss, or well above the lowest, for three epochs and more."""
    lowest = int(losses.argmin())
    since = np.median(losses[-3:]) / losses[lowest]
    if len(losses) - 1 - lowest < 3 or since < most:
        return ""
    if min(losses[-3:]) > losses[0]:
        start = f"the loss stands at {losses[-1] / losses[0]:.2g} times that of the first epoch"
    else:
        start = f"the loss has risen by {100 * (since - 1):.0f} % since epoch {history[lowest]['number']}"
    late = _began(history, lowest)
    if late:
        less = _times(late, 1 / 3, newton)
        return f"{start}, when {' and '.join(late)} began to move: lower the rate ({less})"
    return f"{start}: lower the rates ({_times(_highest(history), 1 / 3, newton)})"


def _swinging(history: History, losses: np.ndarray, newton: float) -> str:
    """Up and down by a tenth and more at nearly every epoch."""
    last = losses[-9:]
    steps = np.diff(last)
    turns = (steps[1:] * steps[:-1] < 0).sum()
    size = np.abs(steps).mean() / last.mean()
    if len(last) < 7 or turns < len(steps) - 2 or size < 0.1:
        return ""
    words = f"the loss swings by {100 * size:.0f} % from epoch to epoch"
    return f"{words}: lower the rates ({_times(_highest(history), 1 / 2, newton)}), or take larger batches"


def _timid(history: History, losses: np.ndarray, newton: float, floor: float) -> str:
    """Hardly lower than at the start, by rates that may be why."""
    fall = 1 - losses[-1] / losses[0]
    low = {name: rate for name, rate in _highest(history).items() if rate < newton / 10}
    if len(losses) < 8 or losses[-1] < 2 * floor or not 0 <= fall < 0.1 or not low:
        return ""
    words = f"the loss has fallen by only {100 * fall:.1f} % in {len(losses)} epochs"
    return f"{words}: raise the rates ({_times(low, 3, newton)})"


def _losses(history: History) -> np.ndarray:
    """Losses of the epochs, of those terms only that were there in all of them."""
    named = [set(event.get("terms") or ()) for event in history]
    common = sorted(set.intersection(*named)) if named else []
    whole = [event["loss"] for event in history]
    parts = [sum(event["terms"][name] for name in common) for event in history] if common else whole
    return np.array(parts, float)


def _highest(history: History) -> dict[str, float]:
    """The highest rate that each part that moved had, which is the one that was asked for."""
    out: dict[str, float] = {}
    for event in history:
        for name, rate in _moving(event).items():
            out[name] = max(out.get(name, 0.0), rate)
    return out


def _moving(event: Mapping[str, Any]) -> dict[str, float]:
    """Rates of the parts that moved: a shape may hold one still for a while."""
    return {name: rate for name, rate in event["rates"].items() if rate > 0}


def _paces(history: History) -> list[float]:
    """The lowest rate of each epoch as a share of the highest of its part, of the parts that had begun."""
    most, begun, out = _highest(history), set[str](), list[float]()
    for event in history:
        begun |= set(_moving(event))
        shares = [rate / most[name] for name, rate in event["rates"].items() if name in begun]
        out.append(min(shares, default=1.0))
    return out


def _began(history: History, lowest: int) -> dict[str, float]:
    """Parts that began to move right after an epoch, though not all did."""
    first, then = _moving(history[lowest]), _moving(history[lowest + 1])
    late = {name: rate for name, rate in _highest(history).items() if name in then and name not in first}
    return late if first else {}


def _times(rates: Mapping[str, float], factor: float, most: float) -> str:
    return ", ".join(f"{name} {rate:.2g} -> {min(rate * factor, most):.1g}" for name, rate in rates.items())
