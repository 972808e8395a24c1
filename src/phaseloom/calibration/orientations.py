"""How a detector may lie against a scan, and which patterns and defocus values a search tries.

Of the eight ways only four can be told apart: a turn by 180 degrees is undone by the conjugate, inverted
object and probe, which give the same patterns.
"""

import math
from typing import Any

import numpy as np

from phaseloom.data.scan import Geometry, Scan4D

__all__ = ["ORIENTATIONS", "TWINS", "TWIN_OF", "max_defocus", "select_nearest"]

ORIENTATIONS: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "as given": (),
    "transposed": (("transpose", {}),),
    "flipped": (("flip", {"axis": "y"}),),
    "rotated": (("transpose", {}), ("flip", {"axis": "y"})),
}
"""The four orientations of a detector that patterns can tell apart, as steps of `phaseloom.data.prepare`."""

TWINS: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "turned by 180 degrees": (("flip", {"axis": "y"}), ("flip", {"axis": "x"})),
    "transposed and turned": (("transpose", {}), ("flip", {"axis": "y"}), ("flip", {"axis": "x"})),
    "flipped left to right": (("flip", {"axis": "x"}),),
    "rotated the other way": (("transpose", {}), ("flip", {"axis": "x"})),
}
"""The same, turned by 180 degrees: only a defocus of known sign tells them from the four."""

TWIN_OF = dict(zip([*ORIENTATIONS, *TWINS], [*TWINS, *ORIENTATIONS], strict=True))
"""For each orientation the one that is turned by 180 degrees against it."""


def max_defocus(geometry: Geometry, aperture: float, /) -> float:
    """Largest defocus at which a cone of half-angle ``aperture`` still fits the window, angstrom."""
    window = min(n * p for n, p in zip(geometry.shape, geometry.pixel, strict=True))
    aperture = max(aperture, min(geometry.angle))
    return window / (2 * math.tan(aperture))


def select_nearest(scan: Scan4D, count: int, /) -> Scan4D:
    """The given number of patterns that lie nearest to the middle of the scan."""
    away = np.linalg.norm(scan.positions - np.median(scan.positions, axis=0), axis=1)
    return scan.select(np.sort(np.argsort(away, kind="stable")[:count]))
