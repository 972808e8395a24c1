"""One trial of a search: a run of some protocol, seen in the same way whatever it is of."""

from collections.abc import Generator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from phaseloom.embedding.train import Autoencode, AutoencoderTraining
from phaseloom.errors import BadInput, nearest
from phaseloom.fitting.loop import Epoch
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.restoration.train import Restore, RestorerTraining
from phaseloom.result import Result
from phaseloom.retrieval.recipe import Train
from phaseloom.retrieval.trainer import RetrievalTraining
from phaseloom.spec import Recipe, load_yaml

__all__ = ["Trial", "read", "trial_of", "verb"]

Picture = tuple[np.ndarray, float]
"""Values ``(y, x)`` and their pixel, angstrom; 1 where it is unknown."""


class Trial:
    """A run under way, or at its end.

    Attributes:
        recipe: class of what can be run so.
        run: a `Job`, or a `Course`.
    """

    recipe: ClassVar[type[Recipe]]
    run: Any

    def __init__(self, recipe: Any, folder: Path | None):
        self.run = self.begin(recipe, folder)

    def epochs(self) -> Generator[Epoch]:
        """Run it, one epoch after the other."""
        yield from self.run

    def begin(self, recipe: Any, folder: Path | None, /) -> Any:
        """The run of a recipe."""
        raise NotImplementedError

    def numbers(self) -> Mapping[str, Any]:
        """All that can be told of the run in numbers, by name; leaves its result in its folder."""
        raise NotImplementedError

    def picture(self) -> Picture | None:
        """What it made, for eyes."""
        raise NotImplementedError

    def loss(self) -> float:
        """Of what was learned from, in the epoch of the result; of a start that was best, in the first."""
        event = self._last()
        return float(event["loss"]) if event else float("nan")

    def held(self) -> float | None:
        """Of what was held out, in the epoch whose result it is, or the last one that held something out."""
        progress = self.run.progress
        if progress.best is not None and (progress.shown == progress.best[0] or not progress.history):
            return progress.best[1]
        events = progress.history[progress.since : progress.shown]
        held = [event["holdout"] for event in events if event["holdout"] is not None]
        return held[-1] if held else None

    def job(self, objective: str, /) -> Job:
        """The reconstruction.

        Raises:
            BadInput: it is none.
        """
        if not isinstance(self.run, Job):
            raise BadInput("objective", objective, "is of reconstructions: take holdout, loss or metric")
        return self.run

    def _last(self) -> Mapping[str, Any] | None:
        progress = self.run.progress
        upto = None if progress.shown is None else max(progress.shown, 1)
        return next(iter(reversed(progress.history[:upto])), None)


class Reconstruction(Trial):
    """A phase image from patterns."""

    recipe = Reconstruct
    run: Job

    @cached_property
    def result(self) -> Result:
        """Of the run at its end."""
        return self.run.ended or self.run.result()

    def begin(self, recipe: Any, folder: Path | None, /) -> Job:
        """Read the data, find what is left open."""
        return Job.begin(recipe, folder)

    def numbers(self) -> Mapping[str, Any]:
        """Metrics of the result, which a run with a folder has left there."""
        return self.result.metrics

    def picture(self) -> Picture | None:
        """The phase, summed over slices."""
        from phaseloom.plot.object import ObjectField

        return ObjectField.of(self.result).phase(), float(self.result.pixel[0])

    def loss(self) -> float:
        """Of what compares with counts; penalties are left out."""
        event, names = self._last(), self.run.level.likelihood.judging
        return float(sum(event["terms"][name] for name in names)) if event else float("nan")


class Network(Trial):
    """A network, trained; what is told of it is what its card says.

    Attributes:
        course: class of the training.
    """

    course: ClassVar[type[RetrievalTraining | AutoencoderTraining | RestorerTraining]]

    @cached_property
    def card(self) -> Mapping[str, Any]:
        """Of the network at its end, which is left in its folder."""
        return self.finished()[1]

    def begin(self, recipe: Any, folder: Path | None, /) -> Any:
        """Read or simulate what is learned from."""
        return self.course.begin(recipe, folder)

    def numbers(self) -> Mapping[str, Any]:
        """Of the card: ``scores.network.explained``."""
        return self.card

    def finished(self) -> tuple[Any, Mapping[str, Any]]:
        """The network as it is kept, and its card."""
        raise NotImplementedError


