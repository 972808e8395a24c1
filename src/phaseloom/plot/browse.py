"""Look at a scan: its patterns where they were taken, and beside those that a model expects.

from phaseloom import plot
view = plot.browse(scan)
plt.show()
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from phaseloom.data.scan import Scan4D
from phaseloom.data.signals import scan_steps
from phaseloom.errors import BadInput
from phaseloom.plot.gui import (
    DEFAULT_ROW_STEP,
    Picture,
    SteppedView,
    count_limits,
    freeze_layout,
    open_window,
    to_numpy,
)
from phaseloom.plot.scan import detector_step, read_totals
from phaseloom.plot.style import SMALL_FONT, colour_bar, draw_map, limits, unit_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backend_bases import MouseEvent
    from matplotlib.figure import FigureBase

__all__ = ["browse", "compare"]

MAX_PATTERNS_SUMMED = 20000
"""How many patterns are summed for a map: more cannot be told apart on a screen."""


def browse(
    scan: Scan4D, values: np.ndarray | None = None, /, *, label: str = "counts per pattern", index: int = 0
) -> SteppedView:
    """A map over the positions, and beside it the pattern of the position that was clicked last.

    A click shows the pattern nearest to it, arrow keys step along a row or from row to row, ``l``
    switches between a logarithmic and a linear scale, ``m`` between the pattern and the mean of many.
    Of lazy data only the pattern shown is read, once the map is there: without values that takes the
    sums of at most 20000 patterns, evenly spread.

    Args:
        scan: measured patterns.
        values: ``(n,)``, one for each pattern, to be mapped: losses, intensities; default: counts in
            trusted pixels.
        label: what the values are, with their unit.
        index: the pattern shown first.

    Raises:
        BadInput: not one value for each pattern.

    Example:
        >>> import matplotlib.pyplot as plt
        >>> from phaseloom.data.scan import Geometry
        >>> plt.switch_backend("agg")
        >>> geometry = Geometry(wavelength=0.02, shape=(8, 8), angle=(1e-3, 1e-3), beam="electron")
        >>> places = np.random.default_rng(0).uniform(0, 50, (9, 2))
        >>> view = browse(Scan4D(counts=np.ones((9, 8, 8)), positions=places, geometry=geometry))
        >>> view.show(4)
        >>> view.index
        4
        >>> plt.close(view.figure)
    """
    survey = _PatternSums(scan)
    every = np.arange(len(scan)) if values is not None else survey.index
    values = survey.totals if values is None else np.asarray(values, float)
    if values.shape != every.shape:
        raise BadInput("plot.browse: values", values.shape, f"must be one for each pattern: ({len(scan)},)")
    figure = open_window(12.5, 6.0, "Phaseloom: scan")
    left, right = figure.subplots(1, 2)
    spots = _draw_map(left, scan, every, values, label)
    shown = _PatternPanel(scan, survey, right, _draw_ring(left), spots)
    row = scan.grid[1] if scan.grid is not None else DEFAULT_ROW_STEP
    view = SteppedView(figure, len(scan), shown.draw, row=row, keys={"l": shown.rescale, "m": shown.average})
    hint = "click or arrows: pattern     l: logarithmic or linear     m: mean pattern"
    figure.supxlabel(hint, fontsize=SMALL_FONT, color="0.45")
    view.show(index)
    freeze_layout(figure)

    def on_click(event: MouseEvent) -> None:
        if event.inaxes is left and event.button == 1 and not figure.canvas.widgetlock.locked():
            view.show(int(np.hypot(*(spots - (event.xdata, event.ydata)).T).argmin()))

    figure.canvas.mpl_connect("button_press_event", on_click)
    return view


def compare(scan: Scan4D, modelled: Callable[[int], Any], /, *, index: int = 0) -> SteppedView:
    """Measured and modelled pattern on one scale, and their difference; a slider chooses the pattern.

    Differences are in standard deviations of the counts. ``l`` switches between a logarithmic and a
    linear scale.

    Args:
        scan: measured patterns; of lazy data only the one shown is read.
        modelled: expected counts ``(y, x)`` of a pattern by its number, asked for what is shown alone.
        index: the pattern shown first.

    Raises:
        BadInput: the model's pattern has another shape than the measured one.

    Example:
        >>> import matplotlib.pyplot as plt
        >>> from phaseloom.data.scan import Geometry
        >>> plt.switch_backend("agg")
        >>> geometry = Geometry(wavelength=0.02, shape=(8, 8), angle=(1e-3, 1e-3), beam="electron")
        >>> scan = Scan4D(counts=np.ones((3, 8, 8)), positions=np.eye(3, 2), geometry=geometry)
        >>> view = compare(scan, lambda index: np.full((8, 8), 1.0 + index))
        >>> view.slider.set_val(2)
        >>> view.index
        2
        >>> plt.close(view.figure)
    """
    figure = open_window(13.0, 5.0, "Phaseloom: measured and modelled")
    hint = "slider or arrows: pattern     l: logarithmic or linear"
    figure.supxlabel(hint, fontsize=SMALL_FONT, color="0.45")
    above, below = figure.subfigures(2, 1, height_ratios=[12, 1], squeeze=False)[:, 0]
    shown = _ComparisonPanels(scan, modelled, above)
    view = SteppedView(figure, len(scan), shown.draw, keys={"l": shown.rescale})
    view.slide_on(below.subplots(), "pattern")
    view.show(index)
    freeze_layout(figure)
    return view


class _PatternSums:
    """Counts and mean of patterns, evenly spread; read once, when first asked for."""

    def __init__(self, scan: Scan4D):
        self.scan = scan
        self.index = np.unique(
            np.linspace(0, len(scan) - 1, min(MAX_PATTERNS_SUMMED, len(scan))).round().astype(int)
        )
        self._known: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def totals(self) -> np.ndarray:
        """Counts in trusted pixels of each pattern of ``index``."""
        return self._read()[0]

    @property
    def mean(self) -> np.ndarray:
        """Mean pattern; of fewer patterns, if no totals were asked for."""
        return self.scan.mean_pattern() if self._known is None else self._known[1]

    def _read(self) -> tuple[np.ndarray, np.ndarray]:
        if self._known is None:
            self._known = read_totals(self.scan, self.index)
        return self._known


class _PatternPanel:
    """The right half of `browse`: a pattern or the mean of many, and a ring around its place on the map."""

    def __init__(self, scan: Scan4D, survey: _PatternSums, axes: Axes, ring: Any, spots: np.ndarray):
        step, dimension = detector_step(scan.geometry)
        self.scan = scan
        self.ring = ring
        self.spots = spots
        self.picture = Picture(axes, pixel=step, dimension=dimension, label="counts", mask=scan.mask)
        self.log = True
        self.averaged = False
        self._mean = lru_cache(maxsize=1)(lambda: survey.mean)
        self._read = lru_cache(maxsize=1)(lambda index: _read_pattern(scan, index))

    def draw(self, index: int) -> None:
        pattern = self._mean() if self.averaged else self._read(index)
        trusted = pattern[self.scan.mask]
        title = "mean pattern" if self.averaged else self._title(index, float(np.nansum(trusted)))
        self.picture.show(pattern, title=title, limits=count_limits(trusted, log=self.log), log=self.log)
        self.ring.set_data(self.spots[index, :1], self.spots[index, 1:])

    def rescale(self) -> None:
        self.log = not self.log

    def average(self) -> None:
        self.averaged = not self.averaged

    def _title(self, index: int, total: float) -> str:
        unit, scale = unit_of(float(np.abs(self.scan.positions).max()))
        y, x = (f"{place / scale:.4g} {unit}" for place in self.scan.positions[index])
        return f"pattern {index} (of 0 to {len(self.scan) - 1}):  y {y},  x {x},  {total:.4g} counts"


class _ComparisonPanels:
    """The panels of `compare`."""

    def __init__(self, scan: Scan4D, modelled: Callable[[int], Any], panel: FigureBase):
        step, dimension = detector_step(scan.geometry)
        looks = (("counts", "magma"), ("counts", "magma"), ("Δ / √(counts + 1)", "RdBu_r"))
        self.pictures = [
            Picture(axes, pixel=step, dimension=dimension, label=label, cmap=cmap, mask=scan.mask)
            for axes, (label, cmap) in zip(panel.subplots(1, 3), looks, strict=True)
        ]
        self.scan = scan
        self.log = True
        self._read = lru_cache(maxsize=1)(
            lambda index: (_read_pattern(scan, index), self._model(modelled, index))
        )

    def draw(self, index: int) -> None:
        measured, modelled = self._read(index)
        mask = self.scan.mask
        residual = (measured - modelled) / np.sqrt(np.maximum(modelled, 0) + 1)
        reach = max(float(np.nanpercentile(np.abs(residual[mask]), 99.5)), 1e-6)
        rms = float(np.sqrt(np.nanmean(residual[mask] ** 2)))
        counts = {
            "limits": count_limits(np.stack([measured[mask], modelled[mask]]), log=self.log),
            "log": self.log,
        }
        first, second, third = self.pictures
        first.show(measured, title=f"measured: {np.nansum(measured[mask]):.4g} counts", **counts)
        second.show(modelled, title=f"modelled: {np.nansum(modelled[mask]):.4g} counts", **counts)
        third.show(residual, title=f"difference: {rms:.3g} rms", limits=(-reach, reach))

    def rescale(self) -> None:
        self.log = not self.log

    def _model(self, modelled: Callable[[int], Any], index: int) -> np.ndarray:
        values = to_numpy(modelled(index)).astype(float)
        wanted = self.scan.mask.shape
        if values.shape != wanted:
            raise BadInput(
                "plot.compare: modelled", values.shape, f"must be a pattern like the scan's: {wanted}"
            )
        return values


def _read_pattern(scan: Scan4D, index: int) -> np.ndarray:
    """One pattern, and no other is read."""
    return np.asarray(scan.counts[np.array([index])][0], float)


def _draw_map(axes: Axes, scan: Scan4D, index: np.ndarray, values: np.ndarray, label: str) -> np.ndarray:
    """Draw values at their positions; where each pattern lies on the axes, ``(n, 2)`` as x and y."""
    low, high = limits(values)
    grid = scan.grid if len(index) == len(scan) else None
    if grid is not None and grid[0] * grid[1] != len(scan):
        grid = None
    title = f"{len(scan)} positions" if grid is None else f"raster of {grid[0]}×{grid[1]}, rows: slow axis"
    look = {"title": title, "cmap": "viridis", "vmin": low, "vmax": high}
    colour_bar(axes, draw_map(axes, values, scan.positions[index], grid, **look), label)
    if grid is None:
        return scan.positions[:, ::-1] / unit_of(float(np.ptp(scan.positions[index], axis=0).max()))[1]
    row, column = np.divmod(np.arange(len(scan)), grid[1])
    slow, fast = scan_steps(scan.positions, grid)
    return np.stack([(column + 0.5) * fast, (row + 0.5) * slow], 1)


def _draw_ring(axes: Axes) -> Any:
    """A red ring with a white rim, seen on every colour."""
    from matplotlib.patheffects import Normal, withStroke

    rim = [withStroke(linewidth=3.6, foreground="white"), Normal()]
    look = {"markersize": 11, "markerfacecolor": "none", "markeredgecolor": "#d00000", "markeredgewidth": 1.8}
    (ring,) = axes.plot([], [], "o", scalex=False, scaley=False, path_effects=rim, zorder=5, **look)
    return ring
