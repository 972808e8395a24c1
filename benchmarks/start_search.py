"""The automatic start of photon scans: what it finds, what it costs, and what the run comes to.

    python -m benchmarks.start_search OUT.json --seeds 100 124 [--settings '{"start": "none"}']
    python -m benchmarks.start_search OUT.json --seeds 440 452 --spoiled    # what verdicts say of wrong ones

Far-field scans by a simulation of its own in NumPy, drawn anew for each seed: star, discs, speckle or
polygons; a lens with or without a central stop, aberrations and a defocus of either sign, a pinhole or a
diffuser; 3e3 to 1e6 photons per pattern, background, detectors of 64 or 128 pixels that lie in any of eight
ways; some with the probe in the scan, right or focused elsewhere. The default run then has what a file has.
Scores are correlations of the complex object with the truth, or with its conjugate where the detector is
turned by 180 degrees (both give the same patterns), over the scanned field, after a shift, a constant and a
ramp of the phase.
"""

import argparse
import json
import subprocess
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from benchmarks.joined_scans import align_phase
from benchmarks.record import machine, one_thread
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.result import Result

WAVELENGTH = 1.55
ANGLE = 4e-5
MARGIN = 12


def draw_thickness(rng: np.random.Generator, kind: str, side: int) -> np.ndarray:
    """Projected thickness from 0 to 1, drawn on pixels of a quarter."""
    y, x = np.indices((4 * side, 4 * side)) / 4 - side / 2
    if kind == "star":
        spokes = int(rng.integers(12, 37))
        fine = (np.sin(spokes * np.arctan2(y, x) + rng.uniform(0, 6)) > 0) & (np.hypot(y, x) > 3)
    elif kind == "discs":
        fine = np.zeros(y.shape)
        for _ in range(side):
            middle, radius = rng.uniform(-side / 2, side / 2, 2), rng.uniform(2, 9)
            fine += np.hypot(y - middle[0], x - middle[1]) < radius
        fine = fine / 4
    elif kind == "speckle":
        field = gaussian_filter(rng.normal(size=y.shape), 4 * rng.uniform(1.0, 2.5))
        fine = field / field.std() / 2
    else:
        fine = np.zeros(y.shape)
        for _ in range(side // 3):
            turn, away = rng.uniform(0, 2 * np.pi), rng.uniform(-side / 2, side / 2)
            fine += np.cos(turn) * y + np.sin(turn) * x > away
        fine = (fine - fine.mean()) / fine.std() / 2
    return gaussian_filter(fine.astype(float), 2).reshape(side, 4, side, 4).mean((1, 3))


def draw_probe(rng: np.random.Generator, kind: str, side: int) -> tuple[np.ndarray, np.ndarray, float]:
    """The wave in the plane of the sample, its spectrum in focus, and its defocus in angstrom."""
    q = (np.arange(side) - side // 2) * ANGLE
    square = q[:, None] ** 2 + q**2
    pixel = WAVELENGTH / (side * ANGLE)
    edge = rng.uniform(0.16, 0.36) * side / 2 * ANGLE
    if kind == "pinhole":
        size, y = rng.uniform(0.08, 0.16) * side * pixel, (np.arange(side) - side // 2) * pixel
        hole = 1 / (1 + np.exp((np.hypot(y[:, None], y) - size) / pixel))
        pupil = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(hole)))
        far = rng.uniform(0.2, 1.0) * 0.2 * side * pixel / edge
    else:
        inner = rng.uniform(0.2, 0.5) if kind == "stopped" else 0
        pupil = (square < edge**2) & (square >= (inner * edge) ** 2)
        width, strength = (0.04, 2.0) if kind == "diffuser" else (0.15, 0.6)
        rough = gaussian_filter(rng.normal(size=square.shape), width * side)
        pupil = pupil * np.exp(1j * strength * rough / rough.std())
        far = rng.uniform(0.08, 0.22) * side * pixel / edge  # a beam of so much of the window to either side
    defocus = float(far * rng.choice([-1, 1]))
    return focus_probe(pupil, defocus), pupil, defocus


def focus_probe(pupil: np.ndarray, defocus: float) -> np.ndarray:
    """A wave of unit power behind (positive: before) its focus."""
    q = (np.arange(len(pupil)) - len(pupil) // 2) * ANGLE
    wave = pupil * np.exp(-1j * np.pi / WAVELENGTH * defocus * (q[:, None] ** 2 + q**2))
    probe = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(wave)))
    return probe / np.sqrt((abs(probe) ** 2).sum())


def turn(images: np.ndarray, way: int) -> np.ndarray:
    """Patterns transposed (bit 4) and reversed along either axis (bits 1, 2)."""
    images = images.swapaxes(-1, -2) if way & 4 else images
    images = images[..., ::-1, :] if way & 1 else images
    return images[..., ::-1] if way & 2 else images


