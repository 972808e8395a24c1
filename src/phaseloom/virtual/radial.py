"""Rings around the beam: exact shares of pixels in circles of angle, and radial profiles of patterns.

Circles are circles of **angle**: with pixels that are not square they are ellipses on the detector.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from phaseloom.data.scan import Geometry
from phaseloom.errors import BadInput

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["RadialProfile", "Rings", "compute_angles", "compute_disk_share", "compute_radial_profile"]
__all__ += ["get_centre"]

PATTERNS_AT_ONCE = 8  # patterns whose profiles are computed together

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RadialProfile:
    """Mean and variance over the azimuth.

    Attributes:
        angle: ``(k,)`` mean angle of the pixels in each ring, radian.
        mean: ``(..., k)`` counts in a pixel; NaN in a ring without a trusted pixel.
        variance: ``(..., k)`` over the azimuth, counting noise included: of noise alone it is the mean.
        pixels: ``(k,)`` area of the trusted pixels in each ring, in pixels.
        share: ``(k,)`` of that in the area of the whole ring: below 1 where the detector ends or is masked.
    """

    angle: Floats
    mean: Floats
    variance: Floats
    pixels: Floats
    share: Floats


def get_centre(geometry: Geometry, centre: tuple[float, float] | None = None, /) -> tuple[float, float]:
    """The pixel (y, x) of the beam: as given, or zero frequency at ``[N // 2, N // 2]``.

    Raises:
        BadInput: a near field, which has no angles, or a centre that is not a pair of finite numbers.

    Example:
        >>> get_centre(Geometry(wavelength=0.02, shape=(5, 8), angle=(1e-3, 1e-3)))
        (2.0, 4.0)
    """
    if geometry.near:
        raise BadInput("detectors", None, "need far-field patterns: in a hologram a pixel is not an angle")
    if centre is None:
        return float(geometry.shape[0] // 2), float(geometry.shape[1] // 2)
    given = np.asarray(centre, np.float64)
    if given.shape != (2,) or not np.isfinite(given).all():
        raise BadInput("centre", centre, "must be two numbers, row and column of the beam in pixels")
    return float(given[0]), float(given[1])


def compute_angles(
    geometry: Geometry, /, *, centre: tuple[float, float] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Angles (y, x) from the beam to the middle of each pixel, radian, as a column and a row.

    Example:
        >>> y, x = compute_angles(Geometry(wavelength=0.02, shape=(3, 4), angle=(2e-3, 1e-3)))
        >>> (1e3 * y).ravel().tolist(), (1e3 * x).ravel().tolist()
        ([-2.0, 0.0, 2.0], [-2.0, -1.0, 0.0, 1.0])
    """
    at = get_centre(geometry, centre)
    y, x = ((np.arange(n) - c) * a for n, c, a in zip(geometry.shape, at, geometry.angle, strict=True))
    return y[:, None].astype(np.float64), x[None, :].astype(np.float64)


def compute_disk_share(
    geometry: Geometry, radius: float, /, *, centre: tuple[float, float] | None = None
) -> NDArray[np.float64]:
    """Share of each pixel's area ``(y, x)`` within an angle of the beam, exact: edges are antialiased.

    Args:
        geometry: of the detector.
        radius: radian; ``inf`` holds every pixel.
        centre: pixel (y, x) of the beam; default: zero frequency.

    Example:
        >>> geometry = Geometry(wavelength=0.02, shape=(7, 7), angle=(1e-3, 2e-3))
        >>> area = compute_disk_share(geometry, 2.6e-3).sum() * 1e-3 * 2e-3
        >>> bool(np.isclose(area, np.pi * 2.6e-3**2))
        True
    """
    y, x = compute_angles(geometry, centre=centre)
    half_y, half_x = (0.5 * a for a in geometry.angle)
    far = np.hypot(np.abs(y) + half_y, np.abs(x) + half_x)
    near = np.hypot(np.maximum(np.abs(y) - half_y, 0), np.maximum(np.abs(x) - half_x, 0))
    share = (far <= radius).astype(np.float64)
    rows, columns = np.nonzero((far > radius) & (near < radius))
    up = y[rows, 0] - half_y
    left = x[0, columns] - half_x
    down = up + 2 * half_y
    right = left + 2 * half_x
    area = _compute_corner_area(down, right, radius) - _compute_corner_area(up, right, radius)
    area += _compute_corner_area(up, left, radius) - _compute_corner_area(down, left, radius)
    share[rows, columns] = np.clip(area / (4 * half_y * half_x), 0.0, 1.0)
    return share


def _compute_corner_area(y: Floats, x: Floats, radius: float) -> Floats:
    """Signed area of a disk in the rectangle between its centre and ``(y, x)``."""
    sign = np.sign(y) * np.sign(x)
    y = np.minimum(np.abs(y), radius)
    x = np.minimum(np.abs(x), radius)
    chord = np.sqrt(np.maximum(radius**2 - y**2, 0))
    cut = chord * y + _compute_quarter_area(x, radius) - _compute_quarter_area(chord, radius)
    return sign * np.where(x <= chord, x * y, cut)


def _compute_quarter_area(x: Floats, radius: float) -> Floats:
    """Area under a quarter of a circle from 0 to ``x``."""
    height = np.sqrt(np.maximum(radius**2 - x**2, 0))
    return 0.5 * (x * height + radius**2 * np.arcsin(np.minimum(x / radius, 1)))


@dataclass(frozen=True, eq=False)
class Rings:
    """Rings around the beam, for the profiles of many patterns; pixels count by their area in a ring.

    Attributes:
        shape: of a pattern.
        table: ``(ring, pixel)`` areas of trusted pixels in each ring, in pixels.
        whole: ``(ring,)`` areas of the whole rings, in pixels.
        away: ``(pixel,)`` angles from the beam, radian.
    """

    shape: tuple[int, int]
    table: csr_array
    whole: Floats
    away: Floats

    @classmethod
    def of(
        cls,
        geometry: Geometry,
        /,
        *,
        centre: tuple[float, float] | None = None,
        mask: np.ndarray | None = None,
        width: float | None = None,
    ) -> Rings:
        """Rings that cover a detector; see `compute_radial_profile` for the arguments."""
        good = np.ones(geometry.shape, bool) if mask is None else np.asarray(mask, bool)
        if good.shape != geometry.shape:
            raise BadInput("radial.mask", good.shape, f"must have the detector's shape {geometry.shape}")
        y, x = compute_angles(geometry, centre=centre)
        reach = math.hypot(float(np.abs(y).max()), float(np.abs(x).max()))
        step = max(geometry.angle) if width is None else float(width)
        if not (math.isfinite(step) and step > 1e-4 * reach):
            fix = "is not a width of a ring in radian: take about that of a pixel"
            raise BadInput("radial.width", width, fix)
        edges = (np.arange(math.ceil(reach / step + 0.5)) + 0.5) * step
        disks = (compute_disk_share(geometry, float(edge), centre=centre) for edge in edges)
        whole = math.pi * np.diff(edges**2, prepend=0.0) / math.prod(geometry.angle)
        return cls(
            geometry.shape, _compute_ring_areas(disks, good), whole.astype(np.float64), np.hypot(y, x).ravel()
        )

    def profile(self, patterns: np.ndarray, /) -> RadialProfile:
        """Mean and variance over the azimuth of patterns ``(..., y, x)``."""
        stack = np.asarray(patterns, np.float64)
        if stack.shape[-2:] != self.shape:
            fix = f"must end in the detector's shape {self.shape}"
            raise BadInput("radial.patterns", stack.shape, fix)
        table: Any = self.table
        pixels = np.asarray(table.sum(axis=1), np.float64).ravel()
        flat = stack.reshape(-1, self.away.size)
        parts = [
            self._compute_moments(flat[at : at + PATTERNS_AT_ONCE], pixels)
            for at in range(0, len(flat), PATTERNS_AT_ONCE)
        ]
        empty = np.zeros((0, len(pixels)))
        mean, variance = (np.concatenate([empty, *(part[k] for part in parts)]) for k in (0, 1))
        lead = (*stack.shape[:-2], len(pixels))
        angle = table @ self.away / np.where(pixels > 0, pixels, np.nan)
        return RadialProfile(angle, mean.reshape(lead), variance.reshape(lead), pixels, pixels / self.whole)

    def _compute_moments(self, flat: Floats, pixels: Floats) -> tuple[Floats, Floats]:
        """Mean and variance ``(n, ring)`` of patterns ``(n, pixel)``; two passes, so that nothing cancels."""
        from scipy.sparse import csr_array

        table: Any = self.table
        area = np.where(pixels > 0, pixels, np.nan)
        ring = np.repeat(np.arange(len(pixels)), np.diff(table.indptr))
        added = csr_array((table.data, np.arange(len(ring)), table.indptr), shape=(len(pixels), len(ring)))
        radius = self.away[table.indices] - (table @ self.away / area)[ring]
        values = flat[:, table.indices]
        mean = (added @ values.T).T / area
        values = values - mean[:, ring]
        spread = added @ radius**2
        spread[spread <= 1e-9 * pixels * self.away.max() ** 2] = np.inf
        slope = (added @ (values * radius).T).T / spread
        values = values - slope[:, ring] * radius
        return mean, (added @ (values**2).T).T / area


def _compute_ring_areas(disks: Iterator[Floats], good: NDArray[np.bool_]) -> csr_array:
    """Areas ``(ring, pixel)`` between one disk and the next, of trusted pixels."""
    from scipy.sparse import csr_array

    places = []
    areas = []
    inner = np.zeros(good.shape)
    for outer in disks:
        ring = np.where(good, outer - inner, 0.0).ravel()
        places.append(np.flatnonzero(ring > 1e-12))
        areas.append(ring[places[-1]])
        inner = outer
    starts = np.concatenate([[0], np.cumsum([len(one) for one in places])])
    shape = (len(places), good.size)
    return csr_array((np.concatenate(areas), np.concatenate(places), starts), shape=shape)


def compute_radial_profile(
    patterns: np.ndarray,
    geometry: Geometry,
    /,
    *,
    centre: tuple[float, float] | None = None,
    mask: np.ndarray | None = None,
    width: float | None = None,
) -> RadialProfile:
    """Mean and variance over the azimuth, ring by ring, of one pattern or of a stack.

    Pixels count in a ring by the area that they have in it, so the rings tile the detector. The variance is
    about the straight line in angle that fits a ring best, not about its mean: a pattern that depends on the
    angle alone has none, but for its curvature within a ring. Rings of a few pixels have it too small.

    Args:
        patterns: ``(..., y, x)``.
        geometry: of the detector.
        centre: pixel (y, x) of the beam; default: zero frequency.
        mask: True where a pixel can be trusted.
        width: of a ring, radian; the first is a disk of half of it. Default: the longer side of a pixel.

    Raises:
        BadInput: patterns of another shape, or a width that is not positive or makes too many rings.

    Example:
        >>> geometry = Geometry(wavelength=0.02, shape=(9, 9), angle=(1e-3, 1e-3))
        >>> profile = compute_radial_profile(np.full((9, 9), 3.0), geometry)
        >>> profile.mean.round(9).tolist()[:3], profile.variance.round(9).tolist()[:3]
        ([3.0, 3.0, 3.0], [0.0, 0.0, 0.0])
    """
    return Rings.of(geometry, centre=centre, mask=mask, width=width).profile(patterns)
