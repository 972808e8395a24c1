"""How far a calibration is off the truth, in units of the errors that it tells.

    python -m benchmarks.calibration_errors --seeds 100 134         # about three CPU minutes

Thin objects of random atoms in numpy, nothing of ours: a pixel of the detector counts what falls on its whole
area (patterns of three times the window, summed), the scan is turned, and drawn are the dose, a soft edge of
the aperture, the size of the source, a background, aberrations, coarse pixels, and how strong the object is.
Compared are the semi-angle of the disk, and rotation, step and defocus of the linear model.
"""

import argparse
import json
import math
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch

from phaseloom.data.calibrate import fit_disk
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.direct.checks.handedness import fit_optics_and_hand
from phaseloom.direct.survey import survey_disk
from phaseloom.direct.transfer import LinearOptics
from phaseloom.errors import BadInput

WAVELENGTH, FINE = 0.025079, 3


def draw(seed):
    """What a scan is like; lengths in angstrom, angles in radian."""
    rng = np.random.default_rng(seed)
    semiangle = rng.uniform(0.012, 0.028)
    ratio = rng.uniform(1.4, 2.4)
    pixels = int(rng.choice([24, 32, 48, 64]))
    window = WAVELENGTH * pixels / (2 * ratio * semiangle)
    return {
        "seed": seed,
        "semiangle": semiangle,
        "pixels": pixels,
        "angle": 2 * ratio * semiangle / pixels,
        "defocus": float(rng.choice([-1, 1]) * rng.uniform(0.1, 0.45) * window / (2 * semiangle)),
        "dose": 10 ** rng.uniform(3, 6),
        "soft": float(rng.choice([0, rng.uniform(0.1, 1.2)])),  # pixels, standard deviation
        "source": float(rng.choice([0, rng.uniform(0.1, 0.3) * WAVELENGTH / semiangle])),
        "background": float(rng.choice([0, 0.05, 0.2])),
        "strength": 10 ** rng.uniform(-1.3, 0),
        "rotation": math.radians(rng.uniform(-40, 40)),
        "C12": float(rng.normal(0, 8)),
        "phi12": float(rng.uniform(0, np.pi)),
        "C30": float(rng.choice([0, 1e4])),
        "step": 0.45 * WAVELENGTH / (2 * semiangle),
        "off": rng.uniform(-0.8, 0.8, 2).tolist(),
        "grid": 24,
    }


