"""The runs of a folder: what each is, how far it came, what it found, without opening its arrays."""

import csv
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py

from phaseloom.documents import load_yaml
from phaseloom.errors import BadInput
from phaseloom.files import LOCK_NAME
from phaseloom.runs.lock import Holder
from phaseloom.runs.state import RunStatus, find_state
from phaseloom.web.state.events import EventLog
from phaseloom.web.state.notes import Notes, read_notes
from phaseloom.web.state.progress import find_epochs

__all__ = ["RunFacts", "RunKind", "find_runs", "find_runs_and_searches", "find_time_of_change", "is_run"]
__all__ += ["is_search", "read_facts", "read_recipe"]

MAX_RUNS = 500
MAX_DEPTH = 6
MAX_FOLDERS = 20_000
"""Folders that are looked into: a page on a home folder must not walk through all of a file system."""

RunKind = str
"""``reconstruction``, ``search``, ``training`` or another verb's name."""


@dataclass(frozen=True)
class RunFacts:
    """A run in a line.

    Attributes:
        folder: of the run.
        kind: see `RunKind`.
        title: of its recipe, or the name of its folder.
        state: see `phaseloom.runs.state.RunStatus`.
        epoch, epochs: done, and asked for.
        loss, holdout: of the last epoch that has them.
        verdict: its code, of the result or the last epoch.
        metrics: numbers of the result.
        seconds: of all epochs together.
        changed: time of the last change, seconds since 1970.
        notes: what the user wrote.
    """

    folder: Path
    kind: RunKind
    title: str
    state: str = ""
    epoch: int = 0
    epochs: int | None = None
    loss: float | None = None
    holdout: float | None = None
    verdict: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    changed: float = 0.0
    notes: Notes = field(default_factory=Notes)


def find_runs(root: Path, /) -> list[Path]:
    """Folders of runs below a root, the newest first; links are not followed."""
    return [folder for folder in find_runs_and_searches(root) if is_run(folder)]


def find_runs_and_searches(root: Path, /) -> list[Path]:
    """The same with the folders of searches, whose trials are runs themselves."""
    found = list(_walk(root, MAX_DEPTH, [MAX_FOLDERS]))
    return sorted(found, key=find_time_of_change, reverse=True)[:MAX_RUNS]


def _walk(folder: Path, depth: int, budget: list[int]) -> Iterator[Path]:
    budget[0] -= 1
    if budget[0] < 0:
        return
    if is_run(folder) or is_search(folder):
        yield folder
    if depth == 0:
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), depth - 1, budget)


def is_run(folder: Path, /) -> bool:
    """Whether a folder holds a run: a recipe, and what a run leaves besides."""
    left = ("events.jsonl", "result.h5", "snapshot.h5")
    return (folder / "run.yaml").is_file() and any((folder / name).is_file() for name in left)


def is_search(folder: Path, /) -> bool:
    """Whether a folder holds a search: what is searched, and how."""
    return all((folder / name).is_file() for name in ("search.yaml", "base.yaml"))


def find_time_of_change(folder: Path, /) -> float:
    """When a run or a search was written to the last time, seconds of the epoch."""
    times = [
        _mtime(folder / name)
        for name in ("events.jsonl", "result.h5", "snapshot.h5", "run.yaml", "search.yaml", "trials.csv")
    ]
    return max(times)


def _mtime(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def read_recipe(folder: Path, /) -> dict[str, Any]:
    """The tree of the recipe of a run; empty where it cannot be read."""
    try:
        return load_yaml(folder / "run.yaml")
    except BadInput:
        return {}


def read_facts(folder: Path, log: EventLog | None = None, /) -> RunFacts:
    """A run in a line.

    Args:
        folder: of the run.
        log: its events, where somebody reads them already.
    """
    if is_search(folder):
        return _read_search(folder)
    log = log or EventLog(folder)
    log.read()
    recipe = read_recipe(folder)
    result = _read_result(folder / "result.h5")
    last = log.last
    held = [epoch["holdout"] for epoch in log.epochs if epoch.get("holdout") is not None]
    return RunFacts(
        folder=folder,
        kind=_find_kind(folder, recipe),
        title=str(recipe.get("title") or folder.name),
        state=describe_state(log),
        epoch=int(last.get("number", 0)),
        epochs=find_epochs(recipe),
        loss=last.get("loss"),
        holdout=held[-1] if held else None,
        verdict=result.get("verdict_code") or str(last.get("verdict", "")),
        metrics=result.get("metrics", {}),
        seconds=sum(float(epoch.get("seconds") or 0) for epoch in log.epochs),
        changed=find_time_of_change(folder),
        notes=read_notes(folder),
    )


def describe_state(log: EventLog, /) -> RunStatus:
    """Whether a run goes on, as its events, the time of the last one and its lock tell."""
    return find_state(log.path.parent, log.events)


def _read_search(folder: Path) -> RunFacts:
    """A search in a line: its trials are counted as epochs are, and its loss is the best value."""
    try:
        tree = load_yaml(folder / "search.yaml")
    except BadInput:
        tree = {}
    rows = _read_trials(folder / "trials.csv")
    values = [float(row["value"]) for row in rows if row["value"]]
    asked = tree.get("trials")
    return RunFacts(
        folder=folder,
        kind="search",
        title=str(tree.get("title") or folder.name),
        state=_state_of_search(folder),
        epoch=len(rows) or sum(1 for _ in folder.glob("trials/*/run.yaml")),
        epochs=asked if isinstance(asked, int) else None,
        loss=min(values, default=None),
        seconds=sum(float(row["seconds"]) for row in rows),
        changed=find_time_of_change(folder),
        notes=read_notes(folder),
    )


def _state_of_search(folder: Path) -> RunStatus:
    """How a search stands: its table is written when it ends."""
    holder = Holder.read(folder / LOCK_NAME)
    if holder is not None:
        return RunStatus.KILLED if holder.is_dead else RunStatus.RUNNING
    return RunStatus.ENDED if (folder / "trials.csv").is_file() else RunStatus.STOPPED


def _read_trials(path: Path) -> list[dict[str, str]]:
    """Value and seconds of the trials of a search; none before its end, or where the table is damaged."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
            seconds = header.index("seconds")
            found = [{"value": row[3], "seconds": row[seconds]} for row in rows if row[0] == "trials"]
            _ = [float(value or 0) for row in found for value in row.values()]
            return found
    except (OSError, ValueError, IndexError):
        return []


def _find_kind(folder: Path, recipe: Mapping[str, Any]) -> RunKind:
    from phaseloom.cli.describe import find_owner

    if not recipe:
        return "unreadable"
    try:
        owner = find_owner(recipe)
    except BadInput:
        owner = None
    if owner is None:
        return "reconstruction"
    return "training" if owner[0] in ("train", "autoencoder", "restorer") else owner[0]


def _read_result(path: Path) -> dict[str, Any]:
    """Verdict and numbers of a result; empty where there is none."""
    try:
        with h5py.File(path) as file:
            metrics = json.loads(str(file["metrics"].asstr()[()]))  # pyright: ignore[reportAttributeAccessIssue]
            code = str(file.attrs.get("verdict_code", ""))
            return {"verdict_code": code, "verdict": str(file.attrs.get("verdict", "")), "metrics": metrics}
    except (OSError, KeyError, ValueError, AttributeError):
        return {}
