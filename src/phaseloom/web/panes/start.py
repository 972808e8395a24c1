"""The pane that starts runs: a form made from the signatures, the file beside it, check, queue."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import panel as pn
import yaml

from phaseloom.errors import BadInput
from phaseloom.spec import Recipe
from phaseloom.web.panes.desk import Desk, card, flow
from phaseloom.web.state import forms
from phaseloom.web.state.forms import FormField, FormSection
from phaseloom.web.state.job_queue import QueuedJob, slurm_script
from phaseloom.web.state.start import (
    PRESETS,
    Order,
    check_file,
    merge_preset,
    prepare_order,
    require_paths_inside,
)

__all__ = ["StartPane"]

FIRST_SECTIONS = {"reconstruct": "probe"}
"""Section that is shown first."""

JOB_COLUMNS = ["job", "state", "device", "command"]


class StartPane:
    """Verb, sections, editor of a section, parameter file, check, queue.

    Attributes:
        view: of Panel.
    """

    def __init__(self, desk: Desk):
        self.desk = desk
        self._tree: dict[str, Any] = {}
        self._recipe: Recipe | None = None
        self._sections: dict[str, FormSection] = {}
        self._settling = False
        self._jobs: list[tuple[Any, ...]] = []
        verbs = list(forms.VERBS_WITH_FORMS)
        self.verb = pn.widgets.Select(name="What to run", options=verbs, value="reconstruct", width=170)
        self.preset = pn.widgets.Select(name="Preset", options=list(PRESETS["reconstruct"]), width=230)
        self.name = pn.widgets.TextInput(
            name="Name of the run", placeholder="letters, digits, - _ .; default: of the data", width=280
        )
        self.searched = pn.widgets.TextInput(
            name="Parameter file that is searched", placeholder="in this folder", visible=False, width=240
        )
        self.section = pn.widgets.Select(name="Settings", size=18, sizing_mode="stretch_width")
        self.editor = pn.Column(sizing_mode="stretch_width")
        self.text = pn.widgets.TextAreaInput(
            name="Parameter file (YAML)",
            height=330,
            sizing_mode="stretch_width",
            max_length=forms.MAX_FORM_BYTES,
        )
        self.problem = pn.pane.HTML("", sizing_mode="stretch_width")
        self.check = pn.widgets.Button(name="Check memory and time", button_type="default", disabled=True)
        self.checked = pn.pane.HTML("", sizing_mode="stretch_width")
        self.run = pn.widgets.Button(name="Run", button_type="success", disabled=True)
        self.slurm = pn.widgets.Button(name="Slurm script", button_type="default", disabled=True)
        self.script = pn.widgets.TextAreaInput(
            name="For sbatch (copy it)", height=120, visible=False, sizing_mode="stretch_width"
        )
        self.jobs = pn.widgets.Tabulator(
            pd.DataFrame(columns=pd.Index(JOB_COLUMNS)),
            disabled=True,
            show_index=False,
            selectable=1,
            sizing_mode="stretch_width",
            layout="fit_data_stretch",
        )
        self.cancel = pn.widgets.Button(name="Cancel job", button_type="warning", disabled=True)
        self.watch = pn.widgets.Button(name="Watch job", button_type="primary", disabled=True)
        self.log = pn.pane.Str("", sizing_mode="stretch_width", styles={"white-space": "pre-wrap"})
        self._watch_widgets()
        self.view: Any = pn.Column(
            flow(self.verb, self.preset, self.name, self.searched, align_items="end"),
            flow(
                card("Section", self.section, basis=200),
                card("Its settings", self.editor, basis=380),
                card(
                    "File and run",
                    self.text,
                    self.problem,
                    flow(self.check, self.run, self.slurm),
                    self.checked,
                    self.script,
                    basis=420,
                ),
            ),
            card("Jobs of this machine", self.jobs, flow(self.watch, self.cancel), self.log),
            sizing_mode="stretch_width",
        )
        self._choose_verb()

    def _watch_widgets(self) -> None:
        guard = self.desk.attempt
        self.verb.param.watch(guard(lambda event: self._choose_verb()), "value")
        self.preset.param.watch(guard(lambda event: self._take_preset()), "value")
        self.section.param.watch(guard(lambda event: self._show_section()), "value")
        self.text.param.watch(guard(lambda event: self._take_text()), "value")
        self.searched.param.watch(guard(lambda event: self._validate()), "value")
        self.check.on_click(guard(lambda event: self._check()))
        self.run.on_click(guard(lambda event: self._run()))
        self.slurm.on_click(guard(lambda event: self._write_script()))
        self.jobs.param.watch(guard(lambda event: self._choose_job()), "selection")
        self.cancel.on_click(guard(lambda event: self.desk.queue.cancel(self._chosen_job().number)))
        self.watch.on_click(guard(lambda event: self._watch_job()))

    def take_file(self, file: Path) -> None:
        """Begin a form with a data file."""
        self.verb.value = "reconstruct"
        self._take_tree(forms.set_value(self._tree, str(file), "file"))
        self.section.value = FIRST_SECTIONS["reconstruct"]

    def update(self) -> None:
        """Show how the jobs are; called every second while the pane is seen."""
        rows = [(job.number, job.state, job.device, " ".join(job.words)) for job in self.desk.queue.jobs]
        if rows != self._jobs:
            self._jobs = rows
            self.jobs.value = pd.DataFrame(rows, columns=pd.Index(JOB_COLUMNS))
            self._choose_job()
        if self.jobs.selection:
            job = self._chosen_job()
            self.log.object = job.read_log()
            self.watch.disabled = not (job.folder / "run.yaml").is_file()

    def _choose_verb(self) -> None:
        verb = self.verb.value
        self._sections = {one.name: one for one in forms.list_sections(verb)}
        self._settling = True
        self.preset.options = list(PRESETS.get(verb, {"Defaults": {}}))
        self.searched.visible = verb == "search"
        first = FIRST_SECTIONS.get(verb, next(iter(self._sections)))
        self.section.param.update(options=list(self._sections), value=first)
        self._settling = False
        known = {name: value for name, value in self._tree.items() if name in self._sections}
        self._take_tree({name: value for name, value in known.items() if name in ("file", "read", "prepare")})
        self._show_section()

    def _take_preset(self) -> None:
        if not self._settling:
            chosen = PRESETS.get(self.verb.value, {}).get(self.preset.value, {})
            self._take_tree(merge_preset(self._tree, chosen))
            self._show_section()

    def _take_text(self) -> None:
        if self._settling:
            return
        try:
            self._tree = forms.load_tree(self.text.value)
        except BadInput as problem:
            self._refuse(problem)
            return
        self._validate()
        self._show_section()

    def _take_tree(self, tree: Mapping[str, Any]) -> None:
        self._tree = dict(tree)
        self._settling = True
        self.text.value = forms.show_tree(self._tree)
        self._settling = False
        self._validate()

    def _validate(self) -> None:
        self.checked.object = ""
        self.script.visible = False
        try:
            _, self._recipe = forms.parse_form(forms.show_tree(self._tree), self.verb.value, self.desk.root)
            require_paths_inside(self.desk.root, self._recipe)
        except BadInput as problem:
            self._refuse(problem)
            return
        missing = self._find_missing()
        ready = not missing
        checked = "; Check memory and time tries them on the data" if self.verb.value == "reconstruct" else ""
        good = f"the form is complete{checked}"
        colour = "#1a7f37" if ready else "#9a6700"
        self.problem.object = f"<p role='status' style='color:{colour};margin:2px'>{missing or good}</p>"
        self.run.disabled = self.slurm.disabled = not ready
        self.check.disabled = not (ready and self.verb.value == "reconstruct")

    def _find_missing(self) -> str:
        """What has to be given before anything can run; empty: nothing."""
        if "file" in self._sections and "file" not in self._tree:
            return "choose a data file: in Files, or in the section file"
        file = getattr(self._recipe, "file", None)
        if "file" in self._sections and file is not None and not (self.desk.root / file).exists():
            return f"{html.escape(str(file))} does not exist: choose another data file"
        if self.verb.value == "search" and not self._tree.get("over"):
            return "name the settings that are searched, and between which values: in the section over"
        if self.verb.value == "search" and not self.searched.value.strip():
            return "name the parameter file that is searched"
        return ""

    def _refuse(self, problem: BadInput) -> None:
        self._recipe = None
        self.run.disabled = self.slurm.disabled = self.check.disabled = True
        self.problem.object = (
            f"<p role='alert' style='color:#cf222e;margin:2px'>{html.escape(str(problem))}</p>"
        )

    def _show_section(self) -> None:
        if self._settling:
            return
        section = self._sections[self.section.value]
        about = pn.pane.HTML(f"<p style='margin:2px'>{html.escape(section.help)}</p>")
        if section.field is not None:
            value = self._tree.get(section.name)
            self.editor.objects = [about, *self._widget(section.field, value, (section.name,))]
        elif section.many:
            self.editor.objects = [about, *self._list_widgets(section)]
        else:
            self.editor.objects = [about, *self._call_widgets(section)]

    def _call_widgets(self, section: FormSection) -> list[Any]:
        node = self._tree.get(section.name)
        chosen = _name_of_node(node)
        usual = f"default ({section.default})" if section.default else "default"
        options = {usual: "", **{name: name for name in section.choices}}
        choice = pn.widgets.Select(name=f"{section.name}: choice", options=options, value=chosen)
        choice.param.watch(self.desk.attempt(lambda event: self._choose_call(section, event.new)), "value")
        name = chosen or section.default
        widgets: list[Any] = [choice]
        if name in section.choices:
            for one in forms.list_knobs(section.room, name):
                value = forms.get_value(self._tree, section.name, name, one.name)
                widgets += self._widget(one, value, (section.name, name, one.name))
        return widgets

    def _choose_call(self, section: FormSection, name: str) -> None:
        self._take_tree(forms.set_value(self._tree, name or None, section.name))
        self._show_section()

    def _list_widgets(self, section: FormSection) -> list[Any]:
        value = self._tree.get(section.name)
        field = FormField(
            section.name, "text", [], help="a list, such as [positive, {orthogonal: {}, every: 10}]"
        )
        add = pn.widgets.Select(
            name="Add", options={"choose one": "", **{n: n for n in section.choices}}, value=""
        )

        def append(name: str) -> None:
            if name:
                present = self._tree.get(section.name) or []
                present = present if isinstance(present, list) else [present]
                self._take_tree(forms.set_value(self._tree, [*present, name], section.name))
                self._show_section()

        add.param.watch(self.desk.attempt(lambda event: append(event.new)), "value")
        return [*self._widget(field, value, (section.name,)), add]

    def _widget(self, one: FormField, value: Any, path: tuple[str, ...]) -> list[Any]:
        """The widget of a value, with unit, range and default, and its help below."""
        default = "" if one.default in (None, "", [], {}) else _to_line(one.default)
        label = f"{one.name}{' (required)' if one.required else ''}"

        def change(new: Any) -> None:
            self._take_tree(forms.set_value(self._tree, new, *path))

        if one.kind == "text":
            hints = [f"default {default}"] if default else []
            hints += [f"a number and one of {one.unit}"] if one.unit else []
            shown = "" if value is None else _to_line(value)
            widget: Any = pn.widgets.TextInput(
                name=label, value=shown, placeholder="; ".join(hints), sizing_mode="stretch_width"
            )
            widget.param.watch(self.desk.attempt(lambda event: change(_from_line(event.new))), "value")
        else:
            names = ("true", "false") if one.kind == "boolean" else one.choices
            usual = f"default ({default.lower() or 'open'})"
            options = {usual: "", **{name: name for name in names}}
            shown = "" if value is None else str(value).lower() if one.kind == "boolean" else str(value)
            widget = pn.widgets.Select(
                name=label, options=options, value=shown if shown in options.values() else ""
            )
            widget.param.watch(self.desk.attempt(lambda event: change(_from_line(event.new))), "value")
        notes = "; ".join(part for part in (one.help, one.range) if part)
        style = "margin:0 10px 6px 10px;color:#57606a;font-size:0.85em"
        return [widget, *([pn.pane.HTML(f"<p style='{style}'>{html.escape(notes)}</p>")] if notes else [])]

    def _order(self) -> Order:
        if self._recipe is None:
            raise BadInput("form", None, "has a setting that is refused: see the message below the file")
        text = forms.show_tree(self._tree)
        return prepare_order(
            self.desk.root,
            self.verb.value,
            self._recipe,
            text,
            name=self.name.value,
            extra=self.searched.value,
        )

    def _check(self) -> None:
        order = self._order()
        self.checked.object = "<p role='status'>reading the data and trying a few batches ...</p>"
        self.check.disabled = True

        def done(found: tuple[list[tuple[str, str]], list[str]]) -> None:
            self.check.disabled = False
            facts, warnings = found
            rows = "".join(f"<tr><td>{html.escape(n)}</td><td>{html.escape(v)}</td></tr>" for n, v in facts)
            items = "".join(f"<li style='color:#9a6700'>{html.escape(one)}</li>" for one in warnings)
            self.checked.object = f"<table aria-label='needs of the run'>{rows}</table><ul>{items}</ul>"

        def failed(problem: BaseException) -> None:
            self.check.disabled = False
            self.checked.object = f"<p role='alert' style='color:#cf222e'>{html.escape(str(problem))}</p>"

        def work() -> tuple[list[tuple[str, str]], list[str]]:
            try:
                return check_file(order.parameters)
            finally:
                order.parameters.unlink(missing_ok=True)

        self.desk.background(work, done, failed=failed)

    def _run(self) -> None:
        order = self._order()
        job = self.desk.queue.add(order.words, order.folder, device=_device_of(self._recipe))
        self.desk.tell(f"job {job.number} is {job.state}: {self.desk.name_of(order.folder)}", kind="success")
        self.update()
        self.jobs.selection = [len(self._jobs) - 1]

    def _write_script(self) -> None:
        order = self._order()
        name = order.folder.name[16:] or "phaseloom"
        gpu = _device_of(self._recipe) == "cuda"
        self.script.param.update(
            value=slurm_script(order.words, self.desk.root, name=name, gpu=gpu), visible=True
        )

    def _chosen_job(self) -> QueuedJob:
        if not self.jobs.selection:
            raise BadInput("jobs", None, "none is chosen: click one in the table")
        return self.desk.queue.find(self._jobs[self.jobs.selection[0]][0])

    def _choose_job(self) -> None:
        chosen = self._chosen_job() if self.jobs.selection else None
        self.watch.disabled = chosen is None or not (chosen.folder / "run.yaml").is_file()
        self.cancel.disabled = chosen is None or chosen.state not in ("waiting", "running")
        self.log.object = "" if chosen is None else chosen.read_log()

    def _watch_job(self) -> None:
        self.desk.open_run(self._chosen_job().folder)


def _name_of_node(node: Any) -> str:
    """The choice that a node of a parameter file makes."""
    if isinstance(node, Mapping):
        return next((str(key) for key in node if key not in ("start", "stop", "every")), "")
    return "" if node is None else str(node)


def _to_line(value: Any) -> str:
    """A value as YAML in one line."""
    if isinstance(value, str):
        return value
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).strip().removesuffix("...").strip()


def _from_line(text: str) -> Any:
    """A typed value; nothing: ``None``."""
    if not text.strip():
        return None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _device_of(recipe: Any) -> str:
    """The device on which a job would run alone."""
    asked = getattr(recipe, "device", "cpu")
    if asked != "auto":
        return asked
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
