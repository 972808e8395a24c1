"""Kinds of electron data in HDF5, Zarr and Nion's archives: layouts as their programs write them."""

from collections.abc import Mapping
from functools import partial
from typing import Any
from xml.etree import ElementTree

import numpy as np

from phaseloom.data.formats.files import decode_text
from phaseloom.data.formats.kinds.kind import Kind, Layout
from phaseloom.data.formats.kinds.tree import MAX_HEADER_CHARACTERS, NOT_DATA, Tree
from phaseloom.data.formats.quantities.unit_names import (
    ANGLES,
    INVERSE_LENGTHS,
    LENGTHS,
    QUANTITIES,
    normalise,
)
from phaseloom.data.scan import wavelength_of
from phaseloom.errors import BadInput

__all__ = ["ELECTRONS"]

CALIBRATION = "$/../metadatabundle/calibration"


def _describe_velox(tree: Tree, layout: Layout) -> Mapping[str, Any]:
    """The pixel of a diffraction camera; images of the specimen are refused."""
    result = "$/Metadata:BinaryResult"
    unit = normalise(tree.text(f"{result}.PixelUnitX") or "")
    value = tree.text(f"{result}.PixelSize.width")
    try:
        size = float(value or "")
    except ValueError:
        return {}
    if unit in LENGTHS:
        fix = "pixels of the specimen, so these are images and not diffraction patterns: name another dataset"
        raise BadInput(f"{tree.name}: {layout.key}", f"has {size:g} {unit}", fix)
    if unit in ANGLES and size > 0:
        return {"angle": size * ANGLES[unit]}
    energy = layout.energy or tree.number("electron_energy", "$/Metadata:Optics.AccelerationVoltage [V]")
    if unit in INVERSE_LENGTHS and energy and size > 0:
        return {"angle": size * INVERSE_LENGTHS[unit] * wavelength_of(energy, "electron")}
    return {}


def _describe_topspin(tree: Tree, layout: Layout) -> Mapping[str, Any]:
    """Angle of a pixel and raster from the XML that lies beside each pattern.

    Its first part has calibrations of two axes (offset, scale, unit with its name), its second one the place
    of the beam in metres, x before y.
    """
    *above, group, _, _ = layout.key.split("/")
    group = "/".join([*above, group])
    found: dict[str, Any] = {}
    calibration = _parse_xml(tree, f"{group}/0/Metadata")
    try:
        axes = [] if calibration is None else [calibration[0][axis] for axis in (1, 0)]
        scales = [abs(float(axis[1].text or "")) for axis in axes]
        factor = ANGLES.get(normalise(axes[0][2][1].text or "")) if axes else None
        if factor and min(scales) > 0:
            found["angle"] = (scales[0] * factor, scales[1] * factor)
    except (IndexError, ValueError, TypeError):
        pass
    if (whole := _read_document(tree, "/".join([*above, "Metadata"]))) is not None:
        found["metadata"] = {"original header": whole[:MAX_HEADER_CHARACTERS]}
    return found | _find_topspin_raster(tree, group, layout.shape[0])


