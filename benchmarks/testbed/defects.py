"""Specimens whose defects are known, to judge whether a restored image keeps what is there and adds nothing.

Atoms are abTEM's independent ones. A box holds a crystal or a layer with vacancies and foreign atoms at known
columns, beside a film without order, or vacuum; the film alone; or nothing. Two sets of materials are kept
apart, see `SETS`.
"""

from dataclasses import dataclass, replace

import numpy as np

from benchmarks.testbed.foreign import LAYERS, make_amorphous
from benchmarks.testbed.specimens import Specimen, interaction_parameter, project_potential

__all__ = ["SETS", "DefectSpecimen", "build_defects"]

COLUMNS = {
    "SrTiO3": (3.905, 3.905, (((0, 0), (38,)), ((0.5, 0.5), (22, 8)), ((0.5, 0), (8,)), ((0, 0.5), (8,)))),
    "MgO": (
        4.212,
        4.212,
        (((0, 0), (12, 8)), ((0.5, 0.5), (12, 8)), ((0.5, 0), (12, 8)), ((0, 0.5), (12, 8))),
    ),
    "Fe": (2.866, 2.866, (((0, 0), (26,)), ((0.5, 0.5), (26,)))),
    "CdTe": (4.583, 6.482, (((0, 0), (48,)), ((0, 0.25), (52,)), ((0.5, 0.5), (48,)), ((0.5, 0.75), (52,)))),
    "LaAlO3": (3.79, 3.79, (((0, 0), (57,)), ((0.5, 0.5), (13, 8)), ((0.5, 0), (8,)), ((0, 0.5), (8,)))),
    "Cu": (3.615, 3.615, (((0, 0), (29,)), ((0.5, 0.5), (29,)), ((0.5, 0), (29,)), ((0, 0.5), (29,)))),
    "NaCl": (
        5.64,
        5.64,
        (((0, 0), (11, 17)), ((0.5, 0.5), (11, 17)), ((0.5, 0), (17, 11)), ((0, 0.5), (17, 11))),
    ),
}
"""Columns of crystals along the beam: sides of the projected cell, and place and repeated atoms of each."""

REPEATS = {
    "SrTiO3": 3.905,
    "MgO": 4.212,
    "Fe": 2.866,
    "CdTe": 4.583,
    "LaAlO3": 3.79,
    "Cu": 3.615,
    "NaCl": 5.64,
}
"""Distance along the beam after which a column repeats, angstrom."""

SETS = {
    "tune": ("SrTiO3", "MgO", "Fe", "graphene", "MoS2", "carbon", "vacuum"),
    "judge": ("CdTe", "LaAlO3", "Cu", "NaCl", "BN", "WSe2", "silica", "vacuum"),
}
"""What settings are chosen with, and what judges: no material but vacuum is in both."""

FOREIGN_ATOMS = (74, 79, 14, 23)
"""Atoms in place of others: the first whose number is more than 1.5 times larger or smaller is taken."""

NOWHERE = np.zeros((0, 2))
EMPTY = Specimen(np.zeros((1, 1, 1), np.float32), 1.0, 1.0, {})

SHARE_OF_VACANCIES = 0.05
SHARE_OF_FOREIGN_ATOMS = 0.05


@dataclass(frozen=True)
class DefectSpecimen:
    """A specimen with its list of defects.

    Attributes:
        specimen: its slices.
        material: one of `SETS`.
        vacancies: places ``(n, 2)`` (y, x) of empty columns, angstrom in the box.
        foreign: places of columns with foreign atoms.
        regular: places of columns of the same kind that are as they should be.
        edge: of the ordered part: direction and distance from the middle; ``None``: all or none is ordered.
        size: of the box, angstrom.
    """

    specimen: Specimen
    material: str
    vacancies: np.ndarray
    foreign: np.ndarray
    regular: np.ndarray
    edge: tuple[float, float] | None = None
    size: float = 0.0

    def ordered(self, places: np.ndarray) -> np.ndarray:
        """How far places lie within the ordered part, angstrom; below zero outside it."""
        if self.edge is None:
            sign = 1.0 if len(self.regular) else -1.0
            return np.full(len(places), sign * np.inf)
        way, offset = self.edge
        return offset - (np.asarray(places) - self.size / 2) @ (np.cos(way), np.sin(way))


