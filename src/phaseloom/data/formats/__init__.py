"""Files of measurements: one module for each format, each with ``read(path, /, *, ...) -> Scan4D``."""

import importlib
import inspect
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from phaseloom import plugins, spec
from phaseloom.data.formats import sidecar
from phaseloom.data.formats.arrays import clean_counts
from phaseloom.data.formats.files import has_hdf5_name_or_content, open_hdf5, require_file_or_store
from phaseloom.data.formats.header import NEEDS, MissingValues, list_missing, merge
from phaseloom.data.formats.header import Header as Header
from phaseloom.data.formats.setup import Setup
from phaseloom.data.known_files import KnownFile, identify_open_file, purpose_of
from phaseloom.data.remarks import collect_remarks, warn
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput, BadPlugin, nearest
from phaseloom.findings import describe_error

__all__ = [
    "blockfile",
    "cxi",
    "empad",
    "frms6",
    "hdf5",
    "mat",
    "merlin",
    "native",
    "ndata",
    "npy",
    "npz",
    "raw",
]
__all__ += ["raw_csr", "rosettasciio", "seq", "stempy", "tif", "timepix3", "tvips", "zarr"]

log = logging.getLogger(__name__)

VENDOR = ("stempy", "merlin", "empad", "blockfile", "tvips", "seq", "frms6", "timepix3", "raw_csr", "ndata")
"""Readers of the files of detectors and microscopes, in the order in which they are asked (`knows`)."""

FOLDERS: dict[str, str] = dict.fromkeys((*VENDOR, "rosettasciio"), "vendor.")
"""Where the readers are that are not in this folder."""

ASKED = (*VENDOR, "cxi", "hdf5", "rosettasciio")
"""Formats that tell their files by the content, in the order in which they are asked: `knows(path)`."""

FORMAT_OF_SUFFIX = {".npy": "npy", ".npz": "npz", ".raw": "raw", ".bin": "raw", ".dat": "raw"}
FORMAT_OF_SUFFIX |= {
    ".zspy": "zarr",
    ".mat": "mat",
    ".tif": "tif",
    ".tiff": "tif",
    ".zarr": "zarr",
    ".zip": "zarr",
}

COMPRESSED = {b"BZh": "bunzip2", b"\x1f\x8b": "gunzip", b"\xfd7zXZ": "unxz"}
"""First bytes of compressed files, and what decompresses them."""


