"""Demonstrations: a real X-ray scan that comes with the package, and a simulated electron scan."""

import importlib.resources
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from phaseloom.data.formats import native
from phaseloom.errors import BadInput
from phaseloom.metrics.phase import PhaseError, phase_error
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.result import Result
from phaseloom.simulation import simulate

__all__ = ["jobs", "near_field", "verdict"]

PIXEL, WINDOW, SLICES, MODES = 0.2, 64, 6, 4


def near_field() -> Path:
    """The near-field X-ray scan that comes with the package (CC BY 4.0, doi 10.5281/zenodo.17899482)."""
    return Path(str(importlib.resources.files("phaseloom") / "samples" / "petra_near_field.cxi"))


def jobs(out: Path, /) -> Iterator[tuple[str, Job]]:
    """The demonstrations, each as a title and a job; an older demo in the same folder is replaced.

    Raises:
        BadInput: the folder is a file.
    """
    if out.exists() and not out.is_dir():
        raise BadInput("--out", str(out), "is a file: name a folder")
    out.mkdir(parents=True, exist_ok=True)
    for older in (out / "xray", out / "electron"):
        if (older / "run.yaml").is_file():
            shutil.rmtree(older)
    yield "1. Near-field X-ray ptychography of a Siemens star (PETRA III P25, real data)", _xray(out / "xray")
    yield (
        "2. Electron ptychography: 6 slices, 4 probe modes, 3 nm of defocus error (simulated)",
        _electron(out / "electron"),
    )


def verdict(job: Job, result: Result, /) -> list[str]:
    """Quality of a demonstration's result: its loss, or its error against the truth."""
    if job.scan.geometry.beam == "photon":
        return [f"near-field Poisson loss {result.metrics['Poisson deviance']:.2f} (1 = shot noise)"]
    error = against_truth(result, np.load(job.recipe.file.with_name("truth.npy")))
    return [
        f"phase error against the truth: {error.nrmse:.3f} of its contrast, correlation {error.pearson:.3f}"
    ]


def against_truth(result: Result, truth: np.ndarray, /) -> PhaseError:
    """Error of the summed phase in the scanned field; the truth's pixel ``[0, 0]`` is at position 0."""
    rows, columns = result.window
    first = np.round(np.array(result.origin) / np.array(result.pixel)).astype(int)
    seen = np.angle(result.object).sum(0)[rows, columns]
    known = truth.sum(0)[rows.start + first[0] :, columns.start + first[1] :][
        : seen.shape[0], : seen.shape[1]
    ]
    return phase_error(seen, known)


def _xray(folder: Path) -> Job:
    tree = {
        "file": str(near_field()),
        "read": {"cxi": {"focus": "3.65 mm"}},
        "noise": "poisson",
        "rates": {"background": 0.2},
        "epochs": 40,
        "title": "Siemens star, near field, PETRA III P25",
    }
    return Job.begin(Reconstruct.of(tree), folder)


def _electron(folder: Path) -> Job:
    margin = (WINDOW // 2 + 6) * PIXEL
    positions = simulate.raster((18, 18), 0.6, jitter=0.05, seed=1)
    positions += margin - positions.min(0)
    size = tuple(int(n) for n in np.ceil((positions.max(0) + margin) / PIXEL).astype(int))
    truth = simulate.atoms((size[0], size[1]), PIXEL, slices=SLICES, peak=0.25, seed=2)
    scan, _ = simulate.electron_scan(
        truth,
        PIXEL,
        positions,
        energy=80e3,
        semiangle=0.025,
        defocus=100.0,
        thickness=12.0,
        modes=MODES,
        dose=1e6,
    )
    folder.mkdir(parents=True, exist_ok=True)
    native.write(scan, folder / "scan.h5")
    np.save(folder / "truth.npy", truth)
    tree = {
        "file": str(folder / "scan.h5"),
        "object": {"pixels": {"slices": SLICES, "thickness": "12 A", "kind": "phase"}},
        "probe": {"focused": {"semiangle": "25 mrad", "defocus": "130 A", "modes": MODES}},
        "epochs": 25,
        "title": "Simulated electrons, 80 keV, 6 slices",
    }
    return Job.begin(Reconstruct.of(tree), folder)
