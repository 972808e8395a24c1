"""A scan as a network sees it: patterns on the detector that it knows, as fractions of the beam, on a raster.

Angles count in semiangles and lengths in wavelengths over semiangles, so that one network serves beams of
any energy.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from phaseloom.data.experiment import Experiment, vacuum
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.nets.layers import Intake

__all__ = ["Raster", "View", "across", "overlaps", "raster"]

ASTRAY = 0.25
"""Steps that a position may be off its raster."""

WANDER = 0.05
"""The same, beyond which it is worth a word."""

BEYOND = 0.02
"""Share of the beam without a specimen that a detector may miss."""

COARSEST = 0.5
"""Detector pixels to a pixel of the model's, below which a pattern has lost what the model reads."""

SAMPLED = 4096
"""Patterns that the beam is measured on."""

DRAWN = 512
"""Patterns of noise that are put where nothing was measured, one after the other."""

FEWEST = 50
"""Counts in a pattern below which they are no electrons."""


@dataclass(frozen=True, eq=False)
class Raster:
    """Patterns on a lattice along rows and columns.

    Attributes:
        index: ``(rows, columns)`` numbers of the patterns, places ascending along both axes.
        step: between neighbours (y, x), angstrom.
        first: place (y, x) of ``index[0, 0]`` on the lattice, angstrom, in the frame of the scan.
        astray: farthest that a position lies from the lattice, steps.
    """

    index: np.ndarray
    step: tuple[float, float]
    first: tuple[float, float]
    astray: float

    def part(self, every: tuple[int, int], at: tuple[int, int], /) -> np.ndarray:
        """Numbers of every so many-th pattern along (y, x), from one on."""
        return self.index[at[0] :: every[0], at[1] :: every[1]]


