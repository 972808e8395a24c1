"""What a run would need, and what would go wrong with it, before it runs.

Nothing is guessed that can be tried: the data are read, the model is built, and a few batches go
through all that an epoch does (steps, held-out patterns, copies to fall back on, projections). What
the process holds then is what the run will hold.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from phaseloom.data.scan import Scan4D
from phaseloom.fitting.loop import Epoch, fit
from phaseloom.ptycho import scans
from phaseloom.recipes import _memory, foresight
from phaseloom.recipes.job import Job
from phaseloom.recipes.reconstruct import Reconstruct
from phaseloom.recipes.start import ORIENTATIONS, TWINS, none
from phaseloom.spec import Call
from phaseloom.units import ENERGY, LENGTH

__all__ = ["Outlook", "estimate", "outlook"]

BATCHES, HELD, EPOCHS = 3, 32, 3
"""Batches of a rehearsed epoch, patterns of a held-out batch (as in `Job`), and such epochs."""


@dataclass(frozen=True)
class Outlook:
    """What a run is expected to need, and what its user should be warned of.

    Attributes:
        lines: sizes, memory and time by name, in words.
        warnings: what will go wrong, with its number and what to do, in sentences.
        peak: largest resident set of the run, bytes.
        seconds: of an epoch.
    """

    lines: dict[str, str]
    warnings: list[str]
    peak: float
    seconds: float


@dataclass(frozen=True)
class _Needs:
    """Bytes of tensors, and seconds of an epoch.

    Attributes:
        model: parameters and buffers.
        steps: what the optimiser keeps.
        copies: of both, to fall back on; and of the best epoch's parameters.
        batch: the waves that differentiation keeps of a batch, and gradients.
        seconds: of an epoch.
        stopped: why the rehearsal ended.
    """

    model: int
    steps: int
    copies: int
    batch: int
    seconds: float
    stopped: str


def estimate(recipe: Reconstruct, /) -> dict[str, str]:
    """Sizes, memory and time of a run, as `outlook` finds them."""
    return outlook(recipe).lines


def outlook(recipe: Reconstruct, /) -> Outlook:
    """Read, build and try a run, and tell what all of it would need and what stands in its way.

    The peak is that of this process, which has done whatever takes memory in a run. An automatic
    start is counted, not tried, and its time is left out.
    """
    from phaseloom import plot  # a run draws its report, and the libraries for it take memory

    _memory.forget_highest()
    scan = recipe.scan()
    room = _memory.resident() + _start(recipe, scan)
    settled = recipe.model_copy(update={"start": Call(none.__module__, "none")}).settled(scan)[0]
    job = Job(settled, scan, None, None)
    warned = foresight.of(job, started=recipe.start.name != "none")
    batches = settled.batch(job.learned, settled.seed, scan.positions)(1)
    sizes = _sizes(job, batches, plot.__name__)
    needs = _tried(job, batches)
    peak = max(_memory.highest(), room)
    return Outlook(
        lines=sizes | _in_words(job, needs, peak),
        warnings=warned + _shortage(needs, peak),
        peak=peak,
        seconds=needs.seconds,
    )


def _sizes(job: Job, batches: Sequence[Any]) -> dict[str, str]:
    scan, model = job.scan, job.model
    room, (states, slices) = model.scan.canvas, model.object.transmission().shape[:2]
    energy, beam = ENERGY.show(scan.geometry.energy), scan.geometry.beam
    several = f", {states} states" if states > 1 else ""
    pieces = batches[0] if isinstance(batches[0], tuple) else (batches[0],)
    cut = f" in {len(pieces)} pieces" if len(pieces) > 1 else ""
    return {
        "patterns": f"{len(scan)} of {scan.geometry.shape[0]}x{scan.geometry.shape[1]}, {scan.counts.dtype}",
        "beam": f"{beam}s of {energy}, {'near' if scan.geometry.near else 'far'} field",
        "object": f"{slices} x {room.shape[0]} x {room.shape[1]} pixels of {LENGTH.show(room.pixel[0])}{several}",
        "probe": f"{len(model.probe.modes())} modes, from {job.recipe.probe.name}",
        "batches per epoch": f"{len(batches)} of {sum(len(p) for p in pieces)} patterns{cut}",
    }


def _tried(job: Job, batches: Sequence[Any]) -> _Needs:
    """Put a few batches through all that an epoch does."""
    kept = _of_a_batch(job, batches)
    for group in job.progress.optimizer.param_groups:
        group["start"] = 1  # what joins later takes memory too
    some, held = batches[:BATCHES], torch.as_tensor(job.held).split(HELD)[:1] if len(job.held) else []
    last = _epochs(job, some, held)
    began = time.perf_counter()
    for event in job.events:
        event.action()
    imposing = time.perf_counter() - began
    learned, left = _count(some), _count(held)
    every = len(job.learned) * last.passes + len(job.held)
    model, steps = job.model.state_dict(), job.progress.optimizer.state_dict()
    whole = _memory.tensors(model)
    state = _memory.tensors(steps)
    return _Needs(
        model=whole,
        steps=state,
        copies=2 * (whole + state) + 2 * whole * bool(len(job.held)),
        batch=kept,
        seconds=last.seconds * every / (learned * last.passes + left) + imposing,
        stopped=job.progress.stopped,
    )
