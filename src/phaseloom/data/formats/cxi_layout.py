"""Where CXI and NXcxi_ptycho files keep things, and in which units."""

import logging
import math
import re
from collections.abc import Iterable

import h5py
import numpy as np

from phaseloom.data.formats.files import CheckedGroup
from phaseloom.data.growing.unfinished import get_unfinished
from phaseloom.data.remarks import warn
from phaseloom.data.scan import ACROSS, LAB_BASIS, Geometry
from phaseloom.errors import BadInput
from phaseloom.units import HC_SI

log = logging.getLogger(__name__)

JOULES_PER_UNIT = {"j": 1.0, "joule": 1.0, "joules": 1.0}
JOULES_PER_UNIT |= {
    unit: 1.602176634e-19 * scale for unit, scale in {"ev": 1, "kev": 1e3, "mev": 1e6}.items()
}
TRANSLATION_NAMES = ("translation", "translations")
GEOMETRY_GROUPS = ("sample_1/geometry_1", "sample_1/geometry")
BEAM_GROUPS = ("instrument_1/beam_1", "instrument_1/beam", "sample_1/beam_1", "beam_1", "sample_1/beam")
ILLUMINATION_NAMES = ("illumination", "probe", "data_illumination")
MAX_SCAN_METRES = 1.0
"""Metres that a scan may span: more is a mistake of units."""


def find_entry(file: h5py.File, name: str, number: int) -> CheckedGroup:
    """The group of one entry."""
    root = CheckedGroup(file, name)
    found = root.first(f"entry_{number}", *(["entry"] if number == 1 else []))
    if found is None:
        there = sorted(key for key in map(str, file) if re.fullmatch(r"entry(_\d+)?", key))
        fix = f"is missing: the file has {', '.join(there) or 'no entry, so it is not CXI'}"
        raise BadInput(f"{name}: /entry_{number}", None, fix)
    return found


def find_detector(top: CheckedGroup) -> CheckedGroup:
    """The first detector with patterns, or else the first detector."""
    instrument = top.first("instrument_1", "instrument")
    groups = []
    if instrument is not None:
        names = sorted(name for name in map(str, instrument.group) if name.startswith("detector"))
        groups = [group for name in names if (group := instrument.first(name))]
    if not groups:
        fix = "is missing: it holds distance and pixel sizes"
        raise BadInput(top.place("instrument_1/detector_1"), None, fix)
    return next((group for group in groups if group.find("data", strict=False)), groups[0])


def find_patterns(top: CheckedGroup, detector: CheckedGroup) -> tuple[CheckedGroup, str]:
    """Where the patterns are."""
    if found := _find_in([top.first("data_1", "data"), detector], "data"):
        return found
    fix = "is missing, and in detector_1 too: store the patterns there"
    raise BadInput(top.place("data_1/data"), None, fix)


def _find_in(places: Iterable[CheckedGroup | None], *names: str) -> tuple[CheckedGroup, str] | None:
    """The first of some groups that has one of some names, and that name.

    Raises:
        BadInput: there is none but a link to something that is not there.
    """
    groups = [group for group in places if group is not None]
    for strict in (False, True):
        for group in groups:
            if name := group.find(*names, strict=strict):
                return group, name
    return None


def find_raster(detector: CheckedGroup, count: int) -> tuple[int, int] | None:
    """The raster of patterns that the detector keeps in four axes."""
    shape = detector.dataset("data").shape if detector.find("data", strict=False) else ()
    return shape[:2] if len(shape) == 4 and shape[0] * shape[1] == count else None


def read_wavelength(top: CheckedGroup, source: CheckedGroup | None) -> float:
    """Angstrom: from a wavelength if there is one, else from a photon energy; NeXus beams come first.

    NeXus files keep the energy of the machine in ``source_1``, so ``beam_1`` is asked before.
    """
    beams = [tree for name in BEAM_GROUPS if (tree := top.first(name))]
    known = [*([source] if source else []), *beams]
    for tree in known:
        if name := tree.find("wavelength", "incident_wavelength"):
            own = tree.length(name) * 1e10
            found = _require_plausible(own, tree.place(name), tree.scalar(name), "metres")
            _compare_with_energy(found, tree)
            return found
    for tree in [*beams, *([source] if source else [])]:
        if name := tree.find("energy", "incident_beam_energy", "incident_energy"):
            value = tree.scalar(name)
            return _require_plausible(
                HC_SI * 1e10 / _read_joules(tree, name, value), tree.place(name), value, "J or eV"
            )
    place = top.place("instrument_1/source_1/wavelength")
    raise BadInput(place, None, "is missing, and energy too: write energy: 8 keV")


def _compare_with_energy(wavelength: float, tree: CheckedGroup) -> None:
    """Say where the energy beside a wavelength contradicts it; that of a machine is beyond all photons."""
    name = tree.find("energy", "incident_beam_energy", "incident_energy")
    value = tree.scalar(name) if name else 0.0
    if name is None or not value > 0:
        return
    other = HC_SI * 1e10 / _read_joules(tree, name, value)
    if 1e-3 <= other <= 2e4 and abs(other / wavelength - 1) > 0.02:
        text = (
            "%s: means %.4g A, but the wavelength beside it is %.4g A, which is taken: write energy to decide"
        )
        warn(log, text, tree.place(name), other, wavelength)


