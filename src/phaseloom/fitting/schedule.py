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

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from phaseloom.errors import BadInput
from phaseloom.renames import renamed_knobs

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

CYCLIC_MODES = {"never": "triangular", "halve": "triangular2", "decay": "exp_range"}
"""PyTorch's modes of `cyclic` by their names in an earlier version."""


@dataclass(frozen=True)
class Every:
    """Something that happens in some epochs: from ``start`` to ``stop``, each ``every``-th."""

    action: Callable[[], None]
    start: int = 1
    stop: int | None = None
    every: int = 1

    def is_due(self, epoch: int) -> bool:
        """Whether it happens at the end of an epoch."""
        inside = epoch >= self.start and (self.stop is None or epoch <= self.stop)
        return inside and (epoch - self.start) % self.every == 0


def evaluate_shape(
    shape: Shape, number: int, epochs: int, history: Sequence[Mapping[str, Any]] = (), /
) -> float:
    """The factor of a shape in an epoch, from as many values as it takes.

    Example:
        >>> evaluate_shape(lambda share: 1 - share, 3, 5)
        0.5
    """
    values = ((number - 1) / max(epochs - 1, 1), number, history)
    count = _count_arguments if shape.__hash__ is not None else _count_arguments.__wrapped__
    return shape(*values[: count(shape)])


@renamed_knobs(epochs="total_iters")
def constant(progress: float, epoch: int = 1, /, *, factor: float = 1.0, total_iters: int = 0) -> float:
    """Rates as given, all the time; or ``factor`` of them for the first ``total_iters`` epochs.

    Example:
        >>> constant(0.5), constant(0.0, 1, factor=0.3, total_iters=5)
        (1.0, 0.3)
    """
    _require_positive("constant", factor=factor)
    return factor if epoch <= total_iters else 1.0


def cosine(progress: float, /, *, floor: float = 0.05, hold: float = 0.3) -> float:
    """Full rate for a share ``hold`` of the epochs, then half a cosine down to a share ``floor``.

    Example:
        >>> cosine(0.0), round(cosine(1.0), 3)
        (1.0, 0.05)
    """
    if not (0 <= floor <= 1 and 0 <= hold < 1):
        raise BadInput("shape: cosine", f"floor {floor}, hold {hold}", "must lie between 0 and 1")
    rest = max(0.0, (progress - hold) / max(1 - hold, 1e-9))
    return _interpolate_cosine(1.0, floor, min(rest, 1.0))


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
        progress: see the module.
        epoch: see the module.
        history: see the module.
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
    return _interpolate_cosine(1.0, floor, min((progress - after) / (1 - after), 1.0))


def warm_up(
    progress: float, /, *, start: float = 0.1, rise: float = 0.1, hold: float = 0.3, floor: float = 0.05
) -> float:
    """From a share ``start`` of the rate up in a line, for a share ``rise`` of the epochs, then `cosine`.

    Example:
        >>> [round(warm_up(share, start=0.2, rise=0.5), 3) for share in (0.0, 0.25, 0.5, 1.0)]
        [0.2, 0.6, 1.0, 0.05]
    """
    _require_share("warm_up", start=start, rise=rise)
    if progress < rise:
        return start + (1 - start) * progress / rise
    return cosine((progress - rise) / max(1 - rise, 1e-9), floor=floor, hold=hold)


