"""What kind of value is at a path of a parameter file (paths: `phaseloom.runs.parameter_paths`)."""

import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from phaseloom.errors import BadInput, nearest
from phaseloom.runs.parameter_paths import CALL_TIMES, find_call
from phaseloom.spec import (
    Call,
    Recipe,
    alternatives_table,
    dimension_of,
    knobs,
    modules_of_calls,
    names,
    old_knobs,
)
from phaseloom.units import Dimension

__all__ = ["ParameterKind", "find_parameter"]


@dataclass(frozen=True)
class ParameterKind:
    """What a knob holds.

    Attributes:
        numeric: whether numbers can stand there.
        whole: whether only whole ones; ``None``: unknown.
        dimension: of the numbers, or ``None``.
    """

    numeric: bool = True
    whole: bool | None = None
    dimension: Dimension | None = None

    @classmethod
    def of(cls, annotation: Any, /) -> "ParameterKind":
        """That of a type.

        Example:
            >>> ParameterKind.of(int | None)
            ParameterKind(numeric=True, whole=True, dimension=None)
        """
        if annotation is Any:
            return cls()
        dimension = dimension_of(annotation)
        inner = _flatten_union(annotation)
        if dimension is not None or float in inner:
            return cls(True, False, dimension)
        return cls(int in inner, int in inner, None)


def _flatten_union(annotation: Any) -> set[Any]:
    """The types of a union."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return set().union(*(_flatten_union(one) for one in typing.get_args(annotation)))
    if typing.get_origin(annotation) is typing.Annotated:
        return _flatten_union(typing.get_args(annotation)[0])
    return {annotation}


def find_parameter(recipe: Recipe, path: str, /) -> ParameterKind:
    """What is at a path of a recipe's file.

    Raises:
        BadInput: nothing, with the nearest name.

    Example:
        >>> from phaseloom.reconstruction.recipe import Reconstruct
        >>> base = Reconstruct.of({"file": "a.h5", "probe": {"focused": {"semiangle": "20 mrad"}}})
        >>> find_parameter(base, "probe.focused.defocus").dimension.name
        'length'
        >>> find_parameter(base, "probe.focused.defokus")
        Traceback (most recent call last):
        phaseloom.errors.BadInput: over: probe.focused.defokus: there is no 'defokus'; did you mean 'defocus'?
    """
    first, *rest = path.split(".")
    place = f"over: {path}"
    fields = type(recipe).model_fields
    _check_name(first, [name for name in fields if name != "found"], place)
    if first in modules_of_calls(type(recipe)):
        value = getattr(recipe, first)
        if isinstance(value, tuple) and rest:
            number = find_call(value, rest, place)
            return _find_in_call(value[number], rest[rest[0].isdigit() :], place)
        if rest:
            return _find_in_call(value, rest, place, modules_of_calls(type(recipe))[first])
        return ParameterKind(False)
    annotation = fields[first].annotation
    if rest and first == "rates":
        from phaseloom.reconstruction.recipe import PARTS

        _check_name(rest[0], PARTS, place)
    if not rest:
        return ParameterKind.of(annotation)
    if typing.get_origin(annotation) in (dict, Mapping) or _mapping(annotation):
        inner = typing.get_args(annotation)[1]
        return ParameterKind.of(inner if len(rest) == 1 else Any)
    raise BadInput(place, None, f"leads nowhere: {first} is a plain value")


def _mapping(annotation: Any) -> bool:
    origin = typing.get_origin(annotation)
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _find_in_call(value: Any, rest: list[str], place: str, room: str = "") -> ParameterKind:
    """What is in a call: its name, a knob of it, or what that holds."""
    there = value.name if isinstance(value, Call) else None
    room = value.room if isinstance(value, Call) else room
    name, *deeper = rest
    _check_name(name, names(room), place)
    if name != there:
        stands = "names none" if there is None else f"has {there}"
        needs = [key for key, knob in knobs(room, name).items() if knob.default is knob.empty]
        more = f" with {' and '.join(needs)}" if needs else ""
        fix = (
            f"asks for {name}, but the run file {stands}: write {name}{more} there, or search that choice too"
        )
        raise BadInput(place, None, fix)
    if not deeper:
        return ParameterKind(False)
    wanted = knobs(room, name)
    if deeper[0] in CALL_TIMES and deeper[0] not in wanted:
        return ParameterKind(True, True)
    old, _, item = old_knobs(room, name).get(deeper[0], "").rstrip("]").partition("[")
    if old:
        deeper = [old, item] if item else [old]
    _check_name(deeper[0], wanted, place)
    annotation = wanted[deeper[0]].annotation
    if len(deeper) == 1:
        return ParameterKind.of(annotation)
    table = alternatives_table(annotation)
    if table:
        return ParameterKind(True, False, table.of(deeper[1]))
    return ParameterKind(dimension=dimension_of(annotation))


def _check_name(name: str, there: Any, place: str) -> None:
    if name not in there:
        raise BadInput(place, f"there is no '{name}';", nearest(name, there))
