"""Rules of `phaseloom.fitting.newton` for the parts of a model: what turns a gradient into a Newton step.

They are values, so that compiled code (`phaseloom.ptycho.newton.compiled`) reads what Python calls.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from phaseloom.ptycho.illumination import SquareSlope

__all__ = ["CoupledStep", "NoStep", "PixelStep", "PositionPrior", "PositionStep"]
__all__ += ["UPDATES_TO_FOLLOW_POSITIONS", "UniformStep", "WeightStep"]

UPDATES_TO_FOLLOW_POSITIONS = 16
"""Updates in an epoch from which on the images keep up with positions, each of which moves but once."""

MAX_POSITION_STEP = 0.2
"""Pixels that a position may move in one step."""

MAX_NUMBER_STEP = 0.1
"""Farthest that a number may move in one step, in its natural size."""


class PositionPrior(NamedTuple):
    """Normal prior of positions about an affine map of them, in units of the loss of one pattern.

    Attributes:
        centre: ``(n, 2)`` shifts of the map.
        strength: its curvature: over the variance of the jitter.
    """

    centre: Float[Tensor, "n 2"]
    strength: float


@dataclass(frozen=True)
class NoStep:
    """No step, in epochs before anything is known of the curvature."""

    @property
    def momentum(self) -> bool:
        """Steps are not accelerated."""
        return False

    def __call__(self, value: Tensor, gradient: Tensor, size: int, rate: float, where: Any, /) -> Tensor:
        """See `phaseloom.fitting.newton.Rule`."""
        return torch.zeros_like(gradient)


@dataclass(frozen=True, eq=False)
class PixelStep:
    """Pixels of the object.

    Attributes:
        wide: bound of a scan's curvature of each pixel, ``(slice, y, x)``.
        lone: that of one pattern, ``(slice, 1, 1)``.
        share: of the time that the object spends in each state, ``(state, 1, 1, 1)``.
        pull: of amplitudes towards one, relative to the data.
        calm: share of the rates for each pattern of a batch, if that is less than one.
    """

    wide: Float[Tensor, "slice y x"]
    lone: Float[Tensor, "slice 1 1"]
    share: Float[Tensor, "state 1 1 1"]
    pull: float
    calm: float
    _inverses: dict[tuple[int, float], Tensor] = field(default_factory=dict)

    @property
    def momentum(self) -> bool:
        """Steps are accelerated."""
        return True

    def __call__(self, value: Tensor, gradient: Tensor, size: int, rate: float, where: Any, /) -> Tensor:
        """See `phaseloom.fitting.newton.Rule`."""
        rate = self.limit_rate(size, rate)
        out = gradient * self._invert(size, rate)[(..., *where)]
        if not self.pull:
            return out
        beyond = value - torch.sgn(value) if value.is_complex() else value - 1
        return out.add_(beyond, alpha=rate * self.pull)

    def limit_rate(self, size: int, rate: float) -> float:
        """The rate that few electrons allow a batch."""
        return rate * min(1.0, self.calm * size)

    def measure_steps(self, size: int, rate: float) -> Float[Tensor, "slice y x"]:
        """Share of a whole Newton step that a batch of ``size`` patterns makes, for each pixel."""
        rate = self.limit_rate(size, rate)
        if not rate:
            return torch.zeros_like(self.wide)
        return self.wide / torch.maximum(self.wide / rate, self.lone / size)

    def _invert(self, size: int, rate: float) -> Tensor:
        if (size, rate) not in self._inverses:
            if len(self._inverses) > 1:  # sizes of batches differ by one at most
                self._inverses.clear()
            bend = torch.maximum(self.wide / rate, self.lone / size)
            several = len(self.share) > 1
            self._inverses[size, rate] = (bend * self.share if several else bend).reciprocal_()
        return self._inverses[size, rate]


@dataclass(frozen=True, eq=False)
class UniformStep:
    """A curvature that is the same for all batches, of a mean over patterns or of ``each`` one's numbers."""

    slope: SquareSlope
    scale: float
    each: bool = False

    @property
    def momentum(self) -> bool:
        """Not for numbers that one pattern moves."""
        return not self.each

    def __call__(self, value: Tensor, gradient: Tensor, size: int, rate: float, where: Any, /) -> Tensor:
        """See `phaseloom.fitting.newton.Rule`."""
        share = (size * rate if self.each else rate) / self.scale
        return self.slope(gradient) * share if callable(self.slope) else gradient * (share / self.slope)


