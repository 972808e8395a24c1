"""Phase retrieval from simulated 4D-STEM scans: networks, baselines and ptychography on unseen scans.

    python -m benchmarks.retrieval [--models linear tiny FILE] [--scans 48] [--suites 12]
                                   [--ptychography 4]
                                   [--out benchmarks/results/retrieval-2026-11-25.json]
    python -m benchmarks.retrieval --steps FOLDER [--scans 48]
                                   [--out benchmarks/results/end-to-end-2026-11-27.json]

Two sets of scans of 32 x 32 probes (80 keV, 20 mrad, 90 A of under-focus, steps of 2 A), seed 1000, all of
materials that training never draws: ``all`` of 18 families, mixtures and grain boundaries among them, and
``standard`` of ten plain families. Noiseless, and with 1e5, 1e4 and 3e3 electrons per pattern. Errors are
those of the phase on the true pixels, 8 of them left out at the edges; a constant is removed, and for
ptychography, whose probe is refined, a ramp. Means over scans, the median of periods at which the Fourier
ring correlation falls to one half, CPU seconds of one thread.

``--steps`` trains the three steps of ``examples/train_retrieval.yaml`` into a folder, as ``phaseloom train
retrieval`` does, and one to compare them with (`train_steps`; 40 CPU minutes; what is in the folder is kept),
and scores them on the scans of ``all``. ``difference`` is the mean of the scans' errors less
those of the first step's patches on the same scans and counts, its interval drawn over scans.
"""

import argparse
import json
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import map_coordinates

from benchmarks.record import machine
from phaseloom.learning import weight_files as pretrained
from phaseloom.learning.weight_files import find_network
from phaseloom.metrics.phase import measure_agreement
from phaseloom.metrics.resolution import ring_correlation
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.retrieval.evaluate import RIM_PIXELS, predict_image
from phaseloom.retrieval.networks.end_to_end import join_stages, make_scan_network
from phaseloom.retrieval.networks.linear import compute_centres_of_mass, integrate_slopes
from phaseloom.retrieval.recipe import SampleSimulator, Train
from phaseloom.retrieval.trainer import RetrievalTraining, train_retrieval
from phaseloom.retrieval.training_samples import NOISELESS_DOSE, TrainingScan, draw_counts
from phaseloom.simulation.experiment import PIXELS_PER_STEP, Experiment

SEED = 1000
DOSES = (NOISELESS_DOSE, 1e5, 1e4, 3e3)
PLAIN = [
    "bcc",
    "fcc",
    "hcp",
    "diamond",
    "rocksalt",
    "zincblende",
    "fluorite",
    "perovskite",
    "mx2",
    "amorphous",
]
SETS = {"all": {}, "standard": {"families": PLAIN, "grains": 0.0}}
PROBE = {"focused": {"semiangle": "20 mrad", "defocus": "90 A", "modes": 1, "soft": True}}
EPOCHS = (20, 60, 200)
FEW_DOSES = (NOISELESS_DOSE, 1e4)
STEPS_FILE = Path(__file__).parents[1] / "examples" / "train_retrieval.yaml"
STEP_NETWORKS = {
    "patches by overlap": ("1-patches",),
    "patches by the second step": ("1-patches", "2-stitching"),
    "end to end": ("3-end-to-end",),
    "patches trained on": ("patches-trained-on",),
}
"""Folders of the networks of each row, joined where there are two."""

SUITES = {
    "defocus 80 A": {"defocus": "80 A"},
    "defocus 110 A": {"defocus": "110 A"},
    "defocus 130 A": {"defocus": "130 A"},
    "semiangle 21 mrad": {"semiangle": "21 mrad"},
    "semiangle 22 mrad": {"semiangle": "22 mrad"},
    "Cs 0.1 mm": {"aberrations": {"Cs": "0.1 mm"}},
    "focal spread 30 A": {"focal_spread": "30 A"},
    "source 0.5 A": {"source_size": "0.5 A"},
    "positions off by 0.2 A": {"jitter": "0.2 A"},
    "8 phonons": {"phonons": 8},
    "8 phonons, slices of 4 A": {"phonons": 8, "slice_thickness": "4 A"},
}
"""What networks were not trained for, on the first scans of ``all``, noiseless; they are told the optics."""


