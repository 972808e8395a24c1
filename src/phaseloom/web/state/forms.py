"""Forms of parameter files, made from the signatures that read them: the same schema, help and units."""

from __future__ import annotations

import copy
import inspect
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic_core import PydanticUndefined

from phaseloom.cli.describe import RECIPE_HOMES, describe_attribute, recipe_of
from phaseloom.documents import parse_yaml, require_names, to_yaml
from phaseloom.errors import BadInput
from phaseloom.spec import Recipe, dimension_of, function_of, knobs, modules_of_calls, names, show_value
from phaseloom.units import Dimension

__all__ = ["VERBS_WITH_FORMS", "FormField", "FormSection", "find_paths", "get_value", "list_knobs"]
__all__ += ["list_sections", "parse_form", "set_value", "show_tree"]

VERBS_WITH_FORMS = tuple(RECIPE_HOMES)

HIDDEN = frozenset({"found", "changes", "steered"})
"""Sections that a run writes, not its user."""

MAX_FORM_BYTES = 100_000


@dataclass(frozen=True)
class FormField:
    """A value that is typed in.

    Attributes:
        name: of the setting or the knob.
        kind: ``boolean``, ``choice`` or ``text`` (anything that YAML can say).
        default: as a parameter file has it; ``None`` where nothing is said.
        required: whether it has to be given.
        unit: units that a number may have, by commas; empty: none.
        range: in words: ``1 or more``; empty: any.
        help: what it is.
        choices: of a choice.
    """

    name: str
    kind: Literal["boolean", "choice", "text"]
    default: Any
    required: bool = False
    unit: str = ""
    range: str = ""
    help: str = ""
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class FormSection:
    """A section of a parameter file.

    Attributes:
        name: of the section.
        help: what it is.
        field: of a plain value; ``None``: a call.
        room: of a call, whose function is chosen by name.
        many: whether there is a list of calls.
        choices: names of the functions.
        default: name of the usual one; empty: none.
    """

    name: str
    help: str
    field: FormField | None = None
    room: str = ""
    many: bool = False
    choices: tuple[str, ...] = ()
    default: str = ""


def list_sections(verb: str, /) -> list[FormSection]:
    """The sections of the file of a verb.

    Raises:
        BadInput: no such verb, or its extra is not installed.

    Example:
        >>> [one.name for one in list_sections("reconstruct")][:3]
        ['file', 'read', 'prepare']
    """
    try:
        recipe = recipe_of(verb)
    except ImportError as problem:
        raise BadInput("form", verb, f"needs an extra that is not installed: {problem}") from problem
    calls = modules_of_calls(recipe)
    return [
        _section_of_call(recipe, name, calls[name]) if name in calls else _plain_section(recipe, name)
        for name in recipe.model_fields
        if name not in HIDDEN
    ]


def list_knobs(room: str, name: str, /) -> list[FormField]:
    """The knobs of a choice.

    Example:
        >>> [one.name for one in list_knobs("phaseloom.ptycho.noise", "poisson")]
        ['floor', 'limit']
    """
    text = inspect.getdoc(function_of(room, name)) or ""
    found = []
    for key, knob in knobs(room, name).items():
        required = knob.default is knob.empty
        default = None if required else show_value(knob.default, knob.annotation)
        found.append(_field(key, knob.annotation, default, required=required, help=_help_of_knob(text, key)))
    return found


def _section_of_call(recipe: type[Recipe], name: str, room: str) -> FormSection:
    info = recipe.model_fields[name]
    default = info.default
    many = typing.get_origin(info.annotation) is tuple
    usual = default if isinstance(default, str) else ""
    return FormSection(
        name,
        describe_attribute(recipe, name),
        room=room,
        many=many,
        choices=tuple(names(room)),
        default=usual,
    )


def _plain_section(recipe: type[Recipe], name: str) -> FormSection:
    info = recipe.model_fields[name]
    default = info.default_factory() if info.default_factory else info.default  # type: ignore[call-arg]
    required = default is PydanticUndefined
    shown = None if required else default
    kind = typing.get_type_hints(recipe, include_extras=True)[name]
    about = describe_attribute(recipe, name)
    if name == "file":
        shown = None
    field = _field(name, kind, shown, required=required, help=about, metadata=info.metadata)
    return FormSection(name, about, field)


def _field(name: str, kind: Any, default: Any, *, required: bool, help: str, metadata: Any = ()) -> FormField:
    dimension = dimension_of(kind)
    units = ", ".join(_list_units(dimension)) if dimension else ""
    choices = _choices(kind)
    shown = str(default) if isinstance(default, Path) else default
    form: Literal["boolean", "choice", "text"] = "text"
    if kind is bool:
        form = "boolean"
    elif choices:
        form = "choice"
    words = _range_in_words([*metadata, *_metadata(kind)])
    return FormField(name, form, shown, required, units, words, help, choices)


def _list_units(dimension: Dimension) -> list[str]:
    """Units of a dimension, one name of each."""
    first: dict[float, str] = {}
    for unit, size in dimension.scale:
        first.setdefault(size, unit)
    return list(first.values())


