"""Films with the variations of real ones, made without phaseloom, on which ways to group patterns are judged.

    python -m benchmarks.varied_films make FOLDER --seeds 0 10
    python -m benchmarks.varied_films judge FOLDER [--epochs 8] [--out FILE]

``make`` runs where abTEM and ASE are (see `benchmarks.foreign_scans`), ``judge`` where phaseloom is; epochs
are those of the network, none leave it out. Films of `benchmarks.foreign_films` are judged alike.

Nanobeam patterns (200 keV, 3 mrad, 48 x 48 pixels of 1.2 mrad) of 26 x 26 places, 100 to 1e4 electrons.
Three to six labels: vacuum, one crystal, the same turned in the plane, turned further, tilted by 9 mrad, and
another crystal; in domains of about eight steps, beside small inclusions of 3 to 12 places. What is no label:
a wedge of 20 to 60 angstrom in any direction, a bend of 6 mrad with a strain of 1.2 % across the film,
vacancies, frozen phonons, descan of up to 1.5 pixels with a wobble, and a beam that fluctuates by 3 %. Eight
frames of each film are bad: too short or long exposure, a jump of the beam, lost rows, a burst of X-rays.

Scores are adjusted Rand indices of the labels that a user gets, for the true number of clusters, eight
numbers and five seeds; ``field`` is the mixture with neighbours. Beside them: the same with a few labels of
each kind given (three, and eight), of the other patterns; the number of clusters that is suggested; and bad
frames that are found, and false ones.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from benchmarks.foreign_films import cut_film

GRID = 26
SHAPE = 48
DOSES = (100.0, 300.0, 1e3, 3e3, 1e4)
SPACING = 4.0
MIN_SLICES, MAX_SLICES = 5, 15
STEPS_OF_BEND = 4  # tilts and strains that the specimens of a label have
BEND = 0.006
STRAIN = 0.012
TILT = 0.009
VACANCIES = 0.02
BAD_FRAMES = 8


def make(folder: Path, seed: int) -> None:
    """Simulate a film and write it."""
    from benchmarks.testbed.draw import Case, Faults
    from benchmarks.testbed.foreign import CRYSTALS
    from benchmarks.testbed.scan import choose_grid, diffract

    rng = np.random.default_rng([seed, 53])
    dose = float(DOSES[seed % len(DOSES)])
    case = Case(seed, "thin", 200.0, 0.003, SHAPE, 1.2e-3, 0.0, 0.0, 4.0, GRID, dose, Faults())
    grid = choose_grid(case, case.faults, 1.0)
    places = np.stack(np.meshgrid(*[np.arange(GRID)] * 2, indexing="ij"), -1).reshape(-1, 2)
    first, second = rng.choice(list(CRYSTALS), 2, replace=False)
    turn = rng.uniform(-np.pi, np.pi)
    ways = [
        None,
        (first, 2, turn, 0.0),
        (first, 2, turn + rng.uniform(0.15, 0.4), 0.0),
        (first, 2, turn, TILT),
        (second, 0, turn, 0.0),
        (first, 2, turn - rng.uniform(0.15, 0.4), 0.0),
    ]
    others = rng.choice([0, 2, 3, 4, 5], rng.integers(2, 6), replace=False)
    kinds = np.array([1, *others])
    labels = kinds[draw_domains(rng, places, len(kinds))]
    slices = np.rint(MIN_SLICES + (MAX_SLICES - MIN_SLICES) * draw_slope(rng, places)).astype(int)
    bends = np.minimum(STEPS_OF_BEND * draw_slope(rng, places), STEPS_OF_BEND - 1).astype(int)
    shifts = 1.5 * (np.stack([draw_slope(rng, places), draw_slope(rng, places)], 1) - 0.5)
    shifts = shifts + 0.1 * rng.normal(size=shifts.shape)
    size = float(np.ceil(60 / grid.pixel) * grid.pixel)
    expected = np.zeros((len(labels), SHAPE, SHAPE), np.float32)
    for label in kinds:
        for bend in np.unique(bends[labels == label]):
            phases = make_phases(rng, ways[label], bend, size, grid.pixel)
            for count in np.unique(slices[(labels == label) & (bends == bend)]):
                here = np.flatnonzero((labels == label) & (bends == bend) & (slices == count))
                where = rng.uniform(0, size, (len(here), 2))
                part = take_slices(phases, count, grid.pixel)
                expected[here] = diffract(case, case.faults, part, grid, positions=where, shifts=shifts[here])
    beam = dose * (1 + 0.03 * rng.normal(size=len(labels)))
    counts = rng.poisson(beam[:, None, None] * expected).astype(np.uint16)
    bad, names = spoil(rng, counts, beam[:, None, None] * expected)
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"labels": labels, "dose": dose, "slices": slices, "bad": bad, "faults": names}
    np.savez_compressed(folder / f"film-{seed}.npz", counts=counts, **facts)


def draw_slope(rng, places):
    """A ramp over the film in any direction, from 0 to 1."""
    angle = rng.uniform(-np.pi, np.pi)
    value = places @ np.array([np.sin(angle), np.cos(angle)])
    return (value - value.min()) / np.ptp(value)


def draw_domains(rng, places, count):
    """Numbers of domains, and small inclusions of some of them in others."""
    centres = rng.uniform(0, GRID, (max(count, GRID**2 // 64), 2))
    owners = rng.permutation(np.arange(len(centres)) % count)
    found = owners[((places[:, None] - centres) ** 2).sum(-1).argmin(1)]
    for _ in range(3):
        around = np.hypot(*(places - rng.uniform(2, GRID - 3, 2)).T)
        found[around < rng.uniform(1.0, 2.0)] = rng.integers(count)
    return found


def make_phases(rng, way, bend, size, pixel):
    """Phase slices of a crystal, bent, strained, with vacancies and vibrations; empty for vacuum."""
    from benchmarks.testbed.specimens import interaction_parameter, project_potential

    pixels = round(size / pixel)
    if way is None:
        return np.zeros((MAX_SLICES, pixels, pixels), np.float32)
    share = bend / (STEPS_OF_BEND - 1) - 0.5
    name, axis, turn, tilt = way
    thickness = SPACING * MAX_SLICES
    wide = 1.02 * size
    numbers, atoms = cut_film((name, axis, turn, tilt + BEND * share), wide, thickness)
    atoms = (atoms - [wide / 2, wide / 2, 0]) * [1 + STRAIN * share, 1 - STRAIN * share, 1]
    atoms = atoms + np.array([size / 2, size / 2, 0]) + rng.normal(0, 0.06, atoms.shape)
    keep = ((atoms[:, :2] >= 0) & (atoms[:, :2] < size)).all(1) & (rng.random(len(atoms)) > VACANCIES)
    volts = project_potential(numbers[keep], atoms[keep], thickness, SPACING, pixels=pixels, pixel=pixel)
    return (volts * interaction_parameter(200.0)).astype(np.float32)


def take_slices(phases, count, pixel):
    """The upper part of a specimen."""
    from benchmarks.testbed.specimens import Specimen

    return Specimen(phases[:count], pixel, SPACING, {})


def spoil(rng, counts, expected):
    """Make some frames bad in place; their numbers, and what happened to them."""
    bad = np.sort(rng.choice(len(counts), BAD_FRAMES, replace=False))
    names = rng.permutation(np.array(["short", "short", "long", "jump", "jump", "rows", "rows", "burst"]))
    for number, name in zip(bad, names, strict=True):
        if name == "short":
            counts[number] = rng.poisson(rng.uniform(0.1, 0.6) * expected[number])
        elif name == "long":
            counts[number] = rng.poisson(rng.uniform(1.6, 2.5) * expected[number])
        elif name == "jump":
            angle = rng.uniform(-np.pi, np.pi)
            by = np.rint(rng.uniform(4, 9) * np.array([np.sin(angle), np.cos(angle)])).astype(int)
            counts[number] = np.roll(counts[number], by, (0, 1))
        elif name == "rows":
            start = rng.integers(SHAPE // 2 - 4, SHAPE // 2 + 1)
            counts[number, start : start + rng.integers(3, 9)] = 0
        else:
            row, column = rng.integers(4, SHAPE - 8, 2)
            most = max(4, counts[number].sum() / 8)
            counts[number, row : row + 3, column : column + 3] += rng.poisson(most / 9, (3, 3)).astype(
                np.uint16
            )
    return bad, names


def judge(path: Path, epochs: int) -> dict:
    """Scores of a film."""
    from phaseloom.embedding.component_embedding import compute_component_embedding
    from phaseloom.embedding.registration import register
    from phaseloom.metrics import clusters

    with np.load(path) as file:
        film = dict(file)
    truth = np.unique(film["labels"], return_inverse=True)[1]
    count = int(truth.max()) + 1
    scan = build_scan(film["counts"])
    out = {"film": path.stem, "dose": float(film["dose"]), "true count": count}
    roots = 2 * np.sqrt(film["counts"].reshape(len(truth), -1) + 0.375)
    out["patterns kmeans"] = clusters.adjusted_rand(truth, clusters.fit_kmeans(roots, count).labels)
    began = time.process_time()
    found = compute_component_embedding(scan)
    out["embed_s"] = time.process_time() - began
    rows = {"nmf aligned": found.latents, "pca aligned": compute_component_embedding(scan, "pca").latents}
    for way in ("pca", "nmf"):
        rows[way] = compute_component_embedding(scan, way, aligned=False).latents
    if epochs:
        rows |= {"network": train(scan, epochs), "network aligned": train(register(scan), epochs)}
    for name, values in rows.items():
        for way, fit in (("kmeans", clusters.fit_kmeans), ("mixture", clusters.fit_mixture)):
            out[f"{name} {way}"] = clusters.adjusted_rand(truth, fit(values, count).labels)
    return out | judge_fields(scan, rows, truth) | judge_frames(found, film)


def build_scan(counts):
    """A film as phaseloom has it."""
    from phaseloom.data.scan import Geometry, Scan4D

    line = 4.0 * np.arange(GRID)
    places = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    geometry = Geometry(wavelength=0.0250793, shape=(SHAPE, SHAPE), angle=(1.2e-3,) * 2, beam="electron")
    return Scan4D(counts=counts, positions=places, geometry=geometry, grid=(GRID, GRID))


def judge_fields(scan, rows, truth) -> dict:
    """Scores of mixtures with neighbours, of few labels, and the suggested number of clusters."""
    from phaseloom.metrics.clusters import adjusted_rand
    from phaseloom.metrics.spatial_mixture import compare_spatial_counts, fit_spatial_mixture

    out = {}
    count = int(truth.max()) + 1
    for name, values in rows.items():
        began = time.process_time()
        out[f"{name} field"] = adjusted_rand(truth, fit_spatial_mixture(values, count, scan.positions).labels)
        out |= {"field_s": time.process_time() - began} if name == "nmf aligned" else {}
    best = rows["nmf aligned"]
    for few in (3, 8):
        known = draw_known(truth, few)
        given = fit_spatial_mixture(best, count, scan.positions, seeds=(0, 1), known=known)
        others = known < 0
        out[f"{few} labels"] = adjusted_rand(truth[others], given.labels[others])
    out["suggested count"] = compare_spatial_counts(best, scan.positions).suggested_count
    return out


def judge_frames(found, film) -> dict:
    """Bad frames that are found, and false ones."""
    if "bad" not in film:
        return {}
    unusual = found.unusual()
    right = int(np.isin(unusual, film["bad"]).sum())
    return {"bad": len(film["bad"]), "found": right, "false": len(unusual) - right}


def train(scan, epochs):
    """Latents of a network trained on a scan."""
    from phaseloom.embedding.embeddings import embed_patterns
    from phaseloom.embedding.train import Autoencode, AutoencoderTraining

    model = {"recommended": {"latent_dim": 8}}
    recipe = {"model": model, "epochs": epochs, "batch": 32, "rate": 1e-3, "seed": 0, "device": "cpu"}
    training = AutoencoderTraining.begin(Autoencode.of(recipe), scan=scan)
    for _ in training:
        pass
    return embed_patterns(training.net, {}, scan)[0]  # blank patterns too, which are not trained on


def draw_known(truth, few):
    """Labels of a few patterns of each kind, at most half of it, and -1."""
    rng = np.random.default_rng(71)
    known = np.full(len(truth), -1)
    for kind in np.unique(truth):
        own = np.flatnonzero(truth == kind)
        known[rng.choice(own, min(few, len(own) // 2), replace=False)] = kind
    return known


def judge_all(folder: Path, epochs: int, out: Path | None) -> None:
    """Judge the films of a folder, and keep their medians and sums."""
    import torch

    from benchmarks.record import machine

    torch.set_num_threads(1)
    rows = []
    for path in sorted(folder.glob("film-*.npz"), key=lambda one: int(one.stem.split("-")[1])):
        rows.append(judge(path, epochs))
        print(
            json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in rows[-1].items()}),
            flush=True,
        )
        sums = {k: sum(r[k] for r in rows) for k in ("bad", "found", "false") if k in rows[0]}
        medians = {k: float(np.median([r[k] for r in rows])) for k in rows[0] if k != "film"}
        if out:
            whole = {"machine": machine(), "medians": medians, "sums": sums, "films": rows}
            out.write_text(json.dumps(whole, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["make", "judge"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs=2, default=(0, 10))
    parser.add_argument("--epochs", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.what == "judge":
        judge_all(given.folder, given.epochs, given.out)
        return
    for seed in range(*given.seeds):
        make(given.folder, seed)


if __name__ == "__main__":
    main()
