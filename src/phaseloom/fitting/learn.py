"""What an optimiser does with the batches of one epoch."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from phaseloom.errors import BadInput
from phaseloom.fitting.rates import hold_still, moves

__all__ = ["Batches", "NotFinite", "Objective", "from_all", "from_each", "held_out"]

Objective = Callable[[Any], Mapping[str, Tensor]]
Batches = Callable[[int], Sequence[Any]]
Learnt = tuple[dict[str, float], int, float]
"""Mean of each term, steps of the optimiser, how often each pattern was modelled."""


class NotFinite(ArithmeticError):
    """A term of the loss became infinite or not a number."""


def from_each(
    objective: Objective,
    batches: Sequence[Any],
    optimizer: torch.optim.Optimizer,
    number: int,
    clip: float | None,
) -> Learnt:
    """A step after every batch; a tuple is a batch in pieces, whose gradients are added before it."""
    sums: dict[str, float] = {}
    total = sum(_size(batch) for batch in batches)
    for batch in batches:
        try:
            terms = _gradients(objective, _pieces(batch), optimizer, number)
        except NotFinite as problem:
            if sums or number > 1:
                raise
            fix = "check the data, the mask and the settings of this term"
            raise NotFinite(f"{problem} before the first step ({fix})") from problem
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + value * _size(batch) / total
        if clip is not None:
            nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
        optimizer.step()
    return sums, len(batches), 1.0


def from_all(
    objective: Objective,
    batches: Sequence[Any],
    optimizer: torch.optim.Optimizer,
    number: int,
    clip: float | None,
) -> Learnt:
    """L-BFGS: each evaluation adds the gradients of all batches, so its loss is that of the whole data."""
    if clip is not None:
        raise BadInput("clip", clip, "does not go with lbfgs, which chooses its own step length")
    pieces = [piece for batch in batches for piece in _pieces(batch)]
    seen: list[dict[str, float]] = []

    def closure() -> float:
        seen.append(_gradients(objective, pieces, optimizer, number))
        for parameter in optimizer.param_groups[0]["params"]:
            if parameter.grad is not None:
                parameter.grad = parameter.grad.contiguous()  # L-BFGS takes a flat view of it
        return sum(seen[-1].values())

    optimizer.step(closure)  # pyright: ignore[reportArgumentType]
    last = min(seen, key=lambda terms: sum(terms.values()))
    return last, 1, float(len(seen))


def held_out(
    objective: Objective,
    held: tuple[Sequence[Any], Sequence[str], Sequence[str] | None],
    optimizer: torch.optim.Optimizer,
    number: int,
) -> float | None:
    """Mean loss of the patterns held out; their own values take a step, nothing that is shared does.

    ``held`` is their batches, the names of groups that are the patterns' own, and of terms that judge.
    """
    batches, own, judged = held
    if not len(batches):
        return None
    settle = [g for g in optimizer.param_groups if g["name"] in own and moves(g, number)]
    pieces = [piece for batch in batches for piece in _pieces(batch)]
    total, loss = sum(len(piece) for piece in pieces), 0.0
    for piece in pieces:
        optimizer.zero_grad(set_to_none=True)
        with torch.set_grad_enabled(bool(settle)):
            value = _judgement(objective(piece), judged)
        loss += len(piece) / total * float(value.detach())
        if not math.isfinite(loss):
            raise NotFinite(f"the hold-out loss became {loss}")
        if settle and value.requires_grad:
            value.backward()
            hold_still(optimizer, number, own)
            optimizer.step()
    return loss


def _judgement(terms: Mapping[str, Tensor], judged: Sequence[str] | None) -> Tensor:
    """The sum of the terms that say how well a pattern is modelled."""
    judges = [value for name, value in terms.items() if judged is None or name in judged]
    if not judges:
        fix = f"names none of the terms {', '.join(terms)}: name one that compares patterns"
        raise BadInput("judged", list(judged or ()), fix)
    return torch.stack(judges).sum()


def _pieces(batch: Any) -> tuple[Any, ...]:
    return batch if isinstance(batch, tuple) else (batch,)


def _size(batch: Any) -> int:
    return sum(len(piece) for piece in _pieces(batch))


def _gradients(
    objective: Objective, pieces: Sequence[Any], optimizer: torch.optim.Optimizer, number: int
) -> dict[str, float]:
    """Leave the gradient of the mean over all pieces in the parameters that move; the terms by name.

    Each piece's terms are means over its patterns, so its share is that of its patterns.
    """
    optimizer.zero_grad(set_to_none=True)
    total = sum(len(piece) for piece in pieces)
    shares, found = [len(piece) / total for piece in pieces], []
    for piece, share in zip(pieces, shares, strict=True):
        terms = objective(piece)
        values = torch.stack(list(terms.values()))
        (values.sum() * share).backward()
        found.append((tuple(terms), values.detach()))
    hold_still(optimizer, number)
    return _checked(found, shares, optimizer)


def _checked(
    found: Sequence[tuple[tuple[str, ...], Tensor]],
    shares: Sequence[float],
    optimizer: torch.optim.Optimizer,
) -> dict[str, float]:
    """Terms as numbers, read from the device once together with whether all gradients are finite.

    A finite loss may have a gradient that is not; one such step would spoil everything.
    """
    gradients = {p: group["name"] for group in optimizer.param_groups for p in group["params"]}
    moved = [(name, p.grad) for p, name in gradients.items() if p.grad is not None]
    good = [gradient.isfinite().all() for _, gradient in moved]
    values = [value for _, value in found]
    read = torch.cat([*values, torch.stack(good).to(values[0])] if good else values).tolist()
    sums: dict[str, float] = {}
    for name, value, share in _named(found, shares, read):
        if not math.isfinite(value):
            raise NotFinite(f"the term '{name}' became {value}")
        sums[name] = sums.get(name, 0.0) + value * share
    for (part, _), finite in zip(moved, read[len(read) - len(good) :], strict=True):
        if not finite:
            blame = " + ".join(f"'{name}'" for name in sums)
            raise NotFinite(f"the gradient of {blame} in '{part}' is no longer finite")
    return sums


def _named(
    found: Sequence[tuple[tuple[str, ...], Tensor]], shares: Sequence[float], read: Sequence[float]
) -> Iterable[tuple[str, float, float]]:
    """Name, value and share of each term of each piece."""
    names = [(name, share) for (terms, _), share in zip(found, shares, strict=True) for name in terms]
    return ((name, value, share) for (name, share), value in zip(names, read, strict=False))
