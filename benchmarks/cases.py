"""Simulated scans with their truth, for races: numpy only, no code of any program that races.

    python -m benchmarks.cases S --dose 1e4 --object 2 --noise 1 --into cases

Conventions. Lengths are in angstrom, positions in pixels ``(y, x)``. With the electron's wavelength
``λ`` and ``k = 2 π / λ``: the probe is the Fourier transform of an aperture with the aberration
phase ``-χ``, ``χ = π λ C10 q²`` (C10 is minus the defocus: negative puts the crossover behind the
entrance face); a slice multiplies by ``exp(i phase)``; between slices the wave flies by
``exp(i dz (sqrt(k² - 4 π² q²) - k))``; detectors see ``sum over modes |FFT|²`` with unitary FFT and
the centre at ``[n // 2, n // 2]``. A position is where the window's pixel ``[n // 2, n // 2]`` lies on the
object; its whole part moves the window, its fraction the probe. Counts are Poisson, ``dose`` electrons
in the incident probe.

The object and the noise have seeds of their own. A noise draw is a new acquisition of the same
object: other scan jitter and other counts.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

__all__ = ["CASES", "Case", "aperture_probe", "expected", "first_probe", "flight", "made", "wavelength"]


@dataclass(frozen=True)
class Case:
    """What is simulated; lengths in angstrom.

    Attributes:
        scan: rows and columns.
        pixels: of a pattern, along each side.
        step: between positions.
        defocus_start: how far programs start off focus.
        jitter: of positions, rms along each axis in pixels.
        peak: largest phase of an atom, radian.
        specimen: ``atoms`` (a jittered lattice of its own in each slice), ``crystal`` (columns of
            two kinds with vacancies) or ``absorber`` (atoms of which each radian loses half the amplitude).
        dose: electrons in a pattern.
    """

    scan: tuple[int, int]
    pixels: int
    slices: int
    modes: int
    dx: float
    step: float
    C10: float
    dz: float
    defocus_start: float = 40.0
    kv: float = 80.0
    semiangle: float = 25.0
    jitter: float = 0.25
    peak: float = 0.25
    specimen: str = "atoms"
    dose: float = 1e6


CASES = {
    "XS": Case((12, 12), 32, 1, 1, dx=0.30, step=0.60, C10=-60.0, dz=0.0, peak=0.8),
    "S": Case((24, 24), 64, 1, 1, dx=0.20, step=0.50, C10=-100.0, dz=0.0, peak=0.8),
    "M": Case((32, 32), 128, 6, 4, dx=0.15, step=0.43, C10=-150.0, dz=15.0),
    "L": Case((64, 64), 128, 12, 6, dx=0.15, step=0.43, C10=-150.0, dz=10.0),
    "thin": Case((24, 24), 64, 1, 1, dx=0.20, step=0.50, C10=-100.0, dz=0.0, peak=0.1),
    "thick": Case(
        *((24, 24), 64, 4, 1),
        **{"dx": 0.20, "step": 0.80, "C10": 100.0, "dz": 20.0, "defocus_start": 30.0, "kv": 200.0},
        **{"semiangle": 20.0, "jitter": 0.0, "peak": 0.28, "specimen": "crystal", "dose": 1e4},
    ),
    "S96": Case((24, 24), 96, 1, 1, dx=0.20, step=0.50, C10=-100.0, dz=0.0, peak=0.8),
    "S192": Case((24, 24), 192, 1, 1, dx=0.20, step=0.50, C10=-100.0, dz=0.0, peak=0.8),
    "S58": Case((24, 24), 64, 1, 1, dx=0.20, step=2.10, C10=-100.0, dz=0.0, peak=0.8),
    "S37": Case((24, 24), 64, 1, 1, dx=0.20, step=3.15, C10=-100.0, dz=0.0, peak=0.8),
    "absorber": Case(
        (24, 24), 64, 1, 1, dx=0.20, step=0.50, C10=-100.0, dz=0.0, peak=0.8, specimen="absorber"
    ),
}
CRYSTALS = ("SrTiO3", "Si", "MoS2")
CASES |= {f"{name}-thin": replace(CASES["S"], dose=1e5, specimen="abtem") for name in CRYSTALS}
CASES |= {f"{name}-thick": replace(CASES["thick"], dose=1e5, specimen="abtem") for name in CRYSTALS}
"""``thick`` has positions known exactly; in all others the raster is jittered and starts nominal. ``S96`` and
``S192`` are S with wider detectors, ``S58`` and ``S37`` with steps that leave 58 and 37 % of the diameter of
the beam (5 angstrom) as overlap. Crystals are written by `benchmarks.crystals`."""


def wavelength(kv):
    """Of relativistic electrons: ``h c / sqrt(E (E + 2 m c²))``, in angstrom."""
    energy, rest = kv * 1e3, 510998.95
    return 12398.41984 / np.sqrt(energy * (energy + 2 * rest))


def frequencies(pixels, dx):
    """Squared spatial frequency on the grid of an FFT."""
    q = np.fft.fftfreq(pixels, dx)
    return q[:, None] ** 2 + q**2


def aperture_probe(pixels, dx, kv, semiangle, C10):
    """Probe of a round aperture (mrad) and defocus, centred, of power 1."""
    q2, length = frequencies(pixels, dx), wavelength(kv)
    inside = length * np.sqrt(q2) <= semiangle * 1e-3
    wave = np.fft.fftshift(np.fft.ifft2(inside * np.exp(-1j * np.pi * length * C10 * q2)))
    return wave / np.linalg.norm(wave)


def modes_of(wave, dx, count, share=0.05):
    """Orthogonal modes: the wave and ``count - 1`` moments of it, each with a share of the power.

    Moments are x, y, xy, x² and y² under a soft window of 0.2 of the field.
    """
    n = len(wave)
    r = (np.arange(n) - n // 2) * dx
    y, x = np.meshgrid(r, r, indexing="ij")
    window = 1 / (1 + (np.hypot(y, x) / (0.2 * n * dx)) ** 4)
    moments = [x, y, x * y, x * x, y * y][: count - 1]
    columns = np.stack([wave.ravel(), *((m * window * wave).ravel() for m in moments)], 1)
    base = np.linalg.qr(columns)[0].T
    powers = np.array([1 - share * (count - 1), *[share] * (count - 1)])
    return (base * np.sqrt(powers)[:, None]).reshape(count, n, n)


def first_probe(data, off):
    """Where every program starts: optics with C10 off by so many angstrom, further modes at 2 %."""
    n, dx = data["meas"].shape[-1], float(data["dx"])
    optics = float(data["kv"]), float(data["conv_angle"]), float(data["C10"]) + off
    return modes_of(aperture_probe(n, dx, *optics), dx, len(data["probe"]), 0.02).astype(np.complex64)


def flight(pixels, dx, kv, dz):
    """Transfer function of free space, with the phase of the axis left out."""
    k = 2 * np.pi / wavelength(kv)
    return np.exp(1j * dz * (np.sqrt(k**2 - 4 * np.pi**2 * frequencies(pixels, dx)) - k))


def expected(phase, probe, positions, transfer):
    """Expected patterns ``(position, ky, kx)`` for a probe of power 1 and one electron.

    Arguments: ``phase (slice, y, x)`` in radian, whose imaginary part is a loss, ``probe (mode, y, x)``,
    ``positions`` in pixels and the transfer function between slices.
    """
    n = probe.shape[-1]
    through, spectrum, q = np.exp(1j * phase), np.fft.fft2(probe), np.fft.fftfreq(n)
    out = np.empty((len(positions), n, n), np.float32)
    for pattern, place in zip(out, positions, strict=True):
        whole = np.round(place).astype(int)
        y, x = np.exp(-2j * np.pi * np.outer(place - whole, q))
        wave = np.fft.ifft2(spectrum * (y[:, None] * x))
        top, left = whole - n // 2
        patch = through[:, top : top + n, left : left + n]
        for slice_ in patch[:-1]:
            wave = np.fft.ifft2(np.fft.fft2(wave * slice_) * transfer)
        far = np.fft.fft2(wave * patch[-1], norm="ortho")
        pattern[:] = np.fft.fftshift((np.abs(far) ** 2).sum(0))
    return out


def blobs(shape, dx, centres, widths, heights):
    """Sum of Gaussians with ``centres (atom, 2)`` in angstrom."""
    y, x = (
        np.exp(-0.5 * ((np.arange(n) * dx - c[:, None]) / widths[:, None]) ** 2)
        for n, c in zip(shape, centres.T, strict=True)
    )
    return (y * heights[:, None]).T @ x


def lattice(shape, dx, spacing, turn, offset):
    """Points of a turned square lattice in and a little around a field, angstrom."""
    extent = np.array(shape) * dx
    reach = np.arange(-np.ceil(extent.max() / spacing) - 2, np.ceil(extent.max() / spacing) + 3)
    points = np.stack(np.meshgrid(reach, reach, indexing="ij"), -1).reshape(-1, 2) * spacing
    cosine, sine = np.cos(turn), np.sin(turn)
    points = points @ np.array([[cosine, sine], [-sine, cosine]]) + extent / 2 + offset
    return points[((points > -2) & (points < extent + 2)).all(1)]


def atoms(case, shape, rng):
    """In each slice another square lattice of 1.9 angstrom, jittered and turned; ``(slice, y, x)``."""
    out = np.empty((case.slices, *shape))
    for index in range(case.slices):
        turn = np.deg2rad(10 + 8 * index)
        places = lattice(shape, case.dx, 1.9, turn, rng.uniform(0, 1.9, 2))
        places += rng.normal(0, 0.12, places.shape)
        widths = rng.uniform(0.25, 0.35, len(places))
        heights = case.peak * rng.uniform(0.5, 1.0, len(places))
        out[index] = blobs(shape, case.dx, places, widths, heights)
    return out


def crystal(case, shape, rng):
    """Two kinds of columns, 2.8 angstrom apart, in each slice with 8 % vacancies and thermal shifts."""
    out = np.zeros((case.slices, *shape))
    for index in range(case.slices):
        for offset, width, height in ((0.0, 0.32, 1.0), (1.4, 0.28, 0.43)):
            places = lattice(shape, case.dx, 2.8, 0.0, np.array([offset, offset]))
            places = places[rng.random(len(places)) > 0.08]
            places += rng.normal(0, 0.08, places.shape)
            flat = np.ones(len(places))
            out[index] += blobs(shape, case.dx, places, width * flat, case.peak * height * flat)
    return out


def absorber(case, shape, rng):
    """Atoms that leave half of the amplitude where they turn the phase by a radian."""
    return atoms(case, shape, rng) * (1 + 1j * np.log(2))


SPECIMENS = {"atoms": atoms, "crystal": crystal, "absorber": absorber}


def raster(case):
    """Nominal positions in pixels and the shape of an object that holds all windows."""
    room, step = case.pixels // 2 + 4, case.step / case.dx
    y, x = np.meshgrid(*(np.arange(n) * step + room for n in case.scan), indexing="ij")
    nominal = np.stack([y.ravel(), x.ravel()], 1)
    return nominal, tuple(int(n) for n in np.ceil(nominal.max(0)) + room + 2)


def made(case, *, object_seed=0, noise_seed=0):
    """All arrays of a case, by the names under which the ``.npz`` files hold them."""
    of_object, of_noise = np.random.default_rng((object_seed, 1)), np.random.default_rng((noise_seed, 2))
    nominal, shape = raster(case)
    positions = nominal + of_noise.normal(0, 1, nominal.shape) * case.jitter
    phase = SPECIMENS[case.specimen](case, shape, of_object)
    wave = aperture_probe(case.pixels, case.dx, case.kv, case.semiangle, case.C10)
    probe = modes_of(wave, case.dx, case.modes)
    transfer = flight(case.pixels, case.dx, case.kv, case.dz)
    clean = expected(phase, probe, positions, transfer) * np.float32(case.dose)
    return {
        "obj_phase": phase.real.astype(np.float32),
        "probe": probe.astype(np.complex64),
        "pos_px": positions,
        "pos_nominal_px": nominal,
        "meas": of_noise.poisson(clean).astype(np.float32),
        "meas_clean": clean,
        **describe(case),
        "dose": case.dose,
        "seed": 1000 * object_seed + noise_seed,
    }


def describe(case):
    """Numbers of the microscope and the scan by the names of the files."""
    return {
        "dx": case.dx,
        "dk": 1 / (case.pixels * case.dx),
        "wavelength": wavelength(case.kv),
        "kv": case.kv,
        "conv_angle": case.semiangle,
        "C10": case.C10,
        "C30": 0.0,
        "dz": case.dz,
        "scan_step": case.step,
        "n_slow": case.scan[0],
        "n_fast": case.scan[1],
    }


def place(folder, name, dose, object_seed, noise_seed):
    """Path of a case's file."""
    return Path(folder) / f"{name}_{dose:.0e}_object{object_seed}_noise{noise_seed}.npz"


def noise_seed(object_seed, first, draw=0):
    """Of a draw of an object, in races that begin with the object ``first``."""
    return 201 + draw + 10 * (object_seed - first)


def written(folder, name, *, dose=None, object_seed=0, noise_seed=0):
    """Path of a case in a folder, made if it is not there."""
    case = CASES[name] if dose is None else replace(CASES[name], dose=dose)
    path = place(folder, name, case.dose, object_seed, noise_seed)
    if not path.exists():
        if case.specimen not in SPECIMENS:
            raise SystemExit(f"{path}: is not there; write it with benchmarks.crystals, where abTEM is")
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **made(case, object_seed=object_seed, noise_seed=noise_seed))
    return path


def main():
    """Write cases."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+", choices=list(CASES))
    parser.add_argument("--dose", type=float)
    parser.add_argument("--object", type=int, default=0)
    parser.add_argument("--noise", type=int, default=0)
    parser.add_argument("--into", type=Path, default=Path("cases"))
    given = parser.parse_args()
    for name in given.names:
        seeds = {"object_seed": given.object, "noise_seed": given.noise}
        print(written(given.into, name, dose=given.dose, **seeds))


if __name__ == "__main__":
    main()
