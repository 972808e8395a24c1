"""Several scans reconstructed together and each by itself, on patterns by a simulation of its own in NumPy.

    python -m benchmarks.joined_scans OUT.json --seeds 100 106

Three kinds of pairs of 16 patterns each (of polarisations 49), at 10 keV, positions on whole pixels: two
samples under one probe;
one sample under two polarisations, whose phase differs by a few hundredths of a radian (a magnetic one of
opposite sign) under one probe; one sample under two probes. Scores are correlations of the complex object
with the truth over the scanned field, after a constant and a ramp of the phase; of the polarisations that of
the difference of both phases with the true one. Nothing was set on these seeds.
"""

import argparse
import json
import platform
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

import phaseloom as pl
from phaseloom.data.formats import native
from phaseloom.data.scan import Geometry, Scan4D

SIDE = 64
ANGLE = 5e-5
WAVELENGTH = 1.24
PIXEL = WAVELENGTH / (SIDE * ANGLE)
PLACES, STEP = {"two polarisations": 7}, {"two polarisations": 6}
USUAL_PLACES, USUAL_STEP = 4, 9
"""Positions along each axis, and pixels between them."""
DOSE = 1e5
MARGIN = 20
DEFOCUS = (200.0, 300.0)
"""Micrometre, of the two probes."""
PHASE_OF_MAGNETISM = 0.03

SETTINGS: dict[str, Any] = {"epochs": 100, "start": "none", "holdout": 0.0, "device": "cpu"}


def draw_field(rng: np.random.Generator, width: float, side: int = 160) -> np.ndarray:
    """Smooth random numbers of unit spread."""
    field = gaussian_filter(rng.normal(size=(side, side)), width)
    return field / field.std()


def draw_object(rng: np.random.Generator) -> np.ndarray:
    """Transmission with details of a few pixels."""
    phase, absorption = 0.7 * draw_field(rng, 2.0), 0.1 * (draw_field(rng, 3.0) + 2).clip(0)
    return np.exp(1j * phase - absorption)


def draw_probe(
    rng: np.random.Generator, defocus: float, *, radii: tuple[float, float] = (4, 12)
) -> np.ndarray:
    """Of a ring-shaped pupil (radii in detector pixels) with errors of its own; unit power."""
    q = (np.arange(SIDE) - SIDE // 2) * ANGLE
    square = q[:, None] ** 2 + q**2
    pupil = (square < (radii[1] * ANGLE) ** 2) & (square > (radii[0] * ANGLE) ** 2)
    wave = pupil * np.exp(1j * (np.pi / WAVELENGTH * 1e4 * defocus * square + draw_field(rng, 4.0, SIDE)))
    probe = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(wave)))
    return probe / np.sqrt((abs(probe) ** 2).sum())


def record(
    rng: np.random.Generator, thing: np.ndarray, probe: np.ndarray, kind: str
) -> tuple[Scan4D, np.ndarray]:
    """A scan with Poisson noise, and the corner of the window of each pattern, pixels."""
    places = PLACES.get(kind, USUAL_PLACES)
    raster = np.indices((places, places)).reshape(2, -1).T * STEP.get(kind, USUAL_STEP)
    corners = (np.round(raster + rng.uniform(-1, 1, raster.shape)) + MARGIN).astype(int)
    return record_at(rng, thing, probe, corners, DOSE), corners


