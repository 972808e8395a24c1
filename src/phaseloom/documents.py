"""Documents of names and values as text: YAML in and out, JSON and TOML in. Reading one never runs code."""

import json
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from phaseloom.errors import BadInput

__all__ = ["load_yaml", "parse_json", "parse_json_lines", "parse_toml", "parse_yaml", "read_text"]
__all__ += ["require_names", "require_plain", "to_yaml"]

MAX_CHARACTERS = 16_000_000
"""Length of the largest parameter file that is read."""

MAX_DEPTH = 50
"""Lists in lists: no parameter file needs more, and much more ends Python's stack."""

MAX_VALUES = 200_000
"""Values of a document, references counted as often as they stand: a few lines can stand for billions."""

MAX_DIGITS = 300
"""Whole numbers of more do not fit into a float, and of more than 4300 Python reads none."""

_NOT_STORABLE = re.compile("[\0\ud800-\udfff]")
"""Characters that neither HDF5 nor UTF-8 holds."""


def load_yaml(path: Path, /) -> dict[str, Any]:
    """The tree of a parameter file.

    Raises:
        BadInput: missing, not text, not YAML, or with something that YAML would lose, change or run
            without a word (`parse_yaml`).
    """
    path = Path(path)
    return require_names(parse_yaml(read_text(path), str(path)), str(path))


def require_names(tree: Any, place: str, /) -> dict[str, Any]:
    """A tree that holds names with values.

    Args:
        tree: value of a document.
        place: its file, for messages.

    Raises:
        BadInput: it is a list, a text or a number.
    """
    if not isinstance(tree, dict):
        raise BadInput(place, tree, "must hold 'name: value' lines")
    return tree


