"""Light under water: what a camera sees of a scene, by direct light, forward and back scattering.

Of the light J of a scene at the range z (metre along the line of sight) a camera under water sees, for each
colour::

    I = T [(1 - f) D + f D * G(blur z)] + B (1 - exp(-back z)),    D = J exp(-direct z)

T is the daylight left at the depth of the scene, f the share of light that is scattered forwards on its way
and lands on a Gaussian whose width grows with range, B the veil of light scattered backwards. The veil is
attenuated by another coefficient than the direct light. The camera sets its exposure, counts photons, adds
noise of reading, and stores display values (sRGB). All but the last is in linear light.

Source:
    Jaffe 1990, doi 10.1109/48.50695 (direct, forward and back scattering).
    Akkaynak & Treibitz 2018, doi 10.1109/CVPR.2018.00703 (two coefficients of attenuation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phaseloom.errors import BadInput, nearest
from phaseloom.metrics.colour import display

__all__ = ["JERLOV", "Camera", "Water", "range_map", "recorded", "seen", "some_camera", "some_water"]

Floats = NDArray[np.float64]

JERLOV: dict[str, tuple[float, float, float]] = {
    "I": (0.805, 0.961, 0.982),
    "IA": (0.804, 0.955, 0.975),
    "IB": (0.830, 0.950, 0.968),
    "II": (0.800, 0.925, 0.940),
    "III": (0.750, 0.885, 0.890),
    "1C": (0.750, 0.885, 0.875),
    "3C": (0.710, 0.820, 0.800),
    "5C": (0.670, 0.730, 0.670),
    "7C": (0.620, 0.610, 0.500),
    "9C": (0.550, 0.460, 0.290),
}
"""Red, green and blue light left after a metre, by type of water: I to III oceanic, 1C to 9C coastal
(Jerlov 1976, Marine Optics; the values of Li, Anwar & Porikli 2020, doi 10.1016/j.patcog.2019.107038)."""

SHARES = (0.10, 0.10, 0.12, 0.15, 0.15, 0.12, 0.10, 0.08, 0.05, 0.03)
"""How often each type is drawn: clear waters, where pictures are taken, more than turbid ones."""

SCATTER = (0.03, 0.04, 0.05, 0.08, 0.12, 0.15, 0.25, 0.40, 0.60, 1.0)
"""Scattering by particles, 1 / metre, small in the ocean and large at the coast."""

SHADES = 4
"""Widths between which the blur by range is interpolated."""


@dataclass(frozen=True)
class Water:
    """Water between a scene and a camera; three numbers are red, green and blue.

    Attributes:
        kind: its type, one of `JERLOV`, or another word.
        depth: of the scene, metre.
        daylight: share that is left at this depth.
        direct: attenuation of light from the scene, 1 / metre.
        back: attenuation that governs the veil, 1 / metre.
        veil: light from water without end.
        forward: share of the direct light that is scattered forwards.
        blur: standard deviation of where it lands, pixels for each metre of range.
    """

    kind: str = "none"
    depth: float = 0.0
    daylight: tuple[float, ...] = (1.0, 1.0, 1.0)
    direct: tuple[float, ...] = (0.0, 0.0, 0.0)
    back: tuple[float, ...] = (0.0, 0.0, 0.0)
    veil: tuple[float, ...] = (0.0, 0.0, 0.0)
    forward: float = 0.0
    blur: float = 0.0


@dataclass(frozen=True)
class Camera:
    """How light becomes a picture.

    Attributes:
        gain: of the exposure.
        photons: that white is made of.
        read: standard deviation of the noise of reading, white being 1.
    """

    gain: float = 1.0
    photons: float = float("inf")
    read: float = 0.0


def seen(light: np.ndarray, ranges: np.ndarray, water: Water, /) -> Floats:
    """Light that reaches a camera through water, before exposure and noise.

    Args:
        light: ``(3, y, x)`` of the scene, linear.
        ranges: ``(y, x)`` metre; infinite where there is nothing but water.
        water: in between.

    Example:
        >>> light, far = np.full((3, 2, 2), 0.5), np.full((2, 2), np.inf)
        >>> water = Water(direct=(0.3, 0.2, 0.1), back=(0.3, 0.2, 0.2), veil=(0.0, 0.1, 0.2))
        >>> seen(light, far, water)[:, 0, 0].tolist()
        [0.0, 0.1, 0.2]
    """
    daylight, direct, back, veil = (
        np.array(part)[:, None, None] for part in (water.daylight, water.direct, water.back, water.veil)
    )
    through = light * np.exp(-direct * ranges)
    spread = (
        _blurred(through, water.blur * np.asarray(ranges, np.float64))
        if water.forward * water.blur > 0
        else through
    )
    mixed = (1 - water.forward) * through + water.forward * spread
    return daylight * mixed + veil * (1 - np.exp(-back * ranges))


def recorded(light: np.ndarray, camera: Camera, rng: np.random.Generator, /) -> NDArray[np.float32]:
    """The picture that a camera stores: exposed, counted, read out, in display values of 0 to 1.

    Example:
        >>> recorded(np.full((3, 1, 1), 0.25), Camera(gain=4.0), np.random.default_rng(0)).ravel().tolist()
        [1.0, 1.0, 1.0]
    """
    exposed = np.maximum(camera.gain * light, 0)
    if np.isfinite(camera.photons):
        exposed = rng.poisson(exposed * camera.photons) / camera.photons
    return display(exposed + rng.normal(0, camera.read, exposed.shape)).astype(np.float32)


def some_water(
    rng: np.random.Generator, /, *, size: int = 128, types: Sequence[str] = tuple(JERLOV)
) -> tuple[Water, float]:
    """Water at random, and the range in metre at which the clearest colour has 30 % of its light left.

    Args:
        rng: what is drawn comes from here.
        size: pixels along an edge of the image, with which its blur grows.
        types: of `JERLOV` that may occur, as often to one another as they are among all.

    Raises:
        BadInput: no type, or one that is unknown.
    """
    for kind in types:
        if kind not in JERLOV:
            raise BadInput("underwater: types", kind, f"is no type of water: {nearest(kind, JERLOV)}")
    if not types:
        raise BadInput("underwater: types", None, f"are none: choose from {', '.join(JERLOV)}")
    places = [list(JERLOV).index(kind) for kind in types]
    weights = np.array([SHARES[place] for place in places])
    place = int(rng.choice(places, p=weights / weights.sum()))
    diffuse, scatter = -np.log(np.array(JERLOV[list(JERLOV)[place]])), SCATTER[place]
    direct = (diffuse + 0.3 * scatter) * rng.uniform(0.85, 1.15, 3)
    depth = float(rng.uniform(0.5, 8.0) * min(1.0, 0.12 / diffuse.min()))
    daylight = np.exp(-diffuse * depth)
    hue = daylight * scatter / (scatter + diffuse)
    water = Water(
        kind=list(JERLOV)[place],
        depth=depth,
        daylight=_three(daylight),
        direct=_three(direct),
        back=_three(direct * rng.uniform(0.7, 1.5, 3)),
        veil=_three(rng.uniform(0.08, 0.45) * hue / hue.max() * daylight.max()),
        forward=float(rng.uniform(0.1, 0.5) * min(1.0, 2 * scatter + 0.2)),
        blur=float(rng.uniform(0.2, 0.6) * (1 + 4 * scatter) * size / 256),
    )
    return water, float(1.2 / (diffuse.min() + 0.3 * scatter))


def some_camera(before: np.ndarray, after: np.ndarray, rng: np.random.Generator, /) -> Camera:
    """A camera that exposes light under water about as bright as the same scene in air."""
    gain = rng.uniform(0.7, 1.1) * before.mean() / max(float(after.mean()), 1e-3)
    return Camera(float(gain), float(10 ** rng.uniform(2.7, 4.0)), float(rng.uniform(0.0005, 0.003)))


def range_map(shape: tuple[int, int], rng: np.random.Generator, /) -> Floats:
    """Ranges ``(y, x)`` of an invented scene, 0.8 to 8 metre: a tilted ground, hills, and things in front.

    Example:
        >>> ranges = range_map((20, 30), np.random.default_rng(1))
        >>> ranges.shape, bool(ranges.min() >= 0.8), bool(ranges.max() <= 8)
        ((20, 30), True, True)
    """
    from scipy.ndimage import gaussian_filter

    y, x = np.mgrid[: shape[0], : shape[1]] / max(shape)
    tilt = rng.uniform(-0.6, 0.6)
    hills = gaussian_filter(rng.standard_normal(shape), min(shape) / 8)
    ranges = (1 - y) * np.cos(tilt) + x * np.sin(tilt) + 0.5 * hills / (hills.std() + 1e-9)
    for _ in range(rng.integers(0, 5)):
        (row, column), radius = rng.uniform(0, 1, 2), rng.uniform(0.05, 0.25)
        inside = (y - row) ** 2 + ((x - column) / rng.uniform(0.5, 2)) ** 2 < radius**2
        ranges = np.where(inside, ranges - rng.uniform(0.2, 0.8), ranges)
    ranges = (ranges - ranges.min()) / (np.ptp(ranges) + 1e-9)
    nearest_metre = rng.uniform(0.8, 3.0)
    return nearest_metre + (rng.uniform(nearest_metre + 0.5, 8.0) - nearest_metre) * ranges


def _three(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _blurred(light: np.ndarray, sigma: Floats) -> np.ndarray:
    """Each pixel as blurred by a Gaussian of its own width, at most an eighth of the image."""
    from scipy.ndimage import gaussian_filter

    sigma = np.minimum(sigma, min(light.shape[1:]) / 8)
    widths = np.linspace(0, max(float(sigma.max()), 1e-9), SHADES)
    shades = np.stack([gaussian_filter(light, (0, width, width)) for width in widths])
    place = sigma / widths[1]
    lower = np.minimum(place.astype(int), SHADES - 2)
    share, rows, columns = place - lower, *np.indices(sigma.shape)
    both = [np.moveaxis(shades[lower + step, :, rows, columns], -1, 0) for step in (0, 1)]
    return (1 - share) * both[0] + share * both[1]