def made(name, count, specimen=None, **microscope):
    """Samples of a set, the same in every run."""
    knobs = {"scan": [32, 32], **microscope}
    prototypes = {**SETS[name], **(specimen or {})}
    recipe = Train.of({"specimen": {"prototypes": prototypes}, "microscope": {"fixed": knobs}})
    making = SampleSimulator(recipe.specimen, recipe.microscope, SEED)
    return [making(-1 - number) for number in range(count)]


def flat(scene, dose, seed):
    return np.zeros_like(scene.phase.numpy())


def icom(scene, dose, seed):
    """Integrated centres of mass: the gradient of the phase is 2 pi times the mean frequency."""
    patterns = draw_counts(scene.roots.float().square(), dose, torch.Generator().manual_seed(seed))
    beam = scene.experiment
    unit = 2 * np.pi * beam.angle / beam.wavelength * beam.step
    coarse = integrate_slopes(unit * compute_centres_of_mass(patterns[None]), [0.0])[0, 0].numpy()
    axes = [(np.arange(n) - PIXELS_PER_STEP) / PIXELS_PER_STEP for n in scene.phase.shape]
    return map_coordinates(coarse, np.meshgrid(*axes, indexing="ij"), order=3, mode="nearest")


def network(path):
    net = make_scan_network(pretrained.load_network(path))
    return lambda scene, dose, seed: predict_image(net, scene, dose, seed=seed)


def named_by(model):
    """The name of a network: that of the package, or the folder of a training."""
    path = Path(model)
    return path.parent.name if path.stem == "net" else path.stem


def judged(found, truth, *, ramp=False):
    if ramp:
        inner = tuple(slice(RIM_PIXELS, n - RIM_PIXELS) for n in truth.shape)
        y, x = np.mgrid[: truth.shape[0], : truth.shape[1]]
        table = np.stack([np.ones(truth.size), y.ravel(), x.ravel()], 1).reshape(*truth.shape, 3)
        error = (found - truth)[inner].ravel()
        plane = np.linalg.lstsq(table[inner].reshape(-1, 3), error, rcond=None)[0]
        found = found - table @ plane
    seen = asdict(measure_agreement(found, truth, rim=RIM_PIXELS))
    inner = [part[RIM_PIXELS:-RIM_PIXELS, RIM_PIXELS:-RIM_PIXELS] for part in (found, truth)]
    pixel = Experiment().spacing
    period = ring_correlation(*(part - part.mean() for part in inner), pixel=(pixel, pixel)).resolution(0.5)
    return seen | {"frc_half": period}


def interval(values, draws=4000):
    """95 % interval of a mean over scans, by drawing the scans anew."""
    draw = np.random.default_rng(SEED)
    means = np.asarray(values)[draw.integers(0, len(values), (draws, len(values)))].mean(1)
    return [float(end) for end in np.percentile(means, (2.5, 97.5))]


def mean(rows):
    named = {key: [row[key] for row in rows if np.isfinite(row[key])] for key in rows[0]}
    middle = {key: np.median if key == "frc_half" else np.mean for key in named}
    return {key: float(middle[key](values)) if values else float("inf") for key, values in named.items()}


def read(methods, scenes, doses=DOSES):
    """Scores of methods that need no iteration."""
    out = {}
    for name, method in methods.items():
        for dose in doses:
            began = time.process_time()
            found = [method(scene, dose, SEED + n) for n, scene in enumerate(scenes)]
            seconds = (time.process_time() - began) / len(scenes)
            rows = [judged(f, s.phase.numpy()) for f, s in zip(found, scenes, strict=True)]
            spread = {"nmse_interval": interval([row["nmse"] for row in rows])}
            out.setdefault(name, {})[label(dose)] = mean(rows) | spread | {"cpu_s": seconds}
    return out


