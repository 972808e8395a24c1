"""Figure of a strain map: rotation, the three strains, misfit and error over the scan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from phaseloom.embedding.strain.strain_map import StrainMap
from phaseloom.plot.style import colour_bar, draw_map, limits, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_strain"]

TITLES = ("rotation", "exx", "eyy", "exy")


def plot_strain(found: StrainMap, /) -> Figure:
    """Maps of rotation and strain, misfit and error; those of strain on one scale that is white at zero."""
    figure = new_figure(11.5, 6.6)
    axes = figure.subplots(2, 3).ravel()
    strains = 100 * found.values[:, 1:]
    reach = limits(np.abs(strains[np.isfinite(strains)]))[1] if found.known.any() else 1.0
    signed: dict[str, Any] = {"cmap": "RdBu_r", "vmin": -reach, "vmax": reach}
    low, high = limits(found.values[found.known, 0]) if found.known.any() else (-1.0, 1.0)
    panels = [
        (
            TITLES[0],
            found.values[:, 0],
            "degrees, from x to y",
            {"cmap": "twilight", "vmin": low, "vmax": high},
        )
    ]
    panels += [(name, values, "%", signed) for name, values in zip(TITLES[1:], strains.T, strict=True)]
    error = 100 * np.sqrt((found.errors[:, 1:] ** 2).mean(1))
    for name, values, unit in (("misfit (1: shot noise)", found.misfit, ""), ("error of strain", error, "%")):
        span = limits(values[np.isfinite(values)]) if np.isfinite(values).any() else (0.0, 1.0)
        panels.append((name, values, unit, {"cmap": "viridis", "vmin": span[0], "vmax": span[1]}))
    order = (0, 1, 2, 4, 3, 5)  # exy below exx, misfit below rotation
    for place, (title, values, unit, look) in zip(axes, (panels[k] for k in order), strict=True):
        colour_bar(place, draw_map(place, values, found.positions, found.grid, title=title, **look), unit)
    return figure
