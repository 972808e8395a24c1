"""Scans whose step is stated rightly or wrongly: what comes of the step, and does the verdict know?

    python -m benchmarks.stated_steps --seeds 500 524 --out benchmarks/results/stated-steps-DATE.json

Patterns are made with numpy alone, by multislice: crystals, particles and amorphous layers, 1e3 to 1e6
electrons, scans turned by any angle, some with a finite source, hot pixels and descan. Each is reconstructed
as by ``phaseloom reconstruct`` with the energy, the angle of a pixel and the step stated.
"""

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import machine
from benchmarks.testbed.scoring import score_image
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.units import electron_wavelength

__all__ = ["StatedScan", "count_ends", "draw_scan", "make_scan", "measure_scan", "measure_step_error"]

WINDOW = 64
"""Pixels of a pattern along each axis."""

KINDS = ("crystal", "particles", "amorphous", "folded")

SHARE_OF_RIGHT_STEPS = 0.4

MAX_STEP_ERROR = 0.025
"""Share by which a step may be off to be right."""


@dataclass(frozen=True)
class StatedScan:
    """A scan to be made; lengths in angstrom, angles in radian.

    Attributes:
        seed: of object and counts.
        kind: of the object.
        energy: electron volt.
        semiangle: of the aperture.
        reach: angle at the edge of the detector.
        defocus: positive: under-focus.
        step: of the raster.
        stated: step that the user states over the true one.
        turn: of the scan against the detector.
        phase: standard deviation of the projected phase, radian.
        slices: of the object, 8 angstrom apart.
        electrons: of a pattern.
        source: standard deviation of the source.
        hot: number of hot pixels.
        descan: movement of the disk over the scan, detector pixels.
        grid: places along each axis.
    """

    seed: int
    kind: str = "crystal"
    energy: float = 200e3
    semiangle: float = 0.02
    reach: float = 0.04
    defocus: float = 120.0
    step: float = 0.9
    stated: float = 1.0
    turn: float = 0.0
    phase: float = 0.1
    slices: int = 1
    electrons: float = 1e5
    source: float = 0.0
    hot: int = 0
    descan: float = 0.0
    grid: int = 22

    @property
    def wavelength(self) -> float:
        """Angstrom."""
        return electron_wavelength(self.energy)

    @property
    def pixel(self) -> float:
        """Of the object, angstrom."""
        return self.wavelength / (2 * self.reach)


def draw_scan(seed: int, /) -> StatedScan:
    """A scan of which everything but the seed is drawn."""
    rng = np.random.default_rng(seed)
    kind = KINDS[seed % len(KINDS)]
    energy = float(rng.choice([80e3, 200e3, 300e3]))
    semiangle = float(rng.uniform(0.016, 0.026))
    wavelength = electron_wavelength(energy)
    resolution = wavelength / (2 * semiangle)
    step = float(rng.uniform(1.8, 3.0) if kind == "folded" else rng.uniform(0.8, 1.7)) * resolution
    depth = wavelength / semiangle**2
    is_right = rng.uniform() < SHARE_OF_RIGHT_STEPS
    wrong = float(rng.uniform(0.04, 0.12) if rng.uniform() < 0.5 else -rng.uniform(0.04, 0.10))
    is_faulty = rng.uniform() < 0.4
    return StatedScan(
        seed,
        kind=kind,
        energy=energy,
        semiangle=semiangle,
        reach=semiangle * float(rng.uniform(1.7, 2.3)),
        defocus=float(rng.uniform(1.0, 3.0)) * depth,
        step=step,
        stated=1.0 if is_right else 1.0 + wrong,
        turn=float(rng.uniform(-math.pi / 3, math.pi / 3)),
        phase=float(rng.uniform(0.04, 0.2)),
        slices=int(rng.integers(1, 4)),
        electrons=float(10 ** rng.uniform(3.3, 6)),
        source=float(rng.uniform(0.1, 0.3)) * resolution if is_faulty else 0.0,
        hot=int(rng.integers(3, 12)) if is_faulty else 0,
        descan=float(rng.uniform(0.0, 1.5)) if is_faulty else 0.0,
    )


