"""Phases of few electrons from ptychography, with the truth on their pixels, to restore and to judge by.

    python -m benchmarks.restoring_scans FOLDER --set train --seeds 0 150
    python -m benchmarks.restoring_scans FOLDER --set tune --seeds 0 14
    python -m benchmarks.restoring_scans FOLDER --set judge --seeds 900 932 --frozen COMMIT

Each scan of 22 x 22 probes is counted at 250, 1000 and 4000 electrons per square angstrom and reconstructed
by the default recipe of the package in 20 epochs, with the stated probe: all counts, and each half of them
(binomial). Energy, semi-angle, step, defocus, detector and its reach are drawn for each scan, so that
pixels are 0.3 to 0.7 of the resolution ``wavelength / (2 semiangle)``.

``train``: specimens and scans of `phaseloom.simulation` (`prototypes`, materials of their training side).
``tune`` and ``judge``: abTEM's potentials and `benchmarks.testbed`, other materials each, with known
vacancies, foreign atoms and parts without order (`benchmarks.testbed.defects`), jitter, a source size, an
offset centre, a background. ``judge`` is made once what it judges is frozen.

A file holds ``full``, ``first``, ``second`` and ``truth (y, x)`` in radian on the same pixels (the truth up
to 2 semi-angles; the halves laid on the whole), ``vacancies``, ``foreign``, ``regular (n, 2)`` and ``depth
(y, x)``, how far a pixel lies within the ordered part, all in pixels, and ``about`` (JSON).
"""

import argparse
import json
import time
from collections import deque
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.testbed import defects, scoring
from benchmarks.testbed.draw import Case, Faults, electron_wavelength
from benchmarks.testbed.scan import choose_grid
from benchmarks.testbed.scan import simulate_scan as simulate_foreign
from phaseloom.data import prepare
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.metrics.phase import find_shift, remove_ramp, shift_image
from phaseloom.reconstruction.half_data_frc import reconstruct_halves
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.simulation import specimens
from phaseloom.simulation.experiment import Experiment
from phaseloom.simulation.scan import simulate_scan

__all__ = ["DOSES", "draw_optics", "make_files", "reconstruct_quietly"]

DOSES = (250.0, 1000.0, 4000.0)
"""Electrons per square angstrom."""

PROBES = 22
EPOCHS = 20
MARGIN_IN_STEPS = 1.0


def draw_optics(rng: np.random.Generator) -> dict:
    """Energy, semi-angle, step, defocus, detector pixels and reach of a scan."""
    kilovolts = float(rng.choice([60, 80, 120, 200, 300]))
    resolution = rng.uniform(0.75, 1.1)
    semiangle = electron_wavelength(kilovolts) / (2 * resolution)
    step = resolution * rng.uniform(1.4, 2.0)
    return {
        "kilovolts": kilovolts,
        "semiangle": float(semiangle),
        "step": float(step),
        "defocus": float(step * rng.uniform(0.6, 1.1) / semiangle),
        "pixels": int(rng.choice([32, 40, 48])),
        "reach": float(rng.uniform(1.5, 2.4)),
    }


