"""Models of PtyRAD: ``model_iterNNNN.hdf5``, and ``.pt`` of versions before 0.1.0b7.

Positions there are those of the window's top-left pixel in the object, ``crop_pos + probe_pos_shifts``; the
beam is in pixel ``N // 2`` of its window. Tilts are in mrad.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from phaseloom.data.formats.files import READ_ERRORS, open_hdf5
from phaseloom.data.importers.imported import Imported, angstrom_per_unit, match_grid, repeat_thickness
from phaseloom.errors import BadInput

__all__ = ["read"]

TENSOR_NAMES = ("obja", "objp", "probe", "probe_pos_shifts", "obj_tilts", "slice_thickness")
ATTRIBUTE_NAMES = ("crop_pos", "omode_occu", "dx", "lambd", "N_scan_slow", "N_scan_fast")

Members = Mapping[str, np.ndarray]


def read(path: Path, /, *, pixel: float | None = None) -> Imported:
    """A PtyRAD model.

    Its probe belongs to patterns divided by the peak of their mean: rescale its power.

    Args:
        path: ``.hdf5`` or ``.pt``; of the latter only tensors and plain values are ever loaded.
        pixel: of the object, angstrom, for a file without ``dx``.

    Raises:
        BadInput: what is missing, or a ``.pt`` that needs more than tensors.
    """
    members = _read_hdf5(path) if h5py.is_hdf5(path) else _read_torch(path)
    _require_members(members, path)
    object = _read_object(members)
    probe = _read_probe(members)
    side = _read_number(members, "dx") or pixel
    unit = 1.0 if side is None else angstrom_per_unit(side)
    thickness = _read_number(members, "slice_thickness")
    wavelength = _read_number(members, "lambd")
    positions = _read_positions(members, probe, side)
    return Imported(
        source=f"{path.name} of PtyRAD",
        object=object,
        probe=probe,
        positions=None if positions is None else positions * unit,
        origin=None if positions is None else (0.0, 0.0),
        pixel=None if side is None else (side * unit, side * unit),
        tilts=1e-3 * np.atleast_2d(members["obj_tilts"]).astype(float) if "obj_tilts" in members else None,
        thickness=repeat_thickness(None if thickness is None else thickness * unit, object),
        occupancies=np.atleast_1d(members["omode_occu"]) if "omode_occu" in members else None,
        wavelength=None if wavelength is None else wavelength * unit,
        grid=match_grid(
            _read_number(members, "N_scan_slow"), _read_number(members, "N_scan_fast"), positions
        ),
    )


def _require_members(members: Members, path: Path) -> None:
    for one, other in (("obja", "objp"), ("objp", "obja")):
        if one in members and other not in members:
            raise BadInput(path.name, None, f"lacks optimizable_tensors/{other}: export the model again")
    if "probe" not in members and "objp" not in members:
        fix = "lacks optimizable_tensors/objp and /probe: give a model of PtyRAD"
        raise BadInput(path.name, None, fix)
    for one, other in (("obja", "objp"), ("crop_pos", "probe_pos_shifts")):
        if one in members and other in members and members[one].shape != members[other].shape:
            fix = f"differ in shape, {members[one].shape} and {members[other].shape}: export the model again"
            raise BadInput(f"{path.name}: {one} and {other}", None, fix)


def _read_hdf5(path: Path) -> Members:
    members: dict[str, np.ndarray] = {}
    with open_hdf5(path) as file:
        for group, names in (("optimizable_tensors", TENSOR_NAMES), ("model_attributes", ATTRIBUTE_NAMES)):
            for name in names:
                member = file.get(f"{group}/{name}")
                if isinstance(member, h5py.Dataset) and member.dtype.kind in "iufc":
                    members[name] = np.asarray(member)
    return members


def _read_torch(path: Path) -> Members:
    """Tensors of a ``.pt``; pickled objects of any other kind are refused, for they could run code."""
    import pickle

    import torch

    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        fix = "holds more than tensors and plain values, which is not loaded: save it as .hdf5 in PtyRAD"
        raise BadInput(path.name, None, fix) from error
    except READ_ERRORS as error:
        raise BadInput(path.name, None, "cannot be read as a .pt file: copy it again") from error
    if not isinstance(data, Mapping) or not isinstance(data.get("optimizable_tensors"), Mapping):
        raise BadInput(path.name, None, "lacks optimizable_tensors: give a model of PtyRAD")
    tensors = data["optimizable_tensors"]
    attributes = data.get("model_attributes") or {}
    found = [(tensors, TENSOR_NAMES), (attributes, ATTRIBUTE_NAMES)]
    return {
        name: _to_numpy(group[name])
        for group, names in found
        for name in names
        if isinstance(group.get(name), torch.Tensor | float | int)
    }


def _to_numpy(value: Any) -> np.ndarray:
    import torch

    return value.detach().resolve_conj().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def _read_object(members: Members) -> np.ndarray | None:
    if "objp" not in members:
        return None
    amplitude = members["obja"]
    phase = members["objp"]
    return (amplitude * np.exp(1j * phase)).astype(np.complex64)


def _read_probe(members: Members) -> np.ndarray | None:
    """Complex, or as pairs of real and imaginary part along the last axis."""
    if "probe" not in members:
        return None
    probe = members["probe"]
    if probe.dtype.kind != "c" and probe.ndim == 4 and probe.shape[-1] == 2:
        probe = probe[..., 0] + 1j * probe[..., 1]
    return probe.astype(np.complex64)


def _read_number(members: Members, name: str) -> float | None:
    return float(members[name].ravel()[0]) if name in members and members[name].size else None


def _read_positions(members: Members, probe: np.ndarray | None, side: float | None) -> np.ndarray | None:
    if "crop_pos" not in members or probe is None or side is None:
        return None
    corner = members["crop_pos"].astype(float) + members.get("probe_pos_shifts", np.zeros(2))
    return (corner + np.array(probe.shape[-2:]) // 2) * side
