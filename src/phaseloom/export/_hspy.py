"""HyperSpy's HDF5 files (``.hspy``), which HyperSpy and RosettaSciIO open."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py

from phaseloom.data.formats import native
from phaseloom.data.nexus import field_name
from phaseloom.data.scan import Scan4D
from phaseloom.data.signals import Axis, Signal, Signals, iterate_blocks
from phaseloom.export.sources import Exportable, arrange_raster, resolve_path, to_signals
from phaseloom.files import whole_hdf5
from phaseloom.version import __version__

__all__ = ["hspy"]

FILE_VERSION = "3.3"
"""Of HyperSpy's layout, that of HyperSpy 2."""


def hspy(source: Exportable, path: str | os.PathLike[str], /) -> Path:
    """Write a HyperSpy file with a signal for each image; those of a scan are patterns to navigate.

    Lengths are in nm, detector axes in mrad from the middle pixel, phases in radian of ``exp(+i phase)``.
    Metadata of the scan are ``original_metadata``. Of a scan the file holds besides what our own format does,
    so that every verb reads it back.

    Args:
        source: a result, a scan, or images.
        path: the file, or a folder, in which it becomes ``phaseloom.hspy``.

    Returns:
        The file.

    Example:
        >>> import numpy as np
        >>> axes = (Axis("y", 2.0, 0.0, "A"), Axis("x", 2.0, 0.0, "A"))
        >>> one = Signal("phase", np.zeros((2, 3)), axes, "rad")
        >>> with h5py.File(hspy(Signals("flat", (one,)), "one.hspy")) as file:
        ...     file["Experiments/phase/axis-0"].attrs["scale"]
        np.float64(0.2)
    """
    path = resolve_path(path, "phaseloom.hspy")
    source = arrange_raster(source)
    signals = to_signals(source)
    with whole_hdf5(path, stream=True) as file:
        if signals.kind != "scan":
            file.attrs["phaseloom_export"] = "hspy"
        file.attrs["file_format"] = "HyperSpy"
        file.attrs["file_format_version"] = FILE_VERSION
        experiments = file.create_group("Experiments")
        for signal in signals.signals:
            _write_signal(experiments.create_group(signal.name), signal, signals)
        if isinstance(source, Scan4D):
            native.describe(file, source, counts="/Experiments/patterns/data")
    return path


def _write_signal(group: h5py.Group, signal: Signal, signals: Signals) -> None:
    group.attrs["package"] = "hyperspy"
    group.attrs["package_version"] = ""
    data = group.create_dataset("data", signal.shape, signal.values.dtype)
    for place, values in iterate_blocks(signal):
        data[place] = values
    for number, (axis, size) in enumerate(zip(signal.axes, signal.shape, strict=True)):
        navigate = number < len(signal.shape) - 2
        _write_axis(group.create_group(f"axis-{number}"), axis.to("nm", "mrad"), size, navigate=navigate)
    _write_tree(group.create_group("metadata"), _metadata(signal, signals))
    original = {"scan": dict(signals.metadata), "process": dict(signals.process)}
    _write_tree(group.create_group("original_metadata"), original)
    _write_tree(group.create_group("attributes"), {"_lazy": False, "ragged": False})
    group.create_group("learning_results")


def _write_axis(group: h5py.Group, axis: Axis, size: int, *, navigate: bool) -> None:
    values = {"_type": "UniformDataAxis", "name": axis.name, "units": axis.unit, "size": size}
    values |= {"scale": axis.step, "offset": axis.start, "navigate": navigate, "is_binned": False}
    group.attrs.update(values)


def _metadata(signal: Signal, signals: Signals) -> dict[str, Any]:
    """What HyperSpy has a place for."""
    title = f"{signals.title}: {signal.title or signal.name}"
    quantity = (
        f"{signal.title or signal.name} ({signal.unit})" if signal.unit else signal.title or signal.name
    )
    tree: dict[str, Any] = {
        "General": {"title": title, "authors": signals.metadata.get("authors", "")},
        "Signal": {"signal_type": "complex_signal2d" if signal.is_complex else "", "quantity": quantity},
        "_HyperSpy": {},
    }
    tree["General"]["FileIO"] = {"0": {"operation": "save", "io_plugin": f"Phaseloom {__version__}"}}
    if signals.beam == "electron" and signals.energy is not None:
        tree["Acquisition_instrument"] = {"TEM": {"beam_energy": signals.energy / 1e3}}
    if sample := signals.metadata.get("sample"):
        tree["Sample"] = {"description": sample}
    return tree


def _write_tree(group: h5py.Group, tree: Mapping[str, Any]) -> None:
    """Texts, numbers and truths as attributes, dictionaries as groups."""
    for name, value in tree.items():
        key = field_name(name)
        if isinstance(value, Mapping):
            _write_tree(group.create_group(key), value)
        elif key in group:
            continue
        elif isinstance(value, str) and len(value) > MAX_CHARACTERS_OF_ATTRIBUTE:
            group[key] = value.replace("\0", "")
        else:
            group.attrs[key] = value.replace("\0", "") if isinstance(value, str) else value


MAX_CHARACTERS_OF_ATTRIBUTE = 16_000
"""An attribute of HDF5 holds 64 kB; longer texts become data sets."""
