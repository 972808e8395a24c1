"""StreamPix ``.seq``, as Norpix and Direct Electron write it: a header, then frames at equal distances.

Little-endian: u4 magic 0xFEED, the name ``Norpix seq`` in UTF-16, i4 version, i4 bytes of the header, a
description of 512 bytes, then u4: width, height, bits, real bits, bytes of an image, image format, allocated
frames, origin, and bytes from an image to the next one (a time stamp follows each). Images begin at byte 8192
from version 5 on, before at 1024. Beside it may lie ``NAME.seq.dark.mrc``, ``NAME.seq.gain.mrc`` and a map of
bad pixels, ``NAME.seq.Config.Metadata.xml``.
"""

import logging
import os
from pathlib import Path
from typing import Any, Unpack
from xml.etree import ElementTree

import numpy as np

from phaseloom.data.formats.files import require_file
from phaseloom.data.formats.header import About, Header
from phaseloom.data.formats.setup import Setup, accept_setup
from phaseloom.data.formats.vendor.frames import build_raster_scan, open_frames, unpack
from phaseloom.data.remarks import warn
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput

__all__ = ["ABOUT", "knows", "read"]

ABOUT = About(
    files=".seq; .dark.mrc, .gain.mrc, .Config.Metadata.xml beside",
    reading="batch by batch",
    states="frame rate, dark and gain references, bad pixels",
    compared="LiberTEM 0.16 (by hand): equal",
)

log = logging.getLogger(__name__)

MAGIC = 0xFEED
HEADER = np.dtype(
    [("magic", "<u4"), ("name", "S24"), ("version", "<i4"), ("header_size", "<i4"), ("description", "S512")]
    + [(name, "<u4") for name in ("width", "height", "bits", "bits_real", "image_bytes", "format")]
    + [(name, "<u4") for name in ("allocated", "origin", "stride")]
    + [("frame_rate", "<f8")]
)
FIRST_IMAGE = {True: 8192, False: 1024}
"""Offset of the first image; of version 5 and later, or not."""

STORED = {8: "u1", 16: "<u2", 32: "<u4"}
MAX_XML_BYTES = 4_000_000
MRC_HEADER = np.dtype([("nx", "<i4"), ("ny", "<i4"), ("nz", "<i4"), ("mode", "<i4")])
MRC_TYPES = {0: "<i1", 1: "<i2", 2: "<f4", 6: "<u2"}


