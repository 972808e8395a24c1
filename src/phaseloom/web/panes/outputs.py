"""The part that shows what commands left: images of our files, photographs, restored pairs, latents."""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import panel as pn

from phaseloom.data.signals import Signals
from phaseloom.restoration.pairs.images import read_with_alpha
from phaseloom.web.panes.desk import Desk, card, flow
from phaseloom.web.panes.figures import ColourView, ImageView, ScatterView
from phaseloom.web.state.outputs import (
    LatentView,
    RestoredImages,
    cut_plane,
    find_output_kind,
    list_signals,
    to_colours,
)

__all__ = ["OutputsPart"]

FIRST_COUNT = 4
"""Clusters at first."""

BESIDE = {"flex": "1 1 300px", "min-width": "260px"}


class OutputsPart:
    """What a file of our commands holds.

    Attributes:
        view: of Panel; empty where nothing is open.
    """

    def __init__(self, desk: Desk):
        self.desk = desk
        self.view: Any = pn.Column(sizing_mode="stretch_width")
        self._asked = 0

    def open(self, path: Path) -> bool:
        """Show a file; False: it is none of these."""
        kind = find_output_kind(path)
        show: dict[str, Callable[[Path], None]] = {
            "images": self._open_images,
            "latents": self._open_latents,
            "restored": self._open_restored,
            "photograph": self._open_photograph,
        }
        if kind not in show:
            return False
        self._asked += 1
        show[kind](path)
        return True

    def close(self) -> None:
        """Show nothing."""
        self._asked += 1
        self.view.objects = []

    def _read(self, path: Path, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        """Read beside the server's thread, and show it unless something else was asked for."""
        self.desk.tell(f"reading {self.desk.name_of(path)} ...")
        self.view.objects = []
        asked = self._asked

        def finish(found: Any) -> None:
            if asked == self._asked:
                self.desk.tell("")
                done(found)

        self.desk.background(work, finish)

    def _open_images(self, path: Path) -> None:
        self._read(path, lambda: list_signals(path), lambda found: self._show([ImagesCard(self.desk, found)]))

    def _open_photograph(self, path: Path) -> None:
        def done(image: np.ndarray) -> None:
            view = ColourView(path.name)
            view.show_colours(to_colours(image), f"{path.name}: {image.shape[1]} x {image.shape[2]}")
            self.view.objects = [card("Image", _pane(view.figure), basis=None)]

        self._read(path, lambda: read_with_alpha(path)[0], done)

    def _open_restored(self, path: Path) -> None:
        root = self.desk.root
        self._read(
            path, lambda: RestoredImages(path, root), lambda found: self._show([PairsCard(self.desk, found)])
        )

    def _open_latents(self, path: Path) -> None:
        root = self.desk.root
        self._read(
            path, lambda: LatentView(path, root), lambda found: self._show([LatentsCard(self.desk, found)])
        )

    def _show(self, cards: list[Any]) -> None:
        self.view.objects = [one.view for one in cards]


class ImagesCard:
    """Images of a file, one at a time.

    Attributes:
        view: of Panel.
    """

    def __init__(self, desk: Desk, found: Signals):
        self._signals = {one.title or one.name: one for one in found.signals if len(one.shape) >= 2}
        self.name = pn.widgets.Select(name="Image", options=list(self._signals))
        self.number = pn.widgets.IntInput(name="Number", value=0, start=0, width=90)
        self._image = ImageView("Image", colours="viridis")
        self.name.param.watch(desk.attempt(lambda event: self._choose()), "value")
        self.number.param.watch(desk.attempt(lambda event: self._show()), "value")
        notes = html.escape(found.process.get("notes", ""))
        self.view: Any = card(
            found.title,
            flow(self.name, self.number, align_items="end"),
            _pane(self._image.figure),
            pn.pane.HTML(f"<p style='margin:4px;white-space:pre-line'>{notes}</p>"),
            basis=None,
        )
        self._image.follow_zoom()
        self._choose()

    def _choose(self) -> None:
        if self.name.value is None:
            return
        planes = int(np.prod(self._signals[self.name.value].shape[:-2]))
        self.number.param.update(value=0, end=planes - 1, disabled=planes == 1)
        self._show()

    def _show(self) -> None:
        signal = self._signals[self.name.value]
        field = cut_plane(signal, int(self.number.value or 0))
        unit = "rad" if signal.is_complex else signal.unit
        self._image.name_values(unit)
        self._image.show(field.values, pixel=field.pixel, corner=field.corner, title=str(self.name.value))
        self._image.reset_contrast()


class PairsCard:
    """Images before and after a restoration, zoomed together.

    Attributes:
        view: of Panel.
    """

    def __init__(self, desk: Desk, found: RestoredImages):
        self.desk = desk
        self._found = found
        self.name = pn.widgets.Select(name="Image", options=found.names)
        self.words = pn.pane.HTML("")
        self.row = flow(sizing_mode="stretch_width")
        self.name.param.watch(desk.attempt(lambda event: self._choose()), "value")
        self.view: Any = card("Before and after", self.name, self.words, self.row, basis=None)
        self._choose()

    def _choose(self) -> None:
        name = self.name.value
        if name is not None:
            self.desk.background(lambda: self._found.read(name), lambda images: self._show(name, images))

    def _show(self, name: str, images: dict[str, np.ndarray]) -> None:
        if name != self.name.value:
            return
        views: list[ColourView] = []
        extent = next((one.shape[1:] for one in images.values()), (1, 1))
        for label, image in images.items():
            view = ColourView(label, linked=views[0] if views else None)
            size = f"{image.shape[1]} x {image.shape[2]}"
            view.show_colours(to_colours(image), f"{label}: {size}", (extent[0], extent[1]))
            views.append(view)
        change = self._found.changes[name]
        told = [] if change is None else [f"changed by {change:.3g} of the spread of the input (rms)"]
        if "before" not in images:
            told.append("the input is not in the folder of the page")
        self.words.object = f"<p role='status' style='margin:4px'>{html.escape('; '.join(told))}</p>"
        self.row.objects = [_pane(one.figure, BESIDE) for one in views]


class LatentsCard:
    """Clusters of latents, over the scan and among each other; the mean pattern of the one that is clicked.

    Attributes:
        view: of Panel.
    """

    def __init__(self, desk: Desk, found: LatentView):
        self.desk = desk
        self._found = found
        dimensions = found.embedding.latents.shape[1]
        names = {f"latent {number}": number for number in range(dimensions)}
        self.count = pn.widgets.IntInput(name="Clusters", value=FIRST_COUNT, start=2, end=20, width=100)
        self.across = pn.widgets.Select(name="Across", options=names, value=0, width=120)
        self.up = pn.widgets.Select(name="Up", options=names, value=min(1, dimensions - 1), width=120)
        self.cluster = pn.widgets.Select(name="Cluster", options=[], width=160)
        self.logarithmic = pn.widgets.Toggle(name="Logarithmic", value=True)
        self.words = pn.pane.HTML(
            "<p style='margin:4px'>Click a point for the mean pattern of its cluster.</p>"
        )
        self._map = ScatterView("Clusters over the scan", x="x (nm)", y="y (nm)", is_map=True)
        self._plane = ScatterView("Latents", x="latent 0", y="latent 1")
        self._pattern: ImageView | None = None
        self.figures = flow(sizing_mode="stretch_width")
        self._labels = np.zeros(len(found.embedding), int)
        guard = desk.attempt
        self.count.param.watch(guard(lambda event: self._find_clusters()), "value")
        for one in (self.across, self.up):
            one.param.watch(guard(lambda event: self._draw()), "value")
        self.cluster.param.watch(guard(lambda event: self._show_mean()), "value")
        self.logarithmic.param.watch(guard(lambda event: self._show_mean()), "value")
        self._map.on_tap(guard(self._choose_place))
        self._plane.on_tap(guard(self._choose_latents))
        controls = flow(self.count, self.across, self.up, self.cluster, self.logarithmic, align_items="end")
        self.figures.objects = [_pane(one.figure, BESIDE) for one in (self._map, self._plane)]
        title = f"Latents of {len(found.embedding)} patterns of {found.embedding.provenance.file}"
        self.view: Any = card(title, controls, self.words, self.figures, basis=None)
        self._find_clusters()

    def _find_clusters(self) -> None:
        count = int(self.count.value or FIRST_COUNT)

        def done(labels: np.ndarray) -> None:
            self._labels = labels
            sizes = np.bincount(labels)
            options = {f"{number}: {size} patterns": number for number, size in enumerate(sizes)}
            self.cluster.param.update(options=options, value=None)
            self.figures.objects = self.figures.objects[:2]
            self._pattern = None
            self._draw()

        self.desk.background(lambda: self._found.find_clusters(count), done)

    def _draw(self) -> None:
        embedding = self._found.embedding
        y, x = 0.1 * embedding.positions.T
        self._map.show(x, y, self._labels)
        across, up = int(self.across.value or 0), int(self.up.value or 0)
        self._plane.show(embedding.latents[:, across], embedding.latents[:, up], self._labels)
        self._plane.figure.xaxis.axis_label = f"latent {across}"
        self._plane.figure.yaxis.axis_label = f"latent {up}"

    def _choose_place(self, place: tuple[float, float]) -> None:
        x, y = place
        self.cluster.value = int(self._labels[self._found.find_nearest((10 * y, 10 * x))])

    def _choose_latents(self, place: tuple[float, float]) -> None:
        axes = (int(self.across.value or 0), int(self.up.value or 0))
        self.cluster.value = int(self._labels[self._found.find_nearest(place, axes)])

    def _show_mean(self) -> None:
        label = self.cluster.value
        if label is None:
            return
        labels = self._labels
        self._say("reading the scan ...")

        def work() -> tuple[np.ndarray, tuple[float, float], bool]:
            patterns = self._found.average_patterns(labels)
            view = self._found.scan_view
            return patterns[label], view.step, view.is_length

        def done(found: tuple[np.ndarray, tuple[float, float], bool]) -> None:
            if self.cluster.value == label and labels is self._labels:
                self._say(f"mean pattern of cluster {label}, {int((labels == label).sum())} patterns")
                self._show_pattern(*found, title=f"Mean pattern of cluster {label}")

        self.desk.background(work, done, failed=lambda problem: self._say(str(problem)))

    def _show_pattern(
        self, values: np.ndarray, step: tuple[float, float], is_length: bool, *, title: str
    ) -> None:
        if self._pattern is None:
            unit = "nm" if is_length else "mrad"
            self._pattern = ImageView(title, unit=unit, colours="magma", values="counts")
            self.figures.objects = [*self.figures.objects, _pane(self._pattern.figure, BESIDE)]
        shown = np.log10(1 + 10 * np.maximum(values, 0)) if self.logarithmic.value else values
        self._pattern.name_values("log10(1 + 10 counts)" if self.logarithmic.value else "counts")
        self._pattern.show(shown, pixel=step, title=title)
        self._pattern.reset_contrast()

    def _say(self, text: str) -> None:
        self.words.object = f"<p role='status' style='margin:4px'>{html.escape(text)}</p>"


def _pane(figure: Any, styles: dict[str, str] | None = None) -> Any:
    return pn.pane.Bokeh(figure, sizing_mode="stretch_width", styles=styles or {})
