"""What a long step is doing and how far it is, for those who wait for it.

Steps report to the logger ``phaseloom.progress`` at level ``DEBUG``, far more often than anybody reads: who
shows the reports leaves most of them out.

Example:
    >>> with name_step("near field"), name_step("fit 2 of 6"):
    ...     describe_progress("step 3 of 60")
    'near field: fit 2 of 6: step 3 of 60'
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["describe_progress", "log", "name_step", "report_progress"]

log = logging.getLogger("phaseloom.progress")

_steps: ContextVar[tuple[str, ...]] = ContextVar("steps", default=())


@contextmanager
def name_step(name: str, /) -> Iterator[None]:
    """Report that a step begins, and put its name before all reports from within."""
    token = _steps.set((*_steps.get(), name))
    try:
        report_progress()
        yield
    finally:
        _steps.reset(token)


def report_progress(text: str = "", /) -> None:
    """Report how far the steps under way are; next to nothing where nobody listens."""
    if log.isEnabledFor(logging.DEBUG):
        log.debug("%s", describe_progress(text))


def describe_progress(text: str = "", /) -> str:
    """The names of the steps under way, the outermost first, and a text."""
    return ": ".join([*_steps.get(), *([text] if text else [])])
