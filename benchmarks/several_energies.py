"""Scans of one object at 8.0 and 8.8 keV fitted together and each by itself, simulated in NumPy alone.

    python -m benchmarks.several_energies OUT.json --seeds 500 508

The object is a thickness of one material: its transmission is ``exp((i delta - beta) k t)`` with numbers
drawn for each pair. Away from edges delta goes with the square of the wavelength and beta with its fourth
power, but for 2 % each; with an edge in between, beta jumps by a factor of 3 to 6 and delta by 5 to 15 %.
Patterns are Fourier transforms to the angles of the detector of a window four times as wide as that of the
model, on pixels half as large, so that nothing is periodic; each energy has a probe of its own.

Scores: the ratios of phase and absorption (8.0 over 8.8 keV) over the true ones, and the correlation of the
complex object at each energy with the truth over the scanned field, after a constant, a ramp and a shift; the
phase error is the rest of the phase, radian rms. ``sparse`` are 16 patterns of 1e5 photons at each energy,
``dense`` 64 of 1e6. Nothing was set on these seeds.
"""

import argparse
import json
import platform
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import phaseloom as pl
from benchmarks.joined_scans import align_phase, remove_plane, shift_image
from phaseloom.data.formats import native
from phaseloom.data.scan import Geometry, Scan4D

SIDE = 64
ANGLE = 1e-4
ENERGIES = (8000.0, 8800.0)
WAVELENGTHS = tuple(12398.4198 / one for one in ENERGIES)
PIXEL = WAVELENGTHS[1] / (SIDE * ANGLE)
"""Of the object at the higher energy, angstrom."""
DEFOCUS = (60.0, 75.0)
"""Micrometre, at each energy."""
WINDOW = 4 * SIDE
BLOBS = 500
KINDS = {
    "sparse": {"places": 4, "step": 8.0, "dose": 1e5},
    "dense": {"places": 8, "step": 4.0, "dose": 1e6},
}
"""Positions along each axis, pixels between them, photons in a pattern."""

SETTINGS: dict[str, Any] = {"epochs": 60, "start": "none", "preset": "none", "holdout": 0.0, "device": "cpu"}
SETTINGS |= {"noise": "poisson"}


