"""Figures of virtual detectors: images, mean pattern with the detectors, deflections, profiles."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from phaseloom.data.scan import Scan4D
from phaseloom.data.signals import scan_steps
from phaseloom.errors import BadInput
from phaseloom.plot.scan import detector_step
from phaseloom.plot.style import (
    LINE_COLOURS,
    LINE_DASHES,
    SMALL_FONT,
    colour_bar,
    colour_wheel,
    draw_map,
    frame,
    image,
    limits,
    new_figure,
    save,
    wave_colours,
)
from phaseloom.units import ANGLE
from phaseloom.virtual.annuli import VirtualDetector, make_standard_detectors
from phaseloom.virtual.images import ScanMeasurement, find_beam, measure_scan, subtract_plane
from phaseloom.virtual.radial import compute_radial_profile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_virtual_images", "save_stem_visualization"]

PANELS_PER_ROW = 5  # panels side by side

Panel = Callable[["Axes"], None]


def save_stem_visualization(
    scan: Scan4D,
    path: Path | str,
    /,
    *,
    semiangle: float | None = None,
    centre: tuple[float, float] | None = None,
    drawn: Scan4D | None = None,
) -> Figure:
    """Write `plot_virtual_images` of the standard detectors to a file (.png, .pdf, .svg); gives the figure.

    Args:
        scan: the data, a far field.
        path: of the picture.
        semiangle: of the beam, radian; default: that of the disk of the mean pattern.
        centre: pixel (y, x) of the beam; default: that of the disk.
        drawn: the same patterns from a network or a model, to compare by the same detectors.

    Raises:
        BadInput: an array instead of a scan, no semi-angle and no disk, or drawn patterns that are not as
            many or of another shape.

    Example:
        >>> from phaseloom.data.scan import Geometry
        >>> geometry = Geometry(wavelength=0.02, shape=(16, 16), angle=(1e-3, 1e-3), beam="electron")
        >>> scan = Scan4D(counts=np.ones((4, 16, 16)), positions=np.eye(4)[:, :2], geometry=geometry)
        >>> len(save_stem_visualization(scan, "stem.png", semiangle=5e-3).get_suptitle()) > 0
        True
    """
    for name, given in {"scan": scan, "drawn": drawn}.items():
        if given is not None and not isinstance(given, Scan4D):
            what = f"{type(given).__name__} {getattr(given, 'shape', '')}".strip()
            fix = "has no geometry: make a scan of it, Scan4D(counts=..., positions=..., geometry=...)"
            raise BadInput(f"save_stem_visualization: {name}", what, fix)
    if drawn is not None and drawn.counts.shape != scan.counts.shape:
        fix = f"are not those of the scan, {scan.counts.shape}: give what was drawn of its patterns"
        raise BadInput("drawn", drawn.counts.shape, fix)
    beam = find_beam(scan, semiangle=semiangle, centre=centre)
    detectors, _ = make_standard_detectors(scan.geometry, beam.semiangle, centre=beam.centre, mask=scan.mask)
    found = [measure_scan(one, detectors, centre=beam.centre) for one in (scan, drawn) if one is not None]
    figure = plot_virtual_images(scan, *found)
    save(figure, path)
    return figure


def plot_virtual_images(
    scan: Scan4D, found: ScanMeasurement, drawn: ScanMeasurement | None = None, /
) -> Figure:
    """Images of all detectors, the mean pattern with them on it, deflections as colour, radial profile.

    Deflections are without the plane that fits them best; hue is their direction in the picture, as the wheel
    says, brightness their size.

    Args:
        scan: whose geometry and mask the patterns have.
        found: what a survey found in it.
        drawn: what the same detectors found in patterns that a network drew: below each image, on its scale.

    Example:
        >>> from phaseloom.virtual.annuli import make_annulus
        >>> from phaseloom.data.scan import Geometry
        >>> geometry = Geometry(wavelength=0.02, shape=(8, 8), angle=(1e-3, 1e-3), beam="electron")
        >>> scan = Scan4D(counts=np.ones((4, 8, 8)), positions=np.eye(4)[:, :2], geometry=geometry)
        >>> found = measure_scan(scan, [make_annulus(geometry, 0, 2e-3, name="BF")])
        >>> [axes.get_title() for axes in plot_virtual_images(scan, found).axes[:2]]
        ['BF 0–2 mrad', '']
    """
    rows: list[list[Panel]] = []
    for start in range(0, len(found.detectors), PANELS_PER_ROW):
        some = range(start, min(start + PANELS_PER_ROW, len(found.detectors)))
        rows.append([partial(_draw_image, found=found, number=number) for number in some])
        if drawn is not None:
            rows.append([partial(_draw_image, found=found, number=number, drawn=drawn) for number in some])
    both = [("", found)] if drawn is None else [("measured", found), ("drawn", drawn)]
    last: list[Panel] = [partial(_draw_mean, scan=scan, found=one, title=name) for name, one in both]
    size = _find_largest_deflection(found)
    last += [partial(_draw_deflection, found=one, size=size, title=name) for name, one in both]
    last.append(partial(_draw_profiles, scan=scan, curves=both))
    rows.append(last)
    columns = max(len(row) for row in rows)
    figure = new_figure(3.3 * columns, 3.1 * len(rows) + 0.4)
    for line, row in zip(figure.subplots(len(rows), columns, squeeze=False), rows, strict=True):
        for axes in line[len(row) :]:
            axes.axis("off")
        for axes, draw in zip(line, row, strict=False):
            draw(axes)
    words = scan.metadata.get("title") or f"{len(scan)} patterns"
    figure.suptitle(f"{words}: virtual detectors", fontsize=12)
    return figure


def _draw_image(
    axes: Axes, *, found: ScanMeasurement, number: int, drawn: ScanMeasurement | None = None
) -> None:
    """Counts in a detector over the scan; what was drawn on the scale of what was measured."""
    one = found.detectors[number]
    shown = found if drawn is None else drawn
    low, high = limits(found.values[number])
    title = f"{one.name}{_format_range(one)}" + ("" if drawn is None else ", drawn")
    look = {"cmap": "gray", "vmin": low, "vmax": high, "title": title}
    colour_bar(axes, draw_map(axes, shown.values[number], shown.positions, shown.grid, **look), "counts")


def _format_range(one: VirtualDetector) -> str:
    """The angles of a ring as text."""
    if one.inner is None or one.outer is None:
        return ""
    if np.isinf(one.outer):
        return f" > {1e3 * one.inner:.3g} mrad"
    return f" {1e3 * one.inner:.3g}–{1e3 * one.outer:.3g} mrad"


def _draw_mean(axes: Axes, *, scan: Scan4D, found: ScanMeasurement, title: str) -> None:
    """The mean pattern on a logarithmic scale with the rims of the detectors."""
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Circle

    mean = np.where(scan.mask, found.mean, np.nan)
    positive = mean[np.isfinite(mean) & (mean > 0)]
    high = float(positive.max()) if positive.size else 1.0
    low = float(np.clip(np.percentile(positive, 2), high * 1e-5, high / 10)) if positive.size else 0.1
    step, dimension = detector_step(scan.geometry)
    look: dict[str, Any] = {"cmap": "magma", "norm": LogNorm(low, high, clip=True)}
    words = f"Mean pattern{', ' if title else ''}{title}"
    artist = image(axes, np.ma.masked_invalid(mean), pixel=step, dimension=dimension, title=words, **look)
    colour_bar(axes, artist, "counts per pixel")
    at = tuple((c + 0.5) * s for c, s in zip(found.centre[::-1], step[::-1], strict=True))
    for radius, number, _ in _list_rims(found):
        style: dict[str, Any] = {
            "edgecolor": LINE_COLOURS[number % 7],
            "linestyle": LINE_DASHES[number % 7],
            "linewidth": 1.2,
        }
        axes.add_patch(Circle((at[0], at[1]), radius, facecolor="none", **style))
    axes.set_xlim(artist.get_extent()[:2])
    axes.set_ylim(artist.get_extent()[2:])


def _list_rims(found: ScanMeasurement) -> list[tuple[float, int, str]]:
    """Angles at which detectors begin or end, radian: each once, with a number and those that do."""
    rims: dict[float, list[str]] = {}
    for one in found.detectors:
        for edge in (one.inner, one.outer):
            if edge is not None and 0 < edge < np.inf and one.name not in rims.setdefault(edge, []):
                rims[edge].append(one.name)
    return [(edge, k, ", ".join(names[:3])) for k, (edge, names) in enumerate(sorted(rims.items()))]


def _find_largest_deflection(found: ScanMeasurement) -> float:
    """Size of a deflection that is drawn at full brightness, radian."""
    size = np.hypot(*subtract_plane(found.deflection, found.positions).T)
    return max(float(np.nanpercentile(size, 99)), 1e-30) if np.isfinite(size).any() else 1.0


def _draw_deflection(axes: Axes, *, found: ScanMeasurement, size: float, title: str) -> None:
    """Centres of mass: hue is the direction in the picture (rows down), brightness the angle."""
    scaled = np.nan_to_num(subtract_plane(found.deflection, found.positions)) / size
    wave = scaled[:, 1] - 1j * scaled[:, 0]
    wave = wave / np.maximum(np.abs(wave), 1)
    # The brightest colour is that of a modulus of one, for all values.
    colours = wave_colours(np.append(wave, np.ones(1 + len(wave) // 400)))[: len(wave)]
    words = f"Deflection{', ' if title else ''}{title}, to {_format_angle(size)}"
    if found.grid is None:
        draw_map(axes, colours, found.positions, None, title=words)
    else:
        image(
            axes, colours.reshape(*found.grid, 3), pixel=scan_steps(found.positions, found.grid), title=words
        )
    colour_wheel(axes)


def _format_angle(angle: float) -> str:
    number, unit = ANGLE.show(angle).split(" ")
    return f"{float(number):.3g} {unit}"


def _draw_profiles(axes: Axes, *, scan: Scan4D, curves: list[tuple[str, ScanMeasurement]]) -> None:
    """Mean over the azimuth of mean patterns, with its spread, and where detectors begin and end."""
    floor = np.inf
    for number, (name, one) in enumerate(curves):
        profile = compute_radial_profile(one.mean, scan.geometry, centre=one.centre, mask=scan.mask)
        angle = 1e3 * profile.angle
        mean = profile.mean
        spread = np.sqrt(profile.variance)
        style = {"color": LINE_COLOURS[number], "linestyle": LINE_DASHES[number]}
        axes.plot(angle, mean, linewidth=1.3, label=name or "mean over the azimuth", **style)
        axes.fill_between(angle, mean - spread, mean + spread, alpha=0.25, color=style["color"], linewidth=0)
        positive = mean[np.isfinite(mean) & (mean > 0)]
        floor = min([floor, *np.maximum(positive, 1e-6 * positive.max(initial=0.0)).tolist()])
    if np.isfinite(floor):
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.7 * floor)
    for edge, _, names in _list_rims(curves[0][1]):
        axes.axvline(1e3 * edge, color="0.6", linewidth=0.8, linestyle=":")
        place = {"xycoords": ("data", "axes fraction"), "rotation": 90, "va": "bottom", "ha": "right"}
        axes.annotate(names, (1e3 * edge, 0.03), fontsize=SMALL_FONT - 1, color="0.4", **place)
    frame(axes, title="Mean pattern ± σ over the azimuth", x="angle (mrad)", y="counts per pixel")
    if len(curves) > 1:
        axes.legend(fontsize=SMALL_FONT, frameon=False)
