"""Files of measurements: one module for each format, each with ``read(path, /, *, ...) -> Scan4D``."""

import importlib
import inspect
import logging
import os
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from phaseloom import plugins
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput, BadPlugin, nearest

__all__ = ["cxi", "hdf5", "mat", "native", "npy", "npz", "raw", "tif", "zarr"]

log = logging.getLogger(__name__)

_SUFFIXES = {".npy": "npy", ".npz": "npz", ".raw": "raw", ".bin": "raw", ".dat": "raw"}
_SUFFIXES |= {".mat": "mat", ".tif": "tif", ".tiff": "tif", ".zarr": "zarr", ".zip": "zarr"}
_HDF5 = (".cxi", ".h5", ".hdf5", ".hdf", ".nxs", ".nx5", ".emd", ".ptyd")


def guess(path: str | os.PathLike[str], /) -> str:
    """The format of a file, by its name and, for HDF5, by what is in it.

    A plugin (`phaseloom.plugins`) that says that it knows the file is believed before a name is, unless
    the file is one of our own.

    Raises:
        BadInput: the file is missing, empty, a folder, of no known kind, or not what its name says.

    Example:
        >>> _ = Path("scan.npy").write_bytes(b"x")
        >>> guess("scan.npy")
        'npy'
    """
    from phaseloom.data.formats._files import SIGNATURE, stored

    path = stored(path)
    suffix = path.suffix.lower()
    hierarchical = path.is_file() and suffix != ".mat" and (suffix in _HDF5 or _signed(path, SIGNATURE))
    own = _inside(path) if hierarchical else None
    if own != "native" and (known := _known(path)):
        return known
    if path.is_dir():
        return "zarr"
    if own is None and suffix not in _SUFFIXES:
        raise BadInput(path.name, None, f"is of no known kind: name its format, {nearest('', _names())}")
    return own or _SUFFIXES[suffix]


def _signed(path: Path, signature: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(signature)) == signature


def _known(path: Path) -> str | None:
    """The plugin that knows a file; one that fails is told in the log, and does not stop the others."""
    for name in plugins.names(__name__):
        try:
            knows = getattr(plugins.target(__name__, name), "knows", None)
            if knows is not None and knows(path):
                return name
        except Exception as problem:
            said = problem if isinstance(problem, BadInput) else f"plugin formats: {name}: {problem!r}"
            log.warning("%s", said)
    return None


def _names() -> list[str]:
    return [*__all__, *(name for name in plugins.names(__name__) if name not in __all__)]


def _reader(name: str) -> Callable[..., Scan4D]:
    """The function that reads a format."""
    if name not in _names():
        raise BadInput("format", name, f"is not known: {nearest(name, _names())}")
    if name not in __all__:
        return plugins.function(__name__, name)
    return importlib.import_module(f"{__name__}.{name}").read


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
        BadPlugin: a plugin fails, or gives no scan.

    Example:
        >>> import numpy as np
        >>> np.save("s.npy", np.ones((2, 3, 8, 8)))
        >>> _ = Path("s.npy.yaml").write_text("{energy: 80 keV, angle: 1 mrad, step: 0.4 A}")
        >>> read("s.npy").grid
        (2, 3)
    """
    from phaseloom.data.formats._files import stored

    path = stored(path)
    name = guess(path) if format == "auto" else format
    reader, knobs = _reader(name), dict(knobs or {})
    if lazy and "lazy" in inspect.signature(reader).parameters:
        knobs = {"lazy": True} | knobs
    if name in __all__:
        return _scan(path, reader, knobs)
    with plugins.name_plugin_errors(__name__, name):
        scan = _scan(path, reader, knobs)
    if not isinstance(scan, Scan4D):
        fix = f"gave {type(scan).__name__}, which is no Scan4D: tell its author, or name another"
        raise BadPlugin(plugins.place(__name__, name), None, fix)
    return scan


def _scan(path: Path, reader: Callable[..., Scan4D], knobs: Mapping[str, object]) -> Scan4D:
    """What a reader makes of a file, with knobs from beside it and those given."""
    chosen = {**_sidecar(path, reader), **_parsed(knobs, reader, path.name, strict=False)}
    signature = inspect.signature(reader).parameters.values()
    for knob in signature:
        if knob.kind is knob.KEYWORD_ONLY and knob.default is knob.empty and knob.name not in chosen:
            fix = f"is not in the file: write it beside, in {path.name}.yaml, or give it as a knob"
            raise BadInput(f"{path.name}: {knob.name}", None, fix)
    return reader(path, **chosen)


def _inside(path: Path) -> str:
    from phaseloom.data.formats._files import as_text, opened

    with opened(path) as file:
        if as_text(file.attrs.get("phaseloom_format", "")) == "scan":
            return "native"
        cxi = path.suffix.lower() == ".cxi" or "cxi_version" in file or "entry_1/instrument_1" in file
        return "cxi" if cxi else "hdf5"


def _sidecar(path: Path, reader: Callable[..., Scan4D]) -> dict[str, Any]:
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
    return _parsed(values, reader, beside.name, strict=True)


def _parsed(
    values: Mapping[str, object], reader: Callable[..., Scan4D], place: str, *, strict: bool
) -> dict[str, Any]:
    """Knobs by name in inner units; with ``strict`` even numbers need their unit."""
    hints = typing.get_type_hints(reader, include_extras=True)
    parameters = inspect.signature(reader).parameters
    known = [name for name, knob in parameters.items() if knob.kind is knob.KEYWORD_ONLY]
    parsed: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise BadInput(f"{place}: {name}", None, f"is not a knob of this format: {nearest(name, known)}")
        texts = [value, *value] if isinstance(value, (list, tuple)) else [value]
        parse = strict or any(isinstance(text, str) for text in texts)
        parsed[name] = _valid(value, hints[name], f"{place}: {name}") if parse else value
    return parsed


def _valid(value: object, hint: Any, place: str) -> Any:
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        cause = first.get("ctx", {}).get("error")
        fix = cause.fix if isinstance(cause, BadInput) else f"does not fit: {first['msg']}"
        raise BadInput(place, value, fix) from error
