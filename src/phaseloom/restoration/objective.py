"""What restorers learn from: crops of pairs, through a network, to weighed losses."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phaseloom.fitting import device
from phaseloom.metrics.image import ssim
from phaseloom.restoration.losses import Compared
from phaseloom.restoration.networks.unet import Restorer
from phaseloom.restoration.pairs.crops import Batch, Crops, crop, resized, stacked
from phaseloom.restoration.pairs.folders import Pair
from phaseloom.restoration.pairs.image_kinds import Task
from phaseloom.restoration.tiles import tiled
from phaseloom.restoration.weighting import Weighting

__all__ = ["Cuts", "Mending"]

BEST = 100.0
"""Decibels from which the hold-out loss counts down: the best network has the smallest."""

WHOLE = 256
"""Pixels along an edge above which a pair that judges is restored in tiles."""


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
        pairs: that crops are cut from, and that judge, on the level of the task.
        crops: what is drawn.
        losses: by name.
        recipe: of the training.
        last: ``losses`` of the last batch that was learned from, by output and name, their ``weights``, and
            the ``loss`` that they make.
        alike: structural similarity of the pairs that judged since it was emptied.
    """

    def __init__(
        self,
        net: Restorer,
        weighting: Weighting,
        pairs: tuple[Sequence[Pair], Sequence[Pair]],
        recipe: Any,
    ):
        self.net, self.weighting, self.pairs, self.recipe = net, weighting, pairs, recipe
        self.task: Task = recipe.kind()
        self.crops = Crops(size=recipe.crops, scales=recipe.scales, turned=recipe.turned)
        self.losses = {loss.name: loss.partial() for loss in recipe.losses}
        self.last: dict[str, Any] = {}
        self.alike: list[float] = []
        self.readers = ThreadPoolExecutor(recipe.threads) if recipe.threads else None

    def batch(self, these: Cuts, /) -> Batch:
        """Cut, or read as a whole, and brought to the device of the network."""
        where = device.of(self.net)
        if not these.epoch:
            return stacked([self.pairs[1][int(draw)] for draw in these.draws]).to(where)
        cut = partial(self._cut, epoch=these.epoch)
        numbers = [int(draw) for draw in these.draws]
        cuts = [cut(n) for n in numbers] if self.readers is None else [*self.readers.map(cut, numbers)]
        return resized(stacked(cuts), self.crops.scaled(these.scale)).to(where)

    def _cut(self, number: int, *, epoch: int) -> Pair:
        learned = self.pairs[0]
        pair = learned[number % len(learned)]
        return crop(pair, self.crops, seed=self.recipe.seed, epoch=epoch, number=number)

    def __call__(self, these: Cuts) -> dict[str, Tensor]:
        """The number of a batch."""
        learning = torch.is_grad_enabled()
        self.net.train(learning)
        return {"loss": self._weighed(these)} if learning else {"decibels": BEST - self._judged(these)}

    def terms(self, these: Cuts, /) -> dict[str, dict[str, Tensor]]:
        """Losses of a batch, by output and name."""
        batch = self.batch(these)
        with self._running(batch.input):
            low, high = self.net(batch.input)
        terms = {"low": Compared(low.float(), batch.target, "low").terms(self.losses)}
        if high is not None:
            terms["high"] = Compared(high.float(), batch.fine, "high").terms(self.losses)
        return terms

    def close(self) -> None:
        """Send home the threads that read."""
        if self.readers is not None:
            self.readers.shutdown(cancel_futures=True)

    def _weighed(self, these: Cuts) -> Tensor:
        terms = self.terms(these)
        loss = self.weighting(terms)
        found = {b: {name: float(value.detach()) for name, value in row.items()} for b, row in terms.items()}
        self.last = {"losses": found, "weights": self.weighting.weights, "loss": float(loss.detach())}
        return loss

    def _judged(self, these: Cuts) -> Tensor:
        """Decibels of whole pairs, their similarity noted."""
        batch, within = self.batch(these), self.task.within
        with self._running(batch.input):
            low = tiled(self.net, batch.input, tile=max(WHOLE, self.recipe.crops)).low.float()
        low = low if within is None else low.clamp(*within)
        if min(low.shape[-2:]) > 10:
            self.alike.append(ssim(low.cpu().numpy(), batch.target.cpu().numpy(), peak=1))
        off = (low - batch.target).square().flatten(1).mean(1)
        return (10 * torch.log10(1 / off.clamp_min(1e-10))).mean()

    def _running(self, images: Tensor) -> AbstractContextManager[Any]:
        """The precision of the network."""
        half = self.recipe.precision == "bfloat16"
        return torch.autocast(images.device.type, torch.bfloat16, enabled=half)