def knows(path: Path, /) -> bool:
    """Whether a file has the signature of a sequence."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(24) == MAGIC.to_bytes(4, "little") + "Norpix seq".encode("utf-16-le")


@accept_setup()
def read(path: str | os.PathLike[str], /, **setup: Unpack[Setup]) -> Scan4D:
    """Counts of a ``.seq``; dark and gain references beside it become background and flat field.

    Args:
        path: the file.
        **setup: see `Setup`.

    Raises:
        BadInput: a damaged header, or what is missing; the file states no raster.

    Example:
        >>> head = np.zeros(1, HEADER)
        >>> head["magic"], head["name"] = 0xFEED, "Norpix seq".encode("utf-16-le")
        >>> head["width"], head["height"], head["bits"], head["stride"] = 3, 2, 8, 14
        >>> _ = Path("a.seq").write_bytes(head.tobytes().ljust(1024, bytes(1)) + bytes(range(14)) * 4)
        >>> read("a.seq", energy=2e5, angle=1e-3, step=1.0, grid=(2, 2)).counts[3].tolist()
        [[0, 1, 2], [3, 4, 5]]
    """
    path = require_file(path)
    if not knows(path):
        raise BadInput(path.name, None, "has no signature of a sequence: choose another format")
    head: Any = unpack(path, HEADER)
    pixels = (head["height"], head["width"])
    if head["bits"] not in STORED:
        raise BadInput(f"{path.name}: bits", head["bits"], "must be 8, 16 or 32: copy the file again")
    stored = np.dtype(STORED[head["bits"]])
    footer = head["stride"] - pixels[0] * pixels[1] * stored.itemsize
    if footer < 0:
        fix = "bytes from image to image are less than an image: the header is damaged, copy the file again"
        raise BadInput(path.name, head["stride"], fix)
    frames = open_frames([(path, FIRST_IMAGE[head["version"] >= 5])], stored, pixels, footer=footer)
    gain = _read_reference(path, "gain", pixels)
    header = Header(
        mask=_read_bad_pixels(path, pixels),
        background=_read_reference(path, "dark", pixels),
        flat=None if gain is None else 1 / np.where(gain > 0, gain, np.inf),
        metadata=_metadata(path, head),
    )
    return build_raster_scan(path, frames, setup, header)


def _beside(path: Path, end: str) -> Path | None:
    """A file named after the sequence, ``a.seq.dark.mrc`` or ``a.dark.mrc``."""
    names = (path.with_name(f"{path.name}.{end}"), path.with_name(f"{path.stem}.{end}"))
    return next((name for name in names if name.is_file()), None)


def _read_reference(path: Path, kind: str, pixels: tuple[int, int]) -> np.ndarray | None:
    """The first image of an ``.mrc`` beside a sequence; one that does not fit is left out with a warning."""
    file = _beside(path, f"{kind}.mrc")
    if file is None:
        return None
    head: Any = unpack(file, MRC_HEADER)
    extended = unpack(file, np.dtype([("bytes", "<i4")]), 92)["bytes"]
    if head["mode"] not in MRC_TYPES or (head["ny"], head["nx"]) != pixels or extended < 0:
        warn(log, "%s: does not fit frames of %dx%d and was left out", file.name, *pixels)
        return None
    stored = np.dtype(MRC_TYPES[head["mode"]])
    frames = open_frames([(file, 1024 + extended)], stored, pixels)
    image = frames[:1, :, :][0].astype(np.float64)
    if not np.isfinite(image).all() or not image.any():
        warn(log, "%s: holds no reference and was left out", file.name)
        return None
    return image


def _read_bad_pixels(path: Path, pixels: tuple[int, int]) -> np.ndarray | None:
    """Good pixels by the map of the size of a frame; binned or cut frames have none."""
    file = _beside(path, "Config.Metadata.xml")
    if file is None:
        return None
    try:
        text = file.read_bytes()[:MAX_XML_BYTES]
        root = ElementTree.fromstring(text if b"<!ENTITY" not in text else b"")
        maps = [one for one in root.iter("BadPixelMap") if _size_of(one) == pixels]
        good = np.ones(pixels, bool)
        for defect in maps[0].iter("Defect") if maps else []:
            good[_span(defect, "Row"), _span(defect, "Column")] = False
    except (ElementTree.ParseError, ValueError, LookupError):
        warn(log, "%s: cannot be read and was left out", file.name)
        return None
    if not maps:
        warn(log, "%s: has no map of frames of %dx%d and was left out", file.name, *pixels)
        return None
    return good


def _size_of(one: ElementTree.Element) -> tuple[int, int]:
    return int(one.get("Rows", "0")), int(one.get("Columns", "0"))


def _span(defect: ElementTree.Element, name: str) -> slice:
    """Rows or columns of a defect: ``Row="3"``, ``Rows="3-5"``, or all of them."""
    if (one := defect.get(name)) is not None:
        return slice(int(one), int(one) + 1)
    if (several := defect.get(f"{name}s")) is not None:
        start, stop = several.split("-")
        return slice(int(start), int(stop) + 1)
    return slice(None)


def _metadata(path: Path, head: Any) -> dict[str, str]:
    with path.open("rb") as stream:
        raw = stream.read(HEADER.itemsize)
    about = raw[36 : 36 + 512].decode("utf-16-le", "replace").split("\0")[0].strip()
    numbers = "; ".join(f"{k} = {v}" for k, v in head.items() if k not in ("name", "description"))
    found = {"instrument": "StreamPix sequence", "original header": f"{numbers}; description = {about}"}
    if np.isfinite(head["frame_rate"]) and head["frame_rate"] > 0:
        found["dwell time"] = f"{1 / head['frame_rate']:.6g} s (by the frame rate)"
    return found
