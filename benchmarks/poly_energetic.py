"""Beams of several wavelengths: their patterns taken for one wavelength, with modes, and with the bandwidth.

    python -m benchmarks.poly_energetic OUT.json --seeds 200 204

Patterns are sums of the far fields at 41 wavelengths, each by the sum over the exit wave at its frequencies
(no FFT, no interpolation), of the objects of `benchmarks.joined_scans` under a beam of wide angles whose
speckle is three pixels wide: 49 positions on whole pixels, 10^6 photons. Bandwidths are full widths at half
maximum over the wavelength. Scores are correlations of the complex object with the truth. Nothing was set on
these seeds.
"""

import argparse
import json
import platform
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.joined_scans import (
    ANGLE,
    MARGIN,
    PIXEL,
    SIDE,
    WAVELENGTH,
    align_phase,
    cut_field,
    draw_object,
    draw_probe,
    run,
)
from phaseloom.data.formats import native
from phaseloom.data.scan import Geometry, Scan4D

BANDWIDTHS = (0.02, 0.05, 0.1)
DOSE = 1e6
DEFOCUS = 400.0
"""Micrometre."""
RADII = (4, 24)
OFFSETS = np.linspace(-1.5, 1.5, 41)
PLACES, STEP = 7, 6


def sum_far_fields(wave: np.ndarray, bandwidth: float) -> np.ndarray:
    """Mean intensity over a Gaussian spectrum on the detector's pixels."""
    places = np.arange(SIDE) - SIDE // 2
    shares = np.exp(-4 * np.log(2) * OFFSETS**2)
    total = np.zeros((SIDE, SIDE))
    for share, offset in zip(shares / shares.sum(), OFFSETS, strict=True):
        ratio = 1 + bandwidth * offset
        table = np.exp(-2j * np.pi * np.outer(places / ratio, places) / SIDE)
        total += share * np.abs(table @ wave @ table.T / SIDE) ** 2 / ratio**2
    return total


def record(rng: np.random.Generator, thing: np.ndarray, probe: np.ndarray, bandwidth: float) -> Any:
    """A scan with Poisson noise, and the corner of the window of each pattern, pixels."""
    raster = np.indices((PLACES, PLACES)).reshape(2, -1).T * STEP
    corners = (np.round(raster + rng.uniform(-1, 1, raster.shape)) + MARGIN).astype(int)
    waves = [probe * thing[y : y + SIDE, x : x + SIDE] for y, x in corners]
    counts = np.stack([rng.poisson(DOSE * sum_far_fields(wave, bandwidth)) for wave in waves])
    geometry = Geometry(wavelength=WAVELENGTH, shape=(SIDE, SIDE), angle=(ANGLE, ANGLE), distance=1e10)
    positions = (corners + SIDE // 2) * PIXEL
    return Scan4D(counts=counts.astype(np.float32), positions=positions, geometry=geometry), corners


def compare(seed: int, bandwidth: float, folder: Path) -> dict[str, Any]:
    """The three models on one scan."""
    rng = np.random.default_rng(seed)
    thing, probe = draw_object(rng), draw_probe(rng, DEFOCUS, radii=RADII)
    scan, corners = record(rng, thing, probe, bandwidth)
    native.write(scan, folder / "scan.h5")
    models = {
        "one wavelength": (1, {}),
        "four modes": (4, {}),
        "bandwidth": (1, {"detector": {"counting": {"bandwidth": bandwidth}}}),
    }
    row: dict[str, Any] = {"seed": seed}
    for name, (modes, more) in models.items():
        guess = {"from_patterns": {"defocus": f"{DEFOCUS} um", "modes": modes}}
        result, seconds = run({"file": str(folder / "scan.h5"), "probe": guess, **more})
        score = align_phase(*cut_field(result, thing, corners))[1]
        loss = round(float(result.metrics["loss"]), 3)
        row[name] = {"correlation": round(score, 4), "loss": loss, "cpu_s": round(seconds, 1)}
    return row


def main() -> None:
    """Run all bandwidths and seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs=2, metavar=("FIRST", "END"), default=(200, 204))
    given = parser.parse_args()
    torch.set_num_threads(1)
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    rows: dict[str, list] = {}
    with tempfile.TemporaryDirectory() as folder:
        for bandwidth in BANDWIDTHS:
            name = f"{100 * bandwidth:g} %"
            rows[name] = []
            for seed in range(*given.seeds):
                rows[name].append(compare(seed, bandwidth, Path(folder)))
                print(name, rows[name][-1], flush=True)
    machine = f"{platform.machine()}, one thread, shared"
    given.out.write_text(json.dumps({"commit": commit, "machine": machine, **rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