def make_training_scans(seed: int):
    """Scans of the package's simulator at all doses: scan, phase, its pixel, true places."""
    rng = np.random.default_rng([seed, 53])
    optics = draw_optics(rng)
    window = int(rng.choice([56, 64, 72, 80]))
    experiment = Experiment(
        scan=(PROBES, PROBES),
        step=optics["step"],
        energy=optics["kilovolts"] * 1e3,
        semiangle=optics["semiangle"],
        aberrations={"defocus": optics["defocus"] * rng.uniform(0.95, 1.05)},
        source_size=rng.uniform(0.1, 0.3) if rng.random() < 0.3 else 0.0,
        window=window,
        detector=None,
        vibration=rng.uniform(0.05, 0.1),
        jitter=rng.uniform(0, 0.1),
    )
    reach = min(optics["reach"] * optics["semiangle"], 0.62 * experiment.wavelength / 2 / experiment.spacing)
    size = int(2 * reach / experiment.angle) // 2 * 2
    experiment = replace(experiment, detector=min(size, window // 2))
    share = rng.random()
    knobs = {
        "vacancies": 0.06,
        "edges": 0.5,
        "part": "train",
        "axes": "low index" if share < 0.7 else "mixed",
    }
    if share > 0.85:
        knobs["families"] = ["amorphous"]
    specimen = specimens.prototypes(experiment.box, rng, **knobs)
    sample = simulate_scan(specimen, experiment, seed=seed)
    truth = {"phase": sample.phase, "pixel": experiment.spacing, "positions": sample.positions}
    stated = optics | {"material": sample.group}
    for dose in DOSES:
        scan = prepare.poisson(sample.scan(), dose=dose * optics["step"] ** 2, seed=seed)
        yield dose, scan, truth, stated, None


def make_foreign_scans(seed: int, name: str):
    """The same of abTEM's potentials and numpy's optics, with defects that are known."""
    rng = np.random.default_rng([seed, 59])
    materials = defects.SETS[name]
    material = materials[seed % len(materials)]
    optics = draw_optics(rng)
    semiangle, step = optics["semiangle"], optics["step"]
    angle = 2 * optics["reach"] * semiangle / optics["pixels"]
    faults = Faults(
        jitter=rng.uniform(0, 0.1),
        source_size=rng.uniform(0.1, 0.3) if rng.random() < 0.3 else 0.0,
        off_centre=tuple(rng.uniform(-0.5, 0.5, 2).tolist()) if rng.random() < 0.3 else (0.0, 0.0),
        background=rng.uniform(0, 0.005) if rng.random() < 0.3 else 0.0,
    )
    first = Case(
        *(seed, "thin", optics["kilovolts"], semiangle, optics["pixels"], angle),
        *(optics["defocus"] * rng.uniform(0.97, 1.03), optics["defocus"], step, PROBES),
        *(DOSES[0] * step**2, faults),
    )
    grid = choose_grid(first, faults, PROBES**2 * 4)
    view = {"field_of_view": step * PROBES, "kilovolts": first.kilovolts, "pixel": grid.pixel}
    made = defects.build_defects(material, seed, **view)
    clean = simulate_foreign(first, specimen=made.specimen, noise=False)
    for number, dose in enumerate(DOSES):
        noise = np.random.default_rng([seed, 61, number])
        counts = noise.poisson(clean.counts * (dose / DOSES[0]))
        line = step * np.arange(PROBES)
        places = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
        shape = counts.shape[2:]
        geometry = Geometry(wavelength=first.wavelength, shape=shape, angle=(angle, angle), beam="electron")
        scan = Scan4D(
            counts=counts.reshape(-1, *shape).astype(np.float32),
            positions=places,
            geometry=geometry,
            grid=(PROBES, PROBES),
        )
        truth = {"phase": clean.truth["phase"], "pixel": float(clean.truth["pixel"])}
        truth["positions"] = clean.truth["positions"].reshape(-1, 2)
        yield dose, scan, truth, optics | {"material": material}, made


def reconstruct_quietly(job: Job) -> Job:
    """Run a job to its end, without the evidence of its verdict."""
    job.wants_evidence = False
    deque(job, maxlen=0)
    return job


def reconstruct_scan(scan: Scan4D, truth: dict, optics: dict, made: defects.DefectSpecimen | None) -> dict:
    """Phases from all counts and from each half, the truth and the defects on their pixels."""
    probe = {"semiangle": f"{optics['semiangle']} rad", "defocus": f"{optics['defocus']} A"}
    tree = {"probe": {"focused": probe}, "start": "none", "preset": "none", "epochs": EPOCHS, "device": "cpu"}
    job = reconstruct_quietly(Job.begin(Reconstruct.of(tree), scan=scan))
    result = job.result()
    parts = reconstruct_halves(job, drive=reconstruct_quietly)
    canvas = job.model.object.canvas
    window = result.window
    images = [remove_ramp(result.phase[window]), *(remove_ramp(part.phase[window]) for part in parts)]
    for number in (1, 2):
        shift = find_shift(images[number], images[0], max_shift=4, rounds=3)
        images[number] = shift_image(images[number], shift)
    matrix, offset = scoring.fit_affine(job.model.scan.angstrom(), truth["positions"])
    first = np.array([part.start for part in window])
    pixel, origin = np.array(canvas.pixel), np.array(canvas.origin)
    shape = images[0].shape
    places = (np.indices(shape).reshape(2, -1).T + first) * pixel + origin
    at = places @ matrix.T + offset
    limit = 2 * optics["semiangle"] / scan.geometry.wavelength
    known = scoring.blur_to_resolution(np.asarray(truth["phase"], float), truth["pixel"], limit)
    mask = np.zeros(shape, bool)
    mask[6:-6, 6:-6] = True
    shift = np.zeros(2)
    if np.ptp(known) > 0:
        shift = scoring.find_shift(images[0], known, truth["pixel"], at, mask, most=0.5)
    found = {"full": images[0], "first": images[1], "second": images[2]}
    found["truth"] = scoring.sample(known, truth["pixel"], at + shift).reshape(shape)
    if made is not None:
        for name in ("vacancies", "foreign", "regular"):
            there = getattr(made, name) - offset - shift
            found[name] = (there @ np.linalg.inv(matrix).T - origin) / pixel - first
        found["depth"] = made.ordered(at + shift).reshape(shape) / pixel[0]
    return {key: np.asarray(value, np.float32) for key, value in found.items()} | {"pixel": canvas.pixel}


def make_files(folder: Path, name: str, seed: int) -> list[Path]:
    """Write the files of a seed, one for each dose."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    if all((folder / f"{name}-{seed}-{dose:g}.npz").exists() for dose in DOSES):
        return made
    scans = make_training_scans(seed) if name == "train" else make_foreign_scans(seed, name)
    for dose, scan, truth, optics, specimen in scans:
        path = folder / f"{name}-{seed}-{dose:g}.npz"
        arrays = reconstruct_scan(scan, truth, optics, specimen)
        about = optics | {"seed": seed, "dose": dose}
        np.savez_compressed(path, about=json.dumps(about), **arrays)
        made.append(path)
    return made


def main() -> None:
    """Make the files of all seeds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--set", choices=("train", *defects.SETS), required=True)
    parser.add_argument("--seeds", type=int, nargs=2, required=True, help="first, and one beyond the last")
    parser.add_argument("--frozen", help="commit that the scans of `judge` are to judge")
    given = parser.parse_args()
    if given.set == "judge" and not given.frozen:
        parser.error("scans of `judge` are made once the code is frozen: give --frozen COMMIT")
    torch.set_num_threads(1)
    for seed in range(*given.seeds):
        began = time.process_time()
        made = make_files(given.folder, given.set, seed)
        print(given.set, seed, len(made), f"{time.process_time() - began:.1f} CPU s", flush=True)


if __name__ == "__main__":
    main()
