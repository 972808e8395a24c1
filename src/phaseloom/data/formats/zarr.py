"""Patterns in a Zarr store (a folder, or one zip file), read when asked for."""

import os
from pathlib import Path
from typing import Any, Unpack
from zipfile import BadZipFile

import numpy as np

from phaseloom.data.formats.files import READ_ERRORS, find_stack, require_file_or_store
from phaseloom.data.formats.header import About
from phaseloom.data.formats.setup import Setup, accept_setup, build_scan
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput, MissingExtra, nearest

__all__ = ["ABOUT", "read"]

ABOUT = About(
    files=".zarr, .zip",
    reading="batch by batch",
    states="nothing",
    compared="zarr",
)


@accept_setup()
def read(
    path: str | os.PathLike[str],
    /,
    *,
    dataset: str | None = None,
    **setup: Unpack[Setup],
) -> Scan4D:
    """Counts ``(pattern, y, x)`` or ``(slow, fast, y, x)`` of one array of the store, read lazily.

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
    arrays = _list_arrays(path)
    key = dataset if dataset is not None else find_stack(arrays, path.name, "dataset")

    def read_member(name: str) -> np.ndarray:
        return np.asarray(_get_array(arrays, path, name)[...])

    return build_scan(path, _get_array(arrays, path, key), setup, key=key, read_member=read_member)


def _list_arrays(path: Path) -> dict[str, Any]:
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
    except (BadZipFile, *READ_ERRORS) as error:
        raise BadInput(path.name, None, "is not a whole Zarr store: copy it again") from error


def _get_array(arrays: dict[str, Any], path: Path, name: str) -> Any:
    if name not in arrays:
        raise BadInput(f"{path.name}: {name}", None, f"is not an array: {nearest(name, arrays)}")
    return arrays[name]
