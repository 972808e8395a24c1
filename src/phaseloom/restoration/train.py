"""Training of a network that restores images, on pairs of a spoiled image and the one that is wanted."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, overload

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import nn

from phaseloom.errors import BadInput
from phaseloom.fitting import device, optimizers
from phaseloom.fitting.distributed import team
from phaseloom.fitting.loop import Progress
from phaseloom.learning.trainer import Course, placed
from phaseloom.restoration.networks.unet import Restorer
from phaseloom.restoration.objective import Cuts, Mending
from phaseloom.restoration.pairs.folders import ImagePairs, Pair, parted
from phaseloom.restoration.pairs.image_kinds import Task, photograph
from phaseloom.restoration.weighting import Weighting
from phaseloom.spec import Call, Written, call, knobs, part

__all__ = ["Known", "Levelled", "Restore", "Restoring", "fitting"]


WITHIN = 0.006
"""Half a decibel: validation by a few scenes is no surer than that, and the last epoch is the settled one."""

USUAL = 64
"""Pixels along an edge of a crop, where images are as large."""

KEPT = 500_000_000
"""Bytes of levelled pairs that are kept in memory."""


class Known(NamedTuple):
    """Pairs, and what is known of them.

    Attributes:
        pairs: to learn from.
        scenes: what each shows, in a word, or ``None``.
        task: what the images are, or ``None``.
    """

    pairs: Sequence[Pair]
    scenes: Sequence[str] | None = None
    task: str | None = None


class Restore(Written):
    """How a network that restores images is trained.

    Attributes:
        data: folders of data sets: ``train`` and ``test`` in each, in these ``input``, ``gt`` and, where the
            finer image is known, ``gt_hr``.
        task: what of the images' values is arbitrary, and which values there can be; default: what the data
            sets say that they are, else photographs.
        model: the network; channels that are not said are those of the data.
        losses: what is made small, of both outputs.
        weighting: how they become one number.
        weight_rate: of learning its weights.
        crops: pixels along an edge of the crops that are learned from, a multiple of 8; default: 64, or what
            smaller images have.
        scales: factors by which crops are enlarged, one for each batch.
        turned: flip and turn crops.
        each: crops of each pair in an epoch.
        validation: share of the training pairs that decide which epoch is the best, unless the last one is
            within half a decibel; pairs of one scene (`phaseloom.restoration.pairs.folders`) stay together.
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
        threads: that read files at once; none: the one that computes.
        device: where to compute.
        title: for figures and files.

    Example:
        >>> Restore.of({"data": ["LSUI"], "model": "phaseformer"}).model.name
        'phaseformer'
    """

    data: tuple[Path, ...] = ()
    task: Call | None = part("phaseloom.restoration.pairs.image_kinds", None)
    model: Call = part("phaseloom.restoration.networks.phaseformer", "narrow")
    losses: tuple[Call, ...] = part("phaseloom.restoration.losses", ("charbonnier", "gradient", "similarity"))
    weighting: Call = part("phaseloom.restoration.weighting", "uncertainty")
    weight_rate: float = Field(1e-2, gt=0, allow_inf_nan=False)
    crops: int | None = Field(None, ge=8, strict=True)
    scales: tuple[float, ...] = (1.0,)
    turned: bool = True
    each: int = Field(1, ge=1, strict=True)
    validation: float = Field(0.05, gt=0, lt=1)
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
    threads: int = Field(0, ge=0, strict=True)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    title: str = ""

    @field_validator("data", mode="before")
    @classmethod
    def _listed(cls, data: Any) -> Any:
        """One folder may stand by itself."""
        return (data,) if isinstance(data, str | Path) else data

    def known(self) -> "Known":
        """The pairs to learn from, with what their folders say of them."""
        pairs = self.pairs("train")
        return Known(pairs, pairs.scenes, pairs.task)

    def kind(self) -> Task:
        """What the images are; photographs, as long as nobody has said or seen."""
        return photograph() if self.task is None else self.task()

    def tests(self) -> Sequence[Pair]:
        """The pairs that judge in the end; none where no data set has a part ``test``."""
        there = tuple(folder for folder in self.data if (folder / "test").is_dir())
        return ImagePairs.of(there, part="test") if there else ()

    def pairs(self, which: Literal["train", "test"], /) -> ImagePairs:
        """The pairs of one part of all data sets.

        Raises:
            BadInput: no data set; errors as of `ImagePairs.of`.
        """
        if not self.data:
            raise BadInput("data", None, "names no data set: give a folder with train and test in it")
        return ImagePairs.of(self.data, part=which)


@dataclass(frozen=True)
class Levelled(Sequence[Pair]):
    """Pairs as a network is taught them; read and levelled once, as long as there is room.

    Attributes:
        pairs: in their unit.
        task: that levels them.
        kept: those that were asked for before, by their numbers.
    """

    pairs: Sequence[Pair]
    task: Task
    kept: dict[int, Pair] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.pairs)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> "Levelled": ...
    def __getitem__(self, index: int | slice) -> "Pair | Levelled":
        """A pair; a slice is not read yet."""
        if isinstance(index, slice):
            return Levelled(self.pairs[index], self.task)
        if index in self.kept:
            return self.kept[index]
        pair = self.task.levelled(self.pairs[index])
        size = sum(image.nbytes for image in (pair.input, pair.target, pair.fine) if image is not None)
        if size * (len(self.kept) + 1) < KEPT:
            self.kept[index] = pair
        return pair


class Restoring(Course):
    """A training on pairs of images, which leaves a network that restores behind.

    Attributes:
        pairs: that are learned from, and that decide which epoch is the best.
        weighting: of the losses.
    """

    kind, within, spare = Restore, WITHIN, 20
    recipe: Restore
    lesson: Mending
    net: Restorer

    def __init__(self, recipe: Restore, directory: Path | None, known: Known | None = None):
        known = known or recipe.known()
        recipe = fitting(recipe, known)
        task = recipe.kind()
        sides = parted(known.pairs, validation=recipe.validation, seed=recipe.seed, groups=known.scenes)
        self.pairs = Levelled(sides[0], task), Levelled(sides[1], task)
        super().__init__(recipe, directory)
        names = [loss.name for loss in recipe.losses]
        self.weighting: Weighting = recipe.weighting(names, ("low", "high")).to(device.of(self.net))
        self.lesson = Mending(self.net, self.weighting, self.pairs, recipe)
        whole = nn.ModuleDict({"net": self.net, "weighting": self.weighting})
        self.progress = Progress(whole, recipe.optimizer(_groups(self.net, self.weighting, recipe)))

    @classmethod
    def begin(
        cls,
        recipe: Restore,
        directory: Path | str | None = None,
        /,
        *,
        pairs: Sequence[Pair] | None = None,
        scenes: Sequence[str] | None = None,
    ) -> Self:
        """A new training, on the recipe's data or pairs in memory; errors as of `Course.begin`.

        Args:
            recipe: of the training.
            directory: of the run.
            pairs: in place of the recipe's data.
            scenes: what each of them shows, see `phaseloom.restoration.pairs.folders.parted`.
        """
        return cls(recipe, placed(directory), None if pairs is None else Known(pairs, scenes)).begun()

    def network(self) -> nn.Module:
        """Before it has seen an image."""
        recipe = self.recipe
        if not recipe.losses or any(loss.when for loss in recipe.losses):
            raise BadInput("losses", None, "must be one at least, there in every epoch")
        return recipe.model()

    def prepared(self) -> None:
        """What losses begin with, of a whole first batch in every process, and the same in all."""
        first = self.batches(1)[0]
        with torch.no_grad():
            self.weighting.begin(self.lesson.terms(first if isinstance(first, Cuts) else first[0]))
        team().agree(self.weighting)

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
        """Losses of the last batch, their weights, and the similarity of the pairs that judged."""
        alike, self.lesson.alike = self.lesson.alike[-len(self.pairs[1]) :], []
        return {**self.lesson.last, "ssim": float(np.mean(alike)) if alike else None}

    def close(self) -> None:
        """Send home the threads that read."""
        self.lesson.close()


def fitting(recipe: Restore, known: Known, /) -> Restore:
    """A recipe in which what it leaves open follows from the data: task, crops, channels in and out.

    Raises:
        BadInput: data sets that name a task that is none.
    """
    changes: dict[str, Any] = {}
    if recipe.task is None:
        changes["task"] = call(
            "phaseloom.restoration.pairs.image_kinds", known.task or "photograph", "meta.json: task"
        )
    asked, first = knobs(recipe.model.room, recipe.model.name), known.pairs[0]
    found = {"channels_in": len(first.input), "channels_out": len(first.target)}
    values = {name: count for name, count in found.items() if name in asked} | dict(recipe.model.values)
    if recipe.crops is None:
        changes["crops"] = max(8, min(USUAL, min(first.size) // 8 * 8))
    changes["model"] = replace(recipe.model, values=values)
    return recipe.model_copy(update=changes)


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
