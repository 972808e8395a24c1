"""Reconstructions of PtychoShelves and fold_slice: ``.mat`` of version 5 to 7.3.

An object is ``(y, x)``, ``(y, x, slice)`` or ``(y, x, mode, slice)``, or a cell of slices in ``outputs``; a
probe ``(y, x)``, ``(y, x, mode)`` or ``(y, x, mode, variation)``, of which the first variation is the mean.
Lengths are in angstrom for electrons and in metres for X-rays.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from phaseloom.data.importers.imported import Imported, angstrom_per_unit, match_grid
from phaseloom.data.importers.matlab import read_variables
from phaseloom.errors import BadInput

__all__ = ["read"]

VARIABLES = ("object", "probe", "outputs.object", "outputs.probe", "outputs.probe_positions", "p.positions")
VARIABLES += ("outputs.pixel_size", "p.dx_spec", "p.lambda", "p.delta_z", "p.multi_slice_param.z_distance")
VARIABLES += ("outputs.z_distance", "p.scan.ny", "p.scan.nx")

Found = Mapping[str, Any]


def read(path: Path, /, *, pixel: float | None = None) -> Imported:
    """A reconstruction of PtychoShelves or fold_slice.

    Args:
        path: ``*_recons.mat`` or ``Niter*.mat``.
        pixel: of the object, angstrom, for a file without ``p.dx_spec``.

    Raises:
        BadInput: what is missing.
    """
    found = read_variables(path, *VARIABLES)
    object = _read_object(found)
    probe = _read_probe(found)
    if object is None and probe is None:
        fix = "lacks object and probe: give a reconstruction of PtychoShelves, not its data"
        raise BadInput(path.name, None, fix)
    side = _read_pair(found, "p.dx_spec", "outputs.pixel_size")
    unit = 1.0 if side is None else angstrom_per_unit(side[0])
    side = (pixel, pixel) if side is None and pixel is not None else side
    lengths = None if side is None else np.array(side) * unit
    places = _read_positions(found, object, probe)
    positions = None if places is None or lengths is None else places * lengths
    wavelength = found.get("p.lambda")
    return Imported(
        source=f"{path.name} of PtychoShelves",
        object=object,
        probe=probe,
        positions=positions,
        origin=None if positions is None else (0.0, 0.0),
        pixel=None if lengths is None else (float(lengths[0]), float(lengths[1])),
        thickness=_read_gaps(found, object, unit),
        wavelength=None if wavelength is None else float(wavelength.flat[0]) * unit,
        grid=match_grid(_read_number(found, "p.scan.ny"), _read_number(found, "p.scan.nx"), places),
    )


def _read_object(found: Found) -> np.ndarray | None:
    """Complex ``(mode, slice, y, x)``."""
    value = _stack_cell(found.get("object", found.get("outputs.object")))
    if value is None:
        return None
    if value.ndim < 4:
        value = value.reshape(*value.shape[:2], 1, -1)
    return value.transpose(2, 3, 0, 1).astype(np.complex64)


def _read_probe(found: Found) -> np.ndarray | None:
    """Complex ``(mode, y, x)``."""
    value = _stack_cell(found.get("probe", found.get("outputs.probe")))
    if value is None:
        return None
    value = value.reshape(*value.shape[:2], *(value.shape[2:] or (1,)))
    return value[:, :, :, *(0,) * (value.ndim - 3)].transpose(2, 0, 1).astype(np.complex64)


def _stack_cell(value: Any) -> np.ndarray | None:
    """The images of a cell as the last axis of one array, of each the first along its other axes."""
    if not isinstance(value, list):
        return value
    return np.stack([image[:, :, *(0,) * (image.ndim - 2)] for image in value], -1) if value else None


def _read_positions(found: Found, object: np.ndarray | None, probe: np.ndarray | None) -> np.ndarray | None:
    """Beam centres in object pixels (row, column), counted from 0.

    ``outputs.probe_positions`` are (x, y) from the middle of the object; a window of N pixels begins, counted
    from 1, at ``ceil(size / 2 - N / 2)`` plus the position. ``p.positions`` are corners (row, column).
    """
    if probe is None:
        return None
    window = np.array(probe.shape[-2:])
    if "outputs.probe_positions" in found and object is not None:
        first = np.ceil((np.array(object.shape[-2:]) - window) / 2) - 1
        return found["outputs.probe_positions"][:, 1::-1] + first + window // 2
    return found["p.positions"] + window // 2 if "p.positions" in found else None


def _read_pair(found: Found, *names: str) -> tuple[float, float] | None:
    """Rows and columns of the first of some variables that there is."""
    value = next((np.ravel(found[name]) for name in names if name in found), None)
    return None if value is None else (float(value[0]), float(value[-1]))


def _read_gaps(found: Found, object: np.ndarray | None, unit: float) -> tuple[float, ...] | None:
    count = 0 if object is None else object.shape[1] - 1
    if count == 0:
        return None if object is None else ()
    for name in ("p.multi_slice_param.z_distance", "outputs.z_distance", "p.delta_z"):
        values = np.ravel(found.get(name, ()))[:count]
        if len(values) == count and np.isfinite(values).all():
            return tuple((values * unit).tolist())
    return None


def _read_number(found: Found, name: str) -> float | None:
    return float(np.ravel(found[name])[0]) if name in found else None
