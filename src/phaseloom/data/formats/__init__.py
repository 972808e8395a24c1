"""Files of measurements: one module for each format, each with ``read(path, /, *, ...) -> Scan4D``."""

import importlib
import inspect
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from phaseloom import plugins, spec
from phaseloom.data.formats.files import HDF5_SIGNATURE, open_hdf5, require_file_or_store
from phaseloom.data.known_files import KnownFile, identify_open_file, purpose_of
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput, BadPlugin, nearest

__all__ = ["cxi", "hdf5", "mat", "native", "npy", "npz", "raw", "tif", "zarr"]

log = logging.getLogger(__name__)

FORMAT_OF_SUFFIX = {".npy": "npy", ".npz": "npz", ".raw": "raw", ".bin": "raw", ".dat": "raw"}
FORMAT_OF_SUFFIX |= {".mat": "mat", ".tif": "tif", ".tiff": "tif", ".zarr": "zarr", ".zip": "zarr"}
HDF5_SUFFIXES = (".cxi", ".h5", ".hdf5", ".hdf", ".nxs", ".nx5", ".emd", ".ptyd")


def guess(path: str | os.PathLike[str], /) -> str:
    """The format of a file, by its name and, for HDF5, by what is in it.

    A plugin (`phaseloom.plugins`) that recognises the file takes precedence over its name, unless the file
    is one of our own.

    Raises:
        BadInput: the file is missing, empty, a folder, of an unknown format, or not what its name says.

    Example:
        >>> _ = Path("scan.npy").write_bytes(b"x")
        >>> guess("scan.npy")
        'npy'
    """
    path = require_file_or_store(path)
    suffix = path.suffix.lower()
    own = _guess_hdf5(path) if suffix != ".mat" and _is_hdf5(path) else None
    if own not in ("native", "simulated") and (plugin := _find_plugin(path)):
        return plugin
    if path.is_dir():
        return "zarr"
    if own is None and suffix not in FORMAT_OF_SUFFIX:
        fix = f"has an unknown format: name its format, {nearest('', spec.names(__name__))}"
        raise BadInput(path.name, None, fix)
    return own or FORMAT_OF_SUFFIX[suffix]


def _is_hdf5(path: Path) -> bool:
    if not path.is_file():
        return False
    if path.suffix.lower() in HDF5_SUFFIXES:
        return True
    with path.open("rb") as file:
        return file.read(len(HDF5_SIGNATURE)) == HDF5_SIGNATURE


def _guess_hdf5(path: Path) -> str:
    with open_hdf5(path) as file:
        kind = identify_open_file(file)
        if kind is KnownFile.SCAN:
            return "native"
        if kind in (KnownFile.SAMPLE, KnownFile.SAMPLE_SET):
            return "simulated"
        if kind is not None:
            purpose = purpose_of(kind)
            raise BadInput(path.name, None, f"is {purpose.what}, not patterns: {purpose.use}")
        cxi = path.suffix.lower() == ".cxi" or "cxi_version" in file or "entry_1/instrument_1" in file
        return "cxi" if cxi else "hdf5"


def _find_plugin(path: Path) -> str | None:
    """The plugin that recognises a file; one that fails is logged and does not stop the others."""
    for name in plugins.names(__name__):
        try:
            knows = getattr(plugins.target(__name__, name), "knows", None)
            if knows is not None and knows(path):
                return name
        except Exception as problem:
            sentence = problem if isinstance(problem, BadInput) else f"plugin formats: {name}: {problem!r}"
            log.warning("%s", sentence)
    return None


