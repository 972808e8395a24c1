"""From a file of patterns to a phase image."""

import inspect
import json
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from phaseloom.data import formats
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.files import whole
from phaseloom.fitting import checkpoint, optimizers
from phaseloom.fitting.loop import Epoch, Progress, fit
from phaseloom.fitting.schedule import Every
from phaseloom.physics.modes import orthogonalise
from phaseloom.ptycho import scans
from phaseloom.ptycho.model import Likelihood, Ptychography
from phaseloom.recipes.start import Start
from phaseloom.result import Provenance, Result, is_result
from phaseloom.spec import Call, Recipe, knobs, load_yaml, part, to_yaml
from phaseloom.units import LENGTH

__all__ = ["Job", "Reconstruct"]

log = logging.getLogger(__name__)

RATES = {
    "object": 0.02,
    "probe": 0.02,
    "positions": 0.02,
    "affine": 0.02,
    "weights": 0.002,
    "background": 0.0,
}
"""Steps relative to the natural size of each part: transmission 1, probe's peak, a pixel, a weight of 1."""


class Moving(BaseModel):
    """Rate of a part with the epochs between which it moves."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    rate: float
    start: int = Field(1, ge=1)
    stop: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _moves_at_all(self) -> Self:
        if self.stop is not None and self.stop < self.start:
            raise BadInput(
                "rates", f"stop: {self.stop}", f"lies before start: {self.start}; write 0 to freeze"
            )
        return self


class Reconstruct(Recipe):
    """A ptychographic reconstruction: its parameters are those of the file ``run.yaml``.

    Attributes:
        file: the measured patterns.
        read: format and what the file does not say; default: found out.
        prepare: transforms of the scan, in order.
        object: the grid that the phase is found on: slices, and what is free in them.
        probe: the first guess of the illumination.
        propagator: how waves fly, exact or paraxial.
        noise: how counts are compared with the model.
        start: how the first guess is settled.
        rates: of object, probe, positions, affine, weights, background, in their natural size; 0 freezes.
        optimizer: how steps are made.
        shape: how rates change over the run.
        projections: what is imposed after epochs.
        batch: how patterns are grouped.
        epochs: at most.
        holdout: share of the patterns that are never learned from, to tell when to stop.
        patience: epochs without improvement of the hold-out loss before stopping.
        seed: of everything that is drawn.
        device: where to compute.
        title: for figures and files.

    Example:
        >>> Reconstruct.of({"file": "scan.cxi", "epochs": 30}).epochs
        30
    """

    file: Path
    read: Call | None = part("phaseloom.data.formats", None, partial=True)
    prepare: tuple[Call, ...] = part("phaseloom.data.prepare", ())
    object: Call = part("phaseloom.ptycho.objects", "pixels")
    probe: Call = part("phaseloom.ptycho.probes", "auto")
    propagator: Call = part("phaseloom.ptycho.propagators", "exact")
    noise: Call = part("phaseloom.ptycho.noise", "amplitude")
    start: Call = part("phaseloom.recipes.start", "sweep")
    rates: Mapping[str, float | Moving] = Field(default_factory=dict)
    optimizer: Call = part("phaseloom.fitting.optimizers", "adam")
    shape: Call = part("phaseloom.fitting.schedule", "cosine")
    projections: tuple[Call, ...] = part("phaseloom.ptycho.projections", ())
    batch: Call = part("phaseloom.ptycho.batches", "random")
    epochs: int = Field(60, ge=1, strict=True)
    holdout: float = Field(0.05, ge=0, lt=0.9)
    patience: int | None = Field(15, ge=1, strict=True)
    seed: int = Field(0, ge=0, lt=2**63, strict=True)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    title: str = ""
    found: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def from_path(cls, path: Path | str, settings: Mapping[str, Any] | None = None, /) -> Self:
        """A recipe for a data file, from a parameter file, or out of a result, with settings changed."""
        path = Path(path)
        if path.suffix in (".yaml", ".yml"):
            tree = load_yaml(path)
            if isinstance(tree.get("file"), str) and not Path(tree["file"]).is_absolute():
                tree["file"] = str(path.parent / tree["file"])
        elif path.suffix in (".h5", ".hdf5") and is_result(path):
            tree = yaml.safe_load(Result.load(path).recipe)
        else:
            tree = {"file": str(path)}
        recipe = cls.of(tree)
        return recipe.put(settings) if settings else recipe

    def scan(self) -> Scan4D:
        """The data, read and prepared."""
        if self.file.is_dir():
            raise BadInput(
                "file", str(self.file), "is a folder: name a file in it, or --resume to go on with a run"
            )
        if not self.file.is_file():
            raise BadInput("file", str(self.file), "does not exist: give the path of the data")
        if self.read is None:
            scan = formats.read(self.file)
        else:
            scan = formats.read(self.file, format=self.read.name, knobs=self.read.values)
        for step in self.prepare:
            scan = step(scan)
        return _lit(scan, self.file.name)

    def settled(self, scan: Scan4D, /) -> tuple[Self, Start | None]:
        """The recipe with what was left open decided from the data: probe, defocus, orientation."""
        probe = self.probe
        if probe.name == "auto":
            name = "stored" if scan.probe is not None else "from_patterns"
            probe = replace(probe, name=name)
        found = self.start(scan, probe, self.seed)
        changed: dict[str, Any] = {
            "rates": self.all_rates(),
            "probe": probe,
            "start": Call("phaseloom.recipes.start", "none"),
        }
        if found is not None:
            if "defocus" in knobs(probe.room, probe.name) and not scan.geometry.near:
                changed["probe"] = replace(probe, values={**probe.values, "defocus": found.defocus})
            changed["prepare"] = (*self.prepare, *found.steps())
        return self.model_copy(update=changed), found

    def model(self, scan: Scan4D, /) -> Ptychography:
        """The model of a scan with its first guesses."""
        room = scans.canvas(scan)
        model = Ptychography.of(
            scan, object=self.object(room), probe=self.probe(scan), flight=self.propagator.partial()
        )
        if self.rate_of("background") and scan.background is None:
            torch.nn.init.constant_(model.detector.root, 0.05)
        return model

    def all_rates(self) -> dict[str, "float | Moving"]:
        """Rates of all parts, given or default."""
        return {**RATES, **self.rates}

    def rate_of(self, name: str, /) -> float:
        """Rate of a part, given or default."""
        given = self.all_rates()[name]
        return given.rate if isinstance(given, Moving) else given

    def moving(self) -> dict[str, optimizers.Rate | float]:
        """Rates of all parts as the optimisers want them."""
        return {
            k: optimizers.Rate(v.rate, v.start, v.stop) if isinstance(v, Moving) else v
            for k, v in self.all_rates().items()
        }


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
        self.likelihood = Likelihood(self.model, scan, recipe.noise.partial())
        moving = optimizers.groups(self.model.parts(), recipe.moving())
        self.progress = Progress(self.model, _optimizer(recipe.optimizer, moving))
        self.learned, self.held = _split(len(scan), recipe.holdout, recipe.seed)

    @classmethod
    def begin(cls, recipe: Reconstruct, directory: Path | None = None, /) -> "Job":
        """Read the data, find what the recipe leaves open, build the model."""
        scan = recipe.scan()
        settled, start = recipe.settled(scan)
        if start is not None:
            for step in start.steps():
                scan = step(scan)
        found = {} if start is None else _found(start)
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
        patterns = self.recipe.batch(self.learned, self.recipe.seed)
        held = list(torch.as_tensor(self.held).split(32)) if len(self.held) else []
        for epoch in fit(
            self.likelihood,
            patterns,
            self.progress,
            epochs=self.recipe.epochs,
            shape=self.recipe.shape.partial(),
            after=[_event(call, self.model) for call in self.recipe.projections],
            holdout=held,
            own=("positions", "weights"),
            patience=self.recipe.patience,
        ):
            self._remember(epoch)
            yield epoch

    def result(self) -> Result:
        """The reconstruction as it stands."""
        model, room = self.model, self.model.scan.canvas
        with torch.no_grad():
            thing = model.object.transmission().cpu().numpy()
            probe = orthogonalise(model.probe.modes()).cpu().numpy()
            background = model.detector.display(model.detector.background()).cpu().numpy()
        coverage = model.coverage()
        thing, probe = _gauged(thing, probe, coverage)
        seed, data = self.recipe.seed, str(self.recipe.found.get("data", ""))
        return Result(
            object=thing,
            probe=probe,
            positions=model.scan.angstrom(),
            positions_start=self.scan.positions,
            pixel=room.pixel,
            origin=room.origin,
            coverage=coverage,
            geometry=self.scan.geometry,
            thickness=model.object.thickness,
            weights=model.detector.weights.detach().cpu().numpy(),
            background=background if background.any() else None,
            history=self.progress.history,
            stopped=self.progress.stopped,
            metrics=self._metrics(),
            recipe=self.text(),
            provenance=Provenance.now(seed=seed, data=data, file=self.recipe.file.name),
            start={} if self.start is None else _found(self.start) | {"tried": self.start.tried},
            title=self.recipe.title or self.scan.metadata.get("title", "") or self.recipe.file.stem,
            examples=self._examples(),
        )

    def text(self) -> str:
        """The parameter file that repeats this run."""
        return to_yaml(self.recipe.resolved())

    def _metrics(self) -> dict[str, float]:
        left = self.likelihood.remaining()
        moved = self.model.scan.angstrom() - self.scan.positions
        moved = moved - moved.mean(0)
        history = self.progress.history
        numbers = {
            "loss": history[-1]["loss"] if history else math.nan,
            "amplitude error": left["amplitude"],
            "Poisson deviance": left["poisson"],
            "move rms (A)": float(np.sqrt((moved**2).sum(1).mean())),
        }
        if history and history[-1]["holdout"] is not None:
            numbers["hold-out"] = history[-1]["holdout"]
        return numbers

    @torch.no_grad()
    def _examples(self) -> dict[str, np.ndarray]:
        index = torch.as_tensor(np.linspace(0, len(self.scan) - 1, 3).astype(int))
        show = self.model.detector.display
        modelled = self.model(index.to(self.model.scan.start.device)).cpu()
        measured = self.likelihood.measured[index]
        return {
            "index": index.numpy(),
            "measured": show(measured).numpy(),
            "modelled": show(modelled).numpy(),
        }

    def _remember(self, epoch: Epoch) -> None:
        if self.directory is None:
            return
        checkpoint.save(self.progress, self.directory / "snapshot.h5")
        with open(self.directory / "events.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(self.progress.history[-1]) + "\n")

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


def _lit(scan: Scan4D, name: str) -> Scan4D:
    """The patterns that hold counts at all; blank ones (a closed shutter, a lost frame) are named."""
    parts = (np.arange(start, min(start + 256, len(scan))) for start in range(0, len(scan), 256))
    lit = np.concatenate([(scan.counts[index] * scan.mask).any((1, 2)) for index in parts])
    if not lit.any():
        raise BadInput(name, None, "holds no counts at all: check the data set and the mask")
    if lit.all():
        return scan
    log.warning("%s: %d of %d patterns are blank and were left out", name, (~lit).sum(), len(lit))
    return scan.select(lit)


def _split(count: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Patterns to learn from and patterns held out; scans of under 20 keep all."""
    held = round(count * share) if count >= 20 else 0
    chosen = np.random.default_rng((seed, 7)).choice(count, held, replace=False)
    return np.setdiff1d(np.arange(count), chosen), np.sort(chosen)


def _found(start: Start) -> dict[str, Any]:
    return {
        "defocus": LENGTH.show(start.defocus),
        "orientation": start.orientation,
        "margin": round(start.margin, 4) if math.isfinite(start.margin) else "no rival",
    }


def _event(call: Call, model: Ptychography) -> Every:
    """A projection as something that happens after epochs, on the part that its signature names."""
    function = call.partial()
    first = next(iter(inspect.signature(function).parameters))
    if first == "object" and model.object.kind != "complex":
        raise BadInput("projections", call.name, "needs the object kind 'complex'")
    target = model.probe.relative if first == "probe" else model.object.wave

    def apply() -> None:
        with torch.no_grad():
            target.copy_(function(target))

    return Every(apply, **dict(call.when))


def _gauged(thing: np.ndarray, probe: np.ndarray, coverage: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share the common scale so that each slice has a median modulus of one where it was well lit."""
    lit = coverage > 0.2 * np.percentile(coverage[coverage > 0], 90)
    scale = np.median(np.abs(thing[:, lit]), axis=1)
    scale = np.where(scale > 0, scale, 1.0).astype(np.float32)
    return thing / scale[:, None, None], probe * np.prod(scale)
