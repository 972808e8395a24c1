"""Crystals to simulate: prototypes filled with elements that go together, or mixtures of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import product
from math import gcd
from typing import NamedTuple

import numpy as np

from phaseloom.simulation.elements import SYMBOLS, TABLES, add_covalent_radii, load_ase_data
from phaseloom.simulation.specimen_box import Crystal, name_group

__all__ = ["CRYSTAL_FAMILIES", "CellSize", "Material", "build_crystal", "list_crystals"]

SHORTEST_BOND = (1.2, 3.6)
"""Angstrom: materials whose shortest bond lies outside are left out."""


class CellSize(NamedTuple):
    """Lattice constants and the shortest bond of a material, angstrom."""

    a: float
    c: float
    bond: float


Sizes = Iterator[tuple[tuple[str, ...], CellSize]]


@dataclass(frozen=True)
class Material:
    """A family, the elements on its sites, and perhaps a guest that takes a share of one of them."""

    family: str
    elements: tuple[str, ...]
    guest: tuple[str, ...] = ()
    share: float = 0.0

    @property
    def groups(self) -> tuple[str, ...]:
        """All groups that it belongs to: itself, and where there is a guest both ends of the mixture."""
        every = tuple(sorted({*self.elements, *self.guest}))
        ends = [ends for ends in (self.elements, self.guest) if ends]
        return tuple(dict.fromkeys(name_group(self.family, part) for part in (every, *ends)))


@lru_cache(maxsize=64)
def list_crystals(family: str, /) -> dict[tuple[str, ...], CellSize]:
    """The materials of a crystalline family: elements in the order of its sites, with their sizes."""
    shortest, longest = SHORTEST_BOND
    found: dict[tuple[str, ...], CellSize] = {}
    for elements, size in _SIZES[family]():
        if shortest <= size.bond <= longest and len(set(elements)) == len(elements):
            found.setdefault(elements, size)
    return found


def build_crystal(material: Material, /) -> Crystal:
    """The cell of a material; a mixture is as large as its shares ask for (Vegard)."""
    family = material.family
    size = list_crystals(family)[material.elements]
    if material.guest:
        other = list_crystals(family)[material.guest]
        mixed = [(1 - material.share) * p + material.share * q for p, q in zip(size, other, strict=True)]
        size = CellSize(*mixed)
    lattice = np.diag([size.a, size.a, size.c or size.a])
    if family in HEXAGONAL_FAMILIES:
        lattice[1, :2] = -size.a / 2, size.a * 0.75**0.5
    sites, places = _build_cell(family, size)
    used = sorted(set(sites))
    single = used if len(material.elements) > 1 else used[:1]
    kinds = np.array([single.index(site if site in single else "a") for site in sites])
    mixes = tuple(_mix_site(material, index) for index in range(len(single)))
    layer = size.c / LAYERS_PER_CELL[family] if family in LAYERS_PER_CELL else 0.0
    formula = _write_formula(material, np.bincount(kinds))
    return Crystal(kinds, places @ lattice, lattice, mixes, family, formula, layer, bond=size.bond)


def _mix_site(material: Material, index: int) -> dict[int, float]:
    host = SYMBOLS.index(material.elements[index])
    guest = SYMBOLS.index(material.guest[index]) if material.guest else host
    return {host: 1.0} if guest == host else {host: 1 - material.share, guest: material.share}


def _write_formula(material: Material, counts: np.ndarray) -> str:
    """``SrTiO3``, or ``(Sr0.70Ba0.30)TiO3`` of a mixture."""
    common = gcd(*counts.tolist())
    parts = []
    for index, symbol in enumerate(material.elements):
        guest = material.guest[index] if material.guest else symbol
        if guest != symbol:
            symbol = f"({symbol}{1 - material.share:.2f}{guest}{material.share:.2f})"  # noqa: PLW2901
        number = int(counts[index]) // common
        parts.append(symbol if number == 1 else f"{symbol}{number}")
    return "".join(parts)


FACES = ((0, 0, 0), (0, 1 / 2, 1 / 2), (1 / 2, 0, 1 / 2), (1 / 2, 1 / 2, 0))
HEXAGONAL_FAMILIES = ("cdi2", "hcp", "honeycomb", "mx2", "wurtzite")
LAYERS_PER_CELL = {"cdi2": 1, "honeycomb": 2, "mx2": 2}


def _build_cell(family: str, size: CellSize) -> tuple[str, np.ndarray]:
    """Sites, one letter for each atom, and places in fractions of the cell."""
    if family in _PLACES_BY_SIZE:
        return _PLACES_BY_SIZE[family](size)
    cell = TABLES.cells[family]
    places = np.array([[float(Fraction(word)) for word in place.split()] for place in cell.places])
    return cell.sites, _repeat_on_faces(places) if cell.face_centred else places


def _repeat_on_faces(places: np.ndarray) -> np.ndarray:
    return (places[:, None] + np.array(FACES)).reshape(-1, 3)


def _place_spinel(size: CellSize) -> tuple[str, np.ndarray]:
    """The anions stand so far along the diagonals that the bond of four neighbours is as it should be."""
    u = 1 / 8 + size.bond / 3**0.5 / size.a
    fours = [(1 / 8, 1 / 8, 1 / 8), (7 / 8, 7 / 8, 7 / 8)]
    sixes = [(1 / 2, 1 / 2, 1 / 2), (1 / 2, 1 / 4, 1 / 4), (1 / 4, 1 / 2, 1 / 4), (1 / 4, 1 / 4, 1 / 2)]
    even = [(u, u, u), (u, 1 / 4 - u, 1 / 4 - u), (1 / 4 - u, u, 1 / 4 - u), (1 / 4 - u, 1 / 4 - u, u)]
    odd = [tuple(-x for x in place) for place in even]
    places = _repeat_on_faces(np.array([*fours, *sixes, *even, *odd]))
    return "a" * 8 + "b" * 16 + "c" * 32, places % 1


def _place_cdi2(size: CellSize) -> tuple[str, np.ndarray]:
    height = size.a / 6**0.5 / size.c
    places = [(0, 0, 1 / 2), (1 / 3, 2 / 3, 1 / 2 + height), (2 / 3, 1 / 3, 1 / 2 - height)]
    return "abb", np.array(places)


def _place_mx2(size: CellSize) -> tuple[str, np.ndarray]:
    height = (size.bond**2 - size.a**2 / 3) ** 0.5 / size.c
    one = (1 / 3, 2 / 3)
    two = (2 / 3, 1 / 3)
    low = [(*two, z) for z in (1 / 4 - height, 1 / 4 + height)]
    high = [(*one, z) for z in (3 / 4 - height, 3 / 4 + height)]
    return "aabbbb", np.array([(*one, 1 / 4), (*two, 3 / 4), *low, *high])


_PLACES_BY_SIZE = {"cdi2": _place_cdi2, "mx2": _place_mx2, "spinel": _place_spinel}
"""Cells in which the places of some atoms depend on the size; the others are in ``materials.yaml``."""


def _combine_ions(*charges: int) -> Iterator[tuple[tuple[str, ...], tuple[float, ...]]]:
    """Symbols and radii of every choice of one ion of each charge."""
    for chosen in product(*(TABLES.ionic_radii[charge].items() for charge in charges)):
        yield tuple(symbol for symbol, _ in chosen), tuple(radius for _, radius in chosen)


def _list_elements(symmetry: str, bond: float) -> Sizes:
    """Elements with their measured lattice constants, but for gases, chains and radioactive ones."""
    left_out = ("Ne", "Ar", "Kr", "Xe", "Rn", "Se", "Te", "Ac", "Tc")
    for symbol, state in zip(SYMBOLS, load_ase_data().reference_states, strict=False):
        if state and state.get("symmetry") == symmetry and symbol not in left_out:
            a = float(state["a"])
            yield (symbol,), CellSize(a, a * float(state.get("c/a", 1.0)), a * bond)


def _size_rocksalt() -> Sizes:
    for charge in (1, 2, 3, 4):
        for pair, (small, large) in _combine_ions(charge, -charge):
            if 0.38 < small / large < 1.1 and not (charge == 4 and pair[0] in ("Ce", "Pr", "Tb", "Pb", "Sn")):
                yield pair, CellSize(2 * (small + large), 0, small + large)


def _size_cesiumchloride() -> Sizes:
    for pair, (small, large) in _combine_ions(1, -1):
        if small / large > 0.7:
            bond = small + 0.1 + large
            yield pair, CellSize(bond * 2 / 3**0.5, 0, bond)
    for (one, r), (two, s) in product(TABLES.metallic_radii.items(), repeat=2):
        if one < two and 0.75 < r / s < 1.34:
            bond = 0.95 * (r + s)
            yield (one, two), CellSize(bond * 2 / 3**0.5, 0, bond)


def _combine_tetrahedral() -> Iterator[tuple[tuple[str, str], float]]:
    """Compounds of eight electrons a pair, with their bonds."""
    for cations, anions in TABLES.tetrahedral:
        for one, two in product(cations, anions):
            yield (one, two), 1.015 * add_covalent_radii(one, two)


def _size_zincblende() -> Sizes:
    return ((pair, CellSize(bond * 4 / 3**0.5, 0, bond)) for pair, bond in _combine_tetrahedral())


def _size_wurtzite() -> Sizes:
    return (
        (pair, CellSize(bond * (8 / 3) ** 0.5, bond * 8 / 3, bond)) for pair, bond in _combine_tetrahedral()
    )


def _size_fluorite() -> Sizes:
    """Eight neighbours widen a cation by 0.08 angstrom, four make it smaller by 0.1."""
    for pair, (small, large) in [*_combine_ions(2, -1), *_combine_ions(4, -2)]:
        if small / large > 0.5:
            bond = small + 0.08 + large
            yield pair, CellSize(bond * 4 / 3**0.5, 0, bond)
    for (cation, anion), (small, large) in _combine_ions(1, -2):
        if small / large < 0.8:
            bond = small - 0.1 + large
            yield (anion, cation), CellSize(bond * 4 / 3**0.5, 0, bond)


def _size_rutile() -> Sizes:
    for pair, (small, large) in [*_combine_ions(4, -2), *_combine_ions(2, -1)]:
        if pair[1] in ("O", "F") and 0.36 < small / large < 0.64:
            bond = 0.978 * (small + large)
            yield pair, CellSize(2.344 * bond, 1.51 * bond, bond)


def _size_perovskite() -> Sizes:
    """Goldschmidt's tolerance says which exist; the cell is between what its two cations want."""
    for charges in ((1, 5, -2), (2, 4, -2), (3, 3, -2), (1, 2, -1)):
        for elements, (first, second, anion) in _combine_ions(*charges):
            along = 2 * (second + anion)
            across = 2**0.5 * (first + 0.26 + anion)
            if 0.86 < across / along < 1.07 and 0.3 < second / anion < 0.8:
                a = 0.973 * (along + across) / 2
                yield elements, CellSize(a, 0, a / 2)


