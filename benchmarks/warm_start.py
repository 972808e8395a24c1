"""Whether a run that begins with a prediction ends nearer to the truth than one from a flat object.

    python -m benchmarks.foreign_scans FOLDER --set judge --seeds 7000 7028 --frozen COMMIT \\
        --electrons 1e6 --nothing-wrong
    python -m benchmarks.warm_start FOLDER --set judge --out FILE

The first command runs where abTEM and ASE are. Each scan is run at 1e6 electrons in a pattern and at 1e4 (of
which binomial thinning makes Poisson counts), with stated optics and default settings of 20 epochs: from a
flat object; from the predictions of ``tiny`` and ``linear`` as they are taken by default; and, with
``--forced``, without a trial (``compare_starts: false``).

The error is that of the phase on the pixels of the truth and in its band (1.73 semiangles), 8 pixels at the
edges left out, after a constant and a ramp, the affine map of the run's own positions and a common
shift: the sum of squared differences over that of the truth.
"""

import argparse
import json
import time
from collections import deque
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage, optimize

from benchmarks.foreign_networks import RIM, load_scan
from benchmarks.foreign_scans import BAND
from benchmarks.record import machine
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.metrics.phase import remove_ramp
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.simulation.experiment import PIXELS_PER_STEP

__all__ = ["measure_error", "run_case", "summarise", "thin_to"]

DOSES = (1e6, 1e4)
MAX_SHIFT_TRIALS = 60


def thin_to(scan: Scan4D, electrons: float, wanted: float, seed: int) -> Scan4D:
    """A scan of fewer electrons: each count stays with the same probability."""
    if wanted >= electrons:
        return scan
    rng = np.random.default_rng([seed, int(wanted)])
    counts = rng.binomial(np.round(np.asarray(scan.counts)).astype(np.int64), wanted / electrons)
    return replace(scan, counts=counts.astype(np.float32))


def measure_error(job: Job, about: dict, truth: np.ndarray) -> float:
    """Sum of squared differences of a run's phase from the true one, over that of the true one."""
    room = job.model.object.canvas
    wave = job.model.object.transmission().detach().cpu().prod(1)[0].numpy()
    at = place_truth(job, about, truth.shape)
    index = (at - room.origin) / room.pixel
    low, high = index.min(0).astype(int).clip(0), index.max(0).astype(int)
    phase = np.angle(wave * wave[low[0] : high[0], low[1] : high[1]].mean().conj())
    rows, columns = (np.fft.fftfreq(n, p) for n, p in zip(phase.shape, room.pixel, strict=True))
    band = BAND * about["semiangle"] / job.scan.geometry.wavelength
    phase = np.fft.ifft2(np.fft.fft2(phase) * (np.hypot(rows[:, None], columns) <= band)).real
    spline = ndimage.spline_filter(phase, 3)

    def error(shift: np.ndarray) -> float:
        places = (index + shift / np.array(room.pixel)).T
        found = ndimage.map_coordinates(spline, places, order=3, mode="nearest", prefilter=False)
        one, other = (
            remove_ramp(np.asarray(image, float)[RIM:-RIM, RIM:-RIM])
            for image in (found.reshape(truth.shape), truth)
        )
        return float(((one - other) ** 2).sum() / (other**2).sum())

    start = [[0.0, 0.0], [0.15, 0.0], [0.0, 0.15]]
    knobs = {"initial_simplex": start, "xatol": 0.01, "fatol": 1e-4, "maxfev": MAX_SHIFT_TRIALS}
    return float(optimize.minimize(error, start[0], method="Nelder-Mead", options=knobs).fun)


def place_truth(job: Job, about: dict, shape: tuple[int, ...]) -> np.ndarray:
    """Where the pixels of the truth lie in the frame of the run's positions, ``(pixel, 2)`` angstrom."""
    line = (np.arange(shape[0]) / PIXELS_PER_STEP - 1) * about["step"]
    places = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    cosine, sine = np.cos(about["rotation"]), np.sin(about["rotation"])
    places = places @ np.array([[cosine, sine], [-sine, cosine]])
    stated = np.column_stack([job.scan.positions, np.ones(len(job.scan))])
    affine = np.linalg.lstsq(stated, job.model.scan.angstrom(), rcond=None)[0]
    return np.column_stack([places, np.ones(len(places))]) @ affine


