"""What a run would need, and what would go wrong with it, before it runs.

Nothing is guessed that can be tried: the data are read, the model is built, and a few batches go
through all that an epoch does (steps, held-out patterns, copies to fall back on, projections). What
the process holds then is what the run will hold.
"""

import importlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from phaseloom.calibration.calibrate import is_calibration_due, mask_bad_pixels
from phaseloom.calibration.raster import complete_raster
from phaseloom.data.diagnostics import describe_scans
from phaseloom.data.scan import Scan4D
from phaseloom.fitting.loop import Epoch
from phaseloom.fitting.outcome import Stop, StopReason
from phaseloom.ptycho.batches import largest_piece
from phaseloom.reconstruction import preflight as foresight
from phaseloom.reconstruction.level import Level, build_levels, last_epochs, make_batches
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.reconstruction.start import none, sweep
from phaseloom.reconstruction.starts.first_image import has_direct_image
from phaseloom.runs import memory as _memory
from phaseloom.spec import Call, knobs
from phaseloom.units import ENERGY, LENGTH

__all__ = ["RunEstimate", "describe_run", "estimate_run"]

REHEARSED_BATCHES = 2
REHEARSED_EPOCHS = 2
"""Batches of a rehearsed epoch, and such epochs."""

PATTERNS_OF_CALIBRATION = 40_000
"""Patterns that the work of a calibration corresponds to: 30 epochs of scans of 1300 patterns (11 to 96)."""

MEMORY_OF_REPORT = 48 * 2**20
"""Bytes that the report takes when it is drawn (measured: 31 to 51 MiB)."""


MEMORY_OF_DIRECT_IMAGE = 170 * 2**10
"""Bytes for each place of an electron raster while its direct image is made (measured: 160 to 194 KiB)."""


@dataclass(frozen=True)
class RunEstimate:
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
class _Requirements:
    """Bytes of tensors, and seconds of an epoch.

    Attributes:
        model: parameters and buffers.
        steps: what the optimiser keeps.
        copies: of both, to fall back on; and of the best epoch's parameters.
        batch: the waves that differentiation keeps of a batch, and gradients.
        seconds: of an epoch.
        stop: why the rehearsal ended.
    """

    model: int
    steps: int
    copies: int
    batch: int
    seconds: float
    stop: Stop


def describe_run(recipe: Reconstruct, /) -> dict[str, str]:
    """Sizes, memory and time of a run, as `outlook` finds them."""
    return estimate_run(recipe).lines


def estimate_run(recipe: Reconstruct, /) -> RunEstimate:
    """Read, build and try a run, and tell what all of it would need and what stands in its way.

    The peak is that of this process, which has done whatever takes memory in a run, be it for one epoch
    of each candidate of an automatic start, and for few of the batches.
    """
    importlib.import_module("phaseloom.plot")  # a run draws its report, and libraries take memory
    _memory.forget_highest()
    recipe, scan, masked = mask_bad_pixels(recipe, recipe.scan())  # as the run does
    calibrates = is_calibration_due(recipe, complete_raster(scan))
    before = 0.0 if calibrates else _time_of_start(recipe, scan)
    changes: dict[str, Any] = {"start": Call(none.__module__, "none")}
    if recipe.start.name != "none":  # the first guess of a probe shows nothing of how beams overlap
        changes["holdout"] = recipe.holdout
    settled = recipe.model_copy(update=changes).settle(scan)[0]
    job = Job(settled, scan, None, None)
    warned = foresight.warn_before_run(job, started=recipe.start.name != "none")
    levels = build_levels(job.finest, job.recipe)
    last = [0, *last_epochs(job.recipe.epochs, len(levels))]
    each = [_rehearse(job, level) for level in levels]
    needs = each[-1]
    drawn = MEMORY_OF_DIRECT_IMAGE * len(scan) if has_direct_image(scan) else 0
    peak = max(_memory.highest(), _memory.resident() + max(MEMORY_OF_REPORT, drawn))
    if calibrates:
        before = PATTERNS_OF_CALIBRATION * needs.seconds / len(scan)
    total = sum((b - a) * one.seconds for a, b, one in zip(last[:-1], last[1:], each, strict=True))
    times = {
        "seconds for the start": f"{before:.2g}" + " (calibration, roughly)" * calibrates,
        "seconds per epoch": f"{needs.seconds:.2g} on {job.model.scan.start.device}",
        "minutes for all epochs": f"{total / 60:.2g} at most, after the start",
    }
    if len(levels) > 1:
        times["on a coarser grid"] = f"epochs 1 to {last[-2]}, {each[0].seconds:.2g} seconds each at first"
    return RunEstimate(
        lines=_sizes(job) | {one.name: one.value for one in masked} | _in_words(job, needs, peak) | times,
        warnings=warned + _shortage(needs, peak),
        peak=peak,
        seconds=needs.seconds,
    )


