"""How a detector may lie against a scan, and which patterns and defocus values a search tries.

Of the eight ways only four can be told apart: a turn by 180 degrees is undone by the conjugate, inverted
object and probe, which give the same patterns.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from phaseloom.data import prepare
from phaseloom.data.scan import Geometry, Scan4D

__all__ = ["ORIENTATIONS", "TWINS", "TWIN_OF", "lay_detector", "max_defocus", "select_nearest"]
__all__ += ["select_neighbours"]

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


def lay_detector(name: str, /) -> np.ndarray:
    """What an orientation does to detector coordinates (row, column), as row vectors: ``k @ matrix``.

    Args:
        name: of `ORIENTATIONS` or `TWINS`.

    Example:
        >>> (np.array([[1.0, 2.0]]) @ lay_detector("rotated")).tolist()
        [[-2.0, 1.0]]
    """
    lay = np.eye(2)
    for step, given in (ORIENTATIONS | TWINS)[name]:
        swap = np.array([[0.0, 1.0], [1.0, 0.0]])
        lay = lay @ (
            swap if step == "transpose" else np.diag([-1.0 if given["axis"] == a else 1.0 for a in "yx"])
        )
    return lay


def max_defocus(geometry: Geometry, aperture: float, /) -> float:
    """Largest defocus at which a cone of half-angle ``aperture`` still fits the window, angstrom."""
    window = min(n * p for n, p in zip(geometry.shape, geometry.pixel, strict=True))
    aperture = max(aperture, min(geometry.angle))
    return window / (2 * math.tan(aperture))


def select_neighbours(scan: Scan4D, count: int, /) -> Scan4D:
    """Neighbouring patterns around the middle of a scan, in memory; a raster stays one."""
    if len(scan) <= count:
        few = scan
    elif scan.grid is None:
        few = select_nearest(scan, count)
    else:
        sides = np.minimum(scan.grid, max(2, math.isqrt(count)))
        first = (np.array(scan.grid) - sides) // 2
        rows, columns = ((int(a), int(a + n)) for a, n in zip(first, sides, strict=True))
        few = prepare.region(scan, rows=rows, columns=columns)
    return replace(few, counts=np.asarray(few.counts[np.arange(len(few))]))


def select_nearest(scan: Scan4D, count: int, /) -> Scan4D:
    """The given number of patterns that lie nearest to the middle of the scan."""
    away = np.linalg.norm(scan.positions - np.median(scan.positions, axis=0), axis=1)
    return scan.select(np.sort(np.argsort(away, kind="stable")[:count]))
