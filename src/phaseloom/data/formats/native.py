"""A scan as Phaseloom keeps it: one HDF5 file, nothing lost, patterns read when asked for."""

import json
import os
from dataclasses import fields, replace
from typing import Any

import h5py
import numpy as np

from phaseloom.data import nexus
from phaseloom.data.counts import ArrangedCounts, Counts, HDF5Source, load_counts
from phaseloom.data.formats.files import (
    CheckedGroup,
    create_hdf5,
    decode_text,
    open_hdf5,
    require_file,
)
from phaseloom.data.formats.header import About
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
        arrays: dict[str, Any] = {name: np.asarray(file[name]) for name in ARRAY_NAMES if name in file}
        counts: Counts = ArrangedCounts.of(HDF5Source.of(path, "counts"))
        if not lazy:
            counts = load_counts(counts)
        grid = file.attrs.get("grid")
        return Scan4D(
            counts=counts,
            geometry=_read_geometry(CheckedGroup(file, path.name)),
            grid=None if grid is None else (int(grid[0]), int(grid[1])),
            oriented=bool(file.attrs.get("oriented", True)),
            metadata=_read_metadata(file, path.name),
            **arrays,
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
    stored: Any = file["metadata"] if "metadata" in file else file.attrs.get("metadata", "{}")
    try:
        found = json.loads(decode_text(np.asarray(stored)))
    except (ValueError, TypeError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise BadInput(f"{name}: /metadata", None, "is not a table of texts: write the file again")
    return {str(key): str(value) for key, value in found.items()}


def _require_own_file(file: h5py.File, name: str) -> None:
    if decode_text(file.attrs.get("phaseloom_format", "")) != "scan":
        raise BadInput(name, None, "was not written by Phaseloom: choose another format")
    version = int(file.attrs.get("phaseloom_version", 0))
    if version > FORMAT_VERSION:
        raise BadInput(
            f"{name}: phaseloom_version", version, f"is newer than {FORMAT_VERSION}: update Phaseloom"
        )
    for member in ("counts", "positions", "geometry"):
        if member not in file:
            raise BadInput(f"{name}: /{member}", None, "is missing: write the file again")


def _read_geometry(tree: CheckedGroup) -> Geometry:
    attrs: Any = tree.group["geometry"].attrs
    missing = [name for name in ("wavelength", "shape", "angle") if name not in attrs]
    if missing:
        raise BadInput(f"{tree.file}: /geometry", None, f"lacks {', '.join(missing)}: write the file again")
    rows, columns = attrs["shape"]
    height, width = attrs["angle"]
    x, y, z = attrs.get("normal", ACROSS)
    optional = {name: float(attrs[name]) for name in ("distance", "focus") if name in attrs}
    return Geometry(
        wavelength=float(attrs["wavelength"]),
        shape=(int(rows), int(columns)),
        angle=(float(height), float(width)),
        beam="electron" if decode_text(attrs.get("beam", "photon")) == "electron" else "photon",
        basis=tuple(tuple(row) for row in np.asarray(attrs["basis"]).tolist()),
        normal=(float(x), float(y), float(z)),
        **optional,
    )
