"""What an optimiser does with the batches of one epoch."""

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from phaseloom.errors import BadInput
from phaseloom.fitting import cuda_graph
from phaseloom.fitting.cuda_graph import GraphReplay, Objective
from phaseloom.fitting.distributed import team
from phaseloom.fitting.engine import Engine
from phaseloom.fitting.rates import drop_gradients, is_moving
from phaseloom.fitting.sync_batchnorm import count_in_statistics
from phaseloom.fitting.tiles import find_tile

__all__ = [
    "Batches",
    "HoldOut",
    "NotFinite",
    "Objective",
    "list_pieces",
    "measure_holdout",
    "step_by_engine",
    "step_on_all",
    "step_on_each",
    "step_on_finite",
]

log = logging.getLogger(__name__)

Batches = Callable[[int], Sequence[Any]]
BATCHES_BETWEEN_READS = 32
"""Batches after which losses are read from the device, which has to wait for it."""

MIN_BATCHES_TO_RECORD = 12
"""Batches of an epoch for which recording a graph pays."""

BATCHES_TOGETHER = 512
"""Batches of one call, where an optimiser does several in one."""


class EpochSums(NamedTuple):
    """What an epoch found.

    Attributes:
        terms: mean of each term.
        updates: steps of the optimiser.
        passes: how often each pattern was modelled.
        first: loss of the first batch, before the first step; ``None`` where nobody asks for it.
    """

    terms: dict[str, float]
    updates: int
    passes: float = 1.0
    first: float | None = None


class NotFinite(ArithmeticError):
    """A term of the loss became infinite or not a number.

    Attributes:
        at_start: it was so before the first step, of which no rate can be the cause.
    """

    def __init__(self, message: str, *, at_start: bool = False):
        super().__init__(message)
        self.at_start = at_start


def step_on_each(
    objective: Objective,
    batches: Sequence[Any],
    optimizer: torch.optim.Optimizer,
    number: int,
    clip: float | None,
) -> EpochSums:
    """A step after every batch; a tuple is a batch in pieces, whose gradients are added before it.

    While a device works on a batch, an objective that has a method ``prefetch`` gets the next one. On a GPU
    batches of an objective that says ``recordable`` are recorded and replayed.
    """
    sums: dict[str, float] = {}
    replay = _make_replay(objective, batches, optimizer)
    before: float | None = None
    total = sum(_count_patterns(batch) for batch in batches)
    place = 0
    while place < len(batches):
        some = batches[place : place + BATCHES_TOGETHER]
        outcomes = _step_together(objective, some, optimizer, number, clip)
        if outcomes is None:
            some = some[:BATCHES_BETWEEN_READS]
            later = batches[place + len(some) :][:1]
            outcomes = _step_one_by_one(objective, some, optimizer, number, clip, later, replay)
        found = zip(map(_count_patterns, some), outcomes, strict=True)
        first = _add_terms(list(found), sums, total, first=number == 1 and not place)
        before = first if before is None else before
        place += len(some)
    return EpochSums(sums, len(batches), first=before)


def _step_together(
    objective: Objective,
    batches: Sequence[Any],
    optimizer: torch.optim.Optimizer,
    number: int,
    clip: float | None,
    *,
    only: Sequence[str] | None = None,
) -> "Sequence[BatchOutcome] | None":
    """Steps after each of some batches in one call, where the optimiser has one for them.

    ``only`` has the names of the groups that move; default: all that do in an epoch.
    """
    step = getattr(optimizer, "step_together", None)
    return None if step is None or clip is not None else step(objective, batches, number, only)


def _step_one_by_one(  # noqa: PLR0917 - what a step takes, and what comes next
    objective: Objective,
    batches: Sequence[Any],
    optimizer: torch.optim.Optimizer,
    number: int,
    clip: float | None,
    later: Sequence[Any],
    replay: GraphReplay | None,
) -> "Sequence[BatchOutcome]":
    """The same, batch by batch; ``later`` is the one that follows them."""
    prefetch = getattr(objective, "prefetch", None)
    outcomes = list[BatchOutcome]()
    following = [*batches[1:], *later]
    for place, batch in enumerate(batches):
        if replay is not None and not replay.broken and not isinstance(batch, tuple):
            outcomes.append(_replay_gradients(replay, batch, optimizer, number))
        else:
            outcomes.append(_compute_gradients(objective, list_pieces(batch), optimizer, number))
        _step(optimizer, _count_patterns(batch), clip)
        if prefetch is not None and place < len(following):
            prefetch(tuple(_share(objective, piece)[0] for piece in list_pieces(following[place])))
    return outcomes