def run_case(
    scan: Scan4D, about: dict, truth: np.ndarray, model: str | None, *, forced: bool = False
) -> dict:
    """Error after the run, what was taken as the start, and CPU seconds."""
    optics = {"semiangle": f"{about['semiangle']} rad", "defocus": f"{about['defocus']} A"}
    tree = {"probe": {"focused": optics}, "start": "none", "preset": "none", "epochs": 20, "device": "cpu"}
    tree |= {"object": {"predicted": {"model": model}}} if model else {}
    tree |= {"compare_starts": False} if forced else {}
    began = time.process_time()
    try:
        job = Job.begin(Reconstruct.of(tree), scan=scan)
    except BadInput as problem:
        return {"refused": str(problem)}
    job.wants_evidence = False  # of the verdict, which is not asked for
    row: dict = {"cpu_s to begin": round(time.process_time() - began, 2)}
    epochs = deque(job, maxlen=1)
    row |= {"cpu_s": round(time.process_time() - began, 2), "error": measure_error(job, about, truth)}
    row |= {"epochs": epochs[-1].number, "loss": epochs[-1].loss}
    row["start"] = job.recipe.found.get("start")
    return row


def summarise(rows: list[dict], name: str) -> dict:
    """Errors of a start over those of the flat one."""
    both = [row for row in rows if "error" in row[name]]
    ratios = np.array([row[name]["error"] / row["flat"]["error"] for row in both])
    if not len(ratios):
        return {"runs": 0}
    found: dict = {"runs": len(ratios), "refused": len(rows) - len(both)}
    found |= {"median ratio": float(np.median(ratios)), "worst ratio": float(ratios.max())}
    found |= {"above by 5 %": int((ratios > 1.05).sum()), "lower by a third": int((ratios < 2 / 3).sum())}
    for electrons in DOSES:
        some = [ratio for row, ratio in zip(both, ratios, strict=True) if row["electrons"] == electrons]
        found[f"median ratio at {electrons:.0e}"] = float(np.median(some)) if some else None
    taken = [row[name]["start"].get("taken") for row in both if row[name]["start"]]
    return found | {"taken": {one: taken.count(one) for one in sorted(set(map(str, taken)))}}


def main() -> None:
    """All scans; the file is written after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--set", default="judge")
    parser.add_argument("--models", nargs="*", default=["tiny", "linear"])
    parser.add_argument("--forced", action="store_true", help="also runs without a trial of the start")
    parser.add_argument("--first", type=int, help="scans that are run, at most")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict] = []
    names: list[str] = []
    paths = sorted(given.folder.glob(f"{given.set}-*.npz"), key=lambda path: int(path.stem.split("-")[-1]))
    for path in paths[: given.first]:
        whole, about, truth = load_scan(path)
        for electrons in DOSES:
            scan = thin_to(whole, about["electrons"], electrons, about["seed"])
            row = {key: about[key] for key in ("seed", "material", "thickness", "wrong")}
            row |= {"electrons": electrons, "faults": sorted(about["faults"])}
            row["flat"] = run_case(scan, about, truth, None)
            names = []
            for model in given.models:
                for forced in (False, True)[: 1 + given.forced]:
                    names.append(f"{model} forced" if forced else model)
                    row[names[-1]] = run_case(scan, about, truth, model, forced=forced)
            rows.append(row)
            print(
                row["seed"],
                row["material"],
                electrons,
                *(f"{n} {row[n].get('error', 'refused')}" for n in ("flat", *names)),
                flush=True,
            )
            found = {
                "machine": machine(),
                "set": given.set,
                **{n: summarise(rows, n) for n in names},
                "rows": rows,
            }
            if given.out:
                given.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({name: summarise(rows, name) for name in names}, indent=1))


if __name__ == "__main__":
    main()
