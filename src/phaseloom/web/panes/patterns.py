"""The part that shows a measured pattern beside the modelled one."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import numpy as np
import panel as pn

from phaseloom.errors import BadInput
from phaseloom.web.panes.desk import Desk, flow
from phaseloom.web.panes.figures import ImageView
from phaseloom.web.state.run_model import PatternPair, RunModel

__all__ = ["PatternsPart"]

HINT = "Click a place in the object or among the positions. The first time, the data are read."


class PatternsPart:
    """Measured, modelled and their difference at a place of the run.

    Attributes:
        view: of Panel.
    """

    def __init__(self, desk: Desk):
        self.desk = desk
        self._folder: Path | None = None
        self._model: RunModel | None = None
        self._views: list[ImageView] = []
        self._busy = False
        self._positions = np.zeros((0, 2))
        self.index = pn.widgets.IntInput(name="Pattern", value=0, start=0, width=110)
        self.show = pn.widgets.Button(name="Show pattern", button_type="default")
        self.logarithmic = pn.widgets.Toggle(name="Logarithmic", value=True)
        self.words = pn.pane.HTML(f"<p style='margin:4px'>{HINT}</p>")
        self.row = flow(sizing_mode="stretch_width")
        self.show.on_click(desk.attempt(lambda event: self._show_chosen()))
        self.logarithmic.param.watch(
            desk.attempt(lambda event: self.choose(int(self.index.value or 0))), "value"
        )
        controls = flow(self.index, self.show, self.logarithmic, align_items="end")
        self.view = pn.Column(controls, self.words, self.row, sizing_mode="stretch_width")

    def open(self, folder: Path) -> None:
        """Another run: its model is built when a pattern is asked for."""
        self._folder = folder
        self._model = None
        self._views = []
        self.row.objects = []
        self._say(HINT)

    def set_positions(self, positions: np.ndarray) -> None:
        """The places of the patterns."""
        self._positions = positions
        self.index.end = max(len(positions) - 1, 0)

    def _show_chosen(self) -> None:
        if self._folder is None:
            raise BadInput("pattern", None, "needs a run: choose one")
        self.choose(int(self.index.value or 0))

    def choose(self, index: int) -> None:
        """Show a pattern, from the model of the latest snapshot."""
        if self._folder is None or self._busy:
            return
        self.index.value = index
        self._busy = True
        folder = self._folder
        self._say("reading the data and building the model ..." if self._model is None else "...")

        def work() -> tuple[RunModel, PatternPair]:
            model = self._model
            snapshot = folder / "snapshot.h5"
            if model is None or (snapshot.is_file() and snapshot.stat().st_mtime_ns != model.stamp):
                model = RunModel(folder)
            return model, model.compare_pattern(index)

        def done(found: tuple[RunModel, PatternPair]) -> None:
            self._busy = False
            if folder == self._folder:
                self._model = found[0]
                self._draw(found[1])

        def failed(problem: BaseException) -> None:
            self._busy = False
            self._say(str(problem))

        self.desk.background(work, done, failed=failed)

    def _say(self, text: str) -> None:
        self.words.object = f"<p role='status' style='margin:4px'>{html.escape(text)}</p>"

    def _draw(self, pair: PatternPair) -> None:
        if not self._views:
            unit = "nm" if pair.is_length else "mrad"
            look: dict[str, Any] = {"unit": unit, "height": 270}
            first = ImageView("Measured", colours="magma", values="counts", **look)
            second = ImageView("Modelled", colours="magma", values="counts", linked=first, **look)
            third = ImageView("Difference", colours="RdBu_r", values="std", linked=first, **look)
            self._views = [first, second, third]
            styles = {"flex": "1 1 240px"}
            self.row.objects = [
                pn.pane.Bokeh(one.figure, sizing_mode="stretch_width", styles=styles) for one in self._views
            ]
        both = [self._scale(one) for one in (pair.measured, pair.modelled)]
        span = _span(both)
        names = ("Measured", "Modelled")
        totals = (pair.measured.sum(), pair.modelled.sum())
        for view, values, name, total in zip(self._views, both, names, totals, strict=False):
            view.name_values(self._scale_name)
            view.show(values, pixel=pair.step, span=span, title=f"{name}: {total:.4g} counts")
            view.reset_contrast()
        reach = max(float(np.nanpercentile(np.abs(pair.residual), 99.5)), 1e-6)
        rms = float(np.sqrt(np.nanmean(pair.residual**2)))
        title = f"Difference: {rms:.3g} rms"
        self._views[2].show(pair.residual, pixel=pair.step, span=(-reach, reach), title=title)
        self._views[2].reset_contrast()
        self._say(
            f"pattern {pair.index}, colours: {self._scale_name}; the difference is in standard deviations"
        )

    @property
    def _scale_name(self) -> str:
        return "log10(1 + counts)" if self.logarithmic.value else "counts"

    def _scale(self, values: np.ndarray) -> np.ndarray:
        return np.log10(1 + np.maximum(values, 0)) if self.logarithmic.value else values


def _span(images: list[np.ndarray]) -> tuple[float, float]:
    high = max(float(np.percentile(one, 99.9)) for one in images)
    return 0.0, high or 1.0
