"""Strain and rotation on films that abTEM simulated: phaseloom beside disk detection and template matching.

Films of gold, silicon, titanium, magnesium oxide, aluminium, gallium arsenide and strontium titanate by
multislice (abTEM: independent atoms, no phonons): smooth strain of up to 2 %, rotation, grains turned in the
plane, and thickness and tilt that change over the film. The first two columns are the reference: unstrained
and not turned, but of changing thickness and tilt. All programs know which patterns these are and take the
median of them for zero, so errors are absolute: bias is the median of the differences from the truth in all
other patterns, spread 1.4826 times their median distance from it.

py4DSTEM's disk detection is given the beam without specimen, the origin of each pattern, and for its fit of
a lattice the lattice and rotation of each grain; its template matching (ACOM) is given the crystal, the zone
axis and the size of a pixel, and its `calculate_strain` begins with the orientations found. phaseloom is
given none of it. py4DSTEM's settings are swept for each dose on a film that is not judged.

    python -m benchmarks.strain_race simulate FOLDER --seed N  # with abTEM, without phaseloom
    python -m benchmarks.strain_race tune FOLDER               # with py4DSTEM, without phaseloom
    python -m benchmarks.strain_race match FOLDER              # likewise
    python -m benchmarks.strain_race measure FOLDER
    python -m benchmarks.strain_race score FOLDER --out benchmarks/results/strain-race-DATE.json
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import time
from dataclasses import asdict, dataclass
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from benchmarks.strain_films import decompose

GRID = (6, 10)
REFERENCE = (0, 6, 0, 2)  # rows and columns
SIZE = 80.0  # angstrom of the simulated cell
GPTS = 400
VOLTAGE = 200e3
WAVELENGTH = 0.0250793
SEMIANGLE = 1.25e-3
ANGLE = WAVELENGTH / SIZE  # radian of a pixel
K_MAX = 1.2  # inverse angstrom, of templates
NEAR = 2.4  # pixels between a disk and the known lattice
MIN_DISKS = 5
MIN_REFERENCE = 3  # patterns with a lattice
NUMBERS = ("rotation_median", "strain_median", "strain_bias", "strain_spread", "seconds")
METHODS = ("ours", "disks", "templates")
BACKGROUND = 0.04  # share of the electrons, diffuse


@dataclass(frozen=True)
class Film:
    """What a film is made of.

    Attributes:
        name: crystal and zone axis.
        electrons: of a pattern.
        thickness: least and largest, angstrom.
        strain: largest.
        tilt: largest, mrad.
        turns: rotation of each grain, degrees; the first one holds the reference.
        pixels: of the detector.
    """

    name: str
    electrons: float
    thickness: tuple[float, float]
    strain: float
    tilt: float
    turns: tuple[float, ...] = (0.0,)
    pixels: int = 128


SYMMETRIES = {"Au [001]": 4, "Si [110]": 2, "Ti [0001]": 6, "MgO [001]": 4, "Al [110]": 2, "GaAs [110]": 2}
SYMMETRIES |= {"SrTiO3 [001]": 4, "SrTiO3 [001], to tune": 4}


@dataclass(frozen=True)
class Detection:
    """Settings of py4DSTEM's `find_Bragg_disks`.

    Attributes:
        blur: `sigma_dp`, pixels.
        power: `corrPower`.
        blur_of_correlation: `sigma_cc`, pixels.
        least: `minRelativeIntensity`.
    """

    blur: float
    power: float
    blur_of_correlation: float
    least: float


@dataclass(frozen=True)
class Matching:
    """Settings of py4DSTEM's `orientation_plan`.

    Attributes:
        step: in-plane, degrees.
        kernel: of the correlation, inverse angstrom.
        excitation: error that is allowed, inverse angstrom.
    """

    step: float
    kernel: float
    excitation: float


TUNING = Film("SrTiO3 [001], to tune", 1e4, (80, 200), 0.015, 3.0, (0.0, 11.0))
FILMS = (
    Film("Au [001]", 1e4, (40, 100), 0.015, 3.0),
    Film("Si [110]", 3e3, (100, 250), 0.02, 4.0, (0.0, 8.0)),
    Film("Ti [0001]", 1e3, (60, 160), 0.01, 2.0, (0.0, 14.0, -9.0)),
    Film("MgO [001]", 3e2, (60, 160), 0.02, 3.0),
    Film("Al [110]", 1e2, (80, 200), 0.02, 2.0),
    Film("GaAs [110]", 1e4, (200, 400), 0.015, 5.0, (0.0, -12.0)),
    Film("SrTiO3 [001]", 3e3, (60, 250), 0.02, 4.0, (0.0, 20.0, -17.0)),
)


def build_cell(name: str):
    """Orthogonal cell of a crystal, its zone axis along z."""
    from ase.build import bulk
    from ase.lattice.cubic import Diamond, FaceCenteredCubic
    from ase.spacegroup import crystal

    upright = [[0, 0, 1], [1, -1, 0], [1, 1, 0]]
    if name.startswith("Si "):
        return Diamond(directions=upright, symbol="Si", latticeconstant=5.431)
    if name.startswith("GaAs"):
        cell = Diamond(directions=upright, symbol="Ga", latticeconstant=5.653)
        near = cell.get_scaled_positions()
        cell.numbers[np.isclose((near[:, 0] * 4) % 2, 1)] = 33
        return cell
    if name.startswith("Al"):
        return FaceCenteredCubic(directions=upright, symbol="Al", latticeconstant=4.05)
    if name.startswith("Au"):
        return bulk("Au", "fcc", a=4.078, cubic=True)
    if name.startswith("MgO"):
        return bulk("MgO", "rocksalt", a=4.212, cubic=True)
    if name.startswith("Ti"):
        return bulk("Ti", "hcp", a=2.951, c=4.684, orthorhombic=True)
    basis = [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)]
    return crystal(["Sr", "Ti", "O"], basis, spacegroup=221, cellpar=[3.905] * 3 + [90] * 3)


def _turn(degrees: float) -> np.ndarray:
    """Matrix on (x, y) that turns from x to y."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s], [s, c]])