def simulate(case):  # noqa: PLR0915 - one experiment from top to bottom
    """The scan of a case, its positions not turned: they have to be."""
    from scipy.special import erfc

    rng = np.random.default_rng([case["seed"], 1])
    pixels, angle = case["pixels"], case["angle"]
    many = FINE * pixels
    pixel = WAVELENGTH / (angle * pixels)  # of the object
    k = np.fft.fftfreq(many, pixel)
    ky, kx = np.meshgrid(k, k, indexing="ij")
    theta = WAVELENGTH * np.hypot(ky, kx)
    rim = (theta - case["semiangle"]) / angle
    soft = case["soft"]
    sharp = np.clip(0.5 - FINE * rim, 0, 1)  # what a fine pixel holds of a sharp edge
    aperture = np.sqrt(0.5 * erfc(rim / (soft * np.sqrt(2))) if soft else sharp)
    across = np.arctan2(ky, kx)
    chi = theta**2 / 2 * (-case["defocus"] + case["C12"] * np.cos(2 * (across - case["phi12"])))
    chi = 2 * np.pi / WAVELENGTH * (chi + case["C30"] * theta**4 / 4)
    spectrum = aperture * np.exp(-1j * chi)
    nominal = np.stack(np.indices((case["grid"],) * 2), -1).reshape(-1, 2) * case["step"]
    cosine, sine = np.cos(case["rotation"]), np.sin(case["rotation"])
    places = (nominal - nominal.mean(0)) @ np.array([[cosine, sine], [-sine, cosine]])
    places -= places.min(0) - (many / 2 + 4) * pixel
    size = int(places.max() / pixel) + many // 2 + 8
    phase = np.zeros((size, size))
    rows = np.arange(size) * pixel
    for y, x in rng.uniform(0, size * pixel, (int(0.15 * (size * pixel) ** 2), 2)):
        width = 0.4 * rng.uniform(0.8, 1.5)
        first, second = (np.exp(-((rows - middle) ** 2) / (2 * width**2)) for middle in (y, x))
        phase += case["strength"] * rng.uniform(0.3, 1) * np.outer(first, second)
    thing = np.exp(1j * phase).astype(np.complex64)
    shifts = case["source"] * np.array([(-1, -1), (-1, 1), (1, -1), (1, 1)]) if case["source"] else [(0, 0)]
    middle = (np.arange(many) - many // 2)[:, None] / many
    off = [np.exp(2j * np.pi * FINE * o * middle) for o in case["off"]]
    patterns = []
    for place in places:
        pattern = 0.0
        for shift in shifts:
            at = place + shift
            corner = np.round(at / pixel).astype(int)
            rest = at - corner * pixel
            ramp = np.exp(-2j * np.pi * (ky * rest[0] + kx * rest[1]))
            probe = np.fft.fftshift(np.fft.ifft2(spectrum * ramp)) * off[0] * off[1].T
            start, stop = corner - many // 2, corner - many // 2 + many
            window = thing[start[0] : stop[0], start[1] : stop[1]]
            far = np.abs(np.fft.fft2(probe * window)) ** 2
            far = np.roll(np.fft.fftshift(far), FINE // 2 - (many // 2 - FINE * (pixels // 2)), (0, 1))
            pattern = pattern + far.reshape(pixels, FINE, pixels, FINE).sum((1, 3))
        patterns.append(pattern)
    expected = np.stack(patterns)
    expected *= case["dose"] / expected.sum((1, 2)).mean()
    counts = rng.poisson(expected + case["background"] * case["dose"] / pixels**2).astype(np.float32)
    geometry = Geometry(wavelength=WAVELENGTH, shape=(pixels, pixels), angle=(angle, angle), beam="electron")
    return Scan4D(counts=counts, positions=nominal, geometry=geometry, grid=(case["grid"],) * 2)


def measure(case):
    """For each number what is found, the truth and the told error."""
    scan = simulate(case)
    disk = fit_disk(scan.mean_pattern())
    truth = case["semiangle"] / case["angle"]
    row = {"radius": (disk.radius, truth, disk.radius_error), "width": disk.width}
    try:
        survey = survey_disk(scan)
        optics = LinearOptics(WAVELENGTH, case["semiangle"])
        largest = 1.5 * abs(case["defocus"])
        spectrum = survey.measure(scan).transform()
        fit, _ = fit_optics_and_hand(scan, survey, spectrum, optics, largest_defocus=largest)
    except BadInput as problem:
        return row | {"refused": str(problem)}
    turn = math.remainder(float(fit.optics.rotation) - case["rotation"], math.pi)  # twins are alike
    row["explained"], row["clear"] = fit.explained, fit.is_clear
    row["rotation"] = (turn, 0.0, fit.errors.get("rotation", math.nan))
    row["step"] = (float(fit.optics.step), 1.0, fit.errors.get("step", math.nan))
    row["defocus"] = (abs(fit.optics.defocus), abs(case["defocus"]), fit.errors.get("C10", math.nan))
    return row


def main():
    """Simulate, calibrate, write and print the distribution."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs=2, default=(100, 134))
    out = Path(f"benchmarks/results/calibration-errors-{date.today()}.json")
    parser.add_argument("--out", type=Path, default=out)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for seed in range(*given.seeds):
        began = time.process_time()
        case = draw(seed)
        rows.append({"case": case, **measure(case)})
        one = rows[-1]
        told = {name: (one[name][0] - one[name][1]) / one[name][2] for name in NAMES if name in one}
        print(seed, {name: round(value, 1) for name, value in told.items()}, end=" ")
        print(f"explained {one.get('explained', 0):.2f}", f"{time.process_time() - began:.1f} s", flush=True)
        given.out.write_text(json.dumps({"summary": summarise(rows), "rows": rows}, indent=0) + "\n")
    for line in summarise(rows).items():
        print(*line)


NAMES = ("radius", "rotation", "step", "defocus")


def summarise(rows):
    """Of each number: how many lie within two told errors, and quantiles of the rest."""
    summary = {}
    for name in NAMES:
        known = [row for row in rows if name in row and row[name][2] > 0 and row.get("clear", True)]
        off = np.array([abs(row[name][0] - row[name][1]) for row in known])
        errors = np.array([row[name][2] for row in known])
        if len(off):
            summary[name] = {
                "scans": len(off),
                "within two errors": round(float((off <= 2 * errors).mean()), 3),
                "median of off / error": round(float(np.median(off / errors)), 3),
                "90 % of off / error": round(float(np.percentile(off / errors, 90)), 3),
                "worst of off / error": round(float((off / errors).max()), 3),
                "median error": float(f"{np.median(errors):.3g}"),
                "median off": float(f"{np.median(off):.3g}"),
            }
    return summary


if __name__ == "__main__":
    main()
