"""Our own results: ``result.h5``."""

from pathlib import Path
from typing import Any

import numpy as np

from phaseloom.data.formats.files import open_hdf5
from phaseloom.data.importers.imported import Imported, repeat_thickness
from phaseloom.data.own_files.members import Member, read_members
from phaseloom.data.own_files.tables import RESULT_ABOUT, RESULT_ARRAYS
from phaseloom.errors import BadInput

__all__ = ["read"]

_JSON = (
    Member("geometry", "json", form=dict[str, Any]),
    Member("gaps", "json", form=tuple[float, ...], optional=True),
    Member("grid", "json", form=tuple[int, int] | None, optional=True),
)


def read(path: Path, /, *, pixel: float | None = None) -> Imported:
    """A result as a start for another run; everything in it is known, so ``pixel`` is not used.

    Raises:
        BadInput: something is missing.
    """
    with open_hdf5(path) as file:
        stored = read_members(file, (*RESULT_ARRAYS, *RESULT_ABOUT, *_JSON), path.name)
    wavelength = stored["geometry"].get("wavelength")
    if not isinstance(wavelength, int | float):
        raise BadInput(f"{path.name}: /geometry", None, "lacks wavelength: write the result again")
    states = stored["object_modes"]
    object = stored["object"][None] if states is None else states
    y, x = stored["origin"].astype(float).tolist()
    height, width = stored["pixel"].astype(float).tolist()
    gaps = stored["gaps"]
    return Imported(
        source=f"{path.name} of Phaseloom",
        object=object,
        probe=stored["probe"],
        positions=np.asarray(stored["positions"], float),
        origin=(y, x),
        pixel=(height, width),
        tilts=stored["tilts"],
        thickness=gaps if gaps else repeat_thickness(float(stored["thickness"]), object),
        occupancies=stored["occupancies"],
        heights=stored["heights"],
        opr_weights=stored["opr_weights"],
        weights=stored["weights"],
        descan=stored["descan"],
        background=stored["background"],
        wavelength=float(wavelength),
        grid=stored["grid"],
    )
