"""Who may see the page: token, cookie, host, origin, paths."""

import base64
import hashlib

import pytest

from phaseloom.errors import BadInput
from phaseloom.web.paths import OutsideRoot, resolve_inside, show_inside
from phaseloom.web.security import Gate, content_security_policy, is_loopback, read_token

HOST = {"Host": "127.0.0.1:5006"}


@pytest.fixture
def gate():
    return Gate()


def with_cookie(gate: Gate, **more: str) -> dict[str, str]:
    return {**HOST, "Cookie": f"other=1; {gate.cookie}={gate.session}", **more}


class TestGate:
    def test_tokens_are_random_and_long(self):
        one, two = Gate(), Gate()
        assert len(base64.urlsafe_b64decode(one.token + "=")) >= 24
        assert len({one.token, two.token, one.session, two.session}) == 4
        assert one.token not in repr(one)
        assert one.session not in repr(one)

    @pytest.mark.parametrize(
        "uri", ["/", "/ws", "/static/js/bokeh.min.js", "/metadata", "/autoload.js", "/x"]
    )
    def test_without_token_everything_is_forbidden(self, gate, uri):
        assert gate.judge("GET", uri, {**HOST, "Origin": "http://127.0.0.1:5006"}).status == 403
        assert gate.judge("POST", uri, HOST).status == 403
        assert gate.judge("GET", f"{uri}?token=wrong", HOST).status == 403

    def test_a_token_is_exchanged_for_a_cookie_that_scripts_and_sites_cannot_use(self, gate):
        verdict = gate.judge("GET", f"/?token={gate.token}", HOST)
        assert verdict.status == 200
        assert verdict.cookie.startswith(f"{gate.cookie}={gate.session};")
        assert {"HttpOnly", "SameSite=Strict"} <= set(verdict.cookie.split("; "))
        assert gate.token not in verdict.cookie

    def test_the_token_opens_nothing_but_the_first_page(self, gate):
        assert gate.judge("GET", f"/static/js/bokeh.min.js?token={gate.token}", HOST).status == 403
        assert gate.judge("POST", f"/?token={gate.token}", HOST).status == 403

    def test_with_the_cookie_the_page_is_answered(self, gate):
        headers = with_cookie(gate)
        assert gate.judge("GET", "/", headers).status == 200
        assert gate.judge("GET", "/static/js/bokeh.min.js?v=1", headers).status == 200
        assert gate.judge("GET", "/ws", {**headers, "Origin": "http://127.0.0.1:5006"}).status == 200

    def test_other_methods_are_refused(self, gate):
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"):
            assert gate.judge(method, "/", with_cookie(gate)).status == 405

    @pytest.mark.parametrize(
        "uri",
        [
            "/metadata",
            "/autoload.js",
            "/static/../secret",
            "/etc/passwd",
            "//",
            "/ws/x",
            "/?a=1",
            "/?token=x#",
        ],
    )
    def test_what_the_page_does_not_need_is_not_there(self, gate, uri):
        assert gate.judge("GET", uri, with_cookie(gate)).status == 404

    @pytest.mark.parametrize(
        "host", ["evil.example", "evil.example:5006", "localhost.evil.example", "", "127.0.0.2"]
    )
    def test_other_hosts_are_refused(self, gate, host):
        headers = {**with_cookie(gate), "Host": host}
        assert gate.judge("GET", "/", headers).status == 403
        assert gate.judge("GET", f"/?token={gate.token}", headers).status == 403

    @pytest.mark.parametrize("host", ["localhost:9000", "127.0.0.1:1", "[::1]:5006", "LOCALHOST:5006"])
    def test_tunnels_have_ports_of_their_own(self, gate, host):
        assert gate.judge("GET", "/", {**with_cookie(gate), "Host": host}).status == 200

    @pytest.mark.parametrize(
        "origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "http://localhost:5006", ""]
    )
    def test_other_origins_are_refused(self, gate, origin):
        headers = {**with_cookie(gate), "Origin": origin}
        assert gate.judge("GET", "/", headers).status == 403
        assert gate.judge("GET", "/ws", headers).status == 403

    def test_a_websocket_says_where_it_comes_from(self, gate):
        assert gate.judge("GET", "/ws", with_cookie(gate)).status == 403

    def test_a_cookie_of_another_page_is_none(self, gate):
        assert gate.judge("GET", "/", with_cookie(Gate())).status == 403


class TestInterfaces:
    def test_this_machine_alone_needs_no_token_of_the_user(self):
        assert is_loopback("127.0.0.1")
        assert len(read_token("127.0.0.1", {})) >= 32

    @pytest.mark.parametrize("address", ["0.0.0.0", "192.168.0.4", "::", "example.org"])
    def test_other_interfaces_are_refused_without_a_token(self, address):
        with pytest.raises(BadInput, match="PHASELOOM_WEB_TOKEN"):
            read_token(address, {})
        assert read_token(address, {"PHASELOOM_WEB_TOKEN": "a" * 40}) == "a" * 40

    @pytest.mark.parametrize("token", ["short", "a" * 31, "a" * 500, "with space" * 5, "a/b" * 20])
    def test_weak_tokens_are_refused(self, token):
        with pytest.raises(BadInput, match="PHASELOOM_WEB_TOKEN: must be"):
            read_token("127.0.0.1", {"PHASELOOM_WEB_TOKEN": token})


class TestPolicy:
    def test_inline_scripts_that_were_sent_are_named_and_nothing_else_runs(self):
        body = b"<script src='/a.js'></script><script type='text/javascript'>go()</script>"
        policy = content_security_policy(body)
        scripts = next(part for part in policy.split("; ") if part.startswith("script-src"))
        wanted = base64.b64encode(hashlib.sha256(b"go()").digest()).decode()
        assert scripts == f"script-src 'self' 'sha256-{wanted}'"
        assert "unsafe-eval" not in policy
        assert "default-src 'none'" in policy
        assert "http" not in policy


class TestPaths:
    @pytest.fixture
    def root(self, tmp_path):
        root = tmp_path / "root"
        (root / "runs" / "a").mkdir(parents=True)
        (tmp_path / "secret").mkdir()
        (tmp_path / "secret" / "key").write_text("x")
        (root / "link").symlink_to(tmp_path / "secret")
        (root / "inner").symlink_to(root / "runs")
        (root / "loop").symlink_to(root / "loop")
        return root

    @pytest.mark.parametrize(
        "text",
        [
            *("..", "../secret", "runs/../../secret/key", "/etc/passwd", "link", "link/key", "nothing"),
            *("loop", "a\0b", "x" * 5000, "runs/a/../../../secret", "~root", "file:///etc/passwd"),
        ],
    )
    def test_paths_that_lead_out_are_not_there(self, root, text):
        with pytest.raises(OutsideRoot):
            resolve_inside(root, text)

    def test_paths_inside_are_resolved(self, root):
        assert resolve_inside(root, "") == root
        assert resolve_inside(root, "inner/a") == root / "runs" / "a"
        assert show_inside(root, root / "runs" / "a") == "runs/a"