def _sizes(job: Job) -> dict[str, str]:
    scan = job.scan
    model = job.model
    batches = make_batches(job.recipe, job.finest, job.training)(1)
    room = model.scan.canvas
    (states, slices) = model.object.transmission().shape[:2]
    energy = ENERGY.show(scan.geometry.energy)
    beam = scan.geometry.beam
    several = f", {states} states" if states > 1 else ""
    pieces = _pieces(batches[0])
    cut = f" in {len(pieces)} pieces" if len(pieces) > 1 else ""
    grid = f"{room.shape[0]} x {room.shape[1]} pixels of {LENGTH.show(room.pixel[0])}"
    return {
        "patterns": f"{len(scan)} of {scan.geometry.shape[0]}x{scan.geometry.shape[1]}, {scan.counts.dtype}",
        **describe_scans(scan),
        "beam": f"{beam}s of {energy}, {'near' if scan.geometry.near else 'far'} field",
        "object": f"{slices} x {grid}{several}",
        "probe": f"{len(model.probe.modes())} modes, from {job.recipe.probe.name}",
        "batches per epoch": f"{len(batches)} of {_count(batches[:1])} patterns{cut}",
    }


def _in_words(job: Job, needs: _Requirements, peak: float) -> dict[str, str]:
    inside = _inside(job.scan.counts)
    device = job.model.scan.start.device
    lines = {
        "memory of counts": _size(inside) if inside else "none: they are read from the file",
        "memory of parameters": f"{_size(needs.model)}, {_size(needs.steps)} of the optimiser",
        "memory of copies": f"{_size(needs.copies)}, to fall back on",
        "memory of a batch": _size(needs.batch),
        "peak memory": f"{_size(peak)}, libraries included",
    }
    if device.type != "cpu":
        total = needs.model + needs.steps + needs.copies + needs.batch
        lines["memory on the device"] = f"{_size(total)} of these, counted"
    return lines


def _inside(counts: Any) -> int:
    """Bytes of patterns that are in memory, not in a file."""
    part = counts
    while isinstance(part, np.ndarray) and not isinstance(part, np.memmap):
        if part.base is None:
            return counts.nbytes
        part = part.base
    return 0


def _shortage(needs: _Requirements, peak: float) -> list[str]:
    """What the trial itself showed."""
    said = []
    if not (needs.stop.is_complete or needs.stop.reason is StopReason.NOT_STOPPED):
        said.append(f"trial: {needs.stop}. Check the data and the settings before a run.")
    left = _memory.available()
    more = peak - _memory.resident()
    if left is not None and more > left:
        fix = "take smaller batches (batch: {random: {size: ..., accumulate: ...}}) or fewer slices and modes"
        said.append(f"memory: the run needs {_size(more)} more and {_size(left)} are free. Then {fix}.")
    return said


def _rehearse(job: Job, level: Level) -> _Requirements:
    """Put a few batches through all that an epoch on a grid does."""
    batches = make_batches(job.recipe, level, job.training)(1)
    optimizer = level.progress.optimizer
    for group in optimizer.param_groups:
        group["start"] = 1  # all parts together, whenever they move
        group["stop"] = None
    few = 1 if isinstance(optimizer, torch.optim.LBFGS) else REHEARSED_BATCHES
    held = torch.as_tensor(job.holdout).split(largest_piece(batches))[:1] if len(job.holdout) else ()
    batch = _measure_batch_memory(level, batches)
    last = _epoch(level, batches[:few], held)
    began = time.perf_counter()
    for event in level.after:
        event.action()
    imposing = time.perf_counter() - began
    whole = _memory.tensors(level.model.state_dict())
    state = _memory.tensors(optimizer.state_dict())
    seconds, passes = (last.seconds, last.passes) if last else (math.nan, 1.0)
    done = _count(batches[:few]) * passes + _count(held)
    due = len(job.training) * passes + len(job.holdout)
    return _Requirements(
        model=whole,
        steps=state,
        copies=2 * (whole + state) + 2 * whole * bool(held),
        batch=batch,
        seconds=seconds * due / done + imposing,
        stop=level.progress.stop,
    )


def _epoch(level: Level, batches: Sequence[Any], held: Sequence[torch.Tensor]) -> Epoch | None:
    """The last of a few short epochs; ``None`` if the first already broke down."""
    return (list(level.fit(lambda number: batches, held, epochs=REHEARSED_EPOCHS)) or [None])[-1]


def _measure_batch_memory(level: Level, batches: Sequence[Any]) -> int:
    """Bytes of all tensors that the largest piece of a batch needs at once, gradients included."""
    index = max(_pieces(batches[0]), key=len)
    with _memory.Ledger() as ledger:
        torch.stack(list(level.likelihood(index).values())).sum().backward()
    level.progress.optimizer.zero_grad(set_to_none=True)
    return ledger.most


def _time_of_start(recipe: Reconstruct, scan: Scan4D) -> float:
    """Seconds of an automatic start, from one epoch of every candidate; what it finds is not used."""
    if recipe.start.name != sweep.__name__:
        return 0.0
    asked = knobs(recipe.start.room, recipe.start.name)["rungs"].default
    rungs = recipe.start.values.get("rungs", asked)
    short = replace(recipe.start, values={**recipe.start.values, "rungs": (1,)})
    began = time.perf_counter()
    recipe.model_copy(update={"start": short}).settle(scan)
    return (time.perf_counter() - began) * sum(epochs / 4**turn for turn, epochs in enumerate(rungs))


def _pieces(batch: Any) -> tuple[torch.Tensor, ...]:
    return batch if isinstance(batch, tuple) else (batch,)


def _count(batches: Sequence[Any]) -> int:
    return sum(len(piece) for batch in batches for piece in _pieces(batch))


def _size(count: float) -> str:
    return f"{count / 2**20:.0f} MiB" if count < 2**34 else f"{count / 2**30:.0f} GiB"
