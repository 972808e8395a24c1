"""A folder of data as a table, a figure and a page of HTML that needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from phaseloom.data.folder_survey import FileFacts
from phaseloom.plot.cards import encode_png
from phaseloom.plot.style import MAX_IMAGE_SIDE, SMALL_FONT, average_blocks, limits, new_figure
from phaseloom.units import ENERGY, LENGTH, format_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLUMNS", "draw_folder", "format_row", "write_folder_page"]

COLUMNS = ("file", "format", "shape", "type", "beam", "step", "size", "note")

MAX_FILES_IN_FIGURE = 24
SIDE_OF_THUMBNAIL = 128

STYLE = """body{font:14px system-ui,sans-serif;margin:2em;color:#222}table{border-collapse:collapse}
td,th{padding:.35em .7em;border-bottom:1px solid #ddd;text-align:left;vertical-align:middle}
img{width:96px;height:96px;object-fit:contain;background:#eee;image-rendering:pixelated}
.closed{color:#999}.note{max-width:32em}"""


def format_row(facts: FileFacts, folder: Path, /) -> tuple[str, ...]:
    """A file as texts for the columns.

    Example:
        >>> format_row(FileFacts(Path("a/b.npy"), "npy", 2_500_000, (8, 8), "uint16"), Path("a"))
        ('b.npy', 'npy', '8 x 8', 'uint16', '', '', '2.5 MB', '')
    """
    name = facts.path.relative_to(folder) if facts.path.is_relative_to(folder) else facts.path
    beam = "" if facts.energy is None else f"{ENERGY.show(facts.energy)} {facts.beam}s"
    step = ""
    if facts.step is not None:
        first, second = (LENGTH.show(float(f"{length:.3g}")) for length in facts.step)
        step = first if first == second else f"{first} x {second}"
    shape = " x ".join(map(str, facts.shape))
    return (str(name), facts.format, shape, facts.dtype, beam, step, format_bytes(facts.size), facts.note)


def write_folder_page(files: Sequence[FileFacts], folder: Path, /) -> str:
    """The page: a row for each file, with thumbnails inside of the text."""
    heads = "".join(f"<th>{name}</th>" for name in ("mean pattern", "image", *COLUMNS))
    rows = "\n".join(_format_html_row(facts, folder) for facts in files)
    title = html.escape(f"Data in {folder}")
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n"
        f"<table><thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></body></html>\n"
    )


def _format_html_row(facts: FileFacts, folder: Path) -> str:
    pictures = (facts.thumbnails.pattern, facts.thumbnails.image)
    cells = [f"<td>{_picture(values, gray=number == 0)}</td>" for number, values in enumerate(pictures)]
    for name, text in zip(COLUMNS, format_row(facts, folder), strict=True):
        cells.append(f'<td class="{name}">{html.escape(text)}</td>')
    return f'<tr class="{"open" if facts.is_open else "closed"}">{"".join(cells)}</tr>'


def _picture(values: np.ndarray | None, *, gray: bool) -> str:
    """A picture as a PNG in the page."""
    if values is None:
        return ""
    source = encode_png(
        _stretch(values) if gray else values, side=SIDE_OF_THUMBNAIL, colours="gray" if gray else "viridis"
    )
    return f'<img alt="" src="{source}">'


def _stretch(pattern: np.ndarray) -> np.ndarray:
    """Square roots: the dark field is seen beside the bright disk."""
    return np.sqrt(np.clip(pattern, 0, None))


def draw_folder(files: Sequence[FileFacts], folder: Path, /) -> Figure:
    """Thumbnails of up to 24 files that have any, two beside each other, with name and shape."""
    shown = [one for one in files if one.thumbnails.pattern is not None or one.thumbnails.image is not None][
        :MAX_FILES_IN_FIGURE
    ]
    columns = min(4, max(1, len(shown)))
    rows = max(1, -(-len(shown) // columns))
    figure = new_figure(3.2 * columns, 2.0 * rows)
    panels = figure.subplots(rows, 2 * columns, squeeze=False).ravel()
    for axes in panels:
        axes.axis("off")
    for number, one in enumerate(shown):
        left, right = panels[2 * number : 2 * number + 2]
        name, _, shape = format_row(one, folder)[:3]
        left.set_title(name, fontsize=SMALL_FONT, loc="left")
        right.set_title(shape, fontsize=SMALL_FONT, loc="right")
        for axes, values, gray in (
            (left, one.thumbnails.pattern, True),
            (right, one.thumbnails.image, False),
        ):
            if values is not None:
                _show(axes, _stretch(values) if gray else values, "gray" if gray else "viridis")
    if not shown:
        panels[0].set_title(f"no data in {folder}", fontsize=SMALL_FONT, loc="left")
    return figure


def _show(axes: Axes, values: np.ndarray, colours: str) -> None:
    low, high = limits(values)
    fold = max(1, max(values.shape) // MAX_IMAGE_SIDE)
    axes.imshow(average_blocks(values, fold), cmap=colours, vmin=low, vmax=high)
