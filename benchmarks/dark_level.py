"""Whether a background can be told from scattering: mean patterns of thick specimens with and without one.

    python -m benchmarks.dark_level                     # about three CPU minutes
    python -m benchmarks.dark_level --first 2 --out /tmp/dark.json

Multislice in numpy through abTEM's independent atoms with two frozen phonon configurations (0.085 angstrom
along each axis), 200 kV, 20 mrad, in focus and 15 nm under it. Means of 500 patterns with counting noise, cut
to detectors that reach 1.6 to 4 times the disk, with a constant that has a share of the counts.
`find_constant_level` of the package tells the least that a constant can be.
"""

import argparse
import json
import time
from datetime import date
from pathlib import Path

import numpy as np

from benchmarks.testbed.specimens import CENTRINGS, CRYSTALS, interaction_parameter, project_potential
from phaseloom.data.diagnostics import find_constant_level

WAVELENGTH, KILOVOLTS, SEMIANGLE, REACH = 0.025079, 200.0, 0.02, 0.085
CONFIGURATIONS, DISPLACEMENT, SIDE, PATTERNS = 2, 0.085, 4, 500
AMORPHOUS = {"carbon": (6, 0.10), "ice": (8, 0.0335), "germanium": (32, 0.044)}
"""Atomic number, atoms per cubic angstrom."""

SPECIMENS = [
    *(("SrTiO3", 40), ("SrTiO3", 200), ("Si", 300), ("Si", 1000), ("Au", 60), ("Au", 200), ("Au", 500)),
    *(("carbon", 100), ("carbon", 400), ("carbon", 1500), ("ice", 400), ("ice", 1500), ("germanium", 150)),
]
"""Material and thickness, angstrom."""

DEFOCI, RATIOS, DOSES, SHARES = (0.0, 150.0), (1.6, 2.0, 3.0, 4.0), (1e3, 1e5), (0.0, 0.002, 0.01, 0.05, 0.3)


def build(name, width, thickness, rng):
    """Atomic numbers and places in a periodic box."""
    if name in AMORPHOUS:
        number, density = AMORPHOUS[name]
        count = int(density * width**2 * thickness)
        return np.full(count, number), rng.uniform(0, 1, (count, 3)) * [width, width, thickness]
    constant, basis = CRYSTALS[name]
    across, along = round(width / constant), max(1, round(thickness / constant))
    cells = np.stack(np.meshgrid(*map(np.arange, (across, across, along)), indexing="ij"), -1).reshape(-1, 3)
    numbers, places = [], []
    for number, *fraction in basis:
        for centring in CENTRINGS[:1] if name == "SrTiO3" else CENTRINGS:
            places.append((cells + fraction + centring) % [across, across, along] * constant)
            numbers.append(np.full(len(cells), number))
    return np.concatenate(numbers), np.concatenate(places)


def simulate_mean(name, thickness, defocus, seed=0):
    """Mean pattern over the unit cell, one electron, and the angle of a pixel."""
    rng = np.random.default_rng(seed)
    constant = CRYSTALS[name][0] if name in CRYSTALS else 4.0
    width = round(16 / constant) * constant
    pixels = 2 * int(np.ceil(width / (WAVELENGTH / (2 * REACH) * 2 / 3 * 0.98) / 2))
    pixel = width / pixels
    numbers, places = build(name, width, thickness, rng)
    k = np.fft.fftfreq(pixels, pixel)
    ky, kx = np.meshgrid(k, k, indexing="ij")
    angle = WAVELENGTH * np.hypot(ky, kx)
    band = (np.abs(ky) < 1 / (3 * pixel)) & (np.abs(kx) < 1 / (3 * pixel))
    probe = (angle <= SEMIANGLE) * np.exp(1j * np.pi / WAVELENGTH * defocus * angle**2)
    period = constant if name in CRYSTALS else width
    total = 0.0
    for _ in range(CONFIGURATIONS):
        moved = places + rng.normal(0, DISPLACEMENT, places.shape)
        volts = project_potential(numbers, moved, thickness, 4.0, pixels=pixels, pixel=pixel)
        slices = np.exp(1j * interaction_parameter(KILOVOLTS) * volts)
        slices = np.fft.ifft2(np.fft.fft2(slices) * band)
        flight = np.exp(-1j * np.pi * WAVELENGTH * thickness / len(volts) * (ky**2 + kx**2)) * band
        for y, x in np.ndindex(SIDE, SIDE):
            shift = np.exp(-2j * np.pi * (ky * y + kx * x) * period / SIDE)
            wave = np.fft.ifft2(probe * shift)
            for part in slices:
                wave = np.fft.ifft2(np.fft.fft2(wave * part) * flight)
            total = total + np.abs(np.fft.fft2(wave)) ** 2
    total = np.fft.fftshift(total) / total.sum()
    half = pixels // 3 - 1
    inside = slice(pixels // 2 - half, pixels // 2 + half)
    return total[inside, inside], WAVELENGTH / width


def judge(mean, angle, rng):
    """A row for each detector, dose and share."""
    for ratio in RATIOS:
        half = int(ratio * SEMIANGLE / angle)
        if half > len(mean) // 2:
            continue
        inside = slice(len(mean) // 2 - half, len(mean) // 2 + half)
        part = mean[inside, inside] / mean[inside, inside].sum()
        for dose in DOSES:
            for share in SHARES:
                expected = dose * (part + share / part.size)
                counts = rng.poisson(expected * PATTERNS) / PATTERNS
                found = find_constant_level(counts, np.ones(part.shape, bool), patterns=PATTERNS)
                least, error = found.least * part.size / dose, found.error * part.size / dose
                numbers = {"least": round(least, 5), "error": round(error, 5), "seen": bool(found.is_clear)}
                yield {"ratio": ratio, "dose": dose, "share": share, **numbers}


def main():
    """Simulate, judge, write and print how often a background is seen."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--first", type=int, help="only so many specimens")
    parser.add_argument(
        "--out", type=Path, default=Path(f"benchmarks/results/dark-level-{date.today()}.json")
    )
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    rows = []
    began = time.process_time()
    for name, thickness in SPECIMENS[: given.first]:
        for defocus in DEFOCI:
            mean, angle = simulate_mean(name, float(thickness), defocus)
            about = {"specimen": name, "thickness": thickness, "defocus": defocus}
            rows += [{**about, **row} for row in judge(mean, angle, rng)]
            print(f"{name} {thickness} A, {time.process_time() - began:.0f} CPU s", flush=True)
    summary = []
    for share in SHARES:
        here = [row for row in rows if row["share"] == share]
        over = max(row["least"] - share for row in here if row["seen"] or share == 0)
        summary.append({"share": share, "seen": sum(row["seen"] for row in here), "of": len(here)})
        summary[-1]["most_beyond_truth"] = round(over, 5)
        print(summary[-1])
    given.out.write_text(json.dumps({"summary": summary, "rows": rows}, indent=0) + "\n")


if __name__ == "__main__":
    main()
