"""CPU seconds of a seed-size sample (100 A, 50 x 50 patterns, frozen phonons) against abTEM, in one run.

    python -m benchmarks.simulation --phonons 10 --out benchmarks/results/simulation-DATE.json

abTEM makes its own potentials; patterns are those of its antialiased whole cell. Ours are timed on the same
cell (full), and with a probe's window of 64 pixels, binned to 24 (windowed). One thread each.
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import torch
from ase import Atoms
from ase.spacegroup import crystal

from benchmarks.record import machine
from phaseloom.simulation.experiment import Experiment
from phaseloom.simulation.scan import diffract, transmit
from phaseloom.simulation.specimens import Specimen

CELL, PIXELS, SCAN = 100.0, 256, 50


def strontium_titanate() -> Atoms:
    """Four unit cells thick, strained by 0.1 % so that it repeats in the cell."""
    unit = crystal(
        ("Sr", "Ti", "O"),
        [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)],
        spacegroup=221,
        cellpar=[3.905] * 3 + [90] * 3,
    )
    many = round(CELL / 3.905)
    atoms = unit * (many, many, 4)
    atoms.set_cell([CELL, CELL, 4 * 3.905], scale_atoms=True)
    return atoms


def ours(atoms: Atoms, phonons: int, *, window: int, bin: int, detector: int | None) -> dict:
    places = atoms.positions[:, [2, 1, 0]]
    size = (float(atoms.cell[2, 2]), CELL, CELL)
    specimen = Specimen(numbers=atoms.numbers, places=places, size=size, family="perovskite", name="SrTiO3")
    experiment = Experiment(
        scan=(SCAN, SCAN),
        pixel=CELL / PIXELS,
        cell=PIXELS,
        window=window,
        bin=bin,
        detector=detector,
        phonons=phonons,
    )
    generator, began = torch.Generator().manual_seed(0), time.process_time()
    waves = transmit(specimen, experiment, generator)
    potential = time.process_time() - began
    patterns = diffract(waves, experiment.positions(generator), experiment)
    return {
        "potential": potential,
        "total": time.process_time() - began,
        "sum": float(patterns.sum((1, 2)).mean()),
    }


def theirs(atoms: Atoms, phonons: int) -> dict:
    warnings.simplefilter("ignore")
    import abtem
    import dask

    with dask.config.set(scheduler="single-threaded"):
        began = time.process_time()
        frozen = abtem.FrozenPhonons(atoms, num_configs=phonons, sigmas=0.1, seed=1)
        knobs = {"parametrization": "lobato", "projection": "infinite"}
        potential = abtem.Potential(frozen, gpts=PIXELS, slice_thickness=float(atoms.cell[2, 2]), **knobs)
        probe = abtem.Probe(energy=80e3, semiangle_cutoff=20, defocus=90)
        probe.grid.match(potential)
        scan = abtem.GridScan((0, 0), (CELL, CELL), sampling=2, endpoint=False)
        detector = abtem.PixelatedDetector(max_angle=None)
        array = probe.scan(potential, scan=scan, detectors=detector).compute(progress_bar=False).array
    total = time.process_time() - began
    return {"total": total, "sum": float(array.sum((-2, -1)).mean()), "shape": list(array.shape)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--phonons", type=int, default=10)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    atoms = strontium_titanate()
    found = {"windowed": ours(atoms, given.phonons, window=64, bin=2, detector=24)}
    found["full"] = ours(atoms, given.phonons, window=PIXELS, bin=1, detector=None)
    found["abtem"] = theirs(atoms, given.phonons)
    for name in ("windowed", "full"):
        found[name]["share"] = found[name]["total"] / found["abtem"]["total"]
    import abtem

    about = {
        "machine": machine(),
        "abtem_version": abtem.__version__,
        "torch": torch.__version__,
        "threads": 1,
    }
    text = json.dumps({"phonons": given.phonons, **found, **about}, indent=1)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