def label(dose):
    return "noiseless" if dose >= NOISELESS_DOSE else f"{dose:g}"


def counted(sample, dose, seed):
    """The scan of a sample with the counts of a dose (1e6 without noise)."""
    fractions = torch.from_numpy(sample.patterns).reshape(-1, *sample.patterns.shape[2:])
    counts = draw_counts(fractions, dose, torch.Generator().manual_seed(seed)) * min(dose, 1e6)
    return replace(sample.scan(), counts=counts.numpy())


def reconstructed(sample, dose, seed, thing, epochs):
    """A run with the known optics and our usual settings; its phase, course and CPU seconds."""
    tree = {
        "prepare": [{"enlarge": {"to": [64, 64], "match": "resample"}}],
        "object": thing,
        "probe": PROBE,
        "start": "none",
        "compare_starts": False,
        "epochs": epochs,
    }
    began = time.process_time()
    job = Job.begin(Reconstruct.of(tree), scan=counted(sample, dose, seed))
    errors = []
    for _ in job:
        errors.append(judged(on_truth(job.model, sample), sample.phase, ramp=True)["nmse"])
    seconds = time.process_time() - began
    if not errors or job.progress.result_epoch is not None:
        errors.append(judged(on_truth(job.model, sample), sample.phase, ramp=True)["nmse"])
    losses = [event["loss"] for event in job.progress.history]
    final = judged(on_truth(job.model, sample), sample.phase, ramp=True)
    return {**final, "losses": losses, "errors": errors, "cpu_s": seconds, "stopped": job.progress.stopped}


def on_truth(model, sample):
    """The phase of a reconstruction on the pixels of the truth, unwrapped."""
    canvas, spacing = model.object.canvas, sample.experiment.spacing
    wave = model.object.transmission()[0, 0].detach().numpy()
    phase = np.angle(wave * np.exp(-1j * np.angle(wave.mean())))
    ways = zip(sample.phase.shape, canvas.origin, canvas.pixel, strict=True)
    axes = [(np.arange(n) * spacing - origin) / pixel for n, origin, pixel in ways]
    return map_coordinates(phase, np.meshgrid(*axes, indexing="ij"), order=3, mode="nearest")


def iterated(count, model):
    """Ptychography from a flat object and from a prediction."""
    samples = made("all", count, detector=None)
    things = [(f"ptychography, {n} epochs", "pixels", n) for n in EPOCHS]
    things.append(("ptychography from " + str(model), {"predicted": {"model": str(find_network(model))}}, 60))
    out = {}
    for name, thing, epochs in things:
        for dose in FEW_DOSES:
            rows = [reconstructed(s, dose, SEED + n, thing, epochs) for n, s in enumerate(samples)]
            courses = [{key: row.pop(key) for key in ("losses", "errors", "stopped")} for row in rows]
            out.setdefault(name, {})[label(dose)] = mean(rows) | {"courses": courses}
            print(name, label(dose), {k: round(v, 4) for k, v in mean(rows).items()}, flush=True)
    return out


def train_steps(folder):
    """Train the three steps, and the patches alone on the scans of the third, for as long and at its rate.

    The last one says what of the third step's gain is that of more training.
    """
    recipe = Train.from_path(STEPS_FILE)
    for training, epoch in train_retrieval(None if (folder / "train.yaml").exists() else recipe, folder):
        print(training.recipe.stage, epoch.number, round(epoch.holdout, 4), flush=True)
    there = folder / "patches-trained-on"
    if (there / "net.safetensors").exists():
        return
    changes = {"stage": "patches", "weights": str(folder / "1-patches" / "net.safetensors")}
    start = partial(RetrievalTraining.begin, Train.from_path(STEPS_FILE, {**recipe.joint, **changes}))
    training = RetrievalTraining.resume(there) if (there / "run.yaml").exists() else start(there)
    for epoch in training:
        print(there.name, epoch.number, round(epoch.holdout, 4), flush=True)
    training.finish()


