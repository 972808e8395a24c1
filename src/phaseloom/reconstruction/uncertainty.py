"""The standard deviation of the phase: a map from the illumination, and draws by a parametric bootstrap.

Poisson counts of a defocused probe tell the phase of a pixel to a variance of ``1 / (2 W)``, ``W`` electrons
(photons) that leave it in all patterns together (arXiv 2003.05475). The map is ``sqrt(C / (2 W))``: ``C`` is
the mean over all frequencies of the variance that random changes of the object show in patterns of the model
(`phaseloom.ptycho.curvature.measure_phase_information`), with background, pixels left out and the floor of
the likelihood. A ring of frequencies whose noise would be stronger than what the image has there has no more
noise than that: where next to nothing is scattered to, no count draws the image away from zero. Where a prior
holds the object, what it takes is a part of the error: see `_add_shrinkage`.

It is a lower bound: correlations of pixels, and with the probe, add about 5 % (docs/uncertainty.md). Draws
repeat the end of the fit on counts drawn from the model, and count these too.
"""

import copy
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from scipy.ndimage import gaussian_filter, uniform_filter

from phaseloom.errors import BadInput
from phaseloom.fitting.outcome import Verdict
from phaseloom.metrics.phase import remove_plane_wave
from phaseloom.physics.modes import orthogonalise, powers
from phaseloom.ptycho import noise
from phaseloom.ptycho.curvature import (
    PhaseInformation,
    fit_contrast,
    incident_waves,
    measure_phase_information,
    participation_area,
    split_by_rings,
    sum_exit_light,
)
from phaseloom.ptycho.illumination import measure_focal_depth
from phaseloom.ptycho.model import Ptychography, is_in_tiles
from phaseloom.ptycho.projections.object_prior import MIN_CLEAR_SIGNAL
from phaseloom.reconstruction.level import Level, fit_level
from phaseloom.reconstruction.recipe import Reconstruct, ScheduledRate
from phaseloom.result import Uncertainty
from phaseloom.spec import Call
from phaseloom.units import LENGTH

__all__ = [
    "Draws",
    "LowerBound",
    "NoMap",
    "add_draws",
    "draw_results",
    "estimate_uncertainty",
    "find_reasons",
]

SIDE_OF_MEAN = 5
"""Pixels a side of the mean for which a second number is given."""

FREQUENCIES = 256
"""Along each axis, over which noise is averaged."""

MIN_LIGHT_OF_CORE = 0.5
"""Share of the illumination (its 90th percentile) above which pixels belong to the lit core."""

MIN_SIDE_OF_SPECTRUM = 16
"""Pixels a side of the field below which no power spectrum of the object is taken."""

MAX_CELLS_OF_FOCUSED_PROBE = 10.0
"""Area of the probe times that of its aperture, below which low frequencies are told of badly.

It is 4.3 in focus, and 23 in the case S of benchmarks/, 100 Å out of focus at 25 mrad."""

MAX_BACKGROUND = 0.02
"""Counts of background in a pixel from which correlations matter that the map does not know."""

MAX_LOSS_OF_NOISE = 1.02
"""Loss, in units of shot noise, above which the fit or the model lacks something.

Runs of S end at 0.96 to 0.98 with 1e3 to 1e5 electrons, and at 1.03 with 1e6, where errors are 1.7 times
the map."""

MIN_COUNTS = 25.0
"""Counts in a bright pixel below which the contrast of the object is lost in part: 2 % at 53, 18 % at 5."""

MAX_SHARE_OF_DARK_PIXELS = 0.5
"""Share of pixels with less than a count, above which amplitudes are biased."""

MIN_TOLD = 0.05
"""Information in a ring, as a share of the ideal, below which its frequencies are not measured."""

PATTERNS_TO_CHECK = 64
"""Patterns from which mean counts are taken."""

PIXELS_OF_DRAWN_VARIANCE = 2.0
"""Standard deviation, pixels, by which the variance of few draws is blurred."""

RATES_OF_DRAWS = 0.25
"""Share of the rates of a run with which a draw is fitted, and updates in an epoch of it, see below."""

UPDATES_OF_DRAWS = 8
"""Large batches and small rates: in few epochs the noise of small batches is not averaged away.

On S the draws scatter by 0.0156 rad at 1e4 electrons and 0.0059 at 1e5, where the errors are 0.016 and
0.0061; four epochs of small batches at whole rates gave 0.0162 and 0.0090."""

