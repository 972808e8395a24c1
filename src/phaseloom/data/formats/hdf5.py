"""Patterns in any HDF5 file, read when asked for; the geometry comes from knobs or a side-car."""

import os

import numpy as np

from phaseloom.data.counts import InFile
from phaseloom.data.formats._arranged import Arrangement, Axes, Selection
from phaseloom.data.formats._arrays import Beam, Negative, Setup, Tables, Unit, scan_of
from phaseloom.data.formats._files import checked, datasets, member, only, opened
from phaseloom.data.scan import Scan4D
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
    dataset: str | None = None,
) -> Scan4D:
    """Counts ``(pattern, y, x)`` or ``(slow, fast, y, x)`` of one data set, read lazily.

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
        positions: a data set of this file, or a file beside it, with columns (row, column).
        positions_unit: of those positions; ``px`` are object pixels.
        mask: a data set of this file, or a file beside it, not zero where a pixel is good.
        selection: a slice for each stored axis, ``"0:64, :, 8:-8"``, or a list of ``null`` and
            ``[start, stop, step]``; nothing else is read.
        permute: the order of the axes after that, as in `numpy.transpose`.
        reshape: the shape after that, with one -1 at most.
        negative: ``clip`` negative values to zero, or ``keep`` them for a later step.
        dataset: path inside the file; needed when there are several of three or four axes.

    Raises:
        BadInput: what is missing or does not fit.

    Example:
        >>> import h5py
        >>> with h5py.File("scan.h5", "w") as file:
        ...     file["frames"] = np.ones((2, 3, 8, 8), np.uint16)
        >>> read("scan.h5", energy=80e3, angle=1e-3, step=0.4).grid
        (2, 3)
    """
    path = checked(path)
    setup = Setup(energy, beam, angle, pixel, distance, detector_pixel, focus, step, grid, rotation)
    how = Arrangement(selection, permute, reshape)
    with opened(path) as file:
        key = dataset or only(datasets(file), path.name, "dataset")
        member(file, path, key)
        tables = Tables(
            positions, positions_unit, mask, lambda name: np.asarray(member(file, path, name)[()])
        )
        source = InFile.of(path, key)
        return scan_of(path, source, setup, tables, how=how, negative=negative, key=key)
