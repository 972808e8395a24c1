"""Which files of a folder belong to another file there: headers, parts of a series, references."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py

from phaseloom.data.formats import tif
from phaseloom.data.formats.files import HDF5_SUFFIXES, READ_ERRORS, list_datasets, open_hdf5
from phaseloom.data.formats.vendor import empad, merlin, raw_csr
from phaseloom.errors import BadInput

__all__ = ["find_companions"]

Rule = tuple[re.Pattern[str], tuple[str, ...]]

RULES: tuple[Rule, ...] = tuple(
    (re.compile(part, re.IGNORECASE), mains)
    for part, mains in (
        (r"(.+)\.hdr", (r"\1.mib", r"\g<1>1.mib", r"\g<1>_001.frms6")),
        (r"(.+)_data_\d+\.h5", (r"\1_master.h5",)),
        (r"(.+)_(?!0+\.)(\d+)\.tvips", (r"\1_000.tvips",)),
        (r"(.+)_(?!0*1\.)(\d+)\.frms6", (r"\1_001.frms6",)),
        (r"(.+?)(?:\.seq)?\.(?:dark|gain)\.mrc", (r"\1.seq",)),
        (r"(.+?)(?:\.seq)?\.Config\.Metadata\.xml", (r"\1.seq",)),
        (r"(.+)\.seq\.metadata", (r"\1.seq",)),
        (r"(.+)_\d+\.ser", (r"\1.emi",)),
        (r"(.+)\.raw", (r"\1.rpl",)),
    )
)
"""Names of files that belong to another, and names that this other one may have."""


def find_companions(files: Sequence[Path], /) -> set[Path]:
    """Those of the files of one folder that are read together with another of them.

    Args:
        files: of one folder.

    Example:
        >>> files = [Path(name) for name in ("a.hdr", "a.mib", "b.hdr", "s_data_000001.h5", "s_master.h5")]
        >>> sorted(path.name for path in find_companions(files))
        ['a.hdr', 's_data_000001.h5']
    """
    names = {path.name for path in files}
    found = {path for path in files if any(_belongs(path.name, rule, names) for rule in RULES)}
    for path in files:
        lister = LISTERS.get(path.suffix.lower())
        if lister is None or path in found:
            continue
        try:
            found |= {other for other in lister(path) if other.name in names and other != path}
        except (BadInput, *READ_ERRORS):  # the file itself is told to be damaged
            continue
    return found


def _belongs(name: str, rule: Rule, names: set[str]) -> bool:
    pattern, mains = rule
    match = pattern.fullmatch(name)
    return match is not None and any(match.expand(main) in names for main in mains)


def _list_linked(path: Path) -> list[Path]:
    """The files that external links of an HDF5 file point to, and those of virtual data sets."""
    found: set[str] = set()

    def visit(_: str, link: object) -> None:
        if isinstance(link, h5py.ExternalLink):
            found.add(link.filename)

    with open_hdf5(path) as file:
        file.visititems_links(visit)
        for item in list_datasets(file).values():
            found |= {one.file_name for one in item.virtual_sources()} if item.is_virtual else set()
    return [path.parent / name for name in found if name != "."]


LISTERS: dict[str, Callable[[Path], list[Path]]] = {
    ".mib": merlin.list_files,
    ".raw": empad.list_files,
    ".toml": raw_csr.list_files,
    ".tif": tif.list_files,
    ".tiff": tif.list_files,
    **dict.fromkeys(HDF5_SUFFIXES, _list_linked),
}
"""By ending of a file, what lists the files that its reader opens besides it."""
