"""Simulated near-field scans with real instruments' faults: numpy and SciPy, nothing of phaseloom.

    python -m benchmarks.near_field_scans FOLDER --seeds 100 105

A wave is known on pixels half as wide as the detector's, on a field wider than the detector, so that nothing
wraps round. A diffuser and an aperture stand before the object; each point of the source sends a plane wave
of another direction through them (Fresnel scaling: a cone beam of magnification M is a parallel one on
pixels of ``detector pixel / M`` over ``distance / M``; Paganin 2006, Coherent X-Ray Optics, appendix B).
Signs: ``exp(+i phase)``, phase negative in matter (delta), flight ``exp(-i pi wavelength z |k|^2)``.

The object's pixel ``[i, j]`` lies at ``(i, j) truth["pixel"]``; the middle of pattern ``n`` (pixel ``N //
2``) looks at ``truth["positions"][n]``. Positions are those of the beam on the object, (row, column), in
angstrom.
"""

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy import fft, ndimage

__all__ = ["NearFieldCase", "SimulatedHolograms", "draw_case", "propagate", "simulate_case"]

PLANCK_TIMES_C = 12398.419843320026  # eV angstrom
FINE = 2
SPECIMENS = ("star", "particles", "cells", "random")


@dataclass(frozen=True)
class NearFieldCase:
    """What is simulated; lengths in angstrom unless a name says otherwise.

    Attributes:
        seed: everything follows from it.
        energy: eV.
        side: detector pixels.
        pixel: of the object, at the right distances.
        fresnel: ``pixel^2 / (wavelength flight)``.
        magnification: 1 for a parallel beam.
        specimen: kind of object.
        phase: largest phase of the object, radian.
        absorption: beta over delta.
        places: along each axis.
        step: in object pixels.
        position_error: standard deviation, object pixels.
        rotation: of the positions, degrees, unknown.
        counts: mean counts in a pixel of the beam's middle.
        blur: standard deviation of the point spread, detector pixels.
        source: standard deviation of the blur on the detector by the source, detector pixels.
        flat_error: rms of the efficiency of pixels, unknown.
        hot, dead: pixels.
        background: share of the beam's counts.
        fills: the beam fills the detector; else an aperture ends it.
        diffuser: rms phase of the diffuser, radian.
        distance_error, focus_error: stated over true, minus one.
        height_spread: standard deviation of positions along the beam over the flight; 0: none.
        height_scale_error, height_error: of the stated heights: of their scale, and rms in share of the
        spread.
    """

    seed: int
    energy: float
    side: int
    pixel: float
    fresnel: float
    magnification: float
    specimen: str
    phase: float
    absorption: float
    places: int
    step: float
    position_error: float
    rotation: float
    counts: float
    blur: float
    source: float
    flat_error: float
    hot: int
    dead: int
    background: float
    fills: bool
    diffuser: float
    distance_error: float
    focus_error: float
    height_spread: float = 0.0
    height_scale_error: float = 0.0
    height_error: float = 0.0

    @property
    def wavelength(self) -> float:
        """Angstrom."""
        return PLANCK_TIMES_C / self.energy

    @property
    def flight(self) -> float:
        """Effective distance from object to detector."""
        return self.pixel**2 / (self.wavelength * self.fresnel)

    @property
    def distance(self) -> float:
        """From object to detector."""
        return self.flight * self.magnification

    @property
    def focus(self) -> float:
        """From focus to object; infinite for a parallel beam."""
        return np.inf if self.magnification == 1 else self.distance / (self.magnification - 1)


@dataclass(frozen=True)
class SimulatedHolograms:
    """A scan.

    Attributes:
        counts: ``(n, y, x)`` whole counts.
        known: what the experimenter writes down: energy, detector pixel, distance, focus, positions, heights.
        truth: object, its pixel, positions, distances.
    """

    counts: np.ndarray
    known: dict
    truth: dict


