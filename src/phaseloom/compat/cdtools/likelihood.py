"""The fit of our experiments, the models that are ready: counts against what they expect."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phaseloom.compat.cdtools.data import CDataset
from phaseloom.compat.cdtools.fit import Course, Fit, Named, Task
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.ptycho import batches, noise
from phaseloom.ptycho.likelihood import Likelihood
from phaseloom.ptycho.model import Ptychography

__all__ = ["DIVERGENCES", "ScanFit", "parts"]

DIVERGENCES: dict[str, noise.Divergence] = {
    "amplitude mse": noise.amplitude,
    "intensity mse": noise.gaussian,
    "poisson nll": noise.poisson,
}
"""Ours by CDTools' names."""


def parts(core: Ptychography, /) -> Named:
    """What can be refined, by CDTools' names; the first parameter of each speaks for the others.

    An object of amplitude and phase is two of them, and ``obj`` the phase.
    """
    found = core.parts()
    objects = next(found[name] for name in ("object", "phase") if found.get(name))  # ours has either of them
    named = {
        "probe": found["probe"],
        "obj": [*objects, *found.get("amplitude", [])],
        "background": found["background"],
        "translation_offsets": found["positions"],
        "weights": found.get("opr_weights", found["weights"]),
        "probe_fourier_shifts": found["descan"],
        "heights": found.get("heights", []),
        "height_scale": found.get("height_scale", []),
    }
    return {name: parameters for name, parameters in named.items() if parameters}


@dataclass(frozen=True)
class Penalised:
    """A likelihood and a term that CDTools adds once to the sum over a batch."""

    likelihood: Likelihood
    penalty: Callable[[], Tensor]
    size: int

    def __call__(self, index: Tensor) -> dict[str, Tensor]:
        """Terms by name, as means over the patterns of a batch."""
        share = 1 / (self.size * self.likelihood.floor)
        return {**self.likelihood(index), "regularizer": share * self.penalty()}

    def expect(self, pieces: Sequence[Tensor]) -> None:
        """See `Likelihood.expect`."""
        self.likelihood.expect(pieces)


class ScanFit(Fit):
    """The fit of an experiment of ours.

    Losses are means in CDTools' units: squared differences per trusted pixel, or for Poisson counts the
    deviance per pixel that has any (1 at the shot-noise limit).
    """

    core: Ptychography

    def __init__(self, core: Ptychography, loss: str, data: CDataset | None):
        super().__init__(core, data)
        self.loss = loss
        self._judge: tuple[Scan4D, Likelihood, float] | None = None
        free = {id(p) for group in self.parts().values() for p in group}
        for parameter in core.parameters():
            if id(parameter) not in free:
                parameter.requires_grad_(False)

    def parts(self) -> Named:
        """What can be refined, by CDTools' names."""
        return parts(self.core)

    def task(self, dataset: CDataset, course: Course, /) -> Task:
        """The likelihood of the counts, over random batches."""
        likelihood, unit = self._likelihood(dataset.scan)
        size = min(course.size, len(course.index))
        cut = batches.in_pieces(batches.random(course.index, size=size), course.pieces or likelihood.at_once)
        penalty = course.penalty
        objective = likelihood if penalty is None else Penalised(likelihood, penalty, size)
        return Task(objective, cut, lambda loss: loss * unit)

    def _likelihood(self, scan: Scan4D) -> tuple[Likelihood, float]:
        """The objective, and what its loss is to be multiplied by."""
        if self._judge is None or self._judge[0] is not scan:
            want = (len(self.core.scan.start), self.core.detector.mask.shape)
            if (len(scan), scan.geometry.shape) != (want[0], tuple(want[1])):
                fix = f"but the model was made for {want[0]} of {tuple(want[1])}: make it from this dataset"
                raise BadInput("optimize: dataset", f"{len(scan)} patterns of {scan.geometry.shape}", fix)
            likelihood = Likelihood(self.core, scan, DIVERGENCES[self.loss])
            self._judge = (scan, likelihood, likelihood.floor / self._pixels(scan))
        return self._judge[1:]

    def slope(self, dataset: CDataset, lr: float | None, /) -> float:
        """The rate relative to shot noise over the whole signal, free of the dose; by default 5 of it."""
        likelihood, _ = self._likelihood(dataset.scan)
        count = len(dataset)
        some = torch.as_tensor(np.unique(np.linspace(0, count - 1, min(count, 64)).astype(int)))
        counts, mask = likelihood.measured[some], self.core.detector.mask.cpu()
        signal = (likelihood.divergence(torch.zeros_like(counts), counts) * mask).sum() / len(some)
        return (5.0 if lr is None else lr) * likelihood.floor / max(float(signal), 1e-30)

    def _pixels(self, scan: Scan4D) -> float:
        """What the loss of a pattern is divided by."""
        mask = self.core.detector.display(self.core.detector.mask).cpu().numpy()
        if self.loss != "poisson nll":
            return float(mask.sum())
        some = np.unique(np.linspace(0, len(scan) - 1, min(len(scan), 400)).astype(int))
        lit = sum(float(((scan.counts[some[i : i + 64]] >= 1) & mask).sum()) for i in range(0, len(some), 64))
        return max(lit, 1.0) / len(some) / 2

    def state(self) -> dict[str, Any]:
        """See `Fit.state`; with the unit of the offsets."""
        return {**super().state(), "step": self.core.scan.step}

    def load(self, state: Mapping[str, Any], /) -> None:
        """See `Fit.load`.

        Raises:
            ValueError: offsets of another unit.
        """
        if state.get("step", 1.0) != self.core.scan.step:
            raise ValueError(f"translation_scale of {state.get('step', 1.0)}, not {self.core.scan.step}")
        super().load(state)
