"""What a run would need, before it runs."""

import resource
import time

import numpy as np
import torch

from phaseloom.ptycho import scans
from phaseloom.recipes.job import Job
from phaseloom.recipes.reconstruct import Reconstruct
from phaseloom.recipes.start import none
from phaseloom.spec import Call
from phaseloom.units import ENERGY, LENGTH

__all__ = ["estimate"]


def estimate(recipe: Reconstruct, /) -> dict[str, str]:
    """Sizes, memory and time of a run, the time from modelling one real batch."""
    scan = recipe.scan()
    settled = recipe.model_copy(update={"start": Call(none.__module__, "none")}).settled(scan)[0]
    job = Job(settled, scan, None, None)
    room = scans.canvas(scan)
    batch = settled.batch(job.learned, settled.seed)(1)
    seconds = _seconds(job, batch[0])
    modes, slices = len(job.model.probe.modes()), job.model.object.transmission().shape[1]
    window = int(np.prod(scan.geometry.shape))
    waves = len(batch[0]) * modes * window * 8 * (4 * slices + 4)
    numbers = sum(p.numel() * p.element_size() for p in job.model.parameters())
    counts = int(np.prod(scan.counts.shape)) * np.dtype(scan.counts.dtype).itemsize
    in_memory = counts * 2 if isinstance(scan.counts, np.ndarray) else 0
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    energy, beam = ENERGY.show(scan.geometry.energy), scan.geometry.beam
    return {
        "patterns": f"{len(scan)} of {scan.geometry.shape[0]}x{scan.geometry.shape[1]}, {scan.counts.dtype}",
        "beam": f"{beam}s of {energy}, {'near' if scan.geometry.near else 'far'} field",
        "object": f"{slices} x {room.shape[0]} x {room.shape[1]} pixels of {LENGTH.show(room.pixel[0])}",
        "probe": f"{modes} modes, from {settled.probe.name}",
        "batches per epoch": f"{len(batch)} of {len(batch[0])} patterns",
        "memory of counts": _size(in_memory),
        "memory of parameters": _size(numbers * 5),
        "memory of waves": _size(waves),
        "peak so far in this check": _size(base),
        "seconds per epoch": f"{seconds * len(batch):.2g} on {job.model.scan.start.device}",
        "minutes for all epochs": f"{seconds * len(batch) * recipe.epochs / 60:.2g} at most, after the start",
    }


def _seconds(job: Job, batch: torch.Tensor) -> float:
    """Of one batch with gradients, the second time."""
    for _ in range(2):
        began = time.perf_counter()
        torch.stack(list(job.likelihood(batch).values())).sum().backward()
    return time.perf_counter() - began


def _size(count: float) -> str:
    return f"{count / 2**20:.0f} MiB"
