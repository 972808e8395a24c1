"""Figures of the object: phase and amplitude, its slices and sections along the beam, its states.

Images are cut to the box around the covered area; constant phase and ramp, which no data can fix, are
removed within it; pixels that no shot has lit are grey.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from phaseloom.errors import BadInput
from phaseloom.metrics.phase import remove_plane_wave, remove_ramp, sum_phase
from phaseloom.plot.style import (
    EMPTY_COLOUR,
    colour_bar,
    frame,
    image,
    limits,
    new_figure,
    new_page,
    show_length,
    unit_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase

    from phaseloom.result import Result

__all__ = ["ObjectField", "object_amplitude", "object_modes", "object_phase", "object_sigma"]
__all__ += ["slice_depths", "slices", "spread_indices"]

PHASE_COLOURS = "viridis"
SLICES_ABREAST = 6
"""Slices drawn side by side."""

MAX_SLICES = 24
"""Slices drawn altogether."""

MAX_SECTION_RATIO = 8
"""Ratio of depth to width, or of width to depth, up to which a section is drawn to scale."""

PLANE_FIT_SIDE = 120
"""Pixels a side that are enough to fit a plane."""


@dataclass(frozen=True)
class ObjectField:
    """The covered part of an object, every slice free of its plane wave.

    Attributes:
        levelled: complex ``(slice, y, x)``.
        inside: ``(y, x)``, what is covered in the box.
        box: rows and columns of the object array.
    """

    levelled: np.ndarray
    inside: np.ndarray
    box: tuple[slice, slice]

    @classmethod
    def of(cls, r: Result, object: np.ndarray | None = None, /) -> ObjectField:
        """The field of a result, or of one state of its object."""
        box, inside = _covered_box(r)
        whole = r.object if object is None else object
        return cls(remove_plane_wave(whole[:, *box], inside), inside, box)

    def phase(self, slice: int | None = None, /) -> np.ndarray:
        """Phase (y, x) of a slice, or summed over all, free of constant and ramp; NaN outside, radian.

        Raises:
            BadInput: the object has no such slice.
        """
        count = len(self.levelled)
        if slice is not None and not -count <= slice < count:
            raise BadInput("plot.slice", slice, f"is not a slice: the object has {count}, counted from 0")
        phase = sum_phase(self.levelled if slice is None else self.levelled[slice])
        return np.where(self.inside, phase - _fit_plane(phase, self.inside), np.nan)

    def amplitude(self) -> np.ndarray:
        """Amplitude (y, x), the product over slices; NaN outside."""
        return np.where(self.inside, np.abs(self.levelled).prod(0), np.nan)


def slice_depths(r: Result, /) -> np.ndarray:
    """Place of each slice along the beam, angstrom; the first is at zero.

    Example:
        >>> from types import SimpleNamespace
        >>> slice_depths(SimpleNamespace(object=np.ones((3, 4, 4)), gaps=(10.0, 5.0), thickness=7.5)).tolist()
        [0.0, 10.0, 15.0]
    """
    count = len(r.object) - 1
    gaps = r.gaps if len(r.gaps) == count else (r.thickness,) * count
    return np.concatenate([[0.0], np.cumsum(np.array(gaps, float))])


def spread_indices(count: int, most: int, /) -> list[int]:
    """At most so many numbers below a count, evenly spread with both ends.

    Example:
        >>> spread_indices(9, 3), spread_indices(2, 3)
        ([0, 4, 8], [0, 1])
    """
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int)).tolist()


def object_phase(r: Result, slice: int | None = None) -> Figure:
    """Phase of the object in radian: of one slice, or (``None``) summed over all.

    Raises:
        BadInput: the object has no such slice.
    """
    figure = new_page(6.4, 5.2)
    draw_phase(figure.subplots(), r, ObjectField.of(r), slice)
    return figure


def object_amplitude(r: Result) -> Figure:
    """Amplitude of the object's transmission, the product over slices."""
    figure = new_page(6.4, 5.2)
    draw_amplitude(figure.subplots(), r, ObjectField.of(r))
    return figure


def object_sigma(r: Result) -> Figure:
    """Standard deviation of the phase in radian, of draws where there are any; of several slices the mean.

    Of a result without it the reason is shown.
    """
    known = r.uncertainty
    sigma = None if known is None else known.sigma if known.drawn is None else known.drawn
    figure = new_page(6.4, 5.2)
    if sigma is None:
        why = "the result is of an earlier version" if known is None else known.missing
        figure.text(0.5, 0.5, f"No map of sigma: {why}", ha="center", va="center", wrap=True)
        return figure
    box, inside = _covered_box(r)
    shown = np.where(inside, sigma.mean(0)[box], np.nan)
    axes = figure.subplots()
    title = "Standard deviation of the phase" + (", mean of slices" if len(sigma) > 1 else "")
    top = limits(shown)[1]
    drawn = image(axes, shown, pixel=r.pixel, title=title, cmap="magma", vmin=0, vmax=top)
    colour_bar(axes, drawn, "sigma (rad)")
    return figure


