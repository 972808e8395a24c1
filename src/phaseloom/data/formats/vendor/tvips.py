"""TVIPS ``NAME_000.tvips, NAME_001.tvips, ...``: frames of a camera, in files that continue one another.

The first file begins with 256 bytes of ``<i4``: size (256), version (1 or 2), width, height, bits of a pixel,
camera offsets and binning, pixel size (nm), high tension (kV), magnification, bytes of a frame's header
(version 2; 12 in version 1). The frame header of version 2 has the counter, the time, stage and, where a scan
is driven by the camera's program, the index of the rotator and the place of the beam.
"""

import datetime
import os
import re
from pathlib import Path
from typing import Any, NamedTuple, Unpack

import numpy as np

from phaseloom.data.formats.files import require_file
from phaseloom.data.formats.header import About, Header
from phaseloom.data.formats.setup import Setup, accept_setup
from phaseloom.data.formats.vendor.frames import FrameFiles, build_raster_scan, open_frames, unpack
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput

__all__ = ["ABOUT", "knows", "read"]

ABOUT = About(
    files="_000.tvips and on",
    reading="batch by batch",
    states="energy, raster or number of frames of a scan (version 2), magnification, date",
    compared="rosettasciio 0.15 (version 2) and LiberTEM 0.16 (by hand): equal",
)

SERIES_BYTES = 256
SERIES = np.dtype(
    [
        (name, "<i4")
        for name in (
            "size",
            "version",
            "width",
            "height",
            "bits",
            "x_offset",
            "y_offset",
            "x_binning",
            "y_binning",
            "pixel_nm",
            "kilovolt",
            "magnification",
            "frame_header",
        )
    ]
)
FRAME_HEADER_1 = 12
FRAME = np.dtype(
    [("counter", "<u4"), ("time", "<u4"), ("milliseconds", "<u4"), ("lut", "<u4"), ("faraday", "<f4")]
    + [("magnification", "<u4"), ("mode", "<u4")]
    + [(f"stage_{name}", "<f4") for name in ("x", "y", "z", "alpha", "beta")]
    + [("rotator", "<u4"), ("temperature", "<f4"), ("temperature_set", "<f4"), ("power", "<f4")]
    + [("objective", "<f4"), ("scan_x", "<f4"), ("scan_y", "<f4")]
)
MAX_FRAMES_TO_FIND_SCAN = 4096
"""Frames at the beginning among which the scan begins and its first row ends, as LiberTEM assumes."""


class _Scan(NamedTuple):
    """Which frames are the scan, as far as the headers of frames say."""

    first: int = 0
    length: int | None = None
    grid: tuple[int, int] | None = None


def knows(path: Path, /) -> bool:
    """Whether a file is named ``.tvips``."""
    return path.suffix.lower() == ".tvips" and path.is_file()


@accept_setup()
def read(
    path: str | os.PathLike[str],
    /,
    *,
    first: int | None = None,
    snake: bool = False,
    **setup: Unpack[Setup],
) -> Scan4D:
    """Counts of a TVIPS camera, of all files of a series; it states the energy, and sometimes the raster.

    Files of version 2 number the frames of a scan (rotator), so that frames before it are left out, and may
    have the place of the beam, from which the raster follows.

    Args:
        path: any file of the series.
        **setup: see `Setup`.
        first: number of the frame that is the first pattern; default: what the headers of frames say.
        snake: every second row was scanned backwards.

    Raises:
        BadInput: a damaged header, or what is missing.

    Example:
        >>> head = np.zeros(64, "<i4")
        >>> head[:5] = 256, 1, 3, 2, 8
        >>> _ = Path("a_000.tvips").write_bytes(head.tobytes() + (bytes(12) + bytes(range(6))) * 4)
        >>> read("a_000.tvips", energy=2e5, angle=1e-3, step=1.0, grid=(2, 2)).counts[3].tolist()
        [[0, 1, 2], [3, 4, 5]]
    """
    path = require_file(path)
    files = _find_files(path)
    series: Any = _read_series(files[0])
    frames = open_frames(
        [(file, SERIES_BYTES if file == files[0] else 0) for file in files],
        np.dtype("u1" if series["bits"] == 8 else "<u2"),
        (series["height"], series["width"]),
        header=series["frame_header"],
    )
    scan = _Scan() if series["version"] == 1 else _find_scan(frames, series["frame_header"])
    energy = series["kilovolt"] * (1e3 if series["kilovolt"] < 3000 else 1.0)
    hints = (
        {} if scan.length is None else {"grid": f"the scan has {scan.length} frames from number {scan.first}"}
    )
    header = Header(
        energy=energy if energy > 0 else None,
        grid=scan.grid,
        metadata=_metadata(files, series, frames),
        hints=hints,
    )
    start = scan.first if first is None else first
    length = None if scan.length is None else scan.length + scan.first - start
    how = {"first": start, "snake": snake, "length": length, "trailing": length is None}
    return build_raster_scan(path, frames, setup, header, **how)


