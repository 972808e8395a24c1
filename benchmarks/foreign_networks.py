"""Networks of the package on scans that it did not make: how good, and which are accepted.

    python -m benchmarks.foreign_networks FOLDER --set calibrate [--models linear tiny] [--out FILE]

Reads the scans of `benchmarks.foreign_scans`, predicts each as ``phaseloom predict`` does, with what the user
knows, and compares the phase with the truth: ``correlation`` and ``nmse`` after a constant is removed,
``flat`` after a plane is, 8 pixels at the edges left out; ``strength``
is the factor that brings the predicted phase nearest to the truth. With ``--strength`` also the factors by
which the predicted and the true phase, as thin objects under a point source, explain the patterns best. With
``--source 1`` the size of the source is told where it has one; with ``--undo-source 1.1 1.5`` the blur is
undone in the predicted phase, by so many times at most, whatever the network. ``fitted`` is fitted to the
probe of each scan (`phaseloom.retrieval.fitted_networks`). With ``--wrong-settings`` one setting of each scan
is told wrongly (`spoil_settings`). A prediction is accepted where there is no warning.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.interpolate import CubicSpline

from benchmarks.record import machine
from phaseloom.data import prepare
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.learning import weight_files
from phaseloom.metrics.phase import remove_ramp
from phaseloom.ptycho.probes.guesses import BeamOptics
from phaseloom.retrieval.fitted_networks import choose_network
from phaseloom.retrieval.networks.linear import LinearRecovery
from phaseloom.retrieval.predict_scans import (
    check_prediction,
    check_settings,
    measure_misfit,
    measure_repeatability,
)
from phaseloom.retrieval.prediction import filter_source, predict
from phaseloom.simulation.experiment import PIXELS_PER_STEP
from phaseloom.units import electron_wavelength

RIM = 8
FAIR = 0.8
GOOD = 0.9
VERY_GOOD = 0.95
WRONG_SETTINGS = (
    *("transposed", "mirrored", "half turn", "turned"),
    *("defocus", "semiangle", "step", "astigmatism"),
)
FACTORS = (0.4, 0.6, 0.8, 1.0, 1.25, 1.6, 2.0)


def spoil_settings(about, kinds=WRONG_SETTINGS):
    """What a user knows who is wrong in one setting: orientation, defocus, semiangle, step or astigmatism."""
    rng = np.random.default_rng([about["seed"], 36])
    wrong = str(rng.choice(kinds))
    transposed, rows, columns = about["orientation"]
    sign, amount = float(rng.choice((-1, 1))), float(rng.uniform())
    unit = electron_wavelength(about["kilovolts"] * 1e3) / about["semiangle"] ** 2
    known = {
        "transposed": {"orientation": [not transposed, rows, columns]},
        "mirrored": {"orientation": [transposed, rows, not columns]},
        "half turn": {"orientation": [transposed, not rows, not columns]},
        "turned": {"rotation": about["rotation"] + sign * np.deg2rad(8 + 32 * amount)},
        "defocus": {"defocus": about["defocus"] + sign * unit * (0.2 + 0.25 * amount)},
        "semiangle": {"semiangle": about["semiangle"] * (1 + sign * (0.05 + 0.07 * amount))},
        "step": {"step": about["step"] * (1 + sign * (0.06 + 0.06 * amount))},
        "astigmatism": {"astigmatism": [unit * (0.3 + 0.3 * amount), float(rng.uniform(-1.5, 1.5))]},
    }
    return {**about, **known[wrong], "wrong": wrong}


def load_scan(path, *, wrong_settings=()):
    """Scan, what is known of it, and the true phase."""
    with np.load(path) as file:
        counts, truth, about = file["counts"], file["truth"], json.loads(str(file["about"]))
    about = spoil_settings(about, wrong_settings) if wrong_settings else about
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
        "strength": float((one * other).sum() / (one**2).sum()),
    }


def fit_strength(made, scan):
    """The factor on a phase by which it explains the inner patterns best, 0.4 to 2."""
    misfits = [measure_misfit(replace(made, phase=factor * made.phase), scan).predicted for factor in FACTORS]
    fine = np.linspace(FACTORS[0], FACTORS[-1], 321)
    return float(fine[CubicSpline(FACTORS, np.square(misfits))(fine).argmin()])


def true_prediction(made, about, truth):
    """The true phase in place of a predicted one."""
    step = about["step"]
    cosine, sine = np.cos(about["rotation"]), np.sin(about["rotation"])
    first = (-step * (cosine - sine), -step * (cosine + sine))
    phase = (truth - truth.mean()).astype(np.float32)
    pixel = (step / PIXELS_PER_STEP,) * 2
    return replace(made, phase=phase, origin=first, pixel=pixel, rotation=about["rotation"])


def judge(model, path, *, with_strength=False, source=0.0, wrong_settings=(), gains=()):
    """Scores of a network on a scan, and whether it is accepted; it is told ``source`` times its size."""
    scan, about, truth = load_scan(path, wrong_settings=wrong_settings)
    size = float(about["faults"].get("source_size", 0.0))
    known = know_optics(about)
    optics = BeamOptics(**known, source_size=source * size)
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
    warnings = warnings or check_settings(net, card, scan, optics)
    row |= {"accepted": not warnings, "warnings": warnings, "notes": list(made.notes), "repeatability": again}
    if misfit is not None:
        row |= {key: value for key, value in vars(misfit).items() if isinstance(value, (float, int))}
    row["cpu_s"] = time.process_time() - began
    if made.error is not None:
        row |= judge_errors(made, about, truth)
    row["source_size"] = size
    if source and size:
        untold = predict(net, card, scan, BeamOptics(**known))
        row["untold"] = compare(on_truth(untold, about, truth.shape), truth)
    if size and gains:
        row["undone"] = {f"{gain:g}": undo_source(made, size, gain, about, truth) for gain in gains}
    if with_strength:
        row["strength_by_patterns"] = fit_strength(made, scan)
        row["strength_of_truth_by_patterns"] = fit_strength(true_prediction(made, about, truth), scan)
    return row | compare(on_truth(made, about, truth.shape), truth)


def know_optics(about):
    """What the user knows of the beam, but for the source."""
    strength, angle = about.get("astigmatism", (0.0, 0.0))
    aberrations = {"defocus": about["defocus"], "C12": strength, "phi12": angle}
    return {"semiangle": about["semiangle"], "aberrations": aberrations}


def undo_source(made, size, gain, about, truth):
    """Scores of a prediction whose blur by a source is undone afterwards."""
    phase = filter_source(made.phase, made.pixel, size, undo=True, max_gain=gain)
    return compare(on_truth(replace(made, phase=phase), about, truth.shape), truth)


def judge_errors(made, about, truth):
    """Errors over the stated ones, shares within one and two, and the stated root mean square over the true.

    Pixels of the truth at the edges are left out, and a constant.
    """
    inner = (slice(RIM, -RIM), slice(RIM, -RIM))
    found, error = (
        on_truth(replace(made, phase=field), about, truth.shape)[inner] for field in (made.phase, made.error)
    )
    wrong = found - truth[inner]
    wrong = wrong - wrong.mean()
    over = wrong / error
    return {
        "error_over_expected": float(np.sqrt((over**2).mean())),
        "share_within_expected": float((np.abs(over) < 1).mean()),
        "share_within_twice": float((np.abs(over) < 2).mean()),
        "stated_over_true": float(np.sqrt((error**2).mean() / (wrong**2).mean())),
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
        "warned_of_the_step_alone": sum("with steps" in " ".join(row["warnings"]) for row in judged),
        "above_0.95": len(fine),
        "above_0.95_accepted": sum(row["accepted"] for row in fine),
        "median_correlation_nothing_wrong": float(np.median(right)) if right else None,
        "strength": summarise_strength([row for row in accepted if not row["wrong"]]),
        "strength_with_warnings": summarise_strength([row for row in judged if not row["wrong"]]),
        "errors": summarise_errors(judged),
        "worst_accepted": sorted((row["correlation"], row["seed"]) for row in accepted)[:5],
    }


def summarise_errors(rows):
    """Coverage (a mean over scans) and the ratio of the stated error to the true one, by kinds of scans."""
    told = [row for row in rows if "stated_over_true" in row]
    kinds = {
        "right": [row for row in told if not row["wrong"]],
        "right, accepted": [row for row in told if not row["wrong"] and row["accepted"]],
        "wrong": [row for row in told if row["wrong"]],
        "wrong, accepted": [row for row in told if row["wrong"] and row["accepted"]],
    }
    found = {}
    for kind, few in kinds.items():
        if few:
            ratios = [row["stated_over_true"] for row in few]
            found[kind] = {
                "scans": len(few),
                "within_one": float(np.mean([row["share_within_expected"] for row in few])),
                "within_two": float(np.mean([row["share_within_twice"] for row in few])),
                "stated_over_true": float(np.median(ratios)),
                "least": min(ratios),
                "most": max(ratios),
            }
    return found


def summarise_strength(rows):
    """Factors on the phase of accepted scans with nothing wrong, with a point source and with a wider one."""
    names = ("strength", "strength_by_patterns", "strength_of_truth_by_patterns")
    found = {}
    for kind in ("point source", "finite source"):
        few = [row for row in rows if (row["source_size"] > 0) == (kind == "finite source")]
        found[kind] = {"scans": len(few)}
        for name in names:
            values = [row[name] for row in few if name in row]
            if values:
                ends = {"least": min(values), "median": float(np.median(values)), "most": max(values)}
                found[kind][name] = ends
        found[kind]["nmse"] = float(np.median([row["nmse"] for row in few])) if few else None
    told = [row for row in rows if "untold" in row]
    if told:
        ratios = [row["nmse"] / row["untold"]["nmse"] for row in told]
        found["told the source"] = {
            "scans": len(told),
            "nmse_before": float(np.median([row["untold"]["nmse"] for row in told])),
            "nmse": float(np.median([row["nmse"] for row in told])),
            "strength_before": float(np.median([row["untold"]["strength"] for row in told])),
            "strength": float(np.median([row["strength"] for row in told])),
            "median_ratio": float(np.median(ratios)),
            "worst_ratio": max(ratios),
            "better": sum(ratio < 1 for ratio in ratios),
        }
    undone = [row for row in rows if "undone" in row]
    if undone:
        found["undone"] = summarise_undone(undone)
    by = [row for row in rows if "strength_by_patterns" in row]
    if by:
        after = [rescaled_nmse(row) for row in by]
        found["nmse"] = {
            "scans": len(by),
            "before": float(np.median([row["nmse"] for row in by])),
            "by_patterns": float(np.median(after)),
            "better": sum(one < row["nmse"] for one, row in zip(after, by, strict=True)),
            "worst_ratio": max(one / row["nmse"] for one, row in zip(after, by, strict=True)),
        }
    return found


def summarise_undone(rows):
    """Errors after the blur by the source was undone over those before, of all and of good predictions."""
    found = {}
    for kind, few in (("all", rows), ("good", [row for row in rows if row["correlation"] > FAIR])):
        if not few:
            continue
        found[kind] = {"scans": len(few), "strength": float(np.median([row["strength"] for row in few]))}
        for gain in few[0]["undone"]:
            ratios = [row["undone"][gain]["nmse"] / row["nmse"] for row in few]
            found[kind][gain] = {
                "median_ratio": float(np.median(ratios)),
                "worst_ratio": max(ratios),
                "better": sum(ratio < 1 for ratio in ratios),
            }
    return found


def rescaled_nmse(row):
    """The error of a phase times the factor that the patterns ask for; of one with the mean of the truth."""
    best, factor, corr = row["strength"], row["strength_by_patterns"], row["correlation"]
    return 1 - corr**2 + (corr * (factor / best - 1)) ** 2


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--set", default="calibrate")
    parser.add_argument("--models", nargs="*", default=["linear", "tiny"])
    parser.add_argument("--first", type=int, help="scans that are judged, at most")
    parser.add_argument("--strength", action="store_true", help="fit the strength of phases by the patterns")
    parser.add_argument("--source", type=float, default=0.0, help="tell so many times the source's size")
    parser.add_argument("--undo-source", type=float, nargs="*", default=[], help="largest gains")
    wrong = {"nargs": "*", "choices": WRONG_SETTINGS, "help": "tell one setting wrongly, of these or of all"}
    parser.add_argument("--wrong-settings", **wrong)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = {"machine": machine(), "set": given.set, "source": given.source}
    paths = sorted(given.folder.glob(f"{given.set}-*.npz"), key=lambda path: int(path.stem.split("-")[-1]))
    for model in given.models:
        rows = [
            judge(
                *(model, one),
                with_strength=given.strength,
                source=given.source,
                wrong_settings=() if given.wrong_settings is None else given.wrong_settings or WRONG_SETTINGS,
                gains=given.undo_source,
            )
            for one in paths[: given.first]
        ]
        found[model] = {**summarise(rows), "rows": rows}
        print(model, json.dumps(summarise(rows)), flush=True)
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
