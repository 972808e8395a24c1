"""Figures of measured patterns: one page about a scan, and patterns beside those that a model expects."""

from __future__ import annotations

import math
import textwrap
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from phaseloom.data.counts import split_indices
from phaseloom.data.diagnostics import describe_raster
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.data.signals import choose_patterns
from phaseloom.plot.style import (
    MASKED_COLOUR,
    SMALL_FONT,
    colour_bar,
    draw_map,
    draw_note,
    frame,
    image,
    limits,
    new_figure,
    new_page,
    show_length,
)
from phaseloom.units import ANGLE, ENERGY, LENGTH, Dimension

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase

    from phaseloom.result import Result

__all__ = ["detector_step", "forward", "list_facts", "read_totals", "scan_overview"]

MAX_PATTERNS_READ = 20000
"""How many patterns are read for the map of counts."""

MAX_VALUES_READ = 16_000_000
"""Values of a file that are read for it: 244 patterns of 256 x 256, in a tenth of a second."""

MIN_PATTERNS_READ = 64

COLOUR_OF_LEVEL = {"ok": "tab:green", "good": "tab:green", "info": "tab:blue", "note": "tab:blue"}
COLOUR_OF_LEVEL |= {"warning": "tab:orange", "warn": "tab:orange", "error": "tab:red", "bad": "tab:red"}


