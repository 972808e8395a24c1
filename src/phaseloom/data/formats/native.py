"""A scan as Phaseloom keeps it: one HDF5 file, nothing lost, patterns read when asked for."""

import json
import os
from dataclasses import fields, replace
from typing import Any

import h5py
import numpy as np

from phaseloom.data import nexus
from phaseloom.data.counts import ArrangedCounts, Counts, HDF5Source, load_counts
from phaseloom.data.formats.files import create_hdf5, decode_text, get_dataset, open_hdf5, require_file
from phaseloom.data.formats.header import About
from phaseloom.data.own_files.members import Member, read_member, read_members
from phaseloom.data.own_files.tables import SCAN, SCAN_GEOMETRY
from phaseloom.data.scan import ACROSS, Geometry, Scan4D
from phaseloom.data.signals import Axis, Signal, signals_of_scan
from phaseloom.errors import BadInput

__all__ = ["ABOUT", "describe", "read", "write", "write_counts"]

ABOUT = About(
    files=".h5 of Phaseloom",
    reading="batch by batch",
    states="everything",
    compared="writes them itself",
)

FORMAT_VERSION = 1

MAX_CHARACTERS_OF_ATTRIBUTE = 16_000
"""An attribute of HDF5 holds 64 kB, and a character up to 4 bytes."""

ARRAY_NAMES = ("positions", "mask", "background", "flat", "weights", "heights", "probe")


def read(path: str | os.PathLike[str], /, *, lazy: bool = True) -> Scan4D:
    """A scan that `write` stored.

    Args:
        path: the file.
        lazy: whether patterns stay in the file until they are asked for.

    Raises:
        BadInput: not such a file, or a newer version of it.

    Example:
        >>> geometry = Geometry(wavelength=0.0197, shape=(4, 4), angle=(1e-3, 1e-3), beam="electron")
        >>> write(Scan4D(counts=np.ones((2, 4, 4)), positions=np.zeros((2, 2)), geometry=geometry), "s.h5")
        >>> read("s.h5").geometry == geometry
        True
    """
    path = require_file(path)
    with open_hdf5(path) as file:
        _require_own_file(file, path.name)
        stored = read_members(file, SCAN, path.name)
        get_dataset(file, path, "counts")
        counts: Counts = ArrangedCounts.of(HDF5Source.of(path, "counts"))
        if not lazy:
            counts = load_counts(counts)
        grid = stored["grid"]
        oriented = stored["oriented"]
        return Scan4D(
            counts=counts,
            geometry=_read_geometry(file, path.name),
            grid=None if grid is None else (int(grid[0]), int(grid[1])),
            oriented=True if oriented is None else bool(oriented),
            metadata=_read_metadata(file, path.name),
            **{name: stored[name] for name in ARRAY_NAMES},
        )


def write(scan: Scan4D, path: str | os.PathLike[str], /) -> None:
    """Store a scan whole; the file appears under its name only when it is complete.

    Raises:
        BadInput: the folder does not exist.

    Example:
        >>> geometry = Geometry(wavelength=1.0, shape=(4, 4), angle=(1e-5, 1e-5))
        >>> write(Scan4D(counts=np.ones((1, 4, 4)), positions=np.zeros((1, 2)), geometry=geometry), "one.h5")
    """
    with create_hdf5(path) as file:
        describe(file, scan)
        totals = np.zeros(len(scan))
        write_counts(file, "counts", scan.counts, totals=totals)
        _write_entry(file, scan, totals)


def describe(file: h5py.File, scan: Scan4D, /, *, counts: str | None = None) -> None:
    """Write all of a scan but its patterns into a file, which `read` then opens, whatever else it holds.

    Args:
        file: open for writing.
        scan: the scan.
        counts: path of the patterns ``(n, y, x)`` or ``(slow, fast, y, x)``, if they are in the file already.
    """
    file.attrs["phaseloom_format"] = "scan"
    file.attrs["phaseloom_version"] = FORMAT_VERSION
    file.attrs["oriented"] = scan.oriented
    text = json.dumps(dict(scan.metadata))
    if len(text) <= MAX_CHARACTERS_OF_ATTRIBUTE:
        file.attrs["metadata"] = text
    else:
        file["metadata"] = text
    if scan.grid is not None:
        file.attrs["grid"] = scan.grid
    group = file.create_group("geometry")
    for field in fields(Geometry):
        value = getattr(scan.geometry, field.name)
        if value is not None:
            group.attrs[field.name] = value
    for name in ARRAY_NAMES:
        if (value := getattr(scan, name)) is not None:
            file[name] = value
    if counts is not None:
        file["counts"] = h5py.SoftLink(counts)


