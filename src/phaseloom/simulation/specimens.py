"""Atoms to look at: crystals and glasses of many families, folders of CIF files, files of materials.

Each function fills a box ``size`` = (y, x) that is periodic across the beam and gives a `Specimen`.
Besides them there are `cut_box` and `remove_close_atoms`, which fill a box with a crystal of one's own, and
`is_held_out`, which splits materials into those for training and those for evaluation.
"""

import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from phaseloom.errors import BadInput, nearest
from phaseloom.simulation.crystal_orientation import Axes, Placement, add_defects, join_grains, place_crystal
from phaseloom.simulation.crystals import Material, build_crystal
from phaseloom.simulation.elements import SYMBOLS, load_ase_data
from phaseloom.simulation.materials import (
    FAMILIES,
    GLASS,
    Choice,
    build_glass,
    draw_material,
    select_materials,
)
from phaseloom.simulation.specimen_box import Crystal, Specimen, is_held_out, name_group
from phaseloom.simulation.specimen_box import cut_box as cut_box  # noqa: PLC0414 - public here too
from phaseloom.simulation.specimen_box import remove_close_atoms as remove_close_atoms  # noqa: PLC0414
from phaseloom.units import Angle, Length

__all__ = ["FAMILIES", "Specimen", "cif", "materials", "prototypes"]

Part = Literal["all", "train", "held out"]

MIN_DISTANCE_AT_SEAMS = 0.7
"""Share of a bond that atoms of prototypes keep at grain boundaries and periodic faces."""

MAX_DRAWS = 3000
"""Draws until a material on the wanted side of a split is found, before giving up."""

MIN_BOX = 8.0
"""Angstrom: in a smaller periodic box an atom may be the neighbour of its own image."""


def prototypes(  # noqa: PLR0913 - a specimen has as many properties
    size: tuple[float, float],
    rng: np.random.Generator,
    /,
    *,
    families: list[str] | None = None,
    thickness: tuple[Length, Length] = (4.0, 16.0),
    vacancies: float = 0.02,
    tilt: Angle = 0.05,
    edges: float = 0.3,
    grains: float = 0.2,
    axes: Literal["low index", "mixed", "random"] = "mixed",
    only: list[str] | None = None,
    without: list[str] | None = None,
    part: Part = "all",
    share: float = 0.15,
) -> Specimen:
    """A crystal or glass of thousands of materials, as it may lie in a microscope.

    Lattice constants are measured ones for elements, else follow from radii of ions, metals or covalent
    bonds, good to a few percent. Some materials are mixtures (Vegard's law), some have grains.

    Args:
        size: of the box (y, x), angstrom.
        rng: what is drawn comes from here.
        families: of `FAMILIES`, all equally likely; none allows every one.
        thickness: smallest and largest, along the beam.
        vacancies: the largest share of atoms that are missing; each specimen has a share of its own.
        tilt: the largest angle between a crystal's axis and the beam.
        edges: how often vacuum is in view: beside a half plane, in a hole, or around a particle.
        grains: how often a crystal has a grain boundary; a third of these join two materials.
        axes: directions of the crystal along the beam: simple ones, any, or ``mixed``, 70 % simple.
        only: symbols of the elements that may occur; none allows all.
        without: symbols of elements that must not occur.
        part: ``train`` and ``held out`` keep to their side of `is_held_out`, and so do both ends of a
            mixture and both sides of a boundary.
        share: of groups of materials that are held out.

    Raises:
        BadInput: no such family or element, no material that fits all wishes, or a box below 8 angstrom.
        MissingExtra: ASE is not installed.

    Example:
        >>> rng, elements = np.random.default_rng(3), ["Sr", "Ti", "O"]
        >>> specimen = prototypes((40.0, 30.0), rng, families=["perovskite"], only=elements)
        >>> specimen.group, specimen.size[1:]
        ('perovskite:O-Sr-Ti', (40.0, 30.0))
    """
    how = Placement("prototypes", thickness, axes, tilt, vacancies, edges, MIN_DISTANCE_AT_SEAMS)
    box = _require_box(size, "prototypes.size")
    for knob, value in (("share", share), ("grains", grains)):
        if not 0 <= value <= 1:
            raise BadInput(f"prototypes.{knob}", value, "must lie between 0 and 1")
    choice = select_materials(_to_tuple(families), _to_tuple(only), _to_tuple(without) or ())
    specimen = None
    while specimen is None or not _is_on_side((specimen.group,), part, share):
        material = _draw_material_on_side(choice, rng, part, share)
        depth = how.depth(rng)
        specimen = _build_specimen(material, box, rng, how, depth)
        if material.family != GLASS and rng.uniform() < grains:
            other = _draw_neighbour(material, choice, rng, part, share)
            floor = MIN_DISTANCE_AT_SEAMS * min(build_crystal(grain).bond for grain in (material, other))
            second = _build_specimen(other, box, rng, how, depth)
            specimen = join_grains(specimen, second, rng, least=MIN_DISTANCE_AT_SEAMS, floor=floor)
        specimen = add_defects(specimen, rng, how)
    return specimen


