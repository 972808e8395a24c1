"""Windows of pyplot: images updated in place, views stepped by keys and a slider, event handling.

Figures of a report belong to no window (`phaseloom.plot.style.new_figure`); those here are pyplot's, so that
``plt.show()`` shows them in a window or, with ipympl, in a notebook.

    from phaseloom import plot
    view = plot.slide(results, draw_modes)
    plt.show()
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from phaseloom.errors import BadInput
from phaseloom.plot.style import MAX_IMAGE_SIDE, SMALL_FONT, average_blocks, colour_bar, image, show_length
from phaseloom.units import LENGTH, Dimension

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backend_bases import KeyEvent
    from matplotlib.figure import Figure, FigureBase

__all__ = ["DEFAULT_ROW_STEP", "Picture", "SteppedView", "count_limits", "freeze_layout", "has_window"]
__all__ += ["is_open", "open_window", "process_events", "slide", "to_numpy", "watching"]

Item = TypeVar("Item")

UNTRUSTED_COLOUR = "#e03030"
"""Red of the pixels that a mask takes out."""


class Picture:
    """An image to scale with its colour bar; new values take the place of the old in the same artists.

    Attributes:
        axes: where it is drawn.
        drawn: matplotlib's image, once something was shown.
    """

    def __init__(
        self,
        axes: Axes,
        /,
        *,
        pixel: tuple[float, float],
        dimension: Dimension = LENGTH,
        label: str = "",
        mask: np.ndarray | None = None,
        cmap: str = "magma",
    ):
        self.axes = axes
        self.pixel = pixel
        self.dimension = dimension
        self.drawn: Any = None
        self._label = label
        self._mask = mask
        self._cmap = cmap
        self._fits: tuple[Any, ...] = ()
        axes.axis("off")

    def show(
        self,
        values: np.ndarray,
        /,
        *,
        title: str,
        limits: tuple[float, float] = (0.0, 1.0),
        log: bool = False,
        pixel: tuple[float, float] | None = None,
    ) -> None:
        """Show values ``(y, x)`` within limits, or colours ``(y, x, rgb)``; another shape begins anew."""
        from matplotlib.colors import LogNorm, Normalize

        self.pixel = self.pixel if pixel is None else pixel
        kind = LogNorm if log else Normalize
        fits = (values.shape, self.pixel)
        if fits != self._fits:
            self._begin(values, kind(*limits, clip=log))
            self._fits = fits
        else:
            self.drawn.set_data(average_blocks(values, max(1, max(values.shape[:2]) // MAX_IMAGE_SIDE)))
            if values.ndim == 3 or type(self.drawn.norm) is kind:
                self.drawn.set_clim(*limits)
            else:
                self.drawn.set_norm(kind(*limits, clip=log))
                self.drawn.colorbar.minorticks_off()
        self.axes.title.set_text(title)

    def _begin(self, values: np.ndarray, norm: Any) -> None:
        """Everything from an empty panel: also where the shape of what is shown has changed."""
        self.axes.clear()
        look = {} if values.ndim == 3 else {"cmap": self._cmap, "norm": norm}
        self.drawn = image(self.axes, values, pixel=self.pixel, dimension=self.dimension, title=" ", **look)
        if self._mask is not None and not self._mask.all():
            _draw_mask(self.axes, self._mask, self.drawn.get_extent())
        if values.ndim == 2:
            colour_bar(self.axes, self.drawn, self._label)
        self.axes.format_coord = self._place

    def _place(self, x: float, y: float) -> str:
        """Where the mouse is, for the window's status line."""
        return f"y {show_length(y, self.dimension)}, x {show_length(x, self.dimension)}"


def open_window(width: float, height: float, title: str) -> Figure:
    """An empty figure of pyplot, of a size in inches; in a window if the backend has windows.

    Example:
        >>> import matplotlib.pyplot as plt
        >>> plt.switch_backend("agg")
        >>> figure = open_window(2, 1, "nothing")
        >>> is_open(figure), has_window(figure)
        (True, False)
        >>> plt.close(figure)
        >>> is_open(figure)
        False
    """
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(width, height), facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.07, h_pad=0.05)
    if (manager := figure.canvas.manager) is not None:
        manager.set_window_title(title)
    return figure


