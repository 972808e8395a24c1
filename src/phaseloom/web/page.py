"""The page as a whole: panes in tabs, one set for each browser."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import panel as pn
from bokeh.models.ui.notifications import Notifications
from panel.io.resources import LOCAL_DIST

from phaseloom.web.panes.catalogue import CataloguePane
from phaseloom.web.panes.compare import ComparePane
from phaseloom.web.panes.desk import Desk
from phaseloom.web.panes.files import FilesPane
from phaseloom.web.panes.start import StartPane
from phaseloom.web.panes.watch import WatchPane
from phaseloom.web.server import Page, open_page
from phaseloom.web.state.job_queue import JobQueue

__all__ = ["build_page", "open_folder"]

MILLISECONDS_BETWEEN_LOOKS = 1000


def open_folder(root: Path | str, /, *, port: int = 0, address: str = "127.0.0.1") -> Page:
    """Serve the page of a folder; see `phaseloom.web.server.open_page`."""
    root = Path(root).resolve()
    queue = JobQueue(root)
    page = open_page(root, partial(build_page, root, queue), port=port, address=address)
    return replace(page, list_waiting=queue.list_waiting)


def build_page(root: Path, queue: JobQueue, /) -> Any:
    """The page of one browser."""
    pn.extension("tabulator", notifications=False)
    desk = Desk(root, queue)
    if desk.document is not None:  # Panel sets it with the first answer, and names public addresses before
        desk.document.template_variables["dist_url"] = LOCAL_DIST
        desk.document.add_next_tick_callback(partial(_tell_lost_connections, desk.document))
    named = {
        "Runs": CataloguePane(desk),
        "Files": FilesPane(desk),
        "Start": StartPane(desk),
        "Watch": WatchPane(desk),
        "Compare": ComparePane(desk),
    }
    tabs = pn.Tabs(
        *((name, pane.view) for name, pane in named.items()), dynamic=True, sizing_mode="stretch_width"
    )
    _connect(desk, tabs, named)

    def look() -> None:
        queue.advance()
        pane = list(named.values())[tabs.active]
        getattr(pane, "update", lambda: None)()

    pn.state.add_periodic_callback(desk.attempt_quietly(look), period=MILLISECONDS_BETWEEN_LOOKS)
    name = html.escape(desk.root.name)
    title = f"<h1 style='font-size:1.3em;margin:4px 8px'>Phaseloom <small>{name}</small></h1>"
    return pn.Column(pn.pane.HTML(title), desk.message, tabs, sizing_mode="stretch_width")


def _tell_lost_connections(document: Any) -> None:
    """Have Bokeh say when the server has ended, which Panel switches off while a page is built."""
    document.config.update(notifications=Notifications(), notify_connection_status=True)


def _connect(desk: Desk, tabs: Any, named: Mapping[str, Any]) -> None:
    """Let panes show each other, and list new runs where one is shown."""
    names = list(named)

    def open_run(folder: Path) -> None:
        tabs.active = names.index("Watch")
        named["Watch"].open(folder)

    def start_with(file: Path) -> None:
        tabs.active = names.index("Start")
        named["Start"].take_file(file)

    def compare_runs(folders: Sequence[Path]) -> None:
        tabs.active = names.index("Compare")
        named["Compare"].open(folders)

    def change_tab() -> None:
        desk.tell("")
        pane = named[names[tabs.active]]
        if isinstance(pane, WatchPane | ComparePane):
            pane.list_runs()

    desk.open_run = open_run
    desk.start_with = start_with
    desk.compare = compare_runs
    tabs.param.watch(desk.attempt(lambda event: change_tab()), "active")
