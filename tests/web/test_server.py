"""The server as it answers: nothing without a token, no traceback whatever is asked, no run changed."""

import http.client
import random
import shutil
import signal
import socket
import string
from types import SimpleNamespace

import pytest

from phaseloom import plugins

pytestmark = pytest.mark.medium


@pytest.fixture(scope="module")
def page(serve, finished, tmp_path_factory):
    root = tmp_path_factory.mktemp("shown") / "data"
    shutil.copytree(finished.directory, root / "runs" / "a")
    return serve(root)


def ask(page, path="/", method="GET", body=None, **headers):
    """Status, headers and body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=30)
    try:
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders()
        if body is not None:
            connection.send(body)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def cookie(page):
    status, headers, _ = ask(page, f"/?token={page.token}")
    assert status == 200
    return headers["Set-Cookie"].partition(";")[0]


ROUTES = ("/", "/ws", "/static/js/bokeh.min.js", "/metadata", "/autoload.js", "/favicon.ico", "/nothing")


class TestAnswers:
    @pytest.mark.parametrize("path", ROUTES)
    def test_without_the_token_every_route_is_forbidden(self, page, path):
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Origin": f"http://127.0.0.1:{page.port}"}
        assert ask(page, path)[0] == 403
        assert ask(page, path, **upgrade)[0] == 403
        assert ask(page, f"{path}?token={page.token[:-1]}")[0] == 403
        assert ask(page, path, Cookie=f"phaseloom-{page.port}={page.token}")[0] == 403

    def test_the_page_comes_with_the_cookie_and_a_strict_policy(self, page, cookie):
        status, headers, body = ask(page, Cookie=cookie)
        assert status == 200
        assert b"Phaseloom" in body
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe-eval" not in policy
        assert "http:" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        for place in (b"https://", b"http://"):
            outside = [part for part in body.split(place)[1:] if b"src=" in body[: body.find(part)][-6:]]
            assert outside == []

    def test_foreign_hosts_and_origins_are_forbidden(self, page, cookie):
        assert ask(page, Cookie=cookie, Host="evil.example")[0] == 403
        assert ask(page, Cookie=cookie, Origin="http://evil.example")[0] == 403
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        upgrade["Sec-WebSocket-Key"] = "x3JJHMbDL1EzLkh9GBhXDw=="
        for origin in ("http://evil.example", "null", "http://127.0.0.1:1"):
            assert ask(page, "/ws", Cookie=cookie, Origin=origin, **upgrade)[0] == 403

    @pytest.mark.parametrize(
        "path",
        [
            *("/../../etc/passwd", "/static/../../../etc/passwd", "/static/js/..%2f..%2f..%2fetc/passwd"),
            *(
                "/runs/a/result.h5",
                "/static/%2e%2e/%2e%2e/x",
                "/static/extensions/../../x",
                "/static//etc/passwd",
            ),
        ],
    )
    def test_paths_that_lead_out_are_not_found(self, page, cookie, path):
        status, _, body = ask(page, path, Cookie=cookie)
        assert status == 404
        assert b"root:" not in body

    def test_large_bodies_are_refused(self, page, cookie):
        try:
            status = ask(page, method="POST", body=b"x" * 5_000_000, Cookie=cookie)[0]
        except ConnectionError:
            status = 0  # it is not even read to its end
        assert status in (0, 400, 405, 413)

    def test_a_thousand_random_requests_leave_no_traceback(self, page, cookie):
        draw = random.Random(1)
        letters = string.ascii_letters + string.digits + "/.%?&=#~:@-_\\{}<>'\"é\u0000"[:-1]
        methods = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW")
        starts = (
            *ROUTES,
            "/static/",
            "/static/extensions/panel/",
            "/?bokeh-session-id=",
            "/ws?",
            "//",
            "/..",
        )
        seen = set()
        for _ in range(1000):
            tail = "".join(draw.choices(letters, k=draw.randrange(30)))
            path = (
                (draw.choice(starts) + tail).encode("latin-1", "replace").decode("latin-1").replace(" ", "")
            )
            headers = {"Cookie": cookie} if draw.random() < 0.7 else {}
            if draw.random() < 0.3:
                headers["Origin"] = draw.choice(("null", "http://x", f"http://127.0.0.1:{page.port}"))
            seen.add(self.send(page.port, draw.choice(methods), path, headers))
        assert all(status < 500 for status in seen if status), seen
        assert {403, 404, 405} <= seen
        assert "Traceback" not in page.log.read_text()
        assert ask(page, Cookie=cookie)[0] == 200

    @staticmethod
    def send(port, method, path, headers):
        """Status of a request that is sent as it is; 0: the connection was closed."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
            answer = connection.recv(64)
        return int(answer.split(b" ")[1]) if answer.startswith(b"HTTP/1.1 ") else 0

    def test_the_page_changes_nothing_of_a_run(self, page, finished, cookie):
        for _ in range(3):
            ask(page, Cookie=cookie)
        for path in finished.directory.iterdir():
            assert (page.root / "runs" / "a" / path.name).read_bytes() == path.read_bytes()


class TestCommand:
    def test_interrupting_the_page_ends_it_in_peace(self, serve, tmp_path):
        (tmp_path / "data").mkdir()
        page = serve(tmp_path / "data")
        page.process.send_signal(signal.SIGINT)
        assert page.process.wait(20) in (0, 130)
        assert "Traceback" not in page.log.read_text()

    def test_jobs_that_had_not_begun_are_named_when_the_page_ends(self, phaseloom, tmp_path, monkeypatch):
        pytest.importorskip("panel", reason="needs the extra 'web'")

        def interrupt():
            raise KeyboardInterrupt

        page = SimpleNamespace(
            address="http://x", run=interrupt, list_waiting=lambda: ["phaseloom look 'a b'"]
        )
        monkeypatch.setattr(plugins, "target", lambda home, name: lambda *words, **more: page)
        done = phaseloom("web", tmp_path, "--no-browser")
        assert done.code == 130
        assert "jobs that had not begun" in done.err
        assert "phaseloom look 'a b'" in done.err

    def test_mistakes_are_told_in_a_sentence(self, phaseloom, tmp_path, monkeypatch):
        monkeypatch.delenv("PHASELOOM_WEB_TOKEN", raising=False)
        pytest.importorskip("panel", reason="needs the extra 'web'")
        done = phaseloom("web", tmp_path / "nothing", "--no-browser")
        assert (done.code, "is not a folder" in done.err) == (2, True)
        done = phaseloom("web", tmp_path, "--no-browser", "--address", "0.0.0.0")
        assert (done.code, "PHASELOOM_WEB_TOKEN" in done.err) == (2, True)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            done = phaseloom("web", tmp_path, "--no-browser", "--port", taken.getsockname()[1])
        assert (done.code, "take another --port" in done.err) == (2, True)
