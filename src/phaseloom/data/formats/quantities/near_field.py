"""Whether a scan can be a far-field one at all, by its geometry."""

import math

import numpy as np

from phaseloom.data.scan import Geometry

__all__ = ["FOCUS_HELP", "describe_near_field"]

FOCUS_HELP = "focus to sample, negative if the sample comes first; inf: parallel beam; or write field: far"

MAX_BEAM_IN_WINDOW = 0.5
"""Share of the far-field window, wavelength x distance / pixel, that a beam may fill: intensities have
twice the band width of the wave, so pixels sample patterns of wider beams too coarsely."""

SAME_PLACE = 0.1
"""Share of the mean step within which encoders that jitter name one place."""

MAX_PATTERNS_FOR_STEP = 5000
"""Positions that the median distance to the nearest neighbour is taken of."""


MAX_USUAL_STEP = 10.0
"""Steps over the widest far-field beam, from which a unit is doubted before a near field is thought of.

A unit that is wrong is off by 1000, of steps that are mostly above a hundredth of that beam. Holograms of
cone beams have 1 to 5; those close behind a sample may have more, so that nothing is refused."""


def describe_near_field(geometry: Geometry, positions: np.ndarray, /) -> str | None:
    """Why a scan that states no focus cannot be a far-field one; nothing where it can.

    Neighbouring beams of a ptychography scan overlap, so the beam is wider than the distance of nearest
    neighbours. In the far field, pixels of size ``p`` at distance ``z`` sample patterns of beams up to half
    of the window ``wavelength z / p``. Steps that are larger need a near field: there the window is the
    detector itself, divided by the magnification. Electrons and scans without a distance are not judged.

    Example:
        >>> hologram = Geometry(wavelength=1.0, shape=(100, 100), angle=(5e-5, 5e-5), distance=1e10)
        >>> places = np.indices((9, 9)).reshape(2, -1).T * 12_000.0
        >>> print((describe_near_field(hologram, places) or "")[:46])
        a near field: neighbours are 1.2 um apart, far
        >>> describe_near_field(hologram, places / 10) is None
        True
    """
    if geometry.near or geometry.beam != "photon" or geometry.distance is None:
        return None
    step = _nearest_neighbours(positions)
    limit = MAX_BEAM_IN_WINDOW * min(geometry.pixel[axis] * geometry.shape[axis] for axis in (0, 1))
    detector = geometry.distance * min(a * n for a, n in zip(geometry.angle, geometry.shape, strict=True))
    if not (math.isfinite(step) and limit < step < detector):
        return None
    beam = f"far-field beams would be at most {limit * 1e-4:.3g} um wide"
    lengths = f"neighbours are {step * 1e-4:.3g} um apart, {beam}"
    if step > MAX_USUAL_STEP * limit:
        return (
            "check the units of positions, distance and energy in the file first, one may be 1000 times "
            f"off: {lengths}, {step / limit:.2g} times less; if all are right, a near field"
        )
    return f"a near field: {lengths}; if these lengths are wrong, check their units in the file"


def _nearest_neighbours(positions: np.ndarray) -> float:
    """Median distance of each position to the nearest one elsewhere, angstrom.

    Positions nearer to each other than a tenth of the mean step are one place, measured several times.
    """
    from scipy.spatial import KDTree

    positions = np.asarray(positions, np.float64)
    if len(positions) < 4 or not np.isfinite(positions).all():
        return math.nan
    extent = np.ptp(positions, axis=0)
    step = max(math.sqrt(extent.prod() / len(positions)), extent.max() / len(positions))
    cells = (positions / max(SAME_PLACE * step, 1e-3)).round()
    places = positions[np.unique(cells, axis=0, return_index=True)[1]]
    if len(places) < 4:
        return math.nan
    some = places[:: max(1, len(places) // MAX_PATTERNS_FOR_STEP)]
    distances, _ = KDTree(places).query(some, 2)
    return float(np.median(distances[:, 1]))
