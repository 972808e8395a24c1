"""Side by side with CDTools: the same script, through its package and through ours, and our own recipe.

    python -m benchmarks.cdtools run --scan star --rounds 3 --whole 2 --out DIRECTORY
    python -m benchmarks.cdtools table DIRECTORY

Scans: ``star``, the far field of a Siemens star, and ``petra``, a near field, both in this repository.
Every run is a process of its own with one thread. A round has one short run of every arm, in turn, for
the time; then come whole runs of 20 epochs of most arms. The loss after them is computed here, from the
patterns that a model gives and the counts in the file, the same for all.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
import warnings
from datetime import date
from pathlib import Path

import numpy as np

from benchmarks.record import one_thread, versions

ROOT = Path(__file__).parents[1]
ONE = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
EPOCHS, SHORT = 20, 3

QUICK = {"thread": False}
"""Without its thread for pictures, which takes CPU seconds of its own."""

SCANS = {
    "star": {
        "file": "src/phaseloom/samples/siemens_star_velociprobe.cxi",
        "model": {"n_modes": 2, "propagation_distance": 0.7e-3},
        "unit": "amplitude",
        "arms": {
            "its example's Adam: rate 0.02, batches of 10": {"adam": {"lr": 0.02, "batch_size": 10}},
            "the same, no thread, obj_padding 20": {
                "model": {"obj_padding": 20},
                "adam": {"lr": 0.02, "batch_size": 10, **QUICK},
                "whole": False,
            },
            "batches of 32, 10 at once, no thread, obj_padding 20": {
                "model": {"obj_padding": 20},
                "adam": {"lr": 0.02, "batch_size": 32, "calculation_width": 10, **QUICK},
                "whole": False,
            },
            "batches of 32, 32 at once, no thread, obj_padding 20": {
                "model": {"obj_padding": 20},
                "adam": {"lr": 0.02, "batch_size": 32, "calculation_width": 32, **QUICK},
            },
        },
        "recipe": {
            "read": {"cxi": {"probe": False}},
            "probe": {"from_patterns": {"modes": 2, "defocus": "-0.7 mm"}},
            "start": "none",
        },
    },
    "petra": {
        "file": "src/phaseloom/samples/petra_near_field.cxi",
        "model": {"near_field": True, "propagation_distance": 3.65e-3, "loss": "poisson nll"},
        "unit": "poisson",
        "arms": {
            "its example's Adam: rate 0.04, batches of 10": {"adam": {"lr": 0.04, "batch_size": 10}},
            "the same, no thread, obj_padding 20": {
                "model": {"obj_padding": 20},
                "adam": {"lr": 0.04, "batch_size": 10, **QUICK},
            },
        },
        "recipe": {
            "read": {"cxi": {"focus": "3.65 mm"}},
            "noise": "poisson",
            "rates": {"background": 0.2},
        },
    },
}
"""What is run: arguments of ``from_dataset``, of ``Adam_optimize``, and our recipe with its defaults."""


def counted(path):
    """Counts ``(n, y, x)`` and trusted pixels of a file, read by nobody's reader."""
    import h5py

    with h5py.File(path) as file:
        detector = file["entry_1/instrument_1/detector_1"]
        mask = detector["mask"][()]
        return np.clip(detector["data"][()], 0, None).astype(np.float64), (mask == 0) | (mask == 0x1000)


def left(unit, counts, mask, expected):
    """The loss in CDTools' own units, patterns in the order of the file.

    ``amplitude``: mean over trusted pixels of the squared difference of square roots. ``poisson``: the
    deviance over the number of trusted pixels with a count (1: nothing but shot noise is left).
    """
    total = lit = 0.0
    for pattern, one in zip(counts, expected, strict=True):
        n, m = pattern[mask], np.asarray(one, np.float64)[mask]
        if unit == "amplitude":
            total, lit = total + float(((np.sqrt(m) - np.sqrt(n)) ** 2).sum()), lit + n.size
        else:
            m = m + 1e-6
            each = m - n + np.where(n > 0, n * np.log(np.maximum(n, 1) / m), 0)
            total, lit = total + 2 * float(each.sum()), lit + float((n >= 1).sum())
    return total / lit


