"""Training of a network that restores images, on pairs of a spoiled image and the one that is wanted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from phaseloom.data.crops import Batch, Crops, crop, resized, stacked
from phaseloom.data.pairs import ImagePairs, Pair, parted
from phaseloom.errors import BadInput
from phaseloom.fitting import device, optimizers
from phaseloom.fitting.loop import Progress
from phaseloom.nets.restoration_losses import Compared
from phaseloom.nets.ushape import Restorer
from phaseloom.nets.weighting import Weighting
from phaseloom.recipes.course import Course, placed
from phaseloom.spec import Call, Recipe, load_yaml, part

__all__ = ["Cuts", "Mending", "Restore", "Restoring"]

BEST = 100.0
"""Decibels from which the hold-out loss counts down: the best network has the smallest."""


class Restore(Recipe):
    """How a network that restores images is trained.

    Attributes:
        data: folders of data sets: ``train`` and ``test`` in each, in these ``input``, ``gt`` and, where the
            finer image is known, ``gt_hr``.
        model: the network.
        losses: what is made small, of both outputs.
        weighting: how they become one number.
        weight_rate: of learning its weights.
        crops: pixels along an edge of the crops that are learned from, a multiple of 8.
        scales: factors by which crops are enlarged, one for each batch.
        turned: flip and turn crops.
        each: crops of each pair in an epoch.
        validation: share of the training pairs that decide which epoch is the best.
        data_range: largest possible difference of two pixels.
        optimizer: how steps are made.
        rate: of the optimiser.
        shape: how the rate changes over the run.
        epochs: at most.
        batch: crops of a step.
        pieces: crops that are computed together; fewer than a batch save memory.
        precision: of the network's arithmetic.
        clip: largest norm of the network's gradient.
        patience: epochs without improvement before stopping.
        seed: of everything that is drawn.
        device: where to compute.
        title: for figures and files.

    Example:
        >>> Restore.of({"data": ["LSUI"], "model": "phaseformer"}).model.name
        'phaseformer'
    """

    data: tuple[Path, ...] = ()
    model: Call = part("phaseloom.nets.phaseformer", "narrow")
    losses: tuple[Call, ...] = part(
        "phaseloom.nets.restoration_losses", ("charbonnier", "gradient", "similarity")
    )
    weighting: Call = part("phaseloom.nets.weighting", "uncertainty")
    weight_rate: float = Field(1e-2, gt=0, allow_inf_nan=False)
    crops: int = Field(64, ge=8, strict=True)
    scales: tuple[float, ...] = (1.0,)
    turned: bool = True
    each: int = Field(1, ge=1, strict=True)
    validation: float = Field(0.05, gt=0, lt=1)
    data_range: float = Field(1.0, gt=0, allow_inf_nan=False)
    optimizer: Call = part("phaseloom.fitting.optimizers", "adamw")
    rate: float = Field(1e-3, gt=0, allow_inf_nan=False)
    shape: Call = part("phaseloom.fitting.schedule", "one_cycle")
    epochs: int = Field(40, ge=1, strict=True)
    batch: int = Field(8, ge=1, strict=True)
    pieces: int | None = Field(None, ge=1, strict=True)
    precision: Literal["float32", "bfloat16"] = "float32"
    clip: float | None = Field(1.0, gt=0)
    patience: int | None = Field(None, ge=1, strict=True)
    seed: int = Field(0, ge=0, lt=2**62, strict=True)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    title: str = ""

    @classmethod
    def from_path(cls, path: Path | str | None, settings: Mapping[str, Any] | None = None, /) -> Self:
        """A recipe from a file, paths in which are relative to its folder, or the default one, changed."""
        recipe = cls.of({}) if path is None else cls.of(load_yaml(Path(path))).rooted(Path(path).parent)
        return (recipe.put(settings) if settings else recipe).rooted(Path.cwd())

    def pairs(self, which: Literal["train", "test"], /) -> ImagePairs:
        """The pairs of one part of all data sets.

        Raises:
            BadInput: no data set; errors as of `ImagePairs.of`.
        """
        if not self.data:
            raise BadInput("data", None, "names no data set: give a folder with train and test in it")
        return ImagePairs.of(self.data, part=which)


@dataclass(frozen=True, eq=False)
class Cuts:
    """Crops that were chosen and are yet to be cut, or whole pairs: all that is random in them.

    Attributes:
        draws: numbers of the draws; ``draw % pairs`` is the pair.
        epoch: part of the seed of each draw; 0: pairs as a whole.
        scale: by which they are enlarged.
    """

    draws: np.ndarray
    epoch: int = 0
    scale: float = 1.0

    def __len__(self) -> int:
        """Number of crops."""
        return len(self.draws)

    def __getitem__(self, some: slice) -> "Cuts":
        """Some of them."""
        return replace(self, draws=self.draws[some])

    def __str__(self) -> str:
        """For a log."""
        return f"draws {', '.join(map(str, self.draws))} of epoch {self.epoch}"

    def split(self, size: int, /) -> "tuple[Cuts, ...]":
        """The same in pieces."""
        return tuple(self[start : start + size] for start in range(0, len(self), size))


class Mending:
    """Crops that were chosen, through a network, to one number.

    Gradients decide the mode: with them it is the weighed losses, without them how many decibels an image
    lacks of a hundred.

    Attributes:
        net: on the device.
        weighting: of the losses, beside it.
        pairs: that crops are cut from, and that judge.
        crops: what is drawn.
        losses: by name.
        recipe: of the training.
        last: ``losses`` of the last batch that was learned from, by output and name, and their ``weights``.
    """

    def __init__(
        self,
        net: Restorer,
        weighting: Weighting,
        pairs: tuple[Sequence[Pair], Sequence[Pair]],
        recipe: Restore,
    ):
        self.net, self.weighting, self.pairs, self.recipe = net, weighting, pairs, recipe
        self.crops = Crops(size=recipe.crops, scales=recipe.scales, turned=recipe.turned)
        self.losses = {loss.name: loss.partial() for loss in recipe.losses}
        self.last: dict[str, Any] = {}

    def batch(self, these: Cuts, /) -> Batch:
        """Cut, or read as a whole, and brought to the device of the network."""
        where, seed = device.of(self.net), self.recipe.seed
        if not these.epoch:
            return stacked([self.pairs[1][int(draw)] for draw in these.draws]).to(where)
        learned = self.pairs[0]
        cuts = [
            crop(learned[int(n) % len(learned)], self.crops, seed=seed, epoch=these.epoch, number=int(n))
            for n in these.draws
        ]
        return resized(stacked(cuts), self.crops.scaled(these.scale)).to(where)

    def __call__(self, these: Cuts) -> dict[str, Tensor]:
        """The number of a batch."""
        learning = torch.is_grad_enabled()
        self.net.train(learning)
        batch = self.batch(these)
        where = batch.input.device.type
        with torch.autocast(where, torch.bfloat16, enabled=self.recipe.precision == "bfloat16"):
            low, high = self.net(batch.input)
        if not learning:
            return {"decibels": BEST - _psnr(low.float(), batch.target, self.recipe.data_range)}
        scale = self.recipe.data_range
        terms = {"low": Compared(low.float(), batch.target, "low", scale).terms(self.losses)}
        if high is not None:
            terms["high"] = Compared(high.float(), batch.fine, "high", scale).terms(self.losses)
        loss = self.weighting(terms)
        found = {b: {name: float(value.detach()) for name, value in row.items()} for b, row in terms.items()}
        self.last = {"losses": found, "weights": self.weighting.weights}
        return {"loss": loss}


class Restoring(Course):
    """A training on pairs of images, which leaves a network that restores behind.

    Attributes:
        pairs: that are learned from, and that decide which epoch is the best.
        weighting: of the losses.
    """

    kind, within, spare = Restore, 0.0, 20
    recipe: Restore
    lesson: Mending
    net: Restorer

    def __init__(self, recipe: Restore, directory: Path | None, pairs: Sequence[Pair] | None = None):
        super().__init__(recipe, directory)
        known = recipe.pairs("train") if pairs is None else pairs
        self.pairs = parted(known, validation=recipe.validation, seed=recipe.seed)
        names = [loss.name for loss in recipe.losses]
        self.weighting: Weighting = recipe.weighting(names, ("low", "high")).to(device.of(self.net))
        self.lesson = Mending(self.net, self.weighting, self.pairs, recipe)
        whole = nn.ModuleDict({"net": self.net, "weighting": self.weighting})
        self.progress = Progress(whole, recipe.optimizer(_groups(self.net, self.weighting, recipe)))

    @classmethod
    def begin(
        cls, recipe: Restore, directory: Path | str | None = None, /, *, pairs: Sequence[Pair] | None = None
    ) -> Self:
        """A new training, on the recipe's data or pairs in memory; errors as of `Course.begin`."""
        return cls(recipe, placed(directory), pairs).begun()

    def network(self) -> nn.Module:
        """Before it has seen an image."""
        recipe = self.recipe
        if not recipe.losses or any(loss.when for loss in recipe.losses):
            raise BadInput("losses", None, "must be one at least, there in every epoch")
        return recipe.model()

    @property
    def judged(self) -> str:
        """Decibels of the validation pairs."""
        return "decibels"

    def batches(self, epoch: int, /) -> Sequence[Any]:
        """The crops of an epoch, each pair as often as any other."""
        recipe, count = self.recipe, len(self.pairs[0]) * self.recipe.each
        rng = np.random.default_rng((recipe.seed, 31, epoch))
        order = rng.permutation(count)
        starts = range(0, count, recipe.batch)
        parts = [
            Cuts(order[start : start + recipe.batch], epoch, float(rng.choice(recipe.scales)))
            for start in starts
        ]
        return [part.split(recipe.pieces) if recipe.pieces else part for part in parts]

    def held(self) -> Sequence[Any]:
        """The pairs that decide, one by one: their sizes may differ."""
        return [Cuts(np.array([number])) for number in range(len(self.pairs[1]))]

    def state(self) -> dict[str, Any]:
        """Losses of the last batch and their weights."""
        return self.lesson.last


def _groups(net: nn.Module, weighting: Weighting, recipe: Restore) -> list[dict[str, Any]]:
    """Parameters of the network, and those of the weights: without decay, and not clipped."""
    parts, rates = {"net": [*net.parameters()]}, {"net": recipe.rate}
    moving = [each for group in weighting.groups(recipe.weight_rate) for each in group["params"]]
    if moving:
        parts, rates = parts | {"weights": moving}, rates | {"weights": recipe.weight_rate}
    groups = optimizers.groups(parts, rates)
    for group in groups[1:]:
        group |= {"clip": False, "weight_decay": 0.0}
    return groups


def _psnr(image: Tensor, wanted: Tensor, data_range: float) -> Tensor:
    """Decibels of images that are held within their range, a mean over the batch."""
    off = (image.clamp(0, data_range) - wanted).square().flatten(1).mean(1)
    return (10 * torch.log10(data_range**2 / off.clamp_min(1e-10 * data_range**2))).mean()
