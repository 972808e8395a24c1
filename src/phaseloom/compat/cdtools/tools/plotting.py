"""CDTools' ``tools.plotting``: images on their bases, colours of waves, maps of a scan, by `phaseloom.plot`.

Figures are those of pyplot, or what is given as ``fig`` (a figure or a part of one), which is cleared before.
An image with leading axes is a stack to step through: a slider, the arrow keys (up and down by the last
leading axis). Translations are ``(shot, 2 or 3)`` and bases ``(xyz, 2)`` in metres; axes are in ``units``, x
grows to the left. Hues are those of `phaseloom.plot`, on a circle on which no phase looks brighter than
another; they stand for cmocean's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import ListedColormap, hsv_to_rgb

from phaseloom.compat.cdtools.figures import replace_callbacks
from phaseloom.compat.cdtools.tools._shared import missing, to_numpy
from phaseloom.errors import BadInput, nearest
from phaseloom.plot.gui import SteppedView
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


MICRON = "$\\mu$m"
FACTORS = {"m": 1, "cm": 1e2, "mm": 1e3, "um": 1e6, "µm": 1e6, MICRON: 1e6, "nm": 1e9, "a": 1e10, "pm": 1e12}


VIEW = "_phaseloom_view"
"""Attribute of a figure that holds what steps through its images."""

DOT_AREA_OF_SCAN = 40000
"""Points squared that the dots of a map share."""

cmocean_phase = ListedColormap(wave_colours(np.exp(1j * np.linspace(-np.pi, np.pi, 256))[None])[0], "phase")
"""Cyclic colours of phases from -pi to pi; the name is CDTools', the colours are ours."""

Draw = Callable[[np.ndarray], np.ndarray]


def colorize(
    z: Any, use_cmocean: bool = True, amplitude_scaling: Callable[[Any], Any] = lambda amplitude: amplitude
) -> np.ndarray:
    """Colours ``(y, x, rgb)`` of a wave ``(y, x)``: hue is phase, brightness the amplitude over its largest.

    ``use_cmocean`` has even hues, else those of HSV; ``amplitude_scaling`` is of amplitudes between 0 and 1.
    """
    wave = to_numpy(z)
    size = np.abs(wave)
    size = amplitude_scaling(size / (size.max() or 1))
    if use_cmocean:
        return wave_colours(np.exp(1j * np.angle(wave))) * size[..., None]
    hue = (np.angle(wave, deg=True) + 170) % 360 / 360
    return hsv_to_rgb(np.stack([hue, np.full(hue.shape, 0.85), size], -1))


def plot_real(im: Any, fig: Any = None, basis: Any = None, units: str = MICRON, **look: Any) -> Any:
    """The real part; arguments as in `plot_image`."""
    look.setdefault("cmap_label", "Real Part (a.u.)")
    return plot_image(im, np.real, fig, basis, units=units, **look)


def plot_imag(im: Any, fig: Any = None, basis: Any = None, units: str = MICRON, **look: Any) -> Any:
    """The imaginary part; arguments as in `plot_image`."""
    look.setdefault("cmap_label", "Imaginary Part (a.u.)")
    return plot_image(im, np.imag, fig, basis, units=units, **look)


