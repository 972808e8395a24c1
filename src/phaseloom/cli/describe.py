"""Describe the parameter file from the code that reads it."""

import importlib
import inspect
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

from phaseloom.errors import BadInput, nearest
from phaseloom.reconstruction.recipe import PARTS, Reconstruct
from phaseloom.spec import Recipe, dimension_of, function_of, knobs, names

__all__ = ["RECIPE_HOMES", "VERBS", "describe", "describe_attribute", "find_owner", "recipe_of"]
__all__ += ["refuse_foreign"]

RECIPE_HOMES = {
    "reconstruct": ("phaseloom.reconstruction.recipe", "Reconstruct"),
    "simulate": ("phaseloom.simulation.recipe", "Simulate"),
    "train": ("phaseloom.retrieval.recipe", "Train"),
    "autoencoder": ("phaseloom.embedding.train", "Autoencode"),
    "virtual": ("phaseloom.virtual.recipe", "Virtual"),
    "direct": ("phaseloom.direct.recipe", "Direct"),
    "restorer": ("phaseloom.restoration.train", "Restore"),
    "pairs": ("phaseloom.restoration.pairs.noise2noise", "PairRecipe"),
    "search": ("phaseloom.search.recipe", "Search"),
}
"""Recipes that have a parameter file, by module and class."""


def describe(section: str | None = None, name: str | None = None, /, *, of: str = "reconstruct") -> str:
    """Sections of the file; choices of a section; knobs of a choice.

    Args:
        section: of the file.
        name: of a choice in it.
        of: kind of file: ``reconstruct``, ``simulate``, ``train``, ``autoencoder``, ``virtual``,
            ``restorer``, ``pairs``, ``search``.

    Raises:
        BadInput: no such file, section or choice.

    Example:
        >>> print(describe("noise", "poisson").splitlines()[0])
        noise: {poisson: {...}}
    """
    recipe = recipe_of(of)
    fields = recipe.model_fields
    if section is None:
        return _sections(recipe)
    if section not in fields:
        others = [one for one in RECIPE_HOMES if one != of and section in recipe_of(one).model_fields]
        way = (
            f"it belongs to another file: add --of {' or '.join(others)}"
            if others
            else nearest(section, fields)
        )
        raise BadInput("describe", section, f"is not a section: {way}")
    room = (fields[section].json_schema_extra or {}).get("room")  # type: ignore[union-attr]
    if not room and name is not None:
        raise BadInput(f"describe {section}", name, f"is not a choice: {section} is a plain value")
    if not room:
        parts = f"\nparts: {', '.join(PARTS)}\n{_RATE}" if section == "rates" else ""
        return (
            f"{section}: {_default(_start(fields[section]))}\n\n{describe_attribute(recipe, section)}{parts}"
        )
    if name is None:
        room = str(room)
        lines = [f"{choice:20s} {_first(room, choice)}" for choice in names(room)]
        return f"{section}: one of\n" + "\n".join("  " + line for line in lines)
    return _choice(section, str(room), name)


_RATE = "each a number, or {rate: 0.2, start: 3, stop: 15, shape: {...}} with a shape as in `describe shape`"


VERBS = {
    "simulate": "simulate {file} --out FOLDER",
    "train": "train {stage} {file}",
    "autoencoder": "train autoencoder {file}",
    "restorer": "train restorer {file}",
    "pairs": "restore pairs {file}",
    "search": "search RUN.yaml {file}",
    "direct": "direct {file}",
    "virtual": "virtual {file}",
}
"""The words of the command line that run a parameter file which is not of a reconstruction."""


def find_owner(tree: Mapping[str, Any], /) -> tuple[str, type[Recipe]] | None:
    """Whose parameter file it is that a reconstruction does not know, and its class; ``None``: nobody's.

    Example:
        >>> find_owner({"specimen": "prototypes", "count": 3})[0]
        'simulate'
    """
    names = set(tree) - {"version"}
    if names <= set(Reconstruct.model_fields):
        return None
    for kind in VERBS:
        try:
            recipe = recipe_of(kind)
        except (ImportError, BadInput):  # of a system whose extra is not installed
            continue
        if names <= set(recipe.model_fields):
            return kind, recipe
    return None


def refuse_foreign(tree: Mapping[str, Any], file: Path, /) -> None:
    """Refuse the parameter file of another verb with the words that run it.

    Raises:
        BadInput: it is of another verb.
    """
    owner = find_owner(tree)
    if owner is not None:
        words = VERBS[owner[0]].format(file=file, stage=tree.get("stage", "STAGE"))
        fix = f"is a parameter file of another verb: phaseloom {words}"
        raise BadInput(str(file), None, fix)


def recipe_of(of: str, /) -> type[Recipe]:
    """The recipe of a kind of parameter file.

    Raises:
        BadInput: no such kind.
    """
    if of not in RECIPE_HOMES:
        raise BadInput("describe --of", of, f"is not a kind of parameter file: {nearest(of, RECIPE_HOMES)}")
    room, name = RECIPE_HOMES[of]
    return getattr(importlib.import_module(room), name)


def _sections(recipe: type[Recipe]) -> str:
    lines = []
    needed = [key for key, info in recipe.model_fields.items() if info.is_required()]
    for key, info in recipe.model_fields.items():
        if key != "found":
            lines.append(f"  {key:12s} {_default(_start(info)):28s} {describe_attribute(recipe, key)}")
    but = "file" if recipe is Reconstruct else ", ".join(needed)
    optional = f"all optional but {but}" if but else "all optional"
    return f"A parameter file (YAML) has these sections, {optional}:\n" + "\n".join(lines)


def _choice(section: str, room: str, name: str) -> str:
    if name not in names(room):
        raise BadInput(f"describe {section}", name, f"is not a choice: {nearest(name, names(room))}")
    lines = [
        f"{section}: {{{name}: {{...}}}}",
        "",
        inspect.getdoc(function_of(room, name)) or "",
        "",
        "knobs:",
    ]
    for key, knob in knobs(room, name).items():
        default = "required" if knob.default is knob.empty else f"default {_default(knob.default)}"
        dimension = dimension_of(knob.annotation)
        unit = f", {dimension.name} with a unit" if dimension else ""
        lines.append(f"  {key:20s} {default}{unit}")
    return "\n".join(lines)


def _first(room: str, name: str) -> str:
    """First line of a choice's docstring; for a plugin that cannot be loaded, the error."""
    try:
        said = (inspect.getdoc(function_of(room, name)) or "(no description)").splitlines()[0]
    except BadInput as problem:
        return str(problem)
    return said.replace("``", "")


def _start(info: Any) -> Any:
    """Default of a field."""
    return info.default_factory() if info.default_factory else info.default


def _default(value: Any) -> str:
    if str(value) == "PydanticUndefined":
        return "(required)"
    return str(value) or "''" if isinstance(value, str | Path) else repr(value)


def describe_attribute(recipe: type[Recipe], key: str, /) -> str:
    """Description of a field in the docstring of its recipe, or of one that it extends."""
    lines = [line for kind in recipe.__mro__ for line in inspect.cleandoc(kind.__doc__ or "").splitlines()]
    for number, line in enumerate(lines):
        keys, colon, text = line.strip().partition(": ")
        if colon and key in [word.strip() for word in keys.split(",")]:
            deeper = " " * (len(line) - len(line.lstrip()) + 1)
            return " ".join([text, *_indent(lines[number + 1 :], deeper)])
    return ""


def _indent(lines: list[str], deeper: str) -> list[str]:
    """The lines up to the first one that is indented less."""
    return [line.strip() for line in takewhile(lambda line: line.startswith(deeper), lines)]