def read_text(path: Path, /) -> str:
    """The text of a parameter file.

    Raises:
        BadInput: missing, far too large, or not text in UTF-8.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(MAX_CHARACTERS + 1)
    except OSError as error:
        raise BadInput(str(path), None, "cannot be read: is the name right?") from error
    except UnicodeDecodeError:
        raise BadInput(str(path), None, "is not text in UTF-8: is it a parameter file?") from None
    if len(text) > MAX_CHARACTERS:
        raise BadInput(str(path), None, "is too large for a parameter file: is the name right?")
    return text


def parse_yaml(text: str, place: str, /) -> Any:
    """The value of a text in YAML 1.1, without the numbers of base 60 and 8 (``1:30`` and ``010`` are text).

    Args:
        text: a document.
        place: its file, for messages.

    Raises:
        BadInput: not YAML; a name that stands twice; a tag (``!!python/...``); a list that holds itself; more
            lists in lists, or values, than any parameter file has; a character that files cannot keep.

    Example:
        >>> parse_yaml("{a: 1:30, b: [2, x]}", "a.yaml")
        {'a': '1:30', 'b': [2, 'x']}
        >>> parse_yaml("{a: 1, a: 2}", "a.yaml")
        Traceback (most recent call last):
        phaseloom.errors.BadInput: a.yaml: line 1: a stands twice, in line 1 too: remove one of them
    """
    try:
        tree = yaml.load(text, _StrictLoader)
    except RecursionError:
        raise _too_deep(place) from None
    except BadInput as problem:
        raise BadInput(f"{place}: {problem.place}", problem.value, problem.fix) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = "" if line is None else f" (line {line + 1})"
        raise BadInput(place, None, f"is not YAML{where}: check quotes, colons and indentation") from None
    return require_plain(tree, place)


def parse_json(text: str, place: str, /) -> Any:
    """The value of a text in JSON.

    Args:
        text: a document.
        place: its file, for messages.

    Raises:
        BadInput: not JSON, a name that stands twice, or far too many lists in lists.

    Example:
        >>> parse_json('{"a": [1, null]}', "a.json")
        {'a': [1, None]}
    """
    try:
        tree = json.loads(text, object_pairs_hook=_make_dict(place))
    except RecursionError:
        raise _too_deep(place) from None
    except BadInput:
        raise
    except ValueError as error:
        where = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise BadInput(place, None, f"is not JSON{where}: check quotes, commas and brackets") from None
    if any(depth > MAX_DEPTH for depth, _, _ in _walk(tree)):
        raise _too_deep(place)
    return tree


def parse_json_lines(data: bytes, /) -> Iterator[dict[str, Any]]:
    r"""The objects of a file of lines, one in each; other lines, damaged or half written, are left out.

    Args:
        data: of the file.

    Example:
        >>> list(parse_json_lines(b'{"a": 1}\n[2]\n{"a": 3'))
        [{'a': 1}]
    """
    for line in data.split(b"\n"):
        try:
            one = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(one, dict):
            yield one


def parse_toml(text: str, place: str, /) -> Any:
    """The value of a text in TOML, which refuses names that stand twice by itself.

    Args:
        text: a document.
        place: its file, for messages.

    Raises:
        BadInput: not TOML, or far too many lists in lists.

    Example:
        >>> parse_toml("a = [1, 2]", "a.toml")
        {'a': [1, 2]}
    """
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise _too_deep(place) from None
    except ValueError as error:
        said = " ".join(str(error).split())
        raise BadInput(place, None, f"is not TOML: {said[:120]}") from None


def to_yaml(tree: Any, /) -> str:
    """A tree as the text of a parameter file."""
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)


class _StrictLoader(yaml.SafeLoader):
    """A safe loader that refuses what would be lost, changed or run without a word."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """As ever, but every key once: the first value would be lost."""
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                line = key.start_mark.line + 1
                if key.value in seen:
                    fix = f"stands twice, in line {seen[key.value]} too: remove one of them"
                    raise BadInput(f"line {line}", key.value, fix)
                seen[key.value] = line
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: Any, index: Any) -> Any:
        """As ever, but without tags: they name what a program is to make of a value."""
        event: Any = self.peek_event()  # pyright: ignore[reportAttributeAccessIssue]
        if tag := getattr(event, "tag", None):
            name = tag.replace("tag:yaml.org,2002:", "!!")
            fix = "is a tag, which a parameter file must not have: remove it"
            raise BadInput(f"line {event.start_mark.line + 1}", name, fix)
        return super().compose_node(parent, index)


_INTEGER = re.compile(r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)$")
_REAL = re.compile(
    r"(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)


def _set_numbers(loader: type[yaml.SafeLoader]) -> None:
    """Take the numbers of base 60 and base 8 out of a loader."""
    kept = {"tag:yaml.org,2002:int": _INTEGER, "tag:yaml.org,2002:float": _REAL}
    loader.yaml_implicit_resolvers = {
        first: [(tag, kept.get(tag, pattern)) for tag, pattern in resolvers]
        for first, resolvers in loader.yaml_implicit_resolvers.items()
    }


_set_numbers(_StrictLoader)


def _make_dict(place: str) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    def make(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for number, name in enumerate(names) if name in names[:number])
            raise BadInput(place, twice, "stands twice: remove one of them")
        return made

    return make


def require_plain(tree: Any, place: str, /) -> Any:
    """A tree of bounded depth and size, whose texts and numbers can be written to files.

    Args:
        tree: of a parameter file, however it was read.
        place: its file, for messages.

    Raises:
        BadInput: see `parse_yaml`.

    Example:
        >>> require_plain({"a": [1, 2]}, "a.toml")
        {'a': [1, 2]}
    """
    for count, (depth, value, is_within) in enumerate(_walk(tree)):
        if is_within:
            raise BadInput(place, None, "has a list or table that holds itself: write its values out")
        if depth > MAX_DEPTH:
            raise _too_deep(place)
        if count >= MAX_VALUES:
            raise BadInput(place, None, f"holds more than {MAX_VALUES} values: is it a parameter file?")
        if isinstance(value, str) and _NOT_STORABLE.search(value):
            shown = ascii(value)
            raise BadInput(place, shown, "holds a character that no file keeps: write the text anew")
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**MAX_DIGITS:
            raise BadInput(place, None, f"has a number of more than {MAX_DIGITS} digits: write a smaller one")
    return tree


def _walk(tree: Any) -> Iterator[tuple[int, Any, bool]]:
    """Each value with its depth, and whether it is one of those that it lies in; keys are values."""
    stack: list[tuple[Any, tuple[int, ...]]] = [(tree, ())]
    while stack:
        value, above = stack.pop()
        yield len(above), value, id(value) in above
        inner: list[Any] = []
        if isinstance(value, dict):
            inner = [*value, *value.values()]
        elif isinstance(value, (list, tuple)):
            inner = list(value)
        if inner:
            way = (*above, id(value))
            stack += [(one, way) for one in inner]


def _too_deep(place: str) -> BadInput:
    return BadInput(place, None, f"has lists in lists, more than {MAX_DEPTH} deep: is it a parameter file?")