def step_on_finite(
    objective: Objective,
    batches: Sequence[Any],
    optimizer: torch.optim.Optimizer,
    number: int,
    clip: float | None,
    /,
    *,
    spare: int,
) -> EpochSums:
    """As `step_on_each`, but a batch whose loss or gradient is not finite is skipped, and named in the log.

    Every batch is waited for. Means are those of the others; ``spare`` may be skipped one after the other.

    Raises:
        NotFinite: one more in a row, or none left.
    """
    sums: dict[str, float] = {}
    kept = left = steps = 0
    for place, batch in enumerate(batches):
        found = _compute_gradients(objective, list_pieces(batch), optimizer, number)
        try:
            terms = found.terms(found.numbers.tolist())
        except NotFinite as problem:
            left += 1
            log.warning("epoch %d, batch %d (%s): %s: skipped", number, place + 1, batch, problem)
            if left > spare:
                raise NotFinite(f"{problem}, in {left} batches one after the other") from problem
            continue
        _step(optimizer, _count_patterns(batch), clip)
        left = 0
        steps = steps + 1
        kept = kept + _count_patterns(batch)
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + value * _count_patterns(batch)
    if not kept:
        raise NotFinite("no batch had a finite loss and gradient")
    return EpochSums({name: value / kept for name, value in sums.items()}, steps)


def _add_terms(
    waiting: Sequence[tuple[int, "BatchOutcome"]], sums: dict[str, float], total: int, *, first: bool
) -> float:
    """Add what batches found to the sums, the terms of all of them read from the device at once.

    Returns:
        The loss of the first of them.
    """
    losses = list[float]()
    numbers = torch.cat([found.numbers for _, found in waiting]).tolist()
    for place, (size, found) in enumerate(waiting):
        own = numbers[: len(found.numbers)]
        numbers = numbers[len(found.numbers) :]
        try:
            terms = found.terms(own)
        except NotFinite as problem:
            if place or not first:
                raise
            fix = "check the data, the mask and the settings of this term"
            raise NotFinite(f"{problem} before the first step ({fix})", at_start=True) from problem
        losses.append(sum(terms.values()))
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + value * size / total
    return losses[0]


def step_on_all(
    objective: Objective,
    batches: Sequence[Any],
    optimizer: torch.optim.Optimizer,
    number: int,
    clip: float | None,
) -> EpochSums:
    """L-BFGS: each evaluation adds the gradients of all batches, so its loss is that of the whole data."""
    if clip is not None:
        raise BadInput(
            "clip", clip, "does not go with lbfgs, which chooses its own step length: write clip: null"
        )
    pieces = [piece for batch in batches for piece in list_pieces(batch)]
    seen: list[dict[str, float]] = []

    def closure() -> float:
        found = _compute_gradients(objective, pieces, optimizer, number)
        seen.append(found.terms(found.numbers.tolist()))
        for parameter in optimizer.param_groups[0]["params"]:
            if parameter.grad is not None:
                parameter.grad = parameter.grad.contiguous()  # L-BFGS takes a flat view of it
        return sum(seen[-1].values())

    optimizer.step(closure)  # pyright: ignore[reportArgumentType]
    last = min(seen, key=lambda terms: sum(terms.values()))
    return EpochSums(last, 1, float(len(seen)))


def step_by_engine(
    objective: Objective,
    batches: Sequence[Any],
    optimizer: torch.optim.Optimizer,
    number: int,
    clip: float | None,
) -> EpochSums:
    """Steps that an `Engine` makes by itself; its losses are those before each step.

    Raises:
        BadInput: gradients are to be clipped, of which there are none.
        NotFinite: a loss, or a parameter after the steps, is not a number any more.
    """
    del objective  # the engine is bound to it
    assert isinstance(optimizer, Engine)
    if clip is not None:
        raise BadInput("clip", clip, "needs gradients, and this optimizer has none: write clip: null")
    moving = [group["name"] for group in optimizer.param_groups if is_moving(group, number)]
    found = [optimizer.update(torch.cat(list_pieces(batch)), moving) for batch in batches]
    optimizer.finish_epoch(moving)
    sizes = [_count_patterns(batch) for batch in batches]
    share = torch.tensor(sizes, dtype=torch.float64) / sum(sizes)
    terms: dict[str, float] = {}
    for name in found[0]:
        values = torch.stack([each[name] for each in found]).double().cpu()
        if not bool(values.isfinite().all()):
            at_start = number == 1 and not bool(values[0].isfinite())
            fix = " before the first step (check the data and the mask)" if at_start else ""
            raise NotFinite(f"the term '{name}' became {float(values.sum())}{fix}", at_start=at_start)
        terms[name] = float((share * values).sum())
    for group in optimizer.param_groups:
        if not all(bool(parameter.isfinite().all()) for parameter in group["params"]):
            raise NotFinite(f"the {group['name']} is not finite any more")
    return EpochSums(terms, len(batches))


