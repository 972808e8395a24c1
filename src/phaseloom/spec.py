"""A parameter file is a list of calls: text with units in, typed calls out. The only reflection here.

A node names a function of a room and the values of its keyword-only parameters:
``probe: {focused: {semiangle: 24.9 mrad, modes: 4}}``, or just ``probe: auto``. Positional-only
parameters come from the pipeline. So a signature is the schema, the help and the form.
"""

import functools
import importlib
import inspect
import logging
import types
import typing
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from phaseloom import plugins
from phaseloom.documents import load_yaml, to_yaml
from phaseloom.errors import BadInput, nearest
from phaseloom.findings import describe_error
from phaseloom.renames import current_knobs, renamed_attribute, targets
from phaseloom.units import Coefficients, Dimension

__all__ = [
    "Call",
    "Recipe",
    "call",
    "knobs",
    "load_yaml",
    "names",
    "old_knobs",
    "part",
    "show_value",
    "to_yaml",
]

log = logging.getLogger(__name__)

FILE_VERSION = 2
"""Version of parameter files that this package writes as ``version:``. Files without one are read as of
version 1, whose knobs may have other names (`phaseloom.renames`)."""


MAX_CALLS = 100
"""Entries of a list of calls: each step that reads on demand wraps the one before."""


@dataclass(frozen=True)
class Call:
    """A function of a room with values for its knobs: ready to be called with pipeline values.

    ``when`` holds ``start``, ``stop`` and ``every`` where the loop decides when to call it.
    """

    room: str
    name: str
    values: Mapping[str, Any] = field(default_factory=dict)
    when: Mapping[str, int] = field(default_factory=dict)

    def __call__(self, *pipeline: Any) -> Any:
        """Call the function with as many values from the pipeline as it asks for."""
        function = function_of(self.room, self.name)
        named = plugins.name_errors_of(self.room, self.name, function)
        return named(*pipeline[: _count_pipeline_values(function)], **self.values)

    def partial(self) -> Callable[..., Any]:
        """The function with its knobs set, hashable."""
        function = plugins.name_errors_of(self.room, self.name, function_of(self.room, self.name))
        return functools.partial(function, **self.values)

    def with_paths_from(self, folder: Path, /) -> "Call":
        """The call with its relative paths taken from a folder, where they lead to something there."""
        kinds = {name: knob.annotation for name, knob in knobs(self.room, self.name).items()}
        paths = {name for name, kind in kinds.items() if kind is Path or Path in typing.get_args(kind)}
        found = {name: (folder / self.values[name]).resolve() for name in paths if self.values.get(name)}
        there = {name: path for name, path in found.items() if path.exists()}
        return replace(self, values={**self.values, **there})

    def to_full_tree(self) -> dict[str, Any]:
        """The node as a file would have it, with every default written out and units restored."""
        wanted = knobs(self.room, self.name).items()
        given = {name: knob.default for name, knob in wanted if knob.default is not knob.empty}
        given |= dict(self.values)
        kinds = {name: knob.annotation for name, knob in knobs(self.room, self.name).items()}
        return {self.name: {name: show_value(value, kinds[name]) for name, value in given.items()}} | dict(
            self.when
        )

    def to_tree(self) -> dict[str, Any]:
        """The node as a file would have it, defaults left out."""
        kinds = {name: knob.annotation for name, knob in knobs(self.room, self.name).items()}
        given = {name: show_value(value, kinds[name]) for name, value in self.values.items()}
        return {self.name: given} | dict(self.when)


def part(room: str, /, default: Any = PydanticUndefined, *, partial: bool = False) -> Any:
    """A field of a recipe that holds a call (or, with a tuple type, several) of a room.

    A ``partial`` one may leave required knobs out: they come from somewhere else (a side-car).
    """
    return Field(default=default, json_schema_extra={"room": room, "partial": partial}, validate_default=True)


def names(room: str, /) -> list[str]:
    """What can be called in a room: its own functions, then those of plugins (`phaseloom.plugins`)."""
    own = _own(room)
    return [*own, *(name for name in plugins.names(room) if name not in own)]


def knobs(room: str, name: str, /) -> dict[str, inspect.Parameter]:
    """Keyword-only parameters of a function of a room, annotations resolved."""
    function = function_of(room, name)
    hints = typing.get_type_hints(function, include_extras=True)
    parameters = inspect.signature(function).parameters.values()
    keyword = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    return {p.name: p.replace(annotation=hints.get(p.name, Any)) for p in keyword}