def plot_amplitude(im: Any, fig: Any = None, basis: Any = None, units: str = MICRON, **look: Any) -> Any:
    """The modulus; arguments as in `plot_image`."""
    look.setdefault("cmap_label", "Amplitude (a.u.)")
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
    """An image, or a stack of them ``(..., y, x)``, with the axes of its basis; returns the figure.

    ``plot_func`` makes of one image what is drawn: ``(y, x)``, or colours ``(y, x, rgb)`` with a wheel of
    hues. Oblique pixels of ``basis`` are drawn oblique; without it axes are in pixels. ``view_basis`` is
    ``"ortho"`` (columns run to the right) or the two vectors (down, right) of the page. A stack stays at the
    number it showed in ``fig``. ``updateable_colorbar`` has no effect: limits that are not given follow each
    image; ``kwargs`` are those of a new pyplot figure.
    """
    figure = _figure_of(fig, kwargs)
    stack = to_numpy(im)
    lead = stack.shape[:-2]
    flat = stack.reshape(-1, *stack.shape[-2:])
    shown = _shown_before(figure, len(flat))
    figure.clear()
    axes = figure.add_axes((0.13, 0.18 if len(flat) > 1 else 0.12, 0.72, 0.74))
    picture = axes.imshow(
        plot_func(flat[shown]), cmap=cmap, vmin=vmin, vmax=vmax, interpolation=interpolation
    )
    _label(axes, basis, units)
    if basis is not None:
        _place_on_page(
            picture, flat.shape[1:], _page_steps(to_numpy(basis) * get_units_factor(units), view_basis)
        )
    if show_cbar:
        _add_key(axes, picture, cmap_label or "")
    axes.set_title(title or "")
    if len(flat) == 1:
        return figure

    def draw(index: int) -> None:
        picture.set_data(plot_func(flat[index]))
        values: Any = picture.get_array()
        if values.ndim == 2:
            picture.set_clim(
                np.nanmin(values) if vmin is None else vmin, np.nanmax(values) if vmax is None else vmax
            )
        place = ", ".join(str(i) for i in np.unravel_index(index, lead))
        axes.set_title(f"{title or ''} [{place}]".strip())

    names = list(additional_axis_labels or [])
    label = ", ".join(names) if len(names) == len(lead) else "number"
    return _add_steps(figure, len(flat), draw, shown, row=max(lead[-1], 1), label=label)


def _add_key(axes: Axes, picture: Any, label: str) -> None:
    if picture.get_array().ndim == 2:
        colour_bar(axes, picture, label)
    else:
        colour_wheel(axes)


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
    """Places of a scan, joined by ``lines`` in their order; returns the figure.

    Without ``clear_fig`` they are added to the first axes; further arguments have no effect, as in CDTools.
    """
    figure = _figure_of(fig, {})
    if clear_fig:
        figure.clear()
    axes = figure.axes[0] if figure.axes else figure.add_subplot()
    x, y = get_units_factor(units) * to_numpy(translations).T[:2]
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

    ``convention`` is that of the ``probe``, or of the sample, whose motion is the other way.
    """
    figure = _figure_of(fig, {})
    figure.clear()
    axes = figure.add_axes((0.13, 0.12, 0.72, 0.78))
    dots = _draw_dots(axes, translations, values, units, convention, cmap=cmap)
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

    ``get_image_func`` takes the number of a shot and gives its image ``(y, x)``, or a stack of which the
    first is shown; ``values`` are colours of the dots. ``mask`` and further arguments have no effect, as in
    CDTools.
    """
    figure = _figure_of(fig, {"figsize": (10, 5)})
    figure.clear()
    left = figure.add_axes((0.08, 0.2, 0.33, 0.7))
    right = figure.add_axes((0.57, 0.2, 0.33, 0.7))
    dots = _draw_dots(left, translations, values, nanomap_units, convention, cmap=cmap, picker=True)
    left.invert_xaxis()
    if values is not None:
        colour_bar(left, dots, nanomap_colorbar_title)

    def image(index: int) -> np.ndarray:
        found = to_numpy(get_image_func(index))
        return found.reshape(-1, *found.shape[-2:])[0]

    first = image(0)
    picture = right.imshow(first, cmap=cmap)
    _label(right, basis, image_units)
    if basis is not None:
        _place_on_page(
            picture, first.shape, _page_steps(to_numpy(basis) * get_units_factor(image_units), "ortho")
        )
    colour_bar(right, picture, image_colorbar_title)
    size = float(dots.get_sizes()[0])

    def draw(index: int) -> None:
        values = image(index)
        picture.set(data=values, clim=(np.nanmin(values), np.nanmax(values)))
        dots.set_sizes(np.where(np.arange(len(to_numpy(translations))) == index, 4 * size, size))
        right.set_title(f"{image_title} {index}")

    return _add_steps(figure, len(to_numpy(translations)), draw, 0, label="Image #", picked=True)


