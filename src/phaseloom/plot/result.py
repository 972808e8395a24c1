"""Figures of one result: object, probe, progress, positions, patterns.

Object images are cut to the box around the covered area; constant phase and ramp, which no data can
fix, are removed within it; pixels that no shot has lit are grey.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from phaseloom.errors import BadInput
from phaseloom.metrics.phase import level, remove_ramp, summed_phase
from phaseloom.plot.canvas import (
    SMALL,
    colour_bar,
    colour_wheel,
    frame,
    image,
    limits,
    note,
    page,
    round_length,
    show_length,
    unit_of,
    wave_colours,
)
from phaseloom.plot.scan import detector_step
from phaseloom.units import ANGLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase

    from phaseloom.result import Result

__all__ = [
    "flat_phase",
    "loss_curves",
    "object_amplitude",
    "object_phase",
    "object_slices",
    "patterns",
    "positions",
    "probe_modes",
]

PHASE = "viridis"
MOST = 6
"""How many modes or slices are drawn side by side."""


def object_phase(r: Result, slice: int | None = None) -> Figure:
    """Phase of the object in radian: of one slice, or (``None``) summed over all.

    Raises:
        BadInput: the object has no such slice.
    """
    figure = page(6.4, 5.2)
    draw_phase(figure.subplots(), r, slice)
    return figure


def object_slices(r: Result) -> Figure:
    """Phase of each slice along the beam, all on one scale, radian."""
    figure = page(2.4 * min(len(r.object), MOST) + 1, 2.9)
    draw_slices(figure, r)
    return figure


def object_amplitude(r: Result) -> Figure:
    """Amplitude of the object's transmission, the product over slices."""
    figure = page(6.4, 5.2)
    draw_amplitude(figure.subplots(), r)
    return figure


def probe_modes(r: Result) -> Figure:
    """Modes of the probe on the object (above) and in its Fourier plane (below), with their powers."""
    figure = page(2.5 * min(len(r.probe), MOST) + 0.6, 5.2)
    draw_modes(figure, r)
    return figure


def loss_curves(r: Result) -> Figure:
    """Loss of each epoch, and of the patterns held out; the best of these is marked."""
    figure = page(6.0, 4.0)
    draw_losses(figure.subplots(), r)
    return figure


def positions(r: Result) -> Figure:
    """Where each shot was said to be and where it was found; small moves are drawn magnified."""
    figure = page(6.0, 5.4)
    draw_positions(figure.subplots(), r)
    return figure


def patterns(r: Result) -> Figure:
    """Some measured patterns, what the model expects, and the difference in standard deviations."""
    count = 1 if not r.examples else min(len(r.examples["index"]), MOST)
    figure = page(2.5 * count + 1.2, 6.6)
    draw_patterns(figure, r)
    return figure


def flat_phase(r: Result, slice: int | None = None) -> np.ndarray:
    """Phase (y, x) within the box of the covered area, free of constant and ramp; NaN outside, radian."""
    box, inside = _covered(r)
    count = len(r.object)
    if slice is not None and not -count <= slice < count:
        raise BadInput("plot.slice", slice, f"is not a slice: the object has {count}, counted from 0")
    chosen = r.object if slice is None else r.object[slice][None]
    phase = summed_phase(level(chosen[:, *box], inside))
    return np.where(inside, remove_ramp(phase, inside, robust=True), np.nan)


def draw_phase(
    axes: Axes, r: Result, slice: int | None = None, span: tuple[float, float] | None = None
) -> None:
    """One phase image with its colour bar."""
    phase = flat_phase(r, slice)
    low, high = span or limits(phase)
    count = len(r.object)
    summed = f"Phase, sum of {count} slices" if count > 1 else "Phase"
    title = summed if slice is None else f"Phase, slice {slice % count + 1} of {count}"
    drawn = image(axes, phase, pixel=r.pixel, title=title, cmap=PHASE, vmin=low, vmax=high)
    colour_bar(axes, drawn, "phase (rad)")


def draw_slices(panel: FigureBase, r: Result) -> None:
    """A strip of slices on one scale."""
    chosen = np.unique(np.linspace(0, len(r.object) - 1, min(MOST, len(r.object))).round().astype(int))
    phases = [flat_phase(r, int(index)) for index in chosen]
    low, high = limits(np.stack(phases))
    strip = panel.subplots(1, len(chosen), squeeze=False)[0]
    for axes, index, phase in zip(strip, chosen, phases, strict=True):
        title = f"slice {index + 1} of {len(r.object)}"
        drawn = image(axes, phase, pixel=r.pixel, title=title, cmap=PHASE, vmin=low, vmax=high)
    colour_bar(strip[-1], drawn, "phase (rad)")


