"""Orientation, magnification and distance of a near-field scan, found from its holograms.

What moves with the object moves by the steps of the scan over the object's pixel: cross-correlations of
holograms give the pixel, and with it the magnification. They tell apart all eight ways to lay the detector
against the scan: reversed positions have a twin in the far field, but not here. The power of the object's
hologram has rings of zeros where ``sin(pi wavelength z f^2) = 0`` (Thon rings): the distance ``z`` is that
under which a spectrum without rings, seen through the transfer of contrast, has the highest likelihood.

Source: contrast transfer of holograms: Cloetens et al. 1999, doi 10.1063/1.125225; likelihood of a
periodogram: Whittle 1953, doi 10.1007/BF02590998.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.fft
from jaxtyping import Bool, Complex, Float
from scipy import ndimage, optimize, spatial

from phaseloom.calibration.orientations import ORIENTATIONS, TWINS, lay_detector
from phaseloom.data import prepare
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.direct.holograms import Holograms, separate_scan, typical_light
from phaseloom.errors import BadInput
from phaseloom.spec import Call
from phaseloom.units import LENGTH

__all__ = [
    "ERRORS_OF_RANGE",
    "HologramOrientation",
    "NearFieldEstimate",
    "Range",
    "bound_distance",
    "compare_orientations",
    "estimate_near_field",
    "guess_focus",
    "is_distance_guessed",
    "is_distance_shown",
    "set_near_field",
]

Range = tuple[float, float, float]
"""A distance, and where its range begins and ends, angstrom."""

Rings = tuple[Float[np.ndarray, " ring"], Float[np.ndarray, " ring"], Float[np.ndarray, " ring"]]
"""Frequencies, mean power of the hologram on rings, and independent values on each."""

MAX_PATTERNS = 150
"""Patterns that magnification and distance are found from."""

MAX_SHIFT = 0.4
"""Share of a pattern's side by which holograms that are compared lie apart, at most."""

PARTNERS = 6
FINE_PARTNERS = 24
"""Holograms that each is compared with, the nearest ones; for the last digit, where errors of positions have
to average out over longer steps."""

SCALE_RANGE = 4.0
SCALE_STEPS = 101
"""Factors on either side of the stated pixel that are tried at first; the range grows at its end."""

MAX_SCALE_RANGE = 8.0

MIN_CORRELATION = 0.1
"""Mean correlation of shifted holograms, from which their shift is believed."""

MIN_CORRELATION_OF_FEW_COUNTS = 0.04
MIN_RATIO_OF_FEW_COUNTS = 4.0
"""The same where no other orientation comes near: those that are wrong tell what chance gives, and a few
counts a pixel leave little to correlate."""

MIN_FREQUENCY_OF_NOISE = 0.55
"""Cycles per pixel: the corners of the spectrum of holograms are counting noise, as the point spread and the
source leave nothing of the object there."""

MIN_RATIO_OF_ORIENTATION = 2.0
"""Times the correlation of any other orientation that the right one has."""

MAX_SCALE_OF_PARALLEL_BEAM = 1.15
SCALES_OF_PARALLEL_BEAM = 15
"""Errors of the pixel of a parallel beam that orientations are tried with: of the positions, then."""

MIN_COMMON_BEAM = 0.1
"""Part of the beam in common below which correlations are not raised further: they are noise."""

MIN_SCALE_ERROR = 0.01
"""Errors of the pixel below which the one stated is kept; a fit of positions corrects these."""

RATIOS_OF_RINGS = (0.0, 0.02, 0.1)
"""``beta / delta`` under which rings are fitted. Ten times as much moves the distance by 2 to 7 %."""

RING_STEP = 0.045
RING_RANGE = 1.45
MAX_RING_RANGE = 16.0
"""Steps of the logarithm of the distance, and factors on either side of the one stated, at first and at
most."""

NATS_OF_END = 6.0
"""Below the most likely distance by which the end of the range has to lie, or the range grows."""

