"""Networks of the package on scans that it did not make: how good, and which are accepted.

    python -m benchmarks.foreign_networks FOLDER --set calibrate [--models linear tiny] [--out FILE]

Reads the scans of `benchmarks.foreign_scans`, predicts each as ``phaseloom predict`` does, with what the user
knows, and compares the phase with the truth: ``correlation`` and ``nmse`` after a constant is removed,
``flat`` after a plane is, 8 pixels at the edges left out. ``fitted`` is fitted to the probe of each scan
(`phaseloom.retrieval.fitted_networks`). A prediction is accepted where there is no warning.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.record import machine
from phaseloom.data import prepare
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.learning import weight_files
from phaseloom.metrics.phase import remove_ramp
from phaseloom.ptycho.probes.guesses import BeamOptics
from phaseloom.retrieval.fitted_networks import choose_network
from phaseloom.retrieval.networks.linear import LinearRecovery
from phaseloom.retrieval.predict_scans import check_prediction, measure_repeatability
from phaseloom.retrieval.prediction import predict
from phaseloom.simulation.experiment import PIXELS_PER_STEP
from phaseloom.units import electron_wavelength

RIM = 8
GOOD = 0.9
VERY_GOOD = 0.95


def load_scan(path):
    """Scan, what is known of it, and the true phase."""
    with np.load(path) as file:
        counts, truth, about = file["counts"], file["truth"], json.loads(str(file["about"]))
    n = counts.shape[0]
    line = about["step"] * np.arange(n)
    places = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    wavelength = electron_wavelength(about["kilovolts"] * 1e3)
    angle = (about["angle"], about["angle"])
    geometry = Geometry(wavelength=wavelength, shape=counts.shape[2:], angle=angle, beam="electron")
    counts = counts.reshape(-1, *counts.shape[2:]).astype(np.float32)
    scan = Scan4D(counts=counts, positions=places, geometry=geometry, grid=(n, n))
    transposed, rows, columns = about["orientation"]
    for wanted, axis in ((columns, "x"), (rows, "y")):
        scan = prepare.flip(scan, axis=axis) if wanted else scan
    scan = prepare.transpose(scan) if transposed else scan
    if about["rotation"]:
        scan = prepare.rotate(scan, angle=about["rotation"])
    return scan, about, truth


def compare(found, truth):
    """Scores of a phase on the pixels of the truth."""
    inner = [np.asarray(part, float)[RIM:-RIM, RIM:-RIM] for part in (found, truth)]
    one, other = (part - part.mean() for part in inner)
    flat, wanted = (remove_ramp(part) for part in inner)
    return {
        "correlation": float(np.corrcoef(one.ravel(), other.ravel())[0, 1]),
        "nmse": float(((one - other) ** 2).sum() / (other**2).sum()),
        "flat": float(np.corrcoef(flat.ravel(), wanted.ravel())[0, 1]),
    }


def judge(model, path):
    """Scores of a network on a scan, and whether it is accepted."""
    scan, about, truth = load_scan(path)
    optics = BeamOptics(semiangle=about["semiangle"], aberrations={"defocus": about["defocus"]})
    began = time.process_time()
    network = choose_network(model, scan, optics)
    net = weight_files.load_network(network)
    card = {"name": model, **weight_files.load_card(network)}
    fit_s = time.process_time() - began
    row = {key: about[key] for key in ("seed", "material", "wrong", "electrons", "angle")}
    row |= {name: about[name] for name in ("kilovolts", "semiangle", "defocus", "step")} | {"fit_s": fit_s}
    row |= {"pixels": scan.geometry.shape[0], "faults": sorted(about["faults"])}
    began = time.process_time()
    try:
        made = predict(net, card, scan, optics)
    except BadInput as problem:
        return {**row, "refused": str(problem)}
    again = measure_repeatability(net, card, scan, optics)
    misfit, warnings = check_prediction(made, scan, again, linear=isinstance(net, LinearRecovery))
    row |= {"accepted": not warnings, "warnings": warnings, "notes": list(made.notes), "repeatability": again}
    if misfit is not None:
        row |= {key: value for key, value in vars(misfit).items() if isinstance(value, (float, int))}
    row["cpu_s"] = time.process_time() - began
    if made.error is not None:
        row |= judge_errors(made, about, truth)
    return row | compare(on_truth(made, about, truth.shape), truth)


def judge_errors(made, about, truth):
    """Errors over those that the network expects: root mean square, share within one; and what it expects.

    Pixels of the truth at the edges are left out, and a constant.
    """
    inner = (slice(RIM, -RIM), slice(RIM, -RIM))
    found, error = (
        on_truth(replace(made, phase=field), about, truth.shape)[inner] for field in (made.phase, made.error)
    )
    wrong = found - truth[inner]
    over = (wrong - wrong.mean()) / error
    return {
        "error_over_expected": float(np.sqrt((over**2).mean())),
        "share_within_expected": float((np.abs(over) < 1).mean()),
        "expected_share": made.expected_share,
    }


def on_truth(made, about, shape):
    """A prediction on the pixels of the truth, which has the axes of the nominal scan."""
    line = (np.arange(shape[0]) / PIXELS_PER_STEP - 1) * about["step"]
    places = np.stack(np.meshgrid(line, line, indexing="ij"), -1)
    cosine, sine = np.cos(about["rotation"]), np.sin(about["rotation"])
    return made.sample(places @ np.array([[cosine, sine], [-sine, cosine]]))


def summarise(rows):
    """Counts over the scans of a network."""
    judged = [row for row in rows if "correlation" in row]
    accepted = [row for row in judged if row["accepted"]]
    fine = [row for row in judged if row["correlation"] > VERY_GOOD]
    right = [row["correlation"] for row in judged if not row["wrong"]]
    return {
        "scans": len(rows),
        "refused": sum("refused" in row for row in rows),
        "accepted": len(accepted),
        "accepted_above_0.9": sum(row["correlation"] > GOOD for row in accepted),
        "above_0.95": len(fine),
        "above_0.95_accepted": sum(row["accepted"] for row in fine),
        "median_correlation_nothing_wrong": float(np.median(right)) if right else None,
        "worst_accepted": sorted((row["correlation"], row["seed"]) for row in accepted)[:5],
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--set", default="calibrate")
    parser.add_argument("--models", nargs="*", default=["linear", "tiny"])
    parser.add_argument("--first", type=int, help="scans that are judged, at most")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = {"machine": machine(), "set": given.set}
    paths = sorted(given.folder.glob(f"{given.set}-*.npz"), key=lambda path: int(path.stem.split("-")[-1]))
    for model in given.models:
        rows = [judge(model, one) for one in paths[: given.first]]
        found[model] = {**summarise(rows), "rows": rows}
        print(model, json.dumps(summarise(rows)), flush=True)
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
