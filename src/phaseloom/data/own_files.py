"""Files that this package writes, told apart by what is in them, and the verbs that open each."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import h5py

__all__ = ["OwnFile", "Purpose", "identify", "identify_open_file", "purpose_of"]


class OwnFile(StrEnum):
    """Kinds of HDF5 files of ours."""

    SCAN = "scan"
    SAMPLE = "sample"
    SAMPLE_SET = "sample set"
    RESULT = "result"
    SNAPSHOT = "snapshot"
    DIRECT = "direct"
    VIRTUAL = "virtual"
    PREDICTION = "prediction"
    EMBEDDING = "embedding"
    EXPORT = "export"


@dataclass(frozen=True)
class Purpose:
    """What a kind of file is, and what to do with it: ends of sentences."""

    what: str
    use: str


_PURPOSES = {
    OwnFile.SCAN: Purpose("a scan of Phaseloom", "phaseloom look, direct, reconstruct and calibrate open it"),
    OwnFile.SAMPLE: Purpose(
        "a simulated scan", "phaseloom look, direct, reconstruct and calibrate open it, and train its folder"
    ),
    OwnFile.SAMPLE_SET: Purpose(
        "a set of simulated scans",
        "choose one with --set read='{simulated: {number: 0}}', or train its folder",
    ),
    OwnFile.RESULT: Purpose(
        "a reconstruction", "phaseloom look, compare, export and reconstruct (which repeats it) open it"
    ),
    OwnFile.SNAPSHOT: Purpose(
        "the state of a run", "continue it with phaseloom reconstruct --resume and the run's folder"
    ),
    OwnFile.DIRECT: Purpose("a direct image", "phaseloom export opens it; other verbs take the scan"),
    OwnFile.VIRTUAL: Purpose(
        "a set of virtual images", "phaseloom export opens it; other verbs take the scan"
    ),
    OwnFile.PREDICTION: Purpose(
        "a predicted phase",
        "phaseloom export opens it; other verbs take the scan, with object: predicted too",
    ),
    OwnFile.EMBEDDING: Purpose("an embedding", "phaseloom latents opens it"),
    OwnFile.EXPORT: Purpose(
        "an export for other programs", "give the result or the scan that it was made from"
    ),
}

_MARKS = {
    "phaseloom_result": OwnFile.RESULT,
    "phaseloom_snapshot": OwnFile.SNAPSHOT,
    "phaseloom_direct": OwnFile.DIRECT,
    "phaseloom_virtual": OwnFile.VIRTUAL,
    "phaseloom_prediction": OwnFile.PREDICTION,
    "phaseloom_embedding": OwnFile.EMBEDDING,
    "phaseloom_export": OwnFile.EXPORT,
}
"""Attributes of the root that a kind of file has."""


def purpose_of(kind: OwnFile, /) -> Purpose:
    """What a kind of file is for.

    Example:
        >>> purpose_of(OwnFile.SNAPSHOT).what
        'the state of a run'
    """
    return _PURPOSES[kind]


def identify(path: Path, /) -> OwnFile | None:
    """The kind of a file of ours; ``None`` for any other, also one that cannot be read.

    Example:
        >>> with h5py.File("one.h5", "w") as file:
        ...     file.attrs["phaseloom_direct"] = 1
        >>> identify(Path("one.h5"))
        <OwnFile.DIRECT: 'direct'>
    """
    try:
        with h5py.File(path) as file:
            return identify_open_file(file)
    except (OSError, RuntimeError, KeyError, ValueError):
        return None


def identify_open_file(file: h5py.File, /) -> OwnFile | None:
    """The same of a file that is open."""
    attributes: Any = file.attrs
    if attributes.get("phaseloom_format") in ("scan", b"scan"):
        return OwnFile.SCAN
    if attributes.get("format") in ("phaseloom sample", b"phaseloom sample"):
        return OwnFile.SAMPLE
    for mark, kind in _MARKS.items():
        if mark in attributes:
            return kind
    is_set = any(str(name).startswith("dp_set_") for name in file)
    return OwnFile.SAMPLE_SET if is_set else None
