"""Direct images and their geometry on the faulty scans of `benchmarks.faulty_scans`, scored by the truth.

    python -m benchmarks.direct_images --set development --out benchmarks/results/direct-DATE.json
    python -m benchmarks.direct_images --first 4 --faults none --stated

Each scan is read as a user would: counts and a side-car with energy, angle per pixel and step; with
``--stated`` also the semi-angle and the defocus that the microscopist believes, up to 30 % wrong. One thread.
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
from phaseloom.data.scan import Scan4D
from phaseloom.direct.reconstruct import IMAGE_BORDER, DirectReconstruction, reconstruct_scan
from phaseloom.direct.solve import DirectMethod, reconstruct_image
from phaseloom.direct.transfer import orientation_matrix, turn_matrix

__all__ = ["measure_scan"]

PIXELS = 500  # of images by other methods: the default of `reconstruct_scan`


def read_beliefs(path: Path, /) -> dict[str, float]:
    """Semi-angle in radian and defocus in angstrom from the comments of a side-car, where it has them."""
    text = path.with_suffix(".yaml").read_text()
    units = {"semiangle": pl.units.ANGLE, "defocus": pl.units.LENGTH}
    known = {}
    for name, unit in units.items():
        comment = re.search(rf"# {name}, .*: (\S+ \S+)", text)
        if comment:
            known[name] = unit.parse(comment[1], name)
    return known


def score_methods(scan: Scan4D, found: DirectReconstruction, truth: dict, /) -> dict[str, float]:
    """Modulus of the correlation of the image by each method with the optics that were found."""
    spectrum = found.survey.measure(scan, pixels=PIXELS).transform(border=IMAGE_BORDER)
    scores = {}
    for method in DirectMethod:
        if method == DirectMethod.CENTRE_OF_MASS:  # not made from single pixels
            continue
        phase = reconstruct_image(found.optics, spectrum, method=method, border=IMAGE_BORDER).phase
        places = np.stack(np.indices(phase.shape), -1).reshape(-1, 2)
        score = score_image(phase.double().numpy(), truth, places=places)
        scores[str(method)] = round(abs(score["correlation"]), 4)
    return scores


def measure_scan(path: Path, /, *, stated: bool, methods: bool = False) -> dict:
    """One scan: what a direct image shows, and how wrong its geometry is; other methods if asked."""
    truth = load_truth(path.with_name(f"{path.stem}-truth.npz"))
    scan = pl.read(path)
    known = read_beliefs(path) if stated else {}
    semiangle = known.pop("semiangle", None)
    began = time.process_time()
    found = reconstruct_scan(scan, semiangle=semiangle, aberrations=known)
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
        "modulus": round(abs(image["correlation"]), 4),
        "fine": round(image["fine"], 4),
        "image_twin": image["twin"],
        **{name: round(value, 4) if isinstance(value, float) else value for name, value in geometry.items()},
        "gain": None if found.fit is None else round(found.fit.gain, 1),
        "explained": None if math.isnan(explained) else round(explained, 4),
        "cpu_s": round(seconds, 2),
        **({"methods": score_methods(scan, found, truth)} if methods else {}),
    }


def main() -> None:
    """All scans of a set; the file is written after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--set", choices=[name for name in SETS if name != "held_back"], default="development"
    )
    parser.add_argument("--seeds", type=int, nargs="*", help="instead of a set: new ones judge frozen code")
    parser.add_argument("--first", type=int, help="only so many of the set")
    parser.add_argument("--faults", default="all")
    parser.add_argument(
        "--stated", action="store_true", help="state the semi-angle and the defocus that are believed"
    )
    parser.add_argument("--methods", action="store_true", help="also images by the other methods")
    parser.add_argument("--folder", type=Path, help="where the scans lie, or are written")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    folder = asked.folder or Path(tempfile.mkdtemp())
    rows = []
    for seed in asked.seeds or list(SETS[asked.set])[: asked.first]:
        name = draw_case(seed).name
        path = folder / f"{name}.npy"
        if not path.exists():
            write_scan(simulate_case(seed, asked.faults), folder, name)
        rows.append(measure_scan(path, stated=asked.stated, methods=asked.methods))
        print(json.dumps(rows[-1]), flush=True)
        if asked.out is not None:
            line = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
            commit = subprocess.run(line, capture_output=True, text=True, check=False).stdout.strip()
            head = {"machine": machine(), "date": date.today().isoformat(), "commit": commit, "threads": 1}
            head |= {"set": asked.set, "faults": asked.faults, "stated": asked.stated}
            asked.out.write_text(json.dumps({**head, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
