"""Preprocess a scan for a network: patterns on the detector of its training, as fractions of the beam.

Angles count in semiangles and lengths in wavelengths over semiangles, so that one network serves beams of
any energy.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from phaseloom.data.bad_pixels import find_bad_pixels
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.learning.layers import PatternIntake
from phaseloom.metrics.pattern_misfit import MIN_COUNTS_OF_ELECTRONS
from phaseloom.physics.fourier import mirror_through_zero
from phaseloom.retrieval.detector_shares import compute_band, compute_shares
from phaseloom.simulation.experiment import Experiment, compute_vacuum_pattern

__all__ = ["NOISELESS_DOSE", "PatternPreprocessor", "estimate_dose", "find_good_pixels", "mask_bad_pixels"]
__all__ += ["read_counts"]

NOISELESS_DOSE = 1e7
"""Electrons in a pattern that stand for no counting noise."""

MAX_MISSED_BEAM = 0.02  # share of the beam without a specimen that a detector may miss
MIN_NOTED_BEAM = 1e-3  # missing share of the beam, without a specimen, from which on there is a note
MIN_NOTED_SCATTERING = 2.5e-3  # the same of the electrons behind a usual specimen
# Detector pixels to a pixel of the model's, below which a pattern has lost what the model reads.
MIN_PIXEL_RATIO = 0.95
# Share of a model's pixel within the band of its training, below which it held nothing there.
MIN_BAND_SHARE = 0.05
MAX_PATTERNS_FOR_DOSE = 4096  # patterns that the beam is measured on
NOISE_PATTERNS = 512  # patterns of noise that are put where nothing was measured, one after the other
MAX_PATTERNS_FOR_BAD_PIXELS = 500  # patterns that bad pixels are looked for in


def mask_bad_pixels(scan: Scan4D, /) -> tuple[Scan4D, list[str]]:
    """Mask the hot and dead pixels of a scan (`phaseloom.data.bad_pixels`); the scan, and a note.

    Example:
        >>> from phaseloom.data.scan import Geometry
        >>> geometry = Geometry(wavelength=0.04, shape=(9, 9), angle=(1e-3, 1e-3), beam="electron")
        >>> counts = np.ones((2, 9, 9))
        >>> counts[:, 3, 5] = 1000
        >>> scan, notes = mask_bad_pixels(Scan4D(counts=counts, positions=np.eye(2), geometry=geometry))
        >>> np.argwhere(~scan.mask).tolist(), notes
        ([[3, 5]], ['masked: 1 hot pixel at (row, column) (3, 5)'])
    """
    patterns = min(MAX_PATTERNS_FOR_BAD_PIXELS, len(scan))
    mean = scan.mean_pattern(most=patterns)
    # counts that are fractions of the beam have no counting noise that the rule could use
    unit = 1.0 if mean.sum() > MIN_COUNTS_OF_ELECTRONS else 1e6 / max(float(mean.sum()), 1e-300)
    found = find_bad_pixels(scan, mean=mean * unit, patterns=patterns)
    if found.mask.all() or not (scan.mask & found.mask).any():
        return scan, []
    return replace(scan, mask=scan.mask & found.mask), [f"masked: {line}" for line in found.lines()]


@dataclass(frozen=True, eq=False)
class PatternPreprocessor:
    """Turns the counts of a scan into the input patterns of a network.

    Attributes:
        scan: the data.
        good: ``(y, x)`` detector pixels that can be trusted.
        shares: ``(few, many)`` of detector pixels in those of the network, within the band of its training.
        cover: ``(y, x)`` of the network's detector: how much of a pixel is measured.
        filling: ``(y, x)`` fractions of the beam, for what is not measured on either side.
        beam: counts of the incident beam in a pattern.
        electrons: whether these counts are electrons.
        notes: what was assumed.
    """

    scan: Scan4D
    good: np.ndarray
    shares: sparse.csr_array
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
        offset: tuple[float, float] = (0.0, 0.0),
        rotation: float = 0.0,
    ) -> "PatternPreprocessor":
        """Prepare a scan for the network of an experiment.

        What the simulation of the training could not see, beyond the band of its waves, is left out: a
        detector that reaches farther than that of the training is cut, and a smaller one is filled up.

        Args:
            scan: the data.
            experiment: that the network was trained for.
            semiangle: of the scan, radian.
            net: whose mean pattern stands in for what is not measured.
            dose: electrons of the beam in a pattern, the unit of counts; ``None``: from the patterns.
            offset: (y, x) pixels by which zero angle lies beyond ``n // 2`` on the detector.
            rotation: of the raster against the detector, radian from rows towards columns; patterns are
                turned with it.

        Raises:
            BadInput: a detector that misses the beam or is too coarse, or patterns without counts.
        """
        good = find_good_pixels(scan)
        wanted = experiment.angle / experiment.semiangle * semiangle
        ratio = (wanted / scan.geometry.angle[0], wanted / scan.geometry.angle[1])
        _require_fine_pixels(ratio, scan.geometry.angle)
        shape = scan.geometry.shape
        shares = compute_shares(shape, experiment, ratio, offset=offset, rotation=rotation)
        band = compute_band(shape, experiment, ratio, offset=offset)
        known = compute_vacuum_pattern(experiment).numpy()
        full = ratio[0] * ratio[1] * compute_band(known.shape, experiment)
        shares = sparse.csr_array(shares.multiply(band.ravel()))
        there = _divide_cover(shares @ np.ones(good.size), full)
        cover = _divide_cover(shares @ good.ravel().astype(float), full)
        typical = _get_mean_pattern(net, known.shape)
        notes = _check_reach(there, known, typical.numpy(), scan, semiangle)
        notes += _describe_masked_pixels(there, cover, known, typical.numpy())
        beam, electrons, more = estimate_dose(scan, good, float((known * cover).sum() / known.sum()), dose)
        part = torch.as_tensor(cover, dtype=torch.float32)
        few = sparse.csr_array(shares, dtype=np.float32)
        return cls(scan, good, few, part, typical, beam, electrons, (*notes, *more))

    def fill(self, index: np.ndarray, /) -> Tensor:
        """Values for unknown pixels: ``filling``, with the counting noise that it would have.

        A network that has learned from counts expects most dark pixels to be empty, and a few not to be.
        """
        if not self.electrons:
            return self.filling
        expected = (self.filling * self.beam).expand(NOISE_PATTERNS, -1, -1).contiguous()
        noisy = torch.poisson(expected, generator=torch.Generator().manual_seed(0)) / self.beam
        return noisy[torch.from_numpy(index.ravel() % NOISE_PATTERNS)]

    def patterns(self, index: np.ndarray, /) -> Tensor:
        """Fractions of the beam ``(*index, y, x)``; what is not measured is that of the pixel across."""
        counts = read_counts(self.scan, self.good, index.ravel())
        known = self.cover > 0.5
        shared = (self.shares @ counts.reshape(len(counts), -1).T).T
        patterns = torch.from_numpy(np.ascontiguousarray(shared)).reshape(-1, *known.shape)
        patterns = torch.where(known, patterns / self.cover.clamp(min=0.5) / self.beam, 0.0)
        if not bool(known.all()):
            there = mirror_through_zero(known.float()) > 0
            patterns = torch.where(
                known, patterns, torch.where(there, mirror_through_zero(patterns), self.fill(index))
            )
        return patterns.reshape(*index.shape, *patterns.shape[-2:])


def _divide_cover(measured: np.ndarray, full: np.ndarray) -> np.ndarray:
    """How much of each of the network's pixels is measured; all of those beyond the band, which are dark."""
    inside = full > MIN_BAND_SHARE * full.max()
    return np.where(inside, measured.reshape(full.shape) / np.where(inside, full, 1.0), 1.0).clip(0, 1)


