"""What a scan is like and what will go wrong with it, before an hour is spent on a reconstruction."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from phaseloom.data.beam_width import d4sigma, widest
from phaseloom.data.scan import Scan4D
from phaseloom.units import ENERGY, LENGTH

__all__ = ["Finding", "inspect"]

Level = Literal["good", "note", "warn", "bad"]
MOST = 500
"""Patterns that are read."""


@dataclass(frozen=True)
class Finding:
    """One property of a scan, how good it is, and what to do about it."""

    name: str
    value: str
    level: Level
    advice: str


def inspect(scan: Scan4D, /) -> list[Finding]:
    """Findings on counts, sampling, overlap, dose, detector and positions; reads at most 500 patterns.

    The diameter of the beam is four times the standard deviation of its intensity (D4 sigma, the
    diameter of an evenly lit disk), if a probe came with the data, and that of the mean pattern in the
    near field. Otherwise the speckles tell it: the inverse transform of what a pattern has beyond the
    mean pattern is an autocorrelation of the exit wave, which reaches as far as the beam is wide. Its
    reach is where the radial mean of its square falls below a thousandth, or into shot noise; a beam
    with faint tails, a smooth object or few counts make it too small (by a quarter on a real scan).

    Example:
        >>> from phaseloom.data.scan import Geometry
        >>> geometry = Geometry(wavelength=0.0197, shape=(8, 8), angle=(1e-3, 1e-3), beam="electron")
        >>> scan = Scan4D(counts=np.ones((2, 8, 8)), positions=np.eye(2), geometry=geometry)
        >>> inspect(scan)[0].value
        '2 patterns of 8 x 8 pixels, float64'
    """
    survey = _Survey(scan)
    checks: tuple[Callable[[_Survey], Finding | None], ...] = (
        *(_counts, _beam, _pixel, _field, _overlap, _dose, _dead, _hot, _saturated, _centre),
        *(
            _sampling,
            _window,
            _flight,
            _duplicates,
            _raster,
            _extent,
            _heights,
            _orientation,
            _mask,
            _background,
        ),
    )
    return [finding for check in checks if (finding := check(survey)) is not None]


class _Survey:
    """A scan and what several checks need to know of it, computed when first asked for."""

    def __init__(self, scan: Scan4D):
        self.scan = scan
        n = len(scan)
        index = np.unique(np.linspace(0, n - 1, min(n, MOST)).round().astype(int))
        self.read = len(index)
        shape = scan.geometry.shape
        self.mean, self.speckle, self.totals = np.zeros(shape), np.zeros(shape), np.zeros(0)
        self.highest, self.near_highest, self.at_highest = 0.0, 0, 0
        self.scaled, self.quantum = False, 0
        for start in range(0, self.read, 64):
            self._add(scan.counts[index[start : start + 64]].astype(np.float64) * scan.mask)
        self.mean /= self.read
        for start in range(0, self.read, 64):
            stack = scan.counts[index[start : start + 64]] * scan.mask
            self.at_highest += int((stack == self.highest).sum())
            self.near_highest += int((stack >= 0.9 * self.highest).sum())
            some = stack - self.mean * scan.mask
            self.speckle += (abs(np.fft.ifft2(some, norm="ortho")) ** 2).sum(0)
        self.speckle = np.fft.fftshift(self.speckle / self.read)

    def _add(self, stack: np.ndarray) -> None:
        self.mean += stack.sum(0)
        self.scaled = self.scaled or bool((np.abs(stack[:4] - np.round(stack[:4])) > 1e-3).any())
        if self.quantum != 1 and not self.scaled and np.abs(stack[:4]).max(initial=0) < 2**53:
            self.quantum = int(np.gcd.reduce(np.append(np.round(stack[:4]).astype(np.int64), self.quantum)))
        self.totals = np.append(self.totals, stack.sum((1, 2)))
        self.highest = max(self.highest, float(stack.max()))

    @cached_property
    def diameter(self) -> float | None:
        """Of the beam on the object, angstrom; ``None`` where the speckles drown in noise."""
        pixel = np.asarray(self.scan.geometry.pixel)
        if self.scan.probe is not None:
            return d4sigma((abs(self.scan.probe) ** 2).sum(0), pixel)
        if self.scan.geometry.near:
            return d4sigma(self.mean, pixel)
        return self._speckled(pixel)

    def _speckled(self, pixel: np.ndarray) -> float | None:
        noise, shape = float(self.mean.mean()), self.speckle.shape
        y, x = ((np.arange(n) - n // 2) * p for n, p in zip(shape, pixel, strict=True))
        ring = (np.hypot(y[:, None], x[None, :]) / pixel.max()).round().astype(int).ravel()
        members = np.maximum(np.bincount(ring), 1)
        profile = (np.bincount(ring, self.speckle.ravel()) / members - noise)[1 : min(shape) // 2]
        spread = noise / np.sqrt(self.read * members[1 : min(shape) // 2] / 2)
        if profile.size == 0 or not profile.max() > 0.1 * noise:
            return None
        above = profile > np.maximum(1e-3 * profile.max(), 3 * spread)
        # An autocorrelation that reaches the edge says no more than "over half of the window".
        return float(pixel.max() * (above.size + 2 if above.all() else above.argmin())) or None

    @cached_property
    def step(self) -> float:
        """Median distance to the nearest other position, angstrom (0 for a single one)."""
        where = self.scan.positions
        some = where[np.linspace(0, len(where) - 1, min(len(where), MOST)).astype(int)]
        nearest = []
        for point in some:
            away = np.hypot(*(where - point).T)
            away = away[away > 1e-6]
            nearest.append(away.min() if away.size else 0.0)
        return float(np.median(nearest))


def _counts(survey: _Survey) -> Finding:
    n, y, x = survey.scan.counts.shape
    text = f"{n} patterns of {y} x {x} pixels, {survey.scan.counts.dtype}"
    if survey.highest <= 0:
        return Finding("counts", text, "bad", "Every good pixel is zero: check the data set and the mask.")
    if survey.scaled:
        advice = "The values are not whole numbers, so not counts: scale them, or do not trust a loss of 1."
        return Finding("counts", text, "warn", advice)
    if (one := survey.quantum) > 1:
        step = f"[{{normalise: {{by: divide, value: {one}}}}}]"
        advice = f"A quantum counts as {one}: divide by it (prepare: {step})."
        return Finding("counts", f"{text}, all multiples of {one}", "warn", advice)
    return Finding("counts", text, "good", "")


def _beam(survey: _Survey) -> Finding:
    geometry = survey.scan.geometry
    energy, wavelength = ENERGY.show(geometry.energy), LENGTH.show(geometry.wavelength)
    low, high = (1e4, 2e6) if geometry.beam == "electron" else (10, 2e5)
    usual = low <= geometry.energy <= high
    advice = "" if usual else f"The energy is unusual for {geometry.beam}s: check its unit."
    return Finding(
        "beam", f"{geometry.beam} {energy}, wavelength {wavelength}", "good" if usual else "warn", advice
    )


def _pixel(survey: _Survey) -> Finding:
    y, x = survey.scan.geometry.pixel
    text = f"{LENGTH.show(y)} x {LENGTH.show(x)}"
    if min(y, x) < survey.scan.geometry.wavelength / 2:
        advice = "The object pixel is below half the wavelength: check distance, pixel size and energy."
        return Finding("object pixel", text, "bad", advice)
    return Finding("object pixel", text, "good", "")


def _field(survey: _Survey) -> Finding:
    scan = survey.scan
    scanned = " x ".join(LENGTH.show(length) for length in scan.extent)
    window = " x ".join(
        LENGTH.show(n * p) for n, p in zip(scan.geometry.shape, scan.geometry.pixel, strict=True)
    )
    return Finding("field of view", f"{scanned} scanned, window {window}", "good", "")


def _overlap(survey: _Survey) -> Finding | None:
    diameter, step = survey.diameter, survey.step
    if step == 0:
        return None
    if not diameter:
        advice = "The beam's size cannot be told from noisy patterns: compare the step with it yourself."
        return Finding("overlap", f"step {LENGTH.show(step)}", "note", advice)
    linear = max(0.0, 1 - step / diameter)
    height, width = (length + diameter for length in survey.scan.extent)
    times = len(survey.scan) * np.pi * diameter**2 / 4 / (height * width)
    beam = LENGTH.show(float(f"{diameter:.3g}"))
    text = f"{linear:.0%} linear, {times:.3g} patterns on each place (beam {beam})"
    if linear >= 0.6:
        return Finding("overlap", text, "good", "")
    advice = (
        "Neighbouring beams overlap little: scan with smaller steps, or with a wider beam (more defocus)."
        if linear > 0
        else "Neighbouring beams do not touch: check the unit of the positions, then the step."
    )
    return Finding("overlap", text, "warn" if linear >= 0.3 else "bad", advice)


def _dose(survey: _Survey) -> Finding:
    scan, mean = survey.scan, float(survey.totals.mean())
    height, width = (max(length, survey.step) or survey.step or 1.0 for length in scan.extent)
    area = mean * len(scan) / (height * width)
    small = scan.geometry.beam == "electron"
    per_area = f"{area:.3g} per A^2" if small else f"{area * 1e8:.3g} per um^2"
    text = f"{mean:.4g} counts per pattern, {per_area}"
    if mean < 100:
        advice = "There are few counts: use a Poisson noise model, and few probe modes."
        return Finding("dose", text, "warn", advice)
    changes = survey.totals.std() / mean
    if changes > 0.3:
        advice = "The counts change much from pattern to pattern: let the fit learn a weight for each."
        return Finding("dose", f"{text}, changing by {changes:.0%}", "note", advice)
    return Finding("dose", text, "good", "")


def _around(image: np.ndarray) -> np.ndarray:
    """The eight neighbours of each pixel, NaN beyond the edge."""
    wide = np.pad(image, 1, constant_values=np.nan)
    rows, columns = image.shape
    places = [(j, i) for j in range(3) for i in range(3) if (j, i) != (1, 1)]
    return np.stack([wide[j : j + rows, i : i + columns] for j, i in places])


def _dead(survey: _Survey) -> Finding:
    image = np.where(survey.scan.mask, survey.mean, np.nan)
    median = np.nanmedian(_filled(_around(image)), axis=0)
    dead = (survey.mean == 0) & survey.scan.mask & (median * survey.read > 12)
    advice = "Pixels without counts lie among lit ones: mask them."
    return _count_of("dead pixels", int(dead.sum()), advice)


def _hot(survey: _Survey) -> Finding:
    image = np.where(survey.scan.mask, survey.mean, np.nan) * survey.read
    around = _filled(_around(image))
    hot = (image > 10 * np.median(around, axis=0) + 50) & (image > 4 * around.max(0)) & survey.scan.mask
    middle = np.unravel_index(survey.mean.argmax(), hot.shape) if not survey.scan.geometry.near else None
    zero = tuple(n // 2 for n in hot.shape)
    if middle is not None and max(abs(int(m) - z) for m, z in zip(middle, zero, strict=True)) <= 2:
        hot[middle] &= _level(image, *map(int, middle))  # an unscattered beam may well be one pixel wide
    return _count_of(
        "hot pixels",
        int(hot.sum()),
        "Single pixels outshine all their neighbours: mask them (prepare: mask).",
    )


def _level(image: np.ndarray, y: int, x: int) -> bool:
    """Whether the surroundings of a pixel are as bright two pixels away as next to it: a disk, no tail."""
    part = np.pad(image, 2, constant_values=np.nan)[y : y + 5, x : x + 5]
    near = np.zeros((5, 5), bool)
    near[1:4, 1:4] = True
    far = ~near
    near[2, 2] = False
    return bool(np.nanmedian(part[far]) > 0.5 * np.nanmedian(part[near]))


def _filled(around: np.ndarray) -> np.ndarray:
    return np.nan_to_num(around, nan=0.0)


def _count_of(name: str, count: int, advice: str) -> Finding:
    return Finding(name, str(count), "warn" if count else "good", advice if count else "")


def _saturated(survey: _Survey) -> Finding:
    many = survey.at_highest >= 5 and survey.at_highest >= 0.5 * survey.near_highest
    if survey.highest >= 200 and many and survey.near_highest < 0.5 * survey.mean.size * survey.read:
        advice = f"Many pixels stop at the same value: mask those that reach {survey.highest:g} (saturated)."
        return Finding(
            "saturated pixels", f"{survey.at_highest} values of {survey.highest:g}", "warn", advice
        )
    return Finding("saturated pixels", "none", "good", "")


def _centre(survey: _Survey) -> Finding | None:
    """Whether the mean pattern lies around pixel ``[N // 2, N // 2]``, as every model assumes."""
    geometry, light = survey.scan.geometry, survey.mean * survey.scan.mask
    if geometry.near or not light.sum() > 0:
        return None
    light = np.clip(light - np.median(light), 0, None)
    total = max(float(light.sum()), 1e-30)
    middle = [float((light.sum(1 - axis) * np.arange(n)).sum() / total) for axis, n in enumerate(light.shape)]
    off = [m - n // 2 for m, n in zip(middle, light.shape, strict=True)]
    text = f"middle of the mean pattern off by {off[0]:+.1f}, {off[1]:+.1f} pixels"
    if max(map(abs, off)) < max(1.5, 0.03 * min(light.shape)):
        return Finding("centre", text, "good", "")
    advice = "The patterns are not centred, which tilts the phase: centre them (prepare: center)."
    return Finding("centre", text, "warn", advice)


def _sampling(survey: _Survey) -> Finding | None:
    if survey.scan.geometry.near:
        return None
    good = survey.scan.mask.copy()
    edge = np.ones_like(good)
    edge[1:-1, 1:-1] = False
    if not (edge & good).any() or not survey.mean.any():
        return None
    ratio = float(survey.mean[edge & good].mean() / survey.mean[good].mean())
    text = f"edge has {ratio:.2g} of the mean intensity"
    if ratio < 0.3:
        return Finding("detector", text, "good", "")
    advice = "The pattern fills the detector, so fine details are lost or aliased: move it nearer, or pad."
    return Finding("detector", text, "warn", advice)


def _window(survey: _Survey) -> Finding | None:
    geometry, along = survey.scan.geometry, widest(survey.scan)
    if geometry.near or not survey.diameter:
        return None
    window = min(n * p for n, p in zip(geometry.shape, geometry.pixel, strict=True))
    part = (along or survey.diameter) / window
    text = f"beam fills {part:.0%} of the window" + (" at its widest" if along else "")
    if part <= 0.5:
        return Finding("window", text, "good", "")
    advice = "The beam nearly fills its window and wraps round: bin less, or defocus less."
    return Finding("window", text, "warn" if part < 0.7 else "bad", advice)


def _flight(survey: _Survey) -> Finding | None:
    geometry = survey.scan.geometry
    if not geometry.near:
        return None
    limit = min(n * p * p for n, p in zip(geometry.shape, geometry.pixel, strict=True)) / geometry.wavelength
    text = f"{LENGTH.show(geometry.flight)} of at most {LENGTH.show(limit)}"
    text += f", magnification {geometry.magnification:.4g}"
    if abs(geometry.flight) <= limit:
        return Finding("propagation", text, "good", "")
    advice = "The propagation is too long for this window: pad it, or check focus and distance."
    return Finding("propagation", text, "warn", advice)


def _duplicates(survey: _Survey) -> Finding:
    scan = survey.scan
    heights = np.zeros(len(scan)) if scan.heights is None else scan.heights
    places = np.column_stack([scan.positions, heights])
    again = len(scan) - len(np.unique(places.round(4), axis=0))
    if again == len(scan) - 1 and again:
        return Finding(
            "positions", "all the same", "bad", "Every pattern has the same position: check the positions."
        )
    advice = "Some positions occur more than once: fine for repeated shots, else a sign of a stuck stage."
    return Finding("positions", f"{again} repeated", "note" if again else "good", advice if again else "")


def _raster(survey: _Survey) -> Finding | None:
    where, step = survey.scan.positions, survey.step
    if len(where) < 9 or step == 0:
        return None
    lines = [len(np.unique((axis / step).round(3))) for axis in where.T]
    if lines[0] * lines[1] > 1.2 * len(where) or min(lines) < 2:
        return Finding("raster", "irregular", "good", "")
    advice = "A perfect raster leaves a grid in the picture: learn the positions, or scan a spiral."
    return Finding("raster", f"perfect, {lines[0]} x {lines[1]}", "note", advice)


def _extent(survey: _Survey) -> Finding | None:
    scan = survey.scan
    largest, pixel = max(scan.extent), min(scan.geometry.pixel)
    if len(scan) < 2 or scan.heights is not None:
        return None
    across = largest / pixel
    if 1 <= across <= 1e5:
        return Finding("extent", f"{across:.4g} object pixels", "good", "")
    advice = (
        "The scanned field does not fit the object pixel: check the units of positions, distance and energy."
    )
    return Finding("extent", f"{across:.3g} object pixels", "bad", advice)


def _heights(survey: _Survey) -> Finding | None:
    scan = survey.scan
    if scan.heights is None:
        return None
    text = f"vary by {LENGTH.show(float(np.ptp(scan.heights)))} along the beam"
    if scan.geometry.near and np.isfinite(scan.geometry.focus or 0):
        advice = "In a cone beam heights are kept but not modelled: select patterns of one height."
        return Finding("heights", text, "warn", advice)
    advice = "They are modelled where they differ by a tenth of the depth of focus (axial: false does not)."
    return Finding("heights", text, "note", advice)


def _orientation(survey: _Survey) -> Finding:
    if survey.scan.oriented:
        return Finding("orientation", "known", "good", "")
    advice = (
        "The file does not say how the detector lies against the scan: the automatic start tries four ways."
    )
    return Finding("orientation", "unknown", "note", advice)


def _mask(survey: _Survey) -> Finding:
    part = 1 - float(survey.scan.mask.mean())
    level: Level = "good" if part < 0.1 else "note" if part < 0.5 else "warn"
    advice = "" if level == "good" else "Much of the detector is masked: check that the mask is meant so."
    return Finding("masked", f"{part:.1%}", level, advice)


def _background(survey: _Survey) -> Finding:
    background = survey.scan.background
    if background is None:
        return Finding("background", "none", "good", "")
    total = float(background[survey.scan.mask].sum())
    part = total / max(float(survey.totals.mean()), 1e-30)
    advice = "" if part < 0.5 else "The background holds most of the counts: check that it is of one pattern."
    return Finding("background", f"{part:.1%} of the counts", "good" if part < 0.5 else "warn", advice)