@dataclass(frozen=True)
class HoldOut:
    """Patterns that are never learned from.

    Attributes:
        batches: theirs.
        own: names of parameter groups that hold a value for each pattern.
        judged: names of the terms that the hold-out loss is made of; ``None``: all.
    """

    batches: Sequence[Any] = ()
    own: Sequence[str] = ()
    judged: Sequence[str] | None = None


def measure_holdout(
    objective: Objective, held: HoldOut, optimizer: torch.optim.Optimizer, number: int
) -> float | None:
    """Mean loss of the patterns held out; their own values take a step, nothing that is shared does."""
    if not len(held.batches):
        return None
    settle = [g for g in optimizer.param_groups if g["name"] in held.own and is_moving(g, number)]
    pieces = [piece for batch in held.batches for piece in list_pieces(batch)]
    total = sum(len(piece) for piece in pieces)
    names = [group["name"] for group in settle]
    together = _step_together(objective, pieces, optimizer, number, None, only=names)
    if together is not None:
        values = [float(outcome.numbers[0]) for outcome in together]
    else:
        values = _settle_one_by_one(objective, held, pieces, optimizer, number, settle=bool(settle))
    loss = sum(len(piece) / total * value for piece, value in zip(pieces, values, strict=True))
    if not math.isfinite(loss):
        raise NotFinite(f"the hold-out loss became {loss}")
    return loss


def _settle_one_by_one(
    objective: Objective,
    held: HoldOut,
    pieces: Sequence[Any],
    optimizer: torch.optim.Optimizer,
    number: int,
    *,
    settle: bool,
) -> list[float]:
    """Losses of pieces held out, of which the own values of patterns are stepped where they ``settle``."""
    found = list[Tensor]()
    for piece in pieces:
        optimizer.zero_grad(set_to_none=True)
        part, share = _share(objective, piece)
        with torch.set_grad_enabled(settle), count_in_statistics(share > 0):
            value = share * _sum_judging_terms(objective(part), held.judged)
        found.append(value.detach())
        if settle and value.requires_grad:
            value.backward()
            drop_gradients(optimizer, number, held.own)
            team().all_reduce_gradients(_list_parameters(optimizer))
            _step(optimizer, len(piece))
    return team().all_reduce(torch.stack(found)).tolist()


def _step(optimizer: torch.optim.Optimizer, size: int, clip: float | None = None) -> None:
    """A step whose gradient, clipped, is that of a mean over ``size`` patterns, for optimisers that ask."""
    if clip is not None:
        nn.utils.clip_grad_norm_(_list_clipped_parameters(optimizer), clip)
    for group in optimizer.param_groups:
        group["size"] = size
    optimizer.step()
    for parameter in _list_parameters(optimizer):
        if (tile := find_tile(parameter)) is not None and parameter.grad is not None:
            tile.tiling.copy_halos(parameter, tile.changed)


def _share(objective: Objective, piece: Any) -> tuple[Any, float]:
    """The part of a piece that this process computes, and its share: see `Team.share`.

    An objective may say by ``owners`` which process models which pattern.
    """
    return team().share(piece, getattr(objective, "owners", None))


def _sum_judging_terms(terms: Mapping[str, Tensor], judged: Sequence[str] | None) -> Tensor:
    """The sum of the terms that say how well a pattern is modelled."""
    judges = [value for name, value in terms.items() if judged is None or name in judged]
    if not judges:
        fix = f"names none of the terms {', '.join(terms)}: name one that compares patterns"
        raise BadInput("judged", list(judged or ()), fix)
    return torch.stack(judges).sum()


def list_pieces(batch: Any, /) -> tuple[Any, ...]:
    """A batch that is computed at once, or in pieces, as its pieces."""
    return batch if isinstance(batch, tuple) else (batch,)


def _count_patterns(batch: Any) -> int:
    return sum(len(piece) for piece in list_pieces(batch))


@dataclass(frozen=True)
class BatchOutcome:
    """What a batch found, still on its device.

    Attributes:
        pieces: names of the terms of each piece, and its share of the patterns.
        parts: names of the parts that have a gradient.
        numbers: the terms of all pieces, then the sums of the gradients.
    """

    pieces: Sequence[tuple[tuple[str, ...], float]]
    parts: Sequence[str]
    numbers: Tensor

    def terms(self, numbers: Sequence[float]) -> dict[str, float]:
        """Terms by name; a finite loss may have a gradient that is not, and one such step would spoil all.

        Raises:
            NotFinite: a term or a gradient is not finite.
        """
        sums: dict[str, float] = {}
        named = [(name, share) for names, share in self.pieces for name in names]
        for (name, share), value in zip(named, numbers, strict=False):
            if not math.isfinite(value):
                raise NotFinite(f"the term '{name}' became {value}")
            sums[name] = sums.get(name, 0.0) + value * share
        for part, total in zip(self.parts, numbers[len(named) :], strict=True):
            if not math.isfinite(total):
                blame = " + ".join(f"'{name}'" for name in sums)
                raise NotFinite(f"the gradient of {blame} in '{part}' is not finite any more")
        return sums


