"""The side-car: a small YAML file beside the data with what the data file does not say."""

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from phaseloom.data.formats.header import MissingValues, ask_as_xrays, example_of
from phaseloom.data.formats.quantities.beam_hints import BeamHints
from phaseloom.data.remarks import warn
from phaseloom.data.scan import Scan4D
from phaseloom.documents import load_yaml
from phaseloom.errors import BadInput
from phaseloom.files import write_text
from phaseloom.spec import dimension_of, show_value
from phaseloom.units import Dimension

__all__ = ["compose", "load", "name_of", "write"]

log = logging.getLogger(__name__)

DIGITS_FROM_FILE = 7
"""Significant digits of a number that a file states: those of single precision."""

FROM_FILE = "# from the file"


def name_of(path: Path, /) -> Path:
    """Where the side-car of a data file is written.

    Example:
        >>> name_of(Path("scan.mib")).name
        'scan.mib.phaseloom.yaml'
    """
    return path.with_name(f"{path.name}.phaseloom.yaml")


def load(path: Path, /) -> tuple[Path, dict[str, Any]]:
    """The side-car of a data file and what it says; nothing where there is none.

    Read are ``NAME.mib.phaseloom.yaml``, ``NAME.phaseloom.yaml``, ``NAME.mib.yaml`` and ``NAME.yaml``: the
    first that exists.

    Raises:
        BadInput: no file, no YAML, not lines of ``name: value``, or a name that stands twice.
    """
    endings = (".phaseloom.yaml", ".yaml")
    names = [name for end in endings for name in (path.with_name(path.name + end), path.with_suffix(end))]
    found = [name for name in dict.fromkeys(names) if os.path.lexists(name) and name != path]
    for name in found:
        if not name.is_file():  # a folder, a pipe, or a link to nothing
            fix = f"has the name of a side-car of {path.name} but is not a file: mend or rename it"
            raise BadInput(str(name), None, fix)
    beside = found[0] if found else None
    if beside is None or all(line.strip()[:1] in (b"", b"#") for line in beside.read_bytes().splitlines()):
        return name_of(path), {}
    try:
        values = load_yaml(beside)
    except BadInput as problem:
        fix = f"{problem.fix}; a side-car has lines like 'energy: 80 keV'"
        raise BadInput(problem.place.replace(str(beside), beside.name), problem.value, fix) from None
    others = [name.name for name in found[1:] if b"file:" not in name.read_bytes()]
    if others:
        warn(log, "%s is read beside %s; %s is not", beside.name, path.name, ", ".join(others))
    # a parameter file of a run may have the name of an old side-car
    return beside, {} if "file" in values else values


def compose(
    known: Mapping[str, Any],
    from_file: frozenset[str],
    kinds: Mapping[str, Any],
    missing: Mapping[str, str] | None = None,
    hints: BeamHints | None = None,
) -> str:
    """Lines of a side-car: known values with units, and comments for missing ones.

    Args:
        known: values in inner units.
        from_file: names of those that the data file states.
        kinds: type of each.
        missing: what is missing, with where it is found.
        hints: what the file hints at; where that may be X-rays, these have lines of their own.

    Example:
        >>> from phaseloom.units import Energy
        >>> print(compose({"energy": 8e4}, frozenset({"energy"}), {"energy": Energy}, {"step": "see there"}))
        energy: 80 keV  # from the file
        # step: 0.4 A  # missing: see there
        <BLANKLINE>
    """
    lines = []
    for name, value in known.items():
        kind = kinds.get(name)
        exact = tuple(value) if isinstance(value, list) else value
        dimension = dimension_of(kind) if name in from_file else None
        shown = show_value(exact, kind) if dimension is None else _show_stored(exact, dimension)
        text = yaml.safe_dump(shown, default_flow_style=True, allow_unicode=True, width=1000)
        line = f"{name}: {text.removesuffix(f'...{chr(10)}').strip()}"
        lines.append(f"{line}  {FROM_FILE}" if name in from_file else line)
    lines += _compose_missing(missing or {}, hints, known)
    return "".join(f"{line}\n" for line in lines)


def _compose_missing(
    missing: Mapping[str, str], hints: BeamHints | None, known: Mapping[str, Any]
) -> list[str]:
    """Comments for what is missing: of X-rays, of electrons, or of both where it cannot be told."""

    def ask(names: Mapping[str, str], hints: BeamHints | None) -> list[str]:
        return [f"# {name}: {example_of(name, hints)}  # missing: {how}" for name, how in names.items()]

    if hints is None or not missing:
        return ask(missing, hints)
    if hints.beam == "photon":
        by = f"beam: photon  # by names in the file: {', '.join(hints.words)}"
        return [by if line.startswith("# beam") else line for line in ask(missing, hints)]
    if hints.beam == "electron" or not (hints.words or hints.values):
        return ask(missing, hints)
    xrays = replace(hints, beam="photon")
    others = ask(ask_as_xrays(missing, xrays, known), xrays)
    return ["# of electrons:", *ask(missing, hints), "# of X-rays instead:", *others]


def _show_stored(value: Any, dimension: Dimension) -> Any:
    """Numbers of a file without the last digits, which come from changes of units and of precision."""
    if isinstance(value, tuple):
        return [_show_stored(one, dimension) for one in value]
    return dimension.show(value, digits=DIGITS_FROM_FILE) if value else 0


def write(
    path: Path, content: Scan4D | MissingValues, kinds: Mapping[str, Any], /, *, overwrite: bool = False
) -> Path:
    """Write the side-car of a data file: from the scan that was read, or from what reading it lacked.

    Raises:
        BadInput: there is one already, and ``overwrite`` was not given.
    """
    target = name_of(path)
    if target.exists() and not overwrite:
        fix = "exists already: edit it, or add --overwrite to replace it"
        raise BadInput("--write-sidecar", target.name, fix)
    if isinstance(content, Scan4D):
        lines = content.metadata.get("setup", "")
    else:
        lines = compose(content.known, content.from_file, kinds, content.missing, content.hints)
    title = f"# What is known of {path.name}; numbers with a dimension need their unit.\n"
    write_text(target, title + lines)
    return target
