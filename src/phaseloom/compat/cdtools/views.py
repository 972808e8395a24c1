"""Pictures of CDTools' datasets and models: our interactive ones, opened the way its users expect."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.plot import Live, browse
from phaseloom.plot.gui import Picture, View, frozen, is_open, span, window, windowed
from phaseloom.plot.scan import detector_step
from phaseloom.plot.style import frame

if TYPE_CHECKING:
    from matplotlib.backend_bases import MouseEvent

__all__ = ["Window", "browsed", "by_height", "losses", "mean_pattern", "pressed"]


def browsed(scan: Scan4D, *, log: bool) -> View:
    """A map and a pattern."""
    view = browse(scan)
    return view if log else pressed(view, "l")


def by_height(scan: Scan4D, heights: np.ndarray, *, log: bool) -> View:
    """Heights of the sample, angstrom, in the order of the scan, and the pattern that was taken there."""
    if scan.heights is None:
        raise BadInput("inspect", None, "the file holds no positions along the beam: use Ptycho2DDataset")
    figure, along = window(12.5, 6.0, "Phaseloom: scan along the beam"), heights * 1e-4
    left, right = figure.subplots(1, 2)
    frame(left, title=f"{len(scan)} positions along the beam", x="pattern", y="sample, z (µm)")
    left.plot(np.arange(len(scan)), along, "o-", color="0.6", markersize=4, linewidth=0.8)
    (ring,) = left.plot([], [], "o", markersize=11, markerfacecolor="none", markeredgecolor="#d00000")
    step, dimension = detector_step(scan.geometry)
    picture = Picture(right, pixel=step, dimension=dimension, label="counts", mask=scan.mask)
    state = {"log": log}

    def draw(index: int) -> None:
        pattern = np.asarray(scan.counts[np.array([index])][0], float)
        limits = span(pattern[scan.mask], log=state["log"])
        title = f"pattern {index} (of 0 to {len(scan) - 1}):  z {along[index]:.4g} µm"
        picture.show(pattern, title=title, limits=limits, log=state["log"])
        ring.set_data([index], along[index : index + 1])

    view = View(figure, len(scan), draw, keys={"l": lambda: state.update(log=not state["log"])})
    view.show(0)
    frozen(figure)

    def clicked(event: MouseEvent) -> None:
        if event.inaxes is left and event.button == 1 and event.xdata is not None:
            view.show(int(np.clip(round(event.xdata), 0, len(scan) - 1)))

    figure.canvas.mpl_connect("button_press_event", clicked)  # type: ignore[arg-type]
    return view


def losses(history: Sequence[float], figure: Any = None, *, clear: bool = True) -> Any:
    """Losses over epochs on a logarithmic axis; in a figure of pyplot if none is given."""
    figure = window(6.0, 4.5, "Phaseloom: losses") if figure is None else figure
    if clear:
        figure.clear()
    axes = figure.axes[0] if figure.axes else figure.add_subplot()
    frame(axes, title="loss history", x="epoch", y="loss")
    axes.semilogy(np.arange(1, len(history) + 1), history, linewidth=1.2)
    return figure


def mean_pattern(scan: Scan4D) -> Any:
    """The mean pattern on a logarithmic scale."""
    figure = window(6.0, 5.5, "Phaseloom: mean pattern")
    step, dimension = detector_step(scan.geometry)
    picture = Picture(figure.subplots(), pixel=step, dimension=dimension, label="counts", mask=scan.mask)
    mean = scan.mean_pattern()
    picture.show(mean, title="mean pattern", limits=span(mean[scan.mask], log=True), log=True)
    return figure


class Window:
    """The live view of a model: opened when first asked for, then drawn anew in the same figure.

    Without a window, for a file say, it is drawn at most a fifth of the time, and always when ``done``.

    Attributes:
        live: the view, or ``None`` before.
        drawn: moment of the last call, seconds.
    """

    def __init__(self) -> None:
        self.live: Live | None = None
        self.drawn = self._next = 0.0

    def show(self, source: Callable[[], Mapping[str, Any]], *, done: bool) -> Any:
        """Draw if it is time; the figure."""
        if self.live is None:
            self.live = Live(source, seconds=0)
        if windowed(self.live.figure):
            self.live.update()
        elif done or time.monotonic() >= self._next:
            began = time.monotonic()
            self.live.draw()
            ended = time.monotonic()
            self._next = ended + 4 * (ended - began)
        self.drawn = time.monotonic()
        return self.live.figure

    def closed(self) -> bool:
        """Whether it was open, and its window is not any more."""
        return self.live is not None and not is_open(self.live.figure)


def pressed(view: View, key: str) -> View:
    """As if a key had been pressed."""
    from matplotlib.backend_bases import KeyEvent

    canvas = view.figure.canvas
    canvas.callbacks.process("key_press_event", KeyEvent("key_press_event", canvas, key))
    return view
