"""What explains the PETRA holograms: models of `docs/howto-near-field.md`, one run each, and the noise.

    python -m benchmarks.petra_near_field OUT.json --rows "three modes" "one material"
    python -m benchmarks.petra_near_field OUT.json --noise
    python -m benchmarks.petra_near_field OUT.json --simulated 9704 9712

Rows are added to those that the file has. Losses are in units of shot noise: of the last epoch (learned),
which learns from all patterns, and of the 10 patterns held out until then. Patterns held out settle their
own positions, as in every run. Simulated scans at their true distances, from a flat object, say whether
`one_material` makes images better, and whether patterns held out tell.
"""

import argparse
import json
import math
import os
import platform
import subprocess
import time
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

import phaseloom as pl
from benchmarks.near_field_acceptance import read_known, run_case
from benchmarks.near_field_scans import draw_case, simulate_case

PETRA = {"file": str(pl.samples.near_field()), "read": {"cxi": {"focus": "3.65 mm"}}, "start": "none"}
HALF = {"enlarge": {"to": [200, 200], "match": "resample"}}
QUARTER = {"enlarge": {"to": [400, 400], "match": "resample"}}
FOUND = {"near_field": {"distance": "1.163989e+10 A", "focus": "3.832578e+07 A"}}
"""Distance and focus that the automatic start finds."""


def model(modes: int, epochs: int = 60, steps: tuple[Any, ...] = (HALF,), **others: Any) -> dict:
    """Settings of a model with so many modes."""
    return {
        "epochs": epochs,
        "prepare": list(steps),
        "probe": {"from_patterns": {"modes": modes}},
        **others,
    }


MATERIAL: dict[str, Any] = {"projections": ["one_material"]}
ROWS = {
    "three modes": model(3),
    "intensities": model(3, rates={"weights": 0.2}),
    "blur": model(3, rates={"blur": 0.2}),
    "changing probe": model(3) | {"probe": {"relaxed": {"basis": 6, "modes": 3}}},
    "six modes": model(6),
    "more epochs": model(3, epochs=150),
    "one material": model(3, **MATERIAL),
    "automatic start": {"epochs": 40, "start": "sweep"},
    "eight modes, found distance": model(8, 80, (FOUND, HALF)),
    "eight modes, found distance, others held out": model(8, 80, (FOUND, HALF), seed=1),
    "one material, quarter pixels": model(3, 60, (FOUND, QUARTER), **MATERIAL),
    "one material, eight modes, found distance": model(8, 80, (FOUND, HALF), **MATERIAL),
    "the same, others held out": model(8, 80, (FOUND, HALF), **MATERIAL, seed=1),
}

BLOCK = 7
"""Side of the blocks in which details of two pixels are compared with shot noise."""

BRIGHTNESS = (0, 10, 50, 200, 1000, 4000, math.inf)
"""Mean counts a pixel between which blocks are put together."""


def run_row(settings: dict) -> dict:
    """One run of a model."""
    began = time.process_time()
    job = pl.Job.begin(pl.Reconstruct.of(PETRA | settings))
    history = []
    for epoch in job:
        history.append(epoch)
        if epoch.number % 10 == 0:
            print(epoch, flush=True)
    held_out = [epoch.holdout for epoch in history if epoch.holdout is not None]
    return {
        "settings": settings,
        "learned": round(history[-1].loss, 3),
        "held_out": round(held_out[-1], 3),
        "lowest_held_out": round(min(held_out), 3),
        "epochs_run": len(history),
        "cpu_s": round(time.process_time() - began, 1),
        "commit": _read_commit(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def measure_noise() -> dict:
    """Power of details two pixels wide over that of shot noise, by brightness: medians of blocks.

    The finest details of a pattern over the mean pattern, by second differences along both axes, so that no
    model is needed and what is fixed to the detector falls out. They are an upper bound of what the data's
    own noise is, for the object has such details, too.
    """
    scan = pl.read(pl.samples.near_field(), knobs={"focus": "3.65 mm"})
    counts = np.asarray(scan.counts, float)
    mean = counts.mean(0).clip(0.1)
    detail = np.diff(np.diff(counts / mean, 2, axis=1), 2, axis=2) ** 2
    kernel = np.outer([1, -2, 1], [1, -2, 1]) ** 2
    windows = np.lib.stride_tricks.sliding_window_view(counts / mean**2, (3, 3), axis=(1, 2))
    shot = np.einsum("nyxvu,vu->nyx", windows, kernel)
    good = np.array(np.lib.stride_tricks.sliding_window_view(scan.mask, (3, 3)).all((2, 3)))
    blocks = []
    for y in range(0, detail.shape[1], BLOCK):
        for x in range(0, detail.shape[2], BLOCK):
            cut = np.s_[..., y : y + BLOCK, x : x + BLOCK]
            if good[cut].all():
                ratio = detail[cut].sum((1, 2)) / shot[cut].sum((1, 2))
                blocks.append((mean[1:-1, 1:-1][cut].mean(), np.median(ratio), np.quantile(ratio, 0.02)))
    level, median, low = np.array(blocks).T
    out = {}
    for least, most in pairwise(BRIGHTNESS):
        chosen = (level >= least) & (level < most)
        out[f"{least} to {most} counts"] = {
            "median": round(float(np.median(median[chosen])), 2),
            "quietest 2 %": round(float(np.median(low[chosen])), 2),
        }
    total = counts.sum((1, 2))
    out["spread of the counts of patterns"] = round(float(total.std() / total.mean()), 5)
    return out


def compare_simulated(seed: int) -> dict:
    """A simulated scan without `one_material` and with it."""
    case = draw_case(seed, distance_error=0.0, focus_error=0.0, side=96, places=7, step=5.0)
    scan = simulate_case(case)
    out = {"specimen": case.specimen, "absorption": case.absorption, "counts": round(case.counts)}
    for name, settings in (("plain", {}), ("one material", MATERIAL)):
        given = {"epochs": 40, "start": "none", "object_prior": "none", **settings}
        row = run_case(read_known(case, scan), case, scan.truth, given)
        out[name] = {key: row[key] for key in ("correlation", "loss", "holdout", "cpu_s")}
    return out


def _read_commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    """Run the rows asked for and add them to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", nargs="*", choices=list(ROWS), default=[])
    parser.add_argument("--noise", action="store_true")
    parser.add_argument("--simulated", type=int, nargs=2, metavar=("FIRST", "END"), help="seeds")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = json.loads(given.out.read_text()) if given.out.exists() else {}
    found["scan"] = "petra_near_field.cxi, focus 3.65 mm"
    found["machine"] = f"{platform.machine()}, one thread of {os.cpu_count()}, shared"
    if given.noise:
        found["noise"] = measure_noise()
    if given.simulated:
        rows = [{"seed": seed, **compare_simulated(seed)} for seed in range(*given.simulated)]
        found["simulated"] = {"commit": _read_commit(), "scans": rows}
    for name in given.rows:
        found[name] = run_row(ROWS[name])
        print(name, found[name], flush=True)
        given.out.write_text(json.dumps(found, indent=1) + "\n")
    given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
