"""The page ``docs/formats.md``, made from what the readers say of themselves."""

import inspect
import os
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from phaseloom.data import formats
from phaseloom.data.formats.kinds import KINDS, Kind
from phaseloom.files import write_text

__all__ = ["page", "write"]

HEAD = """# Formats

Made by `phaseloom.data.format_table.write("docs/formats.md")` from the readers; [files](files.md) says
how to state what a file does not.

`phaseloom look FILE` recognises the format by the content of the file where it can, else by its name, and
prints what the file states. `read: {merlin: {...}}` names it. Everything that a file states can be
overruled by a knob or by the side-car, `FILE.phaseloom.yaml`, which `phaseloom look FILE --write-sidecar`
starts. What nobody states is listed in one message.
"""

KINDS_HEAD = """
## Kinds of HDF5 files

`hdf5` recognises these by what is in the file; `kind: NAME` names one, `kind: none` takes a data set as
it is. A file that several recognise is of the first. Values in units that a quantity does not have, or
that are not plausible, are warned of and asked for. Patterns are as stored, in the order of the axes below,
which tests prove with a simulated scan that comes back as the same picture. No real file of the kinds that
were compared with "none" was at hand: they were tested on files that the tests write from the layouts of
the programs named, and of the readers of ptychodus and ptypy. Where facilities keep positions in files of
their own, give these with `positions`.

"""

TAIL = """
Compared: the same bytes read by another program. "By hand" was done once, when the reader was written;
the others are tests. "None" means that the reader was tested on files which the tests write from the
layout, and on no real file or other program.

Files of detectors do not say how the detector lies against the scan. Patterns are as stored, and a run of
an electron raster finds the orientation ([calibration](calibration.md)). Scan rotations of a header are
kept as text, as their sign and zero differ between instruments.

An interrupted scan is cut to its whole rows, and `look` says so in the line `file`. A raster that cannot
hold the frames of a file of a detector is an error that names one which can. Pixels that are not numbers, or
hold the largest integer in every pattern, are masked. A damaged header is refused in a sentence; memory
for what it claims is not taken.

"""


def page() -> str:
    """The text of the page.

    Example:
        >>> print(page().splitlines()[0])
        # Formats
    """
    rows = [("format", "files", "patterns are read", "the file states", "compared with"), ("---",) * 5]
    names = [*formats.VENDOR, *(name for name in formats.__all__ if name not in formats.VENDOR)]
    rows += [(f"`{name}`", *_about(name)) for name in names]
    knobs = [f"- `{name}`: {', '.join(own)}" for name in names if (own := list(_own_knobs(name)))]
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return (
        f"{HEAD}\n{table}{TAIL}Knobs of single formats (`phaseloom describe read NAME`):\n\n"
        + "\n".join(knobs)
        + f"\n{KINDS_HEAD}{_tabulate_kinds()}"
    )


def _tabulate_kinds() -> str:
    """The table of the kinds of HDF5 files."""
    rows = [("kind", "of", "beam", "axes and positions", "the file states", "compared with"), ("---",) * 6]
    rows += [
        (f"`{kind.name}`", kind.title, kind.beam or "any", _describe_order(kind), kind.states, kind.compared)
        for kind in KINDS
    ]
    return "".join(f"| {' | '.join(row).replace('_*', '_N')} |\n" for row in rows)


def _describe_order(kind: Kind) -> str:
    """The order of stored axes, and whose positions a file holds."""
    orders = {"frames": "a data set for each pattern (y, x)", "joined": "(n, y, x), parts joined"}
    stored = orders.get(kind.stack, "(n, y, x) or (slow, fast, y, x)")
    if kind.order is not None:
        names = [""] * len(kind.order)
        for axis, name in zip(kind.order, ("n", "y", "x"), strict=True):
            names[axis] = name
        stored = f"({', '.join(names)})"
    if kind.axes:
        stored = "(slow, fast, y, x), or as the units of the axes say"
    return f"{stored}; positions of the {kind.moves}" if kind.positions else stored


def write(path: str | os.PathLike[str], /) -> None:
    """Write the page."""
    write_text(Path(path), page())


def _about(name: str) -> tuple[str, str, str, str]:
    about: Any = getattr(formats, name).ABOUT
    return about.files, about.reading, about.states, about.compared


def _own_knobs(name: str) -> Iterable[str]:
    """Knobs of a format that the others do not have."""
    setup = import_module("phaseloom.data.formats.setup").Setup.__annotations__
    for knob in inspect.signature(getattr(formats, name).read).parameters.values():
        if knob.kind is knob.KEYWORD_ONLY and knob.name not in setup:
            yield f"`{knob.name}`"
