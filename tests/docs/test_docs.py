"""What the documents show is run."""

import importlib
import importlib.util
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from phaseloom import cli, plugins

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


LINKED = [*PAGES, *sorted((ROOT / "docs" / "decisions").glob("*.md"))]
LINKED += [*ROOT.glob("[C-Z]*.md"), *sorted((ROOT / ".github").rglob("*.md"))]
LINKED = sorted({*LINKED, ROOT / "benchmarks" / "README.md"})


def find_anchors(page: Path) -> set[str]:
    """Anchors of the headings of a page, as code hosts and the site make them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    titles = [
        re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title)
        for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    ]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", re.sub(r"`[^`\n]*`", "", text)):
        if target.startswith("http"):
            continue
        there = page.parent / target if target else page
        assert there.exists(), target
        if anchor:
            assert anchor in find_anchors(there), f"{target}#{anchor}"


def list_command_lines(page: Path) -> list[str]:
    """What calls the program in code blocks, continued lines as one, and in the middle of a text."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    fences = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for language, block in fences if language in ("", "sh") for line in block.splitlines()]
    lines += re.findall(r"`(phaseloom [a-z][^`]*)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    lines = [re.sub(r"^(?:[A-Z_]+=\S+ )+", "", line) for line in lines]
    lines = [re.sub(r"^(?:torchrun|python)\b.* -m phaseloom\.cli ", "phaseloom ", line) for line in lines]
    return [
        " ".join(line.replace(" ...", "").split()) for line in lines if re.match(r"phaseloom [a-z-]", line)
    ]


def parse_command(line: str) -> None:
    """Parse a line by the options of its verb, without running it.

    Raises:
        Exception: no such verb or option, or too many arguments.
    """
    command: Any = typer.main.get_command(cli.app)
    words = shlex.split(line, comments=True)[1:]
    context = command.context_class(command, info_name="phaseloom")
    while hasattr(command, "commands") and words:
        name = words.pop(0)
        assert name in command.commands, f"{line}: {name} is not a verb"
        command = command.commands[name]
        context = command.context_class(command, info_name=name, parent=context)
    _, left, _ = command.make_parser(context).parse_args(args=list(words))
    assert not left, f"{line}: {left} too many"


COMMAND_LINES = [
    pytest.param(line, id=f"{page.name}-{number}")
    for page in PAGES
    for number, line in enumerate(list_command_lines(page))
]


def test_command_lines_are_found() -> None:
    assert len(COMMAND_LINES) > 150


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_a_command_line_is_understood(line: str) -> None:
    parse_command(line)


@pytest.mark.parametrize("line", ["phaseloom lok a", "phaseloom look a --no-such", "phaseloom compare a b c"])
def test_a_wrong_line_is_detected(line: str) -> None:
    with pytest.raises(Exception, match=r"not a verb|no such option|No such option|too many"):
        parse_command(line)


STUBS = sorted((ROOT / "src").rglob("__init__.pyi"))


@pytest.mark.parametrize("stub", STUBS, ids=lambda stub: stub.parent.name)
def test_the_front_doors_are_as_listed(stub: Path) -> None:
    if stub.parent.name == "search":
        pytest.importorskip("optuna")
    package = importlib.import_module(".".join(stub.parent.relative_to(ROOT / "src").parts))
    assert dir(package) == sorted(package.__all__)
    for name in package.__all__:
        assert getattr(package, name) is not None


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.name)
def test_files_and_modules_that_are_named_are_there(page: Path) -> None:
    if page.name == "CHANGELOG.md":  # has names of the past
        return
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    named = re.findall(r"`((?:tests|benchmarks|examples|docs|src)/[\w./-]+)(?:::\w+)?`", text)
    assert [path for path in named if not any((ROOT / path).parent.glob(f"{Path(path).name}*"))] == []
    modules = re.findall(r"python -m ((?:benchmarks|tests|phaseloom)[a-z_.]*)", text)
    modules = [name.rstrip(".") for name in modules]
    assert [name for name in modules if importlib.util.find_spec(name) is None] == []


GROUPS = {home.rpartition(".")[2] for home in plugins.ROOMS} | {"formats"}
"""Groups of entry points are named as modules are."""


def find_name(path: str) -> object:
    """What a dotted path leads to: a module, or an attribute of the last one on the way.

    Raises:
        AttributeError: nothing.
    """
    parts = path.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for name in parts[count:]:
            found = getattr(found, name)
        return found
    raise AttributeError(path)


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.name)
def test_names_of_python_in_the_text_are_there(page: Path) -> None:
    if page.name == "CHANGELOG.md" or "decisions" in page.parts:  # have names of the past
        return
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for path in sorted(set(re.findall(r"`(phaseloom(?:\.\w+)+)[`(\[]", text))):
        if path.endswith((".yaml", ".log")) or path.removeprefix("phaseloom.") in GROUPS:
            continue  # files, and groups of entry points
        find_name(path)
    for path in sorted(set(re.findall(r"`pl(\.\w+(?:\.\w+)*)[`(]", text))):
        find_name(f"phaseloom{path}")


def test_every_benchmark_is_listed() -> None:
    listed = (ROOT / "benchmarks" / "README.md").read_text()
    names = [path.name for path in (ROOT / "benchmarks").glob("*.py")]
    assert [name for name in names if f"`{name}`" not in listed] == []
