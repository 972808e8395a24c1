"""Figures, axes in units, and steps through stacks, for `plotting`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from phaseloom.compat.cdtools.tools._shared import plain
from phaseloom.errors import BadInput, nearest
from phaseloom.plot.gui import View

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["MICRON", "figure_of", "get_units_factor", "label", "lay", "page_steps", "shown_before", "stepped"]

MICRON = "$\\mu$m"
FACTORS = {"m": 1, "cm": 1e2, "mm": 1e3, "um": 1e6, "µm": 1e6, MICRON: 1e6, "nm": 1e9, "a": 1e10, "pm": 1e12}


def get_units_factor(units: str) -> float:
    """What metres are multiplied by to be in a unit.

    Raises:
        BadInput: an unknown unit.
    """
    if units.lower() not in FACTORS:
        raise BadInput("plotting.units", units, f"is not known: {nearest(units, FACTORS)}")
    return FACTORS[units.lower()]


def figure_of(fig: Any, kwargs: dict[str, Any]) -> Any:
    """The figure that is given, or a new one of pyplot."""
    import matplotlib.pyplot as plt

    return plt.figure(**kwargs) if fig is None else fig


VIEW = "_phaseloom_view"
"""Attribute of a figure that holds what steps through its images."""


def shown_before(figure: Any, count: int) -> int:
    """The number that a figure showed before, if it can show it again."""
    view = getattr(figure, VIEW, None)
    return view.index if view is not None and view.index < count else 0


def stepped(
    figure: Any,
    count: int,
    draw: Callable[[int], None],
    shown: int,
    *,
    row: int = 10,
    label: str,
    picked: bool = False,
) -> Any:
    """Slider and keys for a figure, instead of those it had."""
    for number in getattr(figure, VIEW + "_calls", ()):
        figure.canvas.mpl_disconnect(number)
    before = _keys(figure)
    view = View(figure, count, draw, row=row)
    calls = _keys(figure) - before
    view.slide_on(figure.add_axes((0.25, 0.03, 0.5, 0.04)), label)
    view.show(shown)
    if picked:
        calls.add(figure.canvas.mpl_connect("pick_event", lambda event: view.show(int(event.ind[0]))))
    setattr(figure, VIEW, view)
    setattr(figure, VIEW + "_calls", calls)
    return figure


def label(axes: Axes, basis: Any, units: str) -> None:
    """Labels of both axes: pixels, or a unit."""
    x, y = ("j (pixels)", "i (pixels)") if basis is None else (f"X ({units})", f"Y ({units})")
    axes.set(facecolor="k", xlabel=x, ylabel=y)


def page_steps(basis: np.ndarray, view_basis: Any) -> np.ndarray:
    """Steps on the page, (right, down) by (column, row): upright unless another view is asked for."""
    row, column = basis.T
    if not isinstance(view_basis, str):
        view = plain(view_basis) / np.linalg.norm(plain(view_basis), axis=0)
        return np.linalg.lstsq(view[:, ::-1], basis[:, ::-1], rcond=None)[0]
    width = np.linalg.norm(column)
    along = row @ column / width
    return np.array([[width, along], [0, np.sqrt(max(row @ row - along**2, 0))]])


def lay(picture: Any, shape: Sequence[int], steps: np.ndarray) -> None:
    """Draw an image on the page by its steps, rows downwards."""
    from matplotlib.transforms import Affine2D

    (a, c), (b, d) = steps
    axes = picture.axes
    picture.set_transform(Affine2D.from_values(a, b, c, d, 0, 0) + axes.transData)
    y, x = (np.array([-0.5, n - 0.5]) for n in shape)
    corners = steps @ np.stack([np.tile(x, 2), np.repeat(y, 2)])
    axes.set_xlim(corners[0].min(), corners[0].max())
    axes.set_ylim(corners[1].max(), corners[1].min())


def _keys(figure: Any) -> set[int]:
    """What answers to keys now."""
    return set(figure.canvas.callbacks.callbacks.get("key_press_event", {}))
