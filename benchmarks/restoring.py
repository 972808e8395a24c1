"""Restored phases of few electrons from ptychography, judged on foreign specimens: errors and inventions.

    python -m benchmarks.restoring judge FOLDER --set judge --network RUN --out FILE [--yardsticks FOLDER]
    python -m benchmarks.restoring train FOLDER --out RUN

Reads the files of `benchmarks.restoring_scans`. Methods: the phase as reconstructed (``input``); the
filters of `phaseloom.restoration.half_data_filter`, whose strength the halves of the counts give; the same
filters at the one strength that is best for each dose over all images judged, and at the best one for each
image, which no user knows; images of other programs (``--yardsticks``, see `benchmarks.peers.yardsticks`);
a network.

Errors: ``nmse``, squared error over the square of the truth, and ``correlation``, planes taken off both, six
pixels at the edges left out; ``scaled`` is the nmse after the best factor, so that a mere gain does not
count. Means over images with a 95 % interval from 4000 bootstrap draws of specimens. ``against wiener``:
mean difference of the nmse, with its interval.

Inventions, each a number that is 1 or 0 for a faithful image:

- ``vacancy`` (1): how much darker an empty column is than regular columns near it, over the same of the truth
  and over the contrast of the columns in the image; 0 is a vacancy that is filled. Images with less than
  0.15 of the true contrast are left out.
- ``foreign`` (1): the same of columns with foreign atoms.
- ``leak`` (0): amplitude of the lattice's frequencies beyond the ordered part, over that within it, less the
  same of the truth.
- ``vacuum`` (0): rms of an image of nothing, over that of the input.
- ``order`` (1): in amorphous films, the largest share of one frequency in the power, over that of the truth.
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from benchmarks.record import machine, versions
from phaseloom.learning.evaluation import make_card, save_with_card
from phaseloom.metrics.phase import remove_ramp
from phaseloom.restoration.apply import load_restorer
from phaseloom.restoration.baselines import METHODS, STRENGTH_RANGES, Denoiser
from phaseloom.restoration.half_data_filter import HALF_DATA_FILTERS, filter_by_halves
from phaseloom.restoration.half_data_network import HALF_DATA_INPUT, restore_by_halves, stack_filtered
from phaseloom.restoration.pairs.folders import Pair
from phaseloom.restoration.train import Restore, RestorerTraining

RIM = 6
GRID = 13
PHASES = ("full", "first", "second")
NARROW = 1.5
MIN_CONTRAST = 0.15
CROP = 48
NEAR = 6
AMORPHOUS = ("carbon", "silica")
PEAKS = 8
DRAWS = 4000
OTHERS = ("wiener", "wiener, narrow", "bm3d", "nonlocal_means, best for each")
INVENTIONS = ("vacancy", "foreign", "leak", "vacuum", "order")

Image = np.ndarray


def load_file(path: Path) -> dict:
    """Arrays of a file, planes taken off, and what is known of it."""
    with np.load(path) as file:
        found = {key: np.asarray(file[key], float) for key in file.files if key != "about"}
        about = json.loads(str(file["about"]))
    for name in ("full", "first", "second"):
        found[name] = remove_ramp(found[name])
    return found | {"about": about, "name": path.stem}


def cut(image: Image) -> Image:
    """Without its edges and its plane."""
    return remove_ramp(image[RIM:-RIM, RIM:-RIM])


def score(image: Image, truth: Image) -> dict[str, float]:
    """Errors of an image."""
    one, other = cut(image), cut(truth)
    power = float((other**2).sum())
    correlation = float((one * other).sum() / np.sqrt((one**2).sum() * power + 1e-300))
    nmse = float(((one - other) ** 2).sum() / power)
    return {"nmse": nmse, "scaled": 1 - max(correlation, 0.0) ** 2, "correlation": correlation}


def list_methods(network: Path | None, yardsticks: Path | None) -> dict[str, Callable[[dict], Image]]:
    """Methods by name: from what was read of a file to an image."""
    methods: dict[str, Callable[[dict], Image]] = {"input": lambda one: one["full"]}
    for name in HALF_DATA_FILTERS:
        methods[name] = partial(
            lambda one, name: filter_by_halves(one["full"], one["first"], one["second"], method=name),
            name=name,
        )
    methods["wiener, narrow"] = lambda one: filter_by_halves(
        one["full"], one["first"], one["second"], spread=NARROW
    )
    if network is not None:
        net, kind, _ = load_restorer(network)
        methods["network"] = lambda one: restore_by_halves(net, kind, *(one[key] for key in PHASES)).low[0]
    for path in sorted(yardsticks.iterdir()) if yardsticks else ():
        methods[path.name] = partial(
            lambda one, path: np.load(path / f"{one['name']}.npy").astype(float), path=path
        )
    return methods


def measure_inventions(one: dict, image: Image) -> dict[str, float | list[float]]:
    """What an image shows that is not there, or hides, see the module."""
    truth, material = one["truth"], one["about"]["material"]
    if material == "vacuum":
        return {"vacuum": float(cut(image).std() / cut(one["full"]).std())}
    if material in AMORPHOUS:
        return {"order": largest_share(cut(image)) / largest_share(cut(truth))}
    found: dict[str, float | list[float]] = {}
    regular = inside(one["regular"], truth.shape)
    contrast = column_contrast(image, truth, one["depth"])
    for name, places in (("vacancy", "vacancies"), ("foreign", "foreign")):
        sites = inside(one[places], truth.shape)
        if len(sites) and len(regular) > NEAR and contrast > MIN_CONTRAST:
            depth = [step_at(picture, sites, regular) for picture in (image, truth)]
            found[name] = (depth[0] / depth[1] / contrast).tolist()
    if (one["depth"] < -8).mean() > 0.15:
        found["leak"] = lattice_share(image, one) - lattice_share(truth, one)
    return found


def inside(places: Image, shape: tuple[int, ...]) -> Image:
    """Places that are not near an edge."""
    far = (places > RIM) & (places < np.array(shape) - 1 - RIM)
    return places[far.all(1)] if len(places) else places.reshape(0, 2)


def value_at(image: Image, places: Image) -> Image:
    """Values at places between pixels."""
    return ndimage.map_coordinates(image, places.T, order=3, mode="nearest")


def step_at(image: Image, sites: Image, regular: Image) -> Image:
    """How far sites are below the mean of the regular sites nearest to each."""
    distance = np.linalg.norm(sites[:, None] - regular, axis=-1)
    near = np.argsort(distance, axis=1)[:, :NEAR]
    return value_at(image, regular)[near].mean(1) - value_at(image, sites)


def column_contrast(image: Image, truth: Image, depth: Image) -> float:
    """Slope of the image over the truth in the ordered part."""
    there = depth > 2
    there[:RIM] = there[-RIM:] = there[:, :RIM] = there[:, -RIM:] = False
    wanted = truth[there] - truth[there].mean()
    return float((image[there] * wanted).sum() / (wanted**2).sum())


def lattice_share(image: Image, one: dict) -> float:
    """Amplitude at the lattice's strongest frequencies beyond the ordered part, over that within it."""
    amplitudes = []
    order = taper(one["depth"])
    spectrum = np.abs(np.fft.fft2(order * (one["truth"] - np.average(one["truth"], weights=order))))
    spectrum[np.hypot(*np.meshgrid(*(np.fft.fftfreq(n) for n in spectrum.shape), indexing="ij")) < 0.06] = 0
    peaks = np.argsort(spectrum.ravel())[::-1][:PEAKS]
    for weight in (taper(-one["depth"] - 4), order):
        level = image - np.average(image, weights=weight)
        power = np.abs(np.fft.fft2(weight * level)).ravel()[peaks] ** 2
        amplitudes.append(np.sqrt(power.mean()) / weight.sum())
    return float(amplitudes[0] / amplitudes[1])


