"""The lattice of every pattern of a scan: probe, origin, common lattice, rotation, fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import KDTree

from phaseloom.data.bad_pixels import find_bad_pixels
from phaseloom.data.counts import split_indices
from phaseloom.data.scan import Scan4D
from phaseloom.embedding.strain.disk_probe import DiskProbe, correlate_disk, find_peaks
from phaseloom.embedding.strain.lattice import build_turn, find_lattice, list_orders, select_common_lattice
from phaseloom.embedding.strain.lattice_fit import (
    DiskLevels,
    LatticeFit,
    LatticeModel,
    LatticeStart,
    fit_lattices,
)
from phaseloom.embedding.strain.lattice_search import (
    MAX_SIGNIFICANCE,
    find_symmetry_centre,
    sample_maps,
    search_rotations,
)
from phaseloom.embedding.strain.probe_estimate import estimate_probe
from phaseloom.errors import BadInput

__all__ = ["LatticeMap", "map_lattices"]

PLACES = 60  # over the scan, whose patterns tell probe and lattice
MIN_COUNTS_OF_SEARCH = 2000  # in the mean, of the patterns that are added up for a search
NEIGHBOURHOODS = (0.0, 1.5, 2.3, 3.2)  # steps about a pattern: 1, 9, 21, 37 patterns
MIN_PEAK = 4.5  # standard deviations of shot noise
PATTERNS_AT_ONCE = 128
MIN_DISTINCTION = 5.0
MIN_DETECTION = 4.0  # standard deviations of shot noise, of all Bragg disks of a pattern together
MIN_ADVANTAGE = 2.0  # of the same, of a neighbour's lattice over that of a pattern's own sum
MIN_LEVEL = 1e-4  # counts of a pixel
LEVEL_SPREAD = 0.7  # of the mean height of a disk, that those of single patterns differ by
MAX_OVERLAP = 1.0  # diameter of the disks over their distance
MAX_FLAW = 0.12  # change of the lattice from the common one beyond which a fit is none


@dataclass(frozen=True, eq=False)
class LatticeMap:
    """Lattices of a scan of ``n`` patterns.

    Attributes:
        origins: ``(n, 2)`` pixels (row, column) of the direct beam.
        bases: ``(n, 2, 2)``, columns are vectors (row, column) in pixels; NaN without a lattice.
        information: ``(n, 6, 6)`` of origin, first and second vector.
        misfit: ``(n,)`` Poisson deviance over what shot noise alone would leave.
        totals: ``(n,)`` counts.
        common: the lattice that most patterns share, turned as one of them.
        probe: the disk.
        mask: ``(y, x)``, pixels that were used.
        notes: sentences on what was found.
    """

    origins: np.ndarray
    bases: np.ndarray
    information: np.ndarray
    misfit: np.ndarray
    totals: np.ndarray
    common: np.ndarray
    probe: DiskProbe
    mask: np.ndarray
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Neighbourhood:
    """Patterns whose sum stands for one of them, so that a search has electrons enough."""

    scan: Scan4D
    mask: np.ndarray
    members: list[np.ndarray]

    def read(self, index: np.ndarray, /) -> np.ndarray:
        """Counts ``(m, y, x)`` of patterns by themselves."""
        return np.where(self.mask, np.asarray(self.scan.counts[index], np.float32), 0).clip(0)

    def add(self, index: np.ndarray, /) -> np.ndarray:
        """Mean counts ``(m, y, x)`` of each pattern and its neighbours, times their number."""
        needed = np.unique(np.concatenate([self.members[one] for one in index]))
        counts = self.read(needed)
        return np.stack([counts[np.searchsorted(needed, self.members[one])].sum(0) for one in index])


def map_lattices(
    scan: Scan4D, /, *, radius: float | None = None, centre: tuple[float, float] | None = None
) -> LatticeMap:
    """Fit the lattice of each pattern.

    Args:
        scan: far-field patterns of disks or spots that do not overlap.
        radius: of the disks, pixels; default: estimated.
        centre: of the direct beam (row, column); default: the centre of symmetry.

    Raises:
        BadInput: a near field, no counts, no spots, no lattice, or disks that overlap.
    """
    if scan.geometry.near:
        raise BadInput("strain", None, "needs far-field patterns: a hologram has no Bragg disks")
    mask, totals, notes = _survey(scan)
    lit = np.flatnonzero(totals > 0)
    near = _find_neighbourhoods(scan, mask, totals)
    few = lit[np.unique(np.linspace(0, len(lit) - 1, min(len(lit), PLACES)).astype(int))]
    sample = near.add(few)
    probe = estimate_probe(sample, mask, radius)
    if probe is None:
        fix = "finds no disks or spots above noise: look at the mean pattern, and give the semi-angle"
        raise BadInput("strain", None, fix)
    maps = correlate_disk(sample, probe, mask)
    middle = find_symmetry_centre(np.clip(maps, 0, MAX_SIGNIFICANCE).mean(0))
    middle = middle if centre is None else np.array(centre, float)
    common = _find_common_lattice(maps, middle, probe)
    _require_apart(common, probe)
    model = LatticeModel(mask, probe, _list_disks(common, mask, middle))
    found = (
        f"disks of {probe.radius:.2f} pixels, edges of {probe.width:.2f}; "
        f"beam at pixel ({middle[0]:.2f}, {middle[1]:.2f})"
    )
    sums = _fit_sums(near, lit, _find_origins(near, lit, middle, common, probe), common, model)
    origins, misfit = np.full((len(scan), 2), np.nan), np.full(len(scan), np.nan)
    bases, information = np.full((len(scan), 2, 2), np.nan), np.full((len(scan), 6, 6), np.nan)
    for index in _split(np.arange(len(lit))):
        fit = _fit_each(near, lit, index, sums, model)
        good = _resemble(fit.bases, common)
        at = lit[index][good]
        origins[at], bases[at] = fit.origins[good], fit.bases[good]
        information[at], misfit[at] = fit.information[good], fit.misfit[good]
    if lost := int(np.isnan(bases[lit, 0, 0]).sum()):
        notes = (*notes, f"{lost} of {len(scan)} patterns show no such lattice")
    return LatticeMap(origins, bases, information, misfit, totals, common, probe, mask, (found, *notes))


def _survey(scan: Scan4D) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Pixels that are used, counts of each pattern in them, and a sentence on pixels that are not."""
    bad = find_bad_pixels(scan)
    mask = scan.mask & bad.mask
    totals = np.concatenate(
        [
            np.asarray(scan.counts[index], np.float64)[:, mask].clip(0).sum(1)
            for index in split_indices(scan.counts)
        ]
    )
    if not (totals > 0).any():
        raise BadInput("strain", None, "finds no counts in the good pixels: check mask and data")
    blank = int((~(totals > 0)).sum())
    notes = [*bad.lines()]
    if blank:
        notes.append(f"{blank} of {len(scan)} patterns hold no counts")
    return mask, totals, tuple(notes)


