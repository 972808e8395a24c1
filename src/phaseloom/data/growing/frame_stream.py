"""Frames over a ZeroMQ socket, received by a thread of their own."""

import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from phaseloom.data.growing.feed import Announcement, FeedEnd, FrameBlock, announce_frames, parse_setup
from phaseloom.data.growing.stream_messages import (
    FrameMessage,
    HeaderMessage,
    SeriesEndMessage,
    parse_message,
)
from phaseloom.errors import BadInput, MissingExtra

__all__ = ["FrameStream"]

MILLISECONDS_OF_POLL = 50
"""That the thread waits for a message before it looks whether it is to end."""

SECONDS_AFTER_END = 0.5
"""That frames are waited for which arrive after the end of their series."""

MAX_BYTES_WAITING = 1_000_000_000
"""Of frames that nobody has taken: beyond it none is received, and the sender has to wait."""

MESSAGES_QUEUED = 100_000
"""Messages that ZeroMQ keeps for a slow receiver (ZMQ_RCVHWM); the sender keeps more."""


class FrameStream:
    """One series of frames from a socket that pushes or publishes messages as DECTRIS detectors do.

    A thread receives and keeps frames, so that none is lost while an epoch takes its time; they are decoded
    when they are taken.
    Messages of other series, and those that are damaged, are counted and left out. A stream that is entered
    in the middle has no header: what it would have said must then be in ``setup``.

    Args:
        address: as ZeroMQ has it, ``tcp://host:9999``.
        setup: what the stream does not say, as in a side-car; it wins over the stream.
        silence: seconds without a message after which the sender is taken to have died.
        subscribe: a socket that publishes (PUB) rather than pushes.

    Raises:
        MissingExtra: pyzmq is not installed.
        BadInput: not an address.
    """

    def __init__(
        self,
        address: str,
        /,
        *,
        setup: Mapping[str, Any] | None = None,
        silence: float = 30.0,
        subscribe: bool = False,
    ):
        self.address = address
        self.setup = dict(setup or {})
        parse_setup(self.setup, address)  # before a series comes that a mistake in it would cost
        self._subscribes = subscribe
        self.file: Path | None = None
        self.format = "auto"
        self.silence = silence
        self.end: FeedEnd | None = None
        self._socket, self._context = _connect(address, subscribe=subscribe)
        self._lock = threading.Lock()
        self._waiting: deque[FrameMessage] = deque()
        self._bytes_waiting = 0
        self._header: HeaderMessage | None = None
        self._series: int | None = None
        self._over: float | None = None
        self._count: int | None = None
        self._problems: dict[str, int] = {}
        self._last_message = time.monotonic()
        self._is_heard = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._receive, name=f"frames of {address}", daemon=True)
        self._thread.start()
        self._taken = 0

    @property
    def name(self) -> str:
        """The address."""
        return self.address

    def announce(self) -> Announcement | None:
        """What the header of the series says, once a frame shows what patterns are like."""
        with self._lock:
            head = self._header
            first = self._waiting[0] if self._waiting else None
        if first is None:
            return None
        header = None
        positions = None
        self._count = None
        if head is not None and head.series == first.series:
            header = head.header
            self._count = head.count
            positions = head.positions
        if header is not None and positions is not None:
            header = replace(header, positions=positions)
        given = {"positions", "step"} & set(self.setup)
        with_frames = positions is None and first.position is not None and not given
        found = announce_frames(
            self.address, first.shape, self.setup, header=header, count=self._count, with_frames=with_frames
        )
        self._count = found.count
        return found

    def take(self) -> list[FrameBlock]:
        """Frames that were received since the last call, decoded."""
        with self._lock:
            some = list(self._waiting)
            self._waiting.clear()
            self._bytes_waiting = 0
            now = time.monotonic()
            quiet = now - self._last_message
            over = self._over is not None and now - self._over > SECONDS_AFTER_END
        blocks = [block for message in some if (block := self._decode(message)) is not None]
        self._taken += len(blocks)
        if self.end is None and not some:
            if over:
                whole = self._count is not None and self._taken >= self._count
                self.end = FeedEnd.COMPLETE if whole else FeedEnd.ENDED
            elif quiet > self.silence:
                self.end = FeedEnd.SILENT
        return blocks

    def report(self) -> list[str]:
        """What was wrong with messages, and how often."""
        with self._lock:
            if not self._is_heard:
                kind = (
                    "pushes (PUSH): leave --subscribe out"
                    if self._subscribes
                    else "publishes (PUB): --subscribe"
                )
                return [f"check the address, that the detector is armed, and whether it {kind}"]
            return [text if n == 1 else f"{text} ({n} messages)" for text, n in self._problems.items()]

    def close(self) -> None:
        """Receive no more."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)
        self.end = self.end or FeedEnd.ENDED

    def _decode(self, message: FrameMessage) -> FrameBlock | None:
        try:
            frame = message.decode()
        except MissingExtra:
            raise
        except BadInput as problem:
            self._note(str(problem))
            return None
        position = None if message.position is None else message.position[None]
        return FrameBlock(np.array([message.number]), frame[None], position)

    def _receive(self) -> None:
        """The thread: keep frames of the first series until it is over or nobody wants more."""
        try:
            while not self._stop.is_set():
                full = self._bytes_waiting > MAX_BYTES_WAITING
                if full:
                    time.sleep(MILLISECONDS_OF_POLL / 1000)
                elif self._socket.poll(MILLISECONDS_OF_POLL):
                    self._keep(self._socket.recv_multipart())
        finally:
            self._socket.close(linger=0)
            self._context.term()

    def _keep(self, parts: list[bytes]) -> None:
        self._is_heard = True
        try:
            message = parse_message(parts)
        except BadInput as problem:
            self._note(str(problem))
            return
        with self._lock:
            self._last_message = time.monotonic()
            if message is None:
                return
            if self._series is None and not isinstance(message, SeriesEndMessage):
                self._series = message.series
            if message.series != self._series:
                if isinstance(message, FrameMessage):
                    text = f"frames of another series than {self._series} were left out"
                    self._problems[text] = self._problems.get(text, 0) + 1
                return
            if isinstance(message, HeaderMessage):
                self._header = message
            elif isinstance(message, SeriesEndMessage):
                self._over = time.monotonic()
            else:
                self._waiting.append(message)
                self._bytes_waiting += len(message.blob)

    def _note(self, text: str) -> None:
        with self._lock:
            self._problems[text] = self._problems.get(text, 0) + 1


def _connect(address: str, *, subscribe: bool) -> tuple[Any, Any]:
    """A socket that is connected, and its context."""
    try:
        import zmq
    except ImportError as problem:
        raise MissingExtra(f"{address}: a stream", "pyzmq", "live") from problem
    context = zmq.Context()
    socket = context.socket(zmq.SUB if subscribe else zmq.PULL)
    socket.setsockopt(zmq.RCVHWM, MESSAGES_QUEUED)
    if subscribe:
        socket.setsockopt(zmq.SUBSCRIBE, b"")
    try:
        socket.connect(address)
    except zmq.ZMQError as problem:
        socket.close(linger=0)
        context.term()
        raise BadInput(address, None, f"is not an address ({problem}): write tcp://host:port") from problem
    return socket, context
