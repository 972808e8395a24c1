"""Reconstructions from files, ours and those of other programs, to start from: ``read(path) -> Imported``.

One module for each program; which one wrote a file is seen by what is in it, not by its name.
"""

import importlib
import os
from pathlib import Path

import h5py

from phaseloom.data.formats.files import open_hdf5, require_file
from phaseloom.data.models._imported import Imported
from phaseloom.data.models._positions import positions_file
from phaseloom.errors import BadInput
from phaseloom.units import Length

__all__ = ["Imported", "kind", "positions_file", "read"]


def read(path: str | os.PathLike[str], /, *, pixel: Length | None = None) -> Imported:
    """The object, probe, positions and the rest of a reconstruction file of any known program.

    Known are our ``result.h5``, PtyRAD's ``.hdf5`` and ``.pt``, PtychoShelves' and fold_slice's ``.mat``
    (versions 5 to 7.3), and py4DSTEM's HDF5. The probe comes as stored: see `Imported`.

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
    return importlib.import_module(f"{__name__}.{kind(path)}").read(path, pixel=pixel)


def kind(path: str | os.PathLike[str], /) -> str:
    """The program that wrote a reconstruction: ``ours, ptyrad, ptychoshelves`` or ``py4dstem``.

    Raises:
        BadInput: a file of no known kind.

    Example:
        >>> with h5py.File("model.h5", "w") as file:
        ...     _ = file.create_group("optimizable_tensors")
        >>> kind("model.h5")
        'ptyrad'
    """
    path = require_file(path)
    found = _inside(path) if h5py.is_hdf5(path) else _by_start(path)
    if found is None:
        fix = "is no reconstruction that is known: give one of Phaseloom, PtyRAD, PtychoShelves or py4DSTEM"
        raise BadInput(path.name, None, fix)
    return found


def _by_start(path: Path) -> str | None:
    with path.open("rb") as file:
        start = file.read(16)
    if start.startswith(b"MATLAB"):
        return "ptychoshelves"
    return "ptyrad" if start.startswith((b"PK\x03\x04", b"\x80")) else None


def _inside(path: Path) -> str | None:
    with open_hdf5(path) as file:
        if "phaseloom_result" in file.attrs:
            return "ours"
        if "optimizable_tensors" in file:
            return "ptyrad"
        if any("MATLAB_class" in member.attrs for member in file.values()):
            return "ptychoshelves"
        emd = file.visit(lambda name: True if name.endswith("_object_emd") else None)
        return "py4dstem" if emd or "object" in file else None
