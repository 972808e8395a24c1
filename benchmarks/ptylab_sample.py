"""The sample that PtyLab simulates: the automatic run, mPIE from the automatic start, and PtyLab's mPIE.

    python -m benchmarks.ptylab_sample OUT.json FOLDER...

Each folder has a sample and PtyLab's result on it (`benchmarks/peers/ptylab.py`). Scores are correlations of
the complex object with the truth over the scanned field, after a shift, a constant and a ramp of the phase.
"""

import argparse
import json
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import phaseloom as pl
from benchmarks.score import correlate_objects

WINDOW = 128
MPIE: dict[str, Any] = {
    "optimizer": "mpie",
    "epochs": 120,
    "holdout": 0.0,
    "probe": {"from_patterns": {"modes": 1}},
}
MODELS: dict[str, dict[str, Any]] = {
    "automatic run": {},
    "mPIE": MPIE,
    "mPIE, coarse pixels first": MPIE | {"levels": 1},
}


def score(truth: np.ndarray, positions: np.ndarray, found: np.ndarray, offset: np.ndarray) -> float:
    """Correlation over the scanned field.

    Args:
        truth: the true object.
        positions: corner of the window of each pattern in it, pixels.
        found: another object.
        offset: of its pixels against those of the truth.
    """
    field = positions.min(0) + WINDOW // 2, positions.max(0) + WINDOW // 2
    return correlate_objects(found, offset, truth, field, most=12, size=512)


def reconstruct(file: Path, settings: dict[str, Any]) -> tuple[pl.Result, float]:
    """A run of ours and its CPU seconds."""
    began = time.process_time()
    job = pl.Job.begin(pl.Reconstruct.of({"file": str(file), "device": "cpu", **settings}))
    for _ in job:
        pass
    return job.result(), time.process_time() - began


def compare(folder: Path) -> dict[str, Any]:
    """All on one sample."""
    known = np.load(folder / "truth.npz")
    truth, positions = known["object"], known["positions"]
    row: dict[str, Any] = {}
    for name, settings in MODELS.items():
        result, seconds = reconstruct(folder / "simu.hdf5", settings)
        places = (result.positions - np.array(result.origin)) / np.array(result.pixel)
        offset = np.round((places - positions - WINDOW // 2).mean(0)).astype(int)
        found = np.prod(result.object, axis=0)
        row[name] = {
            "correlation": round(score(truth, positions, found, offset), 4),
            "loss": round(float(result.metrics["loss"]), 3),
            "verdict": result.verdict_code,
            "cpu_s": round(seconds, 1),
        }
        print(folder, name, row[name], flush=True)
    peer = np.load(folder / "ptylab.npz")
    offset = np.round((peer["positions"] - positions).mean(0)).astype(int)
    row["PtyLab"] = {
        "correlation": round(score(truth, positions, peer["object"], offset), 4),
        "cpu_s": round(float(peer["cpu_s"]), 1),
    }
    print(folder, "PtyLab", row["PtyLab"], flush=True)
    return row


def main() -> None:
    """Compare on each sample."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("folders", type=Path, nargs="+")
    given = parser.parse_args()
    torch.set_num_threads(1)
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    rows = [compare(folder) for folder in given.folders]
    found = {"commit": commit, "machine": f"{platform.machine()}, one thread, shared", "samples": rows}
    given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
