"""What a release consists of agrees with the package."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

import phaseloom as pl

ROOT = Path(__file__).parents[1]
TREE = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = TREE["project"]
BUILD_SYSTEM = TREE["build-system"]
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
    needs = read_recipe()["requirements"]
    assert set(needs["run"]) == wanted
    assert needs["run_constrained"] == [" >=".join(PROJECT["optional-dependencies"]["fast"][0].split(">="))]
    assert set(needs["host"]) == {f"python {PROJECT['requires-python']}", "pip", *BUILD_SYSTEM["requires"]}


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


def test_the_image_installs_what_the_package_needs():
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    python = re.search(r"^FROM python:([\d.]+)-slim$", text, re.MULTILINE)
    assert python is not None
    assert python[1] in SpecifierSet(PROJECT["requires-python"])
    assert f"Programming Language :: Python :: {python[1]}" in PROJECT["classifiers"]
    assert re.search(r'^ENTRYPOINT \["(\w+)"\]$', text, re.MULTILINE)[1] in PROJECT["scripts"]  # type: ignore[index]
    lines = re.findall(r"pip install [^;\n]+", text)
    assert len(lines) == 2
    assert all("-c constraints.txt" in line for line in lines)
    documented = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert set(re.findall(r"--build-arg TORCH=(\w+)", text + documented)) == {"cuda"}
    assert set(re.findall(r'"\$TORCH" = (\w+)', text)) == set(re.findall(r"ARG TORCH=(\w+)", text)) == {"cpu"}


def test_the_pinned_torch_is_one_that_the_package_allows():
    pinned = re.search(
        r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert pinned is not None
    wanted = next(line.removeprefix("torch") for line in PROJECT["dependencies"] if line.startswith("torch"))
    assert pinned[1] in SpecifierSet(wanted)


def test_extras_that_documents_and_messages_name_exist():
    extras = set(PROJECT["optional-dependencies"])
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "src").rglob("*.py")]
    named = {
        one
        for page in pages
        for some in re.findall(r"(?:phaseloom|\"\.)\[([a-z,]+)\]['\"]", page.read_text(encoding="utf-8"))
        for one in some.split(",")
    }
    assert {"fast", "web", "live", "learn"} <= named <= extras
    table = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    listed = {
        one
        for row in re.findall(r"^\| (`[^|]+`) \|", table, re.MULTILINE)
        for one in re.findall(r"`(\w+)`", row)
    }
    assert listed == extras - {"docs", "dev"}


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
