"""A run on patterns that stay in their file holds next to nothing of them."""

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from /proc")

RUN = """
import sys
from phaseloom.cli import main
sys.argv = ["phaseloom", "reconstruct", sys.argv[1], "--out", sys.argv[2], "--quiet"]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
text = open("/proc/self/status").read()
print("highest", int(text.split("VmHWM:")[1].split()[0]) * 1024)
"""


def run(tree: dict, folder: Path) -> int:
    """Bytes that a run from its parameter file held at most."""
    folder.mkdir()
    (folder / "run.yaml").write_text(yaml.safe_dump(tree))
    words = [sys.executable, "-c", RUN, str(folder / "run.yaml"), str(folder / "out")]
    # what is freed goes back at once: what malloc keeps of it changes from run to run
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "131072"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (folder / "out" / "result.h5").exists()
    return int(done.stdout.split("highest")[1])


def store(path: Path, grid: tuple[int, int], size: int) -> int:
    """A file of disks with noise, one chunk for each pattern; returns its bytes."""
    y, x = np.indices((size, size)) - size // 2
    rate = np.where(np.hypot(y, x) < size / 8, 40.0, 0.3)
    some = np.random.default_rng(0).poisson(rate, (100, size, size)).astype(np.uint16)
    count = grid[0] * grid[1]
    with h5py.File(path, "w") as file:
        data = file.create_dataset("frames", (count, size, size), np.uint16, chunks=(1, size, size))
        for start in range(0, count, 100):
            data[start : start + 100] = some[: min(100, count - start)]
    return count * size * size * 2


def tree(path: Path, grid: tuple[int, int], step: str, **changes: object) -> dict:
    knobs = {"energy": "80 keV", "pixel": "0.2 A", "step": step, "grid": list(grid)}
    return {
        "file": str(path),
        "read": {"hdf5": knobs},
        "probe": {"focused": {"semiangle": "25 mrad", "defocus": "100 A", "modes": 1}},
        "start": "none",
        "batch": {"random": {"size": 32}},
        "epochs": 1,
        **changes,
    }


@pytest.mark.slow
def test_a_run_on_a_streamed_file_holds_a_small_part_of_it(tmp_path: Path) -> None:
    """Both scan the same field and have a direct image, so that only the number of patterns differs.

    Of the patterns a quarter would be 22 MB; the libraries alone differ by 16 MB from run to run, and by 90
    where the first one compiles.
    """
    few = store(tmp_path / "few.h5", (30, 30), 128)
    many = store(tmp_path / "many.h5", (60, 60), 128)
    assert many > 100e6
    small = run(tree(tmp_path / "few.h5", (30, 30), "0.4 A"), tmp_path / "small")
    large = run(tree(tmp_path / "many.h5", (60, 60), "0.2 A"), tmp_path / "large")
    assert large - small < 0.25 * (many - few)
