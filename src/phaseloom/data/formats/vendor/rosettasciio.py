"""Every file that rosettasciio reads: DM3, DM4, ser, prz, mrc, ... (optional, under the GPL)."""

import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from phaseloom.data.formats.files import require_file_or_store
from phaseloom.data.formats.header import About, Header
from phaseloom.data.formats.kinds.axes import StoredAxis, describe_axes, order_axes
from phaseloom.data.formats.setup import Setup, accept_setup, build_scan
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput, MissingExtra, nearest

__all__ = ["ABOUT", "knows", "read"]

ABOUT = About(
    files=".dm3 .dm4 .ser .emi .prz .mrc ..., or any by name",
    reading="batch by batch where rosettasciio can",
    states="energy, step, angle from axes and metadata",
    compared="is rosettasciio 0.15",
)

log = logging.getLogger(__name__)

SUFFIXES = (".dm3", ".dm4", ".ser", ".emi", ".prz", ".mrc", ".mrcz", ".ali", ".unf", ".rpl", ".pts")
"""Files that no reader of this package takes; others are read by it when ``format`` says so."""

MAX_HEADER_CHARACTERS = 1_000_000
TEXTS = {
    "microscope": ("microscope", ""),
    "camera length": ("camera_length", ""),
    "convergence semi-angle": ("convergence_angle", " mrad"),
    "current": ("beam_current", " nA"),
    "dwell time": ("dwell_time", " s"),
    "date": ("date", ""),
    "title": ("title", ""),
    "detector": ("detector_type", ""),
}
"""Metadata of a scan, each with its key in HyperSpy's metadata and its unit there."""


def knows(path: Path, /) -> bool:
    """Whether a file has one of the names that are left to rosettasciio."""
    return path.suffix.lower() in SUFFIXES


@accept_setup()
def read(
    path: str | os.PathLike[str],
    /,
    *,
    reader: str | None = None,
    dataset: int | None = None,
    **setup: Unpack[Setup],
) -> Scan4D:
    """Counts of any file that rosettasciio reads (``pip install 'phaseloom[rosettasciio]'``, GPL).

    Which axes are of the scan and which of the detector follows from their units (nm; 1/nm or mrad), else
    from what rosettasciio says. Step, angle and energy are taken from axes and metadata.

    Args:
        path: the file.
        **setup: see `Setup`.
        reader: name of the reader, as rosettasciio has it (``DigitalMicrograph``); default: by the ending.
        dataset: which of the data sets of the file, from 0; default: the first with three or four axes.

    Raises:
        MissingExtra: rosettasciio is not installed.
        BadInput: it cannot read the file, or what is missing.
    """
    path = require_file_or_store(path)
    entries = _load(path, _find_reader(path, reader))
    entry = _choose(path, entries, dataset)
    axes = _list_axes(entry)
    if all(setup.get(name) is None for name in ("permute", "reshape")):
        setup["permute"] = order_axes(axes)
    header = _build_header(entry, axes, setup)
    data = entry["data"]
    source = data if isinstance(data, np.ndarray) else DaskSource(data, path.name)
    return build_scan(path, source, setup, header=header)


@dataclass(frozen=True, eq=False)
class DaskSource:
    """An array of dask as a `Source`: a block is computed when it is asked for, in this thread."""

    data: Any
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        return tuple(self.data.shape)

    @property
    def dtype(self) -> np.dtype:
        """Of the values."""
        return self.data.dtype

    def __getitem__(self, block: Any, /) -> np.ndarray:
        """Read a block."""
        try:
            return np.asarray(self.data[block].compute(scheduler="synchronous"))
        except Exception as problem:  # whatever a stranger's reader does with a damaged file
            text = " ".join(str(problem).split())[:120]
            fix = f"cannot be read by rosettasciio ({text}): open it there and save it in another format"
            raise BadInput(self.name, None, fix) from problem


def _list_axes(entry: Mapping[str, Any]) -> list[StoredAxis]:
    """The axes in the order of the array; those of length one that are not described are plain."""
    shape = entry["data"].shape
    found = [StoredAxis(int(n), None, "", number < len(shape) - 2) for number, n in enumerate(shape)]
    described = [axis for axis in entry.get("axes", []) if axis.get("size") is not None]
    for number, axis in enumerate(described if len(described) == len(shape) else []):
        place = int(axis.get("index_in_array", number))
        scale = axis.get("scale")
        good = isinstance(scale, (int, float)) and np.isfinite(scale) and scale
        found[place] = StoredAxis(
            int(axis["size"]),
            abs(float(scale)) if good and scale is not None else None,
            str(axis.get("units") or "").strip(),
            bool(axis.get("navigate", found[place].navigate)),
        )
    return found


