"""What a step of training a restorer costs, with its finer output and without; time and memory.

    python -m benchmarks.restoration_speed cpu     # an image of 128 x 128 pixels; minutes
    python -m benchmarks.restoration_speed gpu     # images of 256 x 256: 8 of them, or 4, 2, 1 if they fit
    python -m benchmarks.restoration_speed cpu --size 32 --turns 1 --no-result

The network is `phaseformer`, the published sizes; a step is the network, the losses of each output weighed by
`uncertainty`, the way back, the norm clipped and AdamW. ``both`` has the finer output, of twice the pixels
along each edge, ``low`` has not (``high=False``). ``three`` losses are `charbonnier`, `gradient` and
`similarity`; ``four`` have `perceptual_random` besides, which costs what VGG19 with trained weights does.

* ``train``, ``infer``: images per second, median of turns of both networks in one process: of the clock on a
  GPU that is waited for, of CPU seconds of one thread else. Inference is in evaluation mode and keeps no
  gradients.
* ``train_mb``, ``infer_mb``: most memory beyond what the process held after a step of a tiny network, in MiB
  (2^20 bytes): of tensors on a GPU, resident memory of the process else. Each network has a process of its
  own, in which what is freed goes back to the system at once.
* ``dual``: memory and seconds of a step of ``both`` over those of ``low``, at the same batch. The guide of
  the training program that this one follows has four losses, and warns of 40 to 50 % more memory.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from datetime import date
from itertools import product
from pathlib import Path

import torch
from torch import nn

from benchmarks import record
from phaseloom.fitting import optimizers
from phaseloom.restoration import losses
from phaseloom.restoration.losses import RestoredBatch
from phaseloom.restoration.networks.phaseformer import phaseformer, recommended
from phaseloom.restoration.pairs.crops import Batch, double_pixels
from phaseloom.restoration.weighting import uncertainty

ROOT = Path(__file__).parents[1]
BATCHES = {"cpu": (1,), "gpu": (8, 4, 2, 1)}
SIZES, TURNS = {"cpu": 128, "gpu": 256}, {"cpu": 7, "gpu": 20}
THREE = {"charbonnier": losses.charbonnier, "gradient": losses.gradient, "similarity": losses.similarity}
TERMS = {"three": THREE, "four": {**THREE, "perceptual_random": losses.perceptual_random}}
OUTPUTS, PRECISIONS = ("both", "low"), ("float32", "bfloat16")
FULL = 3
"""Exit code of a process whose batch does not fit on the card."""


class Step:
    """A network with what trains it, and a batch of noise.

    Attributes:
        net: on the device.
        batch: that every step learns from.
        precision: of the network's arithmetic.
        terms: the losses.
    """

    def __init__(self, net: nn.Module, knobs: dict, images: torch.Tensor):
        self.net, self.precision = net.to(images.device), knobs["precision"]
        self.terms = TERMS[knobs["losses"]]
        self.weighting = uncertainty(list(self.terms), ("low", "high")).to(images.device)
        every = [*self.net.parameters(), *self.weighting.parameters()]
        self.optimizer = optimizers.adamw([{"params": every, "lr": 1e-4}])
        target = images.flip(-1)
        self.batch = Batch(images, target, double_pixels(target))

    def restored(self):
        """What comes out, in single precision."""
        kind = self.batch.input.device.type
        with torch.autocast(kind, torch.bfloat16, enabled=self.precision == "bfloat16"):
            low, high = self.net(self.batch.input)
        return low.float(), None if high is None else high.float()

    def train(self):
        """Learn once from the batch."""
        self.net.train()
        low, high = self.restored()
        terms = {"low": RestoredBatch(low, self.batch.target).terms(self.terms)}
        if high is not None:
            terms["high"] = RestoredBatch(high, self.batch.fine, "high").terms(self.terms)
        self.optimizer.zero_grad()
        self.weighting(terms).backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()

    @torch.no_grad()
    def infer(self):
        """Restore the batch."""
        self.net.eval()
        self.restored()


class Memory:
    """Most memory since this was made, MiB; ``None`` where the system does not say."""

    def __init__(self, device: torch.device):
        self.device, self.before = device, 0.0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.before = torch.cuda.memory_allocated(device)
        elif Path("/proc/self/clear_refs").exists():
            Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
            self.before = resident("VmRSS")

    def most(self):
        if self.device.type == "cuda":
            return (torch.cuda.max_memory_allocated(self.device) - self.before) / 2**20
        return resident("VmHWM") - self.before if self.before else None


def resident(line: str) -> float:
    """Memory of this process by the system's own count, MiB."""
    known = dict(one.split(":", 1) for one in Path("/proc/self/status").read_text().splitlines())
    return float(known[line].split()[0]) / 1024


