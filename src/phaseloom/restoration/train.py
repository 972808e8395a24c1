"""Train a network that restores images, on pairs of a measured image and the wanted one."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from phaseloom.errors import BadInput
from phaseloom.fitting import device, optimizers
from phaseloom.fitting.distributed import team
from phaseloom.fitting.loop import Epoch, Progress
from phaseloom.learning.trainer import NetworkTraining, TrainingRecipe, require_new_folder
from phaseloom.metrics.image import ssim
from phaseloom.restoration.losses import RestoredBatch
from phaseloom.restoration.networks.unet import Restorer
from phaseloom.restoration.pairs.crops import (
    CROP_MULTIPLE,
    Batch,
    Crops,
    crop_pair,
    resize_batch,
    stack_pairs,
)
from phaseloom.restoration.pairs.folders import ImagePairs, Pair, Side, hash_files, split_pairs
from phaseloom.restoration.pairs.image_kinds import ImageKind, photograph
from phaseloom.restoration.pairs.layouts import has_side
from phaseloom.restoration.tiles import restore_in_tiles
from phaseloom.restoration.weighting import Weighting
from phaseloom.spec import Call, Written, call, knobs, part

__all__ = ["CropDraws", "NormalisedPairs", "Restore", "RestorerTraining", "TrainingPairs", "describe_epoch"]

MAX_LAST_EPOCH_EXCESS = 0.006
"""Half a decibel, relative to the hold-out loss: validation by a few scenes is not more accurate, and the
last epoch is the converged one."""

DEFAULT_CROP_PIXELS = 64
"""Pixels along an edge of a crop, if images are as large."""

MAX_CACHED_BYTES = 500_000_000
"""Bytes of normalised pairs that are kept in memory."""

HOLDOUT_DECIBELS = 100.0
"""The hold-out loss is this number less the decibels, so that the best network has the smallest."""

MAX_WHOLE_PIXELS = 256
"""Pixels along an edge above which a validation pair is restored in tiles."""

MIN_SIDE_FOR_SSIM = 11
"""Pixels along an edge that the window of SSIM needs."""


class TrainingPairs(NamedTuple):
    """Pairs, and the metadata of their folders.

    Attributes:
        pairs: for training and validation.
        scenes: what each shows, in a word, or ``None``.
        task: kind of the images, or ``None``.
    """

    pairs: Sequence[Pair]
    scenes: Sequence[str] | None = None
    task: str | None = None


class Restore(Written, TrainingRecipe):
    """How a network that restores images is trained.

    Settings of the fit are those of `phaseloom.learning.trainer.TrainingRecipe`.

    Attributes:
        data: folders of data sets: ``train`` and ``test`` in each, in these ``input``, ``gt`` and, if the
            finer image is known, ``gt_hr``; or of LSUI or UIEB (`phaseloom.restoration.pairs.layouts`).
        task: kind of the images: which part of their values is arbitrary, and which values are possible;
            default: what the data sets name, else photographs.
        model: the network; its channels default to those of the data.
        losses: to minimise, of both outputs.
        weighting: how they are combined.
        weight_rate: learning rate of the weights of the losses.
        crops: pixels along an edge of the training crops, a multiple of 8; default: 64, or less for smaller
            images.
        scales: factors by which crops are enlarged, one for each batch.
        turned: flip and turn crops.
        each: crops of each pair in an epoch.
        validation: share of the training pairs that decide which epoch is the best, unless the last one is
            within half a decibel; pairs of one scene (`phaseloom.restoration.pairs.folders`) stay together.
        batch: crops of a step.
        pieces: crops that are computed together; fewer than a batch save memory.
        threads: for reading files; zero: read in the main thread.
        found: what the training has noted of its data: ``pairs``, a hash of names and sizes of their files.

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
    batch: int = Field(8, ge=1, strict=True)
    pieces: int | None = Field(None, ge=1, strict=True)
    threads: int = Field(0, ge=0, strict=True)
    found: dict[str, str] = Field(default_factory=dict)

    @field_validator("data", mode="before")
    @classmethod
    def _wrap_folder(cls, data: Any) -> Any:
        """Accept one folder without a list."""
        return (data,) if isinstance(data, str | Path) else data

    def list_training_pairs(self) -> TrainingPairs:
        """The pairs for training and validation, with the metadata of their folders."""
        pairs = self.pairs("train")
        return TrainingPairs(pairs, pairs.scenes, pairs.task)

    def kind(self) -> ImageKind:
        """Kind of the images; photographs by default."""
        return photograph() if self.task is None else self.task()

    def list_test_pairs(self) -> Sequence[Pair]:
        """The pairs for the final test; none if no data set has a part ``test``."""
        there = tuple(folder for folder in self.data if has_side(folder, "test"))
        return ImagePairs.of(there, part="test") if there else ()

    def pairs(self, which: Side, /) -> ImagePairs:
        """The pairs of one part of all data sets.

        Raises:
            BadInput: no data set; errors as of `ImagePairs.of`.
        """
        if not self.data:
            raise BadInput("data", None, "names no data set: give a folder with train and test in it")
        return ImagePairs.of(self.data, part=which)


