"""The object of a run under way, from its snapshot, without its data: what a viewer needs for a picture."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Complex

from phaseloom.errors import BadInput
from phaseloom.fitting import checkpoint
from phaseloom.plot.style import average_blocks

__all__ = ["SnapshotImage", "read_snapshot_image"]


@dataclass(frozen=True, eq=False)
class SnapshotImage:
    """An object as a snapshot has it.

    Attributes:
        epoch: that it is of.
        wave: complex transmission ``(y, x)``: the product of slices, of the most frequent state.
        slices: their number.
        pixel: of ``wave`` (y, x), angstrom; ``None`` in snapshots of earlier versions.
    """

    epoch: int
    wave: Complex[np.ndarray, "y x"]
    slices: int
    pixel: tuple[float, float] | None


def read_snapshot_image(
    path: Path | str, /, *, number: int | None = None, max_side: int = 512
) -> SnapshotImage:
    """Read the object of a ``snapshot.h5``, averaged over blocks of pixels.

    It can be called at any time: a snapshot is replaced as a whole. An object of 2048 x 2048 pixels takes a
    tenth of a second. A band-limited object is read on its own coarse grid.

    Args:
        path: of a snapshot.
        number: of the slice, from 0; default: the product of all.
        max_side: pixels along an edge, at most.

    Raises:
        BadInput: not the snapshot of a reconstruction, or no such slice.
    """
    try:
        with h5py.File(path) as file:
            tree = checkpoint.read_parts(file)
            wave, slices = _read_wave(_find_object(file, tree), number)
    except BadInput:
        raise
    except (OSError, LookupError, ValueError, TypeError) as error:
        raise BadInput("snapshot", str(path), "is not that of a reconstruction, or is damaged") from error
    fold = -(-max(wave.shape) // max_side)
    pixel = dict(tree.get("facts", {}).get("pairs", [])).get("pixel")
    sides = None if pixel is None else [fold * float(side) for side in pixel["tuple"]]
    return SnapshotImage(
        epoch=int(tree["epoch"]),
        wave=average_blocks(wave, fold),
        slices=slices,
        pixel=None if sides is None else (sides[0], sides[1]),
    )


def _find_object(file: h5py.File, tree: dict[str, Any]) -> dict[str, Any]:
    """The stored arrays of an object, by their names in it; none is read."""
    model = dict(tree["model"]["pairs"])
    names = ("wave", "phase", "amplitude", "occupancy")
    found = {name: model.get(f"object.{name}") for name in names}
    return {name: file[f"tensors/{value['tensor']}"] for name, value in found.items() if value}


def _read_wave(stored: dict[str, Any], number: int | None) -> tuple[Complex[np.ndarray, "y x"], int]:
    """The product of all slices of the most frequent state, or one of them, and how many there are."""
    state = int(np.argmax(stored["occupancy"][:]))
    slices = int(stored["wave" if "wave" in stored else "phase"].shape[1])
    if number is not None and not 0 <= number < slices:
        raise BadInput("slice", number, f"is not one of the {slices} of this object, counted from 0")
    wave: Any = np.complex64(1)
    for one in range(slices) if number is None else [number]:
        wave = wave * _read_slice(stored, state, one)
    return wave, slices


def _read_slice(stored: dict[str, Any], state: int, number: int) -> Complex[np.ndarray, "y x"]:
    if "wave" in stored:
        return stored["wave"][state, number]
    modulus = stored["amplitude"][state, number] if "amplitude" in stored else np.float32(1)
    return modulus * np.exp(1j * stored["phase"][state, number])
