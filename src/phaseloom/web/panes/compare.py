"""The pane that lays runs beside each other."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import panel as pn

from phaseloom.plot.style import show_length
from phaseloom.reconstruction.compare import ResultComparison
from phaseloom.web.panes.desk import Desk, card, flow
from phaseloom.web.panes.figures import CurvesView, ImageView
from phaseloom.web.state.catalogue import find_runs
from phaseloom.web.state.comparison import compare_runs, sample_line, tabulate_settings
from phaseloom.web.state.events import EventLog
from phaseloom.web.state.run_images import RunImages, find_newest, open_images

__all__ = ["ComparePane"]

MAX_RUNS = 10
KINDS = {"Phase": "phase", "Amplitude": "amplitude"}


class ComparePane:
    """Images with one zoom, difference and ring correlation of two, profiles, losses and settings of all.

    Attributes:
        view: of Panel.
    """

    def __init__(self, desk: Desk):
        self.desk = desk
        self._folders: list[Path] = []
        self._images: dict[Path, RunImages] = {}
        self._views: list[ImageView] = []
        self._line: list[tuple[float, float]] = []
        guard = desk.attempt
        self.runs = pn.widgets.MultiChoice(
            name="Runs, the first is the reference",
            options=[],
            max_items=MAX_RUNS,
            sizing_mode="stretch_width",
        )
        self.show = pn.widgets.Button(name="Compare", button_type="primary")
        self.kind = pn.widgets.RadioButtonGroup(name="Image", options=KINDS, value="phase")
        self.same = pn.widgets.Toggle(name="One contrast for all", value=True)
        self.second = pn.widgets.Select(name="Difference to", options={})
        self.pictures = flow(sizing_mode="stretch_width")
        self.difference = ImageView("Difference of the phases", colours="RdBu_r", values="rad", height=330)
        self.numbers = pn.pane.HTML("")
        self.rings = CurvesView(
            "Fourier ring correlation",
            ("correlation", "half-bit", "1/7"),
            x="spatial frequency (1/nm)",
            y="correlation",
            height=330,
        )
        self.profile_place = pn.Column(
            pn.pane.HTML("<p>Click two places in the images: a line between them.</p>")
        )
        self.losses_place = pn.Column()
        self.settings = pn.widgets.Tabulator(
            pd.DataFrame(columns=pd.Index(["setting"])),
            disabled=True,
            show_index=False,
            sizing_mode="stretch_width",
        )
        self.show.on_click(guard(lambda event: self.open([desk.resolve(one) for one in self.runs.value])))
        for one in (self.kind, self.same):
            one.param.watch(guard(lambda event: self._draw()), "value")
        self.second.param.watch(guard(lambda event: self._compare()), "value")
        chart = {"sizing_mode": "stretch_width"}
        self.view = pn.Column(
            flow(pn.Column(self.runs, styles={"flex": "1 1 400px"}), self.show, align_items="end"),
            flow(self.kind, self.same, self.second, align_items="end"),
            self.pictures,
            flow(
                card("Difference", pn.pane.Bokeh(self.difference.figure, **chart), self.numbers),
                card("Ring correlation", pn.pane.Bokeh(self.rings.figure, **chart)),
                card("Line profile", self.profile_place),
                card("Losses", self.losses_place),
                card("Settings that differ", self.settings, basis=760),
                sizing_mode="stretch_width",
            ),
            sizing_mode="stretch_width",
        )
        self.list_runs()

    def list_runs(self) -> None:
        """Offer all runs of the folder; the chosen ones stay, in their order."""
        names = [self.desk.name_of(folder) for folder in find_runs(self.desk.root)]
        others = [name for name in names if name not in self.runs.value]
        self.runs.options = [*self.runs.value, *others]

    def open(self, folders: Sequence[Path]) -> None:
        """Compare runs."""
        self.list_runs()
        self._folders = list(folders)[:MAX_RUNS]
        names = [self.desk.name_of(folder) for folder in self._folders]
        others = [name for name in self.runs.options if name not in names]
        self.runs.param.update(options=[*names, *others], value=names)  # they are shown in this order
        paths = {folder: path for folder in self._folders if (path := find_newest(folder)) is not None}

        def work() -> dict[Path, RunImages]:
            found = {folder: open_images(path) for folder, path in paths.items()}
            for images in found.values():
                images.phase()
            return found

        def done(found: dict[Path, RunImages]) -> None:
            self._images = found
            self._line = []
            self._make_views()
            self._draw()
            self._draw_losses()
            self._tabulate()
            self.second.options = dict(zip(names[1:], names[1:], strict=True))
            self._compare()

        self.desk.background(work, done)

    def _make_views(self) -> None:
        self._views = []
        panes = []
        for folder in self._images:
            linked = self._views[0] if self._views else None
            view = ImageView(self.desk.name_of(folder), linked=linked, values="rad", height=320)
            view.on_tap(self.desk.attempt(self._choose))
            view.follow_zoom()
            self._views.append(view)
            styles = {"flex": "1 1 360px", "min-width": "300px"}
            panes.append(pn.pane.Bokeh(view.figure, sizing_mode="stretch_width", styles=styles))
        self.pictures.objects = panes

    def _draw(self) -> None:
        fields = [getattr(one, self.kind.value)() for one in self._images.values()]
        for view, field, folder in zip(self._views, fields, self._images, strict=True):
            name = self.desk.name_of(folder)
            view.show(field.values, pixel=field.pixel, corner=field.corner, title=name)
            view.reset_contrast()
        if self.same.value and self._views:
            low = min(view.home[0] for view in self._views)
            high = max(view.home[1] for view in self._views)
            for view in self._views:
                view.set_contrast(low, high)

    def _compare(self) -> None:
        if len(self._folders) < 2 or not self.second.value:
            self.numbers.object = ""
            return
        first, second = self._folders[0], self.desk.resolve(self.second.value)

        def done(found: ResultComparison) -> None:
            reach = float(np.percentile(np.abs(found.difference), 99)) or 1.0
            self.difference.show(found.difference, pixel=found.pixel, span=(-reach, reach))
            self.difference.reset_contrast()
            curve = found.correlation
            frequency = 10 * curve.frequency[1:]
            curves = {
                "correlation": curve.value,
                "half-bit": curve.threshold_half_bit,
                "1/7": curve.threshold_one_seventh,
            }
            self.rings.show({name: (frequency, values[1:]) for name, values in curves.items()})
            half = curve.resolution("half-bit")
            resolution = show_length(half) if np.isfinite(half) else "none"
            self.numbers.object = (
                f"<p>correlation {found.likeness:.4f}, phase difference {found.difference_rms:.4g} rad rms, "
                f"resolution {resolution} (half-bit, full period)</p>"
            )

        def failed(problem: BaseException) -> None:
            self.difference.clear()
            self.rings.show({})
            self.numbers.object = f"<p role='status'>{html.escape(str(problem))}</p>"

        self.desk.background(lambda: compare_runs(first, second), done, failed=failed)

    def _choose(self, place: tuple[float, float]) -> None:
        self._line = [*self._line, place][-2:] if len(self._line) < 2 else [place]
        for view in self._views:
            view.mark(self._line)
        if len(self._line) < 2:
            return
        names = [self.desk.name_of(folder) for folder in self._images]
        view = CurvesView("Profile along the line", names, x="length (nm)", y=self.kind.value, height=300)
        fields = [getattr(one, self.kind.value)() for one in self._images.values()]
        lines = [sample_line(field, self._line[0], self._line[1]) for field in fields]
        view.show({name: (0.1 * x, y) for name, (x, y) in zip(names, lines, strict=True)})
        self.profile_place.objects = [pn.pane.Bokeh(view.figure, sizing_mode="stretch_width")]

    def _draw_losses(self) -> None:
        names = [self.desk.name_of(folder) for folder in self._folders]
        view = CurvesView("Losses", names, x="epoch", y="loss", log=True, height=300)
        logs = [EventLog.read_all(folder) for folder in self._folders]
        view.show({name: log.curve("loss") for name, log in zip(names, logs, strict=True)})
        self.losses_place.objects = [pn.pane.Bokeh(view.figure, sizing_mode="stretch_width")]

    def _tabulate(self) -> None:
        rows = tabulate_settings(self._folders)
        columns = ["setting", *map(str, range(len(self._folders)))]
        names = {str(number): self.desk.name_of(folder) for number, folder in enumerate(self._folders)}
        self.settings.titles = names
        self.settings.value = pd.DataFrame(rows, columns=pd.Index(columns))
