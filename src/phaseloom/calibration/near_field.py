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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import scipy.fft
from jaxtyping import Float
from scipy import ndimage, optimize, spatial

from phaseloom.calibration.orientations import ORIENTATIONS, TWINS
from phaseloom.data import prepare
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.direct.holograms import Holograms, separate_scan, typical_light
from phaseloom.errors import BadInput
from phaseloom.spec import Call
from phaseloom.units import LENGTH

__all__ = [
    "HologramOrientation",
    "NearFieldEstimate",
    "compare_orientations",
    "estimate_near_field",
    "guess_focus",
    "set_near_field",
]

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
"""Mean correlation of shifted holograms, from which their shift is believed; wrong ones have 0.03 or less."""

MIN_RATIO_OF_ORIENTATION = 2.0
"""Times the correlation of any other orientation that the right one has."""

MAX_SCALE_OF_PARALLEL_BEAM = 1.15
SCALES_OF_PARALLEL_BEAM = 15
"""Errors of the pixel of a parallel beam that orientations are tried with: of the positions, then."""

MIN_SCALE_ERROR = 0.01
"""Errors of the pixel below which the one stated is kept; a fit of positions corrects these."""

USUAL_RATIO = 0.02
"""``beta / delta`` under which rings are fitted. Ten times as much moves the distance by 2 to 7 %."""

RING_RANGE = 1.6
RING_STEPS = 49
MAX_RING_RANGE = 16.0
"""Factors on either side of the stated distance, as for the scale."""

NATS_OF_INTERVAL = 3.0
"""Fall of the likelihood's logarithm that bounds the distances that are possible."""

MIN_DISTANCE_ERROR = 0.08
"""Errors of the distance below which the one stated is kept. The rings of simulated objects show it to 1 %,
but those of the PETRA star are 7 % beyond the distance that a fit prefers."""

MIN_RINGS = 1.2
"""Zeros of the contrast within the frequencies seen, ``wavelength z f^2``, at least: below it one smooth
spectrum looks like another."""

MIN_RING_GAIN = 150.0
"""By how much the logarithm has to exceed that of the worst distance tried."""


@dataclass(frozen=True)
class NearFieldEstimate:
    """What the holograms of a scan show of its geometry.

    Attributes:
        geometry: with the magnification and the distance found; as stated where nothing is.
        stated: what it was.
        scale: object pixel found over that stated; ``None``: not found.
        flight: range of effective distances that the rings allow, angstrom; ``None``: they show none.
    """

    geometry: Geometry
    stated: Geometry
    scale: float | None
    flight: tuple[float, float] | None

    @property
    def is_changed(self) -> bool:
        """Whether it differs from what was stated."""
        return self.geometry != self.stated

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
            out.append(f"effective distance: {before}, as stated: the holograms show no rings to check it by")
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
        least = max(MIN_CORRELATION, MIN_RATIO_OF_ORIENTATION * self.runner_up)
        return self.correlations[self.best] >= least

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
        matrix = _get_matrix(name)
        pixel = few.geometry.pixel if abs(matrix[0, 0]) > 0 else few.geometry.pixel[::-1]
        shifts = steps / np.array(pixel) @ matrix  # of the patterns as they are
        found[name] = max(_sample(correlation, shifts / scale) for scale in scales)
    return HologramOrientation(found)


def _get_matrix(name: str) -> np.ndarray:
    """What an orientation does to the shifts of patterns, ``(2, 2)``."""
    matrix = np.eye(2)
    for step, given in (ORIENTATIONS | TWINS)[name]:
        if step == "transpose":
            matrix = matrix[::-1]
        else:
            matrix = np.diag([-1.0, 1.0] if given["axis"] == "y" else [1.0, -1.0]) @ matrix
    return matrix


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


def estimate_near_field(scan: Scan4D, /, *, magnification: bool = True) -> NearFieldEstimate:
    """Find the magnification of a cone beam and the effective distance from the holograms.

    Args:
        scan: near field.
        magnification: whether to look for it; that of a parallel beam is one.

    Raises:
        BadInput: a far field.
    """
    stated = scan.geometry
    if not stated.near:
        raise BadInput("near field", None, "the scan is a far-field one: state its focus")
    few = _choose_patterns(replace(scan, modelled=None, heights=None))
    is_cone = stated.focus is not None and not math.isinf(stated.focus)
    scale = _find_scale(few) if magnification and is_cone else None
    geometry = stated
    if scale is not None and abs(scale - 1) > MIN_SCALE_ERROR:
        # the flight behind a focus is about as long as the focus is far, and scales as the pixel does
        geometry = set_near_field(stated, stated.pixel[0] * scale, stated.flight * scale)
    own = separate_scan(replace(few, geometry=geometry))
    rings = _find_flight(own, geometry)
    if rings is not None:
        best, low, high = rings
        if abs(math.log(best / geometry.flight)) > MIN_DISTANCE_ERROR:
            geometry = set_near_field(geometry, geometry.pixel[0], best)
        return NearFieldEstimate(geometry, stated, scale, (low, high))
    return NearFieldEstimate(geometry, stated, scale, None)


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


