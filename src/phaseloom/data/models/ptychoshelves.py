"""Reconstructions of PtychoShelves and fold_slice: ``.mat`` of version 5 to 7.3.

An object is ``(y, x)``, ``(y, x, slice)`` or ``(y, x, mode, slice)``, or a cell of slices in ``outputs``; a
probe ``(y, x)``, ``(y, x, mode)`` or ``(y, x, mode, variation)``, of which the first variation is the mean.
Lengths are in angstrom for electrons and in metres for X-rays.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from phaseloom.data.models._imported import Imported, in_angstrom
from phaseloom.data.models._mat import variables
from phaseloom.errors import BadInput

__all__ = ["read"]

_NAMES = ("object", "probe", "outputs.object", "outputs.probe", "outputs.probe_positions", "p.positions")
_NAMES += ("outputs.pixel_size", "p.dx_spec", "p.lambda", "p.delta_z", "p.multi_slice_param.z_distance")
_NAMES += ("outputs.z_distance", "p.scan.ny", "p.scan.nx")

Found = Mapping[str, Any]


def read(path: Path, /, *, pixel: float | None = None) -> Imported:
    """A reconstruction of PtychoShelves or fold_slice.

    Args:
        path: ``*_recons.mat`` or ``Niter*.mat``.
        pixel: of the object, angstrom, for a file without ``p.dx_spec``.

    Raises:
        BadInput: what is missing.
    """
    found = variables(path, *_NAMES)
    object, probe = _object(found), _probe(found)
    if object is None and probe is None:
        fix = "lacks object and probe: give a reconstruction of PtychoShelves, not its data"
        raise BadInput(path.name, None, fix)
    side = _pair(found, "p.dx_spec", "outputs.pixel_size")
    unit = 1.0 if side is None else in_angstrom(side[0])
    side = (pixel, pixel) if side is None and pixel is not None else side
    lengths = None if side is None else np.array(side) * unit
    places = _places(found, object, probe)
    known = places is not None and lengths is not None
    wavelength = found.get("p.lambda")
    return Imported(
        source=f"{path.name} of PtychoShelves",
        object=object,
        probe=probe,
        positions=places * lengths if known else None,  # type: ignore[operator]
        origin=(0.0, 0.0) if known else None,
        pixel=None if lengths is None else (float(lengths[0]), float(lengths[1])),
        thickness=_gaps(found, object, unit),
        wavelength=None if wavelength is None else float(wavelength.flat[0]) * unit,
        grid=_grid(found, places),
    )


def _object(found: Found) -> np.ndarray | None:
    """Complex ``(mode, slice, y, x)``."""
    value = found.get("object", found.get("outputs.object"))
    if isinstance(value, list):
        value = np.stack([layer[:, :, *(0,) * (layer.ndim - 2)] for layer in value], -1) if value else None
    if value is None:
        return None
    if value.ndim < 4:
        value = value.reshape(*value.shape[:2], 1, -1)
    return value.transpose(2, 3, 0, 1).astype(np.complex64)


def _probe(found: Found) -> np.ndarray | None:
    """Complex ``(mode, y, x)``."""
    value = found.get("probe", found.get("outputs.probe"))
    if isinstance(value, list):
        value = np.stack([mode[:, :, *(0,) * (mode.ndim - 2)] for mode in value], -1) if value else None
    if value is None:
        return None
    value = value.reshape(*value.shape[:2], *(value.shape[2:] or (1,)))
    return value[:, :, :, *(0,) * (value.ndim - 3)].transpose(2, 0, 1).astype(np.complex64)


def _places(found: Found, object: np.ndarray | None, probe: np.ndarray | None) -> np.ndarray | None:
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


def _pair(found: Found, *names: str) -> tuple[float, float] | None:
    """Rows and columns of the first of some variables that there is."""
    value = next((np.ravel(found[name]) for name in names if name in found), None)
    return None if value is None else (float(value[0]), float(value[-1]))


def _gaps(found: Found, object: np.ndarray | None, unit: float) -> tuple[float, ...] | None:
    count = 0 if object is None else object.shape[1] - 1
    if count == 0:
        return None if object is None else ()
    for name in ("p.multi_slice_param.z_distance", "outputs.z_distance", "p.delta_z"):
        values = np.ravel(found.get(name, ()))[:count]
        if len(values) == count and np.isfinite(values).all():
            return tuple((values * unit).tolist())
    return None


def _grid(found: Found, places: np.ndarray | None) -> tuple[int, int] | None:
    slow, fast = (int(np.ravel(found.get(name, 0))[0]) for name in ("p.scan.ny", "p.scan.nx"))
    return (slow, fast) if places is not None and slow * fast == len(places) else None
