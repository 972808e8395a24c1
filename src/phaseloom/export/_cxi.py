"""A result or a scan as a CXI file (https://cxidb.org)."""

import json
import os
from pathlib import Path

import h5py
import numpy as np

from phaseloom.data.formats import cxi as layout
from phaseloom.data.scan import Scan4D
from phaseloom.data.signals import Signals
from phaseloom.export.sources import Exportable, require_result, resolve_path
from phaseloom.files import whole_hdf5
from phaseloom.result import Result
from phaseloom.units import HC_SI
from phaseloom.version import __version__

__all__ = ["cxi"]


def cxi(source: Exportable, path: str | os.PathLike[str], /) -> Path:
    """Write the object as ``image_1`` and the probe as ``image_2``, or the patterns of a scan.

    Lengths are in metres, energies in joule; positions are the motion of the sample. ``data_1`` is the summed
    phase (radian of ``exp(+i phase)``) as NXdata, which NeXus viewers plot at once.

    Args:
        source: a result, or a scan, which every verb reads back.
        path: the file, or a folder, in which it becomes ``phaseloom.cxi``.

    Returns:
        The file.

    Raises:
        BadInput: images without an object and a probe.
    """
    path = resolve_path(path, "phaseloom.cxi")
    if isinstance(source, Scan4D):
        layout.write(source, path)
        return path
    result = require_result(source, "export.cxi")
    signals = result.signals()
    with whole_hdf5(path) as file:
        file.attrs.update({"NX_class": "NXroot", "default": "entry_1", "phaseloom_export": "cxi"})
        file["cxi_version"] = 160
        file["number_of_entries"] = 1
        entry = file.create_group("entry_1")
        entry.attrs.update({"NX_class": "NXentry", "default": "data_1"})
        layout.write_metadata(dict(signals.metadata) | {"title": signals.title}, entry)
        for number, array in ((1, result.object), (2, result.probe)):
            _write_image(entry.create_group(f"image_{number}"), array, result)
        _write_phase(entry.create_group("data_1"), signals)
        if result.sigma is not None:
            place = "image_1/sigma_phase"
            entry.create_dataset(place, data=result.sigma, compression="gzip").attrs["units"] = "rad"
        _write_experiment(entry, result)
    return path


def _write_image(image: h5py.Group, array: np.ndarray, result: Result) -> None:
    image.create_dataset("data", data=array, compression="gzip")
    image["data_type"] = "electron density"
    image["data_space"] = "real"
    image["dimensionality"] = 2 if len(array) == 1 else 3
    sizes = [n * p * 1e-10 for n, p in zip(array.shape[-2:], result.pixel, strict=True)]
    image["image_size"] = np.array(sizes)
    image["pixel_size"] = np.array(result.pixel) * 1e-10
    image["pixel_size"].attrs["units"] = "m"
    process = image.create_group("process_1")
    process["command"] = "phaseloom reconstruct"
    process["version"] = __version__
    if result.recipe:
        process["recipe"] = result.recipe.replace("\0", "")


def _write_phase(data: h5py.Group, signals: Signals) -> None:
    phase = signals.signals[0]
    data.attrs.update({"NX_class": "NXdata", "signal": "data"})
    data.attrs["axes"] = [axis.name for axis in phase.axes]
    data["data"] = phase.values
    data["data"].attrs.update({"units": phase.unit, "long_name": "phase (rad)"})
    for axis, size in zip(phase.axes, phase.shape, strict=True):
        metres = axis.to("m")
        data[axis.name] = metres.coordinates(size)
        data[axis.name].attrs["units"] = metres.unit


def _write_experiment(entry: h5py.Group, result: Result) -> None:
    source = entry.create_group("instrument_1/source_1")
    source["wavelength"] = result.geometry.wavelength * 1e-10
    source["energy"] = HC_SI / (result.geometry.wavelength * 1e-10)
    source.attrs["phaseloom_beam"] = result.geometry.beam
    moved = layout.compute_sample_motion(result.positions, result.heights, result.geometry)
    entry["sample_1/geometry_1/translation"] = moved
    if result.metrics:
        entry["image_1/process_1/metrics"] = json.dumps(dict(result.metrics))