def taper(depth: Image) -> Image:
    """A soft window over the pixels with a positive depth, without the edges of the image."""
    weight = np.clip(depth / 4, 0, 1)
    rim = np.minimum.outer(*(np.minimum(np.arange(n), np.arange(n)[::-1]) for n in depth.shape))
    return weight * np.clip((rim - RIM) / 4, 0, 1) + 1e-12


def largest_share(image: Image) -> float:
    """Of the power of an image, the share of its strongest frequency."""
    window = np.outer(*(np.hanning(n) for n in image.shape))
    power = np.abs(np.fft.fft2((image - image.mean()) * window)) ** 2
    return float(power.max() / power.sum())


def search_hindsight(files: list[dict]) -> dict[str, dict[str, list[Image]]]:
    """Images of filters at the strength best for all, and for each image; of equal doses."""
    found: dict[str, dict[str, list[Image]]] = {}
    for method in METHODS:
        low, high = STRENGTH_RANGES[method]
        images, errors = [], []
        for one in files:
            noise = 1.0 if method == "gaussian" else float(np.std(one["first"] - one["second"])) / 2
            strengths = np.geomspace(low, high, GRID) * noise
            images.append([Denoiser(method, float(s))(one["full"][None])[0] for s in strengths])
            errors.append([score(image, one["truth"])["nmse"] for image in images[-1]])
        table = np.array(errors)
        best = int(table.mean(0).argmin())
        found[f"{method}, best for all"] = {"images": [row[best] for row in images]}
        each = table.argmin(1)
        found[f"{method}, best for each"] = {"images": [row[n] for row, n in zip(images, each, strict=True)]}
    return found


def judge(paths: list[Path], network: Path | None, yardsticks: Path | None) -> dict:
    """Scores and inventions of all methods over all files."""
    files = [load_file(path) for path in paths]
    methods = list_methods(network, yardsticks)
    rows: dict[str, dict[str, dict]] = defaultdict(dict)
    for dose in sorted({one["about"]["dose"] for one in files}):
        some = [one for one in files if one["about"]["dose"] == dose]
        images: dict[str, list[Image | None]] = {
            name: [method(one) for one in some] for name, method in methods.items()
        }
        solid = [one for one in some if one["about"]["material"] != "vacuum"]
        for name, row in search_hindsight(solid).items():
            left = iter(row["images"])
            images[name] = [next(left) if one["about"]["material"] != "vacuum" else None for one in some]
        for name, restored in images.items():
            for one, image in zip(some, restored, strict=True):
                if image is None:
                    continue
                scores = {} if one["about"]["material"] == "vacuum" else score(image, one["truth"])
                rows[name][one["name"]] = scores | measure_inventions(one, image)
    about = {one["name"]: one["about"] for one in files}
    return {"files": about, "table": summarise(rows, about), "rows": rows}


