"""SIGTERM and SIGHUP end a command as Ctrl-C does: with its last epoch saved and a word on how to go on."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

__all__ = ["exit_code", "interrupt_on_signals"]

NAMES = ("SIGTERM", "SIGHUP")
"""Signals of queueing systems, and of a terminal that is closed; Windows has the first one only."""

SECONDS_UNTIL_REPEATED = 0.05
"""After which a signal that was lost is sent again."""

_received: list[int] = []


@contextmanager
def interrupt_on_signals() -> Iterator[None]:
    """Raise `KeyboardInterrupt` where these signals arrive.

    One that is ignored stays so (``nohup``). Of several processes that compute together each dies at once,
    for one that stopped by itself would keep the others waiting.
    """
    _received.clear()
    if threading.current_thread() is not threading.main_thread() or os.environ.get("WORLD_SIZE", "1") != "1":
        yield
        return
    numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
    old = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        if old[number] is signal.SIG_DFL:
            signal.signal(number, _interrupt)
    hook = sys.unraisablehook
    sys.unraisablehook = partial(_repeat_lost_interrupt, hook)
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number in numbers:
            signal.signal(number, old[number])


def _interrupt(number: int, _: FrameType | None) -> None:
    _received.append(number)
    raise KeyboardInterrupt


def _repeat_lost_interrupt(hook: Callable[[Any], Any], lost: Any) -> None:
    """Send a signal once more that arrived within a destructor, where Python drops what is raised."""
    if not issubclass(lost.exc_type, KeyboardInterrupt):
        hook(lost)
        return
    number = _received[-1] if _received else signal.SIGINT
    timer = threading.Timer(SECONDS_UNTIL_REPEATED, signal.raise_signal, (number,))
    timer.daemon = True
    timer.start()


def exit_code() -> int:
    """The exit code of what was interrupted: 128 and the number of the signal, 130 for Ctrl-C.

    Example:
        >>> exit_code()
        130
    """
    return 128 + (_received[0] if _received else signal.SIGINT)
