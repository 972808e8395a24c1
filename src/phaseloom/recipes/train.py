"""Training of a network that reads phases, from simulated scans that are made as they are needed."""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field
from torch import nn

import phaseloom
from phaseloom import plot
from phaseloom.data.experiment import Experiment, told
from phaseloom.data.labels import Geometry
from phaseloom.data.simulated import Sample, simulated
from phaseloom.data.specimens import held_out
from phaseloom.data.views import NOISELESS, Choice, Picked, Scene, picked
from phaseloom.errors import BadInput
from phaseloom.files import whole
from phaseloom.fitting import checkpoint, device, optimizers
from phaseloom.fitting.loop import Epoch, Progress, fit
from phaseloom.fitting.schedule import Every
from phaseloom.nets import pretrained
from phaseloom.nets.endtoend import EndToEnd
from phaseloom.nets.linear import CLEAN, LinearRecovery
from phaseloom.nets.predict import NUMBERS, TOLERANCE
from phaseloom.nets.recovery import PatchRecoveryNet
from phaseloom.nets.stitching import overlap
from phaseloom.nets.tiny import TinyRecovery
from phaseloom.plot import training as training_figures
from phaseloom.recipes._pool import Pool
from phaseloom.recipes._stored import Stored
from phaseloom.recipes.lessons import Assembling, Lesson, Reading, Whole, joined, loaded
from phaseloom.recipes.linear import solved
from phaseloom.recipes.scores import image, scores
from phaseloom.spec import Call, Recipe, load_yaml, part, to_yaml

__all__ = ["Making", "Train", "Training", "card", "held_numbers", "pictures"]

Stage = Literal["patches", "stitching", "end-to-end"]

LESSONS: dict[str, type[Lesson]] = {"patches": Reading, "stitching": Assembling, "end-to-end": Whole}

BEGUN = 100
"""Scans from which a network takes its statistics before it learns."""

DRAWS = 200
"""Specimens that are drawn for one of the wanted side, before giving up."""

WINDOW = 32
"""Probes along an edge of a view where nothing else says."""

UNSEEN = 0.15
"""Share of the materials that are kept from training."""


class Train(Recipe):
    """How a network is trained: its parameters are those of the file ``train.yaml``.

    Attributes:
        stage: what is trained: patches from patterns, images from patches, or both together.
        model: the network of the first stage.
        stitching: the network of the second stage.
        weights: trained weights to start from, of the stage's own network.
        patches: trained weights of the first stage, for the third.
        stitched: trained weights of the second stage, for the third.
        specimen: what is in the microscope.
        microscope: how it is scanned.
        stored: folder of a simulated set to learn from, in place of scans that are simulated on the way; a
            view then reads its own patterns and no others.
        geometry: where the truth of a window lies in a set of the seed's layout: exactly, or by its rule.
        scans: simulated scans that are in memory at a time; of a stored set, how many are used.
        fresh: share of them that is replaced by new ones from epoch to epoch.
        unseen: scans of materials that are never trained on, which judge.
        window: probes (rows, columns) of a view; default: those of the network's own window where it has one
            and patches are trained, else 32 x 32, or the whole scan if that is smaller.
        views: learned from in an epoch.
        doses: electrons per pattern, lowest and highest.
        clean: share of views without counting noise.
        turned: flip and transpose views: for round probes only.
        losses: what is made small, each from its ``start`` to its ``stop`` if given; the first one judges.
        optimizer: how steps are made.
        rate: of the optimiser.
        shape: how the rate changes over the run.
        epochs: at most.
        batch: views of a step.
        pieces: views that are computed together; fewer than a batch save memory.
        precision: of the network's arithmetic.
        clip: largest norm of the gradient.
        patience: epochs without improvement before stopping.
        workers: processes that simulate; 0: none besides this one.
        seed: of everything that is drawn.
        device: where to compute.
        title: for figures and files.

    Example:
        >>> Train.of({"model": "small", "epochs": 3}).model.name
        'small'
    """

    stage: Stage = "patches"
    model: Call = part("phaseloom.nets.recovery", "tiny")
    stitching: Call = part("phaseloom.nets.stitching", "residual")
    weights: Path | None = None
    patches: Path | None = None
    stitched: Path | None = None
    specimen: Call = part("phaseloom.data.specimens", "prototypes")
    microscope: Call = part("phaseloom.data.microscopes", "fixed")
    stored: Path | None = None
    geometry: Geometry = "exact"
    scans: int = Field(400, ge=1, strict=True)
    fresh: float = Field(0.0, ge=0, le=1)
    unseen: int = Field(16, ge=1, strict=True)
    window: tuple[int, int] | None = None
    views: int = Field(512, ge=1, strict=True)
    doses: tuple[float, float] = (1e3, 1e6)
    clean: float = Field(0.3, ge=0, le=1)
    turned: bool = True
    losses: tuple[Call, ...] = part("phaseloom.nets.losses", ("contrast",))
    optimizer: Call = part("phaseloom.fitting.optimizers", "adamw")
    rate: float = Field(1e-3, gt=0, allow_inf_nan=False)
    shape: Call = part("phaseloom.fitting.schedule", "one_cycle")
    epochs: int = Field(40, ge=1, strict=True)
    batch: int = Field(4, ge=1, strict=True)
    pieces: int | None = Field(None, ge=1, strict=True)
    precision: Literal["float32", "bfloat16"] = "float32"
    clip: float | None = Field(1.0, gt=0)
    patience: int | None = Field(None, ge=1, strict=True)
    workers: int = Field(0, ge=0, strict=True)
    seed: int = Field(0, ge=0, lt=2**62, strict=True)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    title: str = ""

    @classmethod
    def from_path(cls, path: Path | str | None, settings: Mapping[str, Any] | None = None, /) -> Self:
        """A recipe from a file, or the default one, with settings changed."""
        recipe = cls.of({} if path is None else load_yaml(Path(path)))
        return recipe.put(settings) if settings else recipe

    def network(self) -> nn.Module:
        """The network of the stage, with the weights that it is to start from."""
        if self.weights is not None:
            return loaded(self.weights, "weights", self.stage)
        if self.stage == "patches":
            return self.model()
        if self.stage == "stitching":
            return self.stitching()
        known, second = self.patches, self.stitched
        first = self.model() if known is None else loaded(known, "patches", "patches")
        second = self.stitching() if second is None else loaded(second, "stitched", "stitching")
        if not isinstance(first, PatchRecoveryNet):
            fix = "reads whole scans: it needs no stitching, so train it as patches"
            raise BadInput("train: model", type(first).__name__, fix)
        return joined(first, second)  # type: ignore[arg-type]

    def choice(self, net: nn.Module, scan: tuple[int, int], /) -> Choice:
        """What is drawn for every view of scans of so many probes."""
        own = net.window if self.stage == "patches" and isinstance(net, PatchRecoveryNet) else WINDOW
        window = self.window or (min(own, scan[0]), min(own, scan[1]))
        return Choice(window, self.doses, self.clean, self.turned)


