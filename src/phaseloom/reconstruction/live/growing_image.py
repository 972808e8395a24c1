"""The direct image of a scan that is being taken: each pattern is measured once, when it comes."""

import math
from pathlib import Path

import numpy as np

from phaseloom.data.counts import split_indices
from phaseloom.data.scan import Scan4D
from phaseloom.files import whole
from phaseloom.virtual.images import integrate_phase, subtract_plane

__all__ = ["GrowingImage"]

MIN_PATTERNS = 9
"""Patterns below which nothing is drawn."""

MAX_SIDE = 512
"""Places of the image along a side, where positions are not a raster."""


class GrowingImage:
    """Light and phase of a scan without iteration, from the sum and the centre of mass of each pattern.

    The phase is the one whose gradient is nearest to the deflections of the beam (differential phase
    contrast), blurred by the probe. The probe need not be known. In a near field, where patterns are images,
    there is no phase. Positions that are not a raster are interpolated.

    Attributes:
        light: ``(n,)`` counts of each pattern.
        deflection: ``(n, 2)`` centre of mass of each pattern in a far field, radian (row, column).

    Example:
        >>> from phaseloom.data.scan import Geometry
        >>> geometry = Geometry(wavelength=1.0, shape=(8, 8), angle=(1e-4, 1e-4))
        >>> counts = np.random.default_rng(0).poisson(9.0, (20, 8, 8))
        >>> places = np.indices((4, 5)).reshape(2, -1).T * 10.0
        >>> image = GrowingImage()
        >>> image.update(Scan4D(counts=counts[:12], positions=places[:12], geometry=geometry))
        >>> image.update(Scan4D(counts=counts, positions=places, geometry=geometry, grid=(4, 5)))
        >>> len(image.light), image.phase().shape
        (20, (4, 5))
    """

    def __init__(self) -> None:
        self.light = np.zeros(0)
        self.deflection = np.zeros((0, 2))
        self.scan: Scan4D | None = None

    def update(self, scan: Scan4D, /) -> None:
        """Measure the patterns of a scan that have come since the last call; the first ones are the same."""
        self.scan = scan
        known = len(self.light)
        lever = np.indices(scan.geometry.shape, float) - np.array(scan.geometry.shape)[:, None, None] // 2
        table = np.stack([scan.mask, *(lever * scan.mask)], -1).reshape(-1, 3)
        sums = np.zeros((len(scan) - known, 3))
        for index in split_indices(scan.counts, np.arange(known, len(scan))):
            sums[index - known] = np.asarray(scan.counts[index], float).reshape(len(index), -1) @ table
        centre = sums[:, 1:] / np.maximum(sums[:, :1], 1e-9) * np.asarray(scan.geometry.angle)
        self.light = np.concatenate([self.light, sums[:, 0]])
        self.deflection = np.concatenate([self.deflection, centre])

    def phase(self) -> np.ndarray | None:
        """``(rows, columns)`` radian, mean zero; ``None``: too few patterns, or a near field."""
        scan = self.scan
        if scan is None or scan.geometry.near or len(self.light) < MIN_PATTERNS:
            return None
        places, grid, values = self._lay_out(subtract_plane(self.deflection, scan.positions))
        return integrate_phase(values, places, grid, wavelength=scan.geometry.wavelength)

    def transmission(self) -> np.ndarray | None:
        """``(rows, columns)`` counts of the patterns; ``None``: too few patterns."""
        if self.scan is None or len(self.light) < MIN_PATTERNS:
            return None
        _, grid, values = self._lay_out(self.light[:, None])
        return values[:, 0].reshape(grid)

    def save(self, path: Path, /) -> bool:
        """Write the phase, or where there is none the light, as a picture; whether there was something."""
        from matplotlib import image

        from phaseloom.plot.style import limits

        seen = self.phase()
        seen = self.transmission() if seen is None else seen
        if seen is None:
            return False
        low, high = limits(seen)
        with whole(path) as short:
            image.imsave(short, np.nan_to_num(seen, nan=low), format="png", cmap="gray", vmin=low, vmax=high)
        return True

    def _lay_out(self, values: np.ndarray) -> tuple[np.ndarray, tuple[int, int], np.ndarray]:
        """Positions, raster and values ``(n, k)`` on a raster; NaN where no pattern is near."""
        scan = self.scan
        assert scan is not None
        if scan.grid is not None:
            return scan.positions, scan.grid, values
        low = scan.positions.min(0)
        extent = np.maximum(np.ptp(scan.positions, axis=0), 1e-9)
        step = max(math.sqrt(float(extent.prod()) / len(scan)), float(extent.max()) / MAX_SIDE)
        rows, columns = (int(side / step) + 1 for side in extent)
        from scipy.interpolate import griddata

        places = low + np.indices((rows, columns)).reshape(2, -1).T * step
        if min(rows, columns) < 2:  # on a line there are no triangles
            nearest = griddata(scan.positions, values, places, method="nearest")
            return places, (rows, columns), nearest
        laid = griddata(scan.positions, values, places, method="linear", rescale=True)
        return places, (rows, columns), laid