class Reading(Network):
    """A network that reads phases."""

    recipe, course = Train, RetrievalTraining
    run: RetrievalTraining

    def finished(self) -> tuple[Any, Mapping[str, Any]]:
        """Judged on what it has never seen."""
        return self.run.finish()

    def picture(self) -> Picture | None:
        """What it makes of a scan that it has never seen."""
        from phaseloom.retrieval.evaluate import predict_image
        from phaseloom.retrieval.networks.end_to_end import make_scan_network

        if self.run.recipe.stage == "stitching":
            return None
        scene = self.run.pool[self.run.recipe.list_holdout_numbers()[0]]
        return predict_image(make_scan_network(self.run.net), scene), scene.experiment.spacing


class Embedding(Network):
    """An autoencoder of patterns."""

    recipe, course = Autoencode, AutoencoderTraining
    run: AutoencoderTraining

    def finished(self) -> tuple[Any, Mapping[str, Any]]:
        """Judged on patterns held out."""
        from phaseloom.embedding.evaluate import finish_training

        return finish_training(self.run)

    def picture(self) -> Picture | None:
        """A pattern that decided, drawn by the network, in the numbers that it takes."""
        import torch

        objective = self.run.objective
        with torch.no_grad():
            objective.net.eval()
            drawn = objective.net(
                objective.scale_counts(objective.read_input_and_target(self.run.parts.validation[:1])[0])
            )
        return np.squeeze(drawn.float().cpu().numpy()), 1.0


class Mending(Network):
    """A network that restores images."""

    recipe, course = Restore, RestorerTraining
    run: RestorerTraining

    def finished(self) -> tuple[Any, Mapping[str, Any]]:
        """Judged on pairs held out."""
        from phaseloom.restoration.evaluate import evaluate_training

        return evaluate_training(self.run)[:2]

    def picture(self) -> Picture | None:
        """A pair that decided, restored; colours by their mean."""
        from phaseloom.restoration.apply import restore_image

        pair = self.run.pairs[1].pairs[0]
        return restore_image(self.run.net, self.run.recipe.kind(), pair.input).low.mean(0), 1.0


KINDS: tuple[type[Trial], ...] = (Reconstruction, Embedding, Mending, Reading)
"""In the order in which they are tried on a file; a file that fits several is of the first."""

REQUIRED_SETTINGS = {Reconstruction: "file", Embedding: "file", Mending: "data"}
"""Without which it cannot be meant."""


def read(path: Path, settings: Mapping[str, Any] | None = None, /) -> tuple[type[Trial], Any]:
    """What a file is the recipe of, found from its keys, and the recipe.

    Raises:
        BadInput: keys that no protocol has, or of several.
    """
    if path.suffix not in (".yaml", ".yml"):
        return Reconstruction, Reconstruct.from_path(path, settings)
    kind = _kind(set(load_yaml(path)) | {name.split(".")[0] for name in settings or {}}, str(path))
    return kind, kind.recipe.from_path(path, settings)  # pyright: ignore[reportAttributeAccessIssue]


def _kind(keys: set[str], place: str) -> type[Trial]:
    for kind in KINDS:
        if keys <= set(kind.recipe.model_fields) and REQUIRED_SETTINGS.get(kind, "") in {*keys, ""}:
            return kind
    likely = max(KINDS, key=lambda kind: len(keys & set(kind.recipe.model_fields)))
    lacking = sorted(keys - set(likely.recipe.model_fields))
    if not lacking:
        raise BadInput(place, None, f"says nothing of its {REQUIRED_SETTINGS[likely]}: write it")
    raise BadInput(place, f"there is no '{lacking[0]}';", nearest(lacking[0], likely.recipe.model_fields))


def trial_of(recipe: Recipe, /) -> type[Trial]:
    """What runs a recipe."""
    return next(kind for kind in KINDS if isinstance(recipe, kind.recipe))


def verb(recipe: Recipe, /) -> str:
    """The words of the command line that run a recipe by itself.

    Example:
        >>> verb(Train.of({"stage": "stitching"}))
        'train stitching'
    """
    if isinstance(recipe, Train):
        return f"train {recipe.stage}"
    names = {Reconstruct: "reconstruct", Autoencode: "train autoencoder", Restore: "train restorer"}
    return names[type(recipe)]