def draw_amplitude(axes: Axes, r: Result) -> None:
    """The amplitude image with its colour bar."""
    box, inside = _covered(r)
    amplitude = np.where(inside, np.abs(r.object[:, *box]).prod(0), np.nan)
    low, high = limits(amplitude)
    drawn = image(axes, amplitude, pixel=r.pixel, title="Amplitude", cmap="gray", vmin=low, vmax=high)
    colour_bar(axes, drawn, "amplitude (1)")


def draw_modes(panel: FigureBase, r: Result) -> None:
    """Two rows of waves: at the object, and in the Fourier plane."""
    power = (np.abs(r.probe) ** 2).sum((1, 2))
    power = 100 * power / max(power.sum(), 1e-30)
    grid = panel.subplots(2, min(len(r.probe), MOST), squeeze=False)
    wavelength = r.geometry.wavelength
    rows, columns = r.probe.shape[1:]
    angle = (wavelength / (rows * r.pixel[0]), wavelength / (columns * r.pixel[1]))
    plane = (-2, -1)
    focus = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(r.probe, plane)), plane)
    near, far = _lit(r.probe), _lit(focus)
    for mode, (above, below) in enumerate(grid.T):
        title = f"mode {mode + 1}: {power[mode]:.3g} %"
        image(above, wave_colours(r.probe[mode][near]), pixel=r.pixel, title=title)
        image(below, wave_colours(focus[mode][far]), pixel=angle, dimension=ANGLE)
    for axes, name in zip(grid[:, 0], ("probe", "Fourier plane"), strict=True):
        axes.set_ylabel(name, fontsize=SMALL)
    colour_wheel(grid[0, 0])


def draw_losses(axes: Axes, r: Result) -> None:
    """Curves over epochs."""
    frame(axes, title="Progress", x="epoch", y="loss")
    epochs = np.array([row["number"] for row in r.history], float)
    train = _column(r.history, "loss")
    held = _column(r.history, "holdout")
    axes.plot(epochs, train, color="tab:blue", linewidth=1.3, label="training")
    if np.isfinite(held).any():
        best = int(np.nanargmin(held))
        seen = np.isfinite(held)
        axes.plot(epochs[seen], held[seen], color="tab:orange", linewidth=1.3, label="held out")
        label = f"best {held[best]:.4g}, epoch {epochs[best]:g}"
        axes.plot(epochs[best], held[best], "o", color="tab:red", markersize=5, label=label)
    drawn = np.concatenate([train, held])
    if np.nanmin(drawn, initial=np.inf) > 0 and len(epochs):
        axes.set_yscale("log")
        _plain_log_ticks(axes)
    axes.grid(color="0.92", which="both", linewidth=0.6)
    axes.legend(fontsize=SMALL, frameon=False)


def draw_positions(axes: Axes, r: Result) -> None:
    """Dots where the shots started, arrows to where they were found."""
    start, moved = np.asarray(r.positions_start, float), np.asarray(r.positions, float)
    move = moved - start
    move = move - move.mean(0)
    size = np.hypot(*move.T)
    rms = float(np.sqrt(np.mean(size**2)))
    unit, scale = unit_of(float(np.ptp(start, axis=0).max()))
    axes.plot(
        start[:, 1] / scale, start[:, 0] / scale, ".", color="0.6", markersize=3, label="start", zorder=1
    )
    title = "Positions as measured"
    if rms > 1e-6 * scale:
        factor = _magnification(start, size)
        title = f"Positions: rms move {show_length(rms)}" + (f", arrows ×{factor:g}" if factor > 1 else "")
        _arrows(axes, start / scale, move / scale * factor, size)
    frame(axes, title=title, x=f"x ({unit})", y=f"y ({unit})")
    axes.set_aspect("equal")
    axes.margins(0.05)
    axes.invert_yaxis()


