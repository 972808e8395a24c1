"""Materials to draw from: which crystals and glasses there are, and the atoms of a glass."""

import re
from dataclasses import replace
from functools import lru_cache
from itertools import product

import numpy as np

from phaseloom.errors import BadInput, nearest
from phaseloom.simulation.crystals import CRYSTAL_FAMILIES, Material, list_crystals
from phaseloom.simulation.elements import SYMBOLS, TABLES, covalent_radii, load_ase_data
from phaseloom.simulation.specimen_box import Specimen, find_close_pairs, remove_close_atoms

__all__ = ["FAMILIES", "GLASS", "build_glass", "draw_material", "select_materials"]

GLASS = "amorphous"

FAMILIES = tuple(sorted([GLASS, *CRYSTAL_FAMILIES]))
"""Families of materials that can be drawn."""

Choice = dict[str, tuple[tuple[str, ...], ...]]
"""Materials by family, each by the elements on its sites."""

SUBSTITUTION_PROBABILITY = 0.35
"""Share of draws in which a part of one element is replaced by another that fits."""

MAX_SIZE_MISMATCH = 0.06
"""Relative difference of the lattice constants of two materials that mix."""

PUSH_DISTANCE = 0.86
"""Share of a bond to which atoms of a glass push each other apart."""

MIN_DISTANCE_IN_GLASS = 0.72
"""Share of a bond below which one of two atoms of a glass is removed."""

MAX_PUSHES = 7
"""Times that atoms of a glass push each other."""


@lru_cache(maxsize=64)
def select_materials(
    families: tuple[str, ...] | None, only: tuple[str, ...] | None, without: tuple[str, ...], /
) -> Choice:
    """The materials of families that are made of some elements only, and of others not at all.

    Raises:
        BadInput: no such family or element, or nothing left.
    """
    if unknown := [family for family in families or () if family not in FAMILIES]:
        fix = nearest(unknown[0], FAMILIES)
        raise BadInput("prototypes.families", f"there is no '{unknown[0]}';", fix)
    for knob, symbols in (("only", only or ()), ("without", without)):
        if unknown := [symbol for symbol in symbols if symbol not in SYMBOLS[1:]]:
            raise BadInput(f"prototypes.{knob}", unknown[0], "is not an element: write symbols such as Sr")
    allowed = set(SYMBOLS if only is None else only) - set(without)
    found = {}
    for family in FAMILIES if families is None else families:
        every = _list_glasses() if family == GLASS else list_crystals(family)
        if elements := tuple(elements for elements in every if allowed.issuperset(elements)):
            found[family] = elements
    if not found:
        fix = "has no material of these families: allow more elements, or other families"
        raise BadInput("prototypes.only", sorted(allowed & set(only or allowed))[:8], fix)
    return found


def draw_material(choice: Choice, rng: np.random.Generator, /) -> Material:
    """A family, all equally likely, and a material of it, sometimes with a guest on one of its sites."""
    family = str(rng.choice(sorted(choice)))
    listed = choice[family]
    elements = listed[rng.integers(len(listed))]
    if family == GLASS or rng.uniform() > SUBSTITUTION_PROBABILITY:
        return Material(family, elements)
    size = list_crystals(family)
    fits = [
        other
        for other in listed
        if sum(a != b for a, b in zip(elements, other, strict=False)) == 1
        and len(other) == len(elements)
        and len({*other, *elements}) == len(elements) + 1
        and abs(size[other].a / size[elements].a - 1) < MAX_SIZE_MISMATCH
    ]
    if not fits:
        return Material(family, elements)
    return Material(family, elements, fits[rng.integers(len(fits))], float(rng.uniform(0.1, 0.5)))


