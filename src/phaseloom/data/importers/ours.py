"""Our own results: ``result.h5``."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from phaseloom.data.formats.files import decode_text, open_hdf5
from phaseloom.data.importers.imported import Imported, repeat_thickness
from phaseloom.errors import BadInput

__all__ = ["read"]


def read(path: Path, /, *, pixel: float | None = None) -> Imported:
    """A result as a start for another run; everything in it is known, so ``pixel`` is not used.

    Raises:
        BadInput: something is missing.
    """
    with open_hdf5(path) as file:
        missing = [name for name in ("object", "probe", "positions", "geometry") if name not in file]
        if missing:
            raise BadInput(path.name, None, f"lacks {', '.join(missing)}: write the result again")
        object = _read_array(file, "object_modes")
        object = np.asarray(file["object"])[None] if object is None else object
        y, x = np.asarray(file.attrs["origin"], float).tolist()
        grid = _read_json(file, "grid")
        height, width = np.asarray(file.attrs["pixel"], float).tolist()
        return Imported(
            source=f"{path.name} of Phaseloom",
            object=object,
            probe=np.asarray(file["probe"]),
            positions=np.asarray(file["positions"], float),
            origin=(y, x),
            pixel=(height, width),
            tilts=_read_array(file, "tilts"),
            thickness=_read_gaps(file, object),
            occupancies=_read_array(file, "occupancies"),
            heights=_read_array(file, "heights"),
            opr_weights=_read_array(file, "opr_weights"),
            weights=_read_array(file, "weights"),
            descan=_read_array(file, "descan"),
            background=_read_array(file, "background"),
            wavelength=float(_read_json(file, "geometry")["wavelength"]),
            grid=None if grid is None else (int(grid[0]), int(grid[1])),
        )


def _read_array(file: h5py.File, name: str) -> np.ndarray | None:
    return np.asarray(file[name]) if name in file else None


def _read_gaps(file: h5py.File, object: np.ndarray) -> tuple[float, ...] | None:
    found = _read_json(file, "gaps")
    if not found:
        return repeat_thickness(float(np.asarray(file.attrs.get("thickness", 0.0))), object)
    return tuple(float(gap) for gap in found)


def _read_json(file: h5py.File, name: str) -> Any:
    """A part of the result that is kept as JSON."""
    return json.loads(decode_text(np.asarray(file[name]))) if name in file else None
