"""Runs that are spoiled on purpose, with the evidence that a verdict could use, scored by the truth.

    python -m benchmarks.spoiled_runs --folder SCANS --out benchmarks/results/spoiled-DATE.json

Each run is told everything (`benchmarks.faulty_runs.know_all`) but one thing, which is wrong: `SPOILS`. One
thread; CPU seconds of everything.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.faulty_runs import know_all
from benchmarks.faulty_scans import load_truth, score_image
from benchmarks.record import machine
from phaseloom.calibration.calibrate import is_calibration_due
from phaseloom.data import prepare
from phaseloom.data.scan import Scan4D
from phaseloom.reconstruction.evidence import compare_with_direct_image
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct

__all__ = ["SPOILS", "measure_spoiled_run"]

Spoiled = tuple[dict[str, Any], Scan4D]
"""Recipe and scan of a run."""


def _change_probe(recipe: dict, change: Callable[[dict], dict]) -> dict:
    probe = recipe["probe"]["focused"]
    return {**recipe, "probe": {"focused": {**probe, **change(probe)}}}


def _add_defocus(recipe: dict, scan: Scan4D, truth: dict, depths: float) -> Spoiled:
    angle = float(truth["semiangle"])
    more = depths * scan.geometry.wavelength / angle**2
    changed = _change_probe(recipe, lambda p: {"defocus": f"{float(p['defocus'].split()[0]) + more:.9g} A"})
    return changed, scan


def _negate_defocus(recipe: dict, scan: Scan4D, truth: dict) -> Spoiled:
    return _change_probe(recipe, lambda p: {"defocus": f"{-float(p['defocus'].split()[0]):.9g} A"}), scan


def _shuffle(recipe: dict, scan: Scan4D, truth: dict) -> Spoiled:
    order = np.random.default_rng(1).permutation(len(scan))
    return recipe, replace(scan, positions=scan.positions[order])


def _take_one_slice(recipe: dict, scan: Scan4D, truth: dict) -> Spoiled:
    thickness = float(truth["slices"]) * float(truth["spacing"])
    changed = _change_probe(recipe, lambda p: {"defocus": f"{float(truth['defocus']) + thickness / 2:.9g} A"})
    return {**changed, "object": {"pixels": {"kind": "phase", "slices": 1}}}, scan


SPOILS: dict[str, Callable[[dict, Scan4D, dict], Spoiled]] = {
    "nothing": lambda recipe, scan, truth: (recipe, scan),
    "defocus": lambda recipe, scan, truth: _add_defocus(recipe, scan, truth, 4.0),
    "sign of defocus": _negate_defocus,
    "transposition": lambda recipe, scan, truth: (recipe, prepare.transpose(scan)),
    "rotation": lambda recipe, scan, truth: (recipe, prepare.rotate(scan, angle=np.radians(20))),
    "step": lambda recipe, scan, truth: (recipe, prepare.scale(scan, factor=1.15)),
    "shuffled positions": _shuffle,
    "one mode": lambda recipe, scan, truth: (_change_probe(recipe, lambda p: {"modes": 1}), scan),
    "one slice": _take_one_slice,
}
"""What is wrong with a run, by name: recipe, scan and truth in, those of the run out."""


def measure_spoiled_run(path: Path, spoil: str, settings: dict) -> dict:
    """One run: how near it comes to the truth, its verdict, and what speaks for and against it."""
    truth = load_truth(path.with_name(f"{path.stem}-truth.npz"))
    recipe, scan = SPOILS[spoil](*know_all(path, truth), truth)
    began = time.process_time()
    job = Job.begin(Reconstruct.of({**recipe, **settings}), scan=scan)
    assert not is_calibration_due(job.recipe, job.scan)
    misfit = None
    for epoch in job:
        if epoch.holdout is not None:
            misfit = job.measure_held_out_misfit()
    result = job.ended or job.result()
    seconds = time.process_time() - began
    places = (result.positions - np.asarray(result.origin)) / np.asarray(result.pixel)
    image = score_image(np.angle(result.object).sum(0), truth, places=places)
    held = [e["holdout"] for e in job.progress.history if e["holdout"] is not None]
    row = {
        "case": path.stem,
        "spoilt": spoil,
        "electrons": float(truth["electrons"]),
        "correlation": 0.0 if spoil == "shuffled positions" else round(image["correlation"], 4),
        "verdict": result.verdict,
        "loss": job.progress.history[-1]["loss"],
        "held_out": held[-1] if held else None,
        "mean_pattern_loss": job.level.likelihood.mean_pattern_loss,
        "explained": None if misfit is None else misfit.explained,
        "explained_error": None if misfit is None else misfit.error,
        "cpu_s": round(seconds, 1),
    }
    return row | describe_direct_image(job)


def describe_direct_image(job: Job) -> dict:
    """What the linear model says of the geometry and image of a run."""
    image = job.first_image
    if image is None:
        return {}
    return {"direct": asdict(compare_with_direct_image(job.recipe, job.model, image))}


def main() -> None:
    """All spoils of the scans of a folder; the file is written after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--cases", nargs="*", help="stems of files; default: all")
    parser.add_argument("--spoils", nargs="*", choices=list(SPOILS), default=list(SPOILS))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    known = {"machine": machine(), "date": str(date.today()), "threads": 1, "epochs": asked.epochs}
    for path in sorted(asked.folder.glob("*.npy")):
        if asked.cases and path.stem not in asked.cases:
            continue
        for spoil in asked.spoils:
            row = measure_spoiled_run(path, spoil, {"epochs": asked.epochs})
            rows.append(row)
            asked.out.write_text(json.dumps({**known, "runs": rows}, indent=1) + "\n")
            print(row["case"], spoil, row["correlation"], row["verdict"][:60], row["cpu_s"], flush=True)


if __name__ == "__main__":
    main()
