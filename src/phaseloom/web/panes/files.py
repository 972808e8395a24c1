"""The pane that browses the folder and looks at scans."""

from __future__ import annotations

import html
import time
from pathlib import Path
from typing import Any

import numpy as np
import panel as pn
from bokeh.events import SelectionGeometry
from bokeh.models import LassoSelectTool

from phaseloom.data.folder_survey import FileFacts, is_store, survey_file
from phaseloom.plot.folder_page import COLUMNS, format_row
from phaseloom.plot.style import show_length
from phaseloom.web.panes.desk import Desk, card, flow
from phaseloom.web.panes.direct import DirectPart
from phaseloom.web.panes.figures import ImageView, PointsView
from phaseloom.web.panes.outputs import OutputsPart
from phaseloom.web.state.catalogue import is_run
from phaseloom.web.state.scan_view import ScanMap, ScanView, list_folder

__all__ = ["FilesPane"]

COLOUR_OF_LEVEL = {"good": "#1a7f37", "note": "#57606a", "warn": "#9a6700", "bad": "#cf222e"}
UP = ".. (up)"
SECONDS_BETWEEN_LISTS = 5.0


class FilesPane:
    """Folders and files at the left, the scan that was chosen at the right.

    Attributes:
        view: of Panel.
    """

    def __init__(self, desk: Desk):
        self.desk = desk
        self._folder = desk.root
        self._scan: ScanView | None = None
        self._asked = 0
        self._listed = 0.0
        guard = desk.attempt
        self.place = pn.pane.HTML("")
        self.entries = pn.widgets.Select(name="Folders and files", size=16, sizing_mode="stretch_width")
        self.open = pn.widgets.Button(name="Open", button_type="primary")
        self.watch = pn.widgets.Button(name="Watch this run", button_type="default", disabled=True)
        self.facts = pn.pane.HTML("", sizing_mode="stretch_width")
        self.start = pn.widgets.Button(name="Reconstruct it ...", button_type="success", disabled=True)
        self.findings = pn.pane.HTML("", sizing_mode="stretch_width")
        self.ring = pn.widgets.RangeSlider(
            name="Ring (mrad)", start=0.0, end=1.0, value=(0.0, 1.0), step=0.01
        )
        self.index = pn.widgets.IntInput(name="Pattern", value=0, start=0, width=110)
        self.kind = pn.widgets.RadioButtonGroup(
            name="Pattern shown", options={"Mean": "mean", "One place": "one"}, value="mean"
        )
        self.logarithmic = pn.widgets.Toggle(name="Logarithmic", value=True)
        self.maps = pn.Column(sizing_mode="stretch_width")
        self.detector = pn.Column(sizing_mode="stretch_width")
        self.direct = DirectPart(desk)
        self._map_view: ImageView | PointsView | None = None
        self._pattern_view: ImageView | None = None
        self.open.on_click(guard(lambda event: self._open_entry()))
        self.watch.on_click(guard(lambda event: self._watch_run()))
        self.entries.param.watch(guard(lambda event: self._describe()), "value")
        self.ring.param.watch(guard(lambda event: self._show_ring()), "value")
        self.index.param.watch(guard(lambda event: self._choose(int(self.index.value or 0))), "value")
        self.kind.param.watch(guard(lambda event: self._show_pattern()), "value")
        self.logarithmic.param.watch(guard(lambda event: self._show_pattern()), "value")
        self.start.on_click(guard(lambda event: self._start()))
        self.outputs = OutputsPart(desk)
        self._lay_out()
        self._list()

    def _lay_out(self) -> None:
        left = card(
            "Folder", self.place, self.entries, flow(self.open, self.watch), self.facts, self.start, basis=300
        )
        left.styles = {**left.styles, "max-width": "420px"}
        patterns = card(
            "Patterns", flow(self.kind, self.index, self.logarithmic, align_items="end"), self.detector
        )
        maps = card("Virtual image: move the ring, or draw a shape on the pattern", self.ring, self.maps)
        self._of_scan = (
            flow(patterns, maps),
            flow(card("Findings", self.findings), card("Direct image", self.direct.view, basis=520)),
        )
        self.right = pn.Column(*self._of_scan, styles={"flex": "3 1 640px"})
        self.view: Any = flow(left, self.right)

    def update(self) -> None:
        """List the folder again, now and then, while it is looked at."""
        if time.monotonic() - self._listed > SECONDS_BETWEEN_LISTS:
            self._list()

    def _list(self) -> None:
        """Show what is in the folder; the choice stays where it is still there."""
        self._listed = time.monotonic()
        folders, files = list_folder(self._folder)
        options = [UP] if self._folder != self.desk.root else []
        options += [f"{name}/" for name in folders] + files
        if options != self.entries.options:
            kept = self.entries.value if self.entries.value in options else None
            self.entries.param.update(options=options, value=kept or next(iter(options), None))
        name = self.desk.name_of(self._folder)
        self.place.object = (
            f"<p style='margin:2px'><b>{html.escape(self.desk.root.name)}</b>/{html.escape(name)}</p>"
        )

    def _entry(self) -> Path | None:
        name = self.entries.value
        if name is None:
            return None
        if name == UP:
            return self._folder.parent
        return self.desk.resolve(self.desk.name_of(self._folder / name.rstrip("/")))

    def _describe(self) -> None:
        path = self._entry()
        if path is None or path.is_dir():
            self.watch.disabled = path is None or not is_run(path)
            self.facts.object = "" if self.watch.disabled else "<p>the folder of a run</p>"
            return
        self.watch.disabled = True

        def done(facts: FileFacts) -> None:
            if self._entry() == facts.path:
                row = zip(COLUMNS, format_row(facts, self._folder), strict=True)
                lines = [f"<b>{name}</b> {html.escape(text)}" for name, text in row if text]
                self.facts.object = f"<p style='margin:2px'>{'<br>'.join(lines)}</p>"

        self.desk.background(lambda: survey_file(path), done)

    def _watch_run(self) -> None:
        if (folder := self._entry()) is not None:
            self.desk.open_run(folder)

    def _start(self) -> None:
        if self._scan is not None:
            self.desk.start_with(self._scan.path)

    def _open_entry(self) -> None:
        path = self._entry()
        if path is None:
            return
        if path.is_dir() and not is_store(path):
            self._folder = path
            self._list()
            return
        if path.name in ("result.h5", "snapshot.h5") and is_run(path.parent):
            self.desk.open_run(path.parent)
            return
        self._clear()
        if self.outputs.open(path):
            self.right.objects = [self.outputs.view]
            return
        self._read(path)

    def _read(self, path: Path) -> None:
        self.desk.tell(f"reading {self.desk.name_of(path)} ...")
        asked = self._asked

        def work() -> ScanView:
            view = ScanView(path)
            _ = view.findings, view.mean
            return view

        def done(view: ScanView) -> None:
            if asked == self._asked:
                self.desk.tell("")
                self._show(view)

        self.desk.background(work, done)

    def _clear(self) -> None:
        """Show nothing of the file that was open before another was asked for."""
        self._asked += 1
        self.outputs.close()
        self.right.objects = list(self._of_scan)
        self._scan = self._map_view = self._pattern_view = None
        self.start.disabled = True
        self.findings.object = ""
        self.maps.objects = []
        self.detector.objects = []
        self.direct.close()

    def _show(self, view: ScanView) -> None:
        self._scan = view
        self.start.disabled = False
        self._show_findings(view)
        self._make_views(view)
        unit, scale = ("nm", 0.1) if view.is_length else ("mrad", 1e3)
        end = view.reach * scale
        self.index.param.update(end=len(view.scan) - 1, value=0)
        self.kind.value = "mean"
        self.ring.param.update(name=f"Ring ({unit})", start=0.0, end=end, step=end / 96, value=(0.0, end))
        self._show_ring()
        self._show_pattern()
        self.direct.open(view.scan)

    def _make_views(self, view: ScanView) -> None:
        guard = self.desk.attempt
        unit = "nm" if view.is_length else "mrad"
        self._pattern_view = ImageView(
            "Mean pattern", unit=unit, colours="magma", values="counts", height=380
        )
        figure = self._pattern_view.figure
        figure.add_tools(LassoSelectTool(description="Draw a virtual detector"))
        figure.on_event(SelectionGeometry, guard(self._draw_detector))
        self.detector.objects = [pn.pane.Bokeh(figure, sizing_mode="stretch_width")]
        whole = view.ring_map(0.0, view.reach)
        if whole.image is None:
            self._map_view = PointsView("Virtual image", values="counts", height=380)
        else:
            self._map_view = ImageView("Virtual image", colours="gray", values="counts", height=380)
        self._map_view.on_tap(guard(self._choose_place))
        self.maps.objects = [pn.pane.Bokeh(self._map_view.figure, sizing_mode="stretch_width")]

    def _show_findings(self, view: ScanView) -> None:
        rows = []
        for one in view.findings:
            colour = COLOUR_OF_LEVEL[one.level]
            advice = f"<br><i>{html.escape(one.advice)}</i>" if one.advice else ""
            name = f"<td style='color:{colour};white-space:nowrap;vertical-align:top'>{one.level}</td>"
            text = f"<td>{html.escape(one.name)}</td><td>{html.escape(one.value)}{advice}</td>"
            rows.append(f"<tr>{name}{text}</tr>")
        self.findings.object = (
            "<table aria-label='findings'><thead><tr><th>level</th><th>of</th><th>finding</th></tr></thead>"
            f"<tbody>{''.join(rows)}</tbody></table>"
        )

    def _show_ring(self) -> None:
        if self._scan is None or self._map_view is None:
            return
        scale = 0.1 if self._scan.is_length else 1e3
        inner, outer = (value / scale for value in self.ring.value)
        if outer > inner:
            name = "{:.3g} to {:.3g} {}".format(*self.ring.value, "nm" if self._scan.is_length else "mrad")
            self._show_map(self._scan.ring_map(inner, outer), f"Virtual image, ring {name}")

    def _show_map(self, found: ScanMap, title: str) -> None:
        if isinstance(self._map_view, ImageView) and found.image is not None:
            image = found.image
            self._map_view.show(image.values, pixel=image.pixel, corner=image.corner, title=title)
            self._map_view.reset_contrast()
        elif isinstance(self._map_view, PointsView):
            self._map_view.show(found.positions, found.values, title=title)

    def _draw_detector(self, event: Any) -> None:
        if self._scan is None or not event.final or event.geometry.get("type") != "poly":
            return
        view = self._scan
        scale = 0.1 if view.is_length else 1e3
        y, x = (np.array(list(event.geometry[axis]), float) / scale for axis in ("y", "x"))
        self.desk.background(
            lambda: view.mask_map(view.polygon(y, x)),
            lambda found: self._show_map(found, "Virtual image, drawn"),
        )

    def _choose_place(self, place: tuple[float, float]) -> None:
        if self._scan is None:
            return
        grid = self._scan.scan.grid
        if isinstance(self._map_view, ImageView) and grid is not None:
            image = self._scan.ring_map(0.0, self._scan.reach).image
            assert image is not None
            row, column = (
                min(max(int(p / step), 0), n - 1) for p, step, n in zip(place, image.pixel, grid, strict=True)
            )
            index = row * grid[1] + column
        else:
            index = self._scan.find_nearest(place)
        self.index.value = index
        self.kind.value = "one"
        self._choose(index)

    def _choose(self, index: int) -> None:
        if self._scan is None or self._map_view is None:
            return
        grid = self._scan.scan.grid
        if isinstance(self._map_view, ImageView) and grid is not None:
            image = self._scan.ring_map(0.0, self._scan.reach).image
            assert image is not None
            row, column = divmod(index, grid[1])
            mark = ((row + 0.5) * image.pixel[0], (column + 0.5) * image.pixel[1])
        else:
            mark = tuple(self._scan.scan.positions[index])
        self._map_view.mark([mark])
        self._show_pattern()

    def _show_pattern(self) -> None:
        if self._scan is None or self._pattern_view is None:
            return
        view = self._scan
        one = self.kind.value == "one"
        values = view.pattern(int(self.index.value or 0)) if one else view.mean
        masked = np.where(view.scan.mask, values, np.nan)
        shown = np.log10(1 + np.maximum(masked, 0) * (1 if one else 10)) if self.logarithmic.value else masked
        factor = "" if one else "10 "  # a mean has fractions of counts
        scale = f"log10(1 + {factor}counts)" if self.logarithmic.value else "counts"
        self._pattern_view.name_values(scale)
        y, x = (show_length(place) for place in view.scan.positions[self.index.value])
        name = f"Pattern {self.index.value} at y {y}, x {x}" if one else "Mean pattern"
        total = f"{np.nansum(masked):.4g} counts"
        self._pattern_view.show(shown, pixel=view.step, title=f"{name}: {total}")
        self._pattern_view.reset_contrast()
