"""Figures of the probe: its modes, and its way through the object."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from phaseloom.plot.object import slice_depths
from phaseloom.plot.style import (
    SMALL_FONT,
    colour_bar,
    colour_wheel,
    frame,
    image,
    new_figure,
    show_length,
    unit_of,
    wave_colours,
)
from phaseloom.units import ANGLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure, FigureBase

    from phaseloom.result import Result

__all__ = ["caustic", "probe_modes"]

MAX_MODES_ABREAST = 6
"""How many modes are drawn side by side."""

DEPTHS_SEARCHED = 49
"""Depths at which the focus is searched."""

DEPTHS_DRAWN = 97
"""Depths at which the beam is drawn."""


def probe_modes(r: Result) -> Figure:
    """Modes of the probe on the object and in its Fourier plane with their powers, and the beam along z.

    Hue is phase and brightness amplitude. The beam (`caustic`) is drawn for a far field.
    """
    width = max(2.5 * min(len(r.probe), MAX_MODES_ABREAST) + 0.6, 7.5)
    if r.geometry.near:
        figure = new_figure(width, 5.2)
        draw_modes(figure, r)
        return figure
    figure = new_figure(width, 8.6)
    above, below = figure.subfigures(2, 1, height_ratios=[5.2, 3.4], squeeze=False)[:, 0]
    draw_modes(above, r)
    draw_caustic(below, r)
    return figure


def draw_modes(panel: FigureBase, r: Result) -> None:
    """Two rows of waves: at the object, and in the Fourier plane."""
    power = (np.abs(r.probe) ** 2).sum((1, 2))
    power = 100 * power / max(power.sum(), 1e-30)
    grid = panel.subplots(2, min(len(r.probe), MAX_MODES_ABREAST), squeeze=False)
    focus = _fourier(r.probe)
    near = bright_box(r.probe)
    far = bright_box(focus)
    for mode, (above, below) in enumerate(grid.T):
        title = f"mode {mode + 1}: {power[mode]:.3g} %"
        image(above, wave_colours(r.probe[mode][near]), pixel=r.pixel, title=title)
        image(below, wave_colours(focus[mode][far]), pixel=_angle(r), dimension=ANGLE)
    style = {"ha": "right", "va": "center", "rotation": 90, "fontsize": SMALL_FONT}
    for axes, name in zip(grid[:, 0], ("on the object", "Fourier plane"), strict=True):
        axes.text(-0.03, 0.5, name, transform=axes.transAxes, **style)
    colour_wheel(grid[0, 0])


def draw_caustic(panel: FigureBase, r: Result) -> None:
    """Intensity over depth and x, and over depth and y; dashed lines are the first and the last slice."""
    z, cuts = caustic(r)
    slices = slice_depths(r)
    unit, scale = unit_of(float(np.ptp(z)))
    side, length = unit_of(max(n * p for n, p in zip(r.probe.shape[1:], r.pixel, strict=True)))
    places = panel.subplots(1, 2)
    for name, axes, cut, pixel in zip("xy", places, cuts[::-1], r.pixel[::-1], strict=True):
        half = cut.shape[1] * pixel / 2 / length
        extent = (z[0] / scale, z[-1] / scale, half, -half)
        shown = np.sqrt(cut.T / max(float(cut.max()), 1e-30))
        axes.imshow(shown, extent=extent, aspect="auto", cmap="magma", vmin=0, vmax=1)
        waist = float(z[cut.max(1).argmax()])
        title = f"beam over {name}, densest at {show_length(waist)}"
        frame(axes, title=title, x=f"depth behind the first slice ({unit})", y=f"{name} ({side})")
        for depth in {float(slices[0]), float(slices[-1])}:
            axes.axvline(depth / scale, color="white", linewidth=0.8, linestyle="--")
        axes.set_ylim(*(_beam_reach(cut) * half * np.array([1, -1])))
    colour_bar(places[-1], places[-1].images[0], "√ intensity (of the maximum)")


def caustic(r: Result, /) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """The free beam around the depth of the object: depths, angstrom, and intensities along y and along x.

    All modes together, without the object, through the middle of the probe; both cuts are ``(depth, pixel)``.
    It reaches two depths of focus beyond the object and the focus, or as far as the window can hold it.
    """
    semiangle = _semiangle(r)
    sides = [n * p for n, p in zip(r.probe.shape[1:], r.pixel, strict=True)]
    focal = r.geometry.wavelength / semiangle**2
    end = float(slice_depths(r)[-1])
    reach = min(sides) / 2 / semiangle
    reach = max(reach, 2 * focal)
    search = np.linspace(-reach, end + reach, DEPTHS_SEARCHED)
    rows, columns = _propagate_cuts(r, search)
    focus = float(search[(rows.max(1) + columns.max(1)).argmax()])
    first = max(min(0.0, focus) - 2 * focal, -reach)
    last = min(max(end, focus) + 2 * focal, end + reach)
    z = np.linspace(first, last, DEPTHS_DRAWN)
    return z, _propagate_cuts(r, z)


def _propagate_cuts(r: Result, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intensity ``(depth, y)`` and ``(depth, x)`` on the lines through the middle of the probe.

    A line of a wave is the sum of its spectrum across the line, so one short transform suffices.
    """
    import torch

    from phaseloom.physics.fourier import to_reciprocal
    from phaseloom.physics.propagate import angular_spectrum

    modes = torch.as_tensor(np.asarray(r.probe, np.complex64))
    _, rows, columns = modes.shape
    row, column = _centre(r.probe)
    spectrum = to_reciprocal(modes)
    at = [torch.fft.fftfreq(n)[:, None] * (2 * math.pi * c) for n, c in ((rows, row), (columns, column))]
    y, x = (torch.polar(torch.ones_like(angle), angle) for angle in at)
    found: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for distance in torch.as_tensor(z, dtype=torch.float32):
        kernel = angular_spectrum((rows, columns), r.pixel, r.geometry.wavelength, distance)
        there = spectrum * kernel
        for cut, line in zip(found, ((there * x.T).sum(2), (there * y).sum(1)), strict=True):
            cut.append(torch.fft.ifft(line).abs().square().sum(0).numpy())
    return np.stack(found[0]), np.stack(found[1])


