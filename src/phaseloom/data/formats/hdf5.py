"""Patterns in any HDF5 file, read when asked for; the geometry comes from knobs or a side-car."""

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from phaseloom.data.counts import InFile
from phaseloom.data.formats._arrays import (
    Beam,
    Setup,
    Unit,
    from_table,
    is_table,
    mask_from_table,
    patterns,
    scan_of,
)
from phaseloom.data.formats._files import Tree, checked, opened
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
        dataset: path inside the file; needed when there are several of three or four axes.

    Raises:
        BadInput: what is missing or does not fit.

    Example:
        >>> with h5py.File("scan.h5", "w") as file:
        ...     file["frames"] = np.ones((2, 3, 8, 8), np.uint16)
        >>> read("scan.h5", energy=80e3, angle=1e-3, step=0.4).grid
        (2, 3)
    """
    path = checked(path)
    with opened(path) as file:
        name = dataset or _only(file, path.name)
        place = f"{path.name}: {name}"
        _, raster = patterns(_member(file, path, name), place)
        where = None
        if positions is not None and not is_table(positions):
            where = (
                np.asarray(_member(file, path, positions)[()]),
                f"{path.name}: {positions}",
                positions_unit,
            )
        good = None
        if mask is not None and not is_table(mask):
            good = (np.asarray(_member(file, path, mask)[()]), f"{path.name}: {mask}")
        counts = InFile.of(path, name)
        setup = Setup(
            energy=energy,
            beam=beam,
            angle=angle,
            pixel=pixel,
            distance=distance,
            detector_pixel=detector_pixel,
            focus=focus,
            step=step,
            grid=grid,
            rotation=rotation,
        )
        return scan_of(
            path,
            counts,
            setup,
            grid=raster,
            positions=where or from_table(path, positions, positions_unit),
            mask=good or mask_from_table(path, mask),
        )


def _member(file: h5py.File, path: Path, name: str) -> Any:
    tree = Tree(file, path.name)
    if tree.find(name) is None:
        raise BadInput(f"{path.name}: {name}", None, f"is not a data set: {nearest(name, _datasets(file))}")
    return tree.dataset(name)


def _only(file: h5py.File, name: str) -> str:
    stacks = [
        k for k, v in _datasets(file).items() if len(v.shape or ()) in (3, 4) and v.dtype.kind in "iufb"
    ]
    if len(stacks) != 1:
        found = "holds no data set of three or four axes" if not stacks else "holds several stacks"
        fix = f"{found}: name one with dataset: {', '.join(stacks[:8])}"
        raise BadInput(name, None, fix.removesuffix(": name one with dataset: "))
    return stacks[0]


def _datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    found: dict[str, h5py.Dataset] = {}

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item

    file.visititems(visit)
    return found
