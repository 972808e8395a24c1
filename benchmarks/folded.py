"""Crystals on rasters that fold their lattice: are orientation, rotation and defocus found, and does it show?

    python -m benchmarks.folded --seeds 200 220 --out benchmarks/results/folded-DATE.json

Patterns are made with numpy alone: a lattice of columns, one in ten of them weak, a hard aperture, Poisson
noise; the scan is turned by any angle against the detector. Each scan is fitted without folded frequencies
(`phaseloom.direct.fit`), with them (`phaseloom.direct.checks.folding`), and imaged. One thread.
"""

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from benchmarks.record import machine
from benchmarks.testbed.scoring import score_image
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.direct.checks.folding import MIN_SHARE_BEYOND, fit_folded_optics
from phaseloom.direct.fit import OpticsFit, fit_optics
from phaseloom.direct.reconstruct import find_largest_defocus, reconstruct_scan
from phaseloom.direct.survey import survey_disk
from phaseloom.direct.transfer import LinearOptics
from phaseloom.units import electron_wavelength

__all__ = ["Crystal", "draw_crystal", "measure_crystal", "simulate_crystal"]

WINDOW = 64
"""Pixels of a pattern along each axis."""

MAX_TURN = 4.0
MAX_SHARE_OF_DEFOCUS = 0.15
"""Degrees, and share of the defocus, that optics may be off to be right."""


@dataclass(frozen=True)
class Crystal:
    """A scan to be made; lengths in angstrom, angles in radian.

    Attributes:
        seed: of defects and counts.
        energy: electron volt.
        semiangle: of the aperture.
        reach: of the detector.
        defocus: positive: under-focus.
        step: of the raster.
        turn: of the scan against the detector.
        planes: distance of lattice planes.
        lattice: direction of the lattice.
        peak: largest phase, radian.
        electrons: of a pattern.
        grid: places along each axis.
    """

    seed: int
    energy: float = 200e3
    semiangle: float = 0.022
    reach: float = 0.05
    defocus: float = 180.0
    step: float = 1.9
    turn: float = 0.0
    planes: float = 3.0
    lattice: float = 0.5
    peak: float = 0.4
    electrons: float = 5e4
    grid: int = 24

    @property
    def wavelength(self) -> float:
        """Angstrom."""
        return electron_wavelength(self.energy)

    @property
    def pixel(self) -> float:
        """Of the object, angstrom."""
        return self.wavelength / (2 * self.reach)


def draw_crystal(seed: int) -> Crystal:
    """A crystal whose lattice a raster of half an angstrom to 2.4 angstrom may fold."""
    rng = np.random.default_rng((seed, 4))
    semiangle = float(rng.uniform(0.018, 0.032))
    energy = float(rng.choice([60e3, 80e3, 200e3, 300e3]))
    reach = float(rng.uniform(1.5, 2.2)) * semiangle
    window = WINDOW * electron_wavelength(energy) / (2 * reach)
    return Crystal(
        seed,
        energy=energy,
        semiangle=semiangle,
        reach=reach,
        defocus=float(rng.choice([-1, 1]) * rng.uniform(0.25, 0.6)) * window / (2 * semiangle),
        step=float(rng.uniform(0.5, 2.4)),
        turn=float(rng.uniform(-math.pi, math.pi)),
        planes=float(rng.uniform(2.5, 4.2)),
        lattice=float(rng.uniform(0, math.pi)),
        peak=float(rng.choice([0.2, 0.4, 0.7, 1.0])),
        electrons=float(10 ** rng.uniform(3.7, 5)),
        grid=28,
    )


def turn_about(points: np.ndarray, angle: float) -> np.ndarray:
    """Points (row, column) turned from the row axis towards the column axis."""
    cos, sin = math.cos(angle), math.sin(angle)
    return points @ np.array([[cos, sin], [-sin, cos]])


def simulate_crystal(crystal: Crystal) -> tuple[Scan4D, np.ndarray, np.ndarray]:
    """The scan as a microscope writes it, the phase, and where each pattern lies on it, in pixels."""
    rng = np.random.default_rng(crystal.seed)
    pixel, half = crystal.pixel, WINDOW // 2
    raster = crystal.step * np.indices((crystal.grid, crystal.grid)).reshape(2, -1).T
    places = turn_about(raster - raster.mean(0), crystal.turn) / pixel
    side = math.ceil(np.ptp(places, axis=0).max() + 1.2 * WINDOW)
    places += side / 2
    across = np.arange(-int(side * pixel / crystal.planes) - 1, int(side * pixel / crystal.planes) + 2)
    cells = np.stack(np.meshgrid(across, across), -1).reshape(-1, 2) * crystal.planes / pixel
    cells = np.round(turn_about(cells, crystal.lattice) + side / 2).astype(int)
    cells = cells[((cells >= 0) & (cells < side)).all(1)]
    columns = np.zeros((side, side))
    np.add.at(columns, tuple(cells.T), np.where(rng.random(len(cells)) < 0.9, 1.0, 0.4))
    phase = gaussian_filter(columns, 0.45 / pixel, mode="wrap")
    phase *= crystal.peak / phase.max()
    k = np.fft.fftfreq(WINDOW, pixel)
    square = k[:, None] ** 2 + k**2
    inside = np.sqrt(square) * crystal.wavelength <= crystal.semiangle
    lens = inside * np.exp(1j * np.pi * crystal.wavelength * square * crystal.defocus)
    counts = np.empty((len(places), WINDOW, WINDOW), np.float32)
    for number, place in enumerate(places):
        corner = np.floor(place).astype(int)
        row, column = (place - corner) * pixel
        beam = np.fft.ifft2(lens * np.exp(-2j * np.pi * (k[:, None] * row + k * column)))
        top, left = corner - half
        wave = np.exp(1j * phase[top : top + WINDOW, left : left + WINDOW]) * np.roll(
            beam, (half, half), (0, 1)
        )
        pattern = np.fft.fftshift(np.abs(np.fft.fft2(wave)) ** 2)
        counts[number] = rng.poisson(crystal.electrons * pattern / pattern.sum())
    angle = 2 * crystal.reach / WINDOW
    geometry = Geometry(
        wavelength=crystal.wavelength, shape=(WINDOW, WINDOW), angle=(angle, angle), beam="electron"
    )
    grid = (crystal.grid, crystal.grid)
    scan = Scan4D(counts=counts, positions=raster, geometry=geometry, grid=grid, oriented=False)
    return scan, phase, places


