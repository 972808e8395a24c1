"""The loop, owned by its caller: ``for epoch in fit(...)``. It yields; it never prints, plots or saves."""

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from phaseloom.fitting.engine import Engine
from phaseloom.fitting.outcome import Stop, StopReason, stop_of_sentence
from phaseloom.fitting.rates import rates_have_fallen, set_rates
from phaseloom.fitting.schedule import Every, Shape, constant
from phaseloom.fitting.updates import (
    Batches,
    HoldOut,
    NotFinite,
    Objective,
    measure_holdout,
    step_by_engine,
    step_on_all,
    step_on_each,
    step_on_finite,
)

__all__ = ["Epoch", "Progress", "fit", "stop_on_request"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Epoch:
    """What one epoch did.

    Attributes:
        number: counted from 1 over all calls that share a `Progress`.
        loss: mean over the patterns of all terms together, while they moved.
        terms: the same by name.
        holdout: mean loss of the patterns that are never learned from, after the epoch; or ``None``.
        rates: of each part, in this epoch.
        seconds: wall time.
        updates: steps of the optimiser.
        passes: how often each pattern was modelled for learning.
    """

    number: int
    loss: float
    terms: dict[str, float]
    holdout: float | None
    rates: dict[str, float]
    seconds: float
    updates: int
    passes: float

    def __str__(self) -> str:
        """One line for a log."""
        held = "" if self.holdout is None else f"  hold-out {self.holdout:.4g}"
        return f"epoch {self.number:4d}  loss {self.loss:.4g}{held}  {self.seconds:.2f} s"


@dataclass
class Progress:
    """All that changes in a fit, and so all that a checkpoint holds.

    Attributes:
        model: the module whose parameters move.
        optimizer: with the state that it keeps across calls of `fit`.
        epoch: how many have been done.
        history: one `Epoch` as a dict for each; with ``incomparable_epochs`` where there are some.
        stop: why the last call ended, as a code and a sentence.
        best: epoch, hold-out loss and parameters of the best epoch so far.
        shown: the epoch whose parameters the model has at the end, when it is not the last one.
        coarse_epochs: epochs of the history that another model did, on a coarser grid.
        other_noise_epochs: epochs of the history whose losses are those of another noise model.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    stop: Stop = field(default_factory=Stop)
    best: tuple[int, float, dict[str, Tensor]] | None = None
    result_epoch: int | None = None
    coarse_epochs: int = 0
    other_noise_epochs: int = 0

    @property
    def incomparable_epochs(self) -> int:
        """Epochs of the history whose losses do not compare with those to come."""
        return max(self.coarse_epochs, self.other_noise_epochs)

    @property
    def comparable_epochs(self) -> list[dict[str, Any]]:
        """The part of the history whose losses compare with those to come."""
        return self.history[self.incomparable_epochs :]

    @property
    def holdout_loss(self) -> float | None:
        """Hold-out loss in the epoch of the result, or the last one before it that had a hold-out."""
        done = self.history[: self.result_epoch]
        events = done[self.incomparable_epochs :] or done[-1:]  # one may end by its early noise model
        held = [event["holdout"] for event in events if event["holdout"] is not None]
        return held[-1] if held else None

    @property
    def stopped(self) -> str:
        """Why the last call ended, as a sentence; empty while it runs."""
        return str(self.stop)

    @stopped.setter
    def stopped(self, sentence: str) -> None:
        self.stop = stop_of_sentence(sentence)

    def record_stop(self, **more: str) -> None:
        """Add to the last epoch of the history why the run ended, with more of its outcome."""
        if self.history:
            self.history[-1] |= {"stop_reason": self.stop.reason.value, "stopped": self.stopped, **more}

    def restore_best(self) -> None:
        """Go back to the parameters with the lowest hold-out loss."""
        if self.best is not None:
            self.model.load_state_dict(self.best[2])


def fit(  # noqa: PLR0913 - the whole of a fit is said in one call
    objective: Objective,
    batches: Batches,
    progress: Progress,
    /,
    *,
    epochs: int,
    horizon: int | None = None,
    shape: Shape = constant,
    before: Sequence[Callable[[Progress], None]] = (),
    after: Sequence[Every] = (),
    holdout: Sequence[Any] = (),
    own: Sequence[str] = (),
    judged: Sequence[str] | None = None,
    patience: int | None = None,
    clip: float | None = None,
    within: float = 0.01,
    spare: int = 0,
) -> Iterator[Epoch]:
    """Run until ``epochs`` are done in all, yielding each.

    Ctrl-C and a loss that is not finite end the generator, not the program: the parameters are those
    of the last good moment, and ``progress.stop`` says what happened; a copy of model and optimiser
    is kept for that, so memory holds both twice. The order of batches depends on the epoch's number
    alone, so a fit that resumes from a checkpoint repeats the straight one.

    A batch in pieces is stepped from as if it were whole when each term is a mean over patterns. The
    root of a mean, or a misfit of mean patterns, is not the mean of its pieces: such terms are those of
    the pieces, averaged.

    Args:
        objective: loss terms by name of a batch; each a mean over its patterns.
        batches: the batches of an epoch by its number; a tuple is a batch in pieces.
        progress: model, optimiser and history; continued when it has a past.
        epochs: number of the last epoch.
        horizon: number of the last epoch that shapes reckon with, when another call does the rest.
        shape: factor on the rates as a function of the share of epochs done (see
            `phaseloom.fitting.schedule`), for groups without a shape of their own.
        before: what is done with the progress so far before every epoch (curvatures).
        after: what happens at the end of epochs (projections).
        holdout: batches that are never learned from.
        own: names of groups that hold a value for each pattern (a position, say): held-out patterns
            settle theirs, or the hold-out loss would measure these values and not the shared ones.
        judged: names of the terms that the hold-out loss is made of; default: all.
        patience: stop when the hold-out loss has not fallen by 0.1 % for so many epochs.
        clip: largest norm of the gradient.
        within: share by which the last hold-out loss may be above the lowest and still be the result.
        spare: batches one after the other that are skipped if their numbers are not finite, rather than
            ending the epoch.

    Yields:
        An `Epoch` after each.
    """
    progress.stop = Stop()
    progress.result_epoch = None
    settings = _FitSettings(
        objective=objective,
        batches=batches,
        clip=clip,
        spare=spare,
        held=HoldOut(holdout, own, judged),
        shape=shape,
        horizon=horizon or epochs,
        before=before,
        after=after,
    )
    while progress.epoch < epochs:
        number = progress.epoch + 1
        epoch = _try_epoch(progress, settings)
        if epoch is None:
            return
        settled = rates_have_fallen(progress.optimizer, shape, settings.horizon, number, progress.history)
        progress.epoch = number
        since = progress.incomparable_epochs
        progress.history.append(asdict(epoch) | ({"incomparable_epochs": since} if since else {}))
        _remember_best(progress, epoch)
        stop = _early_stop(progress, patience, settling=settled)
        if stop is None and number >= epochs:
            stop = _planned_end(epochs, horizon)
        if stop is not None:
            progress.stop = stop
            _return_to_best(progress, within)
        yield epoch
        if stop is not None:
            return


@dataclass(frozen=True, kw_only=True)
class _FitSettings:
    """What `fit` is asked for and every epoch needs; see there."""

    objective: Objective
    batches: Batches
    clip: float | None
    spare: int
    held: HoldOut
    shape: Shape
    horizon: int
    before: Sequence[Callable[[Progress], None]]
    after: Sequence[Every]


MAX_GROWTH = 3.0
"""Loss of an epoch over the one before it, or over that of its first batch, that shows diverging steps."""

MIN_GAIN = 0.9
"""Share of the loss of a longer step below which shorter steps have helped."""

MIN_FALL = 0.99
"""Share of the lowest loss up to the best epoch below which the loss has fallen since: it scatters."""


def _try_epoch(progress: Progress, settings: _FitSettings, *, longer: float = math.inf) -> Epoch | None:
    """One epoch and what happens before and after it; ``None`` when it had to be undone.

    An epoch whose numbers cease to be finite, or whose steps diverge, is done again by an optimiser that can
    take shorter steps, as long as that helps against the loss of the ``longer`` ones.
    """
    number = progress.epoch + 1
    safe = copy_state((progress.model.state_dict(), progress.optimizer.state_dict()))
    try:
        for preparation in settings.before:
            preparation(progress)
        rates = set_rates(progress.optimizer, settings.shape, settings.horizon, number, progress.history)
        epoch, first = _run_epoch(progress, settings, rates)
        if not _has_diverged(progress, epoch, first) or epoch.loss > MIN_GAIN * longer:
            return epoch
        if not shorten_steps(progress.optimizer):
            return epoch
        _restore(progress, safe)  # the length of steps, too
        shorten_steps(progress.optimizer)
        log.info("epoch %d: its loss is %.3g: done again with shorter steps", number, epoch.loss)
        return _try_epoch(progress, settings, longer=epoch.loss)
    except KeyboardInterrupt:
        _restore(progress, safe)
        progress.stop = _stop_of_undone_epoch(progress, StopReason.INTERRUPTED, "interrupted")
    except NotFinite as problem:
        _restore(progress, safe)
        if not problem.at_start and shorten_steps(progress.optimizer):
            return _try_epoch(progress, settings)
        reason = StopReason.NOT_FINITE_AT_START if problem.at_start else StopReason.NOT_FINITE
        progress.stop = _stop_of_undone_epoch(progress, reason, str(problem))
    return None


def _has_diverged(progress: Progress, epoch: Epoch, first: float | None) -> bool:
    """Whether the patterns learned from and those held out are both far worse than before the epoch."""
    if not hasattr(progress.optimizer, "halve_steps") or first is None:
        return False
    events = progress.comparable_epochs
    before = max(events[-1]["loss"], first) if events else first
    after = epoch.loss if epoch.holdout is None else min(epoch.loss, epoch.holdout)
    return after > MAX_GROWTH * before


def _run_epoch(
    progress: Progress, settings: _FitSettings, rates: dict[str, float]
) -> tuple[Epoch, float | None]:
    """One epoch: learn from every batch, do what is due after it, then look at the patterns held out.

    Returns:
        The epoch, and the loss of its first batch before the first step.
    """
    began = time.perf_counter()
    number = progress.epoch + 1
    learn = partial(step_on_finite, spare=settings.spare) if settings.spare else step_on_each
    learn = step_on_all if isinstance(progress.optimizer, torch.optim.LBFGS) else learn
    learn = step_by_engine if isinstance(progress.optimizer, Engine) else learn
    batches = settings.batches(number)
    found = learn(settings.objective, batches, progress.optimizer, number, settings.clip)
    for event in settings.after:
        if event.is_due(number):
            event.action()
    left = measure_holdout(settings.objective, settings.held, progress.optimizer, number)
    epoch = Epoch(
        number=number,
        loss=sum(found.terms.values()),
        terms=found.terms,
        holdout=left,
        rates=rates,
        seconds=time.perf_counter() - began,
        updates=found.updates,
        passes=found.passes,
    )
    return epoch, found.first


def _restore(progress: Progress, safe: tuple[dict[str, Any], dict[str, Any]]) -> None:
    progress.model.load_state_dict(safe[0])
    load_optimizer_state(progress.optimizer, safe[1])


def copy_state(state: Any, /) -> Any:
    """What a ``state_dict`` holds, tensors copied: `copy.deepcopy` takes ten times as long over small ones.

    Example:
        >>> state = {"a": torch.zeros(1), "b": [{"c": 1}]}
        >>> other = copy_state(state)
        >>> other["a"] += 1
        >>> other["b"][0]["c"] = 2
        >>> state
        {'a': tensor([0.]), 'b': [{'c': 1}]}
    """
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, dict):
        return type(state)((key, copy_state(value)) for key, value in state.items())
    if type(state) in (list, tuple):
        return type(state)(copy_state(value) for value in state)
    return state if isinstance(state, (str, int, float, bool, type(None))) else copy.deepcopy(state)


def shorten_steps(optimizer: torch.optim.Optimizer) -> bool:
    """Have an optimiser that can take shorter steps from now on do so."""
    brake = getattr(optimizer, "halve_steps", None)
    return brake is not None and brake()


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a state and keep its dtypes: PyTorch casts all but ``step`` to the dtype of the parameter."""
    optimizer.load_state_dict(state)
    for group, old in zip(optimizer.param_groups, state["param_groups"], strict=True):
        for parameter, number in zip(group["params"], old["params"], strict=True):
            now = optimizer.state[parameter]
            then = state["state"].get(number, {})
            for name, value in then.items():
                if isinstance(value, Tensor):
                    now[name] = now[name].to(value.dtype)


def _stop_of_undone_epoch(progress: Progress, reason: StopReason, what: str) -> Stop:
    """The end of a fit in an epoch that is undone."""
    done = progress.epoch
    remark = f"the result is that of epoch {done}" if done else "nothing was learned"
    return Stop(reason, f"{what} in epoch {done + 1}", remark, done)


def _remember_best(progress: Progress, epoch: Epoch) -> None:
    if epoch.holdout is None or not math.isfinite(epoch.holdout):
        return
    if progress.best is None or epoch.holdout < progress.best[1]:
        progress.best = (epoch.number, epoch.holdout, copy_state(progress.model.state_dict()))


def _early_stop(progress: Progress, patience: int | None, *, settling: bool) -> Stop | None:
    """Why to stop before the last epoch, if there is a reason.

    A plateau does not end the fit while rates are still to fall. A hold-out loss that stays 2 % above its
    best ends it if the training loss falls; if that rises too, steps are too large, which falling rates cure.
    """
    events = progress.comparable_epochs
    held = [event["holdout"] for event in events if event["holdout"] is not None]
    if patience is None or progress.best is None or len(held) <= patience or events[-1]["holdout"] is None:
        return None
    recent = min(held[-patience:])
    if recent > 1.02 * progress.best[1] and _loss_has_fallen(progress, progress.best[0]):
        cause = f"overfitting: the hold-out loss rises since epoch {progress.best[0]}"
        return Stop(StopReason.OVERFITTING, cause)
    if settling and recent > 0.999 * min(held[:-patience]):
        cause = f"converged: the hold-out loss has not fallen for {patience} epochs"
        return Stop(StopReason.CONVERGED, cause)
    return None


def _planned_end(epochs: int, horizon: int | None) -> Stop:
    """The end of a fit that nothing stopped."""
    if horizon is not None and horizon != epochs:
        return Stop(StopReason.PART_OF_EPOCHS, f"{epochs} of {horizon} epochs done")
    return Stop(StopReason.ALL_EPOCHS, f"all {epochs} epochs done" if epochs > 1 else "one epoch done")


def stop_on_request(progress: Progress, /, *, within: float = 0.01) -> None:
    """End a fit between two epochs as if all were done; ``within`` as of `fit`."""
    cause = f"stopped after epoch {progress.epoch} on request"
    progress.stop = Stop(StopReason.REQUESTED, cause)
    _return_to_best(progress, within)


def _return_to_best(progress: Progress, within: float) -> None:
    best = progress.best
    holdout = progress.history[-1]["holdout"] if progress.history else None
    if best is None or holdout is None or holdout <= (1 + within) * best[1]:
        return
    progress.restore_best()
    progress.result_epoch = best[0]
    remark = f"the result is that of epoch {best[0]}, whose hold-out loss is the lowest"
    progress.stop = replace(progress.stop, remark=remark, result_epoch=best[0])


def _loss_has_fallen(progress: Progress, since: int) -> bool:
    """Whether the loss of what is learned is below every one up to an epoch, by more than it scatters."""
    events = progress.comparable_epochs
    lowest = min((event["loss"] for event in events if event["number"] <= since), default=math.inf)
    return events[-1]["loss"] < MIN_FALL * lowest
