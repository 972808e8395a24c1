"""What pydantic finds wrong with a value, in our words."""

from typing import Any

__all__ = ["describe_error"]

WORDS = {
    "missing": "is missing: write it",
    "extra_forbidden": "is not a setting here: remove it",
    "int_": "must be a whole number",
    "float_": "must be a number",
    "finite_number": "must be a finite number",
    "bool_": "must be true or false",
    "string_": "must be text: put it in quotes",
    "tuple_": "must be a list, such as [1, 2]",
    "list_": "must be a list, such as [1, 2]",
    "too_long": "has too many values: {max_length} are wanted",
    "too_short": "has too few values: {min_length} are wanted",
    "dict_": "must hold 'name: value' lines",
    "mapping_": "must hold 'name: value' lines",
    "model_": "must hold 'name: value' lines",
    "path_": "must be the name of a file",
    "literal_error": "is not a choice: write {expected}",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be above {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be below {lt}",
}
"""Beginnings of pydantic's kinds of findings, in words."""

BOOLEAN_HINT = " (yes, no, on and off are read as true and false)"
"""Added where one of several names is expected and YAML made a boolean of what was written."""


def describe_error(error: Any, /) -> str:
    """Pydantic's finding as the end of a sentence of ours.

    Example:
        >>> describe_error({"type": "greater_than", "ctx": {"gt": 0}})
        'must be above 0'
    """
    kind = error["type"]
    limits = error.get("ctx", {})
    for start, text in WORDS.items():
        if kind.startswith(start):
            hint = BOOLEAN_HINT if start == "literal_error" and isinstance(error.get("input"), bool) else ""
            return text.format(**limits) + hint
    message = str(error["msg"])
    return f"cannot be used: {message[0].lower()}{message[1:]}"
