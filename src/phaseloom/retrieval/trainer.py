"""A training under way: watched, stopped, resumed, and asked for its network."""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from phaseloom import plot
from phaseloom.errors import BadInput
from phaseloom.fitting.distributed import team
from phaseloom.fitting.schedule import Every
from phaseloom.fitting.updates import in_pieces
from phaseloom.learning import figures as training_figures
from phaseloom.learning import weight_files as pretrained
from phaseloom.learning.trainer import Course
from phaseloom.retrieval.evaluate import image
from phaseloom.retrieval.linear_recipe import solved
from phaseloom.retrieval.model_card import card
from phaseloom.retrieval.networks.end_to_end import EndToEnd, reading
from phaseloom.retrieval.networks.linear import CLEAN, LinearRecovery
from phaseloom.retrieval.networks.recovery import PatchRecoveryNet
from phaseloom.retrieval.networks.tiny import TinyRecovery
from phaseloom.retrieval.objectives import Assembling, Lesson, Reading, Whole
from phaseloom.retrieval.recipe import UNSEEN, Making, Stage, Train
from phaseloom.retrieval.sample_pool import Pool
from phaseloom.retrieval.stored_samples import Stored
from phaseloom.retrieval.training_samples import Picked, picked
from phaseloom.runs.parallel_map import set_up_worker
from phaseloom.spec import Call

__all__ = ["Training", "pictures"]

LESSONS: dict[str, type[Lesson]] = {"patches": Reading, "stitching": Assembling, "end-to-end": Whole}

BEGUN = 100
"""Scans from which a network takes its statistics before it learns."""


class Training(Course):
    """A training on simulated scans, which leaves a network that reads phases behind.

    Attributes:
        recipe: what is done.
        directory: where it is kept, or ``None``.
        pool: simulated scans.
        lesson: the objective.
        progress: how far it has come.
    """

    kind = Train
    recipe: Train
    lesson: Lesson

    def __init__(self, recipe: Train, directory: Path | None):
        super().__init__(recipe, directory)
        self.pool = _pool(recipe)
        losses = _due(recipe.losses, 1)
        self.lesson = LESSONS[recipe.stage](self.net, self.pool, losses, precision=recipe.precision)

    def network(self) -> nn.Module:
        """That of the step, if there is something to learn by something."""
        recipe = self.recipe
        net = recipe.network()
        if isinstance(net, LinearRecovery):
            raise BadInput("train: model", "linear", "is solved, not trained: use phaseloom train linear")
        if not any(True for _ in net.parameters()):
            raise BadInput(f"train: {recipe.stage}", type(net).__name__, "has nothing to learn: take another")
        if not recipe.losses or recipe.losses[0].when:
            raise BadInput("losses", None, "must begin with one that is there in every epoch: it judges")
        return net

    @classmethod
    def resume(cls, directory: Path | str, /, *, stage: Stage | None = None) -> Self:
        """Go on from the last snapshot of a folder, to the same bits.

        Args:
            directory: of the run.
            stage: that it must be of.

        Raises:
            BadInput: no training there, one of another step, or one that has lost its snapshot.
        """
        training = super().resume(directory)
        own = training.recipe.stage
        if stage not in (None, own):
            fix = f"goes on with: phaseloom train {own} --resume"
            raise BadInput(str(directory), f"a training of {own}", fix)
        return training

    @property
    def judged(self) -> str:
        """The first of the losses."""
        return self.recipe.losses[0].name

    def close(self) -> None:
        """Send home the processes that simulate."""
        self.pool.close()

    def numbers(self, epoch: int, /) -> range:
        """The samples that an epoch learns from."""
        first = int((epoch - 1) * self.recipe.fresh * self.recipe.scans)
        return range(first, first + self.recipe.scans)

    def batches(self, epoch: int, /) -> Sequence[Any]:
        """The views of an epoch, in batches, whose scans are simulated as they are needed."""
        parts = self._parts(epoch)
        self.pool.hold([*self.numbers(epoch), *self.recipe.judges()])
        self.pool.expect([*_read(parts), *self.recipe.judges()])
        if epoch < self.recipe.epochs:
            self.pool.expect(_read(self._parts(epoch + 1)))
        self.lesson.losses = _due(self.recipe.losses, epoch)
        return parts

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
        path = None if self.directory is None else self.directory / pretrained.FILE
        return None if path is None else pretrained.save(self.net, path, said), said


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
    pieces = [piece for batch in batches for piece in in_pieces(batch)]
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
    processes = ProcessPoolExecutor(workers, mp_context=spawn, initializer=set_up_worker) if workers else None
    return Pool(Making(recipe.specimen, recipe.microscope, recipe.seed), processes)
