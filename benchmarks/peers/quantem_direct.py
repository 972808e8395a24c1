"""Direct images by quantem 0.1.10 of the scans of `benchmarks.faulty_scans`, in quantem's own environment.

    python -m benchmarks.peers.quantem_direct FOLDER --out quantem.json [--only thin-1000]

Each scan is prepared as quantem's user guide says ("Preparing 4D-STEM data"): hot pixels filtered, the angle
per pixel from the radius of the disk and the stated semi-angle. Then three courses:

* ``default``: rotation and transposition of the centre-of-mass model, the stated defocus, single sideband.
* ``best``: rotation, transposition, defocus and astigmatism by the smallest residual, quantem's own measure:
  a grid of rotation and defocus, the cross-correlation fit from the best of it and from the centre of mass
  with the stated defocus, then the gradient fit; the image by ``wiener``, which its docstring recommends.
* ``oracle``: the kernel and the orientation with the largest correlation with the truth, which no user knows.

Searches see patterns binned by 2 or 3 where the disk is large. One thread.
"""

import argparse
import contextlib
import gc
import io
import json
import math
import re
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks import record
from benchmarks.testbed.scoring import score_image

__all__ = ["Stated", "measure_scan", "read_stated"]

KERNELS = ("ssb", "obf", "wiener", "wdd", "prlx", "icom")
SEARCH_PIXELS = 120  # of the bright field, for the grid
FIT_PIXELS = 240  # for the gradient fit and comparisons of residuals
ROTATION_STEPS = 30  # of the grid, over the whole turn
DEFOCUS_STEPS = 3
DEFOCUS_RANGE = 0.3  # a stated defocus is wrong by up to this share of the true one


@dataclass(frozen=True)
class Stated:
    """What the microscopist knows: keV, angstrom and milliradian.

    The grid of the defocus reaches a share ``reach`` of it to each side. quantem's aberrations are
    those at the middle of the specimen, the stated defocus that at its entrance face: a thick specimen may
    need a wider grid.
    """

    energy: float
    angle: float
    step: float
    semiangle: float
    defocus: float
    reach: float = DEFOCUS_RANGE
    steps: int = DEFOCUS_STEPS

    @property
    def wavelength(self):
        """Of the electrons, angstrom."""
        energy = self.energy * 1e3
        return 12.264259 / math.sqrt(energy * (1 + 0.978476e-6 * energy))

    @property
    def focus_unit(self):
        """Depth of field wavelength / semiangle^2, angstrom."""
        return self.wavelength / (self.semiangle * 1e-3) ** 2


def read_stated(path):
    """Numbers of a ``NAME.yaml``, those in its comments too."""
    text = path.with_suffix(".yaml").read_text()
    units = {"energy": "keV", "angle": "mrad", "step": "A", "semiangle": "mrad", "defocus": "A"}
    found = {}
    for name, unit in units.items():
        value = re.search(rf"^(?:# )?{name}[^:\n]*: (\S+) {unit}$", text, re.MULTILINE)
        if value is None:
            raise ValueError(f"{path.with_suffix('.yaml')}: expected {name} in {unit}")
        found[name] = float(value[1])
    return Stated(**found)


@dataclass
class Fit:
    """Hyperparameters that quantem found for one orientation."""

    transposed: bool
    aberrations: dict
    rotation: float
    residual: float = math.inf
    origin: str = ""


def build(patterns, stated, sampling, *, factor=1, rotation=None):
    """A `DirectPtychography` of patterns, binned by ``factor`` on the detector."""
    from quantem.core.datastructures import Dataset4dstem
    from quantem.diffractive_imaging import DirectPtychography

    data = Dataset4dstem.from_array(
        patterns,
        sampling=(stated.step, stated.step, sampling, sampling),
        units=("A", "A", "mrad", "mrad"),
    )
    if factor > 1:
        data = data.bin((1, 1, factor, factor), modify_in_place=False)
    return DirectPtychography.from_dataset4d(
        data,
        energy=stated.energy * 1e3,
        semiangle_cutoff=stated.semiangle,
        aberration_coefs={"defocus": stated.defocus},
        rotation_angle=rotation,
        verbose=False,
        rng=0,
    )


