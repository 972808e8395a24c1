"""Direct images of near-field scans: illumination and object told apart, and the contrast transfer inverted.

Holograms of one object under one illumination are nearly ``I_j(x) = L(x) H(x + p_j)``: what stands still with
the detector and what moves with the object are separated by least squares of their logarithms. The hologram
``H`` of a weak or slowly varying object is linear in its phase; with amplitudes proportional to it (one
material, ``beta / delta``) the phase follows by a Wiener filter.

An illumination with a structured phase displaces what moves: the detector sees ``H(x + p_j + u(x))`` with ``u
= -wavelength z grad phi / (2 pi)``. The displacement is found by least squares, pixel by pixel, and tells the
phase of the illumination.

Source: Kuhn, Lin & Loranz 1991, doi 10.1086/132932 (flat field from moved images); Cloetens et al. 1999, doi
10.1063/1.125225, and Turner et al. 2004, doi 10.1364/OPEX.12.002960 (contrast transfer); at low frequencies
it is the single-material filter of Paganin et al. 2002, doi 10.1046/j.1365-2818.2002.01010.x. Displacements
of the illumination: Morgan et al. 2020, doi 10.1107/S1600576720005567.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import scipy.fft
from jaxtyping import Bool, Complex, Float, Int
from scipy import ndimage

from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.ptycho.canvas import Canvas, canvas

__all__ = ["HologramImage", "Holograms", "follow_displacement", "integrate_displacement"]
__all__ += ["reconstruct_holograms", "separate_illumination"]

MIN_LIGHT = 0.02
"""Share of the brightest mean counts below which a pixel says nothing of the object."""

CG_STEPS = 40
"""Of conjugate gradients: details as wide as the scan are found last."""

WELL_LIT = 0.3
"""Share of the counts of a well-lit place from which on a hologram is taken as it is."""

SPECTRUM_POWER = 1.5
"""The phase is expected to fall as ``(f^2 + f0^2)^-power`` in power: edges and particles do."""

USUAL_RATIO = 0.05
"""``beta / delta`` where nothing is known: it holds back what the contrast does not show."""


DISPLACEMENT_STEPS = 6
DISPLACEMENT_WIDTH = 2.0
HOLOGRAM_WIDTH = 0.4
"""Steps of a displacement, and pixels (standard deviation) over which it is the same and by which holograms
are smoothed for their slopes. With twice the steps, or half the width or twice, the waves on the detector of
three simulated scans agreed with the true ones as well, to 0.04 in their correlation (0.2 to 0.8 then)."""

DISPLACEMENT_RIDGE = 0.05
"""Of the mean curvature, added to that of each pixel."""

MAX_PATTERNS_OF_DISPLACEMENT = 150

PERIOD_OF_WAVEFRONT = 100.0
"""Pixels: slower variations of the illumination's phase are held back, as a little wrong step or distance
makes them, too."""


@dataclass(frozen=True, eq=False)
class Holograms:
    """A scan's illumination and the hologram of its object.

    Attributes:
        hologram: ``(v, u)``, logarithm of the object's relative intensity, on the canvas; mean zero.
        light: ``(v, u)``, counts that all patterns have there.
        illumination: ``(y, x)``, counts of a pattern without the object.
        canvas: the grid of the object.
        displacement: ``(2, y, x)``, by how many pixels (y, x) from where it lies in a parallel beam each
            pixel of the detector sees the hologram; ``None``: not looked for.
    """

    hologram: Float[np.ndarray, "v u"]
    light: Float[np.ndarray, "v u"]
    illumination: Float[np.ndarray, "y x"]
    canvas: Canvas
    displacement: Float[np.ndarray, "2 y x"] | None = None

    def taper(self) -> Float[np.ndarray, "v u"]:
        """One where the object is well lit, falling to zero where it is not."""
        return np.clip(self.light / (WELL_LIT * typical_light(self.light)), 0, 1)


@dataclass(frozen=True, eq=False)
class HologramImage:
    """The direct image of a near-field scan.

    Attributes:
        phase: ``(v, u)``, radian, on the canvas; negative in matter for X-rays.
        ratio: ``beta / delta`` that was assumed.
        holograms: what it was made from.
    """

    phase: Float[np.ndarray, "v u"]
    ratio: float
    holograms: Holograms

    def transmission(self) -> Complex[np.ndarray, "v u"]:
        """The object ``exp((i + ratio) phase)``."""
        return np.exp((1j + self.ratio) * self.phase)


def typical_light(light: Float[np.ndarray, "v u"], /) -> float:
    """Counts of a well-lit place."""
    return float(np.percentile(light[light > 0], 90)) if (light > 0).any() else 1.0


def separate_illumination(
    counts: Float[np.ndarray, "n y x"],
    corner: Int[np.ndarray, "n 2"],
    room: Canvas,
    mask: Bool[np.ndarray, "y x"],
    /,
) -> Holograms:
    """Tell the illumination from the object's hologram, by least squares of logarithms.

    Args:
        counts: patterns.
        corner: first pixel of each one's window on the canvas.
        room: the canvas.
        mask: pixels that are trusted.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> truth, beam = np.exp(0.2 * rng.normal(size=(40, 40))), 1e4 * (1 + rng.random((16, 16)))
        >>> corner = np.indices((9, 9)).reshape(2, -1).T * 3
        >>> seen = np.stack([beam * truth[y : y + 16, x : x + 16] for y, x in corner])
        >>> room = Canvas((40, 40), (16, 16), (1.0, 1.0), (0.0, 0.0), (0.0, 0.0))
        >>> found = separate_illumination(seen, corner, room, np.ones((16, 16), bool))
        >>> bool(np.corrcoef(found.hologram.ravel(), np.log(truth).ravel())[0, 1] > 0.98)
        True
    """
    height, width = counts.shape[1:]
    mean = counts.mean(0)
    top = float(np.percentile(mean[mask], 99))
    weight = np.where(mask & (mean > MIN_LIGHT * top), mean / top, 0.0)
    ratio = np.where(weight > 0, np.log((counts + 0.5) / (mean + 0.5)), 0.0)

    def gather(image: np.ndarray) -> np.ndarray:
        return np.stack([image[y : y + height, x : x + width] for y, x in corner])

    def scatter(stack: np.ndarray) -> np.ndarray:
        out = np.zeros(room.shape)
        for (y, x), one in zip(corner, stack, strict=True):
            out[y : y + height, x : x + width] += one
        return out

    def normal(image: np.ndarray) -> np.ndarray:
        stack = gather(image)
        return scatter((stack - stack.mean(0)) * weight)

    light = scatter(np.broadcast_to(weight, counts.shape))
    ridge = 1e-4 * light.max()
    hologram = np.zeros(room.shape)
    rest = scatter((ratio - ratio.mean(0)) * weight)
    way = rest / (light + ridge)
    power = float((rest * way).sum())
    for _ in range(CG_STEPS):
        image = normal(way) + ridge * way
        step = power / max(float((way * image).sum()), 1e-300)
        hologram = hologram + step * way
        rest = rest - step * image
        guess = rest / (light + ridge)
        before, power = power, float((rest * guess).sum())
        way = guess + (power / max(before, 1e-300)) * way
    level = float((hologram * light).sum() / max(light.sum(), 1e-300))
    hologram = np.where(light > 0, hologram - level, 0.0)
    beam = np.exp(np.where(weight > 0, (ratio - gather(hologram)).mean(0), 0.0)) * (mean + 0.5) - 0.5
    beam = np.where(weight > 0, beam, np.where(mask, mean, 0.0)).clip(min=0)
    return Holograms(hologram, light * top, beam, room)


def reconstruct_holograms(
    scan: Scan4D, /, *, room: Canvas | None = None, ratio: float = USUAL_RATIO
) -> HologramImage:
    """The phase of the object of a near-field scan, without iteration.

    Args:
        scan: near field, with its positions, distance and focus. Positions along the beam are not used.
        room: canvas of the image; default: that of a reconstruction.
        ratio: ``beta / delta`` of the object's material; 0 of a phase object.

    Raises:
        BadInput: a far field, or a ratio below zero.

    Example:
        >>> import phaseloom as pl
        >>> scan = pl.read(pl.samples.near_field(), knobs={"focus": "3.65 mm"})
        >>> image = reconstruct_holograms(scan.select(range(40)))
        >>> image.phase.ndim, bool(image.phase.std() > 0.05)
        (2, True)
    """
    if not scan.geometry.near:
        raise BadInput("direct", None, "a hologram image needs a near-field scan: state its focus")
    if not (math.isfinite(ratio) and ratio >= 0):
        raise BadInput("direct: ratio", ratio, "must be beta / delta of a material, from zero up")
    own = separate_scan(scan, room)
    return invert_contrast(own, scan, ratio)


def separate_scan(scan: Scan4D, room: Canvas | None = None, /, *, has_displacement: bool = True) -> Holograms:
    """`separate_illumination` of a scan, on its detector's pixels.

    Args:
        scan: near field.
        room: canvas of the hologram; default: that of a reconstruction.
        has_displacement: whether to look for a displacement (`follow_displacement`), which leaves a hologram
            whose pixels are interpolated.
    """
    room = canvas(scan) if room is None else room
    pixels = (scan.positions - np.array(room.origin)) / np.array(room.pixel)
    place = pixels - np.array(room.window) // 2
    corner = np.round(place).astype(int)
    last = [n - w for n, w in zip(room.shape, room.window, strict=True)]
    counts = np.asarray(scan.counts[np.arange(len(scan))], np.float64)
    if scan.background is not None:
        counts = (counts - scan.background).clip(min=0)
    if scan.flat is not None:
        counts = counts / np.where(scan.flat > 0, scan.flat, 1)
    own = separate_illumination(counts, corner.clip(0, last), room, scan.mask)
    if not has_displacement:
        return own
    few = slice(None, None, -(-len(scan) // MAX_PATTERNS_OF_DISPLACEMENT))
    return follow_displacement(own, counts[few], place[few], scan.mask)


def follow_displacement(
    holograms: Holograms,
    counts: Float[np.ndarray, "n y x"],
    place: Float[np.ndarray, "n 2"],
    mask: Bool[np.ndarray, "y x"],
    /,
) -> Holograms:
    """Find by how much the illumination displaces the hologram of the object, and that hologram without it.

    The logarithm of a pattern over the mean is ``h(x + p_j + u(x))`` less its mean: Gauss-Newton steps of
    ``u``, each from all patterns within `DISPLACEMENT_WIDTH`, in turn with the hologram. What of ``u`` is
    linear in ``x`` is left out, as wrong steps and distances make it.

    Args:
        holograms: as if nothing were displaced.
        counts: patterns.
        place: of the first pixel of each one's window on the canvas, pixels.
        mask: pixels that are trusted.
    """
    mean = counts.mean(0)
    top = float(np.percentile(mean[mask], 99))
    weight = np.where(mask & (mean > MIN_LIGHT * top), mean / top, 0.0)
    ratio = np.where(weight > 0, np.log((counts + 0.5) / (mean + 0.5)), 0.0)
    ratio = ratio - ratio.mean(0)
    where = np.indices(mean.shape, dtype=float)
    known = [np.ones(mean.size), *where.reshape(2, -1)]
    design = np.stack(known, 1) * np.sqrt(weight.reshape(-1, 1))
    total = np.zeros((2, *mean.shape))
    hologram = holograms.hologram
    for _ in range(DISPLACEMENT_STEPS):
        at = [where + total + corner[:, None, None] for corner in place]
        step, level = _step_displacement(hologram, ratio, weight, at)
        total = total + step
        target = (total * np.sqrt(weight)).reshape(2, -1).T
        linear = np.linalg.lstsq(design, target, rcond=None)[0]
        total = total - (np.stack(known, 1) @ linear).T.reshape(total.shape)
        at = [where + total + corner[:, None, None] for corner in place]
        hologram = _gather_hologram(ratio + level, weight, at, hologram.shape)
    return replace(holograms, hologram=hologram, displacement=total)


def _step_displacement(
    hologram: np.ndarray, ratio: np.ndarray, weight: np.ndarray, at: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """A Gauss-Newton step of the displacement, a pixel at most, and the mean hologram at each pixel."""
    smooth = ndimage.gaussian_filter(hologram, HOLOGRAM_WIDTH)
    fields = (smooth, *np.gradient(smooth))
    seen, down, right = (
        np.stack([ndimage.map_coordinates(one, place, order=1, mode="nearest") for place in at])
        for one in fields
    )
    level = seen.mean(0)
    down -= down.mean(0)
    right -= right.mean(0)
    rest = ratio - (seen - level)

    def collect(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        product = weight * np.einsum("nyx,nyx->yx", first, second)
        return ndimage.gaussian_filter(product, DISPLACEMENT_WIDTH, mode="nearest")

    a, b, c = collect(down, down), collect(down, right), collect(right, right)
    lit = weight > 0
    ridge = DISPLACEMENT_RIDGE * float((a + c)[lit].mean()) / 2 + 1e-12
    a, c = a + ridge, c + ridge
    e, f = collect(down, rest), collect(right, rest)
    step = np.stack([c * e - b * f, a * f - b * e]) / (a * c - b * b)
    return step.clip(-1, 1), level


def _gather_hologram(
    values: np.ndarray, weight: np.ndarray, at: list[np.ndarray], shape: tuple[int, ...]
) -> np.ndarray:
    """Weighted mean of values that lie between the pixels of a canvas, shared among the four nearest."""
    total = np.zeros(math.prod(shape))
    light = np.zeros_like(total)
    for value, place in zip(values, at, strict=True):
        first = np.floor(place).astype(int)
        rest = place - first
        for y, x in ((0, 0), (0, 1), (1, 0), (1, 1)):
            share = weight * abs(1 - y - rest[0]) * abs(1 - x - rest[1])
            row, column = ((first[axis] + way).clip(0, shape[axis] - 1) for axis, way in ((0, y), (1, x)))
            pixel = (row * shape[1] + column).ravel()
            total += np.bincount(pixel, (share * value).ravel(), len(total))
            light += np.bincount(pixel, share.ravel(), len(total))
    found = np.where(light > 1e-3 * light.max(), total / np.maximum(light, 1e-12), 0.0)
    found = np.where(found != 0, found - (found * light).sum() / light.sum(), 0.0)
    return found.reshape(shape)


def integrate_displacement(holograms: Holograms, geometry: Geometry, /) -> Float[np.ndarray, "y x"]:
    """The phase of the illumination on the detector, radian, from how it displaces the hologram.

    Least squares of its slopes, mirrored at the edges; variations slower than `PERIOD_OF_WAVEFRONT` are held
    back, and where there is no light the phase is flat.

    Args:
        holograms: with a displacement.
        geometry: whose effective distance relates displacement and slope.

    Example:
        >>> y, x = np.indices((64, 64)) - 32.0
        >>> phase = 3 * np.exp(-(y**2 + x**2) / 200)
        >>> room = Canvas((80, 80), (64, 64), (1e3, 1e3), (0.0, 0.0), (0.0, 0.0))
        >>> cone = Geometry(wavelength=1.0, shape=(64, 64), angle=(1e-4, 1e-4), distance=1e7, focus=math.inf)
        >>> moved = -1e7 * np.array(np.gradient(phase)) / (2 * math.pi * 1e6)
        >>> own = Holograms(np.zeros((80, 80)), np.ones((80, 80)), np.ones((64, 64)), room, moved)
        >>> bool(np.corrcoef(integrate_displacement(own, cone).ravel(), phase.ravel())[0, 1] > 0.98)
        True
    """
    assert holograms.displacement is not None
    bright = holograms.illumination / max(float(np.percentile(holograms.illumination, 99)), 1e-30)
    reach = geometry.wavelength * geometry.flight
    slopes = [
        -2 * math.pi * pixel**2 / reach * one * np.clip(bright / WELL_LIT, 0, 1)
        for pixel, one in zip(geometry.pixel, holograms.displacement, strict=True)
    ]
    height, width = bright.shape
    mirrored = [np.concatenate([one, sign * one[::-1]], 0) for sign, one in zip((-1, 1), slopes, strict=True)]
    mirrored = [
        np.concatenate([one, sign * one[:, ::-1]], 1) for sign, one in zip((1, -1), mirrored, strict=True)
    ]
    down, right = (np.asarray(scipy.fft.fft2(one)) for one in mirrored)
    rows, columns = scipy.fft.fftfreq(2 * height)[:, None], scipy.fft.fftfreq(2 * width)[None]
    square = rows**2 + columns**2 + PERIOD_OF_WAVEFRONT**-2
    found = np.asarray(scipy.fft.ifft2((down * rows + right * columns) / (2j * math.pi * square)))
    return np.real(found)[:height, :width]


def invert_contrast(holograms: Holograms, scan: Scan4D, ratio: float, /) -> HologramImage:
    """The phase by a Wiener filter: ``h = 2 (sin chi + ratio cos chi) phase``, ``chi = pi lambda z f^2``."""
    shape = holograms.hologram.shape
    taper = holograms.taper()
    level = float((holograms.hologram * taper).sum() / max(taper.sum(), 1e-30))
    seen = (holograms.hologram - level) * taper
    padded = tuple(scipy.fft.next_fast_len(int(1.5 * n)) for n in shape)
    spectrum = np.asarray(scipy.fft.fft2(seen, s=padded))
    pixel = holograms.canvas.pixel
    rows, columns = (scipy.fft.fftfreq(n, p) for n, p in zip(padded, pixel, strict=True))
    square = rows[:, None] ** 2 + columns[None] ** 2
    chi = math.pi * scan.geometry.wavelength * scan.geometry.flight * square
    contrast = 2 * (np.sin(chi) + ratio * np.cos(chi))
    slope = (square + (max(shape) * max(pixel)) ** -2) ** -SPECTRUM_POWER
    noise = 1 / typical_light(holograms.light)
    power = abs(spectrum) ** 2 / max((taper**2).sum(), 1e-30)
    known = (square > 0) & (square < (0.35 / max(pixel)) ** 2)
    form = (contrast**2 * slope)[known]
    strength = max(float(((power[known] - noise) * form).sum() / (form * form).sum()), 1e-30)
    filtered = spectrum * contrast / (contrast**2 + noise / (strength * slope))
    phase = np.real(np.asarray(scipy.fft.ifft2(filtered)))
    return HologramImage(phase[: shape[0], : shape[1]], ratio, holograms)
