"""What is in a folder: every file that a verb can open, in a line each, and why others cannot be opened.

Files are not read whole: their headers are, and for thumbnails at most `MAX_BYTES_FOR_THUMBNAILS` of
patterns. Of formats that cannot be read in parts, files above `MAX_BYTES_READ_WHOLE` are left closed.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from phaseloom.data import formats
from phaseloom.data.counts import split_indices
from phaseloom.data.formats.files import READ_ERRORS, find_stack, list_datasets, open_hdf5
from phaseloom.data.formats.header import MissingValues
from phaseloom.data.formats.vendor import raw_csr
from phaseloom.data.formats.vendor.companions import find_companions
from phaseloom.data.known_files import KnownFile, identify, purpose_of
from phaseloom.data.own_files.members import Member, read_member
from phaseloom.data.remarks import silence_remarks
from phaseloom.data.scan import Scan4D
from phaseloom.data.signals import choose_patterns, scan_steps
from phaseloom.errors import BadInput

__all__ = ["FileFacts", "Thumbnails", "is_store", "survey_file", "survey_folder"]

MAX_DEPTH = 4
MAX_FILES = 500
MAX_BYTES_FOR_THUMBNAILS = 64_000_000
MAX_PATTERNS_FOR_THUMBNAILS = 1024
MAX_BYTES_READ_WHOLE = 300_000_000
"""Of a file whose format is read at once; of larger ones only name and size are told."""

STORE_MARKS = ("zarr.json", ".zgroup", ".zarray", ".zmetadata")

IGNORED_ENDINGS = {".png", ".jpg", ".jpeg", ".pdf", ".svg", ".txt", ".md", ".log", ".csv", ".json", ".jsonl"}
IGNORED_ENDINGS |= {".yaml", ".yml", ".py", ".pyc", ".sh", ".lock", ".html", ".part", ".toml", ".ipynb", ""}
"""Pictures, tables, texts and side-cars: not listed."""

LAZY_FORMATS = {"native", "hdf5", "npy", "raw", "tif", "zarr", "cxi"}
LAZY_FORMATS |= {"merlin", "empad", "blockfile", "tvips", "seq", "frms6", "raw_csr", "rosettasciio"}
"""Formats that leave patterns in their file; ``mat`` of version 7.3 too, which is HDF5."""

ASSUMED = {
    "energy": 80e3,
    "angle": 1e-3,
    "step": 1.0,
    "distance": 1e10,
    "detector_pixel": 1e6,
    "beam": "photon",
}
"""Stand-ins for what is missing, by which the rest of a file is read; they are named as missing."""


@dataclass(frozen=True, eq=False)
class Thumbnails:
    """Two small pictures of a file; ``None``: there is none.

    Attributes:
        pattern: mean of some patterns ``(y, x)``.
        image: counts of some patterns over the scan, or the phase of a result.
    """

    pattern: np.ndarray | None = None
    image: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class FileFacts:
    """A file in a line.

    Attributes:
        path: of the file.
        format: name of the reader, or the kind of a file of ours; empty: not known.
        size: bytes.
        shape: of the patterns ``(slow, fast, y, x)`` or ``(n, y, x)``; of a result that of the object.
        dtype: of the values as stored.
        beam: ``electron`` or ``photon``; empty: not known.
        energy: eV; ``None``: not known.
        step: (slow, fast) of a raster, or the pixel of an image, angstrom; ``None``: not known.
        note: what is missing, or why it cannot be opened.
        is_open: whether a verb opens it as it is.
        thumbnails: see there.
    """

    path: Path
    format: str = ""
    size: int = 0
    shape: tuple[int, ...] = ()
    dtype: str = ""
    beam: str = ""
    energy: float | None = None
    step: tuple[float, float] | None = None
    note: str = ""
    is_open: bool = False
    thumbnails: Thumbnails = Thumbnails()


def survey_folder(
    folder: str | os.PathLike[str],
    /,
    *,
    depth: int = MAX_DEPTH,
    most: int = MAX_FILES,
    thumbnails: bool = False,
) -> Iterator[FileFacts]:
    """Every file of a folder that may hold data, one after the other; a damaged one does not stop it.

    Links to folders are not followed. Zarr stores count as files; files that are read together with another
    (`phaseloom.data.formats.vendor.companions`) are not listed.

    Args:
        folder: to look into.
        depth: folders below each other.
        most: files that are looked at; further ones are left out.
        thumbnails: whether to read small pictures.

    Raises:
        BadInput: not a folder.

    Example:
        >>> np.save("a.npy", np.ones((2, 3, 8, 8), np.uint16))
        >>> [(one.format, one.shape, one.note) for one in survey_folder(".")]
        [('npy', (2, 3, 8, 8), 'missing: energy, angle or pixel, step')]
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BadInput("look", str(folder), "is not a folder: give one, or a file")
    for number, path in enumerate(_iterate_files(folder, depth)):
        if number >= most:
            return
        yield survey_file(path, thumbnails=thumbnails)


