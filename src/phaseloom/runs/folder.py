"""What every run leaves in its folder: its recipe, and a line for each epoch."""

import json
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from phaseloom.files import whole
from phaseloom.runs.control import Answer
from phaseloom.spec import Recipe

__all__ = ["save_events", "save_recipe"]


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
