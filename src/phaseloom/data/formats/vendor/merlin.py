"""Quantum Detectors Merlin ``.mib``: an ASCII header and big-endian pixels for each frame; ``.hdr`` beside.

Fields of a frame's header, separated by commas: 0 ``MQ1``, 1 number of the frame, 2 bytes of the header, 3
number of chips, 4 width, 5 height, 6 type (``U08 U16 U32`` counts, ``R64`` raw), 7 layout of the chips (``1x1
2x2 Nx1``, with ``G`` for gaps), 9 time, 10 exposure in seconds; the last one is the depth of the counter, 1,
6, 12 or 24 bit. The order of raw pixels follows LiberTEM (MIT licence, Copyright LiberTEM developers).
"""

import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Unpack

import numpy as np

from phaseloom.data.formats.files import require_file
from phaseloom.data.formats.header import About, Header
from phaseloom.data.formats.setup import Setup, accept_setup
from phaseloom.data.formats.vendor.frames import build_raster_scan, open_frames
from phaseloom.data.remarks import warn
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput

__all__ = ["ABOUT", "knows", "list_files", "read"]

ABOUT = About(
    files=".mib, .hdr beside",
    reading="batch by batch",
    states="raster, dwell time, date",
    compared="rosettasciio 0.15: equal, rows flipped there; LiberTEM 0.16 (by hand): counts, raw 6 and "
    "12 bit (single, quad), 24 bit (first frame); none for raw 1 bit, 24 bit quad and N chips "
    "in a row",
)

log = logging.getLogger(__name__)

COUNTED = {"U08": ">u1", "U16": ">u2", "U32": ">u4"}
RAW_BITS = {1: (1, "u1"), 6: (8, "u1"), 12: (16, "u2"), 24: (32, "u4")}
"""Bits that a pixel takes in a raw file, and the dtype of its counts, by the depth of the counter."""

MAX_HEADER_BYTES = 65536
HINTS = {
    "energy": "the accelerating voltage, on the microscope's screen; no Merlin file has it",
    "step": "the scan's field of view / ScanX, in the microscope's scan dialog; or positions",
}