def slices(r: Result) -> Figure:
    """Phase of every slice on one scale with its depth, and sections along the beam through the middle.

    Sections lie where the dashed lines of the first slice are, and are to scale unless their title says
    how much the depth is stretched. At most 24 slices are shown, evenly chosen; sections hold them all.
    """
    if len(r.object) == 1:
        return object_phase(r)
    shown = min(len(r.object), MAX_SLICES)
    abreast = min(shown, SLICES_ABREAST)
    lines = -(-shown // SLICES_ABREAST)
    field = ObjectField.of(r)
    phases = np.stack([field.phase(number) for number in range(len(r.object))])
    width = max(2.4 * abreast + 1, 8.0)
    heights = [2.7 * lines, 1.0 + float(np.clip(0.4 * width * _section_flatness(r, field), 0.7, 3.0))]
    figure = new_figure(width, sum(heights))
    above, below = figure.subfigures(2, 1, height_ratios=heights, squeeze=False)[:, 0]
    draw_slices(
        above,
        r,
        {number: phases[number] for number in spread_indices(len(phases), MAX_SLICES)},
        _middle_pixel(r, field),
    )
    draw_sections(below, r, phases, field)
    return figure


def object_modes(r: Result) -> Figure:
    """Phase of each incoherent state of the object on one scale, and how much the states differ."""
    states = 1 if r.object_modes is None else len(r.object_modes)
    figure = new_figure(2.9 * min(states + (states > 1), SLICES_ABREAST) + 1.6, 3.3)
    draw_states(figure, r)
    return figure


def draw_phase(
    axes: Axes,
    r: Result,
    field: ObjectField,
    slice: int | None = None,
    span: tuple[float, float] | None = None,
) -> None:
    """One phase image with its colour bar."""
    phase = field.phase(slice)
    low, high = span or limits(phase)
    count = len(r.object)
    summed = f"Phase, sum of {count} slices" if count > 1 else "Phase"
    title = summed if slice is None else _slice_title(r, slice % count)
    drawn = image(axes, phase, pixel=r.pixel, title=title, cmap=PHASE_COLOURS, vmin=low, vmax=high)
    colour_bar(axes, drawn, "phase (rad)")


def draw_amplitude(axes: Axes, r: Result, field: ObjectField) -> None:
    """The amplitude image with its colour bar."""
    amplitude = field.amplitude()
    low, high = limits(amplitude)
    drawn = image(axes, amplitude, pixel=r.pixel, title="Amplitude", cmap="gray", vmin=low, vmax=high)
    colour_bar(axes, drawn, "amplitude (1)")


def draw_slices(
    panel: FigureBase,
    r: Result,
    phases: Mapping[int, np.ndarray],
    cut: tuple[int, int] | None = None,
) -> None:
    """Slices by their numbers in lines of six on one scale; dashed lines on the first through a pixel."""
    low, high = limits(np.stack(list(phases.values())))
    abreast = min(len(phases), SLICES_ABREAST)
    places = panel.subplots(-(-len(phases) // abreast), abreast, squeeze=False).ravel()
    for axes, (index, phase) in zip(places, phases.items(), strict=False):
        look = {"title": _slice_title(r, index), "cmap": PHASE_COLOURS, "vmin": low, "vmax": high}
        image(axes, phase, pixel=r.pixel, **look)
    colour_bar(places[abreast - 1], places[0].images[0], "phase (rad)")
    for axes in places[len(phases) :]:
        axes.remove()
    if cut is not None:
        line = {"color": "white", "linewidth": 0.8, "linestyle": "--", "alpha": 0.8}
        places[0].axhline((cut[0] + 0.5) * r.pixel[0], **line)
        places[0].axvline((cut[1] + 0.5) * r.pixel[1], **line)


def draw_states(panel: FigureBase, r: Result) -> None:
    """Summed phase of each state, at most five, and the spread of all by their shares."""
    states = r.object[None] if r.object_modes is None else r.object_modes
    shares = np.ones(len(states)) if r.occupancies is None else np.asarray(r.occupancies, float)
    shares = shares / shares.sum()
    phases = np.stack([ObjectField.of(r, state).phase() for state in states])
    shown = range(min(len(states), SLICES_ABREAST - 1))
    low, high = limits(phases)
    strip = panel.subplots(1, len(shown) + (len(states) > 1), squeeze=False)[0]
    for number in shown:
        title = f"state {number + 1} of {len(states)}: {100 * shares[number]:.3g} %"
        look = {"title": title, "cmap": PHASE_COLOURS, "vmin": low, "vmax": high}
        image(strip[number], phases[number], pixel=r.pixel, **look)
    colour_bar(strip[len(shown) - 1], strip[0].images[0], "phase (rad)")
    if len(states) > 1:
        mean = np.einsum("s,syx->yx", shares, phases)
        spread = np.sqrt(np.einsum("s,syx->yx", shares, (phases - mean) ** 2))
        look = {"cmap": "magma", "vmin": 0, "vmax": limits(spread)[1]}
        drawn = image(strip[-1], spread, pixel=r.pixel, title="spread of the states, rms", **look)
        colour_bar(strip[-1], drawn, "phase (rad)")


def draw_sections(panel: FigureBase, r: Result, phases: np.ndarray, field: ObjectField) -> None:
    """Phase over depth and x, and over depth and y, through the middle of the scan."""
    row, column = _middle_pixel(r, field)
    cuts = (phases[:, row], phases[:, :, column])
    low, high = limits(np.concatenate([cut.ravel() for cut in cuts]))
    edges = _slice_borders(slice_depths(r))
    places = panel.subplots(1, 2)
    for name, axes, cut in zip("xy", places, cuts, strict=True):
        side = int(name == "x")
        first = r.origin[side] + (field.box[side].start - 0.5) * r.pixel[side]
        across = first + np.arange(cut.shape[1] + 1) * r.pixel[side]
        other = "yx"[1 - side]
        at = (row, column)[1 - side]
        place = r.origin[1 - side] + (field.box[1 - side].start + at) * r.pixel[1 - side]
        _draw_section(axes, cut, (across, edges), name, (low, high))
        axes.set_title(f"{name}-z section at {other} = {show_length(place)}{axes.get_title()}", fontsize=9.5)
    colour_bar(places[-1], places[-1].collections[0], "phase (rad)")


def _draw_section(
    axes: Axes,
    cut: np.ndarray,
    edges: tuple[np.ndarray, np.ndarray],
    name: str,
    span: tuple[float, float],
) -> None:
    """A section; the beam comes from above, or from the left where depth is longer than width."""
    import matplotlib

    across, depth = edges
    width = np.ptp(across)
    long = np.ptp(depth)
    unit, scale = unit_of(float(max(width, long)))
    colours = matplotlib.colormaps[PHASE_COLOURS].with_extremes(bad=EMPTY_COLOUR)
    look = {"cmap": colours, "vmin": span[0], "vmax": span[1], "rasterized": True}
    labels = (f"{name} ({unit})", f"depth ({unit})")
    if long > width:
        axes.pcolormesh(depth / scale, across / scale, cut.T, **look)
        labels = labels[::-1]
    else:
        axes.pcolormesh(across / scale, depth / scale, cut, **look)
    axes.invert_yaxis()
    fits = 1 / MAX_SECTION_RATIO <= long / width <= MAX_SECTION_RATIO
    frame(axes, title="" if fits else ", depth not to scale", x=labels[0], y=labels[1])
    axes.set_aspect("equal" if fits else "auto")


def _section_flatness(r: Result, field: ObjectField) -> float:
    """Height over width of a section as it lies."""
    width = field.inside.shape[1] * r.pixel[1]
    long = float(np.ptp(_slice_borders(slice_depths(r))))
    return min(width, long) / max(width, long)


def _slice_borders(centres: np.ndarray) -> np.ndarray:
    """Borders half way between slices; the outer ones as thick as their neighbours leave them."""
    between = (centres[1:] + centres[:-1]) / 2
    first = centres[0] - (between[0] - centres[0])
    last = centres[-1] + (centres[-1] - between[-1])
    edges = np.concatenate([[first], between, [last]])
    return edges if np.all(np.diff(edges) > 0) else np.arange(len(centres) + 1) - 0.5


def _middle_pixel(r: Result, field: ObjectField) -> tuple[int, int]:
    """Row and column, in the box, of the middle of the scan."""
    place = (np.mean(r.positions, axis=0) - np.array(r.origin)) / np.array(r.pixel)
    sizes = field.inside.shape
    inner = (round(float(p)) - part.start for p, part in zip(place, field.box, strict=True))
    row, column = (min(max(at, 0), size - 1) for at, size in zip(inner, sizes, strict=True))
    return row, column


def _slice_title(r: Result, index: int) -> str:
    """Number and depth of a slice."""
    depth = slice_depths(r)
    title = f"slice {index + 1} of {len(depth)}"
    unit, scale = unit_of(float(depth[-1]))
    return f"{title}: {depth[index] / scale:.4g} {unit}" if depth[-1] > 0 else title


def _fit_plane(phase: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The commonest plane, fitted to a grid of pixels that is fine enough."""
    fold = max(1, math.isqrt(phase.size) // PLANE_FIT_SIDE)
    few = phase[::fold, ::fold]
    seen = inside[::fold, ::fold]
    if not seen.any():
        few = phase
        seen = inside
        fold = 1
    flat = few - remove_ramp(few, seen, robust=True)
    y, x = (np.arange(size) / fold for size in phase.shape)
    rise = flat[1, 0] - flat[0, 0] if len(flat) > 1 else 0.0
    run = flat[0, 1] - flat[0, 0] if flat.shape[1] > 1 else 0.0
    return flat[0, 0] + rise * y[:, None] + run * x


def _covered_box(r: Result) -> tuple[tuple[slice, slice], np.ndarray]:
    """The box around the covered area, and that area within it; everything, if nothing is covered."""
    covered = np.asarray(r.coverage_mask, bool)
    if not covered.any():
        covered = np.ones(covered.shape, bool)
    rows, columns = (np.flatnonzero(covered.any(axis)) for axis in (1, 0))
    box = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
    return box, covered[box]
