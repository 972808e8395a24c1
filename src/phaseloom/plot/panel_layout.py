"""Places of panels from estimated sizes of labels, which costs a thirtieth of measuring them all.

matplotlib's constrained layout measures every label twice. Here sizes follow from fonts and from the number
of characters, and the panels of a grid get the room that is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.layout_engine import LayoutEngine

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure, FigureBase

__all__ = ["PanelLayout"]

PAD = 0.07
"""Around each panel with its labels, inch."""

GAP = 0.02
"""Between panels, of the side of the figure that they share."""

LINE_HEIGHT = 1.25
"""Of a line of text, in its font size."""

CHARACTER_WIDTH = 0.64
NARROW_WIDTH = 0.32
SIGN_WIDTH = 0.84
"""Of digits and most letters of DejaVu Sans, of points and of signs, in the font size."""

TICK_LENGTH = 7.5
"""Of a tick and the space between it and its label, points."""

LABEL_PAD = 4.0
"""Between the labels of ticks and that of an axis, points."""

TITLE_PAD = 6.0
"""Between a panel and its title, points."""

ROUNDS = 6
"""Of fitting panels to their labels: an image to scale, and the bar beside it, change with the room."""


@dataclass(frozen=True)
class _Border:
    """Room for what surrounds a panel: inches, and a part of the width or height that is drawn."""

    inches: float = 0.0
    part: float = 0.0

    def room(self, drawn: float, slack: float) -> float:
        """Inches beyond the cell, of which ``slack`` are free already."""
        return max(self.inches + self.part * drawn - slack, 0.0)


class PanelLayout(LayoutEngine):
    """Puts the panels of each part of a figure side by side, with room for titles, ticks, labels and bars.

    It knows titles, axes, insets to the right of a panel (`phaseloom.plot.style.colour_bar`), texts to the
    left of it, and a title of a part that has panels. Use matplotlib's constrained layout for anything else.
    """

    _adjust_compatible = True
    _colorbar_gridspec = True

    def execute(self, fig: Figure) -> None:
        """Set the position of each panel. matplotlib calls this before it draws.

        Example:
            >>> from matplotlib.figure import Figure
            >>> figure = Figure((4, 2), layout=PanelLayout())
            >>> axes = figure.subplots(1, 2)
            >>> figure.draw_without_rendering()
            >>> first, second = (one.get_position() for one in axes)
            >>> bool(abs(first.width - second.width) < 1e-9 and first.x1 < second.x0)
            True
        """
        for number, panels in groupby(sorted(fig.axes, key=_key_of_grid), key=_key_of_grid):
            if number:
                _place(list(panels))


def _key_of_grid(axes: Axes) -> int:
    """The same for panels of one grid; 0 for those in none."""
    spec = axes.get_subplotspec()
    return 0 if spec is None else id(spec.get_gridspec())


def _place(panels: Sequence[Axes]) -> None:
    """Set the positions of all panels of one grid, which fill their part of a figure."""
    part = panels[0].figure
    specs: list[Any] = [one.get_subplotspec() for one in panels]
    grid = specs[0].get_gridspec()
    borders = [_find_borders(one) for one in panels]
    shapes = [_find_shape(one) for one in panels]
    dpi = part.get_figure(root=True).dpi
    width = part.bbox.width / dpi
    height = part.bbox.height / dpi
    top = _measure_title(part)
    across = _Cells(width, 0.0, grid.get_width_ratios() or [1.0] * grid.ncols, [one.colspan for one in specs])
    down = _Cells(height, top, grid.get_height_ratios() or [1.0] * grid.nrows, [one.rowspan for one in specs])
    for _ in range(ROUNDS):
        drawn = [_fit(*sides) for sides in zip(across.sizes(), down.sizes(), shapes, strict=True)]
        across.fit([(one["left"], one["right"]) for one in borders], [w for w, _ in drawn])
        down.fit([(one["top"], one["bottom"]) for one in borders], [h for _, h in drawn])
    for axes, (left, right), (above, below) in zip(panels, across.edges(), down.edges(), strict=True):
        axes.set_position((left, 1 - below, right - left, below - above))
        axes.set_in_layout(True)  # `set_position` takes it out, and notebooks cut pictures to what is in


class _Cells:
    """Columns or rows of a grid, from left to right or from the top, inches."""

    def __init__(self, length: float, start: float, ratios: Sequence[float], spans: Sequence[range]):
        self.length = length
        self.start = start
        self.ratios = np.asarray(ratios, float)
        self.spans = spans
        self.gap = GAP * length / len(self.ratios) if len(self.ratios) > 1 else 0.0
        self.before = np.zeros(len(self.ratios))
        self.after = np.zeros(len(self.ratios))

    def fit(self, borders: Iterable[tuple[_Border, _Border]], drawn: Iterable[float]) -> None:
        """Leave room for the widest border on each side of each column."""
        before = np.zeros(len(self.ratios))
        after = np.zeros(len(self.ratios))
        for (first, last), span, size, one in zip(borders, self.spans, self.sizes(), drawn, strict=True):
            slack = (size - one) / 2
            before[span[0]] = max(before[span[0]], first.room(one, slack))
            after[span[-1]] = max(after[span[-1]], last.room(one, slack))
        self.before = before
        self.after = after

    def _inner(self) -> tuple[np.ndarray, np.ndarray]:
        """First and last place of each column without its borders."""
        pads = 2 * PAD * len(self.ratios) + self.gap * (len(self.ratios) - 1)
        free = self.length - self.start - pads - self.before.sum() - self.after.sum()
        sizes = max(free, 0.05 * self.length) * self.ratios / self.ratios.sum()
        whole = sizes + self.before + self.after + 2 * PAD + self.gap
        first = self.start + np.concatenate([[0.0], np.cumsum(whole)[:-1]]) + PAD + self.before
        return first, first + sizes

    def sizes(self) -> list[float]:
        """Of the cell of each panel, inches."""
        first, last = self._inner()
        return [float(last[span[-1]] - first[span[0]]) for span in self.spans]

    def edges(self) -> list[tuple[float, float]]:
        """Of the cell of each panel, parts of the whole length."""
        first, last = self._inner()
        return [
            (float(first[span[0]]) / self.length, float(last[span[-1]]) / self.length) for span in self.spans
        ]


def _fit(width: float, height: float, shape: float | None) -> tuple[float, float]:
    """What is drawn in a cell: all of it, or a box of a shape (height over width) in its middle."""
    if shape is None:
        return width, height
    return min(width, height / shape), min(height, width * shape)


def _find_shape(axes: Axes) -> float | None:
    """Height over width of a panel to scale; ``None`` of one that fills its cell."""
    aspect = axes.get_aspect()
    return None if aspect == "auto" else float(aspect) * axes.get_data_ratio()


def _find_borders(axes: Axes) -> dict[str, _Border]:
    """Room for everything around a panel, by side."""
    inches = _measure_axes(axes)
    parts = {"left": 0.0, "right": 0.0}
    if title := axes.get_title():
        lines = title.count("\n") + 1
        inches["top"] = (TITLE_PAD + LINE_HEIGHT * lines * float(axes.title.get_fontsize())) / 72
    for text in axes.texts:
        x, _ = text.get_position()
        if text.get_transform() is axes.transAxes and x < 0:
            parts["left"] = -x
            inches["left"] = _measure_width(text) / 72
    box = axes.get_position()
    renderer: Any = None  # places of insets need none
    for child in axes.child_axes:
        locate = child.get_axes_locator()
        if child.get_in_layout() and locate is not None:
            beyond = (locate(child, renderer).x1 - box.x1) / box.width
            parts["right"] = max(parts["right"], float(beyond))
            inches["right"] = max(inches["right"], _measure_axes(child)["right"])
    return {side: _Border(inches[side], parts.get(side, 0.0)) for side in inches}


def _measure_axes(axes: Any) -> dict[str, float]:
    """Room for the ticks and labels of both axes of a panel, inches by side."""
    inches = {"left": 0.0, "right": 0.0, "top": 0.0, "bottom": 0.0}
    if not axes.axison:
        return inches
    if axes.xaxis.get_visible():
        side = "top" if axes.xaxis.get_label_position() == "top" else "bottom"
        inches[side] = (_measure_ticks(axes.xaxis, across=False) + _measure_label(axes.xaxis)) / 72
        inches["right"] = inches["left"] = _measure_last_label(axes.xaxis) / 72
    if axes.yaxis.get_visible():
        side = "right" if axes.yaxis.get_label_position() == "right" else "left"
        inches[side] = (_measure_ticks(axes.yaxis, across=True) + _measure_label(axes.yaxis)) / 72
    return inches


def _font_of_ticks(axis: Axis) -> float:
    from matplotlib import rcParams
    from matplotlib.font_manager import FontProperties

    known = axis.get_tick_params(which="major").get("labelsize")
    return FontProperties(size=rcParams["ytick.labelsize"] if known is None else known).get_size_in_points()


def _tick_labels(axis: Axis) -> list[str]:
    low, high = sorted(axis.get_view_interval())
    places = [one for one in axis.get_majorticklocs() if low <= one <= high]
    return axis.get_major_formatter().format_ticks(places)


def _count_widths(line: str) -> float:
    """Length of a line of text in its font size."""
    narrow = sum(map(line.count, ".,:'|il "))
    signs = sum(map(line.count, "−+√±"))
    return CHARACTER_WIDTH * (len(line) - narrow - signs) + NARROW_WIDTH * narrow + SIGN_WIDTH * signs


def _measure_ticks(axis: Axis, *, across: bool) -> float:
    """Points from a panel to the end of the labels of its ticks."""
    labels = _tick_labels(axis)
    if not any(labels):
        return TICK_LENGTH / 2
    size = max(map(_count_widths, labels)) if across else LINE_HEIGHT
    return TICK_LENGTH + size * _font_of_ticks(axis)


def _measure_last_label(axis: Axis) -> float:
    """Points by which a label at the end of a horizontal axis may stand out."""
    return 0.5 * max(map(_count_widths, _tick_labels(axis)), default=0.0) * _font_of_ticks(axis)


def _measure_label(axis: Axis) -> float:
    """Points that the label of an axis takes."""
    text = axis.label.get_text()
    return (
        LABEL_PAD + LINE_HEIGHT * (text.count("\n") + 1) * float(axis.label.get_fontsize()) if text else 0.0
    )


def _measure_width(text: Any) -> float:
    """Points that a text takes from left to right."""
    lines = text.get_text().split("\n")
    upright = text.get_rotation() % 180 == 90
    size = LINE_HEIGHT * len(lines) if upright else max(map(_count_widths, lines))
    return size * float(text.get_fontsize())


def _measure_title(part: FigureBase) -> float:
    """Inches that the title of a part of a figure takes."""
    said = part.get_suptitle()
    heights = [
        PAD + LINE_HEIGHT * float(one.get_fontsize()) / 72 for one in part.texts if one.get_text() == said
    ]
    return max(heights, default=0.0) if said else 0.0
