"""NanoMEGAS ``.blo``: a packed little-endian header, a virtual image, and patterns of bytes.

``IMGBLO``, u2 magic (0x0102), u4 offset of the virtual image, u4 offset of the patterns, u4 flags, u2 pixels
of a pattern's edge, u2 rotation of the patterns, u2 NX, u2 NY, u2 rotation of the scan (degrees x 100), f8
SX, f8 SY (step, nm), u4 beam energy (V), u2 pixels per cm x 100, u4 camera length (mm x 10), f8 date. Each
pattern follows 6 bytes: 0x55AA and a number.
"""

import datetime
import os
import re
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from phaseloom.data.formats.files import require_file
from phaseloom.data.formats.header import About, Header
from phaseloom.data.formats.setup import Setup, accept_setup
from phaseloom.data.formats.vendor.frames import build_raster_scan, open_frames, unpack
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput

__all__ = ["ABOUT", "knows", "read"]

ABOUT = About(
    files=".blo",
    reading="batch by batch",
    states="energy, raster, step, nominal angle, rotations, date",
    compared="rosettasciio 0.15 and LiberTEM 0.16 (by hand): equal",
)

HEADER = np.dtype(
    [
        ("signature", "S6"),
        ("magic", "<u2"),
        ("image_offset", "<u4"),
        ("patterns_offset", "<u4"),
        ("flags", "<u4"),
        ("pixels", "<u2"),
        ("pattern_rotation", "<u2"),
        ("nx", "<u2"),
        ("ny", "<u2"),
        ("scan_rotation", "<u2"),
        ("sx", "<f8"),
        ("sy", "<f8"),
        ("energy", "<u4"),
        ("pixels_per_cm", "<u2"),
        ("camera_length", "<u4"),
        ("date", "<f8"),
    ]
)
FRAME_HEADER_BYTES = 6
DAY_ZERO = datetime.datetime(1899, 12, 30)
MAX_TEXT_BYTES = 65536
SIXTEEN_BITS = re.compile(r"blo bit depth:\s*16\s*bits", re.IGNORECASE)


def knows(path: Path, /) -> bool:
    """Whether a file has the signature of a block file."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(6) == b"IMGBLO"


@accept_setup()
def read(path: str | os.PathLike[str], /, **setup: Unpack[Setup]) -> Scan4D:
    """Counts of a block file of NanoMEGAS (ASTAR); it states energy, step, raster and a nominal angle.

    The angle of a pixel is that of the camera length written in the file, a nominal one: calibrate it
    (`phaseloom.data.prepare.calibrate`). Newer files say ``Blo Bit Depth: 16 bits`` in their text.

    Args:
        path: the file.
        **setup: see `Setup`.

    Raises:
        BadInput: a damaged header, or what is missing.

    Example:
        >>> head = np.zeros(1, HEADER)
        >>> head["signature"], head["patterns_offset"], head["pixels"] = b"IMGBLO", HEADER.itemsize, 2
        >>> head["nx"], head["ny"], head["sx"], head["sy"], head["energy"] = 3, 2, 0.5, 0.5, 200_000
        >>> _ = Path("a.blo").write_bytes(head.tobytes() + bytes(range(10)) * 6)
        >>> read("a.blo", angle=1e-3).positions[-1].tolist()
        [5.0, 10.0]
    """
    path = require_file(path)
    if not knows(path):
        raise BadInput(path.name, None, "has no signature of a block file: choose another format")
    head: Any = unpack(path, HEADER)
    size = path.stat().st_size
    if not HEADER.itemsize <= head["patterns_offset"] < size or not head["nx"] * head["ny"]:
        fix = f"is not in the file of {size} bytes: its header is damaged, copy it again"
        raise BadInput(f"{path.name}: offset of the patterns", head["patterns_offset"], fix)
    metadata = _metadata(path, head)
    frames = open_frames(
        [(path, head["patterns_offset"])],
        np.dtype("<u2" if SIXTEEN_BITS.search(metadata["original header"]) else "u1"),
        (head["pixels"], head["pixels"]),
        header=FRAME_HEADER_BYTES,
    )
    return build_raster_scan(path, frames, setup, _build_header(head, metadata))


def _build_header(head: Any, metadata: dict[str, str]) -> Header:
    step = (head["sy"] * 10, head["sx"] * 10)
    angle = None
    if head["pixels_per_cm"] and head["camera_length"]:
        pixel_mm = 10 / (head["pixels_per_cm"] / 100)
        angle = pixel_mm / (head["camera_length"] / 10)
    return Header(
        energy=head["energy"] or None,
        angle=angle,
        step=step if all(np.isfinite(step)) and min(step) > 0 else None,
        grid=(head["ny"], head["nx"]),
        metadata=metadata,
    )


def _metadata(path: Path, head: Any) -> dict[str, str]:
    found = {
        "instrument": "NanoMEGAS ASTAR",
        "camera length": f"{head['camera_length'] / 10:g} mm",
        "scan rotation": f"{head['scan_rotation'] / 100:g} deg",
        "pattern rotation": f"{head['pattern_rotation'] / 100:g} deg",
    }
    if 1 <= head["date"] < 1e5:
        found["date"] = (DAY_ZERO + datetime.timedelta(days=head["date"])).isoformat(timespec="seconds")
    end = min(head["image_offset"] or head["patterns_offset"], head["patterns_offset"])
    with path.open("rb") as stream:
        text = stream.read(min(end, MAX_TEXT_BYTES))[HEADER.itemsize :]
    notes = text.replace(b"\0", b" ").decode("latin-1").strip()
    fields = "; ".join(f"{name} = {value!r}" for name, value in head.items())
    readable = "".join(one for one in notes if one.isprintable() or one in "\r\n\t")
    return found | {"original header": f"{fields}\n{readable}"}