def cif(
    size: tuple[float, float],
    rng: np.random.Generator,
    /,
    *,
    folder: Path,
    thickness: tuple[Length, Length] = (4.0, 16.0),
    vacancies: float = 0.0,
    tilt: Angle = 0.05,
    edges: float = 0.0,
    axes: Axes = "mixed",
) -> Specimen:
    """A crystal of a folder's CIF files, each as likely as any other.

    On sites of partial occupancy each atom is drawn by itself, so that mixed crystals are random ones;
    of places too close to be occupied at once, one is left.

    Args:
        size: of the box (y, x), angstrom.
        rng: what is drawn comes from here.
        folder: with files ``*.cif``; other files in it, and folders, are not looked at.
        thickness: smallest and largest, along the beam.
        vacancies: the largest share of atoms that are missing.
        tilt: the largest angle between a crystal's axis and the beam; nothing is tilted ``as given``.
        edges: how often vacuum is in view.
        axes: see `prototypes`; ``as given`` leaves the file's Cartesian z along the beam.

    Raises:
        BadInput: no such folder, none of these files in it, or one that cannot be read, by its name.
        MissingExtra: ASE is not installed.
    """
    how = Placement("cif", thickness, axes, tilt if axes != "as given" else 0.0, vacancies, edges)
    box = _require_box(size, "cif.size")
    folder = Path(folder)
    if not folder.is_dir():
        raise BadInput("cif.folder", str(folder), "is not a folder: name one with .cif files")
    paths = _list_cif(folder, folder.stat().st_mtime_ns)
    if not paths:
        raise BadInput("cif.folder", str(folder), "holds no .cif file: name another folder")
    path = paths[rng.integers(len(paths))]
    crystal = _read_cif(path, path.stat().st_mtime_ns)
    return add_defects(place_crystal(crystal, box, rng, how, how.depth(rng)), rng, how)