def is_store(path: Path, /) -> bool:
    """Whether a folder is a Zarr store, which is read like a file."""
    return any((path / mark).is_file() for mark in STORE_MARKS)


def _iterate_files(folder: Path, depth: int) -> Iterator[Path]:
    """Files that may hold data, in the order of their names; below ``depth`` folders nothing."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    companions = find_companions([Path(entry.path) for entry in entries if _is_plain_file(Path(entry.path))])
    for entry in entries:
        path = Path(entry.path)
        if entry.name.startswith(".") or path in companions:
            continue
        if entry.is_dir(follow_symlinks=False):
            if is_store(path):
                yield path
            elif depth > 1:
                yield from _iterate_files(path, depth - 1)
        elif _is_plain_file(path) and (path.suffix.lower() not in IGNORED_ENDINGS or raw_csr.knows(path)):
            yield path


def _is_plain_file(path: Path) -> bool:
    """Whether it is a file, or a link to one; pipes and devices are not opened."""
    try:
        return path.is_file()
    except OSError:
        return False


def survey_file(path: Path, /, *, thumbnails: bool = False) -> FileFacts:
    """One file in a line; whatever is wrong with it becomes its note."""
    facts = FileFacts(path, size=_size_of(path))
    try:
        with silence_remarks():
            kind = None if path.is_dir() else identify(path)
            if kind in (None, KnownFile.SCAN, KnownFile.SAMPLE, KnownFile.SAMPLE_SET):
                return _survey_data(facts, thumbnails)
            return _survey_known(facts, kind, thumbnails)
    except BadInput as problem:
        return replace(facts, note=_shorten(problem, path))
    except Exception as problem:  # whatever a damaged file makes of a reader: the list goes on
        return replace(facts, note=_shorten(f"cannot be read ({type(problem).__name__}: {problem})", path))


def _size_of(path: Path) -> int:
    try:
        if path.is_dir():
            return sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file())
        return path.stat().st_size
    except OSError:
        return 0


def _shorten(problem: object, path: Path) -> str:
    """A sentence without the name of its file, in one line."""
    text = " ".join(str(problem).split())
    for name in (str(path), path.name):
        text = text.removeprefix(f"{name}: ")
    return text if len(text) <= 160 else f"{text[:157]}..."


def _survey_data(facts: FileFacts, thumbnails: bool) -> FileFacts:
    """Facts of a file of patterns; what it does not say is assumed, and named as missing."""
    name = formats.guess(facts.path)
    facts = replace(facts, format=name)
    lazy = name in LAZY_FORMATS or (not facts.path.is_dir() and h5py.is_hdf5(facts.path))
    if not lazy and facts.size > MAX_BYTES_READ_WHOLE:
        return replace(facts, note="is read at once, so it was left out of this list: look at it by itself")
    knobs: dict[str, Any] = {}
    missing: list[str] = []
    while True:
        try:
            scan = formats.read(facts.path, format=name, knobs=knobs, lazy=True)
            break
        except MissingValues as problem:
            lacking = list(problem.missing)
            missing += ["angle or pixel" if one == "angle" else one for one in lacking]
            if any(one in knobs or one not in ASSUMED for one in lacking):
                note = f"missing: {', '.join(missing)}"
                return replace(facts, note=note, **_peek_shape(facts.path, name))
            knobs |= {one: ASSUMED[one] for one in lacking}
        except BadInput as problem:
            note = _shorten(problem, facts.path)
            note = f"missing: {', '.join(missing)}; then: {note}" if missing else note
            return replace(facts, note=note, **_peek_shape(facts.path, name))
    facts = _describe_scan(facts, scan, missing)
    return replace(facts, thumbnails=_draw_scan(scan)) if thumbnails else facts


def _describe_scan(facts: FileFacts, scan: Scan4D, missing: list[str]) -> FileFacts:
    shape = (len(scan), *scan.geometry.shape)
    known = "energy" not in missing
    notes = [f"missing: {', '.join(missing)}"] if missing else []
    notes += [_shorten(one, facts.path) for one in scan.metadata.get("remarks", "").splitlines()]
    return replace(
        facts,
        shape=shape if scan.grid is None else (*scan.grid, *shape[1:]),
        dtype=str(scan.counts.dtype),
        beam=scan.geometry.beam if known else "",
        energy=scan.geometry.energy if known else None,
        step=None if scan.grid is None or "step" in missing else scan_steps(scan.positions, scan.grid),
        note="; ".join(notes),
        is_open=not missing,
    )


def _peek_shape(path: Path, name: str) -> dict[str, Any]:
    """Shape and type of the stack of a file that could not be read as a scan."""
    try:
        if name == "npy":
            stored: Any = np.load(path, mmap_mode="r", allow_pickle=False)
            return {"shape": stored.shape, "dtype": str(stored.dtype)}
        if h5py.is_hdf5(path):
            with h5py.File(path) as file:
                found = list_datasets(file)
                stored = found[find_stack(found, path.name, "dataset")]
                return {"shape": tuple(stored.shape), "dtype": str(stored.dtype)}
    except (BadInput, *READ_ERRORS):
        pass
    return {}


def _draw_scan(scan: Scan4D) -> Thumbnails:
    """Mean pattern and counts over the scan of evenly chosen patterns."""
    size = math.prod(scan.geometry.shape) * scan.counts.dtype.itemsize
    most = max(1, min(MAX_PATTERNS_FOR_THUMBNAILS, MAX_BYTES_FOR_THUMBNAILS // max(size, 1)))
    index, shape = choose_patterns(scan, most)
    total = np.zeros(scan.geometry.shape)
    sums = []
    for some in split_indices(scan.counts, index):
        part = np.asarray(scan.counts[some], np.float64)
        part = np.where(np.isfinite(part) & scan.mask, part, 0.0)
        total += part.sum(0)
        sums.append(part.sum((1, 2)))
    return Thumbnails(total / len(index), None if shape is None else np.concatenate(sums).reshape(shape))


def _survey_known(facts: FileFacts, kind: KnownFile, thumbnails: bool) -> FileFacts:
    """Facts of a result or another file of ours; the note says which verb opens it."""
    purpose = purpose_of(kind)
    facts = replace(facts, format=str(kind), note=purpose.use, is_open=kind in OPENED)
    with open_hdf5(facts.path) as file:
        place = next((name for name in ("object", "phase", "images/BF") if name in file), None)
        if place is not None and isinstance(stored := file[place], h5py.Dataset):
            facts = replace(facts, shape=tuple(stored.shape or ()), dtype=str(stored.dtype))
        facts = replace(facts, **_read_beam(file))
        image = _read_image(file) if thumbnails else None
    return facts if image is None else replace(facts, thumbnails=Thumbnails(image=image))


OPENED = (KnownFile.RESULT, KnownFile.DIRECT, KnownFile.VIRTUAL, KnownFile.PREDICTION)


def _read_beam(file: h5py.File) -> dict[str, Any]:
    """Beam, energy and pixel of a result, or of the images that keep their scan's."""
    found: dict[str, Any] = {}
    file_name = Path(file.filename).name
    for name in ("geometry", "beam"):
        if not isinstance(file.get(name), h5py.Dataset):
            continue
        table = read_member(file, Member(name, "json", form=dict[str, Any]), file_name)
        found["beam"] = str(table.get("beam", ""))
        if isinstance(table.get("energy"), int | float):
            found["energy"] = float(table["energy"])
    name = "entry/instrument/beam/incident_energy"
    energy = read_member(file, Member(name, "real", positive=True, optional=True), file_name)
    if energy is not None:
        found["energy"] = float(energy)
    name = "@pixel" if "pixel" in file.attrs else "pixel"
    pixel = read_member(file, Member(name, "real", "2", positive=True, optional=True), file_name)
    if pixel is not None:
        height, width = pixel.astype(float).tolist()
        found["step"] = (height, width)
    return found


def _read_image(file: h5py.File) -> np.ndarray | None:
    """The phase that a file shows first, if it is small enough."""
    for name in ("entry/phase/phase", "phase"):
        stored: Any = file.get(name)
        if isinstance(stored, h5py.Dataset) and stored.ndim == 2 and stored.nbytes < MAX_BYTES_FOR_THUMBNAILS:
            return np.asarray(stored, np.float64)
    return None
