"""Objective of an autoencoder: patterns of a scan, through the network, to losses."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from phaseloom.data import orientations as turns
from phaseloom.data.scan import Scan4D
from phaseloom.embedding.losses import DecodedBatch
from phaseloom.embedding.networks.autoencoder import PatternAutoencoder
from phaseloom.errors import BadInput
from phaseloom.fitting import device
from phaseloom.learning.layers import use_precision
from phaseloom.physics.fourier import mirror_through_zero

__all__ = ["AutoencoderObjective", "PatternPresentation", "select_few"]

# Patterns, and pixels of them all, that statistics and principal components are taken from.
MAX_CALIBRATION_PATTERNS = 4096
MAX_CALIBRATION_PIXELS = 2**24


@dataclass(frozen=True)
class PatternPresentation:
    """How patterns are shown to a network.

    Attributes:
        halves: each pattern is parted into two of half the counts, and one is drawn from the other.
        turned: while it learns, patterns are turned and mirrored as the detector allows.
        precision: of the network's arithmetic.
        seed: of halves and turns.
    """

    halves: bool = False
    turned: bool = False
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0


DEFAULT_PRESENTATION = PatternPresentation()


class AutoencoderObjective:
    """Numbers of patterns, through an autoencoder, to losses by name.

    With gradients enabled the network is in training mode, otherwise in evaluation mode. Pixels that are not
    trusted are given the mean of those across, and count for nothing. Of patterns in halves, the one that a
    batch is drawn from and the one that it is compared with are the same in each epoch's every pass.

    Attributes:
        net: on the device.
        scan: whose patterns these are.
        losses: by name.
        few: patterns that statistics are taken from.
        manner: see `PatternPresentation`.
        epoch: counts as part of the seed while the network learns.
        usual: ``(y, x)`` mean pattern.
        highest: counts that are one for networks without a scale of their own.
        good: ``(y, x)`` pixels that are trusted.
    """

    def __init__(
        self,
        net: PatternAutoencoder,
        scan: Scan4D,
        losses: Mapping[str, Any],
        few: np.ndarray,
        *,
        manner: PatternPresentation = DEFAULT_PRESENTATION,
    ):
        self.net = net
        self.scan = scan
        self.losses = dict(losses)
        self.few = few
        self.manner = manner
        self.epoch = 0
        self.usual, self.highest = _compute_mean_and_peak(scan, few)
        self.good = torch.from_numpy(scan.mask)
        if manner.halves:
            _require_whole_counts(scan, few)

    def counts(self, index: np.ndarray, /) -> Tensor:
        """Patterns ``(b, 1, y, x)`` on the device of the network."""
        patterns = np.asarray(self.scan.counts[index], np.float32)
        return self._to_tensor(np.where(self.scan.mask, patterns, self.usual))

    def scale_counts(self, counts: Tensor, /) -> Tensor:
        """Counts on the scale of the network's input."""
        return counts / self.highest if self.net.scale is None else self.net.scale(counts)

    def invert_scale(self, drawn: Tensor, /) -> Tensor:
        """Counts from the output of the network."""
        return drawn * self.highest if self.net.scale is None else self.net.scale.inverse(drawn)

    def read_input_and_target(self, index: np.ndarray, /, *, epoch: int = 0) -> tuple[Tensor, Tensor]:
        """Counts of the input, and those that the output is compared with.

        Args:
            index: of the patterns.
            epoch: of the draw, of patterns in halves.
        """
        if not self.manner.halves:
            counts = self.counts(index)
            return counts, counts
        whole = np.asarray(self.scan.counts[index]) * self.scan.mask
        halves = [_draw_half(*one, (self.manner.seed, 23, epoch)) for one in zip(whole, index, strict=True)]
        first = np.stack(halves).astype(np.float32)
        parts = (first, whole.astype(np.float32) - first)
        given, wanted = (np.where(self.scan.mask, part, self.usual / 2) for part in parts)
        return self._to_tensor(given), self._to_tensor(wanted)

    @torch.no_grad()
    def begin(self) -> None:
        """Initialise the scale and the linear part of the network from the few patterns."""
        counts = self.read_input_and_target(self.few)[0]
        if self.net.scale is not None:
            self.net.scale.calibrate(counts)
        self.net.begin(self.scale_counts(counts))

    def __call__(self, index: np.ndarray) -> dict[str, Tensor]:
        """Losses of a batch."""
        learning = torch.is_grad_enabled()
        self.net.train(learning)
        given, wanted = self.read_input_and_target(index, epoch=self.epoch if learning else 0)
        good = self.good.to(given.device)
        if learning and self.manner.turned:
            given, wanted, good = _turn_batch(self, given, wanted, good, index)
        patterns = self.scale_counts(given)
        with use_precision(self.net, self.manner.precision):
            latents = self.net.embed(patterns)
            again = self.net.decode(latents, (patterns.shape[-2], patterns.shape[-1]))
        batch = DecodedBatch(
            self.scale_counts(wanted), again.float(), latents.float(), wanted, self.invert_scale, good
        )
        return {name: loss(batch).float() for name, loss in self.losses.items()}

    @torch.no_grad()
    def reconstruct(self, index: np.ndarray, /) -> tuple[Tensor, Tensor]:
        """Latents ``(b, k)`` of patterns, and the counts ``(b, 1, y, x)`` decoded from them."""
        return self.reconstruct_sides(self.read_sides(index))

    def read_sides(self, index: np.ndarray, /) -> tuple[Tensor, ...]:
        """Input counts of the network, which add up to those of the patterns."""
        counts = self.read_input_and_target(index)
        return counts if self.manner.halves else counts[:1]

    @torch.no_grad()
    def reconstruct_sides(self, sides: tuple[Tensor, ...], /) -> tuple[Tensor, Tensor]:
        """As `reconstruct`, of read patterns: latents are the mean of all sides, counts their sum."""
        self.net.eval()
        with use_precision(self.net, self.manner.precision):
            latents = torch.stack([self.net.embed(self.scale_counts(side)).float() for side in sides]).mean(0)
            size = (sides[0].shape[-2], sides[0].shape[-1])
            again = self.net.decode(latents, size).float()
        return latents, len(sides) * self.invert_scale(again)

    def _to_tensor(self, patterns: np.ndarray) -> Tensor:
        return torch.from_numpy(patterns.astype(np.float32, copy=False))[:, None].to(
            device.device_of(self.net)
        )


