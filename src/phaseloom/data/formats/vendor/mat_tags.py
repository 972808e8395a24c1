"""The tags of a MATLAB 5 file, looked at before scipy reads it: one of an unknown type ends its process.

`scipy.io.loadmat` looks types up in a table without bounds (a segmentation fault, seen with scipy 1.17).

Source: MATLAB, MAT-File Format, section "Data Elements of version 5 MAT-Files".
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from phaseloom.errors import BadInput

__all__ = ["require_known_tags"]

MATRIX = 14
COMPRESSED = 15
NUMBER_TYPES = {1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 16, 17, 18}
HEADER_BYTES = 128
PIECE = 1 << 20
MAX_DEPTH = 32


class _Stream(Protocol):
    def read(self, count: int, /) -> bytes: ...


def require_known_tags(path: Path, /) -> None:
    """Refuse a file of version 5 whose elements have unknown types, or do not lie in each other.

    Raises:
        BadInput: the file is damaged.
    """
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES)
        order = {b"IM": "<", b"MI": ">"}.get(header[126:128])
        if order is None:  # version 4, or none: scipy reads it in Python
            return
        try:
            _walk_elements(file, path.stat().st_size - HEADER_BYTES, order, 0)
        except (ValueError, struct.error, zlib.error) as problem:
            fix = f"is damaged ({problem}): save or copy it again"
            raise BadInput(path.name, None, fix) from problem


def _walk_elements(stream: _Stream, left: int, order: str, depth: int) -> None:
    """Look at the elements in so many bytes."""
    if depth > MAX_DEPTH:
        raise ValueError("structures lie too deep in each other")
    while left >= 8 and (tag := stream.read(8)):
        kind, size, small = _parse_tag(tag, order)
        padded = size if small or kind == COMPRESSED else size + (-size % 8)
        left -= 8 if small else 8 + padded
        if left < -7:  # the last one may lack its padding
            raise ValueError("an element is longer than what it lies in")
        if kind == COMPRESSED and depth == 0:
            part = _Part(stream, size)
            _walk_elements(_Inflated(part, size), 1 << 62, order, 1)
            _skip_rest(part)
        elif kind == MATRIX:
            part = _Part(stream, size)
            _walk_elements(part, size, order, depth + 1)
            _skip_rest(part)
        elif kind not in NUMBER_TYPES:
            raise ValueError(f"an element of type {kind}")
        elif not small:
            _skip(stream, padded)


def _parse_tag(tag: bytes, order: str) -> tuple[int, int, bool]:
    """Type and bytes of an element, and whether its data are in the tag."""
    kind, size = struct.unpack(f"{order}II", tag)
    return (kind & 0xFFFF, kind >> 16, True) if kind >> 16 else (kind, size, False)


def _skip_rest(part: "_Part") -> None:
    while part.read(PIECE):
        pass


def _skip(stream: _Stream, count: int) -> None:
    while count > 0 and (read := stream.read(min(count, PIECE))):
        count -= len(read)
    if count > 7:  # the last element may lack its padding
        raise ValueError("the end is missing")


class _Part:
    """The first bytes of what is left of a stream."""

    def __init__(self, stream: _Stream, count: int):
        self._stream, self._left = stream, count

    def read(self, count: int, /) -> bytes:
        """As of a file."""
        read = self._stream.read(min(count, self._left))
        self._left -= len(read)
        return read


class _Inflated:
    """The content of a compressed element."""

    def __init__(self, stream: _Stream, count: int):
        self._pieces = self._inflate(stream, count)
        self._have = b""

    @staticmethod
    def _inflate(stream: _Stream, count: int) -> Iterator[bytes]:
        inflater = zlib.decompressobj()
        while count > 0:
            packed = stream.read(min(count, PIECE))
            if not packed:
                raise ValueError("the end is missing")
            count -= len(packed)
            while packed:
                yield inflater.decompress(packed, PIECE)
                packed = inflater.unconsumed_tail

    def read(self, count: int, /) -> bytes:
        """As of a file."""
        while len(self._have) < count:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._have += piece
        read, self._have = self._have[:count], self._have[count:]
        return read
