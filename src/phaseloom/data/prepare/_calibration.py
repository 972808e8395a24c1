"""What angle a detector pixel sees: said in one of many ways, or found from the bright-field disk."""

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np

from phaseloom.data.calibrate import fit_disk, half_maximum_radius
from phaseloom.data.prepare._shared import make_example as _example  # noqa: F401 - for the examples
from phaseloom.data.prepare._shared import require_number
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.units import ANGLE, Angle, Length

__all__ = ["calibrate"]

log = logging.getLogger(__name__)

Angles = tuple[float, float]


def calibrate(
    scan: Scan4D,
    /,
    *,
    semiangle: Angle | None = None,
    by: Literal["disk", "half maximum area"] = "disk",
    pixel: Length | None = None,
    frequency: float | None = None,
    highest: float | None = None,
    angle: Angle | None = None,
    maximum: Angle | None = None,
    radius: float | None = None,
    semiangles: float | None = None,
) -> Scan4D:
    """Set the angle of a detector pixel: from the bright-field disk, or from one number that says it.

    With ``semiangle`` alone the disk of the mean pattern is fitted (`phaseloom.data.calibrate`); radius,
    its error and the elliptic distortion are logged and kept in the scan's metadata. Patterns and
    positions stay as they are.

    Args:
        scan: a far-field scan.
        semiangle: of the beam, radian: that of the disk's rim.
        by: how the disk is found: ``disk`` fits its rim; ``half maximum area`` takes a circle of the
            area in which the mean pattern exceeds half its maximum.
        pixel: of the object, angstrom.
        frequency: of a detector pixel, 1/angstrom.
        highest: frequency at the edge of the detector, half its pixels from the middle, 1/angstrom.
        angle: of a detector pixel, radian.
        maximum: angle at the edge of the detector, radian.
        radius: of the disk in pixels, known; needs ``semiangle``.
        semiangles: how many ``semiangle`` the edge of the detector is from the middle.

    Raises:
        BadInput: none or several of the numbers, one that is not positive, or no disk to be found.

    Example:
        >>> calibrate(_example(), angle=2e-3).geometry.pixel
        (1.25, 1.25)
        >>> calibrate(_example(), semiangle=4e-3, radius=2.0).geometry.angle
        (0.002, 0.002)
    """
    if scan.geometry.near:
        raise BadInput("calibrate", None, "needs far-field patterns")
    numbers = {"pixel": pixel, "frequency": frequency, "highest": highest, "angle": angle}
    numbers |= {"maximum": maximum, "radius": radius, "semiangles": semiangles}
    given = {name: value for name, value in numbers.items() if value is not None}
    if len(given) > 1 or (not given and semiangle is None):
        fix = f"needs semiangle, or one of {', '.join(numbers)}"
        raise BadInput("calibrate", ", ".join(given) or None, fix)
    if semiangle is not None and given and not {"radius", "semiangles"} & set(given):
        name = next(iter(given))
        raise BadInput(f"calibrate.{name}", given[name], "says the angle already: leave semiangle out")
    for name, value in (given | ({} if semiangle is None else {"semiangle": semiangle})).items():
        require_number(value, f"calibrate.{name}", above=0)
    if semiangle is not None and not given:
        return _calibrate_by_disk(scan, float(semiangle), by)
    ((name, value),) = given.items()
    if name in ("radius", "semiangles") and semiangle is None:
        fix = "needs semiangle too: write for example semiangle: 25 mrad"
        raise BadInput(f"calibrate.{name}", value, fix)
    return _set_angle(scan, ANGLE_BY_NUMBER[name](scan.geometry, value, semiangle or 0.0))


