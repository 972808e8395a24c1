"""A scan that is still being taken: the patterns that have come, at their positions, as a `Scan4D`."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from phaseloom.data.growing.feed import Announcement, FeedEnd, FrameBlock, FrameFeed
from phaseloom.data.growing.recorder import FrameRecorder
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.free_memory import require_memory

__all__ = ["Arrivals", "GrowingScan", "open_growing"]

SECONDS_BETWEEN_LOOKS = 0.02
"""Between two looks at a source while patterns are waited for."""

FIRST_CAPACITY = 256
"""Patterns that there is room for when nobody says how many will come."""

MAX_NAMED = 3
"""Patterns that a sentence names."""


HOST_AND_PORT = re.compile(r"[\w.-]+:\d{1,5}")
"""An address that lacks its ``tcp://``."""


@dataclass
class Arrivals:
    """How many patterns came, and what was wrong with others.

    Attributes:
        announced: patterns that will come; ``None``: nobody said.
        arrived: that are part of the scan.
        lost: numbers below the highest one (at the end of the scan: of all announced) that never came.
        blank: patterns without a count, which are left out.
        duplicates: that came again; the first one counts.
        out_of_order: that came after one with a higher number.
        refused: of another shape or type, beyond those announced, or without a position.
    """

    announced: int | None
    arrived: int = 0
    lost: int = 0
    blank: int = 0
    duplicates: int = 0
    out_of_order: int = 0
    refused: int = 0


