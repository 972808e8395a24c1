"""Pages, images with scale bars, colours of complex waves: what every figure is drawn with."""

from __future__ import annotations

import math
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np

from phaseloom.data.signals import scan_steps
from phaseloom.files import whole_buffer
from phaseloom.units import LENGTH, Dimension

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure, FigureBase

__all__ = ["LINE_COLOURS", "LINE_DASHES", "average_blocks", "colour_bar", "colour_wheel", "draw_map"]
__all__ += ["draw_note", "frame", "image", "limits", "name_powers", "new_figure", "new_page", "round_length"]
__all__ += ["save", "show_length", "unit_of", "wave_colours"]

SMALL_FONT = 8
"""Of labels and legends, points."""

NORMAL_FONT = 9.5
"""Of titles, points."""

EMPTY_COLOUR = "0.9"
"""Grey of pixels that hold no value."""

MASKED_COLOUR = "0.6"
"""Grey of masked pixels of patterns: apart from no counts, and from no difference."""

MAX_IMAGE_SIDE = 800
"""Pixels a side beyond which an image is averaged before it is drawn: more than any panel shows."""

LINE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
LINE_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 2)), (0, (6, 3)))
"""Colours that all eyes tell apart (Okabe & Ito, 2008), and dashes for those that see none."""

OKLAB_TO_CONES = ((1, 0.3963377774, 0.2158037573), (1, -0.1055613458, -0.0638541728))
OKLAB_TO_CONES += ((1, -0.0894841775, -1.2914855480),)
CONES_TO_RGB = ((4.0767416621, -3.3077115913, 0.2309699292), (-1.2684380046, 2.6097574011, -0.3413193965))
CONES_TO_RGB += ((-0.0041960863, -0.7034186147, 1.7076147010),)
"""Definition of the Oklab colour space, in which equal steps look equal (B. Ottosson, 2020)."""


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches that belongs to no window and no global list."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.07, h_pad=0.05)
    FigureCanvasAgg(figure)
    return figure


def new_page(width: float, height: float) -> Figure:
    """As `new_figure`, for panels that `phaseloom.plot.panel_layout` can place, which takes less time."""
    from phaseloom.plot.panel_layout import PanelLayout

    figure = new_figure(width, height)
    figure.set_layout_engine(PanelLayout())
    return figure


def save(figure: Figure, path: str | Path, dpi: float = 130) -> None:
    """Write a figure whole: under a temporary name first, then renamed, so no reader sees half of it.

    The file's ending says the format (png, pdf, svg).

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(new_figure(1, 1), Path(folder, "empty.png"))
        ...     [path.name for path in Path(folder).iterdir()]
        ['empty.png']
    """
    kind = Path(path).suffix.lstrip(".").lower()
    with whole_buffer(path) as buffer:
        if kind == "png":
            _write_png(figure, buffer, dpi)
        else:
            figure.savefig(buffer, dpi=dpi, format=kind)


