"""What has to be known of a detector before anything is fitted: bad pixels, disk, descan."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from phaseloom.data.bad_pixels import BadPixels, find_bad_pixels
from phaseloom.data.calibrate import Disk, fit_disk
from phaseloom.data.counts import require_plausible_counts
from phaseloom.data.descan import fit_descan, measure_deflections
from phaseloom.data.scan import Scan4D
from phaseloom.direct.bright_field import (
    BrightField,
    measure_bright_field,
    measure_centres_of_mass,
)
from phaseloom.errors import BadInput

__all__ = ["DiskSurvey", "survey_disk"]


@dataclass(frozen=True, eq=False)
class DiskSurvey:
    """The detector of a far-field scan and where the direct beam is on it.

    Attributes:
        mean: mean pattern, ``(y, x)`` counts.
        bad: hot and dead pixels.
        mask: True where a pixel can be trusted: that of the scan without the bad pixels.
        disk: the bright-field disk of the mean pattern, detector pixels.
        descan: ``(pattern, 2)`` by how many detector pixels the disk of each pattern lies off the centre;
            ``None``: by nothing that is significant.
    """

    mean: Float[np.ndarray, "y x"]
    bad: BadPixels
    mask: Bool[np.ndarray, "y x"]
    disk: Disk
    descan: Float[np.ndarray, "pattern 2"] | None

    def semiangle(self, scan: Scan4D, /) -> float:
        """That of the disk by the angle of a pixel, radian."""
        return self.disk.radius * math.sqrt(math.prod(scan.geometry.angle))

    def measure(self, scan: Scan4D, /, *, pixels: int = 200) -> BrightField:
        """The bright field of the scan, in about so many pixels."""
        return measure_bright_field(
            scan,
            centre=self.disk.centre,
            radius=self.disk.radius,
            pixels=pixels,
            mask=self.mask,
            descan=self.descan,
        )

    def measure_centres_of_mass(self, scan: Scan4D, /) -> Float[np.ndarray, "half pattern 2"]:
        """Centres of mass around the disk; see `phaseloom.direct.bright_field.measure_centres_of_mass`."""
        disk = self.disk
        return measure_centres_of_mass(
            scan, centre=disk.centre, radius=disk.radius, mask=self.mask, descan=self.descan
        )

    def lines(self) -> list[str]:
        """What was found, a line each."""
        lines = [f"masked: {line}" for line in self.bad.lines()]
        radius = f"{self.disk.radius:.2f} +- {self.disk.radius_error:.2f} pixels"
        middle = f"({self.disk.centre[0]:.2f}, {self.disk.centre[1]:.2f})"
        lines.append(f"disk: radius {radius}, centre {middle}")
        if self.descan is not None:
            moved = np.ptp(self.descan, axis=0)
            lines.append(f"descan: {moved[0]:.2f} pixels along rows, {moved[1]:.2f} along columns")
        return lines


def survey_disk(scan: Scan4D, /) -> DiskSurvey:
    """Find bad pixels, the bright-field disk and the descan of a far-field scan.

    Args:
        scan: the data; read twice.

    Raises:
        BadInput: a near field, or no disk in the mean pattern.
    """
    if scan.geometry.near:
        raise BadInput("direct", None, "needs far-field patterns with a bright disk, not a near field")
    mean = scan.mean_pattern(most=len(scan))
    require_plausible_counts(0.0, float(mean[scan.mask].max(initial=0.0)), "direct")
    bad = find_bad_pixels(scan, mean=mean)
    mask = scan.mask & bad.mask
    try:
        disk = fit_disk(np.where(mask, mean, 0.0), mask=mask)
    except BadInput as error:
        axes = "are the axes in the order scan rows, scan columns, detector rows, detector columns?"
        raise BadInput("direct", error.value, f"{error.fix}; {axes}") from error
    if scan.descan is not None:  # known, in pixels of the model
        descan = scan.descan * np.divide(scan.window.angle, scan.geometry.angle)
    else:
        moves = measure_deflections(scan, centre=disk.centre, radius=disk.radius, mask=mask, mean=mean)
        descan = fit_descan(moves, scan.positions, scan.find_raster_places())
    if descan is not None:
        descan = descan - descan.mean(0)
    return DiskSurvey(mean, bad, mask, disk, descan)