def build_defects(
    material: str, seed: int, *, field_of_view: float, kilovolts: float, pixel: float
) -> DefectSpecimen:
    """The specimen of a seed in a box that windows of the scan leave by little."""
    rng = np.random.default_rng([seed, 47])
    size = float(np.ceil((field_of_view + 26) / pixel / 4) * 4 * pixel)
    thickness = rng.uniform(5, 12)
    found = DefectSpecimen(EMPTY, material, NOWHERE, NOWHERE, NOWHERE, size=size)
    numbers, places = np.zeros(0, int), np.zeros((0, 3))
    if material in ("carbon", "silica"):
        numbers, places = make_amorphous(rng, material, size, thickness)
    elif material != "vacuum":
        edge = (rng.uniform(-np.pi, np.pi), rng.uniform(-0.05, 0.2) * field_of_view)
        found, numbers, places, thickness = _place_crystal(rng, replace(found, edge=edge), thickness)
    places = places + rng.normal(0, rng.uniform(0.04, 0.08), places.shape)
    pixels = round(size / pixel)
    volts = np.zeros((1, pixels, pixels), np.float32)
    if len(numbers):
        volts = project_potential(numbers, places, thickness, min(4.0, thickness), pixels=pixels, pixel=pixel)
    phases = (volts * interaction_parameter(kilovolts)).astype(np.float32)
    about = {"material": material, "thickness": thickness}
    return replace(found, specimen=Specimen(phases, pixel, thickness / len(phases), about))


def _place_crystal(rng, found: DefectSpecimen, thickness: float):
    """A crystal with defects up to the edge, beyond it a film in three of five: defects listed, and atoms."""
    columns, kinds, lists, thickness = _list_columns(rng, found.material, found.size, thickness)
    kept = found.ordered(columns) > 0
    columns, kinds = columns[kept], kinds[kept]
    chosen = kinds == 0
    draw = rng.uniform(size=len(columns))
    empty = chosen & (draw < SHARE_OF_VACANCIES)
    swapped = chosen & ~empty & (draw < SHARE_OF_VACANCIES + SHARE_OF_FOREIGN_ATOMS)
    regular = columns[chosen & ~empty & ~swapped]
    found = replace(found, vacancies=columns[empty], foreign=columns[swapped], regular=regular)
    numbers, places = _fill_columns(columns, kinds, lists, empty, swapped)
    places = places + np.array([0, 0, 0.05])
    if rng.random() < 0.6:
        glass, where = make_amorphous(rng, "carbon", found.size, min(thickness, 8.0))
        beside = found.ordered(where[:, :2]) < -0.5
        numbers = np.concatenate([numbers, glass[beside]])
        places = np.concatenate([places, where[beside]])
    return found, numbers, places, thickness


def _list_columns(rng, material, size, thickness):
    """Places of columns, their kinds, the atoms of each kind as (number, height), and the thickness."""
    turn = rng.uniform(-np.pi, np.pi)
    matrix = np.array([(np.cos(turn), -np.sin(turn)), (np.sin(turn), np.cos(turn))])
    if material in LAYERS:
        constant, heavy, light, half = LAYERS[material]
        thickness = 2 * half + 3.0
        cell = constant * np.array([(1, 0), (-0.5, np.sqrt(3) / 2)])
        middle = thickness / 2
        basis = [np.zeros(2), (np.array([1, 2]) / 3) @ cell]
        lists = [[(heavy, middle)], [(light, middle + z) for z in ((half, -half) if half else (0.0,))]]
    else:
        rows, columns, atoms = COLUMNS[material]
        cell = np.diag([rows, columns])
        repeat = REPEATS[material]
        layers = max(1, round(thickness / repeat))
        thickness = layers * repeat + 0.2
        basis = [np.array(place) @ cell for place, _ in atoms]
        lists = [
            [
                (number, repeat * (layer + part / len(kinds)))
                for layer in range(layers)
                for part, number in enumerate(kinds)
            ]
            for _, kinds in atoms
        ]
    count = int(np.ceil(size / np.linalg.norm(cell, axis=1).min())) + 2
    index = np.stack(np.meshgrid(*[np.arange(-count, count + 1)] * 2, indexing="ij"), -1).reshape(-1, 2)
    offset = rng.uniform(0, 1, 2) @ cell
    places = [(index @ cell + offset + start) @ matrix.T + size / 2 for start in basis]
    kinds = np.repeat(np.arange(len(basis)), len(index))
    everywhere = np.concatenate(places)
    inside = (everywhere > 0).all(1) & (everywhere < size).all(1)
    # columns of the same atoms are one kind: any of them may be the one with defects
    return everywhere[inside], kinds[inside], lists, thickness


def _fill_columns(columns, kinds, lists, empty, swapped):
    """Numbers and places of all atoms."""
    numbers, places = [], []
    for column, kind, gone, other in zip(columns, kinds, empty, swapped, strict=True):
        if gone:
            continue
        for number, height in lists[kind]:
            numbers.append(_choose_foreign(number) if other else number)
            places.append((*column, height))
    return np.array(numbers), np.array(places)


def _choose_foreign(number: int) -> int:
    """The atom in place of another: of clearly other strength."""
    return next(one for one in FOREIGN_ATOMS if max(one, number) > 1.5 * min(one, number))
