"""Commands that a run was sent, with its answers, and what can be changed in it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phaseloom.reconstruction.recipe import PARTS
from phaseloom.runs.control import read_answers, read_commands, read_events
from phaseloom.runs.state import RunStatus, find_state

__all__ = ["CommandRow", "list_commands", "list_settings"]


WAITING = {
    RunStatus.NOT_BEGUN: "waits for the first epoch",
    RunStatus.RUNNING: "waits for the end of the epoch",
    RunStatus.PAUSED: "waits for the run",
    RunStatus.ENDED: "not answered: the run has ended",
    RunStatus.STOPPED: "waits until the run is resumed",
    RunStatus.KILLED: "waits until the run is resumed",
    RunStatus.QUIET: "waits: no epoch has come for long",
}
"""What is said of a command that was not answered, by the state of the run."""


@dataclass(frozen=True)
class CommandRow:
    """A command in a line of a table.

    Attributes:
        time: when it was sent, of the day.
        text: the command with its values.
        answer: ``accepted``, ``refused`` or ``waits``.
        epoch: after which it was taken; empty: not yet.
        reason: why it was refused, or what follows.
    """

    time: str
    text: str
    answer: str
    epoch: str = ""
    reason: str = ""


def list_commands(folder: Path, /) -> list[CommandRow]:
    """All commands that a run was sent, in their order."""
    answers = read_answers(folder)
    waiting = WAITING[find_state(folder, list(read_events(folder)))]
    rows = []
    for one in read_commands(folder):
        values = ", ".join(f"{path} = {value}" for path, value in one.settings.items())
        about = [str(part) for part in (one.name, values) if part]
        about += [f"epoch {one.epoch}"] if one.epoch is not None else []
        text = " ".join([one.command, ", ".join(about)]).strip()
        when = one.time[11:19]
        answer = answers.get(one.id)
        if answer is None:
            rows.append(CommandRow(when, text, waiting))
        else:
            said = "accepted" if answer.accepted else "refused"
            rows.append(CommandRow(when, text, said, str(answer.epoch), answer.reason))
    return rows


def list_settings(recipe: Mapping[str, Any], /) -> list[str]:
    """Paths of settings that are likely to be changed: rates, weights of penalties, the end of the run.

    Example:
        >>> list_settings({"rates": {"object": 0.2}, "penalties": [{"sparse": {"weight": 0.1}}]})[-2:]
        ['epochs', 'patience']
    """
    rates = recipe.get("rates")
    parts = list(rates) if isinstance(rates, Mapping) else []
    paths = [f"rates.{part}" for part in [*parts, *(part for part in PARTS if part not in parts)]]
    return [*paths, "epochs", "patience"]