MAX_POWER_OF_WEAK_MODES = 0.1
"""Share of the beam besides its strongest mode from which its source blurs what a detector can resolve."""

MIN_EPOCHS = 3
"""From which losses can show whether the fit still moves; sigma is the error of a fit that has settled."""

MIN_DRAWS = 2
"""Draws below which nothing scatters."""


class LowerBound(StrEnum):
    """Why a map of sigma is a lower bound."""

    FOCUSED_PROBE = "focused_probe"
    """Low frequencies are told of badly, so that neighbouring pixels err together."""
    BACKGROUND = "background"
    CLOSE_SLICES = "close_slices"
    """Slices closer than the depth of focus share their phase at will."""
    PRIOR = "prior"
    """Penalties, projections or a prior hold the object: what they take from it is a bias."""
    MODEL_ERROR = "model_error"
    """More than noise is left in the patterns."""
    AMPLITUDE_LIKELIHOOD = "amplitude_likelihood"
    """Dark pixels draw the phase towards zero."""
    AMPLITUDE_BIAS = "amplitude_bias"
    """They do, by what is in the map as far as factors on rings of frequencies tell it."""
    FEW_ELECTRONS = "few_electrons"
    """Part of the contrast is lost."""
    SOURCE = "source"
    """A weak object cannot be told from one that the source has blurred: fine contrast is lost with it."""
    UNMEASURED_FREQUENCIES = "unmeasured_frequencies"
    """The patterns do not tell of some frequencies of the object: these keep their start."""
    NOT_CONVERGED = "not_converged"
    """What the fit has not found yet is an error too."""


class NoMap(StrEnum):
    """Why a result has no map of sigma."""

    NO_NOISE_MODEL = "no_noise_model"
    COUNTS_NOT_WHOLE = "counts_not_whole"
    BIASED_LIKELIHOOD = "biased_likelihood"
    NO_EPOCH = "no_epoch"
    """The object is that of the start."""
    FEW_EPOCHS = "few_epochs"
    """The object is hardly more than that of the start, and losses do not tell how far it has to go."""
    NOT_FINITE = "not_finite"


class RunState(Protocol):
    """What an uncertainty is estimated from: a job."""

    recipe: Reconstruct
    level: Level

    @property
    def model(self) -> Ptychography:
        """The model."""
        ...


def estimate_uncertainty(job: RunState, /, *, verdict: Verdict | None = None) -> Uncertainty:
    """The map of the standard deviation of the phase by counting, with the reasons why it is a lower bound.

    Args:
        job: as it stands.
        verdict: of the run, if it was judged.

    Returns:
        An uncertainty without a map (``sigma`` is ``None``) but with the reason (``missing``), where counts
        are not whole numbers, or are compared by a noise model whose bias is not known.
    """
    counts = MeanCounts.of(job.level)
    if refused := _refuse(job.level, counts):
        code, sentence = refused
        return Uncertainty(missing=sentence, missing_code=code.value)
    model = job.model
    floor = noise.find_floor(job.level.likelihood.divergence)
    information = measure_phase_information(model, floor=floor or 0.0)
    light = sum_exit_light(model, incident_waves(model)).double().cpu().numpy()
    images = _level_phases(model, light)
    core = _find_core(light[0])
    bias = None
    if noise.is_amplitude(job.level.likelihood.divergence) and _has_few_counts(counts) and core.any():
        bias = measure_bias(job, images, light)
        if bias is None:
            return Uncertainty(missing=UNKNOWN_BIAS, missing_code=NoMap.BIASED_LIKELIHOOD.value)
        light = light * bias.dose
    is_slow = counts.bright < MIN_COUNTS
    noises = [
        _find_noise(job, information, one, phase, core, is_slow=is_slow)
        for one, phase in zip(light, images, strict=True)
    ]
    with np.errstate(divide="ignore"):
        bound = 1 / np.sqrt(2 * np.where(light > 0, light, np.nan))
    sigma, wide = (
        bound * np.sqrt([_mean_over_frequencies(one, side) for one in noises])[:, None, None]
        for side in (1, SIDE_OF_MEAN)
    )
    if bias is not None:
        sigma = np.hypot(sigma, bias.spread())
        wide = np.hypot(wide, bias.spread(SIDE_OF_MEAN))
    if not np.isfinite(sigma[:, core]).all() or not core.any():
        return Uncertainty(missing="the illumination is not finite", missing_code=NoMap.NOT_FINITE.value)
    loss = _last_loss(job)
    reasons = find_reasons(job, information, counts)
    if bias is not None:
        del reasons[LowerBound.AMPLITUDE_LIKELIHOOD]
        reasons[LowerBound.AMPLITUDE_BIAS] = bias.describe()
    if verdict not in (None, Verdict.CONVERGED, Verdict.LEVELLED, Verdict.NOT_JUDGED):
        reasons[LowerBound.NOT_CONVERGED] = f"the verdict of the run is {verdict.replace('_', ' ')}"
    return Uncertainty(
        sigma=sigma.astype(np.float32),
        pixel=float(np.median(sigma[:, core])),
        mean=float(np.median(wide[:, core])),
        kappa=information.kappa,
        excess=math.sqrt(max(loss, 1.0)),
        reasons={code.value: sentence for code, sentence in reasons.items()},
    )


