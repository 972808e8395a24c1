"""EMPAD: ``.raw`` of float32 frames of 130 x 128, the last two rows of which hold no pixels, and an
``.xml``.

The ``.xml`` names the raw file (``raw_file/@filename``) and the scan (``scan_parameters`` of mode
``acquire``, in old files ``pix_x``, ``pix_y``), and under ``iom_measurements`` what the microscope reported:
``source.get_voltage`` (V), ``calibrated_diffraction_angle`` (rad per pixel),
``optics.get_full_scan_field_of_view`` (m; of which the scan took the share ``scan_size``), since 1.2
``full_scan_field_of_view`` with ``x`` and ``scale_factor``: there the longer axis of the scan took x /
scale_factor.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Unpack
from xml.etree import ElementTree

import numpy as np

from phaseloom.data.formats.files import require_file
from phaseloom.data.formats.header import About, Header
from phaseloom.data.formats.setup import Setup, accept_setup
from phaseloom.data.formats.vendor.frames import build_raster_scan, open_frames, parse_number
from phaseloom.data.scan import Scan4D, wavelength_of
from phaseloom.errors import BadInput

__all__ = ["ABOUT", "knows", "list_files", "read"]

ABOUT = About(
    files=".raw, .xml, either",
    reading="batch by batch",
    states="energy, raster, step, angle (old files), camera length, scan rotation, current, date",
    compared="rosettasciio 0.15 and LiberTEM 0.16 (by hand): equal",
)

PIXELS = (128, 128)
FOOTER_BYTES = 2 * 128 * 4
MAX_XML_BYTES = 4_000_000
MAX_XML_FILES = 200
"""How many ``.xml`` files of a folder are asked whether they name a ``.raw``."""

RAW_NAME = re.compile(rb"<raw_file[^>]*filename\s*=\s*[\"']([^\"']+)[\"']")
GRID_IN_NAME = re.compile(r"_x(\d{1,5})_y(\d{1,5})")
METADATA = {
    "voltage": "source.get_voltage (V)",
    "camera length": "optics.get_cameralength (m), camera_length",
    "scan rotation": "column.get_scanrotation, scan_rotation",
    "current": "source.get_screencurrent (A), screen_current (A)",
}


def knows(path: Path, /) -> bool:
    """Whether an ``.xml`` names a raw file, or a ``.raw`` is named by an ``.xml`` beside it."""
    if path.suffix.lower() == ".xml":
        return path.is_file() and _raw_name(path) is not None
    return path.suffix.lower() == ".raw" and _find_xml(path) is not None


def list_files(raw: Path, /) -> list[Path]:
    """A ``.raw``, and the ``.xml`` that names it."""
    xml = _find_xml(raw)
    return [raw] if xml is None else [raw, xml]


@accept_setup()
def read(path: str | os.PathLike[str], /, **setup: Unpack[Setup]) -> Scan4D:
    """Counts of an EMPAD: its ``.xml`` or its ``.raw``; the other one is looked for beside it.

    Args:
        path: either file. A ``.raw`` without ``.xml`` has its raster in its name, ``scan_x128_y64.raw``.
        **setup: see `Setup`.

    Raises:
        BadInput: what is missing or does not fit.

    Example:
        >>> np.ones((6, 130, 128), np.float32).tofile("scan_x3_y2.raw")
        >>> read("scan_x3_y2.raw", energy=200e3, angle=1e-3, step=0.5).grid
        (2, 3)
    """
    path = require_file(path)
    xml = path if path.suffix.lower() == ".xml" else _find_xml(path)
    raw = path if xml is not path else _find_raw(path)
    frames = open_frames([(raw, 0)], np.dtype("<f4"), PIXELS, footer=FOOTER_BYTES)
    header = Header(metadata={"detector": "EMPAD"}) if xml is None else _read_xml(xml, raw, frames.count)
    if header.grid is None and (named := GRID_IN_NAME.search(raw.name)):
        header = Header(grid=(int(named[2]), int(named[1])), metadata=header.metadata)
    return build_raster_scan(path, frames, setup, header)


def _raw_name(xml: Path) -> str | None:
    """The name of the raw file in an ``.xml``, without its folder."""
    with xml.open("rb") as stream:
        found = RAW_NAME.search(stream.read(MAX_XML_BYTES))
    name = "" if found is None else re.split(r"[\\/]", found[1].decode("utf-8", "replace"))[-1]
    return name if name.strip(".") and "\0" not in name else None


def _find_xml(raw: Path) -> Path | None:
    """The ``.xml`` that names a raw file, of several that of the same name."""
    beside = sorted(raw.parent.glob("*.[xX][mM][lL]"))[:MAX_XML_FILES]
    found = [xml for xml in beside if xml.is_file() and _raw_name(xml) == raw.name]
    own = [xml for xml in found if xml.stem == raw.stem]
    if len(found) > 1 and not own:
        fix = "name it: rename that of the scan like the .raw, or give angle and step as settings"
        raise BadInput(raw.name, ", ".join(xml.name for xml in found[:4]), fix)
    return next(iter(own or found), None)


def _find_raw(xml: Path) -> Path:
    name = _raw_name(xml)
    if name is None:
        raise BadInput(xml.name, None, "names no raw file (raw_file filename): choose the .raw")
    beside = [xml.with_name(name), xml.with_suffix(".raw")]
    found = next((file for file in beside if file.is_file()), None)
    if found is None:
        raise BadInput(xml.name, name, "is not beside it: put the raw file into the same folder")
    return require_file(found)


def _read_xml(xml: Path, raw: Path, count: int) -> Header:
    """What an ``.xml`` says of a scan of so many frames."""
    text = xml.read_bytes()[:MAX_XML_BYTES]
    try:
        if b"<!ENTITY" in text:
            raise ElementTree.ParseError("entities")
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise BadInput(xml.name, None, "is not a whole XML file: copy it again") from error
    measured = {}
    for part in root.iter("iom_measurements"):
        measured |= {one.tag: (one.text or "").strip() for one in part.iter()}
    grids = list(_stated_grids(root, raw))
    grid = next((grid for grid in grids if grid[0] * grid[1] == count), grids[0] if grids else None)
    dates = [one.get("isoformat", "") for one in root.iter("timestamp")]
    found = {"detector": "EMPAD", "software": (root.findtext("software_version") or "").strip()}
    found |= {"date": dates[0] if dates else ""} | _microscope(measured)
    voltage = parse_number(measured.get("source.get_voltage") or measured.get("high_voltage"))
    angle = _angle(measured, voltage)
    return Header(
        energy=voltage if voltage and voltage > 0 else None,
        angle=angle,
        step=None if grid is None else _step(root, measured, grid),
        grid=grid,
        metadata={key: value for key, value in found.items() if value}
        | {"original header": text.decode("utf-8", "replace")},
    )


def _angle(measured: dict[str, str], voltage: float | None) -> float | None:
    """Radian per pixel, if need be from ``calibrated_pixelsize``: 1e9 times it is in cycles per nm."""
    angle = parse_number(measured.get("calibrated_diffraction_angle"))
    if angle and angle > 0:
        return angle
    pixel = parse_number(measured.get("calibrated_pixelsize"))
    if not (pixel and pixel > 0 and voltage and 1 <= voltage <= 1e7):
        return None
    return pixel * 1e8 * wavelength_of(voltage, "electron")


def _stated_grids(root: ElementTree.Element, raw: Path) -> Iterator[tuple[int, int]]:
    """Every raster that an ``.xml`` and the name of its raw file state, the likeliest first."""
    pairs: list[tuple[str | None, str | None]] = []
    for one in root.iter("scan_parameters"):
        pair = (one.findtext("scan_resolution_y"), one.findtext("scan_resolution_x"))
        pairs.insert(0 if one.get("mode") == "acquire" else len(pairs), pair)
    pairs.append((root.findtext("pix_y"), root.findtext("pix_x")))
    if named := GRID_IN_NAME.search(raw.name):
        pairs.insert(0, (named[2], named[1]))
    for pair in pairs:
        slow, fast = (parse_number(text) for text in pair)
        if slow and fast and 1 <= slow <= 65536 and 1 <= fast <= 65536:
            yield int(slow), int(fast)


def _step(
    root: ElementTree.Element, measured: dict[str, str], grid: tuple[int, int]
) -> tuple[float, float] | None:
    """Step (slow, fast) in angstrom, from the field of view in metres."""
    new = next(root.iter("full_scan_field_of_view"), None)
    if new is not None:
        field, scale = (parse_number(new.findtext(name)) for name in ("x", "scale_factor"))
        if not (field and scale and field > 0 and scale > 0):
            return None
        step = field / scale / max(grid) * 1e10
        return step, step
    words = re.findall(r"[-+0-9.eE]+", measured.get("optics.get_full_scan_field_of_view", ""))
    numbers = [parse_number(word) for word in words]
    if len(numbers) != 2 or not all(number and number > 0 for number in numbers):
        return None
    acquired = [one for one in root.iter("scan_parameters") if one.get("mode") == "acquire"]
    share = parse_number(acquired[0].findtext("scan_size")) if acquired else None
    share = share if share and 0 < share <= 1 else 1.0
    across, down = (float(number) * share * 1e10 for number in numbers if number is not None)
    return down / grid[0], across / grid[1]


def _microscope(measured: dict[str, str]) -> dict[str, str]:
    """What the microscope reported, with its unit."""
    found = {}
    for name, sources in METADATA.items():
        for source in sources.split(", "):
            tag, _, unit = source.partition(" ")
            if value := measured.get(tag):
                found[name] = f"{value} {unit.strip('()')}".strip()
                break
    return found
