"""Whether a run is under way: by its events, and by who holds the lock of its folder."""

import time
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from phaseloom.errors import BadInput
from phaseloom.files import LOCK_NAME
from phaseloom.runs.control import is_paused, read_events
from phaseloom.runs.folder import EVENTS_NAME
from phaseloom.runs.lock import Holder

__all__ = ["RunStatus", "find_state", "is_held", "require_not_ended"]

SECONDS_OF_A_QUIET_RUN = 60.0
"""Seconds without a new epoch after which a run without an end is not called running any more, at least."""

EPOCHS_OF_A_QUIET_RUN = 5.0
"""The same, in durations of its last epoch."""

COMMANDS_AFTER_THE_END = ("save", "branch")


class RunStatus(StrEnum):
    """How a run stands."""

    NOT_BEGUN = "not begun"
    RUNNING = "running"
    PAUSED = "paused"
    ENDED = "ended"
    STOPPED = "stopped"
    """Interrupted by its user: it can be resumed."""
    KILLED = "killed"
    """Its process is gone without an end of the run: it can be resumed."""
    QUIET = "quiet"
    """No new epoch for long, and nobody on this machine knows why."""


def find_state(folder: Path, events: Sequence[Mapping[str, Any]], /) -> RunStatus:
    """How a run stands.

    Args:
        folder: of the run.
        events: lines of its ``events.jsonl``.
    """
    last = next((event for event in reversed(events) if "number" in event), {})
    reason = last.get("stop_reason")
    if reason and (reason != "interrupted" or not is_held(folder)):
        return RunStatus.STOPPED if reason == "interrupted" else RunStatus.ENDED
    holder = Holder.read(folder / LOCK_NAME)
    if holder is not None and holder.is_dead:
        return RunStatus.KILLED
    if not last:
        return RunStatus.NOT_BEGUN
    if is_paused(events):
        return RunStatus.PAUSED
    quiet = max(SECONDS_OF_A_QUIET_RUN, EPOCHS_OF_A_QUIET_RUN * float(last.get("seconds") or 0))
    return RunStatus.RUNNING if time.time() - _time_of_last_event(folder) < quiet else RunStatus.QUIET


def is_held(folder: Path, /) -> bool:
    """Whether a process works on a run; of one on another machine that is taken for granted."""
    holder = Holder.read(folder / LOCK_NAME)
    return holder is not None and not holder.is_dead


def require_not_ended(folder: Path, command: str, /) -> None:
    """Refuse commands to a run that has ended, which nobody would answer.

    Raises:
        BadInput: it has ended, and the command is not one that is left then.
    """
    if command in COMMANDS_AFTER_THE_END or is_held(folder):
        return
    events = list(read_events(folder))
    if find_state(folder, events) is RunStatus.ENDED:
        number = max(event.get("number", 0) for event in events)
        fix = f"comes too late: the run has ended after epoch {number}; a branch can go on from there"
        raise BadInput(f"steer {command}", None, fix)


def _time_of_last_event(folder: Path) -> float:
    try:
        return (folder / EVENTS_NAME).stat().st_mtime
    except OSError:
        return 0.0
