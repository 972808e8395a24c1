"""Patterns in a MATLAB file: version 5 is loaded, version 7.3 is read when asked for."""

import os
from pathlib import Path
from typing import Any, Unpack

import h5py
import numpy as np

from phaseloom.data.counts import HDF5Source
from phaseloom.data.formats.arrangement import ReversedAxes
from phaseloom.data.formats.files import (
    READ_ERRORS,
    find_stack,
    get_dataset,
    list_datasets,
    open_hdf5,
    require_file,
    require_one_stack,
)
from phaseloom.data.formats.header import About
from phaseloom.data.formats.setup import Setup, accept_setup, build_scan
from phaseloom.data.formats.vendor.mat_tags import require_known_tags
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput, nearest

__all__ = ["ABOUT", "read"]

ABOUT = About(
    files=".mat",
    reading="version 7.3 batch by batch, version 5 at once",
    states="nothing",
    compared="scipy",
)


@accept_setup()
def read(
    path: str | os.PathLike[str],
    /,
    *,
    key: str | None = None,
    **setup: Unpack[Setup],
) -> Scan4D:
    """Counts of one variable; axes are in the order of MATLAB's ``size``, whichever version wrote it.

    Patterns kept as ``(ky, kx, slow, fast)`` need ``permute: [2, 3, 0, 1]``, and ``(ky, kx, n)`` needs
    ``permute: [2, 0, 1]``.

    Args:
        path: the file.
        **setup: see `Setup`.
        key: the variable, ``group.field`` inside a structure; needed when several have three or four axes.

    Raises:
        BadInput: what is missing or does not fit.

    Example:
        >>> from scipy.io import savemat
        >>> savemat("scan.mat", {"dp": np.ones((8, 9, 6))})
        >>> knobs = dict(energy=80e3, angle=1e-3, step=0.4, grid=(2, 3))
        >>> read("scan.mat", permute=(2, 0, 1), **knobs).counts.shape
        (6, 8, 9)
    """
    path = require_file(path)
    file = _Version73File(path) if h5py.is_hdf5(path) else _Version5File(path)
    key = (key or file.find_stack()).replace(".", "/")
    return build_scan(path, file.open_variable(key), setup, key=key, read_member=file.read_variable)


class _Version73File:
    """Version 7.3: an HDF5 file whose axes are the other way round."""

    def __init__(self, path: Path):
        self.path = path

    def find_stack(self) -> str:
        """The one variable that can be patterns."""
        with open_hdf5(self.path) as file:
            found = {name: data for name, data in list_datasets(file).items() if not name.startswith("#")}
            return find_stack(found, self.path.name, "key")

    def open_variable(self, key: str) -> ReversedAxes:
        """A variable, to be read block by block."""
        with open_hdf5(self.path) as file:
            get_dataset(file, self.path, key)
            return ReversedAxes(HDF5Source.of(self.path, key))

    def read_variable(self, key: str) -> np.ndarray:
        """A variable."""
        with open_hdf5(self.path) as file:
            return np.asarray(get_dataset(file, self.path, key)[()]).T


def _list_scipy_errors() -> tuple[type[Exception], ...]:
    """What scipy raises for damaged files; the last of an array of a class that it does not know."""
    from scipy.io.matlab import MatReadError  # 0.1 s that other formats spare

    return (MatReadError, *READ_ERRORS, UnboundLocalError)


class _Version5File:
    """Version 5 and before: only the variables that are needed are loaded, in their own type."""

    def __init__(self, path: Path):
        from scipy.io import whosmat

        self.path = path
        require_known_tags(path)
        try:
            self.shapes = {name: shape for name, shape, _ in whosmat(path)}
        except _list_scipy_errors() as error:
            raise BadInput(path.name, None, "is not a whole MATLAB file: save it again") from error

    def find_stack(self) -> str:
        """The one variable that can be patterns."""
        stacks = [name for name, shape in self.shapes.items() if len(shape) in (3, 4)]
        return require_one_stack(stacks, self.path.name, "key")

    def read_variable(self, key: str) -> np.ndarray:
        """A variable, or a field of a structure."""
        from scipy.io import loadmat

        name, *fields = key.split("/")
        if name not in self.shapes:
            fix = f"is not in the file: {nearest(name, self.shapes)}"
            raise BadInput(f"{self.path.name}: {name}", None, fix)
        try:
            value: Any = loadmat(self.path, variable_names=[name], struct_as_record=True)[name]
            for field in fields:
                value = value[field].ravel()[0]
        except _list_scipy_errors() as error:
            fix = "cannot be read: save numbers with 'save -v7.3', and name fields as 'structure.field'"
            raise BadInput(f"{self.path.name}: {key}", None, fix) from error
        return value

    open_variable = read_variable