def _read_joules(tree: CheckedGroup, name: str, value: float) -> float:
    unit = tree.unit(name).lower()
    if unit and unit not in JOULES_PER_UNIT:
        raise BadInput(tree.place(name), tree.unit(name), "is not a unit of energy: write units = 'eV'")
    if unit and value > 0:
        return value * JOULES_PER_UNIT[unit]
    # Without a unit the size decides: 1e-12 J are 6 MeV, and X-rays have 100 eV to 1 MeV.
    if 0 < value < 1e-12:
        return value
    if 1e2 <= value <= 1e6:
        return value * JOULES_PER_UNIT["ev"]
    raise BadInput(tree.place(name), value, "is neither J nor eV of a photon: add the attribute units = 'eV'")


def _require_plausible(angstrom: float, place: str, value: float, unit: str) -> float:
    if not 1e-3 <= angstrom <= 2e4:  # from gamma rays to the near infrared
        fix = f"means a wavelength of {angstrom:.3g} A, which is absurd: store {unit}"
        raise BadInput(place, value, fix)
    return angstrom


def read_optics(
    detector: CheckedGroup, given: float | None = None
) -> tuple[tuple[tuple[float, float], ...], tuple[float, float], float]:
    """Unit vectors of the detector axes, angle of a pixel (y, x), and distance in angstrom.

    Args:
        detector: its group.
        given: distance in angstrom, in place of that of the file.
    """
    if name := detector.find("basis_vectors"):
        table = _read_basis(detector, name)
        sizes = np.linalg.norm(table, axis=0)
        if not (np.isfinite(table).all() and (sizes > 0).all()):
            fix = "must be finite and not zero: store the step of a pixel"
            raise BadInput(detector.place(name), None, fix)
    else:
        sizes = _read_pixel_sizes(detector)
        table = np.asarray(LAB_BASIS) * sizes
    distance = _read_distance(detector, table) if given is None else given * 1e-10
    if not (math.isfinite(distance) and distance > 0):
        raise BadInput(detector.place("distance"), given, "must be positive")
    basis = tuple((float(a), float(b)) for a, b in table / sizes)
    if abs(np.cross(table[:, 0], table[:, 1])).max() < 1e-3 * sizes.prod():
        fix = "are parallel: rows and columns need two directions"
        raise BadInput(detector.place("basis_vectors"), None, fix)
    return basis, (float(sizes[0] / distance), float(sizes[1] / distance)), distance * 1e10


def _read_basis(detector: CheckedGroup, name: str) -> np.ndarray:
    table = detector.lengths(name)
    if table.ndim == 3:
        if np.ptp(table, axis=0).max() > 1e-3 * abs(table).max():
            warn(log, "%s: differs between patterns; their mean is used", detector.place(name))
        table = table.mean(0)
    if table.shape == (2, 3):
        table = table.T
    if table.shape != (3, 2):
        fix = "must be (3, 2), (2, 3) or one for each pattern"
        raise BadInput(detector.place(name), f"shape {table.shape}", fix)
    return table


def _read_pixel_sizes(detector: CheckedGroup) -> np.ndarray:
    names = [name for axis in "yx" if (name := detector.find(f"{axis}_pixel_size"))]
    if not names:
        place = detector.place("x_pixel_size")
        raise BadInput(place, None, "is missing, and basis_vectors too: store the pixel size in metres")
    return np.array([detector.length(names[0]), detector.length(names[-1])])


def _read_distance(detector: CheckedGroup, table: np.ndarray) -> float:
    if name := detector.find("distance"):
        return detector.length(name)
    name = detector.find("corner_position", "corner_positions")
    if name is None:
        raise BadInput(
            detector.place("distance"), None, "is missing, and corner_position too: write distance: 2 m"
        )
    corner = detector.lengths(name)
    if corner.shape[-1:] != (3,):
        fix = "must be three numbers: x, y, z in metres"
        raise BadInput(detector.place(name), f"shape {corner.shape}", fix)
    normal = np.cross(table[:, 0], table[:, 1])
    distance = abs(corner.reshape(-1, 3).mean(0) @ normal) / np.linalg.norm(normal)
    if not distance > 0:
        raise BadInput(detector.place(name), float(distance), "puts the detector on the sample: store metres")
    return float(distance)


def read_motion(
    top: CheckedGroup, detector: CheckedGroup, count: int, geometry: Geometry
) -> tuple[np.ndarray, np.ndarray | None]:
    """Beam positions ``(n, 2)`` on the detector's axes and heights ``(n,)``, angstrom."""
    places = [top.first("data_1", "data"), *(top.first(g) for g in GEOMETRY_GROUPS), detector]
    found = _find_in(places, *TRANSLATION_NAMES)
    if found is None:
        place = top.place("sample_1/geometry_1/translation")
        raise BadInput(place, None, "is missing: store sample positions (n, 3) in metres")
    tree, name = found
    moved = -_read_translation(tree, name, count) * 1e10
    from phaseloom.physics import tilted_planes as surface  # brings torch

    positions, heights = surface.project_beam(moved, geometry.basis, geometry.normal)
    return positions, heights if np.ptp(heights) > 1e-3 else None


