"""Photographs as they would look under water, in pairs with the photographs, to test restoration on.

`phaseloom.restoration.pairs.water` says what a camera sees. The finer target is what the scene is cut at;
the target is the mean light of its 2 x 2 pixels, so no pixel of it was interpolated upwards. Colours and
haze are right; lamps, caustics, marine snow, multiple scattering and marine scenes are missing: good for
tests, not for a claim about measured data sets. With the pictures of scikit-image and 128 x 128 pixels,
inputs have a peak signal-to-noise ratio of 17 dB on average (10 to 25).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from phaseloom.errors import BadInput, MissingExtra
from phaseloom.files import fresh, whole
from phaseloom.metrics.colour import display, linear_light
from phaseloom.restoration.pairs.dead_leaves import leaves
from phaseloom.restoration.pairs.folders import Pair, channels
from phaseloom.restoration.pairs.images import SUFFIXES, picture, written
from phaseloom.restoration.pairs.water import (
    JERLOV,
    Camera,
    Water,
    range_map,
    recorded,
    seen,
    some_camera,
    some_water,
)

__all__ = ["Sight", "save", "sights", "split"]

Floats = NDArray[np.float64]
Side = Literal["train", "test"]

COLOURED = ("astronaut", "coffee", "chelsea", "rocket", "retina", "immunohistochemistry")
COLOURED += ("hubble_deep_field", "colorwheel")
GREY = ("brick", "grass", "gravel", "camera", "coins")
STEREO = "motorcycle"
"""Pictures that come with scikit-image; grey ones are tinted, the last has a measured range."""

INVENTED = "leaves"
"""What a scene that is no photograph is called, see `phaseloom.restoration.pairs.dead_leaves`."""

HELD_OUT = ("chelsea", "coffee", "gravel", STEREO)
"""Those that are for tests only."""


@dataclass(frozen=True, eq=False)
class Sight:
    """A pair, and how it came about.

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


@dataclass(frozen=True, eq=False)
class Scene:
    """Linear light ``(3, y, x)`` of a photograph, and its range ``(y, x)`` in metre if that was measured."""

    light: Floats
    ranges: Floats | None


def split(folder: Path | None = None, /, *, part: Side = "train", share: float = 0.25) -> tuple[str, ...]:
    """Names of the scenes of one side: no scene is on both.

    Args:
        folder: of photographs; default: the pictures that come with scikit-image.
        part: ``test`` are the scenes that are held out.
        share: of the photographs of a folder that are held out, the same ones whenever it is asked.

    Raises:
        BadInput: no such folder, fewer than two photographs in it, or a share that is none.

    Example:
        >>> split(part="test")
        ('chelsea', 'coffee', 'gravel', 'motorcycle')
    """
    if folder is None:
        rest = tuple(name for name in (*COLOURED, *GREY) if name not in HELD_OUT)
        return HELD_OUT if part == "test" else rest
    if not Path(folder).is_dir():
        raise BadInput("underwater: folder", str(folder), "is no folder: name one with photographs")
    names = [path.name for path in Path(folder).iterdir() if path.suffix.lower() in SUFFIXES]
    if len(names) < 2 or not 0 < share < 1:
        fix = f"with {len(names)} photographs cannot be parted: give two or more, and a share of 0 to 1"
        raise BadInput("underwater: folder", f"{folder} by {share}", fix)
    ranked = sorted(names, key=lambda name: hashlib.blake2b(name.encode()).digest())
    count = min(max(1, round(share * len(ranked))), len(ranked) - 1)
    return tuple(sorted(ranked[:count] if part == "test" else ranked[count:]))


def sights(
    count: int,
    /,
    *,
    size: int = 128,
    part: Side = "train",
    folder: Path | None = None,
    types: Sequence[str] = tuple(JERLOV),
    invented: float = 0.5,
    seed: int = 0,
) -> Iterator[Sight]:
    """Pairs, one after another; each follows from the seed, its side and its number alone.

    Args:
        count: of pairs, taken from the scenes in turn.
        size: pixels along an edge of input and target; the fine target has twice as many.
        part: which scenes, see `split`.
        folder: of photographs; default: those of scikit-image, good up to a size of 150.
        types: of water.
        invented: share of the pairs to learn from whose scene is no photograph but
        `phaseloom.restoration.pairs.dead_leaves`.
        seed: of all that is drawn.

    Raises:
        BadInput: photographs smaller than twice the size, or not in colour, or knobs that are no choice.
        MissingExtra: no folder is given, and scikit-image is not installed.
    """
    for knob, value, least in (("count", count, 0), ("size", size, 8), ("seed", seed, 0)):
        if value < least:
            raise BadInput(f"underwater: {knob}", value, f"must be {least} or more")
    if not 0 <= invented <= 1:
        raise BadInput("underwater: invented", invented, "must be a share of the pairs, 0 to 1")
    names = split(folder, part=part)
    for number in range(count):
        rng = np.random.default_rng((seed, part == "test", number))
        before = int(number * invented) if part == "train" else 0
        name = names[(number - before) % len(names)]
        if part == "train" and int((number + 1) * invented) > before:
            name = f"{INVENTED}{number:05d}"
        scene = _scene(name, folder, 2 * size, rng)
        fine, ranges = _cut(scene, size, rng, name)
        light = fine.reshape(3, size, 2, size, 2).mean((2, 4))
        water, limit = some_water(rng, size=size, types=types)
        ranges = range_map((size, size), rng) if ranges is None else ranges
        ranges = ranges * min(1.0, limit / float(np.percentile(ranges, 95)))
        through = seen(light, ranges, water)
        camera = some_camera(light, through, rng)
        targets = (display(image).astype(np.float32) for image in (light, fine))
        pair = Pair(f"{number:05d}_{Path(name).stem}", recorded(through, camera, rng), *targets)
        yield Sight(pair, name, ranges, water, camera)


