"""Figures of restored images beside the measured and the target images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from phaseloom.errors import BadInput
from phaseloom.metrics.phase import remove_ramp
from phaseloom.plot.style import SMALL_FONT, colour_bar, image, limits, new_figure, scale_bar
from phaseloom.restoration.apply import RestoredImage, restore_image
from phaseloom.restoration.networks.unet import Restorer
from phaseloom.restoration.pairs.folders import Pair
from phaseloom.restoration.pairs.image_kinds import ImageKind
from phaseloom.units import LENGTH

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["before_after", "figure_rows", "plot_pairs"]

Row = Mapping[str, np.ndarray]
"""Images of a row of a figure, by the titles of their columns."""

DIFFERENCE = "network less target"

PANEL_WIDTH_INCHES = 2.2

MAX_NAME_LETTERS = 24
"""Letters of the name of a row that are shown."""


def plot_pairs(net: Restorer, kind: ImageKind, pairs: Sequence[Pair], /, *, most: int = 4) -> Figure:
    """Some pairs, evenly over all of them, before and after restoration.

    Args:
        net: the restorer.
        kind: of the images.
        pairs: to choose from.
        most: number of pairs.
    """
    numbers = np.unique(np.linspace(0, len(pairs) - 1, min(most, len(pairs))).astype(int))
    rows: dict[str, Row] = {}
    for pair in (pairs[int(number)] for number in numbers):
        rows |= figure_rows(kind, pair, restore_image(net, kind, pair.input))
    return before_after([*rows.values()], [*rows])


def figure_rows(
    kind: ImageKind, pair: Pair, found: RestoredImage, /
) -> dict[str, dict[str, NDArray[np.floating]]]:
    """Rows of `before_after` by name: photographs in colour, other channels one by one.

    Planes of phases are removed, as in the evaluation.

    Example:
        >>> from phaseloom.restoration.pairs.image_kinds import phase
        >>> flat = np.zeros((2, 4, 5), np.float32)
        >>> rows = figure_rows(phase(), Pair("film", flat, flat), RestoredImage(flat, None))
        >>> {name: list(row) for name, row in rows.items()}["film, channel 1"]
        ['input', 'network', 'target']
    """
    known = {"input": pair.input, "network": found.low, "network, finer": found.high, "target": pair.target}
    images = {name: image for name, image in known.items() if image is not None}
    count = len(pair.input)
    if kind.is_colour(count):
        return {pair.name: images}
    if kind.separate_planes:
        images = {name: np.stack([remove_ramp(one) for one in image]) for name, image in images.items()}
    names = [pair.name] if count == 1 else [f"{pair.name}, channel {number}" for number in range(count)]
    return {row: {name: image[n] for name, image in images.items()} for n, row in enumerate(names)}


def before_after(
    images: Sequence[Row],
    names: Sequence[str],
    /,
    *,
    pixel: tuple[float, float] | None = None,
    unit: str = "",
    title: str = "",
) -> Figure:
    """Images beside one another, a row for each pair.

    Values ``(y, x)`` or ``(1, y, x)`` have one scale for a row, that of its ``target`` if it has one, of all
    its images otherwise; if a row has ``network`` and ``target`` of one size, their difference follows on a
    scale of its own, white at zero. Colours ``(3, y, x)``, red, green and blue, are drawn as they are,
    clipped to 0 to 1. Other channels are rows of their own.

    Args:
        images: of each row by the titles of their columns, such as ``input``, ``network``,
            ``network, finer`` and ``target``; a column that a row lacks stays empty.
        names: of the rows.
        pixel: of the first image of a row, (y, x) in angstrom, for a scale bar; others show the same field.
        unit: of the values.
        title: above all.

    Raises:
        BadInput: no row, not one name for each, or an image of other axes or channels.

    Example:
        >>> row = {"input": np.ones((4, 5)), "network": np.zeros((4, 5)), "target": np.zeros((4, 5))}
        >>> [axes.get_title() for axes in before_after([row], ["film"]).axes if axes.get_title()]
        ['input', 'network', 'target', 'network less target']
    """
    if not images or len(images) != len(names):
        given = f"{len(images)} rows, {len(names)} names"
        raise BadInput("before_after", given, "must be as many, one at least")
    rows = [_add_difference(row, name) for row, name in zip(images, names, strict=True)]
    columns = sorted(dict.fromkeys(column for row in rows for column in row), key=DIFFERENCE.__eq__)
    heights = [_relative_height(row, pixel or (1, 1)) for row in rows]
    width = PANEL_WIDTH_INCHES * len(columns) + 0.8
    figure = new_figure(width, PANEL_WIDTH_INCHES * sum(heights) + 0.35 * len(rows) + 0.3)
    figure.suptitle(title, fontsize=11)
    panels = figure.subplots(len(rows), len(columns), squeeze=False, height_ratios=heights)
    for line, row, name in zip(panels, rows, names, strict=True):
        _draw_row(dict(zip(columns, line, strict=True)), row, pixel, unit)
        short = name if len(name) <= MAX_NAME_LETTERS else f"…{name[1 - MAX_NAME_LETTERS :]}"
        style = {"ha": "right", "va": "center", "rotation": 90, "fontsize": SMALL_FONT}
        line[0].text(-0.04, 0.5, short, transform=line[0].transAxes, **style)
    return figure


def _draw_row(line: Mapping[str, Axes], row: Row, pixel: tuple[float, float] | None, unit: str) -> None:
    """Draw the images of a row; the last one of values has a colour bar, the difference another."""
    first = next(iter(row.values()))
    shown = [column for column in row if column != DIFFERENCE]
    low, high = limits(row.get("target", np.concatenate([row[column].ravel() for column in shown])))
    for column, axes in line.items():
        if column not in row:
            axes.axis("off")
            continue
        values = row[column]
        style = {"title": column, "vmin": low, "vmax": high}
        if column == DIFFERENCE:
            reach = limits(np.abs(values))[1]
            style |= {"vmin": -reach, "vmax": reach, "cmap": "RdBu_r"}
        # all images of a row show the same field
        down, along = (one / other for one, other in zip(first.shape, values.shape[:2], strict=False))
        step = (down * (pixel or (1, 1))[0], along * (pixel or (1, 1))[1])
        drawn = image(axes, values, pixel=step, dimension=None, **style)
        if pixel is not None and values is first:
            scale_bar(axes, LENGTH)
        if values.ndim == 2 and column in (shown[-1], DIFFERENCE):
            colour_bar(axes, drawn, unit)


def _add_difference(row: Row, name: str) -> dict[str, np.ndarray]:
    """Values ``(y, x)`` with their difference, or colours ``(y, x, rgb)``."""
    if not row:
        raise BadInput("before_after", name, "is a row without any image")
    found = {column: _check_image(one, f"{name}: {column}") for column, one in row.items()}
    if len({one.ndim for one in found.values()}) > 1:
        raise BadInput("before_after", name, "has colours beside values: give a row of either")
    pair = [found[column] for column in ("network", "target") if column in found]
    if len(pair) == 2 and pair[0].ndim == 2 and pair[0].shape == pair[1].shape:
        found[DIFFERENCE] = pair[0] - pair[1]
    return found


def _check_image(values: np.ndarray, place: str) -> np.ndarray:
    """Values ``(y, x)`` or colours ``(y, x, rgb)``."""
    values = np.asarray(values, np.float32)
    if values.ndim == 3 and len(values) == 3 and values.size:
        return np.moveaxis(values, 0, -1).clip(0, 1)
    flat = values[0] if values.ndim == 3 and len(values) == 1 else values
    if flat.ndim != 2 or not flat.size:
        fix = "is neither an image (y, x) nor colours (3, y, x): give each channel as a row of its own"
        raise BadInput(f"before_after: {place}", f"shape {values.shape}", fix)
    return flat


def _relative_height(row: Row, pixel: tuple[float, float]) -> float:
    """Height of a row in parts of the width of a panel."""
    rows, columns = next(iter(row.values())).shape[:2]
    return min(max(rows * pixel[0] / (columns * pixel[1]), 0.25), 3.0)