def scripted(package, scan, arm, epochs):
    """The script, and how the model's patterns come out of it."""
    import torch

    data = package.datasets.Ptycho2DDataset.from_cxi(str(ROOT / scan["file"]))
    model = package.models.FancyPtycho.from_dataset(data, **scan["model"], **arm.get("model", {}))
    losses = model.Adam_optimize(epochs, data, **arm["adam"])

    def patterns():
        for index in torch.arange(len(data)).split(16):
            with torch.no_grad():
                yield from model.forward(index, data.translations[index]).numpy()

    return losses, patterns


def recommended(scan, epochs):
    """Our recipe with its defaults, and its patterns."""
    import torch

    from phaseloom.reconstruction.protocol import Job
    from phaseloom.reconstruction.recipe import Reconstruct

    tree = {"file": str(ROOT / scan["file"]), "epochs": epochs, "device": "cpu", **scan["recipe"]}
    job = Job.begin(Reconstruct.of(tree))

    def patterns():
        for index in torch.arange(len(job.finest.scan)).split(16):
            with torch.no_grad():
                yield from job.model.detector.display(job.model(index)).numpy()

    return (epoch.loss for epoch in job), patterns


def begun(program, scan, arm, epochs):
    """Losses as they come, and patterns, of a program."""
    if program == "ours, recipe":
        return recommended(scan, epochs)
    if program == "cdtools":
        import cdtools as package
    else:
        from phaseloom.compat import cdtools as package
    return scripted(package, scan, arm, epochs)


def one(given):
    """The record of one run, in this process."""
    import torch

    warnings.filterwarnings("ignore")
    one_thread()
    torch.manual_seed(given["seed"])
    scan = SCANS[given["scan"]]
    losses, patterns = begun(given["program"], scan, scan["arms"].get(given["arm"], {}), given["epochs"])
    set_up, own, lasted, began = time.process_time(), [], [], time.process_time()
    for loss in losses:
        lasted.append(time.process_time() - began)
        own.append(float(loss))
        began = time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    record = {**given, "set_up_s": set_up, "cpu_s": lasted, "own_loss": own, "peak_mb": round(peak)}
    if given["epochs"] == EPOCHS:
        record["loss"] = left(scan["unit"], *counted(ROOT / scan["file"]), patterns())
    return record