class GrowingScan:
    """Patterns that come one after the other from a file, a folder or a socket.

    Patterns are kept in memory in the order in which they come, and are sorted by their numbers when the scan
    is over (`finish`). Blank ones, duplicates, and what does not fit are counted and left out. Pixels that
    hold a detector's mark for "no value" (the largest integer) in every pattern are masked, and negative
    counts are set to zero, as in a file that is read at once.

    Args:
        feed: the source (`phaseloom.data.growing.feed.FrameFeed`); `open_growing` makes one.
        patience: seconds that the announcement of the scan is waited for.

    Attributes:
        announcement: what was known before the first pattern.
        arrivals: how many came, and what was wrong with others.

    Raises:
        BadInput: nothing is announced in time, or what is announced does not fit.

    Example:
        >>> frames = np.random.default_rng(0).poisson(5.0, (6, 8, 8)).astype(np.uint16)
        >>> frames[:4].tofile("part.raw")  # four of the six patterns are there
        >>> knobs = {"shape": [2, 3, 8, 8], "dtype": "uint16", "energy": "80 keV", "angle": "1 mrad"}
        >>> growing = open_growing("part.raw", setup={**knobs, "step": "0.4 A"})
        >>> growing.update(wait=5.0), growing.announcement.count  # the last one may be half written
        (3, 6)
        >>> frames.tofile("part.raw")
        >>> _ = growing.update(wait=5.0)
        >>> len(growing.scan()) >= 5
        True
    """

    def __init__(self, feed: FrameFeed, /, *, patience: float = 60.0):
        self.feed = feed
        self.announcement = self._await_announcement(patience)
        count = self.announcement.count
        self.arrivals = Arrivals(count)
        self._frames: np.ndarray | None = None
        self._numbers = np.zeros(0, np.int64)
        self._positions = np.zeros((0, 2))
        self._extras: dict[str, np.ndarray] = {}
        self._seen = np.zeros(count or FIRST_CAPACITY, bool)
        self._bad: np.ndarray | None = None
        self._refusals: dict[str, tuple[str, int]] = {}  # by the reason: its first sentence, how many
        self._recorder: FrameRecorder | None = None

    def _await_announcement(self, patience: float) -> Announcement:
        deadline = time.monotonic() + patience
        while (found := self.feed.announce()) is None:
            if time.monotonic() > deadline or self.feed.end is not None:
                self.feed.close()
                said = "; ".join(self.feed.report()) or "check the address, and that the detector is armed"
                raise BadInput(self.feed.name, None, f"announces no scan within {patience:g} s: {said}")
            time.sleep(SECONDS_BETWEEN_LOOKS)
        return found

    def __len__(self) -> int:
        """Number of patterns that are here."""
        return self.arrivals.arrived

    @property
    def numbers(self) -> np.ndarray:
        """``(n,)`` numbers of the patterns in the scan as it was announced, from 0, as they lie in `scan`."""
        return self._numbers[: len(self)]

    @property
    def end(self) -> FeedEnd | None:
        """Why no further pattern comes; ``None`` while the scan goes on."""
        return self.feed.end

    def update(self, *, wait: float = 0.0) -> int:
        """Take in what has come, and return the number of new patterns.

        Args:
            wait: seconds that a first new pattern is waited for.
        """
        deadline = time.monotonic() + wait
        while True:
            ended = self.feed.end is not None  # asked first: what came before the end is taken below
            new = sum(self._take_in(block) for block in self.feed.take())
            if new or ended or time.monotonic() >= deadline:
                self._count_lost()
                return new
            time.sleep(min(SECONDS_BETWEEN_LOOKS, max(0.0, deadline - time.monotonic())))

    def await_patterns(self, count: int, /) -> None:
        """Wait until so many patterns are here, or the scan is over.

        Raises:
            BadInput: it ended without a pattern.
        """
        while len(self) < count and self.end is None:
            self.update(wait=1.0)
        self.update()
        if not len(self):
            said = "; ".join(self.describe())
            raise BadInput(self.feed.name, None, f"brought no pattern that can be used ({said})")

    def scan(self) -> Scan4D:
        """The patterns that are here, as they came; it stays as it is when others come.

        Raises:
            BadInput: none is.
        """
        n = len(self)
        if self._frames is None or not n:
            raise BadInput(self.feed.name, None, "has brought no pattern yet")
        known = self.announcement.scan
        grid = self.announcement.grid
        whole = grid is not None and grid[0] * grid[1] == n and bool((np.diff(self.numbers) == 1).all())
        return replace(
            known,
            counts=self._frames[:n],
            positions=self._positions[:n],
            mask=known.mask if self._bad is None else known.mask & ~self._bad,
            grid=grid if whole else None,
            raster_places=None,
            **{name: values[:n] for name, values in self._extras.items()},
        )

    def announced_positions(self) -> np.ndarray:
        """Positions of all patterns that are announced, or of those that are here, angstrom ``(n, 2)``."""
        known = self.announcement.positions
        here = self._positions[: len(self)]
        return here if known is None else known[: self.announcement.count]

    def record(self, path: Path, /) -> None:
        """Write all patterns that are here, and those that come, into a file as `phaseloom.read` knows it.

        Raises:
            WriteFailed: it cannot be written.
        """
        first = self.scan()
        self._recorder = FrameRecorder(path, first)
        self._recorder.append(
            np.asarray(first.counts), first.positions, {k: v[: len(self)] for k, v in self._extras.items()}
        )

    def finish(self) -> np.ndarray:
        """Ask for nothing any more, sort the patterns by their numbers, and complete the record.

        Returns:
            ``(n,)`` where each pattern lay before.
        """
        self.feed.close()
        n = len(self)
        order = np.argsort(self._numbers[:n], kind="stable")
        is_sorted = bool((np.diff(order) == 1).all())
        if not is_sorted and self._frames is not None:
            self._frames = self._frames[:n][order]
            self._positions = self._positions[:n][order]
            self._numbers = self._numbers[:n][order]
            self._extras = {name: values[:n][order] for name, values in self._extras.items()}
        if self._recorder is not None and n:
            self._recorder.close(self.scan(), is_sorted=is_sorted)
            self._recorder = None
        return order

    def describe(self) -> list[str]:
        """What was wrong with the scan so far, in sentences."""
        here = self.arrivals
        planned = "" if here.announced is None else f" of {here.announced}"
        said = []
        if self.end is FeedEnd.SILENT:
            said.append(f"nothing comes any more after {here.arrived}{planned} patterns")
        elif self.end is FeedEnd.ENDED and here.announced is not None and here.lost:
            said.append(f"the scan ended after {here.arrived}{planned} patterns")
        if lost := self._list_lost():
            said.append(f"{len(lost)} patterns were lost ({_name_numbers(lost)})")
        if here.blank:
            said.append(f"{here.blank} patterns hold no counts and were left out")
        if here.duplicates:
            said.append(f"{here.duplicates} patterns came more than once: the first of each counts")
        if here.out_of_order:
            said.append(f"{here.out_of_order} patterns came out of order and were put in their places")
        if here.refused:
            reasons = [
                text if n == 1 else f"{text} ({n} such patterns)" for text, n in self._refusals.values()
            ]
            said.append(f"{here.refused} patterns were refused: {'; '.join(reasons)}")
        return said + self.feed.report()

    def _take_in(self, block: FrameBlock) -> int:
        """Put patterns of a block in their places; how many are new."""
        numbers = np.asarray(block.numbers, np.int64)
        block = replace(block, numbers=numbers)
        problem = self._find_problem(block)
        if problem:
            self._refuse(f"pattern {numbers[0]}", problem, len(numbers))
            return 0
        count = self.arrivals.announced
        beyond = (numbers < 0) | (numbers >= (np.iinfo(np.int64).max if count is None else count))
        if beyond.any():
            limit = "" if count is None else f": {count} were announced, from 0 to {count - 1}"
            self._refuse(f"number {numbers[beyond][0]}", f"is not of this scan{limit}", int(beyond.sum()))
        fresh = np.flatnonzero(~beyond)
        _, first = np.unique(numbers[fresh], return_index=True)
        fresh = fresh[np.sort(first)]
        self._make_room(int(numbers[fresh].max()) + 1 if len(fresh) else 0)
        fresh = fresh[~self._seen[numbers[fresh]]]
        self.arrivals.duplicates += int((~beyond).sum()) - len(fresh)
        if not len(fresh):
            return 0
        highest = np.maximum.accumulate(np.concatenate([[self._highest()], numbers[fresh]]))[:-1]
        self.arrivals.out_of_order += int((numbers[fresh] < highest).sum())
        self._seen[numbers[fresh]] = True
        return self._keep(block, fresh)

    def _keep(self, block: FrameBlock, fresh: np.ndarray) -> int:
        """Append patterns that are not blank."""
        frames, valid = _clean(block.frames[fresh])
        lit = ((frames > 0) & valid & self.announcement.scan.mask).any((1, 2))
        self.arrivals.blank += int((~lit).sum())
        fresh = fresh[lit]
        if not len(fresh):
            return 0
        self._mark_bad(valid[lit], frames.dtype)
        start = len(self)
        end = start + len(fresh)
        self._reserve(end, frames)
        assert self._frames is not None
        self._frames[start:end] = frames[lit]
        self._numbers[start:end] = block.numbers[fresh]
        known = self.announcement.positions
        self._positions[start:end] = (
            known[block.numbers[fresh]] if known is not None else np.asarray(block.positions)[fresh]
        )
        for name, values in block.extras.items():
            if start and name not in self._extras:
                continue
            held = self._extras.setdefault(name, np.zeros(len(self._numbers)))
            held[start:end] = values[fresh]
        self.arrivals.arrived = end
        if self._recorder is not None:
            extras = {name: values[start:end] for name, values in self._extras.items()}
            self._recorder.append(self._frames[start:end], self._positions[start:end], extras)
        return len(fresh)

    def _mark_bad(self, valid: np.ndarray, dtype: np.dtype) -> None:
        """Pixels that hold no value: integers in no pattern, other numbers in any (`clean_counts`)."""
        if dtype.kind == "f":
            bad = np.asarray(~valid.all(0))
            self._bad = bad if self._bad is None else self._bad | bad
        else:
            bad = np.asarray(~valid.any(0))
            self._bad = bad if self._bad is None else self._bad & bad

    def _find_problem(self, block: FrameBlock) -> str:
        """Why frames of a block cannot be part of the scan, of the first; empty where they can."""
        shape = self.announcement.scan.geometry.shape
        frames = block.frames
        if frames.ndim != 3 or frames.shape[1:] != shape:
            found = " x ".join(map(str, frames.shape[1:]))
            return f"has {found} pixels, not {shape[0]} x {shape[1]}"
        if frames.dtype.kind not in "iuf":
            return f"is of {frames.dtype}, which are no counts"
        if self._frames is not None and not _fits(frames, self._frames.dtype):
            return f"is of {frames.dtype}, the first ones of {self._frames.dtype}"
        if self.announcement.positions is None and block.positions is None:
            return "came without a position, and none were announced"
        if block.positions is not None and not np.isfinite(block.positions).all():
            return "has a position that is not finite"
        return ""

    def _refuse(self, subject: str, reason: str, count: int) -> None:
        self.arrivals.refused += count
        sentence, before = self._refusals.get(reason, (f"{subject} {reason}", 0))
        self._refusals[reason] = (sentence, before + count)

    def _make_room(self, highest: int) -> None:
        """Remember of numbers so high whether they came."""
        if highest > len(self._seen):
            self._seen = np.concatenate([self._seen, np.zeros(max(highest, len(self._seen)), bool)])

    def _reserve(self, count: int, like: np.ndarray) -> None:
        """Room for so many patterns."""
        room = 0 if self._frames is None else len(self._frames)
        if count <= room:
            return
        more = self.arrivals.announced or max(2 * room, FIRST_CAPACITY, count)
        dtype = like.dtype if self._frames is None else self._frames.dtype
        require_memory(float(more) * like[0].size * dtype.itemsize, f"{self.feed.name}: patterns")
        frames = np.zeros((more, *like.shape[1:]), dtype)
        if self._frames is not None:
            frames[:room] = self._frames
        self._frames = frames
        self._numbers = np.concatenate([self._numbers, np.zeros(more - room, np.int64)])
        self._positions = np.concatenate([self._positions, np.zeros((more - room, 2))])
        self._extras = {k: np.concatenate([v, np.zeros(more - room)]) for k, v in self._extras.items()}

    def _highest(self) -> int:
        hit = np.flatnonzero(self._seen)
        return int(hit[-1]) if len(hit) else -1

    def _expected(self) -> int:
        """Patterns that should have come by now."""
        over = self.end is not None and self.arrivals.announced is not None
        return int(self.arrivals.announced or 0) if over else self._highest() + 1

    def _count_lost(self) -> None:
        self.arrivals.lost = int((~self._seen[: self._expected()]).sum())

    def _list_lost(self) -> list[int]:
        """Numbers that never came although a higher one did: what follows the last one was never sent."""
        return np.flatnonzero(~self._seen[: self._highest() + 1]).tolist()

    def __repr__(self) -> str:
        """The source, how many patterns came of how many, and why no more come."""
        count = self.arrivals.announced
        planned = "" if count is None else f" of {count}"
        state = "growing" if self.end is None else self.end.value
        return f"GrowingScan({self.feed.name}: {len(self)}{planned} patterns; {state})"

    def __enter__(self) -> Self:
        """The scan itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the source."""
        self.feed.close()


