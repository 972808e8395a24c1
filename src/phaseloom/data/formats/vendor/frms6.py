"""PNDetector ``NAME_000.frms6, NAME_001.frms6, ...`` with ``NAME.hdr``: frames of a folded pnCCD.

A file begins with 1024 bytes: u2 1024, u2 64 (bytes of a frame's header), 3 bytes, u1 version 6, 80 bytes, u2
width, u2 height, 928 bytes, u4 number of frames. Each frame has 64 bytes of header, then ``<u2``. The right
half of the stored frame is the lower half of the sensor, turned by 180 degrees. The file ``_000`` holds dark
frames. The ``.hdr`` is an INI file with a section ``measurementInfo``. The order of pixels follows LiberTEM
(MIT licence, Copyright LiberTEM developers).
"""

import configparser
import os
import re
from functools import partial
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np

from phaseloom.data.counts import ArrangedCounts, split_indices
from phaseloom.data.formats.files import require_file
from phaseloom.data.formats.header import About, Header
from phaseloom.data.formats.setup import Setup, accept_setup
from phaseloom.data.formats.vendor.frames import FrameFiles, build_raster_scan, open_frames, unpack
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput

__all__ = ["ABOUT", "knows", "read"]

ABOUT = About(
    files="_001.frms6 and on, _000 dark; .hdr beside",
    reading="batch by batch",
    states="raster, dwell time, dark frames",
    compared="LiberTEM 0.16 (by hand): equal to rounding; none for binned rows",
)

HEADER = np.dtype(
    [
        ("header_size", "<u2"),
        ("frame_header", "<u2"),
        ("padding", "V3"),
        ("version", "u1"),
        ("comment", "V80"),
        ("width", "<u2"),
        ("height", "<u2"),
        ("comment_2", "V928"),
        ("frames", "<u4"),
    ]
)
FILE_HEADER_BYTES = 1024
FRAME_HEADER_BYTES = 64
MAX_DARK_FRAMES = 1024


def knows(path: Path, /) -> bool:
    """Whether a file is named ``.frms6``."""
    return path.suffix.lower() == ".frms6" and path.is_file()


@accept_setup()
def read(
    path: str | os.PathLike[str],
    /,
    *,
    dark: Literal["subtract", "keep"] = "subtract",
    **setup: Unpack[Setup],
) -> Scan4D:
    """Signals of a pnCCD of PNDetector, unfolded; the ``.hdr`` states raster and dwell time.

    Where rows were binned at readout, columns are added up by the same factor, so that pixels are square.

    Args:
        path: any ``.frms6`` of the measurement.
        **setup: see `Setup`.
        dark: ``subtract`` the mean of the dark frames (the result is float32), or ``keep`` integers as they
            are.

    Raises:
        BadInput: a damaged header, or what is missing.

    Example:
        >>> head = np.zeros(1, HEADER)
        >>> head["header_size"], head["frame_header"], head["version"] = 1024, 64, 6
        >>> head["width"], head["height"] = 4, 1
        >>> frame = bytes(64) + np.arange(4, dtype="<u2").tobytes()
        >>> _ = Path("a_001.frms6").write_bytes(head.tobytes() + frame * 6)
        >>> read("a_001.frms6", energy=2e5, angle=1e-3, step=1.0, grid=(2, 3)).counts[0].tolist()
        [[0, 1], [3, 2]]
    """
    path = require_file(path)
    signal, darks = _find_files(path)
    notes = _read_notes(path)
    factor = _binning(notes)
    head: Any = _read_file_header(signal[0])
    frames = _open(signal, head, factor)
    level = _mean_dark(_open(darks, _read_file_header(darks[0]), factor)) if darks else None
    if level is not None and dark == "subtract" and level.shape == frames.pixels:
        frames = _open(signal, head, factor, level)
    header = Header(grid=_grid_of(notes), metadata=_metadata(head, notes))
    return build_raster_scan(path, frames, setup, header)


def _find_files(path: Path) -> tuple[list[Path], list[Path]]:
    """Files with signal and files with dark frames, in order."""
    named = re.fullmatch(r"(.*_)(\d+)", path.stem)
    if named is None:
        return [path], []
    every = sorted(path.parent.glob(f"{_escape(named[1])}*{path.suffix}"))
    pattern = re.compile(rf"{re.escape(named[1])}(\d+)")
    numbered = {file: found[1] for file in every if (found := pattern.fullmatch(file.stem))}
    darks = [file for file, number in numbered.items() if int(number) == 0]
    signal = [file for file in numbered if file not in darks]
    if not signal:
        raise BadInput(path.name, None, "holds dark frames only: the files _001 and so on must be beside it")
    return signal, darks


