"""From a scan and what its owner knows to a direct image: survey, fit, twin, image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from phaseloom.data.scan import Scan4D
from phaseloom.direct.fit import OpticsFit, fit_optics
from phaseloom.direct.solve import DirectImage, DirectMethod, reconstruct_image
from phaseloom.direct.survey import DiskSurvey, survey_disk
from phaseloom.direct.transfer import LinearOptics
from phaseloom.physics.optics import coefficients, to_cartesian
from phaseloom.units import ANGLE, LENGTH

__all__ = ["IMAGE_BORDER", "DirectReconstruction", "choose_twin", "compute_skewness", "reconstruct_scan"]

IMAGE_BORDER = 0.06
"""Share of the scan that is faded out on each side of an image."""

MIN_SKEWNESS = 3.0
"""Skewness of a phase, in standard errors, below which peaks and pits are not told apart."""

MIN_STATED_DEFOCUS = 0.5
"""Defocus, in units of wavelength / semiangle^2, below which the sign of a stated one decides nothing."""


@dataclass(frozen=True, eq=False)
class DirectReconstruction:
    """A direct image and everything that it rests on.

    Attributes:
        image: phase and amplitude at the places of the scan.
        optics: with which it was made.
        fit: how they were found; ``None``: they were given.
        survey: bad pixels, disk and descan.
        notes: sentences on what was decided how.
    """

    image: DirectImage
    optics: LinearOptics
    fit: OpticsFit | None
    survey: DiskSurvey
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """What was found, a line each."""
        one = self.optics
        lines = self.survey.lines()
        errors = {} if self.fit is None else self.fit.errors
        lay = "transposed" if one.orientation & 4 else "as given"
        turned = math.degrees(math.remainder(float(one.rotation), 2 * math.pi))
        lines.append(f"detector: {lay}, scan turned by {turned:.2f} degrees")
        if self.fit is not None:
            lines[-1] += f" +- {math.degrees(errors.get('rotation', 0.0)):.2f} (margin {self.fit.margin:.3g})"
        if float(one.step) != 1:
            lines.append(
                f"step: {100 * (float(one.step) - 1):+.2f} % +- {100 * errors.get('step', 0.0):.2f} %"
            )
        for name, value in one.aberrations.items():
            shown = float(-value if name == "C10" else value)
            label = "defocus" if name == "C10" else name
            off = f" +- {LENGTH.show(float(errors[name]))}" if name in errors else ""
            lines.append(f"{label}: {LENGTH.show(shown)}{off}")
        share = self.image.explained
        lines.append(
            "no single frequency stands out of counting noise"
            if math.isnan(share)
            else f"a weak object explains {share:.1%} of the changes in the disk"
        )
        return [*lines, *self.notes]


def reconstruct_scan(
    scan: Scan4D,
    /,
    *,
    semiangle: float | None = None,
    aberrations: Mapping[str, float] | None = None,
    method: DirectMethod | str = DirectMethod.WIENER,
    fit: bool = True,
    pixels: int = 500,
) -> DirectReconstruction:
    """Reconstruct the phase of a raster scan directly, with optics and geometry from the data.

    Args:
        scan: a far-field scan of a raster.
        semiangle: radian; default: that of the disk.
        aberrations: as `phaseloom.physics.optics.coefficients` understands them: the sign of a defocus
            decides between the twins; without ``fit`` they are used as they are.
        method: see `DirectMethod`.
        fit: find optics, orientation, rotation and step.
        pixels: about how many bright-field pixels the image is made from.

    Raises:
        BadInput: no disk, no raster, or nothing that changes.
    """
    survey = survey_disk(scan)
    known = to_cartesian(coefficients(aberrations or {}))
    found = survey.semiangle(scan)
    optics = LinearOptics(scan.geometry.wavelength, found, known)
    notes = []
    if semiangle is not None:
        optics = replace(optics, semiangle=semiangle, angle=semiangle / found)
        if abs(semiangle / found - 1) > 0.01:
            notes.append(
                f"the disk has {ANGLE.show(found)}: pixels are scaled to the {ANGLE.show(semiangle)} given"
            )
    fitted = None
    if fit:
        coarse = survey.measure(scan).transform()
        largest = find_largest_defocus(scan, float(optics.semiangle))
        fitted = fit_optics(coarse, replace(optics, aberrations={}), largest_defocus=largest)
        optics = fitted.optics
    spectrum = survey.measure(scan, pixels=pixels).transform(border=IMAGE_BORDER)
    image = reconstruct_image(optics, spectrum, method=method, border=IMAGE_BORDER)
    if fitted is not None:
        optics, image, note = choose_twin(
            optics, image, stated=known.get("C10"), electrons=scan.geometry.beam == "electron"
        )
        notes.append(note)
    return DirectReconstruction(image, optics, fitted, survey, tuple(notes))


def find_largest_defocus(scan: Scan4D, semiangle: float, /) -> float:
    """The defocus at which the cone of the beam is as wide as the window of the patterns, angstrom.

    Args:
        scan: for its pixels.
        semiangle: radian.
    """
    window = min(n * p for n, p in zip(scan.geometry.shape, scan.geometry.pixel, strict=True))
    return window / (2 * semiangle)


def choose_twin(
    optics: LinearOptics, image: DirectImage, /, *, stated: float | None, electrons: bool
) -> tuple[LinearOptics, DirectImage, str]:
    """One of two optics that explain the patterns alike: by the stated defocus, or because atoms are peaks.

    Args:
        optics: as fitted.
        image: made with them.
        stated: C10 as the user knows it, angstrom; ``None``: not known.
        electrons: whether matter advances the phase.
    """
    skew = compute_skewness(image.phase.double().numpy())
    error = math.sqrt(6 / image.phase.numel())
    unit = optics.wavelength / float(optics.semiangle) ** 2
    if stated and min(abs(stated), abs(optics.defocus)) > MIN_STATED_DEFOCUS * unit:
        keep = -stated * optics.defocus >= 0
        why = "the sign of the stated defocus"
    elif electrons and abs(skew) > MIN_SKEWNESS * error:
        keep = skew > 0
        why = f"atoms are peaks of the phase (skewness {abs(skew):.2f} +- {error:.2f})"
    else:
        keep = True
        why = "nothing: the phase may be upside down, state the sign of the defocus"
    note = f"twin (the scan turned by 180 degrees, opposite defocus and phase): decided by {why}"
    if keep:
        return optics, image, note
    return optics.get_twin(), replace(image, phase=-image.phase), note


def compute_skewness(values: Float[np.ndarray, "slow fast"], /) -> float:
    """Third moment of an image in units of its spread: positive for peaks.

    Args:
        values: image; slow changes over it are taken off.

    Example:
        >>> image = np.zeros((16, 16)); image[5, 5] = 1
        >>> compute_skewness(image) > 1
        True
    """
    from scipy.ndimage import gaussian_filter

    slow = gaussian_filter(values, [n / 10 for n in values.shape], mode="nearest")
    flat = values - slow
    flat = flat - flat.mean()
    return float((flat**3).mean() / max(float((flat**2).mean()) ** 1.5, 1e-300))
