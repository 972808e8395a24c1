"""Windows that stay awake while something computes, and a Ctrl-C that loses nothing."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

from phaseloom.plot.gui import pump

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["watching"]

Item = TypeVar("Item")

log = logging.getLogger(__name__)


def watching(iterable: Iterable[Item], /, *, figures: Sequence[Figure] | None = None) -> Iterator[Item]:
    """The items of an iterable, such as the epochs of a job, with windows awake between them.

    Ctrl-C ends the loop and not the program: while an item is computed, the generator is told (a fit
    goes back to its last good state and ends); between items, the body of the loop is left to finish.
    Either way the loop is over as if there were no more items. A second Ctrl-C is raised.

    Args:
        iterable: anything; computed in this thread, so windows sleep while an item is under way.
        figures: whose events are handled; default: of all windows that are open.

    Yields:
        Its items.

    Example:
        >>> def epochs():
        ...     yield 1
        ...     raise KeyboardInterrupt
        >>> list(watching(epochs()))
        [1]
    """
    items = iter(iterable)
    with _Interrupts() as interrupts:
        while not interrupts.count:
            try:
                item = interrupts.within(items)
            except StopIteration:
                return
            except KeyboardInterrupt:
                if interrupts.count > 1:
                    raise
                return
            yield item
            pump(figures)


class _Interrupts:
    """Ctrl-C counted: the first is raised only while an item is computed, all others at once.

    A program that handles Ctrl-C itself, and threads, which never hear of it, are left alone.
    """

    def __init__(self) -> None:
        self.count, self._inside, self._installed = 0, False, False

    def __enter__(self) -> _Interrupts:
        here = threading.current_thread() is threading.main_thread()
        if here and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._heard)
            self._installed = True
        return self

    def __exit__(self, *_: object) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def within(self, items: Iterator[Item]) -> Item:
        """The next item."""
        self._inside = True
        try:
            return next(items)
        finally:
            self._inside = False

    def _heard(self, number: int, stack: FrameType | None) -> None:
        self.count += 1
        if self._inside or self.count > 1:
            raise KeyboardInterrupt
        log.warning("Ctrl-C: ends after this item; again: at once")
