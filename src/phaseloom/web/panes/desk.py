"""What the panes of one browser share: the folder, the run that is looked at, work in the background."""

from __future__ import annotations

import html
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

import panel as pn
from panel.io.document import hold
from panel.io.state import set_curdoc

from phaseloom.errors import BadInput
from phaseloom.web.paths import resolve_inside, show_inside
from phaseloom.web.state.job_queue import JobQueue

__all__ = ["Desk", "card", "flow", "heading"]

log = logging.getLogger(__name__)

Work = TypeVar("Work")

EXECUTOR = ThreadPoolExecutor(max_workers=2, thread_name_prefix="phaseloom-web")
"""Reads files and makes images beside the server's own thread, which answers browsers meanwhile."""

MESSAGE: dict[str, Any] = {"sizing_mode": "stretch_width", "margin": (2, 8), "styles": {"padding": "0 12px"}}
CARD = {"border": "1px solid #d0d7de", "border-radius": "6px", "padding": "8px", "background": "white"}


class Desk:
    """Shared by the panes of one browser.

    Attributes:
        root: folder that is shown.
        queue: jobs on this machine, shared by all browsers.
        message: line that tells what goes on, and what went wrong.
        open_run: shows a run in the pane that watches; set by the page.
        compare: lays runs beside each other; set by the page.
        start_with: puts a data file into the form; set by the page.
    """

    def __init__(self, root: Path, queue: JobQueue):
        self.root = root.resolve()
        self.queue = queue
        self.document: Any = pn.state.curdoc
        self._depth = 0
        self.message = pn.pane.Alert("", alert_type="light", visible=False, **MESSAGE)
        self.open_run: Callable[[Path], None] = lambda folder: None
        self.compare: Callable[[Sequence[Path]], None] = lambda folders: None
        self.start_with: Callable[[Path], None] = lambda file: None

    def resolve(self, text: str) -> Path:
        """A path that the browser named; errors as of `phaseloom.web.paths.resolve_inside`."""
        return resolve_inside(self.root, text)

    def name_of(self, path: Path) -> str:
        """How the page names a path."""
        return show_inside(self.root, path)

    def tell(self, text: str, *, kind: str = "light") -> None:
        """Say something in the line above the panes; an empty text hides it."""
        self.message.param.update(object=_escape(text), alert_type=kind, visible=bool(text))

    def fail(self, problem: BaseException) -> None:
        """Tell what went wrong: in a sentence where it is the user's to mend."""
        if not isinstance(problem, BadInput | OSError):
            log.error("the page failed", exc_info=problem)
        self.tell(str(problem) or type(problem).__name__, kind="danger")

    def attempt(self, call: Callable[..., Any]) -> Callable[..., None]:
        """A callback of what a user does: the last message goes, and errors are told."""

        def guarded(*args: Any) -> None:
            if not self._has_lock():
                self._call_soon(lambda: self._with_document(guarded, *args))
                return
            if not self._depth:  # not what another callback changes
                self.tell("")
            self.attempt_quietly(call)(*args)

        return guarded

    def _has_lock(self) -> bool:
        """Whether figures of Bokeh may be changed now.

        Panel handles a click that comes while the change of another widget still waits in a task without the
        lock of the document.
        """
        context = getattr(self.document, "session_context", None)
        session = getattr(context, "session", None)
        return session is None or session._pending_writes is not None

    def attempt_quietly(self, call: Callable[..., Any]) -> Callable[..., None]:
        """A callback that no user asked for: errors are told, and the last message stays."""

        def guarded(*args: Any) -> None:
            self._depth += 1
            try:
                # held, or changes of figures might overtake the new models of Panel that hold them
                with hold(self.document) if self._depth == 1 else nullcontext():
                    call(*args)
            except Exception as problem:
                self.fail(problem)
            finally:
                self._depth -= 1

        return guarded

    def background(
        self,
        work: Callable[[], Work],
        done: Callable[[Work], None],
        *,
        failed: Callable[[BaseException], None] | None = None,
    ) -> None:
        """Do something beside the server's thread, then hand what came of it to a function in this one."""
        future = EXECUTOR.submit(work)

        def finish() -> None:
            problem = future.exception()
            if problem is not None:
                self._with_document(self.attempt_quietly(failed or self.fail), problem)
            else:
                self._with_document(self.attempt_quietly(done), future.result())

        if self.document is None:  # a notebook: there is no other thread to come back to
            finish()
            return
        future.add_done_callback(lambda _: self._call_soon(finish))

    def _with_document(self, call: Callable[..., None], *args: Any) -> None:
        with set_curdoc(self.document):  # without it Panel names its style sheets by their public address
            call(*args)

    def _call_soon(self, call: Callable[[], None]) -> None:
        try:
            self.document.add_next_tick_callback(call)
        except (RuntimeError, ValueError) as problem:  # the browser has gone meanwhile
            log.debug("nobody waits for this any more: %s", problem)


def _escape(text: str) -> str:
    """Text as it is, in a pane that reads Markdown."""
    return (
        html.escape(" ".join(str(text).split())[:1000], quote=False).replace("*", "\\*").replace("_", "\\_")
    )


def heading(text: str, level: int = 2) -> Any:
    """A heading that screen readers find."""
    return pn.pane.HTML(f"<h{level} style='margin:0 0 4px 0;font-size:1.05em'>{html.escape(text)}</h{level}>")


def card(title: str, *content: Any, basis: int | None = 400, **look: Any) -> Any:
    """Things under a heading in a frame; beside others as wide as the page leaves them, from a width on."""
    beside = {} if basis is None else {"flex": f"1 1 {basis}px", "min-width": f"{min(basis, 320)}px"}
    styles = {**CARD, **beside}
    return pn.Column(heading(title), *content, styles=styles, margin=4, sizing_mode="stretch_width", **look)


def flow(*content: Any, align_items: str = "stretch", **look: Any) -> Any:
    """Things beside each other that go on in another line where the page is narrow.

    Panel's own ``FlexBox`` evaluates text as code in the browser, which the page's policy refuses.
    """
    styles = {"flex-wrap": "wrap", "align-items": align_items, "gap": "2px"}
    for one in content if align_items == "end" else ():
        one.align = "end"  # each has a place of its own in the line, which comes first
    return pn.Row(*content, styles=styles, **{"sizing_mode": "stretch_width", **look})
