"""Figures of CDTools' datasets and models: those of `phaseloom.plot`, and those that a user's model lists."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.plot import Live, browse
from phaseloom.plot.gui import (
    Picture,
    SteppedView,
    count_limits,
    freeze_layout,
    has_window,
    is_open,
    open_window,
    process_events,
)
from phaseloom.plot.scan import detector_step
from phaseloom.plot.style import frame

if TYPE_CHECKING:
    from matplotlib.backend_bases import MouseEvent
    from matplotlib.figure import Figure

__all__ = ["LiveWindow", "browse_scan", "draw_listed_plots", "draw_losses", "draw_mean_pattern", "press_key"]
__all__ += ["replace_callbacks"]

log = logging.getLogger(__name__)

LIVE_SHARE = 4
"""Seconds of computing for each second of drawing where no window is open."""

CALLBACKS = "_phaseloom_callbacks"
"""Attribute of a figure: its callbacks of mouse and keys, to be removed when it is drawn anew."""


def browse_scan(scan: Scan4D, *, log: bool, heights: np.ndarray | None = None) -> SteppedView:
    """A map and a pattern; of ``heights`` (angstrom) a curve over the scan and a pattern."""
    view = browse(scan) if heights is None else _browse_heights(scan, heights, log=True)
    return view if log else press_key(view, "l")


def _browse_heights(scan: Scan4D, heights: np.ndarray, *, log: bool) -> SteppedView:
    """Heights of the sample in the order of the scan, and the pattern that was taken there."""
    if scan.heights is None:
        raise BadInput("inspect", None, "the file holds no positions along the beam: use Ptycho2DDataset")
    figure = open_window(12.5, 6.0, "Phaseloom: scan along the beam")
    microns = heights * 1e-4
    left, right = figure.subplots(1, 2)
    frame(left, title=f"{len(scan)} positions along the beam", x="pattern", y="sample, z (µm)")
    left.plot(np.arange(len(scan)), microns, "o-", color="0.6", markersize=4, linewidth=0.8)
    (ring,) = left.plot([], [], "o", markersize=11, markerfacecolor="none", markeredgecolor="#d00000")
    step, dimension = detector_step(scan.geometry)
    picture = Picture(right, pixel=step, dimension=dimension, label="counts", mask=scan.mask)
    state = {"log": log}

    def draw(index: int) -> None:
        pattern = np.asarray(scan.counts[np.array([index])][0], float)
        limits = count_limits(pattern[scan.mask], log=state["log"])
        title = f"pattern {index} (of 0 to {len(scan) - 1}):  z {microns[index]:.4g} µm"
        picture.show(pattern, title=title, limits=limits, log=state["log"])
        ring.set_data([index], microns[index : index + 1])

    view = SteppedView(figure, len(scan), draw, keys={"l": lambda: state.update(log=not state["log"])})
    view.show(0)
    freeze_layout(figure)

    def show_nearest(event: MouseEvent) -> None:
        if event.inaxes is left and event.button == 1 and event.xdata is not None:
            view.show(int(np.clip(round(event.xdata), 0, len(scan) - 1)))

    figure.canvas.mpl_connect("button_press_event", show_nearest)  # pyright: ignore[reportArgumentType]
    return view


def draw_losses(history: Sequence[float], figure: Any = None, *, clear: bool = True) -> Any:
    """Losses over epochs on a logarithmic axis; in a figure of pyplot if none is given."""
    figure = open_window(6.0, 4.5, "Phaseloom: losses") if figure is None else figure
    if clear:
        figure.clear()
    axes = figure.axes[0] if figure.axes else figure.add_subplot()
    frame(axes, title="loss history", x="epoch", y="loss")
    axes.semilogy(np.arange(1, len(history) + 1), history, linewidth=1.2)
    return figure


def draw_mean_pattern(scan: Scan4D) -> Any:
    """The mean pattern on a logarithmic scale."""
    figure = open_window(6.0, 5.5, "Phaseloom: mean pattern")
    step, dimension = detector_step(scan.geometry)
    picture = Picture(figure.subplots(), pixel=step, dimension=dimension, label="counts", mask=scan.mask)
    mean = scan.mean_pattern()
    picture.show(mean, title="mean pattern", limits=count_limits(mean[scan.mask], log=True), log=True)
    return figure


def press_key(view: SteppedView, key: str) -> SteppedView:
    """Send a key to a view."""
    from matplotlib.backend_bases import KeyEvent

    canvas = view.figure.canvas
    canvas.callbacks.process("key_press_event", KeyEvent("key_press_event", canvas, key))
    return view


class LiveWindow:
    """The live view of a model: opened when first asked for, then drawn anew in the same figure.

    Without a window, for a file say, it is drawn at most a fifth of the time, and always when ``done``.

    Attributes:
        live: the view, or ``None`` before.
        drawn_at: time of the last call, seconds.
    """

    def __init__(self) -> None:
        self.live: Live | None = None
        self.drawn_at = 0.0
        self._next = 0.0

    def show(self, source: Callable[[], Mapping[str, Any]], *, done: bool) -> Any:
        """Draw if it is time; the figure."""
        if self.live is None:
            self.live = Live(source, seconds=0)
        if has_window(self.live.figure):
            self.live.update()
        elif done or time.monotonic() >= self._next:
            began = time.monotonic()
            self.live.draw()
            ended = time.monotonic()
            self._next = ended + LIVE_SHARE * (ended - began)
        self.drawn_at = time.monotonic()
        return self.live.figure

    def has_lost_window(self) -> bool:
        """Whether it was open, and its window is not any more."""
        return self.live is not None and not is_open(self.live.figure)


@dataclass(frozen=True)
class ListedPlot:
    """A plot of a model's list.

    Attributes:
        title: of its figure.
        draw: called with the model, a figure and the dataset, or with the first ones of these.
        condition: called with the model, and the dataset if it takes two; ``None``: always.
        subplot: row and column in its panel.
        plot_level: drawn where the model's is at least this.
        figure_size: inches.
    """

    title: str
    draw: Callable[..., Any]
    condition: Callable[..., Any] | None = None
    subplot: Any = None
    plot_level: float = 1
    figure_size: Any = None

    @classmethod
    def of(cls, given: Any) -> ListedPlot:
        """An entry: a dict, or (title, function) and perhaps a condition, as CDTools once had them.

        Raises:
            BadInput: neither.
        """
        if isinstance(given, Mapping) and {"title", "plot_func"} <= set(given):
            names = ("condition", "subplot", "plot_level", "figure_size")
            return cls(given["title"], given["plot_func"], **{k: given[k] for k in names if k in given})
        if isinstance(given, Sequence) and len(given) in (2, 3) and callable(given[1]):
            return cls(*given)
        raise BadInput("plot_list", given, "must be a dict of title and plot_func")

    def fill(self, figure: Any, model: Any, dataset: Any) -> None:
        """Draw it; a plot that fails is reported and does not end a fit."""
        least, most = _count_arguments(self.draw, 2)
        if least > 2 and dataset is None:
            return
        try:
            self.draw(*(model, figure, dataset)[: max(least, min(most, 2))])
        except Exception as error:
            log.warning("inspect: %s cannot be drawn: %s", self.title, error)
            return
        if figure.axes and not figure.axes[0].get_title().strip():
            figure.axes[0].set_title(self.title)


@dataclass(frozen=True)
class PlotPage:
    """A figure of one plot, or of several in a grid (rows, columns)."""

    title: str
    plots: Sequence[ListedPlot]
    grid: tuple[int, int] | None = None
    condition: Callable[..., Any] | None = None
    plot_level: float = 1
    figure_size: Any = None

    def draw(self, figure: Any, model: Any, dataset: Any) -> None:
        """Draw all of its plots that are wanted."""
        if self.grid is None:
            self.plots[0].fill(figure, model, dataset)
            return
        with replace_callbacks(figure):
            figure.clear()
            cells = figure.add_gridspec(*self.grid)
            for plot in self.plots:
                if _meets_condition(plot.condition, model, dataset):
                    row, column = plot.subplot
                    plot.fill(figure.add_subfigure(cells[row, column]), model, dataset)


def draw_listed_plots(model: Any, dataset: Any, *, first: bool, again: bool) -> list[Figure]:
    """Draw and return the figures that a model lists; those that were closed only ``first`` or ``again``."""
    import matplotlib.pyplot as plt

    drawn = []
    for page in _pages(model):
        conditions = [page.condition, *([page.plots[0].condition] if page.grid is None else [])]
        wanted = all(_meets_condition(condition, model, dataset) for condition in conditions)
        if page.plot_level > model.plot_level or not wanted:
            continue
        if not (first or again or plt.fignum_exists(page.title)):
            continue
        with plt.rc_context({} if first else {"figure.raise_window": False}):
            figure = plt.figure(page.title, figsize=page.figure_size)
        page.draw(figure, model, dataset)
        drawn.append(figure)
    shown = [figure for figure in drawn if has_window(figure)]
    for figure in shown:
        figure.canvas.draw_idle()
    process_events(shown)
    return drawn


def _pages(model: Any) -> Iterator[PlotPage]:
    """Panels, whole or in single plots, and then the others."""
    for panel in model.plot_panel_list or []:
        plots = [ListedPlot.of(plot) for plot in panel["plots"]]
        look = {"condition": panel.get("condition"), "plot_level": panel.get("plot_level", 1)}
        if model.panel_plot_mode:
            size = panel.get("figure_size")
            yield PlotPage(panel["title"], plots, tuple(panel["grid"]), figure_size=size, **look)
            continue
        for plot in plots:
            yield PlotPage(plot.title, [replace(plot, subplot=None)], figure_size=plot.figure_size, **look)
    for plot in map(ListedPlot.of, model.plot_list or []):
        yield PlotPage(plot.title, [plot], plot_level=plot.plot_level, figure_size=plot.figure_size)


def _meets_condition(condition: Callable[..., Any] | None, model: Any, dataset: Any) -> bool:
    if condition is None:
        return True
    return bool(condition(model, dataset) if _count_arguments(condition, 1)[0] > 1 else condition(model))


def _count_arguments(call: Callable[..., Any], default: int) -> tuple[int, int]:
    """How many arguments it needs, and how many it takes."""
    try:
        known = list(inspect.signature(call).parameters.values())
    except ValueError:
        return default, default
    placed = [one for one in known if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    least = sum(one.default is one.empty for one in placed)
    return least, 2 if any(one.kind is one.VAR_POSITIONAL for one in known) else len(placed)


@contextmanager
def replace_callbacks(figure: Any) -> Iterator[None]:
    """Disconnect what was connected to a figure in such a block before, and remember what now is."""
    for number in getattr(figure, CALLBACKS, ()):
        figure.canvas.mpl_disconnect(number)
    before = _callbacks(figure)
    yield
    setattr(figure, CALLBACKS, _callbacks(figure) - before)


def _callbacks(figure: Any) -> set[int]:
    return {number for kind in figure.canvas.callbacks.callbacks.values() for number in kind}
