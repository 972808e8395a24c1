"""Films with known rotation and strain: `phaseloom.embedding.strain` beside py4DSTEM's.

Patterns are made by code of this file alone: disks with two-beam rocking curves. The crystal turns from
grain to grain and is strained smoothly; thickness and bend change the intensities in the disks, not their
centres. Beam and detector have faults: descan and jitter, fluctuating current, hot pixels, blank frames, an
elliptical distortion. Three more films are SrTiO3 by abTEM's multislice, each place with a strain, rotation,
tilt and thickness (74 to 195 angstrom) of its own.

    python -m benchmarks.strain_films make FOLDER
    python -m benchmarks.strain_films measure FOLDER
    python benchmarks/strain_films.py simulate FOLDER      # where abTEM is installed, without phaseloom
    python benchmarks/strain_films.py yardstick FOLDER      # where py4DSTEM is installed, without phaseloom
    python -m benchmarks.strain_films score FOLDER --out benchmarks/results/strain-2026-11-26.json

``yardstick`` detects the disks by py4DSTEM, with the true probe, and fits lattices to them by its least
squares. It is told what phaseloom is not: the true lattice and its rotation in each grain, and the origin of
each pattern. Of three ways to correlate the one that is nearest to the truth counts. Scores are
root-mean-square errors over the patterns of one crystal that both fitted, after the median of the differences
is taken off: no program knows the unstrained lattice.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

WAVELENGTH = 0.0251  # angstrom, 200 keV
ANGLE = 0.45e-3  # radian of a pixel


@dataclass(frozen=True)
class Film:
    """What a film is made of.

    Attributes:
        name: of the film.
        seed: of all that is drawn.
        electrons: of a pattern in the mean.
        grid: rows and columns.
        pixels: of the detector.
        radius: of the disks, pixels.
        lattice: lengths (pixels) and angle (degrees) of the reciprocal lattice.
        strain: largest.
        turn: grains are turned by up to this, degrees.
        grains: number.
        bend: mrad of tilt from centre to edge.
        vacuum: share of the columns without specimen, and as many of an amorphous one.
        ellipse: distortion of the detector.
        hot: hot pixels.
        blank: patterns without counts.
        thickness: at the thin edge, and what is added to the thick one; angstrom. Extinction distances are
            500 and more, so fringes cross the disks of a thick film.
    """

    name: str
    seed: int
    electrons: float
    grid: tuple[int, int] = (20, 20)
    pixels: int = 112
    radius: float = 4.5
    lattice: tuple[float, float, float] = (17.0, 17.0, 90.0)
    strain: float = 0.01
    turn: float = 0.0
    grains: int = 1
    bend: float = 4.0
    vacuum: float = 0.0
    ellipse: float = 0.0
    hot: int = 0
    blank: int = 0
    thickness: tuple[float, float] = (150.0, 500.0)


SIZE = (14, 14)
FILMS = (
    Film("square, one grain", 201, 1e4, SIZE),
    Film("hexagonal, three grains", 202, 3e3, SIZE, lattice=(17.0, 17.0, 60.0), turn=40, grains=3),
    Film("oblique, 2 % strain", 203, 1e3, SIZE, lattice=(20.0, 16.0, 98.0), strain=0.02),
    Film("square, four grains, vacuum, hot pixels", 204, 1e3, SIZE, turn=40, grains=4, vacuum=0.12, hot=5),
    Film("square, 2 % strain", 205, 300, SIZE, strain=0.02),
    Film(
        "oblique, small disks, ellipse, blank frames",
        106,
        1e4,
        SIZE,
        128,
        2.2,
        (20.0, 17.0, 98.0),
        ellipse=0.02,
        blank=4,
    ),
    Film("rectangular, five grains", 207, 3e3, SIZE, lattice=(14.0, 22.0, 90.0), turn=60, grains=5),
    Film("hexagonal, few electrons", 208, 100, SIZE, lattice=(18.0, 18.0, 60.0)),
    Film("square, thin", 209, 1e4, SIZE, 128, thickness=(60.0, 40.0), bend=1.0),
    Film(
        "oblique, thin, two grains",
        210,
        3e3,
        SIZE,
        128,
        3.5,
        (19.0, 16.0, 97.0),
        turn=12,
        grains=2,
        thickness=(60.0, 40.0),
    ),
)

MULTISLICE = tuple(
    Film(f"SrTiO3 by multislice, {electrons:g} electrons", seed, electrons, (4, 7), 128, 3.99)
    for seed, electrons in ((301, 3e3), (302, 1e4), (303, 1e5))
)
"""Of these name, dose, grid, detector and radius are used; see `simulate`."""

TRIALS = {"plain": (0.0, 1.0), "blurred": (1.0, 1.0), "hybrid": (0.0, 0.8)}
"""Blur of the patterns (pixels) and power of the correlation with which py4DSTEM detects disks."""


@dataclass(frozen=True, eq=False)
class MadeFilm:
    """Counts ``(n, y, x)`` and what is true: rotation (degrees) and strain ``(n,)``, NaN without a crystal.

    The vectors are (row, column); x runs along the columns and y along the rows, rotation from x to y.
    """

    counts: np.ndarray
    grid: tuple[int, int]
    rotation: np.ndarray
    strain: np.ndarray
    grain: np.ndarray
    basis: np.ndarray
    boundary: np.ndarray
    origins: np.ndarray
    turns: np.ndarray


def _turn(degrees: float) -> np.ndarray:
    """Matrix on (row, column) that turns from columns (x) towards rows (y)."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, s], [-s, c]])  # of (y, x): y' = c y + s x


