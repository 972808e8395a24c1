"""What every run leaves in its folder: its recipe, a line for each epoch, and snapshots that are kept."""

import json
import os
import shutil
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from phaseloom.files import whole
from phaseloom.runs.control import Answer
from phaseloom.spec import Recipe

__all__ = [
    "forget_snapshots_after",
    "keep_snapshot",
    "list_kept_epochs",
    "path_of_kept",
    "save_events",
    "save_recipe",
]


def save_recipe(recipe: Recipe, folder: Path, /, *, name: str = "run.yaml") -> Path:
    """The parameter file of a run, never half of it; its folder is made."""
    with whole(folder / name) as short:
        short.write_text(recipe.to_text(), encoding="utf-8")
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
    with whole(folder / "events.jsonl") as short:
        short.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def keep_snapshot(folder: Path, epoch: int, /) -> Path:
    """Keep the present snapshot, which is of this epoch, when later ones take its place; its path.

    It costs no time, as both names are of one file, where the file system has such links.
    """
    kept = path_of_kept(folder, epoch)
    with whole(kept) as short:
        try:
            os.link(folder / "snapshot.h5", short)
        except OSError:
            shutil.copyfile(folder / "snapshot.h5", short)
    return kept


def path_of_kept(folder: Path, epoch: int, /) -> Path:
    """Where the snapshot of an epoch is, if it was kept."""
    return folder / "snapshots" / f"{epoch:06d}.h5"


def list_kept_epochs(folder: Path, /) -> list[int]:
    """Epochs of which a snapshot was kept."""
    return sorted(int(path.stem) for path in (folder / "snapshots").glob("[0-9]*.h5") if path.stem.isdigit())


def forget_snapshots_after(folder: Path, epoch: int, /) -> None:
    """Remove kept snapshots of later epochs, which the run will do again in another way."""
    for later in list_kept_epochs(folder):
        if later > epoch:
            path_of_kept(folder, later).unlink(missing_ok=True)