def build_glass(
    material: Material, size: tuple[float, float], rng: np.random.Generator, /, *, thickness: float
) -> Specimen:
    """Atoms without order at the density of the glass: strewn evenly, then pushed apart."""
    counts, density = _draw_composition(material.elements, rng)
    box = np.array([thickness, *size])
    wanted = max(1, round(density * box.prod()))
    cells = np.maximum(1, np.round(box * density ** (1 / 3))).astype(int)
    spots = np.indices(cells).reshape(3, -1).T
    places = (spots + rng.uniform(0, 1, spots.shape)) / cells * box
    extra = rng.uniform(0, 1, (max(0, wanted - len(places)), 3)) * box
    places = rng.permutation(np.concatenate([places, extra]))[:wanted]
    share = np.array(list(counts.values())) / sum(counts.values())
    numbers = rng.choice([SYMBOLS.index(symbol) for symbol in counts], len(places), p=share)
    name = "".join(f"{symbol}{number:.2g}" if number != 1 else symbol for symbol, number in counts.items())
    strewn = Specimen(numbers, places, (thickness, size[0], size[1]), GLASS, name)
    return remove_close_atoms(_push_apart(strewn, density), least=MIN_DISTANCE_IN_GLASS)


def _push_apart(specimen: Specimen, density: float) -> Specimen:
    """Neighbours that are too close give way, a few times; like atoms of a compound keep off each other."""
    places = specimen.places
    box = np.array(specimen.size)
    apart = 0.9 * density ** (-1 / 3)
    anions = {"O", "N", "S", "Se", "Te"}.intersection(specimen.elements)
    compound = bool(anions) and len(specimen.elements) > 1
    share = PUSH_DISTANCE
    if compound:
        share = max(share, apart / (2 * covalent_radii()[specimen.numbers].max()))
    for _ in range(MAX_PUSHES):
        pairs, distance, bond = find_close_pairs(replace(specimen, places=places), share)
        like = specimen.numbers[pairs[:, 0]] == specimen.numbers[pairs[:, 1]]
        least = np.where(like & compound, np.maximum(PUSH_DISTANCE * bond, apart), PUSH_DISTANCE * bond)
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
        across = np.mod(places[:, 1:], box[1:])
        across = np.where(across < box[1:], across, 0.0)  # rounding may land on the end of the half-open box
        places = np.concatenate([depth, across], 1)
    return replace(specimen, places=places)


@lru_cache(maxsize=1)
def _list_glasses() -> dict[tuple[str, ...], tuple[dict[str, float], float]]:
    """Glasses by their elements, with counts of a formula and atoms per cubic angstrom; alloys have none."""
    alloys = TABLES.metallic_glasses
    pairs = [*product(alloys.late, alloys.early), *product(alloys.late, alloys.semiconductors)]
    glasses: dict[tuple[str, ...], tuple[dict[str, float], float]] = {pair: ({}, 0.0) for pair in pairs}
    masses = load_ase_data().atomic_masses
    for formula, density in TABLES.glasses.items():
        counts = {symbol: float(n or 1) for symbol, n in re.findall(r"([A-Z][a-z]?)(\d*)", formula)}
        mass = sum(masses[SYMBOLS.index(symbol)] * n for symbol, n in counts.items())
        atoms_per_angstrom3 = density * 0.602214 * sum(counts.values()) / mass  # Avogadro's number, 1e24
        glasses[tuple(counts)] = (counts, atoms_per_angstrom3)
    return glasses


def _draw_composition(elements: tuple[str, ...], rng: np.random.Generator) -> tuple[dict[str, float], float]:
    """Shares of elements and atoms per cubic angstrom; an alloy is 3 % less dense than its packed metals."""
    counts, density = _list_glasses()[elements]
    if counts:
        return counts, density
    semiconductor = elements[1] in TABLES.metallic_glasses.semiconductors
    share = rng.uniform(0.12, 0.3) if semiconductor else rng.uniform(0.25, 0.7)
    shares = dict(zip(elements, (1 - share, share), strict=True))
    radius = TABLES.metallic_radii
    volume = sum(part * (2 * radius[symbol]) ** 3 / 2**0.5 for symbol, part in shares.items())
    return shares, 0.97 / volume