def make_scan(case: StatedScan, /) -> tuple[Scan4D, np.ndarray, np.ndarray]:
    """The scan as the user states it, the true positions in pixels of the object, and its projected phase."""
    rng = np.random.default_rng(case.seed + 10_000)
    width = (case.grid * case.step) / case.pixel
    size = math.ceil(1.45 * width + WINDOW + 8)
    size += size % 2
    phases = _draw_phases(case, size, rng)
    places = _draw_raster(case) + size / 2
    beam = _focus(case)
    fly = _propagator(case)
    counts = np.zeros((len(places), WINDOW, WINDOW))
    draws = [np.zeros(2)]
    if case.source:
        nodes = np.array([-math.sqrt(3.0), 0.0, math.sqrt(3.0)]) * case.source / case.pixel
        draws = [np.array([a, b]) for a in nodes for b in nodes]
    weights = np.outer([1 / 6, 2 / 3, 1 / 6], [1 / 6, 2 / 3, 1 / 6]).ravel() if case.source else [1.0]
    for at, place in enumerate(places):
        for move, weight in zip(draws, weights, strict=True):
            counts[at] += weight * _expose(place + move, beam, phases, fly)
    counts *= case.electrons / counts.sum((1, 2)).mean()
    if case.descan:
        counts = _move_disk(counts, places, case.descan, float(rng.uniform(0, 2 * math.pi)))
    measured = rng.poisson(np.clip(counts, 0, None)).astype(np.uint32)
    for _ in range(case.hot):
        a, b = rng.integers(0, WINDOW, 2)
        measured[:, a, b] = rng.poisson(rng.uniform(5, 40) * max(counts.max(), 1), size=len(places))
    stated = (np.indices((case.grid, case.grid)).reshape(2, -1).T - (case.grid - 1) / 2) * case.step
    unit = 2 * case.reach / WINDOW
    geometry = Geometry(
        wavelength=case.wavelength, shape=(WINDOW, WINDOW), angle=(unit, unit), beam="electron"
    )
    grid = (case.grid, case.grid)
    scan = Scan4D(
        counts=measured, positions=stated * case.stated, geometry=geometry, grid=grid, oriented=False
    )
    return scan, places, phases.sum(0)


def _draw_phases(case: StatedScan, size: int, rng: np.random.Generator) -> np.ndarray:
    draw = {"particles": _draw_particles, "amorphous": _draw_amorphous}.get(case.kind, _draw_crystal)
    parts = np.stack([draw(case, size, rng) for _ in range(case.slices)])
    if case.kind in ("crystal", "folded"):
        parts = np.repeat(parts[:1], case.slices, 0)
    return parts * case.phase / parts.sum(0).std()


def _draw_crystal(case: StatedScan, size: int, rng: np.random.Generator) -> np.ndarray:
    low, high = (1.15, 1.75) if case.kind == "folded" else (2.2, 4.5)
    planes = float(rng.uniform(low, high)) * case.step
    skew = float(rng.uniform(0.85, 1.15))
    turn = float(rng.uniform(0, math.pi))
    count = int(size * case.pixel / planes) + 3
    sites = np.stack(np.meshgrid(*[np.arange(-count, count)] * 2, indexing="ij"), -1).reshape(-1, 2) * planes
    sites = (
        sites * (1, skew) @ np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    )
    second = sites + 0.5 * planes
    out = np.zeros((size, size))
    for group, height in ((sites, 1.0), (second, float(rng.uniform(0, 0.6)))):
        at = group / case.pixel + size / 2
        keep = ((at > 1) & (at < size - 2)).all(1) & (rng.uniform(size=len(at)) > 0.04)
        heights = height * rng.normal(1, 0.05, size=len(at))
        for (y, x), peak in zip(at[keep], heights[keep], strict=True):
            _add_column(out, y, x, peak)
    return _blur(out, 0.4 / case.pixel)


def _add_column(out: np.ndarray, y: float, x: float, peak: float) -> None:
    a, b = int(y), int(x)
    for da, wa in ((0, 1 - (y - a)), (1, y - a)):
        for db, wb in ((0, 1 - (x - b)), (1, x - b)):
            out[a + da, b + db] += peak * wa * wb


def _draw_particles(case: StatedScan, size: int, rng: np.random.Generator) -> np.ndarray:
    y, x = np.indices((size, size)) * case.pixel
    out = np.zeros((size, size))
    resolution = case.wavelength / (2 * case.semiangle)
    for _ in range(int(rng.integers(20, 70))):
        a, b = rng.uniform(0, size * case.pixel, 2)
        radius = float(rng.uniform(2, 8)) * resolution
        out += rng.uniform(0.4, 1) * np.sqrt(np.clip(radius**2 - (y - a) ** 2 - (x - b) ** 2, 0, None))
    texture = _blur(rng.normal(size=(size, size)), 0.5 * resolution / case.pixel)
    return _blur(out, 0.3 / case.pixel) / out.std() + 0.15 * texture / texture.std()


def _draw_amorphous(case: StatedScan, size: int, rng: np.random.Generator) -> np.ndarray:
    return _blur(rng.normal(size=(size, size)), 0.35 / case.pixel)


def _blur(image: np.ndarray, width: float) -> np.ndarray:
    f = np.fft.fftfreq(image.shape[0])
    filtered = np.exp(-2 * (math.pi * width) ** 2 * (f[:, None] ** 2 + f**2))
    return np.fft.ifft2(np.fft.fft2(image) * filtered).real


def _draw_raster(case: StatedScan) -> np.ndarray:
    """Positions in pixels, about zero; rows of the scan turned against the detector."""
    u, v = (np.indices((case.grid, case.grid)).reshape(2, -1) - (case.grid - 1) / 2) * case.step / case.pixel
    c, s = math.cos(case.turn), math.sin(case.turn)
    return np.stack([u * c - v * s, u * s + v * c], 1)


