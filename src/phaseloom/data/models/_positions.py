"""Positions of the beam from a file that holds little else."""

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from phaseloom.data.formats.arrays import read_table
from phaseloom.data.formats.files import CheckedGroup, open_hdf5, require_file
from phaseloom.data.models._mat import variables
from phaseloom.errors import BadInput
from phaseloom.units import LENGTH, Length

__all__ = ["positions_file"]

WIDEST = 0.05
"""A scan narrower than this is one in metres: in angstrom it would be a twentieth of an atom."""


def positions_file(path: str | os.PathLike[str], /, *, pixel: Length | None = None) -> np.ndarray:
    """Beam positions ``(n, 2)`` (row, column) in angstrom, from a table or another program's file.

    Known are ``.npy``, ``.csv`` and ``.txt`` with two columns in angstrom; HDF5 and ``.mat`` with ``ppX`` and
    ``ppY`` as fold_slice keeps them (columns and rows, angstrom for electrons and metres for X-rays, told by
    their size); and whatever `read` reads.

    Args:
        path: the file.
        pixel: see `read`.

    Raises:
        BadInput: no positions in it.

    Example:
        >>> with h5py.File("data_roi0_para.hdf5", "w") as file:
        ...     file["ppX"], file["ppY"] = [0.0, 0.4, 0.0], [0.0, 0.0, 0.5]
        >>> positions_file("data_roi0_para.hdf5").tolist()
        [[0.0, 0.0], [0.0, 0.4], [0.5, 0.0]]
    """
    path = require_file(path)
    if path.suffix.lower() in (".npy", ".csv", ".txt"):
        found: Any = read_table(path)
    elif (pair := _pair(path)) is not None:
        found = pair
    else:
        from phaseloom.data.models import read

        found = read(path, pixel=pixel).positions
    if found is None:
        fix = "holds no positions, or no pixel to measure them with: give the pixel, or another file"
        raise BadInput(path.name, None, fix)
    if (
        found.dtype.kind not in "iuf"
        or found.ndim != 2
        or found.shape[1] != 2
        or not np.isfinite(found).all()
    ):
        raise BadInput(path.name, f"shape {found.shape}", "must be numbers in two columns, row and column")
    return found.astype(np.float64)


def _pair(path: Path) -> np.ndarray | None:
    """``ppY`` and ``ppX`` as columns; the two signs that fold_slice gives them on the way cancel."""
    unit = ""
    if h5py.is_hdf5(path):
        with open_hdf5(path) as file:
            if "ppX" not in file or "ppY" not in file:
                return None
            columns = [np.ravel(np.asarray(file[name])) for name in ("ppY", "ppX")]
            unit = CheckedGroup(file, path.name).unit("ppX")
    elif path.suffix.lower() == ".mat":
        found = variables(path, "ppX", "ppY")
        if len(found) < 2:
            return None
        columns = [np.ravel(found[name], "F") for name in ("ppY", "ppX")]
    else:
        return None
    if len(columns[0]) != len(columns[1]):
        raise BadInput(path.name, f"{len(columns[1])} and {len(columns[0])}", "values in ppX and ppY differ")
    pair = np.stack(columns, 1).astype(float)
    narrow = np.ptp(pair, axis=0).max(initial=0.0) < WIDEST
    return pair * dict(LENGTH.scale).get(unit, 1e10 if narrow else 1.0)