def materials(  # noqa: PLR0913 - a specimen has as many properties
    size: tuple[float, float],
    rng: np.random.Generator,
    /,
    *,
    path: Path,
    crystal_type: str | None = None,
    start: int = 0,
    stop: int | None = None,
    thickness: tuple[Length, Length] = (10.0, 20.0),
    vacancies: float = 0.0,
    tilt: Angle = 0.0,
    edges: float = 0.0,
    axes: Axes = "as given",
) -> Specimen:
    """A crystal of an HDF5 file of materials, each as likely as any other.

    The file holds ``{crystal_type}/materials/{key}/`` with ``cart_coords`` (atom, 3) and
    ``lattice_matrix`` (3, 3) in angstrom, (x, y, z), ``atomic_numbers``, and if need be ``pbc`` and
    ``material_id``.

    Args:
        size: of the box (y, x), angstrom.
        rng: what is drawn comes from here.
        path: of the file.
        crystal_type: name of a group at the file's root; none draws from all of them.
        start: first of the sorted keys of each crystal type, counted from zero.
        stop: the first one that is not taken any more; none takes all that follow.
        thickness: smallest and largest, along the beam.
        vacancies: the largest share of atoms that are missing.
        tilt: the largest angle between a crystal's axis and the beam; nothing is tilted ``as given``.
        edges: how often vacuum is in view.
        axes: ``as given`` leaves the file's Cartesian z along the beam and its origin in the box's
            corner; for the others see `prototypes`.

    Raises:
        BadInput: a file, crystal type or material that is missing, incomplete or cannot be read.
        MissingExtra: ASE is not installed.
    """
    how = Placement("materials", thickness, axes, tilt if axes != "as given" else 0.0, vacancies, edges)
    box = _require_box(size, "materials.size")
    path = Path(path)
    if not path.is_file():
        raise BadInput("materials.path", str(path), "is not a file: name the HDF5 file of materials")
    keys = _list_keys(path, path.stat().st_mtime_ns, crystal_type)
    kept = [(kind, key) for kind, names in keys for key in names[start:stop]]
    if start < 0 or not kept:
        longest = max(len(names) for _, names in keys)
        raise BadInput("materials.start", start, f"to {stop} is not a range of up to {longest} materials")
    crystal = _read_material(path, *kept[rng.integers(len(kept))])
    return add_defects(place_crystal(crystal, box, rng, how, how.depth(rng)), rng, how)


def _build_specimen(
    material: Material,
    size: tuple[float, float],
    rng: np.random.Generator,
    how: Placement,
    depth: float,
) -> Specimen:
    if material.family == GLASS:
        return build_glass(material, size, rng, thickness=depth)
    return place_crystal(build_crystal(material), size, rng, how, depth)


def _draw_material_on_side(choice: Choice, rng: np.random.Generator, part: Part, share: float) -> Material:
    """A material on the wanted side of the split: nothing is built before it is decided."""
    for _ in range(MAX_DRAWS):
        material = draw_material(choice, rng)
        if _is_on_side(material.groups, part, share):
            return material
    fix = "has no material of these families and elements: allow more of them, or change share"
    raise BadInput("prototypes.part", part, fix)


