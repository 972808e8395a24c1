"""The examples of the gallery run to their end, where each asserts its scientific outcome."""

import ast
import re
import runpy
import tempfile
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from phaseloom import plugins

GALLERY = Path(__file__).parents[2] / "examples" / "gallery"
PICTURES = sorted((GALLERY.parents[1] / "docs" / "images").glob("*.png"))
EXAMPLES = sorted(GALLERY.glob("plot_*.py"))


def find_cut_edges(figure: Figure) -> list[str]:
    """Edges of a figure that something dark reaches, such as a title that does not fit."""
    canvas: Any = figure.canvas
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    edges = {"top": pixels[0], "bottom": pixels[-1], "left": pixels[:, 0], "right": pixels[:, -1]}
    return [name for name, edge in edges.items() if (edge < 200).any()]


def test_a_title_that_is_cut_is_found():
    mpl.use("Agg")
    figure, axis = plt.subplots(figsize=(2, 2))
    axis.set_axis_off()
    figure.text(0.5, 0.5, "title")
    assert not find_cut_edges(figure)
    figure.text(0.5, 0.97, "title")
    assert find_cut_edges(figure) == ["top"]
    plt.close(figure)


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: path.stem)
def test_a_picture_of_a_page_is_not_cut_at_its_top(picture):
    assert (np.asarray(Image.open(picture).convert("L"))[0] >= 200).all()


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
        for number in plt.get_fignums():
            assert not find_cut_edges(plt.figure(number)), example.name
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
