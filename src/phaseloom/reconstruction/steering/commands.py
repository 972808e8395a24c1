"""Commands to a reconstruction under way, carried out between two epochs and recorded in its recipe.

A command is recorded in ``run.yaml`` before it is answered, and what is recorded is followed by the same
code whether the command has just come, the run is resumed, or its recipe is run again, to the same bits.
"""

import contextlib
import shlex
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from phaseloom.errors import BadInput, nearest
from phaseloom.files import whole
from phaseloom.fitting.distributed import team
from phaseloom.fitting.loop import Progress, stop_on_request
from phaseloom.fitting.outcome import Stop
from phaseloom.fitting.schedule import evaluate_shape
from phaseloom.reconstruction.level import Level, make_batches
from phaseloom.reconstruction.recipe import PARTS, Reconstruct, ScheduledRate
from phaseloom.reconstruction.steering.branch import branch_run
from phaseloom.reconstruction.steering.settings import (
    change_settings,
    complete_settings,
    rate_when_on,
)
from phaseloom.runs.control import Answer, Command, CommandLoop, CommandQueue, Outcome
from phaseloom.runs.folder import (
    forget_snapshots_after,
    keep_snapshot,
    list_kept_epochs,
    path_of_kept,
    save_events,
)
from phaseloom.runs.steered import SteeredCommand, list_effective

__all__ = ["Steerable", "Steering"]


class Steerable(Protocol):
    """The reconstruction that is steered; see `phaseloom.reconstruction.protocol.Job`."""

    recipe: Reconstruct
    recorded: Reconstruct
    directory: Path | None
    levels: list[Level]
    level: Level
    training: np.ndarray

    @property
    def progress(self) -> Progress:
        """How far the fit has come."""
        ...

    def is_over(self) -> bool:
        """Whether no epoch follows unless more are asked for."""
        ...

    def save_recipe(self) -> None:
        """Write the recorded recipe."""
        ...

    def save_snapshot(self) -> None:
        """Write the state of the fit, in the middle of a run."""
        ...

    def go_back(self, snapshot: Path, /) -> None:
        """Build model and levels again, and bring them to the state of a snapshot."""
        ...


