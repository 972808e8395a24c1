"""CPU seconds of whole commands on scan S, beside those of importing PyTorch alone, in one run.

    python -m benchmarks.command_line --out benchmarks/results/command-line-DATE.json
    python -m benchmarks.command_line --before ../other/src ...   # in turn with another version

Each command is run once to fill caches (bytecode, numba's kernels), then ``--rounds`` times on each object;
medians are reported. A machine with other work makes all of them dearer, PyTorch's import too: compare their
ratios, and versions that took turns.
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

OBJECT_SEEDS = (411, 412, 413)


def measure(words, folder, source=None):
    """CPU seconds of a process and its children, with the package of this version or of another folder."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    if source is not None:
        environment["PYTHONPATH"] = str(source.resolve())
    subprocess.run(words, cwd=folder, env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def write_files(folder, seed):
    """The scan of an object without its truth, and two parameter files for it."""
    case = dict(np.load(cases.written(folder, "S", object_seed=seed)))
    path = folder / "scan.npz"
    np.savez(path, **{name: value for name, value in case.items() if name not in ours.HIDDEN})
    tree = ours.tree(path, case, {"off": 0.0, "epochs": 20, "seed": 0})
    (folder / "told.yaml").write_text(yaml.safe_dump(tree))
    (folder / "auto.yaml").write_text(yaml.safe_dump(tree | {"start": "sweep"}))
    return path


def list_commands(path):
    """Words of each command by its name; the folder of a run is left open."""
    program = [sys.executable, "-m", "phaseloom"]
    return {
        "import torch": [sys.executable, "-c", "import torch"],
        "look": [*program, "look", str(path), "--set", "read.npz.positions=pos_nominal_px"],
        "reconstruct, told optics": [*program, "reconstruct", "told.yaml", "--out", "{}"],
        "reconstruct, start: sweep": [*program, "reconstruct", "auto.yaml", "--out", "{}"],
    }


def summarise(seconds):
    """Medians over objects and rounds, and over that of PyTorch's import."""
    medians = {name: round(float(np.median(each)), 2) for name, each in seconds.items()}
    ratios = {name: round(one / medians["import torch"], 2) for name, one in medians.items()}
    return {"CPU seconds": seconds, "medians": medians, "over import torch": ratios}


def main():
    """Time the commands."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=OBJECT_SEEDS)
    parser.add_argument("--before", type=Path, help="src folder of another version, which takes turns")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    versions = {"after": None} | ({} if asked.before is None else {"before": asked.before})
    seconds = {version: {name: [] for name in list_commands("")} for version in versions}
    with TemporaryDirectory() as place:
        for seed in asked.seeds:
            folder = Path(place, str(seed))
            folder.mkdir()
            commands = list_commands(write_files(folder, seed))
            for turn in range(asked.rounds + (seed == asked.seeds[0])):
                is_counted = turn or seed != asked.seeds[0]
                for name, words in commands.items():
                    for version, source in versions.items():
                        run = f"run-{version}-{list(commands).index(name)}-{turn}"
                        took = measure([word.format(run) for word in words], folder, source)
                        if is_counted:
                            seconds[version][name].append(round(took, 3))
                        print(f"{seed} {version:7} {name:32} {took:6.2f} CPU s", flush=True)
    found = summarise(seconds["after"])
    found |= {"before": summarise(seconds["before"])} if "before" in versions else {}
    found |= {
        "object seeds": list(asked.seeds),
        "load at the end": os.getloadavg(),
        "date": str(date.today()),
        "machine": machine(),
    }
    print(json.dumps(found["medians"]), json.dumps(found["over import torch"]))
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
