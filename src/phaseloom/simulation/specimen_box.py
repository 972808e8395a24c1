"""Atoms in a box: what is cut from a crystal, what lies too close, and which side of a split it is on."""

import hashlib
import itertools
from dataclasses import dataclass, replace

import numpy as np

from phaseloom.errors import BadInput
from phaseloom.simulation.elements import SYMBOLS, covalent_radii

__all__ = [
    "Crystal",
    "Specimen",
    "cut_box",
    "fill_elements",
    "find_close_pairs",
    "is_held_out",
    "name_group",
    "remove_close_atoms",
]

MIN_DISTANCE = 0.6
"""Atoms may come this near to each other: a share of the sum of their covalent radii."""

FACE_TOLERANCE = 1e-6
"""Angstrom: an atom as little below a face lies on it, for a sum of cells is not exact in floating point."""


@dataclass(frozen=True)
class Specimen:
    """Atoms in a box that is periodic across the beam.

    Attributes:
        numbers: ``(atom,)`` whole numbers, atomic numbers.
        places: ``(atom, 3)`` (z, y, x), angstrom; z runs along the beam. The box is half open: no atom at
            its far faces, so that none is counted twice.
        size: of the box, (z, y, x), angstrom.
        family: prototype, or whatever the source calls the kind of crystal.
        name: of the material, its formula or what the source calls it.

    Example:
        >>> salt = Specimen(np.array([11, 17]), np.zeros((2, 3)), (4.0, 9.0, 9.0), "rocksalt", "NaCl")
        >>> salt.group, salt.thickness
        ('rocksalt:Cl-Na', 4.0)
    """

    numbers: np.ndarray
    places: np.ndarray
    size: tuple[float, float, float]
    family: str = ""
    name: str = ""

    @property
    def elements(self) -> tuple[str, ...]:
        """Symbols of the elements in the box, sorted."""
        return tuple(sorted(SYMBOLS[number] for number in np.unique(self.numbers)))

    @property
    def thickness(self) -> float:
        """Along the beam, angstrom."""
        return self.size[0]

    @property
    def group(self) -> str:
        """Family and elements: what keeps training and test apart, see `is_held_out`."""
        return name_group(self.family, self.elements)

    def select_atoms(self, keep: np.ndarray, /) -> "Specimen":
        """The atoms of a mask, or of a list of indices, in the same box."""
        return replace(self, numbers=self.numbers[keep], places=self.places[keep])


@dataclass(frozen=True)
class Crystal:
    """A cell that repeats, in its source's own Cartesian axes (x, y, z).

    Attributes:
        kinds: ``(atom,)`` which of the ``mixes`` is at each place.
        positions: ``(atom, 3)`` (x, y, z), angstrom.
        lattice: rows are the vectors of the cell, (x, y, z), angstrom.
        mixes: for each kind atomic numbers and their shares; where the shares add to less than one, the
            rest of the places is empty.
        family, name: see `Specimen`.
        layer: distance of the layers along the third vector of the cell, angstrom, where there are layers
            that hold together only weakly; zero elsewhere. No layer crosses the faces of the cell.
        periodic: along each vector of the cell.
        bond: the shortest one, angstrom, where it is known.
    """

    kinds: np.ndarray
    positions: np.ndarray
    lattice: np.ndarray
    mixes: tuple[dict[int, float], ...]
    family: str
    name: str
    layer: float = 0.0
    periodic: tuple[bool, bool, bool] = (True, True, True)
    bond: float = 0.0


def name_group(family: str, elements: tuple[str, ...], /) -> str:
    """The name of a group of materials: ``perovskite:O-Sr-Ti``."""
    return f"{family}:{'-'.join(sorted(elements))}"


