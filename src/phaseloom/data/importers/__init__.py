"""Reconstructions from files, ours and those of other programs, to start from: ``read(path) -> Imported``.

One module for each program; which one wrote a file is decided by what is in it, not by its name.
"""

import importlib
import os
from pathlib import Path

import h5py
import numpy as np

from phaseloom.data.formats.files import CheckedGroup, open_hdf5, require_file
from phaseloom.data.formats.quantities.tables import read_table
from phaseloom.data.importers.imported import Imported
from phaseloom.data.importers.matlab import read_variables
from phaseloom.errors import BadInput
from phaseloom.units import LENGTH, Length

__all__ = ["Imported", "find_program", "read", "read_positions"]

MAX_SCAN_IN_METRES = 0.05
"""A scan narrower than this is one in metres: in angstrom it would be a twentieth of an atom."""


def read(path: str | os.PathLike[str], /, *, pixel: Length | None = None) -> Imported:
    """The object, probe, positions and the rest of a reconstruction file of any known program.

    Known are our ``result.h5`` and ``prediction.h5``, PtyRAD's ``.hdf5`` and ``.pt``, CDTools' results,
    products of ptychodus, PtychoShelves' and fold_slice's ``.mat`` (versions 5 to 7.3), and py4DSTEM's HDF5.
    The probe comes as stored: see `Imported`.

    Args:
        path: the file.
        pixel: of the object, angstrom, used when the file does not say it; without any pixel there are no
            positions.

    Raises:
        BadInput: no such file, or what is missing in it.

    Example:
        >>> import numpy as np
        >>> with h5py.File("model.hdf5", "w") as file:
        ...     file["object"], file["probe"] = np.ones((3, 20, 30)) + 0j, np.ones((8, 8)) + 0j
        ...     file["positions_px"] = np.array([[6.0, 7.0], [6.0, 9.0]])
        >>> found = read("model.hdf5", pixel=0.5)
        >>> found.object.shape, found.positions[1]
        ((1, 3, 20, 30), array([3. , 4.5]))
    """
    path = require_file(path)
    return importlib.import_module(f"{__name__}.{find_program(path)}").read(path, pixel=pixel)


def find_program(path: str | os.PathLike[str], /) -> str:
    """The program that wrote a reconstruction.

    One of ``ours, predictions, ptyrad, ptychodus, cdtools, ptychoshelves, py4dstem``.

    Raises:
        BadInput: the file of another program.

    Example:
        >>> with h5py.File("model.h5", "w") as file:
        ...     _ = file.create_group("optimizable_tensors")
        >>> find_program("model.h5")
        'ptyrad'
    """
    path = require_file(path)
    found = _guess_by_members(path) if h5py.is_hdf5(path) else _guess_by_first_bytes(path)
    if found is None:
        fix = (
            "is not a known reconstruction: give one of Phaseloom, PtyRAD, CDTools, ptychodus, PtychoShelves "
            "or py4DSTEM"
        )
        raise BadInput(path.name, None, fix)
    return found


def _guess_by_first_bytes(path: Path) -> str | None:
    with path.open("rb") as file:
        start = file.read(16)
    if start.startswith(b"MATLAB"):
        return "ptychoshelves"
    return "ptyrad" if start.startswith((b"PK\x03\x04", b"\x80")) else None


def _guess_by_members(path: Path) -> str | None:
    with open_hdf5(path) as file:
        if "phaseloom_result" in file.attrs:
            return "ours"
        if "phaseloom_prediction" in file.attrs:
            return "predictions"
        if "optimizable_tensors" in file:
            return "ptyrad"
        if "probe_position_x_m" in file and "object" in file:
            return "ptychodus"
        if "state_dict" in file and "cdtools_version" in file:
            return "cdtools"
        if any("MATLAB_class" in member.attrs for member in file.values()):
            return "ptychoshelves"
        emd = file.visit(lambda name: True if name.endswith("_object_emd") else None)
        return "py4dstem" if emd or "object" in file else None


def read_positions(path: str | os.PathLike[str], /, *, pixel: Length | None = None) -> np.ndarray:
    """Beam positions ``(n, 2)`` (row, column) in angstrom, from a table or another program's file.

    Known are ``.npy``, ``.csv`` and ``.txt`` with two columns in angstrom; HDF5 and ``.mat`` with ``ppX`` and
    ``ppY`` as fold_slice stores them (columns and rows, angstrom for electrons and metres for X-rays, told
    apart by their size); and whatever `read` reads.

    Args:
        path: the file.
        pixel: see `read`.

    Raises:
        BadInput: no positions in it.

    Example:
        >>> with h5py.File("data_roi0_para.hdf5", "w") as file:
        ...     file["ppX"], file["ppY"] = [0.0, 0.4, 0.0], [0.0, 0.0, 0.5]
        >>> read_positions("data_roi0_para.hdf5").tolist()
        [[0.0, 0.0], [0.0, 0.4], [0.5, 0.0]]
    """
    path = require_file(path)
    if path.suffix.lower() in (".npy", ".csv", ".txt"):
        found = read_table(path)
    elif (pair := _read_fold_slice_positions(path)) is not None:
        found = pair
    else:
        found = read(path, pixel=pixel).positions
    if found is None:
        fix = "holds no positions, or no pixel to measure them with: give the pixel, or another file"
        raise BadInput(path.name, None, fix)
    numbers = found.dtype.kind in "iuf" and found.ndim == 2 and found.shape[1] == 2
    if not (numbers and np.isfinite(found).all()):
        raise BadInput(path.name, f"shape {found.shape}", "must be numbers in two columns, row and column")
    return found.astype(np.float64)


def _read_fold_slice_positions(path: Path) -> np.ndarray | None:
    """``ppY`` and ``ppX`` as columns; the two signs that fold_slice gives them on the way cancel."""
    unit = ""
    if h5py.is_hdf5(path):
        with open_hdf5(path) as file:
            if "ppX" not in file or "ppY" not in file:
                return None
            rows = np.ravel(np.asarray(file["ppY"]))
            columns = np.ravel(np.asarray(file["ppX"]))
            unit = CheckedGroup(file, path.name).unit("ppX")
    elif path.suffix.lower() == ".mat":
        found = read_variables(path, "ppX", "ppY")
        if len(found) < 2:
            return None
        rows = np.ravel(found["ppY"], "F")
        columns = np.ravel(found["ppX"], "F")
    else:
        return None
    if len(rows) != len(columns):
        raise BadInput(path.name, f"{len(columns)} and {len(rows)}", "values in ppX and ppY differ")
    positions = np.stack([rows, columns], 1).astype(float)
    in_metres = np.ptp(positions, axis=0).max(initial=0.0) < MAX_SCAN_IN_METRES
    return positions * dict(LENGTH.scale).get(unit, 1e10 if in_metres else 1.0)