def _draw_neighbour(
    material: Material, choice: Choice, rng: np.random.Generator, part: Part, share: float
) -> Material:
    """The material of a second grain: the same, or now and then another one of the same side."""
    if rng.uniform() > 1 / 3:
        return material
    crystals = {family: elements for family, elements in choice.items() if family != GLASS}
    for _ in range(MAX_DRAWS // 10):
        other = draw_material(crystals, rng)
        families = dict.fromkeys([material.family, other.family])
        union = {*material.elements, *material.guest, *other.elements, *other.guest}
        both = name_group("+".join(families), tuple(union))
        if _is_on_side((*other.groups, both), part, share):
            return other
    return material


def _is_on_side(groups: tuple[str, ...], part: Part, share: float) -> bool:
    return part == "all" or all(is_held_out(group, share) == (part == "held out") for group in groups)


def _to_tuple(names: list[str] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(names)


def _require_box(size: tuple[float, float], place: str) -> tuple[float, float]:
    y = float(size[0])
    x = float(size[1])
    if not (min(y, x) >= MIN_BOX and max(y, x) < float("inf")):
        raise BadInput(place, (y, x), f"must be at least {MIN_BOX:g} angstrom in y and x")
    return y, x


@lru_cache(maxsize=16)
def _list_cif(folder: Path, changed: int) -> list[Path]:
    """The CIF files of a folder, remembered until some come or go."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() == ".cif")


@lru_cache(maxsize=4096)
def _read_cif(path: Path, changed: int) -> Crystal:
    """A crystal from a file, remembered until the file is ``changed``."""
    load_ase_data()
    import ase.io

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            atoms: Any = ase.io.read(path, format="cif")
        lattice = np.asarray(atoms.cell)
        positions = atoms.get_positions()
        numbers = atoms.get_atomic_numbers()
        occupancy = atoms.info.get("occupancy")
        kinds, mixes = _mix_sites(numbers, atoms.arrays.get("spacegroup_kinds"), occupancy)
    except Exception as problem:  # whatever a reader says of a file that it does not understand
        fix = f"cannot be read ({type(problem).__name__}: {problem}): mend it, or move it elsewhere"
        raise BadInput(f"cif.folder: {path.name}", None, " ".join(fix.split())) from problem
    if not len(numbers) or not abs(np.linalg.det(lattice)) > 1e-3:
        fix = "has no atoms or no cell: mend it, or move it elsewhere"
        raise BadInput(f"cif.folder: {path.name}", None, fix)
    name = atoms.get_chemical_formula("metal", empirical=True)
    return Crystal(kinds, positions, lattice, mixes, path.stem, name)


def _mix_sites(
    numbers: np.ndarray, sites: np.ndarray | None, occupancy: dict[str, dict[str, float]] | None
) -> tuple[np.ndarray, tuple[dict[int, float], ...]]:
    """Kinds of atoms and what is on them: by element, or where sites are shared by site."""
    if occupancy is None or sites is None:
        found, kinds = np.unique(numbers, return_inverse=True)
        return kinds, tuple({int(number): 1.0} for number in found)
    found, kinds = np.unique(sites, return_inverse=True)
    shares = [occupancy[str(site)] for site in found]
    return kinds, tuple({SYMBOLS.index(symbol): float(s) for symbol, s in mix.items()} for mix in shares)


@lru_cache(maxsize=16)
def _list_keys(path: Path, changed: int, crystal_type: str | None) -> list[tuple[str, list[str]]]:
    """Crystal types with the keys of their materials, remembered until the file is ``changed``."""
    import h5py

    with _open_materials(path) as file:
        groups = [kind for kind, node in file.items() if isinstance(node, h5py.Group)]
        kinds = [kind for kind in groups if isinstance(file[kind].get("materials"), h5py.Group)]
        if not kinds:
            fix = "holds no {crystal type}/materials: is it another file?"
            raise BadInput("materials.path", path.name, fix)
        if crystal_type is not None and crystal_type not in kinds:
            fix = nearest(crystal_type, kinds)
            raise BadInput("materials.crystal_type", f"there is no '{crystal_type}';", fix)
        chosen = kinds if crystal_type is None else [crystal_type]
        return [(kind, sorted(file[kind]["materials"])) for kind in chosen]


def _read_material(path: Path, kind: str, key: str) -> Crystal:
    place = f"materials.path: {path.name}: {kind}/materials/{key}"
    with _open_materials(path) as file:
        node = file[kind]["materials"][key]
        wanted = ("cart_coords", "lattice_matrix", "atomic_numbers")
        missing = [name for name in wanted if name not in node]
        if missing:
            fix = f"has no {missing[0]}: mend the file, or leave it out by start and stop"
            raise BadInput(place, None, fix)
        positions, lattice, numbers = (np.asarray(node[name][()]) for name in wanted)
        periodic = np.broadcast_to(node["pbc"][()] if "pbc" in node else True, 3)
        label = node["material_id"][()] if "material_id" in node else key
    known = numbers.ndim == 1 and len(numbers) and numbers.min() > 0 and numbers.max() < len(SYMBOLS)
    if not known or positions.shape != (len(numbers), 3) or lattice.shape != (3, 3):
        fix = f"has {numbers.shape} numbers, {positions.shape} places, {lattice.shape} lattice: mend it"
        raise BadInput(place, None, fix)
    kinds, mixes = _mix_sites(numbers.astype(int), None, None)
    along = (bool(periodic[0]), bool(periodic[1]), bool(periodic[2]))
    name = label.decode() if isinstance(label, bytes) else str(label)
    crystal = Crystal(kinds, positions, lattice, mixes, kind, name, periodic=along)
    if not abs(np.linalg.det(lattice)) > 1e-3:
        raise BadInput(place, None, "has a cell without volume: mend it")
    return crystal


def _open_materials(path: Path) -> Any:
    import h5py

    try:
        return h5py.File(path, "r")
    except OSError as problem:
        raise BadInput("materials.path", path.name, "cannot be read as HDF5: is it whole?") from problem
