"""Figures of restored images: beside what was measured and what was wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from phaseloom.errors import BadInput
from phaseloom.plot.style import SMALL, colour_bar, image, limits, page, scale_bar
from phaseloom.units import LENGTH

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["before_after"]

APART = "network less target"

WIDTH, LONGEST = 2.2, 24
"""Of a panel, inches; letters of a name that are shown at its side."""


def before_after(
    images: Sequence[Mapping[str, np.ndarray]],
    names: Sequence[str],
    /,
    *,
    pixel: tuple[float, float] | None = None,
    unit: str = "",
    title: str = "",
) -> Figure:
    """Images beside one another, a row for each pair.

    Values ``(y, x)`` or ``(1, y, x)`` have one scale for a row, that of its ``target`` where there is one, of
    all its images otherwise; where a row has ``network`` and ``target`` of one size, their difference follows
    on a scale of its own, white at zero. Colours ``(3, y, x)``, red, green and blue, are drawn as they are,
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
        raise BadInput(
            "before_after", f"{len(images)} rows, {len(names)} names", "must be as many, one at least"
        )
    rows = [_completed(row, name) for row, name in zip(images, names, strict=True)]
    columns = sorted(dict.fromkeys(column for row in rows for column in row), key=APART.__eq__)
    tall = [_tallness(row, pixel or (1, 1)) for row in rows]
    figure = page(WIDTH * len(columns) + 0.8, WIDTH * sum(tall) + 0.35 * len(rows) + 0.3)
    figure.suptitle(title, fontsize=11)
    panels = figure.subplots(len(rows), len(columns), squeeze=False, height_ratios=tall)
    for line, row, name in zip(panels, rows, names, strict=True):
        _draw(dict(zip(columns, line, strict=True)), row, pixel, unit)
        short = name if len(name) <= LONGEST else f"…{name[1 - LONGEST :]}"
        beside = {"ha": "right", "va": "center", "rotation": 90, "fontsize": SMALL}
        line[0].text(-0.04, 0.5, short, transform=line[0].transAxes, **beside)
    return figure


def _draw(
    line: Mapping[str, Axes], row: Mapping[str, np.ndarray], pixel: tuple[float, float] | None, unit: str
) -> None:
    """A row: each column has its panel, and the last one of values their scale."""
    first = next(iter(row.values()))
    values = [one for column, one in row.items() if column != APART]
    low, high = limits(row.get("target", np.concatenate([one.ravel() for one in values])))
    last = [column for column in row if column != APART][-1]
    for column, axes in line.items():
        if column not in row:
            axes.axis("off")
            continue
        seen, look = row[column], {"title": column, "vmin": low, "vmax": high}
        if column == APART:
            reach = limits(np.abs(seen))[1]
            look |= {"vmin": -reach, "vmax": reach, "cmap": "RdBu_r"}
        drawn = image(axes, seen, pixel=_step(seen, first, pixel or (1, 1)), dimension=None, **look)
        if pixel is not None and seen is first:
            scale_bar(axes, LENGTH)
        if seen.ndim == 2 and column in (last, APART):
            colour_bar(axes, drawn, unit)


def _completed(row: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Values ``(y, x)`` with their difference, or colours ``(y, x, rgb)``."""
    if not row:
        raise BadInput("before_after", name, "is a row without any image")
    found = {column: _drawable(one, f"{name}: {column}") for column, one in row.items()}
    if len({one.ndim for one in found.values()}) > 1:
        raise BadInput("before_after", name, "has colours beside values: give a row of either")
    pair = [found[column] for column in ("network", "target") if column in found]
    if len(pair) == 2 and pair[0].ndim == 2 and pair[0].shape == pair[1].shape:
        found[APART] = pair[0] - pair[1]
    return found


def _drawable(values: np.ndarray, place: str) -> np.ndarray:
    """Values ``(y, x)`` or colours ``(y, x, rgb)``."""
    values = np.asarray(values, np.float32)
    if values.ndim == 3 and len(values) == 3 and values.size:
        return np.moveaxis(values, 0, -1).clip(0, 1)
    flat = values[0] if values.ndim == 3 and len(values) == 1 else values
    if flat.ndim != 2 or not flat.size:
        fix = "is no image (y, x) nor colours (3, y, x): give each channel as a row of its own"
        raise BadInput(f"before_after: {place}", f"shape {values.shape}", fix)
    return flat


def _step(values: np.ndarray, first: np.ndarray, pixel: tuple[float, float]) -> tuple[float, float]:
    """Pixel of an image that shows the field of another one."""
    rows, columns = (one / other for one, other in zip(first.shape, values.shape[:2], strict=False))
    return rows * pixel[0], columns * pixel[1]


def _tallness(row: Mapping[str, np.ndarray], pixel: tuple[float, float]) -> float:
    """Height of a row in parts of the width of a panel."""
    rows, columns = next(iter(row.values())).shape[:2]
    return min(max(rows * pixel[0] / (columns * pixel[1]), 0.25), 3.0)
