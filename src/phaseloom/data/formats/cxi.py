"""CXI files: the X-ray community's HDF5 layout (https://cxidb.org), in all the ways people write it.

Files are in SI units, with the beam along +z, and store the motion of the **sample**; a `Scan4D` holds
the motion of the **beam on the object**, which is its negative, projected on the detector's axes. Where
the file tells a ``surface_normal`` or an ``orientation`` of the sample, the projection is along the beam
on its surface (`phaseloom.physics.tilted_planes`).
"""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from phaseloom.data.counts import HDF5Source, SelectedCounts
from phaseloom.data.formats import cxi_layout
from phaseloom.data.formats.arrangement import arrange
from phaseloom.data.formats.arrays import clean_counts
from phaseloom.data.formats.files import (
    CheckedGroup,
    create_hdf5,
    decode_text,
    has_hdf5_name_or_content,
    open_hdf5,
    require_file,
)
from phaseloom.data.formats.header import About, MissingValues
from phaseloom.data.formats.native import write_counts
from phaseloom.data.formats.quantities.near_field import FOCUS_HELP, describe_near_field
from phaseloom.data.growing.unfinished import get_unfinished
from phaseloom.data.remarks import warn
from phaseloom.data.scan import Geometry, Scan4D, wavelength_of
from phaseloom.errors import BadInput
from phaseloom.units import HC_SI, Energy, Length

__all__ = ["ABOUT", "compute_sample_motion", "knows", "read", "write", "write_metadata"]

ABOUT = About(
    files=".cxi, NeXus of its layout",
    reading="at once below 1 GB, else batch by batch",
    states="everything",
    compared="CDTools",
)

log = logging.getLogger(__name__)

MAX_BYTES_IN_MEMORY = 1_000_000_000
"""Bytes above which patterns stay in the file."""

TITLE_NAMES = (
    "title",
    "experiment_identifier",
    "experiment_description",
    "program_name",
    "start_time",
    "end_time",
)
DETECTOR_GROUP = "instrument_1/detector_1"
SOURCE_GROUP = "instrument_1/source_1"
METADATA_NOTE = "note_1"


def knows(path: Path, /) -> bool:
    """Whether a file is named ``.cxi`` or has the groups of one."""
    if not has_hdf5_name_or_content(path):
        return False
    with open_hdf5(path) as file:
        return path.suffix.lower() == ".cxi" or "cxi_version" in file or "entry_1/instrument_1" in file


