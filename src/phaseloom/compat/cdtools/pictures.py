"""Pictures of models that users write: what their ``plot_list`` and ``plot_panel_list`` ask for."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from phaseloom.compat.cdtools.data import ANGSTROM, CDataset, array, geometry_of
from phaseloom.data.formats.arrays import clean
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.plot.gui import pump, windowed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["modelled", "pictures", "shots"]

log = logging.getLogger(__name__)

CALLS = "_phaseloom_calls"
"""Attribute of a figure: what answers to mouse and keys in it, to be forgotten when it is drawn anew."""


@dataclass(frozen=True)
class Plot:
    """A picture of a model.

    Attributes:
        title: of its figure.
        draw: called with the model, a figure and the dataset, or with the first ones of these.
        wanted: called with the model, and the dataset if it takes two; ``None``: always.
        place: row and column in its panel; ``None``: it has a figure of its own.
    """

    title: str
    draw: Callable[..., Any]
    wanted: Callable[..., Any] | None = None
    place: Any = None


@dataclass(frozen=True)
class Page:
    """A figure of one picture, or of several in a grid (rows, columns)."""

    title: str
    plots: Sequence[Plot]
    grid: tuple[int, int] | None = None
    wanted: Callable[..., Any] | None = None
    level: float = 1
    size: Any = None


def pictures(model: Any, dataset: CDataset | None, *, first: bool, again: bool) -> list[Figure]:
    """Draw the figures of a model, those that were closed no more.

    Args:
        model: with ``plot_list``, ``plot_panel_list``, ``panel_plot_mode`` and ``plot_level``.
        dataset: for pictures that show something of it.
        first: open all.
        again: open those that were closed.

    Returns:
        The figures that were drawn.
    """
    import matplotlib.pyplot as plt

    drawn = []
    for page in _pages(model):
        fits = page.level <= model.plot_level and _wanted(page.wanted, model, dataset)
        if page.grid is None:
            fits = fits and _wanted(page.plots[0].wanted, model, dataset)
        if not fits or not (first or again or plt.fignum_exists(page.title)):
            continue
        with plt.rc_context({} if first else {"figure.raise_window": False}):
            figure = plt.figure(page.title, figsize=page.size)
        _draw(page, figure, model, dataset)
        drawn.append(figure)
    shown = [figure for figure in drawn if windowed(figure)]
    for figure in shown:
        figure.canvas.draw_idle()
    pump(shown)
    return drawn


def _pages(model: Any) -> Iterator[Page]:
    """Panels, whole or in single pictures, and then the others."""
    for panel in model.plot_panel_list or []:
        look = {"level": panel.get("plot_level", 1), "wanted": panel.get("condition")}
        plots = [_plot(plot) for plot in panel["plots"]]
        if model.panel_plot_mode:
            size = panel.get("figure_size")
            yield Page(panel["title"], plots, tuple(panel["grid"]), **look, size=size)
            continue
        for plot, given in zip(plots, panel["plots"], strict=True):
            one = replace(plot, place=None)
            yield Page(plot.title, [one], **look, size=given.get("figure_size"))
    for given in model.plot_list or []:
        plot = _plot(given)
        more = given if isinstance(given, Mapping) else {}
        level, size = more.get("plot_level", 1), more.get("figure_size")
        yield Page(plot.title, [plot], level=level, size=size)


def _plot(given: Any) -> Plot:
    """An entry: a dict, or (title, function) and perhaps a condition, as CDTools once had them.

    Raises:
        BadInput: neither.
    """
    if isinstance(given, Mapping) and {"title", "plot_func"} <= set(given):
        return Plot(given["title"], given["plot_func"], given.get("condition"), given.get("subplot"))
    if isinstance(given, Sequence) and len(given) in (2, 3) and callable(given[1]):
        return Plot(*given)
    raise BadInput("plot_list", given, "must be a dict of title and plot_func")


def _draw(page: Page, figure: Any, model: Any, dataset: CDataset | None) -> None:
    if page.grid is None:
        return _fill(page.plots[0], figure, model, dataset)
    for number in getattr(figure, CALLS, ()):
        figure.canvas.mpl_disconnect(number)
    figure.clear()
    before, cells = _calls(figure), figure.add_gridspec(*page.grid)
    for plot in page.plots:
        if _wanted(plot.wanted, model, dataset):
            row, column = plot.place
            _fill(plot, figure.add_subfigure(cells[row, column]), model, dataset)
    setattr(figure, CALLS, _calls(figure) - before)


def _fill(plot: Plot, figure: Any, model: Any, dataset: CDataset | None) -> None:
    """Draw one picture; one that cannot be drawn is reported and does not end a fit."""
    least, most = _counts(plot.draw, 2)
    if least > 2 and dataset is None:
        return
    try:
        plot.draw(*(model, figure, dataset)[: max(least, min(most, 2))])
    except Exception as error:
        log.warning("inspect: %s cannot be drawn: %s", plot.title, error)
        return
    if figure.axes and not figure.axes[0].get_title().strip():
        figure.axes[0].set_title(plot.title)


def _wanted(condition: Callable[..., Any] | None, model: Any, dataset: CDataset | None) -> bool:
    if condition is None:
        return True
    return bool(condition(model, dataset) if _counts(condition, 1)[0] > 1 else condition(model))


def _counts(call: Callable[..., Any], else_: int) -> tuple[int, int]:
    """How many arguments it needs, and how many it takes."""
    try:
        known = list(inspect.signature(call).parameters.values())
    except ValueError:
        return else_, else_
    placed = [one for one in known if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    least = sum(one.default is one.empty for one in placed)
    return least, 2 if any(one.kind is one.VAR_POSITIONAL for one in known) else len(placed)


def _calls(figure: Any) -> set[int]:
    """What answers to events now."""
    return {number for kind in figure.canvas.callbacks.callbacks.values() for number in kind}


def shots(dataset: CDataset, mask: Any) -> Scan4D:
    """The patterns of any dataset, for pictures alone: where they were taken is not told.

    Args:
        dataset: with or without wavelength and detector.
        mask: ``(y, x)``, True: good; or ``None``.
    """
    counts, trusted = clean(np.array(array(dataset[:][1])), "patterns")
    rows, columns = counts.shape[1:]
    geometry = Geometry(wavelength=1.0, shape=(rows, columns), angle=(1e-3, 1e-3))
    if dataset.wavelength is not None and dataset.detector_geometry is not None:
        wavelength = float(dataset.wavelength) / ANGSTROM
        geometry = geometry_of(dataset.detector_geometry, wavelength, counts.shape[1:])
    good = trusted if mask is None else trusted & array(mask).astype(bool)
    return Scan4D(counts=counts, positions=np.zeros((counts.shape[0], 2)), geometry=geometry, mask=good)


@torch.no_grad()
def modelled(model: Any, dataset: CDataset, index: int) -> np.ndarray:
    """What a model expects of one pattern ``(y, x)``."""
    inputs, _ = dataset[index : index + 1]
    pattern = array(model(*inputs))
    return pattern[0] if pattern.ndim > 2 else pattern
