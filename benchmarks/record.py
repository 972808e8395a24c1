"""The course of one reconstruction, written down the same way for every program.

A program is a function ``reconstruct(case, settings, watch)``. It calls ``watch.begin()`` when all is
set up, and ``watch(state)`` after every epoch, where ``state()`` gives the phase ``(slice, y, x)`` in
radian and the positions ``(pattern, 2)`` in its pixels. While a state is compared with the truth the
clock stands. Before the run that counts, one epoch is thrown away, for libraries that load or compile
on first use; its cost stands in the record by itself.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import platform
import resource
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import numpy as np

from benchmarks.score import score

__all__ = ["Case", "Enough", "Watch", "main", "now", "tabulated"]


class Enough(Exception):
    """Raised by a watch when the epochs or the CPU seconds are used up."""


class Case(dict):
    """Arrays of a case by name; ``off`` is how far from focus programs start."""

    @classmethod
    def load(cls, path):
        """From its file."""
        with np.load(path) as stored:
            return cls({name: stored[name] for name in stored.files})


def now():
    """CPU seconds of this process, all its threads together."""
    return time.process_time()


@dataclass
class Watch:
    """Clock and notebook of a run.

    Attributes:
        updates: in an epoch.
        ended: why the run ended before its epochs, if it did.
        every: epochs between two comparisons with the truth.
    """

    case: Case
    epochs: int
    cpu_limit: float = float("inf")
    every: int = 1
    updates: int = 0
    ended: str = ""
    born: float = field(default_factory=now)
    began: float | None = None
    set_up: float = 0.0
    spent: float = 0.0
    done: int = 0
    lasted: list = field(default_factory=list)
    rows: list = field(default_factory=list)

    def begin(self):
        """Start the clock."""
        self.began = now()
        if not self.done:
            self.set_up = self.began - self.born

    def __call__(self, state):
        """An epoch is over."""
        self.lasted.append(now() - self.began)
        self.spent += self.lasted[-1]
        self.done += 1
        last = self.done >= self.epochs or self.spent >= self.cpu_limit
        if last or self.done % self.every == 0:
            phase, positions = state()
            numbers = score(phase, np.asarray(positions, float), self.case["obj_phase"], self.case["pos_px"])
            row = {"epoch": self.done, "cpu_s": self.spent, "updates": self.done * self.updates}
            self.rows.append({**row, **numbers})
        if last:
            raise Enough
        self.begin()


def followed(reconstruct, case, settings, **limits):
    """Watch of a whole run; what breaks it off is noted."""
    watch = Watch(case, updates=-(-len(case["meas"]) // settings.get("batch", 32)), **limits)
    try:
        reconstruct(case, settings, watch)
    except Enough:
        pass
    except (RuntimeError, ValueError, ArithmeticError, np.linalg.LinAlgError) as problem:
        watch.ended = f"{type(problem).__name__}: {problem}"
    return watch


def without_compiling(watch):
    """Take off what the first epoch took longer than the others do; returns these seconds."""
    if len(watch.lasted) < 3:
        return 0.0
    excess = max(0.0, watch.lasted[0] - float(np.median(watch.lasted[1:])))
    watch.spent -= excess
    for row in watch.rows:
        row["cpu_s"] -= excess
    return excess


def measured(program, reconstruct, case, settings, *, compiles=False):
    """The record of a run as plain values."""
    begun = now()
    followed(reconstruct, case, settings, epochs=1)
    warm = now() - begun
    limits = {name: settings[name] for name in ("epochs", "cpu_limit", "every") if name in settings}
    watch = followed(reconstruct, case, settings, **limits)
    warm += without_compiling(watch) if compiles else 0.0
    return {
        "program": program,
        "settings": settings,
        "warm_up_s": round(warm, 3),
        "set_up_s": round(watch.set_up, 3),
        "cpu_s": round(watch.spent, 3),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "ended": watch.ended,
        "epochs": [rounded(row) for row in watch.rows],
    }


def rounded(row):
    """Four digits are enough."""
    return {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in row.items()}


def answer(*command):
    """What a command says, or nothing where it is not known."""
    root = Path(__file__).parents[1]
    try:
        return subprocess.run(command, check=False, cwd=root, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def commit():
    """Of the working tree, with a plus where it has changes."""
    return answer("git", "describe", "--always", "--dirty=+", "--exclude=*")


def machine():
    """Processor and system, nothing that names a computer."""
    model = platform.processor() or platform.machine()
    known = Path("/proc/cpuinfo")
    if known.exists():
        lines = [x for x in known.read_text().splitlines() if x.startswith("model name")]
        model = lines[0].split(":")[1].strip() if lines else model
    return f"{model}, {platform.system()}, Python {platform.python_version()}"


def versions(*names):
    """Of the packages that are installed."""
    out = {}
    for name in names:
        try:
            out[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return out


def main(program, reconstruct, *packages, compiles=False):
    """Command line of a program: ``case.npz settings.json out.json``.

    One that ``compiles`` does so in every run: its first epoch counts as long as the others.
    """
    parser = argparse.ArgumentParser(prog=program)
    for name in ("case", "settings", "out"):
        parser.add_argument(name, type=Path)
    given = parser.parse_args()
    settings = json.loads(given.settings.read_text())
    one_thread()
    record = measured(program, reconstruct, Case.load(given.case), settings, compiles=compiles)
    about = {"versions": versions(*packages, "torch", "numpy", "jax"), "machine": machine()}
    record = {"case": given.case.stem, "date": f"{date.today()}", **about, **record}
    given.out.write_text(json.dumps(record, indent=None) + "\n")


def tabulated(name, about, title, rows, table):
    """Command line of a table: rows that are wanted and missing, each written down when it ends.

    ``rows`` are functions by their names, and ``table`` makes Markdown of what they give.
    """
    import torch

    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", help="rows whose name holds this")
    parser.add_argument("--out", type=Path, default=Path(f"benchmarks/results/{name}-{date.today()}"))
    given = parser.parse_args()
    one_thread()
    given.out.mkdir(parents=True, exist_ok=True)
    store = given.out / f"{name}.json"
    found = json.loads(store.read_text())["rows"] if store.exists() else {}
    for row, call in rows.items():
        if row in found or (given.only and not any(part in row for part in given.only)):
            continue
        found[row] = call()
        print(row, found[row], flush=True)
        where = {"date": f"{date.today()}", "machine": machine(), "torch": torch.__version__, "threads": 1}
        store.write_text(json.dumps({**where, "rows": found}, indent=1) + "\n")
        (given.out / "table.md").write_text(f"# {title}\n\n{table(found)}")


def one_thread():
    """No more than one thread for torch; the others read OMP_NUM_THREADS and its like."""
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(1)


def stand_in(folder):
    """Put small stand-ins for torchvision on the path, if it is not installed."""
    if importlib.util.find_spec("torchvision") is None:
        sys.path.append(str(folder))