@dataclass(frozen=True)
class NormalisedPairs(Sequence[Pair]):
    """Pairs normalised for a network, and cached as far as memory allows."""

    pairs: Sequence[Pair]
    kind: ImageKind
    cache: dict[int, Pair] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: Any) -> Any:
        """Read a pair; slices are not read yet."""
        if isinstance(index, slice):
            return NormalisedPairs(self.pairs[index], self.kind)
        if index in self.cache:
            return self.cache[index]
        pair = self.kind.normalise_pair(self.pairs[index])
        size = sum(image.nbytes for image in (pair.input, pair.target, pair.fine) if image is not None)
        if size * (len(self.cache) + 1) < MAX_CACHED_BYTES:
            self.cache[index] = pair
        return pair


@dataclass(frozen=True, eq=False)
class CropDraws:
    """Crops that were chosen and not yet cut, or whole pairs: all random numbers of a batch.

    Attributes:
        draws: numbers of the draws; ``draw % pairs`` is the pair.
        epoch: part of the seed of each draw; 0: whole pairs of the validation.
        scale: factor by which crops are enlarged.
    """

    draws: np.ndarray
    epoch: int = 0
    scale: float = 1.0

    def __len__(self) -> int:
        return len(self.draws)

    def __getitem__(self, some: slice) -> "CropDraws":
        return replace(self, draws=self.draws[some])

    def __str__(self) -> str:
        """For a log."""
        return f"draws {', '.join(map(str, self.draws))} of epoch {self.epoch}"

    def split(self, size: int, /) -> "tuple[CropDraws, ...]":
        """The same in pieces."""
        return tuple(self[start : start + size] for start in range(0, len(self), size))


class RestorationObjective:
    """Objective of the training: from drawn crops, through the network, to the weighted losses.

    Without gradients it is the hold-out loss: 100 less the decibels of whole pairs.

    Attributes:
        net: on the device.
        weighting: of the losses, beside it.
        pairs: for training and for validation, normalised.
        recipe: of the training.
        losses: by name.
        last: ``losses`` of the last training batch, by output and name, their ``weights``, and the combined
            ``loss``.
        similarities: SSIM of the validation pairs since it was emptied.
    """

    def __init__(
        self,
        net: Restorer,
        weighting: Weighting,
        pairs: tuple[Sequence[Pair], Sequence[Pair]],
        recipe: Restore,
    ):
        self.net = net
        self.weighting = weighting
        self.pairs = pairs
        self.recipe = recipe
        self.value_range = recipe.kind().value_range
        size = recipe.crops or DEFAULT_CROP_PIXELS
        self.crops = Crops(size=size, scales=recipe.scales, turned=recipe.turned)
        self.losses = {loss.name: loss.partial() for loss in recipe.losses}
        self.last: dict[str, Any] = {}
        self.similarities: list[float] = []
        self.readers = ThreadPoolExecutor(recipe.threads) if recipe.threads else None

    def batch(self, these: CropDraws, /) -> Batch:
        """Read and cut the crops of a batch, on the device of the network."""
        where = device.device_of(self.net)
        numbers = [int(draw) for draw in these.draws]
        if not these.epoch:
            return stack_pairs([self.pairs[1][number] for number in numbers]).to(where)
        learned = self.pairs[0]

        def cut(number: int) -> Pair:
            pair = learned[number % len(learned)]
            return crop_pair(pair, self.crops, seed=self.recipe.seed, epoch=these.epoch, number=number)

        cuts = list(map(cut, numbers) if self.readers is None else self.readers.map(cut, numbers))
        return resize_batch(stack_pairs(cuts), self.crops.scale_size(these.scale)).to(where)

    def __call__(self, these: CropDraws) -> dict[str, Tensor]:
        """The weighted losses of a batch, or without gradients its hold-out loss."""
        learning = torch.is_grad_enabled()
        self.net.train(learning)
        return {"loss": self._loss(these)} if learning else {"decibels": self._holdout_loss(these)}

    def terms(self, these: CropDraws, /) -> dict[str, dict[str, Tensor]]:
        """Losses of a batch, by output and name."""
        batch = self.batch(these)
        with self._autocast(batch.input):
            low, high = self.net(batch.input)
        terms = {"low": RestoredBatch(low.float(), batch.target, "low").terms(self.losses)}
        if high is not None:
            terms["high"] = RestoredBatch(high.float(), batch.fine, "high").terms(self.losses)
        return terms

    def close(self) -> None:
        """End the threads that read."""
        if self.readers is not None:
            self.readers.shutdown(cancel_futures=True)

    def _loss(self, these: CropDraws) -> Tensor:
        terms = self.terms(these)
        loss = self.weighting(terms)
        losses = {b: {name: float(value.detach()) for name, value in row.items()} for b, row in terms.items()}
        self.last = {"losses": losses, "weights": self.weighting.weights, "loss": float(loss.detach())}
        return loss

    def _holdout_loss(self, these: CropDraws) -> Tensor:
        batch = self.batch(these)
        with self._autocast(batch.input):
            low = restore_in_tiles(
                self.net, batch.input, tile=max(MAX_WHOLE_PIXELS, self.crops.size)
            ).low.float()
        if self.value_range is not None:
            low = low.clamp(*self.value_range)
        if min(low.shape[-2:]) >= MIN_SIDE_FOR_SSIM:
            self.similarities.append(ssim(low.cpu().numpy(), batch.target.cpu().numpy(), peak=1))
        error = (low - batch.target).square().flatten(1).mean(1)
        return HOLDOUT_DECIBELS - (10 * torch.log10(1 / error.clamp_min(1e-10))).mean()

    def _autocast(self, images: Tensor) -> AbstractContextManager[Any]:
        half = self.recipe.precision == "bfloat16"
        return torch.autocast(images.device.type, torch.bfloat16, enabled=half)