@renamed_knobs(every="step_size", factor="gamma")
def step(progress: float, epoch: int, /, *, step_size: int, gamma: float = 0.1) -> float:
    """Times ``gamma`` after each ``step_size`` epochs.

    Example:
        >>> [step(0.0, epoch, step_size=2, gamma=0.5) for epoch in range(1, 6)]
        [1.0, 1.0, 0.5, 0.5, 0.25]
    """
    _require_positive("step", step_size=step_size, gamma=gamma)
    return gamma ** ((epoch - 1) // step_size)


@renamed_knobs(after="milestones", factor="gamma")
def multi_step(progress: float, epoch: int, /, *, milestones: tuple[int, ...], gamma: float = 0.1) -> float:
    """Times ``gamma`` after each of some epochs.

    Example:
        >>> [multi_step(0.0, epoch, milestones=(1, 3), gamma=0.5) for epoch in range(1, 6)]
        [1.0, 0.5, 0.5, 0.25, 0.25]
    """
    _require_positive("multi_step", gamma=gamma)
    return gamma ** sum(epoch > milestone for milestone in milestones)


@renamed_knobs(factor="gamma")
def exponential(progress: float, epoch: int, /, *, gamma: float = 0.95) -> float:
    """Times ``gamma`` after every epoch.

    Example:
        >>> exponential(0.0, 3, gamma=0.5)
        0.25
    """
    _require_positive("exponential", gamma=gamma)
    return gamma ** (epoch - 1)


@renamed_knobs(start="start_factor", end="end_factor", epochs="total_iters")
def linear(
    progress: float,
    epoch: int = 1,
    /,
    *,
    start_factor: float = 1.0,
    end_factor: float = 0.05,
    total_iters: int | None = None,
) -> float:
    """In a line from ``start_factor`` to ``end_factor`` in ``total_iters`` epochs; default: the whole run.

    Example:
        >>> linear(0.5, end_factor=0.0), linear(0.5, 50, start_factor=0.25, end_factor=1.0, total_iters=5)
        (0.5, 1.0)
    """
    _require_positive(
        "linear", start_factor=start_factor, total_iters=1 if total_iters is None else total_iters
    )
    _require_nonnegative("linear", end_factor=end_factor)
    return _interpolate_line(start_factor, end_factor, _share_of_epochs(progress, epoch, total_iters))


def linear_decay(progress: float, epoch: int, /, *, hold: int, decay: int) -> float:
    """Full rate for ``hold`` epochs and one, then in a line that would reach zero ``decay + 1`` epochs later.

    ``niter`` and ``niter_decay`` of programs that translate images.

    Example:
        >>> [linear_decay(0.0, epoch, hold=1, decay=3) for epoch in range(1, 6)]
        [1.0, 1.0, 0.75, 0.5, 0.25]
    """
    _require_nonnegative("linear_decay", hold=hold, decay=decay)
    return max(1 - max(0, epoch - 1 - hold) / (decay + 1), 0.0)


@renamed_knobs(epochs="total_iters")
def polynomial(
    progress: float, epoch: int = 1, /, *, power: float = 1.0, total_iters: int | None = None
) -> float:
    """``(1 - share)^power`` down to zero in ``total_iters`` epochs; default: the whole run.

    Example:
        >>> polynomial(0.5, power=2.0)
        0.25
    """
    _require_positive("polynomial", power=power, total_iters=1 if total_iters is None else total_iters)
    return (1 - _share_of_epochs(progress, epoch, total_iters)) ** power


@renamed_knobs(epochs="T_max")
def cosine_annealing(progress: float, epoch: int, /, *, T_max: int, floor: float = 0.0) -> float:
    """Half a cosine down to a share ``floor`` in ``T_max`` epochs, up again in as many, and so on.

    Example:
        >>> [round(cosine_annealing(0.0, epoch, T_max=2), 3) for epoch in range(1, 6)]
        [1.0, 0.5, 0.0, 0.5, 1.0]
    """
    _require_positive("cosine_annealing", T_max=T_max)
    _require_share("cosine_annealing", floor=floor)
    return _interpolate_cosine(1.0, floor, (epoch - 1) / T_max)


@renamed_knobs(epochs="T_0", longer="T_mult")
def warm_restarts(progress: float, epoch: int, /, *, T_0: int, T_mult: int = 1, floor: float = 0.0) -> float:
    """Half a cosine down to a share ``floor``, then at once full rate again (arXiv 1608.03983).

    Args:
        progress: see the module.
        epoch: see the module.
        T_0: epochs of the first stretch.
        T_mult: how many times longer each stretch is than the one before.
        floor: share of the rate at the end of a stretch.

    Example:
        >>> [round(warm_restarts(0.0, epoch, T_0=2), 3) for epoch in range(1, 6)]
        [1.0, 0.5, 1.0, 0.5, 1.0]
    """
    _require_positive("warm_restarts", T_0=T_0, T_mult=T_mult)
    _require_share("warm_restarts", floor=floor)
    done = epoch - 1
    length = T_0
    while done >= length:
        done -= length
        length *= T_mult
    return _interpolate_cosine(1.0, floor, done / length)


@renamed_knobs(
    up="step_size_up",
    down="step_size_down",
    shrink=("mode", lambda shrink: CYCLIC_MODES.get(shrink, shrink)),
    factor="gamma",
)
def cyclic(
    progress: float,
    epoch: int,
    /,
    *,
    step_size_up: int = 10,
    step_size_down: int | None = None,
    low: float = 0.1,
    mode: Literal["triangular", "triangular2", "exp_range"] = "triangular",
    gamma: float = 1.0,
) -> float:
    """Up and down in lines between a share ``low`` and the full rate (arXiv 1506.01186).

    Args:
        progress: see the module.
        epoch: see the module.
        step_size_up: epochs of a rise.
        step_size_down: epochs of a fall; default: as many.
        low: share of the rate at the foot (``base_lr / max_lr`` of PyTorch).
        mode: the height above the foot stays (``triangular``), halves after each cycle (``triangular2``), or
            is multiplied by ``gamma`` after each epoch (``exp_range``).
        gamma: see ``mode``.

    Example:
        >>> [round(cyclic(0.0, epoch, step_size_up=2, low=0.5), 3) for epoch in range(1, 6)]
        [0.5, 0.75, 1.0, 0.75, 0.5]
    """
    up = step_size_up
    down = up if step_size_down is None else step_size_down
    _require_positive("cyclic", step_size_up=up, step_size_down=down, gamma=gamma)
    _require_share("cyclic", low=low)
    cycle, done = divmod(epoch - 1, up + down)
    height = done / up if done <= up else (up + down - done) / down
    shrunk = {"triangular": 1.0, "triangular2": 0.5**cycle, "exp_range": gamma ** (epoch - 1)}[mode]
    return low + (1 - low) * height * shrunk


@renamed_knobs(
    rise="pct_start",
    anneal=("anneal_strategy", lambda anneal: "cos" if anneal == "cosine" else anneal),
    symmetric="three_phase",
)
def one_cycle(
    progress: float,
    /,
    *,
    pct_start: float = 0.3,
    start: float = 0.04,
    end: float = 4e-6,
    anneal_strategy: Literal["cos", "linear"] = "cos",
    three_phase: bool = False,
) -> float:
    """Up to the full rate and down to nearly nothing, once in a run (arXiv 1708.07120).

    Args:
        progress: see the module.
        pct_start: share of the run that the rate rises in.
        start: share of the rate in the first epoch (``1 / div_factor`` of PyTorch).
        end: share of the rate in the last (``1 / (div_factor final_div_factor)``).
        anneal_strategy: rises and falls by half cosines or in lines.
        three_phase: fall to ``start`` as fast as it rose, then to ``end`` in what is left.

    Example:
        >>> [round(one_cycle(share, pct_start=0.5), 2) for share in (0.0, 0.5, 1.0)]
        [0.04, 1.0, 0.0]
    """
    _require_share("one_cycle", pct_start=pct_start, start=start, end=end)
    if three_phase and pct_start > 0.5:
        fix = "must be at most 0.5 with three_phase"
        raise BadInput("shape: one_cycle", f"pct_start {pct_start}", fix)
    falls = [(2 * pct_start, 1.0, start), (1.0, start, end)] if three_phase else [(1.0, 1.0, end)]
    phase_start = 0.0
    between = _interpolate_cosine if anneal_strategy == "cos" else _interpolate_line
    for phase_end, first, last in [(pct_start, start, 1.0), *falls]:
        if progress <= phase_end or phase_end == 1.0:
            share = (progress - phase_start) / max(phase_end - phase_start, 1e-9)
            return between(first, last, min(share, 1.0))
        phase_start = phase_end
    return end


@renamed_knobs(
    relative=("threshold_mode", lambda relative: "rel" if relative else "abs"),
    rest="cooldown",
)
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
    threshold_mode: Literal["rel", "abs"] = "rel",
    cooldown: int = 0,
    floor: float = 0.0,
) -> float:
    """Times ``factor`` whenever the loss has not fallen for more than ``patience`` epochs.

    Args:
        progress: see the module.
        epoch: see the module.
        history: see the module.
        of: which loss.
        factor: between 0 and 1.
        patience: epochs without a fall that are waited for.
        threshold: what counts as a fall.
        threshold_mode: a threshold is a share of the lowest loss so far (``rel``), or a difference (``abs``).
        cooldown: epochs after a change that are not counted.
        floor: smallest share of the rate.

    Example:
        >>> plateau(0.5, 5, [{"loss": 1.0}] * 4, factor=0.5, patience=2)
        0.5
    """
    _require_share("plateau", factor=factor, floor=floor)
    best = math.inf
    bad_epochs = 0
    cooling = 0
    share = 1.0
    losses = [event[of] for event in history if event[of] is not None]
    if history and not losses:
        raise BadInput("shape: plateau.of", of, "needs patterns held out: write loss, or hold some out")
    for loss in losses:
        relative = threshold_mode == "rel"
        if loss < (best * (1 - threshold) if relative else best - threshold):
            best = loss
            bad_epochs = 0
        else:
            bad_epochs += 1
        if cooling:
            cooling -= 1
            bad_epochs = 0
        if bad_epochs > patience:
            share = max(share * factor, floor)
            cooling = cooldown
            bad_epochs = 0
    return share


