"""How far a fit may be trusted, and how its rates should change: read from its losses and rates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from phaseloom.fitting.outcome import (
    Advice,
    Doubt,
    Judgement,
    RateAdvice,
    Stop,
    StopReason,
    Verdict,
    stop_of_sentence,
)

__all__ = ["VERDICTS_TO_DOUBT", "add_doubts", "advise_rates", "judge_fit"]

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
    first = moving_rates(history[lowest])
    then = moving_rates(history[lowest + 1])
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
    lower = format_rates(highest_rates(history), 1 / 2, newton)
    return f"{words}: lower the rates ({lower}), or take larger batches"


def advise_rates(
    history: History, /, *, stopped: Stop | str = "", floor: float = 0.0, newton: float = np.inf
) -> list[Advice]:
    """Sentences that name what went wrong in a fit and what to do; none when all is well.

    Rates are too high when the loss stands above its start or its best and stays there, swings, or
    is not finite any more; too low when it has hardly moved. A rise that begins where a part begins to move
    is that part's. Whether more epochs would help is for `judge_fit` to say. Nothing is said of L-BFGS, which
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


LEVEL_TO_IMPROVE = 1.3
"""Times shot noise, of all patterns or of those held out, above which something is left to explain."""

MIN_LEVEL_OF_COUNTS = 0.5
"""What is left of counts in units of their noise, at least, where patterns determine the model."""

MAX_LEVEL_OF_NOISE = 1.05
"""Times the floor from which on nothing is left to be had."""

MIN_LEVEL_OF_WRONG_MODEL = 2.0
"""Times the floor, learned or held out, from which on the model is taken to differ from the experiment."""

FALL_OF_GOOD_START = 8.0
"""By what the loss has fallen in all when its start was good, wherever it ends."""

MAX_EPOCHS_TO_NOISE = 3.0
"""Times the epochs done that a fall may still need to reach the floor."""

SHARE_OF_HIGHEST_RATE = 0.99
SHARE_OF_HIGH_RATE = 0.7
"""Shares of the highest rates from which on the fall of the loss is judged, the second where few epochs had
the first: lower rates quieten steps and so lower any loss, converged or not."""

MIN_HOLDOUT_IN_DOUBT = 1.25
"""Hold-out loss, in units of the noise, from which on a gap is more than chance."""

MIN_HOLDOUT_RATIO_IN_DOUBT = 1.15
"""Hold-out loss over the loss of what is learned from which on a fit is taken to describe its data only."""

MIN_GAP_BEYOND_NOISE = 0.08
"""Hold-out loss above what noise alone makes of it, where the loss learned is below the noise. Numbers that
are fitted lower the one by their share of the data and raise the other by as much. Two near fields with right
distances left 0.04, and -0.06; one with a distance 15 % off left 0.13."""

MIN_LEVEL_OF_WRONG_START = 100.0
"""Times the noise that no good start is left with."""

MAX_LEVEL_OF_CONFIRMED_START = 10.0
"""Times the noise up to which a start that other evidence confirms is not called wrong."""

MIN_STEPS_TO_JUDGE = 60
"""Updates in all that are too few to judge by."""