def raster(scan: Scan4D, /) -> Raster:
    """The lattice that the positions of a scan lie on, in whatever order they were taken.

    Raises:
        BadInput: positions that are on none, or on one that is turned.

    Example:
        >>> from phaseloom.data.scan import Geometry
        >>> geometry = Geometry(wavelength=0.04, shape=(4, 4), angle=(1e-3, 1e-3), beam="electron")
        >>> places = np.array([[0, 3], [0, 0], [2, 0], [2, 3], [4, 3], [4, 0]])
        >>> scan = Scan4D(counts=np.ones((6, 4, 4)), positions=places, geometry=geometry)
        >>> raster(scan).index.tolist(), raster(scan).step
        ([[1, 0], [2, 3], [5, 4]], (2.0, 3.0))
    """
    count = len(scan)
    shapes = {(n, count // n) for n in range(2, count // 2 + 1) if count % n == 0}
    if scan.grid is not None and min(scan.grid) > 1:
        shapes = {(scan.grid[0], scan.grid[1]), (scan.grid[1], scan.grid[0])}
    tried = [_lattice(scan.positions, shape) for shape in sorted(shapes)]
    best = min(tried, key=lambda one: one.astray, default=None)
    if best is None or best.astray > ASTRAY:
        off = "on no raster" if best is None else f"{best.astray:.2g} steps"
        fix = "off a raster along rows and columns, which a network needs: turn them, or regrid the scan"
        raise BadInput("scan.positions", off, fix)
    return best


def overlaps(many: int, few: int, ratio: float, /) -> np.ndarray:
    """Shares ``(few, many)`` of pixels in others ``ratio`` times as wide, zero at ``n // 2`` of both.

    Example:
        >>> overlaps(5, 3, 1.5).tolist()
        [[0.75, 0.75, 0.0, 0.0, 0.0], [0.0, 0.25, 1.0, 0.25, 0.0], [0.0, 0.0, 0.0, 0.75, 0.75]]
    """
    coarse = ((np.arange(few) - few // 2) * ratio)[:, None]
    fine = (np.arange(many) - many // 2)[None]
    low = np.maximum(coarse - ratio / 2, fine - 0.5)
    return np.clip(np.minimum(coarse + ratio / 2, fine + 0.5) - low, 0, None)


def across(patterns: Tensor, /) -> Tensor:
    """Patterns point-mirrored about zero frequency; zero where there is no pixel across.

    Example:
        >>> across(torch.tensor([[1.0, 2.0, 3.0, 4.0]] * 3))[0].tolist()
        [0.0, 4.0, 3.0, 2.0]
    """
    flipped = patterns.flip(-2, -1)
    for axis in (-2, -1):
        if patterns.shape[axis] % 2 == 0:
            flipped = flipped.roll(1, axis)
            flipped.select(axis, 0).zero_()
    return flipped


@dataclass(frozen=True, eq=False)
class View:
    """What makes a network's patterns of the counts of a scan.

    Attributes:
        scan: the data.
        good: ``(y, x)`` detector pixels that can be trusted.
        rows, columns: shares of detector pixels in those of the network.
        cover: ``(y, x)`` of the network's detector: how much of a pixel is measured.
        filling: ``(y, x)`` fractions of the beam, for what is not measured on either side.
        beam: counts of the incident beam in a pattern.
        electrons: whether these counts are electrons.
        notes: what was assumed.
    """

    scan: Scan4D
    good: np.ndarray
    rows: Tensor
    columns: Tensor
    cover: Tensor
    filling: Tensor
    beam: float
    electrons: bool
    notes: tuple[str, ...]

    @classmethod
    def of(
        cls,
        scan: Scan4D,
        experiment: Experiment,
        semiangle: float,
        net: nn.Module,
        /,
        *,
        dose: float | None = None,
    ) -> "View":
        """Look at a scan as the network of an experiment does.

        Args:
            scan: the data.
            experiment: that the network was trained for.
            semiangle: of the scan, radian.
            net: whose mean pattern stands in for what is not measured.
            dose: electrons of the beam in a pattern, the unit of counts; ``None``: from the patterns.

        Raises:
            BadInput: a detector that misses the beam or is too coarse, or patterns without counts.
        """
        good = scan.mask if scan.flat is None else scan.mask & (scan.flat > 0)
        wanted = experiment.angle / experiment.semiangle
        ratio = [wanted * semiangle / angle for angle in scan.geometry.angle]
        _fine_enough(ratio, scan.geometry.angle)
        sizes = zip(scan.geometry.shape, experiment.detector_shape, ratio, strict=True)
        rows, columns = (overlaps(many, few, each) for many, few, each in sizes)
        area, known = ratio[0] * ratio[1], vacuum(experiment).numpy()
        there = np.outer(rows.sum(1), columns.sum(1)) / area
        notes = _reached(there, known, scan, semiangle)
        cover = rows @ good @ columns.T / area
        notes += _mended(there, cover)
        beam, electrons, more = _beam(scan, good, float((known * cover).sum() / known.sum()), dose)
        down, along, share = (torch.as_tensor(one, dtype=torch.float32) for one in (rows, columns, cover))
        usual, said = _usual(net, known.shape), (*notes, *more)
        return cls(scan, good, down, along, share, usual, beam, electrons, said)

    def filled(self, index: np.ndarray, /) -> Tensor:
        """What is put where nothing is known: ``filling``, with the noise that electrons would have there.

        A network that has learned from counts expects most dark pixels to be empty, and a few not to be.
        """
        if not self.electrons:
            return self.filling
        expected = (self.filling * self.beam).expand(DRAWN, -1, -1).contiguous()
        drawn = torch.poisson(expected, generator=torch.Generator().manual_seed(0)) / self.beam
        return drawn[torch.from_numpy(index.ravel() % DRAWN)]

    def patterns(self, index: np.ndarray, /) -> Tensor:
        """Fractions of the beam ``(*index, y, x)``; what is not measured is that of the pixel across."""
        counts = torch.from_numpy(_clean(self.scan, self.good, index.ravel()))
        known = self.cover > 0.5
        seen = self.rows @ counts @ self.columns.T
        seen = torch.where(known, seen / self.cover.clamp(min=0.5) / self.beam, 0.0)
        if not bool(known.all()):
            there = across(known.float()) > 0
            seen = torch.where(known, seen, torch.where(there, across(seen), self.filled(index)))
        return seen.reshape(*index.shape, *seen.shape[-2:])


def _lattice(positions: np.ndarray, shape: tuple[int, int]) -> Raster:
    """Positions sorted onto a lattice of a shape, and how well they fit."""
    lines = np.argsort(positions[:, 0], kind="stable").reshape(shape)
    order = np.argsort(positions[lines, 1], axis=1, kind="stable")
    index = np.take_along_axis(lines, order, 1)
    step, first, astray = [], [], 0.0
    for axis in (0, 1):
        places = positions[index, axis]
        number = np.arange(shape[axis]) - (shape[axis] - 1) / 2
        along = places.mean(1 - axis)
        slope = float(number @ along / (number @ number))
        line = along.mean() + slope * number
        off = np.abs(places - (line[:, None] if axis == 0 else line)).max()
        astray = max(astray, float(off / slope) if slope > 0 else math.inf)
        step.append(slope)
        first.append(float(line[0]))
    return Raster(index, (step[0], step[1]), (first[0], first[1]), astray)


def _fine_enough(ratio: list[float], angle: tuple[float, float]) -> None:
    if min(ratio) < COARSEST:
        own, wanted = max(angle), max(angle) * min(ratio)
        fix = f"is too coarse for this model, whose pixel is {1e3 * wanted:.3g} mrad: bin less, or"
        fix += " take a longer camera length"
        raise BadInput("detector pixel", f"{1e3 * own:.3g} mrad", fix)


def _reached(there: np.ndarray, known: np.ndarray, scan: Scan4D, semiangle: float) -> list[str]:
    """What the detector misses of the model's, in words, or a refusal."""
    lost = float(known[there < 0.5].sum() / known.sum())
    reach = 1e3 * min(n // 2 * a for n, a in zip(scan.geometry.shape, scan.geometry.angle, strict=True))
    if lost > BEYOND:
        fix = f"misses {100 * lost:.2g} % of the beam of {1e3 * semiangle:.3g} mrad: do not crop so far"
        raise BadInput("detector", f"a reach of {reach:.3g} mrad", fix)
    if (there < 0.5).any():
        share = 100 * float((there < 0.5).mean())
        told = "and are taken as on average" if not lost else f"with {100 * lost:.2g} % of the beam"
        return [f"{share:.2g} % of the model's pixels lie beyond the detector's {reach:.3g} mrad, {told}"]
    return []


def _mended(there: np.ndarray, cover: np.ndarray) -> list[str]:
    """What is masked, in words."""
    masked = (there >= 0.5) & (cover <= 0.5)
    mended = masked & (across(torch.from_numpy(1.0 * (cover > 0.5))).numpy() > 0)
    if not masked.any():
        return []
    rest = f", {(masked & ~mended).sum()} as on average" if (masked & ~mended).any() else ""
    return [f"{masked.sum()} of the model's pixels are masked: {mended.sum()} taken as those across{rest}"]


def _beam(
    scan: Scan4D, good: np.ndarray, kept: float, dose: float | None
) -> tuple[float, bool, tuple[str, ...]]:
    """Counts of the incident beam, whether they are electrons, and how they were found."""
    if dose is not None:
        if not (math.isfinite(dose) and dose > 0):
            raise BadInput("dose", dose, "must be electrons per pattern, above zero")
        return dose, True, ()
    few = np.unique(np.linspace(0, len(scan) - 1, min(SAMPLED, len(scan))).round().astype(int))
    sums = [_clean(scan, good, part).sum((1, 2), dtype=np.float64) for part in np.array_split(few, 32)]
    each = np.concatenate(sums)
    mean = float(each.mean())
    if not mean > 0:
        raise BadInput("scan.counts", None, "hold no intensity above the background")
    beam = max(mean, float(np.percentile(each, 99.9)) - 3 * math.sqrt(mean)) / kept
    if beam < FEWEST:
        return beam, False, (f"patterns of {beam:.3g} are no counts of electrons: taken as free of noise",)
    return beam, True, (f"dose is not given: taken as {beam:.4g} electrons, as in the brightest patterns",)


def _clean(scan: Scan4D, good: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Counts ``(n, y, x)`` less background, as by even pixels and steady light; zero where not trusted."""
    order = np.argsort(index, kind="stable")
    counts = np.empty((len(index), *good.shape), np.float32)
    counts[order] = scan.counts[index[order]]
    if scan.background is not None:
        counts -= scan.background.astype(np.float32)
    if scan.flat is not None:
        counts /= np.where(good, scan.flat, 1).astype(np.float32)
    if scan.weights is not None:
        counts /= scan.weights[index, None, None].astype(np.float32)
    return np.where(good, counts, np.float32(0))


def _usual(net: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """The mean pattern that a network was calibrated with, fractions of the beam."""
    intake = next((part for part in net.modules() if isinstance(part, Intake)), None)
    if intake is None or tuple(intake.mean.shape) != shape:
        return torch.zeros(*shape)
    return intake.mean.detach().cpu().square() / intake.mean.numel()
