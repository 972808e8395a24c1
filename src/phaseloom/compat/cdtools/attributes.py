"""Attributes of CDTools' models in its shapes: squeezed parameters, read-only values, the history."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from phaseloom.compat.cdtools.objectives import named_parts
from phaseloom.errors import BadInput

__all__ = ["FitHistory", "ParameterAlias", "ReadOnly", "SqueezedParameter", "not_available"]


def not_available(name: str, meaning: str) -> Callable[..., Any]:
    """A method that a class does not define, and that says so when it is called.

    Example:
        >>> not_available("loss", "is not written: return a number")(None)
        Traceback (most recent call last):
        phaseloom.errors.BadInput: model.loss: is not written: return a number
    """

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise BadInput(f"model.{name}", None, meaning)

    return fail


@dataclass
class ReadOnly:
    """A value that follows from the model and cannot be set."""

    read: Callable[[Any], Any]
    name: str = ""

    def __set_name__(self, owner: type, name: str) -> None:
        """Take the name of the attribute."""
        self.name = name

    def __get__(self, owner: Any, kind: type | None = None) -> Any:
        """Its value now."""
        return self if owner is None else self.read(owner)

    def __set__(self, owner: Any, value: Any) -> None:
        """Refuse what would have no effect."""
        fix = "cannot be set, for it follows from data and options: make the model anew"
        raise BadInput(f"model.{self.name}", None, fix)


@dataclass
class FitHistory:
    """A list of the model's fit; may be set, as a class does that loads results, or compared with its length.

    Attributes:
        stored: name of the list in the fit.
        parse: from what is set to the list; ``None``: only the length of the list may be set.
        read: from the list to what is read.
    """

    stored: str
    parse: Callable[[Any], list[Any]] | None = None
    read: Callable[[list[Any]], Any] = lambda values: values

    def __get__(self, owner: Any, kind: type | None = None) -> Any:
        """Its value now."""
        return self if owner is None else self.read(getattr(owner.fit, self.stored))

    def __set__(self, owner: Any, value: Any) -> None:
        """Replace it."""
        values = getattr(owner.fit, self.stored)
        if self.parse is not None:
            values[:] = self.parse(value)
        elif int(value) != len(values):
            fix = f"but there are {len(values)} losses: set loss_history first"
            raise BadInput("model.epoch", int(value), fix)


class SqueezedParameter(Tensor):
    """A parameter without axes of length one: the same numbers, gradient and ``requires_grad``.

    Example:
        >>> parameter = nn.Parameter(torch.ones(1, 1, 2, 2))
        >>> squeezed = SqueezedParameter.of(parameter, (2, 2))
        >>> squeezed.data[0, 0], squeezed.requires_grad = 5.0, False
        >>> float(parameter[0, 0, 0, 0].detach()), parameter.requires_grad
        (5.0, False)
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAssignmentType]
    owner: nn.Parameter

    @classmethod
    def of(cls, parameter: nn.Parameter, shape: tuple[int, ...]) -> "SqueezedParameter":
        """The parameter in a shape of as many numbers."""
        squeezed = parameter.view(shape).as_subclass(cls)
        squeezed.owner = parameter
        return squeezed

    @property
    def requires_grad(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the parameter is free."""
        return self.owner.requires_grad

    @requires_grad.setter
    def requires_grad(self, free: bool) -> None:
        self.owner.requires_grad = free

    def requires_grad_(self, mode: bool = True) -> "SqueezedParameter":
        """Free or freeze the parameter."""
        self.owner.requires_grad_(mode)
        return self

    @property
    def grad(self) -> Tensor | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The parameter's gradient, in this shape."""
        return None if self.owner.grad is None else self.owner.grad.view(self.shape)

    @grad.setter
    def grad(self, value: Tensor | None) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self.owner.grad = None if value is None else value.view(self.owner.shape)

    @property
    def data(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The numbers, which may be written to."""
        return self.owner.detach().view(self.shape)

    @data.setter
    def data(self, value: Any) -> None:
        self.data.copy_(torch.as_tensor(value))


@dataclass
class ParameterAlias:
    """A parameter of a built-in model by CDTools' name; setting it copies values into it.

    Attributes:
        squeeze: axes that are left out where their length is one.
        name: of the attribute.
    """

    squeeze: tuple[int, ...] = ()
    name: str = ""

    def __set_name__(self, owner: type, name: str) -> None:
        """Take the name of the attribute."""
        self.name = name

    def parameter(self, owner: Any) -> nn.Parameter:
        """The parameter itself."""
        named = named_parts(owner.core)
        if self.name not in named:
            raise AttributeError(f"this experiment has no {self.name}")
        return named[self.name][0]

    def __get__(self, owner: Any, kind: type | None = None) -> Any:
        """The parameter, without the axes that are left out."""
        if owner is None:
            return self
        parameter = self.parameter(owner)
        empty = [axis for axis in self.squeeze if parameter.shape[axis] == 1]
        shape = tuple(size for axis, size in enumerate(parameter.shape) if axis not in empty)
        return SqueezedParameter.of(parameter, shape) if empty else parameter

    def __set__(self, owner: Any, value: Any) -> None:
        """Copy values of the same shape, which may lack the first axes of one mode and one slice."""
        parameter = self.parameter(owner)
        new = torch.as_tensor(value)
        shown = tuple(self.__get__(owner).shape)
        given = tuple(new.shape)
        if new.shape == shown:
            new = new.reshape(parameter.shape)
        if new.ndim < parameter.ndim:
            new = new.reshape(*[1] * (parameter.ndim - new.ndim), *new.shape)
        if new.shape != parameter.shape:
            raise BadInput(f"model.{self.name}", given, f"must have the shape {shown}")
        with torch.no_grad():
            parameter.copy_(new)
