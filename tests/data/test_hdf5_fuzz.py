"""Damaged HDF5 files of every kind: a sentence or a usable scan; no traceback, little memory."""

import logging
import shutil
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest

from phaseloom.data import formats
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from tests.data.hdf5_files import CASES, Case
from tests.hostile.damage import damage_hdf5

GRID = (3, 5)
PATTERNS = np.random.default_rng(0).integers(1, 200, (15, 4, 4)).astype(np.uint16)
KNOBS = {"energy": "200 keV", "angle": "1 mrad", "step": "2 A", "grid": list(GRID)}
HDF5_CASES = [case for case in CASES if not case.file.endswith((".zspy", ".ndata1"))]
MAX_EXTRA_BYTES = 40_000_000


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Warnings of thousands of damaged files are of no use."""
    caplog.set_level(logging.CRITICAL, "phaseloom")


def outcome(path: Path) -> str:
    """What reading comes to: ``read``, ``asked`` or ``refused``; anything else is an error."""
    tracemalloc.start()
    sentence = ""
    try:
        scan = formats.read(path, knobs=KNOBS if zlib.crc32(path.parent.name.encode()) % 2 else {})
        assert isinstance(scan, Scan4D)
        for number in sorted({0, len(scan) // 2, len(scan) - 1}):
            assert np.isfinite(scan.counts[np.array([number])]).all()
    except BadInput as problem:
        sentence = str(problem)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 2 * path.stat().st_size + MAX_EXTRA_BYTES
    assert "\n" not in sentence
    assert len(sentence) < 1200
    return "refused" if sentence else "read"


def fuzz(case: Case, folder: Path, count: int) -> dict[str, int]:
    found = {"read": 0, "refused": 0}
    whole = folder / "whole"
    whole.mkdir()
    case.write(whole / case.file, PATTERNS, GRID)
    for number in range(count):
        rng = np.random.default_rng([number, zlib.crc32(case.kind.encode())])
        one = folder / str(number)
        shutil.copytree(whole, one)
        damage_hdf5(one / case.file, rng)
        try:
            found[outcome(one / case.file)] += 1
        except Exception as problem:
            raise AssertionError(f"{case.kind}, number {number}: {problem!r}") from problem
        shutil.rmtree(one)
    return found


@pytest.mark.parametrize("case", HDF5_CASES, ids=lambda case: case.kind)
def test_damaged_files_are_refused_in_a_sentence_or_read(case: Case, tmp_path: Path) -> None:
    found = fuzz(case, tmp_path, 14)
    assert sum(found.values()) == 14


@pytest.mark.slow
@pytest.mark.parametrize("case", HDF5_CASES, ids=lambda case: case.kind)
def test_hundreds_of_damaged_files(case: Case, tmp_path: Path) -> None:
    found = fuzz(case, tmp_path, 120)
    assert min(found.values()) > 0
