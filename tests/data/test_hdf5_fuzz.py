"""Damaged HDF5 files of every kind: a sentence or a usable scan; no traceback, little memory."""

import logging
import shutil
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from phaseloom.data import formats
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from tests.data.hdf5_files import CASES, Case

GRID = (3, 5)
PATTERNS = np.random.default_rng(0).integers(1, 200, (15, 4, 4)).astype(np.uint16)
KNOBS = {"energy": "200 keV", "angle": "1 mrad", "step": "2 A", "grid": list(GRID)}
HDF5_CASES = [case for case in CASES if not case.file.endswith((".zspy", ".ndata1"))]
MAX_EXTRA_BYTES = 40_000_000

VALUES: list[Any] = [
    0,
    -1,
    1e300,
    np.nan,
    np.inf,
    2**31 - 1,
    "many",
    b"\xff\xfe",
    "",
    [1, 2, 3],
    np.zeros((2, 0)),
]
VALUES += ["[" * 3000, '{"a": [1, null]}', "1e400 keV", "furlong", np.complex64(1j), True, h5py.Empty("f4")]
SHAPES = [(), (0,), (1,), (3,), (15,), (15, 3), (2, 15), (4, 4), (5, 4), (15, 4, 4), (0, 4, 4), (3, 5, 4, 4)]


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Warnings of thousands of damaged files are of no use."""
    caplog.set_level(logging.CRITICAL, "phaseloom")


def damage(path: Path, rng: np.random.Generator) -> None:
    """One to three changes of members and attributes, or the end cut off.

    Bits are not flipped: with some the HDF5 library itself never returns (a damaged heap of strings).
    """
    if rng.random() < 0.15:
        content = path.read_bytes()
        path.write_bytes(content[: int(rng.integers(8, len(content)))])
        return
    with h5py.File(path, "a") as file:
        for _ in range(int(rng.integers(1, 4))):
            names: list[str] = [""]
            file.visit(names.append)
            name = names[int(rng.integers(0, len(names)))]
            change(file, name, rng)


def change(file: h5py.File, name: str, rng: np.random.Generator) -> None:
    member: Any = file[name] if name else file
    value = VALUES[int(rng.integers(0, len(VALUES)))]
    kind = int(rng.integers(0, 7))
    attrs = list(member.attrs)
    if kind <= 1 and attrs:
        key = attrs[int(rng.integers(0, len(attrs)))]
        if rng.random() < 0.3:
            del member.attrs[key]
        else:
            member.attrs[key] = value
    elif kind == 2:
        member.attrs["units"] = value
    elif name:
        shape = SHAPES[int(rng.integers(0, len(SHAPES)))]
        del file[name]
        if kind == 3:
            file[name] = (
                h5py.ExternalLink("nothing.h5", "/a") if rng.random() < 0.5 else h5py.SoftLink("/nothing")
            )
        elif kind == 4:
            file.create_group(name)
        elif kind == 5:
            file[name] = value
        else:
            dtype = ["u1", "i4", "f8", "S3", "c8", "?"][int(rng.integers(0, 6))]
            file[name] = np.zeros(shape, dtype)


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
        damage(one / case.file, rng)
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
    found = fuzz(case, tmp_path, 300)
    assert min(found.values()) > 0