def freeze_layout(figure: Figure, /) -> None:
    """Keep every panel where it is now, so that new titles and ticks neither move it nor cost time."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def is_open(figure: Figure, /) -> bool:
    """Whether pyplot still knows a figure: nobody has closed its window."""
    return any(figure is one for one in _open_figures())


def has_window(figure: Figure, /) -> bool:
    """Whether a figure has a window, or a place in a notebook; files and inline pictures have none."""
    from matplotlib.backend_bases import FigureManagerBase

    manager = figure.canvas.manager
    return manager is not None and type(manager).show is not FigureManagerBase.show


def process_events(figures: Iterable[Figure] | None = None, /) -> None:
    """Let windows answer to mouse and keys that came since the last time; default: all that are open."""
    for figure in _open_figures() if figures is None else figures:
        if is_open(figure):  # one window may have closed another
            figure.canvas.flush_events()


def to_numpy(values: Any, /) -> np.ndarray:
    """An array of numpy, also of a tensor that is learned or lies on a GPU."""
    import torch

    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().resolve_conj().numpy()
    return np.asarray(values)


def count_limits(values: np.ndarray, /, *, log: bool) -> tuple[float, float]:
    """Limits of a scale of counts: from zero, or on a logarithmic one from the faint to the brightest.

    Example:
        >>> count_limits(np.array([0.0, 1.0, 100.0]), log=True), count_limits(np.zeros(3), log=False)
        ((1.99, 100.0), (0.0, 1.0))
    """
    lit = values[np.isfinite(values) & (values > 0)]
    if not lit.size:
        return (0.1, 1.0) if log else (0.0, 1.0)
    high = float(lit.max())
    if not log:
        return 0.0, high
    return float(np.clip(np.percentile(lit, 1), high * 1e-5, high / 10)), high


def _open_figures() -> list[Figure]:
    """All figures of pyplot; the current one stays the current one."""
    import matplotlib.pyplot as plt

    if not (numbers := plt.get_fignums()):
        return []
    current = plt.gcf()
    figures = [plt.figure(number) for number in numbers]
    plt.figure(current)
    return figures


def _draw_mask(axes: Axes, mask: np.ndarray, extent: tuple[float, float, float, float]) -> None:
    """Cover what is not trusted."""
    from matplotlib.colors import ListedColormap

    hidden = np.where(mask, np.nan, 1.0)
    axes.imshow(hidden, extent=extent, cmap=ListedColormap([UNTRUSTED_COLOUR]), interpolation="nearest")
    count = int((~mask).sum())
    note = f"{count} untrusted pixels" if count > 1 else "one untrusted pixel"
    axes.text(
        1,
        -0.01,
        note,
        transform=axes.transAxes,
        ha="right",
        va="top",
        fontsize=SMALL_FONT,
        color=UNTRUSTED_COLOUR,
    )


DEFAULT_ROW_STEP = 10
"""Steps of the keys up and down where no raster says how long a row is."""


class SteppedView:
    """A figure that shows one of several things; arrow keys, a slider or `show` choose which.

    The figure holds its view, so nothing need be kept for it to answer.

    Attributes:
        figure: of pyplot.
        index: of what is shown.
        slider: matplotlib's, if there is one.
    """

    def __init__(
        self,
        figure: Figure,
        count: int,
        draw: Callable[[int], None],
        /,
        *,
        row: int = DEFAULT_ROW_STEP,
        keys: Mapping[str, Callable[[], None]] | None = None,
    ):
        self.figure = figure
        self.index = 0
        self.slider = None
        self._count = count
        self._draw = draw
        self._keys = dict(keys or {})
        self._steps = {"right": 1, "left": -1, "down": row, "up": -row, "home": -count, "end": count}
        canvas = figure.canvas
        if canvas.manager is not None and canvas.manager.key_press_handler_id is not None:
            canvas.mpl_disconnect(canvas.manager.key_press_handler_id)

        # a function: matplotlib keeps only a weak reference to a method, and the view would be collected
        def on_key(event: KeyEvent) -> None:
            self._on_key(event)

        canvas.mpl_connect("key_press_event", on_key)

    def show(self, index: int, /) -> None:
        """Show the thing of a number, counted from 0.

        Raises:
            BadInput: there is none of that number.
        """
        if not 0 <= index < self._count:
            raise BadInput("plot.show", index, f"is not one of {self._count}, counted from 0")
        self.index = int(index)
        self._draw(self.index)
        if self.slider is not None and round(self.slider.val) != self.index:
            self.slider.set_val(self.index)
        self.figure.canvas.draw_idle()

    def slide_on(self, axes: Axes, label: str, /) -> None:
        """Add a slider; a single thing has none."""
        from matplotlib.widgets import Slider

        axes.axis("off")
        if self._count == 1:
            return
        look: dict[str, Any] = {"valinit": self.index, "valstep": 1, "valfmt": "%d", "initcolor": "none"}
        self.slider = Slider(axes, label, 0, self._count - 1, **look)
        for text in (self.slider.label, self.slider.valtext):
            text.set_fontsize(SMALL_FONT + 1)
        self.slider.on_changed(self._on_slider)

    def _on_slider(self, value: float) -> None:
        if round(value) != self.index:
            self.show(round(value))

    def _on_key(self, event: KeyEvent) -> None:
        """Act on the keys of this view; all others do what they do in any window of matplotlib."""
        from matplotlib.backend_bases import key_press_handler

        key = event.key or ""
        if key in self._keys:
            self._keys[key]()
            self.show(self.index)
        elif key in self._steps:
            self.show(min(max(self.index + self._steps[key], 0), self._count - 1))
        else:
            key_press_handler(event)


def slide(
    stack: Sequence[Item],
    draw: Callable[[FigureBase, Item], object],
    /,
    *,
    label: str = "number",
    size: tuple[float, float] = (7.0, 6.0),
) -> SteppedView:
    """Step through anything by a slider and arrow keys: slices, modes, results of several runs.

    Args:
        stack: what is to be seen; each item is asked for when it is shown.
        draw: draws an item into an empty panel, a `matplotlib.figure.SubFigure`.
        label: what the numbers count.
        size: of the figure, inches.

    Raises:
        BadInput: nothing to be seen.

    Example:
        >>> import matplotlib.pyplot as plt
        >>> plt.switch_backend("agg")
        >>> view = slide(np.eye(3), lambda panel, line: panel.subplots().plot(line), label="row")
        >>> view.show(2)
        >>> plt.close(view.figure)
    """
    if len(stack) == 0:
        raise BadInput("plot.slide: stack", None, "holds nothing to be seen")
    figure = open_window(*size, "Phaseloom")
    above, below = figure.subfigures(2, 1, height_ratios=[12, 1], squeeze=False)[:, 0]

    def redraw(index: int) -> None:
        above.clear()
        draw(above, stack[index])

    view = SteppedView(figure, len(stack), redraw)
    view.slide_on(below.subplots(), label)
    view.show(0)
    return view


log = logging.getLogger(__name__)


def watching(iterable: Iterable[Item], /, *, figures: Sequence[Figure] | None = None) -> Iterator[Item]:
    """The items of an iterable, such as the epochs of a job, with windows awake between them.

    Ctrl-C ends the loop and not the program: while an item is computed, it is raised in the generator (a fit
    goes back to its last good state and ends); between items, the body of the loop is left to finish.
    Either way the loop is over as if there were no more items. A second Ctrl-C is raised.

    Args:
        iterable: anything; computed in this thread, so windows sleep while an item is under way.
        figures: whose events are handled; default: of all windows that are open.

    Yields:
        Its items.

    Example:
        >>> def epochs():
        ...     yield 1
        ...     raise KeyboardInterrupt
        >>> list(watching(epochs()))
        [1]
    """
    items = iter(iterable)
    with _Interrupts() as interrupts:
        while not interrupts.count:
            try:
                item = interrupts.within(items)
            except StopIteration:
                return
            except KeyboardInterrupt:
                if interrupts.count > 1:
                    raise
                return
            yield item
            process_events(figures)


class _Interrupts:
    """Ctrl-C counted: the first is raised only while an item is computed, all others at once.

    A program that handles Ctrl-C itself, and threads, which never hear of it, are left alone.
    """

    def __init__(self) -> None:
        self.count = 0
        self._inside = False
        self._installed = False

    def __enter__(self) -> _Interrupts:
        here = threading.current_thread() is threading.main_thread()
        if here and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._on_interrupt)
            self._installed = True
        return self

    def __exit__(self, *_: object) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def within(self, items: Iterator[Item]) -> Item:
        """The next item."""
        self._inside = True
        try:
            return next(items)
        finally:
            self._inside = False

    def _on_interrupt(self, number: int, stack: FrameType | None) -> None:
        self.count += 1
        if self._inside or self.count > 1:
            raise KeyboardInterrupt
        log.warning("Ctrl-C: ends after this item; again: at once")
