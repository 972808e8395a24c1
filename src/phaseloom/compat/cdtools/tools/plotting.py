"""CDTools' ``tools.plotting``: images on their bases, colours of waves, maps of a scan.

Figures are those of pyplot, or what is given (a figure or a part of one), which is cleared before. An image
with leading axes is a stack to step through: a slider, the arrow keys (up and down by the last leading axis).
Hues are those of `phaseloom.plot`, on a circle on which no phase looks brighter than another; they stand for
cmocean's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import ListedColormap, hsv_to_rgb

from phaseloom.compat.cdtools.tools import _panels
from phaseloom.compat.cdtools.tools._maps import plot_nanomap, plot_nanomap_with_images, plot_translations
from phaseloom.compat.cdtools.tools._panels import MICRON, get_units_factor
from phaseloom.compat.cdtools.tools._shared import missing, plain
from phaseloom.plot.style import colour_bar, colour_wheel, wave_colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "cmocean_phase",
    "colorize",
    "get_units_factor",
    "plot_amplitude",
    "plot_colorized",
    "plot_imag",
    "plot_image",
    "plot_nanomap",
    "plot_nanomap_with_images",
    "plot_phase",
    "plot_real",
    "plot_translations",
]

__getattr__ = missing("plotting", __all__)


cmocean_phase = ListedColormap(wave_colours(np.exp(1j * np.linspace(-np.pi, np.pi, 256))[None])[0], "phase")
"""Cyclic colours of phases from -pi to pi; the name is CDTools', the colours are ours."""

Draw = Callable[[np.ndarray], np.ndarray]


def colorize(
    z: Any, use_cmocean: bool = True, amplitude_scaling: Callable[[Any], Any] = lambda amplitude: amplitude
) -> np.ndarray:
    """Colours ``(y, x, rgb)`` of a complex wave: hue is phase, brightness the amplitude over its largest.

    Args:
        z: ``(y, x)``.
        use_cmocean: even hues; else those of HSV, as CDTools has them.
        amplitude_scaling: of amplitudes between 0 and 1, for instance ``np.sqrt``.
    """
    wave = plain(z)
    size = np.abs(wave)
    size = amplitude_scaling(size / (size.max() or 1))
    if use_cmocean:
        return wave_colours(np.exp(1j * np.angle(wave))) * size[..., None]
    hue = (np.angle(wave, deg=True) + 170) % 360 / 360
    return hsv_to_rgb(np.stack([hue, np.full(hue.shape, 0.85), size], -1))


def plot_real(im: Any, fig: Any = None, basis: Any = None, units: str = MICRON, **look: Any) -> Any:
    """The real part; arguments as in `plot_image`."""
    look = {"cmap_label": "Real Part (a.u.)"} | look
    return plot_image(im, np.real, fig, basis, units=units, **look)


def plot_imag(im: Any, fig: Any = None, basis: Any = None, units: str = MICRON, **look: Any) -> Any:
    """The imaginary part; arguments as in `plot_image`."""
    look = {"cmap_label": "Imaginary Part (a.u.)"} | look
    return plot_image(im, np.imag, fig, basis, units=units, **look)


def plot_amplitude(im: Any, fig: Any = None, basis: Any = None, units: str = MICRON, **look: Any) -> Any:
    """The modulus; arguments as in `plot_image`."""
    look = {"cmap_label": "Amplitude (a.u.)"} | look
    return plot_image(im, np.abs, fig, basis, units=units, **look)


def plot_phase(im: Any, fig: Any = None, basis: Any = None, units: str = MICRON, **look: Any) -> Any:
    """The phase, radian; ``cmap="phase"`` (or ``"cyclic"``) is cyclic from -pi to pi. See `plot_image`."""
    look = {"cmap_label": "Phase (rad)", "cmap": "cividis"} | look
    if look["cmap"] in ("cyclic", "phase", "cmocean_phase"):
        limits = {"vmin": -np.pi, "vmax": np.pi}
        look |= {"cmap": cmocean_phase} | {k: v for k, v in limits.items() if look.get(k) is None}
    return plot_image(im, np.angle, fig, basis, units=units, **look)


