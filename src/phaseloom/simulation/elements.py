"""Tables of elements and ions, from ``materials.yaml`` and ASE."""

from functools import lru_cache
from importlib.resources import files
from types import ModuleType
from typing import Annotated

import numpy as np
import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, PositiveFloat

from phaseloom.errors import MissingExtra

__all__ = ["SYMBOLS", "TABLES", "add_covalent_radii", "covalent_radii", "load_ase_data"]


def _require_symbol(symbol: str) -> str:
    if symbol not in SYMBOLS:
        raise ValueError(f"{symbol} is not the symbol of an element")
    return symbol


Symbol = Annotated[str, AfterValidator(_require_symbol)]
Symbols = tuple[Symbol, ...]
Radii = dict[Symbol, PositiveFloat]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CellTable(_Strict):
    """Sites of a cell, one letter for each atom, and places (x, y, z) as fractions of the cell."""

    sites: str
    places: tuple[str, ...]
    face_centred: bool = False


class MetallicGlasses(_Strict):
    """Elements of which each of the first goes with each of the others."""

    late: Symbols
    early: Symbols
    semiconductors: Symbols


class Tables(_Strict):
    """What ``materials.yaml`` holds; its comments explain the tables."""

    ionic_radii: dict[int, Radii]
    metallic_radii: Radii
    glasses: dict[str, PositiveFloat]
    metallic_glasses: MetallicGlasses
    prismatic: Symbols
    tetrahedral: tuple[tuple[Symbols, Symbols], ...]
    honeycomb: tuple[Symbols, ...]
    heusler: tuple[Symbols, Symbols, Symbols]
    cells: dict[str, CellTable]


_tree = yaml.safe_load(files("phaseloom.simulation").joinpath("materials.yaml").read_text("utf-8"))

SYMBOLS: tuple[str, ...] = tuple(_tree.pop("symbols").split())
"""Symbols of the elements by atomic number; the first stands for none."""

TABLES = Tables.model_validate(_tree)


def load_ase_data() -> ModuleType:
    """ASE's tables of the elements.

    Raises:
        MissingExtra: ASE is not installed.
    """
    try:
        import ase.data
    except ImportError:
        raise MissingExtra("specimens", "ase", "simulate") from None
    return ase.data


@lru_cache(maxsize=1)
def covalent_radii() -> np.ndarray:
    """Covalent radii by atomic number, angstrom (10.1039/b801115j)."""
    return np.asarray(load_ase_data().covalent_radii, np.float64)


def add_covalent_radii(*symbols: str) -> float:
    """Sum of the covalent radii, angstrom."""
    return float(sum(covalent_radii()[SYMBOLS.index(symbol)] for symbol in symbols))
