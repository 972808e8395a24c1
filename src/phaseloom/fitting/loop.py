"""The loop, owned by its caller: ``for epoch in fit(...)``. It yields; it never prints, plots or saves."""

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from phaseloom.errors import BadInput
from phaseloom.fitting.schedule import Every, constant

__all__ = ["Epoch", "Progress", "fit"]

Objective = Callable[[Any], Mapping[str, Tensor]]
Batches = Callable[[int], Sequence[Any]]


@dataclass(frozen=True)
class Epoch:
    """What one epoch did.

    Attributes:
        number: counted from 1 over all calls that share a `Progress`.
        loss: mean over the patterns of all terms together, while they moved.
        terms: the same by name.
        holdout: mean loss of the patterns that are never learned from, after the epoch; or ``None``.
        rates: of each part, in this epoch.
        seconds: wall time.
        updates: steps of the optimiser.
        passes: how often each pattern was modelled for learning.
    """

    number: int
    loss: float
    terms: dict[str, float]
    holdout: float | None
    rates: dict[str, float]
    seconds: float
    updates: int
    passes: float

    def __str__(self) -> str:
        """One line for a log."""
        held = "" if self.holdout is None else f"  hold-out {self.holdout:.4g}"
        return f"epoch {self.number:4d}  loss {self.loss:.4g}{held}  {self.seconds:.2f} s"


@dataclass
class Progress:
    """All that changes in a fit, and so all that a checkpoint holds.

    Attributes:
        model: the module whose parameters move.
        optimizer: with the state that it keeps across calls of `fit`.
        epoch: how many have been done.
        history: one `Epoch` as a dict for each.
        stopped: why the last call ended; empty while it runs.
        best: epoch, hold-out loss and parameters of the best epoch so far.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    stopped: str = ""
    best: tuple[int, float, dict[str, Tensor]] | None = None

    def restore_best(self) -> None:
        """Go back to the parameters with the lowest hold-out loss."""
        if self.best is not None:
            self.model.load_state_dict(self.best[2])


class NotFinite(ArithmeticError):
    """A term of the loss became infinite or not a number."""


def fit(
    objective: Objective,
    batches: Batches,
    progress: Progress,
    /,
    *,
    epochs: int,
    shape: Callable[[float], float] = constant,
    after: Sequence[Every] = (),
    holdout: Sequence[Any] = (),
    own: Sequence[str] = (),
    patience: int | None = None,
    clip: float | None = None,
) -> Iterator[Epoch]:
    """Run until ``epochs`` are done in all, yielding each.

    Ctrl-C and a loss that is not finite end the generator, not the program: the parameters are those
    of the last good moment, and ``progress.stopped`` says what happened. The order of batches depends
    on the epoch's number alone, so a fit that resumes from a checkpoint repeats the straight one.

    Args:
        objective: loss terms by name of a batch; each a mean over its patterns.
        batches: the batches of an epoch by its number.
        progress: model, optimiser and history; continued when it has a past.
        epochs: number of the last epoch.
        shape: factor on all rates as a function of the share of epochs done.
        after: what happens at the end of epochs (projections).
        holdout: batches that are never learned from.
        own: names of groups that hold a value for each pattern (a position, say): held-out patterns
            settle theirs, or their loss would tell of them and not of what they share with the others.
        patience: stop when the hold-out loss has not fallen by 0.1 % for so many epochs.
        clip: largest norm of the gradient.

    Yields:
        An `Epoch` after each.
    """
    progress.stopped = ""
    while progress.epoch < epochs:
        number = progress.epoch + 1
        safe = copy.deepcopy((progress.model.state_dict(), progress.optimizer.state_dict()))
        try:
            factor = shape((number - 1) / max(epochs - 1, 1))
            epoch = _one(progress, number, factor, (objective, batches, clip), (holdout, own))
            for event in after:
                if event.due(number):
                    event.action()
        except KeyboardInterrupt:
            _go_back(progress, safe)
            progress.stopped = f"interrupted in epoch {number}; the result is that of epoch {number - 1}"
            return
        except NotFinite as problem:
            _go_back(progress, safe)
            progress.stopped = f"{problem} in epoch {number}; the result is that of epoch {number - 1}"
            return
        progress.epoch = number
        progress.history.append(asdict(epoch))
        _remember_best(progress, epoch)
        progress.stopped = _verdict(progress, patience, settling=factor <= 2 * shape(1.0))
        done = bool(progress.stopped) or number >= epochs
        if done:
            progress.stopped = progress.stopped or f"all {epochs} epochs done"
            _return_to_best(progress, epoch)
        yield epoch
        if done:
            return


def _one(
    progress: Progress,
    number: int,
    factor: float,
    learnt: tuple[Objective, Batches, float | None],
    held: tuple[Sequence[Any], Sequence[str]],
) -> Epoch:
    """One epoch: learn from every batch, then look at the patterns held out."""
    began = time.perf_counter()
    objective, batches, clip = learnt
    rates = _set_rates(progress.optimizer, number, factor)
    pieces = batches(number)
    whole = isinstance(progress.optimizer, torch.optim.LBFGS)
    learn = _learn_whole if whole else _learn_batches
    terms, updates, passes = learn(objective, pieces, progress.optimizer, number, clip)
    left = _held_out(objective, *held, progress.optimizer, number)
    return Epoch(
        number=number,
        loss=sum(terms.values()),
        terms=terms,
        holdout=left,
        rates=rates,
        seconds=time.perf_counter() - began,
        updates=updates,
        passes=passes,
    )


def _learn_batches(
    objective: Objective,
    pieces: Sequence[Any],
    optimizer: torch.optim.Optimizer,
    number: int,
    clip: float | None,
) -> tuple[dict[str, float], int, float]:
    sums: dict[str, float] = {}
    total = sum(len(piece) for piece in pieces)
    for piece in pieces:
        optimizer.zero_grad(set_to_none=True)
        terms = objective(piece)
        _add_checked(sums, terms, len(piece) / total)
        torch.stack(list(terms.values())).sum().backward()
        _hold_still(optimizer, number)
        _check_gradients(optimizer, terms)
        if clip is not None:
            nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
        optimizer.step()
    return sums, len(pieces), 1.0


def _learn_whole(
    objective: Objective,
    pieces: Sequence[Any],
    optimizer: torch.optim.Optimizer,
    number: int,
    clip: float | None,
) -> tuple[dict[str, float], int, float]:
    """L-BFGS: each evaluation adds the gradients of all batches."""
    if clip is not None:
        raise BadInput("clip", clip, "does not go with lbfgs, which chooses its own step length")
    total = sum(len(piece) for piece in pieces)
    seen: list[dict[str, float]] = []

    def closure() -> float:
        optimizer.zero_grad(set_to_none=True)
        sums: dict[str, float] = {}
        for piece in pieces:
            terms = objective(piece)
            _add_checked(sums, terms, len(piece) / total)
            (torch.stack(list(terms.values())).sum() * (len(piece) / total)).backward()
        _hold_still(optimizer, number)
        _check_gradients(optimizer, sums)
        seen.append(sums)
        return sum(sums.values())

    optimizer.step(closure)
    last = min(seen, key=lambda sums: sum(sums.values()))
    return last, 1, float(len(seen))


def _add_checked(sums: dict[str, float], terms: Mapping[str, Tensor], share: float) -> None:
    for name, value in terms.items():
        number = float(value.detach())
        if not math.isfinite(number):
            raise NotFinite(f"the term '{name}' became {number}")
        sums[name] = sums.get(name, 0.0) + number * share


def _check_gradients(optimizer: torch.optim.Optimizer, terms: Mapping[str, Any]) -> None:
    """A finite loss may have a gradient that is not; one such step would spoil everything."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
                blame = " + ".join(f"'{name}'" for name in terms)
                raise NotFinite(f"the gradient of {blame} in '{group['name']}' is no longer finite")