@dataclass(frozen=True)
class MeanCounts:
    """What the measured patterns are on average.

    Attributes:
        whole: all counts are whole numbers.
        bright: median of the pixels that have more than a quarter of the brightest one.
        dark: share of pixels with less than a count.
    """

    whole: bool
    bright: float
    dark: float

    @classmethod
    def of(cls, level: Level) -> "MeanCounts":
        """From some patterns, spread over the scan, without masked pixels."""
        measured = level.likelihood.measured
        mask = level.model.detector.mask.cpu()
        some = torch.linspace(0, len(measured) - 1, min(len(measured), PATTERNS_TO_CHECK)).long()
        counts = measured[some].cpu()[:, mask]
        mean = counts.double().mean(0)
        bright = mean[mean > mean.max() / 4]
        whole = bool((counts == counts.round()).all())
        return cls(whole, float(bright.median()) if len(bright) else 0.0, float((mean < 1).double().mean()))


UNKNOWN_BIAS = (
    "amplitude is biased at few counts, and it is not known by how much (the contrast of the object by which "
    "the counts are most likely was not found): take noise: poisson"
)

PIXELS_OF_BIAS = 3.0
"""Standard deviation, pixels, over which the square of the bias is averaged: it is a size, not a value."""


@dataclass(frozen=True, eq=False)
class Bias:
    """What a comparison of amplitudes takes from the phase at few counts.

    Attributes:
        lacking: ``(slice, y, x)`` radian, what the phase lacks, by the rings of frequencies whose factor the
            counts tell (`phaseloom.ptycho.curvature.fit_contrast`).
        found: ``(slice, y, x)`` the phase of the run.
        core: ``(y, x)`` pixels that are lit well.
        dose: counts over those of the model.
    """

    lacking: Float[np.ndarray, "slice y x"]
    found: Float[np.ndarray, "slice y x"]
    core: np.ndarray
    dose: float

    @property
    def contrast(self) -> float:
        """Size of the phase that was found over that of the most likely one."""
        whole = (self.found + self.lacking)[:, self.core]
        return float(self.found[:, self.core].std() / max(whole.std(), 1e-30))

    def spread(self, side: int = 1) -> Float[np.ndarray, "slice y x"]:
        """Root mean square around each pixel of the bias, of its mean over ``side x side`` pixels."""
        means = [uniform_filter(one, side) for one in self.lacking]
        return np.sqrt([gaussian_filter(one**2, PIXELS_OF_BIAS) for one in means])

    def describe(self) -> str:
        """A clause."""
        return (
            f"amplitude is biased at few counts: the object has {self.contrast:.2g} of the contrast by which "
            "the counts are most likely (the error is in the bar; noise: poisson avoids it)"
        )


