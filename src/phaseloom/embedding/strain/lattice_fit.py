"""Fit the lattice of each pattern by maximum likelihood: origin and basis, beside the intensity of each disk.

Fisher scoring: each disk is expanded by itself (`phaseloom.embedding.strain.disk_likelihood`), its own
parameters are eliminated, and its displacement is that of a lattice, six numbers for all disks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

from phaseloom.embedding.losses import compute_noise_deviance
from phaseloom.embedding.strain.disk_likelihood import (
    PARAMETERS,
    DiskExpansion,
    DiskPrior,
    DiskState,
    DiskWindows,
    expand_disks,
)
from phaseloom.embedding.strain.disk_probe import DiskProbe

__all__ = ["DiskLevels", "LatticeFit", "LatticeModel", "LatticeStart", "fit_lattices"]

ITERATIONS = 10
MAX_STEP = 0.7  # pixels that the outermost disk moves in an iteration
CONVERGED = 4e-3  # pixels
MIN_GOOD_SHARE = 0.6  # of the pixels of a window, for a disk that is used
DISKS_AT_ONCE = 3000


@dataclass(frozen=True, eq=False)
class LatticeModel:
    """What the patterns of a scan have in common.

    Attributes:
        mask: ``(y, x)``, True where a pixel can be trusted.
        probe: the disk.
        orders: ``(g, 2)`` of the disks, zero first.
    """

    mask: np.ndarray
    probe: DiskProbe
    orders: np.ndarray

    @property
    def lever(self) -> np.ndarray:
        """How far ``(g, 3)`` each disk moves with the origin, the first and the second vector."""
        return np.concatenate([np.ones((len(self.orders), 1)), self.orders], 1)


@dataclass(frozen=True, eq=False)
class DiskLevels:
    """Expected background and height of each disk of ``n`` patterns.

    Attributes:
        mean: ``(n, g, 2)`` counts of a pixel; NaN: unknown.
        precision: ``(n, g, 2)`` inverse variances.
    """

    mean: np.ndarray
    precision: np.ndarray

    def select(self, windows: _LatticeWindows, /) -> DiskPrior:
        """Those of some windows; a precision of zero where nothing is known."""
        mean, precision = (one[windows.pattern, windows.disk] for one in (self.mean, self.precision))
        given = np.isfinite(mean) & np.isfinite(precision)
        return DiskPrior(np.where(given, mean, 0.0), np.where(given, precision, 0.0))


@dataclass(frozen=True, eq=False)
class LatticeStart:
    """Where a fit begins, of ``n`` patterns.

    Attributes:
        origins: ``(n, 2)`` pixels (row, column).
        bases: ``(n, 2, 2)``, columns are vectors.
    """

    origins: np.ndarray
    bases: np.ndarray


@dataclass(frozen=True, eq=False)
class LatticeFit:
    """Fitted lattices of ``n`` patterns with ``g`` disks.

    Attributes:
        origins: ``(n, 2)`` pixels (row, column).
        bases: ``(n, 2, 2)``, columns are vectors.
        information: ``(n, 6, 6)`` of origin, first and second vector.
        levels: ``(n, g, 2)`` background and height of each disk, counts of a pixel; NaN: not in the detector.
        misfit: ``(n,)`` Poisson deviance over what shot noise alone would leave.
    """

    origins: np.ndarray
    bases: np.ndarray
    information: np.ndarray
    levels: np.ndarray
    misfit: np.ndarray

    def select(self, index: np.ndarray | slice, /) -> LatticeFit:
        """Some of the patterns."""
        return LatticeFit(*(getattr(self, one.name)[index] for one in fields(self)))

    def place(self, index: np.ndarray, part: LatticeFit, /) -> LatticeFit:
        """The same with the patterns of an index replaced."""
        found = {one.name: getattr(self, one.name).copy() for one in fields(self)}
        for name, values in found.items():
            values[index] = getattr(part, name)
        return LatticeFit(**found)

    @classmethod
    def join(cls, parts: Sequence[LatticeFit], /) -> LatticeFit:
        """Patterns one after the other."""
        return cls(*(np.concatenate([getattr(part, one.name) for part in parts]) for one in fields(cls)))


@dataclass(frozen=True, eq=False)
class _LatticeWindows:
    """Windows about the disks that lie within the detector, with the numbers of pattern and disk."""

    pattern: np.ndarray
    disk: np.ndarray
    pixels: DiskWindows


def fit_lattices(
    patterns: np.ndarray, model: LatticeModel, start: LatticeStart, /, *, levels: DiskLevels | None = None
) -> LatticeFit:
    """Fit lattices to patterns.

    Args:
        patterns: ``(n, y, x)`` counts.
        model: disks and detector.
        start: lattices that are right to about a radius at the outermost disk.
        levels: expected background and height of each disk.
    """
    many = max(1, DISKS_AT_ONCE // len(model.orders))
    parts = []
    for first in range(0, len(patterns), many):
        part = slice(first, first + many)
        known = None if levels is None else DiskLevels(levels.mean[part], levels.precision[part])
        begin = LatticeStart(start.origins[part], start.bases[part])
        parts.append(_fit_some(np.asarray(patterns[part], np.float64), model, begin, known))
    return LatticeFit.join(parts)


def _fit_some(
    patterns: np.ndarray, model: LatticeModel, start: LatticeStart, levels: DiskLevels | None
) -> LatticeFit:
    values = np.concatenate([start.origins, start.bases.transpose(0, 2, 1).reshape(-1, 4)], 1)
    size = np.array([1, 1, *np.repeat(np.abs(model.orders).max(0).clip(1), 2)], float)
    state, before = None, None
    for iteration in range(ITERATIONS + 1):
        windows = _cut_windows(patterns, model, values)
        state = _carry(state, before, windows, model, levels)
        before = windows
        prior = None if levels is None else levels.select(windows)
        step = expand_disks(windows.pixels, model.probe, state, prior)
        information, score = _gather(step, windows, model, len(patterns))
        if iteration == ITERATIONS:
            return _summarise(values, information, windows, step, model)
        # a weak hold on what no disk tells, such as a lattice of a single row
        trace = np.trace(information, axis1=1, axis2=2)[:, None, None]
        moved = np.linalg.solve(information + (1e-6 * trace + 1e-9) * np.eye(6), score[..., None])[..., 0]
        largest = np.abs(moved * size).max(1)
        if largest.max() < CONVERGED:
            return _summarise(values, information, windows, step, model)
        moved *= np.minimum(1, MAX_STEP / np.maximum(largest, 1e-12))[:, None]
        values = values + moved
        each = moved.reshape(-1, 3, 2)[windows.pattern]
        state = step.update(np.einsum("ma,mai->mi", model.lever[windows.disk], each))
    raise AssertionError("the last iteration returns")


def _cut_windows(patterns: np.ndarray, model: LatticeModel, values: np.ndarray) -> _LatticeWindows:
    mask, reach = model.mask, model.probe.reach
    centres = np.einsum("ga,nai->ngi", model.lever, values.reshape(-1, 3, 2))
    bases = values[:, 2:].reshape(-1, 2, 2).transpose(0, 2, 1)
    near = np.rint(np.nan_to_num(centres, nan=-1e6)).astype(int)
    pattern, disk = np.nonzero(((near >= 0) & (near < mask.shape)).all(-1))
    side = np.arange(-int(np.ceil(reach)), int(np.ceil(reach)) + 1)
    middle = near[pattern, disk][:, :, None, None]
    rows, columns = np.broadcast_arrays(middle[:, 0] + side[:, None], middle[:, 1] + side)
    on = (rows >= 0) & (rows < mask.shape[0]) & (columns >= 0) & (columns < mask.shape[1])
    at = (rows.clip(0, mask.shape[0] - 1), columns.clip(0, mask.shape[1] - 1))
    centre = centres[pattern, disk][:, :, None, None]
    y, x = rows - centre[:, 0], columns - centre[:, 1]
    wanted = (np.hypot(y, x) <= reach) & _is_nearest(y, x, bases[pattern])
    good = wanted & on & mask[at]
    enough = good.sum((1, 2)) >= MIN_GOOD_SHARE * wanted.sum((1, 2))
    counts = patterns[pattern[:, None, None], at[0], at[1]]
    pixels = DiskWindows(counts[enough], good[enough], y[enough], x[enough])
    return _LatticeWindows(pattern[enough], disk[enough], pixels)


def _is_nearest(y: np.ndarray, x: np.ndarray, bases: np.ndarray) -> np.ndarray:
    """Which pixels are nearer to their own lattice point than to its neighbours."""
    own = np.ones(y.shape, bool)
    for order in ((1, 0), (0, 1), (1, 1), (1, -1)):
        vector = bases @ np.array(order, float)
        half = np.einsum("ni,ni->n", vector, vector).reshape(-1, 1, 1) / 2
        own &= np.abs(y * vector[:, 0, None, None] + x * vector[:, 1, None, None]) <= half
    return own


def _carry(
    state: DiskState | None,
    before: _LatticeWindows | None,
    windows: _LatticeWindows,
    model: LatticeModel,
    levels: DiskLevels | None,
) -> DiskState:
    """Parameters of the windows of now, from those of before where they are the same disks."""
    fresh = DiskState.begin(windows.pixels, model.probe)
    if levels is not None:
        expected = levels.mean[windows.pattern, windows.disk]
        given = np.isfinite(expected).all(1, keepdims=True)
        background, height = np.where(given, expected, fresh.values[:, :2]).T
        fresh = DiskState.of(background, height, windows.pixels)
    if state is None or before is None or len(before.disk) == 0:
        return fresh
    old, new = (one.pattern * len(model.orders) + one.disk for one in (before, windows))
    place = np.searchsorted(old, new).clip(0, len(old) - 1)
    same = old[place] == new
    return DiskState(np.where(same[:, None], state.values[place], fresh.values), fresh.least)


def _gather(
    step: DiskExpansion, windows: _LatticeWindows, model: LatticeModel, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Information and score of the lattices from those of their disks."""
    levers = model.lever[windows.disk]
    each = np.einsum("ma,mij,mb->maibj", levers, step.information, levers).reshape(-1, 36)
    slopes = np.einsum("ma,mi->mai", levers, step.score).reshape(-1, 6)
    information, score = np.zeros((count, 36)), np.zeros((count, 6))
    np.add.at(information, windows.pattern, each)
    np.add.at(score, windows.pattern, slopes)
    return information.reshape(-1, 6, 6), score


def _summarise(
    values: np.ndarray,
    information: np.ndarray,
    windows: _LatticeWindows,
    step: DiskExpansion,
    model: LatticeModel,
) -> LatticeFit:
    count = len(values)
    levels = np.full((count, len(model.orders), 2), np.nan)
    levels[windows.pattern, windows.disk] = step.state.values[:, :2]
    deviance, noise = np.zeros((2, count))
    np.add.at(deviance, windows.pattern, step.deviance)
    np.add.at(noise, windows.pattern, _expect_deviance(windows.pixels, step))
    bases = values[:, 2:].reshape(-1, 2, 2).transpose(0, 2, 1)
    misfit = deviance / np.maximum(noise, 1e-9)
    return LatticeFit(values[:, :2], bases, information, levels, misfit)


def _expect_deviance(windows: DiskWindows, step: DiskExpansion) -> np.ndarray:
    """Deviance of each window that shot noise leaves beside the fitted numbers."""
    pixels = windows.good.sum((1, 2))
    noise = compute_noise_deviance(torch.from_numpy(step.rate)).numpy() * windows.good
    return noise.sum((1, 2)) * np.clip(1 - PARAMETERS / np.maximum(pixels, 1), 0.1, 1)
