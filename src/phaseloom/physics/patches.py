"""Windows of an object: cut out and put back, an adjoint pair that autograd knows as such."""

from typing import Any

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

__all__ = ["gather", "scatter"]


class _Gather(torch.autograd.Function):
    """Cut windows; its derivative puts them back."""

    @staticmethod
    def forward(field: Tensor, corner: Tensor, shape: tuple[int, int]) -> Tensor:
        """Copy window by window: on a CPU quicker than an index of every pixel."""
        height, width = shape
        places = corner.tolist()
        return torch.stack([field[..., y : y + height, x : x + width] for y, x in places])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, tuple[int, int]], output: Tensor) -> None:
        """Apart from ``forward``, as `torch.func` wants it."""
        field, corner, _ = inputs
        ctx.save_for_backward(corner)
        ctx.shape = (field.shape[-2], field.shape[-1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """The adjoint."""
        return scatter(grads[0], ctx.saved_tensors[0], ctx.shape), None, None


class _Scatter(torch.autograd.Function):
    """Add windows into a field; its derivative cuts them out."""

    @staticmethod
    def forward(windows: Tensor, corner: Tensor, shape: tuple[int, int]) -> Tensor:
        """Add window by window, in order, so that the sum is the same every time."""
        height, width = windows.shape[-2:]
        field = windows.new_zeros(*windows.shape[1:-2], *shape)
        for window, (y, x) in zip(windows, corner.tolist(), strict=True):
            field[..., y : y + height, x : x + width] += window
        return field

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, tuple[int, int]], output: Tensor) -> None:
        """Apart from ``forward``, as `torch.func` wants it."""
        windows, corner, _ = inputs
        ctx.save_for_backward(corner)
        ctx.window = (windows.shape[-2], windows.shape[-1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """The adjoint."""
        return gather(grads[0], ctx.saved_tensors[0], ctx.window), None, None


def gather(
    field: Shaped[Tensor, "*slice y x"], corner: Int[Tensor, "b 2"], shape: tuple[int, int], /
) -> Shaped[Tensor, "b *slice v u"]:
    """Windows of a ``shape`` with top-left pixels ``corner`` (y, x); all must lie inside the field.

    Example:
        >>> field = torch.arange(16.0).reshape(1, 4, 4)
        >>> gather(field, torch.tensor([[1, 2]]), (2, 2))[0, 0].tolist()
        [[6.0, 7.0], [10.0, 11.0]]
    """
    return _Gather.apply(field, corner, shape)  # type: ignore[no-any-return]


def scatter(
    windows: Shaped[Tensor, "b *slice v u"], corner: Int[Tensor, "b 2"], shape: tuple[int, int], /
) -> Shaped[Tensor, "*slice y x"]:
    """Adjoint of `gather`: a field of ``shape`` into which the windows are added."""
    return _Scatter.apply(windows, corner, shape)  # type: ignore[no-any-return]
