"""How rates change over a fit, and when something happens in it.

A shape gives the factor on a rate in an epoch. It is a function of up to three values, by position: the
share of epochs done (0 in the first, 1 in the last), the epoch's number from 1 up, and the history (the
epochs before as dicts). Knobs that count do so in epochs. A shape depends on these values alone, so that
a resumed run follows the straight one.

The schedulers of PyTorch, stepped once an epoch: StepLR `step`, MultiStepLR `multi_step`, ConstantLR
`constant`, ExponentialLR `exponential`, LinearLR `linear`, PolynomialLR `polynomial`, CosineAnnealingLR
`cosine_annealing`, CosineAnnealingWarmRestarts `warm_restarts`, CyclicLR `cyclic`, OneCycleLR `one_cycle`
(momentum stays as it is), ReduceLROnPlateau `plateau`. Their smallest rates are given as shares of the
rate here. LambdaLR and MultiplicativeLR take a function: in Python, any function is a shape.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from phaseloom.errors import BadInput

__all__ = [
    "constant",
    "cosine",
    "cosine_annealing",
    "cyclic",
    "exponential",
    "late",
    "linear",
    "linear_decay",
    "multi_step",
    "one_cycle",
    "plateau",
    "polynomial",
    "step",
    "warm_restarts",
    "warm_up",
]

Shape = Callable[..., float]


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


def paced(shape: Shape, number: int, epochs: int, history: Sequence[Mapping[str, Any]] = (), /) -> float:
    """The factor of a shape in an epoch, from as many values as it takes.

    Example:
        >>> paced(lambda share: 1 - share, 3, 5)
        0.5
    """
    values = ((number - 1) / max(epochs - 1, 1), number, history)
    return shape(*values[: _taken(shape)])


def constant(progress: float, epoch: int = 1, /, *, factor: float = 1.0, epochs: int = 0) -> float:
    """Rates as given, all the time; or ``factor`` of them for the first ``epochs``.

    Example:
        >>> constant(0.5), constant(0.0, 1, factor=0.3, epochs=5)
        (1.0, 0.3)
    """
    _positive("constant", factor=factor)
    return factor if epoch <= epochs else 1.0


def cosine(progress: float, /, *, floor: float = 0.05, hold: float = 0.3) -> float:
    """Full rate for a share ``hold`` of the epochs, then half a cosine down to a share ``floor``.

    Example:
        >>> cosine(0.0), round(cosine(1.0), 3)
        (1.0, 0.05)
    """
    if not (0 <= floor <= 1 and 0 <= hold < 1):
        raise BadInput("shape: cosine", f"floor {floor}, hold {hold}", "must lie between 0 and 1")
    rest = max(0.0, (progress - hold) / max(1 - hold, 1e-9))
    return _half_cosine(1.0, floor, min(rest, 1.0))


def late(
    progress: float,
    epoch: int,
    history: Sequence[Mapping[str, Any]],
    /,
    *,
    after: float = 0.5,
    below: float = 1.5,
    floor: float = 0.05,
) -> float:
    """Nothing for a share ``after`` of the epochs or while the loss is high, then half a cosine down.

    For what the data determine only once all else is nearly right.

    Args:
        progress: share of the epochs done.
        epoch: not looked at.
        history: the epochs before.
        after: share of the epochs for which nothing moves.
        below: loss of the epoch before, in units of the noise, from which on it may move.
        floor: smallest share of the rate.

    Example:
        >>> good = [{"loss": 1.1}]
        >>> late(0.4, 5, good), late(0.5, 6, good), late(0.5, 6, [{"loss": 4.0}])
        (0.0, 1.0, 0.0)
    """
    if not (0 <= floor <= 1 and 0 <= after < 1):
        raise BadInput("shape: late", f"after {after}, floor {floor}", "must lie between 0 and 1")
    if progress < after or not history or _misfit(history[-1]) > below:
        return 0.0
    return _half_cosine(1.0, floor, min((progress - after) / (1 - after), 1.0))


def warm_up(
    progress: float, /, *, start: float = 0.1, rise: float = 0.1, hold: float = 0.3, floor: float = 0.05
) -> float:
    """From a share ``start`` of the rate up in a line, for a share ``rise`` of the epochs, then `cosine`.

    Example:
        >>> [round(warm_up(share, start=0.2, rise=0.5), 3) for share in (0.0, 0.25, 0.5, 1.0)]
        [0.2, 0.6, 1.0, 0.05]
    """
    _share("warm_up", start=start, rise=rise)
    if progress < rise:
        return start + (1 - start) * progress / rise
    return cosine((progress - rise) / max(1 - rise, 1e-9), floor=floor, hold=hold)


def step(progress: float, epoch: int, /, *, every: int, factor: float = 0.1) -> float:
    """Times ``factor`` after each ``every`` epochs.

    Example:
        >>> [step(0.0, epoch, every=2, factor=0.5) for epoch in range(1, 6)]
        [1.0, 1.0, 0.5, 0.5, 0.25]
    """
    _positive("step", every=every, factor=factor)
    return factor ** ((epoch - 1) // every)


def multi_step(progress: float, epoch: int, /, *, after: tuple[int, ...], factor: float = 0.1) -> float:
    """Times ``factor`` after each of the epochs named.

    Example:
        >>> [multi_step(0.0, epoch, after=(1, 3), factor=0.5) for epoch in range(1, 6)]
        [1.0, 0.5, 0.5, 0.25, 0.25]
    """
    _positive("multi_step", factor=factor)
    return factor ** sum(epoch > each for each in after)


def exponential(progress: float, epoch: int, /, *, factor: float = 0.95) -> float:
    """Times ``factor`` after every epoch.

    Example:
        >>> exponential(0.0, 3, factor=0.5)
        0.25
    """
    _positive("exponential", factor=factor)
    return factor ** (epoch - 1)


def linear(
    progress: float, epoch: int = 1, /, *, start: float = 1.0, end: float = 0.05, epochs: int | None = None
) -> float:
    """In a line from ``start`` to ``end``, in so many epochs; default: over the whole run.

    Example:
        >>> linear(0.5, start=1.0, end=0.0), linear(0.5, 50, start=0.25, end=1.0, epochs=5)
        (0.5, 1.0)
    """
    _positive("linear", start=start, epochs=1 if epochs is None else epochs)
    _least("linear", end=end)
    return start + (end - start) * _done(progress, epoch, epochs)


def linear_decay(progress: float, epoch: int, /, *, hold: int, decay: int) -> float:
    """Full rate for ``hold`` epochs and one, then in a line that would reach zero ``decay + 1`` epochs later.

    ``niter`` and ``niter_decay`` of programs that translate images.

    Example:
        >>> [linear_decay(0.0, epoch, hold=1, decay=3) for epoch in range(1, 6)]
        [1.0, 1.0, 0.75, 0.5, 0.25]
    """
    _least("linear_decay", hold=hold, decay=decay)
    return max(1 - max(0, epoch - 1 - hold) / (decay + 1), 0.0)


def polynomial(progress: float, epoch: int = 1, /, *, power: float = 1.0, epochs: int | None = None) -> float:
    """``(1 - share)^power`` down to zero, in so many epochs; default: over the whole run.

    Example:
        >>> polynomial(0.5, power=2.0)
        0.25
    """
    _positive("polynomial", power=power, epochs=1 if epochs is None else epochs)
    return (1 - _done(progress, epoch, epochs)) ** power


def cosine_annealing(progress: float, epoch: int, /, *, epochs: int, floor: float = 0.0) -> float:
    """Half a cosine down to a share ``floor`` in so many epochs, up again in as many, and so on.

    Example:
        >>> [round(cosine_annealing(0.0, epoch, epochs=2), 3) for epoch in range(1, 6)]
        [1.0, 0.5, 0.0, 0.5, 1.0]
    """
    _positive("cosine_annealing", epochs=epochs)
    _share("cosine_annealing", floor=floor)
    return _half_cosine(1.0, floor, (epoch - 1) / epochs)


def warm_restarts(
    progress: float, epoch: int, /, *, epochs: int, longer: int = 1, floor: float = 0.0
) -> float:
    """Half a cosine down to a share ``floor``, then at once full rate again (arXiv 1608.03983).

    Args:
        progress: not looked at.
        epoch: number from 1 up.
        epochs: length of the first stretch.
        longer: how many times longer each stretch is than the one before.
        floor: share of the rate at the end of a stretch.

    Example:
        >>> [round(warm_restarts(0.0, epoch, epochs=2), 3) for epoch in range(1, 6)]
        [1.0, 0.5, 1.0, 0.5, 1.0]
    """
    _positive("warm_restarts", epochs=epochs, longer=longer)
    _share("warm_restarts", floor=floor)
    done, length = epoch - 1, epochs
    while done >= length:
        done, length = done - length, length * longer
    return _half_cosine(1.0, floor, done / length)


def cyclic(
    progress: float,
    epoch: int,
    /,
    *,
    up: int = 10,
    down: int | None = None,
    low: float = 0.1,
    shrink: Literal["never", "halve", "decay"] = "never",
    factor: float = 1.0,
) -> float:
    """Up and down in lines between a share ``low`` and the full rate (arXiv 1506.01186).

    Args:
        progress: not looked at.
        epoch: number from 1 up.
        up: epochs of a rise.
        down: epochs of a fall; default: as many.
        low: share of the rate at the foot.
        shrink: what the height above the foot does: ``never`` shrinks, halves after each cycle
            (``halve``), or is multiplied by ``factor`` after each epoch (``decay``).
        factor: see ``shrink``.

    Example:
        >>> [round(cyclic(0.0, epoch, up=2, low=0.5), 3) for epoch in range(1, 6)]
        [0.5, 0.75, 1.0, 0.75, 0.5]
    """
    down = up if down is None else down
    _positive("cyclic", up=up, down=down, factor=factor)
    _share("cyclic", low=low)
    cycle, done = divmod(epoch - 1, up + down)
    height = done / up if done <= up else (up + down - done) / down
    shrunk = {"never": 1.0, "halve": 0.5**cycle, "decay": factor ** (epoch - 1)}[shrink]
    return low + (1 - low) * height * shrunk


def one_cycle(
    progress: float,
    /,
    *,
    rise: float = 0.3,
    start: float = 0.04,
    end: float = 4e-6,
    anneal: Literal["cosine", "linear"] = "cosine",
    symmetric: bool = False,
) -> float:
    """Up to the full rate and down to nearly nothing, once in a run (arXiv 1708.07120).

    Args:
        progress: share of epochs done.
        rise: share of the run that the rate rises in.
        start: share of the rate in the first epoch.
        end: share of the rate in the last.
        anneal: rises and falls by half cosines or in lines.
        symmetric: fall to ``start`` as fast as it rose, then to ``end`` in what is left.

    Example:
        >>> [round(one_cycle(share, rise=0.5), 2) for share in (0.0, 0.5, 1.0)]
        [0.04, 1.0, 0.0]
    """
    _share("one_cycle", rise=rise, start=start, end=end)
    if symmetric and rise > 0.5:
        raise BadInput("shape: one_cycle", f"rise {rise}", "must be at most 0.5 with symmetric")
    falls = [(2 * rise, 1.0, start), (1.0, start, end)] if symmetric else [(1.0, 1.0, end)]
    begun = 0.0
    between = _half_cosine if anneal == "cosine" else _line
    for until, first, last in [(rise, start, 1.0), *falls]:
        if progress <= until or until == 1.0:
            return between(first, last, min((progress - begun) / max(until - begun, 1e-9), 1.0))
        begun = until
    return end


def plateau(
    progress: float,
    epoch: int,
    history: Sequence[Mapping[str, Any]],
    /,
    *,
    of: Literal["loss", "holdout"] = "loss",
    factor: float = 0.1,
    patience: int = 10,
    threshold: float = 1e-4,
    relative: bool = True,
    rest: int = 0,
    floor: float = 0.0,
) -> float:
    """Times ``factor`` whenever the loss has not fallen for more than ``patience`` epochs.

    Args:
        progress: not looked at.
        epoch: not looked at.
        history: the epochs before.
        of: which loss.
        factor: between 0 and 1.
        patience: epochs without a fall that are waited for.
        threshold: what counts as a fall, as a share of the lowest loss so far or (not ``relative``) as is.
        relative: see ``threshold``.
        rest: epochs after a change that are not counted.
        floor: smallest share of the rate.

    Example:
        >>> plateau(0.5, 5, [{"loss": 1.0}] * 4, factor=0.5, patience=2)
        0.5
    """
    _share("plateau", factor=factor, floor=floor)
    best, bad, resting, now = math.inf, 0, 0, 1.0
    losses = [event[of] for event in history if event[of] is not None]
    if history and not losses:
        raise BadInput("shape: plateau.of", of, "needs patterns held out: write loss, or hold some out")
    for loss in losses:
        fallen = loss < (best * (1 - threshold) if relative else best - threshold)
        best, bad = (loss, 0) if fallen else (best, bad + 1)
        if resting:
            resting, bad = resting - 1, 0
        if bad > patience:
            now, resting, bad = max(now * factor, floor), rest, 0
    return now


def _misfit(event: Mapping[str, Any]) -> float:
    """What compares with counts in a loss, without penalties."""
    return (event.get("terms") or {}).get("noise", event["loss"])


def _taken(shape: Shape) -> int:
    """How many values a shape takes by position; what has a default of its own is a knob."""
    try:
        parameters = inspect.signature(shape).parameters.values()
    except (TypeError, ValueError):
        return 1
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return 3
    needed = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty]
    return len([p for p in parameters if p.kind is p.POSITIONAL_ONLY]) + len(needed)


def _line(first: float, last: float, share: float) -> float:
    return first + (last - first) * share


def _half_cosine(first: float, last: float, share: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2


def _done(progress: float, epoch: int, epochs: int | None) -> float:
    """Share of a stretch that is over: of the run, or of its first epochs."""
    return progress if epochs is None else min((epoch - 1) / epochs, 1.0)


def _positive(name: str, **values: float) -> None:
    _refuse(name, {k: v for k, v in values.items() if not 0 < v < math.inf}, "must be above zero")


def _least(name: str, **values: float) -> None:
    _refuse(name, {k: v for k, v in values.items() if not 0 <= v < math.inf}, "must be zero or more")


def _share(name: str, **values: float) -> None:
    _refuse(name, {k: v for k, v in values.items() if not 0 <= v <= 1}, "must lie between 0 and 1")


def _refuse(name: str, wrong: Mapping[str, float], fix: str) -> None:
    for knob, value in wrong.items():
        raise BadInput(f"shape: {name}.{knob}", value, fix)