def _escape(text: str) -> str:
    """A name as a pattern of `Path.glob`."""
    return re.sub(r"([*?\[])", r"[\1]", text)


def _read_file_header(path: Path) -> Any:
    head: Any = unpack(require_file(path), HEADER)
    size = (head["header_size"], head["frame_header"], head["version"])
    if size != (FILE_HEADER_BYTES, FRAME_HEADER_BYTES, 6) or head["width"] % 2:
        fix = "are not those of version 6 (1024, 64, 6): choose another format, or copy the file again"
        raise BadInput(path.name, f"sizes and version {size}", fix)
    return head


def _open(files: list[Path], head: Any, factor: int, level: np.ndarray | None = None) -> FrameFiles:
    """Frames of files of one size, unfolded, and less a dark level."""
    for file in files[1:]:
        other: Any = _read_file_header(file)
        if (other["width"], other["height"]) != (head["width"], head["height"]):
            raise BadInput(file.name, None, f"has frames of another size than {files[0].name}: move it away")
    folded = (head["height"], head["width"])
    pixels = (2 * folded[0], folded[1] // 2 // factor)
    kind = np.float32 if level is not None else np.uint16 if factor == 1 else np.uint32
    decode = partial(_unfold, folded=folded, factor=factor, level=level)
    return open_frames(
        [(file, FILE_HEADER_BYTES) for file in files],
        np.dtype("<u2"),
        pixels,
        header=FRAME_HEADER_BYTES,
        frame_bytes=2 * folded[0] * folded[1],
        decode=decode,
        dtype=np.dtype(kind),
    )


def _unfold(raw: np.ndarray, *, folded: tuple[int, int], factor: int, level: np.ndarray | None) -> np.ndarray:
    """Frames ``(m, bytes)`` as patterns: the right half below the left one, turned by 180 degrees."""
    height, width = folded
    rows = np.ascontiguousarray(raw).view("<u2").reshape(len(raw), height, width)
    whole = np.concatenate([rows[:, :, : width // 2], rows[:, ::-1, : width // 2 - 1 : -1]], 1)
    if factor > 1:
        kept = width // 2 // factor * factor
        whole = whole[:, :, :kept].reshape(len(raw), 2 * height, -1, factor).sum(3, dtype=np.uint32)
    return whole if level is None else whole - level


def _mean_dark(frames: FrameFiles) -> np.ndarray:
    """Mean of the dark frames, float32."""
    counts = ArrangedCounts.of(frames)
    number = min(counts.shape[0], MAX_DARK_FRAMES)
    total = np.zeros(frames.pixels)
    for index in split_indices(counts):
        if index[0] >= number:
            break
        total += counts[index[index < number]].sum(0, dtype=np.float64)
    return (total / number).astype(np.float32)


def _read_notes(path: Path) -> dict[str, str]:
    """The section ``measurementInfo`` of the ``.hdr``."""
    file = path.with_name(re.sub(r"_\d+$", "", path.stem) + ".hdr")
    if not file.is_file():
        return {}
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read_string(file.read_bytes()[:65536].decode("latin-1"))
        return dict(parser["measurementInfo"])
    except (configparser.Error, KeyError) as error:
        raise BadInput(file.name, None, "has no section [measurementInfo]: copy it again") from error


def _binning(notes: dict[str, str]) -> int:
    """Rows that were added up at readout."""
    found = re.search(r"bin:\s*(\d{1,2})\b", notes.get("readoutmode", ""))
    return max(1, int(found[1])) if found else 1


def _grid_of(notes: dict[str, str]) -> tuple[int, int] | None:
    """Raster of the scan; the first number is taken for the fast axis (none with unequal ones was seen)."""
    found = re.fullmatch(r"\s*\"?\s*(\d{1,5})\s*x\s*(\d{1,5})\s*\"?\s*", notes.get("stemimagesize", ""))
    return (int(found[2]), int(found[1])) if found else None


def _metadata(head: Any, notes: dict[str, str]) -> dict[str, str]:
    found = {"instrument": "PNDetector pnCCD"}
    if dwell := notes.get("dwelltimemicroseconds"):
        found["dwell time"] = f"{dwell} us"
    if gain := notes.get("gain"):
        found["gain"] = gain
    size = f"width = {head['width']}; height = {head['height']}"
    return found | {"original header": "\n".join([size, *(f"{k} = {v}" for k, v in notes.items())])}
