"""Radii of ions and metals, and which elements go together in the prototypes of `_crystals`."""

from collections.abc import Iterator
from functools import lru_cache
from itertools import product
from typing import NamedTuple

from phaseloom.simulation.specimen_box import SYMBOLS, radii, reference

__all__ = ["BONDS", "Sized", "covalent", "metals", "recipes"]

BONDS = (1.2, 3.6)
"""Angstrom: materials whose shortest bond lies outside are left out."""

IONS = {
    1: "Li .76 Na 1.02 K 1.38 Rb 1.52 Cs 1.67 Cu .77 Ag 1.15 Tl 1.50",
    2: """Mg .72 Ca 1.00 Sr 1.18 Ba 1.35 V .79 Mn .83 Fe .78 Co .745 Ni .69 Cu .73 Zn .74 Cd .95 Hg 1.02
    Sn 1.18 Pb 1.19 Eu 1.17 Yb 1.02""",
    3: """Al .535 Ga .62 In .80 Sc .745 Y .90 La 1.032 Ce 1.01 Pr .99 Nd .983 Sm .958 Gd .938 Tb .923 Dy .912
    Ho .901 Er .890 Tm .88 Lu .861 Ti .67 V .64 Cr .615 Mn .645 Fe .645 Co .61 Ni .60 Rh .665 Bi 1.03""",
    4: """Ge .53 Sn .69 Pb .775 Ti .605 Zr .72 Hf .71 V .58 Nb .68 Ta .68 Cr .55 Mo .65 W .66 Mn .53 Re .63
    Ru .62 Os .63 Ir .625 Pt .625 Rh .60 Ce .87 Pr .85 Tb .76 Th .94 U .89""",
    5: "V .54 Nb .64 Ta .64 Sb .60 Mo .61 W .62 Re .58",
    -1: "F 1.33 Cl 1.81 Br 1.96 I 2.20",
    -2: "O 1.40 S 1.84 Se 1.98 Te 2.21",
    -3: "N 1.46 P 1.93 As 2.03 Sb 2.22",
    -4: "C 1.55",
}
"""Radii by charge, six neighbours, angstrom (10.1107/S0567739476001551; pnictides and carbides from their
rocksalt crystals)."""

METALS = """Mg 1.60 Al 1.43 Sc 1.62 Ti 1.46 V 1.35 Cr 1.28 Mn 1.30 Fe 1.26 Co 1.25 Ni 1.25 Cu 1.28 Zn 1.37
Ga 1.38 Ge 1.32 Si 1.25 Y 1.80 Zr 1.60 Nb 1.46 Mo 1.39 Ru 1.34 Rh 1.34 Pd 1.37 Ag 1.44 Cd 1.52 Sn 1.55 La 1.87
Gd 1.80 Hf 1.58 Ta 1.46 W 1.39 Re 1.37 Os 1.35 Ir 1.36 Pt 1.39 Au 1.44 Pb 1.75"""
"""Metallic radii, twelve neighbours, angstrom."""

PRISMS = "Mo W Nb Ta"
"""Metals that sit in prisms of chalcogens; the others of `IONS` sit in octahedra."""


class Sized(NamedTuple):
    """Lattice constants and the shortest bond of a material, angstrom."""

    a: float
    c: float
    bond: float


Found = Iterator[tuple[tuple[str, ...], Sized]]


@lru_cache(maxsize=64)
def recipes(family: str, /) -> dict[tuple[str, ...], Sized]:
    """The materials of a crystalline family: elements in the order of its sites, with their sizes."""
    low, high = BONDS
    found: dict[tuple[str, ...], Sized] = {}
    for elements, sized in _FAMILIES[family]():
        if low <= sized.bond <= high and len(set(elements)) == len(elements):
            found.setdefault(elements, sized)
    return found


def metals() -> dict[str, float]:
    """Metallic radii by symbol, angstrom."""
    return _table(METALS)


