"""CPU seconds of whole commands on scan S, beside those of importing PyTorch alone, in one run.

    python -m benchmarks.command_line --out benchmarks/results/command-line-DATE.json

Each command is run once to fill caches (bytecode, numba's kernels), then ``--rounds`` times; medians are
reported. A machine with other work makes all of them dearer, PyTorch's import too: compare their ratios.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import yaml

from benchmarks import cases, ours
from benchmarks.record import machine

OBJECT_SEED = 411


def measure(words, folder):
    """CPU seconds of a process and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    subprocess.run(words, cwd=folder, env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def write_files(folder):
    """The scan without its truth, and two parameter files for it."""
    case = dict(np.load(cases.written(folder, "S", object_seed=OBJECT_SEED)))
    path = folder / "scan.npz"
    np.savez(path, **{name: value for name, value in case.items() if name not in ours.HIDDEN})
    tree = ours.tree(path, case, {"off": 0.0, "epochs": 20, "seed": 0})
    (folder / "told.yaml").write_text(yaml.safe_dump(tree))
    (folder / "auto.yaml").write_text(yaml.safe_dump(tree | {"start": "sweep"}))
    return path


def main():
    """Time the commands."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    program = [sys.executable, "-m", "phaseloom"]
    with TemporaryDirectory() as place:
        folder = Path(place)
        path = write_files(folder)
        commands = {
            "import torch": [sys.executable, "-c", "import torch"],
            "look": [*program, "look", str(path), "--set", "read.npz.positions=pos_nominal_px"],
            "reconstruct, told optics": [*program, "reconstruct", "told.yaml", "--out", "{}"],
            "reconstruct, start: sweep": [*program, "reconstruct", "auto.yaml", "--out", "{}"],
        }
        seconds = {name: [] for name in commands}
        for turn in range(asked.rounds + 1):
            for number, (name, words) in enumerate(commands.items()):
                took = measure([word.format(f"run-{number}-{turn}") for word in words], folder)
                if turn:
                    seconds[name].append(round(took, 3))
                print(f"{name:32} {took:6.2f} CPU s", flush=True)
    medians = {name: round(float(np.median(each)), 2) for name, each in seconds.items()}
    found = {
        "CPU seconds": seconds,
        "medians": medians,
        "over import torch": {name: round(one / medians["import torch"], 2) for name, one in medians.items()},
        "load at the end": os.getloadavg(),
        "date": str(date.today()),
        "machine": machine(),
    }
    print(json.dumps(found["medians"]), json.dumps(found["over import torch"]))
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
