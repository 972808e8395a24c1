"""Images of a direct image, a prediction or virtual detectors, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from phaseloom.data.signals import Signals
from phaseloom.plot.style import SMALL_FONT, colour_bar, image, limits, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["signal_images"]

MAX_IMAGES = 8
IMAGES_PER_ROW = 4


def signal_images(signals: Signals, /) -> Figure:
    """Up to eight real images with scale and colour bars; angstrom."""
    shown = [one for one in signals.signals if len(one.shape) == 2 and not one.is_complex][:MAX_IMAGES]
    columns = min(IMAGES_PER_ROW, max(1, len(shown)))
    rows = max(1, -(-len(shown) // columns))
    figure = new_figure(3.6 * columns, 3.2 * rows)
    figure.suptitle(signals.title, fontsize=SMALL_FONT)
    for axes in (panels := figure.subplots(rows, columns, squeeze=False).ravel()):
        axes.axis("off")
    for axes, one in zip(panels, shown, strict=False):
        values = np.asarray(one.values, float)
        low, high = limits(values)
        pixel = (one.axes[0].step, one.axes[1].step)
        look = {"cmap": "viridis" if one.unit == "rad" else "gray", "vmin": low, "vmax": high}
        drawn = image(axes, values, pixel=pixel, title=one.title or one.name, **look)
        colour_bar(axes, drawn, one.unit or "")
    return figure
