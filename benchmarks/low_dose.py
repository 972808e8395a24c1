"""Whether positions of few electrons are refined for the better: 1e3 electrons in each pattern.

    python -m benchmarks.low_dose --seeds 9100 9102 9103 --out benchmarks/results/low-dose-DATE.json

Scans of `benchmarks.testbed` with all faults at ``--electrons``. A run knows all but jitter and drift of
positions: nominal ones are the true map of the raster. Two runs each, all defaults but positions free and
frozen; rms distance of positions from the truth after the best affine map, and correlation of the phase.
"""

import argparse
import json
from dataclasses import replace
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks.faulty_runs import know_all
from benchmarks.faulty_scans import load_truth, score_image, write_scan
from benchmarks.record import machine
from benchmarks.testbed.draw import draw_case
from benchmarks.testbed.scan import simulate_scan
from benchmarks.testbed.scoring import fit_affine
from phaseloom.data.scan import Scan4D
from phaseloom.reconstruction.protocol import run_in_memory
from phaseloom.reconstruction.recipe import Reconstruct

__all__ = ["measure_case"]

FROZEN = {"rates": {"positions": 0.0, "affine": 0.0, "rotation": 0.0, "scale": 0.0}}


def place_on_raster(scan: Scan4D, truth: dict) -> Scan4D:
    """The scan with positions on the raster nearest to the true ones."""
    nominal = np.indices(np.shape(truth["positions"])[:2]).reshape(2, -1).T.astype(float)
    matrix, offset = fit_affine(nominal, scan.positions)
    return replace(scan, positions=nominal @ np.asarray(matrix).T + offset)


def score_run(recipe: dict, scan: Scan4D, truth: dict) -> dict[str, float]:
    """Positions and phase of one run."""
    result = run_in_memory(Reconstruct.of(recipe), scan).result()
    places = (result.positions - np.asarray(result.origin)) / np.asarray(result.pixel)
    image = score_image(np.angle(result.object).sum(0), truth, places=places)
    return {"positions": round(image["positions"], 4), "correlation": round(image["correlation"], 4)}


def measure_case(seed: int, electrons: float) -> dict:
    """Nominal, refined and frozen positions of one scan."""
    case = replace(draw_case(seed), electrons=electrons)
    with TemporaryDirectory() as folder:
        path = write_scan(simulate_scan(case), Path(folder), case.name)
        truth = load_truth(path.with_name(f"{path.stem}-truth.npz"))
        recipe, scan = know_all(path, truth)
        scan = replace(scan, counts=np.array(scan.counts))
    scan = place_on_raster(scan, truth)
    frozen = score_run({**recipe, **FROZEN}, scan, truth)
    refined = score_run(recipe, scan, truth)
    return {
        "case": case.name,
        "electrons": electrons,
        "nominal": frozen["positions"],
        "refined": refined["positions"],
        "correlation_frozen": frozen["correlation"],
        "correlation_refined": refined["correlation"],
    }


def main() -> None:
    """All seeds; the file is written after each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--electrons", type=float, default=1e3)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    head = {"machine": machine(), "date": str(date.today()), "threads": 1}
    rows = []
    for seed in asked.seeds:
        rows.append(measure_case(seed, asked.electrons))
        print(json.dumps(rows[-1]), flush=True)
        if asked.out is not None:
            asked.out.write_text(json.dumps({**head, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
