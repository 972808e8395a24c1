"""A result as a product of ptychodus, which exchanges reconstructions of X-rays (Argonne).

Its frame: lengths in metres, ``x`` along columns and ``y`` along rows, both growing with the index; a window
of N pixels begins at pixel ``(position - center) / pixel + (size - N) / 2`` of the object. The
phase has our sign, ``exp(+i phase)``.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from phaseloom.export.sources import Exportable, require_result, resolve_path
from phaseloom.files import whole_hdf5
from phaseloom.result import Result
from phaseloom.units import HC_SI
from phaseloom.version import __version__

__all__ = ["ptychodus"]

JOULE_PER_EV = 1.602176634e-19
SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9}
EXPOSURE_NAMES = ("exposure_time", "exposure", "dwell_time", "dwell")
"""Texts of the metadata that say how long a pattern was exposed."""


def ptychodus(result: Exportable, path: str | os.PathLike[str], /) -> Path:
    """Write a product (``.h5``) that ptychodus opens and `phaseloom.data.importers.read` reads back.

    ``photon_energy_eV`` is ``h c`` over the wavelength, for electrons too: ptychodus takes the wavelength
    from it. Of several states of the object the mean is written. Of a probe that changes from pattern to
    pattern the first mode keeps its changes, as real weights of twice as many waves; further modes do not.

    Args:
        result: a reconstruction.
        path: the file, or a folder, in which it becomes ``product.h5``.

    Returns:
        The file.

    Raises:
        BadInput: not a reconstruction.

    Example:
        >>> from phaseloom.data.scan import Geometry
        >>> geometry = Geometry(wavelength=1.4, shape=(8, 8), angle=(5e-4, 5e-4), distance=1e10)
        >>> one = Result(
        ...     object=np.ones((1, 20, 20)) + 0j, probe=np.ones((1, 8, 8)) + 0j,
        ...     positions=np.full((2, 2), 5.0), positions_start=np.full((2, 2), 5.0),
        ...     pixel=geometry.pixel, origin=(0.0, 0.0), coverage=np.ones((20, 20)), geometry=geometry)
        >>> with h5py.File(ptychodus(one, "product.h5")) as file:
        ...     round(file.attrs["photon_energy_eV"])
        8856
    """
    result = require_result(result, "export.ptychodus")
    path = resolve_path(path, "product.h5")
    metres = np.array(result.pixel) * 1e-10
    probe, weights = _probe_with_weights(result)
    with whole_hdf5(path) as file:
        file.attrs.update(_attributes(result))
        y, x = result.positions.T * 1e-10
        file["probe_position_indexes"] = np.arange(len(result.positions))
        file["probe_position_x_m"] = x
        file["probe_position_y_m"] = y
        _write_wave(file, "probe", probe, metres)
        if weights is not None:
            file["opr_weights"] = weights
        image = _write_wave(file, "object", result.object, metres)
        image.attrs["center_y_m"], image.attrs["center_x_m"] = _centre(result) * 1e-10
        gaps = result.gaps or (result.thickness,) * (len(result.object) - 1)
        file["object_layer_spacing_m"] = np.array(gaps, float) * 1e-10
        file["loss_epochs"] = np.arange(1, len(result.history) + 1)
        file["loss_values"] = np.array([epoch["loss"] for epoch in result.history], float)
    return path


def _write_wave(file: h5py.File, name: str, values: np.ndarray, metres: np.ndarray) -> h5py.Dataset:
    data = file.create_dataset(name, data=values, compression="gzip")
    data.attrs["pixel_height_m"], data.attrs["pixel_width_m"] = metres
    return data


def _centre(result: Result) -> np.ndarray:
    """Position (y, x), angstrom, that ptychodus puts in the middle of the object.

    The middle pixel ``N // 2`` of a window is at the position here, and half a pixel beyond it there where N
    is odd.
    """
    size = np.array(result.object.shape[-2:])
    half = np.array(result.probe.shape[-2:]) % 2 / 2
    return np.array(result.origin) + (size / 2 - half) * np.array(result.pixel)


def _probe_with_weights(result: Result) -> tuple[np.ndarray, np.ndarray | None]:
    """Waves ``(coherent, incoherent, y, x)`` and the real weights ``(n, coherent)`` of the first mode."""
    mixed = result.opr_weights
    if mixed is None:
        return result.probe[None], None
    basis, modes = len(result.probe), mixed.shape[1]
    waves = np.zeros((2 * basis, modes, *result.probe.shape[1:]), result.probe.dtype)
    waves[:basis, 0] = result.probe
    waves[basis:, 0] = 1j * result.probe
    waves[0, 1:] = result.probe[1:modes]
    first: Any = mixed[:, 0]
    return waves, np.concatenate([first.real, first.imag], 1).astype(np.float64)


def _attributes(result: Result) -> dict[str, Any]:
    geometry = result.geometry
    photons = float((np.abs(result.probe) ** 2).sum())
    comments = {"program": f"Phaseloom {__version__}", "beam": geometry.beam, "verdict": result.verdict}
    distance = 0.0 if geometry.distance is None else geometry.distance * 1e-10
    focus = 0.0 if geometry.focus is None or not np.isfinite(geometry.focus) else geometry.focus * 1e-10
    energy = HC_SI / (geometry.wavelength * 1e-10) / JOULE_PER_EV
    return {
        "name": result.title or "Phaseloom",
        "comments": json.dumps(comments | dict(result.metadata)),
        "detector_object_distance_m": distance,
        "focus_object_distance_m": focus,
        "far_field": not geometry.near,
        "photon_energy_eV": energy,
        "probe_energy_eV": energy,
        "probe_photon_count": photons,
        "exposure_time_s": _exposure(result),
        "mass_attenuation_m2_per_kg": 0.0,
        "mass_attenuation_m2_kg": 0.0,
        "tomography_angle_deg": 0.0,
        "tilt_angle_deg": 0.0,
    }


def _exposure(result: Result) -> float:
    """Seconds that the metadata say a pattern was exposed; 0, as ptychodus has it, where they do not."""
    for name in EXPOSURE_NAMES:
        found = re.fullmatch(r"\s*([\d.eE+-]+)\s*(\S*)\s*", str(result.metadata.get(name, "")))
        if found and (found[2] or "s") in SECONDS:
            try:
                return float(found[1]) * SECONDS[found[2] or "s"]
            except ValueError:
                continue
    return 0.0
