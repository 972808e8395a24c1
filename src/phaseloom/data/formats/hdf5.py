"""Patterns in any HDF5 file, read when asked for; the geometry comes from knobs or a side-car."""

import os
from pathlib import Path
from typing import Unpack

import numpy as np

from phaseloom.data.counts import HDF5Source
from phaseloom.data.formats.files import (
    find_stack,
    get_dataset,
    has_hdf5_name_or_content,
    list_datasets,
    open_hdf5,
    require_file,
)
from phaseloom.data.formats.header import About
from phaseloom.data.formats.setup import Setup, accept_setup, build_scan
from phaseloom.data.scan import Scan4D

__all__ = ["ABOUT", "knows", "read"]

ABOUT = About(
    files=".h5 .hdf5 .nxs .emd ...",
    reading="batch by batch",
    states="nothing",
    compared="h5py",
)


def knows(path: Path, /) -> bool:
    """Whether a file is HDF5 (of no kind that was asked before)."""
    return has_hdf5_name_or_content(path)


@accept_setup()
def read(
    path: str | os.PathLike[str],
    /,
    *,
    dataset: str | None = None,
    **setup: Unpack[Setup],
) -> Scan4D:
    """Counts ``(pattern, y, x)`` or ``(slow, fast, y, x)`` of one data set, read lazily.

    Args:
        path: the file.
        **setup: see `Setup`.
        dataset: path inside the file; needed when there are several of three or four axes.

    Raises:
        BadInput: what is missing or does not fit.

    Example:
        >>> import h5py
        >>> with h5py.File("scan.h5", "w") as file:
        ...     file["frames"] = np.ones((2, 3, 8, 8), np.uint16)
        >>> read("scan.h5", energy=80e3, angle=1e-3, step=0.4).grid
        (2, 3)
    """
    path = require_file(path)
    with open_hdf5(path) as file:
        key = dataset or find_stack(list_datasets(file), path.name, "dataset")
        get_dataset(file, path, key)

        def read_member(name: str) -> np.ndarray:
            return np.asarray(get_dataset(file, path, name)[()])

        return build_scan(path, HDF5Source.of(path, key), setup, key=key, read_member=read_member)