def _split(index: np.ndarray) -> Iterator[np.ndarray]:
    return (index[start : start + PATTERNS_AT_ONCE] for start in range(0, len(index), PATTERNS_AT_ONCE))


def _find_neighbourhoods(scan: Scan4D, mask: np.ndarray, totals: np.ndarray) -> _Neighbourhood:
    own = [np.array([number]) for number in range(len(scan))]
    lit = totals > 0
    mean = float(totals[lit].mean())
    if len(scan) < 9 or not np.ptp(scan.positions, axis=0).all():
        return _Neighbourhood(scan, mask, own)
    tree = KDTree(scan.positions)
    pitch = float(np.median(tree.query(scan.positions, 2)[0][:, 1]))
    members = own
    for reach in NEIGHBOURHOODS:
        if reach and pitch > 0:
            found = tree.query_ball_point(scan.positions, reach * pitch)
            members = [np.array(sorted(one)) for one in found]
        if mean * float(np.median([len(one) for one in members])) >= MIN_COUNTS_OF_SEARCH:
            break
    return _Neighbourhood(scan, mask, members)


def _find_common_lattice(maps: np.ndarray, middle: np.ndarray, probe: DiskProbe) -> np.ndarray:
    found = []
    tolerance = max(1.0, 0.35 * probe.radius)
    for one in maps:
        places, _ = find_peaks(one, MIN_PEAK, max(1.5, probe.radius))
        kept = places - middle
        lattice = find_lattice(kept, tolerance=tolerance, least=max(3.0, 1.5 * probe.radius))
        if lattice is not None:
            found.append(lattice)
    if not found:
        fix = "finds no lattice: at least five Bragg disks of a pattern must stand out, without overlap"
        raise BadInput("strain", None, fix)
    return select_common_lattice(found)