def draw_patterns(panel: FigureBase, r: Result, *, strip: bool = False) -> None:
    """Rows (or groups of a strip): measured, modelled, difference; the first two on one logarithmic scale."""
    from matplotlib.colors import LogNorm

    if not r.examples or len(r.examples["index"]) == 0:
        note(panel, "no example patterns were kept")
        return
    most = 3 if strip else MOST
    index = np.asarray(r.examples["index"])[:most]
    measured, modelled = (np.asarray(r.examples[k], float)[:most] for k in ("measured", "modelled"))
    residual = (measured - modelled) / np.sqrt(np.maximum(modelled, 0) + 1)
    reach = max(float(np.percentile(np.abs(residual), 99.5)), 1e-6)
    counts = {"cmap": "magma", "norm": LogNorm(*_decades(measured, modelled), clip=True)}
    looks = (counts, counts, {"cmap": "RdBu_r", "vmin": -reach, "vmax": reach})
    names = ("measured", "modelled", "difference")
    labels = ("counts", "counts", "Δ / √(counts + 1)")
    step, dimension = detector_step(r.geometry)
    grid = panel.subplots(*((1, 3 * len(index)) if strip else (3, len(index))), squeeze=False)
    grid = grid.reshape(3, len(index))
    for row, stack, look, name, label in zip(
        grid, (measured, modelled, residual), looks, names, labels, strict=True
    ):
        for axes, number, values in zip(row, index, stack, strict=True):
            drawn = image(axes, values, pixel=step, dimension=dimension, title=f"{name} {number}", **look)
        colour_bar(row[-1], drawn, label)


def _decades(measured: np.ndarray, modelled: np.ndarray) -> tuple[float, float]:
    """Limits of a logarithmic scale that holds the signal and not the far tails of the model."""
    high = max(float(measured.max()), float(modelled.max()), 1e-30)
    lit = measured[measured > 0]
    faint = min(float(lit.min()) if lit.size else high, float(np.percentile(modelled, 25)))
    return float(np.clip(faint, high * 1e-4, high / 10)), high


def _lit(waves: np.ndarray) -> tuple[slice, slice]:
    """The box (y, x) that holds nearly all of a wave, and a margin of a third around it."""
    power = (np.abs(waves) ** 2).sum(0)
    box = []
    for axis in (1, 0):
        share = np.cumsum(power.sum(axis)) / max(power.sum(), 1e-30)
        first, last = np.searchsorted(share, (0.005, 0.995))
        edge = 2 + (last - first) // 3
        box.append(slice(max(0, int(first - edge)), int(last + edge) + 1))
    return box[0], box[1]


def _covered(r: Result) -> tuple[tuple[slice, slice], np.ndarray]:
    """The box around the covered area, and that area within it; everything, if nothing is covered."""
    covered = np.asarray(r.covered, bool)
    if not covered.any():
        covered = np.ones(covered.shape, bool)
    box = tuple(
        slice(int(hit[0]), int(hit[-1]) + 1) for hit in (np.flatnonzero(covered.any(axis)) for axis in (1, 0))
    )
    return box, covered[box]  # type: ignore[return-value]


def _column(history: list[dict[str, Any]], name: str) -> np.ndarray:
    """One number per epoch, NaN where there is none."""
    return np.array([np.nan if row.get(name) is None else row[name] for row in history], float)


def _plain_log_ticks(axes: Axes) -> None:
    """Plain numbers on a logarithmic axis, few enough to read when it spans less than a decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axes.get_ylim()
    narrow = high / low < 20
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low > 3 else tuple(range(1, 10))))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(which="minor", length=0 if narrow else 2)


def _magnification(start: np.ndarray, size: np.ndarray) -> float:
    """A round factor that makes the longest moves about as long as the step of the scan."""
    from scipy.spatial import KDTree

    step = float(np.median(KDTree(start).query(start, k=2)[0][:, 1])) if len(start) > 1 else 0.0
    long = float(np.percentile(size, 95))
    return max(1.0, round_length(step / long / 0.3)) if step > 0 and long > 0 else 1.0


def _arrows(axes: Axes, start: np.ndarray, move: np.ndarray, size: np.ndarray) -> None:
    """Arrows in data units, coloured by the true length of the move."""
    unit, scale = unit_of(float(size.max()))
    drawn = axes.quiver(
        start[:, 1],
        start[:, 0],
        move[:, 1],
        move[:, 0],
        size / scale,
        angles="xy",
        scale_units="xy",
        scale=1,
        width=0.003,
        cmap="plasma",
        zorder=2,
    )
    drawn.set_clim(0, float(np.percentile(size, 99)) / scale)
    colour_bar(axes, drawn, f"move ({unit}), mean removed")
