"""The landscape that a calibration has climbed: what orientations, rotations and defocus explain."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from phaseloom.plot.style import LINE_COLOURS, NORMAL_FONT, colour_bar, frame, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["landscape"]


def landscape(tried: Sequence[Mapping[str, Any]], /) -> Figure:
    """Share of the changes in the disk that a thin object explains, a panel for each orientation.

    Rings are the candidates that short reconstructions judged; the filled one was best.

    Args:
        tried: rows with ``orientation``, ``rotation`` (radian), ``defocus`` (angstrom) and ``share``, or
            ``loss`` instead for candidates of short reconstructions.

    Example:
        >>> place = {"orientation": "as given", "rotation": 0.1}
        >>> rows = [{**place, "defocus": defocus, "share": 0.5} for defocus in (-9.0, 9.0)]
        >>> len(landscape([*rows, {**place, "defocus": 8.0, "loss": 1.2}]).axes)
        1
    """
    mapped = [one for one in tried if "share" in one]
    judged = [one for one in tried if "loss" in one]
    ways = list(dict.fromkeys(one["orientation"] for one in mapped))
    figure = new_figure(2.6 * max(1, len(ways)) + 0.6, 3.0)
    best = min(judged, key=lambda one: one["loss"], default=None)
    most = max((one["share"] for one in mapped), default=1.0)
    drawn = None
    for axes, way in zip(
        figure.subplots(1, max(1, len(ways)), sharey=True, squeeze=False)[0], ways, strict=False
    ):
        rows = [one for one in mapped if one["orientation"] == way]
        colours: dict[str, Any] = {
            "c": [one["share"] for one in rows],
            "vmin": 0,
            "vmax": most,
            "cmap": "magma",
        }
        drawn = axes.scatter(*_places(rows), s=16, marker="s", linewidths=0, **colours)
        for one in (one for one in judged if one["orientation"] == way):
            fill = LINE_COLOURS[2] if one is best else "none"
            axes.scatter(*_places([one]), s=70, facecolors=fill, edgecolors=LINE_COLOURS[4], linewidths=1.5)
        frame(axes, title=way, x="rotation (deg)", y="defocus (A)" if way == ways[0] else "")
        axes.title.set_fontsize(NORMAL_FONT)
    if drawn is not None:
        colour_bar(figure.axes[len(ways) - 1], drawn, "share explained")
    return figure


def _places(rows: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    return [math.degrees(one["rotation"]) for one in rows], [one["defocus"] for one in rows]
