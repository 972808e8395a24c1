"""Several processes at one fit: each takes its share of every batch, and all take the same step.

Started by ``torchrun`` or ``accelerate launch``; without either a team is one process, and nothing here
does anything.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from phaseloom.errors import BadInput, MissingExtra
from phaseloom.fitting import sync_batchnorm as norms
from phaseloom.physics.patches import disjoint

__all__ = ["Team", "team"]

Any_ = TypeVar("Any_")

SPREAD, PRIME = 48271, 2**31 - 1
"""Of a multiplication that scatters the numbers of patterns, so that a batch has some of every process."""


@dataclass(frozen=True)
class Team:
    """Which process this is, of how many.

    Attributes:
        rank: from zero; the first one writes.
        count: processes.
        device: where this one computes, if there are several and nobody says otherwise.
    """

    rank: int = 0
    count: int = 1
    device: str = "cpu"

    @property
    def first(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    def share(self, batch: Any, /) -> tuple[Any, float]:
        """What this process does of a batch or piece, and how much of it that is.

        Numbers of patterns belong to the process that keeps these patterns (`keeps`); of anything else it
        does every so-manieth. A process that is left without any does something of its own again, for
        nothing: all must name the same terms.

        Example:
            >>> Team(1, 2).share([3, 4, 5]), Team(1, 2).share([3])
            (([4], 0.3333333333333333), ([3], 0.0))
        """
        if self.count == 1:
            return batch, 1.0
        if isinstance(batch, Tensor | np.ndarray):
            own = batch[self.keeps(batch)]
            return (own, len(own) / len(batch)) if len(own) else (0 * batch[:1] + self._spare, 0.0)
        own = batch[self.rank :: self.count]
        return (own, len(own) / len(batch)) if len(own) else (batch[:1], 0.0)

    def keeps(self, numbers: Any, /) -> Any:
        """Whether this process keeps patterns of such numbers (an array): neighbours belong to any.

        Example:
            >>> sum(Team(rank, 3).keeps(np.arange(7)).astype(int) for rank in range(3)).tolist()
            [1, 1, 1, 1, 1, 1, 1]
        """
        return (numbers * SPREAD % PRIME) % self.count == self.rank

    @property
    def _spare(self) -> int:
        """A pattern of this process."""
        return next(number for number in range(PRIME) if self.keeps(np.array(number)))

    def add(self, numbers: Tensor, /) -> Tensor:
        """The sum over all processes, to the same bits in each."""
        if self.count > 1:
            torch.distributed.all_reduce(numbers)
        return numbers

    def gather(self, parameters: Sequence[Tensor], /) -> None:
        """Add up gradients; one that some process has, all have afterwards.

        Of one that knows where it was touched, only there: in the same boxes in every process.
        """
        if self.count == 1 or not parameters:
            return
        known = [each for each in parameters if each.grad is not None and getattr(each, "touched", None)]
        for parameter in known:
            boxes = disjoint(parameter.touched, parameter.shape[-2:])  # pyright: ignore
            _summed(self, [parameter.grad[..., a:b, c:d] for a, b, c, d in boxes])  # pyright: ignore
        parameters = [each for each in parameters if not any(each is one for one in known)]
        there = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
        moved = [p for p, number in zip(parameters, self.add(there).tolist(), strict=True) if number]
        for parameter in moved:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for dtype in dict.fromkeys(parameter.dtype for parameter in moved):
            _summed(self, [p.grad for p in moved if p.dtype == dtype and p.grad is not None])

    def agree(self, net: nn.Module, /) -> None:
        """Give every process the numbers of the first one's network."""
        if self.count > 1:
            for tensor in net.state_dict().values():
                torch.distributed.broadcast(tensor, 0)

    def joined(self, net: nn.Module, /) -> nn.Module:
        """A network whose batches are shared: what it normalises over a batch, it does over all of it.

        Raises:
            BadInput: see `phaseloom.fitting.sync_batchnorm.shared`.
        """
        return net if self.count == 1 else norms.shared(net, self.rank, self.count)

    def alone(self, what: str, /) -> None:
        """Refuse to be one of several.

        Raises:
            BadInput: several processes.
        """
        if self.count > 1:
            fix = "cannot share this yet: start it without torchrun"
            raise BadInput(what, f"{self.count} processes", fix)

    def told(self, word: Any_, /) -> Any_:
        """What the first process says."""
        if self.count == 1:
            return word
        words = [word]
        torch.distributed.broadcast_object_list(words, 0)
        return words[0]

    def each(self, make: Callable[[int], Any_], numbers: Sequence[int], /) -> list[Any_]:
        """What is made of each of some numbers, each by one process, and given to all.

        Example:
            >>> Team().each(lambda number: number**2, [3, 4])
            [9, 16]
        """
        own = {number: make(number) for number in numbers[self.rank :: self.count]}
        made = [own] * self.count
        if self.count > 1:
            torch.distributed.all_gather_object(made, own)
        known = {number: one for some in made for number, one in some.items()}
        return [known[number] for number in numbers]

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            torch.distributed.barrier()


@cache
def team() -> Team:
    """The processes that were started together.

    Raises:
        BadInput: a count in the environment that is no number.
        MissingExtra: several, without the package that connects them.
    """
    said = os.environ.get("WORLD_SIZE", "1")
    if not said.isdigit():
        raise BadInput("WORLD_SIZE", said, "is no number of processes: start them with torchrun")
    if int(said) < 2:
        return Team()
    try:
        from accelerate import PartialState
    except ImportError:
        raise MissingExtra("several processes", "accelerate", "cluster") from None
    state = PartialState(cpu=not torch.cuda.is_available())
    return Team(state.process_index, state.num_processes, str(state.device))


def _summed(team: Team, parts: Sequence[Tensor]) -> None:
    """Sums of many tensors, or parts of some, in one message."""
    flat = team.add(torch.cat([_real(part).flatten() for part in parts]))
    for part, total in zip(parts, flat.split([_real(part).numel() for part in parts]), strict=True):
        _real(part).copy_(total.view_as(_real(part)))


def _real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
