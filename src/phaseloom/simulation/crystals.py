"""Materials to draw: prototypes of crystals filled with elements that go together, and glasses."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from math import gcd

import numpy as np

from phaseloom.errors import BadInput, nearest
from phaseloom.simulation import elements as _elements
from phaseloom.simulation.specimen_box import (
    SYMBOLS,
    Crystal,
    Specimen,
    close,
    grouped,
    radii,
    reference,
    settled,
)

__all__ = ["FAMILIES", "GLASS", "Material", "crystal", "drawn", "glass", "listed"]

FACES = ((0, 0, 0), (0, 1 / 2, 1 / 2), (1 / 2, 0, 1 / 2), (1 / 2, 1 / 2, 0))
GLASS = "amorphous"

GLASSES = """C 2.0, Si 2.28, Ge 5.2, Se 4.28, SiO2 2.20, GeO2 3.65, Al2O3 3.2, TiO2 3.7, HfO2 8.5, ZrO2 5.0,
Ta2O5 8.0, Nb2O5 4.5, Y2O3 4.6, Si3N4 2.8, AlN 2.9, SiC 2.8, BN 1.9, B2O3 1.82, GeSe2 4.4, GeTe 5.6,
As2S3 3.2, As2Se3 4.6, Sb2Te3 6.1, InGaZnO4 6.1, MoS3 3.8, ZnO 5.3, SnO2 6.0, In2O3 6.6, V2O5 3.1,
MgO 3.2, FePO4 2.9"""
"""Formula and density, g/cm3."""

AWAY, NEAR = 0.86, 0.72
"""Shares of a bond: atoms of a glass push each other that far apart, and go where they stay too near."""

PUSHES = 7
"""Times that they do."""

SUBSTITUTE = 0.35
"""Share of draws in which a part of one element is replaced by another that fits."""


@dataclass(frozen=True)
class Material:
    """A family, the elements on its sites, and perhaps a guest that takes a share of one of them."""

    family: str
    elements: tuple[str, ...]
    guest: tuple[str, ...] = ()
    share: float = 0.0

    @property
    def groups(self) -> tuple[str, ...]:
        """All that it touches: itself, and where there is a guest both ends of the mixture."""
        every = tuple(sorted({*self.elements, *self.guest}))
        ends = [ends for ends in (self.elements, self.guest) if ends]
        return tuple(dict.fromkeys(grouped(self.family, part) for part in (every, *ends)))


def _faces(*starts: tuple[float, ...]) -> np.ndarray:
    """Places of a cell that is centred on all of its faces."""
    return (np.array(starts)[:, None] + np.array(FACES)).reshape(-1, 3)


def _plain(sites: str, *places: tuple[float, ...]) -> tuple[str, np.ndarray]:
    return sites, np.array(places)


def _spinel(u: float) -> tuple[str, np.ndarray]:
    """The anions stand so far along the diagonals that the bond of four neighbours is as it should be."""
    six = [(1 / 2, 1 / 2, 1 / 2), (1 / 2, 1 / 4, 1 / 4), (1 / 4, 1 / 2, 1 / 4), (1 / 4, 1 / 4, 1 / 2)]
    even = [(u, u, u), (u, 1 / 4 - u, 1 / 4 - u), (1 / 4 - u, u, 1 / 4 - u), (1 / 4 - u, 1 / 4 - u, u)]
    odd = [tuple(-x for x in place) for place in even]
    places = _faces((1 / 8, 1 / 8, 1 / 8), (7 / 8, 7 / 8, 7 / 8), *six, *even, *odd)
    return "a" * 8 + "b" * 16 + "c" * 32, places % 1


def _sheets(height: float) -> tuple[str, np.ndarray]:
    return _plain("abb", (0, 0, 1 / 2), (1 / 3, 2 / 3, 1 / 2 + height), (2 / 3, 1 / 3, 1 / 2 - height))


def _prisms(height: float) -> tuple[str, np.ndarray]:
    one, two = (1 / 3, 2 / 3), (2 / 3, 1 / 3)
    low, high = (1 / 4 - height, 1 / 4 + height), (3 / 4 - height, 3 / 4 + height)
    anions = [(*two, z) for z in low] + [(*one, z) for z in high]
    return _plain("aabbbb", (*one, 1 / 4), (*two, 3 / 4), *anions)


Third = (1 / 3, 2 / 3)
Cell = tuple[str, np.ndarray]
_CELLS: dict[str, Callable[[_elements.Sized], Cell]] = {
    "bcc": lambda s: _plain("aa", (0, 0, 0), (1 / 2, 1 / 2, 1 / 2)),
    "cdi2": lambda s: _sheets(s.a / 6**0.5 / s.c),
    "cesiumchloride": lambda s: _plain("ab", (0, 0, 0), (1 / 2, 1 / 2, 1 / 2)),
    "diamond": lambda s: ("a" * 8, _faces((0, 0, 0), (1 / 4, 1 / 4, 1 / 4))),
    "fcc": lambda s: ("aaaa", _faces((0, 0, 0))),
    "fluorite": lambda s: ("aaaa" + "b" * 8, _faces((0, 0, 0), (1 / 4, 1 / 4, 1 / 4), (3 / 4, 3 / 4, 3 / 4))),
    "hcp": lambda s: _plain("aa", (*Third, 1 / 4), (*Third[::-1], 3 / 4)),
    "heusler": lambda s: (
        "a" * 8 + "bbbbcccc",
        _faces((1 / 4, 1 / 4, 1 / 4), (3 / 4, 3 / 4, 3 / 4), (0, 0, 0), (1 / 2, 1 / 2, 1 / 2)),
    ),
    "honeycomb": lambda s: _plain(
        "aabb", (0, 0, 1 / 4), (*Third[::-1], 3 / 4), (*Third, 1 / 4), (0, 0, 3 / 4)
    ),
    "l12": lambda s: ("abbb", np.array(FACES)),
    "mx2": lambda s: _prisms((s.bond**2 - s.a**2 / 3) ** 0.5 / s.c),
    "perovskite": lambda s: _plain("abccc", (0, 0, 0), (1 / 2, 1 / 2, 1 / 2), *FACES[1:]),
    "rocksalt": lambda s: ("aaaabbbb", _faces((0, 0, 0), (1 / 2, 1 / 2, 1 / 2))),
    "rutile": lambda s: _plain(
        "aabbbb",
        (0, 0, 0),
        (1 / 2, 1 / 2, 1 / 2),
        *((0.305, 0.305, 0), (0.695, 0.695, 0), (0.805, 0.195, 1 / 2), (0.195, 0.805, 1 / 2)),
    ),
    "spinel": lambda s: _spinel(1 / 8 + s.bond / 3**0.5 / s.a),
    "wurtzite": lambda s: _plain(
        "aabb", (*Third, 0), (*Third[::-1], 1 / 2), (*Third, 3 / 8), (*Third[::-1], 7 / 8)
    ),
    "zincblende": lambda s: ("aaaabbbb", _faces((0, 0, 0), (1 / 4, 1 / 4, 1 / 4))),
}
"""Sites, one letter an atom for the element on it, and places in shares of the cell."""

FAMILIES = tuple(sorted([GLASS, *_CELLS]))
"""Families of materials that can be drawn."""

HEXAGONAL = ("cdi2", "hcp", "honeycomb", "mx2", "wurtzite")
LAYERS = {"cdi2": 1, "honeycomb": 2, "mx2": 2}


def drawn(materials: dict[str, tuple[tuple[str, ...], ...]], rng: np.random.Generator, /) -> Material:
    """A family, all equally likely, and a material of it, sometimes with a guest on one of its sites."""
    family = str(rng.choice(sorted(materials)))
    listed = materials[family]
    elements = listed[rng.integers(len(listed))]
    if family == GLASS or rng.uniform() > SUBSTITUTE:
        return Material(family, elements)
    sized = _elements.recipes(family)
    fits = [
        other
        for other in listed
        if sum(a != b for a, b in zip(elements, other, strict=False)) == 1
        and len(other) == len(elements)
        and len({*other, *elements}) == len(elements) + 1
        and abs(sized[other].a / sized[elements].a - 1) < 0.06
    ]
    if not fits:
        return Material(family, elements)
    return Material(family, elements, fits[rng.integers(len(fits))], float(rng.uniform(0.1, 0.5)))


@lru_cache(maxsize=64)
def listed(
    families: tuple[str, ...] | None, only: tuple[str, ...] | None, without: tuple[str, ...], /
) -> dict[str, tuple[tuple[str, ...], ...]]:
    """The materials of families that are made of some elements only, and of others not at all.

    Raises:
        BadInput: no such family or element, or nothing left.
    """
    for family in families or ():
        if family not in FAMILIES:
            raise BadInput("prototypes.families", f"there is no '{family}';", nearest(family, FAMILIES))
    for knob, symbols in (("only", only or ()), ("without", without)):
        for symbol in symbols:
            if symbol not in SYMBOLS[1:]:
                raise BadInput(f"prototypes.{knob}", symbol, "is no element: write symbols such as Sr")
    allowed = set(SYMBOLS if only is None else only) - set(without)
    found = {
        family: tuple(elements for elements in _every(family) if allowed.issuperset(elements))
        for family in (FAMILIES if families is None else families)
    }
    found = {family: elements for family, elements in found.items() if elements}
    if not found:
        fix = "has no material of these families: allow more elements, or other families"
        raise BadInput("prototypes.only", sorted(allowed & set(only or allowed))[:8], fix)
    return found


def crystal(material: Material, /) -> Crystal:
    """The cell of a material; a mixture is as large as its shares ask for (Vegard)."""
    family = material.family
    sized = _elements.recipes(family)[material.elements]
    if material.guest:
        other = _elements.recipes(family)[material.guest]
        mixed = [(1 - material.share) * p + material.share * q for p, q in zip(sized, other, strict=True)]
        sized = _elements.Sized(*mixed)
    lattice = np.diag([sized.a, sized.a, sized.c or sized.a])
    if family in HEXAGONAL:
        lattice[1, :2] = -sized.a / 2, sized.a * 0.75**0.5
    sites, places = _CELLS[family](sized)
    used = sorted(set(sites))
    single = used if len(material.elements) > 1 else used[:1]
    kinds = np.array([single.index(site if site in single else "a") for site in sites])
    mixes = tuple(_mix(material, index) for index in range(len(single)))
    layer = sized.c / LAYERS[family] if family in LAYERS else 0.0
    name = _formula(material, np.bincount(kinds))
    return Crystal(kinds, places @ lattice, lattice, mixes, family, name, layer, bond=sized.bond)


def glass(
    material: Material, size: tuple[float, float], rng: np.random.Generator, /, *, thickness: float
) -> Specimen:
    """Atoms without order at the density of the glass: strewn evenly, then pushed apart."""
    counts, density = _composition(material.elements, rng)
    box = np.array([thickness, *size])
    wanted = max(1, round(density * box.prod()))
    cells = np.maximum(1, np.round(box * density ** (1 / 3))).astype(int)
    spots = np.indices(cells).reshape(3, -1).T
    places = (spots + rng.uniform(0, 1, spots.shape)) / cells * box
    extra = rng.uniform(0, 1, (max(0, wanted - len(places)), 3)) * box
    places = rng.permutation(np.concatenate([places, extra]))[:wanted]
    share = np.array(list(counts.values())) / sum(counts.values())
    numbers = rng.choice([SYMBOLS.index(symbol) for symbol in counts], len(places), p=share)
    whole = (float(box[0]), float(box[1]), float(box[2]))
    name = "".join(f"{symbol}{number:.2g}" if number != 1 else symbol for symbol, number in counts.items())
    strewn = Specimen(numbers, places, whole, GLASS, name)
    return settled(_pushed(strewn, density), least=NEAR)


def _pushed(specimen: Specimen, density: float) -> Specimen:
    """Neighbours that are too close give way, a few times; like atoms of a compound keep off each other."""
    places, box = specimen.places, np.array(specimen.size)
    apart = 0.9 * density ** (-1 / 3)
    compound = (
        bool({"O", "N", "S", "Se", "Te"}.intersection(specimen.elements)) and len(specimen.elements) > 1
    )
    share = max(AWAY, apart / (2 * radii()[specimen.numbers].max())) if compound else AWAY
    for _ in range(PUSHES):
        pairs, distance, bond = close(replace(specimen, places=places), share)
        like = specimen.numbers[pairs[:, 0]] == specimen.numbers[pairs[:, 1]]
        least = np.where(like & compound, np.maximum(AWAY * bond, apart), AWAY * bond)
        short = np.flatnonzero(distance < least)
        first, second = pairs[short].T
        way = places[first] - places[second]
        way -= np.array([0, box[1], box[2]]) * np.round(way / box)
        push = (0.5 * (least[short] / np.maximum(distance[short], 1e-3) - 1))[:, None] * way
        push = np.clip(push, -0.6, 0.6)
        moved = [
            np.bincount(first, push[:, axis], len(places)) - np.bincount(second, push[:, axis], len(places))
            for axis in range(3)
        ]
        places = places + np.stack(moved, 1)
        depth = np.clip(places[:, :1], 0, box[0] * (1 - 1e-9))
        places = np.concatenate([depth, _wrapped(places[:, 1:], box[1:])], 1)
    return replace(specimen, places=places)


def _wrapped(places: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Into the half-open box; rounding may land on its end, which is its beginning."""
    inside = np.mod(places, box)
    return np.where(inside < box, inside, 0.0)