def read(
    path: str | os.PathLike[str],
    /,
    *,
    entry: int = 1,
    energy: Energy | None = None,
    distance: Length | None = None,
    focus: Length | None = None,
    field: Literal["far"] | None = None,
    lazy: bool | None = None,
    probe: bool = True,
) -> Scan4D:
    """A ptychography scan from a CXI or NXcxi_ptycho file.

    Wavelengths are preferred to energies, and ``units`` attributes are honoured. Mask bits mean bad,
    except 0x1000 ("has signal"); a mask that is plainly inverted is turned round with a warning.

    Args:
        path: the file.
        entry: which ``entry_k`` (energy stacks have several).
        energy: of the photons or electrons, eV. Default: what the file says.
        distance: from the sample to the detector, angstrom. Default: what the file says.
        focus: focus to sample, angstrom, ``inf`` for a parallel beam: the scan is a near-field one. Default:
            what the file says.
        field: ``far`` for a file whose geometry looks like a near field, and is none.
        lazy: whether patterns stay in the file; by default when they need more than 1 GB.
        probe: whether to take the illumination that came with the data.

    Raises:
        MissingValues: a near field without ``focus``, by its geometry
            (`phaseloom.data.formats.quantities.near_field`).
        BadInput: what is missing, of the wrong size or absurd, with its place in the file.

    Example:
        >>> geometry = Geometry(wavelength=1.0, shape=(4, 4), angle=(1e-5, 1e-5), distance=1e10)
        >>> write(Scan4D(counts=np.ones((1, 4, 4)), positions=np.ones((1, 2)), geometry=geometry), "scan.cxi")
        >>> read("scan.cxi").positions.round(6).tolist()
        [[1.0, 1.0]]
    """
    path = require_file(path)
    with open_hdf5(path) as file:
        top = cxi_layout.find_entry(file, path.name, entry)
        detector = cxi_layout.find_detector(top)
        source = top.first("instrument_1/source_1", "instrument/source")
        tree, name = cxi_layout.find_patterns(top, detector)
        data = tree.dataset(name)
        counts, raster = arrange(HDF5Source.of(path, str(data.name)), tree.place(name))
        large = data.size * data.dtype.itemsize > MAX_BYTES_IN_MEMORY
        if not (large if lazy is None else lazy):
            counts = data[()].reshape(counts.shape)
        counts, trusted = clean_counts(counts, tree.place(name))
        n, height, width = counts.shape
        basis, angle, distance = cxi_layout.read_optics(detector, distance)
        is_electron = source is not None and source.group.attrs.get("phaseloom_beam") == "electron"
        beam = "electron" if is_electron else "photon"
        own = cxi_layout.read_wavelength(top, source) if energy is None else wavelength_of(energy, beam)
        geometry = Geometry(
            wavelength=own,
            shape=(height, width),
            angle=angle,
            distance=distance,
            basis=basis,
            normal=cxi_layout.read_normal(top),
            beam=beam,
        )
        positions, heights = cxi_layout.read_motion(top, detector, n, geometry)
        attrs: Any = detector.group.attrs
        geometry = _set_focus(geometry, detector, focus)
        if field is None and (reason := describe_near_field(geometry, positions)):
            raise MissingValues(path, {"focus": f"{reason}: {FOCUS_HELP}"}, {}, frozenset())
        found = raster or cxi_layout.find_raster(detector, n) or attrs.get("phaseloom_grid")
        grid = None if found is None else (int(found[0]), int(found[1]))
        if (unfinished := get_unfinished()) is not None:
            positions, grid = unfinished.cut(n, positions, grid)
            heights = None if heights is None else heights[: len(positions)]
            counts = counts if len(positions) == n else SelectedCounts(counts, np.arange(len(positions)))
        scan = Scan4D(
            counts=counts,
            positions=positions,
            geometry=geometry,
            background=cxi_layout.read_background(detector, geometry.shape),
            flat=cxi_layout.read_flat(detector, geometry.shape),
            weights=cxi_layout.read_weights(top, detector, n),
            heights=heights,
            grid=grid,
            oriented=bool(attrs.get("phaseloom_oriented", detector.find("basis_vectors") is not None)),
            metadata=_read_titles(top),
            probe=cxi_layout.read_illumination(top, geometry.shape) if probe else None,
        )
        return _apply_mask(
            scan, cxi_layout.read_mask(detector, geometry.shape), trusted, detector.place("mask")
        )


def write(scan: Scan4D, path: str | os.PathLike[str], /) -> None:
    """Write a scan that other programs open; ours reads it back with nothing lost.

    Where only angles are known (electrons) a nominal distance of one metre is written, and marked so.

    Raises:
        BadInput: the folder does not exist.

    Example:
        >>> geometry = Geometry(wavelength=1.0, shape=(4, 4), angle=(1e-5, 1e-5), distance=1e10)
        >>> write(Scan4D(counts=np.ones((1, 4, 4)), positions=np.ones((1, 2)), geometry=geometry), "one.cxi")
    """
    with create_hdf5(path) as file:
        file.attrs.update({"NX_class": "NXroot", "default": "entry_1"})
        file["cxi_version"] = 160
        file["number_of_entries"] = 1
        top = file.create_group("entry_1")
        top.attrs.update({"NX_class": "NXentry", "default": "data_1"})
        write_metadata(scan.metadata, top)
        _write_source(scan, top.create_group(SOURCE_GROUP))
        detector = top.create_group(DETECTOR_GROUP)
        _write_detector(scan, detector)
        _write_motion(scan, top)
        data = top.create_group("data_1")
        data.attrs.update({"NX_class": "NXdata", "signal": "data"})
        for name in ("data", "translation"):
            data[name] = h5py.SoftLink(f"/entry_1/{DETECTOR_GROUP}/{name}")


def write_metadata(metadata: Mapping[str, str], top: h5py.Group, /) -> None:
    """Titles and times as fields of an entry, the sample's name, and all texts as a note of JSON."""
    for name, text in metadata.items():
        if name in TITLE_NAMES:
            top[name] = np.bytes_(str(text).replace("\0", "").encode())
    if sample := metadata.get("sample"):
        top["sample_1/name"] = np.bytes_(decode_text(sample).encode())
    if set(metadata) - {*TITLE_NAMES, "sample"}:
        note = top.create_group(METADATA_NOTE)
        note["type"] = "application/json"
        note["description"] = "metadata of the scan"
        note["data"] = json.dumps(dict(metadata))


