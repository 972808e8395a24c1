"""What a reader found wrong with a file that it reads all the same: logged, and kept with the scan."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["collect_remarks", "mute_remarks", "silence_remarks", "warn"]

_collected: ContextVar[list[str] | None] = ContextVar("remarks", default=None)
_muted: ContextVar[bool] = ContextVar("muted", default=False)
_silent: ContextVar[bool] = ContextVar("silent", default=False)


def warn(log: logging.Logger, text: str, /, *values: object) -> None:
    """Log a warning, and keep its sentence where `collect_remarks` asks for it.

    Args:
        log: of the reader.
        text: with places for the values, as of `logging.Logger.warning`.
        *values: for those places.
    """
    if _muted.get():
        return
    if not _silent.get():
        log.warning(text, *values)
    found = _collected.get()
    sentence = text % values if values else text
    if found is not None and sentence not in found:
        found.append(sentence)


@contextmanager
def collect_remarks() -> Iterator[list[str]]:
    """Sentences of the warnings that readers give inside of the block.

    Example:
        >>> with collect_remarks() as found:
        ...     warn(logging.getLogger("phaseloom"), "%s: is cut", "a.mib")
        >>> found
        ['a.mib: is cut']
    """
    found: list[str] = []
    token = _collected.set(found)
    try:
        yield found
    finally:
        _collected.reset(token)


@contextmanager
def mute_remarks() -> Iterator[None]:
    """Neither log nor keep remarks inside of the block: of a file that is read again and again.

    Example:
        >>> with collect_remarks() as found, mute_remarks():
        ...     warn(logging.getLogger("phaseloom"), "%s: is cut", "a.mib")
        >>> found
        []
    """
    token = _muted.set(True)
    try:
        yield
    finally:
        _muted.reset(token)


@contextmanager
def silence_remarks() -> Iterator[None]:
    """Keep remarks, and do not log them, inside of the block: of one file in a list of many.

    Only this thread is silent, unlike with a level of the logger.

    Example:
        >>> with collect_remarks() as found, silence_remarks():
        ...     warn(logging.getLogger("phaseloom"), "%s: is cut", "a.mib")
        >>> found
        ['a.mib: is cut']
    """
    token = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(token)