def covalent(*symbols: str) -> float:
    """Sum of the covalent radii, angstrom."""
    return float(sum(radii()[SYMBOLS.index(symbol)] for symbol in symbols))


@lru_cache(maxsize=64)
def _table(text: str) -> dict[str, float]:
    words = text.split()
    return {symbol: float(radius) for symbol, radius in zip(words[::2], words[1::2], strict=True)}


def _ions(*charges: int) -> Iterator[tuple[tuple[str, ...], tuple[float, ...]]]:
    """Symbols and radii of every choice of one ion of each charge."""
    for chosen in product(*(_table(IONS[charge]).items() for charge in charges)):
        yield tuple(symbol for symbol, _ in chosen), tuple(radius for _, radius in chosen)


def _known(symmetry: str, bond: float) -> Found:
    """Elements with their measured constants; noble gases are no solids to look at."""
    gases, chains = ("Ne", "Ar", "Kr", "Xe", "Rn"), ("Se", "Te")
    for symbol, state in zip(SYMBOLS, reference().reference_states, strict=False):
        if state and state.get("symmetry") == symmetry and symbol not in (*gases, *chains, "Ac", "Tc"):
            a = float(state["a"])
            yield (symbol,), Sized(a, a * float(state.get("c/a", 1.0)), a * bond)


def _rocksalt() -> Found:
    for charge in (1, 2, 3, 4):
        for pair, (small, large) in _ions(charge, -charge):
            if 0.38 < small / large < 1.1 and not (charge == 4 and pair[0] in ("Ce", "Pr", "Tb", "Pb", "Sn")):
                yield pair, Sized(2 * (small + large), 0, small + large)


def _cesiumchloride() -> Found:
    for pair, (small, large) in _ions(1, -1):
        if small / large > 0.7:
            bond = small + 0.1 + large
            yield pair, Sized(bond * 2 / 3**0.5, 0, bond)
    for (one, r), (two, s) in product(metals().items(), repeat=2):
        if one < two and 0.75 < r / s < 1.34:
            bond = 0.95 * (r + s)
            yield (one, two), Sized(bond * 2 / 3**0.5, 0, bond)


def _tetrahedral() -> Iterator[tuple[tuple[str, str], float]]:
    """Compounds of eight electrons a pair, with their bonds."""
    groups = [("B Al Ga In", "N P As Sb"), ("Be Mg Zn Cd Hg Mn", "O S Se Te")]
    groups += [("Cu Ag", "Cl Br I"), ("Si Ge Sn", "C")]
    for cations, anions in groups:
        for one, two in product(cations.split(), anions.split()):
            yield (one, two), 1.015 * covalent(one, two)


def _zincblende() -> Found:
    return ((pair, Sized(bond * 4 / 3**0.5, 0, bond)) for pair, bond in _tetrahedral())


def _wurtzite() -> Found:
    return ((pair, Sized(bond * (8 / 3) ** 0.5, bond * 8 / 3, bond)) for pair, bond in _tetrahedral())


def _fluorite() -> Found:
    """Eight neighbours widen a cation by 0.08 angstrom, four make it smaller by 0.1."""
    for pair, (small, large) in [*_ions(2, -1), *_ions(4, -2)]:
        if small / large > 0.5:
            bond = small + 0.08 + large
            yield pair, Sized(bond * 4 / 3**0.5, 0, bond)
    for (cation, anion), (small, large) in _ions(1, -2):
        if small / large < 0.8:
            bond = small - 0.1 + large
            yield (anion, cation), Sized(bond * 4 / 3**0.5, 0, bond)


def _rutile() -> Found:
    for pair, (small, large) in [*_ions(4, -2), *_ions(2, -1)]:
        if pair[1] in ("O", "F") and 0.36 < small / large < 0.64:
            bond = 0.978 * (small + large)
            yield pair, Sized(2.344 * bond, 1.51 * bond, bond)


