"""Large files are opened at once, and read about as fast as plain numbers, to the same picture."""

import os
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from phaseloom.cli import app
from phaseloom.data import formats
from tests.data import vendor_files as files

TEN_GIGABYTES = 10_000_000_000
KNOBS = {"energy": "200 keV", "angle": "1 mrad", "step": "0.5 A"}
ONE = np.ones((2, 256, 256), np.uint16)


def open_ended(name: str, folder: Path) -> Path:
    """A file of two frames, made ten gigabytes long; the rest are zeros that take no place on the disk."""
    if name == "empad":
        path = files.write_empad(folder / "a.raw", np.ones((2, 128, 128)), None)
    elif name == "blockfile":
        path = files.write_blo(folder / "a.blo", np.ones((2, 256, 256), np.uint8), (1, 2), nx=400, ny=400)
    elif name == "merlin":
        path = files.write_mib(folder / "a.mib", ONE)
    elif name == "tvips":
        path = files.write_tvips(folder / "a", ONE)
    elif name == "seq":
        path = files.write_seq(folder / "a.seq", ONE)
    else:
        path = files.write_frms6(folder / "a", ONE)
    os.truncate(path, TEN_GIGABYTES)
    return path


@pytest.mark.medium
@pytest.mark.parametrize("name", ["merlin", "empad", "blockfile", "tvips", "seq", "frms6"])
def test_ten_gigabytes_are_opened_at_once(name: str, tmp_path: Path) -> None:
    path = open_ended(name, tmp_path)
    knobs = KNOBS if name == "blockfile" else {**KNOBS, "grid": [400, 400]}
    formats.read(path, format=name, knobs=knobs)  # imports
    seconds = []
    for _ in range(3):
        start = time.process_time()
        formats.read(path, format=name, knobs=knobs)
        seconds.append(time.process_time() - start)
    tracemalloc.start()
    scan = formats.read(path, format=name, knobs=knobs)
    scan.counts[np.array([0, len(scan) - 1])]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200_000_000
    assert min(seconds) < 0.5


@pytest.mark.medium
@pytest.mark.parametrize("name", ["merlin", "empad"])
def test_look_at_ten_gigabytes_takes_about_a_second(name: str, tmp_path: Path) -> None:
    """Less than 1 s of a processor of its own; the bound is loose, as other programs run beside the tests."""
    path = open_ended(name, tmp_path)
    knobs = "energy: 200 keV, angle: 1 mrad, step: 0.5 A, grid: [400, 400]"
    words = ["look", str(path), "--set", f"read={{{name}: {{{knobs}}}}}"]
    CliRunner().invoke(app, words)  # imports
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(3):
        start = time.process_time()
        done = CliRunner().invoke(app, words)
        seconds.append(time.process_time() - start)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert "picture:" in done.output
    assert min(seconds) < 2
    assert grown < 200_000  # kB


@pytest.mark.medium
@pytest.mark.parametrize("name", ["merlin", "tvips", "seq"])
def test_blocks_are_read_about_as_fast_as_plain_numbers(name: str, tmp_path: Path) -> None:
    """A row of the scan at a time; the bound is loose, as other programs run beside the tests."""
    patterns = np.random.default_rng(0).integers(0, 99, (256, 256, 256)).astype(np.uint16)
    writers = {"merlin": files.write_mib, "tvips": files.write_tvips, "seq": files.write_seq}
    path = writers[name](tmp_path / {"merlin": "a.mib", "tvips": "a", "seq": "a.seq"}[name], patterns)
    scan = formats.read(path, knobs={**KNOBS, "grid": [4, 64]})

    def fastest(action) -> float:
        times = []
        for _ in range(5):
            start = time.process_time()
            action()
            times.append(time.perf_counter() - start)
        return min(times)

    plain = fastest(lambda: np.fromfile(path, ">u2" if name == "merlin" else "<u2").astype("u2"))
    ours = fastest(lambda: [scan.counts[np.arange(at, at + 64)] for at in range(0, 256, 64)])
    assert ours < 3 * plain


@pytest.mark.medium
@pytest.mark.parametrize("name", files.WRITERS)
def test_a_simulated_scan_comes_back_as_the_same_picture(name: str, simulated, tmp_path: Path) -> None:
    """Images from the centre of mass of the patterns: rows, columns and the order of the scan all count."""
    patterns = np.asarray(simulated.counts).round().astype(np.uint16)
    path = files.WRITERS[name](tmp_path, patterns, (6, 8))
    grid = {"grid": [6, 8]} if name in ("seq", "timepix3") else {}
    scan = formats.read(path, knobs={"energy": "200 keV", "angle": "1 mrad", "step": "1 A", **grid})
    assert scan.grid == (6, 8)
    moments = []
    for counts in (patterns, scan.counts[np.arange(48)][:, : patterns.shape[1], : patterns.shape[2]]):
        y, x = np.indices(counts.shape[1:])
        total = counts.sum((1, 2))
        moments.append(np.stack([(counts * axis).sum((1, 2)) / total for axis in (y, x)]).reshape(2, 6, 8))
    np.testing.assert_allclose(moments[1], moments[0])
    assert np.ptp(moments[0], axis=(1, 2)).min() > 0.01
    others = [np.rot90(m, turn)[: m.shape[0], : m.shape[1]] for m in moments[0] for turn in (1, 2, 3)]
    assert all(
        not np.allclose(other, m[: other.shape[0], : other.shape[1]]) for m in moments[0] for other in others
    )
