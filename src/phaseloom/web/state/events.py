"""The events of a run, read as they are appended."""

import os
import sys
from pathlib import Path
from typing import Any, Self

from phaseloom.documents import parse_json_lines

__all__ = ["EventLog", "thin_history"]

MAX_BYTES_PER_READ = 64 << 20
MAX_POINTS = 1500
"""Points of a curve that are sent: more cannot be told apart on a screen."""


class EventLog:
    """The lines of ``events.jsonl``: what was read stays, only what is new is read.

    A run that begins anew or is resumed writes the file again; it is then read from its start.

    Attributes:
        events: all lines that are whole, in their order.
        epochs: those of epochs.
        version: grows whenever something was read.
    """

    def __init__(self, folder: Path):
        self.path = folder / "events.jsonl"
        self.events: list[dict[str, Any]] = []
        self.epochs: list[dict[str, Any]] = []
        self.version = 0
        self._offset = 0
        self._file: tuple[int, int] = (0, 0)

    def read(self) -> bool:
        """Read what is new; whether there was anything."""
        try:
            with open(self.path, "rb") as file:
                status = os.fstat(file.fileno())
                identity = (status.st_dev, status.st_ino)
                if identity != self._file or status.st_size < self._offset:
                    self._forget(identity)
                file.seek(self._offset)
                piece = file.read(MAX_BYTES_PER_READ)
        except OSError:
            return False
        end = piece.rfind(b"\n") + 1
        self._offset += end
        for line in piece[:end].split(b"\n"):
            self._add(line)
        self.version += end > 0
        return end > 0

    @classmethod
    def of(cls, epochs: list[dict[str, Any]], /) -> Self:
        """The events of a run in memory."""
        log = cls(Path("no file"))
        log.epochs = list(epochs)
        log.events = list(epochs)
        return log

    @classmethod
    def read_all(cls, folder: Path, /) -> Self:
        """The events of a run as they are now."""
        log = cls(folder)
        log.read()
        return log

    def curve(self, name: str, /) -> tuple[list[int], list[float]]:
        """Numbers of epochs, and a number that they have, such as ``loss`` or ``holdout``; few of many."""
        known = thin_history([one for one in self.epochs if one.get(name) is not None])
        return [one["number"] for one in known], [one[name] for one in known]

    @property
    def losses(self) -> dict[str, tuple[list[int], list[float]]]:
        """Curves of both losses."""
        return {"training": self.curve("loss"), "held out": self.curve("holdout")}

    @property
    def last(self) -> dict[str, Any]:
        """The last epoch; empty before the first."""
        return self.epochs[-1] if self.epochs else {}

    def _forget(self, identity: tuple[int, int]) -> None:
        self._file = identity
        self._offset = 0
        self.events.clear()
        self.epochs.clear()

    def _add(self, line: bytes) -> None:
        for read in parse_json_lines(line):
            event = _share(read, self.last)
            self.events.append(event)
            if isinstance(event.get("number"), int) and isinstance(event.get("loss"), int | float):
                self.last.pop("state", None)  # of the model, which only the last one tells
                self.epochs.append(event)


def _share(event: dict[str, Any], last: dict[str, Any]) -> dict[str, Any]:
    """An event with the same strings, and the same rates as the last one: thousands of them are kept."""
    return {
        sys.intern(key): last[key] if isinstance(value, dict) and last.get(key) == value else _intern(value)
        for key, value in event.items()
    }


def _intern(value: Any) -> Any:
    return {sys.intern(key): one for key, one in value.items()} if isinstance(value, dict) else value


def thin_history(epochs: list[dict[str, Any]], /, most: int = MAX_POINTS) -> list[dict[str, Any]]:
    """Epochs evenly chosen, the first and the last among them.

    Example:
        >>> [one["number"] for one in thin_history([{"number": n} for n in range(1, 101)], 5)]
        [1, 26, 51, 75, 100]
    """
    if len(epochs) <= most:
        return list(epochs)
    last = len(epochs) - 1
    return [epochs[round(place * last / (most - 1))] for place in range(most)]
