"""Figures of the page, of Bokeh alone: the same in a browser, in a notebook and in an exported file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from bokeh.events import RangesUpdate, Tap
from bokeh.models import (
    ColorBar,
    ColumnDataSource,
    CrosshairTool,
    DataRange1d,
    HoverTool,
    LinearColorMapper,
    Metric,
    MetricLength,
    PrintfTickFormatter,
    ScaleBar,
)
from bokeh.plotting import figure
from matplotlib.colors import to_hex

from phaseloom.plot.style import LINE_COLOURS, limits, wave_colours
from phaseloom.web.state.images import LEVELS, SentImage, find_limits, prepare_image

__all__ = ["ColourView", "CurvesView", "ImageView", "PointsView", "ScatterView", "format_ticks"]
__all__ += ["mark_figure", "palette_of"]

TOOLS = "pan,wheel_zoom,box_zoom,reset,save"
MISSING_COLOUR = "#e6e6e6"
HEIGHT = 340

LEGEND_COLUMNS = 3

_BAR_LOOK: Any = {"title_text_font_size": "11px", "major_label_text_font_size": "11px", "title_standoff": 4}

UNITS = {
    "nm": ("nm", MetricLength(include=["pm", "nm", "um", "mm"]), 0.1),
    "mrad": ("mrad", Metric(base_unit="rad", include=["nrad", "µrad", "mrad", "rad"]), 1e3),
    "px": ("px", None, 1.0),
}
"""Units of axes: what Bokeh's scale bar wants, and how much of them one of ours (angstrom, radian) is."""


def palette_of(name: str, /) -> list[str]:
    """256 colours of a map of matplotlib, as Bokeh wants them."""
    colours = matplotlib.colormaps[name](np.linspace(0, 1, 256))
    return [to_hex(one) for one in colours]


def format_ticks(low: float, high: float, /) -> str:
    """A format of C with as many digits as tell some five ticks of a range from each other.

    Example:
        >>> [format_ticks(0, high) for high in (0.012, 3, 1200, 3e-7, 2e6)]
        ['%.3f', '%.1f', '%.0f', '%.1e', '%.1e']
    """
    step = (high - low) / 5
    if not 1e-6 < step < 1e5:
        return "%.1e"
    return f"%.{max(0, -math.floor(math.log10(step)))}f"


def mark_figure(one: Any, label: str, /) -> None:
    """Name a figure for those who hear the page."""
    one.html_attributes = {"role": "figure", "aria-label": label}


def _make_figure(label: str, height: int, /, **look: Any) -> Any:
    """A figure to zoom into, as wide as the page leaves it, named for those who hear the page."""
    made: Any = figure(
        title=label,
        tools=TOOLS,
        height=height,
        sizing_mode="stretch_width",
        toolbar_location="above",
        **look,
    )
    made.toolbar.logo = None
    mark_figure(made, label)
    return made


def _make_map(label: str, height: int, /, **look: Any) -> Any:
    """The same with pixels as wide as they are high, zoomed by the wheel."""
    return _make_figure(label, height, active_scroll="wheel_zoom", match_aspect=True, **look)


def _make_tight_ranges() -> dict[str, Any]:
    """Axes of an image, the first row on top."""
    return {"x_range": DataRange1d(range_padding=0), "y_range": DataRange1d(range_padding=0, flipped=True)}


def _share_ranges(one: Any) -> dict[str, Any]:
    """The axes of another figure: both are zoomed together."""
    return {"x_range": one.x_range, "y_range": one.y_range}


