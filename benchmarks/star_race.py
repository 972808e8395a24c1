"""CPU seconds until the Siemens star's loss is 0.242, and where runs end: CDTools by its example, and ours.

    python -m benchmarks.star_race --rounds 3 --out FILE

CDTools is told the distance and has both stages of its own example (10 epochs at a rate of 0.02 in batches of
10, then 10 at 0.005 in batches of 50). Ours is told it, or finds its start by itself; the last arm has what
`phaseloom improve` proposes for this scan. Every run is a process of its own with one thread. The clock has
the building of the model and the epochs, not the imports and not the loss, which is worked out here after
every epoch from the patterns that a model gives, as in `benchmarks.cdtools`.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path

from benchmarks.cdtools import ONE, ROOT, SCANS, about, counted, left
from benchmarks.record import machine, one_thread, versions

STAR = SCANS["star"]
MARK = 0.242
OURS = {"file": str(ROOT / STAR["file"]), "device": "cpu", "read": {"cxi": {"probe": False}}}
TOLD = {"probe": {"from_patterns": {"modes": 2, "defocus": "-0.7 mm"}}, "start": "none"}
MORE = {"probe": {"from_patterns": {"modes": 6}}, "rates": {"background": 0.2, "weights": 0.2}}
ARMS = {
    "cdtools, both stages of its example": {"stages": [(10, 0.02, 10), (10, 0.005, 50)]},
    "ours, told the distance": {"tree": TOLD, "epochs": 20},
    "ours, automatic start": {"tree": {}, "epochs": 20},
    "ours, automatic start, six modes, background, intensities": {"tree": MORE, "epochs": 20},
}


def begin_cdtools(arm):
    """An iterator over epochs, and the patterns of the model."""
    import cdtools
    import torch

    data = cdtools.datasets.Ptycho2DDataset.from_cxi(OURS["file"])
    model = cdtools.models.FancyPtycho.from_dataset(data, **STAR["model"])
    stages = (
        model.Adam_optimize(epochs, data, lr=rate, batch_size=size) for epochs, rate, size in arm["stages"]
    )

    def patterns():
        for index in torch.arange(len(data)).split(16):
            with torch.no_grad():
                yield from model.forward(index, data.translations[index]).numpy()

    return itertools.chain.from_iterable(stages), patterns


def begin_ours(arm):
    """The same of a recipe."""
    import torch

    from phaseloom.reconstruction.protocol import Job
    from phaseloom.reconstruction.recipe import Reconstruct

    job = Job.begin(Reconstruct.of({**OURS, "epochs": arm["epochs"], **arm["tree"]}))

    def patterns():
        for index in torch.arange(len(job.finest.scan)).split(16):
            with torch.no_grad():
                yield from job.model.detector.display(job.model(index)).numpy()

    return iter(job), patterns


def run_one(name):
    """CPU seconds and losses of one arm, epoch by epoch."""
    warnings.filterwarnings("ignore")
    one_thread()
    begin = begin_cdtools if name.startswith("cdtools") else begin_ours
    if begin is begin_cdtools:
        import cdtools  # noqa: F401 (imports are not in the clock)
    else:
        import phaseloom.reconstruction.protocol  # noqa: F401
    data = counted(ROOT / STAR["file"])
    started = time.process_time()
    epochs, patterns = begin(ARMS[name])
    spent = time.process_time() - started
    rows = [{"epoch": 0, "cpu_s": spent}]
    while True:
        started = time.process_time()
        try:
            next(epochs)
        except StopIteration:
            break
        spent += time.process_time() - started
        loss = left(STAR["unit"], *data, patterns())
        rows.append({"epoch": len(rows), "cpu_s": round(spent, 3), "loss": round(loss, 5)})
    return {"arm": name, "epochs": rows}


def summarise(runs):
    """Of each arm: medians of the seconds to the mark, of the last loss and of all seconds."""
    found = {}
    for name in ARMS:
        mine = [one["epochs"] for one in runs if one["arm"] == name]
        marks = [
            next((row["cpu_s"] for row in rows[1:] if row["loss"] <= MARK), float("inf")) for rows in mine
        ]
        found[name] = {
            f"to {MARK}": statistics.median(marks),
            "cpu_s": statistics.median(rows[-1]["cpu_s"] for rows in mine),
            "set_up_s": statistics.median(rows[0]["cpu_s"] for rows in mine),
            "last": statistics.median(rows[-1]["loss"] for rows in mine),
        }
    return found


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--one", choices=list(ARMS), help="one run, as JSON")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--environment", type=Path, default=ROOT / ".bench" / "cdtools", help="of CDTools")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(run_one(given.one)))
        return
    runs = []
    for _ in range(given.rounds):
        for name in ARMS:
            python = given.environment / "bin" / "python" if name.startswith("cdtools") else sys.executable
            call = [str(python), "-m", "benchmarks.star_race", "--one", name]
            environment = os.environ | ONE | {"MPLBACKEND": "Agg"}
            done = subprocess.run(
                call, check=False, cwd=ROOT, env=environment, capture_output=True, text=True
            )
            if done.returncode:
                raise SystemExit(done.stderr)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
            print(name, runs[-1]["epochs"][-1], flush=True)
        made = {
            **{name: about("star")[name] for name in ("date", "commit")},
            **{"machine": machine(), "versions": versions("phaseloom", "torch", "numpy")},
            **{"medians": summarise(runs), "runs": runs},
        }
        if given.out:
            given.out.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(made["medians"], indent=1))


if __name__ == "__main__":
    main()
