"""Restoring under water on photographs and water that no training has seen: numbers of `docs/restoration.md`.

    apt-get download mate-backgrounds ...   (`PACKAGES`; unpack all below one folder)
    python -m benchmarks.underwater_scenes collect UNPACKED PHOTOGRAPHS
    python -m benchmarks.underwater_scenes make PHOTOGRAPHS DATA
    phaseloom restore train --dataset_path DATA/train ...
    python -m benchmarks.underwater_scenes judge DATA --model underwater --model NET --out FILE.json

Photographs of Debian's packages: for training 183 landscapes in the public domain (`endless-sky-high-dpi`),
for tests 57 others, of flowers, animals, food, things, streets (desktop backgrounds and avatars, by others).
The test sets were written before any training. ``own`` puts the model of the package before the new scenes;
``foreign`` another one, of this file: absorption and scattering from chlorophyll and yellow substance (Pope &
Fry 1997, doi 10.1364/AO.36.008710; Gordon & Morel 1983, doi 10.1029/LN004; Bricaud, Morel & Prieur 1981,
doi 10.4319/lo.1981.26.1.0043) for three bands, lamps of the diver, marine snow, white balance of a camera,
JPEG. Intervals are of means over scenes, 95 %, by bootstrap. The colour matrix is fitted to training pairs.
"""

import argparse
import io
import json
import re
import subprocess
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter, zoom

from benchmarks.record import machine
from phaseloom.metrics.colour import decode_srgb
from phaseloom.metrics.image import psnr, ssim
from phaseloom.restoration.apply import load_restorer, restore_image
from phaseloom.restoration.baselines import ColourMatrix, gray_world, stretch
from phaseloom.restoration.pairs.folders import Pair
from phaseloom.restoration.pairs.images import read_image, write_image
from phaseloom.restoration.pairs.underwater import save_pairs, simulate_pairs

PACKAGES = {"training": ("endless-sky-high-dpi",)}
PACKAGES["test"] = ("mate-backgrounds", "plasma-workspace-data")
PACKAGES["test"] += ("plasma-workspace-wallpapers", "lomiri-wallpapers-16.04", "lomiri-wallpapers-20.04")

OF_TRAINING = re.compile(
    r"(badlands|beach|canyon|city|desert|dune|fields|fog|forest|hills|lava|loc|mountain|nasa|sea|sky|snow"
    r"|space|station|valley|water)\d+@2x"
)
"""Names in the public domain: others of the folder end with their author's name, or begin with it."""

OF_TEST = """
    aitzgorri bridge dragonfly free friends greentock life picosdeeuropa picture_0b picture_1a seeding sunset
    wine kleiber
    aqua blinds dune freshflower garden greenmeadow ladybird raindrops storm twowings wood yellowflower
    air_balloon astronaut books brushes bulb car cat chameleon cocktail dog fish gamepad owl pancakes parrot
    pencils shuttle soccer sunflower sushi
    bythewater coldripple colorfulcups eveningglow fallenleaf grey kite onestandsout path summer_1am volna
"""
"""First words of names."""

SIZE = 128
PAIRS_OF_SCENE = 2
MAX_EDGE = 1400
"""Pixels of the longer edge to which photographs are reduced."""


def collect(unpacked: Path, folder: Path) -> None:
    """Copy the photographs of both sides from unpacked packages."""
    Image.MAX_IMAGE_PIXELS = None
    for side, packages in PACKAGES.items():
        found = [item for package in packages for item in find_photographs(unpacked / package, side).items()]
        (folder / side).mkdir(parents=True, exist_ok=True)
        for name, path in found:
            with Image.open(path) as opened:
                image = opened.convert("RGB")
            image.thumbnail((MAX_EDGE, MAX_EDGE))
            image.save(folder / side / f"{name}.png")


