"""Messages of a detector that sends its frames over a socket: the layout of DECTRIS Stream, version 1.

Each message has several parts. The first is JSON with ``htype``:

* ``dheader-1.0``: a series begins (``series``, ``header_detail``). The second part is the configuration of
  the detector as JSON (``photon_energy`` in eV, ``detector_distance`` and ``x_pixel_size`` in metres,
  ``nimages``, ``ntrigger``). With ``header_detail`` ``all`` pairs of parts follow, JSON and bytes, of which
  ``dpixelmask-1.0`` is read (not zero: bad).
* ``dimage-1.0``: a frame (``series``, ``frame``). The second part, ``dimage_d-1.0``, has ``shape`` as
  ``[x, y]``, ``type`` and ``encoding``; the third is the frame. All three keys may stand in the first part
  instead, and the frame be the second.
* ``dseries_end-1.0``: the series is over.

A last part of user text (the "appendix") that is a JSON object may have ``position`` (a frame) or
``positions`` (a header): ``[row, column]`` of the beam on the object, with ``unit`` (``A``, ``nm``, ``um``,
``mm``, ``m``; default ``m``).

Source: DECTRIS, "SIMPLON API reference", chapter "Stream".
"""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import h5py
import numpy as np

from phaseloom.data.formats.header import Header
from phaseloom.data.formats.setup import ANGSTROM_PER_UNIT
from phaseloom.errors import BadInput, MissingExtra

__all__ = ["FrameMessage", "HeaderMessage", "SeriesEndMessage", "decode_frame", "parse_message"]

TYPES = ("uint8", "uint16", "uint32", "int8", "int16", "int32", "float32", "float64")

BITSHUFFLE = 32008
LZ4 = 32004
"""Numbers of the filters in the registry of HDF5, which `hdf5plugin` brings."""

BITSHUFFLE_WITH_LZ4 = 2
"""An argument of the filter ``BITSHUFFLE``."""


@dataclass(frozen=True, eq=False)
class HeaderMessage:
    """A series begins.

    Attributes:
        series: its number.
        header: what it says of the experiment.
        count: of patterns, if it says so.
        shape: of a pattern (y, x), if it says so.
        positions: ``(n, 2)`` angstrom, if it has them.
    """

    series: int
    header: Header
    count: int | None
    shape: tuple[int, int] | None
    positions: np.ndarray | None


@dataclass(frozen=True, eq=False)
class FrameMessage:
    """A frame that is not decoded yet.

    Attributes:
        series: that it belongs to.
        number: in it, from 0.
        shape: (y, x).
        dtype: of the pixels.
        encoding: how they are compressed, as of DECTRIS: ``<``, ``lz4<``, ``bs16-lz4<``.
        blob: the bytes.
        position: ``(2,)`` angstrom, if it has one.
    """

    series: int
    number: int
    shape: tuple[int, int]
    dtype: np.dtype
    encoding: str
    blob: bytes
    position: np.ndarray | None

    def decode(self) -> np.ndarray:
        """The frame ``(y, x)``; errors as of `decode_frame`."""
        return decode_frame(self.blob, self.encoding, self.shape, self.dtype)


@dataclass(frozen=True)
class SeriesEndMessage:
    """A series is over."""

    series: int


def parse_message(parts: Sequence[bytes], /) -> HeaderMessage | FrameMessage | SeriesEndMessage | None:
    """What a message says; ``None``: something else than a header, a frame or an end.

    Raises:
        BadInput: not a message of this layout, or one that lacks something.

    Example:
        >>> parse_message([b'{"htype": "dseries_end-1.0", "series": 7}'])
        SeriesEndMessage(series=7)
    """
    first = _read_json(parts[0]) if parts else None
    if first is None or "htype" not in first:
        raise BadInput("stream: message", None, "does not begin with JSON that has htype (DECTRIS Stream 1)")
    kind = str(first["htype"]).partition("-")[0]
    try:
        if kind == "dheader":
            return _parse_header(first, parts)
        if kind == "dimage":
            return _parse_frame(first, parts)
        if kind == "dseries_end":
            return SeriesEndMessage(int(first["series"]))
    except (KeyError, TypeError, ValueError, IndexError) as problem:
        named = f"{type(problem).__name__}: {problem}"
        raise BadInput(
            f"stream: {first['htype']}", None, f"is not whole ({named}): check the sender"
        ) from problem
    return None