def _find_reader(path: Path, name: str | None) -> Any:
    """The module of rosettasciio that reads a file."""
    try:
        import importlib

        from rsciio import IO_PLUGINS
    except ImportError as error:
        place = f"{path.name}: {path.suffix or 'this format'}"
        raise MissingExtra(place, "rosettasciio", "rosettasciio") from error
    if name is None:
        suffix = path.suffix.lstrip(".").lower()
        found = [one for one in IO_PLUGINS if suffix in map(str.lower, one["file_extensions"])]
    else:
        found = [one for one in IO_PLUGINS if name.lower() == one["name"].lower()]
        if not found:
            fix = f"is not a reader of rosettasciio: {nearest(name, [one['name'] for one in IO_PLUGINS])}"
            raise BadInput(f"{path.name}: reader", name, fix)
    if not found:
        raise BadInput(path.name, None, "has an ending that rosettasciio does not know: name its reader")
    best = next((one for one in found if one["name"] == "MRC"), found[0])
    try:
        return importlib.import_module(best["api"])
    except ModuleNotFoundError as problem:
        fix = f"needs {problem.name} besides rosettasciio: pip install {problem.name}"
        raise BadInput(path.name, None, fix) from problem


def _load(path: Path, module: Any) -> list[dict[str, Any]]:
    """What a reader returns, left in the file where it can; whatever it raises becomes one sentence."""
    import warnings

    problem: Exception | None = None
    for lazy in (True, False):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return module.file_reader(str(path), lazy=lazy)
        except NotImplementedError as error:  # a reader that has no lazy way
            problem = error
        except Exception as error:  # whatever a stranger's reader does with a damaged file
            problem = error
            break
    if isinstance(problem, ModuleNotFoundError):
        fix = f"needs {problem.name} besides rosettasciio: pip install {problem.name}"
        raise BadInput(path.name, None, fix) from problem
    text = " ".join(str(problem).split())[:120]
    raise BadInput(path.name, None, f"cannot be read by rosettasciio ({text}): copy it again") from problem


def _choose(path: Path, entries: list[dict[str, Any]], dataset: int | None) -> dict[str, Any]:
    stacks = [number for number, entry in enumerate(entries) if len(entry["data"].shape) in (3, 4)]
    number = dataset if dataset is not None else stacks[0] if stacks else None
    if number is None or not 0 <= number < len(entries):
        shapes = ", ".join(str(tuple(entry["data"].shape)) for entry in entries[:8]) or "nothing"
        fix = f"is not a stack of patterns; the file holds {shapes}: name another with dataset, from 0"
        raise BadInput(f"{path.name}: dataset", number, fix)
    return entries[number]


def _build_header(entry: Mapping[str, Any], axes: list[StoredAxis], setup: Setup) -> Header:
    energy = _find(entry, "beam_energy")
    energy = energy * 1e3 if isinstance(energy, (int, float)) and 0 < energy < 1e5 else None
    order = setup.get("permute") or tuple(range(len(axes)))
    placed = [axes[number] for number in order if -len(axes) <= number < len(axes)]
    plain = setup.get("reshape") is None and len(placed) == len(axes) >= 3
    stated = describe_axes(placed if plain else [], setup.get("energy") or energy)
    return Header(
        energy=energy, angle=stated.angle, pixel=stated.pixel, step=stated.step, metadata=_metadata(entry)
    )


def _find(entry: Mapping[str, Any], key: str) -> Any:
    """A value of HyperSpy's metadata by the last part of its name, mapped from the file's own if needed."""
    for name, value in _leaves(entry.get("metadata") or {}):
        if name.rpartition(".")[2] == key:
            return value
    for source, (target, convert) in (entry.get("mapping") or {}).items():
        value: Any = entry.get("original_metadata") or {}
        if target.rpartition(".")[2] != key:
            continue
        for part in source.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            try:
                return convert(value) if convert else value
            except Exception:  # a stranger's function on a value that it did not expect
                log.debug("%s: %r was not understood", source, value)
    return None


def _leaves(tree: Mapping[str, Any], above: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping) and depth < 20:
            yield from _leaves(value, f"{above}{name}.", depth + 1)
        else:
            yield f"{above}{name}", value


def _metadata(entry: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for name, (key, unit) in TEXTS.items():
        value = _find(entry, key)
        if isinstance(value, (str, int, float)) and str(value).strip():
            found[name] = f"{value}{unit}"
    try:
        text = json.dumps(entry.get("original_metadata") or {}, default=_shorten)
    except (ValueError, TypeError, RecursionError):
        text = str(entry.get("original_metadata"))
    return found | {"original header": text[:MAX_HEADER_CHARACTERS]}


def _shorten(value: Any) -> str:
    """Arrays, dates and bytes of metadata as short texts."""
    return str(value)[:200]
