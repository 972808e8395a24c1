"""A folder that a detector adds a file to for each pattern."""

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from phaseloom.data.formats import tif
from phaseloom.data.formats.arrays import load_npy
from phaseloom.data.growing.feed import Announcement, FeedEnd, FrameBlock, announce_frames, parse_setup
from phaseloom.errors import BadInput, MissingExtra

__all__ = ["FrameFolder"]

SECONDS_BETWEEN_LOOKS = 0.1
"""Between two lists of the folder."""

ENDINGS = (".tif", ".tiff", ".npy")
"""Files of one pattern that are read."""

NUMBER = re.compile(r"(\d+)\D*$")
"""The last number in the name of a file, without its ending."""


class FrameFolder:
    """Files of one pattern each, whose names end in the number of the pattern, counted from 0 or 1.

    A file is read when its size is the same at two looks. One that cannot be read then is tried again at the
    next look, and named in `report` if it never can.

    Args:
        path: the folder.
        setup: what nobody else says, as in a side-car; positions are a table or ``step`` and ``grid``.
        silence: seconds without a new pattern after which no further one is expected.
    """

    def __init__(self, path: Path, /, *, setup: Mapping[str, Any] | None = None, silence: float = 30.0):
        self.path = path
        self.setup = dict(setup or {})
        parse_setup(self.setup, path.name)
        self.file: Path | None = None
        self.format = "auto"
        self.silence = silence
        self.end: FeedEnd | None = None
        self.count: int | None = None
        self._sizes: dict[Path, int] = {}
        self._done: set[Path] = set()
        self._problems: dict[Path, str] = {}
        self._first = 0
        self._last_look = -np.inf
        self._last_news = time.monotonic()

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.name

    def announce(self) -> Announcement | None:
        """Geometry and positions, once a first file is whole."""
        for path in self._list_whole():
            frame = self._read(path)
            if frame is not None:
                numbers = [_number_of(one) for one in self._sizes]
                self._first = 0 if 0 in numbers else 1
                found = announce_frames(f"{self.path}/frames", (frame.shape[0], frame.shape[1]), self.setup)
                self.count = found.count
                self._last_news = time.monotonic()
                return found
        return None

    def take(self) -> list[FrameBlock]:
        """Patterns of the files that are new and whole."""
        if self.end is not None:
            return []
        blocks = []
        for path in self._list_whole():
            frame = self._read(path)
            if frame is None:
                continue
            self._done.add(path)
            blocks.append(FrameBlock(np.array([_number_of(path) - self._first]), frame[None]))
        if blocks:
            self._last_news = time.monotonic()
        if self.count is not None and len(self._done) >= self.count:
            self.end = FeedEnd.COMPLETE
        elif time.monotonic() - self._last_news > self.silence:
            self.end = FeedEnd.SILENT
        return blocks

    def report(self) -> list[str]:
        """Files that cannot be read."""
        if not self._problems:
            return []
        first = next(iter(self._problems.values()))
        return [f"{len(self._problems)} files cannot be read: {first}"]

    def close(self) -> None:
        """Look no more."""
        self.end = self.end or FeedEnd.ENDED

    def _list_whole(self) -> list[Path]:
        """Files that are not read yet and have not grown since the last look, by their numbers."""
        now = time.monotonic()
        if now - self._last_look < SECONDS_BETWEEN_LOOKS:
            return []
        self._last_look = now
        new = [
            path
            for path in self.path.iterdir()
            if path.suffix.lower() in ENDINGS and path not in self._done and NUMBER.search(path.stem)
        ]
        sizes = {path: path.stat().st_size for path in new}
        whole = [path for path in new if 0 < sizes[path] == self._sizes.get(path)]
        self._sizes |= sizes
        return sorted(whole, key=_number_of)

    def _read(self, path: Path) -> np.ndarray | None:
        """The pattern of a file; ``None``: not yet, or never."""
        try:
            frame = load_npy(path, lazy=False) if path.suffix.lower() == ".npy" else tif.read_image(path)
        except MissingExtra:
            raise
        except (BadInput, OSError, ValueError) as problem:
            self._problems[path] = str(problem)
            return None
        if np.ndim(frame) != 2:
            self._problems[path] = f"{path.name} does not hold one pattern (y, x)"
            return None
        self._problems.pop(path, None)
        return np.asarray(frame)


def _number_of(path: Path) -> int:
    """The last number in the name of a file."""
    found = NUMBER.search(path.stem)
    return int(found[1]) if found else -1