def scan_overview(scan: Scan4D, findings: list[Any] | None = None) -> Figure:
    """Mean pattern, counts over the scanned field, their distribution, and what a check has found.

    Args:
        scan: the data; at most 20000 of its patterns are read, evenly spread, of files at most 1.6e7 values.
        findings: objects with ``name, value, level, advice``; they are listed beside the figures. ``pixels``
            that they name are not trusted.

    Example:
        >>> geometry = Geometry(wavelength=0.02, shape=(8, 8), angle=(1e-3, 1e-3), beam="electron")
        >>> places = np.random.default_rng(0).uniform(0, 50, (9, 2))
        >>> len(scan_overview(Scan4D(counts=np.ones((9, 8, 8)), positions=places, geometry=geometry)).axes)
        4
    """
    scan = _mask_named_pixels(scan, findings or [])
    size = math.prod(scan.geometry.shape)
    most = MAX_PATTERNS_READ
    if not isinstance(scan.counts, np.ndarray):
        most = max(MIN_PATTERNS_READ, min(most, MAX_VALUES_READ // size))
    index, grid = choose_patterns(scan, most)
    total, mean = read_totals(scan, index)
    figure = new_page(12, 8.8)
    (pattern, field), (spread, words) = figure.subplots(2, 2, height_ratios=[1.25, 1])
    _draw_mean(pattern, scan, mean)
    _draw_field(field, scan, index, grid, total)
    _draw_spread(spread, total)
    _draw_words(words, scan, findings or [])
    title = scan.metadata.get("title") or f"{len(scan)} patterns of {scan.mask.shape[0]}×{scan.mask.shape[1]}"
    figure.suptitle(title, fontsize=13, fontweight="bold")
    return figure


def _mask_named_pixels(scan: Scan4D, findings: list[Any]) -> Scan4D:
    """The scan without the pixels that findings name."""
    good = scan.mask.copy()
    for row, column in (place for found in findings for place in getattr(found, "pixels", ())):
        good[row, column] = False
    return replace(scan, mask=good)


def read_totals(scan: Scan4D, index: np.ndarray, /) -> tuple[np.ndarray, np.ndarray]:
    """Counts in trusted pixels of each pattern of ``index``, and the mean of these patterns."""
    totals = []
    mean = np.zeros(scan.geometry.shape)
    for some in split_indices(scan.counts, index):
        stack = scan.counts[some]
        totals.append((stack * scan.mask).sum((1, 2), dtype=np.float64))
        mean += stack.sum(0, dtype=np.float64)
    return np.concatenate(totals), mean / len(index)


def _draw_mean(axes: Axes, scan: Scan4D, mean: np.ndarray) -> None:
    """The mean pattern on a logarithmic scale; pixels not trusted are red."""
    from matplotlib.colors import ListedColormap, LogNorm

    trusted = mean[scan.mask & (mean > 0)]
    high = float(trusted.max()) if trusted.size else 1.0
    low = float(np.clip(np.percentile(trusted, 2), high * 1e-6, high / 10)) if trusted.size else 0.1
    step, dimension = detector_step(scan.geometry)
    bad = int((~scan.mask).sum())
    title = "Mean pattern" + (f" ({bad} untrusted pixels in red)" if bad else "")
    look = {"cmap": "magma", "norm": LogNorm(low, high, clip=True)}
    drawn = image(axes, mean, pixel=step, dimension=dimension, title=title, **look)
    hidden = np.where(scan.mask, np.nan, 1.0)
    if bad:
        axes.imshow(
            hidden, extent=drawn.get_extent(), cmap=ListedColormap(["#e03030"]), interpolation="nearest"
        )
    colour_bar(axes, drawn, "mean counts per pixel")


def _draw_field(
    axes: Axes, scan: Scan4D, index: np.ndarray, whole: tuple[int, int] | None, total: np.ndarray
) -> None:
    """Counts at each position: an image for a raster, else dots to scale."""
    low, high = limits(total)
    title = f"Counts at {len(index)} positions" if whole is None else "Counts over the scan (rows: slow axis)"
    title += f", {len(index)} of {len(scan)} read" if len(index) < len(scan) else ""
    look = {"title": title, "cmap": "viridis", "vmin": low, "vmax": high}
    colour_bar(axes, draw_map(axes, total, scan.positions[index], whole, **look), "counts per pattern")


def _draw_spread(axes: Axes, total: np.ndarray) -> None:
    """How many patterns hold how many counts."""
    largest = float(np.abs(total).max())
    is_one_number = np.ptp(total) < 1e-9 * largest  # no bins fit between the numbers of a machine
    bins = 1 if is_one_number else min(60, max(8, len(total) // 12))
    span = (0.9 * largest, 1.1 * largest) if is_one_number else None
    axes.hist(total, bins=bins, range=span, color="tab:blue", alpha=0.8)
    axes.axvline(float(np.median(total)), color="tab:red", linewidth=1)
    title = f"Counts per pattern: median {np.median(total):.4g}"
    frame(axes, title=title, x="counts per pattern", y="patterns")


def _draw_words(axes: Axes, scan: Scan4D, findings: list[Any]) -> None:
    """The geometry, and below it the findings coloured by their level."""
    axes.axis("off")
    lines = [(f"{name:<13}{value}", "black") for name, value in list_facts(scan)] + [("", "black")]
    for found in findings:
        level = str(getattr(found.level, "value", found.level)).lower()
        lines += [(f"● {found.name}: {found.value}", COLOUR_OF_LEVEL.get(level, "0.4"))]
        lines += [(f"  {line}", "0.35") for line in textwrap.wrap(str(found.advice or ""), 70)]
    step = min(0.045, 1 / len(lines))
    style = {"va": "top", "family": "monospace", "fontsize": SMALL_FONT * min(1.0, step / 0.037)}
    for number, (text, colour) in enumerate(lines):
        axes.text(0, 1 - number * step, text, color=colour, transform=axes.transAxes, **style)


def list_facts(scan: Scan4D, /) -> list[tuple[str, str]]:
    """What the geometry says, a line each."""
    geometry = scan.geometry
    return [
        ("beam", f"{geometry.beam}, {ENERGY.show(float(f'{geometry.energy:.4g}'))}"),
        ("field", " × ".join(show_length(side) for side in scan.extent) + " (y × x)"),
        ("object pixel", " × ".join(show_length(side) for side in geometry.pixel)),
        ("detector", " × ".join(show_length(side, ANGLE) for side in geometry.angle) + " per pixel"),
        ("raster", describe_raster(scan)),
        ("field type", "near" if geometry.near else "far"),
    ]


def detector_step(geometry: Geometry) -> tuple[tuple[float, float], Dimension]:
    """What a detector pixel measures: a length in the near field, an angle in the far field."""
    if geometry.near and geometry.detector_pixel is not None:
        return geometry.detector_pixel, LENGTH
    return geometry.angle, ANGLE


MAX_PATTERNS_ABREAST = 6
"""How many patterns are drawn side by side."""


def forward(r: Result) -> Figure:
    """Some measured patterns, what the model expects, and the difference in standard deviations."""
    count = 1 if not r.examples else min(len(r.examples["index"]), MAX_PATTERNS_ABREAST)
    figure = new_figure(2.5 * count + 1.2, 6.6)
    draw_patterns(figure, r)
    return figure


def draw_patterns(panel: FigureBase, r: Result, *, strip: bool = False) -> None:
    """Rows (or groups of a strip): measured, modelled, difference; the first two on one logarithmic scale.

    Masked pixels are grey, but for those of the model, which has counts there. They set no scale.
    """
    from matplotlib.colors import LogNorm

    if not r.examples or len(r.examples["index"]) == 0:
        draw_note(panel, "no example patterns were kept")
        return
    most = 3 if strip else MAX_PATTERNS_ABREAST
    index = np.asarray(r.examples["index"])[:most]
    measured, modelled = (np.asarray(r.examples[k], float)[:most] for k in ("measured", "modelled"))
    good = np.asarray(r.examples.get("good", np.ones(measured.shape[1:])), bool)
    residual = (measured - modelled) / np.sqrt(np.maximum(modelled, 0) + 1)
    reach = max(float(np.percentile(np.abs(residual[:, good]), 99.5)), 1e-6)
    counts = {"cmap": "magma", "norm": LogNorm(*_decades(measured[:, good], modelled[:, good]), clip=True)}
    measured, residual = (np.where(good, one, np.nan) for one in (measured, residual))
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
            title = f"{name} {number}"
            image(axes, values, pixel=step, dimension=dimension, title=title, empty=MASKED_COLOUR, **look)
        colour_bar(row[-1], row[-1].images[0], label)


def _decades(measured: np.ndarray, modelled: np.ndarray) -> tuple[float, float]:
    """Limits of a logarithmic scale that holds the signal and not the far tails of the model."""
    high = max(float(measured.max()), float(modelled.max()), 1e-30)
    lit = measured[measured > 0]
    faint = min(float(lit.min()) if lit.size else high, float(np.percentile(modelled, 25)))
    return float(np.clip(faint, high * 1e-4, high / 10)), high