def find_photographs(package: Path, side: str) -> dict[str, Path]:
    """Largest file of each photograph of a package, by name."""
    found: dict[str, Path] = {}
    for path in sorted(package.rglob("*")):
        if path.suffix.lower() not in (".jpg", ".jpeg", ".png", ".webp") or path.is_symlink():
            continue
        name = path.parents[2].name if path.parts[-3] == "contents" else path.stem
        name = name if side == "training" else re.sub(r"[^a-z0-9]+", "_", name.lower())
        begins = [one for one in OF_TEST.split() if name == one or name.startswith(f"{one}_")]
        wanted = OF_TRAINING.fullmatch(name) if side == "training" else begins
        larger = name not in found or path.stat().st_size > found[name].stat().st_size
        if wanted and larger and is_large(path):
            found[name] = path
    return found


def is_large(path: Path) -> bool:
    """Whether a square of twice the size on fine pixels fits."""
    with Image.open(path) as opened:
        return min(opened.size) >= 4 * SIZE


def make(photographs: Path, folder: Path) -> None:
    """Write training pairs, and two test sets of the same new scenes; PNG."""
    train = photographs / "training"
    save_pairs(folder / "train", size=SIZE, train=1200, test=60, photographs=train, invented=0.2, seed=11)
    scenes = sorted((photographs / "test").glob("*.png"))
    water = {"own": draw_own(scenes, folder), "foreign": draw_foreign(scenes)}
    for kind, pairs in water.items():
        for pair in pairs:
            for side, image in {"input": pair.input, "gt": pair.target, "gt_hr": pair.fine}.items():
                write_image(folder / kind / "test" / side / f"{pair.name}.png", np.asarray(image))


def draw_own(scenes: list[Path], folder: Path) -> Iterator[Pair]:
    """The scenes behind the water of the package."""
    for number, scene in enumerate(scenes):
        alone = folder / "scenes" / scene.stem
        alone.mkdir(parents=True, exist_ok=True)
        for name in (scene.name, f"copy_{scene.name}"):  # a side needs a photograph each
            (alone / name).write_bytes(scene.read_bytes())
        drawn = simulate_pairs(PAIRS_OF_SCENE, size=SIZE, folder=alone, part="test", seed=7000 + number)
        for index, made in enumerate(drawn):
            yield Pair(f"{scene.stem}-{index}", made.pair.input, made.pair.target, made.pair.fine)


def draw_foreign(scenes: list[Path]) -> Iterator[Pair]:
    """The scenes behind the water of this file."""
    for number, scene in enumerate(scenes):
        rng = np.random.default_rng((8000, number))
        photograph = read_image(scene)
        for index in range(PAIRS_OF_SCENE):
            fine = cut_square(photograph, 2 * SIZE, rng)
            target = cut_square(fine, SIZE, None)
            yield Pair(f"{scene.stem}-{index}", spoil(decode_srgb(target), rng), target, fine)


def cut_square(image: np.ndarray, edge: int, rng: np.random.Generator | None) -> np.ndarray:
    """A random square, or the whole of one, reduced to an edge by area, ``(3, edge, edge)``."""
    side = min(image.shape[1:])
    y = x = 0
    if rng is not None:
        side = int(rng.integers(edge, side + 1))
        y, x = (int(rng.integers(n - side + 1)) for n in image.shape[1:])
    part = (255 * image[:, y : y + side, x : x + side]).round().clip(0, 255).astype(np.uint8)
    small = Image.fromarray(np.moveaxis(part, 0, -1)).resize((edge, edge), Image.Resampling.BOX)
    return np.moveaxis(np.asarray(small, np.float32) / 255, -1, 0)


BANDS = np.array([620.0, 550.0, 450.0])
"""Nanometre of red, green and blue."""
ABSORPTION_OF_WATER = np.array([0.2755, 0.0565, 0.00922])
ABSORPTION_OF_CHLOROPHYLL = np.array([0.012, 0.010, 0.040])


