"""Wall seconds to an error on a GPU, from a flat start, with several batches, beside the processor.

    python -m benchmarks.gpu_race S M --batches 0 8 16 32 64      # 0: what a run chooses by itself
    python -m benchmarks.gpu_race S --device cpu --batches 0

Objects are drawn by `benchmarks.cases` from seeds that are given; the clock stands still while an image is
compared with the truth. A first run of each shape, which compiles, is not counted and its time is said.
`benchmarks.gpu_peers` runs other programs on the same objects.
"""

import argparse
import json
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch

from benchmarks import cases, ours, record
from benchmarks.gpu_peers import MARKS, summarize
from benchmarks.score import score
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct


def follow(name, path, chosen, batch, epochs):
    """Seconds and errors after each epoch, and seconds of the end."""
    case = record.Case.load(path)
    settings = {"off": cases.CASES[name].defocus_start, "epochs": epochs, "seed": 0}
    tree = ours.tree(path, case, settings) | {"device": chosen.device}
    tree |= {"batch": {"random": {"size": batch}}} if batch else {}
    tree |= {} if chosen.levels is None else {"levels": chosen.levels}
    wait = torch.cuda.synchronize if chosen.device == "cuda" else (lambda: None)
    began = time.perf_counter()
    job = Job.begin(Reconstruct.of(tree))
    wait()
    set_up = time.perf_counter() - began
    rows, spent, began = [], 0.0, time.perf_counter()
    for _ in job:
        wait()
        spent += time.perf_counter() - began
        phase, positions = ours.state(job, float(case["dx"]))
        found = score(phase, np.asarray(positions, float), case["obj_phase"], case["pos_px"])
        rows.append({"epoch": len(rows) + 1, "s": spent, **found})
        began = time.perf_counter()
    return {"set_up_s": set_up, "end_s": time.perf_counter() - began, "epochs": rows}


def main():
    """Race, print, keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="+", choices=sorted(MARKS))
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--batches", nargs="+", type=int, default=[0])
    parser.add_argument("--levels", type=int)
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--seeds", nargs="+", type=int, default=[801, 802, 803])
    parser.add_argument("--into", type=Path, help="folder that keeps the cases; default: a temporary one")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen.cases:
            into = chosen.into or folder
            paths = [cases.written(into, name, object_seed=seed, noise_seed=seed) for seed in chosen.seeds]
            for batch in chosen.batches:
                began = time.perf_counter()
                follow(name, paths[0], chosen, batch, 2)
                warm = time.perf_counter() - began
                runs = [follow(name, path, chosen, batch, chosen.epochs) for path in paths]
                row = {"case": name, "batch": batch, "levels": chosen.levels, "warm_up_s": warm}
                row |= {part: float(np.median([run[part] for run in runs])) for part in ("set_up_s", "end_s")}
                found.append(row | summarize(name, runs))
                print(json.dumps(record.rounded(found[-1])), flush=True)
    if chosen.out:
        card = torch.cuda.get_device_name() if chosen.device == "cuda" else ""
        about = {
            "machine": record.machine(),
            "card": card,
            "commit": record.commit(),
            "date": f"{date.today()}",
        }
        about |= {"seeds": chosen.seeds, "versions": record.versions("phaseloom", "torch", "numpy")}
        chosen.out.write_text(json.dumps(about | {"rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