@dataclass(frozen=True)
class Making:
    """Samples by their numbers; those of negative ones are of materials that training never sees.

    Attributes:
        specimen, microscope: calls of a recipe.
        seed: tells one set of samples from another.
    """

    specimen: Call
    microscope: Call
    seed: int

    def __call__(self, number: int, /) -> Sample:
        """The sample of a number, the same in any process."""
        torch.set_num_threads(1)
        rng = np.random.default_rng((self.seed, abs(number), int(number < 0)))
        experiment: Experiment = replace(self.microscope(rng), dose=None)
        side = "held out" if number < 0 else "train"
        knobs = {**self.specimen.values, "part": side, "share": UNSEEN}
        call = replace(self.specimen, values=knobs) if self.specimen.name == "prototypes" else self.specimen
        for _ in range(DRAWS):
            specimen = call(experiment.box, rng)
            if held_out(specimen.group, UNSEEN) == (number < 0):
                return simulated(specimen, experiment, seed=int(rng.integers(2**62)))
        raise BadInput(
            f"specimen: {call.name}", None, f"has no materials that are {side}: give it more of them"
        )


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
        self.net = net.to(where)
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
        folder = None if directory is None else Path(directory)
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
    def resume(cls, directory: Path | str, /) -> "Training":
        """Go on from the last snapshot of a folder, to the same bits.

        Raises:
            BadInput: no training there.
        """
        folder = Path(directory)
        if not (folder / "run.yaml").is_file():
            raise BadInput(str(folder), None, "holds no run.yaml: name the folder of a training")
        training = cls(Train.from_path(folder / "run.yaml"), folder)
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
        for epoch in epochs:
            self._remember()
            yield epoch

    def numbers(self, epoch: int, /) -> range:
        """The samples that an epoch learns from."""
        first = int((epoch - 1) * self.recipe.fresh * self.recipe.scans)
        return range(first, first + self.recipe.scans)

    def batches(self, epoch: int, /) -> Sequence[Any]:
        """The views of an epoch, in batches; what comes new into memory is simulated before."""
        self.pool.hold([*self.numbers(epoch), *self.judges()])
        if epoch < self.recipe.epochs:
            self.pool.expect(self.numbers(epoch + 1))
        recipe = self.recipe
        self.lesson.losses = _due(recipe.losses, epoch)
        parts = self._picked(recipe.views, self.numbers(epoch), epoch).split(recipe.batch)
        return [part.split(recipe.pieces) if recipe.pieces else part for part in parts]

    def held(self) -> list[Picked]:
        """Views that are never learned from, the same after every epoch."""
        recipe = self.recipe
        return [*self._picked(4 * recipe.unseen, self.judges(), 0).split(recipe.pieces or recipe.batch)]

    def _picked(self, count: int, numbers: Sequence[int], epoch: int) -> Picked:
        """Views of some samples, drawn for an epoch."""
        shape = self.pool[numbers[0]].experiment.scan
        choice = self.recipe.choice(self.net, shape)
        return picked(count, numbers, shape, choice, seed=(self.recipe.seed, epoch))

    def prepared(self) -> None:
        """What a network takes from patterns such as will come before it learns, unless it has learned."""
        recipe, net = self.recipe, self.net
        if recipe.weights or recipe.patches or recipe.stage == "stitching":
            return
        scenes = [self.pool[number] for number in self.numbers(1)[:BEGUN]]
        if isinstance(net, TinyRecovery):
            first = LinearRecovery(net.patterns, len(net.components.basis), [CLEAN])
            solved(first, scenes)
            net.begin(first)
            return
        reader = net.recovery if isinstance(net, EndToEnd) else net
        assert isinstance(reader, PatchRecoveryNet)
        few = [scene.roots[::3, ::3].float().square().flatten(0, 1) for scene in scenes]
        reader.calibrate(torch.cat(few))

    def finish(self) -> tuple[Path | None, dict[str, Any]]:
        """Write the network with its card; the file, and the card."""
        unseen, seen = ([self.pool[n] for n in few] for few in (self.judges(), self.numbers(1)[:BEGUN]))
        said = card(self.recipe, self.net, unseen, seen, epochs=self.progress.epoch)
        path = None if self.directory is None else self.directory / "net.safetensors"
        return None if path is None else pretrained.save(self.net, path, said), said

    def judges(self) -> list[int]:
        """Numbers of the samples that are never learned from."""
        return held_numbers(self.recipe)

    def _remember(self) -> None:
        if self.directory is None:
            return
        checkpoint.save(self.progress, self.directory / "snapshot.h5")
        with whole(self.directory / "events.jsonl") as short:
            short.write_text("".join(json.dumps(event) + "\n" for event in self.progress.history))


