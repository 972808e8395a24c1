"""Crystals from abTEM's potentials for races: patterns of more slices and finer waves than any program has.

    python -m benchmarks.crystals SrTiO3-thick --object 301 --noise 201 --into cases

To be run where abTEM and ASE are (an environment of its own; no code of any program that races). Files have
the arrays of `benchmarks.cases`; the microscope is that of ``S`` (thin) or ``thick``. Waves have two samples
to a detector pixel and reach 1.5 times as far as the detector, so that light leaves it; slices are 4 angstrom
thick, two frozen configurations of phonons are averaged. ``obj_phase`` is the mean of their projected phases,
summed within the slices that programs are given, on the case's pixels.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import fft

from benchmarks import cases
from benchmarks.testbed.draw import Case, Faults
from benchmarks.testbed.foreign import cut_slab, stack_layer
from benchmarks.testbed.scan import choose_grid, diffract
from benchmarks.testbed.specimens import Specimen, interaction_parameter, project_potential

__all__ = ["make_crystal", "write_crystal"]

SLICE = 4.0
PHONONS = 2
SAMPLES = 2
BLOCK = 0.8  # angstrom: a multiple of the pixels of the case and of the wave


@dataclass(frozen=True)
class Crystal:
    """A material and its thickness in angstrom."""

    material: str
    thickness: float


CRYSTALS = {
    "SrTiO3-thin": Crystal("SrTiO3", 12.0),
    "Si-thin": Crystal("Si", 16.0),
    "MoS2-thin": Crystal("MoS2", 0.0),
    "SrTiO3-thick": Crystal("SrTiO3", 80.0),
    "Si-thick": Crystal("Si", 80.0),
    "MoS2-thick": Crystal("MoS2 bulk", 80.0),
}


def resample(phases: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Periodic images on fewer pixels, by their Fourier coefficients."""
    spectrum = fft.fftshift(fft.fft2(phases), axes=(-2, -1))
    start = [(n - m) // 2 for n, m in zip(phases.shape[-2:], shape, strict=True)]
    part = spectrum[..., start[0] : start[0] + shape[0], start[1] : start[1] + shape[1]]
    scale = np.prod(shape) / np.prod(phases.shape[-2:])
    return fft.ifft2(fft.ifftshift(part, axes=(-2, -1))).real * scale


def place_atoms(rng: np.random.Generator, crystal: Crystal, size: float):
    """Numbers, places ``(y, x, z)`` and the thickness."""
    if crystal.material == "MoS2":
        return stack_layer(rng, "MoS2", size)
    return *cut_slab(rng, crystal.material, size, crystal.thickness), crystal.thickness


def make_crystal(name: str, dose: float, *, object_seed: int = 0, noise_seed: int = 0) -> dict:
    """All arrays of a case, by the names under which `benchmarks.cases` has them."""
    known, crystal = cases.CASES[name], CRYSTALS[name]
    of_object, of_noise = np.random.default_rng((object_seed, 41)), np.random.default_rng((noise_seed, 42))
    length = cases.wavelength(known.kv)
    scan = Case(
        *(0, "thin", known.kv, known.semiangle * 1e-3, known.pixels, length / (known.pixels * known.dx)),
        *(-known.C10, -known.C10, known.step, known.scan[0], dose, Faults()),
    )
    grid = choose_grid(scan, Faults(), 0.0)
    room = (known.pixels // 2 + 4) * known.dx
    extent = known.step * (known.scan[0] - 1)
    size = np.ceil((extent + 2 * room) / BLOCK) * BLOCK
    pixels, coarse = round(size / grid.pixel), round(size / known.dx)
    numbers, places, thickness = place_atoms(of_object, crystal, size)
    line = np.arange(known.scan[0]) * known.step + room
    nominal = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    positions = nominal + of_noise.normal(0, 1, nominal.shape) * known.jitter * known.dx
    clean, truth = 0.0, 0.0
    for _ in range(PHONONS):
        moved = places + of_object.normal(0, 0.06, places.shape)
        volts = project_potential(
            numbers, moved, thickness, min(SLICE, thickness), pixels=pixels, pixel=size / pixels
        )
        phases = (volts * interaction_parameter(known.kv)).astype(np.float32)
        specimen = Specimen(phases, size / pixels, thickness / len(phases), {})
        flat = {"positions": positions, "shifts": np.zeros_like(positions)}
        clean = clean + diffract(scan, Faults(), specimen, grid, **flat) / PHONONS
        thick = np.stack([part.sum(0) for part in np.array_split(phases, known.slices)])
        truth = truth + resample(thick, (coarse, coarse)) / PHONONS
    clean = (clean * dose).astype(np.float32)
    return {
        "obj_phase": truth.astype(np.float32),
        "probe": cases.aperture_probe(known.pixels, known.dx, known.kv, known.semiangle, known.C10)[
            None
        ].astype(np.complex64),
        "pos_px": positions / known.dx,
        "pos_nominal_px": nominal / known.dx,
        "meas": of_noise.poisson(clean).astype(np.float32),
        "meas_clean": clean,
        **cases.describe(known),
        "dose": dose,
        "seed": 1000 * object_seed + noise_seed,
    }


def write_crystal(folder: Path, name: str, *, dose: float, object_seed: int, noise_seed: int) -> Path:
    """Path of a case in a folder, made if it is not there."""
    path = cases.place(folder, name, dose, object_seed, noise_seed)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **make_crystal(name, dose, object_seed=object_seed, noise_seed=noise_seed))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+", choices=list(CRYSTALS))
    parser.add_argument("--objects", type=int, nargs=2, required=True, help="first, and one beyond the last")
    parser.add_argument("--into", type=Path, default=Path("runs") / "cases")
    given = parser.parse_args()
    for name in given.names:
        for number in range(*given.objects):
            seeds = {"object_seed": number, "noise_seed": cases.noise_seed(number, given.objects[0])}
            print(write_crystal(given.into, name, dose=cases.CASES[name].dose, **seeds), flush=True)


if __name__ == "__main__":
    main()