RING_TEMPERATURE = 8.0
"""By which the likelihood is held back: powers of neighbouring rings have errors in common, and spectra of
objects are not as smooth as expected. Of 32 simulated scans errors were 1.28 times what they were said to be
with 3 and 1.04 times with 8; 23 and 29 distances were within 8 %, 29 with 15 and with 30, too."""

RING_ERROR = 0.03
"""Standard error of the logarithm of a distance by rings, at the least: of eleven simulated scans whose rings
were clear it was 0.027, stars apart."""

ERROR_OF_STATED = 0.1
"""Of the logarithm of a stated distance, with long tails."""

ERRORS_OF_RANGE = 2.0

MAX_ERROR_OF_SHOWN = 0.08
"""Half a range, in the logarithm, up to which holograms show their distance."""

MAX_CHANGE_NOT_SHOWN = 0.25
"""Change of a distance, in the logarithm, from which on it has to be shown: two and a half times what one
that is stated is taken to be known to. Smooth blobs under 1000 counts a pixel asked for 73 mm (61 to 87) in
place of 45."""

MIN_DISTANCE_ERROR = 0.02
"""Errors of the distance below which the one stated is kept."""


@dataclass(frozen=True)
class NearFieldEstimate:
    """What the holograms of a scan show of its geometry.

    Attributes:
        geometry: with the magnification and the distance found; as stated where nothing is.
        stated: what it was.
        scale: object pixel found over that stated; ``None``: not found.
        flight: range of effective distances that rings and the stated one allow, angstrom; ``None``: there
            is no spectrum to tell by.
        is_oriented: whether shifts of holograms agree with the positions in one orientation alone.
    """

    geometry: Geometry
    stated: Geometry
    scale: float | None
    flight: tuple[float, float] | None
    is_oriented: bool = False

    @property
    def is_changed(self) -> bool:
        """Whether it differs from what was stated."""
        return self.geometry != self.stated

    @property
    def is_shown(self) -> bool:
        """Whether the range of the distance is narrow enough to be believed."""
        return is_distance_shown(self.flight)

    def lines(self) -> list[str]:
        """What was found, in sentences."""
        out = []
        if self.scale is None:
            out.append("object pixel: the holograms do not show it; kept as stated")
        else:
            kind = "kept" if abs(self.scale - 1) < MIN_SCALE_ERROR else "corrected"
            out.append(f"object pixel: {LENGTH.show(_round(self.geometry.pixel[0]))} ({kind})")
        now = LENGTH.show(_round(self.geometry.flight))
        before = LENGTH.show(_round(self.stated.flight))
        if self.flight is None:
            out.append(f"effective distance: {before}, as stated: the holograms show nothing to check it by")
        else:
            low, high = (LENGTH.show(_round(one)) for one in self.flight)
            out.append(f"effective distance: {now} ({low} to {high}), stated {before}")
        return out


@dataclass(frozen=True)
class HologramOrientation:
    """How far shifted holograms agree with the positions, in each orientation of the detector.

    Attributes:
        correlations: mean correlation of holograms that are shifted as the positions say, at the pixel that
            agrees best; by the names of `phaseloom.calibration.orientations`.
    """

    correlations: dict[str, float]

    @property
    def best(self) -> str:
        """The one with the highest correlation."""
        return max(self.correlations, key=lambda name: self.correlations[name])

    @property
    def runner_up(self) -> float:
        """The highest correlation of another one."""
        return max(value for name, value in self.correlations.items() if name != self.best)

    @property
    def is_clear(self) -> bool:
        """Whether holograms show it, and no other comes near."""
        best, other = self.correlations[self.best], self.runner_up
        if best >= MIN_CORRELATION:
            return best >= MIN_RATIO_OF_ORIENTATION * other
        return best >= max(MIN_CORRELATION_OF_FEW_COUNTS, MIN_RATIO_OF_FEW_COUNTS * other)

    def steps(self) -> tuple[Call, ...]:
        """What has to be done to the scan; nothing where it is not clear."""
        way = self.best if self.is_clear else "as given"
        return tuple(Call(prepare.__name__, name, given) for name, given in (ORIENTATIONS | TWINS)[way])

    def line(self) -> str:
        """What was found, in a sentence."""
        if not self.is_clear:
            return "orientation: the holograms do not show it; kept as given"
        found = f"{self.correlations[self.best]:.2f}, of seven others {self.runner_up:.2f} at most"
        text = f"orientation: {self.best} (correlation of shifted holograms {found})"
        if self.best == "as given":
            return text
        reversed_ = ", or whether they are of the sample" if self.best == "turned by 180 degrees" else ""
        return f"{text}: check the axes of the positions{reversed_}"


