"""Whether the error bar of the phase is true: coverage, bootstrap, order of errors, cost.

    python -m benchmarks.uncertainty --out benchmarks/results/uncertainty-DATE.json
    python -m benchmarks.uncertainty --few --out benchmarks/results/uncertainty-few-DATE.json

Case S with its own probe. ``coverage``: share of pixels within 1.96 sigma and mean square of error over
sigma, after constant, ramp, shift and scale are removed. ``bootstrap``: the map against draws, in conditions
under which it should be right or should be flagged. ``order``: rank correlation of sigma and the size of
errors where the dose varies. ``cost``: seconds of the map and of draws against those of an epoch. ``--few``:
coverage of amplitudes and of Poisson's likelihood at 0.1 to 1 counts a pixel, alone.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import uniform_filter
from scipy.stats import spearmanr

import phaseloom as pl
from benchmarks import cases
from benchmarks.bound import begin_run, cut_field, find_commit
from benchmarks.ours import state
from benchmarks.record import machine, rounded
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.uncertainty import draw_results, estimate_uncertainty

__all__ = ["measure_bootstrap", "measure_cost", "measure_coverage", "measure_order"]

DOSE_FALL = 6.0
"""Ratio of the dose at both ends of the field in ``order``."""


def make_case(dose: float, draw: int, **changes) -> dict:
    """Case S at a dose."""
    return cases.made(replace(cases.CASES["S"], dose=dose, **changes), object_seed=2, noise_seed=draw)


def run_to_end(data: dict, **settings) -> Job:
    """A job after its run."""
    with tempfile.TemporaryDirectory() as folder:
        job = begin_run(data, Path(folder), **settings)
        for _ in job:
            pass
    return job


def compare_with_truth(data: dict, job: Job, sigma: np.ndarray, *, scaled: bool = True) -> dict:
    """Errors of the scan's field over sigma.

    Arguments: the case, the job, ``sigma (y, x)`` on its canvas, whether the best factor is taken out too.
    """
    phase, places = state(job, data["dx"])
    field = cut_field(data, phase.sum(0), places, {"sigma": sigma})
    factor = np.vdot(field["found"], field["truth"]) / np.vdot(field["found"], field["found"])
    found = factor * field["found"] if scaled else field["found"]
    return {**field, "error": found - field["truth"], "factor": float(factor)}


def judge_errors(field: dict) -> dict:
    """Coverage of 95 %, mean square over sigma, and the same of means over 5 x 5 pixels."""
    over = field["error"] / field["sigma"]
    return {
        "coverage": float((np.abs(over) < 1.96).mean()),
        "mean_z2": float((over**2).mean()),
        "sigma": float(np.median(field["sigma"])),
        "rmse": float(np.sqrt((field["error"] ** 2).mean())),
        "rmse_5x5": float(np.sqrt((uniform_filter(field["error"], 5)[2:-2, 2:-2] ** 2).mean())),
        "factor": field["factor"],
    }


def measure_coverage(dose: float, draw: int, *, draws: int = 0, **settings) -> dict:
    """One run against the truth by the map, and by so many draws."""
    data = make_case(dose, draw)
    job = run_to_end(data, **settings)
    known = estimate_uncertainty(job)
    row = {"dose": dose, "draw": draw, "settings": {k: str(v) for k, v in settings.items()}}
    row["loss"] = job.progress.history[-1]["loss"]
    if known.sigma is None:
        return row | {"missing": known.missing}
    row["map"] = rounded(judge_errors(compare_with_truth(data, job, known.sigma[0])))
    row["map"]["mean_5x5"] = known.mean
    row["map_with_scale"] = rounded(judge_errors(compare_with_truth(data, job, known.sigma[0], scaled=False)))
    row["reasons"] = known.reasons
    if draws:
        drawn = draw_results(job, count=draws, seed=draw)
        row["draws"] = rounded(judge_errors(compare_with_truth(data, job, drawn.sigma[0])))
        row["draws"] |= rounded(
            {"pixel": drawn.pixel, "mean_5x5": drawn.mean, "contrast": drawn.contrast, "count": draws}
        )
    return row


CONDITIONS = {
    "defocused": {},
    "defocused, 1e5": {"dose": 1e5},
    "positions free": {"still": False},
    "focused": {"C10": 0.0},
    "background 0.05": {"background": 0.05},
    "two slices": {"slices": 2},
    "tv penalty": {"penalties": [{"tv": {"weight": 0.1}}]},
    "amplitude": {"noise": "amplitude"},
}


def measure_bootstrap(name: str, *, count: int = 8, **condition) -> dict:
    """The map against draws under a condition."""
    dose = condition.pop("dose", 1e4)
    background = condition.pop("background", 0.0)
    slices = condition.pop("slices", 1)
    changes = {"C10": condition.pop("C10")} if "C10" in condition else {}
    data = make_case(dose, 1, **changes)
    if background:
        drawn = np.random.default_rng(7).poisson(background, data["meas"].shape)
        data["meas"] = data["meas"] + drawn.astype(np.float32)
        condition["rates"] = {"background": 0.2}
    if slices > 1:
        condition["object"] = {"pixels": {"slices": slices, "thickness": "10 A", "kind": "complex"}}
    job = run_to_end(data, **condition)
    known = estimate_uncertainty(job)
    row = {"condition": name, "dose": dose, "sentence": str(known), "reasons": [*known.reasons]}
    if known.sigma is None:
        return row
    drawn = draw_results(job, count=count)
    sigma = known.sigma[:, drawn.core]
    found = drawn.sigma[:, drawn.core]
    white = 1 / np.sqrt(2 * np.asarray(cut_true_light(data, job)))
    numbers = {
        "map": float(np.median(sigma)),
        "draws": float(np.median(found)),
        "ratio": float(np.median(sigma) / np.median(found)),
        "map_5x5": known.mean,
        "draws_5x5": drawn.mean,
        "white_bound": float(np.median(white)),
        "kappa": known.kappa,
    }
    return row | rounded(numbers)


def cut_true_light(data: dict, job: Job) -> np.ndarray:
    """Electrons on the pixels of the scan's field."""
    phase, places = state(job, data["dx"])
    return cut_field(data, phase.sum(0), places, {})["light"]


