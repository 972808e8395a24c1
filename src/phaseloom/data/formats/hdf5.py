"""Any HDF5 file: those of known kinds with what they state, others as bare patterns; read when asked for."""

import os
from pathlib import Path
from typing import Any, Unpack

import h5py
import numpy as np

from phaseloom.data.counts import HDF5Source
from phaseloom.data.formats.files import (
    decode_text,
    find_stack,
    get_dataset,
    has_hdf5_name_or_content,
    list_datasets,
    open_hdf5,
    require_file,
    require_filters,
)
from phaseloom.data.formats.header import About, Header
from phaseloom.data.formats.kinds import KINDS, Kind, Tree, find_kind, read_kind
from phaseloom.data.formats.quantities.beam_hints import find_beam_hints
from phaseloom.data.formats.quantities.unit_names import normalise
from phaseloom.data.formats.setup import Setup, accept_setup, build_scan
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput, nearest

__all__ = ["ABOUT", "KINDS", "choose_kind", "knows", "read"]

ABOUT = About(
    files=".h5 .hdf5 .nxs .emd .hspy .app5 .ptyd .nhdf ...",
    reading="batch by batch",
    states="what its kind does, see below; other files nothing",
    compared="h5py; by kind, see below",
)


def knows(path: Path, /) -> bool:
    """Whether a file is HDF5 (of no kind that was asked before), or MATLAB's of a kind that keeps more."""
    if path.suffix.lower() == ".mat" and path.is_file() and h5py.is_hdf5(path):
        with open_hdf5(path) as file:
            return find_kind(Tree(file, path.name), tuple(kind for kind in KINDS if kind.matlab)) is not None
    return has_hdf5_name_or_content(path)


@accept_setup()
def read(
    path: str | os.PathLike[str],
    /,
    *,
    dataset: str | None = None,
    kind: str = "auto",
    **setup: Unpack[Setup],
) -> Scan4D:
    """Counts ``(pattern, y, x)`` or ``(slow, fast, y, x)``, read lazily, with what the file states.

    Files of microscopes, facilities and programs are recognised by what is in them; the table of kinds is in
    docs/formats.md. A value that is not plausible is warned of, and asked for. Of other files, and with
    ``kind: none``, one data set is taken as it is.

    Args:
        path: the file.
        **setup: see `Setup`.
        dataset: path inside the file; needed when there are several of three or four axes.
        kind: name of the kind of file, ``auto`` or ``none``.

    Raises:
        MissingValues: what neither file nor user states.
        BadInput: what does not fit.

    Example:
        >>> with h5py.File("scan.h5", "w") as file:
        ...     file["frames"] = np.ones((2, 3, 8, 8), np.uint16)
        >>> read("scan.h5", energy=80e3, angle=1e-3, step=0.4).grid
        (2, 3)
    """
    path = require_file(path)
    with open_hdf5(path) as file:

        def read_member(name: str) -> np.ndarray:
            return np.asarray(get_dataset(file, path, name)[()])

        tree = Tree(file, path.name)
        found = choose_kind(tree, kind)
        if found is not None:
            return read_kind(path, tree, found, setup, dataset=dataset, read_member=read_member)
        if setup.get("positions_unit") is None:
            setup["positions_unit"] = _read_unit_of_positions(file, path.name, setup.get("positions"))
        key = dataset or find_stack(list_datasets(file), path.name, "dataset")
        data: Any = get_dataset(file, path, key)
        require_filters(data, path.name)
        header = Header(metadata={"original header": tree.describe()})
        source = HDF5Source.of(path, key)
        find_hints = lambda patterns: find_beam_hints(file, patterns)  # noqa: E731
        return build_scan(
            path, source, setup, key=key, read_member=read_member, header=header, find_hints=find_hints
        )


def _read_unit_of_positions(file: h5py.File, name: str, positions: Any) -> Any:
    """The unit that the data sets of positions state; nothing where they state none.

    Raises:
        BadInput: a unit that positions cannot have.
    """
    names = positions if isinstance(positions, (list, tuple)) else [positions]
    known: list[Any] = [file.get(one) for one in names if isinstance(one, str)]
    stated = {decode_text(one.attrs["units"]) for one in known if one is not None and "units" in one.attrs}
    if not stated:
        return None
    found = {POSITION_UNITS.get(normalise(one)) for one in stated}
    if len(found) == 1 and None not in found:
        return found.pop()
    fix = "is not one unit of length: write positions_unit"
    raise BadInput(f"{name}: units of positions", ", ".join(sorted(stated)), fix)


POSITION_UNITS = {"a": "A", "nm": "nm", "um": "um", "mm": "mm", "m": "m", "px": "px", "pixel": "px"}
POSITION_UNITS |= {"pixels": "px"}
"""Units of positions as settings have them, by their spelling in files."""


def choose_kind(tree: Tree, name: str = "auto", /) -> Kind | None:
    """The kind of a file: the one that is named, or the first whose marks it has; nothing for ``none``.

    Raises:
        BadInput: no kind has this name.
    """
    if name == "none":
        return None
    if name == "auto":
        return find_kind(tree, KINDS)
    found = next((kind for kind in KINDS if kind.name == name), None)
    if found is None:
        names = ["auto", "none", *(kind.name for kind in KINDS)]
        raise BadInput(f"{tree.name}: kind", name, f"is not a kind of file: {nearest(name, names)}")
    return found