def judge_fit(
    history: History,
    /,
    *,
    stopped: Stop | str = "",
    floor: float = 1.0,
    since: int = 0,
    newton: float = np.inf,
    mean_pattern_loss: float = 0.0,
    is_start_confirmed: bool = False,
) -> Judgement:
    """How far a fit may be trusted: a `phaseloom.fitting.outcome.Verdict` and the sentence that explains it.

    ``converged``, ``levelled``, ``still falling``, ``doubtful``, ``overfitting``, ``wrong start``, ``steps
    too long`` and ``not judged`` are distinguished by losses, hold-out losses and rates; ``interrupted``,
    ``broke down`` and ``nothing was learned`` by the reason for which the fit ended.

    Args:
        history: of a fit (`phaseloom.fitting.loop.Progress.history`).
        stopped: why it ended (`phaseloom.fitting.loop.Progress.stop`), or the sentence of a file.
        floor: loss at which nothing but noise is left (1 for a likelihood); 0: not known.
        since: epochs of the history on a coarser grid or by another noise model, with which later losses do
            not compare.
        newton: see `advise_rates`.
        mean_pattern_loss: loss of a model that knows the mean pattern alone; 0: not known.
        is_start_confirmed: whether other evidence says that the start was right, so that a high loss is not
            taken for a wrong one.

    Example:
        >>> rates = {"object": 0.02}
        >>> good = [{"number": n, "loss": 1.03 + 5 * 0.5**n, "rates": rates} for n in range(1, 31)]
        >>> judge_fit(good)
        'converged: what is left is 1.03 times shot noise'
        >>> judge_fit(good[:4]).verdict
        <Verdict.STILL_FALLING: 'still_falling'>
    """
    stop = stopped if isinstance(stopped, Stop) else stop_of_sentence(stopped)
    if stop.is_breakdown:
        cure = "" if stop.reason is StopReason.NOT_FINITE_AT_START else ": lower the rates"
        return Judgement(Verdict.BROKE_DOWN, f"broke down: {stop}{cure}")
    if not history:
        return Judgement(Verdict.NOTHING_LEARNED, "nothing was learned: no epoch was done")
    run = FitRecord.of(history, stop, floor, since, newton, mean_pattern_loss)
    if not (np.isfinite(run.loss).all() and run.loss.min() > 0):
        sentence = "not judged: the loss is not positive, so that it has no ratios"
        return Judgement(Verdict.NOT_JUDGED, sentence)
    if stop.is_interrupted:
        way = (
            f"the loss still fell by {_format_fall(run.fall_per_epoch)} per epoch"
            if run.fall_per_epoch
            else "it had levelled"
        )
        return Judgement(Verdict.INTERRUPTED, f"{stop.cause}: {way}, at {run.describe_residual()}")
    rules = (_judge_step_length, _judge_start, _judge_overfitting, _judge_holdout, _judge_fall)
    if is_start_confirmed and max(run.level, run.holdout_level) < MAX_LEVEL_OF_CONFIRMED_START:
        rules = tuple(rule for rule in rules if rule is not _judge_start)
    judgements = (judgement for rule in rules if (judgement := rule(run, stop)))
    return next(judgements, None) or _judge_residual(run)


VERDICTS_TO_DOUBT = (
    Verdict.CONVERGED,
    Verdict.LEVELLED,
    Verdict.STILL_FALLING,
    Verdict.DOUBTFUL,
    Verdict.WRONG_START,
)
"""Verdicts that other evidence may change: fits that came to their end."""


def add_doubts(judgement: Judgement, doubts: Sequence[Doubt], /) -> Judgement:
    """A judgement by losses, with what else speaks against the fit, which weighs more than the losses.

    Args:
        judgement: of `judge_fit`.
        doubts: the likeliest first; its verdict is taken.

    Example:
        >>> good = Judgement(Verdict.CONVERGED, "converged: 1.03 times shot noise")
        >>> add_doubts(good, [Doubt(Verdict.WRONG_START, "the detector lies the other way")])
        'wrong start: the detector lies the other way (by the losses alone, converged: 1.03 times shot noise)'
        >>> add_doubts(good, []) is good
        True
    """
    if not doubts or judgement.verdict not in VERDICTS_TO_DOUBT:
        return judgement
    verdict = doubts[0].verdict
    reasons = "; ".join(one.sentence for one in doubts)
    name = verdict.value.replace("_", " ")
    return Judgement(verdict, f"{name}: {reasons} (by the losses alone, {judgement})")