def score_step(folder, name, scenes):
    """Scores of a network of `train_steps` by dose and scan; they are kept in its folder."""
    kept = folder / f"{name}, {len(scenes)} scans.json"
    if kept.exists():
        return json.loads(kept.read_text())
    parts = [pretrained.load_network(folder / one / "net.safetensors") for one in STEP_NETWORKS[name]]
    net = make_scan_network(join_stages(*parts) if len(parts) == 2 else parts[0])
    rows = {}
    for dose in DOSES:
        found = [predict_image(net, scene, dose, seed=SEED + n) for n, scene in enumerate(scenes)]
        pairs = zip(found, scenes, strict=True)
        rows[label(dose)] = [judged(one, scene.phase.numpy()) for one, scene in pairs]
        print(name, label(dose), mean(rows[label(dose)]), flush=True)
    kept.write_text(json.dumps(rows))
    return rows


def read_steps(folder, scans):
    """Scores of the networks of `train_steps`, and how far each is from the patches of the first step."""
    scenes = [TrainingScan.of(sample) for sample in made("all", scans)]
    every = {name: score_step(folder, name, scenes) for name in STEP_NETWORKS}
    out = {}
    for name, doses in every.items():
        for dose, rows in doses.items():
            error = np.array([row["nmse"] for row in rows])
            change = error - [row["nmse"] for row in every["patches by overlap"][dose]]
            intervals = {"nmse_interval": interval(error), "difference_interval": interval(change)}
            more = {"difference": float(change.mean()), "better": int((change < 0).sum())} | intervals
            out.setdefault(name, {})[dose] = mean(rows) | more | {"scans": error.tolist()}
    return out


def table(found):
    lines = []
    for part, methods in found.items():
        if not isinstance(methods, dict):
            continue
        heads = "{:34s} {:>10s} {:>8s} {:>7s} {:>6s} {:>6s} {:>6s} {:>6s}"
        lines += [f"\n{part}", heads.format("", "dose", "NMSE", "CC", "PSNR", "SSIM", "FRC A", "s")]
        for name, doses in methods.items():
            for dose, one in doses.items():
                numbers = [one[key] for key in ("nmse", "correlation", "psnr", "ssim", "frc_half", "cpu_s")]
                shape = "{:34s} {:>10s} {:8.4f} {:7.4f} {:6.1f} {:6.3f} {:6.2f} {:6.2f}"
                lines.append(shape.format(name, dose, *numbers))
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="*", default=["linear", "tiny"])
    parser.add_argument("--scans", type=int, default=48, help="scans of each set; 0: none")
    parser.add_argument("--suites", type=int, default=12, help="scans of each suite; 0: none")
    parser.add_argument("--ptychography", type=int, default=4, help="scans of `all`; 0: none")
    parser.add_argument("--steps", type=Path, help="folder of the three steps, which are trained there")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.steps:
        train_steps(given.steps)
        found = {"machine": machine(), "scans": given.scans, "networks": read_steps(given.steps, given.scans)}
    else:
        found = score_networks(given)
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n")


def score_networks(given):
    """Scores of networks by condition, and of ptychography from them."""
    methods = {"flat": flat, "iCoM": icom} | {named_by(m): network(find_network(m)) for m in given.models}
    found = {"machine": machine(), "torch": torch.__version__, "scans": given.scans}
    for name in SETS if given.scans else ():
        found[name] = read(methods, [TrainingScan.of(sample) for sample in made(name, given.scans)])
    named = {name: made("all", given.suites, **knobs) for name, knobs in SUITES.items() if given.suites}
    if named:
        named["16 to 24 A thick"] = made("all", given.suites, specimen={"thickness": ["16 A", "24 A"]})
        named["as trained for"] = made("all", given.suites)
    for name, samples in named.items():
        found[name] = read(methods, [TrainingScan.of(sample) for sample in samples], [NOISELESS_DOSE])
    if given.ptychography:
        samples = made("all", given.ptychography)
        found["few"] = read(methods, [TrainingScan.of(sample) for sample in samples])
        found["few, iterated"] = iterated(given.ptychography, given.models[-1])
    print(table(found))
    return found


if __name__ == "__main__":
    main()
