"""The examples of the gallery run to their end, where each asserts its scientific outcome."""

import ast
import re
import runpy
import tempfile
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
import torch

from phaseloom import plugins

GALLERY = Path(__file__).parents[2] / "examples" / "gallery"
EXAMPLES = sorted(GALLERY.glob("plot_*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_and_its_outcome_holds(example, tmp_path, monkeypatch):
    if "search" in example.stem:
        pytest.importorskip("optuna")
    mpl.use("Agg")
    torch.set_num_threads(1)
    monkeypatch.setattr(plugins, "_registered", {})
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    try:
        runpy.run_path(str(example), run_name="__main__")
    finally:
        plt.close("all")


def test_there_are_twenty_and_more():
    assert len(EXAMPLES) >= 20


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_explains_draws_and_ends_in_a_checked_number(example):
    text = example.read_text(encoding="utf-8")
    tree = ast.parse(text)
    title, line, *_ = (ast.get_docstring(tree) or "").splitlines()
    assert set(line) == {"="}
    assert len(line) == len(title)
    assert len(re.findall(r"^# %%$", text, re.MULTILINE)) >= 3
    assert "plt.subplots" in text
    last = text[text.rindex("# %%") :]
    assert "print(" in last
    assert "assert" in last