def _frequencies(case: StatedScan) -> np.ndarray:
    f = np.fft.fftfreq(WINDOW, case.pixel)
    return np.hypot(f[:, None], f)


def _focus(case: StatedScan) -> np.ndarray:
    """Spectrum of the wave behind the lens, edge blurred over a pixel of the detector."""
    k = _frequencies(case) * case.wavelength
    edge = np.clip((case.semiangle - k) / (2 * case.reach / WINDOW) + 0.5, 0, 1)
    return np.sqrt(edge) * np.exp(1j * math.pi / case.wavelength * case.defocus * k**2)


def _propagator(case: StatedScan) -> np.ndarray:
    return np.exp(-1j * math.pi * case.wavelength * 8.0 * _frequencies(case) ** 2)


def _expose(place: np.ndarray, beam: np.ndarray, phases: np.ndarray, fly: np.ndarray) -> np.ndarray:
    whole = np.round(place).astype(int)
    f = np.fft.fftfreq(WINDOW)
    ramp = np.exp(-2j * math.pi * (f[:, None] * (place - whole)[0] + f * (place - whole)[1]))
    wave = np.fft.fftshift(np.fft.ifft2(beam * ramp))
    y, x = whole - WINDOW // 2
    for number, phase in enumerate(phases):
        if number:
            wave = np.fft.ifft2(np.fft.fft2(wave) * fly)
        wave = wave * np.exp(1j * phase[y : y + WINDOW, x : x + WINDOW])
    return np.fft.fftshift(np.abs(np.fft.fft2(wave)) ** 2)


def _move_disk(counts: np.ndarray, places: np.ndarray, far: float, turn: float) -> np.ndarray:
    along = (places - places.mean(0)) / np.ptp(places) * far
    f = np.fft.fftfreq(WINDOW)
    for at, (a, b) in enumerate(
        along @ [[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]]
    ):
        moved = np.fft.ifft2(np.fft.fft2(counts[at]) * np.exp(-2j * math.pi * (f[:, None] * a + f * b)))
        counts[at] = moved.real
    return counts


def measure_scan(seed: int, /) -> dict[str, Any]:
    """What an automatic run makes of a drawn scan: step, image and verdict."""
    import torch

    from phaseloom.reconstruction.protocol import Job
    from phaseloom.reconstruction.recipe import Reconstruct

    torch.set_num_threads(1)
    case = draw_scan(seed)
    scan, places, phase = make_scan(case)
    begun = time.process_time()
    job = Job.begin(Reconstruct.of({}), scan=scan)
    for _ in job:
        pass
    result = job.result()
    seconds = time.process_time() - begun
    found = job.recipe.found
    truth = {
        "phase": phase,
        "pixel": case.pixel,
        "semiangle": case.semiangle,
        "wavelength": case.wavelength,
        "positions": places * case.pixel,
        "true_step": case.step,
    }
    at = (result.positions - np.asarray(result.origin)) / np.asarray(result.pixel)
    score = score_image(np.angle(result.object).sum(0), truth, places=at)
    return {
        **asdict(case),
        "step_error": measure_step_error(result.positions, places * case.pixel),
        "correlation": round(float(score["correlation"]), 3),
        "slope": round(float(score["factor"]), 3),
        "verdict": result.verdict_code,
        "said": result.verdict,
        "calibrate": {key: found.get("calibrate", {}).get(key) for key in ("step", "step profile", "modes")},
        "suggested_step": found.get("suggested_step"),
        "cpu_s": round(seconds, 1),
    }


def measure_step_error(found: np.ndarray, true: np.ndarray, /) -> float:
    """Share by which the step of a run is too long."""
    linear = np.linalg.lstsq(true - true.mean(0), found - found.mean(0), rcond=None)[0]
    return round(math.sqrt(abs(np.linalg.det(linear))) - 1, 4)


def count_ends(rows: list[dict[str, Any]]) -> dict[str, int]:
    """How many steps ended right, were moved from right to wrong, and were wrong under *converged*."""
    wrong = [row for row in rows if abs(row["step_error"]) > MAX_STEP_ERROR]
    return {
        "scans": len(rows),
        "stated wrongly": sum(row["stated"] != 1 for row in rows),
        "right at the end": len(rows) - len(wrong),
        "right ones moved": sum(row["stated"] == 1 for row in wrong),
        "wrong and converged": sum(row["verdict"] == "converged" for row in wrong),
        "right and converged": sum(
            row["verdict"] == "converged" and abs(row["step_error"]) <= MAX_STEP_ERROR for row in rows
        ),
    }


def main() -> None:
    """Measure drawn scans and write a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs=2, required=True)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    rows = []
    for seed in range(*asked.seeds):
        rows.append(measure_scan(seed))
        shown = {name: rows[-1][name] for name in ("seed", "kind", "step_error", "correlation", "verdict")}
        print(shown, rows[-1]["calibrate"], flush=True)
        found = {"machine": machine(), "counts": count_ends(rows), "rows": rows}
        asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(count_ends(rows))


if __name__ == "__main__":
    main()
