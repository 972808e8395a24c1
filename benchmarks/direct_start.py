"""Whether a run from the direct image begins better than one from no object is after three epochs.

    python -m benchmarks.direct_start --folder SCANS --seeds 9200 9201 9202 --out benchmarks/results/FILE.json

Scans with all faults of `benchmarks.faulty_scans`, told their semi-angle. Losses are of patterns held out.
"""

import argparse
import json
import time
from datetime import date
from pathlib import Path

import torch

from benchmarks.faulty_runs import begin_run
from benchmarks.faulty_scans import draw_case, load_truth, simulate_case, write_scan
from benchmarks.record import machine

__all__ = ["measure_start"]

EPOCHS = 3


def measure_start(path: Path) -> dict:
    """Losses with the direct image and with none before the first epoch, and of epochs from none."""
    truth = load_truth(path.with_name(f"{path.stem}-truth.npz"))
    row = {"case": path.stem, "electrons": float(truth["electrons"])}
    row["thickness"] = round(float(truth["slices"]) * float(truth["spacing"]), 1)
    job = begin_run(path, "optics", {"epochs": EPOCHS})
    row |= {name: round(value, 4) for name, value in job.recipe.found["direct"].items()}
    row["slices"] = job.model.object.transmission().shape[1]
    job.model.object.set_transmission(torch.ones_like(job.model.object.transmission()))
    job.progress.best = None
    began = time.process_time()
    row["epochs"] = [round(epoch.holdout or epoch.loss, 4) for epoch in job]
    row["cpu_s of epochs"] = round(time.process_time() - began, 1)
    row["better"] = row["predicted"] < row["epochs"][-1]
    return row


def main() -> None:
    """All scans; the file is written after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--folder", type=Path, required=True, help="where the scans lie, or are written")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for seed in asked.seeds:
        name = draw_case(seed).name
        path = asked.folder / f"{name}.npy"
        if not path.exists():
            write_scan(simulate_case(seed, "all"), asked.folder, name)
        rows.append(measure_start(path))
        print(json.dumps(rows[-1]), flush=True)
        if asked.out is not None:
            head = {"machine": machine(), "date": date.today().isoformat(), "threads": 1}
            asked.out.write_text(json.dumps({**head, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
