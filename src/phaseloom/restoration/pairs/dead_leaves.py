"""Invented scenes: disks of all sizes and colours that fall on one another, as leaves do.

Photographs that come with packages are few, and what learns from few scenes learns these scenes. Falling
leaves have edges, occlusion and the same statistics at all scales as photographs have, and there is no end of
them. Each disk has a colour, a shade across it and a grain; lightness and chroma are spread about those of
the whole scene.

Source:
    Lee, Mumford & Huang 2001, doi 10.1023/A:1011109015675.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["leaves"]

RADII = (0.03, 0.4)
"""Smallest and largest disk, in parts of the image."""


def leaves(size: int, rng: np.random.Generator, /, *, count: int = 400) -> NDArray[np.float64]:
    """Linear light ``(3, size, size)`` of a scene, 0 to 1.

    Args:
        size: pixels along an edge.
        rng: of all that is drawn.
        count: of disks, the last on top.

    Example:
        >>> scene = leaves(32, np.random.default_rng(0))
        >>> scene.shape, bool((scene >= 0).all() and (scene <= 1).all())
        ((3, 32, 32), True)
    """
    grain, tone, cast = rng.normal(size=(size, size)), rng.uniform(0.1, 0.5), rng.normal(0, 0.15, 3)
    image = np.broadcast_to((tone * np.exp(cast))[:, None, None], (3, size, size)).copy()
    low, high = (radius**-2 for radius in RADII)
    for _ in range(count):
        radius = (low + rng.uniform() * (high - low)) ** -0.5  # density of radii as r^-3
        middle, stretch = rng.uniform(-0.1, 1.1, 2), np.exp(rng.normal(0, 0.3))
        reach = radius * np.array([1 / stretch, stretch])
        box = tuple(
            slice(max(0, int(size * (m - r))), max(0, int(size * (m + r)) + 1))
            for m, r in zip(middle, reach, strict=True)
        )
        y, x = (np.arange(size)[part] / size - m for part, m in zip(box, middle, strict=True))
        dy, dx = np.meshgrid(y * stretch / radius, x / stretch / radius, indexing="ij")
        inside = dy**2 + dx**2 < 1
        light = np.clip(tone * np.exp(rng.normal(0, 0.8)), 0.005, 0.95)
        colour = light * np.exp(cast + rng.normal(0, 0.5, 3) * rng.uniform())
        slope, rough = rng.normal(0, 0.2, 2), abs(rng.normal(0, 0.12))
        shade = 1 + slope[0] * dy + slope[1] * dx + rough * grain[box]
        image[(slice(None), *box)][:, inside] = (colour[:, None, None] * shade)[:, inside]
    return image.clip(0, 1)
