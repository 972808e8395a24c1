"""What an update costs on a GPU: time and memory per pattern, and how near that is to what the card can do.

    python -m benchmarks.gpu                                   # case M at batch 16, 64, 256, 1024
    python -m benchmarks.gpu --environments .bench             # and PtyRAD, plain and compiled
    python -m benchmarks.gpu --device cpu --quick              # does the script run?

An update is the objective, its way back to object, probe and positions, and the step of the optimiser.
``plain`` launches every operation, ``graph`` replays the objective and its way back as one CUDA graph,
``fused`` has kernels of its own for all of it (`phaseloom.physics.gpu`), as plain experiments use them.

* ``us``: microseconds per pattern, median of turns that the device is waited for.
* ``moved``: of the card's copy bandwidth, measured here, what the operations as they are called read and
  write (a transform counted as two passes): near 1, only fewer or fused operations help.
* ``floor``: the same of what no program with a Fourier library can do without, ``4 x slices`` transforms
  of all modes, each read and written once.
* ``busy``: share of the time in which the device works on something, by its profiler.
* ``peak_mb``: most memory that tensors took.

PtyRAD runs in its own environment on a simulated case M (``benchmarks.cases``), the same sizes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import cases, record

ROOT = Path(__file__).parents[1]
BATCHES = (16, 64, 256, 1024)
SIDE = 32
TURNS, UPDATES = 5, 8


class Moved(TorchDispatchMode):
    """Bytes that operations read and write."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.bytes += passes(str(func)) * traffic(func, args, out)
        return out


def passes(name):
    """How often a library goes over its data."""
    return 2 if "_fft_" in name else 1


def traffic(func, args, out):
    """Bytes read and written once; views cost nothing, and of gathers only what is gathered counts."""
    returns, name = func._schema.returns, func.overloadpacket.__name__
    views = [r for r in returns if r.alias_info is not None and not r.alias_info.is_write]
    if views or name in ("empty", "empty_like", "new_empty", "empty_strided", "detach"):
        return 0
    given = [one for arg in args for one in (arg if isinstance(arg, list | tuple) else [arg])]
    given = [one for one in given if isinstance(one, torch.Tensor)]
    if name in ("index", "index_select"):
        return 2 * size(out) + sum(size(one) for one in given[1:])
    if name == "index_add_":
        return sum(size(one) for one in given[1:]) + 2 * size(given[-1])
    written = sum(size(one) for one in (out if isinstance(out, list | tuple) else [out]))
    filled = name in ("zero_", "fill_", "copy_")
    return written + sum(size(one) for one in (given[1:] if filled else given))


def size(one):
    """Bytes of a tensor, each number of its memory once."""
    if not isinstance(one, torch.Tensor):
        return 0
    return min(one.numel() * one.element_size(), one.untyped_storage().nbytes())


