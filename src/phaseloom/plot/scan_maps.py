"""Figures over the scanned field: positions, tilts, and the batches that patterns are grouped in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from phaseloom.metrics.linear_map import fit_linear_map
from phaseloom.plot.style import (
    LINE_COLOURS,
    colour_bar,
    draw_map,
    draw_note,
    frame,
    limits,
    new_figure,
    round_length,
    show_length,
    unit_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from phaseloom.result import Result

__all__ = ["Distortion", "are_moved", "distortion", "groups", "positions", "tilts"]

MAX_ARROWS = 2500
"""How many arrows a panel shows at most."""

MIN_EXPLAINED_SHARE = 0.2
"""Share of the moves, as a square, from which the part common to all is worth a panel of its own."""


MIN_MOVE = 2e-6
"""Share of the scanned field that moves have to be more than, rms: single precision rounds to a tenth."""


@dataclass(frozen=True)
class Distortion:
    """The linear map that takes most of the starting positions to the refined ones, and what is left.

    Its numbers are those of `phaseloom.data.prepare.affine`: written there, they correct the next scan.

    Attributes:
        scale: of all steps.
        asymmetry: by how much the slow axis is stretched against the fast one.
        rotation: from the row axis towards the column axis, radian.
        shear: radian.
        left: ``(n, 2)`` moves that it does not explain, angstrom.
        share: of the squared moves that it explains.
    """

    scale: float
    asymmetry: float
    rotation: float
    shear: float
    left: np.ndarray
    share: float

    def in_words(self) -> str:
        """Step error, rotation and shear in print; small ones as zero."""
        steps = [100 * (self.scale * (1 + sign * self.asymmetry / 2) - 1) for sign in (1, -1)]
        angles = [math.degrees(angle) for angle in (self.rotation, self.shear)]
        slow, fast, turn, shear = (round(number, 2) + 0.0 for number in (*steps, *angles))  # no minus zero
        step = f"step error {slow:+.2f} % (y), {fast:+.2f} % (x)"
        return f"{step}, rotation {turn:+.2f}°, shear {shear:+.2f}°".replace("-", "−")


def distortion(start: np.ndarray, found: np.ndarray, /) -> Distortion | None:
    """Least-squares fit of a linear map about the mean; ``None`` for positions on a line, or under four.

    Example:
        >>> start = np.array([[0.0, 0.0], [0.0, 4.0], [5.0, 0.0], [5.0, 4.0]])
        >>> fit = distortion(start, 1.03 * start)
        >>> round(fit.scale, 6), round(abs(fit.rotation), 6), round(fit.share, 6)
        (1.03, 0.0, 1.0)
    """
    arm, moved = (np.asarray(p, float) - np.mean(p, axis=0) for p in (start, found))
    spread = np.linalg.svd(arm, compute_uv=False)
    if len(arm) < 4 or spread[-1] < 1e-3 * spread[0]:
        return None
    matrix = fit_linear_map(np.asarray(start, float), np.asarray(found, float))
    size = np.linalg.det(matrix)
    if size <= 0 or matrix[1, 1] <= 0:
        return None
    rotation = 0.5 * math.asin(float(np.clip(2 * matrix[0, 1] * matrix[1, 1] / size, -1, 1)))
    slow = size * math.cos(rotation) / matrix[1, 1]
    fast = matrix[1, 1] / math.cos(rotation)
    shear = math.sin(rotation) * matrix[0, 0] / slow + math.cos(rotation) * matrix[1, 0] / fast
    scale = (slow + fast) / 2
    left = moved - arm @ matrix
    all_moves = float(((moved - arm) ** 2).sum())
    share = 1 - float((left**2).sum()) / all_moves if all_moves > 0 else 0.0
    return Distortion(float(scale), float((slow - fast) / scale), rotation, math.atan(shear), left, share)


def positions(r: Result) -> Figure:
    """Where each shot was said to be and where it was found; small moves are drawn magnified.

    Where step error, rotation and shear common to all explain the moves, what is left has its own panel.
    """
    fit = distortion(r.positions_start, r.positions)
    if fit is None or not _is_significant(fit, len(r.positions)):
        figure = new_figure(6.4, 5.4)
        draw_positions(figure.subplots(), r)
        return figure
    figure = new_figure(12.4, 5.6)
    whole, rest = figure.subplots(1, 2)
    draw_positions(whole, r, words=False)
    _draw_moves(rest, np.asarray(r.positions_start, float), fit.left, "rms left without the common part")
    figure.suptitle(f"Common to all: {fit.in_words()}", fontsize=11)
    return figure


def tilts(r: Result) -> Figure:
    """Tilt of the object's columns over the field, where each pattern has its own, as arrows and as maps."""
    if r.tilts is None or len(r.tilts) != len(r.positions) or len(r.tilts) == 1:
        figure = new_figure(6.0, 2.0)
        one = None if r.tilts is None else 1e3 * np.mean(r.tilts, axis=0)
        said = "no tilt" if one is None else f"one tilt for all patterns: y {one[0]:.3g}, x {one[1]:.3g} mrad"
        draw_note(figure, said)
        return figure
    figure = new_figure(15.0, 4.8)
    arrows, *maps = figure.subplots(1, 3)
    tilt = 1e3 * np.asarray(r.tilts, float)
    _draw_tilts(arrows, r.positions, tilt)
    centre = tilt.mean(0)
    reach = max(float(np.percentile(np.abs(tilt - centre), 99)), 1e-9)
    for axes, name, values, mean in zip(maps, "yx", tilt.T, centre, strict=True):
        look = {"cmap": "PuOr_r", "vmin": mean - reach, "vmax": mean + reach}
        drawn = draw_map(axes, values, r.positions, r.grid, title=f"Tilt along {name}", **look)
        colour_bar(axes, drawn, f"tilt along {name} (mrad)")
    return figure


