"""Restoration of phases of few electrons beside filters at their best setting: numbers of the docs.

    python -m benchmarks.restoration phase --out benchmarks/results/restoration-phase-DATE.json
    python -m benchmarks.restoration phase --by reconstruct --out benchmarks/results/restoration-DATE.json

``phase``: simulated scans of crystals and glasses (`phaseloom.simulation.specimens.prototypes`) of 1e5
electrons in a pattern are thinned to a share of these, and both parts are read by the linear network of the
package, or reconstructed by ptychography (`phaseloom.restoration.pairs.noise2noise`, target ``rest``).
Materials of the test pairs are held out: they are neither in the training pairs nor in what the linear
network was solved for. Specimens with next to nothing in view (a contrast of less than 0.03 rad) are left
out of both.

One network learns all doses together, every attention and seed by itself. Filters have a strength for each
dose by itself: fitted to 24 training pairs, the one best for all test pairs (which no user could know), and
the best one for each test image (which nobody could know). ``target``: error against the phase from the rest
of the counts; ``truth``: against the simulated phase without noise; filters are fitted to that which they are
judged by. NMSE is the squared error over the square of the target, planes taken off both. One thread.
"""

import argparse
import itertools
import json
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np
import torch

from benchmarks.record import machine, versions
from phaseloom.data import prepare
from phaseloom.metrics.phase import remove_ramp
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.restoration.apply import restore_image
from phaseloom.restoration.baselines import METHODS, STRENGTH_RANGES, Denoiser
from phaseloom.restoration.pairs.folders import Pair
from phaseloom.restoration.pairs.image_kinds import phase as level_of_phases
from phaseloom.restoration.pairs.noise2noise import PairRecipe, make_pairs_of_scan
from phaseloom.restoration.train import Restore, RestorerTraining
from phaseloom.simulation import specimens
from phaseloom.simulation.experiment import PIXELS_PER_STEP, Experiment
from phaseloom.simulation.scan import Sample, simulate_scan

DOSE = 1e5
"""Electrons in a pattern of the whole scan."""

SCAN = {"probe": {"focused": {"semiangle": "20 mrad", "defocus": "90 A"}}, "start": "none"}
SCAN |= {"epochs": 10, "device": "cpu"}

FAINT = 0.03
"""Contrast of a phase, radian rms, up to which a specimen is left out: vacuum but for an edge."""

GRID = 21
"""Strengths between which the best one of a filter is looked for."""

SIDES = {"predict": ("target", "truth"), "reconstruct": ("target",)}
"""What restorations can be held against: reconstructions have other pixels than the simulated phase."""


@dataclass(frozen=True, eq=False)
class Shown:
    """A pair, the phase that it comes from, its material and its share of the counts."""

    pair: Pair
    truth: np.ndarray | None
    group: str
    share: float

    def wanted(self, side: str) -> np.ndarray:
        """What restorations are held against."""
        return self.pair.target[0] if side == "target" or self.truth is None else self.truth


def sampled(number: int, part: specimens.Part, scan: int) -> Sample:
    """A specimen of a part of the materials, without counting noise."""
    rng = np.random.default_rng((number, part == "train"))
    experiment = Experiment(scan=(scan, scan))
    return simulate_scan(specimens.prototypes(experiment.box, rng, part=part), experiment, seed=number)


def seen(count: int, part: specimens.Part, scan: int) -> Iterator[tuple[int, Sample]]:
    """Specimens in order but for those of which next to nothing is in view."""
    numbers = itertools.count()
    samples = ((number, sampled(number, part, scan)) for number in numbers)
    yield from itertools.islice((one for one in samples if remove_ramp(one[1].phase).std() > FAINT), count)


def shown(
    count: int, part: specimens.Part, shares: Sequence[float], asked: argparse.Namespace
) -> Iterator[Shown]:
    """Pairs of simulated scans: for training of shares by chance, for the test one of each."""
    for number, sample in seen(count, part, asked.scan):
        scan = prepare.poisson(sample.scan(), dose=DOSE, seed=number)
        truth = (
            sample.phase[PIXELS_PER_STEP:-PIXELS_PER_STEP, PIXELS_PER_STEP:-PIXELS_PER_STEP]
            if asked.by == "predict"
            else None
        )
        for each in [tuple(shares)] if part == "train" else [(share,) for share in shares]:
            draws = asked.draws if part == "train" else 1
            recipe = PairRecipe.of({"by": asked.by, "share": each, "draws": draws, "seed": number})
            for made in make_pairs_of_scan(recipe, Reconstruct.of(SCAN), scan, number=number):
                yield Shown(made.pair, truth, sample.group, made.told["share"])


def nmse(image: np.ndarray, wanted: np.ndarray) -> float:
    """Squared error over the square of what is wanted, planes taken off both."""
    flat = remove_ramp(wanted)
    return float(np.square(remove_ramp(image) - flat).sum() / np.square(flat).sum())


def spread(errors: Sequence[float]) -> dict[str, float]:
    """What is said of errors of many pairs."""
    return {"mean": float(np.mean(errors)), "median": float(np.median(errors))}


def levelled(one: Shown, side: str = "target") -> Pair:
    """A pair as networks and filters are shown it."""
    return level_of_phases().normalise_pair(
        replace(one.pair, target=one.wanted(side)[None].astype(np.float32))
    )


