"""The pixels of the bright-field disk over a scan, read once, as relative changes by spatial frequency."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from phaseloom.data.beam_drift import smooth_intensity
from phaseloom.data.counts import split_indices
from phaseloom.data.descan import WINDOW_IN_RADII
from phaseloom.data.scan import Scan4D
from phaseloom.direct.grid import ImageGrid, border_weights, choose_image_grid
from phaseloom.direct.nonuniform import NonuniformSampling, sample_positions, transform_nonuniform
from phaseloom.errors import BadInput

__all__ = [
    "BrightField",
    "Spectrum",
    "measure_bright_field",
    "measure_centres_of_mass",
]

MIN_PIXELS_IN_DISK = 12
"""Fewer detector pixels in the disk tell nothing of the optics."""

BORDER_SHARE = 0.1
"""Share of the scan on each side over which the border is faded out, as opposite borders do not match."""


PIXELS_AT_ONCE = 64
"""Pixels whose images are transformed together: all at once would take more memory than the result."""

FREQUENCIES_AT_ONCE = 256
"""Frequencies whose power is summed together, for the same reason."""


@dataclass(frozen=True, eq=False)
class BrightField:
    """Counts in the bright-field disk, pattern by pattern; pixels may hold several of the detector's.

    Attributes:
        changes: ``(pattern, pixel)`` counts over those of the pixel in the mean, less 1; 0 where masked.
        counts: ``(pixel,)`` mean counts: a change has the variance ``1 / counts``.
        place: ``(pixel, 2)`` about the middle of the disk, cycles per angstrom, (row, column), as read.
        width: of a pixel, cycles per angstrom, (row, column).
        positions: ``(pattern, 2)`` as stated, angstrom.
        grid: (slow, fast) of a raster, or ``None``.
        blank: patterns without counts, whose changes are 0.
        deflection: ``(half, pattern, 2)`` centres of mass, see `measure_centres_of_mass`, if they are needed.
    """

    changes: Float[np.ndarray, "pattern pixel"]
    counts: Float[np.ndarray, " pixel"]
    place: Float[np.ndarray, "pixel 2"]
    width: tuple[float, float]
    positions: Float[np.ndarray, "pattern 2"]
    grid: tuple[int, int] | None
    blank: int = 0
    deflection: Float[np.ndarray, "half pattern 2"] | None = None

    def transform(
        self, *, border: float = BORDER_SHARE, upsample: int = 1, dtype: torch.dtype = torch.complex128
    ) -> Spectrum:
        """The changes by spatial frequency of the scan.

        A raster, also a turned or sheared one, is transformed by FFT; a scan of other positions, weighted by
        their density, onto the frequencies of a regular grid (`phaseloom.direct.nonuniform`).

        Args:
            border: share of the scan faded out on each side; 0: none.
            upsample: makes the grid of positions off a raster so many times finer along each axis; of a
                raster, `phaseloom.direct.solve.list_aliases` finds the frequencies of a finer image.
            dtype: complex64 or complex128.

        Raises:
            BadInput: positions on one line, or in another order than that of their raster.
        """
        real = torch.float32 if dtype == torch.complex64 else torch.float64
        image_grid, regular = choose_image_grid(self.positions, self.grid)
        if regular:
            sampling = None
            values = self._transform_raster(self.changes, border, dtype)
            halves = [self._transform_raster(one, border, dtype) for one in self._list_deflections()]
        else:
            image_grid = image_grid.refine(upsample)
            index = image_grid.index(self.positions)
            sampling, found, weights = sample_positions(
                self.changes, self.positions, image_grid, border=border
            )
            sampling = sampling.to(dtype)
            values = torch.from_numpy(found)
            halves = [
                torch.from_numpy(transform_nonuniform(one * weights[:, None], index, image_grid.shape))
                for one in self._list_deflections()
            ]
        return Spectrum(
            values=values.to(dtype),
            frequency=image_grid.frequencies().to(real),
            place=torch.from_numpy(self.place).to(real),
            counts=torch.from_numpy(self.counts).to(real),
            edge=max(self.width),
            shape=(image_grid.shape[0], image_grid.shape[1] // 2 + 1),
            grid=image_grid.shape,
            deflection=torch.stack(halves).to(dtype) if halves else None,
            sampling=sampling,
            image_grid=image_grid,
        )

    def _list_deflections(self) -> list[np.ndarray]:
        return [] if self.deflection is None else list(self.deflection)

    def _transform_raster(self, columns: np.ndarray, border: float, dtype: torch.dtype) -> Tensor:
        assert self.grid is not None
        fade = torch.outer(*(border_weights(n, border) for n in self.grid))
        fade = fade / fade.square().sum().sqrt()
        rows, fast = self.grid
        out = torch.empty(columns.shape[1], rows * (fast // 2 + 1), dtype=dtype)
        for first in range(0, len(out), PIXELS_AT_ONCE):
            part = torch.from_numpy(columns[:, first : first + PIXELS_AT_ONCE]).double()
            out[first : first + PIXELS_AT_ONCE] = torch.fft.rfft2(
                part.T.reshape(-1, rows, fast) * fade
            ).flatten(1)
        return out.T


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Changes of bright-field pixels by frequency of the scan: the half that a real scan has.

    Attributes:
        values: ``(frequency, pixel)``; noise of a pixel has the variance ``1 / counts`` at each frequency.
        frequency: ``(frequency, 2)`` cycles per angstrom, in the frame of the stated positions.
        place: ``(pixel, 2)``: see `BrightField`.
        counts: ``(pixel,)``.
        edge: width of a pixel, cycles per angstrom.
        shape: rows and columns of the frequencies, if they are all of a regular grid.
        grid: rows and columns of the raster, or of the image.
        deflection: ``(half, frequency, 2)`` centres of mass, if they were measured.
        sampling: of positions off a raster.
        image_grid: where the image lies, if known.
    """

    values: Complex[Tensor, "frequency pixel"]
    frequency: Float[Tensor, "frequency 2"]
    place: Float[Tensor, "pixel 2"]
    counts: Float[Tensor, " pixel"]
    edge: float
    shape: tuple[int, int] | None = None
    grid: tuple[int, int] | None = None
    deflection: Complex[Tensor, "half frequency 2"] | None = None
    sampling: NonuniformSampling | None = None
    image_grid: ImageGrid | None = None

    def select(self, index: Tensor, /) -> Spectrum:
        """Some of the frequencies."""
        return replace(
            self,
            values=self.values[index],
            frequency=self.frequency[index],
            shape=None,
            grid=None,
            deflection=None if self.deflection is None else self.deflection[:, index],
            sampling=None,
        )

    def to(self, device: torch.device | str, /) -> Spectrum:
        """What a fit of optics looks at, on a device."""
        names = ("values", "frequency", "place", "counts")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def select_pixels(self, index: Tensor, /) -> Spectrum:
        """Some of the pixels."""
        return replace(
            self,
            values=self.values[:, index],
            place=self.place[index],
            counts=self.counts[index],
            sampling=None if self.sampling is None else self.sampling.select_pixels(index),
        )

    def select_strongest(self, count: int, /, *, lowest: float = 0.0, highest: float = math.inf) -> Spectrum:
        """The frequencies that hold most of the change, then the lowest of those that only hold noise.

        Args:
            count: at most so many.
            lowest: cycles per angstrom; zero frequency is left out in any case.
            highest: cycles per angstrom.
        """
        length = self.frequency.norm(dim=-1)
        inside = torch.nonzero((length > max(lowest, 0.0)) & (length <= highest))[:, 0]
        pixels = len(self.place)
        power = self.power()[inside] / pixels
        loud = power > 1 + 4 * math.sqrt(1 / pixels)
        order = torch.where(loud, -power, length[inside])  # what is loud is negative, so first
        kept = inside[torch.argsort(order, stable=True)[:count]]
        return self.select(kept.sort().values)

    def merge_pixels(self, count: int, /) -> Spectrum:
        """Neighbouring pixels summed in square cells, so that at most so many are left; no count is lost.

        Args:
            count: of cells.
        """
        area = math.pi * float(self.place.norm(dim=-1).max()) ** 2
        cell = math.sqrt(area / count)
        while True:
            corner = torch.floor(self.place / cell + 0.5).long()
            _, which = torch.unique(corner, dim=0, return_inverse=True)
            if int(which.max()) < count:
                break
            cell *= 1.1
        table = torch.nn.functional.one_hot(which).to(self.counts.dtype) * self.counts[:, None]
        counts = table.sum(0)
        table = table / counts
        values = self.values @ table.to(self.values.dtype)
        return replace(
            self,
            values=values,
            place=table.T @ self.place,
            counts=counts,
            edge=max(self.edge, cell),
            sampling=None,
        )

    def power(self) -> Float[Tensor, " frequency"]:
        """What changes at each frequency, in units of the noise of one number."""
        parts = torch.view_as_real(self.values).split(FREQUENCIES_AT_ONCE)
        return torch.cat([part.square().sum(-1) @ self.counts for part in parts])


