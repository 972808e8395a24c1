"""Several processes at one fit: each takes its share of every batch, and all take the same step.

Started by ``torchrun`` or ``accelerate launch``; without either a team is one process, and nothing here
does anything, nor imports PyTorch: verbs that only look at data ask for the team as well.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from phaseloom.errors import BadInput, MissingExtra

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Team", "team"]

T = TypeVar("T")

HASH_MULTIPLIER = 48271
HASH_MODULUS = 2**31 - 1
"""Of a multiplication that scatters the numbers of patterns, so that a batch has some of every process
(the generator of Park and Miller)."""


@dataclass(frozen=True)
class Team:
    """The processes of a fit, with the collective operations of ``torch.distributed`` that it needs.

    Attributes:
        rank: of this process, from zero.
        world_size: number of processes.
        device: where this one computes by default, if there are several.
    """

    rank: int = 0
    world_size: int = 1
    device: str = "cpu"

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def share(self, batch: Any, /, owners: np.ndarray | None = None) -> tuple[Any, float]:
        """The part of a batch that this process computes, and its share of the batch.

        Numbers of patterns belong to the process that owns these patterns (`owns`); anything else is dealt
        out one by one. A process without any gets one item with share zero: all must name the same terms.

        Args:
            batch: numbers of patterns, or anything else that has a length.
            owners: the process of each pattern, where the object is in tiles.

        Example:
            >>> Team(1, 2).share([3, 4, 5]), Team(1, 2).share([3])
            (([4], 0.3333333333333333), ([3], 0.0))
            >>> Team(1, 2).share(np.array([0, 2]), np.array([0, 1, 1]))
            (array([2]), 0.5)
        """
        if self.world_size == 1:
            return batch, 1.0
        import torch

        if isinstance(batch, torch.Tensor | np.ndarray):
            own = batch[self.owns(batch, owners)]
            return (own, len(own) / len(batch)) if len(own) else (0 * batch[:1] + self._spare(owners), 0.0)
        own = batch[self.rank :: self.world_size]
        return (own, len(own) / len(batch)) if len(own) else (batch[:1], 0.0)

    def owns(self, numbers: Any, /, owners: np.ndarray | None = None) -> Any:
        """Whether this process holds the patterns of some numbers (an array).

        Neighbours are spread, unless ``owners`` says otherwise (`share`).

        Example:
            >>> sum(Team(rank, 3).owns(np.arange(7)).astype(int) for rank in range(3)).tolist()
            [1, 1, 1, 1, 1, 1, 1]
        """
        if owners is None:
            return (numbers * HASH_MULTIPLIER % HASH_MODULUS) % self.world_size == self.rank
        if not isinstance(numbers, np.ndarray):
            import torch

            return torch.as_tensor(owners[numbers.cpu().numpy()] == self.rank, device=numbers.device)
        return owners[numbers] == self.rank

    def _spare(self, owners: np.ndarray | None) -> int:
        """A pattern of this process."""
        if owners is not None:
            return int(np.flatnonzero(owners == self.rank)[0])
        return next(number for number in range(HASH_MODULUS) if self.owns(np.array(number)))

    def all_reduce(self, numbers: Tensor, /) -> Tensor:
        """Sum over all processes, in place; the same bits in each."""
        if self.world_size > 1:
            import torch

            torch.distributed.all_reduce(numbers)
        return numbers

    def all_reduce_max(self, number: Tensor, /) -> Tensor:
        """The largest of all processes, in place."""
        if self.world_size > 1:
            import torch

            torch.distributed.all_reduce(number, torch.distributed.ReduceOp.MAX)
        return number

    def all_reduce_gradients(self, parameters: Sequence[Tensor], /) -> None:
        """Sum gradients over all processes; one that some process has, all have afterwards.

        A gradient with known boxes (``touched``) is summed only there; all processes have the same boxes.
        That of a parameter in tiles is summed in the core of each process.
        """
        parameters = parameters if self.world_size == 1 else _add_halos(parameters)
        if self.world_size == 1 or not parameters:
            return
        import torch

        from phaseloom.physics.patches import merge_boxes

        known = [each for each in parameters if each.grad is not None and getattr(each, "touched", None)]
        for parameter in known:
            boxes = merge_boxes(parameter.touched, parameter.shape[-2:])  # pyright: ignore
            _all_reduce_parts(self, [parameter.grad[..., a:b, c:d] for a, b, c, d in boxes])  # pyright: ignore
        parameters = [each for each in parameters if not any(each is one for one in known)]
        there = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
        moved = [p for p, number in zip(parameters, self.all_reduce(there).tolist(), strict=True) if number]
        for parameter in moved:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for dtype in dict.fromkeys(parameter.dtype for parameter in moved):
            _all_reduce_parts(self, [p.grad for p in moved if p.dtype == dtype and p.grad is not None])

    def broadcast_parameters(self, net: nn.Module, /) -> None:
        """Copy parameters and buffers of the main process to all others, but for those in tiles."""
        if self.world_size > 1:
            import torch

            from phaseloom.fitting.tiles import find_tile

            own = {name for name, parameter in net.named_parameters() if find_tile(parameter) is not None}
            for name, tensor in net.state_dict().items():
                if name not in own:
                    torch.distributed.broadcast(tensor, 0)

    def convert_sync_batchnorm(self, net: nn.Module, /) -> nn.Module:
        """A network that normalises over the batches of all processes together.

        Raises:
            BadInput: see `phaseloom.fitting.sync_batchnorm.convert_sync_batchnorm`.
        """
        if self.world_size == 1:
            return net
        from phaseloom.fitting.sync_batchnorm import convert_sync_batchnorm

        return convert_sync_batchnorm(net, self.rank, self.world_size)

    def require_single_process(self, what: str, /) -> None:
        """Refuse to run in one of several processes.

        Raises:
            BadInput: several processes.
        """
        if self.world_size > 1:
            fix = "cannot share this yet: start it without torchrun"
            raise BadInput(what, f"{self.world_size} processes", fix)

    def broadcast(self, value: T, /) -> T:
        """The value that the main process has."""
        if self.world_size == 1:
            return value
        import torch

        values = [value]
        torch.distributed.broadcast_object_list(values, 0)
        return values[0]

    def compute_on_main(self, make: Callable[[], T], /) -> T:
        """A value that the main process computes as if it were alone, while the others wait for it.

        It has the same bits for any number of processes.

        Raises:
            BadInput: in all processes, if it is raised in the main one.

        Example:
            >>> Team().compute_on_main(lambda: team().world_size)
            1
        """
        if self.world_size == 1:
            return make()
        found: tuple[T | None, BadInput | None] = (None, None)
        if self.is_main:
            _alone.append(Team(device=self.device))
            try:
                found = make(), None
            except BadInput as raised:
                found = None, raised
            finally:
                _alone.pop()
        value, problem = self.broadcast(found)
        if problem is not None:
            raise problem
        return cast(T, value)

    def map_gather(self, make: Callable[[int], T], numbers: Sequence[int], /) -> list[T]:
        """Map a function over numbers, distributed over processes; every process gets all results.

        Example:
            >>> Team().map_gather(lambda number: number**2, [3, 4])
            [9, 16]
        """
        own = {number: make(number) for number in numbers[self.rank :: self.world_size]}
        made = [own] * self.world_size
        if self.world_size > 1:
            import torch

            torch.distributed.all_gather_object(made, own)
        known = {number: one for some in made for number, one in some.items()}
        return [known[number] for number in numbers]

    def barrier(self) -> None:
        """Wait until all processes are here."""
        if self.world_size > 1:
            import torch

            torch.distributed.barrier()


_alone: list[Team] = []
"""The team that the main process is while it computes something by itself."""


def team() -> Team:
    """The processes that were started together by ``torchrun`` or ``accelerate launch``.

    Raises:
        BadInput: ``WORLD_SIZE`` in the environment is not a number.
        MissingExtra: several processes, without the package that connects them.
    """
    return _alone[-1] if _alone else find_team()


@cache
def find_team() -> Team:
    """See `team`."""
    world_size = os.environ.get("WORLD_SIZE", "1")
    if not world_size.isdigit():
        raise BadInput("WORLD_SIZE", world_size, "is not a number of processes: start them with torchrun")
    if int(world_size) < 2:
        return Team()
    try:
        from accelerate import PartialState
    except ImportError:
        raise MissingExtra("several processes", "accelerate", "cluster") from None
    import torch

    state = PartialState(cpu=not torch.cuda.is_available())
    # else threads of the group are still there when Python ends, which aborts the process now and then
    atexit.register(state.destroy_process_group)
    return Team(state.process_index, state.num_processes, str(state.device))


def _add_halos(parameters: Sequence[Tensor]) -> list[Tensor]:
    """Sum the gradients of parameters in tiles, and return the others."""
    from phaseloom.fitting.tiles import find_tile

    for parameter in parameters:
        if (tile := find_tile(parameter)) is not None and parameter.grad is not None:
            tile.tiling.add_halos(parameter.grad, tile.changed)
    return [each for each in parameters if find_tile(each) is None]


def _all_reduce_parts(team: Team, parts: Sequence[Tensor]) -> None:
    """Sums of many tensors, or parts of some, in one message."""
    import torch

    from phaseloom.fitting.tiles import as_real

    flat = team.all_reduce(torch.cat([as_real(part).flatten() for part in parts]))
    for part, total in zip(parts, flat.split([as_real(part).numel() for part in parts]), strict=True):
        as_real(part).copy_(total.view_as(as_real(part)))
