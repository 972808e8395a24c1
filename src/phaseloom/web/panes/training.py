"""The part that shows what a training or a search left: losses, tables and figures of its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import panel as pn

from phaseloom.web.panes.desk import Desk
from phaseloom.web.panes.figures import CurvesView
from phaseloom.web.state.events import EventLog

__all__ = ["TrainingPart"]

MAX_FIGURES = 40
MAX_FIGURE_BYTES = 8_000_000


class TrainingPart:
    """Losses of a run, and the figures in its folder.

    Attributes:
        view: of Panel.
    """

    def __init__(self, desk: Desk):
        self.desk = desk
        self.losses = pn.Column(sizing_mode="stretch_width")
        self.figure = pn.widgets.Select(name="Figure of its folder", options=[])
        self.picture = pn.Column(sizing_mode="stretch_width")
        self._folder: Path | None = None
        self.figure.param.watch(desk.attempt(lambda event: self._show_figure()), "value")
        self.view: Any = pn.Column(self.losses, self.figure, self.picture, sizing_mode="stretch_width")

    def open(self, folder: Path) -> None:
        """Show another run."""
        self._folder = folder
        curves = EventLog.read_all(folder).losses
        self.losses.objects = []
        if values := curves["training"][1]:
            view = CurvesView("Loss", tuple(curves), x="epoch", y="loss", log=min(values) > 0)
            view.show(curves)
            self.losses.objects = [pn.pane.Bokeh(view.figure, sizing_mode="stretch_width")]
        found = [path.relative_to(folder) for path in folder.rglob("*.png")]
        names = [str(path) for path in sorted(found, key=lambda one: (len(one.parts), one))][:MAX_FIGURES]
        self.figure.param.update(options=names, value=names[0] if names else None)
        self._show_figure()

    def _show_figure(self) -> None:
        self.picture.objects = []
        if self._folder is None or not self.figure.value:
            return
        path = self.desk.resolve(self.desk.name_of(self._folder / self.figure.value))
        if path.suffix == ".png" and path.stat().st_size <= MAX_FIGURE_BYTES:
            label = f"figure {self.figure.value}"
            picture = pn.pane.PNG(
                path.read_bytes(), alt_text=label, sizing_mode="scale_width", max_width=1100
            )
            self.picture.objects = [picture]
