"""Direct images and their geometry on the faulty scans of `benchmarks.faulty_scans`, scored by the truth.

    python -m benchmarks.direct_images --set development --out benchmarks/results/direct-DATE.json
    python -m benchmarks.direct_images --first 4 --faults none --stated

Each scan is read as a user would: counts and a side-car with energy, angle per pixel and step; with
``--stated`` also the defocus that the microscopist believes, up to 30 % wrong. One thread.
"""

import argparse
import json
import math
import re
import subprocess
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch

import phaseloom as pl
from benchmarks.faulty_scans import SETS, load_truth, score_geometry, score_image, write_scan
from benchmarks.record import machine
from benchmarks.testbed.draw import draw_case
from benchmarks.testbed.scan import simulate_case
from phaseloom.direct.reconstruct import reconstruct_scan
from phaseloom.direct.transfer import orientation_matrix, turn_matrix

__all__ = ["measure_scan"]


def measure_scan(path: Path, /, *, stated: bool) -> dict:
    """One scan: what a direct image shows, and how wrong its geometry is."""
    truth = load_truth(path.with_name(f"{path.stem}-truth.npz"))
    scan = pl.read(path)
    known = {}
    if stated:
        told = re.search(r"# defocus, .*: (\S+ \S+)", path.with_suffix(".yaml").read_text())
        known = {"defocus": pl.units.LENGTH.parse(told[1], "defocus")} if told else {}
    began = time.process_time()
    found = reconstruct_scan(scan, aberrations=known)
    seconds = time.process_time() - began
    optics = found.optics
    turn = turn_matrix(float(optics.rotation)).T
    matrix = orientation_matrix(optics.orientation) @ turn * float(optics.step)
    phase = found.image.phase.double().numpy()
    places = np.stack(np.indices(phase.shape), -1).reshape(-1, 2)
    image = score_image(phase, truth, places=places)
    geometry = score_geometry({"matrix": matrix, "defocus": optics.defocus}, truth)
    middle = float(truth["slices"]) * float(truth["spacing"]) / 2
    geometry["defocus_of_middle"] = geometry["defocus"] + middle
    explained = found.image.explained
    return {
        "case": path.stem,
        "electrons": float(truth["electrons"]),
        "true_defocus": float(truth["defocus"]),
        "correlation": round(image["correlation"], 4),
        "fine": round(image["fine"], 4),
        "image_twin": image["twin"],
        **{name: round(value, 4) if isinstance(value, float) else value for name, value in geometry.items()},
        "gain": None if found.fit is None else round(found.fit.gain, 1),
        "explained": None if math.isnan(explained) else round(explained, 4),
        "cpu_s": round(seconds, 2),
    }


def main() -> None:
    """All scans of a set; the file is written after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--set", choices=[name for name in SETS if name != "held_back"], default="development"
    )
    parser.add_argument("--first", type=int, help="only so many of the set")
    parser.add_argument("--faults", default="all")
    parser.add_argument(
        "--stated", action="store_true", help="state the defocus that the microscopist believes"
    )
    parser.add_argument("--folder", type=Path, help="where the scans lie, or are written")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    folder = asked.folder or Path(tempfile.mkdtemp())
    rows = []
    for seed in list(SETS[asked.set])[: asked.first]:
        name = draw_case(seed).name
        path = folder / f"{name}.npy"
        if not path.exists():
            write_scan(simulate_case(seed, asked.faults), folder, name)
        rows.append(measure_scan(path, stated=asked.stated))
        print(json.dumps(rows[-1]), flush=True)
        if asked.out is not None:
            line = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
            commit = subprocess.run(line, capture_output=True, text=True, check=False).stdout.strip()
            head = {"machine": machine(), "date": date.today().isoformat(), "commit": commit, "threads": 1}
            head |= {"set": asked.set, "faults": asked.faults, "stated": asked.stated}
            asked.out.write_text(json.dumps({**head, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
