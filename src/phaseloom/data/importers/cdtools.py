"""Results of CDTools (0.3), X-ray ptychography: what ``model.save_to_h5`` wrote, in metres."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from phaseloom.data.formats.files import open_hdf5
from phaseloom.data.importers.imported import Imported, repeat_thickness
from phaseloom.errors import BadInput
from phaseloom.physics import tilted_planes as tilted_sample
from phaseloom.physics.fourier import shift_to_centre, shift_to_corner, to_real, to_reciprocal

__all__ = ["convert_state", "find_gap", "read", "to_modes"]

State = Mapping[str, Any]
SLICED = "interslice_propagator"
"""What the state of a model of several slices has."""


def read(path: Path, /, *, pixel: float | None = None) -> Imported:
    """A result as a start for another run; its basis says the pixel, so ``pixel`` is not used.

    Raises:
        BadInput: something is missing.
    """
    with open_hdf5(path) as file:
        state = file.get("state_dict")
        if not isinstance(state, h5py.Group):
            raise BadInput(path.name, None, "lacks state_dict: it is not a result of CDTools")
        arrays = {name: item[()] for name, item in state.items() if isinstance(item, h5py.Dataset)}
    return convert_state(arrays, f"{path.name} of CDTools")


def convert_state(state: State, source: str, /) -> Imported:
    """Object, probe, positions and the rest of a ``state_dict``, in our axes and units.

    Args:
        state: arrays by name.
        source: name of the file and kind of program.

    Raises:
        BadInput: an array that every model of CDTools has is missing.
    """
    steps = state.get("obj_basis", state.get("probe_basis"))
    missing = [name for name in ("obj", "probe", "probe_norm", "min_translation") if name not in state]
    if missing or steps is None:
        fix = f"lacks {', '.join(missing) or 'obj_basis'} in state_dict: it is not a ptychography result"
        raise BadInput(source, None, fix)
    basis = np.asarray(steps, float)
    rows, columns = (float(step) * 1e10 for step in np.linalg.norm(basis, axis=0))
    modes = to_modes(state)
    object = _to_object(state)
    weights = np.asarray(state["weights"]) if "weights" in state else None
    relaxed = weights is not None and weights.ndim == 3
    # A window begins at its translation in pixels less the smallest one; ours is known by its centre.
    first = np.asarray(state["min_translation"], float) - np.array(modes.shape[-2:]) // 2
    return Imported(
        source=source,
        object=object,
        probe=modes,
        positions=_to_positions(state, basis, (rows, columns)),
        origin=(float(first[0]) * rows, float(first[1]) * columns),
        pixel=(rows, columns),
        thickness=repeat_thickness(1e10 * find_gap(state) if SLICED in state else None, object),
        weights=None if weights is None or relaxed else weights**2,
        opr_weights=weights if relaxed else None,
        background=np.asarray(state["background"]) ** 2 if "background" in state else None,
        wavelength=float(state["wavelength"]) * 1e10 if "wavelength" in state else None,
    )


def to_modes(state: State, /) -> np.ndarray:
    """The probe ``(mode, y, x)`` in square roots of counts on the whole window, complex64."""
    stored = torch.as_tensor(np.asarray(state["probe"])).to(torch.complex128)
    modes = stored.reshape(-1, *stored.shape[-2:]) * float(state["probe_norm"])
    modes = modes * torch.as_tensor(np.asarray(state.get("probe_support", True), bool))
    over = int(state.get("oversampling", 1))
    window = [over * count for count in np.shape(state.get("background", modes[0]))]
    in_fourier_space = bool(state.get("fourier_probe", False))
    waves = modes if in_fourier_space else shift_to_centre(to_reciprocal(shift_to_corner(modes)))
    top, left = ((whole - part) // 2 for whole, part in zip(window, modes.shape[-2:], strict=True))
    whole = waves.new_zeros(len(waves), *window)
    whole[:, top : top + waves.shape[1], left : left + waves.shape[2]] = waves
    return (
        (shift_to_centre(to_real(shift_to_corner(whole))) / over).to(torch.complex64).resolve_conj().numpy()
    )


def find_gap(state: State, /) -> float:
    """Metres between slices, from the phases that the propagation between them gives to plane waves.

    Those of long waves are unambiguous, those of short ones more precise.
    """
    kernel = np.asarray(state[SLICED]).astype(complex)[:, 0]
    pixel = np.linalg.norm(np.asarray(state["obj_basis"], float)[:, 0])
    wavelength = float(state["wavelength"])
    gap = 0.0
    step = 1
    while step < len(kernel) // 2:
        q = step / (len(kernel) * pixel)
        slope = -2 * np.pi * q**2 / (np.sqrt(1 / wavelength**2 - q**2) + 1 / wavelength)
        phase = np.angle(kernel[step] / kernel[0])
        gap = (phase + 2 * np.pi * np.round((slope * gap - phase) / (2 * np.pi))) / slope
        step *= 2
    return float(gap)


def _to_object(state: State) -> np.ndarray:
    """Transmission ``(mode, slice, y, x)``."""
    stored = np.asarray(state["obj"])
    if bool(state.get("exponentiate_obj", False)):
        stored = np.exp(1j * (np.real(stored) if bool(state.get("phase_only", False)) else stored))
    axis = 0 if SLICED in state else 1
    return np.expand_dims(stored.reshape(-1, *stored.shape[-2:]), axis).astype(np.complex64)


def _to_positions(state: State, basis: np.ndarray, pixel: tuple[float, float]) -> np.ndarray | None:
    """Centres of the beam (row, column), angstrom, as refined; ``None`` without translations."""
    if "original_translations" not in state:
        return None
    travel = np.asarray(state["original_translations"], float) * 1e10
    directions = basis / np.linalg.norm(basis, axis=0)
    positions, _ = tilted_sample.project_beam(travel, directions, (0.0, 0.0, 1.0))
    offsets = np.asarray(state.get("translation_offsets", 0.0), float)
    return positions + offsets * float(state.get("translation_scale", 1.0)) * np.array(pixel)