def compare_orientations(scan: Scan4D, /) -> HologramOrientation:
    """Compare shifts of holograms with the positions in all eight orientations of the detector.

    The pixel may be wrong by a factor of up to `SCALE_RANGE`, that of a parallel beam by 15 %.

    Args:
        scan: near field.

    Raises:
        BadInput: a far field.
    """
    if not scan.geometry.near:
        raise BadInput("near field", None, "the scan is a far-field one: state its focus")
    few = _choose_patterns(replace(scan, modelled=None, heights=None))
    first, second, correlation = _correlate(few, PARTNERS)
    steps = few.positions[first] - few.positions[second]
    is_parallel = few.geometry.focus is None or math.isinf(few.geometry.focus)
    reach = MAX_SCALE_OF_PARALLEL_BEAM if is_parallel else SCALE_RANGE
    count = SCALES_OF_PARALLEL_BEAM if is_parallel else _count_steps(reach)
    scales = np.exp(np.linspace(-math.log(reach), math.log(reach), count))
    found = {}
    for name in (*ORIENTATIONS, *TWINS):
        matrix = lay_detector(name).T
        pixel = few.geometry.pixel if abs(matrix[0, 0]) > 0 else few.geometry.pixel[::-1]
        shifts = steps / np.array(pixel) @ matrix  # of the patterns as they are
        found[name] = max(_sample(correlation, shifts / scale) for scale in scales)
    return HologramOrientation(found)


def _round(value: float) -> float:
    return float(f"{value:.4g}")


def set_near_field(geometry: Geometry, pixel: float, flight: float, /) -> Geometry:
    """The geometry with an object pixel and an effective distance, the detector's pixels being what they are.

    A parallel beam keeps its pixels.

    Example:
        >>> cone = Geometry(wavelength=1.0, shape=(8, 8), angle=(1e-4, 1e-4), distance=1e10, focus=1e8)
        >>> found = set_near_field(cone, 1.1 * cone.pixel[0], 0.9 * cone.flight)
        >>> round(found.pixel[0] / cone.pixel[0], 6), round(found.flight / cone.flight, 6)
        (1.1, 0.9)
    """
    assert geometry.distance is not None
    assert geometry.focus is not None
    own = geometry.angle[0] * geometry.distance
    magnification = (
        1.0 if math.isinf(geometry.focus) else own / pixel * math.copysign(1, geometry.magnification)
    )
    distance = flight * magnification
    angle = tuple(a * geometry.distance / distance for a in geometry.angle)
    focus = math.inf if math.isinf(geometry.focus) else distance / (magnification - 1)
    return replace(geometry, distance=distance, angle=(angle[0], angle[1]), focus=focus)


