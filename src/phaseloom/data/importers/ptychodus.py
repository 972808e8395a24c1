"""Products of ptychodus (1.0 to 1.7), X-ray ptychography of Argonne: lengths in metres.

A window of N pixels begins at pixel ``(position - center) / pixel + (size - N) / 2`` of the object; the
position of ours is that of the middle pixel ``N // 2``.
"""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from phaseloom.data.formats.files import CheckedGroup, open_hdf5
from phaseloom.data.importers.imported import Imported
from phaseloom.errors import BadInput
from phaseloom.units import photon_wavelength

__all__ = ["read"]

METRE = 1e10
"""Angstrom."""


def read(path: Path, /, *, pixel: float | None = None) -> Imported:
    """A product as a start for another run.

    Args:
        path: ``.h5`` of ptychodus.
        pixel: of the object, angstrom, for a file without it.

    Raises:
        BadInput: what is missing.
    """
    with open_hdf5(path) as file:
        tree = CheckedGroup(file, path.name)
        names = ("probe", "object", "probe_position_x_m", "probe_position_y_m")
        missing = [name for name in names if tree.find(name) is None]
        if missing:
            raise BadInput(path.name, None, f"lacks {', '.join(missing)}: save the product again")
        object, waves = (np.asarray(tree.dataset(name)[()]) for name in ("object", "probe"))
        object = object.reshape(*(1,) * (3 - object.ndim), *object.shape)
        if object.ndim != 3 or not 2 <= waves.ndim <= 4:
            shapes = f"{object.shape} and {waves.shape}"
            raise BadInput(f"{path.name}: object and probe", shapes, "do not have the axes of ptychodus")
        probe, weights = _read_probe(tree, waves)
        side = _read_pixel(file["object"], pixel)
        positions = np.stack([tree.array(name) for name in (names[3], names[2])], -1) * METRE
        return Imported(
            source=f"{path.name} of ptychodus",
            object=object[None],
            probe=probe,
            positions=positions,
            origin=None if side is None else _read_origin(file["object"], side, probe.shape[-2:]),
            pixel=side,
            thickness=_read_gaps(tree, object),
            opr_weights=weights,
            wavelength=_read_wavelength(file),
        )


def _read_probe(tree: CheckedGroup, waves: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Modes ``(mode, y, x)`` and each pattern's own mixture of them, from ``(coherent, incoherent, y, x)``.

    ptychodus mixes the first mode of each pattern from all coherent waves; the others are the same for all.
    """
    waves = waves.reshape(*(1,) * (4 - waves.ndim), *waves.shape)
    coherent, modes = waves.shape[:2]
    if tree.find("opr_weights") is None:
        return waves[0], None
    weights = tree.array("opr_weights")
    if weights.ndim != 2 or weights.shape[1] != coherent:
        fix = f"does not fit {coherent} coherent modes: save the product again"
        raise BadInput(tree.place("opr_weights"), f"shape {weights.shape}", fix)
    basis = np.concatenate([waves[0], waves[1:, 0]])
    mixed = np.zeros((len(weights), modes, len(basis)), np.complex64)
    mixed[:, 0, 0] = weights[:, 0]
    mixed[:, 0, modes:] = weights[:, 1:]
    for mode in range(1, modes):
        mixed[:, mode, mode] = 1
    return basis, mixed


def _read_pixel(image: Any, pixel: float | None) -> tuple[float, float] | None:
    if "pixel_height_m" not in image.attrs or "pixel_width_m" not in image.attrs:
        return None if pixel is None else (pixel, pixel)
    return float(image.attrs["pixel_height_m"]) * METRE, float(image.attrs["pixel_width_m"]) * METRE


def _read_origin(image: Any, pixel: tuple[float, float], window: tuple[int, ...]) -> tuple[float, float]:
    """Position of the centre of object pixel ``[0, 0]``."""
    y, x = (
        float(image.attrs.get(f"center_{name}_m", 0.0)) * METRE - (size / 2 - (n % 2) / 2) * side
        for name, size, n, side in zip("yx", image.shape[-2:], window, pixel, strict=True)
    )
    return y, x


def _read_gaps(tree: CheckedGroup, object: np.ndarray) -> tuple[float, ...] | None:
    if len(object) == 1:
        return ()
    if tree.find("object_layer_spacing_m") is None:
        return None
    return tuple((np.ravel(tree.array("object_layer_spacing_m")) * METRE).tolist())


def _read_wavelength(file: h5py.File) -> float | None:
    """From the photon energy, which files before 1.6 call that of the probe; none where it is 0."""
    for name in ("photon_energy_eV", "probe_energy_eV"):
        energy = float(np.asarray(file.attrs.get(name, 0.0)))
        if energy > 0:
            return photon_wavelength(energy)
    return None
