"""Training of an autoencoder on the patterns of one scan: blocks of the scan are kept to judge it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from phaseloom.data.blocks import Parts, blocks, runs
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.fitting import device
from phaseloom.nets.autoencoder import PatternAutoencoder
from phaseloom.nets.pattern_losses import Drawn
from phaseloom.nets.view import across
from phaseloom.recipes.course import Course, fresh, placed
from phaseloom.recipes.scanned import Scanned
from phaseloom.spec import Call, part

__all__ = ["Autoencode", "Drawing", "Encoding", "few_of"]

BEGUN = 4096
"""Patterns, at most, that statistics and principal components are taken from."""


class Autoencode(Scanned):
    """How an autoencoder is trained.

    Attributes:
        file: the scan.
        read: its format and calibration, as for a reconstruction.
        prepare: what is done to it first, as for a reconstruction.
        model: the network; its latents are a knob of it.
        losses: what is made small; the first one judges.
        block: probes along an edge of the blocks that are held out: neighbours are alike.
        validation: share of the blocks that decide when to stop.
        test: share of the blocks that are looked at once, in the end.
        optimizer: how steps are made.
        rate: of the optimiser.
        shape: how the rate changes over the run.
        epochs: at most.
        batch: patterns of a step.
        clip: largest norm of the gradient.
        patience: epochs without improvement before stopping.
        seed: of everything that is drawn.
        device: where to compute.
        title: for figures and files.

    Example:
        >>> Autoencode.of({"file": "scan.h5", "model": "pca"}).model.name
        'pca'
    """

    model: Call = part("phaseloom.nets.autoencoder", "recommended")
    losses: tuple[Call, ...] = part("phaseloom.nets.pattern_losses", ("squares",))
    block: int = Field(8, ge=1, strict=True)
    validation: float = Field(0.1, gt=0, lt=1)
    test: float = Field(0.2, ge=0, lt=1)
    optimizer: Call = part("phaseloom.fitting.optimizers", "adamw")
    rate: float = Field(1e-3, gt=0, allow_inf_nan=False)
    shape: Call = part("phaseloom.fitting.schedule", "one_cycle")
    epochs: int = Field(20, ge=1, strict=True)
    batch: int = Field(32, ge=1, strict=True)
    clip: float | None = Field(1.0, gt=0)
    patience: int | None = Field(None, ge=1, strict=True)
    seed: int = Field(0, ge=0, lt=2**62, strict=True)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    title: str = ""


class Drawing:
    """Numbers of patterns, through an autoencoder, to losses by name.

    Gradients decide the mode: with them the network trains, without them it is asked. Pixels that are not
    trusted are given the mean of those across, and count for nothing.

    Attributes:
        net: on the device.
        scan: whose patterns these are.
        losses: by name.
        few: patterns that statistics are taken from.
        usual: ``(y, x)`` mean pattern.
        highest: counts that are one for networks without a scale of their own.
    """

    def __init__(self, net: PatternAutoencoder, scan: Scan4D, losses: Mapping[str, Any], few: np.ndarray):
        self.net, self.scan, self.losses, self.few = net, scan, dict(losses), few
        self.usual, self.highest = _usual(scan, few)
        self.good = torch.from_numpy(scan.mask)

    def counts(self, index: np.ndarray, /) -> Tensor:
        """Patterns ``(b, 1, y, x)`` on the device of the network."""
        patterns = np.asarray(self.scan.counts[index], np.float32)
        patterns = np.where(self.scan.mask, patterns, self.usual)
        where = device.of(self.net)
        return torch.from_numpy(patterns)[:, None].to(where)

    def taken(self, counts: Tensor, /) -> Tensor:
        """What the network takes for counts."""
        return counts / self.highest if self.net.scale is None else self.net.scale(counts)

    def expected(self, drawn: Tensor, /) -> Tensor:
        """The counts that what it draws stands for."""
        return drawn * self.highest if self.net.scale is None else self.net.scale.inverse(drawn)

    def begin(self) -> None:
        """Let the network take statistics and components from the few patterns."""
        counts = self.counts(self.few)
        if self.net.scale is not None:
            self.net.scale.calibrate(counts)
        self.net.begin(self.taken(counts))

    def __call__(self, index: np.ndarray) -> dict[str, Tensor]:
        """Losses of a batch."""
        self.net.train(torch.is_grad_enabled())
        counts = self.counts(index)
        patterns = self.taken(counts)
        latents = self.net.embed(patterns)
        again = self.net.decode(latents, (patterns.shape[-2], patterns.shape[-1]))
        seen = Drawn(patterns, again, latents, counts, self.expected, self.good.to(counts.device))
        return {name: loss(seen).float() for name, loss in self.losses.items()}


class Encoding(Course):
    """A training on the patterns of a scan, which leaves an autoencoder behind.

    Attributes:
        scan: the data.
        parts: which of its patterns learn, decide and examine.
    """

    kind = Autoencode
    recipe: Autoencode
    lesson: Drawing
    net: PatternAutoencoder

    def __init__(self, recipe: Autoencode, directory: Path | None, scan: Scan4D | None = None):
        super().__init__(recipe, directory)
        self.scan = recipe.scan(scan)
        shares = {"validation": recipe.validation, "test": recipe.test}
        self.parts: Parts = blocks(self.scan, edge=recipe.block, seed=recipe.seed, **shares)
        losses = {loss.name: loss.partial() for loss in recipe.losses}
        self.lesson = Drawing(self.net, self.scan, losses, few_of(self.parts.train))
        self.lesson.begin()
        self.progress = fresh(recipe, self.net)

    @classmethod
    def begin(
        cls, recipe: Autoencode, directory: Path | str | None = None, /, *, scan: Scan4D | None = None
    ) -> Self:
        """A new training, on the recipe's file or a scan in memory; errors as of `Course.begin`."""
        return cls(recipe, placed(directory), scan).begun()

    def network(self) -> nn.Module:
        """Before it has seen a pattern."""
        if not self.recipe.losses or any(loss.when for loss in self.recipe.losses):
            raise BadInput("losses", None, "must be one at least, there in every epoch: the first one judges")
        return self.recipe.model()

    @property
    def judged(self) -> str:
        """The first of the losses."""
        return self.recipe.losses[0].name

    def batches(self, epoch: int, /) -> Sequence[Any]:
        """Runs of neighbours from all over the part that is learned from; none for components alone."""
        return runs(self.parts.train, self.recipe.batch, seed=(self.recipe.seed, epoch))

    def held(self) -> Sequence[Any]:
        """The part that decides when to stop."""
        held = self.parts.validation
        return [held[start : start + self.recipe.batch] for start in range(0, len(held), self.recipe.batch)]


def few_of(numbers: np.ndarray, /) -> np.ndarray:
    """Some of many, from all over."""
    return numbers[np.linspace(0, len(numbers) - 1, min(BEGUN, len(numbers))).astype(int)]


def _usual(scan: Scan4D, few: np.ndarray) -> tuple[np.ndarray, float]:
    """Mean of some patterns, untrusted pixels as those across, or dark; the highest count of trusted ones."""
    total, highest = np.zeros(scan.counts.shape[1:]), 0.0
    for start in range(0, len(few), 256):
        patterns = np.asarray(scan.counts[few[start : start + 256]], np.float64) * scan.mask
        total += patterns.sum(0)
        highest = max(highest, float(patterns.max(initial=0)))
    mean = total / len(few)
    mirrored = across(torch.from_numpy(mean)).numpy()
    return np.where(scan.mask, mean, mirrored).astype(np.float32), highest or 1.0
