"""A result as a model file of PtyRAD: ``model_iterNNNN.hdf5``.

Its conventions: one square pixel in angstrom, square windows placed by their top-left pixel, one thickness
for all slices, tilts in mrad; ``None`` is the text ``__NONE__``.
"""

import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from phaseloom.errors import BadInput
from phaseloom.files import whole_hdf5
from phaseloom.result import Result

__all__ = ["ptyrad"]

log = logging.getLogger(__name__)

TEXT_OF_NONE = "__NONE__"
MAX_RELATIVE_DIFFERENCE = 1e-3
"""Of pixels or gaps; above it PtyRAD's single number would be wrong."""


def ptyrad(result: Result, path: str | os.PathLike[str], /, *, iteration: int | None = None) -> Path:
    """Write a model that PtyRAD's readers open, and that `phaseloom.data.importers.read` reads back.

    PtyRAD scales a probe to its patterns when it loads one; it stays in square roots of counts here.

    Args:
        result: a finished run.
        path: the file, or a folder, in which it becomes ``model_iterNNNN.hdf5``.
        iteration: the number that PtyRAD shows; default that of the epochs.

    Returns:
        The file.

    Raises:
        BadInput: what PtyRAD cannot describe: pixels or windows that are not square, unequal gaps.

    Example:
        >>> from phaseloom.data.scan import Geometry
        >>> geometry = Geometry(wavelength=0.02, shape=(8, 8), angle=(5e-3, 5e-3), beam="electron")
        >>> one = Result(
        ...     object=np.ones((1, 20, 20)) + 0j, probe=np.ones((1, 8, 8)) + 0j,
        ...     positions=np.full((2, 2), 5.0), positions_start=np.full((2, 2), 5.0),
        ...     pixel=geometry.pixel, origin=(0.0, 0.0), coverage=np.ones((20, 20)), geometry=geometry)
        >>> ptyrad(one, ".", iteration=7).name
        'model_iter0007.hdf5'
    """
    _check_describable(result)
    if result.opr_weights is not None:
        text = "export.ptyrad: one probe for all patterns: the file does not say which modes each pattern has"
        parts = (
            "; phaseloom split gives each scan with its own probe" if result.scan_numbers is not None else ""
        )
        log.warning("%s%s", text, parts)
    iteration = len(result.history) if iteration is None else iteration
    path = Path(path)
    if path.is_dir():
        path = path / f"model_iter{iteration:04d}.hdf5"
    with whole_hdf5(path) as file:
        _write_tree(file, _make_tree(result, iteration))
    return path


def _check_describable(result: Result) -> None:
    height, width = result.pixel
    if abs(height / width - 1) > MAX_RELATIVE_DIFFERENCE:
        fix = "is not square, as PtyRAD wants it: prepare the data with square pixels"
        raise BadInput("export.ptyrad: pixel", result.pixel, fix)
    if result.probe.shape[-2] != result.probe.shape[-1]:
        fix = "is not square, as PtyRAD wants it: crop or pad the patterns to a square"
        raise BadInput("export.ptyrad: window", result.probe.shape[-2:], fix)
    if result.gaps and max(result.gaps) / min(result.gaps) - 1 > MAX_RELATIVE_DIFFERENCE:
        fix = "differ, and PtyRAD has one for all: resample the slices to equal gaps (physics.depth)"
        raise BadInput("export.ptyrad: gaps", result.gaps, fix)


def _make_tree(result: Result, iteration: int) -> dict[str, Any]:
    from importlib.metadata import version

    losses = [epoch["loss"] for epoch in result.history]
    seconds = [float(epoch["seconds"]) for epoch in result.history]
    numbers = np.arange(1, len(losses) + 1)
    return {
        "ptyrad_version": f"layout of 1.0.0, by Phaseloom {version('phaseloom')}",
        "output_path": TEXT_OF_NONE,
        "optimizable_tensors": _tensors(result),
        "optim_state_dict": None,
        "scheduler_state_dict": None,
        "params": _params(result),
        "model_attributes": _attributes(result),
        "random_seed": result.provenance.seed if result.provenance else None,
        "loss_iters": np.stack([numbers, np.array(losses, float)], 1),
        "iter_times": np.array(seconds),
        "dz_iters": np.stack([numbers, np.full(len(numbers), _thickness(result))], 1),
        "lr_iters": {"niter": numbers},
        "avg_tilt_iters": {"niter": numbers},
        "convergence_iters": {},
        "avg_iter_t": float(np.mean(seconds)) if seconds else 0.0,
        "niter": iteration,
        "indices": np.arange(len(result.positions)),
        "batch_losses": {},
        "avg_losses": {"loss": losses[-1]} if losses else {},
    }


