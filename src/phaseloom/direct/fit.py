"""Fit optics and geometry of a scan by what a weak object explains of the changes in its bright field.

For each optics the best object is known in closed form, so only the optics are searched (variable projection,
Golub & Pereyra 1973, doi 10.1137/0710036): first on a coarse grid of orientation, rotation and defocus, then
by gradients through the columns of the linear model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from phaseloom.direct.bright_field import Spectrum
from phaseloom.direct.explained import compute_explained_share, fit_device, measure_explained_share
from phaseloom.direct.share_slopes import ShareSlopes
from phaseloom.direct.transfer import LinearOptics, orientation_matrix, turn_matrix, turn_phase
from phaseloom.errors import BadInput

__all__ = [
    "ALL_NAMES",
    "FIRST_NAMES",
    "MIN_GAIN_OF_CLEAR_FIT",
    "PIXELS_IN_REFINEMENT",
    "Candidate",
    "OpticsFit",
    "add_rivals",
    "are_pixels_coarse",
    "climb",
    "fit_optics",
    "is_same",
    "judge_candidates",
    "measure_gain_of_step",
    "refine_optics",
    "search_optics",
    "thin_out",
]

FREQUENCIES_IN_SEARCH = 80
PIXELS_IN_SEARCH = 80
"""What the coarse search looks at: hundreds of defoci in many directions within seconds."""

FREQUENCIES_IN_FIT = 400
PIXELS_IN_FIT = 160

SEARCH_ROTATIONS = 36
"""Directions of the scan in half a turn; the other half is that of the twins."""

HIGHEST_FREQUENCY = 1.7
"""Frequencies above so many apertures have too few pixels to tell anything."""

CANDIDATES_TO_FIT = 6
"""Best places of the landscape that are fitted by gradients."""

MAX_POWER_OF_NOISY_DATA = 1.5
"""Mean power, in units of that of counting, below which all counts are needed to find the optics."""

STEP_TOLERANCE = 0.02
"""Standard deviation of a stated step: what the fit takes for known of it."""

MIN_GAIN_OF_FREE_STEP = 8.0
"""What a step that nothing holds must explain more than the stated one, to be taken, in units of the error of
the model: what a deviation of nearly three `STEP_TOLERANCE` costs."""

MIN_GAIN_OF_CLEAR_FIT = 60.0
"""Gain of the best candidate from which it is refined and its step may be freed: noise gains up to 40."""

STEPS_TO_SEARCH = (0.7, 0.84, 1.19, 1.41)
"""Factors on a step that is wrong altogether, with which orientation, rotation and defocus are searched."""

MAX_DISTANCE_OF_PLACES = 1000.0
"""In units of what the aperture resolves, beyond which no weak object changes the bright field at all."""

LIMITS_OF_STEP = (0.25, 4.0)
"""Factors on a stated step beyond which no fit goes."""

MIN_CORRECTION_OF_FREE_STEP = 0.12
"""Share by which it must differ: what is nearer may be the bias of a strong object, or noise. With 0.06 a
step was dropped on five of 25 unseen scans, which it left 6 to 40 % off."""

MIN_RATIO_OF_FREE_STEP = 1.5
"""What it must explain over what the stated one does: a wrong step hides nearly all. Of a biological specimen
that shows nothing a step 39 % off explained 1.0 % in place of 0.9."""

MIN_STEP_TO_SUGGEST = 0.08
"""Share by which a step that nothing holds must differ, to be named. Of steps stated right it differed by
0.062 at most on crystals, layers and particles, of steps stated 15 % too long by 0.086 to 0.12."""

MIN_GAIN_TO_SUGGEST_STEP = 3.0
"""What it must explain more, in units of the error of the model. Of 13 unseen crystals, layers and particles
whose step was stated 15 % too long, seven reach it; of a step stated rightly one near focus differed by 17 %
with 2.5."""

MIN_LEAD = 0.05
"""Share of what the best candidate explains that its rival must lack, for a fit to be clear. Where the object
is strong or hardly seen both explain the same, and their difference means nothing in any unit.
0.01 was found where the best was wrong; 0.06 and more on 32 of 37 scans on which it was right."""

DIFFERENCE_STEP = 1e-3
"""Move of a number, in its unit, over which the slope of the objective is compared."""

MIN_CURVATURE = 1e-9
"""Share of the strongest curvature below which a direction is flat: what is left of rounding."""

MAX_SHARE_OF_FLAT_DIRECTIONS = 0.01
"""Share of a number that may lie in flat directions; with more it is not determined."""

FIRST_FOCAL_SPREAD = 0.4
"""Where the fit of a focal spread begins, in units of wavelength / semiangle^2."""

MAX_PHASE_IN_PIXEL = 1.0
"""Phase over a pixel, of a frequency as large as the aperture, above which finer pixels are needed, radian.
Wide pixels hold rims of the bands that the model lacks: 0.12 1/angstrom across at 46 nm defocus they pulled
astigmatism by 16 angstrom and rotation by 2.3 degrees, where counting allows 1.1 and 0.1."""

FREQUENCIES_IN_REFINEMENT = 150
PIXELS_IN_REFINEMENT = 800
"""Fewer frequencies of more pixels: gradients keep all that is computed of both, 0.5 GB with 400 and 800."""

FIRST_NAMES = ("C10", "C12a", "C12b", "rotation")
"""What each candidate is fitted for, before the best one is fitted for more."""

ALL_NAMES = (*FIRST_NAMES, "step", "C21a", "C21b", "C23a", "C23b", "focal_spread")
"""What the best one is fitted for."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """One place in the landscape of optics.

    Attributes:
        optics: there.
        explained: share of the changes that a weak phase object explains with them.
    """

    optics: LinearOptics
    explained: float


@dataclass(frozen=True, eq=False)
class OpticsFit:
    """The best optics of a scan, up to the twin (`LinearOptics.get_twin`).

    Attributes:
        optics: the best.
        explained: share of the changes that a weak phase object explains with them.
        rivals: others with another orientation, rotation or defocus, best first.
        margin: what the first rival leaves unexplained over what the best does, both fitted for the same few
            numbers.
        gain: the same as a difference in deviance, in units of what is left for each number: about 40 at most
            where there is nothing but noise.
        errors: standard error of each number, by its name, from the curvature and `STEP_TOLERANCE`; those
            that the data do not determine are left out.
        candidates: all that were fitted, best first, then the other maxima of the landscape.
        is_step_free: whether the stated step was found to be wrong by more than a calibration errs, so that
            nothing of it was kept.
        lead: share of what the best candidate explains that the first rival lacks, both fitted for the same
            few numbers.
        suggested_step: factor on the stated step with which an object of phase and amplitude explains most,
            where that is clearly more and far from what is stated; ``None``: the stated one will do.
        beyond: share of what is explained that comes from frequencies which the raster does not resolve
            (`phaseloom.direct.checks.folding`); 0 where none were looked at.
    """

    optics: LinearOptics
    explained: float
    rivals: tuple[Candidate, ...]
    margin: float
    gain: float
    errors: dict[str, float]
    candidates: tuple[Candidate, ...]
    is_step_free: bool = False
    lead: float = 1.0
    suggested_step: float | None = None
    beyond: float = 0.0

    @property
    def is_clear(self) -> bool:
        """Whether it decides alone."""
        return self.gain > MIN_GAIN_OF_CLEAR_FIT and self.lead > MIN_LEAD

    @property
    def is_settled(self) -> bool:
        """Whether its optics are determined: clearly, or by details of which no frequency is mistaken.

        With these the right optics came first on all of 26 simulated crystals, with leads from 0.012 on.
        """
        return self.is_clear or (self.beyond > 0 and self.gain > MIN_GAIN_OF_CLEAR_FIT)


def fit_optics(
    spectrum: Spectrum,
    optics: LinearOptics,
    /,
    *,
    largest_defocus: float,
    names: Sequence[str] = ALL_NAMES,
    orientations: Sequence[int] = (0, 4),
) -> OpticsFit:
    """Search orientation, rotation and defocus over all that is possible, then fit all numbers together.

    Args:
        spectrum: of the bright field.
        optics: wavelength, semi-angle, and whatever is known; other numbers of it are the start.
        largest_defocus: angstrom, of either sign.
        names: what the best candidate is fitted for: aberrations, and fields of `LinearOptics`.
        orientations: of the detector; two of different parity are all that a scan without knowledge needs.
    """
    limit = float(optics.semiangle) / optics.wavelength
    depth_of_focus = optics.wavelength / float(optics.semiangle) ** 2
    few = thin_out(spectrum, FREQUENCIES_IN_SEARCH, PIXELS_IN_SEARCH, limit)
    more = thin_out(spectrum, FREQUENCIES_IN_FIT, PIXELS_IN_FIT, limit)
    _require_frequencies(few, limit)
    places: list[Candidate] = []
    for way in orientations:
        start = replace(optics, orientation=way)
        places += search_optics(few, start, largest_defocus=largest_defocus)
    places.sort(key=lambda one: -one.explained)
    fitted: list[Candidate] = []
    for place in places[:CANDIDATES_TO_FIT]:
        found = climb(few, place.optics, FIRST_NAMES)
        fitted.append(Candidate(found, compute_explained_share(more, found)))
    fitted.sort(key=lambda one: -one.explained)
    best = climb(more, fitted[0].optics, FIRST_NAMES)
    if "focal_spread" in names and not float(best.focal_spread):
        best = replace(best, focal_spread=FIRST_FOCAL_SPREAD * depth_of_focus)
    best = climb(more, best, names, amplitude=True)
    numbers = len(more.frequency) * len(more.place)
    distinct = _list_distinct(fitted)
    free, loose = None, None
    if "step" in names and (_measure_margin(distinct) - 1) * numbers > MIN_GAIN_OF_CLEAR_FIT:
        loose = _free_step(more, best, names)
    if loose is not None and loose.may_replace:
        starts = [replace(optics, orientation=way) for way in orientations]
        free = _find_free_step(few, more, best, loose, starts, names=names, largest_defocus=largest_defocus)
    others = places[CANDIDATES_TO_FIT:]
    if free is not None:
        return judge_candidates(more, free.optics, fitted, names=names, others=others, free=free)
    found = judge_candidates(more, best, fitted, names=names, others=others)
    return replace(found, suggested_step=None if loose is None else loose.suggestion)


def _require_frequencies(spectrum: Spectrum, limit: float) -> None:
    """Refuse a raster of which an aperture of this radius, cycles per angstrom, shows nothing."""
    if not len(spectrum.frequency):
        fix = "leave no frequency that the optics pass: check their unit, and that patterns have their order"
        raise BadInput("direct: positions", None, fix)
    apart = limit / float(spectrum.frequency.norm(dim=-1).max())
    if apart > MAX_DISTANCE_OF_PLACES:
        fix = f"are {apart:.1g} times as far apart as the aperture resolves: check the unit of the step"
        raise BadInput("direct: positions", None, fix)


def judge_candidates(
    spectrum: Spectrum,
    best: LinearOptics,
    fitted: Sequence[Candidate],
    /,
    *,
    names: Sequence[str],
    others: Sequence[Candidate] = (),
    free: Candidate | None = None,
) -> OpticsFit:
    """How sure the best optics are against the other candidates, and their errors.

    Args:
        spectrum: by which all were judged.
        best: fitted for all numbers.
        fitted: all candidates, fitted for the same few numbers, best first.
        names: what the best one was fitted for.
        others: maxima that were not fitted.
        free: the best one, where nothing held its step.
    """
    distinct = _list_distinct(fitted if free is None else [free, *fitted])
    margin = _measure_margin(distinct)
    return OpticsFit(
        optics=best,
        explained=compute_explained_share(spectrum, best),
        rivals=tuple(distinct[1:]),
        margin=margin,
        gain=(margin - 1) * len(spectrum.frequency) * len(spectrum.place),
        lead=_measure_lead(distinct),
        errors=_estimate_errors(spectrum, best, names, is_step_free=free is not None),
        candidates=(*fitted, *others),
        is_step_free=free is not None,
    )


def add_rivals(found: OpticsFit, others: Sequence[Candidate], /) -> OpticsFit:
    """The same fit against further candidates.

    Args:
        found: of `judge_candidates`.
        others: fitted, and judged by the same data.
    """
    best = Candidate(found.optics, found.explained)
    rivals = sorted((*found.rivals, *others), key=lambda one: -one.explained)
    distinct = _list_distinct([best, *rivals])
    lead = max(0.0, min(found.lead, _measure_lead(distinct)))
    return replace(found, rivals=tuple(distinct[1:]), lead=lead)


def _list_distinct(fitted: Sequence[Candidate]) -> list[Candidate]:
    """The candidates, best first, without those that are the same or the twin of a better one."""
    distinct: list[Candidate] = []
    for one in fitted:
        if not any(is_same(one.optics, other.optics) for other in distinct):
            distinct.append(one)
    return distinct


def _measure_margin(distinct: Sequence[Candidate]) -> float:
    """What the second candidate leaves unexplained over what the first does; infinite without a second."""
    if len(distinct) < 2:
        return math.inf
    first, second = (one.explained for one in distinct[:2])
    return (1 - second) / max(1 - first, 1e-9)


def _measure_lead(distinct: Sequence[Candidate]) -> float:
    """The share of what the first candidate explains that the second one lacks; 1 without a second."""
    if len(distinct) < 2:
        return 1.0
    first, second = (one.explained for one in distinct[:2])
    return 1 - second / max(first, 1e-9)


@dataclass(frozen=True)
class _LooseStep:
    """Optics whose step nothing holds.

    Attributes:
        optics: fitted for all numbers.
        first: step of the fit for few numbers, before.
        gain: what they explain more than those with the stated step, in units of the error of the model.
    """

    optics: LinearOptics
    first: float
    gain: float

    @property
    def may_replace(self) -> bool:
        """Whether the stated step may be wrong altogether."""
        return abs(self.first - 1) > MIN_CORRECTION_OF_FREE_STEP and self.gain > MIN_GAIN_OF_FREE_STEP

    @property
    def suggestion(self) -> float | None:
        """The step, if it should be named."""
        step = float(self.optics.step)
        return step if abs(step - 1) > MIN_STEP_TO_SUGGEST and self.gain > MIN_GAIN_TO_SUGGEST_STEP else None


def _find_free_step(
    few: Spectrum,
    more: Spectrum,
    held: LinearOptics,
    loose: _LooseStep,
    starts: Sequence[LinearOptics],
    *,
    names: Sequence[str],
    largest_defocus: float,
) -> Candidate | None:
    """Optics with a step that nothing holds, if they explain so much more that the held one is wrong."""
    free = _search_steps(few, more, starts, loose.optics, names=names, largest_defocus=largest_defocus)
    before, after = (compute_explained_share(more, one) for one in (held, free))
    return None if after < MIN_RATIO_OF_FREE_STEP * before else Candidate(free, after)


def _search_steps(
    few: Spectrum,
    more: Spectrum,
    starts: Sequence[LinearOptics],
    found: LinearOptics,
    *,
    names: Sequence[str],
    largest_defocus: float,
) -> LinearOptics:
    """The optics that explain most from any step: a wrong one may have led the search to a wrong defocus."""
    places: list[Candidate] = []
    for start in starts:
        for factor in STEPS_TO_SEARCH:
            there = replace(start, step=factor)
            places += search_optics(few, there, largest_defocus=factor * largest_defocus)
    places.sort(key=lambda one: -one.explained)
    first = [name for name in (*FIRST_NAMES, "step") if name in names]
    free: dict[str, Any] = {"amplitude": True, "step_tolerance": math.inf}
    tried = [climb(few, one.optics, first, **free) for one in places[:CANDIDATES_TO_FIT]]
    best = max(tried, key=lambda one: compute_explained_share(more, one, amplitude=True))
    best = replace(best, focal_spread=found.focal_spread)
    both = [found, climb(more, best, names, **free)]
    return max(both, key=lambda one: compute_explained_share(more, one, amplitude=True))


def _free_step(spectrum: Spectrum, optics: LinearOptics, names: Sequence[str]) -> _LooseStep | None:
    """The optics with a step that nothing holds; ``None``: it is near the stated one.

    A stated step is hardly ever wrong by a few tolerances: it is right within one or so, or wrong altogether
    (another magnification, nanometre for angstrom, twice the pixels).
    """
    few = [name for name in (*FIRST_NAMES, "step") if name in names]
    free = climb(spectrum, optics, few, amplitude=True, step_tolerance=math.inf)
    first = float(free.step)
    if abs(first - 1) < MIN_STEP_TO_SUGGEST / 2:
        return None
    if abs(float(optics.step) - 1) > MIN_CORRECTION_OF_FREE_STEP:  # against what held it
        return _LooseStep(free, first, math.inf)
    free = climb(spectrum, free, names, amplitude=True, step_tolerance=math.inf)
    return _LooseStep(free, first, measure_gain_of_step((optics, spectrum), (free, spectrum)))


def measure_gain_of_step(
    held: tuple[LinearOptics, Spectrum], free: tuple[LinearOptics, Spectrum], /
) -> float:
    """What optics with a free step explain more than others, in units of the error of the model.

    Args:
        held: optics with the stated step, and the data, which may have other frequencies of the object
            (`phaseloom.direct.checks.folding`).
        free: the same with the free step.
    """
    before, after = (compute_explained_share(data, one, amplitude=True) for one, data in (held, free))
    return (after - before) / (_measure_rest(free[1], free[0], amplitude=True).noise / 2)


def are_pixels_coarse(spectrum: Spectrum, optics: LinearOptics, /) -> bool:
    """Whether the defocus turns the bands of a frequency too much within a pixel of the bright field.

    Args:
        spectrum: for the width of its pixels.
        optics: with the defocus.

    Example:
        >>> optics = LinearOptics.of(wavelength=0.04, semiangle=0.02, aberrations={"defocus": 400.0})
        >>> one = torch.ones(1, 2)
        >>> [are_pixels_coarse(Spectrum(one, one, one, one[0], edge), optics) for edge in (0.06, 0.01)]
        [True, False]
    """
    phase = 2 * math.pi * abs(optics.defocus) * float(optics.semiangle) * spectrum.edge
    return phase > MAX_PHASE_IN_PIXEL


def refine_optics(
    spectrum: Spectrum, found: OpticsFit, /, *, names: Sequence[str] = ALL_NAMES, errors: bool = True
) -> OpticsFit:
    """Fit all numbers once more on finer pixels, from optics that were found on coarse ones.

    Args:
        spectrum: of pixels as fine as possible.
        found: of `fit_optics`; rivals and margin stay.
        names: see `fit_optics`.
        errors: estimate the errors anew, which takes as long as the fit; else they stay.
    """
    limit = float(found.optics.semiangle) / found.optics.wavelength
    more = thin_out(spectrum, FREQUENCIES_IN_REFINEMENT, PIXELS_IN_REFINEMENT, limit, more_of_noise=1)
    tolerance = math.inf if found.is_step_free else STEP_TOLERANCE
    optics = climb(more, found.optics, names, amplitude=True, step_tolerance=tolerance)
    explained = compute_explained_share(more, optics)
    new = found.errors
    if errors:
        new = _estimate_errors(more, optics, names, is_step_free=found.is_step_free)
    return replace(found, optics=optics, explained=explained, errors=new)


def search_optics(
    spectrum: Spectrum,
    optics: LinearOptics,
    /,
    *,
    largest_defocus: float,
    rotations: int = SEARCH_ROTATIONS,
    index: Int[Tensor, " frequency"] | None = None,
) -> list[Candidate]:
    """The local maxima of a landscape of rotation and defocus, best first.

    Args:
        spectrum: of few frequencies and pixels.
        optics: the rest of the optics.
        largest_defocus: angstrom, of either sign.
        rotations: directions in half a turn.
        index: number of the data of each frequency, where several may be what is seen there: the one that
            explains most counts (`phaseloom.direct.checks.folding`). Default: each has data of its own.
    """
    highest = float(spectrum.frequency.norm(dim=-1).max())
    radius = float(spectrum.place.norm(dim=-1).max())
    step = 0.7 / (math.pi * optics.wavelength * radius * highest)
    count = max(3, 2 * math.ceil(largest_defocus / step) + 1)
    defocus = torch.linspace(-1, 1, count, dtype=spectrum.place.dtype) * largest_defocus
    angles = [math.pi * (number / rotations - 0.5) for number in range(rotations)]
    if index is None:
        index = torch.arange(len(spectrum.frequency))
    spread = index[:, None].expand(-1, count)
    power = torch.zeros(int(index.max()) + 1, dtype=spectrum.counts.dtype)
    power[index] = spectrum.power()
    rows = []
    for angle in angles:
        each = _explain_by_defocus(spectrum, replace(optics, rotation=optics.rotation + angle), defocus)
        most = each.new_zeros(len(power), count).scatter_reduce(0, spread, each, "amax")
        rows.append(most.sum(0) / power.sum())
    landscape = torch.stack(rows).numpy()
    out = []
    for row, column in zip(*np.nonzero(_is_peak(landscape)), strict=True):
        aberrations = {**optics.aberrations, "C10": -float(defocus[column])}
        there = replace(optics, rotation=optics.rotation + angles[row], aberrations=aberrations)
        out.append(Candidate(there, float(landscape[row, column])))
    return sorted(out, key=lambda one: -one.explained)[: 2 * CANDIDATES_TO_FIT]


def _is_peak(landscape: np.ndarray) -> np.ndarray:
    """Places no lower than their eight neighbours; rotations end where the twins begin, with C10 mirrored."""
    above = landscape[-1:, ::-1]
    below = landscape[:1, ::-1]
    padded = np.pad(np.concatenate([above, landscape, below]), ((0, 0), (1, 1)), constant_values=-np.inf)
    best = np.full(landscape.shape, True)
    rows, columns = landscape.shape
    for i in range(3):
        for j in range(3):
            best &= landscape >= padded[i : i + rows, j : j + columns]
    return best


def thin_out(
    spectrum: Spectrum, frequencies: int, pixels: int, limit: float, *, more_of_noise: int = 3
) -> Spectrum:
    """Few frequencies and pixels; where noise prevails, pixels are merged and more frequencies are taken.

    Otherwise pixels are drawn: merged ones would see a blurred object where the defocus is large.
    """
    lengths = spectrum.frequency.norm(dim=-1)
    lowest = 1.5 * float(lengths[lengths > 0].min())
    highest = HIGHEST_FREQUENCY * limit
    noisy = _is_noisy(spectrum, lowest, highest)
    count = (more_of_noise if noisy else 1) * frequencies
    few = spectrum.select_strongest(count, lowest=lowest, highest=highest)
    few = replace(few, values=few.values.to(torch.complex128))
    few = replace(few, **{k: getattr(few, k).double() for k in ("frequency", "place", "counts")})
    if len(few.place) <= pixels:
        return few
    if noisy:
        return few.merge_pixels(pixels)
    generator = torch.Generator().manual_seed(0)
    index = torch.randperm(len(few.place), generator=generator)[:pixels].sort().values
    return few.select_pixels(index)


def _is_noisy(spectrum: Spectrum, lowest: float, highest: float) -> bool:
    """Whether what changes is mostly counting."""
    length = spectrum.frequency.norm(dim=-1)
    power = spectrum.power()[(length > lowest) & (length <= highest)]
    return bool(power.numel()) and float(power.mean()) < MAX_POWER_OF_NOISY_DATA * len(spectrum.place)


def _explain_by_defocus(spectrum: Spectrum, optics: LinearOptics, defocus: Tensor) -> Tensor:
    """What a phase explains of the changes, ``(frequency, defocus)``, for each defocus.

    Args:
        spectrum: of few frequencies and pixels.
        optics: the rest of the optics.
        defocus: in place of that of the optics, angstrom, in equal steps.
    """
    k = optics.orient_pixels(spectrum.place)
    q = optics.turn_frequencies(spectrum.frequency)
    limit = float(optics.semiangle) / optics.wavelength
    along = q @ k.T
    square = q.square().sum(-1)[:, None]
    inside = k.square().sum(-1)[None]
    before = (inside - 2 * along + square < limit**2).double()
    after = (inside + 2 * along + square < limit**2).double()
    unit = math.pi * optics.wavelength
    first, second = (
        _sum_over_pixels(2 * unit * along, defocus, band * spectrum.values * spectrum.counts)
        for band in (before, after)
    )
    bend = turn_phase(-unit * square * defocus)
    found = bend * first - bend.conj() * second
    alone = (before + after) @ spectrum.counts
    both = (before * after) @ spectrum.counts
    most = alone[:, None] - 2 * (bend * bend).real * both[:, None]
    return found.abs().square() / most.clamp_min(1e-3 * float(spectrum.counts.sum()))


def _sum_over_pixels(phase: Tensor, defocus: Tensor, values: Tensor) -> Tensor:
    """Sum over pixels of values times ``exp(i phase defocus)``, ``(frequency, defocus)``, in equal steps.

    Each defocus is a coarse step and a fine one, so that few exponentials and a product of matrices suffice.
    """
    count = len(defocus)
    fine = math.isqrt(count - 1) + 1
    steps = defocus[:fine] - defocus[0]
    right = turn_phase(phase[:, :, None] * steps)
    left = turn_phase(phase[:, None] * defocus[::fine, None])
    sums = (values[:, None] * left) @ right
    return sums.flatten(1)[:, :count]


def climb(
    spectrum: Spectrum,
    optics: LinearOptics,
    names: Sequence[str],
    *,
    amplitude: bool = False,
    step_tolerance: float = STEP_TOLERANCE,
) -> LinearOptics:
    """The optics at the nearest maximum.

    An amplitude takes up what a strong phase does in second order, which would bend the optics else.
    """
    from scipy.optimize import minimize

    parameters = _Parameters(optics, tuple(names))
    on_gpu = fit_device.get() != "cpu" and torch.cuda.is_available()
    seen = spectrum.to("cuda") if on_gpu else spectrum

    measure = _Slopes.of(seen, parameters, amplitude=amplitude)
    losses: dict[bytes, tuple[float, np.ndarray]] = {}

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        if (known := losses.get(values.tobytes())) is not None:  # the start is asked for once more
            return known
        share, slopes = measure(values)
        off, unit = parameters.find_step(values)
        value = tension * (off / step_tolerance) ** 2 - share
        gradient = 2 * tension * off / step_tolerance**2 * unit - slopes
        return losses.setdefault(values.tobytes(), (value, gradient))

    # what the model leaves is not noise: pixels err alike, and the strongest frequencies make most of it
    tension = _measure_rest(spectrum, optics, amplitude=amplitude).by_model / 2
    start = np.zeros(len(names))
    options: dict[str, Any] = {"maxiter": 60, "gtol": 1e-6}
    bounds = parameters.bound()
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return parameters.freeze(found.x) if found.fun < loss(start)[0] else optics


@dataclass(frozen=True)
class _Parameters:
    """Numbers of the optics in units that matter alike: an aberration by what turns the edge by a radian."""

    optics: LinearOptics
    names: tuple[str, ...]

    def unit(self, name: str) -> float:
        if _is_aberration(name):
            order = int(name[1])
            return (
                self.optics.wavelength
                * (order + 1)
                / (2 * math.pi)
                / float(self.optics.semiangle) ** (order + 1)
            )
        edge = float(self.optics.semiangle) / self.optics.wavelength
        units = {"rotation": 0.05, "step": 0.02, "angle": 0.02, "source_size": 0.1 / edge}
        units["semiangle"] = 0.02 * float(self.optics.semiangle)
        units["focal_spread"] = 0.2 * self.optics.wavelength / float(self.optics.semiangle) ** 2
        return units.get(name, 1.0)

    def stated(self, name: str) -> float:
        """Where a number moves from."""
        known = self.optics.aberrations.get(name, 0.0) if _is_aberration(name) else getattr(self.optics, name)
        return float(known)

    def bound(self) -> list[tuple[float | None, float | None]]:
        """Limits of how far each may move: a step that nothing holds could become zero."""
        low, high = ((limit - float(self.optics.step)) / self.unit("step") for limit in LIMITS_OF_STEP)
        return [(low, high) if name == "step" else (None, None) for name in self.names]

    def place(self, values: Tensor) -> LinearOptics:
        """Optics with the numbers moved by multiples of their units."""
        aberrations: dict[str, Any] = dict(self.optics.aberrations)
        others: dict[str, Any] = {}
        for name, value in zip(self.names, values, strict=True):
            move = value * self.unit(name)
            if _is_aberration(name):
                aberrations[name] = aberrations.get(name, 0.0) + move
            else:
                others[name] = getattr(self.optics, name) + move
        return replace(self.optics, aberrations=aberrations, **others)

    def find_step(self, values: np.ndarray) -> tuple[float, np.ndarray]:
        """How far the step is from the one stated, and what it moves by in each of the numbers."""
        units = np.array([self.unit("step") if name == "step" else 0.0 for name in self.names])
        return float(self.optics.step) - 1 + float(units @ values), units

    def freeze(self, values: np.ndarray) -> LinearOptics:
        """The same as plain numbers."""
        found = self.place(torch.tensor(values))
        aberrations = {name: float(value) for name, value in found.aberrations.items()}
        others = {name: float(getattr(found, name)) for name in self.names if not _is_aberration(name)}
        return replace(found, aberrations=aberrations, **others)


@dataclass(frozen=True, eq=False)
class _Slopes:
    """The explained share and its slopes in numbers of the optics, by a kernel where there is one."""

    spectrum: Spectrum
    parameters: _Parameters
    amplitude: bool
    kernel: ShareSlopes | None

    @classmethod
    def of(cls, spectrum: Spectrum, parameters: _Parameters, *, amplitude: bool) -> "_Slopes":
        kernel = ShareSlopes.of(spectrum, parameters.optics, parameters.names, amplitude=amplitude)
        return cls(spectrum, parameters, amplitude, kernel)

    def __call__(self, values: np.ndarray) -> tuple[float, np.ndarray]:
        if self.kernel is None:
            return self._follow_graph(values)
        units = np.array([self.parameters.unit(name) for name in self.parameters.names])
        base = [self.parameters.stated(name) for name in self.parameters.names]
        found = self.kernel(dict(zip(self.parameters.names, base + units * values, strict=True)))
        if found is None:
            return self._follow_graph(values)
        return found[0], units * [found[1][name] for name in self.parameters.names]

    def _follow_graph(self, values: np.ndarray) -> tuple[float, np.ndarray]:
        point = torch.tensor(values, requires_grad=True)
        placed = self.parameters.place(point)
        share = measure_explained_share(self.spectrum, placed, amplitude=self.amplitude).cpu()
        (slopes,) = torch.autograd.grad(share, point)
        return float(share.detach()), slopes.numpy()


def _is_aberration(name: str) -> bool:
    """Whether a number is a coefficient, such as ``C12a``, and not a field of the optics."""
    return name[0] == "C" and name[1].isdigit()


def _estimate_errors(
    spectrum: Spectrum, optics: LinearOptics, names: Sequence[str], *, is_step_free: bool
) -> dict[str, float]:
    """Standard errors from the curvature of what is left unexplained and from `STEP_TOLERANCE`.

    Numbers along which nothing curves, or upwards, are left out.
    """
    parameters = _Parameters(optics, tuple(names))

    measure = _Slopes.of(spectrum, parameters, amplitude=True)
    columns = []
    for move in DIFFERENCE_STEP * np.eye(len(names)):
        columns.append((measure(-move)[1] - measure(move)[1]) / (2 * DIFFERENCE_STEP))
    curvature = (np.array(columns) + np.array(columns).T) / 2
    rest = _measure_rest(spectrum, optics, amplitude=True)
    known = 0.0 if is_step_free else parameters.unit("step") / STEP_TOLERANCE
    held = np.array([known if name == "step" else 0.0 for name in names])
    variance = _invert_diagonal(curvature / rest.noise + np.diag(held**2))
    # a tension that outweighs the data leaves the step where it was stated, as wrong as that was
    (step,) = np.nonzero(held)
    pulled = _invert_diagonal(curvature / rest.by_model + np.diag(held**2))[step] * held[step] ** 2
    variance[step] = (1 - pulled) ** 2 * variance[step] + (pulled / held[step]) ** 2
    errors = np.sqrt(variance)
    return {
        name: parameters.unit(name) * value
        for name, value in zip(names, errors.tolist(), strict=True)
        if math.isfinite(value)
    }


def _invert_diagonal(curvature: np.ndarray) -> np.ndarray:
    """Diagonal of the inverse; infinite for numbers that lie in directions which do not curve."""
    values, directions = np.linalg.eigh(curvature)
    flat = values <= MIN_CURVATURE * values.max()
    variance = (directions[:, ~flat] ** 2 / values[~flat]).sum(1)
    told = (directions[:, flat] ** 2).sum(1) < MAX_SHARE_OF_FLAT_DIRECTIONS
    return np.where(told, variance, np.inf)


class _Rest(NamedTuple):
    """Twice the share of the changes that chance moves what is explained by, were all that is left of a kind.

    Attributes:
        noise: counting, which errs in each number by itself, and the rest by what the model lacks.
        by_model: all by what the model lacks: it errs alike in all pixels, most in the strongest frequencies,
            and tells as little as few frequencies.
    """

    noise: float
    by_model: float


def _measure_rest(spectrum: Spectrum, optics: LinearOptics, *, amplitude: bool) -> _Rest:
    """What a weak object leaves unexplained, as noise of what it explains."""
    power = spectrum.power()
    free = len(spectrum.frequency) * (len(spectrum.place) - 1)
    frequencies = float(power.sum().square() / power.square().sum())
    left = max(1 - compute_explained_share(spectrum, optics, amplitude=amplitude), 1e-9)
    by_counting = min(left, free / float(power.sum()))
    return _Rest(by_counting / free + (left - by_counting) / frequencies, left / frequencies)


def is_same(one: LinearOptics, other: LinearOptics) -> bool:
    """Whether two optics are the same or twins, but for small differences."""
    return any(_is_close(one, each) for each in (other, other.get_twin()))


def _is_close(one: LinearOptics, other: LinearOptics) -> bool:
    frames = [
        orientation_matrix(each.orientation) @ turn_matrix(float(each.rotation)) for each in (one, other)
    ]
    unit = one.wavelength / float(one.semiangle) ** 2
    return bool(np.linalg.norm(frames[0] - frames[1]) < 0.3 and abs(one.defocus - other.defocus) < unit)