def _every(family: str) -> tuple[tuple[str, ...], ...]:
    return tuple(_glasses() if family == GLASS else _elements.recipes(family))


@lru_cache(maxsize=1)
def _glasses() -> dict[tuple[str, ...], tuple[dict[str, float], float]]:
    """Glasses by their elements, with counts of a formula and atoms per cubic angstrom; alloys have none."""
    masses, found = reference().atomic_masses, {}
    for formula, density in (item.split() for item in re.split(r",\s+", GLASSES)):
        counts = {symbol: float(n or 1) for symbol, n in re.findall(r"([A-Z][a-z]?)(\d*)", formula)}
        mass = sum(masses[SYMBOLS.index(symbol)] * n for symbol, n in counts.items())
        found[tuple(counts)] = counts, float(density) * 0.602214 * sum(counts.values()) / mass
    late, early = "Fe Co Ni Cu Pd Pt Ag Rh Ru", "Zr Hf Ti Nb Ta Y La Gd Al Mg W Mo"
    pairs = [*product(late.split(), early.split()), *product(late.split(), ["Si", "Ge"])]
    return {**{pair: ({}, 0.0) for pair in pairs}, **found}


def _composition(elements: tuple[str, ...], rng: np.random.Generator) -> tuple[dict[str, float], float]:
    """Shares of elements and atoms per cubic angstrom; an alloy is 3 % less dense than its packed metals."""
    counts, density = _glasses()[elements]
    if counts:
        return counts, density
    semiconductor = elements[1] in ("Si", "Ge")
    share = rng.uniform(0.12, 0.3) if semiconductor else rng.uniform(0.25, 0.7)
    radius = _elements.metals()
    volume = sum(
        part * (2 * radius[symbol]) ** 3 / 2**0.5
        for symbol, part in zip(elements, (1 - share, share), strict=True)
    )
    return dict(zip(elements, (1 - share, share), strict=True)), 0.97 / volume


def _mix(material: Material, index: int) -> dict[int, float]:
    host = SYMBOLS.index(material.elements[index])
    guest = SYMBOLS.index(material.guest[index]) if material.guest else host
    return {host: 1.0} if guest == host else {host: 1 - material.share, guest: material.share}


def _formula(material: Material, counts: np.ndarray) -> str:
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
