"""One page about a result, and two results side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from phaseloom.metrics.resolution import RingCorrelation
from phaseloom.plot.canvas import NORMAL, SMALL, frame, limits, page, show_length, unit_of
from phaseloom.plot.result import (
    draw_amplitude,
    draw_losses,
    draw_modes,
    draw_patterns,
    draw_phase,
    draw_positions,
    draw_slices,
    flat_phase,
)
from phaseloom.units import ENERGY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase

    from phaseloom.result import Result

__all__ = ["comparison", "report"]


def report(r: Result) -> Figure:
    """One page: object, slices if several, probe, positions, progress, patterns, and the facts in words."""
    several = len(r.object) > 1
    heights = [4.7, 2.4, 4.2, 2.3] if several else [4.7, 4.2, 2.3]
    figure = page(16, sum(heights) + 0.3)
    rows = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    figure.suptitle(r.title, fontsize=14, fontweight="bold", x=0.01, ha="left")
    _object_row(rows[0], r)
    if several:
        draw_slices(rows[1], r)
    _middle_row(rows[-2], r)
    draw_patterns(rows[-1], r, strip=True)
    return figure


def comparison(a: Result, b: Result, correlation: RingCorrelation | None = None) -> Figure:
    """Phases of two results on one scale and, where given, their Fourier ring correlation.

    Args:
        a: a result.
        b: another of the same scene.
        correlation: of the two (`phaseloom.metrics.resolution.ring_correlation`), with the pixel in
            angstrom.
    """
    panels = 2 if correlation is None else 3
    figure = page(5.4 * panels, 4.6)
    row = figure.subplots(1, panels)
    span = limits(np.concatenate([flat_phase(a).ravel(), flat_phase(b).ravel()]))
    for axes, result in zip(row, (a, b), strict=False):
        draw_phase(axes, result, span=span)
        axes.set_title(result.title, fontsize=NORMAL)
    if correlation is not None:
        draw_correlation(row[2], correlation)
    return figure


def draw_correlation(axes: Axes, correlation: RingCorrelation) -> None:
    """Correlation over spatial frequency, with both thresholds and where the curve falls below one."""
    resolution = correlation.resolution()
    unit, scale = unit_of(float(10 / correlation.frequency[-1]))
    x = correlation.frequency * scale
    axes.plot(x, correlation.value, color="tab:blue", linewidth=1.4, label="ring correlation")
    axes.plot(x, correlation.threshold_half_bit, "--", color="tab:red", linewidth=1, label="half bit")
    axes.plot(x, correlation.threshold_one_seventh, ":", color="0.4", linewidth=1, label="1/7")
    if np.isfinite(resolution):
        axes.axvline(scale / resolution, color="tab:red", linewidth=0.8, alpha=0.6)
    never = bool((correlation.value >= correlation.threshold_half_bit)[1:].all())
    found = "none" if not np.isfinite(resolution) else f"{'< ' * never}{show_length(resolution)}"
    frame(axes, title=f"Full-period resolution: {found}", x=f"spatial frequency (1/{unit})", y="correlation")
    axes.set(xlim=(0, x[-1]), ylim=(min(-0.1, correlation.value.min()), 1.05))
    axes.grid(color="0.92", linewidth=0.6)
    axes.legend(fontsize=SMALL, frameon=False)


def _object_row(row: FigureBase, r: Result) -> None:
    """Phase, amplitude and the facts."""
    left, right = row.subfigures(1, 2, width_ratios=[2.3, 1], squeeze=False)[0]
    phase, amplitude = left.subplots(1, 2)
    draw_phase(phase, r)
    draw_amplitude(amplitude, r)
    axes = right.subplots()
    axes.axis("off")
    axes.text(0, 1, _in_words(r), va="top", family="monospace", fontsize=SMALL, transform=axes.transAxes)


def _middle_row(row: FigureBase, r: Result) -> None:
    """Probe, positions and progress."""
    few = min(len(r.probe), 6)
    left, right = row.subfigures(1, 2, width_ratios=[0.25 + 0.3 * few, 2], squeeze=False)[0]
    draw_modes(left, r)
    places, losses = right.subplots(1, 2)
    draw_positions(places, r)
    draw_losses(losses, r)


def _in_words(r: Result) -> str:
    """The facts of a result, a line each."""
    blocks = [
        _run_facts(r),
        _metric_facts(r),
        _data_facts(r),
        _provenance_facts(getattr(r, "provenance", None)),
    ]
    lines = ["\n".join(f"{name:<17.17} {value}" for name, value in block) for block in blocks if block]
    return "\n\n".join(lines)


def _run_facts(r: Result) -> list[tuple[str, str]]:
    """How the run went."""
    facts = [("stopped", _cut(r.stopped)), ("epochs", str(len(r.history)))]
    if r.history:
        seconds = sum(row.get("seconds") or 0.0 for row in r.history)
        held = [row["holdout"] for row in r.history if row.get("holdout") is not None]
        facts += [("time", f"{seconds:.1f} s"), ("loss", f"{r.history[-1]['loss']:.5g}")]
        facts += [("held out", f"{held[-1]:.5g} (best {min(held):.5g})")] if held else []
    return facts


def _metric_facts(r: Result) -> list[tuple[str, str]]:
    """The metrics by name."""
    return [(name, f"{value:.4g}") for name, value in (r.metrics or {}).items()][:8]


def _data_facts(r: Result) -> list[tuple[str, str]]:
    """What was measured and what was reconstructed."""
    rows, columns = r.geometry.shape
    y, x = r.object.shape[-2:]
    pixel = " × ".join(show_length(step) for step in r.pixel)
    facts = [
        ("patterns", f"{len(r.positions)} of {rows}×{columns}"),
        ("beam", f"{r.geometry.beam}, {ENERGY.show(float(f'{r.geometry.energy:.4g}'))}"),
        ("object", f"{len(r.object)} × {y}×{x} pixels"),
        ("pixel", pixel),
        ("modes", str(len(r.probe))),
    ]
    if r.weights is not None:
        facts.append(("shots", f"{np.min(r.weights):.3g} to {np.max(r.weights):.3g} of the mean intensity"))
    if r.background is not None:
        facts.append(("background", f"{np.sum(r.background):.4g} counts per pattern"))
    return facts


def _provenance_facts(provenance: object) -> list[tuple[str, str]]:
    """Where a result comes from: a dataclass, a mapping or lines of text."""
    if provenance is None:
        return []
    if dataclasses.is_dataclass(provenance) and not isinstance(provenance, type):
        provenance = {f.name: getattr(provenance, f.name) for f in dataclasses.fields(provenance)}
    if not isinstance(provenance, Mapping):
        lines = provenance if isinstance(provenance, list | tuple) else str(provenance).splitlines()
        provenance = {f"{'from' if not i else ''}{' ' * i}": line for i, line in enumerate(lines)}
    return [
        (str(name), _cut(value)) for name, value in provenance.items() if value not in (None, "", {}, ())
    ][:10]


def _cut(value: object) -> str:
    """One short line."""
    if isinstance(value, Mapping):
        value = ", ".join(f"{name} {item}" for name, item in value.items())
    text = " ".join(str(value).split())
    return text if len(text) <= 44 else text[:43] + "…"
