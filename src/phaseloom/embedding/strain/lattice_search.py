"""Search the origin and the rotation of lattices in correlations with the disk."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage

from phaseloom.embedding.strain.lattice import build_turn

__all__ = ["RotationSearch", "find_symmetry_centre", "sample_maps", "search_rotations"]

MAX_SIGNIFICANCE = 8.0  # that a spot counts with: no strong one shall decide alone
STEP_OF_RADIUS = 0.3  # of the disk, that the outermost spots move by between two angles
HALF_TURN = 180.0  # degrees after which a lattice is the same


@dataclass(frozen=True, eq=False)
class RotationSearch:
    """The best rotation of each of ``m`` patterns.

    Attributes:
        degrees: ``(m,)`` from the basis.
        score: ``(m,)`` sum of the significance at the lattice points.
        distinction: ``(m,)`` how far it is above the median over all angles, in standard deviations of shot
            noise.
    """

    degrees: np.ndarray
    score: np.ndarray
    distinction: np.ndarray


def find_symmetry_centre(significance: np.ndarray, /) -> np.ndarray:
    """The place ``(2,)`` about which a map is most like itself turned by 180 degrees.

    Of several that are nearly as good, as a lattice has, the one near the middle.

    Example:
        >>> image = np.zeros((21, 22))
        >>> image[[6, 6, 12, 12], [8, 14, 8, 14]] = [1, 2, 2, 1]
        >>> find_symmetry_centre(image).tolist()
        [9.0, 11.0]
    """
    shape = [fft.next_fast_len(2 * n, real=True) for n in significance.shape]
    spectrum = np.asarray(fft.rfft2(significance, shape))
    folded = np.asarray(fft.irfft2(spectrum * spectrum, shape))
    folded = folded[: 2 * significance.shape[0] - 1, : 2 * significance.shape[1] - 1]
    away = np.hypot(
        *(
            (at / 2 - n // 2) / (n / 6)
            for at, n in zip(np.indices(folded.shape), significance.shape, strict=True)
        )
    )
    folded = folded * np.exp(-0.5 * away**2)
    row, column = np.unravel_index(folded.argmax(), folded.shape)
    found = []
    for line, at in ((folded[:, column], row), (folded[row], column)):
        below, middle, above = (line[np.clip(at + step, 0, len(line) - 1)] for step in (-1, 0, 1))
        curvature = below + above - 2 * middle
        found.append(at + (0.5 * (below - above) / curvature if curvature < 0 else 0.0))
    return np.array(found) / 2


def search_rotations(
    significance: np.ndarray, origins: np.ndarray, basis: np.ndarray, orders: np.ndarray, radius: float, /
) -> RotationSearch:
    """Turn a lattice through 180 degrees, and find where most of the disks are on its points.

    Args:
        significance: ``(m, y, x)`` of `phaseloom.embedding.strain.disk_probe.correlate_disk`.
        origins: ``(m, 2)``.
        basis: of the lattice.
        orders: ``(g, 2)`` of the points, without zero.
        radius: of the disk, pixels.
    """
    points = orders @ basis.T
    reach = float(np.linalg.norm(points, axis=1).max())
    step = np.degrees(STEP_OF_RADIUS * max(radius, 2.0) / reach)
    angles = np.arange(0, HALF_TURN, HALF_TURN / np.ceil(HALF_TURN / step))
    turned = points @ np.stack([build_turn(one) for one in angles]).transpose(0, 2, 1)
    scores = np.stack(
        [
            _sample(one, (origin + turned).reshape(-1, 2)).reshape(len(angles), -1).sum(1)
            for one, origin in zip(significance, origins, strict=True)
        ]
    )
    best = scores.argmax(1)
    each = np.arange(len(scores))
    middle = np.median(scores, axis=1)
    # noise of the sum of independent spots; the scatter over angles would hold the lattice itself
    spread = np.sqrt(len(orders))
    return RotationSearch(angles[best], scores[each, best], (scores[each, best] - middle) / spread)


def sample_maps(significance: np.ndarray, places: np.ndarray, /) -> np.ndarray:
    """Significance ``(m, g)`` of each map ``(m, y, x)`` at its places ``(m, g, 2)``; 8 is as good as more."""
    return np.stack([_sample(one, at) for one, at in zip(significance, places, strict=True)])


def _sample(significance: np.ndarray, places: np.ndarray) -> np.ndarray:
    clipped = np.clip(significance, -MAX_SIGNIFICANCE, MAX_SIGNIFICANCE)
    return ndimage.map_coordinates(clipped, places.T, order=1, mode="constant")