def import_quantem():
    """Import before the clock starts.

    Each ``reconstruct`` of quantem collects garbage twice, which costs more than a small image where the
    collector goes through all modules: they are frozen.
    """
    import quantem.core.utils.diffractive_imaging_utils
    import quantem.core.utils.filter
    import quantem.diffractive_imaging  # noqa: F401

    gc.collect()
    gc.freeze()


def prepare(counts, stated):
    """Patterns without hot pixels, and the angle per pixel by the disk, milliradian."""
    from quantem.core.utils.diffractive_imaging_utils import fit_probe_circle
    from quantem.core.utils.filter import filter_hot_pixels

    clean = filter_hot_pixels(counts.astype(np.float32))
    radius = fit_probe_circle(clean.mean((0, 1)), show=False)[2]
    return clean, stated.semiangle / radius, radius


def find_transposition(patterns, sampling, stated):
    """Rotation in degrees and transposition by quantem's centre-of-mass model."""
    from quantem.core.datastructures import Dataset4dstem
    from quantem.diffractive_imaging.origin_models import CenterOfMassOriginModel

    data = Dataset4dstem.from_array(
        patterns,
        sampling=(stated.step, stated.step, sampling, sampling),
        units=("A", "A", "mrad", "mrad"),
    )
    model = CenterOfMassOriginModel.from_dataset(data)
    model.forward(shift_to_origin=False)
    return model.detector_rotation_deg, model.detector_transpose


def orient(patterns, transposed):
    """Patterns, transposed or not."""
    return np.ascontiguousarray(patterns.swapaxes(-1, -2)) if transposed else patterns


def choose_pixels(made, count):
    """A mask of so many bright-field pixels at random; all, if there are fewer."""
    import torch

    index = torch.nonzero(made.bf_mask)
    chosen = index[torch.randperm(len(index), generator=torch.Generator().manual_seed(0))[:count]]
    mask = torch.zeros_like(made.bf_mask)
    mask[chosen[:, 0], chosen[:, 1]] = True
    return mask


def compute_residual(made, fit, mask):
    """Share of the data that the weak-object model leaves unexplained."""
    made.reconstruct(
        override_aberration_coefs=fit.aberrations,
        override_rotation_angle=fit.rotation,
        deconvolution_kernel="ssb",
        bf_mask=mask,
    )
    return float(made.residual_loss())


def read_state(made, transposed, origin):
    """What the last fit left."""
    state = made.hyperparameter_state
    found = {name: float(value) for name, value in state.current_aberrations().items()}
    return Fit(transposed, found, float(state.current_rotation_angle()), origin=origin)


def search_orientation(patterns, stated, sampling, factor, transposed):
    """The hyperparameters with the smallest residual for one orientation of the patterns."""
    from quantem.diffractive_imaging.direct_ptychography_base import OptimizationParameter

    made = build(orient(patterns, transposed), stated, sampling, factor=factor)
    by_centre = float(made.rotation_angle)
    few = choose_pixels(made, SEARCH_PIXELS)
    more = choose_pixels(made, FIT_PIXELS)
    reach = max(stated.reach * abs(stated.defocus), 0.5 * stated.focus_unit)
    made.grid_search_hyperparameters(
        aberration_coefs={
            "C10": OptimizationParameter(
                -stated.defocus - reach, -stated.defocus + reach, n_points=stated.steps
            )
        },
        rotation_angle=OptimizationParameter(-180, 180 - 360 / ROTATION_STEPS, n_points=ROTATION_STEPS),
        deconvolution_kernel="ssb",
        bf_mask=few,
        verbose=False,
    )
    tries = [read_state(made, transposed, "grid")]
    start = {"C10": -stated.defocus}
    tries += [Fit(transposed, start, by_centre + turn, origin="centre of mass") for turn in (0, 180)]
    for fit in tries:
        fit.residual = compute_residual(made, fit, more)
    for fit in (tries[0], min(tries[1:], key=lambda fit: fit.residual)):
        # the fit fails with LinAlgError where shifts are all alike
        with contextlib.suppress(RuntimeError, ValueError):
            made.hyperparameter_state.clear_optimized()
            made.fit_hyperparameters_cross_correlation(
                rotation_angle=fit.rotation, aberration_coefs=dict(fit.aberrations), verbose=False
            )
            aligned = read_state(made, transposed, f"cross-correlation from {fit.origin}")
            aligned.residual = compute_residual(made, aligned, more)
            tries.append(aligned)
    return made, more, min(tries, key=lambda fit: fit.residual)


