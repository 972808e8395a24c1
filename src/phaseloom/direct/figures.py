"""The figure of a direct image: phase, amplitude, power over frequency, mean pattern with the disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from phaseloom.direct.recipe import DirectResult
from phaseloom.plot.scan import detector_step
from phaseloom.plot.style import colour_bar, image, limits, new_figure, scan_steps

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_direct_image"]


def plot_direct_image(result: DirectResult, /) -> Figure:
    """Phase and amplitude of a direct image, and the mean pattern with the disk that was found.

    Args:
        result: of `phaseloom.direct.recipe.reconstruct_recipe`.
    """
    found = result.found
    grid = result.scan.grid
    assert grid is not None
    step = scan_steps(result.scan.positions * float(found.optics.step), grid)
    figure = new_figure(12.0, 4.4)
    panels = figure.subplots(1, 3)
    phase = found.image.phase.double().numpy()
    unit = "radian" if found.image.method.is_in_radian else "arbitrary units"
    low, high = limits(phase)
    drawn = image(
        panels[0], phase, pixel=step, title=f"Phase ({found.image.method})", cmap="magma", vmin=low, vmax=high
    )
    colour_bar(panels[0], drawn, unit)
    if found.image.amplitude is not None:
        loss = found.image.amplitude.double().numpy()
        low, high = limits(loss)
        drawn = image(
            panels[1], loss, pixel=step, title="Loss of amplitude", cmap="cividis", vmin=low, vmax=high
        )
        colour_bar(panels[1], drawn, "-log |object|")
    else:
        panels[1].axis("off")
    _draw_disk(panels[2], result)
    return figure


def _draw_disk(axes: object, result: DirectResult) -> None:
    from matplotlib.patches import Circle

    survey = result.found.survey
    mean = np.where(survey.mask, survey.mean, np.nan)
    size, dimension = detector_step(result.scan.geometry)
    drawn = image(
        axes,  # pyright: ignore[reportArgumentType]
        np.ma.masked_invalid(mean),
        pixel=size,
        dimension=dimension,
        title="Mean pattern, disk, masked pixels",
        cmap="magma",
    )
    colour_bar(axes, drawn, "counts per pixel")  # pyright: ignore[reportArgumentType]
    middle = [(c + 0.5) * s for c, s in zip(survey.disk.centre[::-1], size[::-1], strict=True)]
    circle = Circle(
        (middle[0], middle[1]), survey.disk.radius * size[1], fill=False, color="white", linestyle="--"
    )
    axes.add_patch(circle)  # pyright: ignore[reportAttributeAccessIssue]