def measure_order(draw: int) -> dict:
    """Rank correlation of sigma and errors where the dose falls by `DOSE_FALL` across the field."""
    data = make_case(1e4, draw)
    across = data["pos_px"][:, 1]
    share = (across - across.min()) / np.ptp(across)
    weights = DOSE_FALL**-share
    rng = np.random.default_rng(100 + draw)
    data["meas"] = rng.poisson(data["meas_clean"] * weights[:, None, None]).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        first = begin_run(data, Path(folder))
        scan = replace(first.finest.scan, weights=weights)
        job = Job.begin(first.recipe.model_copy(update={"found": {}}), scan=scan)
        for _ in job:
            pass
    known = estimate_uncertainty(job)
    field = compare_with_truth(data, job, known.sigma[0])
    size = np.abs(field["error"])
    rms = np.sqrt(uniform_filter(field["error"] ** 2, 7))
    ideal = np.abs(np.random.default_rng(draw).normal(size=size.shape)) * field["sigma"]
    numbers = {
        "draw": draw,
        "sigma_ratio": float(field["sigma"].max() / field["sigma"].min()),
        "spearman": float(spearmanr(field["sigma"].ravel(), size.ravel())[0]),
        "spearman_of_normal_errors": float(spearmanr(field["sigma"].ravel(), ideal.ravel())[0]),
        "spearman_of_rms_in_7x7": float(spearmanr(field["sigma"].ravel(), rms.ravel())[0]),
    }
    return rounded(numbers | judge_errors(field))