def judge_optics(fit: OpticsFit, crystal: Crystal) -> dict:
    """How far optics are off, up to the twin."""
    turned = math.degrees(float(fit.optics.rotation) - crystal.turn)
    turned = (turned + 90) % 180 - 90
    defocus = abs(fit.optics.defocus) / abs(crystal.defocus) - 1
    mirrored = bool(fit.optics.orientation & 4)
    return {
        "right": not mirrored and abs(turned) < MAX_TURN and abs(defocus) < MAX_SHARE_OF_DEFOCUS,
        "clear": fit.is_clear,
        "mirrored": mirrored,
        "turn_deg": round(turned, 2),
        "defocus": round(defocus, 4),
        "explained": round(fit.explained, 4),
        "lead": round(fit.lead, 4),
    }


def measure_crystal(seed: int) -> dict:
    """One crystal, fitted without folded frequencies and with them, and imaged coarse and fine."""
    crystal = draw_crystal(seed)
    scan, phase, places = simulate_crystal(crystal)
    survey = survey_disk(scan)
    spectrum = survey.measure(scan).transform()
    optics = LinearOptics(scan.geometry.wavelength, survey.semiangle(scan))
    largest = find_largest_defocus(scan, float(optics.semiangle))
    began = time.process_time()
    without = fit_optics(spectrum, optics, largest_defocus=largest)
    between = time.process_time()
    found = fit_folded_optics(spectrum, without, optics, largest_defocus=largest)
    ended = time.process_time()
    truth = {
        "phase": phase,
        "pixel": crystal.pixel,
        "semiangle": crystal.semiangle,
        "wavelength": crystal.wavelength,
        "positions": places * crystal.pixel,
        "true_step": crystal.step,
    }
    told = {"aberrations": {"defocus": crystal.defocus}}
    images = {}
    for name, knobs in (("coarse", {"upsample": 1}), ("as it is", {})):
        image = reconstruct_scan(scan, **told, **knobs)
        index = np.indices(scan.grid).reshape(2, -1).T * (image.image.phase.shape[0] // crystal.grid)
        score = score_image(image.image.phase.double().numpy(), truth, places=index)
        images[name] = round(score["correlation"], 4)
    return {
        "crystal": asdict(crystal),
        "without": judge_optics(without, crystal),
        "with": judge_optics(found, crystal),
        "folded": found.beyond > MIN_SHARE_BEYOND,
        "correlation": images,
        "cpu_s": {"without": round(between - began, 2), "with": round(ended - between, 2)},
    }


def count_misleading(rows: list[dict], fit: str) -> int:
    """Fits that are wrong and call themselves clear."""
    return sum(row[fit]["clear"] and not row[fit]["right"] for row in rows)


def main() -> None:
    """Draw, fit and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs=2, required=True, metavar=("FIRST", "END"))
    parser.add_argument("--out", type=Path, required=True)
    told = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for seed in range(*told.seeds):
        rows.append(measure_crystal(seed))
        print(json.dumps(rows[-1]), flush=True)
    wide = [row for row in rows if row["crystal"]["step"] > row["crystal"]["planes"] / 2]
    summary = {
        "crystals": len(rows),
        "right_without": sum(row["without"]["right"] for row in rows),
        "right_with": sum(row["with"]["right"] for row in rows),
        "wrong_and_clear_without": sum(
            row["without"]["clear"] and not row["without"]["right"] for row in rows
        ),
        "wrong_and_clear_with": sum(row["with"]["clear"] and not row["with"]["right"] for row in rows),
        "step_above_half_a_plane": len(wide),
        "right_without_there": sum(row["without"]["right"] for row in wide),
        "right_with_there": sum(row["with"]["right"] for row in wide),
        "median_correlation_coarse": float(np.median([row["correlation"]["coarse"] for row in rows])),
        "median_correlation": float(np.median([row["correlation"]["as it is"] for row in rows])),
        "cpu_s_with": float(np.median([row["cpu_s"]["with"] for row in rows])),
    }
    told.out.write_text(json.dumps({"summary": summary, "machine": machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
