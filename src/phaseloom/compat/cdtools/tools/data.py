"""CDTools' ``tools.data``: single items of an open CXI file (`h5py.File`), and nested dictionaries in HDF5.

SI units. What is read is found as `phaseloom.read` finds it, which understands more files than CDTools. A
whole file is better read by `phaseloom.read` and written by ``dataset.to_cxi``.
"""

import datetime
import numbers
import os
from collections.abc import Callable, Mapping
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from phaseloom.compat.cdtools.tools._shared import missing, to_numpy
from phaseloom.data.formats import cxi_layout as _layout
from phaseloom.data.formats.files import CheckedGroup
from phaseloom.errors import BadInput
from phaseloom.files import whole_hdf5
from phaseloom.units import HC_SI

__all__ = [
    "add_dark",
    "add_data",
    "add_detector",
    "add_entry_info",
    "add_mask",
    "add_ptycho_translations",
    "add_qe_mask",
    "add_sample_info",
    "add_shot_to_shot_info",
    "add_source",
    "create_cxi",
    "get_dark",
    "get_data",
    "get_detector_geometry",
    "get_entry_info",
    "get_mask",
    "get_ptycho_translations",
    "get_qe_mask",
    "get_sample_info",
    "get_shot_to_shot_info",
    "get_wavelength",
    "h5_to_nested_dict",
    "nested_dict_to_h5",
    "nested_dict_to_numpy",
    "nested_dict_to_torch",
]

__getattr__ = missing("data", __all__)

TITLES = (
    "title",
    "experiment_identifier",
    "experiment_description",
    "program_name",
    "start_time",
    "end_time",
)
SAMPLE_NUMBERS = ("concentration", "mass", "temperature", "thickness", "unit_cell_volume")
DETECTOR = "entry_1/instrument_1/detector_1"
GEOMETRY = "entry_1/sample_1/geometry_1"
SHOT_PLACES = ("entry_1/data_1", GEOMETRY, DETECTOR)
"""Where CDTools looks for what has a row for each shot."""


def get_entry_info(cxi_file: h5py.File) -> dict[str, Any]:
    """Title, program, times and the like; dates are `datetime` where they are written as ISO."""
    top = _entry(cxi_file)
    found: dict[str, Any] = {key: _parse_date(text) for key in TITLES if (text := top.text(key)) is not None}
    if top.find("polarization_states"):
        states: Any = top.group["polarization_states"]
        found["polarization_states"] = states[()]
    return found


def get_sample_info(cxi_file: h5py.File) -> dict[str, Any] | None:
    """Name, mass, temperature and the like; ``orientation`` is a matrix ``(axis, xyz)``. None without any."""
    sample = _entry(cxi_file).first("sample_1")
    if sample is None:
        return None
    names = ("name", "description", "unit_cell_group")
    found: dict[str, Any] = {key: text for key in names if (text := sample.text(key)) is not None}
    found |= {key: np.float32(sample.scalar(key)) for key in SAMPLE_NUMBERS if sample.find(key)}
    if sample.find("unit_cell"):
        found["unit_cell"] = sample.array("unit_cell").astype(np.float32)
    if (axes := _orientation(sample.first("geometry_1"))) is not None:
        found["orientation"] = axes
    return found or None


def get_wavelength(cxi_file: h5py.File) -> np.float32:
    """Metres, from a wavelength or a photon energy."""
    top = _entry(cxi_file)
    return np.float32(_layout.read_wavelength(top, top.first("instrument_1/source_1")) * 1e-10)


def get_detector_geometry(cxi_file: h5py.File) -> tuple[np.float32, np.ndarray, np.ndarray | None]:
    """Distance, basis ``(xyz, 2)`` and position of the corner (or none), metres."""
    detector = _detector(cxi_file)
    directions, angles, distance = _layout.read_optics(detector)
    corner = detector.lengths("corner_position") if detector.find("corner_position") else None
    return np.float32(distance * 1e-10), np.asarray(directions) * angles * distance * 1e-10, corner