def _write_entry(file: h5py.File, scan: Scan4D, totals: np.ndarray) -> None:
    """What NeXus viewers plot: the counts of each pattern over the scan, and the patterns."""
    seen = signals_of_scan(scan)
    patterns = seen.signals[0]
    over = patterns.axes[:-2]
    image = Signal("total", totals.reshape(patterns.shape[:-2]), over, "counts", "counts of each pattern")
    stored = replace(patterns, axes=(Axis("pattern"), *patterns.axes[-2:]), grid=None)
    nexus.write_entry(file, replace(seen, signals=(image, stored)), links={"patterns": "/counts"})


def write_counts(
    group: h5py.Group, name: str, counts: Counts, /, *, totals: np.ndarray | None = None
) -> h5py.Dataset:
    """Write patterns in pieces, compressed, one chunk for each pattern.

    Args:
        group: of the data set.
        name: of the data set.
        counts: the patterns.
        totals: ``(n,)``, filled with the sum of each pattern on the way.
    """
    chunk = (1, *counts.shape[1:])
    data = group.create_dataset(
        name, counts.shape, counts.dtype, chunks=chunk, compression="gzip", compression_opts=2, shuffle=True
    )
    for start in range(0, counts.shape[0], 64):
        stop = min(start + 64, counts.shape[0])
        data[start:stop] = part = counts[np.arange(start, stop)]
        if totals is not None:
            totals[start:stop] = part.sum((-2, -1), dtype=np.float64)
    return data


def _read_metadata(file: h5py.File, name: str) -> dict[str, str]:
    """Texts by name: a data set, or in files of the first version an attribute."""
    place = "metadata" if "metadata" in file else "@metadata"
    found = read_member(file, Member(place, "json", form=dict[str, Any], optional=True), name)
    return {str(key): str(value) for key, value in (found or {}).items()}


def _require_own_file(file: h5py.File, name: str) -> None:
    if decode_text(file.attrs.get("phaseloom_format", "")) != "scan":
        raise BadInput(name, None, "was not written by Phaseloom: choose another format")
    version = read_member(file, Member("@phaseloom_version", "integer", optional=True), name) or 0
    if version > FORMAT_VERSION:
        raise BadInput(
            f"{name}: phaseloom_version", version, f"is newer than {FORMAT_VERSION}: update Phaseloom"
        )
    for member in ("counts", "positions", "geometry"):
        if member not in file:
            raise BadInput(f"{name}: /{member}", None, "is missing: write the file again")


def _read_geometry(file: h5py.File, name: str) -> Geometry:
    group: Any = file["geometry"]
    if not isinstance(group, h5py.Group):
        raise BadInput(f"{name}: /geometry", None, "is not a group: write the file again")
    stored = read_members(group, SCAN_GEOMETRY, name)
    beam = stored["beam"] or "photon"
    if beam not in ("electron", "photon"):
        raise BadInput(f"{name}: /geometry@beam", beam, "is not a beam: write electron or photon")
    height, width = stored["angle"].tolist()
    rows, columns = stored["shape"].tolist()
    x, y, z = ACROSS if stored["normal"] is None else stored["normal"].tolist()
    return Geometry(
        wavelength=float(stored["wavelength"]),
        shape=(rows, columns),
        angle=(float(height), float(width)),
        beam="electron" if beam == "electron" else "photon",
        basis=tuple(tuple(row) for row in stored["basis"].tolist()),
        normal=(float(x), float(y), float(z)),
        **{key: float(stored[key]) for key in ("distance", "focus") if stored[key] is not None},
    )