def summarise(rows: dict, about: dict) -> dict:
    """Means with intervals by dose and method."""
    out: dict = {}
    for dose in sorted({one["dose"] for one in about.values()}):
        names = [name for name, one in about.items() if one["dose"] == dose]
        table = {}
        for method, found in rows.items():
            line = {}
            for what in ("nmse", "scaled", "correlation", *INVENTIONS):
                groups = [np.atleast_1d(found[name][what]) for name in names if what in found.get(name, {})]
                if groups:
                    line[what] = interval(groups)
            both = [name for name in names if "nmse" in found.get(name, {})]
            for other in OTHERS if method == "network" else OTHERS[:1]:
                if other in rows:
                    gaps = [np.atleast_1d(found[name]["nmse"] - rows[other][name]["nmse"]) for name in both]
                    line[f"against {other}"] = interval(gaps)
            table[method] = line
        out[f"{dose:g}"] = table
    return out


def interval(groups: list[Image]) -> dict[str, float]:
    """Mean over all values, median of groups, and a 95 % interval of the mean from draws of groups."""
    rng = np.random.default_rng(7)
    sums, counts = np.array([g.sum() for g in groups]), np.array([len(g) for g in groups])
    drawn = rng.integers(0, len(groups), (DRAWS, len(groups)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.percentile(means, (2.5, 97.5))
    middle = float(np.median(sums / counts))
    return {
        "mean": float(sums.sum() / counts.sum()),
        "low": float(low),
        "high": float(high),
        "median": middle,
        "values": int(counts.sum()),
        "groups": len(groups),
    }


def show(table: dict) -> None:
    """Print the table."""
    for dose, methods in table.items():
        print(f"\n{dose} electrons per square angstrom")
        for name, line in methods.items():
            cells = [
                f"{what} {one['mean']:.3f} [{one['low']:.3f} {one['high']:.3f}]"
                for what, one in line.items()
                if what not in ("scaled",)
            ]
            print(f"  {name:32s} " + "; ".join(cells))


def train(folder: Path, out: Path, given: argparse.Namespace) -> None:
    """Train a network on the pairs of the package's own simulator; materials of the validation are apart."""
    pairs, scenes = [], []
    for path in sorted(folder.glob("train-*.npz")):
        one = load_file(path)
        if min(one["truth"].shape) < CROP:
            continue
        before = stack_filtered(*(one[key] for key in PHASES))
        target = np.repeat(one["truth"][None], len(before), 0).astype(np.float32)
        rows, columns = (n // 8 * 8 for n in target.shape[1:])
        pairs.append(Pair(path.stem, before[:, :rows, :columns], target[:, :rows, :columns]))
        scenes.append(one["about"]["material"])
    recipe = Restore.of(
        {
            "task": "phase",
            "model": {
                "narrow": {
                    "channels_in": len(pairs[0].input),
                    "channels_out": len(pairs[0].input),
                    "high": False,
                }
            },
            "losses": ["charbonnier"],
            "epochs": given.epochs,
            "crops": CROP,
            "rate": 1e-3,
            "validation": 0.06,
            "seed": given.seed,
            "device": "cpu",
        }
    )
    training = RestorerTraining.begin(recipe, out, pairs=pairs, scenes=scenes)
    training.objective.pairs = (
        [*training.pairs[0]],
        [*training.pairs[1]],
    )  # normalised once, not in every draw
    began = time.process_time()
    for epoch in training:
        state = training.progress.history[-1].get("state", {})
        print(
            epoch.number,
            f"{epoch.loss:.4f}",
            state.get("psnr"),
            f"{time.process_time() - began:.0f} s",
            flush=True,
        )
    facts = {"task": "phase", "input": HALF_DATA_INPUT, "pairs": [len(side) for side in training.pairs]}
    card = make_card(recipe, None, epochs=training.progress.epoch, **facts)
    print(save_with_card(training.net, card, training.directory))


def main() -> None:
    """Judge, or train what is to be judged."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("judge", "train"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--set", default="judge")
    parser.add_argument("--network", type=Path)
    parser.add_argument("--yardsticks", type=Path)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "train":
        train(given.folder, given.out, given)
        return
    found = {"machine": machine(), "versions": versions("torch", "numpy", "scikit-image"), "set": given.set}
    found |= judge(sorted(given.folder.glob(f"{given.set}-*.npz")), given.network, given.yardsticks)
    show(found["table"])
    if given.out:
        rounded = json.loads(json.dumps(found), parse_float=lambda text: float(f"{float(text):.4g}"))
        given.out.write_text(json.dumps(rounded) + "\n")


if __name__ == "__main__":
    main()