def record_at(
    rng: np.random.Generator, thing: np.ndarray, probe: np.ndarray, corners: np.ndarray, dose: float
) -> Scan4D:
    """A scan with Poisson noise of windows at these corners (whole pixels), ``dose`` photons a pattern."""
    counts = []
    for y, x in corners:
        exit_wave = probe * thing[y : y + SIDE, x : x + SIDE]
        far = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(exit_wave), norm="ortho"))
        counts.append(rng.poisson(dose * abs(far) ** 2))
    geometry = Geometry(wavelength=WAVELENGTH, shape=(SIDE, SIDE), angle=(ANGLE, ANGLE), distance=1e10)
    positions = (corners + SIDE // 2) * PIXEL
    return Scan4D(counts=np.array(counts, np.float32), positions=positions, geometry=geometry)


def cut_field(result: pl.Result, truth: np.ndarray, corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The object over the scanned field as found and as it is, at the shift where they agree best."""
    places = (result.positions - np.array(result.origin)) / np.array(result.pixel)
    shift = np.round((places - (corners + SIDE // 2)).mean(0)).astype(int)
    low, high = corners.min(0) + SIDE // 2, corners.max(0) + SIDE // 2
    wanted = truth[low[0] : high[0], low[1] : high[1]]

    def cut(move: np.ndarray) -> tuple[np.ndarray, float]:
        whole = shift_image(result.object[0], -move)
        first, last = low + shift, high + shift
        return align_phase(whole[first[0] : last[0], first[1] : last[1]], wanted)

    best = np.zeros(2)
    for spacing, count in ((1.0, 3), (0.25, 3), (0.05, 4)):
        moves = best + spacing * (np.indices((2 * count + 1,) * 2).reshape(2, -1).T - count)
        best = max(moves, key=lambda move: cut(move)[1])
    return cut(best)[0], wanted


def shift_image(image: np.ndarray, move: np.ndarray) -> np.ndarray:
    """An image moved by a part of a pixel, by its Fourier transform."""
    y, x = (np.fft.fftfreq(n) for n in image.shape)
    return np.fft.ifft2(np.fft.fft2(image) * np.exp(-2j * np.pi * (y[:, None] * move[0] + x * move[1])))


def align_phase(found: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, float]:
    """An object with the constant and the ramp of the phase that fit best, and its correlation."""
    spectrum = np.fft.fft2(found * wanted.conj(), (512, 512))
    at = np.unravel_index(np.argmax(abs(spectrum)), spectrum.shape)
    y, x = (np.arange(n) for n in found.shape)
    ramp = np.exp(-2j * np.pi * (at[0] * y[:, None] + at[1] * x) / 512) * np.exp(-1j * np.angle(spectrum[at]))
    power = (abs(found) ** 2).sum() * (abs(wanted) ** 2).sum()
    return found * ramp, float(abs(spectrum[at]) / np.sqrt(power))


def run(tree: dict[str, Any]) -> tuple[pl.Result, float]:
    """A reconstruction and its CPU seconds."""
    began = time.process_time()
    job = pl.Job.begin(pl.Reconstruct.of(SETTINGS | tree))
    for _ in job:
        pass
    return job.result(), time.process_time() - began


def compare(kind: str, seed: int, folder: Path) -> dict[str, Any]:
    """One pair by itself and together."""
    rng = np.random.default_rng(seed)
    first, other = draw_object(rng), draw_object(rng)
    probes = [draw_probe(rng, defocus) for defocus in DEFOCUS]
    magnetism = PHASE_OF_MAGNETISM * draw_field(rng, 3.0)
    things = {
        "two samples": [first, other],
        "two polarisations": [first * np.exp(1j * magnetism), first * np.exp(-1j * magnetism)],
        "two probes": [first, first],
    }[kind]
    own = kind == "two probes"
    scans = [record(rng, thing, probes[own * n], kind) for n, thing in enumerate(things)]
    files = [folder / f"{n}.h5" for n in range(2)]
    for (scan, _), file in zip(scans, files, strict=True):
        native.write(scan, file)
    begin = [f"{DEFOCUS[own * n]} um" for n in range(2)]
    alone = [
        run({"file": str(file), "probe": {"from_patterns": {"defocus": one, "modes": 1}}})
        for file, one in zip(files, begin, strict=True)
    ]
    probe = {"from_patterns": {"defocus": begin[0], "modes": 1}}
    if own:
        probe = {"of_each_scan": {"defocus_values": begin, "modes": 1}}
    step = {"join": {"path": str(files[1]), "share": "object" if own else "probe"}}
    whole, seconds = run({"file": str(files[0]), "prepare": [step], "probe": probe})
    results = {"alone": [one for one, _ in alone], "together": whole.split()}
    row: dict[str, Any] = {"kind": kind, "seed": seed}
    for name, both in results.items():
        fields = [cut_field(one, thing, at) for one, thing, (_, at) in zip(both, things, scans, strict=True)]
        scores = [align_phase(*pair)[1] for pair in fields]
        row[name] = {"correlation": round(float(np.mean(scores)), 4)}
        if kind == "two polarisations":
            row[name]["difference"] = round(score_difference(fields, scans), 4)
    row["alone"]["cpu_s"] = round(sum(one for _, one in alone), 2)
    row["together"]["cpu_s"] = round(seconds, 2)
    return row


def score_difference(fields: list, scans: list) -> float:
    """Correlation of the difference of two phases with the true one, over what both scans cover."""
    corners = [at.min(0) for _, at in scans]
    first = np.maximum(*corners)
    shapes = [found.shape for found, _ in fields]
    last = np.minimum(*(c + s for c, s in zip(corners, shapes, strict=True)))
    parts = [
        [one[first[0] - c[0] : last[0] - c[0], first[1] - c[1] : last[1] - c[1]] for one in pair]
        for pair, c in zip(fields, corners, strict=True)
    ]
    found, true = (np.angle(parts[0][k] * parts[1][k].conj()) for k in (0, 1))
    flat = [remove_plane(one) for one in (found, true)]
    return float(np.corrcoef(flat[0].ravel(), flat[1].ravel())[0, 1])


def remove_plane(image: np.ndarray) -> np.ndarray:
    """An image without constant and ramp."""
    y, x = np.indices(image.shape).reshape(2, -1)
    basis = np.stack([np.ones(image.size), y, x], 1)
    return image - (basis @ np.linalg.lstsq(basis, image.ravel(), rcond=None)[0]).reshape(image.shape)


def main() -> None:
    """Run all kinds and seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs=2, metavar=("FIRST", "END"), default=(100, 106))
    parser.add_argument("--kinds", nargs="+", default=["two samples", "two polarisations", "two probes"])
    given = parser.parse_args()
    torch.set_num_threads(1)
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in given.kinds:
            rows[kind] = []
            for seed in range(*given.seeds):
                rows[kind].append(compare(kind, seed, Path(folder)))
                print(rows[kind][-1], flush=True)
    machine = f"{platform.machine()}, one thread, shared"
    given.out.write_text(json.dumps({"commit": commit, "machine": machine, **rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