def _compute_gradients(
    objective: Objective, pieces: Sequence[Any], optimizer: torch.optim.Optimizer, number: int
) -> BatchOutcome:
    """Leave the gradient of the mean over all pieces in the parameters that move.

    Each piece's terms are means over its patterns, so its share is that of its patterns; of several
    processes each does a part of every piece.
    """
    optimizer.zero_grad(set_to_none=True)
    total = sum(len(piece) for piece in pieces)
    seen = []
    values = []
    for piece in pieces:
        part, own = _share(objective, piece)
        with count_in_statistics(own > 0):
            terms = objective(part)
            share = len(piece) / total
        each = own * torch.stack(list(terms.values()))
        (each.sum() * share).backward()
        seen.append((tuple(terms), share))
        values.append(each.detach())
    drop_gradients(optimizer, number)
    _share_touched_boxes(objective, pieces, optimizer)
    team().all_reduce_gradients(_list_parameters(optimizer))
    return _describe_batch(seen, values, optimizer)


def _make_replay(
    objective: Objective, batches: Sequence[Any], optimizer: torch.optim.Optimizer
) -> GraphReplay | None:
    """What replays the batches of an epoch on a GPU; ``None`` where that is not possible, or does not pay."""
    parameters = [one for one in _list_parameters(optimizer) if isinstance(one, nn.Parameter)]
    if not parameters or not cuda_graph.supports_graphs(parameters[0].device):
        return None
    if team().world_size > 1 or not getattr(objective, "recordable", False):
        return None
    sizes = Counter(len(batch) for batch in batches if not isinstance(batch, tuple))
    size, count = max(sizes.items(), key=lambda one: one[1], default=(0, 0))
    return GraphReplay(objective, parameters, size=size) if count >= MIN_BATCHES_TO_RECORD else None


def _replay_gradients(
    replay: GraphReplay, batch: Tensor, optimizer: torch.optim.Optimizer, number: int
) -> "BatchOutcome":
    """The same for a batch of one piece whose graph is recorded, or will be."""
    optimizer.zero_grad(set_to_none=True)
    terms = replay(batch.to(replay.parameters[0].device, non_blocking=True))
    drop_gradients(optimizer, number)
    return _describe_batch([(tuple(terms), 1.0)], [torch.stack(list(terms.values()))], optimizer)


def _describe_batch(
    seen: Sequence[tuple[tuple[str, ...], float]], values: Sequence[Tensor], optimizer: torch.optim.Optimizer
) -> "BatchOutcome":
    """Terms of the pieces, and sums of the gradients that parameters have now."""
    moved = [(g["name"], p) for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
    sums = (
        torch.stack([_sum_gradient(parameter).to(values[0]) for _, parameter in moved])
        if moved
        else values[0][:0]
    )
    if any(find_tile(parameter) is not None for _, parameter in moved):
        team().all_reduce(sums)  # that one process's tile is not finite, all have to know
    return BatchOutcome(
        seen, [name for name, _ in moved], torch.cat([team().all_reduce(torch.cat(list(values))), sums])
    )


def _share_touched_boxes(
    objective: Objective, pieces: Sequence[Any], optimizer: torch.optim.Optimizer
) -> None:
    """Where parameters were touched by all of a batch, in every process."""
    boxes = getattr(objective, "boxes", None)
    if team().world_size == 1 or boxes is None:
        return
    for parameter in _list_parameters(optimizer):
        if touched := getattr(parameter, "touched", None):
            whole = [box for piece in pieces for box in boxes(piece)]
            tile = find_tile(parameter)
            touched[:] = whole if tile is None else tile.mark_changed(whole)


def _list_clipped_parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Parameters whose gradients are clipped together: of all groups that do not say ``clip: False``."""
    return [each for group in optimizer.param_groups if group.get("clip", True) for each in group["params"]]


def _list_parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _sum_gradient(parameter: Tensor) -> Tensor:
    """Of the gradient, finite when all of it is; of one that knows where it was touched, only there."""
    gradient = parameter.grad
    touched = getattr(parameter, "touched", None)
    assert gradient is not None
    if gradient.is_complex():
        gradient = torch.view_as_real(gradient.resolve_conj())
    if not touched:
        return gradient.flatten().sum()
    last = (slice(None),) * (gradient.ndim - parameter.ndim)
    boxes = [gradient[..., top:bottom, left:right, *last] for top, bottom, left, right in touched]
    return torch.stack([box.sum() for box in boxes]).sum()
