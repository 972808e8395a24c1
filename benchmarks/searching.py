"""How many trials of a search are done in an hour, by the number of processes that share a device.

    python -m benchmarks.searching                                  # case S, 24 trials, 1, 2 and 4 processes
    python -m benchmarks.searching --name XS --trials 6 --epochs 3 --workers 1 2 --device cpu   # does it run?

Trials are whole (no pruning): defocus and the object's rate, drawn at random. ``busy`` is the share of the
time in which the card worked on something, as its driver says once a second (``pip install nvidia-ml-py``);
``None`` on processors, or without that package.
"""

import argparse
import json
import tempfile
import threading
import time
from contextlib import suppress
from datetime import date
from pathlib import Path
from statistics import mean

import torch

from benchmarks import cases
from benchmarks.calibrate import commit
from benchmarks.record import machine
from phaseloom.data.formats import native
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.search import report as found
from phaseloom.search.recipe import Plan, Search
from phaseloom.search.runner import Searching


class Busy:
    """How busy the card is while something else is done."""

    def __init__(self, device: str):
        self.seen, self.ended = [], threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True) if device == "cuda" else None

    def _look(self):
        with suppress(ModuleNotFoundError):
            while not self.ended.wait(1.0):
                self.seen.append(torch.cuda.utilization() / 100)

    def __enter__(self):
        if self.thread:
            self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()

    def share(self):
        """Mean, or ``None``."""
        return mean(self.seen) if self.seen else None


def run(name: str, folder: Path, epochs: int, device: str) -> Reconstruct:
    """The recipe of a case, its scan in a file."""
    case = cases.CASES[name]
    data = cases.made(case)
    angle = float(data["wavelength"]) / (case.pixels * case.dx)
    shape = (case.pixels, case.pixels)
    geometry = Geometry(
        wavelength=float(data["wavelength"]), shape=shape, angle=(angle, angle), beam="electron"
    )
    places = data["pos_nominal_px"] * case.dx
    native.write(Scan4D(counts=data["meas"], positions=places, geometry=geometry), folder / "scan.h5")
    probe = {"focused": {"semiangle": f"{case.semiangle} mrad", "defocus": f"{-case.C10} A"}}
    tree = {"file": str(folder / "scan.h5"), "probe": probe, "start": "none", "holdout": 0.1}
    return Reconstruct.of(tree | {"epochs": epochs, "device": device})


def measured(base: Reconstruct, folder: Path, trials: int, workers: int, device: str) -> dict:
    """One search."""
    middle = base.probe.values["defocus"]
    ends = {"low": f"{middle - 50} A", "high": f"{middle + 50} A"}
    over = {"probe.focused.defocus": ends, "rates.object": {"low": 0.05, "high": 0.4, "log": True}}
    how = {"over": over, "trials": trials, "workers": workers, "sampler": "random", "pruner": "none"}
    plan = Plan.begin(base, Search.of(how), folder)
    began = time.perf_counter()
    with Busy(device) as busy:
        done = sum(one.state == "done" for one in Searching(plan))
    seconds = time.perf_counter() - began
    row = {"workers": workers, "done": done, "seconds": round(seconds, 1)}
    best = found.find_best_trial(plan)
    return row | {
        "per_hour": round(3600 * done / seconds, 1),
        "busy": busy.share(),
        "best": best and best.value,
    }


def main() -> None:
    """Search with each number of processes, print and write down."""
    told = argparse.ArgumentParser(description=__doc__)
    told.add_argument("--name", default="S", choices=[*cases.CASES])
    told.add_argument("--trials", type=int, default=24)
    told.add_argument("--epochs", type=int, default=20)
    told.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    told.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    told.add_argument("--out", type=Path)
    asked = told.parse_args()
    with tempfile.TemporaryDirectory() as short:
        base = run(asked.name, Path(short), asked.epochs, asked.device)
        rows = []
        for workers in asked.workers:
            folder = Path(short) / f"search-{workers}"
            rows.append(measured(base, folder, asked.trials, workers, asked.device))
            print(json.dumps(rows[-1]), flush=True)
    if asked.out:
        known = {"machine": machine(), "date": str(date.today()), "commit": commit(), "device": asked.device}
        if asked.device == "cuda":
            known["card"] = torch.cuda.get_device_name()
        known |= {"name": asked.name, "epochs": asked.epochs, "rows": rows}
        asked.out.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