def _write_png(figure: Figure, buffer: IO[bytes], dpi: float) -> None:
    """Draw once, where `Figure.savefig` draws twice: for the layout, and for the picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    own, before = figure.canvas, figure.dpi
    try:
        figure.set_dpi(dpi)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())
        picture = Image.fromarray(pixels[..., :3] if (pixels[..., 3] == 255).all() else pixels)
    finally:
        figure.set_dpi(before)
        figure.set_canvas(own)
    picture.save(buffer, "png", compress_level=2, dpi=(dpi, dpi))


def image(
    axes: Axes,
    values: np.ndarray,
    /,
    *,
    pixel: tuple[float, float],
    title: str = "",
    dimension: Dimension | None = LENGTH,
    empty: str = EMPTY_COLOUR,
    **look: Any,
) -> Any:
    """Draw values (y, x) or colours (y, x, rgb) to scale, with a scale bar in the pixel's dimension.

    Values that are not a number have the colour ``empty``.
    """
    import matplotlib

    fold = max(1, max(values.shape[:2]) // MAX_IMAGE_SIDE)
    values = average_blocks(values, fold)
    rows, columns = values.shape[:2]
    extent = (0, columns * fold * pixel[1], rows * fold * pixel[0], 0)
    if values.ndim == 2:
        look["cmap"] = matplotlib.colormaps[look.get("cmap", "gray")].with_extremes(bad=empty)
    drawn = axes.imshow(values, extent=extent, aspect="equal", **look)
    axes.axis("off")
    axes.set_title(title, fontsize=NORMAL_FONT, y=1.0, pad=4)
    if dimension is not None:
        scale_bar(axes, dimension)
    return drawn


def average_blocks(values: np.ndarray, fold: int, /) -> np.ndarray:
    """Means over squares of ``fold`` pixels (y, x, ...); one with a NaN is NaN, what is over is left out.

    Example:
        >>> average_blocks(np.arange(10.0).reshape(2, 5), 2).tolist()
        [[3.0, 5.0]]
    """
    if fold == 1:
        return values
    rows, columns = (size // fold for size in values.shape[:2])
    cut = values[: rows * fold, : columns * fold]
    return cut.reshape(rows, fold, columns, fold, *values.shape[2:]).mean((1, 3))


def draw_map(
    axes: Axes, values: np.ndarray, positions: np.ndarray, grid: tuple[int, int] | None, /, **look: Any
) -> Any:
    """Values at their positions, angstrom: an image of a whole raster, else dots to scale."""
    if grid is not None and math.prod(grid) == len(values):
        return image(axes, values.reshape(grid), pixel=scan_steps(positions, grid), **look)
    unit, scale = unit_of(float(np.ptp(positions, axis=0).max()))
    y, x = positions.T / scale
    dot = float(np.clip(20000 / len(values), 2, 60))
    frame(axes, title=look.pop("title", ""), x=f"x ({unit})", y=f"y ({unit})")
    drawn = axes.scatter(x, y, c=values, s=dot, linewidths=0, rasterized=True, **look)
    axes.set_aspect("equal")
    axes.invert_yaxis()
    return drawn


def round_length(extent: float, /) -> float:
    """The largest of 1, 2 or 5 times a power of ten that is at most three tenths of an extent.

    Example:
        >>> round_length(100.0), round_length(0.08)
        (20.0, 0.02)
    """
    most = 0.3 * extent * (1 + 1e-9)
    power = math.floor(math.log10(most))
    digit = max(d for d in (1, 2, 5) if d * 10.0**power <= most)
    return float(f"{digit}e{power}")


def scale_bar(axes: Axes, dimension: Dimension, /) -> None:
    """A bar of round length with its length above it, legible on any grey."""
    from matplotlib.patches import Rectangle

    left, right, bottom, top = axes.images[0].get_extent()
    length = round_length(right - left)
    place = (left + 0.05 * (right - left), bottom + 0.06 * (top - bottom))
    height = 0.018 * (top - bottom)
    axes.add_patch(
        Rectangle(place, length, height, facecolor="white", edgecolor="black", linewidth=0.5, gid="scale bar")
    )
    axes.annotate(
        show_length(length, dimension),
        (place[0], place[1] + height),
        xytext=(0, 3),
        textcoords="offset points",
        ha="left",
        va="bottom",
        color="white",
        fontsize=SMALL_FONT,
        bbox={"facecolor": (0, 0, 0, 0.55), "edgecolor": "none", "pad": 1},
    )


def show_length(value: float, dimension: Dimension = LENGTH, /, digits: int = 3) -> str:
    """A length or angle in the unit of `unit_of`, in print: 5 Å, 20 mrad.

    Example:
        >>> show_length(50.0), show_length(1234.5)
        ('50 Å', '123 nm')
    """
    if dimension is LENGTH and 1 <= abs(value) < 999.5:
        return f"{value:.{digits}g} Å"
    number, _, unit = dimension.show(value).partition(" ")
    unit = {"A": "Å", "": dimension.scale[0][0].replace("A", "Å")}.get(unit, unit)
    return f"{float(number):.{digits}g} {unit}"


def unit_of(extent: float, dimension: Dimension = LENGTH, /) -> tuple[str, float]:
    """Name and size of the unit in which axes over an extent are labelled; angstrom up to a hundred nm.

    Example:
        >>> unit_of(250.0), unit_of(2500.0)
        (('Å', 1.0), ('nm', 10.0))
    """
    if dimension is LENGTH and 1 <= abs(extent) < 1000:
        return "Å", 1.0
    unit = dimension.show(extent or 1.0).split(" ")[-1]
    return unit.replace("A", "Å"), dict(dimension.scale)[unit]


def limits(values: np.ndarray, /, percent: float = 0.5) -> tuple[float, float]:
    """Range of all but the lowest and highest percent; NaN is left out, a constant gets a width.

    Example:
        >>> limits(np.array([1.0, np.nan, 1.0]))
        (0.5, 1.5)
    """
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, [percent, 100 - percent]) if finite.size else (0.0, 1.0)
    if high - low < 1e-6 * max(abs(high), 1e-30):
        low = low - 0.5
        high = high + 0.5
    return float(low), float(high)


def name_powers(axis: Axis, /) -> None:
    """Label powers of ten on a logarithmic axis by plain characters: formulas take 0.1 s to be typeset."""
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: _show_power(value)))


def _show_power(value: float) -> str:
    """A number, and a power of ten as one.

    Example:
        >>> _show_power(1000.0), _show_power(0.01), _show_power(20.0)
        ('10³', '10⁻²', '20')
    """
    if value <= 0 or not math.isclose(math.log10(value), round(math.log10(value)), abs_tol=1e-9):
        return f"{value:g}"
    return "10" + str(round(math.log10(value))).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def colour_bar(axes: Axes, drawn: Any, label: str, /) -> None:
    """A colour bar as high as its image."""
    beside = axes.inset_axes((1.03, 0.0, 0.045, 1.0))
    bar = axes.figure.colorbar(drawn, cax=beside)
    if bar.long_axis.get_scale() == "log":
        name_powers(bar.long_axis)
    bar.set_label(label, fontsize=SMALL_FONT)
    bar.ax.tick_params(labelsize=SMALL_FONT)
    bar.minorticks_off()
    beside.xaxis.set_visible(False)
    bar.outline.set_visible(False)


def wave_colours(wave: np.ndarray, /) -> np.ndarray:
    """Colours (y, x, rgb) of a complex wave: hue is phase, brightness amplitude (1 at its 99.9th percentile).

    Hues lie on a circle of the Oklab space, so that no phase looks brighter than another.

    Example:
        >>> wave_colours(np.array([[0, 1, -1]])).round(1).tolist()
        [[[0.0, 0.0, 0.0], [1.0, 0.5, 0.7], [0.0, 0.8, 0.7]]]
    """
    amplitude = np.abs(wave)
    amplitude = np.clip(amplitude / max(np.percentile(amplitude, 99.9), 1e-30), 0, 1)
    tint = 0.14 * np.exp(1j * np.angle(wave))
    lab = amplitude[..., None] * np.stack([np.full(wave.shape, 0.75), tint.real, tint.imag], -1)
    linear = ((lab @ np.transpose(OKLAB_TO_CONES)) ** 3 @ np.transpose(CONES_TO_RGB)).clip(0, 1)
    return np.where(linear < 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055).clip(0, 1)


def colour_wheel(axes: Axes, /) -> None:
    """The key to `wave_colours` in the upper right corner: phase 0 to the right, a quarter turn up."""
    y, x = np.mgrid[1:-1:101j, -1:1:101j]
    disk = np.hypot(y, x) <= 1
    colours = np.concatenate([wave_colours((x + 1j * y) * disk), disk[..., None]], -1)
    key = axes.inset_axes((0.72, 0.77, 0.2, 0.2))
    key.imshow(colours, extent=(-1, 1, -1, 1))
    key.axis("off")
    key.set_in_layout(False)
    style = {"color": "white", "fontsize": SMALL_FONT - 1, "va": "center"}
    key.text(-1.1, 0, "π", ha="right", **style)
    key.text(1.1, 0, "0", ha="left", **style)


def frame(axes: Axes, /, *, title: str, x: str, y: str) -> None:
    """Title, labels and light lines of a diagram."""
    axes.set_title(title, fontsize=NORMAL_FONT, y=1.0, pad=6)
    axes.set_xlabel(x, fontsize=SMALL_FONT)
    axes.set_ylabel(y, fontsize=SMALL_FONT)
    axes.tick_params(labelsize=SMALL_FONT)
    axes.spines[["top", "right"]].set_visible(False)


def add_free_legend(axes: Axes, /) -> None:
    """Add a legend in a corner where no line of the diagram is; without one, make room for it on top.

    Call it when everything is drawn and the scales are set.
    """
    axes.get_ylim()  # a transform of data is right only after limits were asked for
    names = [name for name in axes.get_legend_handles_labels()[1] if not name.startswith("_")]
    high, wide = _measure_legend(axes, names)
    drawn = np.concatenate([_sample_line(axes, line) for line in axes.get_lines()] or [np.empty((0, 2))])
    look: dict[str, Any] = {"fontsize": SMALL_FONT, "frameon": False}
    for place, x, y in LEGEND_CORNERS:
        beside = np.abs(drawn[:, 0] - x) > wide
        if (beside | (np.abs(drawn[:, 1] - y) > high)).all():
            axes.legend(loc=place, **look)
            return
    room = 1 / max(1 - high, 0.3)
    base, end = axes.transData.transform([(1, value) for value in axes.get_ylim()])[:, 1]
    above = axes.transData.inverted().transform((0, base + room * (end - base)))[1]
    axes.set_ylim(top=float(above))
    axes.legend(loc="upper right", **look)


LegendCorner = Literal["upper right", "upper left", "lower left", "lower right"]

LEGEND_CORNERS: tuple[tuple[LegendCorner, int, int], ...] = (
    ("upper right", 1, 1),
    ("upper left", 0, 1),
    ("lower left", 0, 0),
    ("lower right", 1, 0),
)
"""Where a legend may be, in the order of preference, with the corner in units of the axes."""

LINE_OF_LEGEND = 1.5
LETTER_OF_LEGEND = 0.55
"""Height of a line and width of a letter, in units of the font's size."""


