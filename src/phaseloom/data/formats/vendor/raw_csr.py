"""Sparse patterns as LiberTEM writes them: a ``.toml`` that names three files of compressed sparse rows.

``[params]`` has ``filetype = "raw_csr"``, ``nav_shape`` and ``sig_shape``; ``[raw_csr]`` has ``indptr_file``,
``indices_file``, ``data_file`` and the dtype of each (``indptr_dtype = "<i4"``).
"""

import logging
import math
import os
import tomllib
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from phaseloom.data.counts import FileNumbers, SparseSource
from phaseloom.data.formats.files import require_file
from phaseloom.data.formats.header import About, Header
from phaseloom.data.formats.setup import Setup, accept_setup, build_scan
from phaseloom.data.remarks import warn
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput

__all__ = ["ABOUT", "knows", "list_files", "read"]

ABOUT = About(
    files=".toml and its three files",
    reading="batch by batch, dense when read",
    states="raster",
    compared="LiberTEM 0.16 (by hand): equal",
)

log = logging.getLogger(__name__)

MAX_TOML_BYTES = 1_000_000
MAX_PIXELS = 1 << 22


def knows(path: Path, /) -> bool:
    """Whether a ``.toml`` has a table ``raw_csr``."""
    if path.suffix.lower() != ".toml" or not path.is_file():
        return False
    with path.open("rb") as stream:
        return b"raw_csr" in stream.read(MAX_TOML_BYTES)


def list_files(path: Path, /) -> list[Path]:
    """A ``.toml`` and the files that it names; itself alone where it is of another kind.

    Raises:
        BadInput: not a TOML file.
    """
    if not knows(path):
        return [path]
    _, tree = _read_toml(path)
    names = [tree.get(f"{name}_file") for name in ("indptr", "indices", "data")]
    return [path, *(path.parent / name for name in names if isinstance(name, str))]


@accept_setup()
def read(path: str | os.PathLike[str], /, **setup: Unpack[Setup]) -> Scan4D:
    """Counts of sparse patterns, read from their three files when they are asked for.

    Args:
        path: the ``.toml``; the files lie in its folder.
        **setup: see `Setup`.

    Raises:
        BadInput: what is missing or does not fit.

    Example:
        >>> _ = Path("a.toml").write_text('''
        ... [params]
        ... filetype = "raw_csr"
        ... nav_shape = [2, 2]
        ... sig_shape = [1, 3]
        ... [raw_csr]
        ... indptr_file = "rows"
        ... indptr_dtype = "<i4"
        ... indices_file = "pixels"
        ... indices_dtype = "<i4"
        ... data_file = "values"
        ... data_dtype = "u1"
        ... ''')
        >>> np.array([0, 1, 1, 2, 3], "<i4").tofile("rows")
        >>> np.array([2, 0, 1], "<i4").tofile("pixels")
        >>> np.array([7, 8, 9], "u1").tofile("values")
        >>> read("a.toml", energy=2e5, angle=1e-3, step=1.0).counts[0].tolist()
        [[0, 0, 7]]
    """
    path = require_file(path)
    text, tree = _read_toml(path)
    lead, pixels = (_shape(path, tree, name) for name in ("nav_shape", "sig_shape"))
    if len(pixels) != 2 or math.prod(pixels) > MAX_PIXELS:
        fix = f"must be [y, x], of {MAX_PIXELS} pixels at most"
        raise BadInput(f"{path.name}: sig_shape", list(pixels), fix)
    lead = setup.pop("grid", None) or lead
    starts, indices, values = (_open(path, tree, name) for name in ("indptr", "indices", "data"))
    indptr = _read_starts(path, starts, min(len(indices), len(values)))
    lead = _cut(path, lead, len(indptr) - 1)
    dtype = values.dtype.newbyteorder("=")
    source = SparseSource(indptr, indices, values, lead, (pixels[0], pixels[1]), dtype)
    header = Header(metadata={"detector": "sparse counts (raw_csr)", "original header": text})
    return build_scan(path, source, setup, header=header)


def _read_toml(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        text = path.read_bytes()[:MAX_TOML_BYTES].decode("utf-8")
        tree = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(path.name, None, "is not a TOML file: copy it again") from error
    params, table = tree.get("params"), tree.get("raw_csr")
    if not isinstance(params, dict) or not isinstance(table, dict):
        raise BadInput(path.name, None, "lacks the tables [params] and [raw_csr]: choose another format")
    return text, params | table


def _shape(path: Path, tree: dict[str, Any], name: str) -> tuple[int, ...]:
    value = tree.get(name)
    good = isinstance(value, list) and 1 <= len(value) <= 2
    if not good or not all(type(n) is int and 1 <= n <= 1 << 24 for n in value or []):
        raise BadInput(f"{path.name}: {name}", value, "must be one or two positive whole numbers")
    return tuple(value or ())


def _open(path: Path, tree: dict[str, Any], name: str) -> FileNumbers:
    """One of the three files, which must lie in the folder of the ``.toml``."""
    file, kind = tree.get(f"{name}_file"), tree.get(f"{name}_dtype")
    place = f"{path.name}: {name}_file"
    if not isinstance(file, str) or Path(file).is_absolute() or ".." in Path(file).parts:
        raise BadInput(place, file, "is not the name of a file in this folder: put it there")
    try:
        dtype = np.dtype(kind)
    except (TypeError, ValueError, SyntaxError) as error:
        raise BadInput(
            f"{path.name}: {name}_dtype", kind, "is not a type: write for example '<i4'"
        ) from error
    if not isinstance(kind, str) or dtype.kind not in ("iu" if name != "data" else "iuf"):
        raise BadInput(f"{path.name}: {name}_dtype", kind, "cannot be used here: write for example '<i4'")
    beside = require_file(path.parent / file)
    return FileNumbers(beside, dtype, beside.stat().st_size // dtype.itemsize)


def _read_starts(path: Path, starts: FileNumbers, hits: int) -> np.ndarray:
    """Where patterns begin, as far as their hits are in the files."""
    indptr = starts[:].astype(np.int64)
    if len(indptr) < 2 or indptr[0] != 0 or (np.diff(indptr) < 0).any():
        fix = "must begin with 0 and grow: the file is damaged, copy it again"
        raise BadInput(f"{path.name}: {starts.path.name}", None, fix)
    whole = int(np.searchsorted(indptr, hits, side="right"))
    if whole < len(indptr):
        text = "%s: the hits of the last %d patterns are not in the files: they were left out"
        warn(log, text, path.name, len(indptr) - whole)
    if whole < 2:
        raise BadInput(path.name, None, "holds no whole pattern: copy its files again")
    return indptr[:whole]


def _cut(path: Path, lead: tuple[int, ...], count: int) -> tuple[int, ...]:
    """A raster of the whole rows that are there."""
    if math.prod(lead) <= count:
        return lead
    rows = count // math.prod(lead[1:])
    if not rows:
        fix = f"needs rows of {lead[-1]} patterns, but there are {count}: give another grid"
        raise BadInput(f"{path.name}: nav_shape", list(lead), fix)
    text = "%s: holds %d patterns, less than the raster %s: %d whole rows are used (interrupted scan?)"
    warn(log, text, path.name, count, "x".join(map(str, lead)), rows)
    return (rows, *lead[1:])
