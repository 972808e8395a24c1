"""Tornado's side of the gate: requests are judged by their headers, and every answer gets headers of ours."""

from collections.abc import Mapping
from typing import Any

from tornado.httputil import (
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    ResponseStartLine,
)

from phaseloom.web.security import Gate, security_headers

__all__ = ["Guard"]

WELCOME = b"""<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Phaseloom</title>
<meta http-equiv="refresh" content="0;url=/"></head><body><p><a href="/">Phaseloom</a></p></body></html>"""
"""Answers the address with the token: the browser goes on without it, and does not keep it in its history."""

REFUSALS = {
    403: b"403: open the address with the token that `phaseloom web` printed",
    404: b"404: not found",
    405: b"405: not allowed",
}


class Guard(HTTPServerConnectionDelegate):
    """Lets those requests through to an application that a gate lets through."""

    def __init__(self, application: Any, gate: Gate):
        self.application = application
        self.gate = gate

    def start_request(self, server_conn: Any, request_conn: Any) -> HTTPMessageDelegate:
        """A request begins."""
        write = request_conn.write_headers

        def write_headers(start_line: Any, headers: Any, chunk: bytes | None = None) -> Any:
            for name, value in security_headers(chunk or b"").items():
                headers[name] = value
            headers.pop("Server", None)
            return write(start_line, headers, chunk)

        request_conn.write_headers = write_headers
        return _Judged(self, server_conn, request_conn)

    def on_close(self, server_conn: Any) -> None:
        """A connection ended."""
        self.application.on_close(server_conn)


class _Judged(HTTPMessageDelegate):
    """A request that is judged when its headers are there."""

    def __init__(self, guard: Guard, server_connection: Any, connection: Any):
        self.guard = guard
        self.server_connection = server_connection
        self.connection = connection
        self.delegate: HTTPMessageDelegate | None = None

    def headers_received(self, start_line: Any, headers: HTTPHeaders) -> Any:
        verdict = self.guard.gate.judge(start_line.method, start_line.path, headers)
        if verdict.cookie:
            self.delegate = _Answer(self.connection, 200, {"Set-Cookie": verdict.cookie}, WELCOME)
        elif verdict.status != 200:
            self.delegate = _Answer(self.connection, verdict.status, {}, REFUSALS[verdict.status])
        else:
            self.delegate = self.guard.application.start_request(self.server_connection, self.connection)
        assert self.delegate is not None
        return self.delegate.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Any:
        return None if self.delegate is None else self.delegate.data_received(chunk)

    def finish(self) -> None:
        if self.delegate is not None:
            self.delegate.finish()

    def on_connection_close(self) -> None:
        if self.delegate is not None:
            self.delegate.on_connection_close()


class _Answer(HTTPMessageDelegate):
    """An answer without an application."""

    def __init__(self, connection: Any, status: int, headers: Mapping[str, str], body: bytes):
        self.connection = connection
        self.status = status
        self.headers = headers
        self.body = body
        self.hides_body = False

    def headers_received(self, start_line: Any, headers: HTTPHeaders) -> None:
        if start_line.method == "HEAD":  # has no body, whatever its length says
            self.hides_body = True

    def finish(self) -> None:
        kind = "text/html" if self.status == 200 else "text/plain"
        plain = {"Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(self.body))}
        headers = HTTPHeaders({**plain, "Cache-Control": "no-store", **self.headers})
        self.connection.write_headers(
            ResponseStartLine("HTTP/1.1", self.status, ""), headers, None if self.hides_body else self.body
        )
        self.connection.finish()
