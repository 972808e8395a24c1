"""The pane with all runs of the folder."""

from __future__ import annotations

import datetime
import html
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import panel as pn

from phaseloom.errors import BadInput
from phaseloom.runs.state import RunStatus
from phaseloom.web.panes.desk import Desk, card, flow
from phaseloom.web.panes.training import TrainingPart
from phaseloom.web.state.catalogue import (
    RunFacts,
    find_runs_and_searches,
    find_time_of_change,
    read_facts,
)
from phaseloom.web.state.notes import Notes, read_notes, save_notes, split_tags
from phaseloom.web.state.progress import describe_duration
from phaseloom.web.state.thumbnails import ThumbnailCache

__all__ = ["CataloguePane"]

COLUMNS = [
    "image",
    "run",
    "title",
    "kind",
    "state",
    "epoch",
    "loss",
    "held out",
    "verdict",
    "time",
    "changed",
]
COLUMNS += ["tags"]

CACHE = ThumbnailCache()

SECONDS_BETWEEN_LISTS = 5.0


class CataloguePane:
    """A table of runs: thumbnail, state, numbers, tags; the chosen ones can be watched, compared, annotated.

    Attributes:
        view: of Panel.
    """

    def __init__(self, desk: Desk):
        self.desk = desk
        guard = desk.attempt
        self._facts: list[RunFacts] = []
        self._shown: list[RunFacts] = []
        self._pictures: dict[Path, str] = {}
        self._known: dict[Path, RunFacts] = {}
        self._rows: list[dict[str, Any]] = []
        self._annotated: Path | None = None
        self._listed = 0.0
        self._busy = False
        self.refresh = pn.widgets.Button(name="List again", button_type="default")
        self.filter = pn.widgets.TextInput(
            name="Only runs with", placeholder="part of a name, a tag, a verdict"
        )
        self.table = pn.widgets.Tabulator(
            pd.DataFrame(columns=pd.Index(COLUMNS)),
            disabled=True,
            show_index=False,
            selectable="checkbox",
            formatters={"image": {"type": "html"}},
            sizing_mode="stretch_width",
            pagination="local",
            page_size=25,
            layout="fit_data_stretch",
        )
        self.watch = pn.widgets.Button(name="Watch", button_type="primary", disabled=True)
        self.compare = pn.widgets.Button(name="Compare", button_type="primary", disabled=True)
        self.tags = pn.widgets.TextInput(name="Tags, separated by commas")
        self.text = pn.widgets.TextAreaInput(name="Notes", height=90, sizing_mode="stretch_width")
        self.save = pn.widgets.Button(name="Save tags and notes", disabled=True)
        self.training = TrainingPart(desk)
        self.refresh.on_click(guard(lambda event: self.list_runs()))
        self.filter.param.watch(guard(lambda event: self._fill()), "value")
        self.table.param.watch(guard(lambda event: self._choose()), "selection")
        self.watch.on_click(guard(lambda event: desk.open_run(self._chosen()[0])))
        self.compare.on_click(guard(lambda event: desk.compare(self._chosen_runs())))
        self.save.on_click(guard(lambda event: self._save()))
        self.view = pn.Column(
            flow(self.filter, self.refresh, self.watch, self.compare, align_items="end"),
            self.table,
            flow(
                card("Tags and notes of the chosen run", self.tags, self.text, self.save),
                card("What the chosen run left", self.training.view, basis=560),
                sizing_mode="stretch_width",
            ),
            sizing_mode="stretch_width",
        )
        self.list_runs()

    def update(self) -> None:
        """List the runs again, now and then, while the table is looked at."""
        if time.monotonic() - self._listed > SECONDS_BETWEEN_LISTS:
            self.list_runs()

    def list_runs(self) -> None:
        """Read what has changed in the folder since the last time."""
        if self._busy:
            return
        self._busy = True
        self._listed = time.monotonic()

        def work() -> list[tuple[RunFacts, str]]:
            facts = [self._read_facts(folder) for folder in find_runs_and_searches(self.desk.root)]
            return [(one, CACHE.get(one.folder) if one.kind == "reconstruction" else "") for one in facts]

        def done(found: list[tuple[RunFacts, str]]) -> None:
            self._busy = False
            self._facts = [one for one, _ in found]
            self._known = {one.folder: one for one in self._facts}
            self._pictures = {one.folder: picture for one, picture in found}
            self._fill()
            if not found and not self._rows:
                self.desk.tell("no runs in this folder yet: look at a file, or start one")

        def failed(problem: BaseException) -> None:
            self._busy = False
            self.desk.fail(problem)

        self.desk.background(work, done, failed=failed)

    def _read_facts(self, folder: Path) -> RunFacts:
        """A run in a line, as it was read before where it has ended and nothing was written since."""
        known = self._known.get(folder)
        has_changed = known is None or known.changed != find_time_of_change(folder)
        if known is None or has_changed or known.state is not RunStatus.ENDED:
            return read_facts(folder)
        return known if known.notes == (notes := read_notes(folder)) else replace(known, notes=notes)

    def _fill(self) -> None:
        """Put the rows that are wanted into the table, where they are others; what is ticked stays so."""
        wanted = self.filter.value.strip().lower()
        rows = [self._row(one) for one in self._facts]
        texts = [
            " ".join(str(value) for name, value in row.items() if name != "image").lower() for row in rows
        ]
        chosen = [row for row, text in zip(rows, texts, strict=True) if wanted in text]
        if chosen == self._rows:
            return
        ticked = {self._shown[number].folder for number in self.table.selection if number < len(self._shown)}
        self._rows = chosen
        self._shown = [one for one, text in zip(self._facts, texts, strict=True) if wanted in text]
        self.table.value = pd.DataFrame(chosen, columns=pd.Index(COLUMNS))
        self.table.selection = [n for n, one in enumerate(self._shown) if one.folder in ticked]

    def _row(self, one: RunFacts) -> dict[str, Any]:
        picture = self._pictures.get(one.folder, "")
        name = self.desk.name_of(one.folder)
        label = html.escape(f"phase of {name}", quote=True)
        return {
            "image": f'<img alt="{label}" height="56" src="{picture}">' if picture else "",
            "run": name,
            "title": one.title,
            "kind": one.kind,
            "state": one.state,
            "epoch": _count(one),
            "loss": _round(one.loss),
            "held out": _round(one.holdout),
            "verdict": one.verdict.replace("_", " "),
            "time": describe_duration(one.seconds),
            "changed": f"{datetime.datetime.fromtimestamp(one.changed):%Y-%m-%d %H:%M}",
            "tags": ", ".join(one.notes.tags),
        }

    def _chosen(self) -> list[Path]:
        folders = [self._shown[number].folder for number in self.table.selection if number < len(self._shown)]
        if not folders:
            raise BadInput("runs", None, "none is chosen: tick one in the table")
        return folders

    def _chosen_runs(self) -> list[Path]:
        """The chosen ones without searches, which have no images of their own."""
        searches = {one.folder for one in self._facts if one.kind == "search"}
        return [folder for folder in self._chosen() if folder not in searches]

    def _choose(self) -> None:
        count = len(self.table.selection)
        runs = self._chosen_runs() if count else []
        self.save.disabled = count != 1
        self.watch.disabled = count != 1 or not runs
        self.compare.disabled = len(runs) < 2
        folder = self._chosen()[0] if count == 1 else None
        if folder is not None and folder != self._annotated:
            notes = read_notes(folder)
            self.tags.value = ", ".join(notes.tags)
            self.text.value = notes.text
            self.training.open(folder)
        self._annotated = folder

    def _save(self) -> None:
        folder = self._chosen()[0]
        save_notes(folder, Notes(tuple(split_tags(self.tags.value)), self.text.value))
        self.desk.tell(f"saved: {self.desk.name_of(folder)}/notes.yaml", kind="success")
        self.list_runs()


def _count(one: RunFacts) -> str:
    """Epochs of a run, or trials of a search."""
    text = f"{one.epoch} of {one.epochs}" if one.epochs else str(one.epoch)
    return f"{text} trials" if one.kind == "search" else text


def _round(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(f"{value:.4g}")
