"""Patterns in a Zarr store (a folder, or one zip file), read when asked for."""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from phaseloom.data.formats.files import READ_ERRORS, find_stack, require_file_or_store
from phaseloom.data.formats.header import About
from phaseloom.data.formats.kinds import KINDS, Tree, find_kind, read_kind
from phaseloom.data.formats.setup import Setup, accept_setup, build_scan
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput, MissingExtra, nearest
from phaseloom.free_memory import require_memory

__all__ = ["ABOUT", "read"]

ABOUT = About(
    files=".zarr, .zip, .zspy",
    reading="batch by batch",
    states="of .zspy energy, step, angle; else nothing",
    compared="zarr; of .zspy rosettasciio 0.15: equal",
)

STORE_KINDS = tuple(kind for kind in KINDS if kind.name == "hspy")
"""Kinds of HDF5 files that are stored in Zarr as well."""


@accept_setup()
def read(
    path: str | os.PathLike[str],
    /,
    *,
    dataset: str | None = None,
    **setup: Unpack[Setup],
) -> Scan4D:
    """Counts ``(pattern, y, x)`` or ``(slow, fast, y, x)`` of one array of the store, read lazily.

    Stores of HyperSpy (``.zspy``) state energy, step and angle, as its HDF5 files do.

    Args:
        path: the store.
        **setup: see `Setup`.
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
    path = require_file_or_store(path)
    root = _open_store(path)
    arrays = _list_arrays(path, root)
    kind = find_kind(Tree(root, path.name), STORE_KINDS) if "" not in arrays else None

    def read_member(name: str) -> np.ndarray:
        found = _get_array(arrays, path, name)
        require_memory(math.prod(found.shape) * found.dtype.itemsize, f"{path.name}: {name}")
        return np.asarray(found[...])

    if kind is not None:
        tree = Tree(root, path.name)
        return read_kind(path, tree, kind, setup, dataset=dataset, read_member=read_member)
    key = dataset if dataset is not None else find_stack(arrays, path.name, "dataset")
    return build_scan(path, _get_array(arrays, path, key), setup, key=key, read_member=read_member)


def _open_store(path: Path) -> Any:
    """The group or array of a store."""
    try:
        import zarr
        from zarr.storage import ZipStore
    except ImportError as error:
        raise MissingExtra(f"{path.name}: zarr", "zarr", "formats") from error
    try:
        return zarr.open(path if path.is_dir() else ZipStore(path), mode="r")
    except READ_ERRORS as error:
        raise BadInput(path.name, None, "is not a whole Zarr store: copy it again") from error


@dataclass(frozen=True)
class _ZarrSource:
    """An array of a store as a `Source`, whose damaged chunks are a sentence."""

    path: Path
    name: str
    array: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """As stored."""
        return tuple(self.array.shape)

    @property
    def dtype(self) -> np.dtype:
        """As stored."""
        return self.array.dtype

    def __getitem__(self, block: Any, /) -> np.ndarray:
        """Read a block."""
        try:
            return self.array[block]
        except READ_ERRORS as error:
            place = f"{self.path.name}: {self.name}" if self.name else self.path.name
            raise BadInput(place, None, "has a chunk that is damaged: copy the store again") from error


def _list_arrays(path: Path, root: Any) -> dict[str, Any]:
    """Every array of a store by its path; a store that is one array has the path ''."""
    try:
        if hasattr(root, "dtype"):
            return {"": _ZarrSource(path, "", root)}
        arrays = {name: item for name, item in root.members(None) if hasattr(item, "dtype")}
        return {name: _ZarrSource(path, name, item) for name, item in arrays.items()}
    except READ_ERRORS as error:
        raise BadInput(path.name, None, "is not a whole Zarr store: copy it again") from error


def _get_array(arrays: dict[str, Any], path: Path, name: str) -> Any:
    if name not in arrays:
        raise BadInput(f"{path.name}: {name}", None, f"is not an array: {nearest(name, arrays)}")
    found = arrays[name]
    if math.prod(found.shape) >= 1 << 62:
        raise BadInput(
            f"{path.name}: {name}", f"shape {found.shape}", "is not plausible: copy the store again"
        )
    return found
