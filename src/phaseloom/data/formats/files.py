"""Files from outside: what is wrong with one becomes one sentence with file and place."""

import lzma
import os
import re
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from phaseloom.data.growing.unfinished import open_shared_hdf5
from phaseloom.errors import BadInput, nearest
from phaseloom.files import whole_hdf5

__all__ = [
    "HDF5_SIGNATURE",
    "READ_ERRORS",
    "CheckedGroup",
    "create_hdf5",
    "decode_text",
    "describe_hdf5_error",
    "describe_link",
    "find_stack",
    "get_dataset",
    "has_hdf5_name_or_content",
    "list_datasets",
    "open_hdf5",
    "require_file",
    "require_file_or_store",
    "require_filters",
    "require_linked",
    "require_one_stack",
    "require_own_storage",
    "require_plain_targets",
]

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
"""The first bytes of an HDF5 file."""

HDF5_SUFFIXES = (".cxi", ".h5", ".hdf5", ".hdf", ".nxs", ".nx5", ".nhdf", ".emd", ".ptyd", ".hspy", ".app5")

READ_ERRORS = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    RuntimeError,
    SyntaxError,
    TypeError,
    AttributeError,
    ArithmeticError,
    NotImplementedError,
    AssertionError,
    zlib.error,
    struct.error,
    lzma.LZMAError,
    tokenize.TokenError,
    zipfile.BadZipFile,
)
"""What libraries raise when they read a damaged file; a `MemoryError` is not among them."""

MAX_VIRTUAL_DEPTH = 8
"""Virtual data sets of virtual data sets: a summary of a scan, of the parts of its detector."""

MAX_VIRTUAL_SOURCES = 64
"""Sources of a virtual data set that are looked into."""

MAX_NUMBERS = 50_000_000
"""Numbers of an array beside the patterns: more are not read, whatever a file declares."""

METRES_PER_UNIT = {"m": 1.0, "meter": 1.0, "metre": 1.0, "meters": 1.0, "metres": 1.0, "cm": 1e-2, "mm": 1e-3}
METRES_PER_UNIT |= {"um": 1e-6, "µm": 1e-6, "μm": 1e-6, "micron": 1e-6, "microns": 1e-6, "micrometer": 1e-6}
METRES_PER_UNIT |= {"nm": 1e-9, "nanometer": 1e-9, "a": 1e-10, "å": 1e-10, "angstrom": 1e-10}
METRES_PER_UNIT |= {"angstroms": 1e-10, "pm": 1e-12, "fm": 1e-15, "": 1.0}


def require_file(path: str | os.PathLike[str], /) -> Path:
    """The path of an existing file that holds something."""
    path = Path(path)
    if path.is_dir():
        raise BadInput(str(path), None, "is a folder: name a file in it")
    if not path.is_file():
        raise BadInput(str(path), None, "does not exist: check the path")
    if path.stat().st_size == 0:
        raise BadInput(str(path), None, "is empty: copy it again")
    return path


def require_file_or_store(path: str | os.PathLike[str], /) -> Path:
    """The path of an existing file, or of a folder that is a Zarr store."""
    if not isinstance(path, str | os.PathLike):
        raise BadInput("read", type(path).__name__, "is not a path: give the name of a file")
    path = Path(path)
    marks = ("zarr.json", ".zgroup", ".zarray", ".zmetadata")
    return path if any((path / mark).is_file() for mark in marks) else require_file(path)


def has_hdf5_name_or_content(path: Path, /) -> bool:
    """Whether a file is HDF5, or its name says so; MATLAB's are left to their own reader."""
    if not path.is_file() or path.suffix.lower() == ".mat":
        return False
    if path.suffix.lower() in HDF5_SUFFIXES:
        return True
    with path.open("rb") as file:
        return file.read(len(HDF5_SIGNATURE)) == HDF5_SIGNATURE


def list_datasets(file: h5py.File, /) -> dict[str, h5py.Dataset]:
    """Every data set of a file by its path."""
    found: dict[str, h5py.Dataset] = {}

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item

    file.visititems(visit)
    return found


