"""Virtual detectors: rings, their segments, or any mask, as weights of the pixels of a pattern.

Edges are antialiased: a pixel counts by the share of its area, so that detectors which tile the plane add
up to all counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from phaseloom.data.scan import Geometry
from phaseloom.errors import BadInput
from phaseloom.units import ANGLE
from phaseloom.virtual.radial import compute_angles, compute_disk_share, get_centre

__all__ = ["STANDARD_RINGS", "VirtualDetector", "describe_cut_ring", "format_mrad", "make_annulus"]
__all__ += ["make_segments", "make_standard_detectors"]

# Bright field, annular bright field, annular dark field and high-angle: from, to, in semi-angles.
STANDARD_RINGS = {"BF": (0.0, 1.0), "ABF": (0.5, 1.0), "ADF": (1.0, 3.0), "HAADF": (3.0, math.inf)}
POINTS_PER_PIXEL = 16  # points along a pixel's side by which the borders between segments are antialiased


@dataclass(frozen=True, eq=False)
class VirtualDetector:
    """Pixels that are added up.

    Attributes:
        name: of the image.
        weights: ``(y, x)``, share of each pixel that counts; any mask will do.
        inner, outer: angles of a ring, radian; ``None`` where it is none.
    """

    name: str
    weights: np.ndarray
    inner: float | None = None
    outer: float | None = None

    def __post_init__(self) -> None:
        weights = np.asarray(self.weights)
        if weights.ndim != 2 or weights.dtype.kind not in "buif" or not np.isfinite(weights).all():
            raise BadInput(f"detector {self.name}", weights.shape, "must be finite weights (y, x) of pixels")
        object.__setattr__(self, "weights", weights.astype(np.float64))


def make_annulus(
    geometry: Geometry,
    inner: float,
    outer: float,
    /,
    *,
    name: str = "annulus",
    centre: tuple[float, float] | None = None,
) -> VirtualDetector:
    """A ring between two angles: each pixel by the exact share of its area in it.

    Args:
        geometry: of the detector.
        inner: radian; 0 makes it a disk.
        outer: radian; ``inf`` makes it all that is outside of a disk.
        name: of the image.
        centre: pixel (y, x) of the beam; default: zero frequency.

    Raises:
        BadInput: angles that are not in order, or a ring that the detector does not reach.

    Example:
        >>> geometry = Geometry(wavelength=0.02, shape=(9, 9), angle=(1e-3, 1e-3), beam="electron")
        >>> within, beyond = make_annulus(geometry, 0, 2.5e-3), make_annulus(geometry, 2.5e-3, np.inf)
        >>> bool((within.weights + beyond.weights == 1).all())
        True
    """
    if not (0 <= inner < outer) or math.isinf(inner):
        fix = "must be two angles, the inner one first"
        raise BadInput(f"detector {name}", (inner, outer), fix)
    within = compute_disk_share(geometry, inner, centre=centre) if inner > 0 else np.zeros(geometry.shape)
    weights = compute_disk_share(geometry, outer, centre=centre) - within
    if not weights.any():
        reach = ANGLE.show(float(f"{_measure_reach(geometry, centre):.4g}"))
        fix = f"is out of reach: the detector's farthest corner is at {reach} from the beam"
        raise BadInput(f"detector {name}", f"a ring from {ANGLE.show(inner)} on", fix)
    return VirtualDetector(name, weights, float(inner), float(outer))


def make_segments(
    geometry: Geometry,
    inner: float,
    outer: float,
    /,
    *,
    count: int = 4,
    turn: float = 0.0,
    name: str = "segment",
    centre: tuple[float, float] | None = None,
) -> tuple[VirtualDetector, ...]:
    """A ring cut into equal segments, as those of a DPC detector; together they are the ring exactly.

    Args:
        geometry: of the detector.
        inner: radian.
        outer: radian.
        count: of segments, two at least.
        turn: where the first one begins, radian, from the direction of columns towards that of rows; with
            four and 0 they are: down right, down left, up left, up right.
        name: of the images, followed by their number from 1.
        centre: pixel (y, x) of the beam; default: zero frequency.

    Example:
        >>> geometry = Geometry(wavelength=0.02, shape=(9, 9), angle=(1e-3, 1e-3), beam="electron")
        >>> first, *others = make_segments(geometry, 0, 3e-3)
        >>> first.name, len(others), float(first.weights[5, 5]), float(first.weights[3, 5])
        ('segment 1', 3, 1.0, 0.0)
    """
    if not (isinstance(count, int) and count >= 2 and math.isfinite(turn)):
        raise BadInput(f"detector {name}", (count, turn), "must be two segments at least, and a finite turn")
    ring = make_annulus(geometry, inner, outer, name=name, centre=centre)
    y, x = compute_angles(geometry, centre=centre)
    share = np.zeros((count, *geometry.shape))
    points = (np.arange(POINTS_PER_PIXEL) + 0.5) / POINTS_PER_PIXEL - 0.5
    for down in points * geometry.angle[0]:
        for right in points * geometry.angle[1]:
            place = (np.arctan2(y + down, x + right) - turn) * count / (2 * np.pi)
            for side in (-1e-9, 1e-9):  # a point on a border is half on either side
                number = np.floor(place + side).astype(int) % count
                share += number == np.arange(count)[:, None, None]
    share *= ring.weights / (2 * POINTS_PER_PIXEL**2)
    return tuple(
        VirtualDetector(f"{name} {k + 1}", one, ring.inner, ring.outer) for k, one in enumerate(share)
    )


def make_standard_detectors(
    geometry: Geometry,
    semiangle: float,
    /,
    *,
    centre: tuple[float, float] | None = None,
    mask: np.ndarray | None = None,
) -> tuple[tuple[VirtualDetector, ...], tuple[str, ...]]:
    """BF, ABF, ADF and HAADF as far as the detector reaches, and sentences on what it does not hold.

    Rings with less than one trusted pixel are left out.

    Args:
        geometry: of the detector.
        semiangle: of the beam, radian, in which `STANDARD_RINGS` is.
        centre: pixel (y, x) of the beam; default: zero frequency.
        mask: True where a pixel can be trusted.

    Raises:
        BadInput: a semi-angle that is none, or of which no detector is left.

    Example:
        >>> geometry = Geometry(wavelength=0.02, shape=(16, 16), angle=(1e-3, 1e-3), beam="electron")
        >>> detectors, notes = make_standard_detectors(geometry, 5e-3)
        >>> [one.name for one in detectors]
        ['BF', 'ABF', 'ADF']
        >>> notes[-1]
        'HAADF is left out: it begins at 15 mrad, and the detector reaches to 12.02 mrad'
    """
    if not (math.isfinite(semiangle) and semiangle > 0):
        raise BadInput("semiangle", semiangle, "is not a positive angle: write for example '21 mrad'")
    made = []
    notes = []
    reach = _measure_reach(geometry, centre)
    good = np.ones(geometry.shape) if mask is None else mask
    for name, (inner, outer) in STANDARD_RINGS.items():
        begin = inner * semiangle
        end = outer * semiangle
        reached = begin < reach
        ring = make_annulus(geometry, begin, end, name=name, centre=centre) if reached else None
        if ring is None or (ring.weights * good).sum() < 1:
            limits = f"it begins at {format_mrad(begin)}, and the detector reaches to {format_mrad(reach)}"
            notes.append(f"{name} is left out: {limits}")
            continue
        made.append(ring)
        notes += describe_cut_ring(geometry, ring, centre=centre)
    if not made:
        raise BadInput(
            "semiangle", format_mrad(semiangle), "leaves no detector: no trusted pixel is in any ring"
        )
    return tuple(made), tuple(notes)


def describe_cut_ring(
    geometry: Geometry, ring: VirtualDetector, /, *, centre: tuple[float, float] | None = None
) -> tuple[str, ...]:
    """A sentence on a ring that the detector does not hold as a whole; none on one that it does.

    Example:
        >>> geometry = Geometry(wavelength=0.02, shape=(16, 16), angle=(1e-3, 1e-3), beam="electron")
        >>> [len(describe_cut_ring(geometry, make_annulus(geometry, 0, outer))) for outer in (7e-3, 8e-3)]
        [0, 1]
    """
    at = zip(get_centre(geometry, centre), geometry.shape, geometry.angle, strict=True)
    edge = max(0.0, min(min(c + 0.5, n - 0.5 - c) * a for c, n, a in at))
    inner = ring.inner or 0.0
    outer = ring.outer or 0.0
    if outer <= edge * (1 + 1e-9):
        return ()
    sentence = f"{ring.name}: the detector holds whole rings only to {format_mrad(edge)}"
    if math.isinf(outer):
        where = "lies in its corners alone" if inner >= edge else "ends where the detector ends"
        return (f"{sentence}, so it {where}",)
    share = ring.weights.sum() * math.prod(geometry.angle) / (math.pi * (outer**2 - inner**2))
    return (f"{sentence}, and {100 * share:.0f} % of this one",)


def _measure_reach(geometry: Geometry, centre: tuple[float, float] | None) -> float:
    """Angle from the beam to the farthest corner of the detector."""
    y, x = compute_angles(geometry, centre=centre)
    return math.hypot(*(float(np.abs(a).max()) + s / 2 for a, s in zip((y, x), geometry.angle, strict=True)))


def format_mrad(angle: float, /) -> str:
    """An angle as text.

    Example:
        >>> format_mrad(0.0214)
        '21.4 mrad'
    """
    return f"{1e3 * angle:.4g} mrad"
