"""Names of an earlier version that are still understood, for one version."""

import functools
import importlib
import importlib.abc
import importlib.machinery
import inspect
import pkgutil
import sys
import typing
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from phaseloom.errors import BadInput

__all__ = ["current_knobs", "get_renamed", "import_renamed", "renamed_attribute", "renamed_knobs", "targets"]

Rename = str | tuple[str, Callable[[Any], Any]]
"""A knob of today, or one place of it (``betas[1]``); and what turns an old value into one of today."""

F = typing.TypeVar("F", bound=Callable[..., Any])

_OLD_KNOBS: dict[tuple[str, str], Mapping[str, Rename]] = {}
"""By module and name of a function: knobs of an earlier version and what they are today."""


def renamed_knobs(**old: Rename) -> Callable[[F], F]:
    """Let a function take knobs by the names of an earlier version as well, for one version.

    Python code gets a ``DeprecationWarning``; a parameter file is read as if it had the names of today, and a
    line of the log names both. An old name may stand for one place of a tuple, or come with a function that
    turns its value into one of today.

    Args:
        **old: knobs of today by their old names.

    Example:
        >>> @renamed_knobs(decay="rate", steps=("length", float), first="pair[0]")
        ... def shape(*, rate=1.0, length=2.0, pair=(3, 4)):
        ...     return rate, length, pair
        >>> with warnings.catch_warnings(action="ignore"):
        ...     shape(decay=0.5, steps=7, first=9)
        (0.5, 7.0, (9, 4))
    """

    def decorate(function: F) -> F:
        key = (function.__module__, function.__name__)
        _OLD_KNOBS[key] = old

        @functools.wraps(function)
        def with_current_names(*pipeline: Any, **given: Any) -> Any:
            if not old.keys().isdisjoint(given):
                names = ", ".join(f"{name} is now {_target(old[name])}" for name in given if name in old)
                warnings.warn(f"{function.__name__}: {names}", DeprecationWarning, stacklevel=2)
                given = current_knobs(function, given, function.__name__)
            return function(*pipeline, **given)

        return typing.cast(F, with_current_names)

    return decorate


def renamed_attribute(old: str, new: str, /) -> Any:
    """A property under an attribute's name of an earlier version, for one version."""

    def get_current(instance: Any) -> Any:
        kind = type(instance).__name__
        warnings.warn(f"{kind}.{old} is now {kind}.{new}", DeprecationWarning, stacklevel=2)
        return getattr(instance, new)

    return property(get_current)


def get_renamed(module: str, old: Mapping[str, str], /) -> Callable[[str], Any]:
    """The ``__getattr__`` of a module with names of an earlier version, which warns once for each name.

    Args:
        module: its name.
        old: whole names of today by the names of an earlier version.
    """

    def get_current(name: str) -> Any:
        if name not in old:
            raise AttributeError(f"module '{module}' has no attribute '{name}'")
        _warn_of_module(f"{module}.{name}", old[name])
        value = pkgutil.resolve_name(old[name])
        setattr(sys.modules[module], name, value)  # `from module import name` asks twice
        return value

    return get_current


def import_renamed(package: str, old: Mapping[str, str], /) -> None:
    """Let modules of a package be imported by the names of an earlier version; see `get_renamed`."""
    sys.meta_path.append(_RenamedModules({f"{package}.{name}": target for name, target in old.items()}))


class _RenamedModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds modules of today where those of an earlier version are imported."""

    def __init__(self, old: Mapping[str, str]):
        self.old = old

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None, /
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self.old:
            return None
        _warn_of_module(fullname, self.old[fullname])
        return importlib.machinery.ModuleSpec(fullname, self)

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = importlib.import_module(self.old[module.__name__])


def _warn_of_module(old: str, new: str) -> None:
    shown = [name.replace("phaseloom.", "pl.", 1) for name in (old, new)]
    warnings.warn(f"{shown[0]} is now {shown[1]}", DeprecationWarning, stacklevel=3)


def targets(function: Callable[..., Any], /) -> dict[str, str]:
    """Knobs of today by their names of an earlier version; one place of a tuple is ``betas[1]``."""
    old = _OLD_KNOBS.get((function.__module__, function.__name__), {})
    return {name: _target(rename) for name, rename in old.items()}


def current_knobs(function: Callable[..., Any], given: Mapping[str, Any], place: str, /) -> dict[str, Any]:
    """Values by the names that the knobs of a function have today; see `renamed_knobs`.

    Raises:
        BadInput: an old knob with a value of the wrong kind.
    """
    old = _OLD_KNOBS.get((function.__module__, function.__name__), {})
    current = {name: value for name, value in given.items() if name not in old}
    defaults = inspect.signature(function).parameters
    for name in (name for name in given if name in old):
        rename = old[name]
        convert = (lambda value: value) if isinstance(rename, str) else rename[1]
        target, _, item = _target(rename).rstrip("]").partition("[")
        try:
            value = convert(given[name])
            if item:
                places = list(current.get(target, defaults[target].default))
                places[int(item)] = value
                value = tuple(places)
        except (TypeError, ValueError) as problem:
            raise BadInput(f"{place}.{name}", given[name], f"is not a value of {target}") from problem
        current[target] = value
    return current


def _target(rename: Rename) -> str:
    return rename if isinstance(rename, str) else rename[0]