def _set_focus(geometry: Geometry, detector: CheckedGroup, focus: float | None) -> Geometry:
    """A near field, when the user or the file says so; no distance, when the written one was nominal."""
    if focus is None and detector.find("phaseloom_focus"):
        focus = float(np.asarray(detector.group["phaseloom_focus"])) * 1e10
    if focus is not None:
        return replace(geometry, focus=focus)
    nominal = bool(detector.group.attrs.get("phaseloom_nominal_distance", False))
    return replace(geometry, distance=None) if nominal else geometry


def _apply_mask(scan: Scan4D, good: np.ndarray | None, trusted: np.ndarray, place: str) -> Scan4D:
    if good is None:
        good = np.ones(scan.geometry.shape, bool)
    if 0 < good.sum() < good.size / 2:
        mean = np.where(trusted, scan.mean_pattern(most=200), 0)
        if mean[good].sum() < 0.01 * mean.sum():
            warn(log, "%s: hides the pixels that have counts, so it was read as 1 = good", place)
            good = ~good
    if not (good & trusted).any():
        raise BadInput(place, None, "marks every pixel as bad: write 0 for good ones")
    return replace(scan, mask=good & trusted)


def _read_titles(top: CheckedGroup) -> dict[str, str]:
    found = {name: top.text(name) for name in TITLE_NAMES} | {"sample": top.text("sample_1/name")}
    return _read_note(top) | {name: text for name, text in found.items() if text}


def _read_note(top: CheckedGroup) -> dict[str, str]:
    """Texts of the note that `write_metadata` leaves; a note of others is not one."""
    try:
        known = json.loads(top.text(f"{METADATA_NOTE}/data") or "{}")
    except (ValueError, RecursionError):
        return {}
    return {str(name): str(text) for name, text in known.items()} if isinstance(known, dict) else {}


def _write_source(scan: Scan4D, source: h5py.Group) -> None:
    metres = scan.geometry.wavelength * 1e-10
    source["wavelength"] = metres
    # Readers take hc / energy for the wavelength, so this is what an electron's file says too.
    source["energy"] = HC_SI / metres
    source.attrs["phaseloom_beam"] = scan.geometry.beam
    if scan.probe is not None:
        source["illumination"] = scan.probe


def _write_detector(scan: Scan4D, detector: h5py.Group) -> None:
    geometry = scan.geometry
    if geometry.distance is None:
        detector.attrs["phaseloom_nominal_distance"] = True
    metres = 1.0 if geometry.distance is None else geometry.distance * 1e-10
    y, x = (angle * metres for angle in geometry.angle)
    detector["distance"] = metres
    detector["y_pixel_size"] = y
    detector["x_pixel_size"] = x
    detector["basis_vectors"] = np.asarray(geometry.basis) * [y, x]
    detector["mask"] = (~scan.mask).astype(np.uint32)
    detector.attrs["phaseloom_oriented"] = scan.oriented
    if scan.grid is not None:
        detector.attrs["phaseloom_grid"] = scan.grid
    if geometry.focus is not None:
        detector["phaseloom_focus"] = geometry.focus * 1e-10
    for name, values in {"data_dark": scan.background, "qe_mask": scan.flat}.items():
        if values is not None:
            detector[name] = values
    write_counts(detector, "data", scan.counts).attrs["axes"] = "translation:y:x"


def compute_sample_motion(
    positions: np.ndarray, heights: np.ndarray | None, geometry: Geometry
) -> np.ndarray:
    """Motion of the sample ``(n, 3)`` in metres, of beam positions in angstrom."""
    along = np.zeros(len(positions)) if heights is None else np.asarray(heights)
    from phaseloom.physics import tilted_planes as surface  # brings torch

    return 0.0 - 1e-10 * surface.restore_beam(positions, along, geometry.basis, geometry.normal)


def _write_motion(scan: Scan4D, top: h5py.Group) -> None:
    """Sample motion (x, y, z): the three numbers whose reading gives back row, column and height."""
    group = top.create_group("sample_1/geometry_1")
    group["translation"] = compute_sample_motion(scan.positions, scan.heights, scan.geometry)
    if scan.geometry.has_tilted_sample:
        group["surface_normal"] = np.array(scan.geometry.normal)
    top[f"{DETECTOR_GROUP}/translation"] = h5py.SoftLink("/entry_1/sample_1/geometry_1/translation")
    if scan.weights is not None:
        group["intensities"] = scan.weights
        group["intensities"].attrs["phaseloom_relative"] = True
        top[f"{DETECTOR_GROUP}/intensities"] = h5py.SoftLink("/entry_1/sample_1/geometry_1/intensities")
