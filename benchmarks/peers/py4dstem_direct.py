"""Direct images by py4DSTEM 0.14.18 of the scans of `benchmarks.faulty_scans`, in an environment of its own.

    python -m benchmarks.peers.py4dstem_direct FOLDER --out py4dstem.json [--only thin-1000]

Hot and dead pixels are replaced by the median of their neighbours, as py4DSTEM chooses bright-field pixels by
their brightness alone; the angle per pixel is that of the disk (`get_probe_size`) and the stated semi-angle.
Then four courses, each with the defaults of all functions:

* ``dpc``: rotation and transposition by the centre of mass, then iterative integration (iCoM).
* ``default``: parallax as the tutorials do it: rotation and transposition of ``dpc`` and the stated defocus
  as the first guess, alignment, fit of aberrations, correction of the transfer.
* ``best``: the same from four starts, that of ``default``, the same turned by 180 degrees, which the centre
  of mass cannot tell, the other transposition, and without a guess of the shifts; the one with the smallest
  error of alignment, py4DSTEM's own measure.
* ``oracle``: the image of all that has the largest correlation with the truth, which no user knows.

One thread.
"""

import argparse
import contextlib
import io
import json
import math
import subprocess
import time
import warnings
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from scipy.ndimage import median_filter, rank_filter

from benchmarks import record
from benchmarks.peers.quantem_direct import read_stated, round_numbers, score

__all__ = ["measure_scan", "replace_bad_pixels"]

BRIGHT = 2.0  # of the fourth brightest of 5 x 5: a pixel of the mean pattern above it is hot
DARK = 0.3  # of the fourth darkest: below it a pixel is dead
NO_PLOTS = {"progress_bar": False, "plot_aligned_bf": False, "plot_convergence": False}


@dataclass(frozen=True)
class Start:
    """What the alignment begins with: rotation in degrees, and if shifts of the stated defocus are used."""

    transposed: bool
    rotation: float
    guess: bool = True


def replace_bad_pixels(counts):
    """Counts with hot and dead pixels of the mean pattern replaced by the median of their neighbours.

    Returns:
        counts as float32, and how many pixels were replaced.
    """
    clean = counts.astype(np.float32)
    mean = clean.mean((0, 1))
    floor = 0.02 * np.percentile(mean, 99)
    bad = mean > BRIGHT * rank_filter(mean, -4, 5, mode="mirror") + floor
    bad |= (mean < DARK * rank_filter(mean, 3, 5, mode="mirror")) & (median_filter(mean, 5) > 5 * floor)
    for row, column in np.argwhere(bad):
        rows = slice(max(row - 1, 0), row + 2)
        columns = slice(max(column - 1, 0), column + 2)
        good = ~bad[rows, columns]
        clean[:, :, row, column] = np.median(clean[:, :, rows, columns][:, :, good], axis=-1)
    return clean, int(bad.sum())


def make_data(patterns, stated, angle):
    """A calibrated `DataCube`."""
    import py4DSTEM

    data = py4DSTEM.DataCube(data=patterns)
    data.calibration.set_R_pixel_size(stated.step)
    data.calibration.set_R_pixel_units("A")
    data.calibration.set_Q_pixel_size(angle)
    data.calibration.set_Q_pixel_units("mrad")
    return data


def measure_angle(patterns, stated):
    """Angle per pixel by the radius of the disk, milliradian."""
    import py4DSTEM

    radius = py4DSTEM.process.calibration.get_probe_size(patterns.mean((0, 1)))[0]
    return stated.semiangle / radius


def integrate(data, stated):
    """Rotation in degrees, transposition and phase of the centre of mass."""
    from py4DSTEM.process.phase import DPC

    made = DPC(datacube=data, energy=stated.energy * 1e3, verbose=False)
    made.preprocess(plot_center_of_mass=False, plot_rotation=False)
    made.reconstruct(progress_bar=False)
    turn = math.degrees(float(made._rotation_best_rad))
    return turn, bool(made._rotation_best_transpose), np.asarray(made.object_phase, float)


def align(data, stated, start):
    """Parallax from one start: its result, corrected image, aligned image and CPU seconds.

    Alignment, fit or correction may fail; then the corrected image is ``None``, and the message is returned.
    """
    from py4DSTEM.process.phase import Parallax

    began = time.process_time()
    guess = {"C10": -stated.defocus} if start.guess else None
    made = Parallax(energy=stated.energy * 1e3, datacube=data, verbose=False, polar_parameters=guess)
    made.preprocess(
        force_rotation_angle_deg=start.rotation,
        force_transpose=start.transposed,
        plot_average_bf=False,
    )
    failed = None
    corrected = None
    try:
        made.reconstruct(**NO_PLOTS)
        made.aberration_fit(force_transpose=start.transposed)
        made.aberration_correct(plot_corrected_phase=False)
        corrected = crop(made, np.asarray(made.recon_phase_corrected, float))
    except (ValueError, LookupError, ArithmeticError) as error:
        failed = f"{type(error).__name__}: {error}"
    # where the alignment fails, the image of the first guess is left
    aligned = crop(made, np.asarray(getattr(made, "recon_BF", made._recon_BF), float))
    return made, corrected, aligned, failed, time.process_time() - began


