"""Transforms of the scan: which patterns are used, where the beam was, how the sample is tilted."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from phaseloom.data.beam_drift import measure_beam_drift
from phaseloom.data.prepare._shared import make_example as _example  # noqa: F401 - for the examples
from phaseloom.data.prepare._shared import require_number, require_ranges
from phaseloom.data.scan import ACROSS, Scan4D
from phaseloom.errors import BadInput
from phaseloom.units import Angle

__all__ = [
    "affine",
    "half",
    "jitter",
    "positions",
    "region",
    "rotate",
    "scale",
    "select",
    "tilt_sample",
    "weights",
    "without",
]


def select(scan: Scan4D, /, *, start: int = 0, stop: int | None = None, every: int = 1) -> Scan4D:
    """Every ``every``-th pattern from ``start`` up to, but without, ``stop``.

    Raises:
        BadInput: no pattern is left, or ``every`` is less than 1.

    Example:
        >>> len(select(_example(), every=2))
        2
    """
    if every < 1:
        raise BadInput("select.every", every, "must be 1 or more")
    return scan.select(np.arange(len(scan))[start:stop:every])


def half(scan: Scan4D, /, *, which: Literal[0, 1], seed: int = 0) -> Scan4D:
    """One of two random halves without a common pattern, to compare two reconstructions.

    Raises:
        BadInput: fewer than two patterns, or a half other than 0 and 1.

    Example:
        >>> len(half(_example(), which=0)), len(half(_example(), which=1))
        (1, 2)
    """
    if which not in (0, 1) or len(scan) < 2:
        fix = f"is not a half of {len(scan)} patterns: choose 0 or 1 of two or more"
        raise BadInput("half.which", which, fix)
    order = np.random.default_rng(seed).permutation(len(scan))
    cut = len(scan) // 2
    return scan.select(np.sort(order[cut:] if which else order[:cut]))


def rotate(scan: Scan4D, /, *, angle: Angle) -> Scan4D:
    """Turn the positions by an angle that takes the row axis (y) towards the column axis (x).

    Raises:
        BadInput: an angle that is not finite.

    Example:
        >>> rotate(_example(), angle=np.pi / 2).positions[1].round(6).tolist()
        [0.0, 1.0]
    """
    if not np.isfinite(angle):
        raise BadInput("rotate.angle", angle, "must be finite")
    c = np.cos(angle)
    s = np.sin(angle)
    return _multiply_positions(scan, np.array([[c, s], [-s, c]]))


def scale(scan: Scan4D, /, *, factor: float | tuple[float, float]) -> Scan4D:
    """Multiply the positions by a factor, or by one for each of (y, x), to correct a step or a mirrored axis.

    Raises:
        BadInput: a factor that is zero or not finite.

    Example:
        >>> scale(_example(), factor=(-2.0, 1.0)).positions[1].tolist()
        [-2.0, 0.0]
    """
    factors = np.asarray(factor, np.float64)
    if factors.shape not in ((), (2,)) or not (np.isfinite(factors).all() and factors.all()):
        raise BadInput("scale.factor", factor, "must be a number other than zero, or two of them")
    return _multiply_positions(scan, np.diag(np.broadcast_to(factors, 2)))


def _multiply_positions(scan: Scan4D, matrix: np.ndarray, centre: np.ndarray | float = 0.0) -> Scan4D:
    """Positions about a centre, and the offsets between joined scans, multiplied from the right."""
    offsets = None if scan.scan_offsets is None else scan.scan_offsets @ matrix
    return replace(scan, positions=(scan.positions - centre) @ matrix + centre, scan_offsets=offsets)


def region(
    scan: Scan4D,
    /,
    *,
    rows: tuple[int, int] | None = None,
    columns: tuple[int, int] | None = None,
    every: tuple[int, int] = (1, 1),
) -> Scan4D:
    """Keep the rows and columns ``[first, last)`` of a raster, or every so many of them: less to compute.

    Raises:
        BadInput: a scan without a raster, or rows and columns that it does not have.

    Example:
        >>> raster = replace(_example(), grid=(3, 1))
        >>> region(raster, rows=(1, 3)).grid
        (2, 1)
    """
    if scan.grid is None:
        raise BadInput("region", None, "needs a raster: use select, or say the grid when reading")
    ranges = require_ranges(scan.grid, {"region.rows": rows, "region.columns": columns})
    if min(every) < 1:
        raise BadInput("region.every", list(every), "must be 1 or more")
    kept = tuple(slice(*pair, step) for pair, step in zip(ranges, every, strict=True))
    place = np.arange(len(scan)).reshape(scan.grid)[kept]
    return replace(scan.select(place.ravel()), grid=place.shape)


def affine(
    scan: Scan4D,
    /,
    *,
    scale: float = 1.0,
    asymmetry: float = 0.0,
    rotation: Angle = 0.0,
    shear: Angle = 0.0,
) -> Scan4D:
    """Correct a distorted scan: positions are scaled, turned and sheared about their mean.

    A position (row, column) is multiplied from the right by ``scale * diag(1 + a/2, 1 - a/2) @ R @ S``
    with ``R = [[cos, sin], [-sin, cos]]`` and ``S = [[1, 0], [tan(shear), 1]]``.

    Args:
        scan: the scan.
        scale: of all steps.
        asymmetry: ``a``, by how much the slow axis is stretched against the fast one.
        rotation: takes the row axis towards the column axis, radian.
        shear: radian.

    Raises:
        BadInput: numbers that are not finite, or that fold the scan on a line.

    Example:
        >>> affine(_example(), scale=2.0).positions[:, 0].tolist()
        [-1.0, 1.0, 3.0]
    """
    numbers = {"scale": scale, "asymmetry": asymmetry, "rotation": rotation, "shear": shear}
    for name, value in numbers.items():
        require_number(value, f"affine.{name}")
    c = np.cos(rotation)
    s = np.sin(rotation)
    stretch = scale * np.diag([1 + asymmetry / 2, 1 - asymmetry / 2])
    matrix = stretch @ np.array([[c, s], [-s, c]]) @ np.array([[1.0, 0.0], [np.tan(shear), 1.0]])
    if abs(np.linalg.det(matrix)) < 1e-6:
        raise BadInput("affine", numbers, "folds the scan on a line: keep scale and 2 - |asymmetry| from 0")
    return _multiply_positions(scan, matrix, scan.positions.mean(0))


def jitter(scan: Scan4D, /, *, std: float, seed: int = 0) -> Scan4D:
    """Move every position by a normal error of ``std`` object pixels along each axis.

    A perfect raster prints its own grid on the picture; this breaks it, and the same seed repeats it.

    Raises:
        BadInput: a spread below zero.

    Example:
        >>> again = [jitter(_example(), std=0.5, seed=3).positions for _ in range(2)]
        >>> bool((again[0] == again[1]).all())
        True
    """
    require_number(std, "jitter.std", least=0)
    drawn = np.random.default_rng(seed).normal(0.0, 1.0, scan.positions.shape)
    return replace(scan, positions=scan.positions + std * drawn * np.asarray(scan.geometry.pixel))


def positions(
    scan: Scan4D, /, *, path: Path, unit: Literal["A", "nm", "um", "mm", "m", "px"] = "A"
) -> Scan4D:
    """Replace the positions by those of a file: a table of ours, or a result of ours or another program.

    Results of ours bring their heights along the beam with them, where they have any.

    Args:
        scan: the scan.
        path: an ``.npy``, ``.csv`` or ``.txt`` file with columns (row, column), or a result.
        unit: of a table; ``px`` are object pixels. Results know their own.

    Raises:
        BadInput: a file without positions, or with those of another number of patterns.

    Example:
        >>> np.save("places.npy", np.eye(3)[:, :2])
        >>> positions(_example(), path="places.npy", unit="nm").positions[1].tolist()
        [0.0, 10.0]
    """
    from phaseloom.data.formats.quantities.tables import read_table
    from phaseloom.data.formats.setup import convert_positions

    place = f"positions.path: {path}"
    heights = scan.heights
    if Path(path).suffix in (".npy", ".csv", ".txt"):
        found = convert_positions(read_table(Path(path)), unit, scan.geometry, len(scan), place)
    else:
        found = _read_refined_positions(path, scan.window.pixel[0])
        heights = _read_heights(path, heights)
    if found.shape != (len(scan), 2):
        raise BadInput(place, f"{len(found)} positions", f"but there are {len(scan)} patterns: read others")
    return replace(scan, positions=found, heights=heights)


def weights(scan: Scan4D, /, *, path: Path | None = None, drift: bool = False) -> Scan4D:
    """Intensities of the shots: the slow drift of the beam, or what an earlier run of ours found.

    A run has the intensity of each shot, the shift of each pattern if that was refined, and the
    background: with `positions`, and the object, probe and tilts of that run, its model is complete.

    Args:
        scan: its patterns.
        path: a result of ours.
        drift: measure how the counts of whole patterns change slowly (`phaseloom.data.beam_drift`); where
            they do not by more than chance, nothing is changed.

    Raises:
        BadInput: neither or both, a file without weights, or with those of another number of patterns.
    """
    from phaseloom.data import importers

    if (path is None) != drift:
        raise BadInput("weights", None, "needs either path: result.h5 or drift: true")
    if path is None:
        found = measure_beam_drift(scan)
        return scan if found is None else replace(scan, weights=found)
    place = f"weights.path: {path}"
    found = importers.read(path)
    if found.weights is None:
        raise BadInput(place, None, "holds no weights of shots: only results of ours do")
    if found.weights.shape != (len(scan),):
        fix = f"but there are {len(scan)} patterns: read others"
        raise BadInput(place, f"{len(found.weights)} weights", fix)
    known = {"weights": np.asarray(found.weights, np.float64)}
    if found.descan is not None:
        known["descan"] = found.descan
    if found.background is not None and found.background.shape == scan.geometry.shape:
        known["background"] = found.background
    return replace(scan, **known)


def _read_heights(path: Path, usual: np.ndarray | None) -> np.ndarray | None:
    from phaseloom.data import importers

    found = importers.read(path).heights if importers.find_program(path) == "ours" else None
    return usual if found is None else found


def _read_refined_positions(path: Path, pixel: float) -> np.ndarray:
    from phaseloom.data import importers

    return importers.read_positions(path, pixel=pixel)


def without(scan: Scan4D, /, *, numbers: tuple[int, ...] = (), path: Path | None = None) -> Scan4D:
    """Leave patterns out; the others are then on no raster.

    Patterns are counted from zero, of the scan as it is at this step. A file of ``phaseloom embed`` names
    those that stand out with their places. Where it knows fewer patterns than there are here (blank ones
    were left out before it was made), they are found by these places.

    Args:
        scan: the scan.
        numbers: of patterns.
        path: embeddings (.h5 .npz), or a list of numbers (.txt .csv .npy).

    Raises:
        BadInput: neither of both, a number that no pattern has, a file of something else or of another
            scan, or no pattern that is left.

    Example:
        >>> without(_example(), numbers=(1,)).positions[:, 0].tolist()
        [0.0, 2.0]
    """
    if path is None and not numbers:
        raise BadInput("without", None, "needs numbers of patterns, or the path of a file with them")
    named = (
        np.asarray(numbers, np.int64) if path is None else np.append(_read_numbers(Path(path), scan), numbers)
    )
    wrong = named[(named < 0) | (named >= len(scan))]
    if len(wrong):
        fix = f"is not a pattern of this scan: count from 0 to {len(scan) - 1}"
        raise BadInput("without", int(wrong[0]), fix)
    kept = np.ones(len(scan), bool)
    kept[named.astype(np.int64)] = False
    return scan.select(np.flatnonzero(kept))


def _read_numbers(path: Path, scan: Scan4D) -> np.ndarray:
    """Numbers of the patterns that a file names."""
    from phaseloom.data.formats.quantities.tables import read_table

    if path.suffix in (".h5", ".hdf5", ".npz"):
        return _find_unusual(path, scan)
    values = np.ravel(read_table(path))
    if values.dtype.kind not in "iuf" or not (values == np.round(values)).all():
        raise BadInput(f"without.path: {path}", None, "must hold whole numbers of patterns and nothing else")
    return values.astype(np.int64)


def _find_unusual(path: Path, scan: Scan4D) -> np.ndarray:
    named, places = _read_unusual(path)
    place = f"without.path: {path}"
    if len(places) == len(scan):
        if not np.allclose(places, scan.positions, rtol=0, atol=_position_tolerance(scan)):
            fix = "is of a scan with other positions: let this be the step after those that it was made with"
            raise BadInput(place, None, fix)
        return named
    from scipy.spatial import KDTree

    tree = KDTree(scan.positions)
    near = _position_tolerance(scan)
    away, numbers = tree.query(places)
    alone = all(len(one) == 1 for one in tree.query_ball_point(places[named], near))
    if (away > near).any() or (np.diff(numbers) < 1).any() or not alone:
        fix = f"but there are {len(scan)} here, not one at each of their places: embed this scan again"
        raise BadInput(place, f"is of {len(places)} patterns", fix)
    return np.asarray(numbers)[named]


def _position_tolerance(scan: Scan4D) -> float:
    """A distance that is none, angstrom."""
    return 1e-6 * max(1.0, *scan.extent)


def _read_unusual(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of patterns that stand out, and places of all, of embeddings."""
    from phaseloom.data.formats.arrays import load_npz
    from phaseloom.data.formats.files import open_hdf5, require_file
    from phaseloom.data.own_files.members import Member, read_members

    table = (Member("unusual", "integer", None), Member("positions", "real", "pattern 2"))
    try:
        if require_file(path).suffix == ".npz":
            stored = read_members(load_npz(path, [one.name for one in table]), table, path.name)
        else:
            with open_hdf5(path) as file:
                stored = read_members(file, table, path.name)
    except BadInput as problem:
        fix = f"names no patterns that stand out ({problem}): give a file of phaseloom embed"
        raise BadInput(f"without.path: {path}", None, fix) from problem
    return stored["unusual"].astype(np.int64).ravel(), stored["positions"]