def _require_fine_pixels(ratio: tuple[float, float], angle: tuple[float, float]) -> None:
    if min(ratio) < MIN_PIXEL_RATIO:
        own = max(angle)
        wanted = max(angle) * min(ratio)
        fix = f"is too coarse for this model, whose pixel is {1e3 * wanted:.3g} mrad: bin less, take a"
        fix += (
            " longer camera length, or do without a network: phaseloom direct and reconstruct take any pixel"
        )
        raise BadInput("detector pixel", f"{1e3 * own:.3g} mrad", fix)


def _check_reach(
    there: np.ndarray, known: np.ndarray, typical: np.ndarray, scan: Scan4D, semiangle: float
) -> list[str]:
    """Notes on the model's pixels beyond the detector, or a refusal."""
    missed_share = float(known[there < 0.5].sum() / known.sum())
    reach = 1e3 * min(n // 2 * a for n, a in zip(scan.geometry.shape, scan.geometry.angle, strict=True))
    if missed_share > MAX_MISSED_BEAM:
        fix = (
            f"misses {100 * missed_share:.2g} % of the beam of {1e3 * semiangle:.3g} mrad: do not crop so far"
        )
        raise BadInput("detector", f"a reach of {reach:.3g} mrad", fix)
    missed = _measure_share(known, typical, there < 0.5)
    part = 100 * float((there < 0.5).mean())
    if not missed:
        return []
    description = f"with {100 * missed:.2g} % of the beam, which are taken as on average"
    return [f"{part:.2g} % of the model's pixels lie beyond the detector's {reach:.3g} mrad, {description}"]


def _measure_share(known: np.ndarray, usual: np.ndarray, where: np.ndarray) -> float:
    """Share of the electrons in some pixels; zero if it is too small for a note."""
    bare = float(known[where].sum() / known.sum())
    typical = float(usual[where].sum())
    return max(bare, typical) if bare > MIN_NOTED_BEAM or typical > MIN_NOTED_SCATTERING else 0.0


def _describe_masked_pixels(
    there: np.ndarray, cover: np.ndarray, known: np.ndarray, typical: np.ndarray
) -> list[str]:
    """A note on masked pixels that hold some of the beam."""
    masked = (there >= 0.5) & (cover <= 0.5)
    mended = masked & (mirror_through_zero(torch.from_numpy(1.0 * (cover > 0.5))).numpy() > 0)
    if not _measure_share(known, typical, masked):
        return []
    rest = f", {(masked & ~mended).sum()} as on average" if (masked & ~mended).any() else ""
    return [f"{masked.sum()} of the model's pixels are masked: {mended.sum()} taken as those across{rest}"]


def find_good_pixels(scan: Scan4D) -> np.ndarray:
    """Detector pixels ``(y, x)`` that can be trusted."""
    return scan.mask if scan.flat is None else scan.mask & (scan.flat > 0)


def estimate_dose(
    scan: Scan4D, good: np.ndarray, kept: float, dose: float | None
) -> tuple[float, bool, tuple[str, ...]]:
    """Counts of the incident beam, whether they are electrons, and how they were found."""
    if dose is not None:
        if not (math.isfinite(dose) and dose > 0):
            raise BadInput("dose", dose, "must be electrons per pattern, above zero")
        return dose, True, ()
    few = np.unique(np.linspace(0, len(scan) - 1, min(MAX_PATTERNS_FOR_DOSE, len(scan))).round().astype(int))
    sums = [read_counts(scan, good, part).sum((1, 2), dtype=np.float64) for part in np.array_split(few, 32)]
    each = np.concatenate(sums)
    mean = float(each.mean())
    if not mean > 0:
        raise BadInput("scan.counts", None, "hold no intensity above the background")
    beam = max(mean, float(np.percentile(each, 99.9)) - 3 * math.sqrt(mean)) / kept
    if beam < MIN_COUNTS_OF_ELECTRONS:
        return beam, False, (f"patterns of {beam:.3g} are not counts of electrons: taken as free of noise",)
    return beam, True, (f"dose is not given: taken as {beam:.4g} electrons, as in the brightest patterns",)


def read_counts(scan: Scan4D, good: np.ndarray, index: np.ndarray) -> np.ndarray:
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


def _get_mean_pattern(net: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """The mean pattern that a network was calibrated with, fractions of the beam."""
    intake = next((part for part in net.modules() if isinstance(part, PatternIntake)), None)
    if intake is None or tuple(intake.mean.shape) != shape:
        return torch.zeros(*shape)
    return intake.mean.detach().cpu().square() / intake.mean.numel()
