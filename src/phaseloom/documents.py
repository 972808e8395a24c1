"""Parameter files as text: YAML in and out."""

from pathlib import Path
from typing import Any

import yaml

from phaseloom.errors import BadInput

__all__ = ["load_yaml", "parse_yaml", "to_yaml"]


def load_yaml(path: Path, /) -> dict[str, Any]:
    """The tree of a parameter file.

    Raises:
        BadInput: missing, not text, or not YAML.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise BadInput(str(path), None, "cannot be read: is the name right?") from error
    except UnicodeDecodeError:
        raise BadInput(str(path), None, f"is not YAML: {_CHECK}") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, place: str, /, *, may_be_empty: bool = False) -> dict[str, Any]:
    """The tree of a parameter file's text.

    Args:
        text: of the file.
        place: what it is called in errors.
        may_be_empty: whether nothing but comments is taken for no names.

    Raises:
        BadInput: not YAML, or no names with values.
    """
    try:
        tree = yaml.load(text, _Once)
    except (yaml.YAMLError, RecursionError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = "" if line is None else f" (line {line + 1})"
        raise BadInput(place, None, f"is not YAML{where}: {_CHECK}") from None
    except BadInput as problem:
        raise BadInput(f"{place}: {problem.place}", problem.value, problem.fix) from None
    if tree is None and may_be_empty:
        return {}
    if not isinstance(tree, dict):
        raise BadInput(place, tree, "must hold 'name: value' lines")
    return tree


_CHECK = "check quotes, colons and indentation"


class _Once(yaml.SafeLoader):
    """A safe loader that refuses a key that stands twice: the first would be lost without a word."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """As ever, but every key once."""
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                line = key.start_mark.line + 1
                if key.value in seen:
                    fix = f"stands twice, in line {seen[key.value]} too: remove one of them"
                    raise BadInput(f"line {line}", key.value, fix)
                seen[key.value] = line
        return super().construct_mapping(node, deep)


def to_yaml(tree: Any, /) -> str:
    """A tree as the text of a parameter file."""
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)