def _find_files(path: Path) -> list[Path]:
    """The files of a series, in the order of their numbers, without gap."""
    named = re.fullmatch(r"(.*_)(\d{3,})", path.stem)
    if named is None:
        return [path]
    found = []
    number = 0
    while (file := path.with_name(f"{named[1]}{number:0{len(named[2])}d}{path.suffix}")).is_file():
        found.append(file)
        number += 1
    if path not in found:
        fix = (
            f"is not here: the series begins with {named[1]}{0:0{len(named[2])}d}{path.suffix}, without gaps"
        )
        raise BadInput(path.name, f"file {number} of its series", fix)
    return [file for file in found if file.stat().st_size]


def _read_series(path: Path) -> Any:
    series: Any = dict(unpack(path, SERIES))
    if series["size"] != SERIES_BYTES or series["version"] not in (1, 2):
        fix = "are not of a TVIPS series: choose another format, or copy the file again"
        raise BadInput(path.name, f"size {series['size']} and version {series['version']}", fix)
    if series["bits"] not in (8, 16):
        raise BadInput(f"{path.name}: bits", series["bits"], "must be 8 or 16: copy the file again")
    series["frame_header"] = FRAME_HEADER_1 if series["version"] == 1 else series["frame_header"]
    if not FRAME_HEADER_1 <= series["frame_header"] <= 1 << 20:
        fix = "bytes are not a frame's header: copy the file again"
        raise BadInput(path.name, series["frame_header"], fix)
    return series


def _read_frame_headers(frames: FrameFiles, header_bytes: int, numbers: np.ndarray) -> np.ndarray:
    """Headers of some frames; fields beyond a short header are zero."""
    out = np.zeros(len(numbers), FRAME)
    raw = out.view(np.uint8).reshape(len(out), FRAME.itemsize)
    size = min(header_bytes, FRAME.itemsize)
    at = 0
    for file in frames.files:
        own = np.flatnonzero((numbers >= at) & (numbers < at + file.frames))
        with file.path.open("rb") as stream:
            for place in own:
                stream.seek(file.offset - header_bytes + int(numbers[place] - at) * frames.stride)
                raw[place, :size] = np.frombuffer(stream.read(size), np.uint8)
        at += file.frames
    return out


def _find_scan(frames: FrameFiles, header_bytes: int) -> _Scan:
    """First frame, number of frames and raster of a scan, from the rotator and the places of the beam."""
    heads = _read_frame_headers(frames, header_bytes, np.arange(min(frames.count, MAX_FRAMES_TO_FIND_SCAN)))
    counted = np.flatnonzero(heads["rotator"] == 1)
    first = int(counted[0]) if len(counted) and _counts_up(heads["rotator"][counted[0] :]) else None
    count = None if first is None else _count_scan(frames, header_bytes, first)
    x = np.nan_to_num(heads["scan_x"], nan=-1.0)
    y = np.nan_to_num(heads["scan_y"], nan=-1.0)
    if first is None:
        pairs = np.flatnonzero((x[1:] == 1) & (y[1:] == 0) & (x[:-1] == 0) & (y[:-1] == 0))
        first = int(pairs[0]) if len(pairs) else None
    if first is None:
        return _Scan()
    turns = np.flatnonzero(np.diff(x[first:]) < 0)
    if not len(turns) or x[first] != 0 or not (x == np.round(x)).all():
        return _Scan(first, count)
    fast = int(x[first + turns[0]]) + 1
    return _Scan(first, count, (max(1, (count or frames.count - first) // fast), fast))


def _counts_up(rotator: np.ndarray) -> bool:
    """Whether an index counts 1, 2, 3, ... until it stays or falls back."""
    steps = np.diff(rotator.astype(np.int64))
    ends = np.flatnonzero(steps != 1)
    return len(rotator) < 2 or (not len(ends) or ends[0] > 0)


def _count_scan(frames: FrameFiles, header_bytes: int, first: int) -> int:
    """Frames of a scan: as many as the rotator counts up from its first one (by bisection)."""
    low = first
    high = frames.count
    while high - low > 1:
        middle = (low + high) // 2
        (head,) = _read_frame_headers(frames, header_bytes, np.array([middle]))
        if head["rotator"] == middle - first + 1:
            low = middle
        else:
            high = middle
    return low - first + 1


def _metadata(files: list[Path], series: Any, frames: FrameFiles) -> dict[str, str]:
    found = {
        "instrument": "TVIPS camera",
        "camera binning": f"{series['x_binning']} x {series['y_binning']}",
        "camera pixel": f"{series['pixel_nm']} nm",
        "magnification": str(series["magnification"]),
        "original header": "; ".join(f"{name} = {value}" for name, value in series.items()),
    }
    if series["frame_header"] >= FRAME_HEADER_1:
        (head,) = _read_frame_headers(frames, series["frame_header"], np.array([0]))
        when = datetime.datetime.fromtimestamp(int(head["time"]), datetime.UTC)
        found |= {"date": when.isoformat()} if head["time"] else {}
    return found