def measure_bright_field(
    scan: Scan4D,
    /,
    *,
    centre: tuple[float, float],
    radius: float,
    pixels: int = 200,
    mask: Bool[np.ndarray, "y x"] | None = None,
    descan: Float[np.ndarray, "pattern 2"] | None = None,
) -> BrightField:
    """Read the bright-field disk of each pattern, in one pass.

    The disk is followed by whole pixels where ``descan`` moves it; nothing is interpolated. Detector pixels
    are summed in square blocks until no more than about ``pixels`` are left. A slow change of the beam's
    intensity over the scan is divided out.

    Args:
        scan: a far-field scan.
        centre: of the disk in the middle of the scan, pixel (row, column).
        radius: of the disk, detector pixels.
        pixels: about how many are kept.
        mask: True where a pixel can be trusted; default: that of the scan.
        descan: by how many pixels (row, column) the disk of each pattern lies off ``centre``.

    Raises:
        BadInput: a disk of too few pixels, or patterns that are all alike.
    """
    good = scan.mask if mask is None else scan.mask & mask
    block = max(1, round(math.sqrt(math.pi * radius**2 / pixels)))
    moves = np.zeros((len(scan), 2), int) if descan is None else np.round(descan).astype(int)
    steps, which = np.unique(moves, axis=0, return_inverse=True)
    which = which.reshape(-1)
    window = _Window.of(centre, radius, block, scan.geometry.shape, steps)
    trusted = [window.cut(good, step) for step in steps]
    shares = np.stack([window.sum_blocks(one.astype(np.float32)) for one in trusted]) / block**2
    # a block lies in the disk if its farthest corner does
    outside = np.hypot(*(np.abs(np.moveaxis(window.places(), -1, 0)) + block / 2))
    inside = (outside <= radius) & (shares.mean(0) > 0.5)
    if inside.sum() < MIN_PIXELS_IN_DISK:
        fix = "pixels lie in the bright-field disk: state the semi-angle, or the angle of a pixel, rightly"
        raise BadInput("direct", int(inside.sum()), fix)
    sums = np.empty((len(scan), int(inside.sum())), np.float32)
    for index in split_indices(scan.counts):
        stack = np.asarray(scan.counts[index])
        for number in np.unique(which[index]):
            mine = np.flatnonzero(which[index] == number)
            part = window.cut(stack if len(mine) == len(stack) else stack[mine], steps[number])
            sums[index[mine]] = window.sum_blocks(part, trusted[number])[:, inside]
    found = _normalise(scan, sums, shares[:, inside][which], window.places()[inside], window)
    return found if descan is None else remove_rim_motion(found, descan - moves)


