"""Numbers far from any use end with their cause named, or with a result that is finite and not trusted."""

import re
from pathlib import Path

import pytest

from phaseloom.data.formats import native
from tests.hostile.fork_server import ForkServer
from tests.hostile.oracle import is_sentence
from tests.hostile.traps import SCANS, SETTINGS, scan

SHORT = ["-s", "start=none", "-s", "epochs=2", "--out", "out", "-q"]
OPTICS = ["-s", "probe.focused={semiangle: 40 mrad, defocus: 60 A, modes: 1}"]

SAID = {
    "counts times 1e30": "cannot be computed with in single precision",
    "counts times 1e300": "cannot be computed with in single precision",
    "counts times 1e-30": "cannot be computed with in single precision",
    "1x1 detector": "patterns of (1, 1) pixels are too few",
    "all saturated": "holds 65535 in every pixel of every pattern: the detector was saturated",
    "all NaN": "holds no number where pixels are trusted",
    "all zero": "holds no counts at all",
    "far positions": "object pixels are too many",
    "distance 1e10": "larger than the detector's half width",
    "dose 1e30": "must be at most 1e+15",
    "resample by 1e9": "at most 65536 pixels along an edge",
    "normalise nan": "is used by by: divide alone",
    "normalise 0": "is used by by: divide alone",
    "normalise -1": "is used by by: divide alone",
    "epochs of 400 digits": "has a number of more than 300 digits",
    "epochs of 5000 digits": "must be a whole number",
    "epochs 1:30": "epochs: 1:30 must be a whole number",
    "10,000 steps": "must have 100 entries at most",
    "a million modes": "must be at most 576",
    "2000 modes": "must be at most 576",
    "late nan": "there is no 'plateau'",
    "title with a zero": "holds a character that no file keeps",
    "bin to 1x1": "must be a whole number from 1 to 12",
    "path out of the folder": "is not the end of a file's name",
}

WARNED = {
    "one place": "all the same",
    "1 eV": "The energy is unusual for electrons",
    "one lit pattern": "24 of 25 patterns are blank",
    "bin to 3x3": "verdict: doubtful",
    "7 of 31x37": "verdict: still falling",
}
"""Runs that end with a result, and what they say of it."""


def run(server: ForkServer, name: str, folder: Path):
    if name in SCANS:
        native.write(SCANS[name](), folder / "scan.h5")
        return server.run(["reconstruct", "scan.h5", *SHORT, *OPTICS], folder)
    native.write(scan(), folder / "scan.h5")
    more = [one for setting in SETTINGS[name] for one in ("-s", setting)]
    return server.run(["reconstruct", "scan.h5", *SHORT, *OPTICS, *more], folder)


@pytest.mark.medium
@pytest.mark.parametrize("name", SAID)
def test_the_cause_is_named(name: str, server: ForkServer, tmp_path: Path) -> None:
    outcome = run(server, name, tmp_path)
    assert outcome.code == 2, outcome.err
    assert is_sentence(outcome.sentence), outcome.err
    assert re.search(re.escape(SAID[name]), outcome.sentence), outcome.sentence


@pytest.mark.medium
@pytest.mark.parametrize("name", WARNED)
def test_a_result_that_means_nothing_is_warned_of(name: str, server: ForkServer, tmp_path: Path) -> None:
    outcome = run(server, name, tmp_path)
    assert outcome.code == 0, outcome.err
    assert WARNED[name] in outcome.out + outcome.err
    assert "RuntimeWarning" not in outcome.err


def test_every_trap_has_its_words() -> None:
    unchecked = {"3x3 detector", "8x8 detector", "pad to 20000"}  # run below, and where memory is short
    assert {*SCANS, *SETTINGS} - unchecked == {*SAID, *WARNED}


@pytest.mark.medium
@pytest.mark.parametrize("name", ["3x3 detector", "8x8 detector"])
def test_small_detectors_are_reconstructed(name: str, server: ForkServer, tmp_path: Path) -> None:
    native.write(SCANS[name](), tmp_path / "scan.h5")
    outcome = server.run(["reconstruct", "scan.h5", *SHORT], tmp_path)
    assert outcome.code == 0, outcome.err
    assert "verdict: doubtful" in outcome.out


@pytest.mark.medium
def test_patterns_that_do_not_fit_into_memory_are_a_sentence(server: ForkServer, tmp_path: Path) -> None:
    outcome = run(server, "pad to 20000", tmp_path)
    assert outcome.code in (1, 2)
    assert "memory" in outcome.sentence
