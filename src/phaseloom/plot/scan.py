"""One page about a scan: is it what its owner thinks it is?"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.plot.style import SMALL, colour_bar, frame, image, limits, mapped, page, show_length
from phaseloom.units import ANGLE, ENERGY, LENGTH, Dimension

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["detector_step", "scan_overview"]

MOST = 20000
"""How many patterns are read for the map of counts."""

COLOURS = {"ok": "tab:green", "good": "tab:green", "info": "tab:blue", "note": "tab:blue"}
COLOURS |= {"warning": "tab:orange", "warn": "tab:orange", "error": "tab:red", "bad": "tab:red"}


def scan_overview(scan: Scan4D, findings: list[Any] | None = None) -> Figure:
    """Mean pattern, counts over the scanned field, their distribution, and what a check has found.

    Args:
        scan: the data; at most 20000 of its patterns are read, evenly spread.
        findings: objects with ``name, value, level, advice``; they are listed beside the figures.

    Example:
        >>> geometry = Geometry(wavelength=0.02, shape=(8, 8), angle=(1e-3, 1e-3), beam="electron")
        >>> places = np.random.default_rng(0).uniform(0, 50, (9, 2))
        >>> len(scan_overview(Scan4D(counts=np.ones((9, 8, 8)), positions=places, geometry=geometry)).axes)
        4
    """
    index = np.unique(np.linspace(0, len(scan) - 1, min(MOST, len(scan))).round().astype(int))
    total = _totals(scan, index)
    figure = page(12, 8.8)
    (pattern, field), (spread, words) = figure.subplots(2, 2, height_ratios=[1.25, 1])
    _draw_mean(pattern, scan)
    _draw_field(field, scan, index, total)
    _draw_spread(spread, total)
    _draw_words(words, scan, findings or [])
    title = scan.metadata.get("title") or f"{len(scan)} patterns of {scan.mask.shape[0]}×{scan.mask.shape[1]}"
    figure.suptitle(title, fontsize=13, fontweight="bold")
    return figure


def _totals(scan: Scan4D, index: np.ndarray) -> np.ndarray:
    """Counts of each pattern in its trusted pixels, read in chunks."""
    chunks = (scan.counts[index[start : start + 64]] for start in range(0, len(index), 64))
    return np.concatenate([(chunk * scan.mask).sum((1, 2), dtype=np.float64) for chunk in chunks])


def _draw_mean(axes: Axes, scan: Scan4D) -> None:
    """The mean pattern on a logarithmic scale; pixels not trusted are red."""
    from matplotlib.colors import ListedColormap, LogNorm

    mean = scan.mean_pattern()
    trusted = mean[scan.mask & (mean > 0)]
    high = float(trusted.max()) if trusted.size else 1.0
    low = float(np.clip(np.percentile(trusted, 2), high * 1e-6, high / 10)) if trusted.size else 0.1
    step, dimension = detector_step(scan.geometry)
    bad = int((~scan.mask).sum())
    title = "Mean pattern" + (f" ({bad} untrusted pixels in red)" if bad else "")
    look = {"cmap": "magma", "norm": LogNorm(low, high, clip=True)}
    drawn = image(axes, mean, pixel=step, dimension=dimension, title=title, **look)
    hidden = np.where(scan.mask, np.nan, 1.0)
    if bad:
        axes.imshow(
            hidden, extent=drawn.get_extent(), cmap=ListedColormap(["#e03030"]), interpolation="nearest"
        )
    colour_bar(axes, drawn, "mean counts per pixel")


def _draw_field(axes: Axes, scan: Scan4D, index: np.ndarray, total: np.ndarray) -> None:
    """Counts at each position: an image for a raster, else dots to scale."""
    low, high = limits(total)
    whole = scan.grid if len(index) == len(scan) else None
    title = f"Counts at {len(scan)} positions" if whole is None else "Counts over the scan (rows: slow axis)"
    look = {"title": title, "cmap": "viridis", "vmin": low, "vmax": high}
    colour_bar(axes, mapped(axes, total, scan.positions[index], whole, **look), "counts per pattern")


def _draw_spread(axes: Axes, total: np.ndarray) -> None:
    """How many patterns hold how many counts."""
    axes.hist(total, bins=min(60, max(8, len(total) // 12)), color="tab:blue", alpha=0.8)
    axes.axvline(float(np.median(total)), color="tab:red", linewidth=1)
    title = f"Counts per pattern: median {np.median(total):.4g}"
    frame(axes, title=title, x="counts per pattern", y="patterns")


def _draw_words(axes: Axes, scan: Scan4D, findings: list[Any]) -> None:
    """The geometry, and below it the findings coloured by their level."""
    axes.axis("off")
    lines = [(f"{name:<13}{value}", "black") for name, value in _facts(scan)] + [("", "black")]
    for found in findings:
        level = str(getattr(found.level, "value", found.level)).lower()
        lines += [(f"● {found.name}: {found.value}", COLOURS.get(level, "0.4"))]
        lines += [(f"  {line}", "0.35") for line in textwrap.wrap(str(found.advice or ""), 70)]
    step = min(0.045, 1 / len(lines))
    style = {"va": "top", "family": "monospace", "fontsize": SMALL * min(1.0, step / 0.037)}
    for number, (text, colour) in enumerate(lines):
        axes.text(0, 1 - number * step, text, color=colour, transform=axes.transAxes, **style)


def _facts(scan: Scan4D) -> list[tuple[str, str]]:
    """What the geometry says, a line each."""
    geometry = scan.geometry
    return [
        ("beam", f"{geometry.beam}, {ENERGY.show(float(f'{geometry.energy:.4g}'))}"),
        ("field", " × ".join(show_length(side) for side in scan.extent) + " (y × x)"),
        ("object pixel", " × ".join(show_length(side) for side in geometry.pixel)),
        ("detector", " × ".join(show_length(side, ANGLE) for side in geometry.angle) + " per pixel"),
        ("scan", f"raster {scan.grid[0]}×{scan.grid[1]}" if scan.grid else f"{len(scan)} free positions"),
        ("field type", "near" if geometry.near else "far"),
    ]


def detector_step(geometry: Geometry) -> tuple[tuple[float, float], Dimension]:
    """What a detector pixel measures: a length in the near field, an angle in the far field."""
    if geometry.near and geometry.detector_pixel is not None:
        return geometry.detector_pixel, LENGTH
    return geometry.angle, ANGLE
