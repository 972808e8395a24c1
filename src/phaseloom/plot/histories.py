"""Figures of how a run went: losses, and all else that was refined, over the epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from phaseloom.plot.style import (
    LINE_COLOURS,
    LINE_DASHES,
    SMALL_FONT,
    add_free_legend,
    draw_note,
    frame,
    name_powers,
    new_figure,
    unit_of,
)
from phaseloom.units import LENGTH, Coefficients

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase

    from phaseloom.result import Result

__all__ = ["QuantityHistory", "losses", "quantity_histories", "refined_parameters"]

History = Sequence[Mapping[str, Any]]

PANELS_ABREAST = 4
"""Panels side by side."""

MIN_RATIO_OF_LOG_TICKS = 5.0
"""Highest over lowest value of an axis from which 1, 2 and 5 of each decade are ticks enough."""

MIN_TERM_SHARE = 1e-3
"""Share of the lowest loss below which a term is in the legend only."""


@dataclass(frozen=True)
class QuantityHistory:
    """A quantity over the epochs.

    Attributes:
        title: what it is.
        label: the same in short with its unit, for the axis.
        epochs: where it is known.
        curves: one or several by name, each as long as ``epochs``, NaN where unknown.
        log: whether its scale is logarithmic.
    """

    title: str
    label: str
    epochs: np.ndarray
    curves: Mapping[str, np.ndarray]
    log: bool = False

    @property
    def moves(self) -> bool:
        """Whether anything in it changes by more than rounding."""
        return any(_changes(values) for values in self.curves.values())


def losses(r: Result) -> Figure:
    """Loss of each epoch, every term it is made of, and that of the patterns held out, whose best is marked.

    On a logarithmic scale, a term of less than a thousandth of the loss stands in the legend alone.
    """
    figure = new_figure(6.0, 4.0)
    draw_losses(figure.subplots(), r)
    return figure


def refined_parameters(r: Result) -> Figure:
    """Thickness, tilt, defocus, aberrations, powers of modes, rates over the epochs: those that changed."""
    found = [course for course in [*quantity_histories(r.history), _rate_history(r.history)] if course.moves]
    lines = -(-len(found) // PANELS_ABREAST) or 1
    figure = new_figure(3.8 * min(max(len(found), 1), PANELS_ABREAST), 3.0 * lines)
    if not found:
        draw_note(figure, "nothing but the images was refined")
        return figure
    draw_histories(figure, found)
    return figure


def quantity_histories(history: History, /) -> list[QuantityHistory]:
    """What the history knows of thickness, tilt, defocus, aberrations and powers, moving or not.

    Example:
        >>> rows = [{"number": n, "loss": 1.0, "state": {"thickness (A)": 10.0 + n}} for n in (1, 2, 3)]
        >>> [(course.title, course.moves) for course in quantity_histories(rows)]
        [('Distance of slices', True)]
    """
    rows = [row for row in history if row.get("state")]
    epochs = np.array([row["number"] for row in rows], float)
    states = [row["state"] for row in rows]
    return [
        *_length_histories(epochs, states),
        *_tilt_history(epochs, states),
        *_power_history(epochs, states),
        *_aberration_histories(epochs, states),
    ]


def has_noise_losses(history: History, /) -> bool:
    """Whether the losses are in units of shot noise: those of a run that compares counts."""
    return bool(history) and all("noise" in (row.get("terms") or ()) for row in history)


def draw_drift(axes: Axes, r: Result) -> None:
    """Moves of the positions in the order of the scan, and the line through them."""
    move = np.asarray(r.positions, float) - r.positions_start
    drift = r.drift
    unit, scale = unit_of(float(np.abs(move).max()))
    count = np.arange(len(move))
    frame(axes, title="Moves in the order of the scan", x="pattern", y=f"move ({unit})")
    for axis, name in enumerate("yx"):
        look = {"color": LINE_COLOURS[axis], "rasterized": True}
        axes.plot(count, move[:, axis] / scale, ".", markersize=2, alpha=0.5, **look)
        label = f"{name}: {drift.trend[axis] / scale:+.3g} {unit} in all"
        axes.plot(count, drift.line[:, axis] / scale, LINE_DASHES[axis], linewidth=1.6, label=label, **look)
    axes.grid(color="0.92", linewidth=0.6)
    add_free_legend(axes)


def draw_losses(axes: Axes, r: Result) -> None:
    """Curves over epochs, with the line at which nothing but shot noise is left."""
    frame(axes, title="Progress", x="epoch", y="loss")
    epochs = np.array([row["number"] for row in r.history], float)
    train, held = (_column(r.history, name) for name in ("loss", "holdout"))
    axes.plot(epochs, train, color=LINE_COLOURS[0], linewidth=1.5, label="training")
    _draw_terms(axes, epochs, r.history, _lowest_value(train, held))
    if np.isfinite(held).any():
        best = int(np.nanargmin(held))
        seen = np.isfinite(held)
        axes.plot(epochs[seen], held[seen], "--", color=LINE_COLOURS[1], linewidth=1.5, label="held out")
        label = f"best {held[best]:.4g}, epoch {epochs[best]:g}"
        axes.plot(epochs[best], held[best], "o", color=LINE_COLOURS[1], markersize=5, label=label)
    if len(epochs) and _lowest_value(train, held) > 0:
        if has_noise_losses(r.history):
            axes.axhline(1.0, color="0.5", linestyle=":", linewidth=1.2, label="shot noise")
        axes.set_yscale("log", nonpositive="mask")
        _plain_log_ticks(axes)
    axes.grid(color="0.92", which="both", linewidth=0.6)
    if len(epochs):
        add_free_legend(axes)


def draw_histories(panel: FigureBase, found: Sequence[QuantityHistory]) -> None:
    """A panel for each, four side by side."""
    abreast = min(len(found), PANELS_ABREAST)
    places = panel.subplots(-(-len(found) // abreast), abreast, squeeze=False).ravel()
    for axes, course in zip(places, found, strict=False):
        _draw_history(axes, course)
    for axes in places[len(found) :]:
        axes.remove()


def _draw_history(axes: Axes, course: QuantityHistory) -> None:
    frame(axes, title=course.title, x="epoch", y=course.label)
    for number, (name, values) in enumerate(course.curves.items()):
        style = {
            "color": LINE_COLOURS[number % len(LINE_COLOURS)],
            "linestyle": LINE_DASHES[number % len(LINE_DASHES)],
        }
        marker = "." if len(course.epochs) < 40 else None
        axes.plot(course.epochs, values, linewidth=1.4, marker=marker, markersize=4, label=name, **style)
    axes.ticklabel_format(axis="y", useOffset=False) if not course.log else axes.set_yscale("log")
    axes.margins(y=0.12)
    axes.grid(color="0.92", linewidth=0.6)
    if len(course.curves) > 1:
        columns = 1 if len(course.curves) < 4 else 2
        axes.legend(fontsize=SMALL_FONT, frameon=False, ncols=columns, columnspacing=1, handlelength=2.2)


def _draw_terms(axes: Axes, epochs: np.ndarray, history: History, lowest: float) -> None:
    """The terms of the loss, if there are several."""
    names = list(dict.fromkeys(name for row in history for name in row.get("terms") or ()))
    if len(names) < 2:
        return
    for number, name in enumerate(names):
        values = _column([row.get("terms") or {} for row in history], name)
        style = {"color": LINE_COLOURS[2:][number % 5], "linestyle": LINE_DASHES[1:][number % 6]}
        if lowest > 0 and float(np.nanmax(values)) < MIN_TERM_SHARE * lowest:
            axes.plot([], [], linewidth=1, label=f"{name}: at most {np.nanmax(values):.2g}", **style)
        else:
            axes.plot(epochs, values, linewidth=1, label=name, **style)


def _length_histories(epochs: np.ndarray, states: Sequence[Mapping[str, Any]]) -> list[QuantityHistory]:
    """Thickness and defocus, each in its handiest unit."""
    named = {"thickness (A)": "Distance of slices", "defocus added (A)": "Defocus added"}
    named |= {"heights moved (A)": "Heights moved, rms"}
    return [
        _in_unit(title, title.lower(), epochs, {title: _column(states, key)}, LENGTH)
        for key, title in named.items()
        if any(key in state for state in states)
    ]


def _tilt_history(epochs: np.ndarray, states: Sequence[Mapping[str, Any]]) -> list[QuantityHistory]:
    known = [state.get("tilt (mrad)") or (np.nan, np.nan) for state in states]
    if not states or not np.isfinite(known).any():
        return []
    along = np.array(known, float).T
    return [QuantityHistory("Tilt of the object", "tilt (mrad)", epochs, dict(zip("yx", along, strict=True)))]


def _power_history(epochs: np.ndarray, states: Sequence[Mapping[str, Any]]) -> list[QuantityHistory]:
    known = [state.get("mode powers") or () for state in states]
    count = max(map(len, known), default=0)
    if count < 2:
        return []
    table = np.array([[*row, *[np.nan] * (count - len(row))] for row in known], float)
    shares = 100 * table / np.maximum(np.nansum(table, 1, keepdims=True), 1e-30)
    curves = {f"mode {mode + 1}": shares[:, mode] for mode in range(count)}
    return [
        QuantityHistory(
            "Power of the probe's modes", "power (% of all)", epochs, curves, log=_spans_a_decade(shares)
        )
    ]


def _aberration_histories(epochs: np.ndarray, states: Sequence[Mapping[str, Any]]) -> list[QuantityHistory]:
    """Every aberration by itself."""
    tables = [state.get("aberrations") or {} for state in states]
    names = dict.fromkeys(name for table in tables for name in table)
    return [
        _in_unit(f"Aberration {name}", name, epochs, {name: _column(tables, name)}, Coefficients().of(name))
        for name in names
    ]


def _rate_history(history: History) -> QuantityHistory:
    """The rates of all parts."""
    tables = [row.get("rates") or {} for row in history]
    names = dict.fromkeys(name for table in tables for name in table)
    epochs = np.array([row["number"] for row in history], float)
    curves = {name: np.where((v := _column(tables, name)) > 0, v, np.nan) for name in names}
    curves = {name: values for name, values in curves.items() if np.isfinite(values).any()}
    return QuantityHistory("Rates", "rate (of each part's size)", epochs, curves, log=True)


def _in_unit(
    title: str, label: str, epochs: np.ndarray, curves: dict[str, np.ndarray], dimension: Any
) -> QuantityHistory:
    largest = max((float(np.nanmax(np.abs(v), initial=0.0)) for v in curves.values()), default=0.0)
    unit, scale = unit_of(largest, dimension) if largest > 0 else ("Å" if dimension is LENGTH else "rad", 1.0)
    return QuantityHistory(
        title, f"{label} ({unit})", epochs, {name: v / scale for name, v in curves.items()}
    )


def _changes(values: np.ndarray) -> bool:
    seen = values[np.isfinite(values)]
    return seen.size > 1 and float(np.ptp(seen)) > 1e-5 * max(float(np.abs(seen).max()), 1e-12)


def _spans_a_decade(values: np.ndarray) -> bool:
    """Whether values are positive and a decade and more apart."""
    seen = values[np.isfinite(values)]
    return bool(seen.size and seen.min() > 0 and seen.max() / seen.min() > 10)


def _lowest_value(*curves: np.ndarray) -> float:
    """The lowest value known, or zero."""
    values = np.concatenate(curves)
    return float(np.nanmin(values)) if np.isfinite(values).any() else 0.0


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """One number per row, NaN where there is none."""
    return np.array([np.nan if row.get(name) is None else row[name] for row in rows], float)


def _plain_log_ticks(axes: Axes) -> None:
    """Plain numbers on a logarithmic axis, few enough to read when it spans less than a decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    low, high = axes.get_ylim()
    if high / low > 100:
        name_powers(axes.yaxis)
        return
    if high / low < MIN_RATIO_OF_LOG_TICKS:
        # between the round numbers of a decade there may be one, or none
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        return
    narrow = high / low < 20
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(which="minor", length=0 if narrow else 2)
