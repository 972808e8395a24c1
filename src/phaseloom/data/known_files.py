"""Files that this package writes, and models of others, told apart by what is in them."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from phaseloom.data.growing.unfinished import open_shared_hdf5
from phaseloom.data.scan import Scan4D

__all__ = ["KnownFile", "Purpose", "describe_scan", "identify", "identify_open_file", "purpose_of"]


class KnownFile(StrEnum):
    """Kinds of HDF5 files, ours and reconstructions of others."""

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
    MODEL = "model"


@dataclass(frozen=True)
class Purpose:
    """What a kind of file is, and what to do with it: ends of sentences."""

    what: str
    use: str


_PURPOSES = {
    KnownFile.SCAN: Purpose(
        "a scan of Phaseloom", "phaseloom look, direct, reconstruct and calibrate open it"
    ),
    KnownFile.SAMPLE: Purpose(
        "a simulated scan", "phaseloom look, direct, reconstruct and calibrate open it, and train its folder"
    ),
    KnownFile.SAMPLE_SET: Purpose(
        "a set of simulated scans",
        "choose one with --set read='{simulated: {number: 0}}', or train its folder",
    ),
    KnownFile.RESULT: Purpose(
        "a reconstruction", "phaseloom look, compare, export and reconstruct (which repeats it) open it"
    ),
    KnownFile.SNAPSHOT: Purpose(
        "the state of a run", "continue it with phaseloom reconstruct --resume and the run's folder"
    ),
    KnownFile.DIRECT: Purpose(
        "a direct image", "phaseloom look and export open it; other verbs take the scan"
    ),
    KnownFile.VIRTUAL: Purpose(
        "a set of virtual images", "phaseloom look and export open it; other verbs take the scan"
    ),
    KnownFile.PREDICTION: Purpose(
        "a predicted phase",
        "phaseloom look and export open it; start a run of its scan from it with object: {from_file: ...}",
    ),
    KnownFile.EMBEDDING: Purpose("an embedding", "phaseloom latents opens it"),
    KnownFile.EXPORT: Purpose(
        "an export for other programs", "give the result or the scan that it was made from"
    ),
    KnownFile.MODEL: Purpose(
        "a reconstruction for another program", "start a run from it with object: {from_file: {path: ...}}"
    ),
}

_MARKS = {
    "phaseloom_result": KnownFile.RESULT,
    "phaseloom_snapshot": KnownFile.SNAPSHOT,
    "phaseloom_direct": KnownFile.DIRECT,
    "phaseloom_virtual": KnownFile.VIRTUAL,
    "phaseloom_prediction": KnownFile.PREDICTION,
    "phaseloom_embedding": KnownFile.EMBEDDING,
    "phaseloom_export": KnownFile.EXPORT,
}
"""Attributes of the root that a kind of file has."""


def purpose_of(kind: KnownFile, /) -> Purpose:
    """What a kind of file is for.

    Example:
        >>> purpose_of(KnownFile.SNAPSHOT).what
        'the state of a run'
    """
    return _PURPOSES[kind]


def identify(path: Path, /) -> KnownFile | None:
    """The kind of a file of ours; ``None`` for any other, also one that cannot be read.

    Example:
        >>> with h5py.File("one.h5", "w") as file:
        ...     file.attrs["phaseloom_direct"] = 1
        >>> identify(Path("one.h5"))
        <KnownFile.DIRECT: 'direct'>
    """
    if not path.is_file():  # a pipe would be waited for
        return None
    try:
        with open_shared_hdf5(path) as file:
            return identify_open_file(file)
    except (OSError, RuntimeError, KeyError, ValueError):
        return None


def identify_open_file(file: h5py.File, /) -> KnownFile | None:
    """The same of a file that is open."""
    attributes: Any = file.attrs
    if _is_text(attributes.get("phaseloom_format"), "scan"):
        return KnownFile.SCAN
    if _is_text(attributes.get("format"), "phaseloom sample"):
        return KnownFile.SAMPLE
    for mark, kind in _MARKS.items():
        if mark in attributes:
            return kind
    if "optimizable_tensors" in file or {"object", "probe_position_x_m"} <= set(file):
        return KnownFile.MODEL  # of PtyRAD, or ptychodus
    is_set = any(str(name).startswith("dp_set_") for name in file)
    return KnownFile.SAMPLE_SET if is_set else None


def describe_scan(scan: Scan4D, /) -> dict[str, dict[str, Any]]:
    """What files of images keep of their scan, as JSON by these names: its ``metadata`` and its ``beam``.

    Example:
        >>> from phaseloom.data.scan import Geometry
        >>> geometry = Geometry(wavelength=1.0, shape=(4, 4), angle=(1e-5, 1e-5))
        >>> scan = Scan4D(counts=np.ones((1, 4, 4)), positions=np.zeros((1, 2)), geometry=geometry)
        >>> describe_scan(scan)["beam"]["beam"]
        'photon'
    """
    geometry = scan.geometry
    beam = {"beam": geometry.beam, "energy": geometry.energy, "wavelength": geometry.wavelength}
    return {"metadata": dict(scan.metadata), "beam": beam}


def _is_text(value: Any, text: str) -> bool:
    """Whether an attribute, however it is stored, is a text."""
    return next(iter(np.ravel(np.asarray(value, object)).tolist()), None) in (text, text.encode())
