"""Values that follow from tensors and are computed again only when one of those has changed."""

import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

__all__ = ["TensorCache", "is_constant"]

Value = TypeVar("Value")


def is_constant(*sources: Tensor) -> bool:
    """Whether no gradient is asked of any of the tensors, here and now."""
    return not (torch.is_grad_enabled() and any(source.requires_grad for source in sources))


class TensorCache(Generic[Value]):
    """One value with the tensors it was made from.

    A tensor has changed when it is another one, or was written to in place, or moved to another device or
    precision. Writing through ``tensor.data`` is not noticed, as autograd does not notice it; tensors
    that want gradients without being parameters are therefore never trusted.

    Example:
        >>> kept, source = TensorCache(), torch.tensor([1.0])
        >>> kept.get(lambda: float(source), source), kept.get(lambda: 0.0, source)
        (1.0, 1.0)
        >>> _ = source.add_(1)
        >>> kept.get(lambda: float(source), source)
        2.0
    """

    def __init__(self):
        self.stamps: tuple[Any, ...] = ()
        self.refs: tuple[Any, ...] = ()
        self.value: Value | None = None

    def is_fresh(self, *sources: Tensor) -> bool:
        """Whether the value was made from these tensors as they are now."""
        return (
            self.stamps == tuple(_stamp(source) for source in sources)
            and all(ref() is source for ref, source in zip(self.refs, sources, strict=True))
            and self.value is not None
        )

    def store(self, value: Value, *sources: Tensor) -> Value:
        """Take a value that was made from these tensors."""
        plain = all(isinstance(s, torch.nn.Parameter) or not s.requires_grad for s in sources)
        if plain and not torch.is_inference_mode_enabled():
            self.stamps = tuple(_stamp(source) for source in sources)
            self.refs = tuple(weakref.ref(source) for source in sources)
            self.value = value
        else:
            self.value = None
        return value

    def get(self, make: Callable[[], Value], *sources: Tensor) -> Value:
        """The value, made again without gradients if a source has changed."""
        if self.is_fresh(*sources):
            assert self.value is not None
            return self.value
        with torch.no_grad():
            return self.store(make(), *sources)

    def __deepcopy__(self, memo: dict[int, Any]) -> "TensorCache[Value]":
        """A copy belongs to other tensors and starts empty."""
        return TensorCache()

    def __reduce__(self) -> tuple[type["TensorCache[Value]"], tuple[()]]:
        """A cache is saved empty."""
        return TensorCache, ()


def _stamp(source: Tensor) -> tuple[Any, ...]:
    # every write in place raises a tensor's version, and PyTorch shows it by no public name
    return (source.data_ptr(), source._version, source.dtype, source.device, source.shape)
