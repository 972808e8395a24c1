"""The fit of a CDTools model: optimisers that are kept between calls, and losses in CDTools' units."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput, nearest
from phaseloom.fitting import optimizers, schedule
from phaseloom.fitting.loop import Progress, fit
from phaseloom.ptycho import batches, noise
from phaseloom.ptycho.likelihood import Likelihood
from phaseloom.ptycho.model import Ptychography

__all__ = ["DIVERGENCES", "Fit", "parts"]

log = logging.getLogger(__name__)

DIVERGENCES: dict[str, noise.Divergence] = {
    "amplitude mse": noise.amplitude,
    "intensity mse": noise.gaussian,
    "poisson nll": noise.poisson,
}
"""Ours by CDTools' names."""


def parts(core: Ptychography, /) -> dict[str, list[nn.Parameter]]:
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
        "weights": found["weights"],
        "probe_fourier_shifts": found["descan"],
        "heights": found.get("heights", []),
        "height_scale": found.get("height_scale", []),
    }
    return {name: parameters for name, parameters in named.items() if parameters}


class Fit:
    """What lasts between calls of ``*_optimize``: optimisers with their moments, losses, the data.

    Attributes:
        losses: mean of each epoch in CDTools' units: squared differences per trusted pixel, or for Poisson
            counts the deviance per pixel that has any (1 at the shot-noise limit).
        lines: one sentence for each epoch.
        scan: the data that was fitted last, or that the model was made of.
    """

    def __init__(self, core: Ptychography, loss: str, scan: Scan4D | None, *, faster: float = 1.0):
        self.core, self.loss, self.scan, self.faster = core, loss, scan, faster
        self.losses: list[float] = []
        self.lines: list[str] = []
        self.done = False
        self._kept: dict[tuple[str, ...], torch.optim.Optimizer] = {}
        self._progress: Progress | None = None
        self._judge: tuple[Scan4D, Likelihood, float] | None = None
        named = parts(core)
        free = {id(p) for group in named.values() for p in group}
        for parameter in core.parameters():
            if id(parameter) not in free:
                parameter.requires_grad_(False)

    def run(
        self,
        name: str,
        make: Callable[[optimizers.Groups], torch.optim.Optimizer],
        iterations: int,
        scan: Scan4D,
        /,
        *,
        rates: Mapping[str, float],
        size: int,
        index: np.ndarray,
        pieces: int | None,
        plateau: bool = False,
        extra: Mapping[str, Any],
    ) -> Iterator[float]:
        """Optimise; the mean loss after each epoch.

        Args:
            name: of the optimiser, which is made when it is first asked for and then continued.
            make: makes one.
            iterations: epochs of this call.
            scan: the data.
            rates: of each part.
            size: patterns of a batch.
            index: the patterns that are used.
            pieces: patterns that are modelled at once.
            plateau: divide rates by five when the loss stands still.
            extra: settings of the optimiser that may differ from call to call.
        """
        self.scan, self.done = scan, iterations < 1
        likelihood, unit = self._likelihood(scan)
        optimizer = self._optimizer(name, make, rates, extra)
        if self._progress is None:
            self._progress = Progress(self.core, optimizer)
        progress = self._progress
        progress.optimizer = optimizer
        chosen = batches.in_pieces(batches.random(index, size=size), pieces or likelihood.at_once)
        last = progress.epoch + iterations
        shape = partial(schedule.plateau, factor=0.2) if plateau else schedule.constant
        for epoch in fit(likelihood, chosen, progress, epochs=last, shape=shape):
            self.losses.append(epoch.loss * unit)
            free = {part for part, group in parts(self.core).items() if group[0].requires_grad}
            pace = ", ".join(f"{k} {rate:.3g}" for k, rate in epoch.rates.items() if {*k.split("+")} & free)
            self.lines.append(
                f"Epoch {len(self.losses)}: loss {self.losses[-1]:.6g}, {epoch.seconds:.2f} s, {name}, "
                f"{len(index)} patterns in batches of {size}, rates: {pace}"
            )
            self.done = progress.epoch == last
            yield self.losses[-1]
        if progress.epoch < last:
            self.done = True
            log.warning("%s_optimize ended early: %s", name, progress.stopped)

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

    def contrast(self, scan: Scan4D, /) -> float:
        """Shot noise relative to the whole signal: what makes steps of gradient descent free of the dose."""
        likelihood, _ = self._likelihood(scan)
        some = torch.as_tensor(np.unique(np.linspace(0, len(scan) - 1, min(len(scan), 64)).astype(int)))
        counts, mask = likelihood.measured[some], self.core.detector.mask.cpu()
        signal = (likelihood.divergence(torch.zeros_like(counts), counts) * mask).sum() / len(some)
        return likelihood.floor / max(float(signal), 1e-30)

    def _pixels(self, scan: Scan4D) -> float:
        """What the loss of a pattern is divided by."""
        mask = self.core.detector.display(self.core.detector.mask).cpu().numpy()
        if self.loss != "poisson nll":
            return float(mask.sum())
        some = np.unique(np.linspace(0, len(scan) - 1, min(len(scan), 400)).astype(int))
        lit = sum(float(((scan.counts[some[i : i + 64]] >= 1) & mask).sum()) for i in range(0, len(some), 64))
        return max(lit, 1.0) / len(some) / 2

    def _optimizer(
        self,
        name: str,
        make: Callable[[optimizers.Groups], torch.optim.Optimizer],
        rates: Mapping[str, float],
        extra: Mapping[str, Any],
    ) -> torch.optim.Optimizer:
        """The one of before with new rates; parameters without a gradient stay where they are."""
        named = {part: group for part, group in parts(self.core).items() if part in rates}
        for group in named.values():
            for parameter in group[1:]:
                parameter.requires_grad_(group[0].requires_grad)
        free = [part for part, group in named.items() if group[0].requires_grad]
        if not free:
            raise BadInput(f"{name}_optimize", None, "has nothing to do: requires_grad is False everywhere")
        # L-BFGS steps along remembered directions, in which a part that was frozen since would still move
        key = (name, *free) if name == "LBFGS" else (name,)
        if key not in self._kept:
            some = {part: group for part, group in named.items() if name != "LBFGS" or part in free}
            self._kept[key] = make([_group(part, group) for part, group in some.items()])
        optimizer = self._kept[key]
        for group in optimizer.param_groups:
            group["base"] = group["lr"] = rates[group["name"].split("+")[0]]
            group.update(extra)
        for parameter, state in optimizer.state.items():
            moved = {k: v.to(parameter.device) for k, v in state.items() if isinstance(v, Tensor) and v.ndim}
            state.update(moved)
        return optimizer

    def rates(
        self, lr: float, factors: Mapping[str, float] | None, *, power: float = 1.0
    ) -> dict[str, float]:
        """The rate of each part; offsets of ``translation_scale`` are faster by it, to some power."""
        known, given = parts(self.core), dict(factors or {})
        for name, factor in {"lr": lr, **given}.items():
            if name != "lr" and name not in known:
                raise BadInput("lr_factors", name, f"is no part of the model: {nearest(name, known)}")
            if not 0 <= factor < float("inf"):
                raise BadInput(f"optimize: {name}", factor, "must be a finite number from zero up")
        found = {name: lr * given.get(name, 1.0) for name in known}
        found["translation_offsets"] *= self.faster**power
        return found


def chosen(subset: Any, count: int) -> np.ndarray:
    """Numbers of patterns: all, one, or those of a list or a boolean mask."""
    try:
        index = np.arange(count)[slice(None) if subset is None else np.asarray(subset)]
    except IndexError:
        raise BadInput(
            "optimize: subset", subset, f"must be numbers of patterns from 0 to {count - 1}"
        ) from None
    index = np.atleast_1d(index)
    if not len(index):
        raise BadInput("optimize: subset", subset, "leaves no pattern")
    return index


def whole(name: str, value: Any) -> int:
    """A whole number above zero."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise BadInput(f"optimize: {name}", value, "must be a whole number from 1 up")
    return int(value)


def _group(name: str, parameters: Sequence[nn.Parameter]) -> dict[str, Any]:
    return {
        "params": list(parameters),
        "lr": 1.0,
        "name": name,
        "base": 1.0,
        "start": 1,
        "stop": None,
        "shape": None,
    }