def old_knobs(room: str, name: str, /) -> dict[str, str]:
    """Knobs of a function by their names of an earlier version; one place of a tuple is ``betas[1]``."""
    return targets(function_of(room, name))


def _suggest_choice(room: str, name: str, known: list[str]) -> str:
    """The nearest choice, or all; one of a plugin may only lack its package."""
    fix = nearest(name, known)
    is_open = room.removeprefix("phaseloom.") in plugins.ROOMS and fix.startswith("choose")
    return f"{fix}, or install the package that brings it" if is_open else fix


def call(room: str, node: Any, place: str, /, *, partial: bool = False) -> Call:
    """Read a node; a `Call` passes through.

    Raises:
        BadInput: no such function, no such knob, a value of the wrong kind, a knob left out.

    Example:
        >>> call("phaseloom.fitting.optimizers", {"adam": {"eps": 1e-9}}, "optimizer").values
        {'eps': 1e-09}
    """
    if isinstance(node, Call):
        return node
    node, when = _split_times(node, place)
    name, given = _split_node(node, place)
    known = names(room)
    if name not in known:
        raise BadInput(place, f"there is no '{name}';", _suggest_choice(room, name, known))
    wanted = knobs(room, name)
    _require_settings(given, f"{place}: {name}", name, wanted)
    for key, knob in old_knobs(room, name).items():
        if key in given:
            log.warning(
                "%s: %s.%s is now %s: change the file, or have `phaseloom convert` do it",
                place,
                name,
                key,
                knob,
            )
    given = current_knobs(function_of(room, name), given, f"{place}: {name}")
    for key in given:
        if key not in wanted:
            fix = nearest(key, wanted) if wanted else f"{name} takes none"
            raise BadInput(f"{place}: {name}", f"there is no '{key}';", fix)
    missing = [key for key, p in wanted.items() if p.default is p.empty and key not in given]
    if missing and not partial:
        raise BadInput(
            f"{place}: {name}.{missing[0]}",
            None,
            f"is missing: write {missing[0]}: {_hint(wanted[missing[0]])}",
        )
    values = {
        key: _check_value(wanted[key].annotation, value, f"{place}: {name}.{key}")
        for key, value in given.items()
    }
    return Call(room, name, values, when)


def _refuse_unwritable_text(value: Any, place: str = "") -> None:
    """Refuse characters that files cannot hold (NUL, halves of pairs): a result could not be written."""
    if isinstance(value, str):
        if "\0" in value or any("\ud800" <= one <= "\udfff" for one in value):
            shown = value.encode("ascii", "backslashreplace").decode()
            raise BadInput(place, shown, "holds a character that no file can hold: remove it")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _refuse_unwritable_text(item, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list | tuple):
        for item in value:
            _refuse_unwritable_text(item, place)


class Recipe(BaseModel):
    """A protocol and the schema of its file in one: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    @classmethod
    def _suggest_key(cls, key: str) -> str:
        """The place of a key that belongs to a format, or the nearest key."""
        fields = cls.model_fields
        rooms = {name: room for name, room in modules_of_calls(cls).items() if _is_partial(fields[name])}
        for name, room in rooms.items():
            if any(key in knobs(room, one) for one in _own(room)):
                return f"it belongs to the format of the file: write {name}.FORMAT.{key}"
        return nearest(key, fields)

    @model_validator(mode="before")
    @classmethod
    def _read_calls(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            raise BadInput("parameter file", data, "must hold 'name: value' lines")
        _refuse_unwritable_text(data)
        _check_file_version(data.get("version", 1))
        fields = cls.model_fields
        data = {key: value for key, value in data.items() if key != "version"}
        for key in data:
            if key not in fields:
                raise BadInput("parameter file", f"there is no '{key}';", cls._suggest_key(key))
        for key, value in data.items():
            _refuse_truth_value(fields[key].annotation, value, key)
        out = dict(data)
        for key, room in modules_of_calls(cls).items():
            info = fields[key]
            value = out.get(key, info.default)
            if value is None and info.default is not None:
                raise BadInput(key, None, f"is empty: write one of {', '.join(names(room))}, or leave it out")
            if value is not PydanticUndefined:
                many = typing.get_origin(info.annotation) is tuple
                out[key] = _calls(room, value, key, many=many, partial=_is_partial(info))
        return out

    @classmethod
    def of(cls, tree: Any, /) -> typing.Self:
        """A recipe from the tree of a file, with one sentence when something is wrong."""
        try:
            return cls.model_validate(tree)
        except ValidationError as problem:
            raise _sentence(problem, tree) from None

    def to_full_tree(self) -> dict[str, Any]:
        """The tree of a file that repeats this recipe, every default written out.

        Of a ``partial`` part only knobs that were given: they come from a side-car else, which gives way to
        what stands here.
        """
        fields = type(self).model_fields.items()
        return {key: (_given if _is_partial(one) else _tree)(getattr(self, key)) for key, one in fields}

    def with_settings(self, settings: Mapping[str, Any], /) -> typing.Self:
        """A recipe with some values changed, addressed as in the file: ``probe.focused.modes``."""
        tree = self.to_tree()
        for path, value in settings.items():
            _set_path(tree, path.split("."), deepcopy(value), path, modules_of_calls(type(self)))
        return type(self).of(tree)

    def with_given_settings(self, settings: Mapping[str, Any] | None, /) -> typing.Self:
        """The same from a command line: relative paths among the settings start from the working folder."""
        return self.with_settings(settings).with_paths_from(Path.cwd()) if settings else self

    def with_paths_from(self, folder: Path, /) -> typing.Self:
        """The recipe with its relative paths taken from a folder, where they lead to something there."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        return self.model_copy(update={name: _resolve_paths(value, folder) for name, value in given.items()})

    def to_text(self, *, defaults: bool = True) -> str:
        """The text of a parameter file that repeats this recipe, with its version.

        Args:
            defaults: write out values that were not given, too.
        """
        return to_yaml({"version": FILE_VERSION} | (self.to_full_tree() if defaults else self.to_tree()))

    def to_tree(self) -> dict[str, Any]:
        """The tree of what was given, defaults left out."""
        set_ = self.model_fields_set
        return {key: _given(getattr(self, key)) for key in type(self).model_fields if key in set_}

    put = renamed_attribute("put", "with_settings")
    given = renamed_attribute("given", "to_tree")
    resolved = renamed_attribute("resolved", "to_full_tree")