class ImageView:
    """An image with scale bar and colour bar; what is zoomed into is sent again in full.

    Attributes:
        figure: of Bokeh.
        span: values of the first and the last colour.
        home: the same as they follow from the values.
    """

    def __init__(
        self,
        label: str,
        /,
        *,
        unit: str = "nm",
        colours: str = "viridis",
        values: str = "",
        linked: ImageView | None = None,
        height: int = HEIGHT,
    ):
        self.unit = unit
        self._scale = UNITS[unit][2]
        self._palette = palette_of(colours)
        self._image = np.zeros((1, 1))
        self._place: tuple[tuple[float, float], tuple[float, float]] = ((1.0, 1.0), (0.0, 0.0))
        self._sent: SentImage | None = None
        self.span = (0.0, 1.0)
        self.home = (0.0, 1.0)
        self._mapper = LinearColorMapper(palette=self._palette, low=0, high=255)
        self._bar = LinearColorMapper(palette=self._palette, low=0, high=1)
        ranges = _make_tight_ranges() if linked is None else _share_ranges(linked.figure)
        self.figure: Any = _make_map(label, height, **ranges)
        self._source = ColumnDataSource({"image": [], "x": [], "y": [], "w": [], "h": []})
        self._frame = ColumnDataSource({"x": [], "y": [], "w": [], "h": []})
        self._marks = ColumnDataSource({"x": [], "y": []})
        self._draw(values)

    def _draw(self, values: str) -> None:
        one = self.figure
        one.axis.visible = False
        one.grid.visible = False
        one.image(image="image", x="x", y="y", dw="w", dh="h", source=self._source, color_mapper=self._mapper)
        look = {"fill_alpha": 0, "line_color": "#999999", "line_width": 0.5}
        one.rect(x="x", y="y", width="w", height="h", source=self._frame, **look)
        look = {"fill_alpha": 0, "line_color": "#d00000", "line_width": 2, "size": 14}
        one.scatter(x="x", y="y", source=self._marks, marker="circle", **look)
        name, dimension, _ = UNITS[self.unit]
        if dimension is not None:
            bar: Any = ScaleBar(
                range=one.x_range,
                unit=name,
                dimensional=dimension.clone(),
                orientation="horizontal",
                location="bottom_left",
                background_fill_alpha=0.75,
                border_line_color=None,
                padding=5,
                margin=5,
                bar_length=0.15,
                bar_line_width=3,
                label="@{value} @{unit}",
            )
            one.add_layout(bar)
        self._ticks = PrintfTickFormatter()
        look = {"color_mapper": self._bar, "formatter": self._ticks, "title": values, **_BAR_LOOK}
        self._bar_of_values = ColorBar(width=8, padding=4, **look)
        one.add_layout(self._bar_of_values, "right")

    def name_values(self, text: str) -> None:
        """Say beside the colours what they are."""
        self._bar_of_values.title = text

    def show(
        self,
        values: np.ndarray,
        /,
        *,
        pixel: tuple[float, float],
        corner: tuple[float, float] = (0.0, 0.0),
        span: tuple[float, float] | None = None,
        title: str | None = None,
    ) -> None:
        """Show values ``(y, x)`` at their place, angstrom or radian; zoom and a chosen contrast are kept."""
        follows = self.span == self.home
        self._image = np.asarray(values, np.float32)
        scale = self._scale
        self._place = (
            (pixel[0] * scale, pixel[1] * scale),
            (corner[0] * scale, corner[1] * scale),
        )
        low, high = span or find_limits(self._image)
        self.home = (float(low), float(high))
        self.span = self.home if follows else self.span
        if title is not None:
            self.figure.title.text = title
        height, width = (n * p for n, p in zip(values.shape, self._place[0], strict=True))
        top, left = self._place[1]
        self._frame.data = {"x": [left + width / 2], "y": [top + height / 2], "w": [width], "h": [height]}
        self._send(None)

    def clear(self) -> None:
        """Show nothing."""
        self._sent = None
        self._image = np.zeros((0, 0))
        self._source.data = {"image": [], "x": [], "y": [], "w": [], "h": []}
        self._marks.data = {"x": [], "y": []}

    def set_contrast(self, low: float, high: float) -> None:
        """Choose the values of the first and the last colour."""
        self.span = (float(low), float(high) if high > low else float(low) + 1e-9)
        self._recolour()

    def reset_contrast(self) -> None:
        """Contrast as it follows from the values."""
        self.span = self.home
        self._recolour()

    def mark(self, points: Sequence[tuple[float, float]]) -> None:
        """Rings at places (y, x), angstrom or radian."""
        y, x = (np.array([p[axis] for p in points], float) * self._scale for axis in (0, 1))
        self._marks.data = {"x": x, "y": y}

    def on_tap(self, call: Any) -> None:
        """Call a function with the place (y, x) of a click, angstrom or radian."""
        self.figure.on_event(Tap, lambda event: call((event.y / self._scale, event.x / self._scale)))

    def follow_zoom(self) -> None:
        """Send what is zoomed into in full; only where a server answers."""
        self.figure.on_event(RangesUpdate, self._on_ranges)

    def _on_ranges(self, event: Any) -> None:
        if self._sent is None:
            return
        top, bottom = sorted((event.y0, event.y1))
        left, right = sorted((event.x0, event.x1))
        self._send((top, left, bottom, right))

    def _send(self, window: tuple[float, float, float, float] | None) -> None:
        room = max(self.home[1] - self.home[0], 1e-12)
        span = (self.home[0] - 0.5 * room, self.home[1] + 0.5 * room)
        if self._image.size == 0:
            return
        pixel, corner = self._place
        sent = prepare_image(self._image, pixel=pixel, corner=corner, span=span, window=window)
        last = self._sent
        if window is not None and last is not None and _is_same_part(last, sent):
            return
        self._sent = sent
        height, width = sent.extent
        place = {"x": [sent.corner[1]], "y": [sent.corner[0]], "w": [width], "h": [height]}
        self._source.data = {"image": [sent.levels], **place}
        self._recolour()

    def _recolour(self) -> None:
        """Colours of the bytes, so that contrast changes without the image."""
        if self._sent is None:
            return
        value = self._sent.low + np.arange(256) * ((self._sent.high - self._sent.low) / LEVELS)
        low, high = self.span
        index = np.clip((value - low) / max(high - low, 1e-30) * 255, 0, 255).round().astype(int)
        palette = [self._palette[number] for number in index]
        palette[255] = MISSING_COLOUR
        self._mapper.palette = palette
        self._ticks.format = format_ticks(low, high)
        self._bar.update(low=low, high=high)