class Steering:
    """The commands of a reconstruction.

    Args:
        job: that follows them.
    """

    def __init__(self, job: Steerable):
        self.job = job
        self.queue = CommandQueue(job.directory)
        self.has_changed = False
        self._settings_epoch: int | None = job.progress.epoch
        verbs = {
            "set": self._set,
            "on": self._switch,
            "off": self._switch,
            "stop": self._stop,
            "back": self._back,
            "save": self._save,
            "branch": self._branch,
        }
        self.loop = CommandLoop(
            self.queue,
            verbs,
            epoch=lambda: job.progress.epoch,
            ended=job.is_over,
            followed={one.id: Outcome(_BEFORE, one.settings) for one in job.recorded.steered},
        )

    @property
    def answers(self) -> list[Answer]:
        """All that were given so far."""
        return self.queue.answers

    def steer(self) -> bool:
        """Follow the commands that are recorded for this epoch, and those that have come.

        Returns:
            Whether the fit has to be begun anew, from where it is, for its settings are others.
        """
        self.has_changed = self._follow_record()
        if team().broadcast(self.job.directory is not None):
            self.loop.take_all()
        return self.has_changed

    def answer_late(self) -> None:
        """Refuse commands that came after the end; a run that was interrupted takes them when it goes on."""
        if team().broadcast(self.job.directory is not None) and self.job.is_over():
            self.loop.take_all()

    def _follow_record(self) -> bool:
        """Give the job the settings that its record has for this epoch; whether there are such."""
        job = self.job
        epoch = job.progress.epoch
        if not (due := self._list_due()):
            return False
        if self._settings_epoch != epoch:  # those of the first epoch hold since the job was opened
            settings = job.recipe
            for one in due:
                settings = change_settings(settings, one.settings, epoch)
            self._use(settings)
        self._settings_epoch = epoch
        self._end_or_go_on(due)
        return True

    def _list_due(self) -> list[SteeredCommand]:
        """The commands that are recorded for this epoch."""
        epoch = self.job.progress.epoch
        return [one for one in list_effective(self.job.recorded.steered) if one.epoch == epoch]

    def _end_or_go_on(self, due: list[SteeredCommand]) -> None:
        """Stop if this is the last of some commands, else do not."""
        job = self.job
        if any(one.command == "stop" for one in due) and not job.progress.stop.is_requested:
            stop_on_request(job.progress)
            job.save_snapshot()
        if due[-1].command != "stop":  # a branch of a run that has ended goes on
            job.progress.stop = Stop()
            job.progress.result_epoch = None

    def _use(self, settings: Reconstruct) -> None:
        """Give the job and its levels other settings."""
        levels = [level.with_settings(settings) for level in self.job.levels]
        at = self.job.levels.index(self.job.level)
        self.job.recipe = settings
        self.job.levels = levels
        self.job.level = levels[at]

    def _record(self, command: Command, settings: Mapping[str, Any] | None = None) -> None:
        """Write a command into the recipe, before it is followed."""
        job = self.job
        given: Any = {"command": command.command, "settings": dict(settings or {}), "id": command.id}
        one = SteeredCommand(epoch=job.progress.epoch, **given)
        steered = (*job.recorded.steered, one)
        job.recorded = job.recorded.model_copy(update={"steered": steered})
        job.save_recipe()
        self.has_changed = True
        self._settings_epoch = job.progress.epoch

    def _require_epochs(self, command: Command) -> None:
        """Refuse what only a run with epochs before it can do."""
        if self.job.is_over():
            done = self.job.progress.epoch
            fix = f"comes too late: the run has ended after epoch {done}; a branch can go on from there"
            raise BadInput("steer", command.command, fix)

    def _set(self, command: Command) -> Outcome:
        self._require_epochs(command)
        if not command.settings:
            raise BadInput("steer set", None, "names no setting: give one, such as rates.object=0.1")
        return self._change(command, command.settings)

    def _switch(self, command: Command) -> Outcome:
        """Let a part move, or hold it."""
        self._require_epochs(command)
        part = command.name
        if part not in PARTS:
            raise BadInput(f"steer {command.command}", part, f"is not a part: {nearest(str(part), PARTS)}")
        recipe = self.job.recipe
        scheduled = isinstance(recipe.rates.get(part), ScheduledRate)
        path = f"rates.{part}.rate" if scheduled else f"rates.{part}"
        rate = (
            rate_when_on(self.job.recorded, part, self.job.progress.epoch) if command.command == "on" else 0
        )
        settings = {path: rate}
        if scheduled and rate:
            settings |= {f"rates.{part}.stop": None}
        return self._change(command, settings)

    def _change(self, command: Command, settings: Mapping[str, Any]) -> Outcome:
        job = self.job
        settings = complete_settings(job.recipe, settings)
        changed = change_settings(job.recipe, settings, job.progress.epoch)
        for part in dict.fromkeys(path.split(".")[1] for path in settings if path.startswith("rates.")):
            if not job.level.groups(part):
                fix = "rests in this run, which has prepared nothing for it: begin one with it above zero"
                raise BadInput("steer", f"rates.{part}", fix)
        self._try(changed)
        self._record(command, settings)
        self._use(changed)
        self._end_or_go_on(self._list_due())
        return Outcome(f"holds from epoch {job.progress.epoch + 1} on", settings)

    def _try(self, settings: Reconstruct) -> None:
        """Compute two patterns with other settings, which refuse values that cannot be used."""
        job = self.job
        level = job.level.with_settings(settings)
        history = job.progress.history
        evaluate_shape(settings.shape.partial(), job.progress.epoch + 1, settings.epochs, history)
        first = make_batches(settings, level, job.training)(job.progress.epoch + 1)
        if not len(first):
            raise BadInput("steer", "batch", "leaves no batch: make it smaller")
        two, _ = team().share(torch.as_tensor(job.training[:2]), level.likelihood.owners)
        with torch.no_grad():
            level.likelihood(two.to(job.level.model.scan.start.device))

    def _stop(self, command: Command) -> Outcome:
        self._require_epochs(command)
        if not self.job.progress.epoch:
            raise BadInput("steer", "stop", "comes too early: no epoch is done; interrupt the run instead")
        self.loop.is_paused = False
        self._record(command)
        self._end_or_go_on(self._list_due())
        coarse = self.job.level is not self.job.levels[-1]
        return Outcome(f"{self.job.progress.stop}{' (on a coarser grid)' if coarse else ''}")

    def _save(self, command: Command) -> Outcome:
        folder = self._require_snapshot(command)
        if folder is None:
            return Outcome()
        with _refusing_lack_of_room(command):
            kept = keep_snapshot(folder, self.job.progress.epoch)
        return Outcome(f"kept as {kept.relative_to(folder)}")

    def _back(self, command: Command) -> Outcome:
        """Go back to the end of an epoch, as it was before any command came."""
        job = self.job
        self._require_epochs(command)
        folder = team().broadcast(job.directory)
        kept = team().broadcast([] if job.directory is None else list_kept_epochs(job.directory))
        if folder is None or command.epoch not in kept:
            there = f"those of {', '.join(map(str, kept))} are" if kept else "none is: save keeps one"
            epoch = "none" if command.epoch is None else command.epoch
            raise BadInput("steer back: epoch", epoch, f"has no snapshot that was kept; {there}")
        before = job.progress.epoch
        if job.directory is not None:
            with whole(job.directory / "snapshot.h5") as short:
                shutil.copyfile(path_of_kept(job.directory, command.epoch), short)
        back = SteeredCommand(epoch=before, command="back", to=command.epoch, id=command.id)
        changes = tuple(one for one in job.recorded.changes if one.epoch <= command.epoch)
        job.recorded = job.recorded.model_copy(
            update={"steered": (*job.recorded.steered, back), "changes": changes}
        )
        job.save_recipe()
        team().barrier()
        job.go_back(folder)
        self._settings_epoch = job.progress.epoch
        if job.directory is not None:
            forget_snapshots_after(job.directory, command.epoch)
            save_events(job.progress.history, job.directory, answers=self.answers)
        self.has_changed = True
        return Outcome(f"from epoch {before} to {command.epoch}: later epochs and commands are undone")

    def _branch(self, command: Command) -> Outcome:
        """Make a new run folder beside this one."""
        folder = self._require_snapshot(command)
        name = command.name or ""
        if Path(name).name != name or name in ("", ".", ".."):
            raise BadInput(
                "steer branch", name, "is not a plain name: name a folder that will be beside the run"
            )
        if folder is None:
            return Outcome()
        with _refusing_lack_of_room(command):
            made = branch_run(folder, folder.resolve().parent / name, command.settings, epoch=command.epoch)
        return Outcome(
            f"made {made}: phaseloom reconstruct --resume {shlex.quote(str(made))}", command.settings
        )

    def _require_snapshot(self, command: Command) -> Path | None:
        """The folder of the run, where this process writes, after an epoch."""
        if not self.job.progress.epoch:
            raise BadInput("steer", command.command, "comes too early: no epoch is done")
        return self.job.directory


@contextlib.contextmanager
def _refusing_lack_of_room(command: Command) -> Iterator[None]:
    """Refuse a command that cannot write its files, rather than end the run."""
    try:
        yield
    except OSError as problem:
        reason = f"cannot be done: {problem.strerror or problem}"
        raise BadInput(f"steer {command.command}", None, reason) from None


_BEFORE = "was followed before the run was killed"