class Written(Recipe):
    """A protocol whose file may be left out: everything in it has a default."""

    @classmethod
    def from_path(cls, path: Path | str | None, settings: Mapping[str, Any] | None = None, /) -> typing.Self:
        """A recipe from a file, paths in which are relative to its folder, or the default one, changed."""
        recipe = (
            cls.of({}) if path is None else cls.of(load_yaml(Path(path))).with_paths_from(Path(path).parent)
        )
        return (recipe.with_settings(settings) if settings else recipe).with_paths_from(Path.cwd())


def _check_file_version(version: Any) -> None:
    """Refuse a parameter file of a later version, whose settings may mean something else."""
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise BadInput("version", version, f"is not the version of a parameter file: write {FILE_VERSION}")
    if version > FILE_VERSION:
        fix = f"is later than {FILE_VERSION}, which this phaseloom reads: install a newer one"
        raise BadInput("version", version, fix)


def _resolve_paths(value: Any, folder: Path) -> Any:
    if isinstance(value, Call):
        return value.with_paths_from(folder)
    if isinstance(value, tuple):
        return tuple(_resolve_paths(one, folder) for one in value)
    if isinstance(value, Path) and (folder / value).exists():
        return (folder / value).resolve()
    return value


def modules_of_calls(recipe: type[Recipe]) -> dict[str, str]:
    """The fields of a recipe that hold calls, each with its room."""
    extras = {key: info.json_schema_extra for key, info in recipe.model_fields.items()}
    return {key: str(extra["room"]) for key, extra in extras.items() if isinstance(extra, dict)}


def _sentence(problem: ValidationError, tree: Any) -> BadInput:
    """The finding that leads farthest into the tree: of a union's findings, that of the kind meant."""
    found = problem.errors()
    for error in found:
        if isinstance(ours := error.get("ctx", {}).get("error"), BadInput):
            place = ".".join(_steps(error, tree))
            return BadInput(place, ours.value, ours.fix) if place.startswith(f"{ours.place}.") else ours
    first = max(found, key=lambda error: len(_steps(error, tree)))
    place = ".".join(_steps(first, tree)) or "parameter file"
    return BadInput(place, None if first["type"] == "missing" else first["input"], describe_error(first))


def _steps(error: Any, tree: Any) -> list[str]:
    """The place of a finding as the file has it, without pydantic's names for the kinds of a union."""
    steps = []
    for step in error["loc"]:
        if isinstance(tree, Mapping) and step in tree:
            tree = tree[step]
        elif error["type"] != "missing" or step != error["loc"][-1]:
            continue
        steps.append(str(step))
    return steps


def _is_choice(module: ModuleType, name: str) -> bool:
    if hasattr(module, "__path__") and vars(module).get(name) is None:
        return True  # a module of the package, which need not be imported to know its name
    target = getattr(module, name, None)
    return inspect.isfunction(target) or hasattr(target, "read")


