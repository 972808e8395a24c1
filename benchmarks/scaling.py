"""What several processes gain at a reconstruction, and what they cost: bytes that meet against work.

``model`` prints, for three sizes, how many bytes a batch adds up over all processes and how many operations
it takes: a network that moves fewer bytes in the time of so many operations takes longer than the arithmetic.
``run`` reconstructs a scan with 1, 2 and 4 processes (gloo) and writes down seconds, CPU seconds and the
largest memory of a process, with the size of the patterns that each keeps. ``tiles`` does so with an object
in tiles that outweighs the patterns: positions are far apart, and the model has many slices.

    python -m benchmarks.scaling model
    python -m benchmarks.scaling run --epochs 3
    python -m benchmarks.scaling tiles --epochs 2 --side 80
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch

from benchmarks import record

SIZES = {
    "S": {"pattern": 64, "modes": 1, "slices": 1, "batch": 32, "box": 64 * 64 * 8},
    "M": {"pattern": 128, "modes": 4, "slices": 6, "batch": 32, "box": 128 * 128 * 12},
    "large": {"pattern": 256, "modes": 8, "slices": 20, "batch": 64, "box": 256 * 256 * 30},
}
"""Pixels of a pattern, modes, slices, patterns of a batch, and pixels of the object that a batch touches."""


def cost(pattern: int, modes: int, slices: int, batch: int, box: int) -> dict[str, float]:
    """Bytes that are added up for a batch, and operations that it takes, forward and back."""
    waves = batch * modes * pattern**2
    transforms = 2 * (2 * (slices - 1) + 1)  # each free flight two, the far field one; forward and back
    flops = waves * (transforms * 5 * np.log2(pattern**2) + slices * 40)
    sent = 8 * (box * slices + modes * pattern**2) + 4 * 2 * batch
    return {"bytes": float(sent), "operations": float(flops), "operations per byte": flops / sent}


def model() -> None:
    """Print the table of docs/scaling.md."""
    print(f"{'case':8s} {'MB a batch':>10s} {'Gop a batch':>12s} {'op/byte':>8s}")
    for name, sizes in SIZES.items():
        one = cost(**sizes)
        told = (one["bytes"] / 1e6, one["operations"] / 1e9, one["operations per byte"])
        print(f"{name:8s} " + "{:10.2f} {:12.2f} {:8.0f}".format(*told))


def written(folder: Path, side: int, window: int, step: float = 0.8) -> Path:
    """A scan of ``side x side`` patterns in a file, ``step`` angstrom apart; pixels of the object are 0.2."""
    from phaseloom.data.formats import cxi
    from phaseloom.simulation import simulate

    margin = (window // 2 + 3) * 0.2
    positions = simulate.raster((side, side), step, jitter=0.05, seed=1)
    positions += margin - positions.min(0)
    rows, columns = np.ceil((positions.max(0) + margin) / 0.2).astype(int)
    truth = simulate.atoms((int(rows), int(columns)), 0.2, peak=0.5, seed=2)
    optics = {"energy": 80e3, "semiangle": 0.025, "defocus": 80.0, "window": window}
    scan, _ = simulate.electron_scan(truth, 0.2, positions, **optics, dose=1e5)
    cxi.write(scan, folder / "scan.cxi")
    return folder / "scan.cxi"


def inside(file: Path, epochs: int) -> None:
    """What one process does; the first one prints, after it has heard of the others."""
    from phaseloom.data.counts import PartialCounts
    from phaseloom.fitting.distributed import team
    from phaseloom.reconstruction.protocol import Job
    from phaseloom.reconstruction.recipe import Reconstruct

    torch.set_num_threads(1)
    probe = {"focused": {"semiangle": "25 mrad", "defocus": "80 A", "modes": 2}}
    tree = {
        "file": str(file),
        "start": "none",
        "probe": probe,
        "epochs": epochs,
        "levels": 1,
        "device": "cpu",
    }
    job = Job.begin(Reconstruct.of(tree))
    counts = job.level.likelihood.measured.counts
    begun, busy = time.perf_counter(), time.process_time()
    for _ in job:
        pass
    seconds, cpu = time.perf_counter() - begun, time.process_time() - busy
    rows = counts.rows if isinstance(counts, PartialCounts) else counts
    memory = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    mine = torch.tensor([cpu, float(np.prod(rows.shape)) * rows.dtype.itemsize, float(memory)])
    most = mine.clone()
    if team().world_size > 1:
        torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
    if team().is_main:
        names = ("CPU seconds", "bytes of patterns", "peak bytes")
        found = {
            f"{name}, largest of a process": value for name, value in zip(names, most.tolist(), strict=True)
        }
        loss = job.progress.history[-1]["loss"]
        print(json.dumps({"processes": team().world_size, "seconds": seconds, "loss": loss, **found}))


SLICES_IN_TILES = 16
STEP_IN_TILES = 2.4
"""Slices of the object, and angstrom between positions, that make the object outweigh the patterns."""


def inside_tiles(file: Path, epochs: int) -> None:
    """What one process does with an object in tiles; the first one prints what the largest of each is."""
    from phaseloom.fitting.distributed import team
    from phaseloom.reconstruction.level import fit_level
    from phaseloom.reconstruction.protocol import Job
    from phaseloom.reconstruction.recipe import Reconstruct
    from phaseloom.runs import memory

    torch.set_num_threads(1)
    tree = {
        "file": str(file),
        "start": "none",
        "probe": {"focused": {"semiangle": "25 mrad", "defocus": "80 A"}},
        "object": {"pixels": {"slices": SLICES_IN_TILES, "thickness": "5 A"}},
        "epochs": epochs,
        "device": "cpu",
        "tiles": True,
        "batch": {"sparse": {"size": 64}},
    }
    team().barrier()
    before = memory.resident()
    memory.forget_highest()
    job = Job.begin(Reconstruct.of(tree))
    busy = time.process_time()
    losses = []
    patterns = (job.training, job.holdout)
    for epoch in fit_level(job.level, job.recipe, patterns, epochs):  # without the result, which is whole
        losses.append(epoch.loss)
    cpu = time.process_time() - busy
    canvas = job.model.scan.canvas
    held = math.prod(canvas.held_shape)
    mine = torch.tensor([cpu, float(held), memory.highest() - before], dtype=torch.float64)
    if team().world_size > 1:
        torch.distributed.all_reduce(mine, torch.distributed.ReduceOp.MAX)
    total = torch.tensor([cpu, float(held)], dtype=torch.float64)
    seconds, pixels = team().all_reduce(total).tolist()
    if team().is_main:
        names = ("CPU seconds", "pixels held", "bytes of the run")
        found = {f"{name}, largest of a process": one for name, one in zip(names, mine.tolist(), strict=True)}
        found |= {"CPU seconds of all": seconds, "pixels held by all": pixels}
        found |= {"pixels of the canvas": math.prod(canvas.shape), "slices": SLICES_IN_TILES}
        print(json.dumps({"processes": team().world_size, "loss": losses[-1], **found}))


def run(epochs: int, side: int, window: int, *, tiles: bool = False) -> None:
    """One process, two and four, one after the other, on the same scan, which one would keep in memory."""
    rows = []
    what = "inside_tiles" if tiles else "inside"
    with tempfile.TemporaryDirectory() as folder:
        file = written(Path(folder), side, window, *([STEP_IN_TILES] if tiles else []))
        for count in (1, 2, 4):
            start = [
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--standalone",
                "--nproc-per-node",
                str(count),
            ]
            words = ["-m", "benchmarks.scaling", what, "--file", str(file), "--epochs", str(epochs)]
            told = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
            done = subprocess.run(start + words, env=told, capture_output=True, text=True, check=True)
            rows.append(json.loads(done.stdout.strip().splitlines()[-1]))
            print(rows[-1])
    about = {"machine": record.machine(), "date": f"{date.today()}", "commit": _commit()}
    about |= {"versions": record.versions("phaseloom", "torch", "numpy")}
    asked = {"epochs": epochs, "side": side, "window": window}
    path = Path(__file__).parent / "results" / f"{'tiles' if tiles else 'scaling'}-{date.today()}.json"
    path.write_text(json.dumps(about | {"asked": asked, "runs": rows}, indent=1) + "\n")
    print(path)


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def main() -> None:
    """The command line."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("what", choices=("model", "run", "tiles", "inside", "inside_tiles"))
    asked.add_argument("--epochs", type=int, default=3)
    asked.add_argument("--side", type=int, default=96)
    asked.add_argument("--window", type=int, default=64)
    asked.add_argument("--file", type=Path)
    given = asked.parse_args()
    if given.what == "model":
        model()
    elif given.what == "inside":
        inside(given.file, given.epochs)
    elif given.what == "inside_tiles":
        inside_tiles(given.file, given.epochs)
    else:
        run(given.epochs, given.side, given.window, tiles=given.what == "tiles")


if __name__ == "__main__":
    main()
