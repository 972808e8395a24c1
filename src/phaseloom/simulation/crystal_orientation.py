"""How a crystal is placed in the beam: its axis, its edges, its grain boundaries and its vacancies."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from phaseloom.errors import BadInput
from phaseloom.simulation.specimen_box import (
    MIN_DISTANCE,
    Crystal,
    Specimen,
    cut_box,
    fill_elements,
    remove_close_atoms,
)

__all__ = ["Axes", "Placement", "add_defects", "join_grains", "place_crystal"]

Axes = Literal["as given", "low index", "mixed", "random"]

ZONE_AXES = np.array([[0, 0, 1], [0, 1, 1], [1, 1, 1], [0, 1, 2], [1, 1, 2], [0, 1, 3]])
"""Zone axes; those of high symmetry are looked at more often, see `ZONE_AXIS_ODDS`."""

ZONE_AXIS_ODDS = np.array([0.3, 0.25, 0.2, 0.1, 0.1, 0.05])


@dataclass(frozen=True)
class Placement:
    """How specimens are placed: knobs of a parameter file, validated.

    Attributes:
        room: the function that was asked, for sentences.
        thickness: smallest and largest, angstrom.
        axes: which of the crystal's directions are along the beam.
        tilt: largest angle off that direction, radian.
        vacancies: largest share of atoms that are missing.
        edges: how often vacuum is in view.
        least: see `remove_close_atoms`: of two atoms that are nearer, at the periodic faces too, one goes.
    """

    room: str
    thickness: tuple[float, float]
    axes: Axes
    tilt: float
    vacancies: float
    edges: float
    least: float = MIN_DISTANCE

    def __post_init__(self):
        low, high = self.thickness
        if not 0 < low <= high < float("inf"):
            fix = "must be the smallest and the largest, both above zero"
            raise BadInput(f"{self.room}.thickness", self.thickness, fix)
        for knob, most in (("tilt", np.pi), ("vacancies", 0.5), ("edges", 1.0)):
            value = getattr(self, knob)
            if not 0 <= value <= most:
                raise BadInput(f"{self.room}.{knob}", value, f"must lie between 0 and {most:.4g}")

    def depth(self, rng: np.random.Generator, /) -> float:
        """A thickness, angstrom."""
        return float(rng.uniform(*self.thickness))


def place_crystal(
    crystal: Crystal, size: tuple[float, float], rng: np.random.Generator, how: Placement, depth: float, /
) -> Specimen:
    """A crystal in a box ``depth`` thick, along one of its axes, turned in the plane, tilted and shifted.

    Layers that are seen from above are not tilted, and as many as fit are whole.

    Raises:
        BadInput: no atom of the crystal is in the box.
    """
    turn, shift, flat = _orient(crystal, rng, how)
    thick = max(1, int(depth / crystal.layer)) * crystal.layer if flat else depth
    box = cut_box(
        crystal.kinds,
        crystal.positions,
        crystal.lattice,
        size,
        thickness=thick,
        rotation=turn,
        shift=shift,
        periodic=crystal.periodic,
    )
    whole = _centre_layers(box, depth) if flat else box
    if not len(whole.numbers):
        fix = "has no atom in the box: ask for a larger or thicker one"
        raise BadInput(f"{how.room}.{crystal.name or crystal.family}", None, fix)
    return remove_close_atoms(
        fill_elements(whole, crystal, rng), least=how.least, floor=how.least * crystal.bond
    )


def join_grains(
    one: Specimen, two: Specimen, rng: np.random.Generator, /, *, least: float, floor: float
) -> Specimen:
    """Two grains in a box: the second fills a band or a patch; for distances see `remove_close_atoms`."""
    region = _band(one.size, rng) if rng.uniform() < 0.7 else _patch(one.size, rng, rng.uniform(0.2, 0.4))
    parts = [one.select_atoms(~region(one.places)), two.select_atoms(region(two.places))]
    alike = one.family == two.family
    both = replace(
        one,
        numbers=np.concatenate([part.numbers for part in parts]),
        places=np.concatenate([part.places for part in parts]),
        family=one.family if alike else f"{one.family}+{two.family}",
        name=one.name if one.name == two.name else f"{one.name}/{two.name}",
    )
    return remove_close_atoms(both, least=least, floor=floor)


def add_defects(specimen: Specimen, rng: np.random.Generator, how: Placement, /) -> Specimen:
    """Vacuum beside, within or around the specimen as often as asked for, and vacancies."""
    keep = np.ones(len(specimen.numbers), bool)
    if rng.uniform() < how.edges:
        kind = rng.choice(["half plane", "hole", "particle"])
        if kind == "half plane":
            keep = _band(specimen.size, rng)(specimen.places)
        elif kind == "hole":
            keep = ~_patch(specimen.size, rng, rng.uniform(0.12, 0.35))(specimen.places)
        else:
            keep = _facets(specimen.size, rng, rng.uniform(0.15, 0.42))(specimen.places)
    keep &= rng.uniform(0, 1, len(keep)) >= rng.uniform(0, how.vacancies)
    return specimen.select_atoms(keep) if keep.any() else specimen


def _orient(
    crystal: Crystal, rng: np.random.Generator, how: Placement
) -> tuple[np.ndarray, tuple[float, float, float], bool]:
    """A rotation, a shift (z, y, x), and whether layers are seen from above."""
    axes = how.axes
    if axes == "as given":
        return np.eye(3), (0.0, 0.0, 0.0), False
    if axes == "mixed":
        axes = "low index" if rng.uniform() < 0.7 else "random"
    zone = np.array([0, 0, 1])
    if axes == "low index" and not (crystal.layer and rng.uniform() < 0.8):
        zone = rng.permuted(ZONE_AXES[rng.choice(len(ZONE_AXES), p=ZONE_AXIS_ODDS)]) * rng.choice([-1, 1], 3)
    flat = bool(crystal.layer) and axes == "low index" and not zone[:2].any()
    turn = _draw_rotation(rng)
    if axes == "low index":
        turn = _rotate_about(2, rng.uniform(0, 2 * np.pi)) @ _rotate_to_beam(zone @ crystal.lattice)
    if not flat:
        turn = _draw_tilt(how.tilt, rng) @ turn
    z, y, x = (rng.uniform(0, 1, 3) @ crystal.lattice @ turn.T)[::-1]
    return turn, (0.0 if flat else float(z), float(y), float(x)), flat


Region = Callable[[np.ndarray], np.ndarray]


def _band(size: tuple[float, float, float], rng: np.random.Generator) -> Region:
    """A band with rough sides that goes round the periodic box: straight, or from corner to corner."""
    across = np.array([[1, 0], [0, 1], [1, 1], [1, -1]])[rng.integers(4)]
    along = np.array([-across[1], across[0]]) if across.all() else across[::-1]
    width = rng.uniform(0.3, 0.75)
    start = rng.uniform()
    rough = rng.uniform(0, 0.03)
    waves = rng.integers(1, 6, 3)
    phases = rng.uniform(0, 2 * np.pi, (2, 3))
    slope = rng.uniform(-1, 1, 2) * min(0.02, size[0] / max(size))

    def inside(places: np.ndarray) -> np.ndarray:
        part = places[:, 1:] / np.array(size[1:])
        turns = 2 * np.pi * (part @ along)[:, None] * waves
        low = rough * np.sin(turns + phases[0]).mean(1)
        high = rough * np.sin(turns + phases[1]).mean(1)
        height = places[:, 0] / size[0] - 0.5
        place = (part @ across - start) % 1
        return (place >= 0.05 + low + slope[0] * height) & (place < 0.05 + width + high + slope[1] * height)

    return inside


def _patch(size: tuple[float, float, float], rng: np.random.Generator, share: float) -> Region:
    """A roundish patch with a radius of about a share of the smaller side."""
    radius = share * min(size[1:])
    place = rng.uniform(0, 1, 2) * size[1:]
    heights = rng.normal(0, 0.08, 4)
    phases = rng.uniform(0, 2 * np.pi, 4)

    def inside(places: np.ndarray) -> np.ndarray:
        y, x = _offsets_from(place, places, size).T
        waves = np.cos(np.arctan2(y, x)[:, None] * np.arange(2, 6) + phases)
        return np.hypot(y, x) < radius * (1 + np.clip(waves @ heights, -0.4, 0.4))

    return inside


def _facets(size: tuple[float, float, float], rng: np.random.Generator, share: float) -> Region:
    """A particle with flat sides, some of which lean."""
    radius = share * min(size[1:])
    place = rng.uniform(0, 1, 2) * size[1:]
    count = int(rng.integers(4, 9))
    angles = (np.arange(count) + rng.uniform(-0.25, 0.25, count)) * 2 * np.pi / count + rng.uniform(0, 6)
    normals = np.stack([np.sin(angles), np.cos(angles)], 1)
    far = radius * rng.uniform(0.8, 1.0, count)
    lean = rng.uniform(-0.5, 0.5, count) * min(1.0, radius / size[0])

    def inside(places: np.ndarray) -> np.ndarray:
        heights = places[:, :1] - size[0] / 2
        return np.all(_offsets_from(place, places, size) @ normals.T < far + lean * heights, axis=1)

    return inside


def _offsets_from(place: np.ndarray, places: np.ndarray, size: tuple[float, float, float]) -> np.ndarray:
    """Ways (y, x) from a place, around the box where that is shorter."""
    box = np.array(size[1:])
    return (places[:, 1:] - place + box / 2) % box - box / 2


def _centre_layers(layers: Specimen, depth: float) -> Specimen:
    """Whole layers in the middle of a box that is a little thicker, or thinner, than they are with gaps."""
    places = layers.places + np.array([(depth - layers.size[0]) / 2, 0, 0])
    inside = (places[:, 0] >= 0) & (places[:, 0] < depth)
    moved = replace(layers, places=places, size=(depth, layers.size[1], layers.size[2]))
    return moved if inside.all() else moved.select_atoms(inside)


def _rotate_about(axis: int, angle: float) -> np.ndarray:
    """About a Cartesian axis."""
    c = np.cos(angle)
    s = np.sin(angle)
    turn = np.eye(3)
    one = (axis + 1) % 3
    two = (axis + 2) % 3
    turn[one, one] = c
    turn[one, two] = -s
    turn[two, one] = s
    turn[two, two] = c
    return turn


def _rotate_to_beam(direction: np.ndarray) -> np.ndarray:
    """The rotation that brings a direction (x, y, z) to the beam."""
    beam = direction / np.linalg.norm(direction)
    side = np.cross(np.eye(3)[np.argmin(abs(beam))], beam)
    side /= np.linalg.norm(side)
    return np.stack([side, np.cross(beam, side), beam])


def _draw_rotation(rng: np.random.Generator) -> np.ndarray:
    """Any orientation is as likely as any other."""
    from scipy.spatial.transform import Rotation

    quaternion = rng.normal(0, 1, 4)
    return Rotation.from_quat(quaternion / np.linalg.norm(quaternion)).as_matrix()


def _draw_tilt(tilt: float, rng: np.random.Generator) -> np.ndarray:
    """Up to an angle off the beam, to any side."""
    side = rng.uniform(0, 2 * np.pi)
    return _rotate_about(2, side) @ _rotate_about(0, rng.uniform(0, tilt)) @ _rotate_about(2, -side)
