"""The code keeps to its own measures: short functions, small classes, files that fit a head."""

import ast
from collections.abc import Iterator
from pathlib import Path

import phaseloom

SOURCE = Path(phaseloom.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
FUNCTION, CLASS, FILE = 35, 12, 420

EXCEPTIONS: dict[str, str] = {}
"""Places that may exceed a measure, as ``file.py:name``, each with its reason in words."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def walked() -> Iterator[tuple[str, Path, ast.Module]]:
    for path in FILES:
        name = path.relative_to(SOURCE).as_posix()
        yield name, path, ast.parse(path.read_text(encoding="utf-8"))


def statements(function: Function) -> int:
    """Statements in the body at any depth, the docstring and the parts of other functions in it included."""
    return sum(isinstance(node, ast.stmt) for node in ast.walk(function)) - 1


def too_much(found: dict[str, int], most: int) -> dict[str, int]:
    return {place: size for place, size in found.items() if size > most and place not in EXCEPTIONS}


def test_functions_fit_a_screen():
    found = {
        f"{name}:{node.name}": statements(node)
        for name, _, tree in walked()
        for node in ast.walk(tree)
        if isinstance(node, Function)
    }
    assert len(found) > 100
    assert not too_much(found, FUNCTION)


def test_classes_are_small():
    found = {
        f"{name}:{node.name}": sum(isinstance(item, Function) for item in node.body)
        for name, _, tree in walked()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    assert not too_much(found, CLASS)


def test_files_fit_a_head():
    found = {f"{name}:": len(path.read_text(encoding="utf-8").splitlines()) for name, path, _ in walked()}
    assert not too_much(found, FILE)


def test_the_library_never_prints():
    calls = [
        f"{name}:{node.lineno}"
        for name, _, tree in walked()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not calls


def public(tree: ast.Module) -> list[str]:
    for node in tree.body:
        names = (
            [t.id for t in node.targets if isinstance(t, ast.Name)] if isinstance(node, ast.Assign) else []
        )
        if "__all__" in names:
            return ast.literal_eval(node.value)
    return []


def test_what_is_public_says_what_it_is():
    silent = [
        f"{name}:{node.name}"
        for name, _, tree in walked()
        for node in tree.body
        if isinstance(node, Function | ast.ClassDef)
        and node.name in public(tree)
        and not ast.get_docstring(node)
    ]
    assert not silent


def test_every_file_says_what_it_is():
    assert not [name for name, _, tree in walked() if not ast.get_docstring(tree)]


def test_what_a_module_exports_exists():
    for name, path, tree in walked():
        defined = {node.name for node in tree.body if isinstance(node, Function | ast.ClassDef)}
        defined |= {
            alias.asname or alias.name
            for node in tree.body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        for node in tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
            defined |= {target.id for target in targets if isinstance(target, ast.Name)}
        if path.name == "__init__.py":
            defined |= {item.stem for item in path.parent.iterdir()}
        lazy = "__getattr__" in defined
        missing = [item for item in public(tree) if item not in defined]
        assert lazy or not missing, name


def test_exceptions_have_a_reason_and_a_place():
    for place, reason in EXCEPTIONS.items():
        assert (SOURCE / place.split(":")[0]).is_file()
        assert len(reason.split()) > 4
