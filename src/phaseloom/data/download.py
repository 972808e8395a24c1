"""Fetch a file over HTTP: resumed where it stopped, checked, and under its name only when it is whole."""

import errno
import hashlib
import http.client
import os
import re
import shutil
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from phaseloom.errors import BadInput
from phaseloom.version import __version__

__all__ = ["Check", "RemoteFile", "download", "open_url"]

SECONDS_OF_SILENCE = 30.0
"""Without a byte for so long a server counts as lost."""

BYTES_PER_PIECE = 1 << 18

NOT_REACHED = (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError)


class Check(StrEnum):
    """How a file was verified: the text of a message."""

    CHECKSUM = "its checksum is right"
    SIZE = "its checksum is not known, its size is right"
    NOTHING = "neither its checksum nor its size is known"


@dataclass(frozen=True)
class RemoteFile:
    """A file that can be fetched.

    Attributes:
        name: of the file here.
        url: ``http`` or ``https``.
        size: bytes; ``None``: not known.
        checksum: ``md5:`` or ``sha256:`` with hexadecimal digits; empty: not known.
    """

    name: str
    url: str
    size: int | None = None
    checksum: str = ""

    def __post_init__(self) -> None:
        if self.name in ("", ".", "..") or re.search(r"[/\\\0]", self.name):
            raise BadInput("get", self.name, "is not the name of a file: the list that names it is damaged")
        if urllib.parse.urlparse(self.url).scheme not in ("http", "https"):
            raise BadInput(f"get: {self.name}", self.url, "is not an address of the web: http or https")


def download(
    remote: RemoteFile, folder: Path, /, *, report: Callable[[int, int | None], None] | None = None
) -> tuple[Path, Check]:
    """Fetch a file into a folder, which is made if needed.

    What has come is kept in ``NAME.part`` when the connection is lost, and continued by the next call.

    Args:
        remote: what to fetch.
        folder: where to.
        report: called with the bytes that are there and the bytes of all.

    Returns:
        The file, and how it was verified.

    Raises:
        BadInput: the file exists; no network; no such file; disk full; a wrong size or checksum.
    """
    target = folder / remote.name
    if target.exists():
        raise BadInput("get", str(target), "exists already: remove it, or choose another folder with --out")
    part = target.with_name(f"{remote.name}.part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        expected = _fetch(remote, part, report or (lambda *_: None))
        check = _verify(remote, part, expected)
        os.replace(part, target)
    except OSError as problem:
        raise _explain_disk(problem, remote, part) from problem
    return target, check


def open_url(url: str, place: str, headers: dict[str, str] | None = None, /) -> Any:
    """The answer of a server; without one a sentence.

    Raises:
        BadInput: no network, or an answer that is an error.
    """
    known = {"User-Agent": f"phaseloom/{__version__}", "Accept-Encoding": "identity", **(headers or {})}
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=known), timeout=SECONDS_OF_SILENCE)
    except urllib.error.HTTPError as problem:
        if problem.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        fix = f"was refused by the server ({problem.code} {problem.reason}): look at the address in a browser"
        raise BadInput(place, url, fix) from problem
    except NOT_REACHED as problem:
        raise _explain_network(problem, place, url) from problem


def _fetch(remote: RemoteFile, part: Path, report: Callable[[int, int | None], None]) -> int | None:
    """Bring the missing rest of a file; the size that the server tells, or that was known."""
    place = f"get: {remote.name}"
    have = part.stat().st_size if part.exists() else 0
    if remote.size is not None and have > remote.size:
        part.unlink()
        have = 0
    if remote.size is not None and have == remote.size and have:
        report(have, have)
        return remote.size
    try:
        answer = open_url(remote.url, place, {"Range": f"bytes={have}-"} if have else {})
    except urllib.error.HTTPError:  # the part is as long as the file, or longer
        part.unlink()
        have = 0
        answer = open_url(remote.url, place)
    with closing(answer):
        if have and not _continues(answer, have):
            have = 0
        total = _total_size(answer, have) or remote.size
        _require_space(remote, part, have, total)
        report(have, total)
        with part.open("ab" if have else "wb") as file:
            for piece in _iterate_pieces(answer, remote):
                file.write(piece)
                have += len(piece)
                report(have, total)
            file.flush()
            os.fsync(file.fileno())
    if total is not None and have < total:
        fix = f"was cut off after {have} of {total} bytes: call again, and it continues there"
        raise BadInput(f"get: {remote.name}", None, fix)
    return total


def _continues(answer: Any, have: int) -> bool:
    """Whether a server sends the rest from where the part ends, and not all of it again."""
    begins = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    return answer.status == http.HTTPStatus.PARTIAL_CONTENT and begins is not None and int(begins[1]) == have


def _total_size(answer: Any, have: int) -> int | None:
    length = answer.headers.get("Content-Length", "")
    return have + int(length) if length.isdigit() else None


def _iterate_pieces(answer: Any, remote: RemoteFile) -> Iterator[bytes]:
    """What a server sends, in pieces; a connection that is lost becomes a sentence."""
    while True:
        try:
            piece = answer.read(BYTES_PER_PIECE)
        except NOT_REACHED as problem:
            raise _explain_network(problem, f"get: {remote.name}", remote.url) from problem
        if not piece:
            return
        yield piece


def _require_space(remote: RemoteFile, part: Path, have: int, total: int | None) -> None:
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - have > free:
        room = f"needs {total - have} bytes, and {free} are free in {part.parent}"
        fix = f"{room}: choose another folder with --out"
        raise BadInput(f"get: {remote.name}", None, fix)


def _verify(remote: RemoteFile, part: Path, expected: int | None) -> Check:
    """Compare size and checksum with what is known; a wrong file is removed."""
    size = part.stat().st_size
    wanted = remote.size if remote.size is not None else expected
    if wanted is not None and size != wanted:
        part.unlink()
        fix = f"has {size} bytes instead of {wanted}, so it was removed: call again"
        raise BadInput(f"get: {remote.name}", None, fix)
    kind, _, digits = remote.checksum.partition(":")
    if not digits:
        return Check.NOTHING if wanted is None else Check.SIZE
    if kind not in ("md5", "sha256"):
        raise BadInput(f"get: {remote.name}", remote.checksum, "is not a checksum of md5 or sha256")
    found = hashlib.new(kind, usedforsecurity=False)
    with part.open("rb") as file:
        while piece := file.read(BYTES_PER_PIECE):
            found.update(piece)
    if found.hexdigest() != digits.lower():
        part.unlink()
        fix = "does not have the checksum that its publisher states, so it was removed: call again"
        raise BadInput(f"get: {remote.name}", None, fix)
    return Check.CHECKSUM


def _explain_network(problem: Exception, place: str, url: str) -> BadInput:
    """Why a server was not reached, and that a part is continued."""
    reason = getattr(problem, "reason", None) or problem
    text = " ".join(str(reason).split()) or type(problem).__name__
    host = urllib.parse.urlparse(url).netloc
    fix = f"could not be reached ({text}): check the network, then call again; what has come is kept"
    return BadInput(place, host, fix)


def _explain_disk(problem: OSError, remote: RemoteFile, part: Path) -> BadInput:
    if problem.errno in (errno.ENOSPC, errno.EDQUOT):
        fix = f"does not fit on the disk: free some of it, then call again; {part.name} is continued"
        return BadInput(f"get: {remote.name}", None, fix)
    fix = f"cannot be written ({problem.strerror or problem}): choose another folder with --out"
    return BadInput(f"get: {part}", None, fix)