def wait(device):
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def bandwidth(device, megabytes):
    """Bytes per second that the device reads and writes when it copies."""
    source = torch.zeros(megabytes * 2**20 // 4, device=device)
    target, best = torch.empty_like(source), float("inf")
    for _ in range(8):
        wait(device)
        began = time.perf_counter()
        target.copy_(source)
        wait(device)
        best = min(best, time.perf_counter() - began)
    return 2 * source.numel() * 4 / best


class Ours:
    """A case of `benchmarks.floor` with more positions, and updates as a fit makes them."""

    case = "M"

    def __init__(self, batch, device, kind, side, *, graph):
        from benchmarks import floor
        from phaseloom.fitting import cuda_graph as replay
        from phaseloom.fitting import optimizers
        from phaseloom.ptycho.curvature import Curvature

        window, self.slices, self.modes, _, step = floor.CASES[self.case]
        floor.CASES["wide"] = (window, self.slices, self.modes, side, step)
        model, likelihood = floor.experiment("wide", kind)
        # counts of nothing: longer steps would diverge
        rates = dict.fromkeys(model.object.parts(), 0.01) | {"probe": 0.01, "positions": 0.01}
        model.to(device)
        parts = model.parts()
        groups = optimizers.groups({name: parts[name] for name in rates}, rates)
        self.optimizer = optimizers.gauss_newton(groups)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base"]
        curvature = Curvature(model, likelihood)
        for parameter in model.object.parameters():
            parameter.touched = []
        self.optimizer.set_rules(curvature([{"loss": 1.0, "holdout": None}] * 2), curvature.momentum)
        moved = [one for group in groups for one in group["params"]]
        self.work = replay.GraphReplay(likelihood, moved, size=batch if graph else 0)
        draw, count = torch.Generator().manual_seed(0), len(model.scan.start)
        self.index = [torch.randperm(count, generator=draw)[:batch].to(device) for _ in range(UPDATES)]
        self.batch, self.wave = batch, 8 * self.modes * window**2

    def __call__(self, updates):
        """So many updates."""
        for number in range(updates):
            self.work(self.index[number % len(self.index)])
            for group in self.optimizer.param_groups:
                group["size"] = self.batch
            self.optimizer.step()

    def moved(self):
        """Bytes per pattern of an update as it is called."""
        self(1)
        with Moved() as counted:
            self(1)
        return counted.bytes / self.batch

    def least(self):
        """Bytes per pattern of its transforms alone."""
        return 4 * self.slices * 2 * self.wave


class Fused(Ours):
    """The same by kernels of its own; ``updates`` of a call are those of an epoch at most."""

    def __init__(self, batch, device, kind, side):
        super().__init__(batch, device, kind, side, graph=False)
        from phaseloom.ptycho.newton.on_gpu import GpuSteps

        likelihood = self.work.objective
        self.steps = GpuSteps(likelihood.model, likelihood, self.optimizer)
        every = torch.randperm(side * side, generator=torch.Generator().manual_seed(0)).split(batch)
        self.batches = [one for one in every if len(one) == batch]

    def __call__(self, updates):
        """So many updates."""
        while updates > 0:
            some = self.batches[:updates]
            found = self.steps(self.work.objective, some, 2)
            assert found is not None, "no kernels for this"
            updates -= len(some)


def timed(update, batch, device, turns, updates):
    """Median microseconds per pattern."""
    lasted = []
    for _ in range(turns):
        wait(device)
        began = time.perf_counter()
        update(updates)
        wait(device)
        lasted.append((time.perf_counter() - began) / (updates * batch))
    return 1e6 * float(np.median(lasted))


def busy(update, device, updates):
    """Share of the time in which a kernel runs, or None where nobody knows."""
    if device.type != "cuda":
        return None
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    wait(device)
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        update(updates)
        wait(device)
    spans = [e.time_range for e in seen.events() if e.device_type == DeviceType.CUDA]
    if not spans:
        return None
    first, last = min(span.start for span in spans), max(span.end for span in spans)
    return min(1.0, sum(span.end - span.start for span in spans) / max(last - first, 1e-9))


def row(batch, device, chosen, speed, way):
    """Numbers of ours at one batch."""
    kind = chosen.kind
    if way == "fused":
        update = Fused(batch, device, kind, chosen.side)
    else:
        update = Ours(batch, device, kind, chosen.side, graph=way == "graph")
    moved = Ours(batch, device, kind, chosen.side, graph=False).moved()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    update(chosen.warm)
    us = timed(update, batch, device, chosen.turns, chosen.updates)
    peak = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
    rate = 1e6 / us / speed
    return {
        **{"program": "ours", "way": way, "kind": kind, "batch": batch, "us": us},
        **{"mb_per_pattern": moved / 2**20, "moved": moved * rate, "floor": update.least() * rate},
        **{"busy": busy(update, device, chosen.updates), "peak_mb": peak},
        "replayed": update.work.graph is not None,
    }


def peer(batch, chosen, case, *, compiled):
    """Numbers of PtyRAD at one batch, found in its own environment, or why there are none."""
    given = {"batch": batch, "compiled": compiled, "device": chosen.device, "epochs": chosen.epochs}
    base = {"program": "ptyrad", "way": "compiled" if compiled else "plain", "batch": batch}
    python = chosen.environments / "ptyrad" / "bin" / "python"
    command = [python, "-m", "benchmarks.gpu", "--inside", json.dumps(given), case]
    env = os.environ | {"MPLBACKEND": "Agg"}
    done = subprocess.run(command, check=False, cwd=ROOT, env=env, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"us"')]
    if lines:
        return base | json.loads(lines[-1])
    return base | {"failed": (done.stderr.strip().splitlines() or ["nothing was said"])[-1][:300]}


def inside(given, path):
    """Time PtyRAD's epochs, in its environment; the first two load and compile."""
    record.stand_in(Path(__file__).with_name("peers") / "stubs")
    from ptyrad.solver import PtyRADSolver, reconstruction

    from benchmarks.peers.ptyrad import parameters

    case, device = record.Case.load(path), torch.device(given["device"])
    rates = {"object": 5e-4, "probe": 1e-4, "positions": 5e-4}
    settings = {"rates": rates, "seed": 0, "off": 40.0, "blur": True}
    tree = parameters(case, settings | {"batch": given["batch"], "epochs": given["epochs"]})
    tree["recon_params"]["compiler_configs"]["enable"] = given["compiled"]
    step, lasted = reconstruction.recon_step, []

    def watched(*several, **named):
        wait(device)
        began = time.perf_counter()
        losses = step(*several, **named)
        wait(device)
        lasted.append(time.perf_counter() - began)
        return losses

    reconstruction.recon_step = watched
    PtyRADSolver(tree, device=device, seed=0).run()
    us = 1e6 * float(np.median(lasted[min(2, len(lasted) - 1) :])) / len(case["meas"])
    peak = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
    print("\n" + json.dumps({"us": us, "peak_mb": peak, "versions": record.versions("ptyrad", "torch")}))


def peers(chosen):
    """PtyRAD at every batch; the case is made once."""
    with tempfile.TemporaryDirectory() as folder:
        case = cases.written(folder, "XS" if chosen.quick else "M")
        for batch in chosen.batches:
            for compiled in (False, True):
                yield peer(batch, chosen, case, compiled=compiled)


def ours(chosen, device, speed):
    """Ours at every batch; a batch that does not fit says so."""
    for batch in chosen.batches:
        for way in chosen.ways:
            try:
                yield row(batch, device, chosen, speed, way)
            except torch.OutOfMemoryError as problem:
                why = str(problem).splitlines()[0]
                yield {"program": "ours", "way": way, "kind": chosen.kind, "batch": batch, "failed": why}


def told(found):
    """A line of the table."""
    start = f"{found['program']:8s}{found['way']:9s}{found['batch']:6d}"
    if "failed" in found:
        return f"{start}  failed: {found['failed']}"
    share = {name: found.get(name) for name in ("moved", "floor", "busy")}
    told_ = [f"{name} {value:6.1%}" for name, value in share.items() if value is not None]
    memory = [] if found["peak_mb"] is None else [f"{found['peak_mb']:.0f} MB"]
    return f"{start}{found['us']:10.1f} us  {'  '.join(told_ + memory)}"


def asked():
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--quick", action="store_true", help="one batch of 2, one turn; PtyRAD on the small case XS"
    )
    parser.add_argument("--kind", default="complex", choices=["complex", "phase", "amplitude and phase"])
    parser.add_argument("--case", default="M", choices=["S", "M"])
    parser.add_argument("--environments", type=Path, help="folder of peers/install.py")
    parser.add_argument("--inside", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    Ours.case = chosen.case
    # kernels of its own know complex pixels on a GPU alone
    fused = chosen.device == "cuda" and chosen.kind == "complex"
    chosen.ways = ("plain", "graph", "fused") if fused else ("plain", "graph")
    quick = chosen.quick
    chosen.batches, chosen.side = ((2,), 4) if quick else (BATCHES, SIDE)
    chosen.turns, chosen.updates, chosen.warm = (1, 1, 1) if quick else (TURNS, UPDATES, 6)
    chosen.epochs = 3 if quick else 8
    return chosen


def main():
    """Measure, print, and on a card keep."""
    chosen = asked()
    if chosen.inside:
        inside(json.loads(chosen.inside[0]), Path(chosen.inside[1]))
        return
    device = torch.device(chosen.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("no GPU is at hand: write --device cpu --quick to see whether the script runs")
    if device.type == "cpu":
        record.one_thread()
    speed = bandwidth(device, 64 if chosen.quick else 2048)
    print(f"copies at {speed / 1e9:.0f} GB/s, reading and writing")
    rows = []
    for source in (ours(chosen, device, speed), peers(chosen) if chosen.environments else ()):
        for found in source:
            rows.append(found)
            print(told(found), flush=True)
    if device.type == "cuda":
        about = {
            "machine": record.machine(),
            "card": torch.cuda.get_device_name(device),
            "commit": record.commit(),
        }
        about |= {"date": f"{date.today()}", "versions": record.versions("phaseloom", "torch", "numpy")}
        about |= {"cuda": torch.version.cuda, "copy_bytes_per_s": speed, "case": chosen.case}
        out = ROOT / "benchmarks" / "results" / f"gpu-{date.today()}-{chosen.case}.json"
        out.write_text(json.dumps(about | {"rows": [record.rounded(one) for one in rows]}, indent=1) + "\n")
        print(out.relative_to(ROOT))


if __name__ == "__main__":
    main()
