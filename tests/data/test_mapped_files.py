"""Arrays mapped from files are read in pieces, as slicing the map gives them, and never kill the process."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from phaseloom.data import formats
from phaseloom.data.counts import MIN_BYTES_READ, ArrangedCounts
from phaseloom.errors import BadInput

SHAPE = (3, 4, 64, 64)
KNOBS = {"energy": "200 keV", "angle": "1 mrad", "step": "1 A"}


def draw(dtype: str = "<u2") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, SHAPE).astype(dtype)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<u2", ">u2", "u1", "<f4"])
@pytest.mark.parametrize("offset", [0, 3, 5000])
def test_patterns_are_those_of_the_map(order: str, dtype: str, offset: int, tmp_path: Path) -> None:
    values = draw(dtype)
    path = tmp_path / "a.raw"
    path.write_bytes(bytes(offset) + values.tobytes(order))  # pyright: ignore
    mapped = np.memmap(path, dtype, "r", offset, SHAPE, order)  # pyright: ignore
    counts = ArrangedCounts.of(mapped)
    for index in (np.arange(12), np.array([7, 2, 2, 3, 11]), np.array(5), np.arange(0)):
        np.testing.assert_array_equal(counts[index], values.reshape(12, 64, 64)[index])
    assert counts.dtype == dtype
    cut = (slice(0, 3, 2), slice(None), slice(3, 40), slice(2, 60, 3))
    inner = ArrangedCounts(mapped, cut, (1, 0, 3, 2), 2, (8, 20, 37))
    wanted = values[::2, :, 3:40, 2:60:3].transpose(1, 0, 3, 2).reshape(8, 20, 37)
    np.testing.assert_array_equal(inner[np.arange(8)], wanted)


@pytest.mark.parametrize("last", [True, False])
def test_gaps_between_patterns_are_left_out(last: bool, tmp_path: Path) -> None:
    values = draw()
    path = tmp_path / "a.raw"
    rows = [one.tobytes() + b"\xff" * 50 for one in values.reshape(-1, 64, 64)]
    path.write_bytes(bytes(7) + b"".join(rows)[: None if last else -50])
    knobs = {**KNOBS, "shape": list(SHAPE), "dtype": "uint16", "offset": 7, "gap": 50}
    scan = formats.read(path, format="raw", knobs=knobs)
    np.testing.assert_array_equal(scan.counts[np.arange(12)], values.reshape(12, 64, 64))


def test_pieces_come_from_the_file_and_not_from_the_map(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, draw())
    mapped = np.load(path, mmap_mode="r")
    counts = ArrangedCounts.of(mapped)
    assert mapped[0, 0].nbytes >= MIN_BYTES_READ
    other = tmp_path / "b.npy"
    np.save(other, draw() + np.uint16(1))
    os.replace(other, path)  # the map still shows the old file
    np.testing.assert_array_equal(counts[np.arange(12)], draw().reshape(12, 64, 64) + 1)


def test_a_file_that_has_become_shorter_is_told_and_does_not_end_the_process(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, draw())
    scan = formats.read(path, knobs=KNOBS)
    os.truncate(path, 30_000)
    with pytest.raises(BadInput, match=r"a\.npy: has become shorter since it was opened: copy it again"):
        scan.counts[np.arange(12)]


@pytest.mark.medium
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("name", ["npy", "h5"])
def test_look_at_ten_gigabytes_takes_200_megabytes_in_all(name: str, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    shape = (280, 280, 256, 256)
    path = tmp_path / f"large.{name}"
    if name == "npy":
        with path.open("wb") as file:
            header = {"descr": "<u2", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            file.write(np.random.default_rng(0).poisson(9, shape[2:]).astype("<u2").tobytes())
            file.truncate(file.tell() + 2 * int(np.prod(shape)) - 2 * 256 * 256)
    else:
        with h5py.File(path, "w") as file:
            patterns = file.create_dataset("data", shape, "u2", chunks=(1, 1, 256, 256))
            patterns[0, 0] = np.random.default_rng(0).poisson(9, shape[2:])
    Path(f"{path}.phaseloom.yaml").write_text("energy: 200 keV\nangle: 0.5 mrad\nstep: 0.4 A\n")
    code = "from phaseloom.cli import app\ntry: app()\nfinally: print(open('/proc/self/status').read())"
    done = subprocess.run(
        [sys.executable, "-c", code, "look", path.name],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    assert "picture:" in done.stdout
    peak = next(line for line in done.stdout.splitlines() if line.startswith("VmHWM"))
    assert int(peak.split()[1]) < 200_000
