"""Ptychography of py4DSTEM: its emdfile trees, and the plain HDF5 of the fork that PtyRAD compares with.

Positions there are in object pixels and are those of the probe's middle.
"""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from phaseloom.data.formats.files import decode_text, open_hdf5
from phaseloom.data.importers.imported import Imported
from phaseloom.errors import BadInput
from phaseloom.units import electron_wavelength

__all__ = ["read"]


def read(path: Path, /, *, pixel: float | None = None) -> Imported:
    """A reconstruction of py4DSTEM.

    Args:
        path: with ``object``, ``probe`` and ``positions_px`` side by side, or an emdfile tree.
        pixel: of the object, angstrom, for a file without it (the plain one).

    Raises:
        BadInput: what is missing.
    """
    with open_hdf5(path) as file:
        found: Any = file.visititems(lambda name, item: item.parent if name.endswith("_object_emd") else None)
        return _read_emd(found, path, pixel) if found is not None else _read_plain(file, path, pixel)


def _read_plain(file: h5py.File, path: Path, pixel: float | None) -> Imported:
    if "probe" not in file:
        raise BadInput(path.name, None, "lacks probe: give a reconstruction of py4DSTEM")
    object = np.asarray(file["object"])
    probe = np.asarray(file["probe"])
    places = np.asarray(file["positions_px"], float) if "positions_px" in file else None
    return _build(path, object, probe, places, None if pixel is None else (pixel, pixel))


def _read_emd(group: h5py.Group, path: Path, pixel: float | None) -> Imported:
    """An emdfile tree: arrays in ``_object_emd`` and ``_probe_emd``, the rest in ``metadatabundle``."""
    missing = [name for name in ("_object_emd/data", "_probe_emd/data") if name not in group]
    if missing:
        raise BadInput(path.name, None, f"lacks {', '.join(missing)}: save the reconstruction again")
    object, probe = (np.asarray(group[f"{name}/data"]) for name in ("_object_emd", "_probe_emd"))
    if decode_text(_read_metadata(group, "instantiation", "object_type")) == "potential":
        object = np.exp(1j * np.real(object))
    probe = np.fft.fftshift(probe, (-2, -1))  # it is kept with its middle in the corner
    sampling = _read_metadata(group, "preprocess", "sampling")
    energy = _read_metadata(group, "instantiation", "energy")
    places = _read_metadata(group, "preprocess", "positions_px")
    side: Any = (pixel, pixel) if sampling is None else sampling
    gaps = _read_metadata(group, "instantiation", "slice_thicknesses")
    return _build(
        path,
        object,
        probe,
        None if places is None else np.asarray(places, float),
        None if side is None or side[0] is None else (float(side[0]), float(side[1])),
        thickness=_read_gaps(gaps, object),
        wavelength=None if energy is None else electron_wavelength(float(energy)),
    )


def _build(
    path: Path,
    object: np.ndarray,
    probe: np.ndarray,
    places: np.ndarray | None,
    pixel: tuple[float, float] | None,
    /,
    **more: Any,
) -> Imported:
    object = object.astype(np.complex64)
    probe = probe.astype(np.complex64)
    positions = None
    if places is not None and pixel is not None:
        positions = places.reshape(-1, 2) * np.array(pixel)
    return Imported(
        source=f"{path.name} of py4DSTEM",
        object=object.reshape(1, *((1,) * (3 - object.ndim)), *object.shape),
        probe=probe.reshape(*((1,) * (3 - probe.ndim)), *probe.shape),
        positions=positions,
        origin=None if positions is None else (0.0, 0.0),
        pixel=pixel,
        **more,
    )


def _read_metadata(group: h5py.Group, bundle: str, name: str) -> Any:
    """A value of the metadata, or None: emdfile keeps nothing as the text ``_None``."""
    member = group.get(f"metadatabundle/{bundle}_metadata/{name}")
    if not isinstance(member, h5py.Dataset):
        return None
    value = member[()]
    return None if decode_text(value) == "_None" else value


def _read_gaps(gaps: Any, object: np.ndarray) -> tuple[float, ...] | None:
    """One thickness for all gaps, or one for each."""
    count = 0 if object.ndim == 2 else len(object) - 1
    if count == 0:
        return ()
    if gaps is None:
        return None
    values = np.ravel(gaps).astype(float).tolist()
    return tuple(values * count) if len(values) == 1 else tuple(values[:count])
