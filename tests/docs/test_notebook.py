"""The notebook runs from top to bottom, and what the page on networks shows of files is understood."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from phaseloom.retrieval.recipe import Train
from phaseloom.simulation.recipe import Simulate

DOCS = Path(__file__).parents[2] / "docs"
NOTEBOOK = json.loads((DOCS / "notebooks" / "retrieval_training.ipynb").read_text(encoding="utf-8"))
CODE = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
PAGE = (DOCS / "learned.md").read_text(encoding="utf-8")
FILES = [text for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.S) if text.startswith("# ")]


@pytest.mark.medium
def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    names: dict[str, Any] = {}
    for number, text in enumerate(CODE):
        exec(compile(text, f"cell {number}", "exec"), names)
    assert names["folder"].parent == tmp_path


def test_every_cell_after_the_imports_asserts_something():
    assert all("assert" in text for text in CODE[1:])


def test_the_notebook_is_kept_without_outputs():
    cells = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)


@pytest.mark.parametrize("text", FILES, ids=["simulate", "train"])
def test_files_that_simulate_and_train_are_understood(text):
    tree = yaml.safe_load(text)
    recipe = Simulate.of(tree) if "count" in tree else Train.of(tree)
    assert set(tree) <= set(recipe.to_tree())
