"""How rates change over a fit, and when something happens in it."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from phaseloom.errors import BadInput

__all__ = ["constant", "cosine"]


@dataclass(frozen=True)
class Every:
    """Something that happens in some epochs: from ``start`` to ``stop``, each ``every``-th."""

    action: Callable[[], None]
    start: int = 1
    stop: int | None = None
    every: int = 1

    def due(self, epoch: int) -> bool:
        """Whether it happens at the end of an epoch."""
        inside = epoch >= self.start and (self.stop is None or epoch <= self.stop)
        return inside and (epoch - self.start) % self.every == 0


def constant(progress: float, /) -> float:
    """Rates as given, all the time."""
    return 1.0


def cosine(progress: float, /, *, floor: float = 0.05, hold: float = 0.3) -> float:
    """Full rate for a share ``hold`` of the epochs, then half a cosine down to a share ``floor``.

    Example:
        >>> cosine(0.0), round(cosine(1.0), 3)
        (1.0, 0.05)
    """
    if not (0 <= floor <= 1 and 0 <= hold < 1):
        raise BadInput("shape: cosine", f"floor {floor}, hold {hold}", "must lie between 0 and 1")
    rest = max(0.0, (progress - hold) / max(1 - hold, 1e-9))
    return floor + (1 - floor) * (1 + math.cos(math.pi * min(rest, 1.0))) / 2