def make_film(film: Film) -> MadeFilm:  # noqa: PLR0915 - one film, in order
    rng = np.random.default_rng(film.seed)
    rows, columns = film.grid
    y, x = (part / max(rows, columns) for part in np.indices(film.grid))
    seeds = rng.uniform(0, 1, (film.grains, 2))
    wave = 0.03 * np.sin(2 * np.pi * (3 * x + 2 * y) + rng.uniform(0, 6))
    distance = np.hypot(y[..., None] + wave[..., None] - seeds[:, 0], x[..., None] - seeds[:, 1])
    grain = distance.argmin(-1)
    near = np.sort(distance, -1)
    share = np.zeros(film.grid) if film.grains == 1 else 0.5 * np.exp(-((near[..., 1] - near[..., 0]) / 0.04))
    other = distance.argsort(-1)[..., min(1, film.grains - 1)]
    turns = np.linspace(0, film.turn, film.grains) if film.grains > 1 else np.zeros(1)
    turns = rng.permutation(turns)
    fields = [
        sum(
            rng.normal() * np.sin(2 * np.pi * (rng.normal() * y + rng.normal() * x) + rng.uniform(0, 6))
            for _ in range(3)
        )
        for _ in range(4)
    ]
    exx, eyy, exy = (film.strain * f / np.abs(f).max() for f in fields[:3])
    exy = 0.6 * exy
    wobble = 0.6 * fields[3] / np.abs(fields[3]).max()  # degrees within a grain
    bend = film.bend * 1e-3 * np.stack([y - 0.5, x - 0.4]) * 2
    thickness = film.thickness[0] + film.thickness[1] * (0.3 * y + 0.7 * x)
    amorphous = x * max(rows, columns) / columns >= 1 - film.vacuum
    empty = x * max(rows, columns) / columns < film.vacuum
    a, b, gamma = film.lattice
    basis = np.array(
        [[0.0, a], [b * np.sin(np.radians(gamma)), b * np.cos(np.radians(gamma))]]
    ).T  # (y, x) columns
    basis = _turn(rng.uniform(-8, 8)) @ basis
    orders = np.stack(np.meshgrid(*[np.arange(-6, 7)] * 2), -1).reshape(-1, 2)
    orders = orders[orders.any(1)]
    length = np.linalg.norm(orders @ basis.T, axis=1)
    keep = length < 0.62 * film.pixels
    orders, length = orders[keep], length[keep]
    # structure factors: Friedel pairs alike, falling with the angle; extinction distances follow
    keys = {}
    factor = np.array(
        [keys.setdefault(tuple(max(tuple(h), tuple(-h))), rng.lognormal(0, 0.45)) for h in orders]
    )
    extinction = 500 / (factor * np.exp(-((length / (0.33 * film.pixels)) ** 2)) + 1e-6)
    distort = np.eye(2) + film.ellipse * np.array([[0.5, 0.3], [0.3, -0.5]])
    descan = rng.normal(0, 1.2, (2, 2))
    centre = film.pixels // 2 + rng.uniform(-1.5, 1.5, 2)
    counts = np.zeros((rows * columns, film.pixels, film.pixels), np.uint16)
    truth = np.full((3, rows, columns), np.nan)
    rotation = np.full(film.grid, np.nan)
    k = np.indices((film.pixels, film.pixels)).astype(float)
    origins = np.zeros((rows * columns, 2))
    hot = rng.integers(0, film.pixels, (film.hot, 2))
    for row, column in np.ndindex(*film.grid):
        origin = (
            centre + descan @ np.array([y[row, column] - 0.5, x[row, column] - 0.5]) + rng.normal(0, 0.08, 2)
        )
        origins[row * columns + column] = origin
        t = thickness[row, column]
        rho = np.hypot(*(k - origin[:, None, None]))
        pattern = 0.02 * np.exp(-rho / 12) / 40
        mixed = [(grain[row, column], 1 - share[row, column]), (other[row, column], share[row, column])]
        if empty[row, column]:
            pattern = _disk(k, origin, film.radius)
        elif amorphous[row, column]:
            ring = np.exp(-(((rho - 1.1 * a) / 4) ** 2)) + 0.4 * np.exp(-(((rho - 1.9 * a) / 6) ** 2))
            pattern = (
                0.8 * _disk(k, origin, film.radius) / (np.pi * film.radius**2)
                + 0.2 * ring / ring.sum()
                + pattern
            )
        else:
            strain = np.array([[eyy[row, column], exy[row, column]], [exy[row, column], exx[row, column]]])
            truth[:, row, column] = exx[row, column], eyy[row, column], exy[row, column]
            rotation[row, column] = turns[grain[row, column]] + wobble[row, column]
            for which, weight in mixed:
                if weight < 0.01:
                    continue
                deform = (np.eye(2) + strain) @ _turn(turns[which] + wobble[row, column])
                spots = distort @ np.linalg.inv(deform).T @ basis @ orders.T
                pattern = pattern + weight * _scatter(
                    k, origin, spots.T, extinction, t, bend[:, row, column], film
                )
        pattern = ndimage.gaussian_filter(pattern, 0.5)
        mean = film.electrons * pattern / pattern.sum() * np.exp(rng.normal(0, 0.05))
        counts[row * columns + column] = rng.poisson(mean)
        for py, px in hot:
            counts[row * columns + column, py, px] = rng.poisson(0.02 * film.electrons + 5)
    for number in rng.choice(rows * columns, film.blank, replace=False):
        counts[number] = 0
        rotation.flat[number] = np.nan
    boundary = (share > 0.02) & np.isfinite(rotation)
    flat = truth.reshape(3, -1)
    flat[:, ~np.isfinite(rotation.ravel())] = np.nan
    return MadeFilm(
        counts, film.grid, rotation.ravel(), flat, grain.ravel(), basis, boundary.ravel(), origins, turns
    )