def is_held_out(group: str, share: float, /, seed: int = 0) -> bool:
    """Whether a group of materials is kept away from training: the same answer on every machine and day.

    Args:
        group: of a specimen.
        share: of all groups that is held out.
        seed: of another division.

    Example:
        >>> sum(is_held_out(f"perovskite:{n}", 0.15) for n in range(2000)) / 2000
        0.157
    """
    digest = hashlib.blake2b(f"{seed}:{group}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def cut_box(
    numbers: np.ndarray,
    positions: np.ndarray,
    lattice: np.ndarray,
    size: tuple[float, float],
    /,
    *,
    thickness: float,
    rotation: np.ndarray | None = None,
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0),
    periodic: tuple[bool, bool, bool] = (True, True, True),
) -> Specimen:
    """Fill a box with a turned crystal: half open, so that no atom is counted twice at a face.

    A crystal that repeats an exact number of times keeps exactly its atoms; any other does not match
    itself at the faces across the beam, see `remove_close_atoms`.

    Args:
        numbers: ``(atom,)`` of a cell.
        positions: ``(atom, 3)`` Cartesian (x, y, z) as crystal files have them, angstrom.
        lattice: rows are the vectors of the cell, (x, y, z), angstrom.
        size: of the box (y, x), angstrom.
        thickness: of the box along z, the beam, angstrom.
        rotation: ``(3, 3)``, applied to (x, y, z); none leaves the crystal as it is.
        shift: of the turned crystal, (z, y, x), angstrom.
        periodic: along which vectors of the cell it repeats.

    Raises:
        BadInput: a cell without a volume, arrays that do not go together, or a box without extent.

    Example:
        >>> iron = np.array([[0.0, 0, 0], [1.435, 1.435, 1.435]])
        >>> len(cut_box(np.array([26, 26]), iron, 2.87 * np.eye(3), (28.7, 28.7), thickness=5.74).numbers)
        400
    """
    numbers = np.asarray(numbers)
    positions = np.asarray(positions, np.float64)
    lattice = np.asarray(lattice, np.float64)
    box = np.array([thickness, *size], np.float64)
    if not (np.isfinite(box).all() and (box > 0).all()):
        raise BadInput("cut_box.size", (thickness, *size), "must be three positive lengths (z, y, x)")
    if positions.shape != (len(numbers), 3) or not np.isfinite(positions).all():
        raise BadInput("cut_box.positions", positions.shape, f"must be (x, y, z) of {len(numbers)} atoms")
    if lattice.shape != (3, 3) or not abs(np.linalg.det(lattice)) > 1e-3:
        raise BadInput("cut_box.lattice", lattice.tolist(), "has no volume: give three vectors (x, y, z)")
    turn = (np.eye(3) if rotation is None else np.asarray(rotation, np.float64)).T
    basis = (positions @ turn)[:, ::-1] + np.asarray(shift)
    origins = _find_cell_origins((lattice @ turn)[:, ::-1], basis, box, periodic)
    places = (origins[:, None] + basis).reshape(-1, 3)
    inside = ((places >= -FACE_TOLERANCE) & (places < box - FACE_TOLERANCE)).all(1)
    whole = (float(box[0]), float(box[1]), float(box[2]))
    return Specimen(np.tile(numbers, len(origins))[inside], np.maximum(places[inside], 0.0), whole)


def remove_close_atoms(specimen: Specimen, /, *, least: float = MIN_DISTANCE, floor: float = 0.0) -> Specimen:
    """One atom of each pair that is too close is gone, also across the faces that are periodic.

    Args:
        specimen: any.
        least: share of the sum of two covalent radii (10.1039/b801115j) that a pair keeps at least.
        floor: angstrom that any pair keeps, whatever its elements: like ions do not come as close as the sum
            of their radii.

    Raises:
        BadInput: a box so small that an atom would be near its own image.

    Example:
        >>> pair = Specimen(np.array([6, 6, 6]), np.array([[0, 0, 0], [0, 0, 8.5], [1, 4, 4]]), (2, 9, 9))
        >>> remove_close_atoms(pair).places.tolist()
        [[0.0, 0.0, 0.0], [1.0, 4.0, 4.0]]
    """
    pairs, distance, expected = find_close_pairs(specimen, least, floor)
    keep = np.ones(len(specimen.numbers), bool)
    near = pairs[distance < np.maximum(least * expected, floor)]
    for first, second in near[np.lexsort((near[:, 1], near[:, 0]))].tolist():
        if keep[first] and keep[second]:
            keep[second] = False
    return specimen if keep.all() else specimen.select_atoms(keep)