def get_dataset(file: h5py.File, path: Path, name: str, /) -> Any:
    """A data set of numbers by its path."""
    tree = CheckedGroup(file, path.name)
    if tree.find(name) is None:
        raise BadInput(f"{path.name}: {name}", None, f"is not a data set: {_list_numeric(file, name)}")
    found: Any = file[name]
    if found.dtype.kind not in "iufbc":
        raise BadInput(f"{path.name}: {name}", None, f"is not numeric: {_list_numeric(file, name)}")
    return tree.dataset(name)


def _list_numeric(file: h5py.File, name: str) -> str:
    """A sentence's end that offers the data sets of numbers in a group of a file, or in all of it."""
    numeric = [key for key, data in list_datasets(file).items() if data.shape and data.dtype.kind in "iufbc"]
    inside = [key for key in numeric if key.startswith(name.strip("/") + "/")]
    if len(inside) == 1:
        return f"did you mean {inside[0]!r}?"
    return nearest(name, inside or numeric) if numeric else "the file holds no array of numbers"


def find_stack(arrays: Mapping[str, Any], name: str, knob: str, /) -> str:
    """The one array of three or four axes among several, for which ``knob`` need not be given.

    Where there is none, one of more axes: of a series of scans a selection makes one.
    """
    numbers = {k: len(v.shape or ()) for k, v in arrays.items() if v.dtype.kind in "iufb"}
    stacks = [k for k, axes in numbers.items() if axes in (3, 4)]
    return require_one_stack(stacks or [k for k, axes in numbers.items() if axes > 4], name, knob)


def require_one_stack(stacks: list[str], name: str, knob: str, /) -> str:
    """The only name of a list."""
    if not stacks:
        raise BadInput(name, None, f"holds no array of three or four axes: name one of others with {knob}")
    if len(stacks) > 1:
        raise BadInput(name, None, f"holds several stacks: name one with {knob}: {', '.join(stacks[:8])}")
    return stacks[0]


def describe_link(group: h5py.Group, path: str, /) -> str:
    """What a soft or external link points to, for messages."""
    link: Any = group.get(path, getlink=True)
    if isinstance(link, h5py.ExternalLink):
        return f"{link.path} in {link.filename}"
    return link.path if isinstance(link, h5py.SoftLink) else path


def require_linked(group: h5py.Group, path: str, file: str, /) -> None:
    """Refuse a link, on the way to a member, to something that is not there.

    Raises:
        BadInput: the link, and what it points to.
    """
    require_plain_targets(group, path, file)
    parts = path.strip("/").split("/")
    for end in range(1, len(parts) + 1):
        above = "/".join(parts[:end])
        try:
            link = group.get(above, getlink=True)
            there = link is None or group.get(above) is not None
        except READ_ERRORS:
            link, there = None, True
        if link is None:
            return
        if not there and isinstance(link, (h5py.SoftLink, h5py.ExternalLink)):
            fix = f"is a link to {describe_link(group, above)}, which is missing here: copy that file too"
            raise BadInput(f"{file}: {above}", None, fix)


def require_plain_targets(group: h5py.Group, path: str, file: str, /) -> None:
    """Refuse a link, on the way to a member, to a pipe or a device, whose end HDF5 would wait for.

    Raises:
        BadInput: the link, and what it points to.
    """
    parts = path.strip("/").split("/")
    for end in range(1, len(parts) + 1):
        above = "/".join(parts[:end])
        try:
            link = group.get(above, getlink=True)
        except READ_ERRORS:
            return
        if not isinstance(link, h5py.ExternalLink):
            continue
        target = Path(group.file.filename).parent / link.filename
        if target.exists() and not target.is_file():
            fix = f"is a link to {link.filename}, which is no file: give the file itself"
            raise BadInput(f"{file}: {above}", None, fix)


def require_own_storage(data: h5py.Dataset, place: str, /) -> None:
    """Refuse numbers that are bytes of any other file (external raw storage).

    Raises:
        BadInput: the other file.
    """
    if data.shape is not None and data.external:
        fix = f"keeps its numbers in {data.external[0][0]}, which is not HDF5: read that file as raw"
        raise BadInput(place, None, fix)
    if data.is_virtual:
        _require_sources(data, place)