def _disk(k: np.ndarray, centre: np.ndarray, radius: float) -> np.ndarray:
    """A disk with an edge of a third of a pixel."""
    rho = np.hypot(*(k - centre[:, None, None]))
    return np.clip((radius - rho) / 0.7 + 0.5, 0, 1)


def _scatter(k, origin, spots, extinction, thickness, bend, film) -> np.ndarray:  # noqa: PLR0917 - one pattern
    """Two-beam intensities in the disks, and what is left in the direct one."""
    out = np.zeros(k.shape[1:])
    direct = np.ones(k.shape[1:])
    inside = _disk(k, origin, film.radius)
    for spot, xi in zip(spots, extinction, strict=True):
        place = origin + spot
        low = np.maximum(np.floor(place - film.radius - 2).astype(int), 0)
        high = np.minimum(np.ceil(place + film.radius + 3).astype(int), film.pixels)
        if (high <= low).any():
            continue
        part = (slice(low[0], high[0]), slice(low[1], high[1]))
        inner = k[(slice(None), *part)]
        rock = _rock(inner - place[:, None, None], spot, xi, thickness, bend)
        out[part] += _disk(inner, place, film.radius) * rock
        direct -= _rock(k - origin[:, None, None], spot, xi, thickness, bend) * 0.8
    out += inside * np.clip(direct, 0.05, None)
    return out / (np.pi * film.radius**2)


