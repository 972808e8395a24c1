"""Random specimens as stacks of projected phases: abTEM's independent atoms, or numpy for the blobs.

Atoms have static random displacements (one frozen configuration, 0.05 to 0.09 angstrom along each axis);
thermal diffuse scattering as an average over configurations is not simulated.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from scipy import ndimage, spatial

from benchmarks.testbed.draw import Case, electron_wavelength

__all__ = ["Specimen", "build_specimen", "interaction_parameter"]


@dataclass(frozen=True)
class Specimen:
    """What the beam goes through.

    Attributes:
        phases: of each slice, radian, ``(slice, y, x)``; the beam meets slice 0 first. Periodic.
        pixel: edge of a pixel, angstrom.
        spacing: from a slice to the next, angstrom.
        about: what was drawn, for people.
    """

    phases: np.ndarray
    pixel: float
    spacing: float
    about: dict


CRYSTALS = {
    "SrTiO3": (
        3.905,
        [(38, 0, 0, 0), (22, 0.5, 0.5, 0.5), (8, 0.5, 0.5, 0), (8, 0.5, 0, 0.5), (8, 0, 0.5, 0.5)],
    ),
    "Si": (5.431, [(14, *shift) for shift in ((0, 0, 0), (0.25, 0.25, 0.25))]),
    "GaAs": (5.653, [(31, 0, 0, 0), (33, 0.25, 0.25, 0.25)]),
    "MgO": (4.212, [(12, 0, 0, 0), (8, 0.5, 0.5, 0.5)]),
    "Au": (4.078, [(79, 0, 0, 0)]),
    "Pt": (3.924, [(78, 0, 0, 0)]),
}
"""Lattice constant and basis; all but SrTiO3 are face-centred and get the three other translations."""

ZONE_AXES = ((0, 0, 1), (0, 1, 1), (1, 1, 1))
CENTRINGS = np.array([(0, 0, 0), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)])


def interaction_parameter(kilovolts: float) -> float:
    """Radian per volt angstrom: ``2 pi / (lambda E) (E + m c^2) / (E + 2 m c^2)`` with E in eV."""
    energy = kilovolts * 1e3
    rest = 510998.95
    relativity = (energy + rest) / (energy + 2 * rest)
    return 2 * np.pi / (electron_wavelength(kilovolts) * energy) * relativity


def build_specimen(case: Case, pixel: float) -> Specimen:
    """The specimen of a case, the scan in the middle of its periodic box.

    Atoms are drawn in a box that holds the scan in any rotation, whatever the pixels are: a specimen is
    the same with and without faults. The box is then widened to whole pixels.
    """
    rng = np.random.default_rng([case.seed, 3])
    field = case.step * case.scan
    beam = 2 * case.semiangle * abs(case.defocus) + 4 * case.wavelength / case.semiangle
    size = 1.03 * np.sqrt(2) * field + 2 * case.step + beam + 8
    pixels = int(np.ceil(size / pixel / 4)) * 4
    margin = (pixels * pixel - size) / 2
    if case.specimen == "blobs":
        return build_blobs(rng, case, size, pixels, pixel)
    builders = {"thin": thin_crystal, "thick": thick_crystal, "layers": layered_material}
    builder = builders.get(case.specimen, nanoparticle)
    numbers, places, thickness, spacing, about = builder(rng, size, field)
    places = places + rng.normal(0, rng.uniform(0.05, 0.09), places.shape)
    places += np.array([margin, margin, 0])
    volts = project_potential(numbers, places, thickness, spacing, pixels=pixels, pixel=pixel)
    phases = (volts * interaction_parameter(case.kilovolts)).astype(np.float32)
    return Specimen(phases, pixel, thickness / len(phases), about | {"thickness": thickness})


def project_potential(numbers, places, thickness, spacing, *, pixels, pixel):
    """Projected potentials of slices in volt angstrom ``(slice, y, x)``; places are ``(y, x, z)``."""
    warnings.simplefilter("ignore")
    import abtem
    from ase import Atoms

    abtem.config.set({"device": "cpu", "local_diagnostics.progress_bar": False})
    slices = max(1, round(thickness / spacing))
    size = pixels * pixel
    depth = np.clip(places[:, 2], 1e-3, thickness - 1e-3)
    inside = np.stack([places[:, 1] % size, places[:, 0] % size, depth], 1)
    atoms = Atoms(numbers=numbers, positions=inside, cell=(size, size, thickness), pbc=True)
    knobs = {"parametrization": "lobato", "projection": "infinite", "slice_thickness": thickness / slices}
    potential = abtem.Potential(atoms, gpts=pixels, **knobs).build(lazy=False)
    return np.asarray(potential.array).transpose(0, 2, 1)


def rotate_lattice(rng, name, axis, tilt):
    """Rotation that brings a zone axis to the beam, turns it in the plane, and tilts it by ``tilt``."""
    direction = np.array(axis, float)
    start, _ = spatial.transform.Rotation.align_vectors([(0, 0, 1.0)], [direction])
    heading = rng.uniform(-np.pi, np.pi)
    lean = spatial.transform.Rotation.from_rotvec(tilt * np.array([np.cos(heading), np.sin(heading), 0]))
    turn = spatial.transform.Rotation.from_euler("z", rng.uniform(-np.pi, np.pi))
    return lean * turn * start


def fill_lattice(name, rotation, reach):
    """Numbers and places of all atoms of a crystal within ``reach`` of the origin."""
    constant, basis = CRYSTALS[name]
    count = int(np.ceil(reach / constant)) + 1
    cells = np.stack(np.meshgrid(*[np.arange(-count, count + 1)] * 3, indexing="ij"), -1).reshape(-1, 3)
    cells = cells[np.linalg.norm(cells * constant, axis=1) < reach + 2 * constant]
    centrings = CENTRINGS[:1] if name == "SrTiO3" else CENTRINGS
    numbers = []
    places = []
    for number, *fraction in basis:
        for centring in centrings:
            places.append((cells + fraction + centring) * constant)
            numbers.append(np.full(len(cells), number))
    return np.concatenate(numbers), rotation.apply(np.concatenate(places))


def cut_crystal(rng, name, size, thickness, *, tilt, axes):
    """A slab of a crystal that fills the box."""
    axis = axes[rng.integers(len(axes))]
    rotation = rotate_lattice(rng, name, axis, tilt)
    numbers, places = fill_lattice(name, rotation, np.sqrt(2 * (size / 2) ** 2 + (thickness / 2) ** 2))
    places += np.append(rng.uniform(-2, 2, 2), 0)
    keep = (np.abs(places[:, :2]) <= size / 2).all(1) & (np.abs(places[:, 2]) <= thickness / 2)
    places = places[keep] + np.array([size / 2, size / 2, thickness / 2])
    about = {"material": name, "zone_axis": list(axis), "tilt_mrad": 1e3 * tilt}
    return numbers[keep], places, about


def thin_crystal(rng, size, field):
    """15 to 40 angstrom of SrTiO3, Si, GaAs or MgO, tilted by up to 10 mrad, 2 % vacancies."""
    name = str(rng.choice(["SrTiO3", "Si", "GaAs", "MgO"]))
    thickness = rng.uniform(15, 40)
    numbers, places, about = cut_crystal(
        rng, name, size, thickness, tilt=rng.uniform(0, 0.010), axes=ZONE_AXES
    )
    keep = rng.uniform(size=len(numbers)) > 0.02
    return numbers[keep], places[keep], thickness, 8.0, about


def thick_crystal(rng, size, field):
    """100 to 250 angstrom of SrTiO3, Si or GaAs, tilted by up to 6 mrad."""
    name = str(rng.choice(["SrTiO3", "Si", "GaAs"]))
    thickness = rng.uniform(100, 250)
    numbers, places, about = cut_crystal(
        rng, name, size, thickness, tilt=rng.uniform(0, 0.006), axes=ZONE_AXES[:2]
    )
    return numbers, places, thickness, 10.0, about


def hexagonal_layer(rng, material, size, turn):
    """One layer in the middle of the box: numbers, places, and which atoms belong to sublattice 0."""
    constant, heavy, light, half = {
        "graphene": (2.46, 6, 6, 0.0),
        "MoS2": (3.16, 42, 16, 1.56),
        "WSe2": (3.29, 74, 34, 1.67),
    }[material]
    vectors = constant * np.array([(1, 0), (-0.5, np.sqrt(3) / 2)])
    count = int(np.ceil(size / constant)) + 4
    index = np.stack(np.meshgrid(*[np.arange(-count, count + 1)] * 2, indexing="ij"), -1).reshape(-1, 2)
    corners = index @ vectors
    other = corners + (np.array([1, 2]) / 3) @ vectors
    first = np.column_stack([corners, np.zeros(len(corners))])
    parts = [first, np.column_stack([other, np.full(len(other), half)])]
    kinds = [np.full(len(first), heavy), np.full(len(other), light)]
    if half:
        parts.append(np.column_stack([other, np.full(len(other), -half)]))
        kinds.append(np.full(len(other), light))
    places = np.concatenate(parts)
    cosine = np.cos(turn)
    sine = np.sin(turn)
    places[:, :2] = places[:, :2] @ np.array([(cosine, sine), (-sine, cosine)]) + rng.uniform(-2, 2, 2)
    numbers = np.concatenate(kinds)
    keep = (np.abs(places[:, :2]) <= size / 2).all(1)
    return numbers[keep], places[keep] + (size / 2, size / 2, 0)


def layered_material(rng, size, field):
    """MoS2, WSe2 or graphene, one layer or a twisted bilayer, with a hole, vacancies and foreign atoms."""
    material = str(rng.choice(["MoS2", "WSe2", "graphene"]))
    bilayer = material == "graphene" or rng.uniform() < 0.5
    turn = rng.uniform(-np.pi, np.pi)
    twist = np.deg2rad(rng.uniform(3, 27))
    gap = 3.35 if material == "graphene" else 6.3
    margin = 2.5
    numbers, places = hexagonal_layer(rng, material, size, turn)
    places[:, 2] += margin
    if bilayer:
        more_numbers, more_places = hexagonal_layer(rng, material, size, turn + twist)
        more_places[:, 2] += margin + gap
        numbers = np.concatenate([numbers, more_numbers])
        places = np.concatenate([places, more_places])
    centre = size / 2 + rng.uniform(-0.25, 0.25, 2) * field
    radius = rng.uniform(0.1, 0.18) * field
    keep = np.linalg.norm(places[:, :2] - centre, axis=1) > radius
    keep &= rng.uniform(size=len(numbers)) > 0.02
    numbers = numbers[keep]
    foreign = {42: 74, 74: 42, 6: 14}
    for old, new in foreign.items() if material != "graphene" else [(6, 14)]:
        swap = (numbers == old) & (rng.uniform(size=len(numbers)) < (0.01 if old == 6 else 0.04))
        if (material, old) in {("MoS2", 42), ("WSe2", 74), ("graphene", 6)}:
            numbers[swap] = new
    thickness = 2 * margin + (gap if bilayer else 0.0)
    about = {"material": material, "bilayer": bool(bilayer), "twist_deg": float(np.rad2deg(twist))}
    about |= {"hole": [*(centre - size / 2).tolist(), float(radius)]}
    return numbers, places[keep], thickness, gap, about


def nanoparticle(rng, size, field):
    """A ball of Au or Pt, turned at random, above 20 to 40 angstrom of amorphous carbon (slice 0 first)."""
    name = str(rng.choice(["Au", "Pt"]))
    radius = min(rng.uniform(0.2, 0.35) * field, 20.0)
    film = rng.uniform(20, 40)
    axis = ZONE_AXES[rng.integers(3)]
    rotation = rotate_lattice(rng, name, axis, rng.uniform(0, 0.05))
    numbers, places = fill_lattice(name, rotation, radius + 2)
    keep = np.linalg.norm(places, axis=1) < radius
    centre = size / 2 + rng.uniform(-0.1, 0.1, 2) * field
    ball = places[keep] + (*centre, radius)
    carbon = rng.uniform(0, 1, (int(0.1 * size**2 * film * 1.15), 3)) * (size, size, film)
    pairs = spatial.cKDTree(carbon).query_pairs(1.25, output_type="ndarray")
    carbon = np.delete(carbon, np.unique(pairs[:, 1]), axis=0)
    carbon += np.array([0, 0, 2 * radius])
    places = np.concatenate([ball, carbon])
    kinds = np.concatenate([numbers[keep], np.full(len(carbon), 6)])
    about = {"material": name, "radius": float(radius), "film": float(film), "zone_axis": list(axis)}
    return kinds, places, 2 * radius + film, 10.0, about


def build_blobs(rng, case, size, pixels, pixel):
    """Proteins of 60 to 120 angstrom in three slices of ice: compact random walks of residues.

    A residue is a Gaussian of 2.2 angstrom that adds 55 volt cubic angstrom over the ice, so that a
    protein's mean inner potential is about 0.5 V above that of the ice. The ice is random grains of
    2.5 angstrom with 0.008 rad rms for each slice.
    """
    margin = (pixels * pixel - size) / 2
    slices = 3
    spacing = 80.0
    phases = np.zeros((slices, pixels, pixels))
    proteins = max(4, round((size / 75) ** 2))
    for _ in range(proteins):
        extent = rng.uniform(25, 50, 3)
        residues = int(0.0085 * 4.19 * extent.prod())
        steps = rng.normal(0, 2.2, (residues * 3, 3)).cumsum(0)
        folded = 2 * np.abs((steps / (2 * extent) + 0.5) % 2 - 1) - 1  # a walk between mirrors
        places = folded[(folded**2).sum(1) < 1][:residues] * extent
        across = rng.uniform(margin, margin + size, 2)
        places += np.append(across, rng.uniform(40, slices * spacing - 40))
        index = np.floor(places[:, :2] / pixel).astype(int) % pixels
        layer = np.clip((places[:, 2] / spacing).astype(int), 0, slices - 1)
        np.add.at(phases, (layer, index[:, 0], index[:, 1]), 55 / pixel**2)
    phases *= interaction_parameter(case.kilovolts)
    phases = ndimage.gaussian_filter(phases, (0, 2.2 / pixel, 2.2 / pixel), mode="wrap")
    grains = rng.uniform(0, 1, (int(0.05 * size**2) * slices, 3)) * (size, size, slices) + (margin, margin, 0)
    ice = np.zeros(phases.shape)
    np.add.at(ice, (grains[:, 2].astype(int), *(grains[:, :2] / pixel).astype(int).T), 1.0)
    ice = ndimage.gaussian_filter(ice, (0, 2.5 / pixel, 2.5 / pixel), mode="wrap")
    phases += 0.008 * (ice - ice.mean()) / ice.std()
    about = {"material": "proteins in ice", "proteins": proteins, "thickness": slices * spacing}
    return Specimen(phases.astype(np.float32), pixel, spacing, about)
