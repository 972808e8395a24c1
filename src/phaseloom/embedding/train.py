"""Train an autoencoder on the patterns of one scan, with blocks of the scan held out."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field
from torch import nn

from phaseloom.data.scan import Scan4D
from phaseloom.embedding.block_split import BlockSplit, make_batches, split_blocks
from phaseloom.embedding.losses import BATCH_LOSSES
from phaseloom.embedding.networks.autoencoder import LinearAutoencoder, PatternAutoencoder
from phaseloom.embedding.objective import AutoencoderObjective, PatternPresentation, select_few
from phaseloom.errors import BadInput
from phaseloom.fitting.distributed import team
from phaseloom.fitting.loop import Epoch
from phaseloom.fitting.updates import HoldOut, measure_holdout
from phaseloom.learning.trainer import NetworkTraining, TrainingRecipe, require_new_folder, start_progress
from phaseloom.runs.scan_recipe import MAX_EPOCHS, ScanRecipe, digest_of_scan, keep_part_of_process
from phaseloom.spec import Call, part

__all__ = ["Autoencode", "AutoencoderTraining"]


class Autoencode(ScanRecipe, TrainingRecipe):
    """How an autoencoder is trained.

    Settings of the fit are those of `phaseloom.learning.trainer.TrainingRecipe`.

    Attributes:
        file: the scan.
        read: its format and calibration, as for a reconstruction.
        prepare: what is done to it first, as for a reconstruction.
        model: the network; its latents are a knob of it.
        losses: minimised; the first one is the hold-out loss.
        block: probes along an edge of the blocks that are held out: neighbours are correlated.
        validation: share of the blocks for early stopping.
        test: share of the blocks for the final scores.
        epochs: at most.
        batch: patterns of a step.
        halves: train to predict one half of a pattern's counts from the other, whose noise is independent, so
            that noise is not learned; ``phaseloom embed`` takes the mean of both halves.
        turned: turn and mirror patterns at random, as the detector allows: for scans whose specimens lie
            in all directions, and only if latents need not tell these apart.
        found: what the training has noted of its data: ``data``, a hash of the scan.

    Example:
        >>> Autoencode.of({"file": "scan.h5", "model": "pca"}).model.name
        'pca'
    """

    strict: ClassVar[bool] = True

    model: Call = part("phaseloom.embedding.networks.autoencoder", "recommended")
    losses: tuple[Call, ...] = part("phaseloom.embedding.losses", ("squares",))
    block: int = Field(8, ge=1, strict=True)
    validation: float = Field(0.1, gt=0, lt=1)
    test: float = Field(0.2, ge=0, lt=1)
    epochs: int = Field(20, ge=1, le=MAX_EPOCHS, strict=True)
    batch: int = Field(32, ge=1, strict=True)
    halves: bool = False
    turned: bool = False
    found: dict[str, str] = Field(default_factory=dict)


class AutoencoderTraining(NetworkTraining):
    """A training on the patterns of a scan, which leaves an autoencoder behind.

    Attributes:
        scan: the data.
        parts: patterns for training, validation and test.
    """

    kind = Autoencode
    within = 0.0
    recipe: Autoencode
    objective: AutoencoderObjective
    net: PatternAutoencoder

    def __init__(self, recipe: Autoencode, directory: Path | None, scan: Scan4D | None = None):
        super().__init__(recipe, directory)
        self.scan = recipe.scan(scan)
        self.recipe = recipe = _note_data(recipe, self.scan)
        shares = {"validation": recipe.validation, "test": recipe.test}
        self.parts: BlockSplit = split_blocks(self.scan, edge=recipe.block, seed=recipe.seed, **shares)
        losses = {loss.name: loss.partial() for loss in recipe.losses}
        manner = PatternPresentation(recipe.halves, recipe.turned, recipe.precision, recipe.seed)
        few = select_few(self.parts.train, self.scan)
        self.objective = AutoencoderObjective(
            self.net, keep_part_of_process(self.scan, known=few), losses, few, manner=manner
        )
        self.objective.begin()
        team().broadcast_parameters(self.net)
        self.progress = start_progress(recipe, self.net)

    @classmethod
    def begin(
        cls, recipe: Autoencode, directory: Path | str | None = None, /, *, scan: Scan4D | None = None
    ) -> Self:
        """A new training, on the recipe's file or a scan in memory; errors as of `NetworkTraining.begin`."""
        folder = require_new_folder(directory)
        recipe = recipe.with_paths_from(Path.cwd())
        return cls.begin_locked(lambda: cls(recipe, folder, scan), folder)

    def __iter__(self) -> Iterator[Epoch]:
        if isinstance(self.net, LinearAutoencoder):
            self.progress.stopped = "components are fitted, not trained"
            return
        yield from super().__iter__()

    def network(self) -> nn.Module:
        """The network with its initial weights.

        Raises:
            BadInput: no losses, one that is not there in every epoch, or one that needs a whole batch.
        """
        if not self.recipe.losses or any(loss.when for loss in self.recipe.losses):
            raise BadInput("losses", None, "must be one at least, there in every epoch: the first one judges")
        for loss in self.recipe.losses:
            if team().world_size > 1 and loss.name in BATCH_LOSSES:
                fix = "compares the patterns of a batch, which several processes share: use one process"
                raise BadInput("losses", loss.name, fix)
        return self.recipe.model()

    def initialise_network(self) -> None:
        """Principal components are the result of epoch 0, until something is better."""
        held = HoldOut(self.list_holdout_batches(), judged=[self.holdout_loss_name])
        loss = measure_holdout(self.objective, held, self.progress.optimizer, 0)
        assert loss is not None
        self.progress.best = (0, loss, deepcopy(self.net.state_dict()))

    def batches(self, epoch: int, /) -> Sequence[Any]:
        """Batches of training patterns, each of a few runs of neighbours."""
        self.objective.epoch = epoch
        return make_batches(self.parts.train, self.recipe.batch, seed=(self.recipe.seed, epoch))

    def list_holdout_batches(self) -> Sequence[Any]:
        """Batches of the validation patterns."""
        held = self.parts.validation
        return [held[start : start + self.recipe.batch] for start in range(0, len(held), self.recipe.batch)]


def _note_data(recipe: Autoencode, scan: Scan4D) -> Autoencode:
    """The recipe with a hash of its scan, which must be that with which a run that is resumed began."""
    found = digest_of_scan(scan)
    if recipe.found.get("data", found) != found:
        raise BadInput("file", recipe.file.name, "has changed since the training began: begin a new one")
    return recipe.model_copy(update={"found": {**recipe.found, "data": found}})
