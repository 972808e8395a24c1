"""Windows that stay: figures of pyplot, images that take new values in place, one pump for their events.

Figures of a report belong to nothing (`phaseloom.plot.style.page`); those here are pyplot's, so that
``plt.show()`` shows them in a window or, with ipympl, in a notebook.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from phaseloom.plot.style import FINEST, SMALL, colour_bar, image, show_length, thinned
from phaseloom.units import LENGTH, Dimension

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backend_bases import FigureManagerBase
    from matplotlib.figure import Figure

__all__ = ["Picture", "frozen", "is_open", "plain", "pump", "span", "window", "windowed"]

UNTRUSTED = "#e03030"
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
        self.axes, self.pixel, self.dimension = axes, pixel, dimension
        self.drawn: Any = None
        self._label, self._mask, self._cmap = label, mask, cmap
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
        elif values.ndim == 3 or type(self.drawn.norm) is kind:
            self.drawn.set_data(thinned(values, _fold(values)))
            self.drawn.set_clim(*limits)
        else:
            self.drawn.set_data(thinned(values, _fold(values)))
            self.drawn.set_norm(kind(*limits, clip=log))
            self.drawn.colorbar.minorticks_off()
        self.axes.title.set_text(title)

    def _begin(self, values: np.ndarray, norm: Any) -> None:
        """Everything from an empty panel: also where the shape of what is shown has changed."""
        self.axes.clear()
        look = {} if values.ndim == 3 else {"cmap": self._cmap, "norm": norm}
        self.drawn = image(self.axes, values, pixel=self.pixel, dimension=self.dimension, title=" ", **look)
        if self._mask is not None and not self._mask.all():
            _redden(self.axes, self._mask, self.drawn.get_extent())
        if values.ndim == 2:
            colour_bar(self.axes, self.drawn, self._label)
        self.axes.format_coord = self._place

    def _place(self, x: float, y: float) -> str:
        """Where the mouse is, for the window's status line."""
        return f"y {show_length(y, self.dimension)}, x {show_length(x, self.dimension)}"


def window(width: float, height: float, title: str) -> Figure:
    """An empty figure of pyplot, of a size in inches; in a window if the backend has windows.

    Example:
        >>> import matplotlib.pyplot as plt
        >>> plt.switch_backend("agg")
        >>> figure = window(2, 1, "nothing")
        >>> is_open(figure), windowed(figure)
        (True, False)
        >>> plt.close(figure)
        >>> is_open(figure)
        False
    """
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(width, height), facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.07, h_pad=0.05)
    if (manager := _manager(figure)) is not None:
        manager.set_window_title(title)
    return figure


def frozen(figure: Figure, /) -> None:
    """Keep every panel where it is now, so that new titles and ticks neither move it nor cost time."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def is_open(figure: Figure, /) -> bool:
    """Whether pyplot still knows a figure: nobody has closed its window."""
    from matplotlib._pylab_helpers import Gcf

    return any(manager is _manager(figure) for manager in Gcf.get_all_fig_managers())


def windowed(figure: Figure, /) -> bool:
    """Whether a figure has a window, or a place in a notebook; files and inline pictures have none."""
    from matplotlib.backend_bases import FigureManagerBase

    manager = _manager(figure)
    return manager is not None and type(manager).show is not FigureManagerBase.show


def pump(figures: Iterable[Figure] | None = None, /) -> None:
    """Let windows answer to mouse and keys that came since the last time; default: all that are open."""
    from matplotlib._pylab_helpers import Gcf

    if figures is None:
        figures = [manager.canvas.figure for manager in Gcf.get_all_fig_managers()]
    for figure in figures:
        if is_open(figure):  # one window may have closed another
            figure.canvas.flush_events()


def plain(values: Any, /) -> np.ndarray:
    """An array of numpy, also of a tensor that is learned or lies on a GPU."""
    import torch

    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().resolve_conj().numpy()
    return np.asarray(values)


def span(values: np.ndarray, /, *, log: bool) -> tuple[float, float]:
    """Limits of a scale of counts: from zero, or on a logarithmic one from the faint to the brightest.

    Example:
        >>> span(np.array([0.0, 1.0, 100.0]), log=True), span(np.zeros(3), log=False)
        ((1.99, 100.0), (0.0, 1.0))
    """
    lit = values[np.isfinite(values) & (values > 0)]
    if not lit.size:
        return (0.1, 1.0) if log else (0.0, 1.0)
    high = float(lit.max())
    if not log:
        return 0.0, high
    return float(np.clip(np.percentile(lit, 1), high * 1e-5, high / 10)), high


def _manager(figure: Figure) -> FigureManagerBase | None:
    return figure.canvas.manager


def _fold(values: np.ndarray) -> int:
    """As `image` thins."""
    return max(1, max(values.shape[:2]) // FINEST)


def _redden(axes: Axes, mask: np.ndarray, extent: tuple[float, float, float, float]) -> None:
    """Cover what is not trusted."""
    from matplotlib.colors import ListedColormap

    hidden = np.where(mask, np.nan, 1.0)
    axes.imshow(hidden, extent=extent, cmap=ListedColormap([UNTRUSTED]), interpolation="nearest")
    count = int((~mask).sum())
    note = f"{count} untrusted pixels" if count > 1 else "one untrusted pixel"
    axes.text(1, -0.01, note, transform=axes.transAxes, ha="right", va="top", fontsize=SMALL, color=UNTRUSTED)