def _centre(waves: np.ndarray) -> tuple[float, float]:
    """Pixel (y, x) of the centre of mass of the intensity."""
    power = (np.abs(waves) ** 2).sum(0)
    total = max(float(power.sum()), 1e-30)
    row = float(power.sum(1) @ np.arange(power.shape[0])) / total
    return row, float(power.sum(0) @ np.arange(power.shape[1])) / total


def _semiangle(r: Result) -> float:
    """Radius of the disk that a bright field of this spread would have, radian."""
    power = (np.abs(_fourier(r.probe)) ** 2).sum(0)
    row, column = _centre(_fourier(r.probe))
    y, x = (np.arange(n) - c for n, c in zip(power.shape, (row, column), strict=True))
    radius = np.hypot(y[:, None] * _angle(r)[0], x * _angle(r)[1]).ravel()
    order = np.argsort(radius)
    share = np.cumsum(power.ravel()[order])
    most = radius[order][np.searchsorted(share, 0.9 * share[-1])]
    return max(float(most) / math.sqrt(0.9), min(_angle(r)))


def _fourier(waves: np.ndarray) -> np.ndarray:
    plane = (-2, -1)
    return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(waves, plane), axes=plane), plane)


def _angle(r: Result) -> tuple[float, float]:
    """Angle (y, x) of a pixel of the probe's Fourier plane, radian."""
    rows, columns = r.probe.shape[1:]
    return r.geometry.wavelength / (rows * r.pixel[0]), r.geometry.wavelength / (columns * r.pixel[1])


def bright_box(waves: np.ndarray) -> tuple[slice, slice]:
    """The box (y, x) that holds nearly all of a wave, and a margin of a third around it."""
    power = (np.abs(waves) ** 2).sum(0)
    box = []
    for axis in (1, 0):
        share = np.cumsum(power.sum(axis)) / max(power.sum(), 1e-30)
        first, last = np.searchsorted(share, (0.005, 0.995))
        edge = 2 + (last - first) // 3
        box.append(slice(max(0, int(first - edge)), int(last + edge) + 1))
    return box[0], box[1]


def _beam_reach(cut: np.ndarray) -> float:
    """Share of the window's half that holds nearly all of the beam at every depth drawn."""
    share = np.cumsum(cut.sum(0)) / max(float(cut.sum()), 1e-30)
    first, last = np.searchsorted(share, (0.01, 0.99))
    middle = cut.shape[1] / 2
    return float(min(1.0, 1.2 * max(abs(first - middle), abs(last + 1 - middle)) / middle))