def _require_apart(common: np.ndarray, probe: DiskProbe) -> None:
    shortest = float(np.linalg.norm(common, axis=0).min())
    if 2 * probe.radius > MAX_OVERLAP * shortest:
        fix = f"pixels of radius overlap, {shortest:.1f} pixels apart: record with a smaller semi-angle"
        raise BadInput("strain: disks", f"{probe.radius:.1f}", fix)


def _list_disks(common: np.ndarray, mask: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """Orders of the disks that the detector can hold in any orientation, zero first."""
    edges = np.concatenate([middle, np.array(mask.shape) - 1 - middle])
    orders = list_orders(common, float(edges.max()))
    return np.concatenate([np.zeros((1, 2), int), orders])


def _find_origins(
    near: _Neighbourhood, lit: np.ndarray, middle: np.ndarray, common: np.ndarray, probe: DiskProbe
) -> np.ndarray:
    """Place of the direct beam of each pattern: a plane over the scan through where it is seen."""
    reach = int(max(2.0, 0.45 * np.linalg.norm(common, axis=0).min()))
    low = np.maximum(np.rint(middle).astype(int) - reach, 0)
    high = np.rint(middle).astype(int) + reach + 1
    # a correlation reaches no farther than the disk and its ring
    edge = np.maximum(low - int(np.ceil(probe.reach)), 0)
    rows, columns = (slice(at, end + int(np.ceil(probe.reach))) for at, end in zip(edge, high, strict=True))
    inner = tuple(slice(at - from_, end - from_) for at, end, from_ in zip(low, high, edge, strict=True))
    measured = np.full((len(lit), 2), np.nan)
    for index in _split(np.arange(len(lit))):
        sums = near.add(lit[index])[:, rows, columns]
        maps = correlate_disk(sums, probe, near.mask[rows, columns])[(slice(None), *inner)]
        for at, one in zip(index, maps, strict=True):
            places, heights = find_peaks(one, MIN_PEAK, 1.5)
            if len(heights):
                measured[at] = low + places[0]
    seen = np.asarray(np.isfinite(measured).all(1))
    if seen.sum() < max(4, 0.1 * len(lit)):
        return np.tile(middle, (len(lit), 1))
    return _fit_plane(measured, seen, near.scan.positions[lit])


def _fit_plane(measured: np.ndarray, seen: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """A robust plane through places, at all positions."""
    spread = np.ptp(positions, axis=0)
    terms = np.concatenate(
        [np.ones((len(positions), 1)), (positions - positions.mean(0)) / np.where(spread > 0, spread, 1)], 1
    )
    weight = np.ones(int(seen.sum()))
    plane = np.zeros_like(measured)
    for _ in range(6):
        found = np.linalg.lstsq(terms[seen] * weight[:, None], measured[seen] * weight[:, None], rcond=None)[
            0
        ]
        plane = terms @ found
        distance = np.linalg.norm(measured[seen] - plane[seen], axis=1)
        weight = 1 / np.sqrt(1 + (distance / max(float(np.median(distance)), 1e-6)) ** 2)
    return plane


def _fit_sums(
    near: _Neighbourhood, lit: np.ndarray, origins: np.ndarray, common: np.ndarray, model: LatticeModel
) -> LatticeFit:
    """Lattices of the sums of neighbours, from a search over all rotations; NaN where none stands out."""
    fits = []
    for index in _split(np.arange(len(lit))):
        sums = near.add(lit[index])
        maps = correlate_disk(sums, model.probe, near.mask)
        search = search_rotations(maps, origins[index], common, model.orders[1:], model.probe.radius)
        turned = np.stack([build_turn(float(one)) for one in search.degrees]) @ common
        fit = fit_lattices(sums, model, LatticeStart(origins[index], turned))
        unclear = (search.distinction < MIN_DISTINCTION) | ~_resemble(fit.bases, common)
        fits.append(replace(fit, bases=np.where(unclear[:, None, None], np.nan, fit.bases)))
    fit = LatticeFit.join(fits)
    good = np.asarray(np.isfinite(fit.bases).all((1, 2)))
    if good.sum() < 4:
        return fit
    # a lattice fits as well where its origin is a lattice point off: the plane over the scan decides
    plane = _fit_plane(fit.origins, good, near.scan.positions[lit])
    bases = np.where(good[:, None, None], fit.bases, np.eye(2))
    slipped = np.rint(np.einsum("nij,nj->ni", np.linalg.inv(bases), plane - fit.origins))
    return replace(fit, origins=fit.origins + np.einsum("nij,nj->ni", bases, slipped))


def _choose_starts(  # noqa: PLR0917 - maps are those of the patterns of the index
    maps: np.ndarray,
    near: _Neighbourhood,
    lit: np.ndarray,
    index: np.ndarray,
    sums: LatticeFit,
    model: LatticeModel,
) -> LatticeFit:
    """Of the lattices of a pattern's own sum and of its neighbours' the one whose disks it shows best.

    Along a boundary a sum shows the lattice that most of its patterns have.
    """
    chosen = index.copy()
    for at, number in enumerate(index):
        others = np.searchsorted(lit, near.members[lit[number]])
        others = others[(others < len(lit)) & np.isin(near.members[lit[number]], lit)]
        others = others[np.isfinite(sums.bases[others, 0, 0])]
        if len(others) == 0:
            continue
        moved = replace(sums.select(others), origins=np.repeat(sums.origins[[number]], len(others), 0))
        seen = _detect(np.repeat(maps[[at]], len(others), 0), moved, model)
        own = seen[others == number]
        least = own[0] + MIN_ADVANTAGE if len(own) else -np.inf
        if seen.max() > least:
            chosen[at] = others[seen.argmax()]
    return replace(sums.select(chosen), origins=sums.origins[index])


def _detect(maps: np.ndarray, fit: LatticeFit, model: LatticeModel) -> np.ndarray:
    """Significance ``(m,)`` of the Bragg disks of patterns together, each weighted as it is expected."""
    weights = np.sqrt(np.nan_to_num(fit.levels[:, 1:, 1]).clip(0))
    weights /= np.maximum(np.linalg.norm(weights, axis=1, keepdims=True), 1e-12)
    points = fit.origins[:, None] + model.orders[1:] @ fit.bases.transpose(0, 2, 1)
    return (weights * sample_maps(maps, points)).sum(1)


def _fit_each(
    near: _Neighbourhood, lit: np.ndarray, index: np.ndarray, sums: LatticeFit, model: LatticeModel
) -> LatticeFit:
    """Lattices of single patterns, from those of sums; NaN where their disks are not seen."""
    numbers = lit[index]
    if max(len(near.members[one]) for one in numbers) == 1:
        return sums.select(index)
    patterns = near.read(numbers)
    maps = correlate_disk(patterns, model.probe, near.mask)
    sums = _choose_starts(maps, near, lit, index, sums, model)
    share = patterns.sum((1, 2)) / near.add(numbers).sum((1, 2)).clip(1e-9)
    levels = sums.levels * share[:, None, None]
    expected = DiskLevels(levels, (LEVEL_SPREAD * np.maximum(levels, MIN_LEVEL)) ** -2.0)
    begin = np.isfinite(sums.bases).all((1, 2))
    fit = replace(sums, bases=np.full_like(sums.bases, np.nan))
    if not begin.any():
        return fit
    some = DiskLevels(expected.mean[begin], expected.precision[begin])
    found = fit_lattices(
        patterns[begin], model, LatticeStart(sums.origins[begin], sums.bases[begin]), levels=some
    )
    shown = replace(found, levels=some.mean)
    seen = _detect(maps[begin], shown, model) >= MIN_DETECTION
    found = replace(found, bases=np.where(seen[:, None, None], found.bases, np.nan))
    return fit.place(np.flatnonzero(begin), found)


def _resemble(bases: np.ndarray, common: np.ndarray) -> np.ndarray:
    """Which bases are a common one, turned and strained little."""
    change = np.nan_to_num(bases, nan=0.0) @ np.linalg.inv(common)
    return np.abs(np.linalg.svd(change, compute_uv=False) - 1).max(1) < MAX_FLAW
