"""Specimens and scans that judge networks: other materials, another simulator, all sorts of detectors.

Specimens are abTEM's independent atoms; the scan is `benchmarks.testbed.scan`. Two sets of materials are
kept apart: one to calibrate with, and one to judge by. See `benchmarks.foreign_scans`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from scipy import spatial

from benchmarks.testbed.draw import Case, Faults, electron_wavelength
from benchmarks.testbed.scan import Scan, choose_grid, simulate_scan
from benchmarks.testbed.specimens import CENTRINGS, Specimen, interaction_parameter, project_potential

__all__ = ["SETS", "WRONG", "ForeignCase", "draw_foreign", "simulate_foreign"]

CRYSTALS = {
    "SrTiO3": (("Sr", "Ti", "O"), [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)], 221, (3.905,) * 3),
    "GaN": (("Ga", "N"), [(1 / 3, 2 / 3, 0), (1 / 3, 2 / 3, 0.375)], 186, (3.189, 3.189, 5.185, 90, 90, 120)),
    "NiTi": (
        ("Ti", "Ni"),
        [(0.4176, 0.25, 0.2164), (0.0372, 0.25, 0.6752)],
        11,
        (2.898, 4.108, 4.646, 90, 97.78, 90),
    ),
    "ZrO2": (
        ("Zr", "O", "O"),
        [(0.2754, 0.0395, 0.2083), (0.07, 0.3317, 0.3447), (0.4496, 0.7569, 0.4792)],
        14,
        (5.15, 5.212, 5.317, 90, 99.23, 90),
    ),
    "MgO": (("Mg", "O"), [(0, 0, 0), (0.5, 0.5, 0.5)], 225, (4.212,) * 3),
    "Si": (("Si",), [(0, 0, 0)], 227, (5.431,) * 3),
    "Fe": (("Fe",), [(0, 0, 0)], 229, (2.866,) * 3),
    "TiO2": (("Ti", "O"), [(0, 0, 0), (0.3053, 0.3053, 0)], 136, (4.594, 4.594, 2.959)),
    "Al2O3": (("Al", "O"), [(0, 0, 0.3522), (0.3064, 0, 0.25)], 167, (4.759, 4.759, 12.993, 90, 90, 120)),
    "quartz": (
        ("Si", "O"),
        [(0.4697, 0, 1 / 3), (0.4135, 0.2669, 0.4524)],
        154,
        (4.913, 4.913, 5.405, 90, 90, 120),
    ),
    "pyrite": (("Fe", "S"), [(0, 0, 0), (0.3851,) * 3], 205, (5.418,) * 3),
    "LaAlO3": (("La", "Al", "O"), [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)], 221, (3.79,) * 3),
    "CdTe": (("Cd", "Te"), [(0, 0, 0), (0.25,) * 3], 216, (6.482,) * 3),
    "anatase": (("Ti", "O"), [(0, 0, 0), (0, 0, 0.2081)], 141, (3.785, 3.785, 9.514)),
    "MoS2 bulk": (
        ("Mo", "S"),
        [(1 / 3, 2 / 3, 0.25), (1 / 3, 2 / 3, 0.621)],
        194,
        (3.16, 3.16, 12.29, 90, 90, 120),
    ),
    "Ti": (("Ti",), [(1 / 3, 2 / 3, 0.25)], 194, (2.951, 2.951, 4.684, 90, 90, 120)),
    "Cu": (("Cu",), [(0, 0, 0)], 225, (3.615,) * 3),
}
"""Symbols, places, space group (first setting) and cell of each."""

LAYERS = {"graphene": (2.46, 6, 6, 0.0), "MoS2": (3.16, 42, 16, 1.56)}
LAYERS |= {"BN": (2.504, 5, 7, 0.0), "WSe2": (3.29, 74, 34, 1.67)}
"""Lattice constant, atoms of both sublattices, and half the height of a layer."""

PARTICLES = {"Au on carbon": ("Au", 4.078), "Pt on carbon": ("Pt", 3.924), "Ag on carbon": ("Ag", 4.085)}

SETS = {
    "calibrate": (
        *("SrTiO3", "GaN", "NiTi", "ZrO2", "MgO", "Si", "Fe"),
        *("graphene", "MoS2", "Au on carbon", "carbon with hole"),
    ),
    "judge": (
        *("TiO2", "Al2O3", "quartz", "pyrite", "LaAlO3", "CdTe", "anatase", "Ti", "Cu"),
        *("BN", "WSe2", "Pt on carbon", "Ag on carbon", "silica with hole"),
    ),
}
"""Materials of the two sets: what calibrates is never judged by."""

WRONG = (
    *("mirrored", "half turn", "transposed", "turned", "defocus", "semiangle", "step", "thick"),
    *("astigmatism", "over-focus", "wide source"),
)
"""What may be wrong with a scan without the user knowing."""

KILOVOLTS = 80.0
SEMIANGLE = 0.020
DEFOCUS = 90.0
STEP = 2.0


@dataclass(frozen=True)
class ForeignCase:
    """A scan for a network of 80 keV, 20 mrad, 90 angstrom and steps of 2 angstrom.

    Attributes:
        case: for the simulation.
        material: one of `SETS`.
        thickness: of the specimen at most, angstrom.
        wrong: one of `WRONG` that the user does not know of, or an empty text.
        told: orientation and rotation that the user knows of.
    """

    case: Case
    material: str
    thickness: float
    wrong: str
    told: tuple[tuple[bool, bool, bool], float]


def draw_foreign(name: str, seed: int, *, scan: int = 22, any_probe: bool = False) -> ForeignCase:
    """The case of a seed of one of the `SETS`; two of seven have something `WRONG`.

    With ``any_probe`` nothing is, and energy, semiangle, defocus and step are drawn: 60 to 300 keV, 8 to
    30 mrad, and of the dimensionless numbers of networks 0.4 to 1.6 for defocus and 0.6 to 1.1 for step.
    """
    drawn, spoil = _draw_for_networks(name, seed, scan)
    if not any_probe:
        return spoil(drawn)
    rng = np.random.default_rng([seed, 35])
    kilovolts = float(rng.choice([60.0, 80.0, 120.0, 200.0, 300.0]))
    semiangle = round(rng.uniform(0.008, 0.030), 5)
    length = electron_wavelength(kilovolts)
    defocus, step = rng.uniform(0.4, 1.6) * length / semiangle**2, rng.uniform(0.6, 1.1) * length / semiangle
    optics = {"kilovolts": kilovolts, "semiangle": semiangle, "stated_defocus": round(defocus, 1)}
    optics |= {"step": round(step, 3), "angle": round(drawn.case.angle * semiangle / SEMIANGLE, 9)}
    case = replace(drawn.case, **optics, defocus=defocus * rng.uniform(0.97, 1.03))
    faults = replace(drawn.case.faults, jitter=drawn.case.faults.jitter * step / STEP)
    return replace(drawn, case=replace(case, faults=faults), wrong="")


def _draw_for_networks(
    name: str, seed: int, scan: int
) -> tuple[ForeignCase, Callable[[ForeignCase], ForeignCase]]:
    """The case as its user knows it, and what makes something wrong with it in two of seven."""
    rng = np.random.default_rng([seed, 31])
    material = SETS[name][seed % len(SETS[name])]
    pixels, reach = int(rng.integers(24, 57)), rng.uniform(1.35, 3.2)
    angle = min(2 * reach * SEMIANGLE / pixels, 3.1e-3)
    electrons = float(rng.choice([1e4, 1e5, 1e6, 1e8]))
    orientation = tuple(bool(bit) for bit in rng.integers(0, 2, 3)) if rng.random() < 0.2 else (False,) * 3
    rotation = rng.uniform(-np.pi, np.pi) if rng.random() < 0.2 else 0.0
    shift = tuple(rng.uniform(-2, 2, 2).tolist()) if rng.random() < 0.3 else (0.0, 0.0)
    faults = Faults(
        orientation=orientation,
        rotation=rotation,
        jitter=rng.uniform(0, 0.12),
        source_size=rng.uniform(0.1, 0.35) if rng.random() < 0.3 else 0.0,
        descan=tuple(rng.uniform(-0.3, 0.3, 4).tolist()) if rng.random() < 0.3 else (0.0,) * 4,
        off_centre=shift,
        hot_pixels=int(rng.random() < 0.3),
        dead_pixels=int(rng.integers(0, 3)) if rng.random() < 0.3 else 0,
        background=rng.uniform(0, 0.01) if rng.random() < 0.3 else 0.0,
        beam_drift=rng.uniform(0, 0.04) if rng.random() < 0.3 else 0.0,
    )
    wrong = str(rng.choice(WRONG)) if rng.random() < 2 / 7 else ""
    thickness = rng.uniform(4, 16)
    case = Case(
        *(seed, "thin", KILOVOLTS, SEMIANGLE, pixels, round(angle, 9)),
        *(DEFOCUS + rng.uniform(-6, 6), DEFOCUS, STEP, scan, electrons, faults),
    )
    drawn = ForeignCase(case, material, thickness, wrong, (orientation, rotation))
    return drawn, partial(_spoil, rng=rng)


def _spoil(drawn: ForeignCase, rng: np.random.Generator) -> ForeignCase:
    """The case with what the user does not know of."""
    case, wrong, faults = drawn.case, drawn.wrong, drawn.case.faults
    transposed, rows, columns = faults.orientation
    orientations = {
        "mirrored": (transposed, rows, not columns),
        "half turn": (transposed, not rows, not columns),
        "transposed": (not transposed, rows, columns),
    }
    if wrong in orientations:
        faults = replace(faults, orientation=orientations[wrong])
    elif wrong == "turned":
        turn = np.deg2rad(rng.uniform(8, 40)) * rng.choice((-1, 1))
        faults = replace(faults, rotation=faults.rotation + turn)
    elif wrong == "astigmatism":
        faults = replace(faults, aberrations=(rng.uniform(30, 60), rng.uniform(-1.5, 1.5), 0, 0, 0, 0, 0))
    elif wrong == "wide source":
        faults = replace(faults, source_size=rng.uniform(0.7, 1.1))
    elif wrong == "step":
        faults = replace(faults, step_error=rng.uniform(0.06, 0.12) * rng.choice((-1, 1)))
    defocus = {"defocus": DEFOCUS + rng.uniform(20, 45) * rng.choice((-1, 1)), "over-focus": -DEFOCUS}
    semiangle = SEMIANGLE * (1 + rng.uniform(0.05, 0.12)) if wrong == "semiangle" else SEMIANGLE
    thickness = rng.uniform(40, 80) if wrong == "thick" else drawn.thickness
    case = replace(case, faults=faults, semiangle=semiangle, defocus=defocus.get(wrong, case.defocus))
    return replace(drawn, case=case, thickness=thickness)


def simulate_foreign(drawn: ForeignCase) -> Scan:
    """The scan of a case."""
    case = drawn.case
    grid = choose_grid(case, case.faults, case.scan**2 * 4)
    return simulate_scan(case, specimen=build_foreign(drawn, grid.pixel))


def build_foreign(drawn: ForeignCase, pixel: float) -> Specimen:
    """The specimen, in a periodic box that windows of the scan leave by little."""
    rng = np.random.default_rng([drawn.case.seed, 33])
    field = drawn.case.step * drawn.case.scan
    turned = 1.0 if not drawn.case.faults.rotation else 1.35
    size = np.ceil((turned * field + 26) / pixel / 4) * 4 * pixel
    material, thickness = drawn.material, drawn.thickness
    if material in CRYSTALS:
        numbers, places = cut_slab(rng, material, size, thickness)
    elif material in LAYERS:
        numbers, places, thickness = stack_layer(rng, material, size)
    elif material in PARTICLES:
        numbers, places, thickness = place_particle(rng, *PARTICLES[material], size, field)
    else:
        numbers, places = make_amorphous(rng, material, size, thickness)
        away = np.linalg.norm(places[:, :2] - size / 2 - rng.uniform(-0.2, 0.2, 2) * field, axis=1)
        keep = away > rng.uniform(0.12, 0.25) * field
        numbers, places = numbers[keep], places[keep]
    places = places + rng.normal(0, rng.uniform(0.04, 0.08), places.shape)
    pixels = round(size / pixel)
    volts = project_potential(numbers, places, thickness, min(4.0, thickness), pixels=pixels, pixel=pixel)
    phases = (volts * interaction_parameter(drawn.case.kilovolts)).astype(np.float32)
    return Specimen(phases, pixel, thickness / len(phases), {"material": material, "thickness": thickness})


def cut_slab(rng, name, size, thickness):
    """A slab of a crystal along a low axis, tilted and turned, with vacancies, and an edge in some."""
    from ase.spacegroup import crystal

    symbols, basis, group, cell = CRYSTALS[name]
    cell = cell if len(cell) == 6 else (*cell, 90, 90, 90)
    unit = crystal(symbols, basis, spacegroup=group, cellpar=cell)
    axes = unit.cell.array
    direction = ((0, 0, 1), (1, 0, 0), (1, 1, 0), (0, 1, 1), (1, 1, 1))[rng.integers(5)] @ axes
    start, _ = spatial.transform.Rotation.align_vectors(
        [(0, 0, 1.0)], [direction / np.linalg.norm(direction)]
    )
    heading, tilt = rng.uniform(-np.pi, np.pi), rng.uniform(0, 0.03)
    lean = spatial.transform.Rotation.from_rotvec(tilt * np.array([np.cos(heading), np.sin(heading), 0]))
    turn = spatial.transform.Rotation.from_euler("z", rng.uniform(-np.pi, np.pi))
    reach = np.sqrt(2 * (size / 2) ** 2 + (thickness / 2) ** 2)
    heights = abs(np.linalg.det(axes)) / np.linalg.norm(np.cross(axes[[1, 2, 0]], axes[[2, 0, 1]]), axis=1)
    counts = np.ceil((reach + 6) / heights).astype(int)
    cells = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in counts], indexing="ij"), -1).reshape(-1, 3)
    corners = (lean * turn * start).apply(cells @ axes)
    near = (np.abs(corners[:, :2]) < size / 2 + 12).all(1) & (np.abs(corners[:, 2]) < thickness / 2 + 14)
    atoms = (lean * turn * start).apply(unit.positions)
    places = (corners[near][:, None] + atoms).reshape(-1, 3)
    numbers = np.tile(unit.numbers, near.sum())
    keep = (np.abs(places[:, :2]) <= size / 2).all(1) & (np.abs(places[:, 2]) <= thickness / 2)
    keep &= rng.uniform(size=len(places)) > 0.01
    if rng.random() < 0.25:
        way = rng.uniform(-np.pi, np.pi)
        keep &= places[:, :2] @ (np.cos(way), np.sin(way)) < rng.uniform(-0.1, 0.3) * size / 2
    return numbers[keep], places[keep] + (size / 2, size / 2, thickness / 2)


def stack_layer(rng, name, size):
    """One layer with vacancies and a hole."""
    constant, heavy, light, half = LAYERS[name]
    vectors = constant * np.array([(1, 0), (-0.5, np.sqrt(3) / 2)])
    count = int(np.ceil(size / constant)) + 4
    index = np.stack(np.meshgrid(*[np.arange(-count, count + 1)] * 2, indexing="ij"), -1).reshape(-1, 2)
    first = index @ vectors
    second = first + (np.array([1, 2]) / 3) @ vectors
    heights = (half, -half) if half else (0.0,)
    parts = [np.column_stack([first, np.zeros(len(first))])]
    parts += [np.column_stack([second, np.full(len(second), height)]) for height in heights]
    kinds = [np.full(len(first), heavy)] + [np.full(len(second), light)] * len(heights)
    places, numbers = np.concatenate(parts), np.concatenate(kinds)
    turn = spatial.transform.Rotation.from_euler("z", rng.uniform(-np.pi, np.pi))
    places = turn.apply(places)
    hole = np.linalg.norm(places[:, :2] - rng.uniform(-0.15, 0.15, 2) * size, axis=1) > 0.12 * size
    keep = (np.abs(places[:, :2]) <= size / 2).all(1) & hole & (rng.uniform(size=len(places)) > 0.02)
    return numbers[keep], places[keep] + (size / 2, size / 2, half + 1.5), 2 * half + 3.0


def place_particle(rng, symbol, constant, size, field):
    """A small ball of metal, turned at random, on a thin film of amorphous carbon."""
    from ase.data import atomic_numbers

    radius = rng.uniform(5, 8)
    film = rng.uniform(6, 12)
    line = np.arange(-6, 7)
    cells = np.stack(np.meshgrid(line, line, line, indexing="ij"), -1).reshape(-1, 1, 3)
    places = constant * (cells + np.array(CENTRINGS)).reshape(-1, 3)
    places = spatial.transform.Rotation.random(random_state=int(rng.integers(2**31))).apply(places)
    ball = places[np.linalg.norm(places, axis=1) < radius]
    ball += (*(size / 2 + rng.uniform(-0.2, 0.2, 2) * field), radius)
    numbers, carbon = make_amorphous(rng, "carbon", size, film)
    places = np.concatenate([ball, carbon + np.array([0, 0, 2 * radius])])
    return np.concatenate([np.full(len(ball), atomic_numbers[symbol]), numbers]), places, 2 * radius + film


def make_amorphous(rng, name, size, thickness):
    """Atoms at random, none closer to another than a bond allows: carbon, or silica."""
    density, closest = (0.1, 1.25) if name.startswith("carbon") else (0.07, 1.5)
    places = rng.uniform(0, 1, (int(1.15 * density * size**2 * thickness), 3)) * (size, size, thickness)
    pairs = spatial.cKDTree(places).query_pairs(closest, output_type="ndarray")
    places = np.delete(places, np.unique(pairs[:, 1]), axis=0)
    silica = np.where(rng.uniform(size=len(places)) < 1 / 3, 14, 8)
    return (np.full(len(places), 6) if name.startswith("carbon") else silica), places
