"""A folder is told file by file: bounded, and whatever is wrong with one of them."""

import logging
import os
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path

import h5py
import numpy as np
import pytest

from phaseloom.data import folder_survey
from phaseloom.data.folder_survey import survey_folder
from phaseloom.data.formats import native
from phaseloom.errors import BadInput
from phaseloom.plot.folder_page import draw_folder, format_row, write_folder_page
from tests.conftest import electrons
from tests.data import hdf5_files, vendor_files
from tests.export.test_formats import made, raster


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Good and bad files, some of them below."""
    place = tmp_path / "data"
    (place / "below" / "deep").mkdir(parents=True)
    native.write(raster((4, 5)), place / "raster.h5")
    native.write(electrons(), place / "below" / "list.h5")
    np.save(place / "bare.npy", np.ones((2, 3, 8, 8), np.uint16))
    np.save(place / "said.npy", np.ones((2, 3, 8, 8), np.uint16))
    (place / "said.npy.yaml").write_text("{energy: 80 keV, angle: 1 mrad, step: 0.4 A}")
    np.save(place / "below" / "deep" / "stack.npy", np.ones((7, 8, 8), np.float32))
    (place / "cut.h5").write_bytes((place / "raster.h5").read_bytes()[:2000])
    (place / "empty.h5").touch()
    (place / "junk.npy").write_bytes(b"\x93NUMPY" + b"\xff" * 50)
    (place / "camera.xyz").write_bytes(b"123")
    (place / "notes.txt").write_text("nothing")
    (place / ".hidden.h5").write_bytes(b"123")
    made().save(place / "result.h5")
    return place


def told(folder, **how):
    return {one.path.relative_to(folder).as_posix(): one for one in survey_folder(folder, **how)}


def test_every_file_is_told_in_a_line(folder):
    found = told(folder)
    assert list(found) == [
        *("bare.npy", "below/deep/stack.npy", "below/list.h5", "camera.xyz", "cut.h5", "empty.h5"),
        *("junk.npy", "raster.h5", "result.h5", "said.npy"),
    ]
    scan = found["raster.h5"]
    assert (scan.format, scan.shape, scan.dtype, scan.note) == ("native", (4, 5, 5, 4), "uint16", "")
    assert (scan.beam, scan.step) == ("electron", (0.5, 0.4))
    assert scan.energy == pytest.approx(raster().geometry.energy)
    assert scan.size == (folder / "raster.h5").stat().st_size
    assert found["below/list.h5"].shape == (25, 24, 24)
    assert found["bare.npy"].note == "missing: energy, angle or pixel, step"
    assert (found["bare.npy"].shape, found["bare.npy"].energy) == ((2, 3, 8, 8), None)
    assert (found["said.npy"].is_open, found["said.npy"].step) == (True, (0.4, 0.4))
    assert found["below/deep/stack.npy"].shape == (7, 8, 8)
    assert "grid" in found["below/deep/stack.npy"].note
    assert found["result.h5"].format == "result"
    assert "phaseloom look" in found["result.h5"].note


def test_files_that_are_read_together_are_one_line(tmp_path):
    patterns = np.random.default_rng(0).integers(1, 60, (15, 4, 4)).astype(np.uint16)
    for name in ("merlin", "empad", "tvips", "frms6", "raw_csr", "seq"):
        (tmp_path / name).mkdir()
        vendor_files.WRITERS[name](tmp_path / name, patterns, (3, 5))
    one = np.ones((4, 4))
    vendor_files.write_frms6(tmp_path / "frms6" / "a", patterns, dark=patterns[:2], split=(8,), grid="5x3")
    vendor_files.write_mrc(tmp_path / "seq" / "a.seq.dark.mrc", one)
    vendor_files.write_mib(tmp_path / "merlin" / "s1.mib", patterns[:8])
    vendor_files.write_mib(tmp_path / "merlin" / "s2.mib", patterns[8:], first=9)
    vendor_files.write_mib(tmp_path / "merlin" / "s3.mib", patterns)
    (tmp_path / "merlin" / "other.hdr").write_text("HDR,")
    hdf5_files.write_master(tmp_path / "s_master.h5", patterns, per_file=4)
    assert list(told(tmp_path)) == [
        *("empad/scan_x5_y3.raw", "frms6/a_001.frms6", "merlin/a.mib", "merlin/other.hdr", "merlin/s1.mib"),
        *("merlin/s3.mib", "raw_csr/a.toml", "s_master.h5", "seq/a.seq", "tvips/a_000.tvips"),
    ]


def test_a_cut_file_has_a_remark(tmp_path):
    patterns = np.ones((15, 4, 4), np.uint16)
    path = vendor_files.write_mib(tmp_path / "a.mib", patterns, hdr={"ScanX": 5, "ScanY": 3})
    path.write_bytes(path.read_bytes()[:-7])
    note = told(tmp_path)["a.mib"].note
    assert "missing: energy" in note
    assert "409 bytes that are not a whole frame" in note
    assert "2 whole rows are used" in note
    (tmp_path / "a.mib.phaseloom.yaml").write_text("{energy: 80 keV, angle: 1 mrad, step: 0.4 A}")
    one = told(tmp_path)["a.mib"]
    assert one.is_open
    assert one.note.startswith("ends with 409 bytes")


@pytest.mark.parametrize("name", ["cut.h5", "empty.h5", "junk.npy", "camera.xyz"])
def test_a_damaged_file_is_a_short_reason(folder, name):
    one = told(folder)[name]
    assert not one.is_open
    assert 5 < len(one.note) <= 160
    assert name not in one.note


def test_a_reader_that_fails_does_not_stop_the_list(folder, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError("of nothing")

    monkeypatch.setattr(folder_survey.formats, "read", fail)
    found = told(folder)
    assert len(found) == 10
    assert found["raster.h5"].note == "cannot be read (ZeroDivisionError: of nothing)"


def test_folders_links_and_pipes_are_bounded(folder):
    (folder / "below" / "round").symlink_to(folder)
    (folder / "link.h5").symlink_to(folder / "raster.h5")
    (folder / "lost.h5").symlink_to(folder / "nothing.h5")
    os.mkfifo(folder / "pipe.h5")
    with socket.socket(socket.AF_UNIX) as one:
        os.chdir(folder)
        one.bind("s.h5")
        found = told(folder)
    assert "link.h5" in found
    assert not {"lost.h5", "pipe.h5", "s.h5"} & set(found)
    assert not any("round" in name for name in found)
    assert "below/deep/stack.npy" not in told(folder, depth=2)
    assert len(told(folder, most=3)) == 3


def test_nothing_but_a_folder_is_surveyed(folder):
    with pytest.raises(BadInput, match="is not a folder"):
        list(survey_folder(folder / "raster.h5"))


@pytest.mark.medium
def test_a_large_file_is_not_read_whole(tmp_path):
    with open(tmp_path / "huge.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<u2", "fortran_order": False, "shape": (256, 256, 256, 256)}
        )
        file.truncate(file.tell() + 2 * 256**4)  # a hole of 8.6 GB
    with h5py.File(tmp_path / "huge.h5", "w") as file:
        file.create_dataset("frames", (256, 256, 256, 256), np.uint16, chunks=(1, 1, 256, 256))
    with open(tmp_path / "huge.npz", "wb") as file:
        file.write(b"PK\x03\x04")
        file.truncate(10**9)
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = told(tmp_path, thumbnails=True)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    for name in ("huge.npy", "huge.h5"):
        assert found[name].shape == (256, 256, 256, 256)
        assert found[name].thumbnails.image.size <= folder_survey.MAX_PATTERNS_FOR_THUMBNAILS
    assert "look at it by itself" in found["huge.npz"].note
    assert grown < 600_000  # kB; the files declare 17 GB


def test_thumbnails_are_the_mean_pattern_and_the_counts_over_the_scan(folder, monkeypatch):
    scan = raster((4, 5))
    found = told(folder, thumbnails=True)
    pictures = found["raster.h5"].thumbnails
    np.testing.assert_allclose(pictures.pattern, scan.counts.mean(0))
    np.testing.assert_allclose(pictures.image, scan.counts.sum((1, 2)).reshape(4, 5))
    phase = made().phase[made().window]
    np.testing.assert_allclose(found["result.h5"].thumbnails.image, phase, atol=1e-6)
    monkeypatch.setattr(folder_survey, "MAX_PATTERNS_FOR_THUMBNAILS", 6)
    few = told(folder, thumbnails=True)["raster.h5"].thumbnails
    np.testing.assert_allclose(few.image, scan.counts.sum((1, 2)).reshape(4, 5)[::2, ::2])


class Reader(HTMLParser):
    """Tags, and what is fetched from outside."""

    def __init__(self):
        super().__init__()
        self.rows = 0
        self.pictures = []
        self.outside = []

    def handle_starttag(self, tag, attrs):
        self.rows += tag == "tr"
        for name, value in attrs:
            if name in ("src", "href"):
                (self.pictures if value.startswith("data:image/png;base64,") else self.outside).append(value)


def test_the_page_needs_nothing_else(folder):
    (folder / "raster.h5").rename(folder / "<b>&.h5")
    files = list(survey_folder(folder, thumbnails=True))
    page = write_folder_page(files, folder)
    reader = Reader()
    reader.feed(page)
    assert reader.rows == len(files) + 1
    assert len(reader.pictures) == 2 * 3 + 1 + 1  # two of each raster, one of the list and of the result
    assert not reader.outside
    assert "&lt;b&gt;&amp;.h5" in page
    assert not re.search("<script|@import|url\\(", page)


def test_the_figure_has_two_panels_for_each_file(folder):
    files = list(survey_folder(folder, thumbnails=True))
    figure = draw_folder(files, folder)
    assert sum(bool(axes.images) for axes in figure.axes) == 2 * 3 + 1 + 1
    assert draw_folder([], folder).axes


def test_rows_have_units(folder):
    row = format_row(told(folder)["raster.h5"], folder)
    assert row[:3] == ("raster.h5", "native", "4 x 5 x 5 x 4")
    assert row[4].endswith("keV electrons")
    assert row[5] == "50 pm x 40 pm"


def test_the_verb_lists_a_folder(phaseloom, folder):
    ended = phaseloom("look", folder, "--html", "page.html", "--figure", "page.png")
    assert not ended.code, ended.err
    lines = ended.out.splitlines()
    assert lines[0].split() == ["file", "format", "shape", "type", "beam", "step", "size", "note"]
    assert "4 of 10 files can be opened as they are" in lines
    assert Path("page.html").read_text().startswith("<!DOCTYPE html>")
    assert Path("page.png").read_bytes().startswith(b"\x89PNG")


def test_the_verb_says_what_does_not_go_with_a_folder(phaseloom, folder, tmp_path):
    (tmp_path / "nothing").mkdir()
    for words, reason in (
        (("look", folder, "-s", "epochs=3"), "does not go with a folder"),
        (("look", folder / "raster.h5", "--html", "a.html"), "is of a folder"),
        (("look", tmp_path / "nothing"), "holds no data"),
        (("look", folder, "--figure", "a.doc"), "has no ending of a picture"),
    ):
        ended = phaseloom(*words)
        assert ended.code == 2
        assert reason in ended.err


def test_surveys_in_several_threads_leave_the_log_as_it_was(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A page surveys in threads: of two that set the level of the logger one restored that of the other."""
    levels = set()

    def survey(_: int) -> None:
        for _facts in survey_folder(folder):
            levels.add(logging.getLogger("phaseloom").getEffectiveLevel())

    before = logging.getLogger("phaseloom").level
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(survey, range(8)))
    assert logging.getLogger("phaseloom").level == before
    assert len(levels) == 1
    assert not caplog.records