def measure_centres_of_mass(
    scan: Scan4D,
    /,
    *,
    centre: tuple[float, float],
    radius: float,
    mask: Bool[np.ndarray, "y x"],
    descan: Float[np.ndarray, "pattern 2"] | None = None,
) -> Float[np.ndarray, "half pattern 2"]:
    """Centres of mass around the disk, cycles per angstrom (row, column) as read, of halves of the detector.

    The halves are the colours of a checkerboard of pixels, so that no electron is counted in both; each is
    twice what its pixels add to the centre of mass of all. Their mean is that of all pixels. The mean over
    the scan and the descan are taken off; untrusted pixels are taken to follow the counts of the others.

    Args:
        scan: a far-field scan.
        centre: of the disk, pixel (row, column).
        radius: of the disk, detector pixels.
        mask: True where a pixel can be trusted.
        descan: by how many pixels (row, column) the disk of each pattern lies off ``centre``.
    """
    lever = np.indices(mask.shape).astype(np.float64) - np.asarray(centre)[:, None, None]
    window = np.hypot(*lever) < WINDOW_IN_RADII * radius
    disk = np.hypot(*lever) < radius
    colour = np.indices(mask.shape).sum(0) % 2
    used = window & mask
    table = np.stack([used, *(lever * (used & (colour == 0))), *(lever * (used & (colour == 1)))], -1)
    sums = np.zeros((len(scan), 5))
    for index in split_indices(scan.counts):
        stack = np.asarray(scan.counts[index], np.float32)
        sums[index] = stack.reshape(len(index), -1) @ table.reshape(-1, 5).astype(np.float32)
    halves = 2 * sums[:, 1:] / np.maximum(sums[:, :1], 1e-9)
    # untrusted pixels of the disk hold their share of counts but do not move the centre
    halves = halves.reshape(-1, 2, 2).swapaxes(0, 1) * (disk & mask).sum() / max(disk.sum(), 1)
    if descan is not None:
        halves = halves - descan
    seen = sums[:, 0] > 0
    halves[:, ~seen] = halves[:, seen].mean(1, keepdims=True)  # a blank pattern has no centre
    halves = halves - halves.mean(1, keepdims=True)
    return halves * np.asarray(scan.geometry.angle) / scan.geometry.wavelength


