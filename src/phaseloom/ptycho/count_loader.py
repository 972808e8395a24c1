"""Counts of a scan on their way to the model: where they lie, and how they get to a device in time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from phaseloom.data.counts import present
from phaseloom.data.scan import Scan4D

__all__ = ["Measured"]

HELD = 32_000_000
"""Bytes of float patterns that are kept in the detector's order; larger scans would not notice."""

SHARE = 0.4
"""Of a GPU's free memory that patterns may take to lie there from the first batch on."""


class Measured:
    """Counts of a scan as float batches in the detector's order.

    On a CPU, patterns in memory are made float and arranged once, when first asked for, unless they take
    more than ``HELD`` bytes. All others are read, made float and arranged batch by batch.

    On another device patterns lie as they were counted, in their own integers, if there is room (`SHARE`).
    Otherwise a batch is read and sent while the device works on the one before, if it was announced
    (`expect`); to a GPU from pinned memory, beside its work.
    """

    def __init__(self, scan: Scan4D, arrange: Callable[[Tensor], Tensor]):
        self.counts, self.arrange = scan.counts, arrange
        self.rows, self.place = present(scan.counts)
        self.held: Lying | None = None
        self.resident: dict[torch.device, Lying | None] = {}
        self.coming: dict[int, tuple[Tensor, Sent]] = {}

    def __len__(self) -> int:
        """Number of patterns."""
        return self.counts.shape[0]

    def __getitem__(self, index: Int[Tensor, " b"]) -> Float[Tensor, "b y x"]:
        """The patterns of an index, arranged on its device."""
        if index.device.type != "cpu":
            here = self._residing(index.device)
            found = self._whole(index.cpu().numpy()).to(index.device) if here is None else here.at(index)
            return self._float(found)
        if type(self.rows) is np.ndarray and 4 * self.rows.size <= HELD:
            if self.held is None:
                self.held = Lying.on(index.device, self._ordered(self.rows, np.float32), self.place)
            return self.held.at(index)
        return self._read(index.numpy(), np.float32)

    def expect(self, pieces: Sequence[Tensor], device: torch.device, /) -> None:
        """Begin to send what `take` will be asked for next, and forget what it was not asked for."""
        if device.type != "cpu":
            self.coming = {id(piece): (piece, self._send(piece, device)) for piece in pieces}

    def take(self, index: Int[Tensor, " b"], device: torch.device, /) -> tuple[Tensor, Tensor]:
        """An index and its patterns on a device."""
        if index.device == device:
            return index, self[index]
        _, sent = self.coming.pop(id(index), (index, None))
        there, counts = (sent or self._send(index, device)).arrived()
        return there, self[there] if counts is None else self._float(counts)

    def _send(self, index: Tensor, device: torch.device) -> "Sent":
        """An index, and its patterns unless they are there already."""
        if self._residing(device) is not None:
            return Sent.to(device, index)
        return Sent.to(device, index, self._whole(index.numpy()))

    def _residing(self, device: torch.device) -> "Lying | None":
        """All patterns that are here on a device, if there was room for them when first asked."""
        if device not in self.resident:
            size = _kept(self.rows.dtype).itemsize * int(np.prod(self.rows.shape))
            self.resident[device] = self._all(device) if size <= _room(device) else None
        return self.resident[device]

    def _all(self, device: torch.device) -> "Lying":
        """All patterns that are here, sent bit by bit."""
        pieces = max(1, 4 * int(np.prod(self.rows.shape)) // HELD)
        parts = [part for part in np.array_split(np.arange(self.rows.shape[0]), pieces) if len(part)]
        kept = _kept(self.rows.dtype)
        sent = [self._ordered(np.asarray(self.rows[part]), kept).to(device) for part in parts]
        return Lying.on(device, torch.cat(sent), self.place)

    def _read(self, index: np.ndarray, dtype: Any) -> Tensor:
        """Patterns as numbers of some kind."""
        return self._ordered(np.asarray(self.counts[index]), dtype)

    def _ordered(self, patterns: np.ndarray, dtype: Any) -> Tensor:
        """Patterns in the detector's order."""
        read = patterns.astype(dtype)
        return self.arrange(torch.from_numpy(read.view(np.int16) if read.dtype == np.uint16 else read))

    def _whole(self, index: np.ndarray) -> Tensor:
        """Patterns as they are kept; two bytes without a sign as if they had one, for torch's sake."""
        return self._read(index, _kept(self.counts.dtype))

    def _float(self, counts: Tensor) -> Tensor:
        """Kept patterns as numbers of single precision."""
        numbers = counts.to(torch.float32)
        return numbers.remainder_(65536) if _kept(self.counts.dtype) == np.uint16 else numbers


class Lying(NamedTuple):
    """Patterns on a device, and where among them each one of the scan is; ``None``: at its own number."""

    patterns: Tensor
    place: Tensor | None

    @classmethod
    def on(cls, device: torch.device, patterns: Tensor, place: np.ndarray | None) -> "Lying":
        """Patterns that are on a device already, and their places, sent there."""
        return cls(patterns, None if place is None else torch.from_numpy(place).to(device))

    def at(self, index: Tensor) -> Tensor:
        """The patterns of an index of the scan."""
        return self.patterns.index_select(0, index if self.place is None else self.place[index])


@dataclass(frozen=True)
class Sent:
    """Tensors on their way to a device; to a GPU from pinned memory on a stream of their own."""

    tensors: tuple[Tensor, ...]
    stream: torch.cuda.Stream | None = None

    @classmethod
    def to(cls, device: torch.device, *tensors: Tensor) -> "Sent":
        """Send, and do not wait."""
        if device.type != "cuda":
            return cls(tuple(one.to(device, non_blocking=True) for one in tensors))
        stream = _beside(device)
        with torch.cuda.stream(stream):
            return cls(tuple(one.pin_memory().to(device, non_blocking=True) for one in tensors), stream)

    def arrived(self) -> tuple[Tensor, Tensor | None]:
        """The first tensor, and the second if there is one; what the device does next waits for them."""
        if self.stream is not None:
            now = torch.cuda.current_stream(self.tensors[0].device)
            now.wait_stream(self.stream)
            for one in self.tensors:
                one.record_stream(now)
        return self.tensors[0], self.tensors[1] if len(self.tensors) > 1 else None


@lru_cache(maxsize=8)
def _beside(device: torch.device) -> torch.cuda.Stream:
    """The stream on which patterns are sent."""
    return torch.cuda.Stream(device)


def _room(device: torch.device) -> int:
    """Bytes that patterns may take on a device."""
    return int(SHARE * torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else HELD


def _kept(dtype: np.dtype) -> np.dtype:
    """Integers of one or two bytes as they are, all else in single precision."""
    return dtype.newbyteorder("=") if dtype.kind in "iu" and dtype.itemsize <= 2 else np.dtype(np.float32)
