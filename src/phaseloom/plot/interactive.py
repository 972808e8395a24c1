"""Figures that answer to keys and a slider: step through anything, one thing at a time.

from phaseloom import plot
view = plot.slide(results, draw_modes)
plt.show()
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from phaseloom.errors import BadInput
from phaseloom.plot.gui import window
from phaseloom.plot.style import SMALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backend_bases import KeyEvent
    from matplotlib.figure import Figure, FigureBase

__all__ = ["FAR", "View", "slide"]

Seen = TypeVar("Seen")

FAR = 10
"""Steps of the keys up and down where no raster says how long a row is."""


class View:
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
        row: int = FAR,
        keys: Mapping[str, Callable[[], None]] | None = None,
    ):
        self.figure, self.index, self.slider = figure, 0, None
        self._count, self._draw, self._keys = count, draw, dict(keys or {})
        self._steps = {"right": 1, "left": -1, "down": row, "up": -row, "home": -count, "end": count}
        canvas = figure.canvas
        if canvas.manager is not None and canvas.manager.key_press_handler_id is not None:
            canvas.mpl_disconnect(canvas.manager.key_press_handler_id)

        def pressed(event: KeyEvent) -> None:  # a function, for a method would not keep its object alive
            self._pressed(event)

        canvas.mpl_connect("key_press_event", pressed)  # type: ignore[arg-type]

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
            text.set_fontsize(SMALL + 1)
        self.slider.on_changed(self._slid)

    def _slid(self, value: float) -> None:
        if round(value) != self.index:
            self.show(round(value))

    def _pressed(self, event: KeyEvent) -> None:
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
    stack: Sequence[Seen],
    draw: Callable[[FigureBase, Seen], object],
    /,
    *,
    label: str = "number",
    size: tuple[float, float] = (7.0, 6.0),
) -> View:
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
    figure = window(*size, "Phaseloom")
    above, below = figure.subfigures(2, 1, height_ratios=[12, 1], squeeze=False)[:, 0]

    def redraw(index: int) -> None:
        above.clear()
        draw(above, stack[index])

    view = View(figure, len(stack), redraw)
    view.slide_on(below.subplots(), label)
    view.show(0)
    return view