@dataclass(frozen=True)
class Material:
    """A thickness of one material, and what a unit of it does at each energy.

    Attributes:
        centres, widths, heights: of Gaussian blobs, angstrom and units.
        phase, absorption: of a unit at each energy, radian and logarithm of the modulus.
    """

    centres: np.ndarray
    widths: np.ndarray
    heights: np.ndarray
    phase: tuple[float, float]
    absorption: tuple[float, float]

    @classmethod
    def draw(cls, rng: np.random.Generator, *, has_edge: bool) -> "Material":
        """Blobs of a few pixels, and numbers of a material with or without an edge between the energies."""
        field = 110 * PIXEL
        blobs = (rng.uniform(0, field, (BLOBS, 2)), rng.uniform(1.2, 2.5, BLOBS) * PIXEL)
        ratio = (
            WAVELENGTHS[0] / WAVELENGTHS[1]
        )  # times k, by which phase and absorption go with delta and beta
        of_phase = ratio * (rng.uniform(1.05, 1.15) if has_edge else rng.uniform(0.98, 1.02))
        of_absorption = ratio**3 * (1 / rng.uniform(3, 6) if has_edge else rng.uniform(0.98, 1.02))
        absorption = rng.uniform(0.15, 0.3)
        return cls(
            *blobs, rng.uniform(0.2, 0.7, BLOBS), (of_phase, 1.0), (of_absorption * absorption, absorption)
        )

    def thickness(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """On a grid of rows ``y`` and columns ``x``, angstrom."""
        parts = [
            np.exp(-((places[:, None] - self.centres[:, axis]) ** 2) / (2 * self.widths**2))
            for axis, places in enumerate((y, x))
        ]
        return (parts[0] * self.heights) @ parts[1].T

    def transmit(self, number: int, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Transmission at an energy."""
        return np.exp((1j * self.phase[number] - self.absorption[number]) * self.thickness(y, x))

    @property
    def ratios(self) -> tuple[float, float]:
        """Of phase and absorption, at 8.0 over 8.8 keV."""
        return self.phase[0] / self.phase[1], self.absorption[0] / self.absorption[1]


def draw_probe(rng: np.random.Generator, number: int, places: np.ndarray) -> np.ndarray:
    """A ring-shaped pupil with errors of its own, focused before the object; unit power."""
    q = np.arange(-80, 81) * ANGLE / 4
    y, x = q[:, None] / (14 * ANGLE), q / (14 * ANGLE)
    radius = np.hypot(y, x)
    outer, inner = (1 / (1 + np.exp((radius - edge) / 0.05)) for edge in (1.0, 0.3))
    errors = rng.normal(size=4) * 0.5
    phase = errors[0] * (x**2 - y**2) + errors[1] * 2 * x * y + errors[2] * x * radius**2
    phase = phase + errors[3] * y * radius**2
    phase = phase + np.pi / WAVELENGTHS[number] * 1e4 * DEFOCUS[number] * (q[:, None] ** 2 + q**2)
    waves = np.exp(2j * np.pi / WAVELENGTHS[number] * np.outer(places, q))
    probe = waves @ (outer * (1 - inner) * np.exp(1j * phase)) @ waves.T
    return probe / np.sqrt((abs(probe) ** 2).sum())


def record(
    rng: np.random.Generator, thing: Material, number: int, *, places: int, step: float, dose: float
) -> Scan4D:
    """A scan at an energy, with Poisson noise."""
    wavelength = WAVELENGTHS[number]
    grid = (np.arange(WINDOW) - WINDOW // 2) * wavelength / (SIDE * ANGLE) / 2
    probe = draw_probe(rng, number, grid)
    angles = (np.arange(SIDE) - SIDE // 2) * ANGLE
    waves = np.exp(-2j * np.pi / wavelength * np.outer(angles, grid)) / np.sqrt(2 * SIDE)
    raster = np.indices((places, places)).reshape(2, -1).T * step
    positions = (raster - raster.mean(0) + rng.uniform(-1, 1, raster.shape) + 55) * PIXEL
    far = [waves @ (probe * thing.transmit(number, y + grid, x + grid)) @ waves.T for y, x in positions]
    counts = rng.poisson(dose * np.abs(far) ** 2).astype(np.float32)
    geometry = Geometry(wavelength=wavelength, shape=(SIDE, SIDE), angle=(ANGLE, ANGLE), distance=1e10)
    return Scan4D(counts=counts, positions=positions, geometry=geometry)


def score(result: pl.Result, thing: Material, number: int) -> tuple[float, float]:
    """Correlation of the object at an energy with the truth over the scanned field, and the phase error."""
    y, x = (
        o + p * np.arange(n)
        for o, p, n in zip(result.origin, result.pixel, result.object.shape[1:], strict=True)
    )
    truth = thing.transmit(number, y, x)
    low, high = result.positions.min(0), result.positions.max(0)
    field = np.ix_((y > low[0]) & (y < high[0]), (x > low[1]) & (x < high[1]))

    def compare(move: np.ndarray) -> tuple[np.ndarray, float]:
        return align_phase(shift_image(result.object[0], -move)[field], truth[field])

    best = np.zeros(2)
    for spacing, count in ((1.0, 3), (0.25, 3), (0.05, 4)):
        moves = best + spacing * (np.indices((2 * count + 1,) * 2).reshape(2, -1).T - count)
        best = max(moves, key=lambda move: compare(move)[1])
    found, correlation = compare(best)
    rest = remove_plane(np.angle(found * truth[field].conj()))
    return correlation, float(rest.std())


def run(tree: dict[str, Any]) -> tuple[pl.Result, float]:
    """A reconstruction and its CPU seconds."""
    began = time.process_time()
    job = pl.Job.begin(pl.Reconstruct.of(SETTINGS | tree))
    for _ in job:
        pass
    return job.result(), time.process_time() - began


def compare(kind: str, has_edge: bool, seed: int, folder: Path) -> dict[str, Any]:
    """One pair by itself and together."""
    rng = np.random.default_rng(seed)
    thing = Material.draw(rng, has_edge=has_edge)
    files = [folder / f"{number}.h5" for number in range(2)]
    for number, file in enumerate(files):
        native.write(record(rng, thing, number, **KINDS[kind]), file)
    begin = [f"{one} um" for one in DEFOCUS]
    alone = [
        run({"file": str(file), "probe": {"from_patterns": {"defocus": one, "modes": 1}}})
        for file, one in zip(files, begin, strict=True)
    ]
    step = {"join": {"path": str(files[1]), "share": "object"}}
    probe = {"of_each_scan": {"defocus_values": begin, "modes": 1}}
    whole, seconds = run({"file": str(files[0]), "prepare": [step], "probe": probe})
    assert whole.scan_energies is not None
    row: dict[str, Any] = {"seed": seed, "truth": [round(one, 4) for one in thing.ratios]}
    row["ratios"] = np.round(whole.scan_energies[0, 1:], 4).tolist()
    errors = [abs(one / true - 1) for one, true in zip(row["ratios"], thing.ratios, strict=True)]
    row["phase ratio error"], row["absorption ratio error"] = (round(100 * one, 2) for one in errors)
    row["verdicts"] = [one["verdict_code"] for one in whole.scans]
    for name, both in {"alone": [one for one, _ in alone], "together": whole.split()}.items():
        scores = np.array([score(one, thing, number) for number, one in enumerate(both)])
        row[name] = {"correlation": round(float(scores[:, 0].mean()), 4)}
        row[name]["phase error"] = round(float(scores[:, 1].mean()), 4)
    row["alone"]["cpu_s"] = round(sum(one for _, one in alone), 2)
    row["together"]["cpu_s"] = round(seconds, 2)
    return row


def main() -> None:
    """Run all kinds and seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs=2, metavar=("FIRST", "END"), default=(500, 508))
    parser.add_argument("--kinds", nargs="+", default=[*KINDS])
    given = parser.parse_args()
    torch.set_num_threads(1)
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in given.kinds:
            for has_edge in (False, True):
                name = f"{kind}, edge" if has_edge else kind
                rows[name] = []
                for seed in range(*given.seeds):
                    rows[name].append(compare(kind, has_edge, seed, Path(folder)))
                    print(name, rows[name][-1], flush=True)
    machine = f"{platform.machine()}, one thread, shared"
    given.out.write_text(json.dumps({"commit": commit, "machine": machine, **rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
