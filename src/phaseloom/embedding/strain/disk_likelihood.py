"""Poisson likelihood of windows about disks, expanded in the displacement of their centres.

In a window the model is a background and a disk ``D(|k - c|) (h + s . v + v . q v)``, its edge blurred, with
``v = (k - c) / r``. Dynamical diffraction gives disks such slopes and curvatures without moving them; where
they are fitted too, the edge alone tells where the disk is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from phaseloom.embedding.strain.disk_probe import DiskProbe

__all__ = ["DiskExpansion", "DiskPrior", "DiskState", "DiskWindows", "expand_disks"]

# What is expected of slopes and curvatures: standard deviations, of the height.
SLOPE_SPREAD = 0.7
CURVATURE_SPREAD = 0.5
MAX_VARIATION = 3.0  # of the height
MIN_BACKGROUND = 0.02  # of the mean counts of a window: a few stray electrons are no misfit
MIN_RATE = 1e-3  # counts of a pixel
MIN_HEIGHT_SHARE = 0.05  # of the mean counts of a window, for slopes of a disk that is hardly there
PARAMETERS = 7  # of a window: background, height, two slopes, three curvatures


@dataclass(frozen=True, eq=False)
class DiskWindows:
    """Pixels about ``m`` disks.

    Attributes:
        counts: ``(m, w, w)``.
        good: ``(m, w, w)``, which pixels count.
        y: ``(m, w, w)`` rows of the pixels from the centre of the disk.
        x: columns, likewise.
    """

    counts: np.ndarray
    good: np.ndarray
    y: np.ndarray
    x: np.ndarray


@dataclass(frozen=True, eq=False)
class DiskState:
    """Parameters of ``m`` windows beside their centres.

    Attributes:
        values: ``(m, 7)``: background, height, slopes and curvatures over the radius; counts of a pixel.
        least: ``(m,)`` background that they have at least.
    """

    values: np.ndarray
    least: np.ndarray

    @classmethod
    def begin(cls, windows: DiskWindows, probe: DiskProbe, /) -> DiskState:
        """Heights from the middle of windows, backgrounds from their rim."""
        distance = np.hypot(windows.y, windows.x)
        inner = windows.good * (distance < 0.8 * probe.radius)
        outer = windows.good * (distance > probe.radius + probe.width)
        mean, rim = (
            (windows.counts * part).sum((1, 2)) / np.maximum(part.sum((1, 2)), 1) for part in (inner, outer)
        )
        return cls.of(rim, mean - rim, windows)

    @classmethod
    def of(cls, background: np.ndarray, height: np.ndarray, windows: DiskWindows, /) -> DiskState:
        """Flat disks of given heights."""
        good = windows.good
        mean = (windows.counts * good).sum((1, 2)) / np.maximum(good.sum((1, 2)), 1)
        least = MIN_BACKGROUND * mean + MIN_RATE
        values = np.zeros((len(height), PARAMETERS))
        values[:, 0] = np.maximum(background, least)
        values[:, 1] = np.maximum(height, MIN_HEIGHT_SHARE * mean + MIN_RATE)
        return cls(values, least)


@dataclass(frozen=True, eq=False)
class DiskPrior:
    """Normal distributions of background and height.

    Attributes:
        mean: ``(m, 2)``.
        precision: ``(m, 2)``, zero where nothing is known.
    """

    mean: np.ndarray
    precision: np.ndarray


@dataclass(frozen=True, eq=False)
class DiskExpansion:
    """The likelihood of windows to second order.

    Attributes:
        score: ``(m, 2)`` derivative by the displacement (row, column), the other parameters at their best.
        information: ``(m, 2, 2)``, likewise.
        deviance: ``(m,)``.
        rate: ``(m, w, w)`` expected counts.
        state: that it was expanded at.
        solved: ``(m, 7)`` and ``(m, 7, 2)``: how the parameters move, by themselves and by displacements.
    """

    score: np.ndarray
    information: np.ndarray
    deviance: np.ndarray
    rate: np.ndarray
    state: DiskState
    solved: tuple[np.ndarray, np.ndarray]

    def update(self, moved: np.ndarray, /) -> DiskState:
        """Parameters after a displacement ``(m, 2)``."""
        own, coupled = self.solved
        values = self.state.values + own - np.einsum("mij,mj->mi", coupled, moved)
        before = self.state.values
        values[:, 0] = np.clip(values[:, 0], self.state.least, 4 * before[:, 0] + 20 * self.state.least)
        values[:, 1] = np.clip(values[:, 1], 0.25 * before[:, 1], 4 * before[:, 1])
        limit = MAX_VARIATION * values[:, 1]
        values[:, 2:] = np.clip(values[:, 2:], -limit[:, None], limit[:, None])
        return DiskState(values, self.state.least)


def expand_disks(
    windows: DiskWindows, probe: DiskProbe, state: DiskState, prior: DiskPrior | None = None, /
) -> DiskExpansion:
    """Expand the likelihood of windows about the present centres.

    Args:
        windows: pixels and counts.
        probe: the disk.
        state: parameters.
        prior: of background and height.
    """
    counts, good = windows.counts, windows.good
    columns, rate = _build_columns(windows, probe, state)
    weight = (good / rate).reshape(len(counts), 1, -1)
    residual = ((counts - rate) * good / rate).reshape(len(counts), -1, 1)
    fisher = (columns * weight) @ columns.transpose(0, 2, 1)
    score = (columns @ residual)[..., 0]
    _add_prior(fisher, score, state, prior)
    inner, mixed, outer = fisher[:, :-2, :-2], fisher[:, -2:, :-2], fisher[:, -2:, -2:]
    hold = 1e-9 * np.trace(inner, axis1=1, axis2=2)[:, None, None] + 1e-12
    right = np.concatenate([score[:, :-2, None], mixed.transpose(0, 2, 1)], 2)
    solved = np.linalg.solve(inner + hold * np.eye(PARAMETERS), right)
    own, coupled = solved[..., 0], solved[..., 1:]
    reduced = score[:, -2:] - (mixed @ own[..., None])[..., 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(counts > 0, counts * np.log(counts / rate), 0.0)
    deviance = (2 * (logs - counts + rate) * good).sum((1, 2))
    return DiskExpansion(reduced, outer - mixed @ coupled, deviance, rate, state, (own, coupled))


def _build_columns(windows: DiskWindows, probe: DiskProbe, state: DiskState) -> tuple[np.ndarray, np.ndarray]:
    """Derivatives ``(m, 9, pixel)`` of the counts by the parameters and by the centre, and the counts."""
    distance = np.hypot(windows.y, windows.x)
    disk, slope = probe.sample(distance)
    edge = slope / np.maximum(distance, 1e-6)
    y, x = windows.y / probe.radius, windows.x / probe.radius
    # a polynomial under the blur of the edge: blur(p f) = p blur(f) + width^2 (grad p . grad blur(f) +
    # blur(f) laplacian p / 2); left out, a slope would look like a shift
    blur = (probe.width / probe.radius) ** 2
    rim = edge * probe.width**2
    linear = disk + rim
    columns = np.empty((len(disk), PARAMETERS + 2, *disk.shape[1:]))
    columns[:, 0], columns[:, 1] = 1, disk
    columns[:, 2], columns[:, 3] = y * linear, x * linear
    square = disk + 2 * rim
    columns[:, 4], columns[:, 5], columns[:, 6] = (
        y * y * square + blur * disk,
        x * y * square,
        x * x * square + blur * disk,
    )
    _, height, down, across, yy, xy, xx = (state.values[:, k, None, None] for k in range(PARAMETERS))
    rate = (state.values[:, :, None, None] * columns[:, :-2]).sum(1)
    top = height + y * (down + yy * y + xy * x) + x * (across + xx * x)
    columns[:, 7] = -edge * top * windows.y - disk * (down + 2 * yy * y + xy * x) / probe.radius
    columns[:, 8] = -edge * top * windows.x - disk * (across + 2 * xx * x + xy * y) / probe.radius
    return columns.reshape(len(disk), PARAMETERS + 2, -1), np.maximum(rate, state.least[:, None, None])


def _add_prior(fisher: np.ndarray, score: np.ndarray, state: DiskState, prior: DiskPrior | None) -> None:
    """Expectations of the parameters, added in place."""
    for k in range(2, PARAMETERS):
        spread = (SLOPE_SPREAD if k < 4 else CURVATURE_SPREAD) * state.values[:, 1]
        fisher[:, k, k] += spread**-2
        score[:, k] -= state.values[:, k] / spread**2
    if prior is not None:
        for k in (0, 1):
            fisher[:, k, k] += prior.precision[:, k]
            score[:, k] -= prior.precision[:, k] * (state.values[:, k] - prior.mean[:, k])