def _is_same_part(one: SentImage, other: SentImage) -> bool:
    return one.corner == other.corner and one.levels.shape == other.levels.shape and one.pixel == other.pixel


class CurvesView:
    """Curves over epochs, frequencies or lengths, by their names.

    Attributes:
        figure: of Bokeh.
    """

    def __init__(
        self,
        label: str,
        names: Sequence[str],
        /,
        *,
        x: str,
        y: str,
        log: bool = False,
        height: int = HEIGHT,
        floor: float | None = None,
    ):
        axes = {"y_axis_type": "log" if log else "linear", "x_axis_label": x, "y_axis_label": y}
        self.figure: Any = _make_figure(label, height, **axes)
        one = self.figure
        self._sources = {}
        for number, name in enumerate(names):
            source = ColumnDataSource({"x": [], "y": []})
            self._sources[name] = source
            look = {
                "color": LINE_COLOURS[number % len(LINE_COLOURS)],
                "line_width": 1.8,
                "legend_label": name,
                "line_dash": ["solid", "dashed", "dotdash", "dotted"][number % 4],
            }
            one.line("x", "y", source=source, **look)
        if floor is not None:
            look = {"line_color": "#666666", "line_dash": "dotted", "legend_label": "noise floor"}
            one.hspan(y=[floor], **look)
        if one.legend:
            one.legend.background_fill_alpha = 0.7
            one.legend.label_text_font_size = "11px"
            one.legend.click_policy = "hide"
            one.legend.ncols = min(len(names) + (floor is not None), LEGEND_COLUMNS)
            one.legend.update(margin=0, padding=2, spacing=10, border_line_color=None, location="top_left")
            one.add_layout(one.legend[0], "above")  # where it hides no curve
        one.add_tools(
            HoverTool(tooltips=[(x, "@x"), ("value", "@y{0.0000}")], mode="vline"),
            CrosshairTool(dimensions="height", line_alpha=0.3),
        )

    def show(self, curves: Mapping[str, tuple[Any, Any]]) -> None:
        """New values (x, y) of curves by name; those that are not named become empty."""
        for name, source in self._sources.items():
            x, y = (np.asarray(values, float) for values in curves.get(name, ((), ())))
            known = np.isfinite(y)
            source.data = {"x": x[known], "y": y[known]}