def apart(given):
    """The record of one run in a process of its own."""
    call = [sys.executable, "-m", "benchmarks.cdtools", "one", json.dumps(given)]
    environment = os.environ | ONE | {"MPLBACKEND": "Agg"}
    done = subprocess.run(call, check=False, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    record = json.loads(done.stdout.splitlines()[-1])
    name, arm, seconds = given["program"], given["arm"], per_epoch(record)
    print(f"{name} | {arm} | {seconds:.3f} s per epoch | {record.get('loss', '')}", flush=True)
    return record


def run(scan, rounds, whole, folder):
    """All arms in turn, again and again; what is done so far is written after every round."""
    arms = [(program, arm) for arm in SCANS[scan]["arms"] for program in ("cdtools", "ours")]
    arms.append(("ours, recipe", "defaults"))
    made = about(scan) | {"runs": []}
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(rounds + whole):
        epochs, seed = (SHORT, number) if number < rounds else (EPOCHS, number - rounds)
        for program, arm in arms:
            if epochs == SHORT or SCANS[scan]["arms"].get(arm, {}).get("whole", True):
                asked = {"scan": scan, "program": program, "arm": arm, "epochs": epochs, "seed": seed}
                made["runs"].append(apart(asked))
        (folder / f"{scan}.json").write_text(json.dumps(made, indent=1) + "\n")
        write_table(folder)


def about(scan):
    """When, where and of what."""
    asked = ["git", "rev-parse", "--short", "HEAD"]
    return {
        "scan": scan,
        "commit": subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip(),
        "date": f"{date.today()}",
        "command": "python -m benchmarks.cdtools " + " ".join(sys.argv[1:]),
        "machine": f"{os.cpu_count()} shared cores ({platform.machine()}), one thread",
        "versions": versions("cdtools-py", "phaseloom", "torch", "numpy", "numba"),
        "settings": SCANS[scan],
    }


def per_epoch(record):
    """Median CPU seconds, without the first epoch."""
    return statistics.median(record["cpu_s"][1:])


def spread(values, digits=3):
    """Median and range."""
    if not values:
        return "-"
    low, mid, high = (f"{v:.{digits}g}" for v in (min(values), statistics.median(values), max(values)))
    return mid if low == high else f"{mid} ({low} to {high})"


def row(made, program, arm):
    """One line of the table."""
    runs = [r for r in made["runs"] if (r["program"], r["arm"]) == (program, arm)]
    short, whole = ([r for r in runs if (r["epochs"] == EPOCHS) is long] for long in (False, True))
    peers = [r for r in made["runs"] if r["program"] == "cdtools" and r["epochs"] != EPOCHS]
    theirs = {a: [per_epoch(r) for r in peers if r["arm"] == a] for a in made["settings"]["arms"]}
    mine = statistics.median(per_epoch(r) for r in short)
    same = f"{mine / statistics.median(theirs[arm]):.2f}" if arm in theirs else "-"
    best = mine / min(statistics.median(values) for values in theirs.values())
    cells = [
        *(program, arm, spread([per_epoch(r) for r in short]), same, f"{best:.2f}"),
        spread([r["cpu_s"][0] for r in short]),
        spread([r["set_up_s"] for r in short]),
        spread([r["set_up_s"] + sum(r["cpu_s"]) for r in whole]),
        spread([r["loss"] for r in whole], 4),
        "-" if program == "ours, recipe" else spread([r["own_loss"][-1] for r in whole], 4),
        spread([r["peak_mb"] for r in whole], 4),
    ]
    return "| " + " | ".join(cells) + " |"


HEAD = (
    *("program", "settings", "CPU s per epoch", "of CDTools', same settings", "of CDTools' quickest"),
    *("first epoch, CPU s", "before it, CPU s", f"all with {EPOCHS} epochs, CPU s"),
    *(f"loss after {EPOCHS} epochs", "loss as reported", "peak MB"),
)
UNITS = {
    "amplitude": "squared difference of square roots per trusted pixel",
    "poisson": "Poisson deviance per trusted pixel with a count; 1 is shot noise",
}


def write_table(folder):
    """All scans of a folder as markdown."""
    text = ["# Side by side with CDTools", ""]
    for path in sorted(folder.glob("*.json"), reverse=True):
        made = json.loads(path.read_text())
        named = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
        text += [f"## {path.stem}", ""]
        text += [f"{made['date']}; commit {made['commit']}; {made['machine']}; {named}.", ""]
        text += [f"Loss: {UNITS[made['settings']['unit']]}. `{made['command']}`", ""]
        text += ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
        arms = dict.fromkeys((r["program"], r["arm"]) for r in made["runs"])
        text += [*(row(made, *arm) for arm in arms), ""]
    (folder / "table.md").write_text("\n".join(text))


def main():
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tasks = parser.add_subparsers(dest="task", required=True)
    tasks.add_parser("one", help="one run, as JSON").add_argument("given", type=json.loads)
    tasks.add_parser("table", help="write the table anew").add_argument("folder", type=Path)
    runs = tasks.add_parser("run", help="all runs of a scan, and the table")
    runs.add_argument("--scan", choices=list(SCANS), default="star")
    runs.add_argument("--rounds", type=int, default=3)
    runs.add_argument("--whole", type=int, default=2)
    runs.add_argument("--out", type=Path, default=Path("benchmarks/results") / f"cdtools-{date.today()}")
    given = parser.parse_args()
    if given.task == "one":
        print(json.dumps(one(given.given)))
    elif given.task == "table":
        write_table(given.folder)
    else:
        run(given.scan, given.rounds, given.whole, given.out)


if __name__ == "__main__":
    main()