class RestorerTraining(NetworkTraining):
    """A training on pairs of images that leaves a restorer behind.

    Attributes:
        pairs: for training, and for validation, which decides which epoch is the best.
        weighting: of the losses.
    """

    kind = Restore
    within = MAX_LAST_EPOCH_EXCESS
    spare = 20
    recipe: Restore
    objective: RestorationObjective
    net: Restorer

    def __init__(self, recipe: Restore, directory: Path | None, known: TrainingPairs | None = None):
        known = known or recipe.list_training_pairs()
        recipe = complete_recipe(recipe, known)
        recipe = recipe.model_copy(update={"found": _note_pairs(recipe, known.pairs)})
        kind = recipe.kind()
        sides = split_pairs(known.pairs, validation=recipe.validation, seed=recipe.seed, groups=known.scenes)
        self.pairs = (NormalisedPairs(sides[0], kind), NormalisedPairs(sides[1], kind))
        super().__init__(recipe, directory)
        names = [loss.name for loss in recipe.losses]
        self.weighting: Weighting = recipe.weighting(names, ("low", "high")).to(device.device_of(self.net))
        self.objective = RestorationObjective(self.net, self.weighting, self.pairs, recipe)
        whole = nn.ModuleDict({"net": self.net, "weighting": self.weighting})
        self.progress = Progress(whole, recipe.optimizer(_parameter_groups(self.net, self.weighting, recipe)))

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
        """A new training, on the recipe's data or pairs in memory; errors as of `NetworkTraining.begin`.

        Args:
            recipe: of the training.
            directory: of the run.
            pairs: in place of the recipe's data.
            scenes: what each of them shows, see `phaseloom.restoration.pairs.folders.split_pairs`.
        """
        known = None if pairs is None else TrainingPairs(pairs, scenes)
        folder = require_new_folder(directory)
        return cls.begin_locked(lambda: cls(recipe, folder, known), folder)

    def network(self) -> nn.Module:
        """The untrained network."""
        recipe = self.recipe
        if not recipe.losses or any(loss.when for loss in recipe.losses):
            raise BadInput("losses", None, "must be one at least, there in every epoch")
        return recipe.model()

    def initialise_network(self) -> None:
        """Initialise the weighting by a whole first batch, the same in all processes."""
        first = self.batches(1)[0]
        with torch.no_grad():
            self.weighting.begin(self.objective.terms(first if isinstance(first, CropDraws) else first[0]))
        team().broadcast_parameters(self.weighting)

    @property
    def holdout_loss_name(self) -> str:
        """Name of the hold-out loss."""
        return "decibels"

    def batches(self, epoch: int, /) -> Sequence[Any]:
        """The crops of an epoch, each pair as often as any other."""
        recipe = self.recipe
        count = len(self.pairs[0]) * recipe.each
        rng = np.random.default_rng((recipe.seed, 31, epoch))
        order = rng.permutation(count)
        starts = range(0, count, recipe.batch)
        parts = [
            CropDraws(order[start : start + recipe.batch], epoch, float(rng.choice(recipe.scales)))
            for start in starts
        ]
        return [part.split(recipe.pieces) if recipe.pieces else part for part in parts]

    def list_holdout_batches(self) -> Sequence[Any]:
        """The validation pairs, one by one: their sizes may differ."""
        return [CropDraws(np.array([number])) for number in range(len(self.pairs[1]))]

    def state(self) -> dict[str, Any]:
        """Losses of the last batch, their weights, and the mean PSNR and SSIM of the validation pairs."""
        similarities = self.objective.similarities[-len(self.pairs[1]) :]
        self.objective.similarities = []
        holdout = self.progress.history[-1]["holdout"]
        decibels = None if holdout is None else HOLDOUT_DECIBELS - holdout
        mean = float(np.mean(similarities)) if similarities else None
        return {**self.objective.last, "psnr": decibels, "ssim": mean}

    def card_of_epoch(self) -> dict[str, Any]:
        """The card of the network as it is now, with the kind of its images."""
        return super().card_of_epoch() | {"task": self.recipe.kind().name}

    def close(self) -> None:
        """End the threads that read."""
        self.objective.close()


