"""Frames at equal distances in one file, or in several that continue one another, as most detectors write."""

import io
import logging
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from phaseloom.data.formats.header import Header
from phaseloom.data.formats.setup import Setup, build_scan
from phaseloom.data.remarks import warn
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput

__all__ = ["FrameFile", "FrameFiles", "build_raster_scan", "lay_out", "open_frames", "parse_number", "unpack"]

log = logging.getLogger(__name__)

MAX_FRAME_BYTES = 1 << 30
"""A frame of more bytes is a damaged header: the largest detectors have 64 Mi pixels of 4 bytes."""


FRAMES_PER_CALL = 256
"""Frames that the system is asked for at once; it takes 1024 places at most."""

MAX_BYTES_BETWEEN = 4096
"""More bytes than these between two frames are skipped rather than read."""


class FrameFile(NamedTuple):
    """A file, the byte at which the pixels of its first frame begin, and its number of frames."""

    path: Path
    offset: int
    frames: int


@dataclass(frozen=True)
class FrameFiles:
    """Frames in files as a `Source` ``(pattern, y, x)`` or ``(slow, fast, y, x)``, read when asked for.

    Files are open only while they are read, and no byte outside of a frame is ever part of a pattern.

    Attributes:
        files: in the order of the scan.
        stride: bytes from a frame to the next one.
        stored: dtype of the file.
        pixels: ``(y, x)`` of a pattern.
        lead: ``(n,)``, or ``(slow, fast)``.
        first: number of the frame that is the first pattern.
        row_stride: frames from a row of the scan to the next one: ``fast`` and those of the flyback.
        repeats: frames taken at each place, one after the other.
        summed: whether these are added; else the first of them counts.
        snake: every second row was scanned backwards.
        frame_bytes: bytes of the pixels of a frame; 0: as many as pixels of ``stored`` need.
        decode: turns bytes ``(m, frame_bytes)`` into patterns ``(m, y, x)`` where that is not a plain view.
        dtype: of the patterns, in the byte order of this machine.
    """

    files: tuple[FrameFile, ...]
    stride: int
    stored: np.dtype
    pixels: tuple[int, int]
    lead: tuple[int, ...]
    first: int = 0
    row_stride: int = 0
    repeats: int = 1
    summed: bool = False
    snake: bool = False
    frame_bytes: int = 0
    decode: Callable[[np.ndarray], np.ndarray] | None = None
    dtype: np.dtype = None  # pyright: ignore[reportAssignmentType]

    def __post_init__(self) -> None:
        if self.dtype is None:
            object.__setattr__(self, "dtype", self.stored.newbyteorder("="))
        if not self.frame_bytes:
            needed = self.pixels[0] * self.pixels[1] * self.stored.itemsize
            object.__setattr__(self, "frame_bytes", needed)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the scan, then of a pattern."""
        return (*self.lead, *self.pixels)

    def __len__(self) -> int:
        """Length of the first axis."""
        return self.lead[0]

    @property
    def count(self) -> int:
        """Number of frames in all files."""
        return sum(file.frames for file in self.files)

    def __getitem__(self, block: Any, /) -> np.ndarray:
        """Read the block of a tuple of slices."""
        numbers = self._numbers(block[: len(self.lead)])
        rows, columns = block[len(self.lead) :]
        patterns = self._read(numbers.ravel())[:, rows, columns]
        for later in range(1, self.repeats if self.summed else 1):
            patterns = patterns + self._read(numbers.ravel() + later)[:, rows, columns]
        return patterns.reshape(*numbers.shape, *patterns.shape[1:])

    def _numbers(self, block: tuple[slice, ...]) -> np.ndarray:
        """Numbers of the frames of a block of the scan."""
        places = [np.arange(n)[part] for n, part in zip(self.lead, block, strict=True)]
        if len(places) == 1:
            return self.first + places[0]
        slow, fast = np.meshgrid(*places, indexing="ij")
        if self.snake:
            fast = np.where(slow % 2, self.lead[1] - 1 - fast, fast)
        return self.first + slow * self.row_stride + fast * self.repeats

    def _read(self, numbers: np.ndarray) -> np.ndarray:
        """Patterns of frame numbers, each stretch of neighbours by one call of the system."""
        out = np.empty((len(numbers), *self.pixels), self.dtype)
        ends = np.cumsum([file.frames for file in self.files])
        which = np.searchsorted(ends, numbers, side="right")
        breaks = np.flatnonzero((np.diff(numbers) != 1) | (np.diff(which) != 0)) + 1
        for some in np.split(np.arange(len(numbers)), breaks) if len(numbers) else []:
            file = self.files[which[some[0]]]
            start = int(numbers[some[0]] - (ends[which[some[0]]] - file.frames))
            self._read_stretch(file, start, out[some[0] : some[-1] + 1])
        return out

    def _read_stretch(self, file: FrameFile, start: int, out: np.ndarray) -> None:
        plain = self.decode is None and self.stored.newbyteorder("=") == self.dtype
        frames = out.view(np.uint8).reshape(len(out), -1) if plain else None
        if frames is None:
            frames = np.empty((len(out), self.frame_bytes), np.uint8)
        with file.path.open("rb", buffering=0) as stream:
            whole = _read_frames(stream, file.offset + start * self.stride, self.stride, frames)
        if not whole:
            raise BadInput(file.path.name, None, "has become shorter while it was read: copy it again")
        if self.decode is not None:
            out[...] = self.decode(frames)
        elif not plain:
            out[...] = frames.view(self.stored).reshape(out.shape)
        elif not self.stored.isnative:
            out.byteswap(inplace=True)


def _read_frames(stream: io.FileIO, at: int, stride: int, out: np.ndarray) -> bool:
    """Fill rows ``(m, bytes)`` from places of a file that are ``stride`` apart; whether all were there.

    The system scatters many frames into place at once, without the bytes between them, where it can.
    """
    size = out.shape[1]
    between = memoryview(bytearray(stride - size))
    for first in range(0, len(out), FRAMES_PER_CALL):
        rows = out[first : first + FRAMES_PER_CALL]
        needed = len(rows) * stride - len(between)
        read = 0
        if hasattr(os, "preadv") and stride > size and stride - size <= MAX_BYTES_BETWEEN:
            parts = [part for row in rows for part in (row.data, between)]
            read = os.preadv(stream.fileno(), parts[:-1], at + first * stride)
        elif stride == size:
            stream.seek(at + first * stride)
            read = stream.readinto(rows.reshape(-1).data) or 0
        if read == needed:
            continue
        for number, row in enumerate(rows):
            stream.seek(at + (first + number) * stride)
            view = row.data
            while view and (count := stream.readinto(view)):
                view = view[count:]
            if view:
                return False
    return True


def open_frames(
    files: list[tuple[Path, int]],
    stored: np.dtype,
    pixels: tuple[int, int],
    /,
    *,
    header: int = 0,
    footer: int = 0,
    frame_bytes: int = 0,
    decode: Callable[[np.ndarray], np.ndarray] | None = None,
    dtype: np.dtype | None = None,
) -> FrameFiles:
    """Whole frames of files, of which an unfinished last one is left out with a warning.

    Args:
        files: each with the bytes before its first frame.
        stored: dtype of the file.
        pixels: ``(y, x)`` of a pattern.
        header: bytes before the pixels of each frame.
        footer: bytes after them; the last frame of a file may lack them.
        frame_bytes: of the pixels of a frame, when not what ``stored`` and ``pixels`` make.
        decode: see `FrameFiles`.
        dtype: of the patterns.

    Raises:
        BadInput: a frame without pixels or of an impossible size, or no whole frame.

    Example:
        >>> _ = Path("two.bin").write_bytes(bytes(range(5)) * 2 + b"0")
        >>> open_frames([(Path("two.bin"), 0)], np.dtype("u1"), (2, 2), header=1).shape
        (2, 2, 2)
    """
    name = files[0][0].name
    frame_bytes = frame_bytes or pixels[0] * pixels[1] * stored.itemsize
    if min(*pixels, frame_bytes) < 1 or frame_bytes > MAX_FRAME_BYTES or min(header, footer) < 0:
        fix = "are not the pixels of a detector: the header is damaged, copy the file again"
        raise BadInput(name, f"{pixels[1]}x{pixels[0]} pixels", fix)
    stride = header + frame_bytes + footer
    found = []
    for path, before in files:
        size = path.stat().st_size - before
        count = max(0, (size + footer) // stride)
        if (rest := size - count * stride) > 0:
            warn(log, "%s: ends with %d bytes that are not a whole frame and were left out", path.name, rest)
        found.append(FrameFile(path, before + header, count))
    whole = tuple(file for file in found if file.frames)
    if not whole:
        size = files[0][0].stat().st_size
        fix = f"bytes long, less than one frame of {stride}: copy it again"
        raise BadInput(name, f"is {size}", fix)
    dtype = stored.newbyteorder("=") if dtype is None else dtype
    shape = (sum(file.frames for file in whole),)
    return FrameFiles(
        whole, stride, stored, pixels, shape, frame_bytes=frame_bytes, decode=decode, dtype=dtype
    )


def lay_out(
    frames: FrameFiles,
    grid: tuple[int, int],
    name: str,
    /,
    *,
    flyback: int = 0,
    first: int = 0,
    snake: bool = False,
    repeats: int = 1,
    repeat: int | None = None,
    length: int | None = None,
    trailing: bool = False,
) -> FrameFiles:
    """Frames as the raster of a scan; an interrupted one has fewer rows, with a warning.

    Args:
        frames: in the order in which they were taken.
        grid: (slow, fast) as planned.
        name: of the file, for messages.
        flyback: frames after each row that belong to none.
        first: frames before the scan.
        snake: every second row was scanned backwards.
        repeats: frames at each place.
        repeat: which of them; default: their sum.
        length: frames of the scan, where the file states it: those after it are left out.
        trailing: whether a camera may go on after the scan; else more frames than the raster holds, by one
            for each row or more, are a wrong raster.

    Raises:
        BadInput: not one whole row, or rows of frames too many.
    """
    slow, fast = (int(n) for n in grid)
    row = fast * repeats
    present = frames.count - first
    present = present if length is None else min(present, length)
    if min(slow, fast) < 1 or flyback < 0 or first < 0:
        fix = "is not a raster: make both numbers positive, and flyback and first not negative"
        raise BadInput(f"{name}: grid", f"{slow}x{fast}", fix)
    rows = max(0, (present + flyback) // (row + flyback))
    if rows == 0:
        fix = f"needs rows of {row + flyback} frames, but the file holds {max(present, 0)}: give another grid"
        raise BadInput(f"{name}: grid", f"{slow}x{fast}", fix)
    if rows < slow:
        text = "%s: holds %d frames, less than the raster %dx%d: %d whole rows are used (interrupted scan?)"
        warn(log, text, name, present, slow, fast, rows)
    rest = present - (min(rows, slow) * (row + flyback) - flyback)
    # as many as rows: frames of a flyback that nobody states, which would shear the picture
    if rows >= slow and rest - flyback >= min(row, max(slow - 1, 2)) and not trailing:
        held = f"{slow}x{fast}" + (f" with {flyback} frames of flyback" if flyback else "")
        fix = (
            f"cannot hold the {present} frames of the file: {_suggest_raster(present // repeats, slow, fast)}"
        )
        raise BadInput(f"{name}: grid", held, fix)
    if rows >= slow and rest > flyback:
        text = "%s: holds %d frames more than the raster %dx%d: they were left out"
        warn(log, text, name, rest - flyback, slow, fast)
    summed = repeats > 1 and repeat is None
    return replace(
        frames,
        lead=(min(rows, slow), fast),
        first=first + (repeat or 0),
        row_stride=row + flyback,
        repeats=repeats,
        summed=summed,
        snake=snake,
        dtype=np.dtype({1: "u2", 2: "u4"}.get(frames.dtype.itemsize, "u4")) if summed else frames.dtype,
    )


def _suggest_raster(count: int, slow: int, fast: int) -> str:
    """What would hold all frames: flyback, another raster, or a part of a larger one."""
    for flyback in range(1, fast // 2 + 1):
        if count in (slow * (fast + flyback), slow * (fast + flyback) - flyback):
            larger = f"grid: [{slow}, {fast + flyback}] with selection: ':, :{fast}'"
            return f"{larger} would (frames of flyback after each row; of a .mib write flyback: {flyback})"
    rows = -(-count // fast)
    if count % fast == 0:
        return f"grid: [{rows}, {fast}] would; for a part of it add selection: '0:{slow}'"
    side = next(n for n in range(math.isqrt(count), 0, -1) if count % n == 0)
    square = f"grid: [{side}, {count // side}] would; " if 4 * side > count // side else ""
    return f"{square}give it as it was scanned, slow times fast"


def build_raster_scan(path: Path, frames: FrameFiles, setup: Setup, header: Header, /, **how: Any) -> Scan4D:
    """A scan of frames: in the raster that the user or the file states, else as they come.

    Args:
        path: the file.
        frames: see `open_frames`.
        setup: of the user; its ``grid`` wins over that of the header.
        header: what the file says.
        **how: as of `lay_out`.

    Raises:
        BadInput: see `lay_out` and `build_scan`.
    """
    grid = setup.get("grid") or header.grid
    arranged = any(setup.get(name) is not None for name in ("selection", "permute", "reshape"))
    if grid is None:
        first = how.get("first", 0)
        frames = replace(frames, first=first, lead=(max(0, frames.count - first),))
    elif setup.get("positions") is None or grid[0] * grid[1] == frames.count:
        frames = lay_out(frames, grid, path.name, **how)
    own: Setup = {**setup}
    own.pop("grid", None)
    own_grid = frames.lead if len(frames.lead) == 2 and not arranged else None
    if setup.get("grid") is not None:
        own["grid"] = own_grid  # as much of it as there is
    planned = None if own_grid is None else {"grid": grid}
    return build_scan(path, frames, own, header=replace(header, grid=own_grid), planned=planned)


def unpack(path: Path, dtype: np.dtype, offset: int = 0, /) -> Mapping[str, Any]:
    """The fields of a packed header of a file, as Python values.

    Raises:
        BadInput: the file ends before.

    Example:
        >>> _ = Path("a.bin").write_bytes(bytes([1, 0, 2]))
        >>> dict(unpack(Path("a.bin"), np.dtype([("version", "<u2"), ("bits", "u1")])))
        {'version': 1, 'bits': 2}
    """
    with path.open("rb") as stream:
        stream.seek(offset)
        raw = stream.read(dtype.itemsize)
    if len(raw) < dtype.itemsize:
        raise BadInput(path.name, f"is {offset + len(raw)}", "bytes long, its header is cut: copy it again")
    record = np.frombuffer(raw, dtype)[0]
    return {name: record[name].item() for name in dtype.names or () if dtype[name].shape == ()}


def parse_number(text: str | None, /) -> float | None:
    """A finite number of a text, or nothing.

    Example:
        >>> parse_number(" 2.5e-3 "), parse_number("none"), parse_number("inf"), parse_number(None)
        (0.0025, None, None, None)
    """
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if np.isfinite(value) else None
