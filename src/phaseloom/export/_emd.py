"""EMD 1.0 files in the layout of emdfile, which py4DSTEM opens (https://emdatasets.com/format)."""

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from phaseloom.data.formats import native
from phaseloom.data.nexus import field_name
from phaseloom.data.scan import Scan4D
from phaseloom.data.signals import Axis, Signal, Signals, iterate_blocks
from phaseloom.export.sources import Exportable, arrange_raster, resolve_path, to_signals
from phaseloom.files import whole_hdf5
from phaseloom.version import __version__

__all__ = ["emd"]

ROOT = "phaseloom"
CUBE = "datacube"


def emd(source: Exportable, path: str | os.PathLike[str], /) -> Path:
    """Write an EMD file: an ``Array`` for each image, or a ``DataCube`` of a scan on a raster.

    Lengths are in angstrom (``A``); detector axes of a scan in ``A^-1`` (angle over wavelength); phases in
    radian of ``exp(+i phase)``. Metadata of the scan and what made the images are metadata of the root. Of a
    scan the file holds besides what our own format does, so that every verb reads it back.

    Args:
        source: a result, a scan, or images.
        path: the file, or a folder, in which it becomes ``phaseloom.emd``.

    Returns:
        The file.

    Example:
        >>> from phaseloom.data.scan import Geometry, Scan4D
        >>> geometry = Geometry(wavelength=0.02, shape=(8, 8), angle=(5e-3, 5e-3), beam="electron")
        >>> places = np.indices((2, 3)).reshape(2, -1).T * 0.5
        >>> scan = Scan4D(counts=np.ones((6, 8, 8)), positions=places, geometry=geometry, grid=(2, 3))
        >>> with h5py.File(emd(scan, "scan.emd")) as file:
        ...     file["phaseloom/datacube"].attrs["python_class"]
        'DataCube'
    """
    path = resolve_path(path, "phaseloom.emd")
    source = arrange_raster(source)
    signals = to_signals(source)
    with whole_hdf5(path, stream=True) as file:
        _set_header(file)
        if signals.kind != "scan":
            file.attrs["phaseloom_export"] = "emd"
        root = _create_node(file, ROOT, "root", "Root")
        bundle = root.create_group("metadatabundle")
        bundle.attrs["emd_group_type"] = "metadatabundle"
        _write_metadata(bundle, "scan", dict(signals.metadata) | {"title": signals.title})
        _write_metadata(bundle, "process", dict(signals.process))
        beam = {"beam": signals.beam, "energy_eV": signals.energy, "wavelength_A": signals.wavelength}
        _write_metadata(bundle, "beam", beam)
        for signal in signals.signals:
            _write_array(root, bundle, signal, signals)
        if isinstance(source, Scan4D):
            native.describe(file, source, counts=f"/{ROOT}/{_name_of(signals.signals[0], signals)}/data")
    return path


def _set_header(file: h5py.File) -> None:
    file.attrs["emd_group_type"] = "file"
    file.attrs["version_major"] = 1
    file.attrs["version_minor"] = 0
    file.attrs["UUID"] = str(uuid.uuid4())
    file.attrs["authoring_program"] = f"Phaseloom {__version__}"
    file.attrs["authoring_user"] = ""


def _create_node(parent: h5py.Group, name: str, kind: str, python_class: str) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs["emd_group_type"] = kind
    group.attrs["python_class"] = python_class
    return group


def _name_of(signal: Signal, signals: Signals) -> str:
    return CUBE if signals.kind == "scan" and len(signal.shape) == 4 else signal.name


def _write_array(root: h5py.Group, bundle: h5py.Group, signal: Signal, signals: Signals) -> None:
    name = _name_of(signal, signals)
    cube = name == CUBE
    group = _create_node(root, name, "array", "DataCube" if cube else "Array")
    data = group.create_dataset("data", signal.shape, signal.values.dtype)
    for place, values in iterate_blocks(signal):
        data[place] = values
    data.attrs["units"] = "pixel intensity" if cube else signal.unit
    axes = [_in_emd_units(axis, signals.wavelength) for axis in signal.axes]
    for number, axis in enumerate(axes):
        # two numbers stand for a linear axis; an axis of one pixel has one
        size = min(2, signal.shape[number])
        stored = group.create_dataset(f"dim{number}", data=axis.coordinates(size))
        stored.attrs["name"] = ("Rx", "Ry", "Qx", "Qy")[number] if cube else axis.name
        stored.attrs["units"] = axis.unit or "pixels"
    if cube:
        _write_calibration(bundle, axes)


def _in_emd_units(axis: Axis, wavelength: float | None) -> Axis:
    """Angles as spatial frequencies, which py4DSTEM calibrates patterns by; the middle pixel stays zero."""
    if axis.unit != "rad" or wavelength is None:
        return axis
    return Axis(axis.name, axis.step / wavelength, axis.start / wavelength, "A^-1")


def _write_calibration(bundle: h5py.Group, axes: list[Axis]) -> None:
    """Pixel sizes where py4DSTEM's DataCube looks for them: of the fast axis of scan and detector."""
    values = {
        "R_pixel_size": axes[1].step,
        "R_pixel_units": axes[1].unit,
        "Q_pixel_size": axes[3].step,
        "Q_pixel_units": axes[3].unit,
        "QR_flip": False,
        "_root_treepath": "",
    }
    group = _write_metadata(bundle, "calibration", values)
    group.attrs["python_class"] = "Calibration"
    targets = group.create_group("_target_paths")
    targets.attrs["type"] = "list_of_strings"
    targets.attrs["length"] = 1
    targets["0"] = f"/{CUBE}"


def _write_metadata(bundle: h5py.Group, title: str, values: Mapping[str, Any]) -> h5py.Group:
    """Values with the type that emdfile reads them as."""
    group = _create_node(bundle, title, "metadata", "Metadata")
    for key, value in values.items():
        if value is None or value == "":
            value, kind = ("_None", "None") if value is None else ("", "string")  # noqa: PLW2901
        else:
            numeric = isinstance(value, (int, float, np.number))
            kind = "bool" if isinstance(value, bool) else "number" if numeric else "string"
        if (name := field_name(key)) in group:
            continue
        place = group.create_dataset(name, data=_plain(value))
        place.attrs["type"] = np.bytes_(kind)
    return group


def _plain(value: Any) -> Any:
    return value.replace("\0", "").encode() if isinstance(value, str) else value
