"""Recipe of a training for phase retrieval, from scans that are simulated when they are needed."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn

from phaseloom.errors import BadInput
from phaseloom.learning.trainer import TrainingRecipe
from phaseloom.retrieval.ground_truth import Geometry
from phaseloom.retrieval.networks.end_to_end import join_stages
from phaseloom.retrieval.networks.recovery import PatchRecoveryNet
from phaseloom.retrieval.networks.stitching import PhaseStitchingNet
from phaseloom.retrieval.objectives import load_stage_network
from phaseloom.retrieval.training_samples import ViewDistribution
from phaseloom.simulation.experiment import Experiment
from phaseloom.simulation.scan import Sample, simulate_scan
from phaseloom.simulation.specimens import is_held_out
from phaseloom.spec import Call, Written, part

__all__ = ["SampleSimulator", "Train"]

Stage = Literal["patches", "stitching", "end-to-end"]

MAX_SPECIMEN_DRAWS = 200  # specimens that are drawn for one of the wanted side, before giving up
DEFAULT_WINDOW = 32  # probes along an edge of a view where nothing else says
HELD_OUT_SHARE = 0.15  # share of the materials that are kept from training


class Train(Written, TrainingRecipe):
    """How a network is trained: its parameters are those of the file ``train.yaml``.

    Settings of the fit are those of `phaseloom.learning.trainer.TrainingRecipe`.

    Attributes:
        stage: what is trained: patches from patterns, images from patches, or both together.
        model: the network of the first stage.
        stitching: the network of the second stage.
        weights: trained weights to start from, of the stage's own network.
        patches: trained weights of the first stage, for the third.
        stitched: trained weights of the second stage, for the third.
        joint: settings of the third stage that differ, when one command runs all: it starts from trained
            networks, so it takes shorter steps and other scans.
        specimen: what is in the microscope.
        microscope: how it is scanned.
        stored: folder of a simulated set, instead of scans that are simulated during the training; only the
            patterns of a view are read.
        geometry: where the truth of a window lies in a set of the seed's layout: exactly, or by its rule.
        scans: simulated scans that are in memory at a time; of a stored set, how many are used.
        fresh: share of them that is replaced by new ones from epoch to epoch.
        unseen: scans of held-out materials, for the hold-out loss.
        window: probes (rows, columns) of a view; default: those of the network's own window where it has one
            and patches are trained, else 32 x 32, or the whole scan if that is smaller.
        views: learned from in an epoch.
        doses: electrons per pattern, lowest and highest.
        clean: share of views without counting noise.
        turned: flip and transpose views: for round probes only.
        losses: minimised, each from its ``start`` to its ``stop`` if given; the first is the hold-out loss.
        batch: views of a step.
        pieces: views that are computed together; fewer than a batch save memory.
        workers: processes that simulate; 0: this process alone.

    Example:
        >>> Train.of({"model": "small", "epochs": 3}).model.name
        'small'
    """

    stage: Stage = "patches"
    model: Call = part("phaseloom.retrieval.networks.recovery", "tiny")
    stitching: Call = part("phaseloom.retrieval.networks.stitching", "residual")
    weights: Path | None = None
    patches: Path | None = None
    stitched: Path | None = None
    joint: dict[str, Any] = Field(default_factory=lambda: {"rate": 1e-4, "seed": 1})
    specimen: Call = part("phaseloom.simulation.specimens", "prototypes")
    microscope: Call = part("phaseloom.simulation.microscopes", "fixed")
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
    losses: tuple[Call, ...] = part("phaseloom.retrieval.losses", ("contrast",))
    batch: int = Field(4, ge=1, strict=True)
    pieces: int | None = Field(None, ge=1, strict=True)
    workers: int = Field(0, ge=0, strict=True)

    def network(self) -> nn.Module:
        """The network of the stage, with its initial weights."""
        if self.weights is not None:
            return load_stage_network(self.weights, "weights", self.stage)
        if self.stage == "patches":
            return self.model()
        if self.stage == "stitching":
            return self.stitching()
        known = self.patches
        second = self.stitched
        first = self.model() if known is None else load_stage_network(known, "patches", "patches")
        second = self.stitching() if second is None else load_stage_network(second, "stitched", "stitching")
        if not isinstance(first, PatchRecoveryNet):
            fix = "reads whole scans: it needs no stitching, so train it as patches"
            raise BadInput("train: model", type(first).__name__, fix)
        assert isinstance(second, PhaseStitchingNet)
        return join_stages(first, second)

    def list_holdout_numbers(self) -> list[int]:
        """Numbers of the held-out samples."""
        return [-1 - number for number in range(self.unseen)]

    def make_view_distribution(self, net: nn.Module, scan: tuple[int, int], /) -> ViewDistribution:
        """What is drawn for every view of scans of so many probes."""
        own = net.window if self.stage == "patches" and isinstance(net, PatchRecoveryNet) else DEFAULT_WINDOW
        window = self.window or (min(own, scan[0]), min(own, scan[1]))
        return ViewDistribution(window, self.doses, self.clean, self.turned)


@dataclass(frozen=True)
class SampleSimulator:
    """Simulates samples by their numbers; negative numbers give held-out materials.

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
        knobs = {**self.specimen.values, "part": side, "share": HELD_OUT_SHARE}
        call = replace(self.specimen, values=knobs) if self.specimen.name == "prototypes" else self.specimen
        for _ in range(MAX_SPECIMEN_DRAWS):
            specimen = call(experiment.box, rng)
            if is_held_out(specimen.group, HELD_OUT_SHARE) == (number < 0):
                return simulate_scan(specimen, experiment, seed=int(rng.integers(2**62)))
        raise BadInput(
            f"specimen: {call.name}", None, f"has no materials that are {side}: give it more of them"
        )