def get_mask(cxi_file: h5py.File) -> np.ndarray | None:
    """True where the detector is to be trusted; none without a mask."""
    return _read_image(cxi_file, "mask", _layout.read_mask)


def get_qe_mask(cxi_file: h5py.File) -> np.ndarray | None:
    """Efficiency of each pixel, float32; none without one."""
    found = _read_image(cxi_file, "qe_mask", _layout.read_flat)
    return None if found is None else found.astype(np.float32)


def get_dark(cxi_file: h5py.File) -> np.ndarray | None:
    """Mean dark pattern ``(y, x)``, or none."""
    return _read_image(cxi_file, "data_dark", _layout.read_background)


def find_data(cxi_file: h5py.File) -> Any:
    """The stored patterns."""
    tree, name = _layout.find_patterns(_entry(cxi_file), _detector(cxi_file))
    return tree.group[name]


def get_data(cxi_file: h5py.File, cut_zeros: bool = True) -> tuple[np.ndarray, list[str] | None]:
    """Patterns and the names of their axes, if there are any; with ``cut_zeros`` none is negative."""
    stored = find_data(cxi_file)
    axes = stored.attrs.get("axes")
    text = axes.decode() if isinstance(axes, bytes) else axes
    counts = np.maximum(stored[()], 0) if cut_zeros else stored[()]
    return counts, None if text is None else [axis.strip().lower() for axis in str(text).split(":")]


def get_shot_to_shot_info(cxi_file: h5py.File, field_name: str) -> np.ndarray:
    """Anything with a row for each shot, float32: from data_1, the sample's geometry or the detector."""
    found = next((f"{p}/{field_name}" for p in SHOT_PLACES if f"{p}/{field_name}" in cxi_file), None)
    if found is None:
        raise BadInput(f"{cxi_file.filename}: {GEOMETRY}/{field_name}", None, "is missing: store it there")
    stored: Any = cxi_file[found]
    return stored[()].astype(np.float32)


def get_ptycho_translations(cxi_file: h5py.File) -> np.ndarray:
    """Motion of the probe ``(shot, xyz)``, metres: minus that of the sample, which the file holds."""
    return -get_shot_to_shot_info(cxi_file, "translation")


def measure_scan(cxi_file: h5py.File) -> float:
    """Metres that the translations of a file span; 0 where they are not in CDTools' places."""
    for place in SHOT_PLACES:
        if f"{place}/translation" in cxi_file:
            table = CheckedGroup(cxi_file, str(cxi_file.filename)).lengths(f"{place}/translation")
            return float(np.ptp(table, axis=0).max()) if np.isfinite(table).all() and table.size else 0.0
    return 0.0


def read_optics(cxi_file: h5py.File) -> dict[str, Any]:
    """Wavelength, detector, masks and background of a file by the names of a `CDataset`."""
    return {
        "wavelength": get_wavelength(cxi_file),
        "detector_geometry": dict(
            zip(("distance", "basis", "corner"), get_detector_geometry(cxi_file), strict=True)
        ),
        "mask": get_mask(cxi_file),
        "qe_mask": get_qe_mask(cxi_file),
        "background": get_dark(cxi_file),
    }


def create_cxi(filename: Any) -> h5py.File:
    """A new file with an empty entry, open for writing."""
    file = h5py.File(filename, "w")
    file["cxi_version"] = 160
    file["number_of_entries"] = 1
    file.create_group("entry_1")
    return file


def add_items(cxi_file: h5py.File, items: Mapping[str, Any]) -> None:
    """Write what a `CDataset` holds, by the names of its attributes; what is ``None`` is left out."""
    known = {name: value for name, value in items.items() if value is not None}
    for name, add in ADDERS.items():
        if name in known:
            add(cxi_file, known[name])
    if "detector_geometry" in known:
        detector = known["detector_geometry"]
        add_detector(cxi_file, detector["distance"], detector["basis"], detector.get("corner"))


def add_entry_info(cxi_file: h5py.File, metadata: Mapping[str, Any]) -> None:
    """Write texts, times, numbers and arrays into the entry."""
    _write_items(cxi_file, "entry_1", metadata)


