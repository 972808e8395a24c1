"""Wall seconds of other programs to an error on a GPU, from a flat start: the race of `benchmarks.gpu_race`.

    python -m benchmarks.gpu_peers ptyrad "ptychi lsqml" --cases S M --out peers.json
    python -m benchmarks.gpu_peers ptyrad --cases XS --device cpu --quick      # does the script run?

Each program begins with the settings that the sweeps on processors froze (``frozen.json``; where a case has
none, those of S). On the tuning object (object 0, noise 0) batches are tried with these rates times factors,
until the last mark is reached. The batch and factor that come to the lowest mark, and soonest, run on objects
of the seeds that are given; PtyRAD with its ``torch.compile`` too. Epochs grow with the root of the batch.

The clock stands still while an image is compared with the truth. Epochs of each shape are run and thrown away
before (``warm_up_s``), and set-up is said apart. What the first epoch of a program that compiles in
every run takes longer than the others is not counted (``compile_s``). Every environment of
``peers/install.py`` that has PyTorch, or JAX for phaser, will do; nothing of ours is imported.
"""

import argparse
import copy
import importlib
import itertools
import json
import logging
import os
import tempfile
import time
import warnings
from datetime import date
from pathlib import Path

import numpy as np

from benchmarks import cases, record
from benchmarks.contest import PROGRAMS, RACES
from benchmarks.score import score

MARKS = {"S": (0.10, 0.06), "M": (0.30, 0.15, 0.10), "thick": (0.06, 0.05)}
"""Errors of the phase that are waited for, of the contrast; of ``thick`` radian."""
FROZEN = Path(__file__).with_name("frozen.json")
GRID = [(batch, factor) for batch in (64, 256, 16) for factor in (1.0, 2.0, 4.0)]
COMPILING = ("phaser adam", "phaser lsqml")
PACKAGES = ("ptyrad", "ptychi", "phaserEM", "cdtools-py", "torch", "torchvision", "jax", "numpy")


class WallClock:
    """Clock and notebook of a run, as `benchmarks.record.Watch`, but in seconds of the wall.

    A run ends after its ``epochs`` or ``limit`` seconds, or, if there is a ``target``, with that error.
    """

    def __init__(self, case, wait, *, epochs, limit, target=0.0, key="error"):
        self.case, self.wait, self.key = case, wait, key
        self.epochs, self.limit, self.target = epochs, limit, target
        self.born = self.began = time.perf_counter()
        self.set_up, self.done, self.lasted, self.rows = 0.0, 0, [], []

    def begin(self):
        """Start the clock."""
        self.wait()
        self.began = time.perf_counter()
        if not self.done:
            self.set_up = self.began - self.born

    def __call__(self, state):
        """An epoch is over."""
        self.wait()
        self.lasted.append(time.perf_counter() - self.began)
        self.done += 1
        phase, positions = state()
        found = score(phase, np.asarray(positions, float), self.case["obj_phase"], self.case["pos_px"])
        self.rows.append({"epoch": self.done, "s": sum(self.lasted), **found})
        late = sum(self.lasted[1:]) >= self.limit  # the first epoch may compile
        if late or self.done >= self.epochs or found[self.key] <= self.target:
            raise record.Enough
        self.begin()

    def without_compiling(self):
        """Take off what the first epoch took longer than the others do; returns these seconds."""
        if len(self.lasted) < 3:
            return 0.0
        excess = max(0.0, self.lasted[0] - float(np.median(self.lasted[1:])))
        for row in self.rows:
            row["s"] -= excess
        return excess


def waiter(program, device):
    """What waits until a device has done what it was given; phaser's epochs wait by themselves."""
    if device == "cpu" or program.startswith("phaser"):
        return lambda: None
    import torch

    return torch.cuda.synchronize


def follow(program, path, settings, **limits):
    """Seconds and errors after each epoch of one run, seconds of set-up and of compiling."""
    case = record.Case.load(path)
    module = importlib.import_module(f"benchmarks.peers.{PROGRAMS[program]['environment']}")
    clock, ended = WallClock(case, waiter(program, settings["device"]), **limits), ""
    try:
        module.reconstruct(case, settings, clock)
    except record.Enough:
        pass
    except Exception as problem:  # one program that fails does not end the race
        ended = f"{type(problem).__name__}: {problem}"[:300]
    compiles = settings["compiled"] or program in COMPILING
    lost = clock.without_compiling() if compiles else 0.0
    return {"set_up_s": clock.set_up, "compile_s": lost, "ended": ended, "epochs": clock.rows}


def measure(name):
    """Which error a case is judged by."""
    return "rmse" if name == "thick" else "error"


def lowest(name, run):
    """Lowest error of a run, infinite without any."""
    values = [row[measure(name)] for row in run["epochs"]]
    return min((value for value in values if np.isfinite(value)), default=float("inf"))


def seconds(name, run, mark):
    """Seconds to an error, or None."""
    return next((row["s"] for row in run["epochs"] if row[measure(name)] <= mark), None)


def rank(name, run):
    """What the sweep minimises: marks not reached, then seconds to the last that is, or the lowest error."""
    for missed, mark in enumerate(reversed(MARKS[name])):
        passed = seconds(name, run, mark)
        if passed is not None:
            return missed, passed
    return len(MARKS[name]), lowest(name, run)


def summarize(name, runs):
    """Medians of seconds to each mark, and of the best error."""
    best = float(np.median([lowest(name, run) for run in runs]))
    out = {"best": best if np.isfinite(best) else None}
    steps = [np.diff([row["s"] for row in run["epochs"]]) for run in runs]
    steps = [np.median(step) for step in steps if len(step)]
    out["epoch_s"] = float(np.median(steps)) if steps else None
    for mark in MARKS[name]:
        first = [seconds(name, run, mark) for run in runs]
        out[f"to {mark}"] = None if None in first else float(np.median(first))
    return out


