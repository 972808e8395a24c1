"""The figure of a direct image: phase, amplitude, aberrations, correlation of half sets, mean pattern."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from phaseloom.data.signals import scan_steps
from phaseloom.direct.recipe import DirectResult
from phaseloom.direct.transfer import LinearOptics, compute_chi
from phaseloom.metrics.resolution import ONE_SEVENTH, RingCorrelation
from phaseloom.plot.scan import detector_step
from phaseloom.plot.style import SMALL_FONT, colour_bar, image, limits, new_page
from phaseloom.units import ANGLE, LENGTH

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_aberrations", "plot_direct_image"]


def plot_direct_image(result: DirectResult, /) -> Figure:
    """Phase of a direct image, mean pattern with disk, aberrations; amplitude and ring correlation if known.

    Args:
        result: of `phaseloom.direct.recipe.reconstruct_recipe`.
    """
    found = result.found
    panels: list[Callable[[Axes], None]] = [lambda axes: _draw_phase(axes, result)]
    if found.image.amplitude is not None:
        panels.append(lambda axes: _draw_amplitude(axes, result))
    panels.append(lambda axes: _draw_disk(axes, result))
    panels.append(lambda axes: draw_aberrations(axes, found.optics))
    errors = {} if found.fit is None else found.fit.errors
    panels.append(lambda axes: _list_coefficients(axes, found.optics, errors))
    if (curve := found.correlation) is not None:
        panels.append(lambda axes: _draw_correlation(axes, curve))
    columns = -(-len(panels) // 2)
    figure = new_page(4.0 * columns, 8.4)
    places = figure.subplots(2, columns).ravel()
    for draw, axes in zip(panels, places, strict=False):
        draw(axes)
    for axes in places[len(panels) :]:
        axes.remove()
    return figure


def _measure_step(result: DirectResult) -> tuple[float, float]:
    """Steps of the scan (y, x), angstrom."""
    grid = result.found.grid
    steps = scan_steps(grid.places() * float(result.found.optics.step), grid.shape)
    return steps[0], steps[1]


def _draw_phase(axes: Axes, result: DirectResult) -> None:
    found = result.found.image
    phase = found.phase.double().numpy()
    low, high = limits(phase)
    look = {"title": f"Phase ({found.method})", "cmap": "magma", "vmin": low, "vmax": high}
    drawn = image(axes, phase, pixel=_measure_step(result), **look)
    colour_bar(axes, drawn, "radian" if found.method.is_in_radian else "arbitrary units")


def _draw_amplitude(axes: Axes, result: DirectResult) -> None:
    amplitude = result.found.image.amplitude
    assert amplitude is not None
    loss = amplitude.double().numpy()
    low, high = limits(loss)
    look = {"title": "Loss of amplitude", "cmap": "cividis", "vmin": low, "vmax": high}
    drawn = image(axes, loss, pixel=_measure_step(result), **look)
    colour_bar(axes, drawn, "-log |object|")


def draw_aberrations(axes: Axes, optics: LinearOptics, /) -> None:
    """Draw the aberration phase over the aperture.

    Args:
        axes: to draw on.
        optics: whose.

    Example:
        >>> axes = new_page(3, 3).subplots()
        >>> draw_aberrations(axes, LinearOptics(0.02, 0.02, {"C10": -100.0}))
        >>> shown = axes.images[0].get_array()
        >>> round(float(shown.min()), 1)  # at the rim: pi semiangle^2 C10 / wavelength
        -6.3
    """
    semiangle = float(optics.semiangle)
    k = torch.linspace(-1, 1, 201, dtype=torch.float64) * semiangle / optics.wavelength
    places = torch.stack(torch.meshgrid(k, k, indexing="ij"), -1)
    chi = compute_chi(optics, places).detach().numpy()
    chi = np.ma.masked_array(chi, places.norm(dim=-1).numpy() > semiangle / optics.wavelength * 1.0001)
    pixel = semiangle / 100
    drawn = image(
        axes,
        chi,
        pixel=(pixel, pixel),
        dimension=ANGLE,
        title="Aberration phase over the aperture",
        cmap="RdBu_r",
    )
    largest = float(np.abs(chi).max()) or 1.0
    drawn.set_clim(-largest, largest)
    colour_bar(axes, drawn, "radian")


def _list_coefficients(axes: Axes, optics: LinearOptics, errors: dict[str, float]) -> None:
    lines = [f"semi-angle {ANGLE.show(float(optics.semiangle))}"]
    for name, value in optics.aberrations.items():
        lines.append(f"{name} {LENGTH.show_with_error(float(value), errors.get(name, 0.0))}")
    axes.axis("off")
    axes.text(0.0, 1.0, "\n".join(lines), va="top", fontsize=SMALL_FONT, transform=axes.transAxes)


def _draw_correlation(axes: Axes, curve: RingCorrelation) -> None:
    axes.plot(curve.frequency, curve.value, color="tab:blue")
    axes.axhline(ONE_SEVENTH, color="gray", linestyle="--", linewidth=1)
    axes.set_ylim(-0.2, 1.05)
    axes.set_xlabel("cycles per angstrom", fontsize=SMALL_FONT)
    axes.set_title("Correlation of half sets of pixels", fontsize=SMALL_FONT)
    axes.tick_params(labelsize=SMALL_FONT)


def _draw_disk(axes: object, result: DirectResult) -> None:
    from matplotlib.patches import Circle

    survey = result.found.survey
    mean = np.where(survey.mask, survey.mean, np.nan)
    size, dimension = detector_step(result.scan.geometry)
    drawn = image(
        axes,  # pyright: ignore[reportArgumentType]
        np.ma.masked_invalid(mean),
        pixel=size,
        dimension=dimension,
        title="Mean pattern, disk, masked pixels",
        cmap="magma",
    )
    colour_bar(axes, drawn, "counts per pixel")  # pyright: ignore[reportArgumentType]
    middle = [(c + 0.5) * s for c, s in zip(survey.disk.centre[::-1], size[::-1], strict=True)]
    circle = Circle(
        (middle[0], middle[1]), survey.disk.radius * size[1], fill=False, color="white", linestyle="--"
    )
    axes.add_patch(circle)  # pyright: ignore[reportAttributeAccessIssue]
