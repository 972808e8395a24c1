"""The disk that every Bragg reflection shows: its shape, its correlation with patterns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage, special

__all__ = ["DiskProbe", "correlate_disk", "find_peaks"]

RING_WIDTH = 2.0  # pixels of background about the disk that are taken off


@dataclass(frozen=True)
class DiskProbe:
    """A disk with a soft edge.

    Attributes:
        radius: pixels, where the edge is at half of its height.
        width: pixels, standard deviation of the blur of the edge.
    """

    radius: float
    width: float = 0.6

    def sample(self, distance: np.ndarray, /) -> tuple[np.ndarray, np.ndarray]:
        """Height at distances from the centre (pixels), 1 inside, and its derivative.

        Example:
            >>> height, slope = DiskProbe(4.0, 0.5).sample(np.array([0.0, 4.0, 9.0]))
            >>> height.round(3).tolist(), slope.round(2).tolist()
            ([1.0, 0.5, 0.0], [-0.0, -0.8, -0.0])
        """
        edge = (distance - self.radius) / self.width
        slope = -np.exp(-0.5 * edge**2) / (self.width * np.sqrt(2 * np.pi))
        return 0.5 * special.erfc(edge / np.sqrt(2)), slope

    @property
    def reach(self) -> float:
        """Pixels about the centre that hold the disk and a ring of background."""
        return self.radius + 2 * self.width + RING_WIDTH


def correlate_disk(patterns: np.ndarray, probe: DiskProbe, mask: np.ndarray, /) -> np.ndarray:
    """Counts in a disk about each pixel, less the background about it, in standard deviations of shot noise.

    Args:
        patterns: ``(m, y, x)`` counts.
        probe: the disk.
        mask: ``(y, x)``, True where a pixel can be trusted; others are left out of disk and ring.
    """
    reach = int(np.ceil(probe.reach))
    side = np.arange(-reach, reach + 1)
    distance = np.hypot(side[:, None], side)
    disk = probe.sample(distance)[0]
    ring = (distance > probe.radius + 1.5 * probe.width) & (distance <= probe.reach)
    shape = [fft.next_fast_len(n + 2 * reach, real=True) for n in mask.shape]

    kernels = [np.asarray(fft.rfft2(kernel, shape)) for kernel in (disk, ring.astype(float))]

    def spread(images: np.ndarray) -> Iterator[np.ndarray]:
        spectrum = np.asarray(fft.rfft2(images, shape))
        for kernel in kernels:
            whole = np.asarray(fft.irfft2(spectrum * kernel, shape))
            yield whole[..., reach : reach + mask.shape[0], reach : reach + mask.shape[1]]

    of_disk, of_ring = (np.maximum(one, 0.0) for one in spread(mask.astype(float)))
    enough = (of_disk > 0.4 * disk.sum()) & (of_ring > 0.2 * ring.sum())
    counts = np.where(mask, patterns, 0.0)
    inside, around = spread(counts)
    share = of_disk / np.maximum(of_ring, 1e-9)
    noise = np.sqrt(np.maximum(inside + share**2 * around, 0.25))
    return np.where(enough, (inside - share * around) / noise, 0.0)


def find_peaks(significance: np.ndarray, least: float, separation: float, /) -> tuple[np.ndarray, np.ndarray]:
    """Peaks of a map of `correlate_disk`: places ``(m, 2)`` to a fraction of a pixel, and heights, falling.

    Args:
        significance: ``(y, x)``.
        least: height.
        separation: pixels that a peak is the highest of on all sides.
    """
    size = 2 * int(np.ceil(separation)) + 1
    top = (ndimage.maximum_filter(significance, size) == significance) & (significance > least)
    rows, columns = np.nonzero(top)
    inside = (rows > 0) & (columns > 0) & (rows < top.shape[0] - 1) & (columns < top.shape[1] - 1)
    rows, columns = rows[inside], columns[inside]
    middle = significance[rows, columns]
    steps = []
    for below, above in (
        (significance[rows - 1, columns], significance[rows + 1, columns]),
        (significance[rows, columns - 1], significance[rows, columns + 1]),
    ):
        curvature = np.minimum(below + above - 2 * middle, -1e-9)
        steps.append(np.clip(0.5 * (below - above) / curvature, -0.5, 0.5))
    order = np.argsort(-middle, kind="stable")
    return (np.stack([rows, columns], 1) + np.stack(steps, 1))[order], middle[order]
