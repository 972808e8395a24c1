"""Figures of a search: its course, what matters, slices of the landscape, the best images side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from phaseloom.plot.style import (
    LINE_COLOURS,
    NORMAL_FONT,
    SMALL_FONT,
    colour_bar,
    draw_note,
    frame,
    image,
    limits,
    new_figure,
    unit_of,
)
from phaseloom.units import LENGTH, Dimension

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

__all__ = ["KnobAxis", "Landscape", "report"]

PANELS_PER_ROW = 4
"""Panels of a row."""

MAX_PANELS = 8
"""Knobs that get a slice."""


@dataclass(frozen=True, eq=False)
class KnobAxis:
    """A knob over all trials.

    Attributes:
        values: of each trial; choices by their numbers, NaN where it was not there.
        log: whether it was drawn by its logarithm.
        labels: of choices, or ``None``.
        dimension: of numbers, or ``None``.
    """

    values: np.ndarray
    log: bool = False
    labels: tuple[str, ...] | None = None
    dimension: Dimension | None = None


@dataclass(frozen=True, eq=False)
class Landscape:
    """What is drawn of a search.

    Attributes:
        title: of the page.
        objective: what was made small.
        numbers: of the trials.
        values: of the objective, NaN of trials that came to none.
        states: ``done``, ``given up`` or ``failed``.
        axes: the knobs by their paths.
        importance: shares of one, by path; may be empty.
        pictures: title, values ``(y, x)`` and pixel in angstrom of the best trials; 1 where it is unknown.
        best: place of the trial whose knobs the best file has; ``None``: of none that came to a value.
    """

    title: str
    objective: str
    numbers: np.ndarray
    values: np.ndarray
    states: tuple[str, ...]
    axes: Mapping[str, KnobAxis]
    importance: Mapping[str, float]
    pictures: tuple[tuple[str, np.ndarray, float], ...]
    best: int | None = None


def report(land: Landscape, /) -> Figure:
    """One page: course and importance, a slice for each knob, the two that matter most, the best images.

    A slice shows every trial that was done, whatever its other knobs were: it is the shadow of the
    landscape, not a cut through it.

    Example:
        >>> shape = KnobAxis(np.arange(2.0), labels=("a", "b"))
        >>> axes = {"epochs": KnobAxis(np.array([1.0, 2.0])), "shape": shape}
        >>> land = Landscape("x", "loss", np.arange(2), np.ones(2), ("done",) * 2, axes, {}, ())
        >>> len([axes for axes in report(land).axes if axes.get_title()])
        4
    """
    shown = _choose_slices(land)
    lines = -(-len(shown) // PANELS_PER_ROW)
    heights = {"course": 3.0, "slices": 2.7 * lines} | ({"pictures": 3.4} if land.pictures else {})
    figure = new_figure(13.0, sum(heights.values()) + 0.4)
    figure.suptitle(land.title, fontsize=NORMAL_FONT + 3, fontweight="bold", x=0.01, ha="left")
    parts = figure.subfigures(len(heights), 1, height_ratios=[*heights.values()], squeeze=False)[:, 0]
    rows = dict(zip(heights, parts, strict=True))
    _draw_first_row(rows["course"], land)
    panels = rows["slices"].subplots(lines, PANELS_PER_ROW, squeeze=False).ravel()
    for axes, path in zip(panels, shown, strict=False):
        _draw_slice(axes, land, path)
    for axes in panels[len(shown) :]:
        axes.axis("off")
    if land.pictures:
        _draw_pictures(rows["pictures"], land)
    return figure


def _choose_slices(land: Landscape) -> list[str]:
    """Knobs that get a slice, those that matter first."""
    order = [*land.importance, *(path for path in land.axes if path not in land.importance)]
    return order[:MAX_PANELS]


def _draw_first_row(row: SubFigure, land: Landscape) -> None:
    """Course, importance, and the two knobs that matter most against each other."""
    left, middle, right = row.subfigures(1, 3, width_ratios=(1.5, 1, 1), squeeze=False)[0]
    _draw_course(left.subplots(), land)
    if land.importance:
        _draw_importance(middle.subplots(), land)
    else:
        draw_note(middle, "too few trials to say\nwhich knobs matter")
    if len(land.axes) > 1:
        _draw_pair(right.subplots(), land, _choose_slices(land)[:2])


def _draw_course(axes: Axes, land: Landscape) -> None:
    """Values in the order of the trials, and the best so far."""
    done = np.isfinite(land.values)
    axes.plot(land.numbers[done], land.values[done], "o", color=LINE_COLOURS[0], markersize=4, label="done")
    low, high = limits(land.values)
    for state, mark, colour in (("given up", "v", LINE_COLOURS[5]), ("failed", "x", LINE_COLOURS[1])):
        there = np.array([one == state for one in land.states], bool)
        if there.any():
            place = np.full(there.sum(), high + 0.08 * (high - low))
            axes.plot(land.numbers[there], place, mark, color=colour, markersize=5, label=state)
    if done.any():
        lowest = np.minimum.accumulate(np.where(done, land.values, np.inf))
        axes.step(land.numbers, np.where(np.isfinite(lowest), lowest, np.nan), where="post", color="0.4")
    frame(axes, title="Course of the search", x="trial", y=land.objective)
    axes.set_ylim(low - 0.1 * (high - low), high + 0.15 * (high - low))
    axes.legend(fontsize=SMALL_FONT, frameon=False)


def _draw_importance(axes: Axes, land: Landscape) -> None:
    names = [*land.importance][:MAX_PANELS][::-1]
    axes.barh(range(len(names)), [land.importance[name] for name in names], color=LINE_COLOURS[2])
    axes.set_yticks(range(len(names)), names)
    frame(axes, title="What matters", x="share", y="")
    axes.set_xlim(0, 1)


def _scale_values(axis: KnobAxis) -> tuple[np.ndarray, str]:
    """Values in a unit for eyes, and its name."""
    finite = axis.values[np.isfinite(axis.values)]
    if axis.dimension is None or not finite.size:
        return axis.values, ""
    unit, scale = unit_of(float(np.abs(finite).max()), axis.dimension)
    return axis.values / scale, unit


def _set_ticks(axes: Axes, axis: KnobAxis, *, upright: bool = False) -> None:
    """Ticks and scale of a knob along one side."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    side = axes.yaxis if upright else axes.xaxis
    if axis.labels is not None:
        short = [label if len(label) <= 14 else label[:13] + "…" for label in axis.labels]
        side.set_ticks(range(len(short)), short)
        (axes.set_ylim if upright else axes.set_xlim)(-0.5, len(short) - 0.5)
    elif axis.log:
        (axes.set_yscale if upright else axes.set_xscale)("log")
        side.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=9))
        side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        side.set_minor_formatter(NullFormatter())


