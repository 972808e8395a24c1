"""The server of the page: Bokeh's, behind the gate of `phaseloom.web.security`."""

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from phaseloom.errors import BadInput, MissingExtra
from phaseloom.web.security import Gate, is_loopback, read_token

__all__ = ["Page", "open_page", "require_panel"]

MAX_BODY_BYTES = 1 << 16
"""Bytes of a request: browsers only ask, what they change goes through the websocket."""

MAX_MESSAGE_BYTES = 4 << 20
"""Bytes of a message through the websocket; parameter files have kilobytes."""


def require_panel() -> Any:
    """The module ``panel``.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import panel
        from panel.models.esm import ReactiveESM
    except ImportError as problem:
        raise MissingExtra("web", "panel and bokeh", "web") from problem
    # a script that runs scripts of blobs, which the policy refuses; nothing here needs it
    ReactiveESM.__javascript_raw__ = []
    return panel


@dataclass(frozen=True, eq=False)
class Page:
    """A page that is served.

    Attributes:
        address: with the token, to be opened in a browser.
        gate: see `phaseloom.web.security`.
        server: of Bokeh.
        list_waiting: gives the command lines of jobs that end with the page, for they have not begun.
    """

    address: str
    gate: Gate
    server: Any
    list_waiting: Callable[[], list[str]] = list

    def run(self) -> None:
        """Serve until interrupted."""
        self.server.io_loop.start()

    def stop(self) -> None:
        """Stop serving."""
        self.server.stop(wait=False)
        self.server.io_loop.stop()


def open_page(
    root: Path,
    build: Callable[[], Any],
    /,
    *,
    port: int = 0,
    address: str = "127.0.0.1",
    environment: Mapping[str, str] = os.environ,
) -> Page:
    """Begin to serve a page on this machine.

    Args:
        root: folder that is shown.
        build: makes the page of each browser that opens it.
        port: 0: any that is free.
        address: of the interface; others than the loopback need a token of ``PHASELOOM_WEB_TOKEN``.
        environment: variables of the process.

    Raises:
        MissingExtra: Panel is not installed.
        BadInput: a port that is taken, or an interface without a token.
    """
    require_panel()
    if not root.is_dir():
        raise BadInput("web", str(root), "is not a folder: name the one with your data and runs")
    token = read_token(address, environment)
    names = frozenset() if is_loopback(address) else frozenset({address.lower(), _own_name()})
    server, port = _listen(build, port, address, Gate(token, names))
    gate = server.gate
    name = address if is_loopback(address) else _own_name()
    name = f"[{name}]" if ":" in name else name
    return Page(f"http://{name}:{port}/?token={token}", gate, server)


def _own_name() -> str:
    return socket.gethostname().lower()


def _bind(address: str, port: int) -> socket.socket:
    """A socket that listens; one that cannot is closed."""
    family, *_, place = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
    bound = socket.create_server(place[:2], family=family, backlog=128)
    bound.setblocking(False)
    return bound


def _listen(build: Callable[[], Any], port: int, address: str, gate: Gate) -> tuple[Any, int]:
    """Bokeh's server on a socket, and its port."""
    from bokeh.server.server import BaseServer
    from bokeh.server.tornado import BokehTornado
    from panel.io.application import build_applications
    from tornado.httpserver import HTTPServer
    from tornado.ioloop import IOLoop

    from phaseloom.web.guard import Guard

    import_module("panel.io.server")  # replaces handlers of Bokeh by its own
    # without a document Panel names style sheets by their public address, which the policy refuses
    reactive: Any = import_module("panel.reactive")
    reactive.CDN_DIST = import_module("panel.io.resources").LOCAL_DIST
    for name in ("bokeh", "tornado.access", "tornado.application"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # a browser that leaves while something is sent to it: tornado has no one to tell but asyncio's log
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    try:
        sockets = [_bind(address, port)]
    except OSError as problem:
        fix = f"cannot be used ({problem.strerror or problem}): take another --port, or leave it out"
        raise BadInput("web: --port", f"{address}:{port}", fix) from problem
    port = sockets[0].getsockname()[1]
    gate = Gate(gate.token, gate.names, f"phaseloom-{port}")  # browsers share cookies among ports
    try:
        loop = IOLoop.current()
    except RuntimeError:
        asyncio.set_event_loop(asyncio.new_event_loop())
        loop = IOLoop.current()

    def build_one() -> Any:  # Panel wants a function, not another thing that can be called
        return build()

    application = BokehTornado(
        build_applications({"/": build_one}, title="Phaseloom"),
        extra_websocket_origins=["*"],  # the gate has checked them
        websocket_max_message_size_bytes=MAX_MESSAGE_BYTES,
        keep_alive_milliseconds=30_000,
        check_unused_sessions_milliseconds=10_000,
        unused_session_lifetime_milliseconds=30_000,
    )
    http = HTTPServer(Guard(application, gate), max_body_size=MAX_BODY_BYTES)
    http.add_sockets(sockets)
    server: Any = BaseServer(loop, application, http)
    server.gate = gate
    server.start()
    return server, port
