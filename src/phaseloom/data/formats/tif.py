"""Patterns in a TIFF stack, mapped into memory where the file allows it, else read page by page."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from phaseloom.data.formats._arranged import Arrangement, Axes, Selection
from phaseloom.data.formats._arrays import Beam, Negative, Setup, Tables, Unit, scan_of
from phaseloom.data.formats._files import BROKEN, checked
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput, MissingExtra
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
    """Counts ``(pattern, y, x)`` or ``(slow, fast, y, x)`` of the first series of images in the file.

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
        BadInput: what is missing or does not fit.

    Example:
        >>> import tifffile
        >>> tifffile.imwrite("stack.tif", np.ones((6, 8, 8), np.uint16))
        >>> len(read("stack.tif", energy=80e3, angle=1e-3, step=0.4, grid=(2, 3)))
        6
    """
    path = checked(path)
    setup = Setup(energy, beam, angle, pixel, distance, detector_pixel, focus, step, grid, rotation)
    how = Arrangement(selection, permute, reshape)
    tables = Tables(positions, positions_unit, mask)
    return scan_of(path, _stored(path), setup, tables, how=how, negative=negative)


@dataclass(frozen=True)
class Pages:
    """A stack whose images are compressed: the pages that are asked for are read."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype

    def __getitem__(self, block: Any, /) -> np.ndarray:
        """Read a block."""
        import tifffile

        lead = self.shape[:-2]
        numbers = np.arange(int(np.prod(lead))).reshape(lead)[block[:-2]]
        with tifffile.TiffFile(self.path) as file:
            images = [file.pages.get(int(number)).asarray()[block[-2:]] for number in numbers.ravel()]
        return np.stack(images).reshape(*numbers.shape, *images[0].shape)


def _stored(path: Path) -> Any:
    try:
        import tifffile
    except ImportError as error:
        raise MissingExtra(f"{path.name}: tif", "tifffile", "formats") from error
    try:
        with tifffile.TiffFile(path) as file:
            series = file.series[0]
            shape, dtype = tuple(series.shape), series.dtype
            if series.axes.endswith("S"):
                raise BadInput(
                    path.name, f"shape {shape}", "is a coloured picture: write counts, one per pixel"
                )
            if series.dataoffset is not None:
                return tifffile.memmap(path, mode="r", series=0)
            if dtype is not None and len(series.pages) == int(np.prod(shape[:-2])):
                return Pages(path, shape, dtype)
            return series.asarray()
    except (tifffile.TiffFileError, IndexError, *BROKEN) as error:
        raise BadInput(path.name, None, "is not a whole TIFF file: copy it again") from error