def knows(path: Path, /) -> bool:
    """Whether a file begins as frames of a Merlin do, or is the ``.hdr`` beside such a file."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        start = stream.read(4)
    beside = path.with_suffix(".mib")
    return start == b"MQ1," or (start == b"HDR," and path.suffix.lower() == ".hdr" and knows(beside))


def list_files(path: Path, /) -> list[Path]:
    """A ``.mib`` and those that continue it.

    Raises:
        BadInput: a damaged header of a frame.
    """
    return _find_continuations(path, _FrameHeader.of(path))


@accept_setup()
def read(
    path: str | os.PathLike[str],
    /,
    *,
    flyback: int | None = None,
    exposure: int | None = None,
    **setup: Unpack[Setup],
) -> Scan4D:
    """Counts of a Merlin (Medipix3) detector: ``.mib``, with ``.hdr`` of the same name beside it.

    The raster is ``ScanY`` x ``ScanX`` of the ``.hdr``, else rows of its frames per trigger. Where a trigger
    has more frames than ``ScanX``, those at the end of each row are of the flyback and are left out. Files
    ``name1.mib, name2.mib`` whose frame numbers continue one another are one scan. Rows are as stored:
    rosettasciio flips them. Raw frames of chips in one row are taken in the order of a quad's upper row.

    Args:
        path: the ``.mib``, or the ``.hdr``.
        **setup: see `Setup`.
        flyback: frames after each row that belong to none; default: what the ``.hdr`` says.
        exposure: which of several frames taken at each place, from 0; default: their sum.

    Raises:
        BadInput: what is missing or does not fit.

    Example:
        >>> head = b"MQ1,000001,00384,01,0004,0002,U08,   1x1,01,2024-01-01,0.001,0,0,8".ljust(384, bytes(1))
        >>> _ = Path("a.mib").write_bytes((head + bytes(range(8))) * 6)
        >>> scan = read("a.mib", energy=200e3, angle=1e-3, step=0.5, grid=(2, 3))
        >>> scan.grid, scan.counts[0].tolist()
        ((2, 3), [[0, 1, 2, 3], [4, 5, 6, 7]])
    """
    path = require_file(path)
    path = path.with_suffix(".mib") if path.suffix.lower() == ".hdr" else path
    frame = _FrameHeader.of(path)
    notes = _read_notes(path)
    frames = open_frames(
        [(file, 0) for file in _find_continuations(path, frame)],
        np.dtype(frame.stored),
        frame.pixels,
        header=frame.header_bytes,
        frame_bytes=frame.frame_bytes,
        decode=frame.decode,
        dtype=np.dtype(frame.dtype),
    )
    _warn_of_lost_frames(path, frame)
    grid = setup.get("grid") or _grid_of(notes, frames.count, flyback or 0)
    header = Header(grid=grid, metadata=_metadata(path, frame, notes), hints=HINTS)
    per_trigger = _whole_number(notes, "Frames per Trigger (Number)")
    repeats = per_trigger if grid and _is_repeated(grid, frames.count, per_trigger) else 1
    if exposure is not None and not 0 <= exposure < repeats:
        fix = f"is not there: the file holds {repeats} frame{'s'[: repeats > 1]} for each place, from 0"
        raise BadInput(f"{path.name}: exposure", exposure, fix)
    if flyback is None:
        is_filled = grid is not None and grid[0] * grid[1] == frames.count  # leaves none for a flyback
        is_row = grid is not None and per_trigger > 1 and repeats == 1 and not is_filled
        flyback = max(0, per_trigger - grid[1]) if grid and is_row else 0
    how = {"flyback": flyback, "repeats": repeats, "repeat": exposure}
    return build_raster_scan(path, frames, setup, header, **how)


COUNTS_IN_HEADER = {1: "frame number", 2: "bytes", 3: "chips", 4: "columns", 5: "rows"}
"""Whole numbers in the header of a frame, by their field."""


@dataclass(frozen=True)
class _FrameHeader:
    """What the header of a frame says."""

    number: int
    header_bytes: int
    pixels: tuple[int, int]
    stored: str
    dtype: str
    frame_bytes: int
    decode: Callable[[np.ndarray], np.ndarray] | None
    fields: list[str]

    @property
    def size(self) -> int:
        """Bytes of a frame and its header."""
        return self.header_bytes + (self.frame_bytes or int(np.prod(self.pixels)) * int(self.stored[-1]))

    @classmethod
    def of(cls, path: Path) -> "_FrameHeader":
        """The header of the first frame of a file."""
        fields = _read_fields(path)
        number, header_bytes, chips, width, height = (
            _read_number(path, fields, at, what) for at, what in COUNTS_IN_HEADER.items()
        )
        kind = fields[6].strip().upper()
        across, down = _read_layout(path, fields[7])
        if min(width, height, chips, across, down) < 1:
            raise BadInput(path.name, f"{width}x{height}", "is not the size of a frame: copy the file again")
        if kind in COUNTED:
            dtype = COUNTED[kind]
            return cls(number, header_bytes, (height, width), dtype, f"u{dtype[-1]}", 0, None, fields)
        bits = int(fields[-1]) if fields[-1].strip().isdigit() else 0  # the last one, where a version has it
        if kind != "R64" or bits not in RAW_BITS:
            fix = (
                f"is not a known type of pixels: expected {', '.join(COUNTED)}, or R64 of 1, 6, 12 or 24 bit"
            )
            raise BadInput(f"{path.name}: {kind}", bits, fix)
        if bits == 24:
            width //= 2  # two frames of 12 bit, one after the other
        layout = (down, across) if chips > 1 and across * down == chips else (1, 1)
        side = width // layout[0] // layout[1]
        pixels = (height * layout[0], side * layout[1])
        if side * layout[0] * layout[1] != width or width % (64 if bits == 1 else 8) or min(pixels) < 1:
            fix = f"pixels of {bits} bit do not make {layout[1]}x{layout[0]} chips: copy the file again"
            raise BadInput(f"{path.name}: {kind}", f"{width}x{height}", fix)
        decode = partial(_decode, bits=bits, stored=(height, width), layout=layout)
        size, dtype = RAW_BITS[bits]
        return cls(number, header_bytes, pixels, "u1", dtype, height * width * size // 8, decode, fields)


def _read_number(path: Path, fields: list[str], at: int, what: str) -> int:
    try:
        return int(fields[at])
    except (ValueError, IndexError) as error:
        shown = fields[at].strip() if at < len(fields) else None
        place = f"{path.name}: {what} of the frame header"
        raise BadInput(place, shown, "is not a whole number: copy the file again") from error


def _read_layout(path: Path, text: str) -> tuple[int, int]:
    """Chips across and down, of ``2x2`` or ``2x2G``."""
    parts = text.strip().upper().removesuffix("G").split("X")
    if len(parts) != 2 or not all(part.isdigit() for part in parts):
        place = f"{path.name}: sensor layout of the frame header"
        raise BadInput(place, text.strip(), "is not such as 1x1 or 2x2: copy the file again")
    return int(parts[0]), int(parts[1])


def _read_fields(path: Path) -> list[str]:
    """The fields of the first frame's header that hold text."""
    with path.open("rb") as stream:
        start = stream.read(MAX_HEADER_BYTES).decode("ascii", "replace")
    parts = start[:512].split(",")
    if len(parts) < 8 or parts[0] != "MQ1" or not parts[2].strip().isdigit():
        raise BadInput(path.name, None, "does not begin with a frame header 'MQ1,...': choose another format")
    size = int(parts[2])
    if not 64 <= size <= len(start):
        raise BadInput(f"{path.name}: header", size, "bytes are not a frame header: copy the file again")
    text = start[:size].rstrip("\0\r\n ,")
    return [part for part in text.split(",") if "\0" not in part]