def _own(room: str) -> list[str]:
    module = importlib.import_module(room)
    return [name for name in module.__all__ if _is_choice(module, name)]


def function_of(room: str, name: str) -> Callable[..., Any]:
    """A function of a module, ``read`` of a module of a package, or a plugin."""
    module = importlib.import_module(room)
    if name not in module.__all__ and name in plugins.names(room):
        return plugins.function(room, name)
    target = getattr(module, name, None)
    if hasattr(module, "__path__") and name in module.__all__ and not inspect.isfunction(target):
        return getattr(target, "read", None) or importlib.import_module(f"{room}.{name}").read
    if not inspect.isfunction(target):
        raise BadInput(room, f"there is no '{name}';", nearest(name, names(room)))
    return target


def _count_pipeline_values(function: Callable[..., Any]) -> int | None:
    """How many values of the pipeline a function takes; ``None``: all."""
    kinds = [parameter.kind for parameter in inspect.signature(function).parameters.values()]
    many = inspect.Parameter.VAR_POSITIONAL in kinds
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return None if many else sum(kind in positional for kind in kinds)


def _require_settings(given: Any, place: str, name: str, wanted: Mapping[str, inspect.Parameter]) -> None:
    """Refuse a bare value with how to write it: as the setting that a choice needs, or its only one."""
    if isinstance(given, dict):
        return
    if not wanted:
        raise BadInput(place, given, f"is not a setting: {name} takes none, write {name}")
    required = [key for key, knob in wanted.items() if knob.default is knob.empty] or [*wanted]
    if len(required) > 1:
        fix = f"needs the names of settings: write {{{name}: {{setting: value}}}}, of {', '.join(wanted)}"
        raise BadInput(place, given, fix)
    fix = f"needs the name of its setting: write {{{name}: {{{required[0]}: {given}}}}}"
    raise BadInput(place, given, fix)


def _split_node(node: Any, place: str) -> tuple[str, Any]:
    """The name and the settings of a node, or what stands in place of these."""
    if isinstance(node, str):
        return node, {}
    if isinstance(node, Mapping) and len(node) == 1:
        ((name, given),) = node.items()
        return str(name), dict(given or {}) if given is None or isinstance(given, Mapping) else given
    raise BadInput(place, node, "must be a name, or {name: {setting: value}}")


def _split_times(node: Any, place: str) -> tuple[Any, dict[str, int]]:
    """Part the times of a node, ``{orthogonal: {}, start: 5, every: 10}``, from its call."""
    if not isinstance(node, Mapping) or len(node) < 2:
        return node, {}
    when = {key: node[key] for key in ("start", "stop", "every") if key in node}
    for key, value in when.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise BadInput(f"{place}.{key}", value, "must be a whole number of epochs from 1 up")
    if when.get("stop", when.get("start", 1)) < when.get("start", 1):
        raise BadInput(f"{place}.stop", when["stop"], f"lies before start: {when['start']}")
    return {key: value for key, value in node.items() if key not in when}, when


def _calls(room: str, value: Any, place: str, *, many: bool, partial: bool) -> Any:
    if not many:
        return value if value is None else call(room, value, place, partial=partial)
    items = value if isinstance(value, list | tuple) else [value]
    if len(items) > MAX_CALLS:
        raise BadInput(place, f"a list of {len(items)}", f"must have {MAX_CALLS} entries at most")
    return tuple(call(room, item, f"{place}[{number}]") for number, item in enumerate(items))


def _refuse_truth_value(kind: Any, value: Any, place: str) -> None:
    """Refuse true and false for a number, which pydantic takes for 1 and 0; YAML reads yes and on so."""
    kinds = _list_plain_kinds(kind)
    if isinstance(value, bool) and {int, float} & kinds and bool not in kinds:
        wanted = _word(float if float in kinds else int)
        raise BadInput(place, value, f"must be {wanted}, not one of yes, no, on and off")


def _list_plain_kinds(kind: Any) -> set[Any]:
    """The types in a union or an annotated type; those in a tuple are not of it."""
    if typing.get_origin(kind) in (Annotated, typing.Union, types.UnionType):
        return set().union(*map(_list_plain_kinds, typing.get_args(kind)))
    if typing.get_origin(kind) is typing.Literal:
        return {type(choice) for choice in typing.get_args(kind)}
    return {kind} if isinstance(kind, type) else set()