def _draw_dots(axes: Axes, translations: Any, values: Any, units: str, convention: str, **look: Any) -> Any:
    """Dots at the places of the shots, as large as there is room for."""
    x, y = (
        get_units_factor(units) * to_numpy(translations).T[:2] * (1 if convention.lower() == "probe" else -1)
    )
    colours = None if values is None else to_numpy(values)
    size = float(np.clip(DOT_AREA_OF_SCAN / len(x), 4, 400))
    if colours is None:
        look.pop("cmap", None)
    dots = axes.scatter(x, y, s=size, c=colours, **look)
    axes.set(facecolor="k", xlabel=f"Translation x ({units})", ylabel=f"Translation y ({units})")
    return dots


def get_units_factor(units: str) -> float:
    """What metres are multiplied by to be in a unit.

    Raises:
        BadInput: an unknown unit.
    """
    if units.lower() not in FACTORS:
        raise BadInput("plotting.units", units, f"is not known: {nearest(units, FACTORS)}")
    return FACTORS[units.lower()]


def _figure_of(fig: Any, kwargs: dict[str, Any]) -> Any:
    """The figure that is given, or a new one of pyplot."""
    import matplotlib.pyplot as plt

    return plt.figure(**kwargs) if fig is None else fig


def _shown_before(figure: Any, count: int) -> int:
    """The number that a figure showed before, if it can show it again."""
    view = getattr(figure, VIEW, None)
    return view.index if view is not None and view.index < count else 0


def _add_steps(
    figure: Any,
    count: int,
    draw: Callable[[int], None],
    shown: int,
    *,
    row: int = 10,
    label: str,
    picked: bool = False,
) -> Any:
    """Slider and keys for a figure, instead of those it had."""
    with replace_callbacks(figure):
        view = SteppedView(figure, count, draw, row=row)
        view.slide_on(figure.add_axes((0.25, 0.03, 0.5, 0.04)), label)
        view.show(shown)
        if picked:
            figure.canvas.mpl_connect("pick_event", lambda event: view.show(int(event.ind[0])))
    setattr(figure, VIEW, view)
    return figure


def _label(axes: Axes, basis: Any, units: str) -> None:
    """Labels of both axes: pixels, or a unit."""
    x, y = ("j (pixels)", "i (pixels)") if basis is None else (f"X ({units})", f"Y ({units})")
    axes.set(facecolor="k", xlabel=x, ylabel=y)


def _page_steps(basis: np.ndarray, view_basis: Any) -> np.ndarray:
    """Steps on the page, (right, down) by (column, row): upright unless another view is asked for."""
    row, column = basis.T
    if not isinstance(view_basis, str):
        view = to_numpy(view_basis) / np.linalg.norm(to_numpy(view_basis), axis=0)
        return np.linalg.lstsq(view[:, ::-1], basis[:, ::-1], rcond=None)[0]
    width = np.linalg.norm(column)
    along = row @ column / width
    return np.array([[width, along], [0, np.sqrt(max(row @ row - along**2, 0))]])


def _place_on_page(picture: Any, shape: Sequence[int], steps: np.ndarray) -> None:
    """Draw an image on the page by its steps, rows downwards."""
    from matplotlib.transforms import Affine2D

    (a, c), (b, d) = steps
    axes = picture.axes
    picture.set_transform(Affine2D.from_values(a, b, c, d, 0, 0) + axes.transData)
    y, x = (np.array([-0.5, n - 0.5]) for n in shape)
    corners = steps @ np.stack([np.tile(x, 2), np.repeat(y, 2)])
    axes.set_xlim(corners[0].min(), corners[0].max())
    axes.set_ylim(corners[1].max(), corners[1].min())
