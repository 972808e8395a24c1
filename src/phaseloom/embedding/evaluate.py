"""Evaluate an autoencoder on held-out patterns, beside as many principal components."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phaseloom.embedding.losses import compute_deviances, compute_noise_deviance
from phaseloom.embedding.networks.autoencoder import pca
from phaseloom.embedding.objective import AutoencoderObjective
from phaseloom.embedding.train import AutoencoderTraining
from phaseloom.fitting import device
from phaseloom.fitting.distributed import team
from phaseloom.learning.evaluation import make_card, save_with_card
from phaseloom.runs.scan_recipe import digest_of_scan

__all__ = ["ReconstructionScores", "evaluate_components", "evaluate_objective", "finish_training"]

PATTERNS_AT_ONCE = 64  # patterns that are drawn together


@dataclass(frozen=True)
class ReconstructionScores:
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
def evaluate_objective(objective: AutoencoderObjective, numbers: np.ndarray, /) -> ReconstructionScores:
    """Look at patterns that are in no part that was learned from.

    Args:
        objective: with the network.
        numbers: of the patterns.
    """
    objective.net.eval()
    sums = torch.zeros(5, dtype=torch.float64, device=device.device_of(objective.net))
    mean = _compute_mean(objective)
    for index in _split_numbers(numbers[team().owns(numbers)]):
        sums += _compute_sums(objective, index, mean)
    pixels = len(numbers) * int(objective.good.sum())
    off, spread, deviance, noise, squares = (max(value, 1e-300) for value in team().all_reduce(sums).tolist())
    psnr = float(10 * np.log10(objective.highest**2 * pixels / squares))
    return ReconstructionScores(1 - off / spread, deviance / noise, psnr, objective.highest, len(numbers))


@torch.no_grad()
def evaluate_components(objective: AutoencoderObjective, numbers: np.ndarray, /) -> ReconstructionScores:
    """The same of as many principal components, of the stabilised patterns that the network began with.

    Args:
        objective: with the network.
        numbers: of the patterns that are looked at.
    """
    latents = objective.net.embed(objective.scale_counts(objective.counts(objective.few[:2]))).shape[1]
    beside = AutoencoderObjective(
        pca(latent_dim=latents), objective.scan, {}, objective.few, manner=objective.manner
    )
    beside.begin()
    return evaluate_objective(beside, numbers)


def _split_numbers(numbers: np.ndarray) -> list[np.ndarray]:
    return [numbers[start : start + PATTERNS_AT_ONCE] for start in range(0, len(numbers), PATTERNS_AT_ONCE)]


def _compute_mean(objective: AutoencoderObjective) -> Tensor:
    """The mean of what the network should draw, of patterns that it began with."""
    parts = [
        objective.scale_counts(objective.read_input_and_target(index)[1]).sum(0, keepdim=True)
        for index in _split_numbers(objective.few)
    ]
    return torch.stack(parts).sum(0) / len(objective.few)


def _compute_sums(objective: AutoencoderObjective, index: np.ndarray, mean: Tensor) -> Tensor:
    """Squares left, squares about the mean pattern, deviance, that of shot noise, squares left in counts."""
    given, counts = objective.read_input_and_target(index)
    taken = objective.scale_counts(counts)
    again = objective.net(objective.scale_counts(given))
    expected = objective.invert_scale(again)
    good = objective.good.to(counts.device)
    here = good.expand_as(counts)
    return torch.stack(
        [
            ((again - taken).square() * good).sum(dtype=torch.float64),
            ((taken - mean).square() * good).sum(dtype=torch.float64),
            compute_deviances(expected[here], counts[here]).sum(dtype=torch.float64),
            compute_noise_deviance(expected[here]).sum(dtype=torch.float64),
            ((expected - counts).square() * good).sum(dtype=torch.float64),
        ]
    )


def finish_training(training: AutoencoderTraining, /) -> tuple[Path | None, dict[str, Any]]:
    """Evaluate a training and write its network with a card if it has a folder; the file, and the card.

    Args:
        training: at its end; its test part is used here and nowhere else.
    """
    objective = training.objective
    test = training.parts.test
    judges = test if len(test) else training.parts.validation
    scores = {
        "network": asdict(evaluate_objective(objective, judges)),
        "pca": asdict(evaluate_components(objective, judges)),
    }
    facts = {
        "shape": list(training.scan.counts.shape[1:]),
        "data": digest_of_scan(training.scan),
        "judged on": "test" if len(test) else "validation",
        "highest": objective.highest,
        "halves": objective.manner.halves,
    }
    card = make_card(training.recipe, scores, epochs=training.progress.epoch, **facts)
    return save_with_card(training.net, card, training.directory), card
