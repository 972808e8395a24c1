"""Batch normalisation over a batch that several processes share."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from phaseloom.errors import BadInput

__all__ = ["SharedNorm", "convert_sync_batchnorm", "count_in_statistics"]

_COUNTED: ContextVar[bool] = ContextVar("counted", default=True)


@contextmanager
def count_in_statistics(counts: bool, /) -> Iterator[None]:
    """Say whether what goes through a network is a part of the batch, or there for company only."""
    before = _COUNTED.set(counts)
    try:
        yield
    finally:
        _COUNTED.reset(before)


def convert_sync_batchnorm(net: nn.Module, rank: int, count: int, /) -> nn.Module:
    """The network, its batch norms in place replaced by such as look at the batches of all processes.

    Args:
        net: any.
        rank: of this process.
        count: of processes.

    Raises:
        BadInput: a part that embeds patterns some at a time, whose numbers processes do not agree on.
    """
    for name, part in net.named_modules():
        if getattr(part, "frugal", False) and any(isinstance(one, _BatchNorm) for one in part.modules()):
            fix = "normalises over some patterns at a time, which processes cannot share: write "
            raise BadInput(f"{count} processes: {name}", None, f"{fix}checkpoint: false in the model")
    if isinstance(net, _BatchNorm):
        return SharedNorm(net, rank, count)
    for part in list(net.modules()):
        for name, child in part.named_children():
            if isinstance(child, _BatchNorm):
                setattr(part, name, SharedNorm(child, rank, count))
    return net


class SharedNorm(_BatchNorm):
    """A batch norm whose mean and variance are those of the batches of all processes together.

    In place of the layer whose parameters it takes over, under the same names. Numbers, means and variances
    of all processes go around in one message, and are joined without cancellation, see the source.

    Args:
        norm: layer.
        rank: of this process.
        count: of processes.

    Source: T. F. Chan et al., Am. Stat. 37, 242 (1983), doi:10.1080/00031305.1983.10483115.
    """

    def __init__(self, norm: _BatchNorm, rank: int, count: int):
        knobs = {"eps": norm.eps, "momentum": norm.momentum, "track_running_stats": norm.track_running_stats}
        super().__init__(norm.num_features, affine=norm.affine, **knobs)
        self.weight = norm.weight
        self.bias = norm.bias
        self.running_mean = norm.running_mean
        self.running_var = norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked
        self.rank = rank
        self.count = count
        self.train(norm.training)

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``(b, c, ...)``: by all of the batch while it learns, else by the running means."""
        if not self.training:
            return super().forward(input)
        others = [axis for axis in range(input.ndim) if axis != 1]
        values = input.float()
        number, mean, square = _reduce_moments(values, others, self.rank, self.count)
        self._update_running_stats(number, mean.detach(), square.detach())
        shape = [1, -1] + [1] * (input.ndim - 2)
        out = (values - mean.view(shape)) * torch.rsqrt(square / number + self.eps).view(shape)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(input.dtype)

    @torch.no_grad()
    def _update_running_stats(self, number: Tensor, mean: Tensor, square: Tensor) -> None:
        """Move the running means."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        step = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, step)
        self.running_var.lerp_(square / (number - 1).clamp_min(1), step)


def _reduce_moments(
    values: Tensor, others: list[int], rank: int, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """How many numbers a channel has in all processes, their mean, and the squares about it."""
    number = values.new_tensor(values.numel() / values.shape[1])
    mean = values.mean(others)
    square = (values - mean.view([1, -1] + [1] * (values.ndim - 2))).square().sum(others)
    row = torch.cat([number[None], mean, square]) * float(_COUNTED.get())
    rows = _AllReduceSum.apply(nn.functional.pad(row[None], (0, 0, rank, count - 1 - rank)))
    numbers = rows[:, :1]
    means, squares = rows[:, 1:].chunk(2, 1)
    total = numbers.sum()
    whole = (numbers * means).sum(0) / total
    return total, whole, (squares + numbers * (means - whole).square()).sum(0)


class _AllReduceSum(torch.autograd.Function):
    """Sum over processes; so is its gradient, since the loss is the sum of those of all processes."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        out = rows.clone()
        torch.distributed.all_reduce(out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        out = gradients[0].contiguous().clone()
        torch.distributed.all_reduce(out)
        return out