def _require_sources(data: h5py.Dataset, place: str) -> None:
    """Refuse a virtual data set of which a file is missing: HDF5 reads zeros in its place."""
    folder = Path(data.file.filename).parent
    names = {one.file_name for one in data.virtual_sources()}
    lost = sorted(name for name in names if name != "." and "%" not in name and not (folder / name).exists())
    if lost:
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        fix = f"has patterns in {lost[0]}{more}, not there: put the files into the same folder"
        raise BadInput(place, None, fix)
    if _is_made_of_itself(data, frozenset()):
        raise BadInput(place, None, "is a virtual data set made of itself: write the file again")


def _is_made_of_itself(data: h5py.Dataset, above: frozenset[tuple[str, str]]) -> bool:
    """Whether a virtual data set leads back to itself through its sources, which HDF5 follows without end."""
    here = (os.path.realpath(data.file.filename), str(data.name))
    if here in above or len(above) > MAX_VIRTUAL_DEPTH:
        return True
    sources = sorted({(one.file_name, one.dset_name) for one in data.virtual_sources()})
    return any(
        _leads_back(data.file, file, name, above | {here}) for file, name in sources[:MAX_VIRTUAL_SOURCES]
    )


def _leads_back(above_file: h5py.File, file: str, name: str, above: frozenset[tuple[str, str]]) -> bool:
    """The same of one source, if it is a virtual data set too."""
    path = Path(above_file.filename).parent / file
    is_here = file == "." or os.path.realpath(path) == os.path.realpath(above_file.filename)
    if not is_here and not path.is_file():
        return False
    with nullcontext(above_file) if is_here else h5py.File(path) as opened:
        data = opened.get(name)
        return isinstance(data, h5py.Dataset) and data.is_virtual and _is_made_of_itself(data, above)


def require_filters(data: h5py.Dataset, file: str, /) -> None:
    """Refuse numbers that are compressed by a filter that is not installed.

    Raises:
        BadInput: how to install it.
    """
    properties = data.id.get_create_plist()
    codes = [properties.get_filter(number)[0] for number in range(properties.get_nfilters())]
    if not all(h5py.h5z.filter_avail(code) for code in codes):
        fix = "is compressed by a filter that is missing here: pip install 'phaseloom[formats]'"
        raise BadInput(f"{file}: {data.name}", None, fix)


@contextmanager
def open_hdf5(path: Path, /) -> Iterator[h5py.File]:
    """An HDF5 file for reading; whatever is wrong with it becomes one sentence."""
    with suppress(ImportError):
        __import__("hdf5plugin")
    path = require_file(path)
    try:
        with open_shared_hdf5(path) as file:
            yield file
    except BadInput:
        raise
    except READ_ERRORS as error:
        raise BadInput(path.name, None, _diagnosis(path, error)) from error


def describe_hdf5_error(error: Exception, /) -> str:
    """What HDF5 found wrong, without the call that found it.

    Example:
        >>> describe_hdf5_error(OSError("Can't synchronously read data (inflate() failed)"))
        'inflate() failed'
    """
    text = " ".join(str(error).split())
    inner = re.search(r"\((.*)\)$", text)
    return (inner[1] if inner else text.replace("synchronously ", ""))[:120]


def _diagnosis(path: Path, error: Exception) -> str:
    text = " ".join(str(error).split())
    with path.open("rb") as stream:
        start = stream.read(len(HDF5_SIGNATURE))
    if start != HDF5_SIGNATURE and not h5py.is_hdf5(path):
        return "is not an HDF5 file in spite of its name: choose another format"
    if "filter" in text:
        return "is compressed by a filter that is missing here: pip install 'phaseloom[formats]'"
    if "truncated" in text:
        return "is truncated: copy it again"
    return f"cannot be read ({describe_hdf5_error(error)}): copy it again"