def _draw_slice(axes: Axes, land: Landscape, path: str) -> None:
    """The objective over one knob; later trials are darker."""
    axis = land.axes[path]
    values, unit = _scale_values(axis)
    there = np.isfinite(values) & np.isfinite(land.values)
    look: dict[str, Any] = {"cmap": "Blues", "edgecolors": "0.4", "linewidths": 0.3, "s": 22}
    last = max(float(land.numbers.max(initial=1)), 1.0)
    colours = land.numbers[there] + 0.3 * last
    axes.scatter(values[there], land.values[there], c=colours, vmin=0, vmax=1.3 * last, **look)
    if there.any():
        if land.best is not None and there[land.best]:
            star = {"color": LINE_COLOURS[1], "markersize": 11, "linestyle": ""}
            axes.plot(values[land.best], land.values[land.best], "*", label="of the best file", **star)
            axes.legend(fontsize=SMALL_FONT, frameon=False)
        low, high = limits(land.values[there])
        axes.set_ylim(low - 0.1 * (high - low), high + 0.1 * (high - low))
    _set_ticks(axes, axis)
    frame(axes, title=path, x=unit, y=land.objective)


def _draw_pair(axes: Axes, land: Landscape, paths: list[str]) -> None:
    """The objective over two knobs."""
    first, second = (land.axes[path] for path in paths)
    x, unit_x = _scale_values(first)
    y, unit_y = _scale_values(second)
    there = np.isfinite(x) & np.isfinite(y) & np.isfinite(land.values)
    low, high = limits(land.values[there])
    drawn = axes.scatter(
        x[there],
        y[there],
        c=land.values[there],
        cmap="viridis_r",
        vmin=low,
        vmax=high,
        s=26,
        edgecolors="0.4",
    )
    _set_ticks(axes, first)
    _set_ticks(axes, second, upright=True)
    labels = [
        f"{path} ({unit})" if unit else path for path, unit in zip(paths, (unit_x, unit_y), strict=True)
    ]
    frame(axes, title="The first two", x=labels[0], y=labels[1])
    colour_bar(axes, drawn, land.objective)


def _draw_pictures(row: SubFigure, land: Landscape) -> None:
    """The best images, each on a scale of its own."""
    for axes, number in zip(
        row.subplots(1, PANELS_PER_ROW, squeeze=False)[0], range(PANELS_PER_ROW), strict=True
    ):
        if number >= len(land.pictures):
            axes.axis("off")
            continue
        title, values, pixel = land.pictures[number]
        low, high = limits(values)
        known = LENGTH if pixel != 1 else None
        look = {"cmap": "viridis", "vmin": low, "vmax": high, "dimension": known}
        if values.ndim == 2:
            colour_bar(axes, image(axes, values, pixel=(pixel, pixel), title=title, **look), "")
