"""Films of domains, made without phaseloom, on which ways to group patterns are compared.

    python -m benchmarks.foreign_films make FOLDER --seeds 0 10
    python -m benchmarks.foreign_films judge FOLDER [--epochs 12] [--out FILE]

``make`` runs where abTEM and ASE are (see `benchmarks.foreign_scans`), ``judge`` where phaseloom is; no
epochs leave the network out.

Nanobeam patterns (200 keV, 3 mrad, 48 x 48 pixels of 1.2 mrad) of 26 x 26 places: vacuum, one crystal in
three orientations (turned in the plane, tilted by 9 mrad) and another crystal, in domains of about eight
steps, with a wedge of 20 to 60 angstrom in five terraces; 300 to 1e4 electrons. Five labels. Scores are
adjusted Rand indices against the labels for five clusters of eight numbers: of the recommended autoencoder,
of principal components of stabilised counts, and of non-negative factors of their roots; by k-means of raw
numbers and of those divided by their standard deviations, and by a Gaussian mixture of raw ones.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

GRID = 26
LABELS = 5
LATENTS = 8
DOSES = (300.0, 1e3, 3e3, 1e4)
TERRACES = (5, 8, 10, 12, 15)  # slices of 4 angstrom
TILT = 0.009


def make(folder: Path, seed: int) -> None:
    """Simulate a film and write it."""
    from benchmarks.testbed.draw import Case, Faults
    from benchmarks.testbed.foreign import CRYSTALS
    from benchmarks.testbed.scan import choose_grid, diffract
    from benchmarks.testbed.specimens import Specimen, interaction_parameter, project_potential

    rng = np.random.default_rng([seed, 41])
    dose = float(DOSES[seed % len(DOSES)])
    case = Case(seed, "thin", 200.0, 0.003, 48, 1.2e-3, 0.0, 0.0, 4.0, GRID, dose, Faults())
    grid = choose_grid(case, case.faults, 1.0)
    centres = rng.uniform(0, GRID, (max(LABELS, GRID**2 // 64), 2))
    kinds = rng.permutation(np.arange(len(centres)) % LABELS)
    places = np.stack(np.meshgrid(*[np.arange(GRID)] * 2, indexing="ij"), -1).reshape(-1, 2)
    labels = kinds[((places[:, None] - centres) ** 2).sum(-1).argmin(1)]
    terraces = (places[:, 1] * len(TERRACES)) // GRID
    first, second = rng.choice(list(CRYSTALS), 2, replace=False)
    turn = rng.uniform(-np.pi, np.pi)
    ways = [
        (first, 2, turn, 0.0),
        (first, 2, turn + 0.35, 0.0),
        (first, 2, turn, TILT),
        (second, 0, turn, 0.0),
    ]
    size = np.ceil(60 / grid.pixel) * grid.pixel
    expected = np.zeros((len(labels), 48, 48), np.float32)
    for label in range(LABELS):
        if label == 0:
            phases = np.zeros((TERRACES[-1], round(size / grid.pixel), round(size / grid.pixel)), np.float32)
        else:
            numbers, atoms = cut_film(ways[label - 1], size, 4.0 * TERRACES[-1])
            atoms = atoms + rng.normal(0, 0.06, atoms.shape)
            pixels = round(size / grid.pixel)
            volts = project_potential(
                numbers, atoms, 4.0 * TERRACES[-1], 4.0, pixels=pixels, pixel=grid.pixel
            )
            phases = (volts * interaction_parameter(200.0)).astype(np.float32)
        for terrace, slices in enumerate(TERRACES):
            here = np.flatnonzero((labels == label) & (terraces == terrace))
            where = rng.uniform(0, size, (len(here), 2))
            part = Specimen(phases[:slices], grid.pixel, 4.0, {})
            expected[here] = diffract(case, case.faults, part, grid, positions=where, shifts=0 * where)
    counts = rng.poisson(dose * expected).astype(np.uint16)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / f"film-{seed}.npz", counts=counts, labels=labels, dose=dose)


def cut_film(way, size, thickness):
    """Atoms of a slab along a zone axis, turned in the plane and tilted."""
    from ase.spacegroup import crystal
    from scipy.spatial.transform import Rotation

    from benchmarks.testbed.foreign import CRYSTALS

    name, axis, turn, tilt = way
    symbols, basis, group, cell = CRYSTALS[name]
    unit = crystal(symbols, basis, spacegroup=group, cellpar=cell if len(cell) == 6 else (*cell, 90, 90, 90))
    axes = unit.cell.array
    direction = ((0, 0, 1), (1, 0, 0), (1, 1, 0))[axis] @ axes
    up, _ = Rotation.align_vectors([(0, 0, 1.0)], [direction / np.linalg.norm(direction)])
    whole = Rotation.from_rotvec([tilt, 0, 0]) * Rotation.from_euler("z", turn) * up
    heights = abs(np.linalg.det(axes)) / np.linalg.norm(np.cross(axes[[1, 2, 0]], axes[[2, 0, 1]]), axis=1)
    counts = np.ceil((np.hypot(size, thickness) / 2 * 1.5 + 6) / heights).astype(int)
    cells = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in counts], indexing="ij"), -1).reshape(-1, 3)
    places = (whole.apply(cells @ axes)[:, None] + whole.apply(unit.positions)).reshape(-1, 3)
    numbers = np.tile(unit.numbers, len(cells))
    keep = (np.abs(places[:, :2]) <= size / 2).all(1) & (np.abs(places[:, 2]) <= thickness / 2)
    return numbers[keep], places[keep] + np.array([size / 2, size / 2, thickness / 2])


def judge(path: Path, epochs: int) -> dict:
    """Rand indices of a film."""
    from sklearn.decomposition import NMF

    from phaseloom.data.scan import Geometry, Scan4D
    from phaseloom.embedding.networks import autoencoder
    from phaseloom.embedding.objective import AutoencoderObjective
    from phaseloom.embedding.train import Autoencode, AutoencoderTraining
    from phaseloom.metrics import clusters

    with np.load(path) as file:
        counts, labels, dose = file["counts"], file["labels"], float(file["dose"])
    line = 4.0 * np.arange(GRID)
    places = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    geometry = Geometry(wavelength=0.0250793, shape=(48, 48), angle=(1.2e-3, 1.2e-3), beam="electron")
    scan = Scan4D(counts=counts, positions=places, geometry=geometry, grid=(GRID, GRID))
    began = time.process_time()
    model = {"recommended": {"latent_dim": LATENTS}}
    recipe = {"model": model, "epochs": max(epochs, 1), "batch": 32, "rate": 1e-3, "seed": 0, "device": "cpu"}
    training = AutoencoderTraining.begin(Autoencode.of(recipe), scan=scan)
    beside = AutoencoderObjective(autoencoder.pca(latent_dim=LATENTS), scan, {}, training.objective.few)
    beside.begin()
    every = np.arange(len(scan))
    rows = {}
    if epochs:
        for _ in training:
            pass
        rows["network"] = training.objective.reconstruct(every)[0].cpu().numpy()
    seconds = time.process_time() - began
    rows["components"] = beside.reconstruct(every)[0].cpu().numpy()
    roots = np.sqrt(counts.reshape(len(counts), -1).astype(np.float32))
    rows["factors"] = NMF(LATENTS, init="nndsvda", max_iter=300, tol=1e-3, random_state=0).fit_transform(
        roots
    )
    out = {"film": path.stem, "dose": dose, "cpu_s": seconds}
    for name, values in rows.items():
        for way, seen in (("raw", values), ("whitened", clusters.standardise_columns(values))):
            found = clusters.fit_kmeans(seen, LABELS, truth=labels)
            out[f"{name} {way}"] = found.agreement.mean
        out[f"{name} mixture"] = clusters.fit_mixture(values, LABELS, truth=labels).agreement.mean
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["make", "judge"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs=2, default=(0, 10))
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.what == "make":
        for seed in range(*given.seeds):
            make(given.folder, seed)
        return
    import torch

    from benchmarks.record import machine

    torch.set_num_threads(1)
    rows = []
    for path in sorted(given.folder.glob("film-*.npz"), key=lambda one: int(one.stem.split("-")[1])):
        rows.append(judge(path, given.epochs))
        print(
            json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in rows[-1].items()}),
            flush=True,
        )
        if given.out:
            medians = {k: float(np.median([r[k] for r in rows])) for k in rows[0] if k != "film"}
            text = json.dumps({"machine": machine(), "medians": medians, "films": rows}, indent=1)
            given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