def _choices(kind: Any) -> tuple[str, ...]:
    """Values of a literal, also in an alternative of ``None``, which is then left out of the file."""
    if typing.get_origin(kind) is Literal:
        return tuple(str(one) for one in typing.get_args(kind) if isinstance(one, str))
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        inner = [one for one in typing.get_args(kind) if one is not type(None)]
        return _choices(inner[0]) if len(inner) == 1 else ()
    return ()


def _metadata(kind: Any) -> list[Any]:
    return list(getattr(kind, "__metadata__", ()))


def _range_in_words(metadata: list[Any]) -> str:
    texts = {"ge": "{} or more", "gt": "above {}", "le": "{} or less", "lt": "below {}"}
    limits = {name: getattr(one, name, None) for one in metadata for name in texts if hasattr(one, name)}
    known = {name: x for name, x in limits.items() if isinstance(x, int | float) and abs(x) < 2**60}
    if {"ge", "le"} <= set(known):
        return "{ge} to {le}".format(**known)
    return ", ".join(texts[name].format(limit) for name, limit in known.items())


def _help_of_knob(text: str, name: str) -> str:
    """Lines on a knob in the section ``Args`` of a docstring."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        keys, colon, rest = line.strip().partition(": ")
        if colon and name in [word.strip() for word in keys.split(",")]:
            indent = len(line) - len(line.lstrip())
            more = []
            for following in lines[number + 1 :]:
                if not following.strip() or len(following) - len(following.lstrip()) <= indent:
                    break
                more.append(following.strip())
            return " ".join([rest, *more]).replace("``", "")
    return ""


def parse_form(text: str, verb: str, folder: Path, /) -> tuple[dict[str, Any], Recipe]:
    """The tree and the recipe of a parameter file's text; relative paths start from a folder.

    Raises:
        BadInput: not YAML, too long, or refused by the schema.
    """
    if len(text.encode()) > MAX_FORM_BYTES:
        raise BadInput("parameter file", f"{len(text)} characters", f"are too many: {MAX_FORM_BYTES} at most")
    tree = load_tree(text)
    return tree, recipe_of(verb).of(copy.deepcopy(tree)).with_paths_from(folder)


def load_tree(text: str, /) -> dict[str, Any]:
    """The tree of a parameter file's text.

    Raises:
        BadInput: not YAML, or no names with values.
    """
    tree = parse_yaml(text, "parameter file")
    return {} if tree is None else require_names(tree, "parameter file")


def show_tree(tree: Mapping[str, Any], /) -> str:
    """The text of a tree, a section below the other.

    Example:
        >>> print(show_tree({"file": "a.cxi", "rates": {"object": 0.1}}), end="")
        file: a.cxi
        rates: {object: 0.1}
    """
    return "".join(
        yaml.safe_dump({key: value}, allow_unicode=True, width=100, default_flow_style=False)
        if not isinstance(value, Mapping | list)
        else to_yaml({key: value})
        for key, value in tree.items()
    )


def get_value(tree: Mapping[str, Any], *path: str) -> Any:
    """A value of a tree, or ``None``: it does not say.

    Example:
        >>> get_value({"probe": {"focused": {"modes": 4}}}, "probe", "focused", "modes")
        4
    """
    value: Any = tree
    for step in path:
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def set_value(tree: Mapping[str, Any], value: Any, /, *path: str) -> dict[str, Any]:
    """A tree with a value set, or taken out where it is ``None``; empty calls stay as names.

    Example:
        >>> set_value({"probe": "auto"}, "9 nm", "probe", "focused", "defocus")
        {'probe': {'focused': {'defocus': '9 nm'}}}
        >>> set_value({"probe": {"focused": {"modes": 4}}}, None, "probe", "focused", "modes")
        {'probe': 'focused'}
    """
    new = copy.deepcopy(dict(tree))
    if len(path) == 1:
        new.pop(path[0], None) if value is None else new.update({path[0]: value})
        return new
    section, name, knob = path
    node = new.get(section)
    inner = dict(node[name] or {}) if isinstance(node, Mapping) and name in node else {}
    times = (
        {key: node[key] for key in ("start", "stop", "every") if key in node}
        if isinstance(node, Mapping)
        else {}
    )
    inner.pop(knob, None) if value is None else inner.update({knob: value})
    new[section] = {name: inner, **times} if inner or times else name
    return new


def find_paths(value: Any, /) -> list[Path]:
    """All paths of a recipe."""
    if isinstance(value, Path):
        return [value]
    if isinstance(value, Recipe):
        return [path for name in type(value).model_fields for path in find_paths(getattr(value, name))]
    if isinstance(value, Mapping):
        return [path for inner in value.values() for path in find_paths(inner)]
    if isinstance(value, tuple | list):
        return [path for inner in value for path in find_paths(inner)]
    values = getattr(value, "values", None)  # of a call
    return find_paths(dict(values)) if isinstance(values, Mapping) else []
