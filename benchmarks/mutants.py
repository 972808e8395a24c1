"""How many small faults the tests miss: seeded mutants of the core, each run against the tests that import
it.

    python -m benchmarks.mutants --count 200 --out benchmarks/results/mutants-DATE.json

A mutant is one changed operator, comparison, constant or condition in ``physics``, ``ptycho``, ``fitting`` or
``data``. It is made in a copy of the checkout. The tests that are run first are the doctests of the module,
then the fast test files that import it, the smallest first, until one fails. A survivor is a gap in the
tests, or a change that makes no difference; the report lists all of them for a reader to judge.
"""

import argparse
import ast
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("physics", "ptycho", "fitting", "data")
MAX_TEST_FILES = 12
ALIVE = ("survived", "untested")

SWAPS: dict[type, type] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Lt: ast.GtE,
    ast.GtE: ast.Lt,
    ast.Gt: ast.LtE,
    ast.LtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


@dataclass(frozen=True)
class Mutant:
    """One change: in which file, which node of its syntax tree, and what it reads before and after."""

    file: str
    line: int
    node: int
    before: str
    after: str


def candidates(file: Path) -> Iterator[Mutant]:
    """Every change that can be made in a file, docstrings and annotations left alone."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for number, node in enumerate(ast.walk(tree)):
        before = ast.unparse(node) if hasattr(node, "lineno") else ""
        if mutate(node):
            name = file.relative_to(ROOT).as_posix()
            yield Mutant(name, getattr(node, "lineno", 0), number, before, ast.unparse(node))


def mutate(node: ast.AST) -> bool:
    """Change a node in place; whether it is one that can be changed."""
    if isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op) in SWAPS:
        node.op = SWAPS[type(node.op)]()
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        node.ops[0] = SWAPS[type(node.ops[0])]()
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        node.op = ast.UAdd()
    elif isinstance(node, ast.If | ast.IfExp):
        node.test = ast.UnaryOp(ast.Not(), node.test)
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
        node.value = node.value + 1 if node.value else 1
    else:
        return False
    return True


def drawn(count: int, seed: int) -> list[Mutant]:
    """Mutants drawn evenly over the files of the core."""
    files = sorted(file for name in PACKAGES for file in (ROOT / "src/phaseloom" / name).rglob("*.py"))
    generator = random.Random(seed)
    found = [mutant for file in files for mutant in candidates(file)]
    return generator.sample(found, min(count, len(found)))


def apply(mutant: Mutant, copy: Path) -> None:
    """Write a mutant into a copy of the checkout."""
    file = copy / mutant.file
    tree = ast.parse((ROOT / mutant.file).read_text(encoding="utf-8"))
    node = next(node for number, node in enumerate(ast.walk(tree)) if number == mutant.node)
    mutate(node)
    file.write_text(ast.unparse(ast.fix_missing_locations(tree)), encoding="utf-8")


def tests_of(mutant: Mutant) -> list[str]:
    """The module itself, for its doctests, and the smallest test files that import it.

    A module that no test imports is tested through the modules of the package that import it.
    """
    files = tests_importing(mutant.file)
    if not files:
        for importer in files_importing(mutant.file, ROOT / "src"):
            files |= tests_importing(importer.relative_to(ROOT).as_posix())
        files = files or tests_importing(Path(mutant.file).with_name("__init__.py").as_posix())
    nearest = sorted(files, key=lambda file: file.stat().st_size)[:MAX_TEST_FILES]
    return [mutant.file, *(file.relative_to(ROOT).as_posix() for file in nearest)]


def tests_importing(file: str) -> set[Path]:
    """The test files that import a module of the package."""
    return {one for one in files_importing(file, ROOT / "tests") if one.name.startswith("test_")}


def files_importing(file: str, folder: Path) -> set[Path]:
    """The files in a folder that import a module, by itself or from its package."""
    module = file.removeprefix("src/").removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    package, _, name = module.rpartition(".")
    statement = re.compile(
        rf"from {re.escape(module)} import|import {re.escape(module)}\b"
        rf"|from {re.escape(package)} import ([^\n(]*|\([^)]*)\b{name}\b"
    )
    return {one for one in folder.rglob("*.py") if statement.search(one.read_text(encoding="utf-8"))}


def survivors_of(report: Path) -> list[Mutant]:
    """The mutants of an earlier run that no test killed."""
    rows = json.loads(report.read_text(encoding="utf-8"))["mutants"]
    alive = [row for row in rows if row["outcome"] in ALIVE]
    return [Mutant(**{name: row[name] for name in Mutant.__dataclass_fields__}) for row in alive]


def survives(mutant: Mutant, copy: Path, seconds: float) -> str:
    """The outcome of the tests: ``killed``, ``survived``, ``timeout`` (also a kill) or ``untested``."""
    files = tests_of(mutant)
    environment = {**os.environ, "PYTHONPATH": str(copy / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow", "-p", "no:cacheprovider", *files]
    try:
        done = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return "timeout"
    return {0: "survived", 5: "untested"}.get(done.returncode, "killed")


def main() -> None:
    """Run the mutants and report the survivors."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=20261122)
    parser.add_argument("--seconds", type=float, default=600, help="limit of the tests of one mutant")
    parser.add_argument("--out", type=Path, help="JSON with every mutant and its outcome")
    parser.add_argument("--again", type=Path, help="JSON of an earlier run: try its survivors only")
    asked = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "phaseloom"
        shutil.copytree(
            ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "runs", ".bench", "__pycache__")
        )
        for mutant in survivors_of(asked.again) if asked.again else drawn(asked.count, asked.seed):
            began = time.perf_counter()
            apply(mutant, copy)
            outcome = survives(mutant, copy, asked.seconds)
            shutil.copy(ROOT / mutant.file, copy / mutant.file)
            rows.append(
                {**asdict(mutant), "outcome": outcome, "seconds": round(time.perf_counter() - began, 1)}
            )
            print(f"{outcome:9s} {mutant.file}:{mutant.line}  {mutant.before} -> {mutant.after}", flush=True)
            if asked.out:
                asked.out.write_text(json.dumps({"seed": asked.seed, "mutants": rows}, indent=1))
    alive = sum(row["outcome"] in ALIVE for row in rows)
    print(f"{alive} of {len(rows)} survived ({alive / max(len(rows), 1):.1%})")


if __name__ == "__main__":
    main()
