"""The pane that follows a run: object, probe, losses, positions, patterns, verdict, history."""

from __future__ import annotations

import html
import io
from pathlib import Path
from typing import Any

import numpy as np
import panel as pn

from phaseloom.errors import BadInput
from phaseloom.plot.style import show_length
from phaseloom.runs.folder import list_kept_epochs, path_of_kept
from phaseloom.web.panes.desk import Desk, card, flow
from phaseloom.web.panes.epoch_slider import EpochSlider
from phaseloom.web.panes.figures import ColourView, CurvesView, ImageView, PointsView
from phaseloom.web.panes.patterns import PatternsPart
from phaseloom.web.panes.steer import SteerPart
from phaseloom.web.record import write_record
from phaseloom.web.state.catalogue import describe_state, find_runs, read_recipe
from phaseloom.web.state.events import EventLog
from phaseloom.web.state.history import ImageHistory
from phaseloom.web.state.progress import describe_progress, judge_losses
from phaseloom.web.state.run_images import Field, RunImages, find_newest, open_images

__all__ = ["WatchPane"]

KINDS = {"Phase": "phase", "Amplitude": "amplitude", "Error bar": "sigma"}
COLOURS = {"phase": "viridis", "amplitude": "gray", "sigma": "magma"}
UNITS = {"phase": "rad", "amplitude": "1", "sigma": "rad"}

MAX_PROBE_MODES = 8
CHOOSE = "choose a run"
LOOKS_BETWEEN_LISTS = 10
"""After so many looks, each after a second, the folder is searched for new runs."""


