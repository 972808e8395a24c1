"""Measured patterns beside those that the model expects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from phaseloom.plot.scan import detector_step
from phaseloom.plot.style import colour_bar, image, note, page

if TYPE_CHECKING:
    from matplotlib.figure import Figure, FigureBase

    from phaseloom.result import Result

__all__ = ["forward"]

MOST = 6
"""How many patterns are drawn side by side."""


def forward(r: Result) -> Figure:
    """Some measured patterns, what the model expects, and the difference in standard deviations."""
    count = 1 if not r.examples else min(len(r.examples["index"]), MOST)
    figure = page(2.5 * count + 1.2, 6.6)
    draw_patterns(figure, r)
    return figure


def draw_patterns(panel: FigureBase, r: Result, *, strip: bool = False) -> None:
    """Rows (or groups of a strip): measured, modelled, difference; the first two on one logarithmic scale."""
    from matplotlib.colors import LogNorm

    if not r.examples or len(r.examples["index"]) == 0:
        note(panel, "no example patterns were kept")
        return
    most = 3 if strip else MOST
    index = np.asarray(r.examples["index"])[:most]
    measured, modelled = (np.asarray(r.examples[k], float)[:most] for k in ("measured", "modelled"))
    residual = (measured - modelled) / np.sqrt(np.maximum(modelled, 0) + 1)
    reach = max(float(np.percentile(np.abs(residual), 99.5)), 1e-6)
    counts = {"cmap": "magma", "norm": LogNorm(*_decades(measured, modelled), clip=True)}
    looks = (counts, counts, {"cmap": "RdBu_r", "vmin": -reach, "vmax": reach})
    names = ("measured", "modelled", "difference")
    labels = ("counts", "counts", "Δ / √(counts + 1)")
    step, dimension = detector_step(r.geometry)
    grid = panel.subplots(*((1, 3 * len(index)) if strip else (3, len(index))), squeeze=False)
    grid = grid.reshape(3, len(index))
    for row, stack, look, name, label in zip(
        grid, (measured, modelled, residual), looks, names, labels, strict=True
    ):
        for axes, number, values in zip(row, index, stack, strict=True):
            drawn = image(axes, values, pixel=step, dimension=dimension, title=f"{name} {number}", **look)
        colour_bar(row[-1], drawn, label)


def _decades(measured: np.ndarray, modelled: np.ndarray) -> tuple[float, float]:
    """Limits of a logarithmic scale that holds the signal and not the far tails of the model."""
    high = max(float(measured.max()), float(modelled.max()), 1e-30)
    lit = measured[measured > 0]
    faint = min(float(lit.min()) if lit.size else high, float(np.percentile(modelled, 25)))
    return float(np.clip(faint, high * 1e-4, high / 10)), high
