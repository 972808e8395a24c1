"""What keeps the code easy to find one's way in: imports one way, one name for one thing, codes for
outcomes."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import phaseloom
from phaseloom import plugins

SOURCE = Path(phaseloom.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
MAX_FILES_IN_A_FOLDER = 17

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def trees() -> dict[str, ast.Module]:
    """The syntax tree of every module, by its dotted name."""
    return {module_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def imports_of(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Modules and names that a module imports anywhere, in functions and for type checkers too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


def import_graph() -> dict[str, set[str]]:
    known = set(trees())
    graph: dict[str, set[str]] = defaultdict(set)
    for name, tree in trees().items():
        for module, imported in imports_of(tree):
            target = f"{module}.{imported}" if f"{module}.{imported}" in known else module
            if target in known and target != name:
                graph[name].add(target)
    return graph


def circles(graph: dict[str, set[str]]) -> list[list[str]]:  # noqa: C901 - one algorithm
    """Strongly connected components of more than one module (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in graph.get(name, ()):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            at = stack.index(name)
            if len(stack) - at > 1:
                found.append(sorted(stack[at:]))
            del stack[at:]

    for name in list(graph):
        if name not in index:
            visit(name)
    return found


def test_a_circle_of_imports_is_seen():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


@pytest.mark.medium
def test_no_modules_import_each_other_in_a_circle():
    assert not circles(import_graph())


def test_no_class_name_stands_for_two_things():
    homes = defaultdict(list)
    for name, tree in trees().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                homes[node.name].append(name)
    assert not {name: places for name, places in homes.items() if len(places) > 1}


def test_no_private_name_crosses_packages():
    crossing = [
        f"{name} <- {module}.{imported}"
        for name, tree in trees().items()
        for module, imported in imports_of(tree)
        if module.startswith("phaseloom.")
        and module.split(".")[1] != name.split(".")[min(1, name.count("."))]
        and any(re.match("_[^_]", part) for part in [*module.split("."), imported])
    ]
    assert not crossing


def test_no_branch_depends_on_the_words_of_a_message():
    """Why a run stopped and what its verdict is are enums (`phaseloom.fitting.outcome`)."""
    read = [
        f"{name}:{node.lineno} {ast.unparse(node)}"
        for name, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call | ast.Compare) and reads_words_of_a_message(node)
    ]
    assert not read


def reads_words_of_a_message(node: ast.Call | ast.Compare) -> bool:
    """Whether an expression looks for a text inside a sentence."""
    if isinstance(node, ast.Compare):
        words, text = node.left, node.comparators[0]
        looks = (
            isinstance(node.ops[0], ast.In)
            and isinstance(words, ast.Constant)
            and isinstance(words.value, str)
        )
    else:
        text = node.func.value if isinstance(node.func, ast.Attribute) else node.func
        named = isinstance(node.func, ast.Attribute) and node.func.attr in ("startswith", "endswith", "find")
        looks = named and bool(node.args) and isinstance(node.args[0], ast.Constant | ast.Tuple)
    return looks and bool(re.search(r"\b(stopped|verdict|sentence|message)\b", ast.unparse(text)))


@pytest.mark.parametrize("code", ['stopped.startswith("a")', '"a" in run.stopped', 'verdict.find("a")'])
def test_a_branch_on_words_is_seen(code):
    node = ast.parse(code, mode="eval").body
    assert isinstance(node, ast.Call | ast.Compare)
    assert reads_words_of_a_message(node)


def test_folders_hold_no_more_files_than_a_reader_can_survey():
    counts = defaultdict(int)
    for path in FILES:
        counts[path.parent.relative_to(SOURCE).as_posix()] += 1
    assert not {folder: count for folder, count in counts.items() if count > MAX_FILES_IN_A_FOLDER}


def test_folders_of_tests_have_the_names_of_packages():
    """Laws, parity with other programs, hostile cases and documentation are of the whole."""
    of_the_whole = {"laws", "parity", "docs", "hostile"}
    folders = {path.parent.name for path in Path(__file__).parent.rglob("test_*.py")} - {
        Path(__file__).parent.name
    }
    assert folders - of_the_whole <= {path.name for path in SOURCE.iterdir() if path.is_dir()}


def test_choices_that_need_a_higher_system_are_in_one_table_and_exist():
    for (room, name), place in plugins.FROM_SYSTEMS.items():
        module, _, function = place.partition(":")
        assert function in public(trees()[module]), f"{room}: {name}"


def test_the_library_never_prints():
    calls = [
        f"{name}:{node.lineno}"
        for name, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not calls


def public(tree: ast.Module) -> list[str]:
    """The names of ``__all__``, written as one list or as several that are added."""
    found: list[str] = []
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        targets = [node.target] if isinstance(node, ast.AugAssign) else targets
        if "__all__" in [target.id for target in targets if isinstance(target, ast.Name)]:
            assert isinstance(node, ast.Assign | ast.AugAssign)
            if isinstance(node.value, ast.List | ast.Tuple):  # a lazy package reads its names from a stub
                found += ast.literal_eval(node.value)
    return found


def test_what_is_public_says_what_it_is():
    silent = [
        f"{name}:{node.name}"
        for name, tree in trees().items()
        for node in tree.body
        if isinstance(node, Function | ast.ClassDef)
        and node.name in public(tree)
        and not ast.get_docstring(node)
    ]
    assert not silent


def test_every_file_says_what_it_is():
    assert not [name for name, tree in trees().items() if not ast.get_docstring(tree)]