def _perovskite() -> Found:
    """Goldschmidt's tolerance says which exist; the cell is between what its two cations want."""
    for charges in ((1, 5, -2), (2, 4, -2), (3, 3, -2), (1, 2, -1)):
        for elements, (first, second, anion) in _ions(*charges):
            along, across = 2 * (second + anion), 2**0.5 * (first + 0.26 + anion)
            if 0.86 < across / along < 1.07 and 0.3 < second / anion < 0.8:
                a = 0.973 * (along + across) / 2
                yield elements, Sized(a, 0, a / 2)


def _spinel() -> Found:
    """The first cation has four neighbours, the second six: the cell is what both bonds ask for."""
    for elements, (four, six, anion) in _ions(2, 3, -2):
        if elements[2] != "Te" and 0.35 < four / anion < 0.62 and 0.3 < six / anion < 0.6:
            bond = four - 0.15 + anion
            yield elements, Sized(8 / 27**0.5 * bond + 8 / 3 * (six + anion), 0, bond)


def _prisms() -> Found:
    for pair, (small, large) in _ions(4, -2):
        if pair[0] in PRISMS.split() and pair[1] != "O":
            bond = 0.975 * (small + large)
            yield pair, Sized(1.31 * bond, 2 * (1.31 * bond + 2.95), bond)


def _sheets() -> Found:
    """Octahedra that share edges: a layer of a dichalcogenide or of a dihalide."""
    for pair, (small, large) in [*_ions(4, -2), *_ions(2, -1)]:
        if pair[0] not in PRISMS.split() and pair[1] not in ("O", "F") and 0.25 < small / large < 0.6:
            bond = small + large
            yield pair, Sized(2**0.5 * bond, 2 / 3**0.5 * bond + 2.95, bond)


def _honeycomb() -> Found:
    """Flat sheets of threefold bonds, 6 % shorter than fourfold ones."""
    pairs = ["C C", "B N", "B P", "B As", "Al N", "Ga N", "In N", "Si C", "Ge C", "Be O", "Zn O", "Mg O"]
    for one, two in (pair.split() for pair in pairs):
        bond = 0.94 * covalent(one, two)
        yield (one, two) if one != two else (one,), Sized(3**0.5 * bond, 6.7, bond)


def _l12() -> Found:
    for (one, r), (two, s) in product(metals().items(), repeat=2):
        if one != two and 0.8 < r / s < 1.25:
            bond = (r + 3 * s) / 2
            yield (one, two), Sized(2**0.5 * bond, 0, bond)


def _heusler() -> Found:
    """The first element has eight neighbours, half of them of each of the others."""
    radius = metals()
    sites = ("Fe Co Ni Cu Pd Ru Rh", "Ti V Cr Mn Zr Nb Hf Sc", "Al Ga Si Ge Sn")
    for elements in product(*(symbols.split() for symbols in sites)):
        bond = 0.97 * (radius[elements[0]] + (radius[elements[1]] + radius[elements[2]]) / 2)
        yield elements, Sized(bond * 4 / 3**0.5, 0, bond)


_FAMILIES = {
    "bcc": lambda: _known("bcc", 0.75**0.5),
    "cdi2": _sheets,
    "cesiumchloride": _cesiumchloride,
    "diamond": lambda: _known("diamond", 0.1875**0.5),
    "fcc": lambda: _known("fcc", 0.5**0.5),
    "fluorite": _fluorite,
    "hcp": lambda: _known("hcp", 0.985),
    "heusler": _heusler,
    "honeycomb": _honeycomb,
    "l12": _l12,
    "mx2": _prisms,
    "perovskite": _perovskite,
    "rocksalt": _rocksalt,
    "rutile": _rutile,
    "spinel": _spinel,
    "wurtzite": _wurtzite,
    "zincblende": _zincblende,
}
"""How the materials of each family are found."""
