"""How fast each part moves in an epoch, and whether it does."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from phaseloom.fitting.schedule import Shape, evaluate_shape

__all__ = ["drop_gradients", "is_moving", "rates_have_fallen", "set_rates"]

History = Sequence[Mapping[str, Any]]


def set_rates(
    optimizer: torch.optim.Optimizer, shape: Shape, epochs: int, number: int, history: History
) -> dict[str, float]:
    """Give every group its rate of this epoch; returns those of the groups that move, by name."""
    for group in optimizer.param_groups:
        group["lr"] = group["base"] * _rate_factor(optimizer, group, shape)(number, epochs, history)
    return {group["name"]: group["lr"] for group in optimizer.param_groups if is_moving(group, number)}


def rates_have_fallen(
    optimizer: torch.optim.Optimizer, shape: Shape, epochs: int, number: int, history: History
) -> bool:
    """Whether no group that moves is still to fall below half of its present rate."""
    for group in optimizer.param_groups:
        factor = _rate_factor(optimizer, group, shape)
        last = min(group["stop"] or epochs, epochs)
        if is_moving(group, number) and factor(number, epochs, history) > 2 * factor(last, epochs, history):
            return False
    return True


def is_moving(group: Mapping[str, Any], number: int) -> bool:
    """Whether a group moves in an epoch."""
    return number >= group["start"] and (group["stop"] is None or number <= group["stop"])


def drop_gradients(optimizer: torch.optim.Optimizer, number: int, only: Sequence[str] | None = None) -> None:
    """Forget the gradients of groups that do not move now, or are not among those named.

    Without a gradient no optimiser touches a parameter: neither momentum nor decay of weights does.
    """
    for group in optimizer.param_groups:
        if not is_moving(group, number) or (only is not None and group["name"] not in only):
            for parameter in group["params"]:
                parameter.grad = None


def _rate_factor(
    optimizer: torch.optim.Optimizer, group: Mapping[str, Any], shape: Shape
) -> Callable[[int, int, History], float]:
    """A group's factor by epoch, number of epochs and history.

    The common shape runs over all epochs; one of the group's own from its first epoch to its last.
    """
    if isinstance(optimizer, torch.optim.LBFGS):
        return lambda number, epochs, history: 1.0
    if (own := group.get("shape")) is None:
        return lambda number, epochs, history: evaluate_shape(shape, number, epochs, history)
    first = group["start"]
    stop = group["stop"]

    def local(number: int, epochs: int, history: History) -> float:
        last = max(min(stop or epochs, epochs), first)
        inside = min(max(number, first), last)
        return evaluate_shape(own, inside - first + 1, last - first + 1, history[first - 1 :])

    return local
