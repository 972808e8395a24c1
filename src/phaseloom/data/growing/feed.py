"""What a scan that is being taken comes from: an announcement, then blocks of frames, then an end."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from phaseloom.data import formats
from phaseloom.data.formats.header import Header, MissingValues, example_of, join_words
from phaseloom.data.formats.setup import build_scan
from phaseloom.data.growing.unfinished import Unfinished, read_unfinished
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.spec import knobs

__all__ = ["Announcement", "FeedEnd", "FrameBlock", "FrameFeed", "announce_frames", "ask_for_setup"]
__all__ += ["parse_setup"]

log = logging.getLogger(__name__)


class FeedEnd(StrEnum):
    """Why no further pattern comes."""

    COMPLETE = "complete"
    """All patterns that were announced are here."""
    ENDED = "ended"
    """The source says that the scan is over; some patterns may be missing."""
    SILENT = "silent"
    """Nothing came for a while: the scan was aborted, the sender has died, or nobody says that it is over."""


@dataclass(frozen=True, eq=False)
class Announcement:
    """What is known of a scan before its patterns.

    Attributes:
        scan: geometry, mask and all that does not belong to single patterns; its own patterns do not count.
        count: of patterns; ``None``: not said.
        positions: ``(count, 2)`` by the number of the pattern, angstrom; ``None``: they come with patterns.
        grid: (slow, fast) of the whole raster, if it is one.
    """

    scan: Scan4D
    count: int | None
    positions: np.ndarray | None
    grid: tuple[int, int] | None

    @classmethod
    def of(cls, scan: Scan4D, found: Unfinished, /, *, count: int | None = None) -> "Announcement":
        """From a scan that was read while it was not finished, and the number of patterns if that is known.

        Raises:
            BadInput: fewer positions than patterns were announced.
        """
        positions = found.positions
        if positions is not None and count is not None and count > len(positions):
            fix = f"announced, but there are {len(positions)} positions: give those of this scan"
            raise BadInput("growing scan", f"{count} patterns", fix)
        return cls(scan, count, positions, found.grid)


@dataclass(frozen=True, eq=False)
class FrameBlock:
    """Some patterns that have come.

    Attributes:
        numbers: ``(m,)`` from 0, in the order of the scan.
        frames: ``(m, y, x)`` as the detector has them.
        positions: ``(m, 2)`` of the beam on the object, angstrom; ``None`` where they were announced.
        extras: ``weights`` and ``heights`` of the patterns, where the source has them.
    """

    numbers: np.ndarray
    frames: np.ndarray
    positions: np.ndarray | None = None
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)


class FrameFeed(Protocol):
    """A source of patterns; none of its methods waits."""

    @property
    def name(self) -> str:
        """What sentences call it."""
        ...

    @property
    def end(self) -> FeedEnd | None:
        """Why no further pattern comes; ``None`` while the scan goes on."""
        ...

    @property
    def file(self) -> Path | None:
        """A file that will hold all patterns; ``None``: there is none."""
        ...

    @property
    def format(self) -> str:
        """Of that file."""
        ...

    @property
    def setup(self) -> dict[str, Any]:
        """What the user says of the experiment."""
        ...

    def announce(self) -> Announcement | None:
        """What is known of the scan; ``None`` where nothing is as yet."""
        ...

    def take(self) -> list[FrameBlock]:
        """The patterns that have come since the last call."""
        ...

    def report(self) -> list[str]:
        """What went wrong so far, in sentences."""
        ...

    def close(self) -> None:
        """Ask for nothing any more."""
        ...


def announce_frames(
    name: str,
    shape: tuple[int, int],
    setup: Mapping[str, Any],
    /,
    *,
    header: Header | None = None,
    count: int | None = None,
    with_frames: bool = False,
) -> Announcement:
    """The announcement of bare frames, from what their source and the user say of the experiment.

    Args:
        name: of the source, for sentences.
        shape: of a pattern.
        setup: what a side-car says, with units (`phaseloom.data.formats.setup.Setup`).
        header: what the source says.
        count: of patterns, if the source says it.
        with_frames: whether each frame brings its position.

    Raises:
        BadInput: what neither says, in one message, and what does not fit.

    Example:
        >>> setup = {"energy": "8 keV", "beam": "photon", "angle": "40 µrad", "step": "100 nm"}
        >>> announce_frames("tcp://127.0.0.1:9999", (8, 8), {**setup, "grid": [4, 5]}).count
        20
    """
    chosen: Any = parse_setup(setup, name)
    header = header or Header()
    if with_frames:
        header = Header(**{**vars(header), "positions": np.zeros((1, 2))})
    short = Path(name.rpartition("/")[2])
    try:
        with read_unfinished() as found:
            scan = build_scan(short, np.ones((1, *shape), np.uint8), chosen, header=header)
    except MissingValues as problem:
        raise ask_for_setup(name, problem, count) from problem
    if count and found.grid and found.grid[0] * found.grid[1] > count:
        rows, columns = found.grid
        text = "%s: grid: %d x %d has %d places, but %d patterns are announced: unless the scan ends early, "
        text += "positions are wrong (slow times fast should be %d)"
        log.warning(text, name, rows, columns, rows * columns, count, count)
    if with_frames:
        found.positions = None
        return Announcement(scan, count, None, None)
    return Announcement.of(
        scan, found, count=count or (None if found.positions is None else len(found.positions))
    )


def parse_setup(setup: Mapping[str, Any], name: str, /) -> dict[str, Any]:
    """What a side-car says, in inner units.

    Args:
        setup: as in `announce_frames`.
        name: of the source, for sentences.

    Raises:
        BadInput: a name that it does not have, or a value without its unit.

    Example:
        >>> parse_setup({"energy": "8 keV", "grid": [4, 5]}, "tcp://127.0.0.1:9999")
        {'energy': 8000.0, 'grid': (4, 5)}
    """
    return formats.parse_knobs(setup, knobs(formats.__name__, "npy"), name, strict=True)


def ask_for_setup(name: str, problem: MissingValues, /, count: int | None = None) -> BadInput:
    """What a source that grows does not state, and the option for it, in place of that of a file.

    Args:
        name: of the source.
        problem: found in it.
        count: patterns that it announces.
    """
    missing = dict(problem.missing)
    if "grid" in missing:
        missing["grid"] += f"; slow times fast must be {count}" if count else ""
    lines = "; ".join(f"{key}: {example_of(key)} ({how})" for key, how in missing.items())
    fix = f"does not state {join_words([*missing])}: write a YAML file for --setup with {lines}"
    return BadInput(name, None, fix)