def add_sample_info(cxi_file: h5py.File, metadata: Mapping[str, Any]) -> None:
    """Write what `get_sample_info` reads."""
    _write_items(
        cxi_file, "entry_1/sample_1", {key: v for key, v in metadata.items() if key != "orientation"}
    )
    if "orientation" in metadata:
        _write_items(cxi_file, GEOMETRY, {"orientation": to_numpy(metadata["orientation"]).ravel()[:6]})


def add_source(cxi_file: h5py.File, wavelength: float) -> None:
    """Write the wavelength, metres, and the photon energy, joule."""
    energy = np.float32(HC_SI / float(wavelength))
    _write_items(
        cxi_file, "entry_1/instrument_1/source_1", {"wavelength": np.float32(wavelength), "energy": energy}
    )


def add_detector(cxi_file: h5py.File, distance: float, basis: Any, corner: Any = None) -> None:
    """Write distance, basis ``(xyz, 2)`` and perhaps the corner's position, metres."""
    steps = to_numpy(basis)
    steps = steps.T if steps.shape == (2, 3) else steps
    y, x = np.linalg.norm(steps, axis=0)
    items = {"distance": np.float32(distance), "basis_vectors": steps, "x_pixel_size": x, "y_pixel_size": y}
    _write_items(cxi_file, DETECTOR, items | ({} if corner is None else {"corner_position": corner}))


def add_mask(cxi_file: h5py.File, mask: Any) -> None:
    """Write a mask that is true where the detector is good: the file holds 0 for good, 1 for bad."""
    _write_items(cxi_file, DETECTOR, {"mask": (to_numpy(mask) == 0).astype(np.uint32)})


def add_qe_mask(cxi_file: h5py.File, qe_mask: Any) -> None:
    """Write the efficiency of each pixel."""
    _write_items(cxi_file, DETECTOR, {"qe_mask": to_numpy(qe_mask)})


def add_dark(cxi_file: h5py.File, dark: Any) -> None:
    """Write one dark pattern, or several."""
    _write_items(cxi_file, DETECTOR, {"data_dark": to_numpy(dark)})


ADDERS = {
    "entry_info": add_entry_info,
    "sample_info": add_sample_info,
    "wavelength": add_source,
    "mask": add_mask,
    "qe_mask": add_qe_mask,
    "background": add_dark,
}
"""What writes each attribute of a dataset."""


def add_data(
    cxi_file: h5py.File, data: Any, axes: Any = None, compression: str | None = "gzip", chunks: Any = True
) -> None:
    """Write patterns into the detector, linked from data_1, and the names of their axes."""
    detector = cxi_file.require_group(DETECTOR)
    stored = detector.create_dataset("data", data=to_numpy(data), compression=compression, chunks=chunks)
    cxi_file.require_group("entry_1/data_1")["data"] = h5py.SoftLink(f"/{DETECTOR}/data")
    if axes is not None:
        stored.attrs["axes"] = np.bytes_(":".join(axes) if isinstance(axes, list) else str(axes))


def add_shot_to_shot_info(cxi_file: h5py.File, data: Any, field_name: str) -> None:
    """Write anything with a row for each shot into the sample's geometry, linked from data_1 and detector."""
    _write_items(cxi_file, GEOMETRY, {field_name: to_numpy(data)})
    for place in ("entry_1/data_1", DETECTOR):
        cxi_file.require_group(place)[field_name] = h5py.SoftLink(f"/{GEOMETRY}/{field_name}")


def add_ptycho_translations(cxi_file: h5py.File, translations: Any) -> None:
    """Write the motion of the probe ``(shot, xyz)``, metres, as that of the sample."""
    add_shot_to_shot_info(cxi_file, -to_numpy(translations), "translation")


def nested_dict_to_h5(h5_file: Any, d: Mapping[str, Any]) -> None:
    """Write numbers, arrays, tensors, texts and dictionaries of them into a file (a path) or a group."""
    if isinstance(h5_file, str | os.PathLike):
        with whole_hdf5(h5_file) as file:
            nested_dict_to_h5(file, d)
        return
    for key, value in d.items():
        if isinstance(value, Mapping):
            nested_dict_to_h5(h5_file.create_group(key), value)
        elif isinstance(value, str):
            h5_file.create_dataset(key, data=value, dtype=h5py.string_dtype())
        else:
            h5_file[key] = to_numpy(_simple(key, value))


