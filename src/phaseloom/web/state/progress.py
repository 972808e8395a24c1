"""Words on a run as it goes: how far, how long still, what its losses say."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import ValidationError

from phaseloom.fitting import verdict as verdicts
from phaseloom.fitting.outcome import stop_of_sentence
from phaseloom.runs.state import RunStatus
from phaseloom.runs.steered import SteeredCommand, list_effective
from phaseloom.web.state.events import EventLog

__all__ = ["describe_duration", "describe_progress", "estimate_time_left", "find_epochs", "judge_losses"]
__all__ += ["noise_floor"]

EPOCHS_FOR_DURATION = 5
"""Last epochs whose median duration is that of the next ones."""

REMARKS: dict[str, str] = {
    RunStatus.KILLED: "its process is gone, and it goes on from its last snapshot when it is resumed",
    RunStatus.QUIET: "no epoch has come for long",
}
"""What is said of states that events do not explain."""


def find_epochs(recipe: Mapping[str, Any], /) -> int | None:
    """Epochs that a run does, as the commands that it has followed leave them; ``None``: not known.

    Example:
        >>> told = [{"epoch": 3, "command": "set", "settings": {"epochs": 30}}]
        >>> find_epochs({"epochs": 20}), find_epochs({"epochs": 20, "steered": told})
        (20, 30)
    """
    found = [recipe.get("epochs")]
    try:
        commands = [SteeredCommand.model_validate(one) for one in recipe.get("steered") or ()]
    except (ValidationError, TypeError):  # of a file that was damaged by hand
        commands = []
    found += [one.settings["epochs"] for one in list_effective(commands) if "epochs" in one.settings]
    return found[-1] if isinstance(found[-1], int) else None


def estimate_time_left(log: EventLog, epochs: int | None, /) -> float | None:
    """Seconds until all epochs are done at the pace of the last ones; ``None``: not known."""
    if epochs is None or not log.epochs or log.last.get("stop_reason"):
        return None
    seconds = [float(one["seconds"]) for one in log.epochs[-EPOCHS_FOR_DURATION:] if one.get("seconds")]
    if not seconds:
        return None
    return max(epochs - int(log.last["number"]), 0) * float(np.median(seconds))


def describe_duration(seconds: float, /) -> str:
    """A duration in two units.

    Example:
        >>> describe_duration(3725), describe_duration(59.4)
        ('1 h 2 min', '59 s')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min {int(seconds % 60)} s"
    return f"{minutes // 60} h {minutes % 60} min"


def describe_progress(log: EventLog, recipe: dict[str, Any], state: str, /) -> str:
    """A run in a line: epoch, losses, time to go, why it ended."""
    last = log.last
    if not last and state == RunStatus.KILLED:
        return f"{state}: before the first epoch; its process is gone"
    if not last:
        return "before the first epoch: the data are read, and the start is sought"
    epochs = find_epochs(recipe)
    parts = [f"epoch {last['number']}" + (f" of {epochs}" if epochs else ""), f"loss {last['loss']:.4g}"]
    held = [one["holdout"] for one in log.epochs[-20:] if one.get("holdout") is not None]
    parts += [f"held out {held[-1]:.4g}"] if held else []
    left = estimate_time_left(log, epochs) if state in ("running", "paused") else None
    parts += [f"{describe_duration(left)} to go"] if left else []
    why = str(last.get("stopped") or REMARKS.get(state, ""))
    return f"{state}: " + ", ".join(parts) + (f"; {why}" if why else "")


def noise_floor(recipe: dict[str, Any], /) -> float | None:
    """Loss at which nothing but noise is left; ``None``: the loss is not compared with noise."""
    noise = recipe.get("noise")
    name = next(iter(noise), "") if isinstance(noise, dict) else str(noise or "")
    return None if name in ("", "none") else 1.0


def judge_losses(log: EventLog, recipe: dict[str, Any], /) -> str:
    """The verdict as it would be now, from the losses alone; the result has further evidence."""
    if not log.epochs or not isinstance(recipe.get("rates"), dict):
        return ""
    floor = noise_floor(recipe) or 0.0
    stopped = stop_of_sentence(str(log.last.get("stopped", "")))
    optimizer = recipe.get("optimizer")
    newton = 1.0 if optimizer == "gauss_newton" or "gauss_newton" in (optimizer or {}) else np.inf
    since = int(log.last.get("incomparable_epochs", 0))
    return str(verdicts.judge_fit(log.epochs, stopped=stopped, floor=floor, since=since, newton=newton))