def _decode(raw: np.ndarray, *, bits: int, stored: tuple[int, int], layout: tuple[int, int]) -> np.ndarray:
    """Raw frames ``(m, bytes)`` as patterns ``(m, y, x)``."""
    if bits == 24:
        half = raw.shape[1] // 2
        high, low = (
            _decode(part, bits=12, stored=stored, layout=layout) for part in (raw[:, :half], raw[:, half:])
        )
        return (high.astype(np.uint32) << 12) + low
    m = len(raw)
    if bits == 1:  # words of 64 pixels, the last byte of which comes first
        words = np.ascontiguousarray(raw.reshape(m, -1, 8)[:, :, ::-1])
        pixels = np.unpackbits(words, axis=2, bitorder="little")
    elif bits == 6:
        pixels = raw.reshape(m, -1, 8)[:, :, ::-1]
    else:
        pixels = np.ascontiguousarray(raw).view(">u2").reshape(m, -1, 4)[:, :, ::-1]
    return _place_chips(pixels.reshape(m, *stored), layout)


def _place_chips(rows: np.ndarray, layout: tuple[int, int]) -> np.ndarray:
    """Chips that were read out side by side, from the last to the first, in their places.

    Those below the first row of chips lie upside down.
    """
    if layout == (1, 1):
        return rows
    m, height, width = rows.shape
    down, across = layout
    chips = rows.reshape(m, height, down * across, width // (down * across))[:, :, ::-1]
    out = np.empty((m, height * down, chips.shape[3] * across), rows.dtype)
    for number in range(down * across):
        row, column = divmod(number, across)
        chip = chips[:, :, number]
        place = np.s_[
            :, row * height : (row + 1) * height, column * chip.shape[2] : (column + 1) * chip.shape[2]
        ]
        out[place] = chip[:, ::-1, ::-1] if row else chip
    return out


def _find_continuations(path: Path, first: _FrameHeader) -> list[Path]:
    """The file, and those of the same name with later numbers whose frames continue its own."""
    stem = re.fullmatch(r"(.*?)(\d+)", path.stem)
    found = [path]
    if stem is None:
        return found
    number = int(stem[2])
    frame = first
    while True:
        number += 1
        after = path.with_name(f"{stem[1]}{number:0{len(stem[2])}d}{path.suffix}")
        if not knows(after):
            return found
        expected = frame.number + found[-1].stat().st_size // frame.size
        later = _FrameHeader.of(after)
        if later.number != expected or (later.pixels, later.dtype) != (frame.pixels, frame.dtype):
            return found
        found.append(after)
        frame = later


def _warn_of_lost_frames(path: Path, first: _FrameHeader) -> None:
    """Say where frames are missing: all that follow lie at wrong places. Frames are numbered.

    The first gap is found by halving, so that few headers are read.
    """
    with path.open("rb") as stream:
        count = os.fstat(stream.fileno()).st_size // first.size

        def lost_before(index: int) -> int:
            stream.seek(index * first.size)
            number = re.match(rb"MQ1,(\d+),", stream.read(20))
            return 0 if number is None else int(number[1]) - first.number - index

        low, high = 0, count - 1
        lost = lost_before(high) if count > 1 else 0
        if lost <= 0:  # also where a camera counts anew
            return
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if lost_before(middle) <= 0 else (low, middle)
    text = "%s: frames missing by their numbers: %d, the first with number %d: later ones lie at wrong places"
    warn(log, text, path.name, lost, first.number + high)


def _read_notes(path: Path) -> dict[str, str]:
    """The lines ``key: value`` of the ``.hdr`` beside a file."""
    beside = [path.with_suffix(end) for end in (".hdr", ".HDR")]
    beside.append(path.with_name(re.sub(r"\d+$", "", path.stem) + ".hdr"))
    file = next((name for name in beside if name.is_file()), None)
    if file is None:
        return {}
    text = file.read_bytes()[:MAX_HEADER_BYTES].decode("utf-8", "replace")
    lines = [line.partition("\t") for line in text.splitlines() if "\t" in line]
    return {
        key.strip().rstrip(":"): value.strip()
        for key, _, value in lines
        if not key.startswith(("HDR", "End"))
    }


def _whole_number(notes: dict[str, str], key: str) -> int:
    """A whole number of the ``.hdr``, 0 where it has none."""
    value = notes.get(key, "").strip()
    return int(value) if value.isdigit() and len(value) < 10 else 0


def _grid_of(notes: dict[str, str], count: int, flyback: int) -> tuple[int, int] | None:
    fast, slow = (_whole_number(notes, key) for key in ("ScanX", "ScanY"))
    if fast and slow:
        return slow, fast
    row = _whole_number(notes, "Frames per Trigger (Number)")
    planned = _whole_number(notes, "Frames in Acquisition (Number)") or count
    if row <= max(1, flyback) or planned < row or planned % row:
        return None
    return planned // row, row - flyback


def _is_repeated(grid: tuple[int, int], count: int, per_trigger: int) -> bool:
    """Whether each trigger, one for each place of the scan, took several frames."""
    places = grid[0] * grid[1]
    return per_trigger > 1 and per_trigger != grid[1] and count == places * per_trigger


def _metadata(path: Path, frame: _FrameHeader, notes: dict[str, str]) -> dict[str, str]:
    fields = frame.fields
    found = {"instrument": "Quantum Detectors Merlin", "detector": f"Medipix3, {fields[7].strip()} chips"}
    if len(fields) > 10:
        found |= {"date": fields[9].strip(), "dwell time": f"{fields[10].strip()} s"}
    lines = [",".join(fields)] + [f"{key}:\t{value}" for key, value in notes.items()]
    return found | {"original header": "\n".join(lines)}
