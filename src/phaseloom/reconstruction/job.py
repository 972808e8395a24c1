"""A reconstruction under way: watched, stopped, resumed, and asked for its result."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.fitting import checkpoint, device
from phaseloom.fitting.distributed import team
from phaseloom.fitting.loop import Epoch, Progress
from phaseloom.fitting.outcome import Advice
from phaseloom.fitting.schedule import Shape, paced
from phaseloom.fitting.updates import Batches
from phaseloom.ptycho import batches
from phaseloom.ptycho.model import Ptychography
from phaseloom.reconstruction import advice
from phaseloom.reconstruction import result_builder as outcome
from phaseloom.reconstruction import warm_start as warm
from phaseloom.reconstruction.live_images import images
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.reconstruction.resolution_level import Stage, ends, grids, sized
from phaseloom.reconstruction.start import Start
from phaseloom.result import Result
from phaseloom.runs.folder import keep_events, keep_recipe
from phaseloom.runs.scan_recipe import IN_MEMORY, digest
from phaseloom.spec import to_yaml

__all__ = ["Job", "patterns"]

BACK = 0.1
"""Share of the epochs, at the end, that also learn from the patterns held out before; whole ones only."""

AGAIN = 0.5
"""Share of the rates with which a finer grid begins after a coarser one."""


class Job:
    """A reconstruction that can be watched, stopped, resumed and asked for its result.

    Iterating runs it, one `Epoch` at a time, on coarser grids first where that loses no light. With a
    directory, every epoch leaves a snapshot behind, and the directory holds all that viewers need:
    ``run.yaml``, ``events.jsonl``, ``snapshot.h5``, at the end ``result.h5``.

    Attributes:
        recipe: settled: nothing in it is left to be found.
        start: what the automatic start found, or ``None``.
        full: the stage on the grid of the data.
        stage: the one under way, whose ``scan``, ``model`` and ``progress`` are the job's.
        ended: the result that the last loop left in the directory when it came to its end, or ``None``.
    """

    def __init__(self, recipe: Reconstruct, scan: Scan4D, start: Start | None, directory: Path | None):
        self.recipe, self.start, self.directory = recipe, start, directory
        self.ended: Result | None = None
        torch.manual_seed(recipe.seed)
        where = device.chosen(recipe.device)
        self.full = self.stage = Stage.of(recipe, scan, recipe.model(scan).to(where))
        team().agree(self.full.model)
        self.recipe = recipe.model_copy(update={"batch": sized(recipe, self.full.model)})
        self.begun = advice.Begun.of(self.model)
        self.learned, self.held = _split(len(scan), recipe.holdout, recipe.seed)

    @property
    def scan(self) -> Scan4D:
        """The data on the grid under way."""
        return self.stage.scan

    @property
    def model(self) -> Ptychography:
        """The model on the grid under way."""
        return self.stage.model

    @property
    def progress(self) -> Progress:
        """How far the fit on the grid under way has come."""
        return self.stage.progress

    @classmethod
    def begin(
        cls, recipe: Reconstruct, directory: Path | str | None = None, /, *, scan: Scan4D | None = None
    ) -> "Job":
        """Read the data, find what the recipe leaves open, build the model.

        A ``scan`` given is taken in place of the file, and prepared as the recipe says. The run then names
        ``in memory`` as its file, and knows the data by a hash of counts, positions and set-up: `resume`
        wants the same scan again.

        Raises:
            BadInput: a directory that holds a run, arguments in the wrong place, data that do not fit.
        """
        directory = _placed(recipe, directory, scan) if team().first else None
        if scan is not None:
            recipe = recipe.model_copy(update={"file": IN_MEMORY, "read": None})
        data = recipe.scan(scan)
        if recipe.preset is not None:
            from phaseloom.calibration.protocol import calibrated  # which runs jobs itself

            recipe, data = calibrated(recipe, data)
        settled, start = recipe.settled(data)
        if start is not None:
            for step in start.steps():
                data = step(data)
        found = {name: told for name, told in recipe.found.items() if name == "calibrate"}
        found |= {} if start is None else outcome.found(start)
        file = IN_MEMORY if settled.file == IN_MEMORY else settled.file.resolve()
        known = {"data": digest(data), "setup": _setup(data)}
        job = cls(settled.model_copy(update={"file": file, "found": found | known}), data, start, directory)
        if job.recipe.object.name == "predicted":
            worth = warm.begun(job.full, _judges(job, 32))
            slow = warm.slowed(recipe, job.full, worth["empty"]) if job.progress.best else ()
            changes = {"found": job.recipe.found | {"start": worth}, "changes": (*slow, *job.recipe.changes)}
            job.recipe = job.recipe.model_copy(update=changes)
        _keep(job)
        return job

    @classmethod
    def resume(cls, directory: Path | str, /, *, scan: Scan4D | None = None) -> "Job":
        """Go on with a run directory, from its last snapshot.

        A run that began with a ``scan`` in memory needs that again.

        Raises:
            BadInput: no run there, or its data has changed.
        """
        directory = Path(directory)
        if not (directory / "run.yaml").is_file():
            raise BadInput(str(directory), None, "holds no run.yaml: name the folder of a run")
        recipe = Reconstruct.from_path(directory / "run.yaml")
        if scan is None and recipe.file == IN_MEMORY:
            fix = "holds a run on a scan in memory: give that again, Job.resume(directory, scan=scan)"
            raise BadInput(str(directory), None, fix)
        scan = recipe.scan(scan)
        same = {"data": ("", digest(scan)), "setup": ("in its geometry, probe or weights ", _setup(scan))}
        for name, (where, now) in same.items():
            if recipe.found.get(name) not in (None, now):
                fix = f"has changed {where}since the run began: start a new run"
                raise BadInput("file", str(recipe.file), fix)
        job = cls(recipe, scan, None, directory if team().first else None)
        snapshot = directory / "snapshot.h5"
        if snapshot.is_file():
            job.stage = grids(job.full, recipe)[-1 - checkpoint.level(snapshot)]
            checkpoint.load(job.progress, snapshot)
        elif recipe.object.name == "predicted":
            warm.begun(job.full, _judges(job, 32))
        return job

    def __iter__(self) -> Iterator[Epoch]:
        """Run to the end, or until stopped, saving after every epoch, and at the end the result."""
        self.ended, stage, epoch = None, self.stage, self.progress.epoch
        yield from _run(self)
        _record_end(self)
        _left(self, moved=self.stage is not stage or self.progress.epoch > epoch)

    def result(self) -> Result:
        """The reconstruction as it stands."""
        return outcome.of(self)

    def advice(self) -> list[Advice]:
        """What the run so far should make its user do, in sentences."""
        floor = 0.0 if self.stage.likelihood.silent else 1.0
        return advice.of(self.model, self.begun, self.progress, floor=floor)

    def text(self) -> str:
        """The parameter file that repeats this run."""
        return to_yaml(self.recipe.resolved())

    def rate(self, part: str, value: float, /, *, stop: int | None = None) -> None:
        """Give a part another rate from the next epoch on, on this grid and finer ones; 0 freezes it.

        It is what the recipe's ``rates`` mean by a rate: the one before a shape lowers it. The change is
        written into the recipe (``changes``), so that a resumed run, a repeated one, and the runs of
        `phaseloom.reconstruction.half_data_frc` make it too.

        Args:
            part: a part that has a rate in this run.
            value: its rate, from zero up.
            stop: the last epoch in which it moves; default: that of the run.

        Raises:
            BadInput: no such part, one that rests in this run, or a rate that cannot be meant.
        """
        tree = {"epoch": self.progress.epoch + 1, "part": part, "rate": value, "stop": stop}
        (change,) = Reconstruct.of({"changes": [tree]}).changes
        if not self.stage.groups(part):
            fix = f"rests in this run, which has prepared nothing for it: begin with rates.{part} above zero"
            raise BadInput("job.rate", part, f"{fix}, and a start if it is to wait")
        self.recipe = self.recipe.model_copy(update={"changes": (*self.recipe.changes, change)})
        _keep(self)

    def images(self) -> dict[str, Any]:
        """Object, probe and losses as they stand, as `phaseloom.plot.Live` draws them.

        They are those of `result`, without its metrics, which look at every pattern.
        """
        return {**images(self.model), "history": self.progress.history}


def _placed(recipe: Any, directory: Any, scan: Any) -> Path | None:
    """The folder of a new run; what is given to `Job.begin` must be what it is taken for."""
    if not isinstance(recipe, Reconstruct):
        fix = "is no recipe: make one, Reconstruct.of({...}) or Reconstruct.from_path(file)"
        raise BadInput("Job.begin: recipe", type(recipe).__name__, fix)
    if isinstance(directory, Scan4D):
        raise BadInput("Job.begin: directory", "a scan", "goes by its name: Job.begin(recipe, scan=scan)")
    if not isinstance(scan, Scan4D | None):
        fix = "is no scan: make one, Scan4D(counts=..., positions=..., geometry=...)"
        raise BadInput("Job.begin: scan", type(scan).__name__, fix)
    if directory is None:
        return None
    if not isinstance(directory, str | Path):
        raise BadInput("Job.begin: directory", type(directory).__name__, "is no path of a folder")
    folder = Path(directory)
    if (folder.exists() and not folder.is_dir()) or (folder / "run.yaml").exists():
        fix = "exists already: name a new folder, or use Job.resume to go on with it"
        raise BadInput("Job.begin: directory", str(folder), fix)
    return folder


def _run(job: Job) -> Iterator[Epoch]:
    """All epochs of all grids, from where the job is."""
    if job.directory is not None:
        keep_events(job.progress.history, job.directory)
    stages = grids(job.full, job.recipe)
    at = 0
    if job.progress.history:
        at = [stage.model.scan.canvas.pixel for stage in stages].index(job.model.scan.canvas.pixel)
        stages[at] = job.stage
    job.stage = stages[at]
    for number, end in list(enumerate(ends(job.recipe.epochs, len(stages))))[at:]:
        if stages[number] is not job.stage:
            stages[number].follow(job.stage)
            job.stage = stages[number]
        for epoch in _fitted(job, end, AGAIN if number else 1.0):
            _remember(job, epoch)
            yield epoch
        if job.progress.epoch < end and not job.progress.stop.settled:
            return


def _left(job: Job, *, moved: bool) -> None:
    """The result of a loop that came to its end; one of an earlier loop stays where this one did nothing.

    Several processes look at the patterns of a result together, and the first one keeps it.
    """
    folder = job.directory
    lacks = folder is not None and (moved or not (folder / "result.h5").is_file())
    if job.progress.stop.interrupted or not team().told(lacks):
        return
    job.ended = job.result()
    if folder is not None:
        job.ended.save(folder / "result.h5")


def _record_end(job: Job) -> None:
    """Record with the last epoch why the run ended and how far it may be trusted."""
    job.progress.record_stop(verdict=outcome.verdict(job).verdict.value)
    if job.directory is not None:
        keep_events(job.progress.history, job.directory)


def _remember(job: Job, epoch: Epoch) -> None:
    """Keep what an epoch has found, in the history and in the run directory."""
    job.progress.history[-1]["state"] = outcome.state(job.model)
    if not team().told(job.directory is not None):
        return
    if job.directory is not None:
        pixels = [one.model.scan.canvas.pixel[0] for one in (job.stage, job.full)]
        level = round(np.log2(pixels[0] / pixels[1]))
        checkpoint.save(job.progress, job.directory / "snapshot.h5", level=level)
        with open(job.directory / "events.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(job.progress.history[-1]) + "\n")
    if any(outcome.due(call, epoch.number) for call in job.recipe.outputs):
        found = job.result()
        if job.directory is not None:
            outcome.write(job, found, epoch.number)


def _keep(job: Job) -> None:
    """Leave the parameter file in the folder of the run."""
    if job.directory is not None:
        keep_recipe(job.recipe, job.directory)


def _setup(scan: Scan4D) -> str:
    """A hash of what `Scan4D.digest` leaves out: geometry, first guesses and corrections."""
    grids = [asdict(one) for one in (scan.geometry, scan.window)]
    text = json.dumps(grids, default=lambda value: value.tolist())
    known = hashlib.blake2b(text.encode(), digest_size=16)
    for name in ("probe", "weights", "background", "flat", "descan"):
        value = getattr(scan, name)
        known.update(name.encode() + (b"" if value is None else np.ascontiguousarray(value).tobytes()))
    return known.hexdigest()


def patterns(recipe: Reconstruct, stage: Stage, index: np.ndarray, /) -> Batches:
    """The batches of some patterns on a grid, by the number of the epoch."""
    order = recipe.batch(index, recipe.seed, stage.scan.positions)
    if recipe.penalties:  # a mean over patterns is that of its pieces; a penalty need not be one
        return order
    return batches.in_pieces(order, stage.likelihood.at_once)


def _fitted(job: Job, last: int, factor: float) -> Iterator[Epoch]:
    """The stage under way, from where it is to its last epoch; the very last ones learn from all patterns."""
    progress, recipe = job.progress, job.recipe
    pace = last, _between(recipe.shape.partial(), progress.since, last, factor)
    back = int(BACK * recipe.epochs) if last == recipe.epochs and len(job.held) else 0
    if progress.epoch < last - back:
        yield from _epochs(job, last - back, pace, job.learned, job.held)
    if back and last - back <= progress.epoch < last and progress.shown is None:
        yield from _epochs(job, last, pace, np.arange(len(job.scan)), job.held[:0])


def _epochs(
    job: Job, last: int, pace: tuple[int, Shape], learned: np.ndarray, held: np.ndarray
) -> Iterator[Epoch]:
    """Epochs that learn from some patterns and are judged by others, at the pace of a longer run."""
    if job.progress.stop.settled:
        return
    order = patterns(job.recipe, job.stage, learned)
    judges = _judges(job, batches.largest(order(1))) if len(held) else []

    def first(progress: Progress) -> None:
        job.stage.change(job.recipe.changes, progress.epoch + 1)

    yield from job.stage.fit(
        order, judges, first=first, epochs=last, horizon=pace[0], shape=pace[1], patience=job.recipe.patience
    )


def _judges(job: Job, size: int) -> list[torch.Tensor]:
    """The patterns held out, in batches."""
    return list(torch.as_tensor(job.held).split(size)) if len(job.held) else []


def _between(shape: Shape, since: int, last: int, factor: float) -> Shape:
    """A shape that runs from the epoch after ``since`` to ``last``, and a factor on it."""

    def local(share: float, number: int, history: Sequence[Mapping[str, Any]]) -> float:
        return factor * paced(shape, number - since, last - since, history[since:])

    return local


def _split(count: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Patterns to learn from and patterns held out; scans of under 20 keep all."""
    held = round(count * share) if count >= 20 else 0
    chosen = np.random.default_rng((seed, 7)).choice(count, held, replace=False)
    return np.setdiff1d(np.arange(count), chosen), np.sort(chosen)
