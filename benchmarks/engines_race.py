"""The classical engines against the default optimiser: CPU seconds to marks of error, and how low they come.

    python -m benchmarks.engines_race --out benchmarks/results/classic-engines-DATE.json

Case S of `benchmarks.cases`, 1e6 electrons a pattern, unseen objects with several noise draws. All start
from a flat object and optics 40 angstrom out of focus; object and probe are free. With ``known`` positions
they are those of the truth, and nothing moves them; with ``nominal`` ones the true raster is jittered by 0.25
pixel rms along each axis, which the default refines (``default, frozen``: it may not) and the engines do
not. Each runs with its own defaults for all epochs, without early stopping. The clock stands while a state
is compared with the truth; an epoch that loads and compiles is run before and thrown away.
"""

import argparse
import itertools
import json
import statistics
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import cases, ours
from benchmarks.bound import find_commit
from benchmarks.record import Case, Watch, followed, machine, rounded
from phaseloom import samples
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct

__all__ = ["RUNS", "measure_run", "summarise"]

EPOCHS = {"gauss_newton": 30, "epie": 30, "rpie": 30, "mpie": 30}
EPOCHS |= {"difference_map": 80, "raar": 80, "lsq_ml": 80}

RUNS = {
    "default": ("gauss_newton", ()),
    "default, frozen": ("gauss_newton", ("positions",)),
    **{name: (name, ("positions",)) for name in EPOCHS if name != "gauss_newton"},
}
"""Optimiser, and what does not move."""

MARKS = (0.3, 0.1, 0.06, 0.03)
STAR_MARKS = (10.0, 3.0, 2.0)