def _misfit(event: Mapping[str, Any]) -> float:
    """What compares with counts in a loss, without penalties."""
    return (event.get("terms") or {}).get("noise", event["loss"])


@functools.lru_cache(maxsize=64)
def _count_arguments(shape: Shape) -> int:
    """How many values a shape takes by position; what has a default of its own is a knob."""
    try:
        parameters = _list_parameters(shape)
    except (TypeError, ValueError):
        return 1
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return 3
    needed = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty]
    return len([p for p in parameters if p.kind is p.POSITIONAL_ONLY]) + len(needed)


def _list_parameters(shape: Shape) -> list[inspect.Parameter]:
    """Of a function, or of a partial one whose knobs may have names of an earlier version."""
    try:
        return [*inspect.signature(shape).parameters.values()]
    except ValueError:
        if not isinstance(shape, functools.partial):
            raise
        return [*inspect.signature(shape.func).parameters.values()]


def _interpolate_line(first: float, last: float, share: float) -> float:
    return first + (last - first) * share


def _interpolate_cosine(first: float, last: float, share: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2


def _share_of_epochs(progress: float, epoch: int, epochs: int | None) -> float:
    """Share of a stretch that is over: of the run, or of its first epochs."""
    return progress if epochs is None else min((epoch - 1) / epochs, 1.0)


def _require_positive(name: str, **values: float) -> None:
    _require(name, values, "must be above zero", lambda value: 0 < value < math.inf)


def _require_nonnegative(name: str, **values: float) -> None:
    _require(name, values, "must be zero or more", lambda value: 0 <= value < math.inf)


def _require_share(name: str, **values: float) -> None:
    _require(name, values, "must lie between 0 and 1", lambda value: 0 <= value <= 1)


def _require(name: str, values: Mapping[str, float], fix: str, allows: Callable[[float], bool]) -> None:
    for knob, value in values.items():
        if not allows(value):
            raise BadInput(f"shape: {name}.{knob}", value, fix)