ANGLE_BY_NUMBER: dict[str, Callable[[Geometry, float, float], Angles]] = {
    "pixel": lambda g, pixel, _: _for_each_axis(g, lambda n: g.wavelength / (n * pixel)),
    "frequency": lambda g, frequency, _: _for_each_axis(g, lambda n: g.wavelength * frequency),
    "highest": lambda g, highest, _: _for_each_axis(g, lambda n: g.wavelength * highest / (n / 2)),
    "angle": lambda g, angle, _: (angle, angle),
    "maximum": lambda g, maximum, _: _for_each_axis(g, lambda n: maximum / (n / 2)),
    "radius": lambda g, radius, semiangle: (semiangle / radius, semiangle / radius),
    "semiangles": lambda g, number, semiangle: _for_each_axis(g, lambda n: number * semiangle / (n / 2)),
}
"""The angle of a pixel (y, x) that follows from each number."""


def _for_each_axis(geometry: Geometry, angle: Callable[[int], float]) -> Angles:
    return angle(geometry.shape[0]), angle(geometry.shape[1])


def _set_angle(scan: Scan4D, angle: Angles, note: str | None = None) -> Scan4D:
    """Another angle; a known distance changes, for the detector's pixels are as large as ever."""
    geometry = scan.geometry
    distance = geometry.distance
    if distance is not None:
        distance *= math.sqrt(math.prod(geometry.angle) / math.prod(angle))
    metadata = dict(scan.metadata) | ({} if note is None else {"calibration": note})
    return replace(scan, geometry=replace(geometry, angle=angle, distance=distance), metadata=metadata)


def _calibrate_by_disk(scan: Scan4D, semiangle: float, by: str) -> Scan4D:
    mean = np.where(scan.mask, scan.mean_pattern(), 0.0)
    if by == "half maximum area":
        if not mean.max() > 0:
            raise BadInput("calibrate", None, "finds no disk: the mean pattern is dark")
        radius = half_maximum_radius(mean)
        note = f"bright-field disk of {radius:.2f} px by its area above half the maximum"
    elif by == "disk":
        disk = fit_disk(mean, mask=scan.mask)
        radius = disk.radius
        note = f"bright-field disk of {radius:.3f} +- {disk.radius_error:.3f} px"
        note += f" at ({disk.centre[0]:.2f}, {disk.centre[1]:.2f})"
        note += f", distorted by {disk.distortion:.2%} +- {disk.distortion_error:.2%}"
        if disk.distortion > max(0.01, 3 * disk.distortion_error):
            log.warning("calibrate: the bright-field disk is an ellipse (%s)", note)
    else:
        raise BadInput("calibrate.by", by, "is not known: write disk or half maximum area")
    angle = semiangle / radius
    log.info("calibrate: %s, so a pixel sees %s", note, ANGLE.show(angle))
    return _set_angle(scan, (angle, angle), note)


def near_field(scan: Scan4D, /, *, distance: Length, focus: Length) -> Scan4D:
    """Correct the distances of a near-field scan; the pixels of the detector are as large as ever.

    Args:
        scan: of any field.
        distance: object to detector.
        focus: focus to object, negative when the object comes first; ``inf``: a parallel beam.

    Raises:
        BadInput: no distance to the detector is known, or a distance or focus that cannot be.

    Example:
        >>> scan = _example()
        >>> known = replace(scan, geometry=replace(scan.geometry, distance=1e9, beam="photon"))
        >>> near_field(known, distance=2e9, focus=2e9).geometry.magnification
        2.0
    """
    geometry = scan.geometry
    if geometry.distance is None:
        raise BadInput("near_field", None, "needs a file that states the detector's pixels and distance")
    require_number(distance, "near_field.distance", above=0)
    if focus == 0 or math.isnan(focus) or focus + distance == 0:
        raise BadInput("near_field.focus", focus, "must be a length that is not zero, or inf")
    share = geometry.distance / distance

    def corrected(one: Geometry) -> Geometry:
        angle = (one.angle[0] * share, one.angle[1] * share)
        return replace(one, distance=distance, angle=angle, focus=focus)

    modelled = None if scan.modelled is None else corrected(scan.modelled)
    return replace(scan, geometry=corrected(geometry), modelled=modelled)
