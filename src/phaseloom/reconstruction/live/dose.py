"""Whether the patterns so far suffice: by patterns held out, or by a resolution that is asked for."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from phaseloom.reconstruction.level import is_explained
from phaseloom.units import LENGTH

__all__ = ["DoseJudgement", "DoseVerdict", "judge_dose"]

MIN_HELD_OUT = 10
"""Patterns held out below which nothing is said."""

MAX_LOSS_NEAR_NOISE = 1.1
"""Held-out loss, in units of shot noise, up to which patterns that were never learned from are predicted."""


class DoseVerdict(StrEnum):
    """What the patterns so far show."""

    TOO_FEW = "too_few"
    """Too few patterns are held out to judge by."""
    NOT_SEEN = "not_seen"
    """What differs between patterns held out is not explained beyond counting noise: more dose is needed."""
    SEEN = "seen"
    """It is explained in part: the object is seen, and the fit or the model is not at the noise yet."""
    EXPLAINED = "explained"
    """Patterns that were never learned from are predicted to within shot noise."""
    NOT_RESOLVED = "not_resolved"
    """Two reconstructions of half of the counts agree to less than the resolution that is asked for."""
    RESOLVED = "resolved"
    """They agree to the resolution that is asked for: the dose suffices."""


@dataclass(frozen=True)
class DoseJudgement:
    """A verdict on the dose so far; ``str`` gives the sentence.

    Attributes:
        verdict: the code.
        patterns: that were there.
        explained: share of the differences between patterns held out, and its standard error.
        holdout: loss of the patterns held out, in units of the noise.
        resolution: full period at which two halves agree, angstrom.
        target: that is asked for.
    """

    verdict: DoseVerdict
    patterns: int
    explained: tuple[float, float] | None = None
    holdout: float | None = None
    resolution: float | None = None
    target: float | None = None

    @property
    def suffices(self) -> bool:
        """Whether no more patterns are needed for what is asked for."""
        reached = (DoseVerdict.RESOLVED,) if self.target is not None else (DoseVerdict.EXPLAINED,)
        return self.verdict in reached

    def __str__(self) -> str:
        """The sentence.

        Example:
            >>> print(DoseJudgement(DoseVerdict.NOT_SEEN, 300, (0.01, 0.02)))
            300 patterns do not suffice: they show nothing of the object beyond counting noise
        """
        number = f"{self.patterns} patterns"
        if self.verdict is DoseVerdict.TOO_FEW:
            return f"{number} are too few to judge the dose by"
        if self.verdict is DoseVerdict.NOT_SEEN:
            return f"{number} do not suffice: they show nothing of the object beyond counting noise"
        if self.verdict in (DoseVerdict.RESOLVED, DoseVerdict.NOT_RESOLVED):
            found = LENGTH.show(float(f"{self.resolution:.3g}"))
            wanted = LENGTH.show(float(f"{self.target:.3g}"))
            said = "suffice" if self.suffices else "do not suffice"
            return f"{number} {said}: halves of the counts agree to {found}, asked for are {wanted}"
        share = 0.0 if self.explained is None else 100 * self.explained[0]
        loss = "" if self.holdout is None else f", loss {self.holdout:.3g} of patterns held out"
        text = f"{share:.0f} % of what differs between patterns held out is explained{loss}"
        return f"{number} suffice: {text}" if self.suffices else f"{number} show the object: {text}"

    def to_event(self) -> dict[str, Any]:
        """The numbers, for the lines of a run."""
        found = {name: value for name, value in vars(self).items() if value is not None}
        return found | {"verdict": self.verdict.value, "suffices": self.suffices}


def judge_dose(
    patterns: int, held_out: int, explained: tuple[float, float] | None, holdout: float | None, /
) -> DoseJudgement:
    """Judge by patterns that were never learned from.

    Args:
        patterns: that are there.
        held_out: how many of them.
        explained: see `phaseloom.reconstruction.level.is_explained`.
        holdout: their loss, in units of the noise; ``None``: no noise model says what it should be.

    Example:
        >>> judge_dose(800, 40, (0.9, 0.01), 1.02).suffices
        True
    """
    numbers = {"explained": explained, "holdout": holdout}
    if held_out < MIN_HELD_OUT:
        return DoseJudgement(DoseVerdict.TOO_FEW, patterns)
    if not is_explained(explained):
        return DoseJudgement(DoseVerdict.NOT_SEEN, patterns, **numbers)
    near = holdout is not None and holdout <= MAX_LOSS_NEAR_NOISE
    return DoseJudgement(DoseVerdict.EXPLAINED if near else DoseVerdict.SEEN, patterns, **numbers)
