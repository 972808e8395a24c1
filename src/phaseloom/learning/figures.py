"""Figures of a training: its losses, and what the network makes of scans that it has never seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from phaseloom.plot.style import LINE_COLOURS, LINE_DASHES, colour_bar, frame, image, limits, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_losses", "plot_predictions"]


def plot_losses(history: Sequence[Mapping[str, Any]], /) -> Figure:
    """Losses of each epoch by their terms, that of what is held out, and the rate.

    Example:
        >>> events = [{"number": n, "terms": {"contrast": 1 / n}, "holdout": 2 / n, "rates": {"net": 0.1}}
        ...           for n in (1, 2, 3)]
        >>> len(plot_losses(events).axes)
        2
    """
    figure = new_figure(6.4, 5.0)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    epochs = [event["number"] for event in history]
    names = list(dict.fromkeys(name for event in history for name in event["terms"]))
    lines = {name: [event["terms"].get(name, np.nan) for event in history] for name in names}
    lines["held out"] = [np.nan if e["holdout"] is None else e["holdout"] for e in history]
    for number, (name, values) in enumerate(lines.items()):
        style = {
            "color": LINE_COLOURS[number % len(LINE_COLOURS)],
            "linestyle": LINE_DASHES[number % len(LINE_DASHES)],
        }
        upper.plot(epochs, values, label=name, **style)
    frame(upper, title="Training", x="", y="loss")
    finite = [value for values in lines.values() for value in values if np.isfinite(value)]
    upper.set_yscale("log" if min(finite, default=0.0) > 0 else "linear")
    upper.legend()
    rates = [event["rates"].get("net", max(event["rates"].values(), default=np.nan)) for event in history]
    lower.plot(epochs, rates, color=LINE_COLOURS[0])
    frame(lower, title="", x="epoch", y="rate")
    lower.set_yscale("log")
    return figure


def plot_predictions(
    images: Sequence[np.ndarray], phases: Sequence[np.ndarray], names: Sequence[str], /, *, pixel: float
) -> Figure:
    """Predicted phases beside the true ones and the differences, each row on one scale.

    Args:
        images: predicted ``(y, x)``, radian.
        phases: true.
        names: of the rows.
        pixel: angstrom.
    """
    figure = new_figure(8.0, 2.5 * len(images))
    rows = figure.subplots(len(images), 3, squeeze=False)
    for axes, found, true, name in zip(rows, images, phases, names, strict=True):
        level = found - found.mean()
        known = true - true.mean()
        low, high = limits(known)
        reach = (high - low) / 2
        parts = [(known, f"{name}: true", "viridis", low, high), (level, "predicted", "viridis", low, high)]
        parts.append((level - known, "difference", "RdBu_r", -reach, reach))
        for axis, (what, title, colours, bottom, top) in zip(axes, parts, strict=True):
            look = {"title": title, "cmap": colours, "vmin": bottom, "vmax": top}
            colour_bar(axis, image(axis, what, pixel=(pixel, pixel), **look), "rad")
    return figure
