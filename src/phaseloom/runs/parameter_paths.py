"""Values by their paths in a parameter file: what stands there, and the file with another one.

``probe.focused.defocus`` is a knob of a call, ``epochs`` a value of its own. Calls in a list go by their
names or by their numbers from 0: ``penalties.sparse.weight``, ``penalties.0.sparse.weight``; their times
are beside their knobs: ``projections.orthogonal.every``. Elements of a list go by their numbers too:
``propagator.exact.tilt.0``.
"""

from collections.abc import Mapping
from typing import Any

from phaseloom.errors import BadInput
from phaseloom.spec import Call, modules_of_calls

__all__ = ["CALL_TIMES", "find_call", "get_parameter", "set_parameters"]

CALL_TIMES = ("start", "stop", "every")
"""Keys of a node that are not those of a call."""


def find_call(calls: tuple[Call, ...], rest: list[str], place: str, /) -> int:
    """Number of the call of a list that a path leads to: ``["sparse", "weight"]``, ``["0", "sparse"]``.

    Raises:
        BadInput: none, or several of the name.
    """
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


def set_parameters(recipe: Any, settings: Mapping[str, Any], /, *, place: str = "over") -> Any:
    """A recipe with other values at some paths, wholes before their parts.

    Args:
        recipe: of any kind.
        settings: values by their paths.
        place: what asks for it, for messages.

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
            number = find_call(value, rest, f"{place}: {path}")
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