def read(
    path: str | os.PathLike[str],
    /,
    *,
    format: str = "auto",
    knobs: Mapping[str, object] | None = None,
    lazy: bool = False,
) -> Scan4D:
    """A scan from a file of any known format.

    What the file does not say comes from a side-car, ``scan.npy.yaml`` or ``scan.yaml`` beside
    ``scan.npy``, whose keys are the knobs of the format's ``read`` with units (``energy: 80 keV``), and
    from ``knobs``, which win.

    Args:
        path: the file.
        format: one of the formats, that of a plugin (`phaseloom.plugins`), or ``auto``.
        knobs: keyword arguments of the format's ``read``; text is read with units.
        lazy: leave patterns in the file, where the format can.

    Raises:
        BadInput: what does not fit, in one sentence.
        BadPlugin: a plugin fails, or does not return a scan.

    Example:
        >>> import numpy as np
        >>> np.save("s.npy", np.ones((2, 3, 8, 8)))
        >>> _ = Path("s.npy.yaml").write_text("{energy: 80 keV, angle: 1 mrad, step: 0.4 A}")
        >>> read("s.npy").grid
        (2, 3)
    """
    path = require_file_or_store(path)
    name = guess(path) if format == "auto" else format
    if name not in spec.names(__name__):
        raise BadInput("format", name, f"is not known: {nearest(name, spec.names(__name__))}")
    knobs = dict(knobs or {})
    if name in __all__:
        reader = importlib.import_module(f"{__name__}.{name}").read
        return _read_with_knobs(path, name, reader, knobs, lazy)
    reader = plugins.function(__name__, name)
    with plugins.name_plugin_errors(__name__, name):
        scan = _read_with_knobs(path, name, reader, knobs, lazy)
    if not isinstance(scan, Scan4D):
        fix = f"returned {type(scan).__name__}, which is not a Scan4D: tell its author, or name another"
        raise BadPlugin(plugins.place(__name__, name), None, fix)
    return scan


Knobs = Mapping[str, inspect.Parameter]


def _read_with_knobs(
    path: Path, name: str, reader: Callable[..., Scan4D], values: Mapping[str, object], lazy: bool
) -> Scan4D:
    """Call a reader with the knobs of a side-car and those given."""
    wanted = spec.knobs(__name__, name)
    chosen = _read_sidecar(path, wanted)
    if lazy and "lazy" in wanted:
        chosen["lazy"] = True
    chosen |= _parse_knobs(values, wanted, path.name, strict=False)
    for knob in wanted.values():
        if knob.default is knob.empty and knob.name not in chosen:
            fix = f"is not in the file: write it beside, in {path.name}.yaml, or give it as a knob"
            raise BadInput(f"{path.name}: {knob.name}", None, fix)
    return reader(path, **chosen)


def _read_sidecar(path: Path, wanted: Knobs) -> dict[str, Any]:
    import yaml

    names = (path.with_name(f"{path.name}.yaml"), path.with_suffix(".yaml"))
    beside = next((name for name in names if name.is_file() and name != path), None)
    if beside is None:
        return {}
    try:
        values = yaml.safe_load(beside.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(beside.name, None, "is not YAML: write lines like 'energy: 80 keV'") from error
    if values is None:
        return {}
    if isinstance(values, dict) and "file" in values:
        return {}  # the parameter file of a run, not a side-car
    if not isinstance(values, dict):
        raise BadInput(beside.name, values, "is not a set of knobs: write lines like 'energy: 80 keV'")
    return _parse_knobs(values, wanted, beside.name, strict=True)


def _parse_knobs(values: Mapping[str, object], wanted: Knobs, place: str, *, strict: bool) -> dict[str, Any]:
    """Knobs by name in inner units; with ``strict`` even numbers need their unit."""
    parsed: dict[str, Any] = {}
    for name, value in values.items():
        if name not in wanted:
            fix = f"is not a knob of this format: {nearest(name, list(wanted))}"
            raise BadInput(f"{place}: {name}", None, fix)
        texts = [value, *value] if isinstance(value, (list, tuple)) else [value]
        parse = strict or any(isinstance(text, str) for text in texts)
        parsed[name] = _validate(value, wanted[name].annotation, f"{place}: {name}") if parse else value
    return parsed


def _validate(value: object, hint: Any, place: str) -> Any:
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        cause = first.get("ctx", {}).get("error")
        fix = cause.fix if isinstance(cause, BadInput) else f"does not fit: {first['msg']}"
        raise BadInput(place, value, fix) from error
