"""Patterns in a MATLAB file: version 5 is loaded, version 7.3 is read when asked for."""

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from scipy.io.matlab import MatReadError

from phaseloom.data.counts import InFile
from phaseloom.data.formats._arranged import Arrangement, Axes, Selection, Turned
from phaseloom.data.formats._arrays import Beam, Negative, Setup, Tables, Unit, scan_of
from phaseloom.data.formats._files import BROKEN, checked, datasets, member, one, only, opened
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput, nearest
from phaseloom.units import Angle, Energy, Length

__all__ = ["read"]


def read(  # noqa: PLR0913
    path: str | os.PathLike[str],
    /,
    *,
    energy: Energy,
    beam: Beam = "electron",
    angle: Angle | None = None,
    pixel: Length | None = None,
    distance: Length | None = None,
    detector_pixel: Length | None = None,
    focus: Length | None = None,
    step: Length | tuple[Length, Length] | None = None,
    grid: tuple[int, int] | None = None,
    rotation: Angle = 0.0,
    positions: str | None = None,
    positions_unit: Unit = "A",
    mask: str | None = None,
    selection: Selection | None = None,
    permute: Axes | None = None,
    reshape: Axes | None = None,
    negative: Negative = "clip",
    key: str | None = None,
) -> Scan4D:
    """Counts of one variable; axes are in the order of MATLAB's ``size``, whichever version wrote it.

    Patterns kept as ``(ky, kx, slow, fast)`` need ``permute: [2, 3, 0, 1]``, and ``(ky, kx, n)`` needs
    ``permute: [2, 0, 1]``.

    Args:
        path: the file.
        energy: of a photon, or kinetic energy of an electron, eV.
        beam: what is diffracted.
        angle: radian per detector pixel. Say the sampling once: ``angle``, or ``pixel``, or ``distance``
            with ``detector_pixel``.
        pixel: of the object, angstrom (far field).
        distance: object to detector, angstrom.
        detector_pixel: edge of a detector pixel, angstrom.
        focus: focus to object, angstrom: the scan is a near-field one.
        step: of the raster (slow, fast), angstrom, when there are no positions.
        grid: raster as (slow, fast) numbers of patterns; a 4-D array has its own.
        rotation: of the positions, radian, from the row axis towards the column axis.
        positions: a variable of this file, or a file beside it, with columns (row, column).
        positions_unit: of those positions; ``px`` are object pixels.
        mask: a variable of this file, or a file beside it, not zero where a pixel is good.
        selection: a slice for each stored axis, ``"0:64, :, 8:-8"``, or a list of ``null`` and
            ``[start, stop, step]``; nothing else is read.
        permute: the order of the axes after that, as in `numpy.transpose`.
        reshape: the shape after that, with one -1 at most.
        negative: ``clip`` negative values to zero, or ``keep`` them for a later step.
        key: the variable, ``group.field`` inside a structure; needed when several have three or four axes.

    Raises:
        BadInput: what is missing or does not fit.

    Example:
        >>> from scipy.io import savemat
        >>> savemat("scan.mat", {"dp": np.ones((8, 9, 6))})
        >>> knobs = dict(energy=80e3, angle=1e-3, step=0.4, grid=(2, 3))
        >>> read("scan.mat", permute=(2, 0, 1), **knobs).counts.shape
        (6, 8, 9)
    """
    path = checked(path)
    setup = Setup(energy, beam, angle, pixel, distance, detector_pixel, focus, step, grid, rotation)
    how = Arrangement(selection, permute, reshape)
    file = _Newer(path) if h5py.is_hdf5(path) else _Older(path)
    key = (key or file.only()).replace(".", "/")
    tables = Tables(positions, positions_unit, mask, file.whole)
    return scan_of(path, file.source(key), setup, tables, how=how, negative=negative, key=key)


class _Newer:
    """Version 7.3: an HDF5 file whose axes are the other way round."""

    def __init__(self, path: Path):
        self.path = path

    def only(self) -> str:
        """The one variable that can be patterns."""
        with opened(self.path) as file:
            found = {name: data for name, data in datasets(file).items() if not name.startswith("#")}
            return only(found, self.path.name, "key")

    def source(self, key: str) -> Turned:
        """A variable, to be read block by block."""
        with opened(self.path) as file:
            member(file, self.path, key)
            return Turned(InFile.of(self.path, key))

    def whole(self, key: str) -> np.ndarray:
        """A variable."""
        with opened(self.path) as file:
            return np.asarray(member(file, self.path, key)[()]).T


class _Older:
    """Version 5 and before: only the variables that are needed are loaded, in their own type."""

    def __init__(self, path: Path):
        from scipy.io import whosmat

        self.path = path
        try:
            self.shapes = {name: shape for name, shape, _ in whosmat(path)}
        except (MatReadError, *BROKEN) as error:
            raise BadInput(path.name, None, "is not a whole MATLAB file: save it again") from error

    def only(self) -> str:
        """The one variable that can be patterns."""
        stacks = [name for name, shape in self.shapes.items() if len(shape) in (3, 4)]
        return one(stacks, self.path.name, "key")

    def whole(self, key: str) -> np.ndarray:
        """A variable, or a field of a structure."""
        from scipy.io import loadmat

        name, *fields = key.split("/")
        if name not in self.shapes:
            fix = f"is not in the file: {nearest(name, self.shapes)}"
            raise BadInput(f"{self.path.name}: {name}", None, fix)
        try:
            value: Any = loadmat(self.path, variable_names=[name], struct_as_record=True)[name]
            for field in fields:
                value = value[field].ravel()[0]
        except (MatReadError, IndexError, *BROKEN) as error:
            fix = "cannot be read: save numbers with 'save -v7.3', and name fields as 'structure.field'"
            raise BadInput(f"{self.path.name}: {key}", None, fix) from error
        return value

    source = whole
