"""Optimisers over named parts, each part with its own rate and its own first and last epoch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from phaseloom.errors import BadInput, nearest

__all__ = ["adam", "lbfgs", "sgd"]


@dataclass(frozen=True)
class Rate:
    """How fast a part moves, and between which epochs (counted from 1, both included)."""

    rate: float
    start: int = 1
    stop: int | None = None

    def active(self, epoch: int) -> bool:
        """Whether the part moves in an epoch."""
        return epoch >= self.start and (self.stop is None or epoch <= self.stop)


def groups(
    parts: Mapping[str, Sequence[nn.Parameter]], rates: Mapping[str, Rate | float], /
) -> list[dict[str, Any]]:
    """Parameter groups of the parts that move; a part without a rate, or with rate 0, is frozen.

    Raises:
        BadInput: a rate for a part that does not exist, or one that is negative or not a number.
    """
    for name, rate in rates.items():
        value = rate.rate if isinstance(rate, Rate) else rate
        if name not in parts:
            raise BadInput("rates", name, f"is no part of the model: {nearest(name, parts)}")
        if not (0 <= value < float("inf")):
            raise BadInput(f"rates.{name}", value, "must be a finite number from zero up")
    out = []
    for name, parameters in parts.items():
        given = rates.get(name, 0.0)
        rate = given if isinstance(given, Rate) else Rate(float(given))
        if rate.rate == 0:
            for parameter in parameters:
                parameter.requires_grad_(False)
            continue
        extra = {"name": name, "base": rate.rate, "start": rate.start, "stop": rate.stop}
        out.append({"params": list(parameters), "lr": rate.rate, **extra})
    if not out:
        raise BadInput("rates", None, "freeze every part: give one of them a rate above zero")
    return out


def adam(
    moving: list[dict[str, Any]], /, *, momentum: float = 0.9, memory: float = 0.99, floor: float = 1e-8
) -> torch.optim.Optimizer:
    """Adam (Kingma & Ba 2014, arXiv 1412.6980): steps of about the rate, whatever the gradient's size.

    Args:
        moving: see `groups`.
        momentum: beta 1.
        memory: beta 2.
        floor: epsilon.
    """
    return torch.optim.Adam(moving, betas=(momentum, memory), eps=floor)


def sgd(
    moving: list[dict[str, Any]], /, *, momentum: float = 0.9, nesterov: bool = True
) -> torch.optim.Optimizer:
    """Gradient descent with momentum; rates are in units of the parameters squared."""
    return torch.optim.SGD(moving, lr=1.0, momentum=momentum, nesterov=nesterov and momentum > 0)


def lbfgs(
    moving: list[dict[str, Any]], /, *, history: int = 10, inner: int = 4, search: bool = True
) -> torch.optim.Optimizer:
    """L-BFGS over all patterns at once, with a strong-Wolfe line search.

    An epoch takes up to ``inner`` steps and ``1.25 inner`` passes over the data (`Epoch.passes`
    counts them). Parts move together: their rates say only whether they move.

    Raises:
        BadInput: a part that is to start or stop at an epoch of its own.

    Args:
        moving: see `groups`.
        history: pairs of vectors kept.
        inner: steps per epoch.
        search: line search; else full steps.
    """
    if history < 1 or inner < 1:
        raise BadInput("optimizer: lbfgs", f"history {history}, inner {inner}", "must both be at least 1")
    for group in moving:
        if group["start"] > 1 or group["stop"] is not None:
            fix = "cannot start or stop by itself with lbfgs: freeze it, or run adam first"
            raise BadInput("rates", group["name"], fix)
    together = [parameter for group in moving for parameter in group["params"]]
    names = "+".join(group["name"] for group in moving)
    one = {"params": together, "name": names, "base": 1.0, "start": 1, "stop": None}
    line = "strong_wolfe" if search else None
    return torch.optim.LBFGS([one], lr=1.0, max_iter=inner, history_size=history, line_search_fn=line)  # type: ignore
