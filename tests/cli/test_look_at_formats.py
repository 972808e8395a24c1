"""The command line on files of detectors: what they state is printed, what they lack is asked for once."""

import subprocess
import sys
from pathlib import Path

import h5py
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


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
@pytest.mark.parametrize("ending", ["npy", "h5"])
def test_look_at_ten_gigabytes_needs_neither_torch_nor_much_memory(ending: str, tmp_path: Path) -> None:
    """PyTorch takes two seconds of 4.5 to import, and 180 MB. Pages of a mapped file count as memory."""
    shape = (256, 320, 256, 256)
    path = tmp_path / f"big.{ending}"
    if ending == "npy":
        stored = np.lib.format.open_memmap(path, "w+", np.uint16, shape)
        stored[128, 160, 100:150, 100:150] = 5
    else:
        with h5py.File(path, "w") as file:
            file.create_dataset("counts", shape, np.uint16, chunks=(1, 4, 256, 256))
            file["counts"][128, 160, 100:150, 100:150] = 5
    (tmp_path / f"{path.name}.phaseloom.yaml").write_text("{energy: 80 keV, angle: 1 mrad, step: 0.4 A}")
    program = (
        "import sys; sys.modules['torch'] = None; sys.argv = ['phaseloom', 'look', sys.argv[1]]\n"
        "from phaseloom.cli.command import main\n"
        "try:\n    main()\n"
        "finally:\n    print(open('/proc/self/status').read())\n"  # not ru_maxrss, which outlives exec
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "81920 patterns of 256 x 256 pixels" in done.stdout
    peak = int(done.stdout.partition("VmHWM:")[2].split()[0]) / 1024
    assert peak < (450 if ending == "npy" else 320)


def test_what_a_file_holds_is_told_before_what_it_lacks(phaseloom, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", np.ones((4, 5, 8, 9), np.uint16))
    with h5py.File("b.h5", "w") as file:
        file["run7/frames"] = np.ones((20, 8, 9), np.float32)
        file["dark"] = np.ones((8, 9))
    patterns = "20 patterns of 8 x 9 pixels"
    for name, holds in {
        "a.npy": f"a.npy holds {patterns}, uint16, 4 x 5 of them",
        "b.h5": f"b.h5 holds {patterns}, float32, in the data set run7/frames",
    }.items():
        done = phaseloom("look", name)
        assert (done.code, holds in done.out, "does not state energy" in done.err) == (2, True, True), done
        assert holds in phaseloom("look", name, "--write-sidecar").out
