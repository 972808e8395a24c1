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
from phaseloom.data.models._imported import Imported, in_angstrom, uniform
from phaseloom.errors import BadInput

__all__ = ["read"]

_TENSORS = ("obja", "objp", "probe", "probe_pos_shifts", "obj_tilts", "slice_thickness")
_ATTRIBUTES = ("crop_pos", "omode_occu", "dx", "lambd", "N_scan_slow", "N_scan_fast")

Tree = Mapping[str, np.ndarray]


def read(path: Path, /, *, pixel: float | None = None) -> Imported:
    """A PtyRAD model.

    Its probe belongs to patterns divided by the peak of their mean: rescale its power.

    Args:
        path: ``.hdf5`` or ``.pt``; of the latter only tensors and plain values are ever loaded.
        pixel: of the object, angstrom, for a file without ``dx``.

    Raises:
        BadInput: what is missing, or a ``.pt`` that needs more than tensors.
    """
    tree = _hdf5(path) if h5py.is_hdf5(path) else _torch(path)
    _check(tree, path)
    object, probe = _object(tree), _probe(tree)
    side = _number(tree, "dx") or pixel
    unit = 1.0 if side is None else in_angstrom(side)
    thickness = _number(tree, "slice_thickness")
    wavelength = _number(tree, "lambd")
    positions = _positions(tree, probe, side)
    return Imported(
        source=f"{path.name} of PtyRAD",
        object=object,
        probe=probe,
        positions=None if positions is None else positions * unit,
        origin=None if positions is None else (0.0, 0.0),
        pixel=None if side is None else (side * unit, side * unit),
        tilts=1e-3 * np.atleast_2d(tree["obj_tilts"]).astype(float) if "obj_tilts" in tree else None,
        thickness=uniform(None if thickness is None else thickness * unit, object),
        occupancies=np.atleast_1d(tree["omode_occu"]) if "omode_occu" in tree else None,
        wavelength=None if wavelength is None else wavelength * unit,
        grid=_grid(tree, positions),
    )


def _check(tree: Tree, path: Path) -> None:
    for one, other in (("obja", "objp"), ("objp", "obja")):
        if one in tree and other not in tree:
            raise BadInput(path.name, None, f"lacks optimizable_tensors/{other}: export the model again")
    if "probe" not in tree and "objp" not in tree:
        fix = "lacks optimizable_tensors/objp and /probe: give a model of PtyRAD"
        raise BadInput(path.name, None, fix)
    for one, other in (("obja", "objp"), ("crop_pos", "probe_pos_shifts")):
        if one in tree and other in tree and tree[one].shape != tree[other].shape:
            fix = f"differ in shape, {tree[one].shape} and {tree[other].shape}: export the model again"
            raise BadInput(f"{path.name}: {one} and {other}", None, fix)


def _hdf5(path: Path) -> Tree:
    tree: dict[str, np.ndarray] = {}
    with open_hdf5(path) as file:
        for group, names in (("optimizable_tensors", _TENSORS), ("model_attributes", _ATTRIBUTES)):
            for name in names:
                member = file.get(f"{group}/{name}")
                if isinstance(member, h5py.Dataset) and member.dtype.kind in "iufc":
                    tree[name] = np.asarray(member)
    return tree


def _torch(path: Path) -> Tree:
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
    tensors, attributes = data["optimizable_tensors"], data.get("model_attributes") or {}
    found = [(tensors, _TENSORS), (attributes, _ATTRIBUTES)]
    return {
        name: _plain(group[name])
        for group, names in found
        for name in names
        if isinstance(group.get(name), torch.Tensor | float | int)
    }


def _plain(value: Any) -> np.ndarray:
    import torch

    return value.detach().resolve_conj().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def _object(tree: Tree) -> np.ndarray | None:
    if "objp" not in tree:
        return None
    amplitude, phase = tree["obja"], tree["objp"]
    return (amplitude * np.exp(1j * phase)).astype(np.complex64)


def _probe(tree: Tree) -> np.ndarray | None:
    """Complex, or as pairs of real and imaginary part along the last axis."""
    if "probe" not in tree:
        return None
    probe = tree["probe"]
    if probe.dtype.kind != "c" and probe.ndim == 4 and probe.shape[-1] == 2:
        probe = probe[..., 0] + 1j * probe[..., 1]
    return probe.astype(np.complex64)


def _number(tree: Tree, name: str) -> float | None:
    return float(tree[name].ravel()[0]) if name in tree and tree[name].size else None


def _positions(tree: Tree, probe: np.ndarray | None, side: float | None) -> np.ndarray | None:
    if "crop_pos" not in tree or probe is None or side is None:
        return None
    corner = tree["crop_pos"].astype(float) + tree.get("probe_pos_shifts", np.zeros(2))
    return (corner + np.array(probe.shape[-2:]) // 2) * side


def _grid(tree: Tree, positions: np.ndarray | None) -> tuple[int, int] | None:
    slow, fast = (int(_number(tree, name) or 0) for name in ("N_scan_slow", "N_scan_fast"))
    return (slow, fast) if positions is not None and slow * fast == len(positions) else None
