"""Our own results: ``result.h5``."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from phaseloom.data.formats.files import decode_text, open_hdf5
from phaseloom.data.models._imported import Imported, uniform
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
        object = _array(file, "object_modes")
        object = np.asarray(file["object"])[None] if object is None else object
        y, x = np.asarray(file.attrs["origin"], float).tolist()
        grid = _note(file, "grid")
        height, width = np.asarray(file.attrs["pixel"], float).tolist()
        return Imported(
            source=f"{path.name} of Phaseloom",
            object=object,
            probe=np.asarray(file["probe"]),
            positions=np.asarray(file["positions"], float),
            origin=(y, x),
            pixel=(height, width),
            tilts=_array(file, "tilts"),
            thickness=_gaps(file, object),
            occupancies=_array(file, "occupancies"),
            heights=_array(file, "heights"),
            opr_weights=_array(file, "opr_weights"),
            weights=_array(file, "weights"),
            descan=_array(file, "descan"),
            background=_array(file, "background"),
            wavelength=float(_note(file, "geometry")["wavelength"]),
            grid=None if grid is None else (int(grid[0]), int(grid[1])),
        )


def _array(file: h5py.File, name: str) -> np.ndarray | None:
    return np.asarray(file[name]) if name in file else None


def _gaps(file: h5py.File, object: np.ndarray) -> tuple[float, ...] | None:
    found = _note(file, "gaps")
    if not found:
        return uniform(float(file.attrs.get("thickness", 0.0)), object)  # type: ignore[arg-type]
    return tuple(float(gap) for gap in found)


def _note(file: h5py.File, name: str) -> Any:
    """A part of the result that is kept as JSON."""
    import json

    return json.loads(decode_text(file[name][()])) if name in file else None  # type: ignore[index]