def find_close_pairs(
    specimen: Specimen, share: float, floor: float = 0.0, /
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Neighbours across periodic faces, no farther than ``share`` of the longest bond, or than ``floor``.

    Returns:
        Pairs ``(n, 2)``, their distances ``(n,)`` and the sums of their covalent radii ``(n,)``, angstrom.

    Raises:
        BadInput: a box smaller across the beam than twice that.
    """
    from scipy.spatial import KDTree

    if not len(specimen.numbers):
        return np.zeros((0, 2), np.int64), np.zeros(0), np.zeros(0)
    radius = covalent_radii()[specimen.numbers]
    reach = max(2 * share * float(radius.max()), floor)
    size = np.array(specimen.size)
    if min(size[1:]) <= 2 * reach:
        fix = f"is too small a box for its atoms: give more than {2 * reach:.1f} angstrom in y and x"
        raise BadInput("specimen.size", (float(size[1]), float(size[2])), fix)
    around = np.array([size[0] + 2 * reach + 1, size[1], size[2]])
    tree = KDTree(specimen.places, boxsize=around)
    pairs = tree.query_pairs(reach, output_type="ndarray")
    apart = specimen.places[pairs[:, 0]] - specimen.places[pairs[:, 1]]
    apart -= around * np.round(apart / around)
    return pairs, np.linalg.norm(apart, axis=1), radius[pairs].sum(1)


def fill_elements(specimen: Specimen, crystal: Crystal, rng: np.random.Generator, /) -> Specimen:
    """The elements of a box that was cut with kinds in place of atomic numbers, drawn by their shares."""
    numbers = np.zeros(len(specimen.numbers), np.int64)
    for kind, mix in enumerate(crystal.mixes):
        here = np.flatnonzero(specimen.numbers == kind)
        steps = np.cumsum(list(mix.values()))
        drawn = np.searchsorted(steps, rng.uniform(0, max(1.0, steps[-1]), len(here)), side="right")
        numbers[here] = np.append(list(mix), 0)[drawn]
    full = replace(specimen, numbers=numbers, family=crystal.family, name=crystal.name)
    return full if numbers.all() else full.select_atoms(numbers > 0)


def _find_cell_origins(
    lattice: np.ndarray, basis: np.ndarray, box: np.ndarray, periodic: tuple[bool, bool, bool]
) -> np.ndarray:
    """Where the cells begin that reach into the box, ``(cell, 3)``; vectors and atoms as (z, y, x)."""
    inverse = np.linalg.inv(lattice)
    corners = np.array(list(itertools.product(*zip(np.zeros(3), box, strict=True)))) @ inverse
    inner = basis @ inverse
    low = np.floor(corners.min(0) - inner.max(0) - FACE_TOLERANCE).astype(int)
    high = np.ceil(corners.max(0) - inner.min(0) + FACE_TOLERANCE).astype(int)
    ranges = [
        np.arange(a, b + 1) if repeats else np.zeros(1, int)
        for a, b, repeats in zip(low, high, periodic, strict=True)
    ]
    last = ranges[2][:, None] * lattice[2]
    first = (ranges[0][:, None, None] * lattice[0] + ranges[1][:, None] * lattice[1]).reshape(-1, 3)
    origins = (first[:, None] + last).reshape(-1, 3)
    reaches = (origins + basis.max(0) >= -FACE_TOLERANCE) & (origins + basis.min(0) < box + FACE_TOLERANCE)
    return origins[reaches.all(1)]
