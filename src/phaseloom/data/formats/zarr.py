"""Patterns in a Zarr store (a folder, or one zip file), read when asked for."""

import os
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from phaseloom.data.formats._arranged import Arrangement, Axes, Selection
from phaseloom.data.formats._arrays import Beam, Negative, Setup, Tables, Unit, scan_of
from phaseloom.data.formats._files import BROKEN, only, stored
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput, MissingExtra, nearest
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
    """Counts ``(pattern, y, x)`` or ``(slow, fast, y, x)`` of one array of the store, read lazily.

    Args:
        path: the store.
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
        positions: an array of this store, or a file beside it, with columns (row, column).
        positions_unit: of those positions; ``px`` are object pixels.
        mask: an array of this store, or a file beside it, not zero where a pixel is good.
        selection: a slice for each stored axis, ``"0:64, :, 8:-8"``, or a list of ``null`` and
            ``[start, stop, step]``; nothing else is read.
        permute: the order of the axes after that, as in `numpy.transpose`.
        reshape: the shape after that, with one -1 at most.
        negative: ``clip`` negative values to zero, or ``keep`` them for a later step.
        dataset: path inside the store; needed when there are several of three or four axes.

    Raises:
        BadInput: what is missing or does not fit.

    Example:
        >>> import zarr
        >>> array = zarr.create_array("scan.zarr", shape=(2, 3, 8, 8), dtype="u2")
        >>> array[:] = 1
        >>> read("scan.zarr", energy=80e3, angle=1e-3, step=0.4).grid
        (2, 3)
    """
    path = stored(path)
    setup = Setup(energy, beam, angle, pixel, distance, detector_pixel, focus, step, grid, rotation)
    how = Arrangement(selection, permute, reshape)
    arrays = _arrays(path)
    key = dataset if dataset is not None else only(arrays, path.name, "dataset")
    tables = Tables(
        positions, positions_unit, mask, lambda name: np.asarray(_member(arrays, path, name)[...])
    )
    source = _member(arrays, path, key)
    return scan_of(path, source, setup, tables, how=how, negative=negative, key=key)


def _arrays(path: Path) -> dict[str, Any]:
    """Every array of a store by its path; a store that is one array has the path ''."""
    try:
        import zarr
        from zarr.storage import ZipStore
    except ImportError as error:
        raise MissingExtra(f"{path.name}: zarr", "zarr", "formats") from error
    try:
        root = zarr.open(path if path.is_dir() else ZipStore(path), mode="r")
        if isinstance(root, zarr.Array):
            return {"": root}
        return {name: item for name, item in root.members(None) if isinstance(item, zarr.Array)}
    except (BadZipFile, *BROKEN) as error:
        raise BadInput(path.name, None, "is not a whole Zarr store: copy it again") from error


def _member(arrays: dict[str, Any], path: Path, name: str) -> Any:
    if name not in arrays:
        raise BadInput(f"{path.name}: {name}", None, f"is not an array: {nearest(name, arrays)}")
    return arrays[name]
