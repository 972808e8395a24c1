"""Far fields whose values are not counts: when a difference map begins a run, and what that changes.

    python -m benchmarks.values_in_any_unit OUT.json --seeds 7100 7112 [--units 1 1e4]

Scans of `benchmarks.start_search` of 64 pixels (seeds that draw 128 are left out), with and without counting
noise, times a number that gives a mean value of 0.083, near that of tike's scan, times ``units``. Each is run
as found and, where either rule makes a difference map due, with one: "before" from a start at twice shot
noise on, as if values were counts; "after" by the share of the loss of the mean pattern that a start leaves.
"""

import argparse
import json
import subprocess
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import machine, one_thread
from benchmarks.start_search import draw_scan, score_object
from phaseloom.data.scan import Scan4D
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.reconstruction.starts import difference_map_start

MEAN = 0.083
NEVER, ALWAYS = "as found", "difference map"


def set_unit(scan: Scan4D, unit: float) -> Scan4D:
    """The same scan, its mean value so many times `MEAN`."""
    factor = unit * MEAN / float(np.asarray(scan.counts).mean())
    probe = None if scan.probe is None else scan.probe * factor**0.5
    return replace(scan, counts=(factor * np.asarray(scan.counts)).astype(np.float32), probe=probe)


def run_one(scan: Scan4D, truth: np.ndarray, places: np.ndarray, due: float) -> tuple[Job, dict[str, Any]]:
    """A default run, with a difference map from a share of ``due`` on."""
    difference_map_start.DUE_SHARE = due
    spent = -time.process_time()
    job = Job.begin(Reconstruct.of({"device": "cpu"}), scan=scan)
    for _ in job:
        pass
    spent += time.process_time()
    result = job.result()
    numbers = {
        name: float(f"{result.metrics[name]:.4g}") for name in ("loss", "hold-out") if name in result.metrics
    }
    found = job.recipe.found.get("difference_map", {})
    return job, {
        "correlation": round(score_object(result, scan, truth, places), 4),
        "cpu_s": round(spent, 1),
        **numbers,
        **({"taken": found["taken"]} if found else {}),
    }


def compare_rules(seed: int, noisy: bool, unit: float) -> dict[str, Any] | None:
    """Runs by either rule; ``None`` of a scan that has no start to look for."""
    usual = difference_map_start.DUE_SHARE
    scan, what, truth, places = draw_scan(seed, noisy=noisy)
    if what["side"] != 64:
        return None
    scan = set_unit(scan, unit)
    job, left_alone = run_one(scan, truth, places, np.inf)
    if job.start is None:
        return None
    runs = {NEVER: left_alone}
    before = ALWAYS if job.start.loss >= difference_map_start.DUE_LOSS else NEVER
    difference_map_start.DUE_SHARE = usual
    after = ALWAYS if difference_map_start.is_difference_map_due(job.level, job.start) else NEVER
    if ALWAYS in (before, after):
        runs[ALWAYS] = run_one(scan, truth, places, 0.0)[1]
    difference_map_start.DUE_SHARE = usual
    start = {"loss": float(f"{job.start.loss:.4g}"), "unexplained": round(job.start.unexplained, 4)}
    return {
        **what,
        "noise": "counting noise" if noisy else "no noise",
        "unit": unit,
        "start": start,
        "before": runs[before],
        "after": runs[after],
        "due": {"before": before == ALWAYS, "after": after == ALWAYS},
    }


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each kind of noise and unit: scans, how many had the map, and how many correlations changed."""
    summary: dict[str, Any] = {}
    for noise, unit in sorted({(row["noise"], row["unit"]) for row in rows}):
        some = [row for row in rows if (row["noise"], row["unit"]) == (noise, unit)]
        gains = [row["after"]["correlation"] - row["before"]["correlation"] for row in some]
        summary[f"{noise}, times {unit:g}"] = {
            "scans": len(some),
            "due": sum(row["due"]["after"] for row in some),
            "due before": sum(row["due"]["before"] for row in some),
            "better": sum(gain > 0 for gain in gains),
            "worse": sum(gain < 0 for gain in gains),
            "largest gain": round(max(gains), 4),
            "largest loss": round(max(0.0, -min(gains)), 4),
            "cpu_s before": round(sum(row["before"]["cpu_s"] for row in some), 1),
            "cpu_s": round(sum(row["after"]["cpu_s"] for row in some), 1),
        }
    return summary


def main() -> None:
    """Run the seeds, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs=2, default=(7100, 7112))
    parser.add_argument("--units", type=float, nargs="+", default=[1.0])
    given = parser.parse_args()
    one_thread()
    warnings.filterwarnings("ignore")
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    rows: list[dict[str, Any]] = []
    for seed in range(*given.seeds):
        for noisy, unit in ((noisy, unit) for noisy in (False, True) for unit in given.units):
            if (row := compare_rules(seed, noisy, unit)) is None:
                continue
            rows.append(row)
            print(json.dumps(row), flush=True)
            known = {"commit": commit, "machine": f"{machine()}, one thread, shared"}
            known |= {"summary": summarise(rows), "scans": rows}
            given.out.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
