"""How well an autoencoder draws patterns that it has not learned from, beside as many components."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phaseloom.embedding.losses import deviances, noise_deviance
from phaseloom.embedding.networks.autoencoder import pca
from phaseloom.embedding.objective import Drawing
from phaseloom.embedding.train import Encoding
from phaseloom.fitting import device
from phaseloom.fitting.distributed import team
from phaseloom.learning import weight_files as pretrained
from phaseloom.runs.scan_recipe import digest_of_scan
from phaseloom.spec import to_yaml
from phaseloom.version import __version__

__all__ = ["Examined", "components", "examined", "finished"]

AT_ONCE = 64
"""Patterns that are drawn together."""


@dataclass(frozen=True)
class Examined:
    """Of patterns that were held out, trusted pixels only.

    Attributes:
        explained: share of the variance about the mean pattern, in the numbers that the network takes; what
            shot noise adds to the patterns is not explained by anybody, so the best is below 1. Of networks
            that learn from halves, of one half by the other.
        deviance: Poisson deviance over what shot noise alone would leave: 1 is as good as can be.
        psnr: dB of the counts, with the largest of them all as peak.
        peak: that count.
        patterns: that were looked at.
    """

    explained: float
    deviance: float
    psnr: float
    peak: float
    patterns: int

    def __str__(self) -> str:
        """As a line of a report."""
        return (
            f"explained variance {self.explained:.4f}, deviance {self.deviance:.3f}, "
            f"PSNR {self.psnr:.1f} dB (peak {self.peak:.4g} counts), {self.patterns} patterns"
        )


@torch.no_grad()
def examined(lesson: Drawing, numbers: np.ndarray, /) -> Examined:
    """Look at patterns that are in no part that was learned from.

    Args:
        lesson: with the network.
        numbers: of the patterns.
    """
    lesson.net.eval()
    sums, usual = torch.zeros(5, dtype=torch.float64, device=device.of(lesson.net)), _usual(lesson)
    for index in _pieces(numbers[team().keeps(numbers)]):
        sums += _sums(lesson, index, usual)
    pixels = len(numbers) * int(lesson.good.sum())
    off, spread, deviance, noise, squares = (max(value, 1e-300) for value in team().add(sums).tolist())
    psnr = float(10 * np.log10(lesson.highest**2 * pixels / squares))
    return Examined(1 - off / spread, deviance / noise, psnr, lesson.highest, len(numbers))


@torch.no_grad()
def components(lesson: Drawing, numbers: np.ndarray, /) -> Examined:
    """The same of as many principal components, of the stabilised patterns that the network began with.

    Args:
        lesson: with the network.
        numbers: of the patterns that are looked at.
    """
    latents = lesson.net.embed(lesson.taken(lesson.counts(lesson.few[:2]))).shape[1]
    beside = Drawing(pca(latent_dim=latents), lesson.scan, {}, lesson.few, manner=lesson.manner)
    beside.begin()
    return examined(beside, numbers)


def _pieces(numbers: np.ndarray) -> list[np.ndarray]:
    return [numbers[start : start + AT_ONCE] for start in range(0, len(numbers), AT_ONCE)]


def _usual(lesson: Drawing) -> Tensor:
    """The mean of what the network should draw, of patterns that it began with."""
    parts = [lesson.taken(lesson.shown(index)[1]).sum(0, keepdim=True) for index in _pieces(lesson.few)]
    return torch.stack(parts).sum(0) / len(lesson.few)


def _sums(lesson: Drawing, index: np.ndarray, usual: Tensor) -> Tensor:
    """Squares left, squares about the mean pattern, deviance, that of shot noise, squares left in counts."""
    given, counts = lesson.shown(index)
    taken = lesson.taken(counts)
    again = lesson.net(lesson.taken(given))
    expected = lesson.expected(again)
    good = lesson.good.to(counts.device)
    here = good.expand_as(counts)
    return torch.stack(
        [
            ((again - taken).square() * good).sum(dtype=torch.float64),
            ((taken - usual).square() * good).sum(dtype=torch.float64),
            deviances(expected[here], counts[here]).sum(dtype=torch.float64),
            noise_deviance(expected[here]).sum(dtype=torch.float64),
            ((expected - counts).square() * good).sum(dtype=torch.float64),
        ]
    )


def finished(training: Encoding, /) -> tuple[Path | None, dict[str, Any]]:
    """Examine a training, and write its network with a card if it has a folder; the file, and the card.

    Args:
        training: at its end; its test part is looked at here and nowhere else.
    """
    lesson, test = training.lesson, training.parts.test
    judges = test if len(test) else training.parts.validation
    said = {
        "shape": list(training.scan.counts.shape[1:]),
        "data": digest_of_scan(training.scan),
        "recipe": to_yaml(training.recipe.resolved()),
        "scores": {"network": asdict(examined(lesson, judges)), "pca": asdict(components(lesson, judges))},
        "judged on": "test" if len(test) else "validation",
        "highest": lesson.highest,
        "halves": lesson.manner.halves,
        "epochs": training.progress.epoch,
        "version": __version__,
    }
    path = None if training.directory is None else training.directory / pretrained.FILE
    return None if path is None else pretrained.save(training.net, path, said), said
