"""Image formation under water: direct light, forward and backward scattering, and the camera.

A camera under water records, of the light J of a scene at the range z (metre along the line of sight), for
each colour::

    I = T [(1 - f) D + f D * G(blur z)] + B (1 - exp(-back z)),    D = J exp(-direct z)

T is the daylight left at the depth of the scene, f the share of light that is scattered forwards and spread
by a Gaussian whose width grows with range, B the veil of light scattered backwards. The veil is attenuated by
another coefficient than the direct light. The camera sets its exposure, counts photons, adds readout noise,
and stores display values (sRGB). All but the last is in linear light.

Source:
    Jaffe 1990, doi 10.1109/48.50695 (direct, forward and back scattering).
    Akkaynak & Treibitz 2018, doi 10.1109/CVPR.2018.00703 (two coefficients of attenuation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from phaseloom.errors import BadInput, nearest
from phaseloom.metrics.colour import encode_srgb

__all__ = ["WATER_TYPES", "Camera", "Water", "WaterType", "add_water", "draw_camera", "draw_range_map"]
__all__ += ["draw_water", "record_image"]

Floats = NDArray[np.float64]


class WaterType(NamedTuple):
    """A type of water.

    Attributes:
        transmission: red, green and blue light left after a metre.
        frequency: how often it is drawn: clear waters, where pictures are taken, more than turbid ones.
        scattering: by particles, 1 / metre, small in the ocean and large at the coast.
    """

    transmission: tuple[float, float, float]
    frequency: float
    scattering: float


WATER_TYPES: dict[str, WaterType] = {
    "I": WaterType((0.805, 0.961, 0.982), 0.10, 0.03),
    "IA": WaterType((0.804, 0.955, 0.975), 0.10, 0.04),
    "IB": WaterType((0.830, 0.950, 0.968), 0.12, 0.05),
    "II": WaterType((0.800, 0.925, 0.940), 0.15, 0.08),
    "III": WaterType((0.750, 0.885, 0.890), 0.15, 0.12),
    "1C": WaterType((0.750, 0.885, 0.875), 0.12, 0.15),
    "3C": WaterType((0.710, 0.820, 0.800), 0.10, 0.25),
    "5C": WaterType((0.670, 0.730, 0.670), 0.08, 0.40),
    "7C": WaterType((0.620, 0.610, 0.500), 0.05, 0.60),
    "9C": WaterType((0.550, 0.460, 0.290), 0.03, 1.0),
}
"""Jerlov's types: I to III oceanic, 1C to 9C coastal (Jerlov 1976, Marine Optics; the transmissions of Li,
Anwar & Porikli 2020, doi 10.1016/j.patcog.2019.107038)."""

BLUR_LEVELS = 4
"""Widths between which the blur by range is interpolated."""


@dataclass(frozen=True)
class Water:
    """Water between a scene and a camera; three numbers are red, green and blue.

    Attributes:
        kind: its type, one of `WATER_TYPES`, or another word.
        depth: of the scene, metre.
        daylight: share that is left at this depth.
        direct: attenuation of light from the scene, 1 / metre.
        back: attenuation that governs the veil, 1 / metre.
        veil: light from infinitely deep water.
        forward: share of the direct light that is scattered forwards.
        blur: standard deviation of the forward scattering, pixels for each metre of range.
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
    """Conversion of light to a picture.

    Attributes:
        gain: of the exposure.
        photons: of a white pixel.
        read: standard deviation of the readout noise, white being 1.
    """

    gain: float = 1.0
    photons: float = float("inf")
    read: float = 0.0


def add_water(light: np.ndarray, ranges: np.ndarray, water: Water, /) -> Floats:
    """Light that reaches a camera through water, before exposure and noise.

    Args:
        light: ``(3, y, x)`` of the scene, linear.
        ranges: ``(y, x)`` metre; infinite for open water.
        water: in between.

    Example:
        >>> light, far = np.full((3, 2, 2), 0.5), np.full((2, 2), np.inf)
        >>> water = Water(direct=(0.3, 0.2, 0.1), back=(0.3, 0.2, 0.2), veil=(0.0, 0.1, 0.2))
        >>> add_water(light, far, water)[:, 0, 0].tolist()
        [0.0, 0.1, 0.2]
    """
    colours = (water.daylight, water.direct, water.back, water.veil)
    daylight, direct, back, veil = (np.array(colour)[:, None, None] for colour in colours)
    unscattered = light * np.exp(-direct * ranges)
    spread = unscattered
    if water.forward * water.blur > 0:
        spread = _blur_by_width(unscattered, water.blur * np.asarray(ranges, np.float64))
    mixed = (1 - water.forward) * unscattered + water.forward * spread
    return daylight * mixed + veil * (1 - np.exp(-back * ranges))


