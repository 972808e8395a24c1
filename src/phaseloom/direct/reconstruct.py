"""From a scan and what its owner knows to a direct image: survey, fit, twin, image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float

from phaseloom.data.scan import Scan4D
from phaseloom.direct.bright_field import BrightField, Spectrum
from phaseloom.direct.checks.folding import (
    MIN_SHARE_BEYOND,
    choose_frequencies,
    choose_upsample,
    may_be_folded,
)
from phaseloom.direct.checks.handedness import fit_optics_and_hand
from phaseloom.direct.fit import PIXELS_IN_REFINEMENT, OpticsFit, are_pixels_coarse, refine_optics
from phaseloom.direct.grid import ImageGrid, choose_image_grid
from phaseloom.direct.solve import (
    DECONVOLUTION_RIDGE,
    DirectImage,
    DirectMethod,
    check_options,
    reconstruct_image,
)
from phaseloom.direct.survey import DiskSurvey, survey_disk
from phaseloom.direct.transfer import LinearOptics, orientation_matrix, turn_matrix
from phaseloom.direct.twin import choose_twin, judge_twin
from phaseloom.errors import BadInput
from phaseloom.metrics.resolution import RingCorrelation, ring_correlation
from phaseloom.physics.optics import coefficients, to_cartesian
from phaseloom.units import ANGLE, LENGTH

__all__ = [
    "IMAGE_BORDER",
    "DirectReconstruction",
    "describe_coarse_image",
    "describe_folding",
    "describe_wrong_step",
    "find_resolution",
    "reconstruct_scan",
    "suggest_step",
]

IMAGE_BORDER = 0.06
"""Share of the scan that is faded out on each side of an image."""

MIN_SIDE_FOR_RINGS = 8
"""Places along the shorter side of an image below which its rings are not correlated."""


MIN_RING_SIGNIFICANCE = 2.5
"""Correlation times the root of the number of components of the best ring, below which nothing correlates;
noise alone has a standard deviation of 0.7 in each ring."""


UNKNOWN_ERROR = ", error not determined"

MIN_LINES = 4
"""Lines and columns of a raster below which it tells nothing of optics."""

MAX_SHARE_BY_CHANCE = 1.05
"""Share explained up to which more than all may be chance: sums of noise differ by a few percent of a weak
signal."""

MAX_EDGE_OF_SPECTRUM = 0.1
"""Power of the finest frequencies of a raster over that of middle ones, above which finer details are folded
into it. Of atoms at steps of 0.4 to 0.6 wavelength / (2 semiangle) it was 0.04 at most; at 1.3 to 2.7 times
that 0.1 to 6, with rotations off by 3 to 17 degrees in 7 of 8 scans, and the defocus by up to four times."""

MAX_STEP = 5.0
"""Step over what the aperture resolves, wavelength / (2 semiangle), above which the unit is doubted."""

PHOTON_ADVICE = (
    "direct images are made for electrons, and this is a scan of photons: use phaseloom reconstruct"
)

PHOTON_NOTE = "direct images are made for electrons: of photons, check the image by a reconstruction"
"""Of photons: their objects are seldom weak, their disks seldom even and round."""


@dataclass(frozen=True, eq=False)
class DirectReconstruction:
    """A direct image and everything that it rests on.

    Attributes:
        image: phase and amplitude.
        grid: of the image, angstrom, as stated.
        positions: of the image, ``(slow * fast, 2)`` angstrom, as stated: those of a raster if the image is
            no finer.
        optics: with which it was made.
        fit: how they were found; ``None``: they were given.
        survey: bad pixels, disk and descan.
        correlation: of images of two halves of the pixels, by ring; ``None``: too few pixels or places.
        deflection: ``(pattern, 2)`` of the centre of mass, radian (row, column) in the frame of the stated
            positions, without descan; only of ``dpc``.
        notes: sentences on what was decided how.
        is_folded: whether the raster is too wide for the details of the object, so that the image shows them
            at wrong frequencies, and the optics may not be determined (`describe_folding`).
    """

    image: DirectImage
    grid: ImageGrid
    positions: Float[np.ndarray, "place 2"]
    optics: LinearOptics
    fit: OpticsFit | None
    survey: DiskSurvey
    correlation: RingCorrelation | None
    deflection: Float[np.ndarray, "pattern 2"] | None
    notes: tuple[str, ...]
    is_folded: bool = False

    def lines(self) -> list[str]:
        """What was found, a line each."""
        one = self.optics
        lines = self.survey.lines()
        errors = {} if self.fit is None else self.fit.errors
        lay = "transposed" if one.orientation & 4 else "as given"
        turned = math.degrees(math.remainder(float(one.rotation), 2 * math.pi))
        lines.append(f"detector: {lay}, scan turned by {turned:.2f} degrees")
        if self.fit is not None:
            known = f" +- {math.degrees(errors['rotation']):.2f}" if errors.get("rotation") else ""
            lines[-1] += f"{known} (margin {self.fit.margin:.3g})" if known else UNKNOWN_ERROR
        if float(one.step) != 1:
            off = f" +- {100 * errors['step']:.2f} %" if errors.get("step") else UNKNOWN_ERROR
            lines.append(f"step: {100 * (float(one.step) - 1):+.2f} %{off}")
        if self.fit is not None and self.fit.is_step_free:
            lines.append(describe_wrong_step(float(one.step)))
        if self.fit is not None and self.fit.suggested_step is not None:
            lines.append(suggest_step(self.fit.suggested_step))
        for name, value in one.aberrations.items():
            shown = float(-value if name == "C10" else value)
            label = "defocus" if name == "C10" else name
            off = UNKNOWN_ERROR if self.fit is not None and not errors.get(name) else ""
            lines.append(f"{label}: {LENGTH.show_with_error(shown, errors.get(name, 0.0))}{off}")
        if float(one.focal_spread):
            spread, error = abs(float(one.focal_spread)), errors.get("focal_spread", 0.0)
            lines.append(f"focal spread: {LENGTH.show_with_error(spread, error)}")
        lines.append(_describe_explained_share(self.image.explained))
        if self.correlation is not None:
            lines.append(_describe_resolution(self.correlation))
        return [*lines, *self.notes]


def _describe_explained_share(share: float) -> str:
    """A line on `DirectImage.explained`, a ratio of sums without the part that counting noise has in them."""
    if math.isnan(share):
        return "no single frequency stands out of counting noise"
    if share <= 1:
        return f"a weak object explains {share:.1%} of the changes in the disk"
    line = "a weak object explains all changes in the disk"
    if share <= MAX_SHARE_BY_CHANCE:
        return line
    return f"{line}; the rest is below the noise of counts, so the values may not be single electrons"


def _describe_resolution(curve: RingCorrelation) -> str:
    """A line on the resolution by half sets: correlation 1/7, doi 10.1016/j.jmb.2003.07.013."""
    period = find_resolution(curve)
    if math.isinf(period):
        return "resolution: none, the images of both halves of the pixels differ at all frequencies"
    finest = " or finer" if period * curve.frequency[-1] <= 1 else ""
    return f"resolution: {period:.3g} angstrom{finest} (halves of the pixels correlate by 1/7 there)"


def find_resolution(curve: RingCorrelation, /) -> float:
    """Period above the most significant ring at which half sets first correlate by less than 1/7, angstrom.

    Low frequencies, which a thin object hardly shows near focus, may correlate by less.

    Args:
        curve: of two half sets.

    Example:
        >>> value = np.array([0.0, 0.0, 1.0, 1.0, 0.0])
        >>> rest = {"threshold_half_bit": value, "threshold_one_seventh": np.full(5, 1 / 7)}
        >>> curve = RingCorrelation(np.arange(5) / 8, value, counts=4 * np.arange(5), **rest)
        >>> round(find_resolution(curve), 2)
        2.07
    """
    significance = curve.value * np.sqrt(curve.counts)
    best = int(np.argmax(significance))
    if significance[best] < MIN_RING_SIGNIFICANCE:
        return math.inf
    names = ("frequency", "value", "threshold_half_bit", "threshold_one_seventh", "counts")
    # the first ring that is handed over is taken for zero frequency and does not count
    above = {name: getattr(curve, name)[max(best - 1, 0) :] for name in names}
    return replace(curve, **above).resolution("one-seventh")


def reconstruct_scan(
    scan: Scan4D,
    /,
    *,
    semiangle: float | None = None,
    aberrations: Mapping[str, float] | None = None,
    method: DirectMethod | str = DirectMethod.WIENER,
    fit: bool = True,
    pixels: int = 500,
    upsample: int | None = None,
    ridge: float = DECONVOLUTION_RIDGE,
    high_pass: float | None = None,
    flip: bool = True,
) -> DirectReconstruction:
    """Reconstruct the phase of a scan directly, with optics and geometry from the data.

    Args:
        scan: a far-field scan. An image of positions that are no raster (a spiral, jitter, gaps) lies on a
            regular grid of its own: see `phaseloom.direct.grid.choose_image_grid`.
        semiangle: radian; default: that of the disk.
        aberrations: as `phaseloom.physics.optics.coefficients` understands them: the sign of a defocus
            decides between the twins; without ``fit`` they are used as they are.
        method: see `DirectMethod`.
        fit: find optics, orientation, rotation and step.
        pixels: about how many bright-field pixels the image is made from.
        upsample: places of the image for each place of the scan, along each axis, 1 to 4; see
            `phaseloom.direct.solve.reconstruct_image`, as the others. Default: 1, or as many as the aperture
            resolves where the object has details that the raster does not.
        ridge: of ``wdd``.
        high_pass: of ``dpc``, angstrom.
        flip: of ``parallax``.

    Raises:
        BadInput: no disk, positions on one line, nothing that changes, or an option that the method cannot
            have.
    """
    method = DirectMethod(method)
    check_options(method, 1 if upsample is None else upsample, ridge, high_pass)
    _require_area(scan)
    survey = _survey(scan)
    known = to_cartesian(coefficients(aberrations or {}))
    optics, notes = _begin_optics(scan, survey, semiangle, known)
    fitted, bright, overruled = _fit_and_measure(scan, survey, optics, pixels=pixels, fit=fit)
    notes += overruled
    optics = optics if fitted is None else fitted.optics
    deflection = survey.measure_centres_of_mass(scan) if method == DirectMethod.CENTRE_OF_MASS else None
    bright = replace(bright, deflection=deflection)
    spectrum = bright.transform(border=IMAGE_BORDER, upsample=upsample or 1, dtype=torch.complex64)
    is_folded = (upsample or 1) == 1 and may_be_folded(spectrum, optics)
    finer = upsample or 1
    if is_folded and upsample is None and method != DirectMethod.CENTRE_OF_MASS:
        finer = choose_upsample(spectrum, optics)
    grid = _find_grid(spectrum, finer)
    notes += _describe_data(bright, spectrum, optics)
    del bright  # of a large scan it takes as much as what the image is made from
    make = partial(
        reconstruct_image,
        method=method,
        border=IMAGE_BORDER,
        upsample=finer,
        ridge=ridge,
        high_pass=high_pass,
        halves=True,
    )
    image = make(optics, spectrum)
    folded = [describe_coarse_image(grid, optics)] if is_folded and finer == 1 else []
    if fitted is not None and not fitted.is_settled and (line := describe_folding(spectrum, optics)):
        fitted = replace(fitted, errors={})  # they are of a model that does not hold
        folded.append(line)
    notes += folded
    if fitted is not None:
        judge = partial(judge_twin, scan, survey, optics, image.phase.double().numpy())
        has_dark_field = scan.geometry.beam == "electron" and not folded
        optics, image, note = choose_twin(
            optics, image, stated=known.get("C10"), judge=judge if has_dark_field else None
        )
        notes.append(note)
    if not flip:  # without, both twins have the same image
        image = make(optics, spectrum, flip=False)
    return DirectReconstruction(
        image=image,
        grid=grid,
        positions=scan.positions if spectrum.sampling is None and finer == 1 else grid.places(),
        optics=optics,
        fit=fitted,
        survey=survey,
        correlation=_correlate_halves(grid, optics, image),
        deflection=None if deflection is None else _turn_deflections(optics, deflection),
        notes=tuple(notes),
        is_folded=bool(folded),
    )


def _begin_optics(
    scan: Scan4D, survey: DiskSurvey, semiangle: float | None, known: Mapping[str, float]
) -> tuple[LinearOptics, list[str]]:
    """What is known of the optics, and notes on it."""
    found = survey.semiangle(scan)
    optics = LinearOptics(scan.geometry.wavelength, found, known)
    notes = [] if scan.geometry.beam == "electron" else [PHOTON_NOTE]
    if semiangle is None:
        return optics, notes
    if abs(semiangle / found - 1) > 0.01:
        disk, given = ANGLE.show(found), ANGLE.show(semiangle)
        notes.append(f"the disk has {disk}: pixels are scaled to the {given} given")
    return replace(optics, semiangle=semiangle, angle=semiangle / found), notes


def _survey(scan: Scan4D) -> DiskSurvey:
    """The disk of the mean pattern; of photons, which often have none, an error says what they need."""
    try:
        return survey_disk(scan)
    except BadInput as problem:
        if scan.geometry.beam == "electron":
            raise
        raise BadInput(problem.place, problem.value, f"{problem.fix}; {PHOTON_ADVICE}") from problem


def describe_wrong_step(factor: float, /) -> str:
    """A sentence on a stated step that the patterns contradict.

    Args:
        factor: true step over the stated one.
    """
    off = f"{100 * (factor - 1):+.0f} %"
    return f"the stated step is wrong: the patterns say {off}; check its unit and the magnification"


def suggest_step(factor: float, /) -> str:
    """A sentence on a stated step that may be wrong.

    Args:
        factor: step that explains the patterns better, over the stated one.
    """
    off = f"{100 * (factor - 1):+.0f} %"
    return (
        f"a weak object explains the patterns better with a step {off} as long: measure the step by a known "
        "distance before you change it (prepare: scale)"
    )


def _fit_and_measure(
    scan: Scan4D, survey: DiskSurvey, optics: LinearOptics, *, pixels: int, fit: bool
) -> tuple[OpticsFit | None, BrightField, list[str]]:
    """Fit optics on coarse pixels, and once more on those of the image where they are too coarse."""
    if not fit:
        return None, survey.measure(scan, pixels=pixels), []
    coarse = survey.measure(scan).transform()
    start = replace(optics, aberrations={})
    largest = find_largest_defocus(scan, float(optics.semiangle))
    found, note = fit_optics_and_hand(scan, survey, coarse, start, largest_defocus=largest)
    needs_finer = found.is_clear and are_pixels_coarse(coarse, found.optics)
    edge = coarse.edge
    del coarse  # of a large scan both take more than a batch of patterns
    bright = survey.measure(scan, pixels=pixels)
    if needs_finer and max(bright.width) < edge:
        fine = bright.transform(dtype=torch.complex64)
        if found.beyond > MIN_SHARE_BEYOND:
            fine = choose_frequencies(fine, found.optics, pixels=PIXELS_IN_REFINEMENT).spectrum
        found = refine_optics(fine, found, errors=False)
    return found, bright, [note] if note else []


def _require_area(scan: Scan4D) -> None:
    shape = scan.grid or choose_image_grid(scan.positions, None)[0].shape
    if min(shape) < MIN_LINES:
        size = " x ".join(map(str, shape))
        fix = f"are too narrow for a direct image: it needs {MIN_LINES} x {MIN_LINES} places at least"
        raise BadInput("positions", size, fix)


def _turn_deflections(optics: LinearOptics, halves: np.ndarray) -> np.ndarray:
    """Deflections of the beam in the frame of the stated positions, radian."""
    turned = halves.mean(0) @ orientation_matrix(optics.orientation) @ turn_matrix(-float(optics.rotation))
    return turned * float(optics.angle) * optics.wavelength


def _find_grid(spectrum: Spectrum, upsample: int) -> ImageGrid:
    """The grid of the image of a spectrum, which is finer already off a raster."""
    assert spectrum.image_grid is not None
    return spectrum.image_grid.refine(upsample if spectrum.sampling is None else 1)


def describe_folding(spectrum: Spectrum, optics: LinearOptics, /) -> str | None:
    """A line on a raster too wide for the details of its object, which appear at wrong frequencies there.

    Args:
        spectrum: of the whole raster; off a raster nothing is said.
        optics: for what the aperture resolves.
    """
    if spectrum.sampling is not None or spectrum.image_grid is None:
        return None
    steps = torch.from_numpy(np.asarray(spectrum.image_grid.steps, np.float64))
    step = math.sqrt(abs(float(torch.linalg.det(steps))))
    finest = optics.wavelength / (2 * float(optics.semiangle))
    cycles = (spectrum.frequency.double() @ steps.T).abs().amax(-1)  # per step; 0.5 is the edge
    power = spectrum.power() / len(spectrum.place) - 1  # counting alone has 1
    edge = power[(cycles > 0.4) & (cycles <= 0.5)]
    middle = power[(cycles > 0.1) & (cycles <= 0.3)]
    if step <= finest or not len(edge) or not len(middle):
        return None
    noise = 1 / math.sqrt(len(edge) * len(spectrum.place))
    if float(edge.mean()) <= max(MAX_EDGE_OF_SPECTRUM * float(middle.mean()), 3 * noise):
        return None
    return (
        f"the step of {step:.3g} angstrom is too wide for the details of this object: they are folded to "
        "wrong frequencies, so rotation, defocus and the image are not determined; scan with steps of "
        f"{finest:.2g} angstrom or less, or use phaseloom reconstruct"
    )


def describe_coarse_image(grid: ImageGrid, optics: LinearOptics, /) -> str:
    """A line on an image with too few places for the details of its object.

    Args:
        grid: of the image.
        optics: for what the aperture resolves.
    """
    step = math.sqrt(abs(float(np.linalg.det(grid.steps))))
    finest = optics.wavelength / (2 * float(optics.semiangle))
    return (
        f"places of the image {step:.3g} angstrom apart are too few for the details of this object, which it "
        f"shows at wrong frequencies: the aperture resolves {finest:.2g} angstrom (upsample, not of dpc)"
    )


def _describe_data(bright: BrightField, spectrum: Spectrum, optics: LinearOptics) -> list[str]:
    """Lines on a step too wide, on blank patterns, and on the grid of an image of positions off a raster."""
    lines = []
    if spectrum.image_grid is not None:
        step = math.sqrt(abs(float(np.linalg.det(spectrum.image_grid.steps))))
        finest = optics.wavelength / (2 * float(optics.semiangle))
        if step > MAX_STEP * finest:
            ratio = (
                f"the step is {step / finest:.3g} times what the aperture resolves ({finest:.3g} angstrom)"
            )
            lines.append(f"{ratio}: check its unit, defocus and image are wrong by the factor of the step")
    if bright.blank:
        lines.append(f"{bright.blank} of {len(bright.changes)} patterns are blank and count as unchanged")
    if spectrum.sampling is not None and spectrum.image_grid is not None:
        grid = spectrum.image_grid
        rows, columns = (LENGTH.show(float(f"{one:.4g}")) for one in np.linalg.norm(grid.steps, axis=1))
        size = f"{grid.shape[0]} x {grid.shape[1]}"
        lines.append(f"positions are no regular raster: the image has {size} pixels of {rows} x {columns}")
    return lines


def _correlate_halves(grid: ImageGrid, optics: LinearOptics, image: DirectImage) -> RingCorrelation | None:
    """Correlation of both half sets by ring up to what the aperture passes, in true angstrom.

    The raster is taken for a rectangular one.
    """
    if image.halves is None or min(image.phase.shape) < MIN_SIDE_FOR_RINGS:
        return None
    slow, fast = (float(one) * float(optics.step) for one in np.linalg.norm(grid.steps, axis=1))
    one, two = (half.double().numpy() for half in image.halves)
    curve = ring_correlation(one, two, pixel=(slow, fast), window="none")
    rings = int((curve.frequency < 2 * float(optics.semiangle) / optics.wavelength).sum())
    names = ("frequency", "value", "threshold_half_bit", "threshold_one_seventh", "counts")
    return replace(curve, **{name: getattr(curve, name)[:rings] for name in names})


def find_largest_defocus(scan: Scan4D, semiangle: float, /) -> float:
    """The defocus at which the cone of the beam is as wide as the window of the patterns, angstrom.

    Args:
        scan: for its pixels.
        semiangle: radian.
    """
    window = min(n * p for n, p in zip(scan.geometry.shape, scan.geometry.pixel, strict=True))
    return window / (2 * semiangle)