def describe_epoch(training: RestorerTraining, epoch: Epoch, /) -> str:
    """An epoch for a progress bar: loss of its last batch, mean loss, rate of the network, PSNR and SSIM."""
    last = training.progress.history[-1]
    state = last.get("state", {})
    rate = last["rates"].get("net", 0.0)
    losses = f"Loss {state.get('loss', epoch.loss):.4f} Avg_Loss {epoch.loss:.4f}"
    similarity = "" if state.get("ssim") is None else f" SSIM {state['ssim']:.3f}"
    decibels = state.get("psnr")
    if decibels is None:  # an epoch of an earlier version
        decibels = HOLDOUT_DECIBELS - (epoch.holdout or 0.0)
    return f"{losses} LR {rate:.2e} PSNR {decibels:.2f}{similarity}"


def _note_pairs(recipe: Restore, pairs: Sequence[Pair]) -> dict[str, str]:
    """What is noted of pairs in files; they must be those with which a run that is resumed began."""
    if not isinstance(pairs, ImagePairs):
        return recipe.found
    found = hash_files(pairs)
    if recipe.found.get("pairs", found) != found:
        fix = "holds other pairs than the run began with: name the data set where it is now"
        raise BadInput("data", ", ".join(map(str, recipe.data)), fix)
    return {**recipe.found, "pairs": found}


def complete_recipe(recipe: Restore, known: TrainingPairs, /) -> Restore:
    """A recipe with its open settings taken from the data: task, crops, channels in and out.

    Raises:
        BadInput: data sets that name an unknown task.
    """
    changes: dict[str, Any] = {}
    if recipe.task is None:
        name = known.task or "photograph"
        changes["task"] = call("phaseloom.restoration.pairs.image_kinds", name, "meta.json: task")
    first = known.pairs[0]
    if recipe.crops is None:
        fitting = min(first.size) // CROP_MULTIPLE * CROP_MULTIPLE
        changes["crops"] = max(CROP_MULTIPLE, min(DEFAULT_CROP_PIXELS, fitting))
    accepted = knobs(recipe.model.room, recipe.model.name)
    channels = {"channels_in": len(first.input), "channels_out": len(first.target)}
    values = {name: count for name, count in channels.items() if name in accepted}
    changes["model"] = replace(recipe.model, values=values | dict(recipe.model.values))
    return recipe.model_copy(update=changes)


def _parameter_groups(net: nn.Module, weighting: Weighting, recipe: Restore) -> list[dict[str, Any]]:
    """Parameters of the network, and those of the weights: without weight decay and gradient clipping."""
    parts = {"net": [*net.parameters()]}
    rates = {"net": recipe.rate}
    if learned := [value for value in weighting.parameters() if value.requires_grad]:
        parts["weights"] = learned
        rates["weights"] = recipe.weight_rate
    groups = optimizers.groups(parts, rates)
    for group in groups[1:]:
        group |= {"clip": False, "weight_decay": 0.0}
    return groups