def record(
    rng: np.random.Generator,
    probe: np.ndarray,
    truth: np.ndarray,
    places: np.ndarray,
    light: tuple[float, float],
    *,
    noisy: bool = True,
) -> np.ndarray:
    """Counts at places between pixels; ``light``: photons of a pattern, and of the background in a pixel."""
    side = len(probe)
    patterns = np.empty((len(places), side, side), np.float32)
    spectrum, q = np.fft.fft2(probe), np.fft.fftfreq(side)
    for number, place in enumerate(places):
        corner = np.floor(place).astype(int)
        rest = place - corner
        moved = np.fft.ifft2(spectrum * np.exp(-2j * np.pi * (q[:, None] * rest[0] + q * rest[1])))
        window = truth[corner[0] : corner[0] + side, corner[1] : corner[1] + side]
        far = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(moved * window), norm="ortho"))
        expected = light[0] * abs(far) ** 2 + light[1]
        patterns[number] = rng.poisson(expected) if noisy else expected
    return patterns


def draw_scan(seed: int, *, noisy: bool = True) -> tuple[Scan4D, dict[str, Any], np.ndarray, np.ndarray]:
    """A scan, what it is, its object, and the corners of its windows in pixels of it; counts or rates."""
    rng = np.random.default_rng(seed)
    side = int(rng.choice([64, 64, 128]))
    kinds = "star", "discs", "speckle", "polygons"
    lenses = "plain", "stopped", "stopped", "pinhole", "diffuser"
    thing, lens = str(rng.choice(kinds)), str(rng.choice(lenses))
    probe, pupil, defocus = draw_probe(rng, lens, side)
    square = ((np.indices(probe.shape) - side // 2) ** 2).sum(0)
    width = 2 * np.sqrt((abs(probe) ** 2 * square).sum() / 2)  # twice the spread along an axis
    step = rng.uniform(0.35, 0.7) * width
    across = int(rng.integers(9, 14))
    raster = np.indices((across, across)).reshape(2, -1).T * step
    places = raster + rng.uniform(-0.25, 0.25, raster.shape) * step + MARGIN
    field = int(np.ceil(places.max())) + side + MARGIN
    thickness = draw_thickness(rng, thing, field)
    phase, absorption = rng.uniform(0.4, 1.4), rng.uniform(0.03, 0.3)
    truth = np.exp((1j - absorption) * phase * thickness)
    dose, background = 10 ** rng.uniform(3.5, 6), rng.choice([0, 0, 0.02])
    patterns = record(rng, probe, truth, places, (dose, background), noisy=noisy)
    way = int(rng.choice([0, 0, 0, *range(1, 8)]))
    patterns = turn(patterns, way)
    stated = str(rng.choice(["no", "no", "right", "elsewhere"]))
    known = None
    if stated != "no":
        known = focus_probe(pupil, defocus * (1 if stated == "right" else rng.uniform(0.3, 1.7)))
        known = known.astype(np.complex64)[None] * np.sqrt(dose)
    pixel = WAVELENGTH / (side * ANGLE)
    geometry = Geometry(wavelength=WAVELENGTH, shape=(side, side), angle=(ANGLE, ANGLE), beam="photon")
    scan = Scan4D(
        counts=np.ascontiguousarray(patterns),
        positions=(places + side // 2) * pixel,
        geometry=geometry,
        probe=known,
        oriented=False,
    )
    what = {
        "seed": seed, "side": side, "object": thing, "lens": lens, "detector": way, "probe": stated,
        "defocus": round(defocus), "photons": round(dose), "patterns": len(places),
        "step": round(step / width, 2),
    }  # fmt: skip
    return scan, what, truth, places


def draw_vortices(seed: int, *, noisy: bool = True) -> tuple[Scan4D, dict[str, Any], np.ndarray, np.ndarray]:
    """As `draw_scan`, of objects full of vortices, out of focus, with half of the detector empty."""
    rng = np.random.default_rng(seed)
    side = 128
    q = (np.arange(side) - side // 2) * ANGLE
    edge = rng.uniform(0.14, 0.24) * side / 2 * ANGLE
    pixel = WAVELENGTH / (side * ANGLE)
    rough = gaussian_filter(rng.normal(size=(side, side)), rng.uniform(0.03, 0.06) * side)
    is_diffuser = bool(rng.random() < 0.5)
    strength = 2.0 if is_diffuser else 0.5
    pupil = (q[:, None] ** 2 + q**2 < edge**2) * np.exp(1j * strength * rough / rough.std())
    defocus = float(rng.uniform(0.08, 0.2) * side * pixel / edge * rng.choice([-1, 1]))
    probe = focus_probe(pupil, defocus)
    square = ((np.indices(probe.shape) - side // 2) ** 2).sum(0)
    width = 2 * np.sqrt((abs(probe) ** 2 * square).sum() / 2)
    step = rng.uniform(0.35, 0.55) * width
    raster = np.indices((10, 10)).reshape(2, -1).T * step
    places = raster + rng.uniform(-0.25, 0.25, raster.shape) * step + MARGIN
    field = int(np.ceil(places.max())) + side + MARGIN
    spread = rng.uniform(3, 6)
    real, imaginary = (gaussian_filter(rng.normal(size=(field, field)), spread) for _ in range(2))
    wave = real + 1j * imaginary
    truth = wave / abs(wave).max() + (0 if rng.random() < 0.5 else 0.3)
    dose = 10 ** rng.uniform(5, 6.3)
    scaled = truth / np.sqrt((abs(truth) ** 2).mean())
    counts = record(rng, probe, scaled, places, (dose, 0.0), noisy=noisy)
    geometry = Geometry(wavelength=WAVELENGTH, shape=(side, side), angle=(ANGLE, ANGLE), beam="photon")
    scan = Scan4D(
        counts=counts, positions=(places + side // 2) * pixel, geometry=geometry, probe=None, oriented=False
    )
    what = {
        "seed": seed, "diffuser": is_diffuser, "defocus": round(defocus), "photons": round(dose),
        "step": round(step / width, 2),
    }  # fmt: skip
    return scan, what, truth, places


def correlate_contrast(found: np.ndarray, offset: np.ndarray, truth: np.ndarray, field: Any) -> float:
    """Correlation of what differs from the mean, after a shift, a constant and a ramp of the phase."""
    low, high = field
    wanted = truth[low[0] : high[0], low[1] : high[1]]
    best = 0.0, 0.0
    for move in np.indices((9, 9)).reshape(2, -1).T - 4:
        top, left = low + offset + move
        cut = found[top : top + wanted.shape[0], left : left + wanted.shape[1]]
        if min(top, left) < 0 or cut.shape != wanted.shape:
            continue
        level, whole = align_phase(cut, wanted)
        if whole > best[0]:
            one, other = level - level.mean(), wanted - wanted.mean()
            best = whole, float(abs(np.vdot(one, other)) / np.linalg.norm(one) / np.linalg.norm(other))
    return best[1]


def score_object(result: Result, scan: Scan4D, truth: np.ndarray, places: np.ndarray) -> float:
    """Correlation of what a run found, or of its conjugate, with the truth over the scanned field."""
    half = scan.geometry.shape[0] // 2
    found = (np.asarray(result.positions) - np.asarray(result.origin)) / np.asarray(result.pixel)
    offset = np.round((found - half - places).mean(0)).astype(int)
    field = np.ceil(places.min(0)).astype(int) + half, np.floor(places.max(0)).astype(int) + half
    whole = np.prod(result.object, axis=0)
    return max(correlate_contrast(one, offset, truth, field) for one in (whole, whole.conj()))


def run_one(scan: Scan4D, truth: np.ndarray, places: np.ndarray, settings: dict[str, Any]) -> dict[str, Any]:
    """A run of a scan: seconds of its start and of its epochs, score and verdict."""
    began = time.process_time()
    job = Job.begin(Reconstruct.of({"device": "cpu", **settings}), scan=scan)
    started = time.process_time()
    for _ in job:
        pass
    ended = time.process_time()
    result = job.result()
    start = job.recipe.found
    numbers = {
        name: result.metrics[name] for name in ("loss", "hold-out", "explained") if name in result.metrics
    }
    return {
        "start_cpu_s": round(started - began, 2),
        "epochs_cpu_s": round(ended - started, 2),
        "found": {key: str(start[key]) for key in ("defocus", "orientation", "margin") if key in start},
        "correlation": round(score_object(result, scan, truth, places), 4),
        **{name: round(float(value), 4) for name, value in numbers.items()},
        "verdict": result.verdict,
        "verdict_code": result.verdict_code,
    }


def spoil(scan: Scan4D, way: int, rng: np.random.Generator) -> dict[str, tuple[Scan4D, float]]:
    """The scan with something stated wrongly, by what it is, and the factor on its places."""
    turned = turn(np.asarray(scan.counts), 1) if way not in (1, 2) else scan.counts  # not undone by the twin
    mixed = scan.positions[rng.permutation(len(scan))]
    return {
        "detector turned over": (
            replace(scan, counts=np.ascontiguousarray(turned), probe=None, oriented=True),
            1.0,
        ),
        "positions exchanged": (replace(scan, positions=mixed, probe=None), 1.0),
        "steps a quarter too long": (replace(scan, positions=1.25 * scan.positions), 1.25),
        "steps 15 % too short": (replace(scan, positions=0.85 * scan.positions), 0.85),
    }


def main() -> None:
    """Run the seeds, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs=2, default=(100, 124))
    parser.add_argument("--settings", type=json.loads, default={})
    parser.add_argument("--spoiled", action="store_true", help="with something stated wrongly as well")
    parser.add_argument("--vortices", action="store_true", help="scans of `draw_vortices`")
    given = parser.parse_args()
    one_thread()
    warnings.filterwarnings("ignore")
    rows = []
    for seed in range(*given.seeds):
        scan, what, truth, places = (draw_vortices if given.vortices else draw_scan)(seed)
        rows.append(what | run_one(scan, truth, places, given.settings))
        if given.spoiled:
            spoiled = spoil(scan, what["detector"], np.random.default_rng(seed))
            for name, (wrong, factor) in spoiled.items():
                rows[-1][name] = run_one(wrong, truth, factor * places, given.settings)
        print(json.dumps(rows[-1]), flush=True)
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        known = {"commit": commit, "machine": f"{machine()}, one thread, shared", "scans": rows}
        given.out.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
