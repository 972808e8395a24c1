"""A live run against one on the finished scan: does it keep up, and does it end as well?

    python -m benchmarks.live --out benchmarks/results/live-DATE.json

The simulated detector (`benchmarks.detector`, numpy alone) sends 2000 patterns of 64 x 64, 50 a second, from
a process of its own. Both runs get the same probe guess; no start is searched. Written down are how far the
live run was behind, how long after the last frame its result was there, and loss, held-out loss and phase
error (rms against the truth over the scanned field, ramp and constant removed) of both.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.detector import simulate
from benchmarks.record import machine
from phaseloom.data import formats
from phaseloom.data.growing import open_growing
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct

ADDRESS = "tcp://127.0.0.1:{port}"
RECIPE = {"start": "none", "probe": {"from_patterns": {"defocus": "2.38 mm"}}}
BORDER = 40
"""Pixels of the object at each edge that are not compared."""


def measure_live(folder: Path, port: int, grid: tuple[int, int], rate: float, seed: int) -> dict[str, Any]:
    """A live run, and where its record is."""
    address = ADDRESS.format(port=port)
    command = [sys.executable, "-m", "benchmarks.detector", address, "--rate", str(rate), "--seed", str(seed)]
    command += ["--grid", *map(str, grid)]
    detector = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert detector.stdout is not None
    detector.stdout.readline()
    with open_growing(address, setup={"beam": "photon"}, silence=10.0) as growing:
        cpu = time.process_time()
        first = time.perf_counter()
        job = Job.follow(Reconstruct.of(RECIPE), growing, folder)
        begun = time.perf_counter() - first
        rows = []
        last = 0.0
        for epoch in job:
            if job.growth is None:
                continue
            found = job.progress.history[-1]["growth"]
            now = time.perf_counter() - first
            rows.append((now, found["patterns"], found["behind"], epoch.seconds))
            last = now
        done = time.perf_counter() - first
        cpu = time.process_time() - cpu
    detector.wait()
    behind = [row[2] for row in rows]
    lag = np.diff([row[0] for row in rows])
    return {
        "epochs while it grew": len(rows),
        "seconds until the first epoch": round(rows[0][0], 2),
        "seconds of the begin": round(begun, 2),
        "seconds while it grew": round(last, 2),
        "seconds from the last frame to the result": round(done - last, 2),
        "cpu seconds": round(cpu, 1),
        "patterns behind, mean after the first second": round(float(np.mean(behind[2:])), 1),
        "patterns behind, most after the first second": int(np.max(behind[2:])),
        "seconds between epochs, most": round(float(lag.max()), 2),
        "arrivals": {k: v for k, v in vars(growing.arrivals).items() if v},
        **describe(job),
        "run": job,
    }


def measure_offline(record: Path) -> dict[str, Any]:
    """The same recipe on the finished scan, as it was recorded."""
    cpu = time.process_time()
    job = Job.begin(Reconstruct.of(RECIPE), scan=formats.read(record))
    for _ in job:
        pass
    return {"cpu seconds": round(time.process_time() - cpu, 1), **describe(job), "run": job}


def describe(job: Job) -> dict[str, Any]:
    """Losses of the end of a run."""
    held = [event["holdout"] for event in job.progress.history if event["holdout"] is not None]
    return {"loss": job.progress.history[-1]["loss"], "held out": held[-1], "epochs": job.progress.epoch}


def measure_error(job: Job, truth: np.ndarray, *, window: int = 64, border: int = BORDER) -> float:
    """Root mean square of the phase's error in the scanned field, radian, as numpy alone finds it."""
    seen = job.model.object.transmission()[0, 0].detach().cpu().numpy()
    best = np.inf
    origin = np.array(job.model.object.canvas.origin) / np.array(job.model.object.canvas.pixel)
    # object pixel [0, 0] of the truth lies 4 pixels and half a window before the first position
    first = np.round(origin + 4 + window // 2).astype(int)
    inner = seen[border:-border, border:-border]
    rows, columns = inner.shape
    for dy in range(-3, 4):
        for dx in range(-3, 4):
            y, x = first + border + (dy, dx)
            best = min(best, _rms(inner * truth[y : y + rows, x : x + columns].conj()))
    return best


def _rms(ratio: np.ndarray) -> float:
    """Of the phase of a ratio without its constant and ramp, by neighbours and least squares."""
    y, x = np.indices(ratio.shape)
    for _ in range(3):
        step = np.angle([np.sum(ratio[1:] * ratio[:-1].conj()), np.sum(ratio[:, 1:] * ratio[:, :-1].conj())])
        ratio = ratio * np.exp(-1j * (step[0] * y + step[1] * x))
        ratio = ratio * np.exp(-1j * np.angle(ratio.sum()))
        table = np.stack([np.ones(ratio.size), y.ravel(), x.ravel()], 1)
        fit = np.linalg.lstsq(table, np.angle(ratio).ravel(), rcond=None)[0]
        ratio = ratio * np.exp(-1j * (table @ fit).reshape(ratio.shape))
    return float(np.sqrt(np.mean(np.angle(ratio) ** 2)))


def main() -> None:
    """Run both and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--grid", type=int, nargs=2, default=(40, 50))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--port", type=int, default=9917)
    given = parser.parse_args()
    torch.set_num_threads(1)
    grid = (given.grid[0], given.grid[1])
    truth = simulate(grid, seed=given.seed).object
    with tempfile.TemporaryDirectory() as place:
        live = measure_live(Path(place, "run"), given.port, grid, given.rate, given.seed)
        offline = measure_offline(Path(place, "run", "scan.h5"))
    for one in (live, offline):
        one["phase error"] = measure_error(one.pop("run"), truth)
    found = {"rate": given.rate, "grid": grid, "seed": given.seed, "live": live, "offline": offline}
    found["machine"] = machine()
    text = json.dumps(found, indent=1, default=str)
    print(text)
    if given.out is not None:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