def measure_bias(
    job: RunState, images: Float[np.ndarray, "slice y x"], light: Float[np.ndarray, "slice y x"], /
) -> Bias | None:
    """What the phase of a run lacks by Poisson's likelihood of its counts; ``None``: no factors were found.

    Args:
        job: as it stands.
        images: its phases without constant and ramp.
        light: counts that leave each pixel.
    """
    core = _find_core(light[0])
    lit = np.minimum(light / np.median(light[:, core], 1)[:, None, None], 1)  # the dark has no phase
    found = (images - images[:, core].mean(1)[:, None, None]) * lit
    parts = split_by_rings(found)
    floor = noise.find_floor(noise.poisson) or 0.0
    contrast = fit_contrast(job.model, job.level.likelihood.measured, parts, floor=floor)
    if not contrast.converged or not np.isfinite(contrast.gains).all():
        return None
    return Bias(np.tensordot(contrast.gains, parts, 1), parts.sum(0), core, contrast.dose)


def find_reasons(
    job: RunState, information: PhaseInformation, counts: MeanCounts, /
) -> dict[LowerBound, str]:
    """Why the map is a lower bound, by code, each with a clause that has the number."""
    background = float(job.model.detector.background().detach()[job.model.detector.mask].mean())
    cells, few_cells = describe_cells(job.model)
    loss = _last_loss(job)
    held = ", ".join(_list_priors(job))
    amplitudes = noise.is_amplitude(job.level.likelihood.divergence)
    clauses = {
        LowerBound.FOCUSED_PROBE: (few_cells, cells < MAX_CELLS_OF_FOCUSED_PROBE),
        LowerBound.BACKGROUND: (
            f"each pixel has {background:.2g} counts of background",
            background > MAX_BACKGROUND,
        ),
        LowerBound.PRIOR: (f"the object is held by {held}", bool(held)),
        LowerBound.MODEL_ERROR: (f"the loss is {loss:.3g} times that of noise", loss > MAX_LOSS_OF_NOISE),
        LowerBound.AMPLITUDE_LIKELIHOOD: ("amplitudes of dark pixels are biased", amplitudes),
        LowerBound.FEW_ELECTRONS: (
            f"a bright pixel has {counts.bright:.2g} counts, so that contrast is lost",
            counts.bright < MIN_COUNTS,
        ),
    }
    found = {code: clause for code, (clause, applies) in clauses.items() if applies}
    found[LowerBound.SOURCE] = _describe_source(job)
    found[LowerBound.CLOSE_SLICES] = _describe_close_slices(job)
    found[LowerBound.UNMEASURED_FREQUENCIES] = _describe_unmeasured(information)
    return {code: clause for code, clause in found.items() if clause}


def _refuse(level: Level, counts: MeanCounts) -> tuple[NoMap, str] | None:
    """Why there can be no map, if so."""
    divergence = level.likelihood.divergence
    if not level.likelihood.has_noise_model or noise.find_floor(divergence) is None:
        return NoMap.NO_NOISE_MODEL, "the noise model is not poisson or amplitude: take noise: poisson"
    if not counts.whole:
        text = "counts are not whole numbers, so their noise is not known: give single quanta"
        return NoMap.COUNTS_NOT_WHOLE, text
    if not level.progress.history:
        return NoMap.NO_EPOCH, "no epoch was done: run the reconstruction first"
    if (epochs := len(level.progress.history)) < MIN_EPOCHS:
        done = f"{epochs} epoch{'s' * (epochs > 1)}"
        return NoMap.FEW_EPOCHS, f"{done} cannot show that the fit has settled: run {MIN_EPOCHS} or more"
    return None


def _has_few_counts(counts: MeanCounts) -> bool:
    """Whether amplitudes are biased by more than the noise: 7 to 28 % of the contrast on simulated scans."""
    return counts.bright < MIN_COUNTS or counts.dark > MAX_SHARE_OF_DARK_PIXELS


def _find_core(light: Float[np.ndarray, "y x"]) -> np.ndarray:
    """Pixels that are lit well."""
    if not (light > 0).any():
        return np.zeros(light.shape, bool)
    return light > MIN_LIGHT_OF_CORE * np.percentile(light[light > 0.05 * light.max()], 90)


def _level_phases(
    model: Ptychography, light: Float[np.ndarray, "slice y x"]
) -> Float[np.ndarray, "slice y x"]:
    """Phase of each slice, of several states that of their mean, without the constant and the ramp."""
    share = model.object.occupancy[:, None, None, None]
    wave = (model.object.transmission().detach() * share).sum(0).cpu().numpy()
    return np.angle(remove_plane_wave(wave, _find_core(light[0]).astype(float)))