def _rock(inside, spot, xi, thickness, bend) -> np.ndarray:
    """Two-beam intensity at an angle inside the disk; bend in radian."""
    g = spot * ANGLE / WAVELENGTH
    tilt = inside * ANGLE + bend[:, None, None]
    s = -(g[0] * tilt[0] + g[1] * tilt[1]) - WAVELENGTH * (g @ g) / 2
    w = np.sqrt(s**2 + 1 / xi**2)
    return (np.sin(np.pi * thickness * w) / (xi * w)) ** 2


def make(folder: Path) -> None:
    """Write all films."""
    folder.mkdir(parents=True, exist_ok=True)
    for film in FILMS:
        np.savez_compressed(folder / f"{film.seed}.npz", **vars(make_film(film)))


def measure(folder: Path) -> None:
    """Rotation and strain by phaseloom, as the command gives them."""
    from phaseloom.data.scan import Geometry, Scan4D
    from phaseloom.embedding.strain.strain_map import map_strain

    for film in (*FILMS, *MULTISLICE):
        counts = np.load(folder / f"{film.seed}.npz")["counts"]
        places = 10.0 * np.indices(film.grid).reshape(2, -1).T
        angle = (ANGLE, ANGLE)
        geometry = Geometry(wavelength=WAVELENGTH, shape=counts.shape[1:], angle=angle, beam="electron")
        scan = Scan4D(counts=counts, positions=places, geometry=geometry, grid=film.grid)
        start = time.process_time()
        found = map_strain(scan)
        seconds = time.process_time() - start
        np.savez(
            folder / f"{film.seed}.ours.npz",
            values=found.values,
            errors=found.errors,
            seconds=seconds,
            symmetry=found.symmetry,
        )
        print(film.name, f"{seconds:.1f} s", *found.notes, sep="; ")