def _check_value(kind: Any, value: Any, place: str) -> Any:
    _refuse_truth_value(kind, value, place)
    try:
        return TypeAdapter(kind, config=ConfigDict(strict=False)).validate_python(value)
    except ValidationError as problem:
        first = problem.errors()[0]
        cause = first.get("ctx", {}).get("error")
        few = first["type"] == "missing" and first["loc"]
        fix = (
            cause.fix
            if isinstance(cause, BadInput)
            else "has too few values"
            if few
            else describe_error(first)
        )
        raise BadInput(place, value, fix) from None


def _hint(parameter: inspect.Parameter) -> str:
    for extra in getattr(parameter.annotation, "__metadata__", ()):
        if isinstance(extra, Dimension):
            return f"a number and one of {', '.join(dict(extra.scale))}"
    if typing.get_origin(parameter.annotation) is tuple:
        return f"[{', '.join(_word(kind) for kind in typing.get_args(parameter.annotation))}]"
    if typing.get_origin(parameter.annotation) is typing.Literal:
        return " or ".join(map(str, typing.get_args(parameter.annotation)))
    return _word(parameter.annotation)


def _word(kind: Any) -> str:
    plain = {int: "a whole number", float: "a number", str: "text", bool: "true or false", ...: "and so on"}
    return plain.get(kind, getattr(kind, "__name__", str(kind)).lower())


def dimension_of(kind: Any) -> Dimension | None:
    """The dimension of an annotated type, also inside a union or a tuple."""
    if typing.get_origin(kind) is Annotated:
        return next((extra for extra in kind.__metadata__ if isinstance(extra, Dimension)), None)
    return next((found for inner in typing.get_args(kind) if (found := dimension_of(inner))), None)


def alternatives_table(kind: Any) -> Coefficients | None:
    """The table of dimensions of an annotated type, also inside a union."""
    if typing.get_origin(kind) is Annotated:
        return next((extra for extra in kind.__metadata__ if isinstance(extra, Coefficients)), None)
    return next((found for inner in typing.get_args(kind) if (found := alternatives_table(inner))), None)


def show_value(value: Any, kind: Any, /) -> Any:
    """A value of an annotated type as a parameter file has it: with its unit, exact.

    Example:
        >>> from phaseloom.units import Energy
        >>> show_value(80e3, Energy)
        '80 keV'
    """
    dimension = dimension_of(kind)
    if isinstance(value, tuple | list):
        return [show_value(item, kind) for item in value]
    if isinstance(value, Mapping) and (table := alternatives_table(kind)):
        return {name: _exact(item, table.of(name)) for name, item in value.items()}
    if dimension and isinstance(value, float | int) and not isinstance(value, bool):
        return _exact(value, dimension)
    return str(value) if isinstance(value, Path) else value


def _exact(value: float, dimension: Dimension) -> Any:
    """Text that reads back as the very same number."""
    short = dimension.show(value)
    if value == 0 or dimension.parse(short) == value:
        return 0 if value == 0 else short
    return f"{value!r} {dimension.scale[0][0]}"


def _is_partial(field: FieldInfo) -> bool:
    """Whether a field holds a call that may leave required knobs out."""
    extra = field.json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("partial"))


def _tree(value: Any) -> Any:
    if isinstance(value, Call):
        return value.to_full_tree()
    if isinstance(value, tuple):
        return [_tree(item) for item in value]
    if isinstance(value, BaseModel):
        return {key: _tree(getattr(value, key)) for key in type(value).model_fields}
    if isinstance(value, Mapping):
        return {key: _tree(item) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value


def _given(value: Any) -> Any:
    if isinstance(value, Call):
        return value.to_tree()
    if isinstance(value, tuple):
        return [_given(item) for item in value]
    if isinstance(value, BaseModel):
        return {key: getattr(value, key) for key in type(value).model_fields if key in value.model_fields_set}
    if isinstance(value, Mapping):
        return {key: _given(item) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value


def _set_path(
    tree: dict[str, Any], path: list[str], value: Any, whole: str, calls: Mapping[str, str]
) -> None:
    """Set a value; a name on the way that stood as plain text becomes a node, another call replaces."""
    *way, last = path
    for depth, step in enumerate(way):
        inner = tree.get(step)
        if isinstance(inner, list) and inner:
            raise BadInput(f"setting {whole}", None, f"{step} is a list: set it whole, {step}='[...]'")
        is_call = depth == 0 and step in calls
        if is_call and isinstance(inner, str):
            inner = {inner: {}}
        if not isinstance(inner, dict) or (is_call and list(inner) != [path[1]]):
            inner = {}
        tree[step] = inner
        tree = inner
    tree[last] = value
