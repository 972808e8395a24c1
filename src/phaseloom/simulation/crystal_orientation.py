"""How a crystal lies in the beam: its axis, what is missing of it, and where it ends."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from phaseloom.errors import BadInput
from phaseloom.simulation.specimen_box import LEAST, Crystal, Specimen, cut, filled, settled

__all__ = ["Axes", "Laying", "joined", "laid", "worn"]

Axes = Literal["as given", "low index", "mixed", "random"]

LOW = np.array([[0, 0, 1], [0, 1, 1], [1, 1, 1], [0, 1, 2], [1, 1, 2], [0, 1, 3]])
"""Zone axes; those of high symmetry are looked at more often, see `ODDS`."""

ODDS = np.array([0.3, 0.25, 0.2, 0.1, 0.1, 0.05])


@dataclass(frozen=True)
class Laying:
    """What a parameter file says of how specimens lie, checked.

    Attributes:
        room: the function that was asked, for sentences.
        thickness: smallest and largest, angstrom.
        axes: which of the crystal's directions are along the beam.
        tilt: largest angle off that direction, radian.
        vacancies: largest share of atoms that are missing.
        edges: how often vacuum is in view.
        least: see `settled`: of two atoms that are nearer, at the periodic faces too, one goes.
    """

    room: str
    thickness: tuple[float, float]
    axes: Axes
    tilt: float
    vacancies: float
    edges: float
    least: float = LEAST

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


def laid(
    crystal: Crystal, size: tuple[float, float], rng: np.random.Generator, how: Laying, depth: float, /
) -> Specimen:
    """A crystal in a box ``depth`` thick, along one of its axes, turned in the plane, tilted and shifted.

    Layers that are seen from above are not tilted, and as many as fit are whole.

    Raises:
        BadInput: no atom of the crystal is in the box.
    """
    turn, shift, flat = _oriented(crystal, rng, how)
    thick = max(1, int(depth / crystal.layer)) * crystal.layer if flat else depth
    box = cut(
        crystal.kinds,
        crystal.positions,
        crystal.lattice,
        size,
        thickness=thick,
        rotation=turn,
        shift=shift,
        periodic=crystal.periodic,
    )
    whole = _centred(box, depth) if flat else box
    if not len(whole.numbers):
        fix = "has no atom in the box: ask for a larger or thicker one"
        raise BadInput(f"{how.room}.{crystal.name or crystal.family}", None, fix)
    return settled(filled(whole, crystal, rng), least=how.least, floor=how.least * crystal.bond)


def joined(
    one: Specimen, two: Specimen, rng: np.random.Generator, /, *, least: float, floor: float
) -> Specimen:
    """Two grains in a box: the second fills a band or a patch of it; see `settled` for the distances."""
    region = _band(one.size, rng) if rng.uniform() < 0.7 else _patch(one.size, rng, rng.uniform(0.2, 0.4))
    parts = [one.masked(~region(one.places)), two.masked(region(two.places))]
    alike = one.family == two.family
    both = replace(
        one,
        numbers=np.concatenate([part.numbers for part in parts]),
        places=np.concatenate([part.places for part in parts]),
        family=one.family if alike else f"{one.family}+{two.family}",
        name=one.name if one.name == two.name else f"{one.name}/{two.name}",
    )
    return settled(both, least=least, floor=floor)


def worn(specimen: Specimen, rng: np.random.Generator, how: Laying, /) -> Specimen:
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
    return specimen.masked(keep) if keep.any() else specimen


def _oriented(
    crystal: Crystal, rng: np.random.Generator, how: Laying
) -> tuple[np.ndarray, tuple[float, float, float], bool]:
    """A rotation, a shift (z, y, x), and whether layers are seen from above."""
    axes = how.axes
    if axes == "as given":
        return np.eye(3), (0.0, 0.0, 0.0), False
    if axes == "mixed":
        axes = "low index" if rng.uniform() < 0.7 else "random"
    zone = np.array([0, 0, 1])
    if axes == "low index" and not (crystal.layer and rng.uniform() < 0.8):
        zone = rng.permuted(LOW[rng.choice(len(LOW), p=ODDS)]) * rng.choice([-1, 1], 3)
    flat = bool(crystal.layer) and axes == "low index" and not zone[:2].any()
    turn = _random(rng)
    if axes == "low index":
        turn = _turn(2, rng.uniform(0, 2 * np.pi)) @ _upright(zone @ crystal.lattice)
    if not flat:
        turn = _leaning(how.tilt, rng) @ turn
    z, y, x = (rng.uniform(0, 1, 3) @ crystal.lattice @ turn.T)[::-1]
    return turn, (0.0 if flat else float(z), float(y), float(x)), flat


Region = Callable[[np.ndarray], np.ndarray]


def _band(size: tuple[float, float, float], rng: np.random.Generator) -> Region:
    """A band with rough sides that goes round the periodic box: straight, or from corner to corner."""
    across = np.array([[1, 0], [0, 1], [1, 1], [1, -1]])[rng.integers(4)]
    along = np.array([-across[1], across[0]]) if across.all() else across[::-1]
    width, start, rough = rng.uniform(0.3, 0.75), rng.uniform(), rng.uniform(0, 0.03)
    waves, phases = rng.integers(1, 6, 3), rng.uniform(0, 2 * np.pi, (2, 3))
    slope = rng.uniform(-1, 1, 2) * min(0.02, size[0] / max(size))

    def inside(places: np.ndarray) -> np.ndarray:
        part = places[:, 1:] / np.array(size[1:])
        turns = 2 * np.pi * (part @ along)[:, None] * waves
        low, high = rough * np.sin(turns + phases[0]).mean(1), rough * np.sin(turns + phases[1]).mean(1)
        height = places[:, 0] / size[0] - 0.5
        place = (part @ across - start) % 1
        return (place >= 0.05 + low + slope[0] * height) & (place < 0.05 + width + high + slope[1] * height)

    return inside


def _patch(size: tuple[float, float, float], rng: np.random.Generator, share: float) -> Region:
    """A roundish patch with a radius of about a share of the smaller side."""
    radius, place = share * min(size[1:]), rng.uniform(0, 1, 2) * size[1:]
    heights, phases = rng.normal(0, 0.08, 4), rng.uniform(0, 2 * np.pi, 4)

    def inside(places: np.ndarray) -> np.ndarray:
        y, x = _from(place, places, size).T
        waves = np.cos(np.arctan2(y, x)[:, None] * np.arange(2, 6) + phases)
        return np.hypot(y, x) < radius * (1 + np.clip(waves @ heights, -0.4, 0.4))

    return inside


def _facets(size: tuple[float, float, float], rng: np.random.Generator, share: float) -> Region:
    """A particle with flat sides, some of which lean."""
    radius, place = share * min(size[1:]), rng.uniform(0, 1, 2) * size[1:]
    count = int(rng.integers(4, 9))
    angles = (np.arange(count) + rng.uniform(-0.25, 0.25, count)) * 2 * np.pi / count + rng.uniform(0, 6)
    normals = np.stack([np.sin(angles), np.cos(angles)], 1)
    far = radius * rng.uniform(0.8, 1.0, count)
    lean = rng.uniform(-0.5, 0.5, count) * min(1.0, radius / size[0])

    def inside(places: np.ndarray) -> np.ndarray:
        heights = places[:, :1] - size[0] / 2
        return np.all(_from(place, places, size) @ normals.T < far + lean * heights, axis=1)

    return inside


def _from(place: np.ndarray, places: np.ndarray, size: tuple[float, float, float]) -> np.ndarray:
    """Ways (y, x) from a place, around the box where that is shorter."""
    box = np.array(size[1:])
    return (places[:, 1:] - place + box / 2) % box - box / 2


def _centred(layers: Specimen, depth: float) -> Specimen:
    """Whole layers in the middle of a box that is a little thicker, or thinner, than they are with gaps."""
    places = layers.places + np.array([(depth - layers.size[0]) / 2, 0, 0])
    inside = (places[:, 0] >= 0) & (places[:, 0] < depth)
    moved = replace(layers, places=places, size=(depth, layers.size[1], layers.size[2]))
    return moved if inside.all() else moved.masked(inside)


def _turn(axis: int, angle: float) -> np.ndarray:
    """About a Cartesian axis."""
    c, s = np.cos(angle), np.sin(angle)
    turn = np.eye(3)
    one, two = (axis + 1) % 3, (axis + 2) % 3
    turn[one, one], turn[one, two], turn[two, one], turn[two, two] = c, -s, s, c
    return turn


def _upright(direction: np.ndarray) -> np.ndarray:
    """The rotation that brings a direction (x, y, z) to the beam."""
    beam = direction / np.linalg.norm(direction)
    side = np.cross(np.eye(3)[np.argmin(abs(beam))], beam)
    side /= np.linalg.norm(side)
    return np.stack([side, np.cross(beam, side), beam])


def _random(rng: np.random.Generator) -> np.ndarray:
    """Any orientation is as likely as any other."""
    from scipy.spatial.transform import Rotation

    quaternion = rng.normal(0, 1, 4)
    return Rotation.from_quat(quaternion / np.linalg.norm(quaternion)).as_matrix()


def _leaning(tilt: float, rng: np.random.Generator) -> np.ndarray:
    """Up to an angle off the beam, to any side."""
    side = rng.uniform(0, 2 * np.pi)
    return _turn(2, side) @ _turn(0, rng.uniform(0, tilt)) @ _turn(2, -side)