def _size_spinel() -> Sizes:
    """The first cation has four neighbours, the second six: the cell is what both bonds ask for."""
    for elements, (four, six, anion) in _combine_ions(2, 3, -2):
        if elements[2] != "Te" and 0.35 < four / anion < 0.62 and 0.3 < six / anion < 0.6:
            bond = four - 0.15 + anion
            yield elements, CellSize(8 / 27**0.5 * bond + 8 / 3 * (six + anion), 0, bond)


def _size_mx2() -> Sizes:
    for pair, (small, large) in _combine_ions(4, -2):
        if pair[0] in TABLES.prismatic and pair[1] != "O":
            bond = 0.975 * (small + large)
            yield pair, CellSize(1.31 * bond, 2 * (1.31 * bond + 2.95), bond)


def _size_cdi2() -> Sizes:
    """Octahedra that share edges: a layer of a dichalcogenide or of a dihalide."""
    for pair, (small, large) in [*_combine_ions(4, -2), *_combine_ions(2, -1)]:
        if pair[0] not in TABLES.prismatic and pair[1] not in ("O", "F") and 0.25 < small / large < 0.6:
            bond = small + large
            yield pair, CellSize(2**0.5 * bond, 2 / 3**0.5 * bond + 2.95, bond)


def _size_honeycomb() -> Sizes:
    """Flat sheets of threefold bonds, 6 % shorter than fourfold ones."""
    for one, two in TABLES.honeycomb:
        bond = 0.94 * add_covalent_radii(one, two)
        yield (one, two) if one != two else (one,), CellSize(3**0.5 * bond, 6.7, bond)


