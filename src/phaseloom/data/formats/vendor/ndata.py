"""Archives of Nion Swift, ``.ndata1``: a zip file of ``data.npy`` and ``metadata.json``."""

import logging
import os
import struct
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from phaseloom.data.formats.files import READ_ERRORS, require_file
from phaseloom.data.formats.header import About
from phaseloom.data.formats.kinds import KINDS, Tree, read_kind
from phaseloom.data.formats.setup import Setup, accept_setup
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput

__all__ = ["ABOUT", "knows", "read"]

ABOUT = About(
    files=".ndata1, .ndata of Nion Swift",
    reading="batch by batch where the archive is not compressed, else at once",
    states="energy, step, angle, dwell time, date",
    compared="nionswift 16.16 (by hand): equal",
)

log = logging.getLogger(__name__)

MEMBERS = ("data.npy", "metadata.json")
MAX_DOCUMENT_BYTES = 20_000_000
MAX_BYTES_IN_MEMORY = 16_000_000_000
"""A compressed array of more bytes is refused."""

LOCAL_HEADER = struct.Struct("<4s22xHH")


@dataclass(frozen=True)
class _Item:
    """An array with attributes, as `phaseloom.data.formats.kinds.tree.Tree` asks for them."""

    data: Any
    attrs: dict[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        return tuple(self.data.shape)

    @property
    def size(self) -> int:
        """Number of values."""
        return int(self.data.size)

    @property
    def dtype(self) -> np.dtype:
        """Of the values."""
        return self.data.dtype

    def __getitem__(self, block: Any, /) -> np.ndarray:
        """Read a block."""
        return np.asarray(self.data[block])


def knows(path: Path, /) -> bool:
    """Whether a file is a zip archive of these two members."""
    with path.open("rb") as stream:
        if stream.read(4) != b"PK\x03\x04":
            return False
    try:
        with zipfile.ZipFile(path) as archive:
            return set(MEMBERS) <= set(archive.namelist())
    except READ_ERRORS:
        return path.suffix.lower() in (".ndata1", ".ndata")


@accept_setup()
def read(path: str | os.PathLike[str], /, **setup: Unpack[Setup]) -> Scan4D:
    """Counts of an archive of Swift, with energy, step and angle as its HDF5 files state them.

    Args:
        path: the file.
        **setup: see `Setup`.

    Raises:
        MissingValues: what neither file nor user states.
        BadInput: no whole archive, or what does not fit.

    Example:
        >>> document = '{"dimensional_calibrations": [], "metadata": {"instrument": {"high_tension": 80000}}}'
        >>> np.save("data.npy", np.ones((2, 3, 8, 8), np.float32))
        >>> with zipfile.ZipFile("scan.ndata1", "w") as archive:
        ...     archive.write("data.npy")
        ...     archive.writestr("metadata.json", document)
        >>> read("scan.ndata1", angle=1e-3, step=0.4).geometry.energy.__round__()
        80000
    """
    path = require_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo("metadata.json").file_size > MAX_DOCUMENT_BYTES:
                raise BadInput(f"{path.name}: metadata.json", None, "is too large: export the scan again")
            document = archive.read("metadata.json").decode("utf-8", "replace")
            data = _open_array(path, archive)
    except READ_ERRORS as error:
        fix = "is not a whole archive of data.npy and metadata.json: export the scan again from Swift"
        raise BadInput(path.name, None, fix) from error
    kind = next(kind for kind in KINDS if kind.name == "nion")
    tree = Tree({"data": _Item(data, {"properties": document})}, path.name)
    return read_kind(path, tree, kind, setup)


def _open_array(path: Path, archive: zipfile.ZipFile) -> np.ndarray:
    """The array: mapped from the archive where it is stored as it is, else read."""
    info = archive.getinfo("data.npy")
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        read_header = getattr(np.lib.format, f"read_array_header_{version[0]}_{version[1]}")
        shape, fortran, dtype = read_header(stream)
        start = stream.tell()
    size = int(np.prod(shape)) * dtype.itemsize
    if dtype.hasobject or start + size > info.file_size:
        raise BadInput(f"{path.name}: data.npy", None, "is cut or holds objects: export the scan again")
    if info.compress_type == zipfile.ZIP_STORED:
        with path.open("rb") as stream:
            stream.seek(info.header_offset)
            mark, name_length, extra_length = LOCAL_HEADER.unpack(stream.read(LOCAL_HEADER.size))
        if mark != b"PK\x03\x04":
            raise BadInput(path.name, None, "is a damaged archive: export the scan again")
        offset = info.header_offset + LOCAL_HEADER.size + name_length + extra_length + start
        return np.memmap(path, dtype, "r", offset, shape, "F" if fortran else "C")
    if size > MAX_BYTES_IN_MEMORY:
        fix = "bytes of compressed data, too many to be read at once: export it without compression"
        raise BadInput(f"{path.name}: data.npy", f"has {size}", fix)
    with archive.open(info) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)
