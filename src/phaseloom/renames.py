"""Names of an earlier version that are still understood, for one version."""

import functools
import inspect
import typing
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from phaseloom.errors import BadInput

__all__ = ["current_knobs", "renamed_attribute", "renamed_knobs", "targets"]

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