def tilt_sample(
    scan: Scan4D,
    /,
    *,
    normal: tuple[float, float, float] | None = None,
    scattering: Literal["transmission", "reflection"] | None = None,
) -> Scan4D:
    """Say how the sample's surface lies: positions are projected on it, and heights follow.

    Positions are then those that the detector sees of the points that the beam hits, and the object's grid is
    an oblique one on the surface, with the steps ``geometry.steps`` (docs/geometry.md). Corrections of the
    scan come before this.

    Args:
        scan: the scan.
        normal: of the surface in the laboratory's frame (x, y, z), of any length; the beam travels along z.
        scattering: instead of a normal: ``transmission``, a surface across the beam; ``reflection``, one that
            reflects the beam into the middle of the detector.

    Raises:
        BadInput: not one of the two, a surface along the beam or seen from its edge, or a near field.

    Example:
        >>> tilted = tilt_sample(_example(), normal=(0.0, 0.6, 0.8))
        >>> tilted.positions[:, 0].tolist(), tilted.heights.round(3).tolist()
        ([0.0, 1.0, 2.0], [0.0, -0.75, -1.5])
    """
    from phaseloom.physics import tilted_planes as surface  # with PyTorch, which other preparations spare

    if (normal is None) == (scattering is None):
        raise BadInput("tilt_sample", None, "needs one of normal and scattering")
    old = scan.geometry
    if scattering is not None:
        normal = ACROSS if scattering == "transmission" else tuple(surface.mirror_normal(old.basis).tolist())
    lying = normal if normal is not None else ACROSS
    along = np.zeros(len(scan)) if scan.heights is None else scan.heights
    beam = surface.restore_beam(scan.positions, along, old.basis, old.normal)
    geometry = replace(old, normal=lying)
    surface.grid_steps(old.basis, old.pixel, geometry.normal)
    positions, heights = surface.project_beam(beam, old.basis, geometry.normal)
    return replace(
        scan,
        positions=positions,
        heights=heights if np.ptp(heights) > 1e-3 else None,
        geometry=geometry,
        modelled=None if scan.modelled is None else replace(scan.modelled, normal=lying),
    )
