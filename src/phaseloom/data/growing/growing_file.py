"""A file that gets longer while a scan is taken."""

import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from phaseloom.data import formats
from phaseloom.data.formats.header import MissingValues
from phaseloom.data.growing.feed import Announcement, FeedEnd, FrameBlock, ask_for_setup
from phaseloom.data.growing.unfinished import Unfinished, read_unfinished
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput, MissingExtra

__all__ = ["GrowingFile"]

SECONDS_BETWEEN_LOOKS = 0.25
"""Between two looks at the file, which is opened for each."""

FRAMES_AT_ONCE = 256
"""Patterns that are read at once."""

MAX_BYTES_AT_ONCE = 256_000_000
"""Bytes of patterns that a look reads; the next look reads on."""


class GrowingFile:
    """Patterns of a file that is appended to, or that has places for all patterns which fill up.

    The file is opened anew for each look, so it may be replaced by a longer one as well. A place without any
    count is a pattern that has not come. The last pattern of a look is taken at a later one, when others
    follow or it has not changed: it may be half written. What cannot be read at a look is read at the next.

    Args:
        path: the file; it need not be there yet.
        setup: knobs of its format, as in a side-car.
        format: of the file; ``auto``: by its content.
        silence: seconds without a new pattern after which no further one is expected.
    """

    def __init__(
        self,
        path: Path,
        /,
        *,
        setup: Mapping[str, Any] | None = None,
        format: str = "auto",
        silence: float = 30.0,
    ):
        self.path = path
        self.file: Path | None = path
        self.setup = dict(setup or {})
        self.format = format
        self.silence = silence
        self.count: int | None = None
        self.end: FeedEnd | None = None
        self._taken = np.zeros(0, bool)
        self._held: tuple[int, int] | None = None
        self._problem = ""
        self._last_look = -np.inf
        self._last_news = time.monotonic()

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.path.name

    def announce(self) -> Announcement | None:
        """Geometry and positions, once the file can be read and holds a pattern."""
        looked = self._look()
        if looked is None:
            return None
        scan, found = looked
        try:
            self.count = self._find_count(scan, found)
        except (BadInput, OSError, RuntimeError, ValueError) as problem:
            self._problem = str(problem)
            return None
        self._last_news = time.monotonic()
        return Announcement(
            scan,
            self.count,
            None if self.count is None else found.positions,
            found.grid if self.count else None,
        )

    def take(self) -> list[FrameBlock]:
        """Patterns that were written since the last look."""
        if self.end is not None:
            return []
        blocks: list[FrameBlock] = []
        if (looked := self._look()) is not None:
            self._taken = np.concatenate(
                [self._taken, np.zeros(max(0, len(looked[0]) - len(self._taken)), bool)]
            )
            try:
                with read_unfinished():
                    blocks = self._read_new(looked[0])
                self._problem = ""
            except (BadInput, OSError, RuntimeError, ValueError) as problem:
                self._problem = str(problem)
        if blocks:
            self._last_news = time.monotonic()
        if self.count is not None and int(self._taken.sum()) >= self.count:
            self.end = FeedEnd.COMPLETE
        elif time.monotonic() - self._last_news > self.silence:
            self.end = FeedEnd.SILENT if self.count is not None else FeedEnd.ENDED
        return blocks

    def report(self) -> list[str]:
        """Why the file cannot be read at present, if it cannot."""
        if self._problem:
            return [self._problem]
        return [] if self.path.exists() else [f"{self.path} does not exist yet"]

    def close(self) -> None:
        """Look no more."""
        self.end = self.end or FeedEnd.ENDED

    def _look(self) -> tuple[Scan4D, Unfinished] | None:
        """The file as it is now; ``None``: too early, or it cannot be read.

        Raises:
            BadInput: the file can be read and does not say what is needed; that does not change.
            MissingExtra: a library is missing.
        """
        now = time.monotonic()
        if now - self._last_look < SECONDS_BETWEEN_LOOKS or not self.path.exists():
            return None
        self._last_look = now
        try:
            with read_unfinished() as found:
                scan = formats.read(self.path, format=self.format, knobs=self.setup, lazy=True)
        except MissingValues as problem:
            raise ask_for_setup(self.path.name, problem) from problem
        except MissingExtra:
            raise
        except (BadInput, OSError, RuntimeError, ValueError) as problem:
            self._problem = str(problem)
            return None
        return scan, found

    @staticmethod
    def _find_count(scan: Scan4D, found: Unfinished) -> int | None:
        """How many patterns will come: as many as positions, unless these come with the patterns."""
        if found.positions is None:  # a format whose reader knows nothing of unfinished scans
            return None
        is_raster = found.grid is not None
        has_places = len(found.positions) > len(scan) or not _is_lit(scan, np.array([len(scan) - 1]))[0]
        return len(found.positions) if is_raster or has_places else None

    def _read_new(self, scan: Scan4D) -> list[FrameBlock]:
        """Blocks of patterns that hold counts and were not taken before."""
        blocks: list[FrameBlock] = []
        size = 0
        for numbers in self._list_candidates(len(scan)):
            frames = np.asarray(scan.counts[numbers])
            lit = np.asarray(frames.any((1, 2)))
            size += frames.nbytes
            if lit.any():
                blocks.append(_make_block(scan, numbers[lit], frames[lit]))
            if size > MAX_BYTES_AT_ONCE or not lit[-1]:
                break
        return self._hold_last(blocks)

    def _list_candidates(self, count: int) -> list[np.ndarray]:
        """Numbers to look at, a few at a time: those that follow, else blank places between."""
        hit = np.flatnonzero(self._taken[:count])
        after = int(hit[-1]) + 1 if len(hit) else 0
        between = np.flatnonzero(~self._taken[:after])
        pieces = [
            np.arange(at, min(at + FRAMES_AT_ONCE, count)) for at in range(after, count, FRAMES_AT_ONCE)
        ]
        return ([between[:FRAMES_AT_ONCE]] if len(between) and not pieces else []) + pieces

    def _hold_last(self, blocks: list[FrameBlock]) -> list[FrameBlock]:
        """Keep back the last pattern unless it is as it was at the look before."""
        if not blocks:
            return []
        last = blocks[-1]
        number = int(last.numbers[-1])
        held = (number, zlib.crc32(np.ascontiguousarray(last.frames[-1]).tobytes()))
        if held != self._held:
            self._held = held
            blocks[-1] = _cut_block(last, len(last.numbers) - 1)
        for block in blocks:
            self._taken[block.numbers] = True
        return [block for block in blocks if len(block.numbers)]


def _is_lit(scan: Scan4D, numbers: np.ndarray) -> np.ndarray:
    """Which patterns hold counts."""
    with read_unfinished():
        return np.asarray(np.asarray(scan.counts[numbers]).any((1, 2)))


def _make_block(scan: Scan4D, numbers: np.ndarray, frames: np.ndarray) -> FrameBlock:
    """Patterns with all that the file says of each."""
    extras = {name: getattr(scan, name) for name in ("weights", "heights")}
    given = {name: values[numbers] for name, values in extras.items() if values is not None}
    return FrameBlock(numbers, frames, scan.positions[numbers], given)


def _cut_block(block: FrameBlock, count: int) -> FrameBlock:
    """The first patterns of a block."""
    positions = None if block.positions is None else block.positions[:count]
    extras = {name: values[:count] for name, values in block.extras.items()}
    return FrameBlock(block.numbers[:count], block.frames[:count], positions, extras)
