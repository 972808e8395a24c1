"""Public scans by short names: where they are, how large, under which licence, as far as that is known.

What was not known when the list was made is left out, and said to be not known. The files of a record, with
their sizes and checksums, are asked for when they are fetched.
"""

import fnmatch
import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from phaseloom.data.download import RemoteFile, open_url
from phaseloom.errors import BadInput, nearest

__all__ = ["PUBLIC_SCANS", "PublicScan", "choose_files", "find_scan", "list_files"]

RECORDS = "https://zenodo.org/api/records"

MAX_BYTES_OF_LIST = 5_000_000


@dataclass(frozen=True)
class PublicScan:
    """A published scan.

    Attributes:
        record: number of the record at Zenodo.
        about: what it is, in a line.
        size: of all files, bytes, or of ``files``; ``None``: not known.
        licence: as the record states it; empty: not known here.
        files: names of the files that are the scan; none: all of the record.
        sizes: bytes of these files, where known.
    """

    record: int
    about: str
    size: int | None = None
    licence: str = ""
    files: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()

    @property
    def doi(self) -> str:
        """Of the record."""
        return f"10.5281/zenodo.{self.record}"


PUBLIC_SCANS: Mapping[str, PublicScan] = {
    "bilayer-ws2": PublicScan(
        15490547,
        "WS2 bilayer, 200 kV, Celeritas, 246 x 246 patterns of 8 x 8 pixels, float32",
        size=12_492_298,
        licence="CC-BY-4.0",
        files=("smallPtychography.hspy",),
        sizes=(12_492_298,),
    ),
    "srtio3-merlin": PublicScan(
        5113449, "SrTiO3, Merlin, 128 x 128 patterns of 256 x 256 pixels, .mib", size=177_000_000
    ),
    "moss-6": PublicScan(
        13958144,
        "MOSS-6, 300 kV, EMPAD, 10 mrad, step 1.05 A, about 100 nm defocus, 98 electrons per square angstrom",
        size=4_360_000_000,
    ),
    "twisted-bilayer-wse2": PublicScan(10431683, "twisted WSe2 bilayer, 80 kV", size=1_090_000_000),
    "apoferritin": PublicScan(18346853, "apoferritin, .npy"),
    "graphene": PublicScan(4476506, "graphene"),
    "wse2": PublicScan(6477629, "WSe2"),
    "nordtemhub": PublicScan(11284654, "scans of NordTEMHub"),
    "ptyrad-demo": PublicScan(15283331, "the data of PtyRAD's demonstrations"),
}
"""By the names of ``phaseloom get``. Sizes of three or fewer digits are rounded."""


def find_scan(name: str, /) -> PublicScan:
    """The scan of a name.

    Raises:
        BadInput: there is none.

    Example:
        >>> find_scan("bilayer-ws2").doi
        '10.5281/zenodo.15490547'
    """
    if name not in PUBLIC_SCANS:
        raise BadInput("get", name, f"is not a scan of the list: {nearest(name, PUBLIC_SCANS)}")
    return PUBLIC_SCANS[name]


def list_files(scan: PublicScan, /, *, records: str = RECORDS) -> list[RemoteFile]:
    """The files of a scan with sizes and checksums, as its record states them now.

    Where the record is not understood, files whose names are in the list are taken without checksums.

    Args:
        scan: of the list.
        records: address under which a record's number leads to its description.

    Raises:
        BadInput: no network, or an answer that is not understood.
    """
    url = f"{records}/{scan.record}"
    place = f"get: record {scan.record}"
    with closing(open_url(url, place, {"Accept": "application/json"})) as answer:
        text = answer.read(MAX_BYTES_OF_LIST)
    try:
        found = [_read_entry(entry, url) for entry in json.loads(text)["files"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        if scan.sizes:
            return [
                RemoteFile(name, f"{url}/files/{name}/content", size)
                for name, size in zip(scan.files, scan.sizes, strict=True)
            ]
        fix = f"is not described as expected: fetch it by hand from https://doi.org/{scan.doi}"
        raise BadInput(place, None, fix) from problem
    if scan.files:
        found = [file for file in found if file.name in scan.files]
    if not found:
        raise BadInput(place, None, f"names no file to fetch: see https://doi.org/{scan.doi}")
    return found


def _read_entry(entry: Mapping[str, Any], url: str) -> RemoteFile:
    """A file as Zenodo describes it: key, size, ``md5:...``, links."""
    name = str(entry.get("key") or entry["filename"])
    links = entry.get("links") or {}
    address = links.get("self") or links.get("content") or f"{url}/files/{name}/content"
    size = entry.get("size", entry.get("filesize"))
    checksum = str(entry.get("checksum") or "")
    if checksum and ":" not in checksum:
        checksum = f"md5:{checksum}"
    return RemoteFile(name, str(address), None if size is None else int(size), checksum)


def choose_files(files: list[RemoteFile], only: str | None, /) -> list[RemoteFile]:
    """Those whose names match a pattern such as ``*.mib``; all without one.

    Raises:
        BadInput: none matches.
    """
    chosen = [file for file in files if only is None or fnmatch.fnmatch(file.name, only)]
    if not chosen:
        names = [file.name for file in files]
        raise BadInput("get: --only", only, f"fits no file of the record: {nearest(str(only), names)}")
    return chosen