def read_normal(top: CheckedGroup) -> tuple[float, float, float]:
    """Normal of the sample's surface: as it is written, or across the two vectors of its orientation."""
    for tree in (top.first(group) for group in GEOMETRY_GROUPS):
        name = tree.find("surface_normal", "orientation") if tree else None
        if tree is None or name is None:
            continue
        vector = tree.array(name).ravel()
        if vector.size not in ({3} if name == "surface_normal" else {6, 9}):
            fix = "must be three numbers, or six: the directions of the sample's x and y"
            raise BadInput(tree.place(name), f"{vector.size} numbers", fix)
        return tuple((vector if vector.size == 3 else np.cross(vector[:3], vector[3:6])).tolist())
    return ACROSS


def _read_translation(tree: CheckedGroup, name: str, count: int) -> np.ndarray:
    place = tree.place(name)
    table = tree.lengths(name)
    if table.ndim < 2 or table.shape[-1] not in (2, 3):
        fix = f"must be ({count}, 3): x, y, z of the sample in metres"
        raise BadInput(place, f"shape {table.shape}", fix)
    table = table.reshape(-1, table.shape[-1])
    if len(table) != count and get_unfinished() is None:
        raise BadInput(place, f"{len(table)} rows", f"but there are {count} patterns: store one row for each")
    if not np.isfinite(table).all():
        bad = int((~np.isfinite(table)).any(1).sum())
        raise BadInput(place, f"{bad} of {count} rows", "are not finite: remove those patterns")
    if np.ptp(table, axis=0).max() > MAX_SCAN_METRES:
        span = float(np.ptp(table, axis=0).max())
        raise BadInput(place, f"spans {span:.3g} m", "which is absurd: store metres, or a units attribute")
    return table if table.shape[1] == 3 else np.column_stack([table, np.zeros(count)])


def read_weights(top: CheckedGroup, detector: CheckedGroup, count: int) -> np.ndarray | None:
    """Relative intensity of each shot, mean 1."""
    places = [top.first("data_1"), *(top.first(g) for g in GEOMETRY_GROUPS), detector]
    source = top.first("instrument_1/source_1")
    found = _find_in(places, "intensities")
    if found is None and source and source.find("illumination_intensities"):
        found = (source, "illumination_intensities")
    if found is None:
        return None
    tree, name = found
    values = tree.array(name).ravel()
    if len(values) != count or not (np.isfinite(values).all() and (values > 0).all()):
        raise BadInput(tree.place(name), f"{len(values)} values", f"must be {count} positive numbers")
    return values if tree.group[name].attrs.get("phaseloom_relative") else values / values.mean()


def read_background(detector: CheckedGroup, shape: tuple[int, int]) -> np.ndarray | None:
    """Mean of the dark patterns, counts."""
    if not detector.find("data_dark"):
        return None
    dark = detector.array("data_dark")
    if dark.shape[-2:] != shape or dark.size == 0:
        raise BadInput(detector.place("data_dark"), f"shape {dark.shape}", f"must end with {shape}")
    dark = dark.reshape(-1, *shape)
    there = np.isfinite(dark)
    return np.where(there, dark, 0).sum(0) / np.maximum(there.sum(0), 1)


def read_flat(detector: CheckedGroup, shape: tuple[int, int]) -> np.ndarray | None:
    """Efficiency of each pixel."""
    return _read_image(detector, "qe_mask", shape) if detector.find("qe_mask") else None


def read_mask(detector: CheckedGroup, shape: tuple[int, int]) -> np.ndarray | None:
    """True where the file says good: no bit, or nothing but 0x1000 (has signal)."""
    if not detector.find("mask"):
        return None
    bits = _read_image(detector, "mask", shape)
    return (bits == 0) | (bits == 0x1000)


def _read_image(detector: CheckedGroup, name: str, shape: tuple[int, int]) -> np.ndarray:
    image = detector.array(name)
    if image.ndim > 2 and image.size == image.shape[-2] * image.shape[-1]:
        image = image.reshape(image.shape[-2:])
    if image.shape != shape:
        raise BadInput(detector.place(name), f"shape {image.shape}", f"must be that of a pattern, {shape}")
    if not np.isfinite(image).all():
        raise BadInput(detector.place(name), None, "holds values that are not finite: store numbers")
    return image


def read_illumination(top: CheckedGroup, shape: tuple[int, int]) -> np.ndarray | None:
    """A complex probe ``(mode, y, x)`` of the window's size, if the file has one."""
    for group in ("instrument_1/source_1", "instrument_1", "instrument_1/detector_1"):
        tree = top.first(group)
        name = tree.find(*ILLUMINATION_NAMES) if tree else None
        if tree is None or name is None:
            continue
        probe = np.asarray(tree.group[name])
        if probe.dtype.kind == "c" and probe.shape[-2:] == shape:
            probe = probe.reshape(-1, *shape)
            return probe if np.isfinite(probe).all() else None
    return None