def reconstruct(case: Case, settings: dict[str, Any], watch: Watch) -> None:
    """As `benchmarks.ours.reconstruct`, at the true positions if ``settings`` say that they are known."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "case.npz")
        np.savez(path, **{name: value for name, value in case.items() if name not in ours.HIDDEN})
        job = Job.begin(Reconstruct.of(ours.tree(path, case, settings)))
        watch.updates = len(job.recipe.batch(job.training, job.recipe.seed, job.scan.positions)(1))
        if settings["known"]:  # on the canvas of the nominal raster, whose pixels are those of the truth
            jitter = torch.as_tensor(case["pos_px"] - case["pos_nominal_px"]).float()
            places = job.model.scan
            with torch.no_grad():
                places.offsets.copy_(jitter / places.step)
        watch.begin()
        for _ in job:
            watch(lambda: ours.state(job, float(case["dx"])))
        watch.ended = job.progress.stopped


def measure_run(
    name: str, positions: str, seed: int, noise: int, epochs: int | None = None
) -> dict[str, Any]:
    """One run of an unseen scan: epochs and CPU seconds to each mark, and the lowest error."""
    optimizer, still = RUNS[name]
    case = Case(cases.made(cases.CASES["S"], object_seed=seed, noise_seed=noise))
    number = epochs or EPOCHS[optimizer]
    settings: dict[str, Any] = {"epochs": number, "off": 40.0, "seed": 0, "still": still}
    settings["known"] = positions == "known"
    settings["tree"] = {"optimizer": optimizer, "patience": None, "preset": "none"}
    watch = followed(reconstruct, case, settings, epochs=number, every=1 + number // 60)
    best = min(watch.rows, key=lambda row: row["error"])
    row: dict[str, Any] = {"run": name, "positions": positions, "object": seed, "noise": noise}
    row |= {"epochs": watch.done, "seconds an epoch": watch.spent / watch.done, "ended": watch.ended}
    row |= {"lowest": best["error"], "at epoch": best["epoch"], "last": watch.rows[-1]["error"]}
    for mark in MARKS:
        first = next((one for one in watch.rows if one["error"] <= mark), None)
        row[f"epochs to {mark}"] = first and first["epoch"]
        row[f"seconds to {mark}"] = first and first["cpu_s"]
    return rounded(row)


STAR_EPOCHS = {"gauss_newton": 10, "epie": 10, "rpie": 10, "mpie": 10}
STAR_EPOCHS |= {"difference_map": 20, "raar": 20, "lsq_ml": 20}


def measure_star(name: str) -> dict[str, Any]:
    """One run of the real X-ray scan, three modes from its own probe: losses of patterns held out."""
    optimizer, still = RUNS[name]
    tree = {"file": str(samples.far_field()), "probe": {"stored": {"modes": 3}}, "start": "none"}
    rates = dict.fromkeys((*still, "affine"), 0.0) if still else {}
    more = {"optimizer": optimizer, "rates": rates, "epochs": STAR_EPOCHS[optimizer], "patience": None}
    job = Job.begin(Reconstruct.of(tree | more))
    seconds, losses = [], []
    began = time.process_time()
    for epoch in job:
        seconds.append(time.process_time() - began)
        losses.append(epoch.holdout)
        began = time.process_time()
    held = [loss for loss in losses if loss is not None]
    row: dict[str, Any] = {"run": name, "scan": "star", "epochs": len(losses)}
    row |= {"seconds an epoch": statistics.median(seconds), "lowest held out": min(held)}
    row |= {"at epoch": 1 + losses.index(min(held)), "last held out": held[-1]}
    for mark in STAR_MARKS:
        first = next((number for number, loss in enumerate(losses) if loss and loss <= mark), None)
        row[f"epochs to {mark}"] = None if first is None else first + 1
        row[f"seconds to {mark}"] = None if first is None else sum(seconds[1 : first + 1]) + seconds[1]
    return rounded(row)


def summarise(rows: list[dict[str, Any]]) -> str:
    """A table of medians; a mark that fewer than half of the runs reach has none."""
    lines = ["| positions | optimiser | s/epoch | " + " | ".join(f"to {mark}" for mark in MARKS)]
    lines[0] += " | lowest (range) | last |"
    lines.append("|---" * (5 + len(MARKS)) + "|")
    for positions, name in itertools.product(("known", "nominal"), RUNS):
        some = [row for row in rows if (row["positions"], row["run"]) == (positions, name)]
        if not some:
            continue
        cells = [positions, name, f"{statistics.median(row['seconds an epoch'] for row in some):.3f}"]
        for mark in MARKS:
            there = [row for row in some if row[f"epochs to {mark}"] is not None]
            if 2 * len(there) < len(some):
                cells.append("-")
                continue
            seconds = statistics.median(row[f"seconds to {mark}"] for row in there)
            epochs = statistics.median(row[f"epochs to {mark}"] for row in there)
            missing = f", {len(there)} of {len(some)}" if len(there) < len(some) else ""
            cells.append(f"{seconds:.2g} s ({epochs:.0f}{missing})")
        lowest = sorted(row["lowest"] for row in some)
        cells.append(f"{statistics.median(lowest):.4f} ({lowest[0]:.4f} to {lowest[-1]:.4f})")
        cells.append(f"{statistics.median(row['last'] for row in some):.4f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run everything that is asked for; the file is written after each run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--objects", type=int, nargs="+", default=[101, 102, 103])
    parser.add_argument("--draws", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--positions", nargs="+", choices=["known", "nominal"], default=["known", "nominal"])
    parser.add_argument("--runs", nargs="+", choices=list(RUNS), default=list(RUNS))
    parser.add_argument("--epochs", type=int, help="of every run; default: by the optimiser")
    parser.add_argument("--star", action="store_true", help="the real X-ray scan of the package instead")
    parser.add_argument(
        "--out", type=Path, default=Path(f"benchmarks/results/classic-engines-{date.today()}.json")
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    about = {"date": f"{date.today()}", "machine": machine(), "commit": find_commit(), "threads": 1}
    rows: list[dict[str, Any]] = []
    if given.star:
        for name in given.runs:
            rows.append(measure_star(name))
            print(rows[-1], flush=True)
            given.out.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")
        return
    for optimizer in EPOCHS:  # load and compile
        warm = next(name for name in RUNS if RUNS[name][0] == optimizer)
        measure_run(warm, "nominal", 1, 0, epochs=1)
    for draw, positions, seed, name in itertools.product(
        given.draws, given.positions, given.objects, given.runs
    ):
        if (name, positions) == ("default", "known"):
            continue  # what is known is not refined
        rows.append(measure_run(name, positions, seed, draw, given.epochs))
        print(
            {key: rows[-1][key] for key in ("run", "positions", "object", "noise", "lowest", "last")},
            flush=True,
        )
        given.out.write_text(json.dumps({**about, "case": "S", "dose": 1e6, "rows": rows}, indent=1) + "\n")
    print(summarise(rows))


if __name__ == "__main__":
    main()