def fit_gradient(made, mask, fit):
    """The gradient fit of rotation and aberrations; the start where it is no better."""
    state = made.hyperparameter_state
    state.clear_optimized()
    state.optimized_aberrations = dict(fit.aberrations)
    state.optimized_rotation_angle = fit.rotation
    state.optimized_keys = {*fit.aberrations, "rotation_angle"}
    made.fit_hyperparameters_gradient(
        ("C10", "C12", "phi12", "rotation_angle"), deconvolution_kernel="ssb", bf_mask=mask, verbose=False
    )
    found = read_state(made, fit.transposed, f"gradient from {fit.origin}")
    found.residual = compute_residual(made, found, mask)
    return min(fit, found, key=lambda one: one.residual)


def score(image, truth):
    """Correlation and that of fine detail; a pixel of the image for each position."""
    places = np.stack(np.indices(image.shape), -1).reshape(-1, 2)
    found = score_image(np.asarray(image, float), truth, places=places)
    return found["correlation"], found["fine"]


def make_images(made, fit, truth, kernels):
    """Scores, CPU seconds and images of some kernels."""
    scores = {}
    images = {}
    for kernel in kernels:
        began = time.process_time()
        made.reconstruct(
            override_aberration_coefs=fit.aberrations,
            override_rotation_angle=fit.rotation,
            deconvolution_kernel=kernel,
        )
        spent = time.process_time() - began
        images[kernel] = np.asarray(made.obj, float)
        correlation, fine = score(images[kernel], truth)
        scores[kernel] = {"correlation": correlation, "fine": fine, "cpu_s": spent}
    return scores, images


def measure_default(patterns, stated, sampling, truth):
    """The course without a fit, and the scores of every kernel with its hyperparameters."""
    began = time.process_time()
    rotation, transposed = find_transposition(patterns, sampling, stated)
    made = build(orient(patterns, transposed), stated, sampling, rotation=rotation)
    fit = Fit(transposed, {"C10": -stated.defocus}, rotation, origin="centre of mass")
    spent = time.process_time() - began
    scores, _ = make_images(made, fit, truth, KERNELS)
    return report_course(fit, scores["ssb"], "ssb", truth, spent), scores


def measure_best(patterns, stated, sampling, factor, truth):
    """The course with all fits, the orientation that it rejects, scores of kernels and images of both."""
    began = time.process_time()
    searched = [search_orientation(patterns, stated, sampling, factor, one) for one in (False, True)]
    searched.sort(key=lambda one: one[2].residual)
    made, mask, fit = searched[0]
    fit = fit_gradient(made, mask, fit)
    made = build(orient(patterns, fit.transposed), stated, sampling, rotation=fit.rotation)
    spent = time.process_time() - began
    scores, images = make_images(made, fit, truth, KERNELS)
    best = report_course(fit, scores["wiener"], "wiener", truth, spent)
    fit = searched[1][2]
    made = build(orient(patterns, fit.transposed), stated, sampling, rotation=fit.rotation)
    other, more = make_images(made, fit, truth, ("ssb", "wiener"))
    named = {f"best {kernel}": one for kernel, one in scores.items()}
    named |= {f"other orientation {kernel}": one for kernel, one in other.items()}
    images |= {f"other_{kernel}": image for kernel, image in more.items()}
    return best, report_course(fit, other["wiener"], "wiener", truth, 0.0), named, images


