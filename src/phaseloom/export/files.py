"""From a file of ours to one of another program: formats by their endings, and what can be exported."""

import inspect
import os
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from phaseloom import spec
from phaseloom.data.formats.files import open_hdf5, require_file
from phaseloom.data.known_files import KnownFile, identify, purpose_of
from phaseloom.data.own_files.members import Member, read_group, read_member, read_members
from phaseloom.data.own_files.tables import DIRECT, IMAGE_TEXTS, PREDICTION, VIRTUAL
from phaseloom.data.signals import Signal, Signals, image_axes, scan_steps
from phaseloom.errors import BadInput, nearest
from phaseloom.export.sources import Exportable, require_result
from phaseloom.result import Result

__all__ = ["FORMAT_OF_ENDING", "choose_format", "is_exportable", "load", "write"]

ROOM = "phaseloom.export"

FORMAT_OF_ENDING = {".h5": "nexus", ".hdf5": "nexus", ".nxs": "nexus", ".cxi": "cxi", ".emd": "emd"}
FORMAT_OF_ENDING |= {".hspy": "hspy", ".mrc": "mrc", ".tif": "tiff", ".tiff": "tiff"}
"""Formats that the ending of a file stands for: ``.h5`` for our own files, those of others are named."""


def choose_format(path: str | os.PathLike[str], format: str = "auto", /) -> str:
    """The format of a name, or the one stated.

    Raises:
        BadInput: no such format, or an ending that stands for none.

    Example:
        >>> choose_format("phase.mrc"), choose_format("product.h5", "ptychodus")
        ('mrc', 'ptychodus')
    """
    known = spec.names(ROOM)
    if format != "auto":
        if format not in known:
            raise BadInput("export", format, f"is not a format: {nearest(format, known)}")
        return format
    ending = Path(path).suffix.lower()
    if ending not in FORMAT_OF_ENDING:
        fix = f"has no known ending: use one of {', '.join(FORMAT_OF_ENDING)}, or name the format"
        raise BadInput("export", Path(path).name, f"{fix}: {', '.join(known)}")
    return FORMAT_OF_ENDING[ending]


def write(
    source: Exportable,
    path: str | os.PathLike[str],
    /,
    *,
    format: str = "auto",
    knobs: Mapping[str, Any] | None = None,
) -> tuple[Path, ...]:
    """Write a result, a scan or images in a format of this package or of a plugin.

    Args:
        source: see `load`, `Result.load`, `phaseloom.read`.
        path: a file, or a folder in which the files have their usual names.
        format: a name of ``phaseloom.export``; ``auto``: by the ending.
        knobs: keyword arguments of the format, such as ``{"of": "amplitude"}``.

    Returns:
        The files.

    Raises:
        BadInput: an unknown format or knob, or a source that the format cannot hold.
    """
    name = choose_format(path, format)
    call = spec.call(ROOM, {name: dict(knobs or {})}, "export")
    if _takes_results_only(name):
        source = require_result(source, f"export.{name}")
    written = call(source, path)
    return tuple(written) if isinstance(written, tuple | list) else (written,)


def _takes_results_only(name: str) -> bool:
    """Whether the signature of a format says that it is of a `Result`."""
    function = spec.function_of(ROOM, name)
    first = next(iter(inspect.signature(function).parameters))
    return typing.get_type_hints(function).get(first) is Result


def is_exportable(path: Path, /) -> bool:
    """Whether `load` reads a file."""
    return identify(path) in _READERS or identify(path) is KnownFile.RESULT


def load(path: str | os.PathLike[str], /) -> Result | Signals:
    """A result, or the images of a direct image, of a prediction or of virtual detectors.

    Raises:
        BadInput: another file; the sentence says what it is, where it is one of ours.

    Example:
        >>> with h5py.File("prediction.h5", "w") as file:
        ...     file.attrs["phaseloom_prediction"] = 1
        ...     file["phase"], file["pixel"], file["origin"] = np.zeros((2, 3)), [0.4, 0.4], [0.0, 1.0]
        >>> load("prediction.h5").signals[0].axes[1]
        Axis(name='x', step=0.4, start=1.0, unit='A')
    """
    path = require_file(path)
    kind = identify(path)
    if kind is KnownFile.RESULT:
        return Result.load(path)
    reader = None if kind is None else _READERS.get(kind)
    if reader is None:
        fix = "is not a result, a direct image, virtual images or a prediction of Phaseloom"
        if kind is not None:
            fix = f"is {purpose_of(kind).what}: {purpose_of(kind).use}"
        raise BadInput(path.name, None, fix)
    with open_hdf5(path) as file:
        return reader(file, path)


