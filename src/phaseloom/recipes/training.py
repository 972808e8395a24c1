"""A training under way: watched, stopped, resumed, and asked for its network."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from phaseloom import plot
from phaseloom.data.views import Picked, picked
from phaseloom.errors import BadInput
from phaseloom.files import whole
from phaseloom.fitting import checkpoint, device, optimizers
from phaseloom.fitting.loop import Epoch, Progress, fit
from phaseloom.fitting.schedule import Every
from phaseloom.fitting.team import team
from phaseloom.nets import pretrained
from phaseloom.nets.endtoend import EndToEnd, reading
from phaseloom.nets.linear import CLEAN, LinearRecovery
from phaseloom.nets.recovery import PatchRecoveryNet
from phaseloom.nets.tiny import TinyRecovery
from phaseloom.plot import training as training_figures
from phaseloom.recipes._pool import Pool, settled
from phaseloom.recipes._stored import Stored
from phaseloom.recipes.card import card
from phaseloom.recipes.lessons import Assembling, Lesson, Reading, Whole
from phaseloom.recipes.linear import solved
from phaseloom.recipes.scores import image
from phaseloom.recipes.train import UNSEEN, Making, Stage, Train
from phaseloom.spec import Call, load_yaml, to_yaml

__all__ = ["Training", "pictures"]

LESSONS: dict[str, type[Lesson]] = {"patches": Reading, "stitching": Assembling, "end-to-end": Whole}

BEGUN = 100
"""Scans from which a network takes its statistics before it learns."""


class Training:
    """A training that can be watched, stopped, resumed, and that leaves a network behind.

    Iterating runs it, one `Epoch` at a time. The directory holds ``run.yaml``, ``events.jsonl`` and
    ``snapshot.h5`` after every epoch, and at the end ``net.safetensors`` with a card.

    Attributes:
        recipe: what is done.
        directory: where it is kept, or ``None``.
        pool: simulated scans.
        lesson: the objective.
        progress: how far it has come.
    """

    def __init__(self, recipe: Train, directory: Path | None):
        self.recipe, self.directory = recipe, directory
        torch.manual_seed(recipe.seed)
        where = device.chosen(recipe.device)
        net = recipe.network()
        if isinstance(net, LinearRecovery):
            raise BadInput("train: model", "linear", "is solved, not trained: use phaseloom train linear")
        if not any(True for _ in net.parameters()):
            raise BadInput(f"train: {recipe.stage}", type(net).__name__, "has nothing to learn: take another")
        self.pool = _pool(recipe)
        self.net = team().joined(net.to(where))
        if not recipe.losses or recipe.losses[0].when:
            raise BadInput("losses", None, "must begin with one that is there in every epoch: it judges")
        losses = _due(recipe.losses, 1)
        self.lesson = LESSONS[recipe.stage](self.net, self.pool, losses, precision=recipe.precision)
        groups = optimizers.groups({"net": [*self.net.parameters()]}, {"net": recipe.rate})
        self.progress = Progress(self.net, recipe.optimizer(groups))

    @classmethod
    def begin(cls, recipe: Train, directory: Path | str | None = None, /) -> "Training":
        """A new training, in a folder that holds none.

        Raises:
            BadInput: a folder that holds a run; settings that do not go together, before a folder is begun.
        """
        folder = None if directory is None or not team().first else Path(directory)
        if folder is not None and (folder / "run.yaml").exists():
            raise BadInput(str(folder), None, "holds a run: name a new folder, or resume it")
        training = cls(recipe, folder)
        training.prepared()
        with torch.no_grad():
            training.lesson(training.held()[0])  # what does not fit together is said now
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            with whole(folder / "run.yaml") as short:
                short.write_text(to_yaml(recipe.resolved()), encoding="utf-8")
        return training

    @classmethod
    def resume(cls, directory: Path | str, /, *, stage: Stage | None = None) -> "Training":
        """Go on from the last snapshot of a folder, to the same bits.

        Args:
            directory: of the run.
            stage: that it must be of.

        Raises:
            BadInput: no training there, one of another step, or one that has lost its snapshot.
        """
        folder = Path(directory)
        if not (folder / "run.yaml").is_file():
            raise BadInput(str(folder), None, "holds no run.yaml: name the folder of a training")
        own = load_yaml(folder / "run.yaml").get("stage")
        if own is None:
            raise BadInput(str(folder), None, "is no run of a training: name the folder of one")
        if stage not in (None, own):
            raise BadInput(
                str(folder), f"a training of {own}", f"goes on with: phaseloom train {own} --resume"
            )
        if (folder / "events.jsonl").is_file() and not (folder / "snapshot.h5").is_file():
            raise BadInput(str(folder), None, "has lost its snapshot.h5: begin anew, in another folder")
        training = cls(Train.from_path(folder / "run.yaml"), folder if team().first else None)
        if (folder / "snapshot.h5").is_file():
            checkpoint.load(training.progress, folder / "snapshot.h5")
        else:
            training.prepared()
        return training

    def __iter__(self) -> Iterator[Epoch]:
        recipe, judge = self.recipe, self.recipe.losses[0].name
        epochs = fit(
            self.lesson,
            self.batches,
            self.progress,
            epochs=recipe.epochs,
            shape=recipe.shape.partial(),
            holdout=self.held(),
            judged=[judge],
            patience=recipe.patience,
            clip=recipe.clip,
        )
        try:
            for epoch in epochs:
                self._remember()
                yield epoch
        finally:
            self.pool.close()

    def numbers(self, epoch: int, /) -> range:
        """The samples that an epoch learns from."""
        first = int((epoch - 1) * self.recipe.fresh * self.recipe.scans)
        return range(first, first + self.recipe.scans)

    def batches(self, epoch: int, /) -> Sequence[Any]:
        """The views of an epoch, in batches, whose scans are simulated as they are needed."""
        self.pool.hold([*self.numbers(epoch), *self.recipe.judges()])
        self.pool.expect([*_read(self._parts(epoch)), *self.recipe.judges()])
        if epoch < self.recipe.epochs:
            self.pool.expect(_read(self._parts(epoch + 1)))
        self.lesson.losses = _due(self.recipe.losses, epoch)
        return self._parts(epoch)

    def _parts(self, epoch: int) -> list[Any]:
        """The views of an epoch in batches; those that are computed in pieces are tuples."""
        recipe = self.recipe
        parts = self._picked(recipe.views, self.numbers(epoch), epoch).split(recipe.batch)
        return [part.split(recipe.pieces) if recipe.pieces else part for part in parts]

    def held(self) -> list[Picked]:
        """Views that are never learned from, the same after every epoch."""
        recipe = self.recipe
        return [
            *self._picked(4 * recipe.unseen, self.recipe.judges(), 0).split(recipe.pieces or recipe.batch)
        ]

    def _picked(self, count: int, numbers: Sequence[int], epoch: int) -> Picked:
        """Views of some samples, drawn for an epoch."""
        shape = self.pool[-1].experiment.scan
        choice = self.recipe.choice(self.net, shape)
        return picked(count, numbers, shape, choice, seed=(self.recipe.seed, epoch))

    def prepared(self) -> None:
        """What a network takes from patterns such as will come before it learns, unless it has learned."""
        if team().first:
            _prepare(self)
        team().agree(self.net)

    def finish(self) -> tuple[Path | None, dict[str, Any]]:
        """Write the network with its card; the file, and the card."""
        unseen, seen = (
            [self.pool[n] for n in few] for few in (self.recipe.judges(), self.numbers(1)[:BEGUN])
        )
        said = card(self.recipe, self.net, unseen, seen, epochs=self.progress.epoch)
        path = None if self.directory is None else self.directory / "net.safetensors"
        return None if path is None else pretrained.save(self.net, path, said), said

    def _remember(self) -> None:
        if self.directory is None:
            return
        checkpoint.save(self.progress, self.directory / "snapshot.h5")
        with whole(self.directory / "events.jsonl") as short:
            short.write_text("".join(json.dumps(event) + "\n" for event in self.progress.history))


def pictures(training: Training, /, *, most: int = 3) -> list[Path]:
    """Figures of a training in its folder: its course, and what it makes of unseen scans."""
    if training.directory is None:
        return []
    paths = [training.directory / "curves.png"]
    plot.save(training_figures.curves(training.progress.history), paths[0])
    if training.recipe.stage != "stitching":
        net = reading(training.net)
        scenes = [training.pool[number] for number in training.recipe.judges()[:most]]
        seen = [image(net, scene) for scene in scenes]
        true, names = [scene.phase.numpy() for scene in scenes], [scene.group for scene in scenes]
        paths.append(training.directory / "unseen.png")
        figure = training_figures.samples(seen, true, names, pixel=scenes[0].experiment.spacing)
        plot.save(figure, paths[1])
    return paths


def _prepare(training: Training) -> None:
    recipe, net = training.recipe, training.net
    if recipe.weights or recipe.patches or recipe.stage == "stitching":
        return
    scenes = [training.pool[number] for number in training.numbers(1)[:BEGUN]]
    if isinstance(net, TinyRecovery):
        first = LinearRecovery(net.patterns, len(net.components.basis), [CLEAN])
        solved(first, scenes)
        net.begin(first)
        return
    reader = net.recovery if isinstance(net, EndToEnd) else net
    assert isinstance(reader, PatchRecoveryNet)
    few = [scene.roots[::3, ::3].float().square().flatten(0, 1) for scene in scenes]
    reader.calibrate(torch.cat(few))


def _read(batches: Sequence[Any]) -> list[int]:
    """Scans that this process will read for some batches."""
    pieces = [piece for batch in batches for piece in (batch if isinstance(batch, tuple) else (batch,))]
    return sorted({int(number) for piece in pieces for number in team().share(piece)[0].scenes})


def _due(losses: Sequence[Call], epoch: int) -> dict[str, Any]:
    """The losses of an epoch by name."""
    return {one.name: one.partial() for one in losses if Every(lambda: None, **dict(one.when)).due(epoch)}


def _pool(recipe: Train) -> Pool | Stored:
    """Where the scans come from: files, or simulation here and in other processes."""
    if recipe.stored is not None:
        given, usual = recipe.resolved(), Train.of({}).resolved()
        for name in ("specimen", "microscope", "fresh", "workers"):
            if given[name] != usual[name]:
                raise BadInput(
                    f"train: {name}", None, "is that of the stored set: leave it out, or leave stored out"
                )
        return Stored(recipe.stored, UNSEEN, recipe.geometry)
    workers, spawn = recipe.workers, get_context("spawn")
    processes = ProcessPoolExecutor(workers, mp_context=spawn, initializer=settled) if workers else None
    return Pool(Making(recipe.specimen, recipe.microscope, recipe.seed), processes)
