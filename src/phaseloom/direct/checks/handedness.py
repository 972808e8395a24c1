"""Whether the detector is mirrored against the scan, by the curl of the centre of mass.

Any object without absorption deflects the beam by the gradient of its phase, blurred by the probe's
intensity, whatever the aberrations (Müller et al. 2014, doi 10.1038/ncomms6653): in the right frame the field
has no curl (Lazić et al. 2016, doi 10.1016/j.ultramic.2015.10.011). A wrong angle turns divergence into curl;
a wrong mirror cannot be turned away. The linear model of the bright field is blind where an object is strong;
this is not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Complex, Float

from phaseloom.data.scan import Scan4D
from phaseloom.direct.bright_field import Spectrum
from phaseloom.direct.checks.folding import FOLDING_NOTE, MIN_SHARE_BEYOND, fit_folded_optics
from phaseloom.direct.fit import OpticsFit, fit_optics
from phaseloom.direct.grid import fit_lattice
from phaseloom.direct.survey import DiskSurvey
from phaseloom.direct.transfer import LinearOptics

__all__ = ["HANDEDNESS_NOTE", "Handedness", "fit_optics_and_hand", "judge_handedness", "measure_handedness"]

LOWEST_FREQUENCY = 0.03
"""Cycles per step below which descan and drift are."""

HIGHEST_FREQUENCY = 0.35
"""Cycles per step from which single places are noise."""

MIN_SIGNIFICANCE = 4.0
"""Difference of the curls of both ways, in its standard errors, from which the smaller one decides. Of 64
scans of `benchmarks.faulty_scans` the smaller one was right on all 33 above 2.0; wrong ones reached 1.6."""

MIN_SHARE_OF_FIELD = 0.1
"""The same in units of the power of the field: noise is not all that makes curl."""

COMPONENTS_THAT_MOVE_TOGETHER = 2 * (1 + 2 * (2 / 3) ** 2 + 2 * (1 / 6) ** 2) ** 2
"""Of a real field under a Hann taper: both signs of a frequency, and neighbours by squared correlations."""

HANDEDNESS_NOTE = (
    "the curl of the centre of mass decided whether the detector is transposed, against the linear model"
)


@dataclass(frozen=True)
class Handedness:
    """The curl that is left of the centre of mass at the best rotation, in units of the power of its field.

    Attributes:
        as_given: with the detector's axes as they are.
        mirrored: with its rows and columns exchanged.
        error: of their difference by counting, at most: that of the power, up to twice as large.
    """

    as_given: float
    mirrored: float
    error: float

    @property
    def sign(self) -> int:
        """1: as given; -1: mirrored; 0: not decided."""
        difference = self.mirrored - self.as_given
        least = max(MIN_SHARE_OF_FIELD, MIN_SIGNIFICANCE * self.error)
        return int(math.copysign(1, difference)) if abs(difference) > least else 0


def fit_optics_and_hand(
    scan: Scan4D,
    survey: DiskSurvey,
    spectrum: Spectrum,
    optics: LinearOptics,
    /,
    *,
    largest_defocus: float,
) -> tuple[OpticsFit, str]:
    """Fit optics and geometry; again with folded details, or without the mirror that a clear curl forbids.

    Details that a raster folds have no curl that could be believed.

    Args:
        scan: a far-field scan; of photons, whose objects absorb, and off a raster curl is not looked at.
        survey: of its detector.
        spectrum: see `phaseloom.direct.fit.fit_optics`.
        optics: as well.
        largest_defocus: as well.

    Returns:
        The fit, and a note on what overruled it, or nothing.
    """
    found = fit_optics(spectrum, optics, largest_defocus=largest_defocus)
    found = fit_folded_optics(spectrum, found, optics, largest_defocus=largest_defocus)
    if found.beyond > MIN_SHARE_BEYOND:
        return found, FOLDING_NOTE
    if scan.grid is None or scan.geometry.beam != "electron":
        return found, ""
    sign = measure_handedness(scan, survey).sign
    if not sign or (sign < 0) == bool(found.optics.orientation & 4):
        return found, ""
    ways = (4,) if sign < 0 else (0,)
    found = fit_optics(spectrum, optics, largest_defocus=largest_defocus, orientations=ways)
    return found, HANDEDNESS_NOTE


def measure_handedness(scan: Scan4D, survey: DiskSurvey, /) -> Handedness:
    """The curl of the centre of mass of a raster, with the detector as given and mirrored.

    Args:
        scan: a far-field raster.
        survey: of its detector.
    """
    assert scan.grid is not None
    steps = fit_lattice(scan.positions, scan.grid)
    if steps is None:
        return Handedness(0.0, 0.0, math.inf)
    halves = survey.measure_centres_of_mass(scan)
    return judge_handedness(halves.reshape(2, *scan.grid, 2), steps)


def judge_handedness(
    field: Float[np.ndarray, "half slow fast 2"], steps: Float[np.ndarray, "2 2"], /
) -> Handedness:
    """The curl of a vector field that two halves of the detector saw, with its axes as given and exchanged.

    Powers are those that both halves share, so that noise adds nothing to them on average.

    Args:
        field: of each half, (row, column).
        steps: of the raster (slow, fast), each as (row, column), angstrom.

    Example:
        >>> from scipy.ndimage import gaussian_filter
        >>> phase = gaussian_filter(np.random.default_rng(0).normal(size=(24, 20)), 2)
        >>> field = np.stack(np.gradient(phase), -1)
        >>> judge_handedness(np.stack([field, field]), np.eye(2)).sign
        1
        >>> judge_handedness(np.stack([field, field])[..., ::-1], np.eye(2)).sign
        -1
    """
    shape = field.shape[1:3]
    taper = np.outer(*(np.hanning(side + 2)[1:-1] for side in shape))
    waves = np.fft.fft2(field * taper[None, :, :, None], axes=(1, 2))
    cycles = np.stack(np.meshgrid(*(np.fft.fftfreq(side) for side in shape), indexing="ij"), -1)
    radius = np.linalg.norm(cycles, axis=-1)
    used = (radius > LOWEST_FREQUENCY) & (radius < HIGHEST_FREQUENCY)
    direction = cycles[used] @ np.linalg.inv(steps).T
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    waves = waves[:, used]
    power, as_given = _measure_curl(waves, direction)
    _, mirrored = _measure_curl(waves[..., ::-1], direction)
    if power <= 0:
        return Handedness(0.0, 0.0, math.inf)
    noise = 2 * float((np.abs(waves[0] - waves[1]) ** 2).mean()) / 4  # variance of a component of a half
    variance = COMPONENTS_THAT_MOVE_TOGETHER * noise * (power + waves[0].size * noise / 2)
    return Handedness(as_given / power, mirrored / power, math.sqrt(variance) / power)


def _measure_curl(
    waves: Complex[np.ndarray, "half frequency 2"], direction: Float[np.ndarray, "frequency 2"]
) -> tuple[float, float]:
    """Power of a field, and that of its curl at the rotation where it is least.

    Turned by ``a`` the curl is ``cos a curl - sin a divergence``: the least of a quadratic form.
    """
    divergence = (waves * direction).sum(-1)
    curl = waves[..., 0] * direction[:, 1] - waves[..., 1] * direction[:, 0]
    parts = np.stack([curl, divergence])
    power = np.einsum("if,jf->ij", parts[:, 0], parts[:, 1].conj()).real
    least = np.linalg.eigvalsh((power + power.T) / 2)[0]
    return float(np.trace(power)), float(least)