def record_image(light: np.ndarray, camera: Camera, rng: np.random.Generator, /) -> NDArray[np.float32]:
    """The picture that a camera stores: exposure, photon and readout noise, display values of 0 to 1.

    Example:
        >>> grey = np.full((3, 1, 1), 0.25)
        >>> record_image(grey, Camera(gain=4.0), np.random.default_rng(0)).ravel().tolist()
        [1.0, 1.0, 1.0]
    """
    exposed = np.maximum(camera.gain * light, 0)
    if np.isfinite(camera.photons):
        exposed = rng.poisson(exposed * camera.photons) / camera.photons
    return encode_srgb(exposed + rng.normal(0, camera.read, exposed.shape)).astype(np.float32)


def draw_water(
    rng: np.random.Generator, /, *, size: int = 128, types: Sequence[str] = tuple(WATER_TYPES)
) -> tuple[Water, float]:
    """Random water, and the range in metre at which the clearest colour has 30 % of its light left.

    Raises:
        BadInput: no type, or one that is unknown.
    """
    for kind in types:
        if kind not in WATER_TYPES:
            raise BadInput("underwater: types", kind, f"is not a type of water: {nearest(kind, WATER_TYPES)}")
    if not types:
        raise BadInput("underwater: types", None, f"are missing: choose from {', '.join(WATER_TYPES)}")
    weights = np.array([WATER_TYPES[kind].frequency for kind in types])
    kind = str(rng.choice(list(types), p=weights / weights.sum()))
    scatter = WATER_TYPES[kind].scattering
    diffuse = -np.log(np.array(WATER_TYPES[kind].transmission))
    direct = (diffuse + 0.3 * scatter) * rng.uniform(0.85, 1.15, 3)
    depth = float(rng.uniform(0.5, 8.0) * min(1.0, 0.12 / diffuse.min()))
    daylight = np.exp(-diffuse * depth)
    hue = daylight * scatter / (scatter + diffuse)
    water = Water(
        kind=kind,
        depth=depth,
        daylight=tuple(daylight.tolist()),
        direct=tuple(direct.tolist()),
        back=tuple((direct * rng.uniform(0.7, 1.5, 3)).tolist()),
        veil=tuple((rng.uniform(0.08, 0.45) * hue / hue.max() * daylight.max()).tolist()),
        forward=float(rng.uniform(0.1, 0.5) * min(1.0, 2 * scatter + 0.2)),
        blur=float(rng.uniform(0.2, 0.6) * (1 + 4 * scatter) * size / 256),
    )
    return water, float(1.2 / (diffuse.min() + 0.3 * scatter))


def draw_camera(before: np.ndarray, after: np.ndarray, rng: np.random.Generator, /) -> Camera:
    """A random camera that exposes the scene under water about as brightly as in air."""
    gain = rng.uniform(0.7, 1.1) * before.mean() / max(float(after.mean()), 1e-3)
    return Camera(float(gain), float(10 ** rng.uniform(2.7, 4.0)), float(rng.uniform(0.0005, 0.003)))


def draw_range_map(shape: tuple[int, int], rng: np.random.Generator, /) -> Floats:
    """Ranges ``(y, x)`` of a synthetic scene, 0.8 to 8 metre: a tilted ground, hills, and objects in front.

    Example:
        >>> ranges = draw_range_map((20, 30), np.random.default_rng(1))
        >>> ranges.shape, bool(ranges.min() >= 0.8), bool(ranges.max() <= 8)
        ((20, 30), True, True)
    """
    from scipy.ndimage import gaussian_filter

    y, x = np.mgrid[: shape[0], : shape[1]] / max(shape)
    tilt = rng.uniform(-0.6, 0.6)
    hills = gaussian_filter(rng.standard_normal(shape), min(shape) / 8)
    ranges = (1 - y) * np.cos(tilt) + x * np.sin(tilt) + 0.5 * hills / (hills.std() + 1e-9)
    for _ in range(rng.integers(0, 5)):
        row, column = rng.uniform(0, 1, 2)
        radius = rng.uniform(0.05, 0.25)
        inside = (y - row) ** 2 + ((x - column) / rng.uniform(0.5, 2)) ** 2 < radius**2
        ranges = np.where(inside, ranges - rng.uniform(0.2, 0.8), ranges)
    ranges = (ranges - ranges.min()) / (np.ptp(ranges) + 1e-9)
    closest = rng.uniform(0.8, 3.0)
    return closest + (rng.uniform(closest + 0.5, 8.0) - closest) * ranges


def _blur_by_width(light: np.ndarray, sigma: Floats) -> np.ndarray:
    """Blur each pixel by a Gaussian of its own width, at most an eighth of the image."""
    from scipy.ndimage import gaussian_filter

    sigma = np.minimum(sigma, min(light.shape[1:]) / 8)
    widths = np.linspace(0, max(float(sigma.max()), 1e-9), BLUR_LEVELS)
    levels = np.stack([gaussian_filter(light, (0, width, width)) for width in widths])
    position = sigma / widths[1]
    lower = np.minimum(position.astype(int), BLUR_LEVELS - 2)
    share = position - lower
    rows, columns = np.indices(sigma.shape)
    below, above = (np.moveaxis(levels[lower + step, :, rows, columns], -1, 0) for step in (0, 1))
    return (1 - share) * below + share * above