def spoil(light: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The picture of a scene ``(3, y, x)`` of linear light under water, display values of 0 to 1."""
    shape = light.shape[1:]
    chlorophyll = 10 ** rng.uniform(-1.3, 0.7)  # milligram per cubic metre
    yellow = rng.uniform(0.005, 0.15) * np.exp(-0.014 * (BANDS - 440))
    absorbed = ABSORPTION_OF_WATER + ABSORPTION_OF_CHLOROPHYLL * chlorophyll**0.65 + yellow
    scattered = 0.3 * chlorophyll**0.62 * 550 / BANDS
    backwards = 0.02 * scattered + 0.002
    down = absorbed + backwards  # of daylight, 1 / metre
    daylight = np.exp(-down * rng.uniform(0.5, 12) * min(1.0, 0.1 / down.min()))
    away = absorbed + 0.25 * scattered  # of light from the scene: most is scattered by small angles
    ranges = draw_ranges(shape, rng) * min(1.0, 0.5 / away.min())
    lit = daylight[:, None, None] * np.ones(shape)
    if rng.uniform() < 0.3:
        lit = lit + draw_lamp(ranges, away, rng)
    direct = light * lit * np.exp(-away[:, None, None] * ranges)
    share = min(0.6, 0.4 * float(scattered[1]))
    direct = (1 - share) * direct + share * gaussian_filter(direct, (0, 1.5, 1.5))
    veil = daylight * backwards / down * rng.uniform(2, 10)
    veil = np.minimum(veil, 0.5 * veil / veil.max())[:, None, None]
    wet = direct + veil * (1 - np.exp(-down[:, None, None] * ranges))
    wet = wet + draw_snow(shape, rng) * veil.max()
    wet = wet * rng.uniform(0.6, 1.1) * light.mean() / max(float(wet.mean()), 1e-4)
    cast = wet.mean((1, 2)) / wet.mean()
    wet = wet * (cast ** -rng.uniform(0.0, 0.5))[:, None, None]  # a camera's white balance
    noisy = rng.poisson(np.maximum(wet, 0) * 10 ** rng.uniform(2.5, 4)).astype(float)
    noisy *= wet.mean() / max(float(noisy.mean()), 1e-9)
    display = (255 * np.clip(noisy, 0, 1) ** (1 / rng.uniform(2.0, 2.4))).round().astype(np.uint8)
    stored = io.BytesIO()
    Image.fromarray(np.moveaxis(display, 0, -1)).save(stored, "JPEG", quality=int(rng.integers(60, 96)))
    with Image.open(stored) as opened:
        return np.moveaxis(np.asarray(opened, np.float32) / 255, -1, 0)


def draw_ranges(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Metre: a slope with steps, as of rocks before a wall."""
    coarse = rng.uniform(0, 1, (4, 4))
    steps = zoom(coarse, [n / 4 for n in shape], order=int(rng.integers(0, 2)))[: shape[0], : shape[1]]
    slope = np.linspace(1, 0, shape[0])[:, None] * np.ones(shape)
    near = rng.uniform(0.5, 3)
    return near + rng.uniform(0.5, 6) * gaussian_filter(0.6 * slope + 0.4 * steps, 2)


def draw_lamp(ranges: np.ndarray, away: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Light of a lamp beside the camera on the scene, beside daylight of 1 at the surface."""
    y, x = np.indices(ranges.shape) / max(ranges.shape)
    row, column = rng.uniform(0.2, 0.8, 2)
    cone = np.exp(-((y - row) ** 2 + (x - column) ** 2) / rng.uniform(0.1, 0.5))
    power = rng.uniform(0.1, 0.6) * np.array([1.0, 0.95, 0.85])[:, None, None]
    return power * cone * (ranges.min() / ranges) ** 2 * np.exp(-away[:, None, None] * ranges)


def draw_snow(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Bright flakes, in and out of focus."""
    out = np.zeros(shape)
    for width in (0.5, 1.0, 2.5):
        flakes = np.zeros(shape)
        for _ in range(int(rng.poisson(rng.uniform(0, 8)))):
            flakes[tuple(int(rng.integers(n)) for n in shape)] += rng.uniform(0.2, 1.0)
        out += gaussian_filter(flakes, width) * 2 * np.pi * width**2
    return out


def judge(data: Path, models: list[str]) -> dict[str, object]:
    """Scores of all methods on both test sets: means over scenes with 95 % intervals."""
    matrix = ColourMatrix.fit(list(load_pairs(data / "train" / "train"))[::4])
    methods = {"input": lambda image: image, "gray world": gray_world, "stretch": stretch}
    methods["colour matrix"] = matrix
    for name in models:
        net, kind, _ = load_restorer(name)
        title = Path(name).name
        methods[title] = lambda image, net=net, kind=kind: restore_image(net, kind, image).low
    table = {}
    for water in ("own", "foreign"):
        pairs = list(load_pairs(data / water / "test"))
        scenes = sorted({pair.name.rpartition("-")[0] for pair in pairs})
        rows = {
            name: [score(np.clip(method(pair.input), 0, 1), pair.target) for pair in pairs]
            for name, method in methods.items()
        }
        of_scene = [
            [n for n, pair in enumerate(pairs) if pair.name.rpartition("-")[0] == one] for one in scenes
        ]
        table[water] = {"scenes": len(scenes), "pairs": len(pairs), "methods": summarise(rows, of_scene)}
        print(water, json.dumps(table[water], indent=1))
    return table


def load_pairs(folder: Path) -> Iterator[Pair]:
    """Pairs of a folder with ``input`` and ``gt``."""
    for path in sorted((folder / "input").glob("*.png")):
        yield Pair(path.stem, read_image(path), read_image(folder / "gt" / path.name), None)


def score(image: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """PSNR in dB, and SSIM."""
    return float(psnr(image, target, peak=1.0)), float(ssim(image, target, peak=1.0))


def summarise(rows: dict[str, list[tuple[float, float]]], of_scene: list[list[int]]) -> dict[str, object]:
    """Means with intervals, and what each method gains over the best of the others without a network."""
    rng = np.random.default_rng(0)
    means = {
        name: np.array([np.mean([row[n] for n in some], 0) for some in of_scene])
        for name, row in rows.items()
    }
    draws = rng.integers(0, len(of_scene), (2000, len(of_scene)))
    plain = max(("gray world", "stretch", "colour matrix"), key=lambda name: means[name][:, 0].mean())
    out = {}
    for name, values in means.items():
        gain = values[:, 0] - means[plain][:, 0]
        low, high = np.percentile(gain[draws].mean(1), (2.5, 97.5))
        first, last = np.percentile(values[:, 0][draws].mean(1), (2.5, 97.5))
        out[name] = {
            "psnr": round(float(values[:, 0].mean()), 2),
            "psnr_low": round(float(first), 2),
            "psnr_high": round(float(last), 2),
            "ssim": round(float(values[:, 1].mean()), 4),
            "gain": round(float(gain.mean()), 2),
            "gain_low": round(float(low), 2),
            "gain_high": round(float(high), 2),
            "better": round(float((gain > 0).mean()), 3),
            "beside": plain,
        }
    return out


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("collect", "make"):
        one = verbs.add_parser(verb)
        one.add_argument("source", type=Path)
        one.add_argument("target", type=Path)
    one = verbs.add_parser("judge")
    one.add_argument("data", type=Path)
    one.add_argument("--model", action="append", required=True)
    one.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.verb != "judge":
        {"collect": collect, "make": make}[asked.verb](asked.source, asked.target)
        return
    table = judge(asked.data, asked.model)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    )
    about = {"machine": machine(), "date": str(date.today()), "commit": commit.stdout.strip(), "threads": 1}
    if asked.out:
        asked.out.write_text(json.dumps({**about, "table": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
