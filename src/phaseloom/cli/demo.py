"""Demonstrations: a real X-ray scan that comes with the package, and a simulated electron scan."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from phaseloom import samples
from phaseloom.data.formats import native
from phaseloom.errors import BadInput
from phaseloom.files import make_folder, whole_buffer
from phaseloom.metrics.phase import phase_error
from phaseloom.reconstruction import compare
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.result import Result
from phaseloom.simulation import simulate

__all__ = ["begin_jobs", "compare_direct_image", "compare_with_truth"]

ELECTRON_PIXEL = 0.2
ELECTRON_WINDOW = 64
ELECTRON_GRID = (18, 18)
ELECTRON_SLICES = 6
PROBE_MODES = 4


def begin_jobs(out: Path, /) -> Iterator[tuple[str, Job]]:
    """The demonstrations, each as a title and a job; an older demo in the same folder is replaced.

    Raises:
        BadInput: the folder is a file.
    """
    if out.exists() and not out.is_dir():
        raise BadInput("--out", str(out), "is a file: name a folder")
    make_folder(out)
    for older in (out / "xray", out / "electron"):
        if (older / "run.yaml").is_file():
            shutil.rmtree(older)
    yield (
        "1. X-ray ptychography of a Siemens star (Velociprobe, APS, real data), probe and defocus unknown",
        _xray(out / "xray"),
    )
    yield (
        "2. Electron ptychography: 6 slices, 4 probe modes, 3 nm of defocus error (simulated)",
        _electron(out / "electron"),
    )


def compare_with_truth(job: Job, result: Result, /) -> list[str]:
    """Quality of a demonstration's result: its loss, or its error against the truth."""
    if job.scan.geometry.beam == "photon":
        return [f"misfit of patterns held out: {result.metrics['hold-out']:.2f} (1 = shot noise)"]
    error = compare.compare_with_truth(result, np.load(job.recipe.file.with_name("truth.npy"))).error
    return [
        f"phase error against the truth: {error.nrmse:.3f} of its contrast, correlation {error.pearson:.3f}"
    ]


def compare_direct_image(job: Job, /) -> list[str]:
    """Quality of the direct image of an electron demonstration: its correlation with the truth."""
    image = job.first_image
    if image is None:
        return []
    truth = np.load(job.recipe.file.with_name("truth.npy")).sum(0)
    rows, columns = np.round(job.scan.positions / np.array(job.scan.geometry.pixel)).astype(int).T
    error = phase_error(
        image.found.image.phase.numpy(), truth[rows, columns].reshape(ELECTRON_GRID), max_shift=2, margin=2
    )
    return [f"direct image, without epochs: correlation {error.pearson:.3f} with the truth"]


def _xray(folder: Path) -> Job:
    tree = {
        "file": str(samples.far_field()),
        "read": {"cxi": {"probe": False}},  # the file has one; the demonstration does without
        "probe": {"from_patterns": {"modes": 5}},
        "epochs": 40,
        "title": "Siemens star, Velociprobe, APS",
    }
    return Job.begin(Reconstruct.of(tree), folder)


def _electron(folder: Path) -> Job:
    margin = (ELECTRON_WINDOW // 2 + 6) * ELECTRON_PIXEL
    positions = simulate.raster(ELECTRON_GRID, 0.6, jitter=0.05, seed=1)
    positions += margin - positions.min(0)
    size = tuple(int(n) for n in np.ceil((positions.max(0) + margin) / ELECTRON_PIXEL).astype(int))
    truth = simulate.atoms((size[0], size[1]), ELECTRON_PIXEL, slices=ELECTRON_SLICES, peak=0.25, seed=2)
    scan, _ = simulate.electron_scan(
        truth,
        ELECTRON_PIXEL,
        positions,
        energy=80e3,
        semiangle=0.025,
        defocus=100.0,
        thickness=12.0,
        modes=PROBE_MODES,
        dose=1e6,
    )
    native.write(replace(scan, grid=ELECTRON_GRID), make_folder(folder) / "scan.h5")
    with whole_buffer(folder / "truth.npy") as buffer:
        np.save(buffer, truth)
    tree = {
        "file": str(folder / "scan.h5"),
        "object": {"pixels": {"slices": ELECTRON_SLICES, "thickness": "12 A", "kind": "phase"}},
        "probe": {"focused": {"semiangle": "25 mrad", "defocus": "130 A", "modes": PROBE_MODES}},
        "epochs": 25,
        "title": "Simulated electrons, 80 keV, 6 slices",
    }
    return Job.begin(Reconstruct.of(tree), folder)