def crop(made, image):
    """A pixel of the image for each position."""
    rows, columns = (int(n) for n in made._grid_scan_shape)
    if image.shape == (rows, columns):
        return image
    return made._crop_padded_object(image)


def read_numbers(made, truth):
    """What was fitted; the defocus as its error at the middle of the specimen, of the nearer twin."""
    if not hasattr(made, "aberrations_dict_cartesian"):
        return {}
    true = float(truth["defocus"]) - float(truth["slices"]) * float(truth["spacing"]) / 2
    defocus = -float(made.aberrations_dict_cartesian["C10"])
    return {
        "defocus": min((defocus - true, -defocus - true), key=abs),
        "aberrations": {name: float(value) for name, value in made.aberrations_dict_polar.items()},
        "rotation_deg": math.degrees(float(made.rotation_Q_to_R_rads)),
    }


def measure_scan(path):
    """The courses on one scan."""
    with np.load(path.with_name(f"{path.stem}-truth.npz")) as file:
        truth = {key: file[key] for key in file.files}
    stated = read_stated(path)
    counts = np.load(path)
    began = time.process_time()
    patterns, replaced = replace_bad_pixels(counts)
    angle = measure_angle(patterns, stated)
    data = make_data(patterns, stated, angle)
    turn, transposed, phase = integrate(data, stated)
    prepared = time.process_time() - began
    named = {"dpc": score(phase, truth)}
    starts = {"default": Start(transposed, turn)}
    starts["other transposition"] = Start(not transposed, turn)
    starts["default turned"] = Start(transposed, turn + 180)
    starts["no guess"] = Start(transposed, 0, guess=False)
    courses = {}
    for name, start in starts.items():
        made, corrected, aligned, failed, spent = align(data, stated, start)
        named[f"aligned {name}"] = score(aligned, truth)
        image = aligned if corrected is None else corrected
        if corrected is not None:
            named[f"corrected {name}"] = score(corrected, truth)
        correlation, fine = score(image, truth)
        courses[name] = {
            "correlation": abs(correlation),
            "fine": abs(fine),
            "sign": "opposite" if correlation < 0 else "same",
            "transposed": start.transposed,
            "error": float(made._recon_error if np.ndim(made._recon_error) == 0 else made._recon_error[0]),
            "failed": failed,
            "cpu_s": spent,
            **read_numbers(made, truth),
        }
    chosen = min(courses, key=lambda name: courses[name]["error"])
    total = prepared + sum(one["cpu_s"] for one in courses.values())
    oracle = max(named, key=lambda name: abs(named[name][0]))
    return {
        "case": path.stem,
        "replaced_pixels": replaced,
        "angle_error": angle / 1e3 / float(truth["true_angle"]) - 1,
        "dpc": {
            "correlation": abs(named["dpc"][0]),
            "fine": abs(named["dpc"][1]),
            "rotation_deg": turn,
            "transposed": transposed,
            "cpu_s": prepared,
        },
        "default": {**courses["default"], "cpu_s": prepared + courses["default"]["cpu_s"]},
        "best": {**courses[chosen], "method": f"parallax; {chosen}", "cpu_s": total},
        "oracle": {"correlation": abs(named[oracle][0]), "method": oracle},
        "kernels": {name: abs(one[0]) for name, one in named.items()},
        "fine": {name: abs(one[1]) for name, one in named.items()},
    }


def main():
    """Every scan of a folder; the file is written after each, and what it has is not measured again."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", help="names of scans")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    import matplotlib
    import py4DSTEM.process.phase  # noqa: F401  (before the clock starts)

    matplotlib.use("Agg")
    rows = json.loads(asked.out.read_text())["rows"] if asked.out.exists() else []
    paths = sorted(asked.folder.glob("*-10[0-9][0-9].npy"), key=lambda path: int(path.stem.split("-")[1]))
    line = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    head = {
        "machine": record.machine(),
        "date": date.today().isoformat(),
        "commit": subprocess.run(line, capture_output=True, text=True, check=False).stdout.strip(),
        "versions": record.versions("py4DSTEM", "numpy", "scipy"),
        "threads": 1,
    }
    for path in paths:
        if path.stem in [row["case"] for row in rows] or (asked.only and path.stem not in asked.only):
            continue
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            row = measure_scan(path)
        rows.append(round_numbers(row))
        shown = {name: rows[-1][name]["correlation"] for name in ("dpc", "default", "best", "oracle")}
        print(path.stem, row["replaced_pixels"], shown, rows[-1]["best"]["cpu_s"], flush=True)
        asked.out.write_text(json.dumps({**head, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    main()