def draw_case(seed: int, **changes) -> NearFieldCase:
    """A random experiment: every second one in a cone beam."""
    rng = np.random.default_rng((seed, 11))
    cone = bool(seed % 2)
    drawn = {
        "energy": float(rng.uniform(8e3, 18e3)),
        "side": int(rng.choice([96, 112, 128])),
        "pixel": float(np.exp(rng.uniform(np.log(600), np.log(3000)) if cone else rng.uniform(8.4, 9.4))),
        "fresnel": float(np.exp(rng.uniform(np.log(0.04), np.log(0.3)))),
        "magnification": float(np.exp(rng.uniform(np.log(5), np.log(300)))) if cone else 1.0,
        "specimen": SPECIMENS[seed // 2 % len(SPECIMENS)],
        "phase": float(rng.uniform(0.3, 1.6)),
        "absorption": float(rng.choice([0.0, 0.02, 0.1])),
        "places": int(rng.integers(7, 10)),
        "step": float(rng.uniform(4, 9)),
        "position_error": float(rng.uniform(0.1, 0.6)),
        "rotation": float(rng.normal(0, 0.3)),
        "counts": float(np.exp(rng.uniform(np.log(60), np.log(4000)))),
        "blur": float(rng.uniform(0.2, 0.7)),
        "source": float(rng.uniform(0.0, 0.6)),
        "flat_error": float(rng.uniform(0.003, 0.02)),
        "hot": int(rng.integers(1, 8)),
        "dead": int(rng.integers(0, 4)),
        "background": float(rng.choice([0.0, 0.002, 0.01])),
        "fills": bool(rng.random() < 0.5),
        "diffuser": float(rng.uniform(0.6, 1.8)),
        "distance_error": float(rng.uniform(-0.15, 0.15)),
        "focus_error": float(rng.uniform(-0.15, 0.15)) if cone else 0.0,
    }
    return NearFieldCase(seed=seed, **{**drawn, **changes})


def propagate(wave: np.ndarray, pixel: float, wavelength: float, distance: float) -> np.ndarray:
    """Free flight, paraxial."""
    rows, columns = (fft.fftfreq(n, pixel) for n in wave.shape[-2:])
    square = rows[:, None] ** 2 + columns[None] ** 2
    return fft.ifft2(fft.fft2(wave) * np.exp(-1j * np.pi * wavelength * distance * square))


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, int], width: float) -> np.ndarray:
    noise = ndimage.gaussian_filter(rng.normal(size=shape), width, mode="wrap")
    return noise / noise.std()


def draw_specimen(case: NearFieldCase, shape: tuple[int, int]) -> np.ndarray:
    """Thickness between 0 and 1 on fine pixels."""
    rng = np.random.default_rng((case.seed, 12))
    y, x = np.indices(shape, dtype=float)
    if case.specimen == "star":
        y, x = y - shape[0] / 2, x - shape[1] / 2
        radius = np.hypot(y, x)
        spokes = np.cos(2 * int(rng.integers(12, 24)) * np.arctan2(y, x) / 2) > 0
        rings = (radius > 0.05 * min(shape)) & (np.abs(radius % (0.17 * min(shape))) > 0.012 * min(shape))
        thick = (spokes & rings & (radius < 0.46 * min(shape))).astype(float)
        return ndimage.gaussian_filter(thick, 1.0)
    if case.specimen == "particles":
        thick = np.zeros(shape)
        for _ in range(int(rng.integers(60, 140))):
            centre, size = rng.uniform(0, shape), rng.uniform(4, 26)
            away = ((y - centre[0]) ** 2 + ((x - centre[1]) * rng.uniform(0.7, 1.4)) ** 2) / size**2
            thick += size / 26 * np.sqrt(np.clip(1 - away, 0, None))
        return ndimage.gaussian_filter(np.clip(thick, 0, 2), 0.8) / max(thick.max(), 1)
    if case.specimen == "cells":
        labels = _smooth_noise(rng, shape, 14)
        texture = _smooth_noise(rng, shape, 3)
        thick = np.clip(labels, -0.5, 2) + 0.5 + 0.25 * texture * (labels > 0.2)
        return np.clip(thick, 0, None) / thick.max()
    thick = sum(w * _smooth_noise(rng, shape, s) for s, w in ((2, 1), (5, 1), (14, 1)))
    return (thick - thick.min()) / np.ptp(thick)


