"""Rotation and strain of the crystal at each place of a scan, from the lattices of its patterns.

**Signs.** ``x`` is the direction in which the beam is scanned fast (the columns of a map), ``y`` the slow one
(its rows, downwards on a screen). Rotation is positive from x towards y, clockwise on a screen. Strain is
that of the crystal: positive where its planes are farther apart than in the reference, and its spots nearer
together. With the deformation ``F = V R`` of the reference into the crystal, rotation is that of ``R`` and
strain is ``V - 1``, along x and y as they are seen, however far the crystal is turned.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np

from phaseloom.data.formats.files import open_hdf5, require_file
from phaseloom.data.own_files.members import Member, read_members
from phaseloom.data.scan import Scan4D
from phaseloom.embedding.strain.lattice import build_turn, list_symmetries, measure_turn
from phaseloom.embedding.strain.lattice_map import LatticeMap, map_lattices
from phaseloom.errors import BadInput
from phaseloom.files import whole_hdf5
from phaseloom.result import Provenance

__all__ = ["QUANTITIES", "Region", "StrainMap", "compute_strain", "describe_strain"]
__all__ += ["map_strain", "select_region"]

QUANTITIES = ("rotation", "exx", "eyy", "exy")
UNITS = {"rotation": "degree"} | dict.fromkeys(QUANTITIES[1:], "1")
STRAIN_ALLOWANCE = 0.03  # by which a relabelled lattice may be strained more, and is chosen for its rotation
MAX_ERROR = 0.05  # of strain, beyond which nothing is known
MIN_LATTICES = 3  # that are compared
ERROR_OF_MEDIAN = math.sqrt(math.pi / 2)  # over that of a mean, of normal errors
STEP = 1e-5  # of a basis, for derivatives
ARRAYS = ("values", "errors", "misfit", "totals", "positions", "bases", "origins", "reference")

STRAIN_FILE = (
    Member("values", "real", "pattern 4", finite=False),
    Member("errors", "real", "pattern 4", finite=False),
    Member("misfit", "real", "pattern", finite=False),
    Member("totals", "real", "pattern"),
    Member("positions", "real", "pattern 2"),
    Member("bases", "real", "pattern 2 2", finite=False),
    Member("origins", "real", "pattern 2", finite=False),
    Member("reference", "real", "2 2"),
    Member("grid", "integer", "2", positive=True, optional=True),
    Member("@symmetry", "integer", positive=True),
    Member("@notes", "text"),
    Member("provenance", "json", form=Provenance),
)
"""What is read of a file of strain."""

Region = tuple[int, int, int, int]
"""Rows from and to, columns from and to (the last ones not included)."""


@dataclass(frozen=True, eq=False)
class StrainMap:
    """Rotation and strain of a scan of ``n`` patterns; NaN where no lattice was found.

    Attributes:
        values: ``(n, 4)``: rotation (degrees), exx, eyy, exy (1: 100 %).
        errors: ``(n, 4)`` standard errors by counting noise, and by the misfit where it is more; without that
            of the reference.
        misfit: ``(n,)`` Poisson deviance of the fitted disks over what shot noise alone would leave. Far
            above 1 the disks are not those of one lattice, or not smoothly lit.
        totals: ``(n,)`` counts in the pixels that were used.
        positions: ``(n, 2)`` of the beam (row, column), angstrom.
        bases: ``(n, 2, 2)`` reciprocal lattices; columns are vectors (row, column) in pixels.
        origins: ``(n, 2)`` pixels of the direct beam.
        reference: ``(2, 2)`` basis of the lattice whose rotation and strain are zero.
        grid: rows and columns of the scan, or ``None``.
        symmetry: rotations are known up to multiples of 360 degrees over this.
        notes: sentences on what was found.
        provenance: see `phaseloom.result.Provenance`.
    """

    values: np.ndarray
    errors: np.ndarray
    misfit: np.ndarray
    totals: np.ndarray
    positions: np.ndarray
    bases: np.ndarray
    origins: np.ndarray
    reference: np.ndarray
    grid: tuple[int, int] | None
    symmetry: int
    notes: tuple[str, ...]
    provenance: Provenance

    def __len__(self) -> int:
        """Number of patterns."""
        return len(self.values)

    @property
    def known(self) -> np.ndarray:
        """Which patterns ``(n,)`` have a lattice."""
        return np.asarray(np.isfinite(self.values).all(1))

    def write(self, path: Path, /) -> Path:
        """Leave all of it in an HDF5 file, each quantity as a map if the scan is a raster.

        Raises:
            BadInput: a name with another ending.
        """
        if path.suffix not in (".h5", ".hdf5"):
            raise BadInput("--out", path.name, "is not an .h5 file: give it this ending")
        shape = (len(self),) if self.grid is None else self.grid
        with whole_hdf5(path) as file:
            for number, name in enumerate(QUANTITIES):
                for group, table in (("maps", self.values), ("errors_of_maps", self.errors)):
                    file[f"{group}/{name}"] = table[:, number].reshape(shape)
                    file[f"{group}/{name}"].attrs["units"] = UNITS[name]
            for name in ARRAYS:
                file[name] = getattr(self, name)
            file["values"].attrs["columns"] = file["errors"].attrs["columns"] = QUANTITIES
            file["positions"].attrs["units"] = "angstrom"
            if self.grid is not None:
                file["grid"] = np.array(self.grid)
            file["provenance"] = json.dumps(asdict(self.provenance))
            file.attrs.update(
                {"phaseloom_strain": 1, "symmetry": self.symmetry, "notes": "\n".join(self.notes)}
            )
        return path

    @classmethod
    def load(cls, path: Path | str, /) -> Self:
        """What `write` has left.

        Raises:
            BadInput: a file of something else.
        """
        path = require_file(path)
        with open_hdf5(path) as file:
            if "phaseloom_strain" not in file.attrs:
                raise BadInput(path.name, None, "is not a file of phaseloom strain")
            found = read_members(file, STRAIN_FILE, path.name)
        grid = None if found["grid"] is None else (int(found["grid"][0]), int(found["grid"][1]))
        arrays = {name: found[name] for name in ARRAYS}
        if grid is not None and math.prod(grid) != len(arrays["values"]):
            raise BadInput(path.name, None, "holds arrays that do not fit together: map the strain again")
        notes = tuple(found["notes"].splitlines())
        made = {"grid": grid, "notes": notes, "provenance": found["provenance"]}
        return cls(**arrays, **made, symmetry=int(found["symmetry"]))


def map_strain(
    scan: Scan4D,
    /,
    *,
    region: Region | None = None,
    radius: float | None = None,
    centre: tuple[float, float] | None = None,
    name: str = "",
) -> StrainMap:
    """Measure rotation and strain of the crystal in each pattern by maximum likelihood.

    Each pattern is modelled as a lattice of disks (or spots) of one shape with free intensities and slopes,
    whose centres alone are moved by strain. The search over all rotations adds up neighbours where electrons
    are few; the fit is that of single patterns.

    Args:
        scan: far-field patterns whose disks do not overlap.
        region: of the reference (rows from, to, columns from, to); default: the median lattice of the scan.
        radius: of the disks, pixels; default: estimated.
        centre: of the direct beam, pixel (row, column); default: the centre of symmetry of the patterns.
        name: of the file that the scan is of.

    Raises:
        BadInput: a near field, no spots, no lattice, disks that overlap, or a region outside of the scan or
            without a lattice.

    Source: Ozdol et al. 2015, doi 10.1063/1.4921683 (strain by diffraction disks); Pekin et al. 2017, doi
    10.1016/j.ultramic.2016.12.021 (their detection).
    """
    chosen = None if region is None else select_region(scan.grid, region)
    return compute_strain(map_lattices(scan, radius=radius, centre=centre), scan, chosen, name=name)


def describe_strain(found: StrainMap, /) -> Iterator[str]:
    """Lines for a screen: how many lattices, spread and error of each quantity."""
    share = f"{found.known.sum()} of {len(found)} patterns"
    turns = f"known up to multiples of {360 / found.symmetry:g} degrees"
    yield f"lattices:   {share}; rotation from x (fast) to y (slow), {turns}"
    if not found.known.any():
        return
    for number, name in enumerate(QUANTITIES):
        factor, unit = (1, "degrees") if number == 0 else (100, "%")
        values = factor * found.values[found.known, number]
        low, middle, high = np.percentile(values, [5, 50, 95])
        error = factor * float(np.median(found.errors[found.known, number]))
        reach = f"5 to 95 of 100 from {low:+.3f} to {high:+.3f}"
        yield f"{name + ':':<11} median {middle:+.3f}, {reach}, error {error:.3f} {unit}"


def select_region(grid: tuple[int, int] | None, region: Region, /) -> np.ndarray:
    """Which patterns ``(n,)`` of a raster lie in a region.

    Raises:
        BadInput: no raster, or a region outside of it.
    """
    text = ",".join(map(str, region))
    if grid is None:
        raise BadInput("region", text, "needs a raster: leave it out for the median lattice")
    top, bottom, left, right = region
    if not (0 <= top < bottom <= grid[0] and 0 <= left < right <= grid[1]):
        fix = f"is not within the {grid[0]} x {grid[1]} places: write ROW,ROW,COLUMN,COLUMN, from and to"
        raise BadInput("region", text, fix)
    chosen = np.zeros(grid, bool)
    chosen[top:bottom, left:right] = True
    return chosen.ravel()


def compute_strain(
    lattices: LatticeMap, scan: Scan4D, chosen: np.ndarray | None = None, /, *, name: str = ""
) -> StrainMap:
    """Rotation and strain of lattices against that of a reference.

    Args:
        lattices: of the scan.
        scan: for its geometry.
        chosen: ``(n,)`` patterns of the reference; default: all.
        name: of the file.

    Raises:
        BadInput: fewer than three lattices, or none in the region of the reference.
    """
    scale = np.diag(np.array(scan.geometry.angle) / np.mean(scan.geometry.angle))
    axes, noted = _find_axes(scan)
    covariance = _invert_information(lattices)
    bases = scale @ lattices.bases
    known = np.isfinite(bases).all((1, 2))
    pool = known if chosen is None else known & chosen
    if known.sum() < MIN_LATTICES:
        fix = (
            f"finds a lattice in {known.sum()} of {len(scan)} patterns, too few to compare: disks may "
            "overlap (record with a smaller semi-angle), or too few of them stand out"
        )
        raise BadInput("strain", None, fix)
    if not pool.any():
        raise BadInput("region", None, "holds no pattern with a lattice: choose another one")
    reference = scale @ lattices.common
    symmetries = list_symmetries(reference)
    for _ in range(3):
        bases = _label(bases, reference, symmetries)
        reference = _average(bases[pool], reference)
    bases = _label(bases, reference, symmetries)
    values = np.full((len(scan), 4), np.nan)
    errors = np.full((len(scan), 4), np.nan)
    values[known] = _decompose(bases[known], reference, axes)
    # columns of the relabelled basis are combinations of those that were fitted
    slopes = _differentiate(bases[known], reference, axes)
    relabel = np.linalg.solve(scale @ lattices.bases[known], bases[known])
    errors[known] = _propagate(slopes, relabel, scale, covariance[known], lattices.misfit[known])
    notes = (*lattices.notes, *noted)
    if chosen is not None:
        notes = (*notes, _describe_reference(errors[pool]))
    lost = known & ~(errors[:, 1:] < MAX_ERROR).all(1)
    values[lost] = errors[lost] = np.nan
    if lost.any():
        fix = f"{lost.sum()} patterns determine strain to no better than {100 * MAX_ERROR:g} %: left out"
        notes = (*notes, fix)
    return StrainMap(
        values=values,
        errors=errors,
        misfit=np.where(lost, np.nan, lattices.misfit),
        totals=lattices.totals,
        positions=scan.positions,
        bases=np.linalg.inv(scale) @ bases,
        origins=lattices.origins,
        reference=np.linalg.inv(scale) @ reference,
        grid=scan.grid if scan.grid is not None and math.prod(scan.grid) == len(scan) else None,
        symmetry=len(symmetries),
        notes=notes,
        provenance=Provenance.now(seed=0, data=scan.digest(), file=name),
    )


def _find_axes(scan: Scan4D) -> tuple[np.ndarray, tuple[str, ...]]:
    """Unit vectors (row, column) of the detector along y and x of the raster, as rows, and a note."""
    notes = (
        ()
        if scan.oriented
        else ("the file does not say how the detector lies against the raster: axes of maps are its own",)
    )
    if scan.grid is None or min(scan.grid) < 2 or math.prod(scan.grid) != len(scan):
        return np.eye(2), notes
    places = scan.positions.reshape(*scan.grid, 2)
    steps = np.stack([(places[-1] - places[0]).mean(0), (places[:, -1] - places[:, 0]).mean(0)])
    lengths = np.linalg.norm(steps, axis=1, keepdims=True)
    if not lengths.all() or abs(np.linalg.det(steps / lengths)) < 0.5:
        return np.eye(2), notes
    # a raster that is a little oblique has the fast axis for x
    along = steps[1] / lengths[1]
    down = np.array([along[1], -along[0]])
    return np.stack([down * np.sign(down @ steps[0]), along]), notes


def _invert_information(lattices: LatticeMap) -> np.ndarray:
    """Covariances ``(n, 4, 4)`` of the two vectors, their origin unknown."""
    information = np.nan_to_num(lattices.information)
    trace = np.trace(information, axis1=1, axis2=2)[:, None, None]
    return np.linalg.inv(information + (1e-12 * trace + 1e-12) * np.eye(6))[:, 2:, 2:]


def _describe_reference(errors: np.ndarray) -> str:
    """What the error of a reference adds to all places, from those of its patterns ``(m, 4)``."""
    common = ERROR_OF_MEDIAN * np.sqrt((errors**2).mean(0) / len(errors))
    strain = 100 * float(np.sqrt((common[1:] ** 2).mean()))
    return (
        f"reference of {len(errors)} patterns: its own error, {common[0]:.3f} degrees and {strain:.3f} % of "
        "strain, shifts all places alike"
    )


def _label(bases: np.ndarray, reference: np.ndarray, symmetries: np.ndarray) -> np.ndarray:
    """The same lattices by the vectors that are least strained, and among such least turned."""
    options = bases[:, None] @ symmetries
    change = options @ np.linalg.inv(reference)
    strain = np.abs(np.linalg.svd(np.nan_to_num(change), compute_uv=False) - 1).max(-1)
    turn = np.abs(measure_turn(change))
    turn = np.where(strain < strain.min(1, keepdims=True) + STRAIN_ALLOWANCE, np.nan_to_num(turn), np.inf)
    return options[np.arange(len(bases)), turn.argmin(1)]


def _average(bases: np.ndarray, before: np.ndarray) -> np.ndarray:
    """The lattice of median lengths, angle and rotation."""
    turns = measure_turn(bases @ np.linalg.inv(before))
    metric = np.median(bases.transpose(0, 2, 1) @ bases, axis=0)
    a = math.sqrt(metric[0, 0])
    along = metric[0, 1] / a
    shape = np.array([[0.0, math.sqrt(max(metric[1, 1] - along**2, 1e-12))], [a, along]])
    # most of a scan is one grain, or none: the turn of the lattice that most others are near
    near = np.abs(turns[:, None] - turns[None, :: max(1, len(turns) // 500)]) < 2.0
    middle = turns[:: max(1, len(turns) // 500)][near.sum(0).argmax()]
    turned = float(np.median(turns[np.abs(turns - middle) < 2.0]))
    wanted = build_turn(turned) @ before
    return build_turn(float(measure_turn(wanted @ np.linalg.inv(shape)))) @ shape


def _decompose(bases: np.ndarray, reference: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Rotation (degrees) and strain ``(n, 4)`` of bases."""
    deformation = np.linalg.inv(bases @ np.linalg.inv(reference)).swapaxes(-1, -2)
    deformation = axes @ deformation @ axes.T
    left, stretch, right = np.linalg.svd(deformation)
    strain = (left * stretch[..., None, :]) @ left.swapaxes(-1, -2) - np.eye(2)
    rotation = measure_turn(left @ right)
    return np.stack([rotation, strain[..., 1, 1], strain[..., 0, 0], strain[..., 0, 1]], -1)


def _differentiate(bases: np.ndarray, reference: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Derivatives ``(n, 4, 4)`` of rotation and strain by the first and the second vector of a basis."""
    found = []
    size = STEP * float(np.abs(reference).max())
    for number in range(4):
        step = np.zeros(4)
        step[number] = size
        moved = step.reshape(2, 2).T
        ahead, behind = (_decompose(bases + sign * moved, reference, axes) for sign in (1, -1))
        found.append((ahead - behind) / (2 * size))
    return np.stack(found, -1)


def _propagate(
    slopes: np.ndarray, relabel: np.ndarray, scale: np.ndarray, covariance: np.ndarray, misfit: np.ndarray
) -> np.ndarray:
    """Standard errors ``(n, 4)``."""
    # new vectors b'_k = sum_j scale b_j relabel_jk
    mixed = np.einsum("njk,ab->nkajb", relabel, scale).reshape(-1, 4, 4)
    total = slopes @ mixed
    variance = np.einsum("nqi,nij,nqj->nq", total, covariance, total)
    return np.sqrt(variance.clip(0) * np.maximum(misfit, 1)[:, None])
