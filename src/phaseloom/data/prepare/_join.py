"""Several scans as one, which share the probe, the object, or both."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from phaseloom.data.counts import JoinedCounts
from phaseloom.data.prepare._shared import make_example as _example  # noqa: F401 - for the examples
from phaseloom.data.scan import MAX_RELATIVE_DIFFERENCE, Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.units import LENGTH, Length

__all__ = ["join"]

WINDOWS_BETWEEN_SCANS = 2.0
"""Widths of the window by which outer beams of two scans lie apart that share no object."""

MAX_RATIO_OF_WAVELENGTHS = 1.5
"""The window of the shortest one, in which all probes have to fit, is so many times narrower at most."""

MAX_PATTERNS_FOR_MEAN = 500


def join(
    scan: Scan4D,
    /,
    *,
    path: Path,
    share: Literal["probe", "object"] = "probe",
    offset: tuple[Length, Length] | Literal["find"] = (0.0, 0.0),
) -> Scan4D:
    """Add the patterns of another scan, to be reconstructed together; one step for each further scan.

    Scans that share the probe are laid side by side, two windows apart, so that nothing else is common to
    them: two samples, or one sample under two polarisations. Scans that share the object lie in one frame.
    `phaseloom.result.Result.split` parts the result again.

    Far fields of photons that share the object may differ in wavelength, each with a probe of its own: see
    `phaseloom.ptycho.propagators.EnergyFlight` for what is then common to them. The object has the pixels of
    the shortest wavelength.

    Steps before this one are those of the first scan alone, and later ones those of all. Brightness is
    brought together by the weights of the patterns, backgrounds by their mean; pixels that are bad in one
    scan are so in all. There is no raster any more.

    Args:
        scan: the first scan, or those that were joined so far.
        path: of the other, which has its own side-car where it needs one.
        share: ``probe``: an object for each scan; ``object``: one for all, with one probe, or with one for
            each scan (`phaseloom.ptycho.probes.of_each_scan`).
        offset: what is added to the positions (y, x) of the other scan where both see one object, angstrom;
            ``find``: a reconstruction looks for it before it begins, by a short run of each scan alone
            (`phaseloom.reconstruction.starts.offsets`), and writes the number in its ``run.yaml``.

    Raises:
        BadInput: scans of other detectors or samples' tilts, of other wavelengths that cannot be fitted
            together, one with heights and one without, a first scan that was enlarged, an offset of scans
            side by side, or one that has yet to be found.

    Example:
        >>> from phaseloom.data.formats import native
        >>> native.write(_example(), "other.h5")
        >>> both = join(_example(), path="other.h5")
        >>> len(both), both.scan_numbers.tolist(), bool((both.positions[3:, 1] > 4).all())
        (6, [0, 0, 0, 1, 1, 1], True)
    """
    from phaseloom.data import formats

    if offset == "find":
        fix = (
            "is found by phaseloom reconstruct only, which writes it in run.yaml: run that, or state a number"
        )
        raise BadInput("join.offset", "find", fix)
    other = formats.read(Path(path), lazy=not isinstance(scan.counts, np.ndarray))
    place = f"join.path: {Path(path).name}"
    _require_same_experiment(scan, other, place)
    wavelengths = _list_wavelengths(scan, other)
    if wavelengths is not None:
        _require_energies_together(scan, other, share, place, float(wavelengths.max() / wavelengths.min()))
    move = np.asarray(offset, np.float64)
    if share == "object":
        _require_overlap(scan, other, move)
    if share == "probe":
        if move.any():
            raise BadInput(
                "join.offset", list(offset), "is of scans that share their object: write share: object"
            )
        move = _find_place_beside(scan, other)
    weights = np.concatenate([_measure_brightness(one) for one in (scan, other)])
    numbers = np.zeros(len(scan), int) if scan.scan_numbers is None else scan.scan_numbers
    offsets = np.zeros((1, 2)) if scan.scan_offsets is None else scan.scan_offsets
    stacks = scan.counts.stacks if isinstance(scan.counts, JoinedCounts) else (scan.counts,)
    counts = JoinedCounts((*stacks, other.counts))
    arrays = [one for one in counts.stacks if isinstance(one, np.ndarray)]
    heights = [one.heights for one in (scan, other) if one.heights is not None]
    geometry, probe = scan.geometry, scan.probe
    if wavelengths is not None:  # a guess of a probe has the pixels of its own wavelength
        geometry, probe = replace(geometry, wavelength=float(wavelengths.min())), None
    return replace(
        scan,
        geometry=geometry,
        probe=probe,
        scan_wavelengths=wavelengths,
        counts=np.concatenate(arrays) if len(arrays) == len(counts.stacks) else counts,
        positions=np.concatenate([scan.positions, other.positions + move]),
        mask=scan.mask & other.mask,
        background=_average_backgrounds(scan, other),
        weights=weights / weights.mean(),
        heights=np.concatenate(heights) if heights else None,
        descan=_append_descan(scan, other),
        grid=None,
        raster_places=None,
        oriented=scan.oriented and other.oriented,
        scan_numbers=np.append(numbers, np.full(len(other), numbers.max() + 1)),
        scan_offsets=np.concatenate([offsets, move[None]]),
    )


def _require_same_experiment(scan: Scan4D, other: Scan4D, place: str) -> None:
    if scan.modelled is not None:
        raise BadInput("join", None, "must come before enlarge: scans are joined as they were measured")
    if other.geometry.shape != scan.geometry.shape:
        fix = (
            f"but those of the first scan {scan.geometry.shape}: let join be the first step of prepare, and "
        )
        fix += "bring both to the same pixels"
        raise BadInput(place, f"has patterns of {other.geometry.shape} pixels", fix)
    for what, one, two in _list_numbers(scan.geometry, other.geometry):
        if not np.allclose(one, two, rtol=MAX_RELATIVE_DIFFERENCE, atol=1e-9):
            fix = f"but the first scan {one}: only scans of one experiment can be joined"
            raise BadInput(place, f"has {what} {two}", fix)
    if scan.geometry.beam != other.geometry.beam or scan.geometry.near != other.geometry.near:
        raise BadInput(place, None, "is of another beam, or in another field, than the first scan")
    if (scan.heights is None) != (other.heights is None):
        raise BadInput(place, None, "has positions along the beam, or lacks them, unlike the first scan")


def _require_overlap(scan: Scan4D, other: Scan4D, move: np.ndarray) -> None:
    """Refuse scans of one object whose beams never see the same place."""
    reach = np.multiply(scan.geometry.pixel, scan.geometry.shape)
    places = other.positions + move
    gap = np.maximum(scan.positions.min(0) - places.max(0), places.min(0) - scan.positions.max(0))
    if (gap > reach).any():
        away = LENGTH.show(float(gap.max()), digits=3)
        fix = "apart, so that they share no place: check share, offset and the unit of the positions"
        raise BadInput("join", f"the scans lie {away}", fix)


def _list_numbers(one: Geometry, two: Geometry) -> list[tuple[str, Any, Any]]:
    names = {"angle": "pixels (radian) of", "normal": "a sample's normal of"}
    names |= {"distance": "a distance (A) of", "focus": "a focus (A) of"} if one.near and two.near else {}
    return [(what, getattr(one, name), getattr(two, name)) for name, what in names.items()]


def _list_wavelengths(scan: Scan4D, other: Scan4D) -> np.ndarray | None:
    """Wavelength of each scan, angstrom; ``None``: the same for all."""
    known = scan.scan_wavelengths
    if known is None:
        count = 1 if scan.scan_numbers is None else scan.scan_numbers.max() + 1
        known = np.full(count, scan.geometry.wavelength)
    own = other.geometry.wavelength
    same = known[abs(known - own) <= MAX_RELATIVE_DIFFERENCE * own]
    every = np.append(known, same[0] if len(same) else own)
    return every if np.ptp(every) else None


def _require_energies_together(scan: Scan4D, other: Scan4D, share: str, place: str, ratio: float) -> None:
    """Refuse scans of different wavelengths, of such a ratio, of which no object can be common."""
    one, two = scan.geometry, other.geometry
    fix = ""
    if share != "object":
        fix = "have no probe in common: write share: object if they show one sample"
    elif one.beam != "photon":
        fix = "are not fitted together with electrons: reconstruct one by one"
    elif one.near or one.has_tilted_sample:
        fix = "are fitted together in far fields of samples across the beam only: reconstruct one by one"
    elif scan.heights is not None or scan.descan is not None or other.descan is not None:
        fix = "are not fitted together with positions along the beam, or a descan: reconstruct one by one"
    elif ratio > MAX_RATIO_OF_WAVELENGTHS:
        fix = f"are fitted together up to a ratio of {MAX_RATIO_OF_WAVELENGTHS:g}: check the energies"
    if fix:
        energies = f"has {two.energy / 1e3:.6g} keV, unlike {one.energy / 1e3:.6g} keV before"
        raise BadInput(place, energies, f"(scans of different energies {fix})")


def _find_place_beside(scan: Scan4D, other: Scan4D) -> np.ndarray:
    """What to add to the positions of a scan so that it lies right of another, by whole pixels."""
    pixel = np.asarray(scan.geometry.pixel)
    gap = WINDOWS_BETWEEN_SCANS * scan.geometry.shape[1] * pixel[1]
    columns = scan.positions[:, 1].max() + gap - other.positions[:, 1].min()
    rows = scan.positions[:, 0].min() - other.positions[:, 0].min()
    return np.ceil(np.array([rows, columns]) / pixel) * pixel


def _measure_brightness(scan: Scan4D) -> np.ndarray:
    """Counts of each pattern without background ``(n,)``, by its weight and the mean of all."""
    mean = scan.mean_pattern(most=MAX_PATTERNS_FOR_MEAN) - (
        0.0 if scan.background is None else scan.background
    )
    level = float(mean[scan.mask].sum())
    if not level > 0:
        raise BadInput("join", None, "needs patterns that are brighter than their background")
    weights = np.ones(len(scan)) if scan.weights is None else scan.weights
    return level * weights / weights.mean()


def _average_backgrounds(scan: Scan4D, other: Scan4D) -> np.ndarray | None:
    if scan.background is None and other.background is None:
        return None
    both = [0.0 if one.background is None else one.background for one in (scan, other)]
    share = len(other) / (len(scan) + len(other))
    return (1 - share) * both[0] + share * both[1] + np.zeros(scan.geometry.shape)


def _append_descan(scan: Scan4D, other: Scan4D) -> np.ndarray | None:
    if scan.descan is None and other.descan is None:
        return None
    both = [np.zeros((len(one), 2)) if one.descan is None else one.descan for one in (scan, other)]
    return np.concatenate(both)