def __getattr__(name: str) -> Any:
    """A reader's module, imported on first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _module(name)


def guess(path: str | os.PathLike[str], /) -> str:
    """The format of a file: by its content where a format can tell, else by its name.

    Our own files are recognised first, then what plugins know (`phaseloom.plugins`), then what the readers of
    the package know.

    Raises:
        BadInput: the file is missing, empty, a folder, of an unknown format, or not what its name says.

    Example:
        >>> _ = Path("scan.npy").write_bytes(b"x")
        >>> guess("scan.npy")
        'npy'
    """
    path = require_file_or_store(path)
    if own := _guess_own(path):
        return own
    if plugin := _find_plugin(path):
        return plugin
    if path.is_dir():
        return "zarr"
    found = next((name for name in ASKED if _module(name).knows(path)), None)
    found = found or FORMAT_OF_SUFFIX.get(path.suffix.lower())
    if found is None:
        raise BadInput(path.name, None, _describe_unknown(path))
    return found


def _describe_unknown(path: Path) -> str:
    """What to do with a file of no known format."""
    with path.open("rb") as file:
        start = file.read(6)
    command = next((command for mark, command in COMPRESSED.items() if start.startswith(mark)), None)
    if command is not None:
        return f"is compressed: decompress it first ({command} --keep {path.name})"
    if start.startswith(b"\x80") and path.suffix.lower() in (".pickle", ".pkl"):
        arrays = "numpy.savez in the program that wrote it"
        return f"is a pickle, which is not opened, as it can run code: save its arrays with {arrays}"
    return f"has an unknown format: name its format, {nearest('', spec.names(__name__))}"


def _module(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{FOLDERS.get(name, '')}{name}")


def _guess_own(path: Path) -> str | None:
    """The format of a scan that this package wrote; ``None`` for files of others.

    Raises:
        BadInput: a file of this package that holds no patterns.
    """
    if path.suffix.lower() == ".mat" or not has_hdf5_name_or_content(path):
        return None
    with open_hdf5(path) as file:
        kind = identify_open_file(file)
    if kind is KnownFile.SCAN:
        return "native"
    if kind in (KnownFile.SAMPLE, KnownFile.SAMPLE_SET):
        return "simulated"
    if kind is not None:
        purpose = purpose_of(kind)
        raise BadInput(path.name, None, f"is {purpose.what}, not patterns: {purpose.use}")
    return None


def _find_plugin(path: Path) -> str | None:
    """The plugin that recognises a file; one that fails is logged and does not stop the others."""
    for name in plugins.names(__name__):
        if ("formats", name) in plugins.FROM_SYSTEMS:  # of this package: see `_guess_own`
            continue
        try:
            knows = getattr(plugins.target(__name__, name), "knows", None)
            if knows is not None and knows(path):
                return name
        except Exception as problem:
            fix = f"cannot tell whether {path.name} is its file ({type(problem).__name__}: {problem})"
            sentence = f"{plugins.place(__name__, name)}: {fix}: repair or uninstall it"
            warn(log, "%s", problem if isinstance(problem, BadInput) else sentence)
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

    What the file does not say comes from a side-car, ``scan.npy.phaseloom.yaml`` beside ``scan.npy``, whose
    keys are the knobs of the format's ``read`` with units (``energy: 80 keV``), and from ``knobs``. Knobs win
    over the side-car, and both over the file. Of what was wrong with the file and did not stop its reader (a
    cut scan, masked pixels, values that were not used) the sentences are ``scan.metadata["remarks"]``.

    Args:
        path: the file.
        format: one of the formats, that of a plugin (`phaseloom.plugins`), or ``auto``.
        knobs: keyword arguments of the format's ``read``; text is read with units.
        lazy: leave patterns in the file, where the format can.

    Raises:
        MissingValues: everything that is still missing, in one message.
        BadInput: what does not fit, in one sentence.
        BadPlugin: a plugin fails, or does not return a scan.

    Example:
        >>> import numpy as np
        >>> np.save("s.npy", np.ones((2, 3, 8, 8)))
        >>> _ = Path("s.npy.phaseloom.yaml").write_text("{energy: 80 keV, angle: 1 mrad, step: 0.4 A}")
        >>> read("s.npy").grid
        (2, 3)
    """
    path = require_file_or_store(path)
    name = guess(path) if format == "auto" else format
    if name not in __all__ and name not in spec.names(__name__):
        raise BadInput("format", name, f"is not known: {nearest(name, spec.names(__name__))}")
    knobs = dict(knobs or {})
    if name in __all__:
        return _read_with_knobs(path, name, _module(name).read, knobs, lazy)
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
    beside, written = sidecar.load(path)
    chosen = parse_knobs(written, wanted, beside.name, strict=True)
    if lazy and "lazy" in wanted:
        chosen["lazy"] = True
    chosen |= parse_knobs(values, wanted, path.name, strict=False)
    own = {name: value for name, value in chosen.items() if name not in Setup.__annotations__}
    _require_knobs(path, wanted, chosen)
    try:
        with collect_remarks() as remarks:
            scan = reader(path, **chosen)
            if name not in __all__ and isinstance(scan, Scan4D):
                scan = _repair_values(scan, path.name)
    except MissingValues as problem:
        problem.known |= own
        raise
    except BadInput as problem:
        raise _name_side_car(problem, path, beside.name, set(written) - set(values)) from problem
    if remarks and isinstance(scan, Scan4D):
        scan = replace(scan, metadata={**scan.metadata, "remarks": "\n".join(remarks)})
    if own and "setup" in getattr(scan, "metadata", {}):
        kinds = {name: wanted[name].annotation for name in own}
        lines = scan.metadata["setup"] + sidecar.compose(own, frozenset(), kinds)
        scan = replace(scan, metadata={**scan.metadata, "setup": lines})
    return scan


def _repair_values(scan: Scan4D, name: str) -> Scan4D:
    """The scan of a plugin with numbers alone, as the readers of the package have it."""
    if scan.counts.dtype.kind != "f":
        return scan
    counts = scan.counts.copy() if isinstance(scan.counts, np.ndarray) else scan.counts
    counts, trusted = clean_counts(counts, name, negative="keep")
    return replace(scan, counts=counts, mask=scan.mask & trusted)


def _name_side_car(problem: BadInput, path: Path, beside: str, written: set[str]) -> BadInput:
    """The same problem, with the side-car as its place where the value at fault stands there."""
    knob = problem.place.removeprefix(f"{path.name}: ")
    if type(problem) is not BadInput or knob.partition(":")[0] not in written:
        return problem
    return BadInput(f"{beside}: {knob}", problem.value, problem.fix)


def _require_knobs(path: Path, wanted: Knobs, chosen: Mapping[str, Any]) -> None:
    """Refuse to open a file without the knobs that its format needs, and name what else is missing then."""
    needed = [k.name for k in wanted.values() if k.default is k.empty and chosen.get(k.name) is None]
    if not needed:
        return
    missing = {name: NEEDS.get(name, ("", "see its help"))[1] for name in needed}
    if "energy" in wanted:
        known, _ = merge({name: chosen.get(name) for name in Setup.__annotations__}, Header())
        missing |= list_missing(known, Header(), has_raster=True, count=0)
    raise MissingValues(path, missing, chosen, frozenset())


def parse_knobs(values: Mapping[str, object], wanted: Knobs, place: str, *, strict: bool) -> dict[str, Any]:
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
        fix = cause.fix if isinstance(cause, BadInput) else describe_error(first)
        raise BadInput(place, value, fix) from error