def measure_scan(path, images_folder=None, *, reach=DEFOCUS_RANGE, steps=DEFOCUS_STEPS):
    """The three courses on one scan."""
    with np.load(path.with_name(f"{path.stem}-truth.npz")) as file:
        truth = {key: file[key] for key in file.files}
    counts = np.load(path)
    stated = replace(read_stated(path), reach=reach, steps=steps)
    began = time.process_time()
    patterns, sampling, radius = prepare(counts, stated)
    prepared = time.process_time() - began
    factor = 1 if radius < 16 else 2 if radius < 32 else 3
    default, scores = measure_default(patterns, stated, sampling, truth)
    best, other, named, images = measure_best(patterns, stated, sampling, factor, truth)
    named |= {f"default {kernel}": one for kernel, one in scores.items()}
    for course in (default, best):
        course["cpu_s"] += prepared
    oracle = max(named, key=lambda name: abs(named[name]["correlation"]))
    if images_folder is not None:
        images_folder.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(images_folder / f"{path.stem}.npz", **images)
    return {
        "case": path.stem,
        "angle_error": sampling / 1e3 / float(truth["true_angle"]) - 1,
        "default": default,
        "best": best,
        "other_orientation": other,
        "oracle": {"correlation": abs(named[oracle]["correlation"]), "method": oracle},
        "kernels": {name: abs(one["correlation"]) for name, one in named.items()},
        "fine": {name: abs(one["fine"]) for name, one in named.items()},
    }


def report_course(fit, found, kernel, truth, spent):
    """Scores and hyperparameters of a course.

    ``defocus`` is its error at the middle of the specimen in angstrom, of the twin that comes nearer.
    """
    true = float(truth["defocus"]) - float(truth["slices"]) * float(truth["spacing"]) / 2
    defocus = -fit.aberrations["C10"]
    errors = (defocus - true, -defocus - true)
    return {
        "correlation": abs(found["correlation"]),
        "fine": abs(found["fine"]),
        "sign": "opposite" if found["correlation"] < 0 else "same",
        "defocus": min(errors, key=abs),
        "aberrations": fit.aberrations,
        "rotation_deg": fit.rotation,
        "transposed": bool(fit.transposed),
        "residual": fit.residual if math.isfinite(fit.residual) else None,
        "method": f"{kernel}; {fit.origin}",
        "cpu_s": spent + found["cpu_s"],
    }


def round_numbers(value):
    """Four digits of every number."""
    if isinstance(value, dict):
        return {name: round_numbers(one) for name, one in value.items()}
    if isinstance(value, list):
        return [round_numbers(one) for one in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def main():
    """Every scan of a folder; the file is written after each, and what it has is not measured again."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", help="names of scans")
    parser.add_argument(
        "--reach", type=float, default=DEFOCUS_RANGE, help="of the grid, of the stated defocus"
    )
    parser.add_argument("--steps", type=int, default=DEFOCUS_STEPS, help="of the defocus in the grid")
    parser.add_argument("--images", type=Path, help="folder for the images")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    record.one_thread()
    import_quantem()
    rows = json.loads(asked.out.read_text())["rows"] if asked.out.exists() else []
    names = asked.only or sorted(
        (path.name.removesuffix("-truth.npz") for path in asked.folder.glob("*-truth.npz")),
        key=lambda name: int(name.split("-")[1]),
    )
    head = {"versions": record.versions("quantem", "torch", "numpy"), "machine": record.machine()}
    for name in names:
        if name in [row["case"] for row in rows]:
            continue
        with contextlib.redirect_stdout(io.StringIO()):
            path = asked.folder / f"{name}.npy"
            row = measure_scan(path, asked.images, reach=asked.reach, steps=asked.steps)
        rows.append(round_numbers(row))
        shown = {
            k: (v["correlation"], v.get("cpu_s"))
            for k, v in rows[-1].items()
            if isinstance(v, dict) and "correlation" in v
        }
        print(name, {k: v for k, v in shown.items() if k != "kernels"}, flush=True)
        asked.out.write_text(
            json.dumps(
                {**head, "threads": 1, "reach": asked.reach, "steps": asked.steps, "rows": rows}, indent=1
            )
            + "\n"
        )


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    record.stand_in(Path(__file__).with_name("stubs"))
    main()
