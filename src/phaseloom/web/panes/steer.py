"""The part that sends commands to a run and shows its answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import panel as pn

from phaseloom.errors import BadInput
from phaseloom.reconstruction.recipe import PARTS
from phaseloom.reconstruction.steering.branch import branch_run
from phaseloom.runs.control import send_command
from phaseloom.runs.folder import list_kept_epochs
from phaseloom.runs.state import require_not_ended
from phaseloom.web.panes.desk import Desk, flow
from phaseloom.web.paths import name_folder
from phaseloom.web.state.catalogue import read_recipe
from phaseloom.web.state.commands import CommandRow, list_commands, list_settings
from phaseloom.web.state.forms import load_tree

__all__ = ["SteerPart"]

PLAIN = {"Pause": "pause", "Resume": "resume", "Stop after this epoch": "stop", "Save now": "save"}
LAST = "last"
CHOOSE = "choose one"
COLUMNS = ["time", "command", "answer", "epoch", "what follows"]


class SteerPart:
    """Buttons of all commands; each is taken at the end of an epoch and answered in a table.

    Attributes:
        view: of Panel.
    """

    def __init__(self, desk: Desk):
        self.desk = desk
        self._folder: Path | None = None
        self._rows: list[CommandRow] = []
        guard = desk.attempt
        kinds = {"pause": "warning", "stop": "danger"}
        plain = []
        for name, command in PLAIN.items():
            button = pn.widgets.Button(name=name, button_type=kinds.get(command, "default"))
            button.on_click(guard(lambda event, command=command: self._send(command)))
            plain.append(button)
        self.known = pn.widgets.Select(name="Known settings", options={CHOOSE: ""}, value="", width=130)
        self.path = pn.widgets.TextInput(name="Setting", placeholder="rates.object", width=150)
        self.value = pn.widgets.TextInput(name="New value", placeholder="0.1", width=80)
        self.change = pn.widgets.Button(name="Change", button_type="primary")
        self.part = pn.widgets.Select(name="Part", options=list(PARTS), value="probe", width=150)
        self.on = pn.widgets.Button(name="Switch on")
        self.off = pn.widgets.Button(name="Switch off")
        self.epoch = pn.widgets.Select(name="Kept epoch", options=[LAST], width=110)
        self.back = pn.widgets.Button(name="Go back to it", button_type="warning")
        self.branch_name = pn.widgets.TextInput(
            name="New run", placeholder="letters, digits, - _ .", width=170
        )
        self.branch_settings = pn.widgets.TextInput(
            name="Its changes (YAML)", placeholder="{rates.object: 0.1, epochs: 60}", width=260
        )
        self.here = pn.widgets.Toggle(name="run it on this machine", value=True)
        self.branch = pn.widgets.Button(name="Branch", button_type="primary")
        self.answers = pn.widgets.Tabulator(
            pd.DataFrame(columns=pd.Index(COLUMNS)),
            disabled=True,
            show_index=False,
            sizing_mode="stretch_width",
            layout="fit_columns",
            formatters={"command": "textarea", "answer": "textarea", "what follows": "textarea"},
            widths={"time": 75, "command": "24%", "answer": "16%", "epoch": 65},
            pagination="local",
            page_size=8,
        )
        self.known.param.watch(guard(lambda event: self._take_known()), "value")
        self.change.on_click(guard(lambda event: self._change()))
        self.on.on_click(guard(lambda event: self._send("on", name=self.part.value)))
        self.off.on_click(guard(lambda event: self._send("off", name=self.part.value)))
        self.back.on_click(guard(lambda event: self._go_back()))
        self.branch.on_click(guard(lambda event: self._branch()))
        self.view: Any = pn.Column(
            flow(*plain),
            flow(self.known, self.path, self.value, self.change, align_items="end"),
            flow(self.part, self.on, self.off, align_items="end"),
            flow(self.epoch, self.back, self.branch_name, self.branch_settings, align_items="end"),
            flow(self.branch, self.here, align_items="end"),
            self.answers,
            sizing_mode="stretch_width",
        )

    def open(self, folder: Path) -> None:
        """Steer another run."""
        self._folder = folder
        self._rows = []
        self.known.param.update(
            options={CHOOSE: "", **{path: path for path in list_settings(read_recipe(folder))}}, value=""
        )
        self.answers.value = pd.DataFrame(columns=pd.Index(COLUMNS))
        self.update()

    def update(self) -> None:
        """Show what was answered."""
        if self._folder is None:
            return
        kept = [LAST, *map(str, list_kept_epochs(self._folder))]
        if kept != self.epoch.options:
            self.epoch.options = kept
        rows = list_commands(self._folder)
        if rows != self._rows:
            self._rows = rows
            table = [(one.time, one.text, one.answer, one.epoch, one.reason) for one in reversed(rows)]
            self.answers.value = pd.DataFrame(table, columns=pd.Index(COLUMNS))

    def _send(self, command: str, settings: Any = None, **more: Any) -> None:
        if self._folder is None:
            raise BadInput("steer", None, "needs a run: choose one")
        require_not_ended(self._folder, command)
        send_command(self._folder, command, settings, **more)
        self.update()

    def _change(self) -> None:
        path = self.path.value.strip()
        if not path or not self.value.value.strip():
            raise BadInput("change", None, "needs a setting and its value, such as rates.object and 0.1")
        self._send("set", {path: load_tree(f"value: {self.value.value}")["value"]})

    def _take_known(self) -> None:
        """Write a setting that was chosen where settings are typed: what is sent is what stands there."""
        if self.known.value:
            self.path.value = self.known.value
            self.known.value = ""

    def _go_back(self) -> None:
        if self.epoch.value == LAST:
            fix = "needs an epoch whose snapshot was kept: Save now keeps one, as do snapshots of the recipe"
            raise BadInput("back", None, fix)
        self._send("back", epoch=int(self.epoch.value))

    def _branch(self) -> None:
        """Make a new run from a snapshot: the run itself is left alone, ended or not."""
        name = name_folder(self.branch_name.value)
        if self._folder is None:
            raise BadInput("branch", None, "needs a run: choose one")
        if not name:
            fix = "is not the name of a new folder: use letters, digits, -, _ and ."
            raise BadInput("branch", self.branch_name.value.strip() or None, fix)
        settings = load_tree(self.branch_settings.value)
        epoch = None if self.epoch.value == LAST else int(self.epoch.value)
        made = branch_run(self._folder, self._folder.with_name(name), settings, epoch=epoch)
        words = ["reconstruct", "--resume", str(made), "--quiet"]
        if self.here.value:
            job = self.desk.queue.add(words, made)
            self.desk.tell(f"job {job.number} is {job.state}: {self.desk.name_of(made)}", kind="success")
        else:
            self.desk.tell(f"run it with: phaseloom {' '.join(words[:3])}", kind="success")
