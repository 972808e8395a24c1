"""Simulated pairs: photographs as they would look under water, and the photographs, to test restoration.

`phaseloom.restoration.pairs.water` is the model of image formation. Scenes are cut on the pixels of the fine
target; the target is the mean light of its 2 x 2 pixels, so nothing is interpolated upwards. Colours and haze
are right; lamps, caustics, marine snow, multiple scattering and marine scenes are missing: good for tests,
not for a claim about measured data sets. With the pictures of scikit-image and 128 x 128 pixels, inputs have
a mean peak signal-to-noise ratio of 17 dB (10 to 25).

Networks overfit the few photographs that come with packages, so half of the training scenes are dead leaves:
disks of all sizes and colours on top of one another, which have edges, occlusion and the statistics of
photographs at all scales, in any number (Lee, Mumford & Huang 2001, doi 10.1023/A:1011109015675).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from phaseloom.errors import BadInput, MissingExtra
from phaseloom.files import fresh, write_text
from phaseloom.metrics.colour import decode_srgb, encode_srgb
from phaseloom.restoration.pairs.folders import Pair, Side, format_channels
from phaseloom.restoration.pairs.images import SUFFIXES, read_image, write_image
from phaseloom.restoration.pairs.water import (
    WATER_TYPES,
    Camera,
    Water,
    add_water,
    draw_camera,
    draw_range_map,
    draw_water,
    record_image,
)

__all__ = ["UnderwaterPair", "draw_dead_leaves", "save_pairs", "simulate_pairs", "split_scenes"]

Floats = NDArray[np.float64]

COLOUR_PICTURES = ("astronaut", "coffee", "chelsea", "rocket", "retina", "immunohistochemistry")
COLOUR_PICTURES += ("hubble_deep_field", "colorwheel")
GREY_PICTURES = ("brick", "grass", "gravel", "camera", "coins")
STEREO_PICTURE = "motorcycle"
"""Pictures that come with scikit-image; grey ones are tinted, the last has a measured range."""

TEST_PICTURES = ("chelsea", "coffee", "gravel", STEREO_PICTURE)
"""Pictures for tests only."""

LEAVES_PREFIX = "leaves"
"""Beginning of the names of synthetic scenes."""

LEAF_RADII = (0.03, 0.4)
"""Smallest and largest disk, in parts of the image."""

# calibration of the Middlebury stereo pair (Scharstein et al. 2014, doi 10.1007/978-3-319-11752-2_3)
STEREO_BASELINE = 0.193001  # metre
STEREO_FOCAL_LENGTH = 994.978  # pixels
STEREO_OFFSET = 31.086  # pixels


@dataclass(frozen=True, eq=False)
class UnderwaterPair:
    """A simulated pair and its parameters.

    Attributes:
        pair: display values of 0 to 1, with the fine target.
        scene: that it was cut from.
        ranges: ``(y, x)`` metre.
        water: in between.
        camera: that recorded it.
    """

    pair: Pair
    scene: str
    ranges: Floats
    water: Water
    camera: Camera


def split_scenes(
    folder: Path | None = None, /, *, part: Side = "train", share: float = 0.25
) -> tuple[str, ...]:
    """Names of the scenes of one side; no scene is on both.

    Args:
        folder: of photographs; default: the pictures that come with scikit-image.
        part: ``train`` or ``test``.
        share: of the photographs of a folder for tests, always the same ones.

    Raises:
        BadInput: no such folder, fewer than two photographs in it, or a share out of range.

    Example:
        >>> split_scenes(part="test")
        ('chelsea', 'coffee', 'gravel', 'motorcycle')
    """
    if folder is None:
        rest = tuple(name for name in (*COLOUR_PICTURES, *GREY_PICTURES) if name not in TEST_PICTURES)
        return TEST_PICTURES if part == "test" else rest
    if not Path(folder).is_dir():
        raise BadInput("underwater: folder", str(folder), "is not a folder: name one with photographs")
    names = [path.name for path in Path(folder).iterdir() if path.suffix.lower() in SUFFIXES]
    if len(names) < 2 or not 0 < share < 1:
        fix = f"with {len(names)} photographs cannot be parted: give two or more, and a share of 0 to 1"
        raise BadInput("underwater: folder", f"{folder} by {share}", fix)
    # by a hash of the name, so that photographs stay on their side when others are added
    ranked = sorted(names, key=lambda name: hashlib.blake2b(name.encode()).digest())
    count = min(max(1, round(share * len(ranked))), len(ranked) - 1)
    return tuple(sorted(ranked[:count] if part == "test" else ranked[count:]))


def simulate_pairs(
    count: int,
    /,
    *,
    size: int = 128,
    part: Side = "train",
    folder: Path | None = None,
    types: Sequence[str] = tuple(WATER_TYPES),
    invented: float = 0.5,
    seed: int = 0,
) -> Iterator[UnderwaterPair]:
    """Pairs, one after another; each depends on the seed, its side and its number alone.

    Args:
        count: of pairs, taken from the scenes in turn.
        size: pixels along an edge of input and target; the fine target has twice as many.
        part: which scenes, see `split_scenes`.
        folder: of photographs; default: those of scikit-image, good up to a size of 150.
        types: of water.
        invented: share of the training pairs of synthetic scenes (`draw_dead_leaves`).
        seed: of all random numbers.

    Raises:
        BadInput: photographs smaller than twice the size, or not in colour, or knobs out of range.
        MissingExtra: scikit-image is not installed, and its pictures are needed.
    """
    for knob, value, least in (("count", count, 0), ("size", size, 8), ("seed", seed, 0)):
        if value < least:
            raise BadInput(f"underwater: {knob}", value, f"must be {least} or more")
    if not 0 <= invented <= 1:
        raise BadInput("underwater: invented", invented, "must be a share of the pairs, 0 to 1")
    names = split_scenes(folder, part=part)
    for number in range(count):
        rng = np.random.default_rng((seed, part == "test", number))
        synthetic = int(number * invented) if part == "train" else 0
        name = names[(number - synthetic) % len(names)]
        if part == "train" and int((number + 1) * invented) > synthetic:
            name = f"{LEAVES_PREFIX}{number:05d}"
        fine, ranges = _cut_square(*_load_scene(name, folder, 2 * size, rng), size, rng, name)
        light = fine.reshape(3, size, 2, size, 2).mean((2, 4))
        water, limit = draw_water(rng, size=size, types=types)
        ranges = draw_range_map((size, size), rng) if ranges is None else ranges
        ranges = ranges * min(1.0, limit / float(np.percentile(ranges, 95)))
        wet = add_water(light, ranges, water)
        camera = draw_camera(light, wet, rng)
        target, finer = (encode_srgb(image).astype(np.float32) for image in (light, fine))
        pair = Pair(f"{number:05d}_{Path(name).stem}", record_image(wet, camera, rng), target, finer)
        yield UnderwaterPair(pair, name, ranges, water, camera)


def save_pairs(
    folder: Path,
    /,
    *,
    size: int = 128,
    train: int = 200,
    test: int = 40,
    photographs: Path | None = None,
    types: Sequence[str] = tuple(WATER_TYPES),
    invented: float = 0.5,
    seed: int = 0,
) -> Path:
    """Write a data set as `phaseloom.restoration.pairs.folders` reads it, PNG of 8 bits, to a new folder.

    ``train`` and ``test`` are numbers of pairs; ``photographs`` is the folder of `simulate_pairs`, which
    explains the others.

    Returns:
        ``meta.json``, with the parameters of every pair.

    Raises:
        BadInput: a folder that is not empty, or what `simulate_pairs` refuses.
    """
    folder = fresh(folder, "underwater: folder")
    meta: dict[str, Any] = {"size": size, "seed": seed, "pairs": {}}
    counts: dict[Side, int] = {"train": train, "test": test}
    knobs: dict[str, Any] = {"size": size, "folder": photographs, "types": types, "seed": seed}
    for part, count in counts.items():
        for made in simulate_pairs(count, part=part, invented=invented, **knobs):
            name = f"{made.pair.name}.png"
            images = {"input": made.pair.input, "gt": made.pair.target, "gt_hr": made.pair.fine}
            for side, image in images.items():
                write_image(folder / part / side / name, np.asarray(image))
            reach = [float(made.ranges.min()), float(made.ranges.max())]
            parameters = {"scene": made.scene, "range": reach, **asdict(made.water), **asdict(made.camera)}
            meta["pairs"][f"{part}/{name}"] = parameters
    write_text(folder / "meta.json", json.dumps(meta, indent=1))
    return folder / "meta.json"


def draw_dead_leaves(size: int, rng: np.random.Generator, /, *, count: int = 400) -> Floats:
    """Linear light ``(3, size, size)`` of a synthetic scene, 0 to 1.

    Each disk has a colour, a shade across it and a grain; lightness and chroma vary about those of the scene.

    Args:
        size: pixels along an edge.
        rng: random generator.
        count: of disks, the last on top.

    Example:
        >>> scene = draw_dead_leaves(32, np.random.default_rng(0))
        >>> scene.shape, bool((scene >= 0).all() and (scene <= 1).all())
        ((3, 32, 32), True)
    """
    grain = rng.normal(size=(size, size))
    tone = rng.uniform(0.1, 0.5)
    cast = rng.normal(0, 0.15, 3)
    image = np.broadcast_to((tone * np.exp(cast))[:, None, None], (3, size, size)).copy()
    low, high = (radius**-2 for radius in LEAF_RADII)
    for _ in range(count):
        radius = (low + rng.uniform() * (high - low)) ** -0.5  # density of radii as r^-3
        centre = rng.uniform(-0.1, 1.1, 2)
        stretch = np.exp(rng.normal(0, 0.3))
        reach = radius * np.array([1 / stretch, stretch])
        first = np.maximum((size * (centre - reach)).astype(int), 0)
        last = np.maximum((size * (centre + reach)).astype(int) + 1, 0)
        box = (slice(first[0], last[0]), slice(first[1], last[1]))
        y, x = (np.arange(size)[part] / size - middle for part, middle in zip(box, centre, strict=True))
        dy, dx = np.meshgrid(y * stretch / radius, x / stretch / radius, indexing="ij")
        inside = dy**2 + dx**2 < 1
        light = np.clip(tone * np.exp(rng.normal(0, 0.8)), 0.005, 0.95)
        colour = light * np.exp(cast + rng.normal(0, 0.5, 3) * rng.uniform())
        slope = rng.normal(0, 0.2, 2)
        roughness = abs(rng.normal(0, 0.12))
        shade = 1 + slope[0] * dy + slope[1] * dx + roughness * grain[box]
        image[:, *box][:, inside] = (colour[:, None, None] * shade)[:, inside]
    return image.clip(0, 1)


def _load_scene(
    name: str, folder: Path | None, size: int, rng: np.random.Generator
) -> tuple[Floats, Floats | None]:
    """Linear light ``(3, y, x)`` of a scene, and its range ``(y, x)`` in metre if that was measured."""
    if name.startswith(LEAVES_PREFIX):
        return draw_dead_leaves(size, rng), None
    if folder is None:
        return _load_picture(name)
    values = read_image(Path(folder) / name)
    if len(values) != 3 or not (values.min() >= 0 and values.max() <= 1):
        given = f"{format_channels(len(values))} of {values.min():.3g} to {values.max():.3g}"
        fix = "is not a photograph in colour, 0 to 1: convert or remove it"
        raise BadInput(f"underwater: {name}", given, fix)
    return decode_srgb(values), None


@lru_cache(maxsize=16)
def _load_picture(name: str) -> tuple[Floats, Floats | None]:
    """A picture of scikit-image."""
    data = _import_pictures()
    if name == STEREO_PICTURE:
        left, _, disparity = data.stereo_motorcycle()
        return decode_srgb(np.moveaxis(left, -1, 0) / 255), _ranges_of(disparity)
    image = getattr(data, name)()
    if image.ndim == 3:
        return decode_srgb(np.moveaxis(image[..., :3], -1, 0) / 255), None
    rng = np.random.default_rng(list(name.encode()))
    dark = rng.uniform(0, 0.4, (3, 1, 1))
    bright = rng.uniform(0.6, 1, (3, 1, 1))
    return decode_srgb(dark + (bright - dark) * image / 255), None


def _ranges_of(disparity: np.ndarray) -> Floats:
    """Metre from disparity in pixels; gaps take the nearest value."""
    from scipy.ndimage import distance_transform_edt

    index: Any = distance_transform_edt(~np.isfinite(disparity), return_distances=False, return_indices=True)
    shifted = disparity[tuple(index)].astype(np.float64) + STEREO_OFFSET
    return STEREO_BASELINE * STEREO_FOCAL_LENGTH / shifted


def _import_pictures() -> Any:
    try:
        from skimage import data
    except ImportError as problem:
        raise MissingExtra("underwater: scenes", "scikit-image", "restore") from problem
    return data


def _cut_square(
    light: Floats, ranges: Floats | None, size: int, rng: np.random.Generator, name: str
) -> tuple[Floats, Floats | None]:
    """A random square, reduced to twice the size, and its range at the size."""
    height, width = light.shape[1:]
    if min(height, width) < 2 * size:
        fix = f"is smaller than twice the size of {size}: choose a smaller size, or larger photographs"
        raise BadInput(f"underwater: {name}", f"{height} x {width} pixels", fix)
    side = int(rng.integers(2 * size, min(height, width) + 1))
    y = int(rng.integers(height - side + 1))
    x = int(rng.integers(width - side + 1))
    step = -1 if rng.uniform() < 0.5 else 1

    def cut(image: Floats, edge: int) -> Floats:
        part = np.ascontiguousarray(image[:, y : y + side, x : x + side][..., ::step], np.float64)
        whole = torch.from_numpy(part)[None]
        small = functional.interpolate(whole, size=(edge, edge), mode="bilinear", antialias=True)
        return small[0].numpy()

    return cut(light, 2 * size), None if ranges is None else cut(ranges[None], size)[0]
