"""Patterns in an ``.npz`` archive; files with their own ``dx`` and ``kv`` need no knobs."""

import os
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from phaseloom.data.formats._arranged import Arrangement, Axes, Selection
from phaseloom.data.formats._arrays import Beam, Negative, Setup, Tables, Unit, scan_of
from phaseloom.data.formats._files import BROKEN, checked
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput, nearest
from phaseloom.units import Angle, Energy, Length

__all__ = ["read"]

KEYS = ("meas", "counts", "data", "patterns", "intensities", "arr_0")
"""Where patterns are looked for."""


def read(  # noqa: PLR0913
    path: str | os.PathLike[str],
    /,
    *,
    energy: Energy | None = None,
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
    positions_unit: Unit | None = None,
    mask: str | None = None,
    selection: Selection | None = None,
    permute: Axes | None = None,
    reshape: Axes | None = None,
    negative: Negative = "clip",
    key: str | None = None,
) -> Scan4D:
    """Counts ``(pattern, y, x)`` or ``(slow, fast, y, x)`` of one array of the archive.

    A simulated scan is recognised by its keys ``meas``, ``dx`` (object pixel, angstrom), ``kv`` and
    ``pos_px``: positions are ``pos_px * dx``; ``positions: pos_nominal_px`` takes those of the raster.

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
        positions: a key of the archive, or a file beside it, with columns (row, column).
        positions_unit: of those positions; ``px`` are object pixels. Default ``px`` for keys that
            end with ``_px``, else ``A``.
        mask: a key of the archive, or a file beside it, not zero where a pixel is good.
        selection: a slice for each stored axis, ``"0:64, :, 8:-8"``, or a list of ``null`` and
            ``[start, stop, step]``; nothing else is read.
        permute: the order of the axes after that, as in `numpy.transpose`.
        reshape: the shape after that, with one -1 at most.
        negative: ``clip`` negative values to zero, or ``keep`` them for a later step.
        key: of the patterns.

    Raises:
        BadInput: what is missing or does not fit. Pickled objects are never loaded.

    Example:
        >>> np.savez("scan.npz", meas=np.ones((1, 8, 8)), pos_px=np.ones((1, 2)), dx=0.2, kv=80.0)
        >>> read("scan.npz").positions.tolist()
        [[0.2, 0.2]]
    """
    path = checked(path)
    key = key or _patterns_key(path)
    setup = Setup(energy, beam, angle, pixel, distance, detector_pixel, focus, step, grid, rotation)
    how = Arrangement(selection, permute, reshape)
    setup = _simulated(path, setup)
    if positions is None and step is None:
        positions = next((k for k in ("positions", "pos_px") if k in _keys(path)), None)
    unit = positions_unit or ("px" if (positions or "").endswith("_px") else "A")
    tables = Tables(positions, unit, mask, partial(_load, path))
    scan = scan_of(path, _load(path, key), setup, tables, how=how, negative=negative, key=key)
    return replace(scan, metadata=_metadata(path))


def _keys(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except (zipfile.BadZipFile, *BROKEN) as error:
        raise BadInput(
            path.name, None, "is not a whole .npz archive: save it again with numpy.savez"
        ) from error


def _load(path: Path, key: str) -> np.ndarray:
    if key not in (keys := _keys(path)):
        raise BadInput(f"{path.name}: {key}", None, f"is not in the archive: {nearest(key, keys)}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return archive[key]
    except (zipfile.BadZipFile, *BROKEN) as error:
        fix = "cannot be read: save numbers, not objects, with numpy.savez"
        raise BadInput(f"{path.name}: {key}", None, fix) from error


def _number(path: Path, key: str) -> float:
    value = _load(path, key)
    if value.dtype.kind not in "iuf" or value.size != 1 or not np.isfinite(value).all() or value.min() <= 0:
        raise BadInput(f"{path.name}: {key}", f"{value.tolist()}", "must be one positive number")
    return float(value.ravel()[0])


def _patterns_key(path: Path) -> str:
    keys = _keys(path)
    found = next((key for key in KEYS if key in keys), None)
    if found is None:
        raise BadInput(
            path.name, None, f"has no patterns known by name: write key: one of {', '.join(keys[:12])}"
        )
    return found


def _simulated(path: Path, setup: Setup) -> Setup:
    """Fill what the user left open from the scalars of the archive."""
    keys = _keys(path)
    if setup.energy is None and "kv" in keys:
        setup = replace(setup, energy=_number(path, "kv") * 1e3)
        if "wavelength" in keys:
            setup = replace(setup, wavelength=_number(path, "wavelength"))
    if setup.angle is None and setup.pixel is None and setup.distance is None and "dx" in keys:
        setup = replace(setup, pixel=_number(path, "dx"))
    if setup.grid is None and {"n_slow", "n_fast"} <= set(keys):
        setup = replace(setup, grid=(int(_number(path, "n_slow")), int(_number(path, "n_fast"))))
    return setup


def _metadata(path: Path) -> dict[str, str]:
    units = {"C10": " A", "C30": " A", "conv_angle": " mrad", "dose": " electrons", "dz": " A"}
    keys = set(_keys(path))
    return {key: f"{_load(path, key)}{unit}" for key, unit in units.items() if key in keys}
