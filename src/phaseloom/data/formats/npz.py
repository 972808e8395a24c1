"""Patterns in an ``.npz`` archive; files with their own ``dx`` and ``kv`` need no knobs."""

import os
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Unpack

import numpy as np

from phaseloom.data.formats.arrays import load_npz
from phaseloom.data.formats.files import READ_ERRORS, require_file
from phaseloom.data.formats.header import About, Header
from phaseloom.data.formats.setup import Setup, accept_setup, build_scan
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput, nearest

__all__ = ["ABOUT", "read"]

ABOUT = About(
    files=".npz",
    reading="at once",
    states="energy, pixel, raster, positions of simulated scans; positions of those of SLAC; positions and "
    "probe of those of tike",
    compared="numpy",
)

SLAC_KEYS = ("diffraction", "xcoords_start", "ycoords_start")
"""What simulated scans of SLAC hold: patterns ``(y, x, n)`` and positions in metres."""

TIKE_KEYS = ("data", "scan", "probe")
"""What archives of tike hold: patterns with the zero frequency in the corner, positions in object pixels."""

TIKE_HINTS = {
    "energy": "of the photons, as 8 keV, which tike does not keep; any serves for an image in pixels",
    "angle": "or pixel: 30 nm of the object, or distance and detector_pixel, which tike does not keep; any "
    "serves for an image in pixels",
}

PATTERN_KEYS = ("meas", "counts", "data", "patterns", "intensities", "diffraction", "arr_0")
"""Where patterns are looked for."""


@accept_setup()
def read(
    path: str | os.PathLike[str],
    /,
    *,
    key: str | None = None,
    **setup: Unpack[Setup],
) -> Scan4D:
    """Counts ``(pattern, y, x)`` or ``(slow, fast, y, x)`` of one array of the archive.

    A simulated scan is recognised by its keys ``meas``, ``dx`` (object pixel, angstrom), ``kv`` and
    ``pos_px``: positions are ``pos_px * dx``; ``positions: pos_nominal_px`` takes those of the raster. The
    unit of positions is ``px`` for keys that end with ``_px``, else ``A``, unless it is given.

    An archive of tike is recognised by its keys ``data``, ``scan`` and ``probe``: photons, positions of the
    beam in object pixels (row, column), and a probe (its first wave of each mode), which is padded to the
    window. Its leading axis of one view is left out. Patterns whose light lies around the corners are shifted
    so that the zero frequency is in the middle. It states neither energy nor pixel; for an image in pixels
    any energy and pixel serve.

    Args:
        path: the file.
        **setup: see `Setup`.
        key: of the patterns.

    Raises:
        BadInput: what is missing or does not fit. Pickled objects are never loaded.

    Example:
        >>> np.savez("scan.npz", meas=np.ones((1, 8, 8)), pos_px=np.ones((1, 2)), dx=0.2, kv=80.0)
        >>> read("scan.npz").positions.tolist()
        [[0.2, 0.2]]
    """
    path = require_file(path)
    keys = _list_keys(path)
    if key is None and set(TIKE_KEYS) <= set(keys) and (scan := _read_tike(path, setup)) is not None:
        return scan
    key = key or _find_patterns_key(path)
    read_member = partial(_read_array, path)
    patterns = read_member(key)
    if setup.get("positions") is None and setup.get("step") is None:
        setup["positions"] = next((name for name in ("positions", "pos_px") if name in keys), None)
    if setup.get("positions_unit") is None:
        setup["positions_unit"] = "px" if str(setup.get("positions") or "").endswith("_px") else None
    four_axes = len(setup.get("reshape") or patterns.shape) == 4  # and these have a raster of their own
    header = _read_header(path, keys, has_raster=four_axes)
    if set(SLAC_KEYS) <= set(keys) and key == SLAC_KEYS[0] and patterns.ndim == 3:
        if setup.get("permute") is None and setup.get("reshape") is None:
            setup["permute"] = (2, 0, 1)
        columns, rows = (np.ravel(read_member(name)).astype(float) * 1e10 for name in SLAC_KEYS[1:])
        if len(rows) == len(columns):
            header = replace(header, beam="photon", positions=np.column_stack([rows, columns]))
    return build_scan(path, patterns, setup, key=key, read_member=read_member, header=header)


