"""Files come whole, checked, and are continued; whatever goes wrong is one sentence."""

import hashlib
import http.server
import json
import re
import shutil
import socket
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from phaseloom.data import download as module
from phaseloom.data import public_scans
from phaseloom.data.download import Check, RemoteFile, download
from phaseloom.data.public_scans import PublicScan, choose_files, list_files
from phaseloom.errors import BadInput

CONTENT = bytes(range(256)) * 4000
MD5 = f"md5:{hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()}"


class Handler(http.server.BaseHTTPRequestHandler):
    """A server of one file and one record, whose manners a test sets."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        server.asked.append((self.path, self.headers.get("Range")))
        if self.path.startswith("/records/"):
            self._answer(200, server.record, {"Content-Type": "application/json"})
            return
        if "missing" in self.path:
            self.send_error(404)
            return
        start = 0
        begins = re.match(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if begins and server.ranges:
            start = int(begins[1])
            if start >= len(CONTENT):
                self.send_error(416)
                return
            extent = {"Content-Range": f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"}
            self._answer(206, CONTENT[start:], extent)
        else:
            self._answer(200, CONTENT, {})

    def _answer(self, code, content, headers):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.server.tells_size:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        cut, self.server.cut = self.server.cut, None
        self.wfile.write(content if cut is None else content[:cut])
        self.close_connection = True


@pytest.fixture
def server():
    """The server, in a thread of its own."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as one:
        one.asked, one.ranges, one.cut, one.tells_size, one.record = [], True, None, True, b""
        one.url = f"http://127.0.0.1:{one.server_address[1]}"
        thread = threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield one
        one.shutdown()
        thread.join()


def remote(server, **known):
    return RemoteFile("scan.h5", f"{server.url}/scan.h5", **known)


def test_a_file_comes_whole_and_its_checksum_is_compared(server, tmp_path):
    steps = []
    path, check = download(
        remote(server, size=len(CONTENT), checksum=MD5), tmp_path / "new", report=lambda *s: steps.append(s)
    )
    assert (path, check) == (tmp_path / "new" / "scan.h5", Check.CHECKSUM)
    assert path.read_bytes() == CONTENT
    assert list(path.parent.iterdir()) == [path]
    assert steps[0] == (0, len(CONTENT))
    assert steps[-1] == (len(CONTENT), len(CONTENT))
    assert len(steps) > 3


@pytest.mark.parametrize(
    ("known", "tells_size", "check"),
    [
        ({"checksum": f"sha256:{hashlib.sha256(CONTENT).hexdigest().upper()}"}, True, Check.CHECKSUM),
        ({"size": len(CONTENT)}, False, Check.SIZE),
        ({}, True, Check.SIZE),
        ({}, False, Check.NOTHING),
    ],
)
def test_what_was_compared_is_said(server, tmp_path, known, tells_size, check):
    server.tells_size = tells_size
    path, found = download(remote(server, **known), tmp_path)
    assert (path.read_bytes(), found) == (CONTENT, check)


def test_a_cut_download_is_continued_where_it_stopped(server, tmp_path):
    server.cut = 300_000
    file = remote(server, size=len(CONTENT), checksum=MD5)
    with pytest.raises(BadInput, match=r"could not be reached|was cut off after 300000 of 1024000"):
        download(file, tmp_path)
    part = tmp_path / "scan.h5.part"
    assert not (tmp_path / "scan.h5").exists()
    have = part.stat().st_size
    assert 0 < have <= 300_000
    path, check = download(file, tmp_path)
    assert server.asked[-1] == ("/scan.h5", f"bytes={have}-")
    assert (path.read_bytes(), check, part.exists()) == (CONTENT, Check.CHECKSUM, False)


def test_a_server_that_cannot_continue_sends_all_again(server, tmp_path):
    server.ranges = False
    (tmp_path / "scan.h5.part").write_bytes(CONTENT[:5000])
    path, _ = download(remote(server, size=len(CONTENT), checksum=MD5), tmp_path)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("known", [{"size": len(CONTENT)}, {}])
@pytest.mark.parametrize("length", [len(CONTENT), len(CONTENT) + 10])
def test_a_part_that_is_long_enough_is_not_trusted_blindly(server, tmp_path, known, length):
    (tmp_path / "scan.h5.part").write_bytes((CONTENT + bytes(10))[:length])
    path, _ = download(remote(server, checksum=MD5, **known), tmp_path)
    assert path.read_bytes() == CONTENT


def test_a_wrong_part_ends_with_the_checksum_and_is_removed(server, tmp_path):
    (tmp_path / "scan.h5.part").write_bytes(b"x" * 5000)
    file = remote(server, size=len(CONTENT), checksum=MD5)
    with pytest.raises(BadInput, match="does not have the checksum that its publisher states"):
        download(file, tmp_path)
    assert not list(tmp_path.iterdir())
    assert download(file, tmp_path)[1] is Check.CHECKSUM


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ({"size": 1000}, "has 1024000 bytes instead of 1000"),
        ({"checksum": "md5:00"}, "does not have the checksum"),
        ({"checksum": "crc:00"}, "is not a checksum of md5 or sha256"),
    ],
)
def test_a_file_that_is_not_as_stated_is_refused(server, tmp_path, known, words):
    with pytest.raises(BadInput, match=words):
        download(remote(server, **known), tmp_path)
    assert not (tmp_path / "scan.h5").exists()