def filtered(learned: Sequence[Shown], test: Sequence[Shown], side: str) -> dict:
    """Filters with the strength of training pairs, of test pairs, and of each image."""
    out: dict = {"input": spread([nmse(one.pair.input[0], one.wanted(side)) for one in test])}
    few = [levelled(one, side) for one in learned[:24]]
    inputs = [levelled(one).input for one in test]
    wanted = [levelled(one, side) for one in test]
    noise = float(np.sqrt(np.mean([np.square(pair.input - pair.target).mean() for pair in wanted])))
    for method in METHODS:
        fitted = Denoiser.fit(method, few)
        errors = [nmse(fitted(image)[0], one.target[0]) for image, one in zip(inputs, wanted, strict=True)]
        low, high = (value * (1 if method == "gaussian" else noise) for value in STRENGTH_RANGES[method])
        strengths = np.geomspace(low, high, GRID)
        table = np.array(
            [
                [nmse(Denoiser(method, float(s))(image)[0], one.target[0]) for s in strengths]
                for image, one in zip(inputs, wanted, strict=True)
            ]
        )
        best = int(table.mean(0).argmin())
        out[method] = {
            "fitted to training pairs": {"strength": fitted.strength, **spread(errors)},
            "fitted to test pairs": {"strength": float(strengths[best]), **spread(list(table[:, best]))},
            "fitted to each image": spread(list(table.min(1))),
        }
    return out


def trained(
    learned: Sequence[Shown], attention: str, seed: int, asked: argparse.Namespace
) -> RestorerTraining:
    """A network that has learned; the materials of its validation pairs are apart."""
    recipe = Restore.of(
        {
            "task": "phase",
            "model": {"narrow": {"attention": attention, "high": False, "seed": seed}},
            "losses": json.loads(asked.losses),
            "epochs": asked.epochs,
            "crops": asked.crops,
            "rate": asked.rate,
            "validation": 0.1,
            "seed": seed,
            "device": "cpu",
        }
    )
    pairs, scenes = [one.pair for one in learned], [one.group for one in learned]
    training = RestorerTraining.begin(recipe, pairs=pairs, scenes=scenes)
    # normalised once, not in every draw
    training.objective.pairs = ([*training.pairs[0]], [*training.pairs[1]])
    for _ in training:
        pass
    return training


def networks(
    learned: Sequence[Shown], tests: dict[float, list[Shown]], asked: argparse.Namespace
) -> Iterator[dict]:
    """Scores of every attention and seed, as they come."""
    for seed in asked.seeds:
        for attention in asked.attention:
            began = time.process_time()
            training = trained(learned, attention, seed, asked)
            seconds = time.process_time() - began
            history = training.progress.history
            row: dict = {"attention": attention, "seed": seed, "cpu_seconds": seconds}
            row["parameters"] = sum(value.numel() for value in training.net.parameters())
            row["validation_decibels"] = [epoch.get("holdout") for epoch in history]
            for share, test in tests.items():
                images = [
                    restore_image(training.net, level_of_phases(), one.pair.input).low[0] for one in test
                ]
                for side in SIDES[asked.by]:
                    errors = [nmse(image, one.wanted(side)) for image, one in zip(images, test, strict=True)]
                    row[f"{share:g} {side}"] = spread(errors)
            yield row


def phase(asked: argparse.Namespace, keep: Callable[[dict], None]) -> None:
    """Networks beside filters."""
    began = time.process_time()
    learned = list(shown(asked.train, "train", asked.shares, asked))
    every = list(shown(asked.test, "held out", asked.shares, asked))
    tests = {share: [one for one in every if one.share == share] for share in asked.shares}
    groups = {one.group for one in learned}, {one.group for one in every}
    assert not groups[0] & groups[1]
    made = {"training pairs": len(learned), "test pairs": {f"{s:g}": len(t) for s, t in tests.items()}}
    made |= {"training materials": len(groups[0]), "test materials": len(groups[1])}
    made |= {"pixels": every[0].pair.size, "dose": DOSE, "cpu_seconds": time.process_time() - began}
    full = [nmse(one.pair.target[0], one.wanted("truth")) for one in tests[asked.shares[0]]]
    keep({"made": made} | ({"target against truth": spread(full)} if asked.by == "predict" else {}))
    if asked.filters:
        for share, test in tests.items():
            near = [one for one in learned if one.share == share]
            for side in SIDES[asked.by]:
                keep({"share": share, "side": side, "filters": filtered(near, test, side)})
    for row in networks(learned, tests, asked):
        keep({"network": row})


def commit() -> str:
    """Of the code that ran."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("phase",))
    parser.add_argument("--by", choices=tuple(SIDES), default="predict")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.01, 0.003])
    parser.add_argument("--scan", type=int, default=26, help="probes along an edge")
    parser.add_argument("--train", type=int, default=150, help="scans")
    parser.add_argument("--draws", type=int, default=2, help="pairs of each")
    parser.add_argument("--test", type=int, default=30, help="scans")
    parser.add_argument("--attention", nargs="+", default=["plain", "phase"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--crops", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--losses", default='["charbonnier"]')
    parser.add_argument("--filters", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    about = {"machine": machine(), "date": f"{date.today()}", "commit": commit()}
    about |= {"versions": versions("torch", "numpy", "scikit-image"), "threads": 1}
    about["asked"] = {name: value for name, value in vars(asked).items() if name != "out"}
    kept: list[dict] = []

    def keep(row: dict) -> None:
        kept.append(row)
        print(json.dumps(row), flush=True)
        if asked.out is not None:
            asked.out.write_text(json.dumps(about | {"runs": kept}, indent=1) + "\n")

    phase(asked, keep)


if __name__ == "__main__":
    main()