def measure_cost() -> dict:
    """CPU seconds of the map, of a draw and of an epoch."""
    job = run_to_end(make_case(1e4, 1))
    epochs = [event["seconds"] for event in job.progress.history[-5:]]
    began = time.process_time()
    estimate_uncertainty(job)
    middle = time.process_time()
    draw_results(job, count=2)
    ended = time.process_time()
    epoch = float(np.median(epochs))
    numbers = {"epoch_s": epoch, "map_s": middle - began, "map_epochs": (middle - began) / epoch}
    numbers["draw_epochs"] = (ended - middle) / 2 / epoch
    numbers["draws_of_8_epochs"] = 8 * numbers["draw_epochs"]
    return rounded(numbers)


def summarise(rows: list[dict], key: str) -> dict:
    """Mean and scatter over runs."""
    kept = [row[key] for row in rows if key in row]
    names = ("coverage", "mean_z2", "sigma", "rmse", "rmse_5x5", "mean_5x5", "factor")
    found = {name: [one[name] for one in kept if name in one] for name in names}
    return {
        name: {"mean": round(float(np.mean(v)), 4), "std": round(float(np.std(v)), 4)}
        for name, v in found.items()
        if v
    }


COVERAGE = {
    "probe free, 20 epochs": (1e4, {}),
    "probe free, 60 epochs": (1e4, {"epochs": 60}),
    "probe and positions free": (1e4, {"still": False}),
    "probe free, 1e3": (1e3, {}),
    "probe free, 1e5": (1e5, {}),
    "probe free, 1e6": (1e6, {}),
}


FEW_COUNTS = (0.1, 0.3, 1.0)
"""Counts a pixel of ``--few``."""


def measure_few_counts(draws: int) -> dict:
    """Coverage at few counts a pixel, by noise model; the scale of the phase is not taken out."""
    pixels = 64**2
    found = {}
    for noise in ("amplitude", "poisson"):
        for count in FEW_COUNTS:
            rows = [
                measure_coverage(count * pixels, draw, noise=noise, epochs=40) for draw in range(1, draws + 1)
            ]
            with_map = [row for row in rows if "map" in row]
            found[f"{noise}, {count:g}"] = {
                "runs": rows,
                "map_with_scale": summarise(with_map, "map_with_scale"),
            }
            print(noise, count, found[f"{noise}, {count:g}"]["map_with_scale"], flush=True)
    return found


def main() -> None:
    """Measure everything, and write it down."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--few", action="store_true", help="few counts alone")
    parser.add_argument("--draws", type=int, default=10, help="noise draws of a case of coverage")
    parser.add_argument(
        "--out", type=Path, default=Path(f"benchmarks/results/uncertainty-{date.today()}.json")
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    about = {"date": f"{date.today()}", "machine": machine(), "commit": find_commit(), "threads": 1}
    if given.few:
        about |= {"phaseloom": pl.__version__, "few": measure_few_counts(given.draws)}
        given.out.write_text(json.dumps(about, indent=1, default=float) + "\n")
        return
    found: dict = {**about, "phaseloom": pl.__version__, "cost": measure_cost()}
    print(found["cost"], flush=True)
    found["bootstrap"] = [measure_bootstrap(name, **dict(made)) for name, made in CONDITIONS.items()]
    print(json.dumps(found["bootstrap"], indent=1), flush=True)
    found["order"] = [measure_order(draw) for draw in (1, 2, 3)]
    print(found["order"], flush=True)
    found["coverage"] = {}
    for name, (dose, settings) in COVERAGE.items():
        few = given.draws if dose == 1e4 else max(2, given.draws // 3)
        rows = [
            measure_coverage(dose, draw, draws=8 if draw <= 2 and dose > 1e3 else 0, **settings)
            for draw in range(1, few + 1)
        ]
        found["coverage"][name] = {
            "runs": rows,
            **{key: summarise(rows, key) for key in ("map", "map_with_scale", "draws")},
        }
        print(name, {k: v for k, v in found["coverage"][name].items() if k != "runs"}, flush=True)
        given.out.write_text(json.dumps(found, indent=1, default=float) + "\n")


if __name__ == "__main__":
    main()