def _illuminations(case: NearFieldCase, size: int, pixel: float) -> list[tuple[float, np.ndarray]]:
    """Weights and waves on the object of the points of the source."""
    rng = np.random.default_rng((case.seed, 13))
    field = case.side * FINE
    y, x = (np.indices((size, size), dtype=float) - size / 2) / field
    if case.fills:
        stop = 1 + 0.25 * np.cos(2.1 * y + rng.uniform(0, 6)) * np.cos(1.7 * x + rng.uniform(0, 6))
        stop = stop / (1 + np.exp(40 * (np.maximum(abs(y), abs(x)) - 0.62)))
    else:
        stop = 1 / (1 + np.exp(60 * (np.hypot(y, x * rng.uniform(0.9, 1.1)) - rng.uniform(0.36, 0.42))))
    screen = case.diffuser * _smooth_noise(rng, (size, size), rng.uniform(3.5, 7) * FINE)
    wave = stop * np.exp(1j * screen)
    before = case.flight * rng.uniform(0.2, 0.6)
    spread = case.source * case.pixel / case.flight  # angle
    nodes, shares = np.polynomial.hermite_e.hermegauss(3 if case.source else 1)
    rows, columns = (np.indices((size, size)) - size // 2) * pixel
    out = []
    for a, wa in zip(nodes, shares, strict=True):
        for b, wb in zip(nodes, shares, strict=True):
            tilt = np.exp(2j * np.pi / case.wavelength * spread * (a * rows + b * columns))
            flown = propagate(wave * tilt, pixel, case.wavelength, before)
            out.append((wa * wb / shares.sum() ** 2, flown))
    return out


def _positions(case: NearFieldCase) -> tuple[np.ndarray, np.ndarray]:
    """True and stated ones, angstrom, about zero."""
    rng = np.random.default_rng((case.seed, 14))
    grid = np.indices((case.places, case.places)).reshape(2, -1).T - (case.places - 1) / 2
    stated = case.step * (grid + rng.uniform(-0.25, 0.25, grid.shape)) * case.pixel
    turn = np.radians(case.rotation)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    true = stated @ matrix.T + rng.normal(0, case.position_error * case.pixel, grid.shape)
    return true, stated


def _wave_on_detector(
    case: NearFieldCase, beams: list[tuple[float, np.ndarray]], pixel: float, crop: slice
) -> np.ndarray:
    """The wave of the middle of the source without an object, mean over each pixel of the detector."""
    _, beam = max(beams, key=lambda one: one[0])
    flown = propagate(beam, pixel, case.wavelength, case.flight)[crop, crop]
    return flown.reshape(case.side, FINE, case.side, FINE).mean((1, 3))


def simulate_case(case: NearFieldCase) -> SimulatedHolograms:  # noqa: PLR0915 - one experiment, in order
    """The scan of a case."""
    rng = np.random.default_rng((case.seed, 15))
    pixel = case.pixel / FINE
    margin = 2 * int(np.ceil(min(40, 0.7 / case.fresnel))) + 8
    size = FINE * (case.side + margin)
    true, stated = _positions(case)
    reach = int(np.ceil(np.abs(true).max() / pixel)) + 4
    shape = (size + 2 * reach, size + 2 * reach)
    thick = draw_specimen(case, shape)
    transmission = np.exp(-case.phase * thick * (1j + case.absorption))
    beams = _illuminations(case, size, pixel)
    heights = np.zeros(len(true))
    if case.height_spread:
        heights = rng.uniform(-1, 1, len(true)) * np.sqrt(3) * case.height_spread * case.flight
    crop = slice((size - FINE * case.side) // 2, (size + FINE * case.side) // 2)
    spectrum = fft.fft2(transmission)
    ky, kx = (fft.fftfreq(n)[:, None] if a == 0 else fft.fftfreq(n)[None] for a, n in enumerate(shape))
    expected = []
    for place, height in zip(true / pixel, heights, strict=True):
        whole = np.round(place)
        rest = place - whole
        moved = fft.ifft2(spectrum * np.exp(2j * np.pi * (ky * rest[0] + kx * rest[1])))
        top, left = (int(w) + reach for w in whole)
        window = moved[top : top + size, left : left + size]
        light = np.zeros((size, size))
        for weight, beam in beams:
            if height:
                beam = propagate(beam, pixel, case.wavelength, -height)  # noqa: PLW2901
            light += weight * abs(propagate(beam * window, pixel, case.wavelength, case.flight + height)) ** 2
        light = light[crop, crop].reshape(case.side, FINE, case.side, FINE).sum((1, 3))
        expected.append(ndimage.gaussian_filter(light, case.blur, mode="nearest"))
    expected = np.array(expected)
    mid = slice(case.side // 4, -case.side // 4)
    unit = case.counts / expected[:, mid, mid].mean()
    efficiency = np.clip(rng.normal(1, case.flat_error, expected.shape[1:]), 0.5, 1.5)
    mean = unit * expected * efficiency + case.background * case.counts
    counts = rng.poisson(mean).astype(np.int32)
    bad = rng.choice(case.side**2, case.hot + case.dead, replace=False)
    rows, columns = np.unravel_index(bad, (case.side, case.side))
    counts[:, rows[: case.hot], columns[: case.hot]] = rng.poisson(
        rng.uniform(3, 30, case.hot) * case.counts, (len(counts), case.hot)
    )
    counts[:, rows[case.hot :], columns[case.hot :]] = 0
    scale = 1 + case.height_scale_error
    wrong = rng.normal(0, case.height_error * case.height_spread * case.flight + 1e-30, len(true))
    known = {
        "energy": case.energy,
        "detector_pixel": case.pixel * case.magnification,
        "distance": case.distance * (1 + case.distance_error),
        "focus": case.focus * (1 + case.focus_error),
        "positions": stated,
        "heights": heights * scale + wrong if case.height_spread else None,
    }
    truth = {
        "object": transmission,
        "pixel": pixel,
        "positions": true + (reach + size // 2) * pixel,
        "heights": heights,
        "flight": case.flight,
        "distance": case.distance,
        "focus": case.focus,
        "magnification": case.magnification,
        "object_pixel": case.pixel,
        "wave": _wave_on_detector(case, beams, pixel, crop),
    }
    return SimulatedHolograms(counts, known, truth)


def main() -> None:
    """Write scans with their truths."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs=2, default=(100, 104))
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    for seed in range(*given.seeds):
        case = draw_case(seed)
        scan = simulate_case(case)
        stem = given.folder / f"holograms-{seed}"
        known = {name: value for name, value in scan.known.items() if value is not None}
        np.savez(f"{stem}.npz", counts=scan.counts, **known)
        np.savez(f"{stem}-truth.npz", **scan.truth)
        print(stem, asdict(case))


if __name__ == "__main__":
    main()