def _find_noise(
    job: RunState,
    information: PhaseInformation,
    light: Float[np.ndarray, "y x"],
    phase: Float[np.ndarray, "y x"],
    core: np.ndarray,
    *,
    is_slow: bool,
) -> Float[np.ndarray, "v u"]:
    """Variance of the phase over ``1 / (2 W)`` by frequency.

    By counting, at most the power of the image; with a prior see `_add_shrinkage`, where ``is_slow`` says
    that steps were held back.
    """
    with np.errstate(divide="ignore"):
        counted = 1 / information.used.double().numpy()
    edges = information.edges.numpy()
    ring = _ring_of_frequencies((FREQUENCIES, FREQUENCIES), edges)
    box = _find_box(core)
    image = None if box is None else _measure_ring_power(phase[box] * np.sqrt(2 * light[box]), edges)
    if job.level.power is not None:
        pixel = job.model.object.canvas.pixel
        axes = [np.fft.fftfreq(FREQUENCIES)] * 2
        rows, columns = np.meshgrid(*axes, indexing="ij")
        density = job.level.power.evaluate(np.hypot(rows / pixel[0], columns / pixel[1]))
        # of less than a period in the field only constant and ramp are left, which do not count
        longest = math.inf if box is None else max(one.stop - one.start for one in box)
        density[np.hypot(rows, columns) < 1 / longest] = 0.0
        power = density * 2 * float(np.median(light[core])) / (pixel[0] * pixel[1])
        return _add_shrinkage(counted, power, image, ring, is_slow=is_slow)
    if image is None:
        return np.where(information.counted.numpy() > MIN_TOLD, counted, 0.0)[ring]
    return np.minimum(counted, image)[ring]


def _add_shrinkage(
    counted: Float[np.ndarray, " ring"],
    power: Float[np.ndarray, "v u"],
    image: Float[np.ndarray, " ring"] | None,
    ring: Int[np.ndarray, "v u"],
    *,
    is_slow: bool,
) -> Float[np.ndarray, "v u"]:
    """Variance of the error of an object that a prior holds: noise, and what the prior takes.

    Of an object of power ``S`` the most likely one under noise ``N`` is off by ``S N / (S + N)``, which is
    also ``S`` less the power of that image. An image of less power than that, whose steps few electrons held
    back, lacks the difference.

    Args:
        counted: ``N`` by rings.
        power: ``S``.
        image: power of the image by rings; ``None``: not known.
        ring: of each frequency.
        is_slow: whether steps were held back.
    """
    if image is None:
        return power / (1 + power / counted[ring])
    # the prior leaves an object alone that is far above the noise, 1 / (4 W) to it
    clear = np.where(image > MIN_CLEAR_SIGNAL / 2, image, 0.0)
    power = np.where(power > 0, np.maximum(power, clear[ring]), 0.0)
    error = power / (1 + power / counted[ring])
    if not is_slow:
        return error
    each = np.bincount(ring.ravel())
    expected, left = (np.bincount(ring.ravel(), one.ravel()) / each for one in (power, error))
    return error * np.maximum(1.0, (expected - image) / left)[ring]


def _measure_ring_power(image: Float[np.ndarray, "y x"], edges: np.ndarray) -> Float[np.ndarray, " ring"]:
    """Mean power of an image in rings of frequencies; white noise of variance one has one."""
    window = np.outer(*(np.hanning(n + 2)[1:-1] for n in image.shape))
    window /= np.sqrt((window**2).mean())
    level = (image * window).sum() / window.sum()
    power = np.abs(np.fft.fft2((image - level) * window)) ** 2 / image.size
    ring = _ring_of_frequencies(image.shape, edges)
    count = np.bincount(ring.ravel(), minlength=len(edges) - 1)
    total = np.bincount(ring.ravel(), power.ravel(), minlength=len(edges) - 1)
    return np.where(count > 0, total / np.maximum(count, 1), np.inf)


def _mean_over_frequencies(noise: Float[np.ndarray, "v u"], side: int) -> float:
    """Variance of a mean over ``side x side`` pixels, over ``1 / (2 W)``, from that of each frequency."""
    frequency = np.fft.fftfreq(FREQUENCIES)
    offsets = np.arange(side) - (side - 1) / 2
    line = np.cos(2 * np.pi * np.outer(frequency, offsets)).mean(1) ** 2
    each = noise * np.outer(line, line)
    each[0, 0] = 0.0  # a constant cannot be measured
    return float(each.mean())