def _find_topspin_raster(tree: Tree, group: str, count: int) -> dict[str, Any]:
    """The raster from the places of few patterns: the first row ends where the slow coordinate changes."""
    place = partial(_read_topspin_place, tree, group)
    start = place(0)
    low, high = 1, count
    while low < high:
        middle = (low + high) // 2
        here = place(middle)
        if start is None or here is None:
            return {}
        low, high = (middle + 1, high) if abs(here[0] - start[0]) < 1e-13 else (low, middle)
    fast, slow = low, -(-count // low)  # an interrupted last row is left out later
    right, bottom = place(fast - 1), place((slow - 1) * fast)
    if start is None or right is None or bottom is None:
        return {}
    down = abs(bottom[0] - start[0]) * 1e10 / max(slow - 1, 1)
    along = abs(right[1] - start[1]) * 1e10 / max(fast - 1, 1)
    step = (float(down or along), float(along or down))
    plausible = all(QUANTITIES["step"].holds(one) for one in step)
    return {"grid": (slow, fast)} | ({"step": step} if plausible else {})


def _read_topspin_place(tree: Tree, group: str, number: int) -> tuple[float, float] | None:
    """Where the beam was, (y, x) in metres."""
    root = _parse_xml(tree, f"{group}/{number}/Metadata")
    try:
        x, y = (
            (float(root[1][0][1][axis].text or "") for axis in (0, 1)) if root is not None else (None, None)
        )
    except (IndexError, ValueError, TypeError):
        return None
    return None if x is None or y is None or not np.isfinite(x + y) else (y, x)


def _read_document(tree: Tree, path: str) -> str | None:
    value = tree.raw(path).value
    try:
        return None if value is None else decode_text(value)
    except NOT_DATA:
        return None


def _parse_xml(tree: Tree, path: str) -> ElementTree.Element | None:
    """A document without entities of its own, which could grow without end."""
    text = _read_document(tree, path)
    try:
        return None if text is None or "<!" in text else ElementTree.fromstring(text)
    except (ElementTree.ParseError, *NOT_DATA):
        return None


NION_DOCUMENTS = ("data@properties", "data/*@properties")


def _nion(*keys: str) -> tuple[str, ...]:
    """References to keys of the metadata of Swift, whichever version wrote them."""
    above = ("", "data_sources.0.")
    return tuple(f"{one}:{start}{key}" for one in NION_DOCUMENTS for key in keys for start in above)


ELECTRONS = (
    Kind(
        name="topspin",
        title="NanoMEGAS TopSpin .app5",
        marks=("*-*-*-*-*/0/Data | *-*-*-*-*/*-*-*-*-*/0/Data",),
        data=("*-*-*-*-*/0/Data", "*-*-*-*-*/*-*-*-*-*/0/Data"),
        stack="frames",
        beam="electron",
        more=_describe_topspin,
        states="raster, step, angle",
        compared="rosettasciio 0.15: equal",
    ),
    Kind(
        name="arina",
        title="DECTRIS ARINA, QUADRO, ELA, SINGLA (_master.h5 and its files)",
        marks=(
            "entry/data",
            r"entry/instrument/detector/description~(?i)arina|quadro|\bela\b|singla",
        ),
        data=("entry/data/data_*", "entry/data/data"),
        stack="joined",
        beam="electron",
        values={
            "energy": (
                "entry/instrument/detector/detectorSpecific/photon_energy [eV]",
                "entry/instrument/detector/detectorSpecific/incident_energy [eV]",
                "entry/instrument/beam/incident_energy [eV]",
            ),
        },
        bad=(
            "entry/instrument/detector/detectorSpecific/pixel_mask",
            "entry/instrument/detector/pixel_mask",
        ),
        depth=("entry/instrument/detector/bit_depth_image",),
        texts={
            "detector": ("entry/instrument/detector/description",),
            "dwell time": (
                "entry/instrument/detector/frame_time [s]",
                "entry/instrument/detector/count_time [s]",
            ),
            "date": ("entry/instrument/detector/detectorSpecific/data_collection_date", "entry/start_time"),
        },
        hints={
            "grid": "rows and columns of the scan, in the program that drove it; rows times columns are"
            " the triggers"
        },
        states="energy, pixel mask, dwell time, date",
        compared="rosettasciio 0.15: equal for square patterns, which it assumes",
    ),
    Kind(
        name="velox",
        title="Velox .emd",
        marks=("Data/Image/*/Metadata",),
        data=("Data/Image/*/Data",),
        order=(2, 0, 1),
        beam="electron",
        values={
            "energy": ("$/Metadata:Optics.AccelerationVoltage [V]",),
            "slow": ("$/Metadata:Scan.ScanSize.height",),
            "fast": ("$/Metadata:Scan.ScanSize.width",),
        },
        texts={
            "instrument": ("$/Metadata:Instrument.InstrumentModel",),
            "detector": ("$/Metadata:BinaryResult.Detector",),
            "dwell time": ("$/Metadata:Scan.DwellTime [s]",),
            "camera length": ("$/Metadata:Optics.CameraLength [m]",),
            "convergence semi-angle": ("$/Metadata:Optics.BeamConvergence [rad]",),
            "date": ("$/Metadata:Acquisition.AcquisitionStartDatetime.DateTime",),
            "sample": ("$/Metadata:Sample.SampleName",),
        },
        more=_describe_velox,
        states="energy, angle of a series of patterns",
        compared="none",
    ),
    Kind(
        name="py4dstem",
        title="py4DSTEM 0.13 and later, emdfile",
        marks=("@emd_group_type~file | */*@python_class", "*/*@emd_group_type"),
        data=("*/*/data",),
        beam="electron",
        axes="dims",
        axis_values=("$/dim[0-9]*",),
        values={
            "sampling": (f"{CALIBRATION}/Q_pixel_size [=Q_pixel_units]",),
            "step": (f"{CALIBRATION}/R_pixel_size [=R_pixel_units]",),
            "energy": (
                "$/../metadatabundle/*/accelerating_voltage [V]",
                "$/../metadatabundle/*/beam_energy [keV]",
            ),
        },
        texts={
            "title": ("@authoring_program",),
            "rotation of the calibration": (f"{CALIBRATION}/QR_rotation_degrees [deg]",),
            "flip of the calibration": (f"{CALIBRATION}/QR_flip",),
            "convergence semi-angle": (f"{CALIBRATION}/convergence_semiangle_mrad [mrad]",),
        },
        hints={"energy": "the accelerating voltage, which files of py4DSTEM do not keep"},
        states="step, angle (once the energy is given), rotation and flip as text",
        compared="py4DSTEM 0.14.18 and emdfile 0.0.16 (by hand): equal",
    ),
    Kind(
        name="py4dstem_old",
        title="py4DSTEM 0.12 and before",
        marks=("4DSTEM_experiment | 4DSTEM_simulation | 4D-STEM_data",),
        data=("*/data/datacubes/*/data", "*/datacube/*/data"),
        beam="electron",
        axes="dims",
        axis_values=("$/dim[0-9]*",),
        values={
            "energy": (
                "*/metadata/*/microscope@beam_energy [eV]",
                "*/metadata/microscope@accelerating_voltage [kV]",
            ),
            "sampling": ("*/metadata/*/calibration@Q_pixel_size [=Q_pixel_size_units]",),
            "step": ("*/metadata/*/calibration@R_pixel_size [=R_pixel_size_units]",),
        },
        states="step, angle (once the energy is given)",
    ),
    Kind(
        name="emd",
        title="EMD of NCEM (Berkeley)",
        marks=("data/*@emd_group_type | */*@emd_group_type",),
        data=("data/*/data", "*/*/data"),
        beam="electron",
        axes="dims",
        axis_values=("$/dim[0-9]*",),
        values={
            "energy": (
                "microscope@voltage [kV]",
                "microscope@accelerating_voltage [kV]",
                "microscope@beam_energy [keV]",
                "microscope/voltage [kV]",
            ),
        },
        texts={
            "instrument": ("microscope@microscope", "microscope@name"),
            "sample": ("sample@material", "sample@name"),
            "author": ("user@user", "user@name"),
            "title": ("comments@title",),
        },
        states="energy, step, angle",
        compared="rosettasciio 0.15: equal, axes reversed there",
    ),
    Kind(
        name="hspy",
        title="HyperSpy .hspy, .zspy, LiberTEM and ePSIC files of that layout",
        marks=("Experiments/*/data",),
        data=("Experiments/*/data",),
        beam="electron",
        axes="groups",
        axis_values=("$/axis-*",),
        values={"energy": ("$/metadata/Acquisition_instrument/TEM@beam_energy [keV]",)},
        texts={
            "title": ("$/metadata/General@title",),
            "date": ("$/metadata/General@date",),
            "instrument": ("$/metadata/Acquisition_instrument/TEM@microscope",),
            "camera length": ("$/metadata/Acquisition_instrument/TEM@camera_length [mm]",),
            "convergence semi-angle": ("$/metadata/Acquisition_instrument/TEM@convergence_angle [mrad]",),
            "current": ("$/metadata/Acquisition_instrument/TEM@beam_current [nA]",),
            "dwell time": (
                "$/metadata/Acquisition_instrument/TEM@dwell_time [s]",
                "$/metadata/Acquisition_instrument/TEM/Detector/*@exposure [s]",
            ),
            "sample": ("$/metadata/Sample@description",),
        },
        states="energy, step, angle, dwell time, date",
        compared="rosettasciio 0.15: equal",
    ),
    Kind(
        name="nion",
        title="Nion Swift .h5, .nhdf, .ndata1",
        marks=("data@properties | data/*@properties",),
        data=("data", "data/*"),
        beam="electron",
        axes="json",
        axis_values=_nion("dimensional_calibrations", "spatial_calibrations"),
        values={
            "energy": tuple(
                f"{one} [V]"
                for one in _nion(
                    "metadata.instrument.high_tension",
                    "metadata.hardware_source.high_tension_v",
                    "metadata.hardware_source.autostem.high_tension_v",
                    "metadata.scan.high_tension",
                )
            ),
        },
        texts={
            "title": _nion("title"),
            "detector": _nion("metadata.hardware_source.hardware_source_name"),
            "date": _nion("created", "datetime_modified.local_datetime", "timestamp"),
            "dwell time": tuple(f"{one} [s]" for one in _nion("metadata.hardware_source.exposure")),
            "defocus": tuple(f"{one} [m]" for one in _nion("metadata.instrument.defocus")),
            "rotation of the scan": tuple(f"{one} [deg]" for one in _nion("metadata.scan.rotation_deg")),
        },
        states="energy, step, angle, dwell time, date",
        compared="nionswift 16.16 (by hand): equal",
    ),
)
"""In the order in which files are asked: the more specific first."""
