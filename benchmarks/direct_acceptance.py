"""Accuracy of the fit of optics on scans of our own simulator with known truth, beside the Cramer-Rao bound.

    python -m benchmarks.direct_acceptance --seeds 24 --out benchmarks/results/direct-acceptance-DATE.json

64 x 64 places, 20 mrad, 80 keV, 1e3 electrons per pattern, C10 from -500 to 500 angstrom, up to 40 of C12,
any of eight orientations, any rotation; atoms of up to 0.2 radian. Wanted are C10 within 5 angstrom or 1 %,
C12 within 5 angstrom, rotation within 0.3 degrees and the parity of the orientation, all up to the twin. The
bound is what the counting noise of all bright-field pixels allows an unbiased fit of a weak object, all
numbers of the fit and the object being unknown.
"""

import argparse
import json
import math
import statistics
import subprocess
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import torch

from benchmarks.record import machine
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.direct import fit as fits
from phaseloom.direct.fit import ALL_NAMES
from phaseloom.direct.reconstruct import find_largest_defocus
from phaseloom.direct.survey import survey_disk
from phaseloom.direct.transfer import LinearOptics, compute_columns, orientation_matrix, turn_matrix
from phaseloom.physics.optics import aberration_polynomial
from phaseloom.simulation import simulate

__all__ = ["Case", "compute_bounds", "draw_case", "measure_fit"]

WAVELENGTH = 0.041757  # 80 keV, angstrom
SEMIANGLE = 0.020
GRID = (64, 64)
PIXEL = 0.5  # of the object, which is the step too, angstrom
WINDOW = 64
NAMES = ("C10", "C12a", "C12b", "rotation")


@dataclass(frozen=True)
class Case:
    """A scan with its truth."""

    scan: Scan4D
    phase: np.ndarray
    optics: LinearOptics