def draw_fields(film: Film, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """What is true at each place ``(n, ...)``: degrees, strains (exx, eyy, exy), mrad, angstrom."""
    y, x = (part / GRID[1] for part in np.indices(GRID))

    def wave() -> np.ndarray:
        parts = [
            rng.normal() * np.sin(6 * (rng.normal() * y + rng.normal() * x) + rng.uniform(0, 6))
            for _ in range(3)
        ]
        return sum(parts) / np.abs(sum(parts)).max()

    strain = np.stack([film.strain * wave(), film.strain * wave(), 0.6 * film.strain * wave()], -1)
    wobble = 0.8 * wave()
    seeds = rng.uniform([0.1, 0.45], [0.5, 1.0], (len(film.turns), 2))
    seeds[0] = [0.3, 0.1]
    grain = np.hypot(y[..., None] - seeds[:, 0], x[..., None] - seeds[:, 1]).argmin(-1)
    inside = np.zeros(GRID, bool)
    inside[REFERENCE[0] : REFERENCE[1], REFERENCE[2] : REFERENCE[3]] = True
    strain[inside], wobble[inside], grain[inside] = 0, 0, 0
    share = (wave() + 1) / 2
    tilt = film.tilt * np.stack([wave(), wave()], -1)
    return {
        "rotation": (np.array(film.turns)[grain] + wobble).ravel(),
        "strain": strain.reshape(-1, 3),
        "grain_turn": np.array(film.turns)[grain].ravel(),
        "tilt": tilt.reshape(-1, 2),
        "thickness": (film.thickness[0] + share * (film.thickness[1] - film.thickness[0])).ravel(),
        "inside": inside.ravel(),
    }


def simulate_pattern(cell, fields: dict[str, np.ndarray], number: int, pixels: int, shift: np.ndarray):
    """Rates ``(y, x)`` of a place, or without a cell of the beam; a shift (y, x) in pixels moves them."""
    import abtem
    from ase import Atoms

    probe = abtem.Probe(
        energy=VOLTAGE,
        semiangle_cutoff=1e3 * SEMIANGLE,
        extent=SIZE,
        gpts=GPTS,
        tilt=tuple(fields["tilt"][number]),
    )
    centre = abtem.CustomScan([[SIZE / 2] * 2])
    if cell is None:
        return _detect(np.squeeze(probe.build(scan=centre, lazy=False).array), pixels, shift)
    exx, eyy, exy = fields["strain"][number]
    deform = (np.eye(2) + np.array([[exx, exy], [exy, eyy]])) @ _turn(fields["rotation"][number])
    a, b, c = cell.cell.lengths()
    many = [int(0.8 * SIZE / side) + 2 for side in (a, b)]
    repeats = np.stack(np.meshgrid(*[np.arange(-n, n) for n in many], [0], indexing="ij"), -1)
    atoms = (cell.positions + repeats.reshape(-1, 1, 3) * [a, b, c]).reshape(-1, 3)
    kinds = np.tile(cell.numbers, len(atoms) // len(cell))
    atoms[:, :2] = atoms[:, :2] @ deform.T
    kept = (np.abs(atoms[:, :2]) < SIZE / 2).all(1)
    places = atoms[kept] + [SIZE / 2, SIZE / 2, 0]
    slab = Atoms(numbers=kinds[kept], positions=places, cell=[SIZE, SIZE, c], pbc=True)
    count = max(1, round(c / 2))
    unit = abtem.Potential(slab, gpts=GPTS, slice_thickness=c / count, projection="infinite")
    repetitions = max(1, round(fields["thickness"][number] / c))
    potential = abtem.CrystalPotential(unit.build(lazy=False), repetitions=(1, 1, repetitions))
    return _detect(
        np.squeeze(probe.multislice(potential, scan=centre, lazy=False).array), pixels, shift, BACKGROUND
    )


def _detect(wave: np.ndarray, pixels: int, shift: np.ndarray, background: float = 0.0) -> np.ndarray:
    """Rates ``(y, x)`` of an exit wave ``(x, y)``, as abTEM's axes are, on the detector."""
    y, x = (np.indices(wave.shape) - GPTS / 2) / GPTS
    wave = wave.T.astype(complex) * np.exp(2j * np.pi * (shift[0] * y + shift[1] * x))
    pattern = np.fft.fftshift(np.abs(np.fft.fft2(wave)) ** 2)
    cut = slice(GPTS // 2 - pixels // 2, GPTS // 2 + pixels // 2)
    pattern = ndimage.gaussian_filter(pattern[cut, cut], 0.5)
    rho = np.hypot(*(np.indices(pattern.shape) - pixels // 2 - shift[:, None, None])) * ANGLE
    diffuse = np.exp(-rho / 6e-3)
    return (1 - background) * pattern / pattern.sum() + background * diffuse / diffuse.sum()


def simulate(folder: Path, seed: int) -> None:
    """Write all films; the one to tune has a seed of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, film in enumerate((TUNING, *FILMS)):
        path = folder / f"{number}.npz"
        if path.exists():
            continue
        start = time.process_time()
        own = 5 if film is TUNING else seed + number
        rng = np.random.default_rng(own)
        fields = draw_fields(film, rng)
        cell = build_cell(film.name)
        places = np.indices(GRID).reshape(2, -1).T / GRID[1]
        shifts = (places - 0.5) @ rng.normal(0, 1.0, (2, 2)).T + rng.normal(0, 0.05, places.shape)
        shifts += rng.uniform(-1, 1, 2)
        rates = np.stack(
            [simulate_pattern(cell, fields, one, film.pixels, shifts[one]) for one in range(len(places))]
        )
        counts = rng.poisson(film.electrons * rates).astype(np.uint16)
        nowhere = simulate_pattern(None, fields, 0, film.pixels, np.zeros(2))
        made = fields | {
            "counts": counts,
            "vacuum": nowhere,
            "origins": shifts + film.pixels // 2,
            "basis": np.diag(SIZE / cell.cell.lengths()[:2])[::-1],  # columns are (row, column), one along x
            "seed": own,
        }
        np.savez_compressed(path, **made)
        print(film.name, own, f"{time.process_time() - start:.0f} s", flush=True)


def find_disks(film: np.lib.npyio.NpzFile, counts: np.ndarray, settings: Detection):
    """Bragg disks of all patterns by py4DSTEM, calibrated."""
    import py4DSTEM

    pixels = counts.shape[-1]
    radius = SEMIANGLE / ANGLE
    probe = py4DSTEM.Probe(film["vacuum"].astype(np.float32))
    middle = (pixels // 2, pixels // 2)
    kernel = probe.get_kernel(mode="sigmoid", origin=middle, radii=(radius, 2 * radius))
    cube = py4DSTEM.DataCube(data=counts.astype(np.float32).reshape(*GRID, pixels, pixels))
    peaks = cube.find_Bragg_disks(
        kernel,
        corrPower=settings.power,
        sigma_dp=settings.blur,
        sigma_cc=settings.blur_of_correlation,
        subpixel="multicorr",
        upsample_factor=16,
        minAbsoluteIntensity=0,
        minRelativeIntensity=settings.least,
        relativeToPeak=0,
        minPeakSpacing=1.5 * radius,
        edgeBoundary=int(radius),
        maxNumPeaks=50,
    )
    calibration = peaks.calibration
    calibration.set_Q_pixel_size(1 / SIZE)
    calibration.set_Q_pixel_units("A^-1")
    calibration.set_origin(tuple(film["origins"].T.reshape(2, *GRID)))
    calibration.set_p_ellipse((0, 0, 1, 1, 0))
    calibration.set_QR_rotflip((0, False))
    peaks.setcal(center=True, ellipse=False, pixel=True, rotate=False)
    return peaks


def fit_known_lattices(film: np.lib.npyio.NpzFile, peaks) -> np.ndarray:
    """Rotation and strain ``(n, 4)`` by py4DSTEM's fit of a lattice to the disks near a known one."""
    from emdfile import PointList
    from py4DSTEM.process.strain.latticevectors import fit_lattice_vectors

    values = np.full((len(film["origins"]), 4), np.nan)
    for number, origin in enumerate(film["origins"]):
        # a rotation of (x, y) is one of (row, column) the other way
        lattice = _turn(-film["grain_turn"][number]) @ film["basis"]
        found = peaks.raw[number // GRID[1], number % GRID[1]].data
        places = np.stack([found["qx"], found["qy"]], 1) - origin
        orders = np.rint(places @ np.linalg.inv(lattice).T).astype(int)
        near = np.linalg.norm(places - orders @ lattice.T, axis=1) < NEAR
        if near.sum() < MIN_DISKS or np.linalg.matrix_rank(orders[near]) < 2:
            continue
        kinds = [("qx", float), ("qy", float), ("intensity", float), ("g1_ind", int), ("g2_ind", int)]
        table = np.zeros(int(near.sum()), kinds)
        table["qx"], table["qy"] = places[near].T
        table["intensity"] = found["intensity"][near]
        table["g1_ind"], table["g2_ind"] = orders[near].T
        fit = fit_lattice_vectors(PointList(table))
        if fit[0] is not None:
            fitted = np.array([[fit[2], fit[4]], [fit[3], fit[5]]])
            values[number] = decompose(fitted, film["basis"])
    return values


def match_templates(name: str, peaks, settings: Matching) -> np.ndarray:
    """Rotation and strain ``(n, 4)`` by py4DSTEM's template matching and its strain of the match."""
    from py4DSTEM.process.diffraction import Crystal

    crystal = Crystal.from_ase(build_cell(name))
    crystal.setup_diffraction(VOLTAGE)
    crystal.calculate_structure_factors(K_MAX)
    crystal.orientation_plan(
        zone_axis_range="fiber",
        fiber_axis=[0, 0, 1],
        fiber_angles=[0, 0],
        angle_step_zone_axis=1.0,
        angle_step_in_plane=settings.step,
        accel_voltage=VOLTAGE,
        corr_kernel_size=settings.kernel,
        sigma_excitation_error=settings.excitation,
        progress_bar=False,
    )
    orientations = crystal.match_orientations(peaks, progress_bar=False)
    strain = crystal.calculate_strain(peaks, orientations, progress_bar=False, mask_from_corr=False)
    # py4DSTEM's x is the row, and its angle is positive from x to y as here
    parts = [strain.get_slice(part).data.ravel() for part in ("theta", "e_yy", "e_xx", "e_xy")]
    values = np.stack(parts, 1) * [np.degrees(1), 1, 1, 1]
    lost = (strain.get_slice("mask").data.ravel() == 0) | ~np.isfinite(values).all(1)
    values[lost] = np.nan
    return values


def tune(folder: Path) -> None:
    """Choose py4DSTEM's settings for each dose, by the truth of the film that is not judged."""
    film = np.load(folder / "0.npz")
    chosen = {}
    for electrons in sorted({one.electrons for one in FILMS}):
        # each electron is kept by chance: counts of fewer electrons
        counts = np.random.default_rng(0).binomial(film["counts"], electrons / TUNING.electrons)
        best: dict[str, tuple[float, dict[str, float]]] = {}
        for values in product((0.0, 1.0), (1.0, 0.8, 0.5), (1.0, 2.0, 3.0), (0.005, 0.02, 0.1)):
            detection = Detection(*values)
            peaks = find_disks(film, counts, detection)
            judged = judge(film, fit_known_lattices(film, peaks), SYMMETRIES[TUNING.name])
            _keep_best(best, "disks", judged, asdict(detection))
            for more in product((1.0,), (0.02, 0.04, 0.08), (0.02, 0.04)):
                matching = Matching(*more)
                key = asdict(detection) | asdict(matching)
                judged = judge(film, match_templates(TUNING.name, peaks, matching), SYMMETRIES[TUNING.name])
                _keep_best(best, "templates", judged, key)
        chosen[f"{electrons:g}"] = {method: one[1] for method, one in best.items()}
        print(electrons, best, flush=True)
    (folder / "settings.json").write_text(json.dumps(chosen, indent=1))


def _keep_best(best: dict, method: str, judged: dict, key: dict[str, float]) -> None:
    # a pattern without a lattice counts as one of an error without bounds: the median sees it
    score = judged["strain_median_of_all"]
    if method not in best or score < best[method][0]:
        best[method] = (score, key)


def match(folder: Path) -> None:
    """Disk detection and template matching by py4DSTEM, with the settings of `tune`."""
    import py4DSTEM  # noqa: F401 - not part of the seconds

    settings = json.loads((folder / "settings.json").read_text())
    for number, one in enumerate(FILMS, 1):
        film = np.load(folder / f"{number}.npz")
        chosen = settings[f"{one.electrons:g}"]
        for method in METHODS[1:]:
            parts = dict(chosen[method])
            detection = Detection(*(parts.pop(name) for name in list(parts)[:4]))
            start = time.process_time()
            peaks = find_disks(film, film["counts"], detection)
            if method == "disks":
                values = fit_known_lattices(film, peaks)
            else:
                values = match_templates(one.name, peaks, Matching(**parts))
            seconds = time.process_time() - start
            np.savez(folder / f"{number}.{method}.npz", values=values, seconds=seconds)
            print(one.name, method, f"{seconds:.1f} s", flush=True)


def measure(folder: Path) -> None:
    """Rotation and strain by phaseloom, as the command gives them."""
    from phaseloom.data.scan import Geometry, Scan4D
    from phaseloom.embedding.strain.strain_map import map_strain

    for number, one in enumerate(FILMS, 1):
        counts = np.load(folder / f"{number}.npz")["counts"]
        geometry = Geometry(
            wavelength=WAVELENGTH, shape=counts.shape[1:], angle=(ANGLE, ANGLE), beam="electron"
        )
        places = 20.0 * np.indices(GRID).reshape(2, -1).T
        scan = Scan4D(counts=counts, positions=places, geometry=geometry, grid=GRID)
        start = time.process_time()
        found = map_strain(scan, region=REFERENCE)
        seconds = time.process_time() - start
        made = {"values": found.values, "errors": found.errors, "seconds": seconds}
        np.savez(folder / f"{number}.ours.npz", **made)
        print(one.name, f"{seconds:.1f} s", found.symmetry, *found.notes, sep="; ", flush=True)


def judge(film: np.lib.npyio.NpzFile, values: np.ndarray, symmetry: int) -> dict[str, Any]:
    """Errors outside of the reference, the median of which is zero: degrees, and percent of strain."""
    truth = np.concatenate([film["rotation"][:, None], film["strain"]], 1)
    period = 360 / symmetry
    error = values - truth
    reference = film["inside"] & np.isfinite(error).all(1)
    outside = ~film["inside"]
    if reference.sum() < MIN_REFERENCE:
        return {"fitted": 0, "of": int(outside.sum()), "strain_median_of_all": float("inf")}
    # the phase of the mean brings all rotations within half a period of it
    middle = np.angle(np.exp(2j * np.pi * error[reference, 0] / period).mean()) * period / (2 * np.pi)
    error[:, 0] = (error[:, 0] - middle + period / 2) % period - period / 2
    error = (error - np.median(error[reference], 0)) * [1, 100, 100, 100]
    fitted = outside & np.isfinite(error).all(1)
    bias = np.median(error[fitted], 0)
    spread = 1.4826 * np.median(np.abs(error[fitted] - bias), 0)
    whole = np.where(np.isfinite(error[outside, 1:]), np.abs(error[outside, 1:]), np.inf)
    return {
        "fitted": int(fitted.sum()),
        "of": int(outside.sum()),
        "rotation_median": float(np.median(np.abs(error[fitted, 0]))),
        "rotation_bias": float(bias[0]),
        "rotation_spread": float(spread[0]),
        "rotation_within_degree": float((np.abs(error[fitted, 0]) < 1).mean()),
        "strain_median": float(np.median(np.abs(error[fitted, 1:]))),
        "strain_median_of_all": float(np.median(whole)),
        "strain_bias": float(np.sqrt((bias[1:] ** 2).mean())),
        "strain_spread": float(np.sqrt((spread[1:] ** 2).mean())),
        "strain_biases": bias[1:].tolist(),
    }


def score(folder: Path) -> dict[str, Any]:
    """Errors of all, film by film."""
    films: dict[str, Any] = {}
    for number, one in enumerate(FILMS, 1):
        film = np.load(folder / f"{number}.npz")
        row: dict[str, Any] = {"film": asdict(one) | {"seed": int(film["seed"])}}
        for method in METHODS:
            found = np.load(folder / f"{number}.{method}.npz")
            row[method] = judge(film, found["values"], SYMMETRIES[one.name]) | {
                "seconds": float(found["seconds"])
            }
        ours = np.load(folder / f"{number}.ours.npz")
        row["error_of_strain"] = float(100 * np.nanmedian(ours["errors"][~film["inside"], 1:]))
        # the error of the reference, common to all, is not that of a pattern
        apart = ours["values"][:, 1:] - film["strain"]
        apart = (apart - np.nanmedian(apart[~film["inside"]], 0)) / ours["errors"][:, 1:]
        row["coverage"] = float((np.abs(apart[~film["inside"]]) < 1.96).mean())
        films[one.name] = row
    settings = json.loads((folder / "settings.json").read_text())
    machine = {"system": platform.platform(), "processor": _name_processor(), "threads": 1}
    summary: dict[str, Any] = {
        method: {name: float(np.median([films[one.name][method][name] for one in FILMS])) for name in NUMBERS}
        for method in METHODS
    }
    summary["lower"] = {
        f"{name} than {other}": sum(
            films[one.name]["ours"][name] < films[one.name][other][name] for one in FILMS
        )
        for name in ("rotation_median", "strain_median")
        for other in METHODS[1:]
    }
    counts = {
        "strain within 0.1 %": sum(films[one.name]["ours"]["strain_median"] < 0.1 for one in FILMS),
        "rotation within 1 degree": min(films[one.name]["ours"]["rotation_within_degree"] for one in FILMS),
    }
    summary |= counts
    head = {"date": date.today().isoformat(), "commit": _name_commit(), "machine": machine}
    return {**head, "py4DSTEM": settings, "films": films, "summary": summary, "count": len(FILMS)}


def _name_processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))


def _name_commit() -> str:
    made = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    return made.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("verb", choices=["simulate", "tune", "match", "measure", "score"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.verb == "simulate":
        simulate(given.folder, given.seed)
    elif given.verb == "score":
        text = json.dumps(score(given.folder), indent=1)
        print(text)
        if given.out is not None:
            given.out.write_text(text + "\n")
    else:
        {"tune": tune, "match": match, "measure": measure}[given.verb](given.folder)


if __name__ == "__main__":
    main()
