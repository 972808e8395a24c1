"""Patterns in a ``.npy`` file, mapped into memory; the geometry comes from knobs or a side-car."""

import os

from phaseloom.data.formats._arranged import Arrangement, Axes, Selection
from phaseloom.data.formats._arrays import Beam, Negative, Setup, Tables, Unit, load_array, scan_of
from phaseloom.data.formats._files import checked
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
) -> Scan4D:
    """Counts ``(pattern, y, x)`` or ``(slow, fast, y, x)`` as `numpy.save` wrote them.

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
        positions: an ``.npy``, ``.csv`` or ``.txt`` file beside the data with columns (row, column).
        positions_unit: of those positions; ``px`` are object pixels.
        mask: an ``.npy``, ``.csv`` or ``.txt`` file beside the data, not zero where a pixel is good.
        selection: a slice for each stored axis, ``"0:64, :, 8:-8"``, or a list of ``null`` and
            ``[start, stop, step]``; nothing else is read.
        permute: the order of the axes after that, as in `numpy.transpose`.
        reshape: the shape after that, with one -1 at most.
        negative: ``clip`` negative values to zero, or ``keep`` them for a later step.

    Raises:
        BadInput: what is missing or does not fit. Pickled objects are never loaded.

    Example:
        >>> np.save("raster.npy", np.ones((2, 3, 8, 8), np.uint16))
        >>> scan = read("raster.npy", energy=80e3, angle=1e-3, step=0.4)
        >>> scan.grid, scan.positions[-1].tolist()
        ((2, 3), [0.4, 0.8])
    """
    path = checked(path)
    setup = Setup(energy, beam, angle, pixel, distance, detector_pixel, focus, step, grid, rotation)
    how = Arrangement(selection, permute, reshape)
    tables = Tables(positions, positions_unit, mask)
    return scan_of(path, load_array(path, lazy=True), setup, tables, how=how, negative=negative)