def _read_direct(file: h5py.File, path: Path) -> Signals:
    """The phase on a raster finer than the scan by ``upsample``; rows run along those of the scan."""
    stored = read_members(file, DIRECT, path.name)
    about = read_members(_require_dataset(file, "phase", path), _ABOUT_DIRECT, path.name)  # attributes
    step = read_member(
        _require_dataset(file, "image_positions", path), Member("@step", positive=True), path.name
    )
    side = step / (about["upsample"] or 1)
    units = "rad" if about["units"] == "radian" else ""
    axes = image_axes((side, side))
    title = f"phase by {about['method'] or ''}"
    found = [Signal("phase", stored["phase"].astype(np.float32), axes, units, title)]
    if (loss := stored["amplitude_loss"]) is not None:
        found.append(Signal("amplitude_loss", loss.astype(np.float32), axes, "", "-log of the amplitude"))
    return _signals(file, path, "direct", found)


def _read_prediction(file: h5py.File, path: Path) -> Signals:
    stored = read_members(file, PREDICTION, path.name)
    pixel, origin = (tuple(stored[name].tolist()) for name in ("pixel", "origin"))
    axes = image_axes(pixel, origin)
    found = [
        Signal("phase", stored["phase"].astype(np.float32), axes, "rad", f"phase by {stored['model'] or ''}")
    ]
    if (error := stored["error"]) is not None:
        found.append(Signal("error", error.astype(np.float32), axes, "rad", "standard error of the phase"))
    return _signals(file, path, "prediction", found)


def _read_virtual(file: h5py.File, path: Path) -> Signals:
    """Images of detectors and the integrated phase of a raster; their pixels are the steps of the scan."""
    stored = read_members(file, VIRTUAL, path.name)
    grid = stored["grid"]
    if grid is None:
        fix = "is of positions off a raster, whose images have no pixels: read it with h5py"
        raise BadInput(path.name, None, fix)
    rows, columns = grid.tolist()
    if rows * columns != len(stored["positions"]):
        fix = f"does not fit: there are {len(stored['positions'])} positions"
        raise BadInput(f"{path.name}: @grid", [rows, columns], fix)
    axes = image_axes(scan_steps(stored["positions"], (rows, columns)))
    images = read_group(file, "images", Member("", axes="y x", finite=False), path.name)
    phase = {} if stored["phase"] is None else {"phase": stored["phase"]}
    found = [Signal("phase", values.astype(np.float32), axes, "rad", "phase") for values in phase.values()]
    found += [
        Signal(name.replace(" ", "_"), values.astype(np.float32), axes, "counts", f"images/{name}")
        for name, values in images.items()
    ]
    if not found:
        raise BadInput(f"{path.name}: /images", None, "holds no image: make the images again")
    return _signals(file, path, "virtual", found)


def _signals(file: h5py.File, path: Path, kind: str, found: list[Signal]) -> Signals:
    """With what the file says of the scan and of what made it."""
    stored = read_members(file, IMAGE_TEXTS, path.name)
    made, beam, metadata = (stored[name] or {} for name in ("provenance", "beam", "metadata"))
    process = {"notes": stored["notes"] or ""}
    process |= {"date": str(made.get("finished", "")), "data_file": str(made.get("file", ""))}
    if stored["recipe"] is not None:
        process["recipe"] = stored["recipe"]
    return Signals(
        title=f"{made.get('file', path.name)}: {found[0].title}",
        signals=tuple(found),
        kind=kind,
        beam=beam.get("beam"),
        energy=beam.get("energy"),
        wavelength=beam.get("wavelength"),
        metadata={str(k): str(v) for k, v in metadata.items()},
        process=process,
    )


_ABOUT_DIRECT = (
    Member("@upsample", positive=True, optional=True),
    Member("@units", "text", optional=True),
    Member("@method", "text", optional=True),
)
"""Attributes of the phase of a direct image."""


def _require_dataset(file: h5py.File, name: str, path: Path) -> Any:
    """A data set, for its attributes."""
    if not isinstance(found := file.get(name), h5py.Dataset):
        raise BadInput(f"{path.name}: {name}", None, "is missing: make the image again")
    return found


_READERS = {
    KnownFile.DIRECT: _read_direct,
    KnownFile.PREDICTION: _read_prediction,
    KnownFile.VIRTUAL: _read_virtual,
}
