"""Details that are finer than a raster resolves, told apart by the pixels of the detector.

A raster with the reciprocal lattice ``b`` shows every frequency ``q + b`` of the object at the one frequency
``q``. Each detector pixel sees each of them with another size and phase (`phaseloom.direct.transfer`), so the
patterns tell which it is. `phaseloom.direct.fit` takes all for ``q``: lattice planes narrower than two steps
are explained by planes that the object does not have, with a wrong rotation and defocus.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from phaseloom.direct.bright_field import Spectrum
from phaseloom.direct.explained import RIDGE, compute_explained_share
from phaseloom.direct.fit import (
    ALL_NAMES,
    FIRST_NAMES,
    MIN_GAIN_OF_CLEAR_FIT,
    Candidate,
    OpticsFit,
    add_rivals,
    climb,
    is_same,
    judge_candidates,
    measure_gain_of_step,
    search_optics,
    thin_out,
)
from phaseloom.direct.solve import MAX_UPSAMPLE, build_normal_equations
from phaseloom.direct.transfer import LinearOptics

__all__ = ["FOLDING_NOTE", "MIN_SHARE_BEYOND", "Aliases", "Unfolded", "choose_frequencies"]
__all__ += ["choose_upsample", "fit_folded_optics", "may_be_folded"]

HIGHEST_FREQUENCY = 1.9
"""Frequencies of the object that are looked at, in apertures: 2 is the end of what an aperture passes."""

OUTER_CYCLES = 0.3
"""Cycles per step from which a frequency is in the outer part of what a raster resolves."""

MIN_SHARE_OF_OUTER = 0.15
"""Share of the changes there, from which details may be folded: it is .64 of a white spectrum."""

MIN_ERRORS_OF_OUTER = 3.0
"""The same in standard errors by counting."""

MAX_FOLDED = 200
"""Frequencies of the object on one of the raster that are too many to be told apart: steps are eight times as
long as what the aperture resolves then, and more likely in a wrong unit."""

MIN_SHARE_BEYOND = 0.3
"""Share of what is explained that has to come from frequencies beyond the raster's: else a fit may do without
them."""

ROWS_IN_SEARCH = 500
PIXELS_IN_SEARCH = 60
ROWS_IN_FIT = 3000
PIXELS_IN_FIT = 160
"""Frequencies of the object, and pixels, that are looked at."""

MIN_FREQUENCIES = 12
"""Of the data, however many frequencies of the object are folded on each."""

MAX_PLACES = 300_000
"""Of an image whose places nobody stated: its time grows faster than their number."""

CANDIDATES_TO_FIT = 6

NOISE_OF_ONE = 1.0
"""What a frequency of the object explains of noise; the best of n explains more by ``log n``."""

MIN_SURE = 2.0
"""What the best of a frequency explains more than chance would, on average, for it to tell anything."""

MIN_SHARE_TO_SEARCH_STEPS = 0.1
"""Share of what is explained from frequencies beyond the raster's, from which steps are searched: right
optics have less of it with a wrong step."""

STEPS_TO_SEARCH = (0.88, 0.91, 0.94, 0.97, 1.03, 1.06, 1.09, 1.12)
"""Factors on the stated step. With one 7 % off other frequencies of a lattice explain more than the right
ones; within half of the distance of these factors the right ones still win."""

ROWS_IN_SEARCH_OF_STEPS = 200
PIXELS_IN_SEARCH_OF_STEPS = 40
MIN_FREQUENCIES_IN_SEARCH_OF_STEPS = 6
"""As above, of a search that is made for each of `STEPS_TO_SEARCH`."""

CANDIDATES_AT_OTHER_STEPS = 12
CANDIDATES_TO_FIT_AT_OTHER_STEPS = 4
"""Whose frequencies are chosen, and which of them are fitted."""

MIN_CORRECTION_OF_STEP = 0.04
"""Share by which a step must be off to be taken in place of the stated one, which is known to 2 %. Of eleven
crystals with steps stated right, 7 % too short and 8 % too long, the free one was 1.5 % off at most."""

MIN_GAIN_OF_STEP = 0.5
"""What the same optics must explain more with it, in units of the error of the model. All wrong steps of
these reached 1.0."""

MIN_GAIN_OF_OTHER_OPTICS = 3.0
"""The same of optics with another orientation, rotation or defocus, which are a rival otherwise. Wrong steps
reached 4 to 400; of a step stated right 1.8 was found."""

MIN_DROP_OF_RESIDUAL = 0.0025
"""Share of what is left unexplained that another step must explain. Wrong steps of three thin random objects,
where nothing is a lattice, explained 0.0016 at most; right ones of eight crystals 0.003 to 0.1."""

ROUNDS = 2
"""Times that the frequencies are chosen anew for optics that were fitted."""

FOLDING_NOTE = (
    "the object has details that the raster does not resolve; detector pixels told them apart for the fit"
)


@dataclass(frozen=True, eq=False)
class Unfolded:
    """Data with the frequency of the object that explains most at each frequency of the raster.

    Attributes:
        spectrum: with these frequencies.
        explained: share of all changes that a weak phase object explains.
        beyond: share of that which comes from frequencies beyond those of the raster, without what the best
            of so many explains by chance.
    """

    spectrum: Spectrum
    explained: float
    beyond: float


@dataclass(frozen=True, eq=False)
class Aliases:
    """Data at some frequencies of a raster, once for each frequency of the object that appears there.

    Attributes:
        spectrum: the data.
        repeated: the same, a row for each frequency of the object.
        index: ``(row,)`` number of the frequency of the data.
    """

    spectrum: Spectrum
    repeated: Spectrum
    index: Int[Tensor, " row"]

    @classmethod
    def of(cls, spectrum: Spectrum, limit: float, /) -> Aliases:
        """All that an aperture passes, but for the rim of the pass band.

        Args:
            spectrum: of a raster: with its `image_grid`.
            limit: radius of the aperture, cycles per angstrom.
        """
        reach = HIGHEST_FREQUENCY * limit
        steps = _get_steps(spectrum)
        most = math.ceil(reach * float(steps.norm(dim=-1).max())) + 1
        numbers = torch.arange(-most, most + 1, dtype=steps.dtype)
        lattice = torch.cartesian_prod(numbers, numbers) @ torch.linalg.inv(steps).T
        frequency = spectrum.frequency.to(steps.dtype)[:, None] + lattice
        index, which = torch.nonzero(frequency.norm(dim=-1) < reach, as_tuple=True)
        repeated = replace(spectrum.select(index), frequency=frequency[index, which])
        return cls(spectrum, repeated, index)

    @torch.no_grad()
    def choose(self, optics: LinearOptics, /) -> Unfolded:
        """The frequency of the object that explains most, at each of the data.

        Args:
            optics: with which each is tried alone.
        """
        explained = build_normal_equations(optics, self.repeated, amplitude=False).explained(ridge=RIDGE)
        order = torch.argsort(explained)  # of rows alike the last one is kept, which explains most
        chosen = torch.zeros(len(self.spectrum.frequency), dtype=torch.long)
        chosen[self.index[order]] = order
        best = explained[chosen]
        frequency = self.repeated.frequency[chosen]
        away = (frequency - self.spectrum.frequency).norm(dim=-1)
        far = away > 1e-6 * float(frequency.norm(dim=-1).max())
        tried = torch.bincount(self.index, minlength=len(best)).to(best.dtype)
        sure = (best - tried.log() - NOISE_OF_ONE).clamp_min(0)
        return Unfolded(
            replace(self.spectrum, frequency=frequency),
            float(best.sum() / self.spectrum.power().sum()),
            float(sure[far].sum() / sure.sum()) if sure.mean() > MIN_SURE else 0.0,
        )


def choose_frequencies(
    spectrum: Spectrum, optics: LinearOptics, /, *, pixels: int = PIXELS_IN_FIT
) -> Unfolded:
    """The strongest of the data with the frequencies of the object that explain most of them.

    Args:
        spectrum: of the bright field of a raster.
        optics: as given.
        pixels: that are looked at, at most.
    """
    limit = float(optics.semiangle) / optics.wavelength
    return _repeat(spectrum, limit, ROWS_IN_FIT, pixels).choose(optics)


def choose_upsample(spectrum: Spectrum, optics: LinearOptics, /) -> int:
    """Places of an image for each of a raster, along each axis, that show what the aperture resolves.

    Fewer where an image would have more than `MAX_PLACES`.

    Args:
        spectrum: for the raster.
        optics: for the aperture.
    """
    assert spectrum.image_grid is not None
    step = float(_get_steps(spectrum).norm(dim=-1).max()) * float(optics.step)
    most = math.isqrt(MAX_PLACES // math.prod(spectrum.image_grid.shape))
    return max(1, min(MAX_UPSAMPLE, most, math.ceil(2 * step * float(optics.semiangle) / optics.wavelength)))


def may_be_folded(spectrum: Spectrum, optics: LinearOptics, /) -> bool:
    """Whether a raster is wider than what the aperture resolves, and its object has finer details.

    Args:
        spectrum: of the whole raster; off a raster nothing is folded.
        optics: for the aperture, and to tell the frequencies of the object by.
    """
    if not _is_wide(spectrum, optics):
        return False
    return _changes_fast(spectrum) or choose_frequencies(spectrum, optics).beyond > MIN_SHARE_BEYOND


def _is_wide(spectrum: Spectrum, optics: LinearOptics) -> bool:
    """Whether the steps of a raster are longer than what the aperture resolves, but not by far."""
    if spectrum.sampling is not None or spectrum.image_grid is None:
        return False
    limit = float(optics.semiangle) / optics.wavelength
    is_wide = abs(float(torch.linalg.det(_get_steps(spectrum)))) > 1 / (2 * limit) ** 2
    return is_wide and _count_folded(spectrum, limit) < MAX_FOLDED


def _changes_fast(spectrum: Spectrum) -> bool:
    """Whether much of what changes does so at the highest frequencies of a raster."""
    steps = _get_steps(spectrum)
    cycles = (spectrum.frequency.to(steps.dtype) @ steps.T).abs().amax(-1)
    inside = (cycles > 0) & (cycles <= 0.5 + 1e-9)
    power = spectrum.power().to(steps.dtype) / len(spectrum.place) - 1  # counting alone has 1
    outer = inside & (cycles > OUTER_CYCLES)
    if not outer.any():
        return False
    error = math.sqrt(int(outer.sum()) / len(spectrum.place))
    least = max(MIN_SHARE_OF_OUTER * float(power[inside].sum()), MIN_ERRORS_OF_OUTER * error)
    return float(power[outer].sum()) > least


def fit_folded_optics(
    spectrum: Spectrum,
    found: OpticsFit,
    optics: LinearOptics,
    /,
    *,
    largest_defocus: float,
) -> OpticsFit:
    """Search orientation, rotation and defocus with all frequencies that may be folded on those of a raster.

    Args:
        spectrum: of the bright field.
        found: of a fit that takes them for those of the raster; it stays where no other explains more.
        optics: see `phaseloom.direct.fit.fit_optics`.
        largest_defocus: as well.

    Returns:
        The better fit, with what it explains by frequencies beyond the raster's (`OpticsFit.beyond`).
    """
    if not _is_wide(spectrum, optics):
        return found
    limit = float(optics.semiangle) / optics.wavelength
    few = _repeat(spectrum, limit, ROWS_IN_SEARCH, PIXELS_IN_SEARCH)
    more = _repeat(spectrum, limit, ROWS_IN_FIT, PIXELS_IN_FIT)
    places: list[Candidate] = []
    for way in (0, 4):
        start = replace(optics, orientation=way)
        places += search_optics(few.repeated, start, largest_defocus=largest_defocus, index=few.index)
    places.sort(key=lambda one: -one.explained)
    before = more.choose(found.optics)
    tried = [(found.optics, before)]
    for place in places[:CANDIDATES_TO_FIT]:
        there, seen = place.optics, more.choose(place.optics)
        for _ in range(ROUNDS):
            there = climb(seen.spectrum, there, FIRST_NAMES)
            seen = more.choose(there)
        tried.append((there, seen))
    tried.sort(key=lambda one: -one[1].explained)
    numbers = len(more.spectrum.frequency) * len(more.spectrum.place)
    best, first = tried[0]
    gain = ((1 - before.explained) / max(1 - first.explained, 1e-9) - 1) * numbers
    is_folded = before.beyond > MIN_SHARE_BEYOND
    if gain < MIN_GAIN_OF_CLEAR_FIT or (not is_folded and is_same(best, found.optics)):
        held = replace(found, beyond=before.beyond)
        return _search_steps(spectrum, more, held, before, optics, largest_defocus=largest_defocus)
    best = climb(first.spectrum, best, ALL_NAMES, amplitude=True)
    after = more.choose(best)
    fitted = [Candidate(there, seen.explained) for there, seen in tried]
    others = places[CANDIDATES_TO_FIT:]
    judged = judge_candidates(after.spectrum, best, fitted, names=ALL_NAMES, others=others)
    held = replace(judged, beyond=after.beyond)
    return _search_steps(spectrum, more, held, after, optics, largest_defocus=largest_defocus)


def _search_steps(
    spectrum: Spectrum,
    more: Aliases,
    held: OpticsFit,
    seen: Unfolded,
    optics: LinearOptics,
    *,
    largest_defocus: float,
) -> OpticsFit:
    """The same optics, or others with another step, if they explain clearly more.

    Folded frequencies scale with the step, and detector pixels know the true ones. Where they are a small
    part of what is explained they do not tell the step: of weak particles with drift, a finite source and
    descan, steps 5 and 11 % off explained more.

    Args:
        spectrum: of the bright field.
        more: what judges.
        held: optics with the stated step.
        seen: the frequencies with which they explain most.
        optics: from which the search begins.
        largest_defocus: angstrom, of either sign, at the stated step.
    """
    if seen.beyond < MIN_SHARE_TO_SEARCH_STEPS and not held.is_step_free:
        return held
    limit = float(optics.semiangle) / optics.wavelength
    few = _repeat(
        spectrum,
        limit,
        ROWS_IN_SEARCH_OF_STEPS,
        PIXELS_IN_SEARCH_OF_STEPS,
        least=MIN_FREQUENCIES_IN_SEARCH_OF_STEPS,
    )
    places: list[Candidate] = []
    for factor in STEPS_TO_SEARCH:
        for way in (0, 4):
            start = replace(optics, orientation=way, step=factor)
            farthest = factor * largest_defocus
            places += search_optics(few.repeated, start, largest_defocus=farthest, index=few.index)
    places.sort(key=lambda one: -one.explained)
    starts = [one.optics for one in places[:CANDIDATES_AT_OTHER_STEPS]]
    starts += [_scale(held.optics, factor) for factor in STEPS_TO_SEARCH]
    chosen = sorted(((one, more.choose(one)) for one in starts), key=lambda one: -one[1].explained)
    tried = [_climb_freely(more, *one) for one in chosen[:CANDIDATES_TO_FIT_AT_OTHER_STEPS]]
    tried.sort(key=_measure_with_amplitude, reverse=True)
    for free, after in tried:
        gain = measure_gain_of_step((held.optics, seen.spectrum), (free, after.spectrum))
        if (
            after.beyond > MIN_SHARE_BEYOND
            and gain > _require_gain(held.optics, free)
            and _measure_drop((held.optics, seen), (free, after)) > MIN_DROP_OF_RESIDUAL
        ):
            return _judge_free_step(more, held, free, after)
    return add_rivals(held, [Candidate(one, there.explained) for one, there in tried])


def _measure_drop(held: tuple[LinearOptics, Unfolded], free: tuple[LinearOptics, Unfolded]) -> float:
    """Share of what the first optics leave unexplained that the second ones explain."""
    before, after = _measure_with_amplitude(held), _measure_with_amplitude(free)
    return (after - before) / max(1 - before, 1e-9)


def _judge_free_step(more: Aliases, held: OpticsFit, free: LinearOptics, seen: Unfolded) -> OpticsFit:
    """Optics with a step that nothing holds, fitted for all numbers, against those that are replaced."""
    best = climb(seen.spectrum, free, ALL_NAMES, amplitude=True, step_tolerance=math.inf)
    after = more.choose(best)
    alone = Candidate(best, after.explained)
    judged = judge_candidates(after.spectrum, best, held.candidates, names=ALL_NAMES, free=alone)
    return replace(judged, beyond=after.beyond)


def _require_gain(held: LinearOptics, free: LinearOptics) -> float:
    """What optics with a free step must explain more than those with the stated one to be taken."""
    factor = float(free.step) / float(held.step)
    if not is_same(free, _scale(held, factor)):
        return MIN_GAIN_OF_OTHER_OPTICS
    return MIN_GAIN_OF_STEP if abs(factor - 1) > MIN_CORRECTION_OF_STEP else math.inf


def _scale(optics: LinearOptics, factor: float) -> LinearOptics:
    """Optics with another step, with which pixels see details of an object shifted as before."""
    aberrations = {
        name: factor * value if name[:2] == "C1" else value for name, value in optics.aberrations.items()
    }
    return replace(optics, step=factor * float(optics.step), aberrations=aberrations)


def _climb_freely(more: Aliases, optics: LinearOptics, seen: Unfolded) -> tuple[LinearOptics, Unfolded]:
    """Optics fitted with a step that nothing holds, and the frequencies with which they explain most."""
    for _ in range(ROUNDS):
        optics = climb(seen.spectrum, optics, (*FIRST_NAMES, "step"), amplitude=True, step_tolerance=math.inf)
        seen = more.choose(optics)
    return optics, seen


def _measure_with_amplitude(one: tuple[LinearOptics, Unfolded]) -> float:
    return compute_explained_share(one[1].spectrum, one[0], amplitude=True)


def _repeat(
    spectrum: Spectrum, limit: float, rows: int, pixels: int, *, least: int = MIN_FREQUENCIES
) -> Aliases:
    """So few of the data that there are about so many frequencies of the object."""
    count = max(least, round(rows / _count_folded(spectrum, limit)))
    return Aliases.of(thin_out(spectrum, count, pixels, limit, more_of_noise=1), limit)


def _count_folded(spectrum: Spectrum, limit: float) -> float:
    """Frequencies of the object that appear at one of the raster, on average."""
    return math.pi * (HIGHEST_FREQUENCY * limit) ** 2 * abs(float(torch.linalg.det(_get_steps(spectrum))))


def _get_steps(spectrum: Spectrum) -> Float[Tensor, "2 2"]:
    """Steps of a raster, (slow, fast), each as (row, column), angstrom."""
    assert spectrum.image_grid is not None
    return torch.from_numpy(np.asarray(spectrum.image_grid.steps, np.float64))
