"""The command line as a user runs it, and tiny scans with a known truth: 25 electron and 9 X-ray patterns."""

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from phaseloom import cli
from phaseloom.data.formats import cxi, native
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.simulation import simulate

PIXEL, WINDOW = 0.2, 24
OPTICS = {"semiangle": "40 mrad", "defocus": "60 A", "modes": 1}


@dataclass(frozen=True)
class Files:
    """One electron scan in both of our formats, and a near-field scan."""

    scan: Scan4D
    native: Path
    cxi: Path
    near: Path


def electrons(defocus: float = 60.0, window: int = WINDOW) -> Scan4D:
    margin = (window // 2 + 3) * PIXEL
    positions = simulate.raster((5, 5), 0.45, jitter=0.05, seed=1)
    positions += margin - positions.min(0)
    rows, columns = np.ceil((positions.max(0) + margin) / PIXEL).astype(int)
    truth = simulate.atoms((int(rows), int(columns)), PIXEL, peak=0.5, seed=2)
    scan, _ = simulate.electron_scan(
        truth, PIXEL, positions, energy=80e3, semiangle=0.04, defocus=defocus, window=window, dose=1e5
    )
    return scan


def holograms() -> Scan4D:
    rng = np.random.default_rng(5)
    geometry = Geometry(
        wavelength=1.4, shape=(16, 16), angle=(1e-5, 1e-5), distance=1e9, focus=1e8, beam="photon"
    )
    counts = rng.poisson(200, (9, 16, 16)).astype(np.uint32)
    return Scan4D(
        counts=counts, positions=simulate.raster((3, 3), 2.3 * geometry.pixel[0]), geometry=geometry
    )


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("scans")
    scan = electrons()
    native.write(scan, folder / "scan.h5")
    cxi.write(scan, folder / "scan.cxi")
    native.write(holograms(), folder / "near.h5")
    return Files(scan, folder / "scan.h5", folder / "scan.cxi", folder / "near.h5")


@pytest.fixture(scope="session")
def tree(files: Files) -> dict[str, Any]:
    """A parameter file that leaves nothing to be found, and runs an epoch in a few hundredths of a second."""
    return {
        "file": str(files.native),
        "probe": {"focused": dict(OPTICS)},
        "start": "none",
        "batch": {"random": {"size": 8}},
        "epochs": 4,
    }


@pytest.fixture(scope="session")
def finished(tree: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A run of four epochs in a folder, with its result saved."""
    job = Job.begin(Reconstruct.of(tree), tmp_path_factory.mktemp("run") / "a")
    for _ in job:
        pass
    job.result().save(job.directory / "result.h5")
    return job


@pytest.fixture
def phaseloom(monkeypatch, capsys) -> Callable[..., SimpleNamespace]:
    """Run a command line; gives code, output and complaints."""

    def call(*argv: object) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["phaseloom", *map(str, argv)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        return SimpleNamespace(code=end.value.code or 0, out=said.out, err=said.err)

    return call


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The Chromium of the machine, without a window."""
    sync = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next((path for name in names if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip("needs a Chromium on this machine: apt-get install chromium")
    with sync.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()
