"""The table of Python names in the change log leads to names that are there."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

CHANGELOG = (Path(__file__).parents[2] / "CHANGELOG.md").read_text(encoding="utf-8")


def find_new_names() -> list[str]:
    """The names of the last columns; a bare one is beside the first name of its row."""
    section = CHANGELOG.split("### Python names\n")[1].split("\n### ")[0].split("\n## ")[0]
    found: list[str] = []
    for row in re.findall(r"^\| `.*\| (`.*) \|$", section, re.MULTILINE):
        first, *others = re.findall("`([^`]+)`", row)
        found += [first, *(f"{first.rpartition('.')[0]}.{name}" for name in others)]
    return found


def resolve(name: str) -> Any:
    """A module, or what is in one or in a class of one."""
    steps = ["phaseloom", *name.removeprefix("pl.").split(".")]
    for length in range(len(steps), 0, -1):
        try:
            value: Any = importlib.import_module(".".join(steps[:length]))
        except ModuleNotFoundError:
            continue
        for step in steps[length:]:
            value = getattr(value, step)
        return value
    raise AssertionError(name)


def test_the_table_is_found() -> None:
    assert len(find_new_names()) > 150


@pytest.mark.parametrize("name", find_new_names())
def test_a_new_name_of_the_table_is_there(name: str) -> None:
    assert resolve(name) is not None