def _turn_batch(
    objective: AutoencoderObjective, given: Tensor, wanted: Tensor, good: Tensor, index: np.ndarray
) -> tuple[Tensor, Tensor, Tensor]:
    """A batch and its trusted pixels, each pattern turned by what the detector allows: by its number."""
    ways = turns.list_orientations(objective.scan.geometry)
    seeds = ((objective.manner.seed, 29, objective.epoch, int(number)) for number in index)
    choices = np.array([np.random.default_rng(seed).integers(len(ways)) for seed in seeds])
    out = given.clone(), wanted.clone(), good.repeat(len(index), 1, 1, 1)
    for number in np.unique(choices):
        own = torch.from_numpy(choices == number).to(given.device)
        for side, taken in zip(out, (given, wanted, out[2]), strict=True):
            side[own] = turns.orient_patterns(taken[own], ways[number])
    return out


def select_few(numbers: np.ndarray, scan: Scan4D, /) -> np.ndarray:
    """Some of many patterns, from all over, that fit into memory.

    Args:
        numbers: of patterns.
        scan: that they are of.
    """
    most = min(MAX_CALIBRATION_PATTERNS, max(MAX_CALIBRATION_PIXELS // scan.mask.size, 64), len(numbers))
    return numbers[np.linspace(0, len(numbers) - 1, most).astype(int)]


def _compute_mean_and_peak(scan: Scan4D, few: np.ndarray) -> tuple[np.ndarray, float]:
    """Mean of some patterns, untrusted pixels as those across, or dark; the highest count of trusted ones."""
    total = np.zeros(scan.counts.shape[1:])
    highest = 0.0
    for start in range(0, len(few), 256):
        patterns = np.asarray(scan.counts[few[start : start + 256]], np.float64) * scan.mask
        total += patterns.sum(0)
        highest = max(highest, float(patterns.max(initial=0)))
    mean = total / len(few)
    mirrored = mirror_through_zero(torch.from_numpy(mean)).numpy()
    return np.where(scan.mask, mean, mirrored).astype(np.float32), highest or 1.0


def _draw_half(pattern: np.ndarray, number: int, seed: tuple[int, ...]) -> np.ndarray:
    """Counts of a pattern, each kept by the toss of a coin, the same for a seed and a number."""
    return np.random.default_rng((*seed, int(number))).binomial(pattern.astype(np.int64), 0.5)


def _require_whole_counts(scan: Scan4D, few: np.ndarray) -> None:
    """Refuse counts that are not whole numbers: they cannot be split at random."""
    patterns = np.asarray(scan.counts[few[:64]]) * scan.mask
    if (patterns < 0).any() or (patterns != np.rint(patterns)).any():
        fix = "are not whole numbers of electrons and cannot be split: scale them, or leave halves out"
        raise BadInput("halves", "patterns", fix)