@dataclass(frozen=True)
class WeightStep:
    """Intensities of the shots, as whose square roots amplitudes go; ``bend`` is that at one.

    The curvature falls as one over the intensity: brighter shots have more counts. A step leaves at least
    half of an intensity, and doubles it at most, as one below zero has no amplitude.
    """

    bend: float

    @property
    def momentum(self) -> bool:
        """Steps are not accelerated."""
        return False

    def __call__(self, value: Tensor, gradient: Tensor, size: int, rate: float, where: Any, /) -> Tensor:
        """See `phaseloom.fitting.newton.Rule`."""
        step = gradient * (rate * size / self.bend) * value
        return torch.minimum(torch.maximum(step, -value.abs()), value.abs() / 2)


@dataclass(frozen=True, eq=False)
class PositionStep:
    """Each pattern's own step, no longer than `MAX_POSITION_STEP`, and shorter where batches are few.

    Attributes:
        inverse: ``(n, 2, 2)`` of the curvature of each, times the share of a step that is trusted.
        prior: that holds positions; ``None``: nothing does.
    """

    inverse: Float[Tensor, "n 2 2"]
    prior: PositionPrior | None

    @property
    def momentum(self) -> bool:
        """Steps are not accelerated."""
        return False

    @classmethod
    def of(cls, bends: Float[Tensor, "n 2 2"], trust: float, prior: PositionPrior | None) -> "PositionStep":
        """The step for curvatures of all patterns."""
        strength = 0.0 if prior is None else prior.strength
        unit = torch.eye(2, device=bends.device, dtype=bends.dtype)
        return cls(trust * torch.linalg.inv(bends + strength * unit), prior)

    def share_rate(self, size: int) -> float:
        """Share of a step in a batch of a size."""
        return float(min(size, len(self.inverse) / UPDATES_TO_FOLLOW_POSITIONS))

    def __call__(self, value: Tensor, gradient: Tensor, size: int, rate: float, where: Any, /) -> Tensor:
        """See `phaseloom.fitting.newton.Rule`."""
        if self.prior is not None:
            in_batch = gradient.any(1, keepdim=True)
            gradient = gradient + in_batch * (value - self.prior.centre) * (self.prior.strength / size)
        move = (self.inverse @ gradient[:, :, None])[:, :, 0] * (self.share_rate(size) * rate)
        return move.clamp(-MAX_POSITION_STEP, MAX_POSITION_STEP)


@dataclass(frozen=True, eq=False)
class CoupledStep:
    """Numbers that hang together: a small linear system.

    Attributes:
        inverse: of their curvature, times the share of a step that is trusted.
        rows: a system of its own for each row of the numbers.
        patterns: one system for all, whose numbers are those of single patterns.
    """

    inverse: Tensor
    rows: bool = False
    patterns: bool = False

    @property
    def momentum(self) -> bool:
        """Steps are accelerated."""
        return True

    @classmethod
    def of(cls, bend: Tensor, trust: float, *, rows: bool = False, patterns: bool = False) -> "CoupledStep":
        """The step for a curvature, which may be singular: a scan of one place feels no map."""
        return cls(trust * torch.linalg.pinv(bend, rtol=1e-6, hermitian=True), rows, patterns)

    def __call__(self, value: Tensor, gradient: Tensor, size: int, rate: float, where: Any, /) -> Tensor:
        """See `phaseloom.fitting.newton.Rule`."""
        if self.rows:
            move = rate * (self.inverse @ gradient[:, :, None])[:, :, 0]
        elif self.patterns:
            move = rate * size * (gradient.view(len(gradient), -1) @ self.inverse).view(gradient.shape)
        else:
            move = rate * (self.inverse @ gradient.reshape(-1)).view(gradient.shape)
        return move.clamp(-MAX_NUMBER_STEP, MAX_NUMBER_STEP)
