"""Who may see the page: a secret of this process, of a browser on names of this machine, on its own page.

The model is Jupyter's. The address that is printed holds a random token; it is exchanged once for a cookie
that scripts cannot read and other sites cannot send. Requests to another host name (DNS rebinding), from
another origin, or without the cookie are answered with 403 before anything looks at them.
"""

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

from phaseloom.errors import BadInput

__all__ = [
    "LOOPBACK_NAMES",
    "Decision",
    "Gate",
    "content_security_policy",
    "is_loopback",
    "read_token",
    "security_headers",
]

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})

MIN_TOKEN_LENGTH = 32
"""Characters of a token that a user chooses; ours have 32 random bytes."""

MAX_TOKEN_LENGTH = 256

METHODS = ("GET", "HEAD")

ROUTES = re.compile(r"/|/ws|/favicon\.ico|/static/[\w./@^~+-]{1,300}")
"""What this page answers to; everything else is not found before any handler sees it."""

INLINE_SCRIPT = re.compile(rb"<script(?![^>]*\bsrc\s*=)[^>]*>(.*?)</script>", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class Decision:
    """What is done with a request.

    Attributes:
        status: 200: it is answered; else the answer.
        cookie: to be set: the token in the address was right.
    """

    status: int
    cookie: str = ""


@dataclass(frozen=True)
class Gate:
    """Decides on requests by their headers alone.

    Attributes:
        token: in the address that is printed.
        names: hosts by which the page may be called, besides those of the loopback.
        cookie: its name; it holds a second secret.

    Example:
        >>> gate = Gate("x" * 32)
        >>> gate.judge("GET", "/", {"Host": "localhost:5006"}).status
        403
        >>> gate.judge("GET", "/?token=" + "x" * 32, {"Host": "evil.example"}).status
        403
    """

    token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    names: frozenset[str] = frozenset()
    cookie: str = "phaseloom"
    session: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    def judge(self, method: str, uri: str, headers: Mapping[str, str], /) -> Decision:
        """What is done with a request.

        Args:
            method: of HTTP.
            uri: path and query.
            headers: by name.
        """
        try:
            address = urlsplit(uri)
        except ValueError:
            return Decision(403)
        host = headers.get("Host", "")
        if not self._is_known(host) or not self._is_own_origin(headers.get("Origin"), host, address.path):
            return Decision(403)
        if self._has_token(address.query) and method == "GET" and address.path == "/":
            return Decision(200, f"{self.cookie}={self.session}; HttpOnly; SameSite=Strict; Path=/")
        if not self._has_cookie(headers.get("Cookie", "")):
            return Decision(403)
        if not _is_route(uri, address.path):
            return Decision(404)
        return Decision(200 if method in METHODS else 405)

    def _is_known(self, host: str) -> bool:
        """Whether the page may be called by such a name; any port, for tunnels have their own."""
        name, port = split_host(host)
        return (name in LOOPBACK_NAMES or name in self.names) and (port == "" or port.isdigit())

    def _is_own_origin(self, origin: str | None, host: str, path: str) -> bool:
        """Whether a request comes from the page itself; websockets must say so."""
        if origin is None:
            return path != "/ws"
        return origin in (f"http://{host}", f"https://{host}")

    def _has_token(self, query: str) -> bool:
        if len(query) > 4096:
            return False
        try:
            given = parse_qs(query, max_num_fields=20).get("token", [""])[0]
        except ValueError:
            return False
        return hmac.compare_digest(given.encode(errors="replace"), self.token.encode())

    def _has_cookie(self, header: str) -> bool:
        pairs = (one.strip().partition("=") for one in header.split(";"))
        given = [value for name, _, value in pairs if name == self.cookie]
        return any(hmac.compare_digest(one.encode(errors="replace"), self.session.encode()) for one in given)


def _is_route(uri: str, path: str) -> bool:
    """Whether the page has such an address; the first page takes no query, which Panel would read."""
    is_plain = "/../" not in f"{path}/" and "//" not in path
    return bool(ROUTES.fullmatch(path)) and is_plain and (path != "/" or uri == "/")


def split_host(host: str, /) -> tuple[str, str]:
    """Name and port of a host header, the name in lower case and without brackets.

    Example:
        >>> split_host("[::1]:5006"), split_host("Localhost")
        (('::1', '5006'), ('localhost', ''))
    """
    if host.startswith("["):
        name, _, rest = host[1:].partition("]")
        return name.lower(), rest.removeprefix(":")
    name, _, port = host.partition(":")
    return name.lower(), port


def is_loopback(address: str, /) -> bool:
    """Whether an address can only be reached from this machine."""
    return address in LOOPBACK_NAMES


def read_token(address: str, environment: Mapping[str, str], /) -> str:
    """The token of a page: a random one, or that of ``PHASELOOM_WEB_TOKEN``.

    Raises:
        BadInput: one that is too short, or an address that others can reach without one that was chosen.
    """
    chosen = environment.get("PHASELOOM_WEB_TOKEN", "")
    if not chosen:
        if not is_loopback(address):
            fix = (
                "can be reached from other machines: set PHASELOOM_WEB_TOKEN to a secret of "
                f"{MIN_TOKEN_LENGTH} characters or more, or use an SSH tunnel to the default address"
            )
            raise BadInput("web: --address", address, fix)
        return secrets.token_urlsafe(32)
    if not MIN_TOKEN_LENGTH <= len(chosen) <= MAX_TOKEN_LENGTH or not re.fullmatch(r"[\w-]+", chosen):
        fix = f"must be {MIN_TOKEN_LENGTH} to {MAX_TOKEN_LENGTH} letters, digits, _ and -"
        raise BadInput("PHASELOOM_WEB_TOKEN", None, fix)
    return chosen


def content_security_policy(body: bytes, /) -> str:
    """The policy of a page: scripts and styles of this server alone, and the inline scripts that it sent.

    Bokeh begins a page by an inline script and styles its parts inline; no ``eval`` is needed.

    Args:
        body: of the answer, whose inline scripts are named by their hashes.
    """
    hashes = {
        base64.b64encode(hashlib.sha256(text).digest()).decode() for text in INLINE_SCRIPT.findall(body)
    }
    scripts = " ".join(["'self'", *sorted(f"'sha256-{one}'" for one in hashes)])
    return (
        f"default-src 'none'; script-src {scripts}; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def security_headers(body: bytes, /) -> dict[str, str]:
    """Headers of every answer."""
    return {
        "Content-Security-Policy": content_security_policy(body),
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
    }