def h5_to_nested_dict(h5_file: Any) -> dict[str, Any]:
    """What `nested_dict_to_h5` wrote: arrays, texts and dictionaries of them."""
    if isinstance(h5_file, str | os.PathLike):
        with h5py.File(h5_file, "r") as file:
            return h5_to_nested_dict(file)
    return {
        key: h5_to_nested_dict(value) if isinstance(value, h5py.Group) else _text_or_array(value[()])
        for key, value in h5_file.items()
    }


def nested_dict_to_numpy(d: Mapping[str, Any]) -> dict[str, Any]:
    """The same with arrays for tensors; numbers and texts stay."""
    return _map_values(d, lambda value: to_numpy(value) if isinstance(value, Tensor) else value)


def nested_dict_to_torch(d: Mapping[str, Any], device: Any = None) -> dict[str, Any]:
    """The same with tensors for arrays and numbers; texts stay."""
    return _map_values(d, lambda value: torch.as_tensor(value, device=device))


def _map_values(d: Mapping[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    def change_value(key: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return _map_values(value, change)
        return value if isinstance(value, str) else change(_simple(key, value))

    return {key: change_value(key, value) for key, value in d.items()}


def _simple(key: str, value: Any) -> Any:
    if not isinstance(value, numbers.Number | np.bool_ | np.ndarray | Tensor):
        raise BadInput(f"nested_dict[{key!r}]", value, "is not a number, array, tensor, text or dictionary")
    return value


def _text_or_array(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind == "O":
        value = value.ravel()[0]
    return value.decode() if isinstance(value, bytes) else value


def as_text(value: Any) -> str:
    """A text as a file holds it; dates in ISO."""
    return value.isoformat() if isinstance(value, datetime.datetime) else str(value)


def _write_items(cxi_file: h5py.File, place: str, items: Mapping[str, Any]) -> None:
    group = cxi_file.require_group(place)
    for key, value in items.items():
        text = as_text(value).encode() if isinstance(value, str | datetime.datetime) else value
        group[key] = np.bytes_(text) if isinstance(text, bytes) else to_numpy(text)


def _entry(cxi_file: h5py.File) -> CheckedGroup:
    return _layout.find_entry(cxi_file, str(cxi_file.filename), 1)


def _detector(cxi_file: h5py.File) -> CheckedGroup:
    return _layout.find_detector(_entry(cxi_file))


def _read_image(
    cxi_file: h5py.File, name: str, read: Callable[[CheckedGroup, tuple[int, int]], np.ndarray | None]
) -> np.ndarray | None:
    """An image of the detector's shape, if it is there."""
    detector = _detector(cxi_file)
    if not detector.find(name):
        return None
    stored: Any = detector.group[name]
    y, x = stored.shape[-2:]
    return read(detector, (y, x))


def _parse_date(text: str) -> Any:
    try:
        return datetime.datetime.fromisoformat(text)
    except ValueError:
        return text


def _orientation(geometry: CheckedGroup | None) -> np.ndarray | None:
    """Axes of the sample as rows, from its first two or from its normal."""
    if geometry is not None and geometry.find("surface_normal"):
        return axes_of(geometry.array("surface_normal"))
    if geometry is not None and geometry.find("orientation"):
        first, second = (axis / np.linalg.norm(axis) for axis in geometry.array("orientation").reshape(2, 3))
        return np.array([first, second, np.cross(first, second)])
    return None


def axes_of(normal: np.ndarray) -> np.ndarray:
    """Axes of a sample as rows: across the laboratory's y and the normal, across both, and the normal."""
    first = np.cross([0.0, 1.0, 0.0], normal)
    second = np.cross(normal, first)
    return np.array([first / np.linalg.norm(first), second / np.linalg.norm(second), normal])