def start(program, name):
    """Settings that the sweep on a processor froze for a case, or for S."""
    frozen = json.loads(FROZEN.read_text())
    return copy.deepcopy(frozen.get(name, {}).get(program) or frozen["S"][program])


def settings_of(program, name, chosen, batch, factor=1.0, *, compiled=False):
    """Settings of a run at a batch, its rates times a factor."""
    base = start(program, name)
    rates = {part: rate * factor for part, rate in base["rates"].items()}
    race, steps = RACES[name], 1 if chosen.quick else np.sqrt(max(1, batch / 16))
    epochs = 3 if chosen.quick else round(race["epochs"] * steps)
    known = {"off": race["off"], "seed": 0, "device": chosen.device, "compiled": compiled}
    return base | {"rates": rates, "batch": batch, "epochs": epochs} | known


def sweep(program, name, chosen, path):
    """Runs on the tuning object: rank, and the row of what a batch and a factor came to."""
    warm = set()
    for batch, factor in chosen.tries:
        settings = settings_of(program, name, chosen, batch, factor)
        if batch not in warm and program not in COMPILING:
            follow(program, path, settings, epochs=1, limit=60)
            warm.add(batch)
        limits = {"epochs": settings["epochs"], "limit": chosen.limit, "key": measure(name)}
        run = follow(program, path, settings, target=MARKS[name][-1], **limits)
        row = {"case": name, "program": program, "batch": batch, "factor": factor}
        row |= {"ended": run["ended"], "epochs": len(run["epochs"]), **summarize(name, [run])}
        print(json.dumps(record.rounded(row)), flush=True)
        yield rank(name, run), row


def race(program, name, chosen, paths, row, *, compiled):
    """The chosen setting of a sweep on objects that it has not seen."""
    settings = settings_of(program, name, chosen, row["batch"], row["factor"], compiled=compiled)
    began = time.perf_counter()
    if program not in COMPILING:
        follow(program, paths[0], settings, epochs=2, limit=300)
    warm = time.perf_counter() - began
    limits = {"epochs": settings["epochs"], "limit": chosen.limit, "key": measure(name)}
    runs = [follow(program, path, settings, **limits) for path in paths]
    told = {"case": name, "program": f"{program} compiled" if compiled else program}
    told |= {"batch": row["batch"], "factor": row["factor"], "rates": settings["rates"], "warm_up_s": warm}
    told |= {part: float(np.median([run[part] for run in runs])) for part in ("set_up_s", "compile_s")}
    told |= summarize(name, runs) | {"ended": [run["ended"] for run in runs]}
    told["each"] = [{"epochs": len(run["epochs"]), **summarize(name, [run])} for run in runs]
    print(json.dumps(record.rounded(told)), flush=True)
    return told


def raced(chosen, folder):
    """Rows of the sweep and of the race one by one; compiled ones last, for they may take long."""
    later = []
    for program, name in itertools.product(chosen.programs, chosen.cases):
        swept = []
        for ranked, row in sweep(program, name, chosen, cases.written(folder, name)):
            swept.append((ranked, row))
            yield "sweep", row
        best = min(swept, key=lambda one: one[0])[1]
        if chosen.sweep:
            continue
        paths = [cases.written(folder, name, object_seed=seed, noise_seed=seed) for seed in chosen.seeds]
        yield "rows", race(program, name, chosen, paths, best, compiled=False)
        if program == "ptyrad" and not chosen.plain:
            later.append((program, name, chosen, paths, best))
    for given in later:
        yield "rows", race(*given, compiled=True)


def card(device):
    """Name of the GPU."""
    asks = ("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    return "" if device == "cpu" else record.answer(*asks)


def pair(text):
    """Batch and factor."""
    batch, factor = text.split(":")
    return int(batch), float(factor)


def asked():
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("programs", nargs="+", choices=list(PROGRAMS))
    parser.add_argument("--cases", nargs="+", choices=sorted(MARKS), default=["S", "M"])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tries", nargs="+", type=pair, default=GRID, metavar="BATCH:FACTOR")
    parser.add_argument("--sweep", action="store_true", help="no race, the sweep only")
    parser.add_argument("--seeds", nargs="+", type=int, default=[811, 812, 813])
    parser.add_argument("--limit", type=float, default=15.0, help="seconds of one run")
    parser.add_argument("--plain", action="store_true", help="PtyRAD without its compiler only")
    parser.add_argument("--quick", action="store_true", help="three epochs a run")
    parser.add_argument("--into", type=Path, help="folder that keeps the cases; default: a temporary one")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main():
    """Sweep, race, print; write down what is known after each row."""
    chosen = asked()
    logging.disable(logging.WARNING)
    os.environ |= {"TQDM_DISABLE": "1", "MPLBACKEND": "Agg", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    warnings.simplefilter("ignore")
    record.stand_in(Path(__file__).with_name("peers") / "stubs")
    about = {"machine": record.machine(), "card": card(chosen.device), "commit": record.commit()}
    about |= {"date": f"{date.today()}", "seeds": chosen.seeds, "versions": record.versions(*PACKAGES)}
    found = about | {"rows": [], "sweep": []}
    with tempfile.TemporaryDirectory() as folder:
        for part, row in raced(chosen, chosen.into or folder):
            found[part].append(record.rounded(row))
            if chosen.out:
                chosen.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
