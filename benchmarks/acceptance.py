"""Quality and time of whole runs: two real X-ray scans, and simulated electron scans with their truth.

    python benchmarks/acceptance.py [data_S.npz data_M.npz ...] [--out table.json]

The `.npz` files are those of an independent simulator with the keys meas, pos_px, obj_phase, dx, kv,
conv_angle, C10, dz (size S: one slice, one mode; size M: six slices, four modes).
"""

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np
import torch

from phaseloom import samples
from phaseloom.reconstruction.compare import compare_with_truth
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct

STAR = samples.far_field()


def run(tree):
    """A whole run: result, CPU seconds, epochs."""
    began = time.process_time()
    job = Job.begin(Reconstruct.of(tree))
    for epoch in job:
        print(epoch, flush=True)
    return job, job.result(), time.process_time() - began


def row(name, result, seconds, **more):
    """One line of the table."""
    last = result.history[-1]
    numbers = {k: round(float(v), 4) for k, v in result.metrics.items()}
    return {
        "run": name,
        "epochs": last["number"],
        "cpu_s": round(seconds, 1),
        "stopped": result.stopped,
        **numbers,
        **more,
    }


def star():
    """Far field, no probe and no defocus given."""
    job, result, seconds = run({"file": str(STAR), "read": {"cxi": {"probe": False}}, "epochs": 60})
    return row("siemens star", result, seconds, defocus_mm=round(job.start.defocus / 1e7, 3))


def near():
    """Near field, focus distance given."""
    tree = {"file": str(samples.near_field()), "read": {"cxi": {"focus": "3.65 mm"}}, "noise": "poisson"}
    _, result, seconds = run({**tree, "rates": {"background": 0.2}, "epochs": 100})
    return row("petra near field", result, seconds)


def simulated(path, epochs, wrong=30.0):
    """A simulated scan with its positions true and its probe known up to ``wrong`` angstrom of defocus."""
    data = np.load(path)
    slices, modes = len(data["obj_phase"]), len(data["probe"])
    thing = {"slices": slices, "kind": "phase"} | (
        {"thickness": f"{float(data['dz'])} A"} if slices > 1 else {}
    )
    optics = {"semiangle": f"{float(data['conv_angle'])} mrad", "defocus": f"{wrong - float(data['C10'])} A"}
    tree = {"file": str(path), "object": {"pixels": thing}, "probe": {"focused": {**optics, "modes": modes}}}
    _, result, seconds = run({**tree, "epochs": epochs})
    error = compare_with_truth(result, data["obj_phase"]).error
    return row(path.stem, result, seconds, nrmse=round(error.nrmse, 4), scaled=round(error.nrmse_scaled, 4))


def main():
    """All of it, as a table in JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scans", nargs="*", type=Path)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = [near(), star(), *(simulated(path, 15 if "M" in path.stem else 40) for path in given.scans)]
    made = {"machine": platform.machine(), "threads": 1, "torch": torch.__version__, "rows": rows}
    text = json.dumps(made, indent=1)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
