"""Whole reconstructions of the faulty scans of `benchmarks.faulty_scans`, scored by the truth.

    python -m benchmarks.faulty_runs --known optics --folder SCANS --out benchmarks/results/faulty-DATE.json

``--known`` says what a run is told: ``step``, energy, angle of a pixel and step alone; ``optics``, these and
the semi-angle; ``all``, everything: true geometry, aberrations, positions, descan, bad pixels, background,
thickness, and three modes. The first two run as a user's would, with all defaults. One
thread; CPU seconds of everything.
"""

import argparse
import json
import math
import subprocess
import time
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import torch

import phaseloom as pl
from benchmarks.faulty_scans import SETS, load_truth, score_geometry, score_image, write_scan
from benchmarks.record import machine
from benchmarks.testbed.draw import draw_case
from benchmarks.testbed.scan import simulate_case
from benchmarks.testbed.scoring import fit_affine
from phaseloom.data import prepare
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct

__all__ = ["begin_run", "measure_run"]

SLICE = 25.0
"""Thickness of a slice of runs that are told everything, at most, angstrom."""


def begin_run(path: Path, known: str, settings: dict) -> Job:
    """The run of a scan, told as much as ``known`` says, before its first epoch."""
    tree = {"file": str(path), **settings}
    truth = load_truth(path.with_name(f"{path.stem}-truth.npz"))
    if known == "all":
        told, scan = know_all(path, truth)
        return Job.begin(Reconstruct.of({**told, **settings}), scan=scan)
    if known == "optics":
        tree["probe"] = {"focused": {"semiangle": f"{1e3 * float(truth['semiangle']):.6g} mrad"}}
    return Job.begin(Reconstruct.of(tree))


def know_all(path: Path, truth: dict) -> tuple[dict, pl.Scan4D]:
    """Recipe and scan of a run that is told everything."""
    scan = pl.read(path)
    mask = np.ones(scan.geometry.shape, bool)
    for name in ("hot_pixels", "dead_pixels"):
        for row, column in np.asarray(truth[name], int).reshape(-1, 2):
            mask[row, column] = False
    shifts = np.asarray(truth["pattern_shifts"], float).reshape(-1, 2)
    dark = float(truth["background"]) * scan.mean_pattern()[mask].mean()
    scan = replace(scan, mask=mask, descan=shifts, background=np.full(mask.shape, dark))
    transposed, flip_rows, flip_columns = truth["orientation"]
    scan = prepare.flip(scan, axis="x") if flip_columns else scan
    scan = prepare.flip(scan, axis="y") if flip_rows else scan
    scan = prepare.transpose(scan) if transposed else scan
    scan = prepare.calibrate(scan, angle=float(truth["true_angle"]))
    scan = replace(scan, positions=np.asarray(truth["positions"], float).reshape(-1, 2))
    thickness = float(truth["slices"]) * float(truth["spacing"])
    count = max(1, math.ceil(thickness / SLICE)) if truth["specimen"] != "blobs" else 1
    names = ("C12", "phi12", "C21", "phi21", "C23", "phi23", "C30")
    optics = {name: f"{float(truth[name]):.9g} {'rad' if name[0] == 'p' else 'A'}" for name in names}
    defocus = float(truth["defocus"]) + (thickness / (2 * count) if count > 1 else thickness / 2)
    probe = {"semiangle": f"{float(truth['semiangle']):.9g} rad", "defocus": f"{defocus:.9g} A"}
    probe |= {"aberrations": optics, "modes": 3}
    thing = {"slices": count, "thickness": f"{thickness / count:.9g} A"} if count > 1 else {"slices": 1}
    return {
        "probe": {"focused": probe},
        "object": {"pixels": {"kind": "phase", **thing}},
        "start": "none",
    }, scan


def measure_run(path: Path, known: str, settings: dict) -> dict:
    """One run: how near its image and its geometry are to the truth, what it says, and what it costs."""
    truth = load_truth(path.with_name(f"{path.stem}-truth.npz"))
    began = time.process_time()
    job = begin_run(path, known, settings)
    ready = time.process_time() - began
    for _ in job:
        pass
    result = job.ended or job.result()
    seconds = time.process_time() - began
    phase = np.angle(result.object).sum(0)
    places = (result.positions - np.asarray(result.origin)) / np.asarray(result.pixel)
    image = score_image(phase, truth, places=places)
    row = {
        "case": path.stem,
        "known": known,
        "electrons": float(truth["electrons"]),
        "thickness": round(float(truth["slices"]) * float(truth["spacing"]), 1),
        "correlation": round(image["correlation"], 4),
        "fine": round(image["fine"], 4),
        "scaled": round(image["scaled"], 3),
        "factor": round(image["factor"], 3),
        "positions": round(image["positions"], 3),
        "verdict": result.verdict,
        "slices": len(result.object),
        "cpu_s": round(seconds, 1),
        "cpu_s_before_epochs": round(ready, 1),
    }
    lines = job.recipe.found.get("calibrate")
    if lines is not None:
        row["calibration"] = lines
        row |= score_positions(job, result, truth)
    return row


def score_positions(job: Job, result, truth: dict) -> dict:
    """Errors of the final geometry: the map from nominal to final positions, in the recorded frame."""
    shape = np.shape(truth["positions"])[:2]
    nominal = np.indices(shape).reshape(2, -1).T * float(truth["step"])
    ours, _ = fit_affine(nominal, np.asarray(result.positions, float))
    lay = np.eye(2)  # detector coordinates as recorded to those of the run
    for call in job.recipe.prepare:
        if call.name == "transpose":
            lay = np.array([[0.0, 1.0], [1.0, 0.0]]) @ lay
        if call.name == "flip":
            lay = np.diag([-1.0 if call.values["axis"] == axis else 1.0 for axis in "yx"]) @ lay
    score = score_geometry({"matrix": np.linalg.inv(lay) @ ours}, truth)
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in score.items() if v is not None}


def main() -> None:
    """All scans of a set; the file is written after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", choices=list(SETS), default="development")
    parser.add_argument("--seeds", type=int, nargs="*", help="instead of a whole set")
    parser.add_argument("--first", type=int, help="only so many of the set")
    parser.add_argument("--faults", default="all")
    parser.add_argument("--known", choices=("step", "optics", "all"), default="optics")
    parser.add_argument(
        "--set-value", nargs="*", default=[], metavar="NAME=VALUE", help="changes of the recipe"
    )
    parser.add_argument("--folder", type=Path, required=True, help="where the scans lie, or are written")
    parser.add_argument("--frozen", help="commit of the frozen code that held_back scans judge")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if asked.set == "held_back" and not asked.frozen:
        parser.error("held_back: freeze the code first, then give its commit by --frozen")
    torch.set_num_threads(1)
    settings = {name: json.loads(value) for name, value in (one.split("=", 1) for one in asked.set_value)}
    rows = []
    for seed in asked.seeds or list(SETS[asked.set])[: asked.first]:
        name = draw_case(seed).name
        path = asked.folder / f"{name}.npy"
        if not path.exists():
            write_scan(simulate_case(seed, asked.faults), asked.folder, name)
        rows.append(measure_run(path, asked.known, settings))
        print(json.dumps(rows[-1]), flush=True)
        if asked.out is not None:
            line = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
            commit = subprocess.run(line, capture_output=True, text=True, check=False).stdout.strip()
            head = {"machine": machine(), "date": date.today().isoformat(), "commit": commit, "threads": 1}
            head |= {"set": asked.set, "faults": asked.faults, "known": asked.known, "settings": settings}
            asked.out.write_text(json.dumps({**head, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
