"""Simulated scans in files, of which a view reads its own patterns and no others."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phaseloom.errors import BadInput
from phaseloom.retrieval.ground_truth import Geometry
from phaseloom.retrieval.training_samples import Scene, labelled
from phaseloom.simulation.samples import SampleSet
from phaseloom.simulation.specimens import held_out

__all__ = ["Stored"]

KEPT = 64
"""Scenes whose phases are kept in memory; patterns never are."""


@dataclass(frozen=True)
class OnDisk:
    """Square roots of the patterns of a sample: an index reads what it asks for."""

    samples: SampleSet
    index: int

    def __getitem__(self, part: Any) -> Tensor:
        """Roots of patterns of some rows and columns of the scan."""
        rows, cols = part if isinstance(part, tuple) else (part, slice(None))
        fractions = self.samples.patterns(self.index, rows, cols)
        return torch.from_numpy(np.sqrt(np.maximum(fractions, 0)))

    def float(self) -> Tensor:
        """All of them."""
        return self[:, :]


class Stored:
    """Scenes of a folder by their numbers; those of negative ones are of materials that training never sees.

    Attributes:
        samples: the files.
        seen, unseen: indices of the samples of either side.
    """

    geometry: Geometry

    def __init__(self, folder: Path, share: float, geometry: Geometry):
        self.samples, self.geometry = SampleSet(folder), geometry
        groups = [self.samples.group(index) for index in range(len(self.samples))]
        apart = [held_out(group, share) for group in groups]
        if not any(apart):
            first = min(round(0.85 * len(groups)), len(groups) - 1)
            apart = [index >= first for index in range(len(groups))]
        self.seen = [index for index, held in enumerate(apart) if not held]
        self.unseen = [index for index, held in enumerate(apart) if held]
        if not self.seen or not self.unseen:
            fix = "holds too few samples to part them into seen and unseen: simulate more"
            raise BadInput("train: stored", str(folder), fix)
        self.known: dict[int, Scene] = {}

    def __getitem__(self, number: int) -> Scene:
        """The scene of a number, which counts on from the first when all are through."""
        side = self.unseen if number < 0 else self.seen
        place = (-1 - number if number < 0 else number) % len(side)
        if number not in self.known:
            if len(self.known) >= KEPT:
                self.known.clear()
            self.known[number] = self._scene(side[place])
        return self.known[number]

    def _scene(self, index: int) -> Scene:
        experiment = self.samples.experiment(index)
        phase = torch.from_numpy(self.samples.phase(index))
        group = self.samples.group(index)
        return labelled(OnDisk(self.samples, index), phase, experiment, group, geometry=self.geometry)

    def close(self) -> None:
        """Nothing: files are open only while they are read."""

    def hold(self, numbers: Iterable[int], /) -> None:
        """Nothing: files hold what there is."""

    def expect(self, numbers: Iterable[int], /) -> None:
        """Nothing either."""
