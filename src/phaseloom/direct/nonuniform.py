"""Fourier transforms of scans of any positions onto the frequencies of a regular grid of the image.

A spiral, a jittered raster or a montage has no FFT. Its values are spread over a grid twice as fine with a
Kaiser-Bessel kernel, transformed by FFT and divided by the transform of the kernel (type-1 non-uniform FFT).

Source: Fessler & Sutton 2003, doi 10.1109/TSP.2002.807005; shape of the kernel: Beatty, Nishimura & Pauly
2005, doi 10.1109/TMI.2005.848376.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor

from phaseloom.direct.grid import ImageGrid, compute_window, measure_cells

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = [
    "NonuniformSampling",
    "sample_positions",
    "transform_nonuniform",
]

KERNEL_WIDTH = 10
"""Places of the fine grid along each axis on which a value is spread: errors are below 1e-9."""

COLUMNS_AT_ONCE = 32
"""Columns of values on the fine grid at once."""


@dataclass(frozen=True, eq=False)
class NonuniformSampling:
    """What positions off a raster make of the changes: frequencies of the object mix.

    Attributes:
        values: ``(frequency, pixel)`` changes without weights for the density of positions.
        mixing: ``(row, column)`` real, positive and negative: products with it on a grid twice as fine as
            the image mix frequencies as the positions do, see `mix_frequencies`.
        window: ``(slow, fast)`` by which the image is faded at borders and gaps, 0 to 1.
        gain: of an image that is drawn from the spectrum without weights.
        weighted_gain: of one that is drawn from the spectrum with weights.
    """

    values: Complex[Tensor, "frequency pixel"]
    mixing: Float[Tensor, "row column"]
    window: Float[Tensor, "slow fast"]
    gain: float
    weighted_gain: float

    def to(self, dtype: torch.dtype, /) -> NonuniformSampling:
        """The same as complex64 or complex128, with real numbers as precise."""
        real = torch.float32 if dtype == torch.complex64 else torch.float64
        others = {name: getattr(self, name).to(real) for name in ("mixing", "window")}
        return replace(self, values=self.values.to(dtype), **others)

    def select_pixels(self, index: Int[Tensor, " some"], /) -> NonuniformSampling:
        """Some of the pixels of the detector."""
        return replace(self, values=self.values[:, index])

    def find_distinct(self) -> Bool[Tensor, " frequency"]:
        """Frequencies below half a cycle per pixel, which off a raster is not its own negative."""
        rows, columns = self.window.shape
        row = 2 * torch.arange(rows)[:, None] != rows
        column = 2 * torch.arange(columns // 2 + 1) != columns
        return (row & column).flatten()

    def mix_frequencies(
        self, values: Complex[Tensor, "frequency column"], used: Int[Tensor, " frequency"], /
    ) -> Complex[Tensor, "frequency column"]:
        """The spectrum that the positions show of a real image: the same, were they a raster.

        Args:
            values: spectrum of images at some of the frequencies, 0 at all others.
            used: which frequencies: none that is its own negative but zero, see `find_distinct`.

        Example:
            >>> rng = np.random.default_rng(0)
            >>> grid = ImageGrid(np.zeros(2), np.eye(2), (7, 5))
            >>> places = np.indices(grid.shape).reshape(2, -1).T.astype(float)
            >>> sampling = sample_positions(rng.normal(size=(35, 1)), places, grid, border=0.0)[0]
            >>> x = torch.fft.rfft2(torch.from_numpy(rng.normal(size=(7, 5)))).reshape(-1, 1)
            >>> torch.allclose(sampling.mix_frequencies(x, torch.arange(21)), x)
            True
        """
        rows, columns = self.window.shape
        half = columns // 2 + 1
        fine = (self.mixing.shape[0], self.mixing.shape[1])
        row = torch.div(used, half, rounding_mode="floor")
        column = used % half
        row = (row - rows * (row > (rows - 1) // 2)) % fine[0]
        padded = values.new_zeros(values.shape[1], fine[0], fine[1] // 2 + 1)
        padded[:, row, column] = values.mT
        field = torch.fft.irfft2(padded, s=fine, norm="forward")
        return torch.fft.rfft2(field * self.mixing)[:, row, column].mT


def transform_nonuniform(
    values: Float[np.ndarray, "place column"],
    index: Float[np.ndarray, "place 2"],
    shape: tuple[int, int],
    /,
) -> Complex[np.ndarray, "frequency column"]:
    """``sum_j values_j exp(-2 pi i Q . index_j)`` at the frequencies of `numpy.fft.rfft2` of an image.

    Args:
        values: of each position.
        index: of the positions, in pixels of the image (row, column), with fractions.
        shape: of the image.

    Example:
        >>> values = np.random.default_rng(0).normal(size=(12, 1))
        >>> index = np.indices((3, 4)).reshape(2, -1).T.astype(float)
        >>> found = transform_nonuniform(values, index, (3, 4))
        >>> bool(np.allclose(found[:, 0], np.fft.rfft2(values.reshape(3, 4)).ravel()))
        True
    """
    import scipy.fft

    least = [2 * max(n, KERNEL_WIDTH) for n in shape]
    fine = (_find_fast_length(least[0]), _find_fast_length(least[1]))
    spread = _build_spreading(index * (np.array(fine) / shape), fine)
    rows = np.round(np.fft.fftfreq(shape[0]) * shape[0]).astype(int)
    half = shape[1] // 2 + 1
    scale = np.outer(_transform_kernel(rows / fine[0]), _transform_kernel(np.arange(half) / fine[1]))
    parts = []
    for first in range(0, values.shape[1], COLUMNS_AT_ONCE):
        block = spread @ values[:, first : first + COLUMNS_AT_ONCE].astype(np.float64)
        full = np.asarray(scipy.fft.rfft2(block.T.reshape(-1, *fine)))[:, rows, :half]
        parts.append((full / scale).reshape(len(full), -1).T)
    return np.concatenate(parts, axis=1)


def _build_spreading(index: np.ndarray, fine: tuple[int, int]) -> csr_array:
    """What spreads values of positions, in pixels of the fine grid, on this grid."""
    from scipy.sparse import coo_array

    taps = np.arange(KERNEL_WIDTH)
    first = np.ceil(index - KERNEL_WIDTH / 2).astype(int)
    cells = first[:, None] + taps[:, None]
    weights = _evaluate_kernel(cells - index[:, None])
    both = weights[:, :, None, 0] * weights[:, None, :, 1]
    cells = cells % np.array(fine)
    column = cells[:, :, None, 0] * fine[1] + cells[:, None, :, 1]
    row = np.broadcast_to(np.arange(len(index))[:, None, None], column.shape)
    shape = (fine[0] * fine[1], len(index))
    return coo_array((both.ravel(), (column.ravel(), row.ravel())), shape=shape).tocsr()


def _find_fast_length(least: int) -> int:
    """A length of a fast FFT."""
    from scipy.fft import next_fast_len

    return int(next_fast_len(least) or least)


def _shape_kernel() -> float:
    """The parameter of the Kaiser-Bessel kernel for a grid twice as fine."""
    return math.pi * math.sqrt((KERNEL_WIDTH * 0.75) ** 2 - 0.8)


def _evaluate_kernel(distance: np.ndarray) -> np.ndarray:
    from scipy.special import i0e

    beta = _shape_kernel()
    root = np.sqrt(np.clip(1 - (2 * distance / KERNEL_WIDTH) ** 2, 0, None))
    inside = np.abs(distance) <= KERNEL_WIDTH / 2
    return np.where(inside, i0e(beta * root) * np.exp(beta * (root - 1)) / i0e(beta), 0.0)


def _transform_kernel(frequency: np.ndarray) -> np.ndarray:
    """Fourier transform of the kernel, at cycles per pixel of the fine grid."""
    from scipy.special import i0e

    beta = _shape_kernel()
    root = np.sqrt(beta**2 - (math.pi * KERNEL_WIDTH * frequency) ** 2)
    return KERNEL_WIDTH * np.sinh(root) / (root * i0e(beta) * math.exp(beta))


def sample_positions(
    changes: Float[np.ndarray, "place column"],
    positions: Float[np.ndarray, "place 2"],
    grid: ImageGrid,
    /,
    *,
    border: float,
) -> tuple[NonuniformSampling, Complex[np.ndarray, "frequency column"], Float[np.ndarray, " place"]]:
    """Transform the changes of a scan of any positions, with and without weights for their density.

    Args:
        changes: relative changes at each position.
        positions: angstrom.
        grid: of the image.
        border: share of the image that is faded out on each side.

    Returns:
        what the positions do, the spectrum with the weights, and the weights (with them the noise is that of
        a raster).
    """
    index = grid.index(positions)
    at, image = compute_window(positions, grid, border)
    cells = measure_cells(index)
    count = len(positions)
    norm = math.sqrt(float(np.square(at).sum()))
    weights = at * cells * (count / math.prod(grid.shape))
    weighted_norm = math.sqrt(float(np.square(weights).sum()))
    weights = weights / weighted_norm
    plain = transform_nonuniform(changes * (at / norm)[:, None], index, grid.shape)
    weighted = transform_nonuniform(changes * weights[:, None], index, grid.shape)
    # so fine that no two differences of frequencies coincide
    fine = (_find_fast_length(2 * grid.shape[0] + 1), _find_fast_length(2 * grid.shape[1] + 1))
    stretched = index * (np.array(fine) / grid.shape)
    kernel = transform_nonuniform(np.ones((count, 1)), stretched, fine)[:, 0]
    mixing = np.fft.irfft2(kernel.reshape(fine[0], -1), s=fine) / count
    sampling = NonuniformSampling(
        values=torch.from_numpy(plain),
        mixing=torch.from_numpy(mixing),
        window=torch.from_numpy(image),
        gain=norm * math.prod(grid.shape) / count,
        weighted_gain=weighted_norm * math.prod(grid.shape) / count,
    )
    return sampling, weighted, weights