def groups(batches: Sequence[Any], positions: np.ndarray) -> Figure:
    """How an epoch's batches lie on the scan: all of them by colour, and the first alone.

    Args:
        batches: index arrays, or tuples of them that are modelled one after the other.
        positions: ``(n, 2)`` of the whole scan, angstrom.

    Example:
        >>> places = np.random.default_rng(0).uniform(0, 50, (12, 2))
        >>> len(groups([np.arange(6), np.arange(6, 12)], places).axes)
        2
    """
    members = [np.concatenate([np.asarray(piece) for piece in _pieces(batch)]) for batch in batches]
    unit, scale = unit_of(float(np.ptp(positions, axis=0).max()))
    places = np.asarray(positions, float) / scale
    figure = new_figure(11.0, 5.2)
    every, first = figure.subplots(1, 2)
    dot = float(np.clip(30000 / len(places), 3, 60))
    for number, index in enumerate(members):
        y, x = places[index].T
        colour = LINE_COLOURS[number % len(LINE_COLOURS)]
        every.scatter(x, y, s=dot, color=colour, linewidths=0, marker="os^Dv"[number % 5], rasterized=True)
    first.plot(*places.T[::-1], ".", color="0.85", markersize=math.sqrt(dot) / 1.5, zorder=1)
    for piece, colour in zip(_pieces(batches[0]), LINE_COLOURS * len(batches[0]), strict=False):
        first.scatter(*places[np.asarray(piece)].T[::-1], s=1.5 * dot, color=colour, linewidths=0, zorder=2)
    titles = (f"{len(members)} batches", _batch_title(batches[0], np.asarray(positions, float)[members[0]]))
    for axes, title in zip((every, first), titles, strict=True):
        _frame_field(axes, title, unit)
    return figure


def are_moved(start: np.ndarray, move: np.ndarray, /) -> bool:
    """Whether positions moved against each other by more than rounding.

    Args:
        start: ``(n, 2)`` where they were.
        move: ``(n, 2)`` by how much they moved, in the same unit; what is common to all does not count.

    Example:
        >>> start = np.array([[0.0, 0.0], [0.0, 400.0], [500.0, 0.0]])
        >>> [are_moved(start, size * np.eye(3, 2)) for size in (1e-4, 1e-2)]
        [False, True]
    """
    rms = float(np.sqrt(((move - move.mean(0)) ** 2).sum(1).mean()))
    return rms > MIN_MOVE * float(np.ptp(start, axis=0).max())


def draw_positions(axes: Axes, r: Result, *, words: bool = True) -> None:
    """Dots where the shots started, arrows to where they were found; what is common to all in words."""
    start = np.asarray(r.positions_start, float)
    moved = np.asarray(r.positions, float)
    move = moved - start
    fit = distortion(start, moved)
    common = ""
    if words and fit and _is_significant(fit, len(start)):
        common = "\n" + fit.in_words().replace(", rotation", ",\nrotation")
    _draw_moves(axes, start, move - move.mean(0), "rms move", common)


