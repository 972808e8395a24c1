"""Knobs by their paths in the file: what is there, what kind of value, and the file with another one.

``probe.focused.defocus`` is a knob of a call, ``epochs`` a value of its own. Calls in a list go by their
names or by their numbers from 0: ``penalties.sparse.weight``, ``penalties.0.sparse.weight``; their times
are beside their knobs: ``projections.orthogonal.every``. Elements of a list go by their numbers too:
``propagator.exact.tilt.0``.
"""

import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from phaseloom.errors import BadInput, nearest
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

__all__ = ["ParameterKind", "find_parameter", "get_parameter", "set_parameters"]

CALL_TIMES = ("start", "stop", "every")


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
            number = _find_call(value, rest, place)
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
        fix = f"asks for {name}, but the run file {stands}: write {name} there, or search that choice too"
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


def _find_call(calls: tuple[Call, ...], rest: list[str], place: str) -> int:
    """Which call of a list is meant."""
    found = [number for number, one in enumerate(calls) if one.name == rest[0]]
    if rest[0].isdigit() and int(rest[0]) < len(calls) and len(rest) > 1:
        return int(rest[0])
    if len(found) == 1:
        return found[0]
    there = ", ".join(one.name for one in calls) or "none"
    fix = (
        f"is there {len(found)} times: give its number, from 0" if found else f"is not there: it has {there}"
    )
    raise BadInput(place, rest[0], fix)


def set_parameters(recipe: Any, settings: Mapping[str, Any], /) -> Any:
    """A recipe with other values at some paths, wholes before their parts.

    Raises:
        BadInput: as of `phaseloom.spec.Recipe.with_settings`.

    Example:
        >>> from phaseloom.reconstruction.recipe import Reconstruct
        >>> base = Reconstruct.of({"file": "a.h5", "penalties": [{"sparse": {"weight": 0.1}}]})
        >>> set_parameters(base, {"penalties.sparse.weight": 0.2}).penalties[0].values
        {'weight': 0.2}
    """
    for path in sorted(settings, key=lambda one: one.count(".")):
        first, *rest = path.split(".")
        value = getattr(recipe, first, None)
        if isinstance(value, tuple) and rest and first in modules_of_calls(type(recipe)):
            number = _find_call(value, rest, f"over: {path}")
            listed = (
                recipe.to_tree()[first] if first in recipe.model_fields_set else recipe.to_full_tree()[first]
            )
            changed = [
                *listed[:number],
                _change_call(listed[number], path, settings[path]),
                *listed[number + 1 :],
            ]
            recipe = recipe.with_settings({first: changed})
        else:
            recipe = recipe.with_settings(_make_setting(recipe, path, settings[path]))
    return recipe


def _make_setting(recipe: Any, path: str, value: Any) -> dict[str, Any]:
    """The setting of a path; a list is set whole, with another element where the path leads to one."""
    above, _, number = path.rpartition(".")
    listed = get_parameter(recipe.to_full_tree(), above) if number.isdigit() else None
    return {above: _replace_item(listed, number, value)} if isinstance(listed, list) else {path: value}


def _replace_item(listed: list[Any], number: str, value: Any) -> list[Any]:
    """A list with another element."""
    if int(number) >= len(listed):
        raise BadInput("over", number, f"is not in a list of {len(listed)}: count from 0")
    return [*listed[: int(number)], value, *listed[int(number) + 1 :]]


def _change_call(node: Any, path: str, value: Any) -> dict[str, Any]:
    """A call of a list with another value in it."""
    rest = path.split(".")[1:]
    name, *deeper = rest[rest[0].isdigit() :]
    tree: dict[str, Any] = {node: {}} if isinstance(node, str) else dict(node)
    if not deeper:
        return {**tree, name: value}
    call: Any = next(iter(knob for key, knob in tree.items() if key == name))
    if len(deeper) == 1 and deeper[0] in CALL_TIMES and deeper[0] not in (call or {}):
        return {**tree, deeper[0]: value}
    values = dict(call or {})
    if len(deeper) > 1 and isinstance(values.get(deeper[0]), list):
        value = _replace_item(values[deeper[0]], deeper[1], value)
    elif len(deeper) > 1:
        value = {**(values.get(deeper[0]) or {}), deeper[1]: value}
    return {**tree, name: {**values, deeper[0]: value}}


def get_parameter(tree: Any, path: str, /) -> Any:
    """What stands at a path of the tree of a file; ``None`` where it leads nowhere.

    Example:
        >>> get_parameter({"penalties": [{"sparse": {"weight": 0.1}}]}, "penalties.sparse.weight")
        0.1
    """
    above: Any = None
    for step in path.split("."):
        if isinstance(tree, list):
            named = (one for one in tree if one == step or (isinstance(one, dict) and step in one))
            tree = tree[int(step)] if step.isdigit() and int(step) < len(tree) else next(named, None)
            if step.isdigit():
                continue
        beside = step in CALL_TIMES and isinstance(tree, dict) and step not in tree
        inner = _step_into(above if beside else tree, step)
        above = tree
        tree = inner
    return tree


def _step_into(tree: Any, step: str) -> Any:
    if isinstance(tree, dict):
        return tree.get(step)
    return tree if tree == step else None