def timed(call, device: torch.device) -> float:
    """Seconds of a call."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    began = clock()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - began


def noise(knobs: dict) -> torch.Tensor:
    """Images, the same in every process."""
    torch.manual_seed(0)
    return torch.rand(knobs["batch"], 3, knobs["size"], knobs["size"], device=knobs["device"])


def memory(knobs: dict) -> dict:
    """Of one network; inference first, as it needs the least."""
    images = noise(knobs)
    sizes = {"widths": (4, 8), "blocks": (1, 1), "heads": (1, 1), "refine": 0, "attention": "phase"}
    tiny = recommended(channels_in=3, channels_out=3, **sizes)
    Step(tiny, knobs, images[:1, :, :32, :32]).train()
    used = Memory(images.device)
    step = Step(phaseformer(high=knobs["outputs"] == "both"), knobs, images)
    step.infer()
    infer = used.most()
    for _ in range(2):
        step.train()
    return {"train_mb": used.most(), "infer_mb": infer}


def speed(knobs: dict) -> dict:
    """Of both networks in turns, after one turn that is not counted; and how much longer ``both`` takes."""
    images, batch = noise(knobs), knobs["batch"]
    steps = {name: Step(phaseformer(high=name == "both"), knobs, images) for name in OUTPUTS}
    calls = {(name, what): getattr(step, what) for what in ("train", "infer") for name, step in steps.items()}
    lasted = {key: [] for key in calls}
    for _ in range(knobs["turns"] + 1):
        for key, call in calls.items():
            lasted[key].append(timed(call, images.device))
    found = {key: some[1:] for key, some in lasted.items()}
    ratios = [one / other for one, other in zip(found["both", "train"], found["low", "train"], strict=True)]
    rates = {name: {} for name in OUTPUTS}
    for (name, what), some in found.items():
        rates[name][what] = batch / statistics.median(some)
    return {**rates, "ratio": statistics.median(ratios)}


def measured(what: str, knobs: dict) -> dict:
    """Numbers from a process of its own; none where a batch does not fit on the card."""
    given = ["--inside", what, json.dumps(knobs)]
    command = [sys.executable, "-m", "benchmarks.restoration_speed", "cpu", *given]
    kept = {"MALLOC_MMAP_THRESHOLD_": "65536"} if what == "memory" else {}
    done = subprocess.run(
        command, check=False, cwd=ROOT, capture_output=True, text=True, env=os.environ | kept
    )
    if done.returncode not in (0, FULL):
        sys.exit(done.stderr)
    return {} if done.returncode else json.loads(done.stdout.splitlines()[-1])


def compared(chosen: argparse.Namespace, terms: str, precision: str) -> tuple[list[dict], dict]:
    """Both networks at the largest batch that both of them fit on the device with, and their ratios."""
    for batch in BATCHES[chosen.where]:
        knobs = {"losses": terms, "precision": precision, "batch": batch, "size": chosen.size}
        more = {**knobs, "device": "cuda" if chosen.where == "gpu" else "cpu", "turns": chosen.turns}
        used = {name: measured("memory", more | {"outputs": name}) for name in OUTPUTS}
        rates = measured("speed", more) if all(used.values()) else {}
        if rates:
            rows = [record.rounded({"outputs": n, **knobs, **rates[n], **used[n]}) for n in OUTPUTS]
            both, low = (row["train_mb"] for row in rows)
            ratios = {"train_mb": both / low if low else None, "seconds": rates["ratio"]}
            return rows, record.rounded(ratios)
        print(f"{terms}, {precision}: {batch} images do not fit on the card", flush=True)
    return [], {}


def inside(what: str, knobs: dict) -> None:
    """In a process of its own."""
    if knobs["device"] == "cpu":
        record.one_thread()
    try:
        print(json.dumps({"memory": memory, "speed": speed}[what](knobs)))
    except torch.OutOfMemoryError:
        sys.exit(FULL)


def told(row: dict) -> str:
    """A line of the table."""
    memory = [f"{row[name]:9.0f}" if row[name] else "        -" for name in ("train_mb", "infer_mb")]
    start = f"{row['outputs']:6s}{row['losses']:7s}{row['precision']:10s}{row['batch']:3d} x {row['size']:4d}"
    return f"{start}{row['train']:10.3g}{row['infer']:10.3g}{memory[0]}{memory[1]}"


def kept(chosen: argparse.Namespace, rows: list[dict], ratios: dict) -> Path:
    """Write the numbers down, with machine, date and commit."""
    asked = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    commit = subprocess.run(asked, check=False, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    about = {"machine": record.machine(), "date": f"{date.today()}", "commit": commit}
    about |= {"versions": record.versions("phaseloom", "torch", "numpy")}
    if chosen.where == "gpu":
        about |= {"card": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    out = ROOT / "benchmarks" / "results" / f"restoration_speed-{date.today()}-{chosen.where}.json"
    out.write_text(json.dumps(about | {"rows": rows, "dual": ratios}, indent=1) + "\n")
    return out.relative_to(ROOT)


def asked() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("where", choices=list(BATCHES))
    parser.add_argument("--size", type=int, help="pixels along an edge of the images")
    parser.add_argument("--turns", type=int, help="steps that are timed")
    parser.add_argument("--no-result", action="store_true", help="print only")
    parser.add_argument("--inside", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    chosen.size, chosen.turns = chosen.size or SIZES[chosen.where], chosen.turns or TURNS[chosen.where]
    return chosen


def main() -> None:
    """Measure, print and keep."""
    chosen = asked()
    if chosen.inside:
        inside(chosen.inside[0], json.loads(chosen.inside[1]))
        return
    if chosen.where == "gpu" and not torch.cuda.is_available():
        sys.exit("no GPU is at hand: write cpu to see whether the script runs")
    print("outputs, losses, precision, images; images/s trained, restored; MiB trained, restored")
    rows, ratios = [], {}
    for terms, precision in product(TERMS, PRECISIONS):
        found, over = compared(chosen, terms, precision)
        rows += found
        print("\n".join(map(told, found)), flush=True)
        if found:
            ratios[f"{terms}, {precision}"] = over
            more = ", ".join(f"{name} {value}" for name, value in over.items())
            print(f"both over low: {more} (the guide: memory 1.4 to 1.5)", flush=True)
    if not chosen.no_result:
        print(kept(chosen, rows, ratios))


if __name__ == "__main__":
    main()