class PointsView:
    """Places of a scan, coloured by a value, and how they moved.

    Attributes:
        figure: of Bokeh.
    """

    def __init__(self, label: str, /, *, values: str = "", colours: str = "viridis", height: int = HEIGHT):
        ranges: dict[str, Any] = {"x_range": DataRange1d(), "y_range": DataRange1d(flipped=True)}
        axes = {"x_axis_label": "x (nm)", "y_axis_label": "y (nm)"}
        self.figure: Any = _make_map(label, height, **axes, **ranges)
        self._mapper = LinearColorMapper(palette=palette_of(colours), low=0, high=1)
        self._points = ColumnDataSource({"x": [], "y": [], "v": []})
        self._moves = ColumnDataSource({"x0": [], "y0": [], "x1": [], "y1": []})
        self._marks = ColumnDataSource({"x": [], "y": []})
        colour: Any = {"field": "v", "transform": self._mapper}
        self.figure.scatter("x", "y", source=self._points, size=5, fill_color=colour, line_color=None)
        look = {"line_color": "#d55e00", "line_width": 1.2}
        self.figure.segment("x0", "y0", "x1", "y1", source=self._moves, **look)
        look = {"fill_alpha": 0, "line_color": "#d00000", "line_width": 2, "size": 14}
        self.figure.scatter("x", "y", source=self._marks, marker="circle", **look)
        self._ticks = PrintfTickFormatter()
        look = {"color_mapper": self._mapper, "formatter": self._ticks, "title": values, **_BAR_LOOK}
        bar = ColorBar(width=8, padding=4, **look)
        self.figure.add_layout(bar, "right")

    def show(
        self, positions: np.ndarray, values: np.ndarray, moves: np.ndarray | None = None, title: str = ""
    ) -> None:
        """Places ``(n, 2)`` in angstrom with values ``(n,)``; moves are lines from each place."""
        y, x = 0.1 * positions.T
        self._points.data = {"x": x, "y": y, "v": np.asarray(values, float)}
        low, high = limits(np.asarray(values, float))
        self._ticks.format = format_ticks(low, high)
        self._mapper.update(low=low, high=high)
        if moves is not None:
            down, right = 0.1 * moves.T
            self._moves.data = {"x0": x, "y0": y, "x1": x + right, "y1": y + down}
        if title:
            self.figure.title.text = title

    def mark(self, points: Sequence[tuple[float, float]]) -> None:
        """Rings at places (y, x), angstrom."""
        self._marks.data = {"x": [0.1 * p[1] for p in points], "y": [0.1 * p[0] for p in points]}

    def on_tap(self, call: Any) -> None:
        """Call a function with the place (y, x) of a click, angstrom."""
        self.figure.on_event(Tap, lambda event: call((10 * event.y, 10 * event.x)))


class ScatterView:
    """Points with a group each, in the colour of their group.

    Attributes:
        figure: of Bokeh.
    """

    def __init__(self, label: str, /, *, x: str, y: str, is_map: bool = False, height: int = HEIGHT):
        axes = {"x_axis_label": x, "y_axis_label": y}
        if is_map:
            self.figure: Any = _make_map(label, height, y_range=DataRange1d(flipped=True), **axes)
        else:
            self.figure = _make_figure(label, height, **axes)
        self._points = ColumnDataSource({"x": [], "y": [], "colour": []})
        self.figure.scatter("x", "y", source=self._points, size=5, fill_color="colour", line_color=None)

    def show(self, x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> None:
        """Points ``(n,)`` and the number of the group of each."""
        colours = [LINE_COLOURS[number % len(LINE_COLOURS)] for number in groups]
        self._points.data = {"x": x, "y": y, "colour": colours}

    def on_tap(self, call: Any) -> None:
        """Call a function with the place (x, y) of a click."""
        self.figure.on_event(Tap, lambda event: call((event.x, event.y)))


class ColourView:
    """Images in colours; complex waves side by side: hue is phase, brightness amplitude.

    Attributes:
        figure: of Bokeh.
    """

    def __init__(self, label: str, /, *, linked: ColourView | None = None, height: int = HEIGHT):
        ranges = _make_tight_ranges() if linked is None else _share_ranges(linked.figure)
        self.figure: Any = _make_map(label, height, **ranges)
        self.figure.axis.visible = False
        self.figure.grid.visible = False
        self._source = ColumnDataSource({"image": [], "w": [], "h": []})
        self.figure.image_rgba(image="image", x=0, y=0, dw="w", dh="h", source=self._source)

    def show(self, waves: np.ndarray, title: str = "") -> None:
        """Show waves ``(n, y, x)``."""
        colours = [wave_colours(one) for one in waves]
        gap = np.ones((waves.shape[1], 2, 3))
        strips = [part for one in colours for part in (one, gap)][:-1]
        self.show_colours(np.concatenate(strips, 1), title)

    def show_colours(
        self, rgb: np.ndarray, title: str = "", extent: tuple[float, float] | None = None
    ) -> None:
        """Show colours ``(y, x, 3)`` from 0 to 1; images of one extent (height, width) lie on each other."""
        packed = np.full((*rgb.shape[:2], 4), 255, np.uint8)
        packed[..., :3] = (255 * rgb).round()
        height, width = extent or rgb.shape[:2]
        self._source.data = {"image": [packed.view(np.uint32)[..., 0]], "w": [width], "h": [height]}
        if title:
            self.figure.title.text = title
