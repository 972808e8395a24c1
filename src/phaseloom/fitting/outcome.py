"""Outcomes of a fit as codes for programs, each with its sentence for people: no code reads a sentence."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

__all__ = ["Advice", "Doubt", "Judgement", "RateAdvice", "Stop", "StopReason", "Verdict", "stop_of_sentence"]


class StopReason(StrEnum):
    """Why a fit ended."""

    NOT_STOPPED = "not_stopped"
    """It runs, or has not begun."""
    ALL_EPOCHS = "all_epochs"
    PART_OF_EPOCHS = "part_of_epochs"
    """The epochs of one call are done; another call does the rest."""
    CONVERGED = "converged"
    """The hold-out loss has levelled."""
    OVERFITTING = "overfitting"
    """The hold-out loss rises while the loss falls."""
    REQUESTED = "requested"
    """A command ended the run (`phaseloom.runs.control`), as if all epochs were done."""
    INTERRUPTED = "interrupted"
    NOT_FINITE = "not_finite"
    """A loss or a gradient became infinite or not a number."""
    NOT_FINITE_AT_START = "not_finite_at_start"
    """So it was before the first step: the rates cannot be the cause."""
    NOT_TRAINED = "not_trained"
    """A model without training, whose parameters are computed."""
    OTHER = "other"
    """A sentence of an earlier version that none of these matches."""


@dataclass(frozen=True)
class Stop:
    """Why and where a fit ended; ``str`` gives the sentence.

    Attributes:
        reason: the code.
        cause: the reason as a clause, with its numbers.
        remark: whose result it is, as a clause; empty: that of the last epoch.
        result_epoch: epoch whose parameters are the result; 0: those of the start; ``None``: the last one.

    Example:
        >>> print(Stop(StopReason.INTERRUPTED, "interrupted in epoch 3", "the result is that of epoch 2", 2))
        interrupted in epoch 3; the result is that of epoch 2
    """

    reason: StopReason = StopReason.NOT_STOPPED
    cause: str = ""
    remark: str = ""
    result_epoch: int | None = None

    @classmethod
    def after_interruption(cls, epoch: int, /) -> Self:
        """An interruption between two epochs."""
        return cls(StopReason.INTERRUPTED, f"interrupted after epoch {epoch}")

    def __str__(self) -> str:
        return f"{self.cause}; {self.remark}" if self.remark else self.cause

    @property
    def is_interrupted(self) -> bool:
        """Whether the user ended the fit."""
        return self.reason is StopReason.INTERRUPTED

    @property
    def is_breakdown(self) -> bool:
        """Whether a number that is not finite ended the fit."""
        return self.reason in (StopReason.NOT_FINITE, StopReason.NOT_FINITE_AT_START)

    @property
    def is_complete(self) -> bool:
        """Whether the fit came to its planned end, to that of a call for a part, or to one on request."""
        return self.is_requested or self.reason in (StopReason.ALL_EPOCHS, StopReason.PART_OF_EPOCHS)

    @property
    def is_requested(self) -> bool:
        """Whether a command ended the fit."""
        return self.reason is StopReason.REQUESTED

    @property
    def is_settled(self) -> bool:
        """Whether the hold-out loss says that more epochs are of no use."""
        return self.reason in (StopReason.CONVERGED, StopReason.OVERFITTING)

    @property
    def is_without_epochs(self) -> bool:
        """Whether the first epoch was given up, so that the model is still that of the start."""
        return (self.is_interrupted or self.is_breakdown) and self.result_epoch == 0


def stop_of_sentence(sentence: str, /) -> Stop:
    """The `Stop` of a sentence, for files of versions that kept nothing else; the text stays the same.

    Example:
        >>> stop_of_sentence("interrupted in epoch 3; the result is that of epoch 2").result_epoch
        2
    """
    found = re.search(r"; (the result is that of epoch (\d+).*|nothing was learned)$", sentence)
    cause = sentence[: found.start()] if found else sentence
    remark = found[1] if found else ""
    result_epoch = int(found[2] or 0) if found else None
    return Stop(_reason_of_sentence(sentence), cause, remark, result_epoch)


def _reason_of_sentence(sentence: str) -> StopReason:
    patterns = {
        "before the first step": StopReason.NOT_FINITE_AT_START,
        "finite|became": StopReason.NOT_FINITE,
        "^interrupted": StopReason.INTERRUPTED,
        "^stopped after epoch": StopReason.REQUESTED,
        "^converged": StopReason.CONVERGED,
        "^overfitting": StopReason.OVERFITTING,
        r"^(all \d+ epochs|one epoch) done": StopReason.ALL_EPOCHS,
        r"^\d+ of \d+ epochs done": StopReason.PART_OF_EPOCHS,
        "^components are fitted": StopReason.NOT_TRAINED,
        "^$": StopReason.NOT_STOPPED,
    }
    reasons = (reason for pattern, reason in patterns.items() if re.search(pattern, sentence))
    return next(reasons, StopReason.OTHER)


class Verdict(StrEnum):
    """How far a fit may be trusted."""

    CONVERGED = "converged"
    """Little but noise is left."""
    LEVELLED = "levelled"
    """The loss falls no more, though more than noise is left."""
    STILL_FALLING = "still_falling"
    """More epochs would lower the loss."""
    DOUBTFUL = "doubtful"
    """Held-out patterns are explained much worse than the others."""
    OVERFITTING = "overfitting"
    """The hold-out loss rises while the loss falls."""
    WRONG_START = "wrong_start"
    """The loss stays far above the noise."""
    STEPS_TOO_LONG = "steps_too_long"
    """The loss has risen, or swings."""
    NOT_JUDGED = "not_judged"
    """The loss cannot be compared with the noise."""
    INTERRUPTED = "interrupted"
    BROKE_DOWN = "broke_down"
    """The loss or a gradient became infinite or not a number."""
    NOTHING_LEARNED = "nothing_learned"
    """No epoch was done."""


@dataclass(frozen=True)
class Doubt:
    """Something besides the losses that speaks against a fit.

    Attributes:
        verdict: what it makes of the fit.
        sentence: what it is, and what to do, as a clause.
    """

    verdict: Verdict
    sentence: str


class RateAdvice(StrEnum):
    """What the losses of a fit advise about its rates."""

    LOSS_RISES = "loss_rises"
    LOSS_SWINGS = "loss_swings"
    LOSS_STANDS = "loss_stands"
    BROKE_DOWN = "broke_down"


class Advice(str):
    """A sentence of advice, with a code that tells it from others whatever its numbers are."""

    code: StrEnum

    def __new__(cls, code: StrEnum, sentence: str) -> Self:
        """Both parts."""
        advice = super().__new__(cls, sentence)
        advice.code = code
        return advice

    def __getnewargs__(self) -> tuple[StrEnum, str]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.code, str(self)


class Judgement(str):
    """A `Verdict` with its reasons: the sentence, and the code beside it.

    Example:
        >>> judgement = Judgement(Verdict.CONVERGED, "converged: what is left is 1.03 times shot noise")
        >>> judgement.verdict
        <Verdict.CONVERGED: 'converged'>
    """

    verdict: Verdict

    def __new__(cls, verdict: Verdict, sentence: str) -> Self:
        """Both parts."""
        judgement = super().__new__(cls, sentence)
        judgement.verdict = verdict
        return judgement

    def __getnewargs__(self) -> tuple[Verdict, str]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.verdict, str(self)

    def includes(self, advice: str, /) -> bool:
        """Whether the sentence already gives this advice."""
        about_steps = (RateAdvice.LOSS_RISES, RateAdvice.LOSS_SWINGS)
        too_long = self.verdict is Verdict.STEPS_TOO_LONG
        return too_long and isinstance(advice, Advice) and advice.code in about_steps