@dataclass(frozen=True)
class FitRecord:
    """The epochs of a history that a verdict is about: those whose losses compare with the last one.

    Attributes:
        history: all of them.
        events: those on the last grid, by the last noise model.
        loss: of each event, of those terms only that were there in all.
        noise: of each event, what compares with counts.
        shown: place of the event whose parameters are the result.
        held: of each event, NaN where nothing was held out.
        pace: lowest rate of each event as a share of the highest that its part had; of parts that had begun.
        floor, newton, mean_pattern_loss: see `judge_fit`.
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
    mean_pattern_loss: float

    @classmethod
    def of(cls, history: History, stop: Stop, floor: float, since: int, *known: float) -> "FitRecord":
        """The numbers of a history; a grid that has seen two epochs at most is judged with the one before."""
        events = history[since:] if len(history) - since > 2 else history
        noise = [(event.get("terms") or {}).get("noise", event["loss"]) for event in events]
        held = [np.nan if event.get("holdout") is None else event["holdout"] for event in events]
        noise, held, pace = (np.array(values, float) for values in (noise, held, _relative_rates(events)))
        results = (n for n, event in enumerate(events) if event["number"] == stop.result_epoch)
        shown = next(results, len(events) - 1)
        return cls(history, events, sum_common_terms(events), noise, held, pace, shown, floor, *known)

    @property
    def level(self) -> float:
        """What the result leaves in units of the noise; zero where that is not known."""
        return float(self.noise[self.shown] / self.floor) if self.floor > 0 else 0.0

    def describe_residual(self, place: int | None = None) -> str:
        """What an event left, in words; that of the result, unless another is meant."""
        left = self.noise[self.shown if place is None else place]
        return f"{left / self.floor:.3g} times shot noise" if self.floor > 0 else f"a loss of {left:.3g}"

    @property
    def last_holdout(self) -> int | None:
        """Place of the event of the result, or the last before it, that has a hold-out loss."""
        known = np.flatnonzero(np.isfinite(self.held[: self.shown + 1]))
        return int(known[-1]) if len(known) else None

    @property
    def holdout_level(self) -> float:
        """The hold-out loss of the result, in units of the noise; zero where there is none."""
        return (
            0.0
            if self.last_holdout is None or self.floor <= 0
            else float(self.held[self.last_holdout] / self.floor)
        )

    @property
    def holdout_ratio(self) -> float:
        """Hold-out loss over the loss of the same epoch; zero where there is none."""
        return (
            0.0
            if self.last_holdout is None
            else float(self.held[self.last_holdout] / self.noise[self.last_holdout])
        )

    @property
    def fall_per_epoch(self) -> float:
        """Fall of the loss per epoch at full rates that is still going on; zero where it has levelled.

        It has where as many epochs again would bring less than a tenth; where the hold-out loss does not
        fall with it; and where, since the rates began to fall, it has fallen by less than half of what
        the pace before would have made it.
        """
        if _is_near_noise(self):
            return 0.0
        whole, full = (
            np.flatnonzero(self.pace > share) for share in (SHARE_OF_HIGHEST_RATE, SHARE_OF_HIGH_RATE)
        )
        full = whole if len(whole) > 3 else full
        last = full[-max(len(full) // 4, 4) :] if len(full) > 1 else np.arange(len(self.loss))[-4:]
        if len(last) < 2:
            return 0.0
        time = np.cumsum(self.pace)
        each, error = _fit_trend(time[last], self.loss[last])
        if each < max(2 * error, 0.1 / len(self.history)):
            return 0.0
        if np.isfinite(self.held[last]).all() and len(last) > 4:
            unseen, doubt = _fit_trend(time[last], self.held[last])
            if max(unseen, doubt) < each / 4:
                return 0.0
        rest = float(time[-1] - time[last[-1]])
        brought = np.log(self.loss[last[-1]] / self.loss[-1])
        return 0.0 if brought < 0.5 * each * rest else each


def _judge_step_length(run: FitRecord, stop: Stop) -> Judgement | None:
    """Risen by a tenth above the lowest and staying there, or swinging."""
    if _is_near_noise(run) or len(run.loss) < 4 or used_line_search(run.events):
        return None
    said = describe_rise(run.events, run.loss, run.newton, 1.1) or describe_swing(
        run.events, run.loss, run.newton
    )
    return Judgement(Verdict.STEPS_TOO_LONG, f"steps too long: {said}") if said else None


def _judge_start(run: FitRecord, stop: Stop) -> Judgement | None:
    """Several times the noise, not much less than at first, and not on the way to it: a false valley."""
    whole = sum_common_terms(run.history)
    worst = max(run.level, run.holdout_level)
    if worst < MIN_LEVEL_OF_WRONG_MODEL or len(whole) < 8:
        return None
    stuck = (
        whole[0] < FALL_OF_GOOD_START * whole[-1]
        and np.log(worst) > MAX_EPOCHS_TO_NOISE * len(whole) * run.fall_per_epoch
    )
    apart = (
        run.holdout_ratio > MIN_HOLDOUT_RATIO_IN_DOUBT
        and min(run.level, run.holdout_level) > MIN_LEVEL_OF_WRONG_MODEL
        and not run.fall_per_epoch
    )
    if not (stuck or worst > MIN_LEVEL_OF_WRONG_START or apart):
        return None
    return Judgement(
        Verdict.WRONG_START,
        f"wrong start: the loss stays at {run.describe_residual()}: check defocus, orientation of the "
        "detector, pixel size and step of the scan, the sign of heights if there are any (start: sweep tries "
        "the first two, "
        "rates: {affine: 0.1} mends a step or rotation that is a little off), and that counts are single "
        "quanta",
    )


def _judge_overfitting(run: FitRecord, stop: Stop) -> Judgement | None:
    """The hold-out loss rises, by more than it scatters, while the loss falls."""
    seen = np.flatnonzero(np.isfinite(run.held))
    if len(seen) < 5:
        return None
    held = run.held[seen]
    loss = run.loss[seen]
    best = int(held.argmin())
    after = held[best + 1 :]
    if len(after) < 3 or loss[-1] > 0.99 * loss[best]:
        return None
    base = float(np.median(held[max(best - 1, 0) : best + 2]))
    recent = after[-5:]
    scatter = np.sqrt(1 / len(recent) + 1 / 3) * float(np.median(np.abs(np.diff(after))))
    if float(np.median(recent)) - base < max(0.01 * base, 2 * scatter):
        return None
    since = run.events[seen[best]]["number"]
    words = f"the hold-out loss rises since epoch {since} while the loss falls to {run.describe_residual(-1)}"
    rest = stop.remark or "take fewer epochs, or set patience"
    return Judgement(Verdict.OVERFITTING, f"overfitting: {words}: {rest}")


def _judge_holdout(run: FitRecord, stop: Stop) -> Judgement | None:
    """Patterns held out are explained much worse than those learned from, and not only by the noise."""
    if 0 < 0.98 * run.mean_pattern_loss < run.holdout_level * (run.floor or 1):
        against = f"{run.holdout_level:.3g} against {run.mean_pattern_loss:.3g}"
        return Judgement(
            Verdict.DOUBTFUL,
            f"doubtful: patterns held out are explained no better than by their mean ({against} times the "
            "noise): too few counts, or a wrong start (defocus, centre, orientation)",
        )
    if (said := _judge_described_noise(run)) is not None:
        return said
    if (
        len(run.history) < 8
        or run.holdout_level < MIN_HOLDOUT_IN_DOUBT
        or run.holdout_ratio < MIN_HOLDOUT_RATIO_IN_DOUBT
    ):
        return None
    return Judgement(
        Verdict.DOUBTFUL,
        f"doubtful: what is left is {run.describe_residual()}, but {run.holdout_level:.3g} in patterns held "
        "out: a wrong start (defocus, orientation of the detector, step), a model that lacks something "
        "(phaseloom improve finds what), or too little data",
    )


def _judge_described_noise(run: FitRecord) -> Judgement | None:
    """The loss is below the noise, and patterns held out lie above it by more than that explains."""
    place = run.last_holdout
    if len(run.history) < 8 or place is None or run.floor <= 0:
        return None
    learned = float(run.noise[place] / run.floor)
    if learned >= 1 or run.holdout_level + learned < 2 + MIN_GAP_BEYOND_NOISE:
        return None
    return Judgement(
        Verdict.DOUBTFUL,
        f"doubtful: what is left is {run.describe_residual(place)}, but {run.holdout_level:.3g} in patterns "
        f"held out, and {2 - learned:.3g} from noise alone: a model that lacks something (phaseloom improve "
        "finds what), a wrong distance or defocus, or an object or probe that is too free",
    )


def _judge_fall(run: FitRecord, stop: Stop) -> Judgement | None:
    """Still falling, at rates that were not on their way down; far below the noise that is no gain."""
    done = len(run.history)
    if 0 < run.level < MIN_LEVEL_OF_COUNTS:
        return None
    if done < 3 and not _is_near_noise(run):
        few = "one epoch tells" if done == 1 else f"{done} epochs tell"
        sentence = f"still falling: {few} too little, at {run.describe_residual()}: give it more"
        return Judgement(Verdict.STILL_FALLING, sentence)
    if stop.reason is StopReason.CONVERGED:
        return None
    if not run.fall_per_epoch:
        return _judge_few_steps(run)
    when = " before the rates fell" if run.pace[-1] <= SHARE_OF_HIGH_RATE else ""
    words = f"by {_format_fall(run.fall_per_epoch)} per epoch{when}, at {run.describe_residual()}"
    sentence = f"still falling: {words}: give it more epochs ({2 * done} instead of {done})"
    return Judgement(Verdict.STILL_FALLING, sentence)


def _judge_few_steps(run: FitRecord) -> Judgement | None:
    """Levelled by the fall of the rates, after a number of steps that tells little."""
    steps = sum(event.get("updates", MIN_STEPS_TO_JUDGE) for event in run.history)
    if steps < MIN_STEPS_TO_JUDGE and not used_line_search(run.history):
        return Judgement(
            Verdict.STILL_FALLING,
            f"still falling: {steps} steps tell too little, at {run.describe_residual()}: more epochs, or "
            "smaller batches",
        )
    return None


def _judge_residual(run: FitRecord) -> Judgement:
    """What is left, and what that means when it is much."""
    level = run.level
    unseen = run.holdout_level
    doubt = ""
    until = " until learned from" if unseen and run.last_holdout != run.shown else ""
    also = f" ({unseen:.3g} in patterns held out{until})" if unseen else ""
    if 0 < level < MIN_LEVEL_OF_COUNTS:
        why = (
            "so that counts are not single quanta (divide by what one counts as, prepare: normalise), or so "
            "few patterns overlap that object and probe fit their noise, too (scan more positions)"
        )
        return Judgement(
            Verdict.NOT_JUDGED, f"not judged: what is left is {run.describe_residual()}{also}, {why}"
        )
    if level > 1.5:
        lacks = (
            "centre of the patterns, step, defocus; phaseloom improve tries modes, slices and a background; "
            "a probe that moved too early waits with rates: {probe: {rate: 0.4, start: 5}}"
        )
        why = f"the model lacks something ({lacks}), or counts are not single quanta"
        return Judgement(
            Verdict.LEVELLED, f"levelled: what is left is {run.describe_residual()}{also}: {why}"
        )
    if level > MAX_LEVEL_OF_NOISE and run.pace[-1] > SHARE_OF_HIGH_RATE and not used_line_search(run.events):
        doubt = "; long steps may be part of it: let the rates fall (shape: {cosine: {floor: 0.05}})"
    elif max(level, unseen or 0.0) > LEVEL_TO_IMPROVE:
        doubt = "; phaseloom improve looks for what the model lacks"
    elif 0 < level < 0.9 and not unseen:
        why = "so noise is described too, and no pattern was held out to tell the object from it"
        return Judgement(Verdict.DOUBTFUL, f"doubtful: what is left is {run.describe_residual()}, {why}")
    return Judgement(Verdict.CONVERGED, f"converged: what is left is {run.describe_residual()}{also}{doubt}")


def _is_near_noise(run: FitRecord) -> bool:
    return run.floor > 0 and 0 < run.noise[-1] / run.floor < MAX_LEVEL_OF_NOISE


def _fit_trend(time: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Relative fall per unit of time by least squares, and its standard error."""
    x = time - time.mean()
    y = np.log(values)
    slope = float(x @ y / (x @ x))
    rest = y - y.mean() - slope * x
    return -slope, float(np.sqrt(rest @ rest / max(len(x) - 2, 1) / (x @ x)))


def _format_fall(fall: float) -> str:
    """A fall of a logarithm as a share of the value."""
    return f"{100 * -np.expm1(-fall):.2g} %"


def _relative_rates(history: History) -> list[float]:
    """The lowest rate of each epoch as a share of the highest of its part, of the parts that had begun."""
    most = highest_rates(history)
    begun = set[str]()
    out = list[float]()
    for event in history:
        begun |= set(moving_rates(event))
        shares = [rate / most[name] for name, rate in event["rates"].items() if name in begun]
        out.append(min(shares, default=1.0))
    return out
