"""A scan as the page looks at it: findings, mean pattern, virtual images, patterns, the direct image."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from phaseloom.data.counts import split_indices
from phaseloom.data.diagnostics import Finding, inspect
from phaseloom.data.scan import Scan4D
from phaseloom.data.signals import scan_steps
from phaseloom.direct.reconstruct import IMAGE_BORDER, DirectReconstruction, reconstruct_scan
from phaseloom.direct.solve import reconstruct_image
from phaseloom.errors import BadInput
from phaseloom.physics.optics import coefficients, to_cartesian
from phaseloom.plot.scan import detector_step
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.units import LENGTH
from phaseloom.web.state.run_images import Field

__all__ = ["DirectView", "ScanMap", "ScanView", "list_folder"]

RINGS = 96
"""Rings in which counts are kept, so that an annulus of any radii is a sum of columns."""

MAX_PATTERNS = 20_000
"""Patterns that are read for maps, evenly spread."""

PIXELS_OF_DIRECT_IMAGE = 200
"""Bright-field pixels of an image that follows sliders: few, so that it follows at once."""

MAX_ENTRIES = 2000


@dataclass(frozen=True, eq=False)
class ScanMap:
    """Values over the places of a scan.

    Attributes:
        values: ``(n,)`` for the patterns of ``index``.
        index: numbers of the patterns.
        positions: ``(n, 2)`` angstrom.
        image: the same as an image, where they are a whole raster.
    """

    values: np.ndarray
    index: np.ndarray
    positions: np.ndarray
    image: Field | None


class ScanView:
    """A scan that is looked at; what takes long is computed when it is first asked for.

    Attributes:
        scan: of the file.
        path: of the file.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any] | None = None):
        self.path = path
        self.scan: Scan4D = Reconstruct.from_path(path, settings).scan()
        self._lock = threading.Lock()

    @cached_property
    def findings(self) -> list[Finding]:
        """What `phaseloom look` prints."""
        return inspect(self.scan)

    @property
    def step(self) -> tuple[float, float]:
        """Of the detector (y, x), radian, or angstrom where ``is_length``."""
        return detector_step(self.scan.geometry)[0]

    @property
    def is_length(self) -> bool:
        """Whether detector pixels are lengths (a near field)."""
        return detector_step(self.scan.geometry)[1] is LENGTH

    @cached_property
    def index(self) -> np.ndarray:
        """Numbers of the patterns that are read for maps."""
        count = len(self.scan)
        return np.unique(np.linspace(0, count - 1, min(MAX_PATTERNS, count)).round().astype(int))

    @property
    def mean(self) -> np.ndarray:
        """Mean pattern."""
        return self._sums[1]

    @property
    def reach(self) -> float:
        """Largest distance of a detector pixel from the middle, in the unit of ``step``."""
        return float(self._radius.max())

    def pattern(self, index: int, /) -> np.ndarray:
        """One pattern; of lazy data no other is read."""
        return np.asarray(self.scan.counts[np.array([index])][0], float)

    def ring_map(self, inner: float, outer: float, /) -> ScanMap:
        """Counts between two distances from the middle of the detector, in the unit of ``step``.

        Rings are as wide as a `RINGS`-th of the detector's reach.
        """
        if not 0 <= inner < outer:
            raise BadInput("virtual detector", (inner, outer), "are not an inner and a larger outer radius")
        edges = np.linspace(0, self.reach, RINGS + 1)
        first = int(np.searchsorted(edges, inner, side="right")) - 1
        last = max(int(np.searchsorted(edges, outer, side="left")), first + 1)
        return self._map(self._sums[0][:, first:last].sum(1))

    def mask_map(self, inside: np.ndarray, /) -> ScanMap:
        """Counts in a free shape.

        Args:
            inside: ``(y, x)``, True in it.
        """
        used = inside & self.scan.mask
        if not used.any():
            raise BadInput("virtual detector", None, "holds no trusted pixel: draw a larger one")
        pieces = split_indices(self.scan.counts, self.index)
        parts = [self.scan.counts[part][:, used].sum(1, dtype=np.float64) for part in pieces]
        return self._map(np.concatenate(parts))

    def polygon(self, y: np.ndarray, x: np.ndarray, /) -> np.ndarray:
        """Pixels ``(y, x)`` inside of a polygon on the detector, in the unit of ``step`` from its corner."""
        from matplotlib.path import Path as Outline

        rows, columns = np.indices(self.scan.mask.shape)
        places = np.stack([(rows.ravel() + 0.5) * self.step[0], (columns.ravel() + 0.5) * self.step[1]], 1)
        outline = Outline(np.stack([y, x], 1))
        return outline.contains_points(places).reshape(self.scan.mask.shape)

    def find_nearest(self, place: tuple[float, float], /) -> int:
        """The pattern taken nearest to a place (y, x), angstrom."""
        return int(np.hypot(*(self.scan.positions - np.array(place)).T).argmin())

    @cached_property
    def _radius(self) -> np.ndarray:
        rows, columns = (np.arange(n) - n // 2 for n in self.scan.mask.shape)
        return np.hypot(rows[:, None] * self.step[0], columns[None] * self.step[1])

    @property
    def _sums(self) -> tuple[np.ndarray, np.ndarray]:
        with self._lock:
            return self._read_sums

    @cached_property
    def _read_sums(self) -> tuple[np.ndarray, np.ndarray]:
        """Counts of each pattern by ring, and the mean pattern, in one pass."""
        ring = np.minimum((self._radius / self.reach * RINGS).astype(int), RINGS - 1)
        table = np.zeros((ring.size, RINGS), np.float32)
        table[np.arange(ring.size), ring.ravel()] = self.scan.mask.ravel()
        mean = np.zeros(self.scan.mask.shape)
        sums = []
        for part in split_indices(self.scan.counts, self.index):
            counts = np.asarray(self.scan.counts[part], np.float32)
            mean += counts.sum(0, dtype=np.float64)
            sums.append(counts.reshape(len(counts), -1) @ table)
        return np.concatenate(sums), mean / len(self.index)

    def _map(self, values: np.ndarray) -> ScanMap:
        grid = self.scan.grid if len(self.index) == len(self.scan) else None
        positions = self.scan.positions[self.index]
        image = None
        if grid is not None and math.prod(grid) == len(values):
            slow, fast = scan_steps(positions, grid)
            image = Field(values.reshape(grid), (slow, fast), (0.0, 0.0))
        return ScanMap(values, self.index, positions, image)


class DirectView:
    """The direct image of a scan, with optics that are changed by hand.

    Attributes:
        found: as it came from the data.
    """

    def __init__(self, scan: Scan4D):
        self.found: DirectReconstruction = reconstruct_scan(scan)
        bright = self.found.survey.measure(scan, pixels=PIXELS_OF_DIRECT_IMAGE)
        self._spectrum = bright.transform(border=IMAGE_BORDER)

    @property
    def values(self) -> dict[str, float]:
        """The numbers that the data gave: defocus and astigmatism (angstrom), their angle and rotation
        (degrees), transposed (0 or 1).
        """
        optics = self.found.optics
        table = {name: float(value) for name, value in optics.aberrations.items()}
        a, b = table.get("C12a", 0.0), table.get("C12b", 0.0)
        return {
            "defocus": -table.get("C10", 0.0),
            "astigmatism": math.hypot(a, b),
            "angle": math.degrees(math.atan2(b, a)) / 2,
            "rotation": math.degrees(math.remainder(float(optics.rotation), 2 * math.pi)),
            "transposed": float(bool(optics.orientation & 4)),
        }

    def image(self, values: Mapping[str, float], /, *, method: str = "wiener") -> Field:
        """The phase with other optics.

        Args:
            values: as `values` has them.
            method: see `phaseloom.direct.solve.DirectMethod`.
        """
        given = {
            "defocus": values["defocus"],
            "C12": values["astigmatism"],
            "phi12": math.radians(values["angle"]),
        }
        one = self.found.optics
        kept = {name: v for name, v in one.aberrations.items() if name not in ("C10", "C12a", "C12b")}
        optics = replace(
            one,
            aberrations={**kept, **to_cartesian(coefficients(given))},
            rotation=math.radians(values["rotation"]),
            orientation=(one.orientation & 3) | (4 if values["transposed"] else 0),
        )
        image = reconstruct_image(optics, self._spectrum, method=method, border=IMAGE_BORDER)
        steps = np.linalg.norm(self.found.grid.steps, axis=1) * float(one.step)
        return Field(image.phase.double().numpy(), (float(steps[0]), float(steps[1])), (0.0, 0.0))


def list_folder(folder: Path, /) -> tuple[list[str], list[str]]:
    """Names of the folders and of the files in a folder, sorted; hidden ones are left out."""
    folders, files = [], []
    for entry in sorted(folder.iterdir(), key=lambda one: one.name.lower())[:MAX_ENTRIES]:
        if entry.name.startswith("."):
            continue
        (folders if entry.is_dir() else files).append(entry.name)
    return folders, files
