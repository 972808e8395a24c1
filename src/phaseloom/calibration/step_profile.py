"""The step of a raster by short fits that hold it: how what they explain depends on it.

A fit that moves the step stays near the one it began with, as its object adapts to that first. Fits that hold
it are compared instead, each from a flat object. A wrong step explains both patterns that were learned from
and patterns held out worse. Noise wants longer steps of the former, as patterns that overlap less are learned
more easily, and shorter ones of the latter: the mean of both losses is lowest near the true step.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["ProfilePoint", "StepProfile", "profile_step", "refine_profile"]

SPACING = 0.05
"""Distance between the steps that are tried first, in logarithms; their parabola is off by up to 2 %."""

MAX_DISTANCE = 0.16
"""Distance from the first step, in logarithms, up to which others are tried."""

MAX_REACH = 1.2
"""Distance of a minimum from the best step, over that of the outermost points of its parabola."""


@dataclass(frozen=True)
class ProfilePoint:
    """A short fit with its step held.

    Attributes:
        shift: logarithm of its step over the first one.
        loss: of the patterns that were learned from, 1 being shot noise.
        held: of patterns held out.
    """

    shift: float
    loss: float
    held: float

    @property
    def mean(self) -> float:
        """Mean of both losses: what a fit learns from noise lowers one and raises the other."""
        return (self.loss + self.held) / 2


@dataclass(frozen=True)
class StepProfile:
    """Losses of short fits by the step that they hold.

    Attributes:
        points: by step.
    """

    points: tuple[ProfilePoint, ...]

    @property
    def best(self) -> int:
        """Index of the fit that explains most."""
        return min(range(len(self.points)), key=lambda n: self.points[n].mean)

    @property
    def is_bracketed(self) -> bool:
        """Whether steps on both sides of the best explain less."""
        return 0 < self.best < len(self.points) - 1

    @property
    def minima(self) -> tuple[float | None, float | None]:
        """Where patterns learned from have their lowest loss, and those held out; ``None``: nowhere near."""
        if not self.is_bracketed:
            return None, None
        middle = self.points[self.best].shift
        near = [one for one in self.points if abs(one.shift - middle) < 1.2 * SPACING]
        shifts = [one.shift - middle for one in near]
        learned = _find_vertex(shifts, [one.loss for one in near])
        held = _find_vertex(shifts, [one.held for one in near])
        return (
            None if learned is None else middle + learned,
            None if held is None else middle + held,
        )

    @property
    def minimum(self) -> float | None:
        """Logarithm of the step that explains most, over the first one."""
        if not self.is_bracketed:
            return None
        three = self.points[self.best - 1 : self.best + 2]
        middle = three[1].shift
        vertex = _find_vertex([one.shift - middle for one in three], [one.mean for one in three])
        return None if vertex is None else middle + vertex

    @property
    def error(self) -> float:
        """Half of what patterns learned from and held out differ by; infinite: one of them has no minimum."""
        learned, held = self.minima
        return math.inf if learned is None or held is None else abs(learned - held) / 2

    @property
    def depth(self) -> float:
        """What a step `SPACING` off costs, the lesser of both losses, in units of shot noise."""
        if not self.is_bracketed:
            return 0.0
        three = self.points[self.best - 1 : self.best + 2]
        wide = SPACING / (three[1].shift - three[0].shift)
        lists = ([one.loss for one in three], [one.held for one in three])
        return min((a + c) / 2 - b for a, b, c in lists) * wide**2


def profile_step(fit: Callable[[float], tuple[float, float]], /) -> StepProfile:
    """Fit with steps on both sides of the first one, and farther ones until both sides explain less.

    Args:
        fit: gives the loss of patterns learned from and of those held out for a logarithm of the step.

    Example:
        >>> found = profile_step(lambda shift: (1 + (shift + 0.08) ** 2, 1.1 + (shift + 0.082) ** 2))
        >>> round(found.minimum, 3), round(found.error, 3), len(found.points)
        (-0.081, 0.001, 5)
    """
    points = [ProfilePoint(shift, *fit(shift)) for shift in (-SPACING, 0.0, SPACING)]
    while not (found := StepProfile(tuple(points))).is_bracketed:
        further = points[0].shift - SPACING if found.best == 0 else points[-1].shift + SPACING
        if abs(further) > MAX_DISTANCE:
            break
        one = ProfilePoint(further, *fit(further))
        points = [one, *points] if found.best == 0 else [*points, one]
    return found


def refine_profile(found: StepProfile, fit: Callable[[float], tuple[float, float]], /) -> StepProfile:
    """The profile with two more fits, half as far from the best one as the others.

    Args:
        found: a profile with steps on both sides of the best one.
        fit: see `profile_step`.
    """
    best = found.points[found.best].shift
    more = [ProfilePoint(shift, *fit(shift)) for shift in (best - SPACING / 2, best + SPACING / 2)]
    return StepProfile(tuple(sorted((*found.points, *more), key=lambda one: one.shift)))


def _find_vertex(shifts: Sequence[float], values: Sequence[float]) -> float | None:
    """The lowest place of the parabola through some points; ``None``: far from them."""
    bend, slope, _ = np.polyfit(shifts, values, 2)
    if not bend > 0:
        return None
    vertex = -slope / (2 * bend)
    return None if abs(vertex) > MAX_REACH * max(map(abs, shifts)) else float(vertex)
