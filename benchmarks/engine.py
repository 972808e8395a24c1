"""What the compiled engine saves: the same runs three ways, epoch by epoch in turn.

``plain`` has none of its kernels, ``compiled`` one call for each batch, ``together`` one for many batches
with their steps, as runs do where they can (`phaseloom.ptycho.newton.compiled`).

    python -m benchmarks.engine --out benchmarks/results/engine-DATE.json

CPU seconds of an epoch (medians) and the losses after equal epochs, of scans S, M (on its own grid) and
``thick`` of `benchmarks.cases`. The first epoch, in which things are compiled and loaded, is left out.
"""

import argparse
import json
import statistics
import time
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import numpy as np
import torch

from benchmarks.cases import CASES, made
from benchmarks.ours import HIDDEN, tree
from benchmarks.record import machine
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.newton.compiled import CompiledSteps
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct

__all__ = ["measure_case"]

EPOCHS = {"S": 20, "M": 4, "thick": 15}


def measure_case(name: str, folder: Path, seed: int) -> dict:
    """One object: all runs, an epoch of each in turn."""
    case = made(CASES[name], object_seed=seed, noise_seed=seed + 1000)
    path = folder / f"{name}-{seed}.npz"
    np.savez(path, **{key: value for key, value in case.items() if key not in HIDDEN})
    settings = {"off": CASES[name].defocus_start, "epochs": EPOCHS[name], "seed": 0, "tree": {"levels": 0}}
    apart = mock.patch.object(CompiledSteps, "__call__", return_value=None)
    plain = mock.patch.object(Ptychography, "_compiled_misfit", return_value=None)
    left_out = {"plain": (apart, plain), "compiled": (apart,), "together": ()}
    jobs = {way: iter(Job.begin(Reconstruct.of(tree(path, case, settings)))) for way in left_out}
    seconds: dict[str, list[float]] = {way: [] for way in jobs}
    losses = {}
    for _ in range(EPOCHS[name]):
        for way, job in jobs.items():
            with ExitStack() as stack:
                for patch in left_out[way]:
                    stack.enter_context(patch)
                began = time.process_time()
                losses[way] = next(job).loss
                seconds[way].append(time.process_time() - began)
    spent = {way: statistics.median(values[1:]) for way, values in seconds.items()}
    ratios = {
        "ratio": spent["plain"] / spent["together"],
        "batch by batch": spent["plain"] / spent["compiled"],
    }
    row = {"case": name, "object": seed} | {key: round(value, 2) for key, value in ratios.items()}
    row |= {f"seconds, {way}": round(value, 4) for way, value in spent.items()}
    return row | {f"loss, {way}": round(value, 5) for way, value in losses.items()}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[911, 912, 913])
    parser.add_argument("--cases", nargs="+", default=list(EPOCHS), choices=list(EPOCHS))
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with TemporaryDirectory() as folder:
        for name in asked.cases:
            for seed in asked.seeds[: 1 if name == "M" else None]:
                rows.append(measure_case(name, Path(folder), seed))
                print(json.dumps(rows[-1]), flush=True)
    head = {"date": str(date.today()), "machine": machine(), "threads": 1}
    if asked.out:
        asked.out.write_text(json.dumps({**head, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
