"""The command line on files of detectors: what they state is printed, what they lack is asked for once."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from phaseloom.cli import app
from phaseloom.data.formats.header import MissingValues
from tests.data import vendor_files as files

PATTERNS = np.random.default_rng(0).integers(1, 60, (15, 8, 8)).astype(np.uint16)


def run(*words: str) -> str:
    done = CliRunner().invoke(app, list(words))
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def test_look_prints_what_a_file_states() -> None:
    files.write_blo(Path("a.blo"), PATTERNS, (3, 5))
    said = run("look", "a.blo")
    assert "energy: 200 keV  # from the file" in said
    assert "step: [2 nm, 2.5 nm]  # from the file" in said
    assert "NanoMEGAS ASTAR" in said
    assert "IMGBLO" not in said  # the original header is long


def test_a_side_car_of_a_detector_file_is_filled_in_once() -> None:
    files.write_mib(Path("a.mib"), PATTERNS, hdr={"ScanX": 5, "ScanY": 3, "Frames per Trigger (Number)": 5})
    with pytest.raises(MissingValues, match="does not state energy, angle and step"):
        run("look", "a.mib")
    assert "fill in: energy, angle, step" in run("look", "a.mib", "--write-sidecar")
    beside = Path("a.mib.phaseloom.yaml")
    assert "grid: [3, 5]  # from the file" in beside.read_text()
    lines = [line.removeprefix("# ").split("  # ")[0] for line in beside.read_text().splitlines()[1:]]
    beside.write_text("\n".join(lines))
    assert "electron 200 keV" in run("look", "a.mib")


def test_sparse_counts_in_a_toml_are_data() -> None:
    files.write_raw_csr(Path("a.toml"), PATTERNS, (3, 5))
    said = run("look", "a.toml", "--set", "read={raw_csr: {energy: 80 keV, pixel: 0.2 A, step: 1 A}}")
    assert "15 patterns of 8 x 8 pixels" in said
