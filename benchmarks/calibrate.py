"""Scans whose calibration was spoilt at random, and what `preset: calibrate` finds of it.

    python -m benchmarks.calibrate --out benchmarks/results/calibrate-DATE.json
    python -m benchmarks.calibrate --name thick --unstated --cases 5

Case 0 is the one that is always meant: size S (`benchmarks.cases`), a transposed detector, the scan turned by
7 degrees, its step 2 % off, the defocus stated 60 angstrom off. The others have their own objects, raster
errors and counts, one of the eight ways to lay a detector, any rotation within 7 degrees and step within
2 %, the focus on either side, and the defocus stated 60 angstrom too near or too far. A case is right
when the detector is laid exactly right, twins told apart, rotation within 0.3 degrees, step within 0.3 %
and defocus, of the middle of the object, within 5 angstrom. One thread.
"""

import argparse
import json
import math
import subprocess
import time
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np
import torch

from benchmarks import cases
from benchmarks.record import machine
from phaseloom.calibration.orientations import ORIENTATIONS, TWINS
from phaseloom.calibration.state import CalibrationState
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.reconstruction.protocol import calibrate
from phaseloom.reconstruction.recipe import Reconstruct

RIGHT = {"rotation_deg": 0.3, "step_percent": 0.3, "defocus_A": 5.0}
WAYS = list(ORIENTATIONS | TWINS)


@dataclass(frozen=True)
class Spoilt:
    """A scan with a wrong calibration, what would mend it, and the defocus stated (angstrom)."""

    scan: Scan4D
    truth: CalibrationState
    stated: float
    semiangle: float

    def recipe(self, *, unstated: bool) -> Reconstruct:
        """What a user would know."""
        optics = {"semiangle": f"{self.semiangle} mrad"}
        optics |= {} if unstated else {"defocus": f"{self.stated} A"}
        return Reconstruct.of({"probe": {"focused": optics}, "preset": "calibrate"})


def spoilt(name: str, number: int, dose: float | None) -> Spoilt:
    """A random case by its number; see the top of this file."""
    rng = np.random.default_rng((number, 9))
    case = cases.CASES[name]
    side = 1 if number == 0 else rng.choice([-1, 1])
    case = replace(case, C10=float(side * case.C10), dose=dose or case.dose)
    data = cases.made(case, object_seed=number, noise_seed=number)
    angle = float(data["wavelength"]) / (case.pixels * case.dx)
    geometry = Geometry(
        wavelength=float(data["wavelength"]),
        shape=(case.pixels, case.pixels),
        angle=(angle, angle),
        beam="electron",
    )
    places = data["pos_nominal_px"] * case.dx
    scan = Scan4D(counts=data["meas"], positions=places, geometry=geometry, grid=case.scan, oriented=False)
    way = "transposed" if number == 0 else WAYS[rng.integers(8)]
    turn = math.radians(7.0 if number == 0 else rng.uniform(-7, 7))
    step = 1.02 if number == 0 else 1 + rng.uniform(-0.02, 0.02)
    recipe = Reconstruct.of({})
    depth = {"slices": case.slices, "gap": case.dz}
    truth = CalibrationState(recipe, 1e-3 * case.semiangle, -case.C10, way, turn, step, **depth)
    for call in reversed(CalibrationState(recipe, orientation=way).steps(scan)):
        scan = call(scan)
    scan = replace(scan, positions=scan.positions @ _turn(-turn) / step)
    off = 60.0 * (-1 if number == 0 else rng.choice([-1, 1]))
    return Spoilt(scan, truth, -case.C10 + off, case.semiangle)


def _turn(angle: float) -> np.ndarray:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, s], [-s, c]])


def _middle(state: CalibrationState) -> float:
    """Defocus of the middle of an object, which does not depend on the number of slices."""
    return state.defocus - (state.slices - 1) * state.gap / 2


def errors(found: CalibrationState, truth: CalibrationState) -> dict:
    """How far what was found is from the truth."""
    rest = np.linalg.inv(truth.detector_frame()) @ found.detector_frame()
    turn = math.degrees(math.atan2(rest[0, 1] - rest[1, 0], rest[0, 0] + rest[1, 1]))
    numbers = {
        "rotation_deg": turn,
        "step_percent": 100 * (1 / math.sqrt(abs(np.linalg.det(rest))) - 1),
        "defocus_A": _middle(found) - _middle(truth),
    }
    laid = bool(np.linalg.det(rest) > 0 and abs(turn) < 45)
    right = laid and all(abs(numbers[name]) <= most for name, most in RIGHT.items())
    return {"laid": laid, "right": right, **{name: round(value, 4) for name, value in numbers.items()}}


def commit() -> str:
    """Of the working tree, a plus where it has changed."""
    asked = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()


def measured(name: str, number: int, dose: float | None, *, unstated: bool) -> dict:
    """One case: what was wrong, what was found, how wrong that is."""
    case = spoilt(name, number, dose)
    began = time.process_time()
    done = calibrate(case.recipe(unstated=unstated), case.scan)
    seconds = time.process_time() - began
    truth = case.truth
    wrong = {
        "orientation": truth.orientation,
        "rotation_deg": math.degrees(truth.rotation),
        "step": truth.step,
    }
    wrong |= {"defocus_A": truth.defocus, "stated_A": None if unstated else case.stated}
    margins = {one.name: [round(one.margin, 4), one.decided] for one in done.estimates if one.margin < 1e9}
    return {
        "case": number,
        **errors(done.state, truth),
        "cpu_s": round(seconds, 1),
        "slices": [done.state.slices, round(done.state.gap, 2)],
        "truth": wrong,
        "margins": margins,
        "lines": done.lines(),
    }


def main() -> None:
    """All cases, the file written after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--name", default="S", choices=list(cases.CASES))
    parser.add_argument("--cases", type=int, default=20)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--dose", type=float)
    parser.add_argument("--unstated", action="store_true", help="the defocus is not stated at all")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for number in range(asked.first, asked.first + asked.cases):
        rows.append(measured(asked.name, number, asked.dose, unstated=asked.unstated))
        print(json.dumps(rows[-1]), flush=True)
        head = {"machine": machine(), "date": date.today().isoformat(), "commit": commit()}
        head |= {"name": asked.name, "dose": asked.dose, "unstated": asked.unstated, "threads": 1}
        head |= {"right": sum(row["right"] for row in rows), "of": len(rows)}
        if asked.out is not None:
            asked.out.write_text(json.dumps({**head, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