def draw_case(seed, electrons, *, amplitude=0.2):
    """A scan of atoms with optics and geometry drawn at random.

    Args:
        seed: of everything.
        electrons: per pattern.
        amplitude: highest phase of an atom, radian.
    """
    rng = np.random.default_rng(seed)
    size, azimuth = rng.uniform(0, 40), rng.uniform(0, math.pi)
    aberrations = {"C10": rng.uniform(-500, 500)}
    aberrations |= {"C12a": size * math.cos(2 * azimuth), "C12b": size * math.sin(2 * azimuth)}
    way, rotation = int(rng.integers(8)), rng.uniform(-math.pi, math.pi)
    optics = LinearOptics(WAVELENGTH, SEMIANGLE, aberrations, orientation=way, rotation=rotation)
    side = GRID[0] + WINDOW
    phase = np.asarray(simulate.atoms((side, side), PIXEL, peak=amplitude, seed=seed)).reshape(side, side)
    patterns = rng.poisson(electrons * simulate_patterns(phase, aberrations))
    # a recorded pattern is the true one seen through the inverse of the orientation
    shift = np.indices((WINDOW, WINDOW)).reshape(2, -1).T - WINDOW // 2
    source = np.round(shift @ orientation_matrix(way)).astype(int) % WINDOW
    source = (source + WINDOW // 2) % WINDOW
    recorded = patterns[:, source[:, 0], source[:, 1]].reshape(-1, WINDOW, WINDOW)
    true = np.indices(GRID).reshape(2, -1).T * PIXEL
    angle = WAVELENGTH / (WINDOW * PIXEL)
    geometry = Geometry(wavelength=WAVELENGTH, shape=(WINDOW, WINDOW), angle=(angle, angle), beam="electron")
    stated = true @ np.linalg.inv(turn_matrix(rotation))
    scan = Scan4D(counts=recorded.astype(np.float32), positions=stated, geometry=geometry, grid=GRID)
    middle = phase[WINDOW // 2 : WINDOW // 2 + GRID[0], WINDOW // 2 : WINDOW // 2 + GRID[1]]
    return Case(scan, middle, optics)


def simulate_patterns(phase, aberrations):
    """Patterns of one electron, zero frequency on pixel ``WINDOW // 2``; not by the linear model."""
    line = np.fft.fftfreq(WINDOW, PIXEL)
    row, column = np.meshgrid(line, line, indexing="ij")
    k = torch.from_numpy(row), torch.from_numpy(column)
    chi = aberration_polynomial(*k, WAVELENGTH, aberrations).numpy()
    far = (np.hypot(row, column) <= SEMIANGLE / WAVELENGTH) * np.exp(-1j * chi)
    far = far / np.linalg.norm(far)
    probe = np.roll(np.fft.ifft2(far, norm="ortho"), (WINDOW // 2, WINDOW // 2), (0, 1))
    object_ = np.exp(1j * phase)
    out = np.empty((math.prod(GRID), WINDOW, WINDOW))
    for number, (i, j) in enumerate(np.ndindex(*GRID)):
        wave = probe * object_[i : i + WINDOW, j : j + WINDOW]
        out[number] = np.abs(np.fft.fftshift(np.fft.fft2(wave, norm="ortho"))) ** 2
    return out


def compare_optics(found, true):
    """Errors up to the twin: angstrom and degrees, and whether the parity of the orientation is right."""
    mine, theirs = (
        orientation_matrix(one.orientation) @ turn_matrix(float(one.rotation)).T for one in (found, true)
    )
    between = np.linalg.inv(theirs) @ mine
    if np.linalg.det(between) < 0:
        return {"parity": False, "C10": None, "C12": None, "rotation_deg": None, "twin": None}
    angle = math.degrees(math.atan2(between[0, 1] - between[1, 0], between[0, 0] + between[1, 1]))
    twin = abs(angle) > 90
    if twin:
        angle = math.remainder(angle - 180, 360)
    turn = np.linalg.inv(orientation_matrix(true.orientation)) @ orientation_matrix(found.orientation)
    bent = turn @ build_tensor(found) @ turn.T * (-1 if twin else 1) - build_tensor(true)
    astigmatism = math.hypot((bent[1, 1] - bent[0, 0]) / 2, bent[0, 1])
    return {
        "parity": True,
        "twin": twin,
        "C10": (bent[0, 0] + bent[1, 1]) / 2,
        "C12": astigmatism,
        "rotation_deg": angle,
    }


def build_tensor(optics):
    """The second-order aberrations as a quadratic form of (row, column)."""
    c10, a, b = (float(optics.aberrations.get(name, 0.0)) for name in ("C10", "C12a", "C12b"))
    return np.array([[c10 - a, b], [b, c10 + a]])


def compute_bounds(case, spectrum, names, *, step_tolerance=fits.STEP_TOLERANCE):
    """Cramer-Rao bounds of some numbers of the optics, the object and all other names being unknown.

    Args:
        case: for the true object and optics.
        spectrum: frequencies and pixels that are used; its values are not.
        names: as for `phaseloom.direct.fit.fit_optics`.
        step_tolerance: standard deviation of the stated step.
    """
    parameters = fits._Parameters(case.optics, tuple(names))
    true = find_true_object(case, spectrum.frequency)

    def place(values):
        return parameters.place(torch.tensor(values))

    def predict(values):
        columns = compute_columns(place(values), spectrum.place, spectrum.frequency, edge=spectrum.edge)
        return columns, torch.einsum("fkc,fc->fk", columns, true)

    zero = np.zeros(len(names))
    columns, _ = predict(zero)
    root = spectrum.counts.sqrt()
    basis = torch.linalg.qr(columns * root[:, None])[0]
    moves = []
    for unit in 1e-3 * np.eye(len(names)):
        change = (predict(unit)[1] - predict(-unit)[1]) / 2e-3 * root
        moves.append(
            change - torch.einsum("fkc,fc->fk", basis, torch.einsum("fkc,fk->fc", basis.conj(), change))
        )
    stack = torch.stack(moves).flatten(1)
    fisher = 2 * (stack.conj() @ stack.T).real.numpy()
    if "step" in names:
        at = list(names).index("step")
        fisher[at, at] += (parameters.unit("step") / step_tolerance) ** 2
    variance = fits._invert_diagonal(fisher)
    return {name: parameters.unit(name) * math.sqrt(v) for name, v in zip(names, variance, strict=True)}


def find_true_object(case, frequency):
    """Spectrum of the true object, (phase, loss of amplitude), as the data are normalised."""
    places = torch.from_numpy(case.scan.positions - case.scan.positions.mean(0))
    phase = torch.from_numpy(case.phase.ravel() - case.phase.mean())
    rows, columns = (torch.from_numpy(np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 0.5) for n in GRID)
    fade = torch.outer(rows, columns).ravel()
    waves = torch.exp(-2j * math.pi * (frequency @ places.T))
    values = waves @ (phase * fade / fade.square().sum().sqrt()).to(waves.dtype)
    return torch.stack([values, torch.zeros_like(values)], -1)


def measure_fit(seed, electrons):
    """Errors of the fit on one scan beside their bounds."""
    case = draw_case(seed, electrons)
    began = time.process_time()
    survey = survey_disk(case.scan)
    coarse = survey.measure(case.scan).transform()
    start = LinearOptics(WAVELENGTH, SEMIANGLE, angle=SEMIANGLE / survey.semiangle(case.scan))
    largest = find_largest_defocus(case.scan, SEMIANGLE)
    first = fits.fit_optics(coarse, start, largest_defocus=largest)
    fine = survey.measure(case.scan, pixels=500).transform()
    refined = fits.are_pixels_coarse(coarse, first.optics)
    found = fits.refine_optics(fine, first, errors=False) if refined else first
    seconds = time.process_time() - began
    errors = compare_optics(found.optics, case.optics)
    length = fine.frequency.norm(dim=-1)
    every = fine.select(torch.nonzero((length > 0) & (length < 2 * SEMIANGLE / WAVELENGTH))[:, 0])
    row = {"seed": seed, "true": {**case.optics.aberrations, "orientation": case.optics.orientation}}
    row |= {"errors": errors, "refined": refined, "margin": found.margin, "cpu_s": seconds}
    row["coarse_errors"] = compare_optics(first.optics, case.optics)
    # every fourth pixel: the information of all is four times as large
    bound = compute_bounds(case, every.select_pixels(torch.arange(seed % 4, len(every.place), 4)), ALL_NAMES)
    row["bound"] = {one: bound[one] / 2 for one in NAMES}
    row["bound"]["rotation_deg"] = math.degrees(row["bound"].pop("rotation"))
    row["passed"] = judge_fit(errors, case.optics)
    return row


def judge_fit(errors, true):
    """What of the acceptance a fit meets."""
    if not errors["parity"]:
        return {"parity": False, "C10": False, "C12": False, "rotation": False}
    return {
        "parity": True,
        "C10": abs(errors["C10"]) <= max(5.0, 0.01 * abs(true.aberrations["C10"])),
        "C12": errors["C12"] <= 5.0,
        "rotation": abs(errors["rotation_deg"]) <= 0.3,
    }


def summarize(rows):
    """How many pass, and errors in units of their bounds."""
    good = [row for row in rows if row["errors"]["parity"]]
    summary = {"scans": len(rows)}
    summary |= {name: sum(row["passed"][name] for row in rows) for name in rows[0]["passed"]}
    summary["all"] = sum(all(row["passed"].values()) for row in rows)
    for name in ("C10", "rotation_deg"):
        summary[f"median_{name}"] = statistics.median(abs(row["errors"][name]) for row in good)
        summary[f"worst_{name}"] = max(abs(row["errors"][name]) for row in good)
        summary[f"median_bound_{name}"] = statistics.median(row["bound"][name] for row in good)
    summary["median_C12"] = statistics.median(row["errors"]["C12"] for row in good)
    summary["worst_C12"] = max(row["errors"]["C12"] for row in good)
    bounds = [math.hypot(row["bound"]["C12a"], row["bound"]["C12b"]) for row in good]
    summary["median_bound_C12"] = statistics.median(bounds)
    summary["median_cpu_s"] = statistics.median(row["cpu_s"] for row in rows)
    return summary


def main():
    """Seeds one after the other; the file is written after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=24)
    parser.add_argument("--electrons", type=float, default=1e3)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    line = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    commit = subprocess.run(line, capture_output=True, text=True, check=False).stdout.strip()
    head = {"machine": machine(), "date": date.today().isoformat(), "commit": commit, "threads": 1}
    head["electrons"] = asked.electrons
    rows = []
    for seed in range(asked.seeds):
        rows.append(measure_fit(seed, asked.electrons))
        print(seed, rows[-1]["errors"], rows[-1]["passed"], flush=True)
        if asked.out is not None:
            record = {**head, "summary": summarize(rows), "rows": rows}
            asked.out.write_text(json.dumps(record, indent=1, default=float) + "\n")
    print(json.dumps(summarize(rows), indent=1, default=float))


if __name__ == "__main__":
    main()
