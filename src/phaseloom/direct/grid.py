"""The regular grid of an image of a scan: the raster itself, or one that follows from any positions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from phaseloom.errors import BadInput
from phaseloom.metrics.linear_map import fit_linear_map

__all__ = [
    "ImageGrid",
    "border_weights",
    "choose_image_grid",
    "compute_window",
    "fit_lattice",
    "measure_cells",
    "rise_from_ends",
]

MAX_JITTER = 0.02
"""Root mean square distance of positions from a raster, in steps, below which they count as one."""

MAX_DISTANCE_FROM_RASTER = 1.0
"""The same above which an image gets a grid of its own, not that of the raster."""

MIN_SHARE_OF_RASTER = 0.5
"""Share of the variance of positions that the order of a raster has to explain."""

SMALL_CELL = 0.25
"""Quantile of the cells of positions that is the pixel of an image: of a raster without every fifth place
still the cell of the raster."""

MAX_CELL = 3.0
"""Cells beyond so many medians, at borders and gaps, are cut."""

MAX_GAP = 1.5
"""Distance from all positions, in pixels, from which an image has no data."""

MAX_PIXELS_PER_PLACE = 16
"""Pixels of an image for each position; more would be empty."""


@dataclass(frozen=True, eq=False)
class ImageGrid:
    """A regular grid of an image, which repeats beyond its borders.

    Attributes:
        first: position of the first pixel, (row, column) angstrom.
        steps: ``(2, 2)`` steps to the next (row, column) as rows, angstrom.
        shape: rows and columns.
    """

    first: Float[np.ndarray, " 2"]
    steps: Float[np.ndarray, "2 2"]
    shape: tuple[int, int]

    def index(self, positions: Float[np.ndarray, "place 2"], /) -> Float[np.ndarray, "place 2"]:
        """Positions in pixels, with fractions."""
        return (positions - self.first) @ np.linalg.inv(self.steps)

    def places(self) -> Float[np.ndarray, "pixel 2"]:
        """Positions of all pixels, angstrom."""
        return self.first + np.indices(self.shape).reshape(2, -1).T @ self.steps

    def refine(self, upsample: int, /) -> ImageGrid:
        """So many pixels for each, along each axis, from the same first position."""
        rows, columns = (n * upsample for n in self.shape)
        return ImageGrid(self.first, self.steps / upsample, (rows, columns))

    def frequencies(self) -> Float[Tensor, "frequency 2"]:
        """Those of `torch.fft.rfft2`, cycles per angstrom."""
        rows = torch.fft.fftfreq(self.shape[0], dtype=torch.float64)
        columns = torch.fft.rfftfreq(self.shape[1], dtype=torch.float64)
        index = torch.cartesian_prod(rows, columns)
        return index @ torch.linalg.inv(torch.from_numpy(self.steps)).T


def choose_image_grid(
    positions: Float[np.ndarray, "place 2"], grid: tuple[int, int] | None, /
) -> tuple[ImageGrid, bool]:
    """The grid of an image of some positions, and whether they are a raster that an FFT transforms.

    Of a raster, even a jittered one, the grid is the raster. Otherwise its axes are those of the positions,
    and the area of its pixels is that of the smaller cells around positions.

    Args:
        positions: angstrom.
        grid: (slow, fast) of a raster, if they are said to be one.

    Raises:
        BadInput: positions on one line, or in another order than the raster that they are said to be.

    Example:
        >>> places = np.stack(np.indices((6, 8)), -1).reshape(-1, 2) * 0.5
        >>> grid, regular = choose_image_grid(places[np.random.default_rng(0).random(48) > 0.2], None)
        >>> grid.shape, grid.steps.round(6).tolist(), regular
        ((6, 8), [[0.5, 0.0], [0.0, 0.5]], False)
    """
    lattice = None if grid is None else fit_lattice(positions, grid)
    if grid is not None and lattice is not None:
        index = np.indices(grid).reshape(2, -1).T
        first = positions.mean(0) - index.mean(0) @ lattice
        left = np.square(positions - first - index @ lattice).sum(1).mean()
        if left > (1 - MIN_SHARE_OF_RASTER) * positions.var(0).sum():
            fix = (
                f"do not follow the raster of {grid[0]} x {grid[1]}: state them in the order of the patterns"
            )
            raise BadInput("direct: positions", None, fix)
        jitter = math.sqrt(left / abs(np.linalg.det(lattice)))
        if jitter <= MAX_DISTANCE_FROM_RASTER:
            return ImageGrid(first, lattice, grid), jitter <= MAX_JITTER
    pixel = math.sqrt(float(np.quantile(measure_cells(positions), SMALL_CELL)))
    extent = np.ptp(positions, axis=0)
    rows, columns = (math.ceil(one / pixel - 1e-6) + 1 for one in extent)
    most = MAX_PIXELS_PER_PLACE * len(positions)
    if rows * columns > most:
        fix = f"would need an image of {rows} x {columns}: cut the scan into parts without wide gaps"
        raise BadInput("direct: positions", len(positions), fix)
    return ImageGrid(positions.min(0), pixel * np.eye(2), (rows, columns)), False


def measure_cells(positions: Float[np.ndarray, "place 2"], /) -> Float[np.ndarray, " place"]:
    """Area that is nearer to each position than to all others (Voronoi cell), cut at borders and gaps.

    Args:
        positions: angstrom; those that repeat share their cell.

    Raises:
        BadInput: positions that span no area.

    Example:
        >>> measure_cells(np.stack(np.indices((3, 4)), -1).reshape(-1, 2) * 2.0).round(6).tolist()
        [4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0]
    """
    from scipy.spatial import Voronoi

    low = positions.min(0)
    extent = np.ptp(positions, axis=0)
    scale = float(extent.max()) or 1.0
    places, which, repeats = np.unique(
        np.round((positions - low) / scale, 12), axis=0, return_inverse=True, return_counts=True
    )
    if len(places) < 4 or np.linalg.svd(places - places.mean(0), compute_uv=False)[1] < 1e-6:
        raise BadInput("direct: positions", None, "lie on one line: an image needs positions on an area")
    spacing = _estimate_spacing(extent / scale, len(places))
    mirrored = [places]
    for axis in range(2):  # so that cells at the border end half a spacing beyond it
        for end, sign in ((0.0, -1), (extent[axis] / scale, 1)):
            near = places[np.abs(places[:, axis] - end) < 3 * spacing]
            other = near.copy()
            other[:, axis] = 2 * end + sign * spacing - near[:, axis]
            mirrored.append(other)
    cells = Voronoi(np.concatenate(mirrored))
    pairs = cells.ridge_points
    ends = np.asarray(cells.ridge_vertices)
    closed = (ends >= 0).all(1)
    length = np.linalg.norm(np.diff(cells.vertices[ends], axis=1)[:, 0], axis=-1)
    apart = np.linalg.norm(np.diff(cells.points[pairs], axis=1)[:, 0], axis=-1)
    triangle = np.where(closed, length * apart / 4, np.inf)
    area = sum(np.bincount(side, triangle, len(cells.points)) for side in pairs.T)
    area = np.asarray(area)[: len(places)]
    area = np.minimum(area, MAX_CELL * np.median(area)) / repeats
    return area[which.reshape(-1)] * scale**2


def _estimate_spacing(extent: np.ndarray, count: int) -> float:
    """Step of a square raster of so many positions on a rectangle."""
    rim = float(extent.sum())
    return (rim + math.sqrt(rim**2 + 4 * (count - 1) * float(extent.prod()))) / (2 * (count - 1))


def compute_window(
    positions: Float[np.ndarray, "place 2"], grid: ImageGrid, border: float, /
) -> tuple[Float[np.ndarray, " place"], Float[np.ndarray, "slow fast"]]:
    """Weights that rise from the borders of an image and of its gaps: at the positions, and at the pixels.

    Args:
        positions: angstrom.
        grid: of the image.
        border: share of the image on which weights rise, on each side; 0: all are 1 where there is data.

    Example:
        >>> grid = ImageGrid(np.zeros(2), np.eye(2), (8, 8))
        >>> at, image = compute_window(grid.places(), grid, 0.25)
        >>> np.allclose(at.reshape(8, 8), image), image[0].round(3).tolist()
        (True, [0.021, 0.125, 0.146, 0.146, 0.146, 0.146, 0.125, 0.021])
    """
    from scipy.ndimage import distance_transform_edt, map_coordinates
    from scipy.spatial import KDTree

    index = grid.index(positions)
    pixels = np.indices(grid.shape).reshape(2, -1).T
    spacing = max(1.0, math.sqrt(float(np.quantile(measure_cells(index), SMALL_CELL))))
    apart, _ = KDTree(index).query(pixels, distance_upper_bound=MAX_GAP * spacing)
    covered = np.isfinite(apart).reshape(grid.shape)
    image = covered.astype(np.float64)
    at = np.ones(len(index))
    if not covered.all() and border:
        inward = np.asarray(distance_transform_edt(covered)) - spacing
        ramp = np.sin(np.pi / 2 * np.clip(inward / (border * min(grid.shape)), 0, 1)) ** 2
        at = map_coordinates(ramp, index.T, order=1, mode="nearest")
        image = ramp
    for axis, count in enumerate(grid.shape):
        at = at * rise_from_ends(index[:, axis], count, border)
        image = image * rise_from_ends(pixels[:, axis], count, border).reshape(grid.shape)
    return at, image


def fit_lattice(
    positions: Float[np.ndarray, "pattern 2"], grid: tuple[int, int], /
) -> Float[np.ndarray, "2 2"] | None:
    """Steps ``(slow, fast)`` of a raster as rows (row, column), angstrom; ``None`` if they span no plane.

    Example:
        >>> places = np.stack(np.indices((3, 4)), -1).reshape(-1, 2) * [2.0, 0.5]
        >>> (fit_lattice(places, (3, 4)).round(9) + 0.0).tolist()
        [[2.0, 0.0], [0.0, 0.5]]
    """
    index: Int[np.ndarray, "pattern 2"] = np.indices(grid).reshape(2, -1).T
    if len(index) != len(positions) or min(grid) < 2:
        return None
    steps = fit_linear_map(index, positions)
    return steps if abs(np.linalg.det(steps)) > 1e-12 else None


def border_weights(count: int, border: float, /, *, upsample: int = 1) -> Float[Tensor, " place"]:
    """Weights along one axis of a scan that rise from its ends as a sine squared.

    Args:
        count: of places.
        border: share of them on which weights rise, on each side; 0: all are 1.
        upsample: places of an image for each place of the scan.

    Example:
        >>> border_weights(4, 0.0).tolist()
        [1.0, 1.0, 1.0, 1.0]
    """
    place = np.arange(count * upsample) / upsample
    return torch.from_numpy(rise_from_ends(place, count, border))


def rise_from_ends(
    index: Float[np.ndarray, " place"], count: int, border: float, /
) -> Float[np.ndarray, " place"]:
    """The same at any places along the axis, in pixels, with fractions.

    Args:
        index: 0 in the middle of the first pixel; beyond half a pixel from the ends weights are 0.
        count: of pixels.
        border: share of them on which weights rise, on each side; 0: all are 1.
    """
    if not border:
        return np.ones_like(index, dtype=np.float64)
    ends = np.minimum(index + 0.5, count - 0.5 - index) / (border * count)
    return np.sin(np.pi / 2 * np.clip(ends, 0, 1)) ** 2
