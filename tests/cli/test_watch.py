"""`phaseloom watch` on files: what it prints, refuses and leaves."""

import numpy as np
import pytest

import phaseloom as pl
from benchmarks.detector import simulate
from phaseloom.data.formats import cxi
from phaseloom.data.growing import growing_file

SETTINGS = ("--set", "start=none", "--set", "probe={from_patterns: {defocus: 6.4 mm}}", "--set", "epochs=4")


@pytest.fixture(autouse=True)
def _looks_without_waiting(monkeypatch):
    monkeypatch.setattr(growing_file, "SECONDS_BETWEEN_LOOKS", 0.0)


@pytest.fixture(scope="module")
def scan():
    made = simulate((8, 9), window=32, step=3.0, photons=3e4, seed=2)
    geometry = pl.Geometry(wavelength=1.5498, shape=(32, 32), angle=3.75e-5, distance=2e10)
    return pl.Scan4D(counts=made.frames, positions=made.positions * 1e10, geometry=geometry, grid=(8, 9))


def test_a_finished_file_ends_as_an_ordinary_run_on_that_file(scan, tmp_path, phaseloom, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cxi.write(scan, tmp_path / "scan.cxi")
    ended = phaseloom("watch", "scan.cxi", *SETTINGS, "--out", "run", "-q")
    assert not ended.code, ended.err
    assert "scan.cxi announces 72 patterns" in ended.out
    assert "the scan is over: 72 patterns are here" in ended.out
    assert "verdict:" in ended.out
    assert not (tmp_path / "run" / "scan.h5").exists()  # its own file gives the same
    assert pl.Reconstruct.from_path(tmp_path / "run" / "run.yaml").file == tmp_path / "scan.cxi"
    again = phaseloom("reconstruct", "--resume", "run", "-q")
    assert not again.code, again.err


def test_a_scan_that_stays_short_says_so_and_keeps_its_patterns(
    scan, tmp_path, phaseloom, monkeypatch, caplog
):
    monkeypatch.chdir(tmp_path)
    scan.counts[:50].tofile("scan.raw")
    setup = (
        "beam: photon\nenergy: 8 keV\nangle: 37.5 µrad\nstep: 387 nm\nshape: [8, 9, 32, 32]\ndtype: uint16\n"
    )
    (tmp_path / "setup.yaml").write_text(setup)
    words = ("watch", "scan.raw", "--setup", "setup.yaml", "--silence", "0.5", "--until", "50 nm", *SETTINGS)
    ended = phaseloom(*words, "--out", "run", "-q")
    assert not ended.code, ended.err
    said = ended.out + ended.err + caplog.text
    assert said.count("nothing comes any more after 50 of 72 patterns") == 1  # printed and logged before
    assert len(pl.read(tmp_path / "run" / "scan.h5")) == 50
    assert np.array_equal(pl.load(tmp_path / "run" / "result.h5").positions_start.shape, (50, 2))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("none.h5", "--patience", "0.1"), "announces no scan within 0.1 s: none.h5 does not exist yet"),
        (("scan.h5", "--until", "20"), "--until: 20"),
        (
            ("bare.npy",),
            "bare.npy: does not state energy, angle and step: write a YAML file for --setup with",
        ),
        (("scan.h5", "--setup", "none.yaml"), "--setup: none.yaml does not exist"),
    ],
)
def test_what_cannot_be_is_one_sentence(words, sentence, phaseloom, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("bare.npy", np.ones((5, 5, 16, 16)))
    ended = phaseloom("watch", *words)
    assert ended.code == 2
    assert sentence in ended.err


def test_a_source_that_does_not_exist_is_said_at_once(phaseloom, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = phaseloom("watch", "nothing.h5", "--patience", "0.2", "--out", "run")
    assert "nothing.h5, which does not exist yet, for 0.2 s at most (--patience)" in ended.out
    assert (ended.code, "does not exist yet" in ended.err) == (2, True)