def _name_numbers(numbers: list[int]) -> str:
    """The first of some patterns, in words."""
    some = ", ".join(map(str, numbers[:MAX_NAMED]))
    return f"number{'s' if len(numbers) > 1 else ''} {some}{' ...' if len(numbers) > MAX_NAMED else ''}"


def _clean(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts as they are computed with, and where a pixel holds a value at all."""
    if frames.dtype.kind == "f":
        valid = np.isfinite(frames)
        return np.where(valid, frames, 0).clip(min=0), valid
    valid = frames != np.iinfo(frames.dtype).max
    if frames.dtype.kind == "i":
        valid &= frames >= 0
        frames = frames.clip(min=0)
    return frames.astype(frames.dtype.newbyteorder("="), copy=False), valid


def _fits(frames: np.ndarray, dtype: np.dtype) -> bool:
    """Whether frames can be kept in a type without loss."""
    if np.can_cast(frames.dtype, dtype, "safe"):
        return True
    if frames.dtype.kind not in "iu" or dtype.kind not in "iu":
        return False
    return int(frames.max()) < np.iinfo(dtype).max and int(frames.min()) >= 0


def open_growing(
    source: str | Path,
    /,
    *,
    setup: Mapping[str, Any] | None = None,
    format: str = "auto",
    silence: float = 30.0,
    patience: float = 60.0,
    subscribe: bool = False,
) -> GrowingScan:
    """A scan that is being taken, from a file that gets longer, a folder that fills, or a socket.

    Args:
        source: a file of any known format, a folder of single frames (.tif, .npy), or the address of a ZeroMQ
            socket (``tcp://host:port``) that sends frames as DECTRIS detectors do (docs/howto-beamtime.md).
        setup: what the source does not say, as in a side-car (``{"energy": "8 keV", ...}``); it wins over a
            side-car beside the file.
        format: of a file.
        silence: seconds without a new pattern after which the scan is taken to be over.
        patience: seconds that the first pattern is waited for.
        subscribe: a socket that publishes (PUB) rather than pushes.

    Raises:
        MissingExtra: an address, and pyzmq is not installed.
        BadInput: what neither the source nor ``setup`` says, in one message; nothing comes in time, or what
            comes does not fit.
    """
    from phaseloom.data.growing.frame_folder import FrameFolder
    from phaseloom.data.growing.frame_stream import FrameStream
    from phaseloom.data.growing.growing_file import GrowingFile

    if "://" in str(source):
        feed: FrameFeed = FrameStream(str(source), setup=setup, silence=silence, subscribe=subscribe)
    elif Path(source).is_dir() and Path(source).suffix != ".zarr":
        feed = FrameFolder(Path(source), setup=setup, silence=silence)
    elif HOST_AND_PORT.fullmatch(str(source)) and not Path(source).exists():
        fix = f"is not a file, and an address begins with tcp://: write tcp://{source}"
        raise BadInput("watch", str(source), fix)
    else:
        feed = GrowingFile(Path(source), setup=setup, format=format, silence=silence)
    return GrowingScan(feed, patience=patience)
