"""What every run leaves in its folder: its recipe, and a line for each epoch."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from phaseloom.files import whole
from phaseloom.spec import Recipe

__all__ = ["save_events", "save_recipe"]


def save_recipe(recipe: Recipe, folder: Path, /, *, name: str = "run.yaml") -> Path:
    """The parameter file of a run, never half of it; its folder is made."""
    with whole(folder / name) as short:
        short.write_text(recipe.to_text(), encoding="utf-8")
    return folder / name


def save_events(events: Iterable[Any], folder: Path, /) -> None:
    """Write ``events.jsonl`` anew: a killed run may have left half a line."""
    with whole(folder / "events.jsonl") as short:
        short.write_text("".join(json.dumps(event) + "\n" for event in events))