@contextmanager
def create_hdf5(path: str | os.PathLike[str], /) -> Iterator[h5py.File]:
    """An HDF5 file written under a temporary name and renamed when it is whole."""
    path = Path(path)
    if path.is_dir() or not path.parent.is_dir():
        raise BadInput(str(path), None, "cannot be written: name a file in an existing folder")
    with whole_hdf5(path, stream=True) as file:
        yield file


@dataclass(frozen=True)
class CheckedGroup:
    """A group of an HDF5 file whose values are read with units and checked."""

    group: h5py.Group
    file: str

    def place(self, name: str) -> str:
        """File and path of a member, for messages."""
        return f"{self.file}: {(self.group.name or '').rstrip('/')}/{name}"

    def find(self, *names: str, strict: bool = True) -> str | None:
        """The first of some names that exists as a data set.

        Raises:
            BadInput: with ``strict``, a link to something that is not there.
        """
        found = next((n for n in names if isinstance(self.group.get(n), h5py.Dataset)), None)
        if found is None and strict:
            for name in names:
                require_linked(self.group, name, self.file)
        return found

    def first(self, *names: str) -> "CheckedGroup | None":
        """The first of some names that exists as a group.

        Raises:
            BadInput: a link to something that is not there.
        """
        found = next((g for n in names if isinstance(g := self.group.get(n), h5py.Group)), None)
        if found is None:
            for name in names:
                require_linked(self.group, name, self.file)
        return None if found is None else CheckedGroup(found, self.file)

    def dataset(self, name: str) -> h5py.Dataset:
        """A data set of numbers."""
        data: Any = self.group[name]
        if data.shape is None or data.dtype.kind not in "iufbc":
            raise BadInput(self.place(name), _value(data), "is not numeric: store numbers")
        require_own_storage(data, self.place(name))
        return data

    def array(self, name: str) -> np.ndarray:
        """A data set of real numbers as float64."""
        data = self.dataset(name)
        if data.dtype.kind == "c":
            raise BadInput(self.place(name), "complex data", "cannot be used here: store real numbers")
        if (data.size or 0) > MAX_NUMBERS:
            fix = f"is not plausible here: at most {MAX_NUMBERS} numbers are read"
            raise BadInput(self.place(name), f"shape {data.shape}", fix)
        return np.asarray(data[()], np.float64)

    def lengths(self, name: str) -> np.ndarray:
        """Lengths in metres; a ``units`` attribute is honoured."""
        return self.array(name) * self._factor(name, METRES_PER_UNIT)

    def scalar(self, name: str) -> float:
        """One finite number, however it is wrapped."""
        values = np.unique(self.array(name).ravel())
        if values.size != 1 or not np.isfinite(values[0]):
            shown = f"{values.size} values" if values.size != 1 else float(values[0])
            raise BadInput(self.place(name), shown, "must be one finite number")
        return float(values[0])

    def length(self, name: str) -> float:
        """One positive length in metres."""
        value = self.scalar(name)
        if value <= 0:
            raise BadInput(self.place(name), value, "must be positive: store metres")
        return value * self._factor(name, METRES_PER_UNIT)

    def unit(self, name: str) -> str:
        """The ``units`` attribute, or an empty text."""
        unit = self.group[name].attrs.get("units", "")
        return decode_text(unit).strip()

    def text(self, name: str) -> str | None:
        """Text however it is stored: bytes, variable length, arrays of one."""
        found = self.find(name)
        return None if found is None else decode_text(np.asarray(self.group[found]))

    def _factor(self, name: str, table: dict[str, float]) -> float:
        unit = self.unit(name)
        if unit.lower() not in table:
            raise BadInput(self.place(name), unit, "is not a unit of length: write units = 'm'")
        return table[unit.lower()]


def decode_text(value: Any) -> str:
    """Any stored text as a plain string.

    Example:
        >>> decode_text(np.array([b"Siemens star"]))
        'Siemens star'
    """
    first = next(iter(np.ravel(np.asarray(value, object)).tolist()), "")
    return first.decode("utf-8", "replace") if isinstance(first, bytes) else str(first)


def _value(data: h5py.Dataset) -> object:
    if data.shape is None or data.size != 1 or data.dtype.kind not in "SOU":
        return f"{data.dtype} data"
    return decode_text(data[()])