def _size_l12() -> Sizes:
    for (one, r), (two, s) in product(TABLES.metallic_radii.items(), repeat=2):
        if one != two and 0.8 < r / s < 1.25:
            bond = (r + 3 * s) / 2
            yield (one, two), CellSize(2**0.5 * bond, 0, bond)


def _size_heusler() -> Sizes:
    """The first element has eight neighbours, half of them of each of the others."""
    radius = TABLES.metallic_radii
    for elements in product(*TABLES.heusler):
        bond = 0.97 * (radius[elements[0]] + (radius[elements[1]] + radius[elements[2]]) / 2)
        yield elements, CellSize(bond * 4 / 3**0.5, 0, bond)


_SIZES = {
    "bcc": lambda: _list_elements("bcc", 0.75**0.5),
    "cdi2": _size_cdi2,
    "cesiumchloride": _size_cesiumchloride,
    "diamond": lambda: _list_elements("diamond", 0.1875**0.5),
    "fcc": lambda: _list_elements("fcc", 0.5**0.5),
    "fluorite": _size_fluorite,
    "hcp": lambda: _list_elements("hcp", 0.985),
    "heusler": _size_heusler,
    "honeycomb": _size_honeycomb,
    "l12": _size_l12,
    "mx2": _size_mx2,
    "perovskite": _size_perovskite,
    "rocksalt": _size_rocksalt,
    "rutile": _size_rutile,
    "spinel": _size_spinel,
    "wurtzite": _size_wurtzite,
    "zincblende": _size_zincblende,
}
"""How the materials of each family are found."""

CRYSTAL_FAMILIES = tuple(_SIZES)
