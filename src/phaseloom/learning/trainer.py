"""Training of a network in a folder, which can be stopped and resumed. Subclasses define data and loss."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import nn

from phaseloom.errors import BadInput
from phaseloom.fitting import checkpoint, device, optimizers
from phaseloom.fitting.distributed import team
from phaseloom.fitting.loop import Epoch, Progress, fit, stop_on_request
from phaseloom.fitting.outcome import StopReason
from phaseloom.learning.evaluation import make_card
from phaseloom.learning.weight_files import save_network
from phaseloom.runs.control import Answer, Command, CommandLoop, CommandQueue, Outcome, require_run_folder
from phaseloom.runs.folder import (
    EVENTS_NAME,
    SNAPSHOT_NAME,
    append_event,
    find_snapshot,
    forget_snapshots_after,
    keep_snapshot,
    lock_run,
    save_events,
    save_recipe,
    split_kept_path,
)
from phaseloom.runs.lock import OutputLock, release_on_failure
from phaseloom.runs.steered import SteeredCommand
from phaseloom.spec import Call, Recipe, load_yaml, part

__all__ = ["NetworkTraining", "TrainingRecipe", "require_new_folder", "start_progress"]


class TrainingRecipe(Recipe):
    """The settings of a fit that all trainings of networks have.

    A parameter file that is written has them after those of its own kind.

    Attributes:
        optimizer: how steps are made.
        rate: learning rate of the network.
        shape: how the rate changes over the run.
        epochs: at most.
        precision: of the network's arithmetic.
        clip: largest norm of the network's gradient.
        patience: epochs without improvement before stopping.
        seed: of all random numbers.
        device: for computing.
        title: for figures and files.
        snapshots: epochs after which a snapshot and the network are kept in ``snapshots``, to go back to; 0:
            the last ones alone.
        steered: commands that the training has followed (docs/steering.md), for one that repeats it.
    """

    optimizer: Call = part("phaseloom.fitting.optimizers", "adamw")
    rate: float = Field(1e-3, gt=0, allow_inf_nan=False)
    shape: Call = part("phaseloom.fitting.schedule", "one_cycle")
    epochs: int = Field(40, ge=1, strict=True)
    precision: Literal["float32", "bfloat16"] = "float32"
    clip: float | None = Field(1.0, gt=0)
    patience: int | None = Field(None, ge=1, strict=True)
    seed: int = Field(0, ge=0, lt=2**62, strict=True)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    title: str = ""
    snapshots: int = Field(0, ge=0, strict=True)
    steered: tuple[SteeredCommand, ...] = ()

    def resolved(self) -> dict[str, Any]:
        """The tree of a file that repeats this recipe, shared settings last."""
        tree = super().resolved()
        shared = {key: tree.pop(key) for key in TrainingRecipe.model_fields}
        return tree | shared


class NetworkTraining:
    """Base class of trainings: epochs, snapshots, early stopping, resumption.

    Iterating runs it, one `Epoch` at a time. The directory holds ``run.yaml``, and after every epoch
    ``events.jsonl`` and ``snapshot.h5``.

    Attributes:
        kind: class of the recipe.
        within: share by which the last hold-out loss may be above the lowest and still be the result.
        spare: batches in a row that are skipped where their numbers are not finite.
        recipe: settings of the training.
        directory: folder of the run, or ``None``.
        net: the network, on its device.
        objective: of the fit, for `phaseloom.fitting.loop.fit`.
        progress: state of the fit.
    """

    kind: ClassVar[Any]
    within: ClassVar[float] = 0.01
    spare: ClassVar[int] = 0
    objective: Any

    def __init__(self, recipe: Any, directory: Path | None):
        self.recipe = recipe
        self.directory = directory
        self._lock: AbstractContextManager[Any] = nullcontext()
        torch.manual_seed(recipe.seed)
        where = device.choose_device(recipe.device)
        self.net = team().convert_sync_batchnorm(self.network().to(where))
        self.progress = start_progress(recipe, self.net)

    @classmethod
    def begin(cls, recipe: Any, directory: Path | str | None = None, /) -> Self:
        """A new training, in a folder that holds none.

        Raises:
            BadInput: a folder that holds a run; settings that do not go together, before a folder is begun.
        """
        folder = require_new_folder(directory)
        return cls.begin_locked(lambda: cls(recipe, folder), folder)

    @classmethod
    def begin_locked(cls, make: Callable[[], Self], folder: Path | None, /) -> Self:
        """A new training whose folder no other process writes, from its making on."""
        lock = None if folder is None else OutputLock(folder)
        with release_on_failure(lock):
            training = make().check_and_save_recipe()
        training._lock = lock or nullcontext()
        return training

    def check_and_save_recipe(self) -> Self:
        """Initialise the network, compute a first loss as a check, and save the recipe; this training."""
        self.initialise_network()
        with torch.no_grad():
            # raises what does not fit together
            self.objective(team().share(self.list_holdout_batches()[0])[0])
        if self.directory is not None:
            save_recipe(self.recipe, self.directory)
        return self

    @classmethod
    def resume(cls, directory: Path | str, /, *, changes: Mapping[str, Any] | None = None) -> Self:
        """Continue from the last snapshot of a folder, bit by bit as without the interruption.

        Args:
            directory: the folder, or one of the files in its ``snapshots``: later epochs are done again.
            changes: settings that may differ from those of the folder, such as where the data are now.

        Raises:
            BadInput: no training of this kind there, or one that has lost its snapshot.
        """
        folder, kept = split_kept_path(Path(directory))
        folder = require_run_folder(folder, what="a training")
        if set(load_yaml(folder / "run.yaml")) - {"version", *cls.kind.model_fields}:
            raise BadInput(str(folder), None, "is not a run of this kind of training: name the folder of one")
        lock = lock_run(folder)
        with release_on_failure(lock):
            recipe = cls.kind.from_path(folder / "run.yaml", dict(changes or {}))
            snapshot = kept or find_snapshot(folder, {"seed": recipe.seed})
            training = cls(recipe, folder if team().is_main else None)
            training._lock = lock or nullcontext()
            if snapshot is not None:
                checkpoint.load(training.progress, snapshot, events=folder / EVENTS_NAME)
            else:
                training.initialise_network()
            if changes and training.directory is not None:
                save_recipe(training.recipe, training.directory)
        return training

    def __iter__(self) -> Iterator[Epoch]:
        with self._lock:
            yield from self._run()

    def _run(self) -> Iterator[Epoch]:
        recipe = self.recipe
        steering = TrainingSteering(self)
        if self.directory is not None:
            forget_snapshots_after(self.directory, self.progress.epoch)
            save_events(self.progress.history, self.directory, answers=steering.answers)
        epochs = fit(
            self.objective,
            self.batches,
            self.progress,
            epochs=recipe.epochs,
            shape=recipe.shape.partial(),
            holdout=self.list_holdout_batches(),
            judged=[self.holdout_loss_name],
            patience=recipe.patience,
            clip=recipe.clip,
            within=self.within,
            spare=self.spare,
        )
        try:
            for epoch in () if steering.steer() else epochs:
                _save_epoch(self)
                yield epoch
                if steering.steer():
                    break
            self.progress.record_stop()
            if self.directory is not None and self.progress.history:
                save_events(self.progress.history, self.directory, answers=steering.answers)
        finally:
            self.close()

    def is_over(self) -> bool:
        """Whether no epoch follows: all are done, the hold-out loss has ended it, or a command has."""
        stop = self.progress.stop
        return self.progress.epoch >= self.recipe.epochs or stop.is_settled or stop.is_requested

    def save_snapshot(self) -> None:
        """Write the state of the fit into the folder of the training."""
        if (folder := self.directory) is not None:
            of = {"settings": {"seed": self.recipe.seed}, "events": folder / EVENTS_NAME}
            checkpoint.save(self.progress, folder / SNAPSHOT_NAME, **of)

    def keep_epoch(self) -> None:
        """Keep the snapshot of this epoch, and the network beside it."""
        if self.directory is not None:
            kept = keep_snapshot(self.directory, self.progress.epoch)
            save_network(self.net, kept.with_suffix(".safetensors"), self.card_of_epoch())

    def card_of_epoch(self) -> dict[str, Any]:
        """The card of the network as it is now."""
        return make_card(self.recipe, None, epochs=self.progress.epoch)

    def network(self) -> nn.Module:
        """The network with its initial weights."""
        raise NotImplementedError

    def initialise_network(self) -> None:
        """Initialise the network from the data."""

    def batches(self, epoch: int, /) -> Sequence[Any]:
        """Batches of an epoch."""
        raise NotImplementedError

    def list_holdout_batches(self) -> Sequence[Any]:
        """Batches of the hold-out loss."""
        raise NotImplementedError

    @property
    def holdout_loss_name(self) -> str:
        """Name of the hold-out loss; by default the first of the losses."""
        return self.recipe.losses[0].name

    def state(self) -> dict[str, Any]:
        """Further entries for the line of an epoch in ``events.jsonl``."""
        return {}

    def close(self) -> None:
        """Release what only a running training needs."""


class TrainingSteering:
    """The commands of a training: pause, resume, stop and save.

    Args:
        training: that follows them.
    """

    def __init__(self, training: NetworkTraining):
        self.training = training
        self.queue = CommandQueue(training.directory)
        followed = {one.id: Outcome("was followed before the training was killed") for one in self._stops()}
        self.loop = CommandLoop(
            self.queue,
            {"stop": self._stop, "save": self._save},
            epoch=lambda: training.progress.epoch,
            ended=lambda: training.progress.stop.reason is not StopReason.NOT_STOPPED,
            followed=followed,
        )

    @property
    def answers(self) -> list[Answer]:
        """All that were given so far."""
        return self.queue.answers

    def steer(self) -> bool:
        """Follow the commands recorded for this epoch, and those that have come; whether to stop here."""
        self._follow_record()
        if team().broadcast(self.training.directory is not None):
            self.loop.take_all()
        return self.training.progress.stop.is_requested

    def _stops(self) -> list[SteeredCommand]:
        return [one for one in self.training.recipe.steered if one.command == "stop"]

    def _follow_record(self) -> None:
        training = self.training
        progress = training.progress
        due = any(one.epoch == progress.epoch for one in self._stops())
        if due and progress.epoch and not progress.stop.is_requested:
            stop_on_request(progress, within=training.within)
            training.save_snapshot()

    def _stop(self, command: Command) -> Outcome:
        training = self.training
        epoch = training.progress.epoch
        if self.loop.ended() or not epoch:
            fix = "comes too late: the training has ended" if epoch else "comes too early: no epoch is done"
            raise BadInput("steer", "stop", fix)
        one = SteeredCommand(epoch=epoch, command="stop", id=command.id)
        training.recipe = training.recipe.model_copy(update={"steered": (*training.recipe.steered, one)})
        if training.directory is not None:
            save_recipe(training.recipe, training.directory)
        self._follow_record()
        return Outcome(str(training.progress.stop))

    def _save(self, command: Command) -> Outcome:
        training = self.training
        if not training.progress.epoch:
            raise BadInput("steer", command.command, "comes too early: no epoch is done")
        if training.directory is None:
            return Outcome()
        kept = keep_snapshot(training.directory, training.progress.epoch)
        return Outcome(f"kept as {kept.relative_to(training.directory)}")


def _save_epoch(course: NetworkTraining) -> None:
    """Add the state of an epoch to the history, and save both in the folder."""
    if state := course.state():
        course.progress.history[-1]["state"] = state
    if course.directory is not None:
        course.save_snapshot()
        append_event(course.progress.history[-1], course.directory)
        if course.recipe.snapshots and course.progress.epoch % course.recipe.snapshots == 0:
            course.keep_epoch()


def start_progress(recipe: Any, net: nn.Module, /) -> Progress:
    """The beginning of a fit, for the parameters that a network has now."""
    groups = optimizers.groups({"net": [*net.parameters()]}, {"net": recipe.rate})
    return Progress(net, recipe.optimizer(groups))


def require_new_folder(directory: Path | str | None, /) -> Path | None:
    """The folder of a new run, for the one of several processes that writes.

    Raises:
        BadInput: a folder that holds a run.
    """
    folder = None if directory is None or not team().is_main else Path(directory)
    if folder is not None and (folder / "run.yaml").exists():
        raise BadInput(str(folder), None, "holds a run: name a new folder, or resume it")
    return folder
