"""NeXus groups, which h5web, silx and NeXpy plot at once (https://www.nexusformat.org).

``/`` (NXroot) -> ``entry`` (NXentry) -> one NXdata for each signal, with ``@default`` all the way down to the
first. Lengths of images are in nm, angles in mrad, energies in eV.
"""

import datetime
import re
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np

from phaseloom.data.signals import Axis, Signal, Signals, iterate_blocks
from phaseloom.version import __version__

__all__ = ["field_name", "set_root", "write_entry", "write_text"]

ENTRY = "entry"
MIN_SIZE_TO_COMPRESS = 10_000

PLACES_OF_METADATA = {
    "title": "title",
    "start_time": "start_time",
    "end_time": "end_time",
    "experiment_identifier": "experiment_identifier",
    "experiment_description": "experiment_description",
    "instrument": "instrument/name",
    "sample": "sample/name",
}
"""Where an entry has a field for a text of the metadata; all texts are in ``metadata`` as well."""


def set_root(file: h5py.File, /) -> None:
    """Make a file an NXroot whose default is the entry."""
    file.attrs["NX_class"] = "NXroot"
    file.attrs["default"] = ENTRY
    file.attrs["creator"] = f"Phaseloom {__version__}"
    file.attrs["file_time"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def write_entry(file: h5py.File, signals: Signals, /, *, links: Mapping[str, str] | None = None) -> None:
    """Add an entry to a file.

    Args:
        file: open for writing.
        signals: what is plotted, the first one by default.
        links: signals that are in the file already, by name, with the path of their data set.

    Example:
        >>> axes = (Axis("y", 1.0, 0.0, "A"), Axis("x", 1.0, 0.0, "A"))
        >>> one = Signal("phase", np.zeros((2, 3)), axes, "rad")
        >>> with h5py.File("one.nxs", "w") as file:
        ...     write_entry(file, Signals("flat", (one,)))
        ...     place = file[file.attrs["default"]]
        ...     place = place[place.attrs["default"]]
        ...     place.attrs["signal"], place["phase"].attrs["units"], place["x"].attrs["units"]
        ('phase', 'rad', 'nm')
    """
    set_root(file)
    entry = _group(file, ENTRY, "NXentry")
    entry.attrs["default"] = signals.signals[0].name
    write_text(entry, "title", signals.title)
    for signal in signals.signals:
        _write_data(entry, signal, (links or {}).get(signal.name))
    _write_instrument(entry, signals)
    _write_process(entry, signals)
    _group(entry, "sample", "NXsample")
    _write_metadata(entry, signals.metadata)


def write_text(group: h5py.Group, name: str, text: object, /) -> None:
    """A field of text; NUL characters, which HDF5 cannot hold, are left out."""
    group[name] = str(text).replace("\0", "")


def field_name(name: object, /) -> str:
    """A name that HDF5 takes for one thing in a group.

    Example:
        >>> field_name("Microscope/Voltage"), field_name("..")
        ('Microscope_Voltage', '_')
    """
    return re.sub(r"[/\0]", "_", str(name)).strip(".") or "_"


def _group(parent: h5py.Group, name: str, kind: str) -> h5py.Group:
    group = parent.require_group(name)
    group.attrs["NX_class"] = kind
    return group


def _write_data(entry: h5py.Group, signal: Signal, link: str | None) -> None:
    """An NXdata group: the signal, a coordinate for each axis, and what says which is which."""
    data = _group(entry, signal.name, "NXdata")
    data.attrs["signal"] = signal.name
    data.attrs["axes"] = [axis.name for axis in signal.axes]
    write_text(data, "title", signal.title or signal.name)
    if link is None:
        _write_values(data, signal)
    else:
        data[signal.name] = h5py.SoftLink(link)
    stored: Any = data[signal.name]
    if signal.unit:
        stored.attrs["units"] = signal.unit
    stored.attrs["long_name"] = _label(signal.title or signal.name, signal.unit)
    if len(signal.axes) == 2 or signal.axes[0].name in ("slice", "mode", "state"):
        stored.attrs["interpretation"] = "image"
    for number, (axis, size) in enumerate(zip(signal.axes, signal.shape, strict=True)):
        data.attrs[f"{axis.name}_indices"] = number
        _write_axis(data, axis.to("nm", "mrad"), size)


def _write_axis(data: h5py.Group, axis: Axis, size: int) -> None:
    data[axis.name] = axis.coordinates(size)
    data[axis.name].attrs["long_name"] = _label(axis.name, axis.unit)
    if axis.unit:
        data[axis.name].attrs["units"] = axis.unit


def _label(name: str, unit: str) -> str:
    return f"{name} ({unit})" if unit else name


def _write_values(data: h5py.Group, signal: Signal) -> None:
    kind = signal.values.dtype
    packed = "gzip" if np.prod(signal.shape) > MIN_SIZE_TO_COMPRESS else None
    stored = data.create_dataset(signal.name, signal.shape, kind, compression=packed)
    for place, values in iterate_blocks(signal):
        stored[place] = values


def _write_instrument(entry: h5py.Group, signals: Signals) -> None:
    """Source, beam and detector as far as they are known."""
    instrument = _group(entry, "instrument", "NXinstrument")
    if signals.beam is not None:
        source = _group(instrument, "source", "NXsource")
        write_text(source, "probe", "electron" if signals.beam == "electron" else "x-ray")
    beam = _group(instrument, "beam", "NXbeam")
    numbers = {
        "incident_energy": (signals.energy, "eV"),
        "incident_wavelength": (signals.wavelength, "angstrom"),
    }
    _write_numbers(beam, numbers)
    detector = _group(instrument, "detector", "NXdetector")
    metres = None if signals.distance is None else signals.distance * 1e-10
    sizes: dict[str, tuple[float | None, str]] = {"distance": (metres, "m")}
    if signals.angle is not None:
        for name, angle in zip("yx", signals.angle, strict=True):
            sizes[f"{name}_pixel_size"] = (None if metres is None else metres * angle, "m")
            sizes[f"{name}_pixel_angle"] = (angle * 1e3, "mrad")
    _write_numbers(detector, sizes)


def _write_numbers(group: h5py.Group, numbers: Mapping[str, tuple[float | None, str]]) -> None:
    for name, (value, unit) in numbers.items():
        if value is not None:
            group[name] = float(value)
            group[name].attrs["units"] = unit


def _write_process(entry: h5py.Group, signals: Signals) -> None:
    """Program, version and recipe; a recipe is a note of YAML."""
    process = _group(entry, "process", "NXprocess")
    process["sequence_index"] = 1
    known = {"program": "phaseloom", "version": __version__} | dict(signals.process)
    recipe = known.pop("recipe", "")
    for name, text in known.items():
        if text:
            write_text(process, name, text)
    if recipe:
        note = _group(process, "recipe", "NXnote")
        write_text(note, "type", "application/yaml")
        write_text(note, "data", recipe)


def _write_metadata(entry: h5py.Group, metadata: Mapping[str, str]) -> None:
    group = _group(entry, "metadata", "NXcollection")
    for name, text in metadata.items():
        if (key := field_name(name)) not in group:
            write_text(group, key, text)
        place = PLACES_OF_METADATA.get(name)
        if place and place not in entry:
            write_text(entry, place, text)