def card(
    recipe: Train, net: nn.Module, unseen: Sequence[Scene], seen: Sequence[Scene], /, *, epochs: int = 0
) -> dict[str, Any]:
    """What a network says of itself when it is opened again.

    Args:
        recipe: that it was trained by.
        net: patterns and optics to images, or the second stage.
        unseen: scans that judge it.
        seen: scans that it learned from.
        epochs: of the training.
    """
    first = unseen[0].experiment
    numbers = np.stack([told(scene.experiment, NOISELESS) for scene in (*unseen, *seen)])
    spread = np.abs(numbers - told(first, NOISELESS)).max(0)
    near = {name: most + float(more) for name, most, more in zip(NUMBERS, TOLERANCE, spread, strict=True)}
    near.pop("dose")
    return {
        "experiment": asdict(first),
        "tolerance": near,
        "doses": [recipe.doses[0], None],
        "recipe": to_yaml(recipe.resolved()),
        "scores": {} if recipe.stage == "stitching" else scores(_reading(net), unseen),
        "epochs": epochs,
        "version": phaseloom.__version__,
    }


def held_numbers(recipe: Train, /) -> list[int]:
    """Numbers of the samples that are never learned from."""
    return [-1 - number for number in range(recipe.unseen)]


def _reading(net: nn.Module) -> nn.Module:
    """A network that reads whole scans."""
    return joined(net, overlap()) if isinstance(net, PatchRecoveryNet) else net


def pictures(training: Training, /, *, most: int = 3) -> list[Path]:
    """Figures of a training in its folder: its course, and what it makes of unseen scans."""
    if training.directory is None:
        return []
    paths = [training.directory / "curves.png"]
    plot.save(training_figures.curves(training.progress.history), paths[0])
    net = _reading(training.net)
    if training.recipe.stage != "stitching":
        scenes = [training.pool[number] for number in training.judges()[:most]]
        seen = [image(net, scene) for scene in scenes]
        true, names = [scene.phase.numpy() for scene in scenes], [scene.group for scene in scenes]
        paths.append(training.directory / "unseen.png")
        figure = training_figures.samples(seen, true, names, pixel=scenes[0].experiment.spacing)
        plot.save(figure, paths[1])
    return paths


def _due(losses: Sequence[Call], epoch: int) -> dict[str, Any]:
    """The losses of an epoch by name."""
    return {one.name: one.partial() for one in losses if Every(lambda: None, **dict(one.when)).due(epoch)}


def _pool(recipe: Train) -> Pool | Stored:
    """Where the scans come from: files, or simulation here and in other processes."""
    if recipe.stored is not None:
        return Stored(recipe.stored, UNSEEN, recipe.geometry)
    workers = recipe.workers
    processes = ProcessPoolExecutor(workers, mp_context=get_context("spawn")) if workers else None
    return Pool(Making(recipe.specimen, recipe.microscope, recipe.seed), processes)