def decode_frame(blob: bytes, encoding: str, shape: tuple[int, int], dtype: np.dtype, /) -> np.ndarray:
    """A frame ``(y, x)`` from its bytes.

    Args:
        blob: the bytes.
        encoding: ``<`` or ``>`` (as they are), ``lz4<``, ``bs8-lz4<``, ``bs16-lz4<``, ``bs32-lz4<``.
        shape: (y, x).
        dtype: of the pixels.

    Raises:
        BadInput: another encoding, or bytes that do not make such a frame.
        MissingExtra: a compressed frame, and hdf5plugin is not installed.

    Example:
        >>> decode_frame(np.arange(6, dtype="<u2").tobytes(), "<", (2, 3), np.dtype("u2")).tolist()
        [[0, 1, 2], [3, 4, 5]]
    """
    size = shape[0] * shape[1] * dtype.itemsize
    stored = dtype.newbyteorder(">" if encoding.endswith(">") else "<")
    name = encoding.rstrip("<>")
    if name == "":
        if len(blob) != size:
            fix = f"but {shape[0]} x {shape[1]} pixels of {dtype} have {size}: check shape, type and encoding"
            raise BadInput("stream: frame", f"{len(blob)} bytes", fix)
        return np.frombuffer(blob, stored).reshape(shape).astype(dtype)
    if name not in ("lz4", "bs8-lz4", "bs16-lz4", "bs32-lz4"):
        fix = "is not known: use <, lz4<, bs8-lz4<, bs16-lz4< or bs32-lz4<"
        raise BadInput("stream: encoding", encoding, fix)
    if name == "lz4":  # bare, where the filter of HDF5 has the lengths before it
        return _decompress(struct.pack(">QII", size, size, len(blob)) + blob, (LZ4, None), shape, stored)
    return _decompress(blob, (BITSHUFFLE, (0, BITSHUFFLE_WITH_LZ4)), shape, stored)


def _decompress(
    chunk: bytes, how: tuple[int, tuple[int, ...] | None], shape: tuple[int, int], stored: np.dtype
) -> np.ndarray:
    """A frame as the only chunk of a file in memory, which HDF5 decompresses."""
    try:
        __import__("hdf5plugin")
    except ImportError as problem:
        raise MissingExtra("stream: compressed frames", "hdf5plugin", "live") from problem
    number, options = how
    with h5py.File("frame.h5", "w", driver="core", backing_store=False) as file:
        data = file.create_dataset(
            "frame", shape, stored, chunks=shape, compression=number, compression_opts=options
        )
        try:
            data.id.write_direct_chunk((0, 0), chunk)
            return np.asarray(data[()]).astype(stored.newbyteorder("="), copy=False)
        except (OSError, RuntimeError, ValueError) as problem:
            fix = "cannot be decompressed: check shape, type and encoding, and the network"
            raise BadInput("stream: frame", f"{len(chunk)} bytes", fix) from problem


def _parse_header(first: Mapping[str, Any], parts: Sequence[bytes]) -> HeaderMessage:
    config = (_read_json(parts[1]) if len(parts) > 1 else None) or {}
    appendix = _read_json(parts[-1]) if len(parts) > 1 else None
    mask = None
    for named, blob in pairwise(parts[1:]):
        about = _read_json(named)
        if about is not None and str(about.get("htype", "")).startswith("dpixelmask"):
            columns, rows = about["shape"]
            mask = np.frombuffer(blob, np.dtype(str(about.get("type", "uint32")))).reshape(rows, columns) == 0
    count = None
    if config.get("nimages") is not None:
        count = int(config["nimages"]) * int(config.get("ntrigger", 1))
    sides = [config.get(f"{axis}_pixels_in_detector") for axis in "yx"]
    shape = None if None in sides else (int(sides[0] or 0), int(sides[1] or 0))
    table = None if appendix is None else appendix.get("positions")
    positions = None if table is None else _read_position(table, appendix)
    return HeaderMessage(int(first["series"]), _describe(config, mask), count, shape, positions)


def _describe(config: Mapping[str, Any], mask: np.ndarray | None) -> Header:
    """What the configuration of a detector says, in our units."""
    lengths = {"distance": "detector_distance", "detector_pixel": "x_pixel_size"}
    found: dict[str, Any] = {
        ours: float(config[theirs]) * 1e10
        for ours, theirs in lengths.items()
        if float(config.get(theirs) or 0) > 0
    }
    if float(config.get("photon_energy") or 0) > 0:
        found |= {"energy": float(config["photon_energy"]), "beam": "photon"}
    texts = {"detector": "description", "date": "data_collection_date", "dwell time": "frame_time"}
    metadata = {ours: str(config[theirs]) for ours, theirs in texts.items() if theirs in config}
    return Header(mask=mask, metadata=metadata, **found)


def _parse_frame(first: Mapping[str, Any], parts: Sequence[bytes]) -> FrameMessage:
    about = first if "shape" in first else _read_json(parts[1])
    if about is None:
        raise ValueError("shape and type are missing")
    blob = parts[1 if about is first else 2]
    columns, rows = (int(side) for side in about["shape"][:2])
    kind = str(about["type"])
    if kind not in TYPES:
        raise ValueError(f"type {kind}")
    rest = parts[2 if about is first else 3 :]
    known = [first, *(found for found in map(_read_json, rest) if found is not None)]
    place = next((one for one in known if "position" in one), None)
    position = None if place is None else _read_position([place["position"]], place)[0]
    number = int(first["frame"])
    encoding = str(about.get("encoding", "<"))
    return FrameMessage(
        int(first["series"]), number, (rows, columns), np.dtype(kind), encoding, blob, position
    )


def _read_position(table: Any, about: Any) -> np.ndarray:
    """Positions ``(n, 2)`` in angstrom."""
    unit = str(about.get("unit", "m"))
    return np.asarray(table, float).reshape(-1, 2) * ANGSTROM_PER_UNIT[unit]


def _read_json(part: bytes) -> dict[str, Any] | None:
    """A part that is a JSON object; ``None``: bytes of another kind."""
    if bytes(part[:1]) != b"{":
        return None
    try:
        found = json.loads(bytes(part))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
