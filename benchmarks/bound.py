"""How near the default reconstruction of case S comes to the Cramer-Rao bound of the phase.

    python -m benchmarks.bound --out benchmarks/results/bound-DATE.json

Positions are exact and do not move, pixels are the true ones, the probe starts right and is free, the noise
is Poisson with an incident beam of so many electrons. The bound is ``1 / sqrt(2 W)`` with the true probe,
``W`` electrons on a pixel in all; the error is that of the phase in the scan's box less 8 pixels, after
shift, constant and ramp are removed.
"""

import argparse
import json
import subprocess
import tempfile
import time
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import torch

from benchmarks import cases
from benchmarks.ours import HIDDEN, state
from benchmarks.record import machine, rounded
from benchmarks.score import _box, _flat, _moved, _shift
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct

__all__ = ["begin_run", "cut_field", "find_commit", "measure_run", "sum_true_light"]

MARGIN = (slice(8, -8), slice(8, -8))
"""What is compared of the scan's box."""


def begin_run(
    data: dict, folder: Path, *, still: bool = True, stated: str = "pos_px", scale: float = 1.0, **tree
) -> Job:
    """The default run of a case that knows its optics, and its positions unless they are to move.

    Arguments: the case; where to write it; whether positions rest; the name of the positions stated; a
    factor on the defocus; settings.
    """
    path = Path(folder, "case.npz")
    given = {name: value for name, value in data.items() if name not in HIDDEN}
    np.savez(path, **given | {"pos_nominal_px": data[stated]})
    rest = {"positions": 0.0, "affine": 0.0} if still else {"affine": 0.0}
    optics = {"semiangle": f"{data['conv_angle']} mrad", "defocus": f"{-scale * data['C10']} A", "modes": 1}
    known = {
        "file": str(path),
        "read": {"npz": {"positions": "pos_nominal_px"}},
        "object": {"pixels": {"slices": 1, "kind": "complex"}},
        "probe": {"focused": optics},
        "start": "none",
        "preset": "none",
        "seed": 0,
    }
    rates = rest | tree.pop("rates", {})
    job = Job.begin(Reconstruct.of(known | {"rates": rates} | tree))
    lay_on_true_pixels(job, data[stated])
    return job


@torch.no_grad()
def lay_on_true_pixels(job: Job, places: np.ndarray) -> None:
    """Move the scan on its canvas by less than a pixel, to where true pixels and those of the model coincide.

    The bound is that of a model that can be exact. An object sampled between the true pixels cannot:
    windows that are rounded to other pixels, and frequencies near the limit, left 1.6 times the bound at 1e6
    electrons, whatever the fit.
    """
    start = job.level.model.scan.start
    off = (start.double().cpu().numpy() - places).mean(0)
    start -= torch.as_tensor(off - np.round(off)).to(start)


def sum_true_light(data: dict) -> np.ndarray:
    """Electrons on each pixel of the true object, from the true probe and positions."""
    light = np.zeros(data["obj_phase"].shape[1:])
    beam = abs(data["probe"][0]) ** 2 * data["dose"]
    half = len(beam) // 2
    for y, x in np.round(data["pos_px"]).astype(int) - half:
        light[y : y + 2 * half, x : x + 2 * half] += beam
    return light


def cut_field(data: dict, phase: np.ndarray, places: np.ndarray, maps: dict[str, np.ndarray]) -> dict:
    """Phase, truth and maps ``(y, x)`` in the scan's box, laid on the truth, planes removed.

    Arguments: the case, summed ``phase (y, x)``, ``places (n, 2)`` of the patterns on it, further maps on its
    grid.
    """
    offset = np.round((places - data["pos_px"]).mean(0)).astype(int)
    low = np.ceil(data["pos_px"].min(0)).astype(int)
    high = np.floor(data["pos_px"].max(0)).astype(int) + 1
    truth = _box(data["obj_phase"], low, high).sum(0)
    found = _flat(_box(phase[None], low + offset, high + offset)[0])
    found = _moved(found, _shift(found, _flat(truth), 6))
    cut = {name: _box(image[None], low + offset, high + offset)[0][MARGIN] for name, image in maps.items()}
    light = _box(sum_true_light(data)[None], low, high)[0][MARGIN]
    return {"found": _flat(found[MARGIN]), "truth": _flat(truth[MARGIN]), "light": light, **cut}


def measure_run(dose: float, draw: int, **tree) -> dict:
    """One run: its error over the bound, and the contrast that it lost."""
    case = replace(cases.CASES["S"], dose=dose)
    data = cases.made(case, object_seed=2, noise_seed=draw)
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        job = begin_run(data, Path(folder), **tree)
        for _ in job:
            pass
        phase, places = state(job, data["dx"])
    seconds = time.process_time() - began
    field = cut_field(data, phase.sum(0), places, {})
    error = field["found"] - field["truth"]
    bound = 1 / np.sqrt(2 * field["light"])
    lost = np.vdot(error, field["truth"]) / np.vdot(field["truth"], field["truth"])
    rmse = float(error.std())
    return rounded(
        {
            "dose": dose,
            "draw": draw,
            "settings": tree,
            "loss": job.progress.history[-1]["loss"],
            "rmse": rmse,
            "rmse_over_bound": rmse / float(np.sqrt(np.mean(bound**2))),
            "contrast_lost": -float(lost),
            "mean_z2": float(np.mean((error / bound) ** 2)),
            "cpu_s": seconds,
        }
    )


def find_commit() -> str:
    """Short hash of the code that ran; with a mark if it was changed since."""
    words = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    """Measure doses and draws, and write them down."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dose", type=float, nargs="+", default=[1e3, 1e4, 1e5, 1e6])
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--epochs", type=int, nargs="+", default=[20, 60])
    parser.add_argument("--out", type=Path, default=Path(f"benchmarks/results/bound-{date.today()}.json"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    about = {"date": f"{date.today()}", "machine": machine(), "commit": find_commit(), "threads": 1}
    rows = []
    for dose in given.dose:
        for epochs in given.epochs:
            for draw in range(1, given.draws + 1):
                rows.append(measure_run(dose, draw, epochs=epochs))
                print(rows[-1], flush=True)
    given.out.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