def _draw_moves(axes: Axes, start: np.ndarray, move: np.ndarray, what: str, more: str = "") -> None:
    """Arrows, magnified if small, with their rms in the title."""
    size = np.hypot(*move.T)
    rms = float(np.sqrt(np.mean(size**2)))
    unit, scale = unit_of(float(np.ptp(start, axis=0).max()))
    shown = np.arange(0, len(start), -(-len(start) // MAX_ARROWS))
    places = start[shown] / scale
    axes.plot(*places.T[::-1], ".", color="0.6", markersize=3, zorder=1)
    title = "Positions: not moved"
    if are_moved(start, move):
        factor = _magnification(start, size)
        title = f"Positions: {what} {show_length(rms)}" + (f", arrows ×{factor:g}" if factor > 1 else "")
        _arrows(axes, places, move[shown] / scale * factor, size[shown])
    _frame_field(axes, title + more, unit)


def _frame_field(axes: Axes, title: str, unit: str) -> None:
    """Axes of a scanned field to scale, rows downwards."""
    frame(axes, title=title, x=f"x ({unit})", y=f"y ({unit})")
    axes.set_aspect("equal")
    axes.margins(0.05)
    axes.invert_yaxis()


def _is_significant(fit: Distortion | None, count: int) -> bool:
    """Whether the part common to all is more than chance would make of independent moves."""
    return fit is not None and fit.share > max(MIN_EXPLAINED_SHARE, 8 / count)


def _batch_title(batch: Any, places: np.ndarray) -> str:
    """Size of a batch and how far its members are from their neighbours."""
    from scipy.spatial import KDTree

    pieces = len(_pieces(batch))
    title = f"first batch: {len(places)} patterns" + (f" in {pieces} pieces" if pieces > 1 else "")
    if len(places) < 2:
        return title
    near = float(np.median(KDTree(places).query(places, k=2)[0][:, 1]))
    return f"{title}, neighbours {show_length(near)} apart"


def _pieces(batch: Any) -> Sequence[Any]:
    return batch if isinstance(batch, tuple) else (batch,)


def _magnification(start: np.ndarray, size: np.ndarray) -> float:
    """A round factor that makes the longest moves about as long as the step of the scan."""
    from scipy.spatial import KDTree

    step = float(np.median(KDTree(start).query(start, k=2)[0][:, 1])) if len(start) > 1 else 0.0
    long = float(np.percentile(size, 95))
    return max(1.0, round_length(step / long / 0.3)) if step > 0 and long > 0 else 1.0


def _arrows(axes: Axes, start: np.ndarray, move: np.ndarray, size: np.ndarray) -> None:
    """Arrows in data units, coloured by the true length of the move."""
    unit, scale = unit_of(float(size.max()))
    drawn = _quiver(axes, start, move, size / scale, scale=1.0)
    drawn.set_clim(0, float(np.percentile(size, 99)) / scale)
    colour_bar(axes, drawn, f"move ({unit}), mean removed")


def _draw_tilts(axes: Axes, places: np.ndarray, tilt: np.ndarray) -> None:
    """Arrows of the tilt, at most a thousand, the longest as long as a tenth of the field."""
    unit, scale = unit_of(float(np.ptp(places, axis=0).max()))
    shown = np.arange(0, len(places), -(-len(places) // 1000))
    size = np.hypot(*tilt.T)
    extent = float(np.ptp(places, axis=0).max()) / scale
    long = max(float(np.percentile(size, 99)), 1e-12)
    drawn = _quiver(axes, places[shown] / scale, tilt[shown], size[shown], scale=long / (0.08 * extent))
    drawn.set_clim(*limits(size))
    _frame_field(axes, f"Tilt of the object, mean {size.mean():.3g} mrad", unit)
    colour_bar(axes, drawn, "tilt (mrad)")


def _quiver(axes: Axes, places: np.ndarray, arrows: np.ndarray, colour: np.ndarray, *, scale: float) -> Any:
    style = {"angles": "xy", "scale_units": "xy", "scale": scale, "width": 0.003, "cmap": "plasma"}
    return axes.quiver(places[:, 1], places[:, 0], arrows[:, 1], arrows[:, 0], colour, zorder=2, **style)