def _find_scale(scan: Scan4D, widest: float = MAX_SCALE_RANGE) -> float | None:
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
    if heights[best] < MIN_CORRELATION or best in (0, len(scales) - 1):
        return None
    height = _correlation_at(scan, FINE_PARTNERS)
    near = np.exp(math.log(scales[best]) + np.linspace(-0.2, 0.2, 41))
    best = int(np.argmax([height(one) for one in near]))
    found = optimize.minimize_scalar(
        lambda one: -height(math.exp(one)),
        bounds=(math.log(near[best]) - 0.01, math.log(near[best]) + 0.01),
        method="bounded",
    )
    return float(math.exp(found.x))


def _correlation_at(scan: Scan4D, partners: int) -> Callable[[float], float]:
    """Mean correlation of pairs of holograms as a function of the object pixel over that of the geometry."""
    first, second, correlation = _correlate(scan, partners)
    steps = (scan.positions[first] - scan.positions[second]) / np.array(scan.geometry.pixel)
    return lambda scale: _sample(correlation, steps / scale)


def _count_steps(reach: float) -> int:
    return 2 * math.ceil(SCALE_STEPS / 2 * math.log(reach) / math.log(SCALE_RANGE)) + 1


def _correlate(scan: Scan4D, partners: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of holograms and their cross-correlations, zero shift in the middle."""
    counts = np.asarray(scan.counts, np.float64)
    mean = counts.mean(0)
    lit = scan.mask & (mean > 0.05 * np.percentile(mean, 99))
    contrast = np.where(lit, (counts - mean) / np.sqrt(mean + 1), 0)
    contrast = contrast - ndimage.gaussian_filter(contrast, (0, 8, 8))
    first, second = zip(*_list_pairs(scan, partners), strict=True)
    spectra = np.asarray(scipy.fft.fft2(contrast))
    product = spectra[list(first)].conj() * spectra[list(second)]
    whole = np.asarray(scipy.fft.fftshift(np.real(np.asarray(scipy.fft.ifft2(product))), axes=(-2, -1)))
    norm = np.sqrt((contrast**2).sum((1, 2)))
    whole /= (norm[list(first)] * norm[list(second)])[:, None, None] + 1e-30
    return np.array(first), np.array(second), whole


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


def _find_flight(own: Holograms, geometry: Geometry) -> tuple[float, float, float] | None:
    """Effective distance and its bounds by the rings of the hologram's power; the range grows."""
    frequency, power, count = _measure_rings(own)
    if len(frequency) < 8:
        return None
    reach = RING_RANGE
    while True:
        steps = 2 * math.ceil(RING_STEPS / 2 * math.log(reach) / math.log(RING_RANGE)) + 1
        tried = geometry.flight * np.exp(np.linspace(-math.log(reach), math.log(reach), steps))
        likelihood = np.array(
            [_ring_likelihood(frequency, power, count, geometry.wavelength, one) for one in tried]
        )
        best = int(likelihood.argmax())
        if 2 < best < len(tried) - 3 or reach >= MAX_RING_RANGE:
            break
        reach = reach**2
    inside = np.flatnonzero(likelihood > likelihood[best] - NATS_OF_INTERVAL)
    low, high = tried[max(inside[0] - 1, 0)], tried[min(inside[-1] + 1, len(tried) - 1)]
    at_end = inside[0] == 0 or inside[-1] == len(tried) - 1
    rings = geometry.wavelength * float(tried[best]) * frequency[-1] ** 2
    if at_end or rings < MIN_RINGS or likelihood[best] - likelihood.min() < MIN_RING_GAIN:
        return None
    step = math.log(tried[1] / tried[0])
    fine = optimize.minimize_scalar(
        lambda one: -_ring_likelihood(frequency, power, count, geometry.wavelength, math.exp(one)),
        bounds=(math.log(tried[best]) - step, math.log(tried[best]) + step),
        method="bounded",
        options={"xatol": 1e-3},
    )
    return math.exp(float(fine.x)), float(low), float(high)  # pyright: ignore[reportAttributeAccessIssue]


def _measure_rings(own: Holograms) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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


def _ring_likelihood(
    frequency: np.ndarray, power: np.ndarray, count: np.ndarray, wavelength: float, flight: float
) -> float:
    """Logarithm of the likelihood of ring powers: a damped power law through the transfer, over noise."""
    chi = math.pi * wavelength * flight * frequency**2
    transfer = (np.sin(chi) + USUAL_RATIO * np.cos(chi)) ** 2 + 0.01  # zeros are filled a little
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
    found = optimize.minimize(cost, start, method="L-BFGS-B", bounds=bounds)
    return -float(found.fun) * float(count.sum())
