"""The commands that a run has followed, as its parameter file records them, so that it can be repeated."""

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["SteeredCommand", "list_effective"]


class SteeredCommand(BaseModel):
    """A command that a run has followed.

    Commands that change no number (``pause``, ``resume``, ``save``) are not recorded.

    Attributes:
        epoch: epochs that were done when it came; it holds from the next one on.
        command: its verb.
        settings: values by their paths in the parameter file that it changed.
        to: of ``back``: the epoch that the run went back to.
        id: of the line in ``control.jsonl``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    epoch: int = Field(ge=0, strict=True)
    command: Literal["set", "on", "off", "back", "stop"]
    settings: dict[str, Any] = Field(default_factory=dict)
    to: int | None = Field(default=None, ge=0, strict=True)
    id: str = ""


def list_effective(commands: Iterable[SteeredCommand], /) -> list[SteeredCommand]:
    """The commands that were not undone by going back to the end of an epoch, as it was before any came.

    Example:
        >>> told = [(2, "set", None), (5, "stop", None), (6, "back", 4), (4, "off", None)]
        >>> every = [SteeredCommand(epoch=epoch, command=verb, to=to) for epoch, verb, to in told]
        >>> [(one.epoch, one.command) for one in list_effective(every)]
        [(2, 'set'), (4, 'off')]
    """
    found = list[SteeredCommand]()
    for one in commands:
        if one.command == "back":
            found = [earlier for earlier in found if earlier.epoch < (one.to or 0)]
        else:
            found.append(one)
    return found
