"""Maps of a scan, for `plotting`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from phaseloom.compat.cdtools.tools._panels import (
    MICRON,
    figure_of,
    get_units_factor,
    label,
    lay,
    page_steps,
    stepped,
)
from phaseloom.compat.cdtools.tools._shared import plain
from phaseloom.plot.style import colour_bar

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_nanomap", "plot_nanomap_with_images", "plot_translations"]


def plot_translations(  # noqa: PLR0917 -- CDTools' arguments
    translations: Any,
    fig: Any = None,
    units: str = MICRON,
    lines: bool = True,
    invert_xaxis: bool = True,
    clear_fig: bool = True,
    label: str | None = None,
    color: Any = None,
    marker: str = ".",
    **kwargs: Any,
) -> Any:
    """Places of a scan, ``(shot, 2 or 3)`` metres, x to the left as seen along the beam; returns the figure.

    Args:
        translations: x, y and perhaps z.
        fig: to draw into.
        units: of the axes.
        lines: join the places in their order.
        invert_xaxis: x grows to the left.
        clear_fig: else the places are added to what the first axes hold.
        label: of the curve.
        color: of the curve.
        marker: of a place.
        **kwargs: no meaning, as in CDTools.
    """
    figure = figure_of(fig, {})
    if clear_fig:
        figure.clear()
    axes = figure.axes[0] if figure.axes else figure.add_subplot()
    x, y = get_units_factor(units) * plain(translations).T[:2]
    axes.plot(x, y, marker=marker, linestyle="-" if lines else "none", linewidth=1, label=label, color=color)
    if invert_xaxis and not axes.xaxis_inverted():
        axes.invert_xaxis()
    axes.set(xlabel=f"X ({units})", ylabel=f"Y ({units})")
    return figure


def plot_nanomap(  # noqa: PLR0917 -- CDTools' arguments
    translations: Any,
    values: Any,
    fig: Any = None,
    cmap: Any = "viridis",
    cmap_label: str | None = None,
    units: str = MICRON,
    convention: str = "probe",
    invert_xaxis: bool = True,
) -> Any:
    """A value of each shot as the colour of a dot at its place; returns the figure.

    Args:
        translations: ``(shot, 2 or 3)`` metres.
        values: ``(shot)``.
        fig: to draw into.
        cmap: of the values.
        cmap_label: of the colour bar.
        units: of the axes.
        convention: ``"probe"``, or of the sample, whose motion is the other way.
        invert_xaxis: x grows to the left.
    """
    figure = figure_of(fig, {})
    figure.clear()
    axes = figure.add_axes((0.13, 0.12, 0.72, 0.78))
    dots = _dots(axes, translations, values, units, convention, cmap=cmap)
    if invert_xaxis:
        axes.invert_xaxis()
    colour_bar(axes, dots, cmap_label or "")
    return figure


def plot_nanomap_with_images(  # noqa: PLR0913, PLR0917 -- CDTools' arguments
    translations: Any,
    get_image_func: Callable[[int], Any],
    values: Any = None,
    mask: Any = None,
    basis: Any = None,
    fig: Any = None,
    nanomap_units: str = MICRON,
    image_units: str = MICRON,
    convention: str = "probe",
    image_title: str = "Image",
    image_colorbar_title: str = "Image Amplitude",
    nanomap_colorbar_title: str = "Integrated Intensity",
    cmap: Any = "viridis",
    **kwargs: Any,
) -> Any:
    """A map of a scan beside the image of one shot: click a dot, move the slider, or use the arrow keys.

    Args:
        translations: ``(shot, 2 or 3)`` metres.
        get_image_func: from the number of a shot to its image ``(y, x)``; of a stack the first is shown.
        values: ``(shot)``, colours of the dots; none: one colour.
        mask: no meaning, as in CDTools.
        basis: of the image, ``(xyz, 2)``; none: axes in pixels.
        fig: to draw into.
        nanomap_units: of the map.
        image_units: of the image.
        convention: as in `plot_nanomap`.
        image_title: above the image.
        image_colorbar_title: beside it.
        nanomap_colorbar_title: beside the map.
        cmap: of both.
        **kwargs: no meaning, as in CDTools.

    Returns:
        The figure.
    """
    figure = figure_of(fig, {"figsize": (10, 5)})
    figure.clear()
    left, right = figure.add_axes((0.08, 0.2, 0.33, 0.7)), figure.add_axes((0.57, 0.2, 0.33, 0.7))
    dots = _dots(left, translations, values, nanomap_units, convention, cmap=cmap, picker=True)
    left.invert_xaxis()
    if values is not None:
        colour_bar(left, dots, nanomap_colorbar_title)

    def image(index: int) -> np.ndarray:
        found = plain(get_image_func(index))
        return found.reshape(-1, *found.shape[-2:])[0]

    first = image(0)
    picture = right.imshow(first, cmap=cmap)
    label(right, basis, image_units)
    if basis is not None:
        lay(picture, first.shape, page_steps(plain(basis) * get_units_factor(image_units), "ortho"))
    colour_bar(right, picture, image_colorbar_title)
    size = float(dots.get_sizes()[0])

    def draw(index: int) -> None:
        values = image(index)
        picture.set(data=values, clim=(np.nanmin(values), np.nanmax(values)))
        dots.set_sizes(np.where(np.arange(len(plain(translations))) == index, 4 * size, size))
        right.set_title(f"{image_title} {index}")

    return stepped(figure, len(plain(translations)), draw, 0, label="Image #", picked=True)


def _dots(axes: Axes, translations: Any, values: Any, units: str, convention: str, **look: Any) -> Any:
    """Dots at the places of the shots, as large as there is room for."""
    x, y = get_units_factor(units) * plain(translations).T[:2] * (1 if convention.lower() == "probe" else -1)
    colours = None if values is None else plain(values)
    size = float(np.clip(40000 / len(x), 4, 400))
    if colours is None:
        look.pop("cmap", None)
    dots = axes.scatter(x, y, s=size, c=colours, **look)
    axes.set(facecolor="k", xlabel=f"Translation x ({units})", ylabel=f"Translation y ({units})")
    return dots
