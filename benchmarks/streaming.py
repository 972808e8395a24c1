"""What it costs to leave patterns in their file: epochs of one scan from memory and from the file.

Before every epoch on the file its pages are dropped from the cache of the system (``posix_fadvise``), so that
each pattern is read from the disk once an epoch, as where memory holds none of them. What the process itself
adds to its memory during the epochs is written down beside the size of the patterns.

    python -m benchmarks.streaming --side 192 --epochs 3
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

import h5py
import numpy as np

from benchmarks import record

WINDOW = 64
CHUNKS = {"a pattern a chunk": (1, WINDOW, WINDOW), "contiguous": None}


def write_scan(path: Path, side: int, chunks: tuple[int, int, int] | None) -> int:
    """Disks with noise, of positions that are far apart on no object; returns their bytes."""
    y, x = np.indices((WINDOW, WINDOW)) - WINDOW // 2
    rate = np.where(np.hypot(y, x) < WINDOW / 8, 40.0, 0.3)
    some = np.random.default_rng(0).poisson(rate, (256, WINDOW, WINDOW)).astype(np.uint16)
    count = side * side
    with h5py.File(path, "w") as file:
        data = file.create_dataset("frames", (count, WINDOW, WINDOW), np.uint16, chunks=chunks)
        for start in range(0, count, 256):
            data[start : start + 256] = some[: min(256, count - start)]
    return count * WINDOW * WINDOW * 2


def drop_pages(path: Path) -> None:
    """Have the system forget what it has read of a file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(path: Path, side: int, epochs: int, *, stream: bool) -> dict[str, float]:
    """Median seconds of an epoch but the first, and what the patterns take in this process."""
    import torch

    from phaseloom.data import formats
    from phaseloom.reconstruction.protocol import Job
    from phaseloom.reconstruction.recipe import Reconstruct
    from phaseloom.runs import memory

    torch.set_num_threads(1)
    knobs = {"energy": 80e3, "pixel": 0.2, "step": 0.8, "grid": (side, side)}
    scan = formats.read(path, format="hdf5", knobs=knobs, lazy=stream)
    probe = {"focused": {"semiangle": "25 mrad", "defocus": "100 A"}}
    tree = {"start": "none", "preset": "none", "probe": probe, "levels": 0, "epochs": epochs, "device": "cpu"}
    job = Job.begin(Reconstruct.of(tree), scan=scan)
    size = side * side * WINDOW * WINDOW * 2
    times = []
    before = memory.resident()
    memory.forget_highest()
    run = iter(job)
    for _ in range(epochs):
        if stream:
            drop_pages(path)
        wall, cpu = time.perf_counter(), time.process_time()
        next(run)
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    seconds, busy = np.median(times[1:], axis=0).tolist()
    found = {"seconds": seconds, "CPU seconds": busy, "bytes of patterns": float(size)}
    return found | {"bytes added": memory.highest() - before, "loss": job.progress.history[-1]["loss"]}


def main() -> None:
    """The command line."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--side", type=int, default=192)
    asked.add_argument("--epochs", type=int, default=3)
    asked.add_argument("--file", type=Path)
    asked.add_argument("--stream", action="store_true")
    given = asked.parse_args()
    if given.file:
        print(json.dumps(measure(given.file, given.side, given.epochs, stream=given.stream)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, chunks in CHUNKS.items():
            path = Path(folder) / "scan.h5"
            write_scan(path, given.side, chunks)
            for stream in (False, True):
                words = ["--file", str(path), "--side", str(given.side), "--epochs", str(given.epochs)]
                line = [sys.executable, "-m", "benchmarks.streaming", *words, *(["--stream"] * stream)]
                told = {**os.environ, "OMP_NUM_THREADS": "1"}
                done = subprocess.run(line, env=told, capture_output=True, text=True, check=True)
                found = json.loads(done.stdout.strip().splitlines()[-1])
                rows.append({"file": name, "from": "file" if stream else "memory", **found})
                print(rows[-1], flush=True)
    about = {"machine": record.machine(), "date": f"{date.today()}"}
    about |= {"versions": record.versions("phaseloom", "torch", "numpy", "h5py")}
    path = Path(__file__).parent / "results" / f"streaming-{date.today()}.json"
    path.write_text(json.dumps(about | {"asked": vars(given), "runs": rows}, indent=1, default=str) + "\n")
    print(path)


if __name__ == "__main__":
    main()