def plot_colorized(  # noqa: PLR0917 -- CDTools' arguments
    im: Any,
    fig: Any = None,
    basis: Any = None,
    units: str = MICRON,
    title: str | None = None,
    use_cmocean: bool = True,
    amplitude_scaling: Callable[[Any], Any] = lambda amplitude: amplitude,
    **look: Any,
) -> Any:
    """Phase as hue and amplitude as brightness (`colorize`), with a wheel of hues; returns the figure."""

    def colours(wave: np.ndarray) -> np.ndarray:
        return colorize(wave, use_cmocean, amplitude_scaling)

    return plot_image(im, colours, fig, basis, units=units, title=title, **look)


def plot_image(  # noqa: PLR0913, PLR0917 -- CDTools' arguments
    im: Any,
    plot_func: Draw = lambda image: image,
    fig: Any = None,
    basis: Any = None,
    view_basis: Any = "ortho",
    units: str = MICRON,
    cmap: Any = "viridis",
    cmap_label: str | None = None,
    show_cbar: bool = True,
    vmin: float | None = None,
    vmax: float | None = None,
    interpolation: str | None = None,
    title: str | None = None,
    additional_axis_labels: Sequence[str] | None = None,
    updateable_colorbar: bool = True,
    **kwargs: Any,
) -> Any:
    """An image, or a stack of them, with the axes of its basis.

    Args:
        im: ``(..., y, x)``.
        plot_func: from one image to what is drawn, ``(y, x)`` or colours ``(y, x, rgb)``.
        fig: to draw into; a stack stays at the number it showed. Default: a new one.
        basis: ``(xyz, 2)``, metres; oblique pixels are drawn oblique. None: axes in pixels.
        view_basis: ``"ortho"``: columns run to the right; or the two vectors (down, right) of the page.
        units: of the axes.
        cmap: of values.
        cmap_label: of the colour bar.
        show_cbar: draw it, or the wheel of hues of colours.
        vmin: lower end of the colours; default: of each image.
        vmax: upper end.
        interpolation: matplotlib's.
        title: above the image.
        additional_axis_labels: of the leading axes.
        updateable_colorbar: no meaning here: limits that are not given follow each image.
        **kwargs: of a new pyplot figure.

    Returns:
        The figure.
    """
    figure = _panels.figure_of(fig, kwargs)
    stack = plain(im)
    lead, flat = stack.shape[:-2], stack.reshape(-1, *stack.shape[-2:])
    shown = _panels.shown_before(figure, len(flat))
    figure.clear()
    axes = figure.add_axes((0.13, 0.18 if len(flat) > 1 else 0.12, 0.72, 0.74))
    picture = axes.imshow(
        plot_func(flat[shown]), cmap=cmap, vmin=vmin, vmax=vmax, interpolation=interpolation
    )
    _panels.label(axes, basis, units)
    if basis is not None:
        _panels.lay(
            picture, flat.shape[1:], _panels.page_steps(plain(basis) * get_units_factor(units), view_basis)
        )
    if show_cbar:
        _key(axes, picture, cmap_label or "")
    axes.set_title(title or "")
    if len(flat) == 1:
        return figure

    def draw(index: int) -> None:
        picture.set_data(plot_func(flat[index]))
        if picture.get_array().ndim == 2:  # type: ignore[union-attr]
            values = picture.get_array()
            picture.set_clim(
                np.nanmin(values) if vmin is None else vmin, np.nanmax(values) if vmax is None else vmax
            )
        place = ", ".join(str(i) for i in np.unravel_index(index, lead))
        axes.set_title(f"{title or ''} [{place}]".strip())

    names = list(additional_axis_labels or [])
    label = ", ".join(names) if len(names) == len(lead) else "number"
    return _panels.stepped(figure, len(flat), draw, shown, row=max(lead[-1], 1), label=label)


def _key(axes: Axes, picture: Any, label: str) -> None:
    if picture.get_array().ndim == 2:
        colour_bar(axes, picture, label)
    else:
        colour_wheel(axes)