@dataclass(frozen=True)
class _Window:
    """The square around the disk, in blocks of pixels.

    Attributes:
        first: first pixel (row, column).
        blocks: how many (rows, columns).
        block: detector pixels in a block along each axis.
        centre: pixel of the disk.
    """

    first: tuple[int, int]
    blocks: tuple[int, int]
    block: int
    centre: tuple[float, float]

    @classmethod
    def of(
        cls,
        centre: tuple[float, float],
        radius: float,
        block: int,
        shape: tuple[int, int],
        moves: np.ndarray,
    ) -> _Window:
        first = []
        count = []
        for axis, (middle, size) in enumerate(zip(centre, shape, strict=True)):
            low = max(math.floor(middle - radius), -int(moves[:, axis].min()), 0)
            high = min(math.ceil(middle + radius) + 1, size - int(moves[:, axis].max()), size)
            blocks = (high - low) // block
            if blocks < 1:
                fix = "has no pixel on the detector: check the centre and the radius of the disk"
                raise BadInput("direct: bright-field disk", f"centre {centre}, radius {radius:.4g}", fix)
            first.append(low + (high - low - blocks * block) // 2)
            count.append(blocks)
        return cls((first[0], first[1]), (count[0], count[1]), block, centre)

    def cut(self, stack: np.ndarray, move: np.ndarray) -> np.ndarray:
        """The square, moved by so many pixels."""
        slices = tuple(
            slice(first + by, first + by + blocks * self.block)
            for first, by, blocks in zip(self.first, move, self.blocks, strict=True)
        )
        return stack[(..., *slices)]

    def sum_blocks(self, stack: np.ndarray, trusted: np.ndarray | None = None) -> np.ndarray:
        """Counts of each block, of trusted pixels only."""
        out: np.ndarray | None = None
        for row in range(self.block):
            for column in range(self.block):
                part = (..., slice(row, None, self.block), slice(column, None, self.block))
                values = stack[part].astype(np.float32)
                if trusted is not None and not trusted[part].all():
                    values *= trusted[part]
                out = values if out is None else out + values
        assert out is not None
        return out

    def places(self) -> Float[np.ndarray, "rows columns 2"]:
        """Middles of the blocks about the centre, detector pixels."""
        axes = (
            first + self.block * np.arange(n) + (self.block - 1) / 2 - middle
            for first, n, middle in zip(self.first, self.blocks, self.centre, strict=True)
        )
        return np.stack(np.meshgrid(*axes, indexing="ij"), -1)


def _normalise(
    scan: Scan4D, sums: np.ndarray, share: np.ndarray, place: np.ndarray, window: _Window
) -> BrightField:
    """Counts of blocks as relative changes; ``share`` is that of their trusted pixels, and is written to."""
    geometry = scan.geometry
    total = np.maximum(sums.sum(1) / np.maximum(share.sum(1), 1e-9), 1e-9)
    blank = sums.sum(1) <= 0
    total[blank] = np.median(total[~blank]) if not blank.all() else 1.0
    intensity = smooth_intensity(total, scan.grid)
    share[blank] = 0.0
    trusted = share > 0.25
    changes = share * intensity[:, None].astype(np.float32)  # what is expected; in place, as it may be large
    expected = changes.sum(0, dtype=np.float64)
    gain = sums.sum(0, dtype=np.float64) / np.maximum(expected, 1e-9)  # of one block that is whole
    lit = gain > 0.5 * np.median(gain[gain > 0]) if (gain > 0).any() else gain > 0
    if not lit.any():
        raise BadInput(
            "direct", None, "finds no counts in the bright-field disk: check the data and the mask"
        )
    changes *= gain.astype(np.float32)
    np.maximum(changes, 1e-30, out=changes)
    np.divide(sums, changes, out=changes, where=trusted)
    changes -= 1
    changes[~trusted] = 0.0
    if not lit.all():
        changes = changes[:, lit]
    if np.abs(changes).max(initial=0.0) < 1e-6:  # rounding
        fix = "finds nothing that changes in the bright-field disk: are all patterns copies of one?"
        raise BadInput("direct", None, fix)
    unit = np.asarray(geometry.angle) / geometry.wavelength
    height, width = (unit * window.block).tolist()
    return BrightField(
        changes=changes,
        counts=(sums.mean(0))[lit].astype(np.float64),
        place=place[lit] * unit,
        width=(height, width),
        positions=scan.positions,
        grid=scan.grid,
        blank=int(blank.sum()),
    )


def remove_rim_motion(bright: BrightField, shift: Float[np.ndarray, "pattern 2"], /) -> BrightField:
    """Take off the changes of each pixel that follow the part of a descan that is less than a pixel.

    Pixels at the rim of the disk get brighter and darker with it, on opposite sides oppositely, as if an
    object deflected the beam. Each pixel is fitted by a polynomial of second order in the shift.

    Args:
        bright: followed by whole pixels.
        shift: what is left of the descan, detector pixels (row, column).
    """
    row, column = shift.T
    terms = np.stack([np.ones_like(row), row, column, row * row, row * column, column * column], 1)
    basis = np.linalg.qr(terms)[0].astype(np.float32)
    return replace(bright, changes=bright.changes - basis @ (basis.T @ bright.changes))