def save(
    folder: Path,
    /,
    *,
    size: int = 128,
    train: int = 200,
    test: int = 40,
    photographs: Path | None = None,
    types: Sequence[str] = tuple(JERLOV),
    invented: float = 0.5,
    seed: int = 0,
) -> Path:
    """Write a data set as `phaseloom.restoration.pairs.folders` reads it, PNG of 8 bits, with ``meta.json``
    of all draws.

    Args:
        folder: new or empty.
        size: see `sights`.
        train: pairs to learn from.
        test: pairs of other scenes.
        photographs: folder to take scenes from; default: those of scikit-image.
        types: of water.
        invented: see `sights`.
        seed: of all that is drawn.

    Returns:
        ``meta.json``.

    Raises:
        BadInput: a folder that holds something, or what `sights` refuses.
    """
    folder = fresh(folder, "underwater: folder")
    told: dict[str, Any] = {"size": size, "seed": seed, "pairs": {}}
    counts: dict[Side, int] = {"train": train, "test": test}
    drawn: dict[str, Any] = {"size": size, "folder": photographs, "types": types, "seed": seed}
    for part, count in counts.items():
        for sight in sights(count, part=part, invented=invented, **drawn):
            pair, name = sight.pair, f"{sight.pair.name}.png"
            for place, image in {"input": pair.input, "gt": pair.target, "gt_hr": pair.fine}.items():
                written(folder / part / place / name, np.asarray(image))
            reach = [float(sight.ranges.min()), float(sight.ranges.max())]
            draws = {"scene": sight.scene, "range": reach, **asdict(sight.water), **asdict(sight.camera)}
            told["pairs"][f"{part}/{name}"] = draws
    with whole(folder / "meta.json") as path:
        path.write_text(json.dumps(told, indent=1), encoding="utf-8")
    return folder / "meta.json"


def _photograph(path: Path) -> Scene:
    values = picture(path)
    if len(values) != 3 or not (values.min() >= 0 and values.max() <= 1):
        given = f"{channels(len(values))} of {values.min():.3g} to {values.max():.3g}"
        fix = "is no photograph in colour, 0 to 1: convert it, or take it away"
        raise BadInput(f"underwater: {path.name}", given, fix)
    return Scene(linear_light(values), None)


@lru_cache(maxsize=16)
def _picture(name: str) -> Scene:
    """One of those that come with scikit-image."""
    data = _bundled()
    if name == STEREO:
        left, _, disparity = data.stereo_motorcycle()
        return Scene(_light(left), _ranges(disparity))
    image = getattr(data, name)()
    if image.ndim == 3:
        return Scene(_light(image[..., :3]), None)
    rng = np.random.default_rng(list(name.encode()))
    dark, bright = rng.uniform(0, 0.4, (3, 1, 1)), rng.uniform(0.6, 1, (3, 1, 1))
    return Scene(linear_light(dark + (bright - dark) * image / 255), None)


def _light(image: np.ndarray) -> Floats:
    return linear_light(np.moveaxis(image, -1, 0) / 255)


def _ranges(disparity: np.ndarray) -> Floats:
    """Metre from disparity in pixels by the calibration of the Middlebury stereo pair; gaps as their nearest.

    Source:
        Scharstein et al. 2014, doi 10.1007/978-3-319-11752-2_3.
    """
    from scipy.ndimage import distance_transform_edt

    places: Any = distance_transform_edt(~np.isfinite(disparity), return_distances=False, return_indices=True)
    return 0.193001 * 994.978 / (disparity[tuple(places)].astype(np.float64) + 31.086)


def _bundled() -> Any:
    try:
        from skimage import data
    except ImportError as problem:
        raise MissingExtra("underwater: scenes", "scikit-image", "restore") from problem
    return data


def _scene(name: str, folder: Path | None, size: int, rng: np.random.Generator) -> Scene:
    if name.startswith(INVENTED):
        return Scene(leaves(size, rng), None)
    return _picture(name) if folder is None else _photograph(Path(folder) / name)


def _cut(scene: Scene, size: int, rng: np.random.Generator, name: str) -> tuple[Floats, Floats | None]:
    """A square at random, made smaller to twice the size, and its range at the size."""
    height, width = scene.light.shape[1:]
    if min(height, width) < 2 * size:
        fix = f"is smaller than twice the size of {size}: take a smaller one, or larger photographs"
        raise BadInput(f"underwater: {name}", f"{height} x {width} pixels", fix)
    side = int(rng.integers(2 * size, min(height, width) + 1))
    y, x = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    step = -1 if rng.uniform() < 0.5 else 1

    def cut(image: Floats, edge: int) -> Floats:
        part = np.ascontiguousarray(image[:, y : y + side, x : x + side][..., ::step], np.float64)
        whole_part = torch.from_numpy(part)[None]
        return functional.interpolate(whole_part, size=(edge, edge), mode="bilinear", antialias=True)[
            0
        ].numpy()

    return cut(scene.light, 2 * size), None if scene.ranges is None else cut(scene.ranges[None], size)[0]
