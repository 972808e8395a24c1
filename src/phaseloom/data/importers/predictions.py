"""Phases that a network predicted: ``prediction.h5``."""

from pathlib import Path

import numpy as np

from phaseloom.data.formats.files import open_hdf5
from phaseloom.data.importers.imported import Imported
from phaseloom.data.own_files.members import read_members
from phaseloom.data.own_files.tables import PREDICTION

__all__ = ["read"]


def read(path: Path, /, *, pixel: float | None = None) -> Imported:
    """A predicted phase as the start of a run: a transmission of modulus one; ``pixel`` is not used.

    Raises:
        BadInput: something is missing.
    """
    with open_hdf5(path) as file:
        stored = read_members(file, PREDICTION, path.name)
    y, x = stored["origin"].astype(float).tolist()
    height, width = stored["pixel"].astype(float).tolist()
    return Imported(
        source=f"{path.name} of Phaseloom",
        object=np.exp(1j * stored["phase"].astype(np.float64))[None, None],
        origin=(y, x),
        pixel=(height, width),
        rotation=float(stored["rotation"] or 0.0),
    )
