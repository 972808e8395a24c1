"""What will go wrong with a run, seen from its data and its recipe: each a sentence with a number."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from phaseloom.data.calibrate import Disk, fit_disk, mean_for_disk
from phaseloom.data.diagnostics import inspect
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.physics.fourier import to_reciprocal
from phaseloom.physics.propagate import angular_spectrum, fly
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.probes.opr import RelaxedProbe
from phaseloom.reconstruction import advice
from phaseloom.reconstruction.identifiability import warn_of_ambiguity
from phaseloom.reconstruction.level import build_levels
from phaseloom.reconstruction.protocol import Job
from phaseloom.units import ANGLE, LENGTH

__all__ = ["RunAhead", "warn_before_run"]

MIN_FLOOR_FOR_FEW_COUNTS = 0.25
"""Counts added under the roots of amplitudes, from which few counts bias them less."""

MIN_COUNTS_FOR_AMPLITUDES = 25.0
"""Counts in a bright pixel below which comparing amplitudes draws phases towards zero (by 5 to 28 % on S)."""

MAX_SHARE_OF_DARK_PIXELS = 0.5
"""Share of pixels with less than a count, above which the weak dark field does so too."""

Rules = tuple[Callable[["RunAhead"], str], ...]


def warn_before_run(job: Job, /, *, started: bool = False) -> list[str]:
    """Sentences on what will go wrong, on the data first; an empty list when there is nothing to do.

    Args:
        job: built, before its first epoch.
        started: an automatic start settles orientation and, unless stated, defocus before the run.
    """
    told = bool(job.recipe.probe.values.get("defocus")) or job.scan.probe is not None
    known = told or not started  # else the speckles tell more of the beam's size than the first guess
    scaled = any(step.name in ("normalise", "nonnegative") for step in job.recipe.prepare)
    left_out = ("bright",)  # named where the file was read, by the numbers that they have there
    left_out += ("dead pixels", "hot pixels") if job.recipe.finds_outliers else ()  # masked already
    left_out += (("window", "overlap") if known else ()) + (("counts", "dose") if scaled else ())
    found = [f for f in inspect(job.scan) if f.level in ("warn", "bad") and f.name not in left_out]
    said = [f"{f.name}: {f.value}. {f.advice}" for f in found]
    run = RunAhead(job, started)
    rules: Rules = (_check_window, _check_overlap) if known else ()
    rules += (
        _check_semiangle,
        _check_disk_offset,
        _check_angles,
        _check_propagation_aliasing,
        _check_band_limit,
        _check_thin_slices,
        _check_thick_slices,
    )
    rules += (_check_orientation, _check_positions, _check_rates, _check_noise, _check_levels, _check_planes)
    if not scaled:  # else nobody knows how many electrons there were
        rules += (_check_dose, _check_probe_modes, _check_free_numbers)
    return said + [sentence for rule in rules if (sentence := rule(run))]


@dataclass
class RunAhead:
    """A run that has not begun, and what several rules need to know of it.

    Attributes:
        job: the run.
        started: see `of`.
    """

    job: Job
    started: bool = False

    @property
    def scan(self) -> Scan4D:
        """The data."""
        return self.job.scan

    @property
    def model(self) -> Ptychography:
        """The model with its first guesses."""
        return self.job.model

    @cached_property
    def modes(self) -> torch.Tensor:
        """The starting probe on the entrance face."""
        return self.model.probe.modes().detach().cpu()

    @cached_property
    def leaving(self) -> torch.Tensor:
        """The starting probe where the object ends, had it flown through vacuum."""
        gaps = self.model.propagator.distances().detach().cpu()
        if not len(gaps):
            return self.modes
        one = self.scan.window
        kernel = angular_spectrum(one.shape, one.pixel, one.wavelength, gaps.double().sum())
        return fly(self.modes, kernel.to(self.modes.dtype))

    @cached_property
    def gaps(self) -> np.ndarray:
        """Distances between slices, angstrom."""
        return self.model.propagator.distances().detach().cpu().double().numpy()

    @cached_property
    def diameter(self) -> float:
        """Of the disk around the probe's middle that holds 90 % of its power, angstrom."""
        light = self.modes.abs().square().sum(0).double().numpy()
        away = _distances_from_centre(light, np.array(self.scan.window.pixel))
        return 2 * _radius_holding(light, away, 0.9)

    @cached_property
    def semiangle(self) -> float:
        """Half-angle of the cone that holds 95 % of the probe, radian."""
        one = self.scan.window
        power = to_reciprocal(self.modes).abs().square().sum(0).double().numpy()
        sizes = zip(one.shape, one.pixel, strict=True)
        y, x = (one.wavelength * np.fft.fftfreq(n, p) for n, p in sizes)
        return _radius_holding(power, np.hypot(y[:, None], x[None]), 0.95)

    @cached_property
    def bright_disk(self) -> Disk | None:
        """The bright-field disk, where there clearly is one."""
        if self.scan.geometry.near or np.ptp(self.scan.geometry.angle) > 1e-3 * max(self.scan.geometry.angle):
            return None
        try:
            disk = fit_disk(self.mean, mask=self.scan.mask)
        except BadInput:
            return None
        return disk if disk.clear else None

    @cached_property
    def mean(self) -> np.ndarray:
        """Mean pattern, untrusted pixels zero, without background."""
        mean = mean_for_disk(self.scan.counts)
        mean = mean - (0.0 if self.scan.background is None else self.scan.background)
        return np.where(self.scan.mask, mean, 0.0).clip(min=0)

    @cached_property
    def angles(self) -> np.ndarray:
        """Scattering angle of each detector pixel, radian."""
        one = self.scan.geometry
        y, x = ((np.arange(n) - n // 2) * a for n, a in zip(one.shape, one.angle, strict=True))
        return np.hypot(y[:, None], x[None])

    @cached_property
    def reach(self) -> float:
        """Half-angle of the cone that holds 99 % of the counts beyond the level of the edge, radian."""
        edge = np.ones_like(self.scan.mask)
        edge[1:-1, 1:-1] = False
        level = self.mean[edge & self.scan.mask].mean() if (edge & self.scan.mask).any() else 0.0
        return _radius_holding((self.mean - level).clip(min=0), self.angles, 0.99)

    @cached_property
    def depth(self) -> float:
        """Depth that the counts can resolve, ``wavelength / reach^2``, angstrom."""
        return self.scan.window.wavelength / max(self.reach, 1e-9) ** 2

    @cached_property
    def field(self) -> float:
        """Area that the beam has seen, square angstrom."""
        height, width = (length + self.diameter for length in self.scan.extent)
        return height * width


def _check_window(run: RunAhead) -> str:
    """Power near the border of the window, before or behind the object."""
    if run.scan.geometry.near:
        return ""
    shares = [_power_at_border(wave) for wave in (run.modes, run.leaving)]
    share = max(shares)
    if share < 0.03:
        return ""
    where = "behind the object " if shares[1] > 1.5 * shares[0] else ""
    fix = "Pad the patterns (prepare: pad), bin less, or defocus less: it wraps round."
    return f"window: {share:.0%} of the probe {where}lies within a sixteenth of the window's border. {fix}"


def _check_overlap(run: RunAhead) -> str:
    step = _median_step(run.scan)
    wide = run.diameter
    if not step or run.scan.geometry.near or 1 - step / wide >= 0.5:
        return ""
    fix = "Check the unit of the step; else scan with smaller steps, or with a wider beam (more defocus)."
    text = f"{max(0.0, 1 - step / wide):.0%} between neighbours {_format_length(step)} apart"
    return f"overlap: {text}, the probe being {_format_length(wide)} wide. {fix}"


def _check_semiangle(run: RunAhead) -> str:
    """The semiangle that was stated, against the bright-field disk."""
    stated = run.job.recipe.probe.values.get("semiangle")
    disk = run.bright_disk
    if stated is None or disk is None:
        return ""
    angle = float(np.mean(run.scan.geometry.angle))
    seen = disk.radius * angle
    doubt = 3 * disk.radius_error * angle
    if abs(seen - stated) < max(0.06 * stated, angle, doubt):
        return ""
    fix = "Correct the semiangle, or the angle of a pixel (prepare: calibrate)."
    text = f"the bright disk has a radius of {ANGLE.show(_round(seen))}, the probe {ANGLE.show(stated)}"
    return f"semiangle: {text}. {fix}"


def _check_disk_offset(run: RunAhead) -> str:
    """The middle of the bright disk, which a probe made by a lens has at pixel ``[N // 2, N // 2]``."""
    disk = run.bright_disk
    if disk is None or "semiangle" not in run.job.recipe.probe.values:
        return ""
    off = disk.off(run.mean.shape)
    if not any(off):
        return ""
    text = f"the bright disk lies {off[0]:+.2g}, {off[1]:+.2g} pixels off the probe's"
    return f"disk: {text}. Centre the patterns (prepare: center); one flipped by hand moves by a pixel."


def _check_angles(run: RunAhead) -> str:
    """Angles beyond the bright disk, where the detail is."""
    if run.scan.geometry.near:
        return ""
    one = run.scan.geometry
    most = min(n * a for n, a in zip(one.shape, one.angle, strict=True)) / 2
    if run.semiangle < 0.8 * most:
        return ""
    text = f"the beam fills {run.semiangle / most:.0%} of the detector's half width"
    return f"aperture: {text}, so scattered counts miss it or alias. Use a shorter camera length."


def _check_dose(run: RunAhead) -> str:
    """Counts for each number of the object; no phase is surer than half the root of their inverse."""
    counts = float(run.mean.sum())
    pixel = run.model.object.cell
    slices, states = _count_slices_and_states(run)
    each = counts * len(run.scan) / run.field * pixel / (slices * states)
    area = run.scan.area_per_pattern
    if each >= 6 or run.scan.geometry.near or area is None:
        return ""
    dose = counts / area
    limit = 1 / (2 * math.sqrt(max(dose * pixel, 1e-9)))
    text = f"{counts:.3g} counts per pattern are {dose:.3g} per A^2 and {each:.2g} for each free number"
    split = f" ({slices} slices, {states} states)" if slices * states > 1 else ""
    fix = "Take fewer slices and states, or larger pixels (prepare: crop), and add a penalty."
    return f"dose: {text} of the object{split}; its phase is uncertain by {limit:.2g} rad at best. {fix}"


def _check_probe_modes(run: RunAhead) -> str:
    """Counts of the weakest probe mode for each number that is free in it."""
    power = run.modes.abs().square().sum((-2, -1)).double()
    changing = isinstance(run.model.probe, RelaxedProbe)  # whose modes begin with no light
    if len(power) < 2 or changing or not run.job.recipe.rate_of("probe"):
        return ""
    light = to_reciprocal(run.modes).abs().square().sum(0)
    numbers = 2 * float((light > 0.01 * light.max()).sum())
    counts = float(run.mean.sum()) * len(run.scan)
    share = float(power.min() / power.sum())
    if counts * share >= 10 * numbers:
        return ""
    fix = "Take fewer modes."
    text = f"the weakest of {len(power)} has {counts * share:.3g} counts in all for its {numbers:.3g} numbers"
    return f"probe modes: {text}. {fix}"


def _check_free_numbers(run: RunAhead) -> str:
    """Measured values against numbers that are to be found."""
    scan = run.scan
    recipe = run.job.recipe
    slices, states = _count_slices_and_states(run)
    kinds = 2 if run.model.object.kind != "phase" else 1
    free = kinds * slices * states * run.field / run.model.object.cell
    if recipe.rate_of("probe") and "probe" in run.model.parts():
        free += 2 * sum(p.numel() for p in run.model.parts()["probe"])
    known = float(run.mean.clip(max=1).sum()) * len(scan)  # a value tells no more than one number
    if known >= 2 * free:
        return ""
    fix = "Take fewer slices, states and modes, object kind: phase, or a denser scan."
    return f"free numbers: {free:.3g} are sought from {known:.3g} values that hold counts. {fix}"


def _check_propagation_aliasing(run: RunAhead) -> str:
    """Kernel of a gap: its phase may change by less than pi from one frequency to the next."""
    if not len(run.gaps):
        return ""
    one = run.scan.window
    most = min(n * p * p for n, p in zip(one.shape, one.pixel, strict=True)) / one.wavelength
    gap = float(run.gaps.max())
    if gap <= most:
        return ""
    fix = "Take more slices, or a larger window (prepare: pad)."
    text = f"gaps of {_format_length(gap)} alias on this grid, which holds {_format_length(most)} at most"
    return f"flight: {text}. {fix}"


def _check_band_limit(run: RunAhead) -> str:
    """Counts beyond two thirds of the grid, which alias when a wave meets a slice."""
    if not len(run.gaps):
        return ""
    own = run.scan.geometry
    model = run.scan.window
    half = min(n * a for n, a in zip(model.shape, model.angle, strict=True)) / 2
    share = float(run.mean[run.angles > 2 / 3 * half].sum() / max(run.mean.sum(), 1e-30))
    if share < 0.05:
        return ""
    text = f"{share:.0%} of the counts lie beyond two thirds of the modelled angles"
    wide = [int(2 * round(0.75 * n)) for n in own.shape]
    return f"band: {text}, and alias between slices. Model a larger grid (prepare: enlarge to {wide})."


def _check_thin_slices(run: RunAhead) -> str:
    """Slices closer than the counts can tell apart: their sum is known, their difference is not."""
    if not len(run.gaps) or run.gaps.min() >= run.depth / 6:
        return ""
    total = float(run.gaps.sum())
    depth = run.depth
    enough = min(math.ceil(3 * total / depth) + 1, len(run.gaps))
    gap = _format_length(float(run.gaps.min()))
    text = f"{gap} apart, where the counts resolve {_format_length(depth)} in depth"
    fix = f"Take {enough} slices, or couple them (projections: depth_blur)."
    return f"slices: {text} (depth of focus {_format_length(_depth_of_focus(run))}). {fix}"


def _check_thick_slices(run: RunAhead) -> str:
    """Slices so far apart that waves change on the way through what is taken for one plane."""
    if not len(run.gaps) or run.gaps.max() <= 2 * run.depth:
        return ""
    total = float(run.gaps.sum())
    depth = run.depth
    text = f"{_format_length(float(run.gaps.max()))} apart is too far for one plane each"
    angle = ANGLE.show(_round(run.reach))
    why = f"counts reach {angle}, where waves change within {_format_length(depth)}"
    fix = f"Take {math.ceil(total / depth) + 1} slices."
    return f"slices: {text}: {why} (depth of focus {_format_length(_depth_of_focus(run))}). {fix}"


def _check_orientation(run: RunAhead) -> str:
    """Nothing says how the detector lies against the scan."""
    if run.scan.oriented or run.started or run.job.recipe.states_orientation:
        return ""
    return (
        "orientation: the file does not say how the detector lies against the scan, one way of eight, of "
        "which four can be told apart. Use start: sweep, or say it (prepare: flip, transpose)."
    )


def _check_positions(run: RunAhead) -> str:
    lost = run.model.scan.count_outside()
    if not lost:
        return ""
    fix = "Check the unit and the step of the positions, or start from a flat object."
    return f"positions: {lost} of {len(run.scan)} lie beyond the object's canvas. {fix}"


def _check_rates(run: RunAhead) -> str:
    """Steps longer than Newton's."""
    over = advice.rates_above_newton(run.job.progress)
    return f"rates: more than a whole Newton step is asked for ({over}). Take 0.1 to 0.5." if over else ""


def _check_noise(run: RunAhead) -> str:
    """Amplitudes compared where many pixels have few counts, which draws phases towards zero."""
    noise = run.job.recipe.noise_of(run.scan)
    if noise.name != "amplitude" or run.scan.geometry.beam != "electron":
        return ""
    if float(noise.values.get("floor", 0.0)) >= MIN_FLOOR_FOR_FEW_COUNTS:
        return ""
    counts = run.mean[run.scan.mask]
    dark = float((counts < 1).mean())
    bright = float(np.median(counts[counts > counts.max() / 4]))
    if bright >= MIN_COUNTS_FOR_AMPLITUDES and dark <= MAX_SHARE_OF_DARK_PIXELS:
        return ""
    text = (
        f"amplitude is biased at few counts ({bright:.3g} in a bright pixel, {dark:.0%} of pixels below one)"
    )
    return f"noise: {text}: contrast is lost. Take noise: poisson, the default for electrons."


def _check_levels(run: RunAhead) -> str:
    """More coarse grids asked for than lose no light."""
    asked = run.job.recipe.levels or 0
    there = len(build_levels(run.job.finest, run.job.recipe)) - 1 if asked else 0
    if there >= asked:
        return ""
    return (
        f"levels: {asked} asked for, {there} can be used. A coarser grid would lose light, or get no epoch."
    )


def _check_planes(run: RunAhead) -> str:
    """One place seen in few planes along the beam, or in many by a probe that may be any wave."""
    return warn_of_ambiguity(run.job.recipe, run.scan, run.model, run.semiangle)


def _count_slices_and_states(run: RunAhead) -> tuple[int, int]:
    """Slices and states of the object."""
    states, slices = run.model.object.transmission().shape[:2]
    return slices, states


def _depth_of_focus(run: RunAhead) -> float:
    """Depth of focus of the probe, ``wavelength / semiangle^2``, angstrom."""
    return run.scan.window.wavelength / max(run.semiangle, 1e-9) ** 2


def _median_step(scan: Scan4D) -> float:
    """Median distance to the nearest other position, angstrom (0 when there is none)."""
    from scipy.spatial import KDTree

    places = np.unique(scan.positions.round(4), axis=0)
    if len(places) < 2:
        return 0.0
    return float(np.median(KDTree(places).query(places, k=2)[0][:, 1]))


def _power_at_border(wave: torch.Tensor) -> float:
    """Share of the power in the outermost sixteenth on each side."""
    light = wave.abs().square().sum(0)
    y, x = (max(1, n // 16) for n in light.shape)
    return 1 - float(light[y:-y, x:-x].sum() / light.sum())


def _distances_from_centre(light: np.ndarray, pixel: np.ndarray) -> np.ndarray:
    """Distance of each pixel from the middle of the light."""
    places = [np.arange(n) * p for n, p in zip(light.shape, pixel, strict=True)]
    middle = [(light.sum(1 - axis) * place).sum() / light.sum() for axis, place in enumerate(places)]
    return np.hypot((places[0] - middle[0])[:, None], (places[1] - middle[1])[None])


def _radius_holding(light: np.ndarray, away: np.ndarray, share: float) -> float:
    """Radius within which a share of the light lies."""
    order = np.argsort(away, axis=None)
    inside = np.cumsum(light.flat[order])
    return float(away.flat[order][min(np.searchsorted(inside, share * inside[-1]), light.size - 1)])


def _round(value: float) -> float:
    return float(f"{value:.3g}")


def _format_length(value: float) -> str:
    return LENGTH.show(_round(value))
