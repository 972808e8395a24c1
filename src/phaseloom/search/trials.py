"""One trial of a search: a run of some protocol, seen in the same way whatever it is of."""

from collections.abc import Generator, Iterable, Mapping
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

__all__ = ["Trial", "find_kind", "find_trial_class", "find_verb", "read"]

Picture = tuple[np.ndarray, float]
"""Values ``(y, x)`` and their pixel, angstrom; 1 where it is unknown."""


class Trial:
    """A run under way, or at its end.

    Attributes:
        recipe: class of what can be run so.
        course: class of the run of such a recipe.
        run: one of these.
    """

    recipe: ClassVar[type[Recipe]]
    course: ClassVar[type[Job | RetrievalTraining | AutoencoderTraining | RestorerTraining]]
    run: Any

    def __init__(self, recipe: Any, folder: Path | None, *, resume: bool = False):
        self.run = self.course.resume(folder) if resume and folder else self.begin(recipe, folder)

    def epochs(self) -> Generator[Epoch]:
        """Run it, one epoch after the other."""
        yield from self.run

    def begin(self, recipe: Any, folder: Path | None, /) -> Any:
        """The run of a recipe, with its data read or simulated."""
        return self.course.begin(recipe, folder)

    def collect_numbers(self) -> Mapping[str, Any]:
        """Numbers that describe the run, by name; leaves its result in its folder."""
        raise NotImplementedError

    def make_picture(self) -> Picture | None:
        """An image of what it made."""
        raise NotImplementedError

    def loss(self) -> float:
        """Training loss in the epoch of the result; in the first one, if the start was best."""
        event = self._last_event()
        return float(event["loss"]) if event else float("nan")

    def holdout_loss(self) -> float | None:
        """Hold-out loss in the epoch whose result it is, or in the last one that had a hold-out."""
        progress = self.run.progress
        if progress.best is not None and (progress.result_epoch == 0 or not progress.history):
            return progress.best[1]
        return progress.holdout_loss

    def require_job(self, objective: str, /) -> Job:
        """The reconstruction.

        Raises:
            BadInput: it is none.
        """
        if not isinstance(self.run, Job):
            raise BadInput("objective", objective, "is of reconstructions: take holdout, loss or metric")
        return self.run

    def _last_event(self) -> Mapping[str, Any] | None:
        progress = self.run.progress
        upto = None if progress.result_epoch is None else max(progress.result_epoch, 1)
        return next(iter(reversed(progress.history[:upto])), None)


class ReconstructionTrial(Trial):
    """A phase image from patterns."""

    recipe = Reconstruct
    course = Job
    run: Job

    @cached_property
    def result(self) -> Result:
        """Of the run at its end."""
        return self.run.ended or self.run.result()

    def collect_numbers(self) -> Mapping[str, Any]:
        """Metrics of the result, which a run with a folder has left there."""
        return self.result.metrics

    def make_picture(self) -> Picture | None:
        """The phase, summed over slices."""
        from phaseloom.plot.object import ObjectField

        return ObjectField.of(self.result).phase(), float(self.result.pixel[0])

    def loss(self) -> float:
        """Of what compares with counts; penalties are left out."""
        event = self._last_event()
        names = self.run.level.likelihood.data_terms
        return float(sum(event["terms"][name] for name in names)) if event else float("nan")


class NetworkTrial(Trial):
    """The training of a network, described by the card of the network."""

    @cached_property
    def card(self) -> Mapping[str, Any]:
        """Of the network at its end, which is left in its folder."""
        return self.finish()[1]

    def collect_numbers(self) -> Mapping[str, Any]:
        """Of the card: ``scores.network.explained``."""
        return self.card

    def finish(self) -> tuple[Any, Mapping[str, Any]]:
        """The network as it is kept, and its card."""
        raise NotImplementedError


class RetrievalTrial(NetworkTrial):
    """The training of a network that retrieves phases."""

    recipe = Train
    course = RetrievalTraining
    run: RetrievalTraining

    def finish(self) -> tuple[Any, Mapping[str, Any]]:
        """Evaluated on scans that it was not trained on."""
        return self.run.finish()

    def make_picture(self) -> Picture | None:
        """Its prediction for a scan that it was not trained on."""
        from phaseloom.retrieval.evaluate import predict_image
        from phaseloom.retrieval.networks.end_to_end import make_scan_network

        if self.run.recipe.stage == "stitching":
            return None
        scene = self.run.pool[self.run.recipe.list_holdout_numbers()[0]]
        return predict_image(make_scan_network(self.run.net), scene), scene.experiment.spacing