class WatchPane:
    """Follows one run, and shows one that ended.

    Args:
        desk: shared by the panes.
        in_memory: it shows what a program hands over (`show_memory`), not a folder.

    Attributes:
        view: of Panel.
        folder: of the run; ``None``: none was chosen.
    """

    def __init__(self, desk: Desk, *, in_memory: bool = False):
        self.desk = desk
        self._in_memory = in_memory
        self.folder: Path | None = None
        self._log: EventLog | None = None
        self._recipe: dict[str, Any] = {}
        self._images: RunImages | None = None
        self._state = ""
        self._looks = 0
        self._stamp: tuple[Any, ...] = ()
        self._reading = False
        self._settling = False
        self._history = ImageHistory()
        self._build_widgets()
        self.view = self._lay_out()
        if not in_memory:
            self.list_runs()

    def _build_widgets(self) -> None:
        guard = self.desk.attempt
        self.run = pn.widgets.Select(name="Run", options=[CHOOSE], width=340)
        self.status = pn.pane.HTML("", sizing_mode="stretch_width")
        self.follows = pn.widgets.Toggle(name="Update while it runs", value=True)
        self.now = pn.widgets.Button(name="Update now", button_type="default")
        self.export = pn.widgets.FileDownload(
            callback=self._export,
            filename="run.html",
            label="Export as HTML",
            button_type="default",
            width=160,
            disabled=True,
        )
        self.kind = pn.widgets.RadioButtonGroup(name="Image", options=KINDS, value="phase")
        self.slice = pn.widgets.IntSlider(
            name="Slice (0: all)", start=0, end=1, value=0, disabled=True, width=150
        )
        self.epoch = EpochSlider()
        self.contrast = pn.widgets.RangeSlider(
            name="Contrast", start=0.0, end=1.0, value=(0.0, 1.0), step=0.01, width=190
        )
        self.auto = pn.widgets.Button(name="Auto contrast", button_type="default")
        self.object = {
            kind: ImageView(title, colours=COLOURS[kind], values=UNITS[kind], height=460)
            for title, kind in KINDS.items()
        }
        self.picture = pn.pane.Bokeh(self.object["phase"].figure, sizing_mode="stretch_width")
        self.losses = CurvesView(
            "Loss", ("training", "held out"), x="epoch", y="loss", log=True, floor=1.0, height=300
        )
        self.real = ColourView("Probe, real space", height=190)
        self.reciprocal = ColourView("Probe, reciprocal space", height=190)
        self.places = PointsView("Positions and their moves", values="move (nm)", height=340)
        self.patterns = PatternsPart(self.desk)
        self.steer = SteerPart(self.desk)
        self.words = pn.pane.HTML("", sizing_mode="stretch_width")
        self.run.param.watch(guard(lambda event: self._choose_run()), "value")
        self.now.on_click(guard(lambda event: self._update_now()))
        self.auto.on_click(guard(lambda event: self._reset_contrast()))
        self.kind.param.watch(guard(lambda event: self._show_object(anew=True)), "value")
        self.slice.param.watch(guard(lambda event: self._show_object(anew=True)), "value")
        self.epoch.on_choose(guard(self._look_back))
        self.contrast.param.watch(guard(self._change_contrast), "value")
        self.places.on_tap(guard(self._choose_place))
        for one in self.object.values():
            one.follow_zoom()
            one.on_tap(guard(self._choose_place))

    def _lay_out(self) -> Any:
        controls = flow(self.kind, self.slice, self.epoch.slider, self.contrast, self.auto, align_items="end")
        losses = card(
            "Losses, and the verdict as it would be now",
            pn.pane.Bokeh(self.losses.figure, sizing_mode="stretch_width"),
            self.words,
            basis=None,
        )
        side = [self.real.figure, self.reciprocal.figure]
        beside = [losses]
        below = [
            card("Probe", *(pn.pane.Bokeh(one, sizing_mode="stretch_width") for one in side), basis=520),
            card("Positions", pn.pane.Bokeh(self.places.figure, sizing_mode="stretch_width"), basis=420),
        ]
        above: list[Any] = [self.status]
        if not self._in_memory:
            above.insert(0, flow(self.run, self.now, self.export, self.follows, align_items="end"))
            beside.append(
                card("Steer: commands are taken at the end of an epoch", self.steer.view, basis=None)
            )
            below.append(card("Measured against modelled", self.patterns.view, basis=760))
        right = pn.Column(*beside, styles={"flex": "1 1 480px"}, sizing_mode="stretch_width")
        return pn.Column(
            *above,
            flow(card("Object", controls, self.picture, basis=560), right, *below),
            sizing_mode="stretch_width",
        )

    def open(self, folder: Path) -> None:
        """Follow another run."""
        if folder == self.folder:
            self.update(force=True)
            return
        self.folder = folder
        self._log = EventLog(folder)
        self.export.disabled = False
        self._recipe = read_recipe(folder)
        self._images = None
        self._stamp = ()
        self._history = ImageHistory()
        self.patterns.open(folder)
        self.steer.open(folder)
        self.list_runs()
        self.desk.tell("")
        for one in self.object.values():
            one.clear()
        self.update(force=True)

    def show_memory(self, images: RunImages, epochs: list[dict[str, Any]], recipe: dict[str, Any]) -> None:
        """Show a run that is in memory, not in a folder."""
        self._log = EventLog.of(epochs)
        self._recipe = recipe
        self._show_losses()
        self._show(images)
        self._show_status()

    def list_runs(self) -> None:
        """Offer all runs of the folder, the one that is watched among them; the choice stays."""
        self._offer(find_runs(self.desk.root))

    def _offer(self, folders: list[Path]) -> None:
        names = [self.desk.name_of(folder) for folder in folders]
        name = CHOOSE if self.folder is None else self.desk.name_of(self.folder)
        if name not in names:
            names.insert(0, name)
        if names != self.run.options or name != self.run.value:
            self.run.param.update(options=names, value=name)

    def _update_now(self) -> None:
        if self.folder is None:
            raise BadInput("update", None, "needs a run: choose one")
        self.update(force=True)

    def _export(self) -> Any:
        """The run as one file, for the button that downloads it; why there is none, where there is none."""
        assert self.folder is not None  # the button is off until a run is chosen
        try:
            text, ending = write_record(self.folder), "html"
        except (BadInput, OSError) as problem:
            self.desk.fail(problem)
            text, ending = f"{problem}\n", "txt"
        self.export.filename = f"{self.folder.name}.{ending}"
        return io.BytesIO(text.encode())

    def _choose_run(self) -> None:
        if self.run.value != CHOOSE and (folder := self.desk.resolve(self.run.value)) != self.folder:
            self.open(folder)

    def update(self, *, force: bool = False) -> None:
        """Show what is new; called every second while the pane is seen."""
        self._looks += 1
        if self._looks % LOOKS_BETWEEN_LISTS == 0 and not self._in_memory:
            self.desk.background(lambda: find_runs(self.desk.root), self._offer)
        if self.folder is None or self._log is None or not (force or self.follows.value):
            return
        has_news = self._log.read()
        state = describe_state(self._log)
        if has_news or force or state != self._state:
            self._state = state
            self._recipe = read_recipe(self.folder)
            self._show_losses()
            self.steer.update()
        self._show_status()
        self._read_images(force)

    def _read_images(self, force: bool) -> None:
        assert self.folder is not None
        path = find_newest(self.folder)
        if path is None or self._reading:
            return
        status = path.stat()
        stamp = (path.name, status.st_mtime_ns, status.st_size)
        if stamp == self._stamp and not force:
            return
        self._reading = True
        folder = self.folder

        def done(images: RunImages) -> None:
            self._reading = False
            if folder == self.folder:
                self._stamp = stamp
                self._show(images)

        def failed(problem: BaseException) -> None:
            self._reading = False
            self._stamp = stamp
            if not isinstance(problem, BadInput) or "no object of pixels" not in str(problem):
                self.desk.fail(problem)

        self.desk.background(lambda: _prepare(path), done, failed=failed)

    def _show(self, images: RunImages) -> None:
        first = self._images is None
        self._images = images
        self.slice.param.update(
            end=max(images.slices, 1), disabled=images.slices < 2, value=min(self.slice.value, images.slices)
        )
        epoch = int(self._log.last.get("number", 0)) if self._log else 0
        self._history.add(images.epoch if images.epoch is not None else epoch, images.phase())
        self._list_history()
        self._show_object(anew=first)
        self._show_probe(images)
        self._show_places(images)
        self.patterns.set_positions(images.positions)

    def _list_history(self) -> None:
        """The epochs that can be looked back to: images seen, and snapshots that were kept."""
        kept = [] if self.folder is None else list_kept_epochs(self.folder)
        self.epoch.offer(sorted({*self._history.epochs[:-1], *kept}))

    def _look_back(self) -> None:
        """Show an earlier epoch, from a kept snapshot where its image was not seen."""
        epoch = self.epoch.value
        if self.folder is None or epoch is None or self._history.find(epoch):
            self._show_object()
            return
        path = path_of_kept(self.folder, epoch)

        def done(images: RunImages) -> None:
            self._history.add(epoch, images.phase())
            self._show_object()

        self.desk.background(lambda: _prepare(path), done)

    def _show_object(self, *, anew: bool = False) -> None:
        if self._images is None:
            return
        kind = self.kind.value
        view = self.object[kind]
        if self.picture.object is not view.figure:
            self.picture.object = view.figure
        shown = self._find_field(kind)
        if shown is None:
            view.clear()
            view.figure.title.text = "No error bar: it is estimated at the end of a run"
            return
        title = self._title(kind)
        view.show(shown.values, pixel=shown.pixel, corner=shown.corner, title=title)
        if anew:
            view.reset_contrast()
        self._show_contrast(view)

    def _find_field(self, kind: str) -> Field | None:
        assert self._images is not None
        number = self.slice.value - 1 if self.slice.value else None
        if (earlier := self._earlier(kind)) is not None:
            return earlier
        calls = {
            "phase": self._images.phase,
            "amplitude": self._images.amplitude,
            "sigma": self._images.error_bar,
        }
        return calls[kind](number)

    def _earlier(self, kind: str) -> Field | None:
        """The summed phase of the epoch that the slider says; ``None``: the present one is shown."""
        if kind != "phase" or self.slice.value or self.epoch.value is None:
            return None
        return self._history.find(self.epoch.value)

    def _title(self, kind: str) -> str:
        assert self._images is not None
        name = {"phase": "Phase", "amplitude": "Amplitude", "sigma": "Error bar of the phase"}[kind]
        if self._images.slices > 1:
            several = f"all {self._images.slices} slices"
            name += f", slice {self.slice.value}" if self.slice.value else f", {several}"
        if self._earlier(kind) is not None:
            return f"{name}, epoch {self.epoch.value}"
        when = "result" if self._images.epoch is None else f"epoch {self._images.epoch}"
        return f"{name}, {when}"

    def _show_contrast(self, view: ImageView) -> None:
        room = max(view.home[1] - view.home[0], 1e-9)
        low, high = view.home[0] - 0.5 * room, view.home[1] + 0.5 * room
        low, high = min(low, view.span[0]), max(high, view.span[1])
        self._settling = True
        try:
            self.contrast.param.update(start=low, end=high, step=room / 100, value=view.span)
        finally:
            self._settling = False

    def _change_contrast(self, event: Any) -> None:
        if not self._settling:
            self.object[self.kind.value].set_contrast(*event.new)

    def _reset_contrast(self) -> None:
        view = self.object[self.kind.value]
        view.reset_contrast()
        self._show_contrast(view)

    def _show_losses(self) -> None:
        assert self._log is not None
        self.losses.show(self._log.losses)

    def _show_status(self) -> None:
        assert self._log is not None
        state = describe_state(self._log)
        line = describe_progress(self._log, self._recipe, state)
        self.status.object = (
            f'<p role="status" aria-live="polite" style="margin:4px 8px"><b>{_plain(line)}</b></p>'
        )
        verdict = self._images.facts.get("verdict") if self._images and self._images.epoch is None else ""
        verdict = verdict or judge_losses(self._log, self._recipe)
        self.words.object = f"<p style='margin:0'>{_plain(verdict) or 'not yet'}</p>"

    def _show_probe(self, images: RunImages) -> None:
        if images.probe is None:
            self.real.figure.title.text = (
                "Probe: its pixels are not in the snapshot; it comes with the result"
            )
            return
        modes = images.probe[:MAX_PROBE_MODES]
        power = (np.abs(images.probe) ** 2).sum((1, 2))
        order = np.argsort(-power[: len(modes)], kind="stable")
        shares = ", ".join(f"{100 * power[number] / power.sum():.3g} %" for number in order)
        self.real.show(modes[order], f"Real space; modes: {shares}")
        far = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(modes[order], (-2, -1))), (-2, -1))
        self.reciprocal.show(far, "Reciprocal space")

    def _show_places(self, images: RunImages) -> None:
        moves = images.moves()
        length = np.hypot(*moves.T)
        if not moves.any():
            self.places.show(images.positions, length, moves, f"{len(moves)} positions, not moved")
            return
        typical = float(np.sqrt((length**2).mean()))
        spread = float(np.ptp(images.positions, axis=0).max())
        factor = 1.0
        while typical * factor * 2 < 0.01 * spread and typical > 0 and factor < 1e6:
            factor *= 10
        title = f"{len(moves)} positions, moves {show_length(typical)} rms" + (
            f", drawn {factor:g} times as long" if factor > 1 else ""
        )
        self.places.show(images.positions, 0.1 * length, factor * moves, title)

    def _choose_place(self, place: tuple[float, float]) -> None:
        if self._images is None:
            return
        index = int(np.hypot(*(self._images.positions - place).T).argmin())
        where = tuple(self._images.positions[index])
        for view in (*self.object.values(), self.places):
            view.mark([where])
        self.patterns.choose(index)


def _prepare(path: Path) -> RunImages:
    """Images with what takes longest done: read beside the server's thread."""
    images = open_images(path)
    images.phase()
    return images


def _plain(text: str) -> str:
    return html.escape(text)