def _measure_legend(axes: Axes, names: list[str]) -> tuple[float, float]:
    """Estimated height and width of a legend in one column, as shares of the axes."""
    height, width = (max(size / axes.figure.dpi, 0.5) for size in (axes.bbox.height, axes.bbox.width))
    letters = max(map(len, names), default=0)
    high = (len(names) * LINE_OF_LEGEND + 1.5) * SMALL_FONT / 72 / height
    wide = (letters * LETTER_OF_LEGEND + 4.5) * SMALL_FONT / 72 / width
    return min(high, 0.9), min(wide, 1.0)


def _sample_line(axes: Axes, line: Any) -> np.ndarray:
    """``(n, 2)`` places along a line in units of the axes."""
    places = line.get_transform().transform(np.asarray(line.get_xydata(), float))
    places = axes.transAxes.inverted().transform(places)
    places = places[np.isfinite(places).all(1)]
    if len(places) < 2 or line.get_linestyle() == "None":
        return places
    between = np.arange(8)[:, None, None] / 8
    inner = (places[:-1] * (1 - between) + places[1:] * between).reshape(-1, 2)
    return np.concatenate([inner, places])


def draw_note(panel: FigureBase, text: str, /) -> None:
    """An empty panel that says why it is empty."""
    axes = panel.subplots()
    axes.axis("off")
    axes.text(
        0.5, 0.5, text, ha="center", va="center", color="0.5", fontsize=NORMAL_FONT, transform=axes.transAxes
    )