def yardstick(folder: Path) -> None:  # noqa: PLR0915 - one pipeline, in order
    """The same by py4DSTEM."""
    import py4DSTEM
    from emdfile import PointList
    from py4DSTEM.process.strain.latticevectors import fit_lattice_vectors

    for film in (*FILMS, *MULTISLICE):
        made = np.load(folder / f"{film.seed}.npz")
        counts, basis = made["counts"].astype(np.float32), made["basis"]
        hot = counts.mean(0) > 5 * ndimage.median_filter(counts.mean(0), 5) + 0.5
        if film.hot:  # as its own filter of hot pixels does
            counts[:, hot] = ndimage.median_filter(counts, (1, 5, 5))[:, hot]
        k = np.indices(counts.shape[1:]).astype(float)
        middle = np.array(counts.shape[1:]) / 2.0
        vacuum = ndimage.gaussian_filter(_disk(k, middle, film.radius), 0.5)
        probe = py4DSTEM.Probe(vacuum.astype(np.float32))
        kernel = probe.get_kernel(mode="sigmoid", origin=tuple(middle), radii=(film.radius, 2 * film.radius))
        cube = py4DSTEM.DataCube(data=counts.reshape(*film.grid, *counts.shape[1:]))
        distort = np.eye(2) + film.ellipse * np.array([[0.5, 0.3], [0.3, -0.5]])
        for trial, (blur, power) in TRIALS.items():
            start = time.process_time()
            peaks = cube.find_Bragg_disks(
                kernel, corrPower=power, sigma_dp=blur, sigma_cc=1.0, subpixel="multicorr",
                upsample_factor=16,
                minAbsoluteIntensity=0, minRelativeIntensity=0.02, relativeToPeak=0,
                minPeakSpacing=1.5 * film.radius, edgeBoundary=int(film.radius), maxNumPeaks=50,
            )  # fmt: skip
            values = np.full((len(counts), 4), np.nan)
            for number in range(len(counts)):
                turn = made["turns"][made["grain"][number]]
                lattice = distort @ _turn(turn) @ basis
                found = peaks.raw[number // film.grid[1], number % film.grid[1]]
                places = np.stack([found.data["qx"], found.data["qy"]], 1) - made["origins"][number]
                orders = np.rint(places @ np.linalg.inv(lattice).T).astype(int)
                near = np.linalg.norm(places - orders @ lattice.T, axis=1) < max(2.0, 0.6 * film.radius)
                if near.sum() < 5:
                    continue
                kinds = [("qx", float), ("qy", float), ("intensity", float), ("g1_ind", int), ("g2_ind", int)]
                table = np.zeros(int(near.sum()), kinds)
                table["qx"], table["qy"] = places[near].T
                table["intensity"] = found.data["intensity"][near]
                table["g1_ind"], table["g2_ind"] = orders[near].T
                fit = fit_lattice_vectors(PointList(table))
                if fit[0] is not None:
                    values[number] = decompose(
                        np.array([[fit[2], fit[4]], [fit[3], fit[5]]]), distort @ basis
                    )
            seconds = time.process_time() - start
            np.savez(folder / f"{film.seed}.{trial}.npz", values=values, seconds=seconds)
        print(film.name, f"{seconds:.1f} s", np.isfinite(values).all(1).sum(), flush=True)


def decompose(basis: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Rotation (degrees), exx, eyy, exy of a reciprocal lattice against another."""
    deform = np.linalg.inv(basis @ np.linalg.inv(reference)).T
    left, stretch, right = np.linalg.svd(deform)
    strain = (left * stretch) @ left.T - np.eye(2)
    turn = left @ right
    angle = np.degrees(np.arctan2(turn[0, 1], turn[0, 0]))
    return np.array([angle, strain[1, 1], strain[0, 0], strain[0, 1]])


def score(folder: Path) -> dict[str, object]:
    """Errors of both, film by film."""
    films = {}
    for film in (*FILMS, *MULTISLICE):
        made, ours = np.load(folder / f"{film.seed}.npz"), np.load(folder / f"{film.seed}.ours.npz")
        truth = np.stack([made["rotation"], *made["strain"]], 1)
        crystal = np.isfinite(truth).all(1)
        inside = crystal & ~made["boundary"]
        theirs = [np.load(folder / f"{film.seed}.{trial}.npz") for trial in TRIALS]
        known = np.isfinite(ours["values"]).all(1)
        pulls = _compare(ours["values"], truth, inside & known, int(ours["symmetry"]))
        row: dict[str, object] = {
            "film": asdict(film),
            "crystal": int(crystal.sum()),
            "found": int((known & crystal).sum()),
            "false": int((known & ~crystal).sum()),
            "seconds": float(ours["seconds"]),
            "coverage": float((np.abs(pulls / ours["errors"])[inside & known] < 1.96).mean()),
        }
        trials = []
        for name_of_trial, one in zip(TRIALS, theirs, strict=True):
            both = inside & known & np.isfinite(one["values"]).all(1)
            trial: dict[str, object] = {
                "trial": name_of_trial,
                "fitted": int((np.isfinite(one["values"]).all(1) & crystal).sum()),
                "seconds": float(one["seconds"]),
            }
            for name, values in (("ours", ours["values"]), ("py4DSTEM", one["values"])):
                error = _compare(values, truth, both, int(ours["symmetry"]))[both]
                trial[name] = _summarise(error)
            trials.append(trial)
        row["best"] = min(trials, key=lambda one: one["py4DSTEM"]["strain"])
        row["inside"] = _summarise(pulls[inside & known])
        edge = crystal & made["boundary"] & known
        row["boundary"] = (
            _summarise(_compare(ours["values"], truth, edge, int(ours["symmetry"]))[edge])
            if edge.any()
            else None
        )
        films[film.name] = row
    return {"films": films}


def _compare(values: np.ndarray, truth: np.ndarray, chosen: np.ndarray, symmetry: int) -> np.ndarray:
    """Differences with the median of some taken off, rotations within the symmetry."""
    difference = values - truth
    period = 360 / symmetry
    phase = np.exp(2j * np.pi * difference[chosen, 0] / period)
    middle = np.angle(phase.mean()) * period / (2 * np.pi)
    difference[:, 0] = (difference[:, 0] - middle + period / 2) % period - period / 2
    return difference - np.median(difference[chosen], axis=0)


def _summarise(error: np.ndarray) -> dict[str, float]:
    """Root-mean-square and median magnitude: degrees, and percent over the three strains."""
    return {
        "rotation": float(np.sqrt((error[:, 0] ** 2).mean())),
        "strain": float(100 * np.sqrt((error[:, 1:] ** 2).mean())),
        "rotation_median": float(np.median(np.abs(error[:, 0]))),
        "strain_median": float(100 * np.median(np.abs(error[:, 1:]))),
    }


def simulate(folder: Path) -> None:
    """A film of SrTiO3 by abTEM's multislice, each place strained, turned, tilted and thick by itself."""
    import abtem
    from ase import Atoms

    rng = np.random.default_rng(301)
    size, slice_thickness, pixels = 80.0, 1.9525, 128
    a = 3.905
    cell = np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]) * a
    numbers = np.array([38, 22, 8, 8, 8])
    repeats = np.stack(np.meshgrid(*[np.arange(-17, 18)] * 2, np.arange(50), indexing="ij"), -1).reshape(
        -1, 1, 3
    )
    crystal = (cell + a * repeats).reshape(-1, 3)
    kinds = np.tile(numbers, len(repeats))
    patterns, truth = [], []
    for _ in range(math.prod(MULTISLICE[0].grid) // 2):
        turn, (exx, eyy, exy) = rng.uniform(-15, 15), rng.uniform(-0.015, 0.015, 3) * (1, 1, 0.6)
        deform = (np.eye(2) + np.array([[eyy, exy], [exy, exx]])) @ _turn(turn)  # on (y, x)
        tilt = rng.normal(0, 2e-3, 2)
        flat = crystal[:, 1::-1] @ deform.T + tilt * crystal[:, 2:]
        kept = (np.abs(flat) < size / 2).all(1)
        places = np.concatenate([flat[kept, ::-1] + size / 2, crystal[kept, 2:]], 1)  # (x, y, z)
        atoms = Atoms(numbers=kinds[kept], positions=places, cell=[size, size, 50 * a])
        potential = abtem.Potential(atoms, sampling=0.125, slice_thickness=slice_thickness, exit_planes=20)
        probe = abtem.Probe(energy=200e3, semiangle_cutoff=1.25, extent=size, sampling=0.125)
        shift = rng.uniform(-2, 2, 2)
        exit_waves = probe.multislice(potential, scan=abtem.CustomScan([shift + size / 2]))
        found = exit_waves.diffraction_patterns(max_angle="valid", block_direct=False).compute().array
        found = np.asarray(found).reshape(-1, *found.shape[-2:])
        for number in rng.choice(np.arange(2, len(found)), 2, replace=False):
            # abTEM's axes are (x, y)
            middle = np.array(found.shape[1:]) // 2
            cut = found[number, middle[0] - pixels // 2 : middle[0] + pixels // 2, middle[1] - pixels // 2 :][
                :, :pixels
            ]
            patterns.append(ndimage.gaussian_filter(cut.T, 0.5))
            truth.append((turn, exx, eyy, exy))
    turn, *strain = np.array(truth).T
    rates = np.array(patterns).clip(0)
    rates /= rates.sum((1, 2), keepdims=True)
    for film in MULTISLICE:
        made = MadeFilm(
            counts=np.random.default_rng(film.seed).poisson(film.electrons * rates).astype(np.uint16),
            grid=film.grid,
            rotation=turn,
            strain=np.array(strain),
            grain=np.arange(len(turn)),
            basis=np.array([[0.0, size / a], [size / a, 0.0]]),
            boundary=np.zeros(len(turn), bool),
            origins=np.full((len(turn), 2), pixels / 2),
            turns=turn,
        )
        np.savez_compressed(folder / f"{film.seed}.npz", **vars(made))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("verb", choices=["make", "simulate", "measure", "yardstick", "score"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found = {"make": make, "simulate": simulate, "measure": measure, "yardstick": yardstick, "score": score}[
        given.verb
    ](given.folder)
    if found is not None:
        text = json.dumps(found, indent=1)
        print(text)
        if given.out is not None:
            given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