def _object_modes(result: Result) -> np.ndarray:
    return result.object[None] if result.object_modes is None else result.object_modes


def _thickness(result: Result) -> float:
    """PtyRAD wants some thickness even for one slice."""
    return float(result.thickness) or 1.0


def _tilts(result: Result) -> np.ndarray:
    return np.zeros((1, 2), np.float32) if result.tilts is None else (1e3 * result.tilts).astype(np.float32)


def _corners(result: Result) -> tuple[np.ndarray, np.ndarray]:
    """Top-left pixel of each window, inside the object, and what is left over."""
    window = np.array(result.probe.shape[-2:])
    places = (result.positions - np.array(result.origin)) / np.array(result.pixel) - window // 2
    room = np.array(result.object.shape[-2:]) - window
    corner = np.clip(np.round(places), 0, np.maximum(room, 0)).astype(np.int32)
    return corner, (places - corner).astype(np.float32)


def _tensors(result: Result) -> dict[str, Any]:
    modes = _object_modes(result)
    return {
        "obja": np.abs(modes).astype(np.float32),
        "objp": np.angle(modes).astype(np.float32),
        "probe": result.probe.astype(np.complex64),
        "probe_pos_shifts": _corners(result)[1],
        "obj_tilts": _tilts(result),
        "slice_thickness": np.float32(_thickness(result)),
    }


def _attributes(result: Result) -> dict[str, Any]:
    side = float(np.sqrt(np.prod(result.pixel)))
    size = result.probe.shape[-1]
    modes = len(_object_modes(result))
    slow, fast = result.grid or (1, len(result.positions))
    names = ("obja", "objp", "probe", "probe_pos_shifts", "obj_tilts", "slice_thickness")
    occupancies = np.full(modes, 1 / modes) if result.occupancies is None else result.occupancies
    return {
        "detector_blur_std": None,
        "start_iter": dict.fromkeys(names),
        "lr_params": dict.fromkeys(names, 0.0),
        "omode_occu": occupancies.astype(np.float32),
        "H": _kernel(result, side),
        "N_scan_slow": np.int32(slow),
        "N_scan_fast": np.int32(fast),
        "crop_pos": _corners(result)[0],
        "slice_thickness": np.float32(_thickness(result)),
        "dx": np.float32(side),
        "dk": np.float32(1 / (size * side)),
        "lambd": np.float32(result.geometry.wavelength),
        "meas_Npix": result.geometry.shape[-1],
        "simu_Npix": size,
        "simu_match_mode": None,
        "scan_affine": None,
        "tilt_obj": bool(_tilts(result).any()),
        "probe_int_sum": np.float32((np.abs(result.probe) ** 2).sum()),
    }


def _kernel(result: Result, side: float) -> np.ndarray:
    """Flight through one gap, with the carrier that PtyRAD keeps; its zero frequency is in the corner."""
    import torch

    from phaseloom.physics.propagate import angular_spectrum

    shape = (result.probe.shape[-2], result.probe.shape[-1])
    length = _thickness(result)
    wavelength = result.geometry.wavelength
    distance = torch.tensor(length, dtype=torch.float64)
    kernel = angular_spectrum(shape, (side, side), wavelength, distance).numpy()
    return (kernel * np.exp(2j * math.pi * length / wavelength)).astype(np.complex64)


def _params(result: Result) -> dict[str, Any]:
    """The few parameters that follow from the result itself; the rest is in our own parameter file."""
    slow, fast = result.grid or (1, len(result.positions))
    electron = result.geometry.beam == "electron"
    init = {
        "probe_illum_type": "electron" if electron else "xray",
        "probe_kv" if electron else "beam_kev": result.geometry.energy / 1e3,
        "meas_Npix": result.geometry.shape[-1],
        "meas_calibration": {"mode": "dx", "value": float(result.pixel[0])},
        "pos_N_scan_slow": slow,
        "pos_N_scan_fast": fast,
        "pos_N_scans": len(result.positions),
        "probe_pmode_max": len(result.probe),
        "obj_omode_max": len(_object_modes(result)),
        "obj_Nlayer": result.object.shape[0],
        "obj_slice_thickness": _thickness(result),
    }
    return {"init_params": init, "phaseloom_recipe": result.recipe}


def _write_tree(group: h5py.Group, tree: Mapping[str, Any]) -> None:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            _write_tree(group.create_group(name), value)
        else:
            group.create_dataset(name, data=TEXT_OF_NONE if value is None else value)
