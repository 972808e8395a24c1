"""What a release consists of agrees with the package."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import phaseloom as pl

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NAMES_OF_CONDA = {"torch": "pytorch", "matplotlib": "matplotlib-base"}
TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def read_recipe() -> dict:
    """The recipe for conda with its templates filled in."""
    text = (ROOT / "recipe" / "meta.yaml").read_text(encoding="utf-8")
    version = re.search(r'set version = "([^"]+)"', text)
    assert version is not None
    text = (
        re.sub(r"\{%.*?%\}", "", text).replace("{{ version }}", version[1]).replace("{{ PYTHON }}", "python")
    )
    return yaml.safe_load(text)


def test_the_version_is_the_same_everywhere():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"]
    changes = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert changes is not None
    assert {str(cited), changes[1], str(read_recipe()["package"]["version"])} == {pl.__version__}


def test_the_recipe_needs_what_the_package_needs():
    wanted = {f"python {PROJECT['requires-python']}"}
    for line in PROJECT["dependencies"]:
        name, versions = re.fullmatch(r"([\w-]+)(.*)", line).groups()  # pyright: ignore[reportOptionalMemberAccess]
        wanted.add(f"{NAMES_OF_CONDA.get(name, name)} {versions}".strip())
    assert set(read_recipe()["requirements"]["run"]) == wanted


def test_the_recipe_has_the_command():
    command = f"phaseloom = {PROJECT['scripts']['phaseloom']}"
    assert read_recipe()["build"]["entry_points"] == [command]


def test_the_image_copies_what_is_there_and_what_may_be_seen():
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    seen = set(re.findall(r"^!(\S+)", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE))
    copied = {name for line in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE) for name in line.split()}
    assert copied == seen
    assert all((ROOT / name).exists() for name in copied)
    extras = re.search(r"ARG EXTRAS=(\S+)", text)
    assert extras is not None
    assert set(extras[1].split(",")) <= set(PROJECT["optional-dependencies"])
    assert {"README.md", "CITATION.cff", "pyproject.toml", "src"} <= copied  # hatchling reads them


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_templates_of_issues_are_forms(template):
    form = yaml.safe_load(template.read_text(encoding="utf-8"))
    if template.stem == "config":
        assert set(form) == {"blank_issues_enabled"}
        return
    assert {"name", "description", "body"} <= set(form)
    names = [field["id"] for field in form["body"]]
    assert len(names) == len(set(names))
    assert all(field["attributes"]["label"] for field in form["body"])


def test_the_changes_are_by_kind():
    newest = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").split("\n## ")[1]
    kinds = re.findall(r"^### (\w+)$", newest, re.MULTILINE)
    assert {"Added", "Changed", "Fixed"} <= set(kinds)
    assert len(kinds) == len(set(kinds))