def estimate_near_field(
    scan: Scan4D, /, *, magnification: bool = True, least: float = MIN_CORRELATION
) -> NearFieldEstimate:
    """Find the magnification of a cone beam and the effective distance from the holograms.

    Args:
        scan: near field.
        magnification: whether to look for it; that of a parallel beam is one.
        least: mean correlation of shifted holograms from which their shift is believed.

    Raises:
        BadInput: a far field.
    """
    stated = scan.geometry
    if not stated.near:
        raise BadInput("near field", None, "the scan is a far-field one: state its focus")
    few = _choose_patterns(replace(scan, modelled=None, heights=None))
    is_cone = stated.focus is not None and not math.isinf(stated.focus)
    scale = _find_scale(few, least=least) if magnification and is_cone else None
    geometry = stated
    if scale is not None and abs(scale - 1) > MIN_SCALE_ERROR:
        geometry = set_near_field(stated, stated.pixel[0] * scale, stated.flight * scale)
    error = ERROR_OF_STATED
    if scale is not None and (flight := _average_stated(geometry, stated)) is not None:
        geometry = set_near_field(geometry, geometry.pixel[0], flight)
        error /= math.sqrt(2)
    # not the straightened hologram: interpolation changes its spectrum
    own = separate_scan(replace(few, geometry=geometry), has_displacement=False)
    rings = _find_flight(own, geometry, error)
    if rings is not None:
        best, low, high = rings
        if abs(math.log(best / geometry.flight)) > MIN_DISTANCE_ERROR:
            geometry = set_near_field(geometry, geometry.pixel[0], best)
        return NearFieldEstimate(geometry, stated, scale, (low, high))
    return NearFieldEstimate(geometry, stated, scale, None)


def _average_stated(geometry: Geometry, stated: Geometry) -> float | None:
    """The effective distance by stated distance and stated focus, once the magnification is known.

    Each tells it alone, with an error of its own: their geometric mean is off by less.
    """
    assert stated.focus is not None
    factor = 1 - 1 / geometry.magnification
    by_distance, by_focus = geometry.flight, stated.focus * factor
    return math.sqrt(by_distance * by_focus) if by_distance > 0 and by_focus > 0 else None


def guess_focus(scan: Scan4D, /) -> float | None:
    """The focus at which steps of holograms and positions agree, angstrom; ``inf``: of a parallel beam.

    Args:
        scan: with any focus; its distance is believed.

    Returns:
        ``None`` where the holograms do not show it.
    """
    few = _choose_patterns(replace(scan, modelled=None, heights=None))
    parallel = replace(few, geometry=replace(few.geometry, focus=math.inf))
    scale = _find_scale(parallel, widest=1e4)
    if scale is None:
        return None
    if abs(scale - 1) < 0.03 or scale > 1:
        return math.inf
    assert few.geometry.distance is not None
    return few.geometry.distance / (1 / scale - 1)


def _choose_patterns(scan: Scan4D) -> Scan4D:
    few = scan if len(scan) <= MAX_PATTERNS else scan.select(np.arange(len(scan))[:MAX_PATTERNS])
    return replace(few, counts=np.asarray(few.counts[np.arange(len(few))]))


def _find_scale(
    scan: Scan4D, widest: float = MAX_SCALE_RANGE, least: float = MIN_CORRELATION
) -> float | None:
    """Object pixel by the shifts of holograms over that of the geometry; ``None`` where it is not clear."""
    height = _correlation_at(scan, PARTNERS)

    reach = SCALE_RANGE
    while True:
        scales = np.exp(np.linspace(-math.log(reach), math.log(reach), _count_steps(reach)))
        heights = np.array([height(one) for one in scales])
        best = int(heights.argmax())
        if 2 < best < len(scales) - 3 or reach >= widest:
            break
        reach = min(reach**2, widest)
    if heights[best] < least or best in (0, len(scales) - 1):
        return None
    height = _correlation_at(scan, FINE_PARTNERS, is_even=True)
    near = np.exp(math.log(scales[best]) + np.linspace(-0.2, 0.2, 41))
    best = int(np.argmax([height(one) for one in near]))
    found = optimize.minimize_scalar(
        lambda one: -height(math.exp(one)),
        bounds=(math.log(near[best]) - 0.01, math.log(near[best]) + 0.01),
        method="bounded",
    )
    return float(math.exp(found.x))


