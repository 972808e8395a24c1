"""Images of a scan by virtual detectors, centres of mass and what they integrate to, in one pass of the data.

Patterns are taken as **counts of the beam**: without untrusted pixels, less a
known background, divided by a known efficiency (`flat`). Weights of shots are not applied.

**Sign of a deflection**: an exit wave ``exp(i phase)`` whose phase rises towards larger rows (columns) moves
the pattern to larger rows (columns), which is positive: ``deflection = wavelength / (2 pi) * gradient``, in
radian, (y, x). Electrons gain phase in matter, so a thin specimen bends them towards its atoms.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from phaseloom.data.calibrate import fit_disk
from phaseloom.data.counts import split_indices
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput, nearest
from phaseloom.virtual.annuli import VirtualDetector, format_mrad
from phaseloom.virtual.radial import RadialProfile, Rings, compute_angles, get_centre

__all__ = ["DirectBeam", "ScanMeasurement", "arrange_on_grid", "average_groups", "find_beam"]
__all__ += ["compute_profiles", "integrate_phase", "measure_scan", "subtract_plane"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class DirectBeam:
    """Where the direct beam is and how wide.

    Attributes:
        semiangle: of its disk, radian.
        centre: pixel (y, x).
        notes: sentences on where both come from.
    """

    semiangle: float
    centre: tuple[float, float]
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class ScanMeasurement:
    """What one pass over a scan gives; values are in the order of its patterns.

    Attributes:
        detectors: in the order of the images.
        values: ``(detector, n)`` counts, divided by `trusted`.
        trusted: ``(detector,)`` share of each detector's area that is on trusted pixels.
        total: ``(n,)`` counts in all trusted pixels.
        deflection: ``(n, 2)`` angle (y, x) from the beam's centre to the centre of mass, radian; NaN in a
            pattern without counts.
        mean: ``(y, x)`` mean pattern.
        highest: ``(y, x)`` largest counts of each pixel.
        spread: ``(y, x)`` standard deviation of each pixel over the scan.
        centre: pixel (y, x) of the beam.
        positions: ``(n, 2)`` angstrom.
        grid: rows (slow) and columns (fast) of the scan, or ``None``.
    """

    detectors: tuple[VirtualDetector, ...]
    values: Floats
    trusted: Floats
    total: Floats
    deflection: Floats
    mean: Floats
    highest: Floats
    spread: Floats
    centre: tuple[float, float]
    positions: Floats
    grid: tuple[int, int] | None

    def image(self, name: str, /) -> Floats:
        """Counts in a detector: an image (rows, columns) of a raster, else a value for each pattern."""
        names = [one.name for one in self.detectors]
        if name not in names:
            raise BadInput("detector", name, f"is none of these: {nearest(name, names)}")
        return arrange_on_grid(self.values[names.index(name)], self.grid)


def arrange_on_grid(values: np.ndarray, grid: tuple[int, int] | None, /) -> np.ndarray:
    """Values ``(n, ...)`` as ``(rows, columns, ...)`` where the patterns are a raster, else as they are.

    Example:
        >>> arrange_on_grid(np.arange(6), (2, 3)).tolist(), arrange_on_grid(np.arange(2), None).tolist()
        ([[0, 1, 2], [3, 4, 5]], [0, 1])
    """
    if grid is None or math.prod(grid) != len(values):
        return values
    return values.reshape(*grid, *values.shape[1:])


def find_beam(
    scan: Scan4D, /, *, semiangle: float | None = None, centre: tuple[float, float] | None = None
) -> DirectBeam:
    """The direct beam: what is not given is read off the disk of the mean pattern.

    Args:
        scan: a far-field scan.
        semiangle: radian; default: the radius of the fitted disk (`phaseloom.data.calibrate.fit_disk`).
        centre: pixel (y, x); default: that of the disk, or without one, zero frequency.

    Raises:
        BadInput: no semi-angle is given and no disk is found.
    """
    geometry = scan.geometry
    zero = get_centre(geometry, centre)
    if semiangle is not None and not (math.isfinite(semiangle) and semiangle > 0):
        raise BadInput("semiangle", semiangle, "is not a positive angle: write for example '21 mrad'")
    if semiangle is not None and centre is not None:
        return DirectBeam(semiangle, zero, ("semi-angle and centre are as given",))
    try:
        disk = fit_disk(_compute_trusted_mean(scan), mask=scan.mask)
    except BadInput as problem:
        if semiangle is None:
            fix = f"is not known, and no disk tells it ({problem.fix}): give it, for example '21 mrad'"
            raise BadInput("semiangle", None, fix) from None
        note = f"no disk was found, so the beam is taken at pixel ({zero[0]:g}, {zero[1]:g})"
        return DirectBeam(semiangle, zero, (note,))
    found = disk.radius * math.sqrt(math.prod(geometry.angle))
    notes = [
        f"the disk of the mean pattern has a radius of {disk.radius:.2f} ± {disk.radius_error:.2f} pixels, "
        f"{format_mrad(found)}, and is centred on pixel ({disk.centre[0]:.2f}, {disk.centre[1]:.2f})"
    ]
    if semiangle is not None and abs(found / semiangle - 1) > 0.05:
        notes.append(
            f"which is not the {format_mrad(semiangle)} given: calibrate the pixels, or leave it out"
        )
    return DirectBeam(semiangle or found, zero if centre is not None else disk.centre, tuple(notes))


def _compute_trusted_mean(scan: Scan4D) -> Floats:
    mean = scan.mean_pattern() - (0.0 if scan.background is None else scan.background)
    return np.where(_get_trusted_pixels(scan), mean / _get_efficiency(scan), 0.0)


def _get_trusted_pixels(scan: Scan4D) -> NDArray[np.bool_]:
    return scan.mask if scan.flat is None else scan.mask & (scan.flat > 0)


def _get_efficiency(scan: Scan4D) -> np.ndarray | float:
    return 1.0 if scan.flat is None else np.where(scan.flat > 0, scan.flat, 1.0)


def _read_counts(scan: Scan4D) -> Iterator[tuple[NDArray[np.int64], Floats]]:
    """Indices and counts of the beam ``(m, y * x)``, float64, piece by piece."""
    good = _get_trusted_pixels(scan)
    flat = _get_efficiency(scan)
    background = 0.0 if scan.background is None else scan.background
    for index in split_indices(scan.counts):
        counts = np.where(good, (scan.counts[index].astype(np.float64) - background) / flat, 0.0)
        yield index, counts.reshape(len(index), -1)


@dataclass
class _RunningMoments:
    """Mean, largest and squares about the mean of pixels, of as many patterns as were added.

    Source:
        Chan, Golub & LeVeque 1983, doi 10.1080/00031305.1983.10483115.
    """

    count: int = 0
    mean: Floats = field(default_factory=lambda: np.zeros(()))
    squares: Floats = field(default_factory=lambda: np.zeros(()))
    highest: Floats = field(default_factory=lambda: np.full((), -np.inf))

    def add(self, counts: Floats) -> None:
        many = len(counts)
        mean = counts.mean(0)
        difference = mean - self.mean
        share = many / (self.count + many)
        self.squares = self.squares + ((counts - mean) ** 2).sum(0) + difference**2 * (self.count * share)
        self.mean = self.mean + difference * share
        self.highest = np.maximum(self.highest, counts.max(0))
        self.count += many


def measure_scan(
    scan: Scan4D,
    detectors: Sequence[VirtualDetector],
    /,
    *,
    centre: tuple[float, float] | None = None,
    within: VirtualDetector | None = None,
) -> ScanMeasurement:
    """Images of all detectors, centres of mass, and mean, highest and spread of each pixel, in one pass.

    Memory does not grow with the scan but for the few numbers that each pattern gives.

    Args:
        scan: a far-field scan; patterns may be lazy, on a raster or not.
        detectors: of `phaseloom.virtual.annuli`, or any mask.
        centre: pixel (y, x) of the beam, from which deflections are counted; default: zero frequency.
        within: pixels of which the centre of mass is taken; default: all. Untrusted pixels are left out,
            which moves it where they are not dark.

    Raises:
        BadInput: detectors of another shape, of one name, or with no trusted pixel.

    Example:
        >>> from phaseloom.virtual.annuli import make_annulus
        >>> from phaseloom.data.scan import Geometry
        >>> geometry = Geometry(wavelength=0.02, shape=(5, 5), angle=(1e-3, 1e-3), beam="electron")
        >>> counts = np.zeros((1, 5, 5)); counts[0, 3, 2] = 8
        >>> scan = Scan4D(counts=counts, positions=np.zeros((1, 2)), geometry=geometry)
        >>> found = measure_scan(scan, [make_annulus(geometry, 0, 2e-3, name="BF")])
        >>> found.image("BF").tolist(), found.deflection.tolist()
        ([8.0], [[0.001, 0.0]])
    """
    at = get_centre(scan.geometry, centre)
    trusted = _measure_trusted_shares(scan, [*detectors, *([within] if within else [])])[: len(detectors)]
    y, x = compute_angles(scan.geometry, centre=at)
    used = np.ones(scan.mask.shape) if within is None else within.weights
    weights = [*(one.weights for one in detectors), np.ones_like(used), used, used * y, used * x]
    table = np.stack([one.ravel() for one in weights], 1)
    moments = _RunningMoments()
    sums = []
    for _, counts in _read_counts(scan):
        moments.add(counts)
        sums.append(counts @ table)
    sums_by_detector = np.concatenate(sums).T
    shape = scan.mask.shape
    weight = np.where(sums_by_detector[-3] > 0, sums_by_detector[-3], np.nan)
    return ScanMeasurement(
        detectors=tuple(detectors),
        values=sums_by_detector[:-4] / trusted[:, None],
        trusted=trusted,
        total=sums_by_detector[-4],
        deflection=(sums_by_detector[-2:] / weight).T,
        mean=moments.mean.reshape(shape),
        highest=moments.highest.reshape(shape),
        spread=np.sqrt(moments.squares / moments.count).reshape(shape),
        centre=at,
        positions=scan.positions,
        grid=scan.grid,
    )


def _measure_trusted_shares(scan: Scan4D, detectors: Sequence[VirtualDetector]) -> Floats:
    """Share of each detector on trusted pixels."""
    names = [one.name for one in detectors]
    if len(set(names)) < len(names):
        raise BadInput("detectors", ", ".join(names), "have one name twice: give each its own")
    good = _get_trusted_pixels(scan)
    for one in detectors:
        if one.weights.shape != good.shape:
            fix = f"does not fit patterns of {good.shape}: make its weights so"
            raise BadInput(f"detector {one.name}", one.weights.shape, fix)
        if not (one.weights * good).sum() > 0:
            raise BadInput(f"detector {one.name}", None, "holds no trusted pixel: its image would be empty")
    return np.array([float((one.weights * good).sum() / one.weights.sum()) for one in detectors])


def subtract_plane(values: np.ndarray, positions: np.ndarray, /) -> np.ndarray:
    """Values ``(n, ...)`` less the plane over positions ``(n, 2)`` that fits them best; NaN stays NaN.

    It takes away where the detector and the scan coils move the beam (descan), and with it a mean slope of
    the specimen.

    Example:
        >>> places = np.array([[0.0, 0.0], [0.0, 2.0], [3.0, 0.0], [3.0, 2.0]])
        >>> bool(np.allclose(subtract_plane(1 + places @ np.array([2.0, -1.0]), places), 0))
        True
    """
    values = np.asarray(values, np.float64)
    flat = values.reshape(len(values), -1)
    known = np.isfinite(values).reshape(len(values), -1).all(1)
    arm = positions - positions.mean(0)
    arm = np.column_stack([np.ones(len(arm)), arm / max(float(np.abs(arm).max()), 1e-300)])
    plane = np.linalg.lstsq(arm[known], flat[known], rcond=None)[0]
    return (flat - arm @ plane).reshape(values.shape)


def integrate_phase(
    deflection: np.ndarray, positions: np.ndarray, grid: tuple[int, int] | None, /, *, wavelength: float
) -> NDArray[np.float64]:
    """The phase ``(rows, columns)`` in radian whose gradient is nearest to the deflections (iDPC), mean zero.

    Of a weak phase object it is the phase blurred by the probe's intensity. From one position to the next it
    rises by ``2 pi / wavelength`` times the mean deflection along the step, so a raster may be turned against
    the detector. No edge has to match another. Where a deflection is NaN none is assumed.

    Source:
        Lazic, Bosch & Lazar 2016, doi 10.1016/j.ultramic.2015.10.011.

    Raises:
        BadInput: positions that are no raster.

    Example:
        >>> places = np.stack(np.indices((4, 5)), -1).reshape(-1, 2) * 2.0
        >>> tilt = np.tile([1e-3, 0.0], (20, 1))
        >>> rise = np.diff(integrate_phase(tilt, places, (4, 5), wavelength=0.02), axis=0)
        >>> bool(np.allclose(rise, 2 * np.pi / 0.02 * 1e-3 * 2.0))
        True
    """
    from scipy.fft import dctn, idctn

    if grid is None or math.prod(grid) != len(deflection):
        raise BadInput("integrated phase", None, "needs a raster: the positions are not on one")
    slope = np.nan_to_num(deflection).reshape(*grid, 2)
    places = positions.reshape(*grid, 2)
    right = np.zeros(grid)
    waves = np.zeros(grid)
    for axis, size in enumerate(grid):
        before = np.arange(size - 1)
        after = np.arange(1, size)
        mean = (slope.take(before, axis) + slope.take(after, axis)) / 2
        rise = 2 * math.pi / wavelength * (mean * np.diff(places, axis=axis)).sum(-1)
        right += -np.diff(rise, axis=axis, prepend=0, append=0)
        wave = 2 - 2 * np.cos(np.pi * np.arange(size) / size)
        waves += wave[:, None] if axis == 0 else wave
    waves[0, 0] = np.inf
    spectrum = np.asarray(dctn(right, norm="ortho"), np.float64) / waves
    return np.asarray(idctn(spectrum, norm="ortho"), np.float64)


def compute_profiles(
    scan: Scan4D, /, *, centre: tuple[float, float] | None = None, width: float | None = None
) -> RadialProfile:
    """Radial profile of every pattern, ``(n, ring)``; the mean of the variances is that of fluctuation EM.

    Args:
        scan: the data, read piece by piece.
        centre: pixel (y, x) of the beam; default: zero frequency.
        width: of a ring, radian; default: the longer side of a pixel.

    Example:
        >>> from phaseloom.data.scan import Geometry
        >>> geometry = Geometry(wavelength=0.02, shape=(5, 5), angle=(1e-3, 1e-3), beam="electron")
        >>> scan = Scan4D(counts=np.ones((3, 5, 5)), positions=np.zeros((3, 2)), geometry=geometry)
        >>> compute_profiles(scan).mean.shape
        (3, 4)
    """
    rings = Rings.of(scan.geometry, centre=centre, mask=_get_trusted_pixels(scan), width=width)
    parts = [rings.profile(counts.reshape(-1, *scan.mask.shape)) for _, counts in _read_counts(scan)]
    mean, variance = (np.concatenate([getattr(p, k) for p in parts]) for k in ("mean", "variance"))
    return RadialProfile(parts[0].angle, mean, variance, parts[0].pixels, parts[0].share)


def average_groups(
    scan: Scan4D, labels: np.ndarray, /
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Labels of groups in order, the mean pattern ``(group, y, x)`` of each, and how many patterns it has.

    Args:
        scan: the data, read once, piece by piece.
        labels: ``(n,)`` whole numbers; patterns of a negative one belong to no group.

    Raises:
        BadInput: labels that do not fit the scan, or no group.

    Example:
        >>> from phaseloom.data.scan import Geometry
        >>> geometry = Geometry(wavelength=0.02, shape=(4, 4), angle=(1e-3, 1e-3), beam="electron")
        >>> counts = np.arange(3.0)[:, None, None] * np.ones((4, 4))
        >>> scan = Scan4D(counts=counts, positions=np.zeros((3, 2)), geometry=geometry)
        >>> names, mean, many = average_groups(scan, np.array([7, 0, 7]))
        >>> names.tolist(), mean[:, 0, 0].tolist(), many.tolist()
        ([0, 7], [1.0, 1.0], [1, 2])
    """
    labels = np.asarray(labels)
    if labels.shape != (len(scan),) or labels.dtype.kind not in "iu":
        raise BadInput("labels", labels.shape, f"must be a whole number for each of {len(scan)} patterns")
    names, many = np.unique(labels[labels >= 0], return_counts=True)
    if len(names) == 0:
        raise BadInput("labels", None, "name no group: all are negative")
    total = np.zeros((len(names), scan.mask.size))
    for index, counts in _read_counts(scan):
        total += (labels[index] == names[:, None]).astype(np.float64) @ counts
    return names.astype(np.int64), (total / many[:, None]).reshape(-1, *scan.mask.shape), many