def _read_tike(path: Path, setup: Setup) -> Scan4D | None:
    """A scan of tike; nothing where the arrays of these names are not its."""
    patterns, places, waves = (_read_array(path, key) for key in TIKE_KEYS)
    if patterns.ndim == 4 and len(patterns) == 1:
        patterns = patterns[0]
    if patterns.ndim != 3 or patterns.dtype.kind not in "iuf" or places.shape[-2:] != (len(patterns), 2):
        return None
    if has_light_in_corners(patterns):
        patterns = np.fft.fftshift(patterns, axes=(-2, -1))
    header = Header(beam="photon", metadata={"kind of file": "tike"}, hints=TIKE_HINTS)
    if setup.get("positions") is None and setup.get("step") is None:
        setup["positions"] = "scan"
    if setup.get("positions") == "scan" and setup.get("positions_unit") is None:
        setup["positions_unit"] = "px"
    read_member = partial(_read_array, path)
    scan = build_scan(path, patterns, setup, key=TIKE_KEYS[0], read_member=read_member, header=header)
    probe = _pad_probe(waves, scan.geometry.shape)
    return scan if probe is None else replace(scan, probe=probe)


def has_light_in_corners(patterns: np.ndarray, /) -> bool:
    """Whether most light of the mean pattern lies outside the middle half of rows and columns.

    Example:
        >>> has_light_in_corners(np.fft.ifftshift(np.eye(8)[None]))
        False
    """
    mean = np.asarray(patterns.mean(0, dtype=np.float64))
    return bool(_sum_middle(mean) < _sum_middle(np.fft.fftshift(mean)))


def _sum_middle(image: np.ndarray) -> float:
    height, width = image.shape
    return float(image[height // 4 : -(height // 4) or None, width // 4 : -(width // 4) or None].sum())


def _pad_probe(waves: np.ndarray, shape: tuple[int, int]) -> np.ndarray | None:
    """Modes ``(mode, y, x)`` of ``(..., mode, y, x)`` in the middle of a window; nothing if too large."""
    if waves.dtype.kind != "c" or waves.ndim < 2 or not np.isfinite(waves).all():
        return None
    modes = waves.reshape(-1, *waves.shape[-3:])[0].reshape(-1, *waves.shape[-2:])
    gaps = [whole - part for whole, part in zip(shape, modes.shape[1:], strict=True)]
    if min(gaps) < 0:
        return None
    return np.pad(modes, [(0, 0), *((gap // 2, gap - gap // 2) for gap in gaps)])


def _read_header(path: Path, keys: list[str], *, has_raster: bool) -> Header:
    """The geometry that simulated scans have beside their patterns."""
    numbers = {name: _read_number(path, name) for name in ("kv", "wavelength", "dx") if name in keys}
    grid = None
    if {"n_slow", "n_fast"} <= set(keys) and not has_raster:
        grid = (int(_read_number(path, "n_slow")), int(_read_number(path, "n_fast")))
    return Header(
        energy=numbers["kv"] * 1e3 if "kv" in numbers else None,
        wavelength=numbers.get("wavelength") if "kv" in numbers else None,
        pixel=numbers.get("dx"),
        grid=grid,
        metadata=_read_metadata(path),
    )


def _list_keys(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except READ_ERRORS as error:
        fix = "is not a whole .npz archive: save it again with numpy.savez"
        raise BadInput(path.name, None, fix) from error


def _read_array(path: Path, key: str) -> np.ndarray:
    if key not in (keys := _list_keys(path)):
        raise BadInput(f"{path.name}: {key}", None, f"is not in the archive: {nearest(key, keys)}")
    found = load_npz(path, [key])
    if key not in found:
        raise BadInput(f"{path.name}: {key}", None, "is not an array: save numbers with numpy.savez")
    return found[key]


def _read_number(path: Path, key: str) -> float:
    value = _read_array(path, key)
    if value.dtype.kind not in "iuf" or value.size != 1 or not np.isfinite(value).all() or value.min() <= 0:
        raise BadInput(f"{path.name}: {key}", f"{value.tolist()}", "must be one positive number")
    return float(value.ravel()[0])


def _find_patterns_key(path: Path) -> str:
    keys = _list_keys(path)
    found = next((key for key in PATTERN_KEYS if key in keys), keys[0] if len(keys) == 1 else None)
    if found is None:
        fix = f"has no patterns known by name: write key: one of {', '.join(keys[:12])}"
        raise BadInput(path.name, None, fix)
    return found


def _read_metadata(path: Path) -> dict[str, str]:
    units = {"C10": " A", "C30": " A", "conv_angle": " mrad", "dose": " electrons", "dz": " A"}
    keys = set(_list_keys(path))
    return {key: f"{_read_array(path, key)}{unit}" for key, unit in units.items() if key in keys}