def _go_back(progress: Progress, safe: tuple[dict[str, Any], dict[str, Any]]) -> None:
    progress.model.load_state_dict(safe[0])
    progress.optimizer.load_state_dict(safe[1])


def _set_rates(optimizer: torch.optim.Optimizer, number: int, factor: float) -> dict[str, float]:
    for group in optimizer.param_groups:
        group["lr"] = group["base"] * (factor if not isinstance(optimizer, torch.optim.LBFGS) else 1.0)
    return {group["name"]: group["lr"] for group in optimizer.param_groups if _moves(group, number)}


def _moves(group: Mapping[str, Any], number: int) -> bool:
    return number >= group["start"] and (group["stop"] is None or number <= group["stop"])


def _hold_still(optimizer: torch.optim.Optimizer, number: int, only: Sequence[str] | None = None) -> None:
    """Forget the gradients of groups that do not move now, or are not among those named."""
    for group in optimizer.param_groups:
        if not _moves(group, number) or (only is not None and group["name"] not in only):
            for parameter in group["params"]:
                parameter.grad = None


def _held_out(
    objective: Objective,
    holdout: Sequence[Any],
    own: Sequence[str],
    optimizer: torch.optim.Optimizer,
    number: int,
) -> float | None:
    """Mean loss of the patterns held out; their own values take a step, nothing that is shared does."""
    if not len(holdout):
        return None
    settle = [g for g in optimizer.param_groups if g["name"] in own and _moves(g, number)]
    total, loss = sum(len(piece) for piece in holdout), 0.0
    for piece in holdout:
        optimizer.zero_grad(set_to_none=True)
        with torch.set_grad_enabled(bool(settle)):
            value = torch.stack(list(objective(piece).values())).sum()
        loss += len(piece) / total * float(value.detach())
        if not math.isfinite(loss):
            raise NotFinite(f"the hold-out loss became {loss}")
        if settle:
            value.backward()
            _hold_still(optimizer, number, own)
            optimizer.step()
    return loss


def _copied(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(model.state_dict())


def _remember_best(progress: Progress, epoch: Epoch) -> None:
    if epoch.holdout is None or not math.isfinite(epoch.holdout):
        return
    if progress.best is None or epoch.holdout < progress.best[1]:
        progress.best = (epoch.number, epoch.holdout, _copied(progress.model))


def _verdict(progress: Progress, patience: int | None, *, settling: bool) -> str:
    """Why to stop now, or an empty string.

    A plateau is no end while rates are still to fall; a hold-out loss that stays 2 % above its best is.
    """
    held = [event["holdout"] for event in progress.history if event["holdout"] is not None]
    if patience is None or progress.best is None or len(held) <= patience:
        return ""
    recent = min(held[-patience:])
    if recent > 1.02 * progress.best[1]:
        return f"overfitting: the hold-out loss rises since epoch {progress.best[0]}"
    if settling and recent > 0.999 * min(held[:-patience]):
        return f"converged: the hold-out loss has not fallen for {patience} epochs"
    return ""


def _return_to_best(progress: Progress, epoch: Epoch) -> None:
    if progress.best is None or epoch.holdout is None or epoch.holdout <= 1.01 * progress.best[1]:
        return
    progress.restore_best()
    if "overfitting" not in progress.stopped:
        progress.stopped += f"; overfitting: the hold-out loss rises since epoch {progress.best[0]}"
    progress.stopped += f"; the result is that of epoch {progress.best[0]}"
