"""Variables of a MATLAB file, version 5 or 7.3, with axes in MATLAB's order."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from phaseloom.data.formats.files import READ_ERRORS, open_hdf5
from phaseloom.data.formats.vendor.mat_tags import require_known_tags
from phaseloom.errors import BadInput

__all__ = ["read_variables"]


def read_variables(path: Path, /, *names: str) -> dict[str, Any]:
    """Those of some variables that a file holds, by dotted name: ``p.dx_spec`` is a field of ``p``.

    Numbers become arrays with MATLAB's axes, cells lists of them; what is empty is left out.

    Raises:
        BadInput: the file cannot be read.

    Example:
        >>> from scipy.io import savemat
        >>> savemat("v.mat", {"p": {"dx": 0.5}, "a": np.ones((2, 3, 4))})
        >>> found = read_variables(Path("v.mat"), "a", "p.dx", "b")
        >>> found["a"].shape, found["p.dx"], len(found)
        ((2, 3, 4), array([[0.5]]), 2)
    """
    if h5py.is_hdf5(path):
        with open_hdf5(path) as file:
            found = {name: _read_hdf5_variable(file, name) for name in names}
    else:
        found = _read_version5(path, names)
    return {name: value for name, value in found.items() if value is not None}


def _read_version5(path: Path, names: tuple[str, ...]) -> dict[str, Any]:
    from scipy.io import loadmat

    require_known_tags(path)
    try:
        roots = loadmat(path, variable_names=sorted({name.split(".")[0] for name in names}))
    except (UnboundLocalError, *READ_ERRORS) as error:
        raise BadInput(path.name, None, "cannot be read as a MATLAB file: copy it again") from error
    return {name: _follow_fields(roots, name.split(".")) for name in names}


def _follow_fields(value: Any, names: list[str]) -> Any:
    """Follow the fields of structures, which are arrays of one record."""
    for name in names:
        known = value if isinstance(value, dict) else (value.dtype.names or ())
        if name not in known or (not isinstance(value, dict) and value.size != 1):
            return None
        value = value[name] if isinstance(value, dict) else value[name].flat[0]
        if not isinstance(value, np.ndarray):
            return None
    if value.dtype == object:
        return [item for item in value.ravel("F") if isinstance(item, np.ndarray) and item.size]
    return value if value.size and value.dtype.kind in "iufc" else None


def _read_hdf5_variable(file: h5py.File, name: str) -> Any:
    member: Any = file.get(name.replace(".", "/"))
    if not isinstance(member, h5py.Dataset) or "MATLAB_empty" in member.attrs:
        return None
    if member.dtype == h5py.ref_dtype:
        items: list[Any] = [file[reference] for reference in np.ravel(member[()]) if reference]
        return [_to_matlab_axes(item) for item in items if "MATLAB_empty" not in item.attrs]
    return _to_matlab_axes(member)


def _to_matlab_axes(member: h5py.Dataset) -> np.ndarray | None:
    """An array with its axes back in MATLAB's order, complex where it is a pair of fields."""
    value: Any = np.asarray(member)
    if value.dtype.names == ("real", "imag"):
        value = value["real"] + 1j * value["imag"]
    return value.transpose() if value.dtype.kind in "iufc" else None