def _correlation_at(scan: Scan4D, partners: int, *, is_even: bool = False) -> Callable[[float], float]:
    """Mean correlation of pairs of holograms as a function of the object pixel over that of the geometry.

    Args:
        scan: near field.
        partners: neighbours of each hologram.
        is_even: divide by the part of the beam that two holograms at a shift have in common. Without it
            peaks of a beam that ends inside the detector lie nearer to no shift, by the square of their
            width over that of the beam: pixels came out 4 % too large.
    """
    first, second, correlation = _correlate(scan, partners)
    if is_even:
        correlation /= np.maximum(_correlate_beam(scan), MIN_COMMON_BEAM)
    steps = (scan.positions[first] - scan.positions[second]) / np.array(scan.geometry.pixel)
    return lambda scale: _sample(correlation, steps / scale)


def _count_steps(reach: float) -> int:
    return 2 * math.ceil(SCALE_STEPS / 2 * math.log(reach) / math.log(SCALE_RANGE)) + 1


def _correlate(scan: Scan4D, partners: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of holograms and their cross-correlations, zero shift in the middle."""
    counts = np.asarray(scan.counts, np.float64)
    mean = counts.mean(0)
    lit = _find_lit(mean, scan.mask)
    contrast = np.where(lit, (counts - mean) / np.sqrt(mean + 1), 0)
    contrast = contrast - ndimage.gaussian_filter(contrast, (0, 8, 8))
    first, second = zip(*_list_pairs(scan, partners), strict=True)
    spectra = _filter_noise(np.asarray(scipy.fft.fft2(contrast)))
    product = spectra[list(first)].conj() * spectra[list(second)]
    whole = np.asarray(scipy.fft.fftshift(np.real(np.asarray(scipy.fft.ifft2(product))), axes=(-2, -1)))
    norm = np.sqrt((abs(spectra) ** 2).mean((1, 2)))
    whole /= (norm[list(first)] * norm[list(second)])[:, None, None] + 1e-30
    return np.array(first), np.array(second), whole


def _find_lit(mean: Float[np.ndarray, "y x"], mask: Bool[np.ndarray, "y x"]) -> Bool[np.ndarray, "y x"]:
    """Where the beam is, by the mean hologram."""
    return mask & (mean > 0.05 * np.percentile(mean, 99))


def _correlate_beam(scan: Scan4D) -> Float[np.ndarray, "y x"]:
    """Part of the beam that two holograms have in common, by their shift, as in `_correlate`."""
    mean = np.asarray(scan.counts, np.float64).mean(0)
    lit = _find_lit(mean, scan.mask)
    power = abs(np.asarray(scipy.fft.fft2(np.where(lit, np.sqrt(mean.clip(0)), 0)))) ** 2
    common = np.asarray(scipy.fft.fftshift(np.real(np.asarray(scipy.fft.ifft2(power)))))
    return common / common.max()


def _filter_noise(spectra: Complex[np.ndarray, "n y x"]) -> Complex[np.ndarray, "n y x"]:
    """Spectra weighted by the share of their power that is not noise, which is the level of the corners."""
    rows, columns = (scipy.fft.fftfreq(n) for n in spectra.shape[1:])
    radius = np.hypot(rows[:, None], columns[None])
    ring = np.round(radius * max(radius.shape)).astype(int).ravel()
    power = (abs(spectra) ** 2).mean(0)
    mean = np.bincount(ring, power.ravel()) / np.maximum(np.bincount(ring), 1)
    noise = float(np.median(power[radius > MIN_FREQUENCY_OF_NOISE]))
    share = 1 - noise / np.maximum(ndimage.gaussian_filter(mean, 1), 1e-30)
    return spectra * np.sqrt(share.clip(0, 1))[ring].reshape(radius.shape)


def _list_pairs(scan: Scan4D, partners: int) -> Iterator[tuple[int, int]]:
    """Neighbours, each with a few others."""
    tree = spatial.KDTree(scan.positions)
    count = min(partners + 1, len(scan))
    for one, others in enumerate(np.reshape(tree.query(scan.positions, count)[1], (-1, count)).tolist()):
        for other in others[1:]:
            if other > one:
                yield one, other


def _sample(correlation: np.ndarray, shifts: Float[np.ndarray, "n 2"]) -> float:
    """Mean correlation at shifts, which are bounded to `MAX_SHIFT` of a side."""
    size = np.array(correlation.shape[1:])
    inside = (abs(shifts) < MAX_SHIFT * size).all(1)
    if inside.sum() < max(4, 0.1 * len(shifts)):
        return 0.0
    at = shifts[inside] + size // 2
    number = np.flatnonzero(inside)
    return float(ndimage.map_coordinates(correlation, [number, at[:, 0], at[:, 1]], order=1).mean())


def _find_flight(own: Holograms, geometry: Geometry, stated: float) -> tuple[float, float, float] | None:
    """Effective distance and its range by the rings of the hologram's power and by what was stated.

    The latter has an error of ``stated`` in its logarithm.

    The posterior of the distance, over ratios of absorption; the range grows while its end has weight.
    """
    rings = _measure_rings(own)
    if len(rings[0]) < 8:
        return None
    limit = round(math.log(MAX_RING_RANGE) / RING_STEP)
    first, last = (round(way * math.log(RING_RANGE) / RING_STEP) for way in (-1, 1))
    known: dict[int, float] = {}
    while True:
        for step in range(first, last + 1):
            if step not in known:
                flight = geometry.flight * math.exp(RING_STEP * step)
                known[step] = _ring_evidence(rings, geometry.wavelength * flight)
        logs = RING_STEP * np.array(sorted(known))
        evidence = np.array([known[step] for step in sorted(known)])
        weight = evidence / RING_TEMPERATURE - _surprise(logs, stated)
        ends = [weight[0] > weight.max() - NATS_OF_END, weight[-1] > weight.max() - NATS_OF_END]
        if not any(ends) or max(-first, last) >= limit:
            break
        reach = math.ceil(1.5 * max(-first, last))
        first, last = (-min(reach, limit) if ends[0] else first), (min(reach, limit) if ends[1] else last)
    return _summarise_posterior(geometry.flight, logs, weight)


def _summarise_posterior(flight: float, logs: np.ndarray, weight: np.ndarray) -> Range:
    """Mean and range of two standard errors, angstrom, of the logarithm of a posterior on equal steps."""
    from scipy.interpolate import PchipInterpolator  # takes long to import

    fine = np.arange(logs[0], logs[-1] + 1e-9, RING_STEP / 20)
    share = np.exp(np.minimum(PchipInterpolator(logs, weight)(fine) - weight.max(), 0))
    share /= share.sum()
    mean = float(share @ fine)
    error = ERRORS_OF_RANGE * math.hypot(math.sqrt(float(share @ (fine - mean) ** 2)), RING_ERROR)
    return bound_distance(flight * math.exp(mean), error)


def is_distance_shown(limits: Sequence[float] | None, /) -> bool:
    """Whether the range of a distance is narrow enough to be believed; ``None``: nothing is known.

    Example:
        >>> is_distance_shown((0.95, 1.05)), is_distance_shown((0.85, 1.15))
        (True, False)
    """
    return limits is not None and math.log(limits[1] / limits[0]) < 2 * MAX_ERROR_OF_SHOWN


def is_distance_guessed(factor: float, limits: Sequence[float] | None, /) -> bool:
    """Whether holograms want a distance far from the one stated without showing it.

    Args:
        factor: distance that they want over the one stated.
        limits: range of the distance; ``None``: nothing is known.

    Example:
        >>> is_distance_guessed(1.6, (0.6, 0.9)), is_distance_guessed(1.1, (0.6, 0.9))
        (True, False)
        >>> is_distance_guessed(1.6, (0.95, 1.05))
        False
    """
    return abs(math.log(factor)) > MAX_CHANGE_NOT_SHOWN and not is_distance_shown(limits)


def bound_distance(best: float, error: float, /) -> Range:
    """A distance with the ends of its range, which lie so far off on either side in the logarithm.

    Args:
        best: the distance.
        error: half the range.

    Example:
        >>> [round(one, 2) for one in bound_distance(10.0, math.log(1.25))]
        [10.0, 8.0, 12.5]
    """
    return best, best * math.exp(-error), best * math.exp(error)


def _surprise(logs: np.ndarray, error: float) -> np.ndarray:
    """Minus the logarithm of what is expected of the distance over that stated: a t distribution."""
    freedom = 8
    return (freedom + 1) / 2 * np.log1p((logs / error) ** 2 / freedom)


def _ring_evidence(rings: Rings, reach: float) -> float:
    """Logarithm of the likelihood of a distance times wavelength, mean over ratios of absorption."""
    return float(np.logaddexp.reduce([_ring_likelihood(rings, reach, ratio) for ratio in RATIOS_OF_RINGS]))


def _measure_rings(own: Holograms) -> Rings:
    """Frequencies, mean power of the hologram on rings, and independent values on each."""
    bright = own.light > 0.25 * typical_light(own.light)
    inside = ndimage.binary_erosion(bright, iterations=8)
    taper = ndimage.gaussian_filter(inside.astype(float), 4)
    level = (own.hologram * taper).sum() / max(taper.sum(), 1e-30)
    power = np.abs(np.asarray(scipy.fft.fft2((own.hologram - level) * taper))) ** 2 / max(
        (taper**2).sum(), 1e-30
    )
    shape, pixel = own.hologram.shape, own.canvas.pixel
    rows, columns = (scipy.fft.fftfreq(n, p) for n, p in zip(shape, pixel, strict=True))
    width = 1 / (max(shape) * max(pixel))
    ring = np.round(np.hypot(rows[:, None], columns[None]) / width).astype(int).ravel()
    last = int(0.5 / max(pixel) / width)
    members = np.bincount(ring)[:last]
    mean = np.bincount(ring, power.ravel())[:last] / np.maximum(members, 1)
    free = members * (taper**2).mean() / 2
    return (np.arange(last) * width)[2:], mean[2:], free[2:]


def _ring_likelihood(rings: Rings, reach: float, ratio: float) -> float:
    """Logarithm of the likelihood of ring powers: a damped power law through the transfer, over noise."""
    frequency, power, count = rings
    chi = math.pi * reach * frequency**2
    transfer = (np.sin(chi) + ratio * np.cos(chi)) ** 2 + 0.01  # zeros are filled a little
    place = frequency / frequency[-1]
    logs = np.log(place)

    def cost(values: np.ndarray) -> float:
        strength, slope, damping, noise = values
        curve = np.exp(strength - math.exp(slope) * logs - math.exp(damping) * place**2)
        expected = curve * transfer + math.exp(noise)
        fit = float((count * (power / expected + np.log(expected))).sum() / count.sum())
        return fit + 1e-3 * ((slope - math.log(3)) ** 2 + damping**2)

    start = [
        math.log(power[len(power) // 2] + 1e-30),
        math.log(3),
        0.0,
        math.log(power[-5:].mean() / 2 + 1e-30),
    ]
    bounds = [(-40, 40), (-2, 2), (-4, 3), (-40, 20)]
    flat = [start[0], math.log(1.5), *start[2:]]  # one start alone ends in a side minimum now and then
    fun = min(optimize.minimize(cost, one, method="L-BFGS-B", bounds=bounds).fun for one in (start, flat))
    return -float(fun) * float(count.sum())