def test_an_existing_file_is_kept(server, tmp_path):
    (tmp_path / "scan.h5").write_text("mine")
    with pytest.raises(BadInput, match="exists already"):
        download(remote(server), tmp_path)
    assert (tmp_path / "scan.h5").read_text() == "mine"
    assert not server.asked


def test_a_missing_file_names_the_answer_of_the_server(server, tmp_path):
    with pytest.raises(BadInput, match=r"refused by the server \(404 Not Found\)"):
        download(RemoteFile("a", f"{server.url}/missing"), tmp_path)


def test_without_a_network_it_is_one_sentence(tmp_path):
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    with pytest.raises(BadInput, match=r"^get: a: 127.0.0.1:\d+ could not be reached \(.*refused") as problem:
        download(RemoteFile("a", f"http://127.0.0.1:{port}/a"), tmp_path)
    assert "\n" not in str(problem.value)


def test_a_full_disk_is_seen_before_and_while_writing(server, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(BadInput, match="needs 1024000 bytes, and 10 are free"):
        download(remote(server), tmp_path)
    monkeypatch.undo()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(BadInput, match="does not fit on the disk"):
        download(remote(server), tmp_path)
    assert (tmp_path / "scan.h5.part").exists()
    assert not (tmp_path / "scan.h5").exists()


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("../a", "http://a"),
        ("a/b", "http://a"),
        ("", "http://a"),
        ("..", "http://a"),
        ("a", "file:///etc/passwd"),
    ],
)
def test_a_list_cannot_write_elsewhere_or_read_local_files(name, url):
    with pytest.raises(BadInput):
        RemoteFile(name, url)


# the list


def record(server, *names):
    """A record as Zenodo describes it."""
    entries = [
        {"key": name, "size": len(CONTENT), "checksum": MD5, "links": {"self": f"{server.url}/files/{name}"}}
        for name in names
    ]
    return json.dumps({"id": 7, "files": entries}).encode()


def test_a_record_says_its_files_with_sizes_and_checksums(server):
    server.record = record(server, "a.mib", "a.hdr")
    found = list_files(PublicScan(7, ""), records=f"{server.url}/records")
    assert server.asked == [("/records/7", None)]
    assert found[0] == RemoteFile("a.mib", f"{server.url}/files/a.mib", len(CONTENT), MD5)
    assert [file.name for file in choose_files(found, "*.hdr")] == ["a.hdr"]
    with pytest.raises(BadInput, match="fits no file of the record"):
        choose_files(found, "*.dm4")
    only = list_files(PublicScan(7, "", files=("a.hdr",)), records=f"{server.url}/records")
    assert [file.name for file in only] == ["a.hdr"]


@pytest.mark.parametrize(
    "text", [b"", b"<html>", b"[]", b"{}", b'{"files": [{"key": "../a"}]}', b'{"files": 3}']
)
def test_a_record_that_is_not_understood_is_a_sentence(server, text):
    server.record = text
    with pytest.raises(BadInput, match=r"fetch it by hand from https://doi.org/10.5281/zenodo.7"):
        list_files(PublicScan(7, ""), records=f"{server.url}/records")
    known = PublicScan(7, "", files=("a.h5",), sizes=(12,))
    (file,) = list_files(known, records=f"{server.url}/records")
    assert (file.size, file.checksum) == (12, "")


def test_the_list_invents_nothing():
    for scan in public_scans.PUBLIC_SCANS.values():
        assert scan.about
        assert len(scan.files) == len(scan.sizes)
        assert scan.size is None or scan.size > 1e6


# the verb


@pytest.fixture
def listed(server, monkeypatch):
    """A list of one scan at the server."""
    server.record = record(server, "a.mib", "b.mib")
    monkeypatch.setattr(public_scans, "PUBLIC_SCANS", {"gold": PublicScan(7, "gold on carbon")})
    monkeypatch.setattr(public_scans.list_files, "__kwdefaults__", {"records": f"{server.url}/records"})


@pytest.mark.usefixtures("listed")
def test_the_verb_lists_fetches_and_continues(phaseloom):
    assert "gold  size not known  licence not known" in phaseloom("get").out
    listed = phaseloom("get", "gold", "--files").out
    assert f"a.mib  1.02 MB  {MD5}" in listed
    assert not Path("gold").exists()
    ended = phaseloom("get", "gold", "--only", "a*", "-q")
    assert not ended.code, ended.err
    assert "fetched: gold/a.mib (its checksum is right)" in ended.out
    ended = phaseloom("get", "gold")
    assert "is there already: gold/a.mib" in ended.out
    assert Path("gold/b.mib").read_bytes() == CONTENT
    ended = phaseloom("get", "gold", "--only", "a*", "-q")
    assert ended.code == 2
    assert ended.err.startswith("phaseloom: get: gold/a.mib exists already")


def test_the_verb_knows_its_names(phaseloom):
    ended = phaseloom("get", "bilayer-ws")
    assert (ended.code, ended.err) == (
        2,
        "phaseloom: get: bilayer-ws is not a scan of the list: did you mean 'bilayer-ws2'?\n",
    )
    assert "needs the name of a scan" in phaseloom("get", "--files").err
    said = phaseloom("get").out
    assert "12.5 MB" in said
    assert "not known" in said


def test_the_verb_without_a_network_is_one_sentence(phaseloom, monkeypatch):
    monkeypatch.setattr(public_scans.list_files, "__kwdefaults__", {"records": "http://127.0.0.1:9/records"})
    ended = phaseloom("get", "graphene")
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert "could not be reached" in ended.err