def _ring_of_frequencies(shape: tuple[int, ...], edges: np.ndarray) -> np.ndarray:
    """Number of the ring of each frequency of a Fourier transform."""
    rows, columns = (np.fft.fftfreq(n) for n in shape)
    return np.searchsorted(edges, np.hypot(rows[:, None], columns[None]), side="right") - 1


def _find_box(core: np.ndarray) -> tuple[slice, slice] | None:
    """A rectangle of lit pixels: the box around the core, shrunk until it holds few others."""
    if not core.any():
        return None
    rows, columns = (np.flatnonzero(core.any(axis)) for axis in (1, 0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    while min(bottom - top, right - left) >= MIN_SIDE_OF_SPECTRUM:
        box = (slice(top, bottom), slice(left, right))
        if core[box].mean() > 0.98:
            return box
        top, bottom, left, right = top + 1, bottom - 1, left + 1, right - 1
    return None


@torch.no_grad()
def describe_cells(model: Ptychography, /) -> tuple[float, str]:
    """Area of the probe on the object times that of its spectrum, and what few such cells mean, in words.

    It is 4.3 for a disk in focus, and more elsewhere. A smooth beam has few as well, by a small spectrum.

    Args:
        model: of which the first pattern's probe counts.
    """
    wave = model.incident_modes()[0][0]
    light = participation_area(wave.abs().square().sum(0))
    spectrum = participation_area(torch.fft.fft2(wave).abs().square().sum(0))
    cells = light * spectrum / wave[0].numel()
    shape = "focused" if light < spectrum else "smooth"
    return cells, f"the probe is {shape} ({cells:.2g} resolution cells)"


def _describe_source(job: RunState) -> str:
    """A clause, if electrons of a partly coherent beam were fitted by modes of their own.

    Of a weak object the changes of a pattern are linear in its phase, and a source averages them over places:
    blurring the object does the same.
    """
    modes = job.model.probe.modes().detach()
    if job.level.scan.geometry.beam != "electron" or job.level.scan.geometry.near or len(modes) < 2:
        return ""
    weak = 1 - float(powers(orthogonalise(modes)).max())
    if weak < MAX_POWER_OF_WEAK_MODES:
        return ""
    return f"{weak:.0%} of the beam is in weaker modes, and a weak object keeps the blur of its source"


def _describe_close_slices(job: RunState) -> str:
    """A clause, if some neighbouring slices are closer than the depth of focus."""
    gaps = job.model.propagator.distances().detach().cpu().double().numpy()
    if not len(gaps):
        return ""
    depth = measure_focal_depth(job.model.probe.modes(), job.level.scan.window)
    if float(gaps.min()) >= depth:
        return ""
    near, deep = (LENGTH.show(float(f"{value:.3g}")) for value in (float(gaps.min()), depth))
    return f"slices are {near} apart, less than the depth of focus of {deep}"


PROJECTIONS_OF_OTHER_PARTS = ("aperture", "orthogonal", "power", "smooth_tilts", "still", "support")
"""Projections that leave the object as it is."""


def _list_priors(job: RunState) -> list[str]:
    """What holds the object besides the counts, by the names of the parameter file."""
    penalties = [call.name for call in job.recipe.penalties if call.values.get("weight") != 0]
    others = [c.name for c in job.recipe.projections if c.name not in PROJECTIONS_OF_OTHER_PARTS]
    prior = ["object_prior with a power that few counts tell"] if job.level.power is not None else []
    return [*penalties, *others, *prior]


def _describe_unmeasured(information: PhaseInformation) -> str:
    """A clause, if patterns hardly tell of the frequencies of some ring; the lowest one is left out."""
    told = information.counted.numpy()
    dark = np.flatnonzero(told[1:] < MIN_TOLD * max(float(told.max()), 1e-30)) + 1
    if not len(dark):
        return ""
    edges = information.edges.numpy()
    low = min(float(edges[dark[0]]), 0.5)
    high = min(float(edges[dark[-1] + 1]), 0.5)
    return f"frequencies from {low:.3g} to {high:.3g} cycles per pixel are not measured"


def _last_loss(job: RunState) -> float:
    """Loss of the last epoch by counts alone, in units of shot noise; 1 before the first."""
    history = job.level.progress.history
    if not history:
        return 1.0
    return float((history[-1].get("terms") or {}).get("noise", history[-1]["loss"]))


@dataclass(frozen=True, eq=False)
class Draws:
    """A reconstruction, and others from counts drawn from its model.

    Constant, ramp and shift between them, which no data can fix, are removed.

    Attributes:
        reference: complex ``(slice, y, x)``: the object of the run; the transmission of vacuum is one.
        objects: complex ``(draw, slice, y, x)``.
        core: ``(y, x)`` pixels that are lit well.
    """

    reference: Complex[np.ndarray, "slice y x"]
    objects: Complex[np.ndarray, "draw slice y x"]
    core: np.ndarray

    @property
    def sigma(self) -> Float[np.ndarray, "slice y x"]:
        """Standard deviation of the phase, radian, its square blurred by `PIXELS_OF_DRAWN_VARIANCE`."""
        variance = self._differences().var(0, ddof=1)
        blur = (0.0, PIXELS_OF_DRAWN_VARIANCE, PIXELS_OF_DRAWN_VARIANCE)
        return np.sqrt(gaussian_filter(variance, blur, mode="nearest"))

    @property
    def pixel(self) -> float:
        """Root mean square of the standard deviation over the core, radian."""
        return self._rms(1)

    @property
    def mean(self) -> float:
        """The same of means over 5 x 5 pixels."""
        return self._rms(SIDE_OF_MEAN)

    @property
    def contrast(self) -> float:
        """Factor between the phases of the draws and that of the run: below one, the fit loses contrast."""
        phase = np.angle(remove_plane_wave(self.reference, self.core.astype(float)))[:, self.core]
        phase = phase - phase.mean(1, keepdims=True)
        lost = self._differences().mean(0)[:, self.core]
        return 1 + float((lost * phase).sum() / max(float((phase**2).sum()), 1e-30))

    def measure(self, function: Callable[[np.ndarray], Any], /) -> tuple[Any, Any]:
        """A number, or an array, that is computed from an object, and its standard deviation over the draws.

        Args:
            function: of a complex object ``(slice, y, x)``; compare with the reference inside, or take
                differences: constant and ramp of the phase are arbitrary.
        """
        values = np.stack([np.asarray(function(one)) for one in self.objects])
        return function(self.reference), values.std(0, ddof=1)

    def _differences(self) -> Float[np.ndarray, "draw slice y x"]:
        return np.angle(self.objects * self.reference.conj())

    def _rms(self, side: int) -> float:
        means = uniform_filter(self._differences(), side, axes=(2, 3), mode="nearest")
        return float(np.sqrt(means.var(0, ddof=1)[:, self.core].mean()))


def draw_results(
    job: RunState,
    /,
    *,
    count: int = 8,
    epochs: int = 8,
    seed: int = 0,
    watch: Callable[[int], Any] = lambda number: None,
) -> Draws:
    """Draw counts from the model of a run, and continue its fit on each draw for a few epochs.

    It is a parametric bootstrap (Efron and Tibshirani 1993): the scatter holds what probe, positions and
    all else with a rate add, and no error of the model. What a few epochs do not move, as the share of close
    slices in their sum, hardly scatters. All patterns of a draw are in memory at once. The epochs have large
    batches, and take about a third of the time of those of a run: 8 draws cost as much as 22 epochs.

    Args:
        job: after its run.
        count: draws, two or more; the sigma of one number is uncertain by ``1 / sqrt(2 count)``.
        epochs: of each.
        seed: of the counts.
        watch: is told the number of each draw when it begins, from 1.

    Raises:
        BadInput: fewer than two draws, no epochs, a run whose uncertainty is not known (`NoMap`), or so few
            electrons that steps are held back, and a draw would not be fitted by its end.
    """
    if is_in_tiles(job.model):
        raise BadInput("draw_results", "tiles", "cannot draw yet: take the map, or resume with one process")
    if count < MIN_DRAWS or epochs < 1:
        text = f"count: {count}, epochs: {epochs}"
        raise BadInput("draw_results", text, "are too few: take 8 draws of 8 epochs")
    counts = MeanCounts.of(job.level)
    if refused := _refuse(job.level, counts):
        raise BadInput("draw_results", refused[0].value, f"cannot draw: {refused[1]}")
    if counts.bright < MIN_COUNTS:  # the error on S at 1e3 electrons was twice what draws scattered by
        fix = f"are too few to draw from: take the map, or data with {MIN_COUNTS:.0f} counts or more"
        raise BadInput("draw_results", f"{counts.bright:.2g} counts in a bright pixel", fix)
    core = _find_core(sum_exit_light(job.model, incident_waves(job.model))[0].cpu().numpy())
    reference = _scale_object(job.model)
    generator = torch.Generator().manual_seed(seed)
    objects = []
    for number in range(1, count + 1):
        watch(number)
        level = _draw_level(job, epochs, generator)
        everything = np.arange(len(level.scan)), np.arange(0)
        recipe = _recipe_of_draws(job, epochs)
        deque(fit_level(level, recipe, everything, epochs + 1, rate_factor=RATES_OF_DRAWS), maxlen=0)
        objects.append(_remove_gauge(_scale_object(level.model), reference, core))
    return Draws(reference, np.stack(objects), core)


def add_draws(uncertainty: Uncertainty, draws: Draws, /) -> Uncertainty:
    """An uncertainty with the sigma of draws beside its map."""
    return replace(
        uncertainty,
        drawn=draws.sigma.astype(np.float32),
        draws=len(draws.objects),
        drawn_pixel=draws.pixel,
        drawn_mean=draws.mean,
    )


@torch.no_grad()
def _draw_level(job: RunState, epochs: int, generator: torch.Generator) -> Level:
    """The level of a run with counts drawn from its model, as it ended."""
    index = torch.arange(len(job.level.scan), device=job.model.scan.start.device)
    counts = [
        torch.poisson(job.model(part).clamp(min=0).cpu(), generator=generator) for part in index.split(64)
    ]
    shown = job.model.detector.display(torch.cat(counts)).numpy()
    scan = replace(job.level.scan, counts=shown)
    level = Level.of(_recipe_of_draws(job, epochs), scan, copy.deepcopy(job.model))
    level.progress.history = [dict(event) for event in job.level.progress.history[-1:]]
    level.progress.epoch = level.progress.coarse_epochs = (
        1  # the last epoch of the run: positions trust its loss
    )
    return level


def _recipe_of_draws(job: RunState, epochs: int) -> Reconstruct:
    """A recipe whose parts all move from the first epoch on, on all patterns, in large batches.

    The run is near its counts: its noise model is the usual one.
    """
    recipe = job.recipe.with_usual_noise()
    size = max(len(job.level.scan) // UPDATES_OF_DRAWS, 1)
    batch = Call(recipe.batch.room, "random", {"size": size})
    rates = {
        name: rate.model_copy(update={"start": 1, "stop": None}) if isinstance(rate, ScheduledRate) else rate
        for name, rate in recipe.all_rates().items()
    }
    return recipe.model_copy(
        update={
            "rates": rates,
            "changes": (),
            "batch": batch,
            "epochs": epochs + 1,
            "holdout": 0.0,
            "outputs": (),
        }
    )


@torch.no_grad()
def _scale_object(model: Ptychography) -> Complex[np.ndarray, "slice y x"]:
    """The object, of several states their mean, with the transmission of vacuum at one."""
    share = model.object.occupancy[:, None, None, None]
    mean = (model.object.transmission() * share).sum(0).cpu().numpy()
    return mean / model.median_modulus()[:, None, None]


def _remove_gauge(
    found: Complex[np.ndarray, "slice y x"], reference: Complex[np.ndarray, "slice y x"], core: np.ndarray
) -> Complex[np.ndarray, "slice y x"]:
    """An object free of constant and ramp of each slice, and of a small shift, against another one."""
    out = []
    for one, known in zip(found, reference, strict=True):
        difference = np.angle(one * known.conj())
        slope = [np.angle(np.roll(known, -1, axis) * np.roll(known, 1, axis).conj()) / 2 for axis in (0, 1)]
        ramp = [index / max(known.shape) for index in np.indices(known.shape)]
        terms = np.stack([np.ones(known.shape), *ramp, *slope])
        fit = np.linalg.lstsq(terms[:, core].T, difference[core], rcond=None)[0]
        out.append(one * np.exp(-1j * np.tensordot(fit, terms, 1)))
    return np.stack(out)
