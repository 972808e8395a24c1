"""A reconstruction under way: watched, stopped, resumed, and asked for its result."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.files import whole
from phaseloom.fitting import checkpoint, optimizers
from phaseloom.fitting.loop import Epoch, Progress, fit
from phaseloom.fitting.schedule import Every
from phaseloom.ptycho import batches
from phaseloom.ptycho.impose import imposed, setting
from phaseloom.ptycho.likelihood import Likelihood
from phaseloom.recipes import advice, outcome
from phaseloom.recipes.reconstruct import Reconstruct
from phaseloom.recipes.start import Start
from phaseloom.result import Result
from phaseloom.spec import Call, to_yaml

__all__ = ["Job"]


class Job:
    """A reconstruction that can be watched, stopped, resumed and asked for its result.

    Iterating runs it, one `Epoch` at a time. With a directory, every epoch leaves a snapshot behind,
    and the directory holds all that viewers need: ``run.yaml``, ``events.jsonl``, ``snapshot.h5``,
    at the end ``result.h5``.

    Attributes:
        recipe: settled: nothing in it is left to be found.
        scan: the data.
        start: what the automatic start found, or ``None``.
        model, likelihood, progress: see `phaseloom.ptycho.model` and `phaseloom.fitting.loop`.
    """

    def __init__(self, recipe: Reconstruct, scan: Scan4D, start: Start | None, directory: Path | None):
        self.recipe, self.scan, self.start, self.directory = recipe, scan, start, directory
        torch.manual_seed(recipe.seed)
        device = recipe.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cuda" and not torch.cuda.is_available():
            raise BadInput("device", "cuda", "is not there: write device: cpu")
        self.model = recipe.model(scan).to(device)
        self.likelihood = Likelihood(self.model, scan, recipe.noise.partial(), recipe.terms())
        if not self.likelihood.judging:
            raise BadInput(
                "noise", "none", "leaves nothing that compares with the data: add a penalty that does"
            )
        self.progress = Progress(self.model, _optimizer(recipe.optimizer, self._moving()))
        where = setting(self.model, scan)
        self.begun = advice.Begun.of(self.model)
        self.events = [
            Every(imposed(call.partial(), self.model, where, call.name), **dict(call.when))
            for call in recipe.projections
        ]
        self.learned, self.held = _split(len(scan), recipe.holdout, recipe.seed)

    @classmethod
    def begin(cls, recipe: Reconstruct, directory: Path | None = None, /) -> "Job":
        """Read the data, find what the recipe leaves open, build the model."""
        scan = recipe.scan()
        settled, start = recipe.settled(scan)
        if start is not None:
            for step in start.steps():
                scan = step(scan)
        found = {} if start is None else outcome.found(start)
        file = settled.file.resolve()
        settled = settled.model_copy(update={"file": file, "found": found | {"data": scan.digest()}})
        job = cls(settled, scan, start, directory)
        if directory is not None:
            with whole(directory / "run.yaml") as short:
                short.write_text(job.text(), encoding="utf-8")
        return job

    @classmethod
    def resume(cls, directory: Path, /) -> "Job":
        """Go on with a run directory, from its last snapshot.

        Raises:
            BadInput: no run there, or its data has changed.
        """
        if not (directory / "run.yaml").is_file():
            raise BadInput(str(directory), None, "holds no run.yaml: name the folder of a run")
        recipe = Reconstruct.from_path(directory / "run.yaml")
        scan = recipe.scan()
        if recipe.found.get("data") not in (None, scan.digest()):
            raise BadInput("file", str(recipe.file), "has changed since the run began: start a new run")
        job = cls(recipe, scan, None, directory)
        if (directory / "snapshot.h5").is_file():
            checkpoint.load(job.progress, directory / "snapshot.h5")
        return job

    def __iter__(self) -> Iterator[Epoch]:
        """Run to the end, or until stopped, saving after every epoch."""
        self._write_events()
        settled = self.progress.stopped.startswith(("converged", "overfitting"))
        if settled or self.progress.epoch >= self.recipe.epochs:
            return
        patterns = self.recipe.batch(self.learned, self.recipe.seed, self.scan.positions)
        held = list(torch.as_tensor(self.held).split(batches.largest(patterns(1)))) if len(self.held) else []
        for epoch in fit(
            self.likelihood,
            patterns,
            self.progress,
            epochs=self.recipe.epochs,
            shape=self.recipe.shape.partial(),
            after=self.events,
            holdout=held,
            judged=self.likelihood.judging,
            own=("positions", "weights", "descan", *["tilts"] * (len(self.model.propagator.tilt) > 1)),
            patience=self.recipe.patience,
        ):
            self._remember(epoch)
            yield epoch

    def result(self) -> Result:
        """The reconstruction as it stands."""
        return outcome.of(self)

    def advice(self) -> list[str]:
        """What the run so far should make its user do, in sentences."""
        floor = 0.0 if self.likelihood.silent else 1.0
        return advice.of(self.model, self.begun, self.progress, floor=floor)

    def _moving(self) -> list[dict[str, Any]]:
        """Parameter groups; what has no rate is frozen, and costs no gradient."""
        parts = self.model.parts()
        rates = self.recipe.moving(parts)
        self.model.requires_grad_(False)
        groups = optimizers.groups({name: parts[name] for name in rates}, rates)
        for group in groups:
            for parameter in group["params"]:
                parameter.requires_grad_(True)
        return groups

    def text(self) -> str:
        """The parameter file that repeats this run."""
        return to_yaml(self.recipe.resolved())

    def _remember(self, epoch: Epoch) -> None:
        self.progress.history[-1]["state"] = outcome.state(self.model)
        if self.directory is None:
            return
        checkpoint.save(self.progress, self.directory / "snapshot.h5")
        with open(self.directory / "events.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(self.progress.history[-1]) + "\n")
        if any(outcome.due(call, epoch.number) for call in self.recipe.outputs):
            outcome.write(self, self.result(), epoch.number)

    def _write_events(self) -> None:
        """Start the list of events anew from the history: a killed run may have left half a line."""
        if self.directory is None:
            return
        with whole(self.directory / "events.jsonl") as short:
            short.write_text("".join(json.dumps(event) + "\n" for event in self.progress.history))


def _optimizer(call: Call, moving: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimiser of a call, its own complaints as sentences."""
    try:
        return call(moving)
    except BadInput:
        raise
    except ValueError as problem:
        raise BadInput(f"optimizer: {call.name}", dict(call.values), f"cannot be used: {problem}") from None


def _split(count: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Patterns to learn from and patterns held out; scans of under 20 keep all."""
    held = round(count * share) if count >= 20 else 0
    chosen = np.random.default_rng((seed, 7)).choice(count, held, replace=False)
    return np.setdiff1d(np.arange(count), chosen), np.sort(chosen)
