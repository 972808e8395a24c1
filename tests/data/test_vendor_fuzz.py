"""Damaged headers: a sentence or a usable scan; no traceback, no byte outside of the file, little memory."""

import logging
import shutil
import struct
import tracemalloc
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from phaseloom.data import formats
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from tests.data import vendor_files as files
from tests.hostile.damage import EXTREMES, damage_bytes, damage_markup

GRID = (3, 5)
PATTERNS = np.random.default_rng(0).integers(1, 200, (15, 4, 4)).astype(np.uint16)
KNOBS = {"energy": "200 keV", "angle": "1 mrad", "step": "0.5 A"}
HEADER_BYTES = {"blockfile": 76, "tvips": 400, "seq": 600, "frms6": 1100, "timepix3": 400, "merlin": 384}
MAX_EXTRA_BYTES = 40_000_000
"""Memory beyond twice the file: the pieces in which patterns are read (32 MB), and Python's own."""


@pytest.fixture(autouse=True)
def _no_warnings(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "phaseloom")


def damage_hdf5(path: Path, rng: np.random.Generator) -> None:
    """Change what a counted file states of itself."""
    with h5py.File(path, "a") as file:
        frames, places = (file[f"electron_events/{name}"] for name in ("frames", "scan_positions"))
        item = [frames, places][int(rng.integers(0, 2))]
        name = ["Nx", "Ny"][int(rng.integers(0, 2))]
        kind = int(rng.integers(0, 5))
        if kind == 0:
            item.attrs[name] = rng.choice(EXTREMES)
        elif kind == 1:
            del item.attrs[name]
        elif kind == 2:
            item.attrs[name] = [np.nan, "many", -3, [1, 2]][int(rng.integers(0, 4))]
        elif kind == 3:
            places[int(rng.integers(0, 15))] = rng.choice(EXTREMES) & 0x7FFFFFFF
        else:
            frames[int(rng.integers(0, 15))] = rng.choice(EXTREMES, 3)


def damage(name: str, path: Path, rng: np.random.Generator) -> None:
    """Damage a file of a format, or one of those beside it."""
    if name == "stempy":
        damage_hdf5(path, rng)
        return
    beside = [one for one in path.parent.iterdir() if one.is_file()]
    target = beside[int(rng.integers(0, len(beside)))] if rng.random() < 0.4 else path
    content = target.read_bytes()
    text = target.suffix in (".xml", ".hdr", ".toml")
    target.write_bytes(
        damage_markup(content, rng) if text else damage_bytes(content, rng, HEADER_BYTES.get(name, 64))
    )


def outcome(path: Path, name: str) -> str:
    """What reading a damaged file comes to: ``read`` or ``refused``; anything else is an error."""
    grid = {"grid": list(GRID)} if name in ("seq", "timepix3") else {}
    sentence = ""
    tracemalloc.start()
    try:
        scan = formats.read(path, format=name, knobs={**KNOBS, **grid})
        assert isinstance(scan, Scan4D)
        for number in sorted({0, len(scan) // 2, len(scan) - 1}):
            assert np.isfinite(scan.counts[np.array([number])]).all()
    except BadInput as problem:
        sentence = str(problem)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    size = sum(one.stat().st_size for one in path.parent.iterdir() if one.is_file())
    assert peak < 2 * size + MAX_EXTRA_BYTES, f"{peak} bytes for a file of {size}"
    assert "\n" not in sentence
    assert len(sentence) < 900
    return "refused" if sentence else "read"


def fuzz(name: str, folder: Path, count: int) -> dict[str, int]:
    found = {"read": 0, "refused": 0}
    whole = folder / "whole"
    whole.mkdir()
    original = files.WRITERS[name](whole, PATTERNS, GRID)
    for number in range(count):
        rng = np.random.default_rng([number, zlib.crc32(name.encode())])
        case = folder / str(number)
        shutil.copytree(whole, case)
        path = case / original.name
        damage(name, path, rng)
        try:
            found[outcome(path, name)] += 1
        except Exception as problem:
            raise AssertionError(f"{name}, number {number}: {problem!r}") from problem
        shutil.rmtree(case)
    return found


@pytest.mark.parametrize("name", files.WRITERS)
def test_damaged_headers_are_refused_in_a_sentence_or_read(name: str, tmp_path: Path) -> None:
    found = fuzz(name, tmp_path, 40)
    assert min(found.values()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", files.WRITERS)
def test_a_thousand_damaged_headers(name: str, tmp_path: Path) -> None:
    fuzz(name, tmp_path, 1000)


def test_a_packed_frame_of_four_gigabytes_is_not_allocated(tmp_path: Path) -> None:
    path = files.write_seq(tmp_path / "a.seq", PATTERNS)
    content = bytearray(path.read_bytes())
    content[548:556] = struct.pack("<II", 60000, 60000)
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(BadInput):
        formats.read(path, knobs={**KNOBS, "grid": [3, 5]})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000
