"""What every run leaves in its folder: its recipe, a line for each epoch, the last snapshot and kept ones."""

import json
import os
import shutil
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from phaseloom.errors import BadInput
from phaseloom.files import append_text, whole, write_text
from phaseloom.fitting import checkpoint
from phaseloom.fitting.distributed import team
from phaseloom.runs.control import Answer, require_run_folder
from phaseloom.runs.lock import OutputLock
from phaseloom.spec import Recipe

__all__ = [
    "EVENTS_NAME",
    "SNAPSHOT_NAME",
    "append_event",
    "find_snapshot",
    "forget_snapshots_after",
    "keep_snapshot",
    "list_kept_epochs",
    "lock_run",
    "path_of_kept",
    "save_events",
    "save_recipe",
    "split_kept_path",
]

EVENTS_NAME, SNAPSHOT_NAME = "events.jsonl", "snapshot.h5"

MAX_SHOWN = 80
"""Characters of a setting that a sentence repeats."""


def save_recipe(recipe: Recipe, folder: Path, /, *, name: str = "run.yaml") -> Path:
    """The parameter file of a run, never half of it; its folder is made."""
    write_text(folder / name, recipe.to_text())
    return folder / name


def save_events(events: Iterable[Any], folder: Path, /, *, answers: Sequence[Answer] = ()) -> None:
    """Write ``events.jsonl`` anew: a killed run may have left half a line.

    Args:
        events: of the epochs, in order.
        folder: of the run.
        answers: to commands, which stand behind the line of the epoch that they came after.
    """
    waiting = deque(answers)
    lines = list[Any]()
    for event in events:
        while waiting and waiting[0].epoch < event["number"]:
            lines.append(waiting.popleft().to_event())
        lines.append(event)
    lines += [answer.to_event() for answer in waiting]
    write_text(folder / EVENTS_NAME, "".join(json.dumps(line) + "\n" for line in lines))


def append_event(event: Any, folder: Path, /) -> None:
    """Add the line of an epoch to ``events.jsonl``."""
    append_text(folder / EVENTS_NAME, json.dumps(event) + "\n")


def lock_run(folder: Path, /) -> OutputLock | None:
    """The lock of a run to go on with, in the one of several processes that writes.

    Raises:
        BadInput: no run there, or one that another process works on.
    """
    require_run_folder(folder)
    return OutputLock(folder) if team().is_main else None


def find_snapshot(folder: Path, settings: Mapping[str, Any], /) -> Path | None:
    """The snapshot to go on from; ``None`` of a run that ended in its first epoch.

    Args:
        folder: of the run.
        settings: of its parameter file, as a JSON tree; those that the snapshot holds too must be the same.

    Raises:
        BadInput: a snapshot that is lost, or of a run with other settings.
    """
    snapshot = folder / SNAPSHOT_NAME
    events = folder / EVENTS_NAME
    if not snapshot.is_file():
        if events.is_file() and events.stat().st_size:
            fix = f"has lost its {SNAPSHOT_NAME}: put it back, or begin anew in another folder"
            raise BadInput(str(folder), None, fix)
        return None
    begun = checkpoint.read_settings(snapshot)
    both = sorted(begun.keys() & settings.keys())
    if changed := _find_change({key: begun[key] for key in both}, {key: settings[key] for key in both}):
        place, was, now = changed
        fix = f"was {was} when the run began: write that again, or begin anew in another folder"
        raise BadInput(f"{folder / 'run.yaml'}: {place}", now, fix)
    return snapshot


def _find_change(was: Any, now: Any, place: str = "") -> tuple[str, str, str] | None:
    """Where two trees first differ, and the words there; a file may have moved, so that paths may differ."""
    if isinstance(was, dict) and isinstance(now, dict):
        for key in {**was, **now}:
            inside = f"{place}.{key}" if place else str(key)
            if changed := _find_change(was.get(key), now.get(key), inside):
                return changed
        return None
    if was == now or all(isinstance(one, str) and set(one) & {"/", os.sep} for one in (was, now)):
        return None
    short = [json.dumps(one, ensure_ascii=False) for one in (was, now)]
    was, now = (one if len(one) <= MAX_SHOWN else f"{one[:MAX_SHOWN]}..." for one in short)
    return place, was, now


def keep_snapshot(folder: Path, epoch: int, /) -> Path:
    """Keep the present snapshot, which is of this epoch, when later ones take its place; its path.

    It costs no time, as both names are of one file, where the file system has such links.
    """
    kept = path_of_kept(folder, epoch)
    with whole(kept) as short:
        try:
            os.link(folder / SNAPSHOT_NAME, short)
        except OSError:
            shutil.copyfile(folder / SNAPSHOT_NAME, short)
    return kept


def path_of_kept(folder: Path, epoch: int, /) -> Path:
    """Where the snapshot of an epoch is, if it was kept."""
    return folder / "snapshots" / f"{epoch:06d}.h5"


def split_kept_path(path: Path, /) -> tuple[Path, Path | None]:
    """The folder of a run and the kept snapshot in it that a path names; any other path and ``None``.

    Example:
        >>> [str(one) for one in split_kept_path(Path("run/snapshots/000050.h5"))]
        ['run', 'run/snapshots/000050.h5']
        >>> split_kept_path(Path("run"))[1]
    """
    is_kept = path.parent.name == "snapshots" and path.suffix == ".h5" and path.stem.isdigit()
    return (path.parent.parent, path) if is_kept else (path, None)


def list_kept_epochs(folder: Path, /) -> list[int]:
    """Epochs of which a snapshot was kept."""
    return sorted(int(path.stem) for path in (folder / "snapshots").glob("[0-9]*.h5") if path.stem.isdigit())


def forget_snapshots_after(folder: Path, epoch: int, /) -> None:
    """Remove kept snapshots of later epochs, which the run will do again in another way."""
    for later in list_kept_epochs(folder):
        if later > epoch:
            path_of_kept(folder, later).unlink(missing_ok=True)
            path_of_kept(folder, later).with_suffix(".safetensors").unlink(missing_ok=True)