class AutoencoderTrial(NetworkTrial):
    """The training of an autoencoder of patterns."""

    recipe = Autoencode
    course = AutoencoderTraining
    run: AutoencoderTraining

    def finish(self) -> tuple[Any, Mapping[str, Any]]:
        """Evaluated on patterns held out."""
        from phaseloom.embedding.evaluate import finish_training

        return finish_training(self.run)

    def make_picture(self) -> Picture | None:
        """A validation pattern as the network decodes it, in the units of its input."""
        import torch

        objective = self.run.objective
        with torch.no_grad():
            objective.net.eval()
            drawn = objective.net(
                objective.scale_counts(objective.read_input_and_target(self.run.parts.validation[:1])[0])
            )
        return np.squeeze(drawn.float().cpu().numpy()), 1.0


class RestorerTrial(NetworkTrial):
    """The training of a network that restores images."""

    recipe = Restore
    course = RestorerTraining
    run: RestorerTraining

    def finish(self) -> tuple[Any, Mapping[str, Any]]:
        """Evaluated on pairs held out."""
        from phaseloom.restoration.evaluate import evaluate_training

        return evaluate_training(self.run)[:2]

    def make_picture(self) -> Picture | None:
        """The restored input of a validation pair; colours by their mean."""
        from phaseloom.restoration.apply import restore_image

        pair = self.run.pairs[1].pairs[0]
        return restore_image(self.run.net, self.run.recipe.kind(), pair.input).low.mean(0), 1.0


KINDS: tuple[type[Trial], ...] = (ReconstructionTrial, AutoencoderTrial, RestorerTrial, RetrievalTrial)
"""In the order in which they are tried on a file; a file that fits several is of the first."""

REQUIRED_SETTINGS = {ReconstructionTrial: "file", AutoencoderTrial: "file", RestorerTrial: "data"}
"""Settings without which a file is not a recipe of that kind."""


def read(path: Path, settings: Mapping[str, Any] | None = None, /) -> tuple[type[Trial], Any]:
    """The kind of trial that a file describes, found from its keys, and its recipe.

    Raises:
        BadInput: keys that no protocol has, or of several.
    """
    if path.suffix not in (".yaml", ".yml"):
        return ReconstructionTrial, Reconstruct.from_path(path, settings)
    kind = find_kind([*load_yaml(path), *(name.split(".")[0] for name in settings or {})], str(path))
    return kind, kind.recipe.from_path(path, settings)  # pyright: ignore[reportAttributeAccessIssue]


def find_kind(names: Iterable[str], place: str, /) -> type[Trial]:
    """What the sections of a parameter file are of.

    Args:
        names: of the sections, with or without ``version``.
        place: name of the file, for errors.

    Raises:
        BadInput: sections that no protocol has, or of several.
    """
    keys = {*names} - {"version"}
    for kind in KINDS:
        if keys <= set(kind.recipe.model_fields) and REQUIRED_SETTINGS.get(kind, "") in {*keys, ""}:
            return kind
    likely = max(KINDS, key=lambda kind: len(keys & set(kind.recipe.model_fields)))
    lacking = sorted(keys - set(likely.recipe.model_fields))
    if not lacking:
        raise BadInput(place, None, f"lacks {REQUIRED_SETTINGS[likely]}: write it")
    raise BadInput(place, f"there is no '{lacking[0]}';", nearest(lacking[0], likely.recipe.model_fields))


def find_trial_class(recipe: Recipe, /) -> type[Trial]:
    """The class that runs a recipe."""
    return next(kind for kind in KINDS if isinstance(recipe, kind.recipe))


def find_verb(recipe: Recipe, /) -> str:
    """The words of the command line that run a recipe by itself.

    Example:
        >>> find_verb(Train.of({"stage": "stitching"}))
        'train stitching'
    """
    if isinstance(recipe, Train):
        return f"train {recipe.stage}"
    names = {Reconstruct: "reconstruct", Autoencode: "train autoencoder", Restore: "train restorer"}
    return names[type(recipe)]
